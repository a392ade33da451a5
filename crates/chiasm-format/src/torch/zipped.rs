//! Checkpoints that are zip files: `NAME/data.pkl`, `NAME/data/KEY` for each storage, `NAME/byteorder`.

use std::collections::HashMap;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::sync::Arc;

use zip::read::ZipReadOptions;
use zip::{CompressionMethod, ZipArchive};

use super::storage::{Place, check_expansion};
use super::{TorchFile, TorchKind, collect, damaged};
use crate::error::{FormatError, check_cap, shown};
use crate::pickle::{self, Limits};
use crate::source::ByteSource;

/// Most bytes that may be read to find the members, about 100,000 of them.
const MAX_DIRECTORY_BYTES: u64 = 8 << 20;
/// Most members.
const MAX_MEMBERS: u64 = 100_000;

/// A member and how it is stored.
struct Member {
    number: usize,
    packed: u64,
    len: u64,
    /// First byte, when it is stored as it is.
    plain: Option<u64>,
}

pub(super) fn open(source: Arc<ByteSource>, limits: &Limits) -> Result<TorchFile, FormatError> {
    let mut zip = ZipArchive::new(Budget {
        reader: BufReader::new(source.reader_at(0)),
        left: MAX_DIRECTORY_BYTES,
    })
    .map_err(|failed| error(&failed))?;
    check_cap("members of the zip file", zip.len() as u64, MAX_MEMBERS)?;
    if zip.has_duplicate_names() {
        return Err(damaged("zip file", "two members have one name"));
    }
    let mut members = HashMap::new();
    for number in 0..zip.len() {
        let (name, member) = member(&mut zip, number, source.len())?;
        members.insert(name, member);
    }
    let metadata = zip.metadata();

    let prefix = prefix(members.keys())?;
    let find = |name: &str| members.get(&format!("{prefix}{name}"));
    if find("constants.pkl").is_some() {
        return Err(FormatError::Unsupported {
            what: "the file is a TorchScript program, not a checkpoint".into(),
            hint: "load it with `torch.jit.load` and save its `state_dict()` with `torch.save`",
        });
    }
    let small = |name: &str| -> Result<Option<Vec<u8>>, FormatError> {
        let Some(member) = find(name) else {
            return Ok(None);
        };
        check_cap(format!("bytes of member `{name}`"), member.len, 64)?;
        let mut bytes = Vec::new();
        reader(&source, &metadata, member.number, |file| {
            file.take(65).read_to_end(&mut bytes)?;
            Ok(())
        })?;
        Ok(Some(bytes))
    };
    let big_endian = match small("byteorder")?.as_deref().map(<[u8]>::trim_ascii) {
        None | Some(b"little") => false,
        Some(b"big") => true,
        Some(_) => {
            return Err(damaged(
                "member `byteorder`",
                "it is neither little nor big",
            ));
        }
    };

    let Some(program) = find("data.pkl") else {
        return Err(damaged("zip file", "there is no `data.pkl`"));
    };
    if program.plain.is_none() {
        check_expansion("data.pkl", program.packed, program.len)?;
    }
    check_cap("bytes of the pickle", program.len, limits.bytes)?;
    let mut parsed = None;
    reader(&source, &metadata, program.number, |file| {
        parsed = Some(pickle::parse_from(
            BufReader::new(file),
            program.len,
            limits,
        ));
        Ok(())
    })?;
    let pickle = parsed.unwrap_or_else(|| Err(damaged("zip file", "`data.pkl` cannot be read")))?;

    let mut storages = HashMap::new();
    for value in pickle.references() {
        let Some(reference) = super::storage::Reference::of(value) else {
            return Err(damaged("data.pkl", "a reference that is no storage"));
        };
        if storages.contains_key(&*reference.key) {
            continue;
        }
        let name = format!("data/{}", reference.key);
        let Some(member) = find(&name) else {
            return Err(damaged(
                "zip file",
                format!("there is no `{}`", shown(&name)),
            ));
        };
        let place = match member.plain {
            Some(offset) => Place::Plain {
                offset,
                len: member.len,
            },
            None => {
                check_expansion(&shown(&name), member.packed, member.len)?;
                Place::Deflated {
                    member: member.number,
                    len: member.len,
                }
            }
        };
        storages.insert(reference.key.into_owned(), place);
    }
    collect::finish(TorchFile {
        kind: TorchKind::Zip,
        source,
        zip: Some(metadata),
        pickle,
        storages,
        big_endian,
        tensors: Vec::new(),
        extras: Vec::new(),
        unwrapped: None,
    })
}

/// What the zip reader said, in the words of this crate.
pub(super) fn error(error: &zip::result::ZipError) -> FormatError {
    damaged("zip file", error.to_string())
}

fn member<R: Read + Seek>(
    zip: &mut ZipArchive<R>,
    number: usize,
    file_len: u64,
) -> Result<(String, Member), FormatError> {
    let file = zip.by_index_raw(number).map_err(|failed| error(&failed))?;
    let name = file.name().map_err(|failed| error(&failed))?.into_owned();
    let place = || format!("zip member `{}`", shown(&name));
    if file.encrypted() {
        return Err(damaged(place(), "it is encrypted"));
    }
    let (packed, len) = (file.compressed_size(), file.size());
    let start = file.data_start().unwrap_or(u64::MAX);
    if start.checked_add(packed).is_none_or(|end| end > file_len) {
        return Err(damaged(place(), "it reaches beyond the end of the file"));
    }
    let plain = match file.compression() {
        CompressionMethod::Stored if packed == len => Some(start),
        CompressionMethod::Stored => {
            return Err(damaged(place(), "it is stored, but its two sizes differ"));
        }
        CompressionMethod::Deflated => None,
        other => {
            return Err(damaged(
                place(),
                format!("compression {other} is not supported"),
            ));
        }
    };
    let member = Member {
        number,
        packed,
        len,
        plain,
    };
    Ok((name, member))
}

/// What stands before `data.pkl`: a folder, named by whoever saved.
fn prefix<'a>(names: impl Iterator<Item = &'a String>) -> Result<String, FormatError> {
    let mut found: Vec<&str> = names
        .filter_map(|name| name.strip_suffix("data.pkl"))
        .filter(|prefix| prefix.is_empty() || prefix.find('/') == Some(prefix.len() - 1))
        .collect();
    found.sort_unstable();
    match *found {
        [prefix] => Ok(prefix.to_owned()),
        [] => Err(FormatError::Unsupported {
            what: "the zip file is no PyTorch checkpoint: it has no `data.pkl`".into(),
            hint: "unpack it and give one of the files in it",
        }),
        _ => Err(damaged("zip file", "there is more than one `data.pkl`")),
    }
}

/// Gives `use_file` a reader of one member.
fn reader(
    source: &Arc<ByteSource>,
    metadata: &zip::read::ZipArchiveMetadata,
    number: usize,
    use_file: impl FnOnce(&mut dyn Read) -> std::io::Result<()>,
) -> Result<(), FormatError> {
    let mut input = BufReader::new(source.reader_at(0));
    let entry = metadata.entry(number).map_err(|failed| error(&failed))?;
    let mut file = entry
        .with_reader(&mut input, ZipReadOptions::new().ignore_crc32(true))
        .map_err(|failed| error(&failed))?;
    use_file(&mut file).map_err(|failed| damaged("zip file", failed.to_string()))
}

/// Ends the search for members after so many bytes, whatever the directory promises.
struct Budget<R> {
    reader: R,
    left: u64,
}

impl<R: Read> Read for Budget<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.left == 0 && !buffer.is_empty() {
            return Err(std::io::Error::other("the directory is too large"));
        }
        let most = usize::try_from(self.left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let count = self
            .reader
            .read(buffer.get_mut(..most).unwrap_or_default())?;
        self.left -= count as u64;
        Ok(count)
    }
}

impl<R: Seek> Seek for Budget<R> {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        self.reader.seek(to)
    }
}
