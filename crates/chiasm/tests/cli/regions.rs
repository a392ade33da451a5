//! `chiasm regions` through the binary: extract, go on, take over files, look, draw, and what is wrong.

use std::path::Path;

use serde_json::{Value, json};

use crate::common::{fail, succeed, workspace};

fn json_of(dir: &Path, args: &[&str]) -> Value {
    serde_json::from_str(&succeed(dir, &[args, &["--json"]].concat())).unwrap()
}

#[test]
fn a_run_is_a_provider_and_its_regions_are_read_back() {
    let (folder, _) = workspace(12);
    let dir = folder.path();
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

    // A folder of pictures without any text.
    std::fs::create_dir(dir.join("raw")).unwrap();
    for number in 0..5 {
        let name = format!("{number}.png");
        std::fs::copy(dir.join("photos").join(&name), dir.join("raw").join(&name)).unwrap();
    }
    std::fs::write(dir.join("raw/broken.png"), "not a picture").unwrap();
    let extract = [
        "regions",
        "extract",
        "raw",
        "--weights-vision",
        "run",
        "--out",
        "set",
        "--top",
        "9",
        "--batch-size",
        "2",
        "--max-bad-rate",
        "0.5",
    ];
    let written = json_of(dir, &extract);
    assert_eq!(written["pictures"], 5);
    assert_eq!(
        (&written["refused"], &written["skipped"]),
        (&json!(1), &json!(0))
    );
    assert_eq!(
        (&written["provider"], &written["dim"]),
        (&json!("grid"), &json!(16))
    );
    assert!(written["regions"].as_u64().unwrap() <= 45);
    let list = std::fs::read_to_string(dir.join("set/quarantine.jsonl")).unwrap();
    assert!(list.contains("broken.png"), "{list}");
    let shard = std::fs::read(dir.join("set/regions-000000.tar")).unwrap();
    // Again: nothing is left to do, and nothing changes.
    let again = json_of(dir, &extract);
    assert_eq!(
        (&again["pictures"], &again["skipped"]),
        (&json!(0), &json!(5))
    );
    assert!(shard == std::fs::read(dir.join("set/regions-000000.tar")).unwrap());
    // With other settings it is another set.
    let mut other = extract.to_vec();
    other[8] = "8";
    let error = fail(dir, &other);
    assert!(
        error.contains("cannot be continued") && error.contains("hint:"),
        "{error}"
    );

    let about = json_of(dir, &["regions", "inspect", "set", "--verify"]);
    assert_eq!(
        (&about["pictures"], &about["verified"]),
        (&json!(5), &json!(true))
    );
    assert_eq!(about["hash"], written["hash"]);
    assert_eq!(
        about["settings"],
        json!({"regions": 9, "image_size": 24, "overlap": 0.7})
    );
    // A run has a text tower in the same space: its regions have names.
    assert_eq!(about["objects"].as_array().unwrap().len(), 1600);
    assert_eq!(about["attributes"].as_array().unwrap().len(), 400);
    let page = succeed(dir, &["regions", "inspect", "set"]);
    for part in [
        "provider      grid",
        "1600 names",
        "5 in 1 shards",
        "neighbours",
    ] {
        assert!(page.contains(part), "{page}");
    }
    let rows = json_of(dir, &["regions", "inspect", "set", "--image", "3"]);
    let rows = rows.as_array().unwrap();
    assert!(!rows.is_empty() && rows.len() <= 9);
    assert!(rows[0]["object"].is_string() && rows[0]["object_confidence"].as_f64().unwrap() > 0.0);
    let drawing = [
        "regions",
        "inspect",
        "set",
        "--image",
        "3.png",
        "--picture",
        "raw/3.png",
        "--draw",
        "boxes.png",
    ];
    let table = succeed(dir, &drawing);
    assert_eq!(table.lines().count(), rows.len() + 1, "{table}");
    assert!(
        std::fs::read(dir.join("boxes.png"))
            .unwrap()
            .starts_with(b"\x89PNG")
    );

    // A set is taken over as it is, in another form; then attached to the data.
    let npz = [
        "regions",
        "extract",
        "set",
        "--provider",
        "files",
        "--out",
        "npz",
        "--store",
        "npz",
    ];
    let taken = json_of(dir, &npz);
    assert_eq!(
        (&taken["pictures"], &taken["hash"]),
        (&json!(5), &written["hash"])
    );
    assert!(dir.join("npz/3.png.npz").is_file());
    let both = ["set", "npz"].map(|set| succeed(dir, &["regions", "inspect", set, "--image", "3"]));
    assert_eq!(both[0], both[1]);
    let checked = json_of(
        dir,
        &[
            "data",
            "check",
            "pairs.csv",
            "--regions",
            "set",
            "--max-bad-rate",
            "1",
        ],
    );
    assert_eq!(checked["usable"], 5, "{checked}");
    // The regions of a data set's pictures alone.
    let own = json_of(
        dir,
        &[
            "regions",
            "extract",
            "pairs.csv",
            "--provider",
            "files",
            "--regions",
            "npz",
            "--out",
            "own",
            "--half",
            "--max-bad-rate",
            "1",
        ],
    );
    assert_eq!(
        (&own["pictures"], &own["hash"]),
        (&json!(5), &written["hash"])
    );
}

#[test]
fn what_is_missing_or_is_no_detector_is_said() {
    let (folder, _) = workspace(3);
    let dir = folder.path();
    std::fs::write(dir.join("yolo.weights"), vec![0; 4096]).unwrap();
    std::fs::write(dir.join("yolo.cfg"), "[net]\nwidth=416\nheight=416\n").unwrap();
    let extract = |more: &[&str]| fail(dir, &[&["regions", "extract", "photos"], more].concat());
    for (more, parts) in [
        (&[][..], ["no image tower", "--weights-vision"]),
        (&["--weights-vision", "no-run"], ["no-run", ""]),
        (
            &["--provider", "detector"],
            ["no `--detector`", "--detector"],
        ),
        (
            &["--provider", "grid", "--detector", "yolo.weights"],
            ["--provider", "leave one of them out"],
        ),
        (
            &["--provider", "files"],
            ["region features", "there are none"],
        ),
        (
            &["--top", "0", "--weights-vision", "x"],
            ["--top 0", "1 to 1000"],
        ),
    ] {
        let error = extract(more);
        for part in parts {
            assert!(error.contains(part), "{more:?}: {error}");
        }
    }
    let error = fail(dir, &["regions", "inspect", "photos"]);
    assert!(error.contains("there are none"), "{error}");

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
    for (file, parts) in [
        ("yolo.weights", ["1020 parameters", "yolov4-tiny.weights"]),
        ("yolo.cfg", ["another kind of file", "yolo.cfg"]),
        ("no.weights", ["no.weights", ""]),
    ] {
        let error = extract(&["--weights-vision", "run", "--detector", file]);
        for part in parts {
            assert!(error.contains(part), "{error}");
        }
    }
    let error = extract(&["--weights-vision", "run", "--size", "48"]);
    assert!(
        error.contains("24 pixels") && error.contains("hint:"),
        "{error}"
    );
}
