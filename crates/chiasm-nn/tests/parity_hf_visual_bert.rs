//! VisualBERT against transformers 4.46.3 (`fixtures/hf/visual_bert`).
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
use chiasm_nn::published::pairs::PairError;
use chiasm_nn::published::visual_bert::VisualBert;
use joint::{configurations_are_refused, joined, on_every_batch, on_our_own, task_files_load};
use serde_json::json;

const CASE: &str = "hf/visual_bert";

#[test]
fn parity_hf_visual_bert() {
    on_every_batch(CASE, |model: &VisualBert, batch| {
        let (texts, words) = batch.texts();
        let (regions, seen) = batch.regions("visual_embeds", None);
        let mask = joined(texts.spans.batch(), &words, &seen);
        let hidden = model.forward(&texts, Some(&regions)).unwrap();
        batch.check_tokens("last_hidden_state", &hidden, &mask);
        let pooled = model.embed_pairs(&texts, Some(&regions)).unwrap();
        batch.check("pooler_output", pooled);
        let alone = model.forward(&texts, None).unwrap();
        batch.check_tokens("text_only.last_hidden_state", &alone, &words);
    });
}

#[test]
fn a_model_of_our_own_is_the_same() {
    on_our_own(CASE, Family::VisualBert, |model, batch| {
        let (texts, words) = batch.texts();
        let (regions, seen) = batch.regions("visual_embeds", None);
        let mask = joined(texts.spans.batch(), &words, &seen);
        let seen_as = Seen::Regions(regions);
        let text = model.encode_text(&texts);
        let fused = model.fuse(&text, &model.encode_seen(&seen_as).unwrap(), 0);
        let hidden = fused.text.followed_by(&fused.image);
        batch.check_tokens("last_hidden_state", &hidden, &mask);
        let pooled = model.pair_vector(&texts, &seen_as).unwrap();
        batch.check("pooler_output", pooled);
    });
}

#[test]
fn files_of_tasks_load() {
    let task = |name: &str| format!("visual_bert.{name}");
    let heads = [
        "cls.predictions.bias",
        "cls.seq_relationship.weight",
        "visual_bert.embeddings.position_ids",
        "attention.query.weight",
    ];
    task_files_load::<VisualBert>(CASE, task, &heads);

    let authors = |name: &str| {
        let name = name
            .replace("embeddings.visual_projection", "embeddings.projection")
            .replace(
                "visual_token_type_embeddings",
                "token_type_embeddings_visual",
            )
            .replace("visual_position_embeddings", "position_embeddings_visual")
            .replace("LayerNorm.weight", "LayerNorm.gamma")
            .replace("LayerNorm.bias", "LayerNorm.beta");
        format!("bert.bert.{name}")
    };
    let heads = ["bert.cls.predictions.bias", "bert.classifier.weight"];
    task_files_load::<VisualBert>(CASE, authors, &heads);
}

#[test]
fn configurations_of_other_models_are_refused() {
    configurations_are_refused::<VisualBert>(
        CASE,
        &[
            ("model_type", json!("bert")),
            ("model_type", json!(null)),
            ("hidden_size", json!(null)),
            ("hidden_size", json!(0)),
            ("hidden_size", json!(-64)),
            ("hidden_size", json!("64")),
            ("hidden_size", json!(1e300)),
            ("vocab_size", json!(u64::MAX)),
            ("num_attention_heads", json!(5)),
            ("num_hidden_layers", json!(1.5)),
            ("hidden_act", json!("swish")),
            ("hidden_act", json!(1)),
            ("layer_norm_eps", json!(-1.0)),
            ("layer_norm_eps", json!("small")),
            ("visual_embedding_dim", json!(null)),
            ("type_vocab_size", json!(1)),
            ("bypass_transformer", json!(true)),
        ],
    );
}

#[test]
fn regions_that_do_not_fit_are_refused() {
    on_every_batch(CASE, |model: &VisualBert, batch| {
        let (texts, _) = batch.texts();
        let (good, _) = batch.regions("visual_embeds", None);
        let refused = |regions| model.embed_pairs(&texts, Some(&regions)).unwrap_err();

        let mut regions = good.clone();
        regions.features = good.features.narrow(0, 1);
        assert!(matches!(refused(regions), PairError::Count { .. }));

        let mut regions = good.clone();
        regions.features.rows = good.features.rows.clone().narrow(1, 0, 19);
        let error = refused(regions);
        assert!(error.to_string().contains("features"), "{error}");

        let mut regions = good.clone();
        regions.boxes = good.boxes.clone().narrow(1, 0, 3);
        let error = refused(regions);
        assert!(error.to_string().contains("boxes"), "{error}");

        let mut texts = texts.clone();
        texts.ids = texts.ids.iter().map(|id| id + 1000).collect();
        let error = model.embed_pairs(&texts, Some(&good)).unwrap_err();
        assert!(matches!(error, PairError::Text(_)), "{error}");
    });
}
