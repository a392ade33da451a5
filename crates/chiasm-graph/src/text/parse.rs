//! From tagged words to a graph: what stands between noun phrases relates them.
//!
//! Owns relations, predicates and which phrase a verb or preposition belongs to. One pass from left to right: a verb
//! or preposition opens a link, the next phrase closes it. What was learnt from is the train part of FACTUAL, whose
//! ways of writing predicates are followed (`have` for parts, the active voice, `on top of`).

use super::graph::{TextGraph, Word};
use super::phrase::{Phrase, Reader};
use super::tagger::{self, Tag};
use super::words::{self, Break};

/// Nouns that make a preposition together with the words around them: `on the top of`.
const PLACES: &[(&str, &str)] = &[
    ("top", "on top of"),
    ("side", "on side of"),
    ("sides", "on side of"),
    ("front", "in front of"),
    ("back", "on back of"),
    ("bottom", "on bottom of"),
    ("middle", "on middle of"),
    ("center", "in center of"),
    ("end", "in end of"),
    ("edge", "on edge of"),
    ("corner", "in corner of"),
    ("left", "at the left of"),
    ("right", "on the right side of"),
    ("rear", "at rear of"),
    ("inside", "inside"),
    ("outside", "outside"),
    ("base", "on bottom of"),
];

/// Prepositions that are written in more than one way.
const SPELLINGS: &[(&str, &str)] = &[
    ("underneath", "under"),
    ("beneath", "under"),
    ("below", "under"),
    ("atop", "on top of"),
    ("thru", "through"),
    ("in between", "between"),
    ("towards", "toward"),
    ("close to", "near"),
    ("besides", "beside"),
    ("off of", "off"),
    ("inside of", "inside"),
    ("outside of", "outside"),
    ("up in", "in"),
    ("out in", "in"),
    ("up on", "on"),
    ("out on", "on"),
    ("upon", "on"),
];

/// Verbs whose past participle with `in`, `by` or `with` says what the object does to the subject.
const PASSIVE_IN: &[&str] = &["cover", "surround", "enclose", "line", "fill"];

/// Verbs after whose participle `by` says where.
const PLACED: &[&str] = &[
    "park", "sit", "stand", "lay", "place", "locate", "put", "leave", "set", "hang", "stack",
    "station",
];

/// Verbs that only somebody can do.
pub(super) const ACTIVE: &[&str] = &[
    "wear",
    "hold",
    "ride",
    "carry",
    "eat",
    "play",
    "look",
    "watch",
    "walk",
    "talk",
    "run",
    "jump",
    "swing",
    "throw",
    "catch",
    "hit",
    "kick",
    "ski",
    "surf",
    "skate",
    "skateboard",
    "snowboard",
    "read",
    "drink",
    "swim",
    "smile",
    "use",
    "pet",
    "feed",
    "pull",
    "push",
    "wait",
    "sleep",
    "graze",
    "drive",
    "kneel",
    "pose",
    "cut",
    "cook",
    "prepare",
    "dress",
    "bend",
    "leap",
    "work",
    "race",
    "sniff",
    "reach",
    "wash",
    "brush",
    "serve",
    "bite",
    "chase",
    "lick",
    "sit",
    "stand",
    "climb",
    "crouch",
    "squat",
];

/// Verbs after whose object a place is said of the object, not of the subject.
const HOLDING: &[&str] = &[
    "wear", "have", "hold", "carry", "show", "display", "see", "contain", "line", "cover",
    "surround", "overlook", "put",
];

/// A link that waits for its object.
#[derive(Clone, Debug)]
struct Link {
    subjects: Vec<usize>,
    words: Vec<usize>,
    predicate: String,
    /// The base form of its verb.
    verb: Option<String>,
    passive: bool,
}

/// Reads the scene graph of a caption.
///
/// Takes any text. English photo captions are what it is made for; without a noun, or in another script, the graph
/// has words and no objects.
///
/// # Examples
///
/// ```
/// let graph = chiasm_graph::text::parse("A brown dog chases two men on the grass.");
/// assert_eq!(
///     graph.to_string(),
///     "(dog, is, brown)\n(men, is, 2)\n(dog, chase, men)\n(dog, on, grass)"
/// );
/// ```
pub fn parse(caption: &str) -> TextGraph {
    let pieces = words::split(caption);
    let tokens = tagger::tag(&pieces);
    let mut reader = Reader {
        tokens: &tokens,
        pieces: &pieces,
        graph: TextGraph::default(),
        animate: Vec::new(),
    };
    Clause::default().read(&mut reader);
    let mut graph = reader.graph;
    graph.words = pieces
        .iter()
        .zip(&tokens)
        .map(|(piece, token)| Word {
            text: piece.text.clone(),
            lemma: token.lemma.clone(),
            span: piece.span.clone(),
        })
        .collect();
    graph
}

/// What is known while a caption is read from left to right.
#[derive(Default)]
struct Clause {
    /// The phrase that the clause is about.
    subject: Vec<usize>,
    /// The phrase read last.
    last: Vec<usize>,
    /// What waits for an object.
    link: Option<Link>,
    /// What was linked last.
    done: Option<Link>,
    /// A phrase that a clause without its object goes back to: `the table that the cups are on`.
    head: Vec<usize>,
    /// An auxiliary was read after the subject.
    auxiliary: bool,
    /// `and` or a comma was read after the last phrase.
    joined: bool,
    /// `that` or `which` was read after the last phrase.
    relative: bool,
    /// All objects that phrases named, for pronouns.
    first: Option<usize>,
}

impl Clause {
    fn read(mut self, reader: &mut Reader<'_>) {
        let mut at = self.opening(reader);
        while at < reader.tokens.len() {
            match reader.gap(at) {
                Break::Stop if at > 0 => {
                    self.close(reader);
                    let first = self.first;
                    self = Self {
                        first,
                        ..Self::default()
                    };
                }
                Break::Comma => self.comma(reader),
                _ => {}
            }
            at = self.word(reader, at).max(at + 1);
        }
        self.close(reader);
    }

    /// Skips `there is`, `this is a picture of`.
    fn opening(&self, reader: &Reader<'_>) -> usize {
        let mut at = 0;
        if matches!(
            reader.text(0),
            "this" | "these" | "here" | "it" | "there" | "that" | "those" | "they"
        ) && reader.tag(1) == Some(Tag::Auxiliary)
            && !matches!(
                reader.tag(2),
                Some(Tag::Preposition | Tag::Gerund | Tag::Participle | Tag::Adjective)
            )
        {
            at = 2;
        }
        let article = usize::from(reader.tag(at) == Some(Tag::Determiner));
        let pictured = matches!(
            reader.text(at + article),
            "picture" | "photo" | "image" | "photograph" | "view" | "closeup" | "close-up"
        );
        if pictured && reader.text(at + article + 1) == "of" {
            at += article + 2;
        }
        at
    }

    /// Handles the word at a place; returns the place of the next.
    fn word(&mut self, reader: &mut Reader<'_>, at: usize) -> usize {
        let Some(tag) = reader.tag(at) else {
            return at + 1;
        };
        match tag {
            Tag::Auxiliary => {
                self.close_link(reader);
                self.auxiliary = true;
                at + 1
            }
            Tag::And => {
                self.joined = true;
                at + 1
            }
            Tag::Relative => {
                self.close_link(reader);
                self.relative = true;
                at + 1
            }
            Tag::While => {
                self.close(reader);
                self.last.clone_from(&self.subject);
                at + 1
            }
            Tag::Preposition => self.preposition(reader, at),
            Tag::To => self.to(reader, at),
            Tag::Adverb => self.adverb(reader, at),
            Tag::Adjective
            | Tag::Participle
            | Tag::Gerund
            | Tag::Noun
            | Tag::Number
            | Tag::Determiner
            | Tag::Quantifier
            | Tag::Possessive
            | Tag::Not
            | Tag::Pronoun => {
                if let Some(next) = self.predicative(reader, at) {
                    return next;
                }
                let verbal = matches!(tag, Tag::Participle | Tag::Gerund);
                if verbal
                    && !self.last.is_empty()
                    && self.link.is_none()
                    && !self.joined
                    && reader.gap(at) != Break::Comma
                {
                    return self.verb(reader, at);
                }
                match reader.phrase(at) {
                    Some(phrase) => self.phrase(reader, at, phrase),
                    None if verbal => self.verb(reader, at),
                    // "glass with liquid in it", "an old antique on a table": what describes is what is meant.
                    None if tag == Tag::Adjective
                        && (self.link.is_some() || self.last.is_empty()) =>
                    {
                        match reader.lone_adjective(at) {
                            Some(phrase) => self.phrase(reader, at, phrase),
                            None => at + 1,
                        }
                    }
                    None => at + 1,
                }
            }
            Tag::Verb => self.verb(reader, at),
            Tag::There | Tag::Mark | Tag::Other => at + 1,
        }
    }

    /// An adjective that is said of a phrase before it: `the sky is blue`.
    fn predicative(&mut self, reader: &mut Reader<'_>, at: usize) -> Option<usize> {
        if reader.tag(at) != Some(Tag::Adjective) || self.link.is_some() {
            return None;
        }
        let about = if self.auxiliary {
            &self.subject
        } else {
            &self.last
        };
        if about.is_empty() || (self.joined && !self.auxiliary) {
            return None;
        }
        let mut after = at + 1;
        while reader.tag(after) == Some(Tag::Adjective) && reader.gap(after) == Break::None {
            after += 1;
        }
        let shade = after - at == 2 && tagger::is_colour(reader.text(at + 1));
        let conjoined =
            reader.tag(after) == Some(Tag::And) && reader.tag(after + 1) == Some(Tag::Adjective);
        if reader.tag(after) == Some(Tag::Noun) && reader.gap(after) == Break::None {
            return None;
        }
        if conjoined && reader.tag(after + 2) == Some(Tag::Noun) {
            return None;
        }
        if matches!(reader.text(at), "next" | "close") {
            return None;
        }
        let before = at
            .checked_sub(1)
            .filter(|before| matches!(reader.text(*before), "partly" | "mostly" | "upside"));
        let groups: Vec<Vec<usize>> = if shade {
            vec![vec![at, at + 1]]
        } else {
            (at..after).map(|word| vec![word]).collect()
        };
        for object in about.clone() {
            for words in &groups {
                let words: Vec<usize> = before.into_iter().chain(words.iter().copied()).collect();
                let value = words
                    .iter()
                    .map(|word| reader.text(*word))
                    .collect::<Vec<_>>()
                    .join(" ");
                reader.describe(object, words, value);
            }
        }
        // "blue and white": the next adjective is of the same phrase.
        if conjoined && self.auxiliary {
            return Some(after + 1);
        }
        Some(after)
    }

    fn phrase(&mut self, reader: &mut Reader<'_>, at: usize, phrase: Phrase) -> usize {
        let end = phrase.end;
        let link_subjects: Vec<usize> = self
            .link
            .as_ref()
            .map(|link| link.subjects.clone())
            .unwrap_or_default();
        let pronoun = || Self::referent(reader, reader.text(at), &link_subjects);
        let Some(object) = phrase
            .object
            .or_else(pronoun)
            .or_else(|| reader.pronoun(at))
        else {
            return end;
        };
        if phrase.object.is_none() && self.link.is_none() {
            // "they are", "it has": goes on about what was said.
            self.subject = vec![object];
            self.last = vec![object];
            self.auxiliary = false;
            return end;
        }
        self.first.get_or_insert(object);
        if phrase.possessed {
            self.possess(reader, object, &link_subjects);
        }
        let follows_verb = matches!(
            reader.tag(end),
            Some(Tag::Verb | Tag::Auxiliary | Tag::Gerund | Tag::Participle)
        );
        let joined = std::mem::take(&mut self.joined);
        if let Some(link) = self.link.take() {
            self.emit(reader, &link, object);
            self.done = Some(link);
            self.last = vec![object];
        } else if joined && !self.last.is_empty() {
            let animate = |object: &usize| reader.animate.get(*object) == Some(&true);
            let other_kind = animate(&object) && !self.last.iter().any(animate);
            match self.done.clone() {
                // "the man in the shirt and the woman": not in the woman.
                Some(link) if link.verb.is_none() && other_kind => {
                    let mut subject = std::mem::take(&mut self.subject);
                    subject.push(object);
                    self.begin(subject);
                    self.last = vec![object];
                }
                Some(link) if !(follows_verb && reader.animate.get(object) == Some(&true)) => {
                    self.emit(reader, &link, object);
                    self.last.push(object);
                }
                Some(_) => {
                    self.begin(vec![object]);
                }
                None => {
                    self.last.push(object);
                    self.subject.push(object);
                }
            }
        } else if !self.last.is_empty()
            && (self.relative || reader.gap(at) == Break::None)
            && !self.auxiliary
        {
            // "the table the cups are on": what comes now acts, what came before is acted on.
            self.head = std::mem::take(&mut self.last);
            self.begin(vec![object]);
        } else {
            self.begin(vec![object]);
        }
        self.relative = false;
        end
    }

    fn begin(&mut self, subject: Vec<usize>) {
        self.subject.clone_from(&subject);
        self.last = subject;
        self.done = None;
        self.auxiliary = false;
    }

    /// What a pronoun speaks of: the thing named last that fits and is not what is linked to it.
    fn referent(reader: &Reader<'_>, pronoun: &str, exclude: &[usize]) -> Option<usize> {
        let someone = !matches!(pronoun, "it" | "itself");
        let named = || {
            (0..reader.graph.objects.len())
                .rev()
                .filter(|object| !exclude.contains(object))
        };
        let fits = |object: &usize| reader.animate.get(*object) == Some(&someone);
        named().find(fits).or_else(|| named().next())
    }

    /// `his hat`: whoever the sentence is about has it.
    fn possess(&mut self, reader: &mut Reader<'_>, object: usize, link_subjects: &[usize]) {
        let candidates = self
            .subject
            .iter()
            .chain(link_subjects)
            .chain(&self.last)
            .chain(&self.first);
        let owner = candidates.copied().find(|owner| *owner != object);
        let worn = self.link.as_ref().is_some_and(|link| {
            matches!(
                link.predicate.as_str(),
                "wear" | "have" | "hold" | "with" | "use" | "ride"
            )
        });
        if !worn {
            reader.relate(owner, Vec::new(), Some(object), "have");
        }
    }

    fn emit(&mut self, reader: &mut Reader<'_>, link: &Link, object: usize) {
        for &subject in &link.subjects {
            let (from, to) = if link.passive {
                (object, subject)
            } else {
                (subject, object)
            };
            let worn = link.predicate == "in" && reader.dressed(from, to);
            let predicate = if worn { "wear" } else { &link.predicate };
            reader.relate(Some(from), link.words.clone(), Some(to), predicate);
        }
    }

    fn comma(&mut self, reader: &mut Reader<'_>) {
        self.close_link(reader);
        self.joined = true;
    }

    fn preposition(&mut self, reader: &mut Reader<'_>, at: usize) -> usize {
        let (words, end) = compound_preposition(reader, at);
        let said = words.0;
        if self.link.as_ref().is_some_and(|link| link.verb.is_none())
            && self
                .link
                .as_ref()
                .is_some_and(|link| link.words.last() == Some(&(at.saturating_sub(1))))
        {
            // "up on", "out of": one preposition.
            if let Some(link) = &mut self.link {
                link.words.extend(at..end);
                link.predicate = spelled(&format!("{} {said}", link.predicate));
            }
            return end;
        }
        match &mut self.link {
            // "lying down on", "hanging down from".
            Some(link)
                if matches!(said.as_str(), "down" | "up" | "out")
                    && reader.tag(end) == Some(Tag::Preposition) =>
            {
                link.words.push(at);
            }
            Some(link) => {
                link.words.extend(at..end);
                let verb = link.verb.clone().unwrap_or_default();
                let last = reader
                    .tokens
                    .get(link.words.first().copied().unwrap_or(at))
                    .map(|token| token.tag);
                let participle = last == Some(Tag::Participle);
                if participle
                    && ((said == "by" && !PLACED.contains(&verb.as_str()))
                        || (PASSIVE_IN.contains(&verb.as_str())
                            && verb != "fill"
                            && matches!(said.as_str(), "in" | "with" | "by")))
                {
                    link.passive = true;
                    link.predicate = verb;
                } else if verb == "dress" && said == "in" {
                    link.predicate = "wear".to_owned();
                } else {
                    link.predicate = spelled(&format!("{} {said}", link.predicate));
                }
            }
            None => {
                let subjects = self.holder(reader, &said);
                if subjects.is_empty() {
                    return end;
                }
                self.link = Some(Link {
                    subjects,
                    words: (at..end).collect(),
                    predicate: said,
                    verb: None,
                    passive: false,
                });
            }
        }
        self.auxiliary = false;
        self.joined = false;
        end
    }

    /// The phrase that a preposition belongs to.
    fn holder(&self, _reader: &Reader<'_>, said: &str) -> Vec<usize> {
        if self.auxiliary {
            return self.subject.clone();
        }
        if let Some(done) = &self.done {
            if let Some(verb) = &done.verb {
                let bare = done.predicate == *verb;
                if bare
                    && !done.passive
                    && !HOLDING.contains(&verb.as_str())
                    && said != "with"
                    && said != "of"
                {
                    return done.subjects.clone();
                }
            }
        }
        self.last.clone()
    }

    fn to(&mut self, reader: &mut Reader<'_>, at: usize) -> usize {
        if matches!(reader.tag(at + 1), Some(Tag::Verb)) {
            // "trying to reach": what is done is the second verb.
            if let Some(link) = self.link.take() {
                self.link = Some(link);
                return self.verb(reader, at + 1);
            }
            return self.verb(reader, at + 1);
        }
        self.preposition(reader, at)
    }

    fn adverb(&mut self, reader: &Reader<'_>, at: usize) -> usize {
        let _ = reader;
        at + 1
    }

    fn verb(&mut self, reader: &mut Reader<'_>, at: usize) -> usize {
        let lemma = reader.lemma(at).to_owned();
        let tag = reader.tag(at);
        let subjects = match self.link.take() {
            Some(link) if !self.joined => link.subjects,
            open => {
                if let Some(link) = open {
                    self.link = Some(link);
                    self.close_link(reader);
                }
                self.actor(reader, &lemma, tag)
            }
        };
        if subjects.is_empty() {
            self.auxiliary = false;
            return at + 1;
        }
        self.link = Some(Link {
            subjects,
            words: vec![at],
            predicate: lemma.clone(),
            verb: Some(lemma),
            passive: false,
        });
        self.auxiliary = false;
        self.joined = false;
        self.relative = false;
        at + 1
    }

    /// The phrase that does what a verb says.
    fn actor(&self, reader: &Reader<'_>, lemma: &str, tag: Option<Tag>) -> Vec<usize> {
        if self.relative {
            return self.last.clone();
        }
        if self.joined {
            if let Some(done) = &self.done {
                if done.verb.is_some() && !done.passive {
                    return done.subjects.clone();
                }
            }
        }
        if self.auxiliary || tag == Some(Tag::Verb) {
            return self.subject.clone();
        }
        let animate = |objects: &[usize]| {
            objects
                .iter()
                .any(|object| reader.animate.get(*object) == Some(&true))
        };
        if ACTIVE.contains(&lemma) && !animate(&self.last) && animate(&self.subject) {
            return self.subject.clone();
        }
        self.last.clone()
    }

    /// A link that found no object: a verb alone is an attribute.
    fn close_link(&mut self, reader: &mut Reader<'_>) {
        let Some(link) = self.link.take() else { return };
        if let Some(head) = self.head.first().copied() {
            self.head.clear();
            self.emit(reader, &link, head);
            return;
        }
        if link.verb.is_none() {
            return;
        }
        let words: Vec<usize> = link.words.clone();
        let value = words
            .iter()
            .map(|word| reader.text(*word))
            .collect::<Vec<_>>()
            .join(" ");
        for subject in link.subjects {
            reader.describe(subject, words.clone(), value.clone());
        }
    }

    fn close(&mut self, reader: &mut Reader<'_>) {
        self.close_link(reader);
        self.done = None;
        self.auxiliary = false;
        self.joined = false;
        self.relative = false;
        self.head.clear();
    }
}

/// A preposition of one or several words: what it says and the word after it.
fn compound_preposition(reader: &Reader<'_>, at: usize) -> ((String,), usize) {
    let word = reader.text(at);
    let next = reader.text(at + 1);
    if matches!(
        (word, next),
        ("next", "to") | ("out", "of") | ("off", "of") | ("in", "between") | ("close", "to")
    ) {
        return ((spelled(&format!("{word} {next}")),), at + 2);
    }
    let mut place = at + 1;
    while place < at + 4
        && (matches!(reader.tag(place), Some(Tag::Determiner | Tag::Quantifier))
            || (matches!(
                reader.text(place),
                "left" | "right" | "far" | "very" | "top" | "bottom"
            ) && reader.text(place + 1) != "of"))
    {
        place += 1;
    }
    let plain = ((spelled(word),), at + 1);
    if reader.text(place + 1) != "of" {
        return plain;
    }
    match PLACES.iter().find(|(noun, _)| *noun == reader.text(place)) {
        Some((noun, said)) => {
            let middle = reader.text(place - 1);
            let said = match (*noun, middle) {
                ("side", "right") => "on the right side of".to_owned(),
                ("side", "left") => "at the left of".to_owned(),
                ("sides", "both") => "on both sides of".to_owned(),
                ("side", "either") => "on either side of".to_owned(),
                _ => (*said).to_owned(),
            };
            ((said,), place + 2)
        }
        None => plain,
    }
}

fn spelled(said: &str) -> String {
    SPELLINGS
        .iter()
        .find(|(other, _)| *other == said)
        .map_or_else(|| said.to_owned(), |(_, usual)| (*usual).to_owned())
}
