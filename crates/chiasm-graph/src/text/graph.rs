//! The scene graph of a caption: objects, their attributes, relations between them.
//!
//! Owns the graph and the forms it is shown and written in: lines of facts, DOT, and the field's `tsg` index lists
//! (`specs/tbkin.md` 2.2). How a caption becomes a graph is `parse`'s.

use std::collections::HashSet;
use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::dot;

/// A word of the cleaned caption.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Word {
    /// The word: lower case, without apostrophes.
    pub text: String,
    /// Its base form.
    pub lemma: String,
    /// Its bytes in the caption that was parsed.
    pub span: Range<usize>,
}

/// A thing that a caption speaks of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    /// Its words, the head last: `[tennis, racket]`.
    pub words: Vec<usize>,
    /// What it is called in the caption.
    pub name: String,
}

/// What an object is like.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attribute {
    /// Index of the object.
    pub object: usize,
    /// Words that say it.
    pub words: Vec<usize>,
    /// What they say; numbers are digits.
    pub value: String,
}

/// How two objects stand to each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Relation {
    /// Index of the object that it goes out from.
    pub subject: usize,
    /// Words that say it; none for `the man's hat`.
    pub words: Vec<usize>,
    /// Index of the object that it points at.
    pub object: usize,
    /// What they say: verbs as infinitives, `have` for what is possessed, the active voice.
    pub predicate: String,
}

/// Scene graph of a caption. Empty when nothing was found; every index is within bounds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TextGraph {
    /// Words of the cleaned caption.
    pub words: Vec<Word>,
    /// Objects in the order of the caption.
    pub objects: Vec<Object>,
    /// Attributes in the order they were found.
    pub attributes: Vec<Attribute>,
    /// Relations in the order they were found.
    pub relations: Vec<Relation>,
}

impl TextGraph {
    /// The cleaned caption: the words joined with spaces.
    pub fn text(&self) -> String {
        join(self.words.iter().map(|word| word.text.as_str()))
    }

    /// Base form of an object: its words' lemmas joined with spaces; empty for an index out of bounds.
    pub fn object_lemma(&self, object: usize) -> String {
        self.objects
            .get(object)
            .map(|object| self.lemmas(&object.words))
            .unwrap_or_default()
    }

    /// Lemmas of words, joined with spaces.
    pub fn lemmas(&self, words: &[usize]) -> String {
        join(
            words
                .iter()
                .filter_map(|word| self.words.get(*word))
                .map(|word| word.lemma.as_str()),
        )
    }

    /// The graph as lists of word numbers, the form in which this field stores it with a caption.
    pub fn to_tsg(&self) -> Tsg {
        let words = |object: usize| {
            self.objects
                .get(object)
                .map(|object| object.words.clone())
                .unwrap_or_default()
        };
        Tsg {
            objs: self
                .objects
                .iter()
                .map(|object| [object.words.clone()])
                .collect(),
            attrs: self
                .attributes
                .iter()
                .map(|attribute| [words(attribute.object), attribute.words.clone()])
                .collect(),
            rels: self
                .relations
                .iter()
                .map(|relation| {
                    [
                        words(relation.subject),
                        relation.words.clone(),
                        words(relation.object),
                    ]
                })
                .collect(),
            mixed: Vec::new(),
        }
    }

    /// Builds a graph from a stored one. Names and values are the lemmas of their words; objects that only an
    /// attribute or relation names are added.
    ///
    /// # Errors
    /// If there are not as many lemmas as words in `text`, or a word number is beyond them.
    pub fn from_tsg(text: &str, lemmas: &[String], tsg: &Tsg) -> Result<Self, TsgError> {
        let mut at = 0;
        let mut words = Vec::new();
        for (index, word) in text.split_whitespace().enumerate() {
            let start = at + text.get(at..).and_then(|rest| rest.find(word)).unwrap_or(0);
            at = start + word.len();
            words.push(Word {
                text: word.to_owned(),
                lemma: lemmas.get(index).cloned().unwrap_or_default(),
                span: start..at,
            });
        }
        if words.len() != lemmas.len() {
            return Err(TsgError::Lemmas {
                words: words.len(),
                lemmas: lemmas.len(),
            });
        }
        let mut graph = Self {
            words,
            ..Self::default()
        };
        for object in &tsg.objs {
            graph.stored(&object[0])?;
        }
        for [object, words] in &tsg.attrs {
            let object = graph.stored(object)?;
            let value = graph.checked(words)?;
            graph.attributes.push(Attribute {
                object,
                words: words.clone(),
                value,
            });
        }
        for [subject, words, object] in &tsg.rels {
            let subject = graph.stored(subject)?;
            let object = graph.stored(object)?;
            let said = graph.checked(words)?;
            graph.relations.push(Relation {
                subject,
                words: words.clone(),
                object,
                predicate: if said.is_empty() {
                    "have".to_owned()
                } else {
                    said
                },
            });
        }
        Ok(graph)
    }

    /// The object with these words, added if it is not there.
    fn stored(&mut self, words: &[usize]) -> Result<usize, TsgError> {
        if let Some(found) = self.objects.iter().position(|object| object.words == words) {
            return Ok(found);
        }
        let name = self.checked(words)?;
        self.objects.push(Object {
            words: words.to_vec(),
            name,
        });
        Ok(self.objects.len() - 1)
    }

    fn checked(&self, words: &[usize]) -> Result<String, TsgError> {
        match words.iter().find(|word| **word >= self.words.len()) {
            Some(word) => Err(TsgError::Beyond {
                word: *word,
                words: self.words.len(),
            }),
            None => Ok(self.lemmas(words)),
        }
    }

    /// The facts of the graph: `[object, is, value]`, `[subject, predicate, object]`, and `[object]` for one of which
    /// nothing else is said. Without repetitions.
    pub fn facts(&self) -> Vec<Vec<String>> {
        let name = |object: usize| {
            self.objects
                .get(object)
                .map(|object| object.name.clone())
                .unwrap_or_default()
        };
        let mut spoken = vec![false; self.objects.len()];
        let mut speak = |object: usize| {
            if let Some(spoken) = spoken.get_mut(object) {
                *spoken = true;
            }
        };
        let mut facts: Vec<Vec<String>> = Vec::new();
        for attribute in &self.attributes {
            speak(attribute.object);
            facts.push(vec![
                name(attribute.object),
                "is".to_owned(),
                attribute.value.clone(),
            ]);
        }
        for relation in &self.relations {
            speak(relation.subject);
            speak(relation.object);
            facts.push(vec![
                name(relation.subject),
                relation.predicate.clone(),
                name(relation.object),
            ]);
        }
        let alone = self
            .objects
            .iter()
            .zip(spoken)
            .filter(|(_, spoken)| !spoken);
        facts.extend(alone.map(|(object, _)| vec![object.name.clone()]));
        let mut seen = HashSet::new();
        facts.retain(|fact| seen.insert(fact.clone()));
        facts
    }

    /// The graph in the DOT language: boxes for objects, ellipses for attributes, labelled arrows for relations.
    pub fn to_dot(&self) -> String {
        let mut dot = dot::Writer::new("caption");
        for (index, object) in self.objects.iter().enumerate() {
            dot.node(&format!("o{index}"), &object.name, "box");
        }
        for (index, attribute) in self.attributes.iter().enumerate() {
            dot.node(&format!("a{index}"), &attribute.value, "ellipse");
            dot.line(&format!("o{}", attribute.object), &format!("a{index}"), "");
        }
        for relation in &self.relations {
            dot.arrow(
                &format!("o{}", relation.subject),
                &format!("o{}", relation.object),
                &relation.predicate,
            );
        }
        dot.finish()
    }
}

/// A graph with all forms that it is stored in, for JSON.
#[derive(Clone, Debug, Serialize)]
pub struct Document<'a> {
    /// The cleaned caption.
    pub text: String,
    /// Base forms of its words.
    pub lemmas: Vec<&'a str>,
    /// Word numbers, as this field stores graphs.
    pub tsg: Tsg,
    /// What is said, see [`TextGraph::facts`].
    pub facts: Vec<Vec<String>>,
    /// Words, objects, attributes and relations.
    #[serde(flatten)]
    pub graph: &'a TextGraph,
}

impl TextGraph {
    /// The graph with all forms that it is stored in.
    pub fn document(&self) -> Document<'_> {
        Document {
            text: self.text(),
            lemmas: self.words.iter().map(|word| word.lemma.as_str()).collect(),
            tsg: self.to_tsg(),
            facts: self.facts(),
            graph: self,
        }
    }
}

/// The facts, one a line: `(dog, is, brown)`.
impl fmt::Display for TextGraph {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fact) in self.facts().iter().enumerate() {
            if index > 0 {
                writeln!(formatter)?;
            }
            write!(formatter, "({})", fact.join(", "))?;
        }
        Ok(())
    }
}

/// Scene graph of a caption as word numbers (`specs/tbkin.md` 2.2).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tsg {
    /// Objects: `[[words]]` each.
    pub objs: Vec<[Vec<usize>; 1]>,
    /// Attributes: `[[words of the object], [words that say it]]`.
    pub attrs: Vec<[Vec<usize>; 2]>,
    /// Relations: `[[words of the subject], [words that say it], [words of the object]]`.
    pub rels: Vec<[Vec<usize>; 3]>,
    /// Read and written, never used.
    #[serde(default)]
    pub mixed: Vec<serde_json::Value>,
}

/// Why a stored graph does not fit its caption.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum TsgError {
    /// Lemmas and words differ in number.
    #[error("{words} words but {lemmas} lemmas; a stored graph has a lemma for each word")]
    Lemmas {
        /// Words of the caption.
        words: usize,
        /// Lemmas given.
        lemmas: usize,
    },
    /// A word number is too large.
    #[error("word number {word} in a caption of {words} words; numbers start at 0")]
    Beyond {
        /// The number.
        word: usize,
        /// Words of the caption.
        words: usize,
    },
}

fn join<'a>(words: impl Iterator<Item = &'a str>) -> String {
    words.collect::<Vec<_>>().join(" ")
}
