//! Serving models over HTTP: an interface with an OpenAPI document, and a page for people.
//!
//! Knows no tensors: a model is an [`Engine`], given from above. A request is let in
//! (`guard.rs`), its pictures are decoded under caps (`picture.rs`), and what it asks waits in the bounded
//! queue of its model (`queue.rs`), where what is to be embedded shares batches. What cannot be taken is
//! refused at once, with how long to wait.

mod api;
mod app;
mod engine;
mod error;
mod fetch;
mod guard;
mod keys;
mod metrics;
mod page;
mod picture;
mod queue;
mod search;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

pub use app::{Config, Log, Parts};
pub use engine::{
    Ability, Alike, Card, Engine, EngineError, Explanation, Found, Grounded, Named, Places,
    Question, Relation, Selected, Word,
};
pub use fetch::FetchConfig;
pub use keys::{KeyError, Keys, Scope};
pub use picture::PictureLimits;
pub use queue::{ModelQueue, QueueConfig};
pub use search::{CatalogueError, address, source_at};

/// How long requests that are being answered may go on after the server was told to stop.
const DRAIN: Duration = Duration::from_secs(10);

/// Why a server cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Address {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// The index cannot be searched.
    #[error(transparent)]
    Index(#[from] CatalogueError),
    /// The system failed.
    #[error("the server stopped: {0}")]
    Io(#[from] std::io::Error),
}

impl ServeError {
    /// How to go on, where that can be said.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Address { source, .. } if source.kind() == std::io::ErrorKind::AddrInUse => {
                Some("another program listens there; take another port with `--port`".to_owned())
            }
            Self::Address { .. } | Self::Io(_) => None,
            Self::Index(error) => Some(error.hint().to_owned()),
        }
    }
}

/// Answers requests until the process is told to stop, then finishes what it has begun. `ready` hears
/// where the server listens.
///
/// # Errors
/// An address that is taken, or an index that cannot be searched.
pub fn serve(
    parts: Parts,
    address: SocketAddr,
    ready: impl FnOnce(SocketAddr),
) -> Result<(), ServeError> {
    let models = parts.models.clone();
    let app = Arc::new(app::App::new(parts)?);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let result = runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(address)
            .await
            .map_err(|source| ServeError::Address { address, source })?;
        let stopped = stop_signal()?;
        ready(listener.local_addr()?);
        let (told, mut heard) = tokio::sync::watch::channel(false);
        let server = axum::serve(listener, app::router(app)).with_graceful_shutdown(async move {
            stopped.await;
            let _ = told.send(true);
        });
        let too_long = async {
            let _ = heard.wait_for(|told| *told).await;
            tokio::time::sleep(DRAIN).await;
        };
        tokio::select! {
            done = server => done.map_err(ServeError::from),
            () = too_long => Ok(()),
        }
    });
    // Decoding that is under way is not waited for.
    runtime.shutdown_background();
    for model in models {
        model.close();
    }
    result
}

/// When the process is told to stop. From this call on it is heard, not from when it is waited for: who
/// reads that the server is ready may stop it at once.
#[cfg(unix)]
fn stop_signal() -> std::io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupted = signal(SignalKind::interrupt())?;
    let mut terminated = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupted.recv() => {}
            _ = terminated.recv() => {}
        }
    })
}

/// When the process is told to stop.
#[cfg(not(unix))]
fn stop_signal() -> std::io::Result<impl Future<Output = ()>> {
    Ok(async {
        let _ = tokio::signal::ctrl_c().await;
    })
}

#[cfg(test)]
mod tests;
