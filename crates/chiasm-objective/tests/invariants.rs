//! Numeric invariants of `specs/scl.md` section 10 for the losses.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed unwrap here is the failed test"
)]

use std::sync::Arc;

use burn::tensor::{Device, Tensor, TensorData};
use chiasm_nn::criterion::Sides;
use chiasm_nn::criterion::{constant_temperature, cross_entropy, nce};
use chiasm_nn::layers::{Init, normalize};
use chiasm_nn::model::Seen;
use chiasm_nn::text::TextInput;
use chiasm_nn::tokens::Chosen;
use chiasm_nn::{
    FusionConfig, HeadsConfig, ModelConfig, Spans, TextConfig, VisionConfig, VisionLanguageModel,
};
use chiasm_objective::classification::{ClassTargets, binary_loss};
use chiasm_objective::completion::{completion_loss, frame_completion_loss};
use chiasm_objective::config::{
    ClassificationConfig, ContrastiveConfig, GlobalCompletionConfig, LocalCompletionConfig,
    MatchingConfig, MlmConfig, RankingConfig,
};
use chiasm_objective::contrast::{contrastive_loss, image_to_text_loss};
use chiasm_objective::forward::{MaskedText, forward};
use chiasm_objective::masking::{DrawKey, ImageRows, MatchingDraw, patch_draw};
use chiasm_objective::mlm::MlmTargets;
use chiasm_objective::plan::{MASKED_IMAGE_PASS, MASKED_TEXT_PASS};
use chiasm_objective::ranking::{RankingDraw, ranking_loss};
use chiasm_objective::{Features, ForwardPlan, Losses, ObjectivesConfig, StepInput, losses};

fn matrix(rows: &[&[f32]], device: &Device) -> Tensor<2> {
    let width = rows.first().map_or(0, |row| row.len());
    Tensor::from_data(TensorData::new(rows.concat(), [rows.len(), width]), device)
}

fn scalar(tensor: Tensor<1>) -> f64 {
    f64::from(tensor.into_scalar::<f32>())
}

fn nce_of(similarity: Tensor<2>, temperature: f64) -> f64 {
    let temperature = constant_temperature(temperature, &similarity.device());
    scalar(nce(similarity, temperature))
}

fn near(found: f64, expected: f64) {
    assert!(
        (found - expected).abs() <= 1e-5 * expected.abs().max(1.0),
        "{found} instead of {expected}"
    );
}

#[test]
fn nce_closed_forms() {
    let device = Device::flex();
    for temperature in [0.03, 0.07, 1.0] {
        near(
            nce_of(Tensor::full([4, 4], 0.3, &device), temperature),
            2.772_588_7,
        ); // N1
        near(
            nce_of(Tensor::full([8, 8], 0.3, &device), temperature),
            4.158_883_1,
        );
    }
    near(nce_of(Tensor::eye(4, &device), 1.0), 1.487_336_8); // N2
    near(nce_of(Tensor::eye(8, &device), 1.0), 2.548_017_7); // N3
    assert!(nce_of(Tensor::eye(4, &device), 0.03).abs() < 1e-6); // N4
    let shifted: Tensor<2> = Tensor::eye(4, &device).roll_dim(1, 0);
    near(nce_of(shifted.clone(), 1.0), 3.487_336_8); // N5
    near(nce_of(shifted.clone(), 0.07), 28.571_432);
    near(nce_of(shifted, 0.03), 66.666_667);
    near(
        nce_of(matrix(&[&[0.9, 0.1], &[0.3, 0.8]], &device), 1.0),
        0.842_925_8,
    ); // N6
}

#[test]
fn nce_at_the_edges() {
    let device = Device::flex().autodiff();
    let one: Tensor<2> = Tensor::full([1, 1], 0.4, &device).require_grad();
    let loss = nce(one.clone(), constant_temperature(0.03, &device));
    assert_eq!(scalar(loss.clone()), 0.0); // N7
    let gradient = one.grad(&loss.backward()).unwrap().into_scalar::<f32>();
    assert_eq!(gradient, 0.0);
    let none: Tensor<2> = Tensor::zeros([0, 0], &device);
    assert_eq!(scalar(nce(none, constant_temperature(0.03, &device))), 0.0); // N9
    // N8: a constant added to all similarities, and the transpose, change nothing.
    let similarity = matrix(
        &[&[0.9, 0.1, -0.4], &[0.3, 0.8, 0.0], &[0.2, 0.5, 0.6]],
        &device,
    );
    let value = nce_of(similarity.clone(), 0.07);
    near(nce_of(similarity.clone() + 0.5, 0.07), value);
    near(nce_of(similarity.transpose(), 0.07), value);
}

#[test]
fn contrast_is_free_of_scale_and_finite_at_zero() {
    let device = Device::flex().autodiff();
    let text = matrix(&[&[1.0, 2.0], &[-1.0, 0.5]], &device);
    let image = matrix(&[&[0.3, 1.0], &[-2.0, 1.0]], &device);
    let temperature = || constant_temperature(0.07, &device);
    let value = scalar(contrastive_loss(
        Sides::alone([text.clone(), image.clone()]),
        temperature(),
    ));
    near(
        scalar(contrastive_loss(
            Sides::alone([text * 7.0, image.clone()]),
            temperature(),
        )),
        value,
    ); // N10
    let zeros = matrix(&[&[0.0, 0.0], &[0.0, 1.0]], &device).require_grad();
    let loss = contrastive_loss(Sides::alone([zeros.clone(), image]), temperature());
    assert!(scalar(loss.clone()).is_finite());
    let gradient = zeros.grad(&loss.backward()).unwrap();
    assert!(
        gradient
            .into_data()
            .try_into_vec::<f32>()
            .unwrap()
            .iter()
            .all(|g| g.is_finite())
    );
    // M3: identical features of four samples.
    let same: Tensor<2> = Tensor::full([4, 3], 0.5, &device);
    near(
        scalar(contrastive_loss(
            Sides::alone([same.clone(), same]),
            temperature(),
        )),
        1.386_294_3,
    );
}

/// S1 and S14: values and gradients of the worked example; the targets get none.
#[test]
fn completion_worked_example() {
    for (temperature, expected, gradients) in [
        (1.0, 1.018_556_3, [0.0, -0.090_185_2, 0.209_653_5, 0.0]),
        (0.07, 2.912_986_8, [f32::NAN; 4]),
        (0.03, 6.667_938_5, [0.0, -6.658_193, 11.096_989, 0.0]),
    ] {
        let device = Device::flex().autodiff();
        let recovered = matrix(&[&[2.0, 0.0], &[0.0, 3.0]], &device).require_grad();
        let complete = matrix(&[&[0.6, 0.8], &[-0.8, 0.6]], &device).require_grad();
        let loss = completion_loss(
            Sides::alone([recovered.clone(), complete.clone()]),
            temperature,
        );
        near(scalar(loss.clone()), expected);
        let found = loss.backward();
        assert!(complete.grad(&found).is_none(), "targets are detached");
        let found = recovered
            .grad(&found)
            .unwrap()
            .into_data()
            .try_into_vec::<f32>()
            .unwrap();
        for (found, expected) in found.iter().zip(gradients) {
            if !expected.is_nan() {
                near(f64::from(*found), f64::from(expected));
            }
        }
    }
}

#[test]
fn cross_entropy_of_zero_logits() {
    let device = Device::flex();
    near(
        scalar(cross_entropy(Tensor::zeros([3, 2], &device), &[0, 1, 1])),
        std::f64::consts::LN_2,
    );
    near(
        scalar(cross_entropy(
            Tensor::zeros([2, 50_265], &device),
            &[7, 50_264],
        )),
        10.825_064,
    ); // M1
    assert_eq!(
        scalar(cross_entropy(Tensor::zeros([0, 5], &device), &[])),
        0.0
    );
}

/// M4: whatever the right answers are, 3,129 undecided questions cost 3129 ln 2.
#[test]
fn binary_loss_of_zero_logits() {
    let device = Device::flex();
    let mut worth = vec![0.0; 2 * 3129];
    (worth[7], worth[8], worth[3129]) = (1.0, 0.3, 0.6);
    let logits = Tensor::zeros([2, 3129], &device);
    near(scalar(binary_loss(logits, &worth)), 2_168.857_5);
}

/// M5: sixteen candidates that score alike, and the published worked example of the contrast.
#[test]
fn ranking_closed_forms() {
    let device = Device::flex();
    near(
        scalar(ranking_loss(Tensor::zeros([4, 16], &device))),
        2.772_588_7,
    );
    // Cosines of two images with eight texts; the own texts are put first. A ninth axis makes the
    // second image as long as the first.
    let images = matrix(
        &[
            &[0.9, 0.3, 0.2, 0.1, 0.0, 0.1, 0.0, 0.2, 0.0],
            &[0.1, 0.7, 0.0, 0.2, 0.1, 0.4, 0.3, 0.1, 0.19f32.sqrt()],
        ],
        &device,
    );
    let texts = Tensor::<2>::eye(9, &device).narrow(0, 0, 8);
    let loss = image_to_text_loss(texts, images, constant_temperature(0.07, &device));
    let (found, expected) = (scalar(loss), 9.302_62e-3);
    assert!((found - expected).abs() < 1e-6, "{found}");
}

/// S12b: where everything recovered is the same, nothing is better than ln N in each direction.
#[test]
fn completion_that_cannot_tell_samples_apart() {
    let device = Device::flex();
    let recovered = matrix(&[&[1.0, 0.0], &[1.0, 0.0], &[1.0, 0.0]], &device);
    let complete = matrix(&[&[1.0, 0.0], &[0.0, 1.0], &[0.6, 0.8]], &device);
    let bound = 2.0 * 3f64.ln();
    let loss = |complete| {
        scalar(completion_loss(
            Sides::alone([recovered.clone(), complete]),
            1.0,
        ))
    };
    near(loss(complete), 2.277_345_8);
    near(loss(Tensor::full([3, 2], 0.4, &device)), bound);
}

fn frames_completed(recovered: Tensor<3>, complete: Tensor<3>) -> Tensor<1> {
    let [_, frames, _] = recovered.dims();
    let sides = Sides::alone([recovered, complete].map(|side| side.flatten(1, 2)));
    frame_completion_loss(&sides, frames, 0.03)
}

/// S8: recovered frames of clips of one frame get a gradient: features are normalised over their
/// width, not over frames.
#[test]
fn clips_of_one_frame_learn_to_be_completed() {
    let device = Device::flex().autodiff();
    let of = |rows: &[&[f32]]| matrix(rows, &device).unsqueeze_dim::<3>(1);
    let recovered = of(&[&[2.0, 0.1], &[0.3, 3.0], &[1.0, 1.0]]).require_grad();
    let complete = of(&[&[0.6, 0.8], &[-0.8, 0.6], &[1.0, 0.2]]);
    let loss = frames_completed(recovered.clone(), complete);
    let gradient = recovered.grad(&loss.backward()).unwrap();
    assert!(gradient.abs().sum().into_scalar::<f32>() > 1.0);
}

/// Patches of a frame of [`model`].
const PATCHES: usize = 9;

fn model(device: &Device) -> VisionLanguageModel {
    let config = ModelConfig {
        text: TextConfig {
            vocab_size: 40,
            hidden_size: 12,
            layers: 1,
            num_heads: 3,
            intermediate_size: 20,
            max_text_len: 8,
            dropout: 0.0,
            ..TextConfig::default()
        },
        vision: VisionConfig {
            image_size: 12,
            patch_size: 4,
            hidden_size: 16,
            layers: 2,
            num_heads: 4,
            intermediate_size: 24,
            max_frames: 4,
            mask_token: true,
            ..VisionConfig::default()
        },
        fusion: FusionConfig {
            hidden_size: 20,
            layers: 2,
            num_heads: 2,
            intermediate_size: 24,
            dropout: 0.0,
            ..FusionConfig::default()
        },
        heads: HeadsConfig {
            classes: 3,
            pictures: 1,
            ranking: true,
            ..HeadsConfig::default()
        },
        projection_size: 6,
        init_std: 0.2,
        ..ModelConfig::default()
    };
    VisionLanguageModel::new(&Init::new(3, config.init_std, device), &config)
}

/// A pair with everything random about it drawn.
#[derive(Clone)]
struct Pair {
    /// Says what the picture and its frames look like.
    looks: usize,
    ids: Vec<u32>,
    /// Which tokens are masked for completion, and asked for by MLM.
    masked: Vec<usize>,
    /// Patches kept in the masked picture.
    kept: Vec<usize>,
    /// Patches hidden behind the mask token.
    hidden: Vec<usize>,
    /// The `looks` of the picture it is matched with.
    partner: usize,
    class: u32,
}

const MASK_ID: u32 = 39;

fn pairs() -> Vec<Pair> {
    let pair = |looks, ids: &[u32], masked: &[usize], kept: &[usize], hidden: &[usize]| Pair {
        looks,
        ids: ids.to_vec(),
        masked: masked.to_vec(),
        kept: kept.to_vec(),
        hidden: hidden.to_vec(),
        partner: looks,
        class: looks as u32 % 3,
    };
    let mut pairs = vec![
        pair(0, &[1, 5, 6, 7, 2], &[1, 3], &[0, 4], &[1, 2]),
        pair(1, &[1, 8, 9, 2], &[2], &[3, 8], &[0, 7]),
        pair(2, &[1, 10, 11, 12, 13, 2], &[1, 4], &[2, 5], &[4, 8]),
        pair(3, &[1, 14, 15, 2], &[1, 2], &[6, 7], &[3, 5]),
    ];
    (pairs[1].partner, pairs[3].partner) = (3, 0);
    pairs
}

fn texts(rows: impl Iterator<Item = Vec<u32>>) -> TextInput {
    let rows: Vec<Vec<u32>> = rows.collect();
    TextInput {
        spans: Spans::new(rows.iter().map(Vec::len)),
        ids: Arc::from(rows.concat()),
        types: None,
    }
}

/// A step over pairs whose pictures are clips of `frames` equal frames.
fn step(pairs: &[Pair], frames: usize, device: &Device) -> StepInput {
    let pixels = |pair: &Pair| {
        let shift = pair.looks * 23;
        let value = move |index: usize| ((index * 37 + shift) % 101) as f32 / 50.0 - 1.0;
        let frame: Vec<f32> = (0..3 * 12 * 12).map(value).collect();
        frame.repeat(frames)
    };
    let pixels: Vec<f32> = pairs.iter().flat_map(pixels).collect();
    let corrupted = || {
        texts(pairs.iter().map(|pair| {
            let mut ids = pair.ids.clone();
            pair.masked.iter().for_each(|place| ids[*place] = MASK_ID);
            ids
        }))
    };
    let clean = texts(pairs.iter().map(|pair| pair.ids.clone()));
    let starts = clean.spans.iter().map(|span| span.start);
    let positions: Vec<usize> = starts
        .zip(pairs)
        .flat_map(|(start, pair)| pair.masked.iter().map(move |place| start + place))
        .collect();
    let in_frames = |places: fn(&Pair) -> &Vec<usize>| {
        let of = |(number, pair)| {
            let frame = move |frame| {
                let start = (number * frames + frame) * PATCHES;
                places(pair).iter().map(move |place| start + place)
            };
            (0..frames).flat_map(frame)
        };
        pairs.iter().enumerate().flat_map(of).collect::<Vec<_>>()
    };
    let kept = pairs.iter().flat_map(|pair| vec![pair.kept.len(); frames]);
    let count = pairs.len();
    StepInput {
        encoded: None,
        seen: Seen::Pixels(Tensor::from_data(
            TensorData::new(pixels, [count, frames, 3, 12, 12]),
            device,
        )),
        knowledge: None,
        grounding: None,
        clusters: None,
        pictures: 1,
        borrowed: 0,
        pairs: count,
        fused_size: count,
        mlm: Some((
            corrupted(),
            MlmTargets {
                labels: positions.iter().map(|place| clean.ids[*place]).collect(),
                positions: positions.clone(),
            },
        )),
        masked: Some(MaskedText {
            input: corrupted(),
            positions,
        }),
        kept_patches: Some(Chosen {
            rows: in_frames(|pair| &pair.kept),
            spans: Spans::new(kept),
        }),
        hidden_patches: Some(in_frames(|pair| &pair.hidden)),
        matching: Some(MatchingDraw {
            texts: (0..count).collect(),
            partner: pairs
                .iter()
                .map(|pair| {
                    let is_partner = |other: &Pair| other.looks == pair.partner;
                    pairs.iter().position(is_partner).unwrap()
                })
                .collect(),
            labels: pairs
                .iter()
                .map(|pair| u32::from(pair.partner == pair.looks))
                .collect(),
        }),
        ranking: Some(RankingDraw {
            candidates: (0..count)
                .map(|row| (0..count).map(|other| (row + other) % count).collect())
                .collect(),
        }),
        classes: Some(ClassTargets::Class(
            pairs.iter().map(|pair| pair.class).collect(),
        )),
        clean,
    }
}

/// Every objective there is.
fn all() -> ObjectivesConfig {
    ObjectivesConfig {
        contrastive: Some(ContrastiveConfig::default()),
        matching: Some(MatchingConfig::default()),
        mlm: Some(MlmConfig::default()),
        global_completion: Some(GlobalCompletionConfig::default()),
        local_completion: Some(LocalCompletionConfig::default()),
        classification: Some(ClassificationConfig::default()),
        ranking: Some(RankingConfig::default()),
        ..ObjectivesConfig::default()
    }
}

fn completion() -> ObjectivesConfig {
    ObjectivesConfig {
        global_completion: Some(GlobalCompletionConfig::default()),
        ..ObjectivesConfig::default()
    }
}

fn features(model: &VisionLanguageModel, config: &ObjectivesConfig, input: &StepInput) -> Features {
    forward(model, &ForwardPlan::new(config, 1), input)
}

/// Names and values of all terms.
fn terms(losses: &Losses) -> Vec<(&'static str, f64)> {
    let of = losses.terms.iter();
    of.map(|term| (term.name, scalar(term.value.clone())))
        .collect()
}

fn same_terms(found: &Losses, expected: &Losses) {
    let (found, expected) = (terms(found), terms(expected));
    assert_eq!(found.len(), expected.len());
    for ((name, found), (other, expected)) in found.into_iter().zip(expected) {
        assert_eq!(name, other);
        // Completion divides cosines by 0.03, and their rounding errors too.
        let gap = (found - expected).abs();
        assert!(
            gap <= 2e-4 * expected.abs().max(1.0),
            "{name}: {found} and {expected}"
        );
    }
}

/// S2 and S3: where nothing is masked, what is recovered is what is there, and what another sample's
/// recovery is compared with costs more.
#[test]
fn completion_of_what_is_not_masked() {
    let device = Device::flex();
    let model = model(&device);
    let whole = |mut pair: Pair| {
        pair.masked.clear();
        pair.kept = (0..PATCHES).collect();
        pair
    };
    for frames in [1, 2] {
        let pairs: Vec<Pair> = pairs().into_iter().map(whole).collect();
        let input = step(&pairs, frames, &device);
        let features = features(&model, &completion(), &input);
        let recovered = &features.fused[&MASKED_IMAGE_PASS].fused;
        let complete = &features.fused[&MASKED_TEXT_PASS].fused;
        let gap = (recovered.frame_globals() - complete.frame_globals()).abs();
        assert!(gap.max().into_scalar::<f32>() < 1e-5);
        let gap = (recovered.text_global() - complete.text_global()).abs();
        assert!(gap.max().into_scalar::<f32>() < 1e-5);
        let gram = |rows: Tensor<2>| {
            let unit = normalize(rows);
            nce_of(unit.clone().matmul(unit.transpose()), 0.03)
        };
        let losses = losses::shared(&model, &completion(), &input);
        let term = |name| scalar(losses.get(name).unwrap());
        // All frames of a clip are the same here, and so is what they give.
        let image = gram(complete.frame_globals().narrow(1, 0, 1).squeeze_dim(1));
        for (found, expected) in [
            (term("global_completion_image"), image),
            (term("global_completion_text"), gram(complete.text_global())),
        ] {
            assert!((found - expected).abs() < 2e-4, "{found} and {expected}");
        }
        let order = Tensor::from_data([1i64, 2, 3, 0], &device);
        let moved = recovered.frame_globals().select(0, order);
        let swapped = frames_completed(moved, complete.frame_globals());
        assert!(scalar(swapped) > term("global_completion_image") + 1e-3);
        // N samples that are all the same one: 2 ln N a term.
        let same = step(&vec![pairs[0].clone(); 4], frames, &device);
        for (name, value) in terms(&losses::shared(&model, &completion(), &same)) {
            assert!((value - 2.0 * 4f64.ln()).abs() < 1e-3, "{name}: {value}");
        }
    }
}

/// S12b and S13 through the model: of a picture without patches everything comes from the text, of a text
/// without words from the picture.
#[test]
fn what_is_masked_comes_from_the_other_modality() {
    let device = Device::flex().autodiff();
    let model = model(&device);
    let empty = |mut pair: Pair| {
        pair.kept.clear();
        pair.masked = (0..pair.ids.len()).collect();
        pair
    };
    let pairs: Vec<Pair> = pairs().into_iter().map(empty).collect();
    // How far a parameter moves what a pass recovers. One feature of it: the sum over all features of a
    // normalised row is always the same.
    let input = step(&pairs, 2, &device);
    let moves = |by: &Tensor<2>, recovered: fn(&Features) -> Tensor<2>| {
        let loss = recovered(&features(&model, &completion(), &input));
        let gradients = loss.narrow(1, 0, 1).sum().backward();
        let gradient = by.grad(&gradients);
        gradient.map_or(0.0, |gradient| gradient.abs().sum().into_scalar::<f32>())
    };
    let frames = |features: &Features| {
        let fused = &features.fused[&MASKED_IMAGE_PASS].fused;
        fused.frame_globals().reshape([8, 20])
    };
    let text = |features: &Features| features.fused[&MASKED_TEXT_PASS].fused.text_global();
    let words = model.text.words.weight.val();
    let patches = model.vision.as_ref().unwrap().patches.weight.val();
    assert!(moves(&words, frames) > 1e-3);
    assert_eq!(moves(&patches, frames), 0.0);
    assert!(moves(&patches, text) > 1e-3);
    // The same text for all: what is recovered is the same for all.
    let mut same = pairs;
    let text = same[0].ids.clone();
    for pair in &mut same {
        pair.ids.clone_from(&text);
        pair.masked = vec![1];
    }
    let losses = losses::shared(&model, &completion(), &step(&same, 1, &device));
    let found = scalar(losses.get("global_completion_image").unwrap());
    assert!(found >= 2.0 * 4f64.ln() - 1e-3, "{found}");
}

/// S8 through the model: completion of clips of one frame reaches the image tower.
#[test]
fn completion_of_one_frame_reaches_the_tower() {
    let device = Device::flex().autodiff();
    let model = model(&device);
    let losses = losses::shared(&model, &completion(), &step(&pairs(), 1, &device));
    let loss = losses.get("global_completion_image").unwrap();
    let gradient = model
        .vision
        .as_ref()
        .unwrap()
        .class_token
        .grad(&loss.backward())
        .unwrap();
    assert!(gradient.abs().sum().into_scalar::<f32>() > 1e-3);
}

/// S9: a clip that stands still, without times, is a picture to every objective that compares no single
/// patches: of these a clip has more.
#[test]
fn a_clip_that_stands_still_is_a_picture() {
    let device = Device::flex();
    let model = model(&device);
    let config = ObjectivesConfig {
        local_completion: None,
        ..all()
    };
    let of = |frames| losses::shared(&model, &config, &step(&pairs(), frames, &device));
    let picture = of(1);
    assert_eq!(picture.terms.len(), 7);
    for frames in [2, 4] {
        same_terms(&of(frames), &picture);
    }
}

/// S10: the order of the samples of a batch means nothing, for pictures and for clips.
#[test]
fn samples_in_another_order() {
    let device = Device::flex();
    let model = model(&device);
    let pairs = pairs();
    let moved = [2, 0, 3, 1].map(|place| pairs[place].clone());
    for frames in [1, 3] {
        let of = |pairs: &[Pair]| losses::shared(&model, &all(), &step(pairs, frames, &device));
        let plain = of(&pairs);
        assert_eq!(plain.terms.len(), 9);
        same_terms(&of(&moved), &plain);
        // Another sample's patches are not a positive.
        let mut wrong = pairs.clone();
        (wrong[0].looks, wrong[0].partner, wrong[3].partner) = (9, 9, 9);
        let (wrong, plain) = (terms(&of(&wrong)), terms(&plain));
        for (name, value) in plain {
            let (_, other) = wrong.iter().find(|(other, _)| *other == name).unwrap();
            assert!((value - other).abs() > 1e-6, "{name} sees the picture");
        }
    }
}

/// S11: an objective of weight 0 adds nothing to the total, and one that is off takes nothing else away.
#[test]
fn the_total_is_the_sum_of_what_is_on() {
    let device = Device::flex();
    let model = model(&device);
    let input = step(&pairs(), 2, &device);
    let of = |config: &ObjectivesConfig| losses::shared(&model, config, &input);
    let total = |losses: &Losses| scalar(losses.total().unwrap());
    let everything = of(&all());
    let weighted = everything.terms.iter();
    let weighted = weighted.map(|term| term.weight * scalar(term.value.clone()));
    near(total(&everything), weighted.sum());
    let silent = ObjectivesConfig {
        local_completion: Some(LocalCompletionConfig {
            image_weight: 0.0,
            text_weight: 0.0,
            ..LocalCompletionConfig::default()
        }),
        ..all()
    };
    let off = ObjectivesConfig {
        local_completion: None,
        ..all()
    };
    same_terms(&of(&silent), &of(&off));
    let mut weightless = off.clone();
    if let Some(global) = &mut weightless.global_completion {
        (global.image_weight, global.text_weight) = (0.0, 0.0);
    }
    let rest = ObjectivesConfig {
        global_completion: None,
        ..off
    };
    near(total(&of(&weightless)), total(&of(&rest)));
    // ITM + MLM + half of both directions of the contrast.
    let baseline = of(&ObjectivesConfig {
        classification: None,
        ranking: None,
        ..rest
    });
    let term = |name| scalar(baseline.get(name).unwrap());
    let image = model.encode_seen(&input.seen).unwrap();
    let image = model.project_image(&image, 2).unwrap();
    let text = model
        .project_text(&model.encode_text(&input.clean))
        .unwrap();
    let similarity = normalize(text).matmul(normalize(image).transpose());
    let contrast = 0.5 * nce_of(similarity, 0.07);
    near(term("contrastive"), contrast);
    near(total(&baseline), term("matching") + term("mlm") + contrast);
    assert_eq!(baseline.terms.len(), 3);
}

/// A5: four frames of 224 pixels, of which a fifth of the patches stay, are 160 tokens; the same places
/// stay in every frame.
#[test]
fn the_tube_of_a_masked_clip() {
    let device = Device::flex();
    let vision = VisionConfig {
        image_size: 224,
        patch_size: 16,
        hidden_size: 4,
        layers: 1,
        num_heads: 1,
        intermediate_size: 4,
        max_frames: 4,
        ..VisionConfig::default()
    };
    let tower = chiasm_nn::vision::VisionEncoder::new(&Init::new(1, 0.1, &device), &vision);
    let images = ImageRows {
        pixel_values: &[],
        pictures: 1,
        frames: 4,
        image_size: 224,
        patches: tower.num_patches(),
    };
    let key = DrawKey {
        seed: 1,
        step: 0,
        samples: &[0, 1],
    };
    let kept = patch_draw(2, images, 0.8, key);
    for clip in kept.rows.chunks(4 * 39) {
        let places: Vec<Vec<usize>> = clip
            .chunks(39)
            .map(|frame| frame.iter().map(|row| row % 196).collect())
            .collect();
        assert!(places.iter().all(|frame| frame == &places[0]));
    }
    assert_ne!(kept.rows[0] % 196, kept.rows[4 * 39] % 196, "drawn apart");
    let patches = tower.embed_patches(Tensor::zeros([8, 3, 224, 224], &device));
    let encoded = tower.encode_where(&patches.choose(&kept), 4, |_| true);
    assert_eq!(encoded.spans, Spans::uniform(2, 160));
}
