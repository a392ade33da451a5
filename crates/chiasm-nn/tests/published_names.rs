//! Names of checkpoints whose weights the fixtures hold.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed unwrap here is the failed test"
)]

use chiasm_nn::names::{published, scl_canonical};
use chiasm_nn::published::rosita;
use chiasm_testkit::Case;

/// Every weight that the reference's own state dict has is named, none is missed.
#[test]
fn rosita_names_cover_the_reference() {
    for (case, heads) in [("tbkin/model_pretrain", 23), ("tbkin/rec", 8)] {
        let Some(case) = Case::open(case) else {
            return;
        };
        let names: Vec<&str> = case.with_prefix("weights.").map(|(name, _)| name).collect();
        let report = rosita::report(names.iter().copied());
        assert_eq!(report.missing, [""; 0]);
        assert_eq!(report.unexpected, [""; 0]);
        assert_eq!(report.ignored, [""; 0]);
        assert_eq!(report.matched.len(), rosita::expected(2).len() + heads);
    }
}

/// Every weight that the reference's own state dict has is one of ours: nothing is ignored.
#[test]
fn scl_names_cover_the_reference() {
    let Some(case) = Case::open("scl/model_image") else {
        return;
    };
    let ours = ["vision.class_token", "temperature", "text.norm.bias"];
    for name in ours.iter().flat_map(|ours| published(ours)) {
        assert_eq!(scl_canonical(&name), Some(name));
    }
    let names = case.with_prefix("weights.").map(|(name, _)| name);
    let ignored: Vec<&str> = names.filter(|name| scl_canonical(name).is_none()).collect();
    assert_eq!(ignored, [""; 0]);
}
