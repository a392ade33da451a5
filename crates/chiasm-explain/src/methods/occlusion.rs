//! What a result loses when a part of the input is hidden.

use burn::tensor::{Tensor, TensorData};
use chiasm_nn::Tokens;
use chiasm_nn::model::Seen;
use chiasm_nn::text::TextInput;

use crate::error::ExplainError;
use crate::layout::{Layout, Places};
use crate::maps::Maps;
use crate::pass::region;
use crate::subject::{Input, Outputs, Subject, Target, host};

/// Inputs in one call of the model.
const BATCH: usize = 32;

/// A window that is hidden is this part of a picture's side, and at least a patch.
const WINDOWS: usize = 7;

/// The target of the whole input, and of inputs that each lack some places.
pub(crate) struct Scores {
    pub(crate) whole: f32,
    pub(crate) without: Vec<f32>,
    pub(crate) region: Option<usize>,
}

/// Runs the model on the input as it is and once for each set of places that are hidden: patches of the
/// mean colour, regions without features.
pub(crate) fn scores_without(
    subject: &Subject<'_>,
    input: &Input,
    target: &Target,
    hidden: &[Vec<usize>],
) -> Result<Scores, ExplainError> {
    let layout = subject.layout(input)?;
    let text = input.text.as_ref();
    let read = subject.read(text);
    let whole = outputs(subject, &input.seen, read.as_ref(), target, &layout)?;
    let region = region(subject, &whole, target)?;
    let original = subject.image_embeds(&whole);
    let score = |outputs: &Outputs| {
        host(subject.score(outputs, target, text, original.as_ref(), region)?)
    };
    let first = score(&whole)?.first().copied().unwrap_or(0.0);
    let mut without = Vec::with_capacity(hidden.len());
    for chunk in hidden.chunks(BATCH) {
        let seen = hide(&input.seen, &layout, chunk);
        without.extend(score(&outputs(
            subject,
            &seen,
            read.as_ref(),
            target,
            &layout,
        )?)?);
    }
    Ok(Scores {
        whole: first,
        without,
        region,
    })
}

/// A batch of images with one text.
fn outputs(
    subject: &Subject<'_>,
    seen: &Seen,
    text: Option<&Tokens>,
    target: &Target,
    layout: &Layout,
) -> Result<Outputs, ExplainError> {
    let image = subject.look(seen)?;
    let text = text.map(|text| text.select(&vec![0; seen.batch()]));
    let class_tokens = layout.class_tokens();
    let fused = subject
        .fuses(target)
        .then(|| subject.fuse(text.as_ref(), &image, class_tokens))
        .flatten();
    Ok(Outputs {
        text,
        image,
        fused,
        class_tokens,
    })
}

/// Copies of what is seen, each without some places.
fn hide(seen: &Seen, layout: &Layout, hidden: &[Vec<usize>]) -> Seen {
    let copies = hidden.len();
    match (seen, layout.places) {
        (Seen::Regions(regions), _) => {
            let count = regions.features.spans.tokens();
            let rows = hidden.iter().enumerate();
            let rows = rows.flat_map(|(copy, places)| places.iter().map(move |p| copy * count + p));
            let rows: Vec<usize> = rows.collect();
            Seen::Regions(regions.select(&vec![0; copies]).hide(&rows))
        }
        (Seen::Pixels(pixels), places) => {
            let [_, frames, channels, height, width] = pixels.dims();
            let side = match places {
                Places::Patches { side, .. } => side.max(1),
                Places::Regions(_) => 1,
            };
            // Normalised pixels: the mean colour is 0.
            let mut keep = vec![1.0f32; copies * frames * height * width];
            let (down, across) = (height / side, width / side);
            for (copy, places) in hidden.iter().enumerate() {
                for place in places {
                    let (frame, cell) = (place / (side * side), place % (side * side));
                    let (row, column) = (cell / side, cell % side);
                    for y in row * down..(row + 1) * down {
                        let start =
                            ((copy * frames + frame) * height + y) * width + column * across;
                        if let Some(line) = keep.get_mut(start..start + across) {
                            line.fill(0.0);
                        }
                    }
                }
            }
            let shape = [copies, frames, 1, height, width];
            let keep = Tensor::<5>::from_data(TensorData::new(keep, shape), &pixels.device());
            let shape = [copies, frames, channels, height, width];
            Seen::Pixels(pixels.clone().expand(shape) * keep.expand(shape))
        }
    }
}

/// Sets of places that are hidden one after another: windows that overlap by half, or single regions.
fn windows(places: Places) -> Vec<Vec<usize>> {
    match places {
        Places::Regions(count) => (0..count).map(|region| vec![region]).collect(),
        Places::Patches { side, frames } => {
            let window = side.div_ceil(WINDOWS).max(1);
            let last = side - window.min(side);
            // The last window ends at the border, whatever the step.
            let starts = || (0..last).step_by(window.div_ceil(2)).chain([last]);
            let mut all = Vec::new();
            for frame in 0..frames {
                for top in starts() {
                    for left in starts() {
                        let cells = (top..top + window).flat_map(|row| {
                            (left..left + window)
                                .map(move |column| (frame * side + row) * side + column)
                        });
                        all.push(cells.collect());
                    }
                }
            }
            all
        }
    }
}

/// Maps of what is lost with each place; a place in several windows has the mean of them. Losses that are
/// gains count as 0.
pub(super) fn maps(
    subject: &Subject<'_>,
    input: &Input,
    target: &Target,
) -> Result<Maps, ExplainError> {
    let layout = subject.layout(input)?;
    let windows = windows(layout.places);
    let scores = scores_without(subject, input, target, &windows)?;
    let count = layout.places.count();
    let (mut lost, mut times) = (vec![0.0f32; count], vec![0.0f32; count]);
    for (places, without) in windows.iter().zip(&scores.without) {
        for place in places {
            if let (Some(lost), Some(times)) = (lost.get_mut(*place), times.get_mut(*place)) {
                *lost += scores.whole - without;
                *times += 1.0;
            }
        }
    }
    let mean = |(lost, times): (f32, f32)| (lost / times.max(1.0)).max(0.0);
    Ok(Maps {
        score: scores.whole,
        region: scores.region,
        places: layout.places,
        whole: lost.into_iter().zip(times).map(mean).collect(),
        tokens: None,
        words: without_words(subject, input, target, &scores)?,
        kept: Vec::new(),
    })
}

/// What is lost with each token of the text, the special ones at both ends excepted: the text is read
/// without it. Empty where the target is about tokens or there is no text.
fn without_words(
    subject: &Subject<'_>,
    input: &Input,
    target: &Target,
    scores: &Scores,
) -> Result<Vec<f32>, ExplainError> {
    let Some(text) = input.text.as_ref() else {
        return Ok(Vec::new());
    };
    if matches!(target, Target::Hidden { .. }) || text.types.is_some() {
        return Ok(Vec::new());
    }
    let count = text.ids.len();
    let mut words = vec![0.0; count];
    let layout = subject.layout(input)?;
    let image = subject.look(&input.seen)?;
    for (at, lost) in words
        .iter_mut()
        .enumerate()
        .take(count.saturating_sub(1))
        .skip(1)
    {
        let (before, rest) = text.ids.split_at(at);
        let ids = [before, rest.get(1..).unwrap_or_default()].concat();
        let shorter = TextInput {
            spans: chiasm_nn::Spans::new([ids.len()]),
            ids: ids.into(),
            types: None,
        };
        let read = subject.read(Some(&shorter));
        let class_tokens = layout.class_tokens();
        let fused = subject
            .fuses(target)
            .then(|| subject.fuse(read.as_ref(), &image, class_tokens))
            .flatten();
        let outputs = Outputs {
            text: read,
            image: image.clone(),
            fused,
            class_tokens,
        };
        let score = subject.score(&outputs, target, Some(&shorter), None, scores.region)?;
        let score = host(score)?.first().copied().unwrap_or(0.0);
        *lost = (scores.whole - score).max(0.0);
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_cover_every_place() {
        for side in 1..20 {
            let places = Places::Patches { side, frames: 2 };
            let mut seen = vec![0; places.count()];
            for window in windows(places) {
                window.iter().for_each(|place| seen[*place] += 1);
            }

            assert!(seen.iter().all(|times| *times > 0), "{side}: {seen:?}");
        }
        assert_eq!(windows(Places::Regions(2)), [[0], [1]]);
    }
}
