//! Text to token ids: a published `tokenizer.json`, or one trained here.
//!
//! Wraps the `tokenizers` crate. What is added: the special ids by role, one rule for truncation, a
//! cap on the work that one text can cause, and training that gives the same file twice
//! ([`crate::subword`]).

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tokenizers::models::{ModelWrapper, bpe, wordpiece};
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::{bert::BertPreTokenizer, byte_level::ByteLevel};
use tokenizers::processors::{bert::BertProcessing, roberta::RobertaProcessing};
use tokenizers::{
    AddedToken, NormalizedString, Normalizer, OffsetReferential, OffsetType, PreTokenizedString,
    PreTokenizer, Tokenizer,
};

use crate::dataset::read_capped;
use crate::error::DataError;
use crate::subword::{self, Marking, Vocabulary};
use crate::vocabulary_files;

/// Cap on the size of a `tokenizer.json`: 64 MiB, four times the largest one in use.
pub(crate) const MAX_TOKENIZER_BYTES: u64 = 64 << 20;

/// Characters per requested token that are looked at; ordinary text has four to six.
const CHARS_PER_TOKEN: usize = 32;

/// Fewest characters that are looked at, whatever the requested length.
const MIN_CHARS: usize = 2048;

/// Longest word that a WordPiece model splits; longer ones become the unknown token, as in BERT.
const MAX_WORD_CHARS: usize = 100;

/// Which algorithm a tokenizer is trained with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenizerKind {
    /// Lower-cased, accents removed, `##` continuations, `[CLS] ... [SEP]`: BERT's form.
    #[default]
    WordPiece,
    /// Case kept, any byte can be written, `<s> ... </s>`: RoBERTa's form.
    ByteLevelBpe,
}

/// The ids of the special tokens, by role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpecialIds {
    /// First token of every text (`[CLS]`, `<s>`, `<|startoftext|>`).
    pub cls: i64,
    /// Last token of every text (`[SEP]`, `</s>`, `<|endoftext|>`).
    pub sep: i64,
    /// Fills a batch up. CLIP has none of its own and pads with its end token.
    pub pad: i64,
    /// Stands for a word to be guessed; CLIP has none.
    pub mask: Option<i64>,
    /// Stands for what the vocabulary cannot write; byte-level models need none.
    pub unk: Option<i64>,
}

/// A tokenised text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// Token ids, the special ones at both ends included; never empty.
    pub ids: Vec<i64>,
    /// For each token the number of the word it is part of; `None` for special tokens.
    pub word_ids: Vec<Option<u32>>,
    /// For each token the bytes of the text that it stands for; none for special tokens.
    pub offsets: Vec<Range<usize>>,
}

/// Why a tokenizer cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// The file does not parse.
    #[error("tokenizer{}: cannot be read: {message}", at(path.as_deref()))]
    Unreadable {
        /// The file, when there is one.
        path: Option<PathBuf>,
        /// What the parser said.
        message: String,
    },
    /// A special token is missing.
    #[error("tokenizer has no {role} token; looked for {candidates}")]
    NoSpecial {
        /// The role.
        role: &'static str,
        /// The names that were looked for.
        candidates: String,
    },
    /// The vocabulary is too small for the alphabet.
    #[error("a vocabulary of {asked} tokens is too small: at least {least} are needed")]
    TooSmall {
        /// What was asked for.
        asked: usize,
        /// The least that works.
        least: usize,
    },
    /// Nothing to learn from.
    #[error("no text to train a tokenizer on")]
    NoText,
}

impl TokenizerError {
    /// What the person can do about it, when there is something to do.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Unreadable { .. } => Some(
                "give the `tokenizer.json` of a Hugging Face directory, or train a tokenizer"
                    .to_owned(),
            ),
            Self::NoSpecial { .. } => {
                Some("add the token to `added_tokens` of the tokenizer file".to_owned())
            }
            Self::TooSmall { least, .. } => {
                Some(format!("set the vocabulary size to {least} or more"))
            }
            Self::NoText => None,
        }
    }
}

fn at(path: Option<&Path>) -> String {
    path.map(|path| format!(" `{}`", path.display()))
        .unwrap_or_default()
}

/// A tokenizer with its special ids.
#[derive(Clone, Debug)]
pub struct TextTokenizer {
    inner: Tokenizer,
    special: SpecialIds,
    /// Every special token, sorted.
    special_list: Vec<i64>,
    /// Largest id plus one: hand-made files have holes, and an embedding table must span them.
    vocab_size: usize,
}

impl TextTokenizer {
    /// Reads a `tokenizer.json`.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, DataError> {
        let path = path.as_ref();
        let bytes = read_capped(path, MAX_TOKENIZER_BYTES)?;
        Self::from_bytes(&bytes).map_err(|error| match error {
            TokenizerError::Unreadable { message, .. } => TokenizerError::Unreadable {
                path: Some(path.to_owned()),
                message,
            }
            .into(),
            other => other.into(),
        })
    }

    /// Reads the tokenizer of a model folder: `tokenizer.json`, else the vocabulary files that came
    /// before it (`vocab.txt`; `vocab.json` with `merges.txt`). `None` when the folder has neither.
    pub fn from_folder(folder: &Path) -> Result<Option<Self>, DataError> {
        let file = folder.join("tokenizer.json");
        if file.is_file() {
            return Self::from_file(file).map(Some);
        }
        let described = vocabulary_files::describe(folder)?;
        Ok(described
            .map(|bytes| Self::from_bytes(&bytes))
            .transpose()?)
    }

    /// Reads the content of a `tokenizer.json`.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, TokenizerError> {
        Self::wrap(Tokenizer::from_bytes(bytes).map_err(|error| unreadable(&error))?)
    }

    /// Trains on texts. Equal texts in equal order give an equal file, byte for byte.
    ///
    /// The vocabulary can come out smaller than `vocab_size` when the texts are few.
    ///
    /// # Examples
    ///
    /// ```
    /// use chiasm_data::{TextTokenizer, TokenizerKind};
    ///
    /// let texts = ["a red car", "a red house", "the blue car"];
    /// let tokenizer = TextTokenizer::train(texts, TokenizerKind::WordPiece, 200)?;
    /// let encoded = tokenizer.encode("a blue house", 16);
    /// assert_eq!(encoded.ids.first(), Some(&tokenizer.special().cls));
    /// # Ok::<(), chiasm_data::TokenizerError>(())
    /// ```
    pub fn train<'a>(
        texts: impl IntoIterator<Item = &'a str>,
        kind: TokenizerKind,
        vocab_size: usize,
    ) -> Result<Self, TokenizerError> {
        match kind {
            TokenizerKind::WordPiece => train_wordpiece(texts, vocab_size),
            TokenizerKind::ByteLevelBpe => train_bpe(texts, vocab_size),
        }
    }

    fn wrap(mut inner: Tokenizer) -> Result<Self, TokenizerError> {
        // Length and padding belong to the batch, not to the file.
        inner
            .with_truncation(None)
            .map_err(|error| unreadable(&error))?;
        inner.with_padding(None);
        let find = |names: &[&str]| {
            names
                .iter()
                .find_map(|name| inner.token_to_id(name))
                .map(i64::from)
        };
        let need = |role: &'static str, names: &[&str]| {
            find(names).ok_or_else(|| TokenizerError::NoSpecial {
                role,
                candidates: names.join(", "),
            })
        };
        let cls = need(
            "first",
            &["[CLS]", "<s>", "<|startoftext|>", "<cls>", "<bos>"],
        )?;
        let sep = need(
            "last",
            &["[SEP]", "</s>", "<|endoftext|>", "<sep>", "<eos>"],
        )?;
        let special = SpecialIds {
            cls,
            sep,
            pad: find(&["[PAD]", "<pad>"]).unwrap_or(sep),
            mask: find(&["[MASK]", "<mask>"]),
            unk: find(&["[UNK]", "<unk>"]),
        };
        let roles = [
            Some(special.cls),
            Some(special.sep),
            Some(special.pad),
            special.mask,
            special.unk,
        ];
        let added = inner.get_added_tokens_decoder();
        let added = added
            .iter()
            .filter(|(_, token)| token.special)
            .map(|(id, _)| i64::from(*id));
        let mut special_list: Vec<i64> = roles.into_iter().flatten().chain(added).collect();
        special_list.sort_unstable();
        special_list.dedup();
        // `encode` has no error to return: a file whose model fails on text is refused here.
        inner
            .encode("Probe 0 \u{10FFFD} é 中 🦀", false)
            .map_err(|error| unreadable(&error))?;
        let vocab = inner.get_vocab(true);
        let vocab_size = vocab
            .values()
            .max()
            .map_or(0, |largest| *largest as usize + 1);
        Ok(Self {
            inner,
            special,
            special_list,
            vocab_size,
        })
    }

    /// The special ids.
    pub fn special(&self) -> SpecialIds {
        self.special
    }

    /// Ids are below this number.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// True for `[CLS]`, `<pad>` and their like.
    pub fn is_special(&self, id: i64) -> bool {
        self.special_list.binary_search(&id).is_ok()
    }

    /// For each id whether it is special.
    pub fn special_mask(&self, ids: &[i64]) -> Vec<bool> {
        ids.iter().map(|id| self.is_special(*id)).collect()
    }

    /// Tokenises, with the special tokens at both ends, to at most `max_len` tokens.
    ///
    /// A longer text loses its end but keeps the last special token. A `max_len` below 2 is taken
    /// as 2. Only the first `max(2048, 32 * max_len)` characters are looked at, so that the cost is
    /// bounded by what is asked for and not by what is given.
    ///
    /// Text that looks like a special token is read as that token, as the reference tokenizers do.
    pub fn encode(&self, text: &str, max_len: usize) -> Encoded {
        let room = max_len.max(2) - 2;
        let text = head(text, MIN_CHARS.max(CHARS_PER_TOKEN.saturating_mul(max_len)));
        let mut ids = vec![self.special.cls];
        let mut word_ids = vec![None];
        let mut offsets: Vec<Range<usize>> = std::iter::once(0..0).collect();
        match self.inner.encode(text, false) {
            Ok(encoding) => {
                ids.extend(
                    encoding
                        .get_ids()
                        .iter()
                        .take(room)
                        .map(|id| i64::from(*id)),
                );
                word_ids.extend(encoding.get_word_ids().iter().take(room));
                let ranges = encoding.get_offsets().iter().take(room);
                offsets.extend(ranges.map(|(start, end)| *start..*end));
            }
            // Refused when the file was read (see `wrap`), so not reached; unknown text is the
            // honest reading if a model ever fails on one text only.
            Err(_) => {
                ids.extend(self.special.unk.into_iter().take(room));
                word_ids.resize(ids.len(), Some(0));
                offsets.resize(ids.len(), 0..text.len());
            }
        }
        ids.push(self.special.sep);
        word_ids.push(None);
        offsets.push(0..0);
        Encoded {
            ids,
            word_ids,
            offsets,
        }
    }

    /// The text of ids, special tokens left out.
    pub fn decode(&self, ids: &[i64]) -> String {
        let ids: Vec<u32> = ids
            .iter()
            .filter_map(|id| u32::try_from(*id).ok())
            .collect();
        let text = self.inner.decode(&ids, true).unwrap_or_default();
        // CLIP's file leaves its word-end mark to the program that reads it.
        match self.inner.get_model() {
            ModelWrapper::BPE(model) => match &model.end_of_word_suffix {
                Some(suffix) => text.replace(suffix.as_str(), " "),
                None => text,
            },
            _ => text,
        }
    }

    /// The token of an id, as it is written in the vocabulary.
    pub fn token(&self, id: i64) -> Option<String> {
        self.inner.id_to_token(u32::try_from(id).ok()?)
    }

    /// The content of `tokenizer.json`.
    pub fn to_json(&self) -> Result<String, TokenizerError> {
        self.inner
            .to_string(true)
            .map_err(|error| unreadable(&error))
    }

    /// Writes `tokenizer.json`, whole or not at all.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), DataError> {
        let path = path.as_ref();
        crate::atomic::write_bytes(path, self.to_json()?.as_bytes())
            .map_err(|source| DataError::io(path, source))
    }
}

fn unreadable(error: &dyn std::fmt::Display) -> TokenizerError {
    TokenizerError::Unreadable {
        path: None,
        message: error.to_string(),
    }
}

/// The first `chars` characters.
fn head(text: &str, chars: usize) -> &str {
    text.char_indices()
        .nth(chars)
        .map_or(text, |(end, _)| text.get(..end).unwrap_or(text))
}

fn train_wordpiece<'a>(
    texts: impl IntoIterator<Item = &'a str>,
    vocab_size: usize,
) -> Result<TextTokenizer, TokenizerError> {
    const SPECIAL: [&str; 5] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];
    const LEAST: usize = 32;
    if vocab_size < LEAST {
        return Err(TokenizerError::TooSmall {
            asked: vocab_size,
            least: LEAST,
        });
    }
    let normalizer = BertNormalizer::new(true, true, None, true);
    let words = count_words(texts, Some(&normalizer), &BertPreTokenizer)?;
    // Half the room at most for single symbols: rare scripts must not crowd out every word.
    let limit = ((vocab_size - SPECIAL.len()) / 2).min(2000);
    let learned = subword::learn(
        &words,
        &SPECIAL,
        &[],
        limit,
        vocab_size,
        Marking::Continuation,
    );
    let model = wordpiece::WordPiece::builder()
        .vocab(ids(&learned))
        .unk_token("[UNK]".to_owned())
        .continuing_subword_prefix("##".to_owned())
        .max_input_chars_per_word(MAX_WORD_CHARS)
        .build()
        .map_err(|error| unreadable(&error))?;
    let mut inner = Tokenizer::new(model);
    inner
        .with_normalizer(Some(normalizer))
        .map_err(|error| unreadable(&error))?;
    inner.with_pre_tokenizer(Some(BertPreTokenizer));
    // The ids follow from their place in SPECIAL.
    inner.with_post_processor(Some(BertProcessing::new(
        ("[SEP]".to_owned(), 3),
        ("[CLS]".to_owned(), 2),
    )));
    inner.with_decoder(Some(tokenizers::decoders::wordpiece::WordPiece::default()));
    add_special(&mut inner, &SPECIAL)?;
    TextTokenizer::wrap(inner)
}

fn train_bpe<'a>(
    texts: impl IntoIterator<Item = &'a str>,
    vocab_size: usize,
) -> Result<TextTokenizer, TokenizerError> {
    const SPECIAL: [&str; 5] = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"];
    const LEAST: usize = SPECIAL.len() + 256;
    if vocab_size < LEAST {
        return Err(TokenizerError::TooSmall {
            asked: vocab_size,
            least: LEAST,
        });
    }
    // A space before the first word, so that a word has one form wherever it stands.
    let byte_level = ByteLevel::new(true, true, true);
    let words = count_words(texts, None::<&BertNormalizer>, &byte_level)?;
    let mut alphabet: Vec<String> = ByteLevel::alphabet()
        .into_iter()
        .map(String::from)
        .collect();
    alphabet.sort_unstable();
    let learned = subword::learn(
        &words,
        &SPECIAL,
        &alphabet,
        usize::MAX,
        vocab_size,
        Marking::None,
    );
    let model = bpe::BPE::builder()
        .vocab_and_merges(ids(&learned), learned.merges.clone())
        .build()
        .map_err(|error| unreadable(&error))?;
    let mut inner = Tokenizer::new(model);
    inner.with_pre_tokenizer(Some(byte_level));
    inner.with_post_processor(Some(
        RobertaProcessing::new(("</s>".to_owned(), 2), ("<s>".to_owned(), 0))
            .trim_offsets(true)
            .add_prefix_space(true),
    ));
    inner.with_decoder(Some(byte_level));
    add_special(&mut inner, &SPECIAL)?;
    TextTokenizer::wrap(inner)
}

fn add_special(tokenizer: &mut Tokenizer, tokens: &[&str]) -> Result<(), TokenizerError> {
    let tokens = tokens.iter().map(|token| AddedToken::from(*token, true));
    tokenizer
        .add_special_tokens(tokens.collect::<Vec<_>>())
        .map_err(|error| unreadable(&error))?;
    Ok(())
}

fn ids(learned: &Vocabulary) -> bpe::Vocab {
    learned
        .tokens
        .iter()
        .zip(0u32..)
        .map(|(token, id)| (token.clone(), id))
        .collect()
}

/// Splits texts into words exactly as the finished tokenizer will, and counts them.
fn count_words<'a, N: Normalizer>(
    texts: impl IntoIterator<Item = &'a str>,
    normalizer: Option<&N>,
    pre_tokenizer: &impl PreTokenizer,
) -> Result<BTreeMap<String, u64>, TokenizerError> {
    let mut words: BTreeMap<String, u64> = BTreeMap::new();
    for text in texts {
        let mut normalized = NormalizedString::from(text);
        if let Some(normalizer) = normalizer {
            normalizer
                .normalize(&mut normalized)
                .map_err(|error| unreadable(&error))?;
        }
        let mut split = PreTokenizedString::from(normalized);
        pre_tokenizer
            .pre_tokenize(&mut split)
            .map_err(|error| unreadable(&error))?;
        for (word, _, _) in split.get_splits(OffsetReferential::Normalized, OffsetType::Byte) {
            // A word this long is one the WordPiece model would refuse, and no word of a language.
            if word.is_empty() || word.chars().nth(MAX_WORD_CHARS).is_some() {
                continue;
            }
            match words.get_mut(word) {
                Some(count) => *count += 1,
                None => {
                    words.insert(word.to_owned(), 1);
                }
            }
        }
    }
    if words.is_empty() {
        return Err(TokenizerError::NoText);
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Instant;

    const KINDS: [TokenizerKind; 2] = [TokenizerKind::WordPiece, TokenizerKind::ByteLevelBpe];

    fn names() -> Vec<String> {
        let set = crate::builtin::emoji().unwrap();
        set.samples
            .into_iter()
            .flat_map(|sample| sample.texts)
            .collect()
    }

    fn trained(kind: TokenizerKind) -> TextTokenizer {
        TextTokenizer::train(names().iter().map(String::as_str), kind, 1000).unwrap()
    }

    #[test]
    fn training_twice_gives_the_same_file() {
        for kind in KINDS {
            let (first, second) = (
                trained(kind).to_json().unwrap(),
                trained(kind).to_json().unwrap(),
            );
            assert!(first == second, "{kind:?} differs between two trainings");
        }
    }

    #[test]
    fn a_saved_file_reads_back() {
        let folder = tempfile::tempdir().unwrap();
        for kind in KINDS {
            let tokenizer = trained(kind);
            let path = folder.path().join("tokenizer.json");
            tokenizer.save(&path).unwrap();
            let again = TextTokenizer::from_file(&path).unwrap();
            assert_eq!(again.special(), tokenizer.special());
            assert_eq!(again.vocab_size(), tokenizer.vocab_size());
            assert_eq!(again.to_json().unwrap(), tokenizer.to_json().unwrap());
            let text = "Woman firefighter, medium skin tone!";
            assert_eq!(again.encode(text, 64), tokenizer.encode(text, 64));
        }
    }

    #[test]
    fn specials_frame_every_text() {
        for kind in KINDS {
            let tokenizer = trained(kind);
            assert!(tokenizer.vocab_size() <= 1000);
            let special = tokenizer.special();
            for text in ["", " ", "cat", "🦀🦀🦀", "a b c d e f g h i j k l m n o p"] {
                for max_len in [0, 2, 3, 8] {
                    let encoded = tokenizer.encode(text, max_len);
                    assert_eq!(encoded.ids.first(), Some(&special.cls));
                    assert_eq!(encoded.ids.last(), Some(&special.sep));
                    assert!(encoded.ids.len() <= max_len.max(2));
                    assert_eq!(encoded.ids.len(), encoded.word_ids.len());
                }
            }
            let encoded = tokenizer.encode("red circle", 16);
            assert_eq!(encoded.word_ids[1], Some(0));
            let mask = tokenizer.special_mask(&encoded.ids);
            assert!(mask[0] && !mask[1] && mask[mask.len() - 1]);
        }
    }

    #[test]
    fn bytes_survive_bpe() {
        let tokenizer = trained(TokenizerKind::ByteLevelBpe);
        for text in ["Ünïcode 中文 🦀", "a  b", "woman firefighter"] {
            assert_eq!(
                tokenizer.decode(&tokenizer.encode(text, 200).ids).trim(),
                text
            );
        }
        let words = trained(TokenizerKind::WordPiece);
        assert_eq!(
            words.decode(&words.encode("Woman firefighter", 20).ids),
            "woman firefighter"
        );
    }

    #[test]
    fn long_text_is_cheap() {
        for kind in KINDS {
            let tokenizer = trained(kind);
            for text in [
                "x".repeat(100_000),
                "word ".repeat(20_000),
                "🦀".repeat(100_000),
                " ".repeat(100_000),
            ] {
                let start = Instant::now();
                let encoded = tokenizer.encode(&text, 64);
                assert!(
                    start.elapsed().as_millis() < 100,
                    "{kind:?} took {:?}",
                    start.elapsed()
                );
                assert!(encoded.ids.len() <= 64);
            }
        }
    }

    #[test]
    fn unusable_files_are_errors() {
        for bytes in [&b""[..], b"{}", b"not json", b"{\"version\":\"1.0\"}"] {
            assert!(TextTokenizer::from_bytes(bytes).is_err());
        }
        assert!(
            TextTokenizer::from_file("no/tokenizer.json")
                .unwrap_err()
                .to_string()
                .contains("tokenizer.json")
        );
        assert!(matches!(
            TextTokenizer::train(["a"], TokenizerKind::ByteLevelBpe, 100),
            Err(TokenizerError::TooSmall { least: 261, .. })
        ));
        assert!(matches!(
            TextTokenizer::train([" "], TokenizerKind::WordPiece, 100),
            Err(TokenizerError::NoText)
        ));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_text_encodes(text: String, max_len in 0usize..40) {
            use std::sync::OnceLock;
            static TOKENIZERS: OnceLock<Vec<TextTokenizer>> = OnceLock::new();
            for tokenizer in TOKENIZERS.get_or_init(|| KINDS.map(trained).into()) {
                let encoded = tokenizer.encode(&text, max_len);
                prop_assert!(encoded.ids.len() >= 2 && encoded.ids.len() <= max_len.max(2));
                let size = tokenizer.vocab_size() as i64;
                prop_assert!(encoded.ids.iter().all(|id| (0..size).contains(id)));
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            let _ = TextTokenizer::from_bytes(&bytes);
        }
    }
}
