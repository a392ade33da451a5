//! Texts about a picture in files of their own: `ocr/7.txt`, `ofa/7.txt`, as the ITR code keeps them.

use std::path::{Path, PathBuf};

use super::MAX_TEXT_CHARS;
use crate::dataset::{Annotations, read_capped};
use crate::error::DataError;

/// Texts are cut to this many characters (`specs/itr.md` section 2.1), Unicode scalars and not bytes.
const MAX_CHARS: usize = 140;

/// The first 140 characters.
pub(super) fn cut(text: &str) -> String {
    text.chars().take(MAX_CHARS).collect()
}

/// The folders with what machines said of pictures; either may be missing.
pub(super) struct Beside {
    ocr: Option<PathBuf>,
    captions: Option<PathBuf>,
}

impl Beside {
    pub(super) fn new(folder: &Path) -> Self {
        let there = |name: &str| Some(folder.join(name)).filter(|folder| folder.is_dir());
        Self {
            ocr: there("ocr"),
            captions: there("ofa").or_else(|| there("captions")),
        }
    }

    /// What is said of the picture `name`. A file that is missing says nothing; an empty one says that
    /// no words were found.
    ///
    /// # Errors
    /// A file that is there and cannot be read as text.
    pub(super) fn of(&self, name: &str) -> Result<Annotations, String> {
        let read = |folder: &Option<PathBuf>| match folder {
            Some(folder) => text(&folder.join(format!("{name}.txt"))),
            None => Ok(None),
        };
        let caption = read(&self.captions)?;
        Ok(Annotations {
            ocr: read(&self.ocr)?,
            caption: caption.filter(|caption| !caption.is_empty()),
            ..Annotations::default()
        })
    }
}

fn text(path: &Path) -> Result<Option<String>, String> {
    let bytes = match read_capped(path, 4 * MAX_TEXT_CHARS as u64) {
        Ok(bytes) => bytes,
        Err(DataError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            return Ok(None);
        }
        Err(DataError::Io { source, .. }) => {
            return Err(format!("`{}` cannot be read: {source}", path.display()));
        }
        Err(_) => return Err(format!("`{}` is too long for a text", path.display())),
    };
    let text = std::str::from_utf8(&bytes)
        .map_err(|_| format!("`{}` is not UTF-8 text", path.display()))?;
    Ok(Some(cut(text.trim_start_matches('\u{FEFF}').trim())))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// D5.
    #[test]
    fn characters_are_counted_and_not_bytes() {
        assert_eq!(cut(&"é".repeat(200)).chars().count(), 140);
        assert_eq!(cut("🦀🎉"), "🦀🎉");
    }
}
