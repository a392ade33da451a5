//! What the page shows of grounding: accuracy beside choices that do not read the text, by kind of thing, and
//! held-out texts with the right box and the one that was found, right and wrong ones.

use serde::{Deserialize, Serialize};

use super::classes::{ClassTable, Row, interval};
use super::page::data_uri;
use crate::metrics::grounding::is_right;
use crate::predictions::{GroundingPredictions, GroundingRow};
use crate::score::{GroundingReport, MARK, grouped, marked, percent};
use chiasm_nn::boxes::overlap;

/// A held-out text and what a model found for it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Found {
    /// The phrase or expression.
    pub text: String,
    /// What kind of thing it names; empty when not said.
    pub kind: String,
    /// Its picture with both boxes drawn, encoded; `None` for one that cannot be shown. Not part of the JSON.
    #[serde(skip)]
    pub image: Option<Vec<u8>>,
    /// Overlap of the box that was found with the right one, 0 to 1.
    pub overlap: f64,
    /// Whether it is right.
    pub right: bool,
    /// Whether any region of the picture was right.
    pub reachable: bool,
}

impl Found {
    /// At most `most` texts, half of them right and half wrong where there are as many, each half evenly spread
    /// over a file of predictions; `image` gives the picture of a row with its boxes.
    pub fn spread(
        predictions: &GroundingPredictions,
        most: usize,
        mut image: impl FnMut(&GroundingRow) -> Option<Vec<u8>>,
    ) -> Vec<Self> {
        let is_found = |row: &&GroundingRow| row.predicted.is_some_and(|b| is_right(b, row.right));
        let (right, wrong): (Vec<_>, Vec<_>) = predictions.rows.iter().partition(is_found);
        let half = most / 2;
        let wanted = half
            .max(most - wrong.len().min(most - half))
            .min(right.len());
        let found = |row: &GroundingRow| Self {
            text: row.text.clone(),
            kind: row.kind.clone(),
            image: image(row),
            overlap: row.predicted.map_or(0.0, |found| overlap(found, row.right)),
            right: is_found(&row),
            reachable: row
                .regions
                .iter()
                .any(|region| is_right(*region, row.right)),
        };
        let shown = [evenly(&right, wanted), evenly(&wrong, most - wanted)].concat();
        shown.into_iter().map(found).collect()
    }
}

/// At most `most` of some rows, evenly spread.
fn evenly<'a>(rows: &[&'a GroundingRow], most: usize) -> Vec<&'a GroundingRow> {
    let count = most.min(rows.len());
    let places = (0..count).map(|place| place * rows.len() / count);
    places
        .filter_map(|place| rows.get(place).copied())
        .collect()
}

fn mark(report: &GroundingReport) -> &'static str {
    if report.is_marked() { MARK } else { "" }
}

/// The one sentence that matters: accuracy, and what is reached without reading.
pub(super) fn lead(report: &GroundingReport) -> String {
    let Some(accuracy) = &report.accuracy else {
        return "No text refers to a known place, so there is nothing to compare with.".to_owned();
    };
    let blind = report.baselines;
    let best = blind.random.max(blind.largest).max(blind.centre);
    format!(
        "The right place is found for {} of {} texts (95 % interval {}). Without reading them the best choice \
         reaches {}; no choice of region reaches more than {}.",
        marked(percent(accuracy.mean), mark(report)),
        grouped(accuracy.samples),
        interval(accuracy),
        percent(best),
        percent(report.upper_bound)
    )
}

/// Sentences under the tables.
pub(super) fn sentences(report: &GroundingReport) -> Vec<String> {
    let mut sentences = vec![format!(
        "Split \"{}\" of {}: {} texts about {} pictures. Right is a box that overlaps what is meant by half or more. \
         Mean overlap {:.3}.",
        report.split,
        report.dataset.name,
        grouped(report.texts),
        grouped(report.pictures),
        report.mean_overlap
    )];
    if report.without_regions > 0 {
        let count = grouped(report.without_regions);
        sentences.push(format!(
            "{count} texts are of pictures without a region and count as wrong."
        ));
    }
    if let Some(overlap) = &report.training_overlap {
        sentences.push(overlap.lines(report.pictures).concat());
    }
    sentences
}

/// Accuracy beside choices that do not read, then by kind of thing.
pub(super) fn tables(report: &GroundingReport) -> Vec<ClassTable<'_>> {
    let Some(accuracy) = &report.accuracy else {
        return Vec::new();
    };
    let mark = mark(report);
    let blind = report.baselines;
    let mut rows: Vec<Row> = [
        ("random region", blind.random),
        ("largest region", blind.largest),
        ("region nearest to the centre", blind.centre),
        ("best region there is", report.upper_bound),
    ]
    .into_iter()
    .map(|(label, share)| Row::baseline(label.to_owned(), share))
    .collect();
    if let Some(uncorrected) = &report.uncorrected {
        let label = "trained, box not corrected";
        rows.push(Row::measured(label, uncorrected, None, mark));
    }
    rows.push(Row::measured("trained", accuracy, None, mark).best());
    let kinds = report.by_kind.iter();
    let kinds: Vec<Row> = kinds
        .map(|(kind, accuracy)| Row::measured(kind, accuracy, None, mark))
        .collect();
    let by_kind = (!kinds.is_empty()).then(|| ClassTable::plain("By kind of thing", kinds));
    std::iter::once(ClassTable::plain("Accuracy", rows))
        .chain(by_kind)
        .collect()
}

#[derive(Serialize)]
pub(super) struct FoundView<'a> {
    text: &'a str,
    kind: &'a str,
    image: Option<String>,
    /// Its class in the style sheet.
    verdict: &'static str,
    /// What is right or wrong, in words.
    mark: String,
}

impl<'a> FoundView<'a> {
    pub(super) fn new(found: &'a Found) -> Self {
        let overlap = percent(found.overlap);
        let (verdict, mark) = match (found.right, found.reachable) {
            (true, _) => ("right", format!("✓ right, overlap {overlap}")),
            (false, true) => ("wrong", format!("✗ wrong, overlap {overlap}")),
            (false, false) => (
                "wrong",
                format!("✗ wrong, overlap {overlap}; no region is right"),
            ),
        };
        Self {
            text: &found.text,
            kind: &found.kind,
            image: data_uri(found.image.as_deref()),
            verdict,
            mark,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::score::score_grounding;

    fn predictions(right: usize, wrong: usize) -> GroundingPredictions {
        let row = |number: usize, found: [f64; 4]| GroundingRow {
            id: number.to_string(),
            text: format!("text {number}"),
            kind: "people".to_owned(),
            size: [100.0, 100.0],
            right: [0.0, 0.0, 9.0, 9.0],
            predicted: Some(found),
            chosen: Some(0),
            regions: vec![found],
            ..GroundingRow::default()
        };
        let right = (0..right).map(|number| row(number, [0.0, 0.0, 9.0, 9.0]));
        let wrong = (0..wrong).map(|number| row(100 + number, [50.0, 0.0, 59.0, 9.0]));
        GroundingPredictions {
            rows: right.chain(wrong).collect(),
            ..GroundingPredictions::default()
        }
    }

    #[test]
    fn right_and_wrong_ones_are_shown() {
        for ((right, wrong), expected) in [
            ((10, 10), (2, 2)),
            ((1, 10), (1, 3)),
            ((10, 1), (3, 1)),
            ((0, 2), (0, 2)),
            ((0, 0), (0, 0)),
        ] {
            let found = Found::spread(&predictions(right, wrong), 4, |_| None);
            let hits = found.iter().filter(|found| found.right).count();
            assert_eq!((hits, found.len() - hits), expected, "{right} {wrong}");
        }
        let found = Found::spread(&predictions(10, 10), 4, |_| None);
        let texts: Vec<&str> = found.iter().map(|found| found.text.as_str()).collect();
        assert_eq!(texts, ["text 0", "text 5", "text 100", "text 105"]);
        assert!(
            FoundView::new(&found[2])
                .mark
                .ends_with("no region is right")
        );
    }

    #[test]
    fn tables_have_the_baselines() {
        let report = score_grounding(&predictions(3, 1));
        let tables = tables(&report);
        assert_eq!(tables.len(), 2);
        assert!(lead(&report).starts_with("The right place is found for 75.0 % of 4 texts"));
        assert_eq!(sentences(&report).len(), 1);
        let empty = score_grounding(&GroundingPredictions::default());
        assert!(super::tables(&empty).is_empty() && lead(&empty).contains("nothing to compare"));
    }
}
