//! Position tables of another size than the model's: of pictures of another resolution, of texts
//! of another length.

use super::Reshaped;
use crate::config::VisionConfig;
use crate::weights::{HostTensor, StateDict, WeightError};

/// Most rows that a table is given; a picture of 4096 pixels in patches of 16 has as many.
const MAX_ROWS: usize = 1 << 16;

/// How a grid of positions is resampled. Always bicubic, with the outer edges of the two grids on
/// each other (`align_corners` off, in PyTorch's words).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Resampling {
    /// Widens the kernel when the grid shrinks, as DINOv2 with registers does.
    pub antialias: bool,
    /// Added to the new side where the step between samples is computed, but not to the number
    /// of samples: 0.1 in DINOv2 without registers, 0 elsewhere.
    pub offset: f64,
}

/// Resamples a table `[1 + grid grid, width]` whose row 0 belongs to the class token, and stays, to
/// `patches` rows behind it.
///
/// # Errors
/// Either number of patches is not a square, or the new one is too large.
pub fn resize_grid(
    table: &HostTensor,
    patches: usize,
    how: Resampling,
) -> Result<HostTensor, String> {
    let (rows, width) = matrix(table)?;
    let side = |count: usize| {
        let side = count.isqrt();
        (side > 0 && side * side == count)
            .then_some(side)
            .ok_or_else(|| format!("{count} patches are no square"))
    };
    let (from, to) = (side(rows.saturating_sub(1))?, side(patches)?);
    if patches > MAX_ROWS {
        return Err(format!("{patches} patches, at most {MAX_ROWS} are made"));
    }
    if from == to {
        return Ok(table.clone());
    }
    let taps = taps(from, to, how);
    let (class, grid) = table.values.split_at(width);
    // Rows of the grid first, then, in each of them, columns.
    let down = resample(grid, from * width, &taps);
    let mut values = class.to_vec();
    values.reserve(patches * width);
    for row in down.chunks_exact(from * width) {
        values.extend(resample(row, width, &taps).iter().map(|x| *x as f32));
    }
    Ok(HostTensor {
        shape: vec![1 + patches, width],
        values,
    })
}

/// Gives a table `[offset + length, width]` another length: a longer one is cut, a shorter one is
/// stretched, its first and its last position kept and linear between rows. The rows before
/// `offset` stay.
///
/// # Errors
/// The table has no position, or the new length is too large.
pub fn resize_length(
    table: &HostTensor,
    offset: usize,
    length: usize,
) -> Result<HostTensor, String> {
    let (rows, width) = matrix(table)?;
    let from = rows.saturating_sub(offset);
    if from == 0 || length == 0 || length > MAX_ROWS {
        return Err(format!("{from} positions cannot become {length}"));
    }
    let mut values = table.values.clone();
    values.truncate((offset + length) * width);
    if length > from {
        let (head, old) = table.values.split_at(offset * width);
        values = head.to_vec();
        values.reserve(length * width);
        let row = |at: usize| &old[at.min(from - 1) * width..][..width];
        for at in 0..length {
            let place = at as f64 * (from - 1) as f64 / (length - 1) as f64;
            let share = place.fract();
            let pair = row(place as usize).iter().zip(row(place as usize + 1));
            values.extend(
                pair.map(|(a, b)| (f64::from(*a) * (1.0 - share) + f64::from(*b) * share) as f32),
            );
        }
    }
    Ok(HostTensor {
        shape: vec![offset + length, width],
        values,
    })
}

/// [`resize_grid`] of a tensor of a state dict to a tower's number of patches, if it has another.
pub(super) fn fit_grid(
    state: &mut StateDict,
    name: &str,
    tower: &VisionConfig,
    how: Resampling,
) -> Result<Vec<Reshaped>, WeightError> {
    let (size, patch) = (tower.image_size, tower.patch_size);
    if !size.is_multiple_of(patch) {
        let problem = format!("pictures of {size} pixels have no whole patches of {patch}");
        return Err(WeightError::Config(problem));
    }
    fit(state, name, |table| {
        resize_grid(table, tower.num_patches(), how)
    })
}

/// [`resize_length`] of a tensor of a state dict, if its size is another.
pub(super) fn fit_length(
    state: &mut StateDict,
    name: &str,
    offset: usize,
    length: usize,
) -> Result<Vec<Reshaped>, WeightError> {
    fit(state, name, |table| resize_length(table, offset, length))
}

/// Gives a table more rows, copies of its last one, or takes the last ones away.
pub(super) fn fit_rows(
    state: &mut StateDict,
    name: &str,
    wanted: usize,
) -> Result<Vec<Reshaped>, WeightError> {
    fit(state, name, |table| {
        let (rows, width) = matrix(table)?;
        if rows == 0 || wanted > MAX_ROWS {
            return Err(format!("{rows} rows cannot become {wanted}"));
        }
        let last = table.values[(rows - 1) * width..].to_vec();
        let mut values = table.values.clone();
        values.truncate(wanted * width);
        while values.len() < wanted * width {
            values.extend(&last);
        }
        Ok(HostTensor {
            shape: vec![wanted, width],
            values,
        })
    })
}

fn fit(
    state: &mut StateDict,
    name: &str,
    resize: impl FnOnce(&HostTensor) -> Result<HostTensor, String>,
) -> Result<Vec<Reshaped>, WeightError> {
    let Some(table) = state.get_mut(name) else {
        return Ok(Vec::new());
    };
    let resized = resize(table).map_err(|problem| WeightError::Position {
        name: name.to_owned(),
        problem,
    })?;
    if resized.values.len() == table.values.len() {
        return Ok(Vec::new());
    }
    let from = std::mem::replace(table, resized).shape;
    Ok(vec![Reshaped {
        name: name.to_owned(),
        from,
        to: table.shape.clone(),
    }])
}

/// Rows and width of a table, whatever axes of length 1 stand before them.
fn matrix(table: &HostTensor) -> Result<(usize, usize), String> {
    match table.shape[..] {
        [ref ones @ .., rows, width]
            if ones.iter().all(|len| *len == 1)
                && width > 0
                && rows.checked_mul(width) == Some(table.values.len()) =>
        {
            Ok((rows, width))
        }
        _ => Err(format!("shape {:?} is no table", table.shape)),
    }
}

/// Which old samples make a new one, and how much of each.
type Taps = Vec<Vec<(usize, f64)>>;

fn taps(from: usize, to: usize, how: Resampling) -> Taps {
    let step = from as f64 / (to as f64 + how.offset);
    (0..to)
        .map(|at| {
            if how.antialias {
                wide_taps(from, step, at)
            } else {
                narrow_taps(from, step, at)
            }
        })
        .collect()
}

/// Four samples around the place of a new one; beyond the ends, the last sample again.
fn narrow_taps(from: usize, step: f64, at: usize) -> Vec<(usize, f64)> {
    let place = step * (at as f64 + 0.5) - 0.5;
    let first = place.floor();
    (-1..=2)
        .map(|tap| {
            let sample = (first + f64::from(tap)).clamp(0.0, (from - 1) as f64);
            let weight = cubic(place - first - f64::from(tap), -0.75);
            (sample as usize, weight)
        })
        .collect()
}

/// All samples under a kernel that is as wide as the step between new ones.
fn wide_taps(from: usize, step: f64, at: usize) -> Vec<(usize, f64)> {
    let scale = step.max(1.0);
    let centre = step * (at as f64 + 0.5);
    let first = (centre - 2.0 * scale + 0.5).max(0.0) as usize;
    let end = ((centre + 2.0 * scale + 0.5) as usize).min(from);
    let weight = |sample: usize| cubic((sample as f64 + 0.5 - centre) / scale, -0.5);
    let total: f64 = (first..end).map(weight).sum();
    (first..end)
        .map(|sample| (sample, weight(sample) / total))
        .collect()
}

/// Keys' cubic kernel; `a` is its slope at 1. PyTorch has -0.75, and -0.5 where it antialiases.
fn cubic(x: f64, a: f64) -> f64 {
    let x = x.abs();
    if x <= 1.0 {
        ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * a
    } else {
        0.0
    }
}

/// New rows as sums of old ones of length `width`.
fn resample<T: Copy + Into<f64>>(old: &[T], width: usize, taps: &Taps) -> Vec<f64> {
    let mut new = vec![0.0; taps.len() * width];
    for (row, taps) in new.chunks_exact_mut(width).zip(taps) {
        for (sample, weight) in taps {
            let old = &old[sample * width..][..width];
            for (sum, value) in row.iter_mut().zip(old) {
                *sum += weight * (*value).into();
            }
        }
    }
    new
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(rows: usize, width: usize) -> HostTensor {
        HostTensor {
            shape: vec![rows, width],
            values: (0..rows * width).map(|i| (i as f32 * 0.7).sin()).collect(),
        }
    }

    #[test]
    fn a_constant_stays_constant() {
        let mut constant = table(17, 3);
        constant.values[3..].fill(0.5);
        for (patches, antialias, offset) in [
            (9, false, 0.0),
            (49, false, 0.1),
            (4, true, 0.0),
            (100, true, 0.0),
        ] {
            let how = Resampling { antialias, offset };
            let resized = resize_grid(&constant, patches, how).unwrap();
            assert_eq!(resized.shape, [1 + patches, 3]);
            assert_eq!(resized.values[..3], constant.values[..3]);
            assert!(resized.values[3..].iter().all(|x| (x - 0.5).abs() < 1e-6));
        }
    }

    #[test]
    fn the_same_size_is_the_same_table() {
        let old = table(17, 3);
        let how = Resampling::default();
        assert_eq!(resize_grid(&old, 16, how).unwrap(), old);
        assert_eq!(resize_length(&old, 2, 15).unwrap(), old);
    }

    #[test]
    fn texts_are_cut_or_stretched() {
        let old = HostTensor {
            shape: vec![4, 1],
            values: vec![9.0, 0.0, 1.0, 4.0],
        };
        let resized = |length| resize_length(&old, 1, length).unwrap().values;
        assert_eq!(resized(2), [9.0, 0.0, 1.0]);
        assert_eq!(resized(5), [9.0, 0.0, 0.5, 1.0, 2.5, 4.0]);
    }

    #[test]
    fn what_is_no_grid_is_refused() {
        let how = Resampling::default();
        for (rows, patches) in [(1, 4), (4, 4), (5, 0), (5, 3), (5, 1 << 30)] {
            assert!(resize_grid(&table(rows, 2), patches, how).is_err());
        }
        for (offset, length) in [(5, 3), (0, 0), (usize::MAX, 3), (0, usize::MAX)] {
            assert!(resize_length(&table(5, 2), offset, length).is_err());
        }
        let mut broken = table(5, 2);
        broken.shape = vec![5, 0];
        assert!(resize_grid(&broken, 4, how).is_err());
    }
}
