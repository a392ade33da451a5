//! The linear maps around attention, a block of rows at a time.

use super::super::gemm::{Right, View, ViewMut, multiply_right};
use super::super::linear::product_of_columns;
use super::super::rows;

/// A linear map of rows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Map<'a> {
    /// `[input, output]`
    pub(super) weight: &'a [f32],
    /// `[output]`
    pub(super) bias: &'a [f32],
}

impl<'a> Map<'a> {
    /// Length of an input row.
    fn input(&self) -> usize {
        self.weight.len() / self.output()
    }

    /// Length of an output row.
    pub(super) fn output(&self) -> usize {
        self.bias.len()
    }

    fn weights(&self) -> View<'a> {
        View::new(self.weight, self.input(), self.output())
    }

    /// The weights as [`Self::forward`] needs them, for so many rows in all.
    pub(super) fn right(&self, rows: usize) -> Right<'a> {
        Right::new(self.weights(), rows::blocks(rows))
    }

    /// The weights as [`Self::backward`] needs them, for so many rows in all.
    pub(super) fn right_back(&self, rows: usize) -> Right<'a> {
        Right::new(self.weights().t(), rows::blocks(rows))
    }

    /// Maps a block of rows, `[rows, input]` to `[rows, output]`.
    pub(super) fn forward(&self, weights: &Right, input: &[f32], output: &mut [f32]) {
        rows::fill(output, self.bias);
        let rows = input.len() / self.input();
        let input = View::new(input, rows, self.input());
        multiply_right(
            ViewMut::new(output, rows, self.output()),
            input,
            weights,
            true,
        );
    }

    /// The gradient of a block of input rows, or that added to what is in `input` to `accumulate`.
    pub(super) fn backward(
        &self,
        weights: &Right,
        gradient: &[f32],
        input: &mut [f32],
        accumulate: bool,
    ) {
        let rows = gradient.len() / self.output();
        let gradient = View::new(gradient, rows, self.output());
        multiply_right(
            ViewMut::new(input, rows, self.input()),
            gradient,
            weights,
            accumulate,
        );
    }

    /// The gradient of the weights, given all rows of the input and the gradient of the output.
    pub(super) fn weight_gradient(&self, input: &[f32], gradient: &[f32]) -> Vec<f32> {
        product_of_columns(input, self.input(), gradient, self.output())
    }
}
