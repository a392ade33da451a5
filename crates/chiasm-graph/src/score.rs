//! How well text scene graphs agree with graphs that people wrote: F1 over sets of tuples.
//!
//! Owns the reader of annotated captions (JSON lines, `caption` and `graph` as FACTUAL writes them), the tuples and
//! the counting. A graph becomes a set of tuples as in SPICE: `(object)`, `(object, attribute)`,
//! `(subject, relation, object)`. Two tuples match when their words do, after what both sides go through alike:
//! lower case, singulars, infinitives, digits for number words, `(X, of, Y)` as `(Y, have, X)`. Spelling aside
//! nothing is forgiven, unless synonyms of objects are asked for.

use std::collections::BTreeSet;
use std::io::{BufRead, Read};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::lexicon;
use crate::text::{self, lemma};

/// Cap on a line of an annotated file.
pub const MAX_LINE_BYTES: usize = 1 << 20;
/// Cap on the rows of a file.
pub const MAX_ROWS: usize = 4_000_000;

/// Why an annotated file cannot be scored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScoreError {
    /// The system failed to read.
    #[error("line {line}: cannot read: {source}")]
    Io {
        /// Line, from 1.
        line: usize,
        /// What the system said.
        source: std::io::Error,
    },
    /// A line is not what it should be.
    #[error("line {line}: {reason}")]
    Row {
        /// Line, from 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// There is nothing to score.
    #[error("no captions in the file")]
    Empty,
    /// Predictions are not of these captions.
    #[error(
        "{predicted} predicted graphs for {captions} captions; a line of predictions belongs to each line of data"
    )]
    Count {
        /// Graphs predicted.
        predicted: usize,
        /// Captions annotated.
        captions: usize,
    },
}

impl ScoreError {
    /// What the person can do about it, when there is something to do.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Row { .. } | Self::Empty => Some(
                "a line is an object like {\"caption\": \"a red car\", \"graph\": \"( car , is , red )\"}",
            ),
            Self::Io { .. } | Self::Count { .. } => None,
        }
    }
}

/// A caption with its graph as facts: `[object]`, `[object, is, attribute]` or `[subject, relation, object]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// The caption; empty in a file of predictions that has none.
    pub caption: String,
    /// What is said in it.
    pub facts: Vec<Vec<String>>,
}

#[derive(Deserialize)]
struct RawRow {
    #[serde(default)]
    caption: String,
    graph: String,
}

#[derive(Deserialize)]
struct RawCaption {
    caption: String,
}

/// Reads annotated captions, a JSON object a line; empty lines are passed over.
///
/// # Errors
/// If a line cannot be read, is longer than 1 MiB, is no such object, or its graph cannot be read; the error names
/// the line. Also without any row, or with more than 4,000,000.
pub fn read_rows(reader: impl BufRead) -> Result<Vec<Row>, ScoreError> {
    read_lines(reader, |line| {
        let raw: RawRow = serde_json::from_slice(line).map_err(|error| error.to_string())?;
        Ok(Row {
            caption: raw.caption,
            facts: read_facts(&raw.graph)?,
        })
    })
}

/// Reads the captions of such lines; a graph may be missing.
///
/// # Errors
/// As [`read_rows`].
pub fn read_captions(reader: impl BufRead) -> Result<Vec<String>, ScoreError> {
    read_lines(reader, |line| {
        let raw: RawCaption = serde_json::from_slice(line).map_err(|error| error.to_string())?;
        Ok(raw.caption)
    })
}

fn read_lines<T>(
    mut reader: impl BufRead,
    read: impl Fn(&[u8]) -> Result<T, String>,
) -> Result<Vec<T>, ScoreError> {
    let mut rows = Vec::new();
    let mut buffer = Vec::new();
    for line in 1.. {
        buffer.clear();
        let limit = MAX_LINE_BYTES as u64 + 1;
        let taken = (&mut reader)
            .take(limit)
            .read_until(b'\n', &mut buffer)
            .map_err(|source| ScoreError::Io { line, source })?;
        if taken == 0 {
            break;
        }
        let refuse = |reason: String| ScoreError::Row { line, reason };
        if buffer.len() > MAX_LINE_BYTES {
            return Err(refuse(format!("longer than {MAX_LINE_BYTES} bytes")));
        }
        if buffer.trim_ascii().is_empty() {
            continue;
        }
        if rows.len() >= MAX_ROWS {
            return Err(refuse(format!("more than {MAX_ROWS} rows")));
        }
        rows.push(read(&buffer).map_err(refuse)?);
    }
    if rows.is_empty() {
        Err(ScoreError::Empty)
    } else {
        Ok(rows)
    }
}

/// Reads a graph that is written as `( dog , is , brown ) , ( dog , chase , men )`.
///
/// # Errors
/// If brackets are missing, or a fact has other than one or three parts.
pub fn read_facts(graph: &str) -> Result<Vec<Vec<String>>, String> {
    let graph = graph.trim();
    if graph.is_empty() {
        return Ok(Vec::new());
    }
    let inner = graph
        .strip_prefix('(')
        .and_then(|rest| rest.strip_suffix(')'))
        .ok_or_else(|| "a graph has to begin with `(` and end with `)`".to_owned())?;
    let mut facts = Vec::new();
    for fact in inner.split(") , (") {
        let parts: Vec<String> = fact
            .split(" , ")
            .map(|part| part.trim().to_owned())
            .collect();
        if !matches!(parts.len(), 1 | 3) || parts.iter().any(String::is_empty) {
            return Err(format!(
                "`({fact})` has {} parts, a fact has one or three",
                parts.len()
            ));
        }
        facts.push(parts);
    }
    Ok(facts)
}

/// Writes facts as [`read_facts`] reads them.
pub fn write_facts(facts: &[Vec<String>]) -> String {
    let facts: Vec<String> = facts
        .iter()
        .map(|fact| format!("( {} )", fact.join(" , ")))
        .collect();
    facts.join(" , ")
}

/// Agreement over one kind of tuples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct PartScore {
    /// Tuples in both.
    pub matched: usize,
    /// Tuples predicted.
    pub predicted: usize,
    /// Tuples that people wrote.
    pub annotated: usize,
    /// Share of the predicted that match, over all captions together.
    pub precision: f64,
    /// Share of the annotated that match.
    pub recall: f64,
    /// Harmonic mean of both.
    pub f1: f64,
    /// Mean of the captions' own F1; captions where both sides have none are left out.
    pub mean_f1: f64,
}

/// Agreement of graphs with annotations.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    /// Captions scored.
    pub captions: usize,
    /// True when synonyms of objects count as the same word.
    pub synonyms: bool,
    /// Objects.
    pub objects: PartScore,
    /// Objects with an attribute.
    pub attributes: PartScore,
    /// Subjects, relations and objects.
    pub relations: PartScore,
    /// All tuples together.
    pub all: PartScore,
    /// Captions that the parser read in a second, on one core; absent for graphs of others.
    pub captions_per_second: Option<f64>,
}

/// Parses the captions of annotated rows and scores the graphs.
pub fn evaluate(rows: &[Row], synonyms: bool) -> Report {
    // The word lists are read before the clock starts.
    let _ = text::parse("a dog");
    let start = Instant::now();
    let graphs: Vec<text::TextGraph> = rows.iter().map(|row| text::parse(&row.caption)).collect();
    let seconds = start.elapsed().as_secs_f64();
    let predicted = graphs.iter().map(text::TextGraph::facts);
    let mut report = score(rows, predicted, synonyms);
    report.captions_per_second = Some(rows.len() as f64 / seconds.max(1e-9));
    report
}

/// Scores graphs that another program made of the same captions, in the same order.
///
/// # Errors
/// If their numbers differ.
pub fn evaluate_predictions(
    rows: &[Row],
    predictions: &[Row],
    synonyms: bool,
) -> Result<Report, ScoreError> {
    if rows.len() != predictions.len() {
        return Err(ScoreError::Count {
            predicted: predictions.len(),
            captions: rows.len(),
        });
    }
    Ok(score(
        rows,
        predictions.iter().map(|row| row.facts.clone()),
        synonyms,
    ))
}

/// The figures as a table of at most 80 columns.
pub fn render_table(report: &Report) -> String {
    let mut table = format!(
        "{:<12}{:>10}{:>8}{:>8}{:>12}{:>10}{:>10}",
        "tuples", "precision", "recall", "F1", "mean F1", "found", "annotated"
    );
    let parts = [
        ("objects", &report.objects),
        ("attributes", &report.attributes),
        ("relations", &report.relations),
        ("all", &report.all),
    ];
    for (name, part) in parts {
        table.push_str(&format!(
            "\n{name:<12}{:>10.4}{:>8.4}{:>8.4}{:>12.4}{:>10}{:>10}",
            part.precision, part.recall, part.f1, part.mean_f1, part.predicted, part.annotated
        ));
    }
    let words = if report.synonyms {
        "synonyms of objects count as the same"
    } else {
        "words have to be the same"
    };
    table.push_str(&format!("\n{} captions; {words}", report.captions));
    if let Some(rate) = report.captions_per_second {
        table.push_str(&format!("; {rate:.0} captions/s"));
    }
    table
}

/// Kinds of tuples: objects, attributes, relations.
const KINDS: usize = 3;

fn score(
    rows: &[Row],
    predicted: impl Iterator<Item = Vec<Vec<String>>>,
    synonyms: bool,
) -> Report {
    let mut sums = [Sum::default(); KINDS + 1];
    for (row, facts) in rows.iter().zip(predicted) {
        let (wanted, found) = (tuples(&row.facts), tuples(&facts));
        let mut all = (0, 0, 0);
        for (kind, sum) in sums.iter_mut().take(KINDS).enumerate() {
            let of_kind = |set: &BTreeSet<Vec<String>>| -> Vec<Vec<String>> {
                set.iter()
                    .filter(|tuple| tuple.len() == kind + 1)
                    .cloned()
                    .collect()
            };
            let (wanted, found) = (of_kind(&wanted), of_kind(&found));
            let matched = matches(&found, &wanted, synonyms);
            sum.add(matched, found.len(), wanted.len());
            all = (all.0 + matched, all.1 + found.len(), all.2 + wanted.len());
        }
        sums[KINDS].add(all.0, all.1, all.2);
    }
    let [objects, attributes, relations, all] = sums.map(Sum::finish);
    Report {
        captions: rows.len(),
        synonyms,
        objects,
        attributes,
        relations,
        all,
        captions_per_second: None,
    }
}

#[derive(Clone, Copy, Default)]
struct Sum {
    matched: usize,
    predicted: usize,
    annotated: usize,
    f1s: f64,
    captions: usize,
}

impl Sum {
    fn add(&mut self, matched: usize, predicted: usize, annotated: usize) {
        self.matched += matched;
        self.predicted += predicted;
        self.annotated += annotated;
        if predicted + annotated > 0 {
            self.f1s += ratio(2 * matched, predicted + annotated);
            self.captions += 1;
        }
    }

    fn finish(self) -> PartScore {
        PartScore {
            matched: self.matched,
            predicted: self.predicted,
            annotated: self.annotated,
            precision: ratio(self.matched, self.predicted),
            recall: ratio(self.matched, self.annotated),
            f1: ratio(2 * self.matched, self.predicted + self.annotated),
            mean_f1: self.f1s / self.captions.max(1) as f64,
        }
    }
}

fn ratio(part: usize, whole: usize) -> f64 {
    part as f64 / whole.max(1) as f64
}

/// How many tuples of `found` have a partner in `wanted`, each used once.
fn matches(found: &[Vec<String>], wanted: &[Vec<String>], synonyms: bool) -> usize {
    let mut left: Vec<&Vec<String>> = wanted.iter().collect();
    let mut unmatched = Vec::new();
    let mut take = |tuple: &Vec<String>, same: &dyn Fn(&[String], &[String]) -> bool| {
        let at = left.iter().position(|other| same(tuple, other));
        if let Some(at) = at {
            left.swap_remove(at);
        }
        at.is_some()
    };
    let mut count = 0;
    for tuple in found {
        if take(tuple, &|a, b| a == b) {
            count += 1;
        } else {
            unmatched.push(tuple);
        }
    }
    if synonyms {
        let near = |a: &[String], b: &[String]| {
            let same = |at: usize| a.get(at) == b.get(at);
            let alike = |at: usize| match (a.get(at), b.get(at)) {
                (Some(a), Some(b)) => lexicon::is_synonym(a, b),
                _ => false,
            };
            // What a relation or an attribute says has to be the same.
            alike(0) && (a.len() < 2 || same(1)) && (a.len() < 3 || alike(2))
        };
        count += unmatched
            .into_iter()
            .filter(|tuple| take(tuple, &near))
            .count();
    }
    count
}

/// The tuples of a graph; their length says their kind.
fn tuples(facts: &[Vec<String>]) -> BTreeSet<Vec<String>> {
    let mut tuples = BTreeSet::new();
    for fact in facts {
        match fact.as_slice() {
            [name] => {
                tuples.insert(vec![object(name)]);
            }
            [subject, relation, other] => {
                let subject = object(subject);
                match predicate(relation).as_str() {
                    "be" => {
                        tuples.insert(vec![subject.clone(), attribute(other)]);
                    }
                    "of" => {
                        tuples.insert(vec![object(other)]);
                        tuples.insert(vec![object(other), "have".to_owned(), subject.clone()]);
                    }
                    said => {
                        tuples.insert(vec![object(other)]);
                        tuples.insert(vec![subject.clone(), said.to_owned(), object(other)]);
                    }
                }
                tuples.insert(vec![subject]);
            }
            _ => {}
        }
    }
    tuples
}

fn object(name: &str) -> String {
    let words: Vec<String> = name
        .to_lowercase()
        .split_whitespace()
        .map(|word| lemma::noun(word).into_owned())
        .collect();
    words.join(" ")
}

fn attribute(value: &str) -> String {
    let words: Vec<String> = value
        .to_lowercase()
        .split_whitespace()
        .map(|word| text::digits(word).unwrap_or(word).to_owned())
        .collect();
    words.join(" ")
}

fn predicate(said: &str) -> String {
    let said = said.to_lowercase();
    let mut words: Vec<&str> = said.split_whitespace().collect();
    // "is sitting on": an auxiliary before something else says nothing.
    while words.len() > 1 && lemma::verb(words[0]) == "be" {
        words.remove(0);
    }
    let words: Vec<String> = words
        .iter()
        .enumerate()
        .map(|(index, word)| {
            if index == 0 {
                lemma::verb(word).into_owned()
            } else {
                (*word).to_owned()
            }
        })
        .collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn row(caption: &str, graph: &str) -> Row {
        Row {
            caption: caption.to_owned(),
            facts: read_facts(graph).unwrap(),
        }
    }

    fn against(gold: &str, found: &str, synonyms: bool) -> Report {
        evaluate_predictions(&[row("", gold)], &[row("", found)], synonyms).unwrap()
    }

    #[test]
    fn tuples_are_counted() {
        let report = against(
            "( dogs , sit on , couch ) , ( dogs , is , 2 )",
            "( dog , sits on , couch ) , ( dog , is , red )",
            false,
        );
        assert_eq!(
            (
                report.objects.matched,
                report.objects.predicted,
                report.objects.annotated
            ),
            (2, 2, 2)
        );
        assert_eq!(
            (report.attributes.matched, report.attributes.predicted),
            (0, 1)
        );
        assert_eq!(report.relations.f1, 1.0);
        assert_eq!(
            (
                report.all.matched,
                report.all.predicted,
                report.all.annotated
            ),
            (3, 4, 4)
        );
        assert_eq!((report.all.f1, report.all.mean_f1), (0.75, 0.75));
    }

    #[test]
    fn spelling_is_made_alike_on_both_sides() {
        for (gold, found) in [
            ("( Two Dogs )", "( two dog )"),
            ("( dog , is , 2 )", "( dogs , is , two )"),
            ("( tree , have , leaves )", "( leaf , of , trees )"),
            ("( man , ride , horse )", "( man , is riding , horse )"),
            ("( dog ) , ( dog )", "( dogs )"),
        ] {
            assert_eq!(
                against(gold, found, false).all.f1,
                1.0,
                "{gold} and {found}"
            );
        }
    }

    #[test]
    fn synonyms_count_when_asked_for() {
        let (gold, found) = ("( dog , on , sofa )", "( dog , on , couch )");
        assert_eq!(against(gold, found, false).relations.matched, 0);
        assert_eq!(against(gold, found, true).all.f1, 1.0);
        // Each annotated tuple is used once.
        let report = against("( sofa )", "( couch ) , ( loveseat )", true);
        assert_eq!((report.objects.matched, report.objects.predicted), (1, 2));
    }

    #[test]
    fn nothing_against_nothing() {
        let report = against("", "", false);
        assert_eq!(
            (report.all.f1, report.all.mean_f1, report.captions),
            (0.0, 0.0, 1)
        );
        assert_eq!(against("( dog )", "", false).all.recall, 0.0);
        assert!(matches!(
            evaluate_predictions(&[row("", "")], &[], false),
            Err(ScoreError::Count { .. })
        ));
    }

    #[test]
    fn own_parser_is_scored() {
        let rows = [row(
            "a brown dog on the couch",
            "( dog , is , brown ) , ( dog , on , couch )",
        )];
        let report = evaluate(&rows, false);
        assert_eq!(report.all.f1, 1.0);
        assert!(report.captions_per_second.is_some());
        assert!(render_table(&report).lines().all(|line| line.len() <= 80));
    }

    #[test]
    fn odd_files_are_refused_with_their_line() {
        let good = r#"{"caption": "a dog", "graph": "( dog )"}"#;
        for (bad, reason) in [
            ("{", "line 3: EOF"),
            ("3", "line 3: invalid type"),
            (r#"{"caption": "a dog"}"#, "line 3: missing field `graph`"),
            (r#"{"graph": "dog"}"#, "line 3: a graph has to begin"),
            (
                r#"{"graph": "( dog , is )"}"#,
                "line 3: `( dog , is )` has 2 parts",
            ),
            (r#"{"graph": "( a ,  , b )"}"#, "line 3:"),
        ] {
            let error = read_rows(format!("{good}\n\n{bad}\n").as_bytes()).unwrap_err();
            assert!(error.to_string().starts_with(reason), "{error}");
            assert!(error.hint().is_some());
        }
        assert!(matches!(read_rows(&b"\n"[..]), Err(ScoreError::Empty)));
        let long = format!("{{\"graph\": \"{}\"}}", "x".repeat(MAX_LINE_BYTES));
        assert!(
            read_rows(long.as_bytes())
                .unwrap_err()
                .to_string()
                .contains("longer than")
        );
        assert_eq!(
            read_captions(&b"{\"caption\": \"a dog\"}"[..]).unwrap(),
            ["a dog"]
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn facts_are_written_as_they_are_read(facts in prop::collection::vec(prop_oneof![
            prop::collection::vec("[a-z]{1,6}( [a-z]{1,6})?", 1),
            prop::collection::vec("[a-z]{1,6}( [a-z]{1,6})?", 3),
        ], 0..6)) {
            prop_assert_eq!(read_facts(&write_facts(&facts)).unwrap(), facts);
        }

        #[test]
        fn any_bytes_are_survived(bytes: Vec<u8>, text: String) {
            let _ = read_rows(&bytes[..]);
            let _ = read_facts(&text);
        }
    }
}
