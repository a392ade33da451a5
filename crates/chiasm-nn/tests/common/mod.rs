//! Builds the model of a `scl/` fixture case with the case's own weights.

use burn::tensor::{Device, Tensor, TensorData};
use chiasm_nn::layers::Init;
use chiasm_nn::text::TextInput;
use chiasm_nn::weights::{HostTensor, StateDict, load_state_dict, shapes};
use chiasm_nn::{
    Activation, FusionConfig, HeadsConfig, ModelConfig, TextConfig, VisionConfig,
    VisionLanguageModel, names,
};
use chiasm_testkit::{Case, Golden};

/// Which of the case's classifiers is the model's, and the pictures of its texts. All cases share
/// their weights, so each has both.
fn classifier(case: &Case) -> (&'static str, usize) {
    if case.dir.ends_with("scl/loss_nlvr2") {
        ("nlvr2_classifier.", 2)
    } else {
        ("vqa_classifier.", 1)
    }
}

/// Sizes from the case and, where the case does not state them, from its weights.
pub(crate) fn model_config(case: &Case) -> ModelConfig {
    let hidden = case.size("hidden");
    let rows = |name: &str| case.tensor(&format!("weights.{name}")).shape[0];
    let has = |name: &str| case.tensors.contains_key(&format!("weights.{name}"));
    let temporal = "vision_transformer.visual.temporal_embed";
    let (classifier, pictures) = classifier(case);
    ModelConfig {
        text: TextConfig {
            vocab_size: case.size("vocab"),
            hidden_size: hidden,
            layers: case.size("text_layers"),
            num_heads: case.size("heads"),
            intermediate_size: rows("text_transformer.encoder.layer.0.intermediate.dense.weight"),
            max_text_len: case.size("text_len"),
            position_offset: rows("text_transformer.embeddings.position_embeddings.weight")
                - case.size("text_len"),
            layer_norm_eps: 1e-5,
            dropout: 0.0,
            ..TextConfig::default()
        },
        vision: VisionConfig {
            image_size: case.size("image_size"),
            patch_size: case.size("patch"),
            hidden_size: hidden,
            layers: case.size("vision_layers"),
            num_heads: case.size("vision_heads"),
            intermediate_size: rows(
                "vision_transformer.visual.transformer.resblocks.0.mlp.c_fc.weight",
            ),
            activation: Activation::QuickGelu,
            layer_norm_eps: 1e-5,
            max_frames: if has(temporal) {
                case.tensor(&format!("weights.{temporal}")).shape[1]
            } else {
                0
            },
            mask_token: has("vision_transformer.visual.visual_mask_token"),
            ..VisionConfig::default()
        },
        fusion: FusionConfig {
            hidden_size: hidden,
            layers: case.size("fusion_layers"),
            num_heads: case.size("heads"),
            intermediate_size: rows("cross_modal_text_layers.0.intermediate.dense.weight"),
            layer_norm_eps: 1e-12,
            dropout: 0.0,
            type_rows: rows("token_type_embeddings.weight"),
            ..FusionConfig::default()
        },
        heads: HeadsConfig {
            classes: rows(&format!("{classifier}3.bias")),
            pictures,
            ranking: true,
            ..HeadsConfig::default()
        },
        projection_size: rows("language_proj.3.weight"),
        temperature: 0.07,
        init_std: 0.02,
        ..ModelConfig::default()
    }
}

/// The case's model on `device`; every parameter must come from the case.
pub(crate) fn load_model(case: &Case, device: &Device) -> VisionLanguageModel {
    let model = VisionLanguageModel::new(&Init::new(0, 0.02, device), &model_config(case));
    let mut published: StateDict = case
        .with_prefix("weights.")
        .filter_map(|(name, tensor)| {
            let own = name.strip_prefix(classifier(case).0);
            if own.is_none() && name.contains("_classifier.") {
                return None;
            }
            let name = own.map_or(name.to_owned(), |name| format!("classifier.{name}"));
            Some((
                name,
                HostTensor {
                    shape: tensor.shape.clone(),
                    values: tensor.f32s(),
                },
            ))
        })
        .collect();
    let ours = names::from_published(&shapes(&model), &mut published, names::published);
    assert!(
        published.is_empty(),
        "weights nobody wanted: {:?}",
        published.keys()
    );
    let (model, report) = load_state_dict(model, ours).expect("shapes agree");
    report
        .require_complete()
        .expect("every parameter is in the case");
    model
}

/// A float tensor of the case.
pub(crate) fn floats<const D: usize>(golden: &Golden, device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(golden.f32s(), golden.shape.clone()), device)
}

/// Token ids `name` with the case's mask.
pub(crate) fn text_input(case: &Case, name: &str) -> TextInput {
    let ids = case.tensor(&format!("inputs.{name}"));
    let mask = case.tensor("inputs.text_mask");
    TextInput::from_padded(&ids.i64s(), &mask.i64s(), ids.shape[1])
}

/// Values on the host.
pub(crate) fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_into_vec::<f32>().expect("f32")
}
