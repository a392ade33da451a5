//! Figures of alignment between attention and regions, and their table for the terminal.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::{MARK, OverlapReport, grouped, heading, marked, percent, shorten};
pub(super) use crate::predictions::alignment::KIND;
use crate::predictions::{AlignmentPredictions, AlignmentRow, DatasetIdentity, ModelIdentity};

/// Rows of the table by kind of phrase at most; the report has all.
const MAX_ROWS: usize = 12;

/// A mean score beside what uniform attention scores.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct AlignmentFigure {
    /// Mean share of attention inside, 0 to 1.
    pub score: f64,
    /// Mean of the same for uniform attention.
    pub uniform: f64,
    /// `score / uniform`: above 1 is better than not looking; `None` when `uniform` is 0.
    pub ratio: Option<f64>,
    /// Pictures averaged over.
    pub pictures: usize,
    /// Scores averaged over: phrases for a local score, pictures for a global one.
    pub scores: usize,
}

/// Figures against boxes and against pixels.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct AlignmentFigures {
    /// Against boxes; `None` when there is no such score.
    pub boxes: Option<AlignmentFigure>,
    /// Against pixels; `None` when no picture has them.
    pub pixels: Option<AlignmentFigure>,
}

/// Everything a file of alignment says about a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AlignmentReport {
    /// Name of the split.
    pub split: String,
    /// The data scored.
    pub dataset: DatasetIdentity,
    /// The model that scored.
    pub model: ModelIdentity,
    /// Which attention was compared.
    pub attention: String,
    /// The whole text against all regions: mean over pictures.
    pub global: AlignmentFigures,
    /// Phrases against their own regions: mean over the phrases of a picture, then over pictures.
    pub local: AlignmentFigures,
    /// Local figures by kind of phrase, in the same way; empty when no kinds are known.
    pub by_kind: BTreeMap<String, AlignmentFigures>,
    /// Pictures with a score.
    pub pictures: usize,
    /// Phrases with a score.
    pub phrases: usize,
    /// Phrases left out, as they do not occur in their caption.
    pub skipped_phrases: usize,
    /// What of the data was trained on; `None` when nobody looked.
    #[serde(default)]
    pub training_overlap: Option<OverlapReport>,
}

impl AlignmentReport {
    /// Whether figures of the model carry [`MARK`].
    #[must_use]
    pub fn is_marked(&self) -> bool {
        self.training_overlap
            .as_ref()
            .is_some_and(|overlap| overlap.marked)
    }
}

/// Computes every figure that the file allows.
#[must_use]
pub fn score_alignment(predictions: &AlignmentPredictions) -> AlignmentReport {
    let AlignmentPredictions { info, rows } = predictions;
    let global = rows.iter().filter(|row| row.phrase.is_none());
    let local = || rows.iter().filter(|row| row.phrase.is_some());
    let mut kinds: BTreeMap<&str, Vec<&AlignmentRow>> = BTreeMap::new();
    for row in local().filter(|row| !row.kind.is_empty()) {
        kinds.entry(&row.kind).or_default().push(row);
    }
    let pictures: std::collections::HashSet<&str> =
        rows.iter().map(|row| row.id.as_str()).collect();
    AlignmentReport {
        split: info.split.clone(),
        dataset: info.dataset.clone(),
        model: info.model.clone(),
        attention: info.attention.clone(),
        global: figures(global),
        local: figures(local()),
        by_kind: kinds
            .into_iter()
            .map(|(kind, rows)| (kind.to_owned(), figures(rows)))
            .collect(),
        pictures: pictures.len(),
        phrases: local().count(),
        skipped_phrases: info.skipped_phrases,
        training_overlap: info.training_overlap.as_ref().map(OverlapReport::new),
    }
}

fn figures<'a>(rows: impl IntoIterator<Item = &'a AlignmentRow>) -> AlignmentFigures {
    let rows: Vec<&AlignmentRow> = rows.into_iter().collect();
    let boxes = rows
        .iter()
        .map(|row| (row.id.as_str(), row.score, row.uniform));
    let pixels = rows
        .iter()
        .filter_map(|row| Some((row.id.as_str(), row.pixel_score?, row.pixel_uniform?)));
    AlignmentFigures {
        boxes: figure(boxes),
        pixels: figure(pixels),
    }
}

/// Mean over the scores of a picture, then over pictures. Takes picture, score and uniform score.
fn figure<'a>(scores: impl Iterator<Item = (&'a str, f64, f64)>) -> Option<AlignmentFigure> {
    // Ordered, so that a sum does not depend on hashing.
    let mut pictures: BTreeMap<&str, (f64, f64, usize)> = BTreeMap::new();
    for (id, score, uniform) in scores {
        let (scores, uniforms, count) = pictures.entry(id).or_default();
        *scores += score;
        *uniforms += uniform;
        *count += 1;
    }
    if pictures.is_empty() {
        return None;
    }
    let mean = |of: fn(&(f64, f64, usize)) -> f64| {
        pictures.values().map(of).sum::<f64>() / pictures.len() as f64
    };
    let score = mean(|(scores, _, count)| scores / *count as f64);
    let uniform = mean(|(_, uniforms, count)| uniforms / *count as f64);
    Some(AlignmentFigure {
        score,
        uniform,
        ratio: (uniform > 0.0).then(|| score / uniform),
        pictures: pictures.len(),
        scores: pictures.values().map(|(_, _, count)| count).sum(),
    })
}

/// A table for a terminal of 80 columns: every score beside that of uniform attention.
#[must_use]
pub fn render_alignment_table(report: &AlignmentReport) -> String {
    let mut table = String::new();
    let mut line = |text: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(table, "{}", text.trim_end());
    };
    let (pictures, phrases) = (grouped(report.pictures), grouped(report.phrases));
    let counts = format!("{pictures} pictures, {phrases} phrases");
    heading(&report.dataset, &report.split, counts, &report.model).for_each(&mut line);
    if !report.attention.is_empty() {
        line(format!("attention: {}", shorten(&report.attention, 69)));
    }
    let mark = if report.is_marked() { MARK } else { "" };
    line(String::new());
    if report.pictures == 0 {
        line("Nothing was scored.".to_owned());
    } else {
        line(format!(
            "{:<30}{:>11}{:>11}{:>8}{:>10}{:>10}",
            "", "inside", "uniform", "ratio", "pictures", "scores"
        ));
        for (name, figures) in [("global", &report.global), ("local", &report.local)] {
            rows(name, figures, mark).into_iter().for_each(&mut line);
        }
        let mut kinds: Vec<_> = report.by_kind.iter().collect();
        let scores = |figures: &AlignmentFigures| figures.boxes.map_or(0, |boxes| boxes.scores);
        // Stable: equal counts stay in alphabetical order.
        kinds.sort_by_key(|(_, figures)| std::cmp::Reverse(scores(figures)));
        if !kinds.is_empty() {
            line(String::new());
            line("local, by kind of phrase".to_owned());
        }
        for (kind, figures) in kinds.iter().take(MAX_ROWS) {
            rows(kind, figures, mark).into_iter().for_each(&mut line);
        }
        if kinds.len() > MAX_ROWS {
            line(format!("  and {} more", grouped(kinds.len() - MAX_ROWS)));
        }
        line(String::new());
        line(
            "Inside is the share of attention on what is named; uniform has no preference."
                .to_owned(),
        );
    }
    if report.skipped_phrases > 0 {
        line(format!(
            "{} of {} phrases do not occur in their caption and are left out.",
            grouped(report.skipped_phrases),
            grouped(report.skipped_phrases.saturating_add(report.phrases))
        ));
    }
    if let Some(overlap) = &report.training_overlap {
        for text in overlap.lines(report.pictures) {
            line(text);
        }
    }
    table
}

fn rows(name: &str, figures: &AlignmentFigures, mark: &str) -> Vec<String> {
    let row = |what: &str, figure: &AlignmentFigure| {
        let ratio = figure.ratio.map(|ratio| format!("{ratio:.2}"));
        format!(
            "  {:<28}{:>11}{:>11}{:>8}{:>10}{:>10}",
            format!("{}, {what}", shorten(name, 20)),
            marked(percent(figure.score), mark),
            percent(figure.uniform),
            ratio.unwrap_or_default(),
            grouped(figure.pictures),
            grouped(figure.scores)
        )
    };
    let sides = [("boxes", &figures.boxes), ("pixels", &figures.pixels)];
    sides
        .into_iter()
        .filter_map(|(what, figure)| Some(row(what, figure.as_ref()?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::predictions::{AlignmentInfo, TrainingOverlap};
    use chiasm_data::{Finding, Overlap};

    fn row(id: &str, phrase: Option<&str>, kind: &str, score: f64) -> AlignmentRow {
        AlignmentRow {
            id: id.into(),
            phrase: phrase.map(str::to_owned),
            kind: kind.into(),
            score,
            uniform: 0.25,
            ..AlignmentRow::default()
        }
    }

    fn predictions() -> AlignmentPredictions {
        let pixels = AlignmentRow {
            pixel_score: Some(0.5),
            pixel_uniform: Some(0.0),
            ..row("a", None, "", 0.5)
        };
        AlignmentPredictions {
            info: AlignmentInfo {
                attention: "last fusion layer, maximum over heads".into(),
                skipped_phrases: 2,
                dataset: DatasetIdentity {
                    name: "a name far too long for a line ".repeat(4),
                    fingerprint: "f".into(),
                },
                ..AlignmentInfo::default()
            },
            rows: vec![
                pixels,
                row("b", None, "", 1.0),
                row("a", Some("a hat"), "clothing", 0.0),
                row("a", Some("a man"), "people", 1.0),
                row("b", Some("men"), "people", 1.0),
            ],
        }
    }

    #[test]
    fn phrases_are_averaged_by_picture_first() {
        let report = score_alignment(&predictions());
        let global = report.global.boxes.unwrap();
        assert_eq!(
            (global.score, global.uniform, global.ratio),
            (0.75, 0.25, Some(3.0))
        );
        let pixels = report.global.pixels.unwrap();
        assert_eq!(
            (pixels.score, pixels.ratio, pixels.pictures),
            (0.5, None, 1)
        );
        // (0 + 1) / 2 of `a`, 1 of `b`.
        let local = report.local.boxes.unwrap();
        assert_eq!((local.score, local.pictures, local.scores), (0.75, 2, 3));
        assert_eq!(report.local.pixels, None);
        assert_eq!(report.by_kind["people"].boxes.unwrap().score, 1.0);
        assert_eq!(
            (report.pictures, report.phrases, report.skipped_phrases),
            (2, 3, 2)
        );
        let json = serde_json::to_string(&report).unwrap();
        assert_eq!(
            serde_json::from_str::<AlignmentReport>(&json).unwrap(),
            report
        );
    }

    #[test]
    fn the_table_fits_80_columns_and_shows_uniform_attention() {
        let mut predictions = predictions();
        for index in 0..20 {
            let kind = format!("kind {index} {}", "x".repeat(90));
            predictions.rows.push(row("c", Some("p"), &kind, 0.5));
        }
        predictions.info.training_overlap = Some(TrainingOverlap {
            command: "chiasm data audit a:train a:test".into(),
            training_samples: 9,
            findings: vec![Finding {
                kind: Overlap::SameBytes,
                id: "a".into(),
                other: "b".into(),
            }],
        });
        let table = render_alignment_table(&score_alignment(&predictions));
        let fits = table.lines().all(|line| line.chars().count() <= 80);
        assert!(fits, "{table}");
        for part in [
            "  global, boxes                  75.0 % †     25.0 %    3.00         2         2\n",
            "  and 10 more\n",
            "2 of 25 phrases do not occur in their caption",
            "† 1 of 3 pictures are also in the training data\n",
        ] {
            assert!(table.contains(part), "{part}\n{table}");
        }
    }

    #[test]
    fn an_empty_file_says_so() {
        let report = score_alignment(&AlignmentPredictions::default());
        assert_eq!(
            (report.global, report.pictures),
            (AlignmentFigures::default(), 0)
        );
        assert!(render_alignment_table(&report).ends_with("Nothing was scored.\n"));
    }
}
