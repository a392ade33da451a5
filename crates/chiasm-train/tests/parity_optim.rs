//! Optimisers, schedules and parameter groups against the references (`fixtures/optim`).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed unwrap here is the failed test"
)]

use std::collections::BTreeMap;

use burn::tensor::{Device, Tensor, TensorData};
use chiasm_testkit::{Case, Golden, assert_close};
use chiasm_train::gradients::{GradientSum, clip_factor};
use chiasm_train::optimizer::{AdamForm, GroupConfig, Optimizer, OptimizerConfig};
use chiasm_train::schedule::Schedule;
use serde_json::Value;

fn number(value: &Value, key: &str) -> f64 {
    value[key]
        .as_f64()
        .unwrap_or_else(|| panic!("hyper_parameters.{key}"))
}

fn strings(value: &Value) -> Vec<String> {
    value
        .as_array()
        .expect("list")
        .iter()
        .map(|s| s.as_str().expect("string").to_owned())
        .collect()
}

fn flat(golden: &Golden, device: &Device) -> Tensor<1> {
    Tensor::from_data(
        TensorData::new(golden.f32s(), [golden.values.len()]),
        device,
    )
}

/// Replays a recorded trajectory: the rate of step k is `schedule`'s, checked against the record.
fn replay(
    case: &Case,
    config: OptimizerConfig,
    schedule: &Schedule,
    total: u64,
    clip_norm: Option<f64>,
) {
    let device = Device::flex();
    let rates = case.json["learning_rates_used_per_step"]
        .as_array()
        .expect("rates");
    let base = config.learning_rate;
    let mut optimizer = Optimizer::new(config.clone());
    let mut in_place = Optimizer::new(config);
    let mut host: BTreeMap<String, Vec<f32>> = case
        .with_prefix("inputs.init.")
        .map(|(name, golden)| (name.to_owned(), golden.f32s()))
        .collect();
    let mut parameters: BTreeMap<String, Tensor<1>> = case
        .with_prefix("inputs.init.")
        .map(|(name, golden)| (name.to_owned(), flat(golden, &device)))
        .collect();
    assert!(!parameters.is_empty(), "the case has start values");
    for (step, used) in rates.iter().enumerate() {
        let factor = schedule.factor(step as u64, total);
        let allowed: Vec<f64> = used
            .as_array()
            .expect("rates")
            .iter()
            .map(|r| r.as_f64().unwrap())
            .collect();
        let mut sums = [
            GradientSum::Host(BTreeMap::new()),
            GradientSum::Tensors(BTreeMap::new()),
        ];
        let gradient = |name: &str| case.tensor(&format!("inputs.grad{step}.{name}"));
        for sum in &mut sums {
            for name in parameters.keys() {
                sum.add(name.clone(), flat(gradient(name), &device));
            }
        }
        let mut scale = 1.0;
        if let Some(limit) = clip_norm {
            let recorded = case.json["gradient_norms_before_clipping"][step]
                .as_f64()
                .expect("norm");
            for norm in sums.iter().map(GradientSum::norm) {
                assert!(
                    (norm - recorded).abs() < 1e-5 * recorded,
                    "norm {norm} instead of {recorded}"
                );
                scale = clip_factor(norm, limit);
            }
        }
        optimizer.begin_step();
        in_place.begin_step();
        for (name, value) in &mut parameters {
            let rate = base * factor * optimizer.config().rule(name).multiplier;
            assert!(
                allowed
                    .iter()
                    .any(|r| (r - rate).abs() <= 1e-9 * r.abs().max(1e-12)),
                "step {step}, {name}: rate {rate} is none of {allowed:?}"
            );
            let gradient = gradient(name);
            let scaled = flat(gradient, &device).mul_scalar(scale);
            *value = optimizer.update(name, value.clone(), scaled, rate);
            let found = value
                .clone()
                .into_data()
                .try_into_vec::<f32>()
                .expect("f32");
            let values = host.get_mut(name).expect("value");
            in_place.update_flat(name, values, &gradient.f32s(), rate, scale);
            for found in [&found, &*values] {
                assert_close(
                    &format!("step {step}, {name}"),
                    found,
                    case.tensor(&format!("expected.step{step}.{name}")),
                    case.tolerance("abs"),
                    case.tolerance("rel"),
                );
            }
        }
    }
}

/// What the cases name alike; decay on everything and no groups unless a test says otherwise.
fn config(form: AdamForm, hyper: &Value, weight_decay: f64) -> OptimizerConfig {
    OptimizerConfig {
        form,
        learning_rate: number(hyper, "lr"),
        betas: betas(hyper),
        eps: number(hyper, "eps"),
        weight_decay,
        no_decay: Vec::new(),
        groups: Vec::new(),
    }
}

fn betas(hyper: &Value) -> [f64; 2] {
    if hyper["betas"].is_array() {
        [
            hyper["betas"][0].as_f64().unwrap(),
            hyper["betas"][1].as_f64().unwrap(),
        ]
    } else {
        [number(hyper, "b1"), number(hyper, "b2")]
    }
}

#[test]
fn parity_optim_adamw_torch_two_lr() {
    let Some(case) = Case::open("optim/adamw_torch_two_lr") else {
        return;
    };
    let hyper = &case.json["hyper_parameters"];
    let config = OptimizerConfig {
        groups: vec![GroupConfig {
            contains: strings(&hyper["first_group"]),
            multiplier: number(hyper, "first_group_lr") / number(hyper, "lr"),
        }],
        ..config(AdamForm::Adamw, hyper, number(hyper, "weight_decay"))
    };
    replay(&case, config, &Schedule::Constant, 1, None);
}

#[test]
fn parity_optim_adamw_warmup_linear() {
    let Some(case) = Case::open("optim/adamw_warmup_linear") else {
        return;
    };
    let hyper = &case.json["hyper_parameters"];
    let config = OptimizerConfig {
        no_decay: strings(&hyper["no_decay_contains"]),
        groups: vec![GroupConfig {
            contains: strings(&hyper["no_decay_contains"]),
            multiplier: number(hyper, "no_decay_group_lr_multiplier"),
        }],
        ..config(AdamForm::AdamwHf, hyper, number(hyper, "weight_decay"))
    };
    let total = number(hyper, "total_steps");
    let schedule = Schedule::WarmupLinear {
        warmup: number(hyper, "warmup_steps") / total,
        run: 1.0,
    };
    replay(&case, config, &schedule, total as u64, None);
}

#[test]
fn parity_optim_bert_adam() {
    let Some(case) = Case::open("optim/bert_adam") else {
        return;
    };
    let hyper = &case.json["hyper_parameters"];
    let config = config(AdamForm::BertAdam, hyper, number(hyper, "weight_decay"));
    let schedule = Schedule::WarmupLinear {
        warmup: number(hyper, "warmup"),
        run: 1.0,
    };
    replay(
        &case,
        config,
        &schedule,
        number(hyper, "t_total") as u64,
        Some(number(hyper, "clip_norm")),
    );
}

#[test]
fn parity_optim_warmup_adam() {
    let Some(case) = Case::open("optim/warmup_adam") else {
        return;
    };
    let hyper = &case.json["hyper_parameters"];
    let config = config(AdamForm::Adamw, hyper, 0.0);
    let schedule = Schedule::StepWarmup {
        epoch_steps: number(hyper, "epoch_steps") as u64,
        warmup_epochs: number(hyper, "warmup_epochs") as u64,
        decay_epochs: Vec::new(),
        factor: 1.0,
    };
    replay(
        &case,
        config,
        &schedule,
        1,
        Some(number(hyper, "clip_norm")),
    );
}

#[test]
fn parity_optim_schedules() {
    let Some(case) = Case::open("optim/schedules") else {
        return;
    };
    let rel = case.tolerance("rel");
    let expected = &case.json["expected"];
    let same = |what: &str, found: f64, want: f64| {
        assert!(
            (found - want).abs() <= rel * want.abs() + 1e-18,
            "{what}: {found} instead of {want}"
        );
    };

    // The case states its runs in words only: the numbers of each description, in their order.
    let told = |name: &str| numbers_after(case.json["what"].as_str().expect("what"), name);

    // "rates at steps 1, 50 and 100 of 100 (steps counted from 1 ..), decay x0.1 at .. 6 and 9"
    let rows: Vec<Vec<f64>> = serde_json::from_value(expected["vqa_finetune"].clone()).unwrap();
    let run = told("vqa_finetune:");
    let [first, middle, last, epoch_steps, _, factor] = run[..6] else {
        panic!("{run:?}")
    };
    let peak = rows.iter().flatten().copied().fold(0.0, f64::max);
    let schedule = Schedule::StepWarmup {
        epoch_steps: epoch_steps as u64,
        // The rows before the first one at the peak.
        warmup_epochs: rows.iter().take_while(|row| row[0] < peak).count() as u64,
        decay_epochs: run[6..].iter().map(|epoch| *epoch as u64).collect(),
        factor,
    };
    for (epoch, row) in rows.iter().enumerate() {
        for (step, want) in [first, middle, last].into_iter().zip(row) {
            let done = epoch as f64 * epoch_steps + step - 1.0;
            let found = peak * schedule.factor(done as u64, 0);
            same(&format!("epoch {epoch} step {step}"), found, *want);
        }
    }

    // "100 steps per epoch, 50 epochs total, warm-up 2/50"
    let rows: Vec<(u64, f64)> =
        serde_json::from_value(expected["pretrain_bert_adam"].clone()).unwrap();
    let run = told("pretrain_bert_adam:");
    let [epoch_steps, epochs, part, whole] = run[..] else {
        panic!("{run:?}")
    };
    let schedule = Schedule::WarmupLinear {
        warmup: part / whole,
        run: 1.0,
    };
    let peak = rows.iter().map(|row| row.1).fold(0.0, f64::max);
    for (epoch, want) in rows {
        let (step, total) = (epoch * epoch_steps as u64, (epochs * epoch_steps) as u64);
        let found = peak * schedule.factor(step, total);
        same(&format!("epoch {epoch}"), found, want);
    }

    // "15000 steps, 10 % warm-up"
    let rows: Vec<(u64, f64)> = serde_json::from_value(expected["scl_relative"].clone()).unwrap();
    let run = told("scl_relative:");
    let [total, percent] = run[..] else {
        panic!("{run:?}")
    };
    let schedule = Schedule::WarmupLinear {
        warmup: percent / 100.0,
        run: 1.0,
    };
    for (step, want) in rows {
        let found = schedule.factor(step, total as u64);
        same(&format!("step {step}"), found, want);
    }
}

/// Numbers of the sentence that starts with `name`.
fn numbers_after(text: &str, name: &str) -> Vec<f64> {
    let start = text.find(name).unwrap_or_else(|| panic!("no {name}")) + name.len();
    let sentence = text[start..].split(". ").next().unwrap_or_default();
    sentence
        .split(|c: char| !c.is_ascii_digit() && c != '.')
        .filter_map(|word| word.trim_end_matches('.').parse().ok())
        .collect()
}

/// The published grouping, expressed as our rules and matched on published names.
#[test]
fn parity_optim_scl_parameter_groups() {
    let Some(case) = Case::open("optim/scl_parameter_groups") else {
        return;
    };
    let hyper = &case.json["hyper_parameters"];
    let list = |names: &[&str]| {
        names
            .iter()
            .map(|name| (*name).to_owned())
            .collect::<Vec<String>>()
    };
    let config = OptimizerConfig {
        learning_rate: number(hyper, "learning_rate"),
        weight_decay: number(hyper, "weight_decay"),
        no_decay: list(&[
            "bias",
            "LayerNorm.weight",
            "LayerNorm.bias",
            "norm.weight",
            "norm.bias",
            "norm1.weight",
            "norm1.bias",
            "norm2.weight",
            "norm2.bias",
        ]),
        groups: vec![
            GroupConfig {
                contains: list(&[
                    "vqa_classifier",
                    "nlvr2_classifier",
                    "snli_classifier",
                    "mlm_score",
                    "itm_score",
                ]),
                multiplier: number(hyper, "lr_mult_head"),
            },
            GroupConfig {
                contains: list(&["cross_modal"]),
                multiplier: number(hyper, "lr_mult_cross_modal"),
            },
        ],
        ..OptimizerConfig::default()
    };
    let text = std::fs::read_to_string(case.dir.join("groups.json")).expect("groups.json");
    let groups: BTreeMap<String, Value> = serde_json::from_str(&text).unwrap();
    assert!(!groups.is_empty());
    for (name, entry) in groups {
        let (rate, decay) = (number(&entry, "lr"), number(&entry, "weight_decay"));
        let rule = config.rule(&name);
        let found = config.learning_rate * rule.multiplier;
        assert!(
            (found - rate).abs() <= case.tolerance("rel") * rate,
            "{name}: rate {found} instead of {rate}"
        );
        assert!(
            (rule.weight_decay - decay).abs() < 1e-12,
            "{name}: decay {}",
            rule.weight_decay
        );
    }
}
