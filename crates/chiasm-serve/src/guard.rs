//! What every request passes: who may ask, from where, how much at a time, and what every answer carries.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use crate::app::App;
use crate::error::ApiError;
use crate::keys::Scope;

/// What the page may load: itself, pictures that were dropped on it, and this server's answers.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
     img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; \
     frame-ancestors 'none'";

/// Bytes of a refused request that are read.
const DRAINED: usize = 64 << 10;

/// Headers of every answer.
const HEADERS: [(&str, &str); 5] = [
    ("content-security-policy", CONTENT_SECURITY_POLICY),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-resource-policy", "same-origin"),
    (
        "permissions-policy",
        "camera=(), microphone=(), geolocation=()",
    ),
];

/// Paths that a page needs before anybody can give it a key, and what tells that the server lives.
fn is_open(path: &str) -> bool {
    matches!(path, "/" | "/health") || path.starts_with("/assets/")
}

/// Paths that concern the server, not models.
fn needs_admin(path: &str) -> bool {
    path == "/metrics" || path.starts_with("/v1/admin/")
}

/// Lets a request through, or answers why not.
pub(crate) async fn guard(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let path = match request.extensions().get::<MatchedPath>() {
        Some(path) => path.as_str().to_owned(),
        None => "other".to_owned(),
    };
    app.metrics.in_flight.inc();
    let mut response = match admitted(&app, request, next).await {
        Ok(response) => response,
        Err(error) => error.into_response(),
    };
    app.metrics.in_flight.dec();
    let took = begun.elapsed();
    let status = response.status();
    app.metrics.answered(&path, status.as_u16(), took);
    if status.is_server_error() {
        (app.log)(&format!(
            "{path}: {} after {:.3} s",
            status.as_u16(),
            took.as_secs_f64()
        ));
    }
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        );
    }
    let micros = HeaderValue::from_str(&format!("total;dur={:.3}", took.as_secs_f64() * 1e3));
    if let Ok(value) = micros {
        headers.insert(HeaderName::from_static("server-timing"), value);
    }
    headers
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    response
}

async fn admitted(app: &App, request: Request, next: Next) -> Result<Response, ApiError> {
    let path = request.uri().path();
    if app.config.only_local && !is_local(request.headers()) {
        return Err(ApiError::Host);
    }
    if let Some(keys) = &app.keys
        && !is_open(path)
    {
        let scope = bearer(request.headers()).and_then(|key| keys.scope(key));
        match scope {
            None => return Err(ApiError::Unauthenticated),
            Some(Scope::Read) if needs_admin(path) => return Err(ApiError::Forbidden),
            Some(_) => {}
        }
    }
    // Who only asks whether the server lives is not turned away because it works.
    if is_open(path) || path == "/metrics" {
        return Ok(next.run(request).await);
    }
    let Ok(_place) = app.places.try_acquire() else {
        drain(request).await;
        return Err(ApiError::Busy(Duration::from_secs(1)));
    };
    let limit = app.config.deadline;
    tokio::time::timeout(limit, next.run(request))
        .await
        .map_err(|_| ApiError::Deadline(limit))
}

/// Reads the rest of a small request that is refused: a connection with unread bytes has to be closed, and a
/// new one for every attempt costs more than the answer.
async fn drain(request: Request) {
    let reading = axum::body::to_bytes(request.into_body(), DRAINED);
    let _ = tokio::time::timeout(Duration::from_secs(1), reading).await;
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, key) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
}

/// Whether a request was addressed to this machine by a name that only this machine has. A page of
/// somebody else whose name resolves to loopback (DNS rebinding) is told by its name.
fn is_local(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(header::HOST) else {
        // HTTP/1.0, which no browser speaks.
        return true;
    };
    let Ok(host) = host.to_str() else {
        return false;
    };
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next(),
        None => host.split(':').next(),
    };
    let name = name.unwrap_or_default();
    let address: Option<IpAddr> = name.parse().ok();
    name.eq_ignore_ascii_case("localhost") || address.is_some_and(|own| own.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_local() {
        let is_local = |host: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, HeaderValue::from_static(host));
            super::is_local(&headers)
        };
        for host in [
            "localhost",
            "localhost:8080",
            "127.0.0.1:80",
            "[::1]:8080",
            "LOCALHOST",
        ] {
            assert!(is_local(host), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:8080",
            "10.0.0.1",
            "[::2]",
            "localhost.evil.example",
            "",
        ] {
            assert!(!is_local(host), "{host}");
        }
    }

    #[test]
    fn keys_are_read_from_one_header() {
        let mut headers = HeaderMap::new();
        assert_eq!(bearer(&headers), None);
        for (value, key) in [
            ("Bearer abc", Some("abc")),
            ("bearer  abc", Some("abc")),
            ("Basic abc", None),
            ("abc", None),
        ] {
            headers.insert(header::AUTHORIZATION, HeaderValue::from_static(value));
            assert_eq!(bearer(&headers), key);
        }
    }
}
