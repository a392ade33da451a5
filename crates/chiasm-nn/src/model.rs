//! Two towers, the fusion encoder and the heads as one model: METER's design, as SCL uses it
//! (`specs/scl.md` section 1), or BERT over words and regions, as ROSITA does (`specs/tbkin.md` section
//! 1), or VisualBERT, LXMERT and ViLT (`specs/itr.md` section 1.4), or any other pairing of what is to be seen with how it is fused.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use crate::attention::Scope;
use crate::block::{self, Block, BlockConfig};
use crate::config::ModelConfig;
use crate::fusion::{Fused, FusionEncoder, summary};
use crate::heads::{ClassHead, ClusterHead, MatchHead, MlmHead, Pooler, Projection};
use crate::layers::{Embedding, Init, Linear};
use crate::regions::{GroundHead, RegionEmbedding, RegionHead, Regions};
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
    /// Image tower, unless regions are seen.
    pub vision: Option<VisionEncoder>,
    /// Regions as tokens, where they are seen in place of pixels.
    pub regions: Option<RegionEmbedding>,
    /// In which regions look at each other before they meet words.
    pub region_layers: Vec<Block>,
    /// Text width to fusion width, in two streams that are fused.
    pub text_transform: Option<Linear>,
    /// Image width to fusion width, in two streams that are fused.
    pub image_transform: Option<Linear>,
    /// Row 0 is added to words, row 1 to patches, row 2 to those of a second picture; in two streams
    /// that are fused.
    pub token_types: Option<Embedding>,
    /// What joins both; without layers where the towers stand alone.
    pub fusion: FusionEncoder,
    /// Summary of the fused text, where it is not its first token.
    pub text_pooler: Option<Pooler>,
    /// Summary of the fused image, in two streams, where it is not its class token.
    pub image_pooler: Option<Pooler>,
    /// Text into the contrastive space.
    pub text_projection: Option<Projection>,
    /// Image into the contrastive space.
    pub image_projection: Option<Projection>,
    /// Contrastive temperature, used as a divisor, `[1]`.
    pub temperature: Option<Param<Tensor<1>>>,
    /// Matching head.
    pub match_head: Option<MatchHead>,
    /// Masked-word head.
    pub mlm_head: Option<MlmHead>,
    /// Classifier of pairs, where a task has one.
    pub class_head: Option<ClassHead>,
    /// Score of a candidate, `[pooled, 1]`, where a task ranks.
    pub rank_head: Option<Linear>,
    /// What a hidden region was, where that is learned.
    pub region_head: Option<RegionHead>,
    /// Which region a text refers to, where a task asks for it.
    pub ground_head: Option<GroundHead>,
    /// Which group found without labels a pair is in, where that is learned.
    pub cluster_head: Option<ClusterHead>,
    #[module(skip)]
    sums_up_both: bool,
}

/// The stages of a backward pass that goes through fused pairs first and through the towers after that. What a stage
/// is named after gets no further gradient in a later one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Heads and fusion encoder.
    Fused,
    /// Image tower or regions, with the bridge to the fusion width.
    Image,
    /// Text tower with its bridge, and the table of words, which heads read too.
    Text,
}

impl Stage {
    /// All of them, first to last.
    pub const ALL: [Self; 3] = [Self::Fused, Self::Image, Self::Text];

    /// The stage that a parameter is of, by its name.
    #[must_use]
    pub fn of(parameter: &str) -> Self {
        let field = parameter.split('.').next();
        match field.unwrap_or_default() {
            "vision" | "regions" | "region_layers" | "image_transform" => Self::Image,
            "text" | "text_transform" => Self::Text,
            _ => Self::Fused,
        }
    }
}

/// What the image side of a batch is made of.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant, reason = "there is one a step")]
pub enum Seen {
    /// Pictures and clips, `[batch, frames, 3, side, side]`.
    Pixels(Tensor<5>),
    /// What a detector saw in pictures.
    Regions(Regions),
}

impl Seen {
    /// Class tokens of an encoded image: one a frame, none of regions.
    #[must_use]
    pub fn class_tokens(&self) -> usize {
        match self {
            Self::Pixels(pixels) => pixels.dims()[1],
            Self::Regions(_) => 0,
        }
    }

    /// Images of the batch.
    #[must_use]
    pub fn batch(&self) -> usize {
        match self {
            Self::Pixels(pixels) => pixels.dims()[0],
            Self::Regions(regions) => regions.features.spans.batch(),
        }
    }
}

impl VisionLanguageModel {
    /// Builds the model with fresh weights drawn from `init`.
    #[must_use]
    pub fn new(init: &Init, config: &ModelConfig) -> Self {
        let width = config.fusion.hidden_size;
        let both = config.sums_up_both();
        let bridged = both && !config.is_towers_alone();
        let [text_width, image_width] = config.stream_widths();
        let heads = &config.heads;
        let bridge = |from| bridged.then(|| Linear::new(init, from, width));
        let projection = |width| {
            let (kind, projected) = (heads.projection, config.projection_size);
            (heads.contrastive).then(|| Projection::new(init, kind, width, projected))
        };
        let pooler = |there: bool, width| (there && heads.pooler).then(|| Pooler::new(init, width));
        let regions = config.regions.as_ref();
        // The order of the fields is that of the draws.
        Self {
            text: TextEncoder::new(init, &config.text),
            vision: (regions.is_none()).then(|| VisionEncoder::new(init, &config.vision)),
            regions: regions
                .map(|regions| RegionEmbedding::new(init, regions, config.vision.hidden_size)),
            region_layers: regions.map_or_else(Vec::new, |regions| {
                Block::stack(
                    init,
                    regions.layers,
                    &BlockConfig::of_fusion(&config.fusion),
                )
            }),
            text_transform: bridge(config.text.hidden_size),
            image_transform: bridge(config.vision.hidden_size),
            token_types: bridged.then(|| Embedding::new(init, config.fusion.type_rows, width)),
            fusion: FusionEncoder::new(init, &config.fusion, config.select.as_ref()),
            text_pooler: pooler(true, text_width),
            image_pooler: pooler(both, image_width),
            text_projection: projection(text_width),
            image_projection: projection(image_width),
            temperature: (heads.contrastive).then(|| init.constant([1], config.temperature as f32)),
            match_head: (heads.matching).then(|| MatchHead::new(init, config.pooled_size())),
            mlm_head: (heads.mlm).then(|| {
                let eps = config.fusion.layer_norm_eps;
                MlmHead::new(init, text_width, config.text.vocab_size, eps, !both)
            }),
            class_head: (heads.classes > 0).then(|| ClassHead::new(init, config)),
            rank_head: (heads.ranking).then(|| Linear::new(init, config.pooled_size(), 1)),
            region_head: regions
                .filter(|_| heads.masked_regions)
                .map(|regions| RegionHead::new(init, regions, width)),
            ground_head: regions
                .filter(|_| heads.grounding)
                .map(|regions| GroundHead::new(init, width, regions.layer_norm_eps)),
            cluster_head: (heads.clusters > 0)
                .then(|| ClusterHead::new(init, config.pooled_size(), heads.clusters)),
            sums_up_both: both,
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
        bridged(self.text_transform.as_ref(), encoded)
    }

    /// What is to be seen as tokens, before any layer looks at it: patches, a sequence a frame, or
    /// regions, a sequence a picture. `None` of what this model has no eyes for.
    #[must_use]
    pub fn embed(&self, seen: &Seen) -> Option<Tokens> {
        match seen {
            Seen::Pixels(pixels) => {
                let [batch, frames, channels, height, width] = pixels.dims();
                let shape = [batch * frames, channels, height, width];
                let vision = self.vision.as_ref()?;
                Some(vision.embed_patches(pixels.clone().reshape(shape)))
            }
            Seen::Regions(regions) => Some(self.regions.as_ref()?.forward(regions)),
        }
    }

    /// Image tower and bridge to the fusion width, of what [`Self::embed`] gave or any part of it, with
    /// so many class tokens for each image. These come first. Whole for the images that `whole` names
    /// by number; of the others the class tokens alone, for less work. Regions are always whole.
    #[must_use]
    pub fn encode_where(
        &self,
        embedded: &Tokens,
        class_tokens: usize,
        whole: impl Fn(usize) -> bool,
    ) -> Tokens {
        match &self.vision {
            Some(vision) => self.bridge_image(vision.encode_where(embedded, class_tokens, whole)),
            None => {
                let all = Chosen::whole(&embedded.spans, |_| true);
                let (layers, embedded) = (&self.region_layers, embedded.clone());
                self.bridge_image(block::run(layers, embedded, &all, Scope::Whole))
            }
        }
    }

    /// What the image tower gave, at the width of the fusion encoder.
    #[must_use]
    pub fn bridge_image(&self, encoded: Tokens) -> Tokens {
        bridged(self.image_transform.as_ref(), encoded)
    }

    /// Whole images, `None` of what this model has no eyes for.
    #[must_use]
    pub fn encode_seen(&self, seen: &Seen) -> Option<Tokens> {
        let embedded = self.embed(seen)?;
        Some(self.encode_where(&embedded, seen.class_tokens(), |_| true))
    }

    /// Complete pictures, `[batch, 3, side, side]`; `None` of a model of regions.
    #[must_use]
    pub fn encode_images(&self, pixel_values: Tensor<4>) -> Option<Tokens> {
        self.encode_seen(&Seen::Pixels(pixel_values.unsqueeze_dim(1)))
    }

    /// `text_embeds` before normalisation, `[batch, projection]`, from encoded text; `None` without a
    /// common space of texts and images that have not met.
    #[must_use]
    pub fn project_text(&self, text: &Tokens) -> Option<Tensor<2>> {
        let projection = self
            .text_projection
            .as_ref()
            .filter(|_| self.sums_up_both)?;
        let pooler = self.text_pooler.as_ref().filter(|_| self.is_towers_alone());
        Some(projection.forward(pooled(pooler, text.first())))
    }

    /// `image_embeds` before normalisation, `[batch, projection]`, from encoded images of `frames`
    /// class tokens each; `None` as [`Self::project_text`].
    #[must_use]
    pub fn project_image(&self, image: &Tokens, frames: usize) -> Option<Tensor<2>> {
        let projection = self
            .image_projection
            .as_ref()
            .filter(|_| self.sums_up_both)?;
        let pooler = self
            .image_pooler
            .as_ref()
            .filter(|_| self.is_towers_alone());
        Some(projection.forward(pooled(pooler, summary(image, frames))))
    }

    /// Whether a contrast can only be one of both sides of fused pairs, [`Self::project_fused`].
    #[must_use]
    pub fn contrasts_fused(&self) -> bool {
        !self.sums_up_both
    }

    /// Both sides of fused pairs in the contrastive space before normalisation, `[batch, projection]`
    /// each: the means of all words and of all that is seen, as ITR contrasts encoders that never see one
    /// side alone (`specs/itr.md` section 1.2). Every token has to be there. `None` without the space.
    #[must_use]
    pub fn project_fused(&self, fused: &Fused) -> Option<[Tensor<2>; 2]> {
        let text = self.text_projection.as_ref()?;
        let image = self.image_projection.as_ref()?;
        Some([
            text.forward(fused.text.mean()),
            image.forward(fused.image.mean()),
        ])
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
        let typed = |tokens: &Tokens, row| match &self.token_types {
            Some(types) => tokens.with_rows(tokens.rows.clone() + types.row(row)),
            None => tokens.clone(),
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

    /// Whether there is no fusion encoder: what is fused is then what the towers gave.
    #[must_use]
    pub fn is_towers_alone(&self) -> bool {
        self.sums_up_both && self.fusion.text_layers.is_empty()
    }

    /// Both pooled summaries side by side, text first, `[batch, pooled]`; the text's alone where both
    /// are one stream or crossed.
    #[must_use]
    pub fn pooled(&self, fused: &Fused) -> Tensor<2> {
        let text = pooled(self.text_pooler.as_ref(), fused.text_global());
        if !self.sums_up_both {
            return text;
        }
        let image = pooled(self.image_pooler.as_ref(), fused.image_global());
        Tensor::cat(vec![text, image], 1)
    }

    /// The vectors of texts with their images, `[batch, pooled]`: [`Self::pooled`] of what is fused. With
    /// towers alone it is that of ITR's posts, the text's part first (`specs/itr.md` section 1.2). `None`
    /// of what this model has no eyes for.
    #[must_use]
    pub fn pair_vector(&self, text: &TextInput, seen: &Seen) -> Option<Tensor<2>> {
        let frames = seen.class_tokens();
        let whole = !self.is_towers_alone();
        let image = self.encode_where(&self.embed(seen)?, frames, |_| whole);
        let text = self.encode_text_where(text, |_| whole);
        Some(self.pooled(&self.fuse_globals(self.typed(&text, &image, frames, 0))))
    }

    /// The vectors of images behind their tower alone, `[batch, image width]`: the image's part of
    /// [`Self::pair_vector`] where there is no fusion encoder. `None` of what this model has no eyes for.
    #[must_use]
    pub fn image_vector(&self, seen: &Seen) -> Option<Tensor<2>> {
        let frames = seen.class_tokens();
        let image = self.encode_where(&self.embed(seen)?, frames, |_| false);
        Some(pooled(self.image_pooler.as_ref(), summary(&image, frames)))
    }

    /// The vectors of texts beside no image, `[batch, text width]`.
    #[must_use]
    pub fn text_vector(&self, text: &TextInput) -> Tensor<2> {
        let whole = !self.is_towers_alone();
        let text = self.encode_text_where(text, |_| whole);
        let nothing = text.choose(&Chosen::new(&text.spans, Vec::new()));
        let fused = self.fuse_globals(self.typed(&text, &nothing, 0, 0));
        pooled(self.text_pooler.as_ref(), fused.text_global())
    }
}

/// A summary behind its pooler, or as it is where there is none.
fn pooled(pooler: Option<&Pooler>, first: Tensor<2>) -> Tensor<2> {
    match pooler {
        Some(pooler) => pooler.forward(first),
        None => first,
    }
}

/// Tokens at the width of the fusion encoder.
fn bridged(bridge: Option<&Linear>, tokens: Tokens) -> Tokens {
    match bridge {
        Some(bridge) => tokens.with_rows(bridge.forward(tokens.rows.clone())),
        None => tokens,
    }
}
