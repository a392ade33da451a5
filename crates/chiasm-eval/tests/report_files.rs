//! The written report: self-contained page, figures without pictures.

#![allow(
    clippy::unwrap_used,
    reason = "a failed unwrap here is the failed test"
)]

use std::fs;

use chiasm_data::{Finding, Overlap};
use chiasm_eval::metrics::{ScoreMatrix, TieRule, retrieval};
use chiasm_eval::predictions::{
    ClassInfo, ClassPredictions, ClassRow, DatasetIdentity, Targets, TrainingOverlap,
};
use chiasm_eval::report::{
    Answer, Chart, Curve, Hit, Judged, QueryResult, Report, ReportError, ResultRow, RowKind,
    RunFacts, SplitCount, write_report,
};
use chiasm_eval::score::score_classes;

/// A PNG's first bytes: enough for the page to know its type.
const PNG: &[u8] = b"\x89PNG\r\n\x1a\n http://example.org";

fn report() -> Report {
    let scores = ScoreMatrix::new(vec![1.0, 0.0, 0.0, 1.0], 2, 2).unwrap();
    let metrics = retrieval::evaluate(&scores, &[0, 1], TieRule::Pessimistic).unwrap();
    let hit = |correct| Hit {
        image: Some(PNG.to_vec()),
        caption: "a fox".into(),
        score: 0.5,
        correct,
    };
    Report {
        title: "tiny".into(),
        run: RunFacts {
            command: "chiasm train recipes/tiny.toml".into(),
            splits: vec![SplitCount {
                name: "train".into(),
                images: 1000,
                texts: 5000,
            }],
            ..RunFacts::default()
        },
        results: vec![
            ResultRow::chance(&metrics),
            ResultRow::measured(RowKind::Dual, "trained", &metrics),
        ],
        classes: None,
        grounding: None,
        judged: Vec::new(),
        found: Vec::new(),
        training_overlap: None,
        notes: vec!["Ties count as misses.".into()],
        gallery: vec![
            QueryResult {
                query: "fox".into(),
                answer: Some(Answer {
                    rank: 1,
                    image: None,
                }),
                top: vec![hit(true), hit(false)],
            },
            QueryResult {
                query: "owl".into(),
                answer: Some(Answer {
                    rank: 9,
                    image: Some(PNG.to_vec()),
                }),
                top: vec![hit(false)],
            },
        ],
        examples: vec![QueryResult {
            query: "something warm".into(),
            answer: None,
            top: vec![hit(false)],
        }],
        curves: vec![Curve {
            chart: Chart::Loss,
            name: "contrastive".into(),
            unit: "nats".into(),
            points: vec![(0.0, 2.0), (1.0, f64::INFINITY), (2.0, 1.0)],
        }],
    }
}

#[test]
fn the_page_asks_for_nothing_from_outside() {
    let folder = tempfile::tempdir().unwrap();
    let (html, json) = write_report(&report(), &folder.path().join("new/folder")).unwrap();
    assert!(json.ends_with("report.json"));
    let html = fs::read_to_string(html).unwrap();
    for outside in [
        "http:", "https:", "url(", "@import", "<script", "<link", "srcset",
    ] {
        assert!(!html.contains(outside), "{outside}");
    }
    let images = html.matches("<img ").count();
    assert_eq!(images, 5, "four hits and the missed answer");
    assert_eq!(html.matches("src=\"data:image/png;base64,").count(), images);
    assert_eq!(html.matches("alt=\"").count(), images);
}

#[test]
fn the_page_says_what_was_right_without_colour() {
    let folder = tempfile::tempdir().unwrap();
    let (html, _) = write_report(&report(), folder.path()).unwrap();
    let html = fs::read_to_string(html).unwrap();
    assert_eq!(
        html.matches("<span class=\"mark\">✓ right</span>").count(),
        1
    );
    assert_eq!(
        html.matches("<span class=\"mark\">right answer</span>")
            .count(),
        1
    );
    assert!(
        html.contains("right picture at rank 9") && html.contains("Guessing would reach 50.0 %.")
    );
    assert!(html.contains("<td>5,000</td>"));
}

/// Both directions' four figures and the sentence's two; chance stays as it is.
#[test]
fn figures_on_trained_pictures_are_marked() {
    let folder = tempfile::tempdir().unwrap();
    let page = |report: &Report| {
        let (html, _) = write_report(report, folder.path()).unwrap();
        fs::read_to_string(html).unwrap()
    };
    let mut report = report();
    assert_eq!(page(&report).matches('†').count(), 0);
    report.results = report
        .results
        .into_iter()
        .map(|row| {
            let is_trained = row.kind == RowKind::Dual;
            row.marked(is_trained)
        })
        .collect();
    assert_eq!(page(&report).matches('†').count(), 2 * 4 + 2);
}

#[test]
fn the_figures_carry_no_pictures_and_can_be_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let (_, json) = write_report(&report(), folder.path()).unwrap();
    let text = fs::read_to_string(json).unwrap();
    assert!(!text.contains("\"image\"") && !text.contains("iVBOR"));
    let back: Report = serde_json::from_str(&text).unwrap();
    assert!(back.curves[0].points[1].1.is_nan(), "a gap stays a gap");
    assert_eq!((back.results, back.run), (report().results, report().run));
}

#[test]
fn a_folder_that_cannot_be_made_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let error = write_report(&report(), &file.join("report")).unwrap_err();
    assert!(
        matches!(error, ReportError::Io { .. }) && error.to_string().contains("file"),
        "{error}"
    );
}

/// What people and data could write into a page.
const NASTY: &str = "<script>alert('x')</script>\" onerror=\"";

/// Statements about two pictures each, one of three judged wrong.
fn statements() -> ClassPredictions {
    let row = |id: &str, label: &str, predicted: &str| ClassRow {
        id: id.into(),
        text: format!("{NASTY} {id}"),
        predicted: predicted.into(),
        probability: 0.75,
        label: Some(label.into()),
        kinds: [(NASTY.to_owned(), NASTY.to_owned())].into(),
        ..ClassRow::default()
    };
    ClassPredictions {
        info: ClassInfo {
            split: "test".into(),
            dataset: DatasetIdentity {
                name: NASTY.into(),
                fingerprint: "f".into(),
            },
            classes: vec!["false".into(), NASTY.into()],
            majority: Some("false".into()),
            ..ClassInfo::default()
        },
        rows: vec![
            row("a", NASTY, NASTY),
            row("b", "false", "false"),
            row("c", NASTY, "false"),
        ],
    }
}

fn class_report(predictions: &ClassPredictions) -> Report {
    Report {
        title: "classes".into(),
        classes: Some(score_classes(predictions)),
        judged: Judged::spread(predictions, 12, |row| match row {
            0 => vec![Some(PNG.to_vec()), None],
            _ => vec![Some(PNG.to_vec()); 2],
        }),
        curves: vec![Curve {
            chart: Chart::ValidationAccuracy,
            name: "accuracy".into(),
            unit: String::new(),
            points: vec![(300.0, 0.5)],
        }],
        ..Report::default()
    }
}

fn class_page(predictions: &ClassPredictions) -> String {
    let folder = tempfile::tempdir().unwrap();
    let (html, _) = write_report(&class_report(predictions), folder.path()).unwrap();
    fs::read_to_string(html).unwrap()
}

#[test]
fn a_page_of_classes_escapes_everything_and_asks_for_nothing() {
    let html = class_page(&statements());
    for outside in [
        "http:",
        "https:",
        "url(",
        "@import",
        "<script",
        "<link",
        "srcset",
        "\" onerror",
    ] {
        assert!(!html.contains(outside), "{outside}");
    }
    assert!(html.contains("&lt;script&gt;"));
    let images = html.matches("<img ").count();
    assert_eq!(images, 5, "two of each, and one that cannot be shown");
    assert_eq!(html.matches("<span>no picture</span>").count(), 1);
    assert_eq!(html.matches("src=\"data:image/png;base64,").count(), images);
    assert_eq!(html.matches("alt=\"picture 2 of 2 for: ").count(), 2);
}

#[test]
fn a_page_of_classes_has_figures_beside_baselines() {
    let html = class_page(&statements());
    for part in [
        "Accuracy is 66.7 % on 3 samples (95 % interval 20.8 to 93.9 %).",
        "Always saying “false” reaches 33.3 %, guessing 50.0 %.",
        "always “false”",
        "By right class",
        "Right class, taken for",
        "Accuracy on the validation split",
        "<circle class=\"dot s0\"",
    ] {
        assert!(html.contains(part), "{part}");
    }
    // Right and wrong in words, and who was taken for whom.
    assert_eq!(
        html.matches("<span class=\"verdict right\">✓ right</span>")
            .count(),
        2
    );
    assert_eq!(
        html.matches("<span class=\"verdict wrong\">✗ wrong</span>")
            .count(),
        1
    );
    assert_eq!(html.matches("<td class=\"diagonal\">1 ✓</td>").count(), 2);
}

#[test]
fn figures_of_classes_on_trained_pictures_are_marked() {
    let mut predictions = statements();
    assert!(!class_page(&predictions).contains('†'));
    predictions.info.training_overlap = Some(TrainingOverlap {
        command: "chiasm data audit a:train a:test".into(),
        training_samples: 9,
        findings: vec![Finding {
            kind: Overlap::SameBytes,
            id: "a".into(),
            other: "z".into(),
        }],
    });
    // The sentence, the whole, two classes, one kind, and what the mark means.
    assert_eq!(class_page(&predictions).matches('†').count(), 6);
}

#[test]
fn figures_of_classes_carry_no_pictures_and_can_be_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut report = class_report(&statements());
    let (_, json) = write_report(&report, folder.path()).unwrap();
    let text = fs::read_to_string(json).unwrap();
    assert!(!text.contains("\"images\":[") && !text.contains("iVBOR"));
    let back: Report = serde_json::from_str(&text).unwrap();
    report
        .judged
        .iter_mut()
        .for_each(|judged| judged.images.clear());
    assert_eq!(back.judged, report.judged);
    let (back, given) = (back.classes.unwrap(), report.classes.unwrap());
    assert_eq!(
        (back.samples, back.confusion),
        (given.samples, given.confusion)
    );
}

#[test]
fn a_split_without_answers_has_a_page() {
    let mut predictions = statements();
    predictions.info.targets = Targets::Answers;
    let html = class_page(&predictions);
    assert!(html.contains("No answer or label is known"));
    assert_eq!(html.matches("right answer not known</span>").count(), 3);
    assert!(!html.contains("<table"));
}
