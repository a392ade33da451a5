//! Several loaders as one stream of batches, and batches that are prepared ahead.
//!
//! Each batch comes from one source. Which one is a function of the batch's number, as the batch is a
//! function of its number within its source, so a resumed run gets what an uninterrupted one got.
//!
//! The order is that of fair scheduling (Baruah, Cohen, Plaxton and Varvel, "Proportionate progress",
//! 1996): the k-th batch of a source with share w comes at one of the places that lie, in part or
//! whole, between (k - 1) / w and k / w; of the sources whose time has come, the one with the earliest
//! end is next. After any n batches each source has made n w of them, up to less than one.

use std::any::Any;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use crate::error::DataError;
use crate::loader::{HostBatch, Loader};

/// To what part of the whole weights are rounded. The order repeats after at most about as many
/// batches, which bounds the time to find any place in it: a fraction of a second.
const ROUND: f64 = (1 << 24) as f64;

/// Loaders that take turns according to their weights. Cheap to clone.
#[derive(Clone)]
pub struct Mix {
    inner: Arc<Inner>,
}

struct Inner {
    loaders: Vec<Loader>,
    /// Batches of each source in a round.
    shares: Vec<u64>,
    /// Batches in a round, after which the order begins anew.
    round: u64,
    /// The last place that was asked for: the next one is mostly the next to be asked for.
    cursor: Mutex<Cursor>,
}

/// How many batches each source has made before a place in a round.
struct Cursor {
    place: u64,
    made: Vec<u64>,
}

impl Mix {
    /// Sources and their weights, of which only the ratios count; they are rounded to the 2^24th part
    /// of the whole, and at least that.
    ///
    /// # Errors
    /// If there is no source, or if a weight is not a finite number above 0.
    pub fn new(sources: Vec<(Loader, f64)>) -> Result<Self, DataError> {
        let (loaders, weights): (Vec<Loader>, Vec<f64>) = sources.into_iter().unzip();
        if loaders.is_empty() {
            return Err(DataError::Setting {
                name: "sources",
                value: "empty".to_owned(),
                reason: "there must be at least one",
            });
        }
        let shares = shares(&weights)?;
        Ok(Self::build(loaders, shares))
    }

    /// One loader by itself.
    pub fn one(loader: Loader) -> Self {
        Self::build(vec![loader], vec![1])
    }

    fn build(loaders: Vec<Loader>, shares: Vec<u64>) -> Self {
        let cursor = Mutex::new(Cursor {
            place: 0,
            made: vec![0; shares.len()],
        });
        let round = shares.iter().sum();
        Self {
            inner: Arc::new(Inner {
                loaders,
                shares,
                round,
                cursor,
            }),
        }
    }

    /// The loaders, in the order in which they were given.
    pub fn sources(&self) -> &[Loader] {
        &self.inner.loaders
    }

    /// Batches in an epoch of the first source, counted in its own batches.
    pub fn steps_per_epoch(&self) -> u64 {
        let first = self.inner.loaders.first();
        first.map_or(1, Loader::steps_per_epoch)
    }

    /// Which source makes batch `number`, and which batch of its own that is.
    ///
    /// Takes a moment for the number after the last one that was asked for, and up to a fraction of a
    /// second for any other.
    pub fn source_of(&self, number: u64) -> (usize, u64) {
        let inner = &*self.inner;
        let (rounds, place) = (number / inner.round, number % inner.round);
        // Nothing below can panic half-way, so a poisoned lock holds a whole cursor.
        let mut cursor = inner.cursor.lock().unwrap_or_else(PoisonError::into_inner);
        if cursor.place > place {
            cursor.place = 0;
            cursor.made.fill(0);
        }
        while cursor.place < place {
            let source = inner.next(&cursor);
            if let Some(made) = cursor.made.get_mut(source) {
                *made += 1;
            }
            cursor.place += 1;
        }
        let source = inner.next(&cursor);
        let of = |list: &[u64]| list.get(source).copied().unwrap_or(0);
        (source, rounds * of(&inner.shares) + of(&cursor.made))
    }

    /// A batch by its number in the mix, which is its `step`; its epoch is that of its source.
    ///
    /// # Errors
    /// If a sample of it cannot be used.
    pub fn batch(&self, number: u64) -> Result<HostBatch, DataError> {
        let (source, own) = self.source_of(number);
        let loader = self.inner.loaders.get(source);
        let loader = loader.ok_or_else(|| DataError::OutOfRange {
            name: "sources of the mix".to_owned(),
            index: source,
            len: self.inner.loaders.len(),
        })?;
        Ok(HostBatch {
            step: number,
            source,
            ..loader.batch(own)?
        })
    }

    /// The batches of `range`, prepared up to `depth` (at least 1) ahead.
    ///
    /// In memory are at most `depth` waiting batches, the one that is being prepared, and the one that
    /// was handed out. Batches are prepared one after another, each by all of its loader's threads.
    /// Dropping the iterator ends the thread; that can take as long as one batch.
    pub fn prefetch(&self, range: Range<u64>, depth: usize) -> Prefetch {
        let (sender, receiver) = sync_channel(depth.max(1));
        let mix = self.clone();
        let worker = std::thread::spawn(move || {
            for step in range {
                // Caught here and not only at join: the consumer must see an error, not an early end.
                let outcome = catch_unwind(AssertUnwindSafe(|| mix.batch(step)));
                let (item, last) = match outcome {
                    Ok(item) => (item, false),
                    Err(panic) => (
                        Err(DataError::Worker {
                            step,
                            message: panic_text(panic.as_ref()),
                        }),
                        true,
                    ),
                };
                // A closed channel means that nobody wants more.
                if sender.send(item).is_err() || last {
                    break;
                }
            }
        });
        Prefetch {
            receiver: Some(receiver),
            worker: Some(worker),
        }
    }
}

/// Batches in the order of their numbers, see [`Mix::prefetch`].
pub struct Prefetch {
    receiver: Option<Receiver<Result<HostBatch, DataError>>>,
    worker: Option<JoinHandle<()>>,
}

impl Iterator for Prefetch {
    type Item = Result<HostBatch, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.receiver.as_ref()?.recv().ok()
    }
}

impl Drop for Prefetch {
    fn drop(&mut self) {
        // The channel first: a worker that waits to send wakes up and ends.
        drop(self.receiver.take());
        if let Some(worker) = self.worker.take() {
            // Its panics were already sent as items.
            let _ = worker.join();
        }
    }
}

impl Inner {
    /// The source of the batch at a place: of those whose time has come, the one whose time ends
    /// first; of several, the first. There is always one, since all together are due one batch more
    /// than was made. Numbers stay below 2^50.
    fn next(&self, cursor: &Cursor) -> usize {
        let sources = cursor.made.iter().zip(&self.shares).enumerate();
        let due =
            sources.filter(|(_, (made, share))| **made * self.round < (cursor.place + 1) * **share);
        let ends = due.map(|(source, (made, share))| {
            let end = ((made + 1) * self.round).div_ceil((*share).max(1));
            (end, source)
        });
        ends.min().map_or(0, |(_, source)| source)
    }
}

/// Weights as whole numbers without a common divisor.
fn shares(weights: &[f64]) -> Result<Vec<u64>, DataError> {
    for weight in weights {
        if !(weight.is_finite() && *weight > 0.0) {
            return Err(DataError::Setting {
                name: "weight",
                value: weight.to_string(),
                reason: "it must be a finite number above 0",
            });
        }
    }
    // By the largest first, so that no sum is infinite.
    let largest = weights.iter().copied().fold(0.0, f64::max);
    let parts = weights.iter().map(|weight| weight / largest);
    let whole: f64 = parts.clone().sum();
    let shares: Vec<u64> = parts
        .map(|part| ((part / whole * ROUND).round() as u64).max(1))
        .collect();
    let divisor = shares.iter().copied().fold(0, common_divisor);
    Ok(shares.iter().map(|share| share / divisor.max(1)).collect())
}

fn common_divisor(mut a: u64, mut b: u64) -> u64 {
    while b > 0 {
        (a, b) = (b, a % b);
    }
    a
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "unknown panic".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::{Dataset, ImageSource};
    use crate::loader::tests::loader;
    use proptest::prelude::*;

    /// Loaders of 30, 29, ... samples with these weights.
    fn mix(weights: &[f64]) -> Mix {
        let sources = weights.iter().zip((0..=30).rev());
        let sources = sources.map(|(weight, samples)| (loader(samples, |_| {}), *weight));
        Mix::new(sources.collect()).unwrap()
    }

    #[test]
    fn the_order_does_not_depend_on_where_one_starts() {
        let weights = [0.5, 0.2, 0.3];
        let order: Vec<_> = {
            let mix = mix(&weights);
            (0..200).map(|number| mix.source_of(number)).collect()
        };
        let other = mix(&weights);
        for number in [199, 0, 57, 58, 56, 120, 199, 3, 2, 1] {
            assert_eq!(other.source_of(number), order[number as usize], "{number}");
        }
        // Each source's own batches come one by one.
        for (source, weight) in weights.iter().enumerate() {
            let own = order.iter().filter(|(of, _)| *of == source);
            assert!(own.map(|(_, own)| *own).eq(0..(200.0 * weight) as u64));
        }
    }

    #[test]
    fn simple_orders_by_hand() {
        let order = |weights: &[f64]| {
            let mix = mix(weights);
            let sources = (0..8).map(|number| mix.source_of(number).0);
            sources.collect::<Vec<_>>()
        };
        assert_eq!(order(&[2.0]), [0; 8]);
        assert_eq!(order(&[1.0, 1.0]), [0, 1, 0, 1, 0, 1, 0, 1]);
        assert_eq!(order(&[3.0, 1.0]), [0, 0, 0, 1, 0, 0, 0, 1]);
        assert_eq!(order(&[1.0, 3.0]), [1, 1, 0, 1, 1, 1, 0, 1]);
    }

    #[test]
    fn any_number_is_found() {
        let weights = [0.7, 0.2, 0.1];
        let mix = mix(&weights);
        for number in [u64::MAX, 1 << 40, (1 << 24) + 1, 0, u64::MAX - 1] {
            let (source, own) = mix.source_of(number);
            let expected = number as f64 * weights[source];
            assert!((own as f64 - expected).abs() <= 1.0 + number as f64 * 1e-6);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn every_prefix_has_the_shares(weights in proptest::collection::vec(0.01f64..10.0, 1..8)) {
            let shares = shares(&weights).unwrap();
            let round = shares.iter().sum();
            let inner = Inner { loaders: Vec::new(), shares, round, cursor: Mutex::new(Cursor { place: 0, made: Vec::new() }) };
            let whole: f64 = weights.iter().sum();
            let mut cursor = Cursor { place: 0, made: vec![0; weights.len()] };
            for _ in 0..2000 {
                let source = inner.next(&cursor);
                cursor.made[source] += 1;
                cursor.place += 1;
                for (made, weight) in cursor.made.iter().zip(&weights) {
                    let expected = cursor.place as f64 * weight / whole;
                    prop_assert!((*made as f64 - expected).abs() < 1.0 + 1e-3);
                }
            }
        }

        #[test]
        fn a_round_ends_with_the_shares(weights in proptest::collection::vec(1u64..40, 1..6)) {
            let round = weights.iter().sum();
            let inner = Inner { loaders: Vec::new(), shares: weights.clone(), round, cursor: Mutex::new(Cursor { place: 0, made: Vec::new() }) };
            let mut cursor = Cursor { place: 0, made: vec![0; weights.len()] };
            for _ in 0..round {
                let source = inner.next(&cursor);
                cursor.made[source] += 1;
                cursor.place += 1;
                for (made, share) in cursor.made.iter().zip(&weights) {
                    // Exactly below one.
                    prop_assert!((made * round).abs_diff(cursor.place * share) < round);
                }
            }
            prop_assert_eq!(cursor.made, weights);
        }
    }

    #[test]
    fn hostile_weights_are_refused_or_used() {
        for weight in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let error = Mix::new(vec![(loader(9, |_| {}), weight)]).err().unwrap();
            assert!(error.to_string().contains("`weight`"), "{error}");
        }
        assert!(Mix::new(Vec::new()).is_err());
        for weights in [
            [f64::MAX, f64::MAX],
            [f64::MAX, f64::MIN_POSITIVE],
            [5e-324; 2],
        ] {
            let (source, own) = mix(&weights).source_of(1000);
            assert!(source < 2 && own <= 1000);
        }
    }

    #[test]
    fn a_batch_says_its_number_and_source() {
        let mix = mix(&[2.0, 1.0]);
        assert_eq!(mix.sources().len(), 2);
        assert_eq!(mix.steps_per_epoch(), 3);
        let ahead = mix.batch(40).unwrap();
        let batches: Vec<HostBatch> = mix.prefetch(0..41, 3).map(Result::unwrap).collect();
        assert_eq!(batches[40], ahead);
        for (number, batch) in (0..).zip(&batches) {
            let (source, own) = mix.source_of(number);
            assert_eq!((batch.step, batch.source), (number, source));
            let loader = &mix.sources()[source];
            assert_eq!(batch.epoch, own / loader.steps_per_epoch());
            let alone = loader.batch(own).unwrap();
            assert_eq!(batch.samples, alone.samples);
            assert_eq!(batch.pixel_values, alone.pixel_values);
        }
        let loader = loader(30, |_| {});
        assert_eq!(
            Mix::one(loader.clone()).batch(5).unwrap(),
            loader.batch(5).unwrap()
        );
    }

    #[test]
    fn no_more_batches_are_prepared_than_the_queue_holds() {
        for depth in [1, 3] {
            let mix = Mix::one(loader(64, |config| config.train = false));
            let mut stream = mix.prefetch(0..8, depth);
            for taken in 1..=8usize {
                assert!(stream.next().unwrap().is_ok());
                // What was decoded is in the cache. Those taken, those waiting, the one in hand.
                let prepared = mix.sources()[0].cached();
                assert!(
                    prepared <= (taken + depth + 1) * 8,
                    "{prepared} after {taken}"
                );
            }
        }
    }

    #[test]
    fn decoding_does_not_wait_for_the_global_pool() {
        // Every global thread is held until the loader has made a batch.
        let mix = Mix::one(loader(30, |_| {}));
        let threads = rayon::current_num_threads() + 1;
        let (held, free) = (
            std::sync::Barrier::new(threads),
            std::sync::Barrier::new(threads),
        );
        std::thread::scope(|scope| {
            scope.spawn(|| {
                rayon::broadcast(|_| {
                    held.wait();
                    free.wait();
                })
            });
            held.wait();
            let batch = mix.prefetch(0..1, 1).next();
            free.wait();
            assert!(batch.unwrap().is_ok());
        });
    }

    #[test]
    fn dropping_a_prefetch_ends_its_thread() {
        let mix = Mix::one(loader(30, |_| {}));
        let mut stream = mix.prefetch(0..1_000_000, 2);
        assert!(stream.next().unwrap().is_ok());
        drop(stream);
        // The worker held a clone; after the drop only ours is left.
        assert_eq!(Arc::strong_count(&mix.inner), 1);
    }

    #[test]
    fn a_bad_picture_is_an_item_with_its_place() {
        let good = loader(9, |_| {});
        let mut set = Dataset::clone(good.dataset());
        for sample in &mut set.samples {
            sample.visual = ImageSource::Static(b"not a picture").into();
        }
        let bad = good.over(set);
        let items: Vec<_> = Mix::one(bad).prefetch(0..2, 1).collect();
        assert_eq!(items.len(), 2);
        assert!(
            items[0]
                .as_ref()
                .unwrap_err()
                .to_string()
                .contains("cannot be used")
        );
    }
}
