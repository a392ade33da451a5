//! The index: `/v1/search`, its items and their thumbnails.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::header;
use axum::response::IntoResponse;
use chiasm_index::{Filter, Record};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::api::Body;
use crate::app::App;
use crate::engine::Ability;
use crate::error::{ApiError, ErrorBody};
use crate::search::{Catalogue, failed};

/// Most hits of a search, and items of a page.
const MAX_TOP: usize = 1000;

/// Longer side of a thumbnail in pixels, unless another is asked for.
const THUMBNAIL: usize = 256;

/// Longest side that can be asked for.
const MAX_SIDE: usize = 1024;

/// Hits that the fusion encoder ranks again.
const RERANKED: usize = 32;

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(search))
        .routes(routes!(index))
        .routes(routes!(reload))
        .routes(routes!(items))
        .routes(routes!(item))
        .routes(routes!(thumbnail))
}

/// What is looked for: words, a picture, or both.
#[derive(Deserialize, ToSchema)]
struct SearchRequest {
    text: Option<String>,
    /// A data URL, `item:ID`, base64, or an https address where the server fetches pictures.
    #[schema(example = json!(crate::api::PICTURE))]
    image: Option<String>,
    /// How many are listed.
    #[schema(minimum = 1, maximum = 1000)]
    top: Option<usize>,
    /// What an item must fulfil, such as `split=test and year>=2020`.
    filter: Option<String>,
    /// Let the fusion encoder rank the best again, where the model has one and words are given.
    #[serde(default)]
    rerank: bool,
}

/// Items, best first.
#[derive(Serialize, ToSchema)]
struct SearchAnswer {
    model: String,
    results: Vec<SearchResult>,
    /// Items of the index.
    searched: usize,
    /// Whether a near item may be missing: a large index is searched by its graph.
    approximate: bool,
}

/// An item that was found.
#[derive(Serialize, ToSchema)]
struct SearchResult {
    /// From 1.
    rank: usize,
    /// Cosine of query and item, -1 to 1; after ranking again the probability that they belong together.
    score: f32,
    #[serde(flatten)]
    item: Item,
}

/// An item of the index.
#[derive(Serialize, ToSchema)]
struct Item {
    id: String,
    /// What was embedded: `image`, `text` or `clip`.
    kind: &'static str,
    text: String,
    /// Where its thumbnail is, of one with a picture.
    thumbnail: Option<String>,
    #[schema(value_type = Object)]
    metadata: serde_json::Map<String, serde_json::Value>,
}

impl From<Record> for Item {
    fn from(record: Record) -> Self {
        let thumbnail = record
            .source
            .as_ref()
            .map(|_| format!("/v1/items/{}/thumbnail", percent_encoded(&record.key)));
        Self {
            id: record.key,
            kind: record.kind.name(),
            text: record.text,
            thumbnail,
            metadata: record.metadata,
        }
    }
}

/// An id as one segment of a path.
fn percent_encoded(id: &str) -> String {
    use std::fmt::Write as _;
    let mut segment = String::with_capacity(id.len());
    for byte in id.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                segment.push(char::from(byte));
            }
            _ => {
                let _ = write!(segment, "%{byte:02X}");
            }
        }
    }
    segment
}

/// The nearest items of words, a picture, or both together.
#[utoipa::path(post, path = "/v1/search", request_body = SearchRequest, responses(
    (status = 200, body = SearchAnswer),
    (status = "4XX", body = ErrorBody),
    (status = "5XX", body = ErrorBody),
))]
async fn search(
    State(app): State<Arc<App>>,
    Body(request): Body<SearchRequest>,
) -> Result<Json<SearchAnswer>, ApiError> {
    let catalogue = app.catalogue()?;
    let model = Arc::clone(catalogue.model());
    let id = model.card().id.clone();
    let top = request.top.unwrap_or(10);
    if !(1..=MAX_TOP).contains(&top) {
        return Err(ApiError::field(
            "top",
            format!("{top}: write 1 to {MAX_TOP}"),
        ));
    }
    let filter: Option<Filter> = match request.filter.as_deref().map(str::trim) {
        None | Some("") => None,
        Some(typed) => Some(typed.parse().map_err(failed)?),
    };
    let mut query = vec![0.0; model.card().dimensions];
    let mut add = |vectors: Vec<Vec<f32>>| {
        for (sum, value) in query.iter_mut().zip(vectors.iter().flatten()) {
            *sum += value;
        }
    };
    if let Some(text) = &request.text {
        if !model.card().can(Ability::EmbedText) {
            return Err(ApiError::lacks(&id, Ability::EmbedText));
        }
        let (counted, _) = model.counted(vec![app.text(text, "text")?.to_owned()]);
        add(model.embed_texts(counted).await?);
    }
    if let Some(image) = request.image {
        if !model.card().can(Ability::EmbedImage) {
            return Err(ApiError::lacks(&id, Ability::EmbedImage));
        }
        add(model
            .embed_pictures(vec![app.picture(image, "image").await?])
            .await?);
    }
    if query.iter().all(|value| *value == 0.0) {
        return Err(ApiError::field("text", "give words, a picture, or both"));
    }
    let rerank = request.text.filter(|_| request.rerank);
    let wanted = rerank.as_ref().map_or(top, |_| top.max(RERANKED));
    let find = move |app: &App| app.catalogue()?.search(&query, wanted, filter.as_ref());
    let found = blocking(&app, find).await?;
    let found = found.into_iter().map(|found| (found.score, found.record));
    let mut scored: Vec<(f32, Record)> = found.collect();
    if let Some(text) = rerank {
        if !model.card().can(Ability::Match) {
            return Err(ApiError::lacks(&id, Ability::Match));
        }
        for (score, record) in scored.iter_mut().take(RERANKED) {
            if record.source.is_none() {
                continue;
            }
            let picture = app.picture(format!("item:{}", record.key), "image").await?;
            let texts = vec![text.clone()];
            let alike = model
                .run(model.pair_tokens(), move |engine| {
                    engine.compare(&picture, &texts)
                })
                .await?;
            let probability = alike.first().and_then(|alike| alike.probability);
            *score = probability.ok_or_else(|| {
                ApiError::field(
                    "rerank",
                    format!("`{id}` was not trained to rank again; leave `rerank` out"),
                )
            })?;
        }
        scored.truncate(RERANKED);
        scored.sort_by(|a, b| b.0.total_cmp(&a.0));
        scored.truncate(top);
    }
    let index = catalogue.index();
    let results = scored
        .into_iter()
        .enumerate()
        .map(|(place, (score, record))| SearchResult {
            rank: place + 1,
            score,
            item: record.into(),
        });
    Ok(Json(SearchAnswer {
        model: id,
        results: results.collect(),
        searched: index.len(),
        approximate: index.is_approximate(),
    }))
}

/// The index of the server.
#[derive(Serialize, ToSchema)]
struct IndexAnswer {
    items: usize,
    dimensions: usize,
    /// The model whose vectors it has.
    model: String,
    /// Fields that filters can name.
    fields: Vec<String>,
}

impl IndexAnswer {
    fn of(catalogue: &Catalogue) -> Result<Self, ApiError> {
        let index = catalogue.index();
        Ok(Self {
            items: index.len(),
            dimensions: index.identity().width,
            model: catalogue.model().card().id.clone(),
            fields: catalogue.fields()?,
        })
    }
}

/// What the server's index has.
#[utoipa::path(get, path = "/v1/index", responses(
    (status = 200, body = IndexAnswer),
    (status = "4XX", body = ErrorBody),
))]
async fn index(State(app): State<Arc<App>>) -> Result<Json<IndexAnswer>, ApiError> {
    let read = |app: &App| IndexAnswer::of(app.catalogue()?);
    blocking(&app, read).await.map(Json)
}

/// Reads the index again, after something was added to it.
#[utoipa::path(post, path = "/v1/admin/reload", responses(
    (status = 200, body = IndexAnswer),
    (status = "4XX", body = ErrorBody),
    (status = "5XX", body = ErrorBody),
))]
async fn reload(State(app): State<Arc<App>>) -> Result<Json<IndexAnswer>, ApiError> {
    let again = |app: &App| {
        let catalogue = app.catalogue()?;
        catalogue.reload()?;
        IndexAnswer::of(catalogue)
    };
    blocking(&app, again).await.map(Json)
}

/// Which items are listed.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Listed {
    /// Items that are passed over.
    #[serde(default)]
    offset: usize,
    /// Items of a page: 24 unless said.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
}

/// A page of items.
#[derive(Serialize, ToSchema)]
struct Items {
    total: usize,
    items: Vec<Item>,
}

/// The items of the index, in the order in which they came into it.
#[utoipa::path(get, path = "/v1/items", params(Listed), responses(
    (status = 200, body = Items),
    (status = "4XX", body = ErrorBody),
))]
async fn items(
    State(app): State<Arc<App>>,
    listed: Result<Query<Listed>, QueryRejection>,
) -> Result<Json<Items>, ApiError> {
    let listed = query(listed)?;
    let limit = listed.limit.unwrap_or(24);
    if !(1..=MAX_TOP).contains(&limit) {
        return Err(ApiError::field(
            "limit",
            format!("{limit}: write 1 to {MAX_TOP}"),
        ));
    }
    let read = move |app: &App| {
        let index = app.catalogue()?.index();
        let records = index.page(listed.offset, limit).map_err(failed)?;
        Ok(Items {
            total: index.len(),
            items: records.into_iter().map(Item::from).collect(),
        })
    };
    blocking(&app, read).await.map(Json)
}

/// An item of the index.
#[utoipa::path(get, path = "/v1/items/{id}",
    params(("id" = String, Path, description = "The item")),
    responses((status = 200, body = Item), (status = "4XX", body = ErrorBody)))]
async fn item(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<Json<Item>, ApiError> {
    let read = move |app: &App| Ok(Item::from(app.catalogue()?.record(&id)?));
    blocking(&app, read).await.map(Json)
}

/// How large a picture is wanted.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Size {
    /// Pixels of the longer side at most: 256 unless said.
    #[param(minimum = 1, maximum = 1024)]
    side: Option<usize>,
}

/// A small picture of an item.
#[utoipa::path(get, path = "/v1/items/{id}/thumbnail",
    params(("id" = String, Path, description = "The item"), Size),
    responses(
        (status = 200, content_type = "image/png", body = Vec<u8>),
        (status = "4XX", body = ErrorBody),
    ))]
async fn thumbnail(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    size: Result<Query<Size>, QueryRejection>,
) -> Result<impl IntoResponse, ApiError> {
    let side = query(size)?.side.unwrap_or(THUMBNAIL);
    if !(1..=MAX_SIDE).contains(&side) {
        return Err(ApiError::field(
            "side",
            format!("{side}: write 1 to {MAX_SIDE}"),
        ));
    }
    let draw = move |app: &App| app.catalogue()?.thumbnail(&id, side);
    let bytes = blocking(&app, draw).await?;
    Ok((
        [
            (header::CONTENT_TYPE, "image/png"),
            (header::CACHE_CONTROL, "private, max-age=300"),
        ],
        bytes,
    ))
}

/// What follows the path of an address; what is wrong with it is said as every other error is.
fn query<T>(typed: Result<Query<T>, QueryRejection>) -> Result<T, ApiError> {
    typed
        .map(|Query(typed)| typed)
        .map_err(|error| ApiError::Request {
            message: error.body_text(),
            param: None,
        })
}

/// Runs what reads files or asks a database off the threads that answer.
async fn blocking<T: Send + 'static>(
    app: &Arc<App>,
    task: impl FnOnce(&App) -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let app = Arc::clone(app);
    tokio::task::spawn_blocking(move || app.noted(task(&app)))
        .await
        .map_err(|error| ApiError::Failed(error.to_string()))?
}
