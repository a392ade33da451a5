//! A model with its tokenizer: maps of words, and hidden words.

use std::ops::Range;

use chiasm_data::TextTokenizer;
use chiasm_eval::metrics::alignment::words_of_phrase;
use chiasm_nn::Spans;
use chiasm_nn::model::Seen;
use chiasm_nn::text::TextInput;

use crate::error::ExplainError;
use crate::layout::Places;
use crate::maps::{Maps, Request, within};
use crate::methods::explain;
use crate::subject::{Input, Subject, Target, host};

/// A model with what it takes to read texts.
#[derive(Clone, Copy)]
pub struct Explainer<'a> {
    /// The model.
    pub subject: Subject<'a>,
    /// Its tokenizer; a model of pictures has none.
    pub tokenizer: Option<&'a TextTokenizer>,
    /// Its longest text in tokens.
    pub max_text_len: usize,
}

/// A text as a model reads it.
struct Read {
    input: TextInput,
    /// Number of the word each token is part of; none of special ones.
    word_ids: Vec<Option<u32>>,
    /// Bytes of the text that each token stands for.
    offsets: Vec<Range<usize>>,
}

/// A word of a text and what was found for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Word {
    /// The word.
    pub text: String,
    /// Where it stands, in bytes.
    pub bytes: Range<usize>,
    /// How much it counts for the target; all words together 1, or 0 where no word counts. None of a
    /// method that does not say.
    pub weight: Option<f32>,
    /// Its map over the places; none where all words would have the same.
    pub map: Option<Vec<f32>>,
}

/// An explanation, word by word.
#[derive(Clone, Debug, PartialEq)]
pub struct Explained {
    /// What was explained: the value of the target.
    pub score: f32,
    /// The region in question, where the target is one.
    pub region: Option<usize>,
    /// What maps are over.
    pub places: Places,
    /// Over the places, for the target as a whole.
    pub whole: Vec<f32>,
    /// The words of the text that the model read.
    pub words: Vec<Word>,
    /// Keys that got any attention, head by head, as a share; of attention alone.
    pub kept: Vec<f32>,
    offsets: Vec<Range<usize>>,
    tokens: Option<Vec<Vec<f32>>>,
}

impl Explained {
    /// Whether every token has a map of its own.
    #[must_use]
    pub fn has_tokens(&self) -> bool {
        self.tokens.is_some()
    }

    /// The map of the tokens that stand for some bytes of the text, summed; `None` of a method that has no
    /// map for each token, and of bytes that were cut off.
    #[must_use]
    pub fn of_bytes(&self, bytes: &Range<usize>) -> Option<Vec<f32>> {
        let tokens = self.tokens.as_ref()?;
        let inside = tokens.iter().zip(&self.offsets).filter(|(_, offset)| {
            !offset.is_empty() && offset.start < bytes.end && offset.end > bytes.start
        });
        let maps: Vec<&Vec<f32>> = inside.map(|(map, _)| map).collect();
        (!maps.is_empty()).then(|| sum(&maps, self.places.count()))
    }
}

/// A text of which a word is hidden.
#[derive(Clone, Debug)]
pub struct Masked {
    input: TextInput,
    /// What is asked: the hidden word.
    pub target: Target,
}

impl<'a> Explainer<'a> {
    /// Explains a picture with a text, or alone. Where words have no map of their own in the method, the
    /// map of a word is that of the word as a text of its own, if `each` asks for them.
    ///
    /// # Errors
    /// As [`explain`].
    pub fn explain(
        &self,
        seen: &Seen,
        text: Option<&str>,
        target: &Target,
        request: &Request,
        each: bool,
    ) -> Result<Explained, ExplainError> {
        let read = text.map(|text| self.read(text)).transpose()?;
        let input = Input {
            seen: seen.clone(),
            text: read.as_ref().map(|read| read.input.clone()),
        };
        let maps = explain(&self.subject, &input, target, request)?;
        let mut explained = merged(maps, text.unwrap_or_default(), read);
        let alone = matches!(target, Target::Match | Target::Cosine);
        if each && explained.tokens.is_none() && alone {
            for word in &mut explained.words {
                word.map = Some(self.alone(seen, &word.text, target, request)?);
            }
        }
        Ok(explained)
    }

    /// The map of some words as a text of their own.
    ///
    /// # Errors
    /// As [`explain`].
    pub fn alone(
        &self,
        seen: &Seen,
        words: &str,
        target: &Target,
        request: &Request,
    ) -> Result<Vec<f32>, ExplainError> {
        let input = Input {
            seen: seen.clone(),
            text: Some(self.read(words)?.input),
        };
        Ok(explain(&self.subject, &input, target, request)?.whole)
    }

    /// A pair as a model takes it.
    ///
    /// # Errors
    /// A model that reads no texts.
    pub fn input(&self, seen: &Seen, text: Option<&str>) -> Result<Input, ExplainError> {
        let read = text.map(|text| self.read(text)).transpose()?;
        Ok(Input {
            seen: seen.clone(),
            text: read.map(|read| read.input),
        })
    }

    /// Hides words of a text: their tokens become the one that stands for a word to be guessed
    /// (`specs/tbkin.md` section 8).
    ///
    /// # Errors
    /// A word that is not in the text, or a tokenizer without such a token.
    pub fn hide(&self, text: &str, words: &[String]) -> Result<Masked, ExplainError> {
        let tokenizer = self.tokenizer.ok_or(NO_WORDS)?;
        let mask = tokenizer.special().mask.ok_or(ExplainError::Lacks(
            "the tokenizer has no token for hidden words",
            "give a model that was trained to guess hidden words",
        ))?;
        let read = self.read(text)?;
        let mut ids = read.input.ids.to_vec();
        let (mut tokens, mut right) = (Vec::new(), Vec::new());
        for word in words {
            let unknown = || ExplainError::Word {
                word: word.clone(),
                text: text.to_owned(),
            };
            let bytes = words_of_phrase(text, word, None).ok_or_else(unknown)?;
            let before = tokens.len();
            for (token, offset) in read.offsets.iter().enumerate() {
                let inside = !offset.is_empty()
                    && offset.start < bytes.end
                    && offset.end > bytes.start
                    && !tokens.contains(&token);
                if let Some(id) = ids.get_mut(token).filter(|_| inside) {
                    tokens.push(token);
                    right.push(*id);
                    *id = u32::try_from(mask).unwrap_or(0);
                }
            }
            if tokens.len() == before {
                return Err(unknown());
            }
        }
        Ok(Masked {
            input: TextInput {
                ids: ids.into(),
                ..read.input
            },
            target: Target::Hidden { tokens, ids: right },
        })
    }

    /// Hides regions: their features become zeros, their places stay (`specs/tbkin.md` section 8). What is
    /// seen then, and what is asked.
    ///
    /// # Errors
    /// A picture without regions, or a region that is not there.
    pub fn hide_regions(
        &self,
        seen: &Seen,
        hidden: &[usize],
    ) -> Result<(Seen, Target), ExplainError> {
        let Seen::Regions(regions) = seen else {
            return Err(ExplainError::Lacks(
                "the model sees pixels, not regions",
                "hide a word with `--mask`",
            ));
        };
        let count = regions.features.spans.tokens();
        for region in hidden {
            within("region", *region, count)?;
        }
        let target = Target::HiddenRegions {
            regions: hidden.to_vec(),
            features: host(regions.features.token_rows(hidden))?,
        };
        Ok((Seen::Regions(regions.hide(hidden)), target))
    }

    /// Where a model looks for hidden words.
    ///
    /// # Errors
    /// As [`explain`].
    pub fn explain_hidden(
        &self,
        seen: &Seen,
        text: &str,
        masked: &Masked,
        request: &Request,
    ) -> Result<Explained, ExplainError> {
        let input = Input {
            seen: seen.clone(),
            text: Some(masked.input.clone()),
        };
        let maps = explain(&self.subject, &input, &masked.target, request)?;
        Ok(merged(maps, text, Some(self.read(text)?)))
    }

    /// What a model takes hidden words for: the likeliest tokens of each hidden place with their
    /// probabilities, best first.
    ///
    /// # Errors
    /// A model that was not trained to guess words.
    pub fn guesses(
        &self,
        seen: &Seen,
        masked: &Masked,
        most: usize,
    ) -> Result<Vec<Vec<(String, f32)>>, ExplainError> {
        let (Subject::Own(model), Target::Hidden { tokens, .. }) = (self.subject, &masked.target)
        else {
            return Err(NO_GUESS);
        };
        let head = model.mlm_head.as_ref().ok_or(NO_GUESS)?;
        let tokenizer = self.tokenizer.ok_or(NO_WORDS)?;
        let text = self.subject.read(Some(&masked.input));
        let image = self.subject.look(seen)?;
        let fused = self
            .subject
            .fuse(text.as_ref(), &image, seen.class_tokens());
        let fused = fused.ok_or(NO_GUESS)?;
        let logits = head.forward(fused.text.token_rows(tokens), &model.text.words);
        let [_, words] = logits.dims();
        let shares = host(burn::tensor::activation::softmax(logits, 1))?;
        let best = |row: &[f32]| {
            let mut order: Vec<(usize, f32)> = row.iter().copied().enumerate().collect();
            order.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            let named = order
                .into_iter()
                .filter_map(|(id, share)| Some((tokenizer.token(id as i64)?, share)));
            named.take(most).collect()
        };
        Ok(shares.chunks(words.max(1)).map(best).collect())
    }

    /// The class that a model takes a pair for.
    ///
    /// # Errors
    /// A model without a classifier.
    pub fn best_class(&self, seen: &Seen, text: &str) -> Result<usize, ExplainError> {
        let input = self.input(seen, Some(text))?;
        self.subject.best_class(&input)
    }

    /// Attention maps of every layer with every way to join heads.
    pub(crate) fn every_attention(
        &self,
        seen: &Seen,
        text: &str,
        target: &Target,
    ) -> Result<Vec<(usize, crate::maps::Heads, Explained)>, ExplainError> {
        let input = self.input(seen, Some(text))?;
        let all = crate::methods::every_attention(&self.subject, &input, target)?;
        let read = || self.read(text);
        all.into_iter()
            .map(|(layer, heads, maps)| Ok((layer, heads, merged(maps, text, Some(read()?)))))
            .collect()
    }

    fn read(&self, text: &str) -> Result<Read, ExplainError> {
        let tokenizer = self.tokenizer.ok_or(NO_WORDS)?;
        let encoded = tokenizer.encode(text, self.max_text_len);
        let ids: Vec<u32> = encoded
            .ids
            .iter()
            .map(|id| u32::try_from(*id).unwrap_or(0))
            .collect();
        Ok(Read {
            input: TextInput {
                spans: Spans::new([ids.len()]),
                ids: ids.into(),
                types: None,
            },
            word_ids: encoded.word_ids,
            offsets: encoded.offsets,
        })
    }
}

const NO_WORDS: ExplainError = ExplainError::Lacks(
    "the model reads no texts",
    "leave the text out, or give a model of texts and pictures",
);

const NO_GUESS: ExplainError = ExplainError::Lacks(
    "the model was not trained to guess hidden words",
    "give a run with the objective `mlm`",
);

/// Tokens become words: maps and weights of a word's tokens are summed (`specs/itr.md` section 5.2, C7).
fn merged(maps: Maps, text: &str, read: Option<Read>) -> Explained {
    let count = maps.places.count();
    let (word_ids, offsets) = match read {
        Some(read) => (read.word_ids, read.offsets),
        None => (Vec::new(), Vec::new()),
    };
    let mut groups: Vec<(u32, Vec<usize>)> = Vec::new();
    for (token, word) in word_ids.iter().enumerate() {
        match (word, groups.last_mut()) {
            (Some(word), Some((last, tokens))) if last == word => tokens.push(token),
            (Some(word), _) => groups.push((*word, vec![token])),
            (None, _) => {}
        }
    }
    let weight = |tokens: &[usize]| -> f32 {
        let weights = tokens.iter().filter_map(|token| maps.words.get(*token));
        weights.sum()
    };
    let total: f32 = groups.iter().map(|(_, tokens)| weight(tokens)).sum();
    let word = |(_, tokens): &(u32, Vec<usize>)| {
        let ranges = || tokens.iter().filter_map(|token| offsets.get(*token));
        let start = ranges().map(|range| range.start).min().unwrap_or(0);
        let end = ranges().map(|range| range.end).max().unwrap_or(0);
        let map = maps.tokens.as_ref().map(|all| {
            let own: Vec<&Vec<f32>> = tokens.iter().filter_map(|token| all.get(*token)).collect();
            sum(&own, count)
        });
        Word {
            text: text.get(start..end).unwrap_or_default().trim().to_owned(),
            bytes: start..end,
            weight: (!maps.words.is_empty()).then(|| match total > 0.0 {
                true => weight(tokens) / total,
                false => 0.0,
            }),
            map,
        }
    };
    Explained {
        score: maps.score,
        region: maps.region,
        places: maps.places,
        words: groups.iter().map(word).collect(),
        whole: maps.whole,
        kept: maps.kept,
        offsets,
        tokens: maps.tokens,
    }
}

fn sum(maps: &[&Vec<f32>], count: usize) -> Vec<f32> {
    let mut sum = vec![0.0; count];
    for map in maps {
        for (sum, value) in sum.iter_mut().zip(map.iter()) {
            *sum += value;
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    /// C7 of `specs/itr.md` section 9.7.
    #[test]
    fn weights_of_words_sum_to_one_and_pieces_are_added_up() {
        let read = Read {
            input: TextInput {
                ids: vec![0; 5].into(),
                spans: Spans::new([5]),
                types: None,
            },
            word_ids: vec![None, Some(0), Some(1), Some(1), None],
            offsets: vec![0..0, 0..1, 1..6, 6..9, 0..0],
        };
        let maps = Maps {
            score: 0.0,
            region: None,
            places: Places::Regions(2),
            whole: vec![0.0; 2],
            tokens: Some((0..5).map(|token| vec![token as f32, 1.0]).collect()),
            words: vec![0.5, 0.1, 0.2, 0.1, 0.1],
            kept: Vec::new(),
        };
        let explained = merged(maps, "a kittens", Some(read));
        let words: Vec<&str> = explained
            .words
            .iter()
            .map(|word| word.text.as_str())
            .collect();
        assert_eq!(words, ["a", "kittens"]);
        let total: f32 = explained.words.iter().filter_map(|word| word.weight).sum();
        assert!((total - 1.0).abs() < 1e-6, "{total}");
        assert_eq!(explained.words[1].map, Some(vec![5.0, 2.0]));
        assert_eq!(explained.of_bytes(&(2..4)), Some(vec![2.0, 1.0]));
        assert_eq!(explained.of_bytes(&(40..44)), None);
    }
}
