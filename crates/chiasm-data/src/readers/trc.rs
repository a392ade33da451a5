//! TRC, the text-image relationship data set of Vempala and Preotiuc-Pietro (`specs/itr.md` section 4.1).
//!
//! Its label file is public, its posts are not: whoever has them brings a table of texts and a folder of
//! pictures. Two sources are read:
//!
//! * the **label file** (`textimage.csv`: `tweet_id`, six label columns), with the posts in a second table
//!   of the columns `tweet_id`, `tweet` or `text`, and optionally `author`, named as annotations or
//!   standing beside it as `posts.csv` or `tweets.csv`;
//! * a **whole copy** (`data.csv`, or the folder that holds it), with `tweet`, `text_is_represented` and
//!   `image_adds` in one table, quotes doubled or with a backslash before them.
//!
//! Pictures are `images/T{tweet_id}.jpg`, what machines said of them is in `ocr/` and `ofa/`.
//!
//! # Repair
//!
//! The label file is damaged. Fields behind the labels that are empty are dropped and the last six count,
//! which mends the rows with stray fields; five last fields `0,0,0,0,1` are the class that is neither. Any
//! other row is refused. Ids that a spreadsheet has rounded (`6.92094E+17`) keep their label and place but
//! belong to no post that can be found, and are refused: nothing is guessed.
//!
//! # Splits
//!
//! The order of the rows is the split: the first 80 % are for training, the rest is the test. Of training
//! rows a tenth is set aside for validation, see [`crate::grouping::hold_out`].
//!
//! # Relabelling
//!
//! Where `controversial_samples.txt` stands beside, test rows that a later study judged otherwise are
//! marked (kind `relabelled`), and the format `trc-relabelled` takes that judgement.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use csv::{ReaderBuilder, StringRecord};

use super::beside::Beside;
use super::collect::{Collector, Picture, RawRow};
use super::{Format, OpenOptions, Opened, Source, columns, json, name_of};
use crate::dataset::{Annotations, ImageSource, Split, Unit, read_capped};
use crate::error::DataError;
use crate::grouping::hold_out;
use crate::relation::Relation;

/// Largest table. The original has 160 KB without texts.
const MAX_BYTES: u64 = 256 << 20;

/// A later judgement of some test rows, as its authors named the file.
const RELABELLED: &str = "controversial_samples.txt";

pub(super) const FORMAT: Format = Format {
    name: "trc",
    what: "TRC: its label file with your copy of the posts, or a folder with data.csv",
    recognises,
    open: |source, options| open(&source.path, options, false),
};

pub(super) const RELABELLED_FORMAT: Format = Format {
    name: "trc-relabelled",
    what: "TRC with the labels of controversial_samples.txt beside it; by name only",
    recognises: |_| false,
    open: |source, options| open(&source.path, options, true),
};

fn recognises(source: &Source) -> bool {
    let is_trc = |source: &Source| {
        let names = header(source);
        let has = |name: &&str| names.iter().any(|own| own == *name);
        // A table that names its pictures is any table.
        ["tweet_id", "text_is_represented", "image_adds"]
            .iter()
            .all(has)
            && !columns::IMAGE.iter().any(has)
    };
    match source.is_folder {
        true => Source::look(&source.path.join("data.csv")).is_ok_and(|file| is_trc(&file)),
        false => source.has_extension(&["csv"]) && is_trc(source),
    }
}

/// The names in the first line, in lower case.
fn header(source: &Source) -> Vec<String> {
    let line = source.head.split(|byte| *byte == b'\n').next();
    let line = String::from_utf8_lossy(line.unwrap_or_default()).to_lowercase();
    let names = line.split(',').map(|name| name.trim().trim_matches('"'));
    names.map(str::to_owned).collect()
}

fn open(path: &Path, options: &OpenOptions, relabel: bool) -> Result<Opened, DataError> {
    let file = match path.is_dir() {
        true => path.join("data.csv"),
        false => path.to_owned(),
    };
    let names = header(&Source::look(&file)?);
    let has_texts = names.iter().any(|name| TEXT.contains(&name.as_str()));
    let (mut labels, posts) = match has_texts {
        true => whole_copy(&file)?,
        false => {
            let labels = Labels::read(&file)?;
            let posts = posts(&file, &labels, options)?;
            (labels, posts)
        }
    };
    let mut collector = Collector::new(&file, options, Unit::Line);
    for (line, reason) in &labels.refused {
        collector.refuse(*line, "", reason.clone());
    }
    let judged = file.with_file_name(RELABELLED);
    let judged = match judged.is_file() {
        true => Some(Relabelling::read(&judged)?),
        false if relabel => {
            return Err(DataError::Incomplete {
                path: file,
                missing: format!("has no `{RELABELLED}` beside it"),
                hint: "copy it there, or read the original labels with `--format trc`".to_owned(),
            });
        }
        false => None,
    };
    let changed = match &judged {
        Some(judged) => judged.apply(&mut labels, relabel)?,
        None => Vec::new(),
    };
    let beside = Beside::new(file.parent().unwrap_or(Path::new("")));
    let train = labels.rows.len() * 4 / 5;
    for (place, row) in labels.rows.iter().enumerate() {
        let id = match &row.id {
            Ok(id) => id,
            Err(written) => {
                let reason = format!("the id `{written}` is damaged, its post cannot be found");
                collector.refuse(row.line, written, reason);
                continue;
            }
        };
        let Some(post) = posts.get(id) else {
            collector.refuse(row.line, id, "the post is not in your copy");
            continue;
        };
        let said = match beside.of(&format!("T{id}")) {
            Ok(said) => said,
            Err(reason) => {
                collector.refuse(row.line, id, reason);
                continue;
            }
        };
        let mut kinds = Vec::new();
        if judged.is_some() && place >= train {
            let is_changed = changed.binary_search(&place).is_ok();
            let answer = if is_changed { "yes" } else { "no" };
            kinds.push(("relabelled", answer.to_owned()));
        }
        let names = [
            format!("images/T{id}.jpg"),
            format!("T{id}.jpg"),
            format!("images/{id}.jpg"),
            format!("{id}.jpg"),
        ];
        let picture = Picture::Found {
            id: id.clone(),
            visual: ImageSource::Path(collector.find_any(&names)).into(),
        };
        let text = clean_post(&post.text).to_owned();
        collector.add(RawRow {
            split: Some(match place < train {
                true => Split::Train,
                false => Split::Test,
            }),
            id: Some(id.clone()),
            annotations: Annotations {
                label: Some(row.relation.name().to_owned()),
                relation: Some(row.relation),
                author: post.author.clone(),
                kinds,
                ..said
            },
            ..RawRow::new(row.line, picture, vec![text])
        });
    }
    let mut opened = collector.finish()?;
    opened.dataset.name = name_of(path);
    hold_out(&mut opened.dataset.samples);
    Ok(opened)
}

/// A row of the label file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    /// Its line, from 1.
    line: u64,
    /// The id of the post; what is written there where it is damaged.
    id: Result<String, String>,
    relation: Relation,
}

/// The labels, in the order that the split goes by.
#[derive(Debug, Default)]
struct Labels {
    rows: Vec<Row>,
    /// Lines that could not be mended, and why.
    refused: Vec<(u64, String)>,
}

impl Labels {
    fn read(path: &Path) -> Result<Self, DataError> {
        let mut labels = Self::default();
        json::lines(path, |number, line| {
            // The first is the header.
            if number > 1 {
                let row = line.and_then(|line| repair(number, line));
                match row {
                    Ok(row) => labels.rows.push(row),
                    Err(reason) => labels.refused.push((number, reason)),
                }
            }
            Ok(())
        })?;
        Ok(labels)
    }

    /// How many there are of each class, for a message.
    fn counts(&self) -> [usize; 4] {
        let mut counts = [0; 4];
        for row in &self.rows {
            if let Some(count) = counts.get_mut(row.relation.tv()) {
                *count += 1;
            }
        }
        counts
    }

    fn damaged(&self) -> usize {
        self.rows.iter().filter(|row| row.id.is_err()).count()
    }
}

/// A line of the label file, mended where there is a rule for it.
fn repair(line: u64, text: &str) -> Result<Row, String> {
    let text = text.trim_end_matches(|c: char| c == ',' || c.is_whitespace());
    let (id, labels) = text.split_once(',').unwrap_or((text, ""));
    let last = |count: usize| {
        let mut last: Vec<&str> = labels.rsplit(',').take(count).map(str::trim).collect();
        last.reverse();
        let is_label = |field: &&str| matches!(*field, "0" | "1");
        (last.len() == count && last.iter().all(is_label)).then(|| last.concat())
    };
    let relation = match last(6).as_deref() {
        Some("111000") => Relation::new(true, true),
        Some("010100") => Relation::new(false, true),
        Some("100010") => Relation::new(true, false),
        Some("000001") => Relation::new(false, false),
        Some(other) => return Err(format!("the labels {other} contradict each other")),
        None if last(5).as_deref() == Some("00001") => Relation::new(false, false),
        None => return Err("the row does not end with six labels".to_owned()),
    };
    Ok(Row {
        line,
        id: intact(id),
        relation,
    })
}

/// The id of a post, or what is written where there should be one.
fn intact(id: &str) -> Result<String, String> {
    let id = id.trim().trim_matches('"');
    let is_id = !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit());
    match is_id {
        true => Ok(id.to_owned()),
        false => Err(id.chars().take(40).collect()),
    }
}

/// A post that the user has.
#[derive(Debug)]
struct Post {
    text: String,
    author: Option<String>,
}

/// Names of the column of texts.
const TEXT: &[&str] = &["tweet", "text"];
const AUTHOR: &[&str] = &["author", "author_id"];

/// A table of the user's, read whole.
struct Table {
    path: PathBuf,
    header: Vec<String>,
    /// Rows with the lines that they begin on.
    rows: Vec<(u64, Result<StringRecord, String>)>,
}

impl Table {
    fn read(path: &Path) -> Result<Self, DataError> {
        let bytes = read_capped(path, MAX_BYTES)?;
        let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(&bytes);
        // The reference's copy has backslashes before quotes, spreadsheets double them.
        let backslashes = memchr::memmem::find(bytes, b"\\\"").is_some();
        let mut reader = ReaderBuilder::new()
            .flexible(true)
            .double_quote(!backslashes)
            .escape(backslashes.then_some(b'\\'))
            .from_reader(bytes);
        let failed = |error: csv::Error| DataError::Parse {
            path: path.to_owned(),
            location: "line 1".to_owned(),
            message: error.to_string(),
        };
        let header = reader.headers().map_err(failed)?;
        let header = header.iter().map(|name| name.trim().to_lowercase());
        let header = header.collect();
        let mut rows = Vec::new();
        let mut line = reader.position().line();
        for record in reader.into_records() {
            match record {
                Ok(record) => {
                    line = record.position().map_or(line, csv::Position::line);
                    rows.push((line, Ok(record)));
                }
                Err(error) => rows.push((line + 1, Err(error.to_string()))),
            }
        }
        Ok(Self {
            path: path.to_owned(),
            header,
            rows,
        })
    }

    fn column(&self, names: &[&str]) -> Option<usize> {
        let position = |name: &&str| self.header.iter().position(|own| own == *name);
        names.iter().find_map(position)
    }

    fn need(&self, role: &'static str, names: &[&str]) -> Result<usize, DataError> {
        let missing = || DataError::ColumnMissing {
            path: self.path.clone(),
            role,
            wanted: names.first().map(|name| (*name).to_owned()),
            existing: self.header.clone(),
            nearest: None,
        };
        self.column(names).ok_or_else(missing)
    }
}

type Posts = HashMap<String, Post>;

/// The posts of the user's table.
fn posts(file: &Path, labels: &Labels, options: &OpenOptions) -> Result<Posts, DataError> {
    let usual = ["posts.csv", "tweets.csv"].map(|name| file.with_file_name(name));
    let found = usual.into_iter().find(|path| path.is_file());
    let Some(path) = options.annotations.clone().or(found) else {
        let [neither, adds, represented, both] = labels.counts();
        return Err(DataError::Incomplete {
            path: file.to_owned(),
            missing: format!(
                "holds {} labels ({neither} neither, {adds} adds, {represented} represented, {both} \
                 both), {} of them with a damaged id, and no texts",
                labels.rows.len(),
                labels.damaged()
            ),
            hint: "name your own copy of the posts with `--annotations`: a table with the columns \
                   `tweet_id` and `tweet`; pictures are `images/T{tweet_id}.jpg`"
                .to_owned(),
        });
    };
    let table = Table::read(&path)?;
    let (id, text) = (table.need("id", &["tweet_id"])?, table.need("text", TEXT)?);
    let author = table.column(AUTHOR);
    let rows = table.rows.iter().filter_map(|(_, row)| row.as_ref().ok());
    let post = |row: &StringRecord| Some((intact(row.get(id)?).ok()?, post(row, text, author)?));
    Ok(rows.filter_map(post).collect())
}

fn post(row: &StringRecord, text: usize, author: Option<usize>) -> Option<Post> {
    let author = author.and_then(|author| row.get(author)).map(str::trim);
    Some(Post {
        text: row.get(text)?.to_owned(),
        author: author.filter(|key| !key.is_empty()).map(str::to_owned),
    })
}

/// Labels and posts of a table that has both.
fn whole_copy(path: &Path) -> Result<(Labels, Posts), DataError> {
    let table = Table::read(path)?;
    let id = table.need("id", &["tweet_id"])?;
    let text = table.need("text", TEXT)?;
    let represented = table.need("represented", &["text_is_represented"])?;
    let adds = table.need("adds", &["image_adds"])?;
    let author = table.column(AUTHOR);
    let mut labels = Labels::default();
    let mut posts = Posts::new();
    for (line, row) in &table.rows {
        let read = row.as_ref().map_err(Clone::clone).and_then(|row| {
            let cell = |column: usize| row.get(column).map(str::trim);
            let truth = |column: usize| match cell(column) {
                Some("1") => Ok(true),
                Some("0") => Ok(false),
                Some(other) => Err(format!("`{other}` is neither 0 nor 1")),
                None => Err(format!("the row has {} columns", row.len())),
            };
            let relation = Relation::new(truth(represented)?, truth(adds)?);
            let id = intact(cell(id).unwrap_or_default());
            if let (Ok(id), Some(post)) = (&id, post(row, text, author)) {
                posts.entry(id.clone()).or_insert(post);
            }
            Ok((id, relation))
        });
        match read {
            Ok((id, relation)) => labels.rows.push(Row {
                line: *line,
                id,
                relation,
            }),
            Err(reason) => labels.refused.push((*line, reason)),
        }
    }
    Ok((labels, posts))
}

/// Another judgement of some rows.
struct Relabelling {
    path: PathBuf,
    /// Line in the file, row from 0, what it was and what it is.
    rows: Vec<(u64, usize, Relation, Relation)>,
}

impl Relabelling {
    /// Lines such as `00->10: 3628, 3655`: t and v before and after, and the rows.
    fn read(path: &Path) -> Result<Self, DataError> {
        let mut rows = Vec::new();
        json::lines(path, |number, line| {
            let failed = |message: String| DataError::Parse {
                path: path.to_owned(),
                location: format!("line {number}"),
                message,
            };
            let line = line.map_err(failed)?;
            let parts = line.split_once(':').and_then(|(change, list)| {
                let (from, to) = change.split_once("->")?;
                Some((pair(from)?, pair(to)?, list))
            });
            let Some((from, to, list)) = parts else {
                return Err(failed("`00->10: 17, 18` is expected".to_owned()));
            };
            for row in list.split(',') {
                let row = row.trim();
                let place = row.parse();
                let place = place.map_err(|_| failed(format!("`{row}` is no row number")))?;
                rows.push((number, place, from, to));
            }
            Ok(())
        })?;
        Ok(Self {
            path: path.to_owned(),
            rows,
        })
    }

    /// Checks every row against the labels, and changes them where `change` says so. Gives back the
    /// rows, lowest first.
    ///
    /// # Errors
    /// A row that is not there, is named twice, or was labelled otherwise.
    fn apply(&self, labels: &mut Labels, change: bool) -> Result<Vec<usize>, DataError> {
        let mut changed: Vec<usize> = Vec::with_capacity(self.rows.len());
        for (number, place, from, to) in &self.rows {
            let failed = |message: String| DataError::Parse {
                path: self.path.clone(),
                location: format!("line {number}"),
                message,
            };
            let count = labels.rows.len();
            let Some(row) = labels.rows.get_mut(*place) else {
                return Err(failed(format!(
                    "row {place} is not among the {count} labels"
                )));
            };
            match changed.binary_search(place) {
                Ok(_) => return Err(failed(format!("row {place} is named twice"))),
                Err(slot) => changed.insert(slot, *place),
            }
            if row.relation != *from {
                return Err(failed(format!(
                    "row {place} is labelled `{}`, not `{}`",
                    row.relation.name(),
                    from.name()
                )));
            }
            if change {
                row.relation = *to;
            }
        }
        Ok(changed)
    }
}

/// `10` as t and v.
fn pair(text: &str) -> Option<Relation> {
    match text.trim() {
        "00" => Some(Relation::new(false, false)),
        "01" => Some(Relation::new(false, true)),
        "10" => Some(Relation::new(true, false)),
        "11" => Some(Relation::new(true, true)),
        _ => None,
    }
}

/// The text of a post without one link at its end, as the reference reads the texts of TRC
/// (`specs/itr.md` section 3.1): ` https://t.co/...` or ` http://t.co/...`, with the space before it.
/// Links elsewhere, and a text that is nothing but a link, stay.
#[must_use]
pub fn clean_post(text: &str) -> &str {
    let Some((before, last)) = text.rsplit_once(' ') else {
        return text;
    };
    let code = ["https://t.co/", "http://t.co/"]
        .into_iter()
        .find_map(|address| last.strip_prefix(address));
    match code {
        Some(code) if !code.is_empty() && !code.contains(char::is_whitespace) => before,
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// D3.
    #[test]
    fn one_link_at_the_end_is_removed() {
        for (text, clean) in [
            ("x https://t.co/a https://t.co/b", "x https://t.co/a"),
            ("x http://t.co/a", "x"),
            ("x https://t.co/a y", "x https://t.co/a y"),
            ("xhttps://t.co/a", "xhttps://t.co/a"),
            ("https://t.co/a", "https://t.co/a"),
            ("x https://t.co/", "x https://t.co/"),
            ("x https://t.com/a", "x https://t.com/a"),
            ("", ""),
        ] {
            assert_eq!(clean_post(text), clean);
        }
    }

    #[test]
    fn rows_are_mended_by_rule_or_refused() {
        let mended = |text: &str| repair(2, text).map(|row| (row.id, row.relation.tv()));
        let id = |id: &str| Ok(id.to_owned());
        assert_eq!(mended("12,1,1,1,0,0,0,,,"), Ok((id("12"), 3)));
        assert_eq!(mended("12,0,1,0,1,0,0"), Ok((id("12"), 1)));
        // A text between id and labels, with commas and quotes of its own.
        let stray = "12,\"we, \"\"said\"\" https://t.co/a\"\"\",1,0,0,0,1,0,,";
        assert_eq!(mended(stray), Ok((id("12"), 2)));
        // One label lost.
        assert_eq!(mended("12,0,0,0,0,1,,,,"), Ok((id("12"), 0)));
        assert_eq!(mended("12,\"text\",0,0,0,0,1,,"), Ok((id("12"), 0)));
        assert!(mended("12,1,0,0,0,1,,,").is_err());
        assert!(
            mended("12,1,1,0,1,0,0,,,")
                .unwrap_err()
                .contains("contradict")
        );
        for wrong in [
            "",
            ",",
            "12",
            "12,,,",
            "12,2,1,1,0,0,0",
            "1,1,1,0,0,0",
            "12,a,b,c,d,e,f",
        ] {
            assert!(mended(wrong).is_err(), "{wrong}");
        }
        let damaged = mended("6.92094E+17,1,0,0,0,1,0,,,");
        assert_eq!(damaged, Ok((Err("6.92094E+17".to_owned()), 2)));
    }
}
