//! Work that is cut into parts, of which each is done or not there.
//!
//! A folder holds what is done, `00000017` for the eighteenth part, and `job.json`, which says of what. Several
//! processes that see the folder share the work without talking to each other: who creates a part's claim,
//! `00000017.claim`, makes that part. So a job goes on where it was stopped, on as many processes as
//! there are then, and what comes out depends on the parts alone and not on who made them.
//!
//! One process opens the folder with [`Parts::begin`], the others with [`Parts::join`] after that. A claim whose
//! process died keeps its part from the others until the job is begun again.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::atomic::write_bytes;

/// What says of what a folder holds parts.
const MANIFEST: &str = "job.json";
/// Held by who began the job, as long as it works.
const LOCK: &str = "lock";
const CLAIM: &str = "claim";
const PARTIAL: &str = "partial";

/// What keeps parts from being shared.
#[derive(Debug, thiserror::Error)]
pub enum PartsError {
    /// The file system failed.
    #[error("cannot access `{}`: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The folder holds something else.
    #[error("`{}` holds parts of another job", .0.display())]
    Other(PathBuf),
    /// Another process works there.
    #[error("another process works in `{}`", .0.display())]
    Busy(PathBuf),
    /// A part that should be there is not.
    #[error("part {number} of `{}` is missing", folder.display())]
    Missing {
        /// The folder.
        folder: PathBuf,
        /// The part.
        number: usize,
    },
    /// A part that is not what was written.
    #[error("part {number} of `{}` is damaged", folder.display())]
    Damaged {
        /// The folder.
        folder: PathBuf,
        /// The part.
        number: usize,
    },
}

impl PartsError {
    /// What to do about it, when there is something to say.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Io { .. } => None,
            Self::Other(_) => Some(
                "it is what a stopped command left: run that one again with the same model and data, or \
                 remove the folder",
            ),
            Self::Busy(_) => Some("wait for it, or name another output"),
            Self::Missing { .. } => Some(
                "all ranks must see the same folder: put the output on a file system that they share",
            ),
            Self::Damaged { .. } => Some("remove that file and run the same command again"),
        }
    }
}

#[derive(PartialEq, Serialize, Deserialize)]
struct Manifest {
    job: Value,
}

/// A folder with the parts of a job.
#[derive(Debug)]
pub struct Parts {
    folder: PathBuf,
    /// Held until this is dropped.
    _lock: Option<File>,
}

impl Parts {
    /// Begins a job, or goes on with it: `job` says what the parts are made of. Claims of processes that are
    /// gone are removed, so no other process may be at work yet. A job of which nothing was done makes room.
    ///
    /// # Errors
    /// A folder that holds something else or that somebody works in, or a failing file system.
    pub fn begin(folder: &Path, job: Value) -> Result<Self, PartsError> {
        let manifest = Manifest { job };
        let path = folder.join(MANIFEST);
        let known = match fs::read(&path) {
            Ok(bytes) => Some(bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(io_at(&path)(error)),
        };
        let is_own = |bytes: &Vec<u8>| {
            serde_json::from_slice(bytes).is_ok_and(|own: Manifest| own == manifest)
        };
        let is_known = known.as_ref().is_some_and(is_own);
        if !is_known {
            fs::create_dir_all(folder).map_err(io_at(folder))?;
            // Only what a job leaves that did nothing.
            let is_rest = |path: &Path| {
                let ending = path.extension().unwrap_or_default();
                path.ends_with(LOCK)
                    || known.is_some()
                        && (path.ends_with(MANIFEST) || ending == CLAIM || ending == PARTIAL)
            };
            let mut inside = fs::read_dir(folder).map_err(io_at(folder))?.flatten();
            if inside.any(|entry| !is_rest(&entry.path())) {
                return Err(PartsError::Other(folder.to_owned()));
            }
        }
        let lock = folder.join(LOCK);
        let file = File::create(&lock).map_err(io_at(&lock))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(PartsError::Busy(folder.to_owned())),
            // Some file systems of several machines know no locks.
            Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => {}
            Err(TryLockError::Error(error)) => return Err(io_at(&lock)(error)),
        }
        if !is_known {
            let bytes =
                serde_json::to_vec(&manifest).map_err(|error| io_at(&path)(error.into()))?;
            write_bytes(&path, &bytes).map_err(io_at(&path))?;
        }
        for entry in fs::read_dir(folder).map_err(io_at(folder))?.flatten() {
            let path = entry.path();
            let ending = path.extension().unwrap_or_default();
            if ending == CLAIM {
                fs::remove_file(&path).map_err(io_at(&path))?;
            } else if ending == PARTIAL {
                fs::remove_dir_all(&path).map_err(io_at(&path))?;
            }
        }
        Ok(Self {
            folder: folder.to_owned(),
            _lock: Some(file),
        })
    }

    /// Joins a job that another process has begun.
    #[must_use]
    pub fn join(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            _lock: None,
        }
    }

    /// Where a part is once it is done.
    #[must_use]
    pub fn path(&self, number: usize) -> PathBuf {
        self.folder.join(format!("{number:08}"))
    }

    /// Whether a part is done.
    #[must_use]
    pub fn has(&self, number: usize) -> bool {
        self.path(number).exists()
    }

    /// Takes a part, unless it is done or taken.
    ///
    /// # Errors
    /// If the file system fails.
    pub fn claim(&self, number: usize) -> Result<Option<Claim<'_>>, PartsError> {
        if self.has(number) {
            return Ok(None);
        }
        let path = self.path(number).with_extension(CLAIM);
        match File::options().write(true).create_new(true).open(&path) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(None),
            Err(error) => return Err(io_at(&path)(error)),
        }
        let claim = Claim {
            parts: self,
            number,
            path,
        };
        // It was done, and its claim given back, between the two looks.
        Ok((!self.has(number)).then_some(claim))
    }

    /// What [`Claim::put`] was given for a part.
    ///
    /// # Errors
    /// A part that is missing or damaged.
    pub fn read(&self, number: usize) -> Result<Vec<u8>, PartsError> {
        let path = self.path(number);
        let mut bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let folder = self.folder.clone();
                return Err(PartsError::Missing { folder, number });
            }
            Err(error) => return Err(io_at(&path)(error)),
        };
        let whole = bytes.len().checked_sub(blake3::OUT_LEN).filter(|end| {
            let (contents, digest) = bytes.split_at(*end);
            blake3::hash(contents).as_bytes() == digest
        });
        match whole {
            Some(end) => {
                bytes.truncate(end);
                Ok(bytes)
            }
            None => Err(self.damaged(number)),
        }
    }

    /// The error of a part whose contents are not what they should be.
    #[must_use]
    pub fn damaged(&self, number: usize) -> PartsError {
        PartsError::Damaged {
            folder: self.folder.clone(),
            number,
        }
    }

    /// Removes the folder: everything that was made of the parts is safe.
    ///
    /// # Errors
    /// If the file system fails.
    pub fn remove(self) -> Result<(), PartsError> {
        fs::remove_dir_all(&self.folder).map_err(io_at(&self.folder))
    }
}

/// A part that nobody else makes. Dropped, it is anybody's again.
#[derive(Debug)]
pub struct Claim<'a> {
    parts: &'a Parts,
    number: usize,
    path: PathBuf,
}

impl Claim<'_> {
    /// Which part it is.
    #[must_use]
    pub fn number(&self) -> usize {
        self.number
    }

    /// Makes these bytes the part.
    ///
    /// # Errors
    /// If the file system fails; the part is not there then.
    pub fn put(self, bytes: &[u8]) -> Result<(), PartsError> {
        let path = self.parts.path(self.number);
        crate::atomic::write_atomically(&path, |partial| {
            let mut file = File::create(partial)?;
            file.write_all(bytes)?;
            file.write_all(blake3::hash(bytes).as_bytes())
        })
        .map_err(io_at(&path))
    }

    /// A folder to fill, which [`Self::keep`] makes the part.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        self.parts.path(self.number).with_extension(PARTIAL)
    }

    /// Makes what is in [`Self::folder`] the part. Its files are forced to disk by who wrote them.
    ///
    /// # Errors
    /// If the file system fails.
    pub fn keep(self) -> Result<(), PartsError> {
        let path = self.parts.path(self.number);
        fs::rename(self.folder(), &path).map_err(io_at(&path))
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        // What is left behind is removed when the job is begun again.
        let _ = fs::remove_dir_all(self.folder());
        let _ = fs::remove_file(&self.path);
    }
}

fn io_at(path: &Path) -> impl Fn(io::Error) -> PartsError {
    let path = path.to_owned();
    move |source| PartsError::Io {
        path: path.clone(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_part_is_made_once_by_whoever_is_free() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("parts");
        let first = Parts::begin(&path, json!({"of": "test"})).unwrap();
        let made: Vec<usize> = std::thread::scope(|scope| {
            let work = || {
                let parts = Parts::join(&path);
                let mut made = 0;
                for number in 0..40 {
                    if let Some(claim) = parts.claim(number).unwrap() {
                        claim.put(&[number as u8; 3]).unwrap();
                        made += 1;
                    }
                }
                made
            };
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(work)).collect();
            let made = threads.into_iter().map(|thread| thread.join().unwrap());
            made.collect()
        });
        assert_eq!(made.iter().sum::<usize>(), 40, "{made:?}");
        for number in 0..40 {
            assert_eq!(first.read(number).unwrap(), [number as u8; 3]);
        }
        first.remove().unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn a_job_goes_on_with_what_is_done_and_without_what_was_begun() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("parts");
        let job = json!({"of": 1});
        {
            let parts = Parts::begin(&path, job.clone()).unwrap();
            assert!(matches!(
                Parts::begin(&path, job.clone()),
                Err(PartsError::Busy(_))
            ));
            parts.claim(0).unwrap().unwrap().put(b"done").unwrap();
            // Who drops a claim gives it back, who dies keeps it.
            drop(parts.claim(1).unwrap().unwrap());
            let kept = parts.claim(1).unwrap().unwrap();
            fs::create_dir(kept.folder()).unwrap();
            std::mem::forget(kept);
            assert!(parts.claim(1).unwrap().is_none());
            assert!(matches!(parts.read(1), Err(PartsError::Missing { .. })));
        }
        assert!(matches!(
            Parts::begin(&path, json!({"of": 2})),
            Err(PartsError::Other(_))
        ));
        let parts = Parts::begin(&path, job).unwrap();
        assert_eq!(parts.read(0).unwrap(), b"done");
        let claim = parts.claim(1).unwrap().unwrap();
        assert!(!claim.folder().exists());
        fs::create_dir(claim.folder()).unwrap();
        claim.keep().unwrap();
        assert!(parts.has(1) && parts.path(1).is_dir());

        fs::write(parts.path(2), b"short").unwrap();
        assert!(matches!(parts.read(2), Err(PartsError::Damaged { .. })));
    }

    #[test]
    fn a_job_that_did_nothing_makes_room() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("parts");
        std::mem::forget(Parts::begin(&path, json!(1)).unwrap().claim(3).unwrap());
        let parts = Parts::begin(&path, json!(2)).unwrap();
        assert!(parts.claim(3).unwrap().is_some());
    }

    #[test]
    fn a_folder_of_something_else_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("mine.claim");
        fs::write(&file, b"mine").unwrap();
        let error = Parts::begin(folder.path(), json!(1)).unwrap_err();
        assert!(matches!(error, PartsError::Other(_)) && error.hint().is_some());
        assert_eq!(fs::read(&file).unwrap(), b"mine");
    }
}
