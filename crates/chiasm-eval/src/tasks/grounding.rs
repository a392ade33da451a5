//! Grounding: the region of a picture that a text refers to (RefCOCO, RefCOCO+, RefCOCOg, phrases of
//! Flickr30k Entities; `specs/tbkin.md` section 6.2).

use chiasm_data::regions::UNKNOWN_SIZE;
use chiasm_data::{Dataset, RegionRows, Sample};
use chiasm_nn::VisionLanguageModel;
use chiasm_nn::boxes::{DEVIATIONS, PixelBox, clip, decode, in_pixels};
use chiasm_nn::model::Seen;
use chiasm_nn::regions::{GroundHead, Regions};

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

/// A region that a text may refer to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Referred {
    /// Corners of the corrected box as fractions of the picture.
    pub corners: [f32; 4],
    /// Its part of the choice among all regions, 0 to 1.
    pub share: f32,
}

/// The regions of one picture that is at hand, those first that a text refers to most.
///
/// # Errors
/// A model that finds no regions.
pub fn ground(
    embedder: &Embedder<'_>,
    rows: &RegionRows,
    text: &str,
) -> Result<Vec<Referred>, TaskError> {
    let ranked = Ranked::new(embedder, rows, &[text])?;
    let size = rows.sizes.first().copied().unwrap_or(UNKNOWN_SIZE);
    let size = [f64::from(size.0), f64::from(size.1)];
    let highest = ranked.ranks.iter().copied().fold(f32::MIN, f32::max);
    let weights: Vec<f32> = ranked
        .ranks
        .iter()
        .map(|rank| (rank - highest).exp())
        .collect();
    let sum: f32 = weights.iter().sum();
    let found = rows.boxes.iter().zip(&weights).enumerate();
    let found = found.map(|(region, (corners, weight))| {
        let [x1, y1, x2, y2] = ranked.corrected(region, in_pixels(*corners, size), size);
        let [width, height] = size;
        let corners = [x1 / width, y1 / height, x2 / width, y2 / height];
        Referred {
            corners: corners.map(|corner| corner as f32),
            share: weight / sum.max(f32::MIN_POSITIVE),
        }
    });
    let mut found: Vec<Referred> = found.collect();
    found.sort_by(|a, b| b.share.total_cmp(&a.share));
    Ok(found)
}

/// What the grounding head says of the regions of some pictures, each with its text.
struct Ranked {
    ranks: Vec<f32>,
    /// `[regions, 4]`, in deviations.
    shifts: Vec<f32>,
}

impl Ranked {
    fn new(embedder: &Embedder<'_>, rows: &RegionRows, texts: &[&str]) -> Result<Self, TaskError> {
        let (model, head) = head(embedder)?;
        let seen = Seen::Regions(Regions::new(rows, embedder.device));
        let text = model.encode_text(&embedder.input(texts)?);
        let image = model
            .encode_seen(&seen)
            .ok_or(TaskError::Lacks("regions"))?;
        let fused = model.fuse(&text, &image, seen.class_tokens());
        let (ranks, shifts) = head.forward(fused.image.rows);
        Ok(Self {
            ranks: host(ranks)?,
            shifts: host(shifts)?,
        })
    }

    /// A region's box in pixels as the head corrects it.
    fn corrected(&self, region: usize, corners: PixelBox, size: [f64; 2]) -> PixelBox {
        let shift = |i: usize| {
            let own = self.shifts.get(region * 4 + i);
            own.copied().map_or(0.0, f64::from)
        };
        let correction = std::array::from_fn(|i| shift(i) * DEVIATIONS[i]);
        clip(decode(corners, correction), size)
    }
}

/// The model, if it finds what texts refer to, and the head that does.
fn head<'a>(
    embedder: &Embedder<'a>,
) -> Result<(&'a VisionLanguageModel, &'a GroundHead), TaskError> {
    let lacks = TaskError::Lacks("regions that texts refer to");
    let Towers::Own(model) = embedder.towers else {
        return Err(lacks);
    };
    let head = model.ground_head.as_ref().ok_or(lacks)?;
    Ok((model, head))
}

fn find(
    embedder: &Embedder<'_>,
    dataset: &Dataset,
    chunk: &[usize],
) -> Result<Vec<GroundingRow>, TaskError> {
    let (model, _) = head(embedder)?;
    let embedding = model.regions.as_ref().ok_or(TaskError::Lacks("regions"))?;
    let rows = RegionRows::read(dataset, chunk, embedding.limits(), embedder.blind)?;
    let samples: Vec<&Sample> = chunk
        .iter()
        .filter_map(|index| dataset.samples.get(*index))
        .collect();
    let words: Vec<&str> = samples
        .iter()
        .map(|sample| sample.texts.first().map_or("", String::as_str))
        .collect();
    let ranked = Ranked::new(embedder, &rows, &words)?;
    let mut start = 0;
    let pictures = rows.counts.iter().zip(&rows.sizes);
    let found = samples.iter().zip(pictures).map(|(sample, (count, size))| {
        let own = start..start + count;
        start += count;
        let size = [f64::from(size.0), f64::from(size.1)];
        let boxes = rows.boxes.get(own.clone()).unwrap_or_default();
        let regions: Vec<PixelBox> = boxes
            .iter()
            .map(|region| in_pixels(*region, size))
            .collect();
        let rank = |region: usize| {
            let own = ranked.ranks.get(own.start + region);
            own.copied().unwrap_or(f32::MIN)
        };
        // Of equal ones the first.
        let chosen = (0..*count).reduce(|best, other| {
            if rank(other) > rank(best) {
                other
            } else {
                best
            }
        });
        let correct = |region: usize| {
            let corners = regions.get(region).copied()?;
            Some(ranked.corrected(own.start + region, corners, size))
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
