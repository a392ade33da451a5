//! Pictures and clips with text, from files on disk to host-memory batches.
//!
//! This crate owns reading (the data sets of the field, one's own tables and folders, the built-in
//! drawings), decoding, frames of clips, preprocessing, tokenising, checking, auditing and batching. It
//! knows nothing of tensors on a device, of models or of the command line: everything it hands out is
//! `Vec<f32>` and `Vec<i64>`. Containers are parsed by `chiasm-format`.
//!
//! Two promises hold throughout:
//!
//! * **Randomness is a function, not a state.** Order, captions and augmentation are pure functions
//!   of `(seed, epoch, sample)` ([`rng`]), so a batch can be recomputed from its step number alone.
//! * **Bad rows are counted, never fatal and never silent.** A row or picture that cannot be used
//!   goes to a [`Quarantine`] with its place and reason; a whole source that cannot be used is a
//!   [`DataError`] that says where and, through `hint`, what to do.
//!
//! # Examples
//!
//! ```
//! use chiasm_data::{Split, builtin};
//!
//! let emoji = builtin::emoji()?;
//! let test = emoji.subset(Split::Test);
//! assert!(test.len() > 300);
//! # Ok::<(), chiasm_data::DataError>(())
//! ```
#![forbid(unsafe_code)]

mod animation;
pub mod answers;
pub mod audit;
pub mod augment;
pub mod builtin;
pub mod check;
pub mod curate;
pub mod dataset;
pub mod decode;
pub mod error;
pub mod frames;
pub mod grouping;
mod jpeg;
mod loader;
pub mod mix;
mod part;
pub mod phash;
pub mod readers;
pub mod regions;
pub mod relation;
pub mod resample;
pub mod rng;
mod simd;
pub mod subword;
pub mod synthitr;
pub mod targets;
pub mod thumbnail;
pub mod tokenizer;
pub mod transform;
pub mod video;
mod vocabulary_files;

pub use audit::{Finding, Overlap, OverlapCounts, Trace, audit};
pub use check::{
    Check, CheckReport, Print, Quarantine, QuarantineEntry, Seen, check, enforce_rate,
};
pub use chiasm_format::atomic;

pub use augment::RandAugment;
pub use dataset::{
    Annotations, Answer, Clip, Dataset, ImageSource, Mask, Object, Origin, Phrase, Place, Rating,
    Rect, RegionSource, Sample, SharedFile, Shown, Split, SplitCount, Unit, Visual, hash_fraction,
};
pub use decode::{AlphaRule, DecodeError, Limits, Rgb, decode, decode_rgb};
pub use error::DataError;
pub use frames::{ClipError, ClipLimits, Frames, SampledFrames, Sampling, SamplingKind};
pub use loader::{
    Chunk, HostBatch, Loader, LoaderConfig, Shaped, Views, encode_texts, eval_images, kept_shape,
};
pub use mix::{Mix, Prefetch};
pub use part::Part;
pub use readers::{OpenOptions, Opened, open};
pub use regions::{RegionLimits, RegionRows, Regions};
pub use relation::Relation;
pub use resample::Filter;
pub use targets::Targets;
pub use thumbnail::thumbnail;
pub use tokenizer::{Encoded, SpecialIds, TextTokenizer, TokenizerError, TokenizerKind};
pub use transform::{Normalisation, Preprocess, Resize, TransformError};
