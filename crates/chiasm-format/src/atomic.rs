//! Files that are either whole or not there.
//!
//! Quarantine lists, tokenizers, predictions and reports are written this way. A set of files that
//! must appear together (a checkpoint) needs more.
//!
//! ```
//! let folder = std::env::temp_dir().join(format!("chiasm-atomic-{}", std::process::id()));
//! std::fs::create_dir_all(&folder)?;
//! let file = folder.join("figures.json");
//! chiasm_format::atomic::write_bytes(&file, b"{}")?;
//! assert_eq!(std::fs::read(&file)?, b"{}");
//! # std::fs::remove_dir_all(&folder)?;
//! # Ok::<(), std::io::Error>(())
//! ```

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// Lets `write` fill a sibling of `path`, forces it to disk and renames it over `path`.
///
/// A reader sees the old file or the new one, never a part. When `write` or the disk fails, `path`
/// is untouched and the sibling is removed; a process killed in between leaves the sibling
/// (`.NAME.PID.partial`), which nothing reads. The rename itself is forced to disk on Unix only.
/// Two threads of one process must not write the same path at once: they would share the sibling.
///
/// A symbolic link stays, and the file it points to is replaced. What is there and is no regular
/// file (a pipe, `/dev/null`) cannot be replaced by one: `write` gets `path` itself.
///
/// # Errors
/// What `write` returned or the file system said; neither names the path.
pub fn write_atomically<E: From<io::Error>>(
    path: &Path,
    write: impl FnOnce(&Path) -> Result<(), E>,
) -> Result<(), E> {
    if fs::metadata(path).is_ok_and(|meta| !meta.is_file()) {
        return write(path);
    }
    // Fails where nothing is there yet; a link to nothing is replaced.
    let path = &fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let partial = sibling(path)?;
    let result = write(&partial).and_then(|()| publish(&partial, path).map_err(E::from));
    if result.is_err() {
        // The first error is the one to report; a leftover is harmless.
        let _ = fs::remove_file(&partial);
    }
    result
}

/// [`write_atomically`] for bytes already in memory.
///
/// # Errors
/// What the file system said; it does not name the path.
pub fn write_bytes(path: &Path, bytes: &[u8]) -> io::Result<()> {
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

    #[cfg(unix)]
    #[test]
    fn links_and_what_is_no_file_stay() {
        use std::os::unix::fs::{FileTypeExt, symlink};
        use std::os::unix::net::UnixListener;
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("file"), folder.path().join("link"));
        write_bytes(&file, b"old").unwrap();
        symlink("file", &link).unwrap();
        write_bytes(&link, b"new").unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"new");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());

        // A socket stands for all that is no file: a failed test must not cost a device of the machine.
        let socket = folder.path().join("socket");
        let _listener = UnixListener::bind(&socket).unwrap();
        assert!(write_bytes(&socket, b"lost").is_err());
        assert!(fs::metadata(&socket).unwrap().file_type().is_socket());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
    }
}
