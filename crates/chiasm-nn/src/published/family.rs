//! Which family weights are of, told from `config.json` and from the names of the tensors.

use serde::Serialize;
use serde_json::Value;

/// A family of models that we know the names of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Family {
    /// BERT, sentence encoders made of it too.
    Bert,
    /// RoBERTa.
    Roberta,
    /// ViT.
    Vit,
    /// DINOv2, with registers or without.
    Dinov2,
    /// CLIP.
    Clip,
    /// ViLT.
    Vilt,
    /// VisualBERT.
    VisualBert,
    /// LXMERT.
    Lxmert,
    /// ResNet.
    Resnet,
    /// MobileNetV2.
    MobilenetV2,
    /// SCL's checkpoints.
    Scl,
    /// ROSITA's checkpoints.
    Rosita,
}

impl Family {
    /// Its name as people write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Bert => "BERT",
            Self::Roberta => "RoBERTa",
            Self::Vit => "ViT",
            Self::Dinov2 => "DINOv2",
            Self::Clip => "CLIP",
            Self::Vilt => "ViLT",
            Self::VisualBert => "VisualBERT",
            Self::Lxmert => "LXMERT",
            Self::Resnet => "ResNet",
            Self::MobilenetV2 => "MobileNetV2",
            Self::Scl => "SCL",
            Self::Rosita => "ROSITA",
        }
    }

    /// The family that a `config.json` names. `None`: it names none, or one that we do not know.
    #[must_use]
    pub fn of_config(config: &Value) -> Option<Self> {
        if config.get("model_cfg").is_some() {
            // open_clip's.
            return Some(Self::Clip);
        }
        Some(match config.get("model_type")?.as_str()? {
            "bert" => Self::Bert,
            "roberta" | "xlm-roberta" | "camembert" => Self::Roberta,
            "vit" => Self::Vit,
            "dinov2" | "dinov2_with_registers" => Self::Dinov2,
            "clip" => Self::Clip,
            "vilt" => Self::Vilt,
            "visual_bert" => Self::VisualBert,
            "lxmert" => Self::Lxmert,
            _ => return None,
        })
    }

    /// The family whose parameters have such names: the first that has all of its marks.
    #[must_use]
    pub fn of_names<'a>(names: impl IntoIterator<Item = &'a str> + Clone) -> Option<Self> {
        let has = |mark: &str| names.clone().into_iter().any(|name| is_marked(name, mark));
        let found = MARKS
            .iter()
            .find(|(_, marks)| marks.iter().all(|mark| has(mark)));
        found.map(|(family, _)| *family)
    }
}

/// The family of weights. What the configuration says comes first; a family that it names and we do
/// not know is none, whatever the names of its tensors look like.
#[must_use]
pub fn recognise<'a>(
    names: impl IntoIterator<Item = &'a str> + Clone,
    config: Option<&Value>,
) -> Option<Family> {
    let says = |config: &&Value| {
        ["model_type", "model_cfg"]
            .iter()
            .any(|key| config.get(*key).is_some())
    };
    match config.filter(says) {
        Some(config) => Family::of_config(config),
        None => Family::of_names(names),
    }
}

/// A name is marked by its end, at the beginning of a part.
fn is_marked(name: &str, mark: &str) -> bool {
    name.strip_suffix(mark)
        .is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

/// What the names of a family end with; particular families before those that they grew out of.
const MARKS: [(Family, &[&str]); 16] = [
    (
        Family::Scl,
        &["cl_temp", "cross_modal_text_transform.weight"],
    ),
    (
        Family::Rosita,
        &[
            "visual_embeddings.dense_imgfeat.weight",
            "backbone.layers.0.mhatt.dense_q.weight",
        ],
    ),
    (
        Family::Lxmert,
        &[
            "encoder.visn_fc.visn_fc.weight",
            "encoder.x_layers.0.visual_attention.att.query.weight",
        ],
    ),
    (
        Family::VisualBert,
        &[
            "embeddings.word_embeddings.weight",
            "embeddings.visual_projection.weight",
        ],
    ),
    (
        Family::Vilt,
        &[
            "text_embeddings.word_embeddings.weight",
            "patch_embeddings.projection.weight",
        ],
    ),
    (
        Family::Clip,
        &[
            "text_model.embeddings.token_embedding.weight",
            "vision_model.embeddings.class_embedding",
        ],
    ),
    (
        Family::Clip,
        &["token_embedding.weight", "visual.conv1.weight"],
    ),
    (Family::Dinov2, &["pos_embed", "blocks.0.ls1.gamma"]),
    (
        Family::Dinov2,
        &[
            "embeddings.cls_token",
            "encoder.layer.0.layer_scale1.lambda1",
        ],
    ),
    (
        Family::Vit,
        &[
            "pos_embed",
            "cls_token",
            "patch_embed.proj.weight",
            "blocks.0.attn.qkv.weight",
        ],
    ),
    (
        Family::Vit,
        &[
            "embeddings.cls_token",
            "embeddings.patch_embeddings.projection.weight",
        ],
    ),
    (
        Family::Roberta,
        &["roberta.embeddings.word_embeddings.weight"],
    ),
    (
        Family::Bert,
        &[
            "embeddings.word_embeddings.weight",
            "encoder.layer.0.attention.self.query.weight",
        ],
    ),
    (
        Family::Resnet,
        &["conv1.weight", "bn1.running_mean", "layer4.0.conv1.weight"],
    ),
    (
        Family::MobilenetV2,
        &["features.0.0.weight", "features.17.conv.0.0.weight"],
    ),
    (
        Family::MobilenetV2,
        &["features.0.0.weight", "features.17.conv.3.weight"],
    ),
];

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_configuration_comes_first() {
        let names = [
            "cls_token",
            "pos_embed",
            "patch_embed.proj.weight",
            "blocks.0.attn.qkv.weight",
        ];
        assert_eq!(recognise(names, None), Some(Family::Vit));
        assert_eq!(recognise(names, Some(&json!({}))), Some(Family::Vit));
        let config = json!({"model_type": "clip"});
        assert_eq!(recognise(names, Some(&config)), Some(Family::Clip));
        let config = json!({"model_type": "swin"});
        assert_eq!(recognise(names, Some(&config)), None);
        let config = json!({"model_type": 3});
        assert_eq!(recognise(names, Some(&config)), None);
        assert_eq!(recognise([], None), None);
    }

    #[test]
    fn parts_of_names_are_whole() {
        assert!(is_marked("module.cls_token", "cls_token"));
        assert!(!is_marked("other_cls_token", "cls_token"));
    }
}
