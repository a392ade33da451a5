//! Accuracy of answers to questions about pictures: VQA v2's official one (`specs/tbkin.md` section 6.1).
//!
//! A predicted answer is compared in its normal form ([`normalise`]). Answers of people lose punctuation only, and only
//! when they are not all the same: this is how the published evaluation compares, so an answer of people that is
//! written in another way than its normal form (`none`, `the dog`, a space at its end) cannot be matched.

use chiasm_data::answers::{normalise, without_punctuation};

/// Matches that make an answer worth all: min(matches / 3, 1).
const FULL_MATCHES: f64 = 3.0;

/// What a predicted answer is worth, 0 to 1, beside the `answers` people gave and how many gave each; `None` when
/// nobody gave one.
///
/// With several people it is the mean, over the ways to leave one of them out, of min(matches among the others / 3, 1).
/// Of ten people (VQA v2), 1, 2 and 3 matches give 0.3, 0.6 and 0.9, more give 1. Of two or three people not even
/// agreement gives 1. With one person alone (DAQUAR, GQA) it is 1 when both normal forms are the same, else 0.
///
/// ```
/// use chiasm_eval::metrics::answers::accuracy;
///
/// let people = [("dog".to_owned(), 8), ("cat".to_owned(), 2)];
/// assert_eq!(accuracy("A dog!", &people), Some(1.0));
/// assert_eq!(accuracy("cat", &people), Some(0.6));
/// assert_eq!(accuracy("dog", &[]), None);
/// ```
#[must_use]
pub fn accuracy(predicted: &str, answers: &[(String, u32)]) -> Option<f64> {
    let predicted = normalise(predicted);
    if is_exact_match(answers) {
        let mut given = answers.iter().filter(|(_, count)| *count > 0);
        let same = given.any(|(answer, _)| normalise(answer) == predicted);
        return Some(f64::from(u8::from(same)));
    }
    let people: u64 = answers.iter().map(|(_, count)| u64::from(*count)).sum();
    if people == 0 {
        return None;
    }
    let mut given = answers.iter().filter(|(_, count)| *count > 0);
    let first = given.next().map(|(answer, _)| answer);
    let all_same = given.all(|(answer, _)| Some(answer) == first);
    let is_match = |answer: &str| {
        if all_same {
            answer == predicted
        } else {
            without_punctuation(answer) == predicted
        }
    };
    let matching = answers.iter().filter(|(answer, _)| is_match(answer));
    let matches: u64 = matching.map(|(_, count)| u64::from(*count)).sum();
    let worth = |matches: u64| (matches as f64 / FULL_MATCHES).min(1.0);
    let (people, count) = (people as f64, matches as f64);
    // Whoever gave this answer sees one match fewer when left out.
    Some((count * worth(matches.saturating_sub(1)) + (people - count) * worth(matches)) / people)
}

/// Whether one person alone answered, so that [`accuracy`] is exact match.
#[must_use]
pub fn is_exact_match(answers: &[(String, u32)]) -> bool {
    answers
        .iter()
        .map(|(_, count)| u64::from(*count))
        .sum::<u64>()
        == 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use chiasm_data::answers::soft_score;
    use proptest::prelude::*;

    fn people(given: &[(&str, u32)]) -> Vec<(String, u32)> {
        given
            .iter()
            .map(|(text, count)| ((*text).to_owned(), *count))
            .collect()
    }

    #[test]
    fn ten_people_give_the_soft_score() {
        for matches in 0..=10_u32 {
            let given = people(&[("dog", matches), ("cat", 10 - matches)]);
            let worth = accuracy("dog", &given).unwrap();
            assert!(
                (worth - f64::from(soft_score(matches))).abs() < 1e-6,
                "{matches}: {worth}"
            );
        }
    }

    #[test]
    fn one_person_is_matched_exactly_and_nobody_by_nothing() {
        assert_eq!(accuracy("Two", &people(&[("2", 1)])), Some(1.0));
        assert_eq!(
            accuracy("2", &people(&[("the two", 1), ("x", 0)])),
            Some(1.0)
        );
        assert_eq!(
            accuracy("x", &people(&[("the two", 1), ("x", 0)])),
            Some(0.0)
        );
        assert_eq!(accuracy("x", &people(&[("x", 0)])), None);
        let huge = people(&[("dog", u32::MAX), ("cat", u32::MAX)]);
        assert_eq!(accuracy("dog", &huge), Some(1.0));
    }

    #[test]
    fn answers_of_people_keep_articles_and_numbers() {
        let mixed = people(&[("[none]", 6), ("a,b", 4)]);
        assert_eq!(accuracy("none", &mixed), Some(0.0));
        let same = people(&[("u.s.", 10)]);
        assert_eq!(
            accuracy("u.s.", &same),
            Some(0.0),
            "all the same: kept as given"
        );
        let mixed = people(&[("u.s.", 9), ("x", 1)]);
        assert_eq!(accuracy("u.s.", &mixed), Some(1.0));
    }

    proptest! {
        #[test]
        fn any_answers_have_a_worth_from_0_to_1(
            predicted in "\\PC{0,12}",
            given in proptest::collection::vec(("\\PC{0,6}|a|the b", any::<u32>()), 0..5),
        ) {
            let worth = accuracy(&predicted, &given);
            prop_assert!(worth.is_none_or(|worth| (0.0..=1.0).contains(&worth)), "{worth:?}");
            prop_assert_eq!(worth.is_none(), given.iter().all(|(_, count)| *count == 0));
        }
    }
}
