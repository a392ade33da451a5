//! Which samples of one set are in another: the question behind every figure on "unseen" data.
//!
//! Compares what samples are recognised by ([`Trace`]), not the data itself, so that a run can keep
//! the traces of what it was trained on and be audited where that data is not. Four kinds of overlap
//! are told apart, see [`Overlap`]. Pictures decide: a figure is marked when a picture was trained
//! on ([`Overlap::shows_the_picture`]). The same id alone says little (`1.jpg` is in every folder),
//! and the same text alone is common where people describe things ("a dog runs"); both are counted.

use std::collections::HashMap;
use std::fmt;
use std::io::{BufRead as _, BufReader, BufWriter, Read as _, Write as _};
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::atomic::write_atomically;
use crate::check::Print;
use crate::dataset::{Dataset, Sample};
use crate::error::DataError;
use crate::phash::{Look, LookIndex};

/// Longest line of a traces file, in bytes: ten thousand pictures or texts of one sample.
const MAX_LINE: u64 = 1 << 20;

/// How two samples overlap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overlap {
    /// A picture of the same encoded bytes.
    SameBytes,
    /// A picture of other bytes that looks the same: re-encoded or scaled.
    NearDuplicate,
    /// The same id.
    SameId,
    /// A text equal but for case, spaces and punctuation.
    SameText,
}

impl Overlap {
    /// Every kind, the most telling first.
    pub const ALL: [Self; 4] = [
        Self::SameBytes,
        Self::NearDuplicate,
        Self::SameId,
        Self::SameText,
    ];

    /// Whether it means that the picture itself is in the other set.
    pub fn shows_the_picture(self) -> bool {
        matches!(self, Self::SameBytes | Self::NearDuplicate)
    }
}

impl fmt::Display for Overlap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::SameBytes => "same picture bytes",
            Self::NearDuplicate => "near-duplicate picture",
            Self::SameId => "same id",
            Self::SameText => "same text",
        })
    }
}

/// What a sample is recognised by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// Its id.
    pub id: String,
    /// Its pictures.
    pub pictures: Vec<Print>,
    /// Its texts: the first half of the blake3 digest of each, folded.
    pub texts: Vec<[u8; 16]>,
}

impl Trace {
    /// The trace of a sample and of its pictures' prints.
    pub fn new(sample: &Sample, pictures: &[Print]) -> Self {
        Self {
            id: sample.id.clone(),
            pictures: pictures.to_vec(),
            texts: sample.texts.iter().map(|text| text_key(text)).collect(),
        }
    }

    /// Traces of a checked data set's samples for which `wanted` holds; `prints` as
    /// [`crate::check()`] gave them.
    pub fn of(
        dataset: &Dataset,
        prints: &[Vec<Print>],
        wanted: impl Fn(&Sample) -> bool,
    ) -> Vec<Self> {
        let samples = dataset.samples.iter().zip(prints);
        samples
            .filter(|(sample, _)| wanted(sample))
            .map(|(sample, prints)| Self::new(sample, prints))
            .collect()
    }
}

/// Lower case, words separated by single spaces, punctuation gone; a text of nothing but
/// punctuation stays as it is.
fn fold(text: &str) -> String {
    let lower = text.to_lowercase();
    let words: Vec<&str> = lower
        .split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .collect();
    if words.is_empty() {
        text.trim().to_owned()
    } else {
        words.join(" ")
    }
}

fn text_key(text: &str) -> [u8; 16] {
    let digest = blake3::hash(fold(text).as_bytes());
    let mut key = [0; 16];
    for (slot, byte) in key.iter_mut().zip(digest.as_bytes()) {
        *slot = *byte;
    }
    key
}

/// A sample that overlaps with one of the other set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// How.
    pub kind: Overlap,
    /// Its id.
    pub id: String,
    /// Id of the other set's sample; the first of several.
    pub other: String,
}

/// Samples with an overlap, by kind. One sample may be counted under several kinds, but not as a
/// near duplicate of what has its very bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverlapCounts {
    /// Samples with a picture of the same bytes.
    pub same_bytes: usize,
    /// Samples with a picture that only looks the same.
    pub near_duplicate: usize,
    /// Samples with the same id.
    pub same_id: usize,
    /// Samples with a text in common.
    pub same_text: usize,
}

impl OverlapCounts {
    /// Counts findings.
    pub fn of(findings: &[Finding]) -> Self {
        let mut counts = Self::default();
        for finding in findings {
            *match finding.kind {
                Overlap::SameBytes => &mut counts.same_bytes,
                Overlap::NearDuplicate => &mut counts.near_duplicate,
                Overlap::SameId => &mut counts.same_id,
                Overlap::SameText => &mut counts.same_text,
            } += 1;
        }
        counts
    }

    /// Samples of a kind.
    pub fn get(&self, kind: Overlap) -> usize {
        match kind {
            Overlap::SameBytes => self.same_bytes,
            Overlap::NearDuplicate => self.near_duplicate,
            Overlap::SameId => self.same_id,
            Overlap::SameText => self.same_text,
        }
    }

    /// Samples whose picture is in the other set.
    pub fn pictures(&self) -> usize {
        self.same_bytes + self.near_duplicate
    }
}

/// Samples of `b` that `a` already holds, in the order of `b`, at most one finding a kind for each.
pub fn audit(a: &[Trace], b: &[Trace]) -> Vec<Finding> {
    let known = Known::new(a);
    b.par_iter()
        .flat_map_iter(|trace| {
            let found = known.overlaps(trace);
            found.into_iter().map(|(kind, other)| Finding {
                kind,
                id: trace.id.clone(),
                other: other.to_owned(),
            })
        })
        .collect()
}

/// A set, ready to be asked.
struct Known<'a> {
    ids: HashMap<&'a str, usize>,
    bytes: HashMap<&'a [u8; 32], usize>,
    texts: HashMap<&'a [u8; 16], usize>,
    looks: LookIndex,
    /// Which sample each look of the index is of.
    look_owners: Vec<usize>,
    traces: &'a [Trace],
}

impl<'a> Known<'a> {
    fn new(traces: &'a [Trace]) -> Self {
        let mut ids = HashMap::with_capacity(traces.len());
        let mut bytes = HashMap::with_capacity(traces.len());
        let mut texts = HashMap::with_capacity(traces.len());
        // One entry for pictures that look exactly the same: a million copies of one picture must
        // not make a question a million answers long.
        let mut looks: HashMap<Look, usize> = HashMap::with_capacity(traces.len());
        let mut distinct = Vec::new();
        let mut look_owners = Vec::new();
        for (place, trace) in traces.iter().enumerate() {
            ids.entry(trace.id.as_str()).or_insert(place);
            for text in &trace.texts {
                texts.entry(text).or_insert(place);
            }
            for picture in &trace.pictures {
                bytes.entry(&picture.digest).or_insert(place);
                if let Some(look) = picture.look {
                    looks.entry(look).or_insert_with(|| {
                        distinct.push(look);
                        look_owners.push(place);
                        place
                    });
                }
            }
        }
        Self {
            ids,
            bytes,
            texts,
            looks: LookIndex::new(distinct),
            look_owners,
            traces,
        }
    }

    fn overlaps(&self, trace: &Trace) -> Vec<(Overlap, &'a str)> {
        let pictures = || trace.pictures.iter();
        let same_bytes = pictures().find_map(|own| self.bytes.get(&own.digest).copied());
        let look_alike = || {
            pictures()
                .filter_map(|own| own.look)
                .flat_map(|look| self.looks.resembling(&look))
                .filter_map(|place| self.look_owners.get(place).copied())
                .min()
        };
        let near_duplicate = match same_bytes {
            Some(_) => None,
            None => look_alike(),
        };
        let same_text = trace.texts.iter().find_map(|text| self.texts.get(text));
        [
            (Overlap::SameBytes, same_bytes),
            (Overlap::NearDuplicate, near_duplicate),
            (Overlap::SameId, self.ids.get(trace.id.as_str()).copied()),
            (Overlap::SameText, same_text.copied()),
        ]
        .into_iter()
        .filter_map(|(kind, place)| Some((kind, self.traces.get(place?)?.id.as_str())))
        .collect()
    }
}

/// A line of a traces file. Bytes are base64 without padding; a picture is its digest and, unless
/// it is blank, its look.
#[derive(Serialize, Deserialize)]
struct Line {
    id: String,
    pictures: Vec<String>,
    texts: Vec<String>,
}

/// Writes traces, one JSON object a line, whole or not at all.
///
/// # Errors
/// If the file cannot be written.
pub fn write_traces(traces: &[Trace], path: &Path) -> Result<(), DataError> {
    let picture = |print: &Print| {
        let mut bytes = print.digest.to_vec();
        bytes.extend(print.look.iter().flat_map(|look| look.to_bytes()));
        STANDARD_NO_PAD.encode(bytes)
    };
    write_atomically(path, |partial| {
        let mut file = BufWriter::new(std::fs::File::create(partial)?);
        for trace in traces {
            let line = Line {
                id: trace.id.clone(),
                pictures: trace.pictures.iter().map(picture).collect(),
                texts: trace
                    .texts
                    .iter()
                    .map(|text| STANDARD_NO_PAD.encode(text))
                    .collect(),
            };
            serde_json::to_writer(&mut file, &line)?;
            file.write_all(b"\n")?;
        }
        file.flush()
    })
    .map_err(|source: std::io::Error| DataError::io(path, source))
}

/// Reads what [`write_traces`] wrote.
///
/// # Errors
/// If the file cannot be read, or a line of it is not as it was written: an audit against part of a
/// set would call the rest unseen.
pub fn read_traces(path: &Path) -> Result<Vec<Trace>, DataError> {
    let io = |source| DataError::io(path, source);
    let mut file = BufReader::new(std::fs::File::open(path).map_err(io)?);
    let mut traces = Vec::new();
    let mut line = Vec::new();
    for number in 1u64.. {
        line.clear();
        let read = file.by_ref().take(MAX_LINE).read_until(b'\n', &mut line);
        if read.map_err(io)? == 0 {
            break;
        }
        let trace = parse(&line).map_err(|message| DataError::Parse {
            path: path.to_owned(),
            location: format!("line {number}"),
            message,
        })?;
        traces.push(trace);
    }
    Ok(traces)
}

fn parse(line: &[u8]) -> Result<Trace, String> {
    let line: Line = serde_json::from_slice(line).map_err(|error| error.to_string())?;
    let bytes = |text: &String| {
        let decoded = STANDARD_NO_PAD.decode(text);
        decoded.map_err(|error| format!("not base64: {error}"))
    };
    let picture = |text: &String| {
        let bytes = bytes(text)?;
        let (digest, look) = bytes
            .split_first_chunk::<32>()
            .ok_or("a picture's digest is cut short")?;
        let look = match look {
            [] => None,
            look => Some(Look::from_bytes(look).ok_or("a picture's look has a wrong length")?),
        };
        Ok(Print {
            digest: *digest,
            look,
        })
    };
    let text = |text: &String| {
        let bytes = <[u8; 16]>::try_from(bytes(text)?);
        bytes.map_err(|_| "a text's digest has a wrong length".to_owned())
    };
    Ok(Trace {
        id: line.id,
        pictures: line
            .pictures
            .iter()
            .map(picture)
            .collect::<Result<_, String>>()?,
        texts: line.texts.iter().map(text).collect::<Result<_, _>>()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::check;
    use crate::dataset::{ImageSource, Split};
    use crate::decode::Limits;
    use proptest::prelude::*;

    fn traces(set: &Dataset) -> Vec<Trace> {
        let report = check(set, &Limits::default(), &|_| {});
        assert!(report.quarantine.is_empty());
        Trace::of(&report.good, &report.prints, |_| true)
    }

    /// Drawings of animals and food, no two alike.
    fn two_sets() -> (Dataset, Dataset) {
        let emoji = crate::builtin::emoji().unwrap();
        let wanted = [
            "1f436", "1f431", "1f34e", "1f697", "1f3e0", "1f332", "1f4a1", "1f3b8",
        ];
        let samples = wanted.map(|id| {
            let sample = emoji.samples.iter().find(|sample| sample.id == id);
            sample.unwrap().clone()
        });
        let set = |samples: &[Sample]| Dataset {
            name: "t".to_owned(),
            samples: samples.to_vec(),
        };
        (set(&samples[..4]), set(&samples[4..]))
    }

    #[test]
    fn every_kind_of_planted_overlap_is_found_and_a_clean_pair_raises_nothing() {
        let (a, mut b) = two_sets();
        assert_eq!(audit(&traces(&a), &traces(&b)), []);
        let bytes = a.samples[0].visual.sources()[0]
            .read()
            .unwrap()
            .into_owned();
        b.samples[0].visual = ImageSource::Bytes(bytes.into()).into();
        let original = a.samples[1].visual.sources()[0].read().unwrap();
        let smaller = crate::thumbnail(&original, 40).unwrap();
        b.samples[1].visual = ImageSource::Bytes(smaller.into()).into();
        b.samples[2].id = a.samples[2].id.clone();
        b.samples[3].texts = vec![format!(" {}!", a.samples[3].texts[0].to_uppercase())];
        let found: Vec<(Overlap, String, String)> = audit(&traces(&a), &traces(&b))
            .into_iter()
            .map(|finding| (finding.kind, finding.id, finding.other))
            .collect();
        let pair = |kind, index: usize| {
            let id = |set: &Dataset| set.samples[index].id.clone();
            (kind, id(&b), id(&a))
        };
        assert_eq!(
            found,
            [
                pair(Overlap::SameBytes, 0),
                pair(Overlap::NearDuplicate, 1),
                pair(Overlap::SameId, 2),
                pair(Overlap::SameText, 3),
            ]
        );
    }

    #[test]
    fn a_sample_is_found_by_any_of_its_pictures() {
        use crate::dataset::Visual;
        let (a, mut b) = two_sets();
        let source = |set: &Dataset, index: usize| set.samples[index].visual.sources()[0].clone();
        b.samples[0].visual = Visual::Images(vec![source(&b, 1), source(&a, 2)]);
        let found = audit(&traces(&a), &traces(&b));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].other, a.samples[2].id);
    }

    #[test]
    fn texts_are_folded() {
        assert_eq!(fold("  A dog, running!  "), "a dog running");
        assert_eq!(fold("a  DOG\trunning"), "a dog running");
        assert_eq!(fold("Straße"), fold("straße."));
        assert_ne!(fold("!"), fold("?"));
        assert_ne!(fold("两只狗"), fold("三只狗"));
    }

    /// Ids name one thing: the built-in splits share none, whatever their drawings look like.
    #[test]
    fn built_in_splits_share_no_id() {
        let emoji = crate::builtin::emoji().unwrap();
        let [train, test] = [Split::Train, Split::Test].map(|split| traces(&emoji.subset(split)));
        let counts = OverlapCounts::of(&audit(&train, &test));
        assert_eq!(counts.same_id, 0);
    }

    #[test]
    fn traces_survive_their_file_and_damage_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("traces.jsonl");
        let mut written = traces(&two_sets().0);
        written[1].pictures[0].look = None;
        written[2].texts.clear();
        write_traces(&written, &path).unwrap();
        assert_eq!(read_traces(&path).unwrap(), written);
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 20]).unwrap();
        let error = read_traces(&path).unwrap_err().to_string();
        assert!(error.contains("line 4"), "{error}");
        for (reason, line) in [
            ("no JSON", "id"),
            ("no object", "[]"),
            ("a part missing", r#"{"id":"a","pictures":[]}"#),
            ("no base64", r#"{"id":"a","pictures":["?"],"texts":[]}"#),
            (
                "a short digest",
                r#"{"id":"a","pictures":["AAAA"],"texts":[]}"#,
            ),
            (
                "a short text",
                r#"{"id":"a","pictures":[],"texts":["AAAA"]}"#,
            ),
            ("numbers", r#"{"id":1,"pictures":[],"texts":[]}"#),
        ] {
            std::fs::write(&path, line).unwrap();
            assert!(read_traces(&path).is_err(), "{reason}");
        }
        let cut_look = format!(
            r#"{{"id":"a","pictures":["{}"],"texts":[]}}"#,
            STANDARD_NO_PAD.encode([0; 40])
        );
        std::fs::write(&path, cut_look).unwrap();
        assert!(read_traces(&path).is_err());
        std::fs::write(&path, vec![b' '; (MAX_LINE + 9) as usize]).unwrap();
        assert!(read_traces(&path).is_err(), "a line without end");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_line_is_a_trace_or_an_error(line in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&line);
        }

        #[test]
        fn folding_twice_changes_nothing(text in "\\PC{0,40}") {
            prop_assert_eq!(fold(&fold(&text)), fold(&text));
        }
    }
}
