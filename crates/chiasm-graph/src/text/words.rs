//! A caption as words: lower case, without punctuation, each with its place in the caption.
//!
//! Owns what counts as a word and what as a break between words. Word numbers of a graph are numbers of these
//! words, and they joined with spaces are the cleaned caption (`specs/tbkin.md` 2.2). Hyphens inside a word
//! stay (`t-shirt`), apostrophes go (`man's` is `mans`); that something was possessed is remembered.

use std::ops::Range;

/// What stood between a word and the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Break {
    /// Nothing but space.
    None,
    /// A comma, a dash or a bracket.
    Comma,
    /// The end of a sentence.
    Stop,
}

/// What an apostrophe said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Genitive {
    /// There was none.
    None,
    /// The word is the bare mark, as in tokenised captions: `man 's hat`.
    Mark,
    /// The word ends in it: `man's`, `dogs'`.
    Suffix,
}

/// A word as it was found.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    /// As it counts in the cleaned caption.
    pub(super) text: String,
    /// Bytes of `text` without what the apostrophe added: `man` of `mans`.
    pub(super) stem: usize,
    /// Bytes in the caption.
    pub(super) span: Range<usize>,
    /// What stood before it.
    pub(super) after: Break,
    /// Its apostrophe.
    pub(super) genitive: Genitive,
}

/// Splits a caption into words.
pub(super) fn split(caption: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut after = Break::None;
    let mut chars = caption.char_indices().peekable();
    let mut before = ' ';
    while let Some((start, first)) = chars.next() {
        if !first.is_alphanumeric() {
            after = match first {
                '.' | ';' | ':' | '!' | '?' | '\n' => Break::Stop,
                ',' | '(' | ')' | '/' | '–' | '—' if after == Break::None => Break::Comma,
                _ => after,
            };
            before = first;
            continue;
        }
        let mut end = start + first.len_utf8();
        let mut previous = first;
        while let Some(&(at, letter)) = chars.peek() {
            let next = caption
                .get(at + letter.len_utf8()..)
                .and_then(|rest| rest.chars().next());
            let inside = next.is_some_and(char::is_alphanumeric);
            let digits =
                previous.is_ascii_digit() && next.is_some_and(|next| next.is_ascii_digit());
            let part = letter.is_alphanumeric()
                || (is_apostrophe(letter) && inside)
                || (letter == '-' && inside)
                || (matches!(letter, '.' | ',') && digits)
                || is_mark(letter);
            if !part {
                break;
            }
            previous = letter;
            end = at + letter.len_utf8();
            chars.next();
        }
        let trailing = chars
            .peek()
            .is_some_and(|&(_, letter)| is_apostrophe(letter));
        let raw = caption.get(start..end).unwrap_or_default().to_lowercase();
        pieces.push(piece(
            &raw,
            start..end,
            after,
            is_apostrophe(before),
            trailing,
        ));
        after = Break::None;
        before = previous;
    }
    pieces
}

fn piece(raw: &str, span: Range<usize>, after: Break, led: bool, trailing: bool) -> Piece {
    let text: String = raw
        .chars()
        .filter(|letter| !is_apostrophe(*letter))
        .collect();
    let (genitive, cut) = if led && text == "s" {
        (Genitive::Mark, 0)
    } else if ["'s", "’s"].iter().any(|end| raw.ends_with(end)) {
        (Genitive::Suffix, 1)
    } else if trailing && text.ends_with('s') && !led {
        (Genitive::Suffix, 0)
    } else {
        (Genitive::None, 0)
    };
    Piece {
        stem: text.len() - cut,
        text,
        span,
        after,
        genitive,
    }
}

fn is_apostrophe(letter: char) -> bool {
    matches!(letter, '\'' | '’' | '`')
}

/// Accents and joiners that belong to the letter before them.
fn is_mark(letter: char) -> bool {
    matches!(letter, '\u{300}'..='\u{36f}' | '\u{200c}' | '\u{200d}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(caption: &str) -> Vec<String> {
        split(caption).into_iter().map(|piece| piece.text).collect()
    }

    #[test]
    fn words_are_cut() {
        assert_eq!(texts("A dog, two cats."), ["a", "dog", "two", "cats"]);
        assert_eq!(
            texts("someone's T-shirt - 3.5 m"),
            ["someones", "t-shirt", "3.5", "m"]
        );
        assert_eq!(texts("red/blue \u{1f600} ok"), ["red", "blue", "ok"]);
        assert_eq!(texts("  ...  "), [""; 0]);
        assert_eq!(texts("женщина 女人"), ["женщина", "女人"]);
    }

    #[test]
    fn places_and_marks_are_kept() {
        let caption = "The Man's dogs' bone , man 's";
        let pieces = split(caption);
        for piece in &pieces {
            assert!(caption.get(piece.span.clone()).is_some());
        }
        assert_eq!(&pieces[1].text[..pieces[1].stem], "man");
        assert_eq!(pieces[1].genitive, Genitive::Suffix);
        assert_eq!(pieces[2].genitive, Genitive::Suffix);
        assert_eq!(pieces[4].after, Break::Comma);
        assert_eq!(pieces[5].genitive, Genitive::Mark);
    }
}
