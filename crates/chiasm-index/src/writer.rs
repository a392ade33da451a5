//! Appends to an index, a batch at a time.

use std::collections::HashMap;
use std::fs::{self, File, TryLockError};
use std::io::{self, BufWriter, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use crate::error::IndexError;
use crate::graph::Graph;
use crate::layout::{
    Entry, HEADER, Identity, MAX_RECORD_BYTES, MAX_ROWS, Manifest, Part, State, TextHash,
    graph_path, text_hash,
};
use crate::reader::{Index, record_check, vector_check};
use crate::record::Record;
use crate::store::same_model;

/// From how many records on [`GraphChoice::Auto`] builds a graph: where an exact search takes tens of milliseconds.
pub const GRAPH_FROM: usize = 200_000;
/// Longest key: a path and more.
const MAX_KEY_BYTES: usize = 4096;
const BUFFER: usize = 1 << 20;

/// Whether [`Writer::finish`] builds a graph for approximate search.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GraphChoice {
    /// With [`GRAPH_FROM`] records or more, unless there is one that covers four fifths of the rows.
    #[default]
    Auto,
    /// Now, over all rows.
    Build,
    /// Not now; one that is there stays.
    Keep,
    /// None, and one that is there is removed.
    None,
}

/// Called with the name of every step before it touches the disk: tests stop there.
pub(crate) type Before = Box<dyn FnMut(&str) -> io::Result<()> + Send>;

/// The one writer of an index.
///
/// # What holds after an error, a kill or a power loss
///
/// * A record is *committed* when [`Writer::commit`] has returned. It is never lost.
/// * A commit forces the appended bytes to disk and then replaces `index.json`, which says how many of them count. A
///   kill in the middle leaves this commit or the one before it; the next writer cuts off what came after.
/// * Replacing and removing only note the number of a row that no longer counts. Its bytes stay until
///   [`Writer::compact`], which writes new files under new names, so readers never see a row change.
/// * What may remain are hidden `.partial` files and files of another generation, which the next writer removes.
///
/// On file systems without folder sync (Windows) the replaced `index.json` may be lost on power loss, never torn.
///
/// # Example
///
/// ```
/// use chiasm_index::{GraphChoice, Identity, Index, Kind, Record, Writer};
///
/// let folder = std::env::temp_dir().join(format!("chiasm-index-{}", std::process::id()));
/// let model = Identity { model: "tiny".into(), fingerprint: "5eed".into(), width: 3 };
/// let mut writer = Index::create(&folder, model.clone())?;
/// let record = Record {
///     key: "dog.jpg".into(),
///     kind: Kind::Image,
///     text: "a dog".into(),
///     source: Some("pictures/dog.jpg".into()),
///     digest: "d1".into(),
///     metadata: serde_json::Map::new(),
/// };
/// writer.upsert(&record, &[1.0, 0.0, 2.0])?;
/// writer.commit()?;
/// drop(writer);
///
/// // A later run: what has not changed is not embedded again.
/// let writer = Writer::open(&folder, &model)?;
/// assert!(writer.contains("dog.jpg", "d1") && !writer.contains("dog.jpg", "d2"));
/// let index = writer.finish(GraphChoice::Auto)?;
/// assert_eq!(index.search(&[1.0, 0.0, 2.0], 5, None)?[0].key, "dog.jpg");
/// # let _ = std::fs::remove_dir_all(&folder);
/// # Ok::<(), chiasm_index::IndexError>(())
/// ```
pub struct Writer {
    folder: PathBuf,
    identity: Identity,
    /// What is committed.
    state: State,
    vectors: Append,
    table: Append,
    records: Append,
    removed: Append,
    /// Rows with those that are not committed yet.
    rows: u64,
    removed_rows: u64,
    /// Over the numbers of removed rows, those not committed yet included.
    removed_hash: blake3::Hasher,
    /// The row and the digest of every key that counts.
    keys: HashMap<TextHash, (u32, TextHash)>,
    stopped: bool,
    before: Before,
    _lock: Lock,
}

impl Writer {
    pub(crate) fn create(folder: &Path, identity: Identity) -> Result<Self, IndexError> {
        Self::create_with(folder, identity, never())
    }

    fn create_with(
        folder: &Path,
        identity: Identity,
        mut before: Before,
    ) -> Result<Self, IndexError> {
        identity.check()?;
        step(&mut before, "create folder", folder, || {
            fs::create_dir_all(folder)
        })?;
        let lock = Lock::take(folder)?;
        if Manifest::path(folder).exists() {
            return Err(IndexError::Exists {
                folder: folder.to_owned(),
            });
        }
        let state = State::empty(1);
        // The first manifest comes before the first row: rows without one are of an index that lost it.
        for part in Part::ALL {
            let path = part.path(folder, state.generation);
            if fs::metadata(&path).is_ok_and(|meta| meta.len() > HEADER as u64) {
                let reason = "it has rows, and there is no `index.json` to tell what they are";
                return Err(IndexError::damaged(&path, reason));
            }
            step(&mut before, "create", &path, || {
                let mut file = File::create(&path)?;
                file.write_all(&part.header(state.generation, &identity))?;
                file.sync_all()
            })?;
        }
        let manifest = Manifest::new(identity, state);
        before("write manifest").map_err(IndexError::io(folder))?;
        manifest.write(folder)?;
        Self::continue_with(folder, manifest, lock, before)
    }

    /// Goes on with an index after its last commit; what came after is cut off.
    ///
    /// Reads the row table: a fraction of a second for a million rows.
    ///
    /// # Errors
    /// If there is no index, if another model made it, if it is damaged, if another writer holds it, if the file system
    /// fails.
    pub fn open(folder: &Path, identity: &Identity) -> Result<Self, IndexError> {
        Self::open_with(folder, identity, never())
    }

    fn open_with(folder: &Path, identity: &Identity, before: Before) -> Result<Self, IndexError> {
        // Before the lock, whose file would be made where no index is.
        Manifest::read(folder)?;
        let lock = Lock::take(folder)?;
        let manifest = Manifest::read(folder)?;
        same_model(folder.display().to_string(), &manifest.identity, identity)?;
        Self::continue_with(folder, manifest, lock, before)
    }

    /// [`Index::create`] where there is no index, else [`Writer::open`].
    ///
    /// # Errors
    /// As those two.
    pub fn open_or_create(folder: &Path, identity: &Identity) -> Result<Self, IndexError> {
        if Manifest::path(folder).exists() {
            Self::open(folder, identity)
        } else {
            Self::create(folder, identity.clone())
        }
    }

    fn continue_with(
        folder: &Path,
        manifest: Manifest,
        lock: Lock,
        mut before: Before,
    ) -> Result<Self, IndexError> {
        let Manifest {
            identity, state, ..
        } = manifest;
        // Checks lengths, headers and the list of removed rows.
        let index = Index::open(folder)?;
        remove_leftovers(folder, state.generation, &mut before)?;
        let mut append = |part: Part| {
            let path = part.path(folder, state.generation);
            let Some(end) = state.len(part, &identity) else {
                return Err(IndexError::damaged(&path, "its length cannot be"));
            };
            Append::open(path, end, &mut before)
        };
        let (vectors, table) = (append(Part::Vectors)?, append(Part::Rows)?);
        let (records, removed) = (append(Part::Records)?, append(Part::Removed)?);
        let mut removed_hash = blake3::Hasher::new();
        let numbers = fs::read(&removed.path).map_err(IndexError::io(&removed.path))?;
        removed_hash.update(numbers.get(HEADER..).unwrap_or_default());
        Ok(Self {
            keys: read_keys(&index, &table.path)?,
            folder: folder.to_owned(),
            rows: state.rows,
            removed_rows: state.removed,
            removed_hash,
            identity,
            state,
            vectors,
            table,
            records,
            removed,
            stopped: false,
            before,
            _lock: lock,
        })
    }

    /// What makes the vectors.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// How many records there are, those not committed yet included.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there is no record.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Whether there is a record of this key whose content had this digest: then it need not be embedded again.
    pub fn contains(&self, key: &str, digest: &str) -> bool {
        let found = self.keys.get(&text_hash(key));
        found.is_some_and(|(_, of)| *of == text_hash(digest))
    }

    /// Adds a record with its vector, `[width]` of any length, which is normalised. It takes the place of the record
    /// of the same key.
    ///
    /// # Errors
    /// A vector of another width, with a number that is not finite or of length 0; an empty or overlong key or record.
    /// Nothing is written then. When the file system fails, this writer is given up.
    pub fn upsert(&mut self, record: &Record, vector: &[f32]) -> Result<(), IndexError> {
        self.usable()?;
        let (json, vector) = self
            .judge(record, vector)
            .map_err(|reason| IndexError::Record {
                key: record.key.chars().take(120).collect(),
                reason,
            })?;
        let result = self.append(record, &json, &vector);
        self.stopped |= result.is_err();
        result
    }

    /// Removes a record. False if there is none of this key.
    ///
    /// # Errors
    /// When the file system fails; this writer is given up then.
    pub fn remove(&mut self, key: &str) -> Result<bool, IndexError> {
        self.usable()?;
        let Some((row, _)) = self.keys.remove(&text_hash(key)) else {
            return Ok(false);
        };
        let result = self.bury(row);
        self.stopped |= result.is_err();
        result.map(|()| true)
    }

    /// Makes everything so far safe. When this returns, no kill and no power loss takes it away.
    ///
    /// # Errors
    /// When the file system fails; this writer is given up then, and the last commit stays.
    pub fn commit(&mut self) -> Result<(), IndexError> {
        self.usable()?;
        let result = self.write_commit();
        self.stopped |= result.is_err();
        result
    }

    /// Commits, and writes the index anew without the rows that were removed or replaced. Rows get new numbers, and
    /// the graph goes.
    ///
    /// # Errors
    /// When a row is not what was committed or the file system fails; this writer is given up then, and the last commit
    /// stays.
    pub fn compact(&mut self) -> Result<(), IndexError> {
        self.commit()?;
        let result = self.rewrite();
        self.stopped |= result.is_err();
        result
    }

    /// Commits, compacts where more rows are removed than not, builds a graph if that is chosen, and opens the result.
    ///
    /// # Errors
    /// When the file system fails; the last commit stays.
    pub fn finish(mut self, graph: GraphChoice) -> Result<Index, IndexError> {
        self.commit()?;
        if self.removed_rows > self.rows / 2 {
            self.compact()?;
        }
        let index = Index::open(&self.folder)?;
        let covered = index.graph_rows().unwrap_or(0);
        let build = match graph {
            GraphChoice::Auto => index.len() >= GRAPH_FROM && covered < index.rows() / 5 * 4,
            GraphChoice::Build => true,
            GraphChoice::Keep | GraphChoice::None => false,
        };
        if build {
            Graph::build(&index, self.state.generation)?;
        } else if graph == GraphChoice::None {
            let path = graph_path(&self.folder, self.state.generation);
            if path.exists() {
                fs::remove_file(&path).map_err(IndexError::io(&path))?;
            }
        } else {
            return Ok(index);
        }
        Index::open(&self.folder)
    }

    fn usable(&self) -> Result<(), IndexError> {
        if self.stopped {
            return Err(IndexError::Stopped);
        }
        Ok(())
    }

    /// The record as a line of JSON and the vector as bytes, normalised and padded.
    fn judge(&self, record: &Record, vector: &[f32]) -> Result<(Vec<u8>, Vec<u8>), String> {
        if record.key.is_empty() || record.key.len() > MAX_KEY_BYTES {
            return Err(format!("a key has 1 to {MAX_KEY_BYTES} bytes"));
        }
        let width = self.identity.width;
        if vector.len() != width {
            return Err(format!(
                "its vector has {} numbers, those of the index have {width}",
                vector.len()
            ));
        }
        let unit = normalised(vector, self.identity.stride())?;
        if self.rows >= MAX_ROWS {
            return Err(format!("an index has at most {MAX_ROWS} rows"));
        }
        let mut json = serde_json::to_vec(record).map_err(|error| error.to_string())?;
        json.push(b'\n');
        if json.len() > MAX_RECORD_BYTES {
            return Err(format!("a record has at most {MAX_RECORD_BYTES} bytes"));
        }
        let bytes = unit.iter().flat_map(|value| value.to_le_bytes()).collect();
        Ok((json, bytes))
    }

    fn append(&mut self, record: &Record, json: &[u8], vector: &[u8]) -> Result<(), IndexError> {
        let entry = Entry {
            offset: self.records.end,
            // At most `MAX_RECORD_BYTES`.
            length: json.len() as u32,
            record_check: record_check(json),
            key: text_hash(&record.key),
            digest: text_hash(&record.digest),
            vector_check: vector_check(vector),
        };
        self.vectors.write(vector)?;
        self.table.write(&entry.bytes(self.rows))?;
        self.records.write(json)?;
        // Below `MAX_ROWS`.
        let row = self.rows as u32;
        self.rows += 1;
        if let Some((old, _)) = self.keys.insert(entry.key, (row, entry.digest)) {
            self.bury(old)?;
        }
        Ok(())
    }

    /// Notes that a row no longer counts.
    fn bury(&mut self, row: u32) -> Result<(), IndexError> {
        let number = row.to_le_bytes();
        self.removed_hash.update(&number);
        self.removed_rows += 1;
        self.removed.write(&number)
    }

    fn write_commit(&mut self) -> Result<(), IndexError> {
        if self.rows == self.state.rows && self.removed_rows == self.state.removed {
            return Ok(());
        }
        let state = State {
            generation: self.state.generation,
            rows: self.rows,
            record_bytes: self.records.end,
            removed: self.removed_rows,
            removed_check: self.removed_hash.finalize().to_hex().to_string(),
        };
        let before = &mut self.before;
        for file in [
            &mut self.vectors,
            &mut self.table,
            &mut self.records,
            &mut self.removed,
        ] {
            file.sync(before)?;
        }
        let manifest = Manifest::new(self.identity.clone(), state);
        before("write manifest").map_err(IndexError::io(&self.folder))?;
        manifest.write(&self.folder)?;
        self.state = manifest.state;
        Ok(())
    }

    fn rewrite(&mut self) -> Result<(), IndexError> {
        let index = Index::open(&self.folder)?;
        let old = self.state.generation;
        let Some(generation) = old.checked_add(1) else {
            return Err(IndexError::Identity {
                reason: "it was compacted too often; make it again".to_owned(),
            });
        };
        let mut state = State::empty(generation);
        let mut create = |part: Part| {
            let path = part.path(&self.folder, generation);
            step(&mut self.before, "create", &path, || {
                File::create(&path)?.write_all(&part.header(generation, &self.identity))
            })?;
            Append::open(path, HEADER as u64, &mut self.before)
        };
        let (mut vectors, mut table) = (create(Part::Vectors)?, create(Part::Rows)?);
        let (mut records, mut removed) = (create(Part::Records)?, create(Part::Removed)?);
        let mut keys = HashMap::with_capacity(index.len());
        for row in index.live_rows() {
            index.verify_row(row)?;
            let entry = index.entry(row)?;
            let moved = Entry {
                offset: records.end,
                ..entry.clone()
            };
            vectors.write(index.vector_bytes(row))?;
            table.write(&moved.bytes(state.rows))?;
            records.write(index.record_bytes(row, &entry)?)?;
            keys.insert(entry.key, (state.rows as u32, entry.digest));
            state.rows += 1;
        }
        for file in [&mut vectors, &mut table, &mut records, &mut removed] {
            file.sync(&mut self.before)?;
        }
        state.record_bytes = records.end;
        let manifest = Manifest::new(self.identity.clone(), state);
        (self.before)("write manifest").map_err(IndexError::io(&self.folder))?;
        manifest.write(&self.folder)?;
        self.rows = manifest.state.rows;
        self.removed_rows = 0;
        self.removed_hash = blake3::Hasher::new();
        self.state = manifest.state;
        self.keys = keys;
        (self.vectors, self.table) = (vectors, table);
        (self.records, self.removed) = (records, removed);
        remove_leftovers(&self.folder, generation, &mut self.before)
    }
}

/// A file that grows.
struct Append {
    path: PathBuf,
    file: BufWriter<File>,
    /// Bytes, those still in the buffer included.
    end: u64,
    clean: bool,
}

impl Append {
    /// Opens a file of at least `end` bytes and cuts off what it has more.
    fn open(path: PathBuf, end: u64, before: &mut Before) -> Result<Self, IndexError> {
        let mut file = File::options()
            .read(true)
            .write(true)
            .open(&path)
            .map_err(IndexError::io(&path))?;
        let size = file.metadata().map_err(IndexError::io(&path))?.len();
        if size > end {
            step(before, "cut tail", &path, || file.set_len(end))?;
        }
        file.seek(SeekFrom::Start(end))
            .map_err(IndexError::io(&path))?;
        Ok(Self {
            path,
            file: BufWriter::with_capacity(BUFFER, file),
            end,
            clean: true,
        })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), IndexError> {
        self.clean = false;
        self.end += bytes.len() as u64;
        self.file
            .write_all(bytes)
            .map_err(IndexError::io(&self.path))
    }

    fn sync(&mut self, before: &mut Before) -> Result<(), IndexError> {
        if self.clean {
            return Ok(());
        }
        step(before, "write", &self.path, || self.file.flush())?;
        step(before, "sync", &self.path, || {
            self.file.get_ref().sync_all()
        })?;
        self.clean = true;
        Ok(())
    }
}

/// Keeps other writers away as long as it lives.
struct Lock(File);

impl Lock {
    fn take(folder: &Path) -> Result<Self, IndexError> {
        let path = folder.join("lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(IndexError::io(&path))?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => Err(IndexError::Busy {
                folder: folder.to_owned(),
            }),
            // Some network file systems know no locks.
            Ok(()) | Err(TryLockError::Error(_)) => Ok(Self(file)),
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing alone leaves it locked for as long as a process that was just started by another thread has not yet
        // closed its copy.
        let _ = self.0.unlock();
    }
}

/// A vector of length 1, padded with zeros to `stride`.
pub(crate) fn normalised(vector: &[f32], stride: usize) -> Result<Vec<f32>, String> {
    if let Some(at) = vector.iter().position(|value| !value.is_finite()) {
        return Err(format!("number {at} of its vector is not finite"));
    }
    let squares = vector.iter().map(|value| f64::from(*value).powi(2));
    let length = squares.sum::<f64>().sqrt();
    if length == 0.0 {
        return Err("its vector has length 0, which has no direction".to_owned());
    }
    let mut unit: Vec<f32> = vector
        .iter()
        .map(|value| (f64::from(*value) / length) as f32)
        .collect();
    unit.resize(stride, 0.0);
    Ok(unit)
}

/// Row and digest by key, of every row that counts.
fn read_keys(
    index: &Index,
    table: &Path,
) -> Result<HashMap<TextHash, (u32, TextHash)>, IndexError> {
    let mut keys = HashMap::with_capacity(index.len());
    for row in index.live_rows() {
        let entry = index.entry(row)?;
        if let Some((other, _)) = keys.insert(entry.key, (row as u32, entry.digest)) {
            let reason = format!("rows {other} and {row} have the same key");
            return Err(IndexError::damaged(table, reason));
        }
    }
    Ok(keys)
}

/// Removes what a killed writer left: files of other generations and hidden partial files.
fn remove_leftovers(folder: &Path, generation: u32, before: &mut Before) -> Result<(), IndexError> {
    let io = IndexError::io(folder);
    let entries = fs::read_dir(folder)
        .and_then(Iterator::collect::<io::Result<Vec<_>>>)
        .map_err(io)?;
    for entry in entries {
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if is_leftover(name, generation) {
            before("remove leftover").map_err(IndexError::io(&entry.path()))?;
            // Harmless if it stays: Windows keeps files that a reader maps.
            let _ = fs::remove_file(entry.path());
        }
    }
    Ok(())
}

fn is_leftover(name: &str, generation: u32) -> bool {
    if name.ends_with(".partial") {
        return name.starts_with(".index.json.") || name.starts_with(".graph-");
    }
    let ours = ["vectors-", "rows-", "records-", "removed-", "graph-"];
    let number = ours.iter().find_map(|start| name.strip_prefix(start));
    let number = number.and_then(|rest| rest.split_once('.'));
    number.is_some_and(|(number, end)| {
        matches!(end, "f32" | "bin" | "jsonl")
            && number.len() >= 6
            && number.parse::<u32>().is_ok_and(|of| of != generation)
    })
}

fn step<T>(
    before: &mut Before,
    what: &str,
    at: &Path,
    act: impl FnOnce() -> io::Result<T>,
) -> Result<T, IndexError> {
    before(what)
        .and_then(|()| act())
        .map_err(IndexError::io(at))
}

fn never() -> Before {
    Box::new(|_| Ok(()))
}

#[cfg(test)]
mod tests {
    use std::io::BufRead as _;
    use std::process::{Command, Stdio};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::record::Kind;

    fn model() -> Identity {
        Identity {
            model: "tiny".to_owned(),
            fingerprint: "5eed".to_owned(),
            width: 3,
        }
    }

    fn record(key: usize, digest: &str) -> Record {
        Record {
            key: format!("key {key}"),
            kind: Kind::Text,
            text: "a text".repeat(key % 7),
            source: None,
            digest: digest.to_owned(),
            metadata: serde_json::Map::new(),
        }
    }

    /// Eight keys, some of them replaced and removed, in commits of two; a compaction; the rest. `acknowledge` hears of
    /// every stage that was committed.
    fn run(
        folder: &Path,
        before: Before,
        acknowledge: &mut dyn FnMut(usize),
    ) -> Result<(), IndexError> {
        let mut writer = if Manifest::path(folder).exists() {
            Writer::open_with(folder, &model(), before)?
        } else {
            Writer::create_with(folder, model(), before)?
        };
        for stage in 0..4 {
            for key in [2 * stage, 2 * stage + 1] {
                // An incremental run: what is there is passed over.
                if !writer.contains(&format!("key {key}"), "new") {
                    writer.upsert(&record(key, "old"), &[1.0, key as f32, 0.0])?;
                    writer.upsert(&record(key, "new"), &[2.0, key as f32, 0.0])?;
                }
            }
            writer.upsert(&record(99, "passing"), &[1.0, 0.0, 0.0])?;
            writer.remove("key 99")?;
            writer.commit()?;
            if stage == 1 {
                writer.compact()?;
            }
            acknowledge(stage + 1);
        }
        writer.finish(GraphChoice::Build).map(|_| ())
    }

    /// After a stop: what was acknowledged is there, everything is whole, and a second run completes it.
    fn assert_recovers(folder: &Path, acknowledged: usize, at: &str) {
        if let Ok(index) = Index::open(folder) {
            index
                .verify()
                .unwrap_or_else(|error| panic!("{at}: {error}"));
            for key in 0..2 * acknowledged {
                let row = index.row_of(&format!("key {key}")).unwrap();
                let row = row.unwrap_or_else(|| panic!("{at}: key {key} was lost"));
                assert_eq!(index.record(row).unwrap(), record(key, "new"), "{at}");
            }
        } else {
            assert_eq!(acknowledged, 0, "{at}");
        }
        run(folder, never(), &mut |_| ()).unwrap_or_else(|error| panic!("{at}: {error}"));
        let index = Index::open(folder).unwrap();
        index.verify().unwrap();
        assert_eq!(
            (index.len(), index.graph_rows()),
            (8, Some(index.rows())),
            "{at}"
        );
        let files = fs::read_dir(folder).unwrap().count();
        assert_eq!(files, 7, "{at}: leftovers");
    }

    #[test]
    fn a_failure_at_any_step_loses_nothing() {
        for at in 0.. {
            let folder = tempfile::tempdir().unwrap();
            let folder = folder.path().join("index");
            let steps = Arc::new(AtomicUsize::new(0));
            let before = Box::new(move |_: &str| match steps.fetch_add(1, Ordering::Relaxed) {
                step if step == at => Err(io::Error::from(io::ErrorKind::StorageFull)),
                _ => Ok(()),
            });
            let mut acknowledged = 0;
            if run(&folder, before, &mut |stage| acknowledged = stage).is_ok() {
                assert!(at > 50, "only {at} steps");
                return;
            }
            assert_recovers(&folder, acknowledged, &format!("step {at}"));
        }
    }

    #[test]
    fn a_writer_that_failed_is_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let full = |_: &str| Err(io::Error::from(io::ErrorKind::StorageFull));
        let mut writer = Writer::create(folder.path(), model()).unwrap();
        writer.upsert(&record(0, "d"), &[1.0, 0.0, 0.0]).unwrap();
        writer.before = Box::new(full);
        assert!(matches!(writer.commit(), Err(IndexError::Io { .. })));
        assert!(matches!(writer.commit(), Err(IndexError::Stopped)));
        assert!(matches!(writer.remove("key 0"), Err(IndexError::Stopped)));
        drop(writer);
        assert!(Writer::open(folder.path(), &model()).unwrap().is_empty());
    }

    const KILLED_IN: &str = "CHIASM_TEST_KILL_INDEX_IN";

    /// Not a test of its own: what the next test runs as a process and kills.
    #[test]
    fn appends_until_it_is_killed() {
        let Some(folder) = std::env::var_os(KILLED_IN) else {
            return;
        };
        let mut writer = Writer::open_or_create(Path::new(&folder), &model()).unwrap();
        let first = writer.len();
        for key in first.. {
            writer
                .upsert(&record(key, "new"), &[1.0, key as f32, 0.0])
                .unwrap();
            if key % 3 == 2 {
                writer.commit().unwrap();
                println!("committed {}", writer.len());
            }
            if key % 40 == 39 {
                writer.compact().unwrap();
            }
        }
    }

    /// Killed with SIGKILL wherever it is when so many commits were heard of, and continued, six times over.
    #[test]
    fn a_kill_loses_nothing_that_was_acknowledged() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("index");
        let mut acknowledged = 0;
        for round in 0..6 {
            let mut child = Command::new(std::env::current_exe().unwrap())
                .args([
                    "--exact",
                    "writer::tests::appends_until_it_is_killed",
                    "--nocapture",
                ])
                .env(KILLED_IN, &folder)
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut lines = io::BufReader::new(child.stdout.take().unwrap()).lines();
            let mut heard = 0;
            while heard < 5 * round + 1 {
                let line = lines.next().unwrap().unwrap();
                // The test harness prints lines of its own, and one without an end.
                if let Some((_, count)) = line.split_once("committed ") {
                    acknowledged = count.parse().unwrap();
                    heard += 1;
                }
            }
            child.kill().unwrap();
            child.wait().unwrap();
            // What it said after that was committed as well.
            for line in lines.map_while(Result::ok) {
                let count = line
                    .split_once("committed ")
                    .map(|(_, count)| count.parse().ok());
                acknowledged = count.flatten().unwrap_or(acknowledged);
            }
            let index = Index::open(&folder).unwrap();
            index.verify().unwrap();
            assert!(
                index.len() >= acknowledged,
                "{} of {acknowledged}",
                index.len()
            );
            for key in 0..acknowledged {
                let row = index.row_of(&format!("key {key}")).unwrap().unwrap();
                assert_eq!(index.record(row).unwrap(), record(key, "new"));
            }
        }
        assert!(acknowledged > 60);
    }
}
