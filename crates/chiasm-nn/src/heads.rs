//! Heads on top of the towers and the fusion encoder (`specs/scl.md` section 1.7).

use burn::module::{Module, Param};
use burn::tensor::activation::{gelu, tanh};
use burn::tensor::{Tensor, TensorData};
use chiasm_data::rng;

use crate::compute::linear;
use crate::config::{ModelConfig, ProjectionKind};
use crate::criterion::mapped_cross_entropy;
use crate::layers::{Embedding, Init, LayerNorm, Linear};
use crate::weights::replace_value;

/// LayerNorm epsilon of heads that the reference builds with PyTorch's default.
const HEAD_NORM_EPS: f64 = 1e-5;

/// Linear map and tanh on the first token of a stream.
#[derive(Module, Debug)]
pub struct Pooler {
    /// `[width, width]`.
    pub dense: Linear,
}

impl Pooler {
    /// Fresh weights.
    #[must_use]
    pub fn new(init: &Init, width: usize) -> Self {
        Self {
            dense: Linear::new(init, width, width),
        }
    }

    /// # Shapes
    /// - first: `[batch, width]`
    /// - output: `[batch, width]`
    #[must_use]
    pub fn forward(&self, first: Tensor<2>) -> Tensor<2> {
        tanh(self.dense.forward(first))
    }
}

/// Projection of a tower's summary into the contrastive space: linear, LayerNorm, GELU, linear; or
/// the last map alone, without bias.
#[derive(Module, Debug)]
pub struct Projection {
    /// `[width, width]`; none where the last map is alone.
    pub dense: Option<Linear>,
    /// After the first map.
    pub norm: Option<LayerNorm>,
    /// `[width, projection]`.
    pub out: Linear,
}

impl Projection {
    /// Fresh weights.
    #[must_use]
    pub fn new(init: &Init, kind: ProjectionKind, width: usize, projection: usize) -> Self {
        match kind {
            ProjectionKind::Mlp => Self {
                dense: Some(Linear::new(init, width, width)),
                norm: Some(LayerNorm::new(init, width, HEAD_NORM_EPS)),
                out: Linear::new(init, width, projection),
            },
            ProjectionKind::Linear => Self {
                dense: None,
                norm: None,
                out: Linear::without_bias(init, width, projection),
            },
        }
    }

    /// Not normalised: the loss does that.
    ///
    /// # Shapes
    /// - input: `[batch, width]`
    /// - output: `[batch, projection]`
    #[must_use]
    pub fn forward(&self, input: Tensor<2>) -> Tensor<2> {
        match (&self.dense, &self.norm) {
            (Some(dense), Some(norm)) => {
                let hidden = norm.forward(dense.forward(input));
                self.out.forward(gelu(hidden))
            }
            _ => self.out.forward(input),
        }
    }
}

/// Groups of pairs that were found without labels: one linear map of the pair's summary
/// (`specs/itr.md` section 1.2).
#[derive(Module, Debug)]
pub struct ClusterHead {
    /// `[pooled, clusters]`.
    pub out: Linear,
}

impl ClusterHead {
    /// Fresh weights.
    #[must_use]
    pub fn new(init: &Init, pooled: usize, clusters: usize) -> Self {
        Self {
            out: Linear::new(init, pooled, clusters),
        }
    }

    /// The same with weights and bias drawn anew, uniform within one over the root of the width:
    /// PyTorch's default, with which every chunk of ITR's pre-training begins. The draw is a function of
    /// (seed, number).
    #[must_use]
    pub fn redrawn(mut self, seed: u64, number: u64) -> Self {
        let [width, clusters] = self.out.weight.dims();
        let bound = 1.0 / (width.max(1) as f64).sqrt();
        let device = self.out.weight.val().device().without_autodiff();
        let mut stream = rng::stream(seed, "cluster head", &[number]);
        let mut draw = |count: usize| -> Vec<f32> {
            (0..count)
                .map(|_| rng::uniform(&mut stream, -bound, bound) as f32)
                .collect()
        };
        let weight = TensorData::new(draw(width * clusters), [width, clusters]);
        let bias = TensorData::new(draw(clusters), [clusters]);
        self.out.weight = replace_value(self.out.weight, Tensor::from_data(weight, &device));
        let bias = |own| replace_value(own, Tensor::from_data(bias, &device));
        self.out.bias = self.out.bias.map(bias);
        self
    }
}

/// Image–text matching head (ITM): does this text belong to this image?
#[derive(Module, Debug)]
pub struct MatchHead {
    /// `[pooled, 2]`; column 1 means "matches".
    pub classifier: Linear,
}

impl MatchHead {
    /// Fresh weights for summaries of this width.
    #[must_use]
    pub fn new(init: &Init, pooled: usize) -> Self {
        Self {
            classifier: Linear::new(init, pooled, 2),
        }
    }

    /// # Shapes
    /// - pooled: summaries of the pairs, `[batch, pooled]`
    /// - output: logits `[batch, 2]`; column 1 means "matches"
    #[must_use]
    pub fn forward(&self, pooled: Tensor<2>) -> Tensor<2> {
        self.classifier.forward(pooled)
    }
}

/// Classifier of fused pairs (VQA, NLVR2, SNLI-VE): linear, LayerNorm, GELU, linear; in one stream GELU
/// comes before LayerNorm.
#[derive(Module, Debug)]
pub struct ClassHead {
    /// `[pictures pooled, 2 width]`.
    pub dense: Linear,
    /// After the first map.
    pub norm: LayerNorm,
    /// `[2 width, classes]`.
    pub out: Linear,
    #[module(skip)]
    norm_last: bool,
}

impl ClassHead {
    /// Fresh weights; a text is fused with each of the pictures.
    #[must_use]
    pub fn new(init: &Init, config: &ModelConfig) -> Self {
        let inner = 2 * config.fusion.hidden_size;
        let norm_last = config.is_one_stream();
        let eps = if norm_last {
            config.fusion.layer_norm_eps
        } else {
            HEAD_NORM_EPS
        };
        let pooled = config.heads.pictures() * config.pooled_size();
        Self {
            dense: Linear::new(init, pooled, inner),
            norm: LayerNorm::new(init, inner, eps),
            out: Linear::new(init, inner, config.heads.classes),
            norm_last,
        }
    }

    /// # Shapes
    /// - pooled: summaries of the pair with each picture side by side, `[batch, pictures pooled]`
    /// - output: logits `[batch, classes]`
    #[must_use]
    pub fn forward(&self, pooled: Tensor<2>) -> Tensor<2> {
        self.out.forward(self.hidden(pooled))
    }

    /// Mean cross-entropy of the right classes, `[1]`.
    ///
    /// # Shapes
    /// - pooled: as in [`Self::forward`], labels: `[batch]`
    #[must_use]
    pub fn loss(&self, pooled: Tensor<2>, labels: &[u32]) -> Tensor<1> {
        self.out.cross_entropy(self.hidden(pooled), labels)
    }

    fn hidden(&self, pooled: Tensor<2>) -> Tensor<2> {
        let hidden = self.dense.forward(pooled);
        if self.norm_last {
            self.norm.forward(gelu(hidden))
        } else {
            gelu(self.norm.forward(hidden))
        }
    }
}

/// Masked language modelling head (MLM): which word was here? Its last map is its own or, tied, the
/// table of words.
#[derive(Module, Debug)]
pub struct MlmHead {
    /// `[width, width]`.
    pub dense: Linear,
    /// After the first map and GELU.
    pub norm: LayerNorm,
    /// `[width, vocab]`; none where it is the table of words.
    pub decoder: Option<Linear>,
    /// Of the words, `[vocab]`, where the last map is their table.
    pub bias: Option<Param<Tensor<1>>>,
}

impl MlmHead {
    /// Fresh weights.
    #[must_use]
    pub fn new(init: &Init, width: usize, vocab_size: usize, eps: f64, tied: bool) -> Self {
        Self {
            dense: Linear::new(init, width, width),
            norm: LayerNorm::new(init, width, eps),
            decoder: (!tied).then(|| Linear::new(init, width, vocab_size)),
            bias: tied.then(|| init.constant([vocab_size], 0.0)),
        }
    }

    /// # Shapes
    /// - tokens: `[selected, width]`; give it only the positions whose word is asked for
    /// - words: the table of words, `[vocab, width]`
    /// - output: logits `[selected, vocab]`
    #[must_use]
    pub fn forward(&self, tokens: Tensor<2>, words: &Embedding) -> Tensor<2> {
        let hidden = self.hidden(tokens);
        let (weight, bias) = self.last(words);
        linear(hidden, weight, Some(bias))
    }

    /// Mean cross-entropy of the original words, `[1]`, without the logits of the whole batch in
    /// memory; 0 when nothing is selected.
    ///
    /// # Shapes
    /// - tokens: `[selected, width]`, labels: their words; words: the table of words, `[vocab, width]`
    #[must_use]
    pub fn loss(&self, tokens: Tensor<2>, labels: &[u32], words: &Embedding) -> Tensor<1> {
        if labels.is_empty() {
            return Tensor::zeros([1], &tokens.device());
        }
        mapped_cross_entropy(self.hidden(tokens), self.last(words), labels)
    }

    /// Weight and bias of the last map.
    fn last(&self, words: &Embedding) -> (Tensor<2>, Tensor<1>) {
        if let Some(decoder) = &self.decoder {
            return decoder.values();
        }
        let weight = words.weight.val().transpose();
        let bias = match &self.bias {
            Some(bias) => bias.val(),
            None => Tensor::zeros([weight.dims()[1]], &weight.device()),
        };
        (weight, bias)
    }

    fn hidden(&self, tokens: Tensor<2>) -> Tensor<2> {
        self.norm.forward(gelu(self.dense.forward(tokens)))
    }
}
