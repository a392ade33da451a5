//! Everything random in a step, drawn on the host: corrupted words, masked texts, dropped
//! patches, matching partners.
//!
//! Each draw is a pure function of (seed, step, sample), so that a resumed run repeats it, and
//! none changes its input.

use std::ops::Range;

use burn::tensor::{Device, Tensor, TensorData};
use chiasm_data::RegionRows;
use chiasm_data::rng::{self, Rng};
use chiasm_nn::Spans;
use chiasm_nn::boxes::in_pixels;
use chiasm_nn::model::Seen;
use chiasm_nn::regions::Regions;
use chiasm_nn::text::TextInput;
use chiasm_nn::tokens::Chosen;

use crate::classification::ClassTargets;
use crate::config::{
    ClassLoss, ClassificationConfig, GlobalCompletionConfig, MlmConfig, ObjectivesConfig,
};
use crate::forward::{MaskedText, StepInput};
use crate::grounding::GroundTargets;
use crate::knowledge_masks::{Knowledge, KnowledgeRows, knowledge_draw};
use crate::mlm::MlmTargets;
use crate::ranking::RankingDraw;

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

/// Patches kept of `patches` when a share `drop` is removed: `floor(patches * (1 - drop))` in
/// floating point, as the published code counts (79 of 400 at 0.8, not 80).
#[must_use]
pub fn kept_patches(patches: usize, drop: f64) -> usize {
    (patches as f64 * (1.0 - drop)).floor() as usize
}

/// Some places of each of `batch` pictures, `count` of `patches`, ascending within a picture.
fn places(
    batch: usize,
    patches: usize,
    count: usize,
    purpose: &str,
    key: DrawKey<'_>,
) -> Vec<Vec<usize>> {
    let of = |row| {
        let mut rng = key.stream(purpose, row);
        let mut order: Vec<usize> = (0..patches).collect();
        partial_shuffle(&mut order, count, &mut rng);
        order.truncate(count);
        order.sort_unstable();
        order
    };
    (0..batch).map(of).collect()
}

/// The patches kept of the first picture of every text, in raster order within a picture; of a clip
/// the same ones in all frames.
#[must_use]
pub fn patch_draw(batch: usize, images: ImageRows<'_>, drop: f64, key: DrawKey<'_>) -> Chosen {
    let (patches, frames) = (images.patches, images.frames);
    let kept = kept_patches(patches, drop);
    let places = places(batch, patches, kept, "completion image", key);
    let of = |(row, places): (usize, &Vec<usize>)| {
        let first = row * images.pictures * frames;
        let frame = |frame| {
            let start = (first + frame) * patches;
            places.iter().map(move |place| start + place)
        };
        (0..frames).flat_map(frame).collect::<Vec<_>>()
    };
    Chosen {
        rows: places.iter().enumerate().flat_map(of).collect(),
        spans: Spans::uniform(batch * frames, kept),
    }
}

/// The patches hidden in the first picture of every text, `floor(mask * patches)` of each, numbered in
/// these pictures alone; of a clip the same ones in all frames.
#[must_use]
pub fn hidden_draw(batch: usize, images: ImageRows<'_>, mask: f64, key: DrawKey<'_>) -> Vec<usize> {
    let (patches, frames) = (images.patches, images.frames);
    let hidden = (patches as f64 * mask).floor() as usize;
    let places = places(batch, patches, hidden, "hidden patches", key);
    let of = |(row, places): (usize, &Vec<usize>)| {
        let frame = |frame| {
            let start = (row * frames + frame) * patches;
            places.iter().map(move |place| start + place)
        };
        (0..frames).flat_map(frame).collect::<Vec<_>>()
    };
    places.iter().enumerate().flat_map(of).collect()
}

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

/// Image each text is matched against, and 1 where it is its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MatchingDraw {
    /// Image index, a text.
    pub partner: Vec<usize>,
    /// 1 = own image.
    pub labels: Vec<u32>,
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

/// What is to be seen in a batch, on the host.
#[derive(Clone, Copy, Debug)]
pub enum SeenRows<'a> {
    /// Pictures and clips.
    Pixels(ImageRows<'a>),
    /// Regions, one image a text.
    Regions(&'a RegionRows),
}

impl SeenRows<'_> {
    /// Images of a text.
    fn pictures(&self) -> usize {
        match self {
            Self::Pixels(images) => images.pictures,
            Self::Regions(_) => 1,
        }
    }

    /// On the device; of `pairs` texts.
    fn seen(&self, pairs: usize, device: &Device) -> Seen {
        match self {
            Self::Pixels(images) => {
                let (side, frames) = (images.image_size, images.frames);
                let shape = [pairs * images.pictures, frames, 3, side, side];
                let data = TensorData::new(images.pixel_values.to_vec(), shape);
                Seen::Pixels(Tensor::from_data(data, device))
            }
            Self::Regions(rows) => Seen::Regions(Regions::new(rows, device)),
        }
    }

    /// The patches or regions kept in the masked view of the first `batch` images.
    fn kept(&self, batch: usize, drop: f64, key: DrawKey<'_>) -> Chosen {
        match self {
            Self::Pixels(images) => patch_draw(batch, *images, drop, key),
            Self::Regions(rows) => {
                let kept = |count: usize| kept_patches(count, drop).max(1).min(count);
                let (rows, lengths) = region_draw(rows, batch, kept, "completion image", key);
                Chosen {
                    rows,
                    spans: Spans::new(lengths),
                }
            }
        }
    }

    /// The patches or regions hidden in the first `batch` images.
    fn hidden(&self, batch: usize, mask: f64, key: DrawKey<'_>) -> Vec<usize> {
        match self {
            Self::Pixels(images) => hidden_draw(batch, *images, mask, key),
            Self::Regions(rows) => {
                let hidden = |count: usize| (count as f64 * mask).floor() as usize;
                region_draw(rows, batch, hidden, "hidden patches", key).0
            }
        }
    }
}

/// Some regions of each of the first `batch` images, as many as `count` says of all of them: their
/// numbers in the batch, ascending, and how many there are of each image.
fn region_draw(
    rows: &RegionRows,
    batch: usize,
    count: impl Fn(usize) -> usize,
    purpose: &str,
    key: DrawKey<'_>,
) -> (Vec<usize>, Vec<usize>) {
    let (mut drawn, mut lengths, mut start) = (Vec::new(), Vec::new(), 0);
    for (row, regions) in rows.counts.iter().take(batch).enumerate() {
        let mut order: Vec<usize> = (0..*regions).collect();
        let wanted = count(*regions);
        partial_shuffle(&mut order, wanted, &mut key.stream(purpose, row));
        order.truncate(wanted);
        order.sort_unstable();
        drawn.extend(order.iter().map(|place| start + place));
        lengths.push(order.len());
        start += regions;
    }
    (drawn, lengths)
}

/// What the regions of the first `batch` images should be told of what their texts refer to; those of
/// texts that refer to nothing known are right nowhere.
fn ground_targets(rows: &RegionRows, referred: &[Option<[f32; 4]>], batch: usize) -> GroundTargets {
    let mut start = 0;
    let pictures = rows
        .counts
        .iter()
        .zip(&rows.sizes)
        .zip(referred)
        .take(batch);
    let pictures = pictures.map(|((count, (width, height)), wanted)| {
        let size = [*width, *height].map(f64::from);
        let own = rows.boxes.get(start..start + count).unwrap_or_default();
        start += count;
        let nowhere = [f64::NEG_INFINITY; 4];
        let wanted = wanted.map_or(nowhere, |wanted| in_pixels(wanted, size));
        let own = own.iter().map(|region| in_pixels(*region, size));
        (own.collect(), wanted)
    });
    GroundTargets::of(&pictures.collect::<Vec<_>>())
}

/// The pictures of a batch on the host.
#[derive(Clone, Copy, Debug)]
pub struct ImageRows<'a> {
    /// `[batch, pictures, frames, 3, side, side]`.
    pub pixel_values: &'a [f32],
    /// Pictures that a text speaks of together, at least 1.
    pub pictures: usize,
    /// Frames of a picture, at least 1; 1 unless it is a clip.
    pub frames: usize,
    /// Side in pixels.
    pub image_size: usize,
    /// Patches of one frame.
    pub patches: usize,
}

/// The right classes of a batch on the host.
#[derive(Clone, Copy, Debug)]
pub struct ClassRows<'a> {
    /// For each sample its right classes and what each is worth.
    pub targets: &'a [Vec<(u32, f32)>],
    /// For each sample the part of all answers given that each of its classes is.
    pub shares: &'a [Vec<(u32, f32)>],
    /// Classes there are.
    pub classes: usize,
    /// How far the run has come, 0 to 1.
    pub progress: f64,
}

impl ClassRows<'_> {
    /// In the form that a loss takes: what each class is worth, its share of the answers, or the one
    /// that is worth most.
    fn targets(self, batch: usize, config: &ClassificationConfig) -> ClassTargets {
        let rows = self.targets.iter().take(batch);
        match config.loss {
            ClassLoss::CrossEntropy => {
                let best = |targets: &Vec<(u32, f32)>| {
                    let best = targets
                        .iter()
                        .max_by(|a, b| a.1.total_cmp(&b.1).then(b.0.cmp(&a.0)));
                    best.map_or(0, |(class, _)| *class)
                };
                ClassTargets::Class(rows.map(best).collect())
            }
            ClassLoss::Divergence if self.progress < config.binary_from => {
                ClassTargets::Shares(self.dense(batch, self.shares))
            }
            ClassLoss::Divergence | ClassLoss::Binary => {
                ClassTargets::Worth(self.dense(batch, self.targets))
            }
        }
    }

    /// The values of all classes, `[batch, classes]`; 0 where none is given.
    fn dense(&self, batch: usize, rows: &[Vec<(u32, f32)>]) -> Vec<f32> {
        let mut dense = vec![0.0; batch * self.classes];
        for (values, row) in rows.iter().zip(dense.chunks_exact_mut(self.classes.max(1))) {
            for (class, value) in values {
                if let Some(place) = row.get_mut(*class as usize) {
                    *place = *value;
                }
            }
        }
        dense
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
}

/// Draws what the enabled objectives need and moves the batch to the device.
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
    let pairs = text.rows();
    let fused_size = config.fused_size(pairs);
    let fused = text.first(fused_size);
    let view = |ids: &[i64]| TextInput::from_padded(ids, fused.attention_mask, fused.len);
    let pictures = images.pictures();
    let masks = config.completion_masks();
    StepInput {
        seen: images.seen(pairs, device),
        encoded: None,
        pictures,
        clean: TextInput::from_padded(text.input_ids, text.attention_mask, text.len),
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
        matching: config.matching.as_ref().map(|_| {
            let mut draw = matching_draw(fused, key);
            for partner in &mut draw.partner {
                *partner *= pictures;
            }
            draw
        }),
        ranking: config
            .ranking
            .as_ref()
            .map(|ranking| ranking_draw(text, fused_size, ranking.candidates, key)),
        classes: match (&config.classification, known.classes) {
            (Some(config), Some(classes)) => Some(classes.targets(fused_size, config)),
            _ => None,
        },
        knowledge: match (&config.knowledge, images, known.knowledge) {
            (Some(config), SeenRows::Regions(regions), Some(knowledge)) => {
                let rows = KnowledgeRows {
                    captions: known.captions,
                    offsets: known.offsets,
                    regions,
                };
                let draw = knowledge_draw(fused, rows, knowledge, vocabulary, config, key, device);
                Some(draw)
            }
            _ => None,
        },
        grounding: match (&config.grounding, images) {
            (Some(_), SeenRows::Regions(rows)) => {
                Some(ground_targets(rows, known.referred, fused_size))
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

#[cfg(test)]
mod tests {
    use super::*;
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
}
