//! A ViT directory against the reference (`fixtures/hf/vit`), the same weights by the names of
//! DINOv2 and timm, and position tables of other resolutions (`fixtures/scl/position_resize`).
#![allow(
    clippy::unwrap_used,
    reason = "a failed unwrap here is the failed test"
)]

#[path = "common/hub.rs"]
mod hub;

use chiasm_nn::Tokens;
use chiasm_nn::published::positions::{Resampling, resize_grid};
use chiasm_nn::published::vit::{Vit, VitConfig};
use chiasm_nn::published::{self, Published};
use chiasm_nn::weights::{HostTensor, StateDict};
use chiasm_testkit::{Case, assert_close};
use hub::{Hub, with_both_kernels};
use serde_json::json;

fn check_all(hub: &Hub, name: &str, found: &Tokens) {
    hub.check(name, found.rows.clone());
}

#[test]
fn parity_hf_vit() {
    with_both_kernels("hf/vit", |hub| {
        let (model, report) = hub.load::<Vit>();
        assert_eq!(report.missing, [""; 0]);
        assert_eq!(report.unexpected, [""; 0]);
        assert_eq!(report.ignored, [""; 0]);
        assert_eq!(report.reshaped, []);
        for call in ["a", "b"] {
            let pixels = hub.pixels(call);
            if call == "a" {
                let patches = model.encoder.embed_patches(pixels.clone());
                for (index, hidden) in model.encoder.encode_all(&patches, 1).iter().enumerate() {
                    check_all(hub, &format!("a.hidden_states.{index}"), hidden);
                }
            }
            let encoded = model.forward(pixels);
            check_all(hub, &format!("{call}.last_hidden_state"), &encoded);
            let pooled = model.pooled(&encoded).unwrap();
            hub.check(&format!("{call}.pooler_output"), pooled);
        }
    });
}

/// The class token alone is that of the whole.
#[test]
fn class_token_alone() {
    with_both_kernels("hf/vit", |hub| {
        let (model, _) = hub.load::<Vit>();
        let pixels = hub.pixels("b");
        let whole = model.forward(pixels.clone()).first();
        let difference = (model.class(pixels) - whole).abs().max();
        assert!(difference.into_scalar::<f32>() < 1e-5);
    });
}

/// Larger pictures: the table is resampled when the weights are read, and the report says so.
#[test]
fn another_resolution() {
    with_both_kernels("hf/vit", |hub| {
        let mut config = Vit::config(&hub.config).unwrap();
        config.encoder.image_size = 48;
        let loaded = published::load::<Vit>(&config, hub.weights(), &hub.device);
        let (model, report) = loaded.unwrap();
        let [reshaped] = &report.reshaped[..] else {
            unreachable!("one table changed: {:?}", report.reshaped);
        };
        assert_eq!(reshaped.name, "embeddings.position_embeddings");
        assert_eq!(reshaped.from, [1, 17, 64]);
        assert_eq!(reshaped.to, [37, 64]);
        assert_eq!(model.encoder.image_size(), 48);
        let encoded = model.forward(hub.pixels("interp"));
        check_all(hub, "interp.last_hidden_state", &encoded);
        config.encoder.image_size = 50;
        assert!(published::load::<Vit>(&config, hub.weights(), &hub.device).is_err());
    });
}

/// The fixture's weights by the names of DINOv2's files, with factors that are 2 and maps that are
/// half as large, and registers.
fn as_dino(found: &StateDict) -> StateDict {
    let mut dino = StateDict::new();
    let half = |tensor: &HostTensor| HostTensor {
        shape: tensor.shape.clone(),
        values: tensor.values.iter().map(|value| value / 2.0).collect(),
    };
    for (name, tensor) in found {
        let name = name.replace("encoder.layer.", "blocks.");
        if name.contains(".attention.attention.") || name.starts_with("pooler.") {
            continue;
        }
        let tensor = if name.contains("output.dense") {
            half(tensor)
        } else {
            tensor.clone()
        };
        let name = [
            ("embeddings.cls_token", "cls_token"),
            ("embeddings.position_embeddings", "pos_embed"),
            ("embeddings.patch_embeddings.projection", "patch_embed.proj"),
            ("layernorm_before", "norm1"),
            ("layernorm_after", "norm2"),
            ("layernorm", "norm"),
            ("attention.output.dense", "attn.proj"),
            ("intermediate.dense", "mlp.fc1"),
            ("output.dense", "mlp.fc2"),
        ]
        .iter()
        .fold(name, |name, (from, to)| name.replace(from, to));
        dino.insert(name, tensor);
    }
    for block in 0..2 {
        for leaf in ["weight", "bias"] {
            let part =
                |part| &found[&format!("encoder.layer.{block}.attention.attention.{part}.{leaf}")];
            let parts = ["query", "key", "value"].map(part);
            let mut shape = parts[0].shape.clone();
            shape[0] *= 3;
            let values = parts.iter().flat_map(|part| part.values.clone()).collect();
            dino.insert(
                format!("blocks.{block}.attn.qkv.{leaf}"),
                HostTensor { shape, values },
            );
        }
        for scale in ["ls1", "ls2"] {
            let factors = HostTensor {
                shape: vec![64],
                values: vec![2.0; 64],
            };
            dino.insert(format!("blocks.{block}.{scale}.gamma"), factors);
        }
    }
    let mask = HostTensor {
        shape: vec![1, 64],
        values: vec![0.0; 64],
    };
    dino.insert("mask_token".to_owned(), mask);
    dino
}

#[test]
fn names_of_dino_and_timm() {
    with_both_kernels("hf/vit", |hub| {
        let found = as_dino(&hub.weights());
        let mut config = VitConfig::infer(&found).unwrap();
        assert_eq!(config.resampling.offset, 0.1);
        let expected = Vit::config(&hub.config).unwrap().encoder;
        // What tensors do not tell.
        assert_eq!(config.encoder.num_heads, 1);
        config.encoder.num_heads = expected.num_heads;
        config.encoder.layer_norm_eps = expected.layer_norm_eps;
        assert_eq!(config.encoder, expected);
        let (model, report) = published::load::<Vit>(&config, found, &hub.device).unwrap();
        assert_eq!(report.missing, [""; 0]);
        assert_eq!(report.unexpected, [""; 0]);
        assert_eq!(report.ignored, ["mask_token"]);
        check_all(hub, "a.last_hidden_state", &model.forward(hub.pixels("a")));
    });
}

/// Registers stand behind the class token and have no position; timm gives the class token none
/// either.
#[test]
fn registers() {
    with_both_kernels("hf/vit", |hub| {
        let mut found = as_dino(&hub.weights());
        let registers = HostTensor {
            shape: vec![1, 4, 64],
            values: (0..256).map(|i| (i as f32).sin()).collect(),
        };
        found.insert("reg_token".to_owned(), registers.clone());
        let table = found.get_mut("pos_embed").unwrap();
        let class = table.values.drain(..64).collect::<Vec<_>>();
        table.shape = vec![1, 16, 64];
        let token = found.get_mut("cls_token").unwrap();
        for (token, position) in token.values.iter_mut().zip(class) {
            *token += position;
        }
        let config = VitConfig::infer(&found).unwrap();
        assert_eq!(
            (config.encoder.registers, config.encoder.image_size),
            (4, 32)
        );
        assert!(config.resampling.antialias);
        let (model, report) = published::load::<Vit>(&config, found, &hub.device).unwrap();
        assert_eq!(report.missing, [""; 0]);
        assert_eq!(report.unexpected, [""; 0]);
        let patches = model.encoder.embed_patches(hub.pixels("a"));
        let embedded = model.encoder.embed(&patches, 1);
        assert_eq!(embedded.spans.common_length(), Some(1 + 4 + 16));
        let rows = embedded.rows.into_data().try_into_vec::<f32>().unwrap();
        for picture in rows.chunks_exact(21 * 64) {
            assert_eq!(picture[64..5 * 64], registers.values);
        }
        let expected = &hub.case.tensor("expected.a.hidden_states.0");
        for (found, expected) in rows
            .chunks_exact(21 * 64)
            .zip(expected.values.chunks_exact(17 * 64))
        {
            let close = |found: &[f32], expected: &[f64]| {
                let pairs = found.iter().zip(expected);
                pairs
                    .map(|(a, b)| (f64::from(*a) - b).abs())
                    .fold(0.0, f64::max)
                    < 2e-4
            };
            assert!(close(&found[..64], &expected[..64]));
            assert!(close(&found[5 * 64..], &expected[64..]));
        }
    });
}

/// The reference's own resampling (specs/scl.md, A9 too: [325, 768] at 288 pixels).
#[test]
fn parity_scl_position_resize() {
    let Some(case) = Case::open("scl/position_resize") else {
        return;
    };
    let golden = case.tensor("inputs.positional_embedding");
    let table = HostTensor {
        shape: golden.shape.clone(),
        values: golden.f32s(),
    };
    for grid in [3, 6, 8] {
        let resized = resize_grid(&table, grid * grid, Resampling::default()).unwrap();
        let expected = case.tensor(&format!("expected.grid{grid}"));
        assert_eq!(resized.shape, expected.shape);
        assert_eq!(
            resized.values[..32],
            table.values[..32],
            "the class row stays"
        );
        let what = format!("grid {grid}");
        assert_close(&what, &resized.values, expected, case.tolerance("abs"), 0.0);
    }
    let published = HostTensor {
        shape: vec![197, 768],
        values: vec![0.25; 197 * 768],
    };
    let resized = resize_grid(&published, 18 * 18, Resampling::default()).unwrap();
    assert_eq!(resized.shape, [325, 768]);
}

/// Files that no vision transformer can be read from, each with a reason.
#[test]
fn files_that_are_refused() {
    with_both_kernels("hf/vit", |hub| {
        let good = as_dino(&hub.weights());
        let shaped = |shape: &[usize]| HostTensor {
            values: vec![0.0; shape.iter().product()],
            shape: shape.to_vec(),
        };
        for (name, tensor, reason) in [
            (
                "patch_embed.proj.weight",
                shaped(&[64, 192]),
                "no convolution",
            ),
            (
                "patch_embed.proj.weight",
                shaped(&[64, 1, 8, 8]),
                "grey pictures",
            ),
            (
                "patch_embed.proj.weight",
                shaped(&[64, 3, 8, 4]),
                "patches are no squares",
            ),
            (
                "patch_embed.proj.weight",
                shaped(&[64, 3, 0, 0]),
                "patches of nothing",
            ),
            (
                "patch_embed.proj.weight",
                shaped(&[60, 3, 8, 8]),
                "a width without heads",
            ),
            ("patch_embed.proj.weight", shaped(&[0, 3, 8, 8]), "no width"),
            ("pos_embed", shaped(&[]), "a scalar"),
            ("pos_embed", shaped(&[1, 0, 64]), "no positions"),
            ("pos_embed", shaped(&[1, 12, 64]), "no square of patches"),
            ("pos_embed", shaped(&[1, 17, 32]), "another width"),
            ("pos_embed", shaped(&[2, 17, 64]), "two tables"),
            ("cls_token", shaped(&[1, 1, 32]), "another width"),
            (
                "blocks.0.attn.qkv.weight",
                shaped(&[191, 64]),
                "not three parts",
            ),
            ("blocks.0.attn.qkv.weight", shaped(&[0, 64]), "nothing"),
            (
                "blocks.0.attn.qkv.weight",
                shaped(&[192, 32]),
                "another width",
            ),
            ("blocks.1.attn.qkv.bias", shaped(&[]), "a scalar"),
            (
                "blocks.0.ls1.gamma",
                shaped(&[32]),
                "factors of another width",
            ),
            ("blocks.0.ls2.gamma", shaped(&[0]), "no factors"),
            ("blocks.0.mlp.fc1.weight", shaped(&[]), "a scalar"),
            (
                "blocks.0.mlp.fc1.weight",
                shaped(&[128, 32]),
                "another width",
            ),
            ("blocks.1.mlp.fc2.bias", shaped(&[65]), "another width"),
            (
                "register_tokens",
                shaped(&[1, 4, 32]),
                "registers of another width",
            ),
            ("norm.weight", shaped(&[63]), "another width"),
        ] {
            let mut bad = good.clone();
            bad.insert(name.to_owned(), tensor);
            let loaded = VitConfig::infer(&bad)
                .and_then(|config| published::load::<Vit>(&config, bad, &hub.device));
            assert!(loaded.is_err(), "{name}: {reason}");
        }
        let mut without = good;
        without.remove("pos_embed");
        assert!(VitConfig::infer(&without).is_err(), "no table");
        assert!(
            VitConfig::infer(&StateDict::new()).is_err(),
            "an empty file"
        );
    });
    for (key, value) in [
        ("model_type", json!("swin")),
        ("num_channels", json!(1)),
        ("qkv_bias", json!(false)),
        ("use_swiglu_ffn", json!(true)),
        ("image_size", json!([224, 224])),
        ("patch_size", json!(0)),
        ("num_hidden_layers", json!(4096)),
        ("hidden_act", json!("silu")),
        ("num_attention_heads", json!(7)),
    ] {
        let mut bad = json!({"model_type": "vit"});
        bad[key] = value;
        let error = Vit::config(&bad).unwrap_err().to_string();
        assert!(error.contains(key), "{error}");
    }
}
