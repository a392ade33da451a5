//! Selection with plain tensor operations: the reference, and what runs on a GPU.

use burn::tensor::activation::{log_sigmoid, softmax};
use burn::tensor::{Bool, Device, Int, Tensor, TensorData};

use super::{Gate, Select};
use crate::kernels::{Fallback, Keep, Place, Rule};
use crate::spans::Spans;

/// The score of a dropped key: its exponential is exactly 0, and so is its gradient.
const DROPPED: f64 = -1e30;

/// What a row of scores is made of.
struct Rows {
    /// 1 for keys that are there, `[batch, 1, 1, keys]`; without, all are.
    real: Option<Tensor<4>>,
    /// How many are, `[batch, 1, 1, 1]`.
    count: Tensor<4>,
}

/// Probabilities of the kept keys from scores in which keys that are not there have already got the
/// score of a masked one, `[batch, heads, queries, keys]`.
pub(crate) fn select(
    scores: Tensor<4>,
    [queries, keys]: [&Spans; 2],
    select: &Select,
) -> Tensor<4> {
    let device = scores.device();
    let Select { keep, gate, meter } = select;
    let rows = Rows::of(keys, &device);
    let whole = softmax(scores.clone(), 3);
    let selected = if let Some(Gate {
        threshold,
        temperature,
    }) = gate
    {
        let heads = threshold.dims()[0];
        let level = threshold.clone().exp().reshape([1, heads, 1, 1]);
        let times = whole.clone() * rows.count.clone();
        match temperature {
            Some(temperature) => {
                // p times what the gate lets through, by logarithms: where all gates of a row are
                // nearly shut, the sum that it is divided by would be 0.
                let over = (times - level).div_scalar(*temperature);
                softmax(scores.clone() + log_sigmoid(over), 3)
            }
            None => {
                let kept = times.greater(level);
                finish(scores.clone(), whole, kept, [queries, keys], keep, &rows)
            }
        }
    } else {
        let kept = by_rule(&scores, &whole, keep.rule, &rows);
        finish(scores.clone(), whole, kept, [queries, keys], keep, &rows)
    };
    if let Some((meter, site)) = meter {
        let host = |tensor: Tensor<4>| tensor.into_data().convert::<f32>().try_into_vec::<f32>();
        let [_, heads, most_queries, most_keys] = scores.dims();
        if let (Ok(scores), Ok(kept)) = (host(scores), host(selected.clone())) {
            for (sequence, (own, other)) in queries.lengths().zip(keys.lengths()).enumerate() {
                for head in 0..heads {
                    for query in 0..own {
                        let row = (sequence * heads + head) * most_queries + query;
                        let row = row * most_keys..row * most_keys + other;
                        meter.count(*site, head, &scores[row.clone()], &kept[row], other);
                    }
                }
            }
        }
    }
    selected
}

impl Rows {
    fn of(keys: &Spans, device: &Device) -> Self {
        let lens: Vec<f32> = keys.lengths().map(|len| len.max(1) as f32).collect();
        let shape = [keys.batch(), 1, 1, 1];
        let real = keys.common_length().is_none().then(|| {
            let real = keys
                .padded()
                .map(|token| f32::from(u8::from(token.is_some())));
            let shape = [keys.batch(), 1, 1, keys.longest()];
            Tensor::from_data(TensorData::new(real.collect::<Vec<_>>(), shape), device)
        });
        Self {
            real,
            count: Tensor::from_data(TensorData::new(lens, shape), device),
        }
    }

    /// Values of keys that are there; `other` for the rest.
    fn only(&self, values: Tensor<4>, other: f64) -> Tensor<4> {
        match &self.real {
            None => values,
            Some(real) => {
                let [batch, heads, queries, keys] = values.dims();
                let absent = real.clone().equal_elem(0.0);
                values.mask_fill(absent.expand([batch, heads, queries, keys]), other)
            }
        }
    }
}

/// Keys that a rule keeps by themselves.
fn by_rule(scores: &Tensor<4>, whole: &Tensor<4>, rule: Rule, rows: &Rows) -> Tensor<4, Bool> {
    // No gradient goes into what is kept.
    let (s, p) = (scores.clone().detach(), whole.clone().detach());
    let at_least = |values: Tensor<4>, cut: Tensor<4>| {
        let shape = values.dims();
        values.greater_equal(cut.expand(shape))
    };
    match rule {
        Rule::Probability(least) => p.greater_equal_elem(least),
        Rule::TimesMean(times) => at_least(p, rows.count.clone().recip().mul_scalar(times)),
        Rule::ShareOfMax(share) => {
            let cut = p.clone().max_dim(3).mul_scalar(share);
            at_least(p, cut)
        }
        Rule::Score(least) => s.greater_equal_elem(least),
        Rule::Deviations(times) => {
            let count = rows.count.clone();
            let mean = rows.only(s.clone(), 0.0).sum_dim(3) / count.clone();
            let off = rows.only(s.clone() - mean.clone(), 0.0);
            let deviation = ((off.clone() * off).sum_dim(3) / count).sqrt();
            at_least(s, mean + deviation.mul_scalar(times))
        }
        Rule::Top(most) => {
            let most = most.max(1) as i64;
            let place = rows.count.clone().int().clamp_max(most) - 1;
            let cut = ordered(&s, rows).gather(3, places(place, &s));
            at_least(s, cut)
        }
        Rule::TopShare(share) => {
            let wanted = rows.count.clone().mul_scalar(share).ceil();
            let place = wanted.int().clamp_min(1) - 1;
            let cut = ordered(&s, rows).gather(3, places(place, &s));
            at_least(s, cut)
        }
        Rule::Quantile(quantile) => {
            // The quantile from below is one from above in descending order.
            let last = rows.count.clone().sub_scalar(1.0);
            let place = last.clone() - last.mul_scalar(quantile);
            // A place that is a whole number but for rounding is that number's.
            let place = place.mul_scalar(1e4).round().div_scalar(1e4);
            let below = place.clone().ceil();
            let above = place.clone().floor();
            let sorted = ordered(&p, rows);
            let low = sorted.clone().gather(3, places(below.clone().int(), &p));
            let high = sorted.gather(3, places(above.int(), &p));
            let part = below - place;
            let cut = low.clone() + (high - low) * part;
            at_least(p, cut)
        }
        Rule::Mass(mass) => {
            let sorted = ordered(&p, rows);
            let total = rows.only(sorted.clone(), 0.0).cumsum(3);
            // Keys before which the mass is not reached yet.
            let before = total - sorted.clone();
            let needed = before.lower_elem(mass);
            let cut = sorted.mask_fill(needed.bool_not(), 2.0).min_dim(3);
            at_least(p, cut)
        }
    }
}

/// The values of each row, the largest first and those of absent keys last.
fn ordered(values: &Tensor<4>, rows: &Rows) -> Tensor<4> {
    rows.only(values.clone(), DROPPED).sort_descending(3)
}

/// The same place in every row of a sequence.
fn places(place: Tensor<4, Int>, like: &Tensor<4>) -> Tensor<4, Int> {
    let [batch, heads, queries, _] = like.dims();
    place.expand([batch, heads, queries, 1])
}

/// From the keys that a rule keeps to probabilities: what is protected, rows without any, exempt
/// blocks, and the division by what is left.
fn finish(
    scores: Tensor<4>,
    whole: Tensor<4>,
    kept: Tensor<4, Bool>,
    [queries, keys]: [&Spans; 2],
    keep: &Keep,
    rows: &Rows,
) -> Tensor<4> {
    let shape = scores.dims();
    let device = scores.device();
    let masks = Masks::of(keep, [queries, keys], shape[1]);
    let mut kept = kept;
    if let Some(real) = &rows.real {
        kept = kept.bool_and(real.clone().greater_elem(0.5).expand(shape));
    }
    if let Some(protected) = &masks.protected {
        kept = kept.bool_or(mask(protected, shape, 1, &device));
    }
    let none = kept
        .clone()
        .float()
        .sum_dim(3)
        .equal_elem(0.0)
        .expand(shape);
    let instead = match keep.fallback {
        Fallback::Largest => {
            let largest = scores.clone().detach().max_dim(3).expand(shape);
            scores.clone().detach().greater_equal(largest)
        }
        Fallback::All => scores.clone().detach().greater_elem(2.0 * DROPPED),
    };
    kept = kept.bool_or(none.bool_and(instead));
    if let Some(exempt) = &masks.exempt {
        kept = kept.bool_or(mask(exempt, shape, shape[1], &device));
    }
    if keep.renormalise {
        softmax(scores.mask_fill(kept.bool_not(), DROPPED), 3)
    } else {
        whole * kept.float()
    }
}

/// Keys that are kept whatever the rule says.
struct Masks {
    /// The token itself and the first one, `[batch, queries, keys]`.
    protected: Option<Vec<bool>>,
    /// Rows, heads and blocks that do not select, `[batch, heads, queries, keys]`.
    exempt: Option<Vec<bool>>,
}

impl Masks {
    fn of(keep: &Keep, [queries, keys]: [&Spans; 2], heads: usize) -> Self {
        let spans = || queries.lengths().zip(keys.lengths()).enumerate();
        let protects = keep.keep_self || keep.keep_first;
        let protected = protects.then(|| {
            let mut mask = Vec::new();
            for (sequence, (own, other)) in spans() {
                for query in 0..queries.longest() {
                    let place = Place::whole_row(sequence, [own, other], query);
                    let is = |key| key < other && keep.protects(&place, key);
                    mask.extend((0..keys.longest()).map(is));
                }
            }
            mask
        });
        let everything = keep.selects_everywhere();
        let exempt = (!everything).then(|| {
            let mut mask = Vec::new();
            for (sequence, (own, other)) in spans() {
                for head in 0..heads {
                    for query in 0..queries.longest() {
                        let place = Place::whole_row(sequence, [own, other], query);
                        let dense = !keep.selects(head, &place);
                        let is = |key| key < other && (dense || keep.exempts(&place, key));
                        mask.extend((0..keys.longest()).map(is));
                    }
                }
            }
            mask
        });
        Self { protected, exempt }
    }
}

/// A mask on the device, `[batch, heads, queries, keys]`, given for `heads` heads.
fn mask(values: &[bool], shape: [usize; 4], heads: usize, device: &Device) -> Tensor<4, Bool> {
    let [batch, _, queries, keys] = shape;
    let data = TensorData::new(values.to_vec(), [batch, heads, queries, keys]);
    Tensor::<4, Bool>::from_data(data, device).expand(shape)
}
