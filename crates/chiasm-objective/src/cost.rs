//! What the passes of a forward plan cost, in multiply-adds, without running anything.
//!
//! Pure arithmetic on sizes. Counted are the matrix products of [`forward`](crate::forward) and
//! [`losses`](crate::losses), which are all but a few per cent of the work of a wide model; norms,
//! activations, softmax and the optimiser are not. [`memory`](crate::memory) goes on from here.

use std::fmt;

use chiasm_nn::config::{FusionKind, NormPlace};
use chiasm_nn::{ModelConfig, ProjectionKind};
use serde::{Deserialize, Serialize};

use crate::config::{GlobalCompletionConfig, ObjectivesConfig};
use crate::masking::kept_patches;
use crate::plan::{
    ForwardPlan, FusionPass, GROUNDING_PASS, HIDDEN_PATCHES_PASS, ImageView, KNOWLEDGE_PASS,
    MASKED_IMAGE_PASS, MASKED_TEXT_PASS, MLM_PASS, Objective, Pairing, TextView, class_pass,
};

/// Forward and backward pass of a linear map cost three times its forward pass.
pub const WITH_BACKWARD: f64 = 3.0;

/// What a micro-batch holds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlanSizes {
    /// Pairs, at least 1.
    pub batch: usize,
    /// Frames of an image, at least 1; without meaning for regions.
    pub frames: usize,
    /// Pictures that a text speaks of together, at least 1.
    pub pictures: usize,
    /// Mean tokens of a text, special ones included. All texts are taken to have as many.
    pub text_len: f64,
    /// Towers that are not trained.
    pub frozen: Frozen,
    /// Whether blocks keep the inputs of their sub-layers alone, and make the rest again.
    pub gradient_checkpointing: bool,
}

/// Towers that are not trained: no gradient is computed in them, and nothing kept for one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frozen {
    /// The text tower.
    pub text: bool,
    /// The image tower.
    pub vision: bool,
}

impl Frozen {
    /// Whether a pass is of a frozen tower. The map behind the tower, a small part, counts as frozen
    /// too.
    #[must_use]
    pub fn covers(self, pass: Pass) -> bool {
        match pass {
            Pass::Patches | Pass::Image(_) => self.vision,
            Pass::Text(_) => self.text,
            Pass::Fusion(_) | Pass::Head(_) => false,
        }
    }
}

/// What is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Accounting {
    /// What is run: last layers compute the tokens that are read, and the masked-word head sees the
    /// positions asked for.
    #[default]
    Read,
    /// As published (`specs/scl.md` section 3.3): every layer computes all tokens, and the masked-word
    /// head sees all positions.
    Whole,
}

/// One thing that a step computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// Patch or region embedding, which all views of the images share.
    Patches,
    /// Image tower with its map to the fusion width.
    Image(ImageView),
    /// Text tower with its map to the fusion width.
    Text(TextView),
    /// Fusion encoder.
    Fusion(FusionPass),
    /// Heads and loss.
    Head(Objective),
}

impl fmt::Display for Pass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Patches => f.write_str("patch embedding"),
            Self::Image(view) => write!(f, "image tower: {view}"),
            Self::Text(view) => write!(f, "text tower: {view}"),
            Self::Fusion(pass) => write!(f, "fusion: {pass}"),
            Self::Head(objective) => write!(f, "head: {objective}"),
        }
    }
}

/// The tokens of one modality in one sequence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Stream {
    /// Tokens that go in; 0 where the modality takes no part.
    pub tokens: f64,
    /// Tokens that the last layer computes, on average.
    pub read: f64,
}

/// One thing that a step computes, and what it costs.
#[derive(Clone, Debug, PartialEq)]
pub struct PassCost {
    /// What it is.
    pub pass: Pass,
    /// For whom it is run.
    pub objectives: Vec<Objective>,
    /// Sequences that go in.
    pub sequences: usize,
    /// Words of a sequence.
    pub text: Stream,
    /// Class tokens, registers and patches of a sequence, of all its frames.
    pub image: Stream,
    /// Multiply-adds of the forward pass, of all sequences.
    pub forward: f64,
    /// Of them, those that gradient checkpointing computes a second time.
    pub again: f64,
}

/// The passes of a step and what they cost.
#[derive(Clone, Debug, PartialEq)]
pub struct PlanCost {
    /// Every pass of the shared plan, in the order in which they run.
    pub passes: Vec<PassCost>,
    /// Multiply-adds of the forward pass of all [`Self::passes`].
    pub shared: f64,
    /// The same with one set of passes an objective, as the published code runs them; there the two
    /// completions share one set.
    pub unshared: f64,
    /// Of the two, what the backward pass computes.
    backward: [f64; 2],
    /// Towers that are not trained.
    pub frozen: Frozen,
    /// Whether blocks keep the inputs of their sub-layers alone.
    pub gradient_checkpointing: bool,
}

impl PlanCost {
    /// Costs of one micro-batch.
    #[must_use]
    pub fn new(
        model: &ModelConfig,
        objectives: &ObjectivesConfig,
        sizes: PlanSizes,
        accounting: Accounting,
    ) -> Self {
        let costs = |config: &ObjectivesConfig| {
            let plan = plan(model, config, sizes.pictures);
            let counter = Counter {
                model,
                config,
                sizes,
                accounting,
                plan,
            };
            counter.passes()
        };
        let sum = |passes: &[PassCost]| passes.iter().map(|pass| pass.forward).sum::<f64>();
        let of_pass = |pass: &PassCost| {
            let again = match sizes.gradient_checkpointing {
                true => pass.again,
                false => 0.0,
            };
            (WITH_BACKWARD - 1.0) * pass.forward + again
        };
        let backward = |passes: &[PassCost]| {
            let trained = passes.iter().filter(|pass| !sizes.frozen.covers(pass.pass));
            trained.map(of_pass).sum::<f64>()
        };
        let alone = objectives.sets();
        let mut passes = costs(objectives);
        for pass in &mut passes {
            pass.objectives = objectives
                .enabled()
                .into_iter()
                .filter(|objective| {
                    let alone = objectives.only(*objective);
                    is_run_for(pass.pass, &plan(model, &alone, sizes.pictures), *objective)
                })
                .collect();
        }
        let alone: Vec<Vec<PassCost>> = alone.iter().map(costs).collect();
        Self {
            shared: sum(&passes),
            unshared: alone.iter().map(|passes| sum(passes)).sum(),
            backward: [
                backward(&passes),
                alone.iter().map(|passes| backward(passes)).sum(),
            ],
            frozen: sizes.frozen,
            gradient_checkpointing: sizes.gradient_checkpointing,
            passes,
        }
    }

    /// Multiply-adds of forward and backward pass, what is made again included.
    #[must_use]
    pub fn shared_step(&self) -> f64 {
        self.shared + self.backward[0]
    }

    /// [`Self::shared_step`] with one set of passes an objective.
    #[must_use]
    pub fn unshared_step(&self) -> f64 {
        self.unshared + self.backward[1]
    }
}

fn plan(model: &ModelConfig, config: &ObjectivesConfig, pictures: usize) -> ForwardPlan {
    ForwardPlan::new(config, pictures).contrasting_fused(config, !model.sums_up_both())
}

/// Whether an objective with a plan of its own needs a pass.
fn is_run_for(pass: Pass, plan: &ForwardPlan, objective: Objective) -> bool {
    match pass {
        Pass::Patches => !plan.images.is_empty(),
        Pass::Image(view) => plan.images.contains(&view),
        Pass::Text(view) => plan.texts.contains(&view),
        Pass::Fusion(pass) => plan.fusions.contains(&pass),
        Pass::Head(other) => other == objective,
    }
}

/// A layer's widths.
#[derive(Clone, Copy)]
struct Layer {
    width: f64,
    intermediate: f64,
    /// 1 where the last map of a sub-layer is computed, 0 where what is before it is made again.
    last: f64,
}

impl Layer {
    fn new(width: usize, intermediate: usize) -> Self {
        Self {
            width: width as f64,
            intermediate: intermediate as f64,
            last: 1.0,
        }
    }

    /// What gradient checkpointing makes again: all that a norm which comes `after` needs, or what
    /// comes before the last map.
    fn again(self, after: bool) -> Self {
        Self {
            last: if after { 1.0 } else { 0.0 },
            ..self
        }
    }

    /// Attention of `queries` tokens to `keys`, of which each query sees as many as make `pairs`
    /// together: two maps of the queries, two of the keys, scores and mixed values.
    fn attention(self, queries: f64, keys: f64, pairs: f64) -> f64 {
        let mapped = (1.0 + self.last) * queries + 2.0 * keys;
        self.width * (self.width * mapped + 2.0 * pairs)
    }

    /// The position-wise sub-layer.
    fn feed_forward(self, tokens: f64) -> f64 {
        (1.0 + self.last) * tokens * self.width * self.intermediate
    }

    /// `read` tokens of a layer in which all tokens see each other.
    fn block(self, Stream { tokens, read }: Stream) -> f64 {
        self.attention(read, tokens, read * tokens) + self.feed_forward(read)
    }

    /// `read` tokens of one stream of a fusion layer beside `other` tokens.
    fn fusion(self, own: Stream, other: f64) -> f64 {
        self.block(own) + self.attention(own.read, other, own.read * other)
    }
}

/// Multiply-adds of one transformer block on a sequence, forward.
#[must_use]
pub fn block(width: usize, intermediate: usize, tokens: usize) -> f64 {
    Layer::new(width, intermediate).block(all(tokens as f64))
}

fn all(tokens: f64) -> Stream {
    Stream {
        tokens,
        read: tokens,
    }
}

/// The sizes of one plan.
struct Counter<'a> {
    model: &'a ModelConfig,
    config: &'a ObjectivesConfig,
    sizes: PlanSizes,
    accounting: Accounting,
    plan: ForwardPlan,
}

impl Counter<'_> {
    /// Every pass that is run, without the objectives that it is run for.
    fn passes(&self) -> Vec<PassCost> {
        let mut passes = Vec::new();
        if !self.plan.images.is_empty() {
            passes.push(self.patches());
        }
        passes.extend(self.plan.images.iter().map(|view| self.image(*view)));
        passes.extend(self.plan.texts.iter().map(|view| self.text(*view)));
        passes.extend(self.plan.fusions.iter().map(|pass| self.fusion(*pass)));
        let heads = self.config.enabled().into_iter();
        passes.extend(heads.map(|objective| self.head(objective)));
        passes
    }

    fn cost(
        &self,
        pass: Pass,
        sequences: usize,
        [text, image]: [Stream; 2],
        [of_one, again]: [f64; 2],
    ) -> PassCost {
        PassCost {
            pass,
            objectives: Vec::new(),
            sequences,
            text,
            image,
            forward: sequences as f64 * of_one,
            again: sequences as f64 * again,
        }
    }

    /// Pairs that the fusion encoder sees.
    fn fused(&self) -> usize {
        self.config.fused_size(self.sizes.batch)
    }

    fn frames(&self) -> f64 {
        self.sizes.frames as f64
    }

    /// Class tokens of an image: one a frame, none of regions.
    fn class_tokens(&self) -> f64 {
        match self.model.regions {
            Some(_) => 0.0,
            None => self.frames(),
        }
    }

    /// Patches or regions of a frame.
    fn patches_of_frame(&self) -> usize {
        match &self.model.regions {
            Some(regions) => regions.most,
            None => self.model.vision.num_patches(),
        }
    }

    /// Texts that each image is ranked with.
    fn candidates(&self) -> usize {
        let wanted = self.config.ranking.as_ref();
        let wanted = wanted.map_or(1, |ranking| ranking.candidates);
        wanted.clamp(1, self.sizes.batch.max(1))
    }

    /// Patches of a frame in a view.
    fn patches_in(&self, view: ImageView) -> usize {
        let patches = self.patches_of_frame();
        match (view, self.config.completion_masks()) {
            (ImageView::Dropped, Some(masks)) => kept_patches(patches, masks.image_drop),
            _ => patches,
        }
    }

    /// Tokens of an image in a view, of all frames.
    fn image_tokens(&self, view: ImageView) -> f64 {
        let patches = self.patches_in(view);
        match self.model.regions {
            Some(_) => patches as f64,
            None => self.frames() * (1 + self.model.vision.registers + patches) as f64,
        }
    }

    /// Hidden patches of an image, of all frames.
    fn hidden_patches(&self) -> f64 {
        let local = self.config.local_completion.as_ref();
        let share = local.map_or(0.0, |local| local.image_mask);
        (self.patches_of_frame() as f64 * share).floor() * self.frames()
    }

    /// Tokens of a text that are neither its first nor its last.
    fn content(&self) -> f64 {
        (self.sizes.text_len - 2.0).max(0.0)
    }

    /// Words of a text that are asked for, each taken as one token.
    fn asked_words(&self) -> f64 {
        let share = self.config.mlm.as_ref().map_or(0.0, |mlm| mlm.probability);
        let words = (self.content() * share).round().max(1.0);
        words.min(self.content())
    }

    /// Words of a text that are masked for completion.
    fn masked_words(&self) -> f64 {
        let Some(masks) = self.config.completion_masks() else {
            return 0.0;
        };
        let GlobalCompletionConfig {
            text_mask,
            with_replacement,
            ..
        } = masks;
        let content = self.content();
        let drawn = (text_mask * content).floor() + 1.0;
        if with_replacement && content > 0.0 {
            return content * (1.0 - (1.0 - 1.0 / content).max(0.0).powf(drawn));
        }
        drawn.min(content)
    }

    /// Tokens of which `read` are computed, unless all are.
    fn stream(&self, tokens: f64, read: f64) -> Stream {
        match self.accounting {
            Accounting::Read => Stream {
                tokens,
                read: read.min(tokens),
            },
            Accounting::Whole => all(tokens),
        }
    }

    fn patches(&self) -> PassCost {
        let vision = &self.model.vision;
        let tokens = self.frames() * self.patches_of_frame() as f64;
        let numbers = match &self.model.regions {
            Some(regions) => regions.features + 5,
            None => 3 * vision.patch_size * vision.patch_size,
        };
        let of_one = tokens * (numbers * vision.hidden_size) as f64;
        let images = self.sizes.batch * self.sizes.pictures;
        let streams = [Stream::default(), all(tokens)];
        self.cost(Pass::Patches, images, streams, [of_one, 0.0])
    }

    fn image(&self, view: ImageView) -> PassCost {
        let vision = &self.model.vision;
        let layer = Layer::new(vision.hidden_size, vision.intermediate_size);
        let (tokens, frames) = (self.image_tokens(view), self.frames());
        let (images, whole) = match view {
            ImageView::Complete => {
                let images = self.sizes.batch * self.sizes.pictures;
                (images, self.whole_images() / images.max(1) as f64)
            }
            ImageView::Dropped | ImageView::Hidden | ImageView::Knowledge => (self.fused(), 1.0),
        };
        if self.model.regions.is_some() {
            // What makes tokens of regions is counted as patches are.
            let fusion = &self.model.fusion;
            let layer = Layer::new(fusion.hidden_size, fusion.intermediate_size);
            let layers = self
                .model
                .regions
                .as_ref()
                .map_or(0, |regions| regions.layers);
            let tower = |layer: Layer| layers as f64 * layer.block(all(tokens));
            let of_one = tower(layer) + tokens * self.map(vision.hidden_size);
            let streams = [Stream::default(), all(tokens)];
            let costs = [of_one, tower(layer.again(true))];
            return self.cost(Pass::Image(view), images, streams, costs);
        }
        let stream = self.stream(tokens, whole * tokens + (1.0 - whole) * frames);
        let read = stream.read;

        // Patches see their frame, class tokens the whole clip.
        let frame = tokens / frames;
        let pairs = match self.sizes.frames {
            1 => tokens * tokens,
            _ => frames * tokens + (tokens - frames) * frame,
        };
        let tower = |layer: Layer| {
            let attention = layer.attention(tokens, tokens, pairs);
            let block = attention + layer.feed_forward(tokens);
            let last = match self.sizes.frames == 1 || whole == 0.0 && read < tokens {
                true => layer.block(stream),
                // Of several frames, attention computes all tokens or the class tokens.
                false => attention + layer.feed_forward(read),
            };
            vision.layers.saturating_sub(1) as f64 * block + last
        };
        let of_one = tower(layer) + read * self.map(vision.hidden_size);
        let streams = [Stream::default(), stream];
        let costs = [of_one, tower(layer.again(false))];
        self.cost(Pass::Image(view), images, streams, costs)
    }

    /// The map of a token to the fusion width, which one stream and towers alone do without.
    fn map(&self, from: usize) -> f64 {
        if !self.model.sums_up_both() || self.model.is_towers_alone() {
            0.0
        } else {
            (from * self.model.fusion.hidden_size) as f64
        }
    }

    /// Images of which the fusion encoder sees all tokens in the complete view.
    fn whole_images(&self) -> f64 {
        let fused = self.fused() as f64;
        let passes = || {
            let passes = self.plan.fusions.iter();
            passes.filter(|pass| pass.image == ImageView::Complete)
        };
        let own = passes().filter_map(|pass| match pass.pairing {
            Pairing::Own(picture) => Some(picture + 1),
            Pairing::Candidates => Some(1),
            Pairing::Matching | Pairing::Knowledge => None,
        });
        match own.max().filter(|_| !self.model.is_towers_alone()) {
            Some(pictures) => fused * pictures as f64,
            None if passes().next().is_some() && !self.model.is_towers_alone() => {
                matched_images(fused)
            }
            None => 0.0,
        }
    }

    fn text(&self, view: TextView) -> PassCost {
        let text = &self.model.text;
        let layer = Layer::new(text.hidden_size, text.intermediate_size);
        let tokens = self.sizes.text_len;
        let (texts, whole) = match view {
            TextView::Clean => {
                let batch = self.sizes.batch;
                (batch, self.whole_texts() / batch.max(1) as f64)
            }
            TextView::Mlm | TextView::Masked | TextView::Knowledge => (self.fused(), 1.0),
        };
        let stream = self.stream(tokens, whole * tokens + (1.0 - whole));
        let map = stream.read * self.map(text.hidden_size);
        let tower = |layer: Layer| match text.layers {
            0 => 0.0,
            layers => (layers - 1) as f64 * layer.block(all(tokens)) + layer.block(stream),
        };
        let streams = [stream, Stream::default()];
        let costs = [tower(layer) + map, tower(layer.again(true))];
        self.cost(Pass::Text(view), texts, streams, costs)
    }

    /// Clean texts of which the fusion encoder sees all tokens.
    fn whole_texts(&self) -> f64 {
        let (batch, fused) = (self.sizes.batch as f64, self.fused() as f64);
        let clean = self.plan.fusions.iter();
        let mut clean = clean.filter(|pass| pass.text == TextView::Clean).peekable();
        if clean.peek().is_none() || self.model.is_towers_alone() {
            return 0.0;
        }
        if !clean.any(|pass| pass.pairing == Pairing::Candidates) {
            return fused;
        }
        // Every fused image draws its candidates among all other texts.
        let drawn = (self.candidates() - 1) as f64 / (batch - 1.0).max(1.0);
        fused + (batch - fused) * (1.0 - (1.0 - drawn).powf(fused))
    }

    fn fusion(&self, pass: FusionPass) -> PassCost {
        let fusion = &self.model.fusion;
        let layer = Layer::new(fusion.hidden_size, fusion.intermediate_size);
        let pairs = match pass.pairing {
            Pairing::Candidates => self.fused() * self.candidates(),
            Pairing::Own(_) | Pairing::Matching | Pairing::Knowledge => self.fused(),
        };
        let [words, patches] = self.also_read(pass);
        let (text, image) = (self.sizes.text_len, self.image_tokens(pass.image));
        let text = self.stream(text, 1.0 + words);
        let image = self.stream(image, self.class_tokens() + patches);
        let kind = fusion.kind;
        let pair = |layer: Layer, text: Stream, image: Stream| match kind {
            FusionKind::OneStream => layer.block(Stream {
                tokens: text.tokens + image.tokens,
                read: text.read + image.read,
            }),
            FusionKind::TwoStreams => {
                layer.fusion(text, image.tokens) + layer.fusion(image, text.tokens)
            }
            FusionKind::Crossed => {
                // All of a stream looks at the other one before it looks at itself.
                let across = |own: f64, other: f64| layer.attention(own, other, own * other);
                let looks = across(text.tokens, image.tokens) + across(image.tokens, text.tokens);
                looks + layer.block(text) + layer.block(image)
            }
        };
        let before = fusion.layers.saturating_sub(1) as f64;
        let encoder = |layer: Layer| match fusion.layers {
            0 => 0.0,
            _ => {
                let whole = pair(layer, all(text.tokens), all(image.tokens));
                before * whole + pair(layer, text, image)
            }
        };
        let again = layer.again(fusion.norm == NormPlace::After);
        let costs = [encoder(layer), encoder(again)];
        self.cost(Pass::Fusion(pass), pairs, [text, image], costs)
    }

    /// Words and patches that are read of a pass beside its summaries, as in
    /// [`forward`](crate::forward).
    fn also_read(&self, pass: FusionPass) -> [f64; 2] {
        if self.plan.contrasts_fused && pass == class_pass(0) {
            return [self.sizes.text_len, self.image_tokens(pass.image)];
        }
        let has = |other| self.plan.fusions.contains(&other);
        let words = match pass {
            MLM_PASS => self.asked_words(),
            KNOWLEDGE_PASS => self.sizes.text_len,
            MASKED_IMAGE_PASS | MASKED_TEXT_PASS if self.plan.completes_words => {
                self.masked_words()
            }
            _ => 0.0,
        };
        let patches = match pass {
            MASKED_TEXT_PASS | HIDDEN_PATCHES_PASS if has(HIDDEN_PATCHES_PASS) => {
                self.hidden_patches()
            }
            KNOWLEDGE_PASS | GROUNDING_PASS => self.image_tokens(pass.image),
            _ => 0.0,
        };
        [words, patches]
    }

    fn head(&self, objective: Objective) -> PassCost {
        let (model, fused) = (self.model, self.fused());
        let (width, projection) = (
            model.fusion.hidden_size as f64,
            model.projection_size as f64,
        );
        let batch = self.sizes.batch;
        let pictures = self.sizes.pictures as f64;
        let pooled = model.pooled_size() as f64;
        let streams = model.stream_widths().map(|width| width as f64);
        let summed = if model.sums_up_both() { 2 } else { 1 };
        let poolers: f64 = match model.heads.pooler {
            true => streams.iter().take(summed).map(|width| width * width).sum(),
            false => 0.0,
        };
        // One product of all rows with all rows serves both directions.
        let contrast = |rows: f64, width: f64| rows * rows * width;
        let (one, frames, none) = (all(1.0), all(self.frames()), Stream::default());
        let summaries = [one, frames];
        let (sequences, streams, of_one) = match objective {
            Objective::Matching => (fused, summaries, poolers + 2.0 * pooled),
            Objective::Mlm => {
                let words = match self.accounting {
                    Accounting::Read => self.asked_words(),
                    Accounting::Whole => self.sizes.text_len,
                };
                let classes = model.text.vocab_size as f64;
                let of_one = words * width * (width + classes);
                (fused, [all(words), none], of_one)
            }
            Objective::Contrastive => {
                let rows = batch as f64;
                let loss = contrast(rows, projection);
                let project: f64 = match model.heads.projection {
                    ProjectionKind::Mlp => streams.map(|width| width * (width + projection)),
                    ProjectionKind::Linear => streams.map(|width| width * projection),
                }
                .iter()
                .sum();
                (batch, summaries, project + loss / rows.max(1.0))
            }
            Objective::GlobalCompletion => {
                let of_all = (self.frames() + 1.0) * contrast(fused as f64, width);
                (fused, summaries, of_all / fused.max(1) as f64)
            }
            Objective::LocalCompletion => {
                let completes = |on: bool, tokens: f64| if on { tokens } else { 0.0 };
                let words = completes(self.config.completes_words(), self.masked_words());
                let patches = completes(self.config.completes_patches(), self.hidden_patches());
                let of_all =
                    contrast(fused as f64 * words, width) + contrast(fused as f64 * patches, width);
                let streams = [all(words), all(patches)];
                (fused, streams, of_all / fused.max(1) as f64)
            }
            Objective::Classification => {
                let classes = model.heads.classes as f64;
                let head = 2.0 * width * (pictures * pooled + classes);
                (fused, summaries, pictures * poolers + head)
            }
            Objective::Ranking => {
                let pairs = fused * self.candidates();
                (pairs, summaries, poolers + pooled)
            }
            Objective::Knowledge => {
                // About a quarter of words and regions is asked for.
                let words = self.content() / 4.0;
                let regions = self.image_tokens(ImageView::Knowledge) / 4.0;
                let kinds = model.regions.as_ref().map_or(0, |regions| {
                    regions.features + regions.objects + regions.attributes
                });
                let of_words = words * width * (width + model.text.vocab_size as f64);
                let of_regions = regions * width * (width + kinds as f64);
                let transport = self.sizes.text_len * 4.0 * regions * width;
                let of_one = of_words + of_regions + poolers + 2.0 * pooled + transport;
                (fused, [all(words), all(regions)], of_one)
            }
            Objective::Grounding => {
                let regions = self.image_tokens(ImageView::Complete);
                (fused, [none, all(regions)], regions * width * (width + 5.0))
            }
            Objective::Cluster => {
                let clusters = model.heads.clusters as f64;
                (fused, summaries, poolers + pooled * clusters)
            }
        };
        self.cost(Pass::Head(objective), sequences, streams, [of_one, 0.0])
    }
}

/// Different images that matching is expected to draw for so many texts: half of the texts (rounded
/// down) keep their own, each of the others takes any but its own.
fn matched_images(texts: f64) -> f64 {
    let kept = (texts / 2.0).floor();
    let moved = texts - kept;
    if moved <= 0.0 || texts < 2.0 {
        return texts;
    }
    let never = (1.0 - 1.0 / (texts - 1.0)).max(0.0).powf(moved - 1.0);
    kept + moved * (1.0 - never)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ContrastiveConfig, LocalCompletionConfig, MatchingConfig, MlmConfig};
    use crate::plan::MATCHING_PASS;

    fn scl(local: bool) -> ObjectivesConfig {
        ObjectivesConfig {
            contrastive: Some(ContrastiveConfig::default()),
            matching: Some(MatchingConfig::default()),
            mlm: Some(MlmConfig::default()),
            global_completion: Some(GlobalCompletionConfig::default()),
            local_completion: local.then(LocalCompletionConfig::default),
            ..ObjectivesConfig::default()
        }
    }

    fn base(image_size: usize, max_frames: usize) -> ModelConfig {
        let mut model = ModelConfig::default();
        model.text.vocab_size = 50_265;
        model.vision.image_size = image_size;
        model.vision.max_frames = max_frames;
        model
    }

    fn sizes(batch: usize, frames: usize) -> PlanSizes {
        PlanSizes {
            batch,
            frames,
            pictures: 1,
            text_len: 50.0,
            frozen: Frozen::default(),
            gradient_checkpointing: false,
        }
    }

    /// Billions of multiply-adds of a pass for one sample, in the published accounting.
    fn published(cost: &PlanCost, pass: Pass) -> f64 {
        let found = cost.passes.iter().find(|cost| cost.pass == pass);
        found.map_or(f64::NAN, |cost| cost.forward / cost.sequences as f64 / 1e9)
    }

    fn near(found: f64, expected: f64) {
        let off = (found / expected - 1.0).abs();
        assert!(off < 0.02, "{found} instead of {expected}");
    }

    /// The units of `specs/scl.md` section 3.3.
    #[test]
    fn published_units() {
        let (model, whole) = (base(288, 0), Accounting::Whole);
        let cost = PlanCost::new(&model, &scl(true), sizes(16, 1), whole);
        for (pass, expected) in [
            // 0.2 and 2.0 there, for want of digits.
            (Pass::Patches, 0.191),
            (Pass::Image(ImageView::Complete), 27.1),
            (Pass::Image(ImageView::Hidden), 27.1),
            (Pass::Image(ImageView::Dropped), 5.1),
            (Pass::Text(TextView::Clean), 4.3),
            (Pass::Text(TextView::Masked), 4.3),
            (Pass::Fusion(MATCHING_PASS), 22.5),
            (Pass::Fusion(HIDDEN_PATCHES_PASS), 22.5),
            (Pass::Fusion(MASKED_IMAGE_PASS), 6.6),
            (Pass::Head(Objective::Mlm), 1.96),
        ] {
            near(published(&cost, pass), expected);
        }
        let cost = PlanCost::new(&base(224, 8), &scl(false), sizes(16, 4), whole);
        for (pass, expected) in [
            (Pass::Image(ImageView::Complete), 64.0),
            (Pass::Image(ImageView::Dropped), 12.6),
            (Pass::Fusion(MATCHING_PASS), 53.9),
            (Pass::Fusion(MASKED_IMAGE_PASS), 12.3),
        ] {
            near(published(&cost, pass), expected);
        }
    }

    /// The plans of `specs/scl.md` section 3.3, for one sample of a batch of 16.
    #[test]
    fn published_plans() {
        for (local, unshared, shared) in [(false, 211.1, 121.3), (true, 265.0, 170.9)] {
            let (model, whole) = (base(288, 0), Accounting::Whole);
            let cost = PlanCost::new(&model, &scl(local), sizes(16, 1), whole);
            near(cost.unshared / 16e9, unshared);
            near(cost.shared / 16e9, shared);
        }
        let baseline = ObjectivesConfig {
            global_completion: None,
            ..scl(false)
        };
        let cost = PlanCost::new(&base(288, 0), &baseline, sizes(16, 1), Accounting::Whole);
        near(cost.unshared / 16e9, 141.2);
    }

    /// What is run costs less than whole passes, and never more.
    #[test]
    fn reading_less_costs_less() {
        let costs = |accounting| {
            let objectives = ObjectivesConfig {
                fused_share: 0.25,
                ..scl(true)
            };
            PlanCost::new(&base(288, 0), &objectives, sizes(16, 1), accounting)
        };
        let (read, whole) = (costs(Accounting::Read), costs(Accounting::Whole));
        assert_eq!(read.passes.len(), whole.passes.len());
        for (read, whole) in read.passes.iter().zip(&whole.passes) {
            assert!(read.forward <= whole.forward, "{}", read.pass);
        }
        assert!(read.shared < whole.shared);
        assert_eq!(read.shared_step(), 3.0 * read.shared);
    }

    /// The text tower makes all of its layers again, the image tower all but the last map of either
    /// sub-layer; heads and what is not trained make nothing again.
    #[test]
    fn checkpointing_costs_what_is_made_again() {
        let mut model = ModelConfig::default();
        model.text.vocab_size = 1000;
        let objectives = ObjectivesConfig {
            contrastive: Some(ContrastiveConfig::default()),
            ..ObjectivesConfig::default()
        };
        let cost = |frozen, gradient_checkpointing| {
            let sizes = PlanSizes {
                frozen,
                gradient_checkpointing,
                ..sizes(8, 1)
            };
            PlanCost::new(&model, &objectives, sizes, Accounting::Whole)
        };
        let (plain, again) = (
            cost(Frozen::default(), false),
            cost(Frozen::default(), true),
        );
        assert_eq!(plain.passes, again.passes);
        let of = |wanted: fn(Pass) -> bool| {
            let passes = plain.passes.iter().filter(move |cost| wanted(cost.pass));
            passes.map(|cost| cost.again).sum::<f64>()
        };
        let (text, vision) = (&model.text, &model.vision);
        let layers = text.layers * text.hidden_size;
        let layer = 50 * (4 * text.hidden_size + 2 * text.intermediate_size + 2 * 50);
        let words = of(|pass| matches!(pass, Pass::Text(_)));
        assert_eq!(words, (8 * layers * layer) as f64);
        let layers = vision.layers * vision.hidden_size;
        let tokens = 1 + vision.num_patches();
        let layer = tokens * (3 * vision.hidden_size + vision.intermediate_size + 2 * tokens);
        let patches = of(|pass| matches!(pass, Pass::Image(_)));
        assert_eq!(patches, (8 * layers * layer) as f64);
        assert_eq!(
            of(|pass| matches!(pass, Pass::Patches | Pass::Head(_))),
            0.0
        );
        assert_eq!(again.shared_step() - plain.shared_step(), words + patches);
        let frozen = Frozen {
            text: false,
            vision: true,
        };
        let more = cost(frozen, true).shared_step() - cost(frozen, false).shared_step();
        assert_eq!(more, words);
    }

    /// Every product of a small step, by hand: contrast and masked words, 2 of 4 pairs fused.
    #[test]
    fn a_small_step_by_hand() {
        let mut model = ModelConfig {
            projection_size: 5,
            ..ModelConfig::default()
        };
        let text = &mut model.text;
        (text.vocab_size, text.hidden_size, text.layers) = (100, 6, 2);
        (text.num_heads, text.intermediate_size) = (2, 7);
        let vision = &mut model.vision;
        (vision.image_size, vision.patch_size, vision.layers) = (12, 4, 2);
        (
            vision.hidden_size,
            vision.num_heads,
            vision.intermediate_size,
        ) = (8, 2, 10);
        let fusion = &mut model.fusion;
        (fusion.hidden_size, fusion.layers) = (4, 1);
        (fusion.num_heads, fusion.intermediate_size) = (2, 13);
        let objectives = ObjectivesConfig {
            fused_share: 0.5,
            contrastive: Some(ContrastiveConfig::default()),
            mlm: Some(MlmConfig::default()),
            ..ObjectivesConfig::default()
        };
        let sizes = PlanSizes {
            batch: 4,
            frames: 1,
            pictures: 1,
            text_len: 9.0,
            frozen: Frozen::default(),
            gradient_checkpointing: false,
        };
        let cost = PlanCost::new(&model, &objectives, sizes, Accounting::Read);
        // 9 patches of 48 numbers.
        let patches = 4 * 9 * 48 * 8;
        // 4 images of 10 tokens; then keys and values of all 10, and the rest for 10 tokens of 2
        // images and the class token of 2; the map to the fusion width.
        let block = 4 * 10 * 8 * 8 + 2 * 10 * 10 * 8 + 2 * 10 * 8 * 10;
        let last = |read: i32| {
            2 * 10 * 8 * 8 + 2 * read * 8 * 8 + 2 * read * 10 * 8 + 2 * read * 8 * 10 + read * 8 * 4
        };
        let image = 4 * block + 2 * last(10) + 2 * last(1);
        // Clean texts are read by the contrast alone.
        let block = 4 * 9 * 6 * 6 + 2 * 9 * 9 * 6 + 2 * 9 * 6 * 7;
        let last = |read: i32| {
            2 * 9 * 6 * 6 + 2 * read * 6 * 6 + 2 * read * 9 * 6 + 2 * read * 6 * 7 + read * 6 * 4
        };
        let clean = 4 * (block + last(1));
        let corrupted = 2 * (block + last(9));
        // Of 7 words one is asked for: with the first token 2 of 9 are read, and 1 of 10.
        let stream = |own: i32, read: i32, other: i32| {
            let own_attention = 2 * own * 4 * 4 + 2 * read * 4 * 4 + 2 * read * own * 4;
            let cross = 2 * other * 4 * 4 + 2 * read * 4 * 4 + 2 * read * other * 4;
            own_attention + cross + 2 * read * 4 * 13
        };
        let fusion = 2 * (stream(9, 2, 10) + stream(10, 1, 9));
        let words = 2 * (4 * 4 + 4 * 100);
        let contrast = 2 * 4 * (4 * 4 + 4 * 5) + 4 * 4 * 5;
        let expected = [patches, image, clean, corrupted, fusion, words, contrast];
        let found: Vec<f64> = cost.passes.iter().map(|pass| pass.forward).collect();
        assert_eq!(found, expected.map(f64::from));
        let names: Vec<String> = cost
            .passes
            .iter()
            .map(|cost| cost.pass.to_string())
            .collect();
        assert_eq!(names[1], "image tower: complete");
        assert_eq!(names[4], "fusion: image complete, text corrupted words");
        assert_eq!(
            cost.passes[1].objectives,
            [Objective::Mlm, Objective::Contrastive]
        );
        assert_eq!(cost.passes[2].objectives, [Objective::Contrastive]);
    }

    /// A large batch draws about 70 % of its images for matching, never fewer than half.
    #[test]
    fn matching_alone_looks_at_fewer_images() {
        // The second of two texts takes the first one's.
        assert_eq!(matched_images(2.0), 1.0);
        assert!((matched_images(1000.0) / 1000.0 - 0.697).abs() < 0.001);
    }
}
