//! Strided matrices: what is read and what is written, with bounds settled once, at construction.

#![allow(
    unsafe_code,
    reason = "tiles of one matrix that share rows are written by several threads"
)]

use std::marker::PhantomData;
use std::ops::Range;

/// A matrix `[rows, cols]` to read: element `(i, j)` is `data[i * row_stride + j * col_stride]`.
/// One of the two strides is 1, so that either rows or columns lie in one piece.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> View<'a> {
    /// A dense row-major matrix.
    ///
    /// # Panics
    /// If `data` has fewer than `rows * cols` elements.
    pub(crate) fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    /// Rows of `cols` elements that start `row_stride` elements apart.
    ///
    /// # Panics
    /// If the last row ends beyond `data`.
    pub(crate) fn strided(data: &'a [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        assert!(
            span(rows, cols, row_stride) <= data.len(),
            "a view of {rows} x {cols} with row stride {row_stride} needs more than {} elements",
            data.len()
        );
        Self {
            data,
            rows,
            cols,
            row_stride,
            col_stride: 1,
        }
    }

    /// The transpose, of the same elements.
    pub(crate) fn t(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    pub(super) fn cols(&self) -> usize {
        self.cols
    }

    pub(super) fn row_stride(&self) -> usize {
        self.row_stride
    }

    pub(super) fn col_stride(&self) -> usize {
        self.col_stride
    }

    pub(super) fn as_ptr(&self) -> *const f32 {
        self.data.as_ptr()
    }

    /// Whether the elements of a row are neighbours in memory.
    pub(super) fn is_row_major(&self) -> bool {
        self.col_stride == 1
    }

    /// Row `i` of a row-major view.
    pub(super) fn row(&self, i: usize) -> &'a [f32] {
        debug_assert!(self.is_row_major());
        &self.data[i * self.row_stride..][..self.cols]
    }

    /// The part with these rows and columns.
    pub(super) fn block(self, rows: Range<usize>, cols: Range<usize>) -> Self {
        assert!(rows.start <= rows.end && rows.end <= self.rows);
        assert!(cols.start <= cols.end && cols.end <= self.cols);
        // An empty part may start where no element is.
        let start =
            (rows.start * self.row_stride + cols.start * self.col_stride).min(self.data.len());
        Self {
            data: &self.data[start..],
            rows: rows.len(),
            cols: cols.len(),
            ..self
        }
    }
}

/// A matrix `[rows, cols]` to write, its rows in one piece each and `row_stride` elements apart.
///
/// A pointer and not a slice, because tiles that lie side by side interleave in memory: each owns its
/// elements alone, but none owns the range from its first to its last.
pub(crate) struct ViewMut<'a> {
    data: *mut f32,
    rows: usize,
    cols: usize,
    row_stride: usize,
    elements: PhantomData<&'a mut [f32]>,
}

// SAFETY: a view has exclusive access to its elements, as `&mut [f32]` has, which is `Send`.
unsafe impl Send for ViewMut<'_> {}

impl<'a> ViewMut<'a> {
    /// A dense row-major matrix.
    ///
    /// # Panics
    /// If `data` has fewer than `rows * cols` elements.
    pub(crate) fn new(data: &'a mut [f32], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    /// Rows of `cols` elements that start `row_stride` elements apart; what lies between them is
    /// neither read nor written.
    ///
    /// # Panics
    /// If rows overlap, or the last one ends beyond `data`.
    pub(crate) fn strided(
        data: &'a mut [f32],
        rows: usize,
        cols: usize,
        row_stride: usize,
    ) -> Self {
        assert!(
            cols <= row_stride,
            "rows of {cols} elements overlap at row stride {row_stride}"
        );
        assert!(
            span(rows, cols, row_stride) <= data.len(),
            "a view of {rows} x {cols} with row stride {row_stride} needs more than {} elements",
            data.len()
        );
        Self {
            data: data.as_mut_ptr(),
            rows,
            cols,
            row_stride,
            elements: PhantomData,
        }
    }

    /// The rows before `row`, and the others.
    ///
    /// # Panics
    /// If there are fewer than `row` rows.
    pub(crate) fn split_at_row(self, row: usize) -> (Self, Self) {
        assert!(row <= self.rows);
        let rest = Self {
            // Wrapping, because there may be no element where an empty rest starts.
            data: self.data.wrapping_add(row * self.row_stride),
            rows: self.rows - row,
            ..self
        };
        (Self { rows: row, ..self }, rest)
    }

    /// The columns before `col`, and the others.
    ///
    /// # Panics
    /// If there are fewer than `col` columns.
    pub(crate) fn split_at_col(self, col: usize) -> (Self, Self) {
        assert!(col <= self.cols);
        let rest = Self {
            data: self.data.wrapping_add(col),
            cols: self.cols - col,
            ..self
        };
        (Self { cols: col, ..self }, rest)
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    pub(super) fn cols(&self) -> usize {
        self.cols
    }

    pub(super) fn row_stride(&self) -> usize {
        self.row_stride
    }

    pub(super) fn as_mut_ptr(&mut self) -> *mut f32 {
        self.data
    }

    /// The part with these rows and columns, borrowed.
    pub(super) fn block(&mut self, rows: Range<usize>, cols: Range<usize>) -> ViewMut<'_> {
        let whole = ViewMut { ..*self };
        let (_, below) = whole.split_at_row(rows.start);
        let (band, _) = below.split_at_row(rows.len());
        let (_, right) = band.split_at_col(cols.start);
        right.split_at_col(cols.len()).0
    }

    /// Row `i`.
    ///
    /// # Panics
    /// If there is no such row.
    pub(super) fn row_mut(&mut self, i: usize) -> &mut [f32] {
        assert!(i < self.rows);
        // SAFETY: row `i` is `cols` elements of this view, which is borrowed for as long.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(i * self.row_stride), self.cols) }
    }

    /// Sets every element to zero.
    pub(super) fn fill_zero(&mut self) {
        for i in 0..self.rows {
            // SAFETY: row `i` is `cols` elements of this view.
            unsafe { self.data.add(i * self.row_stride).write_bytes(0, self.cols) };
        }
    }
}

/// Elements from the first of a matrix to its last; saturates instead of overflowing.
fn span(rows: usize, cols: usize, row_stride: usize) -> usize {
    match (rows, cols) {
        (0, _) | (_, 0) => 0,
        _ => (rows - 1).saturating_mul(row_stride).saturating_add(cols),
    }
}
