//! Names of the published SCL checkpoints (`specs/scl.md`; state-dict names of the public
//! reference) for our parameters.
//!
//! One of our parameters may be several published ones joined along their first axis (query, key
//! and value); a published one is never split over several of ours.

use crate::weights::{HostTensor, Shapes, StateDict};

/// Published names of one of our parameters, in the order in which they are joined along the
/// first axis. Empty: the reference has no such parameter.
#[must_use]
pub fn published(name: &str) -> Vec<String> {
    let Some((module, leaf)) = name.rsplit_once('.') else {
        return match name {
            "temperature" => vec!["cl_temp".to_owned()],
            _ => Vec::new(),
        };
    };
    if let Some(rest) = module.strip_prefix("text.") {
        return bert_names("text_transformer.", rest, leaf);
    }
    if module == "vision" {
        return vision_names("", leaf);
    }
    if let Some(rest) = module.strip_prefix("vision.") {
        return vision_names(rest, leaf);
    }
    for (ours, theirs) in [
        ("fusion.text_layers.", "cross_modal_text_layers."),
        ("fusion.image_layers.", "cross_modal_image_layers."),
    ] {
        if let Some(rest) = module.strip_prefix(ours) {
            return layer_names(theirs, rest, leaf);
        }
    }
    let simple = match module {
        "text_transform" => "cross_modal_text_transform",
        "image_transform" => "cross_modal_image_transform",
        "token_types" => "token_type_embeddings",
        "text_pooler.dense" => "cross_modal_text_pooler.dense",
        "image_pooler.dense" => "cross_modal_image_pooler.dense",
        "text_projection.dense" => "language_proj.0",
        "text_projection.norm" => "language_proj.1",
        "text_projection.out" => "language_proj.3",
        "image_projection.dense" => "vision_proj.0",
        "image_projection.norm" => "vision_proj.1",
        "image_projection.out" => "vision_proj.3",
        "match_head.classifier" => "itm_score.fc",
        "class_head.dense" => "classifier.0",
        "class_head.norm" => "classifier.1",
        "class_head.out" => "classifier.3",
        "rank_head" => "rank_output",
        "mlm_head.dense" => "mlm_score.transform.dense",
        "mlm_head.norm" => "mlm_score.transform.LayerNorm",
        "mlm_head.decoder" if leaf == "bias" => "mlm_score",
        "mlm_head.decoder" => "mlm_score.decoder",
        _ => return Vec::new(),
    };
    vec![format!("{simple}.{leaf}")]
}

/// Names of BERT and RoBERTa for a parameter of a text encoder, behind `prefix`.
pub(crate) fn bert_names(prefix: &str, module: &str, leaf: &str) -> Vec<String> {
    if let Some(rest) = module.strip_prefix("layers.") {
        return layer_names(&format!("{prefix}encoder.layer."), rest, leaf);
    }
    let table = match module {
        "words" => "word_embeddings",
        "positions" => "position_embeddings",
        "types" => "token_type_embeddings",
        "norm" => "LayerNorm",
        _ => return Vec::new(),
    };
    vec![format!("{prefix}embeddings.{table}.{leaf}")]
}

/// A BERT layer, with or without cross-attention: `rest` is `index.part`.
pub(crate) fn layer_names(prefix: &str, rest: &str, leaf: &str) -> Vec<String> {
    let Some((index, part)) = rest.split_once('.') else {
        return Vec::new();
    };
    let parts: &[&str] = match part {
        "attention.qkv" => &[
            "attention.self.query",
            "attention.self.key",
            "attention.self.value",
        ],
        "attention.out" => &["attention.output.dense"],
        "attention_norm" => &["attention.output.LayerNorm"],
        "cross.query" => &["crossattention.self.query"],
        "cross.kv" => &["crossattention.self.key", "crossattention.self.value"],
        "cross.out" => &["crossattention.output.dense"],
        "cross_norm" => &["crossattention.output.LayerNorm"],
        "mlp.up" => &["intermediate.dense"],
        "mlp.down" => &["output.dense"],
        "mlp_norm" => &["output.LayerNorm"],
        _ => &[],
    };
    parts
        .iter()
        .map(|part| format!("{prefix}{index}.{part}.{leaf}"))
        .collect()
}

fn vision_names(module: &str, leaf: &str) -> Vec<String> {
    let name = match (module, leaf) {
        ("", "class_token") => "class_embedding".to_owned(),
        ("", "positions") => "positional_embedding".to_owned(),
        ("", "temporal") => "temporal_embed".to_owned(),
        ("", "mask_token") => "visual_mask_token".to_owned(),
        ("patches", "weight") => "conv1.weight".to_owned(),
        ("norm_pre", leaf) => format!("ln_pre.{leaf}"),
        ("norm_post", leaf) => format!("ln_post.{leaf}"),
        (module, leaf) => {
            let block = module
                .strip_prefix("blocks.")
                .and_then(|rest| rest.split_once('.'));
            let Some((index, part)) = block else {
                return Vec::new();
            };
            let part = match part {
                "attention.qkv" => format!("attn.in_proj_{leaf}"),
                "attention.out" => format!("attn.out_proj.{leaf}"),
                "attention_norm" => format!("ln_1.{leaf}"),
                "mlp_norm" => format!("ln_2.{leaf}"),
                "mlp.up" => format!("mlp.c_fc.{leaf}"),
                "mlp.down" => format!("mlp.c_proj.{leaf}"),
                _ => return Vec::new(),
            };
            format!("transformer.resblocks.{index}.{part}")
        }
    };
    vec![format!("vision_transformer.visual.{name}")]
}

/// Today's published name of a name found in an SCL checkpoint, without the prefixes of the training
/// loop. `None`: no weight of the model: parts that are built and saved but never run
/// (`specs/scl.md` sections 1.2, 1.3 and 1.8), and buffers.
#[must_use]
pub fn scl_canonical(found: &str) -> Option<String> {
    let mut name = found;
    // `transformer.` is dropped as a prefix only: inside, it is a part of the vision tower.
    while let Some(rest) = ["module.", "model.", "transformer."]
        .iter()
        .find_map(|prefix| name.strip_prefix(prefix))
    {
        name = rest;
    }
    let dead = [
        "text_transformer.pooler.",
        // A decoder of masked patches.
        "vision_transformer.visual.decoder_",
        "vision_transformer.visual.mask_token",
    ];
    let buffers = [".position_ids", ".token_type_ids"];
    let is_dead = dead.iter().any(|prefix| name.starts_with(prefix))
        || buffers.iter().any(|suffix| name.ends_with(suffix));
    // The published code names its classifier after the task.
    let classifier = ["vqa_", "nlvr2_", "snli_"]
        .iter()
        .find_map(|task| name.strip_prefix(task))
        .filter(|name| name.starts_with("classifier."));
    (!is_dead).then(|| classifier.unwrap_or(name).to_owned())
}

/// Turns a state dict with published names into one with ours, for the parameters in `wanted`
/// (our names and shapes); `names` gives the published names of ours. Tensors that no wanted
/// parameter uses stay in `published_state`.
#[must_use]
pub fn from_published(
    wanted: &Shapes,
    published_state: &mut StateDict,
    names: impl Fn(&str) -> Vec<String>,
) -> StateDict {
    let mut ours = StateDict::new();
    for (name, shape) in wanted {
        let sources = names(name);
        if sources.is_empty() || !sources.iter().all(|s| published_state.contains_key(s)) {
            continue;
        }
        let parts = sources
            .iter()
            .filter_map(|source| published_state.remove(source));
        let Some(joined) = parts.reduce(join) else {
            continue;
        };
        // Only views change (a convolution kernel is a matrix, a scalar a vector of one): if the
        // count differs the shape check of the load reports it with the file's own shape.
        let count = shape
            .iter()
            .try_fold(1, |count: usize, len| count.checked_mul(*len));
        let same = count == Some(joined.values.len());
        ours.insert(
            name.clone(),
            HostTensor {
                shape: if same { shape.clone() } else { joined.shape },
                values: joined.values,
            },
        );
    }
    ours
}

/// Two tensors one after the other along their first axis.
fn join(mut first: HostTensor, second: HostTensor) -> HostTensor {
    if let (Some(rows), Some(more)) = (first.shape.first_mut(), second.shape.first()) {
        *rows += more;
    }
    first.values.extend(second.values);
    first
}

/// Splits one of our tensors (a weight or its gradient) along its first axis into the parts that
/// have these published names.
#[must_use]
pub fn split(names: Vec<String>, tensor: &HostTensor) -> Vec<(String, HostTensor)> {
    let count = names.len().max(1);
    let mut shape = tensor.shape.clone();
    if let Some(rows) = shape.first_mut() {
        *rows /= count;
    }
    let part = (tensor.values.len() / count).max(1);
    names
        .into_iter()
        .zip(tensor.values.chunks(part))
        .map(|(name, values)| {
            let (shape, values) = (shape.clone(), values.to_vec());
            (name, HostTensor { shape, values })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scl_names_lose_their_prefixes_and_dead_weights_their_names() {
        let pairs = [
            ("cl_temp", "cl_temp"),
            ("module.cl_temp", "cl_temp"),
            ("transformer.module.itm_score.fc.bias", "itm_score.fc.bias"),
            ("vqa_classifier.0.weight", "classifier.0.weight"),
            ("model.nlvr2_classifier.3.bias", "classifier.3.bias"),
            ("rank_output.weight", "rank_output.weight"),
            (
                "vision_transformer.visual.transformer.resblocks.0.ln_1.bias",
                "vision_transformer.visual.transformer.resblocks.0.ln_1.bias",
            ),
        ];
        for (found, canonical) in pairs {
            assert_eq!(scl_canonical(found).as_deref(), Some(canonical));
        }
        for found in [
            "text_transformer.pooler.dense.weight",
            "text_transformer.embeddings.position_ids",
            "vision_transformer.visual.decoder_pos_embed",
            "module.vision_transformer.visual.decoder_blocks.7.mlp.fc1.weight",
            "vision_transformer.visual.mask_token",
        ] {
            assert_eq!(scl_canonical(found), None, "{found}");
        }
    }
}
