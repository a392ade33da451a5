//! The memory that a training step needs on a CPU, from sizes alone.
//!
//! With P parameters, of which T are trained, all numbers of 4 bytes:
//!
//! ```text
//! peak = 100 MB + 1.1 x (
//!        P + 2 T              values, and both running means of Adam
//!      + max(kept, T) + temporary (+ T where micro-batches are added up)
//!      + 7 pixels)            the batch, its tensor, its patches, and four batches ahead
//! ```
//!
//! The first and the factor are the program with its threads, and what the allocator holds beyond what
//! it was asked for: both measured, see `docs/results/plan.md`.
//!
//! The backward pass gives up what the forward pass kept while it makes gradients, so that the larger
//! of the two counts; the last sub-layer that it comes to still needs its own. **Kept** is what the fused operations of `chiasm-nn` leave for it, with width d,
//! inner width m and h heads:
//!
//! ```text
//! attention of q queries to k keys    q (3 d + h + 2) + 2 k d, and q d where the norm comes after
//! the position-wise sub-layer of q    q (d + m + 2), and q d where the norm comes after
//! ```
//!
//! These are input, projections, context, logarithms and moments, and the sum before a norm; then input,
//! first map's product and moments. A last layer that computes some tokens alone also keeps all of its
//! input, and that normalised where the norm comes first. With gradient checkpointing only the input is
//! kept, `q d` of either sub-layer, and the backward pass of a sub-layer makes the rest of it again:
//! then that is part of what is temporary. A masked-word head keeps the gradient of its
//! weights from the forward pass on. **Temporary** is the largest of: the backward pass of a
//! position-wise sub-layer, `rows (m + 4 d)`; the logits of 256 masked words; both matrices of a
//! contrast. Left out are the decoded pictures that the loader keeps.

use chiasm_nn::ModelConfig;
use chiasm_nn::config::{FusionKind, NormPlace};
use chiasm_nn::parameters::ParameterCount;
use serde::Serialize;

use crate::config::ObjectivesConfig;
use crate::cost::{Frozen, Pass, PassCost, PlanCost, Stream};
use crate::plan::{ImageView, Objective};

/// Bytes of a number.
const BYTES: f64 = 4.0;
/// Copies of the batch's pixels: what the loader gave, its tensor, its patches for the backward pass,
/// three batches prepared ahead and one being prepared.
const PIXEL_COPIES: f64 = 7.0;
/// The program, its threads and a small data set, in bytes. Measured (`docs/results/plan.md`).
const PROGRAM: f64 = 100e6;
/// What the allocator holds for every byte that is asked for. Measured (`docs/results/plan.md`).
const HELD: f64 = 1.1;
/// Rows of masked words whose logits live at a time (`chiasm-nn`, cross-entropy).
const LOGIT_ROWS: f64 = 256.0;

/// What a training step holds at its peak, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Memory {
    /// Values of the parameters.
    pub parameters: f64,
    /// Both running means of the optimiser.
    pub moments: f64,
    /// Gradients of all trained parameters, twice where micro-batches are added up.
    pub gradients: f64,
    /// What the forward pass keeps for the backward pass.
    pub kept: f64,
    /// The largest thing that lives for a moment only.
    pub temporary: f64,
    /// Pixels of this batch and of those prepared ahead.
    pub pixels: f64,
    /// All of it at its peak, in which gradients take the place of what was kept, with the program and
    /// what the allocator holds beyond.
    pub peak: f64,
}

impl Memory {
    /// Of a step of `accumulate` micro-batches with the given passes.
    #[must_use]
    pub fn new(
        model: &ModelConfig,
        objectives: &ObjectivesConfig,
        cost: &PlanCost,
        accumulate: u64,
    ) -> Self {
        let parts = model.parameter_parts();
        let layers = Layers {
            model,
            inputs_only: cost.gradient_checkpointing,
        };
        let trained = BYTES * trained(&parts, objectives, cost.frozen) as f64;
        let parameters = BYTES * model.parameters() as f64;
        let kept = BYTES
            * cost
                .passes
                .iter()
                .filter(|pass| !cost.frozen.covers(pass.pass))
                .map(|pass| kept(&layers, pass))
                .sum::<f64>();
        let temporary = BYTES * temporary(&layers, &cost.passes);
        let pixels = BYTES * PIXEL_COPIES * pixels(model, &cost.passes);
        let summed = if accumulate > 1 { trained } else { 0.0 };
        let moments = 2.0 * trained;
        let asked = parameters + moments + summed + pixels + kept.max(trained) + temporary;
        Self {
            parameters,
            moments,
            gradients: trained + summed,
            kept,
            temporary,
            pixels,
            peak: PROGRAM + HELD * asked,
        }
    }
}

/// Parameters that the losses reach.
fn trained(parts: &ParameterCount, objectives: &ObjectivesConfig, frozen: Frozen) -> usize {
    let enabled = objectives.enabled();
    let has = |objective| enabled.contains(&objective);
    let when = |on: bool, part: usize| if on { part } else { 0 };
    let fuses = enabled.iter().any(|one| *one != Objective::Contrastive);
    let pools = [
        Objective::Matching,
        Objective::Classification,
        Objective::Ranking,
        Objective::Knowledge,
        Objective::Cluster,
    ];
    when(!frozen.text, parts.text)
        + when(!frozen.vision, parts.vision)
        + parts.transforms
        + when(fuses, parts.fusion)
        + when(pools.into_iter().any(has), parts.poolers)
        + when(has(Objective::Contrastive), parts.projections)
        + when(
            has(Objective::Matching) || has(Objective::Knowledge),
            parts.match_head,
        )
        + when(
            has(Objective::Mlm) || has(Objective::Knowledge),
            parts.mlm_head,
        )
        + when(has(Objective::Classification), parts.class_head)
        + when(has(Objective::Ranking), parts.rank_head)
        + when(has(Objective::Knowledge), parts.region_head)
        + when(has(Objective::Grounding), parts.ground_head)
        + when(has(Objective::Cluster), parts.cluster_head)
}

/// Sizes of a layer.
#[derive(Clone, Copy)]
struct Layer {
    width: f64,
    inner: f64,
    heads: f64,
    /// 1 where the norm comes after, 0 where it comes before.
    after: f64,
    /// 1 where more than the input of a sub-layer is kept, 0 with gradient checkpointing.
    all: f64,
}

impl Layer {
    fn attention(self, queries: f64, keys: f64) -> f64 {
        let made = (2.0 + self.after) * self.width + self.heads + 2.0;
        queries * self.width + self.all * (queries * made + 2.0 * keys * self.width)
    }

    fn feed_forward(self, tokens: f64) -> f64 {
        tokens * (self.width + self.all * self.of_feed_forward())
    }

    /// What the position-wise sub-layer makes of a token, its result apart.
    fn of_feed_forward(self) -> f64 {
        self.after * self.width + self.inner + 2.0
    }

    /// What the backward pass of a position-wise sub-layer needs for a moment.
    fn temporary(self, tokens: f64) -> f64 {
        let made_again = (1.0 - self.all) * self.of_feed_forward();
        tokens * (self.inner + 4.0 * self.width + made_again)
    }

    /// Of one sequence whose tokens see each other.
    fn block(self, Stream { tokens, read }: Stream) -> f64 {
        let some = if read < tokens { 2.0 - self.after } else { 0.0 };
        let input = some * tokens * self.width;
        self.attention(read, tokens) + self.feed_forward(read) + input
    }

    /// Of one stream of a fusion layer beside `other` tokens.
    fn fused(self, own: Stream, other: f64) -> f64 {
        self.block(own) + self.attention(own.read, other)
    }

    /// Of so many layers, the last of which computes what is read.
    fn stack(self, layers: usize, stream: Stream) -> f64 {
        let all = Stream {
            read: stream.tokens,
            ..stream
        };
        layers.saturating_sub(1) as f64 * self.block(all) + self.block(stream)
    }
}

/// The layers of a model.
struct Layers<'a> {
    model: &'a ModelConfig,
    /// Whether only the input of a sub-layer is kept.
    inputs_only: bool,
}

impl Layers<'_> {
    fn text(&self) -> Layer {
        let text = &self.model.text;
        let sizes = [text.hidden_size, text.intermediate_size, text.num_heads];
        self.of(sizes, true)
    }

    fn vision(&self) -> Layer {
        let vision = &self.model.vision;
        let (inner, heads) = (vision.intermediate_size, vision.num_heads);
        self.of([vision.hidden_size, inner, heads], false)
    }

    fn fusion(&self) -> Layer {
        let fusion = &self.model.fusion;
        let (inner, heads) = (fusion.intermediate_size, fusion.num_heads);
        let after = fusion.norm == NormPlace::After;
        self.of([fusion.hidden_size, inner, heads], after)
    }

    fn of(&self, sizes: [usize; 3], after: bool) -> Layer {
        let [width, inner, heads] = sizes.map(|size| size as f64);
        let share = |is: bool| if is { 1.0 } else { 0.0 };
        Layer {
            width,
            inner,
            heads,
            after: share(after),
            all: share(!self.inputs_only),
        }
    }
}

/// Numbers that a pass keeps for the backward pass.
fn kept(layers: &Layers<'_>, pass: &PassCost) -> f64 {
    let model = layers.model;
    let PassCost { text, image, .. } = pass;
    let width = model.fusion.hidden_size as f64;
    let of_one = match pass.pass {
        // Its pixels are counted apart.
        Pass::Patches => 0.0,
        Pass::Image(_) if model.regions.is_some() => {
            let count = model.regions.as_ref().map_or(0, |regions| regions.layers);
            let whole = Stream {
                read: image.tokens,
                ..*image
            };
            count as f64 * layers.fusion().block(whole) + image.tokens * 2.0 * width
        }
        Pass::Image(_) => {
            let layer = layers.vision();
            if model.vision.layers == 0 {
                return pass.sequences as f64 * image.read * layer.width;
            }
            // The inputs of the norms before and after, and of the map to the fusion width.
            let around = (image.tokens + 2.0 * image.read) * layer.width;
            layer.stack(model.vision.layers, *image) + around
        }
        Pass::Text(_) => {
            let layer = layers.text();
            let tower = match model.text.layers {
                0 => 0.0,
                count => layer.stack(count, *text),
            };
            tower + text.read * layer.width
        }
        Pass::Fusion(_) => {
            let layer = layers.fusion();
            let whole = |tokens| Stream {
                tokens,
                read: tokens,
            };
            let pair = |text: Stream, image: Stream| match model.fusion.kind {
                FusionKind::OneStream => layer.block(Stream {
                    tokens: text.tokens + image.tokens,
                    read: text.read + image.read,
                }),
                FusionKind::TwoStreams | FusionKind::Crossed => {
                    layer.fused(text, image.tokens) + layer.fused(image, text.tokens)
                }
            };
            let before = model.fusion.layers.saturating_sub(1) as f64;
            match model.fusion.layers {
                0 => 0.0,
                _ => before * pair(whole(text.tokens), whole(image.tokens)) + pair(*text, *image),
            }
        }
        Pass::Head(Objective::Mlm | Objective::Knowledge) => {
            let decoder = model.text.vocab_size as f64 * width;
            return decoder + pass.sequences as f64 * text.tokens * 4.0 * width;
        }
        // Inputs, the projections' inner rows, and what a contrast leaves.
        Pass::Head(_) => 6.0 * (text.tokens + image.tokens) * width,
    };
    pass.sequences as f64 * of_one
}

/// Numbers of the largest thing that lives for a moment.
fn temporary(layers: &Layers<'_>, passes: &[PassCost]) -> f64 {
    let model = layers.model;
    let rows = |is: &dyn Fn(&Pass) -> bool| {
        let passes = passes.iter().filter(|pass| is(&pass.pass));
        let rows = passes.map(|pass| {
            let Stream { tokens: text, .. } = pass.text;
            pass.sequences as f64 * text.max(pass.image.tokens)
        });
        (rows.clone().sum::<f64>(), rows.fold(0.0, f64::max))
    };
    // Views of images run one after another, all texts together, and so do the fusion passes of a view.
    let (_, image) = rows(&|pass| matches!(pass, Pass::Image(_)));
    let (text, _) = rows(&|pass| matches!(pass, Pass::Text(_)));
    let fused = ImageView::ALL
        .map(|view| rows(&|pass| matches!(pass, Pass::Fusion(fusion) if fusion.image == view)).0);
    let heads = passes.iter().map(|pass| {
        let sequences = pass.sequences as f64;
        match pass.pass {
            Pass::Head(Objective::Mlm | Objective::Knowledge) => {
                let rows = (sequences * pass.text.tokens).min(LOGIT_ROWS);
                rows * model.text.vocab_size as f64
            }
            Pass::Head(Objective::Contrastive | Objective::GlobalCompletion) => {
                2.0 * sequences * sequences
            }
            Pass::Head(Objective::LocalCompletion) => {
                let rows = sequences * pass.text.tokens.max(pass.image.tokens);
                2.0 * rows * rows
            }
            _ => 0.0,
        }
    });
    let fused = fused.into_iter().fold(0.0, f64::max);
    let backward = [
        layers.vision().temporary(image),
        layers.text().temporary(text),
        layers.fusion().temporary(fused),
    ];
    backward.into_iter().chain(heads).fold(0.0, f64::max)
}

/// Numbers of the pixels of a batch.
fn pixels(model: &ModelConfig, passes: &[PassCost]) -> f64 {
    let patch = match &model.regions {
        Some(regions) => regions.features,
        None => 3 * model.vision.patch_size * model.vision.patch_size,
    };
    let patches = passes.iter().filter(|pass| pass.pass == Pass::Patches);
    patches
        .map(|pass| pass.sequences as f64 * pass.image.tokens * patch as f64)
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ContrastiveConfig, MlmConfig};
    use crate::cost::{Accounting, PlanSizes};

    fn memory(objectives: &ObjectivesConfig, batch: usize, accumulate: u64) -> Memory {
        let mut model = ModelConfig::default();
        model.text.vocab_size = 1000;
        let sizes = PlanSizes {
            batch,
            frames: 1,
            pictures: 1,
            text_len: 50.0,
            frozen: Frozen::default(),
            gradient_checkpointing: false,
        };
        let cost = PlanCost::new(&model, objectives, sizes, Accounting::Read);
        Memory::new(&model, objectives, &cost, accumulate)
    }

    fn contrast() -> ObjectivesConfig {
        ObjectivesConfig {
            contrastive: Some(ContrastiveConfig::default()),
            ..ObjectivesConfig::default()
        }
    }

    /// A block of 65 tokens of width 768, 3072 inside, 12 heads, the norm before: input, three
    /// projections, context, logarithms, moments; input, product, moments.
    #[test]
    fn a_block_keeps_what_its_operations_say() {
        let model = ModelConfig::default();
        let of = |inputs_only| {
            let layers = Layers {
                model: &model,
                inputs_only,
            };
            layers.vision()
        };
        let layer = of(false);
        let all = Stream {
            tokens: 65.0,
            read: 65.0,
        };
        let attention = 65 * (768 + 3 * 768 + 768 + 12 + 2);
        let feed_forward = 65 * (768 + 3072 + 2);
        assert_eq!(layer.block(all), f64::from(attention + feed_forward));
        // The class token alone: input and normalised input, keys and values of all tokens; input,
        // query, context, logarithms and moments of one.
        let class = Stream { read: 1.0, ..all };
        let attention = 65 * 4 * 768 + 3 * 768 + 12 + 2;
        let feed_forward = 768 + 3072 + 2;
        assert_eq!(layer.block(class), f64::from(attention + feed_forward));
        // With gradient checkpointing the inputs alone; the rest is made again one by one.
        assert_eq!(of(true).block(all), f64::from(2 * 65 * 768));
        assert_eq!(of(true).block(class), f64::from(2 * 65 * 768 + 2 * 768));
        let again = of(true).temporary(65.0) - layer.temporary(65.0);
        assert_eq!(again, f64::from(65 * (3072 + 2)));
    }

    #[test]
    fn only_what_is_reached_has_gradients() {
        let contrast = contrast();
        let mut words = contrast.clone();
        words.mlm = Some(MlmConfig::default());
        let mut model = ModelConfig::default();
        model.text.vocab_size = 1000;
        let parts = model.parameter_parts();
        let alone = parts.text + parts.vision + parts.transforms + parts.projections;
        assert_eq!(trained(&parts, &contrast, Frozen::default()), alone);
        assert_eq!(
            trained(&parts, &words, Frozen::default()),
            alone + parts.fusion + parts.mlm_head
        );
    }

    #[test]
    fn kept_grows_with_the_batch_and_weights_do_not() {
        let (small, large) = (memory(&contrast(), 2, 1), memory(&contrast(), 8, 1));
        assert!((large.kept / small.kept - 4.0).abs() < 1e-9);
        assert!((large.pixels / small.pixels - 4.0).abs() < 1e-9);
        assert_eq!(small.parameters, large.parameters);
        let summed = memory(&contrast(), 2, 4);
        let near = |found: f64, expected: f64| assert!((found / expected - 1.0).abs() < 1e-9);
        near(summed.peak, small.peak + HELD * small.gradients);
        // Two pairs keep less than there are gradients to come.
        let one = memory(&contrast(), 1, 1);
        let asked = one.parameters + one.moments + one.gradients + one.temporary + one.pixels;
        near(one.peak, PROGRAM + HELD * asked);
    }
}
