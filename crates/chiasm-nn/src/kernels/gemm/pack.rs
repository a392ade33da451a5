//! Copies of the operands in an order that suits the caches.

use std::ops::Range;
use std::sync::Arc;

use super::kernel::{Kernel, SQUARE, transpose_square};
use super::narrow::Narrow;
use super::shelf::{self, Kept};
use super::view::View;
use super::{DEPTH, blocks};

/// Elements of a cache line.
const LINE: usize = 16;

/// Memory that starts at a cache line, so that the loads of packed panels never straddle two.
#[derive(Default)]
pub(super) struct Buffer {
    elements: Vec<f32>,
}

impl Buffer {
    /// The first `len` elements, of any value. Grows to have them, and never shrinks.
    fn take(&mut self, len: usize) -> &mut [f32] {
        if self.elements.len() < len + LINE {
            self.elements = vec![0.0; len + LINE];
        }
        let start = self.start();
        &mut self.elements[start..][..len]
    }

    fn start(&self) -> usize {
        // At most a line: an offset may be unknown, as it is when constants are evaluated.
        self.elements
            .as_ptr()
            .align_offset(LINE * size_of::<f32>())
            .min(LINE)
    }
}

/// A right-hand side `B [k, n]`, packed once to be multiplied often.
///
/// Blocks of [`DEPTH`] rows follow each other. Each holds panels of as many columns as a tile of the
/// kernel has, dense and row-major, the last filled up with zeros.
pub(crate) struct Packed {
    kernel: Kernel,
    blocks: Buffer,
    rows: usize,
    cols: usize,
}

impl Packed {
    /// Packs `b`, on this thread.
    pub(super) fn new(b: View) -> Self {
        Self::with_kernel(Kernel::best(), b)
    }

    pub(super) fn with_kernel(kernel: Kernel, b: View) -> Self {
        let width = b.cols().next_multiple_of(kernel.cols());
        let mut packed = Self {
            kernel,
            blocks: Buffer::default(),
            rows: b.rows(),
            cols: b.cols(),
        };
        let elements = packed.blocks.take(b.rows() * width);
        for depth in blocks(b.rows(), DEPTH) {
            let block = &mut elements[depth.start * width..depth.end * width];
            fill_panels(&kernel, b.block(depth, 0..b.cols()), block);
        }
        packed
    }

    pub(super) fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    pub(super) fn cols(&self) -> usize {
        self.cols
    }

    /// The panels of the rows `depth`, which are one of the blocks, and of the columns `cols`, which begin with a panel
    /// and end with one.
    pub(super) fn block(&self, depth: Range<usize>, cols: Range<usize>) -> &[f32] {
        let panel = self.kernel.cols();
        debug_assert!(cols.start.is_multiple_of(panel));
        let width = self.cols.next_multiple_of(panel);
        let block =
            &self.blocks.elements[self.blocks.start()..][depth.start * width..depth.end * width];
        &block[depth.len() * cols.start..depth.len() * cols.end.next_multiple_of(panel)]
    }
}

/// A right-hand side `B [k, n]` that every block of the rows of `A` is multiplied with.
pub(crate) enum Right<'a> {
    /// Packed once for all blocks.
    Packed(Packed),
    /// Packed before, and kept for all calls.
    Kept {
        /// Its panels.
        packed: Arc<Packed>,
        /// Whether there is but one block of rows.
        alone: bool,
    },
    /// In fewer bits, rounded before and kept for all calls.
    Narrow {
        /// Its panels.
        packed: Arc<dyn Narrow>,
        /// Whether there is but one block of rows.
        alone: bool,
    },
    /// As it lies, for one block: a whole packed copy would be written only to be read once.
    Lying(View<'a>),
}

impl<'a> Right<'a> {
    /// `b`, for products with so many blocks of rows.
    pub(crate) fn new(b: View<'a>, blocks: usize) -> Self {
        let alone = blocks <= 1;
        match shelf::find(b) {
            Some(Kept::Whole(packed)) => return Self::Kept { packed, alone },
            Some(Kept::Narrow(packed)) => return Self::Narrow { packed, alone },
            None => {}
        }
        match blocks {
            0 | 1 => Self::Lying(b),
            _ => Self::Packed(Packed::new(b)),
        }
    }
}

/// Packs one block `b` `[depth, cols]` into panels, in `buffer`.
pub(super) fn pack_panels<'a>(kernel: &Kernel, b: View, buffer: &'a mut Buffer) -> &'a [f32] {
    let panels = buffer.take(b.rows() * b.cols().next_multiple_of(kernel.cols()));
    fill_panels(kernel, b, panels);
    panels
}

fn fill_panels(kernel: &Kernel, b: View, panels: &mut [f32]) {
    let width = kernel.cols();
    let panels = panels.chunks_exact_mut(b.rows() * width);
    for (cols, panel) in blocks(b.cols(), width).zip(panels) {
        let b = b.block(0..b.rows(), cols);
        if b.cols() < width {
            panel.fill(0.0);
        }
        if b.is_row_major() {
            for (i, row) in panel.chunks_exact_mut(width).enumerate() {
                row[..b.cols()].copy_from_slice(b.row(i));
            }
        } else {
            fill_transposed(b.t(), panel, width);
        }
    }
}

/// Writes the rows of `columns` as columns of `panel`, whose rows are `width` long.
fn fill_transposed(columns: View, panel: &mut [f32], width: usize) {
    let (count, depth) = (columns.rows(), columns.cols());
    let squares = count - count % SQUARE;
    for j in (0..squares).step_by(SQUARE) {
        let [a, b, c, d] = [j, j + 1, j + 2, j + 3].map(|j| columns.row(j).as_chunks().0);
        let squares = a.iter().zip(b).zip(c.iter().zip(d));
        for (((&a, &b), (&c, &d)), rows) in squares.zip(panel.chunks_mut(SQUARE * width)) {
            for (i, part) in transpose_square([a, b, c, d]).iter().enumerate() {
                rows[i * width + j..][..SQUARE].copy_from_slice(part);
            }
        }
    }
    // What no square covers: the end of every column, and the last columns whole.
    for j in 0..count {
        let done = if j < squares {
            depth - depth % SQUARE
        } else {
            0
        };
        for (i, &element) in columns.row(j).iter().enumerate().skip(done) {
            panel[i * width + j] = element;
        }
    }
}

/// Brings a block of `A` together in `buffer`, in its own order, or returns it as it lies.
pub(super) fn gather<'a>(kernel: &Kernel, a: View<'a>, buffer: &'a mut Buffer) -> View<'a> {
    if a.is_row_major() {
        gather_rows(a, buffer)
    } else if kernel.rows() < LINE / 2 {
        // A low tile takes a small part of every line it touches. Left pages apart, the lines are lost
        // before the next tile takes its part: half the speed of AVX2 at a row of 4 KiB.
        gather_rows(a.t(), buffer).t()
    } else {
        a
    }
}

fn gather_rows<'a>(a: View, buffer: &'a mut Buffer) -> View<'a> {
    // An odd number of lines, because rows a power of two apart would share one set of the cache.
    let stride = (a.cols().div_ceil(LINE) | 1) * LINE;
    let elements = buffer.take(a.rows() * stride);
    for (i, row) in elements.chunks_exact_mut(stride).enumerate() {
        row[..a.cols()].copy_from_slice(a.row(i));
    }
    View::strided(elements, a.rows(), a.cols(), stride)
}
