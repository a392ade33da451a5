//! The page, built into the program.

use std::sync::Arc;

use axum::Router;
use axum::extract::Path;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use rust_embed::RustEmbed;

use crate::app::App;
use crate::error::ApiError;

/// The page's files.
#[derive(RustEmbed)]
#[folder = "../../web"]
#[include = "index.html"]
#[include = "assets/**"]
struct Files;

pub(crate) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/", get(|| async { file("index.html") }))
        .route(
            "/assets/{*name}",
            get(|Path(name): Path<String>| async move { file(&format!("assets/{name}")) }),
        )
}

fn file(name: &str) -> Result<Response, ApiError> {
    let found = Files::get(name);
    let found =
        found.ok_or_else(|| ApiError::NotFound(format!("the page has no file `{name}`")))?;
    let kind = match name.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("svg") => "image/svg+xml",
        _ => "application/octet-stream",
    };
    // Small files that change with the program only: asked for again each time, so that none is stale.
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    Ok((headers, found.data).into_response())
}
