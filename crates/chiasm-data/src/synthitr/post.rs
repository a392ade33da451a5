//! What a post shows and says, from its number alone.

use super::draw::{self, SIDE};
use crate::relation::Relation;
use crate::rng::{self, Rng};

/// Shares of the four relations, by class: those of the paper's data set (`specs/itr.md` section 4.1).
const PRIOR: [f64; 4] = [0.338, 0.257, 0.219, 0.186];

/// Of posts whose text names something: how often a shape; else the scene.
const NAMES_SHAPE: f64 = 0.7;
/// Of posts whose text is not shown: how often it names something that is absent.
const NAMES_ABSENT: f64 = 0.5;
/// How often a text has a word of the vocabulary of lettering, whatever the relation.
const HAS_WORD: f64 = 0.5;
/// How often the picture repeats that word where it may.
const REPEATS: f64 = 0.8;
/// Of posts whose picture adds: how often the text says "this" instead of lettering that it lacks.
const POINTS: f64 = 0.3;
/// How often a thing is dropped from, or replaced in, the caption channel.
const CAPTION_ERRORS: f64 = 0.15;
/// How often a letter of the OCR channel is another one.
const OCR_ERRORS: f64 = 0.05;
/// Different authors.
const AUTHORS: usize = 1_500;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Circle,
    Square,
    Triangle,
    Star,
    Heart,
    Cross,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Colour {
    Red,
    Yellow,
    Blue,
    Green,
    Purple,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scene {
    Beach,
    City,
    Meadow,
    Night,
}

impl Shape {
    const ALL: [Self; 6] = [
        Self::Circle,
        Self::Square,
        Self::Triangle,
        Self::Star,
        Self::Heart,
        Self::Cross,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Circle => "circle",
            Self::Square => "square",
            Self::Triangle => "triangle",
            Self::Star => "star",
            Self::Heart => "heart",
            Self::Cross => "cross",
        }
    }
}

impl Colour {
    const ALL: [Self; 5] = [
        Self::Red,
        Self::Yellow,
        Self::Blue,
        Self::Green,
        Self::Purple,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Red => "red",
            Self::Yellow => "yellow",
            Self::Blue => "blue",
            Self::Green => "green",
            Self::Purple => "purple",
        }
    }
}

impl Scene {
    const ALL: [Self; 4] = [Self::Beach, Self::City, Self::Meadow, Self::Night];

    const fn name(self) -> &'static str {
        match self {
            Self::Beach => "beach",
            Self::City => "city",
            Self::Meadow => "meadow",
            Self::Night => "night sky",
        }
    }

    /// Where the things of a caption are.
    const fn place(self) -> &'static str {
        match self {
            Self::Beach => "on a beach",
            Self::City => "in a city",
            Self::Meadow => "in a meadow",
            Self::Night => "under a night sky",
        }
    }
}

/// A shape in a picture.
#[derive(Clone, Copy, Debug)]
pub(super) struct Figure {
    pub(super) shape: Shape,
    pub(super) colour: Colour,
    /// Centre in pixels.
    pub(super) x: f32,
    pub(super) y: f32,
    /// Half the side of its box in pixels.
    pub(super) size: f32,
}

impl Figure {
    /// As texts call it, for example `red star`.
    pub(super) fn name(&self) -> String {
        format!("{} {}", self.colour.name(), self.shape.name())
    }
}

/// The words of lettering, at most seven letters each; no other part of a text uses them.
const WORDS: [&str; 24] = [
    "monday", "friday", "sunday", "sale", "free", "coffee", "exam", "music", "train", "lunch",
    "party", "game", "vote", "news", "ticket", "rain", "class", "gym", "movie", "book", "doctor",
    "pizza", "school", "travel",
];

/// About a shape or scene; `{}` is its name.
const ABOUT_SHAPE: [&str; 6] = [
    "love my {}",
    "just got a {}",
    "my new {}",
    "nothing beats a {}",
    "i need a {}",
    "who wants a {}",
];
const ABOUT_SCENE: [&str; 5] = [
    "missing the {}",
    "off to the {}",
    "the {} never gets old",
    "love the {}",
    "dreaming of the {}",
];
const FEELINGS: [&str; 8] = [
    "feeling so tired",
    "so happy right now",
    "cannot stop smiling",
    "really angry about it all",
    "bored out of my mind",
    "so proud of us",
    "nervous and excited",
    "feeling lucky",
];
const COMMENTS: [&str; 8] = [
    "what a week",
    "cannot believe it",
    "here we go again",
    "not even surprised",
    "that escalated quickly",
    "good luck everyone",
    "ready for anything",
    "same old story",
];
/// About a word of [`WORDS`].
const ABOUT_WORD: [&str; 4] = ["{} again", "thinking of {}", "no {} for me", "{} it is"];
/// Nothing else says "this" or "these".
const POINTING: [&str; 5] = [
    "look at this",
    "just look at these",
    "this one though",
    "because of this",
    "these are mine",
];
const SLANG: [&str; 6] = ["lol", "omg", "smh", "tbh", "fr", "ngl"];
const HASHTAGS: [&str; 6] = ["#mood", "#life", "#blessed", "#tbt", "#nofilter", "#wow"];

/// A post.
pub(super) struct Post {
    pub(super) relation: Relation,
    pub(super) scene: Scene,
    /// What the random parts of the scene follow from.
    pub(super) salt: u64,
    pub(super) figures: Vec<Figure>,
    /// Lettering, upper case: a word at the top, a second at the bottom.
    pub(super) overlay: Vec<String>,
    /// As posted, with its links.
    pub(super) text: String,
    /// The figure that the text names.
    pub(super) named: Option<usize>,
    pub(super) ocr: String,
    pub(super) caption: String,
    pub(super) author: String,
}

fn chance(rng: &mut Rng, share: f64) -> bool {
    rng::unit_f64(rng) < share
}

fn pick<T: Copy>(rng: &mut Rng, from: &[T], otherwise: T) -> T {
    from.get(rng::below(rng, from.len()))
        .copied()
        .unwrap_or(otherwise)
}

fn say(rng: &mut Rng, templates: &[&str], what: &str) -> String {
    pick(rng, templates, "{}").replace("{}", what)
}

impl Post {
    /// Post `index` of a part of the set.
    pub(super) fn new(seed: u64, part: u64, index: u64) -> Self {
        let rng = &mut rng::stream(seed, "synthitr/post", &[part, index]);
        let relation = draw_relation(rng);
        let points = relation.adds && chance(rng, POINTS);
        let names_shape = chance(rng, NAMES_SHAPE);
        // What "this" is must not be what is named.
        let fewest = 1 + usize::from(points && relation.represented && names_shape);
        let count = fewest + rng::below(rng, 4 - fewest);
        let figures = draw_figures(rng, count);
        let scene = pick(rng, &Scene::ALL, Scene::Beach);

        let mut named = None;
        let mut clauses = vec![match (relation.represented, names_shape) {
            (true, true) => {
                let which = rng::below(rng, figures.len());
                named = Some(which);
                let name = figures.get(which).map(Figure::name).unwrap_or_default();
                say(rng, &ABOUT_SHAPE, &name)
            }
            (true, false) => say(rng, &ABOUT_SCENE, scene.name()),
            (false, names_shape) => {
                if !chance(rng, NAMES_ABSENT) {
                    let kind = if chance(rng, 0.5) {
                        &FEELINGS
                    } else {
                        &COMMENTS
                    };
                    pick(rng, kind, "").to_owned()
                } else if names_shape {
                    let drawn = |shape: &Shape| figures.iter().any(|own| own.shape == *shape);
                    let absent: Vec<Shape> = Shape::ALL
                        .into_iter()
                        .filter(|shape| !drawn(shape))
                        .collect();
                    let shape = pick(rng, &absent, Shape::Cross);
                    let colour = pick(rng, &Colour::ALL, Colour::Red);
                    say(
                        rng,
                        &ABOUT_SHAPE,
                        &format!("{} {}", colour.name(), shape.name()),
                    )
                } else {
                    let others: Vec<Scene> =
                        Scene::ALL.into_iter().filter(|own| *own != scene).collect();
                    let other = pick(rng, &others, Scene::Beach);
                    say(rng, &ABOUT_SCENE, other.name())
                }
            }
        }];

        let word = chance(rng, HAS_WORD).then(|| pick(rng, &WORDS, "news"));
        if let Some(word) = word {
            clauses.push(say(rng, &ABOUT_WORD, word));
        }
        let mut overlay: Vec<&str> = Vec::new();
        if relation.adds && !points {
            let lines = 1 + rng::below(rng, 2);
            let mut fresh: Vec<&str> = WORDS.into_iter().filter(|new| Some(*new) != word).collect();
            for _ in 0..lines {
                overlay.push(fresh.swap_remove(rng::below(rng, fresh.len())));
            }
        } else if let Some(word) = word
            && chance(rng, REPEATS)
        {
            overlay.push(word);
        }
        if points {
            clauses.push(pick(rng, &POINTING, "look at this").to_owned());
        }
        let author = format!("author{:04}", rng::below(rng, AUTHORS));
        Self {
            relation,
            scene,
            salt: rng::below(rng, usize::MAX) as u64,
            text: dress(rng, &clauses.join(" ")),
            named,
            ocr: misread(rng, &overlay),
            caption: caption(rng, &figures, scene),
            overlay: overlay.iter().map(|word| word.to_uppercase()).collect(),
            figures,
            author,
        }
    }

    /// The picture, RGB row by row.
    pub(super) fn draw(&self) -> Vec<u8> {
        let mut canvas = draw::Canvas::new();
        canvas.scene(self.scene, self.salt);
        for figure in &self.figures {
            canvas.figure(figure);
        }
        for (word, top) in self.overlay.iter().zip([2, SIDE - draw::LINE - 2]) {
            canvas.lettering(word, top);
        }
        canvas.pixels
    }
}

fn draw_relation(rng: &mut Rng) -> Relation {
    let mut left = rng::unit_f64(rng) * PRIOR.iter().sum::<f64>();
    for (relation, share) in Relation::ALL.into_iter().zip(PRIOR) {
        if left < share {
            return relation;
        }
        left -= share;
    }
    Relation::new(true, true)
}

/// Figures side by side between the two lines of lettering, no two of one shape.
fn draw_figures(rng: &mut Rng, count: usize) -> Vec<Figure> {
    const SPACE: f64 = 1.3;
    let (top, bottom) = ((draw::LINE + 4) as f64, (SIDE - draw::LINE - 4) as f64);
    let cell = SIDE as f64 / count as f64;
    let (smallest, largest) = match count {
        1 => (14.0, 19.0),
        2 => (12.0, 17.0),
        _ => (9.0, 12.0),
    };
    let mut shapes = Shape::ALL.to_vec();
    (0..count)
        .map(|place| {
            let shape = shapes.swap_remove(rng::below(rng, shapes.len()));
            let size = rng::uniform(rng, smallest, largest);
            let room = size * SPACE;
            let left = cell * place as f64;
            Figure {
                shape,
                colour: pick(rng, &Colour::ALL, Colour::Red),
                x: rng::uniform(rng, left + room, left + cell - room) as f32,
                y: rng::uniform(rng, top + room, bottom - room) as f32,
                size: size as f32,
            }
        })
        .collect()
}

/// What people put around what they say.
fn dress(rng: &mut Rng, said: &str) -> String {
    let mut text = String::new();
    if chance(rng, 0.15) {
        text.push_str(&format!("RT @user{}: ", rng::below(rng, 10_000)));
    }
    text.push_str(said);
    let mut add = |part: &str| {
        text.push(' ');
        text.push_str(part);
    };
    if chance(rng, 0.25) {
        add(pick(rng, &SLANG, "lol"));
    }
    if chance(rng, 0.3) {
        for _ in 0..=rng::below(rng, 2) {
            add(pick(rng, &HASHTAGS, "#wow"));
        }
    }
    let links = [0, 1, 1, 1, 2];
    for _ in 0..pick(rng, &links, 1) {
        const CODE: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
        let code: String = (0..10).map(|_| char::from(pick(rng, CODE, b'a'))).collect();
        add(&format!("https://t.co/{code}"));
    }
    text
}

/// The lettering as a machine reads it.
fn misread(rng: &mut Rng, overlay: &[&str]) -> String {
    let read = |rng: &mut Rng, letter: char| match letter {
        'a'..='z' if chance(rng, OCR_ERRORS) => char::from(b'A' + rng::below(rng, 26) as u8),
        other => other.to_ascii_uppercase(),
    };
    let letters = overlay.join(" ");
    letters.chars().map(|letter| read(rng, letter)).collect()
}

/// The figures as a machine sees them.
fn caption(rng: &mut Rng, figures: &[Figure], scene: Scene) -> String {
    let mut seen = Vec::with_capacity(figures.len());
    for figure in figures {
        let wrong = chance(rng, CAPTION_ERRORS);
        if wrong && chance(rng, 0.5) {
            continue;
        }
        let mut figure = *figure;
        if wrong {
            figure.shape = pick(rng, &Shape::ALL, Shape::Cross);
            figure.colour = pick(rng, &Colour::ALL, Colour::Red);
        }
        seen.push(format!("a {}", figure.name()));
    }
    let things = match seen.as_slice() {
        [] => "a view".to_owned(),
        [one] => one.clone(),
        [several @ .., last] => format!("{} and {last}", several.join(", ")),
    };
    format!("{things} {}", scene.place())
}
