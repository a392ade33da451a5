//! Objectives as they stand in a recipe: an objective whose table is present is on.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::plan::Objective;

/// `[objectives.contrastive]`: image–text contrast of the towers' summaries (ITC,
/// `specs/scl.md` section 2.2).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ContrastiveConfig {
    /// Factor in the total loss. Default: 1; the loss is the mean of both directions.
    pub weight: f64,
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

impl Default for ContrastiveConfig {
    fn default() -> Self {
        Self { weight: 1.0 }
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

/// `[objectives]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ObjectivesConfig {
    /// Share of a batch that the objectives on the fusion encoder see (matching, MLM,
    /// completion); the contrast sees all of it. They cost several times what it costs, and it
    /// gains more from every further pair. Default: 1.
    pub fused_share: f64,
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
}

impl Default for ObjectivesConfig {
    fn default() -> Self {
        Self {
            fused_share: 1.0,
            contrastive: None,
            matching: None,
            mlm: None,
            global_completion: None,
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

    /// Objectives that are on, in the order in which the published model lists them.
    #[must_use]
    pub fn enabled(&self) -> Vec<Objective> {
        [
            (self.matching.is_some(), Objective::Matching),
            (self.mlm.is_some(), Objective::Mlm),
            (self.contrastive.is_some(), Objective::Contrastive),
            (
                self.global_completion.is_some(),
                Objective::GlobalCompletion,
            ),
        ]
        .into_iter()
        .filter_map(|(on, objective)| on.then_some(objective))
        .collect()
    }
}
