//! Every stage of the model against the reference (`fixtures/scl/model_image`).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed unwrap here is the failed test"
)]

mod common;

use burn::tensor::{Device, Tensor};
use chiasm_nn::compute::{self, Kernels};
use chiasm_nn::model::Seen;
use chiasm_nn::published::scl::fit_positions;
use chiasm_nn::tokens::Chosen;
use chiasm_nn::weights::{HostTensor, StateDict};
use chiasm_nn::{Fused, Scope, Spans, Tokens, VisionLanguageModel};
use chiasm_testkit::{Case, assert_close};
use common::{floats, load_model, text_input, values};

#[test]
fn parity_scl_model_image() {
    let Some(case) = Case::open("scl/model_image") else {
        return;
    };
    for kernels in [Kernels::Plain, Kernels::Fused] {
        compute::with(kernels, || every_stage(&case));
    }
}

fn every_stage(case: &Case) {
    let device = Device::flex();
    let model = load_model(case, &device);
    let check = |name: &str, found: Vec<f32>| {
        case.assert_activations(name, &found, case.tensor(&format!("expected.{name}")));
    };
    let mask = case.tensor("inputs.text_mask").i64s();
    let check_text = |name: &str, found: &Tokens| {
        let expected = case.tensor(&format!("expected.{name}")).rows_where(&mask);
        case.assert_activations(name, &values(found.rows.clone()), &expected);
    };
    let check_image = |name: &str, found: &Tokens| check(name, values(found.rows.clone()));

    let text = text_input(case, "text_ids");
    let mut hidden = model.text.embed(&text);
    check_text("text.embeddings", &hidden);
    for (index, layer) in model.text.layers.iter().enumerate() {
        hidden = layer.forward(hidden, Scope::Whole);
        check_text(&format!("text.layer{index}"), &hidden);
    }
    let text_tokens = model.encode_text(&text);
    check_text("text.transformed", &text_tokens);

    let patches = model
        .vision
        .as_ref()
        .unwrap()
        .embed_patches(floats(case.tensor("inputs.image"), &device));
    check_image(
        "vision.embed",
        &model.vision.as_ref().unwrap().prepend_class(&patches),
    );
    let mut hidden = model.vision.as_ref().unwrap().embed(&patches, 1);
    check_image("vision.ln_pre", &hidden);
    for (index, block) in model.vision.as_ref().unwrap().blocks.iter().enumerate() {
        hidden = block.forward(hidden, Scope::Frames(1));
        check_image(&format!("vision.block{index}"), &hidden);
    }
    check_image(
        "vision.ln_post",
        &model.vision.as_ref().unwrap().encode(&patches),
    );
    let image_tokens = model.encode_where(&patches, 1, |_| true);
    check_image("vision.transformed", &image_tokens);

    check(
        "itc.text",
        values(model.project_text(&text_tokens).unwrap()),
    );
    check(
        "itc.image",
        values(model.project_image(&image_tokens, 1).unwrap()),
    );

    let layers = model.fuse_all(&text_tokens, &image_tokens, 1);
    for (index, Fused { text, image, .. }) in layers.iter().enumerate() {
        check_text(&format!("fusion.text{index}"), text);
        check_image(&format!("fusion.image{index}"), image);
    }
    let fused = model.fuse(&text_tokens, &image_tokens, 1);
    check_text("text_feats", &fused.text);
    check_image("image_feats", &fused.image);
    check("cls_feats", values(model.pooled(&fused)));
}

/// Tests a case on both kinds of kernels.
fn both(name: &str, check: impl Fn(&Case, &VisionLanguageModel)) {
    let Some(case) = Case::open(name) else {
        return;
    };
    for kernels in [Kernels::Plain, Kernels::Fused] {
        compute::with(kernels, || {
            check(&case, &load_model(&case, &Device::flex()));
        });
    }
}

/// Compares what the whole model gives for the case's text and an image of `frames` class tokens.
fn check_outputs(
    case: &Case,
    model: &VisionLanguageModel,
    part: &str,
    image: &Tokens,
    frames: usize,
) {
    let golden = |name: &str| case.tensor(&format!("expected.{part}{name}"));
    let fused = model.fuse(
        &model.encode_text(&text_input(case, "text_ids")),
        image,
        frames,
    );
    let mask = case.tensor("inputs.text_mask").i64s();
    let text = golden("text_feats").rows_where(&mask);
    case.assert_activations("text_feats", &values(fused.text.rows.clone()), &text);
    let image = golden("image_feats");
    case.assert_activations("image_feats", &values(fused.image.rows.clone()), image);
    let pooled = values(model.pooled(&fused));
    case.assert_activations("cls_feats", &pooled, golden("cls_feats"));
}

fn check_clips(case: &Case, model: &VisionLanguageModel) {
    let device = Device::flex();
    let check = |name: &str, found: Vec<f32>| {
        case.assert_activations(name, &found, case.tensor(&format!("expected.{name}")));
    };
    let video: Tensor<5> = floats(case.tensor("inputs.video"), &device);
    let [batch, frames, channels, height, width] = video.dims();
    let pictures = video
        .clone()
        .reshape([batch * frames, channels, height, width]);
    let patches = model.vision.as_ref().unwrap().embed_patches(pictures);
    let joined = model.vision.as_ref().unwrap().join_class(&patches, frames);
    check("vision.embed", values(joined.rows));
    let stages = model.vision.as_ref().unwrap().encode_all(&patches, frames);
    for (index, hidden) in stages[1..].iter().enumerate() {
        check(&format!("vision.block{index}"), values(hidden.rows.clone()));
    }
    let encoded = model
        .vision
        .as_ref()
        .unwrap()
        .encode_where(&patches, frames, |_| true);
    check("vision.output", values(encoded.rows.clone()));
    let image = model.encode_seen(&Seen::Pixels(video)).unwrap();
    let text = model.encode_text(&text_input(case, "text_ids"));
    check("itc.text", values(model.project_text(&text).unwrap()));
    check(
        "itc.image",
        values(model.project_image(&image, frames).unwrap()),
    );
    check_outputs(case, model, "", &image, frames);
    // The class tokens alone are those of the whole, also where some clips are asked for whole.
    let second = |clip: usize| clip == 1;
    let some = model
        .vision
        .as_ref()
        .unwrap()
        .encode_where(&patches, frames, second);
    let lengths: Vec<usize> = some.spans.lengths().collect();
    assert_eq!(lengths[0], frames);
    assert_eq!(lengths[1], encoded.spans.rows(1..2).len());
    for (one, other) in [(&some, &encoded)] {
        let pairs = values(one.leading(frames)).into_iter();
        for (a, b) in pairs.zip(values(other.leading(frames))) {
            assert!((a - b).abs() <= 1e-5 * b.abs().max(1.0), "{a} and {b}");
        }
    }
}

#[test]
fn parity_scl_model_video_f1() {
    both("scl/model_video_f1", check_clips);
}

#[test]
fn parity_scl_model_video_f2() {
    both("scl/model_video_f2", check_clips);
}

#[test]
fn parity_scl_model_video_f4() {
    both("scl/model_video_f4", check_clips);
}

#[test]
fn parity_scl_image_masking() {
    both("scl/image_masking", |case, model| {
        let device = Device::flex();
        let patches = model
            .vision
            .as_ref()
            .unwrap()
            .embed_patches(floats(case.tensor("inputs.image"), &device));
        let kept = case.tensor("inputs.drop_keep_indices");
        let flat = kept.i64s().into_iter().enumerate();
        let (batch, count) = (kept.shape[0], kept.shape[1]);
        let all = model.vision.as_ref().unwrap().num_patches();
        let kept = Chosen {
            rows: flat.map(|(i, p)| i / count * all + p as usize).collect(),
            spans: Spans::uniform(batch, count),
        };
        let dropped = model.encode_where(&patches.choose(&kept), 1, |_| true);
        check_outputs(case, model, "drop.", &dropped, 1);
        let mask = case.tensor("inputs.token_mask").i64s();
        let hidden: Vec<usize> = (0..mask.len()).filter(|i| mask[*i] == 1).collect();
        let hidden = model.encode_where(
            &model.vision.as_ref().unwrap().hide(&patches, &hidden),
            1,
            |_| true,
        );
        check_outputs(case, model, "token.", &hidden, 1);
    });
}

/// A9: positions of another grid; the class row stays.
#[test]
fn parity_scl_position_resize() {
    let Some(case) = Case::open("scl/position_resize") else {
        return;
    };
    let table = case.tensor("inputs.positional_embedding");
    for grid in [3, 4, 6, 8] {
        let name = "vision.positions".to_owned();
        let host = HostTensor {
            shape: table.shape.clone(),
            values: table.f32s(),
        };
        let mut state = StateDict::from([(name.clone(), host)]);
        let mut config = chiasm_nn::ModelConfig::default();
        (config.vision.image_size, config.vision.patch_size) = (grid * 6, 6);
        let reshaped = fit_positions(&config, &mut state).unwrap();
        let expected = match grid {
            4 => table,
            grid => case.tensor(&format!("expected.grid{grid}")),
        };
        assert_eq!(reshaped.is_empty(), grid == 4);
        assert_eq!(state[&name].shape, expected.shape);
        let tolerance = case.tolerance("abs");
        assert_close("positions", &state[&name].values, expected, tolerance, 0.0);
    }
}
