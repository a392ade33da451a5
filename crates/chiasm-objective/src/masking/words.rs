//! Words that are hidden: corrupted for MLM, masked for completion.

use chiasm_data::rng;

use super::{DrawKey, TextRows, Vocabulary, partial_shuffle, pick};
use crate::config::{GlobalCompletionConfig, MlmConfig};

/// Texts corrupted for MLM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MlmDraw {
    /// `[batch, len]`.
    pub input_ids: Vec<i64>,
    /// Flat positions asked for.
    pub positions: Vec<usize>,
    /// Original ids there.
    pub labels: Vec<u32>,
}

/// Chooses words and corrupts them: 80 % become the mask token, 10 % a random word, 10 % stay.
///
/// At least one word of every text that has one is chosen, and the choice is made over the real
/// length: two deliberate differences from the published code (`specs/scl.md` section 2.4).
#[must_use]
pub fn mlm_draw(
    text: TextRows<'_>,
    vocabulary: &Vocabulary,
    config: &MlmConfig,
    key: DrawKey<'_>,
) -> MlmDraw {
    let mut draw = MlmDraw {
        input_ids: text.input_ids.to_vec(),
        ..MlmDraw::default()
    };
    for row in 0..text.rows() {
        let mut rng = key.stream("mlm", row);
        let mut words = words(text, row, vocabulary, config.whole_word);
        let wanted = (words.len() as f64 * config.probability).round() as usize;
        let wanted = wanted.max(1).min(words.len());
        partial_shuffle(&mut words, wanted, &mut rng);
        let mut columns: Vec<usize> = words.into_iter().take(wanted).flatten().collect();
        columns.sort_unstable();
        for column in columns {
            let index = row * text.len + column;
            let Some(id) = draw.input_ids.get_mut(index) else {
                continue;
            };
            draw.positions.push(index);
            draw.labels.push(u32::try_from(*id).unwrap_or(0));
            let dice = rng::unit_f64(&mut rng);
            if dice < 0.8 {
                *id = vocabulary.mask_id;
            } else if dice < 0.9
                && let Some(random) = pick(&vocabulary.ordinary_ids, &mut rng)
            {
                *id = random;
            }
        }
    }
    draw
}

/// Groups the content columns of a row into words, or leaves every column its own group.
fn words(
    text: TextRows<'_>,
    row: usize,
    vocabulary: &Vocabulary,
    whole_word: bool,
) -> Vec<Vec<usize>> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    let mut last_word = None;
    for column in text.content(row, vocabulary) {
        let word = text
            .word_ids
            .get(row)
            .and_then(|ids| ids.get(column).copied().flatten());
        match groups.last_mut() {
            Some(group) if whole_word && word.is_some() && word == last_word => group.push(column),
            _ => groups.push(vec![column]),
        }
        last_word = word;
    }
    groups
}

/// Texts masked for completion.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CompletionDraw {
    /// `[batch, len]`.
    pub input_ids: Vec<i64>,
    /// Flat positions of the mask token, ascending.
    pub positions: Vec<usize>,
}

/// Masks texts for completion: of n content tokens, `floor(ratio * n) + 1` become the mask token (all,
/// if that is more), none in a text without content.
#[must_use]
pub fn completion_text_draw(
    text: TextRows<'_>,
    vocabulary: &Vocabulary,
    config: &GlobalCompletionConfig,
    key: DrawKey<'_>,
) -> CompletionDraw {
    let mut masked = CompletionDraw {
        input_ids: text.input_ids.to_vec(),
        positions: Vec::new(),
    };
    for row in 0..text.rows() {
        let mut rng = key.stream("completion text", row);
        let mut content = text.content(row, vocabulary);
        if content.is_empty() {
            continue;
        }
        let wanted = (config.text_mask * content.len() as f64).floor() as usize + 1;
        let chosen: Vec<usize> = if config.with_replacement {
            (0..wanted)
                .filter_map(|_| pick(&content, &mut rng))
                .collect()
        } else {
            let wanted = wanted.min(content.len());
            partial_shuffle(&mut content, wanted, &mut rng);
            content.into_iter().take(wanted).collect()
        };
        for column in chosen {
            let index = row * text.len + column;
            if let Some(id) = masked.input_ids.get_mut(index) {
                *id = vocabulary.mask_id;
                masked.positions.push(index);
            }
        }
    }
    masked.positions.sort_unstable();
    masked.positions.dedup();
    masked
}
