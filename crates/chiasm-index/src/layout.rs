//! The files of an index, byte by byte. Nothing here keeps state.
//!
//! ```text
//! index.json              manifest: identity, counts, lengths, checksum; replaced whole by every commit
//! vectors-000001.f32      header, then rows of `stride` little-endian f32
//! rows-000001.bin         header, then a row table entry of 64 bytes a row
//! records-000001.jsonl    header, then a line of JSON a row
//! removed-000001.bin      header, then the number of every removed row as u32
//! graph-000001.bin        neighbours for approximate search; optional
//! lock                    held by the writer
//! ```
//!
//! A header is a line of text of 64 bytes that names the file's kind, its generation and the identity, so that files of
//! two indexes cannot be mixed. The generation grows when the index is compacted.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::IndexError;

/// Version of the whole layout.
pub(crate) const FORMAT: u32 = 1;
/// Bytes before the first row of every file. The floats after it stay aligned to a cache line.
pub(crate) const HEADER: usize = 64;
/// Bytes of a row table entry.
pub(crate) const ENTRY: usize = 64;
/// Rows are padded to whole registers of the widest vectors: 16 f32.
pub(crate) const LANES: usize = 16;
/// Rows are numbered by u32; `u32::MAX` stands for "none" in the graph.
pub(crate) const MAX_ROWS: u64 = u32::MAX as u64 - 1;
/// Longest record as JSON.
pub(crate) const MAX_RECORD_BYTES: usize = 16 << 20;
const MAX_WIDTH: usize = 1 << 16;
const MAX_MANIFEST_BYTES: u64 = 1 << 20;
const MANIFEST: &str = "index.json";

/// What made the vectors of an index. Vectors of another model cannot be compared with them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Name of the model, for people.
    pub model: String,
    /// Fingerprint of its weights and preprocessing, as its maker computes it.
    pub fingerprint: String,
    /// Numbers of a vector.
    pub width: usize,
}

impl Identity {
    /// Whether vectors of both can be compared. The name alone may differ: files are renamed.
    #[must_use]
    pub fn matches(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint && self.width == other.width
    }

    pub(crate) fn check(&self) -> Result<(), IndexError> {
        let reason = if self.width == 0 || self.width > MAX_WIDTH {
            format!("vectors have 1 to {MAX_WIDTH} numbers, not {}", self.width)
        } else if self.fingerprint.is_empty() {
            "the model has no fingerprint".to_owned()
        } else if self.model.len() + self.fingerprint.len() > 4096 {
            "the names of the model are longer than 4,096 bytes".to_owned()
        } else {
            return Ok(());
        };
        Err(IndexError::Identity { reason })
    }

    /// f32 of a row on disk.
    pub(crate) fn stride(&self) -> usize {
        self.width.next_multiple_of(LANES)
    }
}

impl std::fmt::Display for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} (fingerprint {}, width {})",
            self.model, self.fingerprint, self.width
        )
    }
}

/// What is committed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    /// Number in the files' names.
    pub(crate) generation: u32,
    /// Rows, the removed ones included.
    pub(crate) rows: u64,
    /// Bytes of the records' file, its header included.
    pub(crate) record_bytes: u64,
    /// Removed rows.
    pub(crate) removed: u64,
    /// blake3 of the removed rows' file after its header, hexadecimal.
    pub(crate) removed_check: String,
}

impl State {
    pub(crate) fn empty(generation: u32) -> Self {
        Self {
            generation,
            rows: 0,
            record_bytes: HEADER as u64,
            removed: 0,
            removed_check: blake3::hash(&[]).to_hex().to_string(),
        }
    }

    /// Committed bytes of a file. `None` where a manifest speaks of more than there can be.
    pub(crate) fn len(&self, part: Part, identity: &Identity) -> Option<u64> {
        let rows = |count: u64, bytes: u64| count.checked_mul(bytes)?.checked_add(HEADER as u64);
        match part {
            Part::Vectors => rows(self.rows, 4 * identity.stride() as u64),
            Part::Rows => rows(self.rows, ENTRY as u64),
            Part::Records => Some(self.record_bytes),
            Part::Removed => rows(self.removed, 4),
        }
    }
}

/// The content of `index.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Manifest {
    format: u32,
    pub(crate) identity: Identity,
    pub(crate) state: State,
    /// blake3 over the rest, hexadecimal.
    check: String,
}

impl Manifest {
    pub(crate) fn path(folder: &Path) -> PathBuf {
        folder.join(MANIFEST)
    }

    pub(crate) fn new(identity: Identity, state: State) -> Self {
        let mut manifest = Self {
            format: FORMAT,
            identity,
            state,
            check: String::new(),
        };
        manifest.check = manifest.digest();
        manifest
    }

    fn digest(&self) -> String {
        let (identity, state) = (&self.identity, &self.state);
        let mut hasher = blake3::Hasher::new();
        for text in [&identity.model, &identity.fingerprint, &state.removed_check] {
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        }
        for number in [
            u64::from(self.format),
            identity.width as u64,
            u64::from(state.generation),
            state.rows,
            state.record_bytes,
            state.removed,
        ] {
            hasher.update(&number.to_le_bytes());
        }
        hasher.finalize().to_hex().to_string()
    }

    /// The manifest of a folder, checked against itself.
    pub(crate) fn read(folder: &Path) -> Result<Self, IndexError> {
        let path = Self::path(folder);
        let file = std::fs::File::open(&path).map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory => {
                IndexError::NoIndex {
                    folder: folder.to_owned(),
                }
            }
            _ => IndexError::io(&path)(source),
        })?;
        let mut bytes = Vec::new();
        file.take(MAX_MANIFEST_BYTES + 1)
            .read_to_end(&mut bytes)
            .map_err(IndexError::io(&path))?;
        if bytes.len() as u64 > MAX_MANIFEST_BYTES {
            return Err(IndexError::damaged(
                &path,
                format!("a manifest has at most {MAX_MANIFEST_BYTES} bytes"),
            ));
        }
        // The format first: the rest of another one may look otherwise.
        #[derive(Deserialize)]
        struct Version {
            format: u64,
        }
        let not_json = |error: serde_json::Error| IndexError::damaged(&path, error.to_string());
        let version: Version = serde_json::from_slice(&bytes).map_err(not_json)?;
        if version.format != u64::from(FORMAT) {
            return Err(IndexError::Format {
                path,
                found: version.format,
                known: FORMAT,
            });
        }
        let manifest: Self = serde_json::from_slice(&bytes).map_err(not_json)?;
        if manifest.check != manifest.digest() {
            return Err(IndexError::damaged(&path, "its checksum does not fit"));
        }
        let state = &manifest.state;
        if manifest.identity.check().is_err() || state.rows > MAX_ROWS || state.removed > state.rows
        {
            return Err(IndexError::damaged(&path, "its counts cannot be"));
        }
        Ok(manifest)
    }

    /// Replaces the manifest: the moment of a commit.
    pub(crate) fn write(&self, folder: &Path) -> Result<(), IndexError> {
        let path = Self::path(folder);
        let mut text =
            serde_json::to_vec_pretty(self).map_err(|error| IndexError::io(&path)(error.into()))?;
        text.push(b'\n');
        chiasm_format::atomic::write_bytes(&path, &text).map_err(IndexError::io(&path))
    }
}

/// A file that rows are appended to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Vectors,
    Rows,
    Records,
    Removed,
}

impl Part {
    pub(crate) const ALL: [Self; 4] = [Self::Vectors, Self::Rows, Self::Records, Self::Removed];

    pub(crate) fn path(self, folder: &Path, generation: u32) -> PathBuf {
        folder.join(match self {
            Self::Vectors => format!("vectors-{generation:06}.f32"),
            Self::Rows => format!("rows-{generation:06}.bin"),
            Self::Records => format!("records-{generation:06}.jsonl"),
            Self::Removed => format!("removed-{generation:06}.bin"),
        })
    }

    pub(crate) fn header(self, generation: u32, identity: &Identity) -> [u8; HEADER] {
        let name = match self {
            Self::Vectors => "vectors",
            Self::Rows => "rows",
            Self::Records => "records",
            Self::Removed => "removed",
        };
        header(name, generation, identity)
    }
}

/// Where the graph of a generation lies.
pub(crate) fn graph_path(folder: &Path, generation: u32) -> PathBuf {
    folder.join(format!("graph-{generation:06}.bin"))
}

/// The line that begins a file.
pub(crate) fn header(name: &str, generation: u32, identity: &Identity) -> [u8; HEADER] {
    let made_by = format!("{} {}", identity.width, identity.fingerprint);
    let made_by = blake3::hash(made_by.as_bytes()).to_hex();
    let text = format!("chiasm-index {name} {FORMAT} {generation:06} {made_by}");
    let mut line = [b' '; HEADER];
    for (to, from) in line.iter_mut().take(HEADER - 1).zip(text.bytes()) {
        *to = from;
    }
    if let Some(last) = line.last_mut() {
        *last = b'\n';
    }
    line
}

/// 128 bits of a key or digest; equal hashes are taken for equal texts.
pub(crate) type TextHash = [u8; 16];

pub(crate) fn text_hash(text: &str) -> TextHash {
    first(&blake3::hash(text.as_bytes()))
}

/// The first bytes of a hash.
pub(crate) fn first<const N: usize>(hash: &blake3::Hash) -> [u8; N] {
    let mut out = [0; N];
    for (to, from) in out.iter_mut().zip(hash.as_bytes()) {
        *to = *from;
    }
    out
}

/// A row table entry: where a record lies and what its bytes hash to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// First byte of the record in its file.
    pub(crate) offset: u64,
    /// Its bytes, with the line feed.
    pub(crate) length: u32,
    pub(crate) record_check: [u8; 4],
    pub(crate) key: TextHash,
    pub(crate) digest: TextHash,
    pub(crate) vector_check: [u8; 8],
}

impl Entry {
    /// Entries follow each other without gaps; the last field guards the others and the row's number.
    pub(crate) fn bytes(&self, row: u64) -> [u8; ENTRY] {
        let mut out = [0; ENTRY];
        let fields = [
            &self.offset.to_le_bytes()[..],
            &self.length.to_le_bytes(),
            &self.record_check,
            &self.key,
            &self.digest,
            &self.vector_check,
        ];
        let values = fields.into_iter().flatten();
        for (to, from) in out.iter_mut().zip(values) {
            *to = *from;
        }
        if let Some((guarded, guard)) = out.split_last_chunk_mut::<8>() {
            *guard = Self::guard(guarded, row);
        }
        out
    }

    /// `None` for bytes that are not what was written for this row.
    pub(crate) fn parse(bytes: &[u8], row: u64) -> Option<Self> {
        let (guarded, guard) = bytes.split_last_chunk::<8>()?;
        if bytes.len() != ENTRY || Self::guard(guarded, row) != *guard {
            return None;
        }
        let (offset, rest) = guarded.split_first_chunk()?;
        let (length, rest) = rest.split_first_chunk()?;
        let (record_check, rest) = rest.split_first_chunk()?;
        let (key, rest) = rest.split_first_chunk()?;
        let (digest, rest) = rest.split_first_chunk()?;
        let (vector_check, _) = rest.split_first_chunk()?;
        Some(Self {
            offset: u64::from_le_bytes(*offset),
            length: u32::from_le_bytes(*length),
            record_check: *record_check,
            key: *key,
            digest: *digest,
            vector_check: *vector_check,
        })
    }

    fn guard(guarded: &[u8], row: u64) -> [u8; 8] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&row.to_le_bytes());
        hasher.update(guarded);
        first(&hasher.finalize())
    }
}

/// Which rows were removed: a bit for each.
#[derive(Clone, Debug, Default)]
pub(crate) struct Removed {
    words: Vec<u64>,
    count: usize,
}

impl Removed {
    /// From the bytes of the file after its header; `None` if a row is not there or is removed twice.
    pub(crate) fn parse(bytes: &[u8], rows: usize) -> Option<Self> {
        let mut removed = Self {
            words: vec![0; rows.div_ceil(64)],
            count: 0,
        };
        let (numbers, rest) = bytes.as_chunks::<4>();
        for number in numbers {
            let row = u32::from_le_bytes(*number) as usize;
            if row >= rows || removed.contains(row) {
                return None;
            }
            *removed.words.get_mut(row / 64)? |= 1 << (row % 64);
            removed.count += 1;
        }
        rest.is_empty().then_some(removed)
    }

    pub(crate) fn contains(&self, row: usize) -> bool {
        let word = self.words.get(row / 64);
        word.is_some_and(|word| word >> (row % 64) & 1 == 1)
    }

    pub(crate) fn count(&self) -> usize {
        self.count
    }
}
