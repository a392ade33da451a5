//! Several ranks with a part of every batch each train as one with all of it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed unwrap here is the failed test"
)]

#[allow(dead_code, reason = "only the model's sizes are used here")]
mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use burn::tensor::{Device, Tensor, TensorData};
use chiasm_data::regions::{self, Form, RegionSet, RegionWriter, WriteConfig};
use chiasm_data::{Dataset, Phrase, Rect, Regions, Sample, Split, builtin};
use chiasm_nn::VisionLanguageModel;
use chiasm_nn::compute::{self, Kernels};
use chiasm_nn::weights::{HostTensor, StateDict, state_dict};
use chiasm_ranks::{Link, Parcel, Ranks, Silent, Thread, threads};
use chiasm_train::prepare::tokenizer;
use chiasm_train::run::RunDir;
use chiasm_train::{Observer, Recipe, StepRecord, TrainData, TrainError, Trainer, checkpoint};
use common::MODEL;

/// How far a loss may be from that of one rank, relative.
const LOSS: f64 = 1e-6;
/// The same of the norm of all gradients: a row's numbers are rounded otherwise where it lies elsewhere in a
/// product, and a norm has all of that. `gather.rs` of the losses holds whole gradients of a step to 1e-6.
const NORM: f64 = 3e-6;

/// What the ranks of a run share.
#[derive(Clone, Copy)]
struct Job<'a> {
    recipe: &'a str,
    dir: &'a Path,
    resume: bool,
    /// Gradients are tensors, and added up as such.
    on_device: bool,
    /// What happens to which rank after which step.
    trouble: Option<(Trouble, usize, u64)>,
}

impl<'a> Job<'a> {
    fn new(recipe: &'a str, dir: &'a Path) -> Self {
        Self {
            recipe,
            dir,
            resume: false,
            on_device: false,
            trouble: None,
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Trouble {
    /// It is asked to stop.
    Stop,
    /// It dies without a word.
    Die,
    /// It has an error.
    Fail,
}

/// What one rank did.
struct Done {
    records: Vec<StepRecord>,
    weights: StateDict,
    error: Option<TrainError>,
}

struct Watch<'a> {
    records: Vec<StepRecord>,
    trouble: Option<(Trouble, u64)>,
    stop: &'a AtomicBool,
}

impl Observer for Watch<'_> {
    fn step(&mut self, record: &StepRecord) {
        self.records.push(record.clone());
        match self.trouble {
            Some((Trouble::Stop, step)) if step == record.step => {
                self.stop.store(true, Ordering::Relaxed);
            }
            Some((Trouble::Die, step)) if step == record.step => {
                panic!("a rank dies, as it should")
            }
            _ => {}
        }
    }

    fn evaluate(&mut self, _: &VisionLanguageModel) -> Result<BTreeMap<String, f64>, String> {
        let step = self.records.len() as u64;
        match self.trouble {
            Some((Trouble::Fail, at)) if at == step => Err("no room".to_owned()),
            _ => Ok(BTreeMap::new()),
        }
    }
}

/// Looks at nothing.
struct Idle;

impl Observer for Idle {
    fn step(&mut self, _: &StepRecord) {}

    fn evaluate(&mut self, _: &VisionLanguageModel) -> Result<BTreeMap<String, f64>, String> {
        Ok(BTreeMap::new())
    }
}

fn data(recipe: &str) -> TrainData {
    let recipe = Recipe::from_toml(recipe, "test").unwrap();
    let mut train: Dataset = builtin::emoji().unwrap().subset(Split::Train);
    train.samples.truncate(480);
    for (number, sample) in train.samples.iter_mut().enumerate() {
        annotate(number, sample);
    }
    TrainData::new(&recipe, vec![train]).unwrap()
}

/// A class, and from two to four regions, in one of which is what the text names.
fn annotate(number: usize, sample: &mut Sample) {
    const WIDTH: usize = 8;
    let own = &mut sample.annotations;
    own.label = Some(["animal", "food", "sign"][number % 3].to_owned());
    let count = 2 + number % 3;
    let rect = |region: usize| Rect {
        x1: region as f32 / count as f32,
        y1: 0.0,
        x2: (region + 1) as f32 / count as f32,
        y2: 1.0,
    };
    let feature = |place: usize| ((place * 37 + number * 11) % 23) as f32 * 0.1 - 1.0;
    let regions = Regions {
        features: (0..count * WIDTH).map(feature).collect(),
        dim: WIDTH,
        boxes: (0..count).map(rect).collect(),
        size: Some((72, 72)),
        classes: (0..count as i64).map(|region| region % 2).collect(),
        class_scores: vec![0.5; count],
        attributes: vec![0; count],
        attribute_scores: vec![0.4; count],
    };
    own.regions = Some(regions::in_memory(&sample.id, &regions).unwrap());
    own.phrases = vec![Phrase {
        text: 0,
        phrase: sample.texts[0].clone(),
        start: None,
        kind: String::new(),
        boxes: vec![rect(number % count)],
        masks: Vec::new(),
    }];
}

fn trainer_of(ranks: Arc<Ranks>, recipe: &str, data: &TrainData) -> Result<Trainer, TrainError> {
    let recipe = Recipe::from_toml(recipe, "test").unwrap();
    let tokenizer = Arc::new(tokenizer(&recipe, data).unwrap());
    Trainer::among(ranks, recipe, data, tokenizer, &Device::flex())
}

fn trainer(ranks: Ranks, recipe: &str) -> Trainer {
    trainer_of(Arc::new(ranks), recipe, &data(recipe)).unwrap()
}

fn train(ranks: Ranks, job: &Job<'_>) -> Done {
    // Gradients are tensors where layers are computed by plain operations.
    let kernels = match job.on_device {
        true => Kernels::Plain,
        false => compute::chosen(),
    };
    compute::with(kernels, || train_here(ranks, job))
}

fn train_here(ranks: Ranks, job: &Job<'_>) -> Done {
    let rank = ranks.rank();
    let mut run = match rank {
        0 => RunDir::open(job.dir, job.resume).unwrap(),
        _ => RunDir::silent(job.dir),
    };
    let ranks = Arc::new(ranks);
    let mut trainer = trainer_of(Arc::clone(&ranks), job.recipe, &data(job.recipe)).unwrap();
    if job.on_device {
        trainer.add_up_on_device(Box::new(move |values| {
            let mut sums = values.clone().try_into_vec_as::<f32>().unwrap();
            ranks.sum("device", &mut [&mut sums])?;
            let len = sums.len();
            Ok(Tensor::from_data(
                TensorData::new(sums, [len]),
                &values.device(),
            ))
        }));
    }
    if job.resume {
        let (checkpoint, _) = checkpoint::latest(&run.checkpoints()).unwrap();
        trainer.restore(&checkpoint).unwrap();
    }
    let stop = AtomicBool::new(false);
    let mut watch = Watch {
        records: Vec::new(),
        trouble: job
            .trouble
            .filter(|(_, of, _)| *of == rank)
            .map(|(trouble, _, step)| (trouble, step)),
        stop: &stop,
    };
    let outcome = trainer.run(&mut run, &mut watch, &stop);
    Done {
        records: watch.records,
        weights: state_dict(trainer.model()),
        error: outcome.err(),
    }
}

/// Trains on so many threads; what those did that did not die.
fn all(count: usize, job: &Job<'_>) -> Vec<Done> {
    std::thread::scope(|scope| {
        let spawn = |link| {
            scope.spawn(move || {
                let limit = Duration::from_secs(100);
                train(Ranks::new(Box::new(link), limit, Arc::default()), job)
            })
        };
        let handles: Vec<_> = threads(count).into_iter().map(spawn).collect();
        let done = handles.into_iter().map(|handle| handle.join().ok());
        let dies = |rank| matches!(job.trouble, Some((Trouble::Die, of, _)) if of == rank);
        let done = done.enumerate().filter(|(rank, _)| !dies(*rank));
        done.map(|(_, done)| done.unwrap()).collect()
    })
}

/// Nothing that is dropped; features that are far from each other, temperatures that do not multiply what
/// rounding leaves of their differences; and an optimiser that does not make much of what is nearly nothing:
/// Adam moves a weight whose gradient is only rounding as far as any other.
fn recipe(objectives: &str, schedule: &str) -> String {
    let model = MODEL
        .replace("dropout = 0.1", "dropout = 0.0")
        .replace("init_std = 0.1", "init_std = 0.3");
    format!(
        "name = \"ranks\"\n{model}{objectives}[optimizer]\neps = 0.1\nlearning_rate = 0.001\n\
         [schedule]\nsteps = 20\nbatch_size = 16\neval_every = 0\nseed = 11\n{schedule}"
    )
}

/// Holds runs of two and four ranks to that of one.
fn equals_one(recipe: &str) {
    equals_one_adding(recipe, false);
}

fn equals_one_adding(recipe: &str, on_device: bool) {
    let folder = tempfile::tempdir().unwrap();
    let dirs = ["1", "2", "4"].map(|name| folder.path().join(name));
    let [alone, two, four] = dirs.each_ref().map(|dir| Job {
        on_device,
        ..Job::new(recipe, dir)
    });
    let alone = train(Ranks::alone(), &alone);
    assert!(alone.error.is_none());
    assert_eq!(alone.records.len(), 20);
    let near = |found: f64, expected: f64, most: f64, what: &str| {
        let apart = (found - expected).abs();
        let limit = most * expected.abs();
        assert!(apart <= limit, "{what}: {found} and {expected}");
    };
    for (count, job) in [(2, two), (4, four)] {
        let done = all(count, &job);
        for own in &done {
            assert!(own.error.is_none(), "{:?}", own.error);
            assert!(own.weights == done[0].weights, "weights to the bit");
            for (found, expected) in own.records.iter().zip(&alone.records) {
                let step = found.step;
                near(found.loss, expected.loss, LOSS, &format!("{count}, {step}"));
                let norm = format!("{count}, {step}, gradient");
                near(found.gradient_norm, expected.gradient_norm, NORM, &norm);
                for (name, value) in &expected.terms {
                    let found = found.terms[name];
                    let name = format!("{count}, {step}, {name}");
                    // Transport is a difference of distances near 1: what rounding leaves of it is as
                    // large where the difference is small.
                    let most = LOSS * value.abs().max(0.1) / value.abs().max(f64::MIN_POSITIVE);
                    near(found, *value, most, &name);
                }
            }
        }
        // The difference of all weights against the way that they have come.
        let started = state_dict(trainer(Ranks::alone(), recipe).model());
        let length = |left: &StateDict, right: &StateDict| {
            let of = |(name, tensor): (&String, &HostTensor)| {
                let other = right[name].values.iter();
                let pairs = tensor.values.iter().zip(other);
                pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>()
            };
            left.iter().map(of).sum::<f64>().sqrt()
        };
        let (apart, way) = (
            length(&done[0].weights, &alone.weights),
            length(&alone.weights, &started),
        );
        assert!(apart <= 1e-5 * way, "{count}: {apart} of {way}");
    }
}

#[test]
fn contrast_and_completion() {
    let objectives = "[objectives]\nfused_share = 0.75\n[objectives.contrastive]\ntemperature = 0.5\n\
                      [objectives.global_completion]\ntemperature = 0.5\n\
                      [objectives.local_completion]\ntemperature = 0.5\n";
    equals_one(&recipe(objectives, ""));
    equals_one(&recipe(objectives, "gradient_checkpointing = true\n"));
    // A tower that is not trained has no part of the backward pass.
    equals_one(&recipe(objectives, "[weights]\nfreeze = [\"text\"]\n"));
}

#[test]
fn gradients_are_added_up_where_they_are() {
    let objectives = "[objectives]\nfused_share = 0.75\n[objectives.contrastive]\ntemperature = 0.5\n\
                      [objectives.matching]\n";
    let frozen = "[weights]\nfreeze = [\"text\"]\n";
    for schedule in ["accumulate = 2\n", frozen] {
        equals_one_adding(&recipe(objectives, schedule), true);
    }
}

#[test]
fn matching_and_words() {
    let objectives = "[objectives.matching]\n[objectives.mlm]\n";
    equals_one(&recipe(objectives, "accumulate = 2\n"));
}

/// A way to the others that ends after so many exchanges.
struct Mortal {
    link: Thread,
    left: AtomicUsize,
}

impl Link for Mortal {
    fn rank(&self) -> usize {
        self.link.rank()
    }

    fn count(&self) -> usize {
        self.link.count()
    }

    fn exchange(
        &self,
        parcels: Vec<Parcel>,
        wait: &dyn Fn() -> bool,
    ) -> Result<Vec<Parcel>, Silent> {
        let left = self.left.fetch_sub(1, Ordering::Relaxed);
        assert!(left > 0, "a rank dies, as it should");
        self.link.exchange(parcels, wait)
    }
}

/// Losses cannot fail: what they get from a rank that falls silent between two of their exchanges must
/// still fit together.
#[test]
fn a_rank_may_die_at_any_exchange() {
    let recipe = recipe(
        "[objectives.contrastive]\n[objectives.matching]\n[objectives.mlm]\n\
         [objectives.global_completion]\n[objectives.local_completion]\n\
         [objectives.ranking]\ncandidates = 4\n",
        "",
    );
    let recipe = recipe.replace("steps = 20", "steps = 2");
    let data = data(&recipe);
    let folder = tempfile::tempdir().unwrap();
    let run = |ranks: Ranks, dir: &Path| {
        let mut run = match ranks.rank() {
            0 => RunDir::open(dir, false).unwrap(),
            _ => RunDir::silent(dir),
        };
        let mut trainer = trainer_of(Arc::new(ranks), &recipe, &data)?;
        trainer.run(&mut run, &mut Idle, &AtomicBool::new(false))
    };
    let survives = |exchanges: usize| {
        let dir = &folder.path().join(exchanges.to_string());
        let run = &run;
        let ranks = |link: Box<dyn Link>| {
            let limit = Duration::from_secs(100);
            Ranks::new(link, limit, Arc::default())
        };
        std::thread::scope(|scope| {
            let [first, link]: [Thread; 2] = threads(2).try_into().ok().unwrap();
            let left = AtomicUsize::new(exchanges);
            let mortal = Box::new(Mortal { link, left });
            let second = scope.spawn(move || run(ranks(mortal), dir));
            let outcome = run(ranks(Box::new(first)), dir);
            // How it ends does not matter.
            let _ = second.join();
            outcome
        })
    };
    let mut died = 0;
    while let Err(error) = survives(died) {
        let error = error.to_string();
        assert!(error.starts_with("rank 1 sent nothing for `"), "{error}");
        died += 1;
    }
    assert!(died > 20, "{died}");
}

#[test]
fn ranks_without_a_pair_are_refused() {
    let short =
        recipe("[objectives.contrastive]\n", "").replace("batch_size = 16", "batch_size = 2");
    // The last batch of a chunk has a few pairs.
    let chunks = recipe("[objectives.cluster]\nchunk = 17\nclusters = 2\n", "");
    for recipe in [short, chunks] {
        let data = data(&recipe);
        let link = threads(9).remove(0);
        let ranks = Ranks::new(Box::new(link), Duration::ZERO, Arc::default());
        let error = trainer_of(Arc::new(ranks), &recipe, &data).err().unwrap();
        assert!(
            error.to_string().contains("there are 9 ranks, and "),
            "{error}"
        );
    }
}

#[test]
fn classification() {
    equals_one(&recipe(
        "[objectives.classification]\nclasses = \"labels\"\n",
        "",
    ));
}

/// A recipe whose model sees regions, in one stream with the words; `set` is made to say what they are.
fn regional(objectives: &str, set: &Path) -> String {
    let config = WriteConfig {
        set: RegionSet {
            provider: "test".to_owned(),
            dim: 8,
            objects: vec!["left".to_owned(), "right".to_owned()],
            ..RegionSet::default()
        },
        form: Form::Npz,
        shard: 1,
        half: false,
        data: String::new(),
    };
    RegionWriter::open(set, config).unwrap().finish().unwrap();
    let seen = "[model.regions]\nfeatures = 8\nmost = 4\nobjects = 2\nattributes = 1\ndropout = 0.0\n\
                [model.fusion]\nkind = \"one_stream\"";
    let set = set.display();
    recipe(objectives, &format!("[data]\nregions = \"{set}\"\n"))
        .replace("[model.fusion]", seen)
        .replace("[augment]\ncrop = [0.7, 1.0]\nflip = 0.5\n", "")
        .replace(
            "[model.text]",
            "[model.heads]\ncontrastive = false\n[model.text]",
        )
        .replacen("layers = 1", "layers = 0", 1)
}

#[test]
fn knowledge() {
    let set = tempfile::tempdir().unwrap();
    equals_one(&regional("[objectives.knowledge]\n", set.path()));
}

#[test]
fn grounding() {
    let set = tempfile::tempdir().unwrap();
    equals_one(&regional("[objectives.grounding]\n", set.path()));
}

#[test]
fn ranking() {
    equals_one(&recipe("[objectives.ranking]\ncandidates = 4\n", ""));
}

#[test]
fn groups_that_are_found() {
    let objectives = "[objectives.contrastive]\ntemperature = 0.5\n\
                      [objectives.cluster]\nchunk = 96\nclusters = 4\n";
    equals_one(&recipe(objectives, ""));
}

#[test]
fn dropout_leaves_weights_the_same_on_all_ranks() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = recipe("[objectives.contrastive]\n[objectives.mlm]\n", "");
    let recipe = recipe
        .replace("dropout = 0.0", "dropout = 0.1")
        .replace("steps = 20", "steps = 3");
    let done = all(3, &Job::new(&recipe, folder.path()));
    assert!(done.iter().all(|own| own.weights == done[0].weights));
}

#[test]
fn what_ends_a_run_leaves_a_checkpoint_that_another_number_of_ranks_goes_on_with() {
    let folder = tempfile::tempdir().unwrap();
    let objectives = "[objectives.contrastive]\n[objectives.matching]\n";
    let recipe =
        recipe(objectives, "save_every = 100\n").replace("eval_every = 0", "eval_every = 7");
    let alone = train(
        Ranks::alone(),
        &Job::new(&recipe, &folder.path().join("whole")),
    );
    let expected = alone.records.last().unwrap().loss;
    for (trouble, name, steps) in [
        // All stop together, one step after one of them was asked to.
        (Trouble::Stop, "stop", 8),
        (Trouble::Die, "die", 7),
        (Trouble::Fail, "fail", 7),
    ] {
        let dir = folder.path().join(name);
        let job = Job::new(&recipe, &dir);
        let done = all(
            3,
            &Job {
                trouble: Some((trouble, 1, 7)),
                ..job
            },
        );
        for own in &done {
            assert_eq!(own.records.len(), steps, "{name}");
            let error = own.error.as_ref().map(ToString::to_string);
            let error = error.unwrap_or_default();
            match trouble {
                Trouble::Stop => assert_eq!(error, ""),
                Trouble::Die => {
                    assert!(error.starts_with("rank 1 sent nothing for `"), "{error}");
                    assert!(error.contains(" in step 7 "), "{error}");
                }
                Trouble::Fail => assert!(error.contains("no room"), "{error}"),
            }
        }
        let resumed = all(
            2,
            &Job {
                resume: true,
                ..job
            },
        );
        assert_eq!(resumed[0].records.len(), 20 - steps, "{name}");
        let found = resumed[0].records.last().unwrap().loss;
        assert!(
            (found - expected).abs() <= 1e-6 * expected,
            "{name}: {found}"
        );
    }
}
