//! Texts as a model takes them: filled up to one length.

use crate::tokenizer::{Encoded, TextTokenizer};

/// Texts of one length.
pub(super) struct Padded {
    pub(super) ids: Vec<i64>,
    /// 1 = keep.
    pub(super) mask: Vec<i64>,
    /// Tokens of the longest text.
    pub(super) len: usize,
}

pub(super) fn pad<'a>(texts: impl Iterator<Item = &'a Encoded> + Clone, pad_id: i64) -> Padded {
    let len = texts.clone().map(|text| text.ids.len()).max().unwrap_or(0);
    let mut padded = Padded {
        ids: Vec::new(),
        mask: Vec::new(),
        len,
    };
    for text in texts {
        let fill = len - text.ids.len();
        padded.ids.extend_from_slice(&text.ids);
        padded.ids.extend(std::iter::repeat_n(pad_id, fill));
        padded.mask.extend(std::iter::repeat_n(1, text.ids.len()));
        padded.mask.extend(std::iter::repeat_n(0, fill));
    }
    padded
}

/// Texts as a model takes them: ids `[texts, len]`, mask `[texts, len]` (1 = keep), and `len`.
pub fn encode_texts(
    tokenizer: &TextTokenizer,
    texts: &[&str],
    max_len: usize,
) -> (Vec<i64>, Vec<i64>, usize) {
    let encoded: Vec<Encoded> = texts
        .iter()
        .map(|text| tokenizer.encode(text, max_len))
        .collect();
    let padded = pad(encoded.iter(), tokenizer.special().pad);
    (padded.ids, padded.mask, padded.len)
}
