//! `chiasm eval`: a trained model on a split, through a predictions file.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use chiasm_data::Dataset;
use chiasm_eval::metrics::retrieval::evaluate;
use chiasm_eval::metrics::{RetrievalMetrics, TieRule};
use chiasm_eval::predictions::{ModelIdentity, Predictions, TrainingOverlap};
use chiasm_eval::score::{ScoreReport, render_table, score};
use chiasm_eval::tasks::retrieval::{self, Embedder, RetrievalJob, Towers};
use chiasm_nn::VisionLanguageModel;
use chiasm_train::TrainedModel;
use chiasm_train::checkpoint::{self, Checkpoint};

use crate::cli::{CheckpointArg, EvalArgs, Global};
use crate::commands::audit;
use crate::error::CliError;
use crate::model::Model;
use crate::output::{self, Progress, note};
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
) -> Embedder<'a> {
    Embedder {
        towers: Towers::Own(model),
        tokenizer: Some(&trained.tokenizer),
        preprocess: Some(&trained.preprocess),
        max_text_len: trained.config.text.max_text_len,
        frames: 1,
        device,
        batch_size: BATCH_SIZE,
    }
}

/// Runs the retrieval task with a progress bar.
pub(crate) fn predict(
    embedder: &Embedder<'_>,
    dataset: &Dataset,
    split: &str,
    model: ModelIdentity,
    shortlist: usize,
    training_overlap: Option<TrainingOverlap>,
) -> Result<Predictions, CliError> {
    let job = RetrievalJob {
        dataset,
        split: split.to_owned(),
        model,
        shortlist,
        training_overlap,
    };
    let mut bar = Bar::default();
    Ok(retrieval::run(embedder, &job, &mut |what, done, total| {
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
struct Bar(Option<(String, Progress)>);

impl Bar {
    fn show(&mut self, what: &str, done: usize, total: usize) {
        if self.0.as_ref().is_none_or(|(current, _)| current != what) {
            self.finish();
            self.0 = Some((what.to_owned(), Progress::new("evaluate", total as u64)));
        }
        if let Some((_, bar)) = &mut self.0 {
            bar.set(done as u64, what);
        }
    }

    fn finish(&self) {
        if let Some((_, bar)) = &self.0 {
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

pub(crate) fn run(args: &EvalArgs, global: &Global) -> Result<(), CliError> {
    let device = device::open(global)?;
    let model = Model::open(&args.run, args.checkpoint, &device)?;
    let config = model.data(args.data.as_deref(), &args.source)?;
    let folder = model.output_folder(&args.run);
    let checked = source::load(&config, &folder.join("quarantine-eval.jsonl"))?;
    let (subset, split) = source::select(&checked.dataset, args.split)?;
    let tested = audit::Tested {
        config: &config,
        split: args.split.one(),
        traces: audit::traces(&checked, args.split.one()),
    };
    let overlap = match (&model, audit::training_of(&args.run)?) {
        (Model::Own(trained), Some(training)) => {
            Some(tested.against(&trained.recipe.data, &training))
        }
        _ => {
            note("warning: it is not known what the model was trained on; figures are not audited");
            None
        }
    };
    let predictions = predict(
        &model.embedder(&device),
        &subset,
        &split,
        model.identity(&args.run),
        args.shortlist.unwrap_or(model.shortlist()),
        overlap,
    )?;
    let path = args.predictions.clone().unwrap_or_else(|| match args.data {
        // Figures on other data do not replace those on the run's own.
        Some(_) => predictions_path(&folder, &format!("{split}-{}", subset.name)),
        None => predictions_path(&folder, &split),
    });
    let report = write_and_score(&predictions, &path)?;
    if global.json {
        output::json(&report)
    } else {
        output::result(&render_table(&report));
        note(&format!("predictions: {}", path.display()));
        Ok(())
    }
}

/// Where a run's predictions go; characters that no file name should hold become dashes.
pub(crate) fn predictions_path(run: &Path, what: &str) -> PathBuf {
    let plain = |c: char| c.is_alphanumeric() || "-_.".contains(c);
    let what: String = what
        .chars()
        .map(|c| if plain(c) { c } else { '-' })
        .collect();
    run.join(format!("predictions-{what}.safetensors"))
}

/// Writes predictions and scores what was written: the figures are those of the file.
pub(crate) fn write_and_score(
    predictions: &Predictions,
    path: &Path,
) -> Result<ScoreReport, CliError> {
    predictions.write(path)?;
    Ok(score(&Predictions::read(path)?, TieRule::default())?)
}
