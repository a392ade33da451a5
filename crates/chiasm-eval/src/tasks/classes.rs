//! Classification of pairs: the answer to a question about a picture, whether a statement holds of
//! two, how a text relates to what is seen (`specs/scl.md` sections 6.1, 6.2, 6.5).

use std::collections::HashMap;
use std::path::Path;

use burn::tensor::Tensor;
use burn::tensor::activation::{sigmoid, softmax};
use chiasm_data::{Dataset, Sample, Targets};

use crate::predictions::classes::{ClassInfo, ClassRow, MAX_TOP, Targets as Compared};
use crate::predictions::{ClassPredictions, DatasetIdentity, ModelIdentity, TrainingOverlap};
use crate::tasks::embedder::{Embedder, TaskError, Towers, host};

/// What a run is to do and how it is labelled.
pub struct ClassJob<'a> {
    /// Samples of one split.
    pub dataset: &'a Dataset,
    /// The split's name.
    pub split: String,
    /// The model's name, run and step.
    pub model: ModelIdentity,
    /// The classes of the model.
    pub targets: &'a Targets,
    /// Pictures that a text speaks of together.
    pub pictures: usize,
    /// Whether every class was learned as a question of its own (VQA), not one class of all.
    pub independent: bool,
    /// The most frequent class of the training samples.
    pub majority: Option<String>,
    /// What of the data set was trained on; `None` when nobody looked.
    pub training_overlap: Option<TrainingOverlap>,
}

/// Classifies every text of a split with its picture or pictures. Samples of several texts have a row
/// for each.
///
/// # Errors
/// A model without a classifier, or a picture that cannot be read.
pub fn run(
    embedder: &Embedder<'_>,
    job: &ClassJob<'_>,
    progress: &mut dyn FnMut(&str, usize, usize),
) -> Result<ClassPredictions, TaskError> {
    let samples = &job.dataset.samples;
    let indices: Vec<usize> = (0..samples.len()).collect();
    let mut rows = Vec::new();
    for chunk in indices.chunks(embedder.batch_size.max(1)) {
        for (row, scores) in texts(job.dataset, chunk).zip(scores(embedder, job, chunk)?) {
            let (sample, text) = row;
            rows.push(class_row(job.targets, sample, text, &scores));
        }
        let done = chunk.last().map_or(0, |last| last + 1);
        progress("samples", done, samples.len());
    }
    Ok(ClassPredictions {
        info: ClassInfo {
            split: job.split.clone(),
            dataset: DatasetIdentity {
                name: job.dataset.name.clone(),
                fingerprint: job.dataset.fingerprint(),
            },
            model: job.model.clone(),
            targets: match job.targets {
                Targets::Answers(_) => Compared::Answers,
                Targets::Labels(_) => Compared::Labels,
            },
            classes: job.targets.names().to_vec(),
            majority: job.majority.clone(),
            training_overlap: job.training_overlap.clone(),
        },
        rows,
    })
}

/// Samples and numbers of all texts of a part of a data set.
fn texts<'a>(
    dataset: &'a Dataset,
    chunk: &'a [usize],
) -> impl Iterator<Item = (&'a Sample, usize)> {
    let samples = chunk.iter().filter_map(|index| dataset.samples.get(*index));
    samples.flat_map(|sample| (0..sample.texts.len()).map(move |text| (sample, text)))
}

/// What tells one picture from another without reading it.
#[derive(PartialEq, Eq, Hash)]
enum Seen<'a> {
    File(&'a Path),
    Sample(usize),
}

/// Probability of every class for all texts of a part of a data set.
fn scores(
    embedder: &Embedder<'_>,
    job: &ClassJob<'_>,
    chunk: &[usize],
) -> Result<Vec<Vec<f32>>, TaskError> {
    let Towers::Own(model) = embedder.towers else {
        return Err(TaskError::Lacks("classes"));
    };
    let Some(head) = &model.class_head else {
        return Err(TaskError::Lacks("classes"));
    };
    let views = embedder.views.with_pictures(job.pictures);
    // Several questions about one picture follow each other: it is encoded once.
    let mut seen: HashMap<Seen<'_>, usize> = HashMap::new();
    let (mut pictures, mut words, mut of) = (Vec::new(), Vec::new(), Vec::new());
    for index in chunk {
        let Some(sample) = job.dataset.samples.get(*index) else {
            continue;
        };
        let key = match sample.visual.path() {
            Some(path) => Seen::File(path),
            None => Seen::Sample(*index),
        };
        let place = *seen.entry(key).or_insert_with(|| {
            pictures.push(*index);
            pictures.len() - 1
        });
        for text in &sample.texts {
            words.push(text.as_str());
            of.push(place);
        }
    }
    let images = embedder.encoded_images(model, job.dataset, &pictures, views)?;
    let encoded = model.encode_text(&embedder.input(&words)?);
    let pooled = (0..job.pictures).map(|picture| {
        let rows: Vec<usize> = of.iter().map(|row| row * job.pictures + picture).collect();
        let image = images.tokens.select(&rows);
        let typed = model.typed(&encoded, &image, images.class_tokens, picture);
        model.pooled(&model.fuse_globals(typed))
    });
    let logits = head.forward(Tensor::cat(pooled.collect(), 1));
    let scores = probabilities(logits, job.independent);
    let classes = job.targets.len().max(1);
    Ok(host(scores)?.chunks(classes).map(<[f32]>::to_vec).collect())
}

/// Probabilities of classes, `[rows, classes]`: each by itself where they were learned as questions of
/// their own.
pub(super) fn probabilities(logits: Tensor<2>, independent: bool) -> Tensor<2> {
    match independent {
        true => sigmoid(logits),
        false => softmax(logits, 1),
    }
}

fn class_row(targets: &Targets, sample: &Sample, text: usize, scores: &[f32]) -> ClassRow {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    let score = |class: usize| scores.get(class).copied().unwrap_or(0.0);
    order.sort_by(|a, b| score(*b).total_cmp(&score(*a)).then(a.cmp(b)));
    let name = |class: usize| targets.names().get(class).cloned().unwrap_or_default();
    let best = order.first().copied().unwrap_or(0);
    let own = &sample.annotations;
    ClassRow {
        id: match sample.texts.len() {
            1 => sample.id.clone(),
            _ => format!("{}#{text}", sample.id),
        },
        group: sample.group().to_owned(),
        text: sample.texts.get(text).cloned().unwrap_or_default(),
        predicted: name(best),
        probability: score(best).clamp(0.0, 1.0),
        top: order
            .iter()
            .take(MAX_TOP)
            .map(|class| (name(*class), score(*class).clamp(0.0, 1.0)))
            .collect(),
        answers: own
            .answers
            .iter()
            .map(|answer| (answer.text.clone(), answer.count))
            .collect(),
        label: own.label.clone(),
        kinds: own
            .kinds
            .iter()
            .map(|(kind, value)| ((*kind).to_owned(), value.clone()))
            .collect(),
    }
}
