//! Qdrant over its REST interface: a collection of records beside a collection of one point that says what they are.
//!
//! ```text
//! NAME            id, vector, payload: place, mark, record (for answers), fields (for filters)
//! NAME_about      one point whose payload says what made the vectors, where the folder lay, how many there are
//! ```
//!
//! Vectors have length 1, so that `Dot` orders as the cosine does and leaves them as they were sent. Requests are those of
//! Qdrant 1.10 and later.

mod client;
mod condition;
mod store;
mod target;

pub(crate) use store::QdrantStore;
pub(crate) use target::QdrantTarget;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::about::{About, FORMAT};
use crate::error::RemoteError;
use client::Client;

/// Points of one request for what is there.
const PAGE: usize = 10_000;

/// The collection that says what the other one is.
fn about_of(collection: &str) -> String {
    format!("{collection}_about")
}

/// What a database says of the index. `None` where nothing of this name is there.
fn about(client: &Client) -> Result<Option<About>, RemoteError> {
    #[derive(Deserialize)]
    struct Point {
        payload: Option<Value>,
    }
    let own = about_of(&client.collection);
    let asked = json!({"ids": [1], "with_payload": true});
    let not_ours = |reason: String| RemoteError::NotOurs {
        place: client.place.clone(),
        reason,
    };
    let found: Option<Vec<Point>> = client.post(&format!("/collections/{own}/points"), &asked)?;
    let Some(points) = found else {
        let there: Option<Value> = client.get(&format!("/collections/{}", client.collection))?;
        return match there {
            None => Ok(None),
            Some(_) => Err(not_ours(format!(
                "there is no collection `{own}` beside it"
            ))),
        };
    };
    let payload = points.into_iter().find_map(|point| point.payload);
    let payload = payload.ok_or_else(|| not_ours(format!("`{own}` has no point 1")))?;
    let about: About =
        serde_json::from_value(payload).map_err(|error| not_ours(format!("`{own}`: {error}")))?;
    if about.format != FORMAT {
        return Err(RemoteError::Format {
            place: client.place.clone(),
            found: about.format,
            known: FORMAT,
        });
    }
    Ok(Some(about))
}
