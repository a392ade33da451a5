//! Figures of grounding, and their table for the terminal.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use chiasm_nn::boxes::overlap;
use serde::{Deserialize, Serialize};

use super::{MARK, OverlapReport, grouped, heading, marked, percent, shorten};
use crate::metrics::grounding::{blind, is_right};
use crate::metrics::{Accuracy, Tally};
pub(super) use crate::predictions::grounding::KIND;
use crate::predictions::{DatasetIdentity, GroundingPredictions, GroundingRow, ModelIdentity};

/// Rows of the table by kind of thing at most; the report has all.
const MAX_ROWS: usize = 12;

/// What choices that do not read the text score on the same regions.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct GroundingBaselines {
    /// A random region, as expected.
    pub random: f64,
    /// The largest region.
    pub largest: f64,
    /// The region nearest to the picture's centre.
    pub centre: f64,
}

/// Everything a file of grounding says about a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GroundingReport {
    /// Name of the split.
    pub split: String,
    /// The data scored.
    pub dataset: DatasetIdentity,
    /// The model that scored.
    pub model: ModelIdentity,
    /// Share of texts whose box overlaps what they refer to by half or more; `None` without texts.
    pub accuracy: Option<Accuracy>,
    /// The same of the chosen regions before their boxes are corrected.
    pub uncorrected: Option<Accuracy>,
    /// Mean overlap of the boxes with what is referred to.
    pub mean_overlap: f64,
    /// Share of texts for which there is a right region to choose.
    pub upper_bound: f64,
    /// What choices that do not read the text score.
    pub baselines: GroundingBaselines,
    /// Accuracy by kind of thing; empty when no kinds are known.
    pub by_kind: BTreeMap<String, Accuracy>,
    /// Texts.
    pub texts: usize,
    /// Pictures.
    pub pictures: usize,
    /// Texts of pictures without any region: they count as wrong.
    pub without_regions: usize,
    /// What of the data was trained on; `None` when nobody looked.
    #[serde(default)]
    pub training_overlap: Option<OverlapReport>,
}

impl GroundingReport {
    /// Whether figures of the model carry [`MARK`].
    #[must_use]
    pub fn is_marked(&self) -> bool {
        self.training_overlap
            .as_ref()
            .is_some_and(|overlap| overlap.marked)
    }
}

/// Computes every figure of the file.
#[must_use]
pub fn score_grounding(predictions: &GroundingPredictions) -> GroundingReport {
    let GroundingPredictions { info, rows } = predictions;
    let right = |found: Option<[f64; 4]>, row: &GroundingRow| {
        let is = found.is_some_and(|found| is_right(found, row.right));
        f64::from(u8::from(is))
    };
    let chosen = |row: &GroundingRow| row.chosen.and_then(|at| row.regions.get(at).copied());
    let mut by_kind: BTreeMap<String, Tally> = BTreeMap::new();
    for row in rows.iter().filter(|row| !row.kind.is_empty()) {
        let tally = by_kind.entry(row.kind.clone()).or_default();
        tally.add(right(row.predicted, row));
    }
    let count = rows.len().max(1) as f64;
    let mut baselines = GroundingBaselines::default();
    let (mut upper_bound, mut mean_overlap) = (0.0, 0.0);
    for row in rows {
        let blind = blind(&row.regions, row.right, row.size);
        baselines.random += blind.random / count;
        baselines.largest += blind.largest / count;
        baselines.centre += blind.centre / count;
        upper_bound += blind.oracle / count;
        mean_overlap += row.predicted.map_or(0.0, |found| overlap(found, row.right)) / count;
    }
    let pictures: std::collections::HashSet<&str> =
        rows.iter().map(|row| row.picture.as_str()).collect();
    let tally = |of: &dyn Fn(&GroundingRow) -> f64| rows.iter().map(of).collect::<Tally>();
    GroundingReport {
        split: info.split.clone(),
        dataset: info.dataset.clone(),
        model: info.model.clone(),
        accuracy: tally(&|row| right(row.predicted, row)).accuracy(),
        uncorrected: tally(&|row| right(chosen(row), row)).accuracy(),
        mean_overlap,
        upper_bound,
        baselines,
        by_kind: by_kind
            .into_iter()
            .filter_map(|(kind, tally)| Some((kind, tally.accuracy()?)))
            .collect(),
        texts: rows.len(),
        pictures: pictures.len(),
        without_regions: rows.iter().filter(|row| row.regions.is_empty()).count(),
        training_overlap: info.training_overlap.as_ref().map(OverlapReport::new),
    }
}

/// A table for a terminal of 80 columns.
#[must_use]
pub fn render_grounding_table(report: &GroundingReport) -> String {
    let mut table = String::new();
    let mut line = |text: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(table, "{}", text.trim_end());
    };
    let (pictures, texts) = (grouped(report.pictures), grouped(report.texts));
    let counts = format!("{pictures} pictures, {texts} texts");
    heading(&report.dataset, &report.split, counts, &report.model).for_each(&mut line);
    let mark = if report.is_marked() { MARK } else { "" };
    line(String::new());
    let Some(accuracy) = &report.accuracy else {
        line("Nothing was scored.".to_owned());
        return table;
    };
    let of_model = |name: &str, accuracy: &Accuracy| {
        format!(
            "  {:<40}{:>11}   {:>7} to {:>7}",
            shorten(name, 39),
            marked(percent(accuracy.mean), mark),
            percent(accuracy.low),
            percent(accuracy.high)
        )
    };
    line(format!(
        "{:<42}{:>11}   95 % interval",
        "overlap of 0.5 and more", "accuracy"
    ));
    line(of_model("found", accuracy));
    if let Some(uncorrected) = &report.uncorrected {
        line(of_model("found, box not corrected", uncorrected));
    }
    for (kind, accuracy) in report.by_kind.iter().take(MAX_ROWS) {
        line(of_model(&format!("  {kind}"), accuracy));
    }
    if report.by_kind.len() > MAX_ROWS {
        let more = grouped(report.by_kind.len() - MAX_ROWS);
        line(format!("    and {more} more kinds"));
    }
    line(String::new());
    let figure = |name: &str, value: f64| format!("  {name:<40}{:>11}", percent(value));
    for (name, value) in [
        ("random region", report.baselines.random),
        ("largest region", report.baselines.largest),
        ("region nearest to the centre", report.baselines.centre),
        ("best region there is", report.upper_bound),
    ] {
        line(figure(name, value));
    }
    line(format!(
        "  {:<40}{:>11.3}",
        "mean overlap", report.mean_overlap
    ));
    if report.without_regions > 0 {
        line(format!(
            "{} texts are of pictures without a region: they count as wrong.",
            grouped(report.without_regions)
        ));
    }
    if let Some(overlap) = &report.training_overlap {
        for text in overlap.lines(report.pictures) {
            line(text);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: &str, kind: &str, predicted: Option<[f64; 4]>) -> GroundingRow {
        GroundingRow {
            id: id.to_owned(),
            picture: "p".to_owned(),
            kind: kind.to_owned(),
            size: [100.0, 100.0],
            right: [0.0, 0.0, 9.0, 9.0],
            predicted,
            chosen: predicted.map(|_| 1),
            regions: match predicted {
                Some(_) => vec![[0.0, 0.0, 9.0, 9.0], [50.0, 50.0, 99.0, 99.0]],
                None => Vec::new(),
            },
            ..GroundingRow::default()
        }
    }

    #[test]
    fn figures_of_a_file() {
        let predictions = GroundingPredictions {
            rows: vec![
                row("a", "people", Some([0.0, 0.0, 9.0, 9.0])),
                row("b", "people", Some([50.0, 0.0, 59.0, 9.0])),
                row("c", "", None),
                row("d", "scene", Some([0.0, 0.0, 19.0, 9.0])),
            ],
            ..GroundingPredictions::default()
        };
        let report = score_grounding(&predictions);
        // The last overlaps by exactly half.
        assert_eq!(report.accuracy.unwrap().mean, 0.5);
        assert_eq!(report.uncorrected.unwrap().mean, 0.0);
        assert_eq!(report.upper_bound, 0.75);
        assert_eq!(report.baselines.random, 0.375);
        assert_eq!((report.baselines.largest, report.without_regions), (0.0, 1));
        assert_eq!(report.by_kind["people"].mean, 0.5);
        assert!((report.mean_overlap - 0.375).abs() < 1e-12);
        let table = render_grounding_table(&report);
        let fits = table.lines().all(|line| line.chars().count() <= 80);
        assert!(fits, "{table}");
        assert!(table.contains("best region there is"), "{table}");
        let json = serde_json::to_string(&report).unwrap();
        let again: GroundingReport = serde_json::from_str(&json).unwrap();
        assert_eq!((again.texts, again.baselines), (4, report.baselines));
    }

    #[test]
    fn an_empty_file_says_so() {
        let report = score_grounding(&GroundingPredictions::default());
        assert!(render_grounding_table(&report).ends_with("Nothing was scored.\n"));
    }
}
