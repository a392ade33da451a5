//! `chiasm explain` through the binary, on the built-in drawings.

use std::path::Path;

use serde_json::{Value, json};

use crate::common::{TINY, fail, run, succeed, with_column, workspace};

fn json_of(dir: &Path, args: &[&str]) -> Value {
    serde_json::from_str(&succeed(dir, &[args, &["--json"]].concat())).unwrap()
}

/// Phrases with boxes for the pictures of [`workspace`], each caption as one phrase.
fn phrases(dir: &Path, count: usize) {
    let table = std::fs::read_to_string(dir.join("pairs.csv")).unwrap();
    let mut karpathy = Vec::new();
    let mut lines = String::new();
    for (number, row) in table.lines().skip(1).take(count).enumerate() {
        let caption = row.split('"').nth(1).unwrap();
        let split = row.rsplit(',').next().unwrap();
        let words: Vec<&str> = caption.split(' ').collect();
        let phrase = words
            .last()
            .unwrap()
            .trim_matches(|c: char| !c.is_alphanumeric());
        lines.push_str(&format!(
            "{}\n",
            json!({"image": format!("{number}.png"), "split": split,
                "phrases": [[0, phrase, "things", [[0.25, 0.25, 0.75, 0.75]]]]})
        ));
        karpathy.push(json!({"filename": format!("{number}.png"), "split": split,
            "sentences": [{"raw": caption}]}));
    }
    std::fs::create_dir_all(dir.join("flickr/images")).unwrap();
    for number in 0..count {
        let name = format!("{number}.png");
        std::fs::copy(
            dir.join("photos").join(&name),
            dir.join("flickr/images").join(&name),
        )
        .unwrap();
    }
    std::fs::write(dir.join("flickr/phrases.jsonl"), lines).unwrap();
    let dataset = json!({"images": karpathy, "dataset": "flickr8k"});
    std::fs::write(
        dir.join("flickr/dataset_flickr8k.json"),
        dataset.to_string(),
    )
    .unwrap();
}

fn is_png(path: &Path) -> bool {
    std::fs::read(path).is_ok_and(|bytes| bytes.starts_with(b"\x89PNG"))
}

#[test]
fn pictures_maps_scores_and_a_chosen_layer() {
    let (dir, _) = workspace(40);
    let dir = dir.path();
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

    // One picture, every method.
    for method in [
        "attention",
        "rollout",
        "grad-cam",
        "grad-cam-fusion",
        "relevance",
        "occlusion",
    ] {
        let args = [
            "explain",
            "run",
            "photos/3.png",
            "a red apple",
            "--method",
            method,
        ];
        let found = json_of(dir, &args);
        let map = found[0]["variants"][0]["map"].as_array().unwrap();
        assert_eq!(
            (map.len(), found[0]["side"].as_u64()),
            (16, Some(4)),
            "{method}"
        );
        let words = found[0]["variants"][0]["words"].as_array().unwrap();
        assert_eq!(words.len(), 3, "{method}: {words:?}");
        assert!(words.iter().all(|word| word["map"].is_array()), "{method}");
    }
    assert!(is_png(&dir.join("explained/3.png")));

    // Before and after selection, with a page and one word.
    let args = [
        "explain",
        "run",
        "photos/3.png",
        "a <b>red</b> apple",
        "--word",
        "apple",
        "--select",
        "topk=2",
        "--page",
        "page.html",
        "--out",
        "both",
    ];
    let found = json_of(dir, &args);
    let variants = found[0]["variants"].as_array().unwrap();
    assert_eq!(variants.len(), 2);
    assert_eq!(variants[0]["attention"], "all attention");
    assert_eq!(variants[0]["kept"][0], 1.0);
    assert!(
        variants[1]["kept"][0].as_f64().unwrap() < 0.2,
        "{}",
        variants[1]["kept"]
    );
    let page = std::fs::read_to_string(dir.join("page.html")).unwrap();
    assert!(page.contains("&lt;b&gt;red") && page.contains("topk=2"));
    assert!(is_png(&dir.join("both/3.png")) && dir.join("both/3.json").is_file());

    // Hidden words.
    let args = [
        "explain",
        "run",
        "photos/3.png",
        "a red apple",
        "--mask",
        "red",
    ];
    let found = json_of(dir, &args);
    let guesses = found[0]["variants"][0]["guesses"][0].as_array().unwrap();
    assert_eq!(
        (guesses.len(), &found[0]["target"]),
        (5, &json!("hidden word"))
    );

    // Choosing, then scoring what was chosen; the file says the same again.
    phrases(dir, 40);
    let chosen = json_of(
        dir,
        &[
            "explain",
            "run",
            "--data",
            "flickr/phrases.jsonl",
            "--auto-layer",
        ],
    );
    assert_eq!(
        (&chosen["layer"], &chosen["split"]),
        (&json!(0), &json!("val"))
    );
    let score = [
        "explain",
        "run",
        "--data",
        "flickr/phrases.jsonl",
        "--score",
        "--limit",
        "4",
    ];
    let report = json_of(dir, &score);
    let methods: Vec<&str> = report["methods"]
        .as_array()
        .unwrap()
        .iter()
        .map(|method| method["method"].as_str().unwrap())
        .collect();
    let expected = [
        "attention",
        "grad-cam",
        "grad-cam-fusion",
        "occlusion",
        "relevance",
        "rollout",
        "random map",
        "centre",
    ];
    assert_eq!(methods, expected);
    assert_eq!(report["choice"], chosen);
    for method in &report["methods"].as_array().unwrap()[..6] {
        assert!(
            method["deletion"].is_number() && method["sanity"].is_number(),
            "{method}"
        );
    }
    let again = json_of(dir, &["score", "run/explanation-test.jsonl"]);
    assert_eq!(again, report);
    let table = succeed(dir, &["score", "run/explanation-test.jsonl"]);
    assert!(
        table.lines().all(|line| line.chars().count() <= 80),
        "{table}"
    );
    // Pictures of a data set show its phrases.
    let found = json_of(
        dir,
        &[
            "explain",
            "run",
            "--data",
            "flickr/phrases.jsonl",
            "--limit",
            "2",
        ],
    );
    assert_eq!(found.as_array().unwrap().len(), 2);

    for (args, expected) in [
        (&["explain", "run", "photos/3.png"][..], "last layer"),
        (&["explain", "run", "photos/none.png", "a"], "none.png"),
        (
            &["explain", "run", "photos/3.png", "a", "--method", "x"],
            "no method `x`",
        ),
        (
            &["explain", "run", "photos/3.png", "a", "--layer", "7"],
            "no layer 7",
        ),
        (
            &["explain", "run", "photos/3.png", "a", "--target", "class"],
            "not trained for classes",
        ),
        (
            &["explain", "run", "photos/3.png", "a", "--target", "region"],
            "refers to",
        ),
        (
            &["explain", "run", "photos/3.png", "a", "--word", "dog"],
            "no word",
        ),
        (
            &["explain", "run", "photos/3.png", "a", "--mask", "dog"],
            "no word",
        ),
        (
            &["explain", "run", "--data", "pairs.csv", "--score"],
            "has phrases with boxes",
        ),
    ] {
        if args.len() == 3 {
            // A picture alone is explained by its own tower.
            assert!(run(dir, args).status.success());
            continue;
        }
        let message = fail(dir, args);
        assert!(message.contains(expected), "{args:?}: {message}");
    }
}

#[test]
fn r8_a_model_of_classes_is_explained_by_class() {
    let (dir, _) = workspace(40);
    let dir = dir.path();
    with_column(dir, "labels.csv", "label", |number| {
        ["no", "yes"][number % 2]
    });
    let objectives = "[objectives.contrastive]\n[objectives.matching]\n[objectives.mlm]\n[objectives.global_completion]\n";
    let recipe = TINY.replace(
        objectives,
        "[objectives.classification]\nclasses = \"labels\"\n",
    );
    std::fs::write(dir.join("classes.toml"), recipe).unwrap();
    let data = [
        "--data",
        "labels.csv",
        "--label-column",
        "label",
        "--out",
        "run",
    ];
    succeed(dir, &[&["pretrain", "classes.toml"][..], &data].concat());
    for method in ["grad-cam", "relevance"] {
        let args = [
            "explain",
            "run",
            "photos/3.png",
            "a thing",
            "--method",
            method,
            "--smooth",
        ];
        for (target, expected) in [("class=no", "class `no`"), ("class", "class `")] {
            let found = json_of(dir, &[&args[..], &["--target", target]].concat());
            let name = found[0]["target"].as_str().unwrap();
            assert!(name.starts_with(expected), "{name}");
        }
    }
    let message = fail(
        dir,
        &[
            "explain",
            "run",
            "photos/3.png",
            "a",
            "--target",
            "class=maybe",
        ],
    );
    assert!(
        message.contains("it has: ") && message.contains("yes"),
        "{message}"
    );
}
