//! The safetensors format: one file, or shards with an index.
//!
//! The header alone is read on opening, and every tensor is compared with it: parts must lie one after
//! another without a gap and end with the file. Tensors are read at their place when they are asked
//! for.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::atomic::write_atomically;
use crate::error::{FormatError, check_cap, shown};
use crate::source::ByteSource;
use crate::tensor::{Dtype, MAX_RANK, Tensor, byte_count};

/// Longest header, as in the format's own library.
pub const MAX_HEADER: u64 = 100_000_000;
/// Most tensors in one file.
pub const MAX_TENSORS: usize = 1 << 20;

const FORMAT: &str = "safetensors";

/// An open file.
#[derive(Debug)]
pub struct SafetensorsFile {
    source: Arc<ByteSource>,
    /// First byte behind the header.
    start: u64,
    tensors: Vec<Entry>,
    metadata: BTreeMap<String, String>,
}

/// One tensor of a file.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Type of the elements.
    pub dtype: Dtype,
    /// Sizes of the axes.
    pub shape: Vec<usize>,
    /// First byte and byte behind the last, from the end of the header on.
    range: (u64, u64),
}

impl SafetensorsFile {
    /// True when a file of `len` bytes that begins with `head` can be one: a length that fits, and then
    /// a JSON object.
    #[must_use]
    pub fn recognises(head: &[u8], len: u64) -> bool {
        let Some((size, rest)) = head.split_first_chunk::<8>() else {
            return false;
        };
        u64::from_le_bytes(*size) <= len && rest.first() == Some(&b'{')
    }

    /// Reads and checks the header.
    ///
    /// # Errors
    /// A header that is too long, is not JSON, or does not fit the file.
    pub fn open(source: Arc<ByteSource>) -> Result<Self, FormatError> {
        let size = source.read(0, 8)?;
        let size = u64::from_le_bytes(<[u8; 8]>::try_from(size).unwrap_or_default());
        check_cap("bytes of the safetensors header", size, MAX_HEADER)?;
        let header = source.read(8, size)?;
        let Header {
            mut tensors,
            metadata,
        } = serde_json::from_slice(&header)
            .map_err(|error| FormatError::damaged(FORMAT, "its header", error.to_string()))?;
        tensors.sort_by_key(|tensor| tensor.range);
        let start = 8 + size;
        check_ranges(&tensors, source.len() - start)?;
        Ok(Self {
            source,
            start,
            tensors,
            metadata,
        })
    }

    /// The tensors, in the order of the file.
    #[must_use]
    pub fn tensors(&self) -> &[Entry] {
        &self.tensors
    }

    /// What the header says beside tensors.
    #[must_use]
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// Reads one tensor.
    ///
    /// # Errors
    /// What the system said.
    pub fn read(&self, entry: &Entry) -> Result<Tensor, FormatError> {
        let (from, to) = entry.range;
        Ok(Tensor {
            dtype: entry.dtype,
            shape: entry.shape.clone(),
            data: self
                .source
                .read(self.start + from, to.saturating_sub(from))?,
        })
    }
}

impl SafetensorsFile {
    /// Where a tensor begins in the file.
    pub(crate) fn start_of(&self, entry: &Entry) -> u64 {
        self.start + entry.range.0
    }
}

/// Tensors lie one after another, are as long as their shapes say, and fill `len` bytes.
fn check_ranges(tensors: &[Entry], len: u64) -> Result<(), FormatError> {
    let mut end = 0;
    for tensor in tensors {
        let (from, to) = tensor.range;
        let place = || format!("tensor `{}`", shown(&tensor.name));
        if from != end {
            let what = if from < end {
                "overlaps"
            } else {
                "leaves a gap after"
            };
            let message =
                format!("it begins at {from} and {what} the one before, which ends at {end}");
            return Err(FormatError::damaged(FORMAT, place(), message));
        }
        let held = to.checked_sub(from);
        if held.is_none() || held != byte_count(tensor.dtype, &tensor.shape) {
            let message = format!(
                "bytes {from} to {to} are not those of shape {:?} and type {}",
                tensor.shape, tensor.dtype
            );
            return Err(FormatError::damaged(FORMAT, place(), message));
        }
        end = to;
    }
    if end == len {
        return Ok(());
    }
    let message = format!("its tensors take {end} bytes, the file holds {len}");
    Err(FormatError::damaged(FORMAT, "its end", message))
}

/// The header, read in one pass: what is too much ends the reading before it is kept.
struct Header {
    tensors: Vec<Entry>,
    metadata: BTreeMap<String, String>,
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Header;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
        let mut names = HashSet::new();
        let mut header = Header {
            tensors: Vec::new(),
            metadata: BTreeMap::new(),
        };
        while let Some(name) = map.next_key::<String>()? {
            if !names.insert(name.clone()) {
                let name = shown(&name);
                return Err(A::Error::custom(format!(
                    "two entries have the name `{name}`"
                )));
            }
            if name == "__metadata__" {
                header.metadata = map.next_value()?;
                continue;
            }
            if header.tensors.len() == MAX_TENSORS {
                return Err(A::Error::custom(format!("more than {MAX_TENSORS} tensors")));
            }
            let Info {
                dtype,
                shape,
                data_offsets,
            } = map.next_value()?;
            header.tensors.push(Entry {
                name,
                dtype,
                shape: shape.0,
                range: data_offsets,
            });
        }
        Ok(header)
    }
}

#[derive(serde::Deserialize)]
#[serde(expecting = "a tensor with `dtype`, `shape` and `data_offsets`")]
struct Info {
    dtype: Dtype,
    shape: Shape,
    data_offsets: (u64, u64),
}

struct Shape(Vec<usize>);

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(ShapeVisitor)
    }
}

struct ShapeVisitor;

impl<'de> Visitor<'de> for ShapeVisitor {
    type Value = Shape;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at most {MAX_RANK} sizes")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Shape, A::Error> {
        let mut sizes = Vec::new();
        while let Some(size) = seq.next_element()? {
            if sizes.len() == MAX_RANK {
                return Err(A::Error::invalid_length(MAX_RANK + 1, &self));
            }
            sizes.push(size);
        }
        Ok(Shape(sizes))
    }
}

/// A tensor that is to be written.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorSpec {
    /// Its name.
    pub name: String,
    /// Type of the elements.
    pub dtype: Dtype,
    /// Sizes of the axes.
    pub shape: Vec<usize>,
}

/// Writes a file, one tensor in memory at a time: `data` gives the bytes of each as it is reached,
/// elements dense, last axis fastest, least byte first.
///
/// The same tensors and metadata always give the same bytes, in the order that the format's own library
/// writes: wide element types first, then by name. The file appears whole or not at all (see
/// [`crate::atomic`]).
///
/// # Errors
/// Two tensors of one name, bytes that do not fit the shape, what `data` returned, or what the system
/// said.
pub fn write_safetensors(
    path: &Path,
    tensors: &[TensorSpec],
    metadata: &BTreeMap<String, String>,
    mut data: impl FnMut(&TensorSpec) -> Result<Vec<u8>, FormatError>,
) -> Result<(), FormatError> {
    let mut ordered: Vec<&TensorSpec> = tensors.iter().collect();
    ordered.sort_by(|a, b| b.dtype.cmp(&a.dtype).then_with(|| a.name.cmp(&b.name)));
    let plan = Plan::new(ordered, metadata)?;
    let mut header = serde_json::to_vec(&plan)
        .map_err(|error| FormatError::damaged(FORMAT, "its header", error.to_string()))?;
    // Tensors begin at a multiple of eight bytes.
    header.resize(header.len().next_multiple_of(8), b' ');
    check_cap(
        "bytes of the safetensors header",
        header.len() as u64,
        MAX_HEADER,
    )?;

    write_atomically(path, |partial| -> Result<(), WriteError> {
        let mut file = BufWriter::with_capacity(1 << 20, File::create(partial)?);
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(&header)?;
        for (tensor, (from, to)) in &plan.tensors {
            let bytes = data(tensor)?;
            if bytes.len() as u64 != to - from {
                let message = format!("{} bytes do not fit shape {:?}", bytes.len(), tensor.shape);
                let place = format!("tensor `{}`", tensor.name);
                return Err(FormatError::damaged(FORMAT, place, message).into());
            }
            file.write_all(&bytes)?;
        }
        Ok(file.flush()?)
    })
    .map_err(|error| match error {
        WriteError::Io(source) => FormatError::io(path, source),
        WriteError::Format(error) => error,
    })
}

enum WriteError {
    Io(io::Error),
    Format(FormatError),
}

impl From<io::Error> for WriteError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<FormatError> for WriteError {
    fn from(error: FormatError) -> Self {
        Self::Format(error)
    }
}

/// Where each tensor of a new file goes.
struct Plan<'a> {
    tensors: Vec<(&'a TensorSpec, (u64, u64))>,
    metadata: &'a BTreeMap<String, String>,
}

impl<'a> Plan<'a> {
    fn new(
        ordered: Vec<&'a TensorSpec>,
        metadata: &'a BTreeMap<String, String>,
    ) -> Result<Self, FormatError> {
        let mut names = HashSet::from(["__metadata__"]);
        let mut tensors = Vec::with_capacity(ordered.len());
        let mut end = 0_u64;
        for tensor in ordered {
            let place = || format!("tensor `{}`", shown(&tensor.name));
            if !names.insert(&tensor.name) {
                let message = "its name is taken";
                return Err(FormatError::damaged(FORMAT, place(), message));
            }
            let from = end;
            let len = byte_count(tensor.dtype, &tensor.shape);
            end = len.and_then(|len| end.checked_add(len)).ok_or_else(|| {
                let message = format!("shape {:?} has no size", tensor.shape);
                FormatError::damaged(FORMAT, place(), message)
            })?;
            tensors.push((tensor, (from, end)));
        }
        Ok(Self { tensors, metadata })
    }
}

impl Serialize for Plan<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(serde::Serialize)]
        struct Info<'a> {
            dtype: Dtype,
            shape: &'a [usize],
            data_offsets: (u64, u64),
        }
        let mut map = serializer.serialize_map(None)?;
        if !self.metadata.is_empty() {
            map.serialize_entry("__metadata__", self.metadata)?;
        }
        for (tensor, data_offsets) in &self.tensors {
            let info = Info {
                dtype: tensor.dtype,
                shape: &tensor.shape,
                data_offsets: *data_offsets,
            };
            map.serialize_entry(&tensor.name, &info)?;
        }
        map.end()
    }
}
