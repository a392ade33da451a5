//! `chiasm relate`: how a text and a picture relate.

mod evidence;

use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use chiasm_data::{Dataset, ImageSource, Sample};
use chiasm_eval::tasks::probe::PairFeatures;
use chiasm_format::atomic;
use chiasm_relation::{RelationModel, Rows};
use chiasm_train::recipe::DataConfig;
use clap::Args;
use serde::Serialize;

use self::evidence::Evidence;
use crate::cli::{CheckpointArg, Global, SourceArgs, SplitArg};
use crate::commands::eval::Bar;
use crate::error::CliError;
use crate::features::Encoders;
use crate::output::{self, Progress, note};
use crate::{device, source};

/// Samples embedded together: what is in memory at a time.
const TOGETHER: usize = 256;

/// Largest relation model that is read: 1 GiB.
const MAX_MODEL_BYTES: u64 = 1 << 30;

/// `chiasm relate`.
#[derive(Args, Debug)]
pub(crate) struct RelateArgs {
    /// A picture
    #[arg(required_unless_present = "data", requires = "text")]
    pub(crate) image: Option<PathBuf>,
    /// A text
    pub(crate) text: Option<String>,
    /// Pairs instead: a table, or any data that `chiasm data formats` lists
    #[arg(long, value_name = "PATH", conflicts_with = "image")]
    pub(crate) data: Option<String>,
    #[command(flatten)]
    pub(crate) source: SourceArgs,
    /// Which samples of the data
    #[arg(long, value_enum, default_value = "all")]
    pub(crate) split: SplitArg,
    /// The relation model, as `chiasm probe --out` wrote it
    #[arg(long, value_name = "FILE")]
    pub(crate) model: PathBuf,
    /// Draw on the picture what the answer rests on, as a PNG, and say it of the words: what the most probable
    /// class loses when a part is hidden
    #[arg(long, value_name = "FILE", conflicts_with = "data")]
    pub(crate) evidence: Option<PathBuf>,
    /// Where its encoder is now, when it has moved; of two, texts first
    #[arg(long, value_name = "PATH")]
    pub(crate) encoder: Vec<PathBuf>,
    /// File for what is said of the data's pairs, a JSON object a line
    #[arg(long, value_name = "FILE", default_value = "relations.jsonl")]
    pub(crate) out: PathBuf,
}

/// What is said of a pair.
#[derive(Debug, Serialize)]
pub(crate) struct Related {
    /// Its identifier; the picture's path where one was named.
    pub(crate) id: String,
    /// The most probable class; `None` where no answer is given.
    pub(crate) relation: Option<String>,
    /// Probability of the most probable class.
    pub(crate) confidence: f64,
    /// Probability of every class.
    pub(crate) probabilities: Vec<Named>,
    /// Probability that the text is represented in the picture, where the classes are relations.
    pub(crate) text_represented: Option<f64>,
    /// Probability that the picture adds to the text, where the classes are relations.
    pub(crate) image_adds: Option<f64>,
    /// Cosine of text and picture, where their encoder has a common space.
    pub(crate) alignment: Option<f32>,
}

/// A class with its probability.
#[derive(Debug, Serialize)]
pub(crate) struct Named {
    pub(crate) class: String,
    pub(crate) probability: f64,
}

#[derive(Serialize)]
struct Summary {
    pairs: usize,
    answered: usize,
    classes: Vec<Count>,
    out: String,
}

#[derive(Serialize)]
struct Count {
    class: String,
    pairs: usize,
}

pub(crate) fn run(args: &RelateArgs, global: &Global) -> Result<(), CliError> {
    let device = device::open(global)?;
    let relater = Relater::open(&args.model, &args.encoder, device)?;
    match (&args.image, &args.text, &args.data) {
        (Some(image), Some(text), None) => one(&relater, image, text, args, global),
        (_, _, Some(data)) => many(&relater, data, args, global),
        _ => Err(CliError::new(
            "there is no pair",
            "give a picture and a text, or `--data`".to_owned(),
        )),
    }
}

/// Reads a relation model and looks whether its parts fit.
pub(crate) fn read_model(path: &Path) -> Result<RelationModel, CliError> {
    let wrong = |what: String| {
        CliError::new(
            format!("{}: {what}", path.display()),
            "give a file that `chiasm probe --out` wrote".to_owned(),
        )
    };
    let bytes = std::fs::metadata(path)
        .map_err(|error| wrong(error.to_string()))?
        .len();
    if bytes > MAX_MODEL_BYTES {
        return Err(wrong(format!(
            "{bytes} bytes are more than a relation model has"
        )));
    }
    let text = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
    let model: RelationModel =
        serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
    model.check().map_err(|error| wrong(error.to_string()))?;
    Ok(model)
}

/// Opens the encoders whose features the model reads, and makes sure that they are the same.
fn encoders(
    model: &RelationModel,
    file: &Path,
    moved: &[PathBuf],
    device: &Device,
) -> Result<Encoders, CliError> {
    if model.encoders.is_empty() {
        return Err(CliError::new(
            format!(
                "{} was fitted on features from a file, whose encoder is not known",
                file.display()
            ),
            "fit it with `chiasm probe MODEL --data ... --out FILE`".to_owned(),
        ));
    }
    if !moved.is_empty() && moved.len() != model.encoders.len() {
        return Err(CliError::new(
            format!(
                "`--encoder` {} times for {} encoders",
                moved.len(),
                model.encoders.len()
            ),
            None,
        ));
    }
    let named = model.encoders.iter().enumerate().map(|(place, own)| {
        let path = moved.get(place).cloned();
        let which = match own.checkpoint.as_str() {
            "best" => CheckpointArg::Best,
            _ => CheckpointArg::Last,
        };
        (path.unwrap_or_else(|| PathBuf::from(&own.path)), which)
    });
    let named: Vec<_> = named.collect();
    if let Some((path, _)) = named.iter().find(|(path, _)| !path.exists()) {
        return Err(CliError::new(
            format!("the encoder {} is not there", path.display()),
            "say where it is with `--encoder`".to_owned(),
        ));
    }
    let encoders = Encoders::open(&named, device)?;
    for (found, wanted) in encoders.identities().iter().zip(&model.encoders) {
        if found.hash != wanted.hash {
            return Err(CliError::new(
                format!(
                    "{} is not the encoder that the relation model was fitted on",
                    found.path
                ),
                "its weights have changed: fit the relation model again with `chiasm probe`"
                    .to_owned(),
            ));
        }
    }
    Ok(encoders)
}

/// A relation model with its encoders.
pub(crate) struct Relater {
    model: RelationModel,
    encoders: Encoders,
    device: Device,
}

impl Relater {
    /// Opens a relation model with the encoders that it was fitted on, where they are now if they moved.
    pub(crate) fn open(file: &Path, encoder: &[PathBuf], device: Device) -> Result<Self, CliError> {
        let model = read_model(file)?;
        let encoders = encoders(&model, file, encoder, &device)?;
        Ok(Self {
            model,
            encoders,
            device,
        })
    }

    /// The relation model.
    pub(crate) fn model(&self) -> &RelationModel {
        &self.model
    }

    /// What is said of each text of a data set with its picture.
    pub(crate) fn relate(
        &self,
        config: &DataConfig,
        dataset: &Dataset,
        bar: &mut Bar,
    ) -> Result<Vec<Related>, CliError> {
        let features = self.encoders.embed(&self.device, config, dataset, bar)?;
        let pairs = dataset.pairs();
        let joined = joined(&self.model, &features, pairs.len());
        let scores = self
            .model
            .scores(Rows::new(&joined, self.model.probe.width)?)?;
        let classes = &self.model.classes;
        let probabilities = scores.probabilities();
        let rows = probabilities.chunks_exact(classes.len().max(1));
        let ids = pairs.iter().map(|(sample, text)| {
            let sample = dataset.samples.get(*sample);
            sample.map_or_else(String::new, |sample| match sample.texts.len() {
                1 => sample.id.clone(),
                _ => format!("{}#{text}", sample.id),
            })
        });
        let said = ids.zip(rows).zip(scores.predicted()).enumerate();
        Ok(said
            .map(|(pair, ((id, row), best))| {
                let confidence = row.get(best).copied().unwrap_or(0.0);
                let least = self.model.promise.map_or(0.0, |promise| promise.confidence);
                let answer = classes.get(best).filter(|_| confidence >= least);
                let named = classes.iter().zip(row).map(|(class, probability)| Named {
                    class: class.clone(),
                    probability: *probability,
                });
                let fact = |of: fn(usize) -> bool| {
                    let own = row.iter().enumerate().filter(|(tv, _)| of(*tv));
                    self.model
                        .relations
                        .then(|| own.map(|(_, value)| value).sum())
                };
                Related {
                    id,
                    relation: answer.cloned(),
                    confidence,
                    probabilities: named.collect(),
                    text_represented: fact(|tv| tv >= 2),
                    image_adds: fact(|tv| tv % 2 == 1),
                    alignment: features.cosine(pair),
                }
            })
            .collect())
    }
}

/// Features as the model takes them.
fn joined(model: &RelationModel, features: &PairFeatures, pairs: usize) -> Vec<f32> {
    let of = |pair: usize| {
        let (text, image) = features.of(pair);
        model.features.of(text, image)
    };
    (0..pairs).flat_map(of).collect()
}

/// What is said of a single pair.
#[derive(Serialize)]
struct Single<'a> {
    #[serde(flatten)]
    said: &'a Related,
    evidence: Option<Evidence>,
}

fn one(
    relater: &Relater,
    image: &Path,
    text: &str,
    args: &RelateArgs,
    global: &Global,
) -> Result<(), CliError> {
    let dataset = Dataset {
        name: "pair".to_owned(),
        samples: vec![Sample::of_picture(
            image.display().to_string(),
            ImageSource::Path(image.to_owned()),
            vec![text.to_owned()],
        )],
    };
    let mut bar = Bar::default();
    let said = relater.relate(&DataConfig::default(), &dataset, &mut bar)?;
    let Some(said) = said.first() else {
        return Err(CliError::new("nothing was said of the pair", None));
    };
    let evidence = match &args.evidence {
        None => None,
        Some(out) => Some(evidence::find(relater, image, text, out, &mut bar)?),
    };
    drop(bar);
    let mut shown = render(relater, said);
    if let Some(evidence) = &evidence {
        shown.push_str(&format!(
            "\nwhat `{}` loses without a word, in log-odds",
            evidence.class
        ));
        for word in &evidence.words {
            shown.push_str(&format!("\n  {:<40}{:>8.2}", word.text, word.weight));
        }
    }
    output::report(global, &Single { said, evidence }, &shown)?;
    if let Some(out) = &args.evidence {
        note(&format!("evidence: {}", out.display()));
    }
    Ok(())
}

/// What is said of a pair, for people.
fn render(relater: &Relater, said: &Related) -> String {
    let mut lines = vec![match &said.relation {
        Some(relation) => format!("{relation} ({:.1} %)", 100.0 * said.confidence),
        None => format!(
            "no answer: the most probable class has {:.1} %",
            100.0 * said.confidence
        ),
    }];
    for Named { class, probability } in &said.probabilities {
        lines.push(format!("  {class:<40}{:>6.1} %", 100.0 * probability));
    }
    for (what, value) in [
        ("text is represented in the picture", said.text_represented),
        ("picture adds to the text", said.image_adds),
    ] {
        lines.extend(value.map(|value| format!("{what:<42}{:>6.1} %", 100.0 * value)));
    }
    let alignment = said
        .alignment
        .map(|cosine| format!("{:<42}{cosine:>8.3}", "alignment (cosine)"));
    lines.extend(alignment);
    if let Some(promise) = relater.model.promise {
        let kept = promise.precision.map(|[mean, low, high]| {
            format!(
                "Answers from {:.1} % on were right in {:.1} % ({:.1} to {:.1} %) of validation pairs.",
                100.0 * promise.confidence,
                100.0 * mean,
                100.0 * low,
                100.0 * high
            )
        });
        lines.push(kept.unwrap_or_else(|| {
            format!(
                "On validation pairs no threshold gave {:.0} % right answers.",
                100.0 * promise.wanted
            )
        }));
    }
    lines.join("\n")
}

fn many(relater: &Relater, data: &str, args: &RelateArgs, global: &Global) -> Result<(), CliError> {
    let mut config = DataConfig::default();
    args.source.apply(Some(data), &mut config);
    let checked = source::load(&config, &args.out.with_extension("quarantine.jsonl"))?;
    let (dataset, _) = source::select(&checked.dataset, args.split)?;
    let classes = &relater.model.classes;
    let mut counts = vec![0_usize; classes.len()];
    let (mut pairs, mut answered) = (0, 0);
    let mut bar = Progress::new("relate", dataset.len() as u64);
    let written = atomic::write_atomically(&args.out, |partial| -> Result<(), Failure> {
        let mut file = BufWriter::new(File::create(partial)?);
        for samples in dataset.samples.chunks(TOGETHER) {
            let chunk = Dataset {
                name: dataset.name.clone(),
                samples: samples.to_vec(),
            };
            for said in relater.relate(&config, &chunk, &mut Bar::silent())? {
                serde_json::to_writer(&mut file, &said).map_err(io::Error::from)?;
                file.write_all(b"\n")?;
                pairs += 1;
                let class = said
                    .relation
                    .as_ref()
                    .and_then(|own| classes.iter().position(|class| class == own));
                if let Some(class) = class {
                    answered += 1;
                    counts[class] += 1;
                }
            }
            bar.add(samples.len(), "samples");
        }
        file.flush()?;
        Ok(())
    });
    bar.finish();
    written.map_err(|failure| match failure {
        Failure::Told(error) => error,
        Failure::Io(error) => CliError::new(format!("{}: {error}", args.out.display()), None),
    })?;
    let counted = classes.iter().zip(counts).map(|(class, pairs)| Count {
        class: class.clone(),
        pairs,
    });
    let summary = Summary {
        pairs,
        answered,
        classes: counted.collect(),
        out: args.out.display().to_string(),
    };
    let mut lines = vec![format!("{answered} of {pairs} pairs answered")];
    for Count { class, pairs } in &summary.classes {
        lines.push(format!("  {class:<40}{pairs:>9}"));
    }
    output::report(global, &summary, &lines.join("\n"))?;
    note(&format!("relations: {}", args.out.display()));
    Ok(())
}

/// What can go wrong while lines are written.
enum Failure {
    Told(CliError),
    Io(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<CliError> for Failure {
    fn from(error: CliError) -> Self {
        Self::Told(error)
    }
}
