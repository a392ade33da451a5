//! Region features: the sample of COCO, tables of base64 cells, and attaching both to other data sets.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::io::Write as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chiasm_data::{DataError, OpenOptions, Opened, RegionSource, Regions, open, regions};
use chiasm_testkit::available;

const SAMPLE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../../shared/data/coco-region-features-sample"
);

fn regions_of(opened: &Opened, at: usize) -> Result<Regions, DataError> {
    regions::read(
        opened.dataset.samples[at]
            .annotations
            .regions
            .as_ref()
            .unwrap(),
    )
}

#[test]
fn the_coco_sample_is_a_data_set() {
    let folder = Path::new(SAMPLE);
    if !available(folder) {
        return;
    }
    for path in [folder.to_owned(), folder.join("features")] {
        let opened = open(&path, &OpenOptions::default()).unwrap();
        assert_eq!((opened.dataset.len(), opened.quarantine.len()), (8, 0));
        let texts: usize = opened
            .dataset
            .samples
            .iter()
            .map(|sample| sample.texts.len())
            .sum();
        assert_eq!(texts, 40);
        let first = &opened.dataset.samples[0];
        assert_eq!(first.id, "COCO_val2014_000000058350.jpg");
        assert!(first.visual.path().unwrap().is_file());
        for at in 0..8 {
            let regions = regions_of(&opened, at).unwrap();
            assert_eq!(
                (regions.len(), regions.dim, regions.features.len()),
                (36, 2048, 36 * 2048)
            );
        }
        let regions = regions_of(&opened, 0).unwrap();
        assert_eq!(regions.size, Some((640, 480)));
        // Of NumPy: x[0, 0], x[35, 2047] and boxes[0] / (640, 480).
        assert_eq!(regions.features[0], 0.803_663_85);
        assert!((regions.boxes[0].x1 - 323.287_93 / 640.0).abs() < 1e-6);
        assert!(regions.features.iter().all(|value| *value >= 0.0));
    }
}

/// A `.npy` of f32.
fn npy(shape: &[usize], values: &[f32]) -> Vec<u8> {
    let shape: Vec<String> = shape.iter().map(ToString::to_string).collect();
    let tuple = match shape.as_slice() {
        [one] => format!("({one},)"),
        several => format!("({})", several.join(", ")),
    };
    let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {tuple}, }}\n");
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend_from_slice(&(header.len() as u16).to_le_bytes());
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    bytes
}

fn npz(path: &Path, arrays: &[(&str, Vec<u8>)]) {
    let mut archive = zip::ZipWriter::new(std::fs::File::create(path).unwrap());
    for (name, bytes) in arrays {
        let options = zip::write::SimpleFileOptions::default();
        archive.start_file(format!("{name}.npy"), options).unwrap();
        archive.write_all(bytes).unwrap();
    }
    archive.finish().unwrap();
}

type Arrays = Vec<(&'static str, Vec<u8>)>;

fn arrays(count: usize, dim: usize) -> Arrays {
    let corners: Vec<f32> = (0..count).flat_map(|_| [10.0, 20.0, 30.0, 50.0]).collect();
    vec![
        ("x", npy(&[count, dim], &vec![0.5; count * dim])),
        ("boxes", npy(&[count, 4], &corners)),
        ("image_w", npy(&[], &[100.0])),
        ("image_h", npy(&[], &[200.0])),
    ]
}

/// A table of three pictures, and where to find features for it.
fn table(folder: &Path) -> PathBuf {
    let path = folder.join("pairs.csv");
    let rows =
        "image,text\nphotos/one.jpg,first\nCOCO_val2014_000000000042.jpg,second\nthree.png,third\n";
    std::fs::write(&path, rows).unwrap();
    path
}

fn attached(path: &Path, regions: &Path) -> Result<Opened, DataError> {
    let options = OpenOptions {
        regions: Some(regions.to_owned()),
        ..OpenOptions::default()
    };
    open(path, &options)
}

#[test]
fn archives_attach_to_any_data_set_by_name_and_number() {
    let folder = tempfile::tempdir().unwrap();
    let features = folder.path().join("npz");
    std::fs::create_dir(&features).unwrap();
    npz(&features.join("one.npz"), &arrays(3, 5));
    npz(&features.join("42.npz"), &arrays(2, 5));
    npz(&features.join("three.png.npz"), &arrays(4, 5));
    let opened = attached(&table(folder.path()), &features).unwrap();
    assert_eq!((opened.dataset.len(), opened.quarantine.len()), (3, 0));
    let counts: Vec<usize> = (0..3)
        .map(|at| regions_of(&opened, at).unwrap().len())
        .collect();
    assert_eq!(counts, [3, 2, 4]);
    let regions = regions_of(&opened, 0).unwrap();
    assert_eq!((regions.boxes[0].x1, regions.boxes[0].y2), (0.1, 0.25));

    // Another detector's features among them.
    npz(&features.join("three.png.npz"), &arrays(4, 6));
    let error = attached(&table(folder.path()), &features).unwrap_err();
    let text = error.to_string();
    for part in ["6 dimensions", "have 5", "three.png.npz", "one.npz"] {
        assert!(text.contains(part), "{text}");
    }
    assert!(error.hint().is_some());

    // A missing and a damaged one cost their samples only.
    std::fs::remove_file(features.join("42.npz")).unwrap();
    std::fs::write(features.join("three.png.npz"), b"PK nothing").unwrap();
    let opened = attached(&table(folder.path()), &features).unwrap();
    assert_eq!((opened.dataset.len(), opened.quarantine.len()), (1, 2));
    assert!(
        opened.quarantine.entries[0]
            .reason
            .contains("no region features")
    );
    assert!(
        opened.quarantine.entries[1]
            .reason
            .contains("three.png.npz")
    );

    // Features of other pictures.
    let other = folder.path().join("other");
    std::fs::create_dir(&other).unwrap();
    assert!(
        attached(&table(folder.path()), &other).is_err(),
        "an empty folder"
    );
    npz(&other.join("zebra_42.npz"), &arrays(1, 5));
    let error = attached(&table(folder.path()), &other).unwrap_err();
    assert!(error.to_string().contains("none of the samples"), "{error}");
}

#[test]
fn archives_that_do_not_fit_together_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("one.npz");
    let with = |name: &'static str, bytes: Vec<u8>| {
        let mut all = arrays(3, 5);
        all.retain(|(known, _)| *known != name);
        all.push((name, bytes));
        all
    };
    let without = |name: &str| {
        arrays(3, 5)
            .into_iter()
            .filter(|(known, _)| *known != name)
            .collect()
    };
    let cases: Vec<(Arrays, &str)> = vec![
        (without("x"), "no array `x`"),
        (without("boxes"), "no array `boxes`"),
        (without("image_w"), "size is not said"),
        (with("x", npy(&[3, 5], &[f32::NAN; 15])), "not finite"),
        (with("x", npy(&[4, 5], &[0.0; 20])), "not [n, d] and [n, 4]"),
        (with("x", npy(&[15], &[0.0; 15])), "not [n, d] and [n, 4]"),
        (
            with("boxes", npy(&[4, 3], &[0.0; 12])),
            "not [n, d] and [n, 4]",
        ),
        (
            with("boxes", npy(&[3, 4], &[f32::INFINITY; 12])),
            "not finite",
        ),
        (
            with(
                "boxes",
                npy(
                    &[3, 4],
                    &[9.0, 9.0, 2.0, 9.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0],
                ),
            ),
            "box 0",
        ),
        (with("image_h", npy(&[], &[0.0])), "no side of a picture"),
        (
            with("image_h", npy(&[2], &[3.0, 4.0])),
            "no side of a picture",
        ),
        (
            with("objects_id", npy(&[3], &[1.0; 3])),
            "not 3 whole numbers",
        ),
        (with("objects_conf", npy(&[2], &[1.0; 2])), "not 3 numbers"),
        (
            vec![
                ("x", npy(&[2000, 1], &[0.0; 2000])),
                ("boxes", npy(&[2000, 4], &[0.0; 8000])),
            ],
            "more than 1000",
        ),
    ];
    for (arrays, reason) in cases {
        npz(&path, &arrays);
        let error = regions::read(&RegionSource::Npz(chiasm_data::ImageSource::Path(
            path.clone(),
        )));
        let text = error.unwrap_err().to_string();
        assert!(
            text.contains(reason) && text.contains("one.npz"),
            "{reason}: {text}"
        );
    }
    // The dimension as first axis, as some published archives have it.
    let mut turned = arrays(3, 5);
    turned[0].1 = npy(
        &[5, 3],
        &(0..15).map(|value| value as f32).collect::<Vec<_>>(),
    );
    npz(&path, &turned);
    let regions = regions::read(&RegionSource::Npz(chiasm_data::ImageSource::Path(path))).unwrap();
    assert_eq!((regions.len(), regions.dim), (3, 5));
    assert_eq!(regions.features[..6], [0.0, 3.0, 6.0, 9.0, 12.0, 1.0]);
}

fn cell(values: &[f32]) -> String {
    STANDARD.encode(
        values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect::<Vec<u8>>(),
    )
}

#[test]
fn tables_attach_with_and_without_their_index() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("features.tsv");
    let (mut text, mut index) = (String::new(), String::new());
    for (id, count) in [("one", 2), ("42", 3), ("three.png", 1)] {
        index += &format!("{}\n", text.len());
        let boxes: Vec<f32> = (0..count).flat_map(|_| [10.0, 20.0, 30.0, 50.0]).collect();
        let features = vec![0.25; count * 7];
        text += &format!(
            "{id}\t100\t200\t{count}\t{}\t{}\n",
            cell(&boxes),
            cell(&features)
        );
    }
    std::fs::write(&path, &text).unwrap();
    for with_index in [false, true] {
        if with_index {
            std::fs::write(path.with_extension("lineidx"), &index).unwrap();
        }
        let opened = attached(&table(folder.path()), &path).unwrap();
        let found: Vec<(usize, usize)> = (0..3)
            .map(|at| regions_of(&opened, at).unwrap())
            .map(|regions| (regions.len(), regions.dim))
            .collect();
        assert_eq!(found, [(2, 7), (3, 7), (1, 7)], "index: {with_index}");
        let regions = regions_of(&opened, 1).unwrap();
        assert_eq!(
            (regions.size, regions.boxes[2].y2),
            (Some((100, 200)), 0.25)
        );
    }
    // An index of another table.
    std::fs::write(path.with_extension("lineidx"), "0\n20\n40\n").unwrap();
    let error = attached(&table(folder.path()), &path).unwrap_err();
    assert!(error.to_string().contains("features"), "{error}");
    std::fs::write(path.with_extension("lineidx"), "0\n99999999\n").unwrap();
    let error = attached(&table(folder.path()), &path).unwrap_err();
    assert!(error.hint().unwrap().contains("indexed anew"), "{error}");
}
