//! Everything random in a step, drawn on the host: corrupted words, masked texts, dropped
//! patches, matching partners.
//!
//! Owns what draws have in common and the input of a step; the draws themselves are in files of their own.
//! Each draw is a pure function of (seed, step, sample), so that a resumed run repeats it, and
//! none changes its input.

mod own;
mod partners;
mod seen;
mod targets;
#[cfg(test)]
mod tests;
mod words;

use std::ops::Range;

use burn::tensor::Device;
use chiasm_data::Part;
use chiasm_data::rng::{self, Rng};
use chiasm_nn::text::TextInput;

use crate::config::ObjectivesConfig;
use crate::forward::{MaskedText, StepInput};
use crate::knowledge_masks::{Knowledge, KnowledgeRows, knowledge_draw};
use crate::mlm::MlmTargets;
use own::Own;

pub(crate) use partners::partners;
pub use partners::{MatchingDraw, matching_draw, ranking_draw};
pub use seen::{ImageRows, SeenRows, hidden_draw, kept_patches, patch_draw};
pub use targets::ClassRows;
use targets::ground_targets;
pub use words::{CompletionDraw, MlmDraw, completion_text_draw, mlm_draw};

/// What masking must know of the tokenizer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vocabulary {
    /// Id of the mask token.
    mask_id: i64,
    /// Ids that are never masked and never drawn as a random word.
    special_ids: Vec<i64>,
    /// All others.
    ordinary_ids: Vec<i64>,
}

impl Vocabulary {
    /// Of `size` ids from 0, those that `is_special` says are special.
    #[must_use]
    pub fn new(size: usize, mask_id: i64, is_special: impl Fn(i64) -> bool) -> Self {
        let (special_ids, ordinary_ids) = (0..size as i64).partition(|id| is_special(*id));
        Self {
            mask_id,
            special_ids,
            ordinary_ids,
        }
    }

    /// Id of the mask token.
    #[must_use]
    pub(crate) fn mask_id(&self) -> i64 {
        self.mask_id
    }

    /// The ordinary word that a number in `[0, 1)` stands for.
    pub(crate) fn ordinary(&self, share: f64) -> Option<i64> {
        let place = (share * self.ordinary_ids.len() as f64) as usize;
        self.ordinary_ids.get(place).copied()
    }
}

/// A batch of tokenised texts on the host, padded to one length.
#[derive(Clone, Copy, Debug)]
pub struct TextRows<'a> {
    /// `[batch, len]`, row after row.
    pub input_ids: &'a [i64],
    /// `[batch, len]`, 1 = a real token.
    pub attention_mask: &'a [i64],
    /// Columns.
    pub len: usize,
    /// Word each token belongs to, a row a text; `None` for special tokens.
    pub word_ids: &'a [Vec<Option<u32>>],
}

impl<'a> TextRows<'a> {
    /// The first `rows` texts.
    fn first(self, rows: usize) -> TextRows<'a> {
        let tokens = (rows * self.len).min(self.input_ids.len());
        TextRows {
            input_ids: self.input_ids.get(..tokens).unwrap_or_default(),
            attention_mask: self.attention_mask.get(..tokens).unwrap_or_default(),
            len: self.len,
            word_ids: self.word_ids.get(..rows).unwrap_or(self.word_ids),
        }
    }

    /// Columns of row `row` that hold words: neither special nor padding.
    fn content(&self, row: usize, vocabulary: &Vocabulary) -> Vec<usize> {
        let start = row * self.len;
        (0..self.len)
            .filter(|column| {
                let index = start + column;
                self.attention_mask.get(index) == Some(&1)
                    && self
                        .input_ids
                        .get(index)
                        .is_some_and(|id| !vocabulary.special_ids.contains(id))
            })
            .collect()
    }

    /// Tokens of a row that are not padding.
    pub(crate) fn real_tokens(&self, row: usize) -> usize {
        let mask = self
            .attention_mask
            .get(row * self.len..(row + 1) * self.len);
        mask.unwrap_or_default()
            .iter()
            .filter(|keep| **keep == 1)
            .count()
    }

    pub(crate) fn rows(&self) -> usize {
        self.input_ids.len().checked_div(self.len).unwrap_or(0)
    }

    /// Flat positions, counted without padding.
    fn packed(&self, positions: impl Iterator<Item = usize>) -> Vec<usize> {
        let mut packed = 0;
        let places: Vec<usize> = self
            .attention_mask
            .iter()
            .map(|keep| {
                let place = packed;
                packed += usize::from(*keep == 1);
                place
            })
            .collect();
        positions
            .filter_map(|position| places.get(position).copied())
            .collect()
    }
}

/// What identifies a step's draws.
#[derive(Clone, Copy, Debug)]
pub struct DrawKey<'a> {
    /// Seed of the run.
    pub seed: u64,
    /// Micro-batch counted from the start of the run.
    pub step: u64,
    /// Index of every sample in its dataset.
    pub samples: &'a [usize],
}

impl DrawKey<'_> {
    fn stream(&self, purpose: &str, row: usize) -> Rng {
        let sample = self.samples.get(row).copied().unwrap_or(row);
        rng::stream(self.seed, purpose, &[self.step, sample as u64])
    }
}

/// What else is known of the samples of a batch.
#[derive(Clone, Copy, Debug, Default)]
pub struct KnownRows<'a> {
    /// Their classes, where they have any.
    pub classes: Option<ClassRows<'a>>,
    /// What each text refers to, as fractions of its picture.
    pub referred: &'a [Option<[f32; 4]>],
    /// The texts themselves.
    pub captions: &'a [String],
    /// Which bytes of its text each token is, special tokens none.
    pub offsets: &'a [Vec<Range<usize>>],
    /// What a run knows of captions and classes, where scene graphs lead masks.
    pub knowledge: Option<&'a Knowledge>,
    /// The groups that they are in, where these are learned.
    pub clusters: Option<&'a [u32]>,
    /// The samples that this process works on; of these alone there are pixels.
    pub part: Part,
}

/// Draws what the enabled objectives need and moves the own part of the batch to the device. What
/// concerns several samples is drawn for the whole batch, so that all processes draw the same.
#[must_use]
pub fn step_input(
    text: TextRows<'_>,
    images: SeenRows<'_>,
    known: KnownRows<'_>,
    vocabulary: &Vocabulary,
    config: &ObjectivesConfig,
    key: DrawKey<'_>,
    device: &Device,
) -> StepInput {
    let (part, all) = (known.part, text.rows());
    let all_fused = config.fused_size(all);
    let matching = config.matching.as_ref();
    let matching = matching.map(|_| matching_draw(text.first(all_fused), key));
    let ranking = config.ranking.as_ref();
    let ranking = ranking.map(|of| ranking_draw(text, all_fused, of.candidates, key));
    let own = Own::new(part, [all, all_fused], matching.as_ref(), ranking.as_ref());
    let knowledge = match (&config.knowledge, images, known.knowledge) {
        (Some(config), SeenRows::Regions(regions), Some(knowledge)) => {
            let rows = KnowledgeRows {
                captions: known.captions,
                offsets: known.offsets,
                regions,
                part,
            };
            let text = text.first(all_fused);
            let draw = knowledge_draw(text, rows, knowledge, vocabulary, config, key, device);
            Some(draw)
        }
        _ => None,
    };
    // From here on all is of this process alone.
    let (pairs, fused_size) = (own.pairs, own.fused);
    let texts = own.texts(text);
    let text = texts.rows();
    let samples = own.of(key.samples);
    let key = DrawKey {
        samples: &samples,
        ..key
    };
    let regions;
    let images = match images {
        SeenRows::Regions(rows) if !part.is_whole() => {
            regions = rows.select(own.rows());
            SeenRows::Regions(&regions)
        }
        images => images,
    };
    let fused = text.first(fused_size);
    let view = |ids: &[i64]| TextInput::from_padded(ids, fused.attention_mask, fused.len);
    let pictures = images.pictures();
    let masks = config.completion_masks();
    StepInput {
        seen: images.seen(pairs, device),
        encoded: None,
        pictures,
        clean: TextInput::from_padded(text.input_ids, text.attention_mask, text.len),
        borrowed: own.borrowed(),
        pairs,
        fused_size,
        mlm: config.mlm.as_ref().map(|mlm| {
            let draw = mlm_draw(fused, vocabulary, mlm, key);
            let positions = fused.packed(draw.positions.iter().copied());
            let targets = MlmTargets {
                positions,
                labels: draw.labels,
            };
            (view(&draw.input_ids), targets)
        }),
        masked: masks.as_ref().map(|masks| {
            let draw = completion_text_draw(fused, vocabulary, masks, key);
            MaskedText {
                input: view(&draw.input_ids),
                positions: fused.packed(draw.positions.into_iter()),
            }
        }),
        kept_patches: masks
            .as_ref()
            .map(|masks| images.kept(fused_size, masks.image_drop, key)),
        hidden_patches: config
            .local_completion
            .as_ref()
            .filter(|_| config.completes_patches())
            .map(|local| images.hidden(fused_size, local.image_mask, key)),
        matching: matching.map(|draw| own.matching(&draw, pictures)),
        ranking: ranking.map(|draw| own.ranking(&draw)),
        classes: match (&config.classification, known.classes) {
            (Some(config), Some(classes)) => {
                let classes = ClassRows {
                    targets: &own.of(classes.targets),
                    shares: &own.of(classes.shares),
                    ..classes
                };
                Some(classes.targets(fused_size, config))
            }
            _ => None,
        },
        knowledge,
        grounding: match (&config.grounding, images) {
            (Some(_), SeenRows::Regions(rows)) => {
                Some(ground_targets(rows, &own.of(known.referred), fused_size))
            }
            _ => None,
        },
        clusters: match (&config.cluster, known.clusters) {
            (Some(_), Some(clusters)) => {
                Some(own.of(clusters).into_iter().take(fused_size).collect())
            }
            _ => None,
        },
    }
}

fn pick<T: Copy>(items: &[T], rng: &mut Rng) -> Option<T> {
    match items.len() {
        0 => None,
        len => items.get(rng::below(rng, len)).copied(),
    }
}

/// Fisher–Yates over the first `count` places: they hold a uniform draw without replacement.
fn partial_shuffle<T>(items: &mut [T], count: usize, rng: &mut Rng) {
    let len = items.len();
    for place in 0..count.min(len) {
        let other = place + rng::below(rng, len - place);
        items.swap(place, other);
    }
}
