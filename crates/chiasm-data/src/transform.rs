//! From a decoded picture to the numbers a model takes.
//!
//! Owns the preprocessing description that is stored with the weights, in the key names of Hugging
//! Face's `preprocessor_config.json`, and the two ways to apply it: [`Preprocess::eval`], which is
//! deterministic, and [`Preprocess::train`], which draws a crop and a mirror image.
//!
//! The rules of evaluation are those of the reference pipelines: short side to `S`, long side to
//! `floor(S * long / short)`, centre crop of `N` at `round_half_even((size - N) / 2)`, then
//! `(value / 255 - mean) / std` per channel. `S` is `N` unless a model says otherwise.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::augment::RandAugment;
use crate::decode::{AlphaRule, Rgb};
use crate::resample::{Filter, Window, resample, resize};
use crate::rng::{Rng, below, uniform, unit_f64};
use crate::simd::simd;

/// Channel means of CLIP's training pictures.
pub const CLIP_MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];

/// Channel deviations of CLIP's training pictures.
pub const CLIP_STD: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];

/// Means and deviations by the name under which papers speak of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Normalisation {
    /// CLIP's training pictures. Also METER, SCL, BLIP.
    Clip,
    /// ImageNet. Also DINO and DINOv2, DeiT, ResNets.
    ImageNet,
    /// 0.5 and 0.5: values from -1 to 1. ViT of Google, ViLT, SigLIP.
    Half,
}

impl Normalisation {
    /// Mean and standard deviation of each channel.
    pub const fn mean_std(self) -> ([f32; 3], [f32; 3]) {
        match self {
            Self::Clip => (CLIP_MEAN, CLIP_STD),
            Self::ImageNet => ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
            Self::Half => ([0.5; 3], [0.5; 3]),
        }
    }
}

/// Largest `image_size` and `resize_to` that are accepted.
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
    /// What the short side, or with [`Resize::Squash`] each side, is scaled to before the centre is cut
    /// out, in pixels; at least `image_size`. DINOv2 and DeiT use 256 for 224. Default: `image_size`.
    #[serde(default)]
    pub resize_to: Option<usize>,
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
    /// Training only, before the crop: random changes of colour and shape. Default: none.
    #[serde(default)]
    pub rand_augment: Option<RandAugment>,
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
            Self::Key { key, .. } if key == "size_divisor" => Some(
                "describe the nearest square instead: size {\"height\": 384, \"width\": 384}, without \
                 size_divisor and do_pad"
                    .to_owned(),
            ),
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
            resize_to: None,
            filter: Filter::default(),
            mean: CLIP_MEAN,
            std: CLIP_STD,
            alpha: AlphaRule::default(),
            rand_augment: None,
            random_crop_scale: None,
            flip: 0.0,
        }
    }

    /// The same with other means and deviations.
    #[must_use]
    pub fn normalised(mut self, by: Normalisation) -> Self {
        (self.mean, self.std) = by.mean_std();
        self
    }

    /// Checks ranges; call it once after reading a configuration.
    pub fn validate(&self) -> Result<(), TransformError> {
        if self.image_size == 0 || self.image_size > MAX_IMAGE_SIZE {
            let problem = format!("is {}, it must be in 1..={MAX_IMAGE_SIZE}", self.image_size);
            return Err(TransformError::key("image_size", problem));
        }
        if let Some(side) = self.resize_to
            && !(self.image_size..=MAX_IMAGE_SIZE).contains(&side)
        {
            let problem = format!(
                "is {side}, it must be in {}..={MAX_IMAGE_SIZE}: the crop has to fit",
                self.image_size
            );
            return Err(TransformError::key("resize_to", problem));
        }
        if let Some(problem) = self.rand_augment.and_then(|rand| rand.problem()) {
            return Err(TransformError::key("rand_augment", problem));
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

    /// Values of a picture: `3 x image_size x image_size`.
    pub(crate) const fn picture_len(&self) -> usize {
        3 * self.image_size * self.image_size
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
    /// For evaluation, and for training without random changes of shape, this is the square. Before
    /// such changes it is the whole picture, its short side reduced to at most twice `image_size` so
    /// that a cache of photographs stays small. `train` goes through the same reduction, so a cached
    /// and an uncached run agree to the bit.
    pub fn prepare(&self, image: &Rgb, train: bool) -> Rgb {
        if train && self.changes_shape() {
            let limit = 2 * self.image_size;
            let short = image.width.min(image.height);
            if short <= limit {
                return image.clone();
            }
            let (width, height) = short_side_size(image.width, image.height, limit);
            return resize(image, width, height, self.filter);
        }
        self.square(image)
    }

    /// The part of a picture that evaluation sees, as `[x, y, width, height]` in shares of it.
    #[must_use]
    pub fn window(&self, width: usize, height: usize) -> [f32; 4] {
        let seen = self.image_size as f32 / self.resize_to.unwrap_or(self.image_size).max(1) as f32;
        let share = match self.resize {
            Resize::Squash => [seen, seen],
            Resize::ShortSideCenterCrop => {
                let short = width.min(height) as f32;
                [width, height].map(|side| seen * short / (side as f32).max(1.0))
            }
        };
        let [width, height] = share;
        [(1.0 - width) / 2.0, (1.0 - height) / 2.0, width, height]
    }

    /// The same without anything that is drawn.
    #[must_use]
    pub fn plain(&self) -> Self {
        Self {
            random_crop_scale: None,
            flip: 0.0,
            rand_augment: None,
            ..self.clone()
        }
    }

    const fn changes_shape(&self) -> bool {
        self.random_crop_scale.is_some() || self.rand_augment.is_some()
    }

    fn square(&self, image: &Rgb) -> Rgb {
        let size = self.image_size;
        let side = self.resize_to.unwrap_or(size);
        let (width, height) = match self.resize {
            Resize::Squash => (side, side),
            Resize::ShortSideCenterCrop => short_side_size(image.width, image.height, side),
        };
        let window = Window {
            x: center_offset(width, size),
            y: center_offset(height, size),
            width: size,
            height: size,
        };
        resample(image, width, height, window, self.filter)
    }

    /// The random part of training, on what [`Self::prepare`] returned for training: RandAugment,
    /// crop, mirror image. Frames of a clip that get the same state of `rng` are changed alike.
    pub fn augment(&self, prepared: &Rgb, rng: &mut Rng) -> Vec<f32> {
        let mut out = vec![0.0; self.picture_len()];
        self.augment_into(prepared, rng, &mut out);
        out
    }

    /// [`Self::augment`] into memory that is there.
    pub(crate) fn augment_into(&self, prepared: &Rgb, rng: &mut Rng, out: &mut [f32]) {
        let changed = self.rand_augment.map(|rand| rand.apply(prepared, rng));
        let whole = changed.as_ref().unwrap_or(prepared);
        let cut = match self.random_crop_scale {
            Some(scale) => {
                let part = crop(whole, random_box(whole.width, whole.height, scale, rng));
                Some(resize(&part, self.image_size, self.image_size, self.filter))
            }
            None => self.changes_shape().then(|| self.square(whole)),
        };
        let square = cut.as_ref().unwrap_or(prepared);
        // Drawn even at probability 0, so that turning the mirror on does not change the crops.
        let mirrored = unit_f64(rng) < f64::from(self.flip);
        if mirrored {
            normalise_into(&mirror(square), self.mean, self.std, out);
        } else {
            normalise_into(square, self.mean, self.std, out);
        }
    }

    /// The content of `preprocessor_config.json`. Keys that Hugging Face does not know are under
    /// `chiasm`, where other readers ignore them.
    pub fn to_hf_json(&self) -> Value {
        let square = |side: usize| json!({ "height": side, "width": side });
        let resized = self.resize_to.unwrap_or(self.image_size);
        let squashes = self.resize == Resize::Squash;
        json!({
            "image_processor_type": "CLIPImageProcessor",
            "do_convert_rgb": true,
            "do_resize": true,
            "size": if squashes { square(resized) } else { json!({ "shortest_edge": resized }) },
            "resample": match self.filter { Filter::Bicubic => 3, Filter::Bilinear => 2 },
            "do_center_crop": !squashes || self.resize_to.is_some(),
            "crop_size": square(self.image_size),
            "do_rescale": true,
            "rescale_factor": 1.0 / 255.0,
            "do_normalize": true,
            "image_mean": self.mean,
            "image_std": self.std,
            "chiasm": {
                "alpha": self.alpha,
                "rand_augment": self.rand_augment,
                "random_crop_scale": self.random_crop_scale,
                "flip": self.flip,
            },
        })
    }

    /// Reads `preprocessor_config.json`, ours or one of a published model: CLIP, ViT, DINOv2, DeiT,
    /// BLIP, SigLIP and what is described alike.
    ///
    /// Without the `chiasm` key, transparency is dropped, as the published pipelines do. A
    /// description that this crate would not reproduce is an error and not an approximation.
    pub fn from_hf_json(text: &str) -> Result<Self, TransformError> {
        let value: Value =
            serde_json::from_str(text).map_err(|error| TransformError::Json(error.to_string()))?;
        refuse_unknown_steps(&value)?;
        let family = Family::of(&value);
        let (image_size, resize_to, resize) = read_size(&value, &family)?;
        let filter = match value.get("resample").map(Value::as_u64) {
            None => family.filter,
            Some(Some(3)) => Filter::Bicubic,
            Some(Some(2)) => Filter::Bilinear,
            Some(_) => {
                let problem = format!("is {}, which is not supported", value["resample"]);
                return Err(TransformError::key("resample", problem));
            }
        };
        let (mean, std) = if flag(&value, "do_normalize").unwrap_or(true) {
            let (mean, std) = family.normalisation.mean_std();
            (
                triple(&value, "image_mean", mean)?,
                triple(&value, "image_std", std)?,
            )
        } else {
            ([0.0; 3], [1.0; 3])
        };
        let own = value.get("chiasm");
        let preprocess = Self {
            image_size,
            resize,
            resize_to,
            filter,
            mean,
            std,
            alpha: own_key(own, "alpha")?.unwrap_or(AlphaRule::Drop),
            rand_augment: own_key(own, "rand_augment")?.unwrap_or_default(),
            random_crop_scale: own_key(own, "random_crop_scale")?.unwrap_or_default(),
            flip: own_key(own, "flip")?.unwrap_or_default(),
        };
        preprocess.validate()?;
        Ok(preprocess)
    }
}

/// What a description leaves out, by the kind of model that it names.
struct Family {
    filter: Filter,
    normalisation: Normalisation,
    /// Cuts out the centre.
    crops: bool,
    /// A bare number as size means both sides, not the short one.
    squashes: bool,
}

impl Family {
    fn of(value: &Value) -> Self {
        let name = ["image_processor_type", "feature_extractor_type"]
            .iter()
            .find_map(|key| value.get(*key).and_then(Value::as_str))
            .unwrap_or_default();
        let family = |filter, normalisation, crops, squashes| Self {
            filter,
            normalisation,
            crops,
            squashes,
        };
        use Normalisation::{Clip, Half, ImageNet};
        if name.starts_with("ViT") {
            family(Filter::Bilinear, Half, false, true)
        } else if name.starts_with("DeiT") {
            family(Filter::Bicubic, ImageNet, true, true)
        } else if name.starts_with("Siglip") {
            family(Filter::Bicubic, Half, false, true)
        } else if name.starts_with("CLIP") || name.starts_with("Bit") {
            family(Filter::Bicubic, Clip, true, false)
        } else if name.is_empty() && flag(value, "do_center_crop").is_none() {
            // ViT's files of before 2022 name neither themselves nor their kernel.
            family(Filter::Bilinear, Half, false, true)
        } else {
            family(Filter::Bicubic, Clip, false, false)
        }
    }
}

/// Steps that would change pixels and that this crate does not have.
fn refuse_unknown_steps(value: &Value) -> Result<(), TransformError> {
    for (key, expected) in [
        ("do_resize", true),
        ("do_rescale", true),
        ("do_flip_channel_order", false),
        ("do_align_long_axis", false),
        ("do_thumbnail", false),
        ("do_reduce_labels", false),
    ] {
        if flag(value, key).is_some_and(|found| found != expected) {
            let problem = format!("is {}, which is not supported", !expected);
            return Err(TransformError::key(key, problem));
        }
    }
    if let Some(divisor) = value.get("size_divisor").filter(|found| !found.is_null()) {
        let problem = format!(
            "is {divisor}: pictures of many shapes in one batch are not supported, the model takes squares"
        );
        return Err(TransformError::key("size_divisor", problem));
    }
    if let Some(share) = value.get("crop_pct").filter(|found| !found.is_null()) {
        return Err(TransformError::key(
            "crop_pct",
            format!("is {share}, which is not supported"),
        ));
    }
    if let Some(factor) = value.get("rescale_factor").and_then(Value::as_f64)
        && (factor * 255.0 - 1.0).abs() > 1e-3
    {
        let problem = format!("is {factor}, only 1/255 is supported");
        return Err(TransformError::key("rescale_factor", problem));
    }
    Ok(())
}

/// Side of the square, what is scaled to before the crop where it differs, and how.
fn read_size(
    value: &Value,
    family: &Family,
) -> Result<(usize, Option<usize>, Resize), TransformError> {
    let said = flag(value, "do_center_crop");
    let size = value
        .get("size")
        .ok_or_else(|| TransformError::key("size", "is missing"))?;
    let crops = said.unwrap_or(family.crops || size.get("shortest_edge").is_some());
    let edge = size.get("shortest_edge").and_then(Value::as_u64);
    // Files before 2022 give a bare number.
    let edge = edge.or_else(|| size.as_u64().filter(|_| crops && !family.squashes));
    let (resized, resize) = match (edge, square_size(size)) {
        (Some(_), _) if !crops => {
            let problem = "is false: a short side alone gives no square";
            return Err(TransformError::key("do_center_crop", problem));
        }
        (Some(edge), _) => (edge, Resize::ShortSideCenterCrop),
        (None, Some(side)) => (side, Resize::Squash),
        (None, None) => return Err(TransformError::key("size", "is not a square")),
    };
    let cut = match value
        .get("crop_size")
        .filter(|found| crops && !found.is_null())
    {
        Some(found) => {
            square_size(found).ok_or_else(|| TransformError::key("crop_size", "is not a square"))?
        }
        None => resized,
    };
    if cut > resized {
        let problem = format!("is {cut}, more than the {resized} that pictures are scaled to");
        return Err(TransformError::key("crop_size", problem));
    }
    let to_usize = |size: u64| usize::try_from(size).unwrap_or(usize::MAX);
    Ok((
        to_usize(cut),
        (cut != resized).then(|| to_usize(resized)),
        resize,
    ))
}

fn flag(value: &Value, key: &str) -> Option<bool> {
    value.get(key).and_then(Value::as_bool)
}

/// Size after scaling the short side to `size`; the long side is rounded down.
pub fn short_side_size(width: usize, height: usize, size: usize) -> (usize, usize) {
    if width <= height {
        (size, size * height / width.max(1))
    } else {
        (size * width / height.max(1), size)
    }
}

/// Size after scaling the short side to `short` and the long one to 1333/800 of that at most, both rounded down to
/// whole `divisor`s, one at least: how ViLT keeps the shape of a picture.
pub fn kept_shape_size(
    width: usize,
    height: usize,
    short: usize,
    divisor: usize,
) -> (usize, usize) {
    let long = (1333 * short / 800) as f64;
    let scale = short as f64 / width.min(height).max(1) as f64;
    let scale = scale.min(long / width.max(height).max(1) as f64);
    let side = |own: usize| {
        let exact = (own as f64 * scale + 0.5) as usize;
        (exact / divisor.max(1)).max(1) * divisor.max(1)
    };
    (side(width), side(height))
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
    let mut out = vec![0.0; image.data.len()];
    normalise_into(image, mean, std, &mut out);
    out
}

/// [`normalise`] into memory that is there: `3 x height x width` values.
pub(crate) fn normalise_into(image: &Rgb, mean: [f32; 3], std: [f32; 3], out: &mut [f32]) {
    let channel_len = (image.data.len() / 3).max(1);
    simd(
        #[inline(always)]
        move || {
            let out = out;
            let channels = out
                .chunks_exact_mut(channel_len)
                .zip(mean.into_iter().zip(std));
            for (channel, (out, (mean, std))) in channels.enumerate() {
                for (out, pixel) in out.iter_mut().zip(image.data.chunks_exact(3)) {
                    *out = (f32::from(pixel[channel]) / 255.0 - mean) / std;
                }
            }
        },
    );
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
    fn the_window_is_what_is_not_cut_off() {
        let mut preprocess = Preprocess::new(84);
        assert_eq!(preprocess.window(200, 100), [0.25, 0.0, 0.5, 1.0]);
        assert_eq!(preprocess.window(100, 200), [0.0, 0.25, 1.0, 0.5]);
        preprocess.resize_to = Some(168);
        assert_eq!(preprocess.window(100, 100), [0.25, 0.25, 0.5, 0.5]);
        preprocess.resize = Resize::Squash;
        preprocess.resize_to = None;
        assert_eq!(preprocess.window(200, 100), [0.0, 0.0, 1.0, 1.0]);
    }

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
    fn the_centre_of_a_larger_square() {
        let image = Rgb::pattern(64, 48);
        for resize_rule in [Resize::Squash, Resize::ShortSideCenterCrop] {
            let larger = Preprocess {
                resize: resize_rule,
                ..Preprocess::new(20)
            };
            let smaller = Preprocess {
                image_size: 16,
                resize_to: Some(20),
                ..larger.clone()
            };
            let whole = larger.prepare(&image, false);
            assert_eq!(smaller.prepare(&image, false), center_crop(&whole, 16));
        }
    }

    #[test]
    fn rand_augment_comes_before_the_crop_and_is_the_same_for_all_frames() {
        let preprocess = Preprocess {
            rand_augment: Some(RandAugment::default()),
            random_crop_scale: Some((0.9, 1.0)),
            ..Preprocess::new(16)
        };
        let (frame, other) = (Rgb::pattern(60, 40), Rgb::pattern(60, 40));
        let rng = stream(3, "augment", &[1, 2]);
        let first = preprocess.train(&frame, &mut rng.clone());
        assert_eq!(first, preprocess.train(&other, &mut rng.clone()));
        let plain = Preprocess {
            rand_augment: None,
            ..preprocess.clone()
        };
        assert_ne!(first, plain.train(&frame, &mut rng.clone()));
        let uncropped = Preprocess {
            random_crop_scale: None,
            ..preprocess
        };
        assert_eq!(uncropped.train(&frame, &mut rng.clone()).len(), 3 * 16 * 16);
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
            rand_augment: Some(RandAugment {
                ops: 3,
                magnitude: 4.5,
            }),
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
        for (published, expected) in [
            // google/vit-base-patch16-224, and an older file of the same family.
            (
                r#"{"do_normalize":true,"do_rescale":true,"do_resize":true,"image_mean":[0.5,0.5,0.5],
                "image_processor_type":"ViTFeatureExtractor","image_std":[0.5,0.5,0.5],"resample":2,
                "rescale_factor":0.00392156862745098,"size":{"height":224,"width":224}}"#,
                (
                    224,
                    None,
                    Resize::Squash,
                    Filter::Bilinear,
                    Normalisation::Half,
                ),
            ),
            (
                r#"{"do_normalize":true,"do_resize":true,"size":224}"#,
                (
                    224,
                    None,
                    Resize::Squash,
                    Filter::Bilinear,
                    Normalisation::Half,
                ),
            ),
            // openai/clip-vit-base-patch32.
            (
                r#"{"crop_size":224,"do_center_crop":true,"do_normalize":true,"do_resize":true,
                "feature_extractor_type":"CLIPFeatureExtractor","resample":3,"size":224}"#,
                (
                    224,
                    None,
                    Resize::ShortSideCenterCrop,
                    Filter::Bicubic,
                    Normalisation::Clip,
                ),
            ),
            // facebook/dinov2-small.
            (
                r#"{"crop_size":{"height":224,"width":224},"do_center_crop":true,"do_convert_rgb":true,
                "do_normalize":true,"do_rescale":true,"do_resize":true,"image_mean":[0.485,0.456,0.406],
                "image_processor_type":"BitImageProcessor","image_std":[0.229,0.224,0.225],"resample":3,
                "rescale_factor":0.00392156862745098,"size":{"shortest_edge":256}}"#,
                (
                    224,
                    Some(256),
                    Resize::ShortSideCenterCrop,
                    Filter::Bicubic,
                    Normalisation::ImageNet,
                ),
            ),
            // facebook/deit-base-distilled-patch16-224: squashed to 256, then cut.
            (
                r#"{"crop_size":224,"do_center_crop":true,"do_normalize":true,"do_resize":true,
                "feature_extractor_type":"DeiTFeatureExtractor","resample":3,"size":256}"#,
                (
                    224,
                    Some(256),
                    Resize::Squash,
                    Filter::Bicubic,
                    Normalisation::ImageNet,
                ),
            ),
        ] {
            let read = Preprocess::from_hf_json(published).unwrap();
            let (image_size, resize_to, resize, filter, by) = expected;
            let described = Preprocess {
                image_size,
                resize_to,
                resize,
                filter,
                alpha: AlphaRule::Drop,
                ..Preprocess::new(224).normalised(by)
            };
            assert_eq!(read, described, "{published}");
            let again = Preprocess::from_hf_json(&read.to_hf_json().to_string()).unwrap();
            assert_eq!(again, described, "{published}");
        }
        // dandelin/vilt-b32-mlm.
        let vilt = r#"{"do_normalize":true,"do_resize":true,"feature_extractor_type":"ViltFeatureExtractor",
            "image_mean":[0.5,0.5,0.5],"image_std":[0.5,0.5,0.5],"resample":3,"size":384,"size_divisor":32}"#;
        let error = Preprocess::from_hf_json(vilt).unwrap_err();
        assert!(error.to_string().contains("size_divisor"), "{error}");
        assert!(error.hint().is_some());
        for bad in [
            "",
            "{}",
            r#"{"size":{"shortest_edge":224},"crop_size":256}"#,
            r#"{"size":{"shortest_edge":224},"do_center_crop":false}"#,
            r#"{"size":{"height":224,"width":200}}"#,
            r#"{"size":224,"do_resize":false}"#,
            r#"{"size":224,"do_flip_channel_order":true}"#,
            r#"{"size":{"shortest_edge":224},"crop_pct":0.875}"#,
            r#"{"size":224,"resample":"bicubic"}"#,
            r#"{"size":224,"rescale_factor":1}"#,
            r#"{"size":224,"chiasm":{"rand_augment":{"ops":99}}}"#,
            r#"{"size":224,"chiasm":{"rand_augment":{"magnitude":31}}}"#,
            r#"{"size":224,"resample":1}"#,
            r#"{"size":{"shortest_edge":0}}"#,
            r#"{"size":224,"image_std":[0,1,1]}"#,
            r#"{"size":99999999999}"#,
        ] {
            assert!(Preprocess::from_hf_json(bad).is_err(), "{bad}");
        }
    }
}
