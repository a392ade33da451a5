//! Both operations against their plain forms.

use std::ops::Range;

use super::super::dropout::Dropout;
use super::super::norm::Norm;
use super::super::testing::{check, plain, values};
use super::{AttentionForm, CrossAttention, Scope, SelfAttention};
use crate::spans::Spans;

const EPS: f64 = 1e-5;

/// What both kinds of attention have in common.
fn form(
    width: usize,
    heads: usize,
    norm: Norm,
    [dropout, residual_dropout]: [Option<Dropout>; 2],
) -> AttentionForm {
    AttentionForm {
        width,
        heads,
        norm,
        eps: EPS,
        dropout,
        residual_dropout,
        scope: Scope::Whole,
        keep: None,
        softness: None,
        meter: None,
    }
}

/// What an attention sub-layer does, whichever it is.
struct Plain<'a> {
    spans: &'a Spans,
    other_spans: &'a Spans,
    width: usize,
    heads: usize,
    norm: Norm,
    dropout: Option<Dropout>,
    residual_dropout: Option<Dropout>,
    scope: Scope,
    /// Of gates, where there are some.
    softness: Option<f32>,
}

impl Plain<'_> {
    /// Whether the token at `row` of a sequence sees the one at `key_row`.
    fn sees(&self, sequence: &Range<usize>, row: usize, key_row: usize) -> bool {
        match self.scope {
            Scope::Whole => true,
            Scope::Causal => key_row <= row,
            Scope::Frames(count) => {
                let len = sequence.len() / count;
                let [row, key] = [row, key_row].map(|row| row - sequence.start);
                row % len == 0 || row / len == key / len
            }
        }
    }

    /// Context of projected tokens; rows of the three are `[tokens, width]`, `gates` are the logarithms
    /// of the gates' levels.
    fn attend(&self, [query, key, value]: [&[f64]; 3], gates: &[f64]) -> Vec<f64> {
        let size = self.width / self.heads;
        let mut context = vec![0.0; query.len()];
        for (queries, keys) in self.spans.iter().zip(self.other_spans.iter()) {
            for (head, row) in (0..self.heads).flat_map(|h| queries.clone().map(move |r| (h, r))) {
                let at = |row: usize| row * self.width + head * size;
                let query = &query[at(row)..][..size];
                let scores = keys.clone().map(|key_row| {
                    if !self.sees(&queries, row, key_row) {
                        return 0.0;
                    }
                    let key = &key[at(key_row)..][..size];
                    let product: f64 = query.iter().zip(key).map(|(q, k)| q * k).sum();
                    (product / (size as f64).sqrt()).exp()
                });
                let mut scores: Vec<f64> = scores.collect();
                if let Some(softness) = self.softness {
                    let total: f64 = scores.iter().sum();
                    for score in &mut scores {
                        let times = *score / total * keys.len() as f64;
                        let over = (times - gates[head].exp()) / f64::from(softness);
                        *score /= 1.0 + (-over).exp();
                    }
                }
                let mut factors = vec![1.0; keys.len()];
                if let Some(dropout) = self.dropout {
                    let number = head * self.spans.tokens() + row;
                    dropout.factors(number as u64, &mut factors);
                }
                let total: f64 = scores.iter().sum();
                for ((score, factor), key_row) in scores.iter().zip(factors).zip(keys.clone()) {
                    let weight = score / total * f64::from(factor);
                    for (column, value) in value[at(key_row)..][..size].iter().enumerate() {
                        context[at(row) + column] += weight * value;
                    }
                }
            }
        }
        context
    }

    /// The sub-layer of x and of what its attention's input becomes.
    fn sublayer(
        &self,
        x: &[f64],
        [gain, bias, out_w, out_b]: [&[f64]; 4],
        context: impl Fn(&[f64]) -> Vec<f64>,
    ) -> Vec<f64> {
        let norm = |x: &[f64]| plain::layer_norm(x, gain, bias, EPS);
        let context = match self.norm {
            Norm::Before => context(&norm(x)),
            Norm::After => context(x),
        };
        let added = plain::linear(&context, out_w, out_b);
        let added = plain::drop(self.residual_dropout, &added, self.width);
        let sum: Vec<f64> = x.iter().zip(added).map(|(x, y)| x + y).collect();
        match self.norm {
            Norm::Before => sum,
            Norm::After => norm(&sum),
        }
    }
}

/// Every `count`-th of parts of length `width`, from `index` on.
fn part(rows: &[f64], width: usize, count: usize, index: usize) -> Vec<f64> {
    let parts = rows.chunks(width).skip(index).step_by(count);
    parts.flatten().copied().collect()
}

/// Lengths of sequences, width and heads: none, none with tokens, one of each kind, many short,
/// and one so long that it is cut.
const SELF_CASES: [(&[usize], usize, usize); 5] = [
    (&[], 4, 2),
    (&[0, 0], 4, 1),
    (&[5, 0, 1, 9], 6, 3),
    (&[3; 30], 4, 1),
    (&[2, 150], 4, 2),
];

#[test]
fn self_attention_equals_the_plain_form() {
    for ((lens, width, heads), dropout) in cases(&SELF_CASES) {
        for (norm, scope, softness) in [
            (Norm::Before, Scope::Whole, None),
            (Norm::After, Scope::Whole, None),
            (Norm::Before, Scope::Causal, None),
            (Norm::Before, Scope::Frames(1), None),
            (Norm::Before, Scope::Frames(3), None),
            (Norm::Before, Scope::Whole, Some(0.1)),
            (Norm::After, Scope::Whole, Some(1.0)),
        ] {
            let [dropout, residual_dropout] = dropout;
            if softness.is_some() && lens.iter().any(|len| *len > 100) {
                // Differences take long there; `fused_equals_plain` has long sequences with gates.
                continue;
            }
            let frames = match scope {
                Scope::Frames(count) => count,
                _ => 1,
            };
            if frames > 1 && dropout.is_some() {
                // No tower of clips drops probabilities; which one a factor belongs to is left open.
                continue;
            }
            let operation = SelfAttention {
                spans: Spans::new(lens.iter().map(|len| frames * len)),
                form: AttentionForm {
                    scope,
                    softness,
                    ..form(width, heads, norm, [dropout, residual_dropout])
                },
            };
            let inputs = [
                values(1, operation.spans.tokens() * width),
                values(2, width),
                values(3, width),
                values(4, 3 * width * width),
                values(5, 3 * width),
                values(6, width * width),
                values(7, width),
                values(8, softness.map_or(0, |_| heads)),
            ];
            let plain_form = Plain {
                spans: &operation.spans,
                other_spans: &operation.spans,
                width,
                heads,
                norm,
                dropout,
                residual_dropout,
                scope,
                softness,
            };
            check(&operation, &inputs, 5e-5, |inputs| {
                let [x, gain, bias, qkv_w, qkv_b, out_w, out_b, gates] =
                    inputs.each_ref().map(Vec::as_slice);
                plain_form.sublayer(x, [gain, bias, out_w, out_b], |x| {
                    let qkv = plain::linear(x, qkv_w, qkv_b);
                    let parts = [0, 1, 2].map(|index| part(&qkv, width, 3, index));
                    plain_form.attend(parts.each_ref().map(Vec::as_slice), gates)
                })
            });
        }
    }
}

/// Pairs of lengths, width and heads: none, sequences without tokens on either side, and long ones.
const CROSS_CASES: [(&[[usize; 2]], usize, usize); 4] = [
    (&[], 4, 2),
    (&[[0, 3], [5, 2], [4, 0], [1, 1], [0, 0]], 6, 2),
    (&[[1, 130], [3, 2]], 4, 2),
    (&[[80, 3]], 3, 1),
];

#[test]
fn cross_attention_equals_the_plain_form() {
    for ((lens, width, heads), dropout) in cases(&CROSS_CASES) {
        for (norm, softness) in [
            (Norm::Before, None),
            (Norm::After, None),
            (Norm::Before, Some(0.3)),
        ] {
            let [dropout, residual_dropout] = dropout;
            let operation = CrossAttention {
                spans: Spans::new(lens.iter().map(|[len, _]| *len)),
                other_spans: Spans::new(lens.iter().map(|[_, len]| *len)),
                form: AttentionForm {
                    softness,
                    ..form(width, heads, norm, [dropout, residual_dropout])
                },
            };
            let inputs = [
                values(1, operation.spans.tokens() * width),
                values(2, operation.other_spans.tokens() * width),
                values(3, width),
                values(4, width),
                values(5, width * width),
                values(6, width),
                values(7, 2 * width * width),
                values(8, 2 * width),
                values(9, width * width),
                values(10, width),
                values(11, softness.map_or(0, |_| heads)),
            ];
            let plain_form = Plain {
                spans: &operation.spans,
                other_spans: &operation.other_spans,
                width,
                heads,
                norm,
                dropout,
                residual_dropout,
                scope: Scope::Whole,
                softness,
            };
            check(&operation, &inputs, 5e-5, |inputs| {
                let [
                    x,
                    other,
                    gain,
                    bias,
                    query_w,
                    query_b,
                    kv_w,
                    kv_b,
                    out_w,
                    out_b,
                    gates,
                ] = inputs.each_ref().map(Vec::as_slice);
                plain_form.sublayer(x, [gain, bias, out_w, out_b], |x| {
                    let query = plain::linear(x, query_w, query_b);
                    let kv = plain::linear(other, kv_w, kv_b);
                    let [key, value] = [0, 1].map(|index| part(&kv, width, 2, index));
                    plain_form.attend([&query, &key, &value], gates)
                })
            });
        }
    }
}

/// Every case with and without dropout, of probabilities and of what is added to x.
fn cases<T: Copy>(cases: &[T]) -> impl Iterator<Item = (T, [Option<Dropout>; 2])> {
    let dropouts = [
        [None; 2],
        [Some(Dropout::new(0.3, 1)), Some(Dropout::new(0.2, 2))],
    ];
    cases
        .iter()
        .flat_map(move |case| dropouts.map(|dropout| (*case, dropout)))
}
