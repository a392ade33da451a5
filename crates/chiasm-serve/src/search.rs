//! The index that a server searches: its records, and the pictures that they are about.

use std::path::Path;
use std::sync::{Arc, Mutex};

use chiasm_data::{ImageSource, SharedFile, thumbnail};
use chiasm_index::{Filter, Found, IndexError, Record, Search, Store};

use crate::error::ApiError;
use crate::queue::{ModelQueue, locked};

/// Records that are looked at to say which fields there are.
const LOOKED_AT: usize = 1000;

/// None of the server's models made the index.
#[derive(Debug, thiserror::Error)]
#[error("the index {place} was made by `{made_by}`, which is none of the server's models")]
pub struct CatalogueError {
    /// The index.
    pub place: String,
    /// What made it.
    pub made_by: String,
}

impl CatalogueError {
    /// How to go on.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        "name the model that made it as one of the models, or make the index again with `chiasm index`"
    }
}

/// An index and the model whose vectors it has.
pub(crate) struct Catalogue {
    model: Arc<ModelQueue>,
    /// Exchanged when it is read again; who searches keeps the one that was there.
    index: Mutex<Arc<dyn Store>>,
}

impl Catalogue {
    /// An index for the one of some models that made it.
    pub(crate) fn of(
        index: Box<dyn Store>,
        models: &[Arc<ModelQueue>],
    ) -> Result<Self, CatalogueError> {
        let made_by = index.identity();
        let model = models.iter().find(|model| {
            let card = model.card();
            card.fingerprint == made_by.fingerprint && card.dimensions == made_by.width
        });
        let model = model.ok_or_else(|| CatalogueError {
            place: index.place(),
            made_by: made_by.model.clone(),
        })?;
        Ok(Self {
            model: Arc::clone(model),
            index: Mutex::new(index.into()),
        })
    }

    /// Reads the index again, as far as it was written by now.
    pub(crate) fn reload(&self) -> Result<(), ApiError> {
        let again = self.index().reopen().map_err(failed)?;
        *locked(&self.index) = again.into();
        Ok(())
    }

    pub(crate) fn index(&self) -> Arc<dyn Store> {
        Arc::clone(&locked(&self.index))
    }

    /// The model whose vectors are searched.
    pub(crate) fn model(&self) -> &Arc<ModelQueue> {
        &self.model
    }

    /// Fields that filters can name, as far as the first records tell.
    pub(crate) fn fields(&self) -> Result<Vec<String>, ApiError> {
        let records = self.index().page(0, LOOKED_AT).map_err(failed)?;
        let names = records
            .into_iter()
            .flat_map(|record| record.metadata.into_iter());
        let fields: std::collections::BTreeSet<String> = names.map(|(name, _)| name).collect();
        Ok(fields.into_iter().collect())
    }

    /// The records nearest to a vector.
    pub(crate) fn search(
        &self,
        vector: &[f32],
        top: usize,
        filter: Option<&Filter>,
    ) -> Result<Vec<Found>, ApiError> {
        let search = Search {
            filter,
            ..Search::top(top)
        };
        let mut lists = self.index().find(vector, &search).map_err(failed)?;
        Ok(lists.pop().unwrap_or_default())
    }

    /// An item.
    pub(crate) fn record(&self, id: &str) -> Result<Record, ApiError> {
        let record = self.index().get(id).map_err(failed)?;
        record.ok_or_else(|| ApiError::NotFound(format!("the index has no item `{id}`")))
    }

    /// The encoded picture of an item. Which file that is says the index, never the request.
    pub(crate) fn picture(&self, id: &str) -> Result<Vec<u8>, ApiError> {
        let record = self.record(id)?;
        let none = || ApiError::NotFound(format!("the item `{id}` has no picture"));
        let address = record.source.as_deref().ok_or_else(none)?;
        let source = source_at(self.index().folder(), address);
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
        IndexError::Elsewhere { .. } => ApiError::Index(error.to_string()),
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
