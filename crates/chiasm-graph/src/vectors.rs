//! Similarity of words out of word vectors, and the sharpening that makes it an edge weight.
//!
//! Owns the reader of GloVe's and word2vec's text files, which keeps only the words that are asked for, the map from
//! a cosine to the similarity g of word and region (`specs/tbkin.md` 2.3, 9.3), and the choice between vectors and
//! the built-in list of synonyms.

use std::collections::{BTreeSet, HashMap};
use std::io::{BufRead, Read};

use crate::lexicon;
use crate::text::TextGraph;

/// Cap on a line of a vector file.
pub const MAX_LINE_BYTES: usize = 1 << 20;
/// Cap on the numbers of a vector.
pub const MAX_DIM: usize = 4096;

/// Why a file of vectors cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VectorsError {
    /// The system failed to read.
    #[error("line {line}: cannot read: {source}")]
    Io {
        /// Line, from 1.
        line: usize,
        /// What the system said.
        source: std::io::Error,
    },
    /// A line is not what it should be.
    #[error("line {line}: {reason}")]
    Line {
        /// Line, from 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// None of the words is there.
    #[error(
        "none of the {wanted} words is in the file; is it a text file of word vectors for English in lower case?"
    )]
    Nothing {
        /// Words asked for.
        wanted: usize,
    },
}

/// Vectors of some words, all of one size.
#[derive(Clone, Debug, Default)]
pub struct WordVectors {
    dim: usize,
    vectors: HashMap<String, Vec<f32>>,
}

impl WordVectors {
    /// Reads the vectors of the words in `wanted` from a text file: a word and its numbers a line, word2vec's first line
    /// of two counts passed over. Lines of other words are not looked into. Of a word that comes twice the first
    /// counts.
    ///
    /// # Errors
    /// If a line is longer than 1 MiB, or one that is wanted has another number of numbers than those before, more than
    /// 4,096, or one that is no finite number; the error names the line. Also when no wanted word is there.
    pub fn read(mut reader: impl BufRead, wanted: &BTreeSet<String>) -> Result<Self, VectorsError> {
        let mut found = Self::default();
        let mut buffer = Vec::new();
        for line in 1.. {
            buffer.clear();
            let taken = (&mut reader)
                .take(MAX_LINE_BYTES as u64 + 1)
                .read_until(b'\n', &mut buffer)
                .map_err(|source| VectorsError::Io { line, source })?;
            if taken == 0 {
                break;
            }
            let refuse = |reason: String| VectorsError::Line { line, reason };
            if buffer.len() > MAX_LINE_BYTES {
                return Err(refuse(format!("longer than {MAX_LINE_BYTES} bytes")));
            }
            let Some(space) = buffer
                .iter()
                .position(|byte| *byte == b' ' || *byte == b'\t')
            else {
                continue;
            };
            let (word, rest) = buffer.split_at(space);
            let Ok(word) = std::str::from_utf8(word) else {
                continue;
            };
            if !wanted.contains(word) || found.vectors.contains_key(word) {
                continue;
            }
            let rest = std::str::from_utf8(rest).map_err(|_| refuse("not UTF-8".to_owned()))?;
            let numbers: Vec<&str> = rest.split_ascii_whitespace().collect();
            if line == 1 && numbers.len() == 1 {
                continue;
            }
            // "new york 0.1 ...": a longer name that begins with the word.
            if numbers
                .first()
                .is_some_and(|first| first.parse::<f32>().is_err())
            {
                continue;
            }
            if numbers.is_empty() || numbers.len() > MAX_DIM {
                return Err(refuse(format!(
                    "`{word}` has {} numbers; 1 to {MAX_DIM} are taken",
                    numbers.len()
                )));
            }
            if found.dim != 0 && numbers.len() != found.dim {
                return Err(refuse(format!(
                    "`{word}` has {} numbers, those before {}",
                    numbers.len(),
                    found.dim
                )));
            }
            let mut vector = Vec::with_capacity(numbers.len());
            for number in numbers {
                match number.parse::<f32>() {
                    Ok(value) if value.is_finite() => vector.push(value),
                    _ => {
                        return Err(refuse(format!(
                            "`{number}` of `{word}` is not a finite number"
                        )));
                    }
                }
            }
            found.dim = vector.len();
            found.vectors.insert(word.to_owned(), vector);
        }
        if found.vectors.is_empty() {
            return Err(VectorsError::Nothing {
                wanted: wanted.len(),
            });
        }
        Ok(found)
    }

    /// Words that have a vector.
    pub fn len(&self) -> usize {
        self.vectors.len()
    }

    /// True without any.
    pub fn is_empty(&self) -> bool {
        self.vectors.is_empty()
    }

    /// Cosine of two words or names; a name of several words is the mean of those that have a vector. `None` when one
    /// has none, or a zero one.
    pub fn cosine(&self, a: &str, b: &str) -> Option<f64> {
        let (a, b) = (self.mean(a)?, self.mean(b)?);
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let norms = (dot(&a, &a) * dot(&b, &b)).sqrt();
        (norms > 0.0).then(|| (dot(&a, &b) / norms).clamp(-1.0, 1.0))
    }

    /// Similarity of a word and a class name, in `0..=1`: the sharpened cosine, 0 for what has no vector.
    pub fn similarity(&self, a: &str, b: &str) -> f64 {
        self.cosine(a, b).map_or(0.0, sharpen)
    }

    fn mean(&self, name: &str) -> Option<Vec<f64>> {
        let mut sum = vec![0.0; self.dim];
        let mut count = 0usize;
        for vector in name
            .split_whitespace()
            .filter_map(|word| self.vectors.get(word))
        {
            count += 1;
            for (sum, value) in sum.iter_mut().zip(vector) {
                *sum += f64::from(*value);
            }
        }
        if count == 0 {
            return None;
        }
        for value in &mut sum {
            *value /= count as f64;
        }
        Some(sum)
    }
}

/// Similarity of word and region from the cosine of their vectors (section 2.3): 1 at 1, 0.58 at a half, 0 below 0.23.
///
/// The cut at 0.5 is not made here; see [`crate::config::GraphConfig::cross_cut`].
pub fn sharpen(cosine: f64) -> f64 {
    // The published constants: distances count 1.3 times, and the exponential runs over -1.1..=0.9.
    let distance = (1.3 * (1.0 - cosine)).min(1.0);
    let grown = (2.0 * distance - 1.1).exp() - 1.0;
    let (low, high) = ((-1.1f64).exp() - 1.0, 0.9f64.exp() - 1.0);
    (1.0 - (grown - low) / (high - low)).clamp(0.0, 1.0)
}

/// Where the similarity of a word and a class name comes from.
#[derive(Clone, Debug, Default)]
pub enum Similarity {
    /// The built-in list of synonyms and kinds, [`lexicon::similarity`].
    #[default]
    Lexicon,
    /// Word vectors, as published.
    Vectors(WordVectors),
}

impl Similarity {
    /// Similarity in `0..=1`.
    pub fn of(&self, word: &str, name: &str) -> f64 {
        match self {
            Self::Lexicon => lexicon::similarity(word, name),
            Self::Vectors(vectors) => vectors.similarity(word, name),
        }
    }
}

/// The words whose vectors graphs of these captions ask for when regions have classes of these names.
pub fn words_of<'a>(
    captions: impl Iterator<Item = &'a TextGraph>,
    names: impl Iterator<Item = &'a str>,
) -> BTreeSet<String> {
    let mut words = BTreeSet::new();
    let mut add = |name: &str| words.extend(name.split_whitespace().map(str::to_owned));
    for graph in captions {
        (0..graph.objects.len()).for_each(|object| add(&graph.object_lemma(object)));
    }
    names.for_each(add);
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn wanted(words: &[&str]) -> BTreeSet<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    fn read(text: &str, words: &[&str]) -> Result<WordVectors, VectorsError> {
        WordVectors::read(text.as_bytes(), &wanted(words))
    }

    #[test]
    fn wanted_words_are_kept() {
        for text in [
            "dog 1 0\ncat 0.8 0.6\nnew york 1 1\nbad x y\nzero 0 0\n",
            "5 2\ndog 1 0\ncat 0.8 0.6\nnew 3 4 \ndog 9 9",
        ] {
            let vectors = read(text, &["dog", "cat", "unicorn", "zero", "5"]).unwrap();
            assert!(
                (vectors.cosine("dog", "cat").unwrap() - 0.8).abs() < 1e-6,
                "{text}"
            );
            assert_eq!(vectors.cosine("dog", "unicorn"), None);
            assert_eq!(vectors.cosine("dog", "zero"), None);
            assert!((vectors.cosine("dog cat", "cat dog unicorn").unwrap() - 1.0).abs() < 1e-6);
            assert_eq!(vectors.similarity("dog", "unicorn"), 0.0);
            assert!(!vectors.is_empty());
        }
    }

    #[test]
    fn odd_files_are_refused() {
        for (text, found) in [
            ("", "none of the 2 words"),
            ("horse 1 2\n", "none of the 2 words"),
            (
                "dog 1 2\ncat 1 2 3\n",
                "line 2: `cat` has 3 numbers, those before 2",
            ),
            (
                "horse 1\ndog 1 nan\n",
                "line 2: `nan` of `dog` is not a finite number",
            ),
            ("horse 1\ndog 1 x\n", "line 2: `x` of `dog`"),
            ("horse 1\ndog \n", "line 2: `dog` has 0 numbers"),
            ("horse 1\ndog 1 1e99\n", "line 2: `1e99`"),
        ] {
            let error = read(text, &["dog", "cat"]).unwrap_err().to_string();
            assert!(error.contains(found), "{error}");
        }
        let long = format!("dog {}", "1 ".repeat(MAX_LINE_BYTES));
        assert!(
            read(&long, &["dog"])
                .unwrap_err()
                .to_string()
                .contains("line 1: longer than")
        );
        let wide = format!("dog {}", "1 ".repeat(MAX_DIM + 1));
        assert!(
            read(&wide, &["dog"])
                .unwrap_err()
                .to_string()
                .contains("has 4097 numbers")
        );
    }

    #[test]
    fn table_of_the_specification() {
        for (cosine, g) in [
            (1.0, 1.0),
            (0.95, 0.9783),
            (0.9, 0.9535),
            (0.85, 0.9253),
            (0.8, 0.8933),
            (0.75, 0.8567),
            (0.7, 0.8151),
            (0.6, 0.7137),
            (0.5, 0.5822),
            (0.45, 0.5025),
            (0.4, 0.4117),
            (0.23, 0.0),
            (-1.0, 0.0),
        ] {
            assert!(
                (sharpen(cosine) - g).abs() < 5e-5,
                "{cosine}: {}",
                sharpen(cosine)
            );
        }
        assert!((sharpen(0.44855) - 0.5).abs() < 1e-4);
        assert!((sharpen(0.80999) - 0.9).abs() < 1e-4);
    }

    #[test]
    fn what_graphs_ask_for() {
        let caption = crate::text::parse("two brown dogs on a kitchen table");
        let words = words_of([&caption].into_iter(), ["teddy bear"].into_iter());
        assert_eq!(words, wanted(&["bear", "dog", "kitchen", "table", "teddy"]));
        let vectors = read(
            "dog 1 0\nteddy 0.6 0.8\nbear 1 0\n",
            &["dog", "teddy", "bear"],
        );
        let vectors = Similarity::Vectors(vectors.unwrap());
        // The mean of both words of the name: 0.8, 0.4.
        let near = sharpen(2.0 / 5.0f64.sqrt());
        assert!((vectors.of("dog", "teddy bear") - near).abs() < 1e-6);
        assert_eq!(vectors.of("couch", "sofa"), 0.0);
        assert_eq!(Similarity::default().of("couch", "sofa"), 0.7);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn sharpening_is_monotone(a in -1.0..=1.0f64, b in -1.0..=1.0f64) {
            let (low, high) = if a < b { (a, b) } else { (b, a) };
            prop_assert!(sharpen(low) <= sharpen(high));
            prop_assert!((0.0..=1.0).contains(&sharpen(a)));
        }

        #[test]
        fn any_bytes_are_survived(bytes: Vec<u8>) {
            let _ = WordVectors::read(&bytes[..], &wanted(&["a", "1"]));
        }
    }
}
