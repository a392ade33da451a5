//! CLIP: our image tower, a causal text tower, and the projections that make their summaries
//! comparable.
//!
//! Hugging Face's names are read, and those of OpenAI's files, which open_clip writes too; the
//! latter come without sizes, which are those of the tensors ([`ClipConfig::infer`]).

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use serde_json::{Value, json};

use super::keys::Keys;
use super::positions::{self, Resampling};
use super::{Published, Reshaped, turn, unpack};
use crate::attention::Scope;
use crate::block::{self, Block, BlockConfig};
use crate::config::{Activation, VisionConfig};
use crate::kernels::Norm;
use crate::layers::{Embedding, Init, LayerNorm, Linear};
use crate::text::{TextError, TextInput};
use crate::tokens::{Chosen, Tokens};
use crate::vision::VisionEncoder;
use crate::weights::{StateDict, WeightError};

/// Sizes and switches.
#[derive(Clone, Debug, PartialEq)]
pub struct ClipConfig {
    /// The text tower.
    pub text: ClipTextConfig,
    /// The image tower. With another `image_size` than the file's, its positions are resampled.
    pub vision: VisionConfig,
    /// Width of the space that both are projected into.
    pub projection_size: usize,
}

/// Sizes and switches of the text tower.
#[derive(Clone, Debug, PartialEq)]
pub struct ClipTextConfig {
    /// Number of token ids.
    pub vocab_size: usize,
    /// Width of every token.
    pub hidden_size: usize,
    /// Transformer blocks.
    pub layers: usize,
    /// Attention heads; divides `hidden_size`.
    pub num_heads: usize,
    /// Width inside the feed-forward sub-layer.
    pub intermediate_size: usize,
    /// Longest text in tokens. With another one than the file's, its positions are cut or
    /// stretched.
    pub max_text_len: usize,
    /// Activation of the feed-forward sub-layer.
    pub activation: Activation,
    /// Added inside LayerNorm's root.
    pub layer_norm_eps: f64,
    /// Which token is a text's summary.
    pub summary: Summary,
}

/// Which token of a text is its summary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Summary {
    /// The first one with this id, the end of the text; the first of all if there is none.
    Id(u32),
    /// The first one with the largest id of its text: how the end was found in OpenAI's code,
    /// whose vocabulary ends with it.
    LargestId,
}

impl Summary {
    /// Number of the summary in a text of these ids.
    fn find(self, ids: &[u32]) -> usize {
        let wanted = match self {
            Self::Id(id) => Some(id),
            Self::LargestId => ids.iter().copied().max(),
        };
        let found = ids.iter().position(|id| Some(*id) == wanted);
        found.unwrap_or(0)
    }
}

/// CLIP's text tower: causal blocks, their norms first.
#[derive(Module, Debug)]
pub struct ClipText {
    /// `[vocab, width]`.
    pub words: Embedding,
    /// `[max_text_len, width]`.
    pub positions: Embedding,
    /// The transformer.
    pub blocks: Vec<Block>,
    /// After the last block.
    pub norm: LayerNorm,
    #[module(skip)]
    summary: Summary,
}

impl ClipText {
    fn new(init: &Init, config: &ClipTextConfig) -> Self {
        let (width, eps) = (config.hidden_size, config.layer_norm_eps);
        let block = BlockConfig {
            width,
            heads: config.num_heads,
            intermediate: config.intermediate_size,
            activation: config.activation,
            eps,
            dropout: 0.0,
            place: Norm::Before,
        };
        Self {
            words: Embedding::new(init, config.vocab_size, width),
            positions: Embedding::new(init, config.max_text_len, width),
            blocks: Block::stack(init, config.layers, &block),
            norm: LayerNorm::new(init, width, eps),
            summary: config.summary,
        }
    }

    /// Refuses texts that this tower cannot take.
    ///
    /// # Errors
    /// The first text that is empty or too long, or the first id without a row.
    pub fn check(&self, input: &TextInput) -> Result<(), TextError> {
        let [words, positions] = [&self.words, &self.positions].map(|table| table.weight.dims()[0]);
        input.check(positions, words, 1)
    }

    /// Every token after the last norm.
    #[must_use]
    pub fn forward(&self, input: &TextInput) -> Tokens {
        self.forward_at(input, &Chosen::whole(&input.spans, |_| true))
    }

    /// The summary of every text, `[texts, width]`; a text of no tokens has none.
    #[must_use]
    pub fn pooled(&self, input: &TextInput) -> Tensor<2> {
        let chosen = Chosen::new(&input.spans, self.summaries(input));
        self.forward_at(input, &chosen).rows
    }

    /// The summary of every text in what [`Self::forward`] gave, by the number of its row,
    /// `[texts]`; texts of no tokens have none.
    #[must_use]
    pub fn summaries(&self, input: &TextInput) -> Vec<usize> {
        let texts = input.spans.iter().filter(|span| !span.is_empty());
        texts
            .map(|span| span.start + self.summary.find(&input.ids[span]))
            .collect()
    }

    fn forward_at(&self, input: &TextInput, chosen: &Chosen) -> Tokens {
        let positions = input.spans.lengths().flat_map(|len| 0..len as u32);
        let positions: Vec<u32> = positions.collect();
        let embedded = Tokens {
            rows: self.words.forward(&input.ids) + self.positions.forward(&positions),
            spans: input.spans.clone(),
        };
        let hidden = block::run(&self.blocks, embedded, chosen, Scope::Causal);
        hidden.with_rows(self.norm.forward(hidden.rows.clone()))
    }
}

/// Both towers and their projections.
#[derive(Module, Debug)]
pub struct Clip {
    /// Text tower.
    pub text: ClipText,
    /// Image tower.
    pub vision: VisionEncoder,
    /// A text's summary into the common space, without bias.
    pub text_projection: Linear,
    /// A picture's class token into the common space, without bias.
    pub image_projection: Linear,
    /// Logarithm of what cosines are multiplied by, `[1]`.
    pub logit_scale: Param<Tensor<1>>,
}

impl Clip {
    /// Texts in the common space, not normalised, `[batch, projection]`.
    #[must_use]
    pub fn embed_texts(&self, input: &TextInput) -> Tensor<2> {
        self.text_projection.forward(self.text.pooled(input))
    }

    /// Pictures in the common space, not normalised, `[batch, projection]`.
    ///
    /// # Shapes
    /// - pixel_values: `[batch, 3, side, side]`
    #[must_use]
    pub fn embed_images(&self, pixel_values: Tensor<4>) -> Tensor<2> {
        let patches = self.vision.embed_patches(pixel_values);
        let class = self.vision.encode_where(&patches, 1, |_| false).first();
        self.image_projection.forward(class)
    }
}

impl ClipConfig {
    /// Sizes of a file without a configuration, from its tensors. A head has 64 features and
    /// LayerNorm adds 1e-5, as in all published models; `activation` is
    /// [`Activation::QuickGelu`] in OpenAI's.
    ///
    /// # Errors
    /// A tensor that is not there, or whose shape fits no CLIP.
    pub fn infer(found: &StateDict, activation: Activation) -> Result<Self, WeightError> {
        /// Features of a head in all published sizes.
        const HEAD: usize = 64;
        let names = super::shapes_by::<Clip>(found);
        let size = |name: &str, axis: usize| {
            let size = names.get(name).and_then(|shape| shape.get(axis)).copied();
            size.filter(|size| *size > 0).ok_or_else(|| {
                WeightError::Config(format!("no tensor `{name}` to read sizes from"))
            })
        };
        let [width, text_width] = [size(PATCHES, 0)?, size(WORDS, 1)?];
        if !width.is_multiple_of(HEAD) || !text_width.is_multiple_of(HEAD) {
            let problem = format!("widths {width} and {text_width} are no multiples of {HEAD}");
            return Err(WeightError::Config(problem));
        }
        let patch = size(PATCHES, 2)?;
        let side = (size(PICTURE_POSITIONS, 0)? - 1).isqrt().max(1);
        let vocab_size = size(WORDS, 0)?;
        let projection_size =
            size(TEXT_PROJECTION, 0).or_else(|_| size(TURNED_TEXT_PROJECTION, 1))?;
        Ok(Self {
            text: ClipTextConfig {
                vocab_size,
                hidden_size: text_width,
                layers: super::count_layers(&names, "text_model.encoder.layers."),
                num_heads: text_width / HEAD,
                intermediate_size: size("text_model.encoder.layers.0.mlp.fc1.weight", 0)?,
                max_text_len: size(TEXT_POSITIONS, 0)?,
                activation,
                layer_norm_eps: 1e-5,
                summary: Summary::LargestId,
            },
            vision: VisionConfig {
                image_size: side * patch,
                patch_size: patch,
                hidden_size: width,
                layers: super::count_layers(&names, "vision_model.encoder.layers."),
                num_heads: width / HEAD,
                intermediate_size: size("vision_model.encoder.layers.0.mlp.fc1.weight", 0)?,
                activation,
                layer_norm_eps: 1e-5,
                ..VisionConfig::default()
            },
            projection_size,
        })
    }
}

const WORDS: &str = "text_model.embeddings.token_embedding.weight";
const TEXT_POSITIONS: &str = "text_model.embeddings.position_embedding.weight";
const PATCHES: &str = "vision_model.embeddings.patch_embedding.weight";
const PICTURE_POSITIONS: &str = "vision_model.embeddings.position_embedding.weight";
const TEXT_PROJECTION: &str = "text_projection.weight";
const IMAGE_PROJECTION: &str = "visual_projection.weight";

/// OpenAI's projections are the only matrices that stand the other way round, `[in, out]`.
const TURNED_TEXT_PROJECTION: &str = "text_projection";
const TURNED_IMAGE_PROJECTION: &str = "visual.proj";

/// OpenAI's names outside of blocks, and Hugging Face's.
const TABLES: [(&str, &str); 11] = [
    ("token_embedding.weight", WORDS),
    ("positional_embedding", TEXT_POSITIONS),
    ("ln_final.weight", "text_model.final_layer_norm.weight"),
    ("ln_final.bias", "text_model.final_layer_norm.bias"),
    ("visual.conv1.weight", PATCHES),
    (
        "visual.class_embedding",
        "vision_model.embeddings.class_embedding",
    ),
    ("visual.positional_embedding", PICTURE_POSITIONS),
    ("visual.ln_pre.weight", "vision_model.pre_layrnorm.weight"),
    ("visual.ln_pre.bias", "vision_model.pre_layrnorm.bias"),
    (
        "visual.ln_post.weight",
        "vision_model.post_layernorm.weight",
    ),
    ("visual.ln_post.bias", "vision_model.post_layernorm.bias"),
];

/// OpenAI's names within a block, and Hugging Face's.
const PARTS: [(&str, &str); 6] = [
    ("attn.in_proj_", "self_attn.in_proj."),
    ("attn.out_proj.", "self_attn.out_proj."),
    ("ln_1.", "layer_norm1."),
    ("ln_2.", "layer_norm2."),
    ("mlp.c_fc.", "mlp.fc1."),
    ("mlp.c_proj.", "mlp.fc2."),
];

/// Where blocks are in OpenAI's files, and in Hugging Face's.
const STACKS: [(&str, &str); 2] = [
    (
        "visual.transformer.resblocks.",
        "vision_model.encoder.layers.",
    ),
    ("transformer.resblocks.", "text_model.encoder.layers."),
];

/// Settings that OpenAI's files hold as tensors, and buffers.
const IGNORED: [&str; 6] = [
    "input_resolution",
    "context_length",
    "vocab_size",
    "attn_mask",
    "text_model.embeddings.position_ids",
    "vision_model.embeddings.position_ids",
];

impl Published for Clip {
    type Config = ClipConfig;

    fn config(json: &Value) -> Result<ClipConfig, WeightError> {
        let keys = Keys(json);
        keys.require("model_type", &json!("clip"))?;
        let text = keys.inner("text_config");
        let hidden_size = text.size_or("hidden_size", 512)?;
        // The id 2 stands in all configurations from before the end of texts was looked for by id;
        // it is not the id of OpenAI's vocabulary.
        let summary = match text.id_or("eos_token_id", 49_407)? {
            2 => Summary::LargestId,
            id => Summary::Id(id),
        };
        let text = ClipTextConfig {
            vocab_size: text.size_or("vocab_size", 49_408)?,
            hidden_size,
            layers: text.layers_or("num_hidden_layers", 12)?,
            num_heads: text.heads_or("num_attention_heads", 8, hidden_size)?,
            intermediate_size: text.size_or("intermediate_size", 2048)?,
            max_text_len: text.size_or("max_position_embeddings", 77)?,
            activation: text.activation_or("hidden_act", Activation::QuickGelu)?,
            layer_norm_eps: text.number_or("layer_norm_eps", 1e-5)?,
            summary,
        };
        let vision = keys.inner("vision_config");
        vision.require("num_channels", &json!(3))?;
        let hidden_size = vision.size_or("hidden_size", 768)?;
        let vision = VisionConfig {
            image_size: vision.size_or("image_size", 224)?,
            patch_size: vision.size_or("patch_size", 32)?,
            hidden_size,
            layers: vision.layers_or("num_hidden_layers", 12)?,
            num_heads: vision.heads_or("num_attention_heads", 12, hidden_size)?,
            intermediate_size: vision.size_or("intermediate_size", 3072)?,
            activation: vision.activation_or("hidden_act", Activation::QuickGelu)?,
            layer_norm_eps: vision.number_or("layer_norm_eps", 1e-5)?,
            ..VisionConfig::default()
        };
        Ok(ClipConfig {
            text,
            vision,
            projection_size: keys.size_or("projection_dim", 512)?,
        })
    }

    fn build(init: &Init, config: &ClipConfig) -> Self {
        let (text, vision) = (&config.text, &config.vision);
        let projection = |width| Linear::without_bias(init, width, config.projection_size);
        Self {
            text: ClipText::new(init, text),
            vision: VisionEncoder::new(init, vision),
            text_projection: projection(text.hidden_size),
            image_projection: projection(vision.hidden_size),
            // ln(1 / 0.07), where CLIP's training began.
            logit_scale: init.constant([1], 2.6592),
        }
    }

    fn canonical(found: &str) -> Option<String> {
        let name = found.strip_prefix("module.").unwrap_or(found);
        if IGNORED.contains(&name) {
            return None;
        }
        if let Some((_, today)) = TABLES.iter().find(|(other, _)| *other == name) {
            return Some((*today).to_owned());
        }
        let block = STACKS.iter().find_map(|(other, today)| {
            let (index, part) = name.strip_prefix(other)?.split_once('.')?;
            let (other, part_today) = PARTS.iter().find(|(other, _)| part.starts_with(other))?;
            let leaf = part.strip_prefix(other)?;
            Some(format!("{today}{index}.{part_today}{leaf}"))
        });
        Some(block.unwrap_or_else(|| name.to_owned()))
    }

    fn names(ours: &str) -> Vec<String> {
        if ours == "logit_scale" {
            return vec![ours.to_owned()];
        }
        let outside = match ours {
            "text_projection.weight" => TEXT_PROJECTION,
            "image_projection.weight" => IMAGE_PROJECTION,
            "text.words.weight" => WORDS,
            "text.positions.weight" => TEXT_POSITIONS,
            "vision.patches.weight" => PATCHES,
            "vision.positions" => PICTURE_POSITIONS,
            "vision.class_token" => "vision_model.embeddings.class_embedding",
            _ => "",
        };
        if !outside.is_empty() {
            return vec![outside.to_owned()];
        }
        let Some((tower, (module, leaf))) = ours
            .split_once('.')
            .and_then(|(tower, rest)| Some((tower, rest.rsplit_once('.')?)))
        else {
            return Vec::new();
        };
        match (tower, module) {
            ("text", "norm") => return vec![format!("text_model.final_layer_norm.{leaf}")],
            // Spelt so in the files.
            ("vision", "norm_pre") => return vec![format!("vision_model.pre_layrnorm.{leaf}")],
            ("vision", "norm_post") => return vec![format!("vision_model.post_layernorm.{leaf}")],
            _ => {}
        }
        let block = module.strip_prefix("blocks.");
        let Some((index, part)) = block.and_then(|rest| rest.split_once('.')) else {
            return Vec::new();
        };
        let parts: &[&str] = match part {
            "attention.qkv" => &QKV,
            "attention.out" => &["self_attn.out_proj"],
            "attention_norm" => &["layer_norm1"],
            "mlp_norm" => &["layer_norm2"],
            "mlp.up" => &["mlp.fc1"],
            "mlp.down" => &["mlp.fc2"],
            _ => &[],
        };
        let name = |part| format!("{tower}_model.encoder.layers.{index}.{part}.{leaf}");
        parts.iter().map(name).collect()
    }

    fn adapt(config: &ClipConfig, state: &mut StateDict) -> Result<Vec<Reshaped>, WeightError> {
        unpack_stack(state, "text_model.encoder.layers", config.text.layers)?;
        unpack_stack(state, "vision_model.encoder.layers", config.vision.layers)?;
        turn(state, TURNED_TEXT_PROJECTION, TEXT_PROJECTION);
        turn(state, TURNED_IMAGE_PROJECTION, IMAGE_PROJECTION);
        let how = Resampling::default();
        let mut changed = positions::fit_grid(state, PICTURE_POSITIONS, &config.vision, how)?;
        let length = config.text.max_text_len;
        changed.extend(positions::fit_length(state, TEXT_POSITIONS, 0, length)?);
        Ok(changed)
    }
}

/// CLIP's image tower alone; the rest of a CLIP is ignored.
#[derive(Module, Debug)]
pub struct ClipVision {
    /// The tower.
    pub vision: VisionEncoder,
}

impl Published for ClipVision {
    type Config = VisionConfig;

    fn config(json: &Value) -> Result<VisionConfig, WeightError> {
        Ok(Clip::config(json)?.vision)
    }

    fn build(init: &Init, config: &VisionConfig) -> Self {
        Self {
            vision: VisionEncoder::new(init, config),
        }
    }

    fn canonical(found: &str) -> Option<String> {
        Clip::canonical(found).filter(|name| name.starts_with("vision_model."))
    }

    fn names(ours: &str) -> Vec<String> {
        Clip::names(ours)
    }

    fn adapt(config: &VisionConfig, state: &mut StateDict) -> Result<Vec<Reshaped>, WeightError> {
        unpack_stack(state, "vision_model.encoder.layers", config.layers)?;
        positions::fit_grid(state, PICTURE_POSITIONS, config, Resampling::default())
    }
}

/// Splits what a stack of blocks holds joined.
fn unpack_stack(state: &mut StateDict, stack: &str, layers: usize) -> Result<(), WeightError> {
    for layer in 0..layers {
        for leaf in ["weight", "bias"] {
            let joined = format!("{stack}.{layer}.self_attn.in_proj.{leaf}");
            let parts = QKV.map(|part| format!("{stack}.{layer}.{part}.{leaf}"));
            unpack(state, &joined, parts)?;
        }
    }
    Ok(())
}

/// Query, key and value of a block.
const QKV: [&str; 3] = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"];
