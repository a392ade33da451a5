//! How the server is, and what it has.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::engine::{Ability, Card};
use crate::error::{ApiError, ErrorBody};

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(health))
        .routes(routes!(metrics))
        .routes(routes!(models))
}

/// That the server lives.
#[derive(Serialize, ToSchema)]
struct Health {
    status: &'static str,
    version: &'static str,
}

/// Whether the server answers.
#[utoipa::path(get, path = "/health", responses((status = 200, body = Health)))]
async fn health() -> Json<Health> {
    Json(Health {
        status: "ok",
        version: env!("CARGO_PKG_VERSION"),
    })
}

/// What the server did, for Prometheus.
#[utoipa::path(get, path = "/metrics", responses(
    (status = 200, body = String, content_type = "application/openmetrics-text"),
    (status = "4XX", body = ErrorBody),
))]
async fn metrics(State(app): State<Arc<App>>) -> Result<impl IntoResponse, ApiError> {
    let text = app
        .metrics
        .text()
        .map_err(|error| ApiError::Failed(error.to_string()))?;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, kind)], text))
}

/// The models of the server.
#[derive(Serialize, ToSchema)]
struct Models {
    object: &'static str,
    data: Vec<Model>,
}

/// A model.
#[derive(Serialize, ToSchema)]
struct Model {
    id: String,
    object: &'static str,
    owned_by: &'static str,
    /// Numbers of a vector; 0 where it embeds nothing.
    dimensions: usize,
    /// What it can be asked for.
    abilities: Vec<Ability>,
    /// Ways to explain it.
    methods: Vec<String>,
    /// Its classes or answers, where it has some.
    classes: Option<usize>,
}

impl From<&Card> for Model {
    fn from(card: &Card) -> Self {
        Self {
            id: card.id.clone(),
            object: "model",
            owned_by: "chiasm",
            dimensions: card.dimensions,
            abilities: card.abilities.clone(),
            methods: card.methods.clone(),
            classes: card.classes,
        }
    }
}

/// The models, and what each can do.
#[utoipa::path(get, path = "/v1/models", responses(
    (status = 200, body = Models),
    (status = "4XX", body = ErrorBody),
))]
async fn models(State(app): State<Arc<App>>) -> Json<Models> {
    Json(Models {
        object: "list",
        data: app.models.iter().map(|model| model.card().into()).collect(),
    })
}
