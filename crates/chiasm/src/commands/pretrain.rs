//! `chiasm pretrain`: train as a recipe says, evaluate on the test split, write the report.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use burn::module::Module as _;
use burn::tensor::Device;
use chiasm_data::{Dataset, Split, Targets, TextTokenizer, Views};
use chiasm_eval::predictions::ModelIdentity;
use chiasm_eval::score::{
    MARK, OverlapReport, grouped, marked, percent, render_class_table, render_grounding_table,
    score_classes, score_grounding,
};
use chiasm_eval::tasks::classes::{self, ClassJob};
use chiasm_eval::tasks::embedder::{Embedder, Towers};
use chiasm_eval::tasks::grounding::{self, GroundingJob};
use chiasm_graph::config::MaskAblation;
use chiasm_nn::layers::Init;
use chiasm_nn::select::SelectConfig;
use chiasm_nn::{VisionLanguageModel, compute};
use chiasm_ranks::Ranks;
use chiasm_train::data::{Source, views};
use chiasm_train::prepare::{preprocess, tokenizer};
use chiasm_train::recipe::DataConfig;
use chiasm_train::run::RunDir;
use chiasm_train::{
    ChunkRecord, Observer, Recipe, SlowRank, StepRecord, TrainData, Trainer, checkpoint, start,
};

use crate::cli::{CheckpointArg, Global, MaskingArg, PretrainArgs};
use crate::commands::report::{self, Facts};
use crate::commands::{audit, eval, plan, recipe};
use crate::error::CliError;
use crate::output::{self, Progress, duration, note};
use crate::ranks::{self, RankArgs};
use crate::{device, source};

/// Exit code after Ctrl-C, as shells count it.
const INTERRUPTED: u8 = 130;

/// A run that is about to happen.
pub(crate) struct Job {
    /// What to do.
    pub(crate) recipe: Recipe,
    /// Folder of the run.
    pub(crate) out: PathBuf,
    /// Go on from its newest checkpoint.
    pub(crate) resume: bool,
    /// What to type to go on after an interruption.
    pub(crate) resume_command: String,
    /// Free searches shown in the report and on stdout.
    pub(crate) searches: Vec<String>,
    /// How long several ranks wait for each other.
    pub(crate) ranks: RankArgs,
}

pub(crate) fn run(args: &PretrainArgs, global: &Global) -> Result<ExitCode, CliError> {
    let mut recipe = recipe::find(&args.recipe)?.with(&args.set.set)?;
    apply(args, &mut recipe, global)?;
    if args.dry_run {
        return dry_run(&recipe, global);
    }
    let out = args.out.clone().unwrap_or_else(|| {
        let name = if recipe.name.is_empty() {
            "run"
        } else {
            &recipe.name
        };
        Path::new("runs").join(name)
    });
    let resume_command = match args.resume {
        true => command_line(),
        false => format!("{} --resume", command_line()),
    };
    train(
        &Job {
            recipe,
            out,
            resume: args.resume,
            resume_command,
            searches: Vec::new(),
            ranks: args.ranks,
        },
        global,
    )
}

/// Puts what was typed over what the recipe says.
fn apply(args: &PretrainArgs, recipe: &mut Recipe, global: &Global) -> Result<(), CliError> {
    args.source.apply(args.data.as_deref(), &mut recipe.data);
    if !args.train_splits.is_empty() {
        recipe.data.train_splits.clone_from(&args.train_splits);
    }
    if !args.mix.is_empty() {
        recipe.mix = args
            .mix
            .iter()
            .map(|text| mixed(text))
            .collect::<Result<_, _>>()?;
    }
    let weights = &mut recipe.weights;
    for (typed, part) in [
        (&args.weights, &mut weights.model),
        (&args.weights_text, &mut weights.text),
        (&args.weights_vision, &mut weights.vision),
    ] {
        if typed.is_some() {
            part.clone_from(typed);
        }
    }
    if args.blind {
        recipe.data.blind = true;
        recipe.mix.iter_mut().for_each(|data| data.blind = true);
    }
    if let Some(typed) = &args.select {
        let base = recipe.model.select.clone().unwrap_or_default();
        recipe.model.select = Some(selected(&base, typed)?);
    }
    if let Some(masking) = args.masking {
        let knowledge = recipe.objectives.knowledge.as_mut().ok_or_else(|| {
            CliError::new(
                "`--masking` needs `[objectives.knowledge]`",
                "begin with the recipe `tbkin-tiny`".to_owned(),
            )
        })?;
        knowledge.masking = match masking {
            MaskingArg::None => MaskAblation::None,
            MaskingArg::Random => MaskAblation::Random,
            MaskingArg::Intra => MaskAblation::Intra,
            MaskingArg::Cross => MaskAblation::Cross,
            MaskingArg::Both => MaskAblation::Both,
        };
    }
    if let Some(tasks) = &args.tasks {
        recipe.objectives = recipe.objectives.with_tasks(tasks).ok_or_else(|| {
            CliError::new(
                format!("`--tasks {tasks}` is no setting of ITR's tasks"),
                "write 1, 2, 3, 4, 1+4, 2+4 or 3+4, or 0 to learn labels".to_owned(),
            )
        })?;
    }
    override_schedule(recipe, args.seed, args.steps);
    recipe.schedule.gradient_checkpointing |= args.gradient_checkpointing;
    match args.memory {
        Some(budget) => plan::fit(recipe, budget, &device::open(global)?),
        None => Ok(()),
    }
}

/// What attention keeps as it is typed.
pub(crate) fn selected(base: &SelectConfig, typed: &str) -> Result<SelectConfig, CliError> {
    base.typed(typed).map_err(|reason| {
        CliError::new(
            format!("`--select {typed}`: {reason}"),
            "write a rule and its value, such as `prob_abs=0.01`, or `off`".to_owned(),
        )
    })
}

/// A further source as it is typed: a path, with or without a weight.
fn mixed(text: &str) -> Result<DataConfig, CliError> {
    let (source, weight) = match text.rsplit_once('=') {
        None => (text, 1.0),
        Some((source, weight)) => {
            let weight = weight.parse().map_err(|_| {
                CliError::new(
                    format!("`--mix {text}`: `{weight}` is not a number"),
                    "write PATH or PATH=WEIGHT, such as `coco-wds=2`".to_owned(),
                )
            })?;
            (source, weight)
        }
    };
    Ok(DataConfig {
        source: source.to_owned(),
        weight,
        ..DataConfig::default()
    })
}

/// Builds the model of a recipe, checks it against the weights it begins with, and prints the plan.
fn dry_run(recipe: &Recipe, global: &Global) -> Result<ExitCode, CliError> {
    recipe.validate(&recipe.name)?;
    let device = device::open(global)?;
    let sizes = plan::sizes(recipe, None, None)?;
    let config = plan::model_config(recipe, sizes.pictures)?;
    let init = Init::new(recipe.schedule.seed, config.init_std, &device);
    let model = VisionLanguageModel::new(&init, &config);
    let (model, loaded) = start::apply(&recipe.weights, &config, model, &device)?;
    for part in &loaded {
        note(&part.summary());
    }
    note(&format!(
        "{}: {} parameters",
        recipe.name,
        grouped(model.num_params())
    ));
    output::result(&plan::render(recipe, sizes)?);
    Ok(ExitCode::SUCCESS)
}

/// What was typed, ready to be typed again.
pub(crate) fn command_line() -> String {
    std::iter::once("chiasm".to_owned())
        .chain(std::env::args().skip(1).map(|word| quoted(&word)))
        .collect::<Vec<_>>()
        .join(" ")
}

/// A word as it is typed in a shell.
pub(crate) fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// Puts what was typed over the recipe's schedule.
pub(crate) fn override_schedule(recipe: &mut Recipe, seed: Option<u64>, steps: Option<u64>) {
    if let Some(seed) = seed {
        recipe.schedule.seed = seed;
    }
    if let Some(steps) = steps {
        recipe.schedule.steps = steps;
    }
}

/// Trains, evaluates, reports; on all ranks where there are several.
pub(crate) fn train(job: &Job, global: &Global) -> Result<ExitCode, CliError> {
    let stop = Arc::new(AtomicBool::new(false));
    let ranks = ranks::join(Duration::from_secs(job.ranks.rank_limit), Arc::clone(&stop))?;
    let outcome = train_among(&ranks, job, global, &stop);
    ranks::settle(&ranks, outcome)
}

fn train_among(
    ranks: &Arc<Ranks>,
    job: &Job,
    global: &Global,
    stop: &Arc<AtomicBool>,
) -> Result<ExitCode, CliError> {
    let started = Instant::now();
    let recipe = &job.recipe;
    recipe.validate(&recipe.name)?;
    if let Some(part) = recipe.weights.frozen_without_weights() {
        return Err(CliError::new(
            format!("`weights.freeze` keeps the {part} tower as it is, and it has no weights yet"),
            format!(
                "name some with `--weights-{part}` or `--weights`, or take it out of `weights.freeze`"
            ),
        ));
    }
    let device = device::open(global)?;
    if recipe.schedule.gradient_checkpointing && !compute::is_fused(&device) {
        note(
            "gradient checkpointing by plain operations: results of element-wise ones are made again, those of \
             matrix products are kept",
        );
    }
    ranks::same_binary(ranks)?;
    ranks.agree("recipe", recipe.to_toml()?.as_bytes())?;
    let writes = ranks.is_first();
    let mut run = match writes {
        true => RunDir::open(&job.out, job.resume)?,
        false => RunDir::silent(&job.out),
    };
    let checked = source::load_among(&recipe.data, &job.out.join("quarantine.jsonl"), writes)?;
    let dataset = &checked.dataset;
    let mut training = audit::traces(&checked, &recipe.data.train_splits);
    let mut sets = vec![training_set(dataset, &recipe.data)?];
    for (number, config) in recipe.mix.iter().enumerate() {
        let file = format!("quarantine-mix-{}.jsonl", number + 1);
        let checked = source::load_among(config, &job.out.join(file), writes)?;
        training.extend(audit::traces(&checked, &config.train_splits));
        sets.push(training_set(&checked.dataset, config)?);
    }
    let data = TrainData::new(recipe, sets)?;
    if data.without_class > 0 {
        note(&format!(
            "{} training samples belong to none of the classes and are left out",
            data.without_class
        ));
    }
    let tokenizer = Arc::new(tokenizer(recipe, &data)?);
    ranks.agree("training data", data.fingerprint().as_bytes())?;
    let mut trainer = Trainer::among(
        Arc::clone(ranks),
        recipe.clone(),
        &data,
        Arc::clone(&tokenizer),
        &device,
    )?;
    ranks::add_up_on_gpus(ranks, &device, &mut trainer)?;
    if job.resume {
        let (checkpoint, damaged) = checkpoint::latest(&run.checkpoints())?;
        for message in damaged {
            note(&format!("warning: {message}"));
        }
        trainer.restore(&checkpoint)?;
        note(&format!("resuming at step {}", trainer.steps_done()));
        run.log(&format!("resumed from {}", checkpoint.path.display()))?;
    } else if !recipe.weights.is_empty() {
        let loaded = trainer.begin_with_weights()?;
        for part in &loaded {
            note(&part.summary());
        }
        let report = serde_json::to_string_pretty(&loaded)
            .map_err(|error| CliError::new(format!("cannot write JSON: {error}"), None))?;
        run.write("weights.json", &report)?;
    }
    let command = command_line();
    let environment = environment(global, &command);
    let environment_json = serde_json::to_string_pretty(&environment)
        .map_err(|error| CliError::new(format!("cannot write JSON: {error}"), None))?;
    run.write("recipe.toml", &recipe.to_toml()?)?;
    run.write("environment.json", &environment_json)?;
    let names: Vec<String> = data.sources.iter().map(describe).collect();
    note(&format!(
        "training `{}` on {}; run folder {}",
        recipe.name,
        names.join(" and "),
        job.out.display()
    ));

    if writes {
        audit::record_training(&job.out, &training, job.resume)?;
    }
    let overlap_of = |split| {
        let tested = audit::Tested {
            config: &recipe.data,
            split: Some(split),
            traces: audit::traces(&checked, &[split]),
        };
        tested.against(&recipe.data, &training)
    };
    let val_overlap = OverlapReport::new(&overlap_of(Split::Val));
    // The report's figures come from held-out pictures; a set without them says so.
    let is_held_out = |split: &Split| !recipe.data.train_splits.contains(split);
    let held_out = [Split::Test, Split::Val]
        .into_iter()
        .filter(is_held_out)
        .map(|split| (split, dataset.subset(split)))
        .find(|(_, subset)| !subset.is_empty());
    let overlap = held_out.as_ref().map(|(split, _)| overlap_of(*split));
    drop(training);

    let mut val_set = dataset.subset(Split::Val);
    let validates = is_held_out(&Split::Val);
    let val_images = recipe.evaluation.val_images;
    val_set
        .samples
        .truncate(if validates { val_images } else { 0 });
    let mut watcher = Watcher {
        slow: None,
        progress: Progress::new("train", recipe.schedule.steps),
        val_set,
        mark: if val_overlap.marked { MARK } else { "" },
        data: &data,
        recipe,
        tokenizer: &tokenizer,
        device: &device,
    };
    stop_on_signals(stop)?;
    let outcome = trainer.run(&mut run, &mut watcher, stop)?;
    watcher.progress.finish();
    drop(trainer);
    if outcome.interrupted {
        note(&format!(
            "stopped at step {} of {} and saved; go on with: {}",
            outcome.step, recipe.schedule.steps, job.resume_command
        ));
        // One code for all: launchers end the other ranks at the first one that is not 0.
        return Ok(ExitCode::from(if writes { INTERRUPTED } else { 0 }));
    }
    if !writes {
        return Ok(ExitCode::SUCCESS);
    }
    let (Some((split, subset)), Some(overlap)) = (held_out, overlap) else {
        note("no `test` or `val` samples: nothing to evaluate");
        return Ok(ExitCode::SUCCESS);
    };
    let facts = Facts {
        command: &command,
        outcome: &outcome,
        environment: &environment,
        device: &global.device,
        threads: rayon::current_num_threads(),
        started,
        overlap,
        val_overlap,
    };
    finish(job, dataset, &subset, split, &device, global, &facts)?;
    Ok(ExitCode::SUCCESS)
}

/// Evaluation, searches, report, and what is printed at the end.
fn finish(
    job: &Job,
    dataset: &Dataset,
    subset: &Dataset,
    split: Split,
    device: &Device,
    global: &Global,
    facts: &Facts<'_>,
) -> Result<(), CliError> {
    let trained = eval::load_run(&job.out, CheckpointArg::Last, device)?;
    if let Some(targets) = &trained.targets {
        let classes = ClassJob {
            dataset: subset,
            split: split.to_string(),
            model: eval::identity(&trained, &job.out),
            targets,
            pictures: trained.config.heads.pictures(),
            independent: trained.recipe.has_independent_classes(),
            majority: targets
                .majority(&dataset.of_splits(&trained.recipe.data.train_splits).samples),
            training_overlap: Some(facts.overlap.clone()),
        };
        let views = views(&trained.recipe.data, subset, &trained.config);
        let embedder = eval::embedder(&trained, &trained.model, device, views);
        let predictions = eval::predict_classes(&embedder, &classes)?;
        let path = eval::predictions_path(&job.out, split.as_str(), "jsonl");
        let report = eval::write_classes(&predictions, &path, None)?;
        output::report(global, &report, &render_class_table(&report))?;
        let html = report::write_classes(
            &job.out,
            &trained,
            dataset,
            subset,
            &predictions,
            &report,
            facts,
        )?;
        note(&format!(
            "\npredictions: {}\nreport: {}\ntook {}",
            path.display(),
            html.display(),
            duration(facts.started.elapsed().as_secs_f64())
        ));
        return Ok(());
    }
    if trained.config.heads.grounding {
        let grounding = GroundingJob {
            dataset: &subset.referring(),
            split: split.to_string(),
            model: eval::identity(&trained, &job.out),
            training_overlap: Some(facts.overlap.clone()),
        };
        let embedder = eval::embedder(&trained, &trained.model, device, Views::default());
        let path = eval::predictions_path(&job.out, split.as_str(), "jsonl");
        let (predictions, score) = eval::ground(&embedder, &grounding, &path)?;
        output::report(global, &score, &render_grounding_table(&score))?;
        let html = report::write_grounding(
            &job.out,
            &trained,
            dataset,
            grounding.dataset,
            &predictions,
            &score,
            facts,
        )?;
        note(&format!(
            "\npredictions: {}\nreport: {}\ntook {}",
            path.display(),
            html.display(),
            duration(facts.started.elapsed().as_secs_f64())
        ));
        return Ok(());
    }
    if !trained.config.has_common_space() {
        // What such a model has learned shows in what is fine-tuned from it.
        note(&format!(
            "\ntrained: {}; fine-tune it with `--weights {}`\ntook {}",
            job.out.display(),
            job.out.display(),
            duration(facts.started.elapsed().as_secs_f64())
        ));
        return Ok(());
    }
    let summary = report::write(
        &job.out,
        &trained,
        device,
        dataset,
        subset,
        split.as_str(),
        &job.searches,
        facts,
    )?;
    if global.json {
        output::json(&summary.score)?;
    } else {
        output::result(&summary.text);
    }
    note(&format!(
        "\nreport: {}\ntook {}",
        summary.html.display(),
        duration(facts.started.elapsed().as_secs_f64())
    ));
    Ok(())
}

fn environment(global: &Global, command: &str) -> BTreeMap<String, String> {
    let cpu = std::fs::read_to_string("/proc/cpuinfo")
        .ok()
        .and_then(|text| {
            let line = text.lines().find(|line| line.starts_with("model name"))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        });
    [
        ("chiasm", Some(env!("CARGO_PKG_VERSION").to_owned())),
        (
            "system",
            Some(format!(
                "{} {}",
                std::env::consts::OS,
                std::env::consts::ARCH
            )),
        ),
        ("cpu", cpu),
        ("threads", Some(rayon::current_num_threads().to_string())),
        ("device", Some(global.device.clone())),
        (
            "kernels",
            Some(format!("{:?}", compute::chosen()).to_lowercase()),
        ),
        ("command", Some(command.to_owned())),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name.to_owned(), value?)))
    .collect()
}

/// Set by the first Ctrl-C; the second one ends the process at once.
fn stop_on_signals(stop: &Arc<AtomicBool>) -> Result<(), CliError> {
    let flag = Arc::clone(stop);
    ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::Relaxed) {
            std::process::exit(i32::from(INTERRUPTED));
        }
        note("\nstopping after this step and saving; press Ctrl-C again to stop at once");
    })
    .map_err(|error| CliError::new(format!("cannot listen for Ctrl-C: {error}"), None))
}

struct Watcher<'a> {
    progress: Progress,
    /// The rank that was named last because all wait for it.
    slow: Option<usize>,
    val_set: Dataset,
    /// Follows figures on a validation split with pictures that were trained on.
    mark: &'static str,
    data: &'a TrainData,
    recipe: &'a Recipe,
    tokenizer: &'a TextTokenizer,
    device: &'a Device,
}

impl Observer for Watcher<'_> {
    fn step(&mut self, record: &StepRecord) {
        let terms: Vec<String> = record
            .terms
            .iter()
            .map(|(name, value)| format!("{} {value:.2}", short(name)))
            .collect();
        let message = format!(
            "{:.0}/s loss {:.2} ({})",
            record.samples_per_second,
            record.loss,
            terms.join(" ")
        );
        self.progress.set(record.step, &message);
    }

    fn chunk(&mut self, record: &ChunkRecord) {
        let sizes = record.sizes.iter().map(|size| grouped(*size));
        let changed = record.changed.map_or_else(String::new, |changed| {
            format!(", {} moved", grouped(changed))
        });
        self.progress.line(&format!(
            "chunk {}: {} pairs in groups of {}{changed}; inertia {:.4e}, {}",
            record.number,
            grouped(record.pairs),
            sizes.collect::<Vec<_>>().join(" "),
            record.inertia,
            duration(record.seconds)
        ));
    }

    fn saved(&mut self, path: &Path) {
        self.progress.line(&format!("saved {}", path.display()));
    }

    fn slow(&mut self, slow: &SlowRank) {
        if self.slow.replace(slow.rank) != Some(slow.rank) {
            self.progress.line(&format!(
                "rank {} works {:.2} s on a step, the others {:.2} s and wait for it: look at its machine",
                slow.rank, slow.seconds, slow.others
            ));
        }
    }

    fn evaluate(&mut self, model: &VisionLanguageModel) -> Result<BTreeMap<String, f64>, String> {
        if self.val_set.is_empty() {
            return Ok(BTreeMap::new());
        }
        let preprocess = preprocess(self.recipe);
        let embedder = Embedder {
            towers: Towers::Own(model),
            tokenizer: Some(self.tokenizer),
            preprocess: Some(&preprocess),
            max_text_len: self.recipe.model.text.max_text_len,
            views: views(&self.recipe.data, &self.val_set, &self.recipe.model),
            blind: self.recipe.data.blind,
            device: self.device,
            batch_size: eval::BATCH_SIZE,
        };
        if let Some(targets) = &self.data.targets {
            let accuracy = self.accuracy(&embedder, targets)?;
            return Ok(BTreeMap::from([("accuracy".to_owned(), accuracy)]));
        }
        if self.recipe.objectives.grounding.is_some() {
            let accuracy = self.grounded(&embedder)?;
            return Ok(BTreeMap::from([("accuracy".to_owned(), accuracy)]));
        }
        if !self.recipe.model.has_common_space() {
            return Ok(BTreeMap::new());
        }
        let metrics =
            eval::measure(&embedder, &self.val_set).map_err(|error| error.message().to_owned())?;
        let figure = |fraction: f64| marked(format!("{:.1} %", 100.0 * fraction), self.mark);
        self.progress.line(&format!(
            "val: text to image R@10 {}, image to text R@10 {}",
            figure(metrics.text_to_image.recall_at_10),
            figure(metrics.image_to_text.recall_at_10)
        ));
        let mut values = BTreeMap::new();
        for (name, direction) in [
            ("text_to_image", &metrics.text_to_image),
            ("image_to_text", &metrics.image_to_text),
        ] {
            values.insert(format!("{name}_recall_at_1"), direction.recall_at_1);
            values.insert(format!("{name}_recall_at_5"), direction.recall_at_5);
            values.insert(format!("{name}_recall_at_10"), direction.recall_at_10);
            values.insert(format!("{name}_median_rank"), direction.median_rank);
        }
        let rsum = [&metrics.text_to_image, &metrics.image_to_text]
            .iter()
            .map(|of| of.recall_at_1 + of.recall_at_5 + of.recall_at_10)
            .sum::<f64>();
        values.insert("rsum".to_owned(), 100.0 * rsum);
        Ok(values)
    }
}

impl Watcher<'_> {
    /// Accuracy of the classifier on the validation samples.
    fn accuracy(&self, embedder: &Embedder<'_>, targets: &Targets) -> Result<f64, String> {
        let job = ClassJob {
            dataset: &self.val_set,
            split: Split::Val.to_string(),
            model: ModelIdentity::default(),
            targets,
            pictures: self.data.pictures(),
            independent: self.recipe.has_independent_classes(),
            majority: None,
            training_overlap: None,
        };
        let predictions = classes::run(embedder, &job, &mut |_, _, _| {});
        let report = score_classes(&predictions.map_err(|error| error.to_string())?);
        let accuracy = report.accuracy.map_or(0.0, |accuracy| accuracy.mean);
        let figure = marked(percent(accuracy), self.mark);
        self.progress.line(&format!("val: accuracy {figure}"));
        Ok(accuracy)
    }
}

impl Watcher<'_> {
    /// Accuracy of what is found for the validation texts.
    fn grounded(&self, embedder: &Embedder<'_>) -> Result<f64, String> {
        let job = GroundingJob {
            dataset: &self.val_set.referring(),
            split: Split::Val.to_string(),
            model: ModelIdentity::default(),
            training_overlap: None,
        };
        let predictions = grounding::run(embedder, &job, &mut |_, _, _| {});
        let report = score_grounding(&predictions.map_err(|error| error.to_string())?);
        let accuracy = report.accuracy.map_or(0.0, |accuracy| accuracy.mean);
        let figure = marked(percent(accuracy), self.mark);
        self.progress.line(&format!("val: found {figure}"));
        Ok(accuracy)
    }
}

/// The training samples of a source.
fn training_set(dataset: &Dataset, config: &DataConfig) -> Result<Dataset, CliError> {
    let set = dataset.of_splits(&config.train_splits);
    if set.is_empty() {
        let wanted: Vec<&str> = config
            .train_splits
            .iter()
            .map(|split| split.as_str())
            .collect();
        let present: Vec<String> = dataset.counts().keys().map(ToString::to_string).collect();
        return Err(CliError::new(
            format!("{} has no `{}` samples", dataset.name, wanted.join("`, `")),
            format!(
                "it has {}: choose with `--train-splits`, or name the split column with \
                 `--split-column`",
                present.join(", ")
            ),
        ));
    }
    Ok(set)
}

/// A source in words.
fn describe(source: &Source) -> String {
    let what = match source.views {
        Views {
            frames: 1,
            pictures: 1,
        } => "pictures".to_owned(),
        Views {
            frames: 1,
            pictures,
        } => format!("texts about {pictures} pictures"),
        Views { frames, .. } => format!("clips of {frames} frames"),
    };
    format!(
        "{} {what} of {}",
        grouped(source.dataset.len()),
        source.dataset.name
    )
}

/// A loss name that leaves room on a line of 80 columns.
fn short(name: &str) -> &str {
    match name {
        "contrastive" => "itc",
        "matching" => "itm",
        "global_completion_image" => "mvsc",
        "global_completion_text" => "mlsc",
        "local_completion_image" => "mltc-v",
        "local_completion_text" => "mltc-t",
        "classification" => "class",
        "knowledge_words" => "words",
        "knowledge_features" => "feat",
        "knowledge_objects" => "obj",
        "knowledge_attributes" => "attr",
        "knowledge_matching" => "itm",
        "knowledge_transport" => "ot",
        "grounding_rank" => "rank",
        "grounding_shift" => "box",
        other => other,
    }
}
