//! Maps that come with a published tower beside its layers: what a tower that stands alone begins its
//! pooler or its projection with.

use burn::tensor::{Tensor, TensorData};
use chiasm_nn::layers::Linear;
use chiasm_nn::weights::{LoadReport, StateDict, replace_value};

/// What a published tower has beside its layers, by the end of its name.
const HEADS_BESIDE: [&str; 2] = ["pooler.dense", "visual_projection"];

/// The maps that may come with a tower: BERT's and ViT's pooler, CLIP's projection.
pub(super) fn heads_beside(state: &StateDict) -> StateDict {
    let stem = |name: &str| name.rsplit_once('.').map(|(stem, _)| stem.to_owned());
    let is_head = |name: &str| {
        stem(name).is_some_and(|stem| HEADS_BESIDE.iter().any(|head| stem.ends_with(head)))
    };
    let heads = state.iter().filter(|(name, _)| is_head(name));
    heads
        .map(|(name, tensor)| (name.clone(), tensor.clone()))
        .collect()
}

/// Lets a map of a tower that stands alone begin with the one that the tower came with, where there is
/// one of its size; else it stays as it was drawn.
pub(super) fn begin_linear(
    ours: &str,
    map: Option<&mut Linear>,
    heads: &StateDict,
    theirs: &str,
    report: &mut LoadReport,
) {
    let Some(map) = map else {
        return;
    };
    let find = |leaf: &str| {
        let end = format!("{theirs}.{leaf}");
        heads.iter().find(|(name, _)| name.ends_with(&end))
    };
    let device = map.weight.val().device().without_autodiff();
    let [input, output] = map.weight.dims();
    let Some((name, weight)) = find("weight").filter(|(_, weight)| weight.shape == [output, input])
    else {
        return;
    };
    let mut used = vec![(name.clone(), format!("{ours}.weight"))];
    let data = TensorData::new(weight.clone().transposed().values, [input, output]);
    let weight = Tensor::from_data(data, &device);
    map.weight = replace_value(map.weight.clone(), weight);
    let found = find("bias").filter(|(_, bias)| bias.shape == [output]);
    if let (Some(own), Some((name, bias))) = (&map.bias, found) {
        used.push((name.clone(), format!("{ours}.bias")));
        let data = TensorData::new(bias.values.clone(), [output]);
        map.bias = Some(replace_value(own.clone(), Tensor::from_data(data, &device)));
    }
    report
        .ignored
        .retain(|name| !used.iter().any(|(theirs, _)| theirs == name));
    report
        .matched
        .extend(used.into_iter().map(|(_, ours)| ours));
}
