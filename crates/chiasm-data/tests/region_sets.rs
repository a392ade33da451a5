//! Sets of region features: written and read again, continued after a stop, and told from each other.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::path::{Path, PathBuf};

use chiasm_data::regions::{
    self, Form, RegionIdentity, RegionSet, RegionWriter, WriteConfig, list,
};
use chiasm_data::{DataError, OpenOptions, Rect, RegionSource, Regions, open};
use chiasm_format::numpy::Npz;
use chiasm_testkit::available;
use proptest::prelude::*;

const SAMPLE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../../shared/data/coco-region-features-sample"
);

fn config(set: RegionSet, form: Form) -> WriteConfig {
    WriteConfig {
        set,
        form,
        shard: 3,
        half: false,
        data: "some data".to_owned(),
    }
}

fn made(dim: usize) -> RegionSet {
    RegionSet {
        provider: "grid".to_owned(),
        settings: serde_json::json!({"regions": 36, "overlap": 0.7}),
        weights: [("vision".to_owned(), "ab".repeat(32))].into(),
        dim,
        objects: vec!["dog".to_owned(), "cat".to_owned()],
        attributes: Vec::new(),
    }
}

/// Regions of a picture of 100 by 50 pixels.
fn some(count: usize, dim: usize) -> Regions {
    let at = |index: usize| index as f32 / (count + 1) as f32;
    Regions {
        features: (0..count * dim)
            .map(|value| value as f32 * 0.37 - 1.0)
            .collect(),
        dim,
        boxes: (0..count)
            .map(|index| Rect {
                x1: (at(index) * 100.0) / 100.0,
                y1: 0.25,
                x2: 1.0,
                y2: 0.75,
            })
            .collect(),
        size: Some((100, 50)),
        classes: (0..count as i64).map(|class| class - 1).collect(),
        class_scores: (0..count).map(|index| at(index) * 0.5).collect(),
        attributes: vec![-1; count],
        attribute_scores: vec![0.0; count],
    }
}

fn write(folder: &Path, config: WriteConfig, all: &[(String, Regions)]) {
    let mut writer = RegionWriter::open(folder, config).unwrap();
    for (name, regions) in all {
        if !writer.contains(name) {
            writer.append(name, regions).unwrap();
        }
    }
    writer.finish().unwrap();
}

fn read_all(path: &Path) -> Vec<(String, Regions)> {
    let all = list(path).unwrap().into_iter();
    all.map(|(name, source)| (name, regions::read(&source).unwrap()))
        .collect()
}

/// The files of a folder and what is in them.
fn content(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut files: Vec<(PathBuf, Vec<u8>)> = entries
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            (
                PathBuf::from(path.file_name().unwrap()),
                std::fs::read(&path).unwrap(),
            )
        })
        .collect();
    files.sort();
    files
}

#[test]
fn what_is_written_is_read_whatever_the_form() {
    let counts = [0, 1, 100, 36];
    let names = [
        "plain",
        "photos/dog 1.jpg",
        "COCO_val2014_000000058350.jpg",
        "über.png",
    ];
    let all: Vec<(String, Regions)> = names
        .into_iter()
        .zip(counts)
        .map(|(name, count)| (name.to_owned(), some(count, 5)))
        .collect();
    for form in [Form::Shards, Form::Npz] {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("set");
        write(&folder, config(made(5), form), &all);
        let mut found = read_all(&folder);
        if form == Form::Npz {
            // Files come in the order of the alphabet.
            found.sort_by_key(|(name, _)| all.iter().position(|(other, _)| other == name));
        }
        assert_eq!(found.len(), 4);
        for ((name, regions), (expected_name, expected)) in found.iter().zip(&all) {
            assert_eq!(name, expected_name);
            let mut expected = expected.clone();
            if expected.is_empty() {
                // Nothing is said of regions that are not there.
                expected.classes.clear();
            }
            assert_eq!(*regions, expected, "{name} as {form:?}");
        }
        assert_eq!(RegionSet::look(&folder).unwrap(), made(5));
        assert_eq!(
            RegionSet::look(&folder.join("regions.json")).unwrap(),
            made(5)
        );
        assert_eq!(regions::find(&folder, "58350").unwrap().len(), 100);
        assert_eq!(regions::find(&folder, "dog 1").unwrap().len(), 1);
        let error = regions::find(&folder, "zebra").unwrap_err().to_string();
        assert!(
            error.contains("`zebra`") && error.contains("4 pictures"),
            "{error}"
        );
        // A finished set is opened again, and nothing changes.
        let before = content(&folder);
        write(&folder, config(made(5), form), &all);
        assert!(before == content(&folder), "{form:?}");
    }
}

#[test]
fn the_arrays_have_the_published_names() {
    let folder = tempfile::tempdir().unwrap();
    write(
        folder.path(),
        config(made(5), Form::Npz),
        &[("a.jpg".to_owned(), some(2, 5))],
    );
    let file = std::fs::File::open(folder.path().join("a.jpg.npz")).unwrap();
    let mut npz = Npz::open(file).unwrap();
    assert_eq!(
        npz.read("filename").unwrap().to_strings().unwrap(),
        ["a.jpg"]
    );
    for (name, value) in [("image_w", 100), ("image_h", 50), ("num_boxes", 2)] {
        let array = npz.read(name).unwrap();
        assert_eq!(
            (array.shape.len(), array.to_i64().unwrap()),
            (0, vec![value]),
            "{name}"
        );
    }
    let boxes = npz.read("boxes").unwrap();
    assert_eq!(boxes.shape, [2, 4]);
    let expected = [100.0 / 3.0, 12.5, 100.0, 37.5];
    let second = &boxes.to_f32().unwrap()[4..];
    let pairs = second.iter().zip(expected);
    assert!(
        pairs.into_iter().all(|(a, b)| (a - b).abs() < 1e-4),
        "{second:?}"
    );
    assert_eq!(npz.read("x").unwrap().shape, [2, 5]);
    assert_eq!(npz.read("objects_id").unwrap().to_i64().unwrap(), [-1, 0]);
    for name in ["objects_conf", "attrs_id", "attrs_conf"] {
        assert_eq!(npz.read(name).unwrap().shape, [2], "{name}");
    }
}

/// Intersection over union in pixels where a box covers its last one (`specs/tbkin.md` section 2.1).
fn overlap(a: &[f64; 4], b: &[f64; 4]) -> f64 {
    let area = |r: &[f64; 4]| (r[2] - r[0] + 1.0) * (r[3] - r[1] + 1.0);
    let side = |from: usize, to: usize| (a[to].min(b[to]) - a[from].max(b[from]) + 1.0).max(0.0);
    let common = side(0, 2) * side(1, 3);
    common / (area(a) + area(b) - common)
}

/// `specs/tbkin.md` section 8.3, on what comes back from shards.
#[test]
fn the_coco_sample_goes_through_a_set_unchanged() {
    let source = Path::new(SAMPLE).join("features");
    if !available(&source) {
        return;
    }
    let original = read_all(&source);
    let folder = tempfile::tempdir().unwrap();
    let set = RegionSet::look(&source).unwrap();
    assert_eq!((set.provider.as_str(), set.dim), ("files", 2048));
    write(folder.path(), config(set.clone(), Form::Shards), &original);
    let found = read_all(folder.path());
    assert!(found == original, "the regions changed");
    assert_eq!(
        RegionSet::look(folder.path()).unwrap().identity(),
        set.identity()
    );

    let table = [
        ("58350", [245, 109, 70, 6], 0.6933, 42447.56),
        ("124629", [196, 84, 45, 6], 0.6018, 38023.89),
        ("268556", [199, 81, 51, 5], 0.6969, 35423.60),
        ("399879", [245, 95, 54, 3], 0.6156, 41499.72),
        ("409241", [180, 70, 37, 3], 0.6685, 40351.96),
        ("437564", [225, 83, 48, 9], 0.6165, 47781.12),
        ("504810", [268, 137, 76, 10], 0.6668, 43006.88),
        ("562150", [256, 103, 54, 4], 0.6975, 47433.31),
    ];
    for (name, counts, largest, sum) in table {
        let regions = regions::find(folder.path(), name).unwrap();
        let (width, height) = regions.size.unwrap();
        let (width, height) = (f64::from(width), f64::from(height));
        let boxes: Vec<[f64; 4]> = regions
            .boxes
            .iter()
            .map(|rect| [rect.x1, rect.y1, rect.x2, rect.y2].map(f64::from))
            .map(|[x1, y1, x2, y2]| [x1 * width, y1 * height, x2 * width, y2 * height])
            .collect();
        let overlaps: Vec<f64> = boxes
            .iter()
            .enumerate()
            .flat_map(|(at, a)| boxes[at + 1..].iter().map(move |b| overlap(a, b)))
            .collect();
        let above = |limit: f64| overlaps.iter().filter(|overlap| **overlap > limit).count();
        assert_eq!([0.0, 0.1, 0.2, 0.5].map(above), counts, "{name}");
        let most = overlaps.iter().copied().fold(0.0, f64::max);
        assert!((most - largest).abs() < 1e-4, "{name}: {most}");
        let total: f64 = regions.features.iter().copied().map(f64::from).sum();
        assert!((total - sum).abs() < 0.01, "{name}: {total}");
    }
}

#[test]
fn halves_are_half_as_large() {
    let all = [("a".to_owned(), some(36, 64))];
    let size = |half: bool| {
        let folder = tempfile::tempdir().unwrap();
        let config = WriteConfig {
            half,
            ..config(made(64), Form::Npz)
        };
        write(folder.path(), config, &all);
        let read = regions::find(folder.path(), "a").unwrap();
        let pairs = read.features.iter().zip(&all[0].1.features);
        let furthest = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(furthest <= if half { 0.5 } else { 0.0 }, "{furthest}");
        std::fs::metadata(folder.path().join("a.npz"))
            .unwrap()
            .len()
    };
    assert_eq!(size(false) - size(true), 36 * 64 * 2);
}

#[test]
fn a_set_attaches_to_a_data_set() {
    let folder = tempfile::tempdir().unwrap();
    let table = folder.path().join("pairs.csv");
    std::fs::write(
        &table,
        "image,text\nphotos/one.jpg,a\ntwo.jpg,b\nthree.jpg,c\n",
    )
    .unwrap();
    let set = folder.path().join("set");
    let all = ["photos/one.jpg", "two.jpg"].map(|name| (name.to_owned(), some(4, 5)));
    write(&set, config(made(5), Form::Shards), &all);
    let options = OpenOptions {
        regions: Some(set.clone()),
        ..OpenOptions::default()
    };
    let opened = open(&table, &options).unwrap();
    assert_eq!((opened.dataset.len(), opened.quarantine.len()), (2, 1));
    assert_eq!(opened.quarantine.entries[0].id, "three.jpg");
    let source = opened.dataset.samples[0].annotations.regions.as_ref();
    assert_eq!(regions::read(source.unwrap()).unwrap(), some(4, 5));
}

#[test]
fn features_of_another_making_are_refused() {
    let found = made(5);
    let path = Path::new("features/set");
    found.require(&found.identity(), path).unwrap();
    let refused = |expected: RegionIdentity, reason: &str, fix: &str| {
        let error = found.require(&expected, path).unwrap_err();
        assert!(error.to_string().contains(reason), "{error}");
        assert!(error.to_string().contains("features/set"), "{error}");
        let hint = error.hint().unwrap();
        assert!(hint.contains(fix), "{hint}");
    };
    let with = |change: fn(&mut RegionSet)| {
        let mut set = made(5);
        change(&mut set);
        set.identity()
    };
    refused(
        with(|set| set.dim = 2048),
        "have 5 dimensions, the model expects 2048",
        "chiasm regions extract DATA --provider grid",
    );
    refused(
        RegionSet::of_files(5).identity(),
        "of the provider `grid`, the model was trained on those of `files`",
        "`--regions`",
    );
    refused(
        with(|set| set.settings["regions"] = 100.into()),
        "other weights or settings",
        "chiasm regions extract",
    );
    refused(
        with(|set| {
            set.weights.insert("vision".to_owned(), "cd".repeat(32));
        }),
        "other weights or settings",
        "chiasm regions extract",
    );
    // What a manifest says is what was made, whatever the order of keys.
    let text = serde_json::to_string(&found).unwrap();
    let read: RegionSet = serde_json::from_str(&text).unwrap();
    assert_eq!(read.hash(), found.hash());
}

#[test]
fn what_could_not_be_read_back_is_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = RegionWriter::open(folder.path(), config(made(5), Form::Shards)).unwrap();
    let with = |change: fn(&mut Regions)| {
        let mut regions = some(3, 5);
        change(&mut regions);
        regions
    };
    for (regions, reason) in [
        (some(3, 6), "6 dimensions"),
        (some(1001, 5), "1000"),
        (with(|regions| regions.features[4] = f32::NAN), "not finite"),
        (with(|regions| regions.features.truncate(14)), "14 numbers"),
        (with(|regions| regions.classes.truncate(2)), "objects_id"),
    ] {
        let error = writer.append("a", &regions).unwrap_err();
        assert!(error.to_string().contains(reason), "{error}");
    }
    writer.append("a", &some(3, 5)).unwrap();
    assert!(writer.append("a", &some(3, 5)).is_err(), "twice");
    drop(writer);
    let half = WriteConfig {
        half: true,
        ..config(made(1), Form::Npz)
    };
    let mut writer = RegionWriter::open(&folder.path().join("half"), half).unwrap();
    let mut large = some(1, 1);
    large.features[0] = 1e6;
    let error = writer.append("a", &large).unwrap_err();
    assert!(error.to_string().contains("65504"), "{error}");
}

#[test]
fn sets_that_are_damaged_or_unfinished_are_refused() {
    let all: Vec<(String, Regions)> = (0..5).map(|at| (format!("p{at}"), some(2, 5))).collect();
    let written = || {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), config(made(5), Form::Shards), &all);
        folder
    };
    let refused = |folder: &Path, reason: &str| {
        let error = list(folder).unwrap_err();
        assert!(error.to_string().contains(reason), "{reason}: {error}");
        error
    };

    let folder = written();
    let last = folder.path().join("regions-000001.tar");
    let bytes = std::fs::read(&last).unwrap();
    std::fs::write(&last, &bytes[..bytes.len() - 512]).unwrap();
    assert!(refused(folder.path(), "the manifest says").hint().is_some());
    std::fs::remove_file(&last).unwrap();
    refused(folder.path(), "regions-000001.tar");

    // A flipped bit of a feature has the right length: its archive notices, and so does who compares hashes.
    let folder = written();
    let first = folder.path().join("regions-000000.tar");
    let mut bytes = std::fs::read(&first).unwrap();
    let feature = (-1.0f32).to_le_bytes();
    let at = bytes
        .windows(4)
        .position(|window| window == feature)
        .unwrap();
    bytes[at + 1] ^= 1;
    std::fs::write(&first, bytes).unwrap();
    let (_, source) = &list(folder.path()).unwrap()[0];
    assert!(regions::read(source).is_err());
    let manifest = regions::manifest(folder.path()).unwrap().unwrap();
    let error = regions::verify(folder.path(), &manifest).unwrap_err();
    assert!(error.to_string().contains("hash"), "{error}");

    // A manifest of something else.
    let folder = written();
    std::fs::write(folder.path().join("regions.json"), "{}").unwrap();
    refused(folder.path(), "regions.json");
    let text = r#"{"format":1,"samples":0,"options":{"name":"regions","max_bytes":1,"max_samples":1,"settings":{}},"shards":[]}"#;
    std::fs::write(folder.path().join("regions.json"), text).unwrap();
    let error = RegionSet::look(folder.path()).unwrap_err();
    assert!(
        error.to_string().contains("what made the features"),
        "{error}"
    );

    // Begun, and never finished.
    let folder = tempfile::tempdir().unwrap();
    let mut writer = RegionWriter::open(folder.path(), config(made(5), Form::Shards)).unwrap();
    for (name, regions) in &all {
        writer.append(name, regions).unwrap();
    }
    drop(writer);
    assert!(refused(folder.path(), "not finished").hint().is_some());

    // With other settings it is not continued.
    let other = WriteConfig {
        data: "other data".to_owned(),
        ..config(made(5), Form::Shards)
    };
    let error = RegionWriter::open(folder.path(), other).err().unwrap();
    assert!(
        matches!(error, DataError::Shard(_)) && error.hint().is_some(),
        "{error}"
    );
    write(folder.path(), config(made(5), Form::Shards), &all);
    assert!(content(folder.path()) == content(written().path()));
}

#[test]
fn sources_in_memory_are_regions_too() {
    let folder = tempfile::tempdir().unwrap();
    write(
        folder.path(),
        config(made(5), Form::Npz),
        &[("a".to_owned(), some(2, 5))],
    );
    let bytes = std::fs::read(folder.path().join("a.npz")).unwrap();
    let source = RegionSource::Npz(chiasm_data::ImageSource::Bytes(bytes.into()));
    assert_eq!(regions::read(&source).unwrap(), some(2, 5));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn damaged_shards_are_read_or_refused(at in 0usize..20_000, byte: u8) {
        let folder = tempfile::tempdir().unwrap();
        let all: Vec<(String, Regions)> = (0..2).map(|at| (format!("p{at}"), some(3, 5))).collect();
        write(folder.path(), config(made(5), Form::Shards), &all);
        let path = folder.path().join("regions-000000.tar");
        let mut bytes = std::fs::read(&path).unwrap();
        let at = at % bytes.len();
        bytes[at] = byte;
        std::fs::write(&path, bytes).unwrap();
        if let Ok(found) = list(folder.path()) {
            for (_, source) in found {
                if let Ok(regions) = regions::read(&source) {
                    prop_assert_eq!(regions.features.len(), regions.len() * regions.dim);
                }
            }
        }
    }
}
