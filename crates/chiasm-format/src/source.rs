//! Bytes that can be read at any place: a file, or memory.
//!
//! Every read is compared with the length first, so that a length out of a damaged header can never
//! ask for more memory than there are bytes.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::FormatError;

/// A file open for positional reads, or bytes in memory.
#[derive(Debug)]
pub struct ByteSource {
    path: PathBuf,
    len: u64,
    bytes: Bytes,
}

#[derive(Debug)]
enum Bytes {
    File(File),
    Memory(Arc<[u8]>),
}

impl ByteSource {
    /// Opens a regular file.
    ///
    /// # Errors
    /// What the system said; a folder, a pipe or a device is refused.
    pub fn open(path: &Path) -> Result<Self, FormatError> {
        let io = |source| FormatError::io(path, source);
        // Before it is opened: opening a pipe waits for whoever writes to it.
        let meta = std::fs::metadata(path).map_err(io)?;
        if !meta.is_file() {
            let kind = io::ErrorKind::InvalidInput;
            return Err(io(io::Error::new(kind, "it is not a regular file")));
        }
        let file = File::open(path).map_err(io)?;
        Ok(Self {
            path: path.to_owned(),
            len: file.metadata().map_err(io)?.len(),
            bytes: Bytes::File(file),
        })
    }

    /// Bytes that are in memory already; `name` stands for a path in messages.
    pub fn from_memory(name: &str, bytes: impl Into<Arc<[u8]>>) -> Self {
        let bytes = bytes.into();
        Self {
            path: PathBuf::from(name),
            len: bytes.len() as u64,
            bytes: Bytes::Memory(bytes),
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Number of bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// True when there is no byte.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// `len` bytes from `offset` on. A range that is not inside is refused before memory is taken.
    ///
    /// # Errors
    /// A range outside, or what the system said.
    pub fn read(&self, offset: u64, len: u64) -> Result<Vec<u8>, FormatError> {
        let outside = || {
            FormatError::damaged(
                "file",
                format!("byte {offset}"),
                format!("{len} bytes are asked for, the file ends at {}", self.len),
            )
        };
        let inside = offset.checked_add(len).is_some_and(|end| end <= self.len);
        let (true, Ok(size)) = (inside, usize::try_from(len)) else {
            return Err(outside());
        };
        let mut bytes = vec![0; size];
        let mut reader = self.reader_at(offset);
        reader
            .read_exact(&mut bytes)
            .map_err(|source| FormatError::io(&self.path, source))?;
        Ok(bytes)
    }

    /// The first bytes, at most `len` of them.
    ///
    /// # Errors
    /// What the system said.
    pub fn head(&self, len: u64) -> Result<Vec<u8>, FormatError> {
        self.read(0, len.min(self.len))
    }

    /// A reader of its own position that starts at `offset`.
    #[must_use]
    pub fn reader_at(&self, offset: u64) -> SourceReader<'_> {
        SourceReader {
            source: self,
            position: offset,
        }
    }
}

/// Reads a [`ByteSource`] from a position of its own.
#[derive(Debug)]
pub struct SourceReader<'a> {
    source: &'a ByteSource,
    position: u64,
}

impl Read for SourceReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = match &self.source.bytes {
            Bytes::File(file) => read_at(file, buffer, self.position)?,
            Bytes::Memory(bytes) => {
                let start = usize::try_from(self.position).unwrap_or(usize::MAX);
                let rest = bytes.get(start..).unwrap_or_default();
                (&mut &*rest).read(buffer)?
            }
        };
        self.position += count as u64;
        Ok(count)
    }
}

impl Seek for SourceReader<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::Current(delta) => self.position.checked_add_signed(delta),
            SeekFrom::End(delta) => self.source.len.checked_add_signed(delta),
        };
        let outside = || io::Error::new(io::ErrorKind::InvalidInput, "a position before byte 0");
        self.position = position.ok_or_else(outside)?;
        Ok(self.position)
    }
}

/// Fills `bytes` from `offset` on, without moving the position that others read at.
///
/// # Errors
/// What the system said; a file that ends early.
pub fn read_exact_at(file: &File, mut bytes: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        let count = read_at(file, bytes, offset)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        bytes = bytes.get_mut(count..).unwrap_or_default();
        offset += count as u64;
    }
    Ok(())
}

#[cfg(unix)]
fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, buffer, offset)
}

#[cfg(windows)]
fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_read(file, buffer, offset)
}
