//! Matrix products of `f32` on the processor: `C = A B` and `C += A B`, row-major, any stride.
//!
//! The scheme is that of Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication"
//! (2008), with one simplification. `B` is packed into panels as wide as a register tile. The depth is
//! cut into blocks of [`DEPTH`], so that a panel of `B` stays close while the rows of a block of `A`
//! pass by from the second-level cache. The microkernel in [`kernel`] walks `A` by two strides, so that
//! `A` is never rearranged: it is read where it lies, or rows far apart are brought together.
//!
//! # Determinism
//! Every element of `C` is summed in one order: the products of a block of `DEPTH` from first to last,
//! then the sums of the blocks from first to last. It does not depend on the function called, on how
//! rows and columns are split into calls and tiles, nor on the number of threads: all give the same
//! bits. Processors with different instructions need not, because some round products and others do not.

use std::cell::RefCell;
use std::ops::Range;

use rayon::prelude::*;

mod bf16;
mod int8;
mod kernel;
mod narrow;
mod pack;
mod shelf;
#[cfg(test)]
mod tests;
mod view;

use kernel::Kernel;
use pack::{Buffer, Packed, gather, pack_panels};

pub(crate) use bf16::bf16_pays;
pub(crate) use int8::int8_pays;
pub(crate) use pack::Right;
pub(crate) use shelf::{put, take_off};
pub(crate) use view::{View, ViewMut};

/// Depth of a block: a panel of `B` of 32 columns takes 32 KiB. Measured on Zen 4, 256 to 512 are
/// within 3 % of each other.
const DEPTH: usize = 256;

/// Rows of `A` in a block, eight tiles of 14: 112 KiB of the second-level cache. 70 to 560 measure
/// within 3 % of each other.
const ROWS: usize = 112;

/// Columns of `B` packed at a time where it comes unpacked, 256 KiB.
const COLS: usize = 256;

/// Width of `C` from which on a block of `A` is gathered: a narrow one does not read it often enough to
/// pay for the copy.
const GATHER_FROM: usize = 128;

/// Tiles of `C` for each thread, more than one so that a thread that is held up can be helped.
const TILES_PER_THREAD: usize = 4;

/// Packed operands of the calls of one thread. Never borrowed across a call into rayon, which could
/// run another product on this thread meanwhile.
#[derive(Default)]
struct Scratch {
    rows: Buffer,
    panels: Buffer,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// `c = a * b`, or `c += a * b` to `accumulate`, for one of the blocks of rows that `b` was made for.
///
/// Meant to be called from many tasks at once, each with some rows of `c` and `a`, and all with the
/// same `b`. Where there is but one, it is done in parallel over columns.
///
/// # Shapes
/// - `c`: `[rows, n]`
/// - `a`: `[rows, k]`
/// - `b`: `[k, n]`
///
/// # Panics
/// If the shapes do not fit together.
pub(crate) fn multiply_right(c: ViewMut, a: View, b: &Right, accumulate: bool) {
    match b {
        Right::Packed(b) => multiply_packed(c, a, b, 0..b.cols(), accumulate),
        Right::Kept {
            packed,
            alone: false,
        } => multiply_packed(c, a, packed, 0..packed.cols(), accumulate),
        Right::Kept {
            packed,
            alone: true,
        } => {
            let panel = packed.kernel().cols();
            in_columns(c, packed.cols(), panel, |c, cols| {
                multiply_packed(c, a, packed, cols, accumulate);
            });
        }
        Right::Narrow {
            packed,
            alone: false,
        } => packed.multiply(c, a, 0..packed.cols(), accumulate),
        Right::Narrow {
            packed,
            alone: true,
        } => in_columns(c, packed.cols(), narrow::PANEL, |c, cols| {
            packed.multiply(c, a, cols, accumulate);
        }),
        Right::Lying(b) => multiply(c, a, *b, accumulate),
    }
}

/// `c` of the columns `cols` of a product; these begin and end with panels.
fn multiply_packed(mut c: ViewMut, a: View, b: &Packed, cols: Range<usize>, accumulate: bool) {
    check_shapes(&c, a, b.rows(), cols.len());
    if a.cols() == 0 && !accumulate {
        return c.fill_zero();
    }
    SCRATCH.with_borrow_mut(|scratch| {
        for depth in blocks(a.cols(), DEPTH) {
            let factors = Factors {
                alpha: 1.0,
                accumulate: accumulate || depth.start > 0,
            };
            let a = a.block(0..a.rows(), depth.clone());
            let panels = b.block(depth, cols.clone());
            multiply_block(b.kernel(), &mut c, a, panels, factors, &mut scratch.rows);
        }
    });
}

/// Multiplies all `cols` columns in parallel over groups of panels of so many columns.
fn in_columns(
    c: ViewMut,
    cols: usize,
    panel: usize,
    multiply: impl Fn(ViewMut, Range<usize>) + Sync,
) {
    let panels = cols.div_ceil(panel);
    let width = panels.div_ceil(wanted_tasks()).max(1) * panel;
    let mut parts = Vec::new();
    let mut right = c;
    for cols in blocks(cols, width) {
        let part;
        (part, right) = right.split_at_col(cols.len());
        parts.push((part, cols));
    }
    parts
        .into_par_iter()
        .with_max_len(1)
        .for_each(|(c, cols)| multiply(c, cols));
}

/// `c = a * b`, or `c += a * b` to `accumulate`, in parallel over tiles of `c`.
///
/// Meant for gradients of weights, `X^T dY`, where the depth is the long side. Each tile packs its
/// columns of `b` itself.
///
/// # Shapes
/// - `c`: `[m, n]`
/// - `a`: `[m, k]`
/// - `b`: `[k, n]`
///
/// # Panics
/// If the shapes do not fit together.
pub(crate) fn multiply(c: ViewMut, a: View, b: View, accumulate: bool) {
    multiply_with(&Kernel::best(), c, a, b, accumulate);
}

/// As [`multiply`], on this thread, with `alpha * a * b` for the product. Costs little beside the
/// product itself, for many small ones: the heads of attention.
///
/// # Shapes
/// - `c`: `[m, n]`
/// - `a`: `[m, k]`
/// - `b`: `[k, n]`
///
/// # Panics
/// If the shapes do not fit together.
pub(crate) fn multiply_serial(c: ViewMut, a: View, b: View, alpha: f32, accumulate: bool) {
    multiply_serial_with(&Kernel::best(), c, a, b, Factors { alpha, accumulate });
}

/// What becomes of a product: `c = alpha * product`, or `c += alpha * product` to `accumulate`.
#[derive(Clone, Copy)]
struct Factors {
    alpha: f32,
    accumulate: bool,
}

fn multiply_with(kernel: &Kernel, c: ViewMut, a: View, b: View, accumulate: bool) {
    check_shapes(&c, a, b.rows(), b.cols());
    let factors = Factors {
        alpha: 1.0,
        accumulate,
    };
    let (height, width) = tile_size(kernel, c.rows(), c.cols());
    let mut tiles = Vec::new();
    let mut below = c;
    for rows in blocks(a.rows(), height) {
        let mut right;
        (right, below) = below.split_at_row(rows.len());
        for cols in blocks(b.cols(), width) {
            let tile;
            (tile, right) = right.split_at_col(cols.len());
            tiles.push((
                tile,
                a.block(rows.clone(), 0..a.cols()),
                b.block(0..b.rows(), cols),
            ));
        }
    }
    tiles
        .into_par_iter()
        .with_max_len(1)
        .for_each(|(c, a, b)| multiply_serial_with(kernel, c, a, b, factors));
}

/// Tasks that keep every thread busy.
fn wanted_tasks() -> usize {
    match rayon::current_num_threads() {
        1 => 1,
        threads => threads * TILES_PER_THREAD,
    }
}

/// Rows and columns of the tiles into which `C` is cut: as few as keep every thread busy, because each
/// packs for itself, and near to square, because then they share the least.
fn tile_size(kernel: &Kernel, rows: usize, cols: usize) -> (usize, usize) {
    let wanted = wanted_tasks();
    let (mut height, mut width) = (rows.max(1), cols.max(1));
    while rows.div_ceil(height) * cols.div_ceil(width) < wanted {
        let (side, unit) = if height > width {
            (&mut height, kernel.rows())
        } else {
            (&mut width, kernel.cols())
        };
        let half = side.div_ceil(2).next_multiple_of(unit);
        if half >= *side {
            break;
        }
        *side = half;
    }
    (height, width)
}

fn multiply_serial_with(kernel: &Kernel, mut c: ViewMut, a: View, b: View, factors: Factors) {
    check_shapes(&c, a, b.rows(), b.cols());
    if a.cols() == 0 && !factors.accumulate {
        return c.fill_zero();
    }
    let rows = 0..a.rows();
    SCRATCH.with_borrow_mut(|scratch| {
        for cols in blocks(b.cols(), COLS) {
            let mut c = c.block(rows.clone(), cols.clone());
            for depth in blocks(a.cols(), DEPTH) {
                let accumulate = factors.accumulate || depth.start > 0;
                let factors = Factors {
                    accumulate,
                    ..factors
                };
                let a = a.block(rows.clone(), depth.clone());
                let panels = pack_panels(kernel, b.block(depth, cols.clone()), &mut scratch.panels);
                multiply_block(kernel, &mut c, a, panels, factors, &mut scratch.rows);
            }
        }
    });
}

/// Multiplies one block of the depth, `a` `[rows, depth]` with packed panels of `B` `[depth, cols]`.
fn multiply_block(
    kernel: &Kernel,
    c: &mut ViewMut,
    a: View,
    panels: &[f32],
    factors: Factors,
    scratch: &mut Buffer,
) {
    let (cols, depth) = (c.cols(), a.cols());
    for rows in blocks(a.rows(), ROWS) {
        let mut c = c.block(rows.clone(), 0..cols);
        let mut a = a.block(rows, 0..depth);
        if cols >= GATHER_FROM {
            a = gather(kernel, a, scratch);
        }
        let panels = panels.chunks_exact(depth * kernel.cols());
        for (cols, panel) in blocks(cols, kernel.cols()).zip(panels) {
            for rows in blocks(a.rows(), kernel.rows()) {
                let tile = c.block(rows.clone(), cols.clone());
                kernel.multiply_tile(tile, a.block(rows, 0..depth), panel, factors);
            }
        }
    }
}

/// # Panics
/// Unless `c` is `[m, n]`, `a` `[m, k]`, and `B` of this size `[k, n]`.
fn check_shapes(c: &ViewMut, a: View, b_rows: usize, b_cols: usize) {
    assert!(
        a.rows() == c.rows() && a.cols() == b_rows && b_cols == c.cols(),
        "a [{}, {}] times b [{b_rows}, {b_cols}] does not give c [{}, {}]",
        a.rows(),
        a.cols(),
        c.rows(),
        c.cols()
    );
}

/// `0..len` in ranges of `size`, the last one shorter.
fn blocks(len: usize, size: usize) -> impl Iterator<Item = Range<usize>> {
    (0..len)
        .step_by(size)
        .map(move |start| start..len.min(start + size))
}
