//! The table every retrieval metric starts from: one score per (image, text) pair, and who belongs to whom.

use rayon::prelude::*;
use thiserror::Error;

use super::retrieval::Direction;

/// Columns gathered at a time when texts are the queries: 64 f32 fill four cache lines of each row, so the matrix is
/// read once from memory instead of once per column.
const COLUMN_BLOCK: usize = 64;

/// Why a score table, its pairing or a shortlist cannot be evaluated.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RetrievalError {
    /// The number of scores is not images x texts.
    #[error("{scores} scores do not fill a table of {images} images x {texts} texts")]
    Shape {
        /// Scores given.
        scores: usize,
        /// Rows wanted.
        images: usize,
        /// Columns wanted.
        texts: usize,
    },
    /// No image or no text: recall over nothing has no value.
    #[error("nothing to evaluate: {images} images and {texts} texts")]
    Empty {
        /// Rows.
        images: usize,
        /// Columns.
        texts: usize,
    },
    /// The pairing has a length other than the number of texts.
    #[error("`image_of_text` has {entries} entries for {texts} texts")]
    PairingLength {
        /// Entries given.
        entries: usize,
        /// Texts in the score table.
        texts: usize,
    },
    /// A text points at an image that is not in the table.
    #[error("text {text} belongs to image {image}, but there are {images} images")]
    ImageOutOfRange {
        /// Index of the text.
        text: usize,
        /// The image it names.
        image: usize,
        /// Images in the score table.
        images: usize,
    },
    /// An image that no text belongs to: as a query it has no right answer.
    #[error("image {image} has no text")]
    ImageWithoutText {
        /// Index of the first such image.
        image: usize,
    },
    /// A shortlist that does not fit the score table.
    #[error("shortlist of {direction} query {query}: {what}")]
    Shortlist {
        /// Which side asks.
        direction: Direction,
        /// Index of the query.
        query: usize,
        /// What does not fit.
        what: String,
    },
    /// Shortlists for another number of queries than the table has.
    #[error("{given} {direction} shortlists for {queries} queries")]
    ShortlistCount {
        /// Which side asks.
        direction: Direction,
        /// Shortlists (or rows of their scores) given.
        given: usize,
        /// Queries in the score table.
        queries: usize,
    },
}

impl RetrievalError {
    /// What to do about it, for the one who prints the error.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::Shape { .. } => "scores are row-major, one row per image and one column per text",
            Self::Empty { .. } => {
                "check that the split has samples left after filtering and quarantine"
            }
            Self::PairingLength { .. } => {
                "give one image index per text, in the order of the score columns"
            }
            Self::ImageOutOfRange { .. } => "image indices count rows of the score table, from 0",
            Self::ImageWithoutText { .. } => {
                "leave images without captions out of the evaluation split"
            }
            Self::Shortlist { .. } | Self::ShortlistCount { .. } => {
                "build shortlists with `shortlist` on the same score table and keep their order"
            }
        })
    }
}

/// Scores of every image against every text; larger means a better match. The scale is free: only order counts.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoreMatrix {
    scores: Vec<f32>,
    images: usize,
    texts: usize,
}

impl ScoreMatrix {
    /// Takes `scores`, row-major `[images, texts]`.
    ///
    /// # Errors
    /// [`RetrievalError::Empty`] and [`RetrievalError::Shape`]. Scores that are not finite are accepted here and reported
    /// by the metrics.
    pub fn new(scores: Vec<f32>, images: usize, texts: usize) -> Result<Self, RetrievalError> {
        if images == 0 || texts == 0 {
            return Err(RetrievalError::Empty { images, texts });
        }
        if images.checked_mul(texts) != Some(scores.len()) {
            return Err(RetrievalError::Shape {
                scores: scores.len(),
                images,
                texts,
            });
        }
        Ok(Self {
            scores,
            images,
            texts,
        })
    }

    /// Number of rows.
    #[must_use]
    pub fn images(&self) -> usize {
        self.images
    }

    /// Number of columns.
    #[must_use]
    pub fn texts(&self) -> usize {
        self.texts
    }

    /// All scores, row-major `[images, texts]`.
    #[must_use]
    pub fn as_slice(&self) -> &[f32] {
        &self.scores
    }

    /// The score of one pair; `None` outside the table.
    #[must_use]
    pub fn get(&self, image: usize, text: usize) -> Option<f32> {
        if text >= self.texts {
            return None;
        }
        self.scores
            .get(image.checked_mul(self.texts)?.checked_add(text)?)
            .copied()
    }

    /// How many scores are NaN or infinite.
    #[must_use]
    pub fn non_finite(&self) -> usize {
        self.scores
            .par_iter()
            .filter(|score| !score.is_finite())
            .count()
    }

    /// Number of queries in a direction: texts for text-to-image, images for image-to-text.
    #[must_use]
    pub fn queries(&self, direction: Direction) -> usize {
        match direction {
            Direction::TextToImage => self.texts,
            Direction::ImageToText => self.images,
        }
    }

    /// Number of candidates each query chooses from.
    #[must_use]
    pub fn candidates(&self, direction: Direction) -> usize {
        match direction {
            Direction::TextToImage => self.images,
            Direction::ImageToText => self.texts,
        }
    }

    /// Calls `visit(query, scores of all its candidates)` for every query, in parallel; results in query order.
    pub(crate) fn map_queries<T: Send>(
        &self,
        direction: Direction,
        visit: impl Fn(usize, &[f32]) -> T + Sync,
    ) -> Vec<T> {
        match direction {
            Direction::ImageToText => self
                .scores
                .par_chunks_exact(self.texts)
                .enumerate()
                .map(|(image, row)| visit(image, row))
                .collect(),
            Direction::TextToImage => {
                let blocks = self.texts.div_ceil(COLUMN_BLOCK);
                (0..blocks)
                    .into_par_iter()
                    .flat_map_iter(|block| {
                        let first = block * COLUMN_BLOCK;
                        let columns =
                            self.gather_columns(first, COLUMN_BLOCK.min(self.texts - first));
                        let results: Vec<T> = columns
                            .chunks_exact(self.images)
                            .enumerate()
                            .map(|(offset, column)| visit(first + offset, column))
                            .collect();
                        results
                    })
                    .collect()
            }
        }
    }

    /// Columns `first .. first + width`, transposed to `[width, images]`.
    fn gather_columns(&self, first: usize, width: usize) -> Vec<f32> {
        let mut columns = vec![0.0; width * self.images];
        for (image, row) in self.scores.chunks_exact(self.texts).enumerate() {
            let slots = columns.iter_mut().skip(image).step_by(self.images);
            for (slot, &score) in slots.zip(row.iter().skip(first).take(width)) {
                *slot = score;
            }
        }
        columns
    }
}

/// Right answers of every query, both ways, checked against the table's size.
#[derive(Debug)]
pub(crate) struct Pairing {
    image_of_text: Vec<usize>,
    texts_of_image: Vec<Vec<usize>>,
}

impl Pairing {
    pub(crate) fn new(
        scores: &ScoreMatrix,
        image_of_text: &[usize],
    ) -> Result<Self, RetrievalError> {
        if image_of_text.len() != scores.texts {
            return Err(RetrievalError::PairingLength {
                entries: image_of_text.len(),
                texts: scores.texts,
            });
        }
        let mut texts_of_image = vec![Vec::new(); scores.images];
        for (text, &image) in image_of_text.iter().enumerate() {
            match texts_of_image.get_mut(image) {
                Some(texts) => texts.push(text),
                None => {
                    return Err(RetrievalError::ImageOutOfRange {
                        text,
                        image,
                        images: scores.images,
                    });
                }
            }
        }
        if let Some(image) = texts_of_image.iter().position(Vec::is_empty) {
            return Err(RetrievalError::ImageWithoutText { image });
        }
        Ok(Self {
            image_of_text: image_of_text.to_vec(),
            texts_of_image,
        })
    }

    /// Right candidates of a query, ascending; at least one for every query of the table.
    pub(crate) fn answers(&self, direction: Direction, query: usize) -> &[usize] {
        match direction {
            Direction::TextToImage => self.image_of_text.get(query..=query).unwrap_or_default(),
            Direction::ImageToText => self
                .texts_of_image
                .get(query)
                .map(Vec::as_slice)
                .unwrap_or_default(),
        }
    }

    /// Number of right candidates of each query.
    pub(crate) fn answer_counts(&self, direction: Direction) -> Vec<usize> {
        match direction {
            Direction::TextToImage => vec![1; self.image_of_text.len()],
            Direction::ImageToText => self.texts_of_image.iter().map(Vec::len).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_tables_and_pairings_that_do_not_fit() {
        assert!(matches!(
            ScoreMatrix::new(vec![], 0, 3),
            Err(RetrievalError::Empty { .. })
        ));
        assert!(matches!(
            ScoreMatrix::new(vec![0.0; 5], 2, 3),
            Err(RetrievalError::Shape { .. })
        ));
        assert!(matches!(
            ScoreMatrix::new(vec![], usize::MAX, 2),
            Err(RetrievalError::Shape { .. })
        ));
        let scores = ScoreMatrix::new(vec![0.0; 6], 2, 3).unwrap();
        let pairing = |map: &[usize]| Pairing::new(&scores, map).unwrap_err();
        assert!(matches!(
            pairing(&[0, 1]),
            RetrievalError::PairingLength { .. }
        ));
        assert!(matches!(
            pairing(&[0, 1, 2]),
            RetrievalError::ImageOutOfRange {
                text: 2,
                image: 2,
                images: 2
            }
        ));
        assert_eq!(
            pairing(&[0, 0, 0]),
            RetrievalError::ImageWithoutText { image: 1 }
        );
    }

    #[test]
    fn queries_see_rows_and_columns_in_order() {
        let (images, texts) = (3, COLUMN_BLOCK + 5);
        let values: Vec<f32> = (0..images * texts).map(|index| index as f32).collect();
        let scores = ScoreMatrix::new(values, images, texts).unwrap();
        let columns = scores.map_queries(Direction::TextToImage, |text, column| {
            (text, column.to_vec())
        });
        for (expected, (text, column)) in columns.iter().enumerate() {
            assert_eq!(*text, expected);
            let wanted: Vec<f32> = (0..images)
                .map(|image| scores.get(image, expected).unwrap())
                .collect();
            assert_eq!(*column, wanted);
        }
        assert_eq!(
            scores.map_queries(Direction::ImageToText, |image, row| (image, row.len())),
            [(0, texts), (1, texts), (2, texts)]
        );
        assert_eq!(scores.get(0, texts), None);
    }
}
