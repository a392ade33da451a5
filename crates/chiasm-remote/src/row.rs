//! A record with its vector, as databases take it.

use std::borrow::Cow;

use chiasm_index::{Condition, Index, IndexError, Record, facts};
use serde::Serialize;

/// What every database calls a record: see [`Record::id_of`].
pub(crate) type Id = [u8; 16];

/// A record on its way.
pub(crate) struct Row {
    pub(crate) id: Id,
    /// Its row in the folder, which orders equal scores and pages.
    pub(crate) place: u64,
    /// Stands for all that is kept: what has the same need not be sent again.
    pub(crate) mark: i64,
    pub(crate) key: String,
    /// The record as JSON, as the folder has it.
    pub(crate) record: Vec<u8>,
    /// What filters ask, as JSON: a list of [`Field`]s. Longer than the record, and so the last to be made.
    pub(crate) fields: Vec<u8>,
    pub(crate) vector: Vec<f32>,
}

/// A value of a record as filters see it.
#[derive(Serialize)]
struct Field<'a> {
    /// Its name.
    f: Cow<'a, str>,
    /// The value as text.
    t: Cow<'a, str>,
    /// The same in lower case, where that is something else.
    #[serde(skip_serializing_if = "Option::is_none")]
    l: Option<Cow<'a, str>>,
    /// The value as a number, where it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    n: Option<f64>,
}

impl Row {
    /// A row of an index.
    pub(crate) fn read(index: &Index, row: usize) -> Result<Self, IndexError> {
        let record = index.record(row)?;
        let vector = index.vector(row).unwrap_or_default();
        let not_json = |error: serde_json::Error| IndexError::Record {
            key: record.key.clone(),
            reason: error.to_string(),
        };
        let json = serde_json::to_vec(&record).map_err(not_json)?;
        let mut hasher = blake3::Hasher::new();
        hasher.update(&(row as u64).to_le_bytes()).update(&json);
        for number in vector {
            hasher.update(&number.to_le_bytes());
        }
        let mut mark = [0; 8];
        hasher.finalize_xof().fill(&mut mark);
        Ok(Self {
            id: Record::id_of(&record.key),
            place: row as u64,
            mark: i64::from_le_bytes(mark),
            fields: serde_json::to_vec(&fields(&record)).map_err(not_json)?,
            key: record.key,
            record: json,
            vector: vector.to_vec(),
        })
    }

    /// Bytes of its parts, about.
    pub(crate) fn bytes(&self) -> usize {
        self.record.len() + self.fields.len() + self.vector.len() * 4
    }
}

fn fields(record: &Record) -> Vec<Field<'_>> {
    let own = facts(record).into_iter().map(|fact| {
        let lower = fact.lower();
        Field {
            f: plain(fact.field.into()),
            l: (lower != fact.text).then(|| plain(lower.into_owned().into())),
            n: fact.number(),
            t: plain(fact.text),
        }
    });
    own.collect()
}

/// PostgreSQL keeps no NUL character in a text that it looks into: for filters it is the character that stands for
/// one that cannot be shown. The record itself keeps it.
pub(crate) fn plain(text: Cow<'_, str>) -> Cow<'_, str> {
    match text.contains('\0') {
        true => text.replace('\0', "\u{fffd}").into(),
        false => text,
    }
}

/// The value of a condition, as [`Row::fields`] has values.
pub(crate) fn value_of(condition: &Condition) -> String {
    plain(condition.value.as_str().into()).into_owned()
}

/// The lower case of it.
pub(crate) fn lower_of(condition: &Condition) -> String {
    plain(condition.lower()).into_owned()
}

/// The name of its field.
pub(crate) fn field_of(condition: &Condition) -> String {
    plain(condition.field.as_str().into()).into_owned()
}

/// An id as databases write it.
pub(crate) fn uuid(id: &Id) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(36);
    for (at, byte) in id.iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// An id from how databases write it.
pub(crate) fn from_uuid(text: &str) -> Option<Id> {
    let mut digits = text.chars().filter(|c| *c != '-');
    let mut id = [0; 16];
    for byte in &mut id {
        let high = digits.next()?.to_digit(16)?;
        // Two digits make a byte.
        *byte = (high * 16 + digits.next()?.to_digit(16)?) as u8;
    }
    digits.next().is_none().then_some(id)
}
