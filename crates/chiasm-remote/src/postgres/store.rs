//! Searching in PostgreSQL.
//!
//! An exact search orders by an expression that no index has, and so looks at every vector whose record fulfils the
//! filter. An approximate one takes the nearest of the index, and of these what fulfils it; where that is less than was
//! asked for, it becomes an exact one, as in a folder. The iterative scans of pgvector 0.8 would go on instead, but what they
//! give for a filter that few fulfil is often not near. What comes back is scored from the whole vectors.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use chiasm_index::{Found, Identity, IndexError, Record, Search, Store, same_model, unit_queries};
use tokio::runtime::Runtime;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row};

use crate::about::About;
use crate::address::PostgresAddress;
use crate::error::RemoteError;
use crate::postgres::condition::Conditions;
use crate::postgres::connect::{connect, runtime, said};
use crate::postgres::{GRAPH_WIDTH, Tables, about};
use crate::row::uuid;

/// Connections that are kept for later searches.
const KEPT: usize = 8;
/// Most that `hnsw.ef_search` may be.
const MAX_SIGHT: usize = 1000;
/// As in a folder: with a filter some of what is found goes, so more is looked for.
const FILTERED_MORE: usize = 4;

/// An index in a table.
pub(crate) struct PostgresStore {
    runtime: &'static Runtime,
    address: PostgresAddress,
    place: String,
    tables: Tables,
    about: About,
    /// Connections that nobody uses at the moment.
    idle: Mutex<Vec<Client>>,
}

impl std::fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PostgresStore")
            .field("place", &self.place)
            .field("about", &self.about)
            .finish_non_exhaustive()
    }
}

/// One answer of the database: the record, its place among all, its score.
type Scored = (Record, i64, f32);

/// A statement with its parameters.
struct Query<'a> {
    sql: String,
    parameters: Vec<(&'a (dyn ToSql + Sync), Type)>,
}

impl PostgresStore {
    pub(crate) fn open(address: &PostgresAddress) -> Result<Self, RemoteError> {
        let runtime = runtime()?;
        let (place, tables) = (address.to_string(), Tables::of(address));
        let (client, found) = runtime.block_on(async {
            let client = connect(address).await?;
            let found = about(&client, &tables, &place).await?;
            Ok::<_, RemoteError>((client, found))
        })?;
        let about = found.ok_or_else(|| RemoteError::NoIndex {
            place: place.clone(),
        })?;
        Ok(Self {
            runtime,
            address: address.clone(),
            place,
            tables,
            about,
            idle: Mutex::new(vec![client]),
        })
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Client>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with a connection. One that was kept may be gone by now, and then a new one is asked.
    fn with<T>(
        &self,
        ask: &impl AsyncFn(&Client) -> Result<T, RemoteError>,
    ) -> Result<T, RemoteError> {
        let kept = self.idle().pop();
        self.runtime.block_on(async {
            if let Some(client) = kept.filter(|client| !client.is_closed()) {
                match ask(&client).await {
                    Err(_) if client.is_closed() => {}
                    answer => return self.keep(client, answer),
                }
            }
            let client = connect(&self.address).await?;
            let answer = ask(&client).await;
            self.keep(client, answer)
        })
    }

    fn keep<T>(&self, client: Client, answer: Result<T, RemoteError>) -> Result<T, RemoteError> {
        // A connection with an error may be within a transaction.
        if answer.is_ok() {
            let mut idle = self.idle();
            if idle.len() < KEPT {
                idle.push(client);
            }
        }
        answer
    }

    /// Makes sure that what is there is still what was opened.
    async fn check(&self, client: &Client) -> Result<(), RemoteError> {
        let place = &self.place;
        let found = about(client, &self.tables, place).await?;
        let found = found.ok_or_else(|| RemoteError::NoIndex {
            place: place.clone(),
        })?;
        match found.identity.matches(&self.about.identity) {
            true => Ok(()),
            false => Err(RemoteError::Replaced {
                place: place.clone(),
            }),
        }
    }

    async fn nearest(
        &self,
        client: &Client,
        query: &[f32],
        search: &Search<'_>,
    ) -> Result<Vec<Scored>, RemoteError> {
        let vector = vector(query);
        let conditions = Conditions::of(search.filter, 1);
        let first = std::iter::once((&vector as &(dyn ToSql + Sync), Type::TEXT));
        let parameters: Vec<_> = first.chain(conditions.parameters()).collect();
        let mut found = Vec::new();
        if self.about.graph && !search.exact {
            found = self
                .approximate(client, search, &conditions, &parameters)
                .await?;
        }
        if found.len() < search.top.min(self.about.items) {
            let order = "(embedding <#> $1::text::vector) + 0, place";
            let query = Query {
                sql: self.statement((&conditions.sql, "true"), order, search.top, search.top),
                parameters,
            };
            found = self.ask(client, &query).await?;
        }
        // As in a folder: equal scores in the order in which the records were added.
        found.sort_by(|a, b| b.2.total_cmp(&a.2).then(a.1.cmp(&b.1)));
        Ok(found)
    }

    async fn approximate(
        &self,
        client: &Client,
        search: &Search<'_>,
        conditions: &Conditions,
        parameters: &[(&(dyn ToSql + Sync), Type)],
    ) -> Result<Vec<Scored>, RemoteError> {
        let width = self.about.identity.width;
        let order = match width <= GRAPH_WIDTH {
            true => "embedding <#> $1::text::vector".to_owned(),
            false => format!("embedding::halfvec({width}) <#> $1::text::halfvec({width})"),
        };
        let more = search.filter.map_or(1, |_| FILTERED_MORE);
        let sight = search.sight().saturating_mul(more).min(MAX_SIGHT);
        // More than the index keeps in sight does not come.
        if sight < search.top {
            return Ok(Vec::new());
        }
        let settings = format!("begin read only; set local hnsw.ef_search = {sight}");
        let query = Query {
            sql: self.statement(("true", &conditions.sql), &order, sight, search.top),
            parameters: parameters.to_vec(),
        };
        let failed = |error| said(&self.place, &error);
        client.batch_execute(&settings).await.map_err(failed)?;
        let found = self.ask(client, &query).await?;
        client.batch_execute("commit").await.map_err(failed)?;
        Ok(found)
    }

    /// The first records of an order that fulfil one condition, and of these the best that fulfil another. Records are
    /// read last, when it is known which.
    fn statement(
        &self,
        (before, after): (&str, &str),
        order: &str,
        candidates: usize,
        top: usize,
    ) -> String {
        let records = &self.tables.records;
        format!(
            "with near as materialized (
                 select id, embedding <#> $1::text::vector as distance from {records}
                 where {before} order by {order} limit {candidates}
             )
             select record::text, place, -distance from near join {records} using (id)
             where {after} order by distance, place limit {top}"
        )
    }

    async fn ask(&self, client: &Client, query: &Query<'_>) -> Result<Vec<Scored>, RemoteError> {
        let rows = client.query_typed(&query.sql, &query.parameters).await;
        let rows = rows.map_err(|error| said(&self.place, &error))?;
        let scored = rows.iter().map(|row| {
            let place = row.try_get(1).map_err(|error| said(&self.place, &error))?;
            let score: f64 = row.try_get(2).map_err(|error| said(&self.place, &error))?;
            // Scores are f32 everywhere.
            Ok((self.record(row)?, place, score as f32))
        });
        scored.collect()
    }

    /// The record that a row begins with.
    fn record(&self, row: &Row) -> Result<Record, RemoteError> {
        let json: &str = row.try_get(0).map_err(|error| said(&self.place, &error))?;
        serde_json::from_str(json).map_err(|error| RemoteError::NotOurs {
            place: self.place.clone(),
            reason: format!("a record of it cannot be read: {error}"),
        })
    }
}

/// As pgvector reads it.
fn vector(query: &[f32]) -> String {
    let numbers: Vec<String> = query.iter().map(f32::to_string).collect();
    format!("[{}]", numbers.join(","))
}

impl Store for PostgresStore {
    fn identity(&self) -> &Identity {
        &self.about.identity
    }

    fn place(&self) -> String {
        self.place.clone()
    }

    fn folder(&self) -> &Path {
        &self.about.folder
    }

    fn len(&self) -> usize {
        self.about.items
    }

    fn is_approximate(&self) -> bool {
        self.about.graph
    }

    fn notice(&self) -> Option<String> {
        self.about.notice(&self.place)
    }

    fn find(&self, queries: &[f32], search: &Search<'_>) -> Result<Vec<Vec<Found>>, IndexError> {
        let width = self.about.identity.width;
        let queries = unit_queries(queries, width, width)?;
        let found = self.with(&async |client: &Client| {
            self.check(client).await?;
            let mut lists = Vec::new();
            for query in queries.chunks(width) {
                let scored = self.nearest(client, query, search).await?;
                let found = scored
                    .into_iter()
                    .map(|(record, _, score)| Found { record, score });
                lists.push(found.collect());
            }
            Ok(lists)
        });
        Ok(found?)
    }

    fn get(&self, key: &str) -> Result<Option<Record>, IndexError> {
        let id = uuid(&Record::id_of(key));
        let statement = format!(
            "select record::text from {} where id = $1::text::uuid",
            self.tables.records
        );
        let found = self.with(&async |client: &Client| {
            let rows = client.query_typed(&statement, &[(&id, Type::TEXT)]).await;
            let rows = rows.map_err(|error| said(&self.place, &error))?;
            rows.first().map(|row| self.record(row)).transpose()
        });
        Ok(found?)
    }

    fn page(&self, offset: usize, limit: usize) -> Result<Vec<Record>, IndexError> {
        let statement = format!(
            "select record::text from {} order by place offset {offset} limit {limit}",
            self.tables.records
        );
        let found = self.with(&async |client: &Client| {
            let rows = client.query_typed(&statement, &[]).await;
            let rows = rows.map_err(|error| said(&self.place, &error))?;
            rows.iter().map(|row| self.record(row)).collect()
        });
        Ok(found?)
    }

    fn reopen(&self) -> Result<Box<dyn Store>, IndexError> {
        let again = Self::open(&self.address)?;
        same_model(self.place(), again.identity(), self.identity())?;
        Ok(Box::new(again))
    }
}
