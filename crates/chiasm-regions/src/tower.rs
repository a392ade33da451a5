//! The image tower that features come from: a published one, or that of a trained model.

use burn::tensor::{Device, Tensor, TensorData};
use chiasm_data::{Preprocess, Resize};
use chiasm_nn::VisionLanguageModel;
use chiasm_nn::published::encoder::{EncodeError, Encoder};
use chiasm_nn::vision::VisionEncoder;
use chiasm_nn::weights::{StateDict, digest, state_dict};

use crate::places::Places;
use crate::provider::{Prepared, RegionError};

/// A tower with what it takes to feed it.
#[derive(Clone, Copy)]
pub struct Tower<'a> {
    network: Network<'a>,
    preprocess: &'a Preprocess,
    /// Side of its pictures.
    side: usize,
    /// Numbers of a place.
    width: usize,
    device: &'a Device,
}

#[derive(Clone, Copy)]
enum Network<'a> {
    Own(&'a VisionLanguageModel, &'a VisionEncoder),
    Published(&'a Encoder),
}

impl<'a> Tower<'a> {
    /// That of a trained model. `preprocess` is the model's.
    ///
    /// # Errors
    /// A model that sees regions itself.
    pub fn own(
        model: &'a VisionLanguageModel,
        preprocess: &'a Preprocess,
        device: &'a Device,
    ) -> Result<Self, RegionError> {
        let vision = model.vision.as_ref().ok_or(EncodeError::Modality {
            family: "a model of regions",
            what: "pictures",
        })?;
        Ok(Self {
            network: Network::Own(model, vision),
            preprocess,
            side: vision.image_size(),
            width: vision.class_token.dims()[0],
            device,
        })
    }

    /// A published one. `preprocess` is how its pictures are prepared.
    ///
    /// # Errors
    /// A model of texts.
    pub fn published(
        encoder: &'a Encoder,
        preprocess: &'a Preprocess,
        device: &'a Device,
    ) -> Result<Self, RegionError> {
        let sizes = encoder.image_size().zip(encoder.place_width());
        let (side, width) = sizes.ok_or(EncodeError::Modality {
            family: "a text encoder",
            what: "pictures",
        })?;
        Ok(Self {
            network: Network::Published(encoder),
            preprocess,
            side,
            width,
            device,
        })
    }

    /// Side of its pictures, in pixels.
    #[must_use]
    pub fn side(&self) -> usize {
        self.side
    }

    /// Numbers of a feature.
    #[must_use]
    pub fn width(&self) -> usize {
        self.width
    }

    /// A digest of its weights (hexadecimal).
    #[must_use]
    pub fn digest(&self) -> String {
        digest(&match self.network {
            Network::Own(_, vision) => state_dict(vision),
            Network::Published(Encoder::Text(model)) => state_dict(model.as_ref()),
            Network::Published(Encoder::Image(model)) => state_dict(model.as_ref()),
            Network::Published(Encoder::Residual(model)) => state_dict(model.as_ref()),
            Network::Published(Encoder::Mobile(model)) => state_dict(model.as_ref()),
            Network::Published(Encoder::Both(model)) => state_dict(&model.vision),
            // Has no places, so that no tower is made of it.
            Network::Published(Encoder::Pair(_)) => StateDict::new(),
        })
    }

    /// The tower's own preprocessing, but for the shape: the whole picture, squashed.
    #[must_use]
    pub fn input(&self) -> Preprocess {
        Preprocess {
            image_size: self.side,
            resize: Resize::Squash,
            resize_to: None,
            ..self.preprocess.clone()
        }
    }

    /// What the tower says of every place of pictures, whose input `number` is its own.
    ///
    /// # Errors
    /// If the tower cannot take them, or the device fails.
    pub(crate) fn places(
        &self,
        batch: &[Prepared],
        number: usize,
    ) -> Result<Vec<Places>, RegionError> {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        let pixels = pixels(batch, number, self.side, self.device);
        let places = match self.network {
            Network::Own(_, vision) => vision.encode_places(pixels),
            Network::Published(encoder) => encoder.embed_places(pixels)?,
        };
        let [_, tokens, dim] = places.dims();
        host(places)?
            .chunks_exact((tokens * dim).max(1))
            .map(|values| {
                Places::new(dim, values.to_vec()).ok_or(RegionError::Places { tokens, dim })
            })
            .collect()
    }

    /// Features in the space that texts share with pictures, `[regions, projection]`; `None` of a tower that has
    /// none. The projection was trained on class tokens: a mean of places is close to what it knows, not the same.
    pub(crate) fn aligned(&self, features: &[f32]) -> Option<Tensor<2>> {
        let rows = features.len() / self.width.max(1);
        let data = TensorData::new(features.to_vec(), [rows, self.width]);
        let features = Tensor::from_data(data, self.device);
        match self.network {
            Network::Own(model, _) => {
                let hidden = model.image_transform.as_ref()?.forward(features);
                Some(model.image_projection.as_ref()?.forward(hidden))
            }
            Network::Published(Encoder::Both(model)) => {
                Some(model.image_projection.forward(features))
            }
            Network::Published(_) => None,
        }
    }

    /// Whether it shares a space with a text tower.
    #[must_use]
    pub fn is_aligned(&self) -> bool {
        matches!(
            self.network,
            Network::Own(..) | Network::Published(Encoder::Both(_))
        )
    }
}

/// Input `number` of all pictures, `[batch, 3, side, side]`.
pub(crate) fn pixels(batch: &[Prepared], number: usize, side: usize, device: &Device) -> Tensor<4> {
    let values = batch
        .iter()
        .filter_map(|picture| picture.inputs.get(number));
    let values: Vec<f32> = values.flatten().copied().collect();
    Tensor::from_data(
        TensorData::new(values, [batch.len(), 3, side, side]),
        device,
    )
}

/// Values on the host.
pub(crate) fn host<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f32>, RegionError> {
    let values = tensor.try_into_vec_as::<f32>();
    values.map_err(|error| RegionError::Device(error.to_string()))
}
