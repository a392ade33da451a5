//! A RoBERTa directory against the reference (`fixtures/hf/roberta`): positions begin after the
//! padding id.
#![allow(
    clippy::unwrap_used,
    reason = "a failed unwrap here is the failed test"
)]

#[path = "common/hub.rs"]
mod hub;

use chiasm_nn::published::bert::Bert;
use hub::with_both_kernels;

#[test]
fn parity_hf_roberta() {
    with_both_kernels("hf/roberta", |hub| {
        let (model, report) = hub.load::<Bert>();
        assert_eq!(report.missing, [""; 0]);
        assert_eq!(report.unexpected, [""; 0]);
        assert_eq!(report.ignored, [""; 0]);
        for call in ["a", "b"] {
            let (input, mask) = hub.text(call);
            if call == "a" {
                for (index, hidden) in model.encoder.forward_all(&input).iter().enumerate() {
                    hub.check_tokens(&format!("a.hidden_states.{index}"), hidden, &mask);
                }
            }
            let encoded = model.forward(&input);
            hub.check_tokens(&format!("{call}.last_hidden_state"), &encoded, &mask);
            let pooled = model.pooled(&encoded).unwrap();
            hub.check(&format!("{call}.pooler_output"), pooled);
        }
    });
}
