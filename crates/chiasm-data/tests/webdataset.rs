//! WebDataset shards through the public entry point: real sets with their counts, what a sample is, and
//! shards that are damaged or not what they seem.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::path::{Path, PathBuf};

use chiasm_data::{Clip, DataError, Limits, OpenOptions, Opened, Split, Visual, check, open};
use chiasm_testkit::available;
use proptest::prelude::*;

const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data");

fn read(path: impl AsRef<Path>) -> Result<Opened, DataError> {
    open(path.as_ref(), &OpenOptions::default())
}

/// A tar of these members.
fn tar(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, *bytes).unwrap();
    }
    builder.into_inner().unwrap()
}

fn write(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

fn read_tar(members: &[(&str, &[u8])]) -> Result<Opened, DataError> {
    let folder = tempfile::tempdir().unwrap();
    read(write(folder.path(), "set.tar", &tar(members)))
}

fn reasons(opened: &Opened) -> Vec<String> {
    let entries = opened.quarantine.entries.iter();
    entries
        .map(|entry| format!("{} {}: {}", entry.location, entry.id, entry.reason))
        .collect()
}

#[test]
fn coco_captions_are_read_whole() {
    let folder = Path::new(DATA).join("coco-captions-wds");
    if !available(&folder) {
        return;
    }
    let opened = read(&folder).unwrap();
    assert_eq!((opened.dataset.len(), opened.quarantine.len()), (4000, 0));
    assert_eq!(opened.dataset.name, "coco-captions-wds");
    let first = &opened.dataset.samples[0];
    assert_eq!(first.id, "27143");
    assert_eq!(first.texts, ["a large bus is driving down the street"]);
    let objects: Vec<&str> = first
        .annotations
        .objects
        .iter()
        .map(|object| object.category.as_str())
        .collect();
    assert_eq!(objects, ["8", "1", "3", "6"]);
    assert_eq!(first.origin.place.unwrap().to_string(), "byte 0");
    let bytes = first.visual.sources()[0].read().unwrap();
    assert_eq!((bytes.len(), &bytes[..3]), (6106, &b"\xFF\xD8\xFF"[..]));
    assert!(opened.dataset.counts().len() == 3, "no shard says a split");

    let report = check(&opened.dataset, &Limits::default(), &|_| {});
    assert_eq!((report.good.len(), report.quarantine.len()), (4000, 0));

    for pattern in ["shard-{00000..00001}.tar", "*.tar", "shard-0000?.tar"] {
        let same = read(folder.join(pattern)).unwrap();
        assert_eq!(
            same.dataset.fingerprint(),
            opened.dataset.fingerprint(),
            "{pattern}"
        );
    }
    assert_eq!(
        read(folder.join("shard-00000.tar")).unwrap().dataset.len(),
        2000
    );
}

#[test]
fn msrvtt_frames_are_clips_with_splits() {
    let folder = Path::new(DATA).join("msrvtt-frames");
    if !available(&folder) {
        return;
    }
    let opened = read(&folder).unwrap();
    assert_eq!((opened.dataset.len(), opened.quarantine.len()), (1676, 0));
    let counts = opened.dataset.counts();
    assert_eq!(
        (counts[&Split::Train].images, counts[&Split::Test].images),
        (1200, 476)
    );
    let clip = |id: &str| {
        let sample = opened
            .dataset
            .samples
            .iter()
            .find(|sample| sample.id == id)
            .unwrap();
        assert!(matches!(sample.visual, Visual::Clip(Clip::Frames(_))));
        sample.visual.sources().len()
    };
    assert_eq!((clip("video7020"), clip("video7021")), (4, 2));
    let frames: usize = opened
        .dataset
        .samples
        .iter()
        .map(|sample| sample.visual.sources().len())
        .sum();
    assert!((2 * 1676..=4 * 1676).contains(&frames), "{frames}");
    let report = check(&opened.dataset, &Limits::default(), &|_| {});
    assert_eq!((report.good.len(), report.quarantine.len()), (1676, 0));
}

#[test]
fn members_of_a_key_are_a_sample_wherever_they_lie() {
    let opened = read_tar(&[
        ("x/b.jpg", b"picture"),
        ("x/a.010.png", b"ten"),
        ("x/b.TXT", "  one text\nof two lines ".as_bytes()),
        ("x/a.9.png", b"nine"),
        ("x/a.json", br#"{"captions": ["first", "second"], "split": "val", "labels": ["dog", 3, "dog"], "label": 7}"#),
        ("x/b.seg.png", b"not the picture"),
        ("x/.hidden.jpg", b""),
        ("README", b"no key"),
        ("x/b.cls", b"5\n"),
    ])
    .unwrap();
    assert!(opened.quarantine.is_empty(), "{:?}", reasons(&opened));
    let [b, a] = opened.dataset.samples.as_slice() else {
        panic!("{:?}", opened.dataset);
    };
    assert_eq!(
        (b.id.as_str(), b.texts.as_slice()),
        ("x/b", &["one text\nof two lines".to_owned()][..])
    );
    assert_eq!(*b.visual.sources()[0].read().unwrap(), *b"picture");
    assert_eq!(b.annotations.label.as_deref(), Some("5"));
    assert_eq!(b.split, Split::by_hash("x/b"));
    assert_eq!((a.split, a.texts.len()), (Split::Val, 2));
    assert_eq!(a.annotations.label.as_deref(), Some("7"));
    let objects = &a.annotations.objects;
    assert_eq!(
        (
            objects.len(),
            objects[0].category.as_str(),
            objects[1].category.as_str()
        ),
        (2, "dog", "3")
    );
    let frames: Vec<Vec<u8>> = a
        .visual
        .sources()
        .iter()
        .map(|frame| frame.read().unwrap().into_owned())
        .collect();
    assert_eq!(
        frames,
        [b"nine".to_vec(), b"ten".to_vec()],
        "by number, not by name"
    );
}

#[test]
fn samples_that_cannot_be_used_say_why() {
    let huge = vec![b'a'; (1 << 20) + 1];
    let members: &[(&str, &[u8], &str)] = &[
        ("a.txt", b"text", "no picture among its members (.txt)"),
        ("b.jpg", b"x", "no text"),
        ("c.mp4", b"x", "a video (`.mp4`)"),
        ("d.txt", b"\xFF\xFE", "not UTF-8"),
        ("e.json", b"{\"caption\": ", "its `.json`: EOF"),
        ("f.txt", &huge, "more than the cap 1048576"),
        ("g.npy", b"x", "no picture among its members (.npy)"),
    ];
    let mut all: Vec<(&str, &[u8])> = vec![("ok.jpg", b"x"), ("ok.txt", b"fine")];
    all.extend(members.iter().map(|(name, bytes, _)| (*name, *bytes)));
    all.extend([
        ("d.jpg", &b"x"[..]),
        ("h.jpg", b"x"),
        ("h.txt", b"one"),
        ("h.txt", b"two"),
        ("i.jpg", b"x"),
        ("i.json", br#"{"caption": "x", "split": "trian"}"#),
        ("j.jpg", b"x"),
        ("j.json", br#"[1, "no object"]"#),
        ("k.jpg", b"x"),
        ("k.json", br#"{"caption": {"en": "x"}}"#),
        ("l.jpg", b"x"),
        ("l.txt", b" \n "),
    ]);
    let opened = read_tar(&all).unwrap();
    assert_eq!(opened.dataset.len(), 1);
    let reasons = reasons(&opened);
    for (name, _, reason) in members {
        let key = format!(" {}: ", name.split('.').next().unwrap());
        assert!(
            reasons
                .iter()
                .any(|found| found.contains(&key) && found.contains(reason)),
            "{name}: {reasons:#?}"
        );
    }
    for expected in ["two members `.txt`", "`trian` is not a split", "empty text"] {
        assert!(
            reasons.iter().any(|found| found.contains(expected)),
            "{expected}: {reasons:#?}"
        );
    }
    assert_eq!(reasons.len(), 12, "{reasons:#?}");
    assert!(
        reasons.iter().all(|reason| reason.starts_with("byte ")),
        "{reasons:#?}"
    );
}

#[test]
fn samples_before_damage_are_kept() {
    let mut bytes = tar(&[
        ("a.jpg", b"x"),
        ("a.txt", b"one"),
        ("b.jpg", b"x"),
        ("b.txt", b"two"),
        ("c.jpg", b"x"),
        ("c.txt", b"three"),
    ]);
    // The header of `c.jpg`: each member takes two blocks.
    bytes[4 * 1024 + 20] ^= 1;
    let folder = tempfile::tempdir().unwrap();
    let opened = read(write(folder.path(), "set.tar", &bytes)).unwrap();
    assert_eq!(opened.dataset.len(), 2);
    assert_eq!(
        reasons(&opened),
        ["byte 4096 : damaged at byte 4096: the checksum of the header does not fit"]
    );

    let opened = read(write(folder.path(), "set.tar", &bytes[..3000])).unwrap();
    assert_eq!(opened.dataset.len(), 1);
    let entries = &opened.quarantine.entries;
    assert!(
        entries.iter().any(|entry| entry.location == "byte 2048"),
        "{entries:?}"
    );

    // The last clip may have lost frames, the one before has not.
    let clips = tar(&[
        ("a.txt", b"one"),
        ("a.000.jpg", b"x"),
        ("b.txt", b"two"),
        ("b.000.jpg", b"x"),
        ("b.001.jpg", b"x"),
    ]);
    let opened = read(write(folder.path(), "set.tar", &clips[..4 * 1024 + 300])).unwrap();
    assert_eq!(opened.dataset.len(), 1);
    assert!(
        reasons(&opened)[0].contains("frames may be missing"),
        "{:?}",
        reasons(&opened)
    );
}

#[test]
fn compressed_and_other_archives_are_refused_with_the_way_out() {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes, reason) in [
        (
            "set.tar.gz",
            &b"\x1F\x8B\x08\x00"[..],
            "compressed (gzip); decompress it first",
        ),
        (
            "set.tgz",
            &[b"\x1F\x8B\x08\x00", [0; 600].as_slice()].concat(),
            "compressed (gzip)",
        ),
        ("set.tar", &[0x50; 600], "no tar header"),
        ("set.tar", b"", "ends within a header"),
    ] {
        let error = read(write(folder.path(), name, bytes)).unwrap_err();
        let hint = error.hint().unwrap();
        assert!(matches!(error, DataError::Empty { .. }), "{name}: {error}");
        assert!(hint.contains(reason), "{name}: {hint}");
    }
}

#[test]
fn shards_name_splits_and_keys_may_repeat_between_them() {
    let folder = tempfile::tempdir().unwrap();
    let shard = |text: &str| tar(&[("000.jpg", text.as_bytes()), ("000.txt", text.as_bytes())]);
    for name in ["train-00000", "train-00001", "coco_val2014-0", "test"] {
        write(folder.path(), &format!("{name}.tar"), &shard(name));
    }
    // What img2dataset leaves beside its shards.
    write(folder.path(), "train-00000.parquet", b"PAR1");
    write(folder.path(), "train-00000_stats.json", b"{}");
    write(folder.path(), ".train-00002.tar.partial", b"half");
    let opened = read(folder.path()).unwrap();
    let found: Vec<(&str, Split, &str)> = opened
        .dataset
        .samples
        .iter()
        .map(|sample| (sample.id.as_str(), sample.split, sample.texts[0].as_str()))
        .collect();
    assert_eq!(
        found,
        [
            ("000", Split::Val, "coco_val2014-0"),
            ("test/000", Split::Test, "test"),
            ("train-00000/000", Split::Train, "train-00000"),
            ("train-00001/000", Split::Train, "train-00001"),
        ]
    );
    for sample in &opened.dataset.samples {
        assert_eq!(
            *sample.visual.sources()[0].read().unwrap(),
            *sample.texts[0].as_bytes()
        );
    }
    let pattern = read(folder.path().join("train-{00000..00001}.tar")).unwrap();
    assert_eq!(
        (pattern.dataset.len(), pattern.dataset.name.as_str()),
        (2, "train")
    );

    let missing = read(folder.path().join("train-{00000..00003}.tar")).unwrap_err();
    assert!(
        missing.to_string().contains("2 of the 4 files"),
        "{missing}"
    );
    assert!(missing.hint().unwrap().contains("in quotes"));
    let nothing = read(folder.path().join("dev-*.tar")).unwrap_err();
    assert!(nothing.to_string().contains("no file matches"), "{nothing}");
    let mixed = read(folder.path().join("train-00000*")).unwrap_err();
    // Each file is read as what it is, and the one that is nothing is named.
    assert!(mixed.to_string().contains("train-00000.parquet"), "{mixed}");
}

#[test]
fn an_archive_beside_pictures_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "photo.jpg", b"x");
    write(folder.path(), "photo.txt", b"from the folder");
    write(
        folder.path(),
        "all.tar",
        &tar(&[("a.jpg", b"x"), ("a.txt", b"from the tar")]),
    );
    write(folder.path(), "photo.npz", b"PK");
    let opened = read(folder.path()).unwrap();
    assert_eq!(opened.dataset.samples[0].texts, ["from the folder"]);
    let options = OpenOptions {
        format: Some("webdataset".to_owned()),
        ..OpenOptions::default()
    };
    let asked = open(folder.path(), &options).unwrap();
    assert_eq!(asked.dataset.samples[0].texts, ["from the tar"]);
}

/// More shards than are held open.
#[test]
fn many_shards_are_read_on_demand() {
    let folder = tempfile::tempdir().unwrap();
    for number in 0..140 {
        let text = format!("text {number}");
        let name = format!("{number:03}");
        let bytes = tar(&[
            (&format!("{name}.jpg"), text.as_bytes()),
            (&format!("{name}.txt"), text.as_bytes()),
        ]);
        write(folder.path(), &format!("shard-{name}.tar"), &bytes);
    }
    let opened = read(folder.path()).unwrap();
    assert_eq!(opened.dataset.len(), 140);
    for sample in &opened.dataset.samples {
        assert_eq!(
            *sample.visual.sources()[0].read().unwrap(),
            *sample.texts[0].as_bytes()
        );
    }
}

/// What `ShardWriter` writes, this reads.
#[test]
fn written_shards_are_read_back() {
    use chiasm_format::shard::{ShardOptions, ShardWriter};
    let folder = tempfile::tempdir().unwrap();
    let options = ShardOptions {
        max_samples: 3,
        ..ShardOptions::new("val", "test".into())
    };
    let mut writer = ShardWriter::open(folder.path(), options).unwrap();
    for number in 0..10 {
        let text = format!("text {number}");
        writer
            .append(
                &format!("clip{number}"),
                &[
                    ("000.jpg", b"x"),
                    ("001.jpg", b"y"),
                    ("txt", text.as_bytes()),
                ],
            )
            .unwrap();
    }
    let manifest = writer.finish().unwrap();
    let opened = read(folder.path()).unwrap();
    assert_eq!((opened.dataset.len(), manifest.samples), (10, 10));
    assert!(opened.quarantine.is_empty());
    assert!(
        opened
            .dataset
            .samples
            .iter()
            .all(|sample| sample.split == Split::Val)
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever happens to a shard: an answer, and every picture that is listed can be read.
    #[test]
    fn damaged_shards_never_panic(
        flips in prop::collection::vec((0usize..8192, any::<u8>()), 0..12),
        cut in 0usize..9000,
    ) {
        let mut bytes = tar(&[
            ("a.jpg", b"x"),
            ("a.txt", b"one"),
            ("b.000.jpg", &[1; 700]),
            ("b.json", br#"{"caption": "two", "labels": [1]}"#),
        ]);
        for (at, value) in flips {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        bytes.truncate(cut);
        let folder = tempfile::tempdir().unwrap();
        if let Ok(opened) = read(write(folder.path(), "set.tar", &bytes)) {
            for sample in &opened.dataset.samples {
                for source in sample.visual.sources() {
                    prop_assert!(source.read().is_ok());
                }
            }
        }
    }
}
