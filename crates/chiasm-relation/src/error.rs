//! What can be wrong with features.

use thiserror::Error;

/// Why features, labels or settings cannot be used. Rows and columns count from 0.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum RelationError {
    /// The number of values is no multiple of the width, or the width is 0.
    #[error("{values} values do not make rows of {width}")]
    Shape {
        /// Values given.
        values: usize,
        /// Width given.
        width: usize,
    },
    /// A feature is NaN or infinite.
    #[error("row {row}, column {column} is {value}")]
    NotFinite {
        /// The first such row.
        row: usize,
        /// Its first such column.
        column: usize,
        /// The value.
        value: f32,
    },
    /// A row is so long that its square is beyond f32.
    #[error("row {row} is too long: its squared length is beyond single precision")]
    TooLarge {
        /// The row.
        row: usize,
    },
    /// There is no row.
    #[error("there are no rows")]
    Empty,
    /// A setting has no meaning.
    #[error("{name} = {value} has no meaning")]
    Setting {
        /// The setting.
        name: &'static str,
        /// Its value.
        value: String,
    },
    /// A label is beyond the classes.
    #[error("row {row} has class {label} of {classes}")]
    Label {
        /// The row.
        row: usize,
        /// Its label.
        label: usize,
        /// Number of classes.
        classes: usize,
    },
    /// All rows are of one class, so there is nothing to tell apart.
    #[error("all rows are of class {class}")]
    OneClass {
        /// The class.
        class: usize,
    },
    /// Two things that must have the same size have not.
    #[error("{what}: {found} instead of {wanted}")]
    Size {
        /// What is counted.
        what: &'static str,
        /// The size found.
        found: usize,
        /// The size wanted.
        wanted: usize,
    },
}

impl RelationError {
    /// What to do about it, for the one who prints the error.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NotFinite { .. } | Self::TooLarge { .. } => {
                Some("leave the row out, or compute its features again")
            }
            Self::Empty => Some("look at how many samples the split has"),
            Self::OneClass { .. } => Some("give training rows of two classes at least"),
            Self::Shape { .. } | Self::Size { .. } | Self::Label { .. } => {
                Some("features, labels and centroids must come from the same rows and model")
            }
            Self::Setting { .. } => None,
        }
    }
}
