//! Pushing into Qdrant.

use std::collections::HashMap;

use chiasm_index::IndexError;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::about::About;
use crate::address::QdrantAddress;
use crate::error::RemoteError;
use crate::push::Target;
use crate::qdrant::client::Client;
use crate::qdrant::{PAGE, about, about_of};
use crate::row::{Id, Row, from_uuid, uuid};

/// Most numbers of a vector.
const MAX_WIDTH: usize = 65_536;
/// Neighbours of a point in the graph, where there is to be one: Qdrant's own default.
const NEIGHBOURS: usize = 16;

/// A collection that is pushed into.
pub(crate) struct QdrantTarget {
    client: Client,
}

impl QdrantTarget {
    pub(crate) fn open(address: &QdrantAddress) -> Result<Self, RemoteError> {
        Ok(Self {
            client: Client::new(address),
        })
    }

    fn path(&self, rest: &str) -> String {
        format!("/collections/{}{rest}", self.client.collection)
    }

    fn create(&self, new: &About) -> Result<(), RemoteError> {
        let own = about_of(&self.client.collection);
        let vectors = json!({"size": new.identity.width, "distance": "Dot"});
        self.client
            .put(&self.path(""), &json!({"vectors": vectors}))?;
        for (field, kind) in [
            ("place", "integer"),
            ("fields[].f", "keyword"),
            ("fields[].t", "keyword"),
            ("fields[].n", "float"),
        ] {
            let index = json!({"field_name": field, "field_schema": kind});
            self.client.put(&self.path("/index?wait=true"), &index)?;
        }
        let vectors = json!({"size": 1, "distance": "Dot"});
        let path = format!("/collections/{own}");
        let there: Option<Value> = self.client.get(&path)?;
        match there {
            Some(_) => Ok(()),
            None => self.client.put(&path, &json!({"vectors": vectors})),
        }
    }

    fn write_about(&self, about: &About) -> Result<(), RemoteError> {
        let own = about_of(&self.client.collection);
        let point = json!({"id": 1, "vector": [1.0], "payload": about});
        self.client.put(
            &format!("/collections/{own}/points?wait=true"),
            &json!({"points": [point]}),
        )
    }

    /// A collection that was begun and not described: the push before this one was stopped between the two.
    fn is_empty(&self) -> Result<bool, RemoteError> {
        #[derive(Deserialize)]
        struct Count {
            count: u64,
        }
        let found: Option<Count> = self
            .client
            .post(&self.path("/points/count"), &json!({"exact": true}))?;
        Ok(found.is_none_or(|found| found.count == 0))
    }
}

/// A record as a point.
fn point(row: &Row) -> Result<Value, RemoteError> {
    let not_json = |error: serde_json::Error| {
        RemoteError::Index(IndexError::Record {
            key: row.key.clone(),
            reason: error.to_string(),
        })
    };
    let record: Value = serde_json::from_slice(&row.record).map_err(not_json)?;
    let mut fields: Vec<Value> = serde_json::from_slice(&row.fields).map_err(not_json)?;
    for field in fields.iter_mut().filter_map(Value::as_object_mut) {
        // Nothing is looked for in lower case there, and what is no number says so.
        field.remove("l");
        if !field.contains_key("n") {
            field.insert("w".to_owned(), true.into());
        }
    }
    Ok(json!({
        "id": uuid(&row.id),
        "vector": row.vector,
        "payload": {"place": row.place, "mark": row.mark, "record": record, "fields": fields},
    }))
}

impl Target for QdrantTarget {
    fn place(&self) -> String {
        self.client.place.clone()
    }

    fn prepare(&mut self, new: &About, replace: bool) -> Result<bool, RemoteError> {
        let width = new.identity.width;
        if width > MAX_WIDTH {
            return Err(RemoteError::TooWide {
                place: self.place(),
                width,
                most: MAX_WIDTH,
            });
        }
        let mut found = about(&self.client);
        let is_ours = matches!(&found, Ok(Some(_)) | Err(RemoteError::Format { .. }));
        let is_begun = matches!(&found, Err(RemoteError::NotOurs { .. })) && self.is_empty()?;
        if (replace && is_ours) || is_begun {
            self.client.drop(&self.client.collection)?;
            self.client.drop(&about_of(&self.client.collection))?;
            found = Ok(None);
        }
        let graph = match found? {
            None => {
                self.create(new)?;
                true
            }
            Some(found) => {
                found.require(&new.identity, &self.place())?;
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
        #[derive(Deserialize)]
        struct Page {
            points: Vec<Point>,
            next_page_offset: Option<Value>,
        }
        #[derive(Deserialize)]
        struct Point {
            id: Value,
            payload: Option<Marked>,
        }
        #[derive(Deserialize)]
        struct Marked {
            mark: Option<i64>,
        }
        let mut marks = HashMap::new();
        let mut offset = Value::Null;
        loop {
            let asked = json!({
                "limit": PAGE, "offset": offset, "with_payload": ["mark"], "with_vector": false
            });
            let page: Option<Page> = self.client.post(&self.path("/points/scroll"), &asked)?;
            let page = page.ok_or_else(|| self.client.gone())?;
            for point in page.points {
                let id = point.id.as_str().and_then(from_uuid);
                let id = id.ok_or_else(|| RemoteError::NotOurs {
                    place: self.place(),
                    reason: format!("it has a point {}", point.id),
                })?;
                let mark = point.payload.and_then(|payload| payload.mark);
                marks.insert(id, mark.unwrap_or_default());
            }
            match page.next_page_offset {
                None | Some(Value::Null) => return Ok(marks),
                Some(next) => offset = next,
            }
        }
    }

    fn send(&mut self, rows: &[Row], _: &HashMap<Id, i64>) -> Result<(), RemoteError> {
        let points: Vec<Value> = rows.iter().map(point).collect::<Result<_, _>>()?;
        self.client
            .put(&self.path("/points?wait=true"), &json!({"points": points}))
    }

    fn remove(&mut self, ids: &[Id]) -> Result<(), RemoteError> {
        let ids: Vec<String> = ids.iter().map(uuid).collect();
        let done: Option<Value> = self.client.post(
            &self.path("/points/delete?wait=true"),
            &json!({"points": ids}),
        )?;
        done.map(|_| ()).ok_or_else(|| self.client.gone())
    }

    fn graph(&mut self, _: &About, wanted: bool) -> Result<(bool, Option<String>), RemoteError> {
        let neighbours = if wanted { NEIGHBOURS } else { 0 };
        self.client
            .patch(&self.path(""), &json!({"hnsw_config": {"m": neighbours}}))?;
        Ok((wanted, None))
    }

    fn finish(&mut self, about: &About) -> Result<(), RemoteError> {
        self.write_about(about)
    }
}
