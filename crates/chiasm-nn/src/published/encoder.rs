//! Published models that turn texts, pictures or both into vectors, behind one type.

use burn::tensor::{Device, Tensor};
use chiasm_data::resample::Filter;
use chiasm_data::transform::{Normalisation, Preprocess, Resize};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::bert::Bert;
use super::clip::{Clip, ClipConfig, ClipVision};
use super::family::{Family, recognise};
use super::lxmert::Lxmert;
use super::mobilenet::{MobileNet, MobileNetConfig};
use super::pairs::{PairEncoder, PairError};
use super::resnet::{ResNet, ResNetConfig};
use super::vilt::Vilt;
use super::visual_bert::VisualBert;
use super::vit::{Vit, VitConfig};
use super::{Published, load};
use crate::config::{Activation, TextConfig, VisionConfig};
use crate::packed::{PackedWeights, Precision};
use crate::text::{TextEncoder, TextError, TextInput};
use crate::vision::VisionEncoder;
use crate::weights::{LoadReport, StateDict, WeightError};

/// Side of the pictures that DINOv2 is used with, whose own table is of larger ones.
pub(super) const DINO_SIZE: usize = 224;

/// Side of the pictures that convolutional networks are used with; they take any.
pub(super) const CONVOLUTIONAL_SIZE: usize = 224;

/// How a sentence encoder makes one vector of those of its tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// Their mean.
    #[default]
    Mean,
    /// The first one.
    First,
}

impl Pooling {
    /// Reads `1_Pooling/config.json` of a sentence encoder.
    ///
    /// # Errors
    /// Another way of pooling, or several at once.
    pub fn from_json(json: &Value) -> Result<Self, WeightError> {
        let on = |mode: &&str| json.get(*mode).and_then(Value::as_bool) == Some(true);
        let modes: Vec<&str> = MODES.iter().copied().filter(on).collect();
        match modes[..] {
            ["pooling_mode_mean_tokens"] => Ok(Self::Mean),
            ["pooling_mode_cls_token"] => Ok(Self::First),
            _ => Err(WeightError::Config(format!(
                "pooling {modes:?}; pooling_mode_mean_tokens or pooling_mode_cls_token alone is expected"
            ))),
        }
    }
}

/// Ways of pooling that a sentence encoder can ask for.
const MODES: [&str; 6] = [
    "pooling_mode_cls_token",
    "pooling_mode_mean_tokens",
    "pooling_mode_max_tokens",
    "pooling_mode_mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens",
    "pooling_mode_lasttoken",
];

/// What an encoder cannot embed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// A text.
    #[error(transparent)]
    Text(#[from] TextError),
    /// Pictures of another size or with other channels.
    #[error("pictures have shape {found:?}, the model takes 3 channels of {size} by {size} pixels")]
    Pixels {
        /// Shape given.
        found: [usize; 4],
        /// Side wanted.
        size: usize,
    },
    /// A text with its picture.
    #[error(transparent)]
    Pair(#[from] PairError),
    /// Texts given to a model of pictures, or the other way round.
    #[error("{family} takes no {what}")]
    Modality {
        /// The model's family.
        family: &'static str,
        /// `texts` or `pictures`.
        what: &'static str,
    },
}

/// Sizes other than those of the file; position tables are changed to fit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Side of pictures in pixels. None: the one that the family is used with.
    pub image_size: Option<usize>,
    /// Longest text in tokens.
    pub max_text_len: Option<usize>,
}

/// A model that embeds texts, pictures or both.
#[derive(Debug)]
pub enum Encoder {
    /// Texts: BERT, RoBERTa, sentence encoders.
    Text(Box<Bert>),
    /// Pictures: ViT, DINOv2.
    Image(Box<Vit>),
    /// Pictures: a residual network.
    Residual(Box<ResNet>),
    /// Pictures: MobileNetV2.
    Mobile(Box<MobileNet>),
    /// Texts and pictures in one space: CLIP.
    Both(Box<Clip>),
    /// Texts with their pictures: VisualBERT, LXMERT, ViLT.
    Pair(PairEncoder),
}

/// An encoder, and how it came out of its file.
#[derive(Debug)]
pub struct Opened {
    /// What it is.
    pub family: Family,
    /// The model.
    pub encoder: Encoder,
    /// What became of every tensor.
    pub report: LoadReport,
}

/// Builds the encoder that weights are of, all of whose parameters must be there.
///
/// # Errors
/// A family that is not known or embeds nothing by itself, a configuration that is missing or cannot
/// be built, tensors that are missing or do not fit.
pub fn open(
    config: Option<&Value>,
    found: StateDict,
    sizes: Sizes,
    device: &Device,
) -> Result<Opened, WeightError> {
    let family = family_of(config, &found)?;
    let (encoder, report) = match family {
        Family::Bert | Family::Roberta => {
            let mut config = Bert::config(required(config, family)?)?;
            set(&mut config.encoder.max_text_len, sizes.max_text_len);
            let (model, report) = load(&config, found, device)?;
            (Encoder::Text(Box::new(model)), report)
        }
        Family::Vit | Family::Dinov2 => {
            let mut config = vit_config(config, &found)?;
            let usual = (family == Family::Dinov2
                && DINO_SIZE.is_multiple_of(config.encoder.patch_size))
            .then_some(DINO_SIZE);
            set(&mut config.encoder.image_size, sizes.image_size.or(usual));
            let (model, report) = load(&config, found, device)?;
            (Encoder::Image(Box::new(model)), report)
        }
        Family::Clip => {
            let mut config = clip_config(config, &found)?;
            set(&mut config.vision.image_size, sizes.image_size);
            set(&mut config.text.max_text_len, sizes.max_text_len);
            let (model, report) = load(&config, found, device)?;
            (Encoder::Both(Box::new(model)), report)
        }
        Family::Resnet => {
            let config = ResNetConfig::infer(&found)?;
            let (model, report) = load(&config, found, device)?;
            (Encoder::Residual(Box::new(model)), report)
        }
        Family::MobilenetV2 => {
            let config = MobileNetConfig::infer(&found)?;
            let (model, report) = load(&config, found, device)?;
            (Encoder::Mobile(Box::new(model)), report)
        }
        Family::Vilt => {
            let (model, report) = pair::<Vilt>(config, family, found, device)?;
            (Encoder::Pair(PairEncoder::Vilt(model)), report)
        }
        Family::VisualBert => {
            let (model, report) = pair::<VisualBert>(config, family, found, device)?;
            (Encoder::Pair(PairEncoder::VisualBert(model)), report)
        }
        Family::Lxmert => {
            let (model, report) = pair::<Lxmert>(config, family, found, device)?;
            (Encoder::Pair(PairEncoder::Lxmert(model)), report)
        }
        other => {
            let problem = format!("{} embeds no text or picture by itself", other.name());
            return Err(WeightError::Config(problem));
        }
    };
    Ok(Opened {
        family,
        encoder,
        report: report.require_complete()?,
    })
}

fn pair<M: Published>(
    config: Option<&Value>,
    family: Family,
    found: StateDict,
    device: &Device,
) -> Result<(Box<M>, LoadReport), WeightError> {
    let config = M::config(required(config, family)?)?;
    let (model, report) = load::<M>(&config, found, device)?;
    Ok((Box::new(model), report))
}

/// A text tower that starts from published weights: BERT's or RoBERTa's. `adjust` may change what
/// the weights leave open: dropout, the longest text, fewer layers.
///
/// # Errors
/// Weights of another family; otherwise as for [`open`].
pub fn text_tower(
    config: Option<&Value>,
    found: StateDict,
    adjust: impl FnOnce(&mut TextConfig),
    device: &Device,
) -> Result<(TextConfig, TextEncoder, LoadReport), WeightError> {
    let family = family_of(config, &found)?;
    if !matches!(family, Family::Bert | Family::Roberta) {
        let problem = format!("{} has no text tower of our form", family.name());
        return Err(WeightError::Config(problem));
    }
    let mut config = Bert::config(required(config, family)?)?;
    adjust(&mut config.encoder);
    let (model, report) = load::<Bert>(&config, found, device)?;
    Ok((config.encoder, model.encoder, report.require_complete()?))
}

/// An image tower that starts from published weights: CLIP's, ViT's or DINOv2's. `adjust` may change
/// what the weights leave open: the size of pictures, fewer layers.
///
/// # Errors
/// Weights of another family; otherwise as for [`open`].
pub fn image_tower(
    config: Option<&Value>,
    found: StateDict,
    adjust: impl FnOnce(&mut VisionConfig),
    device: &Device,
) -> Result<(VisionConfig, VisionEncoder, LoadReport), WeightError> {
    match family_of(config, &found)? {
        Family::Clip => {
            let mut config = clip_config(config, &found)?.vision;
            adjust(&mut config);
            let (model, report) = load::<ClipVision>(&config, found, device)?;
            Ok((config, model.vision, report.require_except(is_of_clips)?))
        }
        Family::Vit | Family::Dinov2 => {
            let mut config = vit_config(config, &found)?;
            adjust(&mut config.encoder);
            let (model, report) = load::<Vit>(&config, found, device)?;
            Ok((
                config.encoder,
                model.encoder,
                report.require_except(is_of_clips)?,
            ))
        }
        other => {
            let problem = format!("{} has no image tower of our form", other.name());
            Err(WeightError::Config(problem))
        }
    }
}

/// Whether a parameter is one of those that no published tower of pictures has: they begin as zeros.
fn is_of_clips(name: &str) -> bool {
    name.ends_with("temporal") || name.ends_with("mask_token")
}

fn set(size: &mut usize, other: Option<usize>) {
    *size = other.unwrap_or(*size);
}

fn family_of(config: Option<&Value>, found: &StateDict) -> Result<Family, WeightError> {
    let names: Vec<&str> = found.keys().map(String::as_str).collect();
    recognise(&names, config).ok_or_else(|| {
        let model_type = config.and_then(|config| config.get("model_type"));
        WeightError::Config(match model_type {
            Some(name) => format!("`model_type` is {name}, which is not read"),
            None => "no family of models has tensors of these names".to_owned(),
        })
    })
}

fn required(config: Option<&Value>, family: Family) -> Result<&Value, WeightError> {
    config.ok_or_else(|| {
        let problem = "is missing, and the tensors do not tell the number of heads";
        WeightError::Config(format!(
            "{} needs its config.json, which {problem}",
            family.name()
        ))
    })
}

/// The configuration, or the tensors' sizes where there is none that names a family.
pub(super) fn vit_config(
    config: Option<&Value>,
    found: &StateDict,
) -> Result<VitConfig, WeightError> {
    match config.filter(|config| config.get("model_type").is_some()) {
        Some(config) => Vit::config(config),
        None => VitConfig::infer(found),
    }
}

/// As [`vit_config`]; open_clip's configuration says only which activation there is.
pub(super) fn clip_config(
    config: Option<&Value>,
    found: &StateDict,
) -> Result<ClipConfig, WeightError> {
    match config {
        Some(config) if config.get("model_type").is_some() => Clip::config(config),
        Some(config) if config.get("model_cfg").is_some() => {
            let quick = config["model_cfg"]["quick_gelu"] == true;
            let activation = if quick {
                Activation::QuickGelu
            } else {
                Activation::Gelu
            };
            ClipConfig::infer(found, activation)
        }
        _ => ClipConfig::infer(found, Activation::QuickGelu),
    }
}

impl Encoder {
    /// Its matrices, packed as long as the result lives.
    #[must_use]
    pub fn packed(&self, precision: Precision) -> PackedWeights {
        match self {
            Self::Text(model) => PackedWeights::of(&**model, precision),
            Self::Image(model) => PackedWeights::of(&**model, precision),
            Self::Residual(model) => PackedWeights::of(&**model, precision),
            Self::Mobile(model) => PackedWeights::of(&**model, precision),
            Self::Both(model) => PackedWeights::of(&**model, precision),
            Self::Pair(PairEncoder::Vilt(model)) => PackedWeights::of(&**model, precision),
            Self::Pair(PairEncoder::VisualBert(model)) => PackedWeights::of(&**model, precision),
            Self::Pair(PairEncoder::Lxmert(model)) => PackedWeights::of(&**model, precision),
        }
    }

    /// One vector a text, not normalised, `[batch, width]`. `pooling` is a sentence encoder's; CLIP
    /// has its own.
    ///
    /// # Errors
    /// A text that the model cannot take, or a model of pictures.
    pub fn embed_texts(
        &self,
        input: &TextInput,
        pooling: Pooling,
    ) -> Result<Tensor<2>, EncodeError> {
        match self {
            Self::Text(model) => {
                model.encoder.check(input)?;
                let tokens = model.forward(input);
                Ok(match pooling {
                    Pooling::Mean => tokens.mean(),
                    Pooling::First => tokens.first(),
                })
            }
            Self::Both(model) => {
                model.text.check(input)?;
                Ok(model.embed_texts(input))
            }
            _ => Err(self.takes_no("texts")),
        }
    }

    /// One vector a picture, not normalised, `[batch, width]`: the class token after the last norm,
    /// CLIP's projection of it, or the mean of a convolutional network's map.
    ///
    /// # Shapes
    /// - pixel_values: `[batch, 3, side, side]`
    ///
    /// # Errors
    /// Pictures that the model cannot take, or a model of texts.
    pub fn embed_images(&self, pixel_values: Tensor<4>) -> Result<Tensor<2>, EncodeError> {
        self.check_pixels(&pixel_values)?;
        match self {
            Self::Text(_) | Self::Pair(_) => Err(self.takes_no("pictures")),
            Self::Image(model) => Ok(model.class(pixel_values)),
            Self::Residual(model) => Ok(model.features(pixel_values)),
            Self::Mobile(model) => Ok(model.features(pixel_values)),
            Self::Both(model) => Ok(model.embed_images(pixel_values)),
        }
    }

    /// What the last layer says of every place of a picture, row after row: patches after the last norm, or
    /// the cells of a convolutional network's map. Places are in a square, `side` by `side`.
    ///
    /// # Shapes
    /// - pixel_values: `[batch, 3, side, side]`
    /// - output: `[batch, places, width]`
    ///
    /// # Errors
    /// As [`Self::embed_images`].
    pub fn embed_places(&self, pixel_values: Tensor<4>) -> Result<Tensor<3>, EncodeError> {
        self.check_pixels(&pixel_values)?;
        let of_map = |map: Tensor<4>| {
            let [batch, channels, height, width] = map.dims();
            map.reshape([batch, channels, height * width])
                .swap_dims(1, 2)
        };
        match self {
            Self::Text(_) | Self::Pair(_) => Err(self.takes_no("pictures")),
            Self::Image(model) => Ok(model.encoder.encode_places(pixel_values)),
            Self::Both(model) => Ok(model.vision.encode_places(pixel_values)),
            Self::Residual(model) => Ok(of_map(model.feature_map(pixel_values))),
            Self::Mobile(model) => Ok(of_map(model.feature_map(pixel_values))),
        }
    }

    fn check_pixels(&self, pixel_values: &Tensor<4>) -> Result<(), EncodeError> {
        let Some(size) = self.image_size() else {
            return Err(self.takes_no("pictures"));
        };
        let found = pixel_values.dims();
        let [_, channels, height, width] = found;
        if channels != 3 || [height, width] != [size; 2] {
            return Err(EncodeError::Pixels { found, size });
        }
        Ok(())
    }

    fn takes_no(&self, what: &'static str) -> EncodeError {
        let family = match self {
            Self::Text(_) => "a text encoder",
            Self::Image(_) => "a vision transformer",
            Self::Residual(_) => "a residual network",
            Self::Mobile(_) => "MobileNetV2",
            Self::Both(_) => "CLIP",
            Self::Pair(model) => {
                let family = model.family();
                let what = "text or picture by itself, only pairs of both";
                return EncodeError::Modality { family, what };
            }
        };
        EncodeError::Modality { family, what }
    }

    /// Whether it reads texts, by themselves or with pictures.
    #[must_use]
    pub fn reads_texts(&self) -> bool {
        self.takes_texts() || matches!(self, Self::Pair(_))
    }

    /// Whether it embeds texts.
    #[must_use]
    pub fn takes_texts(&self) -> bool {
        matches!(self, Self::Text(_) | Self::Both(_))
    }

    /// Side of the pictures it embeds, in pixels; none for a model of texts.
    #[must_use]
    pub fn image_size(&self) -> Option<usize> {
        match self {
            Self::Text(_) | Self::Pair(_) => None,
            Self::Image(model) => Some(model.encoder.image_size()),
            Self::Residual(_) | Self::Mobile(_) => Some(CONVOLUTIONAL_SIZE),
            Self::Both(model) => Some(model.vision.image_size()),
        }
    }

    /// Longest text in tokens; none for a model of pictures.
    #[must_use]
    pub fn max_text_len(&self) -> Option<usize> {
        match self {
            Self::Text(model) => Some(model.encoder.max_text_len()),
            Self::Both(model) => Some(model.text.positions.weight.dims()[0]),
            Self::Pair(model) => Some(model.max_text_len()),
            Self::Image(_) | Self::Residual(_) | Self::Mobile(_) => None,
        }
    }

    /// Numbers of a place of [`Self::embed_places`]; none for a model of texts.
    #[must_use]
    pub fn place_width(&self) -> Option<usize> {
        match self {
            Self::Text(_) | Self::Pair(_) => None,
            Self::Both(model) => Some(model.vision.class_token.dims()[0]),
            Self::Image(_) | Self::Residual(_) | Self::Mobile(_) => Some(self.width()),
        }
    }

    /// Numbers of a vector.
    #[must_use]
    pub fn width(&self) -> usize {
        match self {
            Self::Text(model) => model.encoder.words.weight.dims()[1],
            Self::Image(model) => model.encoder.class_token.dims()[0],
            Self::Residual(model) => model.width(),
            Self::Mobile(model) => model.width(),
            Self::Both(model) => model.text_projection.weight.dims()[1],
            Self::Pair(model) => model.width(),
        }
    }
}

impl Opened {
    /// Preprocessing of pictures that the family was published with, for a model that comes without
    /// a `preprocessor_config.json`; none for a model of texts.
    #[must_use]
    pub fn preprocess(&self) -> Option<Preprocess> {
        Some(self.family.preprocess(self.encoder.image_size()?))
    }
}

impl Family {
    /// Preprocessing of pictures that the family was published with, for pictures of this side. DINOv2
    /// and the convolutional networks scale the short side to 256 pixels where 224 are cut out.
    #[must_use]
    pub fn preprocess(self, image_size: usize) -> Preprocess {
        let clip = Preprocess::new(image_size);
        let imagenet = |filter| Preprocess {
            filter,
            resize_to: Some(image_size * 256 / 224),
            ..clip.clone().normalised(Normalisation::ImageNet)
        };
        match self {
            Self::Dinov2 => imagenet(Filter::Bicubic),
            Self::Resnet | Self::MobilenetV2 => imagenet(Filter::Bilinear),
            Self::Vit => Preprocess {
                resize: Resize::Squash,
                filter: Filter::Bilinear,
                ..clip.normalised(Normalisation::Half)
            },
            _ => clip,
        }
    }
}
