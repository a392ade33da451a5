//! The linear map of rows, `y = x W + b`.

use rayon::prelude::*;

use super::gemm::{View, ViewMut, multiply};
use super::operation::Operation;
use super::rows::{self, BLOCK, zeros};

/// Input `[rows, input]`, weights `[input, output]` and, as an operation of three, bias `[output]`;
/// result `[rows, output]`.
#[derive(Clone, Debug)]
pub(crate) struct Linear {
    /// Length of a row of the input.
    pub(crate) input: usize,
    /// Length of a row of the result.
    pub(crate) output: usize,
}

impl Linear {
    /// The gradients of input and weights that are wanted.
    fn backward_map(
        &self,
        [x, w]: [&[f32]; 2],
        gradient: &[f32],
        wanted: [bool; 2],
    ) -> [Option<Vec<f32>>; 2] {
        let (input, output) = (self.input, self.output);
        let rows = x.len() / input;
        let d_x = wanted[0].then(|| {
            let mut d_x = zeros(x.len());
            multiply(
                ViewMut::new(&mut d_x, rows, input),
                View::new(gradient, rows, output),
                View::new(w, input, output).t(),
                false,
            );
            d_x
        });
        let d_w = wanted[1].then(|| product_of_columns(x, input, gradient, output));
        [d_x, d_w]
    }

    /// The gradient of the bias, `[output]`: every block of rows summed, then the blocks.
    fn backward_bias(&self, gradient: &[f32]) -> Vec<f32> {
        let rows = gradient.len() / self.output;
        let mut partials = vec![0.0; rows::blocks(rows) * self.output];
        partials
            .par_chunks_mut(self.output)
            .zip(gradient.par_chunks(BLOCK * self.output))
            .for_each(|(total, block)| rows::add_rows(total, block));
        let [d_bias] = rows::add_up(&partials, [self.output]);
        d_bias
    }
}

/// Inner products of the columns of two matrices of as many rows, `[rows, width_a]` and
/// `[rows, width_b]`, as `[width_a, width_b]`: the gradient of weights from input and gradient.
pub(crate) fn product_of_columns(a: &[f32], width_a: usize, b: &[f32], width_b: usize) -> Vec<f32> {
    let rows = a.len() / width_a;
    let mut product = zeros(width_a * width_b);
    multiply(
        ViewMut::new(&mut product, width_a, width_b),
        View::new(a, rows, width_a).t(),
        View::new(b, rows, width_b),
        false,
    );
    product
}

impl Operation<2> for Linear {
    type Kept = ();

    fn forward(&self, [x, w]: [&[f32]; 2], keep: bool) -> (Vec<f32>, Option<()>) {
        let (input, output) = (self.input, self.output);
        let rows = x.len() / input;
        let mut y = zeros(rows * output);
        multiply(
            ViewMut::new(&mut y, rows, output),
            View::new(x, rows, input),
            View::new(w, input, output),
            false,
        );
        (y, keep.then_some(()))
    }

    fn backward(
        &self,
        inputs: [&[f32]; 2],
        (): (),
        gradient: &[f32],
        wanted: [bool; 2],
    ) -> [Option<Vec<f32>>; 2] {
        self.backward_map(inputs, gradient, wanted)
    }
}

impl Operation<3> for Linear {
    type Kept = ();

    fn forward(&self, [x, w, bias]: [&[f32]; 3], keep: bool) -> (Vec<f32>, Option<()>) {
        let (input, output) = (self.input, self.output);
        let rows = x.len() / input;
        let mut y = zeros(rows * output);
        y.par_chunks_mut(BLOCK * output)
            .for_each(|block| rows::fill(block, bias));
        multiply(
            ViewMut::new(&mut y, rows, output),
            View::new(x, rows, input),
            View::new(w, input, output),
            true,
        );
        (y, keep.then_some(()))
    }

    fn backward(
        &self,
        [x, w, _]: [&[f32]; 3],
        (): (),
        gradient: &[f32],
        wanted: [bool; 3],
    ) -> [Option<Vec<f32>>; 3] {
        let [d_x, d_w] = self.backward_map([x, w], gradient, [wanted[0], wanted[1]]);
        let d_bias = wanted[2].then(|| self.backward_bias(gradient));
        [d_x, d_w, d_bias]
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{check, plain, values};
    use super::*;

    #[test]
    fn equals_the_plain_form() {
        for (rows, input, output) in [(0, 3, 2), (1, 1, 1), (5, 7, 3), (70, 9, 17)] {
            let map = Linear { input, output };
            let x = values(1, rows * input);
            let w = values(2, input * output);
            let bias = values(3, output);
            check::<2, _>(&map, &[x.clone(), w.clone()], 1e-5, |[x, w]| {
                plain::linear(x, w, &vec![0.0; output])
            });
            check::<3, _>(&map, &[x, w, bias], 1e-5, |[x, w, bias]| {
                plain::linear(x, w, bias)
            });
        }
    }
}
