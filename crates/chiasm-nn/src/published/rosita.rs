//! Names in ROSITA's checkpoints for a model of one stream over words and regions, and those of the
//! BERT that it begins with (`specs/tbkin.md` section 1.8).
//!
//! A file is a dict of state dicts, one for each part of the model, beside the counters and the
//! optimiser of the run.

use std::collections::BTreeSet;

use super::bert_family;
use super::positions::fit_rows;
use crate::VisionLanguageModel;
use crate::names::{bert_names, from_published, layer_names};
use crate::weights::{LoadReport, Shapes, StateDict, WeightError, load_state_dict, shapes};

/// Parts that every checkpoint has.
const TRUNK: [&str; 11] = [
    "text_embeddings.word_embeddings.weight",
    "text_embeddings.position_embeddings.weight",
    "text_embeddings.token_type_embeddings.weight",
    "text_embeddings.layer_norm.weight",
    "text_embeddings.layer_norm.bias",
    "visual_embeddings.dense_imgfeat.weight",
    "visual_embeddings.dense_imgfeat.bias",
    "visual_embeddings.dense_bboxfeat.weight",
    "visual_embeddings.dense_bboxfeat.bias",
    "visual_embeddings.layer_norm.weight",
    "visual_embeddings.layer_norm.bias",
];

/// Modules of every layer; each has a weight and a bias.
const LAYER: [&str; 8] = [
    "mhatt.dense_q",
    "mhatt.dense_k",
    "mhatt.dense_v",
    "mhatt.dense_merge",
    "layer_norm0",
    "ffn.dense0",
    "ffn.dense1",
    "layer_norm1",
];

/// Heads, of which a checkpoint has those of its task.
const HEADS: [&str; 5] = [
    "text_mlm_head.",
    "imgfeat_head.",
    "mm_itm_head.",
    "mm_qa_head.",
    "mm_refs_head.",
];

/// ROSITA's names of one of our parameters, in the order in which they are joined along the first
/// axis. Empty: it has no such parameter.
#[must_use]
pub fn names(ours: &str) -> Vec<String> {
    let Some((module, leaf)) = ours.rsplit_once('.') else {
        return Vec::new();
    };
    if let Some((index, part)) = joint_layer(module) {
        let parts: &[&str] = match part {
            "attention.qkv" => &["mhatt.dense_q", "mhatt.dense_k", "mhatt.dense_v"],
            "attention.out" => &["mhatt.dense_merge"],
            "attention_norm" => &["layer_norm0"],
            "mlp.up" => &["ffn.dense0"],
            "mlp.down" => &["ffn.dense1"],
            "mlp_norm" => &["layer_norm1"],
            _ => &[],
        };
        let name = |part: &&str| format!("backbone.layers.{index}.{part}.{leaf}");
        return parts.iter().map(name).collect();
    }
    let name = match (module, leaf) {
        ("text.words", _) => "text_embeddings.word_embeddings",
        ("text.positions", _) => "text_embeddings.position_embeddings",
        ("text.types", _) => "text_embeddings.token_type_embeddings",
        ("text.norm", _) => "text_embeddings.layer_norm",
        ("regions.features", _) => "visual_embeddings.dense_imgfeat",
        ("regions.geometry", _) => "visual_embeddings.dense_bboxfeat",
        ("regions.norm", _) => "visual_embeddings.layer_norm",
        ("text_pooler.dense", _) => "pooler.dense",
        ("mlm_head", "bias") => "text_mlm_head",
        ("mlm_head.dense", _) => "text_mlm_head.dense",
        ("mlm_head.norm", _) => "text_mlm_head.layer_norm",
        ("region_head.transform.dense", _) => "imgfeat_head.dense",
        ("region_head.transform.norm", _) => "imgfeat_head.layer_norm",
        ("region_head.features", _) => "imgfeat_head.dense_feat",
        ("region_head.objects", _) => "imgfeat_head.dense_obj",
        ("region_head.attributes", _) => "imgfeat_head.dense_attr",
        ("match_head.classifier", _) => "mm_itm_head.dense",
        ("class_head.dense", _) => "mm_qa_head.dense0",
        ("class_head.norm", _) => "mm_qa_head.layer_norm",
        ("class_head.out", _) => "mm_qa_head.dense1",
        ("ground_head.transform.dense", _) => "mm_refs_head.dense",
        ("ground_head.transform.norm", _) => "mm_refs_head.layer_norm",
        ("ground_head.rank", _) => "mm_refs_head.dense_rank",
        ("ground_head.shift", _) => "mm_refs_head.dense_reg",
        _ => return Vec::new(),
    };
    vec![format!("{name}.{leaf}")]
}

/// BERT's names of one of our parameters, as [`names`] gives ROSITA's: what a model of one stream
/// begins with. Regions and their heads have none.
#[must_use]
pub fn bert(ours: &str) -> Vec<String> {
    let Some((module, leaf)) = ours.rsplit_once('.') else {
        return Vec::new();
    };
    if let Some((index, part)) = joint_layer(module) {
        return layer_names("encoder.layer.", &format!("{index}.{part}"), leaf);
    }
    if let Some(rest) = module.strip_prefix("text.") {
        return bert_names("", rest, leaf);
    }
    let name = match (module, leaf) {
        ("text_pooler.dense", _) => "pooler.dense",
        ("mlm_head", "bias") => "cls.predictions",
        ("mlm_head.dense", _) => "cls.predictions.transform.dense",
        ("mlm_head.norm", _) => "cls.predictions.transform.LayerNorm",
        _ => return Vec::new(),
    };
    vec![format!("{name}.{leaf}")]
}

/// Whether names are those of a ROSITA checkpoint.
#[must_use]
pub fn is_rosita(names: &Shapes) -> bool {
    let first = "backbone.layers.0.mhatt.dense_q.weight";
    names
        .keys()
        .any(|name| canonical(name).as_deref() == Some(first))
}

/// Fills a model of one stream from a ROSITA checkpoint; what it lacks keeps its value.
///
/// # Errors
/// A tensor of another shape.
pub fn fill(
    model: VisionLanguageModel,
    found: StateDict,
) -> Result<(VisionLanguageModel, LoadReport), WeightError> {
    let (state, ignored) = renamed(found, canonical);
    filled(model, state, ignored, names)
}

/// Begins a model of one stream with BERT's words and layers; positions beyond its own are left out, regions, and heads that BERT has not,
/// keep their values.
///
/// # Errors
/// Another number of layers, or a tensor of another shape.
pub fn begin_with_bert(
    model: VisionLanguageModel,
    found: StateDict,
) -> Result<(VisionLanguageModel, LoadReport), WeightError> {
    let todays = |name: &str| bert_family::canonical(name, &["bert."], &["cls.seq_relationship."]);
    let (mut state, ignored) = renamed(found, todays);
    let positions = "embeddings.position_embeddings.weight";
    let rows = model.text.positions.weight.dims()[0];
    let found = state.get(positions).and_then(|table| table.shape.first());
    let reshaped = if found.is_some_and(|found| *found > rows) {
        fit_rows(&mut state, positions, rows)?
    } else {
        Vec::new()
    };
    let (model, mut report) = filled(model, state, ignored, bert)?;
    report.reshaped = reshaped;
    // Sentence encoders come without the pooler and the heads of pre-training.
    let beside = |name: &String| {
        let heads = ["text_pooler.", "mlm_head."];
        bert(name).is_empty() || heads.iter().any(|head| name.starts_with(head))
    };
    report.missing.retain(|name| !beside(name));
    Ok((model, report))
}

/// Tensors under today's names, and the names of those that have none.
fn renamed(found: StateDict, todays: impl Fn(&str) -> Option<String>) -> (StateDict, Vec<String>) {
    let (mut state, mut ignored) = (StateDict::new(), Vec::new());
    for (name, tensor) in found {
        match todays(&name) {
            Some(today) => {
                state.insert(today, tensor);
            }
            None => ignored.push(name),
        }
    }
    (state, ignored)
}

/// Fills a model from tensors under published names; the report speaks of our names.
pub(super) fn filled(
    model: VisionLanguageModel,
    mut state: StateDict,
    ignored: Vec<String>,
    names: fn(&str) -> Vec<String>,
) -> Result<(VisionLanguageModel, LoadReport), WeightError> {
    let ours = from_published(&shapes(&model), &mut state, names);
    let (model, report) = load_state_dict(model, ours)?;
    let unexpected = state.into_keys().collect();
    Ok((
        model,
        LoadReport {
            ignored,
            unexpected,
            ..report
        },
    ))
}

/// Index and part of a module of the one stream's layers.
fn joint_layer(module: &str) -> Option<(&str, &str)> {
    module.strip_prefix("fusion.joint_layers.")?.split_once('.')
}

/// Today's name of a name found in a file, without the prefixes of data-parallel training.
/// `None`: state of the run, or a second name of a table that is there under its own.
#[must_use]
pub fn canonical(found: &str) -> Option<String> {
    let found = found.strip_prefix("module.").unwrap_or(found);
    let (part, rest) = found.split_once('.')?;
    let rest = rest.strip_prefix("module.").unwrap_or(rest);
    let is_tied = (part, rest) == ("text_mlm_head", "decode.weight");
    let is_run = matches!(part, "net_optim" | "amp");
    (!is_tied && !is_run).then(|| format!("{part}.{rest}"))
}

/// Names of the trunk with so many layers, without heads.
#[must_use]
pub fn expected(layers: usize) -> Vec<String> {
    let layer = |index| {
        let modules = LAYER.into_iter();
        modules.map(move |module| format!("backbone.layers.{index}.{module}"))
    };
    let modules = (0..layers).flat_map(layer);
    let modules = modules.chain(std::iter::once("pooler.dense".to_owned()));
    let leaves = |module: String| ["weight", "bias"].map(|leaf| format!("{module}.{leaf}"));
    let trunk = TRUNK.into_iter().map(str::to_owned);
    trunk.chain(modules.flat_map(leaves)).collect()
}

/// What a file of the given names holds of a model with as many layers as it has any tensor of.
/// Heads are matched; none of them is missed.
#[must_use]
pub fn report<'a>(found: impl IntoIterator<Item = &'a str>) -> LoadReport {
    let mut report = LoadReport::default();
    let mut names = BTreeSet::new();
    for name in found {
        match canonical(name) {
            Some(canonical) => {
                names.insert(canonical);
            }
            None => report.ignored.push(name.to_owned()),
        }
    }
    let layers = names.iter().filter_map(|name| {
        let (index, _) = name.strip_prefix("backbone.layers.")?.split_once('.')?;
        index.parse::<usize>().ok().filter(|at| *at < names.len())
    });
    let layers = layers.max().map_or(0, |last| last + 1);
    for name in expected(layers) {
        if names.remove(&name) {
            report.matched.push(name);
        } else {
            report.missing.push(name);
        }
    }
    let is_head = |name: &String| HEADS.iter().any(|head| name.starts_with(head));
    let (heads, unexpected): (Vec<_>, Vec<_>) = names.into_iter().partition(is_head);
    report.matched.extend(heads);
    report.unexpected = unexpected;
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_go_and_the_run_is_ignored() {
        let of = |name| canonical(name);
        let q = "backbone.layers.0.mhatt.dense_q.weight";
        for found in [
            q,
            "module.backbone.layers.0.mhatt.dense_q.weight",
            "backbone.module.layers.0.mhatt.dense_q.weight",
        ] {
            assert_eq!(of(found).as_deref(), Some(q));
        }
        for found in [
            "epoch",
            "net_optim.state.0.exp_avg",
            "amp.loss_scaler0.loss_scale",
            "text_mlm_head.decode.weight",
        ] {
            assert_eq!(of(found), None, "{found}");
        }
    }

    #[test]
    fn a_hole_is_missing_and_a_stranger_unexpected() {
        let mut names = expected(12);
        assert_eq!(names.len(), 11 + 12 * 16 + 2);
        names.retain(|name| name != "backbone.layers.3.ffn.dense1.bias");
        names.push("backbone.layers.99999999999.ffn.dense0.bias".to_owned());
        names.push("mm_qa_head.dense0.bias".to_owned());
        names.push("epoch".to_owned());
        let report = report(names.iter().map(String::as_str));
        assert_eq!(report.missing, ["backbone.layers.3.ffn.dense1.bias"]);
        let stranger = "backbone.layers.99999999999.ffn.dense0.bias";
        assert_eq!(report.unexpected, [stranger]);
        assert_eq!(report.ignored, ["epoch"]);
        assert_eq!(report.matched.len(), names.len() - 2);
    }
}
