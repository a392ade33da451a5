//! How well attention finds what words name (ALIGN-BENCH, `specs/scl.md` section 8): of the attention
//! that a word, or the whole text, pays to the picture in the last fusion layer, how much lies inside
//! the boxes or masks of what it names.
//!
//! Each head's attention is taken apart and the largest over heads counts, as in the published
//! scripts; they meant cross-attention and read self-attention, here it is cross-attention. Pictures are
//! squashed to the model's square, so that no box falls outside of it.

use std::collections::BTreeMap;
use std::ops::Range;

use burn::tensor::Tensor;
use chiasm_data::{Dataset, Phrase, Preprocess, Resize, Sample, Views};
use chiasm_nn::VisionLanguageModel;
use chiasm_nn::model::Seen;

use crate::metrics::alignment::{
    Grid, PixelMask, Region, global_masks, local_masks, words_of_phrase,
};
use crate::predictions::alignment::{AlignmentInfo, AlignmentRow};
use crate::predictions::{AlignmentPredictions, DatasetIdentity, ModelIdentity, TrainingOverlap};
use crate::tasks::embedder::{Embedder, TaskError, Towers, host};

/// What a run is to do and how it is labelled.
pub struct AlignmentJob<'a> {
    /// Samples of one split; those without phrases are passed over.
    pub dataset: &'a Dataset,
    /// The split's name.
    pub split: String,
    /// The model's name, run and step.
    pub model: ModelIdentity,
    /// What of the data set was trained on; `None` when nobody looked.
    pub training_overlap: Option<TrainingOverlap>,
}

/// Attention of all texts with phrases, and its scores. A picture with several such texts has the mean
/// of their global scores.
///
/// # Errors
/// A model without fusion layers, or a picture that cannot be read.
pub fn run(
    embedder: &Embedder<'_>,
    job: &AlignmentJob<'_>,
    progress: &mut dyn FnMut(&str, usize, usize),
) -> Result<AlignmentPredictions, TaskError> {
    let (Towers::Own(model), Some(preprocess)) = (embedder.towers, embedder.preprocess) else {
        return Err(TaskError::Lacks("pairs of text and picture"));
    };
    let squashed = Preprocess {
        resize: Resize::Squash,
        ..preprocess.clone()
    };
    let embedder = Embedder {
        preprocess: Some(&squashed),
        views: Views::default(),
        ..*embedder
    };
    let samples = &job.dataset.samples;
    let has_phrases = |index: &usize| {
        let sample = samples.get(*index);
        sample.is_some_and(|sample| !sample.annotations.phrases.is_empty())
    };
    let indices: Vec<usize> = (0..samples.len()).filter(has_phrases).collect();
    let (mut rows, mut skipped, mut done) = (Vec::new(), 0, 0);
    for chunk in indices.chunks(embedder.batch_size.max(1)) {
        let pixels = embedder.pixels(job.dataset, chunk, Views::default())?;
        let seen = Seen::Pixels(pixels);
        let images = model
            .encode_seen(&seen)
            .ok_or(TaskError::Lacks("pictures"))?;
        for (place, sample) in chunk
            .iter()
            .filter_map(|index| samples.get(*index))
            .enumerate()
        {
            let found = of_picture(&embedder, model, sample, &images.narrow(place, 1))?;
            skipped += found.skipped;
            rows.extend(found.rows);
        }
        done += chunk.len();
        progress("pictures", done, indices.len());
    }
    Ok(AlignmentPredictions {
        info: AlignmentInfo {
            split: job.split.clone(),
            dataset: DatasetIdentity {
                name: job.dataset.name.clone(),
                fingerprint: job.dataset.fingerprint(),
            },
            model: job.model.clone(),
            attention: "last fusion layer, text to image, maximum over heads".to_owned(),
            skipped_phrases: skipped,
            training_overlap: job.training_overlap.clone(),
        },
        rows,
    })
}

struct Found {
    rows: Vec<AlignmentRow>,
    skipped: usize,
}

/// The scores of one picture with all its texts.
fn of_picture(
    embedder: &Embedder<'_>,
    model: &VisionLanguageModel,
    sample: &Sample,
    image: &chiasm_nn::Tokens,
) -> Result<Found, TaskError> {
    let mut by_text: BTreeMap<usize, Vec<&Phrase>> = BTreeMap::new();
    for phrase in &sample.annotations.phrases {
        by_text.entry(phrase.text).or_default().push(phrase);
    }
    let (mut rows, mut skipped) = (Vec::new(), 0);
    let mut globals: Vec<AlignmentRow> = Vec::new();
    for (text, phrases) in by_text {
        let Some(words) = sample.texts.get(text) else {
            skipped += phrases.len();
            continue;
        };
        let maps = attention(embedder, model, words, image)?;
        let regions: Vec<Vec<Region>> = phrases.iter().map(|phrase| regions(phrase)).collect();
        if let (Some(masks), Some(map)) = (
            global_masks(maps.side, regions.iter().flatten()),
            maps.of_text(),
        ) {
            let score = masks.score(&map);
            globals.extend(score.map(|score| row(sample, None, score)));
        }
        for (phrase, regions) in phrases.into_iter().zip(&regions) {
            if regions.is_empty() {
                // Named, but not to be seen.
                continue;
            }
            let place = words_of_phrase(words, &phrase.phrase, phrase.start);
            let map = place.and_then(|place| maps.of_bytes(&place));
            let masks = local_masks(maps.side, regions);
            match (map, masks) {
                (Some(map), Some(masks)) => {
                    let score = masks.score(&map);
                    rows.extend(score.map(|score| row(sample, Some(phrase), score)));
                }
                _ => skipped += 1,
            }
        }
    }
    rows.extend(mean(&globals));
    Ok(Found { rows, skipped })
}

fn row(
    sample: &Sample,
    phrase: Option<&Phrase>,
    score: crate::metrics::alignment::AlignmentScore,
) -> AlignmentRow {
    AlignmentRow {
        id: sample.id.clone(),
        phrase: phrase.map(|phrase| phrase.phrase.clone()),
        kind: phrase.map_or(String::new(), |phrase| phrase.kind.clone()),
        score: score.score,
        uniform: score.uniform,
        pixel_score: score.pixels.map(|(score, _)| score),
        pixel_uniform: score.pixels.map(|(_, uniform)| uniform),
    }
}

/// One row with the means of several; none of none.
fn mean(rows: &[AlignmentRow]) -> Option<AlignmentRow> {
    let count = rows.len() as f64;
    let of = |value: fn(&AlignmentRow) -> f64| rows.iter().map(value).sum::<f64>() / count;
    let of_some = |value: fn(&AlignmentRow) -> Option<f64>| {
        let values: Option<Vec<f64>> = rows.iter().map(value).collect();
        values.map(|values| values.iter().sum::<f64>() / count)
    };
    let first = rows.first()?;
    Some(AlignmentRow {
        score: of(|row| row.score),
        uniform: of(|row| row.uniform),
        pixel_score: of_some(|row| row.pixel_score),
        pixel_uniform: of_some(|row| row.pixel_uniform),
        ..first.clone()
    })
}

fn regions(phrase: &Phrase) -> Vec<Region> {
    let masks = phrase.masks.iter().map(Some).chain(std::iter::repeat(None));
    let boxes = phrase.boxes.iter().zip(masks);
    boxes
        .map(|(rect, mask)| Region {
            rect: *rect,
            pixels: mask
                .and_then(|mask| PixelMask::new(mask.width, mask.height, mask.bits.to_vec())),
        })
        .collect()
}

/// What every token of a text attends to.
struct Maps {
    /// Cells of a side of the picture.
    side: usize,
    /// A map for each token, `[side * side]`: the largest over heads.
    tokens: Vec<Vec<f32>>,
    /// The bytes that each token stands for.
    offsets: Vec<Range<usize>>,
}

impl Maps {
    /// The map of the first token, which stands for the whole text.
    fn of_text(&self) -> Option<Grid> {
        Grid::new(self.side, self.tokens.first()?.clone())
    }

    /// The sum over the tokens of some bytes; `None` when the text was cut before them.
    fn of_bytes(&self, bytes: &Range<usize>) -> Option<Grid> {
        let inside = |offset: &Range<usize>| {
            !offset.is_empty() && offset.start < bytes.end && offset.end > bytes.start
        };
        let mut sum = vec![0.0; self.side * self.side];
        let mut found = false;
        for (map, _) in self
            .tokens
            .iter()
            .zip(&self.offsets)
            .filter(|(_, offset)| inside(offset))
        {
            found = true;
            for (sum, value) in sum.iter_mut().zip(map) {
                *sum += value;
            }
        }
        found.then(|| Grid::new(self.side, sum))?
    }
}

/// How each token of a text attends to the patches of a picture.
fn attention(
    embedder: &Embedder<'_>,
    model: &VisionLanguageModel,
    text: &str,
    image: &chiasm_nn::Tokens,
) -> Result<Maps, TaskError> {
    let tokenizer = embedder.tokenizer.ok_or(TaskError::Lacks("texts"))?;
    let offsets = tokenizer.encode(text, embedder.max_text_len).offsets;
    let encoded = model.encode_text(&embedder.input(&[text])?);
    let typed = model.typed(&encoded, image, 1, 0);
    let attention = model.fusion.cross_attention(typed);
    let attention: Tensor<4> = attention.ok_or(TaskError::Lacks("attention between them"))?;
    let [_, _, tokens, seen] = attention.dims();
    let vision = model.vision.as_ref().ok_or(TaskError::Lacks("pictures"))?;
    let patches = vision.num_patches();
    let largest = attention.max_dim(1).reshape([tokens, seen]);
    let maps = host(largest.narrow(1, seen - patches, patches))?;
    Ok(Maps {
        side: patches.isqrt(),
        tokens: maps.chunks(patches.max(1)).map(<[f32]>::to_vec).collect(),
        offsets,
    })
}
