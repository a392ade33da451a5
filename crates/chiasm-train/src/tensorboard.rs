//! Curves for TensorBoard: scalar values in an event file, the format every viewer of the field reads.
//!
//! An event file is a sequence of TFRecords: length (u64), its checksum, payload, its checksum, all little-endian.
//! A checksum is CRC-32C, rotated and offset ("masked") so that checksums of data holding checksums stay sound. A payload is
//! one `Event` message of TensorFlow's `event.proto`; its five fields used here are encoded by hand, which spares a protobuf
//! compiler:
//!
//! | message | field | wire type |
//! |---|---|---|
//! | `Event` | `wall_time` = 1, `step` = 2, `file_version` = 3, `summary` = 5 | double, varint, bytes, message |
//! | `Summary` | `value` = 1 | message |
//! | `Summary.Value` | `tag` = 1, `simple_value` = 2 | bytes, float |

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// First event of every file; viewers refuse files without it.
const FILE_VERSION: &str = "brain.Event:2";

/// Added to a rotated CRC-32C, from TensorFlow's `lib/hash/crc32c.h`.
const MASK_DELTA: u32 = 0xa282_ead8;

/// Protobuf wire types.
const VARINT: u64 = 0;
const FIXED_64: u64 = 1;
const LENGTH_DELIMITED: u64 = 2;
const FIXED_32: u64 = 5;

/// Appends scalars to one event file.
///
/// A run that is resumed creates a new writer on the same folder: it starts a second file, and viewers merge all files of a
/// folder by step. Events reach the disk on [`flush`](Self::flush) and on drop; a killed process loses what was not
/// flushed, and a viewer skips a last record that was cut.
#[derive(Debug)]
pub struct EventWriter {
    file: BufWriter<File>,
    path: PathBuf,
}

impl EventWriter {
    /// Starts a new event file in `dir`, which is created when missing. `wall_time` is in seconds since 1970.
    ///
    /// The file is named `events.out.tfevents.<seconds>.<host>`, with a number behind it when a file of that name exists.
    ///
    /// # Errors
    /// What the file system says.
    pub fn create(dir: &Path, wall_time: f64) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        // A cast of a float saturates, so a wild clock cannot make a strange name.
        let stem = format!("events.out.tfevents.{:010}.{}", wall_time as u64, host());
        let (path, file) = create_new(dir, &stem)?;
        let mut writer = Self {
            file: BufWriter::new(file),
            path,
        };
        let mut event = event(wall_time, 0);
        put_bytes(&mut event, 3, FILE_VERSION.as_bytes());
        write_record(&mut writer.file, &event)?;
        writer.flush()?;
        Ok(writer)
    }

    /// The file written to.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Adds one point to the curve `tag` (`loss/contrastive`: a slash groups curves in viewers). `wall_time` is in seconds
    /// since 1970.
    ///
    /// # Errors
    /// What the file system says.
    pub fn scalar(&mut self, step: i64, wall_time: f64, tag: &str, value: f32) -> io::Result<()> {
        let mut point = Vec::with_capacity(tag.len() + 8);
        put_bytes(&mut point, 1, tag.as_bytes());
        put_key(&mut point, 2, FIXED_32);
        point.extend(value.to_le_bytes());
        let mut summary = Vec::with_capacity(point.len() + 4);
        put_bytes(&mut summary, 1, &point);
        let mut event = event(wall_time, step);
        put_bytes(&mut event, 5, &summary);
        write_record(&mut self.file, &event)
    }

    /// Hands everything written so far to the operating system, so that a viewer sees it.
    ///
    /// # Errors
    /// What the file system says.
    pub fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// A file that did not exist: two runs started within a second must not share one.
fn create_new(dir: &Path, stem: &str) -> io::Result<(PathBuf, File)> {
    let mut attempt = 0_u32;
    loop {
        let name = if attempt == 0 {
            stem.to_owned()
        } else {
            format!("{stem}.{attempt}")
        };
        let path = dir.join(name);
        match File::options().write(true).create_new(true).open(&path) {
            Ok(file) => return Ok((path, file)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && attempt < 1000 => {
                attempt += 1;
            }
            Err(error) => return Err(error),
        }
    }
}

/// The machine's name where the environment tells it, fit for a file name.
fn host() -> String {
    let name = std::env::var("HOSTNAME").unwrap_or_default();
    let name: String = name
        .chars()
        .filter(|letter| letter.is_ascii_alphanumeric() || "-_".contains(*letter))
        .collect();
    if name.is_empty() {
        "chiasm".to_owned()
    } else {
        name
    }
}

/// An `Event` with its time and step.
fn event(wall_time: f64, step: i64) -> Vec<u8> {
    let mut event = Vec::with_capacity(64);
    put_key(&mut event, 1, FIXED_64);
    event.extend(wall_time.to_le_bytes());
    put_key(&mut event, 2, VARINT);
    // Protobuf's int64 is the two's complement as an unsigned number.
    put_varint(&mut event, step.cast_unsigned());
    event
}

fn put_key(message: &mut Vec<u8>, field: u64, wire_type: u64) {
    put_varint(message, field << 3 | wire_type);
}

fn put_bytes(message: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    put_key(message, field, LENGTH_DELIMITED);
    put_varint(message, bytes.len() as u64);
    message.extend_from_slice(bytes);
}

fn put_varint(message: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        message.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    message.push(value as u8);
}

fn write_record(file: &mut impl Write, payload: &[u8]) -> io::Result<()> {
    let length = (payload.len() as u64).to_le_bytes();
    file.write_all(&length)?;
    file.write_all(&masked_crc(&length).to_le_bytes())?;
    file.write_all(payload)?;
    file.write_all(&masked_crc(payload).to_le_bytes())
}

fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
        .rotate_right(15)
        .wrapping_add(MASK_DELTA)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder of this test alone, removed at the end.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir()
                .join(format!("chiasm-tensorboard-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    /// Payloads of a file, both checksums of every record verified.
    fn records(mut bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut payloads = Vec::new();
        while !bytes.is_empty() {
            let (head, rest) = bytes.split_at(12);
            let length = u64::from_le_bytes(head[..8].try_into().unwrap()) as usize;
            assert_eq!(head[8..], masked_crc(&head[..8]).to_le_bytes());
            let (payload, rest) = rest.split_at(length);
            let (checksum, rest) = rest.split_at(4);
            assert_eq!(checksum, masked_crc(payload).to_le_bytes());
            payloads.push(payload.to_vec());
            bytes = rest;
        }
        payloads
    }

    #[test]
    fn checksums_are_masked_crc32c() {
        // The check value of CRC-32C for "123456789" is 0xe3069283.
        assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
        let by_hand = 0xe306_9283_u32.rotate_right(15).wrapping_add(MASK_DELTA);
        assert_eq!(masked_crc(b"123456789"), by_hand);
    }

    #[test]
    fn a_file_starts_with_its_version_and_holds_scalars() {
        let folder = Folder::new("scalars");
        let mut writer = EventWriter::create(&folder.0.join("deep"), 1.5).unwrap();
        writer.scalar(300, 2.0, "loss", 0.25).unwrap();
        writer.flush().unwrap();
        let payloads = records(&fs::read(writer.path()).unwrap());
        let mut first = vec![0x09];
        first.extend(1.5_f64.to_le_bytes());
        first.extend([0x10, 0x00, 0x1a, 13]);
        first.extend(b"brain.Event:2");
        let mut second = vec![0x09];
        second.extend(2.0_f64.to_le_bytes());
        // Step 300 is 0xac 0x02; the summary of 13 bytes holds one value of 11: tag, then a float.
        second.extend([0x10, 0xac, 0x02, 0x2a, 13, 0x0a, 11, 0x0a, 4]);
        second.extend(b"loss");
        second.push(0x15);
        second.extend(0.25_f32.to_le_bytes());
        assert_eq!(payloads, [first, second]);
    }

    #[test]
    fn opening_again_appends_a_file() {
        let folder = Folder::new("again");
        let first = EventWriter::create(&folder.0, 7.0).unwrap();
        let second = EventWriter::create(&folder.0, 7.0).unwrap();
        assert_ne!(first.path(), second.path());
        for entry in fs::read_dir(&folder.0).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            assert!(
                name.starts_with("events.out.tfevents.0000000007."),
                "{name}"
            );
        }
    }

    #[test]
    fn negative_steps_take_ten_bytes() {
        let mut bytes = Vec::new();
        put_varint(&mut bytes, (-1_i64).cast_unsigned());
        assert_eq!(
            bytes,
            [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]
        );
    }
}
