//! Requests to Qdrant, and what its errors mean.

use std::io::ErrorKind;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use ureq::http::Response;
use ureq::{Agent, Body, Error};

use crate::address::QdrantAddress;
use crate::error::RemoteError;

/// The variable that a key comes from; never the command line, which others can see.
const KEY: &str = "CHIASM_QDRANT_KEY";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Of one request; a batch waits until it is stored.
const TIMEOUT: Duration = Duration::from_secs(120);
/// Most bytes of an answer: a page of records at their longest does not come.
const MAX_ANSWER: u64 = 1 << 30;
/// Most of what is shown of an answer that is none.
const SHOWN: usize = 200;

/// A collection that can be asked.
pub(crate) struct Client {
    agent: Agent,
    base: String,
    key: Option<String>,
    pub(crate) collection: String,
    pub(crate) place: String,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct Answer<T> {
    result: T,
}

impl Client {
    pub(crate) fn new(address: &QdrantAddress) -> Self {
        let agent = Agent::config_builder()
            // A database is reached as its address says.
            .proxy(None)
            .max_redirects(0)
            .http_status_as_error(false)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_global(Some(TIMEOUT))
            .user_agent(concat!("chiasm/", env!("CARGO_PKG_VERSION")))
            .build();
        let scheme = if address.https { "https" } else { "http" };
        let host = match address.host.contains(':') {
            true => format!("[{}]", address.host),
            false => address.host.clone(),
        };
        Self {
            agent: agent.into(),
            base: format!("{scheme}://{host}:{}", address.port),
            key: std::env::var(KEY).ok().filter(|key| !key.is_empty()),
            collection: address.collection.clone(),
            place: address.to_string(),
        }
    }

    /// What is at a path; nothing where nothing is.
    pub(crate) fn get<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>, RemoteError> {
        let request = self.agent.get(format!("{}{path}", self.base));
        let request = match &self.key {
            Some(key) => request.header("api-key", key),
            None => request,
        };
        self.read(request.call())
    }

    pub(crate) fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &Value,
    ) -> Result<Option<T>, RemoteError> {
        self.with_body(self.agent.post(format!("{}{path}", self.base)), body)
    }

    pub(crate) fn put(&self, path: &str, body: &Value) -> Result<(), RemoteError> {
        let done: Option<Value> =
            self.with_body(self.agent.put(format!("{}{path}", self.base)), body)?;
        done.map(|_| ()).ok_or_else(|| self.gone())
    }

    /// Changes settings.
    pub(crate) fn patch(&self, path: &str, body: &Value) -> Result<(), RemoteError> {
        let done: Option<Value> =
            self.with_body(self.agent.patch(format!("{}{path}", self.base)), body)?;
        done.map(|_| ()).ok_or_else(|| self.gone())
    }

    /// Removes a collection, whether it is there or not.
    pub(crate) fn drop(&self, collection: &str) -> Result<(), RemoteError> {
        let request = self
            .agent
            .delete(format!("{}/collections/{collection}", self.base));
        let request = match &self.key {
            Some(key) => request.header("api-key", key),
            None => request,
        };
        let done: Option<Value> = self.read(request.call())?;
        drop(done);
        Ok(())
    }

    /// What a collection is missing for that was there.
    pub(crate) fn gone(&self) -> RemoteError {
        RemoteError::NoIndex {
            place: self.place.clone(),
        }
    }

    fn with_body<T: DeserializeOwned>(
        &self,
        request: ureq::RequestBuilder<ureq::typestate::WithBody>,
        body: &Value,
    ) -> Result<Option<T>, RemoteError> {
        let request = request.header("content-type", "application/json");
        let request = match &self.key {
            Some(key) => request.header("api-key", key),
            None => request,
        };
        self.read(request.send(body.to_string()))
    }

    fn read<T: DeserializeOwned>(
        &self,
        answer: Result<Response<Body>, Error>,
    ) -> Result<Option<T>, RemoteError> {
        let mut answer = answer.map_err(|error| self.said(&error))?;
        let status = answer.status().as_u16();
        let body = answer
            .body_mut()
            .with_config()
            .limit(MAX_ANSWER)
            .read_to_vec();
        let body = body.map_err(|error| self.said(&error))?;
        let place = self.place.clone();
        match status {
            200..=299 => {
                let answer: Result<Answer<T>, _> = serde_json::from_slice(&body);
                match answer {
                    Ok(answer) => Ok(Some(answer.result)),
                    Err(error) => Err(RemoteError::Database {
                        place,
                        reason: format!("its answer is not one of Qdrant: {error}"),
                    }),
                }
            }
            404 => Ok(None),
            401 | 403 => Err(RemoteError::Login {
                place,
                reason: reason(status, &body),
                hint: "set CHIASM_QDRANT_KEY to a key of the server that may do this",
            }),
            502..=504 => Err(RemoteError::Unreachable {
                place,
                reason: reason(status, &body),
            }),
            _ => Err(RemoteError::Database {
                place,
                reason: reason(status, &body),
            }),
        }
    }

    fn said(&self, error: &Error) -> RemoteError {
        let place = self.place.clone();
        match error {
            Error::HostNotFound | Error::ConnectionFailed => RemoteError::Unreachable {
                place,
                reason: error.to_string(),
            },
            Error::Timeout(_) => RemoteError::Unreachable {
                place,
                reason: format!("no answer within {} s", TIMEOUT.as_secs()),
            },
            Error::Io(inner) => {
                let reason = inner.to_string();
                match inner.kind() {
                    ErrorKind::ConnectionReset
                    | ErrorKind::ConnectionAborted
                    | ErrorKind::BrokenPipe
                    | ErrorKind::UnexpectedEof => RemoteError::Lost { place, reason },
                    _ => RemoteError::Unreachable { place, reason },
                }
            }
            Error::Tls(_) | Error::Rustls(_) => RemoteError::Unreachable {
                place,
                reason: error.to_string(),
            },
            // Of a header that cannot be one, the only one that is not ours is the key.
            Error::Http(_) => RemoteError::Login {
                place,
                reason: "the key or the address has characters that HTTP does not take".to_owned(),
                hint: "see CHIASM_QDRANT_KEY",
            },
            other => RemoteError::Lost {
                place,
                reason: other.to_string(),
            },
        }
    }
}

/// What an answer that is an error says.
fn reason(status: u16, body: &[u8]) -> String {
    let json: Value = serde_json::from_slice(body).unwrap_or_default();
    let said = json.pointer("/status/error").and_then(Value::as_str);
    let text = String::from_utf8_lossy(body);
    let said = said.unwrap_or(text.trim());
    let shown: String = said.chars().take(SHOWN).collect();
    format!("status {status}: {shown}")
}
