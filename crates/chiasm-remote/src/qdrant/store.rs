//! Searching in Qdrant.

use std::path::Path;

use chiasm_index::{
    Filter, Found, Identity, IndexError, Record, Search, Store, same_model, unit_queries,
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::about::About;
use crate::address::QdrantAddress;
use crate::error::RemoteError;
use crate::qdrant::client::Client;
use crate::qdrant::condition::Translated;
use crate::qdrant::{PAGE, about};
use crate::row::uuid;

/// Records beyond those asked for: Qdrant cuts equal scores where it likes, and of so many the first ones are chosen here.
const TIES: usize = 16;
/// Fewest candidates of a filter that Qdrant does not know all of.
const CANDIDATES: usize = 64;

/// An index in a collection.
#[derive(Debug)]
pub(crate) struct QdrantStore {
    client: Client,
    address: QdrantAddress,
    about: About,
}

/// A point that was found.
#[derive(Deserialize)]
struct Point {
    #[serde(default)]
    score: f32,
    payload: Option<Payload>,
}

#[derive(Deserialize)]
struct Payload {
    place: Option<u64>,
    record: Option<Record>,
}

#[derive(Deserialize)]
struct Points {
    points: Vec<Point>,
}

/// The record, its place among all, its score.
type Scored = (Record, u64, f32);

impl QdrantStore {
    pub(crate) fn open(address: &QdrantAddress) -> Result<Self, RemoteError> {
        let client = Client::new(address);
        let about = about(&client)?.ok_or_else(|| client.gone())?;
        Ok(Self {
            client,
            address: address.clone(),
            about,
        })
    }

    fn ask<T: serde::de::DeserializeOwned>(
        &self,
        rest: &str,
        body: &Value,
    ) -> Result<T, RemoteError> {
        let path = format!("/collections/{}{rest}", self.client.collection);
        self.client
            .post(&path, body)?
            .ok_or_else(|| self.client.gone())
    }

    /// Makes sure that what is there is still what was opened.
    fn check(&self) -> Result<(), RemoteError> {
        let found = about(&self.client)?.ok_or_else(|| self.client.gone())?;
        match found.identity.matches(&self.about.identity) {
            true => Ok(()),
            false => Err(RemoteError::Replaced {
                place: self.client.place.clone(),
            }),
        }
    }

    fn nearest(&self, query: &[f32], search: &Search<'_>) -> Result<Vec<Scored>, RemoteError> {
        let exact = search.exact || !self.about.graph;
        let translated = search.filter.map(Translated::of);
        let found = self.found(query, search, translated.as_ref(), exact)?;
        if !exact && found.len() < search.top.min(self.about.items) {
            // A selective filter: as in a folder, all are looked at then.
            return self.found(query, search, translated.as_ref(), true);
        }
        Ok(found)
    }

    fn found(
        &self,
        query: &[f32],
        search: &Search<'_>,
        translated: Option<&Translated>,
        exact: bool,
    ) -> Result<Vec<Scored>, RemoteError> {
        let mut limit = match translated {
            Some(Translated {
                is_exact: false, ..
            }) => search.top.saturating_mul(2).max(CANDIDATES),
            _ => search.top.saturating_add(TIES),
        };
        loop {
            let asked = asked(query, limit, search, translated, exact);
            let answer: Points = self.ask("/points/query", &asked)?;
            let came = answer.points.len();
            let mut found = self.fulfilling(answer.points, search.filter)?;
            if found.len() >= search.top || came < limit || limit >= self.about.items {
                // As in a folder: equal scores in the order in which the records were added.
                found.sort_by(|a, b| b.2.total_cmp(&a.2).then(a.1.cmp(&b.1)));
                found.truncate(search.top);
                return Ok(found);
            }
            limit = limit.saturating_mul(4);
        }
    }

    /// What really fulfils the filter.
    fn fulfilling(
        &self,
        points: Vec<Point>,
        filter: Option<&Filter>,
    ) -> Result<Vec<Scored>, RemoteError> {
        let mut found = Vec::with_capacity(points.len());
        for point in points {
            let score = point.score;
            let (record, place) = self.record(point)?;
            if filter.is_none_or(|filter| filter.matches(&record)) {
                found.push((record, place, score));
            }
        }
        Ok(found)
    }

    fn record(&self, point: Point) -> Result<(Record, u64), RemoteError> {
        let whole = point
            .payload
            .and_then(|own| Some((own.record?, own.place?)));
        whole.ok_or_else(|| RemoteError::NotOurs {
            place: self.client.place.clone(),
            reason: "it has a point without a record".to_owned(),
        })
    }

    /// Places and, if asked for, records in the order of places from one on.
    fn ordered(&self, from: u64, limit: usize, payload: &Value) -> Result<Vec<Point>, RemoteError> {
        let asked = json!({
            "limit": limit,
            "with_payload": payload,
            "with_vector": false,
            "order_by": {"key": "place", "direction": "asc", "start_from": from},
        });
        let answer: Points = self.ask("/points/scroll", &asked)?;
        Ok(answer.points)
    }
}

/// The body of a search.
fn asked(
    query: &[f32],
    limit: usize,
    search: &Search<'_>,
    translated: Option<&Translated>,
    exact: bool,
) -> Value {
    let params = match exact {
        true => json!({"exact": true}),
        false => json!({"hnsw_ef": search.sight().max(limit)}),
    };
    let mut asked = json!({
        "query": query,
        "limit": limit,
        "params": params,
        "with_payload": ["record", "place"],
    });
    if let (Some(translated), Some(fields)) = (translated, asked.as_object_mut()) {
        fields.insert("filter".to_owned(), translated.filter.clone());
    }
    asked
}

impl Store for QdrantStore {
    fn identity(&self) -> &Identity {
        &self.about.identity
    }

    fn place(&self) -> String {
        self.client.place.clone()
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
        self.about.notice(&self.client.place)
    }

    fn find(&self, queries: &[f32], search: &Search<'_>) -> Result<Vec<Vec<Found>>, IndexError> {
        let width = self.about.identity.width;
        let queries = unit_queries(queries, width, width)?;
        self.check()?;
        let lists = queries.chunks(width).map(|query| {
            let scored = self.nearest(query, search)?.into_iter();
            Ok(scored
                .map(|(record, _, score)| Found { record, score })
                .collect())
        });
        lists.collect()
    }

    fn get(&self, key: &str) -> Result<Option<Record>, IndexError> {
        let asked = json!({
            "ids": [uuid(&Record::id_of(key))], "with_payload": ["record", "place"]
        });
        let points: Vec<Point> = self.ask("/points", &asked)?;
        let point = points.into_iter().next();
        let record = point.map(|point| self.record(point)).transpose()?;
        Ok(record.map(|(record, _)| record))
    }

    fn page(&self, offset: usize, limit: usize) -> Result<Vec<Record>, IndexError> {
        // There is no offset in an order: what comes before is passed over by its places.
        let (mut from, mut left) = (0, offset);
        while left > 0 {
            let points = self.ordered(from, left.min(PAGE), &json!(["place"]))?;
            let place = |point: &Point| point.payload.as_ref().and_then(|own| own.place);
            let Some(last) = points.last().and_then(place) else {
                return Ok(Vec::new());
            };
            from = last + 1;
            left -= points.len().min(left);
        }
        let points = self.ordered(from, limit, &json!(["record", "place"]))?;
        let records = points.into_iter().map(|point| Ok(self.record(point)?.0));
        records.collect()
    }

    fn reopen(&self) -> Result<Box<dyn Store>, IndexError> {
        let again = Self::open(&self.address)?;
        same_model(self.place(), again.identity(), self.identity())?;
        Ok(Box::new(again))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_is_asked_as_the_interface_wants_it() {
        let filter: Filter = "split=test".parse().unwrap();
        let search = Search {
            filter: Some(&filter),
            ..Search::top(5)
        };
        let translated = Translated::of(&filter);
        let body = asked(&[1.0, 0.5], 5, &search, Some(&translated), false);
        let expected = json!({
            "query": [1.0, 0.5],
            "limit": 5,
            "params": {"hnsw_ef": 96},
            "with_payload": ["record", "place"],
            "filter": {
                "must": [{"nested": {"key": "fields", "filter": {"must": [
                    {"key": "f", "match": {"value": "split"}},
                    {"key": "t", "match": {"value": "test"}},
                ]}}}],
                "must_not": [],
            },
        });
        assert_eq!(body, expected);
        let exact = asked(&[1.0], 5, &Search::top(5), None, true);
        assert_eq!(exact.get("params"), Some(&json!({"exact": true})));
    }
}
