//! Image–text retrieval: every picture and text goes through its tower once; the fusion encoder
//! re-ranks shortlists from the cached towers (`specs/scl.md` section 6.3).
//!
//! A candidate's new score is the log-odds of the matching head, or the ranking head's score where
//! there is one, plus the first stage's similarity over the learned temperature. Both are logarithms
//! of how likely the pair is, so their sum weighs each stage by how sure it is; the head alone would
//! forget what the shortlist was made from.

use std::collections::HashMap;

use chiasm_data::{Dataset, Sample};

use crate::metrics::{Direction, Reranked, RetrievalError, ScoreMatrix, shortlist};
use crate::predictions::{
    DatasetIdentity, ModelIdentity, Predictions, PredictionsInfo, RerankedPair, TrainingOverlap,
};
use crate::tasks::ask::pair_scores;
use crate::tasks::embedder::{Embedder, Encoded, TaskError, Towers, host};

/// What a retrieval run is to do and how it is labelled.
pub struct RetrievalJob<'a> {
    /// Samples of one split.
    pub dataset: &'a Dataset,
    /// The split's name.
    pub split: String,
    /// The model's name, run and step.
    pub model: ModelIdentity,
    /// Candidates of each query that the fusion encoder scores; 0 = none.
    pub shortlist: usize,
    /// Whether it scores all candidates, so that both ways can be compared.
    pub exhaustive: bool,
    /// What of the data set was trained on; `None` when nobody looked.
    pub training_overlap: Option<TrainingOverlap>,
}

/// Every picture of a data set scored against every text of it.
pub struct Compared {
    /// Cosines, `[images, texts]`.
    pub scores: ScoreMatrix,
    /// Picture each text belongs to.
    pub image_of_text: Vec<usize>,
    images: Encoded,
    texts: Encoded,
}

/// Runs both towers over a data set; `keep_tokens` keeps what re-ranking needs.
///
/// `progress` hears what is being done, how many units of it are done, and how many there are.
///
/// # Errors
/// A picture that cannot be read, or a data set without pictures or texts.
pub fn compare(
    embedder: &Embedder<'_>,
    dataset: &Dataset,
    keep_tokens: bool,
    progress: &mut dyn FnMut(&str, usize, usize),
) -> Result<Compared, TaskError> {
    let samples = &dataset.samples;
    let texts: Vec<&str> = samples
        .iter()
        .flat_map(|sample| sample.texts.iter().map(String::as_str))
        .collect();
    if samples.is_empty() || texts.is_empty() {
        let (images, texts) = (samples.len(), texts.len());
        return Err(RetrievalError::Empty { images, texts }.into());
    }
    let indices: Vec<usize> = (0..samples.len()).collect();
    let mut count = 0;
    let encoded_images = embedder.images(dataset, &indices, keep_tokens, &mut |more| {
        count += more;
        progress("pictures", count, samples.len());
    })?;
    count = 0;
    let encoded_texts = embedder.texts(&texts, keep_tokens, &mut |more| {
        count += more;
        progress("texts", count, texts.len());
    })?;
    let table = encoded_images
        .embeds
        .clone()
        .matmul(encoded_texts.embeds.clone().transpose());
    Ok(Compared {
        scores: ScoreMatrix::new(host(table)?, samples.len(), texts.len())?,
        image_of_text: dataset.pairs().iter().map(|(sample, _)| *sample).collect(),
        images: encoded_images,
        texts: encoded_texts,
    })
}

/// Scores every picture of a split against every text of it, and re-ranks shortlists.
///
/// # Errors
/// As [`compare`].
pub fn run(
    embedder: &Embedder<'_>,
    job: &RetrievalJob<'_>,
    progress: &mut dyn FnMut(&str, usize, usize),
) -> Result<Predictions, TaskError> {
    // Only a model of our own has a fusion encoder.
    let own = match embedder.towers {
        Towers::Own(model) => Some(model),
        Towers::Published(..) => None,
    };
    let own = own.filter(|_| job.shortlist > 0 || job.exhaustive);
    let length = match job.exhaustive {
        true => usize::MAX,
        false => job.shortlist,
    };
    let compared = compare(embedder, job.dataset, own.is_some(), progress)?;
    let reranked = match own {
        Some(model) => {
            let temperature = model.temperature.as_ref();
            let temperature = temperature.ok_or(TaskError::Lacks("both in one space"))?;
            let temperature = host(temperature.val())?;
            let sharpness = temperature.first().map_or(1.0, |value| value.recip());
            Some(rerank_both(
                embedder, length, sharpness, &compared, progress,
            )?)
        }
        None => None,
    };
    let samples = &job.dataset.samples;
    let text_ids = |sample: &Sample| {
        let id = sample.id.clone();
        (0..sample.texts.len()).map(move |text| format!("{id}#{text}"))
    };
    Ok(Predictions {
        info: PredictionsInfo {
            split: job.split.clone(),
            dataset: DatasetIdentity {
                name: job.dataset.name.clone(),
                fingerprint: job.dataset.fingerprint(),
            },
            model: job.model.clone(),
            image_ids: samples.iter().map(|sample| sample.id.clone()).collect(),
            text_ids: samples.iter().flat_map(text_ids).collect(),
            texts: samples
                .iter()
                .flat_map(|sample| sample.texts.clone())
                .collect(),
            training_overlap: job.training_overlap.clone(),
            exhaustive_shortlist: (job.exhaustive && job.shortlist > 0).then_some(job.shortlist),
        },
        scores: compared.scores,
        image_of_text: compared.image_of_text,
        reranked,
    })
}

impl Embedder<'_> {
    /// The fusion encoder's score of (image row, text row) pairs, from cached tower outputs.
    fn fused_scores(
        &self,
        images: &Encoded,
        texts: &Encoded,
        pairs: &[(u32, u32)],
        done: &mut dyn FnMut(usize),
    ) -> Result<Vec<f32>, TaskError> {
        let (Towers::Own(model), Some(image_tokens), Some(text_tokens)) =
            (self.towers, &images.tokens, &texts.tokens)
        else {
            return Ok(Vec::new());
        };
        let mut scores = Vec::with_capacity(pairs.len());
        for chunk in pairs.chunks(self.batch_size.max(1)) {
            let rows = |pick: fn(&(u32, u32)) -> u32| -> Vec<usize> {
                chunk.iter().map(|pair| pick(pair) as usize).collect()
            };
            let texts = text_tokens.select(&rows(|pair| pair.1));
            let images = image_tokens.select(&rows(|pair| pair.0));
            let class_tokens = match model.vision {
                Some(_) => self.views.frames,
                None => 0,
            };
            let fused = model.fuse_globals(model.typed(&texts, &images, class_tokens, 0));
            let pooled = model.pooled(&fused);
            scores.extend(pair_scores(model, pooled)?);
            done(chunk.len());
        }
        Ok(scores)
    }
}

/// Scores each distinct pair of both directions' shortlists once.
fn rerank_both(
    embedder: &Embedder<'_>,
    length: usize,
    sharpness: f32,
    compared: &Compared,
    progress: &mut dyn FnMut(&str, usize, usize),
) -> Result<RerankedPair, TaskError> {
    let scores = &compared.scores;
    let of_texts = shortlist(scores, Direction::TextToImage, length);
    let of_images = shortlist(scores, Direction::ImageToText, length);
    let mut pairs: Vec<(u32, u32)> = (0u32..)
        .zip(&of_texts)
        .flat_map(|(text, images)| images.iter().map(move |image| (*image, text)))
        .chain(
            (0u32..)
                .zip(&of_images)
                .flat_map(|(image, texts)| texts.iter().map(move |text| (image, *text))),
        )
        .collect();
    pairs.sort_unstable();
    pairs.dedup();
    let mut count = 0;
    let values = embedder.fused_scores(&compared.images, &compared.texts, &pairs, &mut |more| {
        count += more;
        progress("pairs", count, pairs.len());
    })?;
    let known: HashMap<(u32, u32), f32> = pairs
        .iter()
        .zip(values)
        .map(|(&(image, text), log_odds)| {
            let similarity = scores
                .get(image as usize, text as usize)
                .unwrap_or(f32::NAN);
            ((image, text), log_odds + similarity * sharpness)
        })
        .collect();
    let with_scores = |lists: Vec<Vec<u32>>, image_first: bool| Reranked {
        scores: (0u32..)
            .zip(&lists)
            .map(|(query, list)| {
                list.iter()
                    .map(|other| {
                        let pair = if image_first {
                            (query, *other)
                        } else {
                            (*other, query)
                        };
                        known.get(&pair).copied().unwrap_or(f32::NEG_INFINITY)
                    })
                    .collect()
            })
            .collect(),
        candidates: lists,
    };
    Ok(RerankedPair {
        text_to_image: with_scores(of_texts, false),
        image_to_text: with_scores(of_images, true),
    })
}
