//! From a finished run to its report: baselines, held-out figures, searches, curves.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use burn::module::Module as _;
use burn::tensor::Device;
use chiasm_data::{
    AlphaRule, DataError, Dataset, ImageSource, Limits, Rect, Sample, Split, Visual, decode,
    frames, thumbnail,
};
use chiasm_eval::metrics::{Direction, TieRule, retrieval, shortlist};
use chiasm_eval::predictions::{
    ClassPredictions, GroundingPredictions, GroundingRow, Predictions, TrainingOverlap,
};
use chiasm_eval::report::{
    Answer, Chart, Curve, Found, Hit, Judged, QueryResult, Report, ResultRow, RowKind, RunFacts,
    SplitCount, write_report,
};
use chiasm_eval::score::{ClassReport, GroundingReport, OverlapReport, ScoreReport, render_table};
use chiasm_eval::tasks::retrieval::RetrievalJob;
use chiasm_regions::draw;
use chiasm_train::data::views;
use chiasm_train::run::{MetricLine, read_metrics};
use chiasm_train::{Outcome, TrainedModel};

use crate::commands::{eval, search};
use crate::error::CliError;
use crate::output::{note, peak_memory};

/// Held-out searches shown in the report.
const GALLERY: usize = 8;
/// Pictures shown a search.
const HITS: usize = 5;
/// Longer side of a picture in the report.
const THUMBNAIL: usize = 144;
/// Held-out samples of a classifier shown in the report.
const JUDGED: usize = 12;
/// Longer side of their pictures, which are shown larger.
const LARGE: usize = 224;

/// What the report says about the run beside its figures.
pub(crate) struct Facts<'a> {
    /// How to repeat it.
    pub(crate) command: &'a str,
    /// How it ended.
    pub(crate) outcome: &'a Outcome,
    /// Versions and machine.
    pub(crate) environment: &'a BTreeMap<String, String>,
    /// Device in words.
    pub(crate) device: &'a str,
    /// Threads used.
    pub(crate) threads: usize,
    /// When the command began.
    pub(crate) started: Instant,
    /// What of the split that is scored was trained on.
    pub(crate) overlap: TrainingOverlap,
    /// What of the validation split was trained on.
    pub(crate) val_overlap: OverlapReport,
}

/// What was written and what is printed.
pub(crate) struct Written {
    /// The page.
    pub(crate) html: PathBuf,
    /// Figures of the trained model.
    pub(crate) score: ScoreReport,
    /// Table and searches as text.
    pub(crate) text: String,
}

/// Evaluates the trained and the untrained model, searches, and writes the report.
#[allow(clippy::too_many_arguments)]
pub(crate) fn write(
    out: &Path,
    trained: &TrainedModel,
    device: &Device,
    dataset: &Dataset,
    subset: &Dataset,
    split: &str,
    searches: &[String],
    facts: &Facts<'_>,
) -> Result<Written, CliError> {
    let untrained = trained.untrained(device)?;
    let views = views(&trained.recipe.data, subset, &trained.config);
    let before = eval::measure(&eval::embedder(trained, &untrained, device, views), subset)?;
    drop(untrained);
    let embedder = eval::embedder(trained, &trained.model, device, views);
    let identity = eval::identity(trained, out);
    let shortlisted = trained.shortlist();
    let overlap = Some(facts.overlap.clone());
    let job = RetrievalJob {
        dataset: subset,
        split: split.to_owned(),
        model: identity,
        shortlist: shortlisted,
        exhaustive: false,
        training_overlap: overlap,
    };
    let predictions = eval::predict(&embedder, &job)?;
    let path = eval::predictions_path(out, split, "safetensors");
    let score = eval::write_and_score(&predictions, &path)?;

    let queries: Vec<&str> = searches.iter().map(String::as_str).collect();
    let found = if queries.is_empty() {
        Vec::new()
    } else {
        search::search(&embedder, subset, &queries, HITS)?
    };

    let marked = score.is_marked();
    let mut results = vec![
        ResultRow::chance(&score.dual),
        ResultRow::measured(RowKind::Untrained, "untrained model", &before),
        ResultRow::measured(RowKind::Dual, "trained, dual encoder", &score.dual).marked(marked),
    ];
    let mut notes = vec![format!(
        "Split \"{split}\": {} pictures and their {} texts. A tie counts as a miss.",
        score.images, score.texts
    )];
    if let Some(overlap) = &score.training_overlap {
        notes.push(overlap.lines(score.images).concat());
    }
    notes.extend(note_on_curve(trained, dataset, facts));
    if let Some(reranked) = &score.reranked {
        let label = format!("trained, top {shortlisted} re-ranked");
        let row = ResultRow::measured(RowKind::Reranked, label, reranked);
        results.push(row.marked(marked));
        notes.push(format!(
            "Re-ranked: the fusion encoder orders the {shortlisted} best of the dual encoder."
        ));
    }
    let report = Report {
        title: format!("chiasm: {}", trained.recipe.name),
        run: run_facts(trained, dataset, facts),
        results,
        classes: None,
        grounding: None,
        judged: Vec::new(),
        found: Vec::new(),
        training_overlap: score.training_overlap.clone(),
        notes,
        gallery: gallery(&predictions, subset),
        examples: found
            .iter()
            .map(|search| QueryResult {
                query: search.query.clone(),
                answer: None,
                top: search
                    .results
                    .iter()
                    .map(|hit| Hit {
                        image: picture(subset, hit.index),
                        caption: hit.text.clone(),
                        score: hit.score,
                        correct: false,
                    })
                    .collect(),
            })
            .collect(),
        curves: curves(&read_metrics(out)?),
    };
    let (html, _) = write_report(&report, out)?;
    let mut text = render_table(&score);
    text.push_str(&format!(
        "\nuntrained model: text to image R@10 {:.1} %, image to text R@10 {:.1} %\n",
        100.0 * before.text_to_image.recall_at_10,
        100.0 * before.image_to_text.recall_at_10
    ));
    if !found.is_empty() {
        text.push('\n');
        text.push_str(&search::render(&found));
    }
    Ok(Written { html, score, text })
}

/// Writes the report of a classifier from its predictions; the path of the page.
pub(crate) fn write_classes(
    out: &Path,
    trained: &TrainedModel,
    dataset: &Dataset,
    subset: &Dataset,
    predictions: &ClassPredictions,
    score: &ClassReport,
    facts: &Facts<'_>,
) -> Result<PathBuf, CliError> {
    // A row a text, in the order of samples.
    let samples: Vec<usize> = subset.pairs().iter().map(|(sample, _)| *sample).collect();
    let report = Report {
        title: format!("chiasm: {}", trained.recipe.name),
        run: run_facts(trained, dataset, facts),
        classes: Some(score.clone()),
        training_overlap: score.training_overlap.clone(),
        notes: note_on_curve(trained, dataset, facts).into_iter().collect(),
        judged: Judged::spread(predictions, JUDGED, |row| {
            samples
                .get(row)
                .map_or_else(Vec::new, |sample| pictures(subset, *sample))
        }),
        curves: curves(&read_metrics(out)?),
        ..Report::default()
    };
    let (html, _) = write_report(&report, out)?;
    Ok(html)
}

/// Writes the report of a model that finds what texts refer to from its predictions; `referring` has a sample
/// for every text. The path of the page.
pub(crate) fn write_grounding(
    out: &Path,
    trained: &TrainedModel,
    dataset: &Dataset,
    referring: &Dataset,
    predictions: &GroundingPredictions,
    score: &GroundingReport,
    facts: &Facts<'_>,
) -> Result<PathBuf, CliError> {
    let by_id = |row: &GroundingRow| referring.samples.iter().find(|sample| sample.id == row.id);
    let report = Report {
        title: format!("chiasm: {}", trained.recipe.name),
        run: run_facts(trained, dataset, facts),
        grounding: Some(score.clone()),
        training_overlap: score.training_overlap.clone(),
        notes: note_on_curve(trained, dataset, facts).into_iter().collect(),
        found: Found::spread(predictions, JUDGED, |row| with_boxes(by_id(row)?, row)),
        curves: curves(&read_metrics(out)?),
        ..Report::default()
    };
    let (html, _) = write_report(&report, out)?;
    Ok(html)
}

/// A sample's picture with the box that is meant and the one that was found.
fn with_boxes(sample: &Sample, row: &GroundingRow) -> Option<Vec<u8>> {
    let png = small(&sample.id, frames::still_source(sample), LARGE)?;
    let mut picture = decode(&png, &Limits::default(), false, AlphaRule::default()).ok()?;
    let [width, height] = row.size;
    let rect = |[x1, y1, x2, y2]: [f64; 4]| Rect {
        x1: (x1 / width) as f32,
        y1: (y1 / height) as f32,
        x2: (x2 / width) as f32,
        y2: (y2 / height) as f32,
    };
    let found = row.predicted.map(rect);
    draw::meant_and_found(&mut picture, &rect(row.right), found.as_ref());
    thumbnail::png(&picture).ok()
}

/// What is to be seen of a sample: every picture that its text speaks of, of a clip the middle frame.
fn pictures(dataset: &Dataset, index: usize) -> Vec<Option<Vec<u8>>> {
    let Some(sample) = dataset.samples.get(index) else {
        return Vec::new();
    };
    match &sample.visual {
        Visual::Images(sources) => {
            let small = |source| small(&sample.id, Ok(source), LARGE);
            sources.iter().map(small).collect()
        }
        _ => vec![small(&sample.id, frames::still_source(sample), LARGE)],
    }
}

/// What of the validation split was trained on, where something was and the split is measured.
fn note_on_curve(trained: &TrainedModel, dataset: &Dataset, facts: &Facts<'_>) -> Option<String> {
    let is_measured = !trained.recipe.data.train_splits.contains(&Split::Val);
    let lines = || {
        let count = dataset.subset(Split::Val).len();
        facts.val_overlap.lines(count).concat()
    };
    (is_measured && facts.val_overlap.marked)
        .then(|| format!("Split \"val\", on which the curve is measured: {}", lines()))
}

fn run_facts(trained: &TrainedModel, dataset: &Dataset, facts: &Facts<'_>) -> RunFacts {
    RunFacts {
        recipe: trained.recipe.name.clone(),
        command: facts.command.to_owned(),
        seed: trained.recipe.schedule.seed,
        device: facts.device.to_owned(),
        threads: facts.threads,
        duration_seconds: facts.started.elapsed().as_secs_f64(),
        dataset: dataset.name.clone(),
        fingerprint: dataset.fingerprint(),
        splits: dataset
            .counts()
            .into_iter()
            .map(|(split, count)| SplitCount {
                name: split.to_string(),
                images: count.images as u64,
                texts: count.texts as u64,
            })
            .collect(),
        parameters: trained.model.num_params() as u64,
        steps: facts.outcome.step,
        samples_per_second: facts.outcome.samples_per_second,
        peak_memory_bytes: peak_memory(),
        environment: facts.environment.clone(),
    }
}

/// Evenly spaced held-out texts with the pictures found for them.
fn gallery(predictions: &Predictions, subset: &Dataset) -> Vec<QueryResult> {
    let pairing = &predictions.image_of_text;
    let ranks = retrieval::ranks(
        &predictions.scores,
        pairing,
        Direction::TextToImage,
        TieRule::default(),
    )
    .unwrap_or_default();
    let tops = shortlist(&predictions.scores, Direction::TextToImage, HITS);
    let texts = &predictions.info.texts;
    let stride = (texts.len() / GALLERY).max(1);
    (0..texts.len())
        .step_by(stride)
        .take(GALLERY)
        .filter_map(|text| {
            let own = *pairing.get(text)?;
            let hit = |image: &u32| {
                let image = *image as usize;
                Some(Hit {
                    image: picture(subset, image),
                    caption: subset.samples.get(image)?.texts.first()?.clone(),
                    score: predictions.scores.get(image, text)?,
                    correct: image == own,
                })
            };
            Some(QueryResult {
                query: texts.get(text)?.clone(),
                answer: Some(Answer {
                    rank: *ranks.get(text)?,
                    image: picture(subset, own),
                }),
                top: tops.get(text)?.iter().filter_map(hit).collect(),
            })
        })
        .collect()
}

/// A small copy of a picture; a report goes on without one that has become unreadable.
pub(crate) fn picture(dataset: &Dataset, index: usize) -> Option<Vec<u8>> {
    let sample = dataset.samples.get(index)?;
    small(&sample.id, frames::still_source(sample), THUMBNAIL)
}

/// A copy of a picture whose longer side is at most `side`.
fn small(id: &str, source: Result<&ImageSource, DataError>, side: usize) -> Option<Vec<u8>> {
    let small = source
        .and_then(ImageSource::read)
        .map_err(|error| error.to_string())
        .and_then(|bytes| thumbnail(&bytes, side).map_err(|error| error.to_string()));
    match small {
        Ok(png) => Some(png),
        Err(error) => {
            note(&format!(
                "warning: {id} is not shown in the report: {error}"
            ));
            None
        }
    }
}

/// Curves of the report from the run's metrics.
fn curves(lines: &[MetricLine]) -> Vec<Curve> {
    let mut found: BTreeMap<(u8, String), Curve> = BTreeMap::new();
    for line in lines {
        for (name, value) in &line.values {
            let place = match (line.kind.as_str(), name.as_str()) {
                ("train", "loss") => (0, Chart::Loss, "total"),
                ("train", name) if name.starts_with("loss_") => {
                    (1, Chart::Loss, name.trim_start_matches("loss_"))
                }
                ("val", "text_to_image_recall_at_10") => {
                    (2, Chart::ValidationRecall, "text to image R@10")
                }
                ("val", "image_to_text_recall_at_10") => {
                    (3, Chart::ValidationRecall, "image to text R@10")
                }
                ("val", "accuracy") => (3, Chart::ValidationAccuracy, "accuracy"),
                ("train", "learning_rate") => (4, Chart::LearningRate, "learning rate"),
                _ => continue,
            };
            let (order, chart, label) = place;
            found
                .entry((order, label.to_owned()))
                .or_insert_with(|| Curve {
                    chart,
                    name: label.to_owned(),
                    unit: String::new(),
                    points: Vec::new(),
                })
                .points
                .push((line.step as f64, *value));
        }
    }
    found.into_values().collect()
}
