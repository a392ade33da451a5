//! How well text scene graphs agree with graphs that people wrote: F1 over sets of tuples.
//!
//! Owns the reader of annotated captions (JSON lines, `caption` and `graph` as FACTUAL writes them), the tuples and
//! the counting. A graph becomes a set of tuples as in SPICE: `(object)`, `(object, attribute)`,
//! `(subject, relation, object)`. Two tuples match when their words do, after what both sides go through alike:
//! lower case, singulars, infinitives, digits for number words, `(X, of, Y)` as `(Y, have, X)`. Spelling aside
//! nothing is forgiven, unless synonyms are asked for.

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

/// Reads annotated captions, a JSON object a line; empty lines are passed over.
///
/// # Errors
/// If a line cannot be read, is longer than 1 MiB, is no such object, or its graph cannot be read; the error names
/// the line. Also without any row, or with more than 4,000,000.
pub fn read_rows(mut reader: impl BufRead) -> Result<Vec<Row>, ScoreError> {
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
        let raw: RawRow =
            serde_json::from_slice(&buffer).map_err(|error| refuse(error.to_string()))?;
        let facts = read_facts(&raw.graph).map_err(refuse)?;
        rows.push(Row {
            caption: raw.caption,
            facts,
        });
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
    /// True when synonyms count as the same word.
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
            a.iter()
                .zip(b)
                .all(|(a, b)| a == b || lexicon::similarity(a, b) >= lexicon::SYNONYM)
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
