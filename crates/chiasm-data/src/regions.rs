//! Features of regions: what a detector saw in a picture, box by box.
//!
//! Owns reading one picture's regions ([`read`]), finding those of a whole data set ([`attach`]), and writing a
//! set of them ([`RegionWriter`]) that says what made it ([`RegionSet`]). What makes them is `chiasm-regions`'s.
//! The containers are `chiasm_format`'s. Taken are
//!
//! * a set that `chiasm regions extract` wrote: the folder of its `regions.json`;
//! * a folder of `.npz` files, one a picture, named after it (`NAME.jpg.npz` or `NAME.npz`), with `x`
//!   `[n, d]` (or `[d, n]`), `boxes` (or `bbox`) `[n, 4]` in pixels, `image_w` and `image_h`;
//! * a table of base64 cells, `.tsv`, with its `.lineidx` beside it if there is one, see
//!   [`chiasm_format::lineidx`].
//!
//! A sample's regions are found by its id, by the name of its picture with or without extension, or by
//! COCO's number: `58350` and `COCO_val2014_000000058350.jpg` are the same picture.

use std::fs::File;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chiasm_format::lineidx::{LineIndex, MAX_DIM, MAX_REGIONS, TableError, parse_row, row_id};
use chiasm_format::numpy::{Npy, Npz, NumpyError};
use chiasm_format::shard::{Manifest, split_key};
use chiasm_format::tar::{TarError, TarReader};
use rayon::prelude::*;

use crate::dataset::{Dataset, ImageSource, Rect, RegionSource, Sample, SharedFile};
use crate::error::DataError;
use crate::readers::Opened;

mod boxes;
mod names;
mod pictures;
mod set;
mod write;

pub use boxes::{Boxes, GivenBoxes};
use names::ByName;
pub use pictures::{Picture, fingerprint, pictures};
pub use set::{FILES, RegionIdentity, RegionSet, manifest, verify};
pub use write::{Form, RegionWriter, SHARD_PICTURES, WriteConfig, in_memory};

/// Bytes at the start of a row in which its id has to end.
const ID_BYTES: u64 = 4096;

/// Cap on what is said of a picture in a shard: 64 KiB.
const MAX_ABOUT_BYTES: u64 = 64 << 10;

/// Where each thing is in an archive: this model family's name first, then those of others.
const FEATURES: &[&str] = &["x", "features", "feat"];
const BOXES: &[&str] = &["boxes", "bbox"];
const WIDTH: &[&str] = &["image_w", "image_width"];
const HEIGHT: &[&str] = &["image_h", "image_height"];

/// The regions of a picture.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Regions {
    /// Features row by row, `[n, dim]`, all finite.
    pub features: Vec<f32>,
    /// Numbers of a feature.
    pub dim: usize,
    /// Where each region is, `[n]`.
    pub boxes: Vec<Rect>,
    /// Width and height in pixels of the picture that the detector saw.
    pub size: Option<(u32, u32)>,
    /// Class of each region as the detector numbers them, `[n]`; empty when not said.
    pub classes: Vec<i64>,
    /// Confidence in the class, `[n]`; empty when not said.
    pub class_scores: Vec<f32>,
    /// Attribute of each region, `[n]`; empty when not said.
    pub attributes: Vec<i64>,
    /// Confidence in the attribute, `[n]`; empty when not said.
    pub attribute_scores: Vec<f32>,
}

impl Regions {
    /// Number of regions.
    pub fn len(&self) -> usize {
        self.boxes.len()
    }

    /// True when the detector saw nothing.
    pub fn is_empty(&self) -> bool {
        self.boxes.is_empty()
    }
}

/// Width and height that stand in for those of a picture whose are not known, so that boxes can be
/// counted in pixels.
pub const UNKNOWN_SIZE: (u32, u32) = (1000, 1000);

/// What a model takes of regions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegionLimits {
    /// Numbers of a feature.
    pub dim: usize,
    /// Regions of a picture at most: the first ones are taken.
    pub most: usize,
}

/// Regions of a batch in host memory, one picture after another, without padding.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RegionRows {
    /// Features row by row, `[regions, dim]`.
    pub features: Vec<f32>,
    /// Numbers of a feature.
    pub dim: usize,
    /// Left, top, right, bottom as fractions of the picture, `[regions]`.
    pub boxes: Vec<[f32; 4]>,
    /// Class of each region and how sure the detector was, `[regions]`; sure to the degree 0 where it
    /// is not said.
    pub classes: Vec<(u32, f32)>,
    /// Attribute of each region and how sure the detector was, `[regions]`.
    pub attributes: Vec<(u32, f32)>,
    /// Regions of each picture, `[pictures]`.
    pub counts: Vec<usize>,
    /// Width and height of each picture in pixels; [`UNKNOWN_SIZE`] where it is not said, `[pictures]`.
    pub sizes: Vec<(u32, u32)>,
}

impl RegionRows {
    /// Regions of some samples of a data set; of `blind` ones nothing is read, and there are none.
    ///
    /// # Errors
    /// A sample without regions, with unreadable ones, or with features of another size than `limits`
    /// say.
    pub fn read(
        dataset: &Dataset,
        indices: &[usize],
        limits: RegionLimits,
        blind: bool,
    ) -> Result<Self, DataError> {
        let mut rows = Self {
            dim: limits.dim,
            ..Self::default()
        };
        if blind {
            rows.counts = vec![0; indices.len()];
            rows.sizes = vec![UNKNOWN_SIZE; indices.len()];
            return Ok(rows);
        }
        let read: Vec<Regions> = indices
            .par_iter()
            .map(|index| of_sample(dataset.sample(*index)?, limits))
            .collect::<Result<_, _>>()?;
        for regions in read {
            rows.push(&regions, limits.most);
        }
        Ok(rows)
    }

    /// Adds a picture's first regions, `most` of them.
    pub fn push(&mut self, regions: &Regions, most: usize) {
        let count = regions.len().min(most);
        self.features
            .extend(regions.features.iter().take(count * regions.dim));
        let corners = |rect: &Rect| [rect.x1, rect.y1, rect.x2, rect.y2];
        self.boxes
            .extend(regions.boxes.iter().take(count).map(corners));
        let sure = |numbers: &[i64], scores: &[f32], region: usize| {
            let number = numbers.get(region).and_then(|id| u32::try_from(*id).ok());
            let score = scores.get(region).copied().unwrap_or(0.0);
            number.map_or((0, 0.0), |number| (number, score))
        };
        for region in 0..count {
            let class = sure(&regions.classes, &regions.class_scores, region);
            let attribute = sure(&regions.attributes, &regions.attribute_scores, region);
            self.classes.push(class);
            self.attributes.push(attribute);
        }
        self.counts.push(count);
        // One by one: the boxes came as fractions.
        let size = regions.size.filter(|size| *size != (1, 1));
        self.sizes.push(size.unwrap_or(UNKNOWN_SIZE));
    }

    /// Those of some pictures, by number.
    #[must_use]
    pub fn select(&self, pictures: &[usize]) -> Self {
        let mut chosen = Self {
            dim: self.dim,
            ..Self::default()
        };
        let ends = self.counts.iter().scan(0, |end, count| {
            *end += count;
            Some(*end)
        });
        let ends: Vec<usize> = ends.collect();
        for picture in pictures {
            let (Some(end), Some(count)) = (ends.get(*picture), self.counts.get(*picture)) else {
                continue;
            };
            let (first, end) = (end - count, *end);
            let own = |per: usize| (first * per)..(end * per);
            let features = self.features.get(own(self.dim));
            let boxes = self.boxes.get(own(1));
            let classes = self.classes.get(own(1));
            let attributes = self.attributes.get(own(1));
            chosen.features.extend(features.unwrap_or_default());
            chosen.boxes.extend(boxes.unwrap_or_default());
            chosen.classes.extend(classes.unwrap_or_default());
            chosen.attributes.extend(attributes.unwrap_or_default());
            chosen.counts.push(*count);
            let size = self.sizes.get(*picture).copied();
            chosen.sizes.push(size.unwrap_or(UNKNOWN_SIZE));
        }
        chosen
    }

    /// Regions of all pictures.
    pub fn len(&self) -> usize {
        self.boxes.len()
    }

    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.boxes.is_empty()
    }
}

/// The regions of a sample as a model takes them.
///
/// # Errors
/// If there are none at all, if they cannot be read, or are of another size.
pub fn of_sample(sample: &Sample, limits: RegionLimits) -> Result<Regions, DataError> {
    let Some(source) = &sample.annotations.regions else {
        return Err(DataError::Regions {
            origin: sample.origin.to_string(),
            reason: format!(
                "sample `{}` has none, and the model sees nothing else",
                sample.id
            ),
            hint: Some(
                "name them with `--regions`; `chiasm regions extract` makes them".to_owned(),
            ),
        });
    };
    let regions = read(source)?;
    if !regions.is_empty() && regions.dim != limits.dim {
        return Err(DataError::Regions {
            origin: origin_of(source),
            reason: format!(
                "they have {} dimensions, the model takes {}",
                regions.dim, limits.dim
            ),
            hint: Some(format!(
                "extract them as those that the model was trained on, or set \
                 `model.regions.features = {}` and train anew",
                regions.dim
            )),
        });
    }
    Ok(regions)
}

/// Reads a picture's regions.
///
/// # Errors
/// If they are missing, damaged, beyond the caps (1,000 regions, 65,536 numbers each), not finite, or do
/// not fit together; the error names file and array or cell.
pub fn read(source: &RegionSource) -> Result<Regions, DataError> {
    let origin = || origin_of(source);
    match source {
        RegionSource::Npz(image) => {
            let bytes = image.read()?;
            let mut npz =
                Npz::open(Cursor::new(&bytes[..])).map_err(|error| numpy(&origin(), &error))?;
            from_npz(&mut npz).map_err(|found| match found {
                Unusable::Array(error) => numpy(&origin(), &error),
                Unusable::Meaning(reason) => unusable(origin(), reason),
            })
        }
        RegionSource::Row { file, offset, len } => {
            let line = file.read(*offset, *len)?;
            let row = parse_row(&line).map_err(|error| table(origin(), &error))?;
            let boxes = row.boxes.iter().map(|corners| corners.map(f64::from));
            let size = if row.fractions {
                Some((1, 1))
            } else {
                row.size
            };
            let boxes = rects(boxes, size).map_err(|reason| unusable(origin(), reason))?;
            Ok(Regions {
                dim: row.features.len() / row.count.max(1),
                features: row.features,
                boxes,
                size: row.size,
                classes: row.classes,
                class_scores: row.class_scores,
                attributes: row.attributes,
                attribute_scores: row.attribute_scores,
            })
        }
    }
}

/// All regions at a path with the names of their pictures, in the order of the source.
///
/// # Errors
/// If there are none, or the set, folder or table cannot be read.
pub fn list(path: &Path) -> Result<Vec<(String, RegionSource)>, DataError> {
    Ok(Known::look(path)?.sources)
}

/// The regions of one picture by its name, with or without extension, or COCO's number.
///
/// # Errors
/// If there are none of it, or they cannot be read.
pub fn find(path: &Path, name: &str) -> Result<Regions, DataError> {
    let known = Known::look(path)?;
    let found = known.by_name.find([name].into_iter());
    let found = found.ok_or_else(|| {
        let (first, count) = (known.sources.first(), known.sources.len());
        let first = first.map_or("", |(name, _)| name.as_str());
        unusable(
            path.display().to_string(),
            format!("there are none of `{name}`; it has {count} pictures, the first is `{first}`"),
        )
    })?;
    read(&found)
}

/// Finds the regions of every sample in a set, a folder of `.npz` files, or a `.tsv` table.
///
/// Samples without regions, or with an unreadable file, go to the quarantine.
///
/// # Errors
/// If the source cannot be used as a whole, no sample is found in it, or features differ in their
/// dimension: of archives all that are used are compared, of a table the first row.
pub fn attach(mut opened: Opened, path: &Path) -> Result<Opened, DataError> {
    let known = Known::look(path)?;
    let samples = std::mem::take(&mut opened.dataset.samples);
    // Archives are opened here, for their headers alone; on all threads, for there is one a picture.
    let found: Vec<Result<(RegionSource, Option<usize>), String>> = samples
        .par_iter()
        .map(|sample| {
            let source = known
                .find(sample)
                .ok_or("there are no region features of it")?;
            let dim = dim_of(&source).map_err(|error| error.to_string())?;
            Ok((source, dim))
        })
        .collect();
    let mut first: Option<(usize, String)> = None;
    for (mut sample, found) in samples.into_iter().zip(found) {
        let (source, dim) = match found {
            Ok(found) => found,
            Err(reason) => {
                opened.quarantine.push(&sample.id, path, "", reason);
                continue;
            }
        };
        let dim = match (dim, &first) {
            // Of a table only the first row is read.
            (None, None) => Some(read(&source)?.dim),
            (dim, _) => dim,
        };
        match (dim, &first) {
            (Some(dim), None) => first = Some((dim, origin_of(&source))),
            (Some(dim), Some((expected, from))) if dim != *expected => {
                return Err(DataError::Regions {
                    origin: origin_of(&source),
                    reason: format!(
                        "they have {dim} dimensions, those before have {expected} ({from})"
                    ),
                    hint: Some("name features that one detector made of all pictures".to_owned()),
                });
            }
            _ => {}
        }
        sample.annotations.regions = Some(source);
        opened.dataset.samples.push(sample);
    }
    if opened.dataset.samples.is_empty() {
        return Err(DataError::Regions {
            origin: path.display().to_string(),
            reason: "they are of none of the samples".to_owned(),
            hint: Some(
                "name the files after the pictures: `NAME.jpg.npz`, or `NAME.jpg` or COCO's number in a table"
                    .to_owned(),
            ),
        });
    }
    Ok(opened)
}

/// The dimension of an archive's features; `None` of a table, where it takes reading the row.
fn dim_of(source: &RegionSource) -> Result<Option<usize>, DataError> {
    let RegionSource::Npz(image) = source else {
        return Ok(None);
    };
    let failed = |error: NumpyError| numpy(&origin_of(source), &error);
    let shapes = match image.path() {
        Some(path) => {
            let file = File::open(path).map_err(|error| DataError::io(path, error))?;
            shapes(Npz::open(file).map_err(failed)?)
        }
        None => shapes(Npz::open(Cursor::new(image.read()?)).map_err(failed)?),
    };
    let (features, boxes) = shapes.map_err(failed)?;
    Ok(layout(&features, &boxes).map(|(_, dim, _)| dim))
}

fn shapes<R: std::io::Read + std::io::Seek>(
    mut npz: Npz<R>,
) -> Result<(Vec<usize>, Vec<usize>), NumpyError> {
    let (features, boxes) = (name_in(&npz, FEATURES), name_in(&npz, BOXES));
    Ok((npz.header(features)?.shape, npz.header(boxes)?.shape))
}

/// Regions, dimension, and whether the dimension is the first axis (as some published archives
/// have it).
fn layout(features: &[usize], boxes: &[usize]) -> Option<(usize, usize, bool)> {
    match (features, boxes) {
        ([rows, dim], [count, 4]) if rows == count => Some((*count, *dim, false)),
        ([dim, rows], [count, 4]) if rows == count => Some((*count, *dim, true)),
        _ => None,
    }
}

/// The first of several names that the archive has, else the first, for the message.
fn name_in<R: std::io::Read + std::io::Seek>(
    npz: &Npz<R>,
    names: &'static [&'static str],
) -> &'static str {
    let found = names.iter().find(|name| npz.has(name));
    found.or(names.first()).copied().unwrap_or_default()
}

/// Why an archive cannot be used.
enum Unusable {
    Array(NumpyError),
    Meaning(String),
}

impl From<NumpyError> for Unusable {
    fn from(error: NumpyError) -> Self {
        Self::Array(error)
    }
}

fn from_npz<R: std::io::Read + std::io::Seek>(npz: &mut Npz<R>) -> Result<Regions, Unusable> {
    let (x, boxes_name) = (name_in(npz, FEATURES), name_in(npz, BOXES));
    let (shape, boxes_shape) = (npz.header(x)?.shape, npz.header(boxes_name)?.shape);
    let Some((count, dim, transposed)) = layout(&shape, &boxes_shape) else {
        return Err(Unusable::Meaning(format!(
            "array `{x}` is {shape:?} and `{boxes_name}` {boxes_shape:?}, not [n, d] and [n, 4]"
        )));
    };
    if count > MAX_REGIONS || dim > MAX_DIM {
        return Err(Unusable::Meaning(format!(
            "array `{x}` is {shape:?}, more than {MAX_REGIONS} regions of {MAX_DIM} numbers"
        )));
    }
    let mut features = numbers(x, &npz.read(x)?)?;
    if transposed {
        features = (0..count)
            .flat_map(|row| features.iter().skip(row).step_by(count).copied())
            .collect();
    }
    let corners = numbers(boxes_name, &npz.read(boxes_name)?)?;
    let corners = corners
        .as_chunks::<4>()
        .0
        .iter()
        .map(|corners| corners.map(f64::from));
    let size = match (single(npz, WIDTH)?, single(npz, HEIGHT)?) {
        (Some(width), Some(height)) => Some((width, height)),
        _ => None,
    };
    Ok(Regions {
        features,
        dim,
        boxes: rects(corners, size).map_err(Unusable::Meaning)?,
        size,
        classes: labels(npz, "objects_id", count)?,
        class_scores: scores(npz, "objects_conf", count)?,
        attributes: labels(npz, "attrs_id", count)?,
        attribute_scores: scores(npz, "attrs_conf", count)?,
    })
}

fn numbers(name: &str, array: &Npy) -> Result<Vec<f32>, Unusable> {
    let values = array
        .to_f32()
        .ok_or_else(|| meaning(name, "holds no numbers"))?;
    match values.iter().all(|value| value.is_finite()) {
        true => Ok(values),
        false => Err(meaning(name, "holds a value that is not finite")),
    }
}

/// A side of the picture, when the archive has it.
fn single<R: std::io::Read + std::io::Seek>(
    npz: &mut Npz<R>,
    names: &'static [&'static str],
) -> Result<Option<u32>, Unusable> {
    let name = name_in(npz, names);
    if !npz.has(name) {
        return Ok(None);
    }
    // Some writers have them as floats.
    match numbers(name, &npz.read(name)?)?.as_slice() {
        [side] if *side >= 1.0 && *side <= 1e6 => Ok(Some(*side as u32)),
        _ => Err(meaning(name, "is no side of a picture")),
    }
}

fn labels<R: std::io::Read + std::io::Seek>(
    npz: &mut Npz<R>,
    name: &str,
    count: usize,
) -> Result<Vec<i64>, Unusable> {
    if !npz.has(name) {
        return Ok(Vec::new());
    }
    let labels = npz
        .read(name)?
        .to_i64()
        .filter(|labels| labels.len() == count);
    labels.ok_or_else(|| meaning(name, &format!("is not {count} whole numbers")))
}

fn scores<R: std::io::Read + std::io::Seek>(
    npz: &mut Npz<R>,
    name: &str,
    count: usize,
) -> Result<Vec<f32>, Unusable> {
    if !npz.has(name) {
        return Ok(Vec::new());
    }
    let scores = numbers(name, &npz.read(name)?)?;
    match scores.len() == count {
        true => Ok(scores),
        false => Err(meaning(name, &format!("is not {count} numbers"))),
    }
}

fn meaning(name: &str, reason: &str) -> Unusable {
    Unusable::Meaning(format!("array `{name}` {reason}"))
}

/// Corners in pixels, or in fractions where they are all at most 1, as boxes. Detectors let boxes stand
/// out of the picture and sometimes give one no area; features and boxes must stay side by side, so
/// such boxes are clipped and kept.
fn rects(
    corners: impl Iterator<Item = [f64; 4]> + Clone,
    size: Option<(u32, u32)>,
) -> Result<Vec<Rect>, String> {
    let are_fractions = corners.clone().flatten().all(|value| value <= 1.0);
    let (width, height) = match size {
        _ if are_fractions => (1.0, 1.0),
        Some((width, height)) => (f64::from(width), f64::from(height)),
        None => {
            return Err("the boxes are in pixels, and the picture's size is not said".to_owned());
        }
    };
    corners
        .enumerate()
        .map(|(at, [x1, y1, x2, y2])| {
            // Comparisons with NaN are false.
            if !(x1 <= x2 && y1 <= y2) {
                return Err(format!("box {at} ends before it begins"));
            }
            let within = |value: f64, whole: f64| (value / whole).clamp(0.0, 1.0) as f32;
            Ok(Rect {
                x1: within(x1, width),
                y1: within(y1, height),
                x2: within(x2, width),
                y2: within(y2, height),
            })
        })
        .collect()
}

/// The pictures that a folder or table has regions of.
struct Known {
    by_name: ByName<RegionSource>,
    /// All, with the name of each, in the order of the source.
    sources: Vec<(String, RegionSource)>,
}

/// What is said of a picture beside its archive in a shard.
#[derive(serde::Deserialize)]
struct About {
    id: String,
}

impl Known {
    fn look(path: &Path) -> Result<Self, DataError> {
        let mut known = Self {
            by_name: ByName::default(),
            sources: Vec::new(),
        };
        let manifest = set::manifest(path)?;
        let folder = set::folder_of(path);
        match &manifest {
            Some(manifest) if !manifest.shards.is_empty() => known.add_shards(folder, manifest)?,
            _ if folder.is_dir() => {
                for file in archives(folder)? {
                    let name = name_of_archive(&file, manifest.is_some())?;
                    known.add(&name, &RegionSource::Npz(ImageSource::Path(file)));
                }
            }
            _ => known.add_table(path)?,
        }
        if known.sources.is_empty() {
            return Err(nothing(path));
        }
        Ok(known)
    }

    /// The archives in the shards of a set, by the ids beside them.
    fn add_shards(&mut self, folder: &Path, manifest: &Manifest) -> Result<(), DataError> {
        for shard in &manifest.shards {
            let path = folder.join(&shard.file);
            let damaged = |reason: String| {
                DataError::Regions {
                origin: path.display().to_string(),
                reason,
                hint: Some(
                    "run the `chiasm regions extract` that wrote it again; it makes good what is missing"
                        .to_owned(),
                ),
            }
            };
            let tar = |error: TarError| damaged(error.to_string());
            let file = File::open(&path).map_err(|error| DataError::io(&path, error))?;
            let len = file
                .metadata()
                .map_err(|error| DataError::io(&path, error))?
                .len();
            if len != shard.bytes {
                return Err(damaged(format!(
                    "it has {len} bytes, the manifest says {}",
                    shard.bytes
                )));
            }
            let shared = SharedFile::open(&path)?;
            let mut members = TarReader::new(file).map_err(tar)?;
            let mut id = None;
            while let Some(member) = members.next_member().map_err(tar)? {
                match split_key(&member.name) {
                    Some((_, "json")) => {
                        let body = members.body(&member, MAX_ABOUT_BYTES).map_err(tar)?;
                        let about: About = serde_json::from_slice(&body)
                            .map_err(|error| damaged(format!("`{}`: {error}", member.name)))?;
                        id = Some(about.id);
                    }
                    Some((_, "npz")) => {
                        let id = id
                            .take()
                            .ok_or_else(|| damaged(format!("`{}` has no id", member.name)))?;
                        let part = ImageSource::Part {
                            file: Arc::clone(&shared),
                            offset: member.offset,
                            len: member.len,
                        };
                        self.add(&id, &RegionSource::Npz(part));
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn add_table(&mut self, path: &Path) -> Result<(), DataError> {
        let io = |source| DataError::io(path, source);
        let origin = |at: &Path| at.display().to_string();
        let table_file = File::open(path).map_err(io)?;
        let len = table_file.metadata().map_err(io)?.len();
        let index_path = path.with_extension("lineidx");
        let index = if index_path.is_file() {
            let file =
                File::open(&index_path).map_err(|error| DataError::io(&index_path, error))?;
            LineIndex::read(file, len).map_err(|error| table(origin(&index_path), &error))?
        } else {
            LineIndex::scan(table_file).map_err(|error| table(origin(path), &error))?
        };
        let file = SharedFile::open(path)?;
        for row in 0..index.len() {
            let Some((offset, len)) = index.get(row) else {
                break;
            };
            let start = file.read(offset, len.min(ID_BYTES))?;
            let Some(id) = row_id(&start) else {
                let reason = format!(
                    "row {} does not begin with a picture's name and a tab",
                    row + 1
                );
                return Err(unusable(origin(path), reason));
            };
            let file = Arc::clone(&file);
            self.add(id, &RegionSource::Row { file, offset, len });
        }
        Ok(())
    }

    /// The first of two with the same name stays.
    fn add(&mut self, name: &str, source: &RegionSource) {
        self.sources.push((name.to_owned(), source.clone()));
        self.by_name.add(name, source);
    }

    fn find(&self, sample: &Sample) -> Option<RegionSource> {
        self.by_name.find_sample(sample)
    }
}

/// The name of an archive's picture: the file's, unless the archive is of a set, which knows better.
fn name_of_archive(path: &Path, of_set: bool) -> Result<String, DataError> {
    if of_set {
        let failed = |error: NumpyError| numpy(&path.display().to_string(), &error);
        let file = File::open(path).map_err(|error| DataError::io(path, error))?;
        let name = Npz::open(file).map_err(failed)?.read("filename");
        if let Some([name]) = name.map_err(failed)?.to_strings().as_deref() {
            return Ok(name.clone());
        }
    }
    let stem = path.file_stem().unwrap_or_default();
    Ok(stem.to_string_lossy().into_owned())
}

/// The `.npz` files of a folder, in the order of the alphabet.
pub(crate) fn archives(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    let io = |source| DataError::io(folder, source);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if path.extension().is_some_and(|extension| extension == "npz") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn origin_of(source: &RegionSource) -> String {
    match source {
        RegionSource::Npz(ImageSource::Part { file, offset, .. })
        | RegionSource::Row { file, offset, .. } => {
            format!("{}, byte {offset}", file.path().display())
        }
        RegionSource::Npz(image) => image
            .path()
            .map_or_else(|| "in memory".to_owned(), |path| path.display().to_string()),
    }
}

fn nothing(path: &Path) -> DataError {
    let reason = "there are none (.npz, or rows)".to_owned();
    unusable(path.display().to_string(), reason)
}

fn unusable(origin: String, reason: String) -> DataError {
    DataError::Regions {
        origin,
        reason,
        hint: None,
    }
}

fn numpy(origin: &str, error: &NumpyError) -> DataError {
    DataError::Regions {
        origin: origin.to_owned(),
        reason: error.to_string(),
        hint: error.hint(),
    }
}

fn table(origin: String, error: &TableError) -> DataError {
    DataError::Regions {
        origin,
        reason: error.to_string(),
        hint: error.hint(),
    }
}
