//! Published models that read a text with its picture, through the binary.

use std::path::Path;
use std::sync::Arc;

use chiasm_data::{Rgb, thumbnail};
use chiasm_format::ByteSource;
use chiasm_format::safetensors::SafetensorsFile;
use chiasm_testkit::{available, fixtures_dir};
use serde_json::Value;

use crate::common::{fail, succeed, with_column, workspace};
use crate::grounding::set;

/// A folder with the weights of a fixture and the tokenizer that all of them share; false without fixtures.
fn model(dir: &Path, name: &str) -> bool {
    let fixtures = fixtures_dir().join("hf");
    if !available(&fixtures) {
        return false;
    }
    let folder = dir.join(name);
    std::fs::create_dir(&folder).unwrap();
    for (from, file) in [
        (name, "config.json"),
        (name, "model.safetensors"),
        ("bert", "tokenizer.json"),
    ] {
        std::fs::copy(fixtures.join(from).join(file), folder.join(file)).unwrap();
    }
    true
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// Vectors of pairs of a table, row after row.
fn vectors(dir: &Path, model: &str, table: &str, more: &[&str]) -> Vec<Vec<f32>> {
    let call = [
        "embed",
        model,
        "--data",
        table,
        "--pairs",
        "--split",
        "all",
        "--out",
        "pairs.safetensors",
    ];
    succeed(dir, &[&call[..], more].concat());
    let bytes = ByteSource::open(&dir.join("pairs.safetensors")).unwrap();
    let file = SafetensorsFile::open(Arc::new(bytes)).unwrap();
    let entry = file
        .tensors()
        .iter()
        .find(|entry| entry.name == "pair_vectors")
        .unwrap();
    assert_eq!(entry.shape[1], 64);
    let values = file.read(entry).unwrap().to_f32().unwrap();
    values.chunks_exact(64).map(<[f32]>::to_vec).collect()
}

#[test]
fn models_of_regions_are_probed() {
    let (folder, _) = workspace(40);
    let dir = folder.path();
    with_column(dir, "labelled.csv", "label", |number| {
        ["adds", "both", "neither"][number % 3]
    });
    set(dir, "set", "drawn", 20, &[4; 40]);
    let regions = ["--regions", "set"];
    for name in ["visual_bert", "lxmert"] {
        if !model(dir, name) {
            return;
        }
        let found = vectors(dir, name, "pairs.csv", &regions);
        assert_eq!(found.len(), 40);
        // Another text, another vector; the regions are much alike.
        assert!(
            found[0]
                .iter()
                .zip(&found[1])
                .any(|(a, b)| (a - b).abs() > 1e-3)
        );
        let probe = [
            "probe",
            name,
            "--data",
            "labelled.csv",
            "--out",
            "relation.json",
            "--json",
        ];
        let report = json(&succeed(dir, &[&probe[..], &regions].concat()));
        let protocols = report["protocols"].as_array().unwrap();
        assert!(
            protocols
                .iter()
                .all(|own| own["protocol"]["features"] == "pair"),
            "{report}"
        );
        let relate = [
            "relate",
            "--data",
            "labelled.csv",
            "--model",
            "relation.json",
            "--json",
        ];
        let summary = json(&succeed(dir, &[&relate[..], &regions].concat()));
        assert_eq!(summary["pairs"], 40);
        let error = fail(dir, &["probe", name, "--data", "labelled.csv"]);
        assert!(error.contains("regions"), "{error}");
        let error = fail(dir, &["embed", name, "--data", "pairs.csv"]);
        assert!(error.contains("only pairs of both"), "{error}");
    }
}

/// Sizes of the fixtures' models, as the published recipes have them at theirs.
fn recipe(name: &str) -> String {
    let (text, seen, fusion) = match name {
        "visual_bert" => (
            "layers = 0",
            "[model.regions]\nfeatures = 20\nplace = \"unused\"",
            "kind = \"one_stream\"\nlayers = 2",
        ),
        "lxmert" => (
            "layers = 2",
            "[model.regions]\nfeatures = 20\nplace = \"averaged\"\nlayers = 1",
            "kind = \"crossed\"\nlayers = 1",
        ),
        _ => (
            "layers = 0",
            "[augment]\nresize = \"squash\"\nnormalize = \"half\"",
            "kind = \"one_stream\"\nlayers = 2\nnorm = \"before\"",
        ),
    };
    format!(
        r#"
name = "pairs"
[model.text]
hidden_size = 64
num_heads = 4
intermediate_size = 128
max_text_len = 24
position_offset = 0
type_rows = 2
layer_norm_eps = 1e-12
{text}
[model.vision]
hidden_size = 64
image_size = 32
patch_size = 8
layers = 0
num_heads = 4
patch_bias = true
pre_norm = false
{seen}
[model.fusion]
hidden_size = 64
num_heads = 4
intermediate_size = 128
{fusion}
[model.heads]
matching = false
mlm = false
projection = "linear"
[objectives.contrastive]
temperature = 1.0
[objectives.cluster]
clusters = 3
chunk = 12
[schedule]
steps = 4
batch_size = 8
eval_every = 0
save_every = 0
[optimizer]
learning_rate = 1e-3
"#
    )
}

/// ITR's pre-training begins at models of pairs, and what it leaves is probed by the vectors of pairs.
#[test]
fn models_of_pairs_are_pretrained() {
    let (folder, _) = workspace(40);
    let dir = folder.path();
    with_column(dir, "labelled.csv", "label", |number| {
        ["adds", "both", "neither"][number % 3]
    });
    set(dir, "set", "drawn", 20, &[4; 40]);
    for name in ["visual_bert", "lxmert", "vilt"] {
        if !model(dir, name) {
            return;
        }
        let regions: &[&str] = match name {
            "vilt" => &[],
            _ => &["--regions", "set"],
        };
        std::fs::write(dir.join("pairs.toml"), recipe(name)).unwrap();
        let other = recipe(name).replace("\nlayers = 2", "\nlayers = 3");
        std::fs::write(dir.join("other.toml"), other).unwrap();
        let run = format!("run-{name}");
        let words = |recipe| {
            let call = ["pretrain", recipe, "--data", "pairs.csv", "--weights", name];
            [&call[..], &["--tasks", "1+4", "--out", &run], regions].concat()
        };
        let error = fail(dir, &words("other.toml"));
        assert!(error.contains("layers = 2"), "{error}");
        succeed(dir, &words("pairs.toml"));
        let metrics = std::fs::read_to_string(dir.join(&run).join("metrics.jsonl")).unwrap();
        let last = metrics.lines().rfind(|line| line.contains("contrastive"));
        let last = json(last.unwrap());
        for loss in ["loss_contrastive", "loss_cluster"] {
            let value = last["values"][loss].as_f64();
            assert!(value.is_some_and(f64::is_finite), "{name}: {last}");
        }
        // Before and after training, the same vector for other weights.
        let [before, after] = [name, &run].map(|of| vectors(dir, of, "pairs.csv", regions));
        assert_eq!(before.len(), after.len());
        let probe = ["probe", &run, "--data", "labelled.csv", "--json"];
        let report = json(&succeed(dir, &[&probe[..], regions].concat()));
        let protocols = report["protocols"].as_array().unwrap();
        let of_pairs = |own: &Value| own["protocol"]["features"] == "pair";
        assert!(protocols.iter().all(of_pairs), "{report}");
        let error = fail(
            dir,
            &[&["embed", &run, "--data", "pairs.csv"][..], regions].concat(),
        );
        assert!(error.contains("space"), "{error}");
    }
}

/// ViLT keeps the shape of a picture; what shapes stand beside it in a batch does not matter.
#[test]
fn pictures_of_any_shape_are_seen() {
    let (folder, _) = workspace(0);
    let dir = folder.path();
    if !model(dir, "vilt") {
        return;
    }
    let mut table = "image,caption,label\n".to_owned();
    for (number, (width, height)) in [(90, 40), (40, 90), (64, 64), (500, 3), (33, 32)]
        .into_iter()
        .enumerate()
    {
        let values = (0..width * height * 3)
            .map(|at| (at * 31 % 251) as u8)
            .collect();
        let picture = Rgb::new(width, height, values).unwrap();
        std::fs::write(
            dir.join(format!("photos/{number}.png")),
            thumbnail::png(&picture).unwrap(),
        )
        .unwrap();
        table.push_str(&format!("photos/{number}.png,a red thing,both\n"));
    }
    std::fs::write(dir.join("shapes.csv"), &table).unwrap();
    let together = vectors(dir, "vilt", "shapes.csv", &[]);
    for (number, line) in table.lines().skip(1).enumerate() {
        std::fs::write(
            dir.join("one.csv"),
            format!("image,caption,label\n{line}\n"),
        )
        .unwrap();
        let alone = vectors(dir, "vilt", "one.csv", &[]);
        for (a, b) in alone[0].iter().zip(&together[number]) {
            assert!((a - b).abs() < 1e-5, "{number}: {a} {b}");
        }
    }
    assert!(
        together[0]
            .iter()
            .zip(&together[1])
            .any(|(a, b)| (a - b).abs() > 1e-3)
    );
}
