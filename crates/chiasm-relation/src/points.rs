//! Rows as loops see them: centred, padded, with their squares.

use rayon::prelude::*;

use crate::prepare::{means, moments};
use crate::products::{BLOCK, padded, products, squared_distance};
use crate::{RelationError, Rows};

/// Rows less their mean, which spares distances a cancellation, as scikit-learn does.
pub(crate) struct Points {
    /// `[rows, stride]`; columns beyond the width are 0.
    pub(crate) values: Vec<f32>,
    pub(crate) stride: usize,
    /// Squared length of each row.
    pub(crate) squares: Vec<f32>,
    /// What was subtracted, `[width]`.
    mean: Vec<f64>,
    /// Mean of the columns' variances.
    pub(crate) variance: f64,
}

impl Points {
    pub(crate) fn new(rows: Rows<'_>) -> Result<Self, RelationError> {
        if rows.is_empty() {
            return Err(RelationError::Empty);
        }
        let mean = means(rows);
        let moments: f64 = moments(rows, &mean).iter().sum();
        let stride = padded(rows.width());
        let mut values = vec![0.0; rows.len() * stride];
        values
            .par_chunks_exact_mut(stride)
            .zip(rows.values().par_chunks_exact(rows.width()))
            .for_each(|(into, row)| centre(row, &mean, into));
        let origin = vec![0.0; stride];
        let squares: Vec<f32> = values
            .par_chunks_exact(stride)
            .map(|row| squared_distance(row, &origin))
            .collect();
        // A quarter of the range is left to distances between two rows.
        if let Some(row) = squares.iter().position(|square| *square > f32::MAX / 4.0) {
            return Err(RelationError::TooLarge { row });
        }
        Ok(Self {
            values,
            stride,
            squares,
            variance: moments / (rows.len() * rows.width()) as f64,
            mean,
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.squares.len()
    }

    /// What was subtracted from each column.
    pub(crate) fn mean(&self) -> &[f64] {
        &self.mean
    }

    pub(crate) fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.stride..][..self.stride]
    }

    /// Vectors `[.., width]` in the coordinates of the points, `[.., stride]`.
    pub(crate) fn inward(&self, vectors: Rows<'_>) -> Vec<f32> {
        let mut inward = vec![0.0; vectors.len() * self.stride];
        let rows = inward.chunks_exact_mut(self.stride).zip(vectors);
        rows.for_each(|(into, vector)| centre(vector, &self.mean, into));
        inward
    }

    /// Vectors `[.., stride]` in the coordinates of the caller, `[.., width]`.
    pub(crate) fn outward(&self, vectors: &[f32]) -> Vec<f32> {
        let vectors = vectors.chunks_exact(self.stride);
        let outward = |vector: &[f32]| -> Vec<f32> {
            let columns = vector.iter().zip(&self.mean);
            columns
                .map(|(value, mean)| (f64::from(*value) + mean) as f32)
                .collect()
        };
        vectors.flat_map(outward).collect()
    }

    /// Hands the products of each block of [`BLOCK`] rows with `vectors` to `work`, `[rows of the block, vectors]`, with
    /// the block's first row and its part of `out`, `columns` values a row. Results are in the order of the blocks.
    pub(crate) fn products<T: Send, R: Send>(
        &self,
        vectors: &[f32],
        out: &mut [T],
        columns: usize,
        work: impl Fn(usize, &[f32], &mut [T]) -> R + Sync,
    ) -> Vec<R> {
        let count = vectors.len() / self.stride;
        let blocks = self.values.par_chunks(BLOCK * self.stride);
        blocks
            .zip(out.par_chunks_mut((BLOCK * columns).max(1)))
            .enumerate()
            .map_init(Vec::new, |scratch: &mut Vec<f32>, (block, (rows, out))| {
                scratch.resize(rows.len() / self.stride * count, 0.0);
                products(rows, vectors, self.stride, scratch);
                work(block * BLOCK, scratch, out)
            })
            .collect()
    }

    /// As [`Self::products`] with `|v|² - 2 x v` in place of each product: squared distances from the vectors but for
    /// the row's own square.
    pub(crate) fn partial_distances<T: Send, R: Send>(
        &self,
        vectors: &[f32],
        out: &mut [T],
        columns: usize,
        work: impl Fn(usize, &mut [f32], &mut [T]) -> R + Sync,
    ) -> Vec<R> {
        let origin = vec![0.0; self.stride];
        let squares: Vec<f32> = vectors
            .chunks_exact(self.stride)
            .map(|vector| squared_distance(vector, &origin))
            .collect();
        self.products(vectors, out, columns, |first, products, out| {
            let rows = products.chunks_exact(squares.len());
            let mut partial: Vec<f32> = rows
                .flat_map(|row| row.iter().zip(&squares))
                .map(|(product, square)| product.mul_add(-2.0, *square))
                .collect();
            work(first, &mut partial, out)
        })
    }
}

fn centre(row: &[f32], mean: &[f64], into: &mut [f32]) {
    for ((into, value), mean) in into.iter_mut().zip(row).zip(mean) {
        *into = (f64::from(*value) - mean) as f32;
    }
}
