//! PyTorch checkpoints: what `torch.save` wrote, as a zip file or, before version 1.6, as one pickle
//! after another. Plain pickles of NumPy arrays are read the same way.
//!
//! Opening reads the pickle alone. Every tensor is compared with the size of its storage then, so that
//! listing is a promise: what is listed can be read, and takes the memory that the listing says.
//! Storages are read when a tensor is asked for, at its place in the file.
//!
//! Checksums of zip members are not compared: PyTorch can be told to write none.

mod collect;
mod legacy;
mod storage;
mod zipped;

use std::collections::HashMap;
use std::sync::Arc;

use crate::error::FormatError;
use crate::pickle::{self, Limits, Pickle, Value};
use crate::source::ByteSource;
use crate::tensor::{Dtype, Tensor, count, extent, gather, is_dense, swap_bytes};

use storage::Place;

/// Longest name of a tensor, all levels of nesting together.
pub const MAX_NAME: usize = 1024;
/// Most times that a compressed storage may be larger than it is in the file.
pub const MAX_EXPANSION: u64 = 100;
/// Most elements of a tensor that repeats the elements of a smaller storage.
pub const MAX_REPEATED: usize = 1 << 20;

/// How a checkpoint was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TorchKind {
    /// A zip file.
    Zip,
    /// One pickle after another, as before version 1.6.
    Legacy,
    /// A pickle of NumPy arrays.
    Pickle,
}

/// An open checkpoint.
#[derive(Debug)]
pub struct TorchFile {
    kind: TorchKind,
    source: Arc<ByteSource>,
    zip: Option<Arc<zip::read::ZipArchiveMetadata>>,
    pickle: Pickle,
    storages: HashMap<String, Place>,
    big_endian: bool,
    tensors: Vec<Entry>,
    extras: Vec<Extra>,
    unwrapped: Option<String>,
}

/// One tensor of a checkpoint.
#[derive(Debug)]
pub struct Entry {
    /// Dotted name.
    pub name: String,
    /// Type of the elements.
    pub dtype: Dtype,
    /// Sizes of the axes.
    pub shape: Vec<usize>,
    data: Data,
}

#[derive(Debug)]
enum Data {
    /// Part of a storage, in elements.
    Storage {
        key: String,
        first: usize,
        strides: Vec<usize>,
    },
    /// A NumPy array inside the pickle.
    Array(pickle::Id),
}

/// Something in a checkpoint that is no weight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extra {
    /// Dotted name.
    pub name: String,
    /// What is there, in a few words.
    pub what: String,
}

impl std::fmt::Display for Extra {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.name, self.what)
    }
}

impl TorchFile {
    /// Reads the pickle of a checkpoint and checks every tensor against its storage.
    ///
    /// # Errors
    /// What is no checkpoint, damage, a name in the pickle that is not on the list, or a limit.
    pub fn open(source: Arc<ByteSource>, limits: &Limits) -> Result<Self, FormatError> {
        let head = source.head(512)?;
        if head.starts_with(b"PK\x03\x04") {
            return zipped::open(source, limits);
        }
        if head.get(257..262) == Some(b"ustar") {
            return Err(FormatError::Unsupported {
                what: "a tar file, as PyTorch wrote before version 0.1.10, is not supported".into(),
                hint: "load it in PyTorch and save it again with `torch.save`",
            });
        }
        legacy::open(source, limits)
    }

    /// How the file was written.
    #[must_use]
    pub fn kind(&self) -> TorchKind {
        self.kind
    }

    /// The tensors, in the order of the file.
    #[must_use]
    pub fn tensors(&self) -> &[Entry] {
        &self.tensors
    }

    /// What the file holds beside weights.
    #[must_use]
    pub fn extras(&self) -> &[Extra] {
        &self.extras
    }

    /// The key that the weights were under, when there was one.
    #[must_use]
    pub fn unwrapped(&self) -> Option<&str> {
        self.unwrapped.as_deref()
    }

    /// Reads one tensor.
    ///
    /// # Errors
    /// What the system said; a compressed storage that is not what its header says.
    pub fn read(&self, entry: &Entry) -> Result<Tensor, FormatError> {
        let (key, first, strides) = match &entry.data {
            Data::Storage {
                key,
                first,
                strides,
            } => (key, *first, strides),
            Data::Array(id) => {
                let spec = Value::new(&self.pickle, *id).array_spec();
                return spec.unwrap_or_else(|| Err(gone(&entry.name)))?.read();
            }
        };
        let place = self.storages.get(key).ok_or_else(|| gone(&entry.name))?;
        let size = entry.dtype.bitsize() / 8;
        // Both were checked when the file was opened, without overflow.
        let len = extent(&entry.shape, strides).unwrap_or(0) * size;
        let bytes = self.read_storage(place, (first * size) as u64, len as u64)?;
        let mut data = if is_dense(&entry.shape, strides) {
            bytes
        } else {
            gather(&bytes, size, &entry.shape, strides)
        };
        if self.big_endian {
            swap_bytes(entry.dtype, &mut data);
        }
        Ok(Tensor {
            dtype: entry.dtype,
            shape: entry.shape.clone(),
            data,
        })
    }
}

/// Cannot happen: what is listed was there when the file was opened.
fn gone(name: &str) -> FormatError {
    FormatError::damaged(
        "checkpoint",
        format!("tensor `{name}`"),
        "its storage is gone",
    )
}

/// What a checkpoint says of one tensor, before it is compared with its storage.
struct Strided<'a> {
    storage: storage::Reference<'a>,
    dtype: Dtype,
    shape: Vec<usize>,
    strides: Vec<usize>,
    first: usize,
}

impl Strided<'_> {
    /// Compares the tensor with its storage of `bytes` bytes.
    fn check(&self, bytes: u64) -> Result<(), String> {
        let size = self.dtype.bitsize() / 8;
        let held = usize::try_from(bytes).unwrap_or(usize::MAX) / size.max(1);
        let last =
            extent(&self.shape, &self.strides).and_then(|extent| self.first.checked_add(extent));
        let (Some(last), Some(elements)) = (last, count(&self.shape)) else {
            return Err(format!("shape {:?} has no size", self.shape));
        };
        if last > held {
            return Err(format!(
                "shape {:?} with strides {:?} from element {} needs {last} elements, the storage has {held}",
                self.shape, self.strides, self.first
            ));
        }
        if elements > held.max(MAX_REPEATED) {
            return Err(format!(
                "shape {:?} repeats a storage of {held} elements",
                self.shape
            ));
        }
        Ok(())
    }
}

fn damaged(place: impl Into<String>, message: impl Into<String>) -> FormatError {
    FormatError::damaged("checkpoint", place, message)
}
