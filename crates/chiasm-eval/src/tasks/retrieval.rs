//! Image–text retrieval: every picture and text goes through its tower once; the fusion encoder
//! re-ranks shortlists from the cached towers (`specs/scl.md` section 6.3).
//!
//! A candidate's new score is the log-odds of the matching head plus the first stage's similarity
//! over the learned temperature. Both are logarithms of how likely the pair is, so their sum
//! weighs each stage by how sure it is; the matching head alone would forget what the shortlist
//! was made from.

use std::collections::HashMap;

use burn::tensor::{Device, Tensor, TensorData};
use chiasm_data::{
    DataError, Dataset, Preprocess, Sample, TextTokenizer, encode_texts, eval_images,
};
use chiasm_nn::layers::normalize;
use chiasm_nn::published::encoder::{EncodeError, Encoder, Pooling};
use chiasm_nn::text::TextInput;
use chiasm_nn::{Tokens, VisionLanguageModel};

use crate::metrics::{Direction, Reranked, RetrievalError, ScoreMatrix, shortlist};
use crate::predictions::{
    DatasetIdentity, ModelIdentity, Predictions, PredictionsInfo, RerankedPair, TrainingOverlap,
};

/// What stopped a retrieval task.
#[derive(Debug, thiserror::Error)]
pub enum RetrievalTaskError {
    /// A picture or the data set cannot be used.
    #[error(transparent)]
    Data(#[from] DataError),
    /// There is nothing to score.
    #[error(transparent)]
    Scores(#[from] RetrievalError),
    /// The model has no tower for it.
    #[error("the model embeds no {0}")]
    Lacks(&'static str),
    /// A published encoder cannot embed it.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The device did not return a result.
    #[error("the device returned no values: {0}")]
    Device(String),
}

impl RetrievalTaskError {
    /// How to go on, where that can be said.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Data(error) => error.hint(),
            Self::Scores(error) => error.hint().map(str::to_owned),
            Self::Lacks(_) => {
                Some("give a model of texts and pictures, for example CLIP or a run".to_owned())
            }
            Self::Encode(_) | Self::Device(_) => None,
        }
    }
}

/// The towers that embed.
#[derive(Clone, Copy)]
pub enum Towers<'a> {
    /// A model of our own, without gradients.
    Own(&'a VisionLanguageModel),
    /// A published encoder, and how it pools texts.
    Published(&'a Encoder, Pooling),
}

/// A model with what it takes to feed it.
pub struct Embedder<'a> {
    /// The model.
    pub towers: Towers<'a>,
    /// Its tokenizer; a model of pictures has none.
    pub tokenizer: Option<&'a TextTokenizer>,
    /// How its pictures are prepared; a model of texts takes none.
    pub preprocess: Option<&'a Preprocess>,
    /// Its longest text in tokens.
    pub max_text_len: usize,
    /// Frames taken of a clip; 1 for pictures.
    pub frames: usize,
    /// Where it runs.
    pub device: &'a Device,
    /// Pictures or texts a call.
    pub batch_size: usize,
}

/// Rows of one modality after their tower.
pub struct Encoded {
    /// Embeddings of length 1, `[rows, projection]`.
    pub embeds: Tensor<2>,
    /// Tokens for the fusion encoder; none unless they were asked for.
    tokens: Option<Tokens>,
}

impl Encoded {
    fn new(embeds: Vec<Tensor<2>>, tokens: Vec<Tokens>, keep_tokens: bool) -> Self {
        let keep_tokens = keep_tokens && !tokens.is_empty();
        Self {
            embeds: Tensor::cat(embeds, 0),
            tokens: keep_tokens.then(|| Tokens::cat(tokens)),
        }
    }
}

impl Embedder<'_> {
    /// Embeds pictures of a data set in the order of `indices`; `done` hears of every batch.
    ///
    /// # Errors
    /// A picture that cannot be read.
    pub fn images(
        &self,
        dataset: &Dataset,
        indices: &[usize],
        keep_tokens: bool,
        done: &mut dyn FnMut(usize),
    ) -> Result<Encoded, RetrievalTaskError> {
        let preprocess = self
            .preprocess
            .ok_or(RetrievalTaskError::Lacks("pictures"))?;
        let (side, frames) = (preprocess.image_size, self.frames);
        let (mut embeds, mut tokens) = (Vec::new(), Vec::new());
        for chunk in indices.chunks(self.batch_size.max(1)) {
            let pixels = eval_images(dataset, chunk, preprocess)?;
            let pixels = TensorData::new(pixels, [chunk.len(), 3, side, side]);
            let pixels = Tensor::from_data(pixels, self.device);
            embeds.push(normalize(match self.towers {
                Towers::Own(model) => {
                    let patches = model.vision.embed_patches(pixels);
                    let encoded = model.encode_clips_where(&patches, frames, |_| keep_tokens);
                    let embeds = model.project_image(&encoded, frames);
                    tokens.push(encoded);
                    embeds
                }
                Towers::Published(encoder, _) => encoder.embed_images(pixels)?,
            }));
            done(chunk.len());
        }
        Ok(Encoded::new(embeds, tokens, keep_tokens))
    }

    /// Embeds texts.
    ///
    /// # Errors
    /// A model of pictures, or a text that the model cannot take.
    pub fn texts(
        &self,
        texts: &[&str],
        keep_tokens: bool,
        done: &mut dyn FnMut(usize),
    ) -> Result<Encoded, RetrievalTaskError> {
        let tokenizer = self.tokenizer.ok_or(RetrievalTaskError::Lacks("texts"))?;
        let (mut embeds, mut tokens) = (Vec::new(), Vec::new());
        for chunk in texts.chunks(self.batch_size.max(1)) {
            let (ids, mask, len) = encode_texts(tokenizer, chunk, self.max_text_len);
            let input = TextInput::from_padded(&ids, &mask, len);
            embeds.push(normalize(match self.towers {
                Towers::Own(model) => {
                    let encoded = model.encode_text_where(&input, |_| keep_tokens);
                    let embeds = model.project_text(&encoded);
                    tokens.push(encoded);
                    embeds
                }
                Towers::Published(encoder, pooling) => encoder.embed_texts(&input, pooling)?,
            }));
            done(chunk.len());
        }
        Ok(Encoded::new(embeds, tokens, keep_tokens))
    }

    /// Log-odds of a match for (image row, text row) pairs, from cached tower outputs.
    fn match_log_odds(
        &self,
        images: &Encoded,
        texts: &Encoded,
        pairs: &[(u32, u32)],
        done: &mut dyn FnMut(usize),
    ) -> Result<Vec<f32>, RetrievalTaskError> {
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
            let fused = model.fuse_globals(model.typed(&texts, &images, self.frames, 0));
            let logits = host(model.match_head.forward(model.pooled(&fused)))?;
            scores.extend(logits.chunks_exact(2).map(|pair| pair[1] - pair[0]));
            done(chunk.len());
        }
        Ok(scores)
    }
}

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
) -> Result<Compared, RetrievalTaskError> {
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
) -> Result<Predictions, RetrievalTaskError> {
    // Only a model of our own has a fusion encoder.
    let own = match embedder.towers {
        Towers::Own(model) => Some(model),
        Towers::Published(..) => None,
    };
    let own = own.filter(|_| job.shortlist > 0);
    let compared = compare(embedder, job.dataset, own.is_some(), progress)?;
    let reranked = match own {
        Some(model) => {
            let temperature = host(model.temperature.val())?;
            let sharpness = temperature.first().map_or(1.0, |value| value.recip());
            Some(rerank_both(
                embedder,
                job.shortlist,
                sharpness,
                &compared,
                progress,
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
            exhaustive_shortlist: None,
        },
        scores: compared.scores,
        image_of_text: compared.image_of_text,
        reranked,
    })
}

/// Scores each distinct pair of both directions' shortlists once.
fn rerank_both(
    embedder: &Embedder<'_>,
    length: usize,
    sharpness: f32,
    compared: &Compared,
    progress: &mut dyn FnMut(&str, usize, usize),
) -> Result<RerankedPair, RetrievalTaskError> {
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
    let values =
        embedder.match_log_odds(&compared.images, &compared.texts, &pairs, &mut |more| {
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

fn host<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f32>, RetrievalTaskError> {
    tensor
        .try_into_vec_as::<f32>()
        .map_err(|error| RetrievalTaskError::Device(error.to_string()))
}
