//! Writes shards: WebDataset tars `NAME-000000.tar` of a stated size, and a manifest.
//!
//! # What holds after an error, a kill or a power loss
//!
//! * A shard is written into a hidden sibling (`.NAME-000000.tar.partial`), forced to disk and renamed;
//!   then its folder is forced to disk. Whoever reads `NAME-*.tar` sees whole shards only.
//! * A sample is *committed* when the shard that holds it has its name. [`ShardWriter::committed`] counts
//!   these, and no committed sample is ever lost or rewritten. Samples that were appended since are not
//!   committed and are gone after a kill.
//! * [`ShardWriter::open`] on the same folder goes on after the last committed shard: skip
//!   [`ShardWriter::committed`] samples and append the rest. The shards are then the same bytes that one
//!   run without a stop would have written. A finished set can be opened as well; it goes on in a new
//!   shard.
//! * `NAME.json`, the manifest, comes last. A folder without one is unfinished.
//! * What may remain are the hidden `.partial` files, which the next `open` removes, and
//!   `.NAME.settings.json`, by which it knows what the shards were made with.
//!
//! On file systems without folder sync (Windows) a rename may be lost on power loss, never torn.
//!
//! The same samples and settings give the same bytes: members carry no clock and no owner.

use std::collections::HashSet;
use std::fs::{self, File, TryLockError};
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::tar::{TarError, TarReader};

const BLOCK: usize = 512;
const FORMAT: u32 = 1;

/// Longest key. With an extension it has to fit a file name, should somebody unpack the shard.
const MAX_KEY_BYTES: usize = 200;

/// Largest member: what a size of eleven octal digits can say, 8 GiB.
const MAX_MEMBER_BYTES: u64 = 0o77_777_777_777;

/// Cap on a manifest, room for half a million shards.
const MAX_MANIFEST_BYTES: u64 = 64 << 20;

/// What a set of shards is made with. A folder is only continued with equal options.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShardOptions {
    /// Start of the shards' names: letters, digits, `-` and `_`. A name with a split in it (`train`)
    /// tells readers the split of samples that do not say their own.
    pub name: String,
    /// A shard that would grow beyond this many bytes is closed before the next sample. A sample that is
    /// larger gets a shard of its own.
    pub max_bytes: u64,
    /// Most samples of a shard.
    pub max_samples: u64,
    /// What made the samples (resolution, sampling of frames, ...), written into the manifest.
    pub settings: Value,
}

impl ShardOptions {
    /// The usual size: 256 MiB or 10,000 samples a shard.
    pub fn new(name: impl Into<String>, settings: Value) -> Self {
        Self {
            name: name.into(),
            max_bytes: 256 << 20,
            max_samples: 10_000,
            settings,
        }
    }
}

/// A shard in a manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardEntry {
    /// Name of the file.
    pub file: String,
    /// Its size.
    pub bytes: u64,
    /// Samples in it.
    pub samples: u64,
    /// blake3 of its bytes, hexadecimal.
    pub blake3: String,
}

/// What a finished set of shards holds: the content of `NAME.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this file.
    pub format: u32,
    /// Samples in all shards.
    pub samples: u64,
    /// What they were made with.
    pub options: ShardOptions,
    /// The shards in order.
    pub shards: Vec<ShardEntry>,
}

/// Why shards cannot be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShardError {
    /// The system failed.
    #[error("cannot write `{}`: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A key or an extension that readers would not find again.
    #[error("sample `{key}` cannot be written: {reason}")]
    Sample {
        /// Its key.
        key: String,
        /// Why.
        reason: String,
    },
    /// The folder holds shards that were made otherwise.
    #[error("`{}` cannot be continued: {reason}", path.display())]
    Settings {
        /// The file that says so.
        path: PathBuf,
        /// What differs.
        reason: String,
    },
    /// A shard is not what was written.
    #[error("`{}` is not as it was written: {reason}", path.display())]
    Damaged {
        /// The shard.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Another process writes there.
    #[error("another process writes shards to `{}`", path.display())]
    Busy {
        /// The file that it holds locked.
        path: PathBuf,
    },
    /// An earlier error left the open shard in an unknown state.
    #[error("an earlier write failed; open the folder again to go on after the last whole shard")]
    Stopped,
}

impl ShardError {
    /// What the person can do about it, when there is something to do.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Settings { .. } => {
                Some("choose another folder, or the settings that it was begun with".to_owned())
            }
            Self::Damaged { path, .. } => Some(format!(
                "remove `{}` and every later shard of the set; they are then written again",
                path.display()
            )),
            Self::Busy { .. } => {
                Some("wait until it has ended, or choose another folder".to_owned())
            }
            Self::Io { .. } | Self::Sample { .. } | Self::Stopped => None,
        }
    }

    fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        move |source| Self::Io {
            path: path.to_owned(),
            source,
        }
    }
}

/// Called with the name of every step before it touches the disk: tests stop there.
type Before = Box<dyn FnMut(&str) -> io::Result<()> + Send>;

/// Writes samples into shards.
///
/// ```
/// use chiasm_format::shard::{ShardOptions, ShardWriter};
///
/// let folder = std::env::temp_dir().join(format!("chiasm-shards-{}", std::process::id()));
/// let mut writer = ShardWriter::open(&folder, ShardOptions::new("train", "an example".into()))?;
/// writer.append("000", &[("jpg", b"not a picture"), ("txt", b"a text")])?;
/// let manifest = writer.finish()?;
/// assert_eq!(manifest.samples, 1);
/// assert!(folder.join("train-000000.tar").is_file());
/// # let _ = std::fs::remove_dir_all(&folder);
/// # Ok::<(), chiasm_format::shard::ShardError>(())
/// ```
pub struct ShardWriter {
    folder: PathBuf,
    options: ShardOptions,
    /// Whole shards in order.
    shards: Vec<ShardEntry>,
    /// The shard that is being filled.
    current: Option<Partial>,
    /// Keys of all samples: readers take equal keys for one sample.
    keys: HashSet<String>,
    _lock: Lock,
    stopped: bool,
    before: Before,
}

/// Keeps other processes from writing the same set, as long as it lives.
struct Lock(File);

impl Lock {
    fn take(path: PathBuf) -> Result<Self, ShardError> {
        let file = File::open(&path).map_err(ShardError::io(&path))?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => Err(ShardError::Busy { path }),
            // Some network file systems know no locks.
            Ok(()) | Err(TryLockError::Error(_)) => Ok(Self(file)),
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing alone leaves it locked for as long as a process that was just started by another
        // thread has not yet closed its copy.
        let _ = self.0.unlock();
    }
}

/// A shard that has no name yet.
struct Partial {
    path: PathBuf,
    file: BufWriter<File>,
    hasher: blake3::Hasher,
    bytes: u64,
    samples: u64,
}

impl ShardWriter {
    /// Begins a set of shards in a folder, or goes on with the one that is there.
    ///
    /// Shards that are there are read once, to count them and to compare them with their hashes.
    ///
    /// # Errors
    /// If the folder holds shards of the same name that were made with other options, that nobody
    /// knows the options of, or that are damaged; if another process writes there; if the file system
    /// fails.
    pub fn open(folder: &Path, options: ShardOptions) -> Result<Self, ShardError> {
        Self::open_with(folder, options, never())
    }

    fn open_with(
        folder: &Path,
        options: ShardOptions,
        mut before: Before,
    ) -> Result<Self, ShardError> {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        if options.name.is_empty()
            || options.name.len() > 100
            || !options.name.chars().all(is_plain)
        {
            return Err(ShardError::Sample {
                key: options.name,
                reason: "the name of a set is letters, digits, `-` and `_`".to_owned(),
            });
        }
        let manifest = begin(folder, &options, &mut before)?;
        let (settings_path, manifest_path) = (
            settings_path(folder, &options.name),
            manifest_path(folder, &options.name),
        );
        let lock = Lock::take(settings_path)?;
        let known = manifest.map(|manifest| manifest.shards).unwrap_or_default();
        let (shards, keys) = whole_shards(folder, &options.name, &known)?;
        let next = shard_path(folder, &options.name, shards.len());
        for leftover in [partial_of(&next), partial_of(&manifest_path)] {
            if leftover.exists() {
                step(&mut before, "remove leftover", &leftover, || {
                    fs::remove_file(&leftover)
                })?;
            }
        }
        // A kill may have come between the last rename and its way to the disk.
        step(&mut before, "sync folder", folder, || sync_folder(folder))?;
        Ok(Self {
            folder: folder.to_owned(),
            options,
            shards,
            current: None,
            keys,
            _lock: lock,
            stopped: false,
            before,
        })
    }

    /// Samples that are safe: their shards have their names. A sample's number is its place in the
    /// order of [`ShardWriter::append`], over all runs.
    pub fn committed(&self) -> u64 {
        self.shards.iter().map(|shard| shard.samples).sum()
    }

    /// True for the key of a sample that was appended, in this run or an earlier one.
    pub fn contains(&self, key: &str) -> bool {
        self.keys.contains(key)
    }

    /// Adds a sample: its key, and for each member the extension and the bytes (`("jpg", ..)`,
    /// `("000.jpg", ..)`, `("txt", ..)`).
    ///
    /// The sample is committed with its shard, see [`ShardWriter::committed`].
    ///
    /// # Errors
    /// A key or extension that readers would not find again, or that was used before; nothing is
    /// written then. When the file system fails, the open shard is given up, and so is this writer.
    pub fn append(&mut self, key: &str, members: &[(&str, &[u8])]) -> Result<(), ShardError> {
        if self.stopped {
            return Err(ShardError::Stopped);
        }
        self.judge(key, members)
            .map_err(|reason| ShardError::Sample {
                key: key.to_owned(),
                reason,
            })?;
        let result = self.write(key, members);
        if result.is_err() {
            self.give_up();
        }
        result
    }

    /// Closes the last shard and writes the manifest.
    ///
    /// # Errors
    /// If the file system fails; what was committed stays.
    pub fn finish(mut self) -> Result<Manifest, ShardError> {
        if self.stopped {
            return Err(ShardError::Stopped);
        }
        let result = self.complete();
        if result.is_err() {
            self.give_up();
        }
        result
    }

    fn complete(&mut self) -> Result<Manifest, ShardError> {
        self.commit()?;
        let manifest = Manifest {
            format: FORMAT,
            samples: self.committed(),
            options: self.options.clone(),
            shards: self.shards.clone(),
        };
        conclude(&self.folder, &manifest, &mut self.before)?;
        Ok(manifest)
    }

    fn judge(&self, key: &str, members: &[(&str, &[u8])]) -> Result<(), String> {
        let base = key.rsplit('/').next().unwrap_or_default();
        if base.is_empty() || base.contains('.') {
            return Err("the last part of a key must not be empty or hold a dot".to_owned());
        }
        if key.len() > MAX_KEY_BYTES || key.chars().any(char::is_control) {
            return Err(format!(
                "a key is at most {MAX_KEY_BYTES} bytes without control characters"
            ));
        }
        // Should somebody unpack it: nothing outside the folder.
        if key.contains('\\') || key.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err("the key is no relative path".to_owned());
        }
        if members.is_empty() {
            return Err("it has no member".to_owned());
        }
        for (at, (extension, bytes)) in members.iter().enumerate() {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
            if extension.is_empty() || extension.len() > 40 || !extension.chars().all(plain) {
                return Err(format!("`{extension}` is no extension"));
            }
            if members
                .iter()
                .take(at)
                .any(|(earlier, _)| earlier == extension)
            {
                return Err(format!("it has two members `{extension}`"));
            }
            if bytes.len() as u64 > MAX_MEMBER_BYTES {
                return Err(format!(
                    "`{extension}` has {} bytes, more than a tar can say",
                    bytes.len()
                ));
            }
        }
        if self.keys.contains(key) {
            return Err("the key was already used".to_owned());
        }
        Ok(())
    }

    fn write(&mut self, key: &str, members: &[(&str, &[u8])]) -> Result<(), ShardError> {
        let mut sample = Vec::new();
        for (extension, bytes) in members {
            put_member(&mut sample, &format!("{key}.{extension}"), bytes);
        }
        let full = |partial: &Partial| {
            partial.bytes + sample.len() as u64 + 2 * BLOCK as u64 > self.options.max_bytes
        };
        if self.current.as_ref().is_some_and(full) {
            self.commit()?;
        }
        let current = match &mut self.current {
            Some(current) => current,
            None => {
                let path = self.partial_path();
                let file = step(&mut self.before, "create shard", &path, || {
                    File::create(&path)
                })?;
                self.current.insert(Partial {
                    path,
                    file: BufWriter::with_capacity(1 << 20, file),
                    hasher: blake3::Hasher::new(),
                    bytes: 0,
                    samples: 0,
                })
            }
        };
        current.put(&sample, "write sample", &mut self.before)?;
        current.samples += 1;
        let is_full = current.samples >= self.options.max_samples;
        self.keys.insert(key.to_owned());
        if is_full { self.commit() } else { Ok(()) }
    }

    /// Gives the open shard its name.
    fn commit(&mut self) -> Result<(), ShardError> {
        let Some(mut partial) = self.current.take() else {
            return Ok(());
        };
        let path = shard_path(&self.folder, &self.options.name, self.shards.len());
        let before = &mut self.before;
        partial.put(&[0; 2 * BLOCK], "write end", before)?;
        step(before, "sync shard", &partial.path, || {
            partial.file.flush()?;
            partial.file.get_ref().sync_all()
        })?;
        publish(&partial.path, &path, before)?;
        self.shards.push(ShardEntry {
            file: file_name(&path),
            bytes: partial.bytes,
            samples: partial.samples,
            blake3: partial.hasher.finalize().to_hex().to_string(),
        });
        Ok(())
    }

    /// After a failed write: on a full disk the half-written shard is what fills it.
    fn give_up(&mut self) {
        self.stopped = true;
        self.current = None;
        let _ = fs::remove_file(self.partial_path());
    }

    fn partial_path(&self) -> PathBuf {
        partial_of(&shard_path(
            &self.folder,
            &self.options.name,
            self.shards.len(),
        ))
    }
}

impl Partial {
    fn put(&mut self, bytes: &[u8], what: &str, before: &mut Before) -> Result<(), ShardError> {
        let file = &mut self.file;
        step(before, what, &self.path, || file.write_all(bytes))?;
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(())
    }
}

/// One member: header, bytes, padding. A name beyond the hundred bytes of a header stands before it in
/// a member of its own, as GNU tar does it.
fn put_member(out: &mut Vec<u8>, name: &str, bytes: &[u8]) {
    if name.len() > 100 {
        let long: Vec<u8> = name.bytes().chain([0]).collect();
        put_block(out, "././@LongLink", b'L', &long);
    }
    put_block(out, name, b'0', bytes);
}

fn put_block(out: &mut Vec<u8>, name: &str, kind: u8, bytes: &[u8]) {
    let mut header = [0u8; BLOCK];
    let mut put = |at: usize, value: &[u8]| {
        for (slot, byte) in header.iter_mut().skip(at).zip(value) {
            *slot = *byte;
        }
    };
    put(0, name.as_bytes().get(..100).unwrap_or(name.as_bytes()));
    put(100, b"0000644\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{:011o}\0", bytes.len()).as_bytes());
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, &[kind]);
    // The magic of GNU, whose long names are used.
    put(257, b"ustar  \0");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    for (slot, byte) in header
        .iter_mut()
        .skip(148)
        .zip(format!("{sum:06o}\0 ").bytes())
    {
        *slot = byte;
    }
    out.extend_from_slice(&header);
    out.extend_from_slice(bytes);
    out.resize(out.len().next_multiple_of(BLOCK), 0);
}

/// The manifest of a finished set; `None` where there is none, or none yet.
///
/// # Errors
/// If it cannot be read, or is none.
pub fn manifest_of(folder: &Path, name: &str) -> Result<Option<Manifest>, ShardError> {
    read_json(&manifest_path(folder, name))
}

/// Reads all shards of a finished set and compares them with the hashes of its manifest.
///
/// # Errors
/// The first shard that is missing or is not as it was written.
pub fn verify(folder: &Path, manifest: &Manifest) -> Result<(), ShardError> {
    whole_shards(folder, &manifest.options.name, &manifest.shards).map(|_| ())
}

/// Begins or goes on with a set whose samples are files of their own and not shards: compares `options` with
/// those that the set was begun with, and keeps them until [`conclude_files`].
///
/// # Errors
/// Other options, or what the file system says.
pub fn begin_files(folder: &Path, options: &ShardOptions) -> Result<(), ShardError> {
    begin(folder, options, &mut never()).map(|_| ())
}

/// Writes the manifest of a set whose samples are files of their own.
///
/// # Errors
/// What the file system says.
pub fn conclude_files(
    folder: &Path,
    options: ShardOptions,
    samples: u64,
) -> Result<Manifest, ShardError> {
    let manifest = Manifest {
        format: FORMAT,
        samples,
        options,
        shards: Vec::new(),
    };
    conclude(folder, &manifest, &mut never())?;
    Ok(manifest)
}

/// Stops nowhere.
fn never() -> Before {
    Box::new(|_| Ok(()))
}

/// Makes the folder, and compares the options with what is there. Returns the manifest of a finished set.
fn begin(
    folder: &Path,
    options: &ShardOptions,
    before: &mut Before,
) -> Result<Option<Manifest>, ShardError> {
    step(before, "create folder", folder, || {
        if folder.is_dir() {
            return Ok(());
        }
        fs::create_dir_all(folder)?;
        folder.parent().map_or(Ok(()), sync_folder)
    })?;
    let settings_path = settings_path(folder, &options.name);
    let manifest_path = manifest_path(folder, &options.name);
    let manifest = read_json::<Manifest>(&manifest_path)?;
    if let Some(manifest) = &manifest {
        must_equal(&manifest_path, &manifest.options, options)?;
    }
    match read_json::<ShardOptions>(&settings_path)? {
        Some(begun) => must_equal(&settings_path, &begun, options)?,
        None => {
            let unknown = shard_path(folder, &options.name, 0);
            if manifest.is_none() && unknown.exists() {
                return Err(ShardError::Settings {
                    path: unknown,
                    reason: "nothing says what the shard was made with".to_owned(),
                });
            }
            write_json(&settings_path, options, before)?;
        }
    }
    Ok(manifest)
}

/// Writes the manifest; the settings are then in it.
fn conclude(folder: &Path, manifest: &Manifest, before: &mut Before) -> Result<(), ShardError> {
    let name = &manifest.options.name;
    write_json(&manifest_path(folder, name), manifest, before)?;
    let settings = settings_path(folder, name);
    step(before, "remove settings", &settings, || {
        fs::remove_file(&settings)?;
        sync_folder(folder)
    })
}

/// The whole shards of a set in order, and the keys in them.
fn whole_shards(
    folder: &Path,
    name: &str,
    known: &[ShardEntry],
) -> Result<(Vec<ShardEntry>, HashSet<String>), ShardError> {
    let mut there: Vec<String> = Vec::new();
    for entry in fs::read_dir(folder).map_err(ShardError::io(folder))? {
        let file = file_name(&entry.map_err(ShardError::io(folder))?.path());
        let number = file
            .strip_prefix(name)
            .and_then(|rest| rest.strip_prefix('-'));
        let number = number.and_then(|rest| rest.strip_suffix(".tar"));
        if number
            .is_some_and(|number| number.len() >= 6 && number.bytes().all(|b| b.is_ascii_digit()))
        {
            there.push(file);
        }
    }
    let mut shards = Vec::with_capacity(there.len());
    let mut keys = HashSet::new();
    for index in 0..there.len().max(known.len()) {
        let path = shard_path(folder, name, index);
        if !path.is_file() {
            let reason = "it is missing, and the set goes on after it".to_owned();
            return Err(ShardError::Damaged { path, reason });
        }
        let shard = read_shard(&path, &mut keys)?;
        if known.get(index).is_some_and(|known| *known != shard) {
            let reason = "its hash differs from the manifest".to_owned();
            return Err(ShardError::Damaged { path, reason });
        }
        shards.push(shard);
    }
    Ok((shards, keys))
}

fn read_shard(path: &Path, keys: &mut HashSet<String>) -> Result<ShardEntry, ShardError> {
    let io = |source| ShardError::io(path)(source);
    let damaged = |error: TarError| ShardError::Damaged {
        path: path.to_owned(),
        reason: error.to_string(),
    };
    let mut hasher = blake3::Hasher::new();
    hasher
        .update_reader(File::open(path).map_err(io)?)
        .map_err(io)?;
    let mut members = TarReader::new(File::open(path).map_err(io)?).map_err(damaged)?;
    let before = keys.len();
    while let Some(member) = members.next_member().map_err(damaged)? {
        if let Some((key, _)) = split_key(&member.name) {
            keys.insert(key.to_owned());
        }
    }
    Ok(ShardEntry {
        file: file_name(path),
        bytes: hasher.count(),
        samples: (keys.len() - before) as u64,
        blake3: hasher.finalize().to_hex().to_string(),
    })
}

/// Key and extension of a member by WebDataset's rule: the name is cut at the first dot after the last
/// slash. `None` when there is no dot there, or nothing before it (hidden files).
pub fn split_key(name: &str) -> Option<(&str, &str)> {
    let base = name.rfind('/').map_or(0, |slash| slash + 1);
    let dot = base + name.get(base..)?.find('.')?;
    (dot > base).then_some((name.get(..dot)?, name.get(dot + 1..)?))
}

fn must_equal(path: &Path, begun: &ShardOptions, wanted: &ShardOptions) -> Result<(), ShardError> {
    // As it would be read back: a fraction may change in its last digit on the way.
    let wanted: ShardOptions = serde_json::to_vec(wanted)
        .and_then(|text| serde_json::from_slice(&text))
        .map_err(|error| ShardError::Settings {
            path: path.to_owned(),
            reason: error.to_string(),
        })?;
    let field = |what: &str, begun: String, wanted: String| {
        (begun != wanted).then(|| format!("it was begun with {what} {begun}, not {wanted}"))
    };
    let differs = field(
        "max_bytes",
        begun.max_bytes.to_string(),
        wanted.max_bytes.to_string(),
    )
    .or_else(|| {
        let (begun, wanted) = (begun.max_samples, wanted.max_samples);
        field("max_samples", begun.to_string(), wanted.to_string())
    })
    .or_else(|| {
        field(
            "settings",
            begun.settings.to_string(),
            wanted.settings.to_string(),
        )
    })
    .or_else(|| field("name", begun.name.clone(), wanted.name.clone()));
    match differs {
        Some(reason) => Err(ShardError::Settings {
            path: path.to_owned(),
            reason,
        }),
        None => Ok(()),
    }
}

/// A JSON file of ours, when it is there.
fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>, ShardError> {
    let broken = |reason: String| ShardError::Settings {
        path: path.to_owned(),
        reason,
    };
    let bytes = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Ok(meta) if meta.len() > MAX_MANIFEST_BYTES => {
            return Err(broken(format!("{} bytes are no manifest", meta.len())));
        }
        _ => fs::read(path).map_err(ShardError::io(path))?,
    };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|error| broken(format!("it is no manifest of shards: {error}")))
}

/// Writes a JSON file whole or not at all.
fn write_json(path: &Path, value: &impl Serialize, before: &mut Before) -> Result<(), ShardError> {
    let partial = partial_of(path);
    step(before, "write manifest", &partial, || {
        let mut file = File::create(&partial)?;
        let mut text = serde_json::to_vec_pretty(value)?;
        text.push(b'\n');
        file.write_all(&text)?;
        file.sync_all()
    })?;
    publish(&partial, path, before)
}

/// The rename by which a file appears whole.
fn publish(partial: &Path, path: &Path, before: &mut Before) -> Result<(), ShardError> {
    step(before, "rename", path, || fs::rename(partial, path))?;
    let folder = path.parent().unwrap_or(Path::new("."));
    step(before, "sync folder", folder, || sync_folder(folder))
}

fn step<T>(
    before: &mut Before,
    what: &str,
    at: &Path,
    act: impl FnOnce() -> io::Result<T>,
) -> Result<T, ShardError> {
    before(what)
        .and_then(|()| act())
        .map_err(ShardError::io(at))
}

fn shard_path(folder: &Path, name: &str, index: usize) -> PathBuf {
    folder.join(format!("{name}-{index:06}.tar"))
}

fn manifest_path(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.json"))
}

fn settings_path(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!(".{name}.settings.json"))
}

fn partial_of(path: &Path) -> PathBuf {
    path.with_file_name(format!(".{}.partial", file_name(path)))
}

fn file_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    if !cfg!(unix) {
        return Ok(());
    }
    let here = Path::new(".");
    let folder = if folder.as_os_str().is_empty() {
        here
    } else {
        folder
    };
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Ten samples: one with a long key, one larger than a shard may be.
    fn samples() -> Vec<(String, Vec<u8>, String)> {
        let sample = |at: usize| {
            let key = if at == 4 {
                format!("folder/{}", "k".repeat(120))
            } else {
                format!("{at:03}")
            };
            let size = if at == 6 { 20_000 } else { 700 * (at + 1) };
            (key, vec![at as u8; size], format!("text {at}"))
        };
        (0..10).map(sample).collect()
    }

    fn options() -> ShardOptions {
        ShardOptions {
            max_bytes: 16_000,
            max_samples: 3,
            ..ShardOptions::new("train", serde_json::json!({"side": 224, "rate": 0.1}))
        }
    }

    /// Writes what is missing; `acknowledge` hears of every number that [`ShardWriter::committed`] gave.
    fn run(
        folder: &Path,
        before: Before,
        acknowledge: &mut dyn FnMut(u64),
    ) -> Result<Manifest, ShardError> {
        let mut writer = ShardWriter::open_with(folder, options(), before)?;
        let done = writer.committed();
        acknowledge(done);
        for (key, image, text) in samples().into_iter().skip(done as usize) {
            writer.append(&key, &[("jpg", &image), ("txt", text.as_bytes())])?;
            acknowledge(writer.committed());
        }
        writer.finish()
    }

    /// Every file of the folder that is not hidden.
    fn visible(folder: &Path) -> Vec<(String, Vec<u8>)> {
        let entries = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path());
        let mut files: Vec<(String, Vec<u8>)> = entries
            .filter(|path| !file_name(path).starts_with('.'))
            .map(|path| (file_name(&path), fs::read(&path).unwrap()))
            .collect();
        files.sort();
        files
    }

    fn reference() -> Vec<(String, Vec<u8>)> {
        let folder = tempfile::tempdir().unwrap();
        let manifest = run(folder.path(), Box::new(|_| Ok(())), &mut |_| ()).unwrap();
        assert_eq!(manifest.samples, 10);
        let files = visible(folder.path());
        assert_eq!(
            files.len(),
            fs::read_dir(folder.path()).unwrap().count(),
            "nothing hidden stays"
        );
        files
    }

    /// After a stop: what is visible is a beginning of what should be, nothing acknowledged is missing,
    /// and a second run completes it to the same bytes.
    fn assert_recovers(
        folder: &Path,
        acknowledged: u64,
        reference: &[(String, Vec<u8>)],
        at: &str,
    ) {
        for file in visible(folder) {
            assert!(reference.contains(&file), "{at}: {} is not whole", file.0);
        }
        let mut first = None;
        run(folder, Box::new(|_| Ok(())), &mut |done| {
            first.get_or_insert(done);
        })
        .unwrap();
        assert!(
            first.unwrap() >= acknowledged,
            "{at}: acknowledged samples were lost"
        );
        assert_eq!(visible(folder), reference, "{at}");
        assert_eq!(
            fs::read_dir(folder).unwrap().count(),
            reference.len(),
            "{at}: leftovers"
        );
    }

    #[test]
    fn a_failure_at_any_step_loses_nothing() {
        let reference = reference();
        for at in 0.. {
            let folder = tempfile::tempdir().unwrap();
            // The folder of the set is made by the writer.
            let folder = folder.path().join("set");
            let steps = Arc::new(AtomicUsize::new(0));
            let counter = steps.clone();
            let mut acknowledged = 0;
            let before = Box::new(
                move |_: &str| match counter.fetch_add(1, Ordering::Relaxed) {
                    step if step == at => Err(io::Error::from(io::ErrorKind::StorageFull)),
                    _ => Ok(()),
                },
            );
            let result = run(&folder, before, &mut |done| acknowledged = done);
            if result.is_ok() {
                assert!(at > 40, "only {at} steps");
                return;
            }
            fs::create_dir_all(&folder).unwrap();
            assert_recovers(&folder, acknowledged, &reference, &format!("step {at}"));
        }
    }

    const KILL_AT: &str = "CHIASM_TEST_KILL_SHARDS_AT";
    const KILL_IN: &str = "CHIASM_TEST_KILL_SHARDS_IN";

    /// Not a test of its own: what the next test runs as a process and lets die.
    #[test]
    fn dies_at_a_step() {
        let (Ok(at), Some(folder)) = (std::env::var(KILL_AT), std::env::var_os(KILL_IN)) else {
            return;
        };
        let (at, mut step) = (at.parse::<usize>().unwrap(), 0);
        let folder = PathBuf::from(folder);
        let heard = folder.join("acknowledged");
        let before = Box::new(move |_: &str| {
            if step == at {
                std::process::abort();
            }
            step += 1;
            Ok(())
        });
        let mut acknowledge = |done: u64| fs::write(&heard, done.to_string()).unwrap();
        run(&folder.join("set"), before, &mut acknowledge).unwrap();
        fs::write(folder.join("finished"), b"").unwrap();
    }

    #[test]
    fn a_kill_at_any_step_loses_nothing() {
        let reference = reference();
        for at in 0.. {
            let folder = tempfile::tempdir().unwrap();
            let status = Command::new(std::env::current_exe().unwrap())
                .args([
                    "--exact",
                    "shard::tests::dies_at_a_step",
                    "--test-threads=1",
                ])
                .env(KILL_AT, at.to_string())
                .env(KILL_IN, folder.path())
                .output()
                .unwrap()
                .status;
            if folder.path().join("finished").exists() {
                assert!(status.success() && at > 40, "only {at} steps");
                return;
            }
            assert!(!status.success(), "step {at} was not reached");
            let heard = fs::read_to_string(folder.path().join("acknowledged")).unwrap_or_default();
            let set = folder.path().join("set");
            fs::create_dir_all(&set).unwrap();
            assert_recovers(
                &set,
                heard.parse().unwrap_or(0),
                &reference,
                &format!("step {at}"),
            );
        }
    }

    #[test]
    fn shards_close_by_size_and_by_count() {
        let folder = tempfile::tempdir().unwrap();
        let manifest = run(folder.path(), Box::new(|_| Ok(())), &mut |_| ()).unwrap();
        let samples: Vec<u64> = manifest.shards.iter().map(|shard| shard.samples).collect();
        assert_eq!(samples, [3, 2, 1, 1, 1, 1, 1], "{manifest:?}");
        let text = fs::read_to_string(folder.path().join("train.json")).unwrap();
        assert_eq!(serde_json::from_str::<Manifest>(&text).unwrap(), manifest);
    }

    /// Another reader agrees with what was written.
    #[test]
    fn the_tar_crate_reads_the_shards() {
        let folder = tempfile::tempdir().unwrap();
        run(folder.path(), Box::new(|_| Ok(())), &mut |_| ()).unwrap();
        let mut read = Vec::new();
        for (name, bytes) in visible(folder.path()) {
            if name.ends_with(".tar") {
                for entry in tar::Archive::new(bytes.as_slice()).entries().unwrap() {
                    let mut entry = entry.unwrap();
                    let mut body = Vec::new();
                    io::Read::read_to_end(&mut entry, &mut body).unwrap();
                    read.push((entry.path().unwrap().to_string_lossy().into_owned(), body));
                }
            }
        }
        let expected: Vec<(String, Vec<u8>)> = samples()
            .into_iter()
            .flat_map(|(key, image, text)| {
                [
                    (format!("{key}.jpg"), image),
                    (format!("{key}.txt"), text.into_bytes()),
                ]
            })
            .collect();
        assert_eq!(read, expected);
    }

    #[test]
    fn a_folder_made_otherwise_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let open =
            |options| ShardWriter::open(folder.path(), options).map(|writer| writer.committed());
        run(folder.path(), Box::new(|_| Ok(())), &mut |_| ()).unwrap();
        assert_eq!(
            open(options()).unwrap(),
            10,
            "a finished set can be opened again"
        );
        let other = ShardOptions::new("train", serde_json::json!({"side": 288, "rate": 0.1}));
        let other = ShardOptions {
            max_bytes: 16_000,
            max_samples: 3,
            ..other
        };
        let error = open(other).unwrap_err();
        assert!(error.to_string().contains("\"side\":224"), "{error}");
        assert!(error.hint().unwrap().contains("another folder"));
        let larger = ShardOptions {
            max_bytes: 32_000,
            ..options()
        };
        assert!(
            open(larger)
                .unwrap_err()
                .to_string()
                .contains("max_bytes 16000")
        );
        for name in ["", "a/b", "a.b"] {
            let named = ShardOptions {
                name: name.to_owned(),
                ..options()
            };
            assert!(open(named).is_err(), "{name}");
        }

        // Shards that nobody knows the making of.
        fs::remove_file(folder.path().join("train.json")).unwrap();
        fs::remove_file(folder.path().join(".train.settings.json")).unwrap();
        assert!(matches!(open(options()), Err(ShardError::Settings { .. })));
    }

    #[test]
    fn damage_and_gaps_are_noticed() {
        for (damage, reason) in [("flip", "hash"), ("cut", "ends"), ("remove", "missing")] {
            let folder = tempfile::tempdir().unwrap();
            run(folder.path(), Box::new(|_| Ok(())), &mut |_| ()).unwrap();
            let path = folder.path().join("train-000001.tar");
            let mut bytes = fs::read(&path).unwrap();
            match damage {
                "flip" => bytes[600] ^= 1,
                _ => bytes.truncate(1000),
            }
            fs::write(&path, bytes).unwrap();
            if damage == "remove" {
                fs::remove_file(&path).unwrap();
            }
            let manifest = manifest_of(folder.path(), "train").unwrap().unwrap();
            let error = ShardWriter::open(folder.path(), options()).err().unwrap();
            assert!(error.to_string().contains(reason), "{damage}: {error}");
            let found = verify(folder.path(), &manifest).unwrap_err();
            assert_eq!(found.to_string(), error.to_string());
            assert!(error.hint().unwrap().contains("train-000001.tar"));
        }
    }

    #[test]
    fn two_writers_do_not_meet() {
        let folder = tempfile::tempdir().unwrap();
        let first = ShardWriter::open(folder.path(), options()).unwrap();
        let second = ShardWriter::open(folder.path(), options());
        assert!(matches!(second, Err(ShardError::Busy { .. })));
        drop(first);
        ShardWriter::open(folder.path(), options()).unwrap();
    }

    #[test]
    fn samples_that_could_not_be_read_back_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = ShardWriter::open(folder.path(), options()).unwrap();
        let long = "k".repeat(201);
        for key in [
            "", "a.b", "/a", "../a", "a//b", "a/./b", "a\\b", "a\nb", "folder/", &long,
        ] {
            assert!(writer.append(key, &[("txt", b"x")]).is_err(), "{key:?}");
        }
        for extension in ["", "a/b", "é", "a b"] {
            assert!(
                writer.append("a", &[(extension, b"x")]).is_err(),
                "{extension:?}"
            );
        }
        assert!(writer.append("a", &[]).is_err());
        assert!(writer.append("a", &[("txt", b"x"), ("txt", b"y")]).is_err());
        writer.append("a", &[("txt", b"x")]).unwrap();
        assert!(writer.append("a", &[("jpg", b"x")]).is_err(), "used before");
        assert_eq!(writer.finish().unwrap().samples, 1);
    }

    #[test]
    fn keys_end_at_the_first_dot_after_the_last_slash() {
        for (name, expected) in [
            ("a.jpg", Some(("a", "jpg"))),
            ("a.000.jpg", Some(("a", "000.jpg"))),
            ("x.y/a.b.c", Some(("x.y/a", "b.c"))),
            (".hidden", None),
            ("x/.hidden.jpg", None),
            ("none", None),
            ("x.y/none", None),
            ("a.", Some(("a", ""))),
        ] {
            assert_eq!(split_key(name), expected, "{name}");
        }
    }
}
