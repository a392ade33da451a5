//! `chiasm eval`: a trained model on a split, through a predictions file.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use chiasm_data::{Dataset, Split, Views};
use chiasm_eval::metrics::retrieval::evaluate;
use chiasm_eval::metrics::{RetrievalMetrics, TieRule};
use chiasm_eval::predictions::{
    ClassPredictions, GroundingPredictions, ModelIdentity, Predictions, Targets, TrainingOverlap,
};
use chiasm_eval::score::{
    ClassReport, GroundingReport, ScoreReport, render_class_table, render_grounding_table,
    render_table, score, score_classes, score_grounding,
};
use chiasm_eval::submission::{write_nlvr2, write_vqa};
use chiasm_eval::tasks::classes::{self, ClassJob};
use chiasm_eval::tasks::embedder::{Embedder, Towers};
use chiasm_eval::tasks::grounding::{self, GroundingJob};
use chiasm_eval::tasks::retrieval::{self, RetrievalJob};
use chiasm_nn::VisionLanguageModel;
use chiasm_train::TrainedModel;
use chiasm_train::checkpoint::{self, Checkpoint};
use chiasm_train::recipe::DataConfig;

use crate::cli::{CheckpointArg, EvalArgs, EvalTask, Global};
use crate::commands::audit;
use crate::error::CliError;
use crate::model::Model;
use crate::output::{self, Progress, note};
use crate::source::Checked;
use crate::{device, source};

/// Pictures, texts or pairs in one call of the model.
pub(crate) const BATCH_SIZE: usize = 64;

/// A usable checkpoint of a run, read back as a model.
pub(crate) fn load_run(
    run: &Path,
    which: CheckpointArg,
    device: &Device,
) -> Result<TrainedModel, CliError> {
    Ok(TrainedModel::load(&usable(run, which)?, device)?)
}

/// A usable checkpoint of a run; what had to be passed over is said.
pub(crate) fn usable(run: &Path, which: CheckpointArg) -> Result<Checkpoint, CliError> {
    let folder = run.join("checkpoints");
    let (checkpoint, damaged) = match which {
        CheckpointArg::Last => checkpoint::latest(&folder)?,
        CheckpointArg::Best => checkpoint::best(&folder)?,
    };
    for message in damaged {
        note(&format!(
            "warning: {message}; using {}",
            checkpoint.path.display()
        ));
    }
    Ok(checkpoint)
}

/// A trained model's parts around a set of weights: its own, or those it began with.
pub(crate) fn embedder<'a>(
    trained: &'a TrainedModel,
    model: &'a VisionLanguageModel,
    device: &'a Device,
    views: Views,
) -> Embedder<'a> {
    Embedder {
        towers: Towers::Own(model),
        tokenizer: Some(&trained.tokenizer),
        preprocess: Some(&trained.preprocess),
        max_text_len: trained.config.text.max_text_len,
        views,
        blind: trained.recipe.data.blind,
        device,
        batch_size: BATCH_SIZE,
    }
}

/// Runs the retrieval task with a progress bar.
pub(crate) fn predict(
    embedder: &Embedder<'_>,
    job: &RetrievalJob<'_>,
) -> Result<Predictions, CliError> {
    let mut bar = Bar::default();
    Ok(retrieval::run(embedder, job, &mut |what, done, total| {
        bar.show(what, done, total);
    })?)
}

/// Figures of the dual encoder alone, with a progress bar and without a predictions file: for
/// models that are only compared with.
pub(crate) fn measure(
    embedder: &Embedder<'_>,
    dataset: &Dataset,
) -> Result<RetrievalMetrics, CliError> {
    let mut bar = Bar::default();
    let compared = retrieval::compare(embedder, dataset, false, &mut |what, done, total| {
        bar.show(what, done, total);
    })?;
    Ok(evaluate(
        &compared.scores,
        &compared.image_of_text,
        TieRule::default(),
    )?)
}

/// One progress bar after another, each for one thing being done.
#[derive(Default)]
pub(crate) struct Bar {
    current: Option<(String, Progress)>,
    silent: bool,
}

impl Bar {
    /// One that shows nothing, where another bar is shown.
    pub(crate) fn silent() -> Self {
        Self {
            current: None,
            silent: true,
        }
    }

    pub(crate) fn show(&mut self, what: &str, done: usize, total: usize) {
        if self.silent {
            return;
        }
        if self
            .current
            .as_ref()
            .is_none_or(|(current, _)| current != what)
        {
            self.finish();
            self.current = Some((what.to_owned(), Progress::new("evaluate", total as u64)));
        }
        if let Some((_, bar)) = &mut self.current {
            bar.set(done as u64, what);
        }
    }

    fn finish(&self) {
        if let Some((_, bar)) = &self.current {
            bar.finish();
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.finish();
    }
}

/// Identity of a trained model in predictions.
pub(crate) fn identity(trained: &TrainedModel, run: &Path) -> ModelIdentity {
    ModelIdentity {
        name: trained.recipe.name.clone(),
        run: run.file_name().map_or_else(
            || run.display().to_string(),
            |name| name.to_string_lossy().into_owned(),
        ),
        step: Some(trained.state.step),
    }
}

/// What of the samples that are scored the model was trained on; `None`, and a warning, where that is
/// not known.
pub(crate) fn overlap(
    model: &Model,
    run: &Path,
    config: &DataConfig,
    split: Option<Split>,
    checked: &Checked,
) -> Result<Option<TrainingOverlap>, CliError> {
    let tested = audit::Tested {
        config,
        split,
        traces: audit::traces(checked, split.as_slice()),
    };
    match (model, audit::training_of(run)?) {
        (Model::Own(trained), Some(training)) => {
            Ok(Some(tested.against(&trained.recipe.data, &training)))
        }
        _ => {
            note("warning: it is not known what the model was trained on; figures are not audited");
            Ok(None)
        }
    }
}

pub(crate) fn run(args: &EvalArgs, global: &Global) -> Result<(), CliError> {
    let device = device::open(global)?;
    let mut model = Model::read(&args.run, args.read, &device)?;
    if let Some(typed) = &args.select {
        model.select(typed)?;
    }
    let config = model.data(args.data.as_deref(), &args.source)?;
    let folder = model.output_folder(&args.run);
    let checked = source::load(&config, &folder.join("quarantine-eval.jsonl"))?;
    let (subset, split) = source::select(&checked.dataset, args.split)?;
    let overlap = overlap(&model, &args.run, &config, args.split.one(), &checked)?;
    let embedder = Embedder {
        blind: args.blind || config.blind,
        ..model.embedder(&device, model.views(&config, &subset))
    };
    // Figures on other data do not replace those on the run's own.
    let name = match args.data {
        Some(_) => format!("{split}-{}", subset.name),
        None => split.clone(),
    };
    let path = |extension: &str| {
        let default = || predictions_path(&folder, &name, extension);
        args.predictions.clone().unwrap_or_else(default)
    };
    let wanted = matches!(args.task, EvalTask::Auto | EvalTask::Grounding);
    if wanted && model.grounds() {
        let job = GroundingJob {
            dataset: &subset.referring(),
            split: split.clone(),
            model: model.identity(&args.run),
            training_overlap: overlap,
        };
        let path = path("jsonl");
        let (_, report) = ground(&embedder, &job, &path)?;
        output::report(global, &report, &render_grounding_table(&report))?;
        note(&format!("predictions: {}", path.display()));
        return Ok(());
    }
    if args.task == EvalTask::Grounding {
        return Err(CliError::new(
            "the model was not trained to find what a text refers to",
            "fine-tune it with `[objectives.grounding]`, for example the recipe `tbkin-refcoco`"
                .to_owned(),
        ));
    }
    let of_classes = match &model {
        Model::Own(trained) if args.task != EvalTask::Retrieval => {
            trained.targets.as_ref().map(|targets| (trained, targets))
        }
        _ => None,
    };
    if let Some((trained, targets)) = of_classes {
        let training = checked.dataset.of_splits(&config.train_splits);
        let job = ClassJob {
            dataset: &subset,
            split,
            model: model.identity(&args.run),
            targets,
            pictures: trained.config.heads.pictures(),
            independent: trained.recipe.has_independent_classes(),
            majority: targets.majority(&training.samples),
            training_overlap: overlap,
        };
        let (report, path) = (predict_classes(&embedder, &job)?, path("jsonl"));
        let report = write_classes(&report, &path, args.submission.as_deref())?;
        output::report(global, &report, &render_class_table(&report))?;
        note(&format!("predictions: {}", path.display()));
        return Ok(());
    }
    if args.task == EvalTask::Classes || args.submission.is_some() {
        return Err(CliError::new(
            "the model was not trained for classes",
            "fine-tune it with `[objectives.classification]`, for example the recipe `scl-vqa`"
                .to_owned(),
        ));
    }
    let predictions = predict(
        &embedder,
        &RetrievalJob {
            dataset: &subset,
            split,
            model: model.identity(&args.run),
            shortlist: args.shortlist.unwrap_or(model.shortlist()),
            exhaustive: args.exhaustive,
            training_overlap: overlap,
        },
    )?;
    let path = path("safetensors");
    let report = write_and_score(&predictions, &path)?;
    output::report(global, &report, &render_table(&report))?;
    note(&format!("predictions: {}", path.display()));
    Ok(())
}

/// Finds what texts refer to with a progress bar; writes what was found and scores what was written.
pub(crate) fn ground(
    embedder: &Embedder<'_>,
    job: &GroundingJob<'_>,
    path: &Path,
) -> Result<(GroundingPredictions, GroundingReport), CliError> {
    let mut bar = Bar::default();
    let predictions = grounding::run(embedder, job, &mut |what, done, total| {
        bar.show(what, done, total);
    })?;
    predictions.write(path)?;
    let predictions = GroundingPredictions::read(path)?;
    let report = score_grounding(&predictions);
    Ok((predictions, report))
}

/// Runs the classification task with a progress bar.
pub(crate) fn predict_classes(
    embedder: &Embedder<'_>,
    job: &ClassJob<'_>,
) -> Result<ClassPredictions, CliError> {
    let mut bar = Bar::default();
    Ok(classes::run(embedder, job, &mut |what, done, total| {
        bar.show(what, done, total);
    })?)
}

/// Writes predicted classes and scores what was written.
pub(crate) fn write_classes(
    predictions: &ClassPredictions,
    path: &Path,
    submission: Option<&Path>,
) -> Result<ClassReport, CliError> {
    predictions.write(path)?;
    let predictions = ClassPredictions::read(path)?;
    if let Some(file) = submission {
        match predictions.info.targets {
            Targets::Answers => write_vqa(&predictions, file)?,
            Targets::Labels => write_nlvr2(&predictions, file)?,
        }
        note(&format!("for the leaderboard: {}", file.display()));
    }
    Ok(score_classes(&predictions))
}

/// Where a run's predictions go; characters that no file name should hold become dashes.
pub(crate) fn predictions_path(run: &Path, what: &str, extension: &str) -> PathBuf {
    let plain = |c: char| c.is_alphanumeric() || "-_.".contains(c);
    let what: String = what
        .chars()
        .map(|c| if plain(c) { c } else { '-' })
        .collect();
    run.join(format!("predictions-{what}.{extension}"))
}

/// Writes predictions and scores what was written: the figures are those of the file.
pub(crate) fn write_and_score(
    predictions: &Predictions,
    path: &Path,
) -> Result<ScoreReport, CliError> {
    predictions.write(path)?;
    Ok(score(&Predictions::read(path)?, TieRule::default())?)
}
