//! A file as memory: the one place of this crate that needs `unsafe`.
//!
//! # What a change of the file does to whoever reads it
//!
//! A [`Map`] covers the bytes that were committed when it was made. [`crate::Writer`] appends after them, or writes a
//! new file under a new name and unlinks the old one, whose bytes stay until the last map of them is gone. What it
//! cuts off is never under a map: bytes after the last commit. So readers see the state they opened, whatever a
//! writer does.
//!
//! Somebody else who shortens a file of the folder in place (`truncate`, a copy over it) ends a process that then reads
//! the missing bytes: SIGBUS on Unix, an access violation on Windows. Bytes changed in place are noticed where they
//! carry a checksum (records, row table) and else change scores. To replace an index, rename a whole folder.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::ops::Deref;

/// The first bytes of a file, read-only.
#[derive(Debug)]
pub(crate) struct Map(memmap2::Mmap);

impl Map {
    /// Maps `len` bytes; the file must have them.
    pub(crate) fn new(file: &File, len: u64) -> io::Result<Self> {
        let size = file.metadata()?.len();
        let Ok(bytes) = usize::try_from(len) else {
            return Err(io::Error::other(
                "the file is larger than the address space",
            ));
        };
        if size < len {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("it has {size} bytes and should have {len}"),
            ));
        }
        // SAFETY: the bytes must not change while they are borrowed. Writers of this crate only append after `len`
        // or replace the file by name (see above); a folder is not shared with programs that write into it otherwise.
        // Every bit pattern is a valid u8 (and f32, u32), so what damage could do to values is no unsoundness.
        let map = unsafe { memmap2::MmapOptions::new().len(bytes).map(file)? };
        Ok(Self(map))
    }
}

impl Deref for Map {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}
