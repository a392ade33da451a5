//! ViLT: one vision transformer over the words of a text and, after them, the patches of its
//! picture.
//!
//! Pictures keep their proportions: each has a grid of patches of its own, over which the learned
//! positions are stretched.

use burn::module::Module;
use burn::tensor::{Tensor, TensorData};
use serde_json::{Value, json};

use super::Published;
use super::bert_family::{self, text_config};
use super::keys::Keys;
use super::pairs::{PairError, Pictures};
use super::vit::Vit;
use crate::attention::Scope;
use crate::block;
use crate::config::{TextConfig, VisionConfig};
use crate::heads::Pooler;
use crate::layers::{Embedding, Init};
use crate::names::bert_names;
use crate::spans::Spans;
use crate::text::{TextEncoder, TextInput};
use crate::tokens::{Chosen, Tokens, indices};
use crate::vision::{VisionEncoder, patch_pixels};
use crate::weights::WeightError;

/// Heads of tasks.
const HEADS: [&str; 4] = ["classifier.", "mlm_score.", "itm_score.", "rank_output."];

/// Sizes of a ViLT.
#[derive(Clone, Debug, PartialEq)]
pub struct ViltConfig {
    pub(super) text: TextConfig,
    pub(super) vision: VisionConfig,
    modalities: usize,
}

/// A transformer of words and patches.
#[derive(Module, Debug)]
pub struct Vilt {
    /// Tables of the text; it has no layers.
    pub text: TextEncoder,
    /// Patches, their positions, and the blocks that words and patches share.
    pub vision: VisionEncoder,
    /// Row 0 is added to words, row 1 to patches; a third one is of a second picture.
    pub modalities: Embedding,
    /// Of the text's first token.
    pub pooler: Pooler,
    #[module(skip)]
    patch_size: usize,
}

impl Vilt {
    /// Side of a patch in pixels.
    #[must_use]
    pub fn patch_size(&self) -> usize {
        self.patch_size
    }

    /// Features of the words of every text and, after them, of its picture: the class token and
    /// the patches, row after row of the picture.
    ///
    /// # Errors
    /// A text or a picture that this model cannot take.
    pub fn forward(&self, texts: &TextInput, pictures: &Pictures) -> Result<Tokens, PairError> {
        let embedded = self.embed(texts, pictures)?;
        let all = Chosen::whole(&embedded.spans, |_| true);
        Ok(self.encode(embedded, &all))
    }

    /// One vector a pair, `[batch, width]`.
    ///
    /// # Errors
    /// A text or a picture that this model cannot take.
    pub fn embed_pairs(
        &self,
        texts: &TextInput,
        pictures: &Pictures,
    ) -> Result<Tensor<2>, PairError> {
        let embedded = self.embed(texts, pictures)?;
        let first = Chosen::first(&embedded.spans);
        Ok(self.pooler.forward(self.encode(embedded, &first).first()))
    }

    fn encode(&self, embedded: Tokens, chosen: &Chosen) -> Tokens {
        let hidden = block::run(&self.vision.blocks, embedded, chosen, Scope::Whole);
        self.vision.normalise(hidden)
    }

    fn embed(&self, texts: &TextInput, pictures: &Pictures) -> Result<Tokens, PairError> {
        self.text.check(texts)?;
        pictures.check(&texts.spans, self.patch_size)?;
        let words = self.text.embed(texts);
        let patches = self.vision.prepend_class(&self.embed_patches(pictures));
        let marked = |tokens: &Tokens, modality| {
            tokens.with_rows(tokens.rows.clone() + self.modalities.row(modality))
        };
        Ok(marked(&words, 0).followed_by(&marked(&patches, 1)))
    }

    /// The patches of every picture that hold any of it, with their positions.
    fn embed_patches(&self, pictures: &Pictures) -> Tokens {
        let patch = self.patch_size;
        let [batch, _, height, width] = pictures.pixel_values.dims();
        let [rows, columns] = [height / patch, width / patch];
        let pixels = pictures.pixel_values.clone();
        let pixels = pixels
            .narrow(2, 0, rows * patch)
            .narrow(3, 0, columns * patch);
        let pixels = patch_pixels(pixels, patch);
        let [_, patches, numbers] = pixels.dims();
        let device = pixels.device();

        let side = (self.vision.positions.dims()[0] - 1).isqrt();
        let mut kept = Vec::new();
        let mut places = Stretched::default();
        let mut lengths = Vec::new();
        for (picture, [height, width]) in pictures.sizes.iter().enumerate() {
            // A patch belongs to the picture when its first pixel does.
            let grid = [
                height.div_ceil(patch).min(rows),
                width.div_ceil(patch).min(columns),
            ];
            for row in 0..grid[0] {
                for column in 0..grid[1] {
                    kept.push((picture * patches + row * columns + column) as i64);
                    places.push([row, column], grid, side);
                }
            }
            lengths.push(grid[0] * grid[1]);
        }
        let pixels = pixels.reshape([batch * patches, numbers]);
        let pixels = pixels.select(0, indices(kept, &device));
        Tokens {
            rows: self.vision.patches.forward(pixels) + places.of(&self.vision.positions.val()),
            spans: Spans::new(lengths),
        }
    }
}

/// Positions between those that were learned: the four around each, and their shares.
#[derive(Default)]
struct Stretched {
    corners: [(Vec<i64>, Vec<f32>); 4],
}

impl Stretched {
    /// Place `at` of a grid that is laid over `side` by `side` learned positions, corner on corner.
    fn push(&mut self, at: [usize; 2], grid: [usize; 2], side: usize) {
        let [row, column] = [0, 1].map(|axis| {
            let steps = grid[axis].saturating_sub(1).max(1);
            let exact = (at[axis] * (side - 1)) as f32 / steps as f32;
            let low = (exact as usize).min(side - 1);
            let share = exact - low as f32;
            [(low, 1.0 - share), ((low + 1).min(side - 1), share)]
        });
        let pairs = [(0, 0), (0, 1), (1, 0), (1, 1)];
        for ((rows, shares), (i, j)) in self.corners.iter_mut().zip(pairs) {
            // Row 0 of the table belongs to the class token.
            rows.push((1 + row[i].0 * side + column[j].0) as i64);
            shares.push(row[i].1 * column[j].1);
        }
    }

    /// The positions themselves, `[places, width]`.
    fn of(self, table: &Tensor<2>) -> Tensor<2> {
        let device = table.device();
        let [_, width] = table.dims();
        let places = self.corners[0].0.len();
        let corners = self.corners.into_iter().map(|(rows, shares)| {
            let shares: Tensor<2> =
                Tensor::from_data(TensorData::new(shares, [places, 1]), &device);
            table.clone().select(0, indices(rows, &device)) * shares
        });
        let zeros = Tensor::zeros([places, width], &device);
        corners.fold(zeros, |sum, corner| sum + corner)
    }
}

impl Published for Vilt {
    type Config = ViltConfig;

    fn config(json: &Value) -> Result<Self::Config, WeightError> {
        let keys = Keys(json);
        keys.require_type("vilt")?;
        keys.require("qkv_bias", &json!(true))?;
        keys.require("num_channels", &json!(3))?;
        let modalities = keys.size("modality_type_vocab_size")?;
        if modalities < 2 {
            let wanted = "a row each for words and patches";
            return Err(keys.refused("modality_type_vocab_size", wanted));
        }
        let layers = keys.layers_or("num_hidden_layers", 12)?;
        let text = text_config(keys, 0)?;
        let (image_size, patch_size) = (keys.size("image_size")?, keys.size("patch_size")?);
        if !image_size.is_multiple_of(patch_size) {
            let wanted = format!("a number that divides the side {image_size}");
            return Err(keys.refused("patch_size", &wanted));
        }
        let vision = VisionConfig {
            image_size,
            patch_size,
            hidden_size: text.hidden_size,
            layers,
            num_heads: text.num_heads,
            intermediate_size: text.intermediate_size,
            activation: text.activation,
            layer_norm_eps: text.layer_norm_eps,
            patch_bias: true,
            pre_norm: false,
            registers: 0,
            max_frames: 0,
            mask_token: false,
        };
        Ok(ViltConfig {
            text,
            vision,
            modalities,
        })
    }

    fn build(init: &Init, config: &Self::Config) -> Self {
        let width = config.text.hidden_size;
        Self {
            text: TextEncoder::new(init, &config.text),
            vision: VisionEncoder::new(init, &config.vision),
            modalities: Embedding::new(init, config.modalities, width),
            pooler: Pooler::new(init, width),
            patch_size: config.vision.patch_size,
        }
    }

    fn canonical(found: &str) -> Option<String> {
        bert_family::canonical(found, &["vilt."], &HEADS)
    }

    fn names(ours: &str) -> Vec<String> {
        if let Some(rest) = ours.strip_prefix("vision.") {
            return Vit::names(&format!("encoder.{rest}"));
        }
        let Some((module, leaf)) = ours.rsplit_once('.') else {
            return Vec::new();
        };
        if let Some(rest) = module.strip_prefix("text.") {
            // Only tables and their norm: what is behind the prefix begins with `embeddings.`.
            return bert_names("embeddings.text_", rest, leaf);
        }
        let name = match module {
            "modalities" => format!("embeddings.token_type_embeddings.{leaf}"),
            module => format!("{module}.{leaf}"),
        };
        vec![name]
    }
}
