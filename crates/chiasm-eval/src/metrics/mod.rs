//! Metrics, one concept per file. Each takes plain numbers and returns a serialisable result.

pub mod alignment;
pub mod answers;
pub mod bootstrap;
pub mod chance;
pub mod classes;
pub mod confidence;
pub mod explanation;
pub mod f1;
pub mod grounding;
pub mod interval;
pub mod mapping;
pub mod rank;
pub mod rerank;
pub mod retrieval;
pub mod scores;

pub use chance::ChanceLevel;
pub use classes::Confusion;
pub use interval::{Accuracy, Tally};
pub use rerank::{Reranked, is_exhaustive, restrict, shortlist};
pub use retrieval::{Direction, DirectionMetrics, RetrievalMetrics, TieRule};
pub use scores::{RetrievalError, ScoreMatrix};
