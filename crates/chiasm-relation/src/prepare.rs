//! What is done to the columns of features before they are clustered or probed.
//!
//! By default nothing, as published (`specs/itr.md` section 2.3). Features of two encoders joined side by side are then
//! ruled by the encoder whose features vary more (section 8, quirk 17); [`Preparation::Modalities`] is the remedy.

use serde::{Deserialize, Serialize};

use crate::{RelationError, Rows};

/// How columns are prepared. All sums are over the rows that it is fitted on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Preparation {
    /// Features as they are.
    #[default]
    Raw,
    /// Divides each column by its length, the root of its sum of squares (`normalize` of the reference, which works on
    /// columns, not rows). A column of zeros stays.
    Normalize,
    /// Subtracts each column's mean and divides by its standard deviation (of the population), `scale` of the
    /// reference. A constant column becomes zeros.
    Scale,
    /// Subtracts each column's mean and gives each run of columns, one per modality with the width given, the same total
    /// variance; over all columns variances have a mean of 1. A constant modality becomes zeros.
    Modalities(Vec<usize>),
}

/// A preparation fitted to rows: `(value - shift) * scale` in each column.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Prepared {
    /// Subtracted from each column.
    pub shift: Vec<f32>,
    /// Then multiplied with.
    pub scale: Vec<f32>,
}

impl Preparation {
    /// Takes from `rows` what the preparation needs of them.
    ///
    /// # Errors
    ///
    /// There are no rows, or the widths of the modalities do not sum to the width of a row.
    pub fn fit(&self, rows: Rows<'_>) -> Result<Prepared, RelationError> {
        if rows.is_empty() {
            return Err(RelationError::Empty);
        }
        let width = rows.width();
        let keep = |shift: Vec<f32>, scale: Vec<f64>| Prepared {
            shift,
            scale: scale.into_iter().map(|value| value as f32).collect(),
        };
        // A column without spread is divided by 1, as scikit-learn does.
        let inverse = |spread: f64| if spread > 0.0 { 1.0 / spread } else { 1.0 };
        Ok(match self {
            Self::Raw => keep(vec![0.0; width], vec![1.0; width]),
            Self::Normalize => {
                let squares = moments(rows, &vec![0.0; width]);
                let scale = squares.iter().map(|square| inverse(square.sqrt()));
                keep(vec![0.0; width], scale.collect())
            }
            Self::Scale => {
                let mean = means(rows);
                let scale = moments(rows, &mean).into_iter();
                let scale = scale.map(|square| inverse((square / rows.len() as f64).sqrt()));
                let scale = scale.collect();
                keep(narrow(&mean), scale)
            }
            Self::Modalities(widths) => {
                let total: usize = widths.iter().sum();
                if total != width || widths.contains(&0) {
                    return Err(RelationError::Size {
                        what: "columns of all modalities",
                        found: total,
                        wanted: width,
                    });
                }
                let mean = means(rows);
                let squares = moments(rows, &mean);
                let mut scale = Vec::with_capacity(width);
                let mut start = 0;
                for &columns in widths {
                    let of_modality: f64 = squares[start..start + columns].iter().sum();
                    let variance = of_modality / rows.len() as f64;
                    let share = width as f64 / widths.len() as f64;
                    let factor = inverse((variance / share).sqrt());
                    scale.extend(std::iter::repeat_n(factor, columns));
                    start += columns;
                }
                keep(narrow(&mean), scale)
            }
        })
    }
}

impl Prepared {
    /// The prepared rows, `[rows, width]`.
    ///
    /// # Errors
    ///
    /// The rows have another width than those fitted on.
    pub fn apply(&self, rows: Rows<'_>) -> Result<Vec<f32>, RelationError> {
        if rows.width() != self.shift.len() {
            return Err(RelationError::Size {
                what: "features of a row",
                found: rows.width(),
                wanted: self.shift.len(),
            });
        }
        let row = |row: &[f32]| -> Vec<f32> {
            let columns = self.shift.iter().zip(&self.scale);
            row.iter()
                .zip(columns)
                .map(|(value, (shift, scale))| (value - shift) * scale)
                .collect()
        };
        Ok(rows.iter().flat_map(row).collect())
    }
}

/// The mean of each column.
pub(crate) fn means(rows: Rows<'_>) -> Vec<f64> {
    let mut sums = vec![0.0_f64; rows.width()];
    for row in rows {
        for (sum, value) in sums.iter_mut().zip(row) {
            *sum += f64::from(*value);
        }
    }
    let count = rows.len().max(1) as f64;
    sums.iter_mut().for_each(|sum| *sum /= count);
    sums
}

/// Sums of squared differences from `centre` in each column.
pub(crate) fn moments(rows: Rows<'_>, centre: &[f64]) -> Vec<f64> {
    let mut sums = vec![0.0_f64; rows.width()];
    for row in rows {
        for ((sum, value), centre) in sums.iter_mut().zip(row).zip(centre) {
            let difference = f64::from(*value) - centre;
            *sum += difference * difference;
        }
    }
    sums
}

fn narrow(values: &[f64]) -> Vec<f32> {
    values.iter().map(|value| *value as f32).collect()
}
