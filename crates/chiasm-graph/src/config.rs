//! Settings of the unified graph and of the masks led by it, as they stand in a recipe.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a relative frequency becomes the weight of an edge: `min(factor * f, limit) + floor`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FrequencyScale {
    /// Factor of the frequency.
    pub factor: f64,
    /// What the product is cut at.
    pub limit: f64,
    /// Weight of an edge that was never seen.
    pub floor: f64,
}

impl FrequencyScale {
    /// Weight of an edge whose words were seen together with relative frequency `frequency`.
    pub fn weight(&self, frequency: f64) -> f64 {
        (self.factor * frequency).min(self.limit) + self.floor
    }
}

/// The unified scene graph of a caption and its picture (USG, `specs/tbkin.md` section 2).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct GraphConfig {
    /// Overlap (IoU) above which two regions are neighbours. Default: 0.2.
    pub iou_edge: f64,
    /// Similarity of a word and a region's class from which they are joined. Default: 0.5.
    pub cross_cut: f64,
    /// Similarity above which one stands for the other in the rules `keepweights` and `randomwalk`. Default: 0.9.
    pub cross_strong: f64,
    /// Weight of an edge between an object and its attribute. Default: factor 5, limit 0.5, floor 0.2.
    pub freq_attr: FrequencyScale,
    /// Weight of an edge between an object and a word of its relation. Default: factor 20, limit 0.5, floor 0.2.
    pub freq_rel: FrequencyScale,
}

impl Default for GraphConfig {
    fn default() -> Self {
        Self {
            iou_edge: 0.2,
            cross_cut: 0.5,
            cross_strong: 0.9,
            freq_attr: FrequencyScale {
                factor: 5.0,
                limit: 0.5,
                floor: 0.2,
            },
            freq_rel: FrequencyScale {
                factor: 20.0,
                limit: 0.5,
                floor: 0.2,
            },
        }
    }
}

/// Where the probabilities of knowledge masks come from (section 3.4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MaskRule {
    /// The paper's figure (section 3.1): an anchor and its close context are hidden, and of the other side what
    /// tells little about the anchor.
    #[default]
    Figure,
    /// The published code (3.2): nothing of the other side is hidden.
    Released,
    /// The published code with the keep weights that it computes and never uses (3.2).
    Keepweights,
    /// The older published loader (3.3): probabilities of a walk of two steps.
    Randomwalk,
    /// No knowledge: every word piece and region alike.
    Off,
}

/// What an ablation leaves of knowledge masks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MaskAblation {
    /// Nothing is masked.
    None,
    /// Every word piece and region alike.
    Random,
    /// Knowledge of the anchor's own side.
    Intra,
    /// Knowledge of the other side.
    Cross,
    /// Both.
    Both,
}

/// Structural knowledge masks (SKM, section 3).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MaskConfig {
    /// Where probabilities come from. Default: `figure`.
    pub rule: MaskRule,
    /// Hide the context of anchors that are words. Default: true.
    pub intra_text: bool,
    /// Hide the context of anchors that are regions. Default: true.
    pub intra_image: bool,
    /// Hide tokens of the other side; they are never predicted. Default: true; `released` hides none anyway.
    pub cross: bool,
    /// Share of samples that are masked on the text side; the others on the image side. Default: 0.5.
    pub side_prob: f64,
    /// Probability of any word piece or region to be masked besides. Default: 0.15.
    pub base: f64,
    /// Probability of an object of the caption to be an anchor. Default: 0.5.
    pub text_anchor: f64,
    /// Probability that all neighbours of a masked region are masked with it, in `released` and `keepweights`.
    /// Default: 0.3.
    pub img_expand: f64,
    /// Probability of a region to be an anchor, times its mean similarity to the words it is joined with.
    /// Default: 0.9.
    pub grain_ratio: f64,
}

impl Default for MaskConfig {
    fn default() -> Self {
        Self {
            rule: MaskRule::default(),
            intra_text: true,
            intra_image: true,
            cross: true,
            side_prob: 0.5,
            base: 0.15,
            text_anchor: 0.5,
            img_expand: 0.3,
            grain_ratio: 0.9,
        }
    }
}

impl MaskConfig {
    /// These settings with what an ablation leaves of them. `Intra`, `Cross` and `Both` keep the rule, unless it is
    /// `Off`: then they take `Figure`.
    #[must_use]
    pub fn ablated(&self, ablation: MaskAblation) -> Self {
        let rule = if self.rule == MaskRule::Off {
            MaskRule::Figure
        } else {
            self.rule
        };
        let knowledge = |intra, cross| Self {
            rule,
            intra_text: intra,
            intra_image: intra,
            cross,
            ..self.clone()
        };
        let without = |base| Self {
            rule: MaskRule::Off,
            base,
            ..self.clone()
        };
        match ablation {
            MaskAblation::None => without(0.0),
            MaskAblation::Random => without(self.base),
            MaskAblation::Intra => knowledge(true, false),
            MaskAblation::Cross => knowledge(false, true),
            MaskAblation::Both => knowledge(true, true),
        }
    }

    /// What is wrong with the settings, as `key: reason`; `None` when they can be used.
    pub fn problem(&self) -> Option<String> {
        let shares = [
            ("side_prob", self.side_prob),
            ("base", self.base),
            ("text_anchor", self.text_anchor),
            ("img_expand", self.img_expand),
            ("grain_ratio", self.grain_ratio),
        ];
        out_of_range(&shares)
    }
}

impl GraphConfig {
    /// What is wrong with the settings, as `key: reason`; `None` when they can be used.
    pub fn problem(&self) -> Option<String> {
        let shares = [
            ("iou_edge", self.iou_edge),
            ("cross_cut", self.cross_cut),
            ("cross_strong", self.cross_strong),
            (
                "freq_attr.limit + floor",
                self.freq_attr.limit + self.freq_attr.floor,
            ),
            ("freq_attr.floor", self.freq_attr.floor),
            (
                "freq_rel.limit + floor",
                self.freq_rel.limit + self.freq_rel.floor,
            ),
            ("freq_rel.floor", self.freq_rel.floor),
        ];
        out_of_range(&shares)
    }
}

fn out_of_range(shares: &[(&str, f64)]) -> Option<String> {
    let (key, value) = shares
        .iter()
        .find(|(_, value)| !(0.0..=1.0).contains(value))?;
    Some(format!("{key}: {value} is not between 0 and 1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_saturate() {
        let config = GraphConfig::default();
        assert_eq!(config.freq_attr.weight(0.0), 0.2);
        assert!((config.freq_attr.weight(0.1) - 0.7).abs() < 1e-12);
        assert_eq!(config.freq_attr.weight(0.1), config.freq_attr.weight(1.0));
        assert_eq!(config.freq_rel.weight(0.025), config.freq_rel.weight(1.0));
    }

    #[test]
    fn unknown_keys_are_refused() {
        assert!(serde_json::from_str::<MaskConfig>(r#"{"rule": "released", "base": 0.2}"#).is_ok());
        assert!(serde_json::from_str::<MaskConfig>(r#"{"bas": 0.2}"#).is_err());
        assert!(serde_json::from_str::<GraphConfig>(r#"{"freq_attr": {"factor": 5}}"#).is_err());
    }

    #[test]
    fn ablations_are_told_apart() {
        let all = [
            MaskAblation::None,
            MaskAblation::Random,
            MaskAblation::Intra,
            MaskAblation::Cross,
            MaskAblation::Both,
        ];
        let configs: Vec<MaskConfig> = all
            .iter()
            .map(|ablation| MaskConfig::default().ablated(*ablation))
            .collect();
        for (index, config) in configs.iter().enumerate() {
            assert!(config.problem().is_none());
            assert!(configs[..index].iter().all(|other| other != config));
        }
        assert_eq!(configs[4], MaskConfig::default());
        let bad = MaskConfig {
            base: 1.5,
            ..MaskConfig::default()
        };
        assert_eq!(
            bad.problem().as_deref(),
            Some("base: 1.5 is not between 0 and 1")
        );
        let bad = GraphConfig {
            iou_edge: f64::NAN,
            ..GraphConfig::default()
        };
        assert!(bad.problem().is_some());
    }
}
