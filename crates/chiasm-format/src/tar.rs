//! Tar archives: where each member's bytes are, without unpacking anything.
//!
//! Reads the headers of ustar, GNU (long names, base-256 sizes) and pax (`path`, `size`) archives and
//! skips over the bodies. What is no plain file (links, devices, sparse files) is counted and left out.
//! Nothing is written to disk, so a member's name is a label here and never a path.
//!
//! An archive is damaged from the first header that cannot be read: [`TarReader::next_member`] returns
//! everything before it and then the error with its byte offset. Compressed archives are refused by
//! name, they have no random access.

use std::io::{self, BufRead as _, BufReader, Read, Seek, SeekFrom};

/// Size of a header and unit in which bodies are padded.
const BLOCK: u64 = 512;

/// Cap on the members of an archive. A shard has some ten thousand.
pub const MAX_MEMBERS: usize = 4_000_000;

/// Cap on the bytes of a name, the longest path that Linux takes.
pub const MAX_NAME_BYTES: u64 = 4096;

/// Cap on a pax header, which may carry other attributes beside the name.
const MAX_PAX_BYTES: u64 = 64 << 10;

/// A plain file in an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its name with folders. Bytes that are not UTF-8 are replaced.
    pub name: String,
    /// Where its (last) header starts, for messages.
    pub header: u64,
    /// Where its bytes start.
    pub offset: u64,
    /// Number of bytes; the file has been found long enough for them.
    pub len: u64,
}

/// Why an archive cannot be read on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TarError {
    /// The system failed to read.
    #[error("cannot read at byte {offset}: {source}")]
    Io {
        /// Where.
        offset: u64,
        /// What the system said.
        source: io::Error,
    },
    /// The bytes are no tar archive, or no longer.
    #[error("damaged at byte {offset}: {reason}")]
    Damaged {
        /// First byte of the header in question.
        offset: u64,
        /// What is wrong with it.
        reason: String,
    },
}

impl TarError {
    /// Where in the archive.
    pub fn offset(&self) -> u64 {
        match self {
            Self::Io { offset, .. } | Self::Damaged { offset, .. } => *offset,
        }
    }
}

/// Reads the headers of an archive in order.
#[derive(Debug)]
pub struct TarReader<R: Read + Seek> {
    reader: BufReader<R>,
    /// Where `reader` stands.
    position: u64,
    /// Length of the file.
    len: u64,
    /// Where the next header starts.
    next: u64,
    members: usize,
    skipped: u64,
    /// Set after the end and after an error: nothing behind either is trusted.
    done: bool,
}

/// What the headers before a member's own say about it.
#[derive(Default)]
struct Extension {
    name: Option<Vec<u8>>,
    size: Option<u64>,
    sparse: bool,
}

impl<R: Read + Seek> TarReader<R> {
    /// Takes an archive from its first byte on.
    ///
    /// # Errors
    /// If the system cannot tell how long it is.
    pub fn new(mut file: R) -> Result<Self, TarError> {
        let io = |source| TarError::Io { offset: 0, source };
        let len = file.seek(SeekFrom::End(0)).map_err(io)?;
        file.seek(SeekFrom::Start(0)).map_err(io)?;
        Ok(Self {
            reader: BufReader::new(file),
            position: 0,
            len,
            next: 0,
            members: 0,
            skipped: 0,
            done: false,
        })
    }

    /// How many members so far were no plain files.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// The next plain file, `None` at the end. After an error there is nothing more.
    ///
    /// # Errors
    /// The first header that cannot be read, or that does not fit the file.
    pub fn next_member(&mut self) -> Result<Option<Member>, TarError> {
        if self.done {
            return Ok(None);
        }
        let found = self.advance();
        self.done = !matches!(found, Ok(Some(_)));
        found
    }

    /// The bytes of a member, for example of the one that was just returned.
    ///
    /// # Errors
    /// If it is longer than `cap`, or cannot be read.
    pub fn body(&mut self, member: &Member, cap: u64) -> Result<Vec<u8>, TarError> {
        if member.len > cap {
            return Err(damaged(
                member.header,
                format!(
                    "the member has {} bytes, more than the cap {cap}",
                    member.len
                ),
            ));
        }
        self.read(member.offset, member.len)
    }

    fn advance(&mut self) -> Result<Option<Member>, TarError> {
        let mut extension = Extension::default();
        loop {
            let at = self.next;
            // Some writers leave out the zero blocks at the end.
            if at == self.len && at > 0 {
                return Ok(None);
            }
            let Some(header) = self.header(at)? else {
                return Ok(None);
            };
            let size = header.size(at)?;
            self.members += 1;
            if self.members > MAX_MEMBERS {
                return Err(damaged(at, format!("more than {MAX_MEMBERS} members")));
            }
            let kind = header.kind();
            let plain = matches!(kind, b'0' | 0 | b'7');
            // A size of pax replaces that of the header, and only of a file: the headers between
            // keep their own.
            let size = match extension.size {
                Some(size) if plain || kind == b'S' => size,
                _ => size,
            };
            let offset = at + BLOCK;
            // Links, devices, folders and pipes have no body, whatever their size says.
            let stored = if matches!(kind, b'1'..=b'6') { 0 } else { size };
            let end = offset.checked_add(stored).filter(|end| *end <= self.len);
            let Some(end) = end else {
                return Err(damaged(
                    at,
                    format!(
                        "a member of {stored} bytes, but the file ends at byte {}",
                        self.len
                    ),
                ));
            };
            // The padding of the last member may be missing.
            self.next = end.next_multiple_of(BLOCK).min(self.len);
            match kind {
                b'L' => {
                    let mut name = self.small(at, offset, stored, MAX_NAME_BYTES, "name")?;
                    cut_at_zero(&mut name);
                    extension.name = Some(name);
                }
                b'x' => {
                    let body = self.small(at, offset, stored, MAX_PAX_BYTES, "pax header")?;
                    extension
                        .read_pax(&body)
                        .map_err(|reason| damaged(at, reason))?;
                }
                // What a global header says (`comment`) concerns no member's place; a long link
                // name, only a link.
                b'g' | b'K' => {}
                _ if !plain || extension.sparse => {
                    self.skipped += 1;
                    if kind == b'S' && header.is_extended() {
                        self.skip_sparse_map(at, offset, stored)?;
                    }
                    extension = Extension::default();
                }
                _ => {
                    let name = extension.name.take().unwrap_or_else(|| header.name());
                    extension = Extension::default();
                    if name.is_empty() {
                        return Err(damaged(at, "a member without a name".to_owned()));
                    }
                    // Before ustar a folder was a file whose name ends so.
                    if name.ends_with(b"/") {
                        self.skipped += 1;
                        continue;
                    }
                    return Ok(Some(Member {
                        name: String::from_utf8_lossy(&name).into_owned(),
                        header: at,
                        offset,
                        len: size,
                    }));
                }
            }
        }
    }

    /// The header at `at`; `None` for the two zero blocks at the end.
    fn header(&mut self, at: u64) -> Result<Option<Header>, TarError> {
        let block = self.block(at)?;
        if !is_zero(&block) {
            return Header::new(block, at).map(Some);
        }
        // One zero block alone would hide everything behind it.
        let second = at + BLOCK;
        if second < self.len && !is_zero(&self.block(second)?) {
            return Err(damaged(at, "zeros where a header should be".to_owned()));
        }
        Ok(None)
    }

    fn block(&mut self, at: u64) -> Result<[u8; BLOCK as usize], TarError> {
        let mut block = [0; BLOCK as usize];
        self.seek(at)?;
        if self.len - at < BLOCK {
            let io = |source| TarError::Io { offset: at, source };
            let reason = match compression(at, self.reader.fill_buf().map_err(io)?) {
                Some(reason) => reason.to_owned(),
                None => format!("the file ends within a header, at byte {}", self.len),
            };
            return Err(damaged(at, reason));
        }
        self.fill(at, &mut block)?;
        Ok(block)
    }

    /// The body of a header that describes another.
    fn small(
        &mut self,
        at: u64,
        offset: u64,
        len: u64,
        cap: u64,
        what: &str,
    ) -> Result<Vec<u8>, TarError> {
        if len > cap {
            return Err(damaged(
                at,
                format!("a {what} of {len} bytes, more than the cap {cap}"),
            ));
        }
        self.read(offset, len)
    }

    /// An old GNU sparse file keeps further blocks of its map between header and body.
    fn skip_sparse_map(&mut self, at: u64, offset: u64, stored: u64) -> Result<(), TarError> {
        let mut body = offset;
        loop {
            let block = self.block(body)?;
            body += BLOCK;
            if block.get(504).is_none_or(|more| *more == 0) {
                break;
            }
            if body >= self.len {
                return Err(damaged(at, "a sparse map without an end".to_owned()));
            }
        }
        let end = body.checked_add(stored).filter(|end| *end <= self.len);
        let end = end.ok_or_else(|| damaged(at, "a sparse file beyond the end".to_owned()))?;
        self.next = end.next_multiple_of(BLOCK).min(self.len);
        Ok(())
    }

    /// Bytes that were checked to be in the file, and against a cap.
    fn read(&mut self, offset: u64, len: u64) -> Result<Vec<u8>, TarError> {
        let mut bytes = vec![0; len as usize];
        self.seek(offset)?;
        self.fill(offset, &mut bytes)?;
        Ok(bytes)
    }

    /// Moves within the buffer where that is possible: neighbours of small members cost no call.
    fn seek(&mut self, to: u64) -> Result<(), TarError> {
        let io = |source| TarError::Io { offset: to, source };
        match i64::try_from(i128::from(to) - i128::from(self.position)) {
            Ok(0) => {}
            Ok(by) => self.reader.seek_relative(by).map_err(io)?,
            Err(_) => self
                .reader
                .seek(SeekFrom::Start(to))
                .map(|_| ())
                .map_err(io)?,
        }
        self.position = to;
        Ok(())
    }

    fn fill(&mut self, at: u64, bytes: &mut [u8]) -> Result<(), TarError> {
        self.reader
            .read_exact(bytes)
            .map_err(|source| TarError::Io { offset: at, source })?;
        self.position += bytes.len() as u64;
        Ok(())
    }
}

/// One header block whose checksum is right.
struct Header([u8; BLOCK as usize]);

impl Header {
    fn new(block: [u8; BLOCK as usize], at: u64) -> Result<Self, TarError> {
        let header = Self(block);
        let stated = number(header.field(148, 8));
        // The checksum counts itself as spaces. Old writers summed signed bytes.
        let spaces = 8 * i64::from(b' ');
        let rest = || {
            block
                .iter()
                .enumerate()
                .filter(|(at, _)| !(148..156).contains(at))
        };
        let unsigned = spaces + rest().map(|(_, byte)| i64::from(*byte)).sum::<i64>();
        let signed = spaces + rest().map(|(_, byte)| i64::from(*byte as i8)).sum::<i64>();
        let fits = stated
            .and_then(|stated| i64::try_from(stated).ok())
            .is_some_and(|stated| stated == unsigned || stated == signed);
        if fits {
            return Ok(header);
        }
        let reason = compression(at, &block).unwrap_or(match at {
            0 => "no tar header (its checksum does not fit)",
            _ => "the checksum of the header does not fit",
        });
        Err(damaged(at, reason.to_owned()))
    }

    fn field(&self, start: usize, len: usize) -> &[u8] {
        self.0.get(start..start + len).unwrap_or_default()
    }

    fn kind(&self) -> u8 {
        self.field(156, 1).first().copied().unwrap_or_default()
    }

    /// Whether a sparse map goes on in the next block.
    fn is_extended(&self) -> bool {
        self.field(482, 1) != [0]
    }

    fn size(&self, at: u64) -> Result<u64, TarError> {
        number(self.field(124, 12))
            .ok_or_else(|| damaged(at, "the size of the member is no number".to_owned()))
    }

    fn name(&self) -> Vec<u8> {
        let mut name = self.field(0, 100).to_vec();
        cut_at_zero(&mut name);
        // GNU keeps other things where POSIX keeps the first part of a long name.
        if self.field(257, 6) == b"ustar\0" {
            let mut prefix = self.field(345, 155).to_vec();
            cut_at_zero(&mut prefix);
            if !prefix.is_empty() {
                prefix.push(b'/');
                prefix.append(&mut name);
                return prefix;
            }
        }
        name
    }
}

impl Extension {
    /// Records of the form `LENGTH KEY=VALUE\n`, where the length counts the whole record.
    fn read_pax(&mut self, mut body: &[u8]) -> Result<(), String> {
        while body.first().is_some_and(|byte| *byte != 0) {
            let space = body.iter().position(|byte| *byte == b' ');
            let digits = space
                .and_then(|space| body.get(..space))
                .unwrap_or_default();
            let len = std::str::from_utf8(digits)
                .ok()
                .and_then(|text| text.parse::<usize>().ok());
            let record = len.and_then(|len| body.get(digits.len() + 1..len)?.strip_suffix(b"\n"));
            let equals = record.and_then(|record| record.iter().position(|byte| *byte == b'='));
            let (Some(len), Some(record), Some(equals)) = (len, record, equals) else {
                return Err("a pax header that cannot be read".to_owned());
            };
            let (key, value) = record.split_at(equals);
            let value = value.get(1..).unwrap_or_default();
            match key {
                b"path" if value.len() as u64 > MAX_NAME_BYTES || value.contains(&0) => {
                    return Err("a pax path that is no name".to_owned());
                }
                b"path" => self.name = Some(value.to_vec()),
                b"size" => {
                    let text = std::str::from_utf8(value).ok();
                    let size = text.and_then(|text| text.parse().ok());
                    self.size = Some(size.ok_or("a pax size that is no number")?);
                }
                _ => self.sparse |= key.starts_with(b"GNU.sparse."),
            }
            body = body.get(len..).unwrap_or_default();
        }
        Ok(())
    }
}

/// An octal number between blanks, or, with the first bit set, one to the base 256. `None` for
/// anything else, negative ones included.
fn number(field: &[u8]) -> Option<u64> {
    let (first, rest) = field.split_first()?;
    if *first == 0x80 {
        return rest.iter().try_fold(0u64, |value, byte| {
            value.checked_mul(256)?.checked_add(u64::from(*byte))
        });
    }
    let text = field.split(|byte| *byte == 0).next().unwrap_or_default();
    text.trim_ascii().iter().try_fold(0u64, |value, byte| {
        let digit = (b'0'..=b'7')
            .contains(byte)
            .then(|| u64::from(byte - b'0'))?;
        value.checked_mul(8)?.checked_add(digit)
    })
}

/// What to say of a file that starts as compressed ones do.
fn compression(at: u64, head: &[u8]) -> Option<&'static str> {
    match head {
        _ if at > 0 => None,
        [0x1F, 0x8B, ..] => Some("the archive is compressed (gzip); decompress it first"),
        [0x28, 0xB5, 0x2F, 0xFD, ..] => {
            Some("the archive is compressed (zstd); decompress it first")
        }
        [b'B', b'Z', b'h', ..] => Some("the archive is compressed (bzip2); decompress it first"),
        [0xFD, b'7', b'z', b'X', b'Z', ..] => {
            Some("the archive is compressed (xz); decompress it first")
        }
        _ => None,
    }
}

fn cut_at_zero(name: &mut Vec<u8>) {
    if let Some(end) = name.iter().position(|byte| *byte == 0) {
        name.truncate(end);
    }
}

fn is_zero(block: &[u8]) -> bool {
    block.iter().all(|byte| *byte == 0)
}

fn damaged(offset: u64, reason: String) -> TarError {
    TarError::Damaged { offset, reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(b"   644 \0"), Some(0o644));
        assert_eq!(number(b"\0\0\0\0"), Some(0));
        assert_eq!(number(&[0x80, 0, 0, 1, 0]), Some(256));
        for bad in [
            &b"0000648\0"[..],
            b"-1\0",
            b"0x12",
            &[0xFF; 12],
            &[0x81, 0, 0],
            b"",
        ] {
            assert_eq!(number(bad), None, "{bad:?}");
        }
        let huge = [0x80, 1, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(number(&huge), None, "more than 64 bits");
    }
}
