//! Words and regions through the binary: knowledge masks, grounding, its report, boxes that are given, and what is odd or
//! wrong about captions and regions.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chiasm_data::regions::{Form, RegionSet, RegionWriter, WriteConfig};
use chiasm_data::{Rect, Regions};
use serde_json::{Value, json};

use crate::common::{fail, run, succeed, workspace};
use crate::serve::Server;

/// The tables that both recipes share.
const MODEL: &str = r#"
[tokenizer]
vocab_size = 300
[model]
init_std = 0.1
[model.text]
hidden_size = 16
layers = 0
max_text_len = 16
[model.vision]
hidden_size = 16
[model.regions]
features = 16
most = 100
objects = 2
attributes = 1
[model.fusion]
kind = "one_stream"
hidden_size = 16
layers = 1
num_heads = 2
intermediate_size = 32
[schedule]
steps = 4
batch_size = 8
eval_every = 0
save_every = 0
[optimizer]
learning_rate = 1e-2
"#;

fn recipes(dir: &Path) {
    let knowledge = "name = \"know\"\n[objectives.knowledge]\n[model.heads]\ncontrastive = false\n";
    let grounding = "name = \"ground\"\n[objectives.grounding]\n[model.heads]\n\
                     contrastive = false\nmatching = false\nmlm = false\n";
    for (name, tables) in [("know.toml", knowledge), ("ground.toml", grounding)] {
        std::fs::write(dir.join(name), format!("{tables}{MODEL}")).unwrap();
    }
}

/// RefCOCO's layout on the pictures of a workspace: two things in each, one sentence about each.
fn refcoco(dir: &Path, pictures: usize) {
    let (mut images, mut things, mut refs) = (Vec::new(), Vec::new(), Vec::new());
    for image in 0..pictures {
        images.push(
            json!({"id": image, "file_name": format!("{image}.png"), "width": 72, "height": 72}),
        );
        let split = ["train", "train", "train", "val", "test"][image % 5];
        for (side, name) in ["left", "right"].iter().enumerate() {
            let id = 2 * image + side;
            let bbox = [36 * side, 0, 36, 72];
            things.push(json!({"id": id, "image_id": image, "category_id": side, "bbox": bbox}));
            refs.push(json!({
                "ref_id": id, "ann_id": id, "image_id": image, "category_id": side,
                "split": split,
                "sentences": [{"sent_id": id, "sent": format!("the {name} half"), "raw": ""}],
            }));
        }
    }
    let instances = json!({
        "images": images, "annotations": things,
        "categories": [{"id": 0, "name": "left"}, {"id": 1, "name": "right"}],
    });
    std::fs::create_dir(dir.join("refs")).unwrap();
    std::fs::write(dir.join("refs/instances.json"), instances.to_string()).unwrap();
    std::fs::write(dir.join("refs/refs(unc).json"), json!(refs).to_string()).unwrap();
}

/// A set with so many regions of each picture: halves, and what lies outside of the picture or has no area.
pub(crate) fn set(dir: &Path, name: &str, provider: &str, dim: usize, counts: &[usize]) {
    let config = WriteConfig {
        set: RegionSet {
            provider: provider.to_owned(),
            dim,
            objects: vec!["left".to_owned(), "right".to_owned()],
            ..RegionSet::default()
        },
        form: Form::Shards,
        shard: 7,
        half: false,
        data: String::new(),
    };
    let mut writer = RegionWriter::open(&dir.join(name), config).unwrap();
    for (picture, count) in counts.iter().enumerate() {
        let rect = |region: usize| match region % 4 {
            0 => [0.0, 0.0, 0.5, 1.0],
            1 => [0.5, 0.0, 1.0, 1.0],
            2 => [0.9, 0.9, 0.9, 0.9],
            _ => [0.0, 0.0, 1.0, 1.0],
        };
        let rects = (0..*count).map(|region| {
            let [x1, y1, x2, y2] = rect(region);
            Rect { x1, y1, x2, y2 }
        });
        let feature = |value: usize| ((value * 37 + picture) % 11) as f32 * 0.1;
        let regions = Regions {
            features: (0..count * dim).map(feature).collect(),
            dim,
            boxes: rects.collect(),
            size: Some((72, 72)),
            classes: (0..*count).map(|region| (region % 2) as i64).collect(),
            class_scores: vec![0.5; *count],
            attributes: vec![-1; *count],
            attribute_scores: vec![0.0; *count],
        };
        writer.append(&format!("{picture}.png"), &regions).unwrap();
    }
    writer.finish().unwrap();
}

fn json_of(dir: &Path, args: &[&str]) -> Value {
    serde_json::from_str(&succeed(dir, &[args, &["--json"]].concat())).unwrap()
}

const GROUND: [&str; 6] = [
    "finetune",
    "ground.toml",
    "--data",
    "refs",
    "--image-root",
    "photos",
];

#[test]
fn any_number_of_regions_and_any_caption() {
    let (folder, _) = workspace(20);
    let dir = folder.path();
    recipes(dir);
    refcoco(dir, 20);
    // None, one, a hundred, and some more than a model takes.
    let counts: Vec<usize> = (0..20)
        .map(|picture| [9, 0, 1, 100, 130][(picture / 4) % 5])
        .collect();
    set(dir, "set", "drawn", 16, &counts);
    let long = "a dog chases two men on the grass and ".repeat(60);
    let captions = [
        "quickly and quietly",
        "собака на траве",
        "dog",
        &long,
        "the left of a right",
    ];
    let mut table = String::from("image,caption,split\n");
    for picture in 0..20 {
        let caption = captions[picture % captions.len()];
        let split = ["train", "train", "train", "train", "test"][picture / 4];
        table.push_str(&format!("photos/{picture}.png,\"{caption}\",{split}\n"));
    }
    std::fs::write(dir.join("odd.csv"), table).unwrap();
    for masking in ["none", "random", "intra", "cross", "both"] {
        let out = format!("know-{masking}");
        let args = [
            "pretrain",
            "know.toml",
            "--data",
            "odd.csv",
            "--regions",
            "set",
        ];
        let output = run(
            dir,
            &[&args[..], &["--masking", masking, "--out", &out]].concat(),
        );
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success() && errors.contains("fine-tune it"),
            "{errors}"
        );
    }
    let report = json_of(
        dir,
        &[
            &GROUND[..],
            &["--regions", "set", "--weights", "know-both", "--out", "run"],
        ]
        .concat(),
    );
    // Pictures 4, 9, 14 and 19, of which the first has no region.
    assert_eq!(
        (&report["texts"], &report["without_regions"]),
        (&json!(8), &json!(2))
    );
    assert_eq!(report["upper_bound"], json!(0.625));
    let page = std::fs::read_to_string(dir.join("run/report.html")).unwrap();
    for part in [
        "where they were found",
        "largest region",
        "the left half",
        "data:image/png",
    ] {
        assert!(page.contains(part), "{part}");
    }
    let figures: Value =
        serde_json::from_slice(&std::fs::read(dir.join("run/report.json")).unwrap()).unwrap();
    assert_eq!(figures["grounding"]["texts"], 8);
    // The figures are those of the file, and another selection gives others of the same form.
    let again = json_of(dir, &["score", "run/predictions-test.jsonl"]);
    assert_eq!(again["accuracy"], report["accuracy"]);
    let select = ["eval", "run", "--select", "topk=1", "--task", "grounding"];
    assert_eq!(json_of(dir, &select)["texts"], 8);
    let error = fail(dir, &["eval", "run", "--select", "learned=0.5"]);
    assert!(
        error.contains("no gates") && error.contains("prob_rel_mean=0.5"),
        "{error}"
    );
}

#[test]
fn a_run_goes_on_with_the_regions_that_it_began_with() {
    let (folder, _) = workspace(10);
    let dir = folder.path();
    recipes(dir);
    refcoco(dir, 10);
    set(dir, "set", "drawn", 16, &[5; 10]);
    set(dir, "other", "painted", 16, &[5; 10]);
    let pretrain = [
        "pretrain",
        "know.toml",
        "--data",
        "pairs.csv",
        "--regions",
        "set",
    ];
    succeed(dir, &[&pretrain[..], &["--out", "know"]].concat());
    let from = |set| {
        [
            &GROUND[..],
            &["--regions", set, "--weights", "know", "--out", "run"],
        ]
        .concat()
    };
    let error = fail(dir, &from("other"));
    for part in ["`painted`", "`drawn`", "hint:"] {
        assert!(error.contains(part), "{error}");
    }
    // Nothing of the regions is read but what the words take from them.
    let recipe = std::fs::read_to_string(dir.join("know.toml")).unwrap();
    let recipe = recipe.replace("[objectives.knowledge]", "[objectives.matching]");
    std::fs::write(dir.join("match.toml"), recipe).unwrap();
    let mut matching = pretrain;
    matching[1] = "match.toml";
    succeed(dir, &[&matching[..], &["--out", "match"]].concat());
    // Texts alone, the baseline of a model that sees regions.
    succeed(
        dir,
        &[&matching[..], &["--blind", "--out", "blind"]].concat(),
    );
    // Word vectors that are none, or of other words.
    for (content, reason) in [("", "none of the"), ("left x y\n", "none of the")] {
        std::fs::write(dir.join("vectors.txt"), content).unwrap();
        let recipe = std::fs::read_to_string(dir.join("know.toml")).unwrap();
        let vectors = "[objectives.knowledge]\nvectors = \"vectors.txt\"";
        let recipe = recipe.replace("[objectives.knowledge]", vectors);
        std::fs::write(dir.join("vectors.toml"), recipe).unwrap();
        let mut args = pretrain;
        args[1] = "vectors.toml";
        let error = fail(dir, &[&args[..], &["--out", "vectors"]].concat());
        assert!(
            error.contains(reason) && error.contains("vectors.txt"),
            "{error}"
        );
        std::fs::remove_dir_all(dir.join("vectors")).unwrap();
    }
}

#[test]
fn boxes_of_people_stand_in_for_found_ones() {
    let (folder, _) = workspace(10);
    let dir = folder.path();
    recipes(dir);
    refcoco(dir, 10);
    let tiny = [
        "pretrain",
        "tiny.toml",
        "--data",
        "pairs.csv",
        "--out",
        "tower",
    ];
    succeed(dir, &tiny);
    let extract = [
        "regions",
        "extract",
        "refs",
        "--image-root",
        "photos",
        "--weights-vision",
        "tower",
    ];
    let extract = |more: &[&'static str]| [&extract[..], more].concat();
    succeed(dir, &extract(&["--top", "6", "--out", "found"]));
    let given = [
        "--boxes",
        "refs/instances.json",
        "--like",
        "found",
        "--out",
        "given",
    ];
    let written = json_of(dir, &extract(&given));
    assert_eq!(
        (&written["provider"], &written["regions"]),
        (&json!("boxes"), &json!(20))
    );
    succeed(
        dir,
        &[&GROUND[..], &["--regions", "found", "--out", "run"]].concat(),
    );
    let report = json_of(dir, &["eval", "run"]);
    assert_eq!(report["texts"], 4);
    raw_pictures_are_seen_as_extracted_ones(dir);
    // Every text refers to one of two given boxes.
    let report = json_of(dir, &["eval", "run", "--regions", "given"]);
    assert_eq!(
        (&report["upper_bound"], &report["texts"]),
        (&json!(1.0), &json!(4))
    );
    assert_eq!(report["baselines"]["random"], json!(0.5));
    // Boxes that stand in for nothing are a set of their own.
    succeed(
        dir,
        &extract(&["--boxes", "refs/instances.json", "--out", "own"]),
    );
    let error = fail(dir, &["eval", "run", "--regions", "own"]);
    assert!(
        error.contains("`boxes`") && error.contains("`grid`"),
        "{error}"
    );
    for (more, reason) in [
        (&["--provider", "boxes"][..], "has no `--boxes`"),
        (&["--boxes", "pairs.csv"], "expected"),
        (&["--boxes", "no.json"], "no.json"),
        (
            &["--boxes", "refs/instances.json", "--provider", "grid"],
            "leave one of them out",
        ),
    ] {
        let error = fail(dir, &extract(more));
        assert!(error.contains(reason), "{more:?}: {error}");
    }
}

/// Regions of a picture that is at hand are made as the set's were: the same box is found, by the server and in an
/// explanation.
fn raw_pictures_are_seen_as_extracted_ones(dir: &Path) {
    let lines = std::fs::read_to_string(dir.join("run/predictions-test.jsonl")).unwrap();
    let rows: Vec<Value> = lines
        .lines()
        .skip(1)
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let server = Server::start(dir, &["run", "--weights-vision", "tower"]);
    for row in &rows {
        let picture = row["picture"].as_str().unwrap();
        let name = format!("{}.png", picture.trim_end_matches(".png"));
        let bytes = std::fs::read(dir.join("photos").join(name)).unwrap();
        let image = format!("data:image/png;base64,{}", STANDARD.encode(bytes));
        let asked = json!({"image": image, "phrase": row["text"], "top": 1});
        let found = server.post("/v1/ground", &asked);
        assert_eq!(found["by"], "head");
        let number = |value: &Value| value.as_f64().unwrap();
        let [x, y, w, h] = [0, 1, 2, 3].map(|i| 72.0 * number(&found["boxes"][0]["box"][i]));
        let wanted = [0, 1, 2, 3].map(|i| number(&row["predicted"][i]));
        for (own, wanted) in [x, y, x + w, y + h].iter().zip(wanted) {
            assert!((own - wanted).abs() < 0.01, "{found} {row}");
        }
        let asked = json!({"image": image, "text": row["text"]});
        let why = server.post("/v1/explain", &asked);
        let boxes = why["places"]["boxes"].as_array().unwrap().len();
        assert_eq!(why["whole"].as_array().unwrap().len(), boxes);
    }
    let explain = ["explain", "run", "photos/4.png", "the left half"];
    let alone = [&explain[..], &["--weights-vision", "tower"]].concat();
    let report = json_of(dir, &alone);
    assert!(
        !report[0]["regions"].as_array().unwrap().is_empty(),
        "{report}"
    );
    let error = fail(dir, &[&explain[..], &["--weights-vision", "run"]].concat());
    assert!(error.contains("pictures"), "{error}");
    let useless: [(&[&str], &str); 3] = [
        (&["explain", "tower", "photos/4.png"], "sees pixels"),
        (&["explain", "run", "--data", "refs"], "of `--regions`"),
        (&["serve", "tower", "--port", "0"], "no model sees regions"),
    ];
    for (args, reason) in useless {
        let error = fail(dir, &[args, &["--weights-vision", "tower"]].concat());
        assert!(
            error.contains(reason) && error.contains("leave it out"),
            "{error}"
        );
    }
}
