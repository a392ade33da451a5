//! Grad-CAM against `fixtures/itr/gradcam_vit`.

#![allow(
    clippy::unwrap_used,
    reason = "a failed unwrap here is the failed test"
)]

use burn::tensor::{Device, Tensor, TensorData};
use chiasm_explain::{cam, draw};
use chiasm_nn::published::vit::{Vit, VitConfig};
use chiasm_nn::published::{Published as _, load};
use chiasm_nn::watch::record;
use chiasm_nn::weights::{HostTensor, StateDict};
use chiasm_testkit::Case;
use serde_json::json;

fn worst(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let apart = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
    apart.fold(0.0, f32::max)
}

#[test]
fn maps_are_those_of_the_reference() {
    let Some(case) = Case::open("itr/gradcam_vit") else {
        return;
    };
    let device = Device::flex();
    let config = &case.json["config"];
    let json = json!({
        "model_type": "vit",
        "hidden_size": config["hidden_size"],
        "num_hidden_layers": config["num_hidden_layers"],
        "num_attention_heads": config["num_attention_heads"],
        "intermediate_size": config["intermediate_size"],
        "image_size": config["image_size"],
        "patch_size": config["patch_size"],
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "num_channels": 3,
        "qkv_bias": true,
    });
    let weights: StateDict = case
        .with_prefix("weights.vit.")
        .map(|(name, tensor)| {
            let tensor = HostTensor {
                shape: tensor.shape.clone(),
                values: tensor.f32s(),
            };
            (name.to_owned(), tensor)
        })
        .collect();
    let config: VitConfig = Vit::config(&json).unwrap();
    let (vit, report) = load::<Vit>(&config, weights, &device).unwrap();
    assert!(report.missing.is_empty(), "{:?}", report.missing);
    let golden = |name: &str| case.tensor(name).f32s();
    let matrix = |name: &str| -> Tensor<2> {
        let tensor = case.tensor(name);
        let shape = [tensor.shape[0], tensor.shape[1]];
        Tensor::from_data(TensorData::new(tensor.f32s(), shape), &device)
    };
    let classifier = matrix("weights.classifier.weight");
    let (pixels, targets) = (
        golden("inputs.pixel_values"),
        case.tensor("inputs.target").i64s(),
    );
    let (side, size, channels) = (6, 48, 32);
    for (index, target) in targets.iter().enumerate() {
        let own = pixels[index * 3 * size * size..(index + 1) * 3 * size * size].to_vec();
        let pixels = Tensor::<4>::from_data(TensorData::new(own, [1, 3, size, size]), &device);
        let text = matrix("inputs.text").narrow(0, index, 1);
        let (pooled, records) = record(true, || {
            let encoded = vit.encoder.encode(&vit.encoder.embed_patches(pixels));
            vit.pooled(&encoded).unwrap()
        });
        let row = classifier.clone().narrow(0, *target as usize, 1);
        let score = (Tensor::cat(vec![text.autodiff(), pooled], 1) * row).sum();
        let bias = golden("weights.classifier.bias")[*target as usize];
        let logit = score.clone().into_scalar::<f32>() + bias;
        let expected = golden("expected.logits")[index * 4 + *target as usize];
        assert!((logit - expected).abs() < 1e-4, "{logit} {expected}");
        let gradients = score.backward();
        let last = records.last().unwrap();
        let host = |tensor: Tensor<2>| tensor.try_into_vec_as::<f32>().unwrap();
        let (values, slopes) = (
            host(last.input.values.clone()),
            host(last.input.gradient(&gradients)),
        );
        let tokens = 1 + side * side;
        let part = |name: &str, len: usize| golden(name)[index * len..(index + 1) * len].to_vec();
        let all = tokens * channels;
        assert!(worst(&values, &part("expected.activations", all)) < 1e-4);
        assert!(worst(&slopes, &part("expected.gradients", all)) < 1e-5);
        // C1: the class token is no place.
        let (values, slopes) = (&values[channels..], &slopes[channels..]);
        for (name, map) in [
            ("plain", cam::plain(values, slopes, channels)),
            ("eigen", cam::smooth(values, slopes, channels)),
        ] {
            let expected = part(&format!("expected.{name}_map"), side * side);
            let scale = expected
                .iter()
                .fold(0.0f32, |a, b| a.max(b.abs()))
                .max(1e-6);
            assert!(
                worst(&map, &expected) / scale < 2e-3,
                "{name}: {map:?} {expected:?}"
            );
            let large = draw::enlarged(&draw::scaled(&map), side, [size, size]);
            let drawn = draw::scaled(&large);
            let expected = part(&format!("expected.{name}_final"), size * size);
            assert!(worst(&drawn, &expected) < 2e-3, "{name}");
            // C2.
            assert!(drawn.iter().all(|value| (0.0..=1.0).contains(value)));
        }
        // C4.
        let (plain, smooth) = (
            cam::plain(values, slopes, channels),
            cam::smooth(values, slopes, channels),
        );
        let mean = |map: &[f32]| map.iter().sum::<f32>() / map.len() as f32;
        let (a, b) = (mean(&plain), mean(&smooth));
        let together: f32 = plain
            .iter()
            .zip(&smooth)
            .map(|(x, y)| (x - a) * (y - b))
            .sum();
        assert!(together >= 0.0);
    }
}
