//! How near two nouns are in meaning, without word vectors: same word, synonym, kind of.
//!
//! Owns the built-in list (`assets/lexicon.txt`) and the similarity that is read from it, the fall-back of
//! `specs/tbkin.md` 9.3. It covers what region detectors of this field name and what captions of photos say.
//! Similarities out of word vectors are `vectors`'.

use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

use crate::text::lemma;

/// Similarity of a word to itself.
pub const SAME: f64 = 1.0;
/// Similarity of a compound to its last word, `tennis racket` to `racket`.
pub const HEAD: f64 = 0.8;
/// Similarity of synonyms.
pub const SYNONYM: f64 = 0.7;
/// Similarity of a word to what it is a kind of.
pub const KIND: f64 = 0.6;

/// What the list says.
struct Lexicon {
    /// The groups of synonyms that a word is in.
    groups: HashMap<String, Vec<usize>>,
    /// What each word is directly a kind of.
    kinds: HashMap<String, Vec<String>>,
    /// Compounds that are no kind of their last word.
    opaque: HashSet<String>,
}

static LEXICON: LazyLock<Lexicon> = LazyLock::new(|| {
    let mut lexicon = Lexicon {
        groups: HashMap::new(),
        kinds: HashMap::new(),
        opaque: HashSet::new(),
    };
    for (number, line) in include_str!("../assets/lexicon.txt").lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(words) = line.strip_prefix('!') {
            lexicon.opaque.extend(words.split(',').map(phrase));
        } else if let Some((kind, words)) = line.split_once('>') {
            for word in words.split(',') {
                lexicon
                    .kinds
                    .entry(phrase(word))
                    .or_default()
                    .push(phrase(kind));
            }
        } else {
            for word in line.split('=') {
                lexicon.groups.entry(phrase(word)).or_default().push(number);
            }
        }
    }
    lexicon
});

/// How near two nouns or noun phrases are, in `0..=1`, from the built-in list.
///
/// Words count as lemmas ([`lemma::noun`] of the last word): 1 for the same, [`HEAD`] when one is the last word
/// of the other, [`SYNONYM`], [`KIND`], else 0. Symmetric.
///
/// # Examples
///
/// ```
/// use chiasm_graph::lexicon::similarity;
///
/// assert_eq!(similarity("dogs", "dog"), 1.0);
/// assert_eq!(similarity("couch", "sofa"), 0.7);
/// assert_eq!(similarity("woman", "person"), 0.6);
/// assert_eq!(similarity("woman", "bridge"), 0.0);
/// ```
pub fn similarity(a: &str, b: &str) -> f64 {
    let (a, b) = (phrase(a), phrase(b));
    if a.is_empty() || b.is_empty() {
        return 0.0;
    }
    if a == b {
        return SAME;
    }
    let whole = related(&a, &b);
    let (short_a, short_b) = (last(&a), last(&b));
    let by_head = match (short_a, short_b) {
        (None, None) => 0.0,
        (head, None) => headed(head.unwrap_or(&a), &b),
        (None, head) => headed(&a, head.unwrap_or(&b)),
        (Some(head_a), Some(head_b)) => headed(head_a, &b)
            .max(headed(&a, head_b))
            .max(related(head_a, head_b)),
    };
    whole.max(by_head)
}

/// True when two nouns or noun phrases are the same or synonyms.
pub(crate) fn is_synonym(a: &str, b: &str) -> bool {
    related(&phrase(a), &phrase(b)) >= SYNONYM
}

/// The words that are some kind of `kind`, over any number of steps, with their synonyms.
fn kinds_of(kind: &str) -> HashSet<&'static str> {
    let lexicon = &*LEXICON;
    let named = lexicon
        .kinds
        .keys()
        .chain(lexicon.groups.keys())
        .map(String::as_str);
    let mut found: HashSet<&str> = named.filter(|word| climbs(word, kind, DEPTH)).collect();
    let groups: HashSet<usize> = found
        .iter()
        .filter_map(|word| lexicon.groups.get(*word))
        .flatten()
        .copied()
        .collect();
    let synonyms = lexicon
        .groups
        .iter()
        .filter(|(_, own)| own.iter().any(|group| groups.contains(group)));
    found.extend(synonyms.map(|(word, _)| word.as_str()));
    found
}

static PEOPLE: LazyLock<HashSet<&'static str>> = LazyLock::new(|| kinds_of("person"));
static ANIMALS: LazyLock<HashSet<&'static str>> = LazyLock::new(|| kinds_of("animal"));
static CLOTHES: LazyLock<HashSet<&'static str>> = LazyLock::new(|| kinds_of("clothing"));

/// A chain of kinds longer than this would be a circle.
const DEPTH: usize = 5;

/// True when a noun, given as a lemma, names a person or an animal: these act and have bodies.
pub(crate) fn is_animate(word: &str) -> bool {
    is_person(word) || ANIMALS.contains(word)
}

/// True when a noun, given as a lemma, names a person.
pub(crate) fn is_person(word: &str) -> bool {
    PEOPLE.contains(word)
}

/// True when a noun, given as a lemma, names something to wear.
pub(crate) fn is_clothing(word: &str) -> bool {
    CLOTHES.contains(word)
}

fn climbs(word: &str, kind: &str, depth: usize) -> bool {
    let kinds = LEXICON
        .kinds
        .get(word)
        .map(Vec::as_slice)
        .unwrap_or_default();
    word == kind || (depth > 0 && kinds.iter().any(|next| climbs(next, kind, depth - 1)))
}

fn headed(a: &str, b: &str) -> f64 {
    if a == b { HEAD } else { related(a, b) }
}

fn related(a: &str, b: &str) -> f64 {
    if a == b {
        return SAME;
    }
    let groups = |word: &str| {
        LEXICON
            .groups
            .get(word)
            .map(Vec::as_slice)
            .unwrap_or_default()
    };
    if groups(a).iter().any(|group| groups(b).contains(group)) {
        return SYNONYM;
    }
    if below(a, b) || below(b, a) {
        KIND
    } else {
        0.0
    }
}

/// True when `word` is directly a kind of `kind`, or of something that is directly a kind of it.
fn below(word: &str, kind: &str) -> bool {
    let kinds = |word: &str| {
        LEXICON
            .kinds
            .get(word)
            .map(Vec::as_slice)
            .unwrap_or_default()
    };
    let is = |next: &String| next == kind;
    kinds(word)
        .iter()
        .any(|next| is(next) || kinds(next).iter().any(is))
}

/// A phrase whose last word is a lemma.
fn phrase(text: &str) -> String {
    let text = text.trim().to_lowercase();
    match text.rsplit_once(' ') {
        Some((rest, word)) => format!("{rest} {}", lemma::noun(word)),
        None => lemma::noun(&text).into_owned(),
    }
}

/// The last word of a compound that is a kind of it.
fn last(phrase: &str) -> Option<&str> {
    let (_, head) = phrase.rsplit_once(' ')?;
    (!LEXICON.opaque.contains(phrase)).then_some(head)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vocabulary;
    use proptest::prelude::*;

    /// The 80 classes of COCO's detectors.
    const COCO: &str = "person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, \
        stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, \
        umbrella, handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, \
        skateboard, surfboard, tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, \
        orange, broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv, \
        laptop, mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase, \
        scissors, teddy bear, hair drier, toothbrush";

    #[test]
    fn pairs_of_captions_and_classes() {
        for (word, class, wanted) in [
            ("dog", "dog", SAME),
            ("puppy", "dog", KIND),
            ("terrier", "dog", KIND),
            ("woman", "person", KIND),
            ("women", "person", KIND),
            ("guy", "man", SYNONYM),
            ("bride", "person", KIND),
            ("motorbike", "motorcycle", SYNONYM),
            ("plane", "airplane", SYNONYM),
            ("racket", "tennis racket", HEAD),
            ("table", "dining table", HEAD),
            ("plant", "potted plant", HEAD),
            ("ball", "sports ball", HEAD),
            ("television", "tv", SYNONYM),
            ("phone", "cell phone", SYNONYM),
            ("pony", "horse", SYNONYM),
            ("bike", "bicycle", SYNONYM),
            ("dog", "hot dog", 0.0),
            ("dog", "couch", 0.0),
            ("car", "train car", 0.0),
            ("", "dog", 0.0),
        ] {
            let found = similarity(word, class);
            assert!(
                (found - wanted).abs() < 1e-12,
                "{word} and {class}: {found}"
            );
        }
    }

    #[test]
    fn detectors_classes_are_known() {
        let known = |name: &str| {
            let name = phrase(name);
            let own =
                |word: &str| LEXICON.groups.contains_key(word) || LEXICON.kinds.contains_key(word);
            own(&name)
                || last(&name).is_some_and(own)
                || LEXICON.kinds.values().flatten().any(|kind| *kind == name)
        };
        let coco: Vec<&str> = COCO.split(',').map(str::trim).collect();
        assert_eq!(coco.len(), 80);
        let alone: Vec<&&str> = coco.iter().filter(|name| !known(name)).collect();
        assert!(alone.len() <= 12, "{alone:?}");
        let objects = vocabulary::objects();
        let covered = objects
            .iter()
            .filter(|name| name.aliases().iter().any(|alias| known(alias)))
            .count();
        assert!(
            covered * 100 >= objects.len() * 60,
            "{covered} of {}",
            objects.len()
        );
    }

    #[test]
    fn list_has_no_circle() {
        for word in LEXICON.kinds.keys() {
            let above = |word: &String| LEXICON.kinds.get(word).cloned().unwrap_or_default();
            let mut next = above(word);
            for _ in 0..DEPTH {
                assert!(!next.contains(word), "{word} is a kind of itself");
                next = next.iter().flat_map(above).collect();
            }
            assert!(
                next.is_empty(),
                "{word} is more than {DEPTH} steps below {next:?}"
            );
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn similarity_is_symmetric(a in 0usize..1600, b in 0usize..1600) {
            let objects = vocabulary::objects();
            let (a, b) = (objects[a].name(), objects[b].name());
            prop_assert_eq!(similarity(a, b), similarity(b, a));
            prop_assert_eq!(similarity(a, a), SAME);
            prop_assert!((0.0..=1.0).contains(&similarity(a, b)));
        }
    }
}
