//! SynthITR: posts whose relation of text and picture is known (`specs/itr.md` section 4.8).
//!
//! The posts of the paper cannot be handed on, so these are made: a scene with one to three coloured
//! shapes, lettering over it, and a short text with the noise of real posts. What the labels mean:
//!
//! * **t**, the text is represented: it names a shape or the scene that is drawn. Otherwise it names
//!   one that is absent, or a feeling, or is a bare comment.
//! * **v**, the picture adds: it has lettering that the text lacks, or the text speaks of a shape as
//!   "this" or "these" alone. Otherwise there is no lettering, or it repeats a word of the text.
//!
//! A word of the lettering's vocabulary is in half of all texts, and shapes and scenes are named in
//! half of those that are not represented, so that neither text nor picture alone says the class.
//!
//! Every post has an `ocr` text (the lettering, 5 % of its letters wrong, empty where there is none), a
//! `caption` (the shapes and the scene, 15 % of the shapes missing or replaced) and an `author`, who
//! has no style of his own. Labelled texts have lost one link at their end, as those of the paper's set
//! (section 3.1); unlabelled ones keep theirs. Labelled posts carry boxes of their shapes, and the
//! phrase that names one. Unlabelled posts carry nothing that tells their relation.
//!
//! A picture is drawn when it is read, from the seed and its number; nothing of it stays in memory.

mod draw;
mod font;
mod post;

use crate::dataset::{Annotations, Dataset, ImageSource, Object, Origin, Phrase, Sample, Split};
use crate::error::DataError;
use crate::grouping::hold_out;
use crate::readers::clean_post;
use crate::relation::Relation;
use crate::rng;
use draw::SIDE;
use post::Post;

/// Most posts of one kind.
const MAX_POSTS: usize = 10_000_000;

/// What set to make.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Config {
    /// Another seed, other posts. Default: 0.
    pub seed: u64,
    /// Share of training and validation labels that are replaced by one of the other three classes;
    /// labels of test posts are right. Default: 0.
    pub noise: f64,
    /// Posts without a label, all training. Default: 20,000.
    pub unlabelled: usize,
    /// Labelled posts for training, of which a tenth is for validation, by author. Default: 3,576.
    pub train: usize,
    /// Labelled posts for the final figure. Default: 895.
    pub test: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            seed: 0,
            noise: 0.0,
            unlabelled: 20_000,
            train: 3_576,
            test: 895,
        }
    }
}

impl Config {
    /// From `key=value` pairs with commas between them, such as `seed=1,noise=0.25,unlabelled=0`; an
    /// empty text is the default set.
    ///
    /// # Errors
    /// An unknown key, or a value that the key cannot have.
    pub fn parse(text: &str) -> Result<Self, DataError> {
        let mut config = Self::default();
        for pair in text.split(',').filter(|pair| !pair.trim().is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (key, value) = (key.trim(), value.trim());
            let wrong = |reason| DataError::Setting {
                name: "builtin:synthitr",
                value: pair.trim().to_owned(),
                reason,
            };
            let number = || {
                let number = value.parse().ok().filter(|number| *number <= MAX_POSTS);
                number.ok_or_else(|| wrong("it must be a whole number of at most 10,000,000"))
            };
            match key {
                "seed" => {
                    let seed = value.parse();
                    config.seed = seed.map_err(|_| wrong("it must be a whole number from 0"))?;
                }
                "noise" => {
                    let noise = value.parse().ok();
                    let noise = noise.filter(|noise| (0.0..=1.0).contains(noise));
                    config.noise = noise.ok_or_else(|| wrong("it must be in 0..=1"))?;
                }
                "unlabelled" => config.unlabelled = number()?,
                "train" => config.train = number()?,
                "test" => config.test = number()?,
                _ => {
                    return Err(wrong(
                        "known are seed, noise, unlabelled, train and test, each with `=` and a number",
                    ));
                }
            }
        }
        Ok(config)
    }
}

/// Which kind of post, and so which stream of random numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
enum Part {
    Unlabelled,
    Train,
    Test,
}

/// A picture that is drawn when it is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Picture {
    seed: u64,
    part: Part,
    index: u64,
}

impl Picture {
    fn post(self) -> Post {
        Post::new(self.seed, self.part as u64, self.index)
    }

    /// The picture as a BMP file of 96 x 96 pixels, the same bytes for ever.
    #[must_use]
    pub fn bmp(self) -> Vec<u8> {
        const HEADER: u32 = 54;
        let side = SIDE as u32;
        let size = HEADER + side * side * 3;
        let mut bytes = b"BM".to_vec();
        for word in [size, 0, HEADER, 40, side, side] {
            bytes.extend(word.to_le_bytes());
        }
        // One plane, 24 bits a pixel; no compression, 2,835 pixels a metre.
        bytes.extend([1, 0, 24, 0]);
        for word in [0, side * side * 3, 2_835, 2_835, 0, 0] {
            bytes.extend(word.to_le_bytes());
        }
        // Rows from the bottom, blue first; their length is a multiple of four.
        for row in self.post().draw().chunks_exact(SIDE * 3).rev() {
            for pixel in row.chunks_exact(3) {
                bytes.extend(pixel.iter().rev());
            }
        }
        bytes
    }

    /// What tells it from every other picture, for a fingerprint.
    pub(crate) fn key(self) -> [u64; 3] {
        [self.seed, self.part as u64, self.index]
    }
}

/// The set of a configuration.
///
/// # Errors
/// When it has no posts at all.
pub fn open(config: &Config) -> Result<Dataset, DataError> {
    let mut samples = Vec::with_capacity(config.unlabelled + config.train + config.test);
    let of = |part: Part, count: usize| {
        (0..count as u64).map(move |index| Picture {
            seed: config.seed,
            part,
            index,
        })
    };
    samples.extend(of(Part::Unlabelled, config.unlabelled).map(unlabelled));
    let train = samples.len();
    samples.extend(of(Part::Train, config.train).map(|picture| labelled(picture, config.noise)));
    if let Some(train) = samples.get_mut(train..) {
        hold_out(train);
    }
    samples.extend(of(Part::Test, config.test).map(|picture| labelled(picture, 0.0)));
    if samples.is_empty() {
        return Err(DataError::NoSamples {
            name: "synthitr".to_owned(),
        });
    }
    Ok(Dataset {
        name: "synthitr".to_owned(),
        samples,
    })
}

fn unlabelled(picture: Picture) -> Sample {
    let post = picture.post();
    let text = post.text.clone();
    sample("unlabelled", picture, text, Split::Train, notes(post))
}

fn labelled(picture: Picture, noise: f64) -> Sample {
    let post = picture.post();
    let text = clean_post(&post.text).to_owned();
    let relation = misjudge(picture, post.relation, noise);
    let objects = post.figures.iter().map(|figure| Object {
        category: figure.name(),
        rect: draw::bounds(figure),
    });
    let objects: Vec<Object> = objects.collect();
    let named = post.named.and_then(|named| objects.get(named));
    let phrases = named.into_iter().map(|named| Phrase {
        text: 0,
        phrase: named.category.clone(),
        start: text.find(&named.category),
        kind: String::new(),
        boxes: named.rect.into_iter().collect(),
        masks: Vec::new(),
    });
    let annotations = Annotations {
        label: Some(relation.name().to_owned()),
        relation: Some(relation),
        phrases: phrases.collect(),
        objects,
        ..notes(post)
    };
    match picture.part {
        Part::Test => sample("test", picture, text, Split::Test, annotations),
        _ => sample("train", picture, text, Split::Train, annotations),
    }
}

fn notes(post: Post) -> Annotations {
    Annotations {
        ocr: Some(post.ocr),
        caption: Some(post.caption),
        author: Some(post.author),
        ..Annotations::default()
    }
}

fn sample(
    kind: &str,
    picture: Picture,
    text: String,
    split: Split,
    annotations: Annotations,
) -> Sample {
    Sample {
        id: format!("{kind}-{:05}", picture.index),
        visual: ImageSource::Drawn(picture).into(),
        texts: vec![text],
        split,
        group: None,
        annotations,
        origin: Origin::default(),
    }
}

/// The relation as a careless annotator gives it.
fn misjudge(picture: Picture, right: Relation, noise: f64) -> Relation {
    let rng = &mut rng::stream(picture.seed, "synthitr/noise", &[picture.index]);
    if rng::unit_f64(rng) >= noise {
        return right;
    }
    let other = (right.tv() + 1 + rng::below(rng, 3)) % 4;
    Relation::from_tv(other).unwrap_or(right)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::{Limits, decode_rgb};
    use std::collections::HashSet;

    fn small() -> Dataset {
        let config = Config::parse("unlabelled=300,train=1200,test=400").unwrap();
        open(&config).unwrap()
    }

    fn words(text: &str) -> HashSet<String> {
        let words = text.split(|c: char| !c.is_ascii_alphabetic());
        words.map(str::to_lowercase).collect()
    }

    #[test]
    fn sizes_splits_and_the_prior() {
        let set = open(&Config::default()).unwrap();
        let labelled = |sample: &&Sample| sample.annotations.relation.is_some();
        let count = |split| set.subset(split).samples.iter().filter(labelled).count();
        assert_eq!(set.len(), 24_471);
        assert_eq!(set.subset(Split::Train).len(), 20_000 + count(Split::Train));
        assert_eq!(count(Split::Train) + count(Split::Val), 3_576);
        assert_eq!(count(Split::Test), 895);
        assert!(
            (358..=370).contains(&count(Split::Val)),
            "{}",
            count(Split::Val)
        );
        for (relation, share) in Relation::ALL.into_iter().zip([0.338, 0.257, 0.219, 0.186]) {
            let own = set.samples.iter().filter(labelled);
            let own = own.filter(|sample| sample.annotations.relation == Some(relation));
            let found = own.count() as f64 / 4_471.0;
            assert!((found - share).abs() < 0.02, "{relation:?} {found}");
        }
        // Nothing of an unlabelled post tells its relation.
        let own = |sample: &&Sample| sample.id.starts_with("unlabelled");
        for sample in set.samples.iter().filter(own) {
            let said = &sample.annotations;
            assert!(said.label.is_none() && said.objects.is_empty() && said.phrases.is_empty());
            assert!(said.ocr.is_some() && said.caption.is_some() && said.author.is_some());
        }
    }

    #[test]
    fn labels_mean_what_they_say() {
        let mut repeated = 0;
        for index in 0..3_000 {
            let post = Post::new(7, 1, index);
            let said = words(&post.text);
            let drawn = |text: &str| post.figures.iter().any(|own| text.contains(&own.name()));
            let scenes = ["beach", "city", "meadow", "night"];
            let scene = scenes[post.scene as usize];
            let represented = drawn(&post.text) || said.contains(scene);
            assert_eq!(represented, post.relation.represented, "{}", post.text);
            assert_eq!(post.named.is_some(), drawn(&post.text));
            let new = post
                .overlay
                .iter()
                .any(|word| !said.contains(&word.to_lowercase()));
            let points = said.contains("this") || said.contains("these");
            assert_eq!(
                new || points,
                post.relation.adds,
                "{} {:?}",
                post.text,
                post.overlay
            );
            repeated += usize::from(!post.overlay.is_empty() && !new);
            if points && post.named.is_some() {
                assert!(post.figures.len() > 1);
            }
            let read = post.ocr.split_whitespace();
            assert!(
                read.zip(&post.overlay)
                    .all(|(ocr, word)| ocr.len() == word.len())
            );
            assert_eq!(post.ocr.is_empty(), post.overlay.is_empty());
        }
        assert!(repeated > 300, "{repeated}");
    }

    #[test]
    fn pictures_are_what_the_samples_say() {
        let set = small();
        let (one, two) = (set.clone().fingerprint(), small().fingerprint());
        assert_eq!(one, two);
        let other = open(&Config::parse("seed=1,unlabelled=300,train=1200,test=400").unwrap());
        assert_ne!(other.unwrap().fingerprint(), one);
        let mut looks = HashSet::new();
        for sample in set.samples.iter().skip(290).take(60) {
            let [source] = sample.visual.sources() else {
                panic!("one picture");
            };
            let bytes = source.read().unwrap();
            let picture = decode_rgb(&bytes, &Limits::default(), true).unwrap();
            assert_eq!((picture.width, picture.height), (96, 96));
            // The middle of a shape has its colour, unless it has a hole there.
            for object in &sample.annotations.objects {
                let rect = object.rect.unwrap();
                let at = |a: f32, b: f32| ((a + b) / 2.0 * 96.0) as usize;
                let place = (at(rect.y1, rect.y2) * 96 + at(rect.x1, rect.x2)) * 3;
                let [r, g, b] = [0, 1, 2].map(|band| i32::from(picture.data[place + band]));
                let is = match object.category.split(' ').next().unwrap() {
                    "red" => r > 200 && g < 80,
                    "yellow" => r > 200 && g > 180 && b < 80,
                    "blue" => b > 200 && r < 80,
                    "green" => g > 130 && r < 80,
                    _ => r > 130 && b > 160 && g < 80,
                };
                assert!(is, "{} {}: {r} {g} {b}", sample.id, object.category);
            }
            looks.insert(bytes.into_owned());
        }
        assert_eq!(looks.len(), 60);
        let phrases = set.samples.iter().flat_map(|sample| {
            let text = sample.texts[0].as_str();
            sample
                .annotations
                .phrases
                .iter()
                .map(move |phrase| (text, phrase))
        });
        let mut count = 0;
        for (text, phrase) in phrases {
            assert!(text[phrase.start.unwrap()..].starts_with(&phrase.phrase));
            assert_eq!(phrase.boxes.len(), 1);
            count += 1;
        }
        assert!(count > 300, "{count}");
    }

    #[test]
    fn noise_spares_the_test_labels() {
        let noisy = Config::parse("noise=0.25,unlabelled=0,train=2000,test=500").unwrap();
        let clean = Config {
            noise: 0.0,
            ..noisy
        };
        let (noisy, clean) = (open(&noisy).unwrap(), open(&clean).unwrap());
        let pairs = noisy.samples.iter().zip(&clean.samples);
        let changed = pairs
            .filter(|(one, two)| one.annotations.relation != two.annotations.relation)
            .inspect(|(one, _)| assert_ne!(one.split, Split::Test))
            .count();
        assert!((440..560).contains(&changed), "{changed}");
    }

    #[test]
    fn settings_are_checked() {
        for wrong in [
            "nose=1",
            "noise=2",
            "noise=NaN",
            "train",
            "train=-1",
            "test=1e9",
            "seed=x",
        ] {
            assert!(Config::parse(wrong).is_err(), "{wrong}");
        }
        let none = Config::parse("unlabelled=0, train=0, test=0").unwrap();
        assert!(open(&none).is_err());
        assert_eq!(Config::parse("").unwrap(), Config::default());
    }
}
