//! From features to loss terms and their weighted total (`specs/scl.md` section 2.7).

use burn::tensor::{Gradients, Tensor};
use chiasm_nn::VisionLanguageModel;
use chiasm_nn::criterion::constant_temperature;
use chiasm_nn::model::Stage;

use crate::classification::{ClassTargets, binary_loss, divergence_loss};
use crate::cluster::cluster_loss;
use crate::completion::{completion_loss, frame_completion_loss};
use crate::config::{ContrastDirection, ObjectivesConfig};
use crate::contrast::{contrastive_loss, image_to_text_loss};
use crate::forward::{Cut, Features, FusedPass, StepInput, encode, fuse_all};
use crate::gather::{Alone, Counted, Gather, Shares};
use crate::grounding::{rank_loss, shift_loss};
use crate::knowledge::{feature_loss, sure_class_loss, transport_loss};
use crate::plan::{
    ForwardPlan, FusionPass, GROUNDING_PASS, HIDDEN_PATCHES_PASS, ImageView, KNOWLEDGE_PASS,
    MASKED_IMAGE_PASS, MASKED_TEXT_PASS, MATCHING_PASS, MLM_PASS, Objective, RANKING_PASS,
    TextView, class_pass,
};
use crate::ranking::ranking_loss;
use crate::transport::transport_distance;

/// One named loss.
#[derive(Clone, Debug)]
pub struct LossTerm {
    /// Name in logs: the objective's, with the modality where an objective has two terms.
    pub name: &'static str,
    /// Factor in the total.
    pub weight: f64,
    /// Unweighted value, `[1]`.
    pub value: Tensor<1>,
    /// Whether it is of the samples of all processes, not of the own ones alone.
    pub gathered: bool,
    /// What part of it the gradient of this process's features is: of own samples, that which they are
    /// of all processes' samples; of gathered ones, all, or what [`ObjectivesConfig::averaged_gather`] leaves. 0
    /// where none are here.
    pub share: f64,
}

impl LossTerm {
    /// A loss of the own samples, which are a `share` of all.
    fn new(name: &'static str, weight: f64, value: Tensor<1>, share: f64) -> Self {
        Self {
            name,
            weight,
            value,
            gathered: false,
            share,
        }
    }

    /// A loss of the samples of all processes, of which `own` rows are here.
    fn gathered(name: &'static str, weight: f64, value: Tensor<1>, own: usize) -> Self {
        Self {
            gathered: true,
            ..Self::new(name, weight, value, if own > 0 { 1.0 } else { 0.0 })
        }
    }

    /// Factor with which the values of so many processes are added up to that of all samples.
    #[must_use]
    pub fn part(&self, processes: usize) -> f64 {
        match self.gathered {
            true => 1.0 / processes.max(1) as f64,
            false => self.share,
        }
    }
}

/// All terms of a step.
#[derive(Clone, Debug, Default)]
pub struct Losses {
    /// In the order of the objectives.
    pub terms: Vec<LossTerm>,
    /// Where gradients end before the towers.
    cuts: Vec<Cut>,
}

impl Losses {
    /// Weighted sum, `[1]`; `None` where no term has a gradient here. Each of several processes takes
    /// the gradient of its own: these added up are that of one process with all samples.
    #[must_use]
    pub fn total(&self) -> Option<Tensor<1>> {
        self.terms
            .iter()
            // Nothing of this process is in the others, and some operations have no gradient of nothing.
            .filter(|term| term.share > 0.0)
            .map(|term| term.value.clone().mul_scalar(term.weight * term.share))
            .reduce(|sum, term| sum + term)
    }

    /// Differentiates a number made of the terms, such as a multiple of the total, where there is one. `take` gets
    /// gradients as they are found: those of the parameters of a stage, and of the stages before it, are whole with it.
    /// Of one process everything is found at once, with the last stage; of several, stage after stage, so that what
    /// is whole can travel while the rest is computed.
    pub fn backward(&self, number: Option<Tensor<1>>, mut take: impl FnMut(Stage, &mut Gradients)) {
        let Some(number) = number else {
            return;
        };
        let mut found = number.backward();
        if self.cuts.is_empty() {
            return take(Stage::Text, &mut found);
        }
        let towers = [Stage::Image, Stage::Text];
        let towers = towers.map(|stage| (stage, Cut::resume(&self.cuts, stage, &mut found)));
        take(Stage::Fused, &mut found);
        for (stage, resumed) in towers {
            if let Some(resumed) = resumed {
                take(stage, &mut resumed.backward());
            }
        }
    }

    /// A term's value, `[1]`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Tensor<1>> {
        self.terms
            .iter()
            .find(|term| term.name == name)
            .map(|term| term.value.clone())
    }
}

/// Losses of a step, every encoder pass run once.
#[must_use]
pub fn shared(model: &VisionLanguageModel, config: &ObjectivesConfig, input: &StepInput) -> Losses {
    shared_with(model, config, input, &Alone)
}

/// As [`shared`], with the negatives of other processes in every contrast.
#[must_use]
pub fn shared_with(
    model: &VisionLanguageModel,
    config: &ObjectivesConfig,
    input: &StepInput,
    gather: &dyn Gather,
) -> Losses {
    let plan =
        ForwardPlan::new(config, input.pictures).contrasting_fused(config, model.contrasts_fused());
    let mut features = encode(model, &plan, input);
    let cuts = match gather.processes() {
        1 => Vec::new(),
        _ => features.cut(),
    };
    let step = Step {
        model,
        config,
        input,
        features: &fuse_all(model, &plan, input, features),
        gather,
        shares: Shares::of(input, gather),
    };
    let terms = config.enabled().into_iter().flat_map(|objective| {
        match objective {
            Objective::Matching => step.matching(),
            Objective::Mlm => step.mlm(),
            Objective::Contrastive => step.contrastive(),
            Objective::GlobalCompletion => step.global_completion(),
            Objective::LocalCompletion => step.local_completion(),
            Objective::Classification => step.classification(),
            Objective::Ranking => step.ranking(),
            Objective::Knowledge => step.knowledge(),
            Objective::Grounding => step.grounding(),
            Objective::Cluster => step.cluster(),
        }
        .unwrap_or_default()
    });
    let mut terms: Vec<LossTerm> = terms.collect();
    if config.averaged_gather {
        for term in terms.iter_mut().filter(|term| term.gathered) {
            term.share /= gather.processes() as f64;
        }
    }
    Losses { terms, cuts }
}

/// The same losses with passes of its own for each of [`ObjectivesConfig::sets`], as the published code
/// runs them: the yardstick for [`shared`].
#[must_use]
pub fn unshared(
    model: &VisionLanguageModel,
    config: &ObjectivesConfig,
    input: &StepInput,
) -> Losses {
    let sets = config.sets();
    let terms = sets.iter().flat_map(|set| shared(model, set, input).terms);
    Losses {
        terms: terms.collect(),
        cuts: Vec::new(),
    }
}

/// A step whose passes are done. A loss whose input was not drawn is `None`.
struct Step<'a> {
    model: &'a VisionLanguageModel,
    config: &'a ObjectivesConfig,
    input: &'a StepInput,
    features: &'a Features,
    gather: &'a dyn Gather,
    shares: Shares,
}

impl Step<'_> {
    /// A loss of own samples, the mean over what is counted.
    fn own(&self, name: &'static str, weight: f64, value: Tensor<1>, counted: Counted) -> LossTerm {
        LossTerm::new(name, weight, value, self.shares.get(counted))
    }

    /// The temperature, `[1]`: a constant one, or the learned one. Of that every process gets the whole of its gradient, of which it
    /// counts its share, so that gradients can be added up.
    fn temperature(&self, constant: Option<f64>) -> Option<Tensor<1>> {
        let temperature = self.model.temperature.as_ref()?.val();
        if let Some(constant) = constant {
            return Some(constant_temperature(constant, &temperature.device()));
        }
        Some(match self.gather.processes() {
            1 => temperature,
            // The term's own share is that already.
            _ if self.config.averaged_gather => temperature,
            processes => {
                let share = 1.0 / processes as f64;
                let constant = temperature.clone().detach().mul_scalar(1.0 - share);
                temperature.mul_scalar(share) + constant
            }
        })
    }

    /// Completion of rows of all processes.
    fn completion(&self, recovered: Tensor<2>, complete: Tensor<2>, temperature: f64) -> Tensor<1> {
        let sides = self.gather.sides([recovered, complete]);
        completion_loss(sides, temperature)
    }

    fn pass(&self, pass: FusionPass) -> Option<&FusedPass> {
        self.features.fused.get(&pass)
    }

    fn matching(&self) -> Option<Vec<LossTerm>> {
        let config = self.config.matching.as_ref()?;
        let draw = self.input.matching.as_ref()?;
        let classifier = &self.model.match_head.as_ref()?.classifier;
        // Of several processes, one can be without such a pair.
        let value = match draw.labels.is_empty() {
            true => Tensor::zeros([1], &classifier.weight.val().device()),
            false => {
                let pooled = self.model.pooled(&self.pass(MATCHING_PASS)?.fused);
                classifier.cross_entropy(pooled, &draw.labels)
            }
        };
        let counted = Counted::Matching;
        Some(vec![self.own("matching", config.weight, value, counted)])
    }

    fn mlm(&self) -> Option<Vec<LossTerm>> {
        let config = self.config.mlm.as_ref()?;
        let pass = self.pass(MLM_PASS)?;
        let (_, targets) = self.input.mlm.as_ref()?;
        let asked = pass.text_at(&targets.positions);
        let value = self.words(asked, &targets.labels)?;
        Some(vec![self.own("mlm", config.weight, value, Counted::Words)])
    }

    /// Loss of hidden words.
    fn words(&self, asked: Tensor<2>, labels: &[u32]) -> Option<Tensor<1>> {
        let head = self.model.mlm_head.as_ref()?;
        Some(head.loss(asked, labels, &self.model.text.words))
    }

    /// Everything that is asked of one pass behind the masks of a scene graph.
    fn knowledge(&self) -> Option<Vec<LossTerm>> {
        let config = self.config.knowledge.as_ref()?;
        let input = self.input.knowledge.as_ref()?;
        let pass = self.pass(KNOWLEDGE_PASS)?;
        let mut terms = Vec::new();
        let words = self.words(pass.text_at(&input.words.positions), &input.words.labels)?;
        let counted = Counted::KnowledgeWords;
        terms.push(self.own("knowledge_words", config.words, words, counted));
        if let Some(head) = &self.model.region_head {
            let guess = head.forward(pass.image_at(&input.targets.rows));
            let targets = &input.targets;
            let features = feature_loss(guess.features, &targets.features);
            let objects = sure_class_loss(guess.objects, &targets.objects);
            let attributes = sure_class_loss(guess.attributes, &targets.attributes);
            terms.extend([
                self.own(
                    "knowledge_features",
                    config.features,
                    features,
                    Counted::KnowledgeRegions,
                ),
                self.own(
                    "knowledge_objects",
                    config.objects,
                    objects,
                    Counted::KnowledgeObjects,
                ),
                self.own(
                    "knowledge_attributes",
                    config.attributes,
                    attributes,
                    Counted::KnowledgeAttributes,
                ),
            ]);
        }
        let labels = &input.matching.labels;
        if let Some(head) = &self.model.match_head {
            let pooled = self.model.pooled(&pass.fused);
            let value = head.classifier.cross_entropy(pooled, labels);
            let counted = Counted::KnowledgePairs;
            terms.push(self.own("knowledge_matching", config.matching, value, counted));
        }
        if config.transport != 0.0 {
            let distances = transport_distance(&pass.fused.text, &pass.fused.image);
            let value = transport_loss(distances, labels);
            let counted = Counted::KnowledgePairs;
            terms.push(self.own("knowledge_transport", config.transport, value, counted));
        }
        Some(terms)
    }

    fn grounding(&self) -> Option<Vec<LossTerm>> {
        let config = self.config.grounding.as_ref()?;
        let head = self.model.ground_head.as_ref()?;
        let targets = self.input.grounding.as_ref()?;
        let image = &self.pass(GROUNDING_PASS)?.fused.image;
        let (ranks, shifts) = head.forward(image.rows.clone());
        let rank = rank_loss(&ranks, &image.spans, targets);
        let shift = shift_loss(shifts, targets);
        Some(vec![
            self.own("grounding_rank", config.rank, rank, Counted::GroundRegions),
            self.own(
                "grounding_shift",
                config.shift,
                shift,
                Counted::RightRegions,
            ),
        ])
    }

    fn contrastive(&self) -> Option<Vec<LossTerm>> {
        let config = self.config.contrastive.as_ref()?;
        if self.model.contrasts_fused() {
            let sides = self.model.project_fused(&self.pass(class_pass(0))?.fused)?;
            let temperature = self.temperature(config.temperature)?;
            let value = contrastive_loss(self.gather.sides(sides), temperature);
            let own = self.input.fused_size;
            let term = LossTerm::gathered("contrastive", config.weight, value, own);
            return Some(vec![term]);
        }
        let text = self.features.texts.get(&TextView::Clean)?;
        let image = self.features.images.get(&ImageView::Complete)?;
        let pairs = self.input.pairs;
        let own: Vec<usize> = (0..pairs).map(|row| row * self.input.pictures).collect();
        let image = image.select(&own);
        let class_tokens = self.input.class_tokens();
        let image = self.model.project_image(&image, class_tokens)?;
        let temperature = self.temperature(config.temperature)?;
        let value = match config.direction {
            ContrastDirection::Both => {
                let text = self.model.project_text(&text.narrow(0, pairs))?;
                contrastive_loss(self.gather.sides([text, image]), temperature)
            }
            ContrastDirection::ImageToText => {
                let texts = self.model.project_text(text)?;
                // Texts of all pairs first, those without an image behind them.
                let paired = texts.clone().narrow(0, 0, pairs);
                let [paired, image] = self.gather.pairs([paired, image]);
                // Borrowed texts are among those of the pairs already.
                let others = texts.dims()[0] - pairs - self.input.borrowed;
                let others = self.gather.all(texts.narrow(0, pairs, others));
                let texts = match others.dims() {
                    [0, _] => paired,
                    _ => Tensor::cat(vec![paired, others], 0),
                };
                image_to_text_loss(texts, image, temperature)
            }
        };
        // A learned temperature has a part of its gradient even where there is no pair.
        let own = match config.temperature {
            None => pairs.max(1),
            Some(_) => pairs,
        };
        let weight = config.weight;
        Some(vec![LossTerm::gathered("contrastive", weight, value, own)])
    }

    /// Each target comes from the pass in which the *other* modality is masked.
    fn global_completion(&self) -> Option<Vec<LossTerm>> {
        let config = self.config.global_completion.as_ref()?;
        let masked_image = &self.pass(MASKED_IMAGE_PASS)?.fused;
        let masked_text = &self.pass(MASKED_TEXT_PASS)?.fused;
        let globals = [masked_image.frame_globals(), masked_text.frame_globals()];
        let own = self.input.fused_size;
        let [_, frames, _] = globals[0].dims();
        let sides = self
            .gather
            .sides(globals.map(|side| side.flatten::<2>(1, 2)));
        let image = frame_completion_loss(&sides, frames, config.temperature);
        let (recovered, complete) = (masked_text.text_global(), masked_image.text_global());
        let text = self.completion(recovered, complete, config.temperature);
        Some(vec![
            LossTerm::gathered("global_completion_image", config.image_weight, image, own),
            LossTerm::gathered("global_completion_text", config.text_weight, text, own),
        ])
    }

    /// As in global completion, targets come from the pass that masks the other modality.
    fn local_completion(&self) -> Option<Vec<LossTerm>> {
        let config = self.config.local_completion.as_ref()?;
        let masked_text = self.pass(MASKED_TEXT_PASS)?;
        let mut terms = Vec::new();
        if self.config.completes_patches() {
            let rows = &self.features.hidden;
            let recovered = self.pass(HIDDEN_PATCHES_PASS)?.image_at(rows);
            let complete = masked_text.image_at(rows);
            let value = self.completion(recovered, complete, config.temperature);
            let name = "local_completion_image";
            let own = rows.len();
            terms.push(LossTerm::gathered(name, config.image_weight, value, own));
        }
        if self.config.completes_words() {
            let rows = &self.input.masked.as_ref()?.positions;
            let recovered = masked_text.text_at(rows);
            let complete = self.pass(MASKED_IMAGE_PASS)?.text_at(rows);
            let value = self.completion(recovered, complete, config.temperature);
            let name = "local_completion_text";
            let own = rows.len();
            terms.push(LossTerm::gathered(name, config.text_weight, value, own));
        }
        Some(terms)
    }

    fn classification(&self) -> Option<Vec<LossTerm>> {
        let config = self.config.classification.as_ref()?;
        let head = self.model.class_head.as_ref()?;
        let pooled = (0..self.input.pictures)
            .map(|picture| Some(self.model.pooled(&self.pass(class_pass(picture))?.fused)))
            .collect::<Option<Vec<_>>>()?;
        let pooled = Tensor::cat(pooled, 1);
        let value = match self.input.classes.as_ref()? {
            ClassTargets::Class(classes) => head.loss(pooled, classes),
            ClassTargets::Worth(worth) => binary_loss(head.forward(pooled), worth),
            ClassTargets::Shares(shares) => divergence_loss(head.forward(pooled), shares),
        };
        let counted = Counted::Classes;
        Some(vec![self.own(
            "classification",
            config.weight,
            value,
            counted,
        )])
    }

    fn cluster(&self) -> Option<Vec<LossTerm>> {
        let config = self.config.cluster.as_ref()?;
        let head = self.model.cluster_head.as_ref()?;
        let labels = self.input.clusters.as_ref()?;
        let vector = self.model.pooled(&self.pass(class_pass(0))?.fused);
        let value = cluster_loss(head, vector, labels);
        let counted = Counted::Clusters;
        Some(vec![self.own("cluster", config.weight(), value, counted)])
    }

    fn ranking(&self) -> Option<Vec<LossTerm>> {
        let config = self.config.ranking.as_ref()?;
        let head = self.model.rank_head.as_ref()?;
        let draw = self.input.ranking.as_ref()?;
        let pooled = self.model.pooled(&self.pass(RANKING_PASS)?.fused);
        let [pairs, _] = pooled.dims();
        let images = draw.candidates.len();
        let each = pairs.checked_div(images).unwrap_or(0);
        let scores = head.forward(pooled).reshape([images, each]);
        let value = ranking_loss(scores);
        let counted = Counted::Ranking;
        Some(vec![self.own("ranking", config.weight, value, counted)])
    }
}
