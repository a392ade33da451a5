//! The rows of a batch that one of several processes works on.
//!
//! A process has every pair of its part of the batch. Pairs that are put together for a loss belong to
//! the process that has their image: encoding a text once more costs less than an image. The texts that
//! it lacks for that are borrowed; they stand behind its own and meet no other loss.

use chiasm_data::Part;

use super::{MatchingDraw, TextRows};
use crate::ranking::RankingDraw;

/// Rows of a batch by number.
pub(super) struct Own {
    part: Part,
    /// Of the own pairs, ascending, then of borrowed texts, ascending.
    texts: Vec<usize>,
    /// Own pairs.
    pub(super) pairs: usize,
    /// The first so many of these are fused.
    pub(super) fused: usize,
}

impl Own {
    /// A part of `pairs` pairs, of which the first `fused` are fused; what was drawn for all of them
    /// says which texts are borrowed.
    pub(super) fn new(
        part: Part,
        [pairs, fused]: [usize; 2],
        matching: Option<&MatchingDraw>,
        ranking: Option<&RankingDraw>,
    ) -> Self {
        let mut texts: Vec<usize> = part.rows(pairs).collect();
        let matched = matching.into_iter().flat_map(MatchingDraw::pairs);
        let matched = matched.filter(|(_, image)| part.has(*image));
        let ranked = ranking.into_iter().flat_map(|draw| {
            let own = part
                .rows(fused)
                .filter_map(move |row| draw.candidates.get(row));
            own.flatten().copied()
        });
        let met = matched.map(|(text, _)| text).chain(ranked);
        let mut borrowed: Vec<usize> = met.filter(|text| !part.has(*text)).collect();
        borrowed.sort_unstable();
        borrowed.dedup();
        let pairs = texts.len();
        texts.extend(borrowed);
        Self {
            part,
            texts,
            pairs,
            fused: part.count(fused),
        }
    }

    /// Numbers of the own pairs in the batch.
    pub(super) fn rows(&self) -> &[usize] {
        self.texts.get(..self.pairs).unwrap_or_default()
    }

    /// Texts that are not of the own pairs.
    pub(super) fn borrowed(&self) -> usize {
        self.texts.len() - self.pairs
    }

    /// What own pairs have of something that each pair has, or nothing of what none has.
    pub(super) fn of<T: Clone>(&self, all: &[T]) -> Vec<T> {
        let rows = self.rows().iter();
        rows.filter_map(|row| all.get(*row).cloned()).collect()
    }

    /// Own and borrowed texts.
    pub(super) fn texts(&self, all: TextRows<'_>) -> OwnTexts {
        let row = |of: &[i64], row: usize| {
            let own = of.get(row * all.len..(row + 1) * all.len);
            own.unwrap_or_default().to_vec()
        };
        let rows = || self.texts.iter().copied();
        OwnTexts {
            input_ids: rows().flat_map(|text| row(all.input_ids, text)).collect(),
            attention_mask: rows()
                .flat_map(|text| row(all.attention_mask, text))
                .collect(),
            len: all.len,
            word_ids: rows()
                .filter_map(|text| all.word_ids.get(text).cloned())
                .collect(),
        }
    }

    /// Where a text of the batch stands among the own and borrowed ones.
    fn place(&self, text: usize) -> Option<usize> {
        let (own, borrowed) = self.texts.split_at(self.pairs);
        let borrowed = || Some(self.pairs + borrowed.binary_search(&text).ok()?);
        own.binary_search(&text).ok().or_else(borrowed)
    }

    /// The pairs of a draw whose image is here, by numbers here; `pictures` stand behind each pair.
    pub(super) fn matching(&self, all: &MatchingDraw, pictures: usize) -> MatchingDraw {
        let mut own = MatchingDraw::default();
        for ((text, image), label) in all.pairs().zip(&all.labels) {
            let here = self.part.has(image).then(|| self.place(image)).flatten();
            if let (Some(image), Some(text)) = (here, self.place(text)) {
                own.texts.push(text);
                own.partner.push(image * pictures);
                own.labels.push(*label);
            }
        }
        own
    }

    /// The candidates of own images, by numbers here.
    pub(super) fn ranking(&self, all: &RankingDraw) -> RankingDraw {
        let own = self.rows().iter();
        let own = own.filter_map(|row| all.candidates.get(*row));
        let places =
            |texts: &Vec<usize>| texts.iter().filter_map(|text| self.place(*text)).collect();
        RankingDraw {
            candidates: own.map(places).collect(),
        }
    }
}

/// Texts that stand together again.
pub(super) struct OwnTexts {
    input_ids: Vec<i64>,
    attention_mask: Vec<i64>,
    len: usize,
    word_ids: Vec<Vec<Option<u32>>>,
}

impl OwnTexts {
    pub(super) fn rows(&self) -> TextRows<'_> {
        TextRows {
            input_ids: &self.input_ids,
            attention_mask: &self.attention_mask,
            len: self.len,
            word_ids: &self.word_ids,
        }
    }
}
