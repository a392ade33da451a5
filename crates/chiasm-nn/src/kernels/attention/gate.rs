//! Gates that heads learn (`specs/tbkin.md` section 4.4): how much of a key's probability passes.

use super::super::math::{dot, exp, max, scale, sum};
use super::super::rows::room;
use super::keep::Rule;

/// The gates of a sub-layer, one a head.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gates<'a> {
    /// Logarithms of their levels in times the mean, `[heads]`.
    pub(super) thresholds: &'a [f32],
    /// How gradually they open while they learn; without, a gate is open or shut.
    pub(super) softness: Option<f32>,
}

impl Gates<'_> {
    /// What a gate that is open or shut keeps: what is above its level.
    pub(super) fn rule(&self, head: usize) -> Rule {
        Rule::TimesMean(self.level(head).next_up())
    }

    /// The gate of a head over rows of so many keys, if it opens gradually.
    pub(super) fn soft(&self, head: usize, keys: usize) -> Option<Soft> {
        self.softness.map(|softness| Soft {
            slope: keys as f32 / softness,
            level: self.level(head) / softness,
        })
    }

    fn level(&self, head: usize) -> f32 {
        self.thresholds[head].exp()
    }
}

/// A gate that opens gradually: of a probability p, one of n, the share σ(u) passes, with
/// `u = (p n - level) / softness`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Soft {
    /// `n / softness`
    slope: f32,
    /// `level / softness`
    level: f32,
}

impl Soft {
    /// Turns probabilities p into weights, `p σ(u)` made to sum to 1.
    #[inline(always)]
    pub(super) fn forward(self, row: &mut [f32]) {
        let gate = self.over(row);
        for p in row.iter_mut() {
            let [open, _] = gate(*p);
            *p *= open;
        }
        scale(row, 1.0 / sum(row));
    }

    /// Turns probabilities (in `row`) and the gradient of the weights after dropout (in `d`) into
    /// weights after dropout and the gradient of the scores. Returns that of the threshold.
    ///
    /// With W the weights, F dropout's factors, D their gradient and m the sum of `W ∘ F ∘ D`, the
    /// gradient of `ln(p σ(u))` is `R = W ∘ (F ∘ D - m)`. That of `ln p` is then
    /// `T = R ∘ (1 + p n (1 - σ(u)) / softness)`, of the scores `T - p sum(T)`, and of the threshold
    /// `-level / softness sum(R ∘ (1 - σ(u)))`.
    #[inline(always)]
    pub(super) fn backward(
        self,
        row: &mut [f32],
        d: &mut [f32],
        factors: &[f32],
        m: f32,
        scratch: &mut Vec<f32>,
    ) -> f32 {
        let gate = self.over(row);
        let (weights, shut) = room(scratch, 2 * row.len()).split_at_mut(row.len());
        for ((p, weight), shut) in row.iter().zip(&mut *weights).zip(&mut *shut) {
            let [open, closed] = gate(*p);
            *weight = p * open;
            *shut = closed;
        }
        let share = 1.0 / sum(weights);
        for ((d, weight), factor) in d.iter_mut().zip(&mut *weights).zip(factors) {
            *weight *= share;
            *d = *weight * factor.mul_add(*d, -m);
            *weight *= factor;
        }
        let threshold = -self.level * dot(d, shut);
        for ((d, p), shut) in d.iter_mut().zip(&*row).zip(&*shut) {
            *d *= (self.slope * p).mul_add(*shut, 1.0);
        }
        let total = sum(d);
        for ((d, p), weight) in d.iter_mut().zip(row).zip(&*weights) {
            *d = p.mul_add(-total, *d);
            *p = *weight;
        }
        threshold
    }

    /// Of a probability of this row: σ(u), and `1 - σ(u)`.
    ///
    /// Where every gate of a row is nearly shut, all of them are opened by the factor that opens the
    /// widest: the weights stay the same, and none of what they are divided by is 0.
    #[inline(always)]
    fn over(self, row: &[f32]) -> impl Fn(f32) -> [f32; 2] + use<> {
        let logit = move |p: f32| p.mul_add(self.slope, -self.level);
        let widest = logit(max(row)).min(0.0);
        let one = exp(widest);
        move |p| {
            let shut = exp(widest - logit(p));
            let open = 1.0 / (one + shut);
            [open, shut * open]
        }
    }
}
