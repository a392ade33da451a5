//! From a decoded picture to the numbers a model takes.
//!
//! Owns the preprocessing description that is stored with the weights, in the key names of Hugging
//! Face's `preprocessor_config.json`, and the two ways to apply it: [`Preprocess::eval`], which is
//! deterministic, and [`Preprocess::train`], which draws a crop and a mirror image.
//!
//! The rules of evaluation are those of the reference pipelines: short side to `N`, long side to
//! `floor(N * long / short)`, centre crop at `round_half_even((size - N) / 2)`, then
//! `(value / 255 - mean) / std` per channel.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::decode::{AlphaRule, Rgb};
use crate::resample::{Filter, Window, resample, resize};
use crate::rng::{Rng, below, uniform, unit_f64};

/// Channel means of CLIP's training pictures.
pub const CLIP_MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];

/// Channel deviations of CLIP's training pictures.
pub const CLIP_STD: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];

/// Largest `image_size` that is accepted.
const MAX_IMAGE_SIZE: usize = 4096;

/// How any picture becomes a square.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resize {
    /// Scale each side on its own; shapes are distorted, nothing is cut off.
    Squash,
    /// Scale the short side, then keep the centre; shapes are kept, the ends are cut off.
    #[default]
    ShortSideCenterCrop,
}

/// Preprocessing of pictures, stored with the weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preprocess {
    /// Side of the square result, in pixels.
    pub image_size: usize,
    /// How a picture becomes a square. Default: short side, then centre crop.
    #[serde(default)]
    pub resize: Resize,
    /// Interpolation kernel. Default: bicubic.
    #[serde(default)]
    pub filter: Filter,
    /// Mean of each channel, in 0..1. Default: CLIP's.
    #[serde(default = "clip_mean")]
    pub mean: [f32; 3],
    /// Standard deviation of each channel, in 0..1. Default: CLIP's.
    #[serde(default = "clip_std")]
    pub std: [f32; 3],
    /// What becomes of transparency. Default: blended over white.
    #[serde(default)]
    pub alpha: AlphaRule,
    /// Training only: cut out a random box that covers this share of the area (smallest, largest),
    /// with an aspect ratio between 3/4 and 4/3, and scale it to the square. Default: none.
    #[serde(default)]
    pub random_crop_scale: Option<(f32, f32)>,
    /// Training only: probability of a mirror image. Default: 0, since text in pictures and words
    /// like "left" do not survive it.
    #[serde(default)]
    pub flip: f32,
}

/// Why a preprocessing description cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TransformError {
    /// A key is missing, out of range or of the wrong type.
    #[error("preprocessing: `{key}` {problem}")]
    Key {
        /// The key.
        key: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The text is no JSON.
    #[error("preprocessing: not JSON: {0}")]
    Json(String),
}

impl TransformError {
    /// What the person can do about it, when there is something to do.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Key { key, .. } if key == "resample" => {
                Some("use 3 (bicubic) or 2 (bilinear)".to_owned())
            }
            Self::Key { .. } | Self::Json(_) => None,
        }
    }

    fn key(key: &str, problem: impl Into<String>) -> Self {
        Self::Key {
            key: key.to_owned(),
            problem: problem.into(),
        }
    }
}

impl Preprocess {
    /// CLIP's preprocessing at a size, without augmentation.
    pub fn new(image_size: usize) -> Self {
        Self {
            image_size,
            resize: Resize::default(),
            filter: Filter::default(),
            mean: CLIP_MEAN,
            std: CLIP_STD,
            alpha: AlphaRule::default(),
            random_crop_scale: None,
            flip: 0.0,
        }
    }

    /// Checks ranges; call it once after reading a configuration.
    pub fn validate(&self) -> Result<(), TransformError> {
        if self.image_size == 0 || self.image_size > MAX_IMAGE_SIZE {
            let problem = format!("is {}, it must be in 1..={MAX_IMAGE_SIZE}", self.image_size);
            return Err(TransformError::key("image_size", problem));
        }
        if self
            .std
            .iter()
            .any(|value| !value.is_finite() || *value <= 0.0)
        {
            return Err(TransformError::key("image_std", "must be above 0"));
        }
        if self.mean.iter().any(|value| !value.is_finite()) {
            return Err(TransformError::key("image_mean", "must be finite"));
        }
        if !(0.0..=1.0).contains(&self.flip) {
            return Err(TransformError::key(
                "flip",
                format!("is {}, it must be in 0..=1", self.flip),
            ));
        }
        match self.random_crop_scale {
            Some((low, high)) if !(low > 0.0 && low <= high && high <= 1.0) => {
                Err(TransformError::key(
                    "random_crop_scale",
                    format!("is ({low}, {high}), it must be 0 < smallest <= largest <= 1"),
                ))
            }
            _ => Ok(()),
        }
    }

    /// Evaluation: `[3, image_size, image_size]`, channel first, normalised.
    pub fn eval(&self, image: &Rgb) -> Vec<f32> {
        normalise(&self.prepare(image, false), self.mean, self.std)
    }

    /// Training: as [`Self::eval`] after a random crop and a random mirror image.
    pub fn train(&self, image: &Rgb, rng: &mut Rng) -> Vec<f32> {
        self.augment(&self.prepare(image, true), rng)
    }

    /// The deterministic part of preprocessing, still in 8 bits: what a cache keeps.
    ///
    /// For evaluation, and for training without a random crop, this is the square. With a random
    /// crop it is the whole picture, its short side reduced to at most twice `image_size` so that a
    /// cache of photographs stays small. `train` goes through the same reduction, so a cached and
    /// an uncached run agree to the bit.
    pub fn prepare(&self, image: &Rgb, train: bool) -> Rgb {
        if train && self.random_crop_scale.is_some() {
            let limit = 2 * self.image_size;
            let short = image.width.min(image.height);
            if short <= limit {
                return image.clone();
            }
            let (width, height) = short_side_size(image.width, image.height, limit);
            return resize(image, width, height, self.filter);
        }
        let size = self.image_size;
        match self.resize {
            Resize::Squash => resize(image, size, size, self.filter),
            Resize::ShortSideCenterCrop => {
                let (width, height) = short_side_size(image.width, image.height, size);
                let window = Window {
                    x: center_offset(width, size),
                    y: center_offset(height, size),
                    width: size,
                    height: size,
                };
                resample(image, width, height, window, self.filter)
            }
        }
    }

    /// The random part of training, on what [`Self::prepare`] returned for training.
    pub fn augment(&self, prepared: &Rgb, rng: &mut Rng) -> Vec<f32> {
        let cut = self.random_crop_scale.map(|scale| {
            let part = crop(
                prepared,
                random_box(prepared.width, prepared.height, scale, rng),
            );
            resize(&part, self.image_size, self.image_size, self.filter)
        });
        let square = cut.as_ref().unwrap_or(prepared);
        // Drawn even at probability 0, so that turning the mirror on does not change the crops.
        let mirrored = unit_f64(rng) < f64::from(self.flip);
        if mirrored {
            normalise(&mirror(square), self.mean, self.std)
        } else {
            normalise(square, self.mean, self.std)
        }
    }

    /// The content of `preprocessor_config.json`. Keys that Hugging Face does not know are under
    /// `chiasm`, where other readers ignore them.
    pub fn to_hf_json(&self) -> Value {
        let size = self.image_size;
        let square = json!({ "height": size, "width": size });
        let crops = self.resize == Resize::ShortSideCenterCrop;
        json!({
            "image_processor_type": "CLIPImageProcessor",
            "do_convert_rgb": true,
            "do_resize": true,
            "size": if crops { json!({ "shortest_edge": size }) } else { square.clone() },
            "resample": match self.filter { Filter::Bicubic => 3, Filter::Bilinear => 2 },
            "do_center_crop": crops,
            "crop_size": square,
            "do_rescale": true,
            "rescale_factor": 1.0 / 255.0,
            "do_normalize": true,
            "image_mean": self.mean,
            "image_std": self.std,
            "chiasm": {
                "alpha": self.alpha,
                "random_crop_scale": self.random_crop_scale,
                "flip": self.flip,
            },
        })
    }

    /// Reads `preprocessor_config.json`, ours or one of a published CLIP or ViT model.
    ///
    /// Without the `chiasm` key, transparency is dropped, as the published pipelines do. A
    /// description that this crate would not reproduce is an error and not an approximation.
    pub fn from_hf_json(text: &str) -> Result<Self, TransformError> {
        let value: Value =
            serde_json::from_str(text).map_err(|error| TransformError::Json(error.to_string()))?;
        let crops = value.get("do_center_crop").and_then(Value::as_bool);
        let size = value
            .get("size")
            .ok_or_else(|| TransformError::key("size", "is missing"))?;
        let short = size
            .get("shortest_edge")
            .and_then(Value::as_u64)
            .or_else(|| {
                // Files before 2022 give a bare number; it means the short side where a crop follows.
                size.as_u64().filter(|_| crops == Some(true))
            });
        let (image_size, resize) = match short {
            Some(edge) => {
                let crop = value.get("crop_size").and_then(square_size).unwrap_or(edge);
                if crop != edge || crops == Some(false) {
                    let problem =
                        format!("short side {edge} with a crop of {crop} is not supported");
                    return Err(TransformError::key("crop_size", problem));
                }
                (edge, Resize::ShortSideCenterCrop)
            }
            None => {
                let side = square_size(size)
                    .ok_or_else(|| TransformError::key("size", "is not a square"))?;
                (side, Resize::Squash)
            }
        };
        let filter = match value.get("resample").and_then(Value::as_u64) {
            Some(3) | None => Filter::Bicubic,
            Some(2) => Filter::Bilinear,
            Some(other) => {
                return Err(TransformError::key(
                    "resample",
                    format!("is {other}, which is not supported"),
                ));
            }
        };
        if let Some(factor) = value.get("rescale_factor").and_then(Value::as_f64)
            && (factor * 255.0 - 1.0).abs() > 1e-3
        {
            return Err(TransformError::key(
                "rescale_factor",
                format!("is {factor}, only 1/255 is supported"),
            ));
        }
        let normalises = value
            .get("do_normalize")
            .and_then(Value::as_bool)
            .unwrap_or(true);
        let (mean, std) = if normalises {
            (
                triple(&value, "image_mean", CLIP_MEAN)?,
                triple(&value, "image_std", CLIP_STD)?,
            )
        } else {
            ([0.0; 3], [1.0; 3])
        };
        let own = value.get("chiasm");
        let preprocess = Self {
            image_size: usize::try_from(image_size).unwrap_or(usize::MAX),
            resize,
            filter,
            mean,
            std,
            alpha: own_key(own, "alpha")?.unwrap_or(AlphaRule::Drop),
            random_crop_scale: own_key(own, "random_crop_scale")?.unwrap_or_default(),
            flip: own_key(own, "flip")?.unwrap_or_default(),
        };
        preprocess.validate()?;
        Ok(preprocess)
    }
}

/// Size after scaling the short side to `size`; the long side is rounded down.
pub fn short_side_size(width: usize, height: usize, size: usize) -> (usize, usize) {
    if width <= height {
        (size, size * height / width.max(1))
    } else {
        (size * width / height.max(1), size)
    }
}

/// First pixel of a centre crop: half the surplus, halves to even.
pub fn center_offset(length: usize, size: usize) -> usize {
    let surplus = length.saturating_sub(size);
    let half = surplus / 2;
    // An odd surplus is a half: up to the even neighbour, or down to it.
    half + usize::from(surplus % 2 == 1 && half % 2 == 1)
}

/// The centre square of a picture.
pub fn center_crop(image: &Rgb, size: usize) -> Rgb {
    let window = Window {
        x: center_offset(image.width, size),
        y: center_offset(image.height, size),
        width: size,
        height: size,
    };
    crop(image, window)
}

/// A box of a picture, clipped to it.
pub fn crop(image: &Rgb, window: Window) -> Rgb {
    let x = window.x.min(image.width.saturating_sub(1));
    let width = window.width.clamp(1, (image.width - x).max(1));
    let y = window.y.min(image.height.saturating_sub(1));
    let height = window.height.clamp(1, (image.height - y).max(1));
    let mut data = Vec::with_capacity(width * height * 3);
    for row in image
        .data
        .chunks_exact((image.width * 3).max(1))
        .skip(y)
        .take(height)
    {
        data.extend_from_slice(row.get(x * 3..(x + width) * 3).unwrap_or_default());
    }
    Rgb {
        width,
        height,
        data,
    }
}

/// Channel first, `(value / 255 - mean) / std`.
pub fn normalise(image: &Rgb, mean: [f32; 3], std: [f32; 3]) -> Vec<f32> {
    let mut out = Vec::with_capacity(image.data.len());
    for (channel, (mean, std)) in mean.into_iter().zip(std).enumerate() {
        // A table of 256: the division happens once per value and not once per pixel.
        let table: [f32; 256] = std::array::from_fn(|value| (value as f32 / 255.0 - mean) / std);
        let values = image.data.iter().skip(channel).step_by(3);
        out.extend(values.map(|value| table.get(usize::from(*value)).copied().unwrap_or_default()));
    }
    out
}

fn mirror(image: &Rgb) -> Rgb {
    let mut data = Vec::with_capacity(image.data.len());
    for row in image.data.chunks_exact((image.width * 3).max(1)) {
        for pixel in row.chunks_exact(3).rev() {
            data.extend_from_slice(pixel);
        }
    }
    Rgb { data, ..*image }
}

/// A box of random area and shape; the centre of the picture when ten draws do not fit into it.
fn random_box(width: usize, height: usize, scale: (f32, f32), rng: &mut Rng) -> Window {
    const RATIO: (f64, f64) = (3.0 / 4.0, 4.0 / 3.0);
    let area = (width * height) as f64;
    for _ in 0..10 {
        let target = area * uniform(rng, f64::from(scale.0), f64::from(scale.1));
        let ratio = uniform(rng, RATIO.0.ln(), RATIO.1.ln()).exp();
        let w = (target * ratio).sqrt().round() as usize;
        let h = (target / ratio).sqrt().round() as usize;
        if (1..=width).contains(&w) && (1..=height).contains(&h) {
            let x = below(rng, width - w + 1);
            let y = below(rng, height - h + 1);
            return Window {
                x,
                y,
                width: w,
                height: h,
            };
        }
    }
    let shape = width as f64 / height as f64;
    let w = if shape > RATIO.1 {
        (height as f64 * RATIO.1).round() as usize
    } else {
        width
    };
    let h = if shape < RATIO.0 {
        (width as f64 / RATIO.0).round() as usize
    } else {
        height
    };
    let (w, h) = (w.clamp(1, width), h.clamp(1, height));
    Window {
        x: (width - w) / 2,
        y: (height - h) / 2,
        width: w,
        height: h,
    }
}

fn clip_mean() -> [f32; 3] {
    CLIP_MEAN
}

fn clip_std() -> [f32; 3] {
    CLIP_STD
}

/// `224`, or `{"height": 224, "width": 224}`.
fn square_size(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| {
        let side = value.get("height")?.as_u64()?;
        (value.get("width")?.as_u64()? == side).then_some(side)
    })
}

fn triple(value: &Value, key: &str, default: [f32; 3]) -> Result<[f32; 3], TransformError> {
    match value.get(key) {
        None => Ok(default),
        Some(found) => serde_json::from_value(found.clone())
            .map_err(|_| TransformError::key(key, "is not a list of three numbers")),
    }
}

fn own_key<T: serde::de::DeserializeOwned>(
    own: Option<&Value>,
    key: &str,
) -> Result<Option<T>, TransformError> {
    own.and_then(|own| own.get(key))
        .map(|found| serde_json::from_value(found.clone()))
        .transpose()
        .map_err(|error| TransformError::key(&format!("chiasm.{key}"), error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::stream;

    #[test]
    fn offsets_round_half_to_even() {
        let offsets: Vec<usize> = [32, 33, 34, 35, 36, 37, 51]
            .iter()
            .map(|n| center_offset(*n, 32))
            .collect();
        assert_eq!(offsets, [0, 0, 1, 2, 2, 2, 10]);
    }

    #[test]
    fn every_shape_gives_the_same_size() {
        let mut preprocess = Preprocess::new(16);
        for resize in [Resize::Squash, Resize::ShortSideCenterCrop] {
            for scale in [None, Some((0.3, 1.0))] {
                preprocess.resize = resize;
                preprocess.random_crop_scale = scale;
                for (width, height) in
                    [(1, 1), (3, 900), (900, 3), (16, 16), (100, 70), (20_000, 1)]
                {
                    let image = Rgb::pattern(width, height);
                    assert_eq!(preprocess.eval(&image).len(), 3 * 16 * 16);
                    let mut rng = stream(0, "augment", &[0, 0]);
                    let train = preprocess.train(&image, &mut rng);
                    assert_eq!(train.len(), 3 * 16 * 16);
                    assert!(train.iter().all(|value| value.is_finite()));
                }
            }
        }
    }

    #[test]
    fn training_draws_are_a_function_of_the_key() {
        let preprocess = Preprocess {
            random_crop_scale: Some((0.4, 1.0)),
            flip: 0.5,
            ..Preprocess::new(16)
        };
        let image = Rgb::pattern(90, 60);
        let draw = |sample| preprocess.train(&image, &mut stream(3, "augment", &[1, sample]));
        assert_eq!(draw(4), draw(4));
        assert_ne!(draw(4), draw(5));
    }

    #[test]
    fn flip_mirrors() {
        let preprocess = Preprocess {
            flip: 1.0,
            ..Preprocess::new(8)
        };
        let image = Rgb::pattern(8, 8);
        let plain = preprocess.eval(&image);
        let flipped = preprocess.train(&image, &mut stream(0, "augment", &[]));
        for row in 0..3 * 8 {
            let mut line = flipped[row * 8..][..8].to_vec();
            line.reverse();
            assert_eq!(line, plain[row * 8..][..8]);
        }
    }

    #[test]
    fn description_round_trips() {
        let preprocess = Preprocess {
            resize: Resize::Squash,
            filter: Filter::Bilinear,
            alpha: AlphaRule::OverWhite,
            random_crop_scale: Some((0.6, 1.0)),
            flip: 0.25,
            ..Preprocess::new(64)
        };
        let text = preprocess.to_hf_json().to_string();
        assert_eq!(Preprocess::from_hf_json(&text).unwrap(), preprocess);
        let clip = Preprocess::new(224).to_hf_json().to_string();
        assert_eq!(
            Preprocess::from_hf_json(&clip).unwrap(),
            Preprocess::new(224)
        );
    }

    #[test]
    fn published_descriptions_are_read() {
        let old = r#"{"do_resize":true,"size":224,"resample":3,"do_center_crop":true,"crop_size":224,
            "do_normalize":true,"image_mean":[0.5,0.5,0.5],"image_std":[0.5,0.5,0.5]}"#;
        let read = Preprocess::from_hf_json(old).unwrap();
        assert_eq!(
            (read.image_size, read.resize, read.alpha),
            (224, Resize::ShortSideCenterCrop, AlphaRule::Drop)
        );
        let vit = r#"{"size":{"height":384,"width":384},"resample":2,"image_mean":[0.5,0.5,0.5],"image_std":[0.5,0.5,0.5]}"#;
        assert_eq!(
            Preprocess::from_hf_json(vit).unwrap().resize,
            Resize::Squash
        );
        for bad in [
            "",
            "{}",
            r#"{"size":{"shortest_edge":256},"crop_size":224}"#,
            r#"{"size":224,"resample":1}"#,
            r#"{"size":{"shortest_edge":0}}"#,
            r#"{"size":224,"image_std":[0,1,1]}"#,
            r#"{"size":99999999999}"#,
        ] {
            assert!(Preprocess::from_hf_json(bad).is_err(), "{bad}");
        }
    }
}
