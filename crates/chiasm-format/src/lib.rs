//! The containers that the field keeps tensors and records in, read from bytes that nobody vouches for.
//!
//! Every parser here takes its caps before it takes memory, executes nothing, and answers damaged
//! input with an error that names the place. Nothing in this crate knows a model or a data set.
#![forbid(unsafe_code)]

pub mod archive;
pub mod arrow;
pub mod atomic;
pub mod darknet;
pub mod error;
pub mod lineidx;
pub mod matrix;
pub mod numpy;
pub mod parts;
pub mod pickle;
pub mod safetensors;
pub mod shard;
pub mod source;
pub mod tar;
pub mod tensor;
pub mod torch;

pub use archive::{Archive, TensorInfo};
pub use error::FormatError;
pub use matrix::Matrix;
pub use parts::{Claim, Parts, PartsError};
pub use safetensors::{TensorSpec, write_safetensors};
pub use source::ByteSource;
pub use tensor::{Dtype, Tensor};
