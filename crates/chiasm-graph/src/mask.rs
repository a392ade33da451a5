//! Which words and regions knowledge hides, and how likely: the rules of structural knowledge masking.
//!
//! Owns probabilities, as pure functions of a graph and its anchors (`specs/tbkin.md` 3.1 to 3.4). Throwing the dice is
//! [`crate::draw`]'s. A probability is of the rule alone; that any token may be masked besides, with probability
//! `base`, comes with the draw.

use serde::{Deserialize, Serialize};

use crate::config::MaskConfig;
use crate::unified::{UnifiedGraph, Vertex, WordLink};

/// Which side of a pair the anchors are on. Only tokens of that side may be predicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// Words of the caption.
    Text,
    /// Regions of the picture.
    Image,
}

/// How likely each token is hidden.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Probabilities {
    /// For each word of the caption.
    pub words: Vec<f64>,
    /// For each region.
    pub regions: Vec<f64>,
}

impl Probabilities {
    fn none(graph: &UnifiedGraph) -> Self {
        Self {
            words: vec![0.0; graph.words.len()],
            regions: vec![0.0; graph.regions.len()],
        }
    }

    fn at(&mut self, vertex: Vertex) -> Option<&mut f64> {
        match vertex {
            Vertex::Word(word) => self.words.get_mut(word),
            Vertex::Region(region) => self.regions.get_mut(region),
        }
    }

    /// Raises a token's probability to at least `to`.
    fn raise(&mut self, vertex: Vertex, to: f64) {
        if let Some(probability) = self.at(vertex) {
            *probability = probability.max(to.clamp(0.0, 1.0));
        }
    }
}

/// Vertices that anchors are made of: all words of each object, or the regions themselves.
fn vertices(graph: &UnifiedGraph, side: Side, anchors: &[usize]) -> Vec<Vertex> {
    match side {
        Side::Text => anchors
            .iter()
            .filter_map(|object| graph.objects.get(*object))
            .flatten()
            .map(|word| Vertex::Word(*word))
            .collect(),
        Side::Image => anchors
            .iter()
            .map(|region| Vertex::Region(*region))
            .collect(),
    }
}

fn is_intra(config: &MaskConfig, side: Side) -> bool {
    match side {
        Side::Text => config.intra_text,
        Side::Image => config.intra_image,
    }
}

/// `figure` (section 3.1). Anchors are objects of the caption or regions, by `side`.
///
/// An anchor has probability 1 and its neighbour the weight of their edge, the largest over all anchors. On the other
/// side a counterpart has one minus its similarity and a counterpart's neighbour one minus the product along the path,
/// the smallest over all anchors and paths: what is evidence for any anchor stays.
pub fn figure(
    graph: &UnifiedGraph,
    side: Side,
    anchors: &[usize],
    config: &MaskConfig,
) -> Probabilities {
    let mut found = Probabilities::none(graph);
    // Similarity to the closest anchor, for tokens of the other side that any anchor reaches.
    let mut closest = Probabilities::none(graph);
    for anchor in vertices(graph, side, anchors) {
        let entry = graph.entry(anchor);
        found.raise(anchor, 1.0);
        if is_intra(config, side) {
            for reached in &entry.neighbours {
                found.raise(reached.vertex, reached.similarity);
            }
        }
        if config.cross {
            for reached in entry.counterparts.iter().chain(&entry.beyond) {
                closest.raise(reached.vertex, reached.similarity);
            }
        }
    }
    let evidence = |probabilities: &mut Vec<f64>, similarities: Vec<f64>| {
        for (probability, similarity) in probabilities.iter_mut().zip(similarities) {
            if similarity > 0.0 {
                *probability = 1.0 - similarity;
            }
        }
    };
    match side {
        Side::Text => evidence(&mut found.regions, closest.regions),
        Side::Image => evidence(&mut found.words, closest.words),
    }
    found
}

/// `released`, text side (section 3.2): anchors 1, words of their attributes and relations the weight of the edge, the
/// largest over all anchors. On the image side the published code masks regions outright, see [`crate::draw`].
pub fn released_words(graph: &UnifiedGraph, anchors: &[usize], config: &MaskConfig) -> Vec<f64> {
    let without_cross = MaskConfig {
        cross: false,
        ..config.clone()
    };
    figure(graph, Side::Text, anchors, &without_cross).words
}

/// Largest keep weight of a token that has to do with a masked one.
const KEEP: f64 = 0.98;

/// Keep weights of regions when words are masked (section 3.2): 1 for what has nothing to do with them.
///
/// # Shapes
/// - `masked`: true where a word is masked, `[words]`
/// - output: `[regions]`; a region is hidden with one minus its weight
pub fn keep_regions(graph: &UnifiedGraph, masked: &[bool], strong: f64) -> Vec<f64> {
    let mut keep = vec![None; graph.regions.len()];
    for (word, _) in masked.iter().enumerate().filter(|(_, masked)| **masked) {
        for (region, g) in graph.regions_of(word).filter(|(_, g)| *g > strong) {
            let own = g.min(KEEP);
            raise(&mut keep, region, own);
            for (beside, iou) in graph.regions_beside(region) {
                raise(&mut keep, beside, own * (1.0 + 0.3 * (iou - 0.7).min(0.0)));
            }
        }
    }
    keep.into_iter().map(|keep| keep.unwrap_or(1.0)).collect()
}

/// Keep weights of words when regions are masked (section 3.2): 1 for what has nothing to do with them.
///
/// # Shapes
/// - `centres`: true where a region is masked for itself, `[regions]`
/// - output: `[words]`; a word is hidden with one minus its weight
pub fn keep_words(graph: &UnifiedGraph, centres: &[bool], strong: f64) -> Vec<f64> {
    let mut keep = vec![None; graph.words.len()];
    for (region, _) in centres.iter().enumerate().filter(|(_, masked)| **masked) {
        for (word, g) in graph.words_of(region).filter(|(_, g)| *g > strong) {
            let own = g.min(KEEP);
            raise(&mut keep, word, own);
            for edge in graph.word_edges.iter().filter(|edge| edge.object == word) {
                // The published decay: softer for attributes than for relations.
                let factor = match edge.link {
                    WordLink::Attribute => 1.0 + 0.3 * (edge.frequency - 0.5).min(0.0),
                    WordLink::Relation => 1.0 + 0.75 * (edge.frequency - 0.2).min(0.0),
                };
                raise(&mut keep, edge.word, own * factor);
            }
        }
    }
    keep.into_iter().map(|keep| keep.unwrap_or(1.0)).collect()
}

fn raise(keep: &mut [Option<f64>], at: usize, to: f64) {
    if let Some(keep) = keep.get_mut(at) {
        *keep = Some(keep.unwrap_or(0.0).max(to.min(KEEP)));
    }
}

/// `randomwalk` (section 3.3): probabilities from a walk of one or two steps over inner edges and strong cross edges.
///
/// An anchor has probability 1. Reached with probability w, a token of its own side is hidden with 0.9 w and one of the
/// other side, if it has any edge, with 0.1 (1 - w). Several anchors are merged as in [`figure`]; the published loader
/// let the last one win. An anchor without a strong edge to the other side hides itself alone.
pub fn random_walk(
    graph: &UnifiedGraph,
    side: Side,
    anchors: &[usize],
    strong: f64,
    config: &MaskConfig,
) -> Probabilities {
    const OWN: f64 = 0.9;
    const OTHER: f64 = 0.1;
    /// Shares of walks of one step and of two.
    const STEPS: (f64, f64) = (0.8, 0.2);
    let words = graph.words.len();
    let walk = Walk::over(graph, strong);
    let mut found = Probabilities::none(graph);
    // Tokens of the other side with the largest probability that they are reached with.
    let mut reached = vec![None::<f64>; walk.size];
    for anchor in vertices(graph, side, anchors) {
        found.raise(anchor, 1.0);
        let at = match anchor {
            Vertex::Word(word) => word,
            Vertex::Region(region) => words + region,
        };
        let first = walk.row(at);
        let crosses = match side {
            Side::Text => first.get(words..),
            Side::Image => first.get(..words),
        };
        if !crosses.unwrap_or_default().iter().any(|step| *step > 0.0) {
            continue;
        }
        let second = walk.step(first);
        for (other, (one, two)) in first.iter().zip(&second).enumerate() {
            let weight = STEPS.0 * one + STEPS.1 * two;
            let own = (other < words) == (side == Side::Text);
            if own && other != at && is_intra(config, side) {
                found.raise(vertex(words, other), OWN * weight);
            } else if !own
                && config.cross
                && walk.row(other).iter().any(|step| *step > 0.0)
                && let Some(reached) = reached.get_mut(other)
            {
                *reached = Some(reached.unwrap_or(0.0).max(weight));
            }
        }
    }
    for (other, weight) in reached.into_iter().enumerate() {
        if let Some(weight) = weight {
            found.raise(vertex(words, other), OTHER * (1.0 - weight));
        }
    }
    found
}

/// The vertex at a row of a [`Walk`]: words first, then regions.
fn vertex(words: usize, at: usize) -> Vertex {
    if at < words {
        Vertex::Word(at)
    } else {
        Vertex::Region(at - words)
    }
}

/// How likely a step leads from each vertex to each other: rows sum to one, or are zero.
struct Walk {
    size: usize,
    values: Vec<f64>,
}

impl Walk {
    fn over(graph: &UnifiedGraph, strong: f64) -> Self {
        let words = graph.words.len();
        let size = words + graph.regions.len();
        let mut walk = Self {
            size,
            values: vec![0.0; size * size],
        };
        for edge in &graph.word_edges {
            walk.set(edge.object, edge.word, edge.weight);
        }
        for edge in &graph.region_edges {
            walk.set(words + edge.a, words + edge.b, edge.iou);
        }
        for word in 0..words {
            for (region, g) in graph.regions_of(word).filter(|(_, g)| *g > strong) {
                walk.set(word, words + region, g);
            }
        }
        // Each side of a row sums to one before the row does: both sides are as likely, where there are both.
        for row in walk.values.chunks_exact_mut(size.max(1)) {
            let (to_words, to_regions) = row.split_at_mut(words);
            normalise(to_words);
            normalise(to_regions);
            normalise(row);
        }
        walk
    }

    fn set(&mut self, a: usize, b: usize, value: f64) {
        for at in [a * self.size + b, b * self.size + a] {
            if let Some(cell) = self.values.get_mut(at) {
                *cell = cell.max(value);
            }
        }
    }

    fn row(&self, at: usize) -> &[f64] {
        self.values
            .get(at * self.size..(at + 1) * self.size)
            .unwrap_or_default()
    }

    /// Where a walk is after another step from `from`.
    fn step(&self, from: &[f64]) -> Vec<f64> {
        let mut to = vec![0.0; self.size];
        for (at, share) in from.iter().enumerate().filter(|(_, share)| **share > 0.0) {
            for (to, value) in to.iter_mut().zip(self.row(at)) {
                *to += share * value;
            }
        }
        to
    }
}

fn normalise(row: &mut [f64]) {
    let sum: f64 = row.iter().sum();
    if sum > 0.0 {
        for value in row {
            *value /= sum;
        }
    }
}
