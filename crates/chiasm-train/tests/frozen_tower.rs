//! A frozen image tower runs once a picture: what comes out of a run is the same but for rounding, and the same to
//! the bit whether it was stopped or not.
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
use chiasm_nn::weights::state_dict;
use chiasm_train::prepare::tokenizer;
use chiasm_train::{Recipe, TrainData, Trainer};
use common::{MODEL, train};

/// Two epochs and a part of a third, of everything that reads complete or masked pictures.
const EVERYTHING: &str = r#"
[objectives]
fused_share = 0.5
[objectives.contrastive]
[objectives.matching]
[objectives.mlm]
[objectives.global_completion]
[objectives.local_completion]
[schedule]
steps = 7
batch_size = 6
eval_every = 0
save_every = 3
keep = 9
seed = 3
[weights]
freeze = ["vision"]
"#;

const CLASSES: &str = r#"
[objectives.classification]
classes = "labels"
[schedule]
steps = 5
batch_size = 8
eval_every = 0
save_every = 2
keep = 9
[weights]
freeze = ["vision"]
"#;

fn labelled(count: usize) -> Dataset {
    let mut set = builtin::emoji().unwrap().subset(Split::Train);
    set.samples.truncate(count);
    for (number, sample) in set.samples.iter_mut().enumerate() {
        sample.annotations.label = Some(["one", "other"][number % 2].to_owned());
    }
    set
}

fn trainer(recipe: &str) -> Trainer {
    let model = MODEL.replace("crop = [0.7, 1.0]\nflip = 0.5", "");
    let recipe = Recipe::from_toml(&format!("{model}{recipe}"), "test").unwrap();
    let data = TrainData::new(&recipe, vec![labelled(16)]).unwrap();
    let tokenizer = Arc::new(tokenizer(&recipe, &data).unwrap());
    Trainer::new(recipe, &data, tokenizer, &Device::flex()).unwrap()
}

/// Every weight after a run that is stopped and resumed after some steps.
fn weights(recipe: &str, folder: &Path, stop_after: u64) -> Vec<(String, Vec<f32>)> {
    let mut trainer_before = trainer(recipe);
    train(&mut trainer_before, folder, stop_after, false);
    let mut resumed = trainer(recipe);
    train(&mut resumed, folder, u64::MAX, true);
    state_dict(&resumed.evaluation_model())
        .into_iter()
        .map(|(name, tensor)| (name, tensor.values))
        .collect()
}

/// Equal up to `tolerance`; 0: to the bit.
fn assert_same(found: &[(String, Vec<f32>)], expected: &[(String, Vec<f32>)], tolerance: f32) {
    assert_eq!(found.len(), expected.len());
    for ((name, found), (other, expected)) in found.iter().zip(expected) {
        assert_eq!((name, found.len()), (other, expected.len()));
        let pairs = found.iter().zip(expected);
        let largest = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(largest <= tolerance, "{name}: {largest}");
    }
}

#[test]
fn a_run_ends_the_same_with_and_without() {
    for recipe in [EVERYTHING, CLASSES] {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let without = weights(&format!("{recipe}cache_mb = 0\n"), &at("without"), 1);
        let with = weights(recipe, &at("with"), 1);
        // Adam makes a whole step of a gradient that is rounding.
        assert_same(&with, &without, 2e-4);
        // What was kept before a stop is computed again in batches of other samples.
        assert_same(&weights(recipe, &at("stopped"), 4), &with, 0.0);
    }
}

#[test]
fn grey_pictures_are_one_picture() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let blind = format!("{CLASSES}[data]\nblind = true\n");
    let without = blind.replace("[data]", "cache_mb = 0\n[data]");
    let without = weights(&without, &at("without"), 2);
    assert_same(&weights(&blind, &at("with"), 2), &without, 2e-4);
}
