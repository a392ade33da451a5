//! What is to be seen in a sample, as pictures: one that stands for it, or some frames of a clip.
//!
//! Owns which frames are chosen ([`Sampling`]) and the record of it ([`SampledFrames`]), the caps on
//! clips ([`ClipLimits`]), and writing chosen frames once so that later runs decode no video
//! ([`cache`]). How frames are decoded is in `animation` and [`crate::video`].

use std::collections::{BTreeMap, BTreeSet};
use std::io::Cursor;
use std::path::Path;
use std::time::Duration;

use chiasm_format::shard::ShardWriter;
use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder as _};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::check::Quarantine;
use crate::dataset::{Clip, Dataset, ImageSource, Sample, Visual};
use crate::decode::{AlphaRule, DecodeError, Limits, Rgb, decode};
use crate::error::DataError;
use crate::resample::{Filter, resize};
use crate::rng::{Rng, below, stream};
use crate::transform::{crop, short_side_size};
use crate::{animation, video};

/// Most frames that may be asked of a clip.
pub(crate) const MAX_SAMPLED: usize = 256;

/// Where in a clip frames are taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SamplingKind {
    /// The middle frame of each of as many equal segments.
    #[default]
    SegmentCentres,
    /// Evenly from the first frame to the last, both included: SCL's evaluation.
    FirstToLast,
    /// A random frame of each of as many equal segments: SCL's training.
    RandomSegments,
}

/// How many frames are taken of a clip, and where. A clip with fewer frames shows some repeatedly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sampling {
    /// Where.
    pub kind: SamplingKind,
    /// How many, 1 to 256. SCL takes 4.
    pub frames: usize,
}

impl Sampling {
    /// The numbers of the frames to take of `total`, in ascending order.
    ///
    /// Draws from `rng` for [`SamplingKind::RandomSegments`] only; give it
    /// `stream(seed, "frames", &[epoch, sample])`.
    pub fn indices(&self, total: usize, rng: &mut Rng) -> Vec<usize> {
        let (count, last) = (self.frames, total.saturating_sub(1));
        (0..count)
            .map(|number| {
                let (start, end) = (number * total / count, (number + 1) * total / count);
                let index = match self.kind {
                    SamplingKind::SegmentCentres => start + (end - start) / 2,
                    SamplingKind::FirstToLast => number * last / (count - 1).max(1),
                    SamplingKind::RandomSegments => start + below(rng, end - start),
                };
                index.min(last)
            })
            .collect()
    }

    /// Checks the number of frames.
    ///
    /// # Errors
    /// If it is not in 1 to 256.
    pub fn validate(&self) -> Result<(), DataError> {
        if (1..=MAX_SAMPLED).contains(&self.frames) {
            return Ok(());
        }
        Err(DataError::Setting {
            name: "frames",
            value: self.frames.to_string(),
            reason: "it must be in 1 to 256",
        })
    }
}

/// Which frames of a clip were taken: what a result has to say about its input.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SampledFrames {
    /// How they were chosen.
    #[serde(flatten)]
    pub sampling: Sampling,
    /// Their numbers, from 0.
    pub indices: Vec<usize>,
    /// Frames of the whole clip.
    pub total: usize,
    /// Frames a second of the whole clip, where that is known.
    pub fps: Option<f64>,
}

/// Frames of a clip.
#[derive(Clone, Debug)]
pub struct Frames {
    /// As many as were asked for, in order of time.
    pub pictures: Vec<Rgb>,
    /// Which ones.
    pub sampled: SampledFrames,
}

/// What a clip may cost at most.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClipLimits {
    /// Each frame.
    pub picture: Limits,
    /// Frames of a clip. Default: 10,000.
    pub max_frames: usize,
    /// Pixels that are decoded to get to the last chosen frame of an animation, or that the chosen
    /// frames have together. Default: 1,000 million.
    pub max_pixels: u64,
    /// Length in seconds. Default: one hour.
    pub max_seconds: f64,
    /// How long an external program may take. Default: one minute.
    pub max_wait: Duration,
}

impl Default for ClipLimits {
    fn default() -> Self {
        Self {
            picture: Limits::default(),
            max_frames: 10_000,
            max_pixels: 1_000_000_000,
            max_seconds: 3600.0,
            max_wait: Duration::from_secs(60),
        }
    }
}

impl ClipLimits {
    pub(crate) fn check_frames(&self, frames: usize) -> Result<(), ClipError> {
        let cap = self.max_frames;
        if frames > cap {
            Err(ClipError::TooManyFrames { cap })
        } else {
            Ok(())
        }
    }

    pub(crate) fn check_pixels(&self, pixels: u64) -> Result<(), ClipError> {
        let cap = self.max_pixels;
        if pixels > cap {
            Err(ClipError::TooManyPixels { pixels, cap })
        } else {
            Ok(())
        }
    }

    pub(crate) fn check_seconds(&self, seconds: f64) -> Result<(), ClipError> {
        let cap = self.max_seconds;
        if seconds > cap {
            Err(ClipError::TooLong { seconds, cap })
        } else {
            Ok(())
        }
    }
}

/// Why a clip cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClipError {
    /// A frame cannot be decoded.
    #[error(transparent)]
    Frame(#[from] DecodeError),
    /// There is no frame in it.
    #[error("the clip has no frames")]
    NoFrames,
    /// The file has no video.
    #[error("the file holds no video")]
    NoVideo,
    /// More frames than allowed.
    #[error("the clip has more than {cap} frames")]
    TooManyFrames {
        /// The cap.
        cap: usize,
    },
    /// More pixels than allowed.
    #[error("{pixels} pixels would have to be decoded, more than the cap of {cap}")]
    TooManyPixels {
        /// How many.
        pixels: u64,
        /// The cap.
        cap: u64,
    },
    /// Longer than allowed.
    #[error("the clip is {seconds:.0} seconds long, more than the cap of {cap:.0}")]
    TooLong {
        /// Its length.
        seconds: f64,
        /// The cap.
        cap: f64,
    },
    /// A program is not installed.
    #[error("`{0}` was not found, which decodes videos")]
    NoProgram(String),
    /// A program was stopped.
    #[error("{program} was stopped after {seconds} seconds")]
    TooSlow {
        /// Its name.
        program: String,
        /// How long it had.
        seconds: u64,
    },
    /// A program failed; what it said.
    #[error("the video cannot be used: {0}")]
    Video(String),
}

impl ClipError {
    /// What the person can do about it, when there is something to do.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Frame(error) => error.hint(),
            Self::NoProgram(_) => Some(
                "install ffmpeg, name it in CHIASM_FFMPEG, or give the frames of each clip as pictures"
                    .to_owned(),
            ),
            Self::TooManyFrames { .. } | Self::TooManyPixels { .. } | Self::TooLong { .. } => {
                Some("cut the clip into shorter ones, or give some of its frames as pictures".to_owned())
            }
            Self::NoFrames | Self::NoVideo | Self::TooSlow { .. } | Self::Video(_) => None,
        }
    }
}

/// One picture that stands for the sample: the picture itself (the first of an animated file), the
/// first of several, a whole strip, the middle frame of a clip.
///
/// # Errors
/// If it cannot be read or decoded, with the sample's id and place.
pub fn still(sample: &Sample, limits: &Limits, alpha: AlphaRule) -> Result<Rgb, DataError> {
    if let Visual::Clip(Clip::Animation(_) | Clip::Video(_)) = &sample.visual {
        let limits = ClipLimits {
            picture: *limits,
            ..ClipLimits::default()
        };
        let taken = take(sample, &limits, alpha, &mut |total| vec![total / 2])?;
        return taken
            .pictures
            .into_iter()
            .next()
            .ok_or_else(|| clip_error(sample, ClipError::NoFrames));
    }
    decoded(sample, still_source(sample)?, limits, alpha)
}

/// The pictures of a sample that its text speaks of together: `wanted` pictures, or the parts of a
/// strip. Each is a picture of its own and may have a size of its own.
///
/// # Errors
/// If there are more or fewer, or if one cannot be read or decoded; with the sample's id and place.
pub fn pictures(
    sample: &Sample,
    wanted: usize,
    limits: &Limits,
    alpha: AlphaRule,
) -> Result<Vec<Rgb>, DataError> {
    let found = sample.visual.pictures();
    if found != wanted {
        return Err(DataError::PictureCount {
            id: sample.id.clone(),
            origin: place(sample),
            found,
            wanted,
        });
    }
    match &sample.visual {
        Visual::Images(sources) => sources
            .iter()
            .map(|source| decoded(sample, source, limits, alpha))
            .collect(),
        Visual::Strip { image, parts } => {
            let whole = decoded(sample, image, limits, alpha)?;
            let parts = parts.iter();
            Ok(parts
                .map(|part| crop(&whole, part.pixels(whole.width, whole.height)))
                .collect())
        }
        Visual::Image(_) | Visual::Clip(_) => Ok(vec![still(sample, limits, alpha)?]),
    }
}

/// A picture of the sample.
fn decoded(
    sample: &Sample,
    source: &ImageSource,
    limits: &Limits,
    alpha: AlphaRule,
) -> Result<Rgb, DataError> {
    decode(&source.read()?, limits, true, alpha).map_err(|source| DataError::Decode {
        id: sample.id.clone(),
        origin: place(sample),
        source,
    })
}

/// The encoded picture behind [`still`]; of an animation the whole file.
///
/// # Errors
/// If the sample has no picture of its own, as a video has none.
pub fn still_source(sample: &Sample) -> Result<&ImageSource, DataError> {
    let sources = sample.visual.sources();
    let index = match &sample.visual {
        Visual::Clip(Clip::Frames(frames)) => frames.len() / 2,
        _ => 0,
    };
    sources.get(index).ok_or_else(|| DataError::NoPicture {
        id: sample.id.clone(),
        origin: place(sample),
    })
}

/// Frames of a sample, chosen by `sampling`; see [`Sampling::indices`] for `rng`.
///
/// A picture is a clip of one frame, unless its file is animated. Several pictures are taken as
/// frames in their order.
///
/// # Errors
/// If the clip cannot be read, decoded or is beyond `limits`, with the sample's id and place.
pub fn sample(
    sample: &Sample,
    sampling: Sampling,
    limits: &ClipLimits,
    alpha: AlphaRule,
    rng: &mut Rng,
) -> Result<Frames, DataError> {
    sampling.validate()?;
    let taken = take(sample, limits, alpha, &mut |total| {
        sampling.indices(total, rng)
    })?;
    Ok(Frames {
        pictures: taken.pictures,
        sampled: SampledFrames {
            sampling,
            indices: taken.indices,
            total: taken.total,
            fps: taken.fps,
        },
    })
}

/// Frames that were decoded.
struct Taken {
    pictures: Vec<Rgb>,
    indices: Vec<usize>,
    total: usize,
    fps: Option<f64>,
}

/// Finds out how many frames there are, lets `choose` say which to take, and decodes these.
fn take(
    sample: &Sample,
    limits: &ClipLimits,
    alpha: AlphaRule,
    choose: &mut dyn FnMut(usize) -> Vec<usize>,
) -> Result<Taken, DataError> {
    match &sample.visual {
        Visual::Clip(Clip::Video(path)) => {
            // What is missing is said of the file, not of what ffmpeg makes of it.
            std::fs::metadata(path).map_err(|source| DataError::io(path, source))?;
            take_video(path, limits, choose).map_err(|error| clip_error(sample, error))
        }
        Visual::Image(source)
        | Visual::Strip { image: source, .. }
        | Visual::Clip(Clip::Animation(source)) => {
            let bytes = source.read()?;
            take_animation(&bytes, limits, alpha, choose).map_err(|error| clip_error(sample, error))
        }
        Visual::Images(sources) | Visual::Clip(Clip::Frames(sources)) => {
            let total = sources.len();
            if total == 0 {
                return Err(clip_error(sample, ClipError::NoFrames));
            }
            limits
                .check_frames(total)
                .map_err(|error| clip_error(sample, error))?;
            let indices = choose(total);
            let mut decoded = BTreeMap::new();
            let mut pixels = 0;
            for index in indices.iter().copied().collect::<BTreeSet<_>>() {
                let Some(source) = sources.get(index) else {
                    continue;
                };
                let picture = decode(&source.read()?, &limits.picture, true, alpha)
                    .map_err(|error| clip_error(sample, error.into()))?;
                pixels += (picture.data.len() / 3) as u64;
                limits
                    .check_pixels(pixels)
                    .map_err(|error| clip_error(sample, error))?;
                decoded.insert(index, picture);
            }
            Ok(Taken {
                pictures: in_order(&indices, &decoded),
                indices,
                total,
                fps: None,
            })
        }
    }
}

fn take_animation(
    bytes: &[u8],
    limits: &ClipLimits,
    alpha: AlphaRule,
    choose: &mut dyn FnMut(usize) -> Vec<usize>,
) -> Result<Taken, ClipError> {
    let found = animation::scan(bytes, limits.max_frames)?;
    let Some(scan) = found.filter(|scan| scan.frames > 1) else {
        let picture = decode(bytes, &limits.picture, true, alpha)?;
        let indices = choose(1);
        let pictures = vec![picture; indices.len()];
        return Ok(Taken {
            pictures,
            indices,
            total: 1,
            fps: None,
        });
    };
    let total = scan.frames;
    limits.check_frames(total)?;
    limits.picture.check_size(scan.width, scan.height)?;
    let seconds = scan.milliseconds as f64 / 1e3;
    limits.check_seconds(seconds)?;
    let indices = choose(total);
    let wanted: BTreeSet<usize> = indices.iter().copied().collect();
    let decoded = wanted.last().map_or(0, |last| last + 1) as u64;
    let canvas = u64::from(scan.width) * u64::from(scan.height);
    limits.check_pixels(canvas.saturating_mul(decoded))?;
    let pictures = animation::decode_frames(bytes, &wanted, &limits.picture, alpha)?;
    let decoded = wanted.into_iter().zip(pictures).collect();
    let fps = (scan.milliseconds > 0).then(|| total as f64 / seconds);
    Ok(Taken {
        pictures: in_order(&indices, &decoded),
        indices,
        total,
        fps,
    })
}

fn take_video(
    path: &Path,
    limits: &ClipLimits,
    choose: &mut dyn FnMut(usize) -> Vec<usize>,
) -> Result<Taken, ClipError> {
    // Packets are counted first, which takes no decoding; where some of them show nothing, frames are.
    for count in [video::Count::Packets, video::Count::Frames] {
        let found = video::probe(path, count, limits)?;
        let indices = choose(found.frames);
        let wanted: BTreeSet<usize> = indices.iter().copied().collect();
        let pictures = video::decode_frames(path, &found, &wanted, limits)?;
        if pictures.len() == wanted.len() {
            let decoded = wanted.into_iter().zip(pictures).collect();
            let (total, fps) = (found.frames, found.fps);
            return Ok(Taken {
                pictures: in_order(&indices, &decoded),
                indices,
                total,
                fps,
            });
        }
    }
    Err(ClipError::Video("it ends before its last frame".to_owned()))
}

fn in_order(indices: &[usize], decoded: &BTreeMap<usize, Rgb>) -> Vec<Rgb> {
    indices
        .iter()
        .filter_map(|index| decoded.get(index).cloned())
        .collect()
}

fn clip_error(sample: &Sample, source: ClipError) -> DataError {
    DataError::Clip {
        id: sample.id.clone(),
        origin: place(sample),
        source,
    }
}

/// Picture path and row, for messages.
fn place(sample: &Sample) -> String {
    match sample.visual.path() {
        Some(path) => format!("{} ({})", path.display(), sample.origin),
        None => sample.origin.to_string(),
    }
}

/// How frames are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Encoding {
    /// JPEG with a quality of 1 to 100.
    Jpeg(u8),
    /// PNG, without loss.
    Png,
}

/// What [`cache`] writes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CacheConfig {
    /// Which frames.
    pub sampling: Sampling,
    /// Seed of [`SamplingKind::RandomSegments`]; the draw is that of epoch 0.
    pub seed: u64,
    /// Frames with a longer short side are scaled down to it, in pixels.
    pub short_side: Option<usize>,
    /// How they are stored.
    pub encoding: Encoding,
    /// What becomes of transparency.
    pub alpha: AlphaRule,
    /// What a clip may cost.
    pub limits: ClipLimits,
}

/// What [`cache`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CacheReport {
    /// Clips that were written.
    pub clips: usize,
    /// Clips that were there already.
    pub skipped: usize,
    /// Frames of the clips that were written.
    pub frames: usize,
    /// Their encoded bytes, texts included.
    pub bytes: u64,
    /// Clips that cannot be used, with the reason.
    pub refused: Quarantine,
}

/// Decodes the frames of every sample once and writes them as WebDataset samples: `000.jpg`,
/// `001.jpg`, ..., `txt`, `json`. The reader of shards opens them as clips again.
///
/// `json` holds the id, the split, the group where there is one, and under `frames` the
/// [`SampledFrames`]. A single text is `txt`; several are `texts` in `json`, where that reader expects
/// them.
///
/// Samples are written in the order of the data set, whatever the number of threads, and those that the
/// writer has already are left out: the shards of a run that was stopped and begun again are those of
/// one run. `progress` gets the number of samples done. In memory are the encoded frames of as many
/// clips as there are threads, four times.
///
/// # Errors
/// If the writer fails, or a setting is out of its range. A clip that cannot be used is no error.
pub fn cache(
    dataset: &Dataset,
    config: &CacheConfig,
    writer: &mut ShardWriter,
    progress: &mut dyn FnMut(usize),
) -> Result<CacheReport, DataError> {
    config.validate()?;
    let mut report = CacheReport::default();
    let mut done = 0;
    let indexed: Vec<(usize, &Sample)> = dataset.samples.iter().enumerate().collect();
    for group in indexed.chunks(4 * rayon::current_num_threads()) {
        let missing: Vec<(String, usize, &Sample)> = group
            .iter()
            .map(|(index, sample)| (key_of(&sample.id), *index, *sample))
            .filter(|(key, ..)| !writer.contains(key))
            .collect();
        report.skipped += group.len() - missing.len();
        let packed: Vec<_> = missing
            .par_iter()
            .map(|(_, index, sample)| pack(sample, *index, config))
            .collect();
        for ((key, _, sample), packed) in missing.iter().zip(packed) {
            match packed {
                Ok(packed) => {
                    let members: Vec<(&str, &[u8])> = packed
                        .members
                        .iter()
                        .map(|(extension, bytes)| (extension.as_str(), bytes.as_slice()))
                        .collect();
                    writer.append(key, &members)?;
                    report.clips += 1;
                    report.frames += packed.frames;
                    report.bytes += members
                        .iter()
                        .map(|(_, bytes)| bytes.len() as u64)
                        .sum::<u64>();
                }
                Err(error) => report.refuse(sample, &error),
            }
        }
        done += group.len();
        progress(done);
    }
    Ok(report)
}

impl CacheReport {
    fn refuse(&mut self, sample: &Sample, error: &DataError) {
        let path = sample.visual.path().or(sample.origin.file.as_deref());
        let place = sample.origin.place.map(|place| place.to_string());
        self.refused.push(
            &sample.id,
            path.unwrap_or(Path::new("")),
            place.unwrap_or_default(),
            error.to_string(),
        );
    }
}

impl CacheConfig {
    fn validate(&self) -> Result<(), DataError> {
        self.sampling.validate()?;
        if let Encoding::Jpeg(quality) = self.encoding
            && !(1..=100).contains(&quality)
        {
            return Err(DataError::Setting {
                name: "quality",
                value: quality.to_string(),
                reason: "it must be in 1 to 100",
            });
        }
        if self.short_side == Some(0) {
            return Err(DataError::Setting {
                name: "short_side",
                value: "0".to_owned(),
                reason: "it must be at least 1",
            });
        }
        Ok(())
    }
}

/// A sample as members.
struct Packed {
    members: Vec<(String, Vec<u8>)>,
    frames: usize,
}

fn pack(owner: &Sample, index: usize, config: &CacheConfig) -> Result<Packed, DataError> {
    let mut rng = stream(config.seed, "frames", &[0, index as u64]);
    let frames = sample(
        owner,
        config.sampling,
        &config.limits,
        config.alpha,
        &mut rng,
    )?;
    let ending = match config.encoding {
        Encoding::Jpeg(_) => "jpg",
        Encoding::Png => "png",
    };
    let mut members = Vec::with_capacity(frames.pictures.len() + 2);
    for (number, picture) in frames.pictures.iter().enumerate() {
        let bytes =
            encode(picture, config).map_err(|error| clip_error(owner, ClipError::Frame(error)))?;
        members.push((format!("{number:03}.{ending}"), bytes));
    }
    let mut about = json!({ "id": owner.id, "split": owner.split, "frames": frames.sampled });
    if let Some(about) = about.as_object_mut() {
        if let Some(group) = &owner.group {
            about.insert("group".to_owned(), json!(group));
        }
        if owner.texts.len() > 1 {
            about.insert("texts".to_owned(), json!(owner.texts));
        }
    }
    if let [text] = owner.texts.as_slice() {
        members.push(("txt".to_owned(), text.clone().into_bytes()));
    }
    members.push(("json".to_owned(), about.to_string().into_bytes()));
    Ok(Packed {
        members,
        frames: frames.pictures.len(),
    })
}

fn encode(picture: &Rgb, config: &CacheConfig) -> Result<Vec<u8>, DecodeError> {
    let short = picture.width.min(picture.height);
    let scaled = config.short_side.filter(|side| *side < short).map(|side| {
        let (width, height) = short_side_size(picture.width, picture.height, side);
        resize(picture, width, height, Filter::Bicubic)
    });
    let picture = scaled.as_ref().unwrap_or(picture);
    let mut bytes = Cursor::new(Vec::new());
    let (width, height) = (picture.width as u32, picture.height as u32);
    match config.encoding {
        Encoding::Jpeg(quality) => JpegEncoder::new_with_quality(&mut bytes, quality).write_image(
            &picture.data,
            width,
            height,
            ExtendedColorType::Rgb8,
        ),
        Encoding::Png => PngEncoder::new(&mut bytes).write_image(
            &picture.data,
            width,
            height,
            ExtendedColorType::Rgb8,
        ),
    }
    .map_err(|error| DecodeError::Damaged(format!("it cannot be encoded: {error}")))?;
    Ok(bytes.into_inner())
}

/// The key of a sample in a shard: its id where that is a plain name, else what is left of it and a
/// hash, so that keys stay apart.
pub(crate) fn key_of(id: &str) -> String {
    const MAX_LEN: usize = 120;
    let plain = |sign: char| sign.is_ascii_alphanumeric() || matches!(sign, '-' | '_');
    if !id.is_empty() && id.len() <= MAX_LEN && id.chars().all(plain) {
        return id.to_owned();
    }
    let kept: String = id
        .chars()
        .map(|sign| if plain(sign) { sign } else { '_' })
        .take(MAX_LEN)
        .collect();
    let hash = blake3::hash(id.as_bytes()).to_hex();
    format!("{kept}-{}", hash.get(..16).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn indices(kind: SamplingKind, frames: usize, total: usize) -> Vec<usize> {
        Sampling { kind, frames }.indices(total, &mut stream(1, "frames", &[0, 0]))
    }

    #[test]
    fn the_rules_by_hand() {
        use SamplingKind::{FirstToLast, SegmentCentres};
        assert_eq!(indices(SegmentCentres, 4, 40), [5, 15, 25, 35]);
        assert_eq!(indices(SegmentCentres, 1, 9), [4]);
        assert_eq!(indices(SegmentCentres, 4, 2), [0, 0, 1, 1]);
        // numpy.linspace(0, 9, 4).astype(int) and (0, 29, 4).
        assert_eq!(indices(FirstToLast, 4, 10), [0, 3, 6, 9]);
        assert_eq!(indices(FirstToLast, 4, 30), [0, 9, 19, 29]);
        assert_eq!(indices(FirstToLast, 1, 30), [0]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn indices_lie_in_their_segments(frames in 1usize..20, total in 1usize..500, seed: u64) {
            for kind in [SamplingKind::SegmentCentres, SamplingKind::FirstToLast, SamplingKind::RandomSegments] {
                let sampling = Sampling { kind, frames };
                let drawn = sampling.indices(total, &mut stream(seed, "frames", &[3, 4]));
                prop_assert_eq!(drawn.len(), frames);
                prop_assert!(drawn.is_sorted() && drawn.iter().all(|index| *index < total));
                prop_assert_eq!(&drawn, &sampling.indices(total, &mut stream(seed, "frames", &[3, 4])));
                if kind != SamplingKind::FirstToLast && total >= frames {
                    for (number, index) in drawn.iter().enumerate() {
                        let segment = number * total / frames..(number + 1) * total / frames;
                        prop_assert!(segment.contains(index), "{:?} {index} not in {segment:?}", kind);
                    }
                }
            }
        }
    }

    #[test]
    fn keys_stay_apart_and_are_plain() {
        let ids = [
            "a/b.mp4",
            "a/b_mp4",
            "a_b.mp4",
            "",
            "é",
            &"x".repeat(500),
            "video-1_2",
        ];
        let keys: BTreeSet<String> = ids.iter().map(|id| key_of(id)).collect();
        assert_eq!(keys.len(), ids.len());
        assert!(keys.contains("video-1_2"));
        let plain = |sign: char| sign.is_ascii_alphanumeric() || "-_".contains(sign);
        assert!(
            keys.iter()
                .all(|key| key.len() < 160 && key.chars().all(plain))
        );
    }
}
