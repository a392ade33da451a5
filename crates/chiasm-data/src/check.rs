//! Looks at every picture before training starts, and keeps account of what was refused.
//!
//! A damaged picture in step 40,000 would end a run; here it costs one line in a quarantine file.
//! Owns the quarantine list, its file, the rule that stops a run with too many entries, and the
//! prints by which pictures are recognised ([`crate::audit()`] compares them).

use std::collections::{HashMap, HashSet};
use std::io::{self, BufWriter, Write};
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::atomic::write_atomically;
use crate::dataset::{Clip, Dataset, ImageSource, Sample, Visual};
use crate::decode::{AlphaRule, Limits, decode};
use crate::error::DataError;
use crate::frames::still;
use crate::phash::{Look, LookIndex};

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

    /// Reads what [`Self::write_jsonl`] wrote.
    pub fn read_jsonl(path: impl AsRef<Path>) -> Result<Self, DataError> {
        let path = path.as_ref();
        let text = std::fs::read_to_string(path).map_err(|error| DataError::io(path, error))?;
        let entry = |(place, line): (usize, &str)| {
            serde_json::from_str(line).map_err(|error| DataError::Parse {
                path: path.to_owned(),
                location: format!("line {}", place + 1),
                message: error.to_string(),
            })
        };
        let entries = text.lines().enumerate().map(entry);
        let entries = entries.collect::<Result<_, _>>()?;
        Ok(Self { entries })
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

/// How often something occurs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// What it is.
    pub name: String,
    /// How many samples, or boxes, it has.
    pub count: usize,
}

/// Names that people gave, and how often.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// All of them together.
    pub total: usize,
    /// Different names.
    pub distinct: usize,
    /// The most frequent, at most [`Tally::SHOWN`]; equally frequent ones in order of the alphabet.
    pub most_frequent: Vec<Count>,
}

impl Tally {
    /// Most names in [`Self::most_frequent`].
    pub const SHOWN: usize = 10;

    fn of<'a>(names: impl Iterator<Item = (&'a str, usize)>) -> Self {
        let mut counts: HashMap<&str, usize> = HashMap::new();
        let mut total = 0;
        for (name, count) in names {
            *counts.entry(name).or_default() += count;
            total += count;
        }
        let mut sorted: Vec<(&str, usize)> = counts.into_iter().collect();
        sorted.sort_unstable_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
        Self {
            total,
            distinct: sorted.len(),
            most_frequent: sorted
                .into_iter()
                .take(Self::SHOWN)
                .map(|(name, count)| Count {
                    name: name.to_owned(),
                    count,
                })
                .collect(),
        }
    }
}

/// What was said about pictures beyond their texts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnnotationSummary {
    /// Samples with answers.
    pub questions: usize,
    /// Their answers; one that three people gave counts three times.
    pub answers: Tally,
    /// Classes of samples.
    pub labels: Tally,
    /// Things in pictures.
    pub objects: Tally,
    /// Phrases of texts that are tied to a place in the picture.
    pub phrases: usize,
    /// Boxes of phrases and things together.
    pub boxes: usize,
    /// Samples with features of regions.
    pub regions: usize,
    /// Samples of which it is known how text and picture relate.
    pub relations: usize,
    /// Samples whose picture was searched for words.
    pub ocr: usize,
    /// Samples with a caption beside the text.
    pub captions: usize,
    /// Samples whose author is known, and how many authors there are.
    pub authors: Authors,
}

/// Who wrote the texts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Authors {
    /// Samples whose author is known.
    pub samples: usize,
    /// Different authors.
    pub distinct: usize,
}

/// What a data set looks like, over its usable samples.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Usable samples.
    pub samples: usize,
    /// Different pictures and clips in them: several questions may ask about one picture.
    pub pictures: usize,
    /// Samples that are clips.
    pub clips: usize,
    /// Frames of a clip, where they are separate pictures.
    pub frames: Spread,
    /// Samples of several pictures.
    pub picture_sets: usize,
    /// Texts.
    pub texts: usize,
    /// Width in pixels.
    pub width: Spread,
    /// Height in pixels.
    pub height: Spread,
    /// Length of a text in characters.
    pub text_chars: Spread,
    /// Length of a text in words (runs of anything but white space).
    pub text_words: Spread,
    /// Pictures whose bytes equal those of an earlier picture.
    pub duplicate_images: usize,
    /// Pictures that [look](Look::resembles) like an earlier picture of other bytes.
    pub near_duplicate_images: usize,
    /// Texts equal to an earlier text, of any picture.
    pub duplicate_texts: usize,
    /// Pictures with a side below [`TINY_SIDE`] pixels; valid, but worth a look.
    pub tiny_images: usize,
    /// What people said beyond the texts.
    pub annotations: AnnotationSummary,
}

/// What a picture or clip is recognised by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Print {
    /// blake3 digest of its encoded bytes; of all frames together where a clip is several pictures.
    pub digest: [u8; 32],
    /// What it looks like, of a clip its middle frame. `None` for a blank picture.
    pub look: Option<Look>,
}

/// Outcome of [`check`].
#[derive(Clone, Debug)]
pub struct CheckReport {
    /// The usable samples, in order.
    pub good: Dataset,
    /// What the pictures of each usable sample are recognised by: one a picture, one a clip.
    pub prints: Vec<Vec<Print>>,
    /// The others.
    pub quarantine: Quarantine,
    /// Statistics over the usable samples.
    pub summary: Summary,
}

/// Decodes every picture, on all threads, and separates the usable samples from the others.
///
/// A picture that several samples share is read and decoded once. Of a clip that is several pictures
/// every frame is read and the middle one is decoded.
///
/// `progress` is called with the number of samples done so far, from any thread and in no
/// particular order; a sample counts when its first picture is done.
pub fn check(dataset: &Dataset, limits: &Limits, progress: &(dyn Fn(usize) + Sync)) -> CheckReport {
    let check = Check::new(dataset);
    let done = AtomicUsize::new(0);
    let seen = check.look(0..check.len(), limits, &|more| {
        progress(done.fetch_add(more, Ordering::Relaxed) + more);
    });
    check.conclude(seen)
}

/// [`check`] in two halves, so that several can look at a part of the pictures each.
pub struct Check<'a> {
    dataset: &'a Dataset,
    views: Vec<View<'a>>,
    /// Places in `views` of what is to be seen of each sample.
    of_samples: Vec<Vec<usize>>,
    /// How many samples begin with each of `views`.
    waiting: Vec<usize>,
}

impl<'a> Check<'a> {
    /// Lists what is to be looked at; reads nothing.
    pub fn new(dataset: &'a Dataset) -> Self {
        let mut views = Views::default();
        let samples = dataset.samples.iter();
        let of_samples: Vec<Vec<usize>> = samples.map(|sample| views.of(sample)).collect();
        let mut waiting = vec![0; views.list.len()];
        for sample in &of_samples {
            if let Some(count) = sample.first().and_then(|first| waiting.get_mut(*first)) {
                *count += 1;
            }
        }
        Self {
            dataset,
            views: views.list,
            of_samples,
            waiting,
        }
    }

    /// How many different pictures and clips there are.
    pub fn len(&self) -> usize {
        self.views.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.views.is_empty()
    }

    /// Decodes some of the pictures, on all threads. `progress` is called with the number of samples that are
    /// done with each of them.
    pub fn look(
        &self,
        range: Range<usize>,
        limits: &Limits,
        progress: &(dyn Fn(usize) + Sync),
    ) -> Vec<Seen> {
        let views = self.views.get(range.clone()).unwrap_or_default();
        let waiting = self.waiting.get(range).unwrap_or_default();
        let look = |(view, samples): (&View<'_>, &usize)| {
            let seen = view.look(limits);
            progress(*samples);
            Seen(seen)
        };
        views.par_iter().zip(waiting).map(look).collect()
    }

    /// Separates the usable samples, by what was seen of all pictures in their order.
    pub fn conclude(self, seen: Vec<Seen>) -> CheckReport {
        let dataset = self.dataset;
        let mut good = Dataset {
            name: dataset.name.clone(),
            samples: Vec::with_capacity(dataset.len()),
        };
        let mut prints = Vec::with_capacity(dataset.len());
        let mut quarantine = Quarantine::default();
        let mut is_used = vec![false; seen.len()];
        for (sample, views) in dataset.samples.iter().zip(self.of_samples) {
            match judge(sample, &views, &seen) {
                Ok(own) => {
                    good.samples.push(sample.clone());
                    prints.push(own);
                    for view in views {
                        if let Some(is_used) = is_used.get_mut(view) {
                            *is_used = true;
                        }
                    }
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
        let pictures: Vec<Glance> = seen
            .into_iter()
            .zip(is_used)
            .filter_map(|(seen, is_used)| seen.0.ok().filter(|_| is_used))
            .collect();
        let summary = summarise(&good, &pictures);
        CheckReport {
            good,
            prints,
            quarantine,
            summary,
        }
    }
}

/// What the sample's pictures are recognised by, or why the sample cannot be used.
fn judge(sample: &Sample, views: &[usize], seen: &[Seen]) -> Result<Vec<Print>, String> {
    if sample.texts.iter().all(|text| text.trim().is_empty()) {
        return Err("no text".to_owned());
    }
    if views.is_empty() {
        return Err("no picture".to_owned());
    }
    let seen = views.iter().filter_map(|view| seen.get(*view));
    seen.map(|seen| match &seen.0 {
        Ok(glance) => Ok(glance.print),
        Err(reason) => Err(reason.clone()),
    })
    .collect()
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

/// Every different picture or clip of a data set, once.
#[derive(Default)]
struct Views<'a> {
    list: Vec<View<'a>>,
    places: HashMap<Key<'a>, usize>,
}

enum View<'a> {
    Picture(&'a ImageSource),
    Clip(&'a Sample),
}

/// Where bytes are: the same place holds the same picture.
#[derive(PartialEq, Eq, Hash)]
enum Key<'a> {
    File(&'a Path),
    Part(&'a Path, u64, u64),
    Memory(*const u8, usize),
    Drawn(crate::synthitr::Picture),
}

impl<'a> Key<'a> {
    fn of(source: &'a ImageSource) -> Self {
        match source {
            ImageSource::Path(path) => Self::File(path),
            ImageSource::Part { file, offset, len } => Self::Part(file.path(), *offset, *len),
            ImageSource::Static(bytes) => Self::Memory(bytes.as_ptr(), bytes.len()),
            ImageSource::Bytes(bytes) => Self::Memory(bytes.as_ptr(), bytes.len()),
            ImageSource::Drawn(picture) => Self::Drawn(*picture),
        }
    }
}

impl<'a> Views<'a> {
    /// Places in the list of what is to be seen in a sample.
    fn of(&mut self, sample: &'a Sample) -> Vec<usize> {
        if matches!(sample.visual, Visual::Clip(_)) {
            self.list.push(View::Clip(sample));
            return vec![self.list.len() - 1];
        }
        let sources = sample.visual.sources().iter();
        sources
            .map(|source| {
                *self.places.entry(Key::of(source)).or_insert_with(|| {
                    self.list.push(View::Picture(source));
                    self.list.len() - 1
                })
            })
            .collect()
    }
}

/// What was seen of a picture or clip, or why it cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen(Result<Glance, String>);

/// What was seen of a usable picture or clip.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Glance {
    width: usize,
    height: usize,
    print: Print,
}

impl Seen {
    /// As bytes, several of which may follow each other.
    pub fn put(&self, bytes: &mut Vec<u8>) {
        let mut number = |value: usize| bytes.extend((value as u64).to_le_bytes());
        match &self.0 {
            Ok(glance) => {
                number(0);
                number(glance.width);
                number(glance.height);
                bytes.extend(glance.print.digest);
                bytes.push(u8::from(glance.print.look.is_some()));
                bytes.extend(glance.print.look.iter().flat_map(|look| look.to_bytes()));
            }
            Err(reason) => {
                number(1);
                number(reason.len());
                bytes.extend(reason.as_bytes());
            }
        }
    }

    /// Takes what [`Self::put`] wrote from the front of some bytes; `None` where they are something else.
    pub fn take(bytes: &mut &[u8]) -> Option<Self> {
        let is_refused = number(bytes)? == 1;
        let first = number(bytes)?;
        if is_refused {
            let reason = bytes.split_off(..first)?;
            return Some(Self(Err(std::str::from_utf8(reason).ok()?.to_owned())));
        }
        let height = number(bytes)?;
        let digest = *bytes.split_off(..32)?.first_chunk()?;
        let look = match bytes.split_off_first()? {
            0 => None,
            _ => Some(Look::from_bytes(bytes.split_off(..Look::BYTES)?)?),
        };
        Some(Self(Ok(Glance {
            width: first,
            height,
            print: Print { digest, look },
        })))
    }
}

fn number(bytes: &mut &[u8]) -> Option<usize> {
    let number = u64::from_le_bytes(*bytes.split_off(..8)?.first_chunk()?);
    usize::try_from(number).ok()
}

impl View<'_> {
    fn look(&self, limits: &Limits) -> Result<Glance, String> {
        // Over white: pixels that nobody sees must not decide what a drawing looks like.
        let (digest, picture) = match self {
            Self::Picture(source) => {
                let bytes = source.read().map_err(plain)?;
                let picture = decode(&bytes, limits, true, AlphaRule::OverWhite)
                    .map_err(|error| error.to_string())?;
                (blake3::hash(&bytes), picture)
            }
            Self::Clip(sample) => {
                let digest = clip_digest(&sample.visual).map_err(plain)?;
                let picture = still(sample, limits, AlphaRule::OverWhite).map_err(plain)?;
                (digest, picture)
            }
        };
        Ok(Glance {
            width: picture.width,
            height: picture.height,
            print: Print {
                digest: *digest.as_bytes(),
                look: Look::of(&picture),
            },
        })
    }
}

/// A reason without what the entry says already: path, id and place.
fn plain(error: DataError) -> String {
    match error {
        DataError::Io { source, .. } => format!("cannot be read: {source}"),
        DataError::Decode { source, .. } => source.to_string(),
        other => other.to_string(),
    }
}

/// Digest of a clip's bytes. A video is read in pieces: it may be larger than memory.
fn clip_digest(visual: &Visual) -> Result<blake3::Hash, DataError> {
    let mut digest = blake3::Hasher::new();
    if let Visual::Clip(Clip::Video(path)) = visual {
        let io = |source| DataError::io(path, source);
        let file = std::fs::File::open(path).map_err(io)?;
        digest.update_reader(file).map_err(io)?;
    }
    for source in visual.sources() {
        digest.update(&source.read()?);
    }
    Ok(digest.finalize())
}

fn summarise(good: &Dataset, pictures: &[Glance]) -> Summary {
    let texts: Vec<&str> = good
        .samples
        .iter()
        .flat_map(|sample| sample.texts.iter().map(String::as_str))
        .collect();
    let count = |which: fn(&Visual) -> bool| {
        let visuals = good.samples.iter().map(|sample| &sample.visual);
        visuals.filter(|visual| which(visual)).count()
    };
    let frames = good
        .samples
        .iter()
        .filter_map(|sample| match &sample.visual {
            Visual::Clip(Clip::Frames(frames)) => Some(frames.len()),
            _ => None,
        });
    Summary {
        samples: good.len(),
        pictures: pictures.len(),
        clips: count(|visual| matches!(visual, Visual::Clip(_))),
        frames: spread(frames),
        picture_sets: count(|visual| matches!(visual, Visual::Images(_))),
        texts: texts.len(),
        width: spread(pictures.iter().map(|seen| seen.width)),
        height: spread(pictures.iter().map(|seen| seen.height)),
        text_chars: spread(texts.iter().map(|text| text.chars().count())),
        text_words: spread(texts.iter().map(|text| text.split_whitespace().count())),
        duplicate_images: repeats(pictures.iter().map(|seen| seen.print.digest)),
        near_duplicate_images: look_alikes(pictures),
        duplicate_texts: repeats(texts.iter().copied()),
        tiny_images: pictures
            .iter()
            .filter(|seen| seen.width.min(seen.height) < TINY_SIDE)
            .count(),
        annotations: annotations(&good.samples),
    }
}

fn annotations(samples: &[Sample]) -> AnnotationSummary {
    let all = || samples.iter().map(|sample| &sample.annotations);
    let phrases = || all().flat_map(|own| &own.phrases);
    let objects = || all().flat_map(|own| &own.objects);
    let answers = all().flat_map(|own| &own.answers);
    let labels = all().filter_map(|own| own.label.as_deref());
    AnnotationSummary {
        questions: all().filter(|own| !own.answers.is_empty()).count(),
        answers: Tally::of(answers.map(|answer| (answer.text.as_str(), answer.count as usize))),
        labels: Tally::of(labels.map(|label| (label, 1))),
        objects: Tally::of(objects().map(|object| (object.category.as_str(), 1))),
        phrases: phrases().count(),
        boxes: phrases().map(|phrase| phrase.boxes.len()).sum::<usize>()
            + objects().filter(|object| object.rect.is_some()).count(),
        regions: all().filter(|own| own.regions.is_some()).count(),
        relations: all().filter(|own| own.relation.is_some()).count(),
        ocr: all().filter(|own| own.ocr.is_some()).count(),
        captions: all().filter(|own| own.caption.is_some()).count(),
        authors: Authors {
            samples: all().filter(|own| own.author.is_some()).count(),
            distinct: all()
                .filter_map(|own| own.author.as_deref())
                .collect::<HashSet<_>>()
                .len(),
        },
    }
}

/// How many pictures look like an earlier one of other bytes.
fn look_alikes(pictures: &[Glance]) -> usize {
    let prints: Vec<(Look, [u8; 32])> = pictures
        .iter()
        .filter_map(|seen| Some((seen.print.look?, seen.print.digest)))
        .collect();
    let index = LookIndex::new(prints.iter().map(|(look, _)| *look).collect());
    let resembles_earlier = |place: usize, look: &Look, digest: &[u8; 32]| {
        let earlier = index.resembling(look).into_iter();
        earlier
            .take_while(|other| *other < place)
            .filter_map(|other| prints.get(other))
            .any(|(_, other)| other != digest)
    };
    prints
        .par_iter()
        .enumerate()
        .filter(|(place, (look, digest))| resembles_earlier(*place, look, digest))
        .count()
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
        let most = AtomicUsize::new(0);
        let report = check(&set, &Limits::default(), &|done| {
            most.fetch_max(done, Ordering::Relaxed);
        });
        assert_eq!(most.into_inner(), 20);
        // The same in two halves, which travel as bytes.
        let halves = Check::new(&set);
        let mut bytes = Vec::new();
        for range in [0..7, 7..halves.len()] {
            let seen = halves.look(range, &Limits::default(), &|_| {});
            seen.iter().for_each(|seen| seen.put(&mut bytes));
        }
        let (mut left, mut seen) = (&bytes[..], Vec::new());
        while let Some(own) = Seen::take(&mut left) {
            seen.push(own);
        }
        assert!(left.is_empty());
        assert_eq!(
            Seen::take(&mut &bytes[..bytes.len() / 2 - 1]),
            seen.first().cloned()
        );
        let halves = halves.conclude(seen);
        assert_eq!(halves.quarantine, report.quarantine);
        assert_eq!(
            (&halves.prints, &halves.summary),
            (&report.prints, &report.summary)
        );
        assert_eq!((report.good.len(), report.quarantine.len()), (18, 2));
        assert!(report.quarantine.entries[1].path.contains("file.png"));
        assert_eq!((report.summary.samples, report.prints.len()), (18, 18));
        // Two samples show one picture.
        assert_eq!(report.summary.pictures, 17);
        assert_eq!(
            report.summary.width,
            Spread {
                min: 72,
                median: 72,
                max: 72
            }
        );

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
    fn duplicates_clips_and_annotations_are_counted() {
        use crate::dataset::{Answer, Object, Phrase, Rect};
        let mut set = crate::builtin::emoji().unwrap().subset(Split::Val);
        set.samples.truncate(5);
        let bytes = |index: usize| set.samples[index].visual.sources()[0].clone();
        let (first, second) = (bytes(0), bytes(1));
        let copy = ImageSource::Bytes(first.read().unwrap().into_owned().into());
        let smaller = crate::thumbnail(&first.read().unwrap(), 40).unwrap();
        let smaller = ImageSource::Bytes(smaller.into());
        set.samples[1].visual = copy.into();
        set.samples[2].visual = smaller.into();
        set.samples[3].visual = Visual::Images(vec![first.clone(), second.clone()]);
        set.samples[4].visual = Visual::Clip(Clip::Frames(vec![first.clone(), second]));
        let rect = Rect::from_pixels([0.0, 0.0, 1.0, 1.0], 2.0, 2.0);
        set.samples[0].visual = Visual::Strip {
            image: first.clone(),
            parts: rect.into_iter().collect(),
        };
        let own = &mut set.samples[0].annotations;
        own.answers = ["yes", "no"]
            .map(|text| Answer {
                text: text.to_owned(),
                count: 2,
            })
            .to_vec();
        own.label = Some("true".to_owned());
        own.objects = vec![Object {
            category: "face".to_owned(),
            rect,
        }];
        own.phrases = vec![Phrase {
            text: 0,
            phrase: "face".to_owned(),
            start: None,
            kind: String::new(),
            boxes: rect.into_iter().collect(),
            masks: Vec::new(),
        }];
        let summary = check(&set, &Limits::default(), &|_| {}).summary;
        // Sample 0's picture, its copy, its thumbnail, the second of the pair, the clip.
        assert_eq!((summary.samples, summary.pictures), (5, 5));
        assert_eq!((summary.clips, summary.picture_sets), (1, 1));
        assert_eq!(summary.frames.max, 2);
        assert_eq!(summary.duplicate_images, 1);
        // The thumbnail, and the clip by its middle frame.
        assert_eq!(summary.near_duplicate_images, 2);
        let said = summary.annotations;
        assert_eq!((said.questions, said.phrases, said.boxes), (1, 1, 2));
        assert_eq!((said.answers.total, said.answers.distinct), (4, 2));
        assert_eq!(said.answers.most_frequent[0].name, "no");
        assert_eq!((said.labels.distinct, said.objects.total), (1, 1));
    }

    #[test]
    fn rates() {
        assert!(enforce_rate(0, 0, 0.0, None).is_ok());
        assert!(enforce_rate(1, 1000, 0.001, None).is_ok());
        assert!(enforce_rate(2, 1000, 0.001, None).is_err());
        assert!(enforce_rate(0, 10, f64::NAN, None).is_err());
    }
}
