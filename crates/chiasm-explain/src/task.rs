//! Explaining a data set: maps of its phrases by several methods, for the scorers in `chiasm-eval`.
//!
//! Pictures are squashed to the model's square, so that no box falls outside of it (as in
//! `chiasm_eval::tasks::alignment`). A method that has a map for every token of a text gives a phrase the sum
//! over its tokens in the caption; another one explains the phrase as a text of its own.

use std::collections::BTreeMap;
use std::ops::Range;

use chiasm_data::{Dataset, Phrase, Preprocess, Resize, Sample, Views};
use chiasm_eval::metrics::alignment::words_of_phrase;
use chiasm_eval::metrics::explanation::random_map;
use chiasm_eval::predictions::{
    Choice, CurvesRow, DatasetIdentity, ExplanationInfo, ExplanationPredictions, ExplanationRow,
    ModelIdentity, TrainingOverlap,
};
use chiasm_eval::tasks::embedder::Embedder;
use chiasm_nn::model::Seen;

use crate::error::ExplainError;
use crate::explainer::{Explained, Explainer};
use crate::layout::Places;
use crate::maps::Request;
use crate::perturb::{curves, order};
use crate::subject::{Target, host};

/// What is to be explained and how it is labelled.
pub struct ExplainJob<'a> {
    /// Samples of one split; those without phrases are passed over.
    pub dataset: &'a Dataset,
    /// The split's name.
    pub split: String,
    /// The model's name, run and step.
    pub model: ModelIdentity,
    /// What of the model's result is explained.
    pub target: Target,
    /// The methods.
    pub requests: Vec<Request>,
    /// What attention keeps, as it was typed.
    pub select: String,
    /// Whether results are measured as places go and come: some forty passes a text and method.
    pub curves: bool,
    /// The same model with random weights, to compare maps with.
    pub random: Option<Explainer<'a>>,
    /// Layer and heads of attention, where they were chosen.
    pub choice: Option<Choice>,
    /// What of the data set was trained on; `None` when nobody looked.
    pub training_overlap: Option<TrainingOverlap>,
}

/// What a sample looks like, with the boxes of its regions.
pub(crate) struct Scene {
    pub(crate) seen: Seen,
    pub(crate) regions: Vec<[f32; 4]>,
}

impl Scene {
    /// Whether there is nothing that a map could be over: a picture without regions.
    pub(crate) fn is_empty(&self) -> bool {
        matches!(self.seen, Seen::Regions(_)) && self.regions.is_empty()
    }

    /// Of a sample, squashed.
    pub(crate) fn of(
        embedder: &Embedder<'_>,
        dataset: &Dataset,
        index: usize,
    ) -> Result<Self, ExplainError> {
        let squashed = embedder.preprocess.map(squashed);
        let embedder = Embedder {
            preprocess: squashed.as_ref(),
            views: Views::default(),
            ..*embedder
        };
        let seen = embedder.seen(dataset, &[index], Views::default())?;
        let regions = match &seen {
            Seen::Regions(regions) => {
                let corners = host(regions.boxes.clone())?;
                let corners = corners.as_chunks::<4>().0;
                corners.to_vec()
            }
            Seen::Pixels(_) => Vec::new(),
        };
        Ok(Self { seen, regions })
    }
}

/// The whole picture, whatever its shape.
fn squashed(preprocess: &Preprocess) -> Preprocess {
    Preprocess {
        resize: Resize::Squash,
        resize_to: None,
        ..preprocess.clone()
    }
}

/// Phrases by text, each with where it stands in it, in bytes.
pub(crate) type ByText<'a> = BTreeMap<usize, Vec<(&'a Phrase, Range<usize>)>>;

/// Phrases of a sample that can be seen. The second value counts those that do not occur in their text.
pub(crate) fn phrases(sample: &Sample) -> (ByText<'_>, usize) {
    let (mut by_text, mut skipped) = (ByText::new(), 0);
    for phrase in &sample.annotations.phrases {
        if phrase.boxes.is_empty() {
            // Named, but not to be seen.
            continue;
        }
        let text = sample.texts.get(phrase.text);
        let place = text.and_then(|text| words_of_phrase(text, &phrase.phrase, phrase.start));
        match place {
            Some(place) => by_text
                .entry(phrase.text)
                .or_default()
                .push((phrase, place)),
            None => skipped += 1,
        }
    }
    (by_text, skipped)
}

/// Explains every text with phrases by every method.
///
/// # Errors
/// A model that a method does not fit, or a picture that cannot be read.
pub fn run(
    explainer: &Explainer<'_>,
    embedder: &Embedder<'_>,
    job: &ExplainJob<'_>,
    progress: &mut dyn FnMut(&str, usize, usize),
) -> Result<ExplanationPredictions, ExplainError> {
    let samples = &job.dataset.samples;
    let (mut rows, mut skipped) = (Vec::new(), 0);
    for (index, sample) in samples.iter().enumerate() {
        let (by_text, missing) = phrases(sample);
        skipped += missing;
        if !by_text.is_empty() {
            let scene = Scene::of(embedder, job.dataset, index)?;
            if scene.is_empty() {
                skipped += by_text.values().map(Vec::len).sum::<usize>();
                continue;
            }
            for (text, phrases) in by_text {
                let words = sample.texts.get(text).map_or("", String::as_str);
                let place = Place {
                    sample,
                    text,
                    words,
                    number: index as u64,
                    scene: &scene,
                };
                // A text is cut at the same place for every method.
                let mut cut = 0;
                for request in &job.requests {
                    cut = of_text(explainer, job, &place, &phrases, request, &mut rows)?.max(cut);
                }
                skipped += cut;
            }
        }
        progress("pictures", index + 1, samples.len());
    }
    Ok(ExplanationPredictions {
        info: ExplanationInfo {
            split: job.split.clone(),
            dataset: DatasetIdentity {
                name: job.dataset.name.clone(),
                fingerprint: job.dataset.fingerprint(),
            },
            model: job.model.clone(),
            target: job.target.name().to_owned(),
            select: job.select.clone(),
            choice: job.choice.clone(),
            skipped_phrases: skipped,
            training_overlap: job.training_overlap.clone(),
        },
        rows,
    })
}

/// A text of a sample.
struct Place<'a> {
    sample: &'a Sample,
    text: usize,
    words: &'a str,
    number: u64,
    scene: &'a Scene,
}

/// Rows of one text by one method; how many phrases were cut off.
fn of_text(
    explainer: &Explainer<'_>,
    job: &ExplainJob<'_>,
    place: &Place<'_>,
    phrases: &[(&Phrase, Range<usize>)],
    request: &Request,
    rows: &mut Vec<ExplanationRow>,
) -> Result<usize, ExplainError> {
    let Place { scene, words, .. } = place;
    let by = |explainer: &Explainer<'_>| {
        explainer.explain(&scene.seen, Some(words), &job.target, request, false)
    };
    let explained = by(explainer)?;
    let random = job.random.as_ref().map(by).transpose()?;
    let map_of =
        |explainer: &Explainer<'_>, explained: &Explained, phrase: &Phrase, bytes| match explained
            .has_tokens()
        {
            true => Ok(explained.of_bytes(bytes)),
            false => explainer
                .alone(&scene.seen, &phrase.phrase, &job.target, request)
                .map(Some),
        };
    let mut cut = 0;
    for (phrase, bytes) in phrases {
        let Some(map) = map_of(explainer, &explained, phrase, bytes)? else {
            cut += 1;
            continue;
        };
        let random = match (&job.random, &random) {
            (Some(explainer), Some(random)) => map_of(explainer, random, phrase, bytes)?,
            _ => None,
        };
        rows.push(ExplanationRow {
            phrase: Some(phrase.phrase.clone()),
            kind: phrase.kind.clone(),
            boxes: phrase
                .boxes
                .iter()
                .map(|b| [b.x1, b.y1, b.x2, b.y2])
                .collect(),
            random_weights: random.map(|map| rounded(&map)),
            ..row(place, request, explained.places, &map)
        });
    }
    if job.curves {
        let input = explainer.input(&scene.seen, Some(words))?;
        let own = order(&explained.whole, place.number);
        let own = curves(&explainer.subject, &input, &job.target, &own)?;
        let whole = row(place, request, explained.places, &explained.whole);
        let regions = whole.region_boxes();
        let luck = random_map(whole.cells(&regions), place.number, place.text as u64);
        let luck = order(&luck, place.number);
        let luck = curves(&explainer.subject, &input, &job.target, &luck)?;
        rows.push(ExplanationRow {
            random_weights: random.map(|random| rounded(&random.whole)),
            curves: Some(CurvesRow {
                deletion: own.deletion,
                insertion: own.insertion,
                random_deletion: luck.deletion,
                random_insertion: luck.insertion,
            }),
            ..whole
        });
    }
    Ok(cut)
}

fn row(place: &Place<'_>, request: &Request, places: Places, map: &[f32]) -> ExplanationRow {
    ExplanationRow {
        id: place.sample.id.clone(),
        text: place.text,
        method: request.label(),
        side: match places {
            Places::Patches { side, .. } => Some(side),
            Places::Regions(_) => None,
        },
        map: rounded(map),
        regions: place.scene.regions.clone(),
        ..ExplanationRow::default()
    }
}

/// In parts of the largest value, to four places: what scores need, in a tenth of the room.
fn rounded(map: &[f32]) -> Vec<f32> {
    let usable = |value: f32| {
        if value.is_finite() {
            value.max(0.0)
        } else {
            0.0
        }
    };
    let largest = map
        .iter()
        .copied()
        .map(usable)
        .fold(f32::MIN_POSITIVE, f32::max);
    let part = |value: &f32| (usable(*value) / largest * 1e4).round() / 1e4;
    map.iter().map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_written_in_parts_of_their_largest() {
        assert_eq!(
            rounded(&[0.0, 2.0, 1.0, f32::NAN, -3.0]),
            [0.0, 1.0, 0.5, 0.0, 0.0]
        );
        assert_eq!(rounded(&[0.0; 2]), [0.0; 2]);
        assert_eq!(rounded(&[1e-20, 2e-20]), [0.5, 1.0]);
    }
}
