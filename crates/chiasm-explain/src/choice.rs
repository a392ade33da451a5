//! Which layer and head of attention finds what words name: chosen on a validation part, and written down
//! in a run's folder, where later explanations find it.

use std::collections::BTreeMap;
use std::path::Path;

use chiasm_data::{Dataset, Rect, atomic};
use chiasm_eval::metrics::explanation::{Cells, score};
use chiasm_eval::predictions::{Choice, DatasetIdentity, ModelIdentity};
use chiasm_eval::tasks::embedder::Embedder;

use crate::error::ExplainError;
use crate::explainer::Explainer;
use crate::layout::Places;
use crate::maps::{Heads, Method, Request};
use crate::subject::Target;
use crate::task::{Scene, phrases};

/// Name of the file in a run's folder.
pub const FILE: &str = "explain.json";

/// Tries every layer of attention with the mean, the largest and each single one of its heads on phrases
/// with boxes; the one whose strongest place lies in a box most often is chosen, of equal ones the one with
/// the most attention in the boxes.
///
/// # Errors
/// A data set without phrases, or a model without attention between words and picture.
pub fn choose(
    explainer: &Explainer<'_>,
    embedder: &Embedder<'_>,
    dataset: &Dataset,
    split: &str,
    target: &Target,
    model: &ModelIdentity,
    progress: &mut dyn FnMut(&str, usize, usize),
) -> Result<Choice, ExplainError> {
    if !explainer.subject.fuses(target) {
        return Err(ExplainError::Lacks(
            "attention of this model does not go from words to places",
            "layers can be chosen of models that fuse both, explaining `match`, a class or a region",
        ));
    }
    // Sums of pointing and inside, by layer and heads.
    let mut found: BTreeMap<(usize, String), [f64; 2]> = BTreeMap::new();
    let mut count = 0;
    for (index, sample) in dataset.samples.iter().enumerate() {
        let (by_text, _) = phrases(sample);
        if by_text.is_empty() {
            continue;
        }
        let scene = Scene::of(embedder, dataset, index)?;
        if scene.is_empty() {
            continue;
        }
        let regions: Vec<Rect> = scene
            .regions
            .iter()
            .map(|&[x1, y1, x2, y2]| Rect { x1, y1, x2, y2 })
            .collect();
        for (text, phrases) in by_text {
            let words = sample.texts.get(text).map_or("", String::as_str);
            let every = explainer.every_attention(&scene.seen, words, target)?;
            for (phrase, bytes) in phrases {
                count += 1;
                for (layer, heads, explained) in &every {
                    let cells = match explained.places {
                        Places::Patches { side, .. } => Cells::Squares(side),
                        Places::Regions(_) => Cells::Regions(&regions),
                    };
                    let map = explained.of_bytes(&bytes);
                    let scored = map.and_then(|map| score(cells, &map, &phrase.boxes));
                    let sums = found.entry((*layer, heads.name())).or_default();
                    sums[0] += scored.map_or(0.0, |score| score.pointing);
                    sums[1] += scored.map_or(0.0, |score| score.inside);
                }
            }
        }
        progress("choose", index + 1, dataset.len());
    }
    let best = found
        .into_iter()
        .max_by(|(_, a), (_, b)| a[0].total_cmp(&b[0]).then(a[1].total_cmp(&b[1])));
    let Some(((layer, heads), sums)) = best else {
        return Err(ExplainError::Lacks(
            "there are no phrases with boxes to choose a layer on",
            "give data such as ALIGN-BENCH, Flickr30k Entities or phrases.jsonl",
        ));
    };
    Ok(Choice {
        layer,
        heads,
        pointing: sums[0] / f64::from(u32::try_from(count).unwrap_or(u32::MAX)).max(1.0),
        phrases: count,
        split: split.to_owned(),
        dataset: DatasetIdentity {
            name: dataset.name.clone(),
            fingerprint: dataset.fingerprint(),
        },
        step: model.step,
    })
}

/// Writes the choice into a run's folder.
///
/// # Errors
/// What the file system says.
pub fn save(folder: &Path, choice: &Choice) -> Result<(), ExplainError> {
    let path = folder.join(FILE);
    let wrong = |error: String| ExplainError::File(format!("{}: {error}", path.display()));
    let json = serde_json::to_vec_pretty(choice).map_err(|error| wrong(error.to_string()))?;
    atomic::write_bytes(&path, &json).map_err(|error| wrong(error.to_string()))
}

/// The choice in a run's folder, where there is one.
///
/// # Errors
/// A file that does not parse.
pub fn load(folder: &Path) -> Result<Option<Choice>, ExplainError> {
    let path = folder.join(FILE);
    let wrong = |error: String| ExplainError::File(format!("{}: {error}", path.display()));
    match std::fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| wrong(error.to_string())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(wrong(error.to_string())),
    }
}

/// A request for attention as it was chosen.
///
/// # Errors
/// Heads that no version has written.
pub fn request(choice: &Choice) -> Result<Request, ExplainError> {
    let heads = Heads::of(&choice.heads)
        .ok_or_else(|| ExplainError::File(format!("{FILE}: heads `{}`", choice.heads)))?;
    Ok(Request {
        layer: Some(choice.layer),
        heads,
        ..Request::new(Method::Attention)
    })
}
