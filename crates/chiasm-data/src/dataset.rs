//! A data set in memory: pictures by reference, texts by value, splits as a type.
//!
//! Owns the types that every reader produces and every consumer takes. Pictures stay where they are
//! (path or bytes) until the loader decodes them.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::decode::MAX_FILE_BYTES;
use crate::error::DataError;

/// Which part of a benchmark a sample belongs to. A type and not a string, so that `val` and `test`
/// cannot be mixed up by a typo.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(into = "&'static str", try_from = "String")]
pub enum Split {
    /// Training.
    Train,
    /// Validation, for choices during training.
    Val,
    /// Test, for the final number.
    Test,
    /// VQA v2 `test-dev`.
    TestDev,
    /// VQA v2 `test-std`.
    TestStd,
    /// RefCOCO `testA` (people).
    TestA,
    /// RefCOCO `testB` (everything else).
    TestB,
}

impl Split {
    /// Every split, in the order in which tables list them.
    pub const ALL: [Self; 7] = [
        Self::Train,
        Self::Val,
        Self::Test,
        Self::TestDev,
        Self::TestStd,
        Self::TestA,
        Self::TestB,
    ];

    /// The written form, the same in configuration, files and HTTP.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Val => "val",
            Self::Test => "test",
            Self::TestDev => "test_dev",
            Self::TestStd => "test_std",
            Self::TestA => "test_a",
            Self::TestB => "test_b",
        }
    }

    /// The split of a key when nobody has assigned one, the same for ever and everywhere.
    ///
    /// `x` is the first eight bytes of blake3(key) as a big-endian fraction of 2^64: `x < 0.10` is
    /// test, `x < 0.15` is val, the rest (85 %) is train. Since each key decides for itself, adding
    /// pictures never moves one from test to training.
    pub fn by_hash(key: &str) -> Self {
        let digest = blake3::hash(key.as_bytes());
        let head = digest
            .as_bytes()
            .iter()
            .take(8)
            .fold(0u64, |head, byte| head << 8 | u64::from(*byte));
        let fraction = head as f64 / 2f64.powi(64);
        if fraction < 0.10 {
            Self::Test
        } else if fraction < 0.15 {
            Self::Val
        } else {
            Self::Train
        }
    }
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl From<Split> for &'static str {
    fn from(split: Split) -> Self {
        split.as_str()
    }
}

/// A split name that is none of [`Split::ALL`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a split; known are train, val, test, test_dev, test_std, test_a and test_b")]
pub struct UnknownSplit(pub String);

impl FromStr for Split {
    type Err = UnknownSplit;

    /// Case, `-`, `_` and spaces do not matter. Karpathy's `restval` counts as training, as in the
    /// papers that use his splits; `dev` and `validation` mean `val`, `training` means `train`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let plain: String = text
            .chars()
            .filter(|c| !matches!(c, '-' | '_' | ' '))
            .flat_map(char::to_lowercase)
            .collect();
        Ok(match plain.as_str() {
            "train" | "training" | "restval" => Self::Train,
            "val" | "valid" | "validation" | "dev" => Self::Val,
            "test" | "testing" => Self::Test,
            "testdev" => Self::TestDev,
            "teststd" => Self::TestStd,
            "testa" => Self::TestA,
            "testb" => Self::TestB,
            _ => return Err(UnknownSplit(text.to_owned())),
        })
    }
}

impl TryFrom<String> for Split {
    type Error = UnknownSplit;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

/// Where the bytes of a picture are.
#[derive(Clone, Debug)]
pub enum ImageSource {
    /// A file.
    Path(PathBuf),
    /// Bytes compiled into the program.
    Static(&'static [u8]),
    /// Bytes held in memory, for example a Parquet cell.
    Bytes(Arc<[u8]>),
}

impl ImageSource {
    /// The encoded bytes. A file above [`MAX_FILE_BYTES`] is refused before it is read.
    pub fn read(&self) -> Result<Cow<'_, [u8]>, DataError> {
        match self {
            Self::Static(bytes) => Ok(Cow::Borrowed(bytes)),
            Self::Bytes(bytes) => Ok(Cow::Borrowed(bytes)),
            Self::Path(path) => read_capped(path, MAX_FILE_BYTES).map(Cow::Owned),
        }
    }

    /// The path, when the picture is a file.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Path(path) => Some(path),
            Self::Static(_) | Self::Bytes(_) => None,
        }
    }
}

/// What the number of a [`Place`] counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Lines of a text file, blank ones included, as editors count them.
    Line,
    /// Records of a file that has no lines to speak of: Parquet, a JSON array.
    Row,
    /// Pictures of a folder or of a list of pictures.
    Image,
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Line => "line",
            Self::Row => "row",
            Self::Image => "image",
        })
    }
}

/// A place in a source, written `line 17`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// What is counted.
    pub unit: Unit,
    /// Which one, from 1.
    pub number: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.unit, self.number)
    }
}

/// Where a sample was named, for messages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// The file or folder that named the sample; `None` for built-in data.
    pub file: Option<PathBuf>,
    /// Where in it.
    pub place: Option<Place>,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.file, self.place) {
            (Some(file), Some(place)) => write!(f, "{}, {place}", file.display()),
            (Some(file), None) => write!(f, "{}", file.display()),
            (None, _) => f.write_str("built in"),
        }
    }
}

/// One picture with all its texts.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Unique within the data set.
    pub id: String,
    /// The picture.
    pub image: ImageSource,
    /// Its texts, at least one.
    pub texts: Vec<String>,
    /// Its split.
    pub split: Split,
    /// Where it was named.
    pub origin: Origin,
}

/// How many pictures and texts a split has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SplitCount {
    /// Pictures.
    pub images: usize,
    /// Texts over all pictures.
    pub texts: usize,
}

/// Named samples in a fixed order.
#[derive(Clone, Debug, Default)]
pub struct Dataset {
    /// Short name for reports, for example `emoji`.
    pub name: String,
    /// The samples; their position is their index everywhere.
    pub samples: Vec<Sample>,
}

impl Dataset {
    /// Number of pictures.
    pub fn len(&self) -> usize {
        self.samples.len()
    }

    /// True when there are no pictures.
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }

    /// The samples of one split, in the same order.
    pub fn subset(&self, split: Split) -> Self {
        Self {
            name: self.name.clone(),
            samples: self
                .samples
                .iter()
                .filter(|sample| sample.split == split)
                .cloned()
                .collect(),
        }
    }

    /// Every `(sample, text)` index pair, sample by sample.
    pub fn pairs(&self) -> Vec<(usize, usize)> {
        self.samples
            .iter()
            .enumerate()
            .flat_map(|(sample, entry)| (0..entry.texts.len()).map(move |text| (sample, text)))
            .collect()
    }

    /// Pictures and texts per split; splits without samples are left out.
    pub fn counts(&self) -> BTreeMap<Split, SplitCount> {
        let mut counts: BTreeMap<Split, SplitCount> = BTreeMap::new();
        for sample in &self.samples {
            let count = counts.entry(sample.split).or_default();
            count.images += 1;
            count.texts += sample.texts.len();
        }
        counts
    }

    /// A blake3 digest (hexadecimal) over ids, texts, splits and pictures, in order.
    ///
    /// A picture in memory enters with its bytes. A picture on disk enters with its file name and
    /// size, not its bytes: a fingerprint must not take minutes. A file replaced by another of equal
    /// length is therefore not noticed.
    pub fn fingerprint(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"chiasm.dataset.v1");
        let mut field = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        for sample in &self.samples {
            field(sample.id.as_bytes());
            field(sample.split.as_str().as_bytes());
            field(&(sample.texts.len() as u64).to_le_bytes());
            for text in &sample.texts {
                field(text.as_bytes());
            }
            match &sample.image {
                ImageSource::Static(bytes) => field(bytes),
                ImageSource::Bytes(bytes) => field(bytes),
                // The file name and not the whole path: the same data in another folder is the
                // same data. The id already tells apart equal names in different folders.
                ImageSource::Path(path) => {
                    field(path.file_name().unwrap_or_default().as_encoded_bytes());
                    let size = std::fs::metadata(path).map_or(u64::MAX, |meta| meta.len());
                    field(&size.to_le_bytes());
                }
            }
        }
        hasher.finalize().to_hex().to_string()
    }

    /// The sample at `index`, or an error that says how many there are.
    pub fn sample(&self, index: usize) -> Result<&Sample, DataError> {
        self.samples
            .get(index)
            .ok_or_else(|| DataError::OutOfRange {
                name: self.name.clone(),
                index,
                len: self.len(),
            })
    }
}

/// Reads a file of at most `cap` bytes.
pub(crate) fn read_capped(path: &Path, cap: u64) -> Result<Vec<u8>, DataError> {
    let io = |source| DataError::io(path, source);
    let file = std::fs::File::open(path).map_err(io)?;
    let size = file.metadata().map_err(io)?.len();
    if size > cap {
        return Err(DataError::TooLarge {
            path: path.to_owned(),
            bytes: size,
            cap,
        });
    }
    // The length can lie (a pipe, a file that grows): the read itself is capped as well.
    let mut bytes = Vec::with_capacity(size as usize);
    file.take(cap + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > cap {
        return Err(DataError::TooLarge {
            path: path.to_owned(),
            bytes: bytes.len() as u64,
            cap,
        });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn split_names_round_trip() {
        for split in Split::ALL {
            assert_eq!(split.to_string().parse::<Split>(), Ok(split));
            let json = serde_json::to_string(&split).unwrap();
            assert_eq!(serde_json::from_str::<Split>(&json).unwrap(), split);
        }
        assert_eq!("restval".parse::<Split>(), Ok(Split::Train));
        assert_eq!("testA".parse::<Split>(), Ok(Split::TestA));
        assert!(
            "trian"
                .parse::<Split>()
                .unwrap_err()
                .to_string()
                .contains("trian")
        );
    }

    fn sample(id: &str, split: Split, texts: &[&str]) -> Sample {
        Sample {
            id: id.to_owned(),
            image: ImageSource::Static(b"x"),
            texts: texts.iter().map(|text| (*text).to_owned()).collect(),
            split,
            origin: Origin::default(),
        }
    }

    #[test]
    fn pairs_counts_and_fingerprint() {
        let mut set = Dataset {
            name: "t".into(),
            samples: vec![
                sample("a", Split::Train, &["one", "two"]),
                sample("b", Split::Test, &["three"]),
            ],
        };
        assert_eq!(set.pairs(), [(0, 0), (0, 1), (1, 0)]);
        assert_eq!(
            set.counts()[&Split::Train],
            SplitCount {
                images: 1,
                texts: 2
            }
        );
        assert_eq!(set.subset(Split::Test).samples[0].id, "b");
        let before = set.fingerprint();
        assert_eq!(before, set.clone().fingerprint());
        set.samples[0].texts = vec!["onetwo".into()];
        assert_ne!(before, set.fingerprint());
        assert!(
            set.sample(2)
                .unwrap_err()
                .to_string()
                .contains("has 2 samples")
        );
    }

    #[test]
    fn missing_image_names_its_path() {
        let error = ImageSource::Path("no/such/picture.png".into())
            .read()
            .unwrap_err();
        assert!(error.to_string().contains("picture.png"), "{error}");
        assert!(error.hint().is_some());
    }
}
