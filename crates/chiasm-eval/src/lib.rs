//! Scores: what a model's predictions are worth, computed the way the field's official scorers do.
//!
//! No metric knows a model. A task ([`tasks`]) runs a model and writes a [`predictions`] file; the metrics read it, so every figure can be
//! recomputed offline, and on another machine, from the file alone. [`report`] turns figures, curves and examples into one
//! HTML page that opens without a network.
//!
//! ```
//! use chiasm_eval::metrics::{ScoreMatrix, TieRule, retrieval};
//!
//! // Two images, three captions; the first two captions belong to image 0.
//! let scores = ScoreMatrix::new(vec![0.9, 0.7, 0.1, 0.2, 0.3, 0.8], 2, 3)?;
//! let metrics = retrieval::evaluate(&scores, &[0, 0, 1], TieRule::default())?;
//! assert_eq!(metrics.text_to_image.recall_at_1, 1.0);
//! # Ok::<(), chiasm_eval::metrics::RetrievalError>(())
//! ```

pub mod metrics;
pub mod predictions;
pub mod report;
pub mod score;
pub mod submission;
pub mod tasks;
