//! From one's own table to a trained model, in two commands.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use chiasm_data::builtin;
use serde_json::Value;

use crate::common::{fail, succeed};

/// Sixty drawings in `bilder/`, twelve posts of five; one post has a picture of another.
fn exported(dir: &Path) -> Vec<(String, String)> {
    std::fs::create_dir(dir.join("bilder")).unwrap();
    let samples = builtin::emoji().unwrap().samples;
    let mut rows = Vec::new();
    for (index, sample) in samples.iter().step_by(61).take(60).enumerate() {
        let name = format!("post{}_{}.png", index / 5 + 10, index % 5 + 1);
        let source = if index == 59 { &samples[0] } else { sample };
        let bytes = source.visual.sources()[0].read().unwrap();
        std::fs::write(dir.join("bilder").join(&name), bytes).unwrap();
        rows.push((name, format!("{} seen here", sample.texts[0])));
    }
    rows
}

#[test]
fn a_table_with_odd_columns_becomes_a_run() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let mut table = String::from("Nr;Bildpfad;Beschreibung\n");
    for (number, (name, text)) in exported(dir).iter().enumerate() {
        table.push_str(&format!("{number};{name};\"{text}\"\n"));
    }
    table.push_str("60;gone.png;a picture that is not there\n");
    std::fs::write(dir.join("meine.csv"), &table).unwrap();

    let printed = succeed(dir, &["new", "--from", "meine.csv"]);
    for expected in [
        "image: `Bildpfad`, 61 of its first 61 cells name pictures",
        "text: `Beschreibung`",
        "pictures    in",
        "60 of 61 samples",
        "gone.png",
        "same bytes 2",
        "numbered ids 60",
        "next:\n  chiasm pretrain meine/recipe.toml",
    ] {
        assert!(printed.contains(expected), "{expected}:\n{printed}");
    }
    assert_eq!(
        std::fs::read_to_string(dir.join("meine.csv")).unwrap(),
        table,
        "the table stays as it is"
    );

    // No post is on two sides, nor are the two that share a picture; all three sides are there.
    let splits = std::fs::read_to_string(dir.join("meine/splits.csv")).unwrap();
    let mut sides: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in splits.lines().skip(1) {
        let cells: Vec<&str> = line.split(',').collect();
        let post = cells[0]
            .split('_')
            .next()
            .unwrap()
            .replace("post21", "post10");
        sides.entry(post).or_default().insert(cells[1].to_owned());
    }
    assert_eq!(sides.len(), 11);
    assert!(sides.values().all(|sides| sides.len() == 1), "{splits}");
    let all: BTreeSet<&String> = sides.values().flatten().collect();
    assert_eq!(all.len(), 3, "{splits}");

    let refused = fail(dir, &["new", "--from", "meine.csv"]);
    assert!(refused.contains("--out"), "{refused}");
    // The next command, from another folder than the one where the recipe was written.
    let elsewhere = tempfile::tempdir().unwrap();
    let recipe = dir.join("meine/recipe.toml");
    let score: Value = serde_json::from_str(&succeed(
        elsewhere.path(),
        &[
            "pretrain",
            recipe.to_str().unwrap(),
            "--steps",
            "4",
            "--json",
        ],
    ))
    .unwrap();
    assert_eq!(score["training_overlap"]["marked"], false, "{score}");
    assert!(elsewhere.path().join("runs/meine/report.html").exists());
}

#[test]
fn folders_and_tables_with_splits() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let rows = exported(dir);
    let mut table = String::from("image,caption,split\n");
    for (index, (name, text)) in rows.iter().enumerate() {
        std::fs::write(dir.join("bilder").join(name).with_extension("txt"), text).unwrap();
        let split = ["train", "train", "train", "val", "test"][index % 5];
        table.push_str(&format!("bilder/{name},\"{text}\",{split}\n"));
    }
    std::fs::write(dir.join("pairs.csv"), table).unwrap();
    let json = |args: &[&str]| -> Value {
        serde_json::from_str(&succeed(dir, &[args, &["--json"]].concat())).unwrap()
    };
    let folder = json(&["new", "--from", "bilder", "--out", "a"]);
    assert_eq!(
        (&folder["format"], &folder["usable"]),
        (&"folder".into(), &60.into())
    );
    assert!(folder["splits_file"].is_string());

    // The last test picture is the first training picture: said, and parted on request.
    let own = succeed(dir, &["new", "--from", "pairs.csv", "--out", "b"]);
    for expected in ["the data's own", "1 of 24 held-out pictures", "--resplit"] {
        assert!(own.contains(expected), "{expected}:\n{own}");
    }
    assert!(!dir.join("b/splits.csv").exists());
    let new = json(&["new", "--from", "pairs.csv", "--out", "c", "--resplit"]);
    assert!(new["splits_file"].is_string());
    for out in ["a", "b", "c"] {
        succeed(dir, &["recipe", "show", &format!("{out}/recipe.toml")]);
    }
}

#[test]
fn data_without_pictures_or_texts_is_refused_with_a_way_on() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    std::fs::write(dir.join("numbers.csv"), "a,b\n1,2\n3,4\n").unwrap();
    let lost = "image,caption\nx.png,one thing\ny.png,two things\n";
    std::fs::write(dir.join("lost.csv"), lost).unwrap();
    for (source, expected) in [
        ("numbers.csv", "--image-column"),
        ("lost.csv", "--image-root"),
        ("missing.csv", "missing.csv"),
    ] {
        let message = fail(dir, &["new", "--from", source]);
        assert!(message.contains(expected), "{source}: {message}");
    }
}
