//! Storages: how a pickle refers to them, and where their bytes are.

use std::io::{BufReader, Read};

use zip::read::ZipReadOptions;

use super::{MAX_EXPANSION, TorchFile, damaged, zipped};
use crate::error::{FormatError, check_cap};
use crate::pickle::{Global, Value};
use crate::tensor::Dtype;

/// Where the bytes of a storage are.
#[derive(Clone, Debug)]
pub(super) enum Place {
    /// As they are, in the file.
    Plain {
        /// First byte.
        offset: u64,
        /// Number of bytes.
        len: u64,
    },
    /// A compressed member of the zip file.
    Deflated {
        /// Its number.
        member: usize,
        /// Number of bytes after expansion.
        len: u64,
    },
}

impl Place {
    pub(super) fn len(&self) -> u64 {
        match self {
            Self::Plain { len, .. } | Self::Deflated { len, .. } => *len,
        }
    }
}

/// `('storage', class, key, device, number of elements, [view])`
pub(super) struct Reference<'a> {
    pub(super) key: std::borrow::Cow<'a, str>,
    /// `None` when the class counts bytes.
    pub(super) dtype: Option<Dtype>,
    /// Element of the storage that this one begins at; 0 except in views of old files.
    pub(super) first: usize,
}

impl<'a> Reference<'a> {
    pub(super) fn of(value: Value<'a>) -> Option<Self> {
        let id = value.as_persistent()?;
        if id.item(0)?.as_str()? != "storage" {
            return None;
        }
        let Some(Global::Storage(dtype)) = id.item(1)?.as_global() else {
            return None;
        };
        // (key of the view, first element, number of elements)
        let first = match id.item(5) {
            Some(view) if view.is_sequence() => view.item(1)?.as_usize()?,
            _ => 0,
        };
        Some(Self {
            key: id.item(2)?.as_str()?,
            dtype,
            first,
        })
    }
}

impl TorchFile {
    /// `len` bytes of a storage from `first` on; the range was checked when the file was opened.
    pub(super) fn read_storage(
        &self,
        place: &Place,
        first: u64,
        len: u64,
    ) -> Result<Vec<u8>, FormatError> {
        match place {
            Place::Plain { offset, .. } => self.source.read(offset + first, len),
            Place::Deflated { member, len: all } => {
                let bytes = self.inflate(*member, *all)?;
                let range = first as usize..(first + len) as usize;
                let part = bytes.get(range);
                let part =
                    part.ok_or_else(|| damaged("storage", "it is shorter than it should be"))?;
                Ok(part.to_vec())
            }
        }
    }

    fn inflate(&self, member: usize, len: u64) -> Result<Vec<u8>, FormatError> {
        let gone = || damaged("zip file", "a member is gone");
        let zip = self.zip.as_ref().ok_or_else(gone)?;
        let mut reader = BufReader::new(self.source.reader_at(0));
        let entry = zip.entry(member).map_err(|error| zipped::error(&error))?;
        let file = entry
            .with_reader(&mut reader, ZipReadOptions::new().ignore_crc32(true))
            .map_err(|error| zipped::error(&error))?;
        // The vector grows with what really comes, not with what the header promises.
        let mut bytes = Vec::new();
        let read = file.take(len + 1).read_to_end(&mut bytes);
        read.map_err(|error| damaged("zip file", error.to_string()))?;
        if bytes.len() as u64 != len {
            return Err(damaged(
                "zip file",
                "a member is not as long as its header says",
            ));
        }
        Ok(bytes)
    }
}

/// Refuses a member that expands to far more than it takes in the file.
pub(super) fn check_expansion(name: &str, packed: u64, len: u64) -> Result<(), FormatError> {
    let cap = packed.saturating_mul(MAX_EXPANSION).max(1 << 20);
    check_cap(
        format!("bytes of member `{name}` after expansion"),
        len,
        cap,
    )
}
