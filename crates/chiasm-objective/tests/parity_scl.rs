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
use chiasm_nn::tokens::Chosen;
use chiasm_nn::weights::{HostTensor, take_gradients};
use chiasm_nn::{Spans, VisionLanguageModel, names};
use chiasm_objective::config::{
    ContrastiveConfig, GlobalCompletionConfig, MatchingConfig, MlmConfig,
};
use chiasm_objective::masking::MatchingDraw;
use chiasm_objective::mlm::MlmTargets;
use chiasm_objective::plan::{ForwardPlan, MASKED_IMAGE_PASS, MASKED_TEXT_PASS, MATCHING_PASS};
use chiasm_objective::{Losses, ObjectivesConfig, StepInput, forward, losses};
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
    }
}

/// Whatever inputs the case holds, as one step.
fn step_input(case: &Case, device: &Device) -> StepInput {
    let has = |name: &str| case.tensors.contains_key(&format!("inputs.{name}"));
    let own: Tensor<4> = floats(case.tensor("inputs.image"), device);
    let batch = own.dims()[0];
    let pixel_values = if has("false_image") {
        Tensor::cat(
            vec![own, floats(case.tensor("inputs.false_image"), device)],
            0,
        )
    } else {
        own
    };
    let clean = if has("text_ids") {
        "text_ids"
    } else {
        "text_ids_mlm"
    };
    StepInput {
        pixel_values,
        clean: text_input(case, clean),
        fused_size: batch,
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
        masked: has("masked_text_ids").then(|| text_input(case, "masked_text_ids")),
        kept_patches: has("drop_keep_indices").then(|| {
            let kept = case.tensor("inputs.drop_keep_indices");
            let side = case.size("image_size") / case.size("patch");
            let flat = kept.i64s().into_iter().enumerate();
            Chosen {
                rows: flat
                    .map(|(i, p)| i / kept.shape[1] * side * side + p as usize)
                    .collect(),
                spans: Spans::uniform(kept.shape[0], kept.shape[1]),
            }
        }),
        matching: has("itm_labels").then(|| {
            let labels = case.tensor("inputs.itm_labels").i64s();
            let rows = labels.iter().enumerate();
            MatchingDraw {
                partner: rows
                    .map(|(row, own)| row + (1 - *own as usize) * batch)
                    .collect(),
                labels: labels.iter().map(|label| *label as u32).collect(),
            }
        }),
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

/// Runs the objectives on the case, compares the named losses and every gradient the case has.
fn check(name: &str, enabled: &[&str], expected: &[(&str, &str)]) -> Option<Checked> {
    compute::with(Kernels::Plain, || check_here(name, enabled, expected))?;
    compute::with(Kernels::Fused, || check_here(name, enabled, expected))
}

fn check_here(name: &str, enabled: &[&str], expected: &[(&str, &str)]) -> Option<Checked> {
    let case = Case::open(name)?;
    let device = Device::flex().autodiff();
    let model = load_model(&case, &device);
    let config = objectives(enabled);
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
    let plan = ForwardPlan::for_objectives(&done.config.enabled());
    let features = forward::forward(&done.model, &plan, &done.input);
    let logits = done
        .model
        .match_head
        .forward(done.model.pooled(&features.fused[&MATCHING_PASS]));
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
        .encode_images(floats(done.case.tensor("inputs.image"), &done.device));
    let fused = done.model.fuse(&done.model.encode_text(&text), &image);
    let logits = done.model.mlm_head.forward(fused.text.rows);
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
    let plan = ForwardPlan::for_objectives(&done.config.enabled());
    let features = forward::forward(&done.model, &plan, &done.input);
    for (name, pass) in [("passV", MASKED_IMAGE_PASS), ("passL", MASKED_TEXT_PASS)] {
        let fused = &features.fused[&pass];
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
