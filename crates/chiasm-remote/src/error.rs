//! What can be wrong with a database, as data.

use chiasm_index::{Identity, IndexError};

/// Any error of this crate. No text of it has a password or a key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RemoteError {
    /// An address that cannot be read.
    #[error("the address `{text}` cannot be read: {reason}")]
    Address {
        /// As far as it can be shown.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Nobody answers.
    #[error("cannot reach `{place}`: {reason}")]
    Unreachable {
        /// The address.
        place: String,
        /// What the system says.
        reason: String,
    },
    /// The connection cannot be encrypted as asked.
    #[error("cannot encrypt the connection to `{place}`: {reason}")]
    Tls {
        /// The address.
        place: String,
        /// Why.
        reason: String,
    },
    /// The database does not let us in.
    #[error("`{place}` refuses the user: {reason}")]
    Login {
        /// The address.
        place: String,
        /// What it says.
        reason: String,
        /// Where what it wants is given.
        hint: &'static str,
    },
    /// The user may not do this.
    #[error("`{place}` does not allow it: {reason}")]
    Denied {
        /// The address.
        place: String,
        /// What it says.
        reason: String,
    },
    /// The server has no such database.
    #[error("`{place}` is not there: {reason}")]
    NoDatabase {
        /// The address.
        place: String,
        /// What it says.
        reason: String,
    },
    /// PostgreSQL lacks pgvector.
    #[error("`{place}` has no pgvector: {reason}")]
    NoVectors {
        /// The address.
        place: String,
        /// What it says.
        reason: String,
    },
    /// Nothing was pushed there.
    #[error("`{place}` has no index")]
    NoIndex {
        /// The address.
        place: String,
    },
    /// There is something that no push made.
    #[error("`{place}` is there and is no index of chiasm: {reason}")]
    NotOurs {
        /// The address.
        place: String,
        /// What tells.
        reason: String,
    },
    /// An index of a layout that this program does not know.
    #[error("`{place}` has format {found}, this program reads {known}")]
    Format {
        /// The address.
        place: String,
        /// Its format.
        found: u32,
        /// What is known here.
        known: u32,
    },
    /// Another model made what is there.
    #[error("`{place}` has vectors of another model\n  there: {found}\n  index: {asked}")]
    OtherModel {
        /// The address.
        place: String,
        /// What made what is there.
        found: Box<Identity>,
        /// What made the index that is pushed.
        asked: Box<Identity>,
    },
    /// What is there was replaced while it was searched.
    #[error("`{place}` was replaced by vectors of another model since it was opened")]
    Replaced {
        /// The address.
        place: String,
    },
    /// Vectors that the database cannot keep.
    #[error("`{place}` keeps vectors of at most {most} numbers, these have {width}")]
    TooWide {
        /// The address.
        place: String,
        /// Numbers of a vector.
        width: usize,
        /// What it takes.
        most: usize,
    },
    /// Another push is under way.
    #[error("another process pushes to `{place}`")]
    Busy {
        /// The address.
        place: String,
    },
    /// The connection went away.
    #[error("lost the connection to `{place}`: {reason}")]
    Lost {
        /// The address.
        place: String,
        /// What the system says.
        reason: String,
    },
    /// What arrived is not what was sent.
    #[error(
        "`{place}` does not have what was pushed: {found} records of {wanted} are as they should be"
    )]
    Differs {
        /// The address.
        place: String,
        /// Records that are right.
        found: usize,
        /// Records of the index.
        wanted: usize,
    },
    /// The database says no to something else.
    #[error("`{place}` failed: {reason}")]
    Database {
        /// The address.
        place: String,
        /// What it says.
        reason: String,
    },
    /// The system failed.
    #[error("{0}")]
    System(String),
    /// The index that is pushed, or a query.
    #[error(transparent)]
    Index(#[from] IndexError),
}

impl RemoteError {
    /// What the person can do about it, when there is something to do.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Address { .. } => Some(
                "write postgres://user@host/database?table=NAME, qdrant://host/COLLECTION or \
                 qdrant+https://host/COLLECTION",
            ),
            Self::Unreachable { .. } => {
                Some("see whether the server runs, and check host and port of the address")
            }
            Self::Tls { .. } => Some(
                "name the certificate of a private authority with `sslrootcert=FILE`, or go without with \
                 `sslmode=disable`",
            ),
            Self::Login { hint, .. } => Some(hint),
            Self::Denied { .. } => {
                Some("give the user the right to do this, or use an address of a user who has it")
            }
            Self::NoDatabase { .. } => Some("make the database, or check its name"),
            Self::NoVectors { .. } => Some(
                "install pgvector on the server, and let a user who may do so run `CREATE EXTENSION vector`",
            ),
            Self::NoIndex { .. } => {
                Some("fill it with `chiasm index push INDEX --to ADDRESS`, or check its name")
            }
            Self::NotOurs { .. } => Some("choose another name"),
            Self::Format { .. } => {
                Some("use the program that pushed it, or push again with `--replace`")
            }
            Self::OtherModel { .. } => {
                Some("choose another name, or throw away what is there with `--replace`")
            }
            Self::Replaced { .. } => Some("open it again with the model that made it"),
            Self::TooWide { .. } => Some("search the folder of the index"),
            Self::Busy { .. } => Some("wait until it has ended; searching is possible meanwhile"),
            Self::Lost { .. } => Some(
                "see whether the server runs, then run the same command again: a push goes on after what has arrived",
            ),
            Self::Differs { .. } => {
                Some("something else writes there; push again once it has stopped")
            }
            Self::Index(error) => error.hint(),
            Self::Database { .. } | Self::System(_) => None,
        }
    }
}

impl From<RemoteError> for IndexError {
    fn from(error: RemoteError) -> Self {
        match error {
            RemoteError::Index(error) => error,
            error => Self::Elsewhere {
                hint: error.hint().map(str::to_owned),
                source: Box::new(error),
            },
        }
    }
}
