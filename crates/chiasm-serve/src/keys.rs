//! Keys of those who may ask: hashed at rest, compared in constant time.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chiasm_format::atomic;
use serde::{Deserialize, Serialize};

/// What every key begins with, so that one that leaked is recognised.
const PREFIX: &str = "chiasm-";

/// Random bytes of a key: nobody guesses 256 bits, so a fast digest is enough to keep it.
const KEY_BYTES: usize = 32;

/// Largest file of keys that is read.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// What a key is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Everything that reads: models, search, explanations.
    Read,
    /// Reading, and what concerns the server: metrics, reloading the index.
    Admin,
}

/// A key as it is kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    /// Whose it is.
    name: String,
    scope: Scope,
    /// blake3 of the key, in hexadecimal digits.
    hash: String,
}

/// The keys that a server knows.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keys {
    keys: Vec<Kept>,
}

/// Why a file of keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read or written.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// It is not a file of keys.
    #[error("not a file of keys: {0}; make one with `chiasm serve --new-key NAME --keys FILE`")]
    Damaged(String),
    /// A name twice.
    #[error("there is a key `{0}` already; take another name, or remove its entry from the file")]
    Known(String),
}

impl Keys {
    /// Reads a file of keys.
    ///
    /// # Errors
    /// A file that is not there, or that is none of keys.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        let bytes = std::fs::metadata(path)?.len();
        if bytes > MAX_FILE_BYTES {
            return Err(KeyError::Damaged(format!("it has {bytes} bytes")));
        }
        let keys: Self = serde_json::from_slice(&std::fs::read(path)?)
            .map_err(|error| KeyError::Damaged(error.to_string()))?;
        match keys
            .keys
            .iter()
            .find(|key| blake3::Hash::from_hex(&key.hash).is_err())
        {
            Some(key) => Err(KeyError::Damaged(format!(
                "the hash of `{}` is none",
                key.name
            ))),
            None => Ok(keys),
        }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Makes a key and writes the file. The key is returned, and kept nowhere.
    ///
    /// # Errors
    /// A name that is there already, or a file that cannot be written.
    pub fn add(&mut self, name: &str, scope: Scope, path: &Path) -> Result<String, KeyError> {
        if self.keys.iter().any(|key| key.name == name) {
            return Err(KeyError::Known(name.to_owned()));
        }
        let mut bytes = [0_u8; KEY_BYTES];
        getrandom::fill(&mut bytes).map_err(std::io::Error::from)?;
        let key = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes));
        self.keys.push(Kept {
            name: name.to_owned(),
            scope,
            hash: blake3::hash(key.as_bytes()).to_hex().to_string(),
        });
        let text = serde_json::to_string_pretty(self)
            .map_err(|error| KeyError::Damaged(error.to_string()))?;
        atomic::write_bytes(path, text.as_bytes())?;
        Ok(key)
    }

    /// What a key is good for; none of one that is not known. Every key is compared, each in constant
    /// time: how long it takes says nothing about which fits.
    #[must_use]
    pub fn scope(&self, key: &str) -> Option<Scope> {
        let given = blake3::hash(key.as_bytes());
        let mut found = None;
        for kept in &self.keys {
            // `blake3::Hash` compares in constant time.
            if blake3::Hash::from_hex(&kept.hash).is_ok_and(|hash| hash == given) {
                found = Some(kept.scope);
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_known_by_its_hash_alone() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("keys.json");
        let mut keys = Keys::default();
        let reader = keys.add("page", Scope::Read, &file).unwrap();
        let admin = keys.add("me", Scope::Admin, &file).unwrap();
        assert_ne!(reader, admin);
        assert!(matches!(
            keys.add("me", Scope::Read, &file),
            Err(KeyError::Known(_))
        ));
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(!text.contains(&reader) && !text.contains(&admin));
        let again = Keys::read(&file).unwrap();
        assert_eq!(again.scope(&reader), Some(Scope::Read));
        assert_eq!(again.scope(&admin), Some(Scope::Admin));
        assert_eq!(again.scope(&reader[1..]), None);
        assert_eq!(again.scope(""), None);
    }

    #[test]
    fn other_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("keys.json");
        assert!(matches!(Keys::read(&file), Err(KeyError::Io(_))));
        for text in [
            "",
            "{}",
            "{\"keys\": 3}",
            "{\"keys\":[{\"name\":\"a\",\"scope\":\"read\",\"hash\":\"xyz\"}]}",
        ] {
            std::fs::write(&file, text).unwrap();
            assert!(
                matches!(Keys::read(&file), Err(KeyError::Damaged(_))),
                "{text}"
            );
        }
    }
}
