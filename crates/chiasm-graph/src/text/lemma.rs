//! Base forms of English nouns and verbs: `boats` is `boat`, `sitting` is `sit`.
//!
//! Owns spelling rules with their exceptions; what a word is in its sentence is told by the caller. Own
//! rules rather than a dictionary, so that every word has a base form and the same one everywhere.

use std::borrow::Cow;

use super::lists::{E_VERBS, IE_NOUNS, NOUNS, VERBS, WHOLE};

/// Doubled letters that end a stem of their own.
const DOUBLE_ENDS: [&str; 4] = ["ll", "ss", "zz", "ff"];

/// Ends of stems of several syllables that took no `e`: `open`, `visit`, `listen`.
const PLAIN_ENDS: [&str; 17] = [
    "er", "en", "or", "on", "et", "el", "al", "op", "om", "ow", "it", "ic", "in", "ar", "up", "ip",
    "il",
];

/// The singular of a noun, in lower case: `boxes` gives `box`.
///
/// # Examples
///
/// ```
/// use chiasm_graph::text::lemma::noun;
/// assert_eq!(noun("knives"), "knife");
/// assert_eq!(noun("grass"), "grass");
/// ```
pub fn noun(word: &str) -> Cow<'_, str> {
    if let Some(base) = NOUNS.get(word) {
        return Cow::Borrowed(base);
    }
    for end in ["men", "women"] {
        if let Some(stem) = word.strip_suffix(end)
            && stem.len() > 3
        {
            return Cow::Owned(format!("{stem}{}", end.replace("men", "man")));
        }
    }
    let Some(stem) = word.strip_suffix('s') else {
        return Cow::Borrowed(word);
    };
    if stem.len() < 3 || stem.ends_with(['s', 'u', 'i', '\'']) {
        // Words on -ss, -us and -is: grass, bus, tennis; but skis and emus.
        let plural = matches!(
            word,
            "skis" | "emus" | "menus" | "taxis" | "bikinis" | "kiwis" | "tutus"
        );
        return Cow::Borrowed(if plural { stem } else { word });
    }
    if let Some(base) = stem.strip_suffix("ie") {
        if IE_NOUNS.contains(stem) || base.len() < 2 {
            return Cow::Borrowed(stem);
        }
        return Cow::Owned(format!("{base}y"));
    }
    if let Some(base) = stem.strip_suffix('e') {
        let es = ["ch", "sh", "x", "ss", "zz"]
            .iter()
            .any(|end| base.ends_with(end))
            || (base.ends_with('o') && base.len() > 3)
            || (base.ends_with("us") && !base.ends_with("ous"));
        let kept = matches!(
            base,
            "headach" | "avalanch" | "cach" | "mustach" | "moustach" | "quich"
        );
        return Cow::Borrowed(if es && !kept { base } else { stem });
    }
    Cow::Borrowed(stem)
}

/// The infinitive of a verb, in lower case: `sitting` gives `sit`, `carries` gives `carry`.
///
/// # Examples
///
/// ```
/// use chiasm_graph::text::lemma::verb;
/// assert_eq!(verb("riding"), "ride");
/// assert_eq!(verb("covered"), "cover");
/// ```
pub fn verb(word: &str) -> Cow<'_, str> {
    if let Some(base) = VERBS.get(word) {
        return Cow::Borrowed(base);
    }
    if WHOLE.contains(word) {
        return Cow::Borrowed(word);
    }
    for end in ["ing", "ed"] {
        if let Some(stem) = word.strip_suffix(end)
            && stem.len() >= 2
            && stem.contains(VOWELS)
        {
            return restored(stem, end);
        }
    }
    let Some(stem) = word.strip_suffix('s') else {
        return Cow::Borrowed(word);
    };
    if stem.len() < 2 || stem.ends_with(['s', 'u', 'i']) {
        return Cow::Borrowed(word);
    }
    if let Some(base) = stem.strip_suffix("ie") {
        return if base.len() < 2 {
            Cow::Borrowed(stem)
        } else {
            Cow::Owned(format!("{base}y"))
        };
    }
    if let Some(base) = stem.strip_suffix('e')
        && ["ch", "sh", "x", "ss", "zz", "o"]
            .iter()
            .any(|end| base.ends_with(end))
    {
        return Cow::Borrowed(base);
    }
    Cow::Borrowed(stem)
}

const VOWELS: [char; 6] = ['a', 'e', 'i', 'o', 'u', 'y'];

/// The infinitive from what is left of a form without its ending.
fn restored<'a>(stem: &'a str, end: &str) -> Cow<'a, str> {
    let with_e = || Cow::Owned(format!("{stem}e"));
    if end == "ed"
        && let Some(base) = stem.strip_suffix('i')
    {
        return if base.len() < 2 {
            with_e()
        } else {
            Cow::Owned(format!("{base}y"))
        };
    }
    if E_VERBS
        .iter()
        .any(|verb| verb.strip_suffix('e') == Some(stem))
    {
        return with_e();
    }
    let letters: Vec<char> = stem.chars().rev().take(4).collect();
    let at = |index: usize| letters.get(index).copied().unwrap_or(' ');
    let vowel = |letter: char| VOWELS.contains(&letter);
    let (last, before, third) = (at(0), at(1), at(2));
    if vowel(last) {
        // play and ski; see; but glue, which lost its e.
        return if last == 'u' || (last == 'e' && end == "ed") {
            with_e()
        } else {
            Cow::Borrowed(stem)
        };
    }
    if last == before {
        let own = DOUBLE_ENDS.iter().any(|double| stem.ends_with(double))
            && !matches!(
                stem,
                "controll" | "travell" | "patroll" | "propell" | "labell" | "quizz"
            );
        return Cow::Borrowed(if own {
            stem
        } else {
            stem.strip_suffix(last).unwrap_or(stem)
        });
    }
    if matches!(last, 'v' | 'c' | 'z') || (last == 'l' && "bcdfgkptz".contains(before)) {
        return with_e();
    }
    if last == 'g' && matches!(before, 'd' | 'r')
        || last == 's' && matches!(before, 'r' | 'n' | 'l' | 'p')
    {
        return with_e();
    }
    if !vowel(before) {
        return Cow::Borrowed(stem);
    }
    // Two vowels before the consonant: lean, float; but raise and use.
    if vowel(third) && third != 'y' && !(third == 'u' && at(3) == 'q') {
        return if last == 's' {
            with_e()
        } else {
            Cow::Borrowed(stem)
        };
    }
    if matches!(last, 'w' | 'x' | 'y') {
        return Cow::Borrowed(stem);
    }
    // A single vowel and a single consonant: one syllable would have doubled it, so an e was there.
    let syllables = stem
        .chars()
        .zip(stem.chars().skip(1))
        .filter(|(a, b)| vowel(*a) && !vowel(*b))
        .count();
    if syllables > 1 && PLAIN_ENDS.iter().any(|plain| stem.ends_with(plain)) {
        return Cow::Borrowed(stem);
    }
    with_e()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nouns() {
        for (form, base) in [
            ("boats", "boat"),
            ("boxes", "box"),
            ("benches", "bench"),
            ("dishes", "dish"),
            ("glasses", "glasses"),
            ("dresses", "dress"),
            ("grass", "grass"),
            ("bus", "bus"),
            ("buses", "bus"),
            ("houses", "house"),
            ("horses", "horse"),
            ("gloves", "glove"),
            ("leaves", "leaf"),
            ("shelves", "shelf"),
            ("tomatoes", "tomato"),
            ("potatoes", "potato"),
            ("shoes", "shoe"),
            ("berries", "berry"),
            ("cookies", "cookie"),
            ("pies", "pie"),
            ("men", "man"),
            ("women", "woman"),
            ("firemen", "fireman"),
            ("skis", "ski"),
            ("tennis", "tennis"),
            ("people", "people"),
            ("sheep", "sheep"),
            ("pants", "pants"),
            ("cactus", "cactus"),
            ("vases", "vase"),
            ("s", "s"),
            ("", ""),
            ("snowmen", "snowman"),
            ("policewomen", "policewoman"),
            ("octopuses", "octopus"),
        ] {
            assert_eq!(noun(form), base, "{form}");
        }
    }

    #[test]
    fn verbs() {
        for (form, base) in [
            ("sitting", "sit"),
            ("sits", "sit"),
            ("sat", "sit"),
            ("riding", "ride"),
            ("rides", "ride"),
            ("running", "run"),
            ("playing", "play"),
            ("carries", "carry"),
            ("carried", "carry"),
            ("tied", "tie"),
            ("covered", "cover"),
            ("surrounded", "surround"),
            ("leaning", "lean"),
            ("hanging", "hang"),
            ("grazing", "graze"),
            ("standing", "stand"),
            ("wearing", "wear"),
            ("skating", "skate"),
            ("decorated", "decorate"),
            ("attached", "attach"),
            ("watching", "watch"),
            ("pulling", "pull"),
            ("crossing", "cross"),
            ("lying", "lay"),
            ("laying", "lay"),
            ("flies", "fly"),
            ("flying", "fly"),
            ("eating", "eat"),
            ("driving", "drive"),
            ("painted", "paint"),
            ("parked", "park"),
            ("filled", "fill"),
            ("stacked", "stack"),
            ("dancing", "dance"),
            ("juggling", "juggle"),
            ("paddling", "paddle"),
            ("swimming", "swim"),
            ("opening", "open"),
            ("visiting", "visit"),
            ("facing", "face"),
            ("taking", "take"),
            ("lined", "line"),
            ("used", "use"),
            ("posing", "pose"),
            ("raised", "raise"),
            ("resting", "rest"),
            ("bring", "bring"),
            ("swing", "swing"),
            ("swinging", "swing"),
            ("pushes", "push"),
            ("goes", "go"),
            ("gliding", "glide"),
            ("serving", "serve"),
            ("changing", "change"),
            ("arranged", "arrange"),
            ("walks", "walk"),
            ("freed", "free"),
            ("glued", "glue"),
            ("", ""),
            ("s", "s"),
            ("skiing", "ski"),
        ] {
            assert_eq!(verb(form), base, "{form}");
        }
    }
}
