//! `chiasm probe`: how text and picture relate, read from frozen features.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use chiasm_data::{Dataset, Relation, Sample, Split, hash_fraction};
use chiasm_eval::predictions::relation::RelationPredictions;
use chiasm_eval::predictions::{DatasetIdentity, ModelIdentity, TrainingOverlap};
use chiasm_eval::score::{RelationReport, render_relation_table, score_relation};
use chiasm_eval::tasks::probe::{
    PENALTIES, Pair, PairFeatures, Part, PreparationKind, ProbeJob, ProbeSettings, Probed,
    run as fit,
};
use chiasm_format::atomic;
use chiasm_relation::model::EncoderIdentity;
use chiasm_train::recipe::DataConfig;
use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::cli::{CheckpointArg, Global, SourceArgs, SplitArg};
use crate::commands::eval::{Bar, overlap, predictions_path};
use crate::commands::score::nothing_scored;
use crate::error::CliError;
use crate::features::{Encoders, read_embeddings, read_npy};
use crate::output::{self, note};
use crate::{device, source};

/// `chiasm probe`.
#[derive(Args, Debug)]
pub(crate) struct ProbeArgs {
    /// Whose features are read: a run, a model folder, or published weights. Of two, the first reads
    /// texts and the second pictures
    #[arg(num_args = 0..=2, required_unless_present_any = ["features", "text_features", "image_features"])]
    pub(crate) models: Vec<PathBuf>,
    /// Which checkpoint of a run
    #[arg(long, value_enum, default_value = "last")]
    pub(crate) checkpoint: CheckpointArg,
    /// Features that `chiasm embed` wrote from the same data, instead of a model
    #[arg(long, value_name = "FILE", conflicts_with_all = ["models", "text_features", "image_features"])]
    pub(crate) features: Option<PathBuf>,
    /// Features of texts, a .npy file with a row for each text of the data in its order, instead of a
    /// model
    #[arg(long, value_name = "FILE", conflicts_with = "models")]
    pub(crate) text_features: Option<PathBuf>,
    /// Features of the pictures of these texts, a .npy file with as many rows
    #[arg(long, value_name = "FILE", conflicts_with = "models")]
    pub(crate) image_features: Option<PathBuf>,
    /// Labelled data [default: what the run was trained on]
    #[arg(long, value_name = "PATH")]
    pub(crate) data: Option<String>,
    #[command(flatten)]
    pub(crate) source: SourceArgs,
    /// Which samples are scored
    #[arg(long, value_enum, default_value = "test")]
    pub(crate) split: SplitArg,
    /// Splits that probes are fitted on, separated by commas [default: train]
    #[arg(long, value_name = "SPLITS", value_delimiter = ',')]
    pub(crate) train_splits: Vec<Split>,
    /// C of the linear probe, or `auto` for the best of six on validation pairs
    #[arg(long, value_name = "C", default_value = "0.25")]
    pub(crate) c: String,
    /// What is done to features
    #[arg(long, value_enum, default_value = "modalities")]
    pub(crate) prepare: PrepareArg,
    /// Neighbours that vote
    #[arg(long, value_name = "N", default_value = "15")]
    pub(crate) neighbours: usize,
    /// Share of the answers given that are to be right; below its threshold none is given
    #[arg(long, value_name = "SHARE", default_value = "0.8")]
    pub(crate) precision: f64,
    /// Predictions file [default: predictions-probe-SPLIT.jsonl, in the run where there is one]
    #[arg(long, value_name = "FILE")]
    pub(crate) predictions: Option<PathBuf>,
    /// Write the calibrated linear probe as a relation model, for `chiasm relate`
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
}

/// `--prepare`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PrepareArg {
    /// Give text and picture the same say: each modality the same variance
    Modalities,
    /// Standardise every feature
    Scale,
    /// Leave features as they are, as published
    Raw,
}

/// Where features and data come from.
struct Inputs {
    dataset: Dataset,
    features: PairFeatures,
    /// Name and folder of what was read.
    model: ModelIdentity,
    encoders: Vec<EncoderIdentity>,
    folder: PathBuf,
    overlap: Option<TrainingOverlap>,
}

#[derive(Serialize)]
struct Output<'a> {
    #[serde(flatten)]
    report: &'a RelationReport,
    predictions: String,
    relation: Option<String>,
}

pub(crate) fn run(args: &ProbeArgs, global: &Global) -> Result<(), CliError> {
    let settings = settings(args)?;
    let mut inputs = inputs(args, global)?;
    for sample in &mut inputs.dataset.samples {
        if args.train_splits.contains(&sample.split) {
            sample.split = Split::Train;
        }
    }
    let Inputs {
        dataset, features, ..
    } = &inputs;
    let (classes, relations) = classes(dataset)?;
    let scored = args.split.one();
    let (pairs, features) = pairs(dataset, features, &classes, scored)?;
    let split = scored.map_or_else(|| "all".to_owned(), |split| split.to_string());
    let job = ProbeJob {
        pairs: &pairs,
        features: &features,
        classes: &classes,
        relations,
        settings: &settings,
        split: split.clone(),
        dataset: DatasetIdentity {
            name: dataset.name.clone(),
            fingerprint: dataset.fingerprint(),
        },
        model: inputs.model.clone(),
        training_overlap: inputs.overlap.clone(),
    };
    let mut bar = Bar::default();
    let Probed {
        predictions,
        mut model,
    } = fit(&job, &mut |what, done, total| bar.show(what, done, total))?;
    drop(bar);
    let path = args
        .predictions
        .clone()
        .unwrap_or_else(|| predictions_path(&inputs.folder, &format!("probe-{split}"), "jsonl"));
    predictions.write(&path)?;
    let report = score_relation(&RelationPredictions::read(&path)?).ok_or_else(nothing_scored)?;
    if let Some(out) = &args.out {
        model.encoders.clone_from(&inputs.encoders);
        let json = serde_json::to_vec_pretty(&model)
            .map_err(|error| CliError::new(format!("cannot write JSON: {error}"), None))?;
        atomic::write_bytes(out, &json)
            .map_err(|error| CliError::new(format!("{}: {error}", out.display()), None))?;
    }
    let shown = |path: &Path| path.display().to_string();
    let whole = Output {
        report: &report,
        predictions: shown(&path),
        relation: args.out.as_deref().map(shown),
    };
    output::report(global, &whole, &render_relation_table(&report))?;
    note(&format!("predictions: {}", path.display()));
    if let Some(out) = &args.out {
        note(&format!("relation model: {}", out.display()));
    }
    Ok(())
}

fn settings(args: &ProbeArgs) -> Result<ProbeSettings, CliError> {
    let positive = |c: &f64| *c > 0.0 && c.is_finite();
    let penalties = match args.c.as_str() {
        "auto" => PENALTIES.to_vec(),
        typed => {
            let typed = typed.parse().ok().filter(positive);
            vec![typed.ok_or_else(|| {
                CliError::new(
                    format!("`--c {}`: not a number above 0", args.c),
                    "write for example `--c 0.25`, or `--c auto`".to_owned(),
                )
            })?]
        }
    };
    if !(args.precision > 0.0 && args.precision <= 1.0) {
        return Err(CliError::new(
            format!(
                "`--precision {}`: not a share above 0, and 1 at most",
                args.precision
            ),
            "write for example `--precision 0.9`".to_owned(),
        ));
    }
    if args.split == SplitArg::Train || args.split == SplitArg::All {
        return Err(CliError::new(
            "probes are fitted on the training samples, so these cannot be scored",
            "give `--split val` or `--split test`".to_owned(),
        ));
    }
    let scored = args.split.one();
    if scored.is_some_and(|scored| args.train_splits.contains(&scored)) {
        return Err(CliError::new(
            "probes are fitted on the split that is scored",
            "name another with `--split`, or leave it out of `--train-splits`".to_owned(),
        ));
    }
    Ok(ProbeSettings {
        penalties,
        preparation: match args.prepare {
            PrepareArg::Modalities => PreparationKind::Modalities,
            PrepareArg::Scale => PreparationKind::Scale,
            PrepareArg::Raw => PreparationKind::Raw,
        },
        neighbours: args.neighbours,
        precision: args.precision,
    })
}

fn inputs(args: &ProbeArgs, global: &Global) -> Result<Inputs, CliError> {
    if args.models.is_empty() {
        return given(args);
    }
    let device = device::open(global)?;
    let paths: Vec<_> = args
        .models
        .iter()
        .map(|path| (path.clone(), args.checkpoint))
        .collect();
    let encoders = Encoders::open(&paths, &device)?;
    let first = encoders.first().ok_or_else(no_model)?;
    let config = first.data(args.data.as_deref(), &args.source)?;
    let folder = match args.models.as_slice() {
        [path] => first.output_folder(path),
        _ => PathBuf::new(),
    };
    let checked = source::load(&config, &folder.join("quarantine-probe.jsonl"))?;
    let overlap = match args.models.as_slice() {
        [path] => overlap(first, path, &config, args.split.one(), &checked)?,
        _ => None,
    };
    let mut dataset = checked.dataset;
    keep_labelled(&mut dataset)?;
    let mut bar = Bar::default();
    let features = encoders.embed(&device, &config, &dataset, &mut bar)?;
    Ok(Inputs {
        dataset,
        features,
        model: encoders.identity(),
        encoders: encoders.identities(),
        folder,
        overlap,
    })
}

/// Features from files: no picture is looked at.
fn given(args: &ProbeArgs) -> Result<Inputs, CliError> {
    let data = args.data.as_deref().ok_or_else(|| {
        CliError::new(
            "features come without labels",
            "name the labelled data with `--data`".to_owned(),
        )
    })?;
    let mut config = DataConfig::default();
    args.source.apply(Some(data), &mut config);
    let opened = source::open_source(&config)?;
    let mut dataset = opened.dataset;
    let (features, file) = match &args.features {
        Some(file) => {
            keep_labelled(&mut dataset)?;
            (read_embeddings(file, &dataset)?, file)
        }
        None => {
            if !opened.quarantine.is_empty() {
                return Err(CliError::new(
                    format!(
                        "{} rows of {data} cannot be read, so rows of features are not known to be theirs",
                        opened.quarantine.len()
                    ),
                    "mend them, see `chiasm data check`".to_owned(),
                ));
            }
            let all = rows_of(args, dataset.pairs().len())?;
            let features = labelled_rows(&dataset, &all);
            keep_labelled(&mut dataset)?;
            let file = args.text_features.as_ref().or(args.image_features.as_ref());
            (features, file.ok_or_else(no_model)?)
        }
    };
    let name = file
        .file_name()
        .map(|name| name.to_string_lossy().into_owned());
    Ok(Inputs {
        dataset,
        features,
        model: ModelIdentity {
            name: name.unwrap_or_default(),
            ..ModelIdentity::default()
        },
        encoders: Vec::new(),
        folder: PathBuf::new(),
        overlap: None,
    })
}

fn no_model() -> CliError {
    CliError::new(
        "there is no model and there are no features",
        "name a model, or give `--features`".to_owned(),
    )
}

fn rows_of(args: &ProbeArgs, pairs: usize) -> Result<PairFeatures, CliError> {
    let read = |path: &Option<PathBuf>| match path {
        Some(path) => read_npy(path, pairs),
        None => Ok((Vec::new(), 0)),
    };
    let (text, text_width) = read(&args.text_features)?;
    let (image, image_width) = read(&args.image_features)?;
    let mut features = PairFeatures {
        text,
        text_width,
        image,
        image_width,
        ..PairFeatures::default()
    };
    // Whether they are of one space only their owner knows; of one width they usually are.
    features.compare();
    Ok(features)
}

/// The features of pairs that have a label.
fn labelled_rows(dataset: &Dataset, all: &PairFeatures) -> PairFeatures {
    let pairs = dataset.pairs().into_iter().enumerate();
    let labelled = |(_, (sample, _)): &(usize, (usize, usize))| {
        let sample = dataset.samples.get(*sample);
        sample.is_some_and(|sample| sample.annotations.label.is_some())
    };
    chosen(all, pairs.filter(labelled).map(|(place, _)| place))
}

/// The features of some pairs.
fn chosen(all: &PairFeatures, places: impl Iterator<Item = usize>) -> PairFeatures {
    let mut features = PairFeatures {
        text_width: all.text_width,
        image_width: all.image_width,
        joint: all.joint,
        ..PairFeatures::default()
    };
    for place in places {
        let (text, image) = all.of(place);
        features.cosines.push(all.cosine(place));
        features.text.extend_from_slice(text);
        features.image.extend_from_slice(image);
    }
    features
}

/// Leaves samples without a label out.
fn keep_labelled(dataset: &mut Dataset) -> Result<(), CliError> {
    let all = dataset.len();
    dataset
        .samples
        .retain(|sample| sample.annotations.label.is_some());
    if dataset.is_empty() {
        return Err(CliError::new(
            format!("no sample of {} has a label", dataset.name),
            "name the column with `--label-column`".to_owned(),
        ));
    }
    if dataset.len() < all {
        note(&format!(
            "{} of {all} samples have no label and are left out",
            all - dataset.len()
        ));
    }
    Ok(())
}

/// Names of the classes, and whether they are the four relations, which then are in the order of tv.
fn classes(dataset: &Dataset) -> Result<(Vec<String>, bool), CliError> {
    let labels = dataset
        .samples
        .iter()
        .filter_map(|sample| sample.annotations.label.clone());
    let names: std::collections::BTreeSet<String> = labels.collect();
    if names.iter().all(|name| Relation::from_name(name).is_some()) {
        let names = Relation::ALL.map(|relation| relation.name().to_owned());
        return Ok((names.to_vec(), true));
    }
    /// More than these are no classes but texts.
    const MOST: usize = 1000;
    if names.len() > MOST {
        return Err(CliError::new(
            format!("{} has {} different labels", dataset.name, names.len()),
            "name the column with classes with `--label-column`".to_owned(),
        ));
    }
    Ok((names.into_iter().collect(), false))
}

/// What must stay on one side of a split with a sample: its group, which is its picture or its author where these are
/// known.
fn unit(sample: &Sample) -> &str {
    let author = sample.annotations.author.as_deref();
    author.unwrap_or_else(|| sample.group())
}

/// Share of training pairs that settings are chosen on where the data have no validation split, by the hash of their
/// unit. A threshold that keeps its promise rests on hundreds of pairs.
const HELD_OUT: f64 = 0.2;

/// Whether settings are chosen on a training pair.
fn is_held_out(unit: &str) -> bool {
    // A hash of its own, so that the choice is independent of the split that the same hash may have made.
    let key = format!("validation of probes: {unit}");
    hash_fraction(&key) < HELD_OUT
}

/// Pairs with what each is for, and their features: units of scored pairs are in no other part, nor are those of
/// validation pairs in training, and features are finite.
fn pairs(
    dataset: &Dataset,
    features: &PairFeatures,
    classes: &[String],
    scored: Option<Split>,
) -> Result<(Vec<Pair>, PairFeatures), CliError> {
    let has_validation = scored != Some(Split::Val)
        && dataset
            .samples
            .iter()
            .any(|sample| sample.split == Split::Val);
    let part = |sample: &Sample| match sample.split {
        split if Some(split) == scored => Some(Part::Scored),
        Split::Val => Some(Part::Validation),
        Split::Train if !has_validation && is_held_out(unit(sample)) => Some(Part::Validation),
        Split::Train => Some(Part::Train),
        _ => None,
    };
    let units_of = |wanted: Part| -> HashSet<&str> {
        let own = dataset
            .samples
            .iter()
            .filter(|sample| part(sample) == Some(wanted));
        own.map(unit).collect()
    };
    let (of_scored, of_validation) = (units_of(Part::Scored), units_of(Part::Validation));
    let (mut found, mut places, mut shared, mut broken) = (Vec::new(), Vec::new(), 0, Vec::new());
    for (place, (sample, text)) in dataset.pairs().into_iter().enumerate() {
        let Some(sample) = dataset.samples.get(sample) else {
            continue;
        };
        let label = sample.annotations.label.as_deref();
        let label = label.and_then(|label| classes.iter().position(|class| class == label));
        let (Some(part), Some(label)) = (part(sample), label) else {
            continue;
        };
        let leaks = match part {
            Part::Scored => false,
            Part::Validation => of_scored.contains(unit(sample)),
            Part::Train => of_scored.contains(unit(sample)) || of_validation.contains(unit(sample)),
        };
        if leaks {
            shared += 1;
            continue;
        }
        let id = match sample.texts.len() {
            1 => sample.id.clone(),
            _ => format!("{}#{text}", sample.id),
        };
        let (words, picture) = features.of(place);
        if !words.iter().chain(picture).all(|value| value.is_finite()) {
            broken.push(id);
            continue;
        }
        places.push(place);
        found.push(Pair {
            id,
            unit: unit(sample).to_owned(),
            label,
            part,
        });
    }
    if shared > 0 {
        note(&format!(
            "{shared} pairs share their picture or author with pairs that are scored or chosen on, and are left out"
        ));
    }
    if let Some(first) = broken.first() {
        let count = broken.len();
        note(&format!(
            "{count} pairs have features that are no finite numbers and are left out, first `{first}`"
        ));
    }
    let count = |part: Part| {
        found
            .iter()
            .filter(|pair: &&Pair| pair.part == part)
            .count()
    };
    for (part, what, hint) in [
        (Part::Train, "to fit on", "give data with training samples"),
        (
            Part::Scored,
            "to score",
            "choose a split that the data have with `--split`",
        ),
    ] {
        if count(part) == 0 {
            return Err(CliError::new(
                format!("{} has no labelled pair {what}", dataset.name),
                hint.to_owned(),
            ));
        }
    }
    if count(Part::Validation) == 0 {
        note("warning: there are no validation pairs, so probabilities are not calibrated");
    }
    let features = chosen(features, places.into_iter());
    Ok((found, features))
}
