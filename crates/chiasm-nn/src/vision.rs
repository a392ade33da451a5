//! The image tower: a pre-LN vision transformer for pictures and clips. Its configuration makes it
//! CLIP's (`specs/scl.md` section 1.3), ViT's or DINOv2's.
//!
//! Patch embedding is a step of its own, so that the complete and the masked views of a picture
//! share it, and so that dropped patches leave before the first block.
//!
//! A clip goes through the same weights (section 1.4): its frames are embedded as pictures are, each
//! with a class token of its own. In a block, patches see their frame; class tokens see the whole
//! clip, and carry what they saw to the patches of the next block. A picture is a clip of one frame.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use crate::attention::Scope;
use crate::block::{self, Block, BlockConfig};
use crate::config::VisionConfig;
use crate::kernels::Norm;
use crate::layers::{Init, LayerNorm, Linear};
use crate::tokens::{Chosen, Tokens, indices};

/// Patch embedding, positions and blocks.
#[derive(Module, Debug)]
pub struct VisionEncoder {
    /// Patch pixels to width, `[3 patch patch, width]`: a convolution whose stride is its kernel.
    pub patches: Linear,
    /// `[width]`.
    pub class_token: Param<Tensor<1>>,
    /// Row 0 belongs to the class token, `[1 + patches, width]`.
    pub positions: Param<Tensor<2>>,
    /// Added to all tokens of a frame by its number, zeros at first, `[max frames, width]`.
    pub temporal: Option<Param<Tensor<2>>>,
    /// Stands for a patch that is hidden, zeros at first, `[width]`.
    pub mask_token: Option<Param<Tensor<1>>>,
    /// Learned tokens without a position, between the class token and the patches,
    /// `[registers, width]`.
    pub registers: Option<Param<Tensor<2>>>,
    /// Before the first block.
    pub norm_pre: Option<LayerNorm>,
    /// The transformer.
    pub blocks: Vec<Block>,
    /// After the last block, on all tokens; none where there is no block.
    pub norm_post: Option<LayerNorm>,
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
        };
        let patches = if config.patch_bias {
            Linear::new
        } else {
            Linear::without_bias
        };
        let norm = || LayerNorm::new(init, width, config.layer_norm_eps);
        Self {
            patches: patches(init, 3 * patch * patch, width),
            class_token: init.normal([width]),
            positions: init.normal([1 + config.num_patches(), width]),
            temporal: (config.max_frames > 0)
                .then(|| init.constant([config.max_frames, width], 0.0)),
            mask_token: config.mask_token.then(|| init.constant([width], 0.0)),
            registers: (config.registers > 0).then(|| init.normal([config.registers, width])),
            norm_pre: config.pre_norm.then(norm),
            blocks: Block::stack(init, config.layers, &block),
            norm_post: (config.layers > 0).then(norm),
            patch_size: patch,
        }
    }

    /// Side of the pictures that [`Self::embed_patches`] takes.
    #[must_use]
    pub fn image_size(&self) -> usize {
        (self.positions.dims()[0] - 1).isqrt() * self.patch_size
    }

    /// Frames that a clip may have at most; 1 for a tower of pictures.
    #[must_use]
    pub fn max_frames(&self) -> usize {
        let rows = |table: &Param<Tensor<2>>| table.dims()[0];
        self.temporal.as_ref().map_or(1, rows)
    }

    /// Patches of a picture.
    #[must_use]
    pub fn num_patches(&self) -> usize {
        self.positions.dims()[0] - 1
    }

    /// Learned tokens between the class token and the patches.
    #[must_use]
    pub fn num_registers(&self) -> usize {
        let rows = |table: &Param<Tensor<2>>| table.dims()[0];
        self.registers.as_ref().map_or(0, rows)
    }

    /// Every patch with its position added; the class token joins in [`Self::encode`].
    ///
    /// # Shapes
    /// - pixel_values: `[batch, 3, side, side]`; of clips all frames, one clip after another
    /// - output: the patches of each picture, row after row of the picture
    #[must_use]
    pub fn embed_patches(&self, pixel_values: Tensor<4>) -> Tokens {
        let patches = patch_pixels(pixel_values, self.patch_size);
        let positions = self.positions.val();
        let count = positions.dims()[0] - 1;
        let patches = self.patches.forward(patches);
        Tokens::uniform(patches + positions.narrow(0, 1, count).unsqueeze::<3>())
    }

    /// The same patches, of which those at `rows` (numbers in the packed batch) are hidden: the mask
    /// token stands at their positions. Without a mask token nothing is hidden.
    ///
    /// `patches` are all patches of every picture, from [`Self::embed_patches`].
    #[must_use]
    pub fn hide(&self, patches: &Tokens, rows: &[usize]) -> Tokens {
        let Some(mask_token) = &self.mask_token else {
            return patches.clone();
        };
        let (count, pictures) = (patches.spans.tokens(), patches.spans.batch());
        let positions = self.positions.val();
        let places = positions.dims()[0] - 1;
        let hidden = positions.narrow(0, 1, places) + mask_token.val().unsqueeze::<2>();
        // Row i of picture p stays row p * places + i, or becomes the hidden row i.
        let mut order: Vec<i64> = (0..count as i64).collect();
        for row in rows {
            if let Some(place) = order.get_mut(*row) {
                *place = (count + row % places) as i64;
            }
        }
        debug_assert_eq!(count, pictures * places, "all patches of every picture");
        let device = hidden.device();
        let rows = Tensor::cat(vec![patches.rows.clone(), hidden], 0);
        patches.with_rows(rows.select(0, indices(order, &device)))
    }

    /// The class token is put in front of the given patches, and all run through the blocks.
    ///
    /// `patches` come from [`Self::embed_patches`]: all of a picture, or any subset.
    #[must_use]
    pub fn encode(&self, patches: &Tokens) -> Tokens {
        self.encode_where(patches, 1, |_| true)
    }

    /// Complete pictures, their patches alone after the last norm, row after row.
    ///
    /// # Shapes
    /// - pixel_values: `[batch, 3, side, side]`
    /// - output: `[batch, patches, width]`
    #[must_use]
    pub fn encode_places(&self, pixel_values: Tensor<4>) -> Tensor<3> {
        let encoded = self.encode(&self.embed_patches(pixel_values)).padded();
        let first = 1 + self.num_registers();
        encoded.narrow(1, first, self.num_patches())
    }

    /// Clips of `frames` pictures each: the class tokens of all frames, then the patches of the first
    /// frame, of the second, and so on. Whole for the clips that `whole` names by number; of the
    /// others the class tokens alone, without computing what the last block gives for their patches.
    ///
    /// The frames of a clip have equally many patches, and there are no more than
    /// [`Self::max_frames`] of them.
    #[must_use]
    pub fn encode_where(
        &self,
        patches: &Tokens,
        frames: usize,
        whole: impl Fn(usize) -> bool,
    ) -> Tokens {
        let embedded = self.embed(patches, frames);
        let chosen = Chosen::whole_clips(&embedded.spans, frames, whole);
        let hidden = block::run(&self.blocks, embedded, &chosen, Scope::Frames(frames));
        let hidden = self.normalise(hidden);
        if frames == 1 {
            return hidden;
        }
        // Class tokens first.
        let order = |clip: std::ops::Range<usize>| {
            let step = (clip.len() / frames).max(1);
            let start = clip.start;
            let is_class = move |row: &usize| (row - start).is_multiple_of(step);
            let patches = clip.clone().filter(move |row| !is_class(row));
            clip.filter(is_class).chain(patches)
        };
        let rows: Vec<usize> = hidden.spans.iter().flat_map(order).collect();
        hidden.with_rows(hidden.token_rows(&rows))
    }

    /// What the last block gave behind the last norm.
    pub(crate) fn normalise(&self, hidden: Tokens) -> Tokens {
        normalised(self.norm_post.as_ref(), hidden)
    }

    /// What the first block reads, and what every block makes of it, before the last norm: frame
    /// after frame, each with its class token first.
    #[must_use]
    pub fn encode_all(&self, patches: &Tokens, frames: usize) -> Vec<Tokens> {
        let embedded = self.embed(patches, frames);
        block::run_all(&self.blocks, embedded, Scope::Frames(frames))
    }

    /// What the first block reads: [`Self::join_class`], normalised.
    #[must_use]
    pub fn embed(&self, patches: &Tokens, frames: usize) -> Tokens {
        normalised(self.norm_pre.as_ref(), self.join_class(patches, frames))
    }

    /// Clips of `frames` pictures each: of every frame class token, registers and patches, with the
    /// position of the frame.
    #[must_use]
    pub fn join_class(&self, patches: &Tokens, frames: usize) -> Tokens {
        let mut hidden = self.prepend_class(patches);
        if let Some(temporal) = &self.temporal {
            let frame_of = |(picture, span): (usize, std::ops::Range<usize>)| {
                std::iter::repeat_n((picture % frames) as i64, span.len())
            };
            let numbers = hidden.spans.iter().enumerate().flat_map(frame_of).collect();
            let device = hidden.rows.device();
            let added = temporal.val().select(0, indices(numbers, &device));
            hidden = hidden.with_rows(hidden.rows.clone() + added);
        }
        Tokens {
            spans: hidden.spans.clips(frames),
            rows: hidden.rows,
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

/// Tokens behind a norm, or as they are where there is none.
pub(crate) fn normalised(norm: Option<&LayerNorm>, tokens: Tokens) -> Tokens {
    match norm {
        Some(norm) => tokens.with_rows(norm.forward(tokens.rows.clone())),
        None => tokens,
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
