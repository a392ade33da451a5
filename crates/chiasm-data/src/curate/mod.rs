//! Chooses pairs of a table that are worth keeping, and says of every other one why not.
//!
//! Works on tables of any length in memory that does not grow with them, in three phases: every row is
//! looked at once and what is known of it goes to a record on disk; rules that compare rows go
//! over these records; the table is read again and its rows go into `kept` and `dropped`.
//!
//! # What holds after an error or a kill
//!
//! Everything lies in a hidden folder of the output folder until the end. A journal there says how far the
//! work has come; it is replaced whole, after what it speaks of was forced to disk. The same call goes on
//! from there, and the tables that come out are the same bytes as those of a run without a stop. `report.json`
//! comes last: a folder with one is finished. What another call, or another content of the table, had begun
//! is not continued: that is an error.

mod decide;
mod facts;
mod journal;
mod rule;
mod score;
mod write;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use chiasm_format::{Claim, Parts};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub use rule::{Amount, Measure, Rule, Unique, WrongRule};
pub use score::{Features, Pair, Scorer, Scores};

use crate::atomic::write_bytes;
use crate::dataset::read_capped;
use crate::decode::{AlphaRule, Limits, MAX_FILE_BYTES, decode};
use crate::error::DataError;
use crate::readers::{MAX_TEXT_CHARS, OpenOptions, Record, Table, TableKind};
use facts::{Decision, Fact, Fixed as _, Records, Verdict, hash};
use journal::{Journal, Phase, Written};
use write::{Added, Sink};

/// Hidden folder with the work that is not done yet.
const WORK: &str = ".curate";
/// Folder there with what several processes have seen of the rows.
const PARTS: &str = "parts";
/// What a finished folder holds beside its tables.
const REPORT: &str = "report.json";
/// Bytes at either end of a table by which it is recognised.
const ENDS: u64 = 1 << 20;
/// Most rules; the record of a decision has a byte for its number.
const MAX_RULES: usize = 64;

/// What to do.
pub struct Config {
    /// The table.
    pub source: PathBuf,
    /// Folder that is made.
    pub out: PathBuf,
    /// Columns and the folder of pictures; the rest is not looked at.
    pub options: OpenOptions,
    /// What a pair must be. Rules about a single row come first, in their order, then duplicates, then the
    /// best of groups, then the best of all.
    pub rules: Vec<Rule>,
    /// Rows between two entries in the journal, and rows that a model is given at once.
    pub chunk: usize,
}

/// What came out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Rows of the table.
    pub rows: u64,
    /// Rows that are kept.
    pub kept: u64,
    /// Rows that are not, by what decided.
    pub dropped: BTreeMap<String, u64>,
    /// The score at which the best of all begin, where only the best are kept.
    pub cut: Option<f32>,
    /// The table of kept rows.
    pub kept_file: PathBuf,
    /// The table of dropped rows.
    pub dropped_file: PathBuf,
    /// What the work was done with.
    pub settings: Value,
}

/// What is going on, for a progress display.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// So many rows were looked at.
    Looked(u64),
    /// Rows were compared with each other.
    Compared,
    /// So many rows were written.
    Written(u64),
}

/// Does the work, or goes on with it. `step` is told how far it is, and may stop it with an error; what
/// was done until then is kept.
///
/// # Errors
/// A table, column, feature or setting that cannot be used; a folder that holds other work; what `step`
/// returned.
pub fn curate(
    config: &Config,
    scores: &mut Scores<'_>,
    step: &mut dyn FnMut(Step) -> Result<(), DataError>,
) -> Result<Report, DataError> {
    curate_with(config, scores, None, step)
}

/// [`curate`], after several processes have [looked](look_among) at the rows: what they found is taken
/// from `looked`.
///
/// # Errors
/// As [`curate`].
pub fn curate_with(
    config: &Config,
    scores: &mut Scores<'_>,
    looked: Option<&Parts>,
    step: &mut dyn FnMut(Step) -> Result<(), DataError>,
) -> Result<Report, DataError> {
    let run = Run::prepare(config, scores)?;
    if let Some(report) = run.finished()? {
        return Ok(report);
    }
    let mut phase = run.begun()?;
    let io = |error: io::Error| DataError::io(&run.work, error);
    std::fs::create_dir_all(&run.work).map_err(io)?;
    if let Phase::Scoring { rows } = phase {
        run.look(rows, scores, looked, step)?;
        phase = run.enter(Phase::Comparing)?;
    }
    if phase == Phase::Comparing {
        let cut = run.compare()?;
        phase = run.enter(Phase::Writing(Written {
            cut,
            ..Written::default()
        }))?;
        step(Step::Compared)?;
    }
    if let Phase::Writing(written) = phase {
        let written = run.write(written, step)?;
        phase = run.enter(Phase::Naming(written))?;
    }
    match phase {
        Phase::Naming(written) => run.name(written),
        Phase::Scoring { .. } | Phase::Comparing | Phase::Writing(_) => Err(run.other_work()),
    }
}

/// What several processes that look at the rows of a table have to agree on, and the folder in which they share
/// that; `None` where all rows were looked at already.
///
/// # Errors
/// As [`curate`].
pub fn job(config: &Config, scores: &Scores<'_>) -> Result<Option<(PathBuf, Value)>, DataError> {
    let run = Run::prepare(config, scores)?;
    if run.finished()?.is_some() || !matches!(run.begun()?, Phase::Scoring { .. }) {
        return Ok(None);
    }
    let job = json!({"curate": run.settings, "rows": config.chunk});
    Ok(Some((run.work.join(PARTS), job)))
}

/// Looks at the rows that other processes leave to this one, [`Config::chunk`] at a time. `step` is told how
/// many it was each time, and may stop it with an error.
///
/// # Errors
/// As [`curate`]; parts that cannot be shared.
pub fn look_among(
    config: &Config,
    scores: &mut Scores<'_>,
    parts: &Parts,
    step: &mut dyn FnMut(u64) -> Result<(), DataError>,
) -> Result<(), DataError> {
    let run = Run::prepare(config, scores)?;
    let Phase::Scoring { rows: done } = run.begun()? else {
        return Ok(());
    };
    let size = config.chunk.max(1) as u64;
    let mut own: Option<(Claim<'_>, Vec<Looked>)> = None;
    let mut finish = |own: &mut Option<(Claim<'_>, Vec<Looked>)>| {
        let Some((claim, chunk)) = own.take() else {
            return Ok(());
        };
        let count = chunk.len() as u64;
        let facts = run.weigh(claim.number() as u64 * size, chunk, scores)?;
        let mut bytes = Vec::with_capacity(facts.len() * Fact::BYTES);
        facts.iter().for_each(|fact| fact.put(&mut bytes));
        claim.put(&bytes)?;
        step(count)
    };
    run.table.each(|record| {
        if record.row.is_multiple_of(size) {
            finish(&mut own)?;
            if record.row >= done {
                let claim = parts.claim((record.row / size) as usize)?;
                own = claim.map(|claim| (claim, Vec::new()));
            }
        }
        if let Some((_, chunk)) = &mut own {
            chunk.push(run.look_at(&record));
        }
        Ok(())
    })?;
    finish(&mut own)
}

/// A run with everything that was found out before its first row.
struct Run<'a> {
    config: &'a Config,
    table: Table,
    image: usize,
    text: usize,
    /// Where the score stands, when it stands in a column.
    score: Option<usize>,
    /// The column that `top` speaks of.
    group: Option<usize>,
    /// Columns of the bounds, by their rule.
    columns: BTreeMap<usize, usize>,
    scored: bool,
    settings: Value,
    work: PathBuf,
    journal: PathBuf,
}

/// What a row is before pictures and scores.
struct Looked {
    decision: Decision,
    text: String,
    picture: Option<PathBuf>,
    score: f32,
    group: facts::Hash,
}

impl<'a> Run<'a> {
    fn prepare(config: &'a Config, scores: &Scores<'_>) -> Result<Self, DataError> {
        let table = Table::open(&config.source)?;
        let (image, text) = table.picture_and_text(&config.options)?;
        let wrong = |message: String, hint: &str| DataError::Curate {
            message,
            hint: Some(hint.to_owned()),
        };
        if config.rules.len() > MAX_RULES {
            return Err(wrong(
                format!("{} rules", config.rules.len()),
                "64 are enough",
            ));
        }
        let score = match scores {
            Scores::Column(name) => Some(table.column("score", name)?),
            Scores::None | Scores::Features(_) | Scores::Model(_) => None,
        };
        let scored = !matches!(scores, Scores::None);
        let (mut group, mut columns) = (None, BTreeMap::new());
        for (number, rule) in config.rules.iter().enumerate() {
            let needs = match rule {
                Rule::Bound {
                    measure: Measure::Score,
                    ..
                }
                | Rule::Best(_) => true,
                Rule::Bound {
                    measure: Measure::Column(name),
                    ..
                } => {
                    columns.insert(number, table.column("rule", name)?);
                    false
                }
                Rule::Top { column, .. } => {
                    if group.replace(table.column("group", column)?).is_some() {
                        return Err(wrong("two rules `top=`".to_owned(), "give one"));
                    }
                    true
                }
                Rule::Bound { .. } | Rule::Unique(_) => false,
            };
            if needs && !scored {
                return Err(wrong(
                    format!("the rule `{rule}` needs scores"),
                    "name a column with `--score-column`, features with `--features`, or a model with \
                     `--model`",
                ));
            }
        }
        let bests = config
            .rules
            .iter()
            .filter(|rule| matches!(rule, Rule::Best(_)));
        if bests.count() > 1 {
            return Err(wrong("two rules `best=`".to_owned(), "give one"));
        }
        let by = match scores {
            Scores::None => json!(null),
            Scores::Column(name) => json!({"column": name}),
            Scores::Features(features) => {
                let [images, texts] = features.paths();
                json!({"images": content(images)?, "texts": content(texts)?})
            }
            Scores::Model(model) => json!({"model": model.name()}),
        };
        let settings = json!({
            "source": config.source,
            "content": content(&config.source)?,
            "image_column": table.names().get(image),
            "text_column": table.names().get(text),
            "image_root": config.options.image_root,
            "rules": config.rules,
            "scores": by,
        });
        let work = config.out.join(WORK);
        Ok(Self {
            config,
            table,
            image,
            text,
            score,
            group,
            columns,
            scored,
            settings,
            journal: work.join("journal.json"),
            work,
        })
    }

    fn kept_file(&self) -> PathBuf {
        self.config.out.join(format!("kept.{}", self.ending()))
    }

    fn dropped_file(&self) -> PathBuf {
        self.config.out.join(format!("dropped.{}", self.ending()))
    }

    fn ending(&self) -> &'static str {
        match self.table.kind() {
            TableKind::JsonLines => "jsonl",
            TableKind::Csv | TableKind::Parquet => "csv",
        }
    }

    /// The report of work that is done already.
    fn finished(&self) -> Result<Option<Report>, DataError> {
        let path = self.config.out.join(REPORT);
        let Ok(bytes) = std::fs::read(&path) else {
            return Ok(None);
        };
        let report: Report = serde_json::from_slice(&bytes).map_err(|_| self.other_work())?;
        match report.settings == self.settings {
            true => {
                // A kill between the report and the end of the work leaves its folder.
                let _ = std::fs::remove_dir_all(&self.work);
                Ok(Some(report))
            }
            false => Err(self.other_work()),
        }
    }

    /// Where the work stands.
    fn begun(&self) -> Result<Phase, DataError> {
        match Journal::read(&self.journal)? {
            Some(journal) if journal.settings == self.settings => Ok(journal.phase),
            Some(_) => Err(self.other_work()),
            None => Ok(Phase::Scoring { rows: 0 }),
        }
    }

    fn other_work(&self) -> DataError {
        DataError::Curate {
            message: format!("`{}` holds the work of another call", self.config.out.display()),
            hint: Some(
                "it is continued with the same table, rules and scores alone; name another folder with \
                 `--out`, or remove it"
                    .to_owned(),
            ),
        }
    }

    fn enter(&self, phase: Phase) -> Result<Phase, DataError> {
        let journal = Journal {
            settings: self.settings.clone(),
            phase,
        };
        journal.write(&self.journal)?;
        Ok(journal.phase)
    }

    fn facts(&self, rows: Option<u64>) -> Result<Records<Fact>, DataError> {
        open_records(&self.work.join("facts"), rows)
    }

    fn decisions(&self, rows: Option<u64>) -> Result<Records<Decision>, DataError> {
        open_records(&self.work.join("decisions"), rows)
    }

    /// Looks at the rows from `done` on, or takes what was seen of them from `looked`.
    fn look(
        &self,
        done: u64,
        scores: &mut Scores<'_>,
        looked: Option<&Parts>,
        step: &mut dyn FnMut(Step) -> Result<(), DataError>,
    ) -> Result<(), DataError> {
        let mut facts = self.facts(Some(done))?;
        let mut rows = done;
        let mut chunk: Vec<Looked> = Vec::new();
        let size = self.config.chunk.max(1);
        let mut flush = |chunk: &mut Vec<Looked>, rows: &mut u64| -> Result<(), DataError> {
            let part = (*rows / size as u64) as usize;
            let chunk = std::mem::take(chunk);
            let own = match looked.filter(|looked| looked.has(part)) {
                Some(looked) => facts_of(looked, part, chunk.len())?,
                None => self.weigh(*rows, chunk, scores)?,
            };
            let io = |error| DataError::io(&self.work, error);
            facts.append(&own).map_err(io)?;
            facts.sync().map_err(io)?;
            *rows += own.len() as u64;
            self.enter(Phase::Scoring { rows: *rows })?;
            step(Step::Looked(*rows))
        };
        self.table.each(|record| {
            if record.row < done {
                return Ok(());
            }
            chunk.push(self.look_at(&record));
            match chunk.len() >= size {
                true => flush(&mut chunk, &mut rows),
                false => Ok(()),
            }
        })?;
        if !chunk.is_empty() {
            flush(&mut chunk, &mut rows)?;
        }
        if let Scores::Features(features) = scores
            && features.rows() != rows
        {
            return Err(DataError::Curate {
                message: format!(
                    "the table has {rows} rows, the features {}",
                    features.rows()
                ),
                hint: Some(
                    "features need a row for each row of the table, in its order".to_owned(),
                ),
            });
        }
        Ok(())
    }

    /// What the cells of a row say.
    fn look_at(&self, record: &Record) -> Looked {
        let cell = |column: usize| record.cells.get(column).and_then(Option::as_deref);
        let filled = |column: usize| cell(column).map(str::trim).filter(|text| !text.is_empty());
        let number = |column: usize| {
            let value: Option<f64> = filled(column).and_then(|text| text.parse().ok());
            value.filter(|value| value.is_finite())
        };
        let text = filled(self.text).unwrap_or_default();
        let (words, chars) = (text.split_whitespace().count(), text.chars().count());
        let decision = if record.refused.is_some() {
            Decision::drop(Verdict::Row, 0, 0.0)
        } else if text.is_empty() {
            Decision::drop(Verdict::NoText, 0, 0.0)
        } else if filled(self.image).is_none() {
            Decision::drop(Verdict::NoPicture, 0, 0.0)
        } else {
            self.bounds(|number_of_rule, measure| match measure {
                Measure::Words => Some(Some(words as f64)),
                Measure::Chars => Some(Some(chars as f64)),
                Measure::Column(_) => {
                    let column = self.columns.get(&number_of_rule);
                    Some(column.and_then(|column| number(*column)))
                }
                Measure::Score | Measure::Side => None,
            })
        };
        Looked {
            decision,
            text: match chars > MAX_TEXT_CHARS {
                true => text.chars().take(MAX_TEXT_CHARS).collect(),
                false => text.to_owned(),
            },
            picture: filled(self.image).map(|name| self.find(name)),
            score: self
                .score
                .and_then(number)
                .map_or(f32::NAN, |score| score as f32),
            group: self
                .group
                .map_or(0, |group| hash(cell(group).unwrap_or_default().as_bytes())),
        }
    }

    /// The first bound that does not hold, of those whose measure is known here.
    fn bounds(&self, measured: impl Fn(usize, &Measure) -> Option<Option<f64>>) -> Decision {
        for (place, rule) in self.config.rules.iter().enumerate() {
            let Rule::Bound {
                measure,
                least,
                value: bound,
            } = rule
            else {
                continue;
            };
            match measured(place, measure) {
                None => {}
                Some(None) => return Decision::drop(Verdict::NoNumber, place, 0.0),
                Some(Some(value)) => {
                    let holds = if *least {
                        value >= *bound
                    } else {
                        value <= *bound
                    };
                    if !holds {
                        return Decision::drop(Verdict::Bound, place, value);
                    }
                }
            }
        }
        Decision::KEEP
    }

    /// The file of a picture: under the root, beside the table, or in `images/` there.
    fn find(&self, name: &str) -> PathBuf {
        let name = name.strip_prefix("./").unwrap_or(name);
        let beside = self.config.source.parent().unwrap_or(Path::new(""));
        match &self.config.options.image_root {
            Some(root) => root.join(name),
            None => {
                let first = beside.join(name);
                let second = beside.join("images").join(name);
                match !first.is_file() && second.is_file() {
                    true => second,
                    false => first,
                }
            }
        }
    }

    /// Pictures and scores of a chunk that begins with row `first`.
    fn weigh(
        &self,
        first: u64,
        mut chunk: Vec<Looked>,
        scores: &mut Scores<'_>,
    ) -> Result<Vec<Fact>, DataError> {
        let has = |wanted: fn(&Rule) -> bool| self.config.rules.iter().any(wanted);
        let needs_side = has(|rule| {
            matches!(
                rule,
                Rule::Bound {
                    measure: Measure::Side,
                    ..
                }
            )
        });
        let needs_hash = has(|rule| matches!(rule, Rule::Unique(Unique::Picture | Unique::Pair)));
        let decodes = needs_side || matches!(scores, Scores::Model(_));
        let mut pictures = vec![0; chunk.len()];
        if decodes || needs_hash {
            chunk
                .par_iter_mut()
                .zip(&mut pictures)
                .for_each(|(row, digest)| {
                    if row.decision.verdict != Verdict::Keep {
                        return;
                    }
                    match picture(row.picture.as_deref(), decodes) {
                        Ok((own, side)) => {
                            *digest = own;
                            row.decision = self.bounds(|_, measure| match measure {
                                Measure::Side => Some(Some(side)),
                                _ => None,
                            });
                        }
                        Err(verdict) => row.decision = Decision::drop(verdict, 0, 0.0),
                    }
                });
        }
        match scores {
            Scores::None | Scores::Column(_) => {}
            Scores::Features(features) => {
                let cosines = features.cosines(first, chunk.len())?;
                for (row, cosine) in chunk.iter_mut().zip(cosines) {
                    row.score = cosine;
                }
            }
            Scores::Model(model) => {
                let mut wanted: Vec<&mut Looked> = chunk
                    .iter_mut()
                    .filter(|row| row.decision.verdict == Verdict::Keep)
                    .collect();
                let pairs = wanted.iter().map(|row| Pair {
                    picture: row.picture.clone().unwrap_or_default(),
                    text: row.text.clone(),
                });
                let pairs: Vec<Pair> = pairs.collect();
                let found = match pairs.is_empty() {
                    true => Vec::new(),
                    false => model.scores(&pairs)?,
                };
                for (row, score) in wanted.iter_mut().zip(found) {
                    row.score = score;
                }
            }
        }
        let facts = chunk.into_iter().zip(pictures).map(|(mut row, picture)| {
            let mut decision = row.decision;
            if !row.score.is_finite() {
                row.score = f32::NAN;
            }
            if self.scored && decision.verdict == Verdict::Keep {
                decision = match row.score.is_nan() {
                    true => Decision::drop(Verdict::NoScore, 0, 0.0),
                    false => self.bounds(|_, measure| match measure {
                        Measure::Score => Some(Some(f64::from(row.score))),
                        _ => None,
                    }),
                };
            }
            Fact {
                score: row.score,
                decision,
                text: hash(row.text.as_bytes()),
                picture,
                group: row.group,
            }
        });
        Ok(facts.collect())
    }

    /// Decides what rows decide by themselves, and then what they decide together.
    fn compare(&self) -> Result<Option<f32>, DataError> {
        let io = |error| DataError::io(&self.work, error);
        let mut facts = self.facts(None)?;
        let mut decisions = self.decisions(Some(0))?;
        facts.seek(0).map_err(io)?;
        let mut own = Vec::new();
        loop {
            facts.read(16_384, &mut own).map_err(io)?;
            if own.is_empty() {
                break;
            }
            let first: Vec<Decision> = own.iter().map(|fact| fact.decision).collect();
            decisions.append(&first).map_err(io)?;
        }
        let cut = decide::compare(&self.config.rules, &mut facts, &mut decisions).map_err(io)?;
        decisions.sync().map_err(io)?;
        Ok(cut)
    }

    /// Writes the rows from `written` on.
    fn write(
        &self,
        mut written: Written,
        step: &mut dyn FnMut(Step) -> Result<(), DataError>,
    ) -> Result<Written, DataError> {
        const READ: usize = 4_096;
        let io = |error| DataError::io(&self.work, error);
        let sink = |name: &str, bytes: u64, drops: bool| {
            let path = self.work.join(name);
            let (kind, names) = (self.table.kind(), self.table.names());
            Sink::open(&path, bytes, kind, names, self.scored, drops).map_err(io)
        };
        let mut kept = sink("kept", written.kept_bytes, false)?;
        let mut dropped = sink("dropped", written.dropped_bytes, true)?;
        let (mut facts, mut decisions) = (self.facts(None)?, self.decisions(None)?);
        let done = written.rows;
        facts.seek(done).map_err(io)?;
        decisions.seek(done).map_err(io)?;
        let (mut own, mut decided) = (Vec::new(), Vec::new());
        let mut place = 0;
        let every = self.config.chunk.max(READ) as u64;
        let changed = || DataError::Curate {
            message: format!(
                "`{}` has changed while it was read",
                self.config.source.display()
            ),
            hint: None,
        };
        self.table.each(|record| {
            if record.row < done {
                return Ok(());
            }
            if place == own.len() {
                facts.read(READ, &mut own).map_err(io)?;
                decisions.read(READ, &mut decided).map_err(io)?;
                place = 0;
            }
            let pair = own.get(place).zip(decided.get(place));
            let (fact, decision) = pair.ok_or_else(changed)?;
            place += 1;
            let rules = &self.config.rules;
            let score = fact.score;
            match write::reason(&record, score, decision, rules, written.cut) {
                None => {
                    let added = Added {
                        score,
                        dropped: None,
                    };
                    kept.write(&record, &added).map_err(io)?;
                    written.kept += 1;
                }
                Some(reason) => {
                    let added = Added {
                        score,
                        dropped: Some((record.row, &reason)),
                    };
                    dropped.write(&record, &added).map_err(io)?;
                }
            }
            written.rows += 1;
            if written.rows.is_multiple_of(every) {
                written.kept_bytes = kept.sync().map_err(io)?;
                written.dropped_bytes = dropped.sync().map_err(io)?;
                self.enter(Phase::Writing(written))?;
                step(Step::Written(written.rows))?;
            }
            Ok(())
        })?;
        if written.rows != facts.rows().map_err(io)? {
            return Err(changed());
        }
        written.kept_bytes = kept.sync().map_err(io)?;
        written.dropped_bytes = dropped.sync().map_err(io)?;
        Ok(written)
    }

    /// Gives the tables their names and writes the report.
    fn name(&self, written: Written) -> Result<Report, DataError> {
        let io = |error| DataError::io(&self.config.out, error);
        let (mut facts, mut decisions) = (self.facts(None)?, self.decisions(None)?);
        let mut dropped: BTreeMap<String, u64> = BTreeMap::new();
        facts::sweep(&mut facts, &mut decisions, |_, _, decision| {
            if decision.verdict != Verdict::Keep {
                *dropped
                    .entry(write::kind(decision, &self.config.rules))
                    .or_default() += 1;
            }
        })
        .map_err(io)?;
        for (name, file) in [("kept", self.kept_file()), ("dropped", self.dropped_file())] {
            match std::fs::rename(self.work.join(name), &file) {
                // It had its name before a kill.
                Err(error) if error.kind() == io::ErrorKind::NotFound && file.is_file() => {}
                other => other.map_err(io)?,
            }
        }
        let report = Report {
            rows: written.rows,
            kept: written.kept,
            dropped,
            cut: written.cut,
            kept_file: self.kept_file(),
            dropped_file: self.dropped_file(),
            settings: self.settings.clone(),
        };
        let bytes = serde_json::to_vec_pretty(&report).map_err(|error| io(error.into()))?;
        write_bytes(&self.config.out.join(REPORT), &bytes).map_err(io)?;
        std::fs::remove_dir_all(&self.work).map_err(io)?;
        Ok(report)
    }
}

/// What was seen of the rows of a part.
fn facts_of(looked: &Parts, part: usize, rows: usize) -> Result<Vec<Fact>, DataError> {
    let bytes = looked.read(part)?;
    let facts: Option<Vec<Fact>> = bytes.chunks(Fact::BYTES).map(Fact::get).collect();
    let whole = facts.filter(|facts| facts.len() == rows);
    whole.ok_or_else(|| looked.damaged(part).into())
}

fn open_records<T: facts::Fixed>(path: &Path, rows: Option<u64>) -> Result<Records<T>, DataError> {
    let io = |error| DataError::io(path, error);
    let rows = match rows {
        Some(rows) => rows,
        None => std::fs::metadata(path).map_err(io)?.len() / T::BYTES as u64,
    };
    Records::open(path, rows).map_err(io)
}

/// Hash and shorter side of a picture; the side is 0 where it was not to be decoded.
fn picture(path: Option<&Path>, decodes: bool) -> Result<(facts::Hash, f64), Verdict> {
    let path = path.ok_or(Verdict::NoPicture)?;
    let bytes = read_capped(path, MAX_FILE_BYTES).map_err(|_| Verdict::PictureUnread)?;
    let side = match decodes {
        true => {
            let picture = decode(&bytes, &Limits::default(), true, AlphaRule::OverWhite);
            let picture = picture.map_err(|_| Verdict::PictureDamaged)?;
            picture.width.min(picture.height)
        }
        false => 0,
    };
    Ok((hash(&bytes), side as f64))
}

/// What a table is recognised by: its length, and a digest of both ends.
fn content(path: &Path) -> Result<Value, DataError> {
    let source = chiasm_format::ByteSource::open(path)?;
    let mut digest = blake3::Hasher::new();
    digest.update(&source.head(ENDS)?);
    let tail = source.len().saturating_sub(ENDS);
    digest.update(&source.read(tail, source.len() - tail)?);
    Ok(json!({"bytes": source.len(), "ends": digest.finalize().to_hex().as_str()}))
}
