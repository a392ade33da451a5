//! What a Parquet file asks for, before the Parquet crate grants it.
//!
//! The footer and the heads of pages are Thrift's compact protocol. The crate takes memory for lists
//! and pages as long as they say they are; this walks over both first and refuses what no honest file
//! says: a footer above [`MAX_FOOTER_BYTES`] or with more than [`MAX_ELEMENTS`] elements in its lists,
//! a page that unpacks to more than [`MAX_PAGE_BYTES`], or to more than [`MAX_RATIO`] times its bytes
//! once that is above [`ALWAYS_BYTES`], and more values in a column than the file has bytes.

use chiasm_format::ByteSource;

/// Largest footer. Ten thousand row groups of twenty columns take as much.
const MAX_FOOTER_BYTES: u64 = 16 << 20;
/// Most elements of all lists of a footer or page head together.
const MAX_ELEMENTS: usize = 1 << 20;
/// Deepest nesting of structs and lists; Parquet's own have six levels.
const MAX_DEPTH: usize = 32;
/// Largest page, unpacked. Writers put a thousand pictures into one.
const MAX_PAGE_BYTES: i64 = 1 << 30;
/// Largest page whose packed size does not matter.
const ALWAYS_BYTES: i64 = 64 << 20;
/// How far a page above that may unpack.
const MAX_RATIO: i64 = 256;
/// Largest head of a page: some writers put the smallest and largest value into it.
const MAX_HEAD_BYTES: u64 = 64 << 20;
/// How much is read of a page at first.
const FIRST_HEAD_BYTES: u64 = 4 << 10;

/// Looks through the footer of a file.
///
/// # Errors
/// Why it must not be read.
pub(super) fn check_footer(file: &ByteSource) -> Result<(), String> {
    let cut = || "the file has no Parquet footer".to_owned();
    let tail = file.len().checked_sub(8).ok_or_else(cut)?;
    let bytes = file.read(tail, 8).map_err(|error| error.to_string())?;
    let size = bytes
        .first_chunk()
        .map_or(0, |size| u32::from_le_bytes(*size));
    let size = u64::from(size);
    let start = tail
        .checked_sub(size)
        .filter(|_| bytes.ends_with(b"PAR1"))
        .ok_or_else(cut)?;
    if size > MAX_FOOTER_BYTES {
        return Err(format!(
            "the footer has {size} bytes, more than the cap {MAX_FOOTER_BYTES}"
        ));
    }
    let footer = file.read(start, size).map_err(|error| error.to_string())?;
    Compact::new(&footer)
        .fields(0, &mut |_, _, _| Ok(false))
        .map_err(|fault| match fault {
            Fault::End => "the footer is cut off".to_owned(),
            Fault::Bad(what) => format!("the footer has {what}"),
        })
}

/// Looks through the heads of the pages of a column chunk, `len` bytes from `start` on.
///
/// # Errors
/// Why they must not be read.
pub(super) fn check_pages(file: &ByteSource, start: u64, len: u64) -> Result<(), String> {
    let end = start.checked_add(len).filter(|end| *end <= file.len());
    let end = end.ok_or_else(|| {
        format!("a column lies at byte {start} with {len} bytes, outside the file")
    })?;
    let mut at = start;
    let mut values = 0u64;
    while at < end {
        let (head, size) = page_head(file, at, end)?;
        let bad = |what: String| format!("the page at byte {at} {what}");
        let inside = u64::try_from(head.packed)
            .ok()
            .and_then(|packed| (at + size).checked_add(packed))
            .filter(|next| *next <= end);
        let next =
            inside.ok_or_else(|| bad(format!("has {} bytes, outside its column", head.packed)))?;
        let allowed = head
            .packed
            .saturating_mul(MAX_RATIO)
            .clamp(ALWAYS_BYTES, MAX_PAGE_BYTES);
        if head.unpacked < 0 || head.unpacked > allowed {
            return Err(bad(format!(
                "unpacks from {} to {} bytes, more than the cap {allowed}",
                head.packed, head.unpacked
            )));
        }
        let more = u64::try_from(head.values)
            .map_err(|_| bad("has a negative number of values".to_owned()))?;
        values = values.saturating_add(more);
        if values > file.len() {
            return Err(bad(format!(
                "brings the column to {values} values, more than the file has bytes"
            )));
        }
        at = next;
    }
    Ok(())
}

/// What the head of a page says.
#[derive(Default)]
struct PageHead {
    unpacked: i64,
    packed: i64,
    values: i64,
}

/// The head at `at`, and its length.
fn page_head(file: &ByteSource, at: u64, end: u64) -> Result<(PageHead, u64), String> {
    let mut window = FIRST_HEAD_BYTES;
    loop {
        let len = window.min(end - at);
        let bytes = file.read(at, len).map_err(|error| error.to_string())?;
        let mut compact = Compact::new(&bytes);
        let mut head = PageHead::default();
        let read = compact.fields(0, &mut |compact, id, kind| {
            let slot = match (id, kind) {
                (2, INT32) => &mut head.unpacked,
                (3, INT32) => &mut head.packed,
                // Heads of data pages, dictionaries and data pages of the second kind: each begins
                // with its number of values.
                (5 | 7 | 8, STRUCT) => {
                    let values = &mut head.values;
                    compact.fields(1, &mut |compact, id, kind| {
                        if (id, kind) == (1, INT32) {
                            *values = compact.zigzag()?;
                            return Ok(true);
                        }
                        Ok(false)
                    })?;
                    return Ok(true);
                }
                _ => return Ok(false),
            };
            *slot = compact.zigzag()?;
            Ok(true)
        });
        match read {
            Ok(()) => return Ok((head, compact.at as u64)),
            // Perhaps only the window ends here.
            Err(Fault::End) if len < end - at && window < MAX_HEAD_BYTES => window *= 8,
            Err(Fault::End) => return Err(format!("the page at byte {at} is cut off")),
            Err(Fault::Bad(what)) => return Err(format!("the page at byte {at} has {what}")),
        }
    }
}

const INT32: u8 = 5;
const STRUCT: u8 = 12;

/// Why a structure cannot be walked.
enum Fault {
    /// The bytes end.
    End,
    /// Something that no honest file has.
    Bad(&'static str),
}

/// Takes a field, or says `false` to pass over it: reader, id, type.
type Take<'a, 'b> = &'a mut dyn FnMut(&mut Compact<'b>, i16, u8) -> Result<bool, Fault>;

/// Walks over the compact protocol.
struct Compact<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Elements of lists so far.
    elements: usize,
}

impl<'a> Compact<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            at: 0,
            elements: 0,
        }
    }

    fn byte(&mut self) -> Result<u8, Fault> {
        let byte = *self.bytes.get(self.at).ok_or(Fault::End)?;
        self.at += 1;
        Ok(byte)
    }

    fn pass(&mut self, count: u64) -> Result<(), Fault> {
        let left = self.bytes.len().saturating_sub(self.at) as u64;
        if count > left {
            return Err(Fault::End);
        }
        self.at += count as usize;
        Ok(())
    }

    fn varint(&mut self) -> Result<u64, Fault> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Fault::Bad("a number of more than 64 bits"))
    }

    fn zigzag(&mut self) -> Result<i64, Fault> {
        let value = self.varint()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    /// Walks over the fields of a struct.
    fn fields(&mut self, depth: usize, take: Take<'_, 'a>) -> Result<(), Fault> {
        if depth > MAX_DEPTH {
            return Err(Fault::Bad("structs too deep in each other"));
        }
        let mut id = 0i16;
        loop {
            let head = self.byte()?;
            let kind = head & 0x0F;
            if kind == 0 {
                return Ok(());
            }
            id = match head >> 4 {
                0 => self.zigzag()? as i16,
                step => id.wrapping_add(i16::from(step)),
            };
            if !take(self, id, kind)? {
                self.skip(kind, depth + 1, false)?;
            }
        }
    }

    /// Passes over a value. Truth values are part of their field's type, but a byte in a list.
    fn skip(&mut self, kind: u8, depth: usize, in_list: bool) -> Result<(), Fault> {
        if depth > MAX_DEPTH {
            return Err(Fault::Bad("lists too deep in each other"));
        }
        match kind {
            1 | 2 => self.pass(u64::from(in_list)),
            3 => self.pass(1),
            4..=6 => self.varint().map(drop),
            7 => self.pass(8),
            8 => {
                let len = self.varint()?;
                self.pass(len)
            }
            9 | 10 => {
                let head = self.byte()?;
                let count = match head >> 4 {
                    15 => self.varint()?,
                    short => u64::from(short),
                };
                for _ in 0..self.count(count)? {
                    self.skip(head & 0x0F, depth + 1, true)?;
                }
                Ok(())
            }
            11 => {
                let count = self.varint()?;
                if count == 0 {
                    return Ok(());
                }
                let kinds = self.byte()?;
                for _ in 0..self.count(count)? {
                    self.skip(kinds >> 4, depth + 1, true)?;
                    self.skip(kinds & 0x0F, depth + 1, true)?;
                }
                Ok(())
            }
            STRUCT => self.fields(depth + 1, &mut |_, _, _| Ok(false)),
            13 => self.pass(16),
            _ => Err(Fault::Bad("a value of no known type")),
        }
    }

    /// A number of elements that may be.
    fn count(&mut self, count: u64) -> Result<usize, Fault> {
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        self.elements = self.elements.saturating_add(count);
        if self.elements > MAX_ELEMENTS {
            return Err(Fault::Bad("more elements than any table"));
        }
        Ok(count)
    }
}
