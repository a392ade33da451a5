//! Weights in fewer bits than `f32`, for models that are only read.

use std::ops::Range;

use super::view::{View, ViewMut};

/// A right-hand side `[k, n]` in fewer bits, rounded once to be multiplied often.
pub(crate) trait Narrow: Send + Sync {
    fn rows(&self) -> usize;

    fn cols(&self) -> usize;

    /// Columns of a panel, with which tasks begin and end.
    fn panel(&self) -> usize;

    /// `c = a * self`, or `c += a * self` to `accumulate`, of the columns `cols`; these begin and end with panels.
    ///
    /// # Shapes
    /// - `c`: `[rows, cols]`
    /// - `a`: `[rows, k]`
    ///
    /// # Panics
    /// If the shapes do not fit together.
    fn multiply(&self, c: ViewMut, a: View, cols: Range<usize>, accumulate: bool);
}

/// A row of a view, brought together in `apart` where its numbers lie apart.
pub(super) fn row<'a>(view: View<'a>, i: usize, apart: &'a mut Vec<f32>) -> &'a [f32] {
    if view.is_row_major() {
        return view.row(i);
    }
    let columns = view.t();
    apart.clear();
    apart.extend((0..view.cols()).map(|j| columns.row(j)[i]));
    apart
}
