//! Weights from wherever they are: one file of any format that is read here, or a folder in Hugging
//! Face's layout.
//!
//! A file is recognised by its content, never by its extension. Opening lists what is there and reads no
//! weights; each tensor is read when it is asked for, so a file that is larger than memory can be looked
//! through.
//!
//! ```no_run
//! use chiasm_format::Archive;
//!
//! let archive = Archive::open("checkpoint.ckpt".as_ref())?;
//! for tensor in archive.tensors() {
//!     println!("{} {:?} {} bytes", tensor.name, tensor.shape, tensor.bytes);
//! }
//! let bias = archive.read_f32("pooler.dense.bias")?;
//! # Ok::<(), chiasm_format::FormatError>(())
//! ```

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{FormatError, check_cap, shown};
use crate::pickle::Limits;
use crate::safetensors::{self, SafetensorsFile};
use crate::source::ByteSource;
use crate::tensor::{Dtype, Tensor, byte_count};
use crate::torch::{self, TorchFile, TorchKind};

pub use crate::torch::Extra;

/// Most bytes of an index of shards.
pub const MAX_INDEX: u64 = 16 << 20;
/// Most shards.
pub const MAX_SHARDS: usize = 1000;
/// What `DataParallel` puts before every name.
const DATA_PARALLEL: &str = "module.";
/// Files with weights in a folder, in the order of preference.
const FOLDER_FILES: [&str; 4] = [
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
];

/// One tensor of an archive.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorInfo {
    /// Dotted name.
    pub name: String,
    /// Type of the elements.
    pub dtype: Dtype,
    /// Sizes of the axes; empty for a single number.
    pub shape: Vec<usize>,
    /// Bytes of memory that reading it takes.
    pub bytes: u64,
    /// The file it is in.
    pub file: Arc<Path>,
}

/// How an archive is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// Format of its files.
    pub format: Format,
    /// Number of files.
    pub files: usize,
}

/// Format of a file with weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Safetensors.
    Safetensors,
    /// PyTorch, in one of its ways.
    Torch(TorchKind),
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.format {
            Format::Safetensors => "safetensors",
            Format::Torch(TorchKind::Zip) => "PyTorch zip",
            Format::Torch(TorchKind::Legacy) => "PyTorch from before 1.6",
            Format::Torch(TorchKind::Pickle) => "pickle of arrays",
        })?;
        match self.files {
            1 => Ok(()),
            files => write!(f, ", {files} shards"),
        }
    }
}

/// Weights that can be read by name.
#[derive(Debug)]
pub struct Archive {
    kind: Kind,
    parts: Vec<Part>,
    tensors: Vec<TensorInfo>,
    /// Part and number in it of each tensor, by name.
    places: HashMap<String, (usize, usize)>,
    extras: Vec<Extra>,
    unwrapped: Vec<String>,
}

#[derive(Debug)]
struct Part {
    path: Arc<Path>,
    file: Opened,
}

#[derive(Debug)]
enum Opened {
    Safetensors(SafetensorsFile),
    Torch(TorchFile),
}

impl Archive {
    /// Opens a file or a folder and lists what it holds.
    ///
    /// A folder's `model.safetensors` comes first, then its shards, then `pytorch_model.bin`, then the
    /// shards of that.
    ///
    /// # Errors
    /// What is in no known format, damage, a pickle that asks for code, a missing shard.
    pub fn open(path: &Path) -> Result<Self, FormatError> {
        let meta = std::fs::metadata(path).map_err(|source| FormatError::io(path, source))?;
        if !meta.is_dir() {
            return Self::of_file(path);
        }
        let found = FOLDER_FILES
            .iter()
            .map(|name| path.join(name))
            .find(|path| path.is_file());
        match found {
            Some(index)
                if index
                    .extension()
                    .is_some_and(|extension| extension == "json") =>
            {
                Self::of_index(&index)
            }
            Some(file) => Self::of_file(&file),
            None => Err(no_weights(path)),
        }
    }

    /// Reads weights that are in memory; `name` stands for the path.
    ///
    /// # Errors
    /// As for [`Archive::open`].
    pub fn from_bytes(name: &str, bytes: impl Into<Arc<[u8]>>) -> Result<Self, FormatError> {
        let part = Part::open(ByteSource::from_memory(name, bytes))?;
        Self::of_parts(vec![part], None)
    }

    fn of_file(path: &Path) -> Result<Self, FormatError> {
        Self::of_parts(vec![Part::open(ByteSource::open(path)?)?], None)
    }

    /// Shards, with the file that lists which tensor is in which.
    fn of_index(path: &Path) -> Result<Self, FormatError> {
        let index = Index::read(path).map_err(|error| error.in_file(path))?;
        let folder = path.parent().unwrap_or(Path::new("."));
        let names: BTreeSet<&String> = index.weight_map.values().collect();
        let mut parts = Vec::with_capacity(names.len());
        for name in names {
            let shard = folder.join(name);
            if !shard.is_file() {
                return Err(FormatError::Unsupported {
                    what: format!(
                        "the shard `{name}` that `{}` names is missing",
                        path.display()
                    ),
                    hint: "get the missing shard and put it beside the index",
                });
            }
            parts.push(Part::open(ByteSource::open(&shard)?)?);
        }
        Self::of_parts(parts, Some((path, &index)))
    }

    fn of_parts(parts: Vec<Part>, index: Option<(&Path, &Index)>) -> Result<Self, FormatError> {
        let format = parts
            .first()
            .map_or(Format::Safetensors, |part| part.file.format());
        let mut archive = Self {
            kind: Kind {
                format,
                files: parts.len(),
            },
            parts: Vec::new(),
            tensors: Vec::new(),
            places: HashMap::new(),
            extras: Vec::new(),
            unwrapped: Vec::new(),
        };
        for (number, part) in parts.iter().enumerate() {
            archive.take(number, part, index.map(|(_, index)| index))?;
        }
        if let Some((path, index)) = index {
            let missing = index
                .weight_map
                .iter()
                .find(|(name, _)| !archive.places.contains_key(*name));
            if let Some((name, shard)) = missing {
                let message = format!("`{shard}` does not hold it");
                let place = format!("tensor `{}`", shown(name));
                return Err(FormatError::damaged("index", place, message).in_file(path));
            }
        }
        archive.parts = parts;
        archive.strip_data_parallel();
        Ok(archive)
    }

    /// Lists the tensors of one file, all of them or those that the index says are there.
    fn take(
        &mut self,
        number: usize,
        part: &Part,
        index: Option<&Index>,
    ) -> Result<(), FormatError> {
        let path = &part.path;
        let mut left_out = 0;
        part.file.each(|slot, name, dtype, shape| {
            let belongs = |index: &Index| {
                let shard = index.weight_map.get(name).map(Path::new);
                shard.is_some_and(|shard| Some(shard.as_os_str()) == path.file_name())
            };
            if index.is_some_and(|index| !belongs(index)) {
                left_out += 1;
                return Ok(());
            }
            if self
                .places
                .insert(name.to_owned(), (number, slot))
                .is_some()
            {
                let place = format!("tensor `{}`", shown(name));
                let error = FormatError::damaged("checkpoint", place, "its name is taken");
                return Err(error.in_file(path));
            }
            self.tensors.push(TensorInfo {
                name: name.to_owned(),
                dtype,
                shape: shape.to_vec(),
                // Checked when the file was opened.
                bytes: byte_count(dtype, shape).unwrap_or(u64::MAX),
                file: Arc::clone(path),
            });
            Ok(())
        })?;
        if left_out > 0 {
            self.extras.push(Extra {
                name: path.display().to_string(),
                what: format!("{left_out} tensors that the index does not name"),
            });
        }
        match &part.file {
            Opened::Safetensors(file) => {
                let said = file.metadata().iter().map(|(name, what)| Extra {
                    name: shown(name),
                    what: format!("{:?}", shown(what)),
                });
                self.extras.extend(said);
            }
            Opened::Torch(file) => {
                self.extras.extend_from_slice(file.extras());
                if let Some(key) = file.unwrapped()
                    && !self.unwrapped.iter().any(|known| known == key)
                {
                    self.unwrapped.push(key.to_owned());
                }
            }
        }
        Ok(())
    }

    fn strip_data_parallel(&mut self) {
        let all = self
            .tensors
            .iter()
            .all(|tensor| tensor.name.starts_with(DATA_PARALLEL));
        if self.tensors.is_empty() || !all {
            return;
        }
        let strip = |name: &str| {
            name.get(DATA_PARALLEL.len()..)
                .unwrap_or_default()
                .to_owned()
        };
        for tensor in &mut self.tensors {
            tensor.name = strip(&tensor.name);
        }
        let places = std::mem::take(&mut self.places);
        self.places = places
            .into_iter()
            .map(|(name, place)| (strip(&name), place))
            .collect();
        self.unwrapped.push(DATA_PARALLEL.to_owned());
    }

    /// How it is written.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The tensors, in the order of the files.
    #[must_use]
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// What is there beside weights: epoch, optimiser, hyper-parameters, metadata.
    #[must_use]
    pub fn extras(&self) -> &[Extra] {
        &self.extras
    }

    /// What was taken off the names: a key such as `state_dict` that the weights were under, and the
    /// prefix `module.` of `DataParallel`.
    #[must_use]
    pub fn unwrapped(&self) -> &[String] {
        &self.unwrapped
    }

    /// Reads one tensor, in the type it is stored in.
    ///
    /// # Errors
    /// No tensor of that name, or what the system said.
    pub fn read(&self, name: &str) -> Result<Tensor, FormatError> {
        let missing = || FormatError::NoTensor {
            name: name.to_owned(),
            count: self.tensors.len(),
        };
        let (part, slot) = self.places.get(name).ok_or_else(missing)?;
        let part = self.parts.get(*part).ok_or_else(missing)?;
        let tensor = match &part.file {
            Opened::Safetensors(file) => file.tensors().get(*slot).map(|entry| file.read(entry)),
            Opened::Torch(file) => file.tensors().get(*slot).map(|entry| file.read(entry)),
        };
        let tensor = tensor.ok_or_else(missing)?;
        tensor.map_err(|error| error.in_file(&part.path))
    }

    /// Reads one tensor as f32; [`Tensor::to_f32`] says what is exact.
    ///
    /// # Errors
    /// As for [`Archive::read`]; elements that are no plain numbers.
    pub fn read_f32(&self, name: &str) -> Result<Vec<f32>, FormatError> {
        self.read(name)?.to_f32()
    }
}

impl Part {
    fn open(source: ByteSource) -> Result<Self, FormatError> {
        let path: Arc<Path> = Arc::from(source.path());
        let file = Opened::open(Arc::new(source)).map_err(|error| error.in_file(&path))?;
        Ok(Self { path, file })
    }
}

impl Opened {
    fn open(source: Arc<ByteSource>) -> Result<Self, FormatError> {
        let head = source.head(16)?;
        if SafetensorsFile::recognises(&head, source.len()) {
            return SafetensorsFile::open(source).map(Self::Safetensors);
        }
        if head.starts_with(b"version https:") {
            return Err(FormatError::Unsupported {
                what: "the file is a pointer of Git LFS, not the weights".into(),
                hint: "run `git lfs pull` in the folder it came from",
            });
        }
        // Any bytes can be tried as a pickle; only some look like one.
        let looks_right = head.starts_with(b"PK") || head.starts_with(b"\x80");
        match TorchFile::open(source, &Limits::default()) {
            Err(FormatError::Damaged { .. }) if !looks_right => Err(FormatError::Unsupported {
                what: "the file holds no weights in a format that is read here".into(),
                hint: "give a safetensors file, a PyTorch checkpoint, or a folder with one of them",
            }),
            opened => opened.map(Self::Torch),
        }
    }

    fn format(&self) -> Format {
        match self {
            Self::Safetensors(_) => Format::Safetensors,
            Self::Torch(file) => Format::Torch(file.kind()),
        }
    }

    fn each(
        &self,
        mut visit: impl FnMut(usize, &str, Dtype, &[usize]) -> Result<(), FormatError>,
    ) -> Result<(), FormatError> {
        match self {
            Self::Safetensors(file) => {
                let mut entries = file.tensors().iter().enumerate();
                entries.try_for_each(|(slot, entry)| {
                    let safetensors::Entry {
                        name, dtype, shape, ..
                    } = entry;
                    visit(slot, name, *dtype, shape)
                })
            }
            Self::Torch(file) => {
                let mut entries = file.tensors().iter().enumerate();
                entries.try_for_each(|(slot, entry)| {
                    let torch::Entry {
                        name, dtype, shape, ..
                    } = entry;
                    visit(slot, name, *dtype, shape)
                })
            }
        }
    }
}

/// `model.safetensors.index.json` and its like.
#[derive(serde::Deserialize)]
#[serde(expecting = "an object with a `weight_map`")]
struct Index {
    /// File name by tensor name.
    weight_map: BTreeMap<String, String>,
}

impl Index {
    fn read(path: &Path) -> Result<Self, FormatError> {
        let source = ByteSource::open(path)?;
        check_cap("bytes of the index", source.len(), MAX_INDEX)?;
        let bytes = source.read(0, source.len())?;
        let index: Self = serde_json::from_slice(&bytes)
            .map_err(|error| FormatError::damaged("index", "its text", error.to_string()))?;
        let shards: BTreeSet<&String> = index.weight_map.values().collect();
        check_cap("shards", shards.len() as u64, MAX_SHARDS as u64)?;
        if shards.is_empty() {
            return Err(FormatError::damaged(
                "index",
                "`weight_map`",
                "it names no shard",
            ));
        }
        // A shard lies beside its index; anything else could name any file of the machine.
        let outside = shards.iter().find(|name| {
            let path = PathBuf::from(name.as_str());
            path.file_name().is_none_or(|file| file != path.as_os_str()) || name.contains('\\')
        });
        match outside {
            Some(name) => Err(FormatError::damaged(
                "index",
                "`weight_map`",
                format!("`{}` is not the name of a file beside it", shown(name)),
            )),
            None => Ok(index),
        }
    }
}

fn no_weights(folder: &Path) -> FormatError {
    let config = folder.join("config.json").is_file();
    let what = if config {
        "`config.json` but no weights"
    } else {
        "no weights"
    };
    FormatError::Unsupported {
        what: format!("the folder `{}` holds {what}", folder.display()),
        hint: "it needs `model.safetensors` or `pytorch_model.bin`, or the shards of one with their index",
    }
}
