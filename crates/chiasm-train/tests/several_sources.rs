//! Runs that learn from several sources, with parts frozen, with classes: what moves, what stays, and
//! that stopping changes nothing.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed unwrap here is the failed test"
)]

mod common;

use std::collections::BTreeSet;
use std::sync::Arc;

use burn::tensor::{Device, Tensor, TensorData};
use chiasm_data::{Clip, Dataset, Split, Visual, builtin};
use chiasm_nn::VisionLanguageModel;
use chiasm_nn::text::TextInput;
use chiasm_nn::weights::state_dict;
use chiasm_train::prepare::tokenizer;
use chiasm_train::{Recipe, TrainData, Trainer};
use common::{MODEL, bytes, train};

/// Clips with labels twice as often as pictures without; all objectives that both can have.
const MIXED: &str = r#"
max_frames = 4
[data]
weight = 2.0
frames = 3
[[mix]]
weight = 1.0
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
steps = 6
batch_size = 6
eval_every = 0
save_every = 2
keep = 9
seed = 11
"#;

/// The first drawings of the built-in set.
fn pictures(count: usize) -> Dataset {
    let mut set = builtin::emoji().unwrap().subset(Split::Train);
    set.samples.truncate(count);
    set
}

/// Clips of three drawings each, of three kinds.
fn labelled_clips() -> Dataset {
    let mut set = pictures(24);
    let drawings = set.samples.iter();
    let drawings: Vec<_> = drawings
        .map(|sample| sample.visual.sources()[0].clone())
        .collect();
    for (number, sample) in set.samples.iter_mut().enumerate() {
        let frames = (0..3).map(|frame| drawings[(number + frame) % drawings.len()].clone());
        sample.visual = Visual::Clip(Clip::Frames(frames.collect()));
        sample.annotations.label = Some(["one", "other", "third"][number % 3].to_owned());
    }
    set
}

fn trainer(recipe: &str, sets: Vec<Dataset>) -> Trainer {
    let recipe = Recipe::from_toml(&format!("{MODEL}{recipe}"), "test").unwrap();
    let data = TrainData::new(&recipe, sets).unwrap();
    let tokenizer = Arc::new(tokenizer(&recipe, &data).unwrap());
    Trainer::new(recipe, &data, tokenizer, &Device::flex()).unwrap()
}

fn mixed() -> Trainer {
    trainer(MIXED, vec![labelled_clips(), pictures(40)])
}

#[test]
fn a_mixed_run_resumes_exactly_and_teaches_classes_where_there_are_some() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let (_, records) = train(&mut mixed(), &at("whole"), u64::MAX, false);
    let whole = bytes(&at("whole"));
    for stop_after in [1, 2, 3] {
        let name = format!("stopped-{stop_after}");
        let (outcome, _) = train(&mut mixed(), &at(&name), stop_after, false);
        assert!(outcome.interrupted);
        let (outcome, rest) = train(&mut mixed(), &at(&name), u64::MAX, true);
        assert_eq!((outcome.step, rest.len() as u64), (6, 6 - stop_after));
        assert_eq!(bytes(&at(&name)), whole, "resumed after step {stop_after}");
    }

    // Two batches of three have classes; the other objectives are in all of them.
    let with_classes = records.iter();
    let with_classes = with_classes.filter(|record| record.terms.contains_key("classification"));
    assert_eq!(with_classes.count(), 4);
    for record in &records {
        let mut names: BTreeSet<&str> = record.terms.keys().map(String::as_str).collect();
        names.remove("classification");
        let expected = [
            "contrastive",
            "global_completion_image",
            "global_completion_text",
            "local_completion_image",
            "local_completion_text",
            "matching",
            "mlm",
        ];
        assert_eq!(names, BTreeSet::from(expected), "step {}", record.step);
        assert!(record.loss.is_finite() && record.gradient_norm > 0.0);
    }

    // Another weight is another order.
    let other = MIXED.replace("weight = 2.0", "weight = 0.5");
    let mut other = trainer(&other, vec![labelled_clips(), pictures(40)]);
    let (_, records) = train(&mut other, &at("other"), u64::MAX, false);
    let with_classes = records.iter();
    let with_classes = with_classes.filter(|record| record.terms.contains_key("classification"));
    assert_eq!(with_classes.count(), 2);
}

/// Names of the parameters that differ, bit by bit.
fn moved(one: &VisionLanguageModel, other: &VisionLanguageModel) -> BTreeSet<String> {
    let (one, other) = (state_dict(one), state_dict(other));
    assert!(one.keys().eq(other.keys()));
    let bits = |values: &[f32]| {
        values
            .iter()
            .map(|value| value.to_bits())
            .collect::<Vec<_>>()
    };
    let differs = one
        .into_iter()
        .filter(|(name, tensor)| bits(&tensor.values) != bits(&other[name].values));
    differs.map(|(name, _)| name).collect()
}

#[test]
fn a_frozen_tower_stays_as_it_is_while_the_rest_moves() {
    for (frozen, part) in [("vision", "vision."), ("text", "text.")] {
        let recipe = format!("{MIXED}[weights]\nfreeze = [\"{frozen}\"]\n");
        let fresh = || trainer(&recipe, vec![labelled_clips(), pictures(40)]);
        let folder = tempfile::tempdir().unwrap();
        let mut trained = fresh();
        let before = trained.evaluation_model();
        train(&mut trained, folder.path(), 3, false);
        // Frozen also after a checkpoint was read back.
        let mut resumed = fresh();
        train(&mut resumed, folder.path(), u64::MAX, true);
        let names = moved(&before, &resumed.evaluation_model());
        // What an image tower has for clips and hidden patches came without weights, and learns.
        let is_new = |name: &str| ["vision.temporal", "vision.mask_token"].contains(&name);
        let is_frozen = |name: &str| name.starts_with(part) && !is_new(name);
        let stayed = names.iter().all(|name| !is_frozen(name));
        assert!(stayed, "{names:?}");
        for other in [
            "vision.blocks",
            "vision.temporal",
            "vision.mask_token",
            "text.layers",
            "image_transform",
            "text_transform",
            "fusion.text_layers",
            "fusion.image_layers",
            "class_head",
            "match_head",
            "mlm_head",
            "text_projection",
            "temperature",
        ] {
            let moves = names.iter().any(|name| name.starts_with(other));
            assert_eq!(moves, !is_frozen(other), "{other} with {frozen} frozen");
        }
    }
}

/// One pair has nothing to be told apart from: losses of contrast are 0, and nothing is infinite.
#[test]
fn a_batch_of_one_is_a_step() {
    let one = MIXED
        .replace("batch_size = 6", "batch_size = 1")
        .replace("[objectives.mlm]", "[objectives.mlm]\n[objectives.ranking]");
    let mut trainer = trainer(&one, vec![labelled_clips(), pictures(3)]);
    let folder = tempfile::tempdir().unwrap();
    let (_, records) = train(&mut trainer, folder.path(), u64::MAX, false);
    assert_eq!(records.len(), 6);
    for record in records {
        assert!(record.loss.is_finite() && record.gradient_norm.is_finite());
        for name in ["contrastive", "ranking", "global_completion_text"] {
            assert!(record.terms[name].abs() < 1e-6, "{name}");
        }
        assert!(record.terms["mlm"] > 0.0);
    }
}

/// M5: a head that ranks begins as the matching head's "matches" when the weights have none.
#[test]
fn ranking_begins_as_matching() {
    let folder = tempfile::tempdir().unwrap();
    let pretrain = "[objectives.matching]\n[schedule]\nsteps = 2\nbatch_size = 6\neval_every = 0\n";
    let mut pretrained = trainer(pretrain, vec![pictures(12)]);
    train(&mut pretrained, folder.path(), u64::MAX, false);
    let rank = format!(
        "[objectives.ranking]\n[weights]\nmodel = {:?}\n",
        folder.path().display().to_string()
    );
    let mut ranking = trainer(&rank, vec![pictures(12)]);
    let drawn = ranking.evaluation_model();
    ranking.begin_with_weights().unwrap();
    let model = ranking.evaluation_model();
    let scores = |model: &VisionLanguageModel| {
        let device = Device::flex();
        let pixels: Vec<f32> = (0..2 * 3 * 24 * 24)
            .map(|index| (index * 37 % 101) as f32 / 50.0 - 1.0)
            .collect();
        let pixels = Tensor::from_data(TensorData::new(pixels, [2, 3, 24, 24]), &device);
        let text = TextInput::from_padded(&[2, 7, 3, 2, 9, 3], &[1; 6], 3);
        let fused = model.fuse(
            &model.encode_text(&text),
            &model.encode_images(pixels).unwrap(),
            1,
        );
        let pooled = model.pooled(&fused);
        let matches = model
            .match_head
            .as_ref()
            .unwrap()
            .forward(pooled.clone())
            .narrow(1, 1, 1);
        let ranked = model.rank_head.as_ref().unwrap().forward(pooled);
        [ranked, matches].map(|scores| scores.into_data().try_into_vec::<f32>().unwrap())
    };
    let [ranked, matches] = scores(&model);
    // A product with one column may round otherwise than one with two.
    for (ranked, matches) in ranked.iter().zip(&matches) {
        assert!((ranked - matches).abs() <= 1e-6, "{ranked} and {matches}");
    }
    let [ranked, matches] = scores(&drawn);
    assert_ne!(ranked, matches, "a drawn head is another one");
}

/// S12: eight pairs are learned by heart; completion falls far below what guessing costs.
#[test]
fn completion_learns_eight_pairs() {
    let recipe = r#"
[objectives.global_completion]
[optimizer]
learning_rate = 5e-3
[schedule]
steps = 200
batch_size = 8
eval_every = 0
save_every = 0
"#;
    let recipe = format!("{MODEL}{recipe}")
        .replace("dropout = 0.1", "dropout = 0.0")
        .replace("crop = [0.7, 1.0]\nflip = 0.5", "")
        .replace("init_std = 0.1", "init_std = 0.25");
    let recipe = Recipe::from_toml(&recipe, "test").unwrap();
    let data = TrainData::new(&recipe, vec![pictures(8)]).unwrap();
    let tokenizer = Arc::new(tokenizer(&recipe, &data).unwrap());
    let mut trainer = Trainer::new(recipe, &data, tokenizer, &Device::flex()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (_, records) = train(&mut trainer, folder.path(), u64::MAX, false);
    let last = &records[190..];
    let mean = last.iter().map(|record| record.loss).sum::<f64>() / 10.0;
    let guessed = 4.0 * 8f64.ln();
    assert!(mean < 0.1 * guessed, "{mean} of {guessed}");
}

fn refused(recipe: &str, sets: Vec<Dataset>) -> String {
    let recipe = Recipe::from_toml(&format!("{MODEL}{recipe}"), "test").unwrap();
    TrainData::new(&recipe, sets).err().unwrap().to_string()
}

/// A source of several classes loses the samples without one; a source without any keeps them all.
#[test]
fn samples_without_a_class() {
    let some = |mut set: Dataset, count: usize| {
        for (number, sample) in set.samples.iter_mut().take(count).enumerate() {
            sample.annotations.label = Some(["one", "other"][number % 2].to_owned());
        }
        set
    };
    let recipe = Recipe::from_toml(&format!("{MODEL}{MIXED}[[mix]]\n"), "test").unwrap();
    let sets = vec![labelled_clips(), some(pictures(20), 15), pictures(30)];
    let data = TrainData::new(&recipe, sets).unwrap();
    let sizes: Vec<usize> = data
        .sources
        .iter()
        .map(|source| source.dataset.len())
        .collect();
    assert_eq!(sizes, [24, 15, 30]);
    let taught = data.sources.iter().map(|source| source.targets.is_some());
    assert_eq!(taught.collect::<Vec<_>>(), [true, true, false]);
    assert_eq!(data.without_class, 5);

    // Where classes are all there is to learn, a source without any has nothing to teach.
    let only = "[[mix]]\n[objectives.classification]\nclasses = \"labels\"\n";
    let message = refused(only, vec![some(pictures(20), 20), pictures(30)]);
    assert!(
        message.contains("belong to none of the classes"),
        "{message}"
    );
    let message = refused(only, vec![pictures(20), some(pictures(30), 30)]);
    assert!(message.contains("0 classes"), "{message}");
}
