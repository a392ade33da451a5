//! `/v1/embeddings`, as OpenAI's clients speak it, for texts and pictures.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::api::Body;
use crate::app::App;
use crate::engine::Ability;
use crate::error::{ApiError, ErrorBody};

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(embeddings))
}

/// What is to be embedded.
#[derive(Deserialize, ToSchema)]
struct EmbeddingsRequest {
    /// The model; the first one that embeds unless said.
    model: Option<String>,
    input: EmbeddingsInput,
    /// How vectors are written.
    #[serde(default)]
    encoding_format: Encoding,
    /// Must be the model's own number where it is given.
    dimensions: Option<usize>,
}

/// One text, or several texts or pictures.
#[derive(Deserialize, ToSchema)]
#[serde(untagged)]
enum EmbeddingsInput {
    One(String),
    Several(Vec<EmbeddingsItem>),
}

/// A text or a picture.
#[derive(Deserialize, ToSchema)]
#[serde(untagged)]
enum EmbeddingsItem {
    Plain(String),
    Text {
        text: String,
    },
    Picture {
        /// A data URL, `item:ID`, base64, or an https address where the server fetches pictures.
        #[schema(example = json!(crate::api::PICTURE))]
        image: String,
    },
}

/// How vectors are written.
#[derive(Clone, Copy, Default, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Encoding {
    /// Numbers.
    #[default]
    Float,
    /// Little-endian 32-bit numbers as base64.
    Base64,
}

/// Vectors in the order of the input.
#[derive(Serialize, ToSchema)]
struct EmbeddingsAnswer {
    object: &'static str,
    data: Vec<Embedding>,
    model: String,
    usage: Usage,
}

/// A vector of length 1.
#[derive(Serialize, ToSchema)]
struct Embedding {
    object: &'static str,
    index: usize,
    embedding: Vector,
}

#[derive(Serialize, ToSchema)]
#[serde(untagged)]
enum Vector {
    Numbers(Vec<f32>),
    Base64(String),
}

impl Vector {
    fn new(values: Vec<f32>, encoding: Encoding) -> Self {
        match encoding {
            Encoding::Float => Self::Numbers(values),
            Encoding::Base64 => {
                let bytes: Vec<u8> = values
                    .iter()
                    .flat_map(|value| value.to_le_bytes())
                    .collect();
                Self::Base64(STANDARD.encode(bytes))
            }
        }
    }
}

/// Tokens that were read: of texts their tokens, of pictures their patches.
#[derive(Serialize, ToSchema)]
struct Usage {
    prompt_tokens: usize,
    total_tokens: usize,
}

/// Unit vectors of texts and pictures. They lie in one space where the model has one.
#[utoipa::path(post, path = "/v1/embeddings", request_body = EmbeddingsRequest, responses(
    (status = 200, body = EmbeddingsAnswer),
    (status = "4XX", body = ErrorBody),
    (status = "5XX", body = ErrorBody),
))]
async fn embeddings(
    State(app): State<Arc<App>>,
    Body(request): Body<EmbeddingsRequest>,
) -> Result<Json<EmbeddingsAnswer>, ApiError> {
    let items = match request.input {
        EmbeddingsInput::One(text) => vec![EmbeddingsItem::Plain(text)],
        EmbeddingsInput::Several(items) => items,
    };
    let most = app.config.max_items;
    if items.is_empty() || items.len() > most {
        return Err(ApiError::field(
            "input",
            format!("{} items; send 1 to {most}", items.len()),
        ));
    }
    let wants_picture = items
        .iter()
        .any(|item| matches!(item, EmbeddingsItem::Picture { .. }));
    let wants_text = items
        .iter()
        .any(|item| !matches!(item, EmbeddingsItem::Picture { .. }));
    let first = match wants_text {
        true => Ability::EmbedText,
        false => Ability::EmbedImage,
    };
    let model = Arc::clone(app.model(request.model.as_deref(), first)?);
    let card = model.card();
    if wants_picture && !card.can(Ability::EmbedImage) {
        return Err(ApiError::lacks(&card.id, Ability::EmbedImage));
    }
    if let Some(dimensions) = request.dimensions.filter(|own| *own != card.dimensions) {
        return Err(ApiError::field(
            "dimensions",
            format!(
                "the model's vectors have {} numbers, not {dimensions}",
                card.dimensions
            ),
        ));
    }
    let (mut texts, mut pictures, mut is_text) = (Vec::new(), Vec::new(), Vec::new());
    for item in items {
        match item {
            EmbeddingsItem::Plain(text) | EmbeddingsItem::Text { text } => {
                texts.push(app.text(&text, "input")?.to_owned());
                is_text.push(true);
            }
            EmbeddingsItem::Picture { image } => {
                pictures.push(app.picture(image, "input").await?);
                is_text.push(false);
            }
        }
    }
    let (texts, text_tokens) = model.counted(texts);
    let picture_tokens = pictures.len() * model.picture_tokens();
    let (texts, pictures) =
        tokio::try_join!(model.embed_texts(texts), model.embed_pictures(pictures))?;
    let (mut texts, mut pictures) = (texts.into_iter(), pictures.into_iter());
    let vectors = is_text.iter().map(|is_text| match is_text {
        true => texts.next(),
        false => pictures.next(),
    });
    let data = vectors
        .flatten()
        .enumerate()
        .map(|(index, vector)| Embedding {
            object: "embedding",
            index,
            embedding: Vector::new(vector, request.encoding_format),
        });
    let tokens = text_tokens + picture_tokens;
    Ok(Json(EmbeddingsAnswer {
        object: "list",
        data: data.collect(),
        model: card.id.clone(),
        usage: Usage {
            prompt_tokens: tokens,
            total_tokens: tokens,
        },
    }))
}
