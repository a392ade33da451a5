//! A step of several ranks: features of the others, gradients and figures added up.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use burn::tensor::{Device, Tensor, TensorData};
use chiasm_nn::VisionLanguageModel;
use chiasm_nn::model::Stage;
use chiasm_nn::weights::{state_dict, trained_parameters};
use chiasm_objective::Gather;
use chiasm_ranks::{RankError, Ranks};

use crate::gradients::GradientSum;

/// The ranks as losses see them. A loss cannot fail: after an error it gets nothing from the others, and
/// whoever asked for it looks at [`Ranks::broken`].
pub(crate) struct Together<'a>(pub(crate) &'a Ranks);

impl Gather for Together<'_> {
    fn processes(&self) -> usize {
        self.0.count()
    }

    fn others(&self, own: &Tensor<2>) -> [Tensor<2>; 2] {
        let [_, width] = own.dims();
        let device = own.device();
        let given = match own.clone().inner().try_into_vec_as::<f32>() {
            Ok(values) => self.0.gather("features", bytemuck::cast_slice(&values)),
            Err(error) => {
                self.0.fail(&error.to_string());
                Ok(Vec::new())
            }
        };
        let given = given.unwrap_or_default();
        let rank = self.0.rank();
        let before = given.get(..rank).unwrap_or_default();
        let after = given.get(rank + 1..).unwrap_or_default();
        [before, after].map(|theirs| {
            let values: Vec<f32> = bytemuck::pod_collect_to_vec(&theirs.concat());
            let rows = values.len().checked_div(width).unwrap_or(0);
            Tensor::from_data(TensorData::new(values, [rows, width]), &device)
        })
    }

    fn share(&self, own: &[f64]) -> Vec<f64> {
        let given = self.0.gather("similarities", bytemuck::cast_slice(own));
        let given = given.unwrap_or_default().into_iter();
        given
            .flat_map(|theirs| bytemuck::pod_collect_to_vec::<u8, f64>(&theirs))
            .collect()
    }

    fn totals(&self, own: &[usize]) -> Vec<usize> {
        let counts: Vec<u64> = own.iter().map(|count| *count as u64).collect();
        let Ok(given) = self.0.gather("counts", bytemuck::cast_slice(&counts)) else {
            return own.to_vec();
        };
        let mut totals = vec![0; own.len()];
        for theirs in given {
            let theirs: Vec<u64> = bytemuck::pod_collect_to_vec(&theirs);
            for (total, count) in totals.iter_mut().zip(theirs) {
                *total += count as usize;
            }
        }
        totals
    }
}

/// The sum of all ranks' numbers, `[n]`, computed where they lie: by NCCL between GPUs. Every rank calls it with as many
/// numbers, and equally often.
pub type DeviceSum = dyn Fn(Tensor<1>) -> Result<Tensor<1>, RankError> + Send + Sync;

/// What adds up the gradients of all ranks.
#[derive(Clone, Copy)]
pub(crate) struct Adder<'a> {
    pub(crate) ranks: &'a Ranks,
    /// Without it, numbers go through this process's memory.
    pub(crate) on_device: Option<&'a DeviceSum>,
    /// The device of the parameters.
    pub(crate) device: &'a Device,
}

/// What [`Adder::add_up`] gives.
pub(crate) struct Added {
    /// The gradients of all ranks.
    pub(crate) sum: GradientSum,
    /// Time that exchanges took while the own backward pass went on.
    pub(crate) behind: Duration,
}

/// The stage whose end is that of the backward pass.
pub(crate) const LAST: Stage = Stage::Text;

/// Gradients of a stage's parameters: name, length, and the own gradient where there is one.
type Own<G> = Vec<(String, usize, Option<G>)>;

impl Adder<'_> {
    /// The gradients of all ranks added up, and in `figures` their sums, while the own are computed: `backward` gives them
    /// to its argument as stages come to their end, and what is known of a stage then travels behind it.
    ///
    /// Whatever ranks have in a step, they exchange the same: for each stage every parameter that is trained, in the order
    /// of the model, whether it has a gradient here or not, and who has one; with the last stage the figures.
    ///
    /// # Errors
    /// As [`Ranks::sum`].
    pub(crate) fn add_up(
        self,
        model: &VisionLanguageModel,
        figures: &mut [f32],
        backward: impl FnOnce(&mut dyn FnMut(Stage, GradientSum)),
    ) -> Result<Added, RankError> {
        let trained = trained_parameters(model);
        let waited = self.ranks.waited();
        std::thread::scope(|scope| {
            let (outbox, inbox) = channel();
            let adding = scope.spawn(move || match self.on_device {
                Some(sum) => {
                    let device = self.device.clone().without_autodiff();
                    let add = |own, figures: &mut _| self.on_device(sum, &device, own, figures);
                    let unpack = |found: GradientSum| found.into_tensors(&device);
                    stage_by_stage(inbox, &trained, figures, unpack, add).map(GradientSum::Tensors)
                }
                None => {
                    let add = |own, figures: &mut _| self.in_memory(own, figures);
                    stage_by_stage(inbox, &trained, figures, GradientSum::into_host, add)
                        .map(|summed| GradientSum::of_host(summed, self.device))
                }
            });
            // Where the thread has ended, it did so with an error, which is told below.
            backward(&mut |stage, found| drop(outbox.send((stage, found))));
            drop(outbox);
            let start = Instant::now();
            let sum = match adding.join() {
                Ok(sum) => sum?,
                Err(panic) => std::panic::resume_unwind(panic),
            };
            Ok(Added {
                sum,
                behind: (self.ranks.waited() - waited).saturating_sub(start.elapsed()),
            })
        })
    }

    fn in_memory(
        self,
        own: Own<Vec<f32>>,
        figures: &mut [f32],
    ) -> Result<Vec<(String, Vec<f32>)>, RankError> {
        let mut present = present(&own);
        let whole = |(name, len, values): (_, _, Option<_>)| {
            (name, values.unwrap_or_else(|| vec![0.0; len]))
        };
        let mut all: Vec<(String, Vec<f32>)> = own.into_iter().map(whole).collect();
        let mut parts: Vec<&mut [f32]> = Vec::with_capacity(all.len() + 2);
        parts.extend(all.iter_mut().map(|(_, values)| values.as_mut_slice()));
        parts.extend([present.as_mut_slice(), figures]);
        self.ranks.sum(GRADIENTS, &mut parts)?;
        let all = all.into_iter().zip(present);
        Ok(all
            .filter(|(_, of)| *of > 0.0)
            .map(|(own, _)| own)
            .collect())
    }

    fn on_device(
        self,
        sum: &DeviceSum,
        device: &Device,
        own: Own<Tensor<1>>,
        figures: &mut [f32],
    ) -> Result<Vec<(String, Tensor<1>)>, RankError> {
        let mut present = present(&own);
        // Before anything that waits without end for a rank that is gone.
        self.ranks.sum(GRADIENTS, &mut [&mut present, figures])?;
        let all = own.into_iter().zip(present);
        let all = all.filter(|(_, of)| *of > 0.0).map(|(own, _)| own);
        let (mut names, mut lens, mut values) = (Vec::new(), Vec::new(), Vec::new());
        for (name, len, own) in all {
            names.push(name);
            lens.push(len);
            values.push(own.unwrap_or_else(|| Tensor::zeros([len], device)));
        }
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let summed = self.ranks.waiting(|| sum(Tensor::cat(values, 0)))?;
        Ok(names
            .into_iter()
            .zip(summed.split_with_sizes(lens, 0))
            .collect())
    }
}

/// What errors call an exchange of gradients.
const GRADIENTS: &str = "gradients";

/// 1 for each parameter that has a gradient, 0 for the others.
fn present<G>(own: &Own<G>) -> Vec<f32> {
    let has = |own: &(_, _, Option<G>)| f32::from(u8::from(own.2.is_some()));
    own.iter().map(has).collect()
}

/// Gives `add` the own gradients of one stage after another, as soon as those of the stage are there, and collects what it
/// returns.
fn stage_by_stage<G>(
    inbox: Receiver<(Stage, GradientSum)>,
    trained: &[(String, usize)],
    figures: &mut [f32],
    unpack: impl Fn(GradientSum) -> BTreeMap<String, G>,
    mut add: impl FnMut(Own<G>, &mut [f32]) -> Result<Vec<(String, G)>, RankError>,
) -> Result<BTreeMap<String, G>, RankError> {
    let (mut own, mut summed) = (BTreeMap::new(), BTreeMap::new());
    let mut add_stage = |stage, own: &mut BTreeMap<String, G>| {
        let all = trained.iter().filter(|(name, _)| Stage::of(name) == stage);
        let all = all.map(|(name, len)| (name.clone(), *len, own.remove(name)));
        let figures = match stage {
            LAST => &mut *figures,
            _ => &mut [],
        };
        summed.extend(add(all.collect(), figures)?);
        Ok(())
    };
    let mut stages = Stage::ALL.into_iter().peekable();
    for (done, found) in inbox {
        own.append(&mut unpack(found));
        while let Some(stage) = stages.next_if(|stage| *stage <= done && *stage < LAST) {
            add_stage(stage, &mut own)?;
        }
    }
    for stage in stages {
        add_stage(stage, &mut own)?;
    }
    Ok(summed)
}

/// Steps from one comparison of the ranks' pace to the next.
const PACE_EVERY: u64 = 50;
/// How many times as long as the others' a rank's step takes when it is named.
const SLOW: f64 = 1.3;

/// How long a rank works on a step, without waiting for others.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    busy: f64,
    steps: u64,
}

/// A rank that all others wait for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SlowRank {
    /// The rank.
    pub rank: usize,
    /// Seconds of its work on a step.
    pub seconds: f64,
    /// The median of the others'.
    pub others: f64,
}

impl Pace {
    /// Counts a step with so many seconds of work.
    pub(crate) fn step(&mut self, seconds: f64) {
        self.busy += seconds;
        self.steps += 1;
    }

    /// The slowest rank, now and then, where it is much slower than the others.
    ///
    /// # Errors
    /// As [`Ranks::gather`].
    pub(crate) fn slowest(&mut self, ranks: &Ranks) -> Result<Option<SlowRank>, RankError> {
        if ranks.count() == 1 || self.steps < PACE_EVERY {
            return Ok(None);
        }
        let own = self.busy / self.steps as f64;
        (self.busy, self.steps) = (0.0, 0);
        let given = ranks.gather("pace", &own.to_le_bytes())?;
        let seconds = |bytes: &Vec<u8>| bytes.first_chunk().map(|bytes| f64::from_le_bytes(*bytes));
        let mut paces: Vec<(f64, usize)> = given
            .iter()
            .enumerate()
            .filter_map(|(rank, bytes)| Some((seconds(bytes)?, rank)))
            .collect();
        paces.sort_by(|a, b| a.0.total_cmp(&b.0));
        let Some((seconds, rank)) = paces.pop() else {
            return Ok(None);
        };
        let others = paces.get(paces.len() / 2).map_or(seconds, |(own, _)| *own);
        Ok((seconds > SLOW * others).then_some(SlowRank {
            rank,
            seconds,
            others,
        }))
    }
}

/// Changes with any bit of any weight.
pub(crate) fn digest(model: &VisionLanguageModel) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    for (name, tensor) in state_dict(model) {
        hasher.update(name.as_bytes());
        hasher.update(bytemuck::cast_slice(&tensor.values));
    }
    hasher.finalize().into()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use chiasm_ranks::threads;

    use super::*;

    /// What ranks that work so many seconds on each step say of the slowest.
    fn slowest(seconds: &[f64]) -> Vec<Option<SlowRank>> {
        std::thread::scope(|scope| {
            let ranks = threads(seconds.len()).into_iter().zip(seconds);
            let spawn = |(link, seconds): (_, &f64)| {
                let seconds = *seconds;
                scope.spawn(move || {
                    let limit = Duration::from_secs(60);
                    let ranks = Ranks::new(Box::new(link), limit, Arc::default());
                    let mut pace = Pace::default();
                    for _ in 1..PACE_EVERY {
                        pace.step(seconds);
                    }
                    assert_eq!(pace.slowest(&ranks).unwrap(), None);
                    pace.step(seconds);
                    pace.slowest(&ranks).unwrap()
                })
            };
            let threads: Vec<_> = ranks.map(spawn).collect();
            let found = threads.into_iter().map(|thread| thread.join().unwrap());
            found.collect()
        })
    }

    #[test]
    fn a_slow_rank_is_named_on_all() {
        for found in slowest(&[0.5, 0.5, 2.0, 0.75]) {
            let found = found.unwrap();
            assert_eq!((found.rank, found.others), (2, 0.5));
            assert!((found.seconds - 2.0).abs() < 1e-9);
        }
        assert_eq!(slowest(&[0.5, 0.6]), [None, None]);
        assert_eq!(slowest(&[0.5]), [None]);
    }
}
