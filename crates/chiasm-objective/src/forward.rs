//! Runs a [`ForwardPlan`]: every tower and fusion pass once, passes over the same image view stacked
//! into one call.

use std::collections::{BTreeMap, BTreeSet};

use burn::tensor::{Gradients, Tensor};
use chiasm_nn::compute::Autograd;
use chiasm_nn::model::{Seen, Stage};
use chiasm_nn::text::TextInput;
use chiasm_nn::tokens::Chosen;
use chiasm_nn::{Fused, Spans, Tokens, VisionLanguageModel};

use crate::classification::ClassTargets;
use crate::grounding::GroundTargets;
use crate::knowledge::KnowledgeInput;
use crate::masking::MatchingDraw;
use crate::mlm::MlmTargets;
use crate::plan::{
    ForwardPlan, FusionPass, GROUNDING_PASS, HIDDEN_PATCHES_PASS, ImageView, KNOWLEDGE_PASS,
    MASKED_IMAGE_PASS, MASKED_TEXT_PASS, MLM_PASS, Pairing, TextView, class_pass,
};
use crate::ranking::RankingDraw;

/// Texts masked for completion.
#[derive(Clone, Debug)]
pub struct MaskedText {
    /// With the mask token in place of some words.
    pub input: TextInput,
    /// Which tokens of the batch it stands for, counted without padding, ascending.
    pub positions: Vec<usize>,
}

/// One batch on the device, with everything random already drawn.
#[derive(Clone, Debug)]
pub struct StepInput {
    /// The images: the pictures of the first text, those of the second, and so on. Further ones serve
    /// as negatives of matching.
    pub seen: Seen,
    /// What the image tower makes of the complete images, before the bridge to the fusion width, where
    /// it is known: a frozen tower gives the same every time. The tower then does not run for them.
    pub encoded: Option<Tokens>,
    /// Pictures that a text speaks of together, at least 1. All objectives but classification look at
    /// the first one alone.
    pub pictures: usize,
    /// Texts as given; those behind the last one with an image serve as negatives.
    pub clean: TextInput,
    /// Texts at the end of these that meet an image in matching and ranking alone: they are pairs of
    /// other processes.
    pub borrowed: usize,
    /// Texts that have an image of their own.
    pub pairs: usize,
    /// The first so many pairs go through the fusion encoder; `fused` below.
    pub fused_size: usize,
    /// Texts corrupted for MLM, `fused` of them.
    pub mlm: Option<(TextInput, MlmTargets)>,
    /// Texts masked for completion, `fused` of them.
    pub masked: Option<MaskedText>,
    /// Patches or regions that stay in the masked view of the first `fused` images, by number in the
    /// batch of all frames of all images.
    pub kept_patches: Option<Chosen>,
    /// Patches hidden behind the mask token, or regions without their features, in the first `fused`
    /// images, numbered in these images' frames alone, ascending.
    pub hidden_patches: Option<Vec<usize>>,
    /// Texts and the image that each is matched against.
    pub matching: Option<MatchingDraw>,
    /// Texts that each of the `fused` images is ranked with.
    pub ranking: Option<RankingDraw>,
    /// The right classes of the `fused` pairs.
    pub classes: Option<ClassTargets>,
    /// The `fused` pairs behind masks that a scene graph leads.
    pub knowledge: Option<KnowledgeInput>,
    /// Which regions of the `fused` images their texts refer to.
    pub grounding: Option<GroundTargets>,
    /// The groups that the `fused` pairs are in.
    pub clusters: Option<Vec<u32>>,
}

impl StepInput {
    /// Class tokens of an image: 1, one for each frame of a clip, none of regions.
    #[must_use]
    pub fn class_tokens(&self) -> usize {
        self.seen.class_tokens()
    }

    fn text(&self, view: TextView) -> Option<&TextInput> {
        match view {
            TextView::Clean => Some(&self.clean),
            TextView::Mlm => self.mlm.as_ref().map(|(text, _)| text),
            TextView::Masked => self.masked.as_ref().map(|masked| &masked.input),
            TextView::Knowledge => self.knowledge.as_ref().map(|knowledge| &knowledge.text),
        }
    }

    /// The first pictures of the `fused` texts among all images.
    fn own_images(&self) -> Vec<usize> {
        (0..self.fused_size)
            .map(|row| row * self.pictures)
            .collect()
    }

    /// Which texts meet which images in a pass; `None` when that was not drawn.
    fn pairs_of(&self, pass: FusionPass) -> Option<Vec<(usize, usize)>> {
        let fused = 0..self.fused_size;
        let image = |row: usize, picture: usize| row * self.pictures + picture;
        match pass.pairing {
            Pairing::Own(picture) => Some(fused.map(|row| (row, image(row, picture))).collect()),
            Pairing::Matching => {
                let draw = self.matching.as_ref()?;
                Some(draw.pairs().collect())
            }
            // Masked regions come paired.
            Pairing::Knowledge => {
                self.knowledge.as_ref()?;
                Some(fused.map(|row| (row, row)).collect())
            }
            Pairing::Candidates => {
                let draw = self.ranking.as_ref()?;
                let of = |(row, texts): (usize, &Vec<usize>)| {
                    let own = image(row, 0);
                    texts.iter().map(|text| (*text, own)).collect::<Vec<_>>()
                };
                Some(fused.zip(&draw.candidates).flat_map(of).collect())
            }
        }
    }
}

/// What a fusion pass gave: the tokens that losses read.
#[derive(Clone, Debug)]
pub struct FusedPass {
    /// The tokens that were kept; the first of every text and the class tokens of every image are
    /// among them and come first.
    pub fused: Fused,
    /// Which tokens of the whole pass these are, `[text tokens]` and `[image tokens]`, ascending.
    kept: [Vec<usize>; 2],
}

impl FusedPass {
    /// Tokens of the texts by number in the pass, `[rows, width]`.
    #[must_use]
    pub fn text_at(&self, rows: &[usize]) -> Tensor<2> {
        at(&self.fused.text, &self.kept[0], rows)
    }

    /// Tokens of the images by number in the pass, `[rows, width]`.
    #[must_use]
    pub fn image_at(&self, rows: &[usize]) -> Tensor<2> {
        at(&self.fused.image, &self.kept[1], rows)
    }
}

fn at(tokens: &Tokens, kept: &[usize], rows: &[usize]) -> Tensor<2> {
    let place = |row: &usize| kept.binary_search(row).ok();
    tokens.token_rows(&rows.iter().filter_map(place).collect::<Vec<_>>())
}

/// What the passes of a plan gave.
#[derive(Clone, Debug, Default)]
pub struct Features {
    /// Encoded images, class tokens first; these alone where no pass fuses the image. The dropped and
    /// the hidden view have the first pictures of the `fused` pairs alone.
    pub images: BTreeMap<ImageView, Tokens>,
    /// Encoded texts: all of them in the clean view, `fused` in the others; the first token alone
    /// where no pass fuses the text.
    pub texts: BTreeMap<TextView, Tokens>,
    /// Fused pairs.
    pub fused: BTreeMap<FusionPass, FusedPass>,
    /// The hidden patches as tokens of the fused images, in the order of the draw.
    pub hidden: Vec<usize>,
}

/// Features of a tower, cut off from it.
#[derive(Clone, Debug)]
pub(crate) struct Cut {
    /// The stage of the backward pass that goes through the tower.
    stage: Stage,
    /// As the tower gave them.
    given: Tensor<2>,
    /// The same numbers with which everything else was computed.
    read: Tensor<2>,
}

impl Features {
    /// Cuts encoded images and texts off from the towers that gave them, where these are trained: gradients then end
    /// here, and [`Cut::resume`] takes them up again.
    pub(crate) fn cut(&mut self) -> Vec<Cut> {
        let images = self.images.values_mut().map(|rows| (Stage::Image, rows));
        let texts = self.texts.values_mut().map(|rows| (Stage::Text, rows));
        let towers = images.chain(texts);
        let towers = towers.filter(|(_, tokens)| tokens.rows.is_tracked());
        let cut = |(stage, tokens): (Stage, &mut Tokens)| {
            let read = tokens.rows.clone().detach().require_grad();
            let given = std::mem::replace(&mut tokens.rows, read.clone());
            Cut { stage, given, read }
        };
        towers.map(cut).collect()
    }
}

impl Cut {
    /// Of features of a stage a number whose gradient goes on where those that were found so far end; `None` where
    /// nothing was found.
    pub(crate) fn resume(cuts: &[Self], stage: Stage, found: &mut Gradients) -> Option<Tensor<1>> {
        let of_stage = cuts.iter().filter(|cut| cut.stage == stage);
        let resumed = of_stage.filter_map(|cut| {
            let gradient = cut.read.grad_remove(found)?;
            let gradient = Autograd::of(&cut.given).constant(gradient);
            Some((cut.given.clone() * gradient).sum())
        });
        resumed.reduce(|sum, part| sum + part)
    }
}

/// Computes the features of a plan. A pass whose input was not drawn is left out, and so is the
/// loss that needs it.
#[must_use]
pub fn forward(model: &VisionLanguageModel, plan: &ForwardPlan, input: &StepInput) -> Features {
    fuse_all(model, plan, input, encode(model, plan, input))
}

/// What the towers give for a plan.
pub(crate) fn encode(
    model: &VisionLanguageModel,
    plan: &ForwardPlan,
    input: &StepInput,
) -> Features {
    Features {
        images: encode_images(model, plan, input),
        texts: encode_texts(model, plan, input),
        hidden: hidden_tokens(model, input),
        ..Features::default()
    }
}

/// The same features with those of the plan's fused pairs.
pub(crate) fn fuse_all(
    model: &VisionLanguageModel,
    plan: &ForwardPlan,
    input: &StepInput,
    mut features: Features,
) -> Features {
    // One call for all passes over the same image view.
    for view in ImageView::ALL {
        let passes: Vec<FusionPass> = plan
            .fusions
            .iter()
            .copied()
            .filter(|pass| pass.image == view)
            .collect();
        fuse(model, plan, &passes, input, &mut features);
    }
    features
}

fn encode_images(
    model: &VisionLanguageModel,
    plan: &ForwardPlan,
    input: &StepInput,
) -> BTreeMap<ImageView, Tokens> {
    let mut encoded = BTreeMap::new();
    let class_tokens = input.class_tokens();
    // The fusion encoder reads whole pictures, what has none class tokens alone.
    let whole: BTreeSet<usize> = plan
        .fusions
        .iter()
        .filter(|pass| pass.image == ImageView::Complete && !model.is_towers_alone())
        .flat_map(|pass| input.pairs_of(*pass).unwrap_or_default())
        .map(|(_, image)| image)
        .collect();
    let is_whole = |image| whole.contains(&image);
    if plan.images.contains(&ImageView::Complete)
        && let Some(known) = &input.encoded
    {
        let read = known.choose(&Chosen::whole(&known.spans, is_whole));
        encoded.insert(ImageView::Complete, model.bridge_image(read));
    }
    if plan.images.iter().all(|view| encoded.contains_key(view)) {
        return encoded;
    }
    let Some(patches) = model.embed(&input.seen) else {
        return encoded;
    };
    if plan.images.contains(&ImageView::Complete) && input.encoded.is_none() {
        let image = model.encode_where(&patches, class_tokens, is_whole);
        encoded.insert(ImageView::Complete, image);
    }
    if let (true, Some(kept)) = (
        plan.images.contains(&ImageView::Dropped),
        &input.kept_patches,
    ) {
        let kept = model.encode_where(&patches.choose(kept), class_tokens, |_| true);
        encoded.insert(ImageView::Dropped, kept);
    }
    if let (true, Some(hidden)) = (
        plan.images.contains(&ImageView::Hidden),
        &input.hidden_patches,
    ) {
        let hidden = match (&input.seen, &model.vision) {
            (Seen::Regions(regions), _) => {
                let own = regions.select(&input.own_images());
                model.embed(&Seen::Regions(own.hide(hidden)))
            }
            (Seen::Pixels(_), Some(vision)) => {
                let frames = class_tokens;
                let own = input.own_images().into_iter();
                let own: Vec<usize> = own
                    .flat_map(|image| image * frames..(image + 1) * frames)
                    .collect();
                Some(vision.hide(&patches.select(&own), hidden))
            }
            (Seen::Pixels(_), None) => None,
        };
        if let Some(hidden) = hidden {
            let hidden = model.encode_where(&hidden, class_tokens, |_| true);
            encoded.insert(ImageView::Hidden, hidden);
        }
    }
    if let (true, Some(knowledge)) = (
        plan.images.contains(&ImageView::Knowledge),
        &input.knowledge,
    ) && let Some(regions) = &model.regions
    {
        let embedded = regions.forward(&knowledge.regions);
        let encoded_regions = model.encode_where(&embedded, 0, |_| true);
        encoded.insert(ImageView::Knowledge, encoded_regions);
    }
    encoded
}

/// The hidden patches as tokens of an encoded image: behind the class tokens of all frames come, frame
/// by frame, registers and patches.
fn hidden_tokens(model: &VisionLanguageModel, input: &StepInput) -> Vec<usize> {
    let Some(hidden) = &input.hidden_patches else {
        return Vec::new();
    };
    // Regions have nothing before them.
    let (Seen::Pixels(_), Some(vision)) = (&input.seen, &model.vision) else {
        return hidden.clone();
    };
    let frames = input.class_tokens();
    let patches = vision.num_patches();
    let registers = vision.num_registers();
    let image_len = frames * (1 + registers + patches);
    let token = |row: &usize| {
        let (frame, patch) = (row / patches, row % patches);
        let (image, frame) = (frame / frames, frame % frames);
        image * image_len + frames + frame * (registers + patches) + registers + patch
    };
    hidden.iter().map(token).collect()
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
    // The fusion encoder reads whole texts, what has none first tokens alone.
    let read: BTreeSet<(TextView, usize)> = plan
        .fusions
        .iter()
        .filter(|_| !model.is_towers_alone())
        .flat_map(|pass| {
            let pairs = input.pairs_of(*pass).unwrap_or_default();
            pairs.into_iter().map(|(text, _)| (pass.text, text))
        })
        .collect();
    let whole: Vec<bool> = views
        .iter()
        .flat_map(|(view, text)| (0..text.spans.batch()).map(|row| read.contains(&(*view, row))))
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

/// Tokens that the losses of a plan read of a pass beside the summaries: of its texts, of its images.
fn also_read(
    plan: &ForwardPlan,
    pass: FusionPass,
    input: &StepInput,
    features: &Features,
) -> [Vec<usize>; 2] {
    let masked = || match &input.masked {
        Some(masked) if plan.completes_words => masked.positions.clone(),
        _ => Vec::new(),
    };
    match pass {
        MLM_PASS => {
            let targets = input.mlm.as_ref().map(|(_, targets)| targets);
            let asked = targets.map_or(Vec::new(), |targets| targets.positions.clone());
            [asked, Vec::new()]
        }
        MASKED_IMAGE_PASS => [masked(), Vec::new()],
        MASKED_TEXT_PASS => {
            let hides = plan.fusions.contains(&HIDDEN_PATCHES_PASS);
            let hidden = if hides {
                features.hidden.clone()
            } else {
                Vec::new()
            };
            [masked(), hidden]
        }
        HIDDEN_PATCHES_PASS => [Vec::new(), features.hidden.clone()],
        // The transport reads all of both.
        KNOWLEDGE_PASS => whole(features, pass, input),
        own if plan.contrasts_fused && own == class_pass(0) => whole(features, pass, input),
        GROUNDING_PASS => [Vec::new(), whole(features, pass, input)[1].clone()],
        _ => [Vec::new(), Vec::new()],
    }
}

/// All tokens of a pass: of its texts, of its images.
fn whole(features: &Features, pass: FusionPass, input: &StepInput) -> [Vec<usize>; 2] {
    let (Some(text), Some(image), Some(pairs)) = (
        features.texts.get(&pass.text),
        features.images.get(&pass.image),
        input.pairs_of(pass),
    ) else {
        return [Vec::new(), Vec::new()];
    };
    let tokens = |spans: &Spans, rows: &mut dyn Iterator<Item = usize>| {
        let lengths = spans.lengths().collect::<Vec<_>>();
        let count: usize = rows.filter_map(|row| lengths.get(row)).sum();
        (0..count).collect::<Vec<_>>()
    };
    [
        tokens(&text.spans, &mut pairs.iter().map(|(text, _)| *text)),
        tokens(&image.spans, &mut pairs.iter().map(|(_, image)| *image)),
    ]
}

fn fuse(
    model: &VisionLanguageModel,
    plan: &ForwardPlan,
    passes: &[FusionPass],
    input: &StepInput,
    features: &mut Features,
) {
    let frames = input.class_tokens();
    let mut stacked: Vec<(FusionPass, usize, [Vec<usize>; 2])> = Vec::new();
    let (mut texts, mut images) = (Vec::new(), Vec::new());
    let mut read = [Vec::new(), Vec::new()];
    let mut start = [0, 0];
    for pass in passes {
        let (Some(text), Some(image), Some(pairs)) = (
            features.texts.get(&pass.text),
            features.images.get(&pass.image),
            input.pairs_of(*pass),
        ) else {
            continue;
        };
        if pairs.is_empty() {
            continue;
        }
        let (text_rows, image_rows): (Vec<usize>, Vec<usize>) = pairs.iter().copied().unzip();
        // The other views have only the images that their passes read.
        let image_rows = match pass.image {
            ImageView::Complete | ImageView::Knowledge => image_rows,
            ImageView::Dropped | ImageView::Hidden => (0..pairs.len()).collect(),
        };
        let picture = match pass.pairing {
            Pairing::Own(picture) => picture,
            Pairing::Matching | Pairing::Knowledge | Pairing::Candidates => 0,
        };
        let (text, image) = (text.select(&text_rows), image.select(&image_rows));
        let typed = model.typed(&text, &image, frames, picture);
        let also = also_read(plan, *pass, input, features);
        let summaries = [
            Chosen::first(&text.spans),
            Chosen::leading(&image.spans, frames),
        ];
        let tokens = [text.spans.tokens(), image.spans.tokens()];
        let mut kept = [Vec::new(), Vec::new()];
        for (stream, (summary, also)) in summaries.into_iter().zip(also).enumerate() {
            let mut rows = summary.rows;
            rows.extend(also);
            rows.sort_unstable();
            rows.dedup();
            read[stream].extend(rows.iter().map(|row| start[stream] + row));
            start[stream] += tokens[stream];
            kept[stream] = rows;
        }
        stacked.push((*pass, pairs.len(), kept));
        texts.push(typed.text);
        images.push(typed.image);
    }
    if stacked.is_empty() {
        return;
    }
    let joined = Fused {
        text: Tokens::cat(texts),
        image: Tokens::cat(images),
        frames,
    };
    let [read_texts, read_images] = read;
    let read_texts = Chosen::new(&joined.text.spans, read_texts);
    let read_images = Chosen::new(&joined.image.spans, read_images);
    let fused = model.fusion.forward_at(joined, &read_texts, &read_images);
    let mut first = 0;
    for (pass, count, kept) in stacked {
        let fused = Fused {
            text: fused.text.narrow(first, count),
            image: fused.image.narrow(first, count),
            frames,
        };
        first += count;
        features.fused.insert(pass, FusedPass { fused, kept });
    }
}
