//! Precision, recall and F1 of classes; scikit-learn's `precision_recall_fscore_support` and `f1_score`.

use serde::{Deserialize, Serialize};

/// Figures of one class.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ClassF1 {
    /// The class, as a number.
    pub class: usize,
    /// Share of samples predicted as this class that are of it; 0 when none is predicted.
    pub precision: f64,
    /// Share of samples of this class that are predicted as it; 0 when there is none.
    pub recall: f64,
    /// Harmonic mean of both; 0 when undefined.
    pub f1: f64,
    /// Samples of this class.
    pub support: usize,
}

/// Figures of all classes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct F1 {
    /// Mean F1, classes weighted by their samples: the figure of `specs/itr.md` section 3.2.
    pub weighted: f64,
    /// Mean F1 over classes.
    pub macro_mean: f64,
    /// Share of right predictions.
    pub accuracy: f64,
    /// The classes that occur in truth or prediction, in order.
    pub classes: Vec<ClassF1>,
}

/// Compares predicted classes with the right ones, pair by pair; `None` of nothing.
///
/// ```
/// use chiasm_eval::metrics::f1::f1;
///
/// let figures = f1(&[0, 1, 2, 3, 0], &[0, 1, 2, 2, 1]).unwrap();
/// assert!((figures.weighted - 8.0 / 15.0).abs() < 1e-12);
/// ```
#[must_use]
pub fn f1(truth: &[usize], predicted: &[usize]) -> Option<F1> {
    f1_of(truth.iter().copied().zip(predicted.iter().copied()))
}

/// As [`f1`], of pairs of right and predicted class.
#[must_use]
pub fn f1_of(pairs: impl IntoIterator<Item = (usize, usize)>) -> Option<F1> {
    let mut counts: Vec<[usize; 3]> = Vec::new();
    let mut samples = 0;
    for (truth, predicted) in pairs {
        let classes = truth.max(predicted) + 1;
        if counts.len() < classes {
            counts.resize(classes, [0; 3]);
        }
        counts[truth][0] += 1;
        counts[predicted][1] += 1;
        counts[truth][2] += usize::from(truth == predicted);
        samples += 1;
    }
    if samples == 0 {
        return None;
    }
    let share = |part: usize, of: usize| match of {
        0 => 0.0,
        _ => part as f64 / of as f64,
    };
    let classes: Vec<ClassF1> = counts
        .iter()
        .enumerate()
        .filter(|(_, [support, predicted, _])| support + predicted > 0)
        .map(|(class, &[support, predicted, right])| ClassF1 {
            class,
            precision: share(right, predicted),
            recall: share(right, support),
            f1: share(2 * right, support + predicted),
            support,
        })
        .collect();
    let weighted = classes.iter().map(|class| class.f1 * class.support as f64);
    let right: usize = counts.iter().map(|[_, _, right]| right).sum();
    Some(F1 {
        weighted: weighted.sum::<f64>() / samples as f64,
        macro_mean: classes.iter().map(|class| class.f1).sum::<f64>() / classes.len() as f64,
        accuracy: share(right, samples),
        classes,
    })
}
