//! How an image and its text relate, read from features: clusters, probes and calibration.
//!
//! This crate owns what ITR (`specs/itr.md`) computes on features of posts: the k-means of pseudo-labels ([`mod@kmeans`]),
//! the alignment of clusters ([`align`]), the preparation of features ([`prepare`]), probes ([`probe`]) and their
//! calibration ([`calibration`]). It takes plain numbers, `[rows, width]` in f32, and knows no tensors of a device, no model, no file.
//! Work is spread over rayon's threads; results do not depend on their number.
//!
//! # Pseudo-labels of a chunk
//!
//! ```
//! use chiasm_relation::{KMeansConfig, Preparation, Rows, align, kmeans};
//!
//! // Text and image features of four posts side by side, two columns each.
//! let features = [
//!     0.0, 0.1, 50.0, 52.0, //
//!     0.1, 0.0, 51.0, 50.0, //
//!     0.9, 1.0, 90.0, 91.0, //
//!     1.0, 0.9, 92.0, 90.0,
//! ];
//! let rows = Rows::new(&features, 4)?;
//! // Each modality gets the same say.
//! let prepared = Preparation::Modalities(vec![2, 2]).fit(rows)?.apply(rows)?;
//! let rows = Rows::new(&prepared, 4)?;
//! let config = KMeansConfig { clusters: 2, ..Default::default() };
//! let chunk = kmeans(rows, &config)?;
//! assert_eq!(chunk.sizes(), [2, 2]);
//!
//! // The next chunk: cluster i of it continues cluster `continued[i]` of this one.
//! let next = kmeans(rows, &KMeansConfig { seed: 1, ..config })?;
//! let before = Rows::new(&chunk.centroids, 4)?;
//! let continued = align::clusters(before, Rows::new(&next.centroids, 4)?)?;
//! assert_eq!(continued[next.labels[0]], chunk.labels[0]);
//! # Ok::<(), chiasm_relation::RelationError>(())
//! ```
#![forbid(unsafe_code)]

pub mod align;
pub mod calibration;
mod error;
pub mod kmeans;
mod lbfgs;
pub mod model;
mod points;
pub mod prepare;
pub mod probe;
mod products;
mod rows;

pub use calibration::{Calibration, CalibrationKind};
pub use error::RelationError;
pub use kmeans::{Assignment, Balance, KMeans, KMeansConfig, kmeans, kmeans_from};
pub use model::{FeatureSet, RelationModel};
pub use prepare::{Preparation, Prepared};
pub use rows::Rows;
