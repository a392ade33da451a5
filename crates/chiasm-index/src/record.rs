//! What an index knows of a vector.

use serde::{Deserialize, Serialize};

use crate::layout::text_hash;

/// What was embedded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A picture.
    Image,
    /// A text.
    Text,
    /// Frames of a clip.
    Clip,
}

impl Kind {
    /// The name in files, filters and answers.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Text => "text",
            Self::Clip => "clip",
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// The record beside a vector.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// What it is called; one record of an index has this key.
    pub key: String,
    /// What was embedded.
    pub kind: Kind,
    /// The text itself, or what is said of the picture. May be empty.
    pub text: String,
    /// Where the picture or clip lies, as a path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Digest of the content, whatever made it: an incremental run skips what has the same (see
    /// [`crate::Writer::contains`]).
    pub digest: String,
    /// Whatever else filters and answers should know.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    pub metadata: serde_json::Map<String, serde_json::Value>,
}

impl Record {
    /// What databases call the record of a key: the first 16 bytes of the key's blake3 digest, the same in every index.
    #[must_use]
    pub fn id_of(key: &str) -> [u8; 16] {
        text_hash(key)
    }
}
