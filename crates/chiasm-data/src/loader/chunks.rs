//! An epoch in chunks: runs of batches that share what was found about their samples beforehand
//! (`specs/itr.md` section 2.2).

use std::ops::Range;

/// A chunk of an epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Its number, counted from the first of the first epoch.
    pub number: u64,
    /// The steps that it is trained on.
    pub steps: Range<u64>,
    /// Its samples by their index in the data set, in the order of the batches.
    pub samples: Vec<usize>,
}

/// Where the batches of an epoch lie.
///
/// An epoch is divided evenly into the whole number of chunks whose size comes nearest to the wanted one;
/// batches do not reach over the end of a chunk, so the last one of each may be smaller. No sample is left
/// out. 100,000 samples in chunks of 5,000 and batches of 32 are 20 chunks of 157 batches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    batch_size: usize,
    /// First sample of each chunk, and the end.
    samples: Vec<usize>,
    /// First batch of each chunk, and the end.
    steps: Vec<u64>,
}

impl Layout {
    pub(super) fn new(samples: usize, batch_size: usize, chunk: usize) -> Self {
        let (batch_size, chunk) = (batch_size.max(1), chunk.max(1));
        let chunks = ((samples + chunk / 2) / chunk).max(1);
        let samples: Vec<usize> = (0..=chunks)
            .map(|number| (number as u128 * samples as u128 / chunks as u128) as usize)
            .collect();
        let mut steps = vec![0u64];
        let mut end = 0;
        for bounds in samples.windows(2) {
            let [first, last] = bounds else { continue };
            end += (last - first).div_ceil(batch_size) as u64;
            steps.push(end);
        }
        Self {
            batch_size,
            samples,
            steps,
        }
    }

    /// Batches of an epoch.
    pub(super) fn steps_per_epoch(&self) -> u64 {
        self.steps.last().copied().unwrap_or(0).max(1)
    }

    /// The chunk of an epoch that a batch of it is in, and where its samples and its batches lie.
    fn chunk(&self, step: u64) -> (usize, Range<usize>, Range<u64>) {
        let chunks = self.samples.len().saturating_sub(2);
        let number = self.steps.partition_point(|first| *first <= step);
        let number = number.saturating_sub(1).min(chunks);
        let at = |number: usize| self.samples.get(number).copied().unwrap_or(0);
        let step_at = |number: usize| self.steps.get(number).copied().unwrap_or(0);
        (
            number,
            at(number)..at(number + 1),
            step_at(number)..step_at(number + 1),
        )
    }

    /// Where the samples of a batch of an epoch lie in its order.
    pub(super) fn batch(&self, step: u64) -> Range<usize> {
        let (_, samples, steps) = self.chunk(step);
        let within = usize::try_from(step.saturating_sub(steps.start)).unwrap_or(usize::MAX);
        let first = samples.start + within.saturating_mul(self.batch_size);
        let first = first.min(samples.end);
        first..(first + self.batch_size).min(samples.end)
    }

    /// The chunk that a step of a run is in; `order` gives the order of an epoch.
    pub(super) fn of_run(&self, step: u64, order: impl Fn(u64) -> Vec<usize>) -> Chunk {
        let per_epoch = self.steps_per_epoch();
        let (epoch, step) = (step / per_epoch, step % per_epoch);
        let (number, samples, steps) = self.chunk(step);
        let chunks = self.samples.len().saturating_sub(1) as u64;
        let before = epoch * per_epoch;
        Chunk {
            number: epoch * chunks + number as u64,
            steps: before + steps.start..before + steps.end,
            samples: order(epoch).get(samples).unwrap_or_default().to_vec(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// P1 of `specs/itr.md` section 9.5.
    #[test]
    fn the_published_numbers() {
        let layout = Layout::new(100_000, 32, 5_000);
        assert_eq!(layout.steps_per_epoch(), 3_140);
        let chunk = layout.of_run(157, |_| (0..100_000).collect());
        assert_eq!((chunk.number, chunk.steps), (1, 157..314));
        assert_eq!(chunk.samples, (5_000..10_000).collect::<Vec<_>>());
        assert_eq!(layout.batch(156), 4_992..5_000);
        let next = layout.of_run(3_140, |_| (0..100_000).collect());
        assert_eq!((next.number, next.steps), (20, 3_140..3_297));
    }

    #[test]
    fn what_is_left_is_spread_over_the_chunks() {
        let sizes = |samples, chunk| {
            let layout = Layout::new(samples, 32, chunk);
            let sizes = layout
                .samples
                .windows(2)
                .map(|bounds| bounds[1] - bounds[0]);
            sizes.collect::<Vec<_>>()
        };
        assert_eq!(sizes(7_600, 5_000), [3_800, 3_800]);
        assert_eq!(sizes(6_000, 5_000), [6_000]);
        assert_eq!(sizes(20, 5_000), [20]);
        assert_eq!(sizes(11, 3), [2, 3, 3, 3]);
    }

    proptest! {
        #[test]
        fn every_sample_once_an_epoch(
            samples in 1usize..200, batch in 1usize..40, chunk in 1usize..220, epoch in 0u64..3,
        ) {
            let layout = Layout::new(samples, batch, chunk);
            let order = |epoch: u64| (0..samples).map(|i| (i + epoch as usize) % samples).collect::<Vec<_>>();
            let first = epoch * layout.steps_per_epoch();
            let mut seen = Vec::new();
            for step in 0..layout.steps_per_epoch() {
                let of_batch: Vec<usize> = order(epoch)[layout.batch(step)].to_vec();
                prop_assert!(!of_batch.is_empty() && of_batch.len() <= batch);
                let chunk = layout.of_run(first + step, order);
                prop_assert!(chunk.steps.contains(&(first + step)));
                prop_assert!(of_batch.iter().all(|sample| chunk.samples.contains(sample)));
                seen.extend(of_batch);
            }
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..samples).collect::<Vec<_>>());
        }
    }
}
