//! Names in ROSITA's checkpoints (`specs/tbkin.md` section 1.8), so that one can be listed, checked
//! and converted. The model itself is not built here.
//!
//! A file is a dict of state dicts, one for each part of the model, beside the counters and the
//! optimiser of the run.

use std::collections::BTreeSet;

use crate::weights::LoadReport;

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
