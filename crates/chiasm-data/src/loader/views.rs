//! What of a sample is looked at, as pictures of the size that a model takes.

use rayon::prelude::*;

use crate::dataset::{Dataset, Sample};
use crate::decode::{AlphaRule, Limits, Rgb};
use crate::error::DataError;
use crate::frames::{self, ClipLimits, MAX_SAMPLED, Sampling, SamplingKind};
use crate::resample::{Filter, resize};
use crate::rng::{Rng, stream};
use crate::transform::{Normalisation, Preprocess, kept_shape_size, normalise_into};

/// What of a sample is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Views {
    /// Pictures that a text speaks of together, each a picture of its own (NLVR2: 2, a strip of
    /// boxes: 3); 1: one.
    pub pictures: usize,
    /// Frames of a clip; 1: one still picture.
    pub frames: usize,
}

impl Default for Views {
    fn default() -> Self {
        Self {
            pictures: 1,
            frames: 1,
        }
    }
}

impl Views {
    /// Pictures that a model gets of each sample.
    pub const fn count(self) -> usize {
        self.pictures.saturating_mul(self.frames)
    }

    /// The same of several pictures, which are no frames of a clip; 1 leaves the frames as they are.
    #[must_use]
    pub const fn with_pictures(self, pictures: usize) -> Self {
        Self {
            pictures,
            frames: if pictures == 1 { self.frames } else { 1 },
        }
    }

    /// Checks the numbers.
    ///
    /// # Errors
    /// If one is not in 1 to 256, or if both are above 1.
    pub fn validate(self) -> Result<(), DataError> {
        let wrong = |name, value: usize, reason| {
            let value = value.to_string();
            Err(DataError::Setting {
                name,
                value,
                reason,
            })
        };
        for (name, value) in [("pictures", self.pictures), ("frames", self.frames)] {
            if !(1..=MAX_SAMPLED).contains(&value) {
                return wrong(name, value, "it must be in 1 to 256");
            }
        }
        if self.pictures > 1 && self.frames > 1 {
            let reason = "it must be 1 where several pictures are looked at together";
            return wrong("frames", self.frames, reason);
        }
        Ok(())
    }

    /// What is looked at, before augmentation: [`Self::count`] pictures.
    ///
    /// Of a clip, training takes a random frame of each segment, evaluation frames from the first to
    /// the last; `rng` is used for the first only. A picture is a clip that stands still.
    pub(super) fn prepare(
        self,
        sample: &Sample,
        preprocess: &Preprocess,
        train: bool,
        rng: &mut Rng,
    ) -> Result<Vec<Rgb>, DataError> {
        let (limits, alpha) = (Limits::default(), preprocess.alpha);
        let pictures = if self.frames > 1 {
            let kind = match train {
                true => SamplingKind::RandomSegments,
                false => SamplingKind::FirstToLast,
            };
            let frames = self.frames;
            let sampling = Sampling { kind, frames };
            frames::sample(sample, sampling, &ClipLimits::default(), alpha, rng)?.pictures
        } else if self.pictures > 1 {
            frames::pictures(sample, self.pictures, &limits, alpha)?
        } else {
            vec![frames::still(sample, &limits, alpha)?]
        };
        let pictures = pictures.iter();
        Ok(pictures
            .map(|picture| preprocess.prepare(picture, train))
            .collect())
    }
}

/// The pictures at `indices` as a model takes them in evaluation:
/// `[indices, pictures * frames, 3, size, size]`.
///
/// # Errors
/// If a setting is out of its range, if an index is not in the data set, or if what is to be seen
/// cannot be had.
pub fn eval_images(
    dataset: &Dataset,
    indices: &[usize],
    preprocess: &Preprocess,
    views: Views,
) -> Result<Vec<f32>, DataError> {
    preprocess.validate()?;
    views.validate()?;
    let picture_len = preprocess.picture_len();
    let view_len = views.count() * picture_len;
    let mut pixel_values = vec![0.0; indices.len() * view_len];
    indices
        .par_iter()
        .zip(pixel_values.par_chunks_exact_mut(view_len))
        .try_for_each(|(index, pixels)| {
            // Evaluation draws nothing.
            let mut rng = stream(0, "frames", &[]);
            let sample = dataset.sample(*index)?;
            let prepared = views.prepare(sample, preprocess, false, &mut rng)?;
            for (picture, place) in prepared.iter().zip(pixels.chunks_exact_mut(picture_len)) {
                normalise_into(picture, preprocess.mean, preprocess.std, place);
            }
            Ok::<(), DataError>(())
        })?;
    Ok(pixel_values)
}

/// A picture in the shape that it has.
#[derive(Clone, Debug, PartialEq)]
pub struct Shaped {
    /// Normalised, `[3, height, width]`.
    pub values: Vec<f32>,
    /// Height and width in pixels.
    pub size: [usize; 2],
}

/// The pictures at `indices` in the shapes that they have, as ViLT takes them: the short side `short` pixels, the long
/// one 1333/800 of that at most, both whole `divisor`s.
///
/// # Errors
/// If an index is not in the data set, or a picture cannot be read.
pub fn kept_shape(
    dataset: &Dataset,
    indices: &[usize],
    short: usize,
    divisor: usize,
) -> Result<Vec<Shaped>, DataError> {
    let (mean, std) = Normalisation::Half.mean_std();
    let one = |index: &usize| {
        let sample = dataset.sample(*index)?;
        let picture = frames::still(sample, &Limits::default(), AlphaRule::default())?;
        let (width, height) = kept_shape_size(picture.width, picture.height, short, divisor);
        let picture = resize(&picture, width, height, Filter::Bicubic);
        let mut values = vec![0.0; 3 * width * height];
        normalise_into(&picture, mean, std, &mut values);
        Ok(Shaped {
            values,
            size: [height, width],
        })
    };
    indices.par_iter().map(one).collect()
}
