//! Scene graphs over captions and pictures, both joined in one, and masks that are led by them.
#![forbid(unsafe_code)]

mod dot;
pub mod lexicon;
pub mod score;
pub mod text;
pub mod vocabulary;
