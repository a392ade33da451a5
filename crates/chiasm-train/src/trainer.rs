//! The training loop.
//!
//! A step is a pure function of the state and its number: order, captions, masks and dropout are
//! keyed by (seed, step, sample), never by a generator that has been running. So a run that is
//! killed and resumed from a checkpoint repeats, bit for bit on the same machine and number of
//! threads, what an uninterrupted run does.
//!
//! Several ranks ([`Ranks`]) train as one: each computes its part of every batch, and gradients are
//! added up (`together.rs`). All of them hold the same weights and take the same decisions; the first one
//! alone writes. Dropout is drawn apart: with it, N ranks are as good as one and not the same.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use chiasm_data::{HostBatch, Loader, LoaderConfig, Mix, Part, Targets, TextTokenizer};
use chiasm_nn::compute::{self, Products};
use chiasm_nn::dropout;
use chiasm_nn::heads::ClusterHead;
use chiasm_nn::layers::Init;
use chiasm_nn::published::scl;
use chiasm_nn::select::{self, KeptHead, Meter};
use chiasm_nn::weights::{from_safetensors, replace_value, state_dict, to_safetensors};
use chiasm_nn::{ModelConfig, VisionLanguageModel};
use chiasm_objective::knowledge_masks::Knowledge;
use chiasm_objective::losses::{self, Losses};
use chiasm_objective::masking::{
    ClassRows, DrawKey, ImageRows, KnownRows, SeenRows, TextRows, Vocabulary, step_input,
};

use chiasm_ranks::{RankError, Ranks};
use serde_json::Value;

use crate::checkpoint::{self, Best, Checkpoint, Files, Keep, Metrics, RunState};
use crate::clusters::{ChunkRecord, Clusters};
use crate::data::TrainData;
use crate::error::TrainError;
use crate::frozen::FrozenImages;
use crate::gradients::{GradientSum, clip_factor};
use crate::optimizer::Optimizer;
use crate::prepare::{
    knowledge, model_config, preprocess, region_limits, require_rows, vocabulary,
};
use crate::recipe::Recipe;
use crate::run::{MetricLine, RunDir};
use crate::start::{self, Loaded};
use crate::together::{Adder, DeviceSum, LAST, Pace, SlowRank, Together, digest};
use crate::trained::load_weights;

/// Bounds of the learned temperature; outside them the published form can reach zero or below.
const TEMPERATURE_RANGE: (f32, f32) = (0.001, 0.5);
/// Batches prepared ahead of the step that uses them.
const PREFETCH: usize = 3;

/// What one optimiser step did.
#[derive(Clone, Debug)]
pub struct StepRecord {
    /// Steps done, this one included.
    pub step: u64,
    /// Steps of the whole run.
    pub total_steps: u64,
    /// Epoch, counted from 0.
    pub epoch: u64,
    /// Weighted sum of all losses.
    pub loss: f64,
    /// Each loss, unweighted.
    pub terms: BTreeMap<String, f64>,
    /// Base learning rate of the step.
    pub learning_rate: f64,
    /// Norm of all gradients before clipping.
    pub gradient_norm: f64,
    /// Pairs a second over this step.
    pub samples_per_second: f64,
    /// How much attention each head kept; nothing in most steps, and where all is kept.
    pub kept: Vec<KeptHead>,
}

/// Steps from one in which kept attention is counted to the next.
const KEPT_EVERY: u64 = 20;

/// What a run shows and asks while it goes on.
pub trait Observer {
    /// After every step.
    fn step(&mut self, _record: &StepRecord) {}
    /// After the pairs of a chunk got their pseudo-labels.
    fn chunk(&mut self, _record: &ChunkRecord) {}
    /// After a checkpoint appeared.
    fn saved(&mut self, _path: &Path) {}
    /// When one of several ranks is much slower than the others.
    fn slow(&mut self, _rank: &SlowRank) {}
    /// Measures the model on validation data; the values are logged.
    ///
    /// # Errors
    /// What stopped the measurement; the run stops too.
    fn evaluate(&mut self, _model: &VisionLanguageModel) -> Result<BTreeMap<String, f64>, String> {
        Ok(BTreeMap::new())
    }
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Steps done.
    pub step: u64,
    /// True when it was asked to stop before its last step.
    pub interrupted: bool,
    /// Pairs a second over this process's steps, evaluation and checkpoints left out.
    pub samples_per_second: f64,
}

/// What a step found before its update.
struct Found {
    /// Weighted sum of all losses.
    loss: f64,
    /// Each loss, unweighted.
    terms: BTreeMap<String, f64>,
    sum: GradientSum,
}

/// Model, optimiser and data of a run.
pub struct Trainer {
    recipe: Recipe,
    model_config: ModelConfig,
    /// There except while a step replaces it: values are changed where they lie, which takes a
    /// model that nothing else holds.
    model: Option<VisionLanguageModel>,
    optimizer: Optimizer,
    /// What a frozen image tower gave before.
    frozen: Option<FrozenImages>,
    batches: Mix,
    targets: Option<Arc<Targets>>,
    tokenizer: Arc<TextTokenizer>,
    vocabulary: Vocabulary,
    knowledge: Option<Knowledge>,
    clusters: Option<Clusters>,
    device: Device,
    step: u64,
    /// Figures of the model as it is, when it was evaluated.
    evaluated: BTreeMap<String, f64>,
    best: Option<Best>,
    data_fingerprint: String,
    ranks: Arc<Ranks>,
    /// Step of the last checkpoint of this process.
    saved_at: Option<u64>,
    /// Whether this rank was asked to stop, and whether any was before the step that was done last.
    stopping: [bool; 2],
    /// Time of a step in which ranks were waited for while the backward pass went on.
    behind: Duration,
    /// What adds up gradients of several ranks on their devices, where that is not done in memory.
    device_sum: Option<Box<DeviceSum>>,
}

impl Trainer {
    /// A run at its beginning.
    ///
    /// # Errors
    /// If the data cannot feed the recipe.
    pub fn new(
        recipe: Recipe,
        data: &TrainData,
        tokenizer: Arc<TextTokenizer>,
        device: &Device,
    ) -> Result<Self, TrainError> {
        Self::among(Arc::new(Ranks::alone()), recipe, data, tokenizer, device)
    }

    /// One rank's side of a run of several at its beginning.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn among(
        ranks: Arc<Ranks>,
        recipe: Recipe,
        data: &TrainData,
        tokenizer: Arc<TextTokenizer>,
        device: &Device,
    ) -> Result<Self, TrainError> {
        let device = device.clone().autodiff();
        if recipe.schedule.precision == Products::Bf16 && compute::is_fused(&device) {
            return Err(TrainError::Recipe {
                path: recipe.name,
                message: "`schedule.precision = \"bf16\"` is for GPUs: a CPU's fused operations train in f32".to_owned(),
                hint: Some("leave it out, name a GPU with `--device`, or write `--kernels plain` to compute it on a CPU, slowly".to_owned()),
            });
        }
        let device = match recipe.schedule.gradient_checkpointing {
            true => device.gradient_checkpointing(),
            false => device,
        };
        let model_config = model_config(&recipe, &tokenizer, data)?;
        let init = Init::new(recipe.schedule.seed, model_config.init_std, &device);
        let model = VisionLanguageModel::new(&init, &model_config);
        let mut loaders = Vec::new();
        for (config, source) in recipe.sources().zip(&data.sources) {
            let loader = Loader::new(
                Arc::clone(&source.dataset),
                Arc::clone(&tokenizer),
                LoaderConfig {
                    batch_size: recipe.schedule.batch_size,
                    seed: recipe.schedule.seed,
                    max_text_len: model_config.text.max_text_len,
                    preprocess: preprocess(&recipe),
                    views: source.views,
                    blind: config.blind,
                    regions: region_limits(&model_config),
                    targets: source.targets.clone(),
                    train: true,
                    chunk: recipe
                        .objectives
                        .cluster
                        .as_ref()
                        .map(|cluster| cluster.chunk),
                    part: Part::new(ranks.rank(), ranks.count()),
                    cache_bytes: config.cache_mb << 20,
                    threads: 0,
                },
            )?;
            loaders.push((loader, config.weight));
        }
        require_rows(&ranks, &recipe, &loaders)?;
        let knowledge = knowledge(&recipe, data)?;
        let clusters = match (&recipe.objectives.cluster, loaders.first()) {
            (Some(cluster), Some((loader, _))) => {
                Some(Clusters::new(cluster, &model_config, loader, &tokenizer)?)
            }
            _ => None,
        };
        Ok(Self {
            knowledge,
            clusters,
            frozen: FrozenImages::new(&recipe, data.pictures()),
            optimizer: Optimizer::new(recipe.optimizer.clone()),
            vocabulary: vocabulary(&tokenizer, &recipe)?,
            model: Some(recipe.weights.frozen(model)),
            recipe,
            model_config,
            batches: Mix::new(loaders)?,
            targets: data.targets.clone(),
            tokenizer,
            device,
            step: 0,
            evaluated: BTreeMap::new(),
            best: None,
            data_fingerprint: data.fingerprint(),
            ranks,
            saved_at: None,
            stopping: [false; 2],
            behind: Duration::ZERO,
            device_sum: None,
        })
    }

    /// Lets gradients of several ranks be added up on their devices, instead of in the memory of their processes. All ranks
    /// must be given such a sum.
    pub fn add_up_on_device(&mut self, sum: Box<DeviceSum>) {
        self.device_sum = Some(sum);
    }

    /// Puts the weights that the recipe names into the model, before the first step.
    ///
    /// # Errors
    /// As [`start::apply`].
    pub fn begin_with_weights(&mut self) -> Result<Vec<Loaded>, TrainError> {
        let model = self.model().clone();
        let (recipe, config) = (&self.recipe, &self.model_config);
        let (model, loaded) = start::apply(&recipe.weights, config, model, &self.device)?;
        self.set_model(model);
        Ok(loaded)
    }

    /// Puts a saved state back, after checking that it belongs to this recipe and data.
    ///
    /// # Errors
    /// If it does not, or cannot be read.
    pub fn restore(&mut self, checkpoint: &Checkpoint) -> Result<(), TrainError> {
        let state: RunState = checkpoint.json(checkpoint::STATE_FILE)?;
        let mismatch = |what: String| TrainError::ResumeMismatch {
            path: checkpoint.path.clone(),
            what,
        };
        if state.data_fingerprint != self.data_fingerprint {
            return Err(mismatch("the training data".to_owned()));
        }
        let text = checkpoint.text(checkpoint::RECIPE_FILE)?;
        let origin = checkpoint.path.display().to_string();
        let mut saved = Recipe::from_toml(text, &origin)?;
        // Changes no number of a run, so one that has run out of memory may go on with it.
        saved.schedule.gradient_checkpointing = self.recipe.schedule.gradient_checkpointing;
        if saved != self.recipe {
            let now = self.recipe.to_toml()?;
            let changed: Vec<&str> = now
                .lines()
                .filter(|line| !text.lines().any(|l| l == *line))
                .collect();
            return Err(mismatch(format!(
                "the recipe now says `{}`",
                changed.join("`, `")
            )));
        }
        let weights = |name: &str| {
            from_safetensors(checkpoint.file(name)?).map_err(|source| TrainError::Weights {
                path: checkpoint.path.join(name),
                source,
            })
        };
        let model = load_weights(self.model().clone(), checkpoint)?;
        self.set_model(model);
        self.optimizer.restore(
            weights(checkpoint::OPTIMIZER_FILE)?,
            state.optimizer_steps,
            &self.device.clone().without_autodiff(),
        );
        self.step = state.step;
        self.saved_at = Some(state.step);
        self.best = state.best;
        if let (Some(clusters), Some(chunk)) = (&mut self.clusters, state.chunk) {
            let labels = weights(checkpoint::CLUSTERS_FILE)?;
            clusters
                .restore(chunk, state.step, labels)
                .ok_or_else(|| TrainError::Checkpoint {
                    path: checkpoint.path.clone(),
                    reason: format!("its pseudo-labels are not those of chunk {chunk}"),
                })?;
        }
        // A set of before figures were saved has none.
        let metrics = checkpoint.json::<Metrics>(checkpoint::METRICS_FILE);
        self.evaluated = metrics.unwrap_or_default().values;
        Ok(())
    }

    /// Takes other weights.
    fn set_model(&mut self, model: VisionLanguageModel) {
        self.model = Some(self.recipe.weights.frozen(model));
        if let Some(frozen) = &mut self.frozen {
            frozen.clear();
        }
    }

    /// Steps done.
    #[must_use]
    pub fn steps_done(&self) -> u64 {
        self.step
    }

    /// The model without gradients, for evaluation.
    #[must_use]
    pub fn evaluation_model(&self) -> VisionLanguageModel {
        self.model().valid()
    }

    /// The model as it is, with gradients.
    #[must_use]
    pub fn model(&self) -> &VisionLanguageModel {
        match &self.model {
            Some(model) => model,
            None => unreachable!("a step puts the model back before it ends"),
        }
    }

    /// Trains to the recipe's last step, or until `stop` is set; saves at the end of either.
    ///
    /// # Errors
    /// Bad data, a full disk, a loss that is not a number, a rank that is gone; checkpoints written
    /// before stay.
    pub fn run(
        &mut self,
        run: &mut RunDir,
        observer: &mut dyn Observer,
        stop: &AtomicBool,
    ) -> Result<Outcome, TrainError> {
        let outcome = self.run_steps(run, observer, stop);
        match &outcome {
            Err(TrainError::Ranks(error)) => {
                run.log(&format!("step {}: {error}", self.step))?;
                let is_whole = !matches!(error, RankError::Differ { .. });
                // What this rank holds is the state after the last step that all took.
                if is_whole && self.step > 0 && self.saved_at != Some(self.step) {
                    self.write(run, observer)?;
                }
            }
            Err(error) => self.ranks.fail(&error.to_string()),
            Ok(_) => {}
        }
        outcome
    }

    fn run_steps(
        &mut self,
        run: &mut RunDir,
        observer: &mut dyn Observer,
        stop: &AtomicBool,
    ) -> Result<Outcome, TrainError> {
        self.ranks.begin_step(self.step);
        self.require_same_weights()?;
        let schedule = self.recipe.schedule.clone();
        let micro = schedule.accumulate;
        let batches = self.step * micro..schedule.steps * micro;
        let mut stream = self.batches.prefetch(batches, PREFETCH);
        let (mut busy, mut pairs) = (0.0, 0usize);
        let mut pace = Pace::default();
        while self.step < schedule.steps && !self.is_stopped(stop) {
            self.ranks.begin_step(self.step + 1);
            if let Some(record) = self.begin_chunk()? {
                observer.chunk(&record);
                run.record(&MetricLine {
                    kind: "cluster".to_owned(),
                    step: record.step,
                    values: record.values(),
                })?;
            }
            let (start, waited) = (Instant::now(), self.ranks.waited());
            self.behind = Duration::ZERO;
            let mut batches = Vec::with_capacity(micro as usize);
            for _ in 0..micro {
                match stream.next() {
                    Some(batch) => batches.push(batch?),
                    None => break,
                }
            }
            let count: usize = batches.iter().map(|batch| batch.samples.len()).sum();
            self.stopping[0] = stop.load(Ordering::Relaxed);
            let mut record = self.train_step(&batches)?;
            let seconds = start.elapsed().as_secs_f64();
            record.samples_per_second = count as f64 / seconds;
            busy += seconds;
            pairs += count;
            let waited = (self.ranks.waited() - waited).saturating_sub(self.behind);
            pace.step(seconds - waited.as_secs_f64());
            if let Some(slow) = pace.slowest(&self.ranks)? {
                observer.slow(&slow);
            }
            observer.step(&record);
            run.record(&metric_line(&record))?;
            let step = self.step;
            let due = |every: u64| every > 0 && step.is_multiple_of(every);
            let measure = due(schedule.eval_every) || step == schedule.steps;
            let is_best = measure && self.evaluate(run, observer)?;
            if due(schedule.save_every) || (is_best && schedule.keep_best) {
                self.save(run, observer)?;
            }
        }
        if self.saved_at != Some(self.step) {
            self.save(run, observer)?;
        }
        Ok(Outcome {
            step: self.step,
            interrupted: self.step < schedule.steps,
            samples_per_second: if busy > 0.0 { pairs as f64 / busy } else { 0.0 },
        })
    }

    /// Whether to stop before the next step. Several ranks stop when all know that one of them was
    /// asked to, so that they stop after the same step.
    fn is_stopped(&self, stop: &AtomicBool) -> bool {
        match self.ranks.count() {
            1 => stop.load(Ordering::Relaxed),
            _ => self.stopping[1],
        }
    }

    /// Refuses to go on with ranks whose weights are not those of the first one.
    fn require_same_weights(&self) -> Result<(), TrainError> {
        if self.ranks.count() > 1 {
            let step = self.step.to_le_bytes();
            self.ranks.agree("step", &step)?;
            self.ranks.agree("weights", &digest(self.model()))?;
        }
        Ok(())
    }

    /// Gives the pairs of the next step's chunk their pseudo-labels, where that step begins one, and
    /// draws the head that learns them anew.
    ///
    /// # Errors
    /// A sample that cannot be read, or a vector that is not of numbers.
    pub fn begin_chunk(&mut self) -> Result<Option<ChunkRecord>, TrainError> {
        let due = self
            .clusters
            .as_ref()
            .and_then(|clusters| clusters.due(self.step));
        let Some(chunk) = due else {
            return Ok(None);
        };
        let Some(mut clusters) = self.clusters.take() else {
            return Ok(None);
        };
        let model = self.evaluation_model();
        let device = self.device.clone().without_autodiff();
        let ranks = &self.ranks;
        let record = clusters.begin(&chunk, &model, |batch| self.seen(batch), &device, ranks);
        let config = clusters.config();
        let (align, reset) = (config.align, config.reset_moments);
        self.clusters = Some(clusters);
        let record = record?;
        // What is aligned goes on.
        if align && record.changed.is_some() {
            return Ok(Some(record));
        }
        let seed = self.recipe.schedule.seed;
        self.model = self.model.take().map(|mut model| {
            let redrawn = |head: ClusterHead| head.redrawn(seed, chunk.number);
            model.cluster_head = model.cluster_head.map(redrawn);
            model
        });
        if reset {
            self.optimizer.forget("cluster_head.");
        }
        Ok(Some(record))
    }

    /// One optimiser step over micro-batches.
    ///
    /// # Errors
    /// A loss or gradient that is not a number.
    pub fn train_step(&mut self, batches: &[HostBatch]) -> Result<StepRecord, TrainError> {
        let precision = self.recipe.schedule.precision;
        compute::with_products(precision, || self.step_in_precision(batches))
    }

    fn step_in_precision(&mut self, batches: &[HostBatch]) -> Result<StepRecord, TrainError> {
        let schedule = self.recipe.schedule.clone();
        let total = schedule.steps;
        let progress = self.step as f64 / total.max(1) as f64;
        select::begin_step(self.selection_strength(), progress);
        // What is kept is counted now and then: counting costs as much as attending.
        let counts = self.model_config.select.is_some() && self.step.is_multiple_of(KEPT_EVERY);
        let meter = counts.then(|| Arc::new(Meter::new()));
        let Found { loss, terms, sum } = self.differentiate(batches, meter.as_ref())?;
        // Here and not before: then all ranks see it.
        if !loss.is_finite() {
            return Err(self.not_finite("the loss", batches));
        }
        let norm = sum.norm();
        if !norm.is_finite() {
            return Err(self.not_finite("the gradient", batches));
        }
        let scale = if schedule.clip_norm > 0.0 {
            clip_factor(norm, schedule.clip_norm)
        } else {
            1.0
        };
        let factor = schedule.learning_rate.factor(self.step, total);
        let rate = self.recipe.optimizer.learning_rate * factor;
        self.model = self.model.take().map(|model| {
            let mut model = self.optimizer.step(model, sum, rate, scale);
            let (low, high) = TEMPERATURE_RANGE;
            model.temperature = model.temperature.map(|temperature| {
                let clamped = temperature.val().inner().clamp(low, high);
                replace_value(temperature, clamped)
            });
            model
        });
        self.step += 1;
        self.evaluated.clear();
        Ok(StepRecord {
            kept: meter.map_or_else(Vec::new, |meter| meter.heads()),
            step: self.step,
            total_steps: total,
            epoch: batches.last().map_or(0, |batch| batch.epoch),
            loss,
            terms,
            learning_rate: rate,
            gradient_norm: norm,
            samples_per_second: 0.0,
        })
    }

    /// Losses and gradients of micro-batches, of all ranks.
    fn differentiate(
        &mut self,
        batches: &[HostBatch],
        meter: Option<&Arc<Meter>>,
    ) -> Result<Found, TrainError> {
        let share = 1.0 / batches.len().max(1) as f64;
        let ranks = self.ranks.count();
        let mut terms: BTreeMap<String, f64> = BTreeMap::new();
        let (mut loss, mut all, mut sum) = (0.0, 0.0, GradientSum::new(&self.device));
        for (number, batch) in batches.iter().enumerate() {
            let losses = self.losses(batch, meter)?;
            for term in &losses.terms {
                let part = share * term.part(ranks) * scalar(&term.value);
                *terms.entry(term.name.to_owned()).or_default() += part;
                all += term.weight * part;
            }
            let total = losses.total();
            loss += total.as_ref().map_or(0.0, |total| share * scalar(total));
            let total = total.map(|total| total.mul_scalar(share));
            if ranks == 1 || number + 1 < batches.len() {
                losses.backward(total, |_, found| sum.collect(self.model(), found));
                continue;
            }
            let stopping = if self.stopping[0] { 1.0 } else { 0.0 };
            let mut figures: Vec<f32> = terms.values().map(|value| *value as f32).collect();
            figures.extend([all as f32, stopping]);
            let model = self.model();
            let adder = Adder {
                ranks: &self.ranks,
                on_device: self.device_sum.as_deref(),
                device: &self.device,
            };
            let added = adder.add_up(model, &mut figures, |send| {
                losses.backward(total, |stage, found| {
                    sum.collect(model, found);
                    send(stage, sum.take_through(stage));
                });
                send(LAST, sum.take_through(LAST));
            })?;
            sum = added.sum;
            self.behind += added.behind;
            self.stopping[1] = figures.pop().is_some_and(|asked| asked > 0.0);
            loss = figures.pop().map_or(loss, f64::from);
            for (value, figure) in terms.values_mut().zip(figures) {
                *value = f64::from(figure);
            }
        }
        Ok(Found { loss, terms, sum })
    }

    /// The losses of a micro-batch, of this rank's part. The graph has what it needs of the batch, which is gone.
    fn losses(
        &mut self,
        batch: &HostBatch,
        meter: Option<&Arc<Meter>>,
    ) -> Result<Losses, TrainError> {
        let drawn = dropout_seed(self.recipe.schedule.seed, batch.step, self.ranks.rank());
        dropout::begin_step(drawn, &self.device);
        let mut input = self.step_input(batch);
        if let (Some(frozen), Some(model)) = (&mut self.frozen, &self.model) {
            input.encoded = frozen.images(model, &input.seen, batch);
        }
        let (objectives, gather) = (&self.recipe.objectives, Together(&self.ranks));
        let run = || losses::shared_with(self.model(), objectives, &input, &gather);
        let losses = match meter {
            Some(meter) => select::metered(meter, run),
            None => run(),
        };
        match self.ranks.broken() {
            Some(error) => Err(error.into()),
            None => Ok(losses),
        }
    }

    /// How far the threshold of selected attention has grown: linearly over the steps that a recipe
    /// gives it, or over the learning rate's warm-up.
    fn selection_strength(&self) -> f64 {
        let (schedule, step) = (&self.recipe.schedule, self.step);
        let select = self.model_config.select.as_ref();
        let steps = select.and_then(|select| select.warmup_steps);
        let steps = steps.unwrap_or_else(|| {
            let warmup = schedule.learning_rate.warmup_share(schedule.steps);
            (warmup * schedule.steps as f64).round() as usize
        });
        match steps {
            0 => 1.0,
            steps => ((step + 1) as f64 / steps as f64).min(1.0),
        }
    }

    /// A batch on the device with everything random of its step drawn.
    #[must_use]
    pub fn step_input(&self, batch: &HostBatch) -> chiasm_objective::StepInput {
        let clusters = self.clusters.as_ref();
        let clusters = clusters.and_then(|clusters| clusters.labels(&batch.samples));
        step_input(
            TextRows {
                input_ids: &batch.input_ids,
                attention_mask: &batch.attention_mask,
                len: batch.text_len,
                word_ids: &batch.word_ids,
            },
            self.seen(batch),
            KnownRows {
                classes: (!batch.targets.is_empty()).then(|| ClassRows {
                    targets: &batch.targets,
                    shares: &batch.shares,
                    classes: self.model_config.heads.classes,
                    progress: self.step as f64 / self.recipe.schedule.steps.max(1) as f64,
                }),
                referred: &batch.referred,
                captions: &batch.texts,
                offsets: &batch.offsets,
                knowledge: self.knowledge.as_ref(),
                clusters: clusters.as_deref(),
                part: batch.part,
            },
            &self.vocabulary,
            &self.recipe.objectives,
            DrawKey {
                seed: self.recipe.schedule.seed,
                step: batch.step,
                samples: &batch.samples,
            },
            &self.device,
        )
    }

    /// What is to be seen in a batch.
    fn seen<'a>(&self, batch: &'a HostBatch) -> SeenRows<'a> {
        match &batch.regions {
            Some(regions) => SeenRows::Regions(regions),
            None => SeenRows::Pixels(ImageRows {
                pixel_values: &batch.pixel_values,
                pictures: batch.views.pictures,
                frames: batch.views.frames,
                image_size: batch.image_size,
                patches: self.model_config.vision.num_patches(),
            }),
        }
    }

    /// Measures the model; true when the monitored figure was never better.
    fn evaluate(
        &mut self,
        run: &mut RunDir,
        observer: &mut dyn Observer,
    ) -> Result<bool, TrainError> {
        let model = self.evaluation_model();
        // Every rank measures: one that waited for another would not know a long evaluation from a hang.
        let values = observer.evaluate(&model).map_err(TrainError::Evaluation)?;
        let values = self.of_first(values)?;
        if values.is_empty() {
            return Ok(false);
        }
        let line = MetricLine {
            kind: "val".to_owned(),
            step: self.step,
            values,
        };
        run.record(&line)?;
        self.evaluated = line.values;
        let monitor = self.recipe.monitor();
        let Some(value) = self.evaluated.get(monitor).copied() else {
            let known: Vec<&str> = self.evaluated.keys().map(String::as_str).collect();
            return Err(TrainError::Recipe {
                path: self.recipe.name.clone(),
                message: format!("`evaluation.monitor` = \"{monitor}\" is not measured"),
                hint: Some(format!("measured are: {}", known.join(", "))),
            });
        };
        let is_best = self
            .best
            .is_none_or(|best| checkpoint::better(monitor, value, best.value));
        if is_best {
            let step = self.step;
            self.best = Some(Best { step, value });
        }
        Ok(is_best)
    }

    /// The figures of the first rank, whose decisions are all ranks'.
    fn of_first(
        &self,
        mut own: BTreeMap<String, f64>,
    ) -> Result<BTreeMap<String, f64>, TrainError> {
        if self.ranks.count() > 1 {
            let values: Vec<f64> = own.values().copied().collect();
            let given = self
                .ranks
                .gather("figures", bytemuck::cast_slice(&values))?;
            let first = given.into_iter().next().unwrap_or_default();
            let first: Vec<f64> = bytemuck::pod_collect_to_vec(&first);
            for (own, first) in own.values_mut().zip(first) {
                *own = first;
            }
        }
        Ok(own)
    }

    /// Saves, after a look whether all ranks hold the same.
    fn save(&mut self, run: &mut RunDir, observer: &mut dyn Observer) -> Result<(), TrainError> {
        self.require_same_weights()?;
        self.write(run, observer)
    }

    /// Writes a checkpoint, where this is the first rank.
    fn write(&mut self, run: &mut RunDir, observer: &mut dyn Observer) -> Result<(), TrainError> {
        self.saved_at = Some(self.step);
        if !self.ranks.is_first() {
            return Ok(());
        }
        let files = self.files()?;
        let keep = Keep {
            newest: self.recipe.schedule.keep,
            best: self
                .best
                .filter(|_| self.recipe.schedule.keep_best)
                .map(|best| best.step),
        };
        let path = checkpoint::save(&run.checkpoints(), self.step, &files, keep)?;
        run.log(&format!("step {}: saved {}", self.step, path.display()))?;
        observer.saved(&path);
        Ok(())
    }

    /// Everything a checkpoint holds.
    ///
    /// # Errors
    /// If a part cannot be written as bytes.
    pub fn files(&self) -> Result<Files, TrainError> {
        let refused = |name: &str, reason: String| TrainError::Checkpoint {
            path: name.into(),
            reason,
        };
        let tensors = |name: &str, state| {
            to_safetensors(&state, BTreeMap::new())
                .map_err(|error| refused(name, error.to_string()))
        };
        let json = |name: &str, value: serde_json::Result<String>| {
            value
                .map(String::into_bytes)
                .map_err(|error| refused(name, error.to_string()))
        };
        let (moments, optimizer_steps) = self.optimizer.state();
        let clusters = self.clusters.as_ref().and_then(Clusters::state);
        let state = RunState {
            step: self.step,
            optimizer_steps,
            data_fingerprint: self.data_fingerprint.clone(),
            best: self.best,
            chunk: clusters.as_ref().map(|(chunk, _)| *chunk),
        };
        let metrics = Metrics {
            monitor: self.recipe.monitor().to_owned(),
            values: self.evaluated.clone(),
        };
        let tokenizer = self
            .tokenizer
            .to_json()
            .map_err(|error| refused(checkpoint::TOKENIZER_FILE, error.to_string()))?;
        let preprocess = preprocess(&self.recipe).to_hf_json();
        let entries = [
            (
                checkpoint::MODEL_FILE,
                tensors(checkpoint::MODEL_FILE, state_dict(self.model()))?,
            ),
            (
                checkpoint::OPTIMIZER_FILE,
                tensors(checkpoint::OPTIMIZER_FILE, moments)?,
            ),
            (
                checkpoint::CONFIG_FILE,
                json(
                    checkpoint::CONFIG_FILE,
                    scl::to_json(&self.model_config)
                        .map(|config| with_classes(config, self.targets.as_deref()))
                        .map_err(|error| refused(checkpoint::CONFIG_FILE, error.to_string()))
                        .map(|config| serde_json::to_string_pretty(&config))?,
                )?,
            ),
            (checkpoint::TOKENIZER_FILE, tokenizer.into_bytes()),
            (
                checkpoint::PREPROCESSOR_FILE,
                json(
                    checkpoint::PREPROCESSOR_FILE,
                    serde_json::to_string_pretty(&preprocess),
                )?,
            ),
            (checkpoint::RECIPE_FILE, self.recipe.to_toml()?.into_bytes()),
            (
                checkpoint::STATE_FILE,
                json(checkpoint::STATE_FILE, serde_json::to_string_pretty(&state))?,
            ),
            (
                checkpoint::METRICS_FILE,
                json(
                    checkpoint::METRICS_FILE,
                    serde_json::to_string_pretty(&metrics),
                )?,
            ),
        ];
        let mut files: Files = entries
            .into_iter()
            .map(|(name, bytes)| (name.to_owned(), bytes))
            .collect();
        if let Some((_, labels)) = clusters {
            let name = checkpoint::CLUSTERS_FILE;
            files.insert(name.to_owned(), tensors(name, labels)?);
        }
        Ok(files)
    }

    fn not_finite(&self, what: &str, batches: &[HostBatch]) -> TrainError {
        TrainError::NotFinite {
            step: self.step + 1,
            what: what.to_owned(),
            samples: batches.iter().flat_map(|batch| batch.ids.clone()).collect(),
        }
    }
}

/// A configuration with the names of the classes under the keys that the ecosystem uses.
fn with_classes(mut config: Value, targets: Option<&Targets>) -> Value {
    if let (Some(object), Some(targets)) = (config.as_object_mut(), targets) {
        let names = targets.names().iter().enumerate();
        let names: serde_json::Map<String, Value> = names
            .map(|(class, name)| (class.to_string(), name.as_str().into()))
            .collect();
        object.insert(scl::CLASSES.to_owned(), names.into());
    }
    config
}

fn metric_line(record: &StepRecord) -> MetricLine {
    let mut values: BTreeMap<String, f64> = record
        .terms
        .iter()
        .map(|(name, value)| (format!("loss_{name}"), *value))
        .collect();
    for head in &record.kept {
        let part = serde_json::to_value(head.site.part).unwrap_or_default();
        let part = part.as_str().unwrap_or_default().to_owned();
        let name = format!("kept/{part}/layer_{}/head_{}", head.site.layer, head.head);
        values.insert(name, head.kept);
    }
    if !record.kept.is_empty() {
        let sum: f64 = record.kept.iter().map(|head| head.kept).sum();
        values.insert("kept".to_owned(), sum / record.kept.len() as f64);
    }
    values.insert("loss".to_owned(), record.loss);
    values.insert("learning_rate".to_owned(), record.learning_rate);
    values.insert("gradient_norm".to_owned(), record.gradient_norm);
    values.insert("samples_per_second".to_owned(), record.samples_per_second);
    MetricLine {
        kind: "train".to_owned(),
        step: record.step,
        values,
    }
}

fn scalar(tensor: &Tensor<1>) -> f64 {
    f64::from(tensor.clone().into_scalar::<f32>())
}

/// Of a rank: its rows of a batch are others than the same rows of another rank.
fn dropout_seed(seed: u64, step: u64, rank: usize) -> u64 {
    let key = [step, rank as u64];
    let key = if rank == 0 { &key[..1] } else { &key[..] };
    let mut stream = chiasm_data::rng::stream(seed, "dropout", key);
    chiasm_data::rng::below(&mut stream, usize::MAX) as u64
}
