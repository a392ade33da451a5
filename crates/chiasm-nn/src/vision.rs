//! The image tower: a pre-LN vision transformer. Its configuration makes it CLIP's
//! (`specs/scl.md` section 1.3), ViT's or DINOv2's.
//!
//! Patch embedding is a step of its own, so that the complete and the masked view of a picture
//! share it, and so that dropped patches leave before the first block.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use crate::block::{self, Block, BlockConfig};
use crate::config::VisionConfig;
use crate::kernels::Norm;
use crate::layers::{Init, LayerNorm, Linear};
use crate::tokens::{Chosen, Tokens};

/// Patch embedding, positions and blocks.
#[derive(Module, Debug)]
pub struct VisionEncoder {
    /// Patch pixels to width, `[3 patch patch, width]`: a convolution whose stride is its kernel.
    pub patches: Linear,
    /// `[width]`.
    pub class_token: Param<Tensor<1>>,
    /// Row 0 belongs to the class token, `[1 + patches, width]`.
    pub positions: Param<Tensor<2>>,
    /// Learned tokens without a position, between the class token and the patches,
    /// `[registers, width]`.
    pub registers: Option<Param<Tensor<2>>>,
    /// Before the first block.
    pub norm_pre: Option<LayerNorm>,
    /// The transformer.
    pub blocks: Vec<Block>,
    /// After the last block, on all tokens.
    pub norm_post: LayerNorm,
    #[module(skip)]
    patch_size: usize,
}

impl VisionEncoder {
    /// Builds the tower with fresh weights.
    #[must_use]
    pub fn new(init: &Init, config: &VisionConfig) -> Self {
        let (width, patch) = (config.hidden_size, config.patch_size);
        let block = BlockConfig {
            width,
            heads: config.num_heads,
            intermediate: config.intermediate_size,
            activation: config.activation,
            eps: config.layer_norm_eps,
            // The published vision towers have no dropout anywhere.
            dropout: 0.0,
            place: Norm::Before,
            causal: false,
        };
        let patches = if config.patch_bias {
            Linear::new
        } else {
            Linear::without_bias
        };
        let norm_pre = || LayerNorm::new(init, width, config.layer_norm_eps);
        Self {
            patches: patches(init, 3 * patch * patch, width),
            class_token: init.normal([width]),
            positions: init.normal([1 + config.num_patches(), width]),
            registers: (config.registers > 0).then(|| init.normal([config.registers, width])),
            norm_pre: config.pre_norm.then(norm_pre),
            blocks: Block::stack(init, config.layers, &block),
            norm_post: LayerNorm::new(init, width, config.layer_norm_eps),
            patch_size: patch,
        }
    }

    /// Side of the pictures that [`Self::embed_patches`] takes.
    #[must_use]
    pub fn image_size(&self) -> usize {
        (self.positions.dims()[0] - 1).isqrt() * self.patch_size
    }

    /// Every patch with its position added; the class token joins in [`Self::encode`].
    ///
    /// # Shapes
    /// - pixel_values: `[batch, 3, side, side]`
    /// - output: the patches of each picture, row after row of the picture
    #[must_use]
    pub fn embed_patches(&self, pixel_values: Tensor<4>) -> Tokens {
        let patches = patch_pixels(pixel_values, self.patch_size);
        let positions = self.positions.val();
        let count = positions.dims()[0] - 1;
        let patches = self.patches.forward(patches);
        Tokens::uniform(patches + positions.narrow(0, 1, count).unsqueeze::<3>())
    }

    /// The class token is put in front of the given patches, and all run through the blocks.
    ///
    /// `patches` come from [`Self::embed_patches`]: all of a picture, or any subset.
    #[must_use]
    pub fn encode(&self, patches: &Tokens) -> Tokens {
        self.encode_where(patches, |_| true)
    }

    /// As [`Self::encode`], whole for the pictures that `whole` names by number; of the others the
    /// class token alone, without computing what the last block gives for their patches.
    #[must_use]
    pub fn encode_where(&self, patches: &Tokens, whole: impl Fn(usize) -> bool) -> Tokens {
        let embedded = self.embed(patches);
        let chosen = Chosen::whole(&embedded.spans, whole);
        let hidden = block::run(&self.blocks, embedded, &chosen);
        hidden.with_rows(self.norm_post.forward(hidden.rows.clone()))
    }

    /// What the first block reads, and what every block makes of it, before the last norm.
    #[must_use]
    pub fn encode_all(&self, patches: &Tokens) -> Vec<Tokens> {
        block::run_all(&self.blocks, self.embed(patches))
    }

    /// What the first block reads: class token, registers and patches, normalised.
    #[must_use]
    pub fn embed(&self, patches: &Tokens) -> Tokens {
        let hidden = self.prepend_class(patches);
        match &self.norm_pre {
            Some(norm) => hidden.with_rows(norm.forward(hidden.rows.clone())),
            None => hidden,
        }
    }

    /// Class token with its position, and registers, in front of every picture's patches.
    #[must_use]
    pub fn prepend_class(&self, patches: &Tokens) -> Tokens {
        let class = self.class_token.val().unsqueeze::<2>() + self.positions.val().narrow(0, 0, 1);
        patches.prepend(match &self.registers {
            Some(registers) => Tensor::cat(vec![class, registers.val()], 0),
            None => class,
        })
    }
}

/// Pixels of every patch, row after row of the picture, `[batch, patches, 3 patch patch]`; `patch`
/// divides both sides.
pub(crate) fn patch_pixels(pixel_values: Tensor<4>, patch: usize) -> Tensor<3> {
    let [batch, channels, height, width] = pixel_values.dims();
    let (rows, columns) = (height / patch, width / patch);
    pixel_values
        .reshape([batch, channels, rows, patch, columns, patch])
        .permute([0, 2, 4, 1, 3, 5])
        .reshape([batch, rows * columns, channels * patch * patch])
}
