//! Where scores come from: a column, features of picture and text that were computed elsewhere, or a model.

use std::path::{Path, PathBuf};

use chiasm_format::Matrix;

use crate::error::DataError;

/// Numbers of one kind of features that are in memory at once.
const BLOCK: usize = 1 << 20;

/// How well picture and text of a row go together; what is higher is better.
pub enum Scores<'a> {
    /// Nobody says.
    None,
    /// A number in a column of this name.
    Column(String),
    /// The cosine of two vectors, row by row as in the table.
    Features(Box<Features>),
    /// A model.
    Model(&'a mut dyn Scorer),
}

/// A picture and a text whose fit is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The picture file, which is known to decode.
    pub picture: PathBuf,
    /// The text.
    pub text: String,
}

/// What scores pairs, for example a model.
pub trait Scorer {
    /// What it is, so that work is only continued with the same one.
    fn name(&self) -> String;

    /// A score for each pair; not a number where there is none.
    ///
    /// # Errors
    /// What keeps it from working at all; [`DataError::Curate`] is for that.
    fn scores(&mut self, pairs: &[Pair]) -> Result<Vec<f32>, DataError>;
}

/// Vectors of pictures and texts.
#[derive(Debug)]
pub struct Features {
    images: Matrix,
    texts: Matrix,
}

impl Features {
    /// Vectors from two tables of equal size.
    ///
    /// # Errors
    /// If they are not.
    pub fn new(images: Matrix, texts: Matrix) -> Result<Self, DataError> {
        let size = |matrix: &Matrix| (matrix.rows(), matrix.width());
        let (image, text) = (size(&images), size(&texts));
        match image == text {
            true => Ok(Self { images, texts }),
            false => Err(DataError::Curate {
                message: format!(
                    "features of pictures are {} rows of {}, those of texts {} of {}",
                    image.0, image.1, text.0, text.1
                ),
                hint: Some("both need a row for each row of the table, of one width".to_owned()),
            }),
        }
    }

    /// The files, of pictures and of texts.
    pub(super) fn paths(&self) -> [&Path; 2] {
        [self.images.path(), self.texts.path()]
    }

    /// Number of rows.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.images.rows()
    }

    /// Cosines of at most `count` rows from `first` on; not a number where a vector is zero or has values
    /// that are not finite.
    ///
    /// # Errors
    /// What the system said.
    pub fn cosines(&self, first: u64, count: usize) -> Result<Vec<f32>, DataError> {
        let width = self.images.width();
        let block = (BLOCK / width.max(1)).max(1);
        let mut cosines = Vec::with_capacity(count);
        for start in (0..count).step_by(block) {
            let (first, count) = (first + start as u64, block.min(count - start));
            let images = self.images.read(first, count)?;
            let texts = self.texts.read(first, count)?;
            let pairs = images.chunks_exact(width).zip(texts.chunks_exact(width));
            cosines.extend(pairs.map(|(image, text)| cosine(image, text)));
        }
        Ok(cosines)
    }
}

/// In double precision, in the order of the numbers: the same on every machine.
fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let (mut product, mut of_a, mut of_b) = (0.0f64, 0.0f64, 0.0f64);
    for (a, b) in a.iter().zip(b) {
        let (a, b) = (f64::from(*a), f64::from(*b));
        product += a * b;
        of_a += a * a;
        of_b += b * b;
    }
    let length = of_a.sqrt() * of_b.sqrt();
    let cosine = (product / length) as f32;
    match length > 0.0 && cosine.is_finite() {
        true => cosine.clamp(-1.0, 1.0),
        false => f32::NAN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cosines() {
        assert_eq!(cosine(&[1.0, 0.0], &[2.0, 0.0]), 1.0);
        assert_eq!(cosine(&[1.0, 0.0], &[0.0, 3.0]), 0.0);
        assert!(cosine(&[0.0, 0.0], &[1.0, 1.0]).is_nan());
        assert!(cosine(&[f32::NAN, 0.0], &[1.0, 1.0]).is_nan());
        assert!(cosine(&[f32::INFINITY, 0.0], &[1.0, 1.0]).is_nan());
    }
}
