//! Every annotation format of the field on the real samples of it, through the public entry point,
//! counted against their README.

#![allow(clippy::unwrap_used, reason = "the way a test fails")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use chiasm_data::answers::{Form, MIN_COUNT, Vocabulary, write_vocabulary};
use chiasm_data::{
    AlphaRule, Dataset, Limits, OpenOptions, Opened, Sample, Split, Targets, Visual, decode_rgb,
    frames, open,
};

/// A path of the shared data, when it is there.
fn shared(path: &str) -> Option<PathBuf> {
    let path = chiasm_testkit::shared_dir().join("data").join(path);
    chiasm_testkit::available(&path).then_some(path)
}

/// Opens a set of which every row is good and every picture there.
fn whole(path: &Path, images: Option<&Path>) -> Dataset {
    let options = OpenOptions {
        image_root: images.map(Path::to_owned),
        ..OpenOptions::default()
    };
    let Opened {
        dataset,
        quarantine,
    } = open(path, &options).unwrap();
    assert!(quarantine.is_empty(), "{:?}", quarantine.entries.first());
    for sample in &dataset.samples {
        for source in sample.visual.sources() {
            assert!(
                source.path().unwrap().is_file(),
                "{}: {source:?}",
                sample.id
            );
        }
    }
    dataset
}

/// A sample of the official formats, with the folder of its pictures.
fn official(path: &str, images: &str) -> Option<Dataset> {
    let images = shared(&format!("official-format-samples/images/{images}"))?;
    let path = shared(&format!("official-format-samples/{path}"))?;
    Some(whole(&path, Some(&images)))
}

/// How many samples have each label.
fn labels(data: &Dataset) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for sample in &data.samples {
        let label = sample.annotations.label.as_deref().unwrap_or("none");
        *counts.entry(label).or_default() += 1;
    }
    counts
}

fn answer(sample: &Sample) -> (&str, u32) {
    let answer = &sample.annotations.answers[0];
    (&answer.text, answer.count)
}

#[test]
fn vqa_v2() {
    let Some(set) = official("vqav2/questions.json", "vqav2") else {
        return;
    };
    assert_eq!((set.len(), set.counts()[&Split::Train].images), (3, 3));
    let sample = &set.samples[0];
    assert_eq!(
        (sample.id.as_str(), sample.group()),
        ("458752000", "458752")
    );
    assert_eq!(sample.texts, ["What is this photo taken looking through?"]);
    assert_eq!(answer(sample), ("net", 6));
    for sample in &set.samples {
        let people = sample.annotations.answers.iter();
        assert_eq!(people.map(|answer| answer.count).sum::<u32>(), 10);
    }
}

#[test]
fn gqa() {
    let Some(one) = official("gqa/questions.json", "gqa") else {
        return;
    };
    let sample = &one.samples[0];
    assert_eq!(
        (
            one.len(),
            sample.id.as_str(),
            sample.group(),
            answer(sample)
        ),
        (1, "202218649", "n578564", ("picture", 1))
    );
    let Some(folder) = official("gqa/question_dir", "gqa") else {
        return;
    };
    assert_eq!(folder.len(), 2);
    let sample = &folder.samples[1];
    assert_eq!(
        sample.texts,
        ["Does the table below the water look wooden and round?"]
    );
    let kinds = [
        ("structural", "logical"),
        ("semantic", "attr"),
        ("detailed", "verifyAttrs"),
        ("balanced", "false"),
    ];
    let kinds = kinds.map(|(of, kind)| (of, kind.to_owned()));
    assert_eq!(sample.annotations.kinds, kinds);
}

#[test]
fn visual_genome_questions() {
    let Some(set) = official("vgqa/question_answers.json", "vgqa") else {
        return;
    };
    assert_eq!(set.len(), 8);
    assert_eq!(
        set.samples
            .iter()
            .filter(|sample| sample.group() == "4")
            .count(),
        5
    );
    assert_eq!(answer(&set.samples[0]), ("Sailboats.", 1));
}

#[test]
fn nlvr2() {
    let Some(set) = official("nlvr2/tiny-dev.json", "nlvr2") else {
        return;
    };
    assert_eq!((set.len(), set.counts()[&Split::Val].images), (8, 8));
    assert_eq!(labels(&set), BTreeMap::from([("false", 4), ("true", 4)]));
    let sample = &set.samples[0];
    assert_eq!(
        (sample.id.as_str(), sample.group()),
        ("dev-850-0-0", "dev-850-0")
    );
    let Visual::Images(pair) = &sample.visual else {
        unreachable!("{:?}", sample.visual)
    };
    assert!(pair[0].path().unwrap().ends_with("dev-850-0-img0.png"));
    assert!(pair[1].path().unwrap().ends_with("dev-850-0-img1.png"));
}

#[test]
fn nlvr() {
    let rows = [
        ("dev", Split::Val, 989, [442, 547]),
        ("test", Split::Test, 990, [434, 556]),
    ];
    for (part, split, count, [no, yes]) in rows {
        let Some(path) = shared(&format!("nlvr/{part}.jsonl")) else {
            return;
        };
        let set = whole(&path, None);
        assert_eq!((set.len(), set.counts()[&split].images), (count, count));
        assert_eq!(labels(&set), BTreeMap::from([("false", no), ("true", yes)]));
        colours_are_where_they_are_drawn(&set.samples[..100]);
        boxes_are_cut_at_their_edges(&set.samples[..20]);
    }
}

/// Between the boxes of a strip is a dark grey that no box has.
fn boxes_are_cut_at_their_edges(samples: &[Sample]) {
    let limits = Limits::default();
    for sample in samples {
        let boxes = frames::pictures(sample, 3, &limits, AlphaRule::Drop).unwrap();
        assert_eq!(boxes.len(), 3);
        for part in boxes {
            assert_eq!((part.width, part.height), (100, 100));
            let mut pixels = part.data.chunks_exact(3);
            assert!(pixels.all(|pixel| pixel != [128; 3]), "{}", sample.id);
        }
        let whole = frames::still(sample, &limits, AlphaRule::Drop).unwrap();
        assert_eq!((whole.width, whole.height), (400, 100));
        assert_eq!(whole.data[3 * 125..][..3], [128; 3]);
    }
}

/// The middle of each shape has its colour.
fn colours_are_where_they_are_drawn(samples: &[Sample]) {
    for sample in samples {
        let bytes = sample.visual.sources()[0].read().unwrap();
        let picture = decode_rgb(&bytes, &Limits::default(), true).unwrap();
        assert_eq!((picture.width, picture.height), (400, 100));
        assert_eq!(sample.annotations.size, Some((400, 100)));
        for object in &sample.annotations.objects {
            let rect = object.rect.unwrap();
            let at = |a: f32, b: f32, whole: usize| ((a + b) / 2.0 * whole as f32) as usize;
            let (x, y) = (
                at(rect.x1, rect.x2, picture.width),
                at(rect.y1, rect.y2, picture.height),
            );
            let start = (y * picture.width + x) * 3;
            let [r, g, b] = [0, 1, 2].map(|channel| picture.data[start + channel] > 128);
            let seen = match (r, g, b) {
                (true, true, false) => "yellow",
                (false, true, true) => "blue",
                (false, false, false) => "black",
                _ => "another colour",
            };
            assert_eq!(
                object.category.split(' ').next(),
                Some(seen),
                "{}",
                sample.id
            );
        }
    }
}

#[test]
fn snli_ve() {
    let Some(set) = official("visual_entailment/sample_pairs.jsonl", "visual_entailment") else {
        return;
    };
    assert_eq!(set.len(), 16);
    let counts = [("contradiction", 4), ("entailment", 6), ("neutral", 6)];
    assert_eq!(labels(&set), BTreeMap::from(counts));
    let sample = &set.samples[0];
    assert_eq!(
        (sample.id.as_str(), sample.group()),
        ("2248275918.jpg#2r1c", "2248275918")
    );
    assert_eq!(sample.texts, ["A toddler sleeps outside."]);
}

#[test]
fn snli_ve_of_flickr8k() {
    let Some(images) = shared("flickr8k/images") else {
        return;
    };
    for (part, count) in [("dev", 3217), ("test", 4155)] {
        let path = shared(&format!("snli-ve-flickr8k/{part}.jsonl")).unwrap();
        let set = whole(&path, Some(&images));
        assert_eq!((set.len(), labels(&set).len()), (count, 3));
    }
}

#[test]
fn daquar_and_its_answers() {
    for (part, count) in [("train", 6795), ("test", 5673)] {
        let Some(path) = shared(&format!("daquar/{part}.jsonl")) else {
            return;
        };
        let set = whole(&path, None);
        assert_eq!(set.len(), count);
        assert!(
            set.samples
                .iter()
                .all(|sample| sample.annotations.answers.len() == 1)
        );
        if part == "test" {
            continue;
        }
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("answers.json");
        let report = write_vocabulary(&set, &Split::ALL, MIN_COUNT, &file, Form::Maps).unwrap();
        // What the published functions give for these rows.
        assert_eq!(
            (
                report.questions,
                report.distinct,
                report.kept,
                report.answerable
            ),
            (6795, 967, 115, 5266)
        );
        let vocabulary = Vocabulary::read(&file).unwrap();
        assert_eq!(vocabulary.answers().len(), report.kept);
        assert_eq!(vocabulary.answers().first().unwrap(), "2");
        assert_eq!(vocabulary.class("Two."), Some(0));
        // One person answered each question, and is right.
        let targets = Targets::Answers(vocabulary);
        let (answerable, left_out) = set.answerable(&targets);
        assert_eq!((answerable.len(), left_out), (5266, 6795 - 5266));
        for sample in &answerable.samples {
            assert!(matches!(targets.of(sample).as_slice(), [(_, 1.0)]));
        }
        assert_eq!(targets.majority(&set.samples).as_deref(), Some("2"));
    }
}

#[test]
fn flickr30k_entities() {
    let Some(folder) = official("flickr30k", "flickr30k") else {
        return;
    };
    assert_eq!((folder.len(), folder.counts()[&Split::Test].texts), (5, 25));
    let Some(list) = official("flickr30k/tiny-dev.txt", "flickr30k") else {
        return;
    };
    assert_eq!((list.len(), list.counts()[&Split::Val].images), (3, 3));
    let sample = &list.samples[0];
    assert_eq!(
        sample.texts[0],
        "A girl with brown hair sits on the edge of a cement area overlooking water ."
    );
    let phrases = &sample.annotations.phrases;
    assert_eq!(
        (phrases[1].phrase.as_str(), phrases[1].kind.as_str()),
        ("brown hair", "bodyparts")
    );
    for phrase in phrases {
        let text = &sample.texts[phrase.text];
        assert!(text[phrase.start.unwrap()..].starts_with(&phrase.phrase));
    }
}

#[test]
fn phrases_of_flickr8k() {
    let Some(path) = shared("flickr8k/phrases.jsonl") else {
        return;
    };
    let set = whole(&path, None);
    assert_eq!(set.len(), 8091);
    let mut pairs: BTreeMap<Split, usize> = BTreeMap::new();
    let (mut occur, mut boxes) = (0, 0);
    for sample in &set.samples {
        let phrases = &sample.annotations.phrases;
        *pairs.entry(sample.split).or_default() += phrases.len();
        for phrase in phrases {
            let text = sample.texts[phrase.text].to_lowercase();
            occur += usize::from(text.contains(&phrase.phrase.to_lowercase()));
            boxes += usize::from(!phrase.boxes.is_empty());
        }
    }
    // `restval` is training data.
    let counts = [
        (Split::Train, 77_911 + 1_010),
        (Split::Val, 13_123),
        (Split::Test, 13_063),
    ];
    assert_eq!(pairs, BTreeMap::from(counts));
    assert_eq!(boxes, 105_107);
    // The sentence of the number as written has 38,444 of them.
    assert!(occur > 103_000, "{occur}");
}

#[test]
fn judgements_of_flickr8k() {
    for (file, count, best) in [
        ("ExpertAnnotations.txt", 5822, 4.0),
        ("CrowdFlowerAnnotations.txt", 47_830, 1.0),
    ] {
        let Some(path) = shared(&format!("flickr8k/{file}")) else {
            return;
        };
        let set = whole(&path, None);
        assert_eq!(
            (set.len(), set.counts()[&Split::Test].texts),
            (count, count)
        );
        let rating = |sample: &Sample| sample.annotations.rating.unwrap();
        assert!(
            set.samples
                .iter()
                .all(|sample| rating(sample).scale.1 == best)
        );
        // A photo's own caption fits it better than others do.
        let mean = |own: bool| {
            let samples = set.samples.iter();
            let scores =
                samples.filter(|sample| (sample.id.matches(sample.group()).count() > 1) == own);
            let scores: Vec<f32> = scores.map(|sample| rating(sample).score).collect();
            scores.iter().sum::<f32>() / scores.len() as f32
        };
        assert!(mean(true) > 0.85 * best && mean(false) < 0.5 * best);
    }
}
