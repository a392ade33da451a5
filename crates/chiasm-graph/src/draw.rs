//! The dice of knowledge masks: anchors, what is hidden, and what stands in its place.
//!
//! Owns every random choice of masking a pair (`specs/tbkin.md` 3.2, 3.4). Randomness is the caller's: a function that
//! gives uniform numbers in `[0, 1)`, from a stream of (seed, purpose, step, sample), so that a mask is a function of
//! these. Turning a choice into token ids and features is the caller's too.

use crate::config::{MaskConfig, MaskRule};
use crate::mask::{self, Side};
use crate::unified::UnifiedGraph;

/// What becomes of a token at the input.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Fate {
    /// It was not chosen.
    #[default]
    Kept,
    /// A mask token, or a zero vector for a region, whose geometry stays.
    Masked,
    /// Something else of its kind: the number in `[0, 1)` says which.
    Replaced(f64),
    /// Chosen, and left as it is.
    Unchanged,
}

impl Fate {
    /// True for a token that was chosen.
    pub fn is_chosen(self) -> bool {
        self != Self::Kept
    }
}

/// A pair to be masked.
#[derive(Clone, Copy, Debug)]
pub struct Pair<'a> {
    /// Its graph.
    pub graph: &'a UnifiedGraph,
    /// Word pieces of each word of the cleaned caption; 0 for words that were cut off.
    pub pieces: &'a [usize],
    /// Whether the picture belongs to the caption.
    pub matched: bool,
}

/// How a pair is masked.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Masks {
    /// For each word piece, in the order of the words.
    pub pieces: Vec<Fate>,
    /// For each region.
    pub regions: Vec<Fate>,
    /// Chosen word pieces are to be predicted; else they are hidden only.
    pub predict_pieces: bool,
    /// Chosen regions are to be predicted; else they are hidden only.
    pub predict_regions: bool,
}

/// Shares of chosen tokens that are masked, and replaced; the rest is unchanged.
const MASKED: f64 = 0.8;
const REPLACED: f64 = 0.1;

/// Draws the masks of a pair.
///
/// A matched pair is masked on one side, the text with probability `side_prob`; knowledge may hide tokens of the other
/// side, which are not predicted. A pair that does not match is masked on both and predicts nothing.
///
/// # Shapes
/// - output: `[sum of pieces]` and `[regions]`
pub fn draw(
    pair: Pair<'_>,
    config: &MaskConfig,
    strong: f64,
    mut uniform: impl FnMut() -> f64,
) -> Masks {
    let text = uniform() < config.side_prob;
    let mut chosen = Chosen::none(pair);
    if pair.matched {
        chosen.side(
            pair,
            if text { Side::Text } else { Side::Image },
            config,
            strong,
            &mut uniform,
        );
    } else {
        let own = MaskConfig {
            cross: false,
            ..config.clone()
        };
        chosen.side(pair, Side::Text, &own, strong, &mut uniform);
        chosen.side(pair, Side::Image, &own, strong, &mut uniform);
    }
    let mut fates = |chosen: &[bool]| -> Vec<Fate> {
        chosen
            .iter()
            .map(|chosen| fate(*chosen, &mut uniform))
            .collect()
    };
    Masks {
        pieces: fates(&chosen.pieces),
        regions: fates(&chosen.regions),
        predict_pieces: pair.matched && text,
        predict_regions: pair.matched && !text,
    }
}

fn fate(chosen: bool, uniform: &mut impl FnMut() -> f64) -> Fate {
    if !chosen {
        return Fate::Kept;
    }
    let draw = uniform();
    if draw < MASKED {
        Fate::Masked
    } else if draw < MASKED + REPLACED {
        Fate::Replaced(uniform())
    } else {
        Fate::Unchanged
    }
}

/// Tokens that were chosen.
struct Chosen {
    pieces: Vec<bool>,
    regions: Vec<bool>,
    /// Where the pieces of each word begin.
    starts: Vec<usize>,
}

impl Chosen {
    fn none(pair: Pair<'_>) -> Self {
        let words = pair.graph.words.len();
        let count = |word: usize| pair.pieces.get(word).copied().unwrap_or(0);
        let mut starts = vec![0];
        let mut sum = 0;
        for word in 0..words {
            sum += count(word);
            starts.push(sum);
        }
        Self {
            pieces: vec![false; sum],
            regions: vec![false; pair.graph.regions.len()],
            starts,
        }
    }

    fn of_word(&mut self, word: usize) -> &mut [bool] {
        let at = |word: usize| self.starts.get(word).copied().unwrap_or(self.pieces.len());
        let (from, to) = (at(word), at(word + 1));
        self.pieces.get_mut(from..to).unwrap_or_default()
    }

    fn has_word(&self, word: usize) -> bool {
        self.starts.get(word) < self.starts.get(word + 1)
    }

    fn side(
        &mut self,
        pair: Pair<'_>,
        side: Side,
        config: &MaskConfig,
        strong: f64,
        uniform: &mut impl FnMut() -> f64,
    ) {
        let graph = pair.graph;
        match (config.rule, side) {
            (MaskRule::Off, _) => self.base(side, config, uniform),
            (MaskRule::Figure | MaskRule::Randomwalk, _) => {
                self.base(side, config, uniform);
                let anchors = self.anchors(pair, side, config, uniform);
                let found = if config.rule == MaskRule::Figure {
                    mask::figure(graph, side, &anchors, config)
                } else {
                    mask::random_walk(graph, side, &anchors, strong, config)
                };
                self.throw_words(&found.words, uniform);
                self.throw_regions(&found.regions, uniform);
            }
            (MaskRule::Released | MaskRule::Keepweights, Side::Text) => {
                self.base(side, config, uniform);
                let anchors = self.anchors(pair, side, config, uniform);
                self.throw_words(&mask::released_words(graph, &anchors, config), uniform);
                if config.rule == MaskRule::Keepweights && config.cross {
                    let masked: Vec<bool> = (0..graph.words.len())
                        .map(|word| self.of_word(word).contains(&true))
                        .collect();
                    self.throw_regions(
                        &hidden(mask::keep_regions(graph, &masked, strong)),
                        uniform,
                    );
                }
            }
            (MaskRule::Released | MaskRule::Keepweights, Side::Image) => {
                let centres = self.centres(pair, config, uniform);
                if config.rule == MaskRule::Keepweights && config.cross {
                    self.throw_words(&hidden(mask::keep_words(graph, &centres, strong)), uniform);
                }
            }
        }
    }

    /// Every word piece or region alike.
    fn base(&mut self, side: Side, config: &MaskConfig, uniform: &mut impl FnMut() -> f64) {
        let tokens = match side {
            Side::Text => &mut self.pieces,
            Side::Image => &mut self.regions,
        };
        for token in tokens {
            *token |= uniform() < config.base;
        }
    }

    /// Objects whose words are there, or regions that are joined with words.
    fn anchors(
        &self,
        pair: Pair<'_>,
        side: Side,
        config: &MaskConfig,
        uniform: &mut impl FnMut() -> f64,
    ) -> Vec<usize> {
        match side {
            Side::Text => (0..pair.graph.objects.len())
                .filter(|object| {
                    let there = pair
                        .graph
                        .objects
                        .get(*object)
                        .is_some_and(|words| words.iter().all(|word| self.has_word(*word)));
                    uniform() < config.text_anchor && there
                })
                .collect(),
            Side::Image => (0..pair.graph.regions.len())
                .filter(|region| uniform() < config.grain_ratio * grain(pair, *region))
                .collect(),
        }
    }

    /// The published way to mask regions: any, then those joined with words, each perhaps with all its neighbours. Gives
    /// back which were masked for themselves.
    fn centres(
        &mut self,
        pair: Pair<'_>,
        config: &MaskConfig,
        uniform: &mut impl FnMut() -> f64,
    ) -> Vec<bool> {
        let mut centres = vec![false; self.regions.len()];
        for by_words in [false, true] {
            for region in 0..centres.len() {
                let probability = if by_words {
                    config.grain_ratio * grain(pair, region)
                } else {
                    config.base
                };
                if uniform() >= probability {
                    continue;
                }
                if let (Some(centre), Some(chosen)) =
                    (centres.get_mut(region), self.regions.get_mut(region))
                {
                    *centre = true;
                    *chosen = true;
                }
                if uniform() < config.img_expand && config.intra_image {
                    for (beside, _) in pair.graph.regions_beside(region) {
                        if let Some(chosen) = self.regions.get_mut(beside) {
                            *chosen = true;
                        }
                    }
                }
            }
        }
        centres
    }

    /// Chooses each word, with all its pieces, with its probability.
    fn throw_words(&mut self, probabilities: &[f64], uniform: &mut impl FnMut() -> f64) {
        for (word, probability) in probabilities.iter().enumerate() {
            if uniform() < *probability {
                self.of_word(word).fill(true);
            }
        }
    }

    /// Chooses each region with its probability.
    fn throw_regions(&mut self, probabilities: &[f64], uniform: &mut impl FnMut() -> f64) {
        for (chosen, probability) in self.regions.iter_mut().zip(probabilities) {
            *chosen |= uniform() < *probability;
        }
    }
}

/// Probabilities of being hidden from those of being kept.
fn hidden(keep: Vec<f64>) -> Vec<f64> {
    keep.into_iter().map(|keep| 1.0 - keep).collect()
}

/// Mean similarity of a region to the word pieces that it is joined with.
fn grain(pair: Pair<'_>, region: usize) -> f64 {
    let (mut sum, mut count) = (0.0, 0usize);
    for (word, g) in pair.graph.words_of(region) {
        let pieces = pair.pieces.get(word).copied().unwrap_or(0);
        sum += g * pieces as f64;
        count += pieces;
    }
    sum / count.max(1) as f64
}
