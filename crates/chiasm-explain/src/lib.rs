//! Why a model says what it says: maps over what it sees and weights of the words it reads.
//!
//! One interface, [`explain`]: a model ([`Subject`]), a picture, clip or set of regions with a text
//! ([`Input`]), what of the model's result is explained ([`Target`]) and how ([`Request`]), to [`Maps`].
//! [`Explainer`] adds the tokenizer, so that maps belong to words; [`draw`] makes pictures of maps, and
//! [`page`] a page; [`task`] explains a data set for the scorers in `chiasm-eval`.
//!
//! Knows models (`chiasm-nn`) and how a data set is fed to one (`chiasm-eval`); not the command line.
//! Whatever needs probabilities or gradients watches plain operations ([`chiasm_nn::watch`]); occlusion
//! runs the fast kernels.

pub mod cam;
pub mod choice;
pub mod draw;
mod error;
mod explainer;
mod layout;
mod maps;
mod methods;
pub mod page;
mod pass;
pub mod peaks;
mod perturb;
mod subject;
pub mod task;

pub use error::ExplainError;
pub use explainer::{Explained, Explainer, Masked, Word};
pub use layout::Places;
pub use maps::{Heads, Maps, Method, Request};
pub use methods::explain;
pub use perturb::{Curves, STEPS};
pub use subject::{Input, Subject, Target};
