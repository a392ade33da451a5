//! The batch stream: a batch is a pure function of its step.
//!
//! Nothing is carried from one batch to the next, so a resumed run asks for step 1,234 and gets what
//! an uninterrupted run got. The cache and the worker thread change when work is done, never what
//! comes out.

use std::any::Any;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;

use rayon::prelude::*;

use crate::dataset::{Dataset, Sample};
use crate::decode::{Limits, Rgb};
use crate::error::DataError;
use crate::frames::still;
use crate::rng::{below, permutation, stream};
use crate::tokenizer::{Encoded, TextTokenizer};
use crate::transform::{Preprocess, normalise_into};

/// Settings of a [`Loader`].
#[derive(Clone, Debug, PartialEq)]
pub struct LoaderConfig {
    /// Pictures in a batch.
    pub batch_size: usize,
    /// Seed of order, captions and augmentation.
    pub seed: u64,
    /// Longest text in tokens, special ones included.
    pub max_text_len: usize,
    /// How pictures become numbers.
    pub preprocess: Preprocess,
    /// True: shuffled, a drawn caption, augmented, the last partial batch of an epoch dropped.
    /// False: in order, the first caption, not augmented, the last partial batch kept.
    pub train: bool,
    /// Memory for decoded pictures, in bytes; 0 decodes every time.
    pub cache_bytes: usize,
    /// Threads that decode and tokenise, its own, so that training neither waits for them nor holds
    /// them up; 0: as many as there are cores.
    pub threads: usize,
}

/// One batch in host memory.
#[derive(Clone, Debug, PartialEq)]
pub struct HostBatch {
    /// The step that was asked for.
    pub step: u64,
    /// Its epoch, counted from 0.
    pub epoch: u64,
    /// Index of each sample in the data set.
    pub samples: Vec<usize>,
    /// Id of each sample.
    pub ids: Vec<String>,
    /// `[batch, 3, image_size, image_size]`.
    pub pixel_values: Vec<f32>,
    /// Side of the pictures.
    pub image_size: usize,
    /// `[batch, text_len]`, padded with `pad_id`.
    pub input_ids: Vec<i64>,
    /// `[batch, text_len]`, 1 = keep.
    pub attention_mask: Vec<i64>,
    /// Tokens of the longest text in this batch.
    pub text_len: usize,
    /// Tokens of each text.
    pub lengths: Vec<usize>,
    /// For each text and each of its `lengths` tokens the number of its word; `None` for special tokens.
    pub word_ids: Vec<Vec<Option<u32>>>,
    /// The id that fills texts up.
    pub pad_id: i64,
}

/// Makes batches of a data set. Cheap to clone; clones share the cache.
#[derive(Clone)]
pub struct Loader {
    inner: Arc<Inner>,
}

struct Inner {
    dataset: Arc<Dataset>,
    tokenizer: Arc<TextTokenizer>,
    config: LoaderConfig,
    cache: Vec<OnceLock<Arc<Rgb>>>,
    cached_bytes: AtomicUsize,
    pool: rayon::ThreadPool,
    /// The order of the last epoch that was asked for.
    order: Mutex<Option<(u64, Arc<Vec<usize>>)>>,
}

impl Loader {
    /// A loader over every sample of `dataset`.
    pub fn new(
        dataset: Arc<Dataset>,
        tokenizer: Arc<TextTokenizer>,
        config: LoaderConfig,
    ) -> Result<Self, DataError> {
        if config.batch_size == 0 {
            let value = config.batch_size.to_string();
            return Err(DataError::Setting {
                name: "batch_size",
                value,
                reason: "it must be at least 1",
            });
        }
        if dataset.is_empty() {
            return Err(DataError::NoSamples {
                name: dataset.name.clone(),
            });
        }
        config.preprocess.validate()?;
        let cache = std::iter::repeat_with(OnceLock::new)
            .take(dataset.len())
            .collect();
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(config.threads)
            .thread_name(|number| format!("decode-{number}"))
            .build()
            .map_err(|_| DataError::Setting {
                name: "threads",
                value: config.threads.to_string(),
                reason: "the system does not give as many threads",
            })?;
        let inner = Inner {
            dataset,
            tokenizer,
            config,
            cache,
            cached_bytes: AtomicUsize::new(0),
            pool,
            order: Mutex::new(None),
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Batches in an epoch, at least 1.
    pub fn steps_per_epoch(&self) -> u64 {
        let (samples, size) = (self.inner.dataset.len(), self.inner.config.batch_size);
        let steps = if self.inner.config.train {
            samples / size
        } else {
            samples.div_ceil(size)
        };
        steps.max(1) as u64
    }

    /// The samples behind the batches.
    pub fn dataset(&self) -> &Arc<Dataset> {
        &self.inner.dataset
    }

    /// The settings.
    pub fn config(&self) -> &LoaderConfig {
        &self.inner.config
    }

    /// The batch of a step. An epoch shows every picture at most once, each with one caption, so a
    /// batch never holds a picture twice. A data set smaller than a batch is a batch of all of it.
    pub fn batch(&self, step: u64) -> Result<HostBatch, DataError> {
        self.inner.batch(step, self.steps_per_epoch())
    }

    /// The batches of `range`, prepared up to `depth` (at least 1) ahead.
    ///
    /// In memory are at most `depth` waiting batches, the one that is being prepared, and the one that
    /// was handed out. Batches are prepared one after another, each by all of the loader's threads.
    /// Dropping the iterator ends the thread; that can take as long as one batch.
    pub fn prefetch(&self, range: Range<u64>, depth: usize) -> Prefetch {
        let (sender, receiver) = sync_channel(depth.max(1));
        let loader = self.clone();
        let worker = std::thread::spawn(move || {
            for step in range {
                // Caught here and not only at join: the consumer must see an error, not an early end.
                let outcome = catch_unwind(AssertUnwindSafe(|| loader.batch(step)));
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

/// Batches in step order, see [`Loader::prefetch`].
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
    fn batch(&self, step: u64, steps_per_epoch: u64) -> Result<HostBatch, DataError> {
        let epoch = step / steps_per_epoch;
        let order = self.order(epoch);
        let size = self.config.batch_size;
        let first = usize::try_from(step % steps_per_epoch)
            .unwrap_or(usize::MAX)
            .saturating_mul(size);
        let samples: Vec<usize> = order.iter().copied().skip(first).take(size).collect();
        let picture_len = self.config.preprocess.picture_len();
        let mut pixel_values = vec![0.0; samples.len() * picture_len];
        // Each sample on its own and in its own place: the number of threads cannot matter.
        let rows: Vec<Row> = self.pool.install(|| {
            samples
                .par_iter()
                .zip(pixel_values.par_chunks_exact_mut(picture_len))
                .map(|(index, pixels)| self.row(epoch, *index, pixels))
                .collect::<Result<_, DataError>>()
        })?;
        let texts = pad(
            rows.iter().map(|row| &row.text),
            self.tokenizer.special().pad,
        );
        Ok(HostBatch {
            step,
            epoch,
            ids: rows.iter().map(|row| row.id.clone()).collect(),
            pixel_values,
            image_size: self.config.preprocess.image_size,
            input_ids: texts.ids,
            attention_mask: texts.mask,
            text_len: texts.len,
            lengths: rows.iter().map(|row| row.text.ids.len()).collect(),
            word_ids: rows.into_iter().map(|row| row.text.word_ids).collect(),
            pad_id: self.tokenizer.special().pad,
            samples,
        })
    }

    fn order(&self, epoch: u64) -> Arc<Vec<usize>> {
        // A poisoned lock holds a whole value all the same: it is written in one assignment.
        let mut held = self
            .order
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some((known, order)) = held.as_ref()
            && *known == epoch
        {
            return Arc::clone(order);
        }
        let len = self.dataset.len();
        let order = Arc::new(if self.config.train {
            permutation(self.config.seed, epoch, len)
        } else {
            (0..len).collect()
        });
        *held = Some((epoch, Arc::clone(&order)));
        order
    }

    fn row(&self, epoch: u64, index: usize, pixels: &mut [f32]) -> Result<Row, DataError> {
        let config = &self.config;
        let sample = self.dataset.sample(index)?;
        let key = [epoch, index as u64];
        let choice = if config.train {
            below(
                &mut stream(config.seed, "caption", &key),
                sample.texts.len(),
            )
        } else {
            0
        };
        let text = sample.texts.get(choice).ok_or_else(|| DataError::NoText {
            id: sample.id.clone(),
            origin: sample.origin.to_string(),
        })?;
        let prepared = self.prepared(index, sample)?;
        let preprocess = &config.preprocess;
        if config.train {
            let mut rng = stream(config.seed, "augment", &key);
            preprocess.augment_into(&prepared, &mut rng, pixels);
        } else {
            normalise_into(&prepared, preprocess.mean, preprocess.std, pixels);
        }
        Ok(Row {
            id: sample.id.clone(),
            text: self.tokenizer.encode(text, config.max_text_len),
        })
    }

    /// The 8-bit picture before augmentation, from the cache or decoded.
    fn prepared(&self, index: usize, sample: &Sample) -> Result<Arc<Rgb>, DataError> {
        let slot = self.cache.get(index);
        if let Some(kept) = slot.and_then(OnceLock::get) {
            return Ok(Arc::clone(kept));
        }
        let picture = Arc::new(prepare_sample(
            sample,
            &self.config.preprocess,
            self.config.train,
        )?);
        // Epochs visit every picture once, so evicting would only throw away what is needed next
        // epoch: the first pictures to come stay, the rest is decoded each time.
        let bytes = picture.data.len();
        let used = self.cached_bytes.fetch_add(bytes, Ordering::Relaxed);
        let kept = used.saturating_add(bytes) <= self.config.cache_bytes
            && slot.is_some_and(|slot| slot.set(Arc::clone(&picture)).is_ok());
        if !kept {
            self.cached_bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
        Ok(picture)
    }
}

struct Row {
    id: String,
    text: Encoded,
}

struct Padded {
    ids: Vec<i64>,
    mask: Vec<i64>,
    len: usize,
}

fn pad<'a>(texts: impl Iterator<Item = &'a Encoded> + Clone, pad_id: i64) -> Padded {
    let len = texts.clone().map(|text| text.ids.len()).max().unwrap_or(0);
    let mut padded = Padded {
        ids: Vec::new(),
        mask: Vec::new(),
        len,
    };
    for text in texts {
        let fill = len - text.ids.len();
        padded.ids.extend_from_slice(&text.ids);
        padded.ids.extend(std::iter::repeat_n(pad_id, fill));
        padded.mask.extend(std::iter::repeat_n(1, text.ids.len()));
        padded.mask.extend(std::iter::repeat_n(0, fill));
    }
    padded
}

fn prepare_sample(sample: &Sample, preprocess: &Preprocess, train: bool) -> Result<Rgb, DataError> {
    let picture = still(sample, &Limits::default(), preprocess.alpha)?;
    Ok(preprocess.prepare(&picture, train))
}

/// The pictures at `indices` as a model takes them in evaluation: `[indices, 3, size, size]`.
pub fn eval_images(
    dataset: &Dataset,
    indices: &[usize],
    preprocess: &Preprocess,
) -> Result<Vec<f32>, DataError> {
    preprocess.validate()?;
    let picture_len = preprocess.picture_len();
    let mut pixel_values = vec![0.0; indices.len() * picture_len];
    indices
        .par_iter()
        .zip(pixel_values.par_chunks_exact_mut(picture_len))
        .try_for_each(|(index, pixels)| {
            let prepared = prepare_sample(dataset.sample(*index)?, preprocess, false)?;
            normalise_into(&prepared, preprocess.mean, preprocess.std, pixels);
            Ok::<(), DataError>(())
        })?;
    Ok(pixel_values)
}

/// Texts as a model takes them: ids `[texts, len]`, mask `[texts, len]` (1 = keep), and `len`.
pub fn encode_texts(
    tokenizer: &TextTokenizer,
    texts: &[&str],
    max_len: usize,
) -> (Vec<i64>, Vec<i64>, usize) {
    let encoded: Vec<Encoded> = texts
        .iter()
        .map(|text| tokenizer.encode(text, max_len))
        .collect();
    let padded = pad(encoded.iter(), tokenizer.special().pad);
    (padded.ids, padded.mask, padded.len)
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "unknown panic".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::{ImageSource, Split};
    use crate::tokenizer::TokenizerKind;
    use std::collections::HashSet;

    fn loader(samples: usize, change: impl FnOnce(&mut LoaderConfig)) -> Loader {
        let mut set = crate::builtin::emoji().unwrap().subset(Split::Val);
        set.samples.truncate(samples);
        let texts: Vec<String> = set
            .samples
            .iter()
            .flat_map(|sample| sample.texts.clone())
            .collect();
        let tokenizer = TextTokenizer::train(
            texts.iter().map(String::as_str),
            TokenizerKind::WordPiece,
            400,
        )
        .unwrap();
        let mut config = LoaderConfig {
            batch_size: 8,
            seed: 5,
            max_text_len: 24,
            preprocess: Preprocess {
                random_crop_scale: Some((0.5, 1.0)),
                flip: 0.5,
                ..Preprocess::new(32)
            },
            train: true,
            cache_bytes: 1 << 20,
            threads: 2,
        };
        change(&mut config);
        Loader::new(Arc::new(set), Arc::new(tokenizer), config).unwrap()
    }

    #[test]
    fn a_batch_is_a_function_of_its_step() {
        let first = loader(30, |_| {});
        let ahead = first.batch(9).unwrap();
        // Another loader, another order of asking, no cache, another thread: the same bytes.
        let second = loader(30, |config| config.cache_bytes = 0);
        for step in 0..4 {
            assert_eq!(first.batch(step).unwrap(), second.batch(step).unwrap());
        }
        assert_eq!(second.batch(9).unwrap(), ahead);
        let later: Vec<HostBatch> = first.prefetch(8..10, 2).map(Result::unwrap).collect();
        assert_eq!(later[1], ahead);
    }

    #[test]
    fn the_number_of_threads_changes_nothing() {
        let batches = |threads| {
            let loader = loader(30, |config| config.threads = threads);
            loader
                .prefetch(0..5, 2)
                .map(Result::unwrap)
                .collect::<Vec<HostBatch>>()
        };
        let one = batches(1);
        for threads in [0, 2, 3, 8] {
            assert_eq!(batches(threads), one, "{threads} threads");
        }
    }

    #[test]
    fn no_more_batches_are_prepared_than_the_queue_holds() {
        for depth in [1, 3] {
            let loader = loader(64, |config| config.train = false);
            let mut stream = loader.prefetch(0..8, depth);
            for taken in 1..=8usize {
                assert!(stream.next().unwrap().is_ok());
                // What was decoded is in the cache. Those taken, those waiting, the one in hand.
                let prepared = loader
                    .inner
                    .cache
                    .iter()
                    .filter(|slot| slot.get().is_some())
                    .count();
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
        let loader = loader(30, |_| {});
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
            let batch = loader.prefetch(0..1, 1).next();
            free.wait();
            assert!(batch.unwrap().is_ok());
        });
    }

    #[test]
    fn an_epoch_shows_each_picture_at_most_once() {
        let loader = loader(30, |_| {});
        assert_eq!(loader.steps_per_epoch(), 3);
        for epoch in 0..3 {
            let mut seen = HashSet::new();
            for step in 0..3 {
                let batch = loader.batch(epoch * 3 + step).unwrap();
                assert_eq!(batch.epoch, epoch);
                assert_eq!(batch.samples.len(), 8);
                assert!(batch.samples.iter().all(|sample| seen.insert(*sample)));
            }
        }
        assert_ne!(
            loader.batch(0).unwrap().samples,
            loader.batch(3).unwrap().samples
        );
    }

    #[test]
    fn shapes_and_padding() {
        let batch = loader(30, |_| {}).batch(0).unwrap();
        let rows = batch.samples.len();
        assert_eq!(batch.pixel_values.len(), rows * 3 * 32 * 32);
        assert_eq!(batch.input_ids.len(), rows * batch.text_len);
        assert_eq!(batch.lengths.iter().max(), Some(&batch.text_len));
        for row in 0..rows {
            let mask = &batch.attention_mask[row * batch.text_len..][..batch.text_len];
            assert_eq!(mask.iter().sum::<i64>() as usize, batch.lengths[row]);
            assert_eq!(batch.word_ids[row].len(), batch.lengths[row]);
            let ids = &batch.input_ids[row * batch.text_len..][..batch.text_len];
            assert!(
                ids[batch.lengths[row]..]
                    .iter()
                    .all(|id| *id == batch.pad_id)
            );
        }
    }

    #[test]
    fn few_samples_make_one_batch() {
        let few = loader(3, |_| {});
        assert_eq!(few.steps_per_epoch(), 1);
        assert_eq!(few.batch(4).unwrap().samples.len(), 3);
        let tokenizer = Arc::clone(&few.inner.tokenizer);
        let empty = Arc::new(Dataset {
            name: "none".into(),
            samples: Vec::new(),
        });
        let error = Loader::new(empty, tokenizer, few.config().clone())
            .err()
            .unwrap();
        assert!(error.to_string().contains("none"));
    }

    #[test]
    fn evaluation_keeps_the_order_and_the_last_batch() {
        let loader = loader(10, |config| config.train = false);
        assert_eq!(loader.steps_per_epoch(), 2);
        assert_eq!(loader.batch(1).unwrap().samples, [8, 9]);
        let batch = loader.batch(0).unwrap();
        let images = eval_images(
            loader.dataset(),
            &batch.samples,
            &loader.config().preprocess,
        )
        .unwrap();
        assert_eq!(images, batch.pixel_values);
        let texts: Vec<&str> = batch
            .samples
            .iter()
            .map(|s| loader.dataset().samples[*s].texts[0].as_str())
            .collect();
        let (ids, mask, len) = encode_texts(&loader.inner.tokenizer, &texts, 24);
        assert_eq!(
            (ids, mask, len),
            (batch.input_ids, batch.attention_mask, batch.text_len)
        );
    }

    #[test]
    fn dropping_a_prefetch_ends_its_thread() {
        let loader = loader(30, |_| {});
        let mut stream = loader.prefetch(0..1_000_000, 2);
        assert!(stream.next().unwrap().is_ok());
        drop(stream);
        // The worker held a clone; after the drop only ours is left.
        assert_eq!(Arc::strong_count(&loader.inner), 1);
    }

    #[test]
    fn a_bad_picture_is_an_item_with_its_place() {
        let good = loader(9, |_| {});
        let mut set = Dataset::clone(good.dataset());
        for sample in &mut set.samples {
            sample.visual = ImageSource::Static(b"not a picture").into();
        }
        let bad = Loader::new(
            Arc::new(set),
            Arc::clone(&good.inner.tokenizer),
            good.config().clone(),
        )
        .unwrap();
        let items: Vec<_> = bad.prefetch(0..2, 1).collect();
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
