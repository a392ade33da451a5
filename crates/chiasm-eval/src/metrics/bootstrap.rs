//! An interval for any figure: the bootstrap (Efron 1979).

use chiasm_data::rng;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// A figure with its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// The figure of all samples.
    pub value: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// Resamples that an interval is taken from.
pub const RESAMPLES: usize = 1000;

/// The 2.5th and 97.5th percentiles of a figure over resamples drawn with replacement, widened to the figure of all
/// samples where that lies outside.
///
/// `units` are drawn together: the samples of one author or picture, which are not independent, or one sample each.
/// `figure` gets the places of samples; resamples for which it is `None` are passed over. The draws are those of `seed`.
pub fn interval(
    seed: u64,
    units: &[Vec<usize>],
    figure: impl Fn(&[usize]) -> Option<f64> + Sync,
) -> Option<Interval> {
    let all: Vec<usize> = units.iter().flatten().copied().collect();
    let value = figure(&all)?;
    let mut figures: Vec<f64> = (0..RESAMPLES as u64)
        .into_par_iter()
        .filter_map(|resample| {
            let mut rng = rng::stream(seed, "bootstrap", &[resample]);
            let draw = |_| units.get(rng::below(&mut rng, units.len()));
            let drawn: Vec<usize> = (0..units.len())
                .filter_map(draw)
                .flatten()
                .copied()
                .collect();
            figure(&drawn)
        })
        .collect();
    figures.sort_by(f64::total_cmp);
    let at = |share: f64| {
        let place = share * figures.len().saturating_sub(1) as f64;
        figures
            .get(place.round() as usize)
            .copied()
            .unwrap_or(value)
    };
    Some(Interval {
        value,
        low: at(0.025).min(value),
        high: at(0.975).max(value),
    })
}

/// Units of samples by what they have in common, in order of first occurrence.
pub fn units<'a>(groups: impl IntoIterator<Item = &'a str>) -> Vec<Vec<usize>> {
    let mut places = std::collections::HashMap::new();
    let mut units: Vec<Vec<usize>> = Vec::new();
    for (sample, group) in groups.into_iter().enumerate() {
        let place = *places.entry(group).or_insert_with(|| {
            units.push(Vec::new());
            units.len() - 1
        });
        units[place].push(sample);
    }
    units
}
