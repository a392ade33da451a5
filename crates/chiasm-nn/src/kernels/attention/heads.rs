//! Attention over packed sequences, head by head.
//!
//! The scores of a few queries with all keys of their sequence are computed, used and forgotten by
//! one task. What the backward pass is told of them is one number for every query and head: the
//! logarithm of the sum of exponentials, with which probabilities come back from scores without a
//! sum over keys, or the cut of a row that selects, which costs more to find than the row itself.

use std::ops::Range;

use rayon::prelude::*;

use super::super::dropout::Dropout;
use super::super::gemm::{View, ViewMut, multiply_serial};
use super::super::math::{exp, exponentials, scale, simd, sum};
use super::super::rows::{BLOCK, room, zeros};
use super::gate::Gates;
use super::keep::{Keep, Place};
use super::projected::{Projected, Role};
use crate::select::{Meter, Site};
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
    /// Which of them it keeps; all of them without.
    pub(super) keep: Option<&'a Keep>,
    /// What the heads have learned to keep, in place of the rule.
    pub(super) gates: Option<Gates<'a>>,
    /// Who counts what is kept, and where this is.
    pub(super) meter: Option<(&'a Meter, Site)>,
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

    /// How many of the row's keys the query sees: with [`Self::Causal`] none that comes after it.
    fn seen(self, query: usize, keys: usize) -> usize {
        match self {
            Self::Causal => keys.min(query + 1),
            _ => keys,
        }
    }
}

/// What attention leaves for its backward pass.
#[derive(Clone, Debug)]
pub(super) struct Attended {
    /// Mixed values, `[queries, width]`; zeros where a sequence has no keys.
    pub(super) context: Vec<f32>,
    /// What the backward pass is told of a row of scores, `[queries, heads]`: the logarithm of the sum
    /// of its exponentials, or the cut where it selects.
    pub(super) facts: Vec<f32>,
}

/// Some queries of one sequence and the keys that they see, counted in the sequence.
pub(super) struct Piece {
    pub(super) queries: Range<usize>,
    pub(super) keys: Range<usize>,
}

/// A piece, and where its sequence is in the packed batch.
pub(super) struct Placed<'a> {
    pub(super) piece: &'a Piece,
    /// Number of the sequence.
    pub(super) sequence: usize,
    /// Where its queries and its keys are.
    pub(super) spans: [Range<usize>; 2],
}

impl Placed<'_> {
    /// The piece's queries in the batch.
    pub(super) fn queries(&self) -> Range<usize> {
        let start = self.spans[0].start;
        start + self.piece.queries.start..start + self.piece.queries.end
    }

    /// The piece's keys in the batch.
    fn keys(&self) -> Range<usize> {
        let start = self.spans[1].start;
        start + self.piece.keys.start..start + self.piece.keys.end
    }

    /// Where the row of a query is.
    fn row(&self, query: usize) -> Place {
        Place {
            sequence: self.sequence,
            lens: [self.spans[0].len(), self.spans[1].len()],
            query,
            keys: self.piece.keys.clone(),
        }
    }
}

/// Memory of a task.
#[derive(Default)]
struct Scratch {
    /// `[queries, keys]`
    scores: Vec<f32>,
    /// `[queries, keys]`, where what is kept is counted.
    before: Vec<f32>,
    /// Of one row.
    row: Vec<f32>,
}

impl Heads<'_> {
    /// Mixes the values of all sequences.
    pub(super) fn forward(&self, projected: &Projected<&[f32]>) -> Attended {
        let tokens = self.queries.tokens();
        let mut attended = Attended {
            context: zeros(tokens * self.width),
            facts: vec![0.0; tokens * self.count],
        };
        let pieces = self.pieces();
        let lens = || pieces.iter().map(|(_, piece)| piece.queries.len());
        let contexts = cut(&mut attended.context, lens().map(|len| len * self.width));
        let facts = cut(&mut attended.facts, lens().map(|len| len * self.count));
        let spans: Vec<_> = self.queries.iter().zip(self.keys.iter()).collect();
        let tasks = pieces.par_iter().zip(contexts).zip(facts);
        tasks.with_min_len(self.sequences_in_task()).for_each_init(
            Scratch::default,
            |scratch, (((sequence, piece), context), facts)| {
                let (queries, keys) = spans[*sequence].clone();
                let placed = Placed {
                    piece,
                    sequence: *sequence,
                    spans: [queries, keys],
                };
                self.forward_piece(projected, &placed, context, facts, scratch);
            },
        );
        attended
    }

    /// The work of the forward pass with the sequence that it is of; the queries of the pieces are all
    /// queries in their order.
    fn pieces(&self) -> Vec<(usize, Piece)> {
        let lens = self.queries.lengths().zip(self.keys.lengths());
        let of = |(sequence, (queries, keys))| {
            let pieces = self.scope.pieces(queries, keys).into_iter();
            pieces.map(move |piece| (sequence, piece))
        };
        lens.enumerate().flat_map(of).collect()
    }

    /// How many sequences, on average, have as many rows as a task should have.
    pub(super) fn sequences_in_task(&self) -> usize {
        let tokens = self.queries.tokens().max(self.keys.tokens()).max(1);
        (BLOCK * self.queries.batch() / tokens).max(1)
    }

    /// Writes the context of a piece, `[queries, width]`, and its facts, `[queries, heads]`.
    fn forward_piece(
        &self,
        projected: &Projected<&[f32]>,
        placed: &Placed,
        context: &mut [f32],
        facts: &mut [f32],
        scratch: &mut Scratch,
    ) {
        let piece = placed.piece;
        let (queries, keys) = (piece.queries.len(), piece.keys.len());
        if queries == 0 || keys == 0 {
            return;
        }
        let scores = room(&mut scratch.scores, queries * keys);
        for head in 0..self.count {
            let part = |role, rows: &Range<usize>| {
                projected.head(role, self.width, rows.clone(), self.columns(head))
            };
            let query = part(Role::Query, &placed.queries());
            let key = part(Role::Key, &placed.keys());
            let out = ViewMut::new(scores, queries, keys);
            multiply_serial(out, query, key.t(), self.score_scale(), false);
            self.hide_later(scores, keys, piece.queries.start);
            if self.meter.is_some() {
                scratch.before.clear();
                scratch.before.extend_from_slice(scores);
            }

            let gate = self.gates.and_then(|gates| gates.soft(head, keys));
            simd(
                #[inline(always)]
                || {
                    let facts = facts.chunks_exact_mut(self.count);
                    let rows = scores.chunks_exact_mut(keys).zip(piece.queries.clone());
                    for ((row, query), facts) in rows.zip(facts) {
                        facts[head] = match (gate, self.keep) {
                            (Some(gate), _) => {
                                let log = softmax(row);
                                gate.forward(row);
                                log
                            }
                            (None, Some(keep)) => {
                                let place = placed.row(query);
                                self.select(keep, head, &place, row, &mut scratch.row)
                            }
                            (None, None) => softmax(row),
                        };
                    }
                },
            );
            if let Some((meter, site)) = self.meter {
                meter.count(site, head, &scratch.before, scores, keys);
            }
            if let Some(dropout) = &self.dropout {
                let numbers = self.dropout_rows(head, placed.queries().start);
                simd(
                    #[inline(always)]
                    || {
                        for (row, number) in scores.chunks_exact_mut(keys).zip(numbers) {
                            dropout.apply(number, row);
                        }
                    },
                );
            }

            let value = part(Role::Value, &placed.keys());
            let out = &mut context[self.columns(head).start..];
            let out = ViewMut::strided(out, queries, self.size(), self.width);
            multiply_serial(out, View::new(scores, queries, keys), value, 1.0, false);
        }
    }

    /// Turns a row of scores into the probabilities of the keys that it keeps, and returns the fact
    /// that [`Self::select_again`] needs.
    #[inline(always)]
    fn select(
        &self,
        keep: &Keep,
        head: usize,
        place: &Place,
        row: &mut [f32],
        scratch: &mut Vec<f32>,
    ) -> f32 {
        let row = self.seen(place, row);
        if !keep.selects(head, place) {
            return softmax(row);
        }
        let rule = self.gates.map_or(keep.rule, |gates| gates.rule(head));
        let cut = keep.apply(rule, row, place, scratch);
        // What is dropped may be less than 0, for the backward pass.
        row.iter_mut().for_each(|x| *x = x.max(0.0));
        cut
    }

    /// What [`Keep::apply`] makes of a row whose fact is known.
    #[inline(always)]
    pub(super) fn select_again(
        &self,
        keep: &Keep,
        head: usize,
        place: &Place,
        row: &mut [f32],
        fact: f32,
    ) {
        let row = self.seen(place, row);
        if keep.selects(head, place) {
            keep.apply_cut(fact, row, place);
        } else {
            row.iter_mut().for_each(|x| *x = exp(*x - fact));
        }
    }

    /// The keys of a row that its query sees; what the others count is 0.
    #[inline(always)]
    fn seen<'r>(&self, place: &Place, row: &'r mut [f32]) -> &'r mut [f32] {
        let seen = self.scope.seen(place.query, row.len());
        let (row, hidden) = row.split_at_mut(seen);
        hidden.fill(0.0);
        row
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
    let highest = exponentials(row);
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
