//! The backward pass of attention, which puts gradients in the place of projections.

use rayon::prelude::*;

use super::super::gemm::{View, ViewMut, multiply_serial};
use super::super::math::{dot, exp, simd};
use super::super::rows::{add_up, room};
use super::heads::{Attended, Heads, Piece, cut};
use super::keep::Place;
use super::projected::{Projected, Role};
use crate::spans::Spans;

/// Tokens from which on a sequence's heads are tasks of their own in the backward pass, so that
/// few long sequences keep all cores busy too.
const LONG: usize = 128;

/// All that the backward pass of one sequence reads and writes.
struct Sequence<'a> {
    /// Its number in the batch.
    number: usize,
    /// Number of its first query in the batch.
    first: usize,
    queries: usize,
    keys: usize,
    /// Projections of its tokens, to be replaced by their gradients.
    projected: Projected<&'a mut [f32]>,
    /// `[queries, width]`
    context: &'a [f32],
    /// Of the context, `[queries, width]`.
    gradient: &'a [f32],
    /// `[queries, heads]`
    facts: &'a [f32],
    /// Gradients of the gates' thresholds, `[heads]`; empty without gates.
    gates: &'a mut [f32],
}

/// Gradients of one head of one sequence.
#[derive(Default)]
struct HeadGradients {
    /// `[queries, head size]`
    query: Vec<f32>,
    /// `[keys, head size]`
    key: Vec<f32>,
    /// `[keys, head size]`
    value: Vec<f32>,
    /// Of the gate's threshold.
    gate: f32,
}

/// What the backward pass holds of one block of queries, `[queries, keys]` each.
#[derive(Default)]
struct Scratch {
    /// Probabilities after dropout.
    weights: Vec<f32>,
    /// Gradient of the scores.
    scores: Vec<f32>,
    /// Dropout's factors of one query, `[keys]`.
    factors: Vec<f32>,
    /// For a gate over one query's keys.
    row: Vec<f32>,
}

impl Heads<'_> {
    /// Replaces the projections of all sequences by their gradients, given that of the context.
    /// Returns the gradients of the gates' thresholds, `[heads]`, or nothing without gates.
    pub(super) fn backward(
        &self,
        projected: Projected<&mut [f32]>,
        attended: &Attended,
        gradient: &[f32],
    ) -> Vec<f32> {
        let batch = self.queries.batch();
        let gates = self.gates.map_or(0, |gates| gates.thresholds.len());
        let mut partials = vec![0.0; batch * gates];
        let mut sequences = Vec::with_capacity(batch);
        let spans = self.queries.iter().zip(self.keys.iter());
        let parts = self.sequences_mut(projected).into_iter();
        let parts = parts.zip(cut(&mut partials, vec![gates; batch]));
        for ((number, (queries, keys)), (projected, gates)) in spans.enumerate().zip(parts) {
            let features = queries.start * self.width..queries.end * self.width;
            sequences.push(Sequence {
                number,
                first: queries.start,
                queries: queries.len(),
                keys: keys.len(),
                projected,
                context: &attended.context[features.clone()],
                gradient: &gradient[features],
                facts: &attended.facts[queries.start * self.count..queries.end * self.count],
                gates,
            });
        }
        let tasks = sequences.into_par_iter();
        tasks.with_min_len(self.sequences_in_task()).for_each_init(
            Default::default,
            |(scratch, gradients), sequence| {
                self.backward_sequence(sequence, scratch, gradients);
            },
        );
        let [gates] = add_up(&partials, [gates]);
        gates
    }

    /// The projected rows of every sequence.
    fn sequences_mut<'b>(
        &self,
        projected: Projected<&'b mut [f32]>,
    ) -> Vec<Projected<&'b mut [f32]>> {
        let lens = |spans: &Spans, roles: usize| {
            let row = roles * self.width;
            spans
                .iter()
                .map(move |span| span.len() * row)
                .collect::<Vec<_>>()
        };
        match projected {
            Projected::Joint(rows) => {
                let rows = cut(rows, lens(self.queries, 3));
                rows.into_iter().map(Projected::Joint).collect()
            }
            Projected::Apart { query, key_value } => {
                let queries = cut(query, lens(self.queries, 1));
                let keys = cut(key_value, lens(self.keys, 2));
                let pairs = queries.into_iter().zip(keys);
                pairs
                    .map(|(query, key_value)| Projected::Apart { query, key_value })
                    .collect()
            }
        }
    }

    /// Replaces the projections of one sequence by their gradients.
    fn backward_sequence(
        &self,
        mut sequence: Sequence,
        scratch: &mut Scratch,
        gradients: &mut HeadGradients,
    ) {
        // A head's gradients replace what only this head reads, so heads need no order.
        if sequence.queries.max(sequence.keys) < LONG {
            for head in 0..self.count {
                self.backward_head(&sequence, head, scratch, gradients);
                self.put(&mut sequence, head, gradients);
            }
        } else {
            let heads = (0..self.count).into_par_iter().map(|head| {
                let mut gradients = HeadGradients::default();
                self.backward_head(&sequence, head, &mut Scratch::default(), &mut gradients);
                gradients
            });
            for (head, gradients) in heads.collect::<Vec<_>>().iter().enumerate() {
                self.put(&mut sequence, head, gradients);
            }
        }
    }

    /// The gradients of one head.
    ///
    /// With P the probabilities, F dropout's factors, S the scores, C the context and ∘ the product
    /// element by element: `dV = (P ∘ F)ᵀ dC` and `dS = P ∘ (F ∘ (dC Vᵀ) - rowsum(dC ∘ C))`.
    fn backward_head(
        &self,
        sequence: &Sequence,
        head: usize,
        scratch: &mut Scratch,
        gradients: &mut HeadGradients,
    ) {
        let (size, scale) = (self.size(), self.score_scale());
        for (gradient, rows) in [
            (&mut gradients.query, sequence.queries),
            (&mut gradients.key, sequence.keys),
            (&mut gradients.value, sequence.keys),
        ] {
            gradient.clear();
            gradient.resize(rows * size, 0.0);
        }
        gradients.gate = 0.0;
        for piece in self.scope.pieces(sequence.queries, sequence.keys) {
            let block = piece.queries.clone();
            let (queries, keys) = (block.len(), piece.keys.len());
            if queries == 0 || keys == 0 {
                continue;
            }
            let weights = room(&mut scratch.weights, queries * keys);
            let scores = room(&mut scratch.scores, queries * keys);
            let part = |role, rows| {
                sequence
                    .projected
                    .head(role, self.width, rows, self.columns(head))
            };
            let query = part(Role::Query, block.clone());
            let [key, value] = [Role::Key, Role::Value].map(|role| part(role, piece.keys.clone()));
            let first = block.start * self.width + self.columns(head).start;
            let d_context = &sequence.gradient[first..];
            let d_context = View::strided(d_context, queries, size, self.width);

            let out = ViewMut::new(weights, queries, keys);
            multiply_serial(out, query, key.t(), scale, false);
            self.hide_later(weights, keys, block.start);
            let out = ViewMut::new(scores, queries, keys);
            multiply_serial(out, d_context, value.t(), 1.0, false);
            gradients.gate += self.backward_softmax(sequence, head, &piece, scratch);

            let weights = View::new(&scratch.weights, queries, keys);
            let scores = View::new(&scratch.scores, queries, keys);
            let seen = piece.keys.start * size..piece.keys.end * size;
            let out = ViewMut::new(&mut gradients.value[seen.clone()], keys, size);
            multiply_serial(out, weights.t(), d_context, 1.0, true);
            let out = ViewMut::new(&mut gradients.key[seen], keys, size);
            multiply_serial(out, scores.t(), query, scale, true);
            let out = &mut gradients.query[block.start * size..];
            let out = ViewMut::strided(out, queries, size, size);
            multiply_serial(out, scores, key, scale, false);
        }
    }

    /// Turns scores (in `scratch.weights`) and the gradient of the weights (in `scratch.scores`)
    /// into weights and the gradient of the scores. Returns that of the threshold of a gate.
    fn backward_softmax(
        &self,
        sequence: &Sequence,
        head: usize,
        piece: &Piece,
        scratch: &mut Scratch,
    ) -> f32 {
        let (block, keys) = (piece.queries.clone(), piece.keys.len());
        let factors = room(&mut scratch.factors, keys);
        let gate = self.gates.and_then(|gates| gates.soft(head, keys));
        let mut threshold = 0.0;
        let features = |i: usize| {
            let columns = self.columns(head);
            i * self.width + columns.start..i * self.width + columns.end
        };
        let weights = scratch.weights.chunks_exact_mut(keys);
        let scores = scratch.scores.chunks_exact_mut(keys);
        let numbers = self.dropout_rows(head, sequence.first + block.start);
        simd(
            #[inline(always)]
            || {
                for (((i, weights), d), number) in block.zip(weights).zip(scores).zip(numbers) {
                    let mean = dot(
                        &sequence.gradient[features(i)],
                        &sequence.context[features(i)],
                    );
                    let fact = sequence.facts[i * self.count + head];
                    if gate.is_some() || self.keep.is_some() {
                        match &self.dropout {
                            Some(dropout) => dropout.factors(number, factors),
                            None => factors.fill(1.0),
                        }
                    }
                    if let Some(gate) = gate {
                        weights.iter_mut().for_each(|x| *x = exp(*x - fact));
                        threshold += gate.backward(weights, d, factors, mean, &mut scratch.row);
                        continue;
                    }
                    if let Some(keep) = self.keep {
                        let place = Place {
                            sequence: sequence.number,
                            lens: [sequence.queries, sequence.keys],
                            query: i,
                            keys: piece.keys.clone(),
                        };
                        self.select_again(keep, head, &place, weights, fact);
                        for ((weight, d), factor) in weights.iter_mut().zip(d).zip(&*factors) {
                            // A dropped key is 0, or less where it took part in the division.
                            let probability = weight.abs();
                            let kept = if *weight > 0.0 { *factor } else { 0.0 };
                            *d = probability * kept.mul_add(*d, -mean);
                            *weight = probability * kept;
                        }
                        continue;
                    }
                    if let Some(dropout) = &self.dropout {
                        dropout.factors(number, factors);
                        for ((weight, d), factor) in weights.iter_mut().zip(d).zip(&*factors) {
                            let probability = exp(*weight - fact);
                            *d = probability * factor.mul_add(*d, -mean);
                            *weight = probability * factor;
                        }
                    } else {
                        for (weight, d) in weights.iter_mut().zip(d) {
                            *weight = exp(*weight - fact);
                            *d = *weight * (*d - mean);
                        }
                    }
                }
            },
        );
        threshold
    }

    /// Replaces the projections of one head by their gradients.
    fn put(&self, sequence: &mut Sequence, head: usize, gradients: &HeadGradients) {
        let parts = [
            (Role::Query, &gradients.query),
            (Role::Key, &gradients.key),
            (Role::Value, &gradients.value),
        ];
        for (role, values) in parts {
            sequence
                .projected
                .put(role, self.width, self.columns(head), values);
        }
        if let Some(gate) = sequence.gates.get_mut(head) {
            *gate = gradients.gate;
        }
    }
}
