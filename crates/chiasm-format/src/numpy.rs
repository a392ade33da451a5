//! NumPy arrays: `.npy` files, and `.npz` archives of them.
//!
//! Reads versions 1 to 3 of the format, of either byte order and either order of axes, with elements of
//! numbers, booleans or strings of a fixed width. Arrays of Python objects are pickles; they are
//! refused by name and never read. What is written ([`write_npz`]) is the plainest form of them.

use std::io::{Read, Seek, SeekFrom};

use half::f16;
use zip::ZipArchive;
use zip::result::ZipError;

mod write;

pub use write::{LARGEST_HALF, write_npz};

/// Cap on the header of an array. NumPy itself reads 10,000 bytes.
pub(crate) const MAX_HEADER_BYTES: usize = 64 << 10;

/// Cap on axes, that of NumPy 2.
const MAX_AXES: usize = 64;

/// Cap on the arrays of an archive.
pub const MAX_MEMBERS: usize = 10_000;

/// Cap on an array of an archive: 256 MiB.
pub const MAX_MEMBER_BYTES: u64 = 256 << 20;

/// Cap on all arrays of an archive together: 1 GiB.
pub const MAX_TOTAL_BYTES: u64 = 1 << 30;

/// Most bytes that deflate can make of one. A member that states more lies.
const MAX_EXPANSION: u64 = 1032;

/// What the elements of an array are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// Booleans, a byte each.
    Bool,
    /// Signed integers.
    I8,
    /// Signed integers.
    I16,
    /// Signed integers.
    I32,
    /// Signed integers.
    I64,
    /// Unsigned integers.
    U8,
    /// Unsigned integers.
    U16,
    /// Unsigned integers.
    U32,
    /// Unsigned integers.
    U64,
    /// Half precision.
    F16,
    /// Single precision.
    F32,
    /// Double precision.
    F64,
    /// Strings of so many bytes, filled up with zeros (`S`).
    Bytes(usize),
    /// Strings of so many characters of four bytes, filled up with zeros (`U`).
    Text(usize),
}

impl Dtype {
    /// Bytes of an element.
    pub fn size(self) -> usize {
        match self {
            Self::Bool | Self::I8 | Self::U8 => 1,
            Self::I16 | Self::U16 | Self::F16 => 2,
            Self::I32 | Self::U32 | Self::F32 => 4,
            Self::I64 | Self::U64 | Self::F64 => 8,
            Self::Bytes(len) => len,
            Self::Text(len) => len.saturating_mul(4),
        }
    }

    /// Bytes that change places between the byte orders.
    fn word(self) -> usize {
        match self {
            Self::Bytes(_) => 1,
            Self::Text(_) => 4,
            other => other.size(),
        }
    }
}

/// Why an array cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NumpyError {
    /// The bytes are not what they say.
    #[error("damaged at byte {offset}: {reason}")]
    Damaged {
        /// Where in the array.
        offset: usize,
        /// What is wrong there.
        reason: String,
    },
    /// The elements are of a type that is not read.
    #[error("elements of type `{descr}`: {reason}")]
    Unsupported {
        /// As the file names it.
        descr: String,
        /// Why not.
        reason: &'static str,
    },
    /// A cap is exceeded; nothing was allocated.
    #[error("{what} has {found}, more than the cap {cap}")]
    TooLarge {
        /// What.
        what: String,
        /// How much, with its unit.
        found: String,
        /// The cap.
        cap: u64,
    },
    /// The archive cannot be read.
    #[error("no readable npz archive: {reason}")]
    Archive {
        /// Why.
        reason: String,
    },
    /// The archive has no array of this name.
    #[error("no array `{name}`; there are: {}", existing.join(", "))]
    Missing {
        /// What was asked for.
        name: String,
        /// What is there.
        existing: Vec<String>,
    },
    /// An array of an archive.
    #[error("array `{name}`: {source}")]
    Member {
        /// Its name.
        name: String,
        /// What is wrong with it.
        source: Box<Self>,
    },
}

impl NumpyError {
    /// What the person can do about it, when there is something to do.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Unsupported { descr, .. } if descr.contains('O') => Some(
                "save it without Python objects: give every array a type (`dtype=\"float32\"`, `dtype=\"U\"`)"
                    .to_owned(),
            ),
            Self::Member { source, .. } => source.hint(),
            _ => None,
        }
    }
}

/// What a header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Sizes of the axes; none for a single value.
    pub shape: Vec<usize>,
    /// What the elements are.
    pub dtype: Dtype,
    big_endian: bool,
    fortran: bool,
    /// Where the elements start.
    start: usize,
    /// Bytes of the elements.
    bytes: usize,
}

/// An array: the last axis varies fastest, bytes are little-endian, however the file had it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Npy {
    /// Sizes of the axes; none for a single value.
    pub shape: Vec<usize>,
    /// What the elements are.
    pub dtype: Dtype,
    /// The elements, product of the shape times [`Dtype::size`] bytes.
    pub data: Vec<u8>,
}

impl Header {
    /// Reads the header from the first bytes of an array.
    ///
    /// # Errors
    /// If it is none, ends early, or describes what is not read here.
    pub fn parse(bytes: &[u8]) -> Result<Self, NumpyError> {
        let Some((b"\x93NUMPY", rest)) = bytes.split_first_chunk::<6>() else {
            return Err(damaged(
                0,
                "no NumPy array (it does not start with `\\x93NUMPY`)",
            ));
        };
        let (len, text_at) = match rest {
            [1, _, a, b, ..] => (usize::from(u16::from_le_bytes([*a, *b])), 10),
            [2 | 3, _, a, b, c, d, ..] => (u32::from_le_bytes([*a, *b, *c, *d]) as usize, 12),
            [version @ (1..=3), ..] => {
                return Err(damaged(
                    6,
                    format!("the header of version {version} is cut off"),
                ));
            }
            _ => return Err(damaged(6, "an unknown version of the format")),
        };
        if len > MAX_HEADER_BYTES {
            return Err(NumpyError::TooLarge {
                what: "the header".to_owned(),
                found: format!("{len} bytes"),
                cap: MAX_HEADER_BYTES as u64,
            });
        }
        let start = text_at + len;
        let text = bytes.get(text_at..start);
        let text = text.ok_or_else(|| damaged(text_at, "the header is cut off"))?;
        let mut literal = Literal { text, at: 0 };
        let (descr, fortran, shape) = literal
            .header()
            .map_err(|reason| damaged(text_at + literal.at, reason))?;
        let (dtype, big_endian) = dtype_of(&descr)?;
        let bytes = shape
            .iter()
            // Beside an empty axis the others count as well, so that no product of them overflows.
            .try_fold(dtype.size(), |bytes, axis| {
                bytes.checked_mul((*axis).max(1))
            })
            .ok_or_else(|| damaged(text_at, "the shape is larger than any memory"))?;
        let bytes = if shape.contains(&0) { 0 } else { bytes };
        // They would be as many as the shape says, out of no bytes at all.
        if dtype.size() == 0 && !shape.contains(&0) {
            return Err(damaged(text_at, "strings of no width"));
        }
        Ok(Self {
            shape,
            dtype,
            big_endian,
            fortran,
            start,
            bytes,
        })
    }

    /// Where the elements start.
    pub(crate) fn start(&self) -> usize {
        self.start
    }

    /// Whether the first axis varies fastest, of several.
    pub(crate) fn is_by_column(&self) -> bool {
        self.fortran && self.shape.len() > 1
    }

    /// Elements as the file has them, with the least byte first.
    pub(crate) fn little_endian(&self, mut data: Vec<u8>) -> Vec<u8> {
        if self.big_endian {
            for word in data.chunks_exact_mut(self.dtype.word().max(1)) {
                word.reverse();
            }
        }
        data
    }
}

impl Npy {
    /// Reads an array. Bytes after its last element are ignored, as NumPy does.
    ///
    /// # Errors
    /// If the bytes are no array, fewer than the shape needs, or of a type that is not read here.
    pub fn parse(bytes: &[u8]) -> Result<Self, NumpyError> {
        let header = Header::parse(bytes)?;
        let elements = bytes.get(header.start..).unwrap_or_default();
        let Some(elements) = elements.get(..header.bytes) else {
            return Err(damaged(
                header.start,
                format!(
                    "the shape {:?} needs {} bytes, but there are {}",
                    header.shape,
                    header.bytes,
                    elements.len()
                ),
            ));
        };
        let data = if header.is_by_column() {
            to_c_order(elements, &header.shape, header.dtype.size())
        } else {
            elements.to_vec()
        };
        let data = header.little_endian(data);
        Ok(Self {
            shape: header.shape,
            dtype: header.dtype,
            data,
        })
    }

    /// The elements as f32; integers and doubles are rounded. `None` for strings.
    pub fn to_f32(&self) -> Option<Vec<f32>> {
        let data = self.data.as_slice();
        Some(match self.dtype {
            Dtype::Bool => data
                .iter()
                .map(|byte| f32::from(u8::from(*byte != 0)))
                .collect(),
            Dtype::I8 => words(data)
                .map(|w| f32::from(i8::from_le_bytes(w)))
                .collect(),
            Dtype::U8 => data.iter().map(|byte| f32::from(*byte)).collect(),
            Dtype::I16 => words(data)
                .map(|w| f32::from(i16::from_le_bytes(w)))
                .collect(),
            Dtype::U16 => words(data)
                .map(|w| f32::from(u16::from_le_bytes(w)))
                .collect(),
            Dtype::F16 => words(data)
                .map(|w| f16::from_le_bytes(w).to_f32())
                .collect(),
            Dtype::I32 => words(data).map(|w| i32::from_le_bytes(w) as f32).collect(),
            Dtype::U32 => words(data).map(|w| u32::from_le_bytes(w) as f32).collect(),
            Dtype::F32 => words(data).map(f32::from_le_bytes).collect(),
            Dtype::I64 => words(data).map(|w| i64::from_le_bytes(w) as f32).collect(),
            Dtype::U64 => words(data).map(|w| u64::from_le_bytes(w) as f32).collect(),
            Dtype::F64 => words(data).map(|w| f64::from_le_bytes(w) as f32).collect(),
            Dtype::Bytes(_) | Dtype::Text(_) => return None,
        })
    }

    /// The elements as i64. `None` for fractions, strings, and integers beyond i64.
    pub fn to_i64(&self) -> Option<Vec<i64>> {
        let data = self.data.as_slice();
        Some(match self.dtype {
            Dtype::Bool => data.iter().map(|byte| i64::from(*byte != 0)).collect(),
            Dtype::I8 => words(data)
                .map(|w| i64::from(i8::from_le_bytes(w)))
                .collect(),
            Dtype::U8 => data.iter().map(|byte| i64::from(*byte)).collect(),
            Dtype::I16 => words(data)
                .map(|w| i64::from(i16::from_le_bytes(w)))
                .collect(),
            Dtype::U16 => words(data)
                .map(|w| i64::from(u16::from_le_bytes(w)))
                .collect(),
            Dtype::I32 => words(data)
                .map(|w| i64::from(i32::from_le_bytes(w)))
                .collect(),
            Dtype::U32 => words(data)
                .map(|w| i64::from(u32::from_le_bytes(w)))
                .collect(),
            Dtype::I64 => words(data).map(i64::from_le_bytes).collect(),
            Dtype::U64 => {
                let values = words(data).map(|w| i64::try_from(u64::from_le_bytes(w)).ok());
                return values.collect();
            }
            Dtype::F16 | Dtype::F32 | Dtype::F64 | Dtype::Bytes(_) | Dtype::Text(_) => return None,
        })
    }

    /// The elements as strings without the zeros at their end. `None` for numbers, and for characters
    /// that do not exist.
    pub fn to_strings(&self) -> Option<Vec<String>> {
        let elements = |size: usize| self.data.chunks_exact(size.max(1));
        match self.dtype {
            Dtype::Bytes(_) => elements(self.dtype.size())
                .map(|bytes| String::from_utf8(bytes.to_vec()).ok())
                .map(|text| text.map(|text| text.trim_end_matches('\0').to_owned()))
                .collect(),
            Dtype::Text(_) => elements(self.dtype.size())
                .map(|bytes| {
                    let text: Option<String> = words(bytes)
                        .map(|w| char::from_u32(u32::from_le_bytes(w)))
                        .collect();
                    text.map(|text| text.trim_end_matches('\0').to_owned())
                })
                .collect(),
            _ => None,
        }
    }
}

/// An archive of arrays.
pub struct Npz<R> {
    archive: ZipArchive<R>,
    /// Length of the file.
    len: u64,
}

impl<R: Read + Seek> Npz<R> {
    /// Reads the directory of an archive (a file, or a cursor over bytes).
    ///
    /// # Errors
    /// If it is no zip archive, or if its members are more, or larger, than the caps.
    pub fn open(mut file: R) -> Result<Self, NumpyError> {
        let io = |error: std::io::Error| NumpyError::Archive {
            reason: error.to_string(),
        };
        let len = file.seek(SeekFrom::End(0)).map_err(io)?;
        file.seek(SeekFrom::Start(0)).map_err(io)?;
        let archive = ZipArchive::new(file).map_err(|error| broken(&error))?;
        if archive.len() > MAX_MEMBERS {
            return Err(NumpyError::TooLarge {
                what: "the archive".to_owned(),
                found: format!("{} members", archive.len()),
                cap: MAX_MEMBERS as u64,
            });
        }
        let total = archive.decompressed_size().unwrap_or(0);
        if total > u128::from(MAX_TOTAL_BYTES) {
            return Err(NumpyError::TooLarge {
                what: "the archive".to_owned(),
                found: format!("{total} bytes when unpacked"),
                cap: MAX_TOTAL_BYTES,
            });
        }
        Ok(Self { archive, len })
    }

    /// The names of its arrays, without `.npy`.
    pub fn names(&self) -> Vec<String> {
        let names = self.archive.file_names();
        names
            .flatten()
            .map(|name| name.strip_suffix(".npy").unwrap_or(&name).to_owned())
            .collect()
    }

    /// Whether there is an array of this name.
    pub fn has(&self, name: &str) -> bool {
        self.index(name).is_some()
    }

    /// An array by its name.
    ///
    /// # Errors
    /// If there is none, it is larger than the cap or than deflate can pack, or is damaged.
    pub fn read(&mut self, name: &str) -> Result<Npy, NumpyError> {
        let bytes = self.bytes(name, None)?;
        Npy::parse(&bytes).map_err(|source| in_member(name, source))
    }

    /// The header of an array, without reading its elements.
    ///
    /// # Errors
    /// As [`Npz::read`].
    pub fn header(&mut self, name: &str) -> Result<Header, NumpyError> {
        let bytes = self.bytes(name, Some(MAX_HEADER_BYTES as u64 + 12))?;
        Header::parse(&bytes).map_err(|source| in_member(name, source))
    }

    fn index(&self, name: &str) -> Option<usize> {
        let archive = &self.archive;
        archive
            .index_for_name(&format!("{name}.npy"))
            .or_else(|| archive.index_for_name(name))
    }

    /// The first `most` bytes of a member, or all of them.
    fn bytes(&mut self, name: &str, most: Option<u64>) -> Result<Vec<u8>, NumpyError> {
        let Some(index) = self.index(name) else {
            return Err(NumpyError::Missing {
                name: name.to_owned(),
                existing: self.names(),
            });
        };
        let within = |source| in_member(name, source);
        let member = self
            .archive
            .by_index(index)
            .map_err(|error| broken(&error))
            .map_err(within)?;
        let (size, packed) = (member.size(), member.compressed_size());
        if size > MAX_MEMBER_BYTES {
            return Err(within(NumpyError::TooLarge {
                what: "it".to_owned(),
                found: format!("{size} bytes"),
                cap: MAX_MEMBER_BYTES,
            }));
        }
        if packed > self.len || size > packed.saturating_mul(MAX_EXPANSION) {
            let reason = format!("{packed} packed bytes cannot hold {size}");
            return Err(within(NumpyError::Archive { reason }));
        }
        let wanted = most.unwrap_or(size).min(size);
        let mut bytes = Vec::with_capacity(wanted as usize);
        // One byte further, so that a whole member is read to its end and its checksum compared.
        let further = wanted + u64::from(wanted == size);
        let read = member.take(further).read_to_end(&mut bytes);
        let archive = |reason: String| within(NumpyError::Archive { reason });
        read.map_err(|error| archive(error.to_string()))?;
        if bytes.len() as u64 != wanted {
            return Err(archive(format!(
                "it states {size} bytes and has another number"
            )));
        }
        Ok(bytes)
    }
}

/// The Python literal in a header: a dictionary of a string, a boolean and a tuple.
struct Literal<'a> {
    text: &'a [u8],
    at: usize,
}

impl Literal<'_> {
    fn header(&mut self) -> Result<(String, bool, Vec<usize>), String> {
        let (mut descr, mut fortran, mut shape) = (None, None, None);
        self.expect(b'{')?;
        while !self.take(b'}') {
            let key = self.string()?;
            self.expect(b':')?;
            let twice = match key.as_str() {
                "descr" => descr.replace(self.descr()?).is_some(),
                "fortran_order" => fortran.replace(self.boolean()?).is_some(),
                "shape" => shape.replace(self.tuple()?).is_some(),
                _ => return Err(format!("an unknown key `{key}`")),
            };
            if twice {
                return Err(format!("the key `{key}` twice"));
            }
            if !self.take(b',') && self.peek() != Some(b'}') {
                return Err("a comma is missing".to_owned());
            }
        }
        if self.peek().is_some() {
            return Err("something after the dictionary".to_owned());
        }
        match (descr, fortran, shape) {
            (Some(descr), Some(fortran), Some(shape)) => Ok((descr, fortran, shape)),
            _ => Err("`descr`, `fortran_order` or `shape` is missing".to_owned()),
        }
    }

    /// The next byte that is no blank.
    fn peek(&mut self) -> Option<u8> {
        loop {
            let byte = *self.text.get(self.at)?;
            if !byte.is_ascii_whitespace() {
                return Some(byte);
            }
            self.at += 1;
        }
    }

    fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, byte: u8) -> Result<(), String> {
        match self.take(byte) {
            true => Ok(()),
            false => Err(format!("`{}` is missing", char::from(byte))),
        }
    }

    fn string(&mut self) -> Result<String, String> {
        let quote = self.peek().filter(|byte| matches!(byte, b'\'' | b'"'));
        let quote = quote.ok_or("a string is missing")?;
        let rest = self.text.get(self.at + 1..).unwrap_or_default();
        let end = rest.iter().position(|byte| *byte == quote);
        let text = end
            .and_then(|end| rest.get(..end))
            .ok_or("a string without an end")?;
        self.at += text.len() + 2;
        match std::str::from_utf8(text) {
            Ok(text) if text.is_ascii() => Ok(text.to_owned()),
            _ => Err("a string that is not ASCII".to_owned()),
        }
    }

    /// A type, or of a structured array the rest of the header, to be refused with its name.
    fn descr(&mut self) -> Result<String, String> {
        if self.peek() != Some(b'[') {
            return self.string();
        }
        let rest = self.text.get(self.at..).unwrap_or_default();
        let end = rest
            .iter()
            .position(|byte| *byte == b']')
            .ok_or("a list without an end")?;
        self.at += end + 1;
        let shown = rest.get(..=end.min(80)).unwrap_or_default();
        Ok(String::from_utf8_lossy(shown).into_owned())
    }

    fn boolean(&mut self) -> Result<bool, String> {
        self.peek();
        let rest = self.text.get(self.at..).unwrap_or_default();
        let (value, len) = match rest {
            [b'T', b'r', b'u', b'e', ..] => (true, 4),
            [b'F', b'a', b'l', b's', b'e', ..] => (false, 5),
            _ => return Err("`True` or `False` is missing".to_owned()),
        };
        self.at += len;
        Ok(value)
    }

    fn tuple(&mut self) -> Result<Vec<usize>, String> {
        let mut axes = Vec::new();
        self.expect(b'(')?;
        while !self.take(b')') {
            self.peek();
            let rest = self.text.get(self.at..).unwrap_or_default();
            let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
            let text = rest
                .get(..digits)
                .and_then(|text| std::str::from_utf8(text).ok());
            let axis = text.and_then(|text| text.parse().ok());
            axes.push(axis.ok_or("an axis that is no number")?);
            self.at += digits;
            // Python 2 wrote long integers so.
            self.take(b'L');
            if axes.len() > MAX_AXES {
                return Err(format!("more than {MAX_AXES} axes"));
            }
            if !self.take(b',') && self.peek() != Some(b')') {
                return Err("a comma is missing in the shape".to_owned());
            }
        }
        Ok(axes)
    }
}

/// The type of the elements, and whether their bytes are big-endian.
fn dtype_of(descr: &str) -> Result<(Dtype, bool), NumpyError> {
    let unsupported = |reason| NumpyError::Unsupported {
        descr: descr.to_owned(),
        reason,
    };
    let (order, kind) = match descr.split_at_checked(1) {
        Some((order @ ("<" | ">" | "|" | "="), kind)) => (order, kind),
        _ => ("|", descr),
    };
    let (letter, width) = kind.split_at_checked(1).unwrap_or_default();
    let width = || {
        width
            .parse::<usize>()
            .ok()
            .filter(|width| *width <= MAX_MEMBER_BYTES as usize)
    };
    let dtype = match (letter, kind) {
        (_, "b1" | "?") => Dtype::Bool,
        (_, "i1") => Dtype::I8,
        (_, "i2") => Dtype::I16,
        (_, "i4") => Dtype::I32,
        (_, "i8") => Dtype::I64,
        (_, "u1") => Dtype::U8,
        (_, "u2") => Dtype::U16,
        (_, "u4") => Dtype::U32,
        (_, "u8") => Dtype::U64,
        (_, "f2") => Dtype::F16,
        (_, "f4") => Dtype::F32,
        (_, "f8") => Dtype::F64,
        ("S", _) => Dtype::Bytes(width().ok_or_else(|| unsupported("the width is no number"))?),
        ("U", _) => Dtype::Text(width().ok_or_else(|| unsupported("the width is no number"))?),
        ("O", _) => {
            return Err(unsupported(
                "Python objects are a pickle, which is never read",
            ));
        }
        ("[", _) => return Err(unsupported("structured arrays are not read")),
        ("c", _) => return Err(unsupported("complex numbers are not read")),
        ("M" | "m", _) => return Err(unsupported("dates are not read")),
        _ => return Err(unsupported("the type is not known")),
    };
    Ok((dtype, order == ">"))
}

/// Elements whose first axis varies fastest, in the order in which the last one does.
fn to_c_order(elements: &[u8], shape: &[usize], size: usize) -> Vec<u8> {
    let mut strides = Vec::with_capacity(shape.len());
    let mut stride = size;
    for axis in shape {
        strides.push(stride);
        stride = stride.saturating_mul(*axis);
    }
    let mut data = Vec::with_capacity(elements.len());
    let mut index = vec![0; shape.len()];
    let mut from = 0;
    while data.len() < elements.len() {
        let element = elements.get(from..from + size).unwrap_or_default();
        // An element of no bytes would never fill anything.
        if element.is_empty() {
            break;
        }
        data.extend_from_slice(element);
        // The next index: the last axis first, carrying to the left.
        for ((at, axis), stride) in index.iter_mut().zip(shape).zip(&strides).rev() {
            *at += 1;
            from += stride;
            if *at < *axis {
                break;
            }
            from -= *at * stride;
            *at = 0;
        }
    }
    data
}

fn words<const N: usize>(data: &[u8]) -> impl Iterator<Item = [u8; N]> {
    data.as_chunks::<N>().0.iter().copied()
}

fn damaged(offset: usize, reason: impl Into<String>) -> NumpyError {
    NumpyError::Damaged {
        offset,
        reason: reason.into(),
    }
}

fn in_member(name: &str, source: NumpyError) -> NumpyError {
    NumpyError::Member {
        name: name.to_owned(),
        source: Box::new(source),
    }
}

fn broken(error: &ZipError) -> NumpyError {
    NumpyError::Archive {
        reason: error.to_string(),
    }
}
