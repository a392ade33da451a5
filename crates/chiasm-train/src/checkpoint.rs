//! Checkpoints: a folder that is complete or absent.
//!
//! A set (weights, optimiser, position, tokenizer, preprocessing, recipe) is written into a hidden
//! sibling folder, every file and the folder are forced to disk, the manifest with a hash of every
//! file comes last, and a rename makes the set appear. After an error, a kill or a power loss the
//! newest complete set is still there; what may remain is a hidden `.step-*.partial` folder, which
//! the next save removes. On file systems without folder sync (Windows) the rename may be lost on
//! power loss, never torn.
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
/// Position of the run.
pub const STATE_FILE: &str = "state.json";
const MANIFEST_FILE: &str = "manifest.json";
const FORMAT: u32 = 1;

/// Where a run stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunState {
    /// Optimiser steps done. Data order, masks and dropout are pure functions of it and the seed.
    pub step: u64,
    /// Updates the optimiser has counted, for its bias correction.
    pub optimizer_steps: u64,
    /// Fingerprint of the training data.
    pub data_fingerprint: String,
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

/// Writes a set as `dir/step-NNNNNNNN` and removes all but the newest `keep`.
///
/// # Errors
/// Any failure of the file system; older sets are then untouched.
pub fn save(dir: &Path, step: u64, files: &Files, keep: usize) -> Result<PathBuf, TrainError> {
    let path = write_set(dir, step, files, &mut |_| Ok(())).inspect_err(|_| {
        // On a full disk the half-written set is what fills it; the first error is the one to tell.
        let _ = fs::remove_dir_all(partial_path(dir, step));
    })?;
    for old in list(dir)?.into_iter().skip(keep.max(1)) {
        fs::remove_dir_all(&old).map_err(TrainError::io(&old))?;
    }
    Ok(path)
}

/// `before` is called with the name of every step that touches the disk: tests stop there.
fn write_set(
    dir: &Path,
    step: u64,
    files: &Files,
    before: &mut dyn FnMut(&str) -> io::Result<()>,
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
        if name.is_some_and(|name| name.starts_with("step-")) {
            found.push(path);
        }
    }
    found.sort();
    found.reverse();
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

#[cfg(test)]
mod tests {
    use super::*;

    fn files(content: &str) -> Files {
        [("a", content), ("b", "second file")]
            .into_iter()
            .map(|(name, text)| (name.to_owned(), text.as_bytes().to_vec()))
            .collect()
    }

    /// Whatever step of a save fails or is the last before a kill, the older set stays readable.
    #[test]
    fn stopping_at_any_step_loses_nothing() {
        let mut at = 0;
        loop {
            let dir = tempfile::tempdir().unwrap();
            save(dir.path(), 1, &files("old"), 2).unwrap();
            let mut steps = 0;
            let result = write_set(dir.path(), 2, &files("new"), &mut |_| {
                steps += 1;
                if steps > at {
                    Err(io::Error::from(io::ErrorKind::StorageFull))
                } else {
                    Ok(())
                }
            });
            let (found, damaged) = latest(dir.path()).unwrap();
            assert!(damaged.is_empty());
            let content = found.file("a").unwrap();
            if result.is_ok() {
                assert_eq!(content, b"new");
                assert!(at >= 7, "every step was tried");
                return;
            }
            assert!(content == b"old" || content == b"new");
            // The next save cleans up and succeeds.
            save(dir.path(), 3, &files("third"), 2).unwrap();
            assert_eq!(latest(dir.path()).unwrap().0.file("a").unwrap(), b"third");
            at += 1;
        }
    }

    #[test]
    fn a_damaged_set_falls_back_to_the_older_one_and_says_so() {
        let dir = tempfile::tempdir().unwrap();
        save(dir.path(), 1, &files("old"), 5).unwrap();
        for (step, damage) in [
            (2u64, "shortened"),
            (3, "changed"),
            (4, "gone"),
            (5, "no manifest"),
        ] {
            let path = save(dir.path(), step, &files("newer"), 9).unwrap();
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
    fn only_the_newest_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        for step in 1..=5 {
            save(dir.path(), step, &files("x"), 2).unwrap();
        }
        let names: Vec<String> = list(dir.path())
            .unwrap()
            .iter()
            .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
            .collect();
        assert_eq!(names, ["step-00000005", "step-00000004"]);
    }
}
