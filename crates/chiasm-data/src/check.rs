//! Looks at every picture before training starts, and keeps account of what was refused.
//!
//! A damaged picture in step 40,000 would end a run; here it costs one line in a quarantine file.
//! Owns the quarantine list, its file, and the rule that stops a run with too many entries.

use std::collections::HashMap;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::atomic::write_atomically;
use crate::dataset::{Dataset, Sample};
use crate::decode::{AlphaRule, Limits};
use crate::error::DataError;
use crate::frames::still;

/// Allowed share of refused rows and pictures when nothing else is said: 0.1 %.
pub const DEFAULT_MAX_BAD_RATE: f64 = 0.001;

/// A side below this makes a picture "tiny" in the summary: such a picture is mostly a tracking
/// pixel or a placeholder, but it is valid.
pub const TINY_SIDE: usize = 8;

/// One refused row or picture.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuarantineEntry {
    /// Id of the sample, or the picture's name as the row gave it; empty when unknown.
    pub id: String,
    /// The picture, or the table when the row itself cannot be read.
    pub path: String,
    /// Line, row or image, for example `line 17`; empty when it does not apply.
    pub location: String,
    /// Why it cannot be used.
    pub reason: String,
}

/// What was refused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Quarantine {
    /// In the order of the source.
    pub entries: Vec<QuarantineEntry>,
}

impl Quarantine {
    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True when nothing was refused.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Adds an entry.
    pub fn push(
        &mut self,
        id: impl Into<String>,
        path: &Path,
        location: impl Into<String>,
        reason: impl Into<String>,
    ) {
        self.entries.push(QuarantineEntry {
            id: id.into(),
            path: path.display().to_string(),
            location: location.into(),
            reason: reason.into(),
        });
    }

    /// Writes one JSON object a line, whole or not at all. The file is replaced; an empty list gives
    /// an empty file, so that a list of an earlier run is never taken for this one's.
    pub fn write_jsonl(&self, path: impl AsRef<Path>) -> Result<(), DataError> {
        let path = path.as_ref();
        write_atomically(path, |partial| {
            let mut file = BufWriter::new(std::fs::File::create(partial)?);
            for entry in &self.entries {
                serde_json::to_writer(&mut file, entry)?;
                file.write_all(b"\n")?;
            }
            file.flush()
        })
        .map_err(|source: io::Error| DataError::io(path, source))
    }
}

/// Smallest, middle and largest value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spread {
    /// Smallest.
    pub min: usize,
    /// Middle; the lower one of two.
    pub median: usize,
    /// Largest.
    pub max: usize,
}

/// What a data set looks like, over its usable pictures.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Usable pictures.
    pub images: usize,
    /// Their texts.
    pub texts: usize,
    /// Width in pixels.
    pub width: Spread,
    /// Height in pixels.
    pub height: Spread,
    /// Length of a text in characters.
    pub text_chars: Spread,
    /// Pictures whose bytes equal those of an earlier picture.
    pub duplicate_images: usize,
    /// Texts equal to an earlier text, of any picture.
    pub duplicate_texts: usize,
    /// Pictures with a side below [`TINY_SIDE`] pixels; valid, but worth a look.
    pub tiny_images: usize,
}

/// Outcome of [`check`].
#[derive(Clone, Debug)]
pub struct CheckReport {
    /// The usable samples, in order.
    pub good: Dataset,
    /// The others.
    pub quarantine: Quarantine,
    /// Statistics over the usable samples.
    pub summary: Summary,
}

/// Decodes every picture, on all threads, and separates the usable samples from the others.
///
/// `progress` is called with the number of pictures done so far, from any thread and in no
/// particular order.
pub fn check(dataset: &Dataset, limits: &Limits, progress: &(dyn Fn(usize) + Sync)) -> CheckReport {
    let done = AtomicUsize::new(0);
    let seen: Vec<Result<Seen, String>> = dataset
        .samples
        .par_iter()
        .map(|sample| {
            let seen = look(sample, limits);
            progress(done.fetch_add(1, Ordering::Relaxed) + 1);
            seen
        })
        .collect();
    let mut good = Dataset {
        name: dataset.name.clone(),
        samples: Vec::with_capacity(dataset.len()),
    };
    let mut quarantine = Quarantine::default();
    let mut pictures = Vec::with_capacity(dataset.len());
    for (sample, seen) in dataset.samples.iter().zip(seen) {
        match seen {
            Ok(seen) => {
                good.samples.push(sample.clone());
                pictures.push(seen);
            }
            Err(reason) => {
                let path = sample
                    .visual
                    .path()
                    .or(sample.origin.file.as_deref())
                    .unwrap_or(Path::new(""));
                let place = sample.origin.place;
                let location = place.map(|place| place.to_string()).unwrap_or_default();
                quarantine.push(&sample.id, path, location, reason);
            }
        }
    }
    let summary = summarise(&good, &pictures);
    CheckReport {
        good,
        quarantine,
        summary,
    }
}

/// Stops a run when more than `max_rate` of `total` were refused.
///
/// `quarantine_file` is where the list was written, for the message.
pub fn enforce_rate(
    quarantined: usize,
    total: usize,
    max_rate: f64,
    quarantine_file: Option<&Path>,
) -> Result<(), DataError> {
    if !(0.0..=1.0).contains(&max_rate) {
        let value = max_rate.to_string();
        return Err(DataError::Setting {
            name: "max_bad_rate",
            value,
            reason: "it must be in 0..=1",
        });
    }
    if quarantined as f64 <= max_rate * total as f64 {
        return Ok(());
    }
    Err(DataError::BadRate {
        bad: quarantined,
        total,
        max_rate,
        quarantine_file: quarantine_file.map(Path::to_owned),
    })
}

struct Seen {
    width: usize,
    height: usize,
    digest: [u8; 32],
}

fn look(sample: &Sample, limits: &Limits) -> Result<Seen, String> {
    if sample.texts.iter().all(|text| text.trim().is_empty()) {
        return Err("no text".to_owned());
    }
    let mut digest = blake3::Hasher::new();
    for source in sample.visual.sources() {
        digest.update(&source.read().map_err(|error| error.to_string())?);
    }
    let picture = still(sample, limits, AlphaRule::Drop).map_err(|error| error.to_string())?;
    Ok(Seen {
        width: picture.width,
        height: picture.height,
        digest: *digest.finalize().as_bytes(),
    })
}

fn summarise(good: &Dataset, pictures: &[Seen]) -> Summary {
    let texts: Vec<&str> = good
        .samples
        .iter()
        .flat_map(|sample| sample.texts.iter().map(String::as_str))
        .collect();
    Summary {
        images: good.len(),
        texts: texts.len(),
        width: spread(pictures.iter().map(|seen| seen.width)),
        height: spread(pictures.iter().map(|seen| seen.height)),
        text_chars: spread(texts.iter().map(|text| text.chars().count())),
        duplicate_images: repeats(pictures.iter().map(|seen| seen.digest)),
        duplicate_texts: repeats(texts.iter().copied()),
        tiny_images: pictures
            .iter()
            .filter(|seen| seen.width.min(seen.height) < TINY_SIDE)
            .count(),
    }
}

fn spread(values: impl Iterator<Item = usize>) -> Spread {
    let mut values: Vec<usize> = values.collect();
    values.sort_unstable();
    let middle = values.len().saturating_sub(1) / 2;
    Spread {
        min: values.first().copied().unwrap_or(0),
        median: values.get(middle).copied().unwrap_or(0),
        max: values.last().copied().unwrap_or(0),
    }
}

fn repeats<T: Eq + std::hash::Hash>(values: impl Iterator<Item = T>) -> usize {
    let mut counts: HashMap<T, usize> = HashMap::new();
    for value in values {
        *counts.entry(value).or_default() += 1;
    }
    counts.values().map(|count| count - 1).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::{ImageSource, Split};

    #[test]
    fn bad_pictures_are_set_aside() {
        let mut set = crate::builtin::emoji().unwrap().subset(Split::Val);
        set.samples.truncate(20);
        set.samples[3].visual = ImageSource::Static(b"nothing").into();
        set.samples[5].visual = ImageSource::Path("missing/file.png".into()).into();
        set.samples[7].visual = set.samples[8].visual.clone();
        let calls = AtomicUsize::new(0);
        let report = check(&set, &Limits::default(), &|_| {
            calls.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(calls.into_inner(), 20);
        assert_eq!((report.good.len(), report.quarantine.len()), (18, 2));
        assert!(report.quarantine.entries[1].path.contains("file.png"));
        assert_eq!(report.summary.images, 18);
        assert_eq!(
            report.summary.width,
            Spread {
                min: 72,
                median: 72,
                max: 72
            }
        );
        assert!(report.summary.duplicate_images >= 1);

        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("quarantine.jsonl");
        report.quarantine.write_jsonl(&file).unwrap();
        let lines: Vec<QuarantineEntry> = std::fs::read_to_string(&file)
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines, report.quarantine.entries);
        let error = enforce_rate(2, 20, DEFAULT_MAX_BAD_RATE, Some(&file)).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("2 of 20") && text.contains("quarantine.jsonl"),
            "{text}"
        );
        assert!(error.hint().unwrap().contains("--max-bad-rate"));
    }

    #[test]
    fn rates() {
        assert!(enforce_rate(0, 0, 0.0, None).is_ok());
        assert!(enforce_rate(1, 1000, 0.001, None).is_ok());
        assert!(enforce_rate(2, 1000, 0.001, None).is_err());
        assert!(enforce_rate(0, 10, f64::NAN, None).is_err());
    }
}
