//! An index wherever it lies: in its folder, or in a database that it was pushed to.

use std::fmt;
use std::path::Path;

use crate::error::IndexError;
use crate::layout::Identity;
use crate::reader::Index;
use crate::record::Record;
use crate::search::Search;

/// A record that was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// What is known of it.
    pub record: Record,
    /// Cosine of query and record.
    pub score: f32,
}

/// What searching needs of an index. [`Index`] is the folder; databases are above this crate.
///
/// Every store answers alike: the same scores but for rounding, the same filters, hits best first, equal scores in the
/// order in which the records were added. An approximate search may miss near records anywhere.
pub trait Store: Send + Sync + fmt::Debug {
    /// What made the vectors.
    fn identity(&self) -> &Identity;

    /// Where it lies, for people. Has no password.
    fn place(&self) -> String;

    /// What the sources of records are relative to, where they are relative.
    fn folder(&self) -> &Path;

    /// How many records it had when it was opened.
    fn len(&self) -> usize;

    /// Whether it had no record.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether a search may miss near records.
    fn is_approximate(&self) -> bool;

    /// What whoever searches should know, such as that it is not complete yet.
    fn notice(&self) -> Option<String> {
        None
    }

    /// The nearest records of some queries, `[queries, width]`, one list a query.
    ///
    /// # Errors
    /// A query that has no nearest vectors; an index that is damaged or cannot be reached.
    fn find(&self, queries: &[f32], search: &Search<'_>) -> Result<Vec<Vec<Found>>, IndexError>;

    /// A record by its key.
    ///
    /// # Errors
    /// An index that is damaged or cannot be reached.
    fn get(&self, key: &str) -> Result<Option<Record>, IndexError>;

    /// Records in the order in which they were added: `limit` after the first `offset`.
    ///
    /// # Errors
    /// An index that is damaged or cannot be reached.
    fn page(&self, offset: usize, limit: usize) -> Result<Vec<Record>, IndexError>;

    /// The same index as it is by now, if the same model made it.
    ///
    /// # Errors
    /// As [`Index::open_for`]; an index that cannot be reached.
    fn reopen(&self) -> Result<Box<dyn Store>, IndexError>;

    /// Makes sure that this model made it.
    ///
    /// # Errors
    /// [`IndexError::OtherModel`].
    fn check_model(&self, asked: &Identity) -> Result<(), IndexError> {
        same_model(self.place(), self.identity(), asked)
    }
}

impl Store for Index {
    fn identity(&self) -> &Identity {
        self.identity()
    }

    fn place(&self) -> String {
        self.folder().display().to_string()
    }

    fn folder(&self) -> &Path {
        self.folder()
    }

    fn len(&self) -> usize {
        self.len()
    }

    fn is_approximate(&self) -> bool {
        self.graph_rows().is_some()
    }

    fn find(&self, queries: &[f32], search: &Search<'_>) -> Result<Vec<Vec<Found>>, IndexError> {
        let found = |hit: crate::search::Hit| {
            Ok(Found {
                record: self.record(hit.row)?,
                score: hit.score,
            })
        };
        let lists = self.search_all(queries, search)?.into_iter();
        lists
            .map(|hits| hits.into_iter().map(found).collect())
            .collect()
    }

    fn get(&self, key: &str) -> Result<Option<Record>, IndexError> {
        self.row_of(key)?.map(|row| self.record(row)).transpose()
    }

    fn page(&self, offset: usize, limit: usize) -> Result<Vec<Record>, IndexError> {
        let rows = self.live_rows().skip(offset).take(limit);
        rows.map(|row| self.record(row)).collect()
    }

    fn reopen(&self) -> Result<Box<dyn Store>, IndexError> {
        let again = Self::open_for(self.folder(), self.identity())?;
        Ok(Box::new(again))
    }
}

/// Makes sure that what made an index is what is asked for.
///
/// # Errors
/// [`IndexError::OtherModel`].
pub fn same_model(place: String, found: &Identity, asked: &Identity) -> Result<(), IndexError> {
    if found.matches(asked) {
        return Ok(());
    }
    Err(IndexError::OtherModel {
        place,
        found: Box::new(found.clone()),
        asked: Box::new(asked.clone()),
    })
}
