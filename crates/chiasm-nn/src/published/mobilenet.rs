//! MobileNetV2 by the names torchvision gives it, of any width.
//!
//! A torchvision file comes without a configuration. All sizes are those of its tensors; how many
//! blocks there are and which of them step is the same in all of these networks.

use burn::module::Module;
use burn::tensor::Tensor;
use serde_json::Value;

use super::convolution::{self, ConvNorm, ConvSizes, conv_norm_name, mean_of_map};
use super::{Published, shapes_by};
use crate::layers::{Init, Linear};
use crate::weights::{Shapes, StateDict, WeightError};

/// Step of every block, between the first convolution and the last.
const STRIDES: [usize; 17] = [1, 2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1];

/// Sizes of one block.
#[derive(Clone, Debug, PartialEq, Eq)]
struct BlockSizes {
    convs: Vec<ConvSizes>,
    is_residual: bool,
}

/// Sizes of a MobileNetV2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MobileNetConfig {
    stem: ConvSizes,
    blocks: Vec<BlockSizes>,
    last: ConvSizes,
    classes: Option<usize>,
}

impl MobileNetConfig {
    /// Reads the sizes off the tensors of a file.
    ///
    /// # Errors
    /// The first tensor that is missing or does not follow on those before it.
    pub fn infer(found: &StateDict) -> Result<Self, WeightError> {
        let state = &shapes_by::<MobileNet>(found);
        let stem = ConvSizes::of(state, "features.0.0.weight", 3, 2)?;
        let mut width = stem.output();
        let mut blocks = Vec::new();
        for (block, stride) in STRIDES.into_iter().enumerate() {
            let block = BlockSizes::infer(state, block, width, stride)?;
            width = block.convs.last().map_or(0, ConvSizes::output);
            blocks.push(block);
        }
        let name = format!("{}.0.weight", last_name());
        let last = ConvSizes::of(state, &name, width, 1)?;
        Ok(Self {
            stem,
            blocks,
            last,
            classes: convolution::classes(state, "classifier.1.weight", last.output())?,
        })
    }
}

impl BlockSizes {
    fn infer(
        state: &Shapes,
        block: usize,
        input: usize,
        stride: usize,
    ) -> Result<Self, WeightError> {
        // The first block widens nothing: two convolutions, of which the first looks around.
        let around = usize::from(block > 0);
        let mut width = input;
        let mut convs = Vec::new();
        for conv in 0..=around + 1 {
            let (name, _) = conv_names(block, conv);
            let stride = if conv == around { stride } else { 1 };
            let sizes = ConvSizes::of(state, &format!("{name}.weight"), width, stride)?;
            width = sizes.output();
            convs.push(sizes);
        }
        Ok(Self {
            convs,
            is_residual: stride == 1 && width == input,
        })
    }
}

/// Widen, look around channel by channel, narrow; the narrow ends are added where they are alike.
#[derive(Module, Debug)]
pub struct InvertedResidual {
    /// Each followed by its norm; the last one is not activated.
    pub convs: Vec<ConvNorm>,
    #[module(skip)]
    is_residual: bool,
}

impl InvertedResidual {
    fn new(init: &Init, sizes: &BlockSizes) -> Self {
        let convs = sizes.convs.iter();
        Self {
            convs: convs.map(|sizes| ConvNorm::new(init, sizes)).collect(),
            is_residual: sizes.is_residual,
        }
    }

    fn forward(&self, input: Tensor<4>) -> Tensor<4> {
        let mut hidden = input.clone();
        for (index, conv) in self.convs.iter().enumerate() {
            if index > 0 {
                hidden = relu6(hidden);
            }
            hidden = conv.forward(hidden);
        }
        if self.is_residual {
            hidden + input
        } else {
            hidden
        }
    }
}

/// MobileNetV2 in evaluation: its batch norms use their stored statistics, and nothing is dropped.
#[derive(Module, Debug)]
pub struct MobileNet {
    /// 3 by 3 on the pixels.
    pub stem: ConvNorm,
    /// The body.
    pub blocks: Vec<InvertedResidual>,
    /// To the width of the features.
    pub last: ConvNorm,
    /// Scores of the classes, when the file has them.
    pub head: Option<Linear>,
}

impl MobileNet {
    /// Features of a picture.
    #[must_use]
    pub fn width(&self) -> usize {
        self.last.kernel.dims()[0]
    }

    /// The map after the last convolution. Neither side of a picture need be a multiple of 32.
    ///
    /// # Shapes
    /// - pixel_values: `[batch, 3, height, width]`, normalised as ImageNet's are
    /// - output: `[batch, width, height / 32, width / 32]`, rounded up
    #[must_use]
    pub fn feature_map(&self, pixel_values: Tensor<4>) -> Tensor<4> {
        let hidden = relu6(self.stem.forward(pixel_values));
        let blocks = self.blocks.iter();
        let hidden = blocks.fold(hidden, |hidden, block| block.forward(hidden));
        relu6(self.last.forward(hidden))
    }

    /// Mean of the map, `[batch, width]`: 1280 numbers for the usual width.
    #[must_use]
    pub fn features(&self, pixel_values: Tensor<4>) -> Tensor<2> {
        mean_of_map(self.feature_map(pixel_values))
    }

    /// Scores of the classes for [`Self::features`], `[batch, classes]`; `None` without a head.
    #[must_use]
    pub fn logits(&self, features: Tensor<2>) -> Option<Tensor<2>> {
        self.head.as_ref().map(|head| head.forward(features))
    }
}

fn relu6(input: Tensor<4>) -> Tensor<4> {
    input.clamp(0.0, 6.0)
}

impl Published for MobileNet {
    type Config = MobileNetConfig;

    /// Always refuses: see [`MobileNetConfig::infer`].
    fn config(_: &Value) -> Result<Self::Config, WeightError> {
        Err(convolution::has_no_config())
    }

    fn build(init: &Init, config: &Self::Config) -> Self {
        let blocks = config.blocks.iter();
        let head = |classes| Linear::new(init, config.last.output(), classes);
        Self {
            stem: ConvNorm::new(init, &config.stem),
            blocks: blocks
                .map(|sizes| InvertedResidual::new(init, sizes))
                .collect(),
            last: ConvNorm::new(init, &config.last),
            head: config.classes.map(head),
        }
    }

    fn canonical(found: &str) -> Option<String> {
        convolution::canonical(found)
    }

    fn names(ours: &str) -> Vec<String> {
        published(ours).into_iter().collect()
    }
}

fn published(ours: &str) -> Option<String> {
    if let Some(leaf) = ours.strip_prefix("head.") {
        return Some(format!("classifier.1.{leaf}"));
    }
    if let Some(leaf) = ours.strip_prefix("stem.") {
        return conv_norm_name(leaf, "features.0.0", "features.0.1");
    }
    if let Some(leaf) = ours.strip_prefix("last.") {
        let last = last_name();
        return conv_norm_name(leaf, &format!("{last}.0"), &format!("{last}.1"));
    }
    let (block, rest) = ours.strip_prefix("blocks.")?.split_once('.')?;
    let (conv, leaf) = rest.strip_prefix("convs.")?.split_once('.')?;
    let (kernel, norm) = conv_names(block.parse().ok()?, conv.parse().ok()?);
    conv_norm_name(leaf, &kernel, &norm)
}

/// Names of a block's convolution and of its norm; both count from 0. All but the last convolution
/// are a folder with their norm, the last one stands beside it.
fn conv_names(block: usize, conv: usize) -> (String, String) {
    let prefix = format!("features.{}.conv", block + 1);
    let is_last = conv == 1 + usize::from(block > 0);
    if is_last {
        (format!("{prefix}.{conv}"), format!("{prefix}.{}", conv + 1))
    } else {
        (format!("{prefix}.{conv}.0"), format!("{prefix}.{conv}.1"))
    }
}

/// Prefix of the convolution after the blocks.
fn last_name() -> String {
    format!("features.{}", STRIDES.len() + 1)
}
