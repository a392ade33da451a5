//! Figures of order: the area under the ROC curve, Kendall's tau and Spearman's rho. A value that is not finite makes
//! each of them `None`.

/// The probability that a positive has a higher score than a negative, ties counted as half (Mann and Whitney);
/// scikit-learn's `roc_auc_score`. `None` unless there are positives and negatives.
///
/// ```
/// use chiasm_eval::metrics::rank::auroc;
///
/// assert_eq!(auroc(&[false, true, true], &[0.1, 0.1, 0.9]), Some(0.75));
/// ```
#[must_use]
pub fn auroc(positive: &[bool], scores: &[f64]) -> Option<f64> {
    let ranks = ranks(scores)?;
    if positive.len() != scores.len() {
        return None;
    }
    let positives = positive.iter().filter(|positive| **positive).count();
    let negatives = positive.len() - positives;
    if positives == 0 || negatives == 0 {
        return None;
    }
    let own = positive
        .iter()
        .zip(&ranks)
        .filter(|(positive, _)| **positive);
    let sum: f64 = own.map(|(_, rank)| rank).sum();
    let least = (positives * (positives + 1)) as f64 / 2.0;
    Some((sum - least) / (positives as f64 * negatives as f64))
}

/// Spearman's rank correlation: Pearson's of the ranks, ties with their mean rank; SciPy's `spearmanr`. `None` when one
/// side is constant or has fewer than two values.
#[must_use]
pub fn spearman(a: &[f64], b: &[f64]) -> Option<f64> {
    if a.len() != b.len() || a.len() < 2 {
        return None;
    }
    let (a, b) = (ranks(a)?, ranks(b)?);
    let mean = (a.len() + 1) as f64 / 2.0;
    let (mut both, mut of_a, mut of_b) = (0.0, 0.0, 0.0);
    for (a, b) in a.iter().zip(&b) {
        let (a, b) = (a - mean, b - mean);
        both += a * b;
        of_a += a * a;
        of_b += b * b;
    }
    (of_a > 0.0 && of_b > 0.0).then(|| both / (of_a.sqrt() * of_b.sqrt()))
}

/// Kendall's tau-b, which corrects for ties; SciPy's `kendalltau`. `None` when one side is constant or has fewer than
/// two values.
///
/// Takes `n log n` steps (Knight 1966): sorted by one side, pairs in the wrong order are the exchanges of a merge sort by
/// the other.
///
/// ```
/// use chiasm_eval::metrics::rank::kendall;
///
/// let tau = kendall(&[1.0, 2.0, 3.0, 4.0], &[1.0, 3.0, 2.0, 4.0]).unwrap();
/// assert!((tau - 2.0 / 3.0).abs() < 1e-12);
/// ```
#[must_use]
pub fn kendall(a: &[f64], b: &[f64]) -> Option<f64> {
    let finite = |values: &[f64]| values.iter().all(|value| value.is_finite());
    if a.len() != b.len() || a.len() < 2 || !finite(a) || !finite(b) {
        return None;
    }
    // 0.0 and -0.0 are one value.
    let mut pairs: Vec<(f64, f64)> = a.iter().zip(b).map(|(a, b)| (a + 0.0, b + 0.0)).collect();
    pairs.sort_unstable_by(|x, y| x.0.total_cmp(&y.0).then(x.1.total_cmp(&y.1)));
    let tied_a = tied(&pairs, |x, y| x.0 == y.0);
    let tied_both = tied(&pairs, |x, y| x == y);
    let mut values: Vec<f64> = pairs.iter().map(|pair| pair.1).collect();
    let exchanges = sort_counting(&mut values);
    let tied_b = tied(&values, |x, y| x == y);
    let all = choose_two(a.len());
    let (of_a, of_b) = (all - tied_a, all - tied_b);
    if of_a == 0.0 || of_b == 0.0 {
        return None;
    }
    let agreement = all - tied_a - tied_b + tied_both - 2.0 * exchanges;
    Some((agreement / (of_a.sqrt() * of_b.sqrt())).clamp(-1.0, 1.0))
}

fn choose_two(count: usize) -> f64 {
    count as f64 * (count as f64 - 1.0) / 2.0
}

/// Pairs that are equal, in a sorted list.
fn tied<T>(sorted: &[T], equal: impl Fn(&T, &T) -> bool) -> f64 {
    let runs = sorted.chunk_by(|x, y| equal(x, y));
    runs.map(|run| choose_two(run.len())).sum()
}

/// Sorts; returns the number of pairs that were in the wrong order.
fn sort_counting(values: &mut [f64]) -> f64 {
    let middle = values.len() / 2;
    if middle == 0 {
        return 0.0;
    }
    let (left, right) = values.split_at_mut(middle);
    let mut exchanges = sort_counting(left) + sort_counting(right);
    let mut merged = Vec::with_capacity(left.len() + right.len());
    let (mut i, mut j) = (0, 0);
    while i < left.len() && j < right.len() {
        if right[j] < left[i] {
            exchanges += (left.len() - i) as f64;
            merged.push(right[j]);
            j += 1;
        } else {
            merged.push(left[i]);
            i += 1;
        }
    }
    merged.extend_from_slice(&left[i..]);
    merged.extend_from_slice(&right[j..]);
    values.copy_from_slice(&merged);
    exchanges
}

/// Ranks from 1, ties with the mean of theirs; `None` when a value is not finite.
fn ranks(values: &[f64]) -> Option<Vec<f64>> {
    if !values.iter().all(|value| value.is_finite()) {
        return None;
    }
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| (values[*a] + 0.0).total_cmp(&(values[*b] + 0.0)));
    let mut ranks = vec![0.0; values.len()];
    let mut before = 0;
    for run in order.chunk_by(|a, b| values[*a] == values[*b]) {
        let mean = before as f64 + (run.len() + 1) as f64 / 2.0;
        run.iter().for_each(|place| ranks[*place] = mean);
        before += run.len();
    }
    Some(ranks)
}
