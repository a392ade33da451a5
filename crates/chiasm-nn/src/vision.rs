//! The image tower: a pre-LN vision transformer in CLIP's form (`specs/scl.md` section 1.3).
//!
//! Patch embedding is a step of its own, so that the complete and the masked view of a picture
//! share it, and so that dropped patches leave before the first block.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use crate::attention::SelfAttention;
use crate::config::VisionConfig;
use crate::kernels::Norm;
use crate::layers::{FeedForward, Init, LayerNorm, Linear};
use crate::tokens::{Chosen, Tokens};

/// One pre-LN block: attention and feed-forward, each on a normalised copy, each added back.
#[derive(Module, Debug)]
pub struct VisionBlock {
    /// Before the attention.
    pub attention_norm: LayerNorm,
    /// Attention of the picture to itself.
    pub attention: SelfAttention,
    /// Before the feed-forward.
    pub mlp_norm: LayerNorm,
    /// Position-wise sub-layer.
    pub mlp: FeedForward,
}

impl VisionBlock {
    fn new(init: &Init, config: &VisionConfig) -> Self {
        let width = config.hidden_size;
        Self {
            attention_norm: LayerNorm::new(init, width, config.layer_norm_eps),
            // The published vision tower has no dropout anywhere.
            attention: SelfAttention::new(init, width, config.num_heads, 0.0),
            mlp_norm: LayerNorm::new(init, width, config.layer_norm_eps),
            mlp: FeedForward::new(
                init,
                width,
                config.intermediate_size,
                config.activation,
                0.0,
            ),
        }
    }

    /// The pictures after one more block.
    #[must_use]
    pub fn forward(&self, input: Tokens) -> Tokens {
        let hidden = self
            .attention
            .sub_layer(input, &self.attention_norm, Norm::Before);
        self.mlp.sub_layer(hidden, &self.mlp_norm, Norm::Before)
    }

    /// As [`Self::forward`], of chosen tokens alone.
    #[must_use]
    pub fn forward_at(&self, input: &Tokens, chosen: &Chosen) -> Tokens {
        let norm = &self.attention_norm;
        let hidden = self
            .attention
            .sub_layer_at(input, chosen, norm, Norm::Before);
        self.mlp.sub_layer(hidden, &self.mlp_norm, Norm::Before)
    }
}

/// Patch embedding, positions and blocks.
#[derive(Module, Debug)]
pub struct VisionEncoder {
    /// Patch pixels to width, `[3 patch patch, width]`: a convolution whose stride is its kernel.
    pub patches: Linear,
    /// `[width]`.
    pub class_token: Param<Tensor<1>>,
    /// Row 0 belongs to the class token, `[1 + patches, width]`.
    pub positions: Param<Tensor<2>>,
    /// Before the first block.
    pub norm_pre: LayerNorm,
    /// The transformer.
    pub blocks: Vec<VisionBlock>,
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
        Self {
            patches: Linear::without_bias(init, 3 * patch * patch, width),
            class_token: init.normal([width]),
            positions: init.normal([1 + config.num_patches(), width]),
            norm_pre: LayerNorm::new(init, width, config.layer_norm_eps),
            blocks: (0..config.layers)
                .map(|_| VisionBlock::new(init, config))
                .collect(),
            norm_post: LayerNorm::new(init, width, config.layer_norm_eps),
            patch_size: patch,
        }
    }

    /// Every patch with its position added; the class token joins in [`Self::encode`].
    ///
    /// # Shapes
    /// - pixel_values: `[batch, 3, side, side]`
    /// - output: the patches of each picture, row after row of the picture
    #[must_use]
    pub fn embed_patches(&self, pixel_values: Tensor<4>) -> Tokens {
        let [batch, channels, height, width] = pixel_values.dims();
        let patch = self.patch_size;
        let (rows, columns) = (height / patch, width / patch);
        let patches = pixel_values
            .reshape([batch, channels, rows, patch, columns, patch])
            .permute([0, 2, 4, 1, 3, 5])
            .reshape([batch, rows * columns, channels * patch * patch]);
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
        let hidden = match self.blocks.split_last() {
            Some((last, blocks)) => {
                let hidden = blocks
                    .iter()
                    .fold(embedded, |hidden, block| block.forward(hidden));
                last.forward_at(&hidden, &chosen)
            }
            None => embedded.choose(&chosen),
        };
        hidden.with_rows(self.norm_post.forward(hidden.rows.clone()))
    }

    /// What the first block reads: class token and patches, normalised.
    fn embed(&self, patches: &Tokens) -> Tokens {
        let hidden = self.prepend_class(patches);
        hidden.with_rows(self.norm_pre.forward(hidden.rows.clone()))
    }

    /// Class token with its position in front of every picture's patches.
    #[must_use]
    pub fn prepend_class(&self, patches: &Tokens) -> Tokens {
        let class = self.class_token.val().unsqueeze::<2>() + self.positions.val().narrow(0, 0, 1);
        patches.prepend(class)
    }
}
