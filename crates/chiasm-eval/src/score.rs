//! From a predictions file to figures, and from figures to a table for the terminal.
//!
//! Retrieval is here, [`classes`] has answers and labels, [`alignment`] attention on regions, [`grounding`] boxes that texts refer to,
//! [`relation`] what probes say. [`read_any`] tells their files apart.

pub mod alignment;
pub mod classes;
pub mod grounding;
pub mod relation;

use std::fmt::Write as _;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use chiasm_data::OverlapCounts;
use serde::{Deserialize, Serialize};

use crate::metrics::rerank::{evaluate_reranked, is_exhaustive, restrict, shortlist_recall};
use crate::metrics::retrieval::{self, Direction, DirectionMetrics, RetrievalMetrics, TieRule};
use crate::metrics::{Reranked, RetrievalError, ScoreMatrix};
use crate::predictions::{
    AlignmentPredictions, ClassPredictions, DatasetIdentity, GroundingPredictions, ModelIdentity,
    Predictions, PredictionsError, RelationPredictions, RerankedPair, TrainingOverlap,
    kind_of_lines,
};

pub use alignment::{AlignmentReport, render_alignment_table, score_alignment};
pub use classes::{ClassReport, render_class_table, score_classes};
pub use grounding::{GroundingReport, render_grounding_table, score_grounding};
pub use relation::{RelationReport, render_relation_table, score_relation};

/// A predictions file of any kind.
#[derive(Debug, Clone, PartialEq)]
pub enum AnyPredictions {
    /// Every text scored against every picture.
    Retrieval(Predictions),
    /// A class for every sample.
    Classes(ClassPredictions),
    /// How much attention lay on what a text names.
    Alignment(AlignmentPredictions),
    /// Which box a text refers to.
    Grounding(GroundingPredictions),
    /// What probes say of pairs.
    Relation(RelationPredictions),
}

/// Reads the predictions file at `path`, whatever its kind: retrieval is safetensors, the others are lines of JSON, whose
/// first names the kind.
///
/// # Errors
/// [`PredictionsError`], always naming the path.
pub fn read_any(path: &Path) -> Result<AnyPredictions, PredictionsError> {
    let mut start = Vec::new();
    File::open(path)
        .and_then(|file| file.take(8).read_to_end(&mut start))
        .map_err(|source| PredictionsError::Io {
            path: path.to_owned(),
            action: "read",
            source,
        })?;
    // Safetensors begin with the length of a header as eight bytes, of which the upper ones are 0; text has no 0.
    if !start.starts_with(b"{") || start.contains(&0) {
        return Predictions::read(path).map(AnyPredictions::Retrieval);
    }
    match kind_of_lines(path)?.as_str() {
        classes::KIND => ClassPredictions::read(path).map(AnyPredictions::Classes),
        alignment::KIND => AlignmentPredictions::read(path).map(AnyPredictions::Alignment),
        grounding::KIND => GroundingPredictions::read(path).map(AnyPredictions::Grounding),
        relation::KIND => RelationPredictions::read(path).map(AnyPredictions::Relation),
        other => Err(PredictionsError::Metadata {
            path: path.to_owned(),
            what: format!("its first line announces `{other}`, which this version does not know"),
        }),
    }
}

/// How much of the answers the shortlists of one direction hold.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ShortlistSide {
    /// Candidates re-scored per query.
    pub candidates: usize,
    /// Fraction of queries with a right answer among them: re-ranking cannot do better than this.
    pub recall: f64,
}

/// Shortlists of both directions.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ShortlistReport {
    /// Texts looking for their image.
    pub text_to_image: ShortlistSide,
    /// Images looking for one of their texts.
    pub image_to_text: ShortlistSide,
}

/// Beside every figure of a model that was trained on pictures it is scored on.
pub const MARK: &str = "†";

/// How much of what was scored had been trained on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverlapReport {
    /// Whether figures carry [`MARK`]: a picture was trained on. A text or id in common is none.
    pub marked: bool,
    /// Scored samples whose picture was trained on.
    pub pictures: usize,
    /// Scored samples by kind of overlap.
    pub counts: OverlapCounts,
    /// Samples trained on.
    pub training_samples: usize,
    /// The command that lists the overlap.
    pub command: String,
}

impl OverlapReport {
    /// Counts what an audit found.
    #[must_use]
    pub fn new(overlap: &TrainingOverlap) -> Self {
        let counts = OverlapCounts::of(&overlap.findings);
        Self {
            marked: counts.pictures() > 0,
            pictures: counts.pictures(),
            counts,
            training_samples: overlap.training_samples,
            command: overlap.command.clone(),
        }
    }

    /// What the mark means, in lines: how many of the `images` scored were trained on, and the
    /// command that lists them. One line when there are none.
    #[must_use]
    pub fn lines(&self, images: usize) -> Vec<String> {
        let (pictures, images) = (grouped(self.pictures), grouped(images));
        self.lines_about(&format!("{pictures} of {images} pictures"))
    }

    /// As [`OverlapReport::lines`], with the words for what was found.
    pub(crate) fn lines_about(&self, found: &str) -> Vec<String> {
        if !self.marked {
            return vec!["None of these pictures was trained on.".to_owned()];
        }
        let near = match self.counts.near_duplicate {
            1 => "near duplicate",
            _ => "near duplicates",
        };
        let kinds = [
            (self.counts.same_bytes, "same bytes"),
            (self.counts.near_duplicate, near),
        ];
        let kinds: Vec<String> = kinds
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, name)| format!("{} {name}", grouped(*count)))
            .collect();
        vec![
            format!("{MARK} {found} are also in the training data"),
            format!("  ({}):", kinds.join(", ")),
            format!("  {}", self.command),
        ]
    }
}

/// Everything a predictions file says about a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScoreReport {
    /// Name of the split.
    pub split: String,
    /// The data scored.
    pub dataset: DatasetIdentity,
    /// The model that scored.
    pub model: ModelIdentity,
    /// Images in the score table.
    pub images: usize,
    /// Texts in the score table.
    pub texts: usize,
    /// Figures of the first stage (dual encoder).
    pub dual: RetrievalMetrics,
    /// Figures after re-ranking, when the file holds a second stage.
    pub reranked: Option<RetrievalMetrics>,
    /// The shortlists that were re-ranked.
    pub shortlist: Option<ShortlistReport>,
    /// Figures after re-scoring all pairs, when the file holds them and says how long a shortlist `reranked` is of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exhaustive: Option<RetrievalMetrics>,
    /// What of the data was trained on; `None` when nobody looked.
    #[serde(default)]
    pub training_overlap: Option<OverlapReport>,
}

impl ScoreReport {
    /// Whether figures of the model carry [`MARK`].
    #[must_use]
    pub fn is_marked(&self) -> bool {
        self.training_overlap
            .as_ref()
            .is_some_and(|overlap| overlap.marked)
    }
}

/// Computes every figure that the file allows.
///
/// # Errors
/// [`RetrievalError`] when the parts of `predictions` do not fit together; a file that was read has been checked already.
pub fn score(predictions: &Predictions, ties: TieRule) -> Result<ScoreReport, RetrievalError> {
    let Predictions {
        info,
        scores,
        image_of_text,
        reranked,
    } = predictions;
    let second_stage = |pair: &RerankedPair| {
        let (texts, images) = (&pair.text_to_image, &pair.image_to_text);
        evaluate_reranked(scores, image_of_text, texts, images, ties)
    };
    let all_pairs = reranked.as_ref().filter(|pair| {
        is_exhaustive(scores, Direction::TextToImage, &pair.text_to_image)
            && is_exhaustive(scores, Direction::ImageToText, &pair.image_to_text)
    });
    let restricted = all_pairs
        .zip(info.exhaustive_shortlist)
        .map(|(pair, n)| -> Result<_, RetrievalError> {
            Ok(RerankedPair {
                text_to_image: restrict(scores, Direction::TextToImage, &pair.text_to_image, n)?,
                image_to_text: restrict(scores, Direction::ImageToText, &pair.image_to_text, n)?,
            })
        })
        .transpose()?;
    let exhaustive = all_pairs.filter(|_| restricted.is_some());
    let listed = restricted.as_ref().or(reranked.as_ref());
    let side = |direction, reranked| shortlist_side(scores, image_of_text, direction, reranked);
    let shortlist = listed
        .map(|pair| -> Result<_, RetrievalError> {
            Ok(ShortlistReport {
                text_to_image: side(Direction::TextToImage, &pair.text_to_image)?,
                image_to_text: side(Direction::ImageToText, &pair.image_to_text)?,
            })
        })
        .transpose()?;
    Ok(ScoreReport {
        split: info.split.clone(),
        dataset: info.dataset.clone(),
        model: info.model.clone(),
        images: scores.images(),
        texts: scores.texts(),
        dual: retrieval::evaluate(scores, image_of_text, ties)?,
        reranked: listed.map(second_stage).transpose()?,
        shortlist,
        exhaustive: exhaustive.map(second_stage).transpose()?,
        training_overlap: info.training_overlap.as_ref().map(OverlapReport::new),
    })
}

fn shortlist_side(
    scores: &ScoreMatrix,
    image_of_text: &[usize],
    direction: Direction,
    reranked: &Reranked,
) -> Result<ShortlistSide, RetrievalError> {
    Ok(ShortlistSide {
        candidates: reranked.candidates.iter().map(Vec::len).max().unwrap_or(0),
        recall: shortlist_recall(scores, image_of_text, direction, &reranked.candidates)?,
    })
}

/// A table for a terminal of 80 columns: both directions, chance level beside every figure.
#[must_use]
pub fn render_table(report: &ScoreReport) -> String {
    let mut table = String::new();
    let mut line = |text: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(table, "{}", text.trim_end());
    };
    let count = grouped;
    let counts = format!(
        "{} images, {} texts",
        count(report.images),
        count(report.texts)
    );
    heading(&report.dataset, &report.split, counts, &report.model).for_each(&mut line);
    let mark = if report.is_marked() { MARK } else { "" };
    let width = recall_width(mark);
    for direction in [Direction::TextToImage, Direction::ImageToText] {
        let dual = report.dual.direction(direction);
        line(String::new());
        line(format!(
            "{:<24}{:>width$}{:>width$}{:>width$}{:>14}{:>9}",
            direction.to_string(),
            "R@1",
            "R@5",
            "R@10",
            "median rank",
            "MRR"
        ));
        let chance = &dual.chance;
        line(row(
            "chance",
            [chance.recall_at_1, chance.recall_at_5, chance.recall_at_10],
            chance.median_rank,
            None,
            if mark.is_empty() { "" } else { " " },
        ));
        line(metrics_row("dual encoder", dual, mark));
        if let (Some(reranked), Some(shortlist)) = (&report.reranked, &report.shortlist) {
            let side = match direction {
                Direction::TextToImage => &shortlist.text_to_image,
                Direction::ImageToText => &shortlist.image_to_text,
            };
            line(metrics_row(
                &format!("re-ranked top {}", side.candidates),
                reranked.direction(direction),
                mark,
            ));
            line(format!(
                "  answer in shortlist   {:>width$}",
                marked(percent(side.recall), mark)
            ));
            if let Some(exhaustive) = &report.exhaustive {
                let (two, all) = (
                    reranked.direction(direction),
                    exhaustive.direction(direction),
                );
                line(metrics_row("all re-scored", all, mark));
                line(difference_row(two, all, mark));
            }
        }
    }
    line(String::new());
    line(match report.dual.tie_rule {
        TieRule::Pessimistic => "Ties count as misses.".to_owned(),
        TieRule::Optimistic => "Ties count as hits.".to_owned(),
        TieRule::StableLowestIndex => "Among ties the lower index wins.".to_owned(),
    });
    if let Some(overlap) = &report.training_overlap {
        for text in overlap.lines(report.images) {
            line(text);
        }
    }
    let stages = [&report.exhaustive, &report.reranked];
    let last = stages.into_iter().find_map(Option::as_ref);
    let broken = last.unwrap_or(&report.dual).non_finite;
    if broken > 0 {
        line(format!(
            "warning: {} scores are not finite and rank last",
            count(broken)
        ));
    }
    table
}

/// The first lines of every table: what was scored, by what.
fn heading(
    dataset: &DatasetIdentity,
    split: &str,
    counts: String,
    model: &ModelIdentity,
) -> impl Iterator<Item = String> {
    let data = format!(
        "{}, split {}",
        shorten(&dataset.name, 55),
        shorten(split, 15)
    );
    let step = model
        .step
        .map_or_else(String::new, |step| format!(", step {step}"));
    let by = format!("model {}{step}", shorten(&model.name, 55));
    let by = (!model.name.is_empty()).then_some(by);
    [data, counts].into_iter().chain(by)
}

fn metrics_row(label: &str, metrics: &DirectionMetrics, mark: &str) -> String {
    let recalls = [
        metrics.recall_at_1,
        metrics.recall_at_5,
        metrics.recall_at_10,
    ];
    row(
        label,
        recalls,
        metrics.median_rank,
        Some(metrics.mean_reciprocal_rank),
        mark,
    )
}

/// What the shortlist costs: its recalls less those of re-scoring all, in points of per cent.
fn difference_row(two_stage: &DirectionMetrics, all: &DirectionMetrics, mark: &str) -> String {
    let points = |two: f64, all: f64| {
        let tenths = ((two - all) * 1000.0).round();
        // Two more columns for the sign of per cent that stands above.
        if tenths == 0.0 {
            "0.0  ".to_owned()
        } else {
            format!("{:+.1}  ", tenths / 10.0)
        }
    };
    let cells = [
        points(two_stage.recall_at_1, all.recall_at_1),
        points(two_stage.recall_at_5, all.recall_at_5),
        points(two_stage.recall_at_10, all.recall_at_10),
    ];
    let width = recall_width(mark);
    let cells: String = cells
        .into_iter()
        .map(|cell| format!("{:>width$}", marked(cell, mark)))
        .collect();
    format!("  {:<22}{cells}", "difference, points")
}

/// `mark` follows every figure; a blank one keeps columns straight beside marked rows.
fn row(label: &str, recalls: [f64; 3], median: f64, reciprocal: Option<f64>, mark: &str) -> String {
    let [at_1, at_5, at_10] = recalls.map(|recall| marked(percent(recall), mark));
    let median = marked(format!("{median:.1}"), mark);
    let reciprocal = reciprocal.map_or_else(String::new, |value| format!("{value:.3}"));
    let reciprocal = marked(reciprocal, mark);
    let width = recall_width(mark);
    format!("  {label:<22}{at_1:>width$}{at_5:>width$}{at_10:>width$}{median:>14}{reciprocal:>9}")
}

/// Columns of a recall; "100.0 % †" needs one more to stand apart.
fn recall_width(mark: &str) -> usize {
    if mark.is_empty() { 9 } else { 10 }
}

/// A figure and its mark.
#[must_use]
pub fn marked(figure: String, mark: &str) -> String {
    if mark.is_empty() || figure.is_empty() {
        figure
    } else {
        format!("{figure} {mark}")
    }
}

/// A fraction as per cent with one decimal; two below 1 %, where chance levels live.
#[must_use]
pub fn percent(fraction: f64) -> String {
    let value = fraction * 100.0;
    if value > 0.0 && value < 0.995 {
        format!("{value:.2} %")
    } else {
        format!("{value:.1} %")
    }
}

/// A count with commas between groups of three digits.
#[must_use]
pub fn grouped(value: usize) -> String {
    let digits = value.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// At most `limit` characters, the last one an ellipsis when something was cut.
#[must_use]
pub fn shorten(text: &str, limit: usize) -> String {
    if text.chars().count() <= limit {
        return text.to_owned();
    }
    text.chars()
        .take(limit.saturating_sub(1))
        .chain(['…'])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::predictions::{PredictionsInfo, RerankedPair};

    fn report() -> ScoreReport {
        let side = |queries: usize| Reranked {
            candidates: vec![vec![1, 0]; queries],
            scores: vec![vec![0.1, f32::NAN]; queries],
        };
        let predictions = Predictions {
            info: PredictionsInfo {
                split: "test".into(),
                dataset: DatasetIdentity {
                    name: "a name far too long for a line ".repeat(4),
                    fingerprint: "f".into(),
                },
                model: ModelIdentity {
                    name: "tiny".into(),
                    run: String::new(),
                    step: Some(1200),
                },
                ..PredictionsInfo::default()
            },
            scores: ScoreMatrix::new(vec![1.0, 0.0, 0.5, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0], 3, 3)
                .unwrap(),
            image_of_text: vec![0, 1, 2],
            reranked: Some(RerankedPair {
                text_to_image: side(3),
                image_to_text: side(3),
            }),
        };
        score(&predictions, TieRule::Pessimistic).unwrap()
    }

    #[test]
    fn the_table_fits_80_columns_and_shows_chance() {
        let report = report();
        let table = render_table(&report);
        assert!(
            table.lines().all(|line| line.chars().count() <= 80),
            "{table}"
        );
        assert_eq!(
            table.matches("  chance                   33.3 %").count(),
            2,
            "{table}"
        );
        assert_eq!(table.matches("re-ranked top 2").count(), 2, "{table}");
        assert_eq!(
            table.matches("answer in shortlist      66.7 %").count(),
            2,
            "{table}"
        );
        assert!(
            table.contains("warning: 6 scores are not finite"),
            "{table}"
        );
    }

    #[test]
    fn figures_on_trained_pictures_are_marked_wherever_they_stand() {
        use chiasm_data::{Finding, Overlap};
        let finding = |kind| Finding {
            kind,
            id: "a".into(),
            other: "b".into(),
        };
        let overlap = |kinds: &[Overlap]| {
            OverlapReport::new(&TrainingOverlap {
                command: "chiasm data audit a:train a:test".into(),
                training_samples: 9,
                findings: kinds.iter().copied().map(finding).collect(),
            })
        };
        let mut report = report();
        assert!(!render_table(&report).contains("trained on"));
        // A caption or an id in common is counted and leaves no mark.
        report.training_overlap = Some(overlap(&[Overlap::SameText, Overlap::SameId]));
        let clean = render_table(&report);
        assert!(!clean.contains(MARK) && clean.contains("None of these pictures"));
        let kinds = [
            Overlap::SameBytes,
            Overlap::NearDuplicate,
            Overlap::SameText,
        ];
        report.training_overlap = Some(overlap(&kinds));
        let table = render_table(&report);
        assert!(
            table.lines().all(|line| line.chars().count() <= 80),
            "{table}"
        );
        // Two directions of two stages with five figures each, two shortlists, and what it means.
        assert_eq!(table.matches(MARK).count(), 2 * (2 * 5 + 1) + 1, "{table}");
        assert!(
            table.contains(
                "† 2 of 3 pictures are also in the training data\n  (1 same bytes, 1 near duplicate):\n  chiasm data audit a:train a:test\n"
            ),
            "{table}"
        );
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["training_overlap"]["marked"], true);
        assert_eq!(json["training_overlap"]["counts"]["same_text"], 1);
    }

    /// Both stages stand side by side, with what the shortlist costs.
    #[test]
    fn exhaustive_scores_show_what_a_shortlist_costs() {
        let side = || Reranked {
            candidates: vec![vec![0, 1, 2]; 3],
            // Candidate 1 is the best of all for every query; nothing else is.
            scores: vec![vec![0.1, 0.9, 0.0]; 3],
        };
        let mut predictions = Predictions {
            info: PredictionsInfo {
                exhaustive_shortlist: Some(1),
                ..PredictionsInfo::default()
            },
            scores: ScoreMatrix::new(vec![1.0, 0.0, 0.5, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0], 3, 3)
                .unwrap(),
            image_of_text: vec![0, 1, 2],
            reranked: Some(RerankedPair {
                text_to_image: side(),
                image_to_text: side(),
            }),
        };
        let report = score(&predictions, TieRule::Pessimistic).unwrap();
        let recall = |metrics: Option<RetrievalMetrics>| metrics.unwrap().text_to_image.recall_at_1;
        // One candidate a query keeps the first stage's order, which is right throughout.
        assert_eq!(recall(report.reranked), 1.0);
        assert_eq!(recall(report.exhaustive), 1.0 / 3.0);
        assert_eq!(report.shortlist.unwrap().text_to_image.candidates, 1);
        let table = render_table(&report);
        let fits = table.lines().all(|line| line.chars().count() <= 80);
        assert!(fits, "{table}");
        for part in [
            "  re-ranked top 1         100.0 %  100.0 %  100.0 %",
            "  all re-scored            33.3 %  100.0 %  100.0 %",
            "  difference, points      +66.7      0.0      0.0\n",
        ] {
            assert_eq!(table.matches(part).count(), 2, "{part}\n{table}");
        }

        predictions.info.exhaustive_shortlist = None;
        let plain = score(&predictions, TieRule::Pessimistic).unwrap();
        assert_eq!(
            (plain.reranked, plain.exhaustive),
            (report.exhaustive, None)
        );
        assert!(!render_table(&plain).contains("all re-scored"));
        // Shortlists alone do not allow the comparison.
        predictions.info.exhaustive_shortlist = Some(1);
        let pair = predictions.reranked.as_mut().unwrap();
        for query in 0..3 {
            pair.text_to_image.candidates[query].pop();
            pair.text_to_image.scores[query].pop();
        }
        let short = score(&predictions, TieRule::Pessimistic).unwrap();
        assert_eq!(short.exhaustive, None);
        assert_eq!(short.shortlist.unwrap().text_to_image.candidates, 2);
    }

    #[test]
    fn the_report_survives_json() {
        let report = report();
        let json = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<ScoreReport>(&json).unwrap(), report);
    }

    #[test]
    fn numbers_read_well() {
        assert_eq!(
            (percent(0.0), percent(0.0002), percent(0.5)),
            ("0.0 %".into(), "0.02 %".into(), "50.0 %".into())
        );
        assert_eq!(
            (grouped(7), grouped(1000), grouped(1_234_567)),
            ("7".into(), "1,000".into(), "1,234,567".into())
        );
        assert_eq!(shorten("éclair", 4), "écl…");
    }
}
