//! Weight files of darknet, the framework of the YOLO detectors.
//!
//! A file is a header (three version numbers and how many pictures were seen in training) and the parameters of
//! all layers one after another, without names, shapes or a checksum. Which parameter is whose follows from the
//! network alone, so the number of values is all that tells whether a file is of a network.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use crate::error::FormatError;

/// Cap on a file: 1 GiB. The largest published one has a quarter of that.
const MAX_BYTES: u64 = 1 << 30;

/// Version numbers beyond this are something else, read as one.
const MAX_VERSION: u32 = 99;

/// Name of the format in messages.
const FORMAT: &str = "darknet weights";

/// What a weight file holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Darknet {
    /// Major and minor version, and revision, of what wrote the file.
    pub version: [u32; 3],
    /// Pictures seen in training.
    pub seen: u64,
    /// The parameters of all layers, all finite.
    pub values: Vec<f32>,
}

impl Darknet {
    /// Reads the bytes of a file.
    ///
    /// # Errors
    /// If they do not begin as such a file does, do not end on a whole number, or hold a value that is not finite.
    pub fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        let (version, rest) = bytes
            .split_first_chunk::<12>()
            .ok_or_else(|| damaged(0, "it ends within the header"))?;
        let [a, b, c, d, e, f, g, h, i, j, k, l] = *version;
        let version = [[a, b, c, d], [e, f, g, h], [i, j, k, l]].map(u32::from_le_bytes);
        if version.iter().any(|number| *number > MAX_VERSION) {
            let message = format!("version {version:?} is none; this is another kind of file");
            return Err(damaged(0, message));
        }
        let [major, minor, _] = version;
        // The counter grew to 64 bits with version 0.2.
        let wide = 10 * major + minor >= 2;
        let header = if wide { 20 } else { 16 };
        let cut = || damaged(12, "it ends within the header");
        let (seen, values) = if wide {
            let (seen, values) = rest.split_first_chunk::<8>().ok_or_else(cut)?;
            (u64::from_le_bytes(*seen), values)
        } else {
            let (seen, values) = rest.split_first_chunk::<4>().ok_or_else(cut)?;
            (u64::from(u32::from_le_bytes(*seen)), values)
        };
        let (words, left) = values.as_chunks::<4>();
        if !left.is_empty() {
            let message = format!("{} bytes after the last whole number", left.len());
            return Err(damaged(bytes.len() - left.len(), message));
        }
        let values: Vec<f32> = words.iter().map(|word| f32::from_le_bytes(*word)).collect();
        match values.iter().position(|value| !value.is_finite()) {
            Some(at) => Err(damaged(header + 4 * at, "a value that is not finite")),
            None => Ok(Self {
                version,
                seen,
                values,
            }),
        }
    }

    /// Reads a file, and returns the blake3 digest of its bytes (hexadecimal) beside it.
    ///
    /// # Errors
    /// As [`Self::parse`], with the path; a file beyond the cap; what the system says.
    pub fn read(path: &Path) -> Result<(Self, String), FormatError> {
        let io = |source| FormatError::Io {
            path: path.to_owned(),
            source,
        };
        let mut bytes = Vec::new();
        let file = File::open(path).map_err(io)?;
        file.take(MAX_BYTES + 1)
            .read_to_end(&mut bytes)
            .map_err(io)?;
        let parsed = match bytes.len() as u64 {
            len if len > MAX_BYTES => Err(FormatError::TooLarge {
                what: format!("bytes of {FORMAT}"),
                found: len,
                cap: MAX_BYTES,
            }),
            _ => Self::parse(&bytes),
        };
        let parsed = parsed.map_err(|source| FormatError::InFile {
            path: path.to_owned(),
            source: Box::new(source),
        })?;
        Ok((parsed, blake3::hash(&bytes).to_hex().to_string()))
    }
}

fn damaged(offset: usize, message: impl Into<String>) -> FormatError {
    FormatError::Damaged {
        format: FORMAT,
        place: format!("byte {offset}"),
        message: message.into(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file(version: [u32; 3], seen: &[u8], values: &[f32]) -> Vec<u8> {
        let mut bytes: Vec<u8> = version.iter().flat_map(|n| n.to_le_bytes()).collect();
        bytes.extend_from_slice(seen);
        bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        bytes
    }

    #[test]
    fn both_headers_are_read() {
        let values = [1.0, -2.5];
        let new = Darknet::parse(&file([0, 2, 5], &7u64.to_le_bytes(), &values)).unwrap();
        let old = Darknet::parse(&file([0, 1, 0], &7u32.to_le_bytes(), &values)).unwrap();
        assert_eq!((new.seen, new.values.as_slice()), (7, &values[..]));
        assert_eq!((old.seen, old.values), (new.seen, new.values));
    }

    #[test]
    fn what_is_no_such_file_is_refused() {
        let seen = 7u64.to_le_bytes();
        let whole = file([0, 2, 5], &seen, &[1.0, 2.0]);
        for (bytes, reason) in [
            (&b""[..], "header"),
            (&whole[..15], "header"),
            (&whole[..26], "2 bytes after"),
            (b"[net]\nbatch=1\nsubdivisions=1\n", "another kind of file"),
            (
                b"PK\x03\x04 a zip archive of PyTorch's",
                "another kind of file",
            ),
            (
                &file([0, 2, 5], &seen, &[1.0, f32::NAN]),
                "byte 24: a value",
            ),
        ] {
            let error = Darknet::parse(bytes).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = Darknet::read(Path::new("no/such.weights")).unwrap_err();
        assert!(error.to_string().contains("such.weights"), "{error}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200), plain: bool) {
            let mut bytes = bytes;
            if plain && bytes.len() >= 12 {
                bytes[..12].fill(0);
            }
            if let Ok(read) = Darknet::parse(&bytes) {
                prop_assert!(read.values.len() <= bytes.len() / 4);
                prop_assert!(read.values.iter().all(|value| value.is_finite()));
            }
        }
    }
}
