//! Clips, questions, statements and several sources through the binary, and what is wrong with them.

use std::path::Path;
use std::sync::LazyLock;

use chiasm_data::{Dataset, builtin, thumbnail};
use serde_json::{Value, json};

use crate::common::{TINY, fail, run, succeed, with_column, workspace};

const OBJECTIVES: &str = "[objectives.contrastive]
[objectives.matching]
[objectives.mlm]
[objectives.global_completion]
";

fn write(dir: &Path, name: &str, content: impl AsRef<[u8]>) {
    let path = dir.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, content).unwrap();
}

/// A file of the built-in set.
fn drawing(number: usize) -> Vec<u8> {
    static SET: LazyLock<Dataset> = LazyLock::new(|| builtin::emoji().unwrap());
    SET.samples[number].visual.sources()[0]
        .read()
        .unwrap()
        .into_owned()
}

/// The tiny recipe with one of its tables changed.
fn recipe(dir: &Path, name: &str, from: &str, to: &str) {
    assert!(TINY.contains(from));
    write(dir, name, TINY.replace(from, to));
}

fn pretrain<'a>(recipe: &'a str, data: &'a str, out: &'a str) -> Vec<&'a str> {
    vec!["pretrain", recipe, "--data", data, "--out", out]
}

fn json_of(dir: &Path, args: &[&str]) -> Value {
    serde_json::from_str(&succeed(dir, &[args, &["--json"]].concat())).unwrap()
}

/// `pairs.csv` with other captions, as `table`.
fn with_captions(dir: &Path, table: &str, caption: impl Fn(usize) -> String) {
    let mut rows = String::from("image,caption,split\n");
    for number in 0..60 {
        let split = ["train", "train", "train", "val", "test"][number % 5];
        let caption = caption(number);
        rows.push_str(&format!("photos/{number}.png,\"{caption}\",{split}\n"));
    }
    write(dir, table, rows);
}

/// One trained model, and everything about it that can be asked for in vain or at its limits.
#[test]
fn a_retrieval_model_at_its_limits() {
    let (dir, _) = workspace(60);
    let dir = dir.path();
    // Ten times as many words as there are positions, in training and in evaluation.
    let long = "drawing of a thing ".repeat(80);
    with_captions(dir, "long.csv", |number| format!("{number} {long}"));
    succeed(dir, &pretrain("tiny.toml", "long.csv", "run"));
    let found = json_of(dir, &["search", "run", &long]);
    assert_eq!(found[0]["results"].as_array().unwrap().len(), 5);

    // Twelve pictures that all say the same: only the rule of ties tells what a picture finds.
    with_captions(dir, "same.csv", |_| "a thing".to_owned());
    let at_1 = |ties: &str| {
        let file = "run/predictions-test-same.safetensors";
        let score = json_of(dir, &["score", file, "--ties", ties]);
        let of = |direction: &str| score["dual"][direction]["recall_at_1"].as_f64().unwrap();
        (of("image_to_text"), of("text_to_image"))
    };
    let eval = json_of(dir, &["eval", "run", "--data", "same.csv"]);
    assert_eq!(eval["dual"]["text_to_image"]["queries"], 12);
    let (worst, best) = (at_1("pessimistic"), at_1("optimistic"));
    assert_eq!((worst.0, best.0), (0.0, 1.0));
    assert!((worst.1 - 1.0 / 12.0).abs() < 1e-9, "{worst:?}");
    assert_eq!(worst.1, best.1);

    for (args, expected) in [
        (&["align", "run"][..], "has phrases with boxes"),
        (
            &["eval", "run", "--submission", "answers.json"],
            "was not trained for classes",
        ),
        (
            &["eval", "run", "--task", "classes"],
            "was not trained for classes",
        ),
        (&["eval", "run", "--frames", "2"], "the model takes 1"),
    ] {
        let message = fail(dir, args);
        assert!(message.contains(expected), "{args:?}: {message}");
    }
    assert!(!dir.join("answers.json").exists());
}

#[test]
fn batches_of_one_train() {
    let (dir, _) = workspace(10);
    let dir = dir.path();
    recipe(dir, "one.toml", "batch_size = 8", "batch_size = 1");
    succeed(dir, &pretrain("one.toml", "pairs.csv", "run"));
    let metrics = std::fs::read_to_string(dir.join("run/metrics.jsonl")).unwrap();
    let losses: Vec<f64> = metrics
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter(|line| line["kind"] == "train")
        .map(|line| line["values"]["loss"].as_f64().unwrap())
        .collect();
    assert_eq!(losses.len(), 6);
    assert!(losses.iter().all(|loss| loss.is_finite()));
}

#[test]
fn runs_that_cannot_begin_say_why() {
    let (dir, _) = workspace(20);
    let dir = dir.path();
    let table = |name: &str, table: &str| write(dir, name, format!("{TINY}{table}"));
    table("frames.toml", "[data]\nframes = 4\n");
    table("freeze.toml", "[weights]\nfreeze = [\"vision\"]\n");
    let labels = "[objectives.classification]\nclasses = \"labels\"\n";
    recipe(dir, "classes.toml", OBJECTIVES, labels);
    let typed = |recipe: &'static str, more: &[&'static str]| {
        [&pretrain(recipe, "pairs.csv", "run")[..], more].concat()
    };
    let mix = |weight| typed("tiny.toml", &["--mix", weight]);
    for (args, expected, hint) in [
        (
            typed("frames.toml", &[]),
            "`data.frames` is 4",
            "max_frames",
        ),
        (
            typed("tiny.toml", &["--frames", "9"]),
            "`data.frames` is 9",
            "max_frames",
        ),
        (
            typed("freeze.toml", &[]),
            "`weights.freeze`",
            "--weights-vision",
        ),
        (mix("pairs.csv=x"), "`x` is not a number", "PATH=WEIGHT"),
        (mix("pairs.csv="), "`` is not a number", "PATH=WEIGHT"),
        (mix("pairs.csv=0"), "`mix[0].weight` is 0", "above 0"),
        (mix("pairs.csv=-1"), "`mix[0].weight` is -1", "above 0"),
        (mix("pairs.csv=nan"), "`mix[0].weight` is NaN", "above 0"),
        (mix("pairs.csv=inf"), "`mix[0].weight` is inf", "above 0"),
    ] {
        let message = fail(dir, &args);
        assert!(message.contains(expected), "{args:?}: {message}");
        let (_, told) = message.split_once("hint: ").unwrap();
        assert!(told.contains(hint), "{args:?}: {message}");
        assert!(!dir.join("run").exists(), "nothing is left behind");
    }
    // What only the data can tell.
    for (args, expected) in [
        (mix("missing.csv=2"), "missing.csv"),
        (typed("classes.toml", &[]), "have 0 classes"),
        (
            typed("tiny.toml", &["--train-splits", "test_a"]),
            "`test_a`",
        ),
    ] {
        let message = fail(dir, &args);
        assert!(message.contains(expected), "{args:?}: {message}");
    }
    // Two sources at once, the second half as often.
    succeed(dir, &mix("pairs.csv=0.5"));
}

/// Answers that no class stands for are wrong, not left out.
#[test]
fn answers_outside_the_vocabulary_are_wrong() {
    let (dir, _) = workspace(60);
    let dir = dir.path();
    with_column(dir, "questions.csv", "answer", |number| {
        match (number % 5, number % 2) {
            (4, 0) => "perhaps",
            (_, 0) => "yes",
            _ => "no",
        }
    });
    recipe(
        dir,
        "answers.toml",
        OBJECTIVES,
        "[objectives.classification]\n",
    );
    succeed(dir, &pretrain("answers.toml", "questions.csv", "run"));
    let report = json_of(dir, &["eval", "run"]);
    assert_eq!(
        (&report["classes"], &report["samples"]),
        (&json!(2), &json!(12))
    );
    assert_eq!(report["accuracy"]["samples"], 12);
    assert!(report["accuracy"]["mean"].as_f64().unwrap() <= 0.5);
    let written = std::fs::read_to_string(dir.join("run/predictions-test.jsonl")).unwrap();
    let rows: Vec<Value> = written
        .lines()
        .skip(1)
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(rows.len(), 12);
    let outside = rows.iter().filter(|row| row["answers"][0][0] == "perhaps");
    assert_eq!(outside.count(), 6);
    assert!(rows.iter().all(|row| row["predicted"] != "perhaps"));
    succeed(dir, &["eval", "run", "--submission", "vqa.json"]);
    let submitted = std::fs::read(dir.join("vqa.json")).unwrap();
    let submitted: Value = serde_json::from_slice(&submitted).unwrap();
    assert_eq!(submitted.as_array().unwrap().len(), 12);
}

/// Statements about two pictures, which a classifier takes, and about the three parts of a strip, which
/// it then does not.
#[test]
fn statements_about_another_number_of_pictures() {
    let (dir, _) = workspace(1);
    let dir = dir.path();
    let statement = |split: &str, pair: usize, strip: bool| {
        let id = format!("{split}-{pair}-0-0");
        let label = ["True", "False"][pair % 2];
        let mut line = json!({
            "identifier": id,
            "sentence": format!("There are {pair} things."),
            "label": label,
        });
        if strip {
            write(dir, &format!("{id}.png"), drawing(pair));
            line["image"] = json!(format!("{id}.png"));
        } else {
            for side in [0, 1] {
                let name = format!("{split}-{pair}-0-img{side}.png");
                write(dir, &name, drawing(2 * pair + side));
            }
        }
        format!("{line}\n")
    };
    let pairs = |split: &str, count| -> String {
        (0..count)
            .map(|pair| statement(split, pair, false))
            .collect()
    };
    let good = format!("{}{}", pairs("train", 20), pairs("test1", 6));
    write(dir, "pairs.jsonl", &good);
    write(dir, "strips.jsonl", statement("test1", 90, true));
    write(
        dir,
        "both.jsonl",
        format!("{good}{}", statement("train", 91, true)),
    );
    let labels = "[objectives.classification]\nclasses = \"labels\"\n";
    recipe(dir, "statements.toml", OBJECTIVES, labels);
    let message = fail(dir, &pretrain("statements.toml", "both.jsonl", "none"));
    assert!(message.contains("speaks of 3 pictures"), "{message}");
    assert!(message.contains("train-91-0-0"), "{message}");

    succeed(dir, &pretrain("statements.toml", "pairs.jsonl", "run"));
    succeed(dir, &["eval", "run", "--submission", "nlvr2.csv"]);
    let submitted = std::fs::read_to_string(dir.join("nlvr2.csv")).unwrap();
    assert_eq!(submitted.lines().count(), 6);
    assert!(submitted.starts_with("test1-0-0-0,"), "{submitted}");
    let message = fail(dir, &["eval", "run", "--data", "strips.jsonl"]);
    assert!(message.contains("has 3 pictures, and 2 are"), "{message}");
}

/// Clips as MSR-VTT has them, in folders of frames; those of `odd` have as many frames as it says.
fn clips(dir: &Path, odd: &[(&str, usize)]) {
    let (mut videos, mut sentences) = (Vec::new(), Vec::new());
    let mut add = |id: &str, split: &str, frames: usize| {
        for frame in 0..frames {
            // Frames of one clip differ in size.
            let picture = match frame % 3 {
                0 => thumbnail(&drawing(frame), 20 + frame % 7).unwrap(),
                _ => drawing(frame),
            };
            write(dir, &format!("clips/frames/{id}/{frame:03}.png"), picture);
        }
        videos.push(json!({"video_id": id, "split": split}));
        sentences.push(json!({"video_id": id, "caption": format!("a clip named {id}")}));
    };
    for number in 0..20 {
        let split = ["train", "train", "train", "validate", "test"][number % 5];
        add(&format!("video{number}"), split, 5);
    }
    for (id, frames) in odd {
        add(id, "test", *frames);
    }
    let described = json!({"videos": videos, "sentences": sentences});
    write(
        dir,
        "clips/train_val_videodatainfo.json",
        described.to_string(),
    );
}

#[test]
fn clips_of_no_frame_of_one_and_of_many() {
    let (dir, _) = workspace(10);
    let dir = dir.path();
    clips(dir, &[("none", 0), ("one", 1), ("many", 500)]);
    recipe(
        dir,
        "clips.toml",
        "[model.fusion]",
        "max_frames = 8\n[model.fusion]",
    );
    let allowed = ["--max-bad-rate", "0.1"];
    let check = json_of(dir, &[&["data", "check", "clips"], &allowed[..]].concat());
    assert_eq!(
        (&check["total"], &check["usable"]),
        (&json!(23), &json!(22))
    );
    let refused = fail(dir, &pretrain("clips.toml", "clips", "run"));
    assert!(refused.contains("--max-bad-rate"), "{refused}");
    let listed = std::fs::read_to_string(dir.join("run/quarantine.jsonl")).unwrap();
    assert_eq!(listed.lines().count(), 1);
    assert!(listed.contains("none.mp4"), "{listed}");

    // Pictures beside clips.
    let mixed = [&allowed[..], &["--mix", "pairs.csv"]].concat();
    let args = [&pretrain("clips.toml", "clips", "run")[..], &mixed].concat();
    let output = run(dir, &args);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    assert!(said.contains("12 clips of 4 frames of clips"), "{said}");
    assert!(said.contains("6 pictures of pairs"), "{said}");
    for frames in ["1", "3", "8"] {
        let report = json_of(dir, &["eval", "run", "--frames", frames]);
        assert_eq!(report["dual"]["text_to_image"]["queries"], 6, "{frames}");
    }
    let message = fail(dir, &["eval", "run", "--frames", "9"]);
    assert!(message.contains("the model takes 8"), "{message}");
    let args = [
        &pretrain("clips.toml", "clips", "none")[..],
        &["--frames", "9"],
    ]
    .concat();
    let message = fail(dir, &args);
    assert!(
        message.contains("`data.frames` is 9, and the model takes 8"),
        "{message}"
    );
}
