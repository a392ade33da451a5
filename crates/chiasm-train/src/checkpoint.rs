//! Checkpoints: a folder that is complete or absent.
//!
//! A set (weights, optimiser, position, metrics, tokenizer, preprocessing, recipe) is written into a
//! hidden sibling folder, every file and the folder are forced to disk, the manifest with a hash of
//! every file comes last, and a rename makes the set appear. An old set disappears by the same rename
//! backwards. After an error, a kill or a power loss the newest complete set is still there; what may
//! remain are hidden `.step-*` folders, which the next save removes. On file systems without folder
//! sync (Windows) the rename may be lost on power loss, never torn.
//!
//! The position of the data and of every random stream is the step alone, since all draws are keyed
//! by the recipe's seed and the step: [`RunState`] needs no generator.
//!
//! The same run state always gives the same bytes: nothing in a set depends on the clock.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::TrainError;

/// Weights in PyTorch's layout.
pub const MODEL_FILE: &str = "model.safetensors";
/// Sizes of the model.
pub const CONFIG_FILE: &str = "config.json";
/// The tokenizer.
pub const TOKENIZER_FILE: &str = "tokenizer.json";
/// How pictures become pixels.
pub const PREPROCESSOR_FILE: &str = "preprocessor_config.json";
/// The resolved recipe.
pub const RECIPE_FILE: &str = "recipe.toml";
/// Running means of the optimiser.
pub const OPTIMIZER_FILE: &str = "optimizer.safetensors";
/// Pseudo-labels and centres of the chunk that is trained on.
pub const CLUSTERS_FILE: &str = "clusters.safetensors";
/// Position of the run.
pub const STATE_FILE: &str = "state.json";
/// Validation figures of the weights in the set.
pub const METRICS_FILE: &str = "metrics.json";
const MANIFEST_FILE: &str = "manifest.json";
const FORMAT: u32 = 1;

/// Where a run stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunState {
    /// Optimiser steps done. Data order, masks and dropout are pure functions of it and the seed.
    pub step: u64,
    /// Updates the optimiser has counted, for its bias correction.
    pub optimizer_steps: u64,
    /// Fingerprint of the training data.
    pub data_fingerprint: String,
    /// The best evaluation so far; none before the first, or when nothing is monitored.
    #[serde(default)]
    pub best: Option<Best>,
    /// The chunk that the pseudo-labels in the set are of, where there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chunk: Option<u64>,
}

/// An evaluation that no other one was better than.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// Steps done then.
    pub step: u64,
    /// The monitored figure.
    pub value: f64,
}

/// `metrics.json`: figures of exactly the weights in the set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Name of the figure by which sets are compared.
    pub monitor: String,
    /// Figures by name; empty when the set was saved at a step without evaluation.
    pub values: BTreeMap<String, f64>,
}

/// Which sets stay when a new one was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// How many of the newest, at least 1.
    pub newest: usize,
    /// The step of a set that stays whatever its age: the best one.
    pub best: Option<u64>,
}

/// Files of a set by name.
pub type Files = BTreeMap<String, Vec<u8>>;

#[derive(Serialize, Deserialize)]
struct Manifest {
    format: u32,
    files: BTreeMap<String, FileEntry>,
}

#[derive(Serialize, Deserialize, PartialEq)]
struct FileEntry {
    bytes: u64,
    blake3: String,
}

impl FileEntry {
    fn of(bytes: &[u8]) -> Self {
        Self {
            bytes: bytes.len() as u64,
            blake3: blake3::hash(bytes).to_hex().to_string(),
        }
    }
}

/// A verified set in memory.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// Its folder.
    pub path: PathBuf,
    files: Files,
}

impl Checkpoint {
    /// The files of a model folder, which has no manifest: none of them is verified.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn of_model_folder(path: &Path) -> Result<Self, TrainError> {
        let mut files = Files::new();
        for name in [
            MODEL_FILE,
            CONFIG_FILE,
            TOKENIZER_FILE,
            PREPROCESSOR_FILE,
            RECIPE_FILE,
        ] {
            let file = path.join(name);
            match fs::read(&file) {
                Ok(bytes) => {
                    files.insert(name.to_owned(), bytes);
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(TrainError::io(&file)(error)),
            }
        }
        Ok(Self {
            path: path.to_owned(),
            files,
        })
    }

    /// Name of its folder.
    #[must_use]
    pub fn name(&self) -> String {
        let name = self.path.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }

    /// Content of one of its files.
    ///
    /// # Errors
    /// If the set has no such file.
    pub fn file(&self, name: &str) -> Result<&[u8], TrainError> {
        self.files
            .get(name)
            .map(Vec::as_slice)
            .ok_or_else(|| TrainError::Checkpoint {
                path: self.path.clone(),
                reason: format!("it has no `{name}`"),
            })
    }

    /// One of its files as JSON.
    ///
    /// # Errors
    /// If the file is missing or is not what is expected.
    pub fn json<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<T, TrainError> {
        serde_json::from_slice(self.file(name)?).map_err(|error| TrainError::Checkpoint {
            path: self.path.clone(),
            reason: format!("{name}: {error}"),
        })
    }

    /// One of its files as text.
    ///
    /// # Errors
    /// If the file is missing or is not UTF-8.
    pub fn text(&self, name: &str) -> Result<&str, TrainError> {
        std::str::from_utf8(self.file(name)?).map_err(|error| TrainError::Checkpoint {
            path: self.path.clone(),
            reason: format!("{name}: {error}"),
        })
    }
}

/// Writes a set as `dir/step-NNNNNNNN` and removes those that `keep` does not name.
///
/// # Errors
/// Any failure of the file system; while the new set is not there, older sets are untouched.
pub fn save(dir: &Path, step: u64, files: &Files, keep: Keep) -> Result<PathBuf, TrainError> {
    let path = write_set(dir, step, files, &mut |_| Ok(())).inspect_err(|_| {
        // On a full disk the half-written set is what fills it; the first error is the one to tell.
        let _ = fs::remove_dir_all(partial_path(dir, step));
    })?;
    remove_old(dir, keep, &mut |_| Ok(()))?;
    Ok(path)
}

/// Called with the name of every step that touches the disk: tests stop there.
type Before<'a> = &'a mut dyn FnMut(&str) -> io::Result<()>;

/// A set is out of the list with one rename, before any of its files is gone.
fn remove_old(dir: &Path, keep: Keep, before: Before<'_>) -> Result<(), TrainError> {
    let best = keep.best.map(|step| dir.join(set_name(step)));
    let old = list(dir)?.into_iter().skip(keep.newest.max(1));
    for path in old.filter(|path| Some(path) != best.as_ref()) {
        let mut name = std::ffi::OsString::from(".");
        name.push(path.file_name().unwrap_or_default());
        name.push(".removed");
        let hidden = dir.join(name);
        before("hide old set")
            .and_then(|()| fs::rename(&path, &hidden))
            .map_err(TrainError::io(&path))?;
    }
    for leftover in entries(dir, ".step-")? {
        before("remove hidden set")
            .and_then(|()| fs::remove_dir_all(&leftover))
            .map_err(TrainError::io(&leftover))?;
    }
    Ok(())
}

fn write_set(
    dir: &Path,
    step: u64,
    files: &Files,
    before: Before<'_>,
) -> Result<PathBuf, TrainError> {
    let (partial, path) = (partial_path(dir, step), dir.join(set_name(step)));
    let manifest = Manifest {
        format: FORMAT,
        files: files
            .iter()
            .map(|(name, bytes)| (name.clone(), FileEntry::of(bytes)))
            .collect(),
    };
    let manifest =
        serde_json::to_vec_pretty(&manifest).map_err(|error| TrainError::Checkpoint {
            path: path.clone(),
            reason: error.to_string(),
        })?;
    let mut step_at = |what: &str, at: &Path, act: &mut dyn FnMut() -> io::Result<()>| {
        before(what)
            .and_then(|()| act())
            .map_err(TrainError::io(at))
    };
    step_at("create folder", &partial, &mut || {
        if partial.exists() {
            fs::remove_dir_all(&partial)?;
        }
        fs::create_dir_all(&partial)
    })?;
    let contents = files.iter().map(|(name, bytes)| (name.as_str(), bytes));
    for (name, bytes) in contents.chain([(MANIFEST_FILE, &manifest)]) {
        let file_path = partial.join(name);
        step_at(&format!("write {name}"), &file_path, &mut || {
            let mut file = File::create(&file_path)?;
            file.write_all(bytes)?;
            file.sync_all()
        })?;
    }
    step_at("sync folder", &partial, &mut || sync_dir(&partial))?;
    // A set of the same step can only be there when a damaged one is replaced after a resume.
    step_at("remove replaced set", &path, &mut || {
        if path.exists() {
            fs::remove_dir_all(&path)
        } else {
            Ok(())
        }
    })?;
    step_at("rename", &path, &mut || fs::rename(&partial, &path))?;
    step_at("sync parent", dir, &mut || sync_dir(dir))?;
    Ok(path)
}

fn set_name(step: u64) -> String {
    format!("step-{step:08}")
}

fn partial_path(dir: &Path, step: u64) -> PathBuf {
    dir.join(format!(".{}.partial", set_name(step)))
}

fn sync_dir(path: &Path) -> io::Result<()> {
    if cfg!(unix) {
        File::open(path)?.sync_all()
    } else {
        Ok(())
    }
}

/// Sets in `dir`, newest first, verified or not.
///
/// # Errors
/// If the folder cannot be read; a folder that is not there holds none.
pub fn list(dir: &Path) -> Result<Vec<PathBuf>, TrainError> {
    let mut found = entries(dir, "step-")?;
    found.sort();
    found.reverse();
    Ok(found)
}

/// What in `dir` has a name that begins so.
fn entries(dir: &Path, beginning: &str) -> Result<Vec<PathBuf>, TrainError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(TrainError::io(dir)(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(TrainError::io(dir))?.path();
        let name = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned());
        if name.is_some_and(|name| name.starts_with(beginning)) {
            found.push(path);
        }
    }
    Ok(found)
}

/// Reads a set and compares every file with its hash.
///
/// # Errors
/// A missing, shortened or changed file.
pub fn load(path: &Path) -> Result<Checkpoint, TrainError> {
    let broken = |reason: String| TrainError::Checkpoint {
        path: path.to_owned(),
        reason,
    };
    let read =
        |name: &str| fs::read(path.join(name)).map_err(|error| broken(format!("{name}: {error}")));
    let manifest: Manifest = serde_json::from_slice(&read(MANIFEST_FILE)?)
        .map_err(|error| broken(format!("{MANIFEST_FILE}: {error}")))?;
    if manifest.format != FORMAT {
        return Err(broken(format!(
            "its format is {}, this program reads {FORMAT}",
            manifest.format
        )));
    }
    let mut files = Files::new();
    for (name, entry) in &manifest.files {
        if Path::new(name).components().count() != 1 {
            return Err(broken(format!("`{name}` is not a plain file name")));
        }
        let bytes = read(name)?;
        if FileEntry::of(&bytes) != *entry {
            return Err(broken(format!(
                "{name} is damaged: its hash differs from the manifest"
            )));
        }
        files.insert(name.clone(), bytes);
    }
    Ok(Checkpoint {
        path: path.to_owned(),
        files,
    })
}

/// The newest undamaged set, and a message for every newer one that had to be passed over.
///
/// # Errors
/// If there is none.
pub fn latest(dir: &Path) -> Result<(Checkpoint, Vec<String>), TrainError> {
    let mut damaged = Vec::new();
    for path in list(dir)? {
        match load(&path) {
            Ok(checkpoint) => return Ok((checkpoint, damaged)),
            Err(error) => damaged.push(error.to_string()),
        }
    }
    Err(TrainError::NoCheckpoint {
        path: dir.to_owned(),
        damaged,
    })
}

/// The undamaged set with the best figure of its monitor, and a message for every set that had to be
/// passed over. Sets without that figure do not count.
///
/// # Errors
/// If there is none.
pub fn best(dir: &Path) -> Result<(Checkpoint, Vec<String>), TrainError> {
    let mut damaged = Vec::new();
    let mut best: Option<(f64, Checkpoint)> = None;
    for path in list(dir)? {
        let checkpoint = match load(&path) {
            Ok(checkpoint) => checkpoint,
            Err(error) => {
                damaged.push(error.to_string());
                continue;
            }
        };
        let Ok(metrics) = checkpoint.json::<Metrics>(METRICS_FILE) else {
            continue;
        };
        let Some(value) = metrics.values.get(&metrics.monitor).copied() else {
            continue;
        };
        // From the newest to the oldest: of equal ones the oldest is the first that was as good.
        if best
            .as_ref()
            .is_none_or(|(other, _)| !better(&metrics.monitor, *other, value))
        {
            best = Some((value, checkpoint));
        }
    }
    match best {
        Some((_, checkpoint)) => Ok((checkpoint, damaged)),
        None => Err(TrainError::NoCheckpoint {
            path: dir.to_owned(),
            damaged,
        }),
    }
}

/// Whether `new` is better than `old`: less of a loss or of a rank, more of anything else.
#[must_use]
pub fn better(monitor: &str, new: f64, old: f64) -> bool {
    if monitor.starts_with("loss") || monitor.ends_with("rank") {
        new < old
    } else {
        new > old
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(content: &str) -> Files {
        [("a", content), ("b", "second file")]
            .into_iter()
            .map(|(name, text)| (name.to_owned(), text.as_bytes().to_vec()))
            .collect()
    }

    fn newest(newest: usize) -> Keep {
        Keep { newest, best: None }
    }

    /// Whatever step of a save fails or is the last before a kill, the older set stays readable until
    /// the newer one is.
    #[test]
    fn stopping_at_any_step_loses_nothing() {
        let mut at = 0;
        loop {
            let dir = tempfile::tempdir().unwrap();
            save(dir.path(), 1, &files("old"), newest(2)).unwrap();
            let mut steps = 0;
            let mut stop = |_: &str| {
                steps += 1;
                if steps > at {
                    Err(io::Error::from(io::ErrorKind::StorageFull))
                } else {
                    Ok(())
                }
            };
            let result = write_set(dir.path(), 2, &files("new"), &mut stop)
                .and_then(|_| remove_old(dir.path(), newest(1), &mut stop));
            let (found, damaged) = latest(dir.path()).unwrap();
            assert!(damaged.is_empty());
            let content = found.file("a").unwrap();
            if result.is_ok() {
                assert_eq!(content, b"new");
                assert!(at >= 9, "every step was tried");
                return;
            }
            assert!(content == b"old" || content == b"new");
            // The next save cleans up and succeeds.
            save(dir.path(), 3, &files("third"), newest(1)).unwrap();
            assert_eq!(latest(dir.path()).unwrap().0.file("a").unwrap(), b"third");
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
            at += 1;
        }
    }

    #[test]
    fn a_damaged_set_falls_back_to_the_older_one_and_says_so() {
        let dir = tempfile::tempdir().unwrap();
        save(dir.path(), 1, &files("old"), newest(5)).unwrap();
        for (step, damage) in [
            (2u64, "shortened"),
            (3, "changed"),
            (4, "gone"),
            (5, "no manifest"),
        ] {
            let path = save(dir.path(), step, &files("newer"), newest(9)).unwrap();
            match damage {
                "shortened" => fs::write(path.join("a"), "new").unwrap(),
                "changed" => fs::write(path.join("a"), "nEwer").unwrap(),
                "gone" => fs::remove_file(path.join("b")).unwrap(),
                _ => fs::remove_file(path.join(MANIFEST_FILE)).unwrap(),
            }
        }
        let (found, damaged) = latest(dir.path()).unwrap();
        assert_eq!(found.file("a").unwrap(), b"old");
        assert_eq!(damaged.len(), 4);
    }

    #[test]
    fn the_best_is_kept_and_found() {
        let dir = tempfile::tempdir().unwrap();
        let mut top: Option<Best> = None;
        for (step, value) in [(1, 0.2), (2, 0.7), (3, 0.7), (4, 0.5), (5, 0.6)] {
            if top.is_none_or(|top| better("rsum", value, top.value)) {
                top = Some(Best { step, value });
            }
            let metrics = Metrics {
                monitor: "rsum".into(),
                values: [("rsum".to_owned(), value)].into(),
            };
            let mut set = files("x");
            set.insert(METRICS_FILE.into(), serde_json::to_vec(&metrics).unwrap());
            let best = top.map(|top| top.step);
            save(dir.path(), step, &set, Keep { newest: 2, best }).unwrap();
        }
        let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
        let names: Vec<String> = list(dir.path()).unwrap().iter().map(|p| name(p)).collect();
        assert_eq!(names, ["step-00000005", "step-00000004", "step-00000002"]);
        let (found, damaged) = best(dir.path()).unwrap();
        assert_eq!(
            (name(&found.path).as_str(), damaged.len()),
            ("step-00000002", 0)
        );
        // A damaged best gives way to the next best, and says so.
        fs::write(found.path.join("a"), "damage").unwrap();
        let (found, damaged) = best(dir.path()).unwrap();
        assert_eq!(
            (name(&found.path).as_str(), damaged.len()),
            ("step-00000005", 1)
        );
        assert!(better("loss", 1.0, 2.0) && !better("rsum", f64::NAN, 0.0));
    }

    #[test]
    fn only_the_newest_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        for step in 1..=5 {
            save(dir.path(), step, &files("x"), newest(2)).unwrap();
        }
        let names: Vec<String> = list(dir.path())
            .unwrap()
            .iter()
            .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
            .collect();
        assert_eq!(names, ["step-00000005", "step-00000004"]);
    }
}
