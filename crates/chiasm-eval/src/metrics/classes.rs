//! Right and wrong classes: confusion counts, and the accuracy and consistency of NLVR2.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::interval::{Accuracy, Tally};

/// Whether a class is the right one. Upper and lower case are the same, as in NLVR2's evaluation.
#[must_use]
pub fn is_right(predicted: &str, label: &str) -> bool {
    predicted.eq_ignore_ascii_case(label)
}

/// How often samples of one class were taken for another, or for itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Confusion {
    /// The right class.
    pub label: String,
    /// The class predicted.
    pub predicted: String,
    /// Samples.
    pub count: usize,
}

/// Counts pairs of right and predicted class, sorted by both; pairs that never occur are left out.
pub fn confusion<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Vec<Confusion> {
    let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for pair in pairs {
        *counts.entry(pair).or_default() += 1;
    }
    counts
        .into_iter()
        .map(|((label, predicted), count)| Confusion {
            label: label.to_owned(),
            predicted: predicted.to_owned(),
            count,
        })
        .collect()
}

/// The statement of an official NLVR2 identifier, `split-set-pair-sentence`: all of it but the pair of pictures that it
/// is said of. `None` for any other identifier.
///
/// ```
/// use chiasm_eval::metrics::classes::statement_of;
///
/// assert_eq!(statement_of("dev-850-0-1"), statement_of("dev-850-3-1"));
/// assert_ne!(statement_of("dev-850-0-1"), statement_of("dev-850-0-0"));
/// assert_eq!(statement_of("850"), None);
/// ```
#[must_use]
pub fn statement_of(identifier: &str) -> Option<[&str; 3]> {
    let parts: Vec<&str> = identifier.split('-').collect();
    let &[split, set, pair, sentence] = parts.as_slice() else {
        return None;
    };
    let is_number =
        |part: &&str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    (!split.is_empty() && [set, pair, sentence].iter().all(is_number))
        .then_some([split, set, sentence])
}

/// NLVR2's consistency: the share of statements that are judged rightly of every pair of pictures. Takes the statement
/// of every sample and whether it was judged rightly; `None` of nothing.
pub fn consistency<S: Ord>(judged: impl IntoIterator<Item = (S, bool)>) -> Option<Accuracy> {
    let mut statements: BTreeMap<S, bool> = BTreeMap::new();
    for (statement, right) in judged {
        *statements.entry(statement).or_insert(true) &= right;
    }
    let all_right = statements.values().map(|&right| f64::from(u8::from(right)));
    all_right.collect::<Tally>().accuracy()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn confusions_are_counted_and_sorted() {
        let counts = confusion([("b", "a"), ("a", "a"), ("b", "a"), ("a", "b")]);
        let counts: Vec<_> = counts
            .iter()
            .map(|entry| (&*entry.label, &*entry.predicted, entry.count))
            .collect();
        assert_eq!(counts, [("a", "a", 1), ("a", "b", 1), ("b", "a", 2)]);
    }

    #[test]
    fn only_official_identifiers_name_a_statement() {
        assert_eq!(statement_of("test1-12-3-1"), Some(["test1", "12", "1"]));
        for other in [
            "",
            "dev-1-2",
            "dev-1-2-3-4",
            "dev-1--3",
            "-1-2-3",
            "dev-a-2-3",
            "dev-1-2-3#1",
        ] {
            assert_eq!(statement_of(other), None, "{other}");
        }
    }

    #[test]
    fn one_wrong_pair_spoils_a_statement() {
        let judged = [("a", true), ("b", true), ("a", false), ("c", true)];
        let share = consistency(judged).unwrap();
        assert_eq!((share.mean, share.samples), (2.0 / 3.0, 3));
        assert_eq!(consistency::<u8>([]), None);
    }
}
