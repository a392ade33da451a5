//! Pre-training on unlabelled posts through the binary.

use std::path::Path;

use chiasm_format::Archive;

use crate::common::{TINY, fail, run, succeed, workspace};

const POSTS: &str = "builtin:synthitr,unlabelled=30,train=20,test=8";

/// The tiny recipe as two towers with what ITR learns.
fn recipe(dir: &Path) {
    let text = TINY
        .replace("projection_size = 16", "projection_size = 12")
        .replace(
            "[model.fusion]\nhidden_size = 16\nlayers = 1\nnum_heads = 2\nintermediate_size = 32\n",
            "[model.fusion]\nlayers = 0\n[model.heads]\nmatching = false\nmlm = false\n",
        )
        .replace(
            "[objectives.matching]\n[objectives.mlm]\n[objectives.global_completion]\n",
            "",
        )
        .replace(
            "[schedule]",
            "[objectives.cluster]\nclusters = 3\nchunk = 16\n[schedule]",
        );
    assert!(text.contains("layers = 0") && !text.contains("objectives.mlm"));
    std::fs::write(dir.join("posts.toml"), text).unwrap();
}

/// Trains on unlabelled posts; what the command said meanwhile.
fn train(dir: &Path, tasks: &str, out: &str) -> String {
    let args = [
        "pretrain",
        "posts.toml",
        "--data",
        POSTS,
        "--tasks",
        tasks,
        "--out",
        out,
    ];
    let output = run(dir, &args);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    said
}

#[test]
fn each_setting_of_tasks_trains_and_its_pairs_embed() {
    let dir = tempfile::tempdir().unwrap();
    recipe(dir.path());
    for tasks in ["1", "2+4", "3", "4"] {
        let out = format!("run-{}", &tasks[..1]);
        let said = train(dir.path(), tasks, &out);
        let has_chunks =
            said.contains("chunk 0: 16 pairs in groups of ") && said.contains("moved; inertia");
        assert_eq!(has_chunks, tasks != "4", "{tasks}: {said}");
        let metrics = std::fs::read_to_string(dir.path().join(&out).join("metrics.jsonl")).unwrap();
        assert_eq!(metrics.contains("\"kind\":\"cluster\""), tasks != "4");
        assert_eq!(metrics.contains("loss_contrastive"), tasks.contains('4'));
    }
    succeed(
        dir.path(),
        &[
            "embed",
            "run-2",
            "--data",
            POSTS,
            "--pairs",
            "--out",
            "posts.safetensors",
        ],
    );
    let archive = Archive::open(&dir.path().join("posts.safetensors")).unwrap();
    let vectors = archive
        .tensors()
        .iter()
        .find(|tensor| tensor.name == "pair_vectors");
    // Both towers are 16 wide.
    assert_eq!(vectors.unwrap().shape, [58, 32]);

    // In fewer bits the vectors are others, but hardly; plain operations have no products in 8.
    let product = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    let read = |name| {
        let archive = Archive::open(&dir.path().join(name)).unwrap();
        archive.read_f32("pair_vectors").unwrap()
    };
    let exact = read("posts.safetensors");
    for (precision, least) in [("int8", 0.999), ("bf16", 0.99999)] {
        let call = ["embed", "run-2", "--data", POSTS, "--pairs"];
        let rounded = ["--precision", precision, "--out", "rounded.safetensors"];
        for kernels in ["plain", "fused"] {
            let call = [&call[..], &["--kernels", kernels], &rounded].concat();
            if (kernels, precision) == ("plain", "int8") {
                let error = fail(dir.path(), &call);
                assert!(error.contains("`--precision int8` is for CPUs"), "{error}");
                continue;
            }
            succeed(dir.path(), &call);
            let rounded = read("rounded.safetensors");
            assert_ne!(exact, rounded);
            for (a, b) in exact.chunks_exact(32).zip(rounded.chunks_exact(32)) {
                let cosine = product(a, b) / (product(a, a) * product(b, b)).sqrt();
                assert!(cosine > least, "{kernels}, {precision}: {cosine}");
            }
        }
    }

    // A probe reads these vectors, not the twelve numbers of the common space.
    let labelled = "builtin:synthitr,unlabelled=1,train=80,test=20";
    for run in ["run-2", "run-1"] {
        let args = ["probe", run, "--data", labelled, "--out", "relation.json"];
        succeed(dir.path(), &args);
        let relation = std::fs::read(dir.path().join("relation.json")).unwrap();
        let relation: serde_json::Value = serde_json::from_slice(&relation).unwrap();
        assert_eq!(relation["probe"]["width"], 32, "{run}: {relation}");
    }
}

#[test]
fn a_picture_with_several_texts_is_embedded_as_its_copies_are() {
    let (dir, _) = workspace(2);
    recipe(dir.path());
    let photos = dir.path().join("photos");
    train(dir.path(), "4", "run");
    let names = ["0.png", "1.png", "0.png", "2.png"];
    for (name, copy) in [("1.png", "2.png"), ("0.png", "3.png")] {
        std::fs::copy(photos.join(name), photos.join(copy)).unwrap();
    }
    let vectors = |names: &[&str]| {
        // A label makes a row a sample of its own.
        let rows = ["a dog,yes", "two cats,no", "an old dog,no", "a cat,yes"];
        let rows: String = names
            .iter()
            .zip(rows)
            .map(|(name, row)| format!("photos/{name},{row}\n"))
            .collect();
        let table = format!("image,text,label\n{rows}");
        std::fs::write(dir.path().join("posts.csv"), table).unwrap();
        let args = [
            "embed",
            "run",
            "--data",
            "posts.csv",
            "--pairs",
            "--out",
            "v.safetensors",
        ];
        succeed(dir.path(), &args);
        let archive = Archive::open(&dir.path().join("v.safetensors")).unwrap();
        archive.read_f32("pair_vectors").unwrap()
    };
    let (once, copied) = (
        vectors(&names),
        vectors(&["0.png", "2.png", "3.png", "1.png"]),
    );
    assert_eq!(once.len(), 4 * 32);
    for (once, copied) in once.iter().zip(&copied) {
        assert!((once - copied).abs() < 1e-5, "{once} {copied}");
    }
    // Texts differ, pictures of a name do not.
    let (first, third) = (&once[..32], &once[64..96]);
    assert_eq!(first[16..], third[16..]);
    assert_ne!(first[..16], third[..16]);
}

#[test]
fn labels_are_learned_after_pre_training_and_scored_by_f1() {
    let dir = tempfile::tempdir().unwrap();
    recipe(dir.path());
    train(dir.path(), "1+4", "run");
    let labelled = "builtin:synthitr,unlabelled=0,train=40,test=20";
    let args = [
        "finetune",
        "posts.toml",
        "--data",
        labelled,
        "--tasks",
        "0",
        "--weights",
        "run",
        "--out",
        "tuned",
    ];
    succeed(dir.path(), &args);
    let report = succeed(dir.path(), &["eval", "tuned", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["classes"], 4);
    let f1 = &report["weighted_f1"];
    let inside = |value: &serde_json::Value| (0.0..=1.0).contains(&value.as_f64().unwrap());
    assert!(inside(&f1["classes"]), "{report}");
    assert!(
        inside(&f1["facts"][0]) && inside(&f1["facts"][1]),
        "{report}"
    );
}

#[test]
fn settings_that_are_none_and_texts_that_are_missing_say_why() {
    let dir = tempfile::tempdir().unwrap();
    recipe(dir.path());
    let with = |data: &str, tasks: &str| {
        let args = [
            "pretrain",
            "posts.toml",
            "--data",
            data,
            "--tasks",
            tasks,
            "--out",
            "run",
        ];
        fail(dir.path(), &args)
    };
    let error = with(POSTS, "5");
    assert!(
        error.contains("--tasks 5")
            && error.contains("hint: write 1, 2, 3, 4")
            && error.contains("or 0"),
        "{error}"
    );
    let error = with("builtin:emoji", "2");
    assert!(
        error.contains("text_ocr") && error.contains("column `ocr`"),
        "{error}"
    );
}
