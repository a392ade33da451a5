//! What is to be seen in a sample, as pictures.

use crate::dataset::{Clip, ImageSource, Sample, Visual};
use crate::decode::{AlphaRule, Limits, Rgb, decode};
use crate::error::DataError;

/// One picture that stands for the sample: the picture itself, the first of several, the middle
/// frame of a clip.
///
/// # Errors
/// If it cannot be read or decoded, with the sample's id and place.
pub fn still(sample: &Sample, limits: &Limits, alpha: AlphaRule) -> Result<Rgb, DataError> {
    let bytes = still_source(sample)?.read()?;
    decode(&bytes, limits, true, alpha).map_err(|source| DataError::Decode {
        id: sample.id.clone(),
        origin: place(sample),
        source,
    })
}

/// The encoded picture behind [`still`].
///
/// # Errors
/// If the sample has no picture of its own.
pub fn still_source(sample: &Sample) -> Result<&ImageSource, DataError> {
    let sources = sample.visual.sources();
    let index = match &sample.visual {
        Visual::Clip(Clip::Frames(frames)) => frames.len() / 2,
        _ => 0,
    };
    sources.get(index).ok_or_else(|| DataError::NoPicture {
        id: sample.id.clone(),
        origin: place(sample),
    })
}

/// Picture path and row, for messages.
fn place(sample: &Sample) -> String {
    match sample.visual.path() {
        Some(path) => format!("{} ({})", path.display(), sample.origin),
        None => sample.origin.to_string(),
    }
}
