//! What a database is told of an index beside its records.

use std::path::PathBuf;

use chiasm_index::Identity;
use serde::{Deserialize, Serialize};

use crate::error::RemoteError;

/// Version of how records are laid out in every database.
pub(crate) const FORMAT: u32 = 1;
/// How vectors are compared: they have length 1, so that this is the cosine.
pub(crate) const METRIC: &str = "inner product";

/// The index as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct About {
    pub(crate) format: u32,
    #[serde(flatten)]
    pub(crate) identity: Identity,
    pub(crate) metric: String,
    /// Where the index lay that was pushed: sources that are relative are so to it.
    pub(crate) folder: PathBuf,
    /// Its records.
    pub(crate) items: usize,
    /// Whether the last push came to its end.
    pub(crate) complete: bool,
    /// Whether there is an index for approximate search.
    pub(crate) graph: bool,
}

impl About {
    /// Refuses vectors of another model than these.
    ///
    /// # Errors
    /// The two models.
    pub(crate) fn require(&self, asked: &Identity, place: &str) -> Result<(), RemoteError> {
        if self.identity.matches(asked) {
            return Ok(());
        }
        Err(RemoteError::OtherModel {
            place: place.to_owned(),
            found: Box::new(self.identity.clone()),
            asked: Box::new(asked.clone()),
        })
    }

    /// What whoever searches should know.
    pub(crate) fn notice(&self, place: &str) -> Option<String> {
        (!self.complete).then(|| {
            format!("a push to {place} has begun and not ended: records may be missing, or be older ones")
        })
    }
}
