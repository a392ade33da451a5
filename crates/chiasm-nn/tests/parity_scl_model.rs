//! Every stage of the model against the reference (`fixtures/scl/model_image`).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed unwrap here is the failed test"
)]

mod common;

use burn::tensor::Device;
use chiasm_nn::compute::{self, Kernels};
use chiasm_nn::{Fused, Tokens};
use chiasm_testkit::Case;
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
        hidden = layer.forward(hidden);
        check_text(&format!("text.layer{index}"), &hidden);
    }
    let text_tokens = model.encode_text(&text);
    check_text("text.transformed", &text_tokens);

    let patches = model
        .vision
        .embed_patches(floats(case.tensor("inputs.image"), &device));
    check_image("vision.embed", &model.vision.prepend_class(&patches));
    let mut hidden = model.vision.embed(&patches);
    check_image("vision.ln_pre", &hidden);
    for (index, block) in model.vision.blocks.iter().enumerate() {
        hidden = block.forward(hidden);
        check_image(&format!("vision.block{index}"), &hidden);
    }
    check_image("vision.ln_post", &model.vision.encode(&patches));
    let image_tokens = model.encode_patches(&patches);
    check_image("vision.transformed", &image_tokens);

    check("itc.text", values(model.project_text(&text_tokens)));
    check("itc.image", values(model.project_image(&image_tokens)));

    let layers = model.fuse_all(&text_tokens, &image_tokens);
    for (index, Fused { text, image }) in layers.iter().enumerate() {
        check_text(&format!("fusion.text{index}"), text);
        check_image(&format!("fusion.image{index}"), image);
    }
    let fused = model.fuse(&text_tokens, &image_tokens);
    check_text("text_feats", &fused.text);
    check_image("image_feats", &fused.image);
    check("cls_feats", values(model.pooled(&fused)));
}
