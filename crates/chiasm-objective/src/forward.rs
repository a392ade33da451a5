//! Runs a [`ForwardPlan`]: every tower and fusion pass once, passes of equal shape stacked along
//! the batch axis into one call.

use std::collections::BTreeMap;

use burn::tensor::{Int, Tensor};
use chiasm_nn::attention::KeyBias;
use chiasm_nn::text::TextInput;
use chiasm_nn::vision::select_patches;
use chiasm_nn::{Fused, VisionLanguageModel};

use crate::mlm::MlmTargets;
use crate::plan::{ForwardPlan, FusionPass, ImageView, Pairing, TextView};

/// One batch on the device, with everything random already drawn.
#[derive(Clone, Debug)]
pub struct StepInput {
    /// `[images, 3, side, side]`; the first `batch` images belong to the texts in order, any
    /// further ones serve as negatives of matching.
    pub pixel_values: Tensor<4>,
    /// Texts as given, `[batch, text_len]`.
    pub clean: TextInput,
    /// The first so many pairs go through the fusion encoder; `fused` below.
    pub fused_size: usize,
    /// Texts corrupted for MLM, `[fused, text_len]`.
    pub mlm: Option<(TextInput, MlmTargets)>,
    /// Texts masked for completion, `[fused, text_len]`.
    pub masked: Option<TextInput>,
    /// Patches that stay in the masked view: index in the flattened batch,
    /// `image * patches + patch`, `[fused * kept]`.
    pub kept_patches: Option<Tensor<1, Int>>,
    /// Image each text is matched against, and whether it is its own (1) or not (0), `[fused]`.
    pub matching: Option<(Tensor<1, Int>, Tensor<1, Int>)>,
}

impl StepInput {
    /// Number of texts.
    #[must_use]
    pub fn batch_size(&self) -> usize {
        self.clean.input_ids.dims()[0]
    }

    fn text(&self, view: TextView) -> Option<&TextInput> {
        match view {
            TextView::Clean => Some(&self.clean),
            TextView::Mlm => self.mlm.as_ref().map(|(text, _)| text),
            TextView::Masked => self.masked.as_ref(),
        }
    }
}

/// What the passes of a plan gave.
#[derive(Clone, Debug, Default)]
pub struct Features {
    /// Encoded images, `[images, 1 + patches, width]`.
    pub images: BTreeMap<ImageView, Tensor<3>>,
    /// Encoded texts, `[batch, text_len, width]` for the clean view, `[fused, ..]` for the others.
    pub texts: BTreeMap<TextView, Tensor<3>>,
    /// Fused pairs.
    pub fused: BTreeMap<FusionPass, Fused>,
}

/// Computes the features of a plan. A pass whose input was not drawn is left out, and so is the
/// loss that needs it.
#[must_use]
pub fn forward(model: &VisionLanguageModel, plan: &ForwardPlan, input: &StepInput) -> Features {
    let mut features = Features {
        images: encode_images(model, plan, input),
        texts: encode_texts(model, plan, input),
        fused: BTreeMap::new(),
    };
    // Passes over the same image view have the same shapes: one call for all of them.
    for view in [ImageView::Complete, ImageView::Dropped] {
        let passes: Vec<FusionPass> = plan
            .fusions
            .iter()
            .copied()
            .filter(|pass| pass.image == view)
            .collect();
        fuse(model, &passes, input, &mut features);
    }
    features
}

fn encode_images(
    model: &VisionLanguageModel,
    plan: &ForwardPlan,
    input: &StepInput,
) -> BTreeMap<ImageView, Tensor<3>> {
    let mut encoded = BTreeMap::new();
    if plan.images.is_empty() {
        return encoded;
    }
    let patches = model.vision.embed_patches(input.pixel_values.clone());
    if plan.images.contains(&ImageView::Complete) {
        encoded.insert(ImageView::Complete, model.encode_patches(patches.clone()));
    }
    if let (true, Some(kept)) = (
        plan.images.contains(&ImageView::Dropped),
        &input.kept_patches,
    ) {
        let own = patches.narrow(0, 0, input.fused_size);
        let kept = select_patches(own, kept.clone());
        encoded.insert(ImageView::Dropped, model.encode_patches(kept));
    }
    encoded
}

fn encode_texts(
    model: &VisionLanguageModel,
    plan: &ForwardPlan,
    input: &StepInput,
) -> BTreeMap<TextView, Tensor<3>> {
    let views: Vec<(TextView, &TextInput)> = plan
        .texts
        .iter()
        .filter_map(|view| input.text(*view).map(|text| (*view, text)))
        .collect();
    if views.is_empty() {
        return BTreeMap::new();
    }
    let stacked = TextInput {
        input_ids: Tensor::cat(
            views
                .iter()
                .map(|(_, text)| text.input_ids.clone())
                .collect(),
            0,
        ),
        attention_mask: Tensor::cat(
            views
                .iter()
                .map(|(_, text)| text.attention_mask.clone())
                .collect(),
            0,
        ),
    };
    let encoded = model.encode_text(&stacked);
    let mut start = 0;
    views
        .iter()
        .map(|(view, text)| {
            let rows = text.input_ids.dims()[0];
            let part = encoded.clone().narrow(0, start, rows);
            start += rows;
            (*view, part)
        })
        .collect()
}

fn fuse(
    model: &VisionLanguageModel,
    passes: &[FusionPass],
    input: &StepInput,
    features: &mut Features,
) {
    let rows = input.fused_size;
    let first = |tokens: &Tensor<3>| tokens.clone().narrow(0, 0, rows);
    let mut stacked: Vec<FusionPass> = Vec::new();
    let (mut texts, mut images, mut masks) = (Vec::new(), Vec::new(), Vec::new());
    for pass in passes {
        let (Some(text), Some(image), Some(raw)) = (
            features.texts.get(&pass.text),
            features.images.get(&pass.image),
            input.text(pass.text),
        ) else {
            continue;
        };
        let image = match (pass.pairing, &input.matching) {
            (Pairing::Own, _) => first(image),
            (Pairing::Matching, Some((partner, _))) => image.clone().select(0, partner.clone()),
            (Pairing::Matching, None) => continue,
        };
        stacked.push(*pass);
        texts.push(first(text));
        images.push(image);
        masks.push(raw.attention_mask.clone().narrow(0, 0, rows));
    }
    if stacked.is_empty() {
        return;
    }
    let bias = KeyBias::from_mask(Tensor::cat(masks, 0));
    let fused = model.fuse(Tensor::cat(texts, 0), Tensor::cat(images, 0), &bias);
    for (index, pass) in stacked.into_iter().enumerate() {
        let part = |tokens: &Tensor<3>| tokens.clone().narrow(0, index * rows, rows);
        features.fused.insert(
            pass,
            Fused {
                text: part(&fused.text),
                image: part(&fused.image),
            },
        );
    }
}
