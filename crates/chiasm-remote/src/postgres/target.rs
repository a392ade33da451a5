//! Pushing into PostgreSQL.
//!
//! A batch is one transaction: what it replaces is deleted, then all of it comes by `COPY` in binary form, which is the
//! fastest way in. The index for approximate search is built when everything is there, and grows by itself afterwards.

use std::collections::HashMap;
use std::pin::pin;

use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::{SinkExt as _, TryStreamExt as _};
use tokio::runtime::Runtime;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};

use crate::about::About;
use crate::address::PostgresAddress;
use crate::error::RemoteError;
use crate::postgres::connect::{connect, runtime, said};
use crate::postgres::{GRAPH_WIDTH, HALF_GRAPH_WIDTH, MAX_WIDTH, Tables, Version, about};
use crate::push::Target;
use crate::row::{Id, Row, uuid};

/// Widest vectors that are kept within their row: a page has 8,160 bytes for it.
const INLINE_WIDTH: usize = 1500;

/// Bytes of a record in the index beside its vector, about.
const NEIGHBOURS: usize = 512;
/// Most that building an index is allowed without being asked, in kB.
const MAX_MEMORY: usize = 1 << 20;

/// A connection that pushes.
pub(crate) struct PostgresTarget {
    runtime: &'static Runtime,
    client: Client,
    place: String,
    tables: Tables,
    version: Version,
}

impl PostgresTarget {
    pub(crate) fn open(address: &PostgresAddress) -> Result<Self, RemoteError> {
        let runtime = runtime()?;
        let place = address.to_string();
        let (client, version) = runtime.block_on(async {
            let client = connect(address).await?;
            let version = install(&client, &place).await?;
            Ok::<_, RemoteError>((client, version))
        })?;
        Ok(Self {
            runtime,
            client,
            place,
            tables: Tables::of(address),
            version,
        })
    }

    fn run(&self, statements: &str) -> Result<(), RemoteError> {
        let done = self.runtime.block_on(self.client.batch_execute(statements));
        done.map_err(|error| said(&self.place, &error))
    }

    fn create(&self, about: &About) -> Result<(), RemoteError> {
        let Tables {
            records,
            order,
            about: own,
            ..
        } = &self.tables;
        let width = about.identity.width;
        let storage = match width <= INLINE_WIDTH {
            true => "plain",
            false => "external",
        };
        // Rows that fit stay whole: looking at every vector then reads one page after another.
        self.run(&format!(
            "begin;
             create table {records} (
                 id uuid primary key,
                 place bigint not null,
                 mark bigint not null,
                 record json not null,
                 fields jsonb not null,
                 embedding vector({width}) not null
             ) with (toast_tuple_target = 8160);
             alter table {records} alter column embedding set storage {storage};
             create index {order} on {records} (place);
             create table {own} (
                 one boolean primary key default true check (one),
                 format integer not null,
                 model text not null,
                 fingerprint text not null,
                 width integer not null,
                 metric text not null,
                 folder text not null,
                 items bigint not null,
                 complete boolean not null,
                 graph boolean not null,
                 pushed timestamptz not null default now()
             );
             commit"
        ))
    }

    fn write_about(&self, about: &About) -> Result<(), RemoteError> {
        let statement = format!(
            "insert into {} (format, model, fingerprint, width, metric, folder, items, complete, graph)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
             on conflict (one) do update set (model, folder, items, complete, graph, pushed) =
             (excluded.model, excluded.folder, excluded.items, excluded.complete, excluded.graph, now())",
            self.tables.about
        );
        // Widths are 65,536 at most and formats small.
        let (format, width) = (about.format as i32, about.identity.width as i32);
        let (items, folder) = (about.items as i64, about.folder.display().to_string());
        let identity = &about.identity;
        let done = self.runtime.block_on(self.client.execute_typed(
            &statement,
            &[
                (&format, Type::INT4),
                (&identity.model, Type::TEXT),
                (&identity.fingerprint, Type::TEXT),
                (&width, Type::INT4),
                (&about.metric, Type::TEXT),
                (&folder, Type::TEXT),
                (&items, Type::INT8),
                (&about.complete, Type::BOOL),
                (&about.graph, Type::BOOL),
            ],
        ));
        done.map(|_| ()).map_err(|error| said(&self.place, &error))
    }

    async fn send_batch(
        &self,
        rows: &[Row],
        replaced: &[String],
    ) -> Result<(), tokio_postgres::Error> {
        let records = &self.tables.records;
        self.client.batch_execute("begin").await?;
        if !replaced.is_empty() {
            self.delete(replaced).await?;
        }
        let copy = format!(
            "copy {records} (id, place, mark, record, fields, embedding) from stdin (format binary)"
        );
        let mut sink = pin!(self.client.copy_in::<_, Bytes>(&copy).await?);
        sink.send(encoded(rows)).await?;
        sink.finish().await?;
        self.client.batch_execute("commit").await
    }

    async fn delete(&self, ids: &[String]) -> Result<(), tokio_postgres::Error> {
        let statement = format!(
            "delete from {} where id = any($1::uuid[])",
            self.tables.records
        );
        let ids = [(&ids as &(dyn ToSql + Sync), Type::TEXT_ARRAY)];
        let done = self.client.execute_typed(&statement, &ids).await;
        done.map(|_| ())
    }
}

/// Makes sure that there is pgvector.
async fn install(client: &Client, place: &str) -> Result<Version, RemoteError> {
    if let Some(version) = Version::of(client, place).await? {
        return Ok(version);
    }
    let missing = |reason: String| RemoteError::NoVectors {
        place: place.to_owned(),
        reason,
    };
    if let Err(error) = client
        .batch_execute("create extension if not exists vector")
        .await
    {
        // Another push may have been first.
        if let Ok(Some(version)) = Version::of(client, place).await {
            return Ok(version);
        }
        let refused = [
            SqlState::FEATURE_NOT_SUPPORTED,
            SqlState::UNDEFINED_FILE,
            SqlState::INSUFFICIENT_PRIVILEGE,
        ];
        return Err(match error.as_db_error() {
            Some(own) if refused.contains(own.code()) => missing(own.message().to_owned()),
            _ => said(place, &error),
        });
    }
    let found = Version::of(client, place).await?;
    found.ok_or_else(|| missing("it was installed and is not there".to_owned()))
}

/// Rows in the binary form of `COPY`.
fn encoded(rows: &[Row]) -> Bytes {
    let bytes = rows.iter().map(Row::bytes).sum::<usize>();
    let mut out = BytesMut::with_capacity(bytes + rows.len() * 100 + 32);
    out.put_slice(b"PGCOPY\n\xff\r\n\0");
    out.put_i32(0);
    out.put_i32(0);
    for row in rows {
        out.put_i16(6);
        out.put_i32(16);
        out.put_slice(&row.id);
        out.put_i32(8);
        out.put_u64(row.place);
        out.put_i32(8);
        out.put_i64(row.mark);
        // A record has 16 MB at most, and what filters ask of it at most some times that.
        out.put_i32(row.record.len() as i32);
        out.put_slice(&row.record);
        out.put_i32(row.fields.len() as i32 + 1);
        // The version of jsonb.
        out.put_u8(1);
        out.put_slice(&row.fields);
        out.put_i32(4 + 4 * row.vector.len() as i32);
        out.put_i16(row.vector.len() as i16);
        out.put_i16(0);
        for number in &row.vector {
            out.put_f32(*number);
        }
    }
    out.put_i16(-1);
    out.freeze()
}

impl Target for PostgresTarget {
    fn place(&self) -> String {
        self.place.clone()
    }

    fn prepare(&mut self, new: &About, replace: bool) -> Result<bool, RemoteError> {
        let place = &self.place;
        let width = new.identity.width;
        if width > MAX_WIDTH {
            return Err(RemoteError::TooWide {
                place: place.clone(),
                width,
                most: MAX_WIDTH,
            });
        }
        // Held until the connection ends.
        let lock = self.runtime.block_on(self.client.query_typed_one(
            "select pg_try_advisory_lock(hashtextextended($1, 0))",
            &[(&format!("chiasm {}", self.tables.records), Type::TEXT)],
        ));
        let lock = lock.map_err(|error| said(place, &error))?;
        if !matches!(lock.try_get(0), Ok(true)) {
            return Err(RemoteError::Busy {
                place: place.clone(),
            });
        }
        let mut found = self
            .runtime
            .block_on(about(&self.client, &self.tables, place));
        if replace && matches!(&found, Ok(Some(_)) | Err(RemoteError::Format { .. })) {
            let Tables { records, about, .. } = &self.tables;
            self.run(&format!(
                "begin; drop table if exists {records}; drop table {about}; commit"
            ))?;
            found = Ok(None);
        }
        let graph = match found? {
            None => {
                self.create(new)?;
                false
            }
            Some(found) => {
                found.require(&new.identity, place)?;
                found.graph
            }
        };
        self.write_about(&About {
            graph,
            ..new.clone()
        })?;
        Ok(graph)
    }

    fn marks(&mut self) -> Result<HashMap<Id, i64>, RemoteError> {
        let statement = format!("select uuid_send(id), mark from {}", self.tables.records);
        let read = async {
            let none: [(String, Type); 0] = [];
            let mut rows = pin!(self.client.query_typed_raw(&statement, none).await?);
            let mut marks = HashMap::new();
            while let Some(row) = rows.try_next().await? {
                if let Ok(id) = Id::try_from(row.try_get::<_, &[u8]>(0)?) {
                    marks.insert(id, row.try_get(1)?);
                }
            }
            Ok(marks)
        };
        let read = self.runtime.block_on(read);
        read.map_err(|error: tokio_postgres::Error| said(&self.place, &error))
    }

    fn send(&mut self, rows: &[Row], known: &HashMap<Id, i64>) -> Result<(), RemoteError> {
        let replaced = rows.iter().filter(|row| known.contains_key(&row.id));
        let replaced: Vec<String> = replaced.map(|row| uuid(&row.id)).collect();
        let sent = self.runtime.block_on(self.send_batch(rows, &replaced));
        sent.map_err(|error| {
            // The server may be there, and then the batch must not half be.
            let _ = self.runtime.block_on(self.client.batch_execute("rollback"));
            said(&self.place, &error)
        })
    }

    fn remove(&mut self, ids: &[Id]) -> Result<(), RemoteError> {
        let ids: Vec<String> = ids.iter().map(uuid).collect();
        let done = self.runtime.block_on(self.delete(&ids));
        done.map_err(|error| said(&self.place, &error))
    }

    fn graph(
        &mut self,
        about: &About,
        wanted: bool,
    ) -> Result<(bool, Option<String>), RemoteError> {
        let Tables {
            records,
            graph,
            fields,
            ..
        } = &self.tables;
        let width = about.identity.width;
        if !wanted {
            let (graph, fields) = (self.tables.at(graph), self.tables.at(fields));
            self.run(&format!("drop index if exists {graph}, {fields}"))?;
            return Ok((false, None));
        }
        let column = match width {
            _ if width <= GRAPH_WIDTH => "embedding vector_ip_ops".to_owned(),
            _ if width <= HALF_GRAPH_WIDTH && self.version >= Version::HALF => half(width),
            _ => {
                let why = format!(
                    "pgvector builds no index for vectors of {width} numbers: every search looks at all of them"
                );
                return Ok((false, Some(why)));
            }
        };
        let build =
            format!("create index if not exists {graph} on {records} using hnsw ({column})");
        self.run(&more_memory(about.items, width))?;
        if let Err(error) = self.run(&build) {
            if matches!(error, RemoteError::Lost { .. }) {
                return Err(error);
            }
            // A server in a container may have less shared memory than it may use.
            self.run(&format!("reset maintenance_work_mem; {build}"))?;
        }
        // What a filter with `=` looks up where all that fulfil it are looked at.
        self.run(&format!(
            "create index if not exists {fields} on {records} using gin (fields jsonb_path_ops);
             analyze {records}"
        ))?;
        Ok((true, None))
    }

    fn finish(&mut self, about: &About) -> Result<(), RemoteError> {
        self.write_about(about)
    }
}

/// Raises what building an index may take, where the server's setting is less than the vectors and their neighbours have:
/// beyond it pgvector builds several times slower.
fn more_memory(items: usize, width: usize) -> String {
    let kilobytes = (items.saturating_mul(width * 4 + NEIGHBOURS) / 1024).min(MAX_MEMORY);
    format!(
        "select set_config('maintenance_work_mem', greatest({kilobytes}, setting::bigint)::text, false)
         from pg_settings where name = 'maintenance_work_mem'"
    )
}

/// Vectors that are too wide for an index are indexed with half the bits for each number.
fn half(width: usize) -> String {
    format!("(embedding::halfvec({width})) halfvec_ip_ops")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_encoded_as_copy_reads_them() {
        let row = Row {
            id: [9; 16],
            place: 2,
            mark: -1,
            key: "k".to_owned(),
            record: b"{}".to_vec(),
            fields: b"[]".to_vec(),
            vector: vec![1.0],
        };
        let bytes = encoded(&[row]);
        let mut expected = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0\0\x06\0\0\0\x10".to_vec();
        expected.extend([9; 16]);
        expected.extend(b"\0\0\0\x08\0\0\0\0\0\0\0\x02");
        expected.extend(b"\0\0\0\x08\xff\xff\xff\xff\xff\xff\xff\xff");
        expected.extend(b"\0\0\0\x02{}\0\0\0\x03\x01[]");
        expected.extend(b"\0\0\0\x08\0\x01\0\0\x3f\x80\0\0\xff\xff");
        assert_eq!(bytes, expected);
    }
}
