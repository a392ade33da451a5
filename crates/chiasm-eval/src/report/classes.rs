//! What the page shows of a classifier: its accuracy beside what needs no picture, by class and kind, who was taken for
//! whom, and held-out samples with what the model said of them.

use serde::{Deserialize, Serialize};

use super::page::data_uri;
use crate::metrics::{Accuracy, Confusion};
use crate::predictions::{ClassPredictions, ClassRow, Targets};
use crate::score::classes::{KindAccuracy, notes, worth};
use crate::score::{ClassReport, MARK, grouped, marked, percent, shorten};

/// Rows of a table by kind or class at most; the JSON has all.
const MAX_ROWS: usize = 20;

/// Classes at most of which the page shows who was taken for whom.
const MAX_CONFUSED: usize = 8;

/// Answers of people that an example names at most.
const MAX_ANSWERS: usize = 3;

/// A held-out sample and what a classifier said of it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Judged {
    /// The question or statement.
    pub text: String,
    /// Its pictures, encoded (PNG, JPEG, GIF or WebP); `None` for one that cannot be shown. Not part of the JSON.
    #[serde(skip)]
    pub images: Vec<Option<Vec<u8>>>,
    /// The right class, or the most frequent answers and how many gave them; empty when not known.
    pub right: Vec<String>,
    /// What the model said.
    pub predicted: String,
    /// The model's probability of it, 0 to 1.
    pub probability: f32,
    /// What it is worth, 0 to 1; `None` when nobody knows.
    pub worth: Option<f64>,
}

impl Judged {
    /// At most `most` samples, evenly spread over a file of predictions; `images` gives the pictures of a row by its
    /// number.
    pub fn spread(
        predictions: &ClassPredictions,
        most: usize,
        mut images: impl FnMut(usize) -> Vec<Option<Vec<u8>>>,
    ) -> Vec<Self> {
        let rows = &predictions.rows;
        let count = most.min(rows.len());
        let targets = predictions.info.targets;
        let judged = |(number, row): (usize, &ClassRow)| Self {
            text: row.text.clone(),
            images: images(number),
            right: right(targets, row),
            predicted: row.predicted.clone(),
            probability: row.probability,
            worth: worth(targets, &row.predicted, row),
        };
        (0..count)
            .map(|place| place * rows.len() / count)
            .filter_map(|number| Some((number, rows.get(number)?)))
            .map(judged)
            .collect()
    }
}

/// What would have been right, in words.
fn right(targets: Targets, row: &ClassRow) -> Vec<String> {
    if targets == Targets::Labels {
        return row.label.iter().cloned().collect();
    }
    let people: u64 = row.answers.iter().map(|(_, count)| u64::from(*count)).sum();
    let mut answers: Vec<&(String, u32)> = row.answers.iter().collect();
    // Stable: of equally frequent answers the first given is named first.
    answers.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let named = |(answer, count): &(String, u32)| match people {
        1 => answer.clone(),
        _ => format!("{answer} ({count} of {people})"),
    };
    answers.into_iter().take(MAX_ANSWERS).map(named).collect()
}

/// The one sentence that matters: accuracy, and what is reached without looking.
pub(super) fn lead(report: &ClassReport) -> String {
    let Some(accuracy) = &report.accuracy else {
        return "No answer or label is known, so there is nothing to compare with.".to_owned();
    };
    let majority = report
        .majority
        .as_ref()
        .map_or_else(String::new, |majority| {
            let class = shorten(&majority.class, 40);
            format!(
                "Always saying “{class}” reaches {}, ",
                percent(majority.accuracy)
            )
        });
    let guessing = match majority.is_empty() {
        true => "Guessing reaches",
        false => "guessing",
    };
    format!(
        "Accuracy is {} on {} samples (95 % interval {}). {majority}{guessing} {}.",
        marked(percent(accuracy.mean), mark(report)),
        grouped(accuracy.samples),
        interval(accuracy),
        percent(report.chance)
    )
}

/// Sentences under the tables.
pub(super) fn sentences(report: &ClassReport) -> Vec<String> {
    let mut sentences = vec![format!(
        "Split \"{}\" of {}: {} samples, {} classes to choose from.",
        report.split,
        report.dataset.name,
        grouped(report.samples),
        grouped(report.classes)
    )];
    let Some(accuracy) = &report.accuracy else {
        return sentences;
    };
    sentences.extend(notes(report, accuracy));
    if let Some(overlap) = &report.training_overlap {
        let (pictures, samples) = (grouped(overlap.pictures), grouped(report.samples));
        let found = format!("pictures of {pictures} of {samples} samples");
        sentences.push(overlap.lines_about(&found).concat());
    }
    sentences
}

fn mark(report: &ClassReport) -> &'static str {
    match report.is_marked() {
        true => MARK,
        false => "",
    }
}

pub(super) fn interval(accuracy: &Accuracy) -> String {
    let bound = |share: f64| format!("{:.1}", 100.0 * share);
    format!("{} to {} %", bound(accuracy.low), bound(accuracy.high))
}

#[derive(Serialize)]
pub(super) struct ClassTable<'a> {
    name: &'a str,
    has_majority: bool,
    rows: Vec<Row>,
    /// Rows that are not shown.
    more: Option<String>,
}

impl<'a> ClassTable<'a> {
    /// A table whose rows are all shown, without figures of a majority.
    pub(super) fn plain(name: &'a str, rows: Vec<Row>) -> Self {
        Self {
            name,
            has_majority: false,
            rows,
            more: None,
        }
    }
}

#[derive(Serialize)]
pub(super) struct Row {
    /// Its class in the style sheet.
    kind: &'static str,
    label: String,
    accuracy: String,
    /// Length of the bar behind it in per cent.
    part: String,
    interval: String,
    majority: String,
    samples: String,
}

impl Row {
    pub(super) fn measured(
        label: &str,
        accuracy: &Accuracy,
        majority: Option<f64>,
        mark: &str,
    ) -> Self {
        Self {
            kind: "",
            label: label.to_owned(),
            accuracy: marked(percent(accuracy.mean), mark),
            part: part(accuracy.mean),
            interval: interval(accuracy),
            majority: majority.map_or_else(String::new, percent),
            samples: grouped(accuracy.samples),
        }
    }

    /// The row that matters.
    pub(super) fn best(self) -> Self {
        Self {
            kind: "best",
            ..self
        }
    }

    pub(super) fn baseline(label: String, accuracy: f64) -> Self {
        Self {
            kind: "chance",
            label,
            accuracy: percent(accuracy),
            part: part(accuracy),
            interval: String::new(),
            majority: String::new(),
            samples: String::new(),
        }
    }
}

fn part(share: f64) -> String {
    format!("{:.1}", share.clamp(0.0, 1.0) * 100.0)
}

/// Accuracy beside its baselines, then by right class and by every kind.
pub(super) fn tables(report: &ClassReport) -> Vec<ClassTable<'_>> {
    let Some(accuracy) = &report.accuracy else {
        return Vec::new();
    };
    let mark = mark(report);
    let mut rows = vec![Row::baseline("chance".to_owned(), report.chance)];
    if let Some(majority) = &report.majority {
        let label = format!("always “{}”", shorten(&majority.class, 40));
        rows.push(Row::baseline(label, majority.accuracy));
    }
    if let Some(consistency) = &report.consistency {
        let label = "trained, consistent statements";
        rows.push(Row::measured(label, consistency, None, mark));
    }
    rows.push(Row::measured("trained", accuracy, None, mark).best());
    let whole = ClassTable::plain("Accuracy", rows);
    let by_class = Some(("By right class", &report.by_class)).filter(|(_, rows)| !rows.is_empty());
    let by_kind = report
        .by_kind
        .iter()
        .map(|(kind, rows)| (kind.as_str(), rows));
    let parts = by_class.into_iter().chain(by_kind);
    let table = |(name, kinds): (_, &'_ Vec<KindAccuracy>)| ClassTable {
        name,
        has_majority: kinds.iter().any(|kind| kind.majority.is_some()),
        rows: kinds
            .iter()
            .take(MAX_ROWS)
            .map(|kind| Row::measured(&kind.name, &kind.accuracy, kind.majority, mark))
            .collect(),
        more: (kinds.len() > MAX_ROWS).then(|| grouped(kinds.len() - MAX_ROWS)),
    };
    std::iter::once(whole).chain(parts.map(table)).collect()
}

#[derive(Serialize)]
pub(super) struct ConfusionTable<'a> {
    /// Right and predicted classes, in order of the alphabet.
    names: Vec<&'a str>,
    rows: Vec<Vec<ConfusionCell>>,
}

#[derive(Serialize)]
struct ConfusionCell {
    count: String,
    is_right: bool,
}

/// Who was taken for whom, for few classes.
pub(super) fn confused(confusion: &[Confusion]) -> Option<ConfusionTable<'_>> {
    let mut names: Vec<&str> = confusion
        .iter()
        .flat_map(|entry| [entry.label.as_str(), entry.predicted.as_str()])
        .collect();
    names.sort_unstable();
    names.dedup();
    if names.is_empty() || names.len() > MAX_CONFUSED {
        return None;
    }
    let count = |label: &str, predicted: &str| {
        let is_it = |entry: &&Confusion| entry.label == label && entry.predicted == predicted;
        grouped(confusion.iter().find(is_it).map_or(0, |entry| entry.count))
    };
    let cell = |label: &str, predicted: &str| ConfusionCell {
        count: count(label, predicted),
        is_right: label == predicted,
    };
    let row = |label: &&str| names.iter().map(|name| cell(label, name)).collect();
    Some(ConfusionTable {
        rows: names.iter().map(row).collect(),
        names,
    })
}

#[derive(Serialize)]
pub(super) struct JudgedView<'a> {
    text: &'a str,
    images: Vec<Option<String>>,
    right: String,
    predicted: &'a str,
    probability: String,
    /// Its class in the style sheet.
    verdict: &'static str,
    /// What is right or wrong, in words.
    mark: String,
}

impl<'a> JudgedView<'a> {
    pub(super) fn new(judged: &'a Judged) -> Self {
        let (verdict, mark) = match judged.worth {
            None => ("unknown", "right answer not known".to_owned()),
            Some(worth) if worth >= 1.0 => ("right", "✓ right".to_owned()),
            Some(worth) if worth > 0.0 => ("partly", format!("◐ worth {}", percent(worth))),
            Some(_) => ("wrong", "✗ wrong".to_owned()),
        };
        Self {
            text: &judged.text,
            images: judged
                .images
                .iter()
                .map(|image| data_uri(image.as_deref()))
                .collect(),
            right: judged.right.join(", "),
            predicted: &judged.predicted,
            probability: percent(f64::from(judged.probability)),
            verdict,
            mark,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: usize, answers: &[(&str, u32)]) -> ClassRow {
        ClassRow {
            id: id.to_string(),
            text: format!("question {id}"),
            predicted: "yes".into(),
            probability: 0.5,
            answers: answers
                .iter()
                .map(|(text, count)| ((*text).into(), *count))
                .collect(),
            ..ClassRow::default()
        }
    }

    fn answers(rows: Vec<ClassRow>) -> ClassPredictions {
        let mut predictions = ClassPredictions {
            rows,
            ..ClassPredictions::default()
        };
        predictions.info.targets = Targets::Answers;
        predictions
    }

    #[test]
    fn examples_are_spread_evenly() {
        let predictions = answers((0..10).map(|id| row(id, &[("yes", 1)])).collect());
        let mut asked = Vec::new();
        let judged = Judged::spread(&predictions, 4, |number| {
            asked.push(number);
            vec![None]
        });
        assert_eq!(asked, [0, 2, 5, 7]);
        assert_eq!(judged[3].text, "question 7");
        for (most, expected) in [(0, 0), (10, 10), (99, 10)] {
            assert_eq!(
                Judged::spread(&predictions, most, |_| Vec::new()).len(),
                expected
            );
        }
        assert!(Judged::spread(&answers(Vec::new()), 12, |_| Vec::new()).is_empty());
    }

    #[test]
    fn what_is_right_is_said_in_words() {
        let given = [("no", 3), ("yes", 2), ("maybe", 4), ("never", 1)];
        let predictions = answers(vec![
            row(0, &[("yes", 1)]),
            row(1, &given),
            row(2, &[("no", 1)]),
            row(3, &[]),
        ]);
        let judged = Judged::spread(&predictions, 4, |_| Vec::new());
        let views: Vec<JudgedView<'_>> = judged.iter().map(JudgedView::new).collect();
        let said = |place: usize| (views[place].verdict, views[place].mark.as_str());
        assert_eq!(said(0), ("right", "✓ right"));
        assert_eq!(
            (said(1).0, &*views[1].right),
            ("partly", "maybe (4 of 10), no (3 of 10), yes (2 of 10)")
        );
        assert_eq!(said(2), ("wrong", "✗ wrong"));
        assert_eq!((said(3).0, &*views[3].right), ("unknown", ""));
    }

    #[test]
    fn many_classes_have_no_confusion() {
        let pairs = |classes: usize| -> Vec<Confusion> {
            let entry = |class: usize| Confusion {
                label: class.to_string(),
                predicted: "0".into(),
                count: class + 1,
            };
            (0..classes).map(entry).collect()
        };
        let two = pairs(2);
        let table = confused(&two).unwrap();
        assert_eq!(table.names, ["0", "1"]);
        assert_eq!(
            (&*table.rows[1][0].count, table.rows[1][0].is_right),
            ("2", false)
        );
        assert!(table.rows[0][0].is_right);
        assert!(confused(&pairs(MAX_CONFUSED + 1)).is_none() && confused(&[]).is_none());
    }
}
