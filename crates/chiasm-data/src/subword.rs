//! Learns a subword vocabulary by byte-pair merging, the same one every time.
//!
//! Sennrich et al., "Neural Machine Translation of Rare Words with Subword Units": the most frequent
//! neighbouring pair becomes a new symbol, again and again. The trainers of the `tokenizers` crate
//! do the same but walk hash maps whose order differs from run to run, so that two trainings on
//! equal text give different ids; a vocabulary is stored with the weights and must be reproducible.
//! Here every tie is broken by rule: the pair of the smaller ids wins.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};

/// How the symbols of a word are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marking {
    /// Symbols that continue a word start with `##`, as in BERT.
    Continuation,
    /// No marking; the word itself carries the mark of a preceding space, as in GPT-2 and RoBERTa.
    None,
}

/// A learned vocabulary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vocabulary {
    /// Tokens by id, the special tokens first.
    pub tokens: Vec<String>,
    /// Merges in the order in which they were learned.
    pub merges: Vec<(String, String)>,
}

const PREFIX: &str = "##";

/// Pairs seen less often than this are noise of single words.
const MIN_PAIR_COUNT: u64 = 2;

/// Learns up to `vocab_size` tokens from words with their counts.
///
/// `special` come first, then `alphabet` (in order), then the symbols of the words, then merges.
/// Symbols beyond the alphabet are all kept when `alphabet_limit` allows, else the most frequent.
pub fn learn(
    words: &BTreeMap<String, u64>,
    special: &[&str],
    alphabet: &[String],
    alphabet_limit: usize,
    vocab_size: usize,
    marking: Marking,
) -> Vocabulary {
    let mut table = Table::default();
    for token in special
        .iter()
        .copied()
        .chain(alphabet.iter().map(String::as_str))
    {
        table.id(token);
    }
    for symbol in frequent_symbols(words, marking, alphabet_limit) {
        table.id(&symbol);
    }
    let mut corpus = Corpus::new(words, marking, &table);
    let mut merges = Vec::new();
    while table.tokens.len() < vocab_size {
        let Some((left, right)) = corpus.next_pair() else {
            break;
        };
        let (left_text, right_text) = (table.text(left), table.text(right));
        let tail = match marking {
            Marking::Continuation => right_text.strip_prefix(PREFIX).unwrap_or(&right_text),
            Marking::None => &right_text,
        };
        let joined = table.id(&format!("{left_text}{tail}"));
        corpus.merge((left, right), joined);
        merges.push((left_text, right_text));
    }
    Vocabulary {
        tokens: table.tokens,
        merges,
    }
}

/// Tokens and their ids.
#[derive(Default)]
struct Table {
    tokens: Vec<String>,
    ids: HashMap<String, u32>,
}

impl Table {
    /// The id of a token, new when it is not there yet.
    fn id(&mut self, token: &str) -> u32 {
        if let Some(id) = self.ids.get(token) {
            return *id;
        }
        let id = self.tokens.len() as u32;
        self.tokens.push(token.to_owned());
        self.ids.insert(token.to_owned(), id);
        id
    }

    fn text(&self, id: u32) -> String {
        self.tokens.get(id as usize).cloned().unwrap_or_default()
    }
}

/// The symbols of a word before any merge.
fn symbols(word: &str, marking: Marking) -> impl Iterator<Item = String> + '_ {
    word.chars()
        .enumerate()
        .map(move |(index, c)| match marking {
            Marking::Continuation if index > 0 => format!("{PREFIX}{c}"),
            Marking::Continuation | Marking::None => c.to_string(),
        })
}

/// The most frequent symbols, in alphabetical order.
fn frequent_symbols(words: &BTreeMap<String, u64>, marking: Marking, limit: usize) -> Vec<String> {
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for (word, count) in words {
        for symbol in symbols(word, marking) {
            *counts.entry(symbol).or_default() += count;
        }
    }
    let mut ranked: Vec<(String, u64)> = counts.into_iter().collect();
    // A stable sort over an alphabetical list: ties stay alphabetical.
    ranked.sort_by_key(|(_, count)| Reverse(*count));
    ranked.truncate(limit);
    let mut kept: Vec<String> = ranked.into_iter().map(|(symbol, _)| symbol).collect();
    kept.sort_unstable();
    kept
}

type Pair = (u32, u32);

/// The words as symbols, with the pair counts kept up to date.
struct Corpus {
    words: Vec<(Vec<u32>, u64)>,
    counts: HashMap<Pair, u64>,
    /// Words that may hold a pair; a word may be listed although the pair has gone from it.
    places: HashMap<Pair, Vec<usize>>,
    /// Candidates by count, then by the smaller ids. An entry may be out of date.
    heap: BinaryHeap<(u64, Reverse<Pair>)>,
}

impl Corpus {
    fn new(words: &BTreeMap<String, u64>, marking: Marking, table: &Table) -> Self {
        let words = words
            .iter()
            .map(|(word, count)| {
                // A symbol outside the alphabet cuts nothing: it is left out, as an unknown.
                (
                    symbols(word, marking)
                        .filter_map(|symbol| table.ids.get(&symbol).copied())
                        .collect(),
                    *count,
                )
            })
            .collect();
        let mut corpus = Self {
            words,
            counts: HashMap::new(),
            places: HashMap::new(),
            heap: BinaryHeap::new(),
        };
        for index in 0..corpus.words.len() {
            corpus.add(index);
        }
        corpus.heap = corpus
            .counts
            .iter()
            .map(|(pair, count)| (*count, Reverse(*pair)))
            .collect();
        corpus
    }

    /// The most frequent pair now.
    fn next_pair(&mut self) -> Option<Pair> {
        while let Some((count, Reverse(pair))) = self.heap.pop() {
            let current = self.counts.get(&pair).copied().unwrap_or(0);
            if current < MIN_PAIR_COUNT {
                continue;
            }
            if current == count {
                return Some(pair);
            }
            // Out of date: it goes back with its present count.
            self.heap.push((current, Reverse(pair)));
        }
        None
    }

    /// Replaces a pair by one symbol in every word.
    fn merge(&mut self, pair: Pair, joined: u32) {
        let mut places = self.places.remove(&pair).unwrap_or_default();
        places.sort_unstable();
        places.dedup();
        let mut grown: Vec<Pair> = Vec::new();
        for index in places {
            self.remove(index);
            if let Some((symbols, _)) = self.words.get_mut(index) {
                *symbols = replace(symbols, pair, joined);
                grown.extend(
                    neighbours(symbols).filter(|(left, right)| *left == joined || *right == joined),
                );
            }
            self.add(index);
        }
        self.counts.remove(&pair);
        grown.sort_unstable();
        grown.dedup();
        for pair in grown {
            if let Some(count) = self.counts.get(&pair) {
                self.heap.push((*count, Reverse(pair)));
            }
        }
    }

    fn add(&mut self, index: usize) {
        let Some((symbols, count)) = self.words.get(index) else {
            return;
        };
        for pair in neighbours(symbols) {
            *self.counts.entry(pair).or_default() += count;
            self.places.entry(pair).or_default().push(index);
        }
    }

    fn remove(&mut self, index: usize) {
        let Some((symbols, count)) = self.words.get(index) else {
            return;
        };
        for pair in neighbours(symbols) {
            if let Some(total) = self.counts.get_mut(&pair) {
                *total = total.saturating_sub(*count);
            }
        }
    }
}

fn neighbours(symbols: &[u32]) -> impl Iterator<Item = Pair> + '_ {
    symbols.iter().copied().zip(symbols.iter().copied().skip(1))
}

fn replace(symbols: &[u32], pair: Pair, joined: u32) -> Vec<u32> {
    let mut out: Vec<u32> = Vec::with_capacity(symbols.len());
    let mut rest = symbols;
    while let [first, tail @ ..] = rest {
        match tail {
            [second, after @ ..] if (*first, *second) == pair => {
                out.push(joined);
                rest = after;
            }
            _ => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(list: &[(&str, u64)]) -> BTreeMap<String, u64> {
        list.iter()
            .map(|(word, count)| ((*word).to_owned(), *count))
            .collect()
    }

    #[test]
    fn frequent_pairs_merge_first() {
        let corpus = words(&[("low", 5), ("lower", 2), ("newest", 6), ("widest", 3)]);
        let learned = learn(&corpus, &[], &[], usize::MAX, 100, Marking::None);
        let first: Vec<String> = learned
            .merges
            .iter()
            .take(3)
            .map(|(a, b)| format!("{a}+{b}"))
            .collect();
        // "es" and "st" and "lo" are tied per count group; ties go to the smaller ids.
        assert_eq!(first, ["e+s", "es+t", "l+o"]);
        assert!(learned.tokens.contains(&"newest".to_owned()));
    }

    #[test]
    fn continuations_are_marked() {
        let corpus = words(&[("ab", 4), ("b", 1)]);
        let learned = learn(
            &corpus,
            &["[PAD]"],
            &[],
            usize::MAX,
            100,
            Marking::Continuation,
        );
        assert_eq!(learned.tokens, ["[PAD]", "##b", "a", "b", "ab"]);
    }

    #[test]
    fn size_is_kept() {
        let corpus = words(&[("abcdefgh", 9), ("bcdefghi", 9)]);
        let learned = learn(&corpus, &["x"], &[], usize::MAX, 12, Marking::None);
        assert_eq!(learned.tokens.len(), 12);
    }
}
