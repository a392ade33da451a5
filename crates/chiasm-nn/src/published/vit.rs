//! Vision transformers: ViT, and DINOv2 with and without registers. All are our image tower in one
//! configuration; ViT adds a pooler.
//!
//! Three ways to name the same parameters are read: Hugging Face's of ViT, its of DINOv2, and those
//! of timm and of DINOv2's own files, which come without a configuration: their sizes are those of
//! the tensors ([`VitConfig::infer`]).
//!
//! DINOv2 multiplies what each sub-layer adds by a learned factor a feature (LayerScale). The
//! factors are folded into the sub-layer's output map when weights are read, so that the tower needs
//! no parameter for them; a checkpoint written afterwards holds the products.

use burn::module::Module;
use burn::tensor::Tensor;
use serde_json::{Value, json};

use super::keys::Keys;
use super::positions::{self, Resampling};
use super::{Published, Reshaped, scale_rows, unpack};
use crate::config::{Activation, VisionConfig};
use crate::heads::Pooler;
use crate::layers::Init;
use crate::tokens::Tokens;
use crate::vision::VisionEncoder;
use crate::weights::{HostTensor, StateDict, WeightError};

/// Sizes and switches.
#[derive(Clone, Debug, PartialEq)]
pub struct VitConfig {
    /// The tower. With another `image_size` than the file's, its positions are resampled.
    pub encoder: VisionConfig,
    /// Whether there is a pooler; the weights decide.
    pub pooler: bool,
    /// How positions of another resolution are resampled.
    pub resampling: Resampling,
}

/// The image tower, with ViT's pooler.
#[derive(Module, Debug)]
pub struct Vit {
    /// Patch embedding, blocks and last norm.
    pub encoder: VisionEncoder,
    /// Linear map and tanh of the class token.
    pub pooler: Option<Pooler>,
}

impl Vit {
    /// Last hidden state of class token, registers and patches, after the last norm.
    ///
    /// # Shapes
    /// - pixel_values: `[batch, 3, side, side]`
    #[must_use]
    pub fn forward(&self, pixel_values: Tensor<4>) -> Tokens {
        self.encoder
            .encode(&self.encoder.embed_patches(pixel_values))
    }

    /// The class token after the last norm, `[batch, width]`, for less work than [`Self::forward`].
    #[must_use]
    pub fn class(&self, pixel_values: Tensor<4>) -> Tensor<2> {
        let patches = self.encoder.embed_patches(pixel_values);
        self.encoder.encode_where(&patches, 1, |_| false).first()
    }

    /// The pooler's summary of encoded pictures, `[batch, width]`, where there is a pooler.
    #[must_use]
    pub fn pooled(&self, encoded: &Tokens) -> Option<Tensor<2>> {
        let pooler = self.pooler.as_ref()?;
        Some(pooler.forward(encoded.first()))
    }
}

impl VitConfig {
    /// Sizes of a file without a configuration, from its tensors. A head has 64 features, LayerNorm
    /// adds 1e-6 and the activation is GELU, as in all published models of these names.
    ///
    /// # Errors
    /// A tensor that is not there, or whose shape fits no vision transformer.
    pub fn infer(found: &StateDict) -> Result<Self, WeightError> {
        /// Features of a head in all published sizes.
        const HEAD: usize = 64;
        let names = super::shapes_by::<Vit>(found);
        let shape = |name: &str| {
            names.get(name).ok_or_else(|| {
                WeightError::Config(format!("no tensor `{name}` to read sizes from"))
            })
        };
        let [width, 3, patch, across] = shape(PATCHES)?[..] else {
            let problem = format!("`{PATCHES}` is no projection of colour patches");
            return Err(WeightError::Config(problem));
        };
        let rows = shape(POSITIONS)?.iter().rev().nth(1).copied();
        let side = class_row_included(rows.unwrap_or(0))
            .saturating_sub(1)
            .isqrt();
        let layers = super::count_layers(&names, LAYERS);
        let up = shape("encoder.layer.0.intermediate.dense.weight")?;
        if patch != across || patch == 0 || side == 0 || width == 0 || !width.is_multiple_of(HEAD) {
            let problem = format!("{width} features in patches of {patch} by {across}");
            return Err(WeightError::Config(problem));
        }
        let encoder = VisionConfig {
            image_size: side * patch,
            patch_size: patch,
            hidden_size: width,
            layers,
            num_heads: width / HEAD,
            intermediate_size: up.first().copied().unwrap_or(0),
            activation: Activation::Gelu,
            layer_norm_eps: 1e-6,
            patch_bias: true,
            pre_norm: false,
            registers: registers(names.get(REGISTERS).map(Vec::as_slice)),
            max_frames: 0,
            mask_token: false,
        };
        let mut config = Self::of(encoder);
        if names.contains_key(SCALE) && config.encoder.registers == 0 {
            // DINOv2's own code, but not the one that reads it from Hugging Face.
            config.resampling.offset = 0.1;
        }
        Ok(config)
    }

    /// With the resampling that the model was published with: registers came together with it.
    fn of(encoder: VisionConfig) -> Self {
        let antialias = encoder.registers > 0;
        Self {
            encoder,
            pooler: false,
            resampling: Resampling {
                antialias,
                offset: 0.0,
            },
        }
    }
}

const PATCHES: &str = "embeddings.patch_embeddings.projection.weight";
const POSITIONS: &str = "embeddings.position_embeddings";
const REGISTERS: &str = "embeddings.register_tokens";
const LAYERS: &str = "encoder.layer.";
const SCALE: &str = "encoder.layer.0.layer_scale1.lambda1";

/// What task models and wrappers put in front of every name.
const PREFIXES: [&str; 5] = [
    "module.",
    "backbone.",
    "vit.",
    "dinov2.",
    "dinov2_with_registers.",
];

/// Heads of tasks.
const HEADS: [&str; 3] = ["classifier.", "head.", "decoder."];

/// Names outside of blocks, as timm and DINOv2 have them, and today's.
const TABLES: [(&str, &str); 8] = [
    ("cls_token", "embeddings.cls_token"),
    ("pos_embed", POSITIONS),
    ("register_tokens", REGISTERS),
    ("reg_token", REGISTERS),
    ("patch_embed.proj.weight", PATCHES),
    (
        "patch_embed.proj.bias",
        "embeddings.patch_embeddings.projection.bias",
    ),
    ("norm.weight", "layernorm.weight"),
    ("norm.bias", "layernorm.bias"),
];

/// Names within a block, as timm, DINOv2 and Hugging Face's DINOv2 have them, and today's.
const PARTS: [(&str, &str); 8] = [
    ("norm1.", "layernorm_before."),
    ("norm2.", "layernorm_after."),
    ("attn.qkv.", "attention.attention.qkv."),
    ("attn.proj.", "attention.output.dense."),
    ("mlp.fc1.", "intermediate.dense."),
    ("mlp.fc2.", "output.dense."),
    ("ls1.gamma", "layer_scale1.lambda1"),
    ("ls2.gamma", "layer_scale2.lambda1"),
];

impl Published for Vit {
    type Config = VitConfig;

    fn config(json: &Value) -> Result<VitConfig, WeightError> {
        let keys = Keys(json);
        let is_dino = match keys.text("model_type") {
            None | Some("vit") => false,
            Some("dinov2" | "dinov2_with_registers") => true,
            Some(_) => return Err(keys.refused("model_type", "ViT or DINOv2")),
        };
        keys.require("num_channels", &json!(3))?;
        keys.require("qkv_bias", &json!(true))?;
        keys.require_off("use_swiglu_ffn")?;
        let hidden_size = keys.size_or("hidden_size", 768)?;
        let ratio = keys.size_or("mlp_ratio", 4)?;
        let registers = match keys.text("model_type") {
            Some("dinov2_with_registers") => keys.size_or("num_register_tokens", 4)?,
            _ => 0,
        };
        let encoder = VisionConfig {
            image_size: keys.size_or("image_size", 224)?,
            patch_size: keys.size_or("patch_size", if is_dino { 14 } else { 16 })?,
            hidden_size,
            layers: keys.layers_or("num_hidden_layers", 12)?,
            num_heads: keys.heads_or("num_attention_heads", 12, hidden_size)?,
            intermediate_size: if is_dino {
                hidden_size * ratio
            } else {
                keys.size_or("intermediate_size", 3072)?
            },
            activation: keys.activation("hidden_act")?,
            layer_norm_eps: keys.number_or("layer_norm_eps", if is_dino { 1e-6 } else { 1e-12 })?,
            patch_bias: true,
            pre_norm: false,
            registers,
            max_frames: 0,
            mask_token: false,
        };
        Ok(VitConfig::of(encoder))
    }

    fn build(init: &Init, config: &VitConfig) -> Self {
        Self {
            encoder: VisionEncoder::new(init, &config.encoder),
            pooler: config
                .pooler
                .then(|| Pooler::new(init, config.encoder.hidden_size)),
        }
    }

    fn canonical(found: &str) -> Option<String> {
        let mut name = found;
        for prefix in PREFIXES {
            name = name.strip_prefix(prefix).unwrap_or(name);
        }
        let is_mask = matches!(name, "mask_token" | "embeddings.mask_token");
        if is_mask || HEADS.iter().any(|head| name.starts_with(head)) {
            return None;
        }
        if let Some((_, today)) = TABLES.iter().find(|(other, _)| *other == name) {
            return Some((*today).to_owned());
        }
        let block = ["blocks.", LAYERS]
            .iter()
            .find_map(|prefix| name.strip_prefix(prefix)?.split_once('.'));
        let Some((index, part)) = block else {
            return Some(name.to_owned());
        };
        let today = PARTS.iter().find_map(|(other, today)| {
            let rest = part.strip_prefix(other)?;
            Some(format!("{today}{rest}"))
        });
        let part = today.as_deref().unwrap_or(part);
        Some(format!("{LAYERS}{index}.{part}"))
    }

    fn names(ours: &str) -> Vec<String> {
        let Some(name) = ours.strip_prefix("encoder.") else {
            return vec![ours.to_owned()];
        };
        let Some((module, leaf)) = name.rsplit_once('.') else {
            return match name {
                "class_token" => vec!["embeddings.cls_token".to_owned()],
                "positions" => vec![POSITIONS.to_owned()],
                "registers" => vec![REGISTERS.to_owned()],
                _ => Vec::new(),
            };
        };
        let block = module
            .strip_prefix("blocks.")
            .and_then(|rest| rest.split_once('.'));
        let (index, parts): (_, &[&str]) = match (module, block) {
            ("patches", _) => {
                return vec![format!("embeddings.patch_embeddings.projection.{leaf}")];
            }
            ("norm_post", _) => return vec![format!("layernorm.{leaf}")],
            (_, Some((index, part))) => (
                index,
                match part {
                    "attention.qkv" => &[
                        "attention.attention.query",
                        "attention.attention.key",
                        "attention.attention.value",
                    ],
                    "attention.out" => &["attention.output.dense"],
                    "attention_norm" => &["layernorm_before"],
                    "mlp_norm" => &["layernorm_after"],
                    "mlp.up" => &["intermediate.dense"],
                    "mlp.down" => &["output.dense"],
                    _ => &[],
                },
            ),
            _ => return Vec::new(),
        };
        let name = |part| format!("{LAYERS}{index}.{part}.{leaf}");
        parts.iter().map(name).collect()
    }

    fn fit(config: &mut VitConfig, found: &StateDict) {
        config.pooler = found.contains_key("pooler.dense.weight");
    }

    fn adapt(config: &VitConfig, state: &mut StateDict) -> Result<Vec<Reshaped>, WeightError> {
        let encoder = &config.encoder;
        for layer in 0..encoder.layers {
            for leaf in ["weight", "bias"] {
                let attention = format!("{LAYERS}{layer}.attention.attention");
                let parts =
                    ["query", "key", "value"].map(|part| format!("{attention}.{part}.{leaf}"));
                unpack(state, &format!("{attention}.qkv.{leaf}"), parts)?;
            }
            for (scale, map) in [
                ("layer_scale1", "attention.output.dense"),
                ("layer_scale2", "output.dense"),
            ] {
                let Some(factors) = state.remove(&format!("{LAYERS}{layer}.{scale}.lambda1"))
                else {
                    continue;
                };
                for leaf in ["weight", "bias"] {
                    scale_rows(state, &format!("{LAYERS}{layer}.{map}.{leaf}"), &factors)?;
                }
            }
        }
        if let Some(table) = state.get_mut(POSITIONS) {
            add_class_row(table);
        }
        positions::fit_grid(state, POSITIONS, encoder, config.resampling)
    }
}

/// Rows of a position table of so many rows once it has one for the class token.
fn class_row_included(rows: usize) -> usize {
    let side = rows.isqrt();
    if side * side == rows { rows + 1 } else { rows }
}

/// timm keeps no position for the class token where there are registers: a row of zeros.
fn add_class_row(table: &mut HostTensor) {
    let Some([rows, width]) = table.shape.last_chunk().copied() else {
        return;
    };
    if class_row_included(rows) > rows && rows.checked_mul(width) == Some(table.values.len()) {
        table.values.splice(0..0, std::iter::repeat_n(0.0, width));
        table.shape = vec![rows + 1, width];
    }
}

/// Registers of a table `[.., registers, width]`.
fn registers(shape: Option<&[usize]>) -> usize {
    shape
        .and_then(<[usize]>::last_chunk)
        .map_or(0, |[registers, _]| *registers)
}
