//! Gradient checkpointing changes what is kept for the backward pass and nothing else: losses, gradient norms
//! and weights are those of a run without, to the bit, whatever is random in a step.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed unwrap here is the failed test"
)]

mod common;

use std::path::Path;
use std::sync::Arc;

use burn::tensor::Device;
use chiasm_data::{Dataset, Split, builtin};
use chiasm_nn::compute::{self, Kernels};
use chiasm_nn::weights::{StateDict, state_dict};
use chiasm_train::prepare::tokenizer;
use chiasm_train::{Recipe, StepRecord, TrainData, Trainer};
use common::{MODEL, train};

/// Every objective of two streams, in two micro-batches; the model drops out.
const EVERYTHING: &str = r#"
[objectives]
fused_share = 0.5
[objectives.contrastive]
[objectives.matching]
[objectives.mlm]
[objectives.global_completion]
[objectives.local_completion]
[objectives.classification]
classes = "labels"
[schedule]
accumulate = 2
"#;

/// What one stream over words and patches learns.
const ONE_STREAM: &str = r#"
[objectives.matching]
[objectives.mlm]
[schedule]
"#;

/// The common model with other lines, and a recipe behind it.
fn with(changes: &[(&str, &str)], recipe: &str) -> String {
    let model = MODEL.replace("layers = 1", "layers = 2");
    let model = changes.iter().fold(model, |model, (from, to)| {
        assert!(model.contains(from), "{from}");
        model.replacen(from, to, 1)
    });
    format!("{model}{recipe}steps = 3\nbatch_size = 6\neval_every = 0\nsave_every = 0\nseed = 5\n")
}

fn labelled() -> Dataset {
    let mut set = builtin::emoji().unwrap().subset(Split::Train);
    set.samples.truncate(24);
    for (number, sample) in set.samples.iter_mut().enumerate() {
        sample.annotations.label = Some(["one", "other"][number % 2].to_owned());
    }
    set
}

/// A run of a recipe with or without.
fn trainer(recipe: &str, checkpointing: bool) -> Trainer {
    let switch = format!("[schedule]\ngradient_checkpointing = {checkpointing}");
    let recipe = recipe.replace("[schedule]", &switch);
    let recipe = Recipe::from_toml(&recipe, "test").unwrap();
    assert_eq!(recipe.schedule.gradient_checkpointing, checkpointing);
    let data = TrainData::new(&recipe, vec![labelled()]).unwrap();
    let tokenizer = Arc::new(tokenizer(&recipe, &data).unwrap());
    Trainer::new(recipe, &data, tokenizer, &Device::flex()).unwrap()
}

/// What every step did, and the weights at the end.
fn run(recipe: &str, checkpointing: bool) -> (Vec<StepRecord>, StateDict) {
    let folder = tempfile::tempdir().unwrap();
    let mut trainer = trainer(recipe, checkpointing);
    let (_, records) = train(&mut trainer, folder.path(), u64::MAX, false);
    (records, state_dict(&trainer.evaluation_model()))
}

fn assert_same(recipe: &str) {
    for kernels in [Kernels::Fused, Kernels::Plain] {
        compute::with(kernels, || {
            let (kept, weights) = run(recipe, false);
            let (made_again, found) = run(recipe, true);
            assert_eq!(kept.len(), 3);
            for (one, other) in kept.iter().zip(&made_again) {
                let of =
                    |record: &StepRecord| (record.loss, record.gradient_norm, record.terms.clone());
                assert_eq!(of(one), of(other), "{kernels:?}, step {}", one.step);
                // What attention keeps is counted once.
                let counts = |record: &StepRecord| format!("{:?}", record.kept);
                assert_eq!(counts(one), counts(other));
            }
            for (name, tensor) in &weights {
                let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                let other = found.get(name).unwrap();
                assert_eq!(
                    bits(&tensor.values),
                    bits(&other.values),
                    "{kernels:?}, {name}"
                );
            }
        });
    }
}

#[test]
fn two_streams_with_every_objective() {
    assert_same(&with(&[], EVERYTHING));
}

#[test]
fn a_frozen_tower_that_is_read_from_memory() {
    let still = ("crop = [0.7, 1.0]\nflip = 0.5", "");
    let recipe = EVERYTHING.replace("[schedule]", "[weights]\nfreeze = [\"vision\"]\n[schedule]");
    assert_same(&with(&[still], &recipe));
}

#[test]
fn attention_that_keeps_some_and_counts_it() {
    let recipe = EVERYTHING.replace("[schedule]", "[model.select]\nvalue = 0.02\n[schedule]");
    assert_same(&with(&[], &recipe));
}

#[test]
fn one_stream_with_norms_before_and_after() {
    for norm in ["before", "after"] {
        let stream = format!("[model.fusion]\nkind = \"one_stream\"\nnorm = \"{norm}\"");
        let changes = [
            (
                "hidden_size = 16\nlayers = 2",
                "hidden_size = 16\nlayers = 0",
            ),
            ("[model.fusion]", stream.as_str()),
            (
                "patch_size = 6\nhidden_size = 16\nlayers = 2",
                "patch_size = 6\nhidden_size = 16\nlayers = 0",
            ),
            (
                "init_std = 0.1",
                "init_std = 0.1\n[model.heads]\ncontrastive = false",
            ),
        ];
        assert_same(&with(&changes, ONE_STREAM));
    }
}

#[test]
fn groups_found_chunk_by_chunk() {
    let towers = (
        "[model.fusion]\nhidden_size = 16\nlayers = 2",
        "[model.fusion]\nlayers = 0",
    );
    let recipe = r#"
[model.heads]
matching = false
mlm = false
projection = "linear"
[objectives.contrastive]
temperature = 1.0
[objectives.cluster]
clusters = 2
chunk = 12
restarts = 1
[schedule]
"#;
    assert_same(&with(&[towers], recipe));
}

#[test]
fn a_run_goes_on_with_it_to_the_same_weights() {
    let recipe = with(&[], EVERYTHING);
    let folder = tempfile::tempdir().unwrap();
    let ends = |folder: &Path, [before, after]: [bool; 2]| {
        let mut first = trainer(&recipe, before);
        assert!(train(&mut first, folder, 1, false).0.interrupted);
        let mut second = trainer(&recipe, after);
        train(&mut second, folder, u64::MAX, true);
        state_dict(&second.evaluation_model())
    };
    let whole = run(&recipe, false).1;
    assert_eq!(ends(&folder.path().join("on"), [false, true]), whole);
    assert_eq!(ends(&folder.path().join("off"), [true, false]), whole);
}
