//! `/v1/explain`: what a result rests on.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::api::Body;
use crate::app::App;
use crate::engine::{Ability, Explanation, Question};
use crate::error::{ApiError, ErrorBody};

/// An explanation runs the model again and again: that many times the tokens of a pair.
const COST: usize = 8;

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(explain))
}

/// A picture, a text, and how their result is to be explained.
#[derive(Deserialize, ToSchema)]
struct ExplainRequest {
    model: Option<String>,
    /// A data URL, `item:ID`, base64, or an https address where the server fetches pictures.
    #[schema(example = json!(crate::api::PICTURE))]
    image: String,
    #[schema(min_length = 1)]
    text: String,
    /// The way to explain: one of the model's `methods`.
    method: Option<String>,
    /// What of the result: `match`, `cosine`, `class`, `class=NAME` or `region`.
    target: Option<String>,
    /// Also show attention that keeps what passes a threshold, such as `prob_abs=0.05`.
    select: Option<String>,
}

/// Maps over places and words.
#[derive(Serialize, ToSchema)]
struct ExplainAnswer {
    model: String,
    #[serde(flatten)]
    explanation: Explanation,
}

/// What a result rests on: maps over the picture, for the whole text and word by word.
#[utoipa::path(post, path = "/v1/explain", request_body = ExplainRequest, responses(
    (status = 200, body = ExplainAnswer),
    (status = "4XX", body = ErrorBody),
    (status = "5XX", body = ErrorBody),
))]
async fn explain(
    State(app): State<Arc<App>>,
    Body(request): Body<ExplainRequest>,
) -> Result<Json<ExplainAnswer>, ApiError> {
    let model = Arc::clone(app.model(request.model.as_deref(), Ability::Explain)?);
    let card = model.card();
    if request.select.is_some() && !card.can(Ability::Select) {
        return Err(ApiError::lacks(&card.id, Ability::Select));
    }
    if let Some(method) = &request.method
        && !card.methods.contains(method)
    {
        let known = card.methods.join(", ");
        return Err(ApiError::field(
            "method",
            format!("`{method}` is none of {known}"),
        ));
    }
    app.text(&request.text, "text")?;
    let picture = app.picture(request.image, "image").await?;
    let question = Question {
        method: request.method,
        target: request.target,
        select: request.select,
    };
    let explanation = model
        .run(COST * model.pair_tokens(), move |engine| {
            engine.explain(&picture, &request.text, &question)
        })
        .await?;
    Ok(Json(ExplainAnswer {
        model: card.id.clone(),
        explanation,
    }))
}
