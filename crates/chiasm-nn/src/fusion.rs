//! The fusion encoder, of one of three kinds.
//!
//! **Two streams**: text and image layers side by side, each attending to itself and then to the other
//! (`specs/scl.md` section 1.6). Both are updated in parallel: layer `l` of either stream reads the
//! outputs of layer `l - 1` of both. **One stream**: words and what is to be seen are one sequence, words
//! first, that attends to itself (`specs/tbkin.md` section 1). **Crossed**: both streams look at each
//! other through the same weights, and then each at itself (LXMERT, `specs/itr.md` section 1.4).

use std::sync::Arc;

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};

use crate::attention::{CrossAttention, Scope, SelfAttention};
use crate::block::{self, Block, BlockConfig, Sights};
use crate::config::{Activation, FusionConfig, FusionKind, NormPlace};
use crate::kernels::Norm;
use crate::layers::{FeedForward, Init, LayerNorm};
use crate::select::{Looks, SelectConfig, Selector, Sight};
use crate::tokens::{Chosen, Tokens};
use crate::vision::normalised;

/// Self-attention, cross-attention, feed-forward; each with residual and LayerNorm after it.
#[derive(Module, Debug)]
pub struct FusionLayer {
    /// Attention of the stream to itself.
    pub attention: SelfAttention,
    /// After it.
    pub attention_norm: LayerNorm,
    /// Attention of the stream to the other one.
    pub cross: CrossAttention,
    /// After it.
    pub cross_norm: LayerNorm,
    /// Position-wise sub-layer.
    pub mlp: FeedForward,
    /// After it.
    pub mlp_norm: LayerNorm,
}

impl FusionLayer {
    fn new(init: &Init, config: &FusionConfig) -> Self {
        let (width, heads, eps) = (config.hidden_size, config.num_heads, config.layer_norm_eps);
        Self {
            attention: SelfAttention::new(init, width, heads, config.dropout),
            attention_norm: LayerNorm::new(init, width, eps),
            cross: CrossAttention::new(init, width, heads, config.dropout),
            cross_norm: LayerNorm::new(init, width, eps),
            mlp: FeedForward::new(
                init,
                width,
                config.intermediate_size,
                Activation::Gelu,
                config.dropout,
            ),
            mlp_norm: LayerNorm::new(init, width, eps),
        }
    }

    /// The new stream: `input` after attending to itself and to `other`, of which it sees what
    /// `sights` say, in this order.
    #[must_use]
    pub fn forward(&self, input: Tokens, other: &Tokens, sights: [Sight; 2]) -> Tokens {
        let [own, cross] = sights;
        let hidden = self.attend(input, own);
        let norm = &self.cross_norm;
        let hidden = self
            .cross
            .sub_layer(hidden, other, cross, norm, Norm::After);
        self.mlp.sub_layer(hidden, &self.mlp_norm, Norm::After)
    }

    /// As [`Self::forward`], of chosen tokens of the stream alone.
    #[must_use]
    pub(crate) fn forward_at(
        &self,
        input: &Tokens,
        other: &Tokens,
        chosen: &Chosen,
        sights: [Sight; 2],
    ) -> Tokens {
        let [own, cross] = sights;
        if cross.needs_place() && chosen.rows.len() < input.spans.tokens() {
            return self
                .forward(input.clone(), other, [own, cross])
                .choose(chosen);
        }
        let norm = &self.attention_norm;
        let hidden = self
            .attention
            .sub_layer_at(input, chosen, own, norm, Norm::After);
        let norm = &self.cross_norm;
        let hidden = self
            .cross
            .sub_layer(hidden, other, cross, norm, Norm::After);
        self.mlp.sub_layer(hidden, &self.mlp_norm, Norm::After)
    }

    /// How much each token of the stream looks at each of the other one in [`Self::forward`],
    /// padded: `[batch, heads, own, other]`.
    #[must_use]
    pub fn probabilities(&self, input: Tokens, other: &Tokens, sights: [Sight; 2]) -> Tensor<4> {
        let [own, cross] = sights;
        self.cross
            .probabilities(&self.attend(input, own), other, &cross)
    }

    fn attend(&self, input: Tokens, sight: Sight) -> Tokens {
        self.attention
            .sub_layer(input, sight, &self.attention_norm, Norm::After)
    }
}

/// Text and image look at each other through the same weights, then each goes through a block of its
/// own.
#[derive(Module, Debug)]
pub struct CrossedLayer {
    /// From text to image and from image to text.
    pub cross: CrossAttention,
    /// After either's residual.
    pub cross_norm: LayerNorm,
    /// Of the text.
    pub text: Block,
    /// Of the image.
    pub image: Block,
}

impl CrossedLayer {
    /// Fresh weights.
    #[must_use]
    pub(crate) fn new(init: &Init, block: &BlockConfig) -> Self {
        Self {
            cross: CrossAttention::new(init, block.width, block.heads, block.dropout),
            cross_norm: LayerNorm::new(init, block.width, block.eps),
            text: Block::new(init, block),
            image: Block::new(init, block),
        }
    }

    /// Both streams after one more layer; either looks at what the other one was before. `sights` are
    /// the text's, of itself and of the image, and the image's likewise.
    #[must_use]
    pub(crate) fn forward(&self, input: &Fused, sights: [[Sight; 2]; 2]) -> Fused {
        let [[text_own, to_image], [image_own, to_text]] = sights;
        let text = self.look(&input.text, &input.image, to_image);
        let image = self.look(&input.image, &input.text, to_text);
        Fused {
            text: self.text.forward(text, text_own),
            image: self.image.forward(image, image_own),
            frames: input.frames,
        }
    }

    /// As [`Self::forward`], of chosen tokens alone.
    fn forward_at(
        &self,
        input: &Fused,
        [text, image]: [&Chosen; 2],
        sights: [[Sight; 2]; 2],
    ) -> Fused {
        let [[text_own, to_image], [image_own, to_text]] = sights;
        // A stream of which nothing is read is not computed.
        let part = |block: &Block,
                    own: &Tokens,
                    other: &Tokens,
                    chosen: &Chosen,
                    [sight, across]: [Sight; 2]| {
            if chosen.rows.is_empty() {
                return own.choose(chosen);
            }
            block.forward_at(&self.look(own, other, across), chosen, sight)
        };
        let (words, seen) = (&input.text, &input.image);
        Fused {
            text: part(&self.text, words, seen, text, [text_own, to_image]),
            image: part(&self.image, seen, words, image, [image_own, to_text]),
            frames: input.frames,
        }
    }

    fn look(&self, stream: &Tokens, other: &Tokens, sight: Sight) -> Tokens {
        self.cross
            .sub_layer(stream.clone(), other, sight, &self.cross_norm, Norm::After)
    }
}

/// Both streams, before, between or after the fusion layers.
#[derive(Clone, Debug)]
pub struct Fused {
    /// Words.
    pub text: Tokens,
    /// Class tokens of all frames, then patches; or regions, which have no class token.
    pub image: Tokens,
    /// Class tokens in front of an image: frames of a clip, 1 for pictures, 0 for regions.
    pub frames: usize,
}

impl Fused {
    /// Global meaning of the text: its first token, `[batch, width]`.
    #[must_use]
    pub fn text_global(&self) -> Tensor<2> {
        self.text.first()
    }

    /// Global meaning of each frame: its class token, `[batch, frames, width]`; of regions, their mean.
    #[must_use]
    pub fn frame_globals(&self) -> Tensor<3> {
        match self.frames {
            0 => self.image_global().unsqueeze_dim(1),
            frames => self.image.leading(frames),
        }
    }

    /// Global meaning of the image: its class token, the mean over all frames of a clip or over all
    /// regions, `[batch, width]`.
    #[must_use]
    pub fn image_global(&self) -> Tensor<2> {
        summary(&self.image, self.frames)
    }
}

/// Mean over the class tokens of all frames, which come first in each sequence, `[batch, width]`; over
/// all tokens of an image without class tokens.
pub(crate) fn summary(images: &Tokens, frames: usize) -> Tensor<2> {
    match frames {
        0 => images.mean(),
        1 => images.first(),
        frames => images.leading(frames).mean_dim(1).squeeze_dim::<2>(1),
    }
}

/// The layers of one kind; those of the others are not there.
#[derive(Module, Debug)]
pub struct FusionEncoder {
    /// Layers of the text stream.
    pub text_layers: Vec<FusionLayer>,
    /// Layers of the image stream; weights are not shared with the text's.
    pub image_layers: Vec<FusionLayer>,
    /// Layers of the one stream of both.
    pub joint_layers: Vec<Block>,
    /// Layers that share the weights with which both streams look at each other.
    pub crossed_layers: Vec<CrossedLayer>,
    /// After the last layer of the one stream, where norms are before its sub-layers.
    pub norm: Option<LayerNorm>,
    /// Thresholds of learned selection, as logarithms of multiples of the mean, `[layers, heads]`.
    pub gates: Option<Param<Tensor<2>>>,
    #[module(skip)]
    selector: Selector,
}

impl FusionEncoder {
    /// Builds the encoder with fresh weights; `select` says what attention keeps.
    #[must_use]
    pub fn new(init: &Init, config: &FusionConfig, select: Option<&SelectConfig>) -> Self {
        let sizes = [config.layers, config.num_heads];
        let selector = Selector::new(select, sizes);
        let of = |kind| match config.kind == kind {
            true => config.layers,
            false => 0,
        };
        let stack = || {
            let layers = 0..of(FusionKind::TwoStreams);
            layers.map(|_| FusionLayer::new(init, config)).collect()
        };
        let block = BlockConfig::of_fusion(config);
        let crossed = |_| CrossedLayer::new(init, &block);
        let last_norm = || LayerNorm::new(init, config.hidden_size, config.layer_norm_eps);
        let gates = select.filter(|_| selector.learns()).map(|config| {
            let threshold = config.value.max(1e-6).ln() as f32;
            init.constant(sizes, threshold)
        });
        Self {
            text_layers: stack(),
            image_layers: stack(),
            joint_layers: Block::stack(init, of(FusionKind::OneStream), &block),
            crossed_layers: (0..of(FusionKind::Crossed)).map(crossed).collect(),
            norm: (config.norm == NormPlace::Before).then(last_norm),
            gates,
            selector,
        }
    }

    /// Replaces what attention keeps, from now on; learned gates stay.
    pub fn reselect(&mut self, select: Option<&SelectConfig>) {
        let layers = self.joint_layers.len() + self.text_layers.len() + self.crossed_layers.len();
        let heads = self.selector.heads();
        self.selector = Selector::new(select, [layers, heads]);
    }

    /// Runs the encoder on texts and images of the same batch.
    #[must_use]
    pub fn forward(&self, input: Fused) -> Fused {
        let all = |tokens: &Tokens| Chosen::whole(&tokens.spans, |_| true);
        let (text, image) = (all(&input.text), all(&input.image));
        self.forward_at(input, &text, &image)
    }

    /// Some tokens of both streams as [`Self::forward`] gives them, without computing what the last
    /// layers give for the others.
    #[must_use]
    pub fn forward_at(&self, input: Fused, text: &Chosen, image: &Chosen) -> Fused {
        let gates = self.gates();
        if !self.joint_layers.is_empty() {
            let joint = Joint::of(&input);
            let chosen = joint.chosen(text, image);
            let looks = joint.looks();
            let sights = self.sights(&looks, gates.as_ref());
            let hidden = block::run(&self.joint_layers, joint.tokens.clone(), &chosen, sights);
            let hidden = normalised(self.norm.as_ref(), hidden);
            return joint.apart(&hidden, text, image, input.frames);
        }
        if let Some((last, layers)) = self.crossed_layers.split_last() {
            let device = input.text.rows.device();
            let sights = self.pair_sights(layers.len(), gates.as_ref(), &device);
            let current = self.crossed(input, layers.len(), gates.as_ref());
            return last.forward_at(&current, [text, image], sights);
        }
        let Some((last, (last_text, last_image))) = self.layers().enumerate().last() else {
            return Fused {
                text: input.text.choose(text),
                image: input.image.choose(image),
                ..input
            };
        };
        let device = input.text.rows.device();
        let current = self.through(input, last, gates.as_ref());
        let [text_sights, image_sights] = self.pair_sights(last, gates.as_ref(), &device);
        Fused {
            text: last_text.forward_at(&current.text, &current.image, text, text_sights),
            image: last_image.forward_at(&current.image, &current.text, image, image_sights),
            frames: current.frames,
        }
    }

    /// As [`Self::forward`], returning what every layer gave, the last one last.
    #[must_use]
    pub fn forward_all(&self, input: Fused) -> Vec<Fused> {
        let gates = self.gates();
        if !self.joint_layers.is_empty() {
            let joint = Joint::of(&input);
            let all = |tokens: &Tokens| Chosen::whole(&tokens.spans, |_| true);
            let (text, image) = (all(&input.text), all(&input.image));
            let looks = joint.looks();
            let sights = self.sights(&looks, gates.as_ref());
            let hidden = block::run_all(&self.joint_layers, joint.tokens.clone(), sights);
            let last = hidden.len() - 1;
            let after = hidden.into_iter().enumerate().skip(1);
            let normed = after.map(|(layer, hidden)| match layer == last {
                true => normalised(self.norm.as_ref(), hidden),
                false => hidden,
            });
            return normed
                .map(|hidden| joint.apart(&hidden, &text, &image, input.frames))
                .collect();
        }
        let mut all = Vec::new();
        let mut current = input;
        for (layer, crossed) in self.crossed_layers.iter().enumerate() {
            let device = current.text.rows.device();
            let sights = self.pair_sights(layer, gates.as_ref(), &device);
            current = crossed.forward(&current, sights);
            all.push(current.clone());
        }
        for (layer, pair) in self.layers().enumerate() {
            current = self.update(current, pair, layer, gates.as_ref());
            all.push(current.clone());
        }
        all
    }

    /// How much each token of every text looks at each of its image in the last layer, padded:
    /// `[batch, heads, text tokens, image tokens]`; `None` without layers. In one stream, rows are what
    /// is left of their words' attention to the image: they sum to less than 1.
    #[must_use]
    pub fn cross_attention(&self, input: Fused) -> Option<Tensor<4>> {
        let gates = self.gates();
        let device = input.text.rows.device();
        if let Some((last, layers)) = self.joint_layers.split_last() {
            let joint = Joint::of(&input);
            let looks = joint.looks();
            let sights = self.sights(&looks, gates.as_ref());
            let hidden = block::run_all(layers, joint.tokens.clone(), sights);
            let sight = sights.of(layers.len(), &device);
            let all = last.attention.probabilities(hidden.last()?, &sight);
            return Some(joint.words_to_image(&all));
        }
        if let Some((last, layers)) = self.crossed_layers.split_last() {
            let current = self.crossed(input, layers.len(), gates.as_ref());
            let [[_, sight], _] = self.pair_sights(layers.len(), gates.as_ref(), &device);
            let Fused { text, image, .. } = current;
            return Some(last.cross.probabilities(&text, &image, &sight));
        }
        let (last, (last_text, _)) = self.layers().enumerate().last()?;
        let current = self.through(input, last, gates.as_ref());
        let [sights, _] = self.pair_sights(last, gates.as_ref(), &device);
        Some(last_text.probabilities(current.text, &current.image, sights))
    }

    fn layers(&self) -> impl Iterator<Item = (&FusionLayer, &FusionLayer)> {
        self.text_layers.iter().zip(&self.image_layers)
    }

    fn gates(&self) -> Option<Tensor<2>> {
        self.gates.as_ref().map(Param::val)
    }

    /// What the layers of the one stream see.
    fn sights<'a>(&'a self, looks: &'a Looks, gates: Option<&'a Tensor<2>>) -> Sights<'a> {
        Sights {
            scope: Scope::Whole,
            select: Some((&self.selector, looks, gates)),
        }
    }

    /// What a pair of layers sees: the text's of itself and of the image, the image's likewise.
    fn pair_sights(
        &self,
        layer: usize,
        gates: Option<&Tensor<2>>,
        device: &Device,
    ) -> [[Sight; 2]; 2] {
        let of = |looks| Sight {
            scope: Scope::Whole,
            select: self.selector.at(layer, &looks, gates, device),
        };
        [
            [of(Looks::Text), of(Looks::TextToImage)],
            [of(Looks::Image), of(Looks::ImageToText)],
        ]
    }

    /// Both streams after the first `count` pairs of layers.
    fn through(&self, input: Fused, count: usize, gates: Option<&Tensor<2>>) -> Fused {
        let layers = self.layers().enumerate().take(count);
        layers.fold(input, |current, (layer, pair)| {
            self.update(current, pair, layer, gates)
        })
    }

    /// Both streams after the first `count` crossed layers.
    fn crossed(&self, input: Fused, count: usize, gates: Option<&Tensor<2>>) -> Fused {
        let layers = self.crossed_layers.iter().enumerate().take(count);
        layers.fold(input, |current, (layer, crossed)| {
            let device = current.text.rows.device();
            crossed.forward(&current, self.pair_sights(layer, gates, &device))
        })
    }

    /// One (text, image) pair of layers, both reading the same `current`.
    fn update(
        &self,
        current: Fused,
        (text, image): (&FusionLayer, &FusionLayer),
        layer: usize,
        gates: Option<&Tensor<2>>,
    ) -> Fused {
        let device = current.text.rows.device();
        let [text_sights, image_sights] = self.pair_sights(layer, gates, &device);
        let new_text = text.forward(current.text.clone(), &current.image, text_sights);
        Fused {
            image: image.forward(current.image, &current.text, image_sights),
            text: new_text,
            frames: current.frames,
        }
    }
}

/// Words and image of every pair as one sequence, words first.
struct Joint {
    tokens: Tokens,
    /// Words of each sequence.
    words: Arc<[usize]>,
}

impl Joint {
    fn of(input: &Fused) -> Self {
        Self {
            tokens: input.text.followed_by(&input.image),
            words: input.text.spans.lengths().collect(),
        }
    }

    fn looks(&self) -> Looks {
        Looks::Joint(Arc::clone(&self.words))
    }

    /// Chosen tokens of both as tokens of the sequences, each sequence's in its order.
    fn chosen(&self, text: &Chosen, image: &Chosen) -> Chosen {
        let mut rows = Vec::with_capacity(text.rows.len() + image.rows.len());
        let (mut texts, mut images) = (text.rows.as_slice(), image.rows.as_slice());
        // Where the sequence, its words and its image begin.
        let [mut start, mut word, mut patch] = [0; 3];
        for (words, len) in self.words.iter().zip(self.tokens.spans.lengths()) {
            let mut take = |rows_of: &mut &[usize], first: &mut usize, count: usize, at: usize| {
                let end = *first + count;
                let here = rows_of.partition_point(|row| *row < end);
                let (own, rest) = rows_of.split_at(here);
                rows.extend(own.iter().map(|row| row - *first + at));
                (*rows_of, *first) = (rest, end);
            };
            take(&mut texts, &mut word, *words, start);
            take(&mut images, &mut patch, len - words, start + words);
            start += len;
        }
        Chosen::new(&self.tokens.spans, rows)
    }

    /// The chosen tokens of the sequences as those of both.
    fn apart(&self, hidden: &Tokens, text: &Chosen, image: &Chosen, frames: usize) -> Fused {
        let mut rows = [Vec::new(), Vec::new()];
        let mut start = 0;
        for (words, patches) in text.spans.lengths().zip(image.spans.lengths()) {
            rows[0].extend(start..start + words);
            rows[1].extend(start + words..start + words + patches);
            start += words + patches;
        }
        let part = |rows: &[usize], chosen: &Chosen| Tokens {
            rows: hidden.token_rows(rows),
            spans: chosen.spans.clone(),
        };
        Fused {
            text: part(&rows[0], text),
            image: part(&rows[1], image),
            frames,
        }
    }

    /// Of padded attention within the sequences that of words to the image, padded anew.
    fn words_to_image(&self, all: &Tensor<4>) -> Tensor<4> {
        let [batch, heads, longest, _] = all.dims();
        let images: Vec<usize> = (self.words.iter().zip(self.tokens.spans.lengths()))
            .map(|(words, len)| len - words)
            .collect();
        let most_words = self.words.iter().copied().max().unwrap_or(0);
        let most = images.iter().copied().max().unwrap_or(0);
        let device = all.device();
        let parts = (0..batch).map(|pair| {
            let (words, len) = (self.words[pair], images[pair]);
            let part = all
                .clone()
                .slice([pair..pair + 1, 0..heads, 0..words, words..words + len]);
            let whole = Tensor::zeros([1, heads, most_words, most], &device);
            whole.slice_assign([0..1, 0..heads, 0..words, 0..len], part)
        });
        debug_assert!(longest >= most_words);
        Tensor::cat(parts.collect(), 0)
    }
}
