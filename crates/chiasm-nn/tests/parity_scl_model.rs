//! Every stage of the model against the reference (`fixtures/scl/model_image`).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed unwrap here is the failed test"
)]

mod common;

use burn::tensor::Device;
use chiasm_nn::attention::KeyBias;
use chiasm_testkit::Case;
use common::{floats, load_model, text_input, values};

#[test]
fn parity_scl_model_image() {
    let Some(case) = Case::open("scl/model_image") else {
        return;
    };
    let device = Device::flex();
    let model = load_model(&case, &device);
    let check = |name: &str, found: Vec<f32>| {
        case.assert_activations(name, &found, case.tensor(&format!("expected.{name}")));
    };

    let text = text_input(&case, "text_ids", &device);
    let bias = KeyBias::from_mask(text.attention_mask.clone());
    let mut hidden = model.text.embed(&text);
    check("text.embeddings", values(hidden.clone()));
    for (index, layer) in model.text.layers.iter().enumerate() {
        hidden = layer.forward(hidden, &bias);
        check(&format!("text.layer{index}"), values(hidden.clone()));
    }
    let text_tokens = model.encode_text(&text);
    check("text.transformed", values(text_tokens.clone()));

    let patches = model
        .vision
        .embed_patches(floats(case.tensor("inputs.image"), &device));
    let mut hidden = model.vision.prepend_class(patches.clone());
    check("vision.embed", values(hidden.clone()));
    hidden = model.vision.norm_pre.forward(hidden);
    check("vision.ln_pre", values(hidden.clone()));
    for (index, block) in model.vision.blocks.iter().enumerate() {
        hidden = block.forward(hidden);
        check(&format!("vision.block{index}"), values(hidden.clone()));
    }
    check(
        "vision.ln_post",
        values(model.vision.encode(patches.clone())),
    );
    let image_tokens = model.encode_patches(patches);
    check("vision.transformed", values(image_tokens.clone()));

    check("itc.text", values(model.project_text(text_tokens.clone())));
    check(
        "itc.image",
        values(model.project_image(image_tokens.clone())),
    );

    for (index, layer) in model
        .fuse_all(text_tokens.clone(), image_tokens.clone(), &bias)
        .into_iter()
        .enumerate()
    {
        check(&format!("fusion.text{index}"), values(layer.text));
        check(&format!("fusion.image{index}"), values(layer.image));
    }
    let fused = model.fuse(text_tokens, image_tokens, &bias);
    check("text_feats", values(fused.text.clone()));
    check("image_feats", values(fused.image.clone()));
    check("cls_feats", values(model.pooled(&fused)));
}
