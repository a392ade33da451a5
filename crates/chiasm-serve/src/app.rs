//! The server's state, and its paths.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::DefaultBodyLimit;
use axum::{Router, middleware};
use chiasm_data::Rgb;
use chiasm_index::Store;
use tokio::sync::Semaphore;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;

use crate::api;
use crate::engine::Ability;
use crate::error::ApiError;
use crate::fetch::{FetchConfig, Fetcher};
use crate::guard::guard;
use crate::keys::Keys;
use crate::metrics::Metrics;
use crate::page;
use crate::picture::{self, Named, PictureLimits};
use crate::queue::ModelQueue;
use crate::search::{Catalogue, CatalogueError};

/// How much a server takes on.
#[derive(Clone, Debug)]
pub struct Config {
    /// Bytes of a request's body.
    pub max_body_bytes: usize,
    /// What a picture may cost.
    pub picture: PictureLimits,
    /// Texts or pictures of a request.
    pub max_items: usize,
    /// Bytes of a text.
    pub max_text_bytes: usize,
    /// Requests that are answered at a time; more are refused.
    pub max_requests: usize,
    /// How long an answer may take.
    pub deadline: Duration,
    /// Whether requests must be addressed to this machine.
    pub only_local: bool,
    /// How pictures behind addresses are fetched; not at all unless said.
    pub fetch: Option<FetchConfig>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_body_bytes: 24 << 20,
            picture: PictureLimits::default(),
            max_items: 256,
            max_text_bytes: 32 << 10,
            max_requests: 64,
            deadline: Duration::from_secs(60),
            only_local: true,
            fetch: None,
        }
    }
}

/// Pictures that are fetched at a time.
const FETCHES: usize = 8;

/// Where a line of the log goes.
pub type Log = Box<dyn Fn(&str) + Send + Sync>;

/// Everything that requests share.
pub(crate) struct App {
    pub(crate) config: Config,
    /// The first answers where a request names none.
    pub(crate) models: Vec<Arc<ModelQueue>>,
    pub(crate) index: Option<Catalogue>,
    pub(crate) keys: Option<Keys>,
    pub(crate) metrics: Metrics,
    /// Room for requests.
    pub(crate) places: Semaphore,
    /// Room for decoding: a picture takes memory, and waiting ones would take it all at once.
    decoders: Semaphore,
    fetcher: Option<Fetcher>,
    /// Room for fetching, apart: a slow server of somebody else must not keep pictures that are here.
    fetches: Semaphore,
    pub(crate) log: Log,
}

/// What a server is made of.
pub struct Parts {
    /// How much it takes on.
    pub config: Config,
    /// Its models; the first answers where a request names none.
    pub models: Vec<Arc<ModelQueue>>,
    /// The index that it searches.
    pub index: Option<Box<dyn Store>>,
    /// Who may ask; everybody, where there is none.
    pub keys: Option<Keys>,
    /// Where a line of the log goes.
    pub log: Log,
}

impl App {
    pub(crate) fn new(parts: Parts) -> Result<Self, CatalogueError> {
        let threads = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        let index = parts
            .index
            .map(|index| Catalogue::of(index, &parts.models))
            .transpose()?;
        Ok(Self {
            places: Semaphore::new(parts.config.max_requests),
            decoders: Semaphore::new(threads),
            fetcher: parts.config.fetch.as_ref().map(Fetcher::new),
            fetches: Semaphore::new(FETCHES),
            metrics: Metrics::new(parts.models.clone()),
            config: parts.config,
            models: parts.models,
            index,
            keys: parts.keys,
            log: parts.log,
        })
    }

    /// The model that a request names, if it can do what is asked.
    pub(crate) fn model(
        &self,
        name: Option<&str>,
        ability: Ability,
    ) -> Result<&Arc<ModelQueue>, ApiError> {
        let found = match name {
            None => self.models.iter().find(|model| model.card().can(ability)),
            Some(name) => {
                let named = self.models.iter().find(|model| model.card().id == name);
                Some(named.ok_or_else(|| {
                    let known: Vec<&str> = self
                        .models
                        .iter()
                        .map(|model| model.card().id.as_str())
                        .collect();
                    ApiError::NotFound(format!(
                        "there is no model `{name}`; there are: {}",
                        known.join(", ")
                    ))
                })?)
            }
        };
        match found.or(self.models.first()) {
            Some(model) if model.card().can(ability) => Ok(model),
            Some(model) => Err(ApiError::lacks(&model.card().id, ability)),
            None => Err(ApiError::NotFound("this server has no model".to_owned())),
        }
    }

    /// A text of a request, held to the cap.
    pub(crate) fn text<'a>(&self, text: &'a str, param: &'static str) -> Result<&'a str, ApiError> {
        let most = self.config.max_text_bytes;
        match text.len() {
            _ if text.trim().is_empty() => Err(ApiError::field(param, "the text is empty")),
            bytes if bytes > most => Err(ApiError::field(
                param,
                format!("the text has {bytes} bytes, more than {most}; send a shorter one"),
            )),
            _ => Ok(text),
        }
    }

    /// A picture of a request, decoded.
    pub(crate) async fn picture(
        self: &Arc<Self>,
        picture: String,
        param: &'static str,
    ) -> Result<Arc<Rgb>, ApiError> {
        let room = match picture::named(&picture, param)? {
            Named::There(_) => &self.fetches,
            Named::Here(_) | Named::Item(_) => &self.decoders,
        };
        let Ok(_place) = room.acquire().await else {
            return Err(ApiError::Stopping);
        };
        let app = Arc::clone(self);
        let decoded = tokio::task::spawn_blocking(move || match picture::named(&picture, param)? {
            Named::Here(data) => picture::from_base64(data, &app.config.picture, param),
            Named::Item(id) => {
                let bytes = app.noted(app.catalogue()?.picture(id))?;
                picture::from_bytes(&bytes, &app.config.picture, param)
            }
            Named::There(address) => {
                let fetcher = app
                    .fetcher
                    .as_ref()
                    .ok_or_else(|| picture::not_fetched(param))?;
                let bytes = fetcher.get(address, app.config.picture.max_bytes, param)?;
                picture::from_bytes(&bytes, &app.config.picture, param)
            }
        });
        decoded
            .await
            .map_err(|error| ApiError::Failed(error.to_string()))?
    }

    /// Writes into the log what an answer does not say.
    pub(crate) fn noted<T>(&self, result: Result<T, ApiError>) -> Result<T, ApiError> {
        if let Err(ApiError::Index(reason)) = &result {
            (self.log)(reason);
        }
        result
    }

    pub(crate) fn catalogue(&self) -> Result<&Catalogue, ApiError> {
        self.index.as_ref().ok_or_else(|| {
            ApiError::NotFound(
                "this server has no index; make one with `chiasm index` and start it with `--index`"
                    .to_owned(),
            )
        })
    }
}

/// The document that describes the interface.
#[derive(OpenApi)]
#[openapi(info(
    title = "chiasm",
    description = "Pictures and texts: embed, compare, relate, ask, find, search and explain.",
    license(name = "MIT OR Apache-2.0")
))]
struct Document;

/// Everything that is answered.
pub(crate) fn router(app: Arc<App>) -> Router {
    let (router, document) = OpenApiRouter::with_openapi(Document::openapi())
        .merge(api::routes())
        .split_for_parts();
    let most = app.config.max_body_bytes;
    router
        .route(
            "/openapi.json",
            axum::routing::get(move || async move { axum::Json(document) }),
        )
        .merge(page::routes())
        .fallback(|| async {
            ApiError::NotFound("there is nothing here; see /openapi.json".to_owned())
        })
        .method_not_allowed_fallback(|| async { ApiError::Method })
        .layer(DefaultBodyLimit::max(most))
        .layer(middleware::from_fn_with_state(Arc::clone(&app), guard))
        .with_state(app)
}
