//! Columns of a record batch, and their cells as values.

use std::sync::Arc;

/// Where bytes of binary cells are.
#[derive(Clone, Debug)]
pub enum Bytes {
    /// In the file.
    Place {
        /// First byte, from the start of the file.
        offset: u64,
        /// Number of bytes.
        len: u64,
    },
    /// In memory, because the file holds them compressed.
    Held(Arc<[u8]>),
}

/// A cell.
#[derive(Clone, Debug)]
pub enum Value<'a> {
    /// Nothing.
    Null,
    /// Yes or no.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A number.
    Float(f64),
    /// UTF-8 text.
    Text(&'a str),
    /// A text column's bytes that are no UTF-8.
    NotText,
    /// Bytes: where they are in the file.
    Place {
        /// First byte, from the start of the file.
        offset: u64,
        /// Number of bytes.
        len: u64,
    },
    /// Bytes of a compressed batch.
    Bytes(&'a [u8]),
    /// Several cells.
    List(List<'a>),
    /// Named cells.
    Struct(Vec<(&'a str, Value<'a>)>),
}

impl<'a> Value<'a> {
    /// The text, when it is one.
    pub fn text(&self) -> Option<&'a str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }
}

/// The cells of a list.
#[derive(Clone, Debug)]
pub struct List<'a> {
    items: &'a Column,
    start: usize,
    end: usize,
}

impl<'a> List<'a> {
    /// Its number of cells.
    pub fn len(&self) -> usize {
        self.end.saturating_sub(self.start)
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its cells.
    pub fn iter(&self) -> impl Iterator<Item = Value<'a>> + use<'a> {
        let items = self.items;
        (self.start..self.end).map(move |row| items.value(row))
    }
}

/// How a number is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NumberKind {
    Int { bytes: usize, signed: bool },
    F32,
    F64,
}

impl NumberKind {
    pub(super) fn int(bits: i32, signed: bool) -> Option<Self> {
        let bytes = match bits {
            8 => 1,
            16 => 2,
            32 => 4,
            64 => 8,
            _ => return None,
        };
        Some(Self::Int { bytes, signed })
    }

    pub(super) fn width(self) -> usize {
        match self {
            Self::Int { bytes, .. } => bytes,
            Self::F32 => 4,
            Self::F64 => 8,
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Numbers {
    pub(super) kind: NumberKind,
    pub(super) bytes: Vec<u8>,
}

impl Numbers {
    fn at(&self, row: usize) -> Option<Value<'static>> {
        let start = row.checked_mul(self.kind.width())?;
        let bytes = self.bytes.get(start..)?;
        let value = match self.kind {
            NumberKind::F32 => Value::Float(f32::from_le_bytes(*bytes.first_chunk()?).into()),
            NumberKind::F64 => Value::Float(f64::from_le_bytes(*bytes.first_chunk()?)),
            NumberKind::Int {
                bytes: width,
                signed,
            } => {
                let bytes = bytes.get(..width)?;
                let negative = signed && bytes.last().is_some_and(|high| *high >= 0x80);
                let fill = if negative { -1i64 } else { 0 };
                let fold = |value: i64, byte: &u8| value << 8 | i64::from(*byte);
                Value::Int(bytes.iter().rev().fold(fill, fold))
            }
        };
        Some(value)
    }
}

#[derive(Clone, Debug)]
pub(super) enum Data {
    Null,
    Bits(Vec<u8>),
    Numbers(Numbers),
    Text {
        offsets: Vec<usize>,
        bytes: Vec<u8>,
    },
    Binary {
        offsets: Vec<usize>,
        bytes: Bytes,
    },
    List {
        offsets: Vec<usize>,
        items: Box<Column>,
    },
    Struct(Vec<(String, Column)>),
    Keys {
        keys: Numbers,
        values: Arc<Column>,
    },
}

/// One column of one record batch.
#[derive(Clone, Debug)]
pub struct Column {
    rows: usize,
    /// A bit a row, 1 where it has a value; `None`: all have.
    validity: Option<Vec<u8>>,
    data: Data,
}

impl Column {
    pub(super) fn new(rows: usize, validity: Option<Vec<u8>>, data: Data) -> Self {
        Self {
            rows,
            validity,
            data,
        }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The cell of a row; [`Value::Null`] behind the last.
    pub fn value(&self, row: usize) -> Value<'_> {
        let valid = self.validity.as_ref().is_none_or(|bits| bit(bits, row));
        if row >= self.rows || !valid {
            return Value::Null;
        }
        self.cell(row).unwrap_or(Value::Null)
    }

    fn cell(&self, row: usize) -> Option<Value<'_>> {
        Some(match &self.data {
            Data::Null => Value::Null,
            Data::Bits(bits) => Value::Bool(bit(bits, row)),
            Data::Numbers(numbers) => numbers.at(row)?,
            Data::Text { offsets, bytes } => {
                let (start, end) = bounds(offsets, row)?;
                let text = std::str::from_utf8(bytes.get(start..end)?);
                text.map_or(Value::NotText, Value::Text)
            }
            Data::Binary { offsets, bytes } => {
                let (start, end) = bounds(offsets, row)?;
                match bytes {
                    Bytes::Place { offset, .. } => Value::Place {
                        offset: offset.checked_add(start as u64)?,
                        len: end.checked_sub(start)? as u64,
                    },
                    Bytes::Held(bytes) => Value::Bytes(bytes.get(start..end)?),
                }
            }
            Data::List { offsets, items } => {
                let (start, end) = bounds(offsets, row)?;
                Value::List(List { items, start, end })
            }
            Data::Struct(children) => {
                let cells = children.iter();
                Value::Struct(
                    cells
                        .map(|(name, column)| (name.as_str(), column.value(row)))
                        .collect(),
                )
            }
            Data::Keys { keys, values } => match keys.at(row)? {
                Value::Int(key) => values.value(usize::try_from(key).ok()?),
                _ => Value::Null,
            },
        })
    }
}

fn bounds(offsets: &[usize], row: usize) -> Option<(usize, usize)> {
    Some((*offsets.get(row)?, *offsets.get(row.checked_add(1)?)?))
}

fn bit(bits: &[u8], row: usize) -> bool {
    bits.get(row / 8)
        .is_some_and(|byte| byte >> (row % 8) & 1 == 1)
}
