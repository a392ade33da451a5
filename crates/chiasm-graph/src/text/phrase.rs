//! Noun phrases: which words name one object, and what they say of it.
//!
//! Owns the choice between a compound (`tennis racket`), an attribute (`brick wall`), a part (`tree branch`) and a
//! possession (`the man's hat`), and what stands before `of`. Relations between phrases are `parse`'s.

use std::collections::HashSet;
use std::sync::LazyLock;

use super::graph::{Attribute, Object, Relation, TextGraph};
use super::lemma;
use super::lists::{
    COMPOUNDS, EMPTY_ADVERBS, HOLDERS, LIKE_ADJECTIVES, LIKE_ADJECTIVES_ING, LIKE_NOUNS, MEASURES,
    PARTS, SHADES, SHARES,
};
use super::tagger::{self, Tag, Token};
use super::words::{Break, Genitive, Piece};
use crate::lexicon;
use crate::vocabulary::{self, Name};

static COMPOUND_SET: LazyLock<HashSet<String>> = LazyLock::new(|| {
    let named = vocabulary::objects()
        .iter()
        .flat_map(Name::aliases)
        .copied();
    named
        .filter(|name| {
            name.split_once(' ').is_some_and(|(first, rest)| {
                !rest.contains(' ')
                    && !is_like_adjective(first)
                    && first != "stuffed"
                    && first != "little"
            })
        })
        .chain(COMPOUNDS.iter().copied())
        .filter_map(|name| {
            name.split_once(' ')
                .map(|(first, second)| compound_key(first, second))
        })
        .collect()
});

fn compound_key(first: &str, second: &str) -> String {
    format!("{first} {}", lemma::noun(second))
}

pub(super) fn is_compound(first: &str, second: &str) -> bool {
    COMPOUND_SET.contains(&compound_key(first, second))
}

fn is_like_adjective(word: &str) -> bool {
    LIKE_ADJECTIVES.contains(word) || tagger::is_colour(word)
}

/// A material as the adjective that people write for it.
fn material(word: &str) -> &str {
    match word {
        "wood" => "wooden",
        "woolen" => "wool",
        _ => word,
    }
}

/// A caption that is being read.
pub(super) struct Reader<'a> {
    pub(super) tokens: &'a [Token],
    pub(super) pieces: &'a [Piece],
    pub(super) graph: TextGraph,
    /// For each object, whether it names a person or an animal.
    pub(super) animate: Vec<bool>,
}

/// A noun phrase as it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Phrase {
    /// What it names; `None` for `it` and `two on the left`, which name something said before.
    pub(super) object: Option<usize>,
    /// The word after it.
    pub(super) end: usize,
    /// It began with `his`, `its` or the like.
    pub(super) possessed: bool,
    /// It began with an article or the like.
    pub(super) definite: bool,
}

/// Words of a phrase before it is decided what they name.
struct Draft {
    number: Option<usize>,
    adjectives: Vec<Vec<usize>>,
    nouns: Vec<usize>,
    possessed: bool,
    definite: bool,
    end: usize,
}

impl Reader<'_> {
    pub(super) fn tag(&self, at: usize) -> Option<Tag> {
        self.tokens.get(at).map(|token| token.tag)
    }

    pub(super) fn text(&self, at: usize) -> &str {
        self.tokens.get(at).map_or("", |token| token.text.as_str())
    }

    pub(super) fn lemma(&self, at: usize) -> &str {
        self.tokens.get(at).map_or("", |token| token.lemma.as_str())
    }

    /// What stands before the word; a stop at the end.
    pub(super) fn gap(&self, at: usize) -> Break {
        self.pieces.get(at).map_or(Break::Stop, |piece| piece.after)
    }

    fn names(&self, words: &[usize]) -> String {
        words
            .iter()
            .map(|word| self.text(*word))
            .collect::<Vec<_>>()
            .join(" ")
    }

    /// Reads a noun phrase that begins at a word, with what follows `of` and a possessive.
    pub(super) fn phrase(&mut self, at: usize) -> Option<Phrase> {
        // Each level consumes a word, but a caption of ten thousand times "of a" must not use up the stack.
        self.nested(at, 0)
    }

    fn nested(&mut self, at: usize, depth: usize) -> Option<Phrase> {
        const DEEPEST: usize = 8;
        if self.tag(at) == Some(Tag::Pronoun) {
            return Some(Phrase {
                object: None,
                end: at + 1,
                possessed: false,
                definite: true,
            });
        }
        let draft = self.draft(at)?;
        let head = draft.nouns.last().copied();
        if let (Some(head), true) = (head, depth < DEEPEST)
            && self.text(draft.end) == "of"
            && self.gap(draft.end) == Break::None
            && let Some(found) = self.of(&draft, head, depth)
        {
            return Some(found);
        }
        let possessed = draft.possessed;
        let definite = draft.definite;
        let end = draft.end;
        let object = self.commit(&draft);
        let owner = Phrase {
            object,
            end,
            possessed,
            definite,
        };
        let suffix = head.is_some_and(|head| {
            self.pieces
                .get(head)
                .is_some_and(|piece| piece.genitive == Genitive::Suffix)
        });
        let mark = self.tag(end) == Some(Tag::Mark);
        if depth < DEEPEST && object.is_some() && (suffix || mark) && self.gap(end) == Break::None {
            let next = end + usize::from(mark);
            if let Some(owned) = self.nested(next, depth + 1) {
                let words = if mark { vec![end] } else { Vec::new() };
                self.relate(object, words, owned.object, "have");
                return Some(Phrase { possessed, ..owned });
            }
            return Some(Phrase { end: next, ..owner });
        }
        Some(owner)
    }

    /// What `X of Y` names.
    fn of(&mut self, draft: &Draft, head: usize, depth: usize) -> Option<Phrase> {
        let word = self.lemma(head).to_owned();
        let of = draft.end;
        let mut inner = self.nested(of + 1, depth + 1)?;
        inner.possessed = false;
        inner.definite = draft.definite;
        let Some(whole) = inner.object else {
            let object = self.commit(draft);
            return Some(Phrase { object, ..inner });
        };
        if word == "group" {
            self.describe(whole, vec![head, of], "group of".to_owned());
        } else if SHARES.contains(word.as_str()) {
            self.adorn(whole, draft);
            let value = self.text(head).to_owned();
            self.describe(whole, vec![head], value);
        } else if !MEASURES.contains(word.as_str()) {
            let object = self.commit(draft);
            let how = HOLDERS.get(word.as_str()).unwrap_or(&"have");
            self.relate(Some(whole), vec![of], object, how);
            return Some(Phrase { object, ..inner });
        }
        Some(inner)
    }

    /// True when a person is in clothes: `a man in a shirt` wears it.
    pub(super) fn dressed(&self, subject: usize, object: usize) -> bool {
        let head = |object: usize| {
            self.graph
                .objects
                .get(object)
                .and_then(|object| object.words.last())
        };
        let lemma = |object: usize| head(object).map_or("", |word| self.lemma(*word));
        lexicon::is_person(lemma(subject)) && lexicon::is_clothing(lemma(object))
    }

    /// Adds a relation between two objects that are known and not the same.
    pub(super) fn relate(
        &mut self,
        subject: Option<usize>,
        words: Vec<usize>,
        object: Option<usize>,
        predicate: &str,
    ) {
        if let (Some(subject), Some(object)) = (subject, object)
            && subject != object
        {
            self.graph.relations.push(Relation {
                subject,
                words,
                object,
                predicate: predicate.to_owned(),
            });
        }
    }

    /// Adds an attribute.
    pub(super) fn describe(&mut self, object: usize, words: Vec<usize>, value: String) {
        self.graph.attributes.push(Attribute {
            object,
            words,
            value,
        });
    }

    /// Collects the words of a phrase; `None` when there is none at this word.
    fn draft(&self, start: usize) -> Option<Draft> {
        let mut draft = Draft {
            number: None,
            adjectives: Vec::new(),
            nouns: Vec::new(),
            possessed: false,
            definite: false,
            end: start,
        };
        let mut at = start;
        // Whether a word before a possible verb shows that a noun has to follow.
        let mut opened = false;
        while let Some(token) = self.tokens.get(at) {
            if at > start && self.gap(at) != Break::None {
                // "a small, brown dog": only between adjectives.
                let adjectives = self.tag(at) == Some(Tag::Adjective)
                    && self.tag(at - 1) == Some(Tag::Adjective);
                if !(self.gap(at) == Break::Comma
                    && adjectives
                    && draft.nouns.is_empty()
                    && self.noun_follows(at))
                {
                    break;
                }
            }
            let lone = draft.nouns.is_empty();
            match token.tag {
                Tag::Determiner | Tag::Quantifier | Tag::Possessive | Tag::Not
                    if lone && draft.adjectives.is_empty() =>
                {
                    draft.possessed |= token.tag == Tag::Possessive;
                    draft.definite = true;
                    opened = true;
                }
                Tag::Number if lone => {
                    draft.number = Some(at);
                    opened = true;
                }
                Tag::Adverb if lone && self.is_adverb_of_adjective(at) => {
                    if !EMPTY_ADVERBS.contains(token.text.as_str()) {
                        draft.adjectives.push(vec![at, at + 1]);
                        at += 1;
                    }
                    opened = true;
                }
                Tag::Adjective
                    if lone
                        && (LIKE_NOUNS.contains(token.text.as_str())
                            || self.opens_compound(at))
                        && self.tag(at + 1) == Some(Tag::Noun) =>
                {
                    draft.nouns.push(at);
                }
                Tag::Adjective if lone => {
                    let shade = at > start
                        && draft
                            .adjectives
                            .last()
                            .is_some_and(|last| last.as_slice() == [at - 1])
                        && ((SHADES.contains(self.text(at - 1)) && tagger::is_colour(&token.text))
                            || matches!(
                                token.text.as_str(),
                                "colored" | "coloured" | "color" | "colour"
                            ));
                    match draft.adjectives.last_mut() {
                        Some(last) if shade => last.push(at),
                        _ => draft.adjectives.push(vec![at]),
                    }
                    opened = true;
                }
                Tag::And
                    if lone
                        && !draft.adjectives.is_empty()
                        && matches!(self.tag(at + 1), Some(Tag::Adjective))
                        && self.noun_follows(at + 1) => {}
                Tag::Participle if lone && (opened || at == start) && self.noun_follows(at + 1) => {
                    let joined = matches!(
                        token.text.as_str(),
                        "colored" | "coloured" | "sleeved" | "covered"
                    );
                    match draft.adjectives.last_mut() {
                        Some(last) if joined => last.push(at),
                        _ => draft.adjectives.push(vec![at]),
                    }
                }
                Tag::Gerund if lone && self.opens_compound(at) => draft.nouns.push(at),
                Tag::Gerund
                    if lone
                        && self.tag(at + 1) == Some(Tag::Noun)
                        && self.gap(at + 1) == Break::None
                        && (opened || LIKE_ADJECTIVES_ING.contains(token.text.as_str())) =>
                {
                    draft.adjectives.push(vec![at]);
                }
                Tag::Noun
                    if lone
                        && matches!(token.text.as_str(), "color" | "colour")
                        && self.tag(at + 1) == Some(Tag::Noun)
                        && !draft.adjectives.is_empty() =>
                {
                    if let Some(last) = draft.adjectives.last_mut() {
                        last.push(at);
                    }
                }
                Tag::Noun => {
                    let shade = SHADES.contains(token.text.as_str())
                        && lone
                        && self
                            .tokens
                            .get(at + 1)
                            .is_some_and(|next| tagger::is_colour(&next.text));
                    if shade {
                        draft.adjectives.push(vec![at]);
                    } else {
                        draft.nouns.push(at);
                        if self
                            .pieces
                            .get(at)
                            .is_some_and(|piece| piece.genitive == Genitive::Suffix)
                        {
                            at += 1;
                            break;
                        }
                    }
                }
                Tag::Gerund if self.opens_compound(at) && self.tag(at + 1) == Some(Tag::Noun) => {
                    draft.nouns.push(at);
                }
                _ => break,
            }
            at += 1;
        }
        draft.end = at;
        if draft.nouns.is_empty() {
            // "an orange", "the left", "woman in red": an adjective that has to be the noun.
            let last = draft.adjectives.last().cloned();
            match last {
                Some(words) if draft.definite || draft.number.is_some() => {
                    draft.adjectives.pop();
                    draft.nouns = words;
                }
                Some(_) => return None,
                None if draft.number.is_none() && !draft.definite => return None,
                None => {}
            }
        }
        Some(draft)
    }

    /// True when adjectives and then a noun follow without a break.
    fn noun_follows(&self, at: usize) -> bool {
        let mut next = at;
        while let Some(tag) = self.tag(next) {
            match tag {
                Tag::Noun => return true,
                Tag::Adjective | Tag::And | Tag::Participle | Tag::Adverb if next < at + 6 => {
                    next += 1;
                }
                Tag::Gerund => return self.opens_compound(next),
                _ => return false,
            }
        }
        false
    }

    fn is_adverb_of_adjective(&self, at: usize) -> bool {
        matches!(self.tag(at + 1), Some(Tag::Adjective)) && self.gap(at + 1) == Break::None
    }

    fn opens_compound(&self, at: usize) -> bool {
        self.gap(at + 1) == Break::None
            && self
                .tokens
                .get(at + 1)
                .is_some_and(|next| is_compound(self.text(at), &next.text))
    }

    /// Makes the object of a draft with all that its words say of it.
    fn commit(&mut self, draft: &Draft) -> Option<usize> {
        let (&head, before) = draft.nouns.split_last()?;
        let mut words = vec![head];
        let mut said: Vec<usize> = before.to_vec();
        let mut owner = None;
        if let Some(&modifier) = before.last() {
            let name = self.text(modifier).to_owned();
            let animate = self.tokens.get(modifier).is_some_and(tagger::is_animate);
            let part = PARTS.contains(self.lemma(head));
            let limb = self.lemma(modifier) == "tree"
                && matches!(self.lemma(head), "branch" | "limb" | "leaf");
            if limb || (part && animate && !is_compound(&name, self.text(head))) {
                owner = Some(modifier);
                said.pop();
            } else if is_compound(&name, self.text(head)) || !is_like_adjective(&name) {
                words.insert(0, modifier);
                said.pop();
            }
        }
        let object = self.object(words, head);
        for word in said {
            let value = material(self.text(word)).to_owned();
            self.describe(object, vec![word], value);
        }
        if let Some(word) = owner {
            let name = self.lemma(word).to_owned();
            let owner = self.object(vec![word], word);
            if let Some(object) = self.graph.objects.get_mut(owner) {
                object.name = name;
            }
            self.relate(Some(owner), Vec::new(), Some(object), "have");
        }
        self.adorn(object, draft);
        Some(object)
    }

    fn object(&mut self, words: Vec<usize>, head: usize) -> usize {
        let name = self.names(&words);
        self.animate
            .push(self.tokens.get(head).is_some_and(tagger::is_animate));
        self.graph.objects.push(Object { words, name });
        self.graph.objects.len() - 1
    }

    /// An adjective that stands where a noun has to: `red` of `woman in red`. With several, the last.
    pub(super) fn lone_adjective(&mut self, at: usize) -> Option<Phrase> {
        let mut end = at;
        while self.tag(end) == Some(Tag::Adjective) && (end == at || self.gap(end) == Break::None) {
            end += 1;
        }
        let head = end.checked_sub(1).filter(|head| *head >= at)?;
        let draft = Draft {
            number: None,
            adjectives: (at..head).map(|word| vec![word]).collect(),
            nouns: vec![head],
            possessed: false,
            definite: false,
            end,
        };
        let object = self.commit(&draft);
        Some(Phrase {
            object,
            end,
            possessed: false,
            definite: false,
        })
    }

    /// An object for a pronoun that nothing was named for: `she` is a woman.
    pub(super) fn pronoun(&mut self, at: usize) -> Option<usize> {
        let name = tagger::pronoun(self.text(at))?;
        let object = self.object(vec![at], at);
        if let Some(object) = self.graph.objects.get_mut(object) {
            name.clone_into(&mut object.name);
        }
        if let Some(animate) = self.animate.get_mut(object) {
            *animate = name != "something";
        }
        Some(object)
    }

    /// Gives an object the adjectives and the number of a draft.
    fn adorn(&mut self, object: usize, draft: &Draft) {
        for words in &draft.adjectives {
            let value = material(&self.names(words)).to_owned();
            self.describe(object, words.clone(), value);
        }
        if let Some(number) = draft.number {
            let digits = self.lemma(number).to_owned();
            if digits != "1" {
                self.describe(object, vec![number], digits);
            }
        }
    }
}
