//! What is answered when something cannot be.

use std::time::Duration;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::engine::{Ability, EngineError};

/// Why a request is refused or failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    /// The request is wrong; `param` says which part.
    #[error("{message}")]
    Request {
        /// What is wrong, and how to put it right.
        message: String,
        /// The field.
        param: Option<&'static str>,
    },
    /// A request of more bytes than are taken.
    #[error("the request has more than {0} bytes; send smaller or fewer pictures")]
    TooLarge(usize),
    /// Content of another type.
    #[error("send JSON with the header `Content-Type: application/json`")]
    ContentType,
    /// No key, or one that is not known.
    #[error("a key is needed: send it as `Authorization: Bearer KEY`")]
    Unauthenticated,
    /// A key whose scope does not cover this.
    #[error("the key may only read; this needs one of scope `admin`")]
    Forbidden,
    /// Addressed to a name that this server does not answer to.
    #[error("this server answers to localhost; start it with `--allow-remote` for other names")]
    Host,
    /// Nothing is there.
    #[error("{0}")]
    NotFound(String),
    /// The path is there, for another method.
    #[error("this path does not take that method; see /openapi.json")]
    Method,
    /// Too much is waiting.
    #[error("too much is waiting; try again in {} s", .0.as_secs().max(1))]
    Busy(Duration),
    /// The request waited longer than it may.
    #[error("not answered within {} s; try again", .0.as_secs_f32())]
    Deadline(Duration),
    /// The server is about to stop.
    #[error("the server is stopping")]
    Stopping,
    /// The database that has the index does not answer; why is for the log alone.
    #[error("the index cannot be searched at the moment; try again")]
    Index(String),
    /// The model failed.
    #[error("the model failed: {0}")]
    Failed(String),
}

/// An error as OpenAI's interface writes it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ErrorBody {
    error: ErrorDetail,
}

/// What went wrong.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ErrorDetail {
    /// What, and how to put it right.
    message: String,
    /// Its kind.
    #[serde(rename = "type")]
    kind: &'static str,
    /// The field of the request, where one is to blame.
    param: Option<&'static str>,
    /// Always null; clients expect the field.
    code: Option<String>,
}

impl ApiError {
    /// A request that is wrong in a field.
    pub(crate) fn field(param: &'static str, message: impl Into<String>) -> Self {
        Self::Request {
            message: message.into(),
            param: Some(param),
        }
    }

    /// A model that cannot do what it is asked for.
    pub(crate) fn lacks(model: &str, ability: Ability) -> Self {
        Self::field(
            "model",
            format!(
                "`{model}` {} (ability `{}`); /v1/models lists what each model can do",
                ability.lacking(),
                ability.name()
            ),
        )
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::Request { .. } => StatusCode::BAD_REQUEST,
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::ContentType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Unauthenticated => StatusCode::UNAUTHORIZED,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::Host => StatusCode::MISDIRECTED_REQUEST,
            Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Busy(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::Deadline(_) | Self::Stopping | Self::Index(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Unauthenticated | Self::Forbidden => "authentication_error",
            Self::NotFound(_) => "not_found",
            Self::Busy(_) | Self::Stopping => "overloaded",
            Self::Deadline(_) => "timeout",
            Self::Failed(_) | Self::Index(_) => "server_error",
            _ => "invalid_request_error",
        }
    }

    fn retry_after(&self) -> Option<u64> {
        match self {
            Self::Busy(wait) => Some(wait.as_secs().max(1)),
            Self::Deadline(_) | Self::Stopping | Self::Index(_) => Some(1),
            _ => None,
        }
    }
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Request(message) => Self::Request {
                message,
                param: None,
            },
            EngineError::Failed(message) => Self::Failed(message),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = ErrorBody {
            error: ErrorDetail {
                message: self.to_string(),
                kind: self.kind(),
                param: match &self {
                    Self::Request { param, .. } => *param,
                    _ => None,
                },
                code: None,
            },
        };
        let mut response = (self.status(), Json(body)).into_response();
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after() {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if matches!(self, Self::Unauthenticated) {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
