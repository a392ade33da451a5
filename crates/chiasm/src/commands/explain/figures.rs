//! How well maps point: methods scored on phrases with boxes, and the layer that points best.

use burn::tensor::Device;
use chiasm_data::{Dataset, Split};
use chiasm_eval::predictions::{Choice, ExplanationPredictions};
use chiasm_eval::score::{render_explanation_table, score_explanations};
use chiasm_explain::task::{ExplainJob, run as explain};
use chiasm_explain::{Explainer, Method, Request, Target, choice};
use chiasm_nn::VisionLanguageModel;
use chiasm_nn::layers::Init;

use super::{Asked, ExplainArgs, asked, chosen, has, method, request, selecting, selection};
use crate::cli::Global;
use crate::commands::eval::{Bar, overlap};
use crate::error::CliError;
use crate::model::Model;
use crate::output::{self, note};
use crate::source;

/// Seed of the random weights that maps are compared with.
const RANDOM_WEIGHTS: u64 = 0x5EED;

pub(super) fn run(
    args: &ExplainArgs,
    global: &Global,
    model: &Model,
    device: &Device,
) -> Result<(), CliError> {
    let selected = args
        .select
        .as_deref()
        .map(|typed| selecting(model, typed))
        .transpose()?;
    let explainer = model.explainer(selected.as_ref())?;
    let target = match asked(args.target.as_deref(), false, model, &explainer.subject)? {
        Asked::Target(target) => target,
        Asked::BestClass => {
            return Err(CliError::new(
                "phrases have no class to explain",
                "explain `match`, `cosine` or `region`".to_owned(),
            ));
        }
    };
    let config = model.data(args.data.as_deref(), &args.source)?;
    let folder = model.output_folder(&args.run);
    let checked = source::load(&config, &folder.join("quarantine-explain.jsonl"))?;
    let embedder = model.embedder(device, model.views(&config, &checked.dataset));
    let mut chosen = chosen(&args.run, model)?;
    if args.auto_layer {
        let val = phrases(
            &checked.dataset.subset(Split::Val),
            &target,
            args.auto_limit,
        );
        if val.is_empty() {
            return Err(CliError::new(
                format!(
                    "no `val` sample of {} has phrases with boxes",
                    checked.dataset.name
                ),
                "a layer is chosen on samples that it is not scored on".to_owned(),
            ));
        }
        let mut bar = Bar::default();
        let identity = model.identity(&args.run);
        let found = choice::choose(
            &explainer,
            &embedder,
            &val,
            Split::Val.as_str(),
            &target,
            &identity,
            &mut |what, done, total| bar.show(what, done, total),
        )?;
        drop(bar);
        choice::save(&folder, &found)?;
        note(&format!("written: {}", folder.join(choice::FILE).display()));
        if !args.score {
            return output::report(global, &found, &said(&found));
        }
        chosen = Some(found);
    }
    let (subset, split) = source::select(&checked.dataset, args.split)?;
    let subset = phrases(&subset, &target, args.limit.unwrap_or(usize::MAX));
    if subset.is_empty() {
        return Err(CliError::new(
            format!(
                "no `{split}` sample of {} has phrases with boxes",
                subset.name
            ),
            "give data such as ALIGN-BENCH, Flickr30k Entities or phrases.jsonl".to_owned(),
        ));
    }
    let random = match model {
        Model::Own(trained) => {
            let init = Init::new(RANDOM_WEIGHTS, trained.config.init_std, device);
            let mut random = VisionLanguageModel::new(&init, &trained.config);
            if let Some(typed) = &args.select {
                random.fusion.reselect(Some(&selection(model, typed)?.1));
            }
            Some(random)
        }
        Model::Published(_) => None,
    };
    let requests = requests(args, model, &explainer, &target, chosen.as_ref())?;
    let uses_choice = |request: &Request| {
        chosen.as_ref().is_some_and(|chosen| {
            request.method == Method::Attention
                && request.layer == Some(chosen.layer)
                && request.heads.name() == chosen.heads
        })
    };
    let job = ExplainJob {
        dataset: &subset,
        split: split.clone(),
        model: model.identity(&args.run),
        target,
        select: args.select.clone().unwrap_or_default(),
        curves: !args.no_curves,
        random: random
            .as_ref()
            .map(|random| model.explainer(Some(random)))
            .transpose()?,
        choice: requests
            .iter()
            .any(uses_choice)
            .then(|| chosen.clone())
            .flatten(),
        training_overlap: overlap(model, &args.run, &config, args.split.one(), &checked)?,
        requests,
    };
    let mut bar = Bar::default();
    let predictions = explain(&explainer, &embedder, &job, &mut |what, done, total| {
        bar.show(what, done, total);
    })?;
    drop(bar);
    let path = args
        .predictions
        .clone()
        .unwrap_or_else(|| folder.join(format!("explanation-{split}.jsonl")));
    predictions.write(&path)?;
    let report = score_explanations(&ExplanationPredictions::read(&path)?);
    output::report(global, &report, &render_explanation_table(&report))?;
    note(&format!("predictions: {}", path.display()));
    Ok(())
}

/// Samples with phrases that can be seen; for a model that finds regions, a sample a phrase.
fn phrases(dataset: &Dataset, target: &Target, most: usize) -> Dataset {
    let mut subset = dataset.clone();
    subset.samples.retain(|sample| {
        let phrases = &sample.annotations.phrases;
        phrases.iter().any(|phrase| !phrase.boxes.is_empty())
    });
    subset.samples.truncate(most);
    match target {
        Target::Region(_) => subset.referring(),
        _ => subset,
    }
}

/// The methods that were typed, or all that the model has.
fn requests(
    args: &ExplainArgs,
    model: &Model,
    explainer: &Explainer<'_>,
    target: &Target,
    chosen: Option<&Choice>,
) -> Result<Vec<Request>, CliError> {
    let methods: Vec<Method> = match args.method.is_empty() {
        false => args
            .method
            .iter()
            .map(|name| method(name))
            .collect::<Result<_, _>>()?,
        true => Method::ALL
            .into_iter()
            .filter(|method| has(&explainer.subject, target, *method))
            .collect(),
    };
    let mut requests = Vec::new();
    for method in methods {
        let typed = args.layer.is_some() || args.heads.is_some();
        requests.push(
            match chosen.filter(|_| method == Method::Attention && !typed) {
                Some(chosen) => choice::request(chosen)?,
                None => request(args, model, method)?,
            },
        );
    }
    Ok(requests)
}

fn said(choice: &Choice) -> String {
    format!(
        "layer {}, heads {}: the strongest place lies in a box for {:.1} % of {} phrases of `{}`",
        choice.layer,
        choice.heads,
        100.0 * choice.pointing,
        choice.phrases,
        choice.split
    )
}
