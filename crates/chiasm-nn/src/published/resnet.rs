//! Residual networks by the names torchvision gives them: ResNet of any depth, of plain or
//! bottleneck blocks, ResNeXt and wide ones.
//!
//! A torchvision file comes without a configuration. All sizes are those of its tensors;
//! strides are the same in all of these networks.

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::activation::relu;
use burn::tensor::module::max_pool2d;
use burn::tensor::ops::MaxPoolOptions;
use serde_json::Value;

use super::convolution::{self, ConvNorm, ConvSizes, conv_norm_name, mean_of_map};
use super::{Published, shapes_by};
use crate::layers::{Init, Linear};
use crate::weights::{Shapes, StateDict, WeightError};

/// Stages of blocks; each but the first halves the map.
const STAGES: usize = 4;

/// Sizes of one block.
#[derive(Clone, Debug, PartialEq, Eq)]
struct BlockSizes {
    convs: Vec<ConvSizes>,
    shortcut: Option<ConvSizes>,
}

/// Sizes of a residual network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResNetConfig {
    stem: ConvSizes,
    stages: Vec<Vec<BlockSizes>>,
    classes: Option<usize>,
}

impl ResNetConfig {
    /// Reads the sizes off the tensors of a file.
    ///
    /// # Errors
    /// The first tensor that is missing or does not follow on those before it.
    pub fn infer(found: &StateDict) -> Result<Self, WeightError> {
        let state = &shapes_by::<ResNet>(found);
        let stem = ConvSizes::of(state, "conv1.weight", 3, 2)?;
        let mut width = stem.output();
        let mut stages = Vec::new();
        for stage in 1..=STAGES {
            let mut blocks = Vec::new();
            while blocks.is_empty()
                || state.contains_key(&format!("layer{stage}.{}.conv1.weight", blocks.len()))
            {
                let prefix = format!("layer{stage}.{}", blocks.len());
                let stride = if stage > 1 && blocks.is_empty() { 2 } else { 1 };
                let block = BlockSizes::infer(state, &prefix, width, stride)?;
                width = block.output();
                blocks.push(block);
            }
            stages.push(blocks);
        }
        Ok(Self {
            stem,
            stages,
            classes: convolution::classes(state, "fc.weight", width)?,
        })
    }
}

impl BlockSizes {
    fn infer(
        state: &Shapes,
        prefix: &str,
        input: usize,
        stride: usize,
    ) -> Result<Self, WeightError> {
        let is_bottleneck = state.contains_key(&format!("{prefix}.conv3.weight"));
        // A bottleneck block steps in its 3 by 3 convolution, a plain one in its first.
        let strides: &[usize] = if is_bottleneck {
            &[1, stride, 1]
        } else {
            &[stride, 1]
        };
        let mut width = input;
        let mut convs = Vec::new();
        for (index, stride) in strides.iter().enumerate() {
            let name = format!("{prefix}.conv{}.weight", index + 1);
            let sizes = ConvSizes::of(state, &name, width, *stride)?;
            width = sizes.output();
            convs.push(sizes);
        }
        let name = format!("{prefix}.downsample.0.weight");
        let shortcut = if state.contains_key(&name) {
            Some(ConvSizes::of(state, &name, input, stride)?)
        } else {
            None
        };
        let kept = shortcut.map_or((input, stride), |sizes| (sizes.output(), 1));
        if kept != (width, 1) {
            return Err(WeightError::Config(format!(
                "`{prefix}` gives {width} channels, which do not fit what is added to them"
            )));
        }
        Ok(Self { convs, shortcut })
    }

    fn output(&self) -> usize {
        self.convs.last().map_or(0, ConvSizes::output)
    }
}

/// Two or three convolutions and what goes past them.
#[derive(Module, Debug)]
pub struct ResNetBlock {
    /// Each followed by its norm.
    pub convs: Vec<ConvNorm>,
    /// What the input goes through where it is not added as it is.
    pub shortcut: Option<ConvNorm>,
}

impl ResNetBlock {
    fn new(init: &Init, sizes: &BlockSizes) -> Self {
        let conv = |sizes: &ConvSizes| ConvNorm::new(init, sizes);
        Self {
            convs: sizes.convs.iter().map(conv).collect(),
            shortcut: sizes.shortcut.as_ref().map(conv),
        }
    }

    fn forward(&self, input: Tensor<4>) -> Tensor<4> {
        let mut hidden = input.clone();
        for (index, conv) in self.convs.iter().enumerate() {
            if index > 0 {
                hidden = relu(hidden);
            }
            hidden = conv.forward(hidden);
        }
        let kept = match &self.shortcut {
            Some(shortcut) => shortcut.forward(input),
            None => input,
        };
        relu(hidden + kept)
    }
}

/// A residual network in evaluation: its batch norms use their stored statistics.
#[derive(Module, Debug)]
pub struct ResNet {
    /// 7 by 7 on the pixels.
    pub stem: ConvNorm,
    /// Blocks by stage.
    pub stages: Vec<Vec<ResNetBlock>>,
    /// Scores of the classes, when the file has them.
    pub head: Option<Linear>,
}

impl ResNet {
    /// Features of a picture.
    #[must_use]
    pub fn width(&self) -> usize {
        let last = self.stages.iter().flatten().last();
        let conv = last.and_then(|block| block.convs.last());
        conv.map_or(0, |conv| conv.kernel.dims()[0])
    }

    /// The map after the last stage. Neither side of a picture need be a multiple of 32.
    ///
    /// # Shapes
    /// - pixel_values: `[batch, 3, height, width]`, normalised as ImageNet's are
    /// - output: `[batch, width, height / 32, width / 32]`, rounded up
    #[must_use]
    pub fn feature_map(&self, pixel_values: Tensor<4>) -> Tensor<4> {
        let hidden = relu(self.stem.forward(pixel_values));
        let options = MaxPoolOptions::new([3; 2])
            .with_stride([2; 2])
            .with_padding([1; 2]);
        let hidden = max_pool2d(hidden, options);
        let blocks = self.stages.iter().flatten();
        blocks.fold(hidden, |hidden, block| block.forward(hidden))
    }

    /// Mean of the map, `[batch, width]`: 2048 numbers for ResNet-50 and -101.
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

impl Published for ResNet {
    type Config = ResNetConfig;

    /// Always refuses: see [`ResNetConfig::infer`].
    fn config(_: &Value) -> Result<Self::Config, WeightError> {
        Err(convolution::has_no_config())
    }

    fn build(init: &Init, config: &Self::Config) -> Self {
        let stage = |blocks: &Vec<BlockSizes>| {
            let blocks = blocks.iter().map(|sizes| ResNetBlock::new(init, sizes));
            blocks.collect()
        };
        let blocks = config.stages.last().and_then(|blocks| blocks.last());
        let width = blocks.map_or(0, BlockSizes::output);
        Self {
            stem: ConvNorm::new(init, &config.stem),
            stages: config.stages.iter().map(stage).collect(),
            head: config
                .classes
                .map(|classes| Linear::new(init, width, classes)),
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
        return Some(format!("fc.{leaf}"));
    }
    if let Some(leaf) = ours.strip_prefix("stem.") {
        return conv_norm_name(leaf, "conv1", "bn1");
    }
    let (stage, rest) = ours.strip_prefix("stages.")?.split_once('.')?;
    let (block, rest) = rest.split_once('.')?;
    let prefix = format!("layer{}.{block}", stage.parse::<usize>().ok()? + 1);
    if let Some(leaf) = rest.strip_prefix("shortcut.") {
        let part = |index| format!("{prefix}.downsample.{index}");
        return conv_norm_name(leaf, &part(0), &part(1));
    }
    let (conv, leaf) = rest.strip_prefix("convs.")?.split_once('.')?;
    let number = conv.parse::<usize>().ok()? + 1;
    let part = |kind| format!("{prefix}.{kind}{number}");
    conv_norm_name(leaf, &part("conv"), &part("bn"))
}
