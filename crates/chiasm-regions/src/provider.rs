//! What all providers of regions have in common.

use chiasm_data::regions::RegionSet;
use chiasm_data::{DataError, Preprocess, Regions, Rgb};
use chiasm_nn::published::encoder::EncodeError;

/// What stopped an extraction.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegionError {
    /// Pictures cannot be read, or the set cannot be written.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The tower cannot embed pictures.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The device did not return a result.
    #[error("the device returned no values: {0}")]
    Device(String),
    /// Features cannot stand in for those of another set.
    #[error("{0} differs from those of the set that this one should stand in for")]
    Unlike(&'static str),
    /// What the tower returned does not fit its pictures.
    #[error("the tower gives {tokens} places of {dim} numbers, which are no square grid")]
    Places {
        /// Places of a picture.
        tokens: usize,
        /// Numbers of a place.
        dim: usize,
    },
}

impl RegionError {
    /// How to go on, where that can be said.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Data(error) => error.hint(),
            Self::Encode(EncodeError::Modality { .. }) => Some(
                "give an image tower with `--weights-vision`: CLIP, ViT, DINOv2, a convolutional network, or a run"
                    .to_owned(),
            ),
            Self::Unlike(_) => Some(
                "give the weights and settings that `chiasm regions inspect` prints of that set"
                    .to_owned(),
            ),
            _ => None,
        }
    }
}

/// A picture on its way to a provider.
#[derive(Clone, Debug, PartialEq)]
pub struct Prepared {
    /// What it is called in the set.
    pub name: String,
    /// Width and height in pixels.
    pub size: (u32, u32),
    /// For each of [`Provider::inputs`] the values, `[3, side, side]`.
    pub inputs: Vec<Vec<f32>>,
}

/// Makes pictures what a provider takes; on any thread.
#[must_use]
pub fn prepare(name: &str, picture: &Rgb, inputs: &[Preprocess]) -> Prepared {
    Prepared {
        name: name.to_owned(),
        size: (picture.width as u32, picture.height as u32),
        inputs: inputs.iter().map(|input| input.eval(picture)).collect(),
    }
}

/// Makes regions of pictures.
pub trait Provider {
    /// What it makes, for the set's manifest.
    fn set(&self) -> &RegionSet;

    /// How pictures are prepared for it.
    fn inputs(&self) -> Vec<Preprocess>;

    /// The regions of each picture, best first; those of a picture do not depend on the others.
    ///
    /// # Errors
    /// If a model cannot take the pictures, or the device fails.
    fn regions(&self, batch: &[Prepared]) -> Result<Vec<Regions>, RegionError>;
}
