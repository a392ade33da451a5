//! A step whose matrices are multiplied in 16 bits goes where the exact one goes, and leaves weights in 32.
#![allow(
    clippy::unwrap_used,
    reason = "a failed unwrap here is the failed test"
)]

mod common;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{DType, Tensor};
use chiasm_nn::compute::{self, Kernels};
use chiasm_train::{StepRecord, TrainError, Trainer};
use common::{MODEL, on_drawings, train};

const RUN: &str = r#"
[objectives]
[objectives.contrastive]
[objectives.matching]
[objectives.mlm]
[objectives.global_completion]
[objectives.local_completion]
[schedule]
steps = 4
batch_size = 16
eval_every = 0
seed = 5
"#;

fn trainer(precision: &str) -> Result<Trainer, TrainError> {
    on_drawings(&format!(
        "name = \"mixed\"\n{MODEL}{RUN}precision = \"{precision}\"\n"
    ))
}

struct InF32;

impl ModuleVisitor for InF32 {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        assert_eq!(param.val().dtype(), DType::F32);
    }
}

fn steps(precision: &str) -> (Vec<StepRecord>, Trainer) {
    compute::with(Kernels::Plain, || {
        let folder = tempfile::tempdir().unwrap();
        let mut trainer = trainer(precision).unwrap();
        let (_, records) = train(&mut trainer, folder.path(), 4, false);
        (records, trainer)
    })
}

#[test]
fn rounded_steps_stay_near_exact_ones_and_weights_in_32_bits() {
    let (exact, _) = steps("f32");
    let (rounded, trainer) = steps("bf16");
    for (exact, rounded) in exact.iter().zip(&rounded) {
        let gap = (exact.loss - rounded.loss).abs() / exact.loss;
        assert!(gap > 0.0 && gap < 0.01, "{} {}", exact.loss, rounded.loss);
        let [a, b] = [exact, rounded].map(|record| record.gradient_norm);
        assert!((a - b).abs() < 0.05 * a, "{a} {b}");
    }
    trainer.model().visit(&mut InF32);
}

#[test]
fn fused_operations_refuse_it_and_say_what_to_do() {
    let error = compute::with(Kernels::Fused, || trainer("bf16").err());
    let error = error.unwrap();
    assert!(error.to_string().contains("schedule.precision"), "{error}");
    assert!(error.hint().unwrap().contains("--kernels plain"));
}
