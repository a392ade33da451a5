//! Files that are either whole or not there.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// Lets `write` fill a sibling of `path`, forces it to disk and renames it over `path`.
///
/// A reader sees the old file or the new one, never a part. When `write` or the disk fails, `path` is untouched and the
/// sibling is removed; a process killed in between leaves the sibling (`.NAME.PID.partial`), which nothing reads.
/// The rename itself is forced to disk on Unix only.
pub(crate) fn write_atomically<E: From<io::Error>>(
    path: &Path,
    write: impl FnOnce(&Path) -> Result<(), E>,
) -> Result<(), E> {
    let partial = sibling(path)?;
    let result = write(&partial).and_then(|()| publish(&partial, path).map_err(E::from));
    if result.is_err() {
        // The first error is the one to report; a leftover is harmless.
        let _ = fs::remove_file(&partial);
    }
    result
}

/// [`write_atomically`] for bytes already in memory.
pub(crate) fn write_bytes(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_atomically(path, |partial| fs::write(partial, bytes))
}

fn sibling(path: &Path) -> io::Result<PathBuf> {
    let name = path
        .file_name()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the path names no file"))?;
    let mut partial = OsString::from(".");
    partial.push(name);
    partial.push(format!(".{}.partial", std::process::id()));
    Ok(path.with_file_name(partial))
}

fn publish(partial: &Path, path: &Path) -> io::Result<()> {
    File::options().write(true).open(partial)?.sync_all()?;
    fs::rename(partial, path)?;
    #[cfg(unix)]
    {
        let folder = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_the_old_file_and_no_sibling() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        write_bytes(&path, b"old").unwrap();
        let failed = write_atomically(&path, |partial| {
            fs::write(partial, b"ne")?;
            Err(io::Error::other("disk full"))
        });
        assert_eq!(failed.unwrap_err().to_string(), "disk full");
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        write_bytes(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
    }
}
