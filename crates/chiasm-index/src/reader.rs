//! An index as it was committed, for any number of readers.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use crate::error::IndexError;
use crate::graph::Graph;
use crate::layout::{
    ENTRY, Entry, HEADER, Identity, Manifest, Part, Removed, State, first, text_hash,
};
use crate::map::Map;
use crate::record::Record;
use crate::store::same_model;
use crate::writer::Writer;

/// A read-only view of the last commit. Later commits are seen by opening again.
///
/// Opening reads the manifest, the headers and the list of removed rows; it checks lengths and maps the rest, so it
/// takes milliseconds whatever the size. What a record says is checked against its hash when it is read, everything by
/// [`Index::verify`].
///
/// Rows are numbered in the order in which they were added, with those that were removed or replaced left out but not
/// renumbered, until [`Writer::compact`].
///
/// # Files that change under a reader
///
/// A [`Writer`] only appends after what is mapped or writes new files under new names, so whoever is reading sees the
/// state it opened. Another program that shortens a file of the folder in place ends a process that then reads the
/// missing bytes (SIGBUS on Unix, an access violation on Windows). To replace an index, rename its folder.
#[derive(Debug)]
pub struct Index {
    folder: PathBuf,
    identity: Identity,
    state: State,
    vectors: Map,
    table: Map,
    records: Map,
    removed: Removed,
    graph: Option<Graph>,
}

impl Index {
    /// Begins an index in a folder, which is made if it is not there; it may hold other files.
    ///
    /// # Errors
    /// If there is an index, if the identity has no width or no fingerprint, if the file system fails.
    pub fn create(folder: &Path, identity: Identity) -> Result<Writer, IndexError> {
        Writer::create(folder, identity)
    }

    /// Opens the last commit.
    ///
    /// # Errors
    /// If there is no index, if it is damaged or of a later format, if the file system fails.
    pub fn open(folder: &Path) -> Result<Self, IndexError> {
        let mut manifest = Manifest::read(folder)?;
        loop {
            let opened = Self::load(folder, &manifest);
            if opened.is_ok() {
                return opened;
            }
            // A writer may have compacted in between, and then the files of this manifest are gone.
            let again = Manifest::read(folder)?;
            if again.state.generation == manifest.state.generation {
                return opened;
            }
            manifest = again;
        }
    }

    /// Whether a folder holds an index, whole or not.
    #[must_use]
    pub fn is_at(folder: &Path) -> bool {
        Manifest::path(folder).is_file()
    }

    /// Makes sure that this model made it.
    ///
    /// # Errors
    /// [`IndexError::OtherModel`].
    pub fn made_by(&self, identity: &Identity) -> Result<(), IndexError> {
        same_model(self.folder.display().to_string(), &self.identity, identity)
    }

    /// [`Index::open`] for vectors of this model alone.
    ///
    /// # Errors
    /// As [`Index::open`], and [`IndexError::OtherModel`].
    pub fn open_for(folder: &Path, identity: &Identity) -> Result<Self, IndexError> {
        let index = Self::open(folder)?;
        index.made_by(identity)?;
        Ok(index)
    }

    fn load(folder: &Path, manifest: &Manifest) -> Result<Self, IndexError> {
        if cfg!(target_endian = "big") {
            let reason = "the files are little-endian, this machine is not".to_owned();
            return Err(IndexError::Identity { reason });
        }
        let (identity, state) = (&manifest.identity, &manifest.state);
        let map = |part| map_part(folder, part, identity, state);
        // The large files first: a manifest that lies about the rows must not cost memory.
        let (vectors, table) = (map(Part::Vectors)?, map(Part::Rows)?);
        let removed_path = Part::Removed.path(folder, state.generation);
        let removed = map(Part::Removed)?;
        let numbers = removed.get(HEADER..).unwrap_or_default();
        if blake3::hash(numbers).to_hex().as_str() != state.removed_check {
            let reason = "the list of removed rows is not what was committed";
            return Err(IndexError::damaged(&removed_path, reason));
        }
        let removed = Removed::parse(numbers, state.rows as usize).ok_or_else(|| {
            IndexError::damaged(
                &removed_path,
                "it names a row twice or one that is not there",
            )
        })?;
        Ok(Self {
            folder: folder.to_owned(),
            identity: identity.clone(),
            state: state.clone(),
            vectors,
            table,
            records: map(Part::Records)?,
            removed,
            graph: Graph::open(folder, identity, state.generation, state.rows as usize),
        })
    }

    /// What made the vectors.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Where it lies.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// How many records it has.
    pub fn len(&self) -> usize {
        self.rows() - self.removed.count()
    }

    /// Whether it has no record.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many row numbers are given, those of removed rows included.
    pub fn rows(&self) -> usize {
        self.state.rows as usize
    }

    /// The rows that are there, in the order in which they were added.
    pub fn live_rows(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.rows()).filter(|row| !self.removed.contains(*row))
    }

    /// How many rows the graph of approximate search covers; later ones are searched exactly. `None` without a graph.
    pub fn graph_rows(&self) -> Option<usize> {
        self.graph.as_ref().map(Graph::covered)
    }

    /// The record of a row.
    ///
    /// # Errors
    /// If there is no such row, if the record is not what was committed.
    pub fn record(&self, row: usize) -> Result<Record, IndexError> {
        if row >= self.rows() || self.removed.contains(row) {
            return Err(IndexError::NoRow {
                row,
                rows: self.rows(),
            });
        }
        let bytes = self.record_bytes(row, &self.entry(row)?)?;
        serde_json::from_slice(bytes).map_err(|error| self.damaged_record(row, &error.to_string()))
    }

    /// The normalised vector of a row, `[width]`. `None` if there is no such row.
    pub fn vector(&self, row: usize) -> Option<&[f32]> {
        if self.removed.contains(row) {
            return None;
        }
        let stride = self.identity.stride();
        let padded = self.vectors().get(row.checked_mul(stride)?..)?;
        padded.get(..self.identity.width)
    }

    /// The row of a record. Goes through the row table: some milliseconds for a million rows.
    ///
    /// # Errors
    /// If a row of the table is not what was committed.
    pub fn row_of(&self, key: &str) -> Result<Option<usize>, IndexError> {
        let wanted = text_hash(key);
        for row in self.live_rows() {
            // The hash alone first: most rows need no more.
            let bytes = self.entry_bytes(row);
            if bytes.get(16..32) == Some(&wanted) {
                self.entry(row)?;
                return Ok(Some(row));
            }
        }
        Ok(None)
    }

    /// Reads everything and compares it with its hashes: every row of the table, every vector and every record, the
    /// removed ones included, and the graph.
    ///
    /// # Errors
    /// What is damaged first, by row.
    pub fn verify(&self) -> Result<(), IndexError> {
        let found = (0..self.rows())
            .into_par_iter()
            .map(|row| self.verify_row(row))
            .find_first(Result::is_err);
        found.unwrap_or(Ok(()))?;
        let last = self.rows().checked_sub(1).map(|row| self.entry(row));
        let end = match last.transpose()? {
            Some(entry) => entry.offset + u64::from(entry.length),
            None => HEADER as u64,
        };
        if end != self.state.record_bytes {
            let reason = format!("the last record ends at byte {end}");
            return Err(IndexError::damaged(&self.path(Part::Records), reason));
        }
        self.graph.as_ref().map_or(Ok(()), Graph::verify)
    }

    pub(crate) fn verify_row(&self, row: usize) -> Result<(), IndexError> {
        let entry = self.entry(row)?;
        if vector_check(self.vector_bytes(row)) != entry.vector_check {
            let reason = format!("the vector of row {row} is not what was committed");
            return Err(IndexError::damaged(&self.path(Part::Vectors), reason));
        }
        let record: Record = serde_json::from_slice(self.record_bytes(row, &entry)?)
            .map_err(|error| self.damaged_record(row, &error.to_string()))?;
        if text_hash(&record.key) != entry.key || text_hash(&record.digest) != entry.digest {
            return Err(self.damaged_record(row, "its key or digest is not that of the row table"));
        }
        Ok(())
    }

    /// All rows as they are on disk, `[rows, stride]`.
    pub(crate) fn vectors(&self) -> &[f32] {
        let bytes = self.vectors.get(HEADER..).unwrap_or_default();
        // Cannot fail: maps begin at a page, and the length is one of whole rows.
        bytemuck::try_cast_slice(bytes).unwrap_or_default()
    }

    pub(crate) fn is_removed(&self, row: usize) -> bool {
        self.removed.contains(row)
    }

    pub(crate) fn graph(&self) -> Option<&Graph> {
        self.graph.as_ref()
    }

    /// A row's entry in the table, as it was committed.
    pub(crate) fn entry(&self, row: usize) -> Result<Entry, IndexError> {
        Entry::parse(self.entry_bytes(row), row as u64).ok_or_else(|| {
            let reason = format!("row {row} is not what was committed");
            IndexError::damaged(&self.path(Part::Rows), reason)
        })
    }

    pub(crate) fn vector_bytes(&self, row: usize) -> &[u8] {
        slice(&self.vectors, row, 4 * self.identity.stride())
    }

    /// The JSON of a row, compared with its hash.
    pub(crate) fn record_bytes(&self, row: usize, entry: &Entry) -> Result<&[u8], IndexError> {
        let start = usize::try_from(entry.offset).ok();
        let bytes = start.and_then(|start| {
            let end = start.checked_add(entry.length as usize)?;
            self.records.get(start..end)
        });
        bytes
            .filter(|bytes| record_check(bytes) == entry.record_check)
            .ok_or_else(|| self.damaged_record(row, "its bytes are not what was committed"))
    }

    fn entry_bytes(&self, row: usize) -> &[u8] {
        slice(&self.table, row, ENTRY)
    }

    fn damaged_record(&self, row: usize, reason: &str) -> IndexError {
        let reason = format!("the record of row {row}: {reason}");
        IndexError::damaged(&self.path(Part::Records), reason)
    }

    fn path(&self, part: Part) -> PathBuf {
        part.path(&self.folder, self.state.generation)
    }
}

/// A row of a mapped file; nothing if it is not there.
fn slice(map: &Map, row: usize, bytes: usize) -> &[u8] {
    let range = || {
        let start = row.checked_mul(bytes)?.checked_add(HEADER)?;
        map.get(start..start.checked_add(bytes)?)
    };
    range().unwrap_or_default()
}

pub(crate) fn vector_check(bytes: &[u8]) -> [u8; 8] {
    first(&blake3::hash(bytes))
}

pub(crate) fn record_check(bytes: &[u8]) -> [u8; 4] {
    first(&blake3::hash(bytes))
}

/// Maps is committed of a file, with its header and length checked.
fn map_part(
    folder: &Path,
    part: Part,
    identity: &Identity,
    state: &State,
) -> Result<Map, IndexError> {
    let path = part.path(folder, state.generation);
    let Some(len) = state.len(part, identity) else {
        return Err(IndexError::damaged(&path, "its length cannot be"));
    };
    let file = File::open(&path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => IndexError::damaged(&path, "it is missing"),
        _ => IndexError::io(&path)(source),
    })?;
    let map = Map::new(&file, len).map_err(|source| match source.kind() {
        io::ErrorKind::UnexpectedEof => IndexError::damaged(&path, source.to_string()),
        _ => IndexError::io(&path)(source),
    })?;
    if map.get(..HEADER) != Some(&part.header(state.generation, identity)) {
        let reason = "its first 64 bytes are not those of a file of this index";
        return Err(IndexError::damaged(&path, reason));
    }
    Ok(map)
}
