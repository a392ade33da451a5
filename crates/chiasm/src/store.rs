//! An index wherever it lies: a folder, or a database behind an address.

use std::path::Path;

use chiasm_index::{Index, Store};
use chiasm_remote::Address;

use crate::error::CliError;
use crate::output::note;

/// The address of a database, where that is what was typed.
pub(crate) fn address(typed: &Path) -> Result<Option<Address>, CliError> {
    match typed.to_str().filter(|text| Address::is_meant(text)) {
        Some(text) => Ok(Some(text.parse()?)),
        None => Ok(None),
    }
}

/// Whether an index was typed, rather than a model.
pub(crate) fn is_at(typed: &Path) -> bool {
    typed.to_str().is_some_and(Address::is_meant) || Index::is_at(typed)
}

/// Opens an index.
pub(crate) fn open(typed: &Path) -> Result<Box<dyn Store>, CliError> {
    let store: Box<dyn Store> = match address(typed)? {
        Some(address) => chiasm_remote::open(&address)?,
        None => Box::new(Index::open(typed)?),
    };
    if let Some(notice) = store.notice() {
        note(&notice);
    }
    Ok(store)
}
