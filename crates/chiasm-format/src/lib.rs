//! The containers that the field keeps tensors and records in, read from bytes that nobody vouches for.
//!
//! Every parser here takes its caps before it takes memory, executes nothing, and answers damaged
//! input with an error that names the place. Nothing in this crate knows a model or a data set.
#![forbid(unsafe_code)]

pub mod lineidx;
pub mod numpy;
pub mod shard;
pub mod tar;
