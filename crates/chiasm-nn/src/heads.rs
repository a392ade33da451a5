//! Heads on top of the towers and the fusion encoder (`specs/scl.md` section 1.7).

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::activation::{gelu, tanh};

use crate::layers::{Init, LayerNorm, Linear};

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

/// Projection of a tower's summary into the contrastive space: linear, LayerNorm, GELU, linear.
#[derive(Module, Debug)]
pub struct Projection {
    /// `[width, width]`.
    pub dense: Linear,
    /// After the first map.
    pub norm: LayerNorm,
    /// `[width, projection]`.
    pub out: Linear,
}

impl Projection {
    /// Fresh weights.
    #[must_use]
    pub fn new(init: &Init, width: usize, projection: usize) -> Self {
        Self {
            dense: Linear::new(init, width, width),
            norm: LayerNorm::new(init, width, HEAD_NORM_EPS),
            out: Linear::new(init, width, projection),
        }
    }

    /// Not normalised: the loss does that.
    ///
    /// # Shapes
    /// - input: `[batch, width]`
    /// - output: `[batch, projection]`
    #[must_use]
    pub fn forward(&self, input: Tensor<2>) -> Tensor<2> {
        let hidden = self.norm.forward(self.dense.forward(input));
        self.out.forward(gelu(hidden))
    }
}

/// Image–text matching head (ITM): does this text belong to this image?
#[derive(Module, Debug)]
pub struct MatchHead {
    /// `[2 width, 2]`; column 1 means "matches".
    pub classifier: Linear,
}

impl MatchHead {
    /// Fresh weights.
    #[must_use]
    pub fn new(init: &Init, width: usize) -> Self {
        Self {
            classifier: Linear::new(init, 2 * width, 2),
        }
    }

    /// # Shapes
    /// - pooled: text and image summaries side by side, `[batch, 2 width]`
    /// - output: logits `[batch, 2]`; column 1 means "matches"
    #[must_use]
    pub fn forward(&self, pooled: Tensor<2>) -> Tensor<2> {
        self.classifier.forward(pooled)
    }
}

/// Classifier of fused pairs (VQA, NLVR2, SNLI-VE): linear, LayerNorm, GELU, linear.
#[derive(Module, Debug)]
pub struct ClassHead {
    /// `[pictures 2 width, 2 width]`.
    pub dense: Linear,
    /// After the first map.
    pub norm: LayerNorm,
    /// `[2 width, classes]`.
    pub out: Linear,
}

impl ClassHead {
    /// Fresh weights; a text is fused with each of `pictures`.
    #[must_use]
    pub fn new(init: &Init, width: usize, pictures: usize, classes: usize) -> Self {
        Self {
            dense: Linear::new(init, pictures * 2 * width, 2 * width),
            norm: LayerNorm::new(init, 2 * width, HEAD_NORM_EPS),
            out: Linear::new(init, 2 * width, classes),
        }
    }

    /// # Shapes
    /// - pooled: summaries of the pair with each picture side by side, `[batch, pictures 2 width]`
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
        gelu(self.norm.forward(self.dense.forward(pooled)))
    }
}

/// Masked language modelling head (MLM): which word was here? Not tied to the input embedding.
#[derive(Module, Debug)]
pub struct MlmHead {
    /// `[width, width]`.
    pub dense: Linear,
    /// After the first map and GELU.
    pub norm: LayerNorm,
    /// `[width, vocab]`.
    pub decoder: Linear,
}

impl MlmHead {
    /// Fresh weights.
    #[must_use]
    pub fn new(init: &Init, width: usize, vocab_size: usize, eps: f64) -> Self {
        Self {
            dense: Linear::new(init, width, width),
            norm: LayerNorm::new(init, width, eps),
            decoder: Linear::new(init, width, vocab_size),
        }
    }

    /// # Shapes
    /// - tokens: `[selected, width]`; give it only the positions whose word is asked for
    /// - output: logits `[selected, vocab]`
    #[must_use]
    pub fn forward(&self, tokens: Tensor<2>) -> Tensor<2> {
        self.decoder.forward(self.hidden(tokens))
    }

    /// Mean cross-entropy of the original words, `[1]`, without the logits of the whole batch in
    /// memory; 0 when nothing is selected.
    ///
    /// # Shapes
    /// - tokens: `[selected, width]`, labels: their words
    #[must_use]
    pub fn loss(&self, tokens: Tensor<2>, labels: &[u32]) -> Tensor<1> {
        if labels.is_empty() {
            return Tensor::zeros([1], &tokens.device());
        }
        self.decoder.cross_entropy(self.hidden(tokens), labels)
    }

    fn hidden(&self, tokens: Tensor<2>) -> Tensor<2> {
        self.norm.forward(gelu(self.dense.forward(tokens)))
    }
}
