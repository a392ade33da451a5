//! The index that a server searches: its records, and the pictures that they are about.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use chiasm_data::{ImageSource, SharedFile, thumbnail};
use chiasm_index::{Filter, Hit, Index, IndexError, Record};

use crate::error::ApiError;
use crate::queue::{ModelQueue, locked};

/// Records that are looked at to say which fields there are.
const LOOKED_AT: usize = 1000;

/// Why an index cannot be searched.
#[derive(Debug, thiserror::Error)]
pub enum CatalogueError {
    /// It cannot be opened.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// None of the server's models made it.
    #[error("the index {} was made by `{made_by}`, which is none of the server's models", folder.display())]
    OtherModel {
        /// The index.
        folder: PathBuf,
        /// What made it.
        made_by: String,
    },
}

impl CatalogueError {
    /// How to go on, where that can be said.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Index(error) => error.hint().map(str::to_owned),
            Self::OtherModel { .. } => Some(
                "name the model that made it as one of the models, or make the index again with \
                 `chiasm index`"
                    .to_owned(),
            ),
        }
    }
}

/// An index and the model whose vectors it has.
pub(crate) struct Catalogue {
    folder: PathBuf,
    model: Arc<ModelQueue>,
    /// Exchanged when it is read again; who searches keeps the one that was there.
    index: Mutex<Arc<Index>>,
}

impl Catalogue {
    /// Opens an index for the one of some models that made it.
    pub(crate) fn open(folder: &Path, models: &[Arc<ModelQueue>]) -> Result<Self, CatalogueError> {
        let index = Index::open(folder)?;
        let made_by = index.identity();
        let model = models.iter().find(|model| {
            let card = model.card();
            card.fingerprint == made_by.fingerprint && card.dimensions == made_by.width
        });
        let model = model.ok_or_else(|| CatalogueError::OtherModel {
            folder: folder.to_owned(),
            made_by: made_by.model.clone(),
        })?;
        Ok(Self {
            folder: folder.to_owned(),
            model: Arc::clone(model),
            index: Mutex::new(Arc::new(index)),
        })
    }

    /// Reads the index again, as far as it was written by now.
    pub(crate) fn reload(&self) -> Result<Arc<Index>, ApiError> {
        let current = self.index();
        let again = Index::open_for(&self.folder, current.identity()).map_err(failed)?;
        let again = Arc::new(again);
        *locked(&self.index) = Arc::clone(&again);
        Ok(again)
    }

    pub(crate) fn index(&self) -> Arc<Index> {
        Arc::clone(&locked(&self.index))
    }

    /// The model whose vectors are searched.
    pub(crate) fn model(&self) -> &Arc<ModelQueue> {
        &self.model
    }

    /// Fields that filters can name, as far as the first records tell.
    pub(crate) fn fields(&self) -> Result<Vec<String>, ApiError> {
        let index = self.index();
        let mut fields = std::collections::BTreeSet::new();
        for row in index.live_rows().take(LOOKED_AT) {
            fields.extend(
                index
                    .record(row)
                    .map_err(failed)?
                    .metadata
                    .into_iter()
                    .map(|(name, _)| name),
            );
        }
        Ok(fields.into_iter().collect())
    }

    /// The records nearest to a vector.
    pub(crate) fn search(
        &self,
        vector: &[f32],
        top: usize,
        filter: Option<&Filter>,
    ) -> Result<Vec<(Hit, Record)>, ApiError> {
        let index = self.index();
        let hits = index.search(vector, top, filter).map_err(failed)?;
        hits.into_iter()
            .map(|hit| {
                let record = index.record(hit.row).map_err(failed)?;
                Ok((hit, record))
            })
            .collect()
    }

    /// An item.
    pub(crate) fn record(&self, id: &str) -> Result<Record, ApiError> {
        let index = self.index();
        let row = index.row_of(id).map_err(failed)?;
        let row = row.ok_or_else(|| ApiError::NotFound(format!("the index has no item `{id}`")))?;
        index.record(row).map_err(failed)
    }

    /// The encoded picture of an item. Which file that is says the index, never the request.
    pub(crate) fn picture(&self, id: &str) -> Result<Vec<u8>, ApiError> {
        let record = self.record(id)?;
        let none = || ApiError::NotFound(format!("the item `{id}` has no picture"));
        let source = source_at(&self.folder, record.source.as_deref().ok_or_else(none)?);
        let bytes = source.read().map_err(|error| {
            ApiError::NotFound(format!(
                "the picture of `{id}` cannot be read any more: {error}"
            ))
        })?;
        Ok(bytes.into_owned())
    }

    /// A PNG of an item's picture whose longer side has `side` pixels at most.
    pub(crate) fn thumbnail(&self, id: &str, side: usize) -> Result<Vec<u8>, ApiError> {
        let bytes = self.picture(id)?;
        thumbnail(&bytes, side).map_err(|error| {
            ApiError::NotFound(format!("the picture of `{id}` cannot be used: {error}"))
        })
    }
}

/// What an index reports, for who asks.
pub(crate) fn failed(error: IndexError) -> ApiError {
    match error {
        IndexError::Filter { .. } => {
            let hint = error
                .hint()
                .map_or_else(String::new, |hint| format!("; {hint}"));
            ApiError::field("filter", format!("{error}{hint}"))
        }
        error => ApiError::Failed(error.to_string()),
    }
}

/// Where a picture lies, as an index keeps it: a path that names the same from every folder, and of a part
/// of a file where in it. `None` of what is no file.
#[must_use]
pub fn address(source: &ImageSource) -> Option<String> {
    match source {
        ImageSource::Path(path) => absolute(path),
        ImageSource::Part { file, offset, len } => {
            Some(format!("{}#{offset}+{len}", absolute(file.path())?))
        }
        ImageSource::Static(_) | ImageSource::Bytes(_) | ImageSource::Drawn(_) => None,
    }
}

fn absolute(path: &Path) -> Option<String> {
    let absolute = std::path::absolute(path).ok()?;
    Some(absolute.to_str()?.to_owned())
}

/// The picture at an address; one that is relative lies in the index's folder.
#[must_use]
pub fn source_at(folder: &Path, address: &str) -> ImageSource {
    let part = address.rsplit_once('#').and_then(|(path, part)| {
        let (offset, len) = part.split_once('+')?;
        Some((path, offset.parse().ok()?, len.parse().ok()?))
    });
    match part {
        Some((path, offset, len)) => ImageSource::Part {
            file: SharedFile::on_demand(&folder.join(path)),
            offset,
            len,
        },
        None => ImageSource::Path(folder.join(address)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_leads_back() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a#b.bin");
        std::fs::write(&file, b"0123456789").unwrap();
        let path = ImageSource::Path(file.clone());
        let part = ImageSource::Part {
            file: SharedFile::on_demand(&file),
            offset: 2,
            len: 3,
        };
        for (source, bytes) in [(path, &b"0123456789"[..]), (part, b"234")] {
            let address = address(&source).unwrap();
            assert_eq!(
                &*source_at(Path::new("/nowhere"), &address).read().unwrap(),
                bytes
            );
        }
        assert!(address(&ImageSource::Static(b"")).is_none());
        let own = source_at(folder.path(), "a#b.bin");
        assert_eq!(&*own.read().unwrap(), b"0123456789");
    }
}
