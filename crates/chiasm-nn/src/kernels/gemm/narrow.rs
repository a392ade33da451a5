//! Weights in fewer bits than `f32`, for models that are only read.

use std::ops::Range;

use super::blocks;
use super::view::{View, ViewMut};

/// Columns of a panel, with which tasks begin and end: two vectors of 16.
pub(super) const PANEL: usize = 32;
/// Rows of the largest tile: 28 registers hold it, 3 its operands.
pub(super) const ROWS: usize = 14;

/// A right-hand side `[k, n]` in fewer bits, rounded once to be multiplied often.
pub(crate) trait Narrow: Send + Sync {
    fn rows(&self) -> usize;

    fn cols(&self) -> usize;

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

/// A cache line of weights, so that panels begin with one: the numbers of 16 columns.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(super) struct Line<T, const N: usize>(pub(super) [T; N]);

/// Weights `[k, n]` in panels of [`PANEL`] columns, each dense: for every group of rows, as many as one instruction
/// adds up, the numbers of each column side by side. What fills up the last group and panel is 0.
pub(super) struct Panels<T, const N: usize> {
    lines: Vec<Line<T, N>>,
    rows: usize,
    cols: usize,
}

impl<T: Copy + Default, const N: usize> Panels<T, N> {
    /// Rows of a group.
    pub(super) const GROUP: usize = N / 16;

    pub(super) fn zeros(rows: usize, cols: usize) -> Self {
        let lines = rows.div_ceil(Self::GROUP) * cols.div_ceil(PANEL) * 2;
        Self {
            lines: vec![Line([T::default(); N]); lines],
            rows,
            cols,
        }
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    pub(super) fn cols(&self) -> usize {
        self.cols
    }

    pub(super) fn set(&mut self, row: usize, col: usize, value: T) {
        let groups = self.rows.div_ceil(Self::GROUP);
        let group = col / PANEL * groups + row / Self::GROUP;
        let line = 2 * group + col % PANEL / 16;
        self.lines[line].0[col % 16 * Self::GROUP + row % Self::GROUP] = value;
    }

    /// Walks a product `c` of the columns `cols` tile by tile, with rows of `A` that lie in `a` one after another,
    /// filled up to whole groups. `sum` adds up a tile, with as many rows of sums as of `a`; `finish` takes it,
    /// its place in `c`, and the numbers of its first row and column.
    pub(super) fn multiply<A, S: Copy + Default>(
        &self,
        mut c: ViewMut,
        a: &[A],
        cols: Range<usize>,
        sum: impl Fn(&mut [[S; PANEL]], &[A], &[Line<T, N>]),
        mut finish: impl FnMut(&[[S; PANEL]], ViewMut, [usize; 2]),
    ) {
        debug_assert!(cols.start.is_multiple_of(PANEL));
        let groups = self.rows.div_ceil(Self::GROUP);
        let stride = groups * Self::GROUP;
        for panel in blocks(cols.len(), PANEL) {
            let first = cols.start + panel.start;
            let weights = &self.lines[first / PANEL * 2 * groups..][..2 * groups];
            for block in blocks(c.rows(), ROWS) {
                let mut sums = [[S::default(); PANEL]; ROWS];
                let sums = &mut sums[..block.len()];
                sum(sums, &a[block.start * stride..block.end * stride], weights);
                let place = [block.start, first];
                finish(sums, c.block(block, panel.clone()), place);
            }
        }
    }
}

/// Functions that add up a tile in registers, one for every number of rows from 1 to [`ROWS`]: `tile::<1>` and so on.
macro_rules! tiles {
    ($tile:ident) => {
        tiles!($tile: 1 2 3 4 5 6 7 8 9 10 11 12 13 14)
    };
    ($tile:ident: $($rows:literal)*) => {
        [$($tile::<$rows>),*]
    };
}

pub(super) use tiles;
