//! What is answered, a file a subject.

mod embeddings;
mod explain;
mod pairs;
mod search;
mod system;

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{FromRequest, Request};
use utoipa_axum::router::OpenApiRouter;

use crate::app::App;
use crate::error::ApiError;

/// A picture of one point, the example of the document.
const PICTURE: &str = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGNwaDgAAAKEAYEml6crAAAAAElFTkSuQmCC";

/// All paths with their descriptions.
pub(crate) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .merge(system::routes())
        .merge(embeddings::routes())
        .merge(pairs::routes())
        .merge(search::routes())
        .merge(explain::routes())
}

/// A request in JSON; what is wrong with one is said as every other error is.
pub(crate) struct Body<T>(pub(crate) T);

impl<T: serde::de::DeserializeOwned> FromRequest<Arc<App>> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, ApiError> {
        match Json::<T>::from_request(request, app).await {
            Ok(Json(value)) => Ok(Self(value)),
            Err(JsonRejection::MissingJsonContentType(_)) => Err(ApiError::ContentType),
            Err(JsonRejection::BytesRejection(error)) => Err(
                match error.status() == axum::http::StatusCode::PAYLOAD_TOO_LARGE {
                    true => ApiError::TooLarge(app.config.max_body_bytes),
                    false => ApiError::Request {
                        message: "the request broke off".to_owned(),
                        param: None,
                    },
                },
            ),
            Err(error) => Err(ApiError::Request {
                message: format!("not what this path takes: {}", error.body_text()),
                param: None,
            }),
        }
    }
}
