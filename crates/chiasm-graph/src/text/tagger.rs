//! What each word of a caption is: noun, verb, preposition.
//!
//! Owns the closed classes (short lists, as a caption uses few of them) and the corrections of the tagger for the
//! rest. The tagger is `english-pos-tagger`, of Brill's kind: a word list with ordered rules, deterministic.

use std::collections::HashSet;
use std::sync::LazyLock;

use english_pos_tagger::Tagger;

use super::lemma;
use super::lists::{
    ACTIVE, ADVERBS, AUXILIARIES, COLOURS, CORRECTIONS, DETERMINERS, List, NUMBERS, POSSESSIVES,
    PREPOSITIONS, PRONOUNS, QUANTIFIERS,
};
use super::phrase::is_compound;
use super::words::{Genitive, Piece};
use crate::lexicon;
use crate::vocabulary;

/// What a word is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tag {
    /// Thing, one or many.
    Noun,
    /// `red`, `tall`.
    Adjective,
    /// `two`, `3`.
    Number,
    /// `the`, `a`, `this`.
    Determiner,
    /// `many`, `some`: says how many without a number.
    Quantifier,
    /// `his`, `their`.
    Possessive,
    /// `sitting`.
    Gerund,
    /// `parked`.
    Participle,
    /// `stands`, `hold`.
    Verb,
    /// `is`, `are`, `can`.
    Auxiliary,
    /// `on`, `behind`.
    Preposition,
    /// `to`.
    To,
    /// `very`, `together`.
    Adverb,
    /// `and`, `or`.
    And,
    /// `that`, `which`, `who`.
    Relative,
    /// `it`, `them`.
    Pronoun,
    /// `there`.
    There,
    /// `while`, `as`: opens a clause.
    While,
    /// `not`, `no`.
    Not,
    /// A possessive mark of its own.
    Mark,
    /// Anything else, and words in another script.
    Other,
}

/// A word with its tag and base form.
#[derive(Clone, Debug)]
pub(super) struct Token {
    /// The word without what an apostrophe added.
    pub(super) text: String,
    /// Its base form.
    pub(super) lemma: String,
    /// What it is.
    pub(super) tag: Tag,
}

static TAGGER: LazyLock<Tagger> = LazyLock::new(|| {
    let mut tagger = Tagger::new();
    tagger.update_lexicon(CORRECTIONS.iter().map(|(word, tag)| (*word, vec![*tag])));
    tagger
});

/// Words that a region detector names: nouns, whatever a tagger says of an unknown one.
static NAMED: LazyLock<HashSet<&'static str>> = LazyLock::new(|| {
    vocabulary::objects()
        .iter()
        .flat_map(super::super::vocabulary::Name::aliases)
        .copied()
        .filter(|name| !name.contains(' '))
        .collect()
});

/// Words that a region detector takes for attributes and never for objects.
static DESCRIBING: LazyLock<HashSet<&'static str>> = LazyLock::new(|| {
    vocabulary::attributes()
        .iter()
        .flat_map(super::super::vocabulary::Name::aliases)
        .copied()
        .filter(|name| !name.contains(' ') && !NAMED.contains(name))
        .collect()
});

/// Who a pronoun speaks of when nobody was named before.
pub(super) fn pronoun(word: &str) -> Option<&'static str> {
    Some(match word {
        "he" | "him" | "himself" => "man",
        "she" | "her" | "herself" => "woman",
        "they" | "them" => "people",
        "someone" => "person",
        "something" => "something",
        _ => return None,
    })
}

/// The digits that a number word stands for.
pub(crate) fn digits(word: &str) -> Option<&'static str> {
    NUMBERS.get(word).copied()
}

/// True for colours and what behaves like them: before a noun never part of its name.
pub(super) fn is_colour(word: &str) -> bool {
    COLOURS.contains(word)
}

/// Tags the words of a caption.
pub(super) fn tag(pieces: &[Piece]) -> Vec<Token> {
    let stems: Vec<&str> = pieces
        .iter()
        .map(|piece| piece.text.get(..piece.stem).unwrap_or(&piece.text))
        .collect();
    let raw = TAGGER.tag_raw_tokens(&stems);
    let penn: Vec<&str> = raw
        .iter()
        .map(|token| token.pos.as_deref().unwrap_or(""))
        .collect();
    let mut tokens: Vec<Token> = Vec::with_capacity(stems.len());
    for (index, (word, piece)) in stems.iter().zip(pieces).enumerate() {
        let next = stems.get(index + 1).copied().unwrap_or("");
        let before = tokens.last().map(|token| token.tag);
        let tag = if piece.genitive == Genitive::Mark {
            match before {
                Some(Tag::Noun | Tag::Pronoun) => Tag::Mark,
                _ => Tag::Other,
            }
        } else {
            closed(word, next)
                .unwrap_or_else(|| open(word, penn.get(index).copied().unwrap_or(""), before))
        };
        tokens.push(Token {
            lemma: String::new(),
            text: (*word).to_owned(),
            tag,
        });
    }
    correct(&mut tokens);
    for token in &mut tokens {
        token.lemma = match token.tag {
            Tag::Noun => lemma::noun(&token.text).into_owned(),
            Tag::Verb | Tag::Gerund | Tag::Participle | Tag::Auxiliary => {
                lemma::verb(&token.text).into_owned()
            }
            Tag::Number => digits(&token.text).map_or_else(|| token.text.clone(), str::to_owned),
            Tag::Pronoun => pronoun(&token.text).unwrap_or(&token.text).to_owned(),
            _ => token.text.clone(),
        };
    }
    tokens
}

fn closed(word: &str, next: &str) -> Option<Tag> {
    let is = |list: &List| list.contains(word);
    Some(match word {
        "and" | "or" | "&" | "but" | "plus" => Tag::And,
        "to" => Tag::To,
        "there" => Tag::There,
        "not" | "no" => Tag::Not,
        "which" | "who" | "whose" | "where" | "what" => Tag::Relative,
        "while" | "because" | "when" | "if" => Tag::While,
        "has" | "have" | "had" => Tag::Verb,
        "having" => Tag::Gerund,
        "her" if next.is_empty() => Tag::Pronoun,
        "front" | "left" | "right" | "top" | "back" | "side" | "bottom" | "middle" => return None,
        _ if is(&DETERMINERS) => Tag::Determiner,
        _ if is(&QUANTIFIERS) => Tag::Quantifier,
        _ if is(&POSSESSIVES) => Tag::Possessive,
        _ if is(&AUXILIARIES) => Tag::Auxiliary,
        _ if is(&PREPOSITIONS) => Tag::Preposition,
        _ if is(&PRONOUNS) => Tag::Pronoun,
        _ if is(&ADVERBS) => Tag::Adverb,
        _ if is_colour(word) => Tag::Adjective,
        _ if digits(word).is_some() => Tag::Number,
        _ => return None,
    })
}

/// Tag of a word of an open class from the tagger's.
fn open(word: &str, penn: &str, before: Option<Tag>) -> Tag {
    if !word
        .chars()
        .any(|letter| letter.is_ascii_alphabetic() || ('\u{c0}'..'\u{250}').contains(&letter))
    {
        let number = word
            .chars()
            .all(|letter| letter.is_ascii_digit() || matches!(letter, '.' | ','));
        return if number { Tag::Number } else { Tag::Other };
    }
    let tag = match penn {
        "NN" | "NNS" | "NNP" | "NNPS" | "FW" => Tag::Noun,
        "JJ" | "JJR" | "JJS" => Tag::Adjective,
        "CD" => Tag::Number,
        "VBG" => Tag::Gerund,
        "VBN" | "VBD" => Tag::Participle,
        "VBZ" | "VBP" | "VB" | "MD" => Tag::Verb,
        "RB" | "RBR" | "RBS" | "RP" => Tag::Adverb,
        "IN" => Tag::Preposition,
        "DT" | "PDT" | "WDT" => Tag::Determiner,
        _ => Tag::Noun,
    };
    let noun_named = NAMED.contains(word);
    let opens_noun = matches!(
        before,
        Some(
            Tag::Determiner
                | Tag::Adjective
                | Tag::Number
                | Tag::Possessive
                | Tag::Quantifier
                | Tag::Mark
        )
    );
    match tag {
        Tag::Verb | Tag::Adverb | Tag::Preposition | Tag::Number if noun_named && opens_noun => {
            Tag::Noun
        }
        Tag::Verb if opens_noun && !matches!(before, Some(Tag::Number)) => Tag::Noun,
        Tag::Adverb if word.ends_with("ly") || !noun_named => Tag::Adverb,
        Tag::Adverb => Tag::Noun,
        _ => tag,
    }
}

/// What only the neighbours tell.
fn correct(tokens: &mut [Token]) {
    for index in 0..tokens.len() {
        let tag_at = |at: Option<usize>| at.and_then(|at| tokens.get(at)).map(|token| token.tag);
        let before = tag_at(index.checked_sub(1));
        let next = tag_at(Some(index + 1));
        let Some(token) = tokens.get(index) else {
            break;
        };
        let word = token.text.as_str();
        let named = NAMED.contains(word);
        let ends_phrase = matches!(
            next,
            None | Some(Tag::Preposition | Tag::Auxiliary | Tag::Verb | Tag::To | Tag::And)
        );
        let new = match (token.tag, before, next) {
            // "that" after a noun opens a clause unless a noun follows.
            (
                Tag::Determiner,
                Some(Tag::Noun),
                Some(
                    Tag::Auxiliary
                    | Tag::Verb
                    | Tag::Participle
                    | Tag::Gerund
                    | Tag::Determiner
                    | Tag::Pronoun
                    | Tag::Possessive,
                ),
            ) if word == "that" => Tag::Relative,
            // "watch has a face", "net across the court".
            (Tag::Verb, None, _) if named && ends_phrase => Tag::Noun,
            (Tag::Adjective, None, _) if named && ends_phrase && next != Some(Tag::And) => {
                Tag::Noun
            }
            (Tag::Verb, None, Some(Tag::Noun | Tag::Participle | Tag::Gerund)) if named => {
                Tag::Noun
            }
            // "table under stuffed bear".
            (Tag::Verb, Some(Tag::Participle), _) if named && ends_phrase => Tag::Noun,
            // "the man on left".
            (Tag::Participle, Some(Tag::Preposition | Tag::Determiner), next)
                if word == "left" && next != Some(Tag::Noun) =>
            {
                Tag::Noun
            }
            // "teddy bears", "fur of a polar bear".
            (Tag::Verb, Some(_), _)
                if index > 0
                    && tokens
                        .get(index - 1)
                        .is_some_and(|first| is_compound(&first.text, word)) =>
            {
                Tag::Noun
            }
            // "table next to wall"; but "about to catch it".
            (Tag::Verb, Some(Tag::To), _) if named && ends_phrase => Tag::Noun,
            // "clock on scaffolding", "the brown railing".
            (
                Tag::Gerund,
                Some(
                    Tag::Preposition
                    | Tag::Determiner
                    | Tag::Adjective
                    | Tag::Possessive
                    | Tag::Number
                    | Tag::To,
                ),
                _,
            ) if named && ends_phrase => Tag::Noun,
            (Tag::Gerund, None, Some(Tag::Preposition | Tag::Auxiliary)) if named => Tag::Noun,
            // "a dog chases a ball", "the boy jumps over it".
            (Tag::Noun, Some(Tag::Noun), Some(Tag::Determiner | Tag::Number | Tag::Possessive))
                if !named && word.ends_with('s') && !word.ends_with("ss") =>
            {
                Tag::Verb
            }
            (Tag::Noun, Some(Tag::Noun), Some(Tag::Preposition | Tag::To))
                if word.ends_with('s') && ACTIVE.contains(lemma::verb(word).as_ref()) =>
            {
                Tag::Verb
            }
            // "athlete skiing in snow", "pole burried in dirt": nouns to a tagger that does not know them.
            (Tag::Noun, Some(Tag::Noun), _)
                if !named && word.len() > 5 && word.ends_with("ing") && ends_phrase =>
            {
                Tag::Gerund
            }
            (Tag::Noun, Some(Tag::Noun), Some(Tag::Preposition))
                if !named && word.len() > 4 && word.ends_with("ed") =>
            {
                Tag::Participle
            }
            // "pointy collar", "short-sleeved shirt".
            (Tag::Noun, _, Some(Tag::Noun))
                if !named && (DESCRIBING.contains(word) || word.ends_with("sleeved")) =>
            {
                Tag::Adjective
            }
            _ => continue,
        };
        if let Some(token) = tokens.get_mut(index) {
            token.tag = new;
        }
    }
}

/// True when the noun names a person or an animal.
pub(super) fn is_animate(token: &Token) -> bool {
    lexicon::is_animate(&token.lemma) || lexicon::is_animate(&lemma::noun(&token.text))
}
