//! Masks that a scene graph leads, from captions and regions to what a step reads.
#![allow(
    clippy::unwrap_used,
    reason = "a failed unwrap here is the failed test"
)]

use burn::tensor::Device;
use chiasm_data::{Part, RegionRows};
use chiasm_graph::config::MaskAblation;
use chiasm_objective::config::KnowledgeConfig;
use chiasm_objective::knowledge::KnowledgeInput;
use chiasm_objective::knowledge_masks::{Knowledge, KnowledgeRows, knowledge_draw};
use chiasm_objective::masking::{DrawKey, TextRows, Vocabulary};

const CAPTIONS: [&str; 4] = [
    "a brown dog chases a man",
    "a man rides a horse",
    "grass",
    "two women hold a red umbrella",
];

/// A batch in which every word is a token between two special ones, and region r of a picture has the
/// feature (picture, r).
struct Batch {
    ids: Vec<i64>,
    mask: Vec<i64>,
    len: usize,
    words: Vec<Vec<Option<u32>>>,
    captions: Vec<String>,
    offsets: Vec<Vec<std::ops::Range<usize>>>,
    regions: RegionRows,
}

impl Batch {
    fn new() -> Self {
        let len = 9;
        let (mut ids, mut mask, mut words, mut offsets) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut next = 10;
        for caption in CAPTIONS {
            let (mut row, mut own, mut spans) = (
                vec![1],
                vec![None],
                std::iter::once(0..0).collect::<Vec<_>>(),
            );
            let mut at = 0;
            for (number, word) in (0..).zip(caption.split(' ')) {
                row.push(next);
                next += 1;
                own.push(Some(number));
                spans.push(at..at + word.len());
                at += word.len() + 1;
            }
            row.push(2);
            own.push(None);
            spans.push(0..0);
            let real = row.len();
            row.resize(len, 0);
            ids.extend(row);
            mask.extend((0..len).map(|column| i64::from(column < real)));
            words.push(own);
            offsets.push(spans);
        }
        let counts = vec![3, 2, 0, 4];
        let mut regions = RegionRows {
            dim: 2,
            counts: counts.clone(),
            sizes: vec![(100, 100); 4],
            ..RegionRows::default()
        };
        for (picture, count) in counts.into_iter().enumerate() {
            for region in 0..count {
                let left = region as f32 * 0.1;
                regions
                    .features
                    .extend([1.0 + picture as f32, 1.0 + region as f32]);
                regions.boxes.push([left, 0.1, left + 0.5, 0.9]);
                regions
                    .classes
                    .push((u32::try_from(region % 2).unwrap(), 0.8));
                regions.attributes.push((3, 0.5));
            }
        }
        Self {
            ids,
            mask,
            len,
            words,
            captions: CAPTIONS.map(str::to_owned).to_vec(),
            offsets,
            regions,
        }
    }

    fn draw(&self, config: &KnowledgeConfig, step: u64) -> KnowledgeInput {
        self.draw_of(Part::WHOLE, config, step)
    }

    fn draw_of(&self, part: Part, config: &KnowledgeConfig, step: u64) -> KnowledgeInput {
        let names = vec!["man".to_owned(), "dog".to_owned()];
        let knowledge = Knowledge::learn(CAPTIONS.into_iter(), names, None::<&[u8]>).unwrap();
        knowledge_draw(
            TextRows {
                input_ids: &self.ids,
                attention_mask: &self.mask,
                len: self.len,
                word_ids: &self.words,
            },
            KnowledgeRows {
                captions: &self.captions,
                offsets: &self.offsets,
                regions: &self.regions,
                part,
            },
            &knowledge,
            &Vocabulary::new(100, 5, |id| id < 10),
            config,
            DrawKey {
                seed: 7,
                step,
                samples: &[0, 1, 2, 3],
            },
            &Device::flex(),
        )
    }

    /// Tokens without padding.
    fn packed(&self) -> Vec<i64> {
        let real = self
            .ids
            .iter()
            .zip(&self.mask)
            .filter(|(_, keep)| **keep == 1);
        real.map(|(id, _)| *id).collect()
    }
}

fn rows(input: &KnowledgeInput) -> Vec<f32> {
    input
        .regions
        .features
        .rows
        .clone()
        .into_data()
        .try_into_vec()
        .unwrap()
}

#[test]
fn what_is_asked_is_what_was_there() {
    let batch = Batch::new();
    let clean = batch.packed();
    let mut asked = [0, 0];
    for step in 0..200 {
        let input = batch.draw(&KnowledgeConfig::default(), step);
        for (position, label) in input.words.positions.iter().zip(&input.words.labels) {
            assert_eq!(i64::from(*label), clean[*position]);
            assert!(clean[*position] >= 10, "a special token is asked for");
            asked[0] += 1;
        }
        let targets = &input.targets;
        // The regions of the images as they are paired.
        let paired: Vec<usize> = (input.matching.partner.iter())
            .flat_map(|image| vec![*image; batch.regions.counts[*image]])
            .collect();
        assert_eq!(rows(&input).len(), 2 * paired.len());
        for (row, features) in targets.rows.iter().zip(targets.features.chunks(2)) {
            assert_eq!(features[0], 1.0 + paired[*row] as f32);
            asked[1] += 1;
        }
        assert_eq!(targets.objects.len(), targets.rows.len());
        let spans: Vec<usize> = input.regions.features.spans.lengths().collect();
        let expected: Vec<usize> = (input.matching.partner.iter())
            .map(|image| batch.regions.counts[*image])
            .collect();
        assert_eq!(spans, expected);
    }
    assert!(asked[0] > 50 && asked[1] > 50, "{asked:?}");
}

#[test]
fn other_images_are_hidden_and_not_asked_for() {
    let batch = Batch::new();
    let config = KnowledgeConfig {
        negatives: 1.0,
        ..KnowledgeConfig::default()
    };
    let (clean, mut hidden) = (batch.packed(), 0);
    for step in 0..50 {
        let input = batch.draw(&config, step);
        assert_eq!(input.matching.labels, [0; 4]);
        assert!(input.words.positions.is_empty() && input.targets.rows.is_empty());
        let changed = input.text.ids.iter().zip(&clean);
        hidden += changed
            .filter(|(now, before)| i64::from(**now) != **before)
            .count();
    }
    assert!(hidden > 50, "{hidden}");
}

#[test]
fn a_draw_follows_from_its_step_alone() {
    let batch = Batch::new();
    let config = KnowledgeConfig::default();
    let (one, again, other) = (
        batch.draw(&config, 3),
        batch.draw(&config, 3),
        batch.draw(&config, 4),
    );
    assert_eq!(one.text.ids, again.text.ids);
    assert_eq!((&one.words, &one.targets), (&again.words, &again.targets));
    assert!(one.words != other.words || one.targets != other.targets);
}

#[test]
fn nothing_is_hidden_without_masks() {
    let batch = Batch::new();
    let config = KnowledgeConfig {
        masking: MaskAblation::None,
        negatives: 0.0,
        ..KnowledgeConfig::default()
    };
    for step in 0..20 {
        let input = batch.draw(&config, step);
        let ids: Vec<i64> = input.text.ids.iter().map(|id| i64::from(*id)).collect();
        assert_eq!(ids, batch.packed());
        assert_eq!(rows(&input), batch.regions.features);
        assert!(input.words.positions.is_empty() && input.targets.rows.is_empty());
    }
}

#[test]
fn parts_together_are_the_whole() {
    let batch = Batch::new();
    let config = KnowledgeConfig::default();
    for step in 0..20 {
        let whole = batch.draw(&config, step);
        let parts = [0, 1, 2].map(|number| batch.draw_of(Part::new(number, 3), &config, step));
        let lengths = |input: &KnowledgeInput| input.text.spans.lengths().collect::<Vec<_>>();
        let regions = |input: &KnowledgeInput| {
            let spans = input.regions.features.spans.lengths();
            spans.collect::<Vec<_>>()
        };
        for row in 0..4 {
            let (part, own) = (&parts[row % 3], row / 3);
            assert_eq!(part.matching.labels[own], whole.matching.labels[row]);
            assert_eq!(part.matching.partner[own], whole.matching.partner[row]);
            assert_eq!(lengths(part)[own], lengths(&whole)[row]);
            assert_eq!(regions(part)[own], regions(&whole)[row]);
        }
        let sorted = |of: &dyn Fn(&KnowledgeInput) -> Vec<u32>, inputs: &[KnowledgeInput]| {
            let mut all: Vec<u32> = inputs.iter().flat_map(of).collect();
            all.sort_unstable();
            all
        };
        let words = |input: &KnowledgeInput| input.words.labels.clone();
        let classes = |input: &KnowledgeInput| {
            let objects = input.targets.objects.iter();
            objects.map(|(class, _)| *class).collect()
        };
        let whole = [whole];
        assert_eq!(sorted(&words, &parts), sorted(&words, &whole));
        assert_eq!(sorted(&classes, &parts), sorted(&classes, &whole));
    }
}
