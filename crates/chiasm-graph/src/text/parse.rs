//! From tagged words to a graph: what stands between noun phrases relates them.
//!
//! Owns relations, predicates and which phrase a verb or preposition belongs to. One pass from left to right: a verb
//! or preposition opens a link, the next phrase closes it. The rules were made on the train and dev parts of FACTUAL,
//! whose ways of writing predicates are followed (`have` for parts, the active voice, `on top of`).

use super::graph::{TextGraph, Word};
use super::lists::{ACTIVE, HOLDING, PASSIVE_IN, PLACED, PLACES, SPELLINGS};
use super::phrase::{Phrase, Reader};
use super::tagger::{self, Tag};
use super::words::{self, Break};

/// Words of a caption that are read; what comes after them is not looked at. Everybody named may do something to
/// everything named, so that a graph can have the square of this.
pub const MAX_WORDS: usize = 1000;

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
/// Takes any text, and of it the first [`MAX_WORDS`]. English photo captions are what it is made for; without a
/// noun, or in another script, the graph has words and no objects.
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
    let mut pieces = words::split(caption);
    pieces.truncate(MAX_WORDS);
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
    /// The object that was named first.
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
            Tag::Adverb | Tag::There | Tag::Mark | Tag::Other => at + 1,
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
        let (said, end) = compound_preposition(reader, at);
        let Some(link) = &mut self.link else {
            let subjects = self.holder(&said);
            if !subjects.is_empty() {
                self.link = Some(Link {
                    subjects,
                    words: (at..end).collect(),
                    predicate: said,
                    verb: None,
                    passive: false,
                });
                self.auxiliary = false;
                self.joined = false;
            }
            return end;
        };
        link.words.extend(at..end);
        let particle = matches!(said.as_str(), "down" | "up" | "out");
        match link.verb.clone() {
            // "lying down on", "hanging down from": what follows says where.
            Some(_) if particle && reader.tag(end) == Some(Tag::Preposition) => {}
            Some(verb) if is_passive(reader, link, &verb, &said) => {
                link.passive = true;
                link.predicate = verb;
            }
            Some(verb) if verb == "dress" && said == "in" => "wear".clone_into(&mut link.predicate),
            _ => link.predicate = spelled(&format!("{} {said}", link.predicate)),
        }
        self.auxiliary = false;
        self.joined = false;
        end
    }

    /// The phrase that a preposition belongs to.
    fn holder(&self, said: &str) -> Vec<usize> {
        if self.auxiliary {
            return self.subject.clone();
        }
        if let Some(done) = &self.done
            && let Some(verb) = &done.verb
        {
            let bare = done.predicate == *verb;
            if bare
                && !done.passive
                && !HOLDING.contains(verb.as_str())
                && said != "with"
                && said != "of"
            {
                return done.subjects.clone();
            }
        }
        self.last.clone()
    }

    fn to(&mut self, reader: &mut Reader<'_>, at: usize) -> usize {
        if reader.tag(at + 1) == Some(Tag::Verb) {
            // "trying to reach": what is done is the second verb.
            return self.verb(reader, at + 1);
        }
        self.preposition(reader, at)
    }

    fn verb(&mut self, reader: &mut Reader<'_>, at: usize) -> usize {
        let lemma = reader.lemma(at).to_owned();
        let tag = reader.tag(at);
        let subjects = match self.link.take_if(|_| !self.joined) {
            Some(link) => link.subjects,
            None => {
                self.close_link(reader);
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
        if self.joined
            && let Some(done) = &self.done
            && done.verb.is_some()
            && !done.passive
        {
            return done.subjects.clone();
        }
        if self.auxiliary || tag == Some(Tag::Verb) {
            return self.subject.clone();
        }
        let animate = |objects: &[usize]| {
            objects
                .iter()
                .any(|object| reader.animate.get(*object) == Some(&true))
        };
        if ACTIVE.contains(lemma) && !animate(&self.last) && animate(&self.subject) {
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

/// True when a participle and a preposition say what the object does: `covered in`, `held by`.
fn is_passive(reader: &Reader<'_>, link: &Link, verb: &str, said: &str) -> bool {
    let first = link.words.first().and_then(|word| reader.tag(*word));
    let agent = said == "by" && !PLACED.contains(verb);
    let means = matches!(said, "in" | "with" | "by") && PASSIVE_IN.contains(verb);
    first == Some(Tag::Participle) && (agent || means)
}

/// A preposition of one or several words: what it says and the word after it.
fn compound_preposition(reader: &Reader<'_>, at: usize) -> (String, usize) {
    let word = reader.text(at);
    let next = reader.text(at + 1);
    let pairs = [
        ("next", "to"),
        ("out", "of"),
        ("off", "of"),
        ("in", "between"),
        ("close", "to"),
    ];
    if pairs.contains(&(word, next)) {
        return (spelled(&format!("{word} {next}")), at + 2);
    }
    let skipped = |place: usize| {
        let article = matches!(reader.tag(place), Some(Tag::Determiner | Tag::Quantifier));
        let which = matches!(
            reader.text(place),
            "left" | "right" | "far" | "very" | "top" | "bottom"
        );
        article || (which && reader.text(place + 1) != "of")
    };
    let place = (at + 1..at + 4)
        .find(|place| !skipped(*place))
        .unwrap_or(at + 4);
    let noun = reader.text(place);
    let Some(said) = PLACES.get(noun).filter(|_| reader.text(place + 1) == "of") else {
        return (spelled(word), at + 1);
    };
    let said = match (noun, reader.text(place - 1)) {
        ("side", "right") => "on the right side of",
        ("side", "left") => "at the left of",
        ("sides", "both") => "on both sides of",
        ("side", "either") => "on either side of",
        _ => said,
    };
    (said.to_owned(), place + 2)
}

fn spelled(said: &str) -> String {
    (*SPELLINGS.get(said).unwrap_or(&said)).to_owned()
}
