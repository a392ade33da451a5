//! Draws the masks of a batch that a scene graph leads (`specs/tbkin.md` sections 3.1 to 3.4): captions
//! are parsed, joined with the regions of their pictures, and what is hidden follows from the graph.
//!
//! Owns the way from texts, tokens and regions to `chiasm_graph` and back. The rules are there.

use std::io::BufRead;
use std::ops::Range;

use chiasm_data::rng;
use chiasm_data::{Part, RegionRows};
use chiasm_graph::draw::{Fate, Masks, Pair, draw};
use chiasm_graph::image::{ImageGraph, Region};
use chiasm_graph::priors::{PriorCounter, Priors};
use chiasm_graph::text;
use chiasm_graph::unified::UnifiedGraph;
use chiasm_graph::vectors::{Similarity, VectorsError, WordVectors, words_of};
use chiasm_nn::boxes::in_pixels;
use chiasm_nn::regions::Regions;
use chiasm_nn::text::TextInput;
use rayon::prelude::*;

use burn::tensor::Device;

use crate::config::KnowledgeConfig;
use crate::knowledge::{KnowledgeInput, RegionTargets};
use crate::masking::{DrawKey, MatchingDraw, TextRows, Vocabulary, partners};
use crate::mlm::MlmTargets;

/// What a run knows of its captions and classes beside the batch.
#[derive(Clone, Debug, Default)]
pub struct Knowledge {
    /// Names of the classes that regions can have.
    pub names: Vec<String>,
    /// How often captions say what of what.
    pub priors: Priors,
    /// How near words and names of classes are.
    pub similarity: Similarity,
}

impl Knowledge {
    /// Of the captions that a run learns from, and the names of a detector's classes. Similarities come
    /// from a text file of word vectors where there is one.
    ///
    /// # Errors
    /// Vectors that cannot be read, or that are of none of the words.
    pub fn learn<'a>(
        captions: impl Iterator<Item = &'a str>,
        names: Vec<String>,
        vectors: Option<impl BufRead>,
    ) -> Result<Self, VectorsError> {
        let captions: Vec<&str> = captions.collect();
        let graphs: Vec<_> = captions
            .par_iter()
            .map(|caption| text::parse(caption))
            .collect();
        let mut counter = PriorCounter::default();
        for graph in &graphs {
            counter.add(graph);
        }
        let similarity = match vectors {
            None => Similarity::Lexicon,
            Some(file) => {
                let words = words_of(graphs.iter(), names.iter().map(String::as_str));
                Similarity::Vectors(WordVectors::read(file, &words)?)
            }
        };
        Ok(Self {
            names,
            priors: counter.finish(),
            similarity,
        })
    }
}

/// The captions and regions of a batch on the host.
#[derive(Clone, Copy, Debug)]
pub struct KnowledgeRows<'a> {
    /// The captions.
    pub captions: &'a [String],
    /// Which bytes of its caption each token is, special tokens none.
    pub offsets: &'a [Vec<Range<usize>>],
    /// Regions of each picture.
    pub regions: &'a RegionRows,
    /// The pairs that this process works on.
    pub part: Part,
}

/// Draws masks for the own part of the first texts, as many as `text` has, and the image that each is
/// paired with.
#[must_use]
pub fn knowledge_draw(
    text: TextRows<'_>,
    rows: KnowledgeRows<'_>,
    knowledge: &Knowledge,
    vocabulary: &Vocabulary,
    config: &KnowledgeConfig,
    key: DrawKey<'_>,
    device: &Device,
) -> KnowledgeInput {
    let batch = text.rows();
    let negatives = (batch as f64 * config.negatives).round() as usize;
    let matching = partners(text, batch - negatives.min(batch), "knowledge pairs", key);
    let starts = starts(&rows.regions.counts);
    let own: Vec<usize> = rows.part.rows(batch).collect();
    let masked: Vec<Masked> = own
        .par_iter()
        .map(|row| {
            let row = *row;
            let image = matching.partner.get(row).copied().unwrap_or(row);
            let span = starts.get(image).copied().unwrap_or(0)
                ..starts.get(image + 1).copied().unwrap_or(0);
            of_pair(row, span, &matching, rows, knowledge, config, key)
        })
        .collect();
    let (mut ids, mut keep): (Vec<i64>, Vec<i64>) = (Vec::new(), Vec::new());
    let mut words = MlmTargets::default();
    let mut packed = 0;
    for (row, masked) in own.iter().copied().zip(&masked) {
        let tokens = row * text.len..(row + 1) * text.len;
        let first = ids.len();
        ids.extend(text.input_ids.get(tokens.clone()).unwrap_or_default());
        keep.extend(text.attention_mask.get(tokens).unwrap_or_default());
        for (token, fate) in masked.tokens.iter().zip(&masked.masks.pieces) {
            let Some(id) = ids.get_mut(first + token) else {
                continue;
            };
            if fate.is_chosen() && masked.masks.predict_pieces {
                words.positions.push(packed + token);
                words.labels.push(u32::try_from(*id).unwrap_or(0));
            }
            match fate {
                Fate::Masked => *id = vocabulary.mask_id(),
                Fate::Replaced(share) => *id = vocabulary.ordinary(*share).unwrap_or(*id),
                Fate::Kept | Fate::Unchanged => {}
            }
        }
        packed += text.real_tokens(row);
    }
    let (seen, targets) = hide(rows.regions, &masked);
    KnowledgeInput {
        text: TextInput::from_padded(&ids, &keep, text.len),
        words,
        regions: Regions::new(&seen, device),
        targets,
        matching: matching.of(&own),
    }
}

/// The masks of a pair.
struct Masked {
    /// The pair's regions in the batch.
    regions: Range<usize>,
    /// Size of its picture.
    image: usize,
    masks: Masks,
    /// Which token of the text each piece of the masks is.
    tokens: Vec<usize>,
}

fn of_pair(
    row: usize,
    span: Range<usize>,
    matching: &MatchingDraw,
    rows: KnowledgeRows<'_>,
    knowledge: &Knowledge,
    config: &KnowledgeConfig,
    key: DrawKey<'_>,
) -> Masked {
    let image = matching.partner.get(row).copied().unwrap_or(row);
    let caption = rows.captions.get(row).map_or("", String::as_str);
    let parsed = text::parse(caption);
    let (width, height) = rows.regions.sizes.get(image).copied().unwrap_or((1, 1));
    let name = |region: usize| {
        let (class, sure) = rows
            .regions
            .classes
            .get(region)
            .copied()
            .unwrap_or((0, 0.0));
        let name = knowledge.names.get(class as usize).filter(|_| sure > 0.0);
        name.cloned().unwrap_or_default()
    };
    let corners = |region: usize| {
        let corners = rows.regions.boxes.get(region).copied();
        in_pixels(corners.unwrap_or_default(), [width, height].map(f64::from))
    };
    let regions = span.clone().map(|region| Region {
        corners: corners(region),
        name: name(region),
    });
    // Boxes are finite and few: a reader has seen to it. Otherwise there are no edges between them.
    let picture = ImageGraph::new(regions.collect(), config.graph.iou_edge).unwrap_or_default();
    let priors = Some(&knowledge.priors);
    let similarity = |word: &str, name: &str| knowledge.similarity.of(word, name);
    let graph = UnifiedGraph::new(&parsed, &picture, priors, &config.graph, similarity);
    let offsets = rows.offsets.get(row).map_or(&[][..], Vec::as_slice);
    let mut pieces = vec![0; parsed.words.len()];
    let mut tokens = Vec::new();
    for (word, count) in parsed.words.iter().zip(&mut pieces) {
        let of_word = offsets.iter().enumerate().filter(|(_, token)| {
            !token.is_empty() && token.start < word.span.end && token.end > word.span.start
        });
        for (token, _) in of_word {
            tokens.push(token);
            *count += 1;
        }
    }
    let sample = key.samples.get(row).copied().unwrap_or(row) as u64;
    let mut stream = rng::stream(key.seed, "knowledge", &[key.step, sample]);
    let pair = Pair {
        graph: &graph,
        pieces: &pieces,
        matched: matching.labels.get(row) == Some(&1),
    };
    let masks = config.masks.ablated(config.masking);
    let strong = config.graph.cross_strong;
    let masks = draw(pair, &masks, strong, || rng::unit_f64(&mut stream));
    Masked {
        regions: span,
        image,
        masks,
        tokens,
    }
}

/// The pairs' regions with hidden ones corrupted, and what is asked of these.
fn hide(regions: &RegionRows, masked: &[Masked]) -> (RegionRows, RegionTargets) {
    let dim = regions.dim;
    let feature = |region: usize| {
        let features = regions.features.get(region * dim..(region + 1) * dim);
        features.unwrap_or_default()
    };
    let mut seen = RegionRows {
        dim,
        ..RegionRows::default()
    };
    let mut targets = RegionTargets {
        dim,
        ..RegionTargets::default()
    };
    for pair in masked {
        let fates = pair.masks.regions.iter().copied();
        let fates = fates.chain(std::iter::repeat(Fate::Kept));
        for (region, fate) in pair.regions.clone().zip(fates) {
            let known = |of: &[(u32, f32)]| of.get(region).copied().unwrap_or((0, 0.0));
            if fate.is_chosen() && pair.masks.predict_regions {
                targets.rows.push(seen.len());
                targets.features.extend_from_slice(feature(region));
                targets.objects.push(known(&regions.classes));
                targets.attributes.push(known(&regions.attributes));
            }
            match fate {
                Fate::Masked => seen.features.extend(std::iter::repeat_n(0.0, dim)),
                Fate::Replaced(share) => {
                    let other = (share * regions.len() as f64) as usize;
                    seen.features.extend_from_slice(feature(other));
                }
                Fate::Kept | Fate::Unchanged => seen.features.extend_from_slice(feature(region)),
            }
            seen.boxes
                .push(regions.boxes.get(region).copied().unwrap_or_default());
        }
        seen.counts.push(pair.regions.len());
        let size = regions.sizes.get(pair.image).copied();
        seen.sizes.push(size.unwrap_or((1, 1)));
    }
    (seen, targets)
}

/// Where each picture's regions begin, and where the last one's end.
fn starts(counts: &[usize]) -> Vec<usize> {
    let ends = counts.iter().scan(0, |sum, count| {
        *sum += count;
        Some(*sum)
    });
    std::iter::once(0).chain(ends).collect()
}
