//! Figures of explanations, and their table for the terminal.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use chiasm_data::Rect;
use serde::{Deserialize, Serialize};

use super::{MARK, OverlapReport, grouped, heading, marked, percent, shorten};
use crate::metrics::explanation::{
    area, centre_map, is_small, random_map, rank_correlation, score,
};
use crate::metrics::{Accuracy, Tally};
pub(super) use crate::predictions::explanation::KIND;
use crate::predictions::{
    Choice, DatasetIdentity, ExplanationPredictions, ExplanationRow, ModelIdentity,
};

/// Random maps of a phrase that are averaged.
const DRAWS: u64 = 8;

/// How well the maps of one method, or of a control, point.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExplanationFigures {
    /// The method; `random map` and `centre` are controls.
    pub method: String,
    /// Share of phrases whose strongest place lies in a box. A map that points nowhere misses.
    pub pointing: Option<Accuracy>,
    /// The same of phrases whose boxes cover less than a quarter of the picture.
    #[serde(default)]
    pub pointing_small: Option<Accuracy>,
    /// Mean overlap of what is strong with the boxes.
    pub iou: Option<f64>,
    /// Mean share of the map in the boxes.
    pub inside: Option<f64>,
    /// Mean area under the result as the strongest places go first: lower is better.
    pub deletion: Option<f64>,
    /// Mean area under the result as the strongest places come first: higher is better.
    pub insertion: Option<f64>,
    /// Mean rank correlation with the map of random weights: near 0 is better.
    pub sanity: Option<f64>,
    /// Phrases.
    pub phrases: usize,
    /// Phrases whose map is the same everywhere.
    pub nowhere: usize,
    /// Texts with curves.
    pub texts: usize,
}

/// Everything a file of explanations says about a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExplanationReport {
    /// Name of the split.
    pub split: String,
    /// The data scored.
    pub dataset: DatasetIdentity,
    /// The model that was explained.
    pub model: ModelIdentity,
    /// What was explained.
    pub target: String,
    /// What attention keeps, as it was typed; empty where it is the model's own.
    pub select: String,
    /// Layer and heads of attention, where they were chosen.
    pub choice: Option<Choice>,
    /// A row a method, then the controls.
    pub methods: Vec<ExplanationFigures>,
    /// Pictures.
    pub pictures: usize,
    /// Phrases left out.
    pub skipped_phrases: usize,
    /// What of the data was trained on; `None` when nobody looked.
    #[serde(default)]
    pub training_overlap: Option<OverlapReport>,
}

impl ExplanationReport {
    /// Whether figures of the model carry [`MARK`].
    #[must_use]
    pub fn is_marked(&self) -> bool {
        let overlap = self.training_overlap.as_ref();
        overlap.is_some_and(|overlap| overlap.marked)
    }
}

/// Computes every figure of the file.
#[must_use]
pub fn score_explanations(predictions: &ExplanationPredictions) -> ExplanationReport {
    let ExplanationPredictions { info, rows } = predictions;
    let mut by_method: BTreeMap<&str, Vec<&ExplanationRow>> = BTreeMap::new();
    for row in rows {
        by_method.entry(&row.method).or_default().push(row);
    }
    let mut methods: Vec<ExplanationFigures> = by_method
        .iter()
        .map(|(method, rows)| figures(method, rows))
        .collect();
    // Controls are of the same phrases and texts, once each.
    if let Some(rows) = by_method.values().max_by_key(|rows| rows.len()) {
        methods.extend(controls(rows));
    }
    let pictures: std::collections::HashSet<&str> =
        rows.iter().map(|row| row.id.as_str()).collect();
    ExplanationReport {
        split: info.split.clone(),
        dataset: info.dataset.clone(),
        model: info.model.clone(),
        target: info.target.clone(),
        select: info.select.clone(),
        choice: info.choice.clone(),
        methods,
        pictures: pictures.len(),
        skipped_phrases: info.skipped_phrases,
        training_overlap: info.training_overlap.as_ref().map(OverlapReport::new),
    }
}

/// Means that are there only when something is.
#[derive(Default)]
struct Mean(f64, usize);

impl Mean {
    fn add(&mut self, value: f64) {
        self.0 += value;
        self.1 += 1;
    }

    fn value(&self) -> Option<f64> {
        (self.1 > 0).then(|| self.0 / self.1 as f64)
    }
}

fn figures(method: &str, rows: &[&ExplanationRow]) -> ExplanationFigures {
    let (mut pointing, mut nowhere, mut phrases) = (Pointing::default(), 0, 0);
    let [mut iou, mut inside, mut deletion, mut insertion, mut sanity] =
        std::array::from_fn(|_| Mean::default());
    for row in rows {
        let sound = row.random_weights.as_ref();
        if let Some(found) = sound.and_then(|other| rank_correlation(&row.map, other)) {
            sanity.add(found);
        }
        if let Some(curves) = &row.curves {
            for (mean, curve) in [
                (&mut deletion, &curves.deletion),
                (&mut insertion, &curves.insertion),
            ] {
                area(curve).into_iter().for_each(|area| mean.add(area));
            }
        }
        if row.phrase.is_none() {
            continue;
        }
        phrases += 1;
        let regions = row.region_boxes();
        let boxes = row.phrase_boxes();
        let found = score(row.cells(&regions), &row.map, &boxes);
        nowhere += usize::from(found.is_none());
        pointing.add(found.map_or(0.0, |found| found.pointing), &boxes);
        iou.add(found.map_or(0.0, |found| found.iou));
        inside.add(found.map_or(0.0, |found| found.inside));
    }
    ExplanationFigures {
        method: method.to_owned(),
        pointing: pointing.all.accuracy(),
        pointing_small: pointing.small.accuracy(),
        iou: iou.value(),
        inside: inside.value(),
        deletion: deletion.value(),
        insertion: insertion.value(),
        sanity: sanity.value(),
        phrases,
        nowhere,
        texts: rows.iter().filter(|row| row.curves.is_some()).count(),
    }
}

/// Random maps and the map that prefers the centre, on the phrases and texts of one method.
fn controls(rows: &[&ExplanationRow]) -> [ExplanationFigures; 2] {
    let mut all = [Control::default(), Control::default()];
    let [mut deletion, mut insertion] = [Mean::default(), Mean::default()];
    for (number, row) in (0u64..).zip(rows) {
        if let Some(curves) = &row.curves {
            let random = [
                (&mut deletion, &curves.random_deletion),
                (&mut insertion, &curves.random_insertion),
            ];
            for (mean, curve) in random {
                area(curve).into_iter().for_each(|area| mean.add(area));
            }
        }
        if row.phrase.is_none() {
            continue;
        }
        let (regions, boxes) = (row.region_boxes(), row.phrase_boxes());
        let cells = row.cells(&regions);
        let random: Vec<Vec<f32>> = (0..DRAWS)
            .map(|draw| random_map(cells, number, draw))
            .collect();
        for (control, maps) in all.iter_mut().zip([random, vec![centre_map(cells)]]) {
            let scores: Vec<_> = maps.iter().map(|map| score(cells, map, &boxes)).collect();
            let count = scores.len() as f64;
            let mean = |of: fn(&crate::metrics::explanation::MapScore) -> f64| {
                scores.iter().flatten().map(of).sum::<f64>() / count
            };
            let pointing = mean(|found| found.pointing);
            control.pointing.add(pointing, &boxes);
            control.iou.add(mean(|found| found.iou));
            control.inside.add(mean(|found| found.inside));
        }
    }
    let texts = rows.iter().filter(|row| row.curves.is_some()).count();
    let phrases = rows.iter().filter(|row| row.phrase.is_some()).count();
    let [random, centre] = all;
    let of =
        |method: &str, control: &Control, curves: [Option<f64>; 2], texts| ExplanationFigures {
            method: method.to_owned(),
            pointing: control.pointing.all.accuracy(),
            pointing_small: control.pointing.small.accuracy(),
            iou: control.iou.value(),
            inside: control.inside.value(),
            deletion: curves[0],
            insertion: curves[1],
            sanity: None,
            phrases,
            nowhere: 0,
            texts,
        };
    [
        of(
            "random map",
            &random,
            [deletion.value(), insertion.value()],
            texts,
        ),
        of("centre", &centre, [None, None], 0),
    ]
}

/// How often the strongest place lies in a box.
#[derive(Default)]
struct Pointing {
    all: Tally,
    small: Tally,
}

impl Pointing {
    fn add(&mut self, worth: f64, boxes: &[Rect]) {
        self.all.add(worth);
        if is_small(boxes) {
            self.small.add(worth);
        }
    }
}

#[derive(Default)]
struct Control {
    pointing: Pointing,
    iou: Mean,
    inside: Mean,
}

/// A table for a terminal of 80 columns: a row a method, then the controls.
#[must_use]
pub fn render_explanation_table(report: &ExplanationReport) -> String {
    let mut table = String::new();
    let mut line = |text: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(table, "{}", text.trim_end());
    };
    let phrases = report.methods.iter().map(|method| method.phrases).max();
    let texts = report.methods.iter().map(|method| method.texts).max();
    let counts = format!(
        "{} pictures, {} phrases, {} texts",
        grouped(report.pictures),
        grouped(phrases.unwrap_or(0)),
        grouped(texts.unwrap_or(0))
    );
    heading(&report.dataset, &report.split, counts, &report.model).for_each(&mut line);
    if !report.target.is_empty() {
        line(format!("explained: {}", report.target));
    }
    if !report.select.is_empty() {
        line(format!("attention keeps: {}", report.select));
    }
    if let Some(choice) = &report.choice {
        line(format!(
            "attention: layer {}, heads {}; {} phrases of {}: pointing {}",
            choice.layer,
            choice.heads,
            grouped(choice.phrases),
            shorten(&choice.split, 10),
            percent(choice.pointing)
        ));
    }
    line(String::new());
    if report.methods.is_empty() {
        line("Nothing was scored.".to_owned());
        return table;
    }
    let mark = if report.is_marked() { MARK } else { "" };
    line(format!(
        "{:<17}{:>10}{:>10}{:>8}{:>7}{:>8}{:>7}{:>7}{:>6}",
        "", "pointing", "interval", "small", "IoU", "inside", "del.", "ins.", "rand."
    ));
    for method in &report.methods {
        let of_model = !matches!(method.method.as_str(), "random map" | "centre");
        let mark = if of_model { mark } else { "" };
        let (mean, interval) = method
            .pointing
            .map_or((String::new(), String::new()), |found| {
                let bound = |share: f64| format!("{:.0}", 100.0 * share);
                let interval = format!("{} to {}", bound(found.low), bound(found.high));
                (marked(percent(found.mean), mark), interval)
            });
        let number =
            |value: Option<f64>| value.map_or(String::new(), |value| format!("{value:.3}"));
        line(format!(
            "{:<17}{mean:>10}{interval:>10}{:>8}{:>7}{:>8}{:>7}{:>7}{:>6}",
            shorten(&method.method, 16),
            method
                .pointing_small
                .map_or(String::new(), |found| percent(found.mean)),
            number(method.iou),
            number(method.inside),
            number(method.deletion),
            number(method.insertion),
            method
                .sanity
                .map_or(String::new(), |value| format!("{value:.2}")),
        ));
    }
    line(String::new());
    line(
        "Pointing: the strongest place lies in a box, with its 95 % interval. Small: of".to_owned(),
    );
    line(
        "phrases whose boxes cover less than a quarter. Inside: share of a map in boxes."
            .to_owned(),
    );
    line(
        "Del. and ins.: area under the result as the strongest places go or come first;".to_owned(),
    );
    line(
        "lower and higher than the random map is better. Rand.: likeness to the map of".to_owned(),
    );
    line("random weights; near 0 is better.".to_owned());
    let nowhere: Vec<String> = report
        .methods
        .iter()
        .filter(|method| method.nowhere > 0)
        .map(|method| format!("{} of {} phrases", grouped(method.nowhere), method.method))
        .collect();
    if !nowhere.is_empty() {
        line(shorten(
            &format!("Maps without any place: {}; they miss.", nowhere.join(", ")),
            79,
        ));
    }
    if report.skipped_phrases > 0 {
        line(format!(
            "{} phrases are left out: not in their caption, cut off, or without regions.",
            grouped(report.skipped_phrases)
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
    use crate::predictions::explanation::CurvesRow;

    fn row(method: &str, phrase: Option<&str>, map: [f32; 4]) -> ExplanationRow {
        ExplanationRow {
            id: "a".to_owned(),
            phrase: phrase.map(str::to_owned),
            method: method.to_owned(),
            side: Some(2),
            map: map.to_vec(),
            boxes: phrase.map(|_| [0.0, 0.0, 0.5, 0.5]).into_iter().collect(),
            random_weights: Some(vec![0.3, 0.2, 0.1, 0.0]),
            curves: phrase.is_none().then(|| CurvesRow {
                deletion: vec![1.0, 0.0, 0.0],
                insertion: vec![0.0, 1.0, 1.0],
                random_deletion: vec![1.0, 0.5, 0.0],
                random_insertion: vec![0.0, 0.5, 1.0],
            }),
            ..ExplanationRow::default()
        }
    }

    fn predictions() -> ExplanationPredictions {
        ExplanationPredictions {
            rows: vec![
                row("rollout", Some("a cat"), [1.0, 0.2, 0.1, 0.0]),
                row("rollout", Some("a dog"), [0.0, 0.0, 0.0, 0.0]),
                row("rollout", None, [1.0, 0.2, 0.1, 0.0]),
                row(
                    "a method of a very long name",
                    Some("a cat"),
                    [0.0, 0.0, 0.0, 1.0],
                ),
            ],
            ..ExplanationPredictions::default()
        }
    }

    #[test]
    fn figures_of_a_file() {
        let report = score_explanations(&predictions());
        let [long, rollout, random, centre] = &report.methods[..] else {
            unreachable!("two methods and two controls: {:?}", report.methods);
        };
        assert_eq!(rollout.pointing.unwrap().mean, 0.5);
        assert_eq!((rollout.phrases, rollout.nowhere, rollout.texts), (2, 1, 1));
        assert_eq!(
            (rollout.deletion, rollout.insertion),
            (Some(0.25), Some(0.75))
        );
        // The map that is the same everywhere has no rank.
        assert_eq!(rollout.sanity, Some(1.0));
        assert_eq!(long.pointing.unwrap().mean, 0.0);
        // The box covers a quarter.
        assert_eq!(long.pointing_small, None);
        let mut narrow = predictions();
        let rows = narrow.rows.iter_mut();
        rows.for_each(|row| row.boxes.iter_mut().for_each(|own| own[3] = 0.4));
        let narrow = score_explanations(&narrow).methods;
        assert!(narrow.iter().all(|own| own.pointing_small == own.pointing));
        assert_eq!((random.deletion, random.insertion), (Some(0.5), Some(0.5)));
        let luck = random.pointing.unwrap().mean;
        assert!(luck < 0.7, "{luck}");
        // All four cells are equally far from the centre: such a map points nowhere.
        assert_eq!(centre.pointing.unwrap().mean, 0.0);
        let json = serde_json::to_string(&report).unwrap();
        let again: ExplanationReport = serde_json::from_str(&json).unwrap();
        let names = |report: &ExplanationReport| -> Vec<String> {
            report.methods.iter().map(|it| it.method.clone()).collect()
        };
        assert_eq!(names(&again), names(&report));
    }

    #[test]
    fn the_table_fits_80_columns() {
        let mut predictions = predictions();
        predictions.info.choice = Some(Choice {
            layer: 11,
            heads: "mean".to_owned(),
            phrases: 13_123,
            split: "val".to_owned(),
            ..Choice::default()
        });
        predictions.info.skipped_phrases = 4;
        let table = render_explanation_table(&score_explanations(&predictions));
        assert!(
            table.lines().all(|line| line.chars().count() <= 80),
            "{table}"
        );
        for part in [
            "rollout",
            "random map",
            "centre",
            "4 phrases are left out",
            "layer 11",
        ] {
            assert!(table.contains(part), "{part}\n{table}");
        }
        let empty =
            render_explanation_table(&score_explanations(&ExplanationPredictions::default()));
        assert!(empty.ends_with("Nothing was scored.\n"));
    }
}
