//! Tasks: each runs a model over a data set and hands over predictions. One file a task.

pub mod alignment;
pub mod ask;
pub mod classes;
pub mod embedder;
pub mod grounding;
pub mod probe;
pub mod retrieval;
