use super::*;
use crate::config::{GlobalCompletionConfig, MlmConfig};
use proptest::prelude::*;

fn vocabulary() -> Vocabulary {
    Vocabulary::new(100, 4, |id| id <= 4)
}

/// Texts of the given numbers of words, on the host.
struct Host {
    input_ids: Vec<i64>,
    attention_mask: Vec<i64>,
    len: usize,
    word_ids: Vec<Vec<Option<u32>>>,
}

impl Host {
    fn new(lengths: &[usize]) -> Self {
        let len = lengths.iter().max().copied().unwrap_or(0) + 2;
        let mut host = Self {
            input_ids: Vec::new(),
            attention_mask: Vec::new(),
            len,
            word_ids: Vec::new(),
        };
        for (row, n) in lengths.iter().enumerate() {
            let mut line = vec![2];
            line.extend((0..*n).map(|token| 5 + ((row * 7 + token * 3) % 90) as i64));
            line.push(3);
            let real = line.len();
            line.resize(len, 0);
            host.input_ids.extend(line);
            host.attention_mask
                .extend((0..len).map(|column| i64::from(column < real)));
            let word =
                |column: usize| (column > 0 && column <= *n).then(|| (column as u32 - 1) / 2);
            host.word_ids.push((0..len).map(word).collect());
        }
        host
    }

    fn rows(&self) -> TextRows<'_> {
        TextRows {
            input_ids: &self.input_ids,
            attention_mask: &self.attention_mask,
            len: self.len,
            word_ids: &self.word_ids,
        }
    }
}

/// Contract 7 of `specs/scl.md`.
#[test]
fn kept_patches_follow_the_float_rule() {
    for (side, kept) in [
        (224, 39),
        (256, 51),
        (288, 64),
        (320, 79),
        (384, 115),
        (576, 259),
    ] {
        assert_eq!(
            kept_patches((side / 16) * (side / 16), 0.8),
            kept,
            "at {side}"
        );
    }
}

proptest! {
    /// Invariant S7: specials and padding are never masked, the count is within bounds, the
    /// input stays as it was.
    #[test]
    fn completion_masks_are_pure_and_bounded(
        lengths in prop::collection::vec(0usize..30, 1..6),
        seed in 0u64..1000,
        with_replacement: bool,
    ) {
        let host = Host::new(&lengths);
        let (ids, len) = (&host.input_ids, host.len);
        let text = host.rows();
        let samples: Vec<usize> = (0..lengths.len()).collect();
        let key = DrawKey { seed, step: 3, samples: &samples };
        let config = GlobalCompletionConfig { with_replacement, ..Default::default() };
        let masked = completion_text_draw(text, &vocabulary(), &config, key);
        prop_assert_eq!(&masked, &completion_text_draw(text, &vocabulary(), &config, key));
        let masked_ids = &masked.input_ids;
        let is_masked = |index: &usize| masked_ids[*index] != ids[*index];
        let places: Vec<usize> = (0..ids.len()).filter(is_masked).collect();
        prop_assert_eq!(&masked.positions, &places);
        for (row, n) in lengths.iter().enumerate() {
            let changed: Vec<usize> =
                (0..len).filter(|c| masked_ids[row * len + c] != ids[row * len + c]).collect();
            prop_assert!(changed.iter().all(|c| *c > 0 && c <= n));
            prop_assert!(changed.len() <= (0.4 * *n as f64).floor() as usize + 1);
            prop_assert_eq!(changed.is_empty(), *n == 0);
        }
    }

    #[test]
    fn mlm_takes_whole_words_and_at_least_one(
        lengths in prop::collection::vec(0usize..30, 1..6),
        seed in 0u64..1000,
    ) {
        let host = Host::new(&lengths);
        let (ids, len, word_ids) = (&host.input_ids, host.len, &host.word_ids);
        let text = host.rows();
        let samples: Vec<usize> = (0..lengths.len()).collect();
        let key = DrawKey { seed, step: 3, samples: &samples };
        let draw = mlm_draw(text, &vocabulary(), &MlmConfig::default(), key);
        let chosen = |row: usize| draw.positions.iter()
            .filter(|p| **p / len == row)
            .map(|p| *p % len).collect::<Vec<_>>();
        for (row, n) in lengths.iter().enumerate() {
            let columns = chosen(row);
            prop_assert_eq!(columns.is_empty(), *n == 0);
            for column in &columns {
                prop_assert!(*column > 0 && column <= n);
                let word = word_ids[row][*column];
                for (other, id) in word_ids[row].iter().enumerate() {
                    prop_assert!(*id != word || columns.contains(&other));
                }
            }
        }
        for (position, label) in draw.positions.iter().zip(&draw.labels) {
            prop_assert_eq!(i64::from(*label), ids[*position]);
        }
    }

    /// Invariant M2: half are positives; a negative never equals its positive.
    #[test]
    fn matching_pairs_are_honest(batch in 1usize..20, seed in 0u64..1000) {
        let host = Host::new(&vec![4; batch]);
        let text = host.rows();
        let samples: Vec<usize> = (0..batch).collect();
        let draw = matching_draw(text, DrawKey { seed, step: 0, samples: &samples });
        for row in 0..batch {
            let own = draw.partner[row] == row;
            prop_assert_eq!(own, draw.labels[row] == 1);
        }
        if batch > 1 {
            prop_assert_eq!(draw.labels.iter().sum::<u32>() as usize, batch / 2);
        } else {
            prop_assert_eq!(draw.labels[0], 1);
        }
    }

    /// Invariants S4, S6 and A5: distinct patches within the image, drawn apart for every sample,
    /// the same ones in all frames of a clip.
    #[test]
    fn drawn_patches_are_distinct(
        batch in 1usize..8,
        patches in 5usize..80,
        frames in 1usize..4,
        pictures in 1usize..3,
        seed in 0u64..1000,
    ) {
        let samples: Vec<usize> = (0..batch).collect();
        let key = DrawKey { seed, step: 1, samples: &samples };
        let images = ImageRows { pixel_values: &[], pictures, frames, image_size: 0, patches };
        let kept = kept_patches(patches, 0.8);
        let hidden = (patches as f64 * 0.3).floor() as usize;
        for (flat, count, pictures) in [
            (patch_draw(batch, images, 0.8, key).rows, kept, pictures),
            (hidden_draw(batch, images, 0.3, key), hidden, 1),
        ] {
            prop_assert_eq!(flat.len(), batch * frames * count);
            for (number, frame) in flat.chunks(count.max(1)).enumerate() {
                let (row, frame_number) = (number / frames, number % frames);
                let picture = row * pictures * frames + frame_number;
                prop_assert!(frame.windows(2).all(|pair| pair[0] < pair[1]));
                prop_assert!(frame.iter().all(|i| *i / patches == picture));
                let first = &flat[row * frames * count..][..count];
                let same = frame.iter().zip(first).all(|(a, b)| a % patches == b % patches);
                prop_assert!(same);
            }
        }
    }

    /// The own text first, others of other samples behind it, as many for all.
    #[test]
    fn candidates_are_honest(batch in 1usize..20, wanted in 1usize..20, seed in 0u64..1000) {
        let host = Host::new(&vec![4; batch]);
        let samples: Vec<usize> = (0..batch).collect();
        let key = DrawKey { seed, step: 0, samples: &samples };
        let draw = ranking_draw(host.rows(), batch, wanted, key);
        for (row, texts) in draw.candidates.iter().enumerate() {
            prop_assert_eq!(texts[0], row);
            prop_assert_eq!(texts.len(), wanted.min(batch));
            let mut distinct = texts.clone();
            distinct.sort_unstable();
            distinct.dedup();
            prop_assert_eq!(distinct.len(), texts.len());
        }
    }
}
