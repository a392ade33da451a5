//! A forward pass of one pair, watched, and its attention as square matrices.

use burn::tensor::{Gradients, Tensor};
use chiasm_nn::watch::{Record, Watched, record};

use crate::error::ExplainError;
use crate::layout::Layout;
use crate::subject::{Input, Outputs, Readers, Subject, Target, host, ranks};

/// A pass with all that its attention did.
pub(crate) struct Pass {
    pub(crate) text: Vec<Record>,
    pub(crate) image: Vec<Record>,
    pub(crate) fusion: Vec<Record>,
    pub(crate) layout: Layout,
    pub(crate) readers: Readers,
    /// The region in question, where the target is one.
    pub(crate) region: Option<usize>,
    pub(crate) score: Tensor<1>,
}

/// Attention sub-layers of a pair of layers in two streams.
pub(crate) struct Pair<'a> {
    pub(crate) text: &'a Record,
    pub(crate) text_to_image: &'a Record,
    pub(crate) image: &'a Record,
    pub(crate) image_to_text: &'a Record,
}

impl Pass {
    /// Runs the model on a pair; gradients only where they are needed, for they cost a graph.
    pub(crate) fn run(
        subject: &Subject<'_>,
        input: &Input,
        target: &Target,
        gradients: bool,
    ) -> Result<Self, ExplainError> {
        let layout = subject.layout(input)?;
        let text = input.text.as_ref();
        let (text_tokens, text_records) = record(gradients, || subject.read(text));
        let (image, image_records) = record(gradients, || subject.look(&input.seen));
        let image = image?;
        let class_tokens = layout.class_tokens();
        let (fused, fusion_records) = record(gradients, || {
            subject
                .fuses(target)
                .then(|| subject.fuse(text_tokens.as_ref(), &image, class_tokens))
                .flatten()
        });
        let outputs = Outputs {
            text: text_tokens,
            image,
            fused,
            class_tokens,
        };
        let region = region(subject, &outputs, target)?;
        let original = match target {
            Target::Itself => subject.image_embeds(&outputs),
            _ => None,
        };
        // Heads are watched too, so that they are computed by the same plain operations.
        let (score, _) = record(gradients, || {
            subject.score(&outputs, target, text, original.as_ref(), region)
        });
        Ok(Self {
            text: text_records,
            image: image_records,
            fusion: fusion_records,
            readers: subject.readers(target, &layout, text, region),
            layout,
            region,
            score: score?,
        })
    }

    /// The value of the target.
    pub(crate) fn value(&self) -> Result<f32, ExplainError> {
        Ok(host(self.score.clone())?.first().copied().unwrap_or(0.0))
    }

    /// Layers of two streams.
    pub(crate) fn pairs(&self) -> impl ExactSizeIterator<Item = Pair<'_>> {
        self.fusion
            .as_chunks::<4>()
            .0
            .iter()
            .map(|[a, b, c, d]| Pair {
                text: a,
                text_to_image: b,
                image: c,
                image_to_text: d,
            })
    }
}

/// The region that a target is about: the named one, or the one with the best score.
pub(crate) fn region(
    subject: &Subject<'_>,
    outputs: &Outputs,
    target: &Target,
) -> Result<Option<usize>, ExplainError> {
    match (target, subject, &outputs.fused) {
        (Target::Region(Some(region)), ..) => Ok(Some(*region)),
        (Target::Region(None), Subject::Own(model), Some(fused)) => {
            let ranks = host(ranks(model, fused)?)?;
            // Of equal ones the first.
            let best = (0..ranks.len()).rev().max_by(|a, b| {
                let of = |at: &usize| ranks.get(*at).copied().unwrap_or(f32::MIN);
                of(a).total_cmp(&of(b))
            });
            Ok(best)
        }
        _ => Ok(None),
    }
}

/// Something of a record's probabilities as one matrix a head, `[heads, queries, keys]`; of a clip's
/// frames as one matrix over all tokens of the clip, frame after frame.
pub(crate) fn matrix(record: &Record, of: impl Fn(&Watched<4>) -> Tensor<4>) -> Tensor<3> {
    let flat = |part: Tensor<4>| {
        let [batch, heads, queries, keys] = part.dims();
        debug_assert_eq!(batch, 1, "one pair is explained at a time");
        part.reshape([heads, batch * queries, keys])
    };
    match &record.probabilities[..] {
        [local, global] => {
            let (local, global) = (of(local), flat(of(global)));
            let [frames, heads, len, _] = local.dims();
            let all = frames * len;
            let mut whole = Tensor::zeros([heads, all, all], &local.device());
            for frame in 0..frames {
                let place = frame * len..(frame + 1) * len;
                let own = local.clone().narrow(0, frame, 1).reshape([heads, len, len]);
                whole = whole.slice_assign([0..heads, place.clone(), place], own);
                let class = global.clone().narrow(1, frame, 1);
                let row = frame * len..frame * len + 1;
                whole = whole.slice_assign([0..heads, row, 0..all], class);
            }
            whole
        }
        [one, ..] => flat(of(one)),
        [] => Tensor::zeros([1, 0, 0], &record.input.values.device()),
    }
}

/// The probabilities themselves, `[heads, queries, keys]`.
pub(crate) fn attention(record: &Record) -> Tensor<3> {
    matrix(record, |part| part.values.clone())
}

/// What of attention spoke for the target: the mean over heads of the positive part of probability times
/// gradient (Chefer et al., eq. 5), `[queries, keys]`.
pub(crate) fn relevance(record: &Record, gradients: &Gradients) -> Tensor<2> {
    let product = |part: &Watched<4>| part.values.clone() * part.gradient(gradients);
    let product = matrix(record, product).clamp_min(0.0);
    let [_, queries, keys] = product.dims();
    product.mean_dim(0).reshape([queries, keys])
}
