//! What a result does as the places that a map names go and come (Petsiuk et al., BMVC 2018).

use chiasm_data::rng;

use crate::error::ExplainError;
use crate::methods::scores_without;
use crate::subject::{Input, Subject, Target};

/// Steps from all places to none.
pub const STEPS: usize = 10;

/// A result as places go and come, `STEPS + 1` values each.
#[derive(Clone, Debug, PartialEq)]
pub struct Curves {
    /// The strongest go first.
    pub deletion: Vec<f32>,
    /// The strongest come first.
    pub insertion: Vec<f32>,
}

/// Places of a map, the strongest first; equal ones in a random order of the stream of `row`, so that no
/// corner of the picture is preferred.
pub(crate) fn order(map: &[f32], row: u64) -> Vec<usize> {
    let mut stream = rng::stream(0, "order of equal places", &[row]);
    let mut places: Vec<(usize, f32, f64)> = map
        .iter()
        .enumerate()
        .map(|(place, value)| (place, *value, rng::unit_f64(&mut stream)))
        .collect();
    places.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.2.total_cmp(&b.2)));
    places.into_iter().map(|(place, ..)| place).collect()
}

/// The result as places go and come in an order. That of a match is a probability, others are as they are.
pub(crate) fn curves(
    subject: &Subject<'_>,
    input: &Input,
    target: &Target,
    order: &[usize],
) -> Result<Curves, ExplainError> {
    let first = |step: usize| order.len() * step / STEPS;
    let gone = |step: usize| order.get(..first(step)).unwrap_or_default().to_vec();
    let not_come = |step: usize| order.get(first(step)..).unwrap_or_default().to_vec();
    let mut sets: Vec<Vec<usize>> = (1..=STEPS).map(gone).collect();
    sets.extend((1..STEPS).map(not_come));
    let scores = scores_without(subject, input, target, &sets)?;
    let value = |score: f32| match (target, subject) {
        (Target::Match, Subject::Own(model)) if model.rank_head.is_none() => {
            1.0 / (1.0 + (-score).exp())
        }
        (Target::Hidden { .. }, _) => score.exp(),
        _ => score,
    };
    let values: Vec<f32> = scores.without.iter().map(|score| value(*score)).collect();
    let whole = value(scores.whole);
    let deleted = values.get(..STEPS).unwrap_or_default();
    let inserted = values.get(STEPS..).unwrap_or_default();
    let empty = deleted.last().copied().unwrap_or(whole);
    Ok(Curves {
        deletion: std::iter::once(whole)
            .chain(deleted.iter().copied())
            .collect(),
        insertion: [&[empty], inserted, &[whole]].concat(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_strongest_come_first_and_equal_ones_in_no_order() {
        assert_eq!(order(&[0.1, 0.9, 0.5], 0), [1, 2, 0]);
        let equal = order(&[0.0; 64], 3);
        let mut sorted = equal.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..64).collect::<Vec<_>>());
        assert_ne!(equal, sorted);
        assert_eq!(equal, order(&[0.0; 64], 3));
        assert_ne!(equal, order(&[0.0; 64], 4));
    }
}
