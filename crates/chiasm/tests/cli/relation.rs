//! Probes and relations through the binary.

use std::path::Path;

use chiasm_format::numpy::Npy;
use serde_json::Value;

use crate::common::{fail, succeed, with_column, workspace};

const NAMES: [&str; 4] = ["neither", "adds", "represented", "both"];

/// `labelled.csv`: the pairs with a relation each, which their numbers tell.
fn labelled(dir: &Path, label: impl Fn(usize) -> &'static str) {
    with_column(dir, "labelled.csv", "label", label);
}

fn relation(number: usize) -> &'static str {
    NAMES[number * 7 / 5 % 4]
}

/// A row for each pair that tells one fact of its relation.
fn features(dir: &Path, name: &str, count: usize, fact: impl Fn(usize) -> usize) {
    let values: Vec<f32> = (0..count)
        .flat_map(|number| {
            let tv = NAMES
                .iter()
                .position(|name| *name == relation(number))
                .unwrap();
            let noise = (number * 37 % 101) as f32 / 101.0;
            [fact(tv) as f32 + 0.2 * noise, noise, 1.0]
        })
        .collect();
    let bytes = Npy::from_f32(&[count, 3], &values).to_bytes();
    std::fs::write(dir.join(name), bytes).unwrap();
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn protocol<'a>(report: &'a Value, name: &str, features: &str) -> &'a Value {
    let mut all = report["protocols"].as_array().unwrap().iter();
    let own =
        |own: &&Value| own["protocol"]["name"] == name && own["protocol"]["features"] == features;
    all.find(own).unwrap()
}

#[test]
fn given_features_are_probed_without_pictures() {
    let (dir, _) = workspace(120);
    let dir = dir.path();
    labelled(dir, relation);
    features(dir, "text.npy", 120, |tv| tv / 2);
    features(dir, "image.npy", 120, |tv| tv % 2);
    // No picture is looked at.
    std::fs::remove_dir_all(dir.join("photos")).unwrap();
    let given = [
        "--text-features",
        "text.npy",
        "--image-features",
        "image.npy",
        "--data",
        "labelled.csv",
    ];
    let report = json(&succeed(
        dir,
        &[
            &["probe"],
            &given[..],
            &["--out", "relation.json", "--c", "auto", "--json"],
        ]
        .concat(),
    ));
    let both = &protocol(&report, "linear", "text + image")["classes"]["weighted_f1"]["value"];
    assert!(both.as_f64().unwrap() > 0.95, "{both}");
    let text = protocol(&report, "linear", "text");
    assert!(text["t"]["weighted_f1"]["value"].as_f64().unwrap() > 0.95);
    assert!(text["v"]["weighted_f1"]["value"].as_f64().unwrap() < 0.9);
    assert_eq!(report["pairs"], 24);

    // The file alone gives the same figures.
    let again = json(&succeed(
        dir,
        &["score", "predictions-probe-test.jsonl", "--json"],
    ));
    assert_eq!(again["protocols"], report["protocols"]);
    let table = succeed(dir, &["score", "predictions-probe-test.jsonl"]);
    assert!(
        table.contains("two questions") && table.contains("majority"),
        "{table}"
    );

    // Nobody knows whose features they were.
    let error = fail(
        dir,
        &["relate", "a.png", "a text", "--model", "relation.json"],
    );
    assert!(error.contains("encoder is not known"), "{error}");

    // Rows with a feature that is no number are left out and counted.
    let mut values: Vec<f32> = vec![0.5; 360];
    values[3] = f32::NAN;
    let bytes = Npy::from_f32(&[120, 3], &values).to_bytes();
    std::fs::write(dir.join("text.npy"), bytes).unwrap();
    let output = crate::common::run(dir, &[&["probe"], &given[..]].concat());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.success() && said.contains("1 pairs have features"),
        "{said}"
    );
}

#[test]
fn what_cannot_be_probed_is_said() {
    let (dir, _) = workspace(40);
    let dir = dir.path();
    labelled(dir, relation);
    features(dir, "text.npy", 39, |tv| tv / 2);
    let probe = |data: &str, more: &[&str]| {
        fail(
            dir,
            &[
                &["probe", "--text-features", "text.npy", "--data", data],
                more,
            ]
            .concat(),
        )
    };
    let error = probe("labelled.csv", &[]);
    assert!(
        error.contains("39 rows of features for 40 pairs"),
        "{error}"
    );
    features(dir, "text.npy", 40, |tv| tv / 2);
    let error = probe("pairs.csv", &[]);
    assert!(error.contains("has a label"), "{error}");
    let error = probe("labelled.csv", &["--c", "0"]);
    assert!(error.contains("not a number above 0"), "{error}");
    let error = probe("labelled.csv", &["--precision", "2"]);
    assert!(error.contains("not a share"), "{error}");
    let error = probe("labelled.csv", &["--split", "train"]);
    assert!(error.contains("cannot be scored"), "{error}");
    let error = probe("labelled.csv", &["--train-splits", "train,test"]);
    assert!(error.contains("fitted on the split"), "{error}");
    let error = probe("labelled.csv", &["--neighbours", "0"]);
    assert!(error.contains("neighbours = 0"), "{error}");
    labelled(dir, |_| "adds");
    let error = probe("labelled.csv", &[]);
    assert!(error.contains("all rows are of class 1"), "{error}");
    std::fs::write(dir.join("broken.json"), "{}").unwrap();
    let error = fail(dir, &["relate", "a.png", "text", "--model", "broken.json"]);
    assert!(error.contains("broken.json"), "{error}");
}

#[test]
fn a_run_is_probed_and_its_relations_are_said() {
    let (dir, _) = workspace(60);
    let dir = dir.path();
    // Classes of the data's own.
    labelled(dir, |number| ["person", "thing"][number % 2]);
    succeed(
        dir,
        &[
            "pretrain",
            "tiny.toml",
            "--data",
            "pairs.csv",
            "--out",
            "run",
        ],
    );
    let report = json(&succeed(
        dir,
        &[
            "probe",
            "run",
            "--data",
            "labelled.csv",
            "--out",
            "relation.json",
            "--precision",
            "0.1",
            "--json",
        ],
    ));
    assert_eq!(report["relations"], false);
    assert!(dir.join("run/predictions-probe-test.jsonl").is_file());
    assert!(report["cosine"].is_array());

    // Embedded first, the same is found.
    succeed(
        dir,
        &[
            "embed",
            "run",
            "--data",
            "labelled.csv",
            "--out",
            "features.safetensors",
        ],
    );
    let given = json(&succeed(
        dir,
        &[
            "probe",
            "--features",
            "features.safetensors",
            "--data",
            "labelled.csv",
            "--json",
        ],
    ));
    let value = |report: &Value| {
        let own = protocol(report, "linear", "text + image");
        own["classes"]["weighted_f1"]["value"].as_f64().unwrap()
    };
    assert!((value(&report) - value(&given)).abs() < 1e-9);

    let relate = [
        "relate",
        "photos/4.png",
        "a drawing",
        "--model",
        "relation.json",
        "--json",
    ];
    let said = json(&succeed(dir, &relate));
    let probabilities = said["probabilities"].as_array().unwrap().iter();
    let sum: f64 = probabilities
        .map(|own| own["probability"].as_f64().unwrap())
        .sum();
    assert!((sum - 1.0).abs() < 1e-9);
    assert!(said["relation"].is_string(), "{said}");
    assert!((-1.0..=1.0).contains(&said["alignment"].as_f64().unwrap()));
    assert_eq!(said["text_represented"], Value::Null);

    let evidence = ["--evidence", "evidence.png"];
    let said = json(&succeed(dir, &[&relate[..], &evidence].concat()));
    let (map, words) = (&said["evidence"]["map"], &said["evidence"]["words"]);
    assert_eq!(map.as_array().unwrap().len(), 64);
    assert_eq!(
        (&words[0]["text"], &words[1]["text"]),
        (&"a".into(), &"drawing".into())
    );
    let drawn = std::fs::read(dir.join("evidence.png")).unwrap();
    assert!(drawn.starts_with(b"\x89PNG"));

    let summary = json(&succeed(
        dir,
        &[
            "relate",
            "--data",
            "labelled.csv",
            "--model",
            "relation.json",
            "--json",
        ],
    ));
    assert_eq!(summary["pairs"], 60);
    let lines = std::fs::read_to_string(dir.join("relations.jsonl")).unwrap();
    assert_eq!(lines.lines().count(), 60);
    assert!(
        lines
            .lines()
            .all(|line| json(line)["confidence"].is_number())
    );

    // The same probabilities choose pairs.
    let curate = |class: &[&'static str]| {
        let call = ["curate", "pairs.csv", "--relation", "relation.json"];
        let rules = ["--keep", "score>=0", "--out", "chosen"];
        [&call[..], &rules[..], class].concat()
    };
    let error = fail(dir, &curate(&[]));
    assert!(
        error.contains("no relations") && error.contains("`person`, `thing`"),
        "{error}"
    );
    let error = fail(dir, &curate(&["--class", "place"]));
    assert!(error.contains("no class `place`"), "{error}");
    succeed(dir, &curate(&["--class", "thing"]));
    let kept = std::fs::read_to_string(dir.join("chosen/kept.csv")).unwrap();
    let scores = kept
        .lines()
        .skip(1)
        .map(|line| line.rsplit(',').next().unwrap());
    let scores: Vec<f64> = scores.map(|score| score.parse().unwrap()).collect();
    let things = lines.lines().map(|line| {
        let said = json(line);
        let mut named = said["probabilities"].as_array().unwrap().iter();
        let thing = named.find(|own| own["class"] == "thing").unwrap();
        thing["probability"].as_f64().unwrap()
    });
    let things: Vec<f64> = things.collect();
    assert_eq!(scores.len(), things.len());
    for (score, thing) in scores.iter().zip(&things) {
        assert!((score - thing).abs() < 1e-5, "{score} {thing}");
    }

    // A threshold that nothing reaches: no answer.
    let mut model = json(&std::fs::read_to_string(dir.join("relation.json")).unwrap());
    model["promise"]["confidence"] = 2.0.into();
    std::fs::write(dir.join("strict.json"), model.to_string()).unwrap();
    let text = succeed(
        dir,
        &[
            "relate",
            "photos/4.png",
            "a drawing",
            "--model",
            "strict.json",
        ],
    );
    assert!(text.starts_with("no answer"), "{text}");

    // Other weights are not what it was fitted on.
    succeed(
        dir,
        &[
            "pretrain",
            "tiny.toml",
            "--data",
            "pairs.csv",
            "--out",
            "other",
            "--seed",
            "9",
        ],
    );
    let asked = [
        "relate",
        "photos/4.png",
        "a drawing",
        "--model",
        "relation.json",
    ];
    let error = fail(dir, &[&asked[..], &["--encoder", "other"]].concat());
    assert!(error.contains("is not the encoder"), "{error}");
    let error = fail(dir, &[&asked[..], &["--encoder", "nowhere"]].concat());
    assert!(error.contains("is not there"), "{error}");
    let error = fail(
        dir,
        &[
            "relate",
            "photos/none.png",
            "text",
            "--model",
            "relation.json",
        ],
    );
    assert!(error.contains("none.png"), "{error}");
}
