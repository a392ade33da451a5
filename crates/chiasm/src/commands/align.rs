//! `chiasm align`: how much attention lies on what words name.

use chiasm_eval::predictions::AlignmentPredictions;
use chiasm_eval::score::{render_alignment_table, score_alignment};
use chiasm_eval::tasks::alignment::{self, AlignmentJob};

use crate::cli::{AlignArgs, Global};
use crate::commands::eval::{Bar, overlap};
use crate::error::CliError;
use crate::model::Model;
use crate::output::{self, note};
use crate::{device, source};

pub(crate) fn run(args: &AlignArgs, global: &Global) -> Result<(), CliError> {
    let device = device::open(global)?;
    let model = Model::open(&args.run, args.checkpoint, &device)?;
    let config = model.data(args.data.as_deref(), &args.source)?;
    let folder = model.output_folder(&args.run);
    let checked = source::load(&config, &folder.join("quarantine-align.jsonl"))?;
    let (mut subset, split) = source::select(&checked.dataset, args.split)?;
    subset
        .samples
        .retain(|sample| !sample.annotations.phrases.is_empty());
    subset.samples.truncate(args.limit.unwrap_or(usize::MAX));
    if subset.is_empty() {
        return Err(CliError::new(
            format!(
                "no `{split}` sample of {} has phrases with boxes",
                subset.name
            ),
            "give data such as ALIGN-BENCH, Flickr30k Entities or phrases.jsonl".to_owned(),
        ));
    }
    let job = AlignmentJob {
        dataset: &subset,
        split: split.clone(),
        model: model.identity(&args.run),
        training_overlap: overlap(&model, &args.run, &config, args.split.one(), &checked)?,
    };
    let mut bar = Bar::default();
    let views = model.views(&config, &subset);
    let predictions = alignment::run(
        &model.embedder(&device, views),
        &job,
        &mut |what, done, total| bar.show(what, done, total),
    )?;
    drop(bar);
    let path = args
        .predictions
        .clone()
        .unwrap_or_else(|| folder.join(format!("alignment-{split}.jsonl")));
    predictions.write(&path)?;
    let report = score_alignment(&AlignmentPredictions::read(&path)?);
    output::report(global, &report, &render_alignment_table(&report))?;
    note(&format!("predictions: {}", path.display()));
    Ok(())
}
