//! Tokenizers from the vocabulary files that came before `tokenizer.json`.
//!
//! A `vocab.txt` is BERT's WordPiece; `vocab.json` with `merges.txt` is a byte-level BPE, CLIP's when its
//! vocabulary has `<|startoftext|>`, else RoBERTa's. What such a file leaves to the program that reads
//! it (case, where words part, special tokens) is written out as a `tokenizer.json` and read as one,
//! so that there is one way to tokenise.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use crate::dataset::read_capped;
use crate::error::DataError;
use crate::tokenizer::MAX_TOKENIZER_BYTES;

/// Content of a `tokenizer.json` for the vocabulary files in a folder; `None` when it has none.
pub(crate) fn describe(folder: &Path) -> Result<Option<Vec<u8>>, DataError> {
    let settings = settings(folder);
    let (word_piece, bpe) = (folder.join("vocab.txt"), folder.join("vocab.json"));
    let value = if word_piece.is_file() {
        bert(&text(&word_piece)?, &settings)
    } else if bpe.is_file() {
        let vocab: BTreeMap<String, u32> =
            serde_json::from_str(&text(&bpe)?).map_err(|error| DataError::Parse {
                path: bpe.clone(),
                location: format!("line {}", error.line()),
                message: error.to_string(),
            })?;
        byte_level(&vocab, &text(&folder.join("merges.txt"))?, &settings)
    } else {
        return Ok(None);
    };
    Ok(Some(value.to_string().into_bytes()))
}

/// `tokenizer_config.json`, as far as it can be read.
fn settings(folder: &Path) -> Value {
    read_capped(&folder.join("tokenizer_config.json"), MAX_TOKENIZER_BYTES)
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_default()
}

fn text(path: &Path) -> Result<String, DataError> {
    String::from_utf8(read_capped(path, MAX_TOKENIZER_BYTES)?).map_err(|_| DataError::Parse {
        path: path.to_owned(),
        location: "its content".to_owned(),
        message: "it is not UTF-8 text".to_owned(),
    })
}

/// One token a line; the line is the id.
fn bert(lines: &str, settings: &Value) -> Value {
    let vocab: BTreeMap<&str, usize> = lines
        .lines()
        .enumerate()
        .map(|(id, line)| (line.trim_end_matches('\r'), id))
        .collect();
    let is = |key: &str, default: bool| {
        settings
            .get(key)
            .and_then(Value::as_bool)
            .unwrap_or(default)
    };
    let id = |token: &str| vocab.get(token).copied().unwrap_or_default();
    let special: Vec<Value> = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        .into_iter()
        .filter_map(|token| Some(added(token, *vocab.get(token)?, false)))
        .collect();
    json!({
        "version": "1.0",
        "added_tokens": special,
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": true,
            "handle_chinese_chars": is("tokenize_chinese_chars", true),
            "strip_accents": settings.get("strip_accents").cloned().unwrap_or_default(),
            "lowercase": is("do_lower_case", true),
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "BertProcessing",
            "sep": ["[SEP]", id("[SEP]")],
            "cls": ["[CLS]", id("[CLS]")],
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": vocab,
        },
    })
}

fn byte_level(vocab: &BTreeMap<String, u32>, merges: &str, settings: &Value) -> Value {
    let merges: Vec<&str> = merges
        .lines()
        .map(|line| line.trim_end_matches('\r'))
        .filter(|line| !line.is_empty() && !line.starts_with("#version"))
        .collect();
    let id = |token: &str| vocab.get(token).copied().unwrap_or_default() as usize;
    let is_clip = vocab.contains_key("<|startoftext|>");
    let (first, last) = match is_clip {
        true => ("<|startoftext|>", "<|endoftext|>"),
        false => ("<s>", "</s>"),
    };
    let special: Vec<Value> = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", first, last]
        .into_iter()
        .filter(|token| vocab.contains_key(*token))
        .map(|token| (token, added(token, id(token), token == "<mask>")))
        .collect::<BTreeMap<_, _>>()
        .into_values()
        .collect();
    let add_prefix_space = settings
        .get("add_prefix_space")
        .and_then(Value::as_bool)
        .unwrap_or(false);
    let bytes = |prefix: bool| {
        json!({
            "type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": true, "use_regex": true,
        })
    };
    // CLIP's words: contractions, runs of letters, single digits, runs of anything else.
    let words = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";
    let (normalizer, pre_tokenizer) = if is_clip {
        (
            json!({"type": "Sequence", "normalizers": [
                {"type": "NFC"},
                {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
                {"type": "Lowercase"},
            ]}),
            json!({"type": "Sequence", "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": words}, "behavior": "Removed", "invert": true},
                bytes(false),
            ]}),
        )
    } else {
        (Value::Null, bytes(add_prefix_space))
    };
    json!({
        "version": "1.0",
        "added_tokens": special,
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": {
            "type": "RobertaProcessing",
            "sep": [last, id(last)],
            "cls": [first, id(first)],
            "trim_offsets": !is_clip,
            "add_prefix_space": add_prefix_space,
        },
        "decoder": bytes(true),
        "model": {
            "type": "BPE",
            "unk_token": is_clip.then_some(last),
            "continuing_subword_prefix": "",
            "end_of_word_suffix": if is_clip { "</w>" } else { "" },
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": false,
            "vocab": vocab,
            "merges": merges,
        },
    })
}

/// A special token; `lstrip`: it takes the blanks before it.
fn added(token: &str, id: usize, lstrip: bool) -> Value {
    json!({
        "id": id, "content": token, "single_word": false, "lstrip": lstrip, "rstrip": false,
        "normalized": false, "special": true,
    })
}
