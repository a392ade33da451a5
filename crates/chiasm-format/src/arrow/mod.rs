//! Tables in Arrow's IPC layout, file and stream alike, without what binary cells hold.
//!
//! A table of pictures is gigabytes of binary cells beside kilobytes of everything else. [`Table`]
//! walks the messages, takes the columns that are asked for, one record batch at a time, and answers
//! for a binary cell where its bytes lie ([`Bytes::Place`]): no picture is read to list the pictures.
//! Compressed batches leave no such place, so their cells are held, under the caller's budget.
//!
//! The file form is the stream form between two marks, with an index behind it. Walking the stream
//! reads both; the index is only asked where the stream ends.
//!
//! Flatbuffers are verified by the `arrow-ipc` crate. Lengths are compared with the file, and with
//! the caps here, before memory is taken for them.

mod column;

use std::collections::HashMap;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use arrow_ipc::{
    BodyCompressionMethod, CompressionType, Endianness, MessageHeader, MetadataVersion, Type,
    root_as_message,
};

pub use column::{Bytes, Column, List, Value};
use column::{Data, NumberKind};

use crate::error::{FormatError, check_cap, shown};
use crate::source::ByteSource;

/// Cap on the description of a table or batch. Theirs have kilobytes; a schema with the notes of
/// other libraries in it can have some hundred.
pub const MAX_METADATA_BYTES: u64 = 16 << 20;

/// Cap on what one record batch holds in memory, pictures aside: texts, numbers and offsets.
pub const MAX_BATCH_BYTES: u64 = 1 << 30;

/// Cap on the fields of a schema, nested ones included.
pub const MAX_FIELDS: usize = 10_000;

/// Cap on the rows of a table, far above any table of pictures. A table has no more rows than bytes
/// either: columns without a value take no room, however long they are.
pub const MAX_ROWS: u64 = 1 << 30;

/// Cap on how deep fields nest.
const MAX_DEPTH: usize = 16;

/// How much of a file is looked at for the first message behind the mark.
const MAX_PADDING: u64 = 1 << 10;

/// What the file form begins and ends with.
const MAGIC: &[u8; 6] = b"ARROW1";

fn damaged(offset: u64, what: impl Into<String>) -> FormatError {
    FormatError::damaged("Arrow table", format!("byte {offset}"), what)
}

/// The type of a field, as far as it matters here.
#[derive(Clone, Debug)]
enum Kind {
    Null,
    Bool,
    Number(NumberKind),
    Text {
        wide: bool,
    },
    Binary {
        wide: bool,
    },
    List {
        wide: bool,
        items: Box<Field>,
    },
    Struct(Vec<Field>),
    /// What is passed over: its name, its buffers, whether a count of more buffers stands elsewhere.
    Other {
        name: &'static str,
        buffers: usize,
        variadic: bool,
        children: Vec<Field>,
    },
}

#[derive(Clone, Debug)]
struct Field {
    name: String,
    kind: Kind,
    /// Id of the dictionary and type of the keys, when the column holds keys.
    dictionary: Option<(i64, NumberKind)>,
}

impl Field {
    fn unsupported(&self, kind: &str) -> FormatError {
        FormatError::Unsupported {
            what: format!("column `{}` has the type {kind}", shown(&self.name)),
            hint: "write the table with columns of plain strings, bytes, numbers and lists of them",
        }
    }
}

/// A run of bytes of the file.
#[derive(Clone, Copy)]
struct Span {
    offset: u64,
    len: u64,
}

/// A table that is read batch by batch.
pub struct Table {
    source: ByteSource,
    /// Where the messages end.
    end: u64,
    /// Where the next message begins.
    position: u64,
    version: MetadataVersion,
    fields: Vec<Field>,
    dictionaries: HashMap<i64, Arc<Column>>,
    /// Rows of the batches so far.
    rows: u64,
}

/// The wanted columns of one record batch.
pub struct Batch {
    /// Number of rows.
    pub rows: usize,
    /// The columns, in the order in which they were asked for.
    pub columns: Vec<Column>,
}

/// A message and where its body lies.
struct Message {
    offset: u64,
    metadata: Vec<u8>,
    body: u64,
}

impl Table {
    /// Reads the schema of a table.
    ///
    /// # Errors
    /// If the file cannot be read, is cut off, or is no Arrow table of little-endian bytes.
    pub fn open(path: &Path) -> Result<Self, FormatError> {
        Self::new(ByteSource::open(path)?)
    }

    /// As [`Self::open`], of bytes that are open already.
    ///
    /// # Errors
    /// As for [`Self::open`].
    pub fn new(source: ByteSource) -> Result<Self, FormatError> {
        let head = source.head(MAX_PADDING)?;
        let is_file = head.starts_with(MAGIC);
        let mut table = Self {
            end: source.len(),
            position: 0,
            version: MetadataVersion::V5,
            fields: Vec::new(),
            dictionaries: HashMap::new(),
            rows: 0,
            source,
        };
        if is_file {
            table.end = table.index_start()?;
            // The layout pads the mark to 8 bytes, some writers to their own alignment.
            let words = head.chunks(8).skip(1);
            let zeros = words.take_while(|word| word.iter().all(|byte| *byte == 0));
            table.position = 8 * (1 + zeros.count() as u64);
        }
        let message = table.message()?.ok_or_else(|| damaged(0, "no schema"))?;
        let parsed = parse(&message)?;
        table.version = parsed.version();
        let schema = parsed
            .header_as_schema()
            .ok_or_else(|| damaged(message.offset, "the first message is no schema"))?;
        if schema.endianness() != Endianness::Little {
            return Err(damaged(message.offset, "big-endian tables are not read"));
        }
        let mut count = 0;
        let fields = schema.fields().into_iter().flatten();
        table.fields = fields
            .map(|field| read_field(field, message.offset, 0, &mut count))
            .collect::<Result<_, _>>()?;
        Ok(table)
    }

    /// Names of the columns.
    pub fn names(&self) -> Vec<String> {
        self.fields.iter().map(|field| field.name.clone()).collect()
    }

    /// The wanted columns of the next record batch; `None` behind the last.
    ///
    /// `budget` is how many bytes of compressed binary cells may still be held; what is held is
    /// taken off. Tables that are not compressed leave it alone.
    ///
    /// # Errors
    /// If the batch is damaged, above a cap, or holds a wanted column of a type that is not read.
    pub fn next(
        &mut self,
        wanted: &[usize],
        budget: &mut u64,
    ) -> Result<Option<Batch>, FormatError> {
        while let Some(message) = self.message()? {
            let parsed = parse(&message)?;
            match parsed.header_type() {
                MessageHeader::RecordBatch => {
                    let batch = parsed
                        .header_as_record_batch()
                        .ok_or_else(|| damaged(message.offset, "no record batch"))?;
                    return self.batch(&message, batch, wanted, budget).map(Some);
                }
                MessageHeader::DictionaryBatch => {
                    let dictionary = parsed
                        .header_as_dictionary_batch()
                        .ok_or_else(|| damaged(message.offset, "no dictionary"))?;
                    self.dictionary(&message, dictionary, budget)?;
                }
                _ => {}
            }
        }
        Ok(None)
    }

    /// Where the index of the file form begins: behind the last message.
    fn index_start(&self) -> Result<u64, FormatError> {
        let cut = || {
            damaged(
                self.source.len(),
                "the closing mark is missing: the file was not written or copied to its end",
            )
        };
        let tail = self.source.len().checked_sub(10).filter(|tail| *tail >= 8);
        let tail = tail.ok_or_else(cut)?;
        let bytes = self.read(Span {
            offset: tail,
            len: 10,
        })?;
        let (size, mark) = bytes.split_at_checked(4).ok_or_else(cut)?;
        if mark != MAGIC {
            return Err(cut());
        }
        let size = u64::from(u32_at(size, 0).unwrap_or(0));
        tail.checked_sub(size)
            .filter(|start| *start >= 8)
            .ok_or_else(|| damaged(tail, "the index is longer than the file"))
    }

    /// The next message; `None` at the end.
    fn message(&mut self) -> Result<Option<Message>, FormatError> {
        let offset = self.position;
        let left = self.end.saturating_sub(offset);
        if left == 0 {
            return Ok(None);
        }
        let head = self.read(Span {
            offset,
            len: left.min(8),
        })?;
        let cut = || damaged(offset, "the message is cut off");
        // Before 2019 the length stood without the mark in front of it.
        let (len, start) = match (u32_at(&head, 0), u32_at(&head, 4)) {
            (Some(u32::MAX), Some(len)) => (u64::from(len), 8),
            (Some(u32::MAX) | None, _) => return Err(cut()),
            (Some(len), _) => (u64::from(len), 4),
        };
        if len == 0 {
            self.position = self.end;
            return Ok(None);
        }
        check_cap(
            "bytes of a message of an Arrow table",
            len,
            MAX_METADATA_BYTES,
        )?;
        if start + len > left {
            return Err(cut());
        }
        let metadata = self.read(Span {
            offset: offset + start,
            len,
        })?;
        let body = offset + start + len;
        let message = Message {
            offset,
            metadata,
            body,
        };
        let body_len = parse(&message)?.bodyLength();
        self.position = u64::try_from(body_len)
            .ok()
            .and_then(|len| body.checked_add(len))
            .filter(|next| *next <= self.end)
            .ok_or_else(|| damaged(offset, "the message's body is longer than the file"))?;
        Ok(Some(message))
    }

    fn batch(
        &mut self,
        message: &Message,
        batch: arrow_ipc::RecordBatch<'_>,
        wanted: &[usize],
        budget: &mut u64,
    ) -> Result<Batch, FormatError> {
        let mut cursor = Cursor::new(self, message, batch, budget)?;
        let rows = cursor.rows(batch.length())?;
        let total = self.rows.saturating_add(rows as u64);
        check_cap(
            "rows of an Arrow table",
            total,
            MAX_ROWS.min(self.source.len()),
        )?;
        let mut found: Vec<Option<Column>> = wanted.iter().map(|_| None).collect();
        for (index, field) in self.fields.iter().enumerate() {
            match wanted.iter().position(|wanted| *wanted == index) {
                Some(place) => {
                    let column = cursor.column(field)?;
                    if column.rows() != rows {
                        return Err(damaged(
                            message.offset,
                            format!(
                                "column `{}` has {} rows and its batch {rows}",
                                field.name,
                                column.rows()
                            ),
                        ));
                    }
                    if let Some(slot) = found.get_mut(place) {
                        *slot = Some(column);
                    }
                }
                None => cursor.skip(field)?,
            }
        }
        drop(cursor);
        self.rows = total;
        let columns: Option<Vec<Column>> = found.into_iter().collect();
        let columns =
            columns.ok_or_else(|| damaged(message.offset, "a wanted column does not exist"))?;
        Ok(Batch { rows, columns })
    }

    fn dictionary(
        &mut self,
        message: &Message,
        dictionary: arrow_ipc::DictionaryBatch<'_>,
        budget: &mut u64,
    ) -> Result<(), FormatError> {
        let id = dictionary.id();
        let values = find_dictionary(&self.fields, id)
            .filter(|field| !matches!(field.kind, Kind::Other { .. }));
        // Dictionaries of columns that cannot be wanted are passed over.
        let (Some(field), Some(batch)) = (values, dictionary.data()) else {
            return Ok(());
        };
        if dictionary.isDelta() {
            return Err(field.unsupported("dictionary that grows from batch to batch"));
        }
        let plain = Field {
            dictionary: None,
            ..field.clone()
        };
        let column = Cursor::new(self, message, batch, budget)?.column(&plain)?;
        self.dictionaries.insert(id, Arc::new(column));
        Ok(())
    }

    /// Bytes of the file; their number must have been compared with a cap.
    fn read(&self, span: Span) -> Result<Vec<u8>, FormatError> {
        self.source.read(span.offset, span.len)
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_le_bytes(*bytes))
}

fn parse(message: &Message) -> Result<arrow_ipc::Message<'_>, FormatError> {
    root_as_message(&message.metadata).map_err(|error| {
        damaged(
            message.offset,
            format!("the message is no message: {error}"),
        )
    })
}

/// The field whose values a dictionary holds.
fn find_dictionary(fields: &[Field], id: i64) -> Option<&Field> {
    fields.iter().find_map(|field| {
        if field.dictionary.is_some_and(|(own, _)| own == id) {
            return Some(field);
        }
        match &field.kind {
            Kind::List { items, .. } => find_dictionary(std::slice::from_ref(items), id),
            Kind::Struct(children) | Kind::Other { children, .. } => find_dictionary(children, id),
            _ => None,
        }
    })
}

fn read_field(
    field: arrow_ipc::Field<'_>,
    offset: u64,
    depth: usize,
    count: &mut usize,
) -> Result<Field, FormatError> {
    *count += 1;
    if depth > MAX_DEPTH || *count > MAX_FIELDS {
        return Err(damaged(
            offset,
            "the schema has too many or too deep fields",
        ));
    }
    let name = field.name().unwrap_or_default().to_owned();
    let children = field.children().into_iter().flatten();
    let mut children: Vec<Field> = children
        .map(|child| read_field(child, offset, depth + 1, count))
        .collect::<Result<_, _>>()?;
    let mut only_child = || match children.len() {
        1 => children.pop().map(Box::new),
        _ => None,
    };
    let no_child = || damaged(offset, format!("list `{name}` has no items field"));
    let kind = match field.type_type() {
        Type::Null => Kind::Null,
        Type::Bool => Kind::Bool,
        Type::Int => {
            let int = field.type_as_int();
            let kind = int.and_then(|int| NumberKind::int(int.bitWidth(), int.is_signed()));
            Kind::Number(kind.ok_or_else(|| damaged(offset, "an integer of no known width"))?)
        }
        Type::FloatingPoint => match field.type_as_floating_point().map(|of| of.precision()) {
            Some(arrow_ipc::Precision::SINGLE) => Kind::Number(NumberKind::F32),
            Some(arrow_ipc::Precision::DOUBLE) => Kind::Number(NumberKind::F64),
            _ => fixed("half-precision number"),
        },
        Type::Utf8 => Kind::Text { wide: false },
        Type::LargeUtf8 => Kind::Text { wide: true },
        Type::Binary => Kind::Binary { wide: false },
        Type::LargeBinary => Kind::Binary { wide: true },
        Type::List => Kind::List {
            wide: false,
            items: only_child().ok_or_else(no_child)?,
        },
        Type::LargeList => Kind::List {
            wide: true,
            items: only_child().ok_or_else(no_child)?,
        },
        Type::Struct_ => Kind::Struct(children),
        Type::FixedSizeList => nested("FixedSizeList", 1, children),
        Type::Map => nested("Map", 2, children),
        Type::ListView | Type::LargeListView => nested("ListView", 3, children),
        Type::RunEndEncoded => nested("RunEndEncoded", 0, children),
        Type::Union => match field.type_as_union().map(|union| union.mode()) {
            Some(arrow_ipc::UnionMode::Dense) => nested("Union", 2, children),
            _ => nested("Union", 1, children),
        },
        Type::Utf8View | Type::BinaryView => Kind::Other {
            name: "view of texts or bytes (write it as `string` or `binary`)",
            buffers: 2,
            variadic: true,
            children,
        },
        Type::FixedSizeBinary => fixed("FixedSizeBinary"),
        Type::Decimal => fixed("Decimal"),
        Type::Date | Type::Time | Type::Timestamp | Type::Interval | Type::Duration => {
            fixed("date or time")
        }
        other => {
            return Err(damaged(
                offset,
                format!("column `{name}` has the unknown type {}", other.0),
            ));
        }
    };
    let dictionary = match field.dictionary() {
        Some(encoding) => {
            // Without a type keys are signed 32-bit, by the layout's definition.
            let keys = match encoding.indexType() {
                Some(int) => NumberKind::int(int.bitWidth(), int.is_signed()),
                None => NumberKind::int(32, true),
            };
            let keys = keys.ok_or_else(|| damaged(offset, "keys of no known width"))?;
            Some((encoding.id(), keys))
        }
        None => None,
    };
    Ok(Field {
        name,
        kind,
        dictionary,
    })
}

/// A type of fixed width: validity and values.
fn fixed(name: &'static str) -> Kind {
    nested(name, 2, Vec::new())
}

fn nested(name: &'static str, buffers: usize, children: Vec<Field>) -> Kind {
    Kind::Other {
        name,
        buffers,
        variadic: false,
        children,
    }
}

/// Goes through the nodes and buffers of a batch, which stand in the order of the fields.
struct Cursor<'a> {
    table: &'a Table,
    message: &'a Message,
    nodes: Box<dyn Iterator<Item = i64> + 'a>,
    buffers: Box<dyn Iterator<Item = (i64, i64)> + 'a>,
    variadic: Box<dyn Iterator<Item = i64> + 'a>,
    /// `None`: not compressed.
    codec: Option<CompressionType>,
    /// What may still be held of this batch.
    left: u64,
    budget: &'a mut u64,
}

impl<'a> Cursor<'a> {
    fn new(
        table: &'a Table,
        message: &'a Message,
        batch: arrow_ipc::RecordBatch<'a>,
        budget: &'a mut u64,
    ) -> Result<Self, FormatError> {
        let codec = match batch.compression() {
            Some(body) if body.method() == BodyCompressionMethod::BUFFER => Some(body.codec()),
            Some(_) => return Err(damaged(message.offset, "an unknown way of compression")),
            None => None,
        };
        let nodes = batch.nodes().into_iter().flatten();
        let buffers = batch.buffers().into_iter().flatten();
        Ok(Self {
            table,
            message,
            nodes: Box::new(nodes.map(arrow_ipc::FieldNode::length)),
            buffers: Box::new(buffers.map(|buffer| (buffer.offset(), buffer.length()))),
            variadic: Box::new(batch.variadicBufferCounts().into_iter().flatten()),
            codec,
            left: MAX_BATCH_BYTES,
            budget,
        })
    }

    fn damaged(&self, what: impl Into<String>) -> FormatError {
        damaged(self.message.offset, what)
    }

    fn rows(&self, length: i64) -> Result<usize, FormatError> {
        u64::try_from(length)
            .ok()
            .filter(|rows| *rows <= MAX_ROWS)
            .and_then(|rows| usize::try_from(rows).ok())
            .ok_or_else(|| self.damaged(format!("{length} is no number of rows")))
    }

    /// Rows of the next node.
    fn node(&mut self) -> Result<usize, FormatError> {
        let length = self.nodes.next();
        let length = length.ok_or_else(|| self.damaged("a column has no node"))?;
        self.rows(length)
    }

    /// The next buffer, within the body of the message.
    fn buffer(&mut self) -> Result<Span, FormatError> {
        let buffer = self.buffers.next();
        let (offset, len) = buffer.ok_or_else(|| self.damaged("a column has no buffer"))?;
        let span = || {
            let (offset, len) = (u64::try_from(offset).ok()?, u64::try_from(len).ok()?);
            let offset = self.message.body.checked_add(offset)?;
            // The position is already that of the message behind.
            let end = offset.checked_add(len)?;
            (end <= self.table.position).then_some(Span { offset, len })
        };
        span().ok_or_else(|| {
            self.damaged(format!(
                "a buffer of {len} bytes at {offset} is not within its message"
            ))
        })
    }

    /// Takes the bytes of a buffer, unpacked.
    fn take(&mut self, span: Span) -> Result<Vec<u8>, FormatError> {
        let held = MAX_BATCH_BYTES - self.left;
        let what = "bytes of a record batch beside binary cells";
        let bytes = self.unpack(span, |bytes| {
            check_cap(what, held.saturating_add(bytes), MAX_BATCH_BYTES)
        })?;
        self.left = self.left.saturating_sub(bytes.len() as u64);
        Ok(bytes)
    }

    /// The bytes of a buffer, unpacked, if `allow` takes their number and that of the packed ones.
    fn unpack(
        &self,
        span: Span,
        allow: impl Fn(u64) -> Result<(), FormatError>,
    ) -> Result<Vec<u8>, FormatError> {
        let (stored, size) = self.stored(span)?;
        allow(stored.len)?;
        let Some(size) = size else {
            return self.table.read(stored);
        };
        allow(size)?;
        let packed = self.table.read(stored)?;
        let bad =
            |error: std::io::Error| damaged(span.offset, format!("compressed bytes: {error}"));
        let mut bytes = Vec::new();
        // One byte more than was said shows that more was packed.
        match self.codec {
            Some(CompressionType::LZ4_FRAME) => {
                lz4_flex::frame::FrameDecoder::new(packed.as_slice())
                    .take(size + 1)
                    .read_to_end(&mut bytes)
            }
            Some(CompressionType::ZSTD) => zstd::stream::read::Decoder::new(packed.as_slice())
                .and_then(|decoder| decoder.take(size + 1).read_to_end(&mut bytes)),
            _ => return Err(self.damaged("an unknown compression")),
        }
        .map_err(bad)?;
        if bytes.len() as u64 != size {
            return Err(damaged(
                span.offset,
                format!("a buffer unpacks to other than its {size} bytes"),
            ));
        }
        Ok(bytes)
    }

    /// Where the stored bytes of a buffer lie, and their unpacked size when they are compressed.
    fn stored(&self, span: Span) -> Result<(Span, Option<u64>), FormatError> {
        if self.codec.is_none() || span.len == 0 {
            return Ok((span, None));
        }
        let rest = span.len.checked_sub(8).map(|len| Span {
            offset: span.offset + 8,
            len,
        });
        let rest = rest.ok_or_else(|| damaged(span.offset, "a compressed buffer without size"))?;
        let head = self.table.read(Span { len: 8, ..span })?;
        let size = head
            .first_chunk()
            .map_or(0, |size| i64::from_le_bytes(*size));
        match size {
            -1 => Ok((rest, None)),
            size => match u64::try_from(size) {
                Ok(size) => Ok((rest, Some(size))),
                Err(_) => Err(damaged(span.offset, "a compressed buffer of negative size")),
            },
        }
    }

    /// Passes over a column.
    fn skip(&mut self, field: &Field) -> Result<(), FormatError> {
        self.node()?;
        let (buffers, children) = match (&field.dictionary, &field.kind) {
            (Some(_), _) | (None, Kind::Bool | Kind::Number(_)) => (2, [].as_slice()),
            (None, Kind::Null) => (0, [].as_slice()),
            (None, Kind::Text { .. } | Kind::Binary { .. }) => (3, [].as_slice()),
            (None, Kind::List { items, .. }) => (2, std::slice::from_ref(items.as_ref())),
            (None, Kind::Struct(children)) => (1, children.as_slice()),
            (
                None,
                Kind::Other {
                    name,
                    buffers,
                    variadic,
                    children,
                },
            ) => {
                let more = if *variadic {
                    let more = self.variadic.next();
                    let more = more.and_then(|more| usize::try_from(more).ok());
                    more.ok_or_else(|| self.damaged("a view without a number of buffers"))?
                } else {
                    0
                };
                // Unions had a validity buffer until version 4 of the layout.
                let old = *name == "Union" && self.table.version < MetadataVersion::V5;
                (
                    buffers.saturating_add(more) + usize::from(old),
                    children.as_slice(),
                )
            }
        };
        for _ in 0..buffers {
            self.buffer()?;
        }
        children.iter().try_for_each(|child| self.skip(child))
    }

    /// Reads a column.
    fn column(&mut self, field: &Field) -> Result<Column, FormatError> {
        if let Kind::Other { name, .. } = field.kind {
            return Err(field.unsupported(name));
        }
        let rows = self.node()?;
        if matches!((&field.dictionary, &field.kind), (None, Kind::Null)) {
            return Ok(Column::new(rows, None, Data::Null));
        }
        let validity = self.buffer()?;
        let validity = match validity.len {
            0 => None,
            _ => Some(self.exact(validity, rows.div_ceil(8))?),
        };
        if let Some((id, keys)) = field.dictionary {
            let keys = self.numbers(rows, keys)?;
            let values = self.table.dictionaries.get(&id).cloned();
            let values =
                values.ok_or_else(|| self.damaged(format!("dictionary {id} is missing")))?;
            return Ok(Column::new(rows, validity, Data::Keys { keys, values }));
        }
        let data = match &field.kind {
            Kind::Null | Kind::Other { .. } => Data::Null,
            Kind::Bool => {
                let span = self.buffer()?;
                Data::Bits(self.exact(span, rows.div_ceil(8))?)
            }
            Kind::Number(kind) => Data::Numbers(self.numbers(rows, *kind)?),
            Kind::Text { wide } => {
                let offsets = self.offsets(rows, *wide)?;
                let span = self.buffer()?;
                let bytes = self.exact(span, last(&offsets))?;
                Data::Text { offsets, bytes }
            }
            Kind::Binary { wide } => {
                let offsets = self.offsets(rows, *wide)?;
                let span = self.buffer()?;
                let bytes = self.cells(span, last(&offsets) as u64)?;
                Data::Binary { offsets, bytes }
            }
            Kind::List { wide, items } => {
                let offsets = self.offsets(rows, *wide)?;
                let items = Box::new(self.column(items)?);
                if items.rows() < last(&offsets) {
                    return Err(self.damaged("a list is longer than its items"));
                }
                Data::List { offsets, items }
            }
            Kind::Struct(children) => {
                let children: Vec<(String, Column)> = children
                    .iter()
                    .map(|child| Ok((child.name.clone(), self.column(child)?)))
                    .collect::<Result<_, FormatError>>()?;
                if children.iter().any(|(_, column)| column.rows() < rows) {
                    return Err(self.damaged("a struct is longer than its fields"));
                }
                Data::Struct(children)
            }
        };
        Ok(Column::new(rows, validity, data))
    }

    /// Takes a buffer of at least `need` bytes.
    fn exact(&mut self, span: Span, need: usize) -> Result<Vec<u8>, FormatError> {
        let bytes = self.take(span)?;
        if bytes.len() < need {
            return Err(damaged(
                span.offset,
                format!("a buffer has {} bytes and needs {need}", bytes.len()),
            ));
        }
        Ok(bytes)
    }

    fn numbers(&mut self, rows: usize, kind: NumberKind) -> Result<column::Numbers, FormatError> {
        let span = self.buffer()?;
        let bytes = self.exact(span, rows.saturating_mul(kind.width()))?;
        Ok(column::Numbers { kind, bytes })
    }

    /// `rows + 1` places that never fall, so that what they enclose is enclosed once.
    fn offsets(&mut self, rows: usize, wide: bool) -> Result<Vec<usize>, FormatError> {
        let span = self.buffer()?;
        // Allowed for a column without rows.
        if span.len == 0 && rows == 0 {
            return Ok(vec![0]);
        }
        let width = if wide { 8 } else { 4 };
        let bytes = self.exact(span, rows.saturating_add(1).saturating_mul(width))?;
        let mut before = 0;
        let offsets = bytes.chunks_exact(width).take(rows + 1).map(|chunk| {
            let place = match (chunk.first_chunk::<8>(), chunk.first_chunk::<4>()) {
                (Some(place), _) => i64::from_le_bytes(*place),
                (None, Some(place)) => i64::from(i32::from_le_bytes(*place)),
                (None, None) => -1,
            };
            let place = usize::try_from(place).ok().filter(|place| *place >= before);
            before = place?;
            place
        });
        let offsets: Option<Vec<usize>> = offsets.collect();
        offsets.ok_or_else(|| damaged(span.offset, "offsets are negative or fall"))
    }

    /// Where the bytes of binary cells are: in the file, or held when they are compressed.
    fn cells(&mut self, span: Span, need: u64) -> Result<Bytes, FormatError> {
        let short = |len: u64| {
            damaged(
                span.offset,
                format!("a buffer has {len} bytes and needs {need}"),
            )
        };
        let (stored, size) = self.stored(span)?;
        if size.is_none() {
            let place = Bytes::Place {
                offset: stored.offset,
                len: stored.len,
            };
            return if stored.len < need {
                Err(short(stored.len))
            } else {
                Ok(place)
            };
        }
        let budget = *self.budget;
        let bytes = self.unpack(span, |bytes| match bytes > budget {
            true => Err(over_budget()),
            false => Ok(()),
        })?;
        *self.budget = self.budget.saturating_sub(bytes.len() as u64);
        if (bytes.len() as u64) < need {
            return Err(short(bytes.len() as u64));
        }
        Ok(Bytes::Held(Arc::from(bytes)))
    }
}

fn over_budget() -> FormatError {
    FormatError::Unsupported {
        what:
            "the table is compressed, so that its pictures would have to stay in memory, and they \
               are too many for it"
                .to_owned(),
        hint: "write the table without compression; its pictures are then read where they lie",
    }
}

fn last(offsets: &[usize]) -> usize {
    offsets.last().copied().unwrap_or(0)
}
