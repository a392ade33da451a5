//! The methods, behind one function.

mod attention;
mod flow;
mod occlusion;

use burn::tensor::{Gradients, Tensor};
use chiasm_nn::watch::Watched;

use crate::cam;
use crate::error::ExplainError;
use crate::layout::Layout;
use crate::maps::{Maps, Method, Request};
use crate::pass::Pass;
use crate::subject::{Input, NO_TEXT, Readers, Subject, Target, host};
pub(crate) use attention::every as every_attention;
pub(crate) use occlusion::scores_without;

/// Explains one result of a model.
///
/// # Errors
/// A model, target or input that do not fit each other or the method; the error says which.
pub fn explain(
    subject: &Subject<'_>,
    input: &Input,
    target: &Target,
    request: &Request,
) -> Result<Maps, ExplainError> {
    if *target != Target::Itself && input.text.is_none() {
        return Err(NO_TEXT);
    }
    if subject.layout(input)?.places.count() == 0 {
        return Err(ExplainError::Lacks(
            "the picture has no regions",
            "there is nothing that a map could be over",
        ));
    }
    if *target == Target::Itself
        && matches!(
            request.method,
            Method::GradCam | Method::GradCamFusion | Method::Relevance
        )
    {
        return Err(ExplainError::Lacks(
            "a picture's likeness to itself has no gradient",
            "write a text after the picture, or take `attention`, `rollout` or `occlusion`",
        ));
    }
    if subject.crosses() && subject.fuses(target) && request.method != Method::Occlusion {
        return Err(ExplainError::Lacks(
            "words and regions look at each other through shared weights in this model, which only `occlusion` explains",
            "write `--method occlusion`",
        ));
    }
    match request.method {
        Method::Attention => {
            let pass = Pass::run(subject, input, target, false)?;
            attention::maps(subject, input, target, &pass, request)
        }
        Method::Rollout => {
            let pass = Pass::run(subject, input, target, false)?;
            let flow = flow::rollout(subject, target, &pass, request.heads)?;
            from_flow(subject, target, &pass, &flow)
        }
        Method::Relevance => {
            let pass = Pass::run(subject, input, target, true)?;
            let gradients = pass.score.clone().sum().backward();
            let flow = flow::relevance(subject, target, &pass, &gradients)?;
            from_flow(subject, target, &pass, &flow)
        }
        Method::GradCam | Method::GradCamFusion => {
            let pass = Pass::run(subject, input, target, true)?;
            let gradients = pass.score.clone().sum().backward();
            grad_cam(subject, target, &pass, &gradients, request)
        }
        Method::Occlusion => occlusion::maps(subject, input, target),
    }
}

/// A matrix over all tokens of a pair, words first, in the order of fusion: how much of each column there
/// is in each row.
struct Flow {
    tokens: usize,
    values: Vec<f32>,
}

impl Flow {
    fn at(&self, row: usize, column: usize) -> f32 {
        let place = row * self.tokens + column;
        self.values.get(place).copied().unwrap_or(0.0)
    }
}

/// Reads maps off a flow: rows of what the target is computed from, and of each word.
fn from_flow(
    subject: &Subject<'_>,
    target: &Target,
    pass: &Pass,
    flow: &Flow,
) -> Result<Maps, ExplainError> {
    let Layout { words, places, .. } = pass.layout;
    let place_tokens = pass.layout.place_tokens();
    let Readers { text, image } = &pass.readers;
    let rows = |readers: &[usize], first: usize| -> Vec<usize> {
        readers.iter().map(|reader| first + reader).collect()
    };
    let sides = [rows(text, 0), rows(image, words)];
    let read = |column: usize| -> f32 {
        let mean = |rows: &Vec<usize>| {
            let sum: f32 = rows.iter().map(|row| flow.at(*row, column)).sum();
            sum / rows.len().max(1) as f32
        };
        sides.iter().map(mean).sum()
    };
    let of_row = |row: usize| {
        let places = place_tokens.iter().map(|token| flow.at(row, words + token));
        places.collect::<Vec<_>>()
    };
    Ok(Maps {
        score: pass.value()?,
        region: pass.region,
        places,
        whole: place_tokens
            .iter()
            .map(|token| read(words + token))
            .collect(),
        tokens: subject
            .fuses(target)
            .then(|| (0..words).map(of_row).collect()),
        words: (0..words).map(read).collect(),
        kept: Vec::new(),
    })
}

fn grad_cam(
    subject: &Subject<'_>,
    target: &Target,
    pass: &Pass,
    gradients: &Gradients,
    request: &Request,
) -> Result<Maps, ExplainError> {
    let in_tower = request.method == Method::GradCam && !pass.image.is_empty();
    let (values, slopes, tokens) = if in_tower {
        let order = pass.layout.tower_order();
        let places = pass.layout.place_tokens().into_iter();
        let tokens = places.filter_map(|token| order.get(token).copied());
        let input = pass.image.last().map(|last| &last.input);
        let (values, slopes) = watched(input, gradients)?;
        (values, slopes, tokens.collect::<Vec<_>>())
    } else if !subject.fuses(target) {
        return Err(ExplainError::Lacks(
            "this target is computed without fusion",
            "take `grad-cam`, or explain `match`, a class or a region",
        ));
    } else if subject.is_one_stream() {
        let places = pass.layout.place_tokens().into_iter();
        let tokens = places.map(|token| pass.layout.words + token);
        let input = pass.fusion.last().map(|last| &last.input);
        let (values, slopes) = watched(input, gradients)?;
        (values, slopes, tokens.collect())
    } else {
        // What the last layer reads of the picture goes to both streams.
        let last = pass.pairs().last();
        let (values, own) = watched(last.as_ref().map(|pair| &pair.image.input), gradients)?;
        let other = last
            .as_ref()
            .and_then(|pair| pair.text_to_image.other.as_ref());
        let (_, crossed) = watched(other, gradients)?;
        (values, own + crossed, pass.layout.place_tokens())
    };
    let [_, channels] = values.dims();
    let (values, slopes) = (host(values)?, host(slopes)?);
    let rows = |from: &[f32]| -> Vec<f32> {
        let row = |token: &usize| from.get(token * channels..(token + 1) * channels);
        tokens.iter().filter_map(row).flatten().copied().collect()
    };
    let map = match request.smooth {
        true => cam::smooth(&rows(&values), &rows(&slopes), channels),
        false => cam::plain(&rows(&values), &rows(&slopes), channels),
    };
    Ok(Maps {
        score: pass.value()?,
        region: pass.region,
        places: pass.layout.places,
        whole: map.into_iter().map(|value| value.max(0.0)).collect(),
        tokens: None,
        words: Vec::new(),
        kept: Vec::new(),
    })
}

fn watched(
    watched: Option<&Watched<2>>,
    gradients: &Gradients,
) -> Result<(Tensor<2>, Tensor<2>), ExplainError> {
    let watched = watched.ok_or(ExplainError::Lacks(
        "the model has no layer to look into",
        "take `occlusion`",
    ))?;
    Ok((watched.values.clone(), watched.gradient(gradients)))
}
