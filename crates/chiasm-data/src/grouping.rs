//! Splits that do not leak: what belongs together stays on one side.
//!
//! Two photos of one moment, or two sizes of one photo, on both sides of a split let a model answer
//! from memory. Samples are joined into groups by their own group, by their author, by pictures of the
//! same bytes or the same look, and by ids that number the pictures of one post; a group's split follows from its
//! smallest id, so that it is the same for ever and everywhere.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, BufWriter};
use std::path::Path;

use crate::atomic::write_atomically;
use crate::check::Print;
use crate::dataset::{Dataset, Sample, Split};
use crate::error::DataError;
use crate::phash::LookIndex;

/// Largest share of the samples that ids may join into one group. More means that the numbers in the
/// ids count pictures of the whole set, not of one post.
const MAX_STEM_SHARE: f64 = 0.05;

/// Most digits of a number that counts the pictures of a post.
const MAX_DIGITS: usize = 4;

/// A group with a larger share of the samples is training data: as a test set it would be one
/// subject.
const MAX_HELD_OUT_SHARE: f64 = 0.1;

/// Which samples belong together, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grouping {
    /// The group of every sample, as the position of the sample whose id is smallest in it.
    pub group: Vec<usize>,
    /// Number of groups.
    pub groups: usize,
    /// Samples in the largest.
    pub largest: usize,
    /// Samples that share a group given by the source, for example questions about one picture.
    pub by_source: usize,
    /// Samples joined to others by their author.
    pub by_author: usize,
    /// Samples joined to others by pictures of the same bytes.
    pub by_bytes: usize,
    /// Samples joined to others by pictures that look the same.
    pub by_look: usize,
    /// Samples joined to others by their ids.
    pub by_id: usize,
}

/// Joins samples into groups; `prints` as [`crate::check()`] gave them for the same samples.
pub fn group(dataset: &Dataset, prints: &[Vec<Print>]) -> Grouping {
    let samples = &dataset.samples;
    let mut forest = Forest::new(samples.len());
    let by_source = forest.join_equal(samples.iter().map(Sample::group));
    let authors = samples.iter().enumerate();
    let authors =
        authors.filter_map(|(place, own)| Some((place, own.annotations.author.as_deref()?)));
    let by_author = forest.join_pairs(first_owners(authors));
    let pictures: Vec<(usize, &Print)> = (0..)
        .zip(prints)
        .flat_map(|(sample, own)| own.iter().map(move |print| (sample, print)))
        .collect();
    let by_bytes = forest.join_pairs(first_owners(
        pictures
            .iter()
            .map(|(sample, print)| (*sample, print.digest)),
    ));
    let mut distinct = Vec::new();
    let looks = pictures
        .iter()
        .filter_map(|(sample, print)| Some((*sample, print.look?)));
    let mut pairs = Vec::new();
    let mut owners = HashMap::new();
    let mut owner_of = Vec::new();
    for (sample, look) in looks {
        let owner = *owners.entry(look).or_insert_with(|| {
            distinct.push(look);
            owner_of.push(sample);
            sample
        });
        pairs.push((sample, owner));
    }
    let index = LookIndex::new(distinct.clone());
    for (look, owner) in distinct.iter().zip(&owner_of) {
        let similar = index.resembling(look).into_iter();
        pairs.extend(similar.filter_map(|other| Some((*owner, *owner_of.get(other)?))));
    }
    let by_look = forest.join_pairs(pairs.into_iter());
    let by_id = forest.join_pairs(stems(samples).into_iter());

    let mut smallest: HashMap<usize, usize> = HashMap::new();
    let mut sizes: HashMap<usize, usize> = HashMap::new();
    let id = |sample: usize| samples.get(sample).map(|sample| sample.id.as_str());
    for sample in 0..samples.len() {
        let root = forest.root(sample);
        *sizes.entry(root).or_default() += 1;
        let best = smallest.entry(root).or_insert(sample);
        if id(sample) < id(*best) {
            *best = sample;
        }
    }
    let group = (0..samples.len())
        .map(|sample| {
            let root = forest.root(sample);
            smallest.get(&root).copied().unwrap_or(sample)
        })
        .collect();
    Grouping {
        group,
        groups: sizes.len(),
        largest: sizes.values().copied().max().unwrap_or(0),
        by_source,
        by_author,
        by_bytes,
        by_look,
        by_id,
    }
}

impl Grouping {
    /// A split for every sample, the same for all of a group: [`Split::by_hash`] of the group's
    /// smallest id.
    ///
    /// Small sets may get no test or validation group that way; then the groups whose ids hash
    /// lowest are taken, as long as two others remain. Groups of more than a tenth of the samples, and
    /// more than one of them, are training data.
    pub fn splits(&self, dataset: &Dataset) -> Vec<Split> {
        let samples = &dataset.samples;
        let mut sizes: HashMap<usize, usize> = HashMap::new();
        for group in &self.group {
            *sizes.entry(*group).or_default() += 1;
        }
        let most = (samples.len() as f64 * MAX_HELD_OUT_SHARE) as usize;
        let mut by_group: HashMap<usize, Split> = HashMap::new();
        let mut small: Vec<(blake3::Hash, usize)> = Vec::new();
        for (group, size) in sizes {
            let id = samples.get(group).map_or("", |sample| sample.id.as_str());
            let is_large = size > most.max(1);
            if !is_large {
                small.push((blake3::hash(id.as_bytes()), group));
            }
            by_group.insert(
                group,
                match is_large {
                    true => Split::Train,
                    false => Split::by_hash(id),
                },
            );
        }
        small.sort_unstable_by(|a, b| a.0.as_bytes().cmp(b.0.as_bytes()));
        for wanted in [Split::Test, Split::Val] {
            let has = by_group.values().any(|split| *split == wanted);
            let training = by_group.values().filter(|split| **split == Split::Train);
            if has || training.count() < 3 {
                continue;
            }
            let lowest = small
                .iter()
                .find(|(_, group)| by_group.get(group) == Some(&Split::Train));
            if let Some((_, group)) = lowest {
                by_group.insert(*group, wanted);
            }
        }
        self.group
            .iter()
            .map(|group| by_group.get(group).copied().unwrap_or(Split::Train))
            .collect()
    }
}

/// Turns a tenth of training samples into validation samples, the same ones for ever
/// (`specs/itr.md` section 3.7). Where authors are known, whole authors are taken until there are enough;
/// else a tenth of each class. Which ones, the hash of author or id says.
pub fn hold_out(samples: &mut [Sample]) {
    const SHARE: f64 = 0.1;
    let training = |sample: &&mut Sample| sample.split == Split::Train;
    let by_author = samples.iter().any(|own| own.annotations.author.is_some());
    let mut classes: BTreeMap<Option<String>, Vec<&mut Sample>> = BTreeMap::new();
    for sample in samples.iter_mut().filter(training) {
        let class = match by_author {
            true => None,
            false => sample.annotations.label.clone(),
        };
        classes.entry(class).or_default().push(sample);
    }
    let key = |sample: &Sample| {
        let author = sample.annotations.author.as_deref();
        let key = author.unwrap_or(&sample.id);
        *blake3::hash(key.as_bytes()).as_bytes()
    };
    for mut own in classes.into_values() {
        own.sort_by_cached_key(|sample| key(sample));
        let wanted = (own.len() as f64 * SHARE).round() as usize;
        let mut last = None;
        for (taken, sample) in own.into_iter().enumerate() {
            let author = sample.annotations.author.clone();
            let goes_on = author.is_some() && author == last;
            if taken >= wanted && !goes_on {
                break;
            }
            sample.split = Split::Val;
            last = author;
        }
    }
}

/// Writes a splits file: the columns `id`, `split` and `group`, a line a sample, whole or not at
/// all. [`crate::OpenOptions::splits`] reads it.
///
/// # Errors
/// If the file cannot be written.
pub fn write_splits(
    path: &Path,
    dataset: &Dataset,
    splits: &[Split],
    grouping: &Grouping,
) -> Result<(), DataError> {
    write_atomically(path, |partial| {
        let file = BufWriter::new(std::fs::File::create(partial)?);
        let mut table = csv::Writer::from_writer(file);
        table.write_record(["id", "split", "group"])?;
        let rows = dataset.samples.iter().zip(splits).zip(&grouping.group);
        for ((sample, split), group) in rows {
            let group = dataset.samples.get(*group).unwrap_or(sample);
            table.write_record([&sample.id, split.as_str(), &group.id])?;
        }
        table.flush()
    })
    .map_err(|source: io::Error| DataError::io(path, source))
}

/// Every sample beside the first that has the same key.
fn first_owners<K: Eq + std::hash::Hash>(
    keyed: impl Iterator<Item = (usize, K)>,
) -> impl Iterator<Item = (usize, usize)> {
    let mut owners = HashMap::new();
    keyed.map(move |(sample, key)| (sample, *owners.entry(key).or_insert(sample)))
}

/// Pairs of samples whose ids number the pictures of one post. None at all when one stem has more
/// than a twentieth of the samples.
fn stems(samples: &[Sample]) -> Vec<(usize, usize)> {
    let stems: Vec<(usize, &str)> = (0..)
        .zip(samples)
        .filter_map(|(place, sample)| Some((place, stem(sample.group())?)))
        .collect();
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for (_, stem) in &stems {
        *counts.entry(stem).or_default() += 1;
    }
    let most = (samples.len() as f64 * MAX_STEM_SHARE).max(10.0) as usize;
    if counts.values().any(|count| *count > most) {
        return Vec::new();
    }
    first_owners(stems.into_iter()).collect()
}

/// What is left of `post12_3.jpg` without its extension and the number of a picture: `post12`. `None`
/// when no number follows a separator, or when the rest has no digit: `img_3` names a picture of the
/// set, not of a post.
fn stem(id: &str) -> Option<&str> {
    let name = match id.rsplit_once('.') {
        Some((name, extension)) if extension.len() <= 4 && !extension.contains('/') => name,
        _ => id,
    };
    let name = name.strip_suffix(')').unwrap_or(name);
    let before = name.trim_end_matches(|c: char| c.is_ascii_digit());
    let digits = name.len() - before.len();
    if digits == 0 || digits > MAX_DIGITS {
        return None;
    }
    let stem = before.trim_end_matches(['_', '-', ' ', '(', '#']);
    if stem.len() == before.len() {
        return None;
    }
    let file = stem.rsplit('/').next().unwrap_or(stem);
    file.contains(|c: char| c.is_ascii_digit()).then_some(stem)
}

/// Sets of samples that can be joined.
struct Forest {
    parents: Vec<usize>,
}

impl Forest {
    fn new(len: usize) -> Self {
        Self {
            parents: (0..len).collect(),
        }
    }

    fn root(&mut self, mut place: usize) -> usize {
        loop {
            let parent = self.parents.get(place).copied().unwrap_or(place);
            if parent == place {
                return place;
            }
            // Halves the path, so that the next walk is shorter.
            let above = self.parents.get(parent).copied().unwrap_or(parent);
            if let Some(slot) = self.parents.get_mut(place) {
                *slot = above;
            }
            place = above;
        }
    }

    /// Joins pairs; returns how many samples were joined to others by it.
    fn join_pairs(&mut self, pairs: impl Iterator<Item = (usize, usize)>) -> usize {
        let mut joined = std::collections::HashSet::new();
        for (a, b) in pairs {
            if a == b {
                continue;
            }
            let (one, other) = (self.root(a), self.root(b));
            if one != other {
                joined.extend([a, b]);
                if let Some(slot) = self.parents.get_mut(one.max(other)) {
                    *slot = one.min(other);
                }
            }
        }
        joined.len()
    }

    fn join_equal<'a>(&mut self, keys: impl Iterator<Item = &'a str>) -> usize {
        self.join_pairs(first_owners(keys.enumerate()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::ImageSource;
    use proptest::prelude::*;

    fn sample(id: &str, group: Option<&str>) -> Sample {
        Sample {
            id: id.to_owned(),
            visual: ImageSource::Static(b"x").into(),
            texts: vec!["a".to_owned()],
            split: Split::Train,
            group: group.map(str::to_owned),
            annotations: crate::Annotations::default(),
            origin: crate::Origin::default(),
        }
    }

    fn print(digest: u8) -> Vec<Print> {
        vec![Print {
            digest: [digest; 32],
            look: None,
        }]
    }

    #[test]
    fn stems_of_posts() {
        for (id, expected) in [
            ("post12_3.jpg", Some("post12")),
            ("a/2024-05-01 (2).png", Some("a/2024-05-01")),
            ("1000268201_693b08cb0e.jpg", None),
            ("img_3.jpg", None),
            ("photos/17.png", None),
            ("COCO_val2014_000000000042.jpg", None),
            ("1f469-1f3fc", None),
            ("x9", None),
            ("", None),
        ] {
            assert_eq!(stem(id), expected, "{id}");
        }
    }

    #[test]
    fn groups_by_source_bytes_and_id() {
        let ids = [
            ("q1", Some("photo")),
            ("q2", Some("photo")),
            ("b.jpg", None),
            ("a.jpg", None),
            ("p7_1.jpg", None),
            ("p7_2.jpg", None),
            ("alone.jpg", None),
        ];
        let set = Dataset {
            name: "t".to_owned(),
            samples: ids.map(|(id, group)| sample(id, group)).to_vec(),
        };
        let prints = [0, 0, 1, 1, 2, 3, 4].map(print);
        let found = group(&set, &prints);
        assert_eq!(found.group, [0, 0, 3, 3, 4, 4, 6]);
        assert_eq!((found.groups, found.largest), (4, 2));
        assert_eq!(
            (found.by_source, found.by_bytes, found.by_look, found.by_id),
            (2, 2, 0, 2)
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Whatever order the samples come in: groups are whole, the splits are the same, and a set
        /// of more than a few groups has all three.
        #[test]
        fn splits_part_no_group_and_do_not_depend_on_order(
            digests in proptest::collection::vec(0u8..60, 8..120),
            turn in 0usize..100,
        ) {
            let splits = |digests: &[(usize, u8)]| -> HashMap<String, (u8, Split)> {
                let set = Dataset {
                    name: "t".to_owned(),
                    samples: digests.iter().map(|(id, _)| sample(&format!("s{id}"), None)).collect(),
                };
                let prints: Vec<_> = digests.iter().map(|(_, digest)| print(*digest)).collect();
                let splits = group(&set, &prints).splits(&set);
                set.samples.iter().zip(digests).zip(splits)
                    .map(|((sample, (_, digest)), split)| (sample.id.clone(), (*digest, split)))
                    .collect()
            };
            let mut digests: Vec<(usize, u8)> = digests.into_iter().enumerate().collect();
            let first = splits(&digests);
            let length = digests.len();
            digests.rotate_left(turn % length);
            prop_assert_eq!(&splits(&digests), &first);
            let mut of_digest = HashMap::new();
            for (digest, split) in first.values() {
                prop_assert_eq!(*of_digest.entry(digest).or_insert(split), split);
            }
        }
    }

    #[test]
    fn small_sets_have_a_test_and_a_validation_sample() {
        let set = Dataset {
            name: "t".to_owned(),
            samples: (0..5).map(|id| sample(&format!("x{id}y"), None)).collect(),
        };
        let prints: Vec<_> = (0..5).map(print).collect();
        let splits = group(&set, &prints).splits(&set);
        for wanted in [Split::Train, Split::Val, Split::Test] {
            assert!(splits.contains(&wanted), "{splits:?}");
        }
    }

    #[test]
    fn a_splits_file_is_read_over_the_sources_own() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("t.csv"), "image,text\n\"a,b.png\",one\nc.png,two\n").unwrap();
        let options = crate::OpenOptions {
            splits: Some(at("splits.csv")),
            ..crate::OpenOptions::default()
        };
        let open = || crate::open(&at("t.csv"), &options);
        let set = crate::open(&at("t.csv"), &crate::OpenOptions::default())
            .unwrap()
            .dataset;
        let grouping = group(&set, &[print(0), print(1)]);
        let wanted = [Split::TestA, Split::Val];
        write_splits(&at("splits.csv"), &set, &wanted, &grouping).unwrap();
        let read = open().unwrap().dataset;
        let splits: Vec<Split> = read.samples.iter().map(|sample| sample.split).collect();
        assert_eq!(splits, wanted);
        for (reason, text) in [
            ("no split column", "id,part\nc.png,train\n"),
            ("no id column", "image,split\nc.png,train\n"),
            ("an unknown split", "id,split\nc.png,trian\n"),
            ("nothing of the set", "id,split\nd.png,train\n"),
            ("nothing", ""),
            ("not text", "id,split\n\u{0},\u{1}\n"),
        ] {
            std::fs::write(at("splits.csv"), text).unwrap();
            let error = open().unwrap_err().to_string();
            assert!(error.contains("splits.csv"), "{reason}: {error}");
        }
        std::fs::write(at("splits.csv"), b"id,split\n\xff\xfe,train\n").unwrap();
        assert!(open().is_err());
    }
}
