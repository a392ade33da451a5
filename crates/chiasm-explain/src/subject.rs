//! A model as something to be explained, what it is given, and what of its result is explained.

use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Int, Tensor, TensorData};
use chiasm_nn::heads::ClassHead;
use chiasm_nn::layers::normalize;
use chiasm_nn::model::Seen;
use chiasm_nn::published::clip::Clip;
use chiasm_nn::published::encoder::Encoder;
use chiasm_nn::text::TextInput;
use chiasm_nn::vision::VisionEncoder;
use chiasm_nn::{Fused, Tokens, VisionLanguageModel, indices};

use crate::error::ExplainError;
use crate::layout::Layout;

/// A model, without gradients.
#[derive(Clone, Copy, Debug)]
pub enum Subject<'a> {
    /// One of our own: towers or regions, fusion, heads.
    Own(&'a VisionLanguageModel),
    /// Two towers with a common space.
    Clip(&'a Clip),
    /// An image tower alone.
    Image(&'a VisionEncoder),
}

/// One picture, clip or set of regions, and the text that goes with it.
#[derive(Clone, Debug)]
pub struct Input {
    /// What is seen; a batch of one.
    pub seen: Seen,
    /// What is read; a batch of one. None for an image tower alone.
    pub text: Option<TextInput>,
}

/// What of a model's result is explained.
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    /// How much more likely it is than not that picture and text belong together, as a logarithm; or the
    /// score of a ranking head.
    Match,
    /// The cosine of picture and text in their common space.
    Cosine,
    /// How alike the picture is to itself as it was: what an image tower alone can be asked.
    Itself,
    /// The logit of a class.
    Class(usize),
    /// The score of a region as what the text refers to; of the best one, unless it is named.
    Region(Option<usize>),
    /// The logarithm of the probability of hidden words: where their tokens stand, and which they were.
    Hidden {
        /// Numbers of the hidden tokens in the text.
        tokens: Vec<usize>,
        /// What stood there.
        ids: Vec<u32>,
    },
    /// How well features of hidden regions are guessed: minus the mean squared difference.
    HiddenRegions {
        /// Numbers of the hidden regions.
        regions: Vec<usize>,
        /// What their features were, one region after another.
        features: Vec<f32>,
    },
}

impl Target {
    /// Whether it is a result of fusion, and not of towers that do not know each other.
    pub(crate) fn is_fused(&self) -> bool {
        !matches!(self, Self::Cosine | Self::Itself)
    }

    /// As it is said to people.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Match => "match",
            Self::Cosine => "cosine",
            Self::Itself => "itself",
            Self::Class(_) => "class",
            Self::Region(_) => "region",
            Self::Hidden { .. } => "hidden word",
            Self::HiddenRegions { .. } => "hidden region",
        }
    }
}

/// What a pass gives.
pub(crate) struct Outputs {
    pub(crate) text: Option<Tokens>,
    /// Class tokens first.
    pub(crate) image: Tokens,
    pub(crate) fused: Option<Fused>,
    /// Class tokens in front of each image.
    pub(crate) class_tokens: usize,
}

/// Which tokens a target is computed from.
pub(crate) struct Readers {
    pub(crate) text: Vec<usize>,
    pub(crate) image: Vec<usize>,
}

pub(crate) const NO_TEXT: ExplainError = ExplainError::Lacks(
    "a text is needed to explain this model",
    "write the text after the picture",
);

const BLIND: ExplainError =
    ExplainError::Lacks("the model sees nothing of this kind", "give it a picture");

impl<'a> Subject<'a> {
    /// A published encoder.
    ///
    /// # Errors
    /// A model of texts, or a convolutional network, which has no attention to be watched.
    pub fn published(encoder: &'a Encoder) -> Result<Self, ExplainError> {
        match encoder {
            Encoder::Both(clip) => Ok(Self::Clip(clip)),
            Encoder::Image(vit) => Ok(Self::Image(&vit.encoder)),
            _ => Err(ExplainError::Lacks(
                "the model has no attention to pictures",
                "give a run, CLIP, ViT or DINOv2",
            )),
        }
    }

    /// What the model says unless something else is asked.
    #[must_use]
    pub fn usual_target(&self) -> Target {
        match self {
            Self::Own(model) if model.ground_head.is_some() => Target::Region(None),
            Self::Own(model) if model.match_head.is_some() || model.rank_head.is_some() => {
                Target::Match
            }
            Self::Own(_) | Self::Clip(_) => Target::Cosine,
            Self::Image(_) => Target::Itself,
        }
    }

    /// Whether words and picture meet before the target.
    pub(crate) fn fuses(&self, target: &Target) -> bool {
        matches!(self, Self::Own(_)) && target.is_fused()
    }

    /// Whether both are one sequence.
    pub(crate) fn is_one_stream(&self) -> bool {
        matches!(self, Self::Own(model) if !model.fusion.joint_layers.is_empty())
    }

    /// Whether both look at each other through shared weights.
    pub(crate) fn crosses(&self) -> bool {
        matches!(self, Self::Own(model) if !model.fusion.crossed_layers.is_empty())
    }

    /// The image tower, where there is one.
    pub(crate) fn vision(&self) -> Option<&'a VisionEncoder> {
        match self {
            Self::Own(model) => model.vision.as_ref(),
            Self::Clip(clip) => Some(&clip.vision),
            Self::Image(vision) => Some(vision),
        }
    }

    pub(crate) fn layout(&self, input: &Input) -> Result<Layout, ExplainError> {
        let words = input.text.as_ref().map_or(0, |text| text.spans.tokens());
        match (&input.seen, self.vision()) {
            (Seen::Regions(regions), None) => {
                Ok(Layout::of_regions(regions.features.spans.tokens(), words))
            }
            (Seen::Pixels(pixels), Some(vision)) => {
                Ok(Layout::of_patches(vision, pixels.dims()[1], words))
            }
            (Seen::Pixels(_), None) => Err(ExplainError::Lacks(
                "the model sees regions, not pixels",
                "name the picture's regions with `--regions`",
            )),
            (Seen::Regions(_), Some(_)) => Err(ExplainError::Lacks(
                "the model sees pixels, not regions",
                "leave `--regions` out",
            )),
        }
    }

    /// Which tokens the target is read from.
    pub(crate) fn readers(
        &self,
        target: &Target,
        layout: &Layout,
        text: Option<&TextInput>,
        region: Option<usize>,
    ) -> Readers {
        let summary = match layout.class_tokens() {
            0 => (0..layout.image_tokens()).collect(),
            classes => (0..classes).collect(),
        };
        let first = match (self, text) {
            (_, None) => Vec::new(),
            (Self::Clip(clip), Some(text)) => clip.text.summaries(text),
            _ => vec![0],
        };
        match target {
            Target::Itself => Readers {
                text: Vec::new(),
                image: summary,
            },
            Target::Hidden { tokens, .. } => Readers {
                text: tokens.clone(),
                image: Vec::new(),
            },
            Target::Region(_) => Readers {
                text: Vec::new(),
                image: region.into_iter().collect(),
            },
            Target::HiddenRegions { regions, .. } => Readers {
                text: Vec::new(),
                image: regions.clone(),
            },
            // The one stream's classifier reads its first token alone.
            Target::Match | Target::Class(_) if self.is_one_stream() => Readers {
                text: first,
                image: Vec::new(),
            },
            Target::Match | Target::Class(_) | Target::Cosine => Readers {
                text: first,
                image: summary,
            },
        }
    }

    /// Tokens of a text after its tower.
    pub(crate) fn read(&self, text: Option<&TextInput>) -> Option<Tokens> {
        let text = text?;
        match self {
            Self::Own(model) => Some(model.encode_text(text)),
            Self::Clip(clip) => Some(clip.text.forward(text)),
            Self::Image(_) => None,
        }
    }

    /// Tokens of images after their tower.
    pub(crate) fn look(&self, seen: &Seen) -> Result<Tokens, ExplainError> {
        let vision = match self {
            Self::Own(model) => return model.encode_seen(seen).ok_or(BLIND),
            Self::Clip(clip) => &clip.vision,
            Self::Image(vision) => *vision,
        };
        let Seen::Pixels(pixels) = seen else {
            return Err(BLIND);
        };
        let [batch, frames, channels, height, width] = pixels.dims();
        if frames != 1 {
            return Err(ExplainError::Lacks(
                "the model takes no clips",
                "give a picture",
            ));
        }
        let pixels = pixels.clone().reshape([batch, channels, height, width]);
        Ok(vision.encode(&vision.embed_patches(pixels)))
    }

    /// Both fused.
    pub(crate) fn fuse(
        &self,
        text: Option<&Tokens>,
        image: &Tokens,
        classes: usize,
    ) -> Option<Fused> {
        match self {
            Self::Own(model) => Some(model.fuse(text?, image, classes)),
            Self::Clip(_) | Self::Image(_) => None,
        }
    }

    /// The target of every pair of the batch, `[batch]`. `original` is the picture as it was, where the
    /// target is about that, and `region` the region in question.
    pub(crate) fn score(
        &self,
        outputs: &Outputs,
        target: &Target,
        text: Option<&TextInput>,
        original: Option<&Tensor<2>>,
        region: Option<usize>,
    ) -> Result<Tensor<1>, ExplainError> {
        let cosine = |a: Tensor<2>, b: Tensor<2>| {
            let product = (normalize(a) * normalize(b)).sum_dim(1);
            let [batch, _] = product.dims();
            product.reshape([batch])
        };
        let no_space = ExplainError::Lacks(
            "the model has no space that texts and pictures share",
            "explain another target",
        );
        match (self, target) {
            (Self::Own(_) | Self::Clip(_), Target::Cosine) => {
                let (text, image) = self
                    .text_embeds(outputs, text)
                    .zip(self.image_embeds(outputs))
                    .ok_or(no_space)?;
                Ok(cosine(text, image))
            }
            (_, Target::Itself) => {
                let (now, before) = self
                    .image_embeds(outputs)
                    .zip(original.cloned())
                    .ok_or(no_space)?;
                let [batch, width] = now.dims();
                Ok(cosine(now, before.expand([batch, width])))
            }
            (Self::Own(model), _) => fused_score(model, outputs, target, region),
            _ => Err(ExplainError::Lacks(
                "the model has no head for this target",
                "explain `cosine`",
            )),
        }
    }

    fn text_embeds(&self, outputs: &Outputs, text: Option<&TextInput>) -> Option<Tensor<2>> {
        let tokens = outputs.text.as_ref()?;
        match self {
            Self::Own(model) => model.project_text(tokens),
            Self::Clip(clip) => {
                let summary = *clip.text.summaries(text?).first()?;
                let rows: Vec<usize> = tokens
                    .spans
                    .iter()
                    .map(|span| span.start + summary)
                    .collect();
                Some(clip.text_projection.forward(tokens.token_rows(&rows)))
            }
            Self::Image(_) => None,
        }
    }

    /// The class that the model takes a pair for.
    pub(crate) fn best_class(&self, input: &Input) -> Result<usize, ExplainError> {
        let Self::Own(model) = self else {
            return Err(NO_CLASSES);
        };
        let head = model.class_head.as_ref().ok_or(NO_CLASSES)?;
        let image = self.look(&input.seen)?;
        let text = self.read(input.text.as_ref()).ok_or(NO_TEXT)?;
        let fused = model.fuse(&text, &image, input.seen.class_tokens());
        let pooled = model.pooled(&fused);
        fits(head, &pooled)?;
        let logits = host(head.forward(pooled))?;
        // Of equal ones the first.
        let best = logits
            .iter()
            .enumerate()
            .rev()
            .max_by(|a, b| a.1.total_cmp(b.1));
        Ok(best.map_or(0, |(class, _)| class))
    }

    /// Pictures in the space of their tower, `[batch, width]`.
    pub(crate) fn image_embeds(&self, outputs: &Outputs) -> Option<Tensor<2>> {
        let image = &outputs.image;
        match self {
            Self::Own(model) => model.project_image(image, outputs.class_tokens),
            Self::Clip(clip) => Some(clip.image_projection.forward(image.first())),
            Self::Image(_) => Some(image.first()),
        }
    }
}

const NO_CLASSES: ExplainError = ExplainError::Lacks(
    "the model was not trained for classes",
    "explain `match` or `cosine`",
);

/// Refuses a classifier of several pictures.
fn fits(head: &ClassHead, pooled: &Tensor<2>) -> Result<(), ExplainError> {
    if head.dense.weight.dims()[0] == pooled.dims()[1] {
        return Ok(());
    }
    Err(ExplainError::Lacks(
        "the model classifies a text with several pictures",
        "models of one picture a text can be explained",
    ))
}

/// Targets of fused pairs.
fn fused_score(
    model: &VisionLanguageModel,
    outputs: &Outputs,
    target: &Target,
    region: Option<usize>,
) -> Result<Tensor<1>, ExplainError> {
    let lacks = |what, hint| ExplainError::Lacks(what, hint);
    let fused = outputs
        .fused
        .as_ref()
        .ok_or(lacks("the model does not fuse", "explain `cosine`"))?;
    let column = |table: Tensor<2>, column: usize| {
        let [batch, _] = table.dims();
        table.narrow(1, column, 1).reshape([batch])
    };
    match target {
        Target::Match => {
            let pooled = model.pooled(fused);
            match (&model.rank_head, &model.match_head) {
                (Some(head), _) => Ok(column(head.forward(pooled), 0)),
                (None, Some(head)) => {
                    let logits = head.forward(pooled);
                    Ok(column(logits.clone(), 1) - column(logits, 0))
                }
                (None, None) => Err(lacks(
                    "the model was not trained to say whether pairs match",
                    "explain `cosine`, `class` or `region`",
                )),
            }
        }
        Target::Class(class) => {
            let head = model.class_head.as_ref().ok_or(NO_CLASSES)?;
            let pooled = model.pooled(fused);
            fits(head, &pooled)?;
            let logits = head.forward(pooled);
            let count = logits.dims()[1];
            if *class >= count {
                let (what, number) = ("class", *class);
                return Err(ExplainError::Range {
                    what,
                    number,
                    count,
                });
            }
            Ok(column(logits, *class))
        }
        Target::Region(_) => {
            let ranks = ranks(model, fused)?;
            let region = region.unwrap_or(0);
            let spans = &fused.image.spans;
            let count = spans.longest();
            if region >= count {
                let (what, number) = ("region", region);
                return Err(ExplainError::Range {
                    what,
                    number,
                    count,
                });
            }
            let device = ranks.device();
            let rows = spans.iter().map(|span| span.start + region).collect();
            Ok(ranks.select(0, numbers(rows, &device)))
        }
        Target::Hidden { tokens, ids } => {
            let head = model.mlm_head.as_ref().ok_or(lacks(
                "the model was not trained to guess hidden words",
                "explain `match` or `cosine`",
            ))?;
            let spans = &fused.text.spans;
            let starts: Vec<usize> = spans.iter().map(|span| span.start).collect();
            let at = |token: &usize| starts.iter().map(|start| start + token).collect::<Vec<_>>();
            let rows: Vec<usize> = tokens.iter().flat_map(at).collect();
            let logits = head.forward(fused.text.token_rows(&rows), &model.text.words);
            let device = logits.device();
            let labels = ids
                .iter()
                .flat_map(|id| std::iter::repeat_n(*id as usize, spans.batch()));
            let labels = numbers(labels.collect(), &device).unsqueeze_dim::<2>(1);
            let chosen = log_softmax(logits, 1).gather(1, labels);
            let shape = [tokens.len(), spans.batch()];
            Ok(chosen.reshape(shape).sum_dim(0).reshape([spans.batch()]))
        }
        Target::HiddenRegions { regions, features } => {
            let head = model.region_head.as_ref().ok_or(lacks(
                "the model was not trained to guess hidden regions",
                "give a run with the objective `knowledge`",
            ))?;
            let spans = &fused.image.spans;
            let of = |start: usize| regions.iter().map(move |region| start + region);
            let rows: Vec<usize> = spans.iter().flat_map(|span| of(span.start)).collect();
            let guess = head.forward(fused.image.token_rows(&rows)).features;
            let [_, width] = guess.dims();
            let batch = spans.batch();
            let device = guess.device();
            let right = TensorData::new(features.clone(), [1, regions.len() * width]);
            let right = Tensor::<2>::from_data(right, &device);
            let off = guess.reshape([batch, regions.len() * width]) - right;
            Ok((off.clone() * off).mean_dim(1).reshape([batch]).neg())
        }
        Target::Cosine | Target::Itself => Err(lacks("not a target of fusion", "explain `match`")),
    }
}

/// The score of every region as what the text refers to, `[regions]`.
pub(crate) fn ranks(model: &VisionLanguageModel, fused: &Fused) -> Result<Tensor<1>, ExplainError> {
    let head = model.ground_head.as_ref().ok_or(ExplainError::Lacks(
        "the model was not trained to find what a text refers to",
        "explain `match` or `cosine`",
    ))?;
    Ok(head.forward(fused.image.rows.clone()).0)
}

/// Row numbers as the tensor that `select` takes.
pub(crate) fn numbers(values: Vec<usize>, device: &Device) -> Tensor<1, Int> {
    indices(
        values.into_iter().map(|value| value as i64).collect(),
        device,
    )
}

/// Values on the host.
pub(crate) fn host<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f32>, ExplainError> {
    tensor
        .without_autodiff()
        .try_into_vec_as::<f32>()
        .map_err(|error| ExplainError::Device(error.to_string()))
}
