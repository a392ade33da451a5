//! Figures of probes, and their table for the terminal.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::{MARK, OverlapReport, grouped, heading, shorten};
use crate::metrics::bootstrap::{self, Interval};
use crate::metrics::confidence::{self, Threshold, calibration_error};
use crate::metrics::f1::{ClassF1, f1, f1_of};
use crate::metrics::rank::auroc;
pub(super) use crate::predictions::relation::KIND;
use crate::predictions::relation::{
    ORACLE, Protocol, RelationInfo, RelationPredictions, RelationRow,
};
use crate::predictions::{DatasetIdentity, ModelIdentity};

/// Seed of the resamples: a figure's interval is the same each time.
const SEED: u64 = 0;

/// Figures of one question: the classes, or one of the two facts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RelationFigure {
    /// Weighted F1 with its 95 % bootstrap interval.
    pub weighted_f1: Interval,
    /// Mean F1 over classes.
    pub macro_f1: f64,
    /// Share of right answers.
    pub accuracy: f64,
    /// Figures of each class.
    pub classes: Vec<ClassF1>,
}

/// Figures of one way to read features.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProtocolReport {
    /// The way.
    pub protocol: Protocol,
    /// Of the classes; of tv where these are relations.
    pub classes: RelationFigure,
    /// Of t, text represented; relations only.
    pub t: Option<RelationFigure>,
    /// Of v, image adds; relations only.
    pub v: Option<RelationFigure>,
    /// Expected calibration error of the class given; `None` of a baseline.
    pub calibration_error: Option<f64>,
    /// Area under the ROC curve of each class's probability against all other classes; `None` where a class is absent.
    pub auroc: Vec<Option<f64>>,
    /// Area under the ROC curve of the probabilities of t and v; relations only.
    pub auroc_facts: Option<[Option<f64>; 2]>,
    /// Rows: right class, columns: class given.
    pub confusion: Vec<Vec<usize>>,
    /// What its threshold keeps on this split.
    pub answered: Option<Threshold>,
}

/// Everything a file of relations says about a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RelationReport {
    /// Name of the split.
    pub split: String,
    /// The data scored.
    pub dataset: DatasetIdentity,
    /// The model whose features are read.
    pub model: ModelIdentity,
    /// Names of the classes.
    pub classes: Vec<String>,
    /// Whether these are the four relations.
    pub relations: bool,
    /// Pairs scored.
    pub pairs: usize,
    /// Training and validation pairs.
    pub fitted_on: (usize, usize),
    /// Every way to read features.
    pub protocols: Vec<ProtocolReport>,
    /// Always saying the most frequent class of the training pairs.
    pub majority: ProtocolReport,
    /// Weighted F1 to be expected of drawing each class equally often: of the classes, and of t and v.
    pub chance: (f64, Option<[f64; 2]>),
    /// Area under the ROC curve of the cosine: of each class against all others, and of t and v where these are relations.
    pub cosine: Option<Vec<(String, f64)>>,
    /// What of the data the model was trained on; `None` when nobody looked.
    #[serde(default)]
    pub training_overlap: Option<OverlapReport>,
}

impl RelationReport {
    /// Whether figures of the model carry [`MARK`].
    #[must_use]
    pub fn is_marked(&self) -> bool {
        let overlap = self.training_overlap.as_ref();
        overlap.is_some_and(|overlap| overlap.marked)
    }
}

/// The two facts of a class.
fn facts(tv: usize) -> [usize; 2] {
    [tv / 2, tv % 2]
}

/// Computes every figure that the file allows.
#[must_use]
pub fn score_relation(predictions: &RelationPredictions) -> Option<RelationReport> {
    let RelationPredictions { info, rows } = predictions;
    let place = |name: &str| info.classes.iter().position(|class| class == name);
    let truth: Vec<usize> = rows.iter().filter_map(|row| place(&row.label)).collect();
    let units = bootstrap::units(rows.iter().map(|row| row.unit.as_str()));
    let of = |protocol: &Protocol, probabilities: &[&[f32]]| {
        protocol_report(info, protocol, probabilities, &truth, &units)
    };
    let protocols = info.protocols.iter().enumerate().map(|(index, protocol)| {
        let values = rows.iter().filter_map(|row| row.probabilities.get(index));
        of(protocol, &values.map(Vec::as_slice).collect::<Vec<_>>())
    });
    let majority = place(&info.majority)?;
    let constant: Vec<f32> = (0..info.classes.len())
        .map(|class| f32::from(u8::from(class == majority)))
        .collect();
    let always = Protocol {
        name: "majority".to_owned(),
        features: String::new(),
        settings: info.majority.clone(),
        promise: None,
    };
    let mut baseline = of(&always, &vec![constant.as_slice(); rows.len()])?;
    baseline.calibration_error = None;
    let fact = |which: usize| truth.iter().map(|tv| facts(*tv)[which]).collect::<Vec<_>>();
    Some(RelationReport {
        split: info.split.clone(),
        dataset: info.dataset.clone(),
        model: info.model.clone(),
        classes: info.classes.clone(),
        relations: info.relations,
        pairs: rows.len(),
        fitted_on: info.fitted_on,
        protocols: protocols.collect::<Option<_>>()?,
        majority: baseline,
        chance: (
            chance(&truth, info.classes.len()),
            info.relations
                .then(|| [chance(&fact(0), 2), chance(&fact(1), 2)]),
        ),
        cosine: cosine(info, rows, &truth),
        training_overlap: info.training_overlap.as_ref().map(OverlapReport::new),
    })
}

/// Weighted F1 of classes drawn equally often, from the expected counts.
fn chance(truth: &[usize], classes: usize) -> f64 {
    let drawn = 1.0 / classes.max(1) as f64;
    let mut counts = vec![0_usize; classes];
    for class in truth {
        if let Some(count) = counts.get_mut(*class) {
            *count += 1;
        }
    }
    let of = |count: &usize| {
        let share = *count as f64 / truth.len().max(1) as f64;
        share * 2.0 * share * drawn / (share + drawn)
    };
    counts.iter().map(of).sum()
}

fn protocol_report(
    info: &RelationInfo,
    protocol: &Protocol,
    probabilities: &[&[f32]],
    truth: &[usize],
    units: &[Vec<usize>],
) -> Option<ProtocolReport> {
    let predicted: Vec<usize> = probabilities.iter().map(|row| highest(row)).collect();
    let confidence: Vec<f64> = probabilities
        .iter()
        .zip(&predicted)
        .map(|(row, class)| row.get(*class).map_or(0.0, |value| f64::from(*value)))
        .collect();
    let right: Vec<bool> = predicted.iter().zip(truth).map(|(a, b)| a == b).collect();
    let classes = info.classes.len();
    let mut confusion = vec![vec![0; classes]; classes];
    for (truth, predicted) in truth.iter().zip(&predicted) {
        confusion[*truth][*predicted] += 1;
    }
    let against = |is: &dyn Fn(usize) -> bool| {
        let positive: Vec<bool> = truth.iter().map(|class| is(*class)).collect();
        let score = |row: &&[f32]| -> f64 {
            let own = row.iter().enumerate().filter(|(class, _)| is(*class));
            own.map(|(_, value)| f64::from(*value)).sum()
        };
        auroc(
            &positive,
            &probabilities.iter().map(score).collect::<Vec<_>>(),
        )
    };
    let fact = |which: usize| {
        let of = |classes: &[usize]| {
            classes
                .iter()
                .map(|tv| facts(*tv)[which])
                .collect::<Vec<_>>()
        };
        figure(&of(truth), &of(&predicted), units)
    };
    let relations = info.relations;
    Some(ProtocolReport {
        protocol: protocol.clone(),
        classes: figure(truth, &predicted, units)?,
        t: if relations { fact(0) } else { None },
        v: if relations { fact(1) } else { None },
        calibration_error: calibration_error(&confidence, &right).map(|found| found.error),
        auroc: (0..classes)
            .map(|class| against(&|other| other == class))
            .collect(),
        auroc_facts: relations.then(|| [0, 1].map(|which| against(&|tv| facts(tv)[which] == 1))),
        confusion,
        answered: protocol
            .promise
            .map(|(threshold, wanted)| confidence::at(wanted, threshold, &confidence, &right)),
    })
}

/// The place of the highest value, the first of equals.
fn highest(values: &[f32]) -> usize {
    let places = values.iter().enumerate();
    let best = places.reduce(|best, next| if next.1 > best.1 { next } else { best });
    best.map_or(0, |(place, _)| place)
}

fn figure(truth: &[usize], predicted: &[usize], units: &[Vec<usize>]) -> Option<RelationFigure> {
    let all = f1(truth, predicted)?;
    let weighted = |samples: &[usize]| {
        let pairs = samples
            .iter()
            .map(|sample| (truth[*sample], predicted[*sample]));
        Some(f1_of(pairs)?.weighted)
    };
    Some(RelationFigure {
        weighted_f1: bootstrap::interval(SEED, units, weighted)?,
        macro_f1: all.macro_mean,
        accuracy: all.accuracy,
        classes: all.classes,
    })
}

/// What the cosine alone tells.
fn cosine(
    info: &RelationInfo,
    rows: &[RelationRow],
    truth: &[usize],
) -> Option<Vec<(String, f64)>> {
    let scores: Option<Vec<f64>> = rows.iter().map(|row| row.cosine.map(f64::from)).collect();
    let scores = scores?;
    let against = |is: &dyn Fn(usize) -> bool| {
        let positive: Vec<bool> = truth.iter().map(|class| is(*class)).collect();
        auroc(&positive, &scores)
    };
    let mut found = Vec::new();
    if info.relations {
        for (which, name) in ["t", "v"].into_iter().enumerate() {
            let area = against(&|tv| facts(tv)[which] == 1);
            found.extend(area.map(|area| (name.to_owned(), area)));
        }
    }
    for (class, name) in info.classes.iter().enumerate() {
        let area = against(&|other| other == class);
        found.extend(area.map(|area| (name.clone(), area)));
    }
    Some(found)
}

/// A table for a terminal of 80 columns: what each way to read features scores, and below it what needs none.
#[must_use]
pub fn render_relation_table(report: &RelationReport) -> String {
    let mut table = String::new();
    let mut line = |text: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(table, "{}", text.trim_end());
    };
    let counts = format!(
        "{} pairs, {} classes; fitted on {}, chosen on {}",
        grouped(report.pairs),
        report.classes.len(),
        grouped(report.fitted_on.0),
        grouped(report.fitted_on.1)
    );
    heading(&report.dataset, &report.split, counts, &report.model).for_each(&mut line);
    let mark = if report.is_marked() { MARK } else { "" };
    line(String::new());
    let columns = match report.relations {
        true => format!("{:>6}{:>6}{:>7}", "t", "v", "tv"),
        false => format!("{:>6}{:>6}{:>7}", "acc", "macro", "F1"),
    };
    line(format!(
        "{:<16}{:<13}{columns}{:>16}{:>7}{:>8}",
        "weighted F1, %", "features", "95 % interval", "AUROC", "cal.err"
    ));
    for protocol in report.protocols.iter().chain([&report.majority]) {
        line(row(report.relations, protocol, mark));
    }
    let (chance, of_facts) = report.chance;
    let facts = of_facts.map_or_else(
        || format!("{:>6}{:>6}", "", ""),
        |[t, v]| format!("{}{}", percent(t, 6), percent(v, 6)),
    );
    line(format!(
        "  {:<14}{:<13}{facts}{}",
        "chance",
        "",
        percent(chance, 7)
    ));
    if report
        .protocols
        .iter()
        .any(|own| own.protocol.name == ORACLE)
    {
        line(format!(
            "{ORACLE}: which cluster stands for which class was chosen with"
        ));
        line("these labels, so it bounds what clusters can say, and is no result.".to_owned());
    }
    line(String::new());
    if let Some(chosen) = report.protocols.first() {
        line(format!(
            "{}, {}:",
            chosen.protocol.name, chosen.protocol.features
        ));
        line(format!(
            "  {:<30}{:>10}{:>9}{:>7}{:>10}",
            "class", "precision", "recall", "F1", "pairs"
        ));
        for class in &chosen.classes.classes {
            let name = report.classes.get(class.class).map_or("", String::as_str);
            line(format!(
                "  {:<30}{}{}{}{:>10}",
                shorten(name, 30),
                percent(class.precision, 10),
                percent(class.recall, 9),
                percent(class.f1, 7),
                grouped(class.support)
            ));
        }
        if let Some(answered) = &chosen.answered {
            line(String::new());
            line(answered_line(answered));
        }
    }
    if let Some(areas) = &report.cosine {
        let areas: Vec<String> = areas
            .iter()
            .take(6)
            .map(|(name, area)| format!("{} {area:.3}", shorten(name, 18)))
            .collect();
        line(String::new());
        line(format!("AUROC of the cosine alone: {}", areas.join(", ")));
    }
    line(String::new());
    for note in [
        "AUROC is the mean over classes, each against the others; cal.err the expected",
        "calibration error in points. Intervals come from 1,000 resamples of authors or",
        "pictures.",
    ] {
        line(note.to_owned());
    }
    if let Some(overlap) = &report.training_overlap {
        overlap.lines(report.pairs).into_iter().for_each(&mut line);
    }
    table
}

/// What a threshold does, in words.
#[must_use]
pub fn answered_line(answered: &Threshold) -> String {
    match answered.precision {
        None => format!(
            "No answer is given: none would be right in {:.0} %.",
            100.0 * answered.wanted
        ),
        Some(precision) => format!(
            "Answers {:.1} % of pairs, {:.1} % right ({:.1} to {:.1} %; {:.0} % wanted).",
            100.0 * answered.coverage,
            100.0 * precision.mean,
            100.0 * precision.low,
            100.0 * precision.high,
            100.0 * answered.wanted
        ),
    }
}

fn percent(share: f64, width: usize) -> String {
    format!("{:>width$.1}", 100.0 * share)
}

fn row(relations: bool, report: &ProtocolReport, mark: &str) -> String {
    let share = |figure: &Option<RelationFigure>| {
        let value = figure.as_ref().map(|figure| figure.weighted_f1.value);
        value.map_or_else(|| format!("{:>6}", ""), |value| percent(value, 6))
    };
    let first = match relations {
        true => format!("{}{}", share(&report.t), share(&report.v)),
        false => format!(
            "{}{}",
            percent(report.classes.accuracy, 6),
            percent(report.classes.macro_f1, 6)
        ),
    };
    let weighted = report.classes.weighted_f1;
    let areas: Vec<f64> = report.auroc.iter().flatten().copied().collect();
    let area = match areas.len() {
        0 => String::new(),
        count => format!("{:.3}", areas.iter().sum::<f64>() / count as f64),
    };
    let error = report.calibration_error;
    format!(
        "  {:<14}{:<13}{first}{:>7}{:>16}{area:>7}{:>8}",
        shorten(&report.protocol.name, 13),
        shorten(&report.protocol.features, 12),
        format!("{:.1}{mark}", 100.0 * weighted.value),
        format!(
            "{:.1} to {:.1}",
            100.0 * weighted.low,
            100.0 * weighted.high
        ),
        error.map_or_else(String::new, |error| format!("{:.1}", 100.0 * error))
    )
}
