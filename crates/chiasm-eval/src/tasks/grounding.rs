//! Grounding: the region of a picture that a text refers to (RefCOCO, RefCOCO+, RefCOCOg, phrases of
//! Flickr30k Entities; `specs/tbkin.md` section 6.2).

use chiasm_data::{Dataset, RegionRows, Sample};
use chiasm_nn::boxes::{DEVIATIONS, clip, decode, in_pixels};
use chiasm_nn::model::Seen;
use chiasm_nn::regions::Regions;

use super::embedder::{Embedder, TaskError, Towers, host};
use crate::predictions::{
    DatasetIdentity, GroundingInfo, GroundingPredictions, GroundingRow, ModelIdentity,
    TrainingOverlap,
};

/// What is to be found, for whom.
pub struct GroundingJob<'a> {
    /// A sample for every text, see [`Dataset::referring`].
    pub dataset: &'a Dataset,
    /// Name of the split.
    pub split: String,
    /// Who finds.
    pub model: ModelIdentity,
    /// What of the data was trained on; `None` when nobody looked.
    pub training_overlap: Option<TrainingOverlap>,
}

/// Finds the region of every text; samples that refer to nothing known are left out.
///
/// # Errors
/// A model that finds no regions, or regions that cannot be read.
pub fn run(
    embedder: &Embedder<'_>,
    job: &GroundingJob<'_>,
    progress: &mut dyn FnMut(&str, usize, usize),
) -> Result<GroundingPredictions, TaskError> {
    let samples = &job.dataset.samples;
    let refers = |index: &usize| {
        let sample = samples.get(*index);
        sample.is_some_and(|sample| sample.annotations.referred(0).is_some())
    };
    let indices: Vec<usize> = (0..samples.len()).filter(refers).collect();
    let mut rows = Vec::with_capacity(indices.len());
    for chunk in indices.chunks(embedder.batch_size.max(1)) {
        rows.extend(find(embedder, job.dataset, chunk)?);
        progress("texts", rows.len(), indices.len());
    }
    Ok(GroundingPredictions {
        info: GroundingInfo {
            split: job.split.clone(),
            dataset: DatasetIdentity {
                name: job.dataset.name.clone(),
                fingerprint: job.dataset.fingerprint(),
            },
            model: job.model.clone(),
            training_overlap: job.training_overlap.clone(),
        },
        rows,
    })
}

fn find(
    embedder: &Embedder<'_>,
    dataset: &Dataset,
    chunk: &[usize],
) -> Result<Vec<GroundingRow>, TaskError> {
    let lacks = TaskError::Lacks("regions that texts refer to");
    let Towers::Own(model) = embedder.towers else {
        return Err(lacks);
    };
    let (Some(head), Some(embedding)) = (&model.ground_head, &model.regions) else {
        return Err(lacks);
    };
    let rows = RegionRows::read(dataset, chunk, embedding.limits(), embedder.blind)?;
    let seen = Seen::Regions(Regions::new(&rows, embedder.device));
    let samples: Vec<&Sample> = chunk
        .iter()
        .filter_map(|index| dataset.samples.get(*index))
        .collect();
    let words: Vec<&str> = samples
        .iter()
        .map(|sample| sample.texts.first().map_or("", String::as_str))
        .collect();
    let text = model.encode_text(&embedder.input(&words)?);
    let image = model
        .encode_seen(&seen)
        .ok_or(TaskError::Lacks("regions"))?;
    let fused = model.fuse(&text, &image, seen.class_tokens());
    let (ranks, shifts) = head.forward(fused.image.rows);
    let (ranks, shifts) = (host(ranks)?, host(shifts)?);
    let mut start = 0;
    let pictures = rows.counts.iter().zip(&rows.sizes);
    let found = samples.iter().zip(pictures).map(|(sample, (count, size))| {
        let own = start..start + count;
        start += count;
        let size = [f64::from(size.0), f64::from(size.1)];
        let boxes = rows.boxes.get(own.clone()).unwrap_or_default();
        let regions: Vec<[f64; 4]> = boxes
            .iter()
            .map(|region| in_pixels(*region, size))
            .collect();
        let rank = |region: usize| ranks.get(own.start + region).copied().unwrap_or(f32::MIN);
        // Of equal ones the first.
        let chosen = (0..*count).reduce(|best, other| {
            if rank(other) > rank(best) {
                other
            } else {
                best
            }
        });
        let correct = |region: usize| {
            let from = (own.start + region) * 4;
            let shift = |i: usize| shifts.get(from + i).copied().map_or(0.0, f64::from);
            let correction = std::array::from_fn(|i| shift(i) * DEVIATIONS[i]);
            let found = decode(regions.get(region).copied()?, correction);
            Some(clip(found, size))
        };
        let annotations = &sample.annotations;
        let wanted = annotations.referred(0).unwrap_or_default();
        GroundingRow {
            id: sample.id.clone(),
            picture: sample.group().to_owned(),
            text: sample.texts.first().cloned().unwrap_or_default(),
            kind: annotations
                .phrases
                .first()
                .map_or_else(String::new, |phrase| phrase.kind.clone()),
            size,
            right: in_pixels(wanted, size),
            predicted: chosen.and_then(correct),
            chosen,
            regions,
        }
    });
    Ok(found.collect())
}
