//! What made a set of region features, and whether they are those that a model was trained on.
//!
//! A set that `chiasm regions extract` wrote says so in its manifest, `regions.json`; of other archives and
//! tables nothing is known but their dimension. Owns the description and the comparison; finding the regions of
//! a picture is [`super`]'s.

use std::collections::BTreeMap;
use std::path::Path;

use chiasm_format::shard::{self, Manifest, manifest_of};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Known, read};
use crate::error::DataError;

/// Name of a set of shards: `regions-000000.tar`, ..., and `regions.json`.
pub(super) const NAME: &str = "regions";

/// Provider of features that came as files.
pub const FILES: &str = "files";

/// What made region features.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RegionSet {
    /// Who found the boxes: `grid`, `detector`, or `files` where nobody says.
    pub provider: String,
    /// With which settings.
    #[serde(default)]
    pub settings: Value,
    /// The weights that took part, and the blake3 digest of each file (hexadecimal).
    #[serde(default)]
    pub weights: BTreeMap<String, String>,
    /// Numbers of a feature.
    pub dim: usize,
    /// Names of the object classes by id; empty when regions have none.
    #[serde(default)]
    pub objects: Vec<String>,
    /// Names of the attributes by id; empty when regions have none.
    #[serde(default)]
    pub attributes: Vec<String>,
}

/// As much of a [`RegionSet`] as a model keeps, to know its features again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegionIdentity {
    /// Who found the boxes.
    pub provider: String,
    /// Numbers of a feature.
    pub dim: usize,
    /// [`RegionSet::hash`].
    pub hash: String,
}

impl RegionSet {
    /// Features that came as files of which nothing else is known.
    pub fn of_files(dim: usize) -> Self {
        Self {
            provider: FILES.to_owned(),
            dim,
            ..Self::default()
        }
    }

    /// What is known of the features at a path: a set, a folder of archives, or a table.
    ///
    /// # Errors
    /// If there are none, or the first cannot be read.
    pub fn look(path: &Path) -> Result<Self, DataError> {
        if let Some(manifest) = manifest(path)? {
            return Self::of_manifest(path, &manifest);
        }
        let known = Known::look(path)?;
        let (_, first) = known.sources.first().ok_or_else(|| super::nothing(path))?;
        Ok(Self::of_files(read(first)?.dim))
    }

    pub(super) fn of_manifest(path: &Path, manifest: &Manifest) -> Result<Self, DataError> {
        let about = manifest.options.settings.get("regions");
        let about = about.cloned().unwrap_or_default();
        serde_json::from_value(about).map_err(|error| DataError::Regions {
            origin: path.display().to_string(),
            reason: format!("its manifest does not say what made the features: {error}"),
            hint: None,
        })
    }

    /// A blake3 digest (hexadecimal) of everything here: equal for features that belong together.
    pub fn hash(&self) -> String {
        // A map of JSON is in the order of its keys.
        let text = json!(self).to_string();
        blake3::hash(text.as_bytes()).to_hex().to_string()
    }

    /// What a model keeps.
    pub fn identity(&self) -> RegionIdentity {
        RegionIdentity {
            provider: self.provider.clone(),
            dim: self.dim,
            hash: self.hash(),
        }
    }

    /// The set whose place this one takes, where its features are made alike and only its boxes are given.
    fn stands_for(&self) -> Option<RegionIdentity> {
        let other = self.settings.get("stands_for")?;
        serde_json::from_value(other.clone()).ok()
    }

    /// Compares features with those that a model was trained on, or that they stand in for; `path` is where
    /// these are.
    ///
    /// # Errors
    /// Another dimension, provider, or weights and settings of it; the hint says what to do.
    pub fn require(&self, expected: &RegionIdentity, path: &Path) -> Result<(), DataError> {
        let found = self.identity();
        if found == *expected || self.stands_for().as_ref() == Some(expected) {
            return Ok(());
        }
        Err(DataError::RegionsDiffer {
            path: path.to_owned(),
            found: Box::new(found),
            expected: Box::new(expected.clone()),
        })
    }
}

impl RegionIdentity {
    /// What differs, the weightiest first, for a message.
    pub(crate) fn difference(&self, expected: &Self) -> String {
        if self.dim != expected.dim {
            return format!(
                "region features have {} dimensions, the model expects {}",
                self.dim, expected.dim
            );
        }
        if self.provider != expected.provider {
            return format!(
                "region features are of the provider `{}`, the model was trained on those of `{}`",
                self.provider, expected.provider
            );
        }
        let short = |hash: &str| hash.get(..12).unwrap_or(hash).to_owned();
        format!(
            "region features were made with other weights or settings of `{}` ({}) than those that the model was trained on ({})",
            self.provider,
            short(&self.hash),
            short(&expected.hash)
        )
    }

    /// How to come by features of this identity.
    pub(crate) fn how_to_make(&self) -> String {
        match self.provider.as_str() {
            FILES => format!(
                "name the features of {} dimensions that the model was trained on with `--regions`, or train a model on these",
                self.dim
            ),
            provider => format!(
                "run `chiasm regions extract DATA --provider {provider} --out REGIONS` with the weights and settings of the model's features (`chiasm regions inspect` prints those of a set), then pass `--regions REGIONS`; or train a model on these"
            ),
        }
    }
}

/// The manifest of a finished set at a path, its folder or the manifest itself; `None` where there is no set.
///
/// # Errors
/// A set that was begun and not finished, or a manifest that cannot be read.
pub fn manifest(path: &Path) -> Result<Option<Manifest>, DataError> {
    let folder = folder_of(path);
    if !folder.is_dir() {
        return Ok(None);
    }
    let found = manifest_of(folder, NAME)?;
    if found.is_none() && folder.join(format!(".{NAME}.settings.json")).is_file() {
        return Err(DataError::Regions {
            origin: folder.display().to_string(),
            reason: "the set was begun and not finished".to_owned(),
            hint: Some(
                "run the `chiasm regions extract` that began it again; it goes on".to_owned(),
            ),
        });
    }
    Ok(found)
}

/// Reads all shards of a set and compares them with the hashes of its manifest. Archives that are files of their
/// own have no hash but the checksum of each array.
///
/// # Errors
/// The first shard that is missing or is not as it was written.
pub fn verify(path: &Path, manifest: &Manifest) -> Result<(), DataError> {
    Ok(shard::verify(folder_of(path), manifest)?)
}

/// The folder of a set, which may be named by its manifest.
pub(super) fn folder_of(path: &Path) -> &Path {
    match path.file_name() {
        Some(name) if name == "regions.json" => path.parent().unwrap_or(Path::new("")),
        _ => path,
    }
}
