//! What can be wrong with a file, as data.
//!
//! Messages say what is wrong and where; what to do about it is [`FormatError::hint`], so that the
//! command line and a server can render it in their own way.

use std::path::{Path, PathBuf};

/// Any error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// A file or folder could not be read or written.
    #[error("cannot access `{}`: {source}", path.display())]
    Io {
        /// The path that was being read or written.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// Something is wrong inside a file.
    #[error("`{}`: {source}", path.display())]
    InFile {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        source: Box<Self>,
    },
    /// Bytes that are not what their format says.
    #[error("damaged {format} at {place}: {message}")]
    Damaged {
        /// The format, in words.
        format: &'static str,
        /// Offset, line, member or tensor.
        place: String,
        /// What is wrong there.
        message: String,
    },
    /// More than a cap allows. Nothing was allocated for it.
    #[error("{what}: {found}, more than the cap {cap}")]
    TooLarge {
        /// What was measured, with its unit.
        what: String,
        /// How much the file asks for.
        found: u64,
        /// The cap.
        cap: u64,
    },
    /// A pickle names code that is not on the list of tensors and containers. Nothing was run.
    #[error(
        "the pickle asks for `{module}.{name}`, which is not a tensor or a container\n  at: byte {offset} of the pickle"
    )]
    Global {
        /// Python module.
        module: String,
        /// Name in it.
        name: String,
        /// Where in the pickle.
        offset: u64,
    },
    /// A thing that is what it says, but that this program does not read.
    #[error("{what}")]
    Unsupported {
        /// What it is, as a sentence without a period.
        what: String,
        /// What to do instead.
        hint: &'static str,
    },
    /// A tensor that is asked for and is not in the file.
    #[error("there is no tensor `{name}` among the {count} tensors")]
    NoTensor {
        /// The name that was asked for.
        name: String,
        /// How many there are.
        count: usize,
    },
}

impl FormatError {
    /// What to do about it, when there is something to say.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::InFile { source, .. } => source.hint(),
            Self::Unsupported { hint, .. } => Some(hint),
            Self::Damaged { .. } => {
                Some("get the file again and compare its size with the published one")
            }
            Self::Global { .. } => Some(
                "if you trust where the file comes from, load it in Python and save its tensors alone: \
                 `torch.save(model.state_dict(), path)`, or `safetensors.torch.save_file`",
            ),
            Self::Io { .. } | Self::TooLarge { .. } | Self::NoTensor { .. } => None,
        }
    }

    /// The same error with the file it concerns. An error that names a path already keeps it.
    #[must_use]
    pub fn in_file(self, path: &Path) -> Self {
        match self {
            Self::Io { .. } | Self::InFile { .. } => self,
            other => Self::InFile {
                path: path.to_owned(),
                source: Box::new(other),
            },
        }
    }

    /// What the system said about `path`.
    pub fn io(path: &Path, source: std::io::Error) -> Self {
        Self::Io {
            path: path.to_owned(),
            source,
        }
    }

    /// Bytes that are not what their format says.
    pub fn damaged(
        format: &'static str,
        place: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        Self::Damaged {
            format,
            place: place.into(),
            message: message.into(),
        }
    }
}

/// Refuses `found` of `what` above `cap`.
pub(crate) fn check_cap(what: impl Into<String>, found: u64, cap: u64) -> Result<(), FormatError> {
    if found <= cap {
        return Ok(());
    }
    Err(FormatError::TooLarge {
        what: what.into(),
        found,
        cap,
    })
}

/// A name out of a file as it may stand in a message: one line, no control characters, short.
pub(crate) fn shown(name: &str) -> String {
    const LONGEST: usize = 120;
    let mut shown: String = name
        .chars()
        .take(LONGEST)
        .flat_map(char::escape_debug)
        .collect();
    if name.chars().nth(LONGEST).is_some() {
        shown.push('…');
    }
    shown
}
