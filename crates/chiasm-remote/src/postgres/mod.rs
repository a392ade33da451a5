//! PostgreSQL with pgvector: a table of records beside a table of one row that says what they are.
//!
//! ```text
//! NAME            id uuid, place bigint, mark bigint, record json, fields jsonb, embedding vector(width)
//! NAME_about      what made the vectors, where the folder lay, how many there are, whether the last push ended
//! ```
//!
//! `embedding` has length 1, so that the negative inner product, which pgvector calls `<#>`, orders as the cosine does.
//! `record` is for answers, `fields` for filters. Nothing else of a database is touched.

mod condition;
mod connect;
mod store;
mod target;
mod tls;

pub(crate) use store::PostgresStore;
pub(crate) use target::PostgresTarget;

use std::path::PathBuf;

use chiasm_index::Identity;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Row};

use crate::about::{About, FORMAT};
use crate::address::PostgresAddress;
use crate::error::RemoteError;
use connect::said;

/// Most numbers of a `vector`.
const MAX_WIDTH: usize = 16_000;
/// Most numbers of a `vector` in an index for approximate search.
const GRAPH_WIDTH: usize = 2_000;
/// Most numbers of a `halfvec` in one.
const HALF_GRAPH_WIDTH: usize = 4_000;

/// Names of the tables, in quotes.
#[derive(Clone, Debug)]
struct Tables {
    records: String,
    about: String,
    /// Of indexes, which lie in the schema of their table.
    graph: String,
    fields: String,
    order: String,
    schema: Option<String>,
}

impl Tables {
    fn of(address: &PostgresAddress) -> Self {
        // Names have letters, digits, `_` and `-` alone: see `address.rs`.
        let name = &address.table;
        let schema = address.schema.as_ref().map(|own| format!("\"{own}\""));
        let prefix = schema
            .as_ref()
            .map_or_else(String::new, |own| format!("{own}."));
        Self {
            records: format!("{prefix}\"{name}\""),
            about: format!("{prefix}\"{name}_about\""),
            graph: format!("\"{name}_graph\""),
            fields: format!("\"{name}_fields\""),
            order: format!("\"{name}_order\""),
            schema,
        }
    }

    /// The name of an index where it is dropped or looked up.
    fn at(&self, index: &str) -> String {
        match &self.schema {
            Some(schema) => format!("{schema}.{index}"),
            None => index.to_owned(),
        }
    }
}

/// Which pgvector a database has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Version(u32, u32);

impl Version {
    /// From here on there is `halfvec`.
    const HALF: Self = Self(0, 7);

    /// The one that is installed in the database.
    async fn of(client: &Client, place: &str) -> Result<Option<Self>, RemoteError> {
        let found = client
            .query_typed(
                "select extversion from pg_extension where extname = 'vector'",
                &[],
            )
            .await
            .map_err(|error| said(place, &error))?;
        let text = found
            .first()
            .and_then(|row| row.try_get::<_, String>(0).ok());
        Ok(text.map(|text| {
            let mut numbers = text.split('.').map(|part| part.parse().unwrap_or(0));
            Self(numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
        }))
    }
}

/// What a database says of the index. `None` where nothing of this name is there.
async fn about(
    client: &Client,
    tables: &Tables,
    place: &str,
) -> Result<Option<About>, RemoteError> {
    let statement = format!("select * from {}", tables.about);
    let rows = match client.query_typed(&statement, &[]).await {
        Ok(rows) => rows,
        Err(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => {
            let statement = format!("select to_regclass('{}') is not null", tables.records);
            let found = client.query_typed_one(&statement, &[]).await;
            let found = found.map_err(|error| said(place, &error))?;
            if matches!(found.try_get(0), Ok(true)) {
                return Err(RemoteError::NotOurs {
                    place: place.to_owned(),
                    reason: format!("there is no table {} beside it", tables.about),
                });
            }
            return Ok(None);
        }
        Err(error) => return Err(said(place, &error)),
    };
    let read = rows.first().map_or(Err("it has no row".to_owned()), |row| {
        read_about(row).map_err(|error| error.to_string())
    });
    let about = read.map_err(|reason| RemoteError::NotOurs {
        place: place.to_owned(),
        reason: format!("{}: {reason}", tables.about),
    })?;
    if about.format != FORMAT {
        return Err(RemoteError::Format {
            place: place.to_owned(),
            found: about.format,
            known: FORMAT,
        });
    }
    Ok(Some(about))
}

fn read_about(row: &Row) -> Result<About, tokio_postgres::Error> {
    Ok(About {
        format: u32::try_from(row.try_get::<_, i32>("format")?).unwrap_or(0),
        identity: Identity {
            model: row.try_get("model")?,
            fingerprint: row.try_get("fingerprint")?,
            width: usize::try_from(row.try_get::<_, i32>("width")?).unwrap_or(0),
        },
        metric: row.try_get("metric")?,
        folder: PathBuf::from(row.try_get::<_, String>("folder")?),
        items: usize::try_from(row.try_get::<_, i64>("items")?).unwrap_or(0),
        complete: row.try_get("complete")?,
        graph: row.try_get("graph")?,
    })
}
