//! Runs a [`ForwardPlan`]: every tower and fusion pass once, passes over the same image view stacked
//! into one call.

use std::collections::BTreeMap;

use burn::tensor::Tensor;
use chiasm_nn::text::TextInput;
use chiasm_nn::tokens::Chosen;
use chiasm_nn::{Fused, Tokens, VisionLanguageModel};

use crate::masking::MatchingDraw;
use crate::mlm::MlmTargets;
use crate::plan::{ForwardPlan, FusionPass, ImageView, Pairing, TextView};

/// One batch on the device, with everything random already drawn.
#[derive(Clone, Debug)]
pub struct StepInput {
    /// `[images, 3, side, side]`; the first `batch` images belong to the texts in order, any
    /// further ones serve as negatives of matching.
    pub pixel_values: Tensor<4>,
    /// Texts as given.
    pub clean: TextInput,
    /// The first so many pairs go through the fusion encoder; `fused` below.
    pub fused_size: usize,
    /// Texts corrupted for MLM, `fused` of them.
    pub mlm: Option<(TextInput, MlmTargets)>,
    /// Texts masked for completion, `fused` of them.
    pub masked: Option<TextInput>,
    /// Patches that stay in the masked view of the first `fused` images.
    pub kept_patches: Option<Chosen>,
    /// Image each of the `fused` texts is matched against.
    pub matching: Option<MatchingDraw>,
}

impl StepInput {
    /// Number of texts.
    #[must_use]
    pub fn batch_size(&self) -> usize {
        self.clean.spans.batch()
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
    /// Encoded images, class token first; the class token alone where no pass fuses the image.
    pub images: BTreeMap<ImageView, Tokens>,
    /// Encoded texts: all of them in the clean view, `fused` in the others; the first token alone
    /// where no pass fuses the text.
    pub texts: BTreeMap<TextView, Tokens>,
    /// Fused pairs: what the losses read of them. That is the first token of every text and image,
    /// and behind it the masked tokens of a text corrupted for MLM.
    pub fused: BTreeMap<FusionPass, Fused>,
    /// Where the masked tokens stand in the fused text of the MLM pass, in the order of the targets.
    pub asked: Vec<usize>,
}

/// Computes the features of a plan. A pass whose input was not drawn is left out, and so is the
/// loss that needs it.
#[must_use]
pub fn forward(model: &VisionLanguageModel, plan: &ForwardPlan, input: &StepInput) -> Features {
    let mut features = Features {
        images: encode_images(model, plan, input),
        texts: encode_texts(model, plan, input),
        ..Features::default()
    };
    // One call for all passes over the same image view.
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
) -> BTreeMap<ImageView, Tokens> {
    let mut encoded = BTreeMap::new();
    if plan.images.is_empty() {
        return encoded;
    }
    let patches = model.vision.embed_patches(input.pixel_values.clone());
    if plan.images.contains(&ImageView::Complete) {
        // The fusion encoder reads whole pictures, the contrast class tokens alone.
        let mut whole = vec![false; patches.spans.batch()];
        for pass in &plan.fusions {
            let read: Vec<usize> = match (pass.image, pass.pairing, &input.matching) {
                (ImageView::Dropped, ..) | (_, Pairing::Matching, None) => Vec::new(),
                (_, Pairing::Own, _) => (0..input.fused_size).collect(),
                (_, Pairing::Matching, Some(draw)) => draw.partner.clone(),
            };
            for picture in read {
                if let Some(whole) = whole.get_mut(picture) {
                    *whole = true;
                }
            }
        }
        let is_whole = |picture: usize| whole.get(picture) == Some(&true);
        let image = model.encode_patches_where(&patches, is_whole);
        encoded.insert(ImageView::Complete, image);
    }
    if let (true, Some(kept)) = (
        plan.images.contains(&ImageView::Dropped),
        &input.kept_patches,
    ) {
        let kept = model.encode_patches(&patches.choose(kept));
        encoded.insert(ImageView::Dropped, kept);
    }
    encoded
}

fn encode_texts(
    model: &VisionLanguageModel,
    plan: &ForwardPlan,
    input: &StepInput,
) -> BTreeMap<TextView, Tokens> {
    let views: Vec<(TextView, &TextInput)> = plan
        .texts
        .iter()
        .filter_map(|view| input.text(*view).map(|text| (*view, text)))
        .collect();
    if views.is_empty() {
        return BTreeMap::new();
    }
    let texts: Vec<&TextInput> = views.iter().map(|(_, text)| *text).collect();
    // The fusion encoder reads whole texts, the contrast first tokens alone.
    let whole: Vec<bool> = views
        .iter()
        .flat_map(|(view, text)| {
            let fused = plan.fusions.iter().any(|pass| pass.text == *view);
            (0..text.spans.batch()).map(move |row| fused && row < input.fused_size)
        })
        .collect();
    let encoded = model.encode_text_where(&TextInput::cat(&texts), |text| {
        whole.get(text) == Some(&true)
    });
    let mut start = 0;
    views
        .iter()
        .map(|(view, text)| {
            let count = text.spans.batch();
            let part = encoded.narrow(start, count);
            start += count;
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
    let count = input.fused_size;
    let mut stacked: Vec<FusionPass> = Vec::new();
    let (mut texts, mut images) = (Vec::new(), Vec::new());
    let (mut read, mut start) = (Vec::new(), 0);
    for pass in passes {
        let (Some(text), Some(image)) = (
            features.texts.get(&pass.text),
            features.images.get(&pass.image),
        ) else {
            continue;
        };
        let image = match (pass.pairing, &input.matching) {
            (Pairing::Own, _) => image.narrow(0, count),
            (Pairing::Matching, Some(draw)) => image.select(&draw.partner),
            (Pairing::Matching, None) => continue,
        };
        let text = text.narrow(0, count);
        let mut rows = Chosen::first(&text.spans).rows;
        if let (TextView::Mlm, Some((_, targets))) = (pass.text, &input.mlm) {
            rows.extend(&targets.positions);
            rows.sort_unstable();
            rows.dedup();
            let place = |position: &usize| rows.binary_search(position).ok();
            features.asked = targets.positions.iter().filter_map(place).collect();
        }
        read.extend(rows.into_iter().map(|row| start + row));
        start += text.spans.tokens();
        stacked.push(*pass);
        texts.push(text);
        images.push(image);
    }
    if stacked.is_empty() {
        return;
    }
    let (texts, images) = (Tokens::cat(texts), Tokens::cat(images));
    let read_texts = Chosen::new(&texts.spans, read);
    let read_images = Chosen::first(&images.spans);
    let fused = model.fuse_at(&texts, &images, &read_texts, &read_images);
    for (index, pass) in stacked.into_iter().enumerate() {
        let part = |tokens: &Tokens| tokens.narrow(index * count, count);
        features.fused.insert(
            pass,
            Fused {
                text: part(&fused.text),
                image: part(&fused.image),
            },
        );
    }
}
