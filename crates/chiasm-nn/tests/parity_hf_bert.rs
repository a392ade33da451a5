//! BERT directories against the reference (`fixtures/hf/bert*`).
#![allow(
    clippy::unwrap_used,
    reason = "a failed unwrap here is the failed test"
)]

#[path = "common/hub.rs"]
mod hub;

use chiasm_nn::published::Published;
use chiasm_nn::published::bert::Bert;
use chiasm_nn::text::TextError;
use hub::{Hub, with_both_kernels};
use serde_json::json;

/// Both calls of the case; `depth` counts the hidden states that it has of the first one.
fn every_stage(hub: &Hub, depth: usize) {
    let (model, report) = hub.load::<Bert>();
    assert_eq!(report.missing, [""; 0]);
    assert_eq!(report.unexpected, [""; 0]);
    assert_eq!(report.reshaped, []);
    for call in ["a", "b"] {
        let (input, mask) = hub.text(call);
        model.encoder.check(&input).unwrap();
        let all = model.encoder.forward_all(&input);
        if call == "a" {
            for (index, hidden) in all.iter().enumerate().take(depth) {
                hub.check_tokens(&format!("a.hidden_states.{index}"), hidden, &mask);
            }
        }
        let encoded = model.forward(&input);
        hub.check_tokens(&format!("{call}.last_hidden_state"), &encoded, &mask);
        let pooled = model.pooled(&encoded).unwrap();
        hub.check(&format!("{call}.pooler_output"), pooled);
    }
}

#[test]
fn parity_hf_bert() {
    with_both_kernels("hf/bert", |hub| {
        let (_, report) = hub.load::<Bert>();
        assert_eq!(report.ignored, [""; 0]);
        every_stage(hub, 3);
    });
}

#[test]
fn parity_hf_bert_pytorch_bin() {
    with_both_kernels("hf/bert_pytorch_bin", |hub| every_stage(hub, 0));
}

#[test]
fn parity_hf_bert_pytorch_bin_legacy_names() {
    with_both_kernels("hf/bert_pytorch_bin_legacy_names", |hub| {
        let (_, report) = hub.load::<Bert>();
        let ignored = ["bert.embeddings.position_ids", "cls.predictions.bias"];
        assert_eq!(report.ignored, ignored);
        every_stage(hub, 0);
    });
}

/// Names of a task model and of the first conversions; what belongs to other heads is named.
#[test]
fn old_names_and_heads_of_tasks() {
    with_both_kernels("hf/bert", |hub| {
        let config = Bert::config(&hub.config).unwrap();
        let rename = |(name, tensor): (String, _)| {
            let name = match name.strip_suffix("LayerNorm.weight") {
                Some(module) => format!("{module}LayerNorm.gamma"),
                None => name.replace("LayerNorm.bias", "LayerNorm.beta"),
            };
            (format!("module.bert.{name}"), tensor)
        };
        let mut found: chiasm_nn::weights::StateDict =
            hub.weights().into_iter().map(rename).collect();
        found.retain(|name, _| !name.contains("pooler"));
        let bias = found["module.bert.embeddings.LayerNorm.beta"].clone();
        for extra in [
            "cls.predictions.bias",
            "bert.embeddings.position_ids",
            "bert.extra",
        ] {
            found.insert(extra.to_owned(), bias.clone());
        }
        let (model, report) =
            chiasm_nn::published::load::<Bert>(&config, found, &hub.device).unwrap();
        assert_eq!(report.missing, [""; 0]);
        assert_eq!(report.unexpected, ["extra"]);
        let ignored = ["bert.embeddings.position_ids", "cls.predictions.bias"];
        assert_eq!(report.ignored, ignored);
        assert!(model.pooler.is_none());
        let (input, mask) = hub.text("a");
        hub.check_tokens("a.last_hidden_state", &model.forward(&input), &mask);
    });
}

/// A shorter table is cut, a longer one stretched, and the report says so.
#[test]
fn position_tables_of_another_length() {
    with_both_kernels("hf/bert", |hub| {
        for (length, same) in [(20, true), (60, false)] {
            let mut config = Bert::config(&hub.config).unwrap();
            config.encoder.max_text_len = length;
            let loaded = chiasm_nn::published::load::<Bert>(&config, hub.weights(), &hub.device);
            let (model, report) = loaded.unwrap();
            let [reshaped] = &report.reshaped[..] else {
                unreachable!("one table changed: {:?}", report.reshaped);
            };
            assert_eq!(reshaped.name, "embeddings.position_embeddings.weight");
            assert_eq!(
                (&reshaped.from[..], &reshaped.to[..]),
                (&[40, 64][..], &[length, 64][..])
            );
            let (input, mask) = hub.text("a");
            model.encoder.check(&input).unwrap();
            if same {
                hub.check_tokens("a.last_hidden_state", &model.forward(&input), &mask);
            }
        }
    });
}

#[test]
fn texts_that_the_model_cannot_take() {
    with_both_kernels("hf/bert", |hub| {
        let (model, _) = hub.load::<Bert>();
        let (input, _) = hub.text("a");
        let with = |ids: &[i64]| {
            chiasm_nn::text::TextInput::from_padded(ids, &vec![1; ids.len()], ids.len())
        };
        assert!(matches!(
            model.encoder.check(&with(&[5; 41])),
            Err(TextError::TooLong {
                text: 0,
                tokens: 41,
                limit: 40
            })
        ));
        assert!(matches!(
            model.encoder.check(&with(&[249])),
            Err(TextError::UnknownId {
                what: "token",
                id: 249,
                rows: 249
            })
        ));
        let types = vec![2; input.ids.len()].into();
        assert!(matches!(
            model.encoder.check(&input.with_types(types)),
            Err(TextError::UnknownId {
                what: "segment",
                ..
            })
        ));
    });
}

/// Configurations that no BERT can be built from, each with a reason.
#[test]
fn configurations_that_are_refused() {
    let good = json!({
        "model_type": "bert", "vocab_size": 30, "hidden_size": 12, "num_hidden_layers": 1,
        "num_attention_heads": 3, "intermediate_size": 8, "max_position_embeddings": 16,
        "type_vocab_size": 2,
    });
    Bert::config(&good).unwrap();
    for (key, value, reason) in [
        ("model_type", json!("distilbert"), "another family"),
        ("hidden_size", json!(null), "missing"),
        ("hidden_size", json!(0), "no width"),
        ("hidden_size", json!(-4), "negative"),
        ("hidden_size", json!(1e12), "not a whole number"),
        ("hidden_size", json!(u64::MAX), "beyond the limit"),
        ("vocab_size", json!("30"), "a text"),
        (
            "num_hidden_layers",
            json!(1_000_000),
            "blocks cost memory before they are compared",
        ),
        ("num_attention_heads", json!(5), "does not divide the width"),
        ("num_attention_heads", json!([]), "a list"),
        ("intermediate_size", json!(0), "no width"),
        ("max_position_embeddings", json!(0), "no positions"),
        ("type_vocab_size", json!(1u64 << 40), "beyond the limit"),
        (
            "hidden_act",
            json!("swish"),
            "an activation that is not ours",
        ),
        ("hidden_act", json!({}), "no name"),
        ("layer_norm_eps", json!(-1.0), "negative"),
        ("layer_norm_eps", json!("small"), "a text"),
        (
            "position_embedding_type",
            json!("relative_key"),
            "other positions",
        ),
        ("is_decoder", json!(true), "causal"),
    ] {
        let mut bad = good.clone();
        bad[key] = value;
        let error = Bert::config(&bad).err();
        let error = error
            .unwrap_or_else(|| unreachable!("{key}: {reason}"))
            .to_string();
        assert!(error.contains(&format!("`{key}`")), "{reason}: {error}");
    }
    let mut offset = good;
    offset["model_type"] = json!("roberta");
    offset["pad_token_id"] = json!(15);
    assert!(
        Bert::config(&offset).is_err(),
        "padding takes all positions"
    );
}

/// A configuration that lies about sizes is told from the shapes, before any weight is drawn.
#[test]
fn sizes_that_the_file_does_not_have() {
    with_both_kernels("hf/bert", |hub| {
        for (key, size) in [
            ("vocab_size", 1 << 22),
            ("hidden_size", 1 << 22),
            ("intermediate_size", 1 << 22),
        ] {
            let mut lying = hub.config.clone();
            lying[key] = json!(size);
            let config = Bert::config(&lying).unwrap();
            let loaded = chiasm_nn::published::load::<Bert>(&config, hub.weights(), &hub.device);
            assert!(loaded.is_err(), "{key}");
        }
    });
}
