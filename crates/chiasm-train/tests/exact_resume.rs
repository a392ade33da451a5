//! The same seed gives the same bytes; a run that is stopped and resumed gives the bytes of one
//! that was not.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed unwrap here is the failed test"
)]

mod common;

use std::path::Path;
use std::sync::atomic::AtomicBool;

use chiasm_train::run::{RunDir, read_metrics};
use chiasm_train::{Observer, Outcome, checkpoint};
use common::{MODEL, bytes, on_drawings, train};

/// Every objective, with dropout and augmentation: everything random takes part.
const OBJECTIVES: &str = r#"
[objectives]
fused_share = 0.5
[objectives.contrastive]
[objectives.matching]
[objectives.mlm]
[objectives.global_completion]
[schedule]
steps = 6
batch_size = 8
accumulate = 2
eval_every = 0
save_every = 2
keep = 9
seed = 11
"#;

fn recipe() -> String {
    format!("name = \"resume\"\n{MODEL}{OBJECTIVES}")
}

fn run(dir: &Path, recipe: &str, stop_after: u64, resume: bool) -> Outcome {
    train(&mut on_drawings(recipe).unwrap(), dir, stop_after, resume).0
}

#[test]
fn same_seed_same_bytes_and_resumed_equals_uninterrupted() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);

    assert!(!run(&at("whole"), &recipe(), u64::MAX, false).interrupted);
    let whole = bytes(&at("whole"));
    assert!(
        whole
            .iter()
            .any(|(name, _)| name == checkpoint::OPTIMIZER_FILE)
    );

    run(&at("again"), &recipe(), u64::MAX, false);
    assert_eq!(bytes(&at("again")), whole, "two runs with one seed");

    for stop_after in 1..6 {
        let name = format!("stopped-{stop_after}");
        assert!(run(&at(&name), &recipe(), stop_after, false).interrupted);
        assert_ne!(bytes(&at(&name)), whole);
        assert!(!run(&at(&name), &recipe(), u64::MAX, true).interrupted);
        assert_eq!(bytes(&at(&name)), whole, "resumed after step {stop_after}");
        let steps: Vec<u64> = read_metrics(&at(&name))
            .unwrap()
            .iter()
            .map(|l| l.step)
            .collect();
        assert_eq!(steps, [1, 2, 3, 4, 5, 6]);
    }

    let other = recipe().replace("seed = 11", "seed = 12");
    run(&at("other"), &other, u64::MAX, false);
    assert_ne!(bytes(&at("other")), whole, "another seed");
}

#[test]
fn a_run_is_not_resumed_with_another_recipe_nor_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    run(folder.path(), &recipe(), 1, false);
    let error = RunDir::open(folder.path(), false).err().unwrap();
    assert!(error.hint().unwrap().contains("--resume"));

    let (checkpoint, _) = checkpoint::latest(&folder.path().join("checkpoints")).unwrap();
    let mut other = on_drawings(&recipe().replace("seed = 11", "seed = 12")).unwrap();
    let error = other.restore(&checkpoint).err().unwrap();
    assert!(error.to_string().contains("the recipe"), "{error}");
}

#[test]
fn a_loss_that_is_not_a_number_stops_the_run_and_names_the_samples() {
    let mut trainer = on_drawings(&recipe().replace("init_std = 0.1", "init_std = 1e30")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut run = RunDir::open(folder.path(), false).unwrap();
    struct Silent;
    impl Observer for Silent {}
    let error = trainer
        .run(&mut run, &mut Silent, &AtomicBool::new(false))
        .err()
        .unwrap();
    assert!(error.to_string().contains("step 1"), "{error}");
    assert!(error.to_string().contains("samples: "), "{error}");
}
