//! What must hold of the model whatever its weights (`specs/scl.md` section 10.4).

#![allow(
    clippy::unwrap_used,
    reason = "a failed unwrap here is the failed test"
)]

use burn::tensor::{Device, Tensor, TensorData};
use chiasm_nn::layers::Init;
use chiasm_nn::text::TextInput;
use chiasm_nn::tokens::Chosen;
use chiasm_nn::{FusionConfig, ModelConfig, Spans, TextConfig, VisionConfig, VisionLanguageModel};

fn config() -> ModelConfig {
    ModelConfig {
        text: TextConfig {
            vocab_size: 40,
            hidden_size: 12,
            layers: 2,
            num_heads: 3,
            intermediate_size: 20,
            max_text_len: 8,
            dropout: 0.0,
            ..TextConfig::default()
        },
        vision: VisionConfig {
            image_size: 12,
            patch_size: 4,
            hidden_size: 16,
            layers: 2,
            num_heads: 4,
            intermediate_size: 24,
            ..VisionConfig::default()
        },
        fusion: FusionConfig {
            hidden_size: 20,
            layers: 2,
            num_heads: 2,
            intermediate_size: 24,
            dropout: 0.0,
            ..FusionConfig::default()
        },
        projection_size: 6,
        init_std: 0.2,
        ..ModelConfig::default()
    }
}

fn model(device: &Device) -> VisionLanguageModel {
    VisionLanguageModel::new(&Init::new(3, config().init_std, device), &config())
}

fn text(ids: [i64; 12]) -> TextInput {
    let mask = [1, 1, 1, 1, 0, 0, 1, 1, 1, 0, 0, 0];
    TextInput::from_padded(&ids, &mask, 6)
}

fn pixels(change: impl Fn(usize) -> f32, device: &Device) -> Tensor<4> {
    let values: Vec<f32> = (0..2 * 3 * 12 * 12)
        .map(|index| ((index * 37 % 101) as f32 / 50.0 - 1.0) + change(index))
        .collect();
    Tensor::from_data(TensorData::new(values, [2, 3, 12, 12]), device)
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_into_vec::<f32>().unwrap()
}

/// A6: what stands under padding never enters the model, and a text gives the same tokens alone as
/// beside longer ones.
#[test]
fn padding_is_invisible() {
    let device = Device::flex();
    let model = model(&device);
    let image = model.encode_images(pixels(|_| 0.0, &device));
    let input = text([5, 6, 7, 8, 1, 1, 5, 9, 8, 1, 1, 1]);
    assert_eq!(input, text([5, 6, 7, 8, 30, 31, 5, 9, 8, 32, 33, 34]));
    let together = model.fuse(&model.encode_text(&input), &image, 1);
    let alone = TextInput::from_padded(&[5, 9, 8], &[1, 1, 1], 3);
    let alone = model.fuse(&model.encode_text(&alone), &image.narrow(1, 1), 1);
    for (one, other) in [(together.text, alone.text), (together.image, alone.image)] {
        let one = values(one.narrow(1, 1).rows);
        for (one, other) in one.into_iter().zip(values(other.rows)) {
            assert!((one - other).abs() <= 1e-5 * other.abs().max(1.0));
        }
    }
}

/// S5: pixels of a dropped patch change nothing, bit for bit; those of a kept one do.
#[test]
fn dropped_patches_are_invisible() {
    let device = Device::flex();
    let model = model(&device);
    // Patch 0 covers rows and columns 0 to 3 of every channel; patches 4 and 8 are kept.
    let in_patch = |index: usize, patch: usize| {
        let (row, column) = (index / 12 % 12, index % 12);
        row / 4 * 3 + column / 4 == patch
    };
    let kept: Vec<usize> = vec![4, 8, 9 + 4, 9 + 8];
    let run = |changed: usize| {
        let pixels = pixels(
            |index| f32::from(u8::from(in_patch(index, changed))),
            &device,
        );
        let kept = Chosen {
            rows: kept.clone(),
            spans: Spans::uniform(2, 2),
        };
        let patches = model.vision.embed_patches(pixels);
        values(model.encode_patches(&patches.choose(&kept)).rows)
    };
    assert_eq!(run(0), run(1), "neither patch is kept");
    assert_ne!(run(0), run(4));
}

/// A result never depends on what else is in the batch.
#[test]
fn a_batch_of_one_gives_what_it_gives_among_others() {
    let device = Device::flex();
    let model = model(&device);
    let both = pixels(|_| 0.0, &device);
    let together = values(model.encode_images(both.clone()).rows);
    let alone = values(model.encode_images(both.narrow(0, 1, 1)).rows);
    let second = &together[together.len() / 2..];
    for (one, other) in alone.iter().zip(second) {
        assert!(
            (one - other).abs() <= 1e-6 * other.abs().max(1.0),
            "{one} and {other}"
        );
    }
}

/// Tokens asked for alone are what the whole computation gives for them.
#[test]
fn a_part_is_what_it_is_in_the_whole() {
    let device = Device::flex();
    let model = model(&device);
    let input = text([5, 6, 7, 8, 1, 1, 5, 9, 8, 1, 1, 1]);
    let patches = model.vision.embed_patches(pixels(|_| 0.0, &device));
    let (text, image) = (model.encode_text(&input), model.encode_patches(&patches));
    let fused = model.fuse(&text, &image, 1);
    let second = |row: usize| row == 1;
    let (some_text, some_image) = (
        Chosen::whole(&text.spans, second),
        Chosen::new(&image.spans, vec![3, 10, 12]),
    );
    let typed = model.typed(&text, &image, 1, 0);
    let part = model.fusion.forward_at(typed, &some_text, &some_image);
    for (part, whole) in [
        (
            model.encode_text_where(&input, second),
            text.choose(&some_text),
        ),
        (
            model.encode_clips_where(&patches, 1, second),
            image.choose(&Chosen::whole(&image.spans, second)),
        ),
        (part.text, fused.text.choose(&some_text)),
        (part.image, fused.image.choose(&some_image)),
    ] {
        assert_eq!(part.spans, whole.spans);
        for (one, other) in values(part.rows).into_iter().zip(values(whole.rows)) {
            assert!((one - other).abs() <= 1e-5 * other.abs().max(1.0));
        }
    }
}

/// A7: image layer l reads the text of layer l - 1, not the one just made.
#[test]
fn both_streams_are_updated_in_parallel() {
    let device = Device::flex();
    let model = model(&device);
    let input = text([5, 6, 7, 8, 1, 1, 5, 9, 8, 1, 1, 1]);
    let tokens = model.encode_text(&input);
    let image = model.encode_images(pixels(|_| 0.0, &device));
    let start = model.typed(&tokens, &image, 1, 0);
    let first = &model.fusion.image_layers[0];
    let expected = first.forward(start.image.clone(), &start.text);
    let layers = model.fuse_all(&tokens, &image, 1);
    assert_eq!(values(layers[0].image.rows.clone()), values(expected.rows));
    // A10: attention is a distribution over the other stream, and padding gets none of it.
    let probabilities = first.probabilities(start.image, &start.text);
    let [batch, heads, own, other] = probabilities.dims();
    let rows = values(probabilities);
    assert_eq!(rows.len(), batch * heads * own * other);
    for (index, row) in rows.chunks(other).enumerate() {
        assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-5);
        let real = if index < heads * own { 4 } else { 3 };
        assert!(row[real..].iter().all(|share| *share == 0.0));
    }
}
