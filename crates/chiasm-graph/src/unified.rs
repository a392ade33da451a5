//! The unified scene graph: a caption's words and a picture's regions, joined where they speak of the same thing.
//!
//! Owns the vertices, the weights of the edges, anchors, and the knowledge entry around an anchor
//! (`specs/tbkin.md` 2.2 to 2.4). Where similarities of words and class names come from is the caller's choice:
//! [`crate::vectors::Similarity`] is the built-in list or word vectors. What is masked because of a graph is
//! [`crate::mask`]'s.

use std::collections::HashMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::config::GraphConfig;
use crate::dot;
use crate::image::{self, ImageGraph};
use crate::priors::{Priors, contexts};
use crate::text::TextGraph;

/// A vertex of the graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Vertex {
    /// A word of the cleaned caption.
    Word(usize),
    /// A region of the picture.
    Region(usize),
}

/// What a word says of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WordLink {
    /// An attribute.
    Attribute,
    /// A relation that the object takes part in.
    Relation,
}

/// An object's word and a word that says something of it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct WordEdge {
    /// A word of the object.
    pub object: usize,
    /// The word of the attribute or relation.
    pub word: usize,
    /// Which of the two.
    pub link: WordLink,
    /// How often they go together, see [`Priors`].
    pub frequency: f64,
    /// Weight of the edge.
    pub weight: f64,
}

/// The unified scene graph of a caption and its picture.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct UnifiedGraph {
    /// Words of the cleaned caption.
    pub words: Vec<String>,
    /// Class names of the regions.
    pub regions: Vec<String>,
    /// Words of each object of the caption.
    pub objects: Vec<Vec<usize>>,
    /// Edges between words.
    pub word_edges: Vec<WordEdge>,
    /// Edges between regions.
    pub region_edges: Vec<image::RegionEdge>,
    /// Similarity of each word and region, `[words, regions]`; 0 where they are not joined.
    pub cross: Vec<f64>,
}

/// A vertex that is reached from an anchor.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reached {
    /// The vertex.
    pub vertex: Vertex,
    /// Similarity to the anchor; along a path the product of its edges.
    pub similarity: f64,
}

/// What a graph knows about an anchor (`specs/tbkin.md` 2.4): nothing farther than one cross edge and one inner edge.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// The anchor.
    pub anchor: Vertex,
    /// Neighbours on its own side.
    pub neighbours: Vec<Reached>,
    /// What it is joined with on the other side.
    pub counterparts: Vec<Reached>,
    /// Neighbours of the counterparts, once for each path.
    pub beyond: Vec<Reached>,
}

impl UnifiedGraph {
    /// Joins the graph of a caption and that of a picture.
    ///
    /// `similarity` of an object of the caption and a class name, in `0..=1`, is asked for the whole name and for its
    /// last word; the larger counts, for all words of the object, when it reaches `config.cross_cut`. Without `priors`
    /// all edges between words have the floor as weight, as unseen ones have.
    pub fn new(
        text: &TextGraph,
        image: &ImageGraph,
        priors: Option<&Priors>,
        config: &GraphConfig,
        similarity: impl Fn(&str, &str) -> f64,
    ) -> Self {
        let mut graph = Self {
            words: text.words.iter().map(|word| word.text.clone()).collect(),
            regions: image
                .regions
                .iter()
                .map(|region| region.name.clone())
                .collect(),
            objects: text
                .objects
                .iter()
                .map(|object| object.words.clone())
                .collect(),
            word_edges: word_edges(text, priors, config),
            region_edges: image
                .edges
                .iter()
                .copied()
                .filter(|edge| edge.iou > config.iou_edge)
                .collect(),
            cross: vec![0.0; text.words.len() * image.regions.len()],
        };
        // Pictures have far fewer classes than regions.
        let mut known: HashMap<(usize, &str), f64> = HashMap::new();
        for (index, object) in text.objects.iter().enumerate() {
            let name = text.object_lemma(index);
            let head = object
                .words
                .last()
                .map(|word| text.lemmas(&[*word]))
                .unwrap_or_default();
            for (region, class) in image.regions.iter().enumerate() {
                let g = *known
                    .entry((index, class.name.as_str()))
                    .or_insert_with(|| {
                        let g = similarity(&name, &class.name);
                        if head == name {
                            g
                        } else {
                            g.max(similarity(&head, &class.name))
                        }
                    });
                if g >= config.cross_cut && !class.name.is_empty() {
                    for word in &object.words {
                        graph.join(*word, region, g);
                    }
                }
            }
        }
        graph
    }

    /// Joins a word and a region that do not have a closer tie.
    fn join(&mut self, word: usize, region: usize, g: f64) {
        let at = word * self.regions.len() + region;
        if let Some(cross) = self.cross.get_mut(at) {
            *cross = cross.max(g.min(1.0));
        }
    }

    /// Similarity of a word and a region; 0 where they are not joined or not there.
    pub fn g(&self, word: usize, region: usize) -> f64 {
        if region >= self.regions.len() {
            return 0.0;
        }
        self.cross
            .get(word * self.regions.len() + region)
            .copied()
            .unwrap_or(0.0)
    }

    /// Vertices with an edge to the other side, words first.
    pub fn anchors(&self) -> Vec<Vertex> {
        let words = (0..self.words.len()).filter(|word| self.regions_of(*word).next().is_some());
        let regions =
            (0..self.regions.len()).filter(|region| self.words_of(*region).next().is_some());
        words
            .map(Vertex::Word)
            .chain(regions.map(Vertex::Region))
            .collect()
    }

    /// Regions that a word is joined with, and how closely.
    pub(crate) fn regions_of(&self, word: usize) -> impl Iterator<Item = (usize, f64)> + '_ {
        let row = self.regions.len();
        let cells = self
            .cross
            .get(word * row..(word + 1) * row)
            .unwrap_or_default();
        cells.iter().copied().enumerate().filter(|(_, g)| *g > 0.0)
    }

    /// Words that a region is joined with, and how closely.
    pub(crate) fn words_of(&self, region: usize) -> impl Iterator<Item = (usize, f64)> + '_ {
        (0..self.words.len())
            .map(move |word| (word, self.g(word, region)))
            .filter(|(_, g)| *g > 0.0)
    }

    /// Words that say something of a word, or that it says something of.
    pub(crate) fn words_beside(&self, word: usize) -> impl Iterator<Item = (usize, f64)> + '_ {
        self.word_edges.iter().filter_map(move |edge| {
            if edge.object == word {
                Some((edge.word, edge.weight))
            } else if edge.word == word {
                Some((edge.object, edge.weight))
            } else {
                None
            }
        })
    }

    /// Regions that overlap a region.
    pub(crate) fn regions_beside(&self, region: usize) -> impl Iterator<Item = (usize, f64)> + '_ {
        self.region_edges.iter().filter_map(move |edge| {
            if edge.a == region {
                Some((edge.b, edge.iou))
            } else if edge.b == region {
                Some((edge.a, edge.iou))
            } else {
                None
            }
        })
    }

    /// What is known about an anchor.
    pub fn entry(&self, anchor: Vertex) -> Entry {
        let reached = |(vertex, similarity)| Reached { vertex, similarity };
        let beside = |vertex: Vertex| -> Vec<Reached> {
            match vertex {
                Vertex::Word(word) => self
                    .words_beside(word)
                    .map(|(at, s)| reached((Vertex::Word(at), s)))
                    .collect(),
                Vertex::Region(region) => self
                    .regions_beside(region)
                    .map(|(at, s)| reached((Vertex::Region(at), s)))
                    .collect(),
            }
        };
        let counterparts: Vec<Reached> = match anchor {
            Vertex::Word(word) => self
                .regions_of(word)
                .map(|(at, g)| reached((Vertex::Region(at), g)))
                .collect(),
            Vertex::Region(region) => self
                .words_of(region)
                .map(|(at, g)| reached((Vertex::Word(at), g)))
                .collect(),
        };
        let beyond = counterparts.iter().flat_map(|first| {
            beside(first.vertex).into_iter().map(|second| Reached {
                vertex: second.vertex,
                similarity: first.similarity * second.similarity,
            })
        });
        Entry {
            anchor,
            neighbours: beside(anchor),
            beyond: beyond.collect(),
            counterparts,
        }
    }

    /// The graph in the DOT language: words on one side, regions on the other, dashed where they are joined.
    pub fn to_dot(&self) -> String {
        let mut dot = dot::Writer::new("unified");
        let objects: Vec<usize> = self.objects.iter().flatten().copied().collect();
        for (index, word) in self.words.iter().enumerate() {
            let linked = self.words_beside(index).next().is_some();
            if objects.contains(&index) || linked {
                dot.node(
                    &format!("w{index}"),
                    word,
                    if objects.contains(&index) {
                        "box"
                    } else {
                        "ellipse"
                    },
                );
            }
        }
        for (index, region) in self.regions.iter().enumerate() {
            dot.node(
                &format!("r{index}"),
                &image::label(index, region),
                "component",
            );
        }
        for edge in &self.word_edges {
            dot.line(
                &format!("w{}", edge.object),
                &format!("w{}", edge.word),
                &format!("{:.2}", edge.weight),
            );
        }
        for edge in &self.region_edges {
            dot.line(
                &format!("r{}", edge.a),
                &format!("r{}", edge.b),
                &format!("{:.2}", edge.iou),
            );
        }
        for word in 0..self.words.len() {
            for (region, g) in self.regions_of(word) {
                dot.dashed(
                    &format!("w{word}"),
                    &format!("r{region}"),
                    &format!("{g:.2}"),
                );
            }
        }
        dot.finish()
    }
}

/// An edge a line: `dog -- brown 0.35`, `dog 3 -- grass 4 0.41` between regions, `dog ~~ dog 3 1.00` between both.
impl fmt::Display for UnifiedGraph {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = |index: usize| self.words.get(index).map_or("", String::as_str);
        let region =
            |index: usize| image::label(index, self.regions.get(index).map_or("", String::as_str));
        for edge in &self.word_edges {
            writeln!(
                formatter,
                "{} -- {} {:.2}",
                word(edge.object),
                word(edge.word),
                edge.weight
            )?;
        }
        for edge in &self.region_edges {
            writeln!(
                formatter,
                "{} -- {} {:.2}",
                region(edge.a),
                region(edge.b),
                edge.iou
            )?;
        }
        for index in 0..self.words.len() {
            for (at, g) in self.regions_of(index) {
                writeln!(formatter, "{} ~~ {} {g:.2}", word(index), region(at))?;
            }
        }
        Ok(())
    }
}

/// Edges between an object's words and those of its attributes and relations; of several between the same words the
/// one that is seen more often.
fn word_edges(text: &TextGraph, priors: Option<&Priors>, config: &GraphConfig) -> Vec<WordEdge> {
    let mut edges: Vec<WordEdge> = Vec::new();
    let mut add = |object: usize, words: &[usize], link: WordLink, frequency: f64| {
        let scale = match link {
            WordLink::Attribute => config.freq_attr,
            WordLink::Relation => config.freq_rel,
        };
        let Some(object) = text.objects.get(object) else {
            return;
        };
        for from in &object.words {
            for word in words {
                let edge = WordEdge {
                    object: *from,
                    word: *word,
                    link,
                    frequency,
                    weight: scale.weight(frequency),
                };
                match edges
                    .iter_mut()
                    .find(|other| other.object == *from && other.word == *word)
                {
                    Some(other) if other.weight < edge.weight => *other = edge,
                    Some(_) => {}
                    None => edges.push(edge),
                }
            }
        }
    };
    for attribute in &text.attributes {
        let seen = |priors: &Priors| {
            priors.attribute(
                &text.object_lemma(attribute.object),
                &text.lemmas(&attribute.words),
            )
        };
        add(
            attribute.object,
            &attribute.words,
            WordLink::Attribute,
            priors.map_or(0.0, seen),
        );
    }
    for relation in &text.relations {
        let (of_subject, of_object) = contexts(text, relation);
        for (object, context) in [(relation.subject, of_subject), (relation.object, of_object)] {
            let seen = |priors: &Priors| priors.context(&text.object_lemma(object), &context);
            add(
                object,
                &relation.words,
                WordLink::Relation,
                priors.map_or(0.0, seen),
            );
        }
    }
    edges
}
