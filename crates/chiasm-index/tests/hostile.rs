//! Folders that are damaged, crafted, or of another model: an error or the committed state, never a panic.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is the failed test")]

mod common;

use std::fs;
use std::path::Path;

use chiasm_index::{GraphChoice, Identity, Index, IndexError, Search, Writer};
use common::{clustered, content, fill, model, record};
use proptest::prelude::*;

const FILES: [&str; 5] = [
    "vectors-000001.f32",
    "rows-000001.bin",
    "records-000001.jsonl",
    "removed-000001.bin",
    "index.json",
];

/// Twelve records of which one is replaced and one removed, in two commits.
fn small(folder: &Path) -> Index {
    let mut writer = fill(folder, &clustered(5, 12, 5), 5);
    writer.commit().unwrap();
    writer.upsert(&record("k3", "new"), &[1.0; 5]).unwrap();
    writer.remove("k5").unwrap();
    writer.finish(GraphChoice::Build).unwrap()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// Whatever a folder holds: nothing panics, and what `verify` passes is the content that was committed.
fn assert_safe(folder: &Path, committed: &[(chiasm_index::Record, Vec<u32>)], at: &str) {
    if let Ok(index) = Index::open(folder) {
        let verified = index.verify().is_ok();
        for row in 0..index.rows() + 1 {
            let _ = (index.record(row), index.vector(row));
        }
        let _ = index.row_of("k7");
        for exact in [true, false] {
            let _ = index.search_all(
                &[1.0; 5],
                &Search {
                    exact,
                    breadth: 1,
                    ..Search::top(20)
                },
            );
        }
        if verified {
            assert_eq!(content(&index), committed, "{at}");
        }
    }
    if let Ok(mut writer) = Writer::open(folder, &model(5)) {
        writer.upsert(&record("later", "d"), &[1.0; 5]).unwrap();
        let _ = writer.compact();
        let _ = writer.finish(GraphChoice::Build);
    }
}

#[test]
fn every_file_cut_anywhere_is_an_error() {
    let (good, bad) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let committed = content(&small(good.path()));
    copy(good.path(), bad.path());
    for file in FILES {
        let bytes = fs::read(good.path().join(file)).unwrap();
        let path = bad.path().join(file);
        for len in (0..bytes.len()).step_by(7).chain([bytes.len() - 1]) {
            // The line feed at the end of the manifest says nothing.
            if file == "index.json" && len == bytes.len() - 1 {
                continue;
            }
            fs::write(&path, &bytes[..len]).unwrap();
            let error = Index::open(bad.path()).unwrap_err();
            assert!(
                matches!(error, IndexError::Damaged { .. }),
                "{file} {len}: {error}"
            );
            assert!(
                error.to_string().contains(file) && error.hint().is_some(),
                "{error}"
            );
            assert!(Writer::open(bad.path(), &model(5)).is_err());
        }
        fs::remove_file(&path).unwrap();
        assert!(Index::open(bad.path()).is_err(), "{file} removed");
        assert!(Writer::open(bad.path(), &model(5)).is_err());
        fs::write(&path, &bytes).unwrap();
    }
    assert_eq!(content(&Index::open(bad.path()).unwrap()), committed);
}

#[test]
fn every_flipped_byte_is_noticed() {
    let (good, bad) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let committed = content(&small(good.path()));
    copy(good.path(), bad.path());
    for file in FILES.into_iter().chain(["graph-000001.bin"]) {
        let bytes = fs::read(good.path().join(file)).unwrap();
        let path = bad.path().join(file);
        for at in (0..bytes.len()).step_by(if file == "index.json" { 1 } else { 3 }) {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << (at % 8);
            fs::write(&path, damaged).unwrap();
            let found = Index::open(bad.path()).and_then(|index| {
                index.verify()?;
                Ok((content(&index), index.graph_rows()))
            });
            // White space of the manifest, and bytes between the graph's numbers, mean nothing.
            if let Ok((content, graph)) = found {
                assert_eq!(content, committed, "{file} {at}");
                let of_no_use = file == "graph-000001.bin" && graph.is_none();
                assert!(
                    file == "index.json" || of_no_use,
                    "{file} {at} was not noticed"
                );
            }
        }
        fs::write(&path, &bytes).unwrap();
    }
}

#[test]
fn a_tail_that_was_not_committed_is_cut_off() {
    let folder = tempfile::tempdir().unwrap();
    let committed = content(&small(folder.path()));
    for tail in [1, 63, 64, 1000] {
        for file in &FILES[..4] {
            let path = folder.path().join(file);
            let mut bytes = fs::read(&path).unwrap();
            bytes.extend(vec![0xa5; tail]);
            fs::write(&path, bytes).unwrap();
        }
        fs::write(folder.path().join(".index.json.1.partial"), b"{").unwrap();
        fs::write(folder.path().join("rows-000002.bin"), b"half a compaction").unwrap();
        let reader = Index::open(folder.path()).unwrap();
        assert_eq!(content(&reader), committed);
        let writer = Writer::open(folder.path(), &model(5)).unwrap();
        let index = writer.finish(GraphChoice::Keep).unwrap();
        index.verify().unwrap();
        reader.verify().unwrap();
        assert_eq!(content(&index), committed);
        assert!(!folder.path().join("rows-000002.bin").exists());
        assert!(!folder.path().join(".index.json.1.partial").exists());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn no_damage_makes_it_panic(
        file in 0_usize..6, at in 0_usize..2000, bytes in proptest::collection::vec(any::<u8>(), 0..40), cut: bool,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let committed = content(&small(folder.path()));
        let file = FILES.get(file).unwrap_or(&"graph-000001.bin");
        let path = folder.path().join(file);
        let mut content = fs::read(&path).unwrap();
        let at = at % content.len();
        let end = (at + bytes.len()).min(content.len());
        content.splice(at..end, bytes);
        if cut {
            content.truncate(at);
        }
        fs::write(&path, content).unwrap();
        assert_safe(folder.path(), &committed, file);
    }
}

#[test]
fn another_models_index_is_refused_with_a_way_out() {
    let folder = tempfile::tempdir().unwrap();
    drop(small(folder.path()));
    for asked in [
        Identity {
            fingerprint: "other".to_owned(),
            ..model(5)
        },
        Identity {
            width: 6,
            ..model(5)
        },
    ] {
        for error in [
            Writer::open(folder.path(), &asked).err().unwrap(),
            Index::open_for(folder.path(), &asked).unwrap_err(),
        ] {
            let text = error.to_string();
            assert!(
                text.contains("5eed, width 5") && text.contains(&asked.fingerprint),
                "{text}"
            );
            assert!(error.hint().unwrap().contains("new index"));
        }
    }
    // A model that was only renamed is the same.
    let renamed = Identity {
        model: "new name".to_owned(),
        ..model(5)
    };
    Index::open_for(folder.path(), &renamed).unwrap();
    // Files of another index do not fit.
    let other = tempfile::tempdir().unwrap();
    let of = Identity {
        fingerprint: "other".to_owned(),
        ..model(5)
    };
    drop(Index::create(other.path(), of).unwrap());
    fs::copy(folder.path().join(FILES[0]), other.path().join(FILES[0])).unwrap();
    assert!(matches!(
        Index::open(other.path()),
        Err(IndexError::Damaged { .. })
    ));
}

#[test]
fn what_is_no_index_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing");
    for path in [folder.path(), &missing, Path::new("Cargo.toml")] {
        let error = Index::open(path).unwrap_err();
        assert!(matches!(error, IndexError::NoIndex { .. }), "{error}");
        assert!(error.hint().unwrap().contains("chiasm index"));
        assert!(Writer::open(path, &model(3)).is_err());
    }
    assert_eq!(
        fs::read_dir(folder.path()).unwrap().count(),
        0,
        "nothing was left there"
    );
    for identity in [
        model(0),
        model(1 << 20),
        Identity {
            fingerprint: String::new(),
            ..model(2)
        },
    ] {
        assert!(matches!(
            Index::create(&missing, identity),
            Err(IndexError::Identity { .. })
        ));
    }
    drop(Index::create(&missing, model(3)).unwrap());
    let again = Index::create(&missing, model(3)).err().unwrap();
    assert!(matches!(again, IndexError::Exists { .. }), "{again}");
    let later = fs::read_to_string(missing.join("index.json")).unwrap();
    fs::write(
        missing.join("index.json"),
        later.replace("\"format\": 1", "\"format\": 2"),
    )
    .unwrap();
    assert!(matches!(
        Index::open(&missing),
        Err(IndexError::Format { found: 2, .. })
    ));
    // Rows whose manifest is gone are not written over.
    drop(small(&folder.path().join("lost")));
    fs::remove_file(folder.path().join("lost/index.json")).unwrap();
    assert!(matches!(
        Index::create(&folder.path().join("lost"), model(5)),
        Err(IndexError::Damaged { .. })
    ));
}

#[test]
fn records_that_cannot_be_kept_are_refused_and_leave_the_writer_usable() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = Index::create(folder.path(), model(2)).unwrap();
    let long = "k".repeat(5000);
    for (key, vector, reason) in [
        ("", &[1.0, 0.0][..], "a key has"),
        (&long, &[1.0, 0.0], "a key has"),
        ("a", &[1.0], "1 numbers"),
        ("a", &[1.0, f32::NAN], "number 1"),
        ("a", &[0.0, 0.0], "length 0"),
    ] {
        let error = writer.upsert(&record(key, "d"), vector).unwrap_err();
        assert!(error.to_string().contains(reason), "{error}");
    }
    writer
        .upsert(&record("a\n\u{0}é", "d"), &[3.0, 4.0])
        .unwrap();
    let index = writer.finish(GraphChoice::Auto).unwrap();
    assert_eq!(index.vector(0), Some(&[0.6, 0.8][..]));
    assert_eq!(index.record(0).unwrap(), record("a\n\u{0}é", "d"));
}

#[test]
fn two_writers_do_not_meet_and_readers_do_not_mind() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = Index::create(folder.path(), model(2)).unwrap();
    let error = Writer::open(folder.path(), &model(2)).err().unwrap();
    assert!(matches!(error, IndexError::Busy { .. }), "{error}");
    assert!(error.hint().unwrap().contains("wait"));
    let before = Index::open(folder.path()).unwrap();
    first.upsert(&record("a", "d"), &[1.0, 0.0]).unwrap();
    assert!(
        Index::open(folder.path()).unwrap().is_empty(),
        "not committed"
    );
    first.commit().unwrap();
    assert_eq!(
        (before.len(), Index::open(folder.path()).unwrap().len()),
        (0, 1)
    );
    drop(first);
    Writer::open(folder.path(), &model(2)).unwrap();
}
