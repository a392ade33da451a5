//! A model with what it takes to feed it: what all tasks have in common.

use burn::tensor::{Device, Tensor, TensorData};
use chiasm_data::{
    DataError, Dataset, Preprocess, RegionLimits, RegionRows, Rgb, TextTokenizer, Views,
    encode_texts, eval_images, kept_shape,
};
use chiasm_nn::layers::normalize;
use chiasm_nn::model::Seen;
use chiasm_nn::published::encoder::{EncodeError, Encoder, Pooling};
use chiasm_nn::published::pairs::{PairEncoder, Pictures, Sight};
use chiasm_nn::regions::Regions;
use chiasm_nn::text::TextInput;
use chiasm_nn::{Tokens, VisionLanguageModel, indices};
use rayon::prelude::*;

use crate::metrics::RetrievalError;

/// Regions of a picture that VisualBERT and LXMERT take, as published.
const PAIR_REGIONS: usize = 36;

/// What stopped a task.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
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

impl TaskError {
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
#[derive(Clone, Copy)]
pub struct Embedder<'a> {
    /// The model.
    pub towers: Towers<'a>,
    /// Its tokenizer; a model of pictures has none.
    pub tokenizer: Option<&'a TextTokenizer>,
    /// How its pictures are prepared; a model of texts takes none.
    pub preprocess: Option<&'a Preprocess>,
    /// Its longest text in tokens.
    pub max_text_len: usize,
    /// What of a sample is looked at.
    pub views: Views,
    /// Whether the model sees grey in place of every picture, and nothing in place of regions.
    pub blind: bool,
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
    pub(super) tokens: Option<Tokens>,
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

/// Images after their tower, at the width of the fusion encoder.
pub(super) struct Encoding {
    /// Class tokens of each image first.
    pub(super) tokens: Tokens,
    /// How many there are.
    pub(super) class_tokens: usize,
}

impl Embedder<'_> {
    /// Pictures of a data set in the order of `indices`, `[indices * pictures, frames, 3, side, side]`.
    ///
    /// # Errors
    /// A picture that cannot be read.
    pub fn pixels(
        &self,
        dataset: &Dataset,
        indices: &[usize],
        views: Views,
    ) -> Result<Tensor<5>, TaskError> {
        let preprocess = self.preprocess.ok_or(TaskError::Lacks("pictures"))?;
        let side = preprocess.image_size;
        let shape = [indices.len() * views.pictures, views.frames, 3, side, side];
        if self.blind {
            return Ok(Tensor::zeros(shape, self.device));
        }
        let pixels = eval_images(dataset, indices, preprocess, views)?;
        Ok(Tensor::from_data(
            TensorData::new(pixels, shape),
            self.device,
        ))
    }

    /// What a model sees of samples: pixels, or regions where it has eyes for these; as many images as
    /// [`Self::pixels`] has.
    ///
    /// # Errors
    /// A picture that cannot be read, or regions that are missing or of another size than the model's.
    pub fn seen(
        &self,
        dataset: &Dataset,
        indices: &[usize],
        views: Views,
    ) -> Result<Seen, TaskError> {
        let Towers::Own(VisionLanguageModel {
            regions: Some(embedding),
            ..
        }) = self.towers
        else {
            return Ok(Seen::Pixels(self.pixels(dataset, indices, views)?));
        };
        let limits = embedding.limits();
        let rows = RegionRows::read(dataset, indices, limits, self.blind)?;
        Ok(Seen::Regions(Regions::new(&rows, self.device)))
    }

    /// Images of samples after their tower.
    ///
    /// # Errors
    /// As [`Self::seen`].
    pub(super) fn encoded_images(
        &self,
        model: &VisionLanguageModel,
        dataset: &Dataset,
        indices: &[usize],
        views: Views,
    ) -> Result<Encoding, TaskError> {
        let seen = self.seen(dataset, indices, views)?;
        let class_tokens = seen.class_tokens();
        let tokens = model
            .encode_seen(&seen)
            .ok_or(TaskError::Lacks("pictures"))?;
        Ok(Encoding {
            tokens,
            class_tokens,
        })
    }

    /// Texts as a model takes them.
    ///
    /// # Errors
    /// A model of pictures.
    pub fn input(&self, texts: &[&str]) -> Result<TextInput, TaskError> {
        let tokenizer = self.tokenizer.ok_or(TaskError::Lacks("texts"))?;
        let (ids, mask, len) = encode_texts(tokenizer, texts, self.max_text_len);
        Ok(TextInput::from_padded(&ids, &mask, len))
    }

    /// Pictures that are at hand, each as one that a model sees.
    ///
    /// # Errors
    /// A model that sees no pixels.
    pub fn stills(&self, pictures: &[&Rgb]) -> Result<Seen, TaskError> {
        let sees_regions = matches!(self.towers, Towers::Own(model) if model.vision.is_none());
        let preprocess = self.preprocess.filter(|_| !sees_regions);
        let preprocess = preprocess.ok_or(TaskError::Lacks("pictures"))?;
        let side = preprocess.image_size;
        let pixels: Vec<Vec<f32>> = pictures
            .par_iter()
            .map(|picture| preprocess.eval(picture))
            .collect();
        Ok(Seen::Pixels(Tensor::from_data(
            TensorData::new(pixels.concat(), [pictures.len(), 1, 3, side, side]),
            self.device,
        )))
    }

    /// Embeds what is seen: vectors of length 1, `[rows, projection]`, and of a model of our own the
    /// tokens, all of them to `keep_tokens`.
    ///
    /// # Errors
    /// A model that does not embed it.
    pub fn embed_seen(
        &self,
        seen: &Seen,
        keep_tokens: bool,
    ) -> Result<(Tensor<2>, Option<Tokens>), TaskError> {
        match (self.towers, seen) {
            (Towers::Own(model), _) => {
                let embedded = model.embed(seen).ok_or(TaskError::Lacks("pictures"))?;
                let class_tokens = seen.class_tokens();
                let encoded = model.encode_where(&embedded, class_tokens, |_| keep_tokens);
                let embeds = model.project_image(&encoded, class_tokens);
                let embeds = embeds.ok_or(TaskError::Lacks("pictures in a space with texts"))?;
                Ok((normalize(embeds), Some(encoded)))
            }
            (Towers::Published(encoder, _), Seen::Pixels(pixels)) => {
                let [count, frames, channels, height, width] = pixels.dims();
                let shape = [count * frames, channels, height, width];
                let embeds = encoder.embed_images(pixels.clone().reshape(shape))?;
                Ok((normalize(embeds), None))
            }
            (Towers::Published(..), Seen::Regions(_)) => Err(TaskError::Lacks("regions")),
        }
    }

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
    ) -> Result<Encoded, TaskError> {
        let (mut embeds, mut tokens) = (Vec::new(), Vec::new());
        for chunk in indices.chunks(self.batch_size.max(1)) {
            let seen = self.seen(dataset, chunk, self.views)?;
            let (own, encoded) = self.embed_seen(&seen, keep_tokens)?;
            embeds.push(own);
            tokens.extend(encoded);
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
    ) -> Result<Encoded, TaskError> {
        let (mut embeds, mut tokens) = (Vec::new(), Vec::new());
        for chunk in texts.chunks(self.batch_size.max(1)) {
            let input = self.input(chunk)?;
            embeds.push(normalize(match self.towers {
                Towers::Own(model) => {
                    let encoded = model.encode_text_where(&input, |_| keep_tokens);
                    let embeds = model.project_text(&encoded);
                    tokens.push(encoded);
                    embeds.ok_or(TaskError::Lacks("texts in a space with pictures"))?
                }
                Towers::Published(encoder, pooling) => encoder.embed_texts(&input, pooling)?,
            }));
            done(chunk.len());
        }
        Ok(Encoded::new(embeds, tokens, keep_tokens))
    }
}

impl Embedder<'_> {
    /// Vectors of pairs: a sample by its index and a text. Of a model of our own what its heads over
    /// pairs read ([`VisionLanguageModel::pair_vector`]); of a published one both embeddings side by
    /// side, text first. Where text and picture do not meet in the model, a picture is looked at once
    /// for all of its texts. `[pairs, width]`.
    ///
    /// # Errors
    /// A picture that cannot be read, or a model without a tower for one of both.
    pub fn pairs(
        &self,
        dataset: &Dataset,
        pairs: &[(usize, &str)],
        done: &mut dyn FnMut(usize),
    ) -> Result<Tensor<2>, TaskError> {
        let views = Views {
            pictures: 1,
            ..self.views
        };
        match self.towers {
            Towers::Own(model) if !model.is_towers_alone() => {
                self.together(pairs, done, |input, indices| {
                    let seen = self.seen(dataset, indices, views)?;
                    let vector = model.pair_vector(input, &seen);
                    vector.ok_or(TaskError::Lacks("pictures"))
                })
            }
            Towers::Published(Encoder::Pair(model), _) => {
                self.together(pairs, done, |input, indices| {
                    let sight = self.sight(model, dataset, indices)?;
                    Ok(model.embed(input, &sight).map_err(EncodeError::from)?)
                })
            }
            Towers::Own(model) => self.apart(
                dataset,
                pairs,
                done,
                |input| Ok(model.text_vector(input)),
                |indices| {
                    let seen = self.seen(dataset, indices, views)?;
                    let vector = model.image_vector(&seen);
                    vector.ok_or(TaskError::Lacks("pictures"))
                },
            ),
            Towers::Published(encoder, pooling) => self.apart(
                dataset,
                pairs,
                done,
                |input| Ok(encoder.embed_texts(input, pooling)?),
                |indices| {
                    let pixels = self.pixels(dataset, indices, views)?;
                    let [count, frames, channels, height, width] = pixels.dims();
                    let shape = [count * frames, channels, height, width];
                    Ok(encoder.embed_images(pixels.reshape(shape))?)
                },
            ),
        }
    }

    /// Vectors of pairs from texts and the samples they stand beside.
    fn together(
        &self,
        pairs: &[(usize, &str)],
        done: &mut dyn FnMut(usize),
        vector: impl Fn(&TextInput, &[usize]) -> Result<Tensor<2>, TaskError>,
    ) -> Result<Tensor<2>, TaskError> {
        let mut vectors = Vec::new();
        for chunk in pairs.chunks(self.batch_size.max(1)) {
            let (indices, texts): (Vec<usize>, Vec<&str>) = chunk.iter().copied().unzip();
            vectors.push(vector(&self.input(&texts)?, &indices)?);
            done(chunk.len());
        }
        Ok(Tensor::cat(vectors, 0))
    }

    /// Vectors of texts and of what is shown, side by side.
    fn apart(
        &self,
        dataset: &Dataset,
        pairs: &[(usize, &str)],
        done: &mut dyn FnMut(usize),
        text: impl Fn(&TextInput) -> Result<Tensor<2>, TaskError>,
        image: impl Fn(&[usize]) -> Result<Tensor<2>, TaskError>,
    ) -> Result<Tensor<2>, TaskError> {
        let batch = self.batch_size.max(1);
        let texts = pairs.chunks(batch).map(|chunk| {
            let texts: Vec<&str> = chunk.iter().map(|(_, text)| *text).collect();
            text(&self.input(&texts)?)
        });
        let texts = texts.collect::<Result<Vec<_>, _>>()?;
        let shown = dataset.shown(pairs.iter().map(|(sample, _)| *sample));
        let mut of_picture = vec![0; shown.first.len()];
        shown.place.iter().for_each(|place| of_picture[*place] += 1);
        let mut images = Vec::new();
        for (chunk, pairs) in shown.first.chunks(batch).zip(of_picture.chunks(batch)) {
            images.push(image(chunk)?);
            done(pairs.iter().sum());
        }
        let places = shown.place.iter().map(|place| *place as i64).collect();
        let images = Tensor::cat(images, 0).select(0, indices(places, self.device));
        Ok(Tensor::cat(vec![Tensor::cat(texts, 0), images], 1))
    }
}

impl Embedder<'_> {
    /// Pictures as a model of pairs sees them.
    fn sight(
        &self,
        model: &PairEncoder,
        dataset: &Dataset,
        indices: &[usize],
    ) -> Result<Sight, TaskError> {
        if let Some(dim) = model.region_features() {
            let limits = RegionLimits {
                dim,
                most: PAIR_REGIONS,
            };
            let rows = RegionRows::read(dataset, indices, limits, self.blind)?;
            return Ok(Sight::Regions(Box::new(Regions::new(&rows, self.device))));
        }
        let (side, divisor) = model.picture().ok_or(TaskError::Lacks("pictures"))?;
        let pictures = kept_shape(dataset, indices, side, divisor)?;
        let largest = |axis: usize| {
            let sides = pictures.iter().map(|picture| picture.size[axis]);
            sides.max().unwrap_or(divisor)
        };
        let [height, width] = [largest(0), largest(1)];
        let mut pixels = vec![0.0; pictures.len() * 3 * height * width];
        let planes = pixels.chunks_exact_mut(3 * height * width);
        for (padded, picture) in planes.zip(&pictures).filter(|_| !self.blind) {
            let [rows, columns] = picture.size;
            let channels = padded.chunks_exact_mut(height * width);
            for (padded, own) in channels.zip(picture.values.chunks_exact(rows * columns)) {
                let lines = padded.chunks_exact_mut(width);
                for (padded, own) in lines.zip(own.chunks_exact(columns)) {
                    padded[..columns].copy_from_slice(own);
                }
            }
        }
        let shape = [pictures.len(), 3, height, width];
        Ok(Sight::Pictures(Box::new(Pictures {
            pixel_values: Tensor::from_data(TensorData::new(pixels, shape), self.device),
            sizes: pictures.iter().map(|picture| picture.size).collect(),
        })))
    }
}

/// Values on the host.
///
/// # Errors
/// [`TaskError::Device`].
pub fn host<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f32>, TaskError> {
    tensor
        .try_into_vec_as::<f32>()
        .map_err(|error| TaskError::Device(error.to_string()))
}
