//! Drawn masks: marginals of the published rule, what is predicted, and laws that hold for every graph.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use chiasm_graph::config::{GraphConfig, MaskAblation, MaskConfig, MaskRule};
use chiasm_graph::draw::{Fate, Masks, Pair, draw};
use chiasm_graph::image::{ImageGraph, Region};
use chiasm_graph::mask::{self, Side};
use chiasm_graph::priors::Priors;
use chiasm_graph::unified::{UnifiedGraph, Vertex};
use chiasm_graph::{lexicon, text};
use proptest::prelude::*;

/// Uniform numbers in `[0, 1)` from a seed (SplitMix64).
fn uniform(seed: u64) -> impl FnMut() -> f64 {
    let mut state = seed;
    move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

const STRONG: f64 = 0.9;

/// "a brown dog on a couch" with frequencies that saturate, a dog, a couch and a wall.
fn graph() -> UnifiedGraph {
    let caption = text::parse("a brown dog on a couch");
    let priors = Priors::read(
        &br#"{"attr_count": {"dog": {"brown": 0.5}},
              "rel_count": {"dog": {"on couch": 0.5}, "couch": {"dog on": 0.5}}}"#[..],
    )
    .unwrap();
    let region = |corners, name: &str| Region {
        corners,
        name: name.to_owned(),
    };
    let regions = vec![
        region([10.0, 10.0, 60.0, 60.0], "dog"),
        region([0.0, 20.0, 80.0, 70.0], "couch"),
        region([300.0, 0.0, 400.0, 400.0], "wall"),
    ];
    let config = GraphConfig::default();
    let image = ImageGraph::new(regions, config.iou_edge).unwrap();
    UnifiedGraph::new(
        &caption,
        &image,
        Some(&priors),
        &config,
        lexicon::similarity,
    )
}

fn masks(graph: &UnifiedGraph, config: &MaskConfig, matched: bool, seed: u64) -> Masks {
    // The dog is two pieces.
    let pieces = [1, 1, 2, 1, 1, 1];
    let pair = Pair {
        graph,
        pieces: &pieces,
        matched,
    };
    draw(pair, config, STRONG, uniform(seed))
}

/// Share of draws in which each piece and each region was chosen.
fn shares(config: &MaskConfig, draws: u64) -> (Vec<f64>, Vec<f64>) {
    let graph = graph();
    let (mut pieces, mut regions) = (vec![0.0; 7], vec![0.0; 3]);
    for seed in 0..draws {
        let masks = masks(&graph, config, true, seed);
        for (sum, fate) in pieces
            .iter_mut()
            .zip(&masks.pieces)
            .chain(regions.iter_mut().zip(&masks.regions))
        {
            *sum += f64::from(u8::from(fate.is_chosen())) / draws as f64;
        }
    }
    (pieces, regions)
}

fn near(what: &str, found: f64, wanted: f64) {
    assert!(
        (found - wanted).abs() < 0.01,
        "{what}: {found} instead of {wanted}"
    );
}

#[test]
fn released_marginals() {
    let config = MaskConfig {
        rule: MaskRule::Released,
        side_prob: 1.0,
        ..MaskConfig::default()
    };
    let (pieces, regions) = shares(&config, 60_000);
    for (piece, wanted) in [0.15, 0.4475, 0.575, 0.575, 0.0, 0.15, 0.575]
        .into_iter()
        .enumerate()
    {
        // "on" belongs to two anchors, and the larger weight counts when either is drawn.
        let wanted = if piece == 4 {
            1.0 - 0.85 * (1.0 - 0.75 * 0.7)
        } else {
            wanted
        };
        near(&format!("piece {piece}"), pieces[piece], wanted);
    }
    assert_eq!(regions, [0.0; 3]);
}

#[test]
fn off_is_plain_masking() {
    for (side, ours) in [(1.0, true), (0.0, false)] {
        let config = MaskConfig {
            rule: MaskRule::Off,
            side_prob: side,
            ..MaskConfig::default()
        };
        let (pieces, regions) = shares(&config, 40_000);
        for share in pieces {
            near("piece", share, if ours { 0.15 } else { 0.0 });
        }
        for share in regions {
            near("region", share, if ours { 0.0 } else { 0.15 });
        }
    }
}

#[test]
fn figure_hides_what_does_not_tell() {
    let config = MaskConfig {
        side_prob: 1.0,
        text_anchor: 1.0,
        base: 0.0,
        ..MaskConfig::default()
    };
    let (pieces, regions) = shares(&config, 20_000);
    for (piece, wanted) in [0.0, 0.7, 1.0, 1.0, 0.7, 0.0, 1.0].into_iter().enumerate() {
        near(&format!("piece {piece}"), pieces[piece], wanted);
    }
    // The dog and the couch are what the words say; the wall is nobody's business.
    assert_eq!(regions, [0.0; 3]);
    let image = MaskConfig {
        side_prob: 0.0,
        grain_ratio: 1.0,
        ..config
    };
    let (pieces, regions) = shares(&image, 20_000);
    near("dog", regions[0], 1.0);
    near("wall", regions[2], 0.0);
    near("brown", pieces[1], 0.3);
}

#[test]
fn released_regions_bring_their_neighbours() {
    let config = MaskConfig {
        rule: MaskRule::Released,
        side_prob: 0.0,
        grain_ratio: 0.0,
        base: 0.2,
        ..MaskConfig::default()
    };
    let (pieces, regions) = shares(&config, 40_000);
    assert_eq!(pieces, [0.0; 7]);
    near("dog", regions[0], 1.0 - 0.8 * (1.0 - 0.2 * 0.3));
    near("wall", regions[2], 0.2);
}

#[test]
fn corruption_is_eight_to_one_to_one() {
    let config = MaskConfig {
        rule: MaskRule::Off,
        base: 1.0,
        side_prob: 1.0,
        ..MaskConfig::default()
    };
    let graph = graph();
    let fates: Vec<Fate> = (0..10_000)
        .flat_map(|seed| masks(&graph, &config, true, seed).pieces)
        .collect();
    let share = |of: fn(&Fate) -> bool| {
        fates.iter().filter(|fate| of(fate)).count() as f64 / fates.len() as f64
    };
    near("masked", share(|fate| *fate == Fate::Masked), 0.8);
    near(
        "replaced",
        share(|fate| matches!(fate, Fate::Replaced(which) if (0.0..1.0).contains(which))),
        0.1,
    );
    near("unchanged", share(|fate| *fate == Fate::Unchanged), 0.1);
}

#[test]
fn other_side_is_never_predicted() {
    let graph = graph();
    for rule in [
        MaskRule::Figure,
        MaskRule::Released,
        MaskRule::Keepweights,
        MaskRule::Randomwalk,
        MaskRule::Off,
    ] {
        let config = MaskConfig {
            rule,
            ..MaskConfig::default()
        };
        let mut sides = [0; 2];
        for seed in 0..400 {
            let matched = masks(&graph, &config, true, seed);
            assert_ne!(matched.predict_pieces, matched.predict_regions);
            sides[usize::from(matched.predict_pieces)] += 1;
            let foreign = masks(&graph, &config, false, seed);
            assert!(!foreign.predict_pieces && !foreign.predict_regions);
            assert_eq!(masks(&graph, &config, true, seed), matched, "{rule:?}");
        }
        assert!(sides[0] > 150 && sides[1] > 150, "{sides:?}");
    }
}

#[test]
fn unmatched_pairs_are_masked_on_both_sides() {
    let graph = graph();
    let config = MaskConfig {
        base: 1.0,
        ..MaskConfig::default()
    };
    let masks = masks(&graph, &config, false, 3);
    assert!(
        masks
            .pieces
            .iter()
            .chain(&masks.regions)
            .all(|fate| fate.is_chosen())
    );
}

#[test]
fn ablations_do_what_they_say() {
    let chosen = |ablation| {
        let config = MaskConfig {
            base: 0.0,
            grain_ratio: 1.0,
            text_anchor: 1.0,
            ..MaskConfig::default()
        };
        shares(&config.ablated(ablation), 4_000)
    };
    assert_eq!(chosen(MaskAblation::None), (vec![0.0; 7], vec![0.0; 3]));
    let (words_intra, _) = chosen(MaskAblation::Intra);
    let (words_cross, _) = chosen(MaskAblation::Cross);
    let (words_both, _) = chosen(MaskAblation::Both);
    // "brown": context of a word in half of the draws, evidence for a region in the other half.
    assert!((words_intra[1] - 0.35).abs() < 0.03, "{words_intra:?}");
    assert!((words_cross[1] - 0.15).abs() < 0.03, "{words_cross:?}");
    assert!((words_both[1] - 0.5).abs() < 0.03, "{words_both:?}");
}

#[test]
fn words_that_were_cut_off_are_no_anchors() {
    let graph = graph();
    let config = MaskConfig {
        base: 0.0,
        text_anchor: 1.0,
        side_prob: 1.0,
        ..MaskConfig::default()
    };
    let pair = Pair {
        graph: &graph,
        pieces: &[1, 1, 0, 0, 0, 0],
        matched: true,
    };
    let masks = draw(pair, &config, STRONG, uniform(1));
    assert_eq!(masks.pieces, [Fate::Kept; 2]);
    let nothing = UnifiedGraph::default();
    let pair = Pair {
        graph: &nothing,
        pieces: &[],
        matched: true,
    };
    assert!(draw(pair, &config, STRONG, uniform(1)).pieces.is_empty());
}

/// Section 3.3 on the dog with its word, its colour and the couch beside it, computed by hand: from "dog" half of the
/// steps go to "brown" and "on", half to the region; from the region half back to the word, half to the couch.
#[test]
fn random_walk_known_answer() {
    let graph = graph();
    let mut alone = graph.clone();
    // The couch has no word, and "on" belongs to the dog alone.
    for region in 0..3 {
        alone.cross[5 * 3 + region] = 0.0;
    }
    alone.word_edges.retain(|edge| edge.object == 2);
    let found = mask::random_walk(&alone, Side::Text, &[0], STRONG, &MaskConfig::default());
    let near = |found: f64, wanted: f64| {
        assert!(
            (found - wanted).abs() < 1e-12,
            "{found} instead of {wanted}"
        );
    };
    // One step: 1/4 each to "brown" and "on", 1/2 to the dog. Two: from there 1/4 to the couch, none to "brown".
    near(found.words[2], 1.0);
    near(found.words[1], 0.9 * 0.8 * 0.25);
    near(found.words[3], 0.9 * 0.8 * 0.25);
    near(found.regions[0], 0.1 * (1.0 - 0.8 * 0.5));
    near(found.regions[1], 0.1 * (1.0 - 0.2 * 0.25));
    near(found.regions[2], 0.0);
    // Without a strong edge an anchor hides itself.
    alone.cross.fill(0.8);
    let found = mask::random_walk(&alone, Side::Text, &[0], STRONG, &MaskConfig::default());
    assert_eq!(found.words, [0.0, 0.0, 1.0, 0.0, 0.0, 0.0]);
    assert_eq!(found.regions, [0.0; 3]);
}

#[test]
fn entries_reach_no_farther_than_two_edges() {
    let graph = graph();
    assert_eq!(
        graph.anchors(),
        [
            Vertex::Word(2),
            Vertex::Word(5),
            Vertex::Region(0),
            Vertex::Region(1)
        ]
    );
    let entry = graph.entry(Vertex::Region(0));
    let vertices = |reached: &[chiasm_graph::unified::Reached]| {
        reached.iter().map(|r| r.vertex).collect::<Vec<_>>()
    };
    assert_eq!(vertices(&entry.neighbours), [Vertex::Region(1)]);
    assert_eq!(vertices(&entry.counterparts), [Vertex::Word(2)]);
    assert_eq!(vertices(&entry.beyond), [Vertex::Word(1), Vertex::Word(3)]);
    assert!((entry.beyond[0].similarity - 0.7).abs() < 1e-12);
    assert!(graph.entry(Vertex::Region(2)).counterparts.is_empty());
}

/// A graph of random edges over six words and four regions.
fn any_graph() -> impl Strategy<Value = UnifiedGraph> {
    let cross = prop::collection::vec(prop_oneof![Just(0.0), 0.5..=1.0f64], 24);
    (cross, prop::collection::vec(0.2..0.7f64, 2)).prop_map(|(cross, weights)| {
        let mut graph = graph();
        graph.regions.push("thing".to_owned());
        graph.cross = cross;
        for edge in &mut graph.word_edges {
            edge.weight = weights[usize::from(edge.word == 1)];
        }
        graph
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn probabilities_are_probabilities(graph in any_graph(), word: bool, first in 0usize..2, second in 0usize..2) {
        let side = if word { Side::Text } else { Side::Image };
        let config = MaskConfig::default();
        for found in [
            mask::figure(&graph, side, &[first, second], &config),
            mask::random_walk(&graph, side, &[first, second], STRONG, &config),
        ] {
            for probability in found.words.iter().chain(&found.regions) {
                prop_assert!((0.0..=1.0).contains(probability));
            }
            match side {
                Side::Text => prop_assert!(graph.objects[first].iter().all(|word| found.words[*word] == 1.0)),
                Side::Image => prop_assert_eq!(found.regions[first], 1.0),
            }
        }
        for keep in mask::keep_regions(&graph, &[true; 6], STRONG).into_iter().chain(mask::keep_words(&graph, &[true; 4], STRONG)) {
            prop_assert!((0.0..=1.0).contains(&keep));
        }
    }

    #[test]
    fn closer_context_is_hidden_and_closer_evidence_kept(graph in any_graph(), more in 0.0..0.3f64) {
        let config = MaskConfig::default();
        let before = mask::figure(&graph, Side::Text, &[0], &config);
        let mut closer = graph.clone();
        for edge in &mut closer.word_edges {
            edge.weight += more;
        }
        let after = mask::figure(&closer, Side::Text, &[0], &config);
        for (before, after) in before.words.iter().zip(&after.words) {
            prop_assert!(before <= after);
        }
        let mut aligned = graph.clone();
        for g in aligned.cross.iter_mut().filter(|g| **g > 0.0) {
            *g = (*g + more).min(1.0);
        }
        let after = mask::figure(&aligned, Side::Text, &[0], &config);
        for (before, after) in before.regions.iter().zip(&after.regions) {
            prop_assert!(before >= after);
        }
    }
}
