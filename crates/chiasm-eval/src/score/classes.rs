//! Figures of a classifier, and their table for the terminal.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::iter::repeat_n;

use chiasm_data::Relation;
use serde::{Deserialize, Serialize};

use super::{MARK, OverlapReport, grouped, heading, marked, percent, shorten};
use crate::metrics::classes::{Confusion, confusion, consistency, is_right, statement_of};
use crate::metrics::f1::f1_of;
use crate::metrics::{Accuracy, Tally, answers};
pub(super) use crate::predictions::classes::KIND;
use crate::predictions::{ClassPredictions, ClassRow, DatasetIdentity, ModelIdentity, Targets};

/// Rows of a table by kind or class at most; the report has all.
const MAX_ROWS: usize = 12;

/// Classes at most of which the table shows who was taken for whom: as many as fit 80 columns.
const MAX_CONFUSED: usize = 4;

/// Accuracy of the samples of one kind or class.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KindAccuracy {
    /// The kind or class.
    pub name: String,
    /// Accuracy of the model.
    pub accuracy: Accuracy,
    /// Accuracy of always saying the most frequent class of the training split; `None` when that is not known.
    #[serde(default)]
    pub majority: Option<f64>,
}

/// What always saying one class scores.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MajorityBaseline {
    /// The most frequent class of the training split.
    pub class: String,
    /// Its accuracy on this split, a fraction.
    pub accuracy: f64,
}

/// Weighted F1 of labels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LabelF1 {
    /// Of the classes.
    pub classes: f64,
    /// Of t, text represented, and v, image adds, where the classes are the four relations (`specs/itr.md` section
    /// 3.2).
    pub facts: Option<[f64; 2]>,
}

/// Everything a file of class predictions says about a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClassReport {
    /// Name of the split.
    pub split: String,
    /// The data scored.
    pub dataset: DatasetIdentity,
    /// The model that scored.
    pub model: ModelIdentity,
    /// What predictions are compared with.
    pub targets: Targets,
    /// Classes to choose from.
    pub classes: usize,
    /// Samples predicted. [`Accuracy::samples`] counts those with a known answer or label.
    pub samples: usize,
    /// Samples scored by exact match, as one person alone answered them.
    pub exact_match: usize,
    /// Accuracy: VQA v2's for answers, the share of right classes for labels. `None` when no answer or label is known.
    pub accuracy: Option<Accuracy>,
    /// What always saying the most frequent class of the training split scores; `None` when that is not known.
    pub majority: Option<MajorityBaseline>,
    /// What choosing at random scores where one class is right: 1 / classes.
    pub chance: f64,
    /// NLVR2's consistency, where all identifiers are official ones: the share of statements that are right of all pairs.
    pub consistency: Option<Accuracy>,
    /// Weighted F1; labels only.
    #[serde(default)]
    pub weighted_f1: Option<LabelF1>,
    /// Accuracy by right class, most frequent first; labels only.
    pub by_class: Vec<KindAccuracy>,
    /// Accuracy by every way to split the samples (`answer_type`), most frequent kind first.
    pub by_kind: BTreeMap<String, Vec<KindAccuracy>>,
    /// Who was taken for whom; labels only.
    pub confusion: Vec<Confusion>,
    /// What of the data was trained on; `None` when nobody looked.
    #[serde(default)]
    pub training_overlap: Option<OverlapReport>,
}

impl ClassReport {
    /// Whether figures of the model carry [`MARK`].
    #[must_use]
    pub fn is_marked(&self) -> bool {
        self.training_overlap
            .as_ref()
            .is_some_and(|overlap| overlap.marked)
    }
}

/// Sums of one kind.
#[derive(Default)]
struct Sums {
    model: Tally,
    majority: Tally,
}

impl Sums {
    fn add(&mut self, worth: f64, majority: Option<f64>) {
        self.model.add(worth);
        if let Some(majority) = majority {
            self.majority.add(majority);
        }
    }

    fn majority(&self) -> Option<f64> {
        self.majority.accuracy().map(|accuracy| accuracy.mean)
    }
}

/// Computes every figure that the file allows. Samples without known answer or label are left out.
#[must_use]
pub fn score_classes(predictions: &ClassPredictions) -> ClassReport {
    let ClassPredictions { info, rows } = predictions;
    let targets = info.targets;
    // Labels are named as the class is, whatever their case.
    let names: HashMap<String, &str> = info
        .classes
        .iter()
        .map(|class| (class.to_ascii_lowercase(), class.as_str()))
        .collect();
    let name_of = |label| {
        let name = |label: &str| names.get(&label.to_ascii_lowercase()).copied();
        name(label).unwrap_or(label)
    };
    let mut all = Sums::default();
    let mut by_class: BTreeMap<&str, Sums> = BTreeMap::new();
    let mut by_kind: BTreeMap<&str, BTreeMap<&str, Sums>> = BTreeMap::new();
    for row in rows {
        let Some(worth) = worth(targets, &row.predicted, row) else {
            continue;
        };
        let majority = info.majority.as_deref();
        let majority = majority.and_then(|class| self::worth(targets, class, row));
        all.add(worth, majority);
        for (kind, name) in &row.kinds {
            let sums = by_kind.entry(kind).or_default().entry(name).or_default();
            sums.add(worth, majority);
        }
        if let Some(label) = labelled(targets, row) {
            by_class.entry(name_of(label)).or_default().add(worth, None);
        }
    }
    let labels = rows
        .iter()
        .filter_map(|row| Some((name_of(labelled(targets, row)?), row.predicted.as_str())));
    let exact_match =
        |row: &&ClassRow| targets == Targets::Answers && answers::is_exact_match(&row.answers);
    let confusion = confusion(labels);
    ClassReport {
        weighted_f1: label_f1(&confusion),
        split: info.split.clone(),
        dataset: info.dataset.clone(),
        model: info.model.clone(),
        targets,
        classes: info.classes.len(),
        samples: rows.len(),
        exact_match: rows.iter().filter(exact_match).count(),
        accuracy: all.model.accuracy(),
        majority: info
            .majority
            .clone()
            .zip(all.majority())
            .map(|(class, accuracy)| MajorityBaseline { class, accuracy }),
        chance: 1.0 / info.classes.len().max(1) as f64,
        consistency: statements(targets, rows).and_then(consistency),
        by_class: most_frequent_first(by_class),
        by_kind: by_kind
            .into_iter()
            .map(|(kind, sums)| (kind.to_owned(), most_frequent_first(sums)))
            .collect(),
        confusion,
        training_overlap: info.training_overlap.as_ref().map(OverlapReport::new),
    }
}

/// What a class is worth as the prediction for a sample; `None` when nobody knows.
pub(crate) fn worth(targets: Targets, class: &str, row: &ClassRow) -> Option<f64> {
    match targets {
        Targets::Answers => answers::accuracy(class, &row.answers),
        Targets::Labels => {
            let right = is_right(class, row.label.as_deref()?);
            Some(f64::from(u8::from(right)))
        }
    }
}

/// The label, where labels are what predictions are compared with.
fn labelled(targets: Targets, row: &ClassRow) -> Option<&str> {
    row.label.as_deref().filter(|_| targets == Targets::Labels)
}

/// Weighted F1 from who was taken for whom; `None` of nothing.
fn label_f1(confusion: &[Confusion]) -> Option<LabelF1> {
    let weighted = |class: &dyn Fn(&str) -> Option<usize>| {
        let pairs = confusion.iter().map(|entry| {
            let pair = (class(&entry.label)?, class(&entry.predicted)?);
            Some(repeat_n(pair, entry.count))
        });
        let pairs = pairs.collect::<Option<Vec<_>>>()?;
        f1_of(pairs.into_iter().flatten()).map(|found| found.weighted)
    };
    let both = |entry: &'_ Confusion| [entry.label.clone(), entry.predicted.clone()];
    let names: BTreeSet<String> = confusion.iter().flat_map(both).collect();
    let fact = |of: fn(Relation) -> bool| {
        weighted(&|name| Relation::from_name(name).map(|relation| usize::from(of(relation))))
    };
    let facts = fact(|relation| relation.represented).zip(fact(|relation| relation.adds));
    Some(LabelF1 {
        classes: weighted(&|name| names.iter().position(|own| own == name))?,
        facts: facts.map(<[f64; 2]>::from),
    })
}

/// Statement and judgement of every sample that has a label; `None` unless all identifiers are those of NLVR2.
fn statements(targets: Targets, rows: &[ClassRow]) -> Option<Vec<([&str; 3], bool)>> {
    rows.iter()
        .filter_map(|row| Some((row, labelled(targets, row)?)))
        .map(|(row, label)| Some((statement_of(&row.id)?, is_right(&row.predicted, label))))
        .collect()
}

fn most_frequent_first(sums: BTreeMap<&str, Sums>) -> Vec<KindAccuracy> {
    let mut kinds: Vec<KindAccuracy> = sums
        .into_iter()
        .filter_map(|(name, sums)| {
            Some(KindAccuracy {
                name: name.to_owned(),
                accuracy: sums.model.accuracy()?,
                majority: sums.majority(),
            })
        })
        .collect();
    // Stable: equal counts stay in alphabetical order.
    kinds.sort_by_key(|kind| std::cmp::Reverse(kind.accuracy.samples));
    kinds
}

/// A table for a terminal of 80 columns: accuracy with its interval, and beside it what needs no picture.
#[must_use]
pub fn render_class_table(report: &ClassReport) -> String {
    let mut table = String::new();
    let mut line = |text: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(table, "{}", text.trim_end());
    };
    let (samples, classes) = (grouped(report.samples), grouped(report.classes));
    let counts = format!("{samples} samples, {classes} classes");
    heading(&report.dataset, &report.split, counts, &report.model).for_each(&mut line);
    let mark = if report.is_marked() { MARK } else { "" };
    line(String::new());
    let Some(accuracy) = &report.accuracy else {
        line("No answer or label is known, so there is nothing to compare with.".to_owned());
        return table;
    };
    line(format!(
        "{:<24}{:>11}{:>18}{:>10}{:>8}{:>9}",
        "", "accuracy", "95 % interval", "majority", "chance", "samples"
    ));
    let majority = report.majority.as_ref().map(|baseline| baseline.accuracy);
    line(row("all", accuracy, majority, Some(report.chance), mark));
    if let Some(consistency) = &report.consistency {
        line(row("consistent statements", consistency, None, None, mark));
    }
    let by_class = Some(("right class", &report.by_class)).filter(|(_, rows)| !rows.is_empty());
    let by_kind = report
        .by_kind
        .iter()
        .map(|(kind, rows)| (kind.as_str(), rows));
    for (kind, rows) in by_class.into_iter().chain(by_kind) {
        line(String::new());
        line(shorten(kind, 80));
        for kind in rows.iter().take(MAX_ROWS) {
            line(row(&kind.name, &kind.accuracy, kind.majority, None, mark));
        }
        if rows.len() > MAX_ROWS {
            line(format!("  and {} more", grouped(rows.len() - MAX_ROWS)));
        }
    }
    confusion_lines(&report.confusion)
        .into_iter()
        .for_each(&mut line);
    line(String::new());
    notes(report, accuracy).into_iter().for_each(&mut line);
    if let Some(majority) = &report.majority {
        let class = shorten(&majority.class, 24);
        line(format!(
            "Majority always says `{class}`, the most frequent in training."
        ));
    }
    if let Some(overlap) = &report.training_overlap {
        let (pictures, samples) = (grouped(overlap.pictures), grouped(report.samples));
        let found = format!("pictures of {pictures} of {samples} samples");
        overlap.lines_about(&found).into_iter().for_each(&mut line);
    }
    table
}

fn row(
    label: &str,
    accuracy: &Accuracy,
    majority: Option<f64>,
    chance: Option<f64>,
    mark: &str,
) -> String {
    let blank = |share: Option<f64>| share.map_or_else(String::new, percent);
    let bound = |share: f64| format!("{:.1}", 100.0 * share);
    format!(
        "  {:<22}{:>11}{:>18}{:>10}{:>8}{:>9}",
        shorten(label, 22),
        marked(percent(accuracy.mean), mark),
        format!("{} to {} %", bound(accuracy.low), bound(accuracy.high)),
        blank(majority),
        blank(chance),
        grouped(accuracy.samples)
    )
}

/// Who was taken for whom, for few classes.
fn confusion_lines(confusion: &[Confusion]) -> Vec<String> {
    let mut names: Vec<&str> = confusion
        .iter()
        .flat_map(|entry| [entry.label.as_str(), entry.predicted.as_str()])
        .collect();
    names.sort_unstable();
    names.dedup();
    if names.is_empty() || names.len() > MAX_CONFUSED {
        return Vec::new();
    }
    let cells = |first: &str, cells: Vec<String>| {
        let cells: String = cells.iter().map(|cell| format!("{cell:>14}")).collect();
        format!("{first:<24}{cells}")
    };
    let headings = names.iter().map(|name| shorten(name, 13)).collect();
    let mut lines = vec![String::new(), cells("right class, taken for", headings)];
    for label in &names {
        let counts = names.iter().map(|predicted| {
            let pair = (*label, *predicted);
            let mut found = confusion.iter();
            let found = found.find(|entry| (&*entry.label, &*entry.predicted) == pair);
            grouped(found.map_or(0, |entry| entry.count))
        });
        lines.push(cells(
            &format!("  {}", shorten(label, 22)),
            counts.collect(),
        ));
    }
    lines
}

/// What the figures are, in sentences.
pub(crate) fn notes(report: &ClassReport, accuracy: &Accuracy) -> Vec<String> {
    let scored = accuracy.samples;
    let mut notes = vec![match report.targets {
        Targets::Labels => "Accuracy is the share of right classes.".to_owned(),
        Targets::Answers if report.exact_match == scored => {
            "Accuracy is the share of answers equal to the given one in normal form.".to_owned()
        }
        Targets::Answers => "Accuracy is VQA v2's: 3 of 10 people or more agree.".to_owned(),
    }];
    if report.targets == Targets::Answers && report.exact_match > 0 && report.exact_match < scored {
        notes.push(format!(
            "{} of {} questions have one answer and are scored by exact match.",
            grouped(report.exact_match),
            grouped(scored)
        ));
    }
    if let Some(f1) = &report.weighted_f1 {
        let facts = f1.facts.map(|[t, v]| {
            format!(
                "; text represented {}, image adds {}",
                percent(t),
                percent(v)
            )
        });
        let facts = facts.unwrap_or_default();
        notes.push(format!("Weighted F1 {}{facts}.", percent(f1.classes)));
    }
    if scored < report.samples {
        notes.push(format!(
            "{} of {} samples have no known answer or label and are left out.",
            grouped(report.samples - scored),
            grouped(report.samples)
        ));
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::predictions::{ClassInfo, TrainingOverlap};
    use chiasm_data::{Finding, Overlap};

    fn predictions(targets: Targets, rows: Vec<ClassRow>) -> ClassPredictions {
        let mut classes: Vec<String> = rows.iter().map(|row| row.predicted.clone()).collect();
        classes.sort();
        classes.dedup();
        ClassPredictions {
            info: ClassInfo {
                split: "dev".into(),
                dataset: DatasetIdentity {
                    name: "a name far too long for a line ".repeat(4),
                    fingerprint: "f".into(),
                },
                model: ModelIdentity {
                    name: "tiny".into(),
                    run: String::new(),
                    step: Some(1200),
                },
                targets,
                majority: classes.first().cloned(),
                classes,
                training_overlap: None,
            },
            rows,
        }
    }

    fn judged(id: &str, label: &str, predicted: &str) -> ClassRow {
        ClassRow {
            id: id.into(),
            predicted: predicted.into(),
            label: Some(label.into()),
            ..ClassRow::default()
        }
    }

    fn nlvr2() -> ClassPredictions {
        let rows = vec![
            judged("dev-1-0-0", "true", "true"),
            judged("dev-1-1-0", "false", "true"),
            judged("dev-1-0-1", "true", "true"),
            judged("dev-2-0-0", "False", "false"),
        ];
        predictions(Targets::Labels, rows)
    }

    fn answered() -> ClassPredictions {
        let row = |id: &str, predicted: &str, answers: &[(&str, u32)], kind: &str| ClassRow {
            id: id.into(),
            predicted: predicted.into(),
            label: Some("ignored".into()),
            answers: answers
                .iter()
                .map(|(text, count)| ((*text).into(), *count))
                .collect(),
            kinds: [("answer_type".into(), kind.into())].into(),
            ..ClassRow::default()
        };
        let rows = vec![
            row("1", "yes", &[("yes", 8), ("no", 2)], "yes/no"),
            row("2", "no", &[("yes", 8), ("no", 2)], "yes/no"),
            row("3", "2", &[("two", 1)], "number"),
            row("4", "yes", &[], "other"),
        ];
        predictions(Targets::Answers, rows)
    }

    fn fits(table: &str) {
        let fits = table.lines().all(|line| line.chars().count() <= 80);
        assert!(fits, "{table}");
    }

    #[test]
    fn labels_have_consistency_classes_and_confusions() {
        let report = score_classes(&nlvr2());
        let accuracy = report.accuracy.unwrap();
        assert_eq!((accuracy.mean, accuracy.samples), (0.75, 4));
        // `false` is the first class in alphabetical order.
        let majority = report.majority.as_ref().unwrap();
        assert_eq!(
            (&*majority.class, majority.accuracy, report.chance),
            ("false", 0.5, 0.5)
        );
        let consistency = report.consistency.unwrap();
        assert_eq!((consistency.mean, consistency.samples), (2.0 / 3.0, 3));
        let first = &report.by_class[0];
        assert_eq!((&*first.name, first.accuracy.mean), ("false", 0.5));
        let table = render_class_table(&report);
        fits(&table);
        assert!(
            table.contains("consistent statements      66.7 %"),
            "{table}"
        );
        assert!(
            table.contains("  false                              1             1\n"),
            "{table}"
        );

        let mut other = nlvr2();
        other.rows[0].id = "dev-1".into();
        assert_eq!(score_classes(&other).consistency, None);
    }

    #[test]
    fn answers_are_scored_by_kind_without_those_nobody_knows() {
        let report = score_classes(&answered());
        let accuracy = report.accuracy.unwrap();
        assert!((accuracy.mean - (1.0 + 0.6 + 1.0) / 3.0).abs() < 1e-12);
        assert_eq!(
            (accuracy.samples, report.samples, report.exact_match),
            (3, 4, 1)
        );
        let kinds = &report.by_kind["answer_type"];
        assert_eq!(kinds.len(), 2);
        assert_eq!((&*kinds[0].name, kinds[0].accuracy.mean), ("yes/no", 0.8));
        // The first class in alphabetical order is `2`.
        assert_eq!(
            (kinds[0].majority, kinds[1].majority),
            (Some(0.0), Some(1.0))
        );
        assert_eq!((report.by_class.len(), report.consistency), (0, None));
        let table = render_class_table(&report);
        fits(&table);
        for part in [
            "  yes/no                     80.0 %",
            "1 of 3 questions have one answer",
            "1 of 4 samples have no known answer",
            "Majority always says `2`",
        ] {
            assert!(table.contains(part), "{part}\n{table}");
        }
    }

    #[test]
    fn weighted_f1_of_labels_and_of_both_facts() {
        let rows = [
            ("a", "neither", "neither"),
            ("b", "adds", "adds"),
            ("c", "represented", "represented"),
            ("d", "both", "represented"),
            ("e", "neither", "adds"),
        ];
        let rows = rows.map(|(id, label, predicted)| judged(id, label, predicted));
        let report = score_classes(&predictions(Targets::Labels, rows.to_vec()));
        let found = report.weighted_f1.clone().unwrap();
        assert!((found.classes - 8.0 / 15.0).abs() < 1e-12);
        let [t, v] = found.facts.unwrap();
        // t is right of all; v is taken for 1 once and for 0 once of five.
        assert!(
            (t - 1.0).abs() < 1e-12 && (v - 0.6).abs() < 1e-12,
            "{t} {v}"
        );
        let table = render_class_table(&report);
        let line = "Weighted F1 53.3 %; text represented 100.0 %, image adds 60.0 %.\n";
        assert!(table.contains(line), "{table}");
        let other = [judged("a", "yes", "no"), judged("b", "no", "no")];
        let report = score_classes(&predictions(Targets::Labels, other.to_vec()));
        assert_eq!(report.weighted_f1.unwrap().facts, None);
    }

    #[test]
    fn a_test_split_without_answers_says_so() {
        let mut predictions = nlvr2();
        predictions.rows.iter_mut().for_each(|row| row.label = None);
        let report = score_classes(&predictions);
        assert_eq!((report.accuracy, report.consistency), (None, None));
        assert_eq!(report.majority, None);
        let table = render_class_table(&report);
        assert!(
            table.ends_with("so there is nothing to compare with.\n"),
            "{table}"
        );
    }

    #[test]
    fn figures_on_trained_pictures_are_marked() {
        let mut predictions = nlvr2();
        let clean = render_class_table(&score_classes(&predictions));
        assert!(!clean.contains(MARK));
        predictions.info.training_overlap = Some(TrainingOverlap {
            command: "chiasm data audit a:train a:dev".into(),
            training_samples: 9,
            findings: vec![Finding {
                kind: Overlap::SameBytes,
                id: "dev-1-0-0".into(),
                other: "b".into(),
            }],
        });
        let table = render_class_table(&score_classes(&predictions));
        fits(&table);
        // All, consistency, two classes, and what the mark means.
        assert_eq!(table.matches(MARK).count(), 5, "{table}");
        assert!(
            table.contains("† pictures of 1 of 4 samples are also in the training data\n"),
            "{table}"
        );
    }

    #[test]
    fn many_classes_and_long_names_fit() {
        let rows = (0..40).map(|index| {
            let name = format!("class {index} {}", "x".repeat(90));
            let mut row = judged(&index.to_string(), &name, &name);
            row.kinds.insert("k".repeat(99), name);
            row
        });
        let report = score_classes(&predictions(Targets::Labels, rows.collect()));
        let table = render_class_table(&report);
        fits(&table);
        assert_eq!(table.matches("  and 28 more\n").count(), 2, "{table}");
        let json = serde_json::to_string(&report).unwrap();
        let back: ClassReport = serde_json::from_str(&json).unwrap();
        assert_eq!(back.by_class.len(), 40);
    }
}
