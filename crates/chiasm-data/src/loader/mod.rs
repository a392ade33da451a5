//! The batch stream: a batch is a pure function of its step.
//!
//! Nothing is carried from one batch to the next, so a resumed run asks for step 1,234 and gets what
//! an uninterrupted run got. The cache and the worker thread change when work is done, never what
//! comes out. [`crate::mix::Mix`] makes one stream of several loaders, and prepares batches ahead.

mod chunks;
mod texts;
mod views;

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use rayon::prelude::*;

use crate::dataset::{Dataset, Sample};
use crate::decode::Rgb;
use crate::error::DataError;
use crate::part::Part;
use crate::regions::{RegionLimits, RegionRows};
use crate::rng::{Rng, below, permutation, stream};
use crate::targets::Targets;
use crate::tokenizer::{Encoded, TextTokenizer};
use crate::transform::{Preprocess, normalise_into};
use chunks::Layout;

pub use chunks::Chunk;
pub use texts::encode_texts;
pub use views::{Shaped, Views, eval_images, kept_shape};

/// Settings of a [`Loader`].
#[derive(Clone, Debug, PartialEq)]
pub struct LoaderConfig {
    /// Samples in a batch.
    pub batch_size: usize,
    /// Seed of order, captions and augmentation.
    pub seed: u64,
    /// Longest text in tokens, special ones included.
    pub max_text_len: usize,
    /// How pictures become numbers.
    pub preprocess: Preprocess,
    /// What of a sample is looked at.
    pub views: Views,
    /// Pictures are replaced by zeros: what a baseline of texts alone sees. None is then read.
    pub blind: bool,
    /// Regions that are read in place of pixels.
    pub regions: Option<RegionLimits>,
    /// Classes whose targets go with each batch.
    pub targets: Option<Arc<Targets>>,
    /// True: shuffled, a drawn caption, augmented, the last partial batch of an epoch dropped.
    /// False: in order, the first caption, not augmented, the last partial batch kept.
    pub train: bool,
    /// Samples of a chunk, with which batches end; an epoch then has no partial batch to drop. `None`:
    /// an epoch is one whole.
    pub chunk: Option<usize>,
    /// The rows of a batch whose pictures are read; texts are those of all rows, and so are regions.
    pub part: Part,
    /// Memory for decoded pictures, in bytes; 0 decodes every time. Frames of clips are not kept.
    pub cache_bytes: usize,
    /// Threads that decode and tokenise, its own, so that training neither waits for them nor holds
    /// them up; 0: as many as there are cores.
    pub threads: usize,
}

/// One batch in host memory.
#[derive(Clone, Debug, PartialEq)]
pub struct HostBatch {
    /// The number that was asked for.
    pub step: u64,
    /// Its epoch, counted from 0; of a mix, the epoch of its source.
    pub epoch: u64,
    /// Which source of a mix it is from; 0 from a loader by itself.
    pub source: usize,
    /// Index of each sample in the data set.
    pub samples: Vec<usize>,
    /// Id of each sample.
    pub ids: Vec<String>,
    /// The rows that have pixels.
    pub part: Part,
    /// `[rows of part, pictures * frames, 3, image_size, image_size]`; empty where regions are read.
    pub pixel_values: Vec<f32>,
    /// Regions of each sample, where these are read.
    pub regions: Option<RegionRows>,
    /// The text of each sample.
    pub texts: Vec<String>,
    /// For each text and each of its tokens the bytes that it is of; none for special tokens.
    pub offsets: Vec<Vec<Range<usize>>>,
    /// What the text of each sample refers to, as fractions of the picture: left, top, right, bottom;
    /// `None` where it is not said.
    pub referred: Vec<Option<[f32; 4]>>,
    /// Pictures or frames of each sample.
    pub views: Views,
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
    /// For each sample the classes that are right and what each is worth, see [`Targets::of`]; no
    /// rows when no targets were asked for.
    pub targets: Vec<Vec<(u32, f32)>>,
    /// For each of these rows the part of all answers that each class is, see [`Targets::shares`].
    pub shares: Vec<Vec<(u32, f32)>>,
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
    layout: Option<Layout>,
    cache: Vec<OnceLock<Arc<[Rgb]>>>,
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
        config.views.validate()?;
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
        let layout = |chunk| Layout::new(dataset.len(), config.batch_size, chunk);
        let inner = Inner {
            layout: config.chunk.map(layout),
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
        if let Some(layout) = &self.inner.layout {
            return layout.steps_per_epoch();
        }
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

    /// The chunk that a step is in; `None` where an epoch is one whole.
    pub fn chunk(&self, step: u64) -> Option<Chunk> {
        let layout = self.inner.layout.as_ref()?;
        Some(layout.of_run(step, |epoch| self.inner.order(epoch).to_vec()))
    }

    /// The same batches as they are looked at before they are trained on: the same samples with the same
    /// texts, the pictures not augmented; `blind`: zeros in place of pictures, of which none is read.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn plain(&self, blind: bool) -> Result<Self, DataError> {
        let config = LoaderConfig {
            blind: blind || self.inner.config.blind,
            preprocess: self.inner.config.preprocess.plain(),
            ..self.inner.config.clone()
        };
        if config == self.inner.config {
            return Ok(self.clone());
        }
        let (dataset, tokenizer) = (&self.inner.dataset, &self.inner.tokenizer);
        Self::new(Arc::clone(dataset), Arc::clone(tokenizer), config)
    }

    /// The batch of a step. An epoch shows every picture at most once, each with one caption, so a
    /// batch never holds a picture twice. A data set smaller than a batch is a batch of all of it.
    pub fn batch(&self, step: u64) -> Result<HostBatch, DataError> {
        self.inner.batch(step, self.steps_per_epoch())
    }
}

impl Inner {
    fn batch(&self, step: u64, steps_per_epoch: u64) -> Result<HostBatch, DataError> {
        let epoch = step / steps_per_epoch;
        let order = self.order(epoch);
        let size = self.config.batch_size;
        let step_of_epoch = step % steps_per_epoch;
        let (first, count) = match &self.layout {
            Some(layout) => {
                let samples = layout.batch(step_of_epoch);
                (samples.start, samples.len())
            }
            None => {
                let step = usize::try_from(step_of_epoch).unwrap_or(usize::MAX);
                (step.saturating_mul(size), size)
            }
        };
        let samples: Vec<usize> = order.iter().copied().skip(first).take(count).collect();
        let views = self.config.views;
        let view_len = views.count() * self.config.preprocess.picture_len();
        let sees_pixels = self.config.regions.is_none();
        let part = self.config.part;
        let mut pixel_values = vec![
            0.0;
            if sees_pixels {
                part.count(samples.len()) * view_len
            } else {
                0
            }
        ];
        // Each sample on its own and in its own place: the number of threads cannot matter.
        let (rows, regions): (Vec<Row>, Option<RegionRows>) = self.pool.install(|| {
            let Some(limits) = self.config.regions else {
                let mut pixels = pixel_values.chunks_exact_mut(view_len);
                let own = (0..samples.len()).map(|row| part.has(row).then(|| pixels.next()));
                let own: Vec<_> = own.map(Option::flatten).collect();
                let rows = samples.par_iter().zip(own);
                let rows = rows.map(|(index, pixels)| self.row(epoch, *index, pixels));
                return Ok((rows.collect::<Result<_, DataError>>()?, None));
            };
            let rows = samples.par_iter();
            let rows = rows.map(|index| self.row(epoch, *index, None));
            let rows = rows.collect::<Result<_, DataError>>()?;
            let blind = self.config.blind;
            let regions = RegionRows::read(&self.dataset, &samples, limits, blind)?;
            Ok::<_, DataError>((rows, Some(regions)))
        })?;
        let texts = texts::pad(
            rows.iter().map(|row| &row.text),
            self.tokenizer.special().pad,
        );
        Ok(HostBatch {
            step,
            epoch,
            source: 0,
            ids: rows.iter().map(|row| row.id.clone()).collect(),
            part,
            pixel_values,
            regions,
            texts: rows.iter().map(|row| row.raw.clone()).collect(),
            referred: rows.iter().map(|row| row.referred).collect(),
            offsets: rows.iter().map(|row| row.text.offsets.clone()).collect(),
            views,
            image_size: self.config.preprocess.image_size,
            input_ids: texts.ids,
            attention_mask: texts.mask,
            text_len: texts.len,
            lengths: rows.iter().map(|row| row.text.ids.len()).collect(),
            targets: rows.iter().filter_map(|row| row.targets.clone()).collect(),
            shares: rows.iter().filter_map(|row| row.shares.clone()).collect(),
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

    fn row(&self, epoch: u64, index: usize, pixels: Option<&mut [f32]>) -> Result<Row, DataError> {
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
        if let (Some(pixels), false) = (pixels, config.blind) {
            self.show(key, sample, pixels)?;
        }
        let targets = config.targets.as_ref();
        Ok(Row {
            id: sample.id.clone(),
            text: self.tokenizer.encode(text, config.max_text_len),
            raw: text.clone(),
            referred: sample.annotations.referred(choice),
            targets: targets.map(|targets| targets.of(sample)),
            shares: targets.map(|targets| targets.shares(sample)),
        })
    }

    /// Writes what is to be seen of a sample, `[pictures * frames, 3, image_size, image_size]`.
    fn show(&self, key: [u64; 2], sample: &Sample, pixels: &mut [f32]) -> Result<(), DataError> {
        let preprocess = &self.config.preprocess;
        let prepared = self.prepared(key, sample)?;
        let places = pixels.chunks_exact_mut(preprocess.picture_len());
        for ((number, picture), place) in (0..).zip(prepared.iter()).zip(places) {
            if self.config.train {
                preprocess.augment_into(picture, &mut self.augmentation(key, number), place);
            } else {
                normalise_into(picture, preprocess.mean, preprocess.std, place);
            }
        }
        Ok(())
    }

    /// The draws for one of a sample's pictures: for every frame of a clip the same, for each of
    /// several pictures its own.
    fn augmentation(&self, [epoch, index]: [u64; 2], number: u64) -> Rng {
        let several = self.config.views.pictures > 1;
        let key = [epoch, index, number];
        let key = if several { &key[..] } else { &key[..2] };
        stream(self.config.seed, "augment", key)
    }

    /// The 8-bit pictures before augmentation, from the cache or decoded.
    fn prepared(&self, key: [u64; 2], sample: &Sample) -> Result<Arc<[Rgb]>, DataError> {
        let config = &self.config;
        let [_, index] = key;
        // Each epoch may look at other frames of a clip.
        let slot = usize::try_from(index)
            .ok()
            .filter(|_| config.views.frames == 1);
        let slot = slot.and_then(|index| self.cache.get(index));
        if let Some(kept) = slot.and_then(OnceLock::get) {
            return Ok(Arc::clone(kept));
        }
        let mut rng = stream(config.seed, "frames", &key);
        let views = config.views;
        let pictures = views.prepare(sample, &config.preprocess, config.train, &mut rng)?;
        let pictures: Arc<[Rgb]> = pictures.into();
        // Epochs visit every picture once, so evicting would only throw away what is needed next
        // epoch: the first pictures to come stay, the rest is decoded each time.
        let bytes = pictures.iter().map(|picture| picture.data.len()).sum();
        let used = self.cached_bytes.fetch_add(bytes, Ordering::Relaxed);
        let kept = used.saturating_add(bytes) <= self.config.cache_bytes
            && slot.is_some_and(|slot| slot.set(Arc::clone(&pictures)).is_ok());
        if !kept {
            self.cached_bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
        Ok(pictures)
    }
}

struct Row {
    id: String,
    text: Encoded,
    raw: String,
    referred: Option<[f32; 4]>,
    targets: Option<Vec<(u32, f32)>>,
    shares: Option<Vec<(u32, f32)>>,
}

#[cfg(test)]
pub(crate) mod tests;
