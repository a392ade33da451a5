//! `chiasm index`: pictures, clips and texts of a data set as a folder that can be searched.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use burn::tensor::Tensor;
use chiasm_data::{Clip, Dataset, ImageSource, Limits, Quarantine, Sample, Visual, atomic, check};
use chiasm_eval::tasks::embedder::{Embedder, host};
use chiasm_index::{GraphChoice, Identity, Index, Kind, Record, Writer};
use chiasm_serve::address;
use clap::{Args, ValueEnum};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::cli::{CheckpointArg, Global, PrecisionArg, SourceArgs, SplitArg};
use crate::error::CliError;
use crate::model::Model;
use crate::output::{self, Progress, note};
use crate::{device, source};

/// Samples that are checked, embedded and committed together: what a kill can cost.
const TOGETHER: usize = 256;

/// Folder within the index for pictures that are no file of their own.
const PICTURES: &str = "pictures";

/// `chiasm index`.
#[derive(Args, Debug)]
pub(crate) struct IndexArgs {
    /// Pictures and texts: a folder, a table, or any data that `chiasm data formats` lists [default: the
    /// data that the model was trained on]
    pub(crate) data: Option<String>,
    /// Folder of a run, a model folder, or a file with published weights
    #[arg(long, value_name = "MODEL")]
    pub(crate) model: PathBuf,
    /// Which checkpoint of a run
    #[arg(long, value_enum, default_value = "last")]
    pub(crate) checkpoint: CheckpointArg,
    /// In what matrices are multiplied; `int8` is for CPUs, docs/guides/precision.md has what it costs
    #[arg(long, value_enum, default_value = "f32", value_name = "PRECISION")]
    precision: PrecisionArg,
    /// Folder of the index; one that is there is added to
    #[arg(long, value_name = "INDEX")]
    pub(crate) out: PathBuf,
    /// What becomes items of the index
    #[arg(long, value_enum, default_value = "pictures")]
    pub(crate) items: Items,
    /// Remove items that the data does not have any more
    #[arg(long)]
    pub(crate) prune: bool,
    /// Build a graph for approximate search [default: from 200,000 items on]
    #[arg(long, value_enum, default_value = "auto")]
    pub(crate) graph: Graph,
    /// Which samples
    #[arg(long, value_enum, default_value = "all")]
    pub(crate) split: SplitArg,
    #[command(flatten)]
    pub(crate) source: SourceArgs,
}

/// What becomes items.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Items {
    /// Pictures and clips
    Pictures,
    /// Texts
    Texts,
    /// Both
    Both,
}

/// Whether there is a graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Graph {
    /// From a number of items on
    Auto,
    /// Always
    Always,
    /// Never: every search looks at all items
    Never,
}

#[derive(Serialize)]
struct Report {
    index: String,
    items: usize,
    added: usize,
    unchanged: usize,
    removed: usize,
    unusable: usize,
    graph: bool,
}

/// An item before it is embedded.
struct Item {
    record: Record,
    /// The sample it is of.
    sample: usize,
}

pub(crate) fn run(args: &IndexArgs, global: &Global) -> Result<(), CliError> {
    let device = device::open(global)?;
    let (model, fingerprint) = Model::open_identified(&args.model, args.checkpoint, &device)?;
    let model = model.in_precision(args.precision, &device)?;
    let config = model.data(args.data.as_deref(), &args.source)?;
    let opened = source::open_source(&config)?;
    let (subset, _) = source::select(&opened.dataset, args.split)?;
    let embedder = model.embedder(&device, model.views(&config, &subset));
    let identity = Identity {
        model: absolute(&args.model),
        fingerprint,
        width: width(&embedder, args.items)?,
    };
    let mut writer = Writer::open_or_create(&args.out, &identity)?;
    let mut quarantine = opened.quarantine;
    let (mut added, mut unchanged) = (0, 0);
    let mut keys = HashSet::new();
    let mut bar = Progress::new("index", subset.len() as u64);
    for samples in subset.samples.chunks(TOGETHER) {
        let items = items(samples, args.items, &args.out);
        keys.extend(items.iter().map(|item| item.record.key.clone()));
        let is_new = |item: &Item| !writer.contains(&item.record.key, &item.record.digest);
        let (new, old): (Vec<Item>, Vec<Item>) = items.into_iter().partition(is_new);
        unchanged += old.len();
        if !new.is_empty() {
            added += add(&embedder, samples, new, &mut writer, &mut quarantine)?;
            writer.commit()?;
        }
        bar.add(samples.len(), "samples");
    }
    bar.finish();
    let removed = match args.prune {
        true => prune(&args.out, &mut writer, &keys)?,
        false => 0,
    };
    let unusable = quarantine.len();
    if unusable > 0 {
        let list = args.out.join("quarantine.jsonl");
        quarantine.write_jsonl(&list)?;
        note(&format!(
            "{unusable} samples cannot be used, see {}",
            list.display()
        ));
    }
    note("finishing: what can be searched approximately gets its graph");
    let index = writer.finish(match args.graph {
        Graph::Auto => GraphChoice::Auto,
        Graph::Always => GraphChoice::Build,
        Graph::Never => GraphChoice::None,
    })?;
    let report = Report {
        index: args.out.display().to_string(),
        items: index.len(),
        added,
        unchanged,
        removed,
        unusable,
        graph: index.graph_rows().is_some(),
    };
    let table = format!(
        "{} items in {}: {} added or changed, {} as they were, {} removed\nsearch it: chiasm search {} \"words\"\nserve it:  chiasm serve --index {}",
        report.items, report.index, added, unchanged, removed, report.index, report.index
    );
    output::report(global, &report, &table)
}

/// A path that still names the same when the command runs elsewhere.
fn absolute(path: &Path) -> String {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    absolute.display().to_string()
}

/// Numbers of a vector, and whether the model embeds what is asked for.
fn width(embedder: &Embedder<'_>, items: Items) -> Result<usize, CliError> {
    Ok(match items {
        Items::Texts => embedder.text_width()?,
        Items::Pictures => embedder.image_width()?,
        Items::Both => {
            embedder.text_width()?;
            embedder.image_width()?
        }
    })
}

/// What of some samples becomes items.
fn items(samples: &[Sample], wanted: Items, folder: &Path) -> Vec<Item> {
    let mut items = Vec::new();
    for (sample, own) in samples.iter().enumerate() {
        let metadata = metadata(own);
        let described = serde_json::to_vec(&metadata).unwrap_or_default();
        if wanted != Items::Texts {
            let (kind, source) = match &own.visual {
                Visual::Clip(_) => (Kind::Clip, first(own)),
                _ => (Kind::Image, first(own)),
            };
            let text = own.texts.first().cloned().unwrap_or_default();
            let mut digest = blake3::Hasher::new();
            digest
                .update(&content(own))
                .update(text.as_bytes())
                .update(&described);
            items.push(Item {
                record: Record {
                    key: own.id.clone(),
                    kind,
                    text,
                    source: source.and_then(|source| kept(source, folder)),
                    digest: digest.finalize().to_hex().to_string(),
                    metadata: metadata.clone(),
                },
                sample,
            });
        }
        if wanted != Items::Pictures {
            for (number, text) in own.texts.iter().enumerate() {
                let mut digest = blake3::Hasher::new();
                digest.update(text.as_bytes()).update(&described);
                items.push(Item {
                    record: Record {
                        key: format!("{}#{number}", own.id),
                        kind: Kind::Text,
                        text: text.clone(),
                        source: first(own).and_then(|source| kept(source, folder)),
                        digest: digest.finalize().to_hex().to_string(),
                        metadata: metadata.clone(),
                    },
                    sample,
                });
            }
        }
    }
    items
}

/// What filters can ask of a sample.
fn metadata(sample: &Sample) -> Map<String, Value> {
    let own = &sample.annotations;
    let mut metadata = Map::new();
    metadata.insert("split".to_owned(), sample.split.as_str().into());
    let texts = [
        ("label", own.label.clone()),
        (
            "answer",
            own.answers.first().map(|answer| answer.text.clone()),
        ),
        ("author", own.author.clone()),
        ("group", sample.group.clone()),
    ];
    for (name, value) in texts {
        if let Some(value) = value {
            metadata.insert(name.to_owned(), value.into());
        }
    }
    if let Some(rating) = &own.rating {
        metadata.insert("rating".to_owned(), rating.score.into());
    }
    metadata
}

/// The picture that stands for a sample.
fn first(sample: &Sample) -> Option<&ImageSource> {
    sample.visual.sources().first()
}

/// What tells whether what is to be seen has changed, without reading files.
fn content(sample: &Sample) -> Vec<u8> {
    let mut content = Vec::new();
    let mut file = |path: &Path| {
        content.extend_from_slice(path.as_os_str().as_encoded_bytes());
        let Ok(found) = std::fs::metadata(path) else {
            return;
        };
        content.extend(found.len().to_le_bytes());
        let changed = found.modified().ok();
        let since = changed.and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
        content.extend(since.map_or(0, |since| since.as_nanos()).to_le_bytes());
    };
    if let Visual::Clip(Clip::Video(path)) = &sample.visual {
        file(path);
    }
    let mut places = Vec::new();
    for source in sample.visual.sources() {
        match source {
            ImageSource::Path(path) => file(path),
            ImageSource::Part {
                file: shared,
                offset,
                len,
            } => {
                file(shared.path());
                places.extend(offset.to_le_bytes());
                places.extend(len.to_le_bytes());
            }
            held => {
                let bytes = held.read().map(|bytes| blake3::hash(&bytes));
                places.extend(bytes.map_or([0; 32], |hash| *hash.as_bytes()));
            }
        }
    }
    content.extend(places);
    content
}

/// Where a picture can be read later; one that is no file is kept beside the index.
fn kept(source: &ImageSource, folder: &Path) -> Option<String> {
    if let Some(address) = address(source) {
        return Some(address);
    }
    let bytes = source.read().ok()?;
    let name = format!("{PICTURES}/{}", blake3::hash(&bytes).to_hex());
    let file = folder.join(&name);
    if !file.exists() {
        std::fs::create_dir_all(folder.join(PICTURES)).ok()?;
        atomic::write_bytes(&file, &bytes).ok()?;
    }
    Some(name)
}

/// Embeds new items and hands them to the index; how many could be.
fn add(
    embedder: &Embedder<'_>,
    samples: &[Sample],
    new: Vec<Item>,
    writer: &mut Writer,
    quarantine: &mut Quarantine,
) -> Result<usize, CliError> {
    let (texts, pictures): (Vec<Item>, Vec<Item>) = new
        .into_iter()
        .partition(|item| item.record.kind == Kind::Text);
    let mut added = 0;
    if !texts.is_empty() {
        let words: Vec<&str> = texts.iter().map(|item| item.record.text.as_str()).collect();
        let embeds = embedder.texts(&words, false, &mut |_| {})?.embeds;
        added += write(&texts, embeds, writer)?;
    }
    if !pictures.is_empty() {
        let seen = Dataset {
            name: "index".to_owned(),
            samples: pictures
                .iter()
                .filter_map(|item| samples.get(item.sample).cloned())
                .collect(),
        };
        let checked = check(&seen, &Limits::default(), &|_| {});
        quarantine.entries.extend(checked.quarantine.entries);
        let usable: HashSet<&str> = checked
            .good
            .samples
            .iter()
            .map(|sample| sample.id.as_str())
            .collect();
        let pictures: Vec<Item> = pictures
            .into_iter()
            .filter(|item| usable.contains(item.record.key.as_str()))
            .collect();
        let indices: Vec<usize> = (0..checked.good.len()).collect();
        if !indices.is_empty() {
            let embeds = embedder
                .images(&checked.good, &indices, false, &mut |_| {})?
                .embeds;
            added += write(&pictures, embeds, writer)?;
        }
    }
    Ok(added)
}

/// Hands vectors, `[items, width]`, to the index.
fn write(items: &[Item], embeds: Tensor<2>, writer: &mut Writer) -> Result<usize, CliError> {
    let width = embeds.dims()[1].max(1);
    let values = host(embeds)?;
    for (item, vector) in items.iter().zip(values.chunks_exact(width)) {
        writer.upsert(&item.record, vector)?;
    }
    Ok(items.len())
}

/// Removes what the data does not have any more.
fn prune(folder: &Path, writer: &mut Writer, keys: &HashSet<String>) -> Result<usize, CliError> {
    writer.commit()?;
    let index = Index::open(folder)?;
    let mut removed = 0;
    for row in index.live_rows() {
        let key = index.record(row)?.key;
        if !keys.contains(&key) && writer.remove(&key)? {
            removed += 1;
        }
    }
    writer.commit()?;
    Ok(removed)
}
