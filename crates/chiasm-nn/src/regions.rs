//! Regions in place of patches: what a detector saw in a picture, as tokens, and the heads that read
//! them (ROSITA, `specs/tbkin.md` sections 1.3 and 1.5).

use burn::module::Module;
use burn::tensor::activation::gelu;
use burn::tensor::{Device, Tensor, TensorData};
use chiasm_data::{RegionLimits, RegionRows};

use crate::config::{RegionConfig, RegionPlace};
use crate::dropout::next_site;
use crate::layers::{Init, LayerNorm, Linear, drop_rows};
use crate::published::pairs::{PairError, same_count};
use crate::spans::Spans;
use crate::tokens::Tokens;

/// Numbers that say where a region is: its corners, and its share of the picture's area.
const GEOMETRY: usize = 5;
/// The corners alone.
const CORNERS: usize = 4;

/// Regions of a batch of pictures, one picture after another, without padding.
#[derive(Clone, Debug)]
pub struct Regions {
    /// A detector's features, `[regions, features]`.
    pub features: Tokens,
    /// Corners as fractions of the picture (left, top, right, bottom), `[regions, 4]`.
    pub boxes: Tensor<2>,
}

impl Regions {
    /// Regions of a batch on the device.
    #[must_use]
    pub fn new(rows: &RegionRows, device: &Device) -> Self {
        let count = rows.len();
        let features = TensorData::new(rows.features.clone(), [count, rows.dim]);
        let boxes: Vec<f32> = rows.boxes.iter().flatten().copied().collect();
        Self {
            features: Tokens {
                rows: Tensor::from_data(features, device),
                spans: Spans::new(rows.counts.iter().copied()),
            },
            boxes: Tensor::from_data(TensorData::new(boxes, [count, 4]), device),
        }
    }

    /// Refuses what does not fit the texts or the model.
    ///
    /// # Errors
    /// Another number of pictures than texts, features of another width, boxes that are not four
    /// numbers a region.
    pub fn check(&self, texts: &Spans, width: usize) -> Result<(), PairError> {
        let spans = &self.features.spans;
        same_count(texts.batch(), spans.batch())?;
        let regions = spans.tokens();
        for (what, found, width) in [
            ("features", self.features.rows.dims(), width),
            ("boxes", self.boxes.dims(), 4),
        ] {
            let expected = [regions, width];
            if found != expected {
                return Err(PairError::Regions {
                    what,
                    found,
                    expected,
                });
            }
        }
        Ok(())
    }

    /// The regions of some pictures, in the given order.
    #[must_use]
    pub fn select(&self, pictures: &[usize]) -> Self {
        let boxes = self.features.with_rows(self.boxes.clone());
        Self {
            features: self.features.select(pictures),
            boxes: boxes.select(pictures).rows,
        }
    }

    /// The same places with zeros for the features of some of them.
    #[must_use]
    pub fn hide(&self, rows: &[usize]) -> Self {
        let features = self.features.rows.clone();
        let [count, _] = features.dims();
        let device = features.device();
        let mut kept = vec![1.0f32; count];
        for row in rows {
            if let Some(kept) = kept.get_mut(*row) {
                *kept = 0.0;
            }
        }
        let kept = Tensor::<2>::from_data(TensorData::new(kept, [count, 1]), &device);
        Self {
            features: self.features.with_rows(features * kept),
            boxes: self.boxes.clone(),
        }
    }

    /// Where each region is, `[regions, 5]`: corners as fractions, and its share of the area.
    #[must_use]
    pub fn geometry(&self) -> Tensor<2> {
        let column = |index| self.boxes.clone().narrow(1, index, 1);
        let area = (column(2) - column(0)) * (column(3) - column(1));
        Tensor::cat(vec![self.boxes.clone(), area], 1)
    }
}

/// Regions as tokens: features and place, each to the width of a token, together and normalised.
#[derive(Module, Debug)]
pub struct RegionEmbedding {
    /// A detector's features to the width of a token, `[features, width]`.
    pub features: Linear,
    /// The place to the width of a token, `[5, width]`, or of corners alone, `[4, width]`; none where it
    /// is not used.
    pub geometry: Option<Linear>,
    /// After the sum, or after the features where a mean is taken.
    pub norm: LayerNorm,
    /// After the place where a mean is taken.
    pub geometry_norm: Option<LayerNorm>,
    #[module(skip)]
    dropout: f64,
    #[module(skip)]
    most: usize,
}

impl RegionEmbedding {
    /// Fresh weights for tokens of `width`.
    #[must_use]
    pub fn new(init: &Init, config: &RegionConfig, width: usize) -> Self {
        let numbers = match config.place {
            RegionPlace::Added => Some(GEOMETRY),
            RegionPlace::Averaged => Some(CORNERS),
            RegionPlace::Unused => None,
        };
        let norm = || LayerNorm::new(init, width, config.layer_norm_eps);
        Self {
            features: Linear::new(init, config.features, width),
            geometry: numbers.map(|numbers| Linear::new(init, numbers, width)),
            norm: norm(),
            geometry_norm: (config.place == RegionPlace::Averaged).then(norm),
            dropout: config.dropout,
            most: config.most,
        }
    }

    /// The regions that it takes.
    #[must_use]
    pub fn limits(&self) -> RegionLimits {
        RegionLimits {
            dim: self.features.weight.dims()[0],
            most: self.most,
        }
    }

    /// `LN(W_f x + b_f + W_g g + b_g)`, a token a region; with means
    /// `(LN(W_f x + b_f) + LN(W_g c + b_g)) / 2`. Regions have no order.
    #[must_use]
    pub fn forward(&self, regions: &Regions) -> Tokens {
        let features = &regions.features;
        let device = features.rows.device();
        let dropout = next_site(self.dropout, &device);
        let seen = self.features.forward(features.rows.clone());
        let rows = match (&self.geometry, &self.geometry_norm) {
            (None, _) => self.norm.forward(seen),
            (Some(place), None) => self.norm.forward(seen + place.forward(regions.geometry())),
            (Some(place), Some(norm)) => {
                let place = norm.forward(place.forward(regions.boxes.clone()));
                (self.norm.forward(seen) + place) / 2.0
            }
        };
        features.with_rows(drop_rows(dropout.as_ref(), rows))
    }
}

/// Linear, GELU, LayerNorm: what heads on single tokens begin with.
#[derive(Module, Debug)]
pub struct TokenTransform {
    /// `[width, width]`.
    pub dense: Linear,
    /// After the GELU.
    pub norm: LayerNorm,
}

impl TokenTransform {
    fn new(init: &Init, width: usize, eps: f64) -> Self {
        Self {
            dense: Linear::new(init, width, width),
            norm: LayerNorm::new(init, width, eps),
        }
    }

    fn forward(&self, tokens: Tensor<2>) -> Tensor<2> {
        self.norm.forward(gelu(self.dense.forward(tokens)))
    }
}

/// What a hidden region was: its features, its class and its attribute.
#[derive(Module, Debug)]
pub struct RegionHead {
    /// Before all three.
    pub transform: TokenTransform,
    /// `[width, features]`.
    pub features: Linear,
    /// `[width, objects]`.
    pub objects: Linear,
    /// `[width, attributes]`.
    pub attributes: Linear,
}

/// What [`RegionHead`] says of regions.
#[derive(Clone, Debug)]
pub struct RegionGuess {
    /// `[regions, features]`.
    pub features: Tensor<2>,
    /// Logits, `[regions, objects]`.
    pub objects: Tensor<2>,
    /// Logits, `[regions, attributes]`.
    pub attributes: Tensor<2>,
}

impl RegionHead {
    /// Fresh weights.
    #[must_use]
    pub fn new(init: &Init, config: &RegionConfig, width: usize) -> Self {
        Self {
            transform: TokenTransform::new(init, width, config.layer_norm_eps),
            features: Linear::new(init, width, config.features),
            objects: Linear::new(init, width, config.objects),
            attributes: Linear::new(init, width, config.attributes),
        }
    }

    /// # Shapes
    /// - tokens: fused regions, `[regions, width]`
    #[must_use]
    pub fn forward(&self, tokens: Tensor<2>) -> RegionGuess {
        let hidden = self.transform.forward(tokens);
        RegionGuess {
            features: self.features.forward(hidden.clone()),
            objects: self.objects.forward(hidden.clone()),
            attributes: self.attributes.forward(hidden),
        }
    }
}

/// Which region a text refers to, and how its box is to be corrected.
#[derive(Module, Debug)]
pub struct GroundHead {
    /// Before both.
    pub transform: TokenTransform,
    /// `[width, 1]`.
    pub rank: Linear,
    /// `[width, 4]`.
    pub shift: Linear,
}

impl GroundHead {
    /// Fresh weights.
    #[must_use]
    pub fn new(init: &Init, width: usize, eps: f64) -> Self {
        Self {
            transform: TokenTransform::new(init, width, eps),
            rank: Linear::new(init, width, 1),
            shift: Linear::new(init, width, 4),
        }
    }

    /// A score of every region, `[regions]`, and the correction of its box in units of
    /// [`crate::boxes::DEVIATIONS`], `[regions, 4]`.
    ///
    /// # Shapes
    /// - tokens: fused regions, `[regions, width]`
    #[must_use]
    pub fn forward(&self, tokens: Tensor<2>) -> (Tensor<1>, Tensor<2>) {
        let [regions, _] = tokens.dims();
        let hidden = self.transform.forward(tokens);
        let rank = self.rank.forward(hidden.clone()).reshape([regions]);
        (rank, self.shift.forward(hidden))
    }
}
