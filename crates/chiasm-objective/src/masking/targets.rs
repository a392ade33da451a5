//! What a batch is taught beside what it hides: classes of pairs, and what regions texts refer to.

use chiasm_data::RegionRows;
use chiasm_nn::boxes::in_pixels;

use crate::classification::ClassTargets;
use crate::config::{ClassLoss, ClassificationConfig};
use crate::grounding::GroundTargets;

/// The right classes of a batch on the host.
#[derive(Clone, Copy, Debug)]
pub struct ClassRows<'a> {
    /// For each sample its right classes and what each is worth.
    pub targets: &'a [Vec<(u32, f32)>],
    /// For each sample the part of all answers given that each of its classes is.
    pub shares: &'a [Vec<(u32, f32)>],
    /// Classes there are.
    pub classes: usize,
    /// How far the run has come, 0 to 1.
    pub progress: f64,
}

impl ClassRows<'_> {
    /// In the form that a loss takes: what each class is worth, its share of the answers, or the one
    /// that is worth most.
    pub(super) fn targets(self, batch: usize, config: &ClassificationConfig) -> ClassTargets {
        let rows = self.targets.iter().take(batch);
        match config.loss {
            ClassLoss::CrossEntropy => {
                let best = |targets: &Vec<(u32, f32)>| {
                    let best = targets
                        .iter()
                        .max_by(|a, b| a.1.total_cmp(&b.1).then(b.0.cmp(&a.0)));
                    best.map_or(0, |(class, _)| *class)
                };
                ClassTargets::Class(rows.map(best).collect())
            }
            ClassLoss::Divergence if self.progress < config.binary_from => {
                ClassTargets::Shares(self.dense(batch, self.shares))
            }
            ClassLoss::Divergence | ClassLoss::Binary => {
                ClassTargets::Worth(self.dense(batch, self.targets))
            }
        }
    }

    /// The values of all classes, `[batch, classes]`; 0 where none is given.
    fn dense(&self, batch: usize, rows: &[Vec<(u32, f32)>]) -> Vec<f32> {
        let mut dense = vec![0.0; batch * self.classes];
        for (values, row) in rows.iter().zip(dense.chunks_exact_mut(self.classes.max(1))) {
            for (class, value) in values {
                if let Some(place) = row.get_mut(*class as usize) {
                    *place = *value;
                }
            }
        }
        dense
    }
}

/// What the regions of the first `batch` images should be told of what their texts refer to; those of
/// texts that refer to nothing known are right nowhere.
pub(super) fn ground_targets(
    rows: &RegionRows,
    referred: &[Option<[f32; 4]>],
    batch: usize,
) -> GroundTargets {
    let mut start = 0;
    let pictures = rows
        .counts
        .iter()
        .zip(&rows.sizes)
        .zip(referred)
        .take(batch);
    let pictures = pictures.map(|((count, (width, height)), wanted)| {
        let size = [*width, *height].map(f64::from);
        let own = rows.boxes.get(start..start + count).unwrap_or_default();
        start += count;
        let nowhere = [f64::NEG_INFINITY; 4];
        let wanted = wanted.map_or(nowhere, |wanted| in_pixels(wanted, size));
        let own = own.iter().map(|region| in_pixels(*region, size));
        (own.collect(), wanted)
    });
    GroundTargets::of(&pictures.collect::<Vec<_>>())
}
