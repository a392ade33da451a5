//! LXMERT against transformers 4.46.3 (`fixtures/hf/lxmert`).
//!
//! Padding is compared nowhere: what the reference gives for masked words and regions, no other
//! token looks at.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed unwrap here is the failed test"
)]
#![allow(dead_code, reason = "each test uses a part of what they share")]

mod joint;

use chiasm_nn::model::Seen;
use chiasm_nn::published::family::Family;
use chiasm_nn::published::lxmert::Lxmert;
use joint::{configurations_are_refused, on_every_batch, on_our_own, task_files_load};
use serde_json::json;

const CASE: &str = "hf/lxmert";

#[test]
fn parity_hf_lxmert() {
    on_every_batch(CASE, |model: &Lxmert, batch| {
        let (texts, words) = batch.texts();
        let (regions, seen) = batch.regions("visual_feats", Some("visual_pos"));
        let fused = model.forward(&texts, &regions).unwrap();
        batch.check_tokens("language_output", &fused.text, &words);
        batch.check_tokens("vision_output", &fused.image, &seen);
        let pooled = model.embed_pairs(&texts, &regions).unwrap();
        batch.check("pooled_output", pooled);
    });
}

#[test]
fn a_model_of_our_own_is_the_same() {
    on_our_own(CASE, Family::Lxmert, |model, batch| {
        let (texts, words) = batch.texts();
        let (regions, seen) = batch.regions("visual_feats", Some("visual_pos"));
        let seen_as = Seen::Regions(regions);
        let text = model.encode_text(&texts);
        let fused = model.fuse(&text, &model.encode_seen(&seen_as).unwrap(), 0);
        batch.check_tokens("language_output", &fused.text, &words);
        batch.check_tokens("vision_output", &fused.image, &seen);
        // By way of the summaries alone, too.
        let pooled = model.pair_vector(&texts, &seen_as).unwrap();
        batch.check("pooled_output", pooled);
    });
}

#[test]
fn files_of_tasks_load() {
    let heads = [
        "cls.predictions.bias",
        "obj_predict_head.decoder_dict.obj.bias",
        "answer_head.logit_fc.0.weight",
        "lxmert.embeddings.position_ids",
    ];
    task_files_load::<Lxmert>(CASE, |name| format!("lxmert.{name}"), &heads);
    let heads = ["module.cls.seq_relationship.bias"];
    task_files_load::<Lxmert>(CASE, |name| format!("module.bert.{name}"), &heads);
}

#[test]
fn configurations_of_other_models_are_refused() {
    configurations_are_refused::<Lxmert>(
        CASE,
        &[
            ("model_type", json!("visual_bert")),
            ("l_layers", json!(0)),
            ("r_layers", json!(100_000)),
            ("x_layers", json!([5])),
            ("num_attention_heads", json!(7)),
            ("visual_feat_dim", json!(1u64 << 40)),
            ("visual_pos_dim", json!(5)),
            ("intermediate_size", json!(true)),
            ("max_position_embeddings", json!({})),
        ],
    );
}
