//! The forward plan: which encoder passes a set of objectives needs, each distinct
//! (input, mask) exactly once (`specs/scl.md` section 3).

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::config::ObjectivesConfig;

/// What a model can be trained for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Objective {
    /// ITM.
    Matching,
    /// MLM.
    Mlm,
    /// ITC.
    Contrastive,
    /// MVSC and MLSC.
    GlobalCompletion,
    /// MLTC.
    LocalCompletion,
    /// Classes of pairs: VQA, NLVR2, SNLI-VE.
    Classification,
    /// The right text among others.
    Ranking,
    /// What a scene graph's masks hide: words, regions, and whether both belong together.
    Knowledge,
    /// The region that a text refers to.
    Grounding,
    /// Groups found without labels.
    Cluster,
}

impl Objective {
    /// All of them, in the order in which the published model lists them.
    pub const ALL: [Self; 10] = [
        Self::Matching,
        Self::Mlm,
        Self::Contrastive,
        Self::GlobalCompletion,
        Self::LocalCompletion,
        Self::Classification,
        Self::Ranking,
        Self::Knowledge,
        Self::Grounding,
        Self::Cluster,
    ];
}

impl fmt::Display for Objective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Matching => "matching",
            Self::Mlm => "mlm",
            Self::Contrastive => "contrastive",
            Self::GlobalCompletion => "global_completion",
            Self::LocalCompletion => "local_completion",
            Self::Classification => "classification",
            Self::Ranking => "ranking",
            Self::Knowledge => "knowledge",
            Self::Grounding => "grounding",
            Self::Cluster => "cluster",
        })
    }
}

/// A view of the pictures of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ImageView {
    /// All patches.
    Complete,
    /// A random few patches; the others never enter the encoder.
    Dropped,
    /// All patches, of which a random few are the mask token.
    Hidden,
    /// All regions, of which those have no features that a scene graph's mask hides.
    Knowledge,
}

impl ImageView {
    /// All views.
    pub const ALL: [Self; 4] = [Self::Complete, Self::Dropped, Self::Hidden, Self::Knowledge];
}

impl fmt::Display for ImageView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Complete => "complete",
            Self::Dropped => "most patches dropped",
            Self::Hidden => "some patches hidden",
            Self::Knowledge => "regions hidden by knowledge",
        })
    }
}

/// A view of the texts of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TextView {
    /// As given.
    Clean,
    /// Corrupted for masked language modelling.
    Mlm,
    /// Masked for completion.
    Masked,
    /// Masked as a scene graph says.
    Knowledge,
}

impl fmt::Display for TextView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Clean => "clean",
            Self::Mlm => "corrupted words",
            Self::Masked => "masked words",
            Self::Knowledge => "words hidden by knowledge",
        })
    }
}

/// Which image a text is fused with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pairing {
    /// Its own; of several that it speaks of, the one with this number.
    Own(usize),
    /// For about half of the texts another sample's.
    Matching,
    /// For a part of the texts another sample's, drawn for the masks of a scene graph.
    Knowledge,
    /// Every image with its own text and with others.
    Candidates,
}

/// One run of the fusion encoder over the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FusionPass {
    /// Which images enter.
    pub image: ImageView,
    /// Which texts enter.
    pub text: TextView,
    /// How they are paired.
    pub pairing: Pairing,
}

impl fmt::Display for FusionPass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "image {}, text {}", self.image, self.text)?;
        match self.pairing {
            Pairing::Own(0) => Ok(()),
            Pairing::Own(picture) => write!(f, ", picture {}", picture + 1),
            Pairing::Matching | Pairing::Knowledge => f.write_str(", half of them of other pairs"),
            Pairing::Candidates => f.write_str(", each with all candidates"),
        }
    }
}

/// Complete image with the image that matching drew, clean text.
pub const MATCHING_PASS: FusionPass = FusionPass {
    image: ImageView::Complete,
    text: TextView::Clean,
    pairing: Pairing::Matching,
};
/// Complete image, text corrupted for MLM.
pub const MLM_PASS: FusionPass = FusionPass {
    image: ImageView::Complete,
    text: TextView::Mlm,
    pairing: Pairing::Own(0),
};
/// Pass V of the completion objectives: masked image, complete text.
pub const MASKED_IMAGE_PASS: FusionPass = FusionPass {
    image: ImageView::Dropped,
    text: TextView::Clean,
    pairing: Pairing::Own(0),
};
/// Pass L of the completion objectives: complete image, masked text.
pub const MASKED_TEXT_PASS: FusionPass = FusionPass {
    image: ImageView::Complete,
    text: TextView::Masked,
    pairing: Pairing::Own(0),
};
/// Pass M of local completion: some patches hidden, complete text.
pub const HIDDEN_PATCHES_PASS: FusionPass = FusionPass {
    image: ImageView::Hidden,
    text: TextView::Clean,
    pairing: Pairing::Own(0),
};
/// Complete images, each with the texts that ranking chooses from.
pub const RANKING_PASS: FusionPass = FusionPass {
    image: ImageView::Complete,
    text: TextView::Clean,
    pairing: Pairing::Candidates,
};

/// Text and regions behind masks that a scene graph leads.
pub const KNOWLEDGE_PASS: FusionPass = FusionPass {
    image: ImageView::Knowledge,
    text: TextView::Knowledge,
    pairing: Pairing::Knowledge,
};
/// Complete regions with the text that refers to one of them.
pub const GROUNDING_PASS: FusionPass = FusionPass {
    image: ImageView::Complete,
    text: TextView::Clean,
    pairing: Pairing::Own(0),
};

/// Complete picture number `picture` of those that a text speaks of, clean text.
#[must_use]
pub fn class_pass(picture: usize) -> FusionPass {
    FusionPass {
        image: ImageView::Complete,
        text: TextView::Clean,
        pairing: Pairing::Own(picture),
    }
}

/// Everything a step has to compute, without repetition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ForwardPlan {
    /// Runs of the image tower.
    pub images: BTreeSet<ImageView>,
    /// Runs of the text tower.
    pub texts: BTreeSet<TextView>,
    /// Runs of the fusion encoder.
    pub fusions: BTreeSet<FusionPass>,
    /// Whether masked words are read of the completion passes, not their summaries alone.
    pub completes_words: bool,
    /// Whether all tokens of the pairs as they are are read, for a contrast of their means.
    pub contrasts_fused: bool,
}

impl ForwardPlan {
    /// Union of what the objectives need, when a text speaks of `pictures` pictures.
    #[must_use]
    pub fn new(config: &ObjectivesConfig, pictures: usize) -> Self {
        let mut plan = Self::default();
        for objective in config.enabled() {
            match objective {
                Objective::Contrastive => {
                    plan.images.insert(ImageView::Complete);
                    plan.texts.insert(TextView::Clean);
                }
                Objective::Matching => plan.add(MATCHING_PASS),
                Objective::Mlm => plan.add(MLM_PASS),
                Objective::GlobalCompletion => {
                    plan.add(MASKED_IMAGE_PASS);
                    plan.add(MASKED_TEXT_PASS);
                }
                Objective::LocalCompletion => {
                    plan.add(MASKED_TEXT_PASS);
                    if config.completes_words() {
                        plan.add(MASKED_IMAGE_PASS);
                        plan.completes_words = true;
                    }
                    if config.completes_patches() {
                        plan.add(HIDDEN_PATCHES_PASS);
                    }
                }
                Objective::Classification => {
                    (0..pictures).for_each(|picture| plan.add(class_pass(picture)));
                }
                Objective::Ranking => plan.add(RANKING_PASS),
                Objective::Knowledge => plan.add(KNOWLEDGE_PASS),
                Objective::Grounding => plan.add(GROUNDING_PASS),
                Objective::Cluster => plan.add(class_pass(0)),
            }
        }
        plan
    }

    /// The same where a contrast is one of fused pairs, not of what the towers gave: of models that never
    /// see one side alone.
    #[must_use]
    pub fn contrasting_fused(mut self, config: &ObjectivesConfig, fused: bool) -> Self {
        if fused && config.contrastive.is_some() {
            self.contrasts_fused = true;
            self.add(class_pass(0));
        }
        self
    }

    fn add(&mut self, pass: FusionPass) {
        self.images.insert(pass.image);
        self.texts.insert(pass.text);
        self.fusions.insert(pass);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{
        ContrastiveConfig, GlobalCompletionConfig, LocalCompletionConfig, MatchingConfig, MlmConfig,
    };

    fn scl(local: bool) -> ObjectivesConfig {
        ObjectivesConfig {
            contrastive: Some(ContrastiveConfig::default()),
            matching: Some(MatchingConfig::default()),
            mlm: Some(MlmConfig::default()),
            global_completion: Some(GlobalCompletionConfig::default()),
            local_completion: local.then(LocalCompletionConfig::default),
            ..ObjectivesConfig::default()
        }
    }

    fn sizes(plan: &ForwardPlan) -> [usize; 3] {
        [plan.images.len(), plan.texts.len(), plan.fusions.len()]
    }

    /// Invariant E2 of `specs/scl.md`: the reference runs 5 text, 5 image and 4 fusion passes, with
    /// local completion 6, 6 and 5.
    #[test]
    fn shared_plan_runs_every_distinct_input_once() {
        assert_eq!(sizes(&ForwardPlan::new(&scl(false), 1)), [2, 3, 4]);
        assert_eq!(sizes(&ForwardPlan::new(&scl(true), 1)), [3, 3, 5]);
        for (local, expected) in [(false, [5, 5, 4]), (true, [6, 6, 5])] {
            let sets = scl(local).sets();
            let sizes = sets.iter().map(|set| sizes(&ForwardPlan::new(set, 1)));
            let sum = sizes.fold([0; 3], |sum, sizes| [0, 1, 2].map(|i| sum[i] + sizes[i]));
            // One text run less: the published code encodes the clean text once a pass.
            let texts_again = usize::from(local);
            assert_eq!(sum, [expected[0], expected[1] - texts_again, expected[2]]);
        }
    }

    /// The pair's vector is one pass over what the contrast reads.
    #[test]
    fn groups_share_the_towers_with_the_contrast() {
        let objectives = ObjectivesConfig::default().with_tasks("1+4").unwrap();
        let plan = ForwardPlan::new(&objectives, 1);
        assert_eq!(sizes(&plan), [1, 1, 1]);
        assert!(plan.fusions.contains(&class_pass(0)));
    }

    #[test]
    fn contrast_alone_needs_no_fusion() {
        let plan = ForwardPlan::new(&scl(false).only(Objective::Contrastive), 1);
        assert!(plan.fusions.is_empty());
    }
}
