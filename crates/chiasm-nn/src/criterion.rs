//! The two losses that have a fused form: softmax cross-entropy over a linear map, and symmetric
//! contrast. What they are the losses *of* is not known here.

use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Tensor};

use crate::compute::{is_fused, linear};
use crate::kernels;
use crate::layers::{Linear, normalize};
use crate::tokens::indices;
use crate::weights::to_host;

impl Linear {
    /// Mean cross-entropy of the classes `softmax(hidden W + b)`; 0 when there is no row.
    ///
    /// # Shapes
    /// - hidden: `[rows, in]`, labels: a class below `out` for each row
    /// - output: `[1]`
    #[must_use]
    pub fn cross_entropy(&self, hidden: Tensor<2>, labels: &[u32]) -> Tensor<1> {
        mapped_cross_entropy(hidden, self.values(), labels)
    }
}

/// [`Linear::cross_entropy`] of a map given by weight `[in, out]` and bias `[out]`.
pub(crate) fn mapped_cross_entropy(
    hidden: Tensor<2>,
    (weight, bias): (Tensor<2>, Tensor<1>),
    labels: &[u32],
) -> Tensor<1> {
    if !is_fused(&hidden.device()) {
        return cross_entropy(linear(hidden, weight, Some(bias)), labels);
    }
    let [width, classes] = weight.dims();
    let operation = kernels::CrossEntropy {
        labels: labels.into(),
        width,
        classes,
    };
    let inputs = [
        hidden.into_dispatch(),
        weight.into_dispatch(),
        bias.into_dispatch(),
    ];
    kernels::apply(operation, inputs, [1])
}

/// Mean cross-entropy of class indices; 0 when there is no row.
///
/// # Shapes
/// - logits: `[rows, classes]`, labels: a class for each row
/// - output: `[1]`
#[must_use]
pub fn cross_entropy(logits: Tensor<2>, labels: &[u32]) -> Tensor<1> {
    let device = logits.device();
    if labels.is_empty() {
        return Tensor::zeros([1], &device);
    }
    let labels: Vec<i64> = labels.iter().map(|label| i64::from(*label)).collect();
    let rows = labels.len() as f64;
    log_softmax(logits, 1)
        .gather(1, indices(labels, &device).unsqueeze_dim::<2>(1))
        .sum()
        .neg()
        .div_scalar(rows)
}

/// Two sets of vectors whose rows belong together, of which a process may have some of the rows.
#[derive(Clone)]
pub struct Sides<'a> {
    /// The own rows of both, `[n, width]`; gradients reach these.
    pub own: [Tensor<2>; 2],
    /// Where there are other processes, the rows of all.
    pub among: Option<Among<'a>>,
    /// Whether the second side has no gradient: it is what the first is compared with.
    pub is_second_fixed: bool,
}

/// The rows of all processes.
#[derive(Clone)]
pub struct Among<'a> {
    /// Of both sides, without gradients.
    pub all: [Tensor<2>; 2],
    /// Where the own ones begin.
    pub first: usize,
    /// Takes numbers of the own rows to all processes, and returns those of all rows in their order; fewer where
    /// processes are gone.
    pub share: Share<'a>,
}

/// From numbers of a process's rows to those of all processes'.
pub type Share<'a> = Rc<dyn Fn(&[f64]) -> Vec<f64> + 'a>;

impl Sides<'_> {
    /// Of a process that has all rows.
    #[must_use]
    pub fn alone(own: [Tensor<2>; 2]) -> Self {
        Self {
            own,
            among: None,
            is_second_fixed: false,
        }
    }

    /// How many rows there are, of all processes.
    #[must_use]
    pub fn count(&self) -> usize {
        let all = self.among.as_ref().map_or(&self.own, |among| &among.all);
        all[0].dims()[0]
    }

    /// Some columns of both.
    #[must_use]
    pub fn columns(&self, columns: Range<usize>) -> Self {
        let of = |side: &Tensor<2>| side.clone().narrow(1, columns.start, columns.len());
        let mut part = self.clone();
        part.own = self.own.each_ref().map(of);
        if let Some(among) = &mut part.among {
            among.all = among.all.each_ref().map(of);
        }
        part
    }

    /// The same sides, of which the second is given.
    #[must_use]
    pub fn with_fixed_second(self) -> Self {
        let [first, second] = self.own;
        Self {
            own: [first, second.detach()],
            among: self.among,
            is_second_fixed: true,
        }
    }

    /// All rows, with gradients for the own ones.
    fn joined(self) -> [Tensor<2>; 2] {
        let Some(among) = self.among else {
            return self.own;
        };
        let [left, right] = self.own;
        let [all_left, all_right] = among.all;
        [(left, all_left), (right, all_right)].map(|(own, all)| {
            let [rows, width] = own.dims();
            if rows == 0 {
                return all;
            }
            all.slice_assign([among.first..among.first + rows, 0..width], own)
        })
    }
}

/// `scale * NCE(S; temperature)` of the cosines S of two sets of vectors (see [`nce`]). Of several processes each
/// gets the whole, and the gradients of its own rows; 0 where others are gone.
///
/// # Shapes
/// - temperature: `[1]`, a divisor
/// - output: `[1]`
#[must_use]
pub fn contrast(sides: Sides<'_>, temperature: Tensor<1>, scale: f64) -> Tensor<1> {
    let device = temperature.device();
    if !is_fused(&device) {
        let [left, right] = sides.joined();
        let similarity = normalize(left).matmul(normalize(right).transpose());
        return nce(similarity, temperature).mul_scalar(scale);
    }
    let [rows, width] = sides.own[0].dims();
    let among = match &sides.among {
        None => None,
        Some(among) => {
            let all = among.all.each_ref();
            let all = all.map(|side| to_host(side.clone(), false).values);
            let divisor = to_host(temperature.clone(), false).values;
            let divisor = divisor.first().copied().unwrap_or(1.0);
            let own = among.first..among.first + rows;
            let slices = all.each_ref().map(Vec::as_slice);
            let own = kernels::Similarities::new(slices, width, own, divisor);
            let facts = (among.share)(&own.facts);
            if facts.len() != sides.count() * kernels::FACTS {
                return Tensor::zeros([1], &device);
            }
            Some(Arc::new(kernels::Among { own, facts }))
        }
    };
    let operation = kernels::Contrast {
        width,
        scale: scale as f32,
        is_right_fixed: sides.is_second_fixed,
        among,
    };
    let [left, right] = sides.own;
    let inputs = [
        left.into_dispatch(),
        right.into_dispatch(),
        temperature.into_dispatch(),
    ];
    kernels::apply(operation, inputs, [1])
}

/// `NCE(S; τ)`: cross-entropy of every row and of every column of `S / τ` against its diagonal
/// entry, each averaged, **summed** over both directions. 0 for an empty matrix
/// (`specs/scl.md` section 2.1).
///
/// # Shapes
/// - similarity: `[n, n]`, positives on the diagonal
/// - temperature: `[1]`
/// - output: `[1]`
#[must_use]
pub fn nce(similarity: Tensor<2>, temperature: Tensor<1>) -> Tensor<1> {
    let device = similarity.device();
    let [n, _] = similarity.dims();
    if n == 0 {
        return Tensor::zeros([1], &device);
    }
    // Measured from the positive: its own entry is then exactly 0, where a softmax would subtract
    // two numbers near 1 and lose the gradient of the temperature in the difference.
    let positive = (similarity.clone() * Tensor::eye(n, &device)).sum_dim(1);
    let temperature = temperature.unsqueeze::<2>();
    let rows = (similarity.clone() - positive.clone()) / temperature.clone();
    let columns = (similarity.transpose() - positive) / temperature;
    (log_sum_exp(rows) + log_sum_exp(columns))
        .sum()
        .div_scalar(n as f64)
}

/// Logarithm of the sum of exponentials of every row, `[n, m]` to `[n, 1]`.
fn log_sum_exp(rows: Tensor<2>) -> Tensor<2> {
    let largest = rows.clone().max_dim(1).detach();
    (rows - largest.clone()).exp().sum_dim(1).log() + largest
}

/// A constant temperature as the tensor that [`contrast`] takes.
#[must_use]
pub fn constant_temperature(value: f64, device: &Device) -> Tensor<1> {
    Tensor::full([1], value, device)
}
