//! The two tables that come out: rows that are kept, and rows that are not with the reason.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use super::facts::{Decision, Verdict};
use super::rule::{Measure, Rule, Unique};
use crate::readers::{Record, TableKind};

/// A table that is being written, of the kind of its source; Parquet becomes separated values.
pub(super) struct Sink {
    lines: Lines,
    scored: bool,
}

enum Lines {
    Csv(Box<csv::Writer<BufWriter<File>>>),
    Json(BufWriter<File>),
}

/// What is added to a row.
pub(super) struct Added<'a> {
    /// Not a number where there is none.
    pub(super) score: f32,
    /// Number of the row, and why it is dropped.
    pub(super) dropped: Option<(u64, &'a str)>,
}

impl Sink {
    /// Opens a table that has `bytes` bytes so far, and cuts what is behind them. A new one gets its
    /// header, with the columns that are added to `names`.
    pub(super) fn open(
        path: &Path,
        bytes: u64,
        kind: TableKind,
        names: &[String],
        scored: bool,
        drops: bool,
    ) -> io::Result<Self> {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        if file.metadata()?.len() < bytes {
            let reason = format!("`{}` is shorter than it was", path.display());
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        }
        file.set_len(bytes)?;
        file.seek(SeekFrom::End(0))?;
        let file = BufWriter::with_capacity(1 << 18, file);
        if kind == TableKind::JsonLines {
            return Ok(Self {
                lines: Lines::Json(file),
                scored,
            });
        }
        let mut table = csv::Writer::from_writer(file);
        if bytes == 0 {
            let score = scored.then_some("curate_score");
            let why = ["curate_row", "curate_reason"]
                .into_iter()
                .filter(|_| drops);
            let own = names.iter().map(String::as_str);
            table.write_record(own.chain(score).chain(why))?;
        }
        Ok(Self {
            lines: Lines::Csv(Box::new(table)),
            scored,
        })
    }

    pub(super) fn write(&mut self, record: &Record, added: &Added<'_>) -> io::Result<()> {
        let score = match added.score.is_nan() {
            true => None,
            false => Some(added.score.to_string()),
        };
        match &mut self.lines {
            Lines::Csv(table) => {
                let cells = record.cells.iter();
                for cell in cells.map(|cell| cell.as_deref().unwrap_or_default()) {
                    table.write_field(cell)?;
                }
                if self.scored {
                    table.write_field(score.unwrap_or_default())?;
                }
                if let Some((row, reason)) = added.dropped {
                    table.write_field(row.to_string())?;
                    table.write_field(reason)?;
                }
                table.write_record(None::<&[u8]>)?;
            }
            Lines::Json(file) => {
                let line = record.line.as_deref().unwrap_or_default();
                // What is added stands at the end of the object as it was written; a line that is none
                // becomes a text in one.
                let whole = match &record.refused {
                    None => line.to_owned(),
                    Some(_) => serde_json::json!({"line": line}).to_string(),
                };
                let open = whole.strip_suffix('}').unwrap_or(&whole).trim_end();
                file.write_all(open.as_bytes())?;
                let mut more = serde_json::Map::new();
                if self.scored {
                    let score = score.and_then(|score| score.parse::<serde_json::Number>().ok());
                    more.insert("curate_score".to_owned(), score.into());
                }
                if let Some((row, reason)) = added.dropped {
                    more.insert("curate_row".to_owned(), row.into());
                    more.insert("curate_reason".to_owned(), reason.into());
                }
                if !more.is_empty() && open != "{" {
                    file.write_all(b",")?;
                }
                let more = serde_json::Value::from(more).to_string();
                file.write_all(more.get(1..).unwrap_or("}").as_bytes())?;
                file.write_all(b"\n")?;
            }
        }
        Ok(())
    }

    /// Forces everything to disk, and says how long the table is.
    pub(super) fn sync(&mut self) -> io::Result<u64> {
        let file = match &mut self.lines {
            Lines::Csv(table) => {
                table.flush()?;
                table.get_ref().get_ref()
            }
            Lines::Json(file) => {
                file.flush()?;
                file.get_ref()
            }
        };
        file.sync_data()?;
        Ok(file.metadata()?.len())
    }
}

/// Why a row is dropped, in words; `None` for one that is kept.
pub(super) fn reason(
    record: &Record,
    score: f32,
    decision: &Decision,
    rules: &[Rule],
    cut: Option<f32>,
) -> Option<String> {
    let rule = rules.get(usize::from(decision.rule));
    let value = decision.value;
    Some(match decision.verdict {
        Verdict::Keep => return None,
        Verdict::Row => match &record.refused {
            Some(reason) => reason.clone(),
            None => "the row cannot be used".to_owned(),
        },
        Verdict::NoText => "no text".to_owned(),
        Verdict::NoPicture => "no picture is named".to_owned(),
        Verdict::PictureUnread => "the picture cannot be read".to_owned(),
        Verdict::PictureDamaged => "the picture cannot be decoded".to_owned(),
        Verdict::NoScore => "no score".to_owned(),
        Verdict::Bound => match rule {
            Some(Rule::Bound {
                measure,
                least,
                value: bound,
            }) => {
                let side = if *least { "below" } else { "above" };
                let shown = match measure {
                    Measure::Score => score.to_string(),
                    _ => value.to_string(),
                };
                format!("{measure} {shown} is {side} {bound}")
            }
            _ => "a bound does not hold".to_owned(),
        },
        Verdict::NoNumber => match rule {
            Some(Rule::Bound { measure, .. }) => format!("`{measure}` is no number"),
            _ => "no number".to_owned(),
        },
        Verdict::Duplicate => {
            let what = match rule {
                Some(Rule::Unique(Unique::Text)) => "the text",
                Some(Rule::Unique(Unique::Picture)) => "the picture",
                _ => "picture and text",
            };
            format!("{what} of row {value}, which is kept")
        }
        Verdict::Top => match rule {
            Some(Rule::Top { count, column }) => {
                format!("{count} better rows of the same `{column}` are kept")
            }
            _ => "better rows of its group are kept".to_owned(),
        },
        Verdict::Best => match (rule, cut) {
            (Some(rule), Some(cut)) => format!("not among {rule}, which begin at score {cut}"),
            (Some(rule), None) => format!("not among {rule}"),
            (None, _) => "not among the best".to_owned(),
        },
    })
}

/// The kind of a reason, for counting.
pub(super) fn kind(decision: &Decision, rules: &[Rule]) -> String {
    let rule = rules.get(usize::from(decision.rule));
    match (decision.verdict, rule) {
        (Verdict::Keep, _) => "kept".to_owned(),
        (Verdict::Row, _) => "unreadable row".to_owned(),
        (Verdict::NoText, _) => "no text".to_owned(),
        (Verdict::NoPicture, _) => "no picture named".to_owned(),
        (Verdict::PictureUnread, _) => "picture not readable".to_owned(),
        (Verdict::PictureDamaged, _) => "picture damaged".to_owned(),
        (Verdict::NoScore, _) => "no score".to_owned(),
        (Verdict::NoNumber, Some(rule)) => format!("no number for {rule}"),
        (_, Some(rule)) => rule.to_string(),
        (_, None) => "other".to_owned(),
    }
}
