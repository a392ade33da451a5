//! Answers to questions about pictures: what counts as the same one, and the list to choose from.
//!
//! Owns the normal form of VQA v2's evaluation (`specs/tbkin.md`, section 6.1), the vocabulary that
//! classifiers answer from, and the share of a point that an answer is worth. Whose answers are given
//! is the readers' to say, how a model is scored the evaluation's.
//!
//! ```
//! use chiasm_data::answers::normalise;
//!
//! assert_eq!(normalise("An apple, red"), "apple red");
//! assert_eq!(normalise("dont"), "don't");
//! assert_eq!(normalise("1,000"), "1000");
//! ```

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use serde::Serialize;

use crate::atomic;
use crate::dataset::{Answer, Dataset, Sample, Split, read_capped};
use crate::error::DataError;

/// How often an answer must be that of most people to be in the vocabulary. With it, VQA v2's
/// training and validation questions give the 3,129 answers of the literature.
pub const MIN_COUNT: usize = 9;

/// Largest vocabulary file that is read.
const MAX_FILE_BYTES: u64 = 64 << 20;

/// Characters that are taken out, or make two words of one.
const PUNCTUATION: &[char] = &[
    ';', '/', '[', ']', '"', '{', '}', '(', ')', '=', '+', '\\', '_', '-', '>', '<', '@', '`', ',',
    '?', '!',
];

/// Numbers that are written as digits.
const NUMBERS: &[(&str, &str)] = &[
    ("none", "0"),
    ("zero", "0"),
    ("one", "1"),
    ("two", "2"),
    ("three", "3"),
    ("four", "4"),
    ("five", "5"),
    ("six", "6"),
    ("seven", "7"),
    ("eight", "8"),
    ("nine", "9"),
    ("ten", "10"),
];

/// Short forms that get their apostrophe back when one of theirs is missing. Those that are words
/// without it (`we'll`, `she'd`) are not among them.
const CONTRACTIONS: &str = "\
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't \
    haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't \
    mightn't've must've mustn't needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've \
    shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've someone'll \
    someone's something'd something'd've something'll that's there'd there'd've there're there's \
    they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're \
    what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're \
    why's won't would've wouldn't wouldn't've y'all y'all'd've y'all'll you'd you'd've you'll you're \
    you've";

/// Periods that are removed at most: the published evaluation passes a flag where the number goes.
const MAX_PERIODS: usize = 32;

/// An answer in the form in which answers are compared: lower case, without articles and most
/// punctuation, numbers as digits, apostrophes where they belong. May be empty: `the` is.
pub fn normalise(answer: &str) -> String {
    let answer = answer.replace(['\n', '\t'], " ");
    let words = numbers_and_articles(&without_punctuation(answer.trim()));
    // Training takes out what commas are left; the evaluation leaves none between words either.
    words.replace(',', "")
}

/// An answer without most punctuation: the first half of [`normalise`], and all that the published
/// evaluation does to answers of people.
pub fn without_punctuation(answer: &str) -> String {
    let mut characters = answer
        .chars()
        .zip(answer.chars().skip(1).zip(answer.chars().skip(2)));
    let number = characters.any(|(a, (comma, b))| a.is_numeric() && comma == ',' && b.is_numeric());
    let mut plain = answer.to_owned();
    for mark in PUNCTUATION.iter().filter(|mark| answer.contains(**mark)) {
        let spaced = answer.contains(&format!("{mark} ")) || answer.contains(&format!(" {mark}"));
        plain = plain.replace(*mark, if spaced || number { "" } else { " " });
    }
    // The published pattern means to spare periods behind digits too, and does not.
    let mut kept = String::with_capacity(plain.len());
    let mut removed = 0;
    let mut rest = plain.chars().peekable();
    while let Some(character) = rest.next() {
        let before_digit = rest.peek().is_some_and(|next| next.is_numeric());
        if character == '.' && !before_digit && removed < MAX_PERIODS {
            removed += 1;
        } else {
            kept.push(character);
        }
    }
    kept
}

fn numbers_and_articles(answer: &str) -> String {
    let lower = answer.to_lowercase();
    let words = lower.split_whitespace();
    let words = words.map(|word| {
        let number = NUMBERS.iter().find(|(name, _)| *name == word);
        number.map_or(word, |(_, digits)| *digits)
    });
    let words = words.filter(|word| !["a", "an", "the"].contains(word));
    words.map(apostrophe).collect::<Vec<_>>().join(" ")
}

fn apostrophe(word: &str) -> &str {
    /// Short forms by what is left of them without one of their apostrophes.
    static FORMS: LazyLock<HashMap<String, &str>> = LazyLock::new(|| {
        let without = |form: &'static str, at| {
            let (before, rest) = form.split_at(at);
            let rest = rest.strip_prefix('\'').unwrap_or(rest);
            (format!("{before}{rest}"), form)
        };
        let forms = CONTRACTIONS.split(' ');
        forms
            .flat_map(|form| {
                form.match_indices('\'')
                    .map(move |(at, _)| without(form, at))
            })
            // The published table has this one the wrong way round.
            .chain([("somebody'd".to_owned(), "somebodyd")])
            .collect()
    });
    FORMS.get(word).copied().unwrap_or(word)
}

/// What an answer is worth that `count` of ten people gave: 0, 0.3, 0.6, 0.9, and 1 from four on.
/// That is the official accuracy: the mean of min(matches / 3, 1) over the ten ways to leave one of
/// them out.
pub fn soft_score(count: u32) -> f32 {
    match count {
        0 => 0.0,
        1 => 0.3,
        2 => 0.6,
        3 => 0.9,
        _ => 1.0,
    }
}

/// The answers that a classifier chooses from. Its classes are their positions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vocabulary {
    answers: Vec<String>,
    index: HashMap<String, usize>,
}

/// How a vocabulary is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// A list of two objects, from answer to position and from position (a string) to answer: what
    /// the published code reads.
    #[default]
    Maps,
    /// A list of the answers in their order.
    List,
}

impl Vocabulary {
    /// Those majority answers, in normal form, that are it for at least `min_count` samples; the most
    /// frequent first, of equally frequent ones the alphabetically first.
    ///
    /// The majority answer of a sample is its label, which is where VQA v2 gives it, else its first
    /// answer. Samples without an answer do not count.
    pub fn learn<'a>(samples: impl IntoIterator<Item = &'a Sample>, min_count: usize) -> Self {
        Self::most_frequent(count(samples), min_count)
    }

    fn most_frequent(counts: HashMap<String, usize>, min_count: usize) -> Self {
        let mut answers: Vec<(String, usize)> = counts
            .into_iter()
            .filter(|(_, count)| *count >= min_count)
            .collect();
        answers.sort_by(|(a, more), (b, less)| less.cmp(more).then_with(|| a.cmp(b)));
        let answers = answers.into_iter().map(|(answer, _)| answer);
        Self::from_answers(answers.collect())
    }

    /// Answers by class, in normal form already and each once.
    pub fn from_answers(answers: Vec<String>) -> Self {
        let index = answers.iter().cloned().zip(0..).collect();
        Self { answers, index }
    }

    /// The answers by class.
    pub fn answers(&self) -> &[String] {
        &self.answers
    }

    /// The class of an answer as it was given.
    pub fn class(&self, answer: &str) -> Option<usize> {
        self.index.get(&normalise(answer)).copied()
    }

    /// What each class is worth as an answer of ten people, `(class, 0 to 1)`, lowest class first; the others are
    /// worth nothing. Answers that are the same in normal form count together; those that are not in
    /// the vocabulary do not count.
    pub fn targets(&self, answers: &[Answer]) -> Vec<(usize, f32)> {
        let counts = self.counts(answers).into_iter();
        counts
            .map(|(class, count)| (class, soft_score(count)))
            .collect()
    }

    /// How many people gave each class as an answer, lowest class first.
    pub(crate) fn counts(&self, answers: &[Answer]) -> Vec<(usize, u32)> {
        let mut counts: Vec<(usize, u32)> = Vec::new();
        for answer in answers {
            let Some(class) = self.class(&answer.text) else {
                continue;
            };
            match counts.iter_mut().find(|(known, _)| *known == class) {
                Some((_, count)) => *count = count.saturating_add(answer.count),
                None => counts.push((class, answer.count)),
            }
        }
        counts.sort_unstable();
        counts
    }

    /// Reads a vocabulary in either [`Form`]. Answers are taken as they are.
    ///
    /// # Errors
    /// When the file cannot be read, has more than 64 MiB, is neither form, names an answer twice, or
    /// when its two objects do not say the same.
    pub fn read(path: &Path) -> Result<Self, DataError> {
        let wrong = |location: String, message: &str| DataError::Parse {
            path: path.to_owned(),
            location,
            message: message.to_owned(),
        };
        let bytes = read_capped(path, MAX_FILE_BYTES).map_err(|error| match error {
            DataError::TooLarge { bytes, cap, .. } => wrong(
                "its size".to_owned(),
                &format!("the vocabulary has {bytes} bytes, more than the cap {cap}"),
            ),
            other => other,
        })?;
        let written: Written = serde_json::from_slice(&bytes).map_err(|error| {
            let message = match error.classify() {
                serde_json::error::Category::Data => {
                    "neither a list of answers nor a list of two objects".to_owned()
                }
                _ => error.to_string(),
            };
            wrong(
                format!("line {}, column {}", error.line(), error.column()),
                &message,
            )
        })?;
        let answers = match written {
            Written::List(answers) => answers,
            Written::Maps(classes, names) => {
                let mut answers = vec![None; classes.len()];
                for (answer, class) in classes {
                    let place = answers.get_mut(class).filter(|place| place.is_none());
                    let place = place.ok_or_else(|| {
                        wrong(
                            format!("answer `{answer}`"),
                            "its position is taken, or past the end",
                        )
                    })?;
                    if names.get(&class.to_string()) != Some(&answer) {
                        let message = "the second object has another answer at its position";
                        return Err(wrong(format!("answer `{answer}`"), message));
                    }
                    *place = Some(answer);
                }
                answers.into_iter().flatten().collect()
            }
        };
        let vocabulary = Self::from_answers(answers);
        if vocabulary.index.len() != vocabulary.answers.len() {
            return Err(wrong("its answers".to_owned(), "an answer is named twice"));
        }
        Ok(vocabulary)
    }

    /// Writes the vocabulary, whole or not at all.
    ///
    /// # Errors
    /// What the system said, with the path.
    pub fn write(&self, path: &Path, form: Form) -> Result<(), DataError> {
        let classes = || self.answers.iter().zip(0..);
        let json = match form {
            Form::List => serde_json::json!(self.answers),
            Form::Maps => {
                let to: serde_json::Map<_, _> = classes()
                    .map(|(answer, class): (&String, u64)| (answer.clone(), class.into()))
                    .collect();
                let from: serde_json::Map<_, _> = classes()
                    .map(|(answer, class)| (class.to_string(), answer.as_str().into()))
                    .collect();
                serde_json::json!([to, from])
            }
        };
        atomic::write_bytes(path, json.to_string().as_bytes())
            .map_err(|source| DataError::io(path, source))
    }
}

/// A file in one of the forms.
#[derive(serde::Deserialize)]
#[serde(untagged)]
enum Written {
    List(Vec<String>),
    Maps(HashMap<String, usize>, HashMap<String, String>),
}

/// The answer of most people.
fn majority(sample: &Sample) -> Option<&str> {
    let first = sample.annotations.answers.first()?;
    let label = sample.annotations.label.as_deref();
    Some(label.unwrap_or(&first.text))
}

/// How often each normal form is the majority answer.
fn count<'a>(samples: impl IntoIterator<Item = &'a Sample>) -> HashMap<String, usize> {
    let mut counts = HashMap::new();
    for answer in samples.into_iter().filter_map(majority) {
        *counts.entry(normalise(answer)).or_default() += 1;
    }
    counts
}

/// What [`write_vocabulary`] did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VocabularyReport {
    /// The file that was written.
    pub file: PathBuf,
    /// Questions with an answer that were counted.
    pub questions: usize,
    /// Different majority answers in normal form.
    pub distinct: usize,
    /// How often an answer had to be the one of most people.
    pub min_count: usize,
    /// How many of the answers are in the vocabulary.
    pub kept: usize,
    /// Questions of which at least one answer is in the vocabulary.
    pub answerable: usize,
}

/// Learns the vocabulary of the samples in some splits, and writes it.
///
/// # Errors
/// When those splits hold no answer, when no answer is frequent enough, or when the file cannot be
/// written.
pub fn write_vocabulary(
    data: &Dataset,
    splits: &[Split],
    min_count: usize,
    file: &Path,
    form: Form,
) -> Result<VocabularyReport, DataError> {
    let answered = || {
        let samples = data.samples.iter();
        samples.filter(|sample| splits.contains(&sample.split) && majority(sample).is_some())
    };
    let counts = count(answered());
    let distinct = counts.len();
    let vocabulary = Vocabulary::most_frequent(counts, min_count);
    let report = VocabularyReport {
        file: file.to_owned(),
        questions: answered().count(),
        distinct,
        min_count,
        kept: vocabulary.answers.len(),
        answerable: answered()
            .filter(|sample| {
                let mut answers = sample.annotations.answers.iter();
                answers.any(|answer| vocabulary.class(&answer.text).is_some())
            })
            .count(),
    };
    if report.kept == 0 {
        return Err(DataError::Setting {
            name: "min_count",
            value: min_count.to_string(),
            reason: match report.questions {
                0 => "the splits hold no question with an answer",
                _ => "no answer is that frequent; a smaller count keeps more",
            },
        });
    }
    vocabulary.write(file, form)?;
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The pairs of `specs/tbkin.md`, section 6.1, and what the published functions give for others.
    #[test]
    fn normal_forms_are_the_published_ones() {
        for (given, normal) in [
            ("1,000", "1000"),
            ("10:30", "10:30"),
            ("U.S.", "us"),
            ("dont", "don't"),
            ("brown/white", "brown white"),
            ("T-shirt", "t shirt"),
            ("it's 5.5", "it's 5.5"),
            ("a dog", "dog"),
            ("the", ""),
            ("none", "0"),
            ("an apple, red", "apple red"),
            ("$5.00", "$5.00"),
            ("left side!", "left side"),
            ("Yes.", "yes"),
            ("two  cats\n", "2 cats"),
            ("couldnt've", "couldn't've"),
            ("couldntve", "couldntve"),
            ("well", "well"),
            ("somebody'd", "somebodyd"),
            ("", ""),
        ] {
            assert_eq!(normalise(given), normal, "{given:?}");
        }
    }

    fn answers(given: &[(&str, u32)]) -> Vec<Answer> {
        let answer = |(text, count): &(&str, u32)| Answer {
            text: (*text).to_owned(),
            count: *count,
        };
        given.iter().map(answer).collect()
    }

    #[test]
    fn equal_answers_count_together() {
        let vocabulary = Vocabulary::from_answers(vec!["dog".into(), "cat".into()]);
        let given = answers(&[("cat", 6), ("The dog", 2), ("a dog", 1), ("cow", 1)]);
        assert_eq!(vocabulary.targets(&given), [(0, 0.9), (1, 1.0)]);
        assert_eq!(
            [0, 1, 2, 3, 4, 10].map(soft_score),
            [0.0, 0.3, 0.6, 0.9, 1.0, 1.0]
        );
    }

    #[test]
    fn both_forms_are_read_back_and_others_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("answers.json");
        let vocabulary = Vocabulary::from_answers(["", "yes", "no"].map(String::from).into());
        for form in [Form::Maps, Form::List] {
            vocabulary.write(&path, form).unwrap();
            assert_eq!(Vocabulary::read(&path).unwrap(), vocabulary);
        }
        for (hostile, why) in [
            ("", "empty"),
            ("{}", "an object"),
            ("[1]", "a number"),
            (r#"["a","a"]"#, "twice"),
            (r#"[{"a":0,"b":0},{"0":"a"}]"#, "one position for two"),
            (
                r#"[{"a":18446744073709551615},{}]"#,
                "a position past the end",
            ),
            (r#"[{"a":-1},{"-1":"a"}]"#, "a negative position"),
            (r#"[{"a":0},{"0":"b"}]"#, "maps that disagree"),
            (r#"[{"a":0}]"#, "one map"),
            (r#"["a""#, "cut off"),
        ] {
            std::fs::write(&path, hostile).unwrap();
            assert!(Vocabulary::read(&path).is_err(), "{why}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_text_has_a_normal_form_without_outer_space(text in "\\PC{0,40}") {
            let normal = normalise(&text);
            prop_assert_eq!(normal.trim(), &normal);
            prop_assert!(!normal.contains(',') && !normal.contains("  "));
        }
    }
}
