//! What models of a text and a picture together are given besides the text, and what is wrong
//! with it when they refuse.

use burn::tensor::Tensor;

use super::lxmert::Lxmert;
use super::vilt::Vilt;
use super::visual_bert::VisualBert;
use crate::regions::Regions;
use crate::spans::Spans;
use crate::text::{TextEncoder, TextError, TextInput};

/// A model that reads texts with their pictures.
#[derive(Debug)]
pub enum PairEncoder {
    /// Pictures as they are.
    Vilt(Box<Vilt>),
    /// Pictures as regions.
    VisualBert(Box<VisualBert>),
    /// Pictures as regions.
    Lxmert(Box<Lxmert>),
}

/// What a [`PairEncoder`] sees of the pictures of a batch.
#[derive(Clone, Debug)]
pub enum Sight {
    /// Of ViLT.
    Pictures(Box<Pictures>),
    /// Of VisualBERT and LXMERT.
    Regions(Box<Regions>),
}

impl PairEncoder {
    /// One vector a pair, of the first token after the last layer, `[batch, width]`.
    ///
    /// # Errors
    /// A text or a picture that the model cannot take.
    pub fn embed(&self, texts: &TextInput, sight: &Sight) -> Result<Tensor<2>, PairError> {
        match (self, sight) {
            (Self::Vilt(model), Sight::Pictures(pictures)) => model.embed_pairs(texts, pictures),
            (Self::VisualBert(model), Sight::Regions(regions)) => {
                model.embed_pairs(texts, Some(regions))
            }
            (Self::Lxmert(model), Sight::Regions(regions)) => model.embed_pairs(texts, regions),
            (_, Sight::Pictures(_)) => Err(PairError::Sight("regions")),
            (_, Sight::Regions(_)) => Err(PairError::Sight("pictures")),
        }
    }

    /// Numbers of a region's features; none of a model that sees pictures as they are.
    #[must_use]
    pub fn region_features(&self) -> Option<usize> {
        match self {
            Self::Vilt(_) => None,
            Self::VisualBert(model) => Some(model.regions.weight.dims()[0]),
            Self::Lxmert(model) => Some(model.regions.features.weight.dims()[0]),
        }
    }

    /// Shorter side and divisor of the sides of pictures, for a model that sees them as they are.
    #[must_use]
    pub fn picture(&self) -> Option<(usize, usize)> {
        match self {
            Self::Vilt(model) => Some((model.vision.image_size(), model.patch_size())),
            Self::VisualBert(_) | Self::Lxmert(_) => None,
        }
    }

    /// Longest text in tokens.
    #[must_use]
    pub fn max_text_len(&self) -> usize {
        self.text().max_text_len()
    }

    /// Numbers of a vector.
    #[must_use]
    pub fn width(&self) -> usize {
        self.text().words.weight.dims()[1]
    }

    fn text(&self) -> &TextEncoder {
        match self {
            Self::Vilt(model) => &model.text,
            Self::VisualBert(model) => &model.text,
            Self::Lxmert(model) => &model.text,
        }
    }

    pub(super) fn family(&self) -> &'static str {
        match self {
            Self::Vilt(_) => "ViLT",
            Self::VisualBert(_) => "VisualBERT",
            Self::Lxmert(_) => "LXMERT",
        }
    }
}

/// Pictures of different sizes, filled up to one size at the right and at the bottom.
#[derive(Clone, Debug)]
pub struct Pictures {
    /// `[batch, 3, height, width]`.
    pub pixel_values: Tensor<4>,
    /// Height and width of what is picture, in pixels.
    pub sizes: Vec<[usize; 2]>,
}

/// Texts and pictures that a model cannot take.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PairError {
    /// A text.
    #[error(transparent)]
    Text(#[from] TextError),
    /// Pictures in another form.
    #[error("the model sees {0}")]
    Sight(&'static str),
    /// A text without a picture, or the other way round.
    #[error("{texts} texts and {pictures} pictures make no pairs")]
    Count {
        /// Texts of the batch.
        texts: usize,
        /// Pictures of the batch.
        pictures: usize,
    },
    /// Features of another detector, or boxes of another form.
    #[error("regions have {what} of shape {found:?}, the model takes {expected:?}")]
    Regions {
        /// `features` or `boxes`.
        what: &'static str,
        /// Shape given.
        found: [usize; 2],
        /// Shape wanted.
        expected: [usize; 2],
    },
    /// Pixels that no patches can be cut from.
    #[error(
        "pictures have shape {found:?}, the model takes 3 channels and sides of {patch} or more"
    )]
    Pixels {
        /// Shape given.
        found: [usize; 4],
        /// Side of a patch.
        patch: usize,
    },
    /// A picture larger than what it was filled up to, or of no pixels.
    #[error(
        "picture {picture} of the batch is said to be {size:?} pixels, of {padded:?} there are"
    )]
    Size {
        /// Number of the picture in its batch.
        picture: usize,
        /// Height and width given.
        size: [usize; 2],
        /// Height and width of the tensor.
        padded: [usize; 2],
    },
}

impl Pictures {
    /// Refuses what does not fit the texts or the model.
    ///
    /// # Errors
    /// Another number of pictures than texts, pixels that no patches can be cut from, sizes that
    /// are not those of a part of the pixels.
    pub fn check(&self, texts: &Spans, patch: usize) -> Result<(), PairError> {
        let found = self.pixel_values.dims();
        let [batch, channels, height, width] = found;
        same_count(texts.batch(), batch)?;
        same_count(batch, self.sizes.len())?;
        if channels != 3 || height < patch || width < patch {
            return Err(PairError::Pixels { found, patch });
        }
        let padded = [height, width];
        let fits =
            |size: &[usize; 2]| (1..=height).contains(&size[0]) && (1..=width).contains(&size[1]);
        match self.sizes.iter().position(|size| !fits(size)) {
            None => Ok(()),
            Some(picture) => Err(PairError::Size {
                picture,
                size: self.sizes[picture],
                padded,
            }),
        }
    }
}

pub(crate) fn same_count(texts: usize, pictures: usize) -> Result<(), PairError> {
    if texts == pictures {
        Ok(())
    } else {
        Err(PairError::Count { texts, pictures })
    }
}
