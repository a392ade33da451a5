//! Pseudo-labels, a chunk of unlabelled pairs at a time (ITR's pre-training, `specs/itr.md` section 2.2).
//!
//! At the beginning of a chunk its pairs are encoded by the model as it stands, without gradient and with
//! nothing drawn, and grouped; the groups are the pairs' labels until the chunk ends. Which pairs a chunk
//! has is a function of (seed, epoch) and its number, the groups are one of (weights, pairs, seed), and both
//! they and their centres lie in every checkpoint: a run that is resumed in the middle of a chunk goes on
//! with the labels that it had.
//!
//! No label of a sample is read here, nor are there any to read: see `a_label_of_the_data_is_never_seen`
//! in `tests/clusters.rs`.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

use burn::tensor::{Device, Tensor};
use chiasm_data::{Chunk, Dataset, HostBatch, Loader, Mix, TextTokenizer, encode_texts};
use chiasm_nn::text::TextInput;
use chiasm_nn::weights::{HostTensor, StateDict};
use chiasm_nn::{ModelConfig, VisionLanguageModel};
use chiasm_objective::config::{ClusterConfig, ClusterScale, ClusterView};
use chiasm_objective::masking::SeenRows;
use chiasm_ranks::Ranks;
use chiasm_relation::kmeans::Balance;
use chiasm_relation::{
    Assignment, KMeans, KMeansConfig, Preparation, RelationError, Rows, align, kmeans, kmeans_from,
};

use crate::error::TrainError;

/// Batches prepared ahead of the one that is encoded.
const PREFETCH: usize = 3;

/// What was found in a chunk.
#[derive(Clone, Debug, PartialEq)]
pub struct ChunkRecord {
    /// Steps done before it.
    pub step: u64,
    /// Its number, counted from 0.
    pub number: u64,
    /// Pairs in it.
    pub pairs: usize,
    /// Pairs of each group.
    pub sizes: Vec<usize>,
    /// Sum of squared distances of the pairs from the centre of their group.
    pub inertia: f64,
    /// Iterations of the best start.
    pub iterations: usize,
    /// Pairs that the centres of the chunk before would have in another group, when groups are matched as
    /// well as they can be; `None` in the first chunk.
    pub changed: Option<usize>,
    /// Seconds that encoding and grouping took.
    pub seconds: f64,
}

impl ChunkRecord {
    /// The values for the run's log, by name.
    #[must_use]
    pub fn values(&self) -> BTreeMap<String, f64> {
        let sizes = self.sizes.iter().enumerate();
        let mut values: BTreeMap<String, f64> = sizes
            .map(|(group, size)| (format!("size_{group}"), *size as f64))
            .collect();
        values.insert("chunk".to_owned(), self.number as f64);
        values.insert("pairs".to_owned(), self.pairs as f64);
        values.insert("inertia".to_owned(), self.inertia);
        values.insert("iterations".to_owned(), self.iterations as f64);
        values.insert("seconds".to_owned(), self.seconds);
        if let Some(changed) = self.changed {
            values.insert("changed".to_owned(), changed as f64);
        }
        values
    }
}

/// The labels in force.
struct Current {
    number: u64,
    /// The group of each pair of the chunk, by its index in the data set.
    of: HashMap<usize, u32>,
    /// The groups in the order of the chunk.
    labels: Vec<u32>,
    /// `[clusters, width]`, at the scale of the chunk.
    centres: Vec<f32>,
}

/// The pseudo-labels of a run.
pub(crate) struct Clusters {
    config: ClusterConfig,
    seed: u64,
    /// The batches that are trained on.
    loader: Loader,
    /// The same as they are encoded.
    plain: Loader,
    tokenizer: Arc<TextTokenizer>,
    max_text_len: usize,
    /// Widths of the modalities of a vector.
    widths: Vec<usize>,
    current: Option<Current>,
}

impl Clusters {
    /// For the batches of a loader whose epochs are in chunks.
    ///
    /// # Errors
    /// As [`Loader::plain`].
    pub(crate) fn new(
        config: &ClusterConfig,
        model: &ModelConfig,
        loader: &Loader,
        tokenizer: &Arc<TextTokenizer>,
    ) -> Result<Self, TrainError> {
        let reads_pixels = config.view == ClusterView::TextImage;
        let [text, image] = model.stream_widths();
        let widths = match config.view {
            ClusterView::TextImage if !model.sums_up_both() => vec![text],
            ClusterView::TextImage => vec![text, image],
            ClusterView::TextOcr | ClusterView::TextCaption => vec![text, text],
        };
        Ok(Self {
            config: config.clone(),
            seed: loader.config().seed,
            plain: loader.plain(!reads_pixels)?,
            loader: loader.clone(),
            tokenizer: Arc::clone(tokenizer),
            max_text_len: model.text.max_text_len,
            widths,
            current: None,
        })
    }

    /// The settings.
    pub(crate) fn config(&self) -> &ClusterConfig {
        &self.config
    }

    /// The chunk that begins with a step; `None` when its labels are there.
    pub(crate) fn due(&self, step: u64) -> Option<Chunk> {
        let chunk = self.loader.chunk(step)?;
        let known = self.current.as_ref().map(|current| current.number);
        (known != Some(chunk.number)).then_some(chunk)
    }

    /// The groups of samples of the current chunk; `None` when one of them is of another.
    pub(crate) fn labels(&self, samples: &[usize]) -> Option<Vec<u32>> {
        let current = self.current.as_ref()?;
        samples
            .iter()
            .map(|sample| current.of.get(sample).copied())
            .collect()
    }

    /// Encodes and groups a chunk; `model` has no gradients. `seen` makes rows of a batch's images.
    ///
    /// # Errors
    /// A sample that cannot be read, or a vector that is not of numbers, named by its sample.
    pub(crate) fn begin(
        &mut self,
        chunk: &Chunk,
        model: &VisionLanguageModel,
        seen: impl Fn(&HostBatch) -> SeenRows<'_>,
        device: &Device,
        ranks: &Ranks,
    ) -> Result<ChunkRecord, TrainError> {
        let start = Instant::now();
        let vectors = self.vectors(chunk, model, seen, device, ranks)?;
        let failed = |source| self.failed(chunk, source);
        let rows = self.rows(&vectors).map_err(failed)?;
        let scale = self.preparation();
        let prepared = scale.fit(rows).and_then(|fitted| fitted.apply(rows));
        let prepared = prepared.map_err(failed)?;
        let rows = self.rows(&prepared).map_err(failed)?;
        let (found, changed) = self.group(rows, chunk.number).map_err(failed)?;
        let labels: Vec<u32> = found.labels.iter().map(|label| *label as u32).collect();
        let record = ChunkRecord {
            step: chunk.steps.start,
            number: chunk.number,
            pairs: chunk.samples.len(),
            sizes: found.sizes(),
            inertia: found.inertia,
            iterations: found.iterations,
            changed,
            seconds: start.elapsed().as_secs_f64(),
        };
        self.current = Some(Current {
            number: chunk.number,
            of: by_sample(&chunk.samples, &labels),
            labels,
            centres: found.centroids,
        });
        Ok(record)
    }

    /// The vectors of a chunk's pairs in the view of the recipe, row after row. Each rank encodes its
    /// part of every batch.
    fn vectors(
        &self,
        chunk: &Chunk,
        model: &VisionLanguageModel,
        seen: impl Fn(&HostBatch) -> SeenRows<'_>,
        device: &Device,
        ranks: &Ranks,
    ) -> Result<Vec<f32>, TrainError> {
        let (mut vectors, mut sizes) = (Vec::new(), Vec::new());
        let batches = Mix::one(self.plain.clone()).prefetch(chunk.steps.clone(), PREFETCH);
        for batch in batches {
            let batch = batch?;
            sizes.push(batch.samples.len());
            let own: Vec<usize> = batch.part.rows(batch.samples.len()).collect();
            if own.is_empty() {
                continue;
            }
            let tokens = |of: &[i64]| -> Vec<i64> {
                let of = |row: &usize| of.get(row * batch.text_len..(row + 1) * batch.text_len);
                own.iter().filter_map(of).flatten().copied().collect()
            };
            let (ids, mask) = (tokens(&batch.input_ids), tokens(&batch.attention_mask));
            let text = TextInput::from_padded(&ids, &mask, batch.text_len);
            let vector = match self.config.view {
                ClusterView::TextImage => {
                    let seen = match seen(&batch) {
                        SeenRows::Regions(rows) if !batch.part.is_whole() => {
                            SeenRows::Regions(&rows.select(&own)).seen(own.len(), device)
                        }
                        all => all.seen(own.len(), device),
                    };
                    let vector = model.pair_vector(&text, &seen);
                    vector.ok_or_else(|| TrainError::Recipe {
                        path: self.loader.dataset().name.clone(),
                        message: "the model has no eyes for these samples".to_owned(),
                        hint: None,
                    })?
                }
                view => {
                    let other = self.texts_beside(&batch, &own, view)?;
                    let vectors = [text, other].map(|text| model.text_vector(&text));
                    Tensor::cat(vectors.to_vec(), 1)
                }
            };
            vectors.extend(host(vector)?);
        }
        if ranks.count() == 1 {
            return Ok(vectors);
        }
        let given = ranks.gather("vectors", bytemuck::cast_slice(&vectors))?;
        let given = given
            .iter()
            .map(|bytes| bytemuck::pod_collect_to_vec(bytes));
        let given: Vec<Vec<f32>> = given.collect();
        // Rows were dealt like cards, batch by batch.
        let width: usize = self.widths.iter().sum();
        let mut rows: Vec<_> = given
            .iter()
            .map(|rows| rows.chunks_exact(width.max(1)))
            .collect();
        let dealt = sizes.into_iter().flat_map(|size| 0..size);
        let count = ranks.count();
        let dealt = dealt.filter_map(|row| rows.get_mut(row % count)?.next());
        Ok(dealt.flatten().copied().collect())
    }

    /// The OCR texts or captions of some rows of a batch; empty where a sample has none.
    fn texts_beside(
        &self,
        batch: &HostBatch,
        rows: &[usize],
        view: ClusterView,
    ) -> Result<TextInput, TrainError> {
        let dataset = self.loader.dataset();
        let texts = rows
            .iter()
            .filter_map(|row| batch.samples.get(*row))
            .map(|index| Ok(beside(dataset.sample(*index)?, view).unwrap_or_default()))
            .collect::<Result<Vec<&str>, TrainError>>()?;
        let (ids, mask, len) = encode_texts(&self.tokenizer, &texts, self.max_text_len);
        Ok(TextInput::from_padded(&ids, &mask, len))
    }

    fn rows<'a>(&self, values: &'a [f32]) -> Result<Rows<'a>, RelationError> {
        Rows::new(values, self.widths.iter().sum())
    }

    fn preparation(&self) -> Preparation {
        match self.config.scale {
            ClusterScale::None => Preparation::Raw,
            ClusterScale::Normalize => Preparation::Normalize,
            ClusterScale::Scale => Preparation::Scale,
            ClusterScale::Modality => Preparation::Modalities(self.widths.clone()),
        }
    }

    /// Groups rows; and how many of them the centres of the chunk before would have in another group.
    fn group(&self, rows: Rows<'_>, number: u64) -> Result<(KMeans, Option<usize>), RelationError> {
        let config = &self.config;
        let mut stream = chiasm_data::rng::stream(self.seed, "clusters", &[number]);
        let settings = KMeansConfig {
            clusters: config.clusters,
            restarts: config.restarts,
            max_iterations: config.iterations,
            seed: chiasm_data::rng::below(&mut stream, usize::MAX) as u64,
            assignment: match config.balanced {
                true => Assignment::Balanced(Balance::default()),
                false => Assignment::Nearest,
            },
            ..KMeansConfig::default()
        };
        let before = self.current.as_ref().map(|current| KMeans {
            labels: Vec::new(),
            centroids: current.centres.clone(),
            width: rows.width(),
            inertia: 0.0,
            iterations: 0,
        });
        let Some(before) = before else {
            return Ok((kmeans(rows, &settings)?, None));
        };
        let mut found = match config.warm_start {
            true => kmeans_from(rows, self.rows(&before.centroids)?, &settings)?,
            false => kmeans(rows, &settings)?,
        };
        let expected = before.nearest(rows)?;
        // What each group of now was then: as many pairs as possible keep their number.
        let clusters = found.clusters();
        let mut costs = vec![0.0; clusters * clusters];
        for (now, then) in found.labels.iter().zip(&expected) {
            if let Some(cost) = costs.get_mut(now * clusters + then) {
                *cost -= 1.0;
            }
        }
        let continued = align::cheapest(&costs, clusters);
        let then_of = |now: &usize| continued.get(*now).copied().unwrap_or(*now);
        let pairs = found.labels.iter().zip(&expected);
        let changed = pairs.filter(|(now, then)| then_of(now) != **then).count();
        if config.align {
            found.labels = found.labels.iter().map(then_of).collect();
            let mut centroids = found.centroids.clone();
            for (now, centre) in found.centroids.chunks_exact(rows.width()).enumerate() {
                let first = then_of(&now) * rows.width();
                if let Some(place) = centroids.get_mut(first..first + rows.width()) {
                    place.copy_from_slice(centre);
                }
            }
            found.centroids = centroids;
        }
        Ok((found, Some(changed)))
    }

    fn failed(&self, chunk: &Chunk, source: RelationError) -> TrainError {
        let row = match &source {
            RelationError::NotFinite { row, .. } | RelationError::TooLarge { row } => Some(*row),
            _ => None,
        };
        let index = row.and_then(|row| chunk.samples.get(row));
        let sample = index.and_then(|index| self.loader.dataset().samples.get(*index));
        TrainError::Clusters {
            chunk: chunk.number,
            sample: sample.map(|sample| sample.id.clone()),
            source,
        }
    }

    /// For a checkpoint: the number of the current chunk, its labels and centres.
    pub(crate) fn state(&self) -> Option<(u64, StateDict)> {
        let current = self.current.as_ref()?;
        let width: usize = self.widths.iter().sum();
        let labels = current.labels.iter().map(|label| *label as f32).collect();
        let tensors = [
            ("labels", vec![current.labels.len()], labels),
            (
                "centres",
                vec![self.config.clusters, width],
                current.centres.clone(),
            ),
        ];
        let state =
            tensors.map(|(name, shape, values)| (name.to_owned(), HostTensor { shape, values }));
        Some((current.number, state.into()))
    }

    /// Puts back what a checkpoint holds of chunk `number`, at a step of it or right behind it.
    pub(crate) fn restore(&mut self, number: u64, step: u64, mut state: StateDict) -> Option<()> {
        let at = |step| {
            self.loader
                .chunk(step)
                .filter(|chunk| chunk.number == number)
        };
        let chunk = at(step).or_else(|| at(step.checked_sub(1)?))?;
        let labels = state.remove("labels")?.values;
        let labels: Vec<u32> = labels.into_iter().map(|label| label as u32).collect();
        let centres = state.remove("centres")?.values;
        let width: usize = self.widths.iter().sum();
        let fits = labels.len() == chunk.samples.len()
            && centres.len() == self.config.clusters * width
            && labels
                .iter()
                .all(|label| (*label as usize) < self.config.clusters);
        fits.then(|| {
            self.current = Some(Current {
                number,
                of: by_sample(&chunk.samples, &labels),
                labels,
                centres,
            });
        })
    }
}

/// The text beside a sample's own in a view of texts alone; `None` where it has none.
fn beside(sample: &chiasm_data::Sample, view: ClusterView) -> Option<&str> {
    match view {
        ClusterView::TextImage => None,
        ClusterView::TextOcr => sample.annotations.ocr.as_deref(),
        ClusterView::TextCaption => sample.annotations.caption.as_deref(),
    }
}

/// Refuses data that has nothing of what a view looks at.
///
/// # Errors
/// No sample has such a text.
pub(crate) fn require_view(config: &ClusterConfig, dataset: &Dataset) -> Result<(), TrainError> {
    let (view, column) = match config.view {
        ClusterView::TextImage => return Ok(()),
        ClusterView::TextOcr => ("text_ocr", "ocr"),
        ClusterView::TextCaption => ("text_caption", "caption"),
    };
    let mut samples = dataset.samples.iter();
    if samples.any(|sample| beside(sample, config.view).is_some()) {
        return Ok(());
    }
    Err(TrainError::Recipe {
        path: dataset.name.clone(),
        message: format!(
            "`objectives.cluster.view` = \"{view}\", and no training sample has such a text"
        ),
        hint: Some(format!(
            "give a table with a column `{column}`, or group by another view with `--tasks`"
        )),
    })
}

fn by_sample(samples: &[usize], labels: &[u32]) -> HashMap<usize, u32> {
    samples
        .iter()
        .copied()
        .zip(labels.iter().copied())
        .collect()
}

fn host(tensor: Tensor<2>) -> Result<Vec<f32>, TrainError> {
    tensor
        .try_into_vec_as::<f32>()
        .map_err(|error| TrainError::Device(error.to_string()))
}
