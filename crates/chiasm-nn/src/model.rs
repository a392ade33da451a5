//! Two towers, the fusion encoder and the pre-training heads as one model (METER's design, as SCL
//! uses it; `specs/scl.md` section 1).

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use crate::config::ModelConfig;
use crate::fusion::{Fused, FusionEncoder, summary};
use crate::heads::{ClassHead, MatchHead, MlmHead, Pooler, Projection};
use crate::layers::{Embedding, Init, Linear};
use crate::text::{TextEncoder, TextInput};
use crate::tokens::{Chosen, Tokens};
use crate::vision::VisionEncoder;

/// Row of the token-type table for words.
const TEXT_TYPE: usize = 0;
/// Row of the token-type table for the patches of the first picture; those of further ones follow.
const IMAGE_TYPE: usize = 1;

/// The whole model. Parts are public: objectives and tasks compose them.
#[derive(Module, Debug)]
pub struct VisionLanguageModel {
    /// Text tower.
    pub text: TextEncoder,
    /// Image tower.
    pub vision: VisionEncoder,
    /// Text width to fusion width.
    pub text_transform: Linear,
    /// Image width to fusion width.
    pub image_transform: Linear,
    /// Row 0 is added to words, row 1 to patches, row 2 to those of a second picture.
    pub token_types: Embedding,
    /// Co-attention encoder.
    pub fusion: FusionEncoder,
    /// Summary of the fused text.
    pub text_pooler: Pooler,
    /// Summary of the fused image.
    pub image_pooler: Pooler,
    /// Text into the contrastive space.
    pub text_projection: Projection,
    /// Image into the contrastive space.
    pub image_projection: Projection,
    /// Contrastive temperature, used as a divisor, `[1]`.
    pub temperature: Param<Tensor<1>>,
    /// Matching head.
    pub match_head: MatchHead,
    /// Masked-word head.
    pub mlm_head: MlmHead,
    /// Classifier of pairs, where a task has one.
    pub class_head: Option<ClassHead>,
    /// Score of a candidate, `[2 width, 1]`, where a task ranks.
    pub rank_head: Option<Linear>,
}

impl VisionLanguageModel {
    /// Builds the model with fresh weights drawn from `init`.
    #[must_use]
    pub fn new(init: &Init, config: &ModelConfig) -> Self {
        let width = config.fusion.hidden_size;
        Self {
            text: TextEncoder::new(init, &config.text),
            vision: VisionEncoder::new(init, &config.vision),
            text_transform: Linear::new(init, config.text.hidden_size, width),
            image_transform: Linear::new(init, config.vision.hidden_size, width),
            token_types: Embedding::new(init, config.fusion.type_rows, width),
            fusion: FusionEncoder::new(init, &config.fusion, config.select.as_ref()),
            text_pooler: Pooler::new(init, width),
            image_pooler: Pooler::new(init, width),
            text_projection: Projection::new(init, width, config.projection_size),
            image_projection: Projection::new(init, width, config.projection_size),
            temperature: init.constant([1], config.temperature as f32),
            match_head: MatchHead::new(init, width),
            mlm_head: MlmHead::new(
                init,
                width,
                config.text.vocab_size,
                config.fusion.layer_norm_eps,
            ),
            class_head: (config.heads.classes > 0).then(|| {
                let pictures = config.heads.pictures();
                ClassHead::new(init, width, pictures, config.heads.classes)
            }),
            rank_head: config
                .heads
                .ranking
                .then(|| Linear::new(init, 2 * width, 1)),
        }
    }

    /// Text tower and bridge to the fusion width.
    #[must_use]
    pub fn encode_text(&self, input: &TextInput) -> Tokens {
        self.encode_text_where(input, |_| true)
    }

    /// As [`Self::encode_text`], whole for the texts that `whole` names by number; of the others the
    /// first token alone, for less work.
    #[must_use]
    pub fn encode_text_where(&self, input: &TextInput, whole: impl Fn(usize) -> bool) -> Tokens {
        let chosen = Chosen::whole(&input.spans, whole);
        let encoded = self.text.forward_at(input, &chosen);
        encoded.with_rows(self.text_transform.forward(encoded.rows.clone()))
    }

    /// Image tower and bridge to the fusion width; each picture's class token comes first.
    ///
    /// `patches` come from `vision.embed_patches`: all of a picture, or any subset.
    #[must_use]
    pub fn encode_patches(&self, patches: &Tokens) -> Tokens {
        self.encode_clips_where(patches, 1, |_| true)
    }

    /// As [`Self::encode_patches`], of clips of `frames` pictures each: the class tokens of all frames
    /// come first. Whole for the clips that `whole` names by number; of the others the class tokens
    /// alone, for less work.
    #[must_use]
    pub fn encode_clips_where(
        &self,
        patches: &Tokens,
        frames: usize,
        whole: impl Fn(usize) -> bool,
    ) -> Tokens {
        let encoded = self.vision.encode_where(patches, frames, whole);
        encoded.with_rows(self.image_transform.forward(encoded.rows.clone()))
    }

    /// Complete clips, `[batch, frames, 3, side, side]`.
    #[must_use]
    pub fn encode_clips(&self, pixel_values: Tensor<5>) -> Tokens {
        let [batch, frames, channels, height, width] = pixel_values.dims();
        let pictures = pixel_values.reshape([batch * frames, channels, height, width]);
        let patches = self.vision.embed_patches(pictures);
        self.encode_clips_where(&patches, frames, |_| true)
    }

    /// Complete pictures, `[batch, 3, side, side]`.
    #[must_use]
    pub fn encode_images(&self, pixel_values: Tensor<4>) -> Tokens {
        self.encode_patches(&self.vision.embed_patches(pixel_values))
    }

    /// `text_embeds` before normalisation, `[batch, projection]`, from encoded text.
    #[must_use]
    pub fn project_text(&self, text: &Tokens) -> Tensor<2> {
        self.text_projection.forward(text.first())
    }

    /// `image_embeds` before normalisation, `[batch, projection]`, from encoded images of `frames`
    /// class tokens each.
    #[must_use]
    pub fn project_image(&self, image: &Tokens, frames: usize) -> Tensor<2> {
        self.image_projection.forward(summary(image, frames))
    }

    /// Runs the fusion encoder on encoded text and images of the same batch, which have `frames`
    /// class tokens each.
    #[must_use]
    pub fn fuse(&self, text: &Tokens, image: &Tokens, frames: usize) -> Fused {
        self.fusion.forward(self.typed(text, image, frames, 0))
    }

    /// As [`Self::fuse`], returning the output of every fusion layer.
    #[must_use]
    pub fn fuse_all(&self, text: &Tokens, image: &Tokens, frames: usize) -> Vec<Fused> {
        self.fusion.forward_all(self.typed(text, image, frames, 0))
    }

    /// What the first fusion layer reads: each stream with its row of the type table. Of the pictures
    /// that a text speaks of together, `picture` says which one this is, from 0.
    #[must_use]
    pub fn typed(&self, text: &Tokens, image: &Tokens, frames: usize, picture: usize) -> Fused {
        let typed = |tokens: &Tokens, row| {
            tokens.with_rows(tokens.rows.clone() + self.token_types.row(row))
        };
        Fused {
            text: typed(text, TEXT_TYPE),
            image: typed(image, IMAGE_TYPE + picture),
            frames,
        }
    }

    /// The summaries alone of fused pairs: the first token of every text, the class tokens of every
    /// image. For less work than [`Self::fuse`]; `input` comes from [`Self::typed`].
    #[must_use]
    pub fn fuse_globals(&self, input: Fused) -> Fused {
        let text = Chosen::first(&input.text.spans);
        let image = Chosen::leading(&input.image.spans, input.frames);
        self.fusion.forward_at(input, &text, &image)
    }

    /// Both pooled summaries side by side, text first: `[batch, 2 width]`.
    #[must_use]
    pub fn pooled(&self, fused: &Fused) -> Tensor<2> {
        Tensor::cat(
            vec![
                self.text_pooler.forward(fused.text_global()),
                self.image_pooler.forward(fused.image_global()),
            ],
            1,
        )
    }
}
