//! The forward plan: which encoder passes a set of objectives needs, each distinct
//! (input, mask) exactly once (`specs/scl.md` section 3).

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

/// A pre-training objective.
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
}

impl fmt::Display for Objective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Matching => "matching",
            Self::Mlm => "mlm",
            Self::Contrastive => "contrastive",
            Self::GlobalCompletion => "global_completion",
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
}

/// Which image a text is fused with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pairing {
    /// Its own.
    Own,
    /// For about half of the texts another sample's.
    Matching,
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
    pairing: Pairing::Own,
};
/// Pass V of the completion objective: masked image, complete text.
pub const MASKED_IMAGE_PASS: FusionPass = FusionPass {
    image: ImageView::Dropped,
    text: TextView::Clean,
    pairing: Pairing::Own,
};
/// Pass L of the completion objective: complete image, masked text.
pub const MASKED_TEXT_PASS: FusionPass = FusionPass {
    image: ImageView::Complete,
    text: TextView::Masked,
    pairing: Pairing::Own,
};

/// Everything a step has to compute, without repetition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ForwardPlan {
    /// Runs of the image tower.
    pub images: BTreeSet<ImageView>,
    /// Runs of the text tower.
    pub texts: BTreeSet<TextView>,
    /// Runs of the fusion encoder.
    pub fusions: BTreeSet<FusionPass>,
}

impl ForwardPlan {
    /// Union of what the objectives need.
    #[must_use]
    pub fn for_objectives(objectives: &[Objective]) -> Self {
        let mut plan = Self::default();
        for objective in objectives {
            match objective {
                Objective::Contrastive => {
                    plan.images.insert(ImageView::Complete);
                    plan.texts.insert(TextView::Clean);
                }
                Objective::Matching => plan.add_fusion(MATCHING_PASS),
                Objective::Mlm => plan.add_fusion(MLM_PASS),
                Objective::GlobalCompletion => {
                    plan.add_fusion(MASKED_IMAGE_PASS);
                    plan.add_fusion(MASKED_TEXT_PASS);
                }
            }
        }
        plan
    }

    fn add_fusion(&mut self, pass: FusionPass) {
        self.images.insert(pass.image);
        self.texts.insert(pass.text);
        self.fusions.insert(pass);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Objective; 4] = [
        Objective::Matching,
        Objective::Mlm,
        Objective::Contrastive,
        Objective::GlobalCompletion,
    ];

    /// Invariant E2 of `specs/scl.md`: the reference runs 5 text, 5 image and 4 fusion passes.
    #[test]
    fn shared_plan_runs_every_distinct_input_once() {
        let plan = ForwardPlan::for_objectives(&ALL);
        assert_eq!(
            (plan.images.len(), plan.texts.len(), plan.fusions.len()),
            (2, 3, 4)
        );
        let unshared: Vec<_> = ALL
            .iter()
            .map(|o| ForwardPlan::for_objectives(&[*o]))
            .collect();
        assert_eq!(unshared.iter().map(|p| p.images.len()).sum::<usize>(), 5);
        assert_eq!(unshared.iter().map(|p| p.texts.len()).sum::<usize>(), 5);
        assert_eq!(unshared.iter().map(|p| p.fusions.len()).sum::<usize>(), 4);
    }

    #[test]
    fn contrast_alone_needs_no_fusion() {
        let plan = ForwardPlan::for_objectives(&[Objective::Contrastive]);
        assert!(plan.fusions.is_empty());
    }
}
