//! Classes that samples belong to: what a classifier is taught, and what it is measured against.
//!
//! Owns what an answer or a label is worth as a target. What counts as the same answer is
//! [`crate::answers`]' to say.

use std::collections::{BTreeMap, BTreeSet};

use crate::answers::{Vocabulary, soft_score};
use crate::dataset::{Annotations, Dataset, Sample};

/// Fewest people on whom the published scale for answers makes sense: it gives a whole point from
/// four equal answers on.
const FEWEST_FOR_SCALE: u32 = 4;

/// The classes a sample can belong to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Targets {
    /// Answers to the question that the text is. A sample may have several, each worth 0 to 1.
    Answers(Vocabulary),
    /// Labels; a sample has at most one, worth 1. No name stands twice.
    Labels(Vec<String>),
}

impl Targets {
    /// The labels that these samples have, each once, in order of the alphabet.
    pub fn labels<'a>(samples: impl IntoIterator<Item = &'a Sample>) -> Self {
        let samples = samples.into_iter();
        let names: BTreeSet<&str> = samples
            .filter_map(|sample| sample.annotations.label.as_deref())
            .collect();
        Self::Labels(names.into_iter().map(str::to_owned).collect())
    }

    /// Names of the classes; a class is a position among them.
    pub fn names(&self) -> &[String] {
        match self {
            Self::Answers(vocabulary) => vocabulary.answers(),
            Self::Labels(names) => names,
        }
    }

    /// Number of classes.
    pub fn len(&self) -> usize {
        self.names().len()
    }

    /// True when there are no classes.
    pub fn is_empty(&self) -> bool {
        self.names().is_empty()
    }

    /// The classes that are right for a sample and what each is worth, above 0 and up to 1, lowest
    /// class first. Empty when none is.
    ///
    /// Where four people or more were asked an answer is worth [`soft_score`] of how many gave it, the
    /// official accuracy of VQA v2. Where fewer were, that scale has no whole point to give, and an
    /// answer is worth the share of the people who gave it: 1 when the only one asked did.
    ///
    /// An answer counts as a whole. DAQUAR's `book, lamp` is one answer and another than `lamp, book`
    /// or `book`, as the papers on it classify.
    pub fn of(&self, sample: &Sample) -> Vec<(u32, f32)> {
        let own = &sample.annotations;
        match self {
            Self::Answers(vocabulary) => {
                let asked = asked(own);
                let worth = |count: u32| match asked < FEWEST_FOR_SCALE {
                    true => count as f32 / asked.max(1) as f32,
                    false => soft_score(count),
                };
                let counts = vocabulary.counts(&own.answers).into_iter();
                let targets = counts
                    .filter_map(|(class, count)| Some((u32::try_from(class).ok()?, worth(count))));
                targets.filter(|(_, worth)| *worth > 0.0).collect()
            }
            Self::Labels(names) => {
                let label = own.label.as_ref();
                let class = label.and_then(|label| names.iter().position(|name| name == label));
                let class = class.and_then(|class| u32::try_from(class).ok());
                class.map(|class| (class, 1.0)).into_iter().collect()
            }
        }
    }

    /// The classes of [`Self::of`], each with its part of all answers that were given; a label is all of
    /// them. Answers outside the vocabulary count as given.
    pub fn shares(&self, sample: &Sample) -> Vec<(u32, f32)> {
        let Self::Answers(vocabulary) = self else {
            return self.of(sample);
        };
        let asked = asked(&sample.annotations).max(1) as f32;
        let counts = vocabulary.counts(&sample.annotations.answers).into_iter();
        let share =
            |(class, count): (usize, u32)| Some((u32::try_from(class).ok()?, count as f32 / asked));
        let shares = counts.filter_map(share);
        shares.filter(|(_, share)| *share > 0.0).collect()
    }

    /// The class that most samples have, each by its best target: what a model that looks at nothing
    /// answers. Of equally frequent ones, and of equally good targets, the alphabetically first.
    /// `None` when no sample has a target.
    pub fn majority<'a>(&self, samples: impl IntoIterator<Item = &'a Sample>) -> Option<String> {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for sample in samples {
            let targets = self.of(sample).into_iter();
            let named = targets.filter_map(|(class, worth)| {
                let name = self.names().get(class as usize)?;
                Some((worth, name.as_str()))
            });
            let best = named.min_by(|one, other| {
                let better = other.0.total_cmp(&one.0);
                better.then_with(|| one.1.cmp(other.1))
            });
            if let Some((_, name)) = best {
                *counts.entry(name).or_default() += 1;
            }
        }
        let most = counts
            .into_iter()
            .min_by_key(|(_, count)| std::cmp::Reverse(*count));
        most.map(|(name, _)| name.to_owned())
    }
}

/// How many answers a question was given.
fn asked(annotations: &Annotations) -> u32 {
    let given = annotations.answers.iter().map(|answer| answer.count);
    let given = given.fold(0, u32::saturating_add);
    annotations.asked.unwrap_or(0).max(given)
}

impl Dataset {
    /// The samples with at least one target, in the same order, and how many were left out.
    pub fn answerable(&self, targets: &Targets) -> (Self, usize) {
        let samples = self.samples.iter();
        let samples: Vec<Sample> = samples
            .filter(|sample| !targets.of(sample).is_empty())
            .cloned()
            .collect();
        let left_out = self.len() - samples.len();
        let name = self.name.clone();
        (Self { name, samples }, left_out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::{Answer, ImageSource, Origin, Split};

    fn sample(answers: &[(&str, u32)], label: Option<&str>) -> Sample {
        let answers = answers.iter().map(|(text, count)| Answer {
            text: (*text).to_owned(),
            count: *count,
        });
        Sample {
            id: "s".to_owned(),
            visual: ImageSource::Static(b"x").into(),
            texts: vec!["what?".to_owned()],
            split: Split::Train,
            group: None,
            annotations: Annotations {
                answers: answers.collect(),
                label: label.map(str::to_owned),
                ..Annotations::default()
            },
            origin: Origin::default(),
        }
    }

    /// Each of these as often as it is to be before the next.
    fn vocabulary(answers: &[&str]) -> Targets {
        let samples: Vec<Sample> = (answers.iter().enumerate())
            .flat_map(|(place, answer)| vec![sample(&[(answer, 1)], None); answers.len() - place])
            .collect();
        Targets::Answers(Vocabulary::learn(&samples, 1))
    }

    #[test]
    fn what_answers_are_worth() {
        let targets = vocabulary(&["yes", "no", "maybe"]);
        assert_eq!(targets.names(), ["yes", "no", "maybe"]);
        for (given, worth) in [
            (&[("no", 1)][..], &[(1, 1.0)][..]),
            (&[("no", 2)], &[(1, 1.0)]),
            (&[("no", 1), ("Yes.", 1)], &[(0, 0.5), (1, 0.5)]),
            (
                &[("no", 1), ("a no", 1), ("yes", 1)],
                &[(0, 1.0 / 3.0), (1, 2.0 / 3.0)],
            ),
            // One of two was asked and said something else.
            (&[("no", 1), ("perhaps", 1)], &[(1, 0.5)]),
            // From four on the scale of ten.
            (&[("no", 3), ("perhaps", 1)], &[(1, 0.9)]),
            (
                &[("no", 6), ("maybe", 3), ("yes", 1)],
                &[(0, 0.3), (1, 1.0), (2, 0.9)],
            ),
            (&[("perhaps", 10)], &[]),
            (&[("no", 0)], &[]),
            (
                &[("no", u32::MAX), ("yes", u32::MAX)],
                &[(0, 1.0), (1, 1.0)],
            ),
            (&[], &[]),
        ] {
            assert_eq!(targets.of(&sample(given, None)), worth, "{given:?}");
        }
        // Ten were asked, and one answer was kept.
        let mut kept = sample(&[("no", 1)], None);
        kept.annotations.asked = Some(10);
        assert_eq!(targets.of(&kept), [(1, 0.3)]);
    }

    #[test]
    fn shares_are_of_all_answers() {
        let targets = vocabulary(&["yes", "no", "maybe"]);
        let given = sample(&[("no", 6), ("perhaps", 3), ("yes", 1)], None);
        assert_eq!(targets.shares(&given), [(0, 0.1), (1, 0.6)]);
        assert_eq!(targets.shares(&sample(&[], None)), []);
    }

    #[test]
    fn an_answer_of_several_words_is_one() {
        let targets = vocabulary(&["book, lamp", "lamp"]);
        assert_eq!(targets.of(&sample(&[("book, lamp", 1)], None)), [(0, 1.0)]);
        assert_eq!(targets.of(&sample(&[("lamp, book", 1)], None)), []);
        assert_eq!(targets.of(&sample(&[("lamp", 1)], None)), [(1, 1.0)]);
    }

    #[test]
    fn labels_majority_and_what_can_be_answered() {
        let labels = [
            Some("true"),
            Some("false"),
            None,
            Some("false"),
            Some("true"),
        ];
        let samples = labels.map(|label| sample(&[], label));
        let targets = Targets::labels(&samples);
        assert_eq!(targets.names(), ["false", "true"]);
        assert_eq!((targets.len(), targets.is_empty()), (2, false));
        assert_eq!(targets.of(&samples[0]), [(1, 1.0)]);
        assert_eq!(targets.of(&sample(&[], Some("maybe"))), []);
        assert_eq!(targets.majority(&samples).as_deref(), Some("false"));
        assert_eq!(targets.majority(&samples[..1]).as_deref(), Some("true"));
        assert_eq!(targets.majority(&samples[2..3]), None);
        let set = Dataset {
            name: "t".to_owned(),
            samples: samples.to_vec(),
        };
        let (left, out) = set.answerable(&targets);
        assert_eq!((left.len(), left.name.as_str(), out), (4, "t", 1));
        let none = Targets::labels(&samples[2..3]);
        assert!(none.is_empty());
        assert_eq!(set.answerable(&none).1, 5);
        // The best answer of each sample counts, of equally good ones the alphabetically first.
        let targets = vocabulary(&["yes", "no"]);
        let tied = [
            sample(&[("yes", 1), ("no", 1)], None),
            sample(&[("yes", 6), ("no", 3)], None),
        ];
        assert_eq!(targets.majority(&tied[..1]).as_deref(), Some("no"));
        assert_eq!(targets.majority(&tied[1..]).as_deref(), Some("yes"));
    }
}
