//! An index that outgrows its folder: in a table of PostgreSQL with pgvector, or in a collection of Qdrant.
//!
//! [`push`] makes a database equal to a folder; [`open`] gives what searches it, a [`Store`] as the folder is one.
//! This crate owns the addresses ([`Address`]), how records lie in each database, and how filters are said there. What
//! an index is and what a filter means is `chiasm-index`'s.
//!
//! | of an index | in PostgreSQL | in Qdrant |
//! | --- | --- | --- |
//! | a record | a row | a point |
//! | what made the vectors | a table of one row beside it | a collection of one point beside it |
//! | its number | the first 16 bytes of the digest of its key, so that a push can be repeated | the same |
//! | a filter | a condition of SQL | conditions on a nested payload; what Qdrant cannot compare is looked at here |
//! | approximate search | HNSW of pgvector, from as many records on as in a folder | its own HNSW |

mod about;
mod address;
mod error;
mod postgres;
mod push;
mod qdrant;
mod row;

pub use address::{Address, PostgresAddress, QdrantAddress};
pub use error::RemoteError;
pub use push::{PushOptions, Pushed, Step};

use chiasm_index::{Index, Store};

/// Opens an index that was pushed.
///
/// # Errors
/// A database that cannot be reached, does not let us in, or has no index there.
pub fn open(address: &Address) -> Result<Box<dyn Store>, RemoteError> {
    Ok(match address {
        Address::Postgres(own) => Box::new(postgres::PostgresStore::open(own)?),
        Address::Qdrant(own) => Box::new(qdrant::QdrantStore::open(own)?),
    })
}

/// Makes a database equal to an index. What arrived before, in a push that was stopped too, is not sent again.
///
/// # Errors
/// A database that cannot be reached, does not let us in, lacks what is needed, holds something else under this name,
/// or does not have what was sent; a record that is damaged.
pub fn push(
    index: &Index,
    address: &Address,
    options: PushOptions,
    on: &mut dyn FnMut(Step),
) -> Result<Pushed, RemoteError> {
    match address {
        Address::Postgres(own) => push::push(
            index,
            &mut postgres::PostgresTarget::open(own)?,
            options,
            on,
        ),
        Address::Qdrant(own) => {
            push::push(index, &mut qdrant::QdrantTarget::open(own)?, options, on)
        }
    }
}
