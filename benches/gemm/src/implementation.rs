//! Everything that is compared, behind one trait.

#![allow(unsafe_code, reason = "the other crates take pointers and strides")]

use std::error::Error;

use rayon::prelude::*;

use crate::chiasm::{self, Packed, View, ViewMut};
use crate::library::{Blas, OneDnn};
use crate::product::{Kind, Matrix, Output, Product};

/// Rows of a task with packed weights, as in `kernels/rows.rs`.
const BLOCK: usize = 32;

/// A call of a product that [`Implementation::prepare`] got ready.
pub(crate) type Multiply<'a> = Box<dyn FnMut(&mut Output) + 'a>;

/// A way to compute products.
pub(crate) trait Implementation {
    /// Version in words, on one line.
    fn version(&self) -> String;

    /// Does what is not timed. `None` if this product is left out.
    fn prepare<'a>(&'a self, product: &'a Product) -> Option<Multiply<'a>>;
}

/// The implementation called `name`, loaded from `file` if it is a library.
pub(crate) fn find(
    name: &str,
    threads: usize,
    file: Option<&str>,
) -> Result<Box<dyn Implementation>, Box<dyn Error>> {
    let file = file.ok_or_else(|| format!("`{name}` needs the file of a library"));
    Ok(match name {
        "chiasm" => Box::new(Chiasm::Whole),
        "chiasm-packing" => Box::new(Chiasm::Packing),
        "chiasm-prepacked" => Box::new(Chiasm::Prepacked),
        "gemm" => Box::new(Gemm { threads }),
        "matrixmultiply" => Box::new(MatrixMultiply),
        "openblas" => Box::new(Blas::openblas(file?, threads)?),
        "mkl" => Box::new(Blas::mkl(file?, threads)?),
        "onednn" => Box::new(OneDnn::load(file?)?),
        _ => return Err(format!("no implementation is called `{name}`").into()),
    })
}

/// Our kernel, in the ways in which layers call it.
enum Chiasm {
    /// `multiply`, or for a head `multiply_serial`: nothing is prepared.
    Whole,
    /// `multiply_packed`, with weights packed in every call.
    Packing,
    /// `multiply_packed`, with weights packed before the clock starts.
    Prepacked,
}

impl Implementation for Chiasm {
    fn version(&self) -> String {
        "this revision".to_owned()
    }

    fn prepare<'a>(&'a self, product: &'a Product) -> Option<Multiply<'a>> {
        let (a, b) = (view(&product.a), view(&product.b));
        let (m, _, n) = product.sizes();
        match (self, product.kind) {
            (Self::Whole, Kind::Head) => Some(Box::new(move |output| {
                chiasm::multiply_serial(view_mut(output, m, n), a, b, 1.0, false);
            })),
            (Self::Whole, _) => Some(Box::new(move |output| {
                chiasm::multiply(view_mut(output, m, n), a, b, false);
            })),
            (Self::Packing, Kind::Weights) => Some(Box::new(move |output| {
                multiply_blocks(output, &product.a, &Packed::new(b), n);
            })),
            (Self::Prepacked, Kind::Weights) => {
                let packed = Packed::new(b);
                Some(Box::new(move |output| {
                    multiply_blocks(output, &product.a, &packed, n);
                }))
            }
            (Self::Packing | Self::Prepacked, Kind::Gradient | Kind::Head) => None,
        }
    }
}

/// Multiplies blocks of rows in parallel, each with all of the weights.
fn multiply_blocks(output: &mut Output, a: &Matrix, packed: &Packed, n: usize) {
    let (_, depth) = a.size();
    let blocks = output.data.par_chunks_mut(BLOCK * n);
    blocks
        .zip(a.data.par_chunks(BLOCK * depth))
        .for_each(|(c, a)| {
            let rows = c.len() / n;
            let c = ViewMut::new(c, rows, n);
            chiasm::multiply_packed(c, View::new(a, rows, depth), packed, false);
        });
}

fn view(matrix: &Matrix) -> View<'_> {
    let (rows, cols) = matrix.stored();
    let view = View::strided(&matrix.data, rows, cols, matrix.row_stride);
    if matrix.transposed { view.t() } else { view }
}

fn view_mut(output: &mut Output, rows: usize, cols: usize) -> ViewMut<'_> {
    ViewMut::strided(&mut output.data, rows, cols, output.row_stride)
}

/// The crate `gemm`, which computes for faer and for candle.
struct Gemm {
    threads: usize,
}

impl Implementation for Gemm {
    fn version(&self) -> String {
        "gemm".to_owned()
    }

    fn prepare<'a>(&'a self, product: &'a Product) -> Option<Multiply<'a>> {
        let (m, k, n) = product.sizes();
        let (a, b) = (&product.a, &product.b);
        let ((a_rows, a_cols), (b_rows, b_cols)) = (a.strides(), b.strides());
        let parallelism = match self.threads {
            1 => gemm::Parallelism::None,
            threads => gemm::Parallelism::Rayon(threads),
        };
        Some(Box::new(move |output| {
            // SAFETY: the strides and sizes are those of the three matrices, which hold as many
            // elements, and `output` is borrowed mutably.
            unsafe {
                gemm::gemm(
                    m,
                    n,
                    k,
                    output.data.as_mut_ptr(),
                    1,
                    output.row_stride as isize,
                    false,
                    a.data.as_ptr(),
                    a_cols,
                    a_rows,
                    b.data.as_ptr(),
                    b_cols,
                    b_rows,
                    0.0,
                    1.0,
                    false,
                    false,
                    false,
                    parallelism,
                );
            }
        }))
    }
}

/// The crate `matrixmultiply`, which computes for ndarray. `MATMUL_NUM_THREADS` sets its threads.
struct MatrixMultiply;

impl Implementation for MatrixMultiply {
    fn version(&self) -> String {
        "matrixmultiply".to_owned()
    }

    fn prepare<'a>(&'a self, product: &'a Product) -> Option<Multiply<'a>> {
        let (m, k, n) = product.sizes();
        let (a, b) = (&product.a, &product.b);
        let ((a_rows, a_cols), (b_rows, b_cols)) = (a.strides(), b.strides());
        Some(Box::new(move |output| {
            // SAFETY: as for `gemm`.
            unsafe {
                matrixmultiply::sgemm(
                    m,
                    k,
                    n,
                    1.0,
                    a.data.as_ptr(),
                    a_rows,
                    a_cols,
                    b.data.as_ptr(),
                    b_rows,
                    b_cols,
                    0.0,
                    output.data.as_mut_ptr(),
                    output.row_stride as isize,
                    1,
                );
            }
        }))
    }
}
