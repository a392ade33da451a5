//! Objectives as they stand in a recipe: an objective whose table is present is on.

use std::path::PathBuf;

use chiasm_graph::config::{GraphConfig, MaskAblation, MaskConfig};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::plan::Objective;

/// What looks for what in the contrast of texts and images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ContrastDirection {
    /// Texts for images and images for texts.
    #[default]
    Both,
    /// Images for texts alone: the published fine-tuning for retrieval (`specs/scl.md` section 6.3).
    ImageToText,
}

/// `[objectives.contrastive]`: image–text contrast of the towers' summaries (ITC,
/// `specs/scl.md` section 2.2).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ContrastiveConfig {
    /// Factor in the total loss. Default: 1; the loss is the mean of its directions.
    pub weight: f64,
    /// What looks for what. Default: `both`.
    pub direction: ContrastDirection,
    /// A constant temperature in place of the learned one; ITR's is 1 (`specs/itr.md` section 2.4).
    /// Default: none, it is learned from `model.temperature` on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
}

/// `[objectives.matching]`: does this text belong to this image (ITM, section 2.3)?
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MatchingConfig {
    /// Factor in the total loss. Default: 1.
    pub weight: f64,
}

/// `[objectives.mlm]`: masked words from the other words and the image (MLM, section 2.4).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MlmConfig {
    /// Factor in the total loss. Default: 1.
    pub weight: f64,
    /// Share of words chosen; at least one a text. Default: 0.15.
    pub probability: f64,
    /// Choose whole words rather than pieces of words. Default: true.
    pub whole_word: bool,
}

/// `[objectives.global_completion]`: the global meaning of a masked image or text from the other
/// modality (MVSC and MLSC, section 2.5).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct GlobalCompletionConfig {
    /// Factor of the image's completion (MVSC) in the total loss. Default: 1.
    pub image_weight: f64,
    /// Factor of the text's completion (MLSC) in the total loss. Default: 1.
    pub text_weight: f64,
    /// Share of patches dropped from the masked image. Default: 0.8.
    pub image_drop: f64,
    /// Share of tokens masked in the masked text. Default: 0.4.
    pub text_mask: f64,
    /// Contrast temperature, constant. Default: 0.03.
    pub temperature: f64,
    /// Draw masked tokens with replacement, as the published code does, which masks fewer than
    /// `text_mask` says. Default: false.
    pub with_replacement: bool,
}

/// `[objectives.local_completion]`: the meaning of hidden patches and masked words from the other
/// modality (MLTC, section 2.6). The masked text, and the masked image beside which words are complete,
/// are those of `global_completion`; the published values where that is off.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LocalCompletionConfig {
    /// Factor of the completion of patches in the total loss; 0 leaves it out. Default: 0.2.
    pub image_weight: f64,
    /// Factor of the completion of words in the total loss; 0 leaves it out. Default: 0.2.
    pub text_weight: f64,
    /// Share of patches hidden behind the mask token, the same ones in all frames of a clip.
    /// Default: 0.3.
    pub image_mask: f64,
    /// Contrast temperature, constant. Default: 0.03.
    pub temperature: f64,
}

/// What the classes of a classifier are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClassSource {
    /// The most frequent answers of the training samples.
    #[default]
    Answers,
    /// The labels of the training samples, such as `entailment` or `true`.
    Labels,
}

/// How far predicted and right classes are apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClassLoss {
    /// Every class is a question of its own: binary cross-entropy, summed over classes. A sample may
    /// have several right classes, each right to a degree (VQA v2).
    Binary,
    /// Divergence from the distribution of the answers given; from `binary_from` on, [`Self::Binary`]
    /// (ROSITA's schedule for VQA v2, `specs/tbkin.md` section 6.1).
    Divergence,
    /// One class is right: cross-entropy.
    #[default]
    CrossEntropy,
}

/// `[objectives.knowledge]`: masks led by a scene graph over words and regions, and what they hide
/// (ROSITA's pre-training, `specs/tbkin.md` section 3.5). One pass of the fusion encoder serves all of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct KnowledgeConfig {
    /// Factor of hidden words in the total loss. Default: 1.
    pub words: f64,
    /// Factor of the features of hidden regions. Default: 1.
    pub features: f64,
    /// Factor of the classes of hidden regions. Default: 1.
    pub objects: f64,
    /// Factor of the attributes of hidden regions. Default: 1.
    pub attributes: f64,
    /// Factor of whether text and image belong together. Default: 1.
    pub matching: f64,
    /// Factor of the optimal transport between words and regions. Default: 0.1.
    pub transport: f64,
    /// Share of pairs whose image is replaced by another one. Default: 0.5.
    pub negatives: f64,
    /// Which knowledge hides words and regions. Default: `both`.
    pub masking: MaskAblation,
    /// Text file of word vectors, GloVe's or word2vec's, that say which words and classes mean the same.
    /// Default: the built-in list of synonyms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vectors: Option<PathBuf>,
    /// How masks are drawn.
    pub masks: MaskConfig,
    /// How captions and regions become a graph.
    pub graph: GraphConfig,
}

impl Default for KnowledgeConfig {
    fn default() -> Self {
        Self {
            words: 1.0,
            features: 1.0,
            objects: 1.0,
            attributes: 1.0,
            matching: 1.0,
            transport: 0.1,
            negatives: 0.5,
            masking: MaskAblation::Both,
            vectors: None,
            masks: MaskConfig::default(),
            graph: GraphConfig::default(),
        }
    }
}

/// `[objectives.grounding]`: the region that a text refers to, and its box (referring expressions,
/// phrases; `specs/tbkin.md` section 6.2).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct GroundingConfig {
    /// Factor of the choice of a region in the total loss. Default: 1.
    pub rank: f64,
    /// Factor of the correction of its box. Default: 0.5.
    pub shift: f64,
}

impl Default for GroundingConfig {
    fn default() -> Self {
        Self {
            rank: 1.0,
            shift: 0.5,
        }
    }
}

/// `[objectives.classification]`: a class for every pair of text and image, or text and several
/// images (VQA, NLVR2, SNLI-VE; sections 6.1, 6.2, 6.5).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ClassificationConfig {
    /// Factor in the total loss. Default: 1.
    pub weight: f64,
    /// What the classes are. Default: `answers`.
    pub classes: ClassSource,
    /// The loss. Default: `cross_entropy`; `binary` for VQA v2.
    pub loss: ClassLoss,
    /// File with the answers to choose from, see `chiasm data answers`. Default: those of the training
    /// samples.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vocabulary: Option<PathBuf>,
    /// Questions that an answer must be the most frequent one of, where answers are counted. Default:
    /// 9, which gives VQA v2's 3,129.
    pub min_count: usize,
    /// Share of the steps after which `divergence` gives way to `binary`. Default: 0.2: three epochs of
    /// fifteen.
    pub binary_from: f64,
}

/// `[objectives.ranking]`: the right text of an image among those of others in the batch (section
/// 6.3).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RankingConfig {
    /// Factor in the total loss. Default: 1.
    pub weight: f64,
    /// Texts that an image chooses from, its own included. Default: 16.
    pub candidates: usize,
}

impl Default for ContrastiveConfig {
    fn default() -> Self {
        Self {
            weight: 1.0,
            direction: ContrastDirection::default(),
            temperature: None,
        }
    }
}

impl Default for LocalCompletionConfig {
    fn default() -> Self {
        Self {
            image_weight: 0.2,
            text_weight: 0.2,
            image_mask: 0.3,
            temperature: 0.03,
        }
    }
}

impl Default for ClassificationConfig {
    fn default() -> Self {
        Self {
            weight: 1.0,
            classes: ClassSource::default(),
            loss: ClassLoss::default(),
            vocabulary: None,
            min_count: 9,
            binary_from: 0.2,
        }
    }
}

impl Default for RankingConfig {
    fn default() -> Self {
        Self {
            weight: 1.0,
            candidates: 16,
        }
    }
}

impl Default for MatchingConfig {
    fn default() -> Self {
        Self { weight: 1.0 }
    }
}

impl Default for MlmConfig {
    fn default() -> Self {
        Self {
            weight: 1.0,
            probability: 0.15,
            whole_word: true,
        }
    }
}

impl Default for GlobalCompletionConfig {
    fn default() -> Self {
        Self {
            image_weight: 1.0,
            text_weight: 1.0,
            image_drop: 0.8,
            text_mask: 0.4,
            temperature: 0.03,
            with_replacement: false,
        }
    }
}

/// What groups of pairs are found in (`specs/itr.md` section 2.2). Whichever it is, they are learned
/// from text and image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClusterView {
    /// Text and image: ITR's task 1.
    #[default]
    TextImage,
    /// The text and what is written in the image, the samples' `ocr` (task 2). No pixel is read.
    TextOcr,
    /// The text and a description of the image, the samples' `caption` (task 3). No pixel is read.
    TextCaption,
}

impl ClusterView {
    /// Weight of the task in the published code: 0.2 for task 1, else 1 (section 2.5).
    #[must_use]
    pub fn published_weight(self) -> f64 {
        match self {
            Self::TextImage => 0.2,
            Self::TextOcr | Self::TextCaption => 1.0,
        }
    }
}

/// How numbers are brought to a scale before groups are found in them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClusterScale {
    /// As they come: the modality that varies more decides.
    #[default]
    None,
    /// Every column divided by its length over the chunk (the published `normalize`).
    Normalize,
    /// Every column at mean 0 and deviation 1 over the chunk (the published `scale`).
    Scale,
    /// Every modality at mean 0 and the same variance in all: neither decides alone.
    Modality,
}

/// `[objectives.cluster]`: groups that k-means finds in a chunk of unlabelled pairs, as pseudo-labels
/// of a linear head over the pair's vector; then the next chunk (ITR, `specs/itr.md` section 2.2).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ClusterConfig {
    /// What groups are found in. Default: `text_image`.
    pub view: ClusterView,
    /// Factor in the total loss. Default: the published one, 0.2 for `text_image` and 1 for the others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<f64>,
    /// Groups. Default: 4.
    pub clusters: usize,
    /// Pairs of a chunk; an epoch is divided evenly into the whole number of chunks that comes nearest.
    /// Default: 5000.
    pub chunk: usize,
    /// Starts of k-means, of which the tightest result counts. Default: 10.
    pub restarts: usize,
    /// Iterations of a start at most. Default: 300.
    pub iterations: usize,
    /// Scale of the numbers. Default: `none`.
    pub scale: ClusterScale,
    /// Begin at the centres of the chunk before, once, in place of `restarts` draws. Default: false.
    pub warm_start: bool,
    /// Number groups like those of the chunk before that hold most of the same pairs, and keep the head;
    /// false: the head is drawn anew. Default: false.
    pub align: bool,
    /// Groups of equal size, by Sinkhorn's algorithm on the distances to the centres. Default: false.
    pub balanced: bool,
    /// Forget the optimiser's running means of a head that is drawn anew. Default: false, as published.
    pub reset_moments: bool,
}

impl Default for ClusterConfig {
    fn default() -> Self {
        Self {
            view: ClusterView::default(),
            weight: None,
            clusters: 4,
            chunk: 5000,
            restarts: 10,
            iterations: 300,
            scale: ClusterScale::default(),
            warm_start: false,
            align: false,
            balanced: false,
            reset_moments: false,
        }
    }
}

impl ClusterConfig {
    /// Factor in the total loss.
    #[must_use]
    pub fn weight(&self) -> f64 {
        self.weight.unwrap_or_else(|| self.view.published_weight())
    }

    /// What no run can have.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        if self.clusters < 2 {
            return Some(format!("clusters` = {}: at least 2", self.clusters));
        }
        if self.chunk < self.clusters {
            return Some(format!(
                "chunk` = {}: at least one pair for each of {} groups",
                self.chunk, self.clusters
            ));
        }
        if self.restarts == 0 || self.iterations == 0 {
            return Some("restarts` and `iterations` are at least 1".to_owned());
        }
        let weight = self.weight();
        if !weight.is_finite() || weight < 0.0 {
            return Some(format!("weight` = {weight}: a number from 0 on"));
        }
        None
    }
}

/// `[objectives]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ObjectivesConfig {
    /// Share of a batch that the objectives on the fusion encoder see, that is all but the contrast,
    /// which sees all of it. They cost several times what it costs, and it gains more from every
    /// further pair. Default: 1.
    pub fused_share: f64,
    /// Of several ranks: whether features that were gathered from all count with 1 / ranks of their gradient in
    /// contrast and completion, as in the published code, which gathers them and then averages gradients
    /// (`specs/scl.md` section 2.1). Default: false, N ranks are one with the same batch.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub averaged_gather: bool,
    /// Image–text contrast.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contrastive: Option<ContrastiveConfig>,
    /// Image–text matching.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub matching: Option<MatchingConfig>,
    /// Masked language modelling.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mlm: Option<MlmConfig>,
    /// Global semantic completion.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub global_completion: Option<GlobalCompletionConfig>,
    /// Local semantic completion.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local_completion: Option<LocalCompletionConfig>,
    /// Classes of pairs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub classification: Option<ClassificationConfig>,
    /// Ranking of candidates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ranking: Option<RankingConfig>,
    /// Masks led by a scene graph.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub knowledge: Option<KnowledgeConfig>,
    /// The region that a text refers to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grounding: Option<GroundingConfig>,
    /// Groups found without labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<ClusterConfig>,
}

impl Default for ObjectivesConfig {
    fn default() -> Self {
        Self {
            fused_share: 1.0,
            averaged_gather: false,
            contrastive: None,
            matching: None,
            mlm: None,
            global_completion: None,
            local_completion: None,
            classification: None,
            ranking: None,
            knowledge: None,
            grounding: None,
            cluster: None,
        }
    }
}

impl ObjectivesConfig {
    /// Pairs of a batch that the objectives on the fusion encoder see: at least two, because
    /// contrast and matching need another one.
    #[must_use]
    pub fn fused_size(&self, batch_size: usize) -> usize {
        let wanted = (batch_size as f64 * self.fused_share).ceil() as usize;
        wanted.max(2).min(batch_size)
    }

    /// Objectives that are on, in the order of [`Objective::ALL`].
    #[must_use]
    pub fn enabled(&self) -> Vec<Objective> {
        let is_on = |objective: &Objective| match objective {
            Objective::Matching => self.matching.is_some(),
            Objective::Mlm => self.mlm.is_some(),
            Objective::Contrastive => self.contrastive.is_some(),
            Objective::GlobalCompletion => self.global_completion.is_some(),
            Objective::LocalCompletion => self.local_completion.is_some(),
            Objective::Classification => self.classification.is_some(),
            Objective::Ranking => self.ranking.is_some(),
            Objective::Knowledge => self.knowledge.is_some(),
            Objective::Grounding => self.grounding.is_some(),
            Objective::Cluster => self.cluster.is_some(),
        };
        Objective::ALL.into_iter().filter(is_on).collect()
    }

    /// The sets of objectives that the published code computes apart, each with passes of its own: one
    /// an objective, both completions in one.
    #[must_use]
    pub fn sets(&self) -> Vec<Self> {
        let together = self.global_completion.is_some();
        let own = |objective: &Objective| !(together && *objective == Objective::LocalCompletion);
        let set = |objective: Objective| {
            let mut set = self.only(objective);
            if objective == Objective::GlobalCompletion {
                set.local_completion.clone_from(&self.local_completion);
            }
            set
        };
        self.enabled().into_iter().filter(own).map(set).collect()
    }

    /// The same with this objective alone.
    #[must_use]
    pub fn only(&self, objective: Objective) -> Self {
        let is = |other| objective == other;
        Self {
            fused_share: self.fused_share,
            averaged_gather: self.averaged_gather,
            contrastive: self
                .contrastive
                .clone()
                .filter(|_| is(Objective::Contrastive)),
            matching: self.matching.clone().filter(|_| is(Objective::Matching)),
            mlm: self.mlm.clone().filter(|_| is(Objective::Mlm)),
            global_completion: self
                .global_completion
                .clone()
                .filter(|_| is(Objective::GlobalCompletion)),
            local_completion: self
                .local_completion
                .clone()
                .filter(|_| is(Objective::LocalCompletion)),
            classification: self
                .classification
                .clone()
                .filter(|_| is(Objective::Classification)),
            ranking: self.ranking.clone().filter(|_| is(Objective::Ranking)),
            knowledge: self.knowledge.clone().filter(|_| is(Objective::Knowledge)),
            grounding: self.grounding.clone().filter(|_| is(Objective::Grounding)),
            cluster: self.cluster.clone().filter(|_| is(Objective::Cluster)),
        }
    }

    /// The same for a setting of ITR's tasks (`specs/itr.md` section 0.2): `1`, `2`, `3`, `4`, `1+4`,
    /// `2+4` or `3+4`, or `0`, which learns labels. What the tables say of how it is done stays; the published values where there
    /// is none. `None` where it is no such setting.
    #[must_use]
    pub fn with_tasks(&self, tasks: &str) -> Option<Self> {
        if tasks == "0" {
            let classification = ClassificationConfig {
                classes: ClassSource::Labels,
                ..self.classification.clone().unwrap_or_default()
            };
            return Some(Self {
                fused_share: self.fused_share,
                averaged_gather: self.averaged_gather,
                classification: Some(classification),
                ..Self::default()
            });
        }
        let (view, contrast) = match tasks {
            "4" => (None, true),
            tasks => {
                let (first, contrast) = match tasks.strip_suffix("+4") {
                    Some(first) => (first, true),
                    None => (tasks, false),
                };
                let view = match first {
                    "1" => ClusterView::TextImage,
                    "2" => ClusterView::TextOcr,
                    "3" => ClusterView::TextCaption,
                    _ => return None,
                };
                (Some(view), contrast)
            }
        };
        let contrastive = || {
            self.contrastive.clone().unwrap_or(ContrastiveConfig {
                temperature: Some(1.0),
                ..ContrastiveConfig::default()
            })
        };
        let cluster = |view| ClusterConfig {
            view,
            ..self.cluster.clone().unwrap_or_default()
        };
        Some(Self {
            fused_share: self.fused_share,
            averaged_gather: self.averaged_gather,
            contrastive: contrast.then(contrastive),
            cluster: view.map(cluster),
            ..Self::default()
        })
    }

    /// Whether texts are masked and images dropped for completion, and how.
    #[must_use]
    pub fn completion_masks(&self) -> Option<GlobalCompletionConfig> {
        let needed = self.global_completion.is_some() || self.local_completion.is_some();
        needed.then(|| self.global_completion.clone().unwrap_or_default())
    }

    /// Whether hidden patches are completed.
    #[must_use]
    pub fn completes_patches(&self) -> bool {
        let weight = |config: &LocalCompletionConfig| config.image_weight;
        self.local_completion.as_ref().map_or(0.0, weight) != 0.0
    }

    /// Whether a loss compares pairs of a micro-batch with each other.
    #[must_use]
    pub fn compares_pairs(&self) -> bool {
        let completes = self.global_completion.is_some() || self.local_completion.is_some();
        let draws = self.matching.is_some() || self.ranking.is_some() || self.knowledge.is_some();
        self.contrastive.is_some() || completes || draws
    }

    /// Whether masked words are completed.
    #[must_use]
    pub fn completes_words(&self) -> bool {
        let weight = |config: &LocalCompletionConfig| config.text_weight;
        self.local_completion.as_ref().map_or(0.0, weight) != 0.0
    }
}
