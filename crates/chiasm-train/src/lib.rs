//! Training: the recipe, the optimiser, the loop, checkpoints and resume, and the record of a run.
//!
//! Owns what happens between a recipe and a checkpoint, on one process or on several. Knows neither metrics (`chiasm-eval`) nor
//! the command line: both hook in through [`trainer::Observer`].

mod adam;
pub mod checkpoint;
pub mod clusters;
pub mod data;
pub mod error;
mod frozen;
pub mod gradients;
pub mod optimizer;
pub mod prepare;
pub mod recipe;
pub mod run;
pub mod schedule;
pub mod start;
pub mod tensorboard;
mod together;
pub mod trained;
pub mod trainer;

pub use clusters::ChunkRecord;
pub use data::TrainData;
pub use error::TrainError;
pub use recipe::Recipe;
pub use together::{DeviceSum, SlowRank};
pub use trained::TrainedModel;
pub use trainer::{Observer, Outcome, StepRecord, Trainer};
