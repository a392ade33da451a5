//! Scene graphs over captions and pictures, both joined in one, and masks that are led by them.
#![forbid(unsafe_code)]

pub mod vocabulary;
