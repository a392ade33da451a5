//! Features as rows of numbers, checked once.

use crate::RelationError;

/// A table of finite features, row-major `[rows, width]`, borrowed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rows<'a> {
    values: &'a [f32],
    width: usize,
}

impl<'a> Rows<'a> {
    /// Takes `values` as rows of `width` features.
    ///
    /// # Errors
    ///
    /// The values do not make whole rows, or one is NaN or infinite: the error names the first.
    pub fn new(values: &'a [f32], width: usize) -> Result<Self, RelationError> {
        if width == 0 || !values.len().is_multiple_of(width) {
            return Err(RelationError::Shape {
                values: values.len(),
                width,
            });
        }
        match values.iter().position(|value| !value.is_finite()) {
            None => Ok(Self { values, width }),
            Some(at) => Err(RelationError::NotFinite {
                row: at / width,
                column: at % width,
                value: values[at],
            }),
        }
    }

    /// All values, row after row.
    #[must_use]
    pub fn values(&self) -> &'a [f32] {
        self.values
    }

    /// Features of a row.
    #[must_use]
    pub fn width(&self) -> usize {
        self.width
    }

    /// Number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.values.len() / self.width
    }

    /// Whether there is no row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The rows in order.
    pub fn iter(&self) -> std::slice::ChunksExact<'a, f32> {
        self.values.chunks_exact(self.width)
    }
}

impl<'a> IntoIterator for Rows<'a> {
    type Item = &'a [f32];
    type IntoIter = std::slice::ChunksExact<'a, f32>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}
