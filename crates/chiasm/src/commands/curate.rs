//! `chiasm curate`: chooses the pairs of a table that are worth keeping.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use chiasm_data::curate::{self, Config, Features, Pair, Report, Rule, Scorer, Scores, Step};
use chiasm_data::{DataError, Dataset, ImageSource, OpenOptions, Sample, Views};
use chiasm_eval::score::grouped;
use chiasm_eval::tasks::embedder::{Embedder, TaskError};
use chiasm_format::{Matrix, Parts};
use chiasm_ranks::Ranks;
use chiasm_train::recipe::DataConfig;
use clap::Args;
use serde::Serialize;

use crate::cli::{CheckpointArg, Global};
use crate::commands::eval::Bar;
use crate::commands::relate::{Related, Relater};
use crate::device;
use crate::error::CliError;
use crate::model::Model;
use crate::output::{self, Progress};
use crate::ranks::{self, RankArgs};

/// Rows between two entries in the journal.
const CHUNK: usize = 65_536;
/// The same with a model, which takes a second for so many.
const MODEL_CHUNK: usize = 512;

/// `chiasm curate`.
#[derive(Args, Debug)]
pub(crate) struct CurateArgs {
    /// Table of pairs: CSV, TSV, JSON lines or Parquet
    pub(crate) pairs: PathBuf,
    /// What a pair must be; may be given several times. `score>=0.25`, `words>=3`, `chars<=200`,
    /// `side>=64` (pixels) or `COLUMN>=0.5`, each with `>=` or `<=`; `unique=text`, `unique=picture` or
    /// `unique=pair`; `top=3/COLUMN`, the best three of those with the same value there; `best=30%`,
    /// `best=0.3` or `best=1000`, the best of those that pass everything else
    #[arg(long, value_name = "RULE", required = true)]
    pub(crate) keep: Vec<Rule>,
    /// Folder for the tables of kept and dropped pairs [default: the table's name with `.curated`]
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Scores from this column
    #[arg(long, value_name = "NAME", group = "scores")]
    pub(crate) score_column: Option<String>,
    /// Scores as cosines of vectors, row by row as in the table: a safetensors file with `image_embeds`
    /// and `text_embeds`
    #[arg(long, value_name = "FILE", group = "scores")]
    pub(crate) features: Option<PathBuf>,
    /// Vectors of pictures in a file of their own, `.npy` or safetensors
    #[arg(
        long,
        value_name = "FILE",
        group = "scores",
        requires = "text_features"
    )]
    pub(crate) image_features: Option<PathBuf>,
    /// Vectors of texts in a file of their own, `.npy` or safetensors
    #[arg(long, value_name = "FILE", requires = "image_features")]
    pub(crate) text_features: Option<PathBuf>,
    /// Scores from this model: a run, a model folder, or published weights of texts and pictures
    #[arg(long, value_name = "PATH", group = "scores")]
    pub(crate) model: Option<PathBuf>,
    /// Scores from this relation model, as `chiasm probe --out` wrote it: the probability that the text is
    /// represented in the picture, or of the class that `--class` names
    #[arg(long, value_name = "FILE", group = "scores")]
    pub(crate) relation: Option<PathBuf>,
    /// Class of the relation model whose probability is the score
    #[arg(long, value_name = "NAME", requires = "relation")]
    pub(crate) class: Option<String>,
    /// Where the relation model's encoder is now, when it has moved; of two, texts first
    #[arg(long, value_name = "PATH", requires = "relation")]
    pub(crate) encoder: Vec<PathBuf>,
    /// Which weights of a run
    #[arg(long, value_enum, default_value_t = CheckpointArg::Best)]
    pub(crate) checkpoint: CheckpointArg,
    /// Column with image paths [default: guessed]
    #[arg(long, value_name = "NAME")]
    pub(crate) image_column: Option<String>,
    /// Column with texts [default: guessed]
    #[arg(long, value_name = "NAME")]
    pub(crate) text_column: Option<String>,
    /// Folder that image paths are relative to [default: the table's, or `images` in it]
    #[arg(long, value_name = "DIR")]
    pub(crate) image_root: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) ranks: RankArgs,
}

/// What is printed.
#[derive(Serialize)]
struct Shown<'a> {
    rows: u64,
    kept: u64,
    dropped: &'a BTreeMap<String, u64>,
    /// The score at which the best begin.
    cut: Option<f32>,
    kept_file: &'a Path,
    dropped_file: &'a Path,
}

pub(crate) fn run(args: &CurateArgs, ranks: &Ranks, global: &Global) -> Result<(), CliError> {
    let out = args
        .out
        .clone()
        .unwrap_or_else(|| args.pairs.with_extension("curated"));
    let config = Config {
        source: args.pairs.clone(),
        out,
        options: OpenOptions {
            image_column: args.image_column.clone(),
            text_column: args.text_column.clone(),
            image_root: args.image_root.clone(),
            ..OpenOptions::default()
        },
        rules: args.keep.clone(),
        chunk: match args.model.is_some() || args.relation.is_some() {
            true => MODEL_CHUNK,
            false => CHUNK,
        },
    };
    let report = match (&args.model, &args.relation) {
        (Some(path), _) => {
            let device = device::open(global)?;
            let model = Model::open(path, args.checkpoint, &device)?;
            let identity = serde_json::to_string(&model.identity(path))
                .map_err(|error| CliError::new(format!("cannot write JSON: {error}"), None))?;
            let mut aligned = Aligned {
                embedder: model.embedder(&device, Views::default()),
                identity,
            };
            work(&config, &mut Scores::Model(&mut aligned), ranks)?
        }
        (None, Some(file)) => {
            let mut relating = Relating::open(file, args, global)?;
            work(&config, &mut Scores::Model(&mut relating), ranks)?
        }
        (None, None) => work(&config, &mut given(args)?, ranks)?,
    };
    let Some(report) = report else {
        return Ok(());
    };
    let shown = Shown {
        rows: report.rows,
        kept: report.kept,
        dropped: &report.dropped,
        cut: report.cut,
        kept_file: &report.kept_file,
        dropped_file: &report.dropped_file,
    };
    output::report(global, &shown, &table(&report))
}

/// Scores that somebody else computed.
fn given(args: &CurateArgs) -> Result<Scores<'static>, CliError> {
    let pair = args
        .image_features
        .as_ref()
        .zip(args.text_features.as_ref());
    let one = args.features.as_ref().map(|file| (file, file));
    Ok(match (&args.score_column, pair.or(one)) {
        (Some(column), _) => Scores::Column(column.clone()),
        (None, Some((images, texts))) => {
            let images = Matrix::open(images, "image_embeds")?;
            let texts = Matrix::open(texts, "text_embeds")?;
            Scores::Features(Box::new(Features::new(images, texts)?))
        }
        (None, None) => Scores::None,
    })
}

/// Does the work under a progress display. The rows are looked at by all ranks, the rest by the first, which has
/// the report.
fn work(
    config: &Config,
    scores: &mut Scores<'_>,
    ranks: &Ranks,
) -> Result<Option<Report>, CliError> {
    let looked = match ranks.count() {
        1 => None,
        _ => look_among(config, scores, ranks)?,
    };
    if !ranks.is_first() {
        return Ok(None);
    }
    let mut bar = Progress::new("curate", 0);
    let report = curate::curate_with(config, scores, looked.as_ref(), &mut |step| {
        match step {
            Step::Looked(rows) => bar.count(rows, "rows looked at"),
            Step::Compared => {}
            Step::Written(rows) => bar.count(rows, "rows written"),
        }
        Ok(())
    });
    bar.finish();
    Ok(Some(report?))
}

/// Looks at the rows on all ranks; `None` where that is done.
fn look_among(
    config: &Config,
    scores: &mut Scores<'_>,
    ranks: &Ranks,
) -> Result<Option<Parts>, CliError> {
    let job = curate::job(config, scores)?;
    ranks.agree("work that was begun", &[u8::from(job.is_some())])?;
    let Some((folder, of)) = job else {
        return Ok(None);
    };
    let parts = ranks::begin(ranks, &folder, &of)?;
    let mut bar = Progress::new("curate", 0);
    let mut show = |rows| bar.count(rows, "rows looked at");
    ranks.alongside("curate", &mut show, |work| {
        curate::look_among(config, scores, &parts, &mut |rows| {
            work.add(rows);
            // What is done is kept; why there is no sense in more, the ranks say.
            work.go_on().map_err(|error| DataError::Curate {
                message: error.to_string(),
                hint: error.hint(),
            })
        })
        .map_err(CliError::from)
    })?;
    bar.finish();
    Ok(Some(parts))
}

fn table(report: &Report) -> String {
    let share = |count: u64| 100.0 * count as f64 / report.rows.max(1) as f64;
    let line = |name: &str, count: u64| {
        format!(
            "{name:<28}{:>12}  {:>5.1} %",
            grouped(count as usize),
            share(count)
        )
    };
    let mut lines = vec![
        format!("{:<28}{:>12}", "rows", grouped(report.rows as usize)),
        line("kept", report.kept),
    ];
    lines.extend(
        report
            .dropped
            .iter()
            .map(|(why, count)| line(&format!("  {why}"), *count)),
    );
    if let Some(cut) = report.cut {
        lines.push(format!("the best begin at score {cut}"));
    }
    lines.push(format!("kept     {}", report.kept_file.display()));
    lines.push(format!("dropped  {}", report.dropped_file.display()));
    lines.join("\n")
}

/// Pairs of a table as models take them.
fn dataset(pairs: &[Pair]) -> Dataset {
    let sample = |pair: &Pair| {
        Sample::of_picture(
            pair.picture.display().to_string(),
            ImageSource::Path(pair.picture.clone()),
            vec![pair.text.clone()],
        )
    };
    Dataset {
        name: "pairs".to_owned(),
        samples: pairs.iter().map(sample).collect(),
    }
}

/// A model whose embeddings say how well picture and text go together.
struct Aligned<'a> {
    embedder: Embedder<'a>,
    identity: String,
}

impl Scorer for Aligned<'_> {
    fn name(&self) -> String {
        self.identity.clone()
    }

    fn scores(&mut self, pairs: &[Pair]) -> Result<Vec<f32>, DataError> {
        let failed = |error: TaskError| DataError::Curate {
            message: error.to_string(),
            hint: error.hint(),
        };
        let dataset = dataset(pairs);
        let indices: Vec<usize> = (0..pairs.len()).collect();
        let images = self.embedder.images(&dataset, &indices, false, &mut |_| {});
        let images = images.map_err(failed)?.embeds;
        let texts: Vec<&str> = pairs.iter().map(|pair| pair.text.as_str()).collect();
        let texts = self
            .embedder
            .texts(&texts, false, &mut |_| {})
            .map_err(failed)?
            .embeds;
        if images.dims() != texts.dims() {
            return Err(DataError::Curate {
                message: format!(
                    "the model embeds pictures as {} numbers and texts as {}",
                    images.dims()[1],
                    texts.dims()[1]
                ),
                hint: Some("give a model that was trained to align the two".to_owned()),
            });
        }
        let cosines = (images * texts).sum_dim(1).try_into_vec_as::<f32>();
        cosines.map_err(|error| failed(TaskError::Device(error.to_string())))
    }
}

/// A relation model, and which of its probabilities is the score.
struct Relating {
    relater: Relater,
    class: Option<String>,
    identity: String,
}

impl Relating {
    fn open(file: &Path, args: &CurateArgs, global: &Global) -> Result<Self, CliError> {
        let bytes = std::fs::read(file)
            .map_err(|error| CliError::new(format!("{}: {error}", file.display()), None))?;
        let relater = Relater::open(file, &args.encoder, device::open(global)?)?;
        let model = relater.model();
        let unknown = match &args.class {
            Some(class) if !model.classes.contains(class) => {
                Some(format!("{} has no class `{class}`", file.display()))
            }
            None if !model.relations => Some(format!(
                "the classes of {} are no relations of text and picture",
                file.display()
            )),
            _ => None,
        };
        if let Some(message) = unknown {
            let known = model.classes.join("`, `");
            return Err(CliError::new(
                message,
                format!("name one with `--class`: `{known}`"),
            ));
        }
        let class = args.class.clone();
        let which = class.as_deref().unwrap_or("text represented");
        Ok(Self {
            identity: format!("{which} of {}", blake3::hash(&bytes).to_hex()),
            relater,
            class,
        })
    }
}

impl Scorer for Relating {
    fn name(&self) -> String {
        self.identity.clone()
    }

    fn scores(&mut self, pairs: &[Pair]) -> Result<Vec<f32>, DataError> {
        let said = self
            .relater
            .relate(&DataConfig::default(), &dataset(pairs), &mut Bar::silent())
            .map_err(|error| DataError::Curate {
                message: error.one_line(),
                hint: None,
            })?;
        let score = |said: Related| match &self.class {
            None => said.text_represented,
            Some(class) => {
                let mut named = said.probabilities.into_iter();
                named
                    .find(|own| own.class == *class)
                    .map(|own| own.probability)
            }
        };
        let scores = said.into_iter().map(score);
        Ok(scores
            .map(|score| score.map_or(f32::NAN, |own| own as f32))
            .collect())
    }
}
