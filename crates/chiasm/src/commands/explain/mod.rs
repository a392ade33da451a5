//! `chiasm explain`: maps of words on pictures, and how well such maps point.

mod figures;
mod pictures;

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use chiasm_data::{
    AlphaRule, Dataset, ImageSource, Limits, Opened, Quarantine, Sample, decode, regions,
};
use chiasm_explain::{Explainer, Heads, Method, Request, Subject, Target, choice};
use chiasm_nn::VisionLanguageModel;
use chiasm_nn::select::SelectConfig;
use chiasm_train::TrainedModel;
use clap::Args;

use crate::cli::{CheckpointArg, Global, SourceArgs, SplitArg};
use crate::commands::pretrain;
use crate::device;
use crate::error::CliError;
use crate::model::Model;
use crate::output::note;
use crate::regional::{Regional, RegionalArgs};

/// `chiasm explain`.
#[derive(Args, Debug)]
pub(crate) struct ExplainArgs {
    /// Folder of a run, a model folder, or a file with published weights
    pub(crate) run: PathBuf,
    /// The picture
    #[arg(required_unless_present = "data", conflicts_with = "data")]
    pub(crate) image: Option<PathBuf>,
    /// The text that goes with it; none for an image tower alone
    #[arg(conflicts_with = "data")]
    pub(crate) text: Option<String>,
    /// How to explain: attention, rollout, grad-cam, grad-cam-fusion, relevance or occlusion; with
    /// `--score` several, separated by commas [default: attention, or grad-cam where words and picture
    /// do not meet; with `--score` all that the model has]
    #[arg(long, value_name = "METHOD", value_delimiter = ',')]
    pub(crate) method: Vec<String>,
    /// What to explain: match, cosine, class, class=NAME, region or region=N [default: what the model
    /// was trained to say of a pair]
    #[arg(long, value_name = "TARGET")]
    pub(crate) target: Option<String>,
    /// Show only these words of the text; may be given several times
    #[arg(long, value_name = "WORD")]
    pub(crate) word: Vec<String>,
    /// Hide this word, and show where the model looks for it and what it takes it for; may be given
    /// several times
    #[arg(long, value_name = "WORD", conflicts_with_all = ["target", "score"])]
    pub(crate) mask: Vec<String>,
    /// Hide this region, and show which words and regions the model looks at for it; may be given several
    /// times
    #[arg(long, value_name = "N", conflicts_with_all = ["target", "score", "mask"])]
    pub(crate) mask_region: Vec<usize>,
    /// Layer of `attention`, from 0 [default: the one that `--auto-layer` chose, else the last]
    #[arg(long, value_name = "N")]
    pub(crate) layer: Option<usize>,
    /// Heads of `attention` and `rollout`: mean, max, a number, or scoresum as in ROSITA's demonstration
    /// [default: what `--auto-layer` chose, else max; mean of `rollout`]
    #[arg(long, value_name = "HEADS")]
    pub(crate) heads: Option<String>,
    /// Smooth Grad-CAM by its first principal component
    #[arg(long)]
    pub(crate) smooth: bool,
    /// Show attention as it is and beside it with what passes a threshold, with the same weights: a rule
    /// and its value, such as `prob_abs=0.01`
    #[arg(long, value_name = "RULE=VALUE")]
    pub(crate) select: Option<String>,
    /// Explain the pictures of a data set, with their phrases where they have some
    #[arg(long, value_name = "PATH")]
    pub(crate) data: Option<String>,
    #[command(flatten)]
    pub(crate) source: SourceArgs,
    #[command(flatten)]
    pub(crate) regional: RegionalArgs,
    /// Which samples of `--data`
    #[arg(long, value_enum, default_value = "test")]
    pub(crate) split: SplitArg,
    /// Pictures of `--data` at most [default: 12; with `--score` all]
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<usize>,
    /// Which checkpoint of a run
    #[arg(long, value_enum, default_value = "last")]
    pub(crate) checkpoint: CheckpointArg,
    /// Folder for pictures and JSON
    #[arg(long, value_name = "DIR", default_value = "explained")]
    pub(crate) out: PathBuf,
    /// Also write everything as one page
    #[arg(long, value_name = "FILE")]
    pub(crate) page: Option<PathBuf>,
    /// Score methods on phrases with boxes, beside random and centred maps
    #[arg(long, requires = "data")]
    pub(crate) score: bool,
    /// With `--score`: leave out what results do as places go and come
    #[arg(long, requires = "score")]
    pub(crate) no_curves: bool,
    /// Choose layer and heads of `attention` on the `val` samples of `--data`, and write the choice into
    /// the run's folder
    #[arg(long, requires = "data")]
    pub(crate) auto_layer: bool,
    /// With `--auto-layer`: pictures to choose on at most
    #[arg(long, value_name = "N", default_value_t = 200, requires = "auto_layer")]
    pub(crate) auto_limit: usize,
    /// With `--score`: predictions file [default: RUN/explanation-SPLIT.jsonl]
    #[arg(long, value_name = "FILE", requires = "score")]
    pub(crate) predictions: Option<PathBuf>,
}

pub(crate) fn run(args: &ExplainArgs, global: &Global) -> Result<(), CliError> {
    let device = device::open(global)?;
    let model = Model::open(&args.run, args.checkpoint, &device)?;
    if args.data.is_some() {
        args.regional
            .refuse("the pictures of `--data` have the regions of `--regions`")?;
    }
    if args.score || args.auto_layer {
        return figures::run(args, global, &model, &device);
    }
    if args.method.len() > 1 {
        return Err(CliError::new(
            "several methods at once are for `--score`",
            "give one `--method`".to_owned(),
        ));
    }
    pictures::run(args, global, &model, &device)
}

/// A picture and its text as a data set of one.
fn single(
    args: &ExplainArgs,
    image: &Path,
    model: &Model,
    device: &Device,
) -> Result<Dataset, CliError> {
    let id = image.file_name().map_or_else(
        || image.display().to_string(),
        |name| name.to_string_lossy().into_owned(),
    );
    let picture = ImageSource::Path(image.to_owned());
    let set = args.source.regions.as_deref();
    let regional = Regional::of(model, set, &args.regional, device)?;
    let regions = match &regional {
        Some(regional) => {
            let bytes = picture.read()?;
            let rgb = decode(&bytes, &Limits::default(), true, AlphaRule::default())
                .map_err(|error| CliError::new(format!("{}: {error}", image.display()), None))?;
            Some(regions::in_memory(&id, &regional.regions(&rgb)?)?)
        }
        None => {
            args.regional.refuse("the model sees pixels")?;
            None
        }
    };
    let mut sample = Sample::of_picture(id, picture, args.text.iter().cloned().collect());
    sample.annotations.regions = regions;
    let dataset = Dataset {
        name: "the picture".to_owned(),
        samples: vec![sample],
    };
    match set.filter(|_| regional.is_none()) {
        None => Ok(dataset),
        Some(path) => {
            let opened = Opened {
                dataset,
                quarantine: Quarantine::default(),
            };
            Ok(regions::attach(opened, path)?.dataset)
        }
    }
}

/// What attention is to keep, as it was typed.
fn selection<'a>(
    model: &'a Model,
    typed: &str,
) -> Result<(&'a TrainedModel, SelectConfig), CliError> {
    let Model::Own(trained) = model else {
        return Err(CliError::new(
            "`--select` is for models of our own",
            "give a run".to_owned(),
        ));
    };
    let base = trained.config.select.clone().unwrap_or_default();
    let select = pretrain::selected(&base, typed)?;
    let mut config = trained.config.clone();
    config.select = Some(select.clone());
    let checked = config.validate();
    checked.map_err(|error| CliError::new(error.to_string(), None))?;
    Ok((trained, select))
}

/// The same weights with another selection.
pub(crate) fn selecting(model: &Model, typed: &str) -> Result<VisionLanguageModel, CliError> {
    let (trained, select) = selection(model, typed)?;
    let mut other = trained.model.clone();
    other.fusion.reselect(Some(&select));
    Ok(other)
}

/// What is explained, as it was typed; a class without a name is found per picture.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Asked {
    Target(Target),
    BestClass,
}

/// What `--target` says; without it what the model says of a pair, or of a picture `alone`.
pub(crate) fn asked(
    typed: Option<&str>,
    alone: bool,
    model: &Model,
    subject: &Subject<'_>,
) -> Result<Asked, CliError> {
    let Some(typed) = typed else {
        return Ok(Asked::Target(match alone {
            true => Target::Itself,
            false => subject.usual_target(),
        }));
    };
    let unknown = || {
        CliError::new(
            format!("`--target {typed}`: not known"),
            "write match, cosine, class, class=NAME, region or region=N".to_owned(),
        )
    };
    let (name, value) = match typed.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (typed, None),
    };
    Ok(match (name, value) {
        ("match", None) => Asked::Target(Target::Match),
        ("cosine", None) => Asked::Target(Target::Cosine),
        ("class", None) => Asked::BestClass,
        ("class", Some(class)) => {
            let targets = match model {
                Model::Own(trained) => trained.targets.as_ref(),
                Model::Published(_) => None,
            };
            let names = targets.map_or(&[][..], chiasm_data::Targets::names);
            let found = names.iter().position(|name| name == class);
            Asked::Target(Target::Class(found.ok_or_else(|| {
                let known: Vec<&str> = names.iter().take(20).map(String::as_str).collect();
                CliError::new(
                    format!("the model has no class `{class}`"),
                    (!known.is_empty()).then(|| format!("it has: {}", known.join(", "))),
                )
            })?))
        }
        ("region", None) => Asked::Target(Target::Region(None)),
        ("region", Some(number)) => {
            Asked::Target(Target::Region(Some(number.parse().map_err(|_| unknown())?)))
        }
        _ => return Err(unknown()),
    })
}

/// A method as it was typed.
fn method(name: &str) -> Result<Method, CliError> {
    Method::of(name).ok_or_else(|| {
        let known: Vec<&str> = Method::ALL.iter().map(|method| method.name()).collect();
        CliError::new(
            format!("there is no method `{name}`"),
            format!("take one of {}", known.join(", ")),
        )
    })
}

/// Whether something is hidden, to see where a model looks for it.
fn is_demonstration(args: &ExplainArgs) -> bool {
    !args.mask.is_empty() || !args.mask_region.is_empty()
}

/// How to explain by a method: what was typed, over what was chosen before, over the method's own.
fn request(args: &ExplainArgs, model: &Model, method: Method) -> Result<Request, CliError> {
    let mut request = Request {
        smooth: args.smooth,
        ..Request::new(method)
    };
    let typed = args.layer.is_some() || args.heads.is_some();
    if method == Method::Attention
        && !typed
        && !is_demonstration(args)
        && let Some(chosen) = chosen(&args.run, model)?
    {
        request = choice::request(&chosen)?;
        note(&format!(
            "attention of layer {}, heads {}: chosen on {} phrases, {}",
            chosen.layer,
            chosen.heads,
            chosen.phrases,
            args.run.join(choice::FILE).display()
        ));
    }
    if let Some(layer) = args.layer {
        request.layer = Some(layer);
    }
    if is_demonstration(args) {
        // The demonstration is a mean of what heads give.
        request.heads = Heads::Mean;
    }
    if let Some(heads) = &args.heads {
        request.heads = Heads::of(heads).ok_or_else(|| {
            CliError::new(
                format!("`--heads {heads}`: not known"),
                "write mean, max, scoresum, or the number of a head".to_owned(),
            )
        })?;
    }
    Ok(request)
}

/// Layer and heads that were chosen for this checkpoint.
pub(crate) fn chosen(
    run: &Path,
    model: &Model,
) -> Result<Option<chiasm_eval::predictions::Choice>, CliError> {
    if !run.is_dir() {
        return Ok(None);
    }
    let Some(chosen) = choice::load(run)? else {
        return Ok(None);
    };
    let step = model.identity(run).step;
    if chosen.step != step {
        note(&format!(
            "warning: {} is of step {}, the model of step {}: not used",
            run.join(choice::FILE).display(),
            chosen
                .step
                .map_or("none".to_owned(), |step| step.to_string()),
            step.map_or("none".to_owned(), |step| step.to_string()),
        ));
        return Ok(None);
    }
    Ok(Some(chosen))
}

/// The method that a model is explained by unless something else is asked.
pub(crate) fn usual_method(explainer: &Explainer<'_>, target: &Target) -> Method {
    match (&explainer.subject, target) {
        (_, Target::Itself) => Method::Attention,
        (Subject::Clip(_), _) | (Subject::Own(_), Target::Cosine) => Method::GradCam,
        _ => Method::Attention,
    }
}

/// Whether a model can be explained by a method.
pub(crate) fn has(subject: &Subject<'_>, target: &Target, method: Method) -> bool {
    let fused = matches!(subject, Subject::Own(_)) && !matches!(target, Target::Cosine);
    match method {
        Method::GradCamFusion => fused,
        // Of regions both are the same.
        Method::GradCam => !matches!(subject, Subject::Own(model) if model.vision.is_none()),
        _ => true,
    }
}
