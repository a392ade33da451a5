//! Embedding of tokens: the sum of three tables' rows, normalised.

use std::sync::Arc;

use rayon::prelude::*;

use super::dropout::Dropout;
use super::math::{add, simd};
use super::norm::{Affine, Moments};
use super::operation::Operation;
use super::rows::{self, BLOCK, room, zeros};

/// `dropout(LN(word + position + type))` of every token, `[tokens, width]`.
///
/// Inputs: the tables of words, positions and types, `[rows, width]` each, and the norm's gain and
/// bias `[width]`.
#[derive(Clone, Debug)]
pub(crate) struct Embed {
    /// Row of the words' table for every token.
    pub(crate) ids: Arc<[u32]>,
    /// Row of the positions' table for every token.
    pub(crate) positions: Arc<[u32]>,
    /// Row of the types' table for every token; none: row 0 for all.
    pub(crate) types: Option<Arc<[u32]>>,
    /// Length of a row.
    pub(crate) width: usize,
    /// Added to LayerNorm's variance.
    pub(crate) eps: f64,
    /// Of the result.
    pub(crate) dropout: Option<Dropout>,
}

/// Rows of a table whose gradients one task sums up.
const TABLE_BLOCK: usize = 256;

impl Embed {
    /// The sums of a block of tokens before the norm.
    fn gather(&self, block: usize, tables: [&[f32]; 3], sums: &mut [f32]) {
        let width = self.width;
        let [words, positions, types] = tables;
        let row = |table, index: u32| row(table, width, index);
        let first = block * BLOCK;
        let kinds = self.types.as_deref().map(|types| &types[first..]);
        simd(
            #[inline(always)]
            || {
                let places = self.ids[first..].iter().zip(&self.positions[first..]);
                let sums = sums.chunks_exact_mut(width).zip(places);
                for (token, (sum, (id, position))) in sums.enumerate() {
                    sum.copy_from_slice(row(words, *id));
                    add(sum, row(positions, *position));
                    add(sum, row(types, kinds.map_or(0, |kinds| kinds[token])));
                }
            },
        );
    }

    /// Multiplies a block of tokens by its part of the dropout mask.
    fn drop(&self, block: usize, values: &mut [f32]) {
        if let Some(dropout) = self.dropout {
            dropout.apply_rows(block * BLOCK, self.width, values);
        }
    }
}

#[inline(always)]
fn row(table: &[f32], width: usize, index: u32) -> &[f32] {
    &table[index as usize * width..][..width]
}

impl Operation<5> for Embed {
    /// Of every token's sum.
    type Kept = Vec<Moments>;

    fn forward(
        &self,
        [words, positions, types, gain, bias]: [&[f32]; 5],
        keep: bool,
    ) -> (Vec<f32>, Option<Self::Kept>) {
        let affine = Affine::new(gain, bias, self.eps);
        let mut moments = vec![Moments::default(); self.ids.len()];
        let mut result = zeros(self.ids.len() * self.width);
        (
            moments.par_chunks_mut(BLOCK),
            result.par_chunks_mut(BLOCK * self.width),
        )
            .into_par_iter()
            .enumerate()
            .for_each_init(Vec::new, |scratch, (block, (moments, result))| {
                let sums = room(scratch, result.len());
                self.gather(block, [words, positions, types], sums);
                affine.forward(sums, moments, result);
                self.drop(block, result);
            });
        (result, keep.then_some(moments))
    }

    fn backward(
        &self,
        [words, positions, types, gain, bias]: [&[f32]; 5],
        moments: Self::Kept,
        gradient: &[f32],
        wanted: [bool; 5],
    ) -> [Option<Vec<f32>>; 5] {
        let width = self.width;
        let affine = Affine::new(gain, bias, self.eps);
        let mut d_sums = zeros(gradient.len());
        let mut partials = vec![0.0; rows::blocks(moments.len()) * 3 * width];
        (
            moments.par_chunks(BLOCK),
            gradient.par_chunks(BLOCK * width),
            d_sums.par_chunks_mut(BLOCK * width),
            partials.par_chunks_mut(3 * width),
        )
            .into_par_iter()
            .enumerate()
            .for_each_init(
                Vec::new,
                |scratch, (block, (moments, gradient, d_sums, partials))| {
                    let sums = room(scratch, gradient.len());
                    let (d_norm, d_type) = partials.split_at_mut(2 * width);
                    self.gather(block, [words, positions, types], sums);
                    d_sums.copy_from_slice(gradient);
                    self.drop(block, d_sums);
                    affine.backward(sums, moments, d_sums, d_norm);
                    rows::add_rows(d_type, d_sums);
                },
            );

        let d_words = wanted[0].then(|| scatter(&d_sums, &self.ids, width, words.len()));
        let d_positions =
            wanted[1].then(|| scatter(&d_sums, &self.positions, width, positions.len()));
        let [d_gain, d_bias, mut d_types] = rows::add_up(&partials, [width; 3]);
        match &self.types {
            None => d_types.resize(types.len(), 0.0),
            Some(kinds) => d_types = scatter(&d_sums, kinds, width, types.len()),
        }
        [
            d_words,
            d_positions,
            wanted[2].then_some(d_types),
            wanted[3].then_some(d_gain),
            wanted[4].then_some(d_bias),
        ]
    }
}

/// Adds row i of `values` to row `places[i]` of a table of `len` zeros, for every i.
///
/// Tasks own blocks of the table; a stable sort by place brings them their rows in order.
fn scatter(values: &[f32], places: &[u32], width: usize, len: usize) -> Vec<f32> {
    let mut table = zeros(len);
    let mut order: Vec<(u32, u32)> = places.iter().copied().zip(0..).collect();
    order.sort_unstable();
    table
        .par_chunks_mut(TABLE_BLOCK * width)
        .enumerate()
        .for_each(|(block, rows)| {
            let first = block * TABLE_BLOCK;
            let from = |place: usize| order.partition_point(|(at, _)| (*at as usize) < place);
            simd(
                #[inline(always)]
                || {
                    for (place, index) in &order[from(first)..from(first + TABLE_BLOCK)] {
                        let start = (*place as usize - first) * width;
                        add(&mut rows[start..start + width], row(values, width, *index));
                    }
                },
            );
        });
    table
}

#[cfg(test)]
mod tests {
    use super::super::testing::{check, plain, values};
    use super::*;

    #[test]
    fn equals_the_plain_form() {
        for ((tokens, width), typed) in [
            ((0, 3), true),
            ((1, 2), false),
            ((90, 5), false),
            ((90, 5), true),
        ] {
            let vocab = 2 * TABLE_BLOCK as u32 + 7;
            for dropout in [None, Some(Dropout::new(0.4, 2))] {
                let embed = Embed {
                    // Some ids again and again, some on either side of a block's end.
                    ids: (0..tokens).map(|i| i * i * 37 % vocab).collect(),
                    positions: (0..tokens).map(|i| i % 4).collect(),
                    types: typed.then(|| (0..tokens).map(|i| u32::from(i % 3 == 1)).collect()),
                    width,
                    eps: 1e-3,
                    dropout,
                };
                let inputs = [
                    values(1, vocab as usize * width),
                    values(2, 6 * width),
                    values(3, 2 * width),
                    values(4, width),
                    values(5, width),
                ];
                check(&embed, &inputs, 2e-5, |inputs| plain_form(&embed, inputs));
            }
        }
    }

    fn plain_form(
        embed: &Embed,
        [words, positions, types, gain, bias]: &[Vec<f64>; 5],
    ) -> Vec<f64> {
        let places = embed.ids.iter().zip(&*embed.positions).enumerate();
        let sums: Vec<f64> = places
            .flat_map(|(token, (id, position))| {
                let kind = embed.types.as_ref().map_or(0, |types| types[token]);
                (0..embed.width).map(move |i| {
                    words[*id as usize * embed.width + i]
                        + positions[*position as usize * embed.width + i]
                        + types[kind as usize * embed.width + i]
                })
            })
            .collect();
        let normal = plain::layer_norm(&sums, gain, bias, embed.eps);
        plain::drop(embed.dropout, &normal, embed.width)
    }
}
