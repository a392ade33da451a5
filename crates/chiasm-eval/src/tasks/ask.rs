//! What a model says of a picture that is at hand, outside any data set.

use burn::tensor::Tensor;
use chiasm_data::Rgb;
use chiasm_nn::model::Seen;
use chiasm_nn::{Tokens, VisionLanguageModel};

use super::classes::probabilities;
use super::embedder::{Embedder, TaskError, Towers, host};

/// How alike what is seen and a text are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Alike {
    /// Cosine of their vectors; none of a model without a common space.
    pub cosine: Option<f32>,
    /// Logarithm of the odds that they belong together, or what a ranking head says; none of a model that
    /// learned neither.
    pub fused: Option<f32>,
}

impl Alike {
    /// Probability that they belong together, where the model learned to say so.
    #[must_use]
    pub fn probability(&self) -> Option<f32> {
        self.fused.map(|odds| 1.0 / (1.0 + (-odds).exp()))
    }
}

/// A picture of nothing, to try models on.
const BLANK: usize = 8;

impl Embedder<'_> {
    /// Numbers of a text's vector.
    ///
    /// # Errors
    /// A model that embeds no texts.
    pub fn text_width(&self) -> Result<usize, TaskError> {
        let texts = self.texts(&["a"], false, &mut |_| {})?;
        Ok(texts.embeds.dims()[1])
    }

    /// Numbers of a picture's vector.
    ///
    /// # Errors
    /// A model that embeds no pictures.
    pub fn image_width(&self) -> Result<usize, TaskError> {
        let (embeds, _) = self.embed_seen(&self.blank()?, false)?;
        Ok(embeds.dims()[1])
    }

    /// A picture of nothing, as a model of pictures sees it.
    ///
    /// # Errors
    /// A model that sees no pixels.
    fn blank(&self) -> Result<Seen, TaskError> {
        self.stills(&[&Rgb::grey(BLANK, BLANK)])
    }

    /// How alike one picture is to each of some texts.
    ///
    /// # Errors
    /// A model that reads no texts or sees no pictures.
    pub fn compare(&self, seen: &Seen, texts: &[&str]) -> Result<Vec<Alike>, TaskError> {
        let fuses = match self.towers {
            Towers::Own(model) => model.rank_head.is_some() || model.match_head.is_some(),
            Towers::Published(..) => false,
        };
        let (cosines, image, words) = match self.towers {
            Towers::Own(model) if model.image_projection.is_none() => {
                let image = model
                    .encode_seen(seen)
                    .ok_or(TaskError::Lacks("pictures"))?;
                (
                    None,
                    Some(image),
                    Some(model.encode_text(&self.input(texts)?)),
                )
            }
            _ => {
                let (image, tokens) = self.embed_seen(seen, fuses)?;
                let words = self.texts(texts, fuses, &mut |_| {})?;
                let cosines = host(words.embeds.matmul(image.transpose()))?;
                (Some(cosines), tokens, words.tokens)
            }
        };
        let fused = match (self.towers, image, words) {
            (Towers::Own(model), Some(image), Some(words)) if fuses => {
                Some(fused_scores(model, &image, &words, seen.class_tokens())?)
            }
            _ => None,
        };
        let of = |values: &Option<Vec<f32>>, text: usize| values.as_ref()?.get(text).copied();
        Ok((0..texts.len())
            .map(|text| Alike {
                cosine: of(&cosines, text),
                fused: of(&fused, text),
            })
            .collect())
    }

    /// Probability of every class of a picture with a text.
    ///
    /// # Errors
    /// A model without a classifier of one picture.
    pub fn classify(
        &self,
        seen: &Seen,
        text: &str,
        independent: bool,
    ) -> Result<Vec<f32>, TaskError> {
        let lacks = TaskError::Lacks("classes of single pictures");
        let Towers::Own(model) = self.towers else {
            return Err(lacks);
        };
        let head = model.class_head.as_ref().ok_or(lacks)?;
        let pooled = model.pair_vector(&self.input(&[text])?, seen);
        let pooled = pooled.ok_or(TaskError::Lacks("pictures"))?;
        host(probabilities(head.forward(pooled), independent))
    }
}

/// What the heads over fused pairs say of one image with each text.
fn fused_scores(
    model: &VisionLanguageModel,
    image: &Tokens,
    texts: &Tokens,
    class_tokens: usize,
) -> Result<Vec<f32>, TaskError> {
    let rows = vec![0; texts.spans.lengths().count()];
    let images = image.select(&rows);
    let typed = model.typed(texts, &images, class_tokens, 0);
    pair_scores(model, model.pooled(&model.fuse_globals(typed)))
}

/// What a model's ranking head, or else its matching head, says of pooled pairs.
pub(super) fn pair_scores(
    model: &VisionLanguageModel,
    pooled: Tensor<2>,
) -> Result<Vec<f32>, TaskError> {
    match (&model.rank_head, &model.match_head) {
        (Some(head), _) => host(head.forward(pooled)),
        (None, Some(head)) => {
            let logits = host(head.forward(pooled))?;
            Ok(logits
                .chunks_exact(2)
                .map(|pair| pair[1] - pair[0])
                .collect())
        }
        (None, None) => Err(TaskError::Lacks("whether pairs match")),
    }
}
