//! Who is put beside whom: images that texts are matched against, texts that an image is ranked with.

use chiasm_data::rng;

use super::{DrawKey, TextRows, partial_shuffle, pick};
use crate::ranking::RankingDraw;

/// The texts that each of the first `images` texts' image is ranked with: its own, then `candidates`
/// - 1 of other samples with another text; as many for all as the one with the fewest has.
#[must_use]
pub fn ranking_draw(
    text: TextRows<'_>,
    images: usize,
    candidates: usize,
    key: DrawKey<'_>,
) -> RankingDraw {
    let row_ids = |row: usize| text.input_ids.get(row * text.len..(row + 1) * text.len);
    let mut drawn: Vec<Vec<usize>> = (0..images)
        .map(|row| {
            let mut others: Vec<usize> = (0..text.rows())
                .filter(|other| {
                    key.samples.get(*other) != key.samples.get(row)
                        && row_ids(*other) != row_ids(row)
                })
                .collect();
            let wanted = candidates.saturating_sub(1);
            partial_shuffle(&mut others, wanted, &mut key.stream("ranking", row));
            others.truncate(wanted);
            std::iter::once(row).chain(others).collect()
        })
        .collect();
    let fewest = drawn.iter().map(Vec::len).min().unwrap_or(0);
    for row in &mut drawn {
        row.truncate(fewest);
    }
    RankingDraw { candidates: drawn }
}

/// Texts and the image that each is matched against, and 1 where it is its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MatchingDraw {
    /// Text index, a pair.
    pub texts: Vec<usize>,
    /// Image index, a pair.
    pub partner: Vec<usize>,
    /// 1 = own image.
    pub labels: Vec<u32>,
}

impl MatchingDraw {
    /// Text and image of each pair.
    pub fn pairs(&self) -> impl Iterator<Item = (usize, usize)> {
        self.texts.iter().copied().zip(self.partner.iter().copied())
    }

    /// Some of the pairs.
    pub(crate) fn of(&self, pairs: &[usize]) -> Self {
        fn chosen<T: Copy>(of: &[T], pairs: &[usize]) -> Vec<T> {
            let places = pairs.iter();
            places.filter_map(|pair| of.get(*pair).copied()).collect()
        }
        Self {
            texts: chosen(&self.texts, pairs),
            partner: chosen(&self.partner, pairs),
            labels: chosen(&self.labels, pairs),
        }
    }
}

/// Half of the texts (rounded down) keep their image; every other gets that of another sample of
/// the batch with another text. A text without such a sample keeps its own and counts as a match.
#[must_use]
pub fn matching_draw(text: TextRows<'_>, key: DrawKey<'_>) -> MatchingDraw {
    partners(text, text.rows() / 2, "matching", key)
}

/// [`matching_draw`] in which so many texts keep their image.
pub(crate) fn partners(
    text: TextRows<'_>,
    keep: usize,
    purpose: &str,
    key: DrawKey<'_>,
) -> MatchingDraw {
    let batch = text.rows();
    let mut rng = rng::stream(key.seed, purpose, &[key.step]);
    let mut order: Vec<usize> = (0..batch).collect();
    partial_shuffle(&mut order, batch, &mut rng);
    let row_ids = |row: usize| text.input_ids.get(row * text.len..(row + 1) * text.len);
    let mut draw = MatchingDraw {
        texts: (0..batch).collect(),
        partner: (0..batch).collect(),
        labels: vec![1; batch],
    };
    for row in order.into_iter().skip(keep) {
        let others: Vec<usize> = (0..batch)
            .filter(|other| {
                key.samples.get(*other) != key.samples.get(row) && row_ids(*other) != row_ids(row)
            })
            .collect();
        let Some(other) = pick(&others, &mut rng) else {
            continue;
        };
        if let (Some(partner), Some(label)) = (draw.partner.get_mut(row), draw.labels.get_mut(row))
        {
            *partner = other;
            *label = 0;
        }
    }
    draw
}
