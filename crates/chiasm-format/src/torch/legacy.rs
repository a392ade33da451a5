//! Checkpoints from before PyTorch 1.6: magic number, version, system, program and list of storages as
//! five pickles, then the storages, each after its number of elements. Without the magic number: one
//! pickle.

use std::collections::HashMap;
use std::io::BufReader;
use std::sync::Arc;

use super::storage::{Place, Reference};
use super::{TorchFile, TorchKind, collect, damaged};
use crate::error::FormatError;
use crate::pickle::{self, Limits, Pickle};
use crate::source::ByteSource;

const MAGIC: i128 = 0x1950_a86a_20f9_469c_fc6c;
const VERSION: i64 = 1001;

pub(super) fn open(source: Arc<ByteSource>, limits: &Limits) -> Result<TorchFile, FormatError> {
    let mut position = 0;
    let mut next = || -> Result<Pickle, FormatError> {
        let reader = BufReader::new(source.reader_at(position));
        let pickle = pickle::parse_from(reader, source.len().saturating_sub(position), limits)?;
        position += pickle.len();
        Ok(pickle)
    };
    let first = next()?;
    if first.root().as_i128() != Some(MAGIC) {
        if first.references().next().is_some() {
            return Err(damaged(
                "file",
                "a pickle with storages, but no list of them",
            ));
        }
        return collect::finish(TorchFile {
            kind: TorchKind::Pickle,
            source,
            zip: None,
            pickle: first,
            storages: HashMap::new(),
            big_endian: false,
            tensors: Vec::new(),
            extras: Vec::new(),
            unwrapped: None,
        });
    }
    if next()?.root().as_i64() != Some(VERSION) {
        return Err(damaged("file", format!("its version is not {VERSION}")));
    }
    let system = next()?;
    let little = system
        .root()
        .get("little_endian")
        .and_then(pickle::Value::as_bool);
    let big_endian = little == Some(false);
    let pickle = next()?;
    let keys = next()?;

    let storages = place_storages(&source, position, &pickle, &keys, big_endian)?;
    collect::finish(TorchFile {
        kind: TorchKind::Legacy,
        source,
        zip: None,
        pickle,
        storages,
        big_endian,
        tensors: Vec::new(),
        extras: Vec::new(),
        unwrapped: None,
    })
}

/// Steps from storage to storage, reading only the number of elements before each.
fn place_storages(
    source: &ByteSource,
    mut position: u64,
    pickle: &Pickle,
    keys: &Pickle,
    big_endian: bool,
) -> Result<HashMap<String, Place>, FormatError> {
    let mut sizes = HashMap::new();
    for value in pickle.references() {
        let Some(reference) = Reference::of(value) else {
            return Err(damaged("pickle", "a reference that is no storage"));
        };
        let size = reference
            .dtype
            .map_or(1, |dtype| dtype.bitsize() as u64 / 8);
        if *sizes.entry(reference.key).or_insert(size) != size {
            return Err(damaged("pickle", "a storage has two element types"));
        }
    }
    let mut storages = HashMap::new();
    for key in keys.root().items() {
        let size = key
            .as_str()
            .and_then(|key| sizes.get(&key).map(|size| (key, *size)));
        let Some((key, size)) = size else {
            return Err(damaged(
                format!("byte {position}"),
                format!("storage {} belongs to no tensor", key.describe()),
            ));
        };
        let head = source.read(position, 8)?;
        let head = <[u8; 8]>::try_from(head).unwrap_or_default();
        let elements = if big_endian {
            u64::from_be_bytes(head)
        } else {
            u64::from_le_bytes(head)
        };
        let offset = position + 8;
        let len = elements.checked_mul(size);
        let end = len.and_then(|len| offset.checked_add(len));
        let (Some(len), Some(end)) = (len, end.filter(|end| *end <= source.len())) else {
            return Err(damaged(
                format!("byte {position}"),
                format!("a storage of {elements} elements reaches beyond the end of the file"),
            ));
        };
        storages.insert(key.into_owned(), Place::Plain { offset, len });
        position = end;
    }
    Ok(storages)
}
