//! Every objective against the reference: values and gradients (`fixtures/scl`).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed unwrap here is the failed test"
)]

#[path = "../../chiasm-nn/tests/common/mod.rs"]
mod common;

use std::collections::BTreeMap;

use burn::tensor::{Device, Gradients, Tensor, TensorData};
use chiasm_nn::compute::{self, Kernels};
use chiasm_nn::criterion::nce;
use chiasm_nn::model::Seen;
use chiasm_nn::tokens::Chosen;
use chiasm_nn::weights::{HostTensor, take_gradients};
use chiasm_nn::{Spans, VisionLanguageModel, names};
use chiasm_objective::classification::ClassTargets;
use chiasm_objective::config::{
    ClassificationConfig, ContrastDirection, ContrastiveConfig, GlobalCompletionConfig,
    LocalCompletionConfig, MatchingConfig, MlmConfig, RankingConfig,
};
use chiasm_objective::forward::MaskedText;
use chiasm_objective::masking::MatchingDraw;
use chiasm_objective::mlm::MlmTargets;
use chiasm_objective::plan::{
    ForwardPlan, HIDDEN_PATCHES_PASS, MASKED_IMAGE_PASS, MASKED_TEXT_PASS, MATCHING_PASS,
    RANKING_PASS, class_pass,
};
use chiasm_objective::ranking::RankingDraw;
use chiasm_objective::{Features, Losses, ObjectivesConfig, StepInput, forward, losses};
use chiasm_testkit::{Case, assert_close};
use common::{floats, load_model, text_input, values};

fn objectives(enabled: &[&str]) -> ObjectivesConfig {
    let on = |name: &str| enabled.contains(&name);
    ObjectivesConfig {
        fused_share: 1.0,
        contrastive: on("contrastive").then(ContrastiveConfig::default),
        matching: on("matching").then(MatchingConfig::default),
        mlm: on("mlm").then(MlmConfig::default),
        global_completion: on("global_completion").then(GlobalCompletionConfig::default),
        local_completion: on("local_completion").then(LocalCompletionConfig::default),
        classification: on("classification").then(ClassificationConfig::default),
        ranking: on("ranking").then(RankingConfig::default),
        ..ObjectivesConfig::default()
    }
}

/// Pictures or clips of the case as clips.
fn clips(case: &Case, name: &str, device: &Device) -> Tensor<5> {
    let golden = case.tensor(&format!("inputs.{name}"));
    match golden.shape.len() {
        4 => floats::<4>(golden, device).unsqueeze_dim(1),
        _ => floats(golden, device),
    }
}

/// Whatever inputs the case holds, as one step.
fn step_input(case: &Case, device: &Device) -> StepInput {
    let has = |name: &str| case.tensors.contains_key(&format!("inputs.{name}"));
    let (own, negatives) = if has("video") {
        ("video", "false_video")
    } else {
        ("image", "false_image")
    };
    let (pixel_values, pictures) = if has("image_0") {
        // The pictures of a text one after another.
        let pair = ["image_0", "image_1"].map(|name| clips(case, name, device));
        let [batch, frames, channels, height, width] = pair[0].dims();
        let pair = Tensor::stack::<6>(pair.to_vec(), 1);
        (
            pair.reshape([2 * batch, frames, channels, height, width]),
            2,
        )
    } else if has(negatives) {
        let parts = [own, negatives].map(|name| clips(case, name, device));
        (Tensor::cat(parts.to_vec(), 0), 1)
    } else {
        (clips(case, own, device), 1)
    };
    let [images, frames, ..] = pixel_values.dims();
    let clean = if has("text_ids") {
        "text_ids"
    } else {
        "text_ids_mlm"
    };
    let clean = text_input(case, clean);
    let texts = clean.spans.batch();
    let pairs = texts.min(images / pictures);
    let patches = (case.size("image_size") / case.size("patch")).pow(2);
    // Numbers without padding of what a mask over texts marks.
    let marked = |mask: &str| {
        let keep = case.tensor("inputs.text_mask").i64s();
        let marks = case.tensor(&format!("inputs.{mask}")).i64s();
        let real = marks.into_iter().zip(keep).filter(|(_, keep)| *keep == 1);
        let marked = real.enumerate().filter(|(_, (mark, _))| *mark == 1);
        marked.map(|(place, _)| place).collect::<Vec<_>>()
    };
    StepInput {
        seen: Seen::Pixels(pixel_values),
        encoded: None,
        knowledge: None,
        grounding: None,
        clusters: None,
        pictures,
        borrowed: 0,
        pairs,
        fused_size: pairs,
        mlm: has("text_labels_mlm").then(|| {
            let labels = case.tensor("inputs.text_labels_mlm").i64s();
            let mask = case.tensor("inputs.text_mask").i64s();
            let real = labels.iter().zip(&mask).filter(|(_, keep)| **keep == 1);
            let (positions, labels) = real
                .enumerate()
                .filter(|(_, (label, _))| **label >= 0)
                .map(|(position, (label, _))| (position, *label as u32))
                .unzip();
            let targets = MlmTargets { positions, labels };
            (text_input(case, "text_ids_mlm"), targets)
        }),
        masked: has("masked_text_ids").then(|| MaskedText {
            input: text_input(case, "masked_text_ids"),
            positions: if has("text_token_mask") {
                marked("text_token_mask")
            } else {
                Vec::new()
            },
        }),
        kept_patches: has("drop_keep_indices").then(|| {
            let kept = case.tensor("inputs.drop_keep_indices");
            let (batch, count) = (kept.shape[0], kept.shape[1]);
            let rows = kept.i64s();
            let of = |frame: usize| {
                let row = &rows[frame / frames * count..][..count];
                row.iter()
                    .map(move |patch| frame * patches + *patch as usize)
            };
            Chosen {
                rows: (0..batch * frames).flat_map(of).collect(),
                spans: Spans::uniform(batch * frames, count),
            }
        }),
        hidden_patches: has("image_token_mask").then(|| {
            let mask = case.tensor("inputs.image_token_mask").i64s();
            (0..mask.len()).filter(|place| mask[*place] == 1).collect()
        }),
        matching: has("itm_labels").then(|| {
            let labels = case.tensor("inputs.itm_labels").i64s();
            let rows = labels.iter().enumerate();
            MatchingDraw {
                texts: (0..labels.len()).collect(),
                partner: rows
                    .map(|(row, own)| row + (1 - *own as usize) * pairs)
                    .collect(),
                labels: labels.iter().map(|label| *label as u32).collect(),
            }
        }),
        ranking: (texts > pairs).then(|| RankingDraw {
            candidates: vec![(0..texts).collect(); pairs],
        }),
        classes: if has("labels") {
            let labels = case.tensor("inputs.labels").i64s();
            Some(ClassTargets::Class(
                labels.iter().map(|label| *label as u32).collect(),
            ))
        } else if has("targets") {
            Some(ClassTargets::Worth(case.tensor("inputs.targets").f32s()))
        } else {
            None
        },
        clean,
    }
}

/// Gradients under their published names.
fn published_gradients(
    model: &VisionLanguageModel,
    mut gradients: Gradients,
) -> BTreeMap<String, Vec<f32>> {
    let mut found = BTreeMap::new();
    take_gradients(model, &mut gradients, |path, shape, gradient| {
        let host = HostTensor {
            shape: shape.to_vec(),
            values: values(gradient),
        };
        let host = if path.is_transposed() {
            host.transposed()
        } else {
            host
        };
        let name = path.name();
        let parts = names::split(names::published(&name), &host).into_iter();
        // The reference names its classifiers after their tasks.
        let parts = parts.flat_map(|(name, part)| {
            let is_classifier = name.starts_with("classifier.");
            let tasks = if is_classifier {
                &["vqa_", "nlvr2_"][..]
            } else {
                &[""]
            };
            tasks
                .iter()
                .map(move |task| (format!("{task}{name}"), part.clone()))
        });
        found.extend(parts.map(|(name, part)| (name, part.values)));
    });
    found
}

fn scalar(tensor: &Tensor<1>) -> f64 {
    f64::from(tensor.clone().into_scalar::<f32>())
}

fn total(losses: &Losses) -> Tensor<1> {
    losses.total().expect("at least one loss")
}

struct Checked {
    case: Case,
    device: Device,
    model: VisionLanguageModel,
    input: StepInput,
    config: ObjectivesConfig,
}

impl Checked {
    fn features(&self) -> Features {
        let plan = ForwardPlan::new(&self.config, self.input.pictures);
        forward::forward(&self.model, &plan, &self.input)
    }
}

/// Runs the objectives on the case, compares the named losses and every gradient the case has.
fn check(name: &str, enabled: &[&str], expected: &[(&str, &str)]) -> Option<Checked> {
    check_with(name, &objectives(enabled), expected)
}

fn check_with(name: &str, config: &ObjectivesConfig, expected: &[(&str, &str)]) -> Option<Checked> {
    let device = Device::flex().autodiff();
    let again = device.clone().gradient_checkpointing();
    let here = |device| check_here(name, config, expected, device);
    compute::with(Kernels::Plain, || here(&device))?;
    compute::with(Kernels::Plain, || here(&again))?;
    compute::with(Kernels::Fused, || here(&again))?;
    compute::with(Kernels::Fused, || here(&device))
}

fn check_here(
    name: &str,
    config: &ObjectivesConfig,
    expected: &[(&str, &str)],
    device: &Device,
) -> Option<Checked> {
    let case = Case::open(name)?;
    let device = device.clone();
    let model = load_model(&case, &device);
    let config = config.clone();
    let input = step_input(&case, &device);
    for compute in [losses::shared, losses::unshared] {
        let losses = compute(&model, &config, &input);
        for (ours, theirs) in expected {
            let found = match *ours {
                "total" => total(&losses),
                "completion" => {
                    losses.get("global_completion_image").unwrap()
                        + losses.get("global_completion_text").unwrap()
                }
                ours => losses.get(ours).unwrap(),
            };
            case.assert_loss(
                ours,
                scalar(&found),
                case.tensor(&format!("expected.{theirs}")),
            );
        }
        let found = published_gradients(&model, total(&losses).backward());
        let mut compared = 0;
        for (parameter, expected) in case.with_prefix("grads.") {
            let gradient = found
                .get(parameter)
                .unwrap_or_else(|| panic!("no gradient for {parameter}"));
            case.assert_gradient(parameter, gradient, expected);
            compared += 1;
        }
        assert!(compared > 0, "the case has gradients");
    }
    Some(Checked {
        case,
        device,
        model,
        input,
        config,
    })
}

#[test]
fn parity_scl_nce_primitive() {
    let Some(case) = Case::open("scl/nce_primitive") else {
        return;
    };
    let device = Device::flex().autodiff();
    let mut count = 0;
    while case.tensors.contains_key(&format!("inputs.{count}.sim")) {
        let golden = |part: &str| case.tensor(&part.replace('#', &count.to_string()));
        let similarity: Tensor<2> = floats(golden("inputs.#.sim"), &device).require_grad();
        let temperature = Tensor::<1>::from_data(
            TensorData::new(golden("inputs.#.temperature").f32s(), [1]),
            &device,
        )
        .require_grad();
        let loss = nce(similarity.clone(), temperature.clone());
        case.assert_loss("loss", scalar(&loss), golden("expected.#.loss"));
        let gradients = loss.backward();
        case.assert_gradient(
            "sim",
            &values(similarity.grad(&gradients).unwrap()),
            golden("grads.#.sim"),
        );
        case.assert_gradient(
            "temperature",
            &values(temperature.grad(&gradients).unwrap()),
            golden("grads.#.temperature"),
        );
        count += 1;
    }
    assert!(count > 0);
}

#[test]
fn parity_scl_loss_itc() {
    check("scl/loss_itc", &["contrastive"], &[("contrastive", "loss")]);
}

#[test]
fn parity_scl_loss_itm() {
    let Some(done) = check("scl/loss_itm", &["matching"], &[("matching", "loss")]) else {
        return;
    };
    let features = done.features();
    let logits = done
        .model
        .match_head
        .as_ref()
        .unwrap()
        .forward(done.model.pooled(&features.fused[&MATCHING_PASS].fused));
    done.case.assert_activations(
        "logits",
        &values(logits),
        done.case.tensor("expected.logits"),
    );
}

#[test]
fn parity_scl_loss_mlm() {
    let Some(done) = check("scl/loss_mlm", &["mlm"], &[("mlm", "loss")]) else {
        return;
    };
    // The head runs on chosen positions only; run it on all of them to compare every logit.
    let (text, _) = done.input.mlm.clone().expect("MLM input");
    let image = done
        .model
        .encode_images(floats(done.case.tensor("inputs.image"), &done.device))
        .unwrap();
    let fused = done.model.fuse(&done.model.encode_text(&text), &image, 1);
    let logits = done
        .model
        .mlm_head
        .as_ref()
        .unwrap()
        .forward(fused.text.rows, &done.model.text.words);
    let mask = done.case.tensor("inputs.text_mask").i64s();
    let expected = done.case.tensor("expected.logits").rows_where(&mask);
    done.case
        .assert_activations("logits", &values(logits), &expected);
}

#[test]
fn parity_scl_loss_scl() {
    let Some(done) = check(
        "scl/loss_scl",
        &["global_completion"],
        &[
            ("completion", "loss"),
            ("global_completion_image", "loss_image_global"),
            ("global_completion_text", "loss_text_global"),
        ],
    ) else {
        return;
    };
    let features = done.features();
    for (name, pass) in [("passV", MASKED_IMAGE_PASS), ("passL", MASKED_TEXT_PASS)] {
        let fused = &features.fused[&pass].fused;
        for (part, found) in [
            ("text_cls", fused.text_global()),
            ("image_cls", fused.image_global()),
        ] {
            let name = format!("expected.{name}.{part}");
            assert_close(
                &name,
                &values(found),
                done.case.tensor(&name),
                done.case.tolerance("activations_abs"),
                0.0,
            );
        }
    }
}

#[test]
fn parity_scl_total_baseline() {
    check(
        "scl/total_baseline",
        &["matching", "mlm", "contrastive"],
        &[
            ("matching", "itm_loss"),
            ("mlm", "mlm_loss"),
            ("contrastive", "itc_loss"),
            ("total", "total_loss"),
        ],
    );
}

#[test]
fn parity_scl_total_scl() {
    let Some(done) = check(
        "scl/total_scl",
        &["matching", "mlm", "contrastive", "global_completion"],
        &[
            ("matching", "itm_loss"),
            ("mlm", "mlm_loss"),
            ("contrastive", "itc_loss"),
            ("completion", "scl_loss"),
            ("total", "total_loss"),
        ],
    ) else {
        return;
    };
    shared_equals_unshared(&done);
}

/// Invariant E1: sharing passes changes neither a loss nor a gradient.
fn shared_equals_unshared(done: &Checked) {
    let shared = losses::shared(&done.model, &done.config, &done.input);
    let unshared = losses::unshared(&done.model, &done.config, &done.input);
    for (one, other) in shared.terms.iter().zip(&unshared.terms) {
        let (a, b) = (scalar(&one.value), scalar(&other.value));
        assert!(
            (a - b).abs() <= 1e-5 * b.abs().max(1.0),
            "{}: {a} and {b}",
            one.name
        );
    }
    let ours = published_gradients(&done.model, total(&shared).backward());
    let theirs = published_gradients(&done.model, total(&unshared).backward());
    assert_eq!(
        ours.keys().collect::<Vec<_>>(),
        theirs.keys().collect::<Vec<_>>()
    );
    for (name, gradient) in &ours {
        let largest = theirs[name]
            .iter()
            .fold(0.0f32, |max, value| max.max(value.abs()));
        // Key biases have no effect, so their gradient is rounding noise around zero.
        let allowed = (1e-5 * largest).max(1e-6);
        for (a, b) in gradient.iter().zip(&theirs[name]) {
            assert!((a - b).abs() <= allowed, "{name}: {a} and {b}");
        }
    }
}

const GLSCL: [(&str, &str); 4] = [
    ("global_completion_image", "loss_image_global"),
    ("global_completion_text", "loss_text_global"),
    ("local_completion_image", "loss_image_tokens"),
    ("local_completion_text", "loss_text_tokens"),
];

#[test]
fn parity_scl_loss_glscl() {
    let names = ["global_completion", "local_completion"];
    let mut expected = GLSCL.to_vec();
    expected.push(("total", "loss"));
    let Some(done) = check("scl/loss_glscl", &names, &expected) else {
        return;
    };
    let features = done.features();
    let hidden = &features.hidden;
    let mask = done.case.tensor("inputs.image_token_mask").i64s();
    for (name, pass) in [("passM", HIDDEN_PATCHES_PASS), ("passL", MASKED_TEXT_PASS)] {
        let found = values(features.fused[&pass].image_at(hidden));
        let golden = done.case.tensor(&format!("expected.{name}.image_feats"));
        // The class token comes first in every row of the reference.
        let per_image = mask.len() / golden.shape[0];
        let with_class: Vec<i64> = mask
            .chunks(per_image)
            .flat_map(|row| std::iter::once(0).chain(row.iter().copied()))
            .collect();
        let expected = golden.rows_where(&with_class);
        done.case.assert_activations(name, &found, &expected);
    }
    shared_equals_unshared(&done);
}

#[test]
fn parity_scl_total_glscl() {
    let names = [
        "matching",
        "mlm",
        "contrastive",
        "global_completion",
        "local_completion",
    ];
    let expected = [
        ("matching", "itm_loss"),
        ("mlm", "mlm_loss"),
        ("contrastive", "itc_loss"),
        ("total", "total_loss"),
    ];
    if let Some(done) = check("scl/total_glscl", &names, &expected) {
        shared_equals_unshared(&done);
    }
}

/// Clips: the mean over frames of what the frames' class tokens give.
fn check_clips(name: &str) {
    let expected = [("completion", "loss")];
    let Some(done) = check(name, &["global_completion"], &expected) else {
        return;
    };
    let features = done.features();
    let masked_text = &features.fused[&MASKED_TEXT_PASS].fused;
    for (name, found) in [
        ("passL.text_cls", values(masked_text.text_global())),
        ("passL.image_cls", values(masked_text.frame_globals())),
    ] {
        let expected = done.case.tensor(&format!("expected.{name}"));
        done.case.assert_activations(name, &found, expected);
    }
}

#[test]
fn parity_scl_loss_scl_video_f1() {
    check_clips("scl/loss_scl_video_f1");
}

#[test]
fn parity_scl_loss_scl_video_f2() {
    check_clips("scl/loss_scl_video_f2");
}

#[test]
fn parity_scl_loss_scl_video_f4() {
    check_clips("scl/loss_scl_video_f4");
}

#[test]
fn parity_scl_loss_video_f2() {
    let expected = [
        ("matching", "itm_loss"),
        ("mlm", "mlm_loss"),
        ("contrastive", "itc_loss"),
        ("total", "total_loss"),
    ];
    let names = ["matching", "mlm", "contrastive"];
    if let Some(done) = check("scl/loss_video_f2", &names, &expected) {
        shared_equals_unshared(&done);
    }
}

/// Every objective there is on clips at once: shared and unshared agree.
#[test]
fn everything_on_clips_can_be_shared() {
    let Some(case) = Case::open("scl/loss_scl_video_f2") else {
        return;
    };
    let device = Device::flex().autodiff();
    let model = load_model(&case, &device);
    let config = objectives(&["contrastive", "global_completion", "local_completion"]);
    let mut input = step_input(&case, &device);
    let patches = model.vision.as_ref().unwrap().num_patches();
    let frames = input.class_tokens() * input.pairs;
    // The same patches in all frames.
    let hidden = (0..frames).flat_map(|frame| [1, 4, 5].map(|patch| frame * patches + patch));
    input.hidden_patches = Some(hidden.collect());
    let losses = losses::shared(&model, &config, &input);
    assert_eq!(losses.terms.len(), 5);
    shared_equals_unshared(&Checked {
        case,
        device,
        model,
        input,
        config,
    });
}

fn check_classes(name: &str, loss: &str) {
    let Some(done) = check(name, &["classification"], &[("classification", loss)]) else {
        return;
    };
    let features = done.features();
    let pooled = (0..done.input.pictures)
        .map(|picture| {
            done.model
                .pooled(&features.fused[&class_pass(picture)].fused)
        })
        .collect();
    let head = done.model.class_head.as_ref().unwrap();
    let logits = values(head.forward(Tensor::cat(pooled, 1)));
    let expected = done.case.tensor("expected.logits");
    done.case.assert_activations("logits", &logits, expected);
}

#[test]
fn parity_scl_loss_vqa() {
    check_classes("scl/loss_vqa", "loss");
}

#[test]
fn parity_scl_loss_nlvr2() {
    check_classes("scl/loss_nlvr2", "loss");
}

#[test]
fn parity_scl_loss_retrieval() {
    let config = ObjectivesConfig {
        contrastive: Some(ContrastiveConfig {
            weight: 0.5,
            direction: ContrastDirection::ImageToText,
            ..ContrastiveConfig::default()
        }),
        ..objectives(&["ranking"])
    };
    let Some(done) = check_with("scl/loss_retrieval", &config, &[("ranking", "rank_loss")]) else {
        return;
    };
    let losses = losses::shared(&done.model, &done.config, &done.input);
    let contrast = losses.get("contrastive").unwrap().mul_scalar(0.5);
    let expected = done.case.tensor("expected.con_loss");
    done.case
        .assert_loss("contrastive", scalar(&contrast), expected);
    let pooled = done
        .model
        .pooled(&done.features().fused[&RANKING_PASS].fused);
    let scores = done.model.rank_head.as_ref().unwrap().forward(pooled);
    let expected = done.case.tensor("expected.scores");
    done.case
        .assert_activations("scores", &values(scores), expected);
}
