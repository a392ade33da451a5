//! Both ways to select against `fixtures/tbkin/selection`, and the invariants of `specs/tbkin.md`
//! sections 4.2 and 11.

use std::sync::Arc;

use burn::tensor::{Device, Tensor, TensorData};
use chiasm_testkit::Case;
use proptest::prelude::*;
use serde_json::Value;

use super::{Looks, Meter, RuleName, Select, SelectConfig, Selector, begin_step, metered, select};
use crate::kernels::{Keep, Place};
use crate::spans::Spans;

/// Selection in the only layer of a stack of two heads, as evaluation sees it.
fn resolved(
    config: &SelectConfig,
    words: &[usize],
    gates: Option<&[f32]>,
    device: &Device,
) -> Option<Select> {
    let selector = Selector::new(Some(config), [1, 2]);
    let gates = gates.map(|gates| {
        let data = TensorData::new(gates.to_vec(), [1, gates.len()]);
        Tensor::<2>::from_data(data, device)
    });
    selector.at(0, &Looks::Joint(words.into()), gates.as_ref(), device)
}

fn row_of(keep: &Keep, head: usize, scores: &[f32], sequence: usize, query: usize) -> Vec<f32> {
    let mut row = scores.to_vec();
    let place = Place::whole_row(sequence, [row.len(); 2], query);
    if keep.selects(head, &place) {
        keep.apply(keep.rule, &mut row, &place, &mut Vec::new());
    } else {
        let total: f32 = row.iter().map(|s| s.exp()).sum();
        row.iter_mut().for_each(|s| *s = s.exp() / total);
    }
    row.into_iter().map(|p| p.max(0.0)).collect()
}

fn config_of(variant: &Value) -> SelectConfig {
    let mut json = variant["options"].clone();
    let rule = variant["rule"].as_str().unwrap();
    json["rule"] = rule.into();
    json["value"] = match &variant["parameter"] {
        Value::Object(learned) => {
            // The fixture's softness is that of the end of a run.
            if learned["T"].as_f64().unwrap() < 1.0 {
                json["gate_temperature"] = learned["T"].clone();
            }
            0.1.into()
        }
        Value::Null => 0.0.into(),
        value => value.clone(),
    };
    serde_json::from_value(json).unwrap()
}

/// The fixture without the keys that are not there: scores of sequences that follow one another.
struct Packed {
    lens: Vec<usize>,
    words: Vec<usize>,
    /// Which of the padded tokens are there, sequence by sequence.
    real: Vec<Vec<usize>>,
    heads: usize,
    len: usize,
}

impl Packed {
    fn of(case: &Case) -> Self {
        let modality = case.tensor("inputs.modality").i64s();
        let len = modality.len();
        let valid = case.tensor("inputs.key_valid").i64s();
        let real: Vec<Vec<usize>> = valid
            .chunks(len)
            .map(|row| (0..len).filter(|key| row[*key] == 1).collect())
            .collect();
        let is_word = |key: &&usize| modality[**key] == 0;
        Self {
            lens: real.iter().map(Vec::len).collect(),
            words: real
                .iter()
                .map(|keys| keys.iter().filter(is_word).count())
                .collect(),
            real,
            heads: case.tensor("inputs.scores").shape[1],
            len,
        }
    }

    /// Of `[batch, heads, len, columns]` the rows that are there, moved to the front; of a square one
    /// the columns too. The rest is `fill`.
    fn compact(&self, values: &[f32], columns: usize, square: bool, fill: f32) -> Vec<f32> {
        let mut out = vec![fill; values.len()];
        for (sequence, real) in self.real.iter().enumerate() {
            for head in 0..self.heads {
                for (to_row, from_row) in real.iter().enumerate() {
                    let start = (sequence * self.heads + head) * self.len;
                    let (to, from) = ((start + to_row) * columns, (start + from_row) * columns);
                    if square {
                        for (to_key, from_key) in real.iter().enumerate() {
                            out[to + to_key] = values[from + from_key];
                        }
                    } else {
                        out[to..to + columns].copy_from_slice(&values[from..from + columns]);
                    }
                }
            }
        }
        out
    }

    /// Every row that is there: sequence, head, query, and where it begins in a square tensor.
    fn rows(&self) -> impl Iterator<Item = (usize, usize, usize, usize)> + '_ {
        (0..self.lens.len()).flat_map(move |sequence| {
            (0..self.heads).flat_map(move |head| {
                (0..self.lens[sequence]).map(move |query| {
                    let row = (sequence * self.heads + head) * self.len + query;
                    (sequence, head, query, row * self.len)
                })
            })
        })
    }
}

#[test]
fn every_variant_of_the_fixture() {
    let Some(case) = Case::open("tbkin/selection") else {
        return;
    };
    let packed = Packed::of(&case);
    let (len, size) = (packed.len, case.tensor("inputs.values").shape[3]);
    let shape = [packed.lens.len(), packed.heads, len, len];
    let [batch, heads, _, _] = shape;
    let scores = packed.compact(&case.tensor("inputs.scores").f32s(), len, true, -10_000.0);
    let values = packed.compact(&case.tensor("inputs.values").f32s(), size, false, 0.0);
    let weights = packed.compact(&case.tensor("inputs.grad_output").f32s(), size, false, 0.0);
    let spans = Spans::new(packed.lens.iter().copied());
    let variants = case.json["variants"].as_array().unwrap();
    assert_eq!(variants.len(), 54);
    for variant in variants {
        let index = variant["index"].as_u64().unwrap();
        let config = config_of(variant);
        let golden = |name: &str| {
            let tensor = case.tensor(&format!("{name}.{index:02}.{}", "prob"));
            packed.compact(&tensor.f32s(), len, true, 0.0)
        };
        let expected = golden("expected");
        let kept = case.tensor(&format!("expected.{index:02}.keep")).f32s();
        let kept = packed.compact(&kept, len, true, 0.0);
        let slopes = case.tensor(&format!("grads.{index:02}.scores")).f32s();
        let slopes = packed.compact(&slopes, len, true, 0.0);

        let learned = config.rule == RuleName::Learned;
        let train = variant["parameter"]["train"] != Value::Bool(false);
        let plain = Device::flex();
        let device = if learned && !train {
            plain.clone()
        } else {
            plain.clone().autodiff()
        };
        let gates = learned.then(|| case.tensor("inputs.learned_theta").f32s());
        let soft = variant["parameter"]["T"].as_f64() == Some(1.0);
        begin_step(1.0, if soft { 0.0 } else { 1.0 });
        let Some(select_here) = resolved(&config, &packed.words, gates.as_deref(), &device) else {
            assert_eq!(config.rule, RuleName::Off);
            continue;
        };

        // Plain, with its gradient.
        let tensor = |values: &[f32], columns: usize| {
            let data = TensorData::new(values.to_vec(), [batch, heads, len, columns]);
            Tensor::<4>::from_data(data, &device)
        };
        let mut input = tensor(&scores, len);
        if device.is_autodiff() {
            input = input.require_grad();
        }
        let found = select(input.clone(), [&spans, &spans], &select_here);
        let probabilities: Vec<f32> = found.clone().into_data().try_into_vec().unwrap();
        let slope: Option<Vec<f32>> = device.is_autodiff().then(|| {
            let output = found.matmul(tensor(&values, size)) * tensor(&weights, size);
            let gradients = output.sum().backward();
            let slope = input.grad(&gradients).unwrap();
            slope.into_data().try_into_vec().unwrap()
        });
        for (sequence, head, query, start) in packed.rows() {
            let count = packed.lens[sequence];
            let row = start..start + count;
            let host = (!learned).then(|| {
                row_of(
                    &select_here.keep,
                    head,
                    &scores[row.clone()],
                    sequence,
                    query,
                )
            });
            for key in 0..count {
                let at = start + key;
                let where_ = format!("variant {index}, row {sequence} {head} {query}, key {key}");
                let close = |found: f32, expected: f32, allowed: f32| {
                    let apart = (found - expected).abs();
                    assert!(apart <= allowed, "{where_}: {found} and not {expected}");
                };
                close(probabilities[at], expected[at], 1e-5);
                if !learned || !train {
                    assert_eq!(probabilities[at] > 0.0, kept[at] > 0.0, "{where_}");
                }
                if let Some(host) = &host {
                    close(host[key], expected[at], 1e-5);
                    assert_eq!(host[key] > 0.0, kept[at] > 0.0, "{where_}");
                }
                if let Some(slope) = &slope {
                    close(slope[at], slopes[at], 5e-5);
                    if config.renorm && kept[at] == 0.0 && !learned {
                        assert_eq!(slope[at], 0.0, "{where_}: a dropped score has a gradient");
                    }
                }
            }
        }
    }
    begin_step(1.0, 1.0);
}

/// `specs/tbkin.md` section 4.7.
#[test]
fn worked_numbers() {
    let scores = [2.0, 1.0, 0.5, -1.0, -3.0];
    for (value, expected) in [
        (0.01, [0.6095, 0.2242, 0.1360, 0.0303, 0.0]),
        (0.05, [0.6285, 0.2312, 0.1402, 0.0, 0.0]),
        (0.1, [0.6285, 0.2312, 0.1402, 0.0, 0.0]),
        (0.2, [0.7311, 0.2689, 0.0, 0.0, 0.0]),
        (0.3, [1.0, 0.0, 0.0, 0.0, 0.0]),
        (0.7, [1.0, 0.0, 0.0, 0.0, 0.0]),
    ] {
        let config = SelectConfig {
            value,
            ..SelectConfig::default()
        };
        let select = resolved(&config, &[5], None, &Device::flex()).unwrap();
        let found = row_of(&select.keep, 0, &scores, 0, 0);
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() <= 6e-5, "{value}: {found}");
        }
    }
}

fn keep(rule: RuleName, value: f64) -> Option<Keep> {
    let config = SelectConfig {
        rule,
        value,
        ..SelectConfig::default()
    };
    resolved(&config, &[3], None, &Device::flex()).map(|select| select.keep)
}

fn rows() -> impl Strategy<Value = Vec<f32>> {
    prop::collection::vec(-6.0f32..6.0, 1..70)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn rows_sum_to_one_and_keep_a_key(scores in rows(), value in 0.0f64..1.0) {
        for rule in RuleName::ALL.into_iter().filter(|rule| *rule != RuleName::Learned) {
            let value = if rule == RuleName::Topk { value * 40.0 + 1.0 } else { value };
            let found = row_of(&keep(rule, value).unwrap(), 0, &scores, 0, 0);
            let total: f32 = found.iter().sum();
            prop_assert!((total - 1.0).abs() < 1e-5, "{rule:?}: {total}");
            let largest = scores.iter().copied().fold(f32::MIN, f32::max);
            let at = scores.iter().position(|s| *s == largest).unwrap();
            prop_assert!(found[at] > 0.0, "{rule:?} drops the largest");
        }
    }

    #[test]
    fn a_higher_threshold_keeps_a_part(scores in rows(), low in 0.0f64..1.0, high in 0.0f64..1.0) {
        let (low, high) = if low < high { (low, high) } else { (high, low) };
        for rule in [RuleName::ProbAbs, RuleName::ProbRelMean, RuleName::ProbRelMax,
            RuleName::ScoreAbs, RuleName::ScoreMean, RuleName::Quantile] {
            let more = row_of(&keep(rule, low).unwrap(), 0, &scores, 0, 0);
            let less = row_of(&keep(rule, high).unwrap(), 0, &scores, 0, 0);
            // Rows of which nothing is kept keep the largest, which every other row keeps too.
            let inside = less.iter().zip(&more).all(|(less, more)| *less <= 0.0 || *more > 0.0);
            prop_assert!(inside, "{rule:?}");
        }
    }

    #[test]
    fn dropped_mass_is_half_the_change(scores in rows(), value in 0.0f64..0.2) {
        let dense = row_of(&keep(RuleName::ProbAbs, 0.0).unwrap(), 0, &scores, 0, 0);
        let found = row_of(&keep(RuleName::ProbAbs, value).unwrap(), 0, &scores, 0, 0);
        let change: f32 = dense.iter().zip(&found).map(|(a, b)| (a - b).abs()).sum();
        let lost: f32 = dense.iter().zip(&found).filter(|(_, b)| **b <= 0.0).map(|(a, _)| a).sum();
        prop_assert!((change - 2.0 * lost).abs() < 1e-5);
        let empty = dense.iter().all(|p| f64::from(*p) < value);
        let bound = 2.0 * (scores.len() - 1) as f64 * value;
        prop_assert!(empty || f64::from(change) <= bound + 1e-5);
    }

    #[test]
    fn what_keeps_all_is_dense(scores in rows()) {
        let dense = row_of(&keep(RuleName::ProbAbs, 0.0).unwrap(), 0, &scores, 0, 0);
        for (rule, value) in [(RuleName::ProbRelMean, 0.0), (RuleName::Topk, 1e3),
            (RuleName::Topp, 1.0), (RuleName::TopkRatio, 1.0), (RuleName::Quantile, 0.0)] {
            let found = row_of(&keep(rule, value).unwrap(), 0, &scores, 0, 0);
            for (found, dense) in found.iter().zip(&dense) {
                prop_assert!((found - dense).abs() <= 1e-6, "{rule:?}");
            }
        }
    }

    #[test]
    fn a_constant_added_to_all_scores_changes_nothing(scores in rows(), by in -3.0f32..3.0) {
        let moved: Vec<f32> = scores.iter().map(|s| s + by).collect();
        for (rule, value) in [(RuleName::ProbAbs, 0.013), (RuleName::ProbRelMax, 0.11),
            (RuleName::Topk, 3.0), (RuleName::Topp, 0.87)] {
            let keep = keep(rule, value).unwrap();
            let (a, b) = (row_of(&keep, 0, &scores, 0, 0), row_of(&keep, 0, &moved, 0, 0));
            let far = a.iter().zip(&b).filter(|(a, b)| (*a - *b).abs() > 1e-4).count();
            // A key at the threshold may fall on either side by rounding.
            prop_assert!(far == 0 || a.iter().zip(&b).filter(|(a, b)| (**a > 0.0) != (**b > 0.0)).count() == 1);
        }
    }
}

#[test]
fn a_meter_finds_the_value_that_keeps_a_share() {
    let device = Device::flex();
    let len = 40;
    let spans = Spans::new([len]);
    let scores: Vec<f32> = (0..2 * len * len)
        .map(|i| ((i * 7919 + 13) as f32 * 0.618_034).sin() * 3.0)
        .collect();
    let scores = Tensor::<4>::from_data(TensorData::new(scores, [1, 2, len, len]), &device);
    for rule in RuleName::ALL {
        if rule == RuleName::Learned {
            continue;
        }
        let meter = Arc::new(Meter::levels(rule));
        let off = SelectConfig {
            rule: RuleName::Off,
            ..SelectConfig::default()
        };
        metered(&meter, || {
            let dense = resolved(&off, &[10], None, &device).unwrap();
            select(scores.clone(), [&spans, &spans], &dense)
        });
        let found = meter.value_for(0.3).unwrap();
        let config = SelectConfig {
            rule,
            value: found.value,
            ..SelectConfig::default()
        };
        let counted = Arc::new(Meter::new());
        metered(&counted, || {
            let chosen = resolved(&config, &[10], None, &device).unwrap();
            select(scores.clone(), [&spans, &spans], &chosen)
        });
        let kept = counted.kept().unwrap();
        assert!(
            (kept - 0.3).abs() < 0.03,
            "{rule:?}: {found:?} keeps {kept}"
        );
        let heads = counted.heads();
        assert_eq!(heads.len(), 2);
        let dropped = heads.iter().map(|head| head.dropped).sum::<f64>() / 2.0;
        assert!(
            (dropped - found.dropped).abs() < 0.03,
            "{rule:?}: {found:?}, {dropped}"
        );
    }
}
