//! Grad-CAM: which positions the channels that matter for a result are strong at (Selvaraju et al.,
//! ICCV 2017; `specs/itr.md` section 5.1).
//!
//! The published script of ITR smooths by the first singular vector, whose sign is arbitrary, so that its
//! maps may be inverted; here the sign is the one that agrees with the plain map (invariant C4).

/// Channels weighted by their mean gradient, `M_c = mean(G_c) A_c`, `[positions, channels]`.
fn weighted(activations: &[f32], gradients: &[f32], channels: usize) -> Vec<f64> {
    let channels = channels.max(1);
    let count = (gradients.len() / channels).max(1) as f64;
    let mut alpha = vec![0.0; channels];
    for row in gradients.chunks_exact(channels) {
        for (alpha, value) in alpha.iter_mut().zip(row) {
            *alpha += f64::from(*value) / count;
        }
    }
    let row = |row: &[f32]| {
        let pairs = row.iter().zip(&alpha);
        pairs
            .map(|(value, alpha)| f64::from(*value) * alpha)
            .collect::<Vec<_>>()
    };
    activations.chunks_exact(channels).flat_map(row).collect()
}

/// The plain map, `sum_c M_c`, `[positions]`: positive where a position speaks for the result.
///
/// # Shapes
/// - activations and gradients: `[positions, channels]`
#[must_use]
pub fn plain(activations: &[f32], gradients: &[f32], channels: usize) -> Vec<f32> {
    let weighted = weighted(activations, gradients, channels);
    let sums = weighted.chunks_exact(channels.max(1));
    sums.map(|row| row.iter().sum::<f64>() as f32).collect()
}

/// The map smoothed by its first principal component, `[positions]`: M with its column means taken off,
/// times its first right singular vector, of the sign whose correlation with the plain map is not
/// negative. Zeros where M is the same everywhere.
///
/// # Shapes
/// - activations and gradients: `[positions, channels]`
#[must_use]
pub fn smooth(activations: &[f32], gradients: &[f32], channels: usize) -> Vec<f32> {
    let channels = channels.max(1);
    let mut rows = weighted(activations, gradients, channels);
    let positions = rows.len() / channels;
    let sums: Vec<f64> = rows
        .chunks_exact(channels)
        .map(|row| row.iter().sum())
        .collect();
    for channel in 0..channels {
        let column = rows.iter().skip(channel).step_by(channels);
        let mean = column.sum::<f64>() / positions.max(1) as f64;
        for value in rows.iter_mut().skip(channel).step_by(channels) {
            *value -= mean;
        }
    }
    // Centred rows times the right vector are the left vector times its length: there are fewer
    // positions than channels as a rule, so the left one is looked for, in M M'.
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let at = |place: usize| rows.chunks_exact(channels).nth(place).unwrap_or(&[]);
    let gram: Vec<Vec<f64>> = (0..positions)
        .map(|i| (0..positions).map(|j| dot(at(i), at(j))).collect())
        .collect();
    let (value, vector) = leading(&gram);
    let length = value.max(0.0).sqrt();
    let map: Vec<f64> = vector.iter().map(|value| value * length).collect();
    let mean = sums.iter().sum::<f64>() / positions.max(1) as f64;
    let agreement: f64 = map.iter().zip(&sums).map(|(a, b)| a * (b - mean)).sum();
    let sign = if agreement < 0.0 { -1.0 } else { 1.0 };
    map.iter().map(|value| (sign * value) as f32).collect()
}

/// Largest eigenvalue of a symmetric matrix without negative ones, and its vector of length 1; zeros of a
/// matrix of zeros.
fn leading(matrix: &[Vec<f64>]) -> (f64, Vec<f64>) {
    /// Squarings: the second vector is weaker by (second / first) to the power of 2^16 then.
    const SQUARINGS: usize = 16;
    let count = matrix.len();
    let scaled = |matrix: Vec<Vec<f64>>| {
        let largest = matrix.iter().flatten().fold(0.0f64, |a, b| a.max(b.abs()));
        if largest <= 0.0 || !largest.is_finite() {
            return None;
        }
        let row = |row: Vec<f64>| row.into_iter().map(|value| value / largest).collect();
        Some(matrix.into_iter().map(row).collect::<Vec<Vec<f64>>>())
    };
    let zeros = (0.0, vec![0.0; count]);
    let Some(mut power) = scaled(matrix.to_vec()) else {
        return zeros;
    };
    for _ in 0..SQUARINGS {
        // Symmetric: a column is a row.
        let square = |a: &Vec<f64>| {
            let dot = |b: &Vec<f64>| a.iter().zip(b).map(|(a, b)| a * b).sum();
            power.iter().map(dot).collect()
        };
        match scaled(power.iter().map(square).collect()) {
            Some(next) if next == power => break,
            Some(next) => power = next,
            None => break,
        }
    }
    // Every row is a multiple of the vector by now; the longest has lost the least.
    let norm = |row: &[f64]| row.iter().map(|value| value * value).sum::<f64>().sqrt();
    let longest = power.iter().max_by(|a, b| norm(a).total_cmp(&norm(b)));
    let Some(vector) = longest.filter(|row| norm(row) > 0.0) else {
        return zeros;
    };
    let length = norm(vector);
    let vector: Vec<f64> = vector.iter().map(|value| value / length).collect();
    let times = |row: &Vec<f64>| row.iter().zip(&vector).map(|(a, b)| a * b).sum::<f64>();
    let value = matrix
        .iter()
        .map(times)
        .zip(&vector)
        .map(|(a, b)| a * b)
        .sum();
    (value, vector)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// C3 and C5 of `specs/itr.md` section 9.7.
    #[test]
    fn a_linear_toy_lights_only_what_it_reads() {
        // The score is w . token_j: its gradient is w at j and 0 elsewhere.
        let (positions, channels, read) = (6, 4, 2);
        let w = [0.5, -1.0, 2.0, 0.25];
        let mut activations = vec![0.0; positions * channels];
        let mut gradients = activations.clone();
        activations[read * channels..(read + 1) * channels].copy_from_slice(&w);
        gradients[read * channels..(read + 1) * channels].copy_from_slice(&w);
        for map in [
            plain(&activations, &gradients, channels),
            smooth(&activations, &gradients, channels),
        ] {
            let brightest = (0..positions).max_by(|a, b| map[*a].total_cmp(&map[*b]));
            assert_eq!(brightest, Some(read), "{map:?}");
            let others = map.iter().enumerate().filter(|(place, _)| *place != read);
            assert!(
                others.into_iter().all(|(_, value)| *value <= 1e-6),
                "{map:?}"
            );
        }
        let nothing = vec![0.0; positions * channels];
        assert_eq!(plain(&activations, &nothing, channels), [0.0; 6]);
        assert_eq!(smooth(&activations, &nothing, channels), [0.0; 6]);
        assert_eq!(smooth(&[], &[], 0), [0.0f32; 0]);
    }

    #[test]
    fn two_equal_components_do_not_stall() {
        let (value, vector) = leading(&[vec![2.0, 0.0], vec![0.0, 2.0]]);
        assert!((value - 2.0).abs() < 1e-12 && vector.iter().all(|v| v.is_finite()));
        assert_eq!(leading(&[]), (0.0, Vec::new()));
        assert_eq!(leading(&[vec![f64::NAN]]).1, [0.0]);
    }
}
