//! A data set in memory: pictures by reference, texts by value, splits as a type.
//!
//! Owns the types that every reader produces and every consumer takes. Pictures stay where they are
//! (path or bytes) until the loader decodes them.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use chiasm_format::source::read_exact_at;

use crate::decode::MAX_FILE_BYTES;
use crate::error::DataError;
use crate::relation::Relation;
use crate::resample::Window;
use crate::synthitr;

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
    /// Of [`hash_fraction`] what is below 0.10 is test, what is below 0.15 is val, the rest (85 %) is train. Since each
    /// key decides for itself, adding pictures never moves one from test to training.
    pub fn by_hash(key: &str) -> Self {
        let fraction = hash_fraction(key);
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

/// A file that is open, for reading parts of it from several threads at once.
#[derive(Debug)]
pub struct SharedFile {
    path: PathBuf,
    /// `None`: opened for each read.
    file: Option<std::fs::File>,
}

impl SharedFile {
    /// Opens a file for reading.
    ///
    /// # Errors
    /// What the system said, with the path.
    pub fn open(path: &Path) -> Result<Arc<Self>, DataError> {
        let file = std::fs::File::open(path).map_err(|source| DataError::io(path, source))?;
        Ok(Arc::new(Self {
            path: path.to_owned(),
            file: Some(file),
        }))
    }

    /// A file that is opened for each read, for sources of more files than a process may hold open.
    pub fn on_demand(path: &Path) -> Arc<Self> {
        Arc::new(Self {
            path: path.to_owned(),
            file: None,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `len` bytes from `offset` on, without moving any position that others read at.
    ///
    /// # Errors
    /// What the system said, with the path; a file that ends early is such an error. A length above
    /// [`MAX_FILE_BYTES`] is refused before memory is taken for it.
    pub fn read(&self, offset: u64, len: u64) -> Result<Vec<u8>, DataError> {
        let too_large = || DataError::TooLarge {
            path: self.path.clone(),
            bytes: len,
            cap: MAX_FILE_BYTES,
        };
        if len > MAX_FILE_BYTES {
            return Err(too_large());
        }
        let mut bytes = vec![0; usize::try_from(len).map_err(|_| too_large())?];
        let read = match &self.file {
            Some(file) => read_exact_at(file, &mut bytes, offset),
            None => std::fs::File::open(&self.path)
                .and_then(|file| read_exact_at(&file, &mut bytes, offset)),
        };
        read.map_err(|source| DataError::io(&self.path, source))?;
        Ok(bytes)
    }
}

/// Where the bytes of a picture are.
#[derive(Clone, Debug)]
pub enum ImageSource {
    /// A file.
    Path(PathBuf),
    /// Part of a file: a member of an archive, a cell of a table.
    Part {
        /// The archive or table.
        file: Arc<SharedFile>,
        /// First byte.
        offset: u64,
        /// Number of bytes.
        len: u64,
    },
    /// Bytes compiled into the program.
    Static(&'static [u8]),
    /// Bytes held in memory, for example a Parquet cell.
    Bytes(Arc<[u8]>),
    /// Drawn when it is read.
    Drawn(synthitr::Picture),
}

impl ImageSource {
    /// The encoded bytes. More than [`MAX_FILE_BYTES`] are refused before they are read.
    pub fn read(&self) -> Result<Cow<'_, [u8]>, DataError> {
        match self {
            Self::Static(bytes) => Ok(Cow::Borrowed(bytes)),
            Self::Bytes(bytes) => Ok(Cow::Borrowed(bytes)),
            Self::Path(path) => read_capped(path, MAX_FILE_BYTES).map(Cow::Owned),
            Self::Part { file, offset, len } => file.read(*offset, *len).map(Cow::Owned),
            Self::Drawn(picture) => Ok(Cow::Owned(picture.bmp())),
        }
    }

    /// The path, when the picture is a file of its own.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Path(path) => Some(path),
            Self::Part { .. } | Self::Static(_) | Self::Bytes(_) | Self::Drawn(_) => None,
        }
    }
}

/// What is to be seen in a sample.
#[derive(Clone, Debug)]
pub enum Visual {
    /// One picture.
    Image(ImageSource),
    /// Several pictures that a text speaks of together (NLVR2: left, right).
    Images(Vec<ImageSource>),
    /// One picture whose parts a text speaks of together (NLVR: three boxes in a row).
    Strip {
        /// The whole picture.
        image: ImageSource,
        /// Its parts, in order.
        parts: Vec<Rect>,
    },
    /// Moving pictures.
    Clip(Clip),
}

/// Where the frames of a clip are.
#[derive(Clone, Debug)]
pub enum Clip {
    /// One picture a frame, in order of time.
    Frames(Vec<ImageSource>),
    /// An animated GIF or WebP.
    Animation(ImageSource),
    /// A file that an external program decodes (MP4, WebM).
    Video(PathBuf),
}

impl From<ImageSource> for Visual {
    fn from(image: ImageSource) -> Self {
        Self::Image(image)
    }
}

impl Visual {
    /// What a file of this name holds: a video by its ending, else a picture.
    pub fn of_file(path: PathBuf) -> Self {
        if crate::video::is_video(&path) {
            Self::Clip(Clip::Video(path))
        } else {
            Self::Image(ImageSource::Path(path))
        }
    }

    /// Every source in it, in order.
    pub fn sources(&self) -> &[ImageSource] {
        match self {
            Self::Image(image) | Self::Strip { image, .. } | Self::Clip(Clip::Animation(image)) => {
                std::slice::from_ref(image)
            }
            Self::Images(images) | Self::Clip(Clip::Frames(images)) => images,
            Self::Clip(Clip::Video(_)) => &[],
        }
    }

    /// How many pictures a text speaks of together: several pictures, the parts of a strip, else 1.
    pub fn pictures(&self) -> usize {
        match self {
            Self::Images(images) => images.len(),
            Self::Strip { parts, .. } => parts.len(),
            Self::Image(_) | Self::Clip(_) => 1,
        }
    }

    /// The file it is, when it is one file of its own.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Clip(Clip::Video(path)) => Some(path),
            other => match other.sources() {
                [one] => one.path(),
                _ => None,
            },
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
    /// Bytes of an archive. The number is an offset, the first byte is 0.
    Byte,
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Line => "line",
            Self::Row => "row",
            Self::Image => "image",
            Self::Byte => "byte",
        })
    }
}

/// A place in a source, written `line 17`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// What is counted.
    pub unit: Unit,
    /// Which one, from 1; of bytes, from 0.
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

/// A box in a picture, as fractions of its width and height from the top left corner.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rect {
    /// Left, 0 to 1.
    pub x1: f32,
    /// Top, 0 to 1.
    pub y1: f32,
    /// Right, 0 to 1, not left of `x1`.
    pub x2: f32,
    /// Bottom, 0 to 1, not above `y1`.
    pub y2: f32,
}

impl Rect {
    /// From corners in pixels of a picture `width x height`; clipped to it. `None` when nothing of
    /// it lies in the picture, or when a value is not a number.
    pub fn from_pixels(corners: [f64; 4], width: f64, height: f64) -> Option<Self> {
        let [x1, y1, x2, y2] = corners;
        let at = |value: f64, whole: f64| (value / whole).clamp(0.0, 1.0) as f32;
        let rect = Self {
            x1: at(x1, width),
            y1: at(y1, height),
            x2: at(x2, width),
            y2: at(y2, height),
        };
        // Comparisons with NaN are false.
        (width > 0.0 && height > 0.0 && rect.x2 > rect.x1 && rect.y2 > rect.y1).then_some(rect)
    }

    /// The pixels of a picture `width x height` that the box touches: at least one, and none outside
    /// the picture. A hundredth of a pixel is no touch; fractions in 32 bits are not finer than that.
    pub fn pixels(self, width: usize, height: usize) -> Window {
        const TOUCH: f64 = 0.01;
        let side = |from: f32, to: f32, whole: usize| {
            // What is not a number becomes 0.
            let at = |fraction: f32| f64::from(fraction.clamp(0.0, 1.0)) * whole as f64;
            let start = (at(from) + TOUCH).floor() as usize;
            let end = (at(to) - TOUCH).ceil() as usize;
            let start = start.min(whole.saturating_sub(1));
            (start, end.saturating_sub(start).max(1))
        };
        let (x, width) = side(self.x1, self.x2, width);
        let (y, height) = side(self.y1, self.y2, height);
        Window {
            x,
            y,
            width,
            height,
        }
    }
}

/// A part of a text and where what it names is to be seen.
#[derive(Clone, Debug, PartialEq)]
pub struct Phrase {
    /// Which of the sample's texts it belongs to.
    pub text: usize,
    /// Its words.
    pub phrase: String,
    /// First byte of the phrase in its text, where the source says which of equal words are meant.
    pub start: Option<usize>,
    /// What kind of thing it names, for example `people`; empty when not said.
    pub kind: String,
    /// Where it is; none when it cannot be seen.
    pub boxes: Vec<Rect>,
    /// Its pixels, a mask for each box; none where the source knows boxes alone.
    pub masks: Vec<Mask>,
}

/// Which pixels of a picture show a thing. Clones share the pixels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mask {
    /// Width of the picture.
    pub width: usize,
    /// Height of the picture.
    pub height: usize,
    /// `height * width` pixels, row by row; true where the thing is. A byte each.
    pub bits: Arc<[bool]>,
}

/// A thing in a picture.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// Its category, for example `dog`.
    pub category: String,
    /// Where it is, when that is said.
    pub rect: Option<Rect>,
}

/// An answer to the sample's question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// As people gave it.
    pub text: String,
    /// How many gave it.
    pub count: u32,
}

/// How well a text fits its picture, as people judged it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rating {
    /// Mean over the people who were asked.
    pub score: f32,
    /// The worst and the best that could be given.
    pub scale: (f32, f32),
}

/// Where a picture's regions and their features are.
#[derive(Clone, Debug)]
pub enum RegionSource {
    /// A NumPy archive with `x`, `boxes`, `image_w` and `image_h`.
    Npz(ImageSource),
    /// A row of a table of base64 cells.
    Row {
        /// The table.
        file: Arc<SharedFile>,
        /// First byte of the row.
        offset: u64,
        /// Bytes of the row.
        len: u64,
    },
}

/// What people, or a detector, said about a sample beyond its texts.
#[derive(Clone, Debug, Default)]
pub struct Annotations {
    /// Width and height in pixels of the picture that was annotated.
    pub size: Option<(u32, u32)>,
    /// Answers to the question that the text is, most frequent first.
    pub answers: Vec<Answer>,
    /// How many people were asked, where the source keeps not every answer.
    pub asked: Option<u32>,
    /// Class of the sample: `true`, `entailment`, ...; the name of its relation where no other is given.
    pub label: Option<String>,
    /// How text and picture relate.
    pub relation: Option<Relation>,
    /// The words that are written in the picture, as a machine read them; empty where it found none,
    /// `None` where nobody looked.
    pub ocr: Option<String>,
    /// What a machine says of the picture.
    pub caption: Option<String>,
    /// Who wrote the text, as a key that only tells authors apart.
    pub author: Option<String>,
    /// What a report splits its figures by, as `(question_type, what is this)`.
    pub kinds: Vec<(&'static str, String)>,
    /// How well text and picture fit.
    pub rating: Option<Rating>,
    /// Phrases and their boxes.
    pub phrases: Vec<Phrase>,
    /// Things in the picture.
    pub objects: Vec<Object>,
    /// Features of regions.
    pub regions: Option<RegionSource>,
}

impl Annotations {
    /// What a whole text refers to, as fractions of the picture: left, top, right, bottom of all its
    /// boxes together. `None` where it is not said, or where only phrases of the text refer to things.
    pub fn referred(&self, text: usize) -> Option<[f32; 4]> {
        let mut phrases = self.phrases.iter().filter(|phrase| phrase.text == text);
        let (first, others) = (phrases.next()?, phrases.count());
        (others == 0).then(|| first.joint_box()).flatten()
    }
}

impl Phrase {
    /// The smallest box around all of its boxes, as fractions of the picture: left, top, right, bottom.
    pub fn joint_box(&self) -> Option<[f32; 4]> {
        let corners = |rect: &Rect| [rect.x1, rect.y1, rect.x2, rect.y2];
        let join = |a: [f32; 4], b: [f32; 4]| {
            [
                a[0].min(b[0]),
                a[1].min(b[1]),
                a[2].max(b[2]),
                a[3].max(b[3]),
            ]
        };
        self.boxes.iter().map(corners).reduce(join)
    }
}

/// One picture, clip or set of pictures with all its texts.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Unique within the data set.
    pub id: String,
    /// What is to be seen.
    pub visual: Visual,
    /// Its texts, at least one.
    pub texts: Vec<String>,
    /// Its split.
    pub split: Split,
    /// What must stay on one side of a split with it, for example the picture that several
    /// questions ask about. `None`: nothing but itself.
    pub group: Option<String>,
    /// What else is known of it.
    pub annotations: Annotations,
    /// Where it was named.
    pub origin: Origin,
}

impl Sample {
    /// A picture that is of no data set, with what is said of it; it counts as a test sample.
    pub fn of_picture(id: impl Into<String>, picture: ImageSource, texts: Vec<String>) -> Self {
        Self {
            id: id.into(),
            visual: picture.into(),
            texts,
            split: Split::Test,
            group: None,
            annotations: Annotations::default(),
            origin: Origin::default(),
        }
    }

    /// What must stay on one side of a split.
    pub fn group(&self) -> &str {
        self.group.as_deref().unwrap_or(&self.id)
    }
}

/// A number from 0 to 1 that a key stands for, spread evenly over keys: the first eight bytes of blake3(key) as a
/// big-endian fraction of 2^64.
pub fn hash_fraction(key: &str) -> f64 {
    let digest = blake3::hash(key.as_bytes());
    let head = digest.as_bytes().iter().take(8);
    let head = head.fold(0u64, |head, byte| head << 8 | u64::from(*byte));
    head as f64 / 2f64.powi(64)
}

/// What a list of samples shows, each thing once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    /// The first sample that shows it.
    pub first: Vec<usize>,
    /// Of every sample of the list, where in `first` what it shows is.
    pub place: Vec<usize>,
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
    /// A sample for every phrase that has a box, whose only text is the phrase: what finding the
    /// region of a text is trained and measured on. A sentence that as a whole refers to one thing is
    /// such a phrase.
    #[must_use]
    pub fn referring(&self) -> Self {
        let of = |sample: &Sample| {
            let sample = sample.clone();
            let phrases = sample.annotations.phrases.clone().into_iter().enumerate();
            let with_box = phrases.filter(|(_, phrase)| phrase.joint_box().is_some());
            with_box
                .map(move |(place, phrase)| Sample {
                    id: match sample.annotations.phrases.len() {
                        1 => sample.id.clone(),
                        _ => format!("{}#{}.{place}", sample.id, phrase.text),
                    },
                    texts: vec![phrase.phrase.clone()],
                    group: Some(sample.group().to_owned()),
                    annotations: Annotations {
                        phrases: vec![Phrase {
                            text: 0,
                            start: Some(0),
                            ..phrase
                        }],
                        ..sample.annotations.clone()
                    },
                    ..sample.clone()
                })
                .collect::<Vec<_>>()
        };
        Self {
            name: self.name.clone(),
            samples: self.samples.iter().flat_map(of).collect(),
        }
    }

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
        self.of_splits(&[split])
    }

    /// The samples of some splits, in the same order.
    pub fn of_splits(&self, splits: &[Split]) -> Self {
        let samples = self.samples.iter();
        let chosen = samples.filter(|sample| splits.contains(&sample.split));
        Self {
            name: self.name.clone(),
            samples: chosen.cloned().collect(),
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

    /// Which of `samples`, by their indices, show the same file, so that a model looks at it once. A sample
    /// whose picture is no file of its own, or that brings features of regions, shows something of its own.
    pub fn shown(&self, samples: impl IntoIterator<Item = usize>) -> Shown {
        let mut shown = Shown::default();
        let mut places: HashMap<&Path, usize> = HashMap::new();
        for index in samples {
            let sample = self.samples.get(index);
            let file = sample.and_then(|sample| match &sample.visual {
                Visual::Image(ImageSource::Path(path)) | Visual::Clip(Clip::Video(path)) => {
                    sample.annotations.regions.is_none().then_some(path)
                }
                _ => None,
            });
            let next = shown.first.len();
            let place = match file {
                Some(path) => *places.entry(path).or_insert(next),
                None => next,
            };
            if place == next {
                shown.first.push(index);
            }
            shown.place.push(place);
        }
        shown
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

    /// A blake3 digest (hexadecimal) over ids, texts, splits, pictures, and OCR texts and captions where
    /// there are any, in order.
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
            for source in sample.visual.sources() {
                match source {
                    ImageSource::Static(bytes) => field(bytes),
                    ImageSource::Bytes(bytes) => field(bytes),
                    ImageSource::Drawn(picture) => {
                        field(b"synthitr");
                        for number in picture.key() {
                            field(&number.to_le_bytes());
                        }
                    }
                    ImageSource::Path(path) => file_fields(path, &mut field),
                    ImageSource::Part { file, offset, len } => {
                        file_fields(file.path(), &mut field);
                        field(&offset.to_le_bytes());
                        field(&len.to_le_bytes());
                    }
                }
            }
            if let Visual::Clip(Clip::Video(path)) = &sample.visual {
                file_fields(path, &mut field);
            }
            let own = &sample.annotations;
            for (name, text) in [("ocr", &own.ocr), ("caption", &own.caption)] {
                if let Some(text) = text {
                    field(name.as_bytes());
                    field(text.as_bytes());
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

/// The file name and not the whole path: the same data in another folder is the same data. The id
/// already tells apart equal names in different folders.
fn file_fields(path: &Path, field: &mut impl FnMut(&[u8])) {
    field(path.file_name().unwrap_or_default().as_encoded_bytes());
    let size = std::fs::metadata(path).map_or(u64::MAX, |meta| meta.len());
    field(&size.to_le_bytes());
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
            visual: ImageSource::Static(b"x").into(),
            texts: texts.iter().map(|text| (*text).to_owned()).collect(),
            split,
            group: None,
            annotations: Annotations::default(),
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
    fn a_file_is_shown_once_and_everything_else_for_itself() {
        let of = |path: &str| Sample {
            visual: ImageSource::Path(path.into()).into(),
            ..sample(path, Split::Test, &["one"])
        };
        let mut samples = vec![of("a"), of("b"), of("a"), of("a")];
        samples.extend([
            sample("c", Split::Test, &["one"]),
            sample("d", Split::Test, &["two"]),
        ]);
        samples[3].annotations.regions = Some(RegionSource::Npz(ImageSource::Static(b"x")));
        let set = Dataset {
            name: "t".into(),
            samples,
        };
        let shown = set.shown([2, 1, 0, 3, 4, 5, 1]);
        assert_eq!(shown.first, [2, 1, 3, 4, 5]);
        assert_eq!(shown.place, [0, 1, 0, 2, 3, 4, 1]);
        assert_eq!(set.shown([]), Shown::default());
    }

    #[test]
    fn a_box_covers_the_pixels_it_touches() {
        let pixels = |x1, x2, whole| {
            let rect = Rect {
                x1,
                y1: 0.0,
                x2,
                y2: 1.0,
            };
            let window = rect.pixels(whole, 7);
            assert_eq!((window.y, window.height), (0, 7));
            (window.x, window.width)
        };
        assert_eq!(pixels(0.375, 0.625, 400), (150, 100));
        // Thirds are not exact.
        assert_eq!(pixels(1.0 / 3.0, 2.0 / 3.0, 300), (100, 100));
        assert_eq!(pixels(0.25, 0.5, 10), (2, 3), "outward");
        assert_eq!(pixels(0.5, 0.5, 10), (5, 1), "never empty");
        assert_eq!(pixels(1.0, 1.0, 10), (9, 1));
        assert_eq!(pixels(0.9, 0.1, 10), (9, 1));
        assert_eq!(pixels(-5.0, f32::INFINITY, 10), (0, 10));
        assert_eq!(pixels(f32::NAN, f32::NAN, 10), (0, 1));
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
