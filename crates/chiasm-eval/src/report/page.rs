//! From a report to its page: numbers become words here, the template only arranges them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment};
use serde::Serialize;

use super::chart::{self, tick_label};
use super::classes::{self, ClassTable, ConfusionTable, JudgedView};
use super::grounding::{self, FoundView};
use super::{Chart, Curve, QueryResult, Report, ResultCells, ResultRow, RowKind, RunFacts};
use crate::score::{MARK, grouped, marked, percent};

const TEMPLATE: &str = include_str!("../../templates/report.html");

/// Bytes in a mebibyte and a gibibyte.
const MIB: f64 = 1_048_576.0;
const GIB: f64 = 1_073_741_824.0;

pub(super) fn render(report: &Report) -> Result<String, minijinja::Error> {
    let mut environment = Environment::new();
    // Stated, not left to the file name: captions and names come from data.
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    environment.add_template("report", TEMPLATE)?;
    environment
        .get_template("report")?
        .render(Serde(Page::new(report)))
}

#[derive(Serialize)]
struct Page<'a> {
    title: &'a str,
    lead: Option<String>,
    directions: Vec<DirectionTable<'a>>,
    class_tables: Vec<ClassTable<'a>>,
    confusion: Option<ConfusionTable<'a>>,
    notes: Vec<String>,
    gallery: Vec<Search<'a>>,
    judged: Vec<JudgedView<'a>>,
    found: Vec<FoundView<'a>>,
    examples: Vec<Search<'a>>,
    charts: Vec<ChartView<'a>>,
    facts: Vec<(&'static str, String)>,
    command: &'a str,
    splits: Vec<(&'a str, String, String)>,
    environment: Vec<(&'a str, &'a str)>,
}

impl<'a> Page<'a> {
    fn new(report: &'a Report) -> Self {
        let run = &report.run;
        Self {
            title: &report.title,
            lead: match (&report.classes, &report.grounding) {
                (Some(classes), _) => Some(classes::lead(classes)),
                (None, Some(grounding)) => Some(grounding::lead(grounding)),
                (None, None) => lead(&report.results),
            },
            directions: directions(&report.results),
            class_tables: (report.classes.iter().flat_map(classes::tables))
                .chain(report.grounding.iter().flat_map(grounding::tables))
                .collect(),
            confusion: report
                .classes
                .as_ref()
                .and_then(|classes| classes::confused(&classes.confusion)),
            notes: report
                .classes
                .iter()
                .flat_map(classes::sentences)
                .chain(report.grounding.iter().flat_map(grounding::sentences))
                .chain(report.notes.iter().cloned())
                .collect(),
            gallery: report.gallery.iter().map(Search::new).collect(),
            judged: report.judged.iter().map(JudgedView::new).collect(),
            found: report.found.iter().map(FoundView::new).collect(),
            examples: report.examples.iter().map(Search::new).collect(),
            charts: charts(&report.curves),
            facts: facts(run),
            command: &run.command,
            splits: run
                .splits
                .iter()
                .map(|split| {
                    (
                        split.name.as_str(),
                        grouped_u64(split.images),
                        grouped_u64(split.texts),
                    )
                })
                .collect(),
            environment: run
                .environment
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_str()))
                .collect(),
        }
    }
}

/// The one sentence that matters: the best trained row beside chance.
fn lead(rows: &[ResultRow]) -> Option<String> {
    let best = rows
        .iter()
        .rev()
        .find(|row| matches!(row.kind, RowKind::Dual | RowKind::Reranked))?;
    let chance = rows.iter().find(|row| row.kind == RowKind::Chance)?;
    let [texts, pictures] = [best.text_to_image, best.image_to_text]
        .map(|cells| marked(percent(cells.recall_at_1), mark(best)));
    let [by_luck, other] =
        [chance.text_to_image, chance.image_to_text].map(|cells| percent(cells.recall_at_1));
    let by_luck = if by_luck == other {
        by_luck
    } else {
        format!("{by_luck} and {other}")
    };
    Some(format!(
        "The right picture comes first for {texts} of the texts, a right text for {pictures} of the pictures. \
         Guessing would reach {by_luck}."
    ))
}

fn mark(row: &ResultRow) -> &'static str {
    if row.marked { MARK } else { "" }
}

#[derive(Serialize)]
struct DirectionTable<'a> {
    name: &'static str,
    rows: Vec<RowView<'a>>,
}

#[derive(Serialize)]
struct RowView<'a> {
    label: &'a str,
    kind: RowKind,
    /// Text, and the length of the bar behind it in per cent.
    recalls: [(String, String); 3],
    median_rank: String,
}

fn directions(rows: &[ResultRow]) -> Vec<DirectionTable<'_>> {
    if rows.is_empty() {
        return Vec::new();
    }
    let table = |name, cells: fn(&ResultRow) -> &ResultCells| DirectionTable {
        name,
        rows: rows
            .iter()
            .map(|row| {
                let mark = mark(row);
                let cells = cells(row);
                let recalls = [cells.recall_at_1, cells.recall_at_5, cells.recall_at_10];
                RowView {
                    label: &row.label,
                    kind: row.kind,
                    recalls: recalls.map(|recall| {
                        (
                            marked(percent(recall), mark),
                            format!("{:.1}", recall.clamp(0.0, 1.0) * 100.0),
                        )
                    }),
                    median_rank: marked(tick_label(cells.median_rank), mark),
                }
            })
            .collect(),
    };
    vec![
        table("Text to image", |row| &row.text_to_image),
        table("Image to text", |row| &row.image_to_text),
    ]
}

#[derive(Serialize)]
struct Search<'a> {
    query: &'a str,
    /// Rank of the right answer; `None` for a free search.
    rank: Option<usize>,
    /// Whether the right answer is known and not among the hits.
    is_missed: bool,
    /// The right answer's picture.
    answer: Option<String>,
    hits: Vec<HitView<'a>>,
}

#[derive(Serialize)]
struct HitView<'a> {
    place: usize,
    image: Option<String>,
    caption: &'a str,
    score: String,
    correct: bool,
}

impl<'a> Search<'a> {
    fn new(result: &'a QueryResult) -> Self {
        let shown = result.top.iter().any(|hit| hit.correct);
        Self {
            query: &result.query,
            rank: result.answer.as_ref().map(|answer| answer.rank),
            is_missed: result.answer.is_some() && !shown,
            answer: result
                .answer
                .as_ref()
                .and_then(|answer| data_uri(answer.image.as_deref())),
            hits: result
                .top
                .iter()
                .zip(1..)
                .map(|(hit, place)| HitView {
                    place,
                    image: data_uri(hit.image.as_deref()),
                    caption: &hit.caption,
                    score: if hit.score.is_finite() {
                        format!("{:.2}", hit.score)
                    } else {
                        "not finite".to_owned()
                    },
                    correct: hit.correct,
                })
                .collect(),
        }
    }
}

/// The picture inside the page. `None` for bytes that no browser shows; the page says so in their place.
/// Holds nothing but a fixed type and base64 letters, so the template inserts it unescaped.
pub(super) fn data_uri(bytes: Option<&[u8]>) -> Option<String> {
    let bytes = bytes?;
    let kind = match bytes {
        [0x89, b'P', b'N', b'G', ..] => "png",
        [0xff, 0xd8, 0xff, ..] => "jpeg",
        [b'G', b'I', b'F', b'8', ..] => "gif",
        [
            b'R',
            b'I',
            b'F',
            b'F',
            _,
            _,
            _,
            _,
            b'W',
            b'E',
            b'B',
            b'P',
            ..,
        ] => "webp",
        _ => return None,
    };
    Some(format!(
        "data:image/{kind};base64,{}",
        STANDARD.encode(bytes)
    ))
}

#[derive(Serialize)]
struct ChartView<'a> {
    name: &'static str,
    width: f64,
    height: f64,
    svg: String,
    is_averaged: bool,
    lines: Vec<LineView<'a>>,
}

#[derive(Serialize)]
struct LineView<'a> {
    style: usize,
    name: &'a str,
    unit: &'a str,
    first: String,
    last: String,
}

fn charts(curves: &[Curve]) -> Vec<ChartView<'_>> {
    let view = |(chart, name): (Chart, &'static str)| {
        let own: Vec<&Curve> = curves.iter().filter(|curve| curve.chart == chart).collect();
        let points: Vec<&[(f64, f64)]> = own.iter().map(|curve| curve.points.as_slice()).collect();
        let svg = chart::draw(chart, &points)?;
        let lines = own
            .iter()
            .enumerate()
            .map(|(index, curve)| {
                let mut values = curve
                    .points
                    .iter()
                    .map(|point| point.1)
                    .filter(|value| value.is_finite());
                let first = values.next();
                let label = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), tick_label);
                LineView {
                    style: index % chart::STYLES,
                    name: &curve.name,
                    unit: &curve.unit,
                    first: label(first),
                    last: label(values.next_back().or(first)),
                }
            })
            .collect();
        let is_averaged = points.iter().any(|line| chart::is_averaged(line));
        Some(ChartView {
            name,
            width: chart::WIDTH,
            height: chart::HEIGHT,
            svg,
            is_averaged,
            lines,
        })
    };
    [
        (Chart::Loss, "Training losses"),
        (Chart::ValidationRecall, "Recall on the validation split"),
        (
            Chart::ValidationAccuracy,
            "Accuracy on the validation split",
        ),
        (Chart::LearningRate, "Learning rate"),
    ]
    .into_iter()
    .filter_map(view)
    .collect()
}

/// What is known about the run, in reading order; what was not given is left out.
fn facts(run: &RunFacts) -> Vec<(&'static str, String)> {
    let count = |value: u64| {
        if value == 0 {
            String::new()
        } else {
            grouped_u64(value)
        }
    };
    let threads = match run.threads {
        0 => String::new(),
        1 => ", 1 thread".to_owned(),
        many => format!(", {many} threads"),
    };
    let rate = if run.samples_per_second > 0.0 {
        format!("{:.1} pairs/s", run.samples_per_second)
    } else {
        String::new()
    };
    let mut facts = vec![
        ("Recipe", run.recipe.clone()),
        ("Dataset", run.dataset.clone()),
        ("Fingerprint", run.fingerprint.clone()),
        ("Parameters", count(run.parameters)),
        ("Steps", count(run.steps)),
        ("Seed", run.seed.to_string()),
        ("Device", format!("{}{threads}", run.device)),
        ("Duration", duration(run.duration_seconds)),
        ("Speed", rate),
        (
            "Peak memory",
            run.peak_memory_bytes.map_or_else(String::new, memory),
        ),
    ];
    facts.retain(|(_, value)| !value.is_empty());
    facts
}

fn grouped_u64(value: u64) -> String {
    usize::try_from(value).map_or_else(|_| value.to_string(), grouped)
}

fn duration(seconds: f64) -> String {
    if seconds < 60.0 {
        return format!("{:.1} s", seconds.max(0.0));
    }
    // The cast saturates, also for what is not finite.
    let whole = seconds.round() as u64;
    let (hours, minutes, seconds) = (whole / 3600, whole / 60 % 60, whole % 60);
    if hours > 0 {
        format!("{hours} h {minutes} min")
    } else {
        format!("{minutes} min {seconds} s")
    }
}

fn memory(bytes: u64) -> String {
    let bytes = bytes as f64;
    if bytes >= GIB {
        format!("{:.2} GiB", bytes / GIB)
    } else {
        format!("{:.0} MiB", bytes / MIB)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Answer, Hit};

    #[test]
    fn captions_are_never_markup() {
        let nasty = r#"<script>alert("x")</script>' onerror='"#.to_owned();
        let hit = Hit {
            image: Some(b"\x89PNG".to_vec()),
            caption: nasty.clone(),
            score: f32::NAN,
            correct: false,
        };
        let report = Report {
            title: nasty.clone(),
            notes: vec![nasty.clone()],
            gallery: vec![QueryResult {
                query: nasty.clone(),
                answer: Some(Answer {
                    rank: 7,
                    image: None,
                }),
                top: vec![hit],
            }],
            curves: vec![Curve {
                chart: Chart::Loss,
                name: nasty.clone(),
                unit: nasty.clone(),
                points: vec![(0.0, 1.0)],
            }],
            run: RunFacts {
                command: nasty.clone(),
                recipe: nasty.clone(),
                ..RunFacts::default()
            },
            ..Report::default()
        };
        let html = render(&report).unwrap();
        assert!(!html.contains("<script") && !html.contains("' onerror='"));
        assert!(html.contains("&lt;script&gt;") && html.contains("rank 7"));
    }

    #[test]
    fn an_empty_report_is_a_page() {
        let html = render(&Report::default()).unwrap();
        assert!(html.starts_with("<!doctype html>") && html.trim_end().ends_with("</html>"));
        assert!(!html.contains("<table") && !html.contains("<svg"));
    }

    #[test]
    fn words_for_numbers() {
        assert_eq!(
            (duration(5.04), duration(200.0), duration(4321.0)),
            ("5.0 s".into(), "3 min 20 s".into(), "1 h 12 min".into())
        );
        assert_eq!(
            (memory(3 << 29), memory(5 << 20)),
            ("1.50 GiB".into(), "5 MiB".into())
        );
        assert_eq!(
            data_uri(Some(b"\xff\xd8\xff")),
            Some("data:image/jpeg;base64,/9j/".into())
        );
        assert_eq!(data_uri(Some(b"<svg>")), None);
    }
}
