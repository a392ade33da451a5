//! The pictures of a data set, each once, and what their regions are found by.

use std::collections::{HashMap, HashSet};

use crate::dataset::{Dataset, ImageSource, Sample};

/// A picture of a data set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// What [`super::attach`] looks for first: what the samples of the picture have in common, or an id.
    pub name: String,
    /// The first sample that shows it.
    pub sample: usize,
}

/// A blake3 digest (hexadecimal) of names in their order: that of a data set of which nothing else is known.
pub fn fingerprint(names: &[&str]) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"chiasm.names.v1");
    for name in names {
        hasher.update(&(name.len() as u64).to_le_bytes());
        hasher.update(name.as_bytes());
    }
    hasher.finalize().to_hex().to_string()
}

/// Where a picture lies, if it lies somewhere.
type Place<'a> = Option<(&'a std::path::Path, u64)>;

/// The pictures of a data set in its order. Samples that look at the same file (questions about one picture)
/// are one picture, called by their group; pictures that only share a group are called by their ids.
pub fn pictures(dataset: &Dataset) -> Vec<Picture> {
    let mut groups: HashMap<&str, HashSet<Place>> = HashMap::new();
    for sample in &dataset.samples {
        groups
            .entry(sample.group())
            .or_default()
            .insert(place(sample));
    }
    let mut seen: HashSet<(&str, Place)> = HashSet::new();
    let mut pictures = Vec::new();
    for (index, sample) in dataset.samples.iter().enumerate() {
        let place = place(sample);
        let is_one = groups
            .get(sample.group())
            .is_some_and(|places| places.len() == 1);
        let name = if is_one { sample.group() } else { &sample.id };
        // Of pictures that share a group, each file counts once.
        let key = if is_one { name } else { "" };
        let is_new = match place {
            None if !is_one => true,
            _ => seen.insert((key, place)),
        };
        if is_new {
            pictures.push(Picture {
                name: name.to_owned(),
                sample: index,
            });
        }
    }
    pictures
}

fn place(sample: &Sample) -> Place<'_> {
    match sample.visual.sources().first() {
        Some(ImageSource::Path(path)) => Some((path, 0)),
        Some(ImageSource::Part { file, offset, .. }) => Some((file.path(), *offset)),
        _ => sample.visual.path().map(|path| (path, 0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::{Annotations, Origin, Split, Visual};

    fn sample(id: &str, group: Option<&str>, file: &str) -> Sample {
        Sample {
            id: id.to_owned(),
            visual: Visual::Image(ImageSource::Path(file.into())),
            texts: vec!["what?".to_owned()],
            split: Split::Train,
            group: group.map(str::to_owned),
            annotations: Annotations::default(),
            origin: Origin::default(),
        }
    }

    #[test]
    fn every_picture_once_and_under_a_name_of_its_own() {
        let dataset = Dataset {
            name: "t".to_owned(),
            samples: vec![
                sample("q1", Some("58350"), "a.jpg"),
                sample("q2", Some("58350"), "a.jpg"),
                sample("b.jpg", None, "b.jpg"),
                // Two frames of one scene stay on one side of a split, and are two pictures.
                sample("c/0.jpg", Some("c"), "c/0.jpg"),
                sample("c/1.jpg", Some("c"), "c/1.jpg"),
            ],
        };
        let found: Vec<(String, usize)> = pictures(&dataset)
            .into_iter()
            .map(|picture| (picture.name, picture.sample))
            .collect();
        let expected = [("58350", 0), ("b.jpg", 2), ("c/0.jpg", 3), ("c/1.jpg", 4)];
        assert_eq!(found, expected.map(|(name, at)| (name.to_owned(), at)));
    }
}
