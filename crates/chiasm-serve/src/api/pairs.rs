//! What is asked about a picture and a text: `/v1/match`, `/v1/relation`, `/v1/vqa`, `/v1/ground`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::api::Body;
use crate::app::App;
use crate::engine::{Ability, Found, Relation};
use crate::error::{ApiError, ErrorBody};

/// Most answers or boxes that are listed.
const MAX_TOP: usize = 100;

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(compare))
        .routes(routes!(relation))
        .routes(routes!(vqa))
        .routes(routes!(ground))
}

fn listed(top: Option<usize>, usual: usize) -> Result<usize, ApiError> {
    match top.unwrap_or(usual) {
        top @ 1..=MAX_TOP => Ok(top),
        top => Err(ApiError::field(
            "top",
            format!("{top}: write 1 to {MAX_TOP}"),
        )),
    }
}

/// A picture and texts that may belong to it.
#[derive(Deserialize, ToSchema)]
struct MatchRequest {
    model: Option<String>,
    /// A data URL, `item:ID`, base64, or an https address where the server fetches pictures.
    #[schema(example = json!(crate::api::PICTURE))]
    image: String,
    #[schema(min_items = 1)]
    texts: Vec<String>,
}

/// How well each text fits.
#[derive(Serialize, ToSchema)]
struct MatchAnswer {
    model: String,
    scores: Vec<MatchScore>,
}

/// How well a text fits.
#[derive(Serialize, ToSchema)]
struct MatchScore {
    text: String,
    /// Cosine of their vectors, -1 to 1; null of a model without a common space.
    cosine: Option<f32>,
    /// Probability that they belong together; null of a model that was not trained to say so.
    probability: Option<f32>,
}

/// How well texts fit a picture.
#[utoipa::path(post, path = "/v1/match", request_body = MatchRequest, responses(
    (status = 200, body = MatchAnswer),
    (status = "4XX", body = ErrorBody),
    (status = "5XX", body = ErrorBody),
))]
async fn compare(
    State(app): State<Arc<App>>,
    Body(request): Body<MatchRequest>,
) -> Result<Json<MatchAnswer>, ApiError> {
    let model = Arc::clone(app.model(request.model.as_deref(), Ability::Match)?);
    let most = app.config.max_items;
    if request.texts.is_empty() || request.texts.len() > most {
        let count = request.texts.len();
        return Err(ApiError::field(
            "texts",
            format!("{count} texts; send 1 to {most}"),
        ));
    }
    for text in &request.texts {
        app.text(text, "texts")?;
    }
    let picture = app.picture(request.image, "image").await?;
    let (texts, tokens) = (request.texts, model.pair_tokens());
    let tokens = tokens * texts.len();
    let (texts, scores) = model
        .run(tokens, move |engine| {
            let scores = engine.compare(&picture, &texts)?;
            Ok((texts, scores))
        })
        .await?;
    let scores = texts.into_iter().zip(scores);
    Ok(Json(MatchAnswer {
        model: model.card().id.clone(),
        scores: scores
            .map(|(text, alike)| MatchScore {
                text,
                cosine: alike.cosine,
                probability: alike.probability,
            })
            .collect(),
    }))
}

/// A picture and a text.
#[derive(Deserialize, ToSchema)]
struct RelationRequest {
    model: Option<String>,
    /// A data URL, `item:ID`, base64, or an https address where the server fetches pictures.
    #[schema(example = json!(crate::api::PICTURE))]
    image: String,
    #[schema(min_length = 1)]
    text: String,
}

/// How they relate.
#[derive(Serialize, ToSchema)]
struct RelationAnswer {
    model: String,
    #[serde(flatten)]
    relation: Relation,
}

/// How a text relates to a picture.
#[utoipa::path(post, path = "/v1/relation", request_body = RelationRequest, responses(
    (status = 200, body = RelationAnswer),
    (status = "4XX", body = ErrorBody),
    (status = "5XX", body = ErrorBody),
))]
async fn relation(
    State(app): State<Arc<App>>,
    Body(request): Body<RelationRequest>,
) -> Result<Json<RelationAnswer>, ApiError> {
    let model = Arc::clone(app.model(request.model.as_deref(), Ability::Relation)?);
    app.text(&request.text, "text")?;
    let picture = app.picture(request.image, "image").await?;
    let relation = model
        .run(model.pair_tokens(), move |engine| {
            engine.relate(&picture, &request.text)
        })
        .await?;
    Ok(Json(RelationAnswer {
        model: model.card().id.clone(),
        relation,
    }))
}

/// A picture and a question about it.
#[derive(Deserialize, ToSchema)]
struct VqaRequest {
    model: Option<String>,
    /// A data URL, `item:ID`, base64, or an https address where the server fetches pictures.
    #[schema(example = json!(crate::api::PICTURE))]
    image: String,
    #[schema(min_length = 1)]
    question: String,
    /// How many answers are listed.
    #[schema(minimum = 1, maximum = 100)]
    top: Option<usize>,
}

/// The most probable answers, best first.
#[derive(Serialize, ToSchema)]
struct VqaAnswer {
    model: String,
    answers: Vec<OneAnswer>,
}

/// An answer with its probability.
#[derive(Serialize, ToSchema)]
struct OneAnswer {
    answer: String,
    probability: f64,
}

/// Answers to a question about a picture, or classes of a picture with a statement.
#[utoipa::path(post, path = "/v1/vqa", request_body = VqaRequest, responses(
    (status = 200, body = VqaAnswer),
    (status = "4XX", body = ErrorBody),
    (status = "5XX", body = ErrorBody),
))]
async fn vqa(
    State(app): State<Arc<App>>,
    Body(request): Body<VqaRequest>,
) -> Result<Json<VqaAnswer>, ApiError> {
    let model = Arc::clone(app.model(request.model.as_deref(), Ability::Answer)?);
    app.text(&request.question, "question")?;
    let top = listed(request.top, 5)?;
    let picture = app.picture(request.image, "image").await?;
    let answers = model
        .run(model.pair_tokens(), move |engine| {
            engine.answer(&picture, &request.question, top)
        })
        .await?;
    let answers = answers.into_iter().map(|own| OneAnswer {
        answer: own.class,
        probability: own.probability,
    });
    Ok(Json(VqaAnswer {
        model: model.card().id.clone(),
        answers: answers.collect(),
    }))
}

/// A picture and a phrase that names something in it.
#[derive(Deserialize, ToSchema)]
struct GroundRequest {
    model: Option<String>,
    /// A data URL, `item:ID`, base64, or an https address where the server fetches pictures.
    #[schema(example = json!(crate::api::PICTURE))]
    image: String,
    #[schema(min_length = 1)]
    phrase: String,
    /// How many boxes are listed.
    #[schema(minimum = 1, maximum = 100)]
    top: Option<usize>,
}

/// Boxes, best first.
#[derive(Serialize, ToSchema)]
struct GroundAnswer {
    model: String,
    /// What found them: a head that was trained for it, or the heaviest part of an explanation.
    by: &'static str,
    boxes: Vec<Found>,
}

/// Where a picture has what a phrase names.
#[utoipa::path(post, path = "/v1/ground", request_body = GroundRequest, responses(
    (status = 200, body = GroundAnswer),
    (status = "4XX", body = ErrorBody),
    (status = "5XX", body = ErrorBody),
))]
async fn ground(
    State(app): State<Arc<App>>,
    Body(request): Body<GroundRequest>,
) -> Result<Json<GroundAnswer>, ApiError> {
    let model = Arc::clone(app.model(request.model.as_deref(), Ability::Ground)?);
    app.text(&request.phrase, "phrase")?;
    let top = listed(request.top, 3)?;
    let picture = app.picture(request.image, "image").await?;
    let found = model
        .run(model.pair_tokens(), move |engine| {
            engine.ground(&picture, &request.phrase, top)
        })
        .await?;
    Ok(Json(GroundAnswer {
        model: model.card().id.clone(),
        by: found.by,
        boxes: found.boxes,
    }))
}
