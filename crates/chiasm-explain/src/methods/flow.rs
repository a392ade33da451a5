//! Attention and relevance through all layers, as one matrix over the tokens of a pair.

use burn::tensor::{Device, Gradients, Tensor};
use chiasm_nn::watch::Record;

use super::Flow;
use crate::error::ExplainError;
use crate::maps::{Heads, within};
use crate::pass::{Pass, attention, relevance as spoken_for};
use crate::subject::{Subject, Target, host, numbers};

/// Attention of every layer with its residual, half of each, multiplied from the first to the last: of
/// both towers, then of fusion, where a layer of two streams first looks at itself and then at the other
/// (Abnar and Zuidema, ACL 2020, eq. 1; for two streams our reading).
pub(super) fn rollout(
    subject: &Subject<'_>,
    target: &Target,
    pass: &Pass,
    heads: Heads,
) -> Result<Flow, ExplainError> {
    if let (Heads::One(head), Some(first)) = (heads, pass.fusion.first().or(pass.image.first())) {
        within("head", head, attention(first).dims()[0])?;
    }
    let joined = |record: &Record| joined(record, heads);
    let step = |flow: Tensor<2>, attention: Tensor<2>| -> Tensor<2> {
        let [size, _] = attention.dims();
        let whole = attention + Tensor::eye(size, &flow.device());
        // Selection that does not renormalise, and the largest of heads, leave rows that do not sum to 1.
        let sums = whole.clone().sum_dim(1);
        (whole / sums).matmul(flow)
    };
    let tower = |records: &[Record], size: usize, device: &Device| {
        let start = Tensor::eye(size, device);
        records.iter().map(joined).fold(start, step)
    };
    let device = device(pass);
    let (words, tokens) = (pass.layout.words, pass.layout.image_tokens());
    // An image tower alone reads nothing.
    let text = (words > 0).then(|| tower(&pass.text, words, &device));
    let image = fusion_order(tower(&pass.image, tokens, &device), pass);
    let mut flow = blocks([text, None, None, Some(image)], [words, tokens], &device);
    if subject.fuses(target) && subject.is_one_stream() {
        flow = pass.fusion.iter().map(joined).fold(flow, step);
    } else if subject.fuses(target) {
        for pair in pass.pairs() {
            let own = [
                Some(joined(pair.text)),
                None,
                None,
                Some(joined(pair.image)),
            ];
            let across = [
                None,
                Some(joined(pair.text_to_image)),
                Some(joined(pair.image_to_text)),
                None,
            ];
            flow = step(flow, blocks(own, [words, tokens], &device));
            flow = step(flow, blocks(across, [words, tokens], &device));
        }
    }
    Ok(Flow {
        tokens: words + tokens,
        values: host(flow)?,
    })
}

/// Attention of all heads as one matrix, `[queries, keys]`.
fn joined(record: &Record, heads: Heads) -> Tensor<2> {
    let all = attention(record);
    let [_, queries, keys] = all.dims();
    let one = match heads {
        Heads::One(head) => all.narrow(0, head, 1),
        Heads::Max => all.max_dim(0),
        Heads::Mean | Heads::ScoreSum => all.mean_dim(0),
    };
    one.reshape([queries, keys])
}

/// Relevance of every token for every other (Chefer et al., ICCV 2021): what of attention spoke for the
/// target is added up layer by layer. Attention within a side passes on what its tokens hold (eqs. 6
/// and 7); attention across first mixes what both sides hold (eqs. 8 to 11).
pub(super) fn relevance(
    subject: &Subject<'_>,
    target: &Target,
    pass: &Pass,
    gradients: &Gradients,
) -> Result<Flow, ExplainError> {
    let device = device(pass);
    let (words, tokens) = (pass.layout.words, pass.layout.image_tokens());
    let spoken = |record: &Record| spoken_for(record, gradients);
    let tower = |records: &[Record], size: usize| {
        let start: Tensor<2> = Tensor::eye(size, &device);
        records.iter().map(spoken).fold(start, |flow, attention| {
            flow.clone() + attention.matmul(flow)
        })
    };
    let text = tower(&pass.text, words);
    let image = fusion_order(tower(&pass.image, tokens), pass);
    let fused = subject.fuses(target);
    if !fused || subject.is_one_stream() {
        let mut flow = blocks(
            [Some(text), None, None, Some(image)],
            [words, tokens],
            &device,
        );
        if fused {
            for attention in pass.fusion.iter().map(spoken) {
                flow = flow.clone() + attention.matmul(flow);
            }
        }
        return of(flow, pass);
    }
    let (mut tt, mut ii) = (text, image);
    let mut ti: Tensor<2> = Tensor::zeros([words, tokens], &device);
    let mut it: Tensor<2> = Tensor::zeros([tokens, words], &device);
    for pair in pass.pairs() {
        let (within_text, within_image) = (spoken(pair.text), spoken(pair.image));
        ti = ti.clone() + within_text.clone().matmul(ti);
        tt = tt.clone() + within_text.matmul(tt);
        it = it.clone() + within_image.clone().matmul(it);
        ii = ii.clone() + within_image.matmul(ii);
        let (to_image, to_text) = (spoken(pair.text_to_image), spoken(pair.image_to_text));
        let (held_tt, held_ii) = (normalised(tt.clone()), normalised(ii.clone()));
        // Both streams read what the other held before.
        let cross = |own: &Tensor<2>, attention: &Tensor<2>, other: &Tensor<2>| {
            own.clone()
                .transpose()
                .matmul(attention.clone())
                .matmul(other.clone())
        };
        let new_ti = cross(&held_tt, &to_image, &held_ii);
        let new_it = cross(&held_ii, &to_text, &held_tt);
        let new_tt = to_image.matmul(it.clone());
        let new_ii = to_text.matmul(ti.clone());
        ti = ti + new_ti;
        it = it + new_it;
        tt = tt + new_tt;
        ii = ii + new_ii;
    }
    let parts = [Some(tt), Some(ti), Some(it), Some(ii)];
    of(blocks(parts, [words, tokens], &device), pass)
}

/// Without what every token is to itself from the start, which no layer gave it.
fn of(flow: Tensor<2>, pass: &Pass) -> Result<Flow, ExplainError> {
    let [size, _] = flow.dims();
    let eye = Tensor::eye(size, &flow.device());
    Ok(Flow {
        tokens: pass.layout.words + pass.layout.image_tokens(),
        values: host(flow - eye)?,
    })
}

/// Rows of what was added sum to 1, beside the token itself (eqs. 8 and 9).
fn normalised(flow: Tensor<2>) -> Tensor<2> {
    let [size, _] = flow.dims();
    let eye = Tensor::eye(size, &flow.device());
    let added = flow - eye.clone();
    let sums = added.clone().sum_dim(1).clamp_min(f32::MIN_POSITIVE);
    added / sums + eye
}

/// A tower's matrix in the order of tokens that fusion reads.
fn fusion_order(flow: Tensor<2>, pass: &Pass) -> Tensor<2> {
    let order = pass.layout.tower_order();
    if order.is_empty() {
        return flow;
    }
    let device = flow.device();
    let order = numbers(order, &device);
    flow.select(0, order.clone()).select(1, order)
}

/// Text to text, text to image, image to text, image to image as one matrix, zeros for none.
fn blocks(
    parts: [Option<Tensor<2>>; 4],
    [words, tokens]: [usize; 2],
    device: &Device,
) -> Tensor<2> {
    let size = words + tokens;
    let (text, image) = (0..words, words..size);
    let places = [
        [text.clone(), text.clone()],
        [text.clone(), image.clone()],
        [image.clone(), text],
        [image.clone(), image],
    ];
    let mut whole = Tensor::zeros([size, size], device);
    for (part, place) in parts.into_iter().zip(places) {
        if let Some(part) = part {
            whole = whole.slice_assign(place, part);
        }
    }
    whole
}

fn device(pass: &Pass) -> Device {
    pass.score.device().without_autodiff()
}
