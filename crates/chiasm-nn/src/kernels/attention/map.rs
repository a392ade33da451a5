//! The linear maps around attention, a block of rows at a time.

use super::super::gemm::{Packed, View, ViewMut, multiply_packed};
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

    /// The weights as [`Self::forward`] needs them.
    pub(super) fn packed(&self) -> Packed {
        Packed::new(self.weights())
    }

    /// The weights as [`Self::backward`] needs them.
    pub(super) fn packed_back(&self) -> Packed {
        Packed::new(self.weights().t())
    }

    /// Maps a block of rows, `[rows, input]` to `[rows, output]`.
    pub(super) fn forward(&self, packed: &Packed, input: &[f32], output: &mut [f32]) {
        rows::fill(output, self.bias);
        let rows = input.len() / self.input();
        let input = View::new(input, rows, self.input());
        multiply_packed(
            ViewMut::new(output, rows, self.output()),
            input,
            packed,
            true,
        );
    }

    /// The gradient of a block of input rows, or that added to what is in `input` to `accumulate`.
    pub(super) fn backward(
        &self,
        packed: &Packed,
        gradient: &[f32],
        input: &mut [f32],
        accumulate: bool,
    ) {
        let rows = gradient.len() / self.output();
        let gradient = View::new(gradient, rows, self.output());
        multiply_packed(
            ViewMut::new(input, rows, self.input()),
            gradient,
            packed,
            accumulate,
        );
    }

    /// The gradient of the weights, given all rows of the input and the gradient of the output.
    pub(super) fn weight_gradient(&self, input: &[f32], gradient: &[f32]) -> Vec<f32> {
        product_of_columns(input, self.input(), gradient, self.output())
    }
}
