//! Batches of token sequences of different lengths, without padding.
//!
//! Everything that works token by token runs on the packed rows as they are. Only the plain form
//! of attention needs a padded batch, and pads there alone.

use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::spans::Spans;

/// Features of the tokens of a batch of sequences, one sequence after another.
#[derive(Clone, Debug)]
pub struct Tokens {
    /// `[tokens, width]`.
    pub rows: Tensor<2>,
    /// Which rows belong to which sequence.
    pub spans: Spans,
}

/// Some tokens of a batch of sequences.
///
/// What a last layer gives for tokens that nobody reads need not be computed: it is asked for the
/// chosen ones alone, which still look at all others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// Number of each chosen token in the packed batch, sequence by sequence.
    pub rows: Vec<usize>,
    /// How many are of which sequence.
    pub spans: Spans,
}

impl Chosen {
    /// The given tokens, which come sequence by sequence.
    #[must_use]
    pub fn new(spans: &Spans, rows: Vec<usize>) -> Self {
        let of = |span: std::ops::Range<usize>| {
            rows.partition_point(|row| *row < span.end)
                - rows.partition_point(|row| *row < span.start)
        };
        Self {
            spans: Spans::new(spans.iter().map(of)),
            rows,
        }
    }

    /// The first token of every sequence that has one.
    #[must_use]
    pub fn first(spans: &Spans) -> Self {
        Self::whole(spans, |_| false)
    }

    /// Every token of the sequences that `whole` names by number, the first one of the others.
    #[must_use]
    pub fn whole(spans: &Spans, whole: impl Fn(usize) -> bool) -> Self {
        Self::whole_clips(spans, 1, whole)
    }

    /// Every token of the clips that `whole` names by number, the first one of each frame of the
    /// others; a clip consists of `frames` parts of equal length.
    #[must_use]
    pub fn whole_clips(clips: &Spans, frames: usize, whole: impl Fn(usize) -> bool) -> Self {
        let of = |(clip, span): (usize, std::ops::Range<usize>)| {
            let step = match whole(clip) {
                true => 1,
                false => (span.len() / frames.max(1)).max(1),
            };
            span.step_by(step)
        };
        Self::new(clips, clips.iter().enumerate().flat_map(of).collect())
    }

    /// The first `count` tokens of every sequence.
    #[must_use]
    pub fn leading(spans: &Spans, count: usize) -> Self {
        Self::new(
            spans,
            spans.iter().flat_map(|span| span.take(count)).collect(),
        )
    }

    /// Whether these are the first tokens of all these sequences.
    #[must_use]
    pub fn is_first_of(&self, spans: &Spans) -> bool {
        self.rows
            .iter()
            .copied()
            .eq(spans.iter().map(|span| span.start))
    }
}

impl Tokens {
    /// Sequences of one length, `[batch, len, width]`.
    #[must_use]
    pub fn uniform(sequences: Tensor<3>) -> Self {
        let [batch, len, width] = sequences.dims();
        Self {
            rows: sequences.reshape([batch * len, width]),
            spans: Spans::uniform(batch, len),
        }
    }

    /// The same sequences with other features, `[tokens, any width]`.
    #[must_use]
    pub fn with_rows(&self, rows: Tensor<2>) -> Self {
        Self {
            rows,
            spans: self.spans.clone(),
        }
    }

    /// First token of every sequence, `[batch, width]`; zeros for a sequence of no tokens.
    #[must_use]
    pub fn first(&self) -> Tensor<2> {
        let [_, width] = self.rows.dims();
        if let Some(len @ 1..) = self.spans.common_length() {
            let rows = self.rows.clone().reshape([self.spans.batch(), len * width]);
            return rows.narrow(1, 0, width);
        }
        let first = self.spans.iter().map(|mut span| span.next());
        gather(self.rows.clone(), first)
    }

    /// First `count` tokens of every sequence, `[batch, count, width]`; every sequence has as many.
    #[must_use]
    pub fn leading(&self, count: usize) -> Tensor<3> {
        let [_, width] = self.rows.dims();
        let chosen = self.choose(&Chosen::leading(&self.spans, count));
        chosen.rows.reshape([self.spans.batch(), count, width])
    }

    /// Mean over the tokens of every sequence, `[batch, width]`; zeros for a sequence of no tokens.
    #[must_use]
    pub fn mean(&self) -> Tensor<2> {
        let [_, width] = self.rows.dims();
        let batch = self.spans.batch();
        let shares = self.spans.lengths().map(|len| 1.0 / len.max(1) as f32);
        let shares = TensorData::new(shares.collect::<Vec<_>>(), [batch, 1]);
        let sums = self.padded().sum_dim(1).reshape([batch, width]);
        let device = sums.device();
        sums * Tensor::from_data(shares, &device)
    }

    /// Filled up with zeros to the longest sequence, `[batch, longest, width]`.
    #[must_use]
    pub fn padded(&self) -> Tensor<3> {
        let [_, width] = self.rows.dims();
        let shape = [self.spans.batch(), self.spans.longest(), width];
        if self.spans.tokens() == 0 {
            return Tensor::zeros(shape, &self.rows.device());
        }
        if self.spans.common_length().is_some() {
            return self.rows.clone().reshape(shape);
        }
        gather(self.rows.clone(), self.spans.padded()).reshape(shape)
    }

    /// The opposite of [`Self::padded`]: `[batch, longest, width]` to the rows of `spans`.
    #[must_use]
    pub fn from_padded(padded: Tensor<3>, spans: &Spans) -> Self {
        let [batch, longest, width] = padded.dims();
        let flat = padded.reshape([batch * longest, width]);
        let rows = if spans.common_length().is_some() {
            flat
        } else {
            let places = spans.padded().enumerate();
            let real: Vec<i64> = places
                .filter_map(|(place, token)| token.map(|_| place as i64))
                .collect();
            let device = flat.device();
            flat.select(0, indices(real, &device))
        };
        Self {
            rows,
            spans: spans.clone(),
        }
    }

    /// `count` consecutive sequences from `start` on.
    #[must_use]
    pub fn narrow(&self, start: usize, count: usize) -> Self {
        let rows = self.spans.rows(start..start + count);
        let [_, width] = self.rows.dims();
        Self {
            spans: Spans::new(self.spans.lengths().skip(start).take(count)),
            // The engine knows no part without rows.
            rows: match rows.len() {
                0 => Tensor::zeros([0, width], &self.rows.device()),
                len => self.rows.clone().narrow(0, rows.start, len),
            },
        }
    }

    /// The given sequences, in the given order, any of them more than once.
    #[must_use]
    pub fn select(&self, sequences: &[usize]) -> Self {
        let first = sequences.first().copied().unwrap_or(0);
        if sequences.iter().copied().eq(first..first + sequences.len()) {
            return self.narrow(first, sequences.len());
        }
        let rows: Vec<usize> = sequences
            .iter()
            .flat_map(|sequence| self.spans.rows(*sequence..sequence + 1))
            .collect();
        Self {
            rows: self.token_rows(&rows),
            spans: self.spans.select(sequences),
        }
    }

    /// Some tokens of the batch by number, `[chosen, width]`.
    #[must_use]
    pub fn token_rows(&self, chosen: &[usize]) -> Tensor<2> {
        let rows = chosen.iter().map(|row| *row as i64).collect();
        let device = self.rows.device();
        self.rows.clone().select(0, indices(rows, &device))
    }

    /// The chosen tokens alone.
    #[must_use]
    pub fn choose(&self, chosen: &Chosen) -> Self {
        Self {
            rows: self.token_rows(&chosen.rows),
            spans: chosen.spans.clone(),
        }
    }

    /// All sequences of all parts in one batch.
    #[must_use]
    pub fn cat(parts: Vec<Self>) -> Self {
        Self {
            spans: Spans::concat(parts.iter().map(|part| &part.spans)),
            rows: Tensor::cat(parts.into_iter().map(|part| part.rows).collect(), 0),
        }
    }

    /// Every sequence followed by the same sequence of `other`.
    #[must_use]
    pub fn followed_by(&self, other: &Self) -> Self {
        let behind = self.spans.tokens();
        let pairs = || self.spans.iter().zip(other.spans.iter());
        let order = pairs().flat_map(|(own, other)| {
            let other = other.map(|token| behind + token);
            own.chain(other).map(|token| token as i64)
        });
        let device = self.rows.device();
        let rows = Tensor::cat(vec![self.rows.clone(), other.rows.clone()], 0);
        Self {
            rows: rows.select(0, indices(order.collect(), &device)),
            spans: Spans::new(pairs().map(|(own, other)| own.len() + other.len())),
        }
    }

    /// Puts the same rows, `[count, width]`, in front of every sequence.
    #[must_use]
    pub fn prepend(&self, first: Tensor<2>) -> Self {
        let [count, width] = first.dims();
        let spans = Spans::new(self.spans.lengths().map(|len| len + count));
        let batch = spans.batch();
        if let Some(len @ 1..) = self.spans.common_length() {
            let first = first.unsqueeze::<3>().expand([batch, count, width]);
            let rest = self.rows.clone().reshape([batch, len, width]);
            return Self::uniform(Tensor::cat(vec![first, rest], 1));
        }
        let device = first.device();
        let order = self
            .spans
            .iter()
            .flat_map(|span| (0..count).chain(span.map(|token| token + count)))
            .map(|row| row as i64);
        let order = indices(order.collect(), &device);
        Self {
            rows: Tensor::cat(vec![first, self.rows.clone()], 0).select(0, order),
            spans,
        }
    }
}

/// Rows of a table by number, a row of zeros for none.
fn gather(rows: Tensor<2>, chosen: impl Iterator<Item = Option<usize>>) -> Tensor<2> {
    let device = rows.device();
    let [count, width] = rows.dims();
    let zeros = Tensor::zeros([1, width], &device);
    let chosen = chosen
        .map(|row| row.unwrap_or(count) as i64)
        .collect::<Vec<_>>();
    Tensor::cat(vec![rows, zeros], 0).select(0, indices(chosen, &device))
}

/// Row numbers as the tensor that `select` takes.
#[must_use]
pub fn indices(values: Vec<i64>, device: &Device) -> Tensor<1, Int> {
    let shape = [values.len()];
    Tensor::from_data(TensorData::new(values, shape), device)
}
