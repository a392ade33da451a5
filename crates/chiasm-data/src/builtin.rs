//! Data that comes with the program: drawings of emoji with their names, and the posts of
//! [`crate::synthitr`].
//!
//! Pictures are the 72x72 PNG files of Twemoji (CC-BY 4.0) carried by the crate `twemoji-assets`;
//! texts are the Unicode names and the GitHub short codes carried by the crate `emojis`. Only text
//! that people wrote for the emoji is used; nothing is generated.
//!
//! # Texts of one picture
//!
//! 1. the name in plain words: `woman firefighter: medium skin tone` becomes
//!    `woman firefighter with medium skin tone`, `flag: Chile` becomes `flag of Chile`;
//! 2. the label of the drawing, when it says something else;
//! 3. each short code with its underscores turned into spaces, when it says something else.
//!
//! Equal texts (ignoring case) are kept once.
//!
//! # Split
//!
//! By **base emoji**, so that no skin-tone variant of a training picture is tested on:
//!
//! * the *family* of an emoji with skin tones is its untoned first member; an emoji without skin
//!   tones is its own family. This also gathers the two-person emoji, whose toned forms are written
//!   with other code points than the untoned one;
//! * the *base* is the family member's code points without the skin-tone modifiers
//!   U+1F3FB..=U+1F3FF and without the variation selectors U+FE0E and U+FE0F, as lower-case
//!   hexadecimal joined by `-`;
//! * the split is [`Split::by_hash`] of the base: with `x` the first eight bytes of blake3(base) as a
//!   big-endian fraction of 2^64, `x < 0.10` is test, `x < 0.15` is val, the rest is train.

use crate::dataset::{Annotations, Dataset, ImageSource, Origin, Sample, Split};
use crate::error::DataError;
use crate::synthitr;
use emojis::Emoji;
use twemoji_assets::png::PngTwemojiAsset;

/// What a source begins with that is built in.
const PREFIX: &str = "builtin:";

/// Whether a source is named as built in.
pub fn is_builtin(source: &str) -> bool {
    source.starts_with(PREFIX)
}

/// A built-in set by its name: `builtin:emoji`, or `builtin:synthitr` with what
/// [`synthitr::Config::parse`] takes after a comma, such as `builtin:synthitr,noise=0.1`. `None` where
/// the name is a file's.
///
/// # Errors
/// No built-in set has this name, or it does not take these settings.
pub fn open(source: &str) -> Option<Result<Dataset, DataError>> {
    let name = source.strip_prefix(PREFIX)?;
    let (name, settings) = name.split_once(',').unwrap_or((name, ""));
    Some(match (name, settings) {
        ("emoji", "") => emoji(),
        ("synthitr", settings) => {
            synthitr::Config::parse(settings).and_then(|config| synthitr::open(&config))
        }
        _ => Err(DataError::Setting {
            name: "source",
            value: source.to_owned(),
            reason: "built-in sets are `builtin:emoji` and `builtin:synthitr`",
        }),
    })
}

/// Every emoji that has both a drawing and a name.
///
/// The order is that of the Unicode charts, skin-tone variants after their untoned form.
pub fn emoji() -> Result<Dataset, DataError> {
    let mut samples = Vec::with_capacity(4096);
    for entry in emojis::iter() {
        match entry.skin_tones() {
            Some(family) => samples.extend(family.filter_map(|member| sample(member, entry))),
            None => samples.extend(sample(entry, entry)),
        }
    }
    if samples.is_empty() {
        return Err(DataError::NoSamples {
            name: "emoji".to_owned(),
        });
    }
    Ok(Dataset {
        name: "emoji".to_owned(),
        samples,
    })
}

/// The base of an emoji, given the untoned member of its family; the key of the split rule.
fn base(family: &str) -> String {
    code_points(
        family
            .chars()
            .filter(|c| !is_skin_tone(*c) && !is_variation_selector(*c)),
    )
}

fn sample(member: &'static Emoji, family: &'static Emoji) -> Option<Sample> {
    let asset = drawing(member.as_str())?;
    Some(Sample {
        id: code_points(
            member
                .as_str()
                .chars()
                .filter(|c| !is_variation_selector(*c)),
        ),
        visual: ImageSource::Static(asset.data.0).into(),
        texts: texts(member, asset.label),
        split: Split::by_hash(&base(family.as_str())),
        group: None,
        annotations: Annotations::default(),
        origin: Origin::default(),
    })
}

/// Twemoji names most drawings without variation selectors, but keeps them inside some sequences.
fn drawing(emoji: &str) -> Option<&'static PngTwemojiAsset> {
    PngTwemojiAsset::from_emoji(emoji).or_else(|| {
        let bare: String = emoji
            .chars()
            .filter(|c| !is_variation_selector(*c))
            .collect();
        PngTwemojiAsset::from_emoji(&bare)
    })
}

fn texts(emoji: &Emoji, label: Option<&str>) -> Vec<String> {
    let mut texts: Vec<String> = Vec::new();
    let short_codes = emoji.shortcodes().map(|code| code.replace('_', " "));
    let candidates = [Some(plain_words(emoji.name())), label.map(plain_words)]
        .into_iter()
        .flatten()
        .chain(short_codes);
    for text in candidates {
        let known = texts
            .iter()
            .any(|other| other.to_lowercase() == text.to_lowercase());
        if !text.trim().is_empty() && !known {
            texts.push(text);
        }
    }
    texts
}

/// The colon of a Unicode name as the word that a person would say.
fn plain_words(name: &str) -> String {
    let name: String = name
        .chars()
        .filter(|c| !matches!(c, '“' | '”' | '⊛'))
        .collect();
    let Some((head, tail)) = name.split_once(':') else {
        return name.trim().to_owned();
    };
    let (head, tail) = (head.trim(), tail.trim());
    // "couple with heart: woman, man" lists people; the others name one property.
    let lists_people = ["woman", "man", "person", "boy", "girl"]
        .iter()
        .any(|who| tail.starts_with(who));
    let joint = match head {
        "flag" => " of ",
        "keycap" => " ",
        _ if lists_people || head.contains(" with ") => ", ",
        _ => " with ",
    };
    format!("{head}{joint}{tail}")
}

fn code_points(chars: impl Iterator<Item = char>) -> String {
    chars
        .map(|c| format!("{:x}", c as u32))
        .collect::<Vec<_>>()
        .join("-")
}

fn is_skin_tone(c: char) -> bool {
    ('\u{1F3FB}'..='\u{1F3FF}').contains(&c)
}

fn is_variation_selector(c: char) -> bool {
    matches!(c, '\u{FE0E}' | '\u{FE0F}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{HashMap, HashSet};

    #[test]
    fn many_pictures_with_text_and_unique_ids() {
        let set = emoji().unwrap();
        assert!(set.len() >= 3_700, "{} pictures", set.len());
        let ids: HashSet<&str> = set
            .samples
            .iter()
            .map(|sample| sample.id.as_str())
            .collect();
        assert_eq!(ids.len(), set.len());
        assert!(set.samples.iter().all(|sample| !sample.texts.is_empty()));
        let firefighter = set
            .samples
            .iter()
            .find(|sample| sample.id == "1f469-1f3fd-200d-1f692")
            .unwrap();
        assert_eq!(
            firefighter.texts[0],
            "woman firefighter with medium skin tone"
        );
    }

    #[test]
    fn test_share_is_a_tenth() {
        let set = emoji().unwrap();
        let share = |split| set.subset(split).len() as f64 / set.len() as f64;
        assert!(
            (0.08..=0.12).contains(&share(Split::Test)),
            "test {}",
            share(Split::Test)
        );
        assert!(
            (0.03..=0.07).contains(&share(Split::Val)),
            "val {}",
            share(Split::Val)
        );
    }

    #[test]
    fn skin_tones_stay_on_one_side() {
        let set = emoji().unwrap();
        let mut side: HashMap<String, Split> = HashMap::new();
        let mut check = |key: String, split: Split| {
            assert_eq!(*side.entry(key.clone()).or_insert(split), split, "{key}");
        };
        for sample in &set.samples {
            // By code points, as the ids are written ...
            let bare: Vec<&str> = sample
                .id
                .split('-')
                .filter(|code| !matches!(*code, "1f3fb" | "1f3fc" | "1f3fd" | "1f3fe" | "1f3ff"))
                .collect();
            check(bare.join("-"), sample.split);
        }
        for entry in emojis::iter() {
            // ... and by family, which also holds where a toned form has other code points.
            for member in entry.skin_tones().into_iter().flatten() {
                let id = code_points(
                    member
                        .as_str()
                        .chars()
                        .filter(|c| !is_variation_selector(*c)),
                );
                if let Some(sample) = set.samples.iter().find(|sample| sample.id == id) {
                    check(format!("family of {}", entry.name()), sample.split);
                }
            }
        }
        assert_eq!(base("🤝"), "1f91d");
    }

    #[test]
    fn split_rule_is_pinned() {
        // A changed rule would move pictures between training and test of runs made before.
        let splits = ["1f600", "1f91d", "1f692", "1f469-200d-1f692", "2764"].map(Split::by_hash);
        assert_eq!(
            splits,
            [
                Split::Train,
                Split::Train,
                Split::Val,
                Split::Train,
                Split::Train
            ]
        );
        let (first, second) = (emoji().unwrap(), emoji().unwrap());
        assert_eq!(first.fingerprint(), second.fingerprint());
        assert_eq!(
            plain_words("kiss: woman, man, light skin tone"),
            "kiss, woman, man, light skin tone"
        );
        assert_eq!(plain_words("flag: Chile"), "flag of Chile");
        assert_eq!(plain_words("keycap: 5"), "keycap 5");
    }
}
