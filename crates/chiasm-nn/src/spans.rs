//! Where each sequence of a packed batch begins and ends.

use std::ops::Range;
use std::sync::Arc;

/// The lengths of a batch of sequences whose tokens are stored one after another, without padding.
///
/// Lives on the host; cloning is cheap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spans {
    /// First token of every sequence, and one past the last token of the last.
    starts: Arc<[usize]>,
}

impl Spans {
    /// Sequences of the given lengths; 0 is allowed.
    #[must_use]
    pub fn new(lengths: impl IntoIterator<Item = usize>) -> Self {
        let mut end = 0;
        let starts = std::iter::once(0).chain(lengths.into_iter().map(|len| {
            end += len;
            end
        }));
        Self {
            starts: starts.collect(),
        }
    }

    /// `batch` sequences of `len` tokens each.
    #[must_use]
    pub fn uniform(batch: usize, len: usize) -> Self {
        Self::new(std::iter::repeat_n(len, batch))
    }

    /// Number of sequences.
    #[must_use]
    pub fn batch(&self) -> usize {
        self.starts.len().saturating_sub(1)
    }

    /// Tokens of all sequences together.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.starts.last().copied().unwrap_or(0)
    }

    /// Tokens of the longest sequence.
    #[must_use]
    pub fn longest(&self) -> usize {
        self.iter().map(|span| span.len()).max().unwrap_or(0)
    }

    /// The one length that all sequences have, if they have one.
    #[must_use]
    pub fn common_length(&self) -> Option<usize> {
        let longest = self.longest();
        (self.tokens() == longest * self.batch()).then_some(longest)
    }

    /// Rows of every sequence in the packed batch, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Range<usize>> + '_ {
        self.starts.windows(2).map(|pair| match pair {
            [start, end] => *start..*end,
            _ => 0..0,
        })
    }

    /// Rows of the consecutive sequences `range`.
    ///
    /// # Panics
    /// If there are not as many sequences: an error in the calling code.
    #[must_use]
    pub fn rows(&self, range: Range<usize>) -> Range<usize> {
        self.starts[range.start]..self.starts[range.end]
    }
}

impl Spans {
    /// Lengths of the sequences.
    pub fn lengths(&self) -> impl ExactSizeIterator<Item = usize> + '_ {
        self.iter().map(|span| span.len())
    }

    /// The given sequences, in the given order, any of them more than once.
    ///
    /// # Panics
    /// If one does not exist: an error in the calling code.
    #[must_use]
    pub fn select(&self, sequences: &[usize]) -> Self {
        Self::new(
            sequences
                .iter()
                .map(|i| self.starts[i + 1] - self.starts[*i]),
        )
    }

    /// The frames of clips that consist of `frames` parts of equal length each.
    #[must_use]
    pub fn frames(&self, frames: usize) -> Self {
        let of = |len: usize| std::iter::repeat_n(len / frames.max(1), frames);
        Self::new(self.lengths().flat_map(of))
    }

    /// The opposite of [`Self::frames`]: every `frames` sequences as one.
    #[must_use]
    pub fn clips(&self, frames: usize) -> Self {
        let lengths: Vec<usize> = self.lengths().collect();
        Self::new(lengths.chunks(frames.max(1)).map(|clip| clip.iter().sum()))
    }

    /// These sequences followed by those.
    #[must_use]
    pub fn concat<'a>(parts: impl IntoIterator<Item = &'a Self>) -> Self {
        let lengths: Vec<usize> = parts.into_iter().flat_map(Self::lengths).collect();
        Self::new(lengths)
    }

    /// Every place of the padded batch `[batch, longest]`, row after row: the token that stands
    /// there, or none.
    pub fn padded(&self) -> impl Iterator<Item = Option<usize>> + '_ {
        let longest = self.longest();
        self.iter()
            .flat_map(move |span| (0..longest).map(move |at| span.clone().nth(at)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_zero_keep_their_place() {
        let spans = Spans::new([2, 0, 3]);
        assert_eq!((spans.batch(), spans.tokens(), spans.longest()), (3, 5, 3));
        assert_eq!(spans.iter().collect::<Vec<_>>(), [0..2, 2..2, 2..5]);
        assert_eq!(spans.rows(1..3), 2..5);
        assert_eq!(spans.common_length(), None);
        assert_eq!(spans.select(&[2, 0, 2]), Spans::new([3, 2, 3]));
        let padded: Vec<_> = spans.padded().collect();
        let token = |at| Some(at);
        assert_eq!(
            padded,
            [
                token(0),
                token(1),
                None,
                None,
                None,
                None,
                token(2),
                token(3),
                token(4)
            ]
        );
    }

    #[test]
    fn equal_lengths_are_recognised() {
        assert_eq!(Spans::uniform(4, 7).common_length(), Some(7));
        assert_eq!(Spans::uniform(0, 7).common_length(), Some(0));
        assert_eq!(Spans::new([0, 0]).common_length(), Some(0));
    }
}
