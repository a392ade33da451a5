//! How often words go together in training captions: the weights of a caption's edges.
//!
//! Owns counting in one pass and the file in the field's layout (`specs/tbkin.md` 2.2): `attr_count` says for each
//! object how often an attribute goes with it, `rel_count` how often a context does, both as shares of the captions'
//! mentions of the object. Keys are lemmas. What was never seen has frequency 0 and is no error.

use std::collections::BTreeMap;
use std::io::{Read, Write};

use serde::{Deserialize, Serialize};

use crate::text::{Relation, TextGraph};

/// Cap on the bytes of a file of priors.
pub const MAX_BYTES: u64 = 2 << 30;

/// Relative frequencies of attributes and contexts of objects.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Priors {
    /// Object, attribute, share.
    #[serde(default)]
    pub attr_count: BTreeMap<String, BTreeMap<String, f64>>,
    /// Object, context, share. The context of a subject is `relation object`, that of an object `subject relation`.
    #[serde(default)]
    pub rel_count: BTreeMap<String, BTreeMap<String, f64>>,
}

/// Why priors cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PriorsError {
    /// The system failed.
    #[error("cannot read or write priors: {0}")]
    Io(#[from] std::io::Error),
    /// It is not what it should be.
    #[error(
        "priors: {0}. They are JSON with `attr_count` and `rel_count`, each object -> words -> share"
    )]
    Json(#[from] serde_json::Error),
    /// A share is none.
    #[error(
        "priors: the share of `{words}` with `{object}` is {share}, it has to be between 0 and 1"
    )]
    Share {
        /// The object.
        object: String,
        /// Attribute or context.
        words: String,
        /// The value.
        share: f64,
    },
}

impl Priors {
    /// Share of an object's mentions that have an attribute; 0 when never seen.
    pub fn attribute(&self, object: &str, attribute: &str) -> f64 {
        share(&self.attr_count, object, attribute)
    }

    /// Share of an object's mentions that stand in a context; 0 when never seen.
    pub fn context(&self, object: &str, context: &str) -> f64 {
        share(&self.rel_count, object, context)
    }

    /// Reads priors from JSON, ours or the published file's.
    ///
    /// # Errors
    /// If it cannot be read, is longer than 2 GiB, is no such JSON, or has a share outside `0..=1`.
    pub fn read(reader: impl Read) -> Result<Self, PriorsError> {
        let priors: Self =
            serde_json::from_reader(std::io::BufReader::new(reader.take(MAX_BYTES)))?;
        for (object, words) in priors.attr_count.iter().chain(&priors.rel_count) {
            if let Some((words, share)) = words
                .iter()
                .find(|(_, share)| !(0.0..=1.0).contains(*share))
            {
                return Err(PriorsError::Share {
                    object: object.clone(),
                    words: words.clone(),
                    share: *share,
                });
            }
        }
        Ok(priors)
    }

    /// Writes priors as JSON, the same bytes for the same counts.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, writer: impl Write) -> Result<(), PriorsError> {
        Ok(serde_json::to_writer(writer, self)?)
    }
}

fn share(counts: &BTreeMap<String, BTreeMap<String, f64>>, object: &str, words: &str) -> f64 {
    counts
        .get(object)
        .and_then(|of| of.get(words))
        .copied()
        .unwrap_or(0.0)
}

/// Context of a relation's subject and of its object, as lemmas.
pub(crate) fn contexts(graph: &TextGraph, relation: &Relation) -> (String, String) {
    let words = graph.lemmas(&relation.words);
    let said = if words.is_empty() {
        &relation.predicate
    } else {
        &words
    };
    (
        format!("{said} {}", graph.object_lemma(relation.object)),
        format!("{} {said}", graph.object_lemma(relation.subject)),
    )
}

/// Counts the graphs of captions.
#[derive(Clone, Debug, Default)]
pub struct PriorCounter {
    objects: BTreeMap<String, u64>,
    attributes: BTreeMap<String, BTreeMap<String, u64>>,
    contexts: BTreeMap<String, BTreeMap<String, u64>>,
}

impl PriorCounter {
    /// Adds a caption.
    pub fn add(&mut self, graph: &TextGraph) {
        for object in 0..graph.objects.len() {
            *self.objects.entry(graph.object_lemma(object)).or_default() += 1;
        }
        for attribute in &graph.attributes {
            let of = self
                .attributes
                .entry(graph.object_lemma(attribute.object))
                .or_default();
            *of.entry(graph.lemmas(&attribute.words)).or_default() += 1;
        }
        for relation in &graph.relations {
            let (of_subject, of_object) = contexts(graph, relation);
            for (object, context) in [(relation.subject, of_subject), (relation.object, of_object)]
            {
                let of = self.contexts.entry(graph.object_lemma(object)).or_default();
                *of.entry(context).or_default() += 1;
            }
        }
    }

    /// The frequencies. What was seen only once is left out: it says nothing, and is most of what there is.
    pub fn finish(&self) -> Priors {
        const SEEN: u64 = 2;
        let shares = |counts: &BTreeMap<String, BTreeMap<String, u64>>| {
            let of_object = |(object, counts): (&String, &BTreeMap<String, u64>)| {
                let total = self.objects.get(object).copied().unwrap_or(1).max(1) as f64;
                let kept: BTreeMap<String, f64> = counts
                    .iter()
                    .filter(|(_, count)| **count >= SEEN)
                    .map(|(words, count)| (words.clone(), (*count as f64 / total).min(1.0)))
                    .collect();
                (!kept.is_empty()).then(|| (object.clone(), kept))
            };
            counts.iter().filter_map(of_object).collect()
        };
        Priors {
            attr_count: shares(&self.attributes),
            rel_count: shares(&self.contexts),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::parse;

    #[test]
    fn captions_are_counted() {
        let mut counter = PriorCounter::default();
        for caption in [
            "a brown dog on the grass",
            "the brown dogs run on the grass",
            "a dog",
            "a white dog",
        ] {
            counter.add(&parse(caption));
        }
        let priors = counter.finish();
        assert_eq!(priors.attribute("dog", "brown"), 0.5);
        assert_eq!(priors.attribute("dog", "white"), 0.0);
        assert_eq!(priors.attribute("unicorn", "white"), 0.0);
        assert_eq!(priors.context("dog", "on grass"), 0.0);
        counter.add(&parse("two dogs on grass"));
        let priors = counter.finish();
        assert_eq!(priors.context("dog", "on grass"), 0.4);
        assert!((priors.context("grass", "dog on") - 2.0 / 3.0).abs() < 1e-12);
        let mut bytes = Vec::new();
        priors.write(&mut bytes).unwrap();
        assert_eq!(Priors::read(&bytes[..]).unwrap(), priors);
    }

    #[test]
    fn odd_files_are_refused() {
        for (bytes, found) in [
            ("", "priors: EOF"),
            ("3", "priors: invalid type"),
            (
                r#"{"attr_count": {"dog": {"brown": -1}}}"#,
                "`brown` with `dog` is -1",
            ),
            (r#"{"attr_count": {"dog": 3}}"#, "priors: invalid type"),
        ] {
            let error = Priors::read(bytes.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(found), "{error}");
        }
        assert_eq!(Priors::read(&b"{}"[..]).unwrap(), Priors::default());
    }
}
