//! A CLIP directory against the reference (`fixtures/hf/clip`), and the same weights by OpenAI's
//! names.
#![allow(
    clippy::unwrap_used,
    reason = "a failed unwrap here is the failed test"
)]

#[path = "common/hub.rs"]
mod hub;

use chiasm_nn::Activation;
use chiasm_nn::layers::normalize;
use chiasm_nn::published::clip::{Clip, ClipConfig, Summary};
use chiasm_nn::published::{self, Published};
use chiasm_nn::text::{TextError, TextInput};
use chiasm_nn::weights::{HostTensor, StateDict};
use hub::{Hub, with_both_kernels};
use serde_json::json;

fn both_calls(hub: &Hub, model: &Clip) {
    for call in ["a", "b"] {
        let name = |what: &str| format!("{call}.{what}");
        let (input, mask) = hub.text(call);
        model.text.check(&input).unwrap();
        let encoded = model.text.forward(&input);
        hub.check_tokens(&name("text.last_hidden_state"), &encoded, &mask);
        hub.check(&name("text.pooler_output"), model.text.pooled(&input));
        let texts = normalize(model.embed_texts(&input));
        hub.check(&name("text_embeds"), texts.clone());

        let pixels = hub.pixels(call);
        let patches = model.vision.embed_patches(pixels.clone());
        let last = model.vision.encode_all(&patches, 1).pop().unwrap();
        hub.check(&name("vision.last_hidden_state"), last.rows);
        let pooled = model.vision.encode(&patches).first();
        hub.check(&name("vision.pooler_output"), pooled);
        let images = normalize(model.embed_images(pixels));
        hub.check(&name("image_embeds"), images.clone());
        let logits = images.matmul(texts.transpose()) * model.logit_scale.val().exp().unsqueeze();
        hub.check(&name("logits_per_image"), logits);
    }
}

#[test]
fn parity_hf_clip() {
    with_both_kernels("hf/clip", |hub| {
        let (model, report) = hub.load::<Clip>();
        assert_eq!(report.missing, [""; 0]);
        assert_eq!(report.unexpected, [""; 0]);
        assert_eq!(report.ignored, [""; 0]);
        assert_eq!(report.reshaped, []);
        both_calls(hub, &model);
    });
}

/// The fixture's weights as OpenAI's files and open_clip's hold them.
fn as_openai(found: &StateDict) -> StateDict {
    let mut openai = StateDict::new();
    for (name, tensor) in found {
        let (name, tensor) = match name.as_str() {
            "text_projection.weight" => ("text_projection".to_owned(), tensor.clone().transposed()),
            "visual_projection.weight" => ("visual.proj".to_owned(), tensor.clone().transposed()),
            name if name.contains("k_proj") || name.contains("v_proj") => continue,
            name if name.contains("q_proj") => {
                let parts = ["q_proj", "k_proj", "v_proj"]
                    .map(|part| &found[&name.replace("q_proj", part)]);
                let mut shape = tensor.shape.clone();
                shape[0] *= 3;
                let values = parts.iter().flat_map(|part| part.values.clone()).collect();
                let name = name.replace("self_attn.q_proj.", "attn.in_proj_");
                (name, HostTensor { shape, values })
            }
            name => (name.to_owned(), tensor.clone()),
        };
        let name = [
            ("text_model.embeddings.token_embedding", "token_embedding"),
            (
                "text_model.embeddings.position_embedding.weight",
                "positional_embedding",
            ),
            ("text_model.final_layer_norm", "ln_final"),
            ("text_model.encoder.layers", "transformer.resblocks"),
            ("vision_model.embeddings.patch_embedding", "visual.conv1"),
            (
                "vision_model.embeddings.class_embedding",
                "visual.class_embedding",
            ),
            (
                "vision_model.embeddings.position_embedding.weight",
                "visual.positional_embedding",
            ),
            ("vision_model.pre_layrnorm", "visual.ln_pre"),
            ("vision_model.post_layernorm", "visual.ln_post"),
            (
                "vision_model.encoder.layers",
                "visual.transformer.resblocks",
            ),
            ("self_attn.out_proj", "attn.out_proj"),
            ("layer_norm1", "ln_1"),
            ("layer_norm2", "ln_2"),
            ("mlp.fc1", "mlp.c_fc"),
            ("mlp.fc2", "mlp.c_proj"),
        ]
        .iter()
        .fold(name, |name, (from, to)| name.replace(from, to));
        openai.insert(name, tensor);
    }
    let scalar = HostTensor {
        shape: vec![],
        values: vec![32.0],
    };
    for setting in ["input_resolution", "context_length", "vocab_size"] {
        openai.insert(setting.to_owned(), scalar.clone());
    }
    openai
}

#[test]
fn names_of_openai() {
    with_both_kernels("hf/clip", |hub| {
        let found = as_openai(&hub.weights());
        let config = Clip::config(&hub.config).unwrap();
        let (model, report) = published::load::<Clip>(&config, found, &hub.device).unwrap();
        assert_eq!(report.missing, [""; 0]);
        assert_eq!(report.unexpected, [""; 0]);
        assert_eq!(
            report.ignored,
            ["context_length", "input_resolution", "vocab_size"]
        );
        both_calls(hub, &model);
    });
}

/// A width of 32 has no head of 64 features; widened, the sizes are those of the tensors.
#[test]
fn sizes_from_tensors() {
    with_both_kernels("hf/clip", |hub| {
        let found = as_openai(&hub.weights());
        assert!(ClipConfig::infer(&found, Activation::QuickGelu).is_err());
        let widened = |(name, tensor): (&String, &HostTensor)| {
            let double = |len: &usize| if *len == 32 { 64 } else { *len };
            let shape: Vec<usize> = tensor.shape.iter().map(double).collect();
            let values = vec![0.5; shape.iter().product()];
            (name.clone(), HostTensor { shape, values })
        };
        let found: StateDict = found.iter().map(widened).collect();
        let config = ClipConfig::infer(&found, Activation::Gelu).unwrap();
        let expected = Clip::config(&hub.config).unwrap();
        assert_eq!(config.text.vocab_size, 910);
        assert_eq!(config.text.max_text_len, 24);
        assert_eq!((config.text.layers, config.text.num_heads), (2, 1));
        assert_eq!(config.text.summary, Summary::LargestId);
        assert_eq!((config.vision.layers, config.vision.num_heads), (2, 1));
        assert_eq!(config.vision.image_size, expected.vision.image_size);
        assert_eq!(config.vision.patch_size, expected.vision.patch_size);
        assert_eq!(config.projection_size, 40);
        assert!(ClipConfig::infer(&StateDict::new(), Activation::Gelu).is_err());
    });
}

/// A text's summary does not depend on what follows it, nor on what else is in the batch.
#[test]
fn summaries_of_texts() {
    with_both_kernels("hf/clip", |hub| {
        let (model, _) = hub.load::<Clip>();
        let of = |texts: &[&[i64]]| {
            let len = texts.iter().map(|text| text.len()).max().unwrap();
            let pad = |text: &&[i64], fill: i64| -> Vec<i64> {
                text.iter()
                    .copied()
                    .chain(std::iter::repeat(fill))
                    .take(len)
                    .collect()
            };
            let ids: Vec<i64> = texts.iter().flat_map(|text| pad(text, 0)).collect();
            let ones: Vec<Vec<i64>> = texts.iter().map(|text| vec![1; text.len()]).collect();
            let mask: Vec<i64> = ones
                .iter()
                .flat_map(|ones| pad(&ones.as_slice(), 0))
                .collect();
            let pooled = model.text.pooled(&TextInput::from_padded(&ids, &mask, len));
            pooled.into_data().try_into_vec::<f32>().unwrap()
        };
        let alone = of(&[&[908, 5, 6, 909]]);
        let among = of(&[&[908, 909], &[908, 5, 6, 909, 7, 8, 909]]);
        assert_eq!(alone[..], among[32..]);
    });
}

#[test]
fn tables_of_other_sizes() {
    with_both_kernels("hf/clip", |hub| {
        let mut config = Clip::config(&hub.config).unwrap();
        config.vision.image_size = 64;
        config.text.max_text_len = 16;
        let loaded = published::load::<Clip>(&config, hub.weights(), &hub.device);
        let (model, report) = loaded.unwrap();
        let changed: Vec<_> = report
            .reshaped
            .iter()
            .map(|r| (&r.from[..], &r.to[..]))
            .collect();
        assert_eq!(
            changed,
            [
                (&[17, 64][..], &[65, 64][..]),
                (&[24, 32][..], &[16, 32][..]),
            ]
        );
        let (input, mask) = hub.text("a");
        hub.check_tokens(
            "a.text.last_hidden_state",
            &model.text.forward(&input),
            &mask,
        );
        let long = TextInput::from_padded(&[5; 17], &[1; 17], 17);
        let too_long = TextError::TooLong {
            text: 0,
            tokens: 17,
            limit: 16,
        };
        assert_eq!(model.text.check(&long), Err(too_long));
        let none = TextInput::from_padded(&[5], &[0], 1);
        assert_eq!(model.text.check(&none), Err(TextError::Empty { text: 0 }));
    });
}

/// Configurations that no CLIP can be built from, each with a reason.
#[test]
fn configurations_that_are_refused() {
    assert_eq!(
        Clip::config(&json!({})).unwrap().text.summary,
        Summary::Id(49_407)
    );
    for (part, key, value, reason) in [
        ("", "model_type", json!("siglip"), "another family"),
        ("", "projection_dim", json!(0), "nothing to project into"),
        (
            "text_config",
            "hidden_act",
            json!("swish"),
            "an activation that is not ours",
        ),
        (
            "text_config",
            "hidden_size",
            json!(500),
            "no multiple of the heads",
        ),
        ("text_config", "vocab_size", json!(-1), "negative"),
        (
            "text_config",
            "num_hidden_layers",
            json!(1 << 20),
            "too many blocks",
        ),
        (
            "text_config",
            "max_position_embeddings",
            json!(0),
            "no room for a text",
        ),
        ("text_config", "eos_token_id", json!([49407]), "a list"),
        (
            "vision_config",
            "num_channels",
            json!(4),
            "no colour pictures",
        ),
        ("vision_config", "image_size", json!("224"), "a text"),
        ("vision_config", "layer_norm_eps", json!("no"), "no number"),
    ] {
        let mut bad = json!({});
        if part.is_empty() {
            bad[key] = value;
        } else {
            bad[part][key] = value;
        }
        assert!(Clip::config(&bad).is_err(), "{key}: {reason}");
    }
    let text = json!({"text_config": {"eos_token_id": 2}});
    assert_eq!(
        Clip::config(&text).unwrap().text.summary,
        Summary::LargestId
    );
}
