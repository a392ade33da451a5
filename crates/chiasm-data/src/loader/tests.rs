use super::*;
use crate::dataset::{Clip, ImageSource, Rect, Split, Visual};
use crate::mix::Mix;
use crate::tokenizer::TokenizerKind;
use std::collections::HashSet;

/// A loader over so many built-in drawings, for training.
pub(crate) fn loader(samples: usize, change: impl FnOnce(&mut LoaderConfig)) -> Loader {
    let mut set = crate::builtin::emoji().unwrap().subset(Split::Val);
    set.samples.truncate(samples);
    let texts: Vec<String> = set
        .samples
        .iter()
        .flat_map(|sample| sample.texts.clone())
        .collect();
    let tokenizer = TextTokenizer::train(
        texts.iter().map(String::as_str),
        TokenizerKind::WordPiece,
        400,
    )
    .unwrap();
    let mut config = LoaderConfig {
        batch_size: 8,
        seed: 5,
        max_text_len: 24,
        preprocess: Preprocess {
            random_crop_scale: Some((0.5, 1.0)),
            flip: 0.5,
            ..Preprocess::new(32)
        },
        views: Views::default(),
        blind: false,
        regions: None,
        targets: None,
        train: true,
        chunk: None,
        part: Part::WHOLE,
        cache_bytes: 1 << 20,
        threads: 2,
    };
    change(&mut config);
    Loader::new(Arc::new(set), Arc::new(tokenizer), config).unwrap()
}

impl Loader {
    /// The same settings over other samples.
    pub(crate) fn over(&self, set: Dataset) -> Self {
        let tokenizer = Arc::clone(&self.inner.tokenizer);
        Self::new(Arc::new(set), tokenizer, self.config().clone()).unwrap()
    }

    /// Samples whose pictures are held in memory.
    pub(crate) fn cached(&self) -> usize {
        let slots = self.inner.cache.iter();
        slots.filter(|slot| slot.get().is_some()).count()
    }
}

#[test]
fn a_part_has_the_pictures_of_its_rows() {
    let whole = loader(30, |_| {}).batch(1).unwrap();
    let len = whole.pixel_values.len() / 8;
    for number in 0..3 {
        let part = Part::new(number, 3);
        let own = loader(30, |config| config.part = part).batch(1).unwrap();
        let expected = part
            .rows(8)
            .flat_map(|row| &whole.pixel_values[row * len..][..len]);
        assert!(own.pixel_values.iter().eq(expected));
        let pixel_values = whole.pixel_values.clone();
        let part = Part::WHOLE;
        assert_eq!(
            HostBatch {
                pixel_values,
                part,
                ..own
            },
            whole
        );
    }
}

#[test]
fn a_batch_is_a_function_of_its_step() {
    let first = loader(30, |_| {});
    let ahead = first.batch(9).unwrap();
    // Another loader, another order of asking, no cache, another thread: the same bytes.
    let second = loader(30, |config| config.cache_bytes = 0);
    for step in 0..4 {
        assert_eq!(first.batch(step).unwrap(), second.batch(step).unwrap());
    }
    assert_eq!(second.batch(9).unwrap(), ahead);
    let later = Mix::one(first).prefetch(8..10, 2);
    let later: Vec<HostBatch> = later.map(Result::unwrap).collect();
    assert_eq!(later[1], ahead);
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let batches = |threads| {
        let loader = loader(30, |config| config.threads = threads);
        Mix::one(loader)
            .prefetch(0..5, 2)
            .map(Result::unwrap)
            .collect::<Vec<HostBatch>>()
    };
    let one = batches(1);
    for threads in [0, 2, 3, 8] {
        assert_eq!(batches(threads), one, "{threads} threads");
    }
}

#[test]
fn an_epoch_shows_each_picture_at_most_once() {
    let loader = loader(30, |_| {});
    assert_eq!(loader.steps_per_epoch(), 3);
    for epoch in 0..3 {
        let mut seen = HashSet::new();
        for step in 0..3 {
            let batch = loader.batch(epoch * 3 + step).unwrap();
            assert_eq!(batch.epoch, epoch);
            assert_eq!(batch.samples.len(), 8);
            assert!(batch.samples.iter().all(|sample| seen.insert(*sample)));
        }
    }
    assert_ne!(
        loader.batch(0).unwrap().samples,
        loader.batch(3).unwrap().samples
    );
}

#[test]
fn shapes_and_padding() {
    let batch = loader(30, |_| {}).batch(0).unwrap();
    let rows = batch.samples.len();
    assert_eq!(batch.pixel_values.len(), rows * 3 * 32 * 32);
    assert_eq!(batch.input_ids.len(), rows * batch.text_len);
    assert_eq!(batch.lengths.iter().max(), Some(&batch.text_len));
    for row in 0..rows {
        let mask = &batch.attention_mask[row * batch.text_len..][..batch.text_len];
        assert_eq!(mask.iter().sum::<i64>() as usize, batch.lengths[row]);
        assert_eq!(batch.word_ids[row].len(), batch.lengths[row]);
        let ids = &batch.input_ids[row * batch.text_len..][..batch.text_len];
        assert!(
            ids[batch.lengths[row]..]
                .iter()
                .all(|id| *id == batch.pad_id)
        );
    }
}

#[test]
fn few_samples_make_one_batch() {
    let few = loader(3, |_| {});
    assert_eq!(few.steps_per_epoch(), 1);
    assert_eq!(few.batch(4).unwrap().samples.len(), 3);
    let tokenizer = Arc::clone(&few.inner.tokenizer);
    let empty = Arc::new(Dataset {
        name: "none".into(),
        samples: Vec::new(),
    });
    let error = Loader::new(empty, tokenizer, few.config().clone())
        .err()
        .unwrap();
    assert!(error.to_string().contains("none"));
}

#[test]
fn evaluation_keeps_the_order_and_the_last_batch() {
    let loader = loader(10, |config| config.train = false);
    assert_eq!(loader.steps_per_epoch(), 2);
    assert_eq!(loader.batch(1).unwrap().samples, [8, 9]);
    let batch = loader.batch(0).unwrap();
    let images = eval_images(
        loader.dataset(),
        &batch.samples,
        &loader.config().preprocess,
        Views::default(),
    )
    .unwrap();
    assert_eq!(images, batch.pixel_values);
    let texts: Vec<&str> = batch
        .samples
        .iter()
        .map(|s| loader.dataset().samples[*s].texts[0].as_str())
        .collect();
    let (ids, mask, len) = encode_texts(&loader.inner.tokenizer, &texts, 24);
    assert_eq!(
        (ids, mask, len),
        (batch.input_ids, batch.attention_mask, batch.text_len)
    );
}

/// A loader over drawings that are put together to other samples, see `visual`.
fn over(
    views: Views,
    train: bool,
    visual: impl Fn(usize, &[ImageSource]) -> Visual,
    change: impl FnOnce(&mut LoaderConfig),
) -> Loader {
    let plain = loader(16, |config| {
        config.views = views;
        config.train = train;
        change(config);
    });
    let mut set = Dataset::clone(plain.dataset());
    let drawings = set.samples.iter();
    let drawings: Vec<ImageSource> = drawings
        .map(|sample| sample.visual.sources()[0].clone())
        .collect();
    for (number, sample) in set.samples.iter_mut().enumerate() {
        sample.visual = visual(number, &drawings);
    }
    plain.over(set)
}

/// The values of each picture of each sample.
fn shown(batch: &HostBatch) -> Vec<Vec<&[f32]>> {
    let picture = 3 * batch.image_size * batch.image_size;
    let samples = batch.pixel_values.chunks(batch.views.count() * picture);
    assert_eq!(samples.len(), batch.samples.len());
    samples
        .map(|sample| sample.chunks(picture).collect())
        .collect()
}

const FOUR_FRAMES: Views = Views {
    pictures: 1,
    frames: 4,
};

#[test]
fn frames_of_a_clip_are_drawn_anew_and_changed_alike() {
    let clip = |_: usize, drawings: &[ImageSource]| Visual::Clip(Clip::Frames(drawings.to_vec()));
    let frozen = |number: usize, drawings: &[ImageSource]| {
        Visual::Clip(Clip::Frames(vec![drawings[number].clone(); 9]))
    };
    let moving = over(FOUR_FRAMES, true, clip, |_| {});
    let first = moving.batch(0).unwrap();
    assert_eq!(first.views, FOUR_FRAMES);
    for frames in shown(&first) {
        assert!(frames[0] != frames[1] && frames[2] != frames[3]);
    }
    let again = over(FOUR_FRAMES, true, clip, |config| config.threads = 1);
    assert_eq!(again.batch(0).unwrap(), first);
    assert_eq!(moving.cached(), 0, "another epoch takes other frames");
    // One crop and one mirror image for all frames.
    let still = over(FOUR_FRAMES, true, frozen, |_| {}).batch(0).unwrap();
    for frames in shown(&still) {
        assert!(frames.iter().all(|frame| frame == &frames[0]));
    }
    // A picture is a clip that stands still, augmented as a picture is.
    let picture = |number: usize, drawings: &[ImageSource]| drawings[number].clone().into();
    assert_eq!(
        over(FOUR_FRAMES, true, picture, |_| {}).batch(0).unwrap(),
        still
    );
    let alone = over(Views::default(), true, picture, |_| {})
        .batch(0)
        .unwrap();
    for (one, frames) in shown(&alone).iter().zip(shown(&still)) {
        assert_eq!(one[0], frames[3]);
    }
    // Evaluation: from the first to the last; with one frame, the one in the middle.
    let ordered = over(FOUR_FRAMES, false, clip, |_| {});
    let batch = ordered.batch(0).unwrap();
    let drawings = over(Views::default(), false, picture, |_| {});
    let drawings = [drawings.batch(0).unwrap(), drawings.batch(1).unwrap()];
    let one_by_one: Vec<_> = drawings.iter().flat_map(shown).collect();
    let places = [0, 5, 10, 15];
    assert_eq!(shown(&batch)[0], places.map(|place| one_by_one[place][0]));
    let preprocess = &ordered.config().preprocess;
    let set = ordered.dataset();
    let images = eval_images(set, &batch.samples, preprocess, FOUR_FRAMES).unwrap();
    assert_eq!(images, batch.pixel_values);
    let images = eval_images(set, &[0], preprocess, Views::default()).unwrap();
    assert_eq!(images, one_by_one[8][0]);
}

#[test]
fn several_pictures_are_changed_apart_and_kept_together() {
    let two = Views {
        pictures: 2,
        frames: 1,
    };
    let twice =
        |number: usize, drawings: &[ImageSource]| Visual::Images(vec![drawings[number].clone(); 2]);
    let loader = over(two, true, twice, |_| {});
    let batch = loader.batch(0).unwrap();
    assert_eq!(loader.cached(), 8);
    assert!(shown(&batch).iter().all(|pair| pair[0] != pair[1]));
    assert_eq!(loader.batch(0).unwrap(), batch, "from the cache");
    let uncached = over(two, true, twice, |config| config.cache_bytes = 0);
    assert_eq!(uncached.batch(0).unwrap(), batch);
    // The halves of a picture, one by one, are not the picture twice.
    let half = |x1, x2| Rect {
        x1,
        y1: 0.0,
        x2,
        y2: 1.0,
    };
    let halves = |number: usize, drawings: &[ImageSource]| Visual::Strip {
        image: drawings[number].clone(),
        parts: vec![half(0.0, 0.5), half(0.5, 1.0)],
    };
    let strips = over(two, false, halves, |_| {});
    let batch = strips.batch(0).unwrap();
    assert!(shown(&batch).iter().all(|pair| pair[0] != pair[1]));
    let preprocess = &strips.config().preprocess;
    let images = eval_images(strips.dataset(), &batch.samples, preprocess, two).unwrap();
    assert_eq!(images, batch.pixel_values);
    let report = crate::check(strips.dataset(), &crate::Limits::default(), &|_| {});
    assert_eq!((report.good.len(), report.quarantine.len()), (16, 0));
    // Another number is an error that names both and the sample.
    let three = Views {
        pictures: 3,
        frames: 1,
    };
    let error = over(three, true, twice, |_| {}).batch(0).unwrap_err();
    let told = error.to_string();
    assert!(told.contains("has 2 pictures, and 3 are"), "{told}");
    assert!(
        told.contains("sample `") && told.contains("from: "),
        "{told}"
    );
}

#[test]
fn the_blind_see_zeros_and_read_no_picture() {
    let broken = |_: usize, _: &[ImageSource]| ImageSource::Static(b"not a picture").into();
    let blind = over(FOUR_FRAMES, true, broken, |config| config.blind = true);
    let batch = blind.batch(0).unwrap();
    assert_eq!(batch.pixel_values, vec![0.0; 8 * 4 * 3 * 32 * 32]);
    let seeing = loader(16, |_| {}).batch(0).unwrap();
    assert_eq!(
        (batch.samples, batch.input_ids),
        (seeing.samples, seeing.input_ids)
    );
}

#[test]
fn targets_go_with_their_samples() {
    let plain = loader(16, |_| {});
    assert!(plain.batch(0).unwrap().targets.is_empty());
    let mut set = Dataset::clone(plain.dataset());
    for (number, sample) in set.samples.iter_mut().enumerate() {
        let label = ["even", "odd"]
            .get(number % 3)
            .map(|label| (*label).to_owned());
        sample.annotations.label = label;
    }
    let targets = Arc::new(Targets::labels(&set.samples));
    let asked = loader(16, |config| config.targets = Some(targets)).over(set);
    let batch = asked.batch(1).unwrap();
    assert_eq!(batch.targets.len(), 8);
    for (sample, targets) in batch.samples.iter().zip(&batch.targets) {
        let expected: &[(u32, f32)] = match sample % 3 {
            0 => &[(0, 1.0)],
            1 => &[(1, 1.0)],
            _ => &[],
        };
        assert_eq!(targets, expected);
    }
}

#[test]
fn views_out_of_range_are_refused() {
    let plain = loader(9, |_| {});
    for (pictures, frames, told) in [
        (0, 1, "pictures"),
        (1, 0, "frames"),
        (1, 257, "frames"),
        (usize::MAX, 1, "pictures"),
        (usize::MAX, usize::MAX, "pictures"),
        (2, 2, "frames"),
    ] {
        let views = Views { pictures, frames };
        let error = views.validate().unwrap_err().to_string();
        assert!(error.contains(told), "{error}");
        assert!(eval_images(plain.dataset(), &[0], &plain.config().preprocess, views).is_err());
        let config = LoaderConfig {
            views,
            ..plain.config().clone()
        };
        let (set, tokenizer) = (plain.dataset(), &plain.inner.tokenizer);
        assert!(Loader::new(Arc::clone(set), Arc::clone(tokenizer), config).is_err());
    }
    let views = Views {
        pictures: 1,
        frames: 256,
    };
    assert!(views.validate().is_ok());
    assert_eq!((views.count(), Views::default().count()), (256, 1));
}
