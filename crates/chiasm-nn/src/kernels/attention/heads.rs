//! Attention over packed sequences, head by head.
//!
//! The scores of a few queries with all keys of their sequence are computed, used and forgotten by
//! one task. What the backward pass keeps of them is one number for every query and head, the
//! logarithm of the sum of exponentials: with it, probabilities come back from scores without a
//! sum over keys.

use std::ops::Range;

use rayon::prelude::*;

use super::super::dropout::Dropout;
use super::super::gemm::{View, ViewMut, multiply_serial};
use super::super::math::{exp, max, scale, simd, sum};
use super::super::rows::{BLOCK, room, zeros};
use super::projected::{Projected, Role};
use crate::spans::Spans;

/// Queries whose scores a task holds at a time: with a thousand keys they still fit into a core's
/// cache, and the sequences of common image towers (50, 65, 3 x 66 tokens) fill their blocks.
const QUERIES: usize = 72;

/// Attention with several heads; sequence i of the queries attends to sequence i of the keys.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heads<'a> {
    /// Sequences of queries.
    pub(super) queries: &'a Spans,
    /// Sequences of keys and values.
    pub(super) keys: &'a Spans,
    /// Features of a token, of all heads together.
    pub(super) width: usize,
    /// Number of heads.
    pub(super) count: usize,
    /// Of probabilities.
    pub(super) dropout: Option<Dropout>,
    /// What a query sees of the keys of its sequence.
    pub(super) scope: Scope,
}

/// What a token of a sequence that attends to itself sees of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Everything.
    Whole,
    /// Itself and what precedes it.
    Causal,
    /// The sequence is a clip of so many frames of equal length (at least 1, a divisor of the
    /// length): the first token of every frame sees everything, the others their own frame.
    Frames(usize),
}

impl Scope {
    /// The work in a sequence of `queries` and `keys`: some queries and what they all see, the
    /// pieces in the order of the queries.
    pub(super) fn pieces(self, queries: usize, keys: usize) -> Vec<Piece> {
        let cut = move |queries: Range<usize>, keys: Range<usize>| {
            blocks(queries.len()).map(move |block| Piece {
                queries: queries.start + block.start..queries.start + block.end,
                keys: keys.clone(),
            })
        };
        match self {
            Self::Frames(count) if count > 1 && queries >= count => {
                let len = queries / count;
                let frames = (0..count).map(|frame| frame * len..(frame + 1) * len);
                let of = |frame: Range<usize>| {
                    cut(frame.start..frame.start + 1, 0..keys)
                        .chain(cut(frame.start + 1..frame.end, frame))
                };
                frames.flat_map(of).collect()
            }
            _ => cut(0..queries, 0..keys).collect(),
        }
    }
}

/// What attention leaves for its backward pass.
#[derive(Clone, Debug)]
pub(super) struct Attended {
    /// Mixed values, `[queries, width]`; zeros where a sequence has no keys.
    pub(super) context: Vec<f32>,
    /// Logarithm of the sum of the exponentials of a query's scores, `[queries, heads]`.
    pub(super) logs: Vec<f32>,
}

/// Some queries of one sequence and the keys that they see, counted in the sequence or in the
/// packed batch.
pub(super) struct Piece {
    pub(super) queries: Range<usize>,
    pub(super) keys: Range<usize>,
}

impl Heads<'_> {
    /// Mixes the values of all sequences.
    pub(super) fn forward(&self, projected: &Projected<&[f32]>) -> Attended {
        let tokens = self.queries.tokens();
        let mut attended = Attended {
            context: zeros(tokens * self.width),
            logs: vec![0.0; tokens * self.count],
        };
        let pieces: Vec<Piece> = self.pieces().collect();
        let lens = || pieces.iter().map(|piece| piece.queries.len());
        let contexts = cut(&mut attended.context, lens().map(|len| len * self.width));
        let logs = cut(&mut attended.logs, lens().map(|len| len * self.count));
        let tasks = pieces.par_iter().zip(contexts).zip(logs);
        tasks.with_min_len(self.sequences_in_task()).for_each_init(
            Vec::new,
            |scores, ((piece, context), logs)| {
                self.forward_piece(projected, piece, context, logs, scores);
            },
        );
        attended
    }

    /// The work of the forward pass; the queries of the pieces are all queries in their order.
    fn pieces(&self) -> impl Iterator<Item = Piece> {
        let spans = self.queries.iter().zip(self.keys.iter());
        spans.flat_map(|(queries, keys)| {
            let pieces = self.scope.pieces(queries.len(), keys.len());
            pieces.into_iter().map(move |piece| Piece {
                queries: queries.start + piece.queries.start..queries.start + piece.queries.end,
                keys: keys.start + piece.keys.start..keys.start + piece.keys.end,
            })
        })
    }

    /// How many sequences, on average, have as many rows as a task should have.
    pub(super) fn sequences_in_task(&self) -> usize {
        let tokens = self.queries.tokens().max(self.keys.tokens()).max(1);
        (BLOCK * self.queries.batch() / tokens).max(1)
    }

    /// Writes the context of a piece, `[queries, width]`, and its logarithms, `[queries, heads]`.
    fn forward_piece(
        &self,
        projected: &Projected<&[f32]>,
        piece: &Piece,
        context: &mut [f32],
        logs: &mut [f32],
        scores: &mut Vec<f32>,
    ) {
        let (queries, keys) = (piece.queries.len(), piece.keys.len());
        if queries == 0 || keys == 0 {
            return;
        }
        let scores = room(scores, queries * keys);
        for head in 0..self.count {
            let part = |role, rows: &Range<usize>| {
                projected.head(role, self.width, rows.clone(), self.columns(head))
            };
            let query = part(Role::Query, &piece.queries);
            let key = part(Role::Key, &piece.keys);
            let out = ViewMut::new(scores, queries, keys);
            multiply_serial(out, query, key.t(), self.score_scale(), false);
            // A sequence that attends to itself: its keys begin where its queries do.
            self.hide_later(scores, keys, piece.queries.start - piece.keys.start);

            simd(
                #[inline(always)]
                || {
                    let logs = logs.chunks_exact_mut(self.count);
                    let rows = self.dropout_rows(head, piece.queries.start);
                    for ((row, logs), number) in scores.chunks_exact_mut(keys).zip(logs).zip(rows) {
                        logs[head] = softmax(row);
                        if let Some(dropout) = &self.dropout {
                            dropout.apply(number, row);
                        }
                    }
                },
            );

            let value = part(Role::Value, &piece.keys);
            let out = &mut context[self.columns(head).start..];
            let out = ViewMut::strided(out, queries, self.size(), self.width);
            multiply_serial(out, View::new(scores, queries, keys), value, 1.0, false);
        }
    }

    /// Gives the keys that a causal query must not see a score whose exponential is 0; `first` is
    /// the number of the first query in its sequence.
    pub(super) fn hide_later(&self, scores: &mut [f32], keys: usize, first: usize) {
        if self.scope == Scope::Causal {
            for (query, row) in (first..).zip(scores.chunks_exact_mut(keys)) {
                row[query + 1..].fill(f32::NEG_INFINITY);
            }
        }
    }

    /// Numbers of the rows of probabilities, for dropout, from query number `first` on: heads count
    /// one after another, each through all queries of the batch.
    #[inline(always)]
    pub(super) fn dropout_rows(
        &self,
        head: usize,
        first: usize,
    ) -> impl Iterator<Item = u64> + use<> {
        (head * self.queries.tokens() + first) as u64..
    }

    pub(super) fn size(&self) -> usize {
        self.width / self.count
    }

    pub(super) fn columns(&self, head: usize) -> Range<usize> {
        head * self.size()..(head + 1) * self.size()
    }

    /// `1 / sqrt(head size)`
    pub(super) fn score_scale(&self) -> f32 {
        (1.0 / (self.size() as f64).sqrt()) as f32
    }
}

/// Turns scores into probabilities; returns the logarithm of the sum of their exponentials.
#[inline(always)]
fn softmax(row: &mut [f32]) -> f32 {
    let highest = max(row);
    for score in row.iter_mut() {
        *score = exp(*score - highest);
    }
    let total = sum(row);
    scale(row, 1.0 / total);
    highest + total.ln()
}

/// Blocks of nearly equal size, of [`QUERIES`] at most, that `queries` make.
pub(super) fn blocks(queries: usize) -> impl Iterator<Item = Range<usize>> {
    let size = queries.div_ceil(queries.div_ceil(QUERIES).max(1)).max(1);
    (0..queries)
        .step_by(size)
        .map(move |start| start..queries.min(start + size))
}

/// Consecutive parts of these lengths.
pub(super) fn cut<T>(mut data: &mut [T], lens: impl IntoIterator<Item = usize>) -> Vec<&mut [T]> {
    let part = |len: usize| {
        let (part, rest) = std::mem::take(&mut data).split_at_mut(len);
        data = rest;
        part
    };
    lens.into_iter().map(part).collect()
}
