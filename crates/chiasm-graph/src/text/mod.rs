//! From a caption to its scene graph.
//!
//! Words are cut (`words`), tagged (`tagger`), grouped into noun phrases (`phrase`) and joined by what stands
//! between them (`parse`), by rules alone (`specs/tbkin.md` 9.4): the same caption gives the same graph everywhere.
//! English only; a caption in another script has an empty graph.

mod graph;
pub mod lemma;
mod lists;
mod parse;
mod phrase;
mod tagger;
mod words;

pub use graph::{Attribute, Document, Object, Relation, TextGraph, Tsg, TsgError, Word};
pub use parse::{MAX_WORDS, parse};
pub(crate) use tagger::digits;
