//! Writes a set of region features: archives of NumPy arrays, one a picture, in shards or as files.
//!
//! Arrays have the names and types of `specs/tbkin.md` section 6.4, so that the published loaders read them:
//! `filename`, `x`, `image_h`, `image_w`, `num_boxes`, `boxes` in pixels, `objects_id`, `objects_conf`,
//! `attrs_id`, `attrs_conf`.
//!
//! # What holds after an error or a kill
//!
//! A picture is in a shard that has its name, or in a file of its own, or it is not there: see
//! [`chiasm_format::shard`]. Opening the folder again goes on, and ends with the bytes of one run.

use std::path::{Path, PathBuf};

use chiasm_format::atomic::write_bytes;
use chiasm_format::lineidx::{MAX_DIM, MAX_REGIONS};
use chiasm_format::numpy::{LARGEST_HALF, Npy, write_npz};
use chiasm_format::shard::{Manifest, ShardOptions, ShardWriter, begin_files, conclude_files};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::set::NAME;
use super::{RegionSet, Regions, archives, unusable};
use crate::dataset::{ImageSource, Rect, RegionSource};
use crate::error::DataError;
use crate::frames::key_of;

/// Pictures of a shard unless something else is said. A kill costs those of the shard that is open: ten seconds to
/// a minute of extraction, by the rates that were measured on two cores.
pub const SHARD_PICTURES: u64 = 256;

/// How a set lies on the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// Tars of archives, `regions-000000.tar`.
    #[default]
    Shards,
    /// An archive a picture, `NAME.npz`.
    Npz,
}

/// What a set is written with.
#[derive(Clone, Debug, PartialEq)]
pub struct WriteConfig {
    /// What made the features.
    pub set: RegionSet,
    /// How it lies on the disk.
    pub form: Form,
    /// Pictures of a shard at most, for example [`SHARD_PICTURES`].
    pub shard: u64,
    /// Whether features are stored in half precision.
    pub half: bool,
    /// What the pictures are, for example [`crate::Dataset::fingerprint`]: a set is continued with the same only.
    pub data: String,
}

/// Writes a set of region features.
pub struct RegionWriter {
    config: WriteConfig,
    sink: Sink,
}

enum Sink {
    Shards(Box<ShardWriter>),
    Files {
        folder: PathBuf,
        options: ShardOptions,
    },
}

impl RegionWriter {
    /// Begins a set in a folder, or goes on with the one that is there.
    ///
    /// # Errors
    /// If the folder holds a set that was made otherwise or is damaged, or if the file system fails.
    pub fn open(folder: &Path, config: WriteConfig) -> Result<Self, DataError> {
        let settings = json!({
            "regions": config.set,
            "form": config.form,
            "half": config.half,
            "data": config.data,
        });
        let options = ShardOptions {
            max_samples: config.shard,
            ..ShardOptions::new(NAME, settings)
        };
        let sink = match config.form {
            Form::Shards => Sink::Shards(Box::new(ShardWriter::open(folder, options)?)),
            Form::Npz => {
                begin_files(folder, &options)?;
                Sink::Files {
                    folder: folder.to_owned(),
                    options,
                }
            }
        };
        Ok(Self { config, sink })
    }

    /// Whether a picture is there already.
    pub fn contains(&self, id: &str) -> bool {
        match &self.sink {
            Sink::Shards(writer) => writer.contains(&key_of(id)),
            Sink::Files { folder, .. } => folder.join(file_of(id)).is_file(),
        }
    }

    /// Adds the regions of a picture.
    ///
    /// # Errors
    /// Regions that could not be read back, a picture that is there already, or a failing file system.
    pub fn append(&mut self, id: &str, regions: &Regions) -> Result<(), DataError> {
        if !regions.is_empty() && regions.dim != self.config.set.dim {
            let reason = format!(
                "its features have {} dimensions, those of the set {}",
                regions.dim, self.config.set.dim
            );
            return Err(unusable(id.to_owned(), reason));
        }
        let bytes = archive(id, regions, self.config.set.dim, self.config.half)
            .map_err(|reason| unusable(id.to_owned(), reason))?;
        match &mut self.sink {
            Sink::Shards(writer) => {
                let about = json!({ "id": id }).to_string();
                let members: [(&str, &[u8]); 2] = [("json", about.as_bytes()), ("npz", &bytes)];
                writer.append(&key_of(id), &members)?;
            }
            Sink::Files { folder, .. } => {
                let path = folder.join(file_of(id));
                write_bytes(&path, &bytes).map_err(|error| DataError::io(&path, error))?;
            }
        }
        Ok(())
    }

    /// Writes the manifest.
    ///
    /// # Errors
    /// If the file system fails.
    pub fn finish(self) -> Result<Manifest, DataError> {
        Ok(match self.sink {
            Sink::Shards(writer) => writer.finish()?,
            Sink::Files { folder, options } => {
                let count = archives(&folder)?.len() as u64;
                conclude_files(&folder, options, count)?
            }
        })
    }
}

/// Regions that are at hand as those of a sample.
///
/// # Errors
/// Regions that could not be read back.
pub fn in_memory(id: &str, regions: &Regions) -> Result<RegionSource, DataError> {
    let bytes = archive(id, regions, regions.dim, false)
        .map_err(|reason| unusable(id.to_owned(), reason))?;
    Ok(RegionSource::Npz(ImageSource::Bytes(bytes.into())))
}

/// Name of a picture's archive: the picture's own with `.npz` where that is a plain file name.
fn file_of(id: &str) -> String {
    let plain = |sign: char| sign.is_ascii_alphanumeric() || matches!(sign, '-' | '_' | '.');
    let is_plain = id.len() <= 120 && !id.starts_with('.') && id.chars().all(plain);
    match is_plain && !id.is_empty() {
        true => format!("{id}.npz"),
        false => format!("{}.npz", key_of(id)),
    }
}

/// The bytes of a picture's archive.
fn archive(id: &str, regions: &Regions, dim: usize, half: bool) -> Result<Vec<u8>, String> {
    let count = regions.len();
    if count > MAX_REGIONS || dim > MAX_DIM {
        return Err(format!(
            "{count} regions of {dim} numbers; {MAX_REGIONS} of {MAX_DIM} are read back at most"
        ));
    }
    if regions.features.len() != count * dim {
        return Err(format!(
            "{} numbers are no features of {count} regions of {dim}",
            regions.features.len()
        ));
    }
    if !regions.features.iter().all(|value| value.is_finite()) {
        return Err("a feature has a value that is not finite".to_owned());
    }
    if half
        && regions
            .features
            .iter()
            .any(|value| value.abs() > LARGEST_HALF)
    {
        return Err(format!(
            "a feature is beyond {LARGEST_HALF}, the largest number of half precision"
        ));
    }
    let x = match half {
        true => Npy::from_f32_as_f16(&[count, dim], &regions.features),
        false => Npy::from_f32(&[count, dim], &regions.features),
    };
    let (width, height) = regions.size.unwrap_or((1, 1));
    let corners: Vec<f32> = regions
        .boxes
        .iter()
        .flat_map(|rect| corners(rect, width, height))
        .collect();
    let mut arrays = vec![("filename", Npy::from_text(id)), ("x", x)];
    // Without a size, boxes stay fractions, and are read as such.
    if regions.size.is_some() {
        arrays.push(("image_h", Npy::from_i64(&[], &[i64::from(height)])));
        arrays.push(("image_w", Npy::from_i64(&[], &[i64::from(width)])));
    }
    arrays.push(("num_boxes", Npy::from_i64(&[], &[count as i64])));
    arrays.push(("boxes", Npy::from_f32(&[count, 4], &corners)));
    let labels = [
        ("objects_id", &regions.classes),
        ("attrs_id", &regions.attributes),
    ];
    let scores = [
        ("objects_conf", &regions.class_scores),
        ("attrs_conf", &regions.attribute_scores),
    ];
    for ((ids_name, ids), (scores_name, scores)) in labels.into_iter().zip(scores) {
        for (name, len) in [(ids_name, ids.len()), (scores_name, scores.len())] {
            if len != 0 && len != count {
                return Err(format!("{len} values of `{name}` for {count} regions"));
            }
        }
        if ids.len() == count && count > 0 {
            arrays.push((ids_name, Npy::from_i64(&[count], ids)));
        }
        if scores.len() == count && count > 0 {
            arrays.push((scores_name, Npy::from_f32(&[count], scores)));
        }
    }
    write_npz(&arrays).map_err(|error| error.to_string())
}

/// The corners of a box in pixels.
fn corners(rect: &Rect, width: u32, height: u32) -> [f32; 4] {
    [
        pixel(rect.x1, width),
        pixel(rect.y1, height),
        pixel(rect.x2, width),
        pixel(rect.y2, height),
    ]
}

/// The pixel that is read back as this fraction, where one in 32 bits is: of fractions that were pixels once
/// there always is one, at most one step from the product.
fn pixel(fraction: f32, whole: u32) -> f32 {
    let product = (f64::from(fraction) * f64::from(whole)) as f32;
    let reads_back = |pixel: &f32| (f64::from(*pixel) / f64::from(whole)) as f32 == fraction;
    [product, product.next_up(), product.next_down()]
        .into_iter()
        .find(reads_back)
        .unwrap_or(product)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn pixels_survive_as_fractions(whole in 1u32..5000, share in 0.0f32..=1.0) {
            let read = share * whole as f32;
            let fraction = (f64::from(read) / f64::from(whole)).clamp(0.0, 1.0) as f32;
            let again = (f64::from(pixel(fraction, whole)) / f64::from(whole)) as f32;
            prop_assert_eq!(again, fraction);
        }
    }

    #[test]
    fn archives_are_called_after_their_pictures() {
        assert_eq!(
            file_of("COCO_val2014_000000058350.jpg"),
            "COCO_val2014_000000058350.jpg.npz"
        );
        assert!(file_of("train/1.jpg").starts_with("train_1_jpg-"));
        for id in ["", ".hidden", "a b", "../up"] {
            assert!(
                !file_of(id).starts_with('.') && !file_of(id).contains('/'),
                "{id}"
            );
        }
    }
}
