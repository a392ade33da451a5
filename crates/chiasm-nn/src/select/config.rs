//! Selection as it stands in a recipe and in a checkpoint's `config.json`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::kernels::Rule;

/// Which keys of a row of attention are kept by themselves (`specs/tbkin.md` section 4.4): p is a
/// probability, s a score, n the number of keys, v the `value`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum RuleName {
    /// All.
    Off,
    /// p >= v.
    #[default]
    ProbAbs,
    /// p >= v / n: at least v times the mean.
    ProbRelMean,
    /// p >= v max p.
    ProbRelMax,
    /// s >= v.
    ScoreAbs,
    /// s >= mean + v standard deviations of the row.
    ScoreMean,
    /// The v largest.
    Topk,
    /// The v n largest, rounded up.
    TopkRatio,
    /// p >= the v-quantile of the row.
    Quantile,
    /// The largest that together have the probability v.
    Topp,
    /// What a gate learned for every head lets through; v is what it begins with, in times the mean.
    Learned,
}

impl RuleName {
    /// All of them but `off`.
    pub const ALL: [Self; 10] = [
        Self::ProbAbs,
        Self::ProbRelMean,
        Self::ProbRelMax,
        Self::ScoreAbs,
        Self::ScoreMean,
        Self::Topk,
        Self::TopkRatio,
        Self::Quantile,
        Self::Topp,
        Self::Learned,
    ];

    /// What it is called in a recipe.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::ProbAbs => "prob_abs",
            Self::ProbRelMean => "prob_rel_mean",
            Self::ProbRelMax => "prob_rel_max",
            Self::ScoreAbs => "score_abs",
            Self::ScoreMean => "score_mean",
            Self::Topk => "topk",
            Self::TopkRatio => "topk_ratio",
            Self::Quantile => "quantile",
            Self::Topp => "topp",
            Self::Learned => "learned",
        }
    }

    /// The rule of this name.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        let named = |rule: &Self| rule.name() == name;
        Self::ALL.into_iter().chain([Self::Off]).find(named)
    }

    /// Values that a rule can have; `None` where it needs none.
    fn range(self) -> Option<(f64, f64)> {
        match self {
            Self::Off => None,
            Self::ProbAbs | Self::ProbRelMax | Self::TopkRatio | Self::Quantile | Self::Topp => {
                Some((0.0, 1.0))
            }
            Self::ProbRelMean | Self::Learned => Some((0.0, f64::INFINITY)),
            Self::ScoreAbs | Self::ScoreMean => Some((f64::NEG_INFINITY, f64::INFINITY)),
            Self::Topk => Some((1.0, f64::INFINITY)),
        }
    }

    /// The rule with a value.
    ///
    /// While training begins, `strength` goes from 0 to 1, and the rule from one that keeps all to
    /// itself; where no value keeps all, it comes at once, at its end.
    pub(crate) fn with(self, value: f64, strength: f64) -> Option<Rule> {
        let from = |dense: f64| (dense + (value - dense) * strength) as f32;
        let at_once = strength >= 1.0;
        match self {
            Self::Off | Self::Learned => None,
            Self::ProbAbs => Some(Rule::Probability(from(0.0))),
            Self::ProbRelMean => Some(Rule::TimesMean(from(0.0))),
            Self::ProbRelMax => Some(Rule::ShareOfMax(from(0.0))),
            Self::ScoreAbs => at_once.then_some(Rule::Score(value as f32)),
            Self::ScoreMean => at_once.then_some(Rule::Deviations(value as f32)),
            Self::Topk => at_once.then_some(Rule::Top(value as usize)),
            Self::TopkRatio => Some(Rule::TopShare(from(1.0))),
            Self::Quantile => Some(Rule::Quantile(from(0.0))),
            Self::Topp => Some(Rule::Mass(from(1.0))),
        }
    }
}

/// What is done with a row of which a rule keeps nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FallbackName {
    /// Its largest key is kept.
    #[default]
    Argmax,
    /// All of its keys are kept.
    Dense,
}

/// A block of the score matrix: rows of one modality, columns of one.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum BlockName {
    /// Words that look at words.
    Tt,
    /// Words that look at the picture.
    Tv,
    /// A picture's tokens that look at words.
    Vt,
    /// A picture's tokens that look at the picture.
    Vv,
}

impl BlockName {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Tt, Self::Tv, Self::Vt, Self::Vv];
}

/// Which rows of the score matrix select.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RowsName {
    /// All.
    #[default]
    All,
    /// The first token of every sequence.
    ClsOnly,
}

/// `[model.select]`: attention that keeps only what passes a threshold (`specs/tbkin.md`
/// section 4), in the fusion encoder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SelectConfig {
    /// Which keys are kept. Default: `prob_abs`.
    pub rule: RuleName,
    /// The rule's value. Default: 0.005.
    pub value: f64,
    /// Whether what is kept is made to sum to 1 again. Default: true.
    pub renorm: bool,
    /// What is done with a row of which nothing is kept. Default: `argmax`.
    pub fallback: FallbackName,
    /// Whether a token always keeps itself. Default: false.
    pub protect_self: bool,
    /// Whether the first key of a sequence is always kept. Default: false.
    pub protect_cls: bool,
    /// Layers that select, from 0, those below 0 counted from the last one, -1. Empty: all.
    /// Default: empty.
    pub layers: Vec<i64>,
    /// Heads that select, from 0. Empty: all. Default: empty.
    pub heads: Vec<usize>,
    /// Blocks that select; the others keep all of their keys. While a learned gate opens gradually it acts on
    /// whole rows: of one stream, on all of its blocks. Default: all four.
    pub blocks: Vec<BlockName>,
    /// Rows that select. Default: `all`.
    pub rows: RowsName,
    /// Whether it acts while training. Default: true.
    pub train: bool,
    /// Whether it acts in evaluation and use. Default: true.
    pub eval: bool,
    /// Steps over which the value grows from one that keeps all. Without: the learning rate's warm-up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup_steps: Option<usize>,
    /// Softness of learned gates at the end of training; they begin at 1. Default: 0.1.
    pub gate_temperature: f64,
}

impl Default for SelectConfig {
    fn default() -> Self {
        Self {
            rule: RuleName::default(),
            value: 0.005,
            renorm: true,
            fallback: FallbackName::default(),
            protect_self: false,
            protect_cls: false,
            layers: Vec::new(),
            heads: Vec::new(),
            blocks: BlockName::ALL.to_vec(),
            rows: RowsName::default(),
            train: true,
            eval: true,
            warmup_steps: None,
            gate_temperature: 0.1,
        }
    }
}

impl SelectConfig {
    /// These settings with a rule and value as they are typed: `prob_abs=0.01`, or `off`.
    ///
    /// # Errors
    /// Another form, an unknown rule, a value that the rule cannot have.
    pub fn typed(&self, text: &str) -> Result<Self, String> {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (text, None),
        };
        let known = || {
            let names: Vec<_> = RuleName::ALL.iter().map(|rule| rule.name()).collect();
            names.join(", ")
        };
        let rule = RuleName::of(name)
            .ok_or_else(|| format!("there is no rule `{name}`: take off, {}", known()))?;
        let value = match value {
            Some(value) => value
                .parse()
                .map_err(|_| format!("`{value}` is not a number"))?,
            None if rule == RuleName::Off => self.value,
            None => return Err(format!("write `{name}=VALUE`, such as `prob_abs=0.005`")),
        };
        Ok(Self {
            rule,
            value,
            ..self.clone()
        })
    }

    /// Refuses values that a rule cannot have, parts of attention that it cannot be of, and layers and heads that are
    /// not there.
    ///
    /// # Errors
    /// What is wrong, in one sentence that names the key.
    pub fn validate(&self, [layers, heads]: [usize; 2]) -> Result<(), String> {
        let name = self.rule.name();
        if let Some((least, most)) = self.rule.range() {
            let inside = self.value.is_finite() && self.value >= least && self.value <= most;
            if !inside {
                let value = self.value;
                return Err(format!(
                    "`value` = {value}: rule `{name}` takes {least} to {most}"
                ));
            }
        }
        if !(self.gate_temperature > 0.0 && self.gate_temperature <= 1.0) {
            let value = self.gate_temperature;
            return Err(format!(
                "`gate_temperature` = {value}: must be above 0, and 1 at most"
            ));
        }
        if self.blocks.is_empty() {
            return Err("`blocks` is empty: `rule = \"off\"` turns selection off".to_owned());
        }
        let outside = |layer: &&i64| layer_of(**layer, layers).is_none();
        if let Some(layer) = self.layers.iter().find(outside) {
            return Err(format!(
                "`layers` has {layer}: the fusion encoder has {layers} layers"
            ));
        }
        // A gate that opens gradually weighs every key of a row; what it learned would not hold for a part of them.
        let parts = [
            ("heads", !self.heads.is_empty()),
            ("rows", self.rows != RowsName::All),
            ("protect_self", self.protect_self),
            ("protect_cls", self.protect_cls),
        ];
        if let (RuleName::Learned, Some((key, _))) = (self.rule, parts.iter().find(|(_, is)| *is)) {
            return Err(format!(
                "`{key}`: rule `learned` is of all heads, rows and keys; take another rule, or leave `{key}` out"
            ));
        }
        if let Some(head) = self.heads.iter().find(|head| **head >= heads) {
            return Err(format!(
                "`heads` has {head}: the fusion encoder has {heads} heads"
            ));
        }
        Ok(())
    }

    /// Whether a layer of so many selects.
    pub(crate) fn has_layer(&self, layer: usize, layers: usize) -> bool {
        let named = |named: &i64| layer_of(*named, layers) == Some(layer);
        self.layers.is_empty() || self.layers.iter().any(named)
    }
}

/// The layer that a recipe's number means.
fn layer_of(number: i64, layers: usize) -> Option<usize> {
    let count = i64::try_from(layers).ok()?;
    let place = if number < 0 { number + count } else { number };
    usize::try_from(place).ok().filter(|place| *place < layers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back() {
        for rule in RuleName::ALL {
            assert_eq!(RuleName::of(rule.name()), Some(rule));
            let json = serde_json::to_value(rule).unwrap();
            assert_eq!(json, rule.name());
        }
        assert_eq!(RuleName::of("threshold"), None);
    }

    #[test]
    fn typed_rules() {
        let base = SelectConfig::default();
        let found = base.typed("topk=3").unwrap();
        assert_eq!((found.rule, found.value), (RuleName::Topk, 3.0));
        assert_eq!(base.typed("off").unwrap().rule, RuleName::Off);
        for (text, part) in [
            ("topk", "topk=VALUE"),
            ("threshold=1", "prob_abs"),
            ("topp=x", "not a number"),
        ] {
            assert!(base.typed(text).unwrap_err().contains(part), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_is_named() {
        let size = [2, 4];
        let with = |edit: &dyn Fn(&mut SelectConfig)| {
            let mut config = SelectConfig::default();
            edit(&mut config);
            config.validate(size)
        };
        assert_eq!(with(&|_| {}), Ok(()));
        assert_eq!(with(&|config| config.layers = vec![-2, 1]), Ok(()));
        for (edit, part) in [
            (
                &(|c: &mut SelectConfig| c.value = 1.5) as &dyn Fn(&mut SelectConfig),
                "takes 0 to 1",
            ),
            (&|c| c.value = f64::NAN, "`value`"),
            (&|c| c.layers = vec![2], "2 layers"),
            (&|c| c.layers = vec![-3], "2 layers"),
            (&|c| c.heads = vec![4], "4 heads"),
            (&|c| c.blocks.clear(), "`blocks`"),
            (&|c| c.gate_temperature = 0.0, "gate_temperature"),
            (
                &|c| (c.rule, c.protect_cls) = (RuleName::Learned, true),
                "`protect_cls`: rule `learned`",
            ),
        ] {
            let message = with(edit).unwrap_err();
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn warming_up_begins_with_everything() {
        for rule in RuleName::ALL {
            match rule.with(0.25, 0.0) {
                None
                | Some(
                    Rule::Probability(0.0)
                    | Rule::TimesMean(0.0)
                    | Rule::ShareOfMax(0.0)
                    | Rule::Quantile(0.0)
                    | Rule::TopShare(1.0)
                    | Rule::Mass(1.0),
                ) => {}
                other => panic!("{rule:?}: {other:?}"),
            }
        }
        assert_eq!(
            RuleName::ProbAbs.with(0.5, 0.5),
            Some(Rule::Probability(0.25))
        );
    }
}
