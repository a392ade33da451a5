//! What is known of every row, as records of one size on disk: the score and what it takes to find
//! duplicates, and what was decided. Nothing here grows in memory with the number of rows.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;

/// Rows that are in memory at once.
const CHUNK: usize = 16_384;

/// Why a row is not kept, or that it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Verdict {
    Keep,
    /// The row itself cannot be used; reading it again says why.
    Row,
    NoText,
    NoPicture,
    /// The file cannot be read.
    PictureUnread,
    /// The file is no picture, or a damaged one.
    PictureDamaged,
    NoScore,
    /// A bound does not hold; the value is what was measured.
    Bound,
    /// A column that a bound speaks of has no number.
    NoNumber,
    /// The value is the row that is kept instead.
    Duplicate,
    /// Others of the group are better.
    Top,
    /// Others of the whole set are better.
    Best,
}

impl Verdict {
    const ALL: [Self; 12] = [
        Self::Keep,
        Self::Row,
        Self::NoText,
        Self::NoPicture,
        Self::PictureUnread,
        Self::PictureDamaged,
        Self::NoScore,
        Self::Bound,
        Self::NoNumber,
        Self::Duplicate,
        Self::Top,
        Self::Best,
    ];
}

/// What was decided of a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Decision {
    pub(super) verdict: Verdict,
    /// The rule that decided, by its position.
    pub(super) rule: u8,
    pub(super) value: f64,
}

impl Decision {
    pub(super) const KEEP: Self = Self {
        verdict: Verdict::Keep,
        rule: 0,
        value: 0.0,
    };

    pub(super) fn drop(verdict: Verdict, rule: usize, value: f64) -> Self {
        Self {
            verdict,
            rule: u8::try_from(rule).unwrap_or(u8::MAX),
            value,
        }
    }
}

/// A blake3 digest, its first half.
pub(super) type Hash = u128;

/// The hash of some bytes.
pub(super) fn hash(bytes: &[u8]) -> Hash {
    let digest = blake3::hash(bytes);
    let head = digest.as_bytes().first_chunk::<16>();
    head.map_or(0, |head| Hash::from_le_bytes(*head))
}

/// What is known of a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Fact {
    /// Not a number where there is none.
    pub(super) score: f32,
    /// What the row alone decides.
    pub(super) decision: Decision,
    pub(super) text: Hash,
    pub(super) picture: Hash,
    /// Of the column that `top` speaks of.
    pub(super) group: Hash,
}

/// A record of one size.
pub(super) trait Fixed: Sized + Copy {
    const BYTES: usize;
    fn put(&self, bytes: &mut Vec<u8>);
    /// From [`Self::BYTES`] bytes; `None` when they are no record.
    fn get(bytes: &[u8]) -> Option<Self>;
}

impl Fixed for Decision {
    const BYTES: usize = 16;

    fn put(&self, bytes: &mut Vec<u8>) {
        bytes.extend([self.verdict as u8, self.rule, 0, 0, 0, 0, 0, 0]);
        bytes.extend(self.value.to_le_bytes());
    }

    fn get(bytes: &[u8]) -> Option<Self> {
        let [verdict, rule, ..] = bytes else {
            return None;
        };
        Some(Self {
            verdict: Verdict::ALL.get(usize::from(*verdict)).copied()?,
            rule: *rule,
            value: f64::from_le_bytes(part(bytes, 8)?),
        })
    }
}

impl Fixed for Fact {
    const BYTES: usize = 72;

    fn put(&self, bytes: &mut Vec<u8>) {
        self.decision.put(bytes);
        bytes.extend(self.score.to_le_bytes());
        bytes.extend([0; 4]);
        for hash in [self.text, self.picture, self.group] {
            bytes.extend(hash.to_le_bytes());
        }
    }

    fn get(bytes: &[u8]) -> Option<Self> {
        let hash = |at| Some(Hash::from_le_bytes(part(bytes, at)?));
        Some(Self {
            decision: Decision::get(bytes)?,
            score: f32::from_le_bytes(part(bytes, 16)?),
            text: hash(24)?,
            picture: hash(40)?,
            group: hash(56)?,
        })
    }
}

fn part<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk::<N>().copied()
}

/// A file of records.
pub(super) struct Records<T> {
    file: File,
    bytes: Vec<u8>,
    kind: std::marker::PhantomData<T>,
}

impl<T: Fixed> Records<T> {
    /// Opens a file, makes it where it is not there, and cuts it to `rows` records.
    pub(super) fn open(path: &Path, rows: u64) -> io::Result<Self> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        let bytes = rows.saturating_mul(T::BYTES as u64);
        if file.metadata()?.len() < bytes {
            let reason = format!("`{}` has fewer than {rows} records", path.display());
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        }
        file.set_len(bytes)?;
        file.seek(SeekFrom::End(0))?;
        Ok(Self {
            file,
            bytes: Vec::new(),
            kind: std::marker::PhantomData,
        })
    }

    /// Adds records at the end.
    pub(super) fn append(&mut self, records: &[T]) -> io::Result<()> {
        self.bytes.clear();
        for record in records {
            record.put(&mut self.bytes);
        }
        self.file.write_all(&self.bytes)
    }

    /// Forces what was appended to disk.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    pub(super) fn rows(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len() / T::BYTES as u64)
    }

    /// Goes to a record.
    pub(super) fn seek(&mut self, row: u64) -> io::Result<()> {
        let at = row.saturating_mul(T::BYTES as u64);
        self.file.seek(SeekFrom::Start(at)).map(drop)
    }

    /// The next records, at most `count`; none at the end.
    pub(super) fn read(&mut self, count: usize, records: &mut Vec<T>) -> io::Result<()> {
        self.bytes.clear();
        let bytes = (count * T::BYTES) as u64;
        (&mut self.file).take(bytes).read_to_end(&mut self.bytes)?;
        records.clear();
        for record in self.bytes.chunks_exact(T::BYTES) {
            let damaged = || io::Error::new(io::ErrorKind::InvalidData, "a record is damaged");
            records.push(T::get(record).ok_or_else(damaged)?);
        }
        Ok(())
    }
}

/// Goes through all rows; `each` may change what was decided of a row.
pub(super) fn sweep(
    facts: &mut Records<Fact>,
    decisions: &mut Records<Decision>,
    mut each: impl FnMut(u64, &Fact, &mut Decision),
) -> io::Result<()> {
    facts.seek(0)?;
    let (mut own, mut decided) = (Vec::new(), Vec::new());
    let mut row = 0;
    loop {
        facts.read(CHUNK, &mut own)?;
        if own.is_empty() {
            return Ok(());
        }
        decisions.seek(row)?;
        decisions.read(own.len(), &mut decided)?;
        let before = decided.clone();
        let start = row;
        for (fact, decision) in own.iter().zip(&mut decided) {
            each(row, fact, decision);
            row += 1;
        }
        if decided != before {
            decisions.seek(start)?;
            decisions.append(&decided)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("facts");
        let fact = |number: u32| Fact {
            score: number as f32 / 7.0,
            decision: Decision::drop(Verdict::Bound, 3, -1.5),
            text: hash(&number.to_le_bytes()),
            picture: 1 << 127,
            group: Hash::from(number),
        };
        let all: Vec<Fact> = (0..20).map(fact).collect();
        let mut records = Records::open(&path, 0).unwrap();
        records.append(&all).unwrap();
        drop(records);
        // What was written behind the last whole record is cut.
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(&[9; 5]).unwrap();
        let mut records: Records<Fact> = Records::open(&path, 15).unwrap();
        assert_eq!(records.rows().unwrap(), 15);
        records.append(&all[15..]).unwrap();
        records.seek(0).unwrap();
        let mut back = Vec::new();
        records.read(100, &mut back).unwrap();
        assert_eq!(back, all);
        assert!(Records::<Fact>::open(&path, 21).is_err());
        assert_eq!(Decision::get(&[99; 16]), None);
        for (number, verdict) in Verdict::ALL.into_iter().enumerate() {
            assert_eq!(verdict as usize, number);
        }
    }
}
