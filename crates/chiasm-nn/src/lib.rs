//! Models: embeddings, attention, encoders, fusion and heads, and how their weights are named,
//! saved and loaded.
//!
//! Owns everything that turns pixels and token ids into features. Does not know losses
//! (`chiasm-objective`), file formats of data (`chiasm-data`) or the command line.

pub mod attention;
pub mod block;
pub mod boxes;
pub mod compute;
pub mod config;
pub mod criterion;
pub mod dropout;
pub mod fusion;
pub mod heads;
mod kernels;
pub mod layers;
pub mod model;
pub mod names;
pub mod packed;
pub mod parameters;
pub mod published;
pub mod regions;
pub mod select;
pub mod spans;
pub mod text;
pub mod tokens;
pub mod vision;
pub mod watch;
pub mod weights;

pub use attention::Scope;
pub use config::{
    Activation, FusionConfig, FusionKind, HeadsConfig, ModelConfig, ProjectionKind, RegionConfig,
    TextConfig, VisionConfig,
};
pub use fusion::Fused;
pub use model::VisionLanguageModel;
pub use spans::Spans;
pub use tokens::{Tokens, indices};
