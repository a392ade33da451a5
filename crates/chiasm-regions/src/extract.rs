//! A provider over a data set, into a set of regions.

use std::path::Path;
use std::sync::mpsc::sync_channel;

use chiasm_data::regions::{self, Picture, RegionWriter};
use chiasm_data::{
    AlphaRule, DataError, Dataset, Limits, Preprocess, Quarantine, RegionSource, Regions, Sample,
    frames,
};
use rayon::prelude::*;

use crate::provider::{Prepared, Provider, RegionError, prepare};

/// Batches that wait for the tower while the next one is decoded.
const AHEAD: usize = 1;

/// What [`extract`] and [`convert`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Pictures whose regions were written.
    pub written: usize,
    /// Pictures that were there already.
    pub skipped: usize,
    /// Regions that were written.
    pub regions: usize,
    /// Pictures that cannot be used, with the reason.
    pub refused: Quarantine,
}

/// How far it is, for a progress bar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Pictures done, those that were there already and those that cannot be used included.
    pub done: usize,
    /// Pictures that were there already.
    pub skipped: usize,
}

/// Makes the regions of pictures, `batch` at a time, and appends them in their order. Pictures that the writer
/// has already are left out: a set that was begun is continued, and ends with the bytes of one run. The next
/// batch is decoded while the provider works on one; no more than three are in memory.
///
/// # Errors
/// If the provider or the writer fails. A picture that cannot be decoded is no error.
pub fn extract(
    dataset: &Dataset,
    pictures: &[Picture],
    provider: &dyn Provider,
    writer: &mut RegionWriter,
    batch: usize,
    progress: &mut dyn FnMut(Step),
) -> Result<Report, RegionError> {
    let mut report = Report::default();
    let missing: Vec<&Picture> = pictures
        .iter()
        .filter(|picture| !writer.contains(&picture.name))
        .collect();
    report.skipped = pictures.len() - missing.len();
    let (skipped, mut done) = (report.skipped, report.skipped);
    progress(Step { done, skipped });
    let inputs = provider.inputs();
    std::thread::scope(|scope| {
        let (sender, receiver) = sync_channel(AHEAD);
        let missing = &missing;
        scope.spawn(move || {
            for group in missing.chunks(batch.max(1)) {
                let read: Vec<Read> = group
                    .par_iter()
                    .map(|picture| read(dataset, picture, &inputs))
                    .collect();
                // Nobody listens any more where the other side has failed.
                if sender.send(read).is_err() {
                    break;
                }
            }
        });
        for group in receiver {
            done += group.len();
            let mut names = Vec::with_capacity(group.len());
            let mut prepared = Vec::with_capacity(group.len());
            for (name, picture) in group {
                match picture {
                    Ok(picture) => {
                        names.push(name);
                        prepared.push(picture);
                    }
                    Err((sample, error)) => report.refuse(name, sample, &error),
                }
            }
            for (name, regions) in names.into_iter().zip(provider.regions(&prepared)?) {
                writer.append(name, &regions)?;
                report.count(&regions);
            }
            progress(Step { done, skipped });
        }
        Ok(report)
    })
}

/// A picture's name, and the picture or what is wrong with it.
type Read<'a> = (
    &'a str,
    Result<Prepared, (Option<&'a Sample>, Box<DataError>)>,
);

fn read<'a>(dataset: &'a Dataset, picture: &'a Picture, inputs: &[Preprocess]) -> Read<'a> {
    let sample = dataset.samples.get(picture.sample);
    let decoded = dataset.sample(picture.sample).and_then(|sample| {
        let alpha = inputs
            .first()
            .map_or(AlphaRule::default(), |input| input.alpha);
        frames::still(sample, &Limits::default(), alpha)
    });
    let prepared = decoded.map(|found| prepare(&picture.name, &found, inputs));
    (
        &picture.name,
        prepared.map_err(|error| (sample, Box::new(error))),
    )
}

/// Appends the regions of a set, a folder of archives or a table, in their order. Pictures that the writer has
/// already are left out.
///
/// # Errors
/// If the writer fails. Regions that cannot be read are no error.
pub fn convert(
    path: &Path,
    sources: &[(String, RegionSource)],
    writer: &mut RegionWriter,
    batch: usize,
    progress: &mut dyn FnMut(Step),
) -> Result<Report, RegionError> {
    let mut report = Report::default();
    let mut done = 0;
    for group in sources.chunks(batch.max(1)) {
        let missing: Vec<&(String, RegionSource)> = group
            .iter()
            .filter(|(name, _)| !writer.contains(name))
            .collect();
        report.skipped += group.len() - missing.len();
        let read: Vec<Result<Regions, DataError>> = missing
            .par_iter()
            .map(|(_, source)| regions::read(source))
            .collect();
        for ((name, _), regions) in missing.into_iter().zip(read) {
            let appended = regions.and_then(|regions| {
                writer.append(name, &regions)?;
                report.count(&regions);
                Ok(())
            });
            match appended {
                Ok(()) => {}
                Err(error @ DataError::Regions { .. }) => {
                    report.refused.push(name, path, "", error.to_string());
                }
                Err(error) => return Err(error.into()),
            }
        }
        done += group.len();
        let skipped = report.skipped;
        progress(Step { done, skipped });
    }
    Ok(report)
}

impl Report {
    fn count(&mut self, regions: &Regions) {
        self.written += 1;
        self.regions += regions.len();
    }

    fn refuse(&mut self, name: &str, sample: Option<&Sample>, error: &DataError) {
        let origin = sample.map(|sample| &sample.origin);
        let path = sample.and_then(|sample| sample.visual.path());
        let path = path.or_else(|| origin.and_then(|origin| origin.file.as_deref()));
        let place = origin.and_then(|origin| origin.place);
        let place = place.map(|place| place.to_string()).unwrap_or_default();
        self.refused.push(
            name,
            path.unwrap_or(Path::new("")),
            place,
            error.to_string(),
        );
    }
}
