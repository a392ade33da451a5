//! `chiasm index`: pictures, clips and texts of a data set as a folder that can be searched.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use chiasm_data::{
    Clip, Dataset, ImageSource, Limits, QuarantineEntry, Sample, Visual, atomic, check,
};
use chiasm_eval::tasks::embedder::{Embedder, host};
use chiasm_format::Parts;
use chiasm_index::{GraphChoice, Identity, Index, Kind, Record, Writer};
use chiasm_ranks::Ranks;
use chiasm_serve::address;
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::cli::{Global, ReadArgs, SourceArgs, SplitArg};
use crate::error::CliError;
use crate::model::Model;
use crate::output::{self, Progress, note};
use crate::ranks::{self, Job, RankArgs};
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
    #[command(flatten)]
    pub(crate) read: ReadArgs,
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
    #[command(flatten)]
    pub(crate) ranks: RankArgs,
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

pub(crate) fn run(args: &IndexArgs, ranks: &Ranks, global: &Global) -> Result<(), CliError> {
    let device = device::open(global)?;
    let (model, fingerprint) = Model::read_identified(&args.model, args.read, &device)?;
    let config = model.data(args.data.as_deref(), &args.source)?;
    let opened = source::open_source(&config)?;
    let (subset, _) = source::select(&opened.dataset, args.split)?;
    let embedder = model.embedder(&device, model.views(&config, &subset));
    let identity = Identity {
        model: absolute(&args.model),
        fingerprint,
        width: width(&embedder, args.items)?,
    };
    let parts = match ranks.count() {
        1 => None,
        _ => Some(embed_among(args, ranks, &subset, &embedder, &identity)?),
    };
    if !ranks.is_first() {
        return Ok(());
    }
    let mut writer = Writer::open_or_create(&args.out, &identity)?;
    let mut quarantine = opened.quarantine;
    let (mut added, mut unchanged) = (0, 0);
    let mut keys = HashSet::new();
    let mut bar = Progress::new("index", subset.len() as u64);
    for (number, samples) in subset.samples.chunks(TOGETHER).enumerate() {
        let items = items(samples, args.items, &args.out);
        keys.extend(items.iter().map(|item| item.record.key.clone()));
        let is_new = |item: &Item| !writer.contains(&item.record.key, &item.record.digest);
        let (new, old): (Vec<Item>, Vec<Item>) = items.into_iter().partition(is_new);
        unchanged += old.len();
        if !new.is_empty() {
            let embedded = match &parts {
                Some(parts) => Embedded::read(parts, number)?,
                None => Embedded::of(&embedder, samples, &new)?,
            };
            added += embedded.write(&new, &mut writer)?;
            quarantine.entries.extend(embedded.refused);
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
    if let Some(parts) = parts {
        parts.remove()?;
    }
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

/// Embeds what is new, each part of the samples on one of several ranks.
fn embed_among(
    args: &IndexArgs,
    ranks: &Ranks,
    subset: &Dataset,
    embedder: &Embedder<'_>,
    identity: &Identity,
) -> Result<Parts, CliError> {
    let left = ranks::left(ranks, || {
        // Closed again: the others may take longer than a lock should be held.
        let writer = Writer::open_or_create(&args.out, identity)?;
        let items = items(&subset.samples, args.items, &args.out);
        let is_new = |item: &Item| !writer.contains(&item.record.key, &item.record.digest);
        let mut left = vec![false; subset.len()];
        for item in items.iter().filter(|item| is_new(item)) {
            if let Some(left) = left.get_mut(item.sample) {
                *left = true;
            }
        }
        Ok(left)
    })?;
    let folder = args.out.with_extension("parts");
    let job = Job {
        what: "index",
        things: "samples",
        count: subset.len(),
        part: TOGETHER,
        folder: &folder,
        of: json!({
            "index": identity.fingerprint,
            "precision": format!("{:?}", args.read.precision),
            "items": format!("{:?}", args.items),
            "data": subset.fingerprint(),
        }),
    };
    job.share(ranks, |range, claim, done| {
        let samples = subset.samples.get(range.clone()).unwrap_or_default();
        let is_left = |item: &Item| left.get(range.start + item.sample) == Some(&true);
        let items = items(samples, args.items, &args.out);
        let new: Vec<Item> = items.into_iter().filter(is_left).collect();
        let embedded = Embedded::of(embedder, samples, &new)?;
        claim.put(&embedded.to_bytes()?)?;
        done(samples.len());
        Ok(())
    })
}

/// Items with their vectors, and those that cannot be used.
#[derive(Default, Serialize, Deserialize)]
struct Embedded {
    /// Keys of the items.
    keys: Vec<String>,
    /// Vectors of the items, one after the other.
    #[serde(skip)]
    values: Vec<f32>,
    refused: Vec<QuarantineEntry>,
}

impl Embedded {
    /// Embeds new items of some samples.
    fn of(embedder: &Embedder<'_>, samples: &[Sample], new: &[Item]) -> Result<Self, CliError> {
        let mut embedded = Self::default();
        let (texts, pictures): (Vec<&Item>, Vec<&Item>) =
            new.iter().partition(|item| item.record.kind == Kind::Text);
        if !texts.is_empty() {
            let words: Vec<&str> = texts.iter().map(|item| item.record.text.as_str()).collect();
            let embeds = embedder.texts(&words, false, &mut |_| {})?.embeds;
            let keys = texts.iter().map(|item| item.record.key.clone());
            embedded.keys.extend(keys);
            embedded.values.extend(host(embeds)?);
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
            embedded.refused = checked.quarantine.entries;
            let indices: Vec<usize> = (0..checked.good.len()).collect();
            if !indices.is_empty() {
                let embeds = embedder
                    .images(&checked.good, &indices, false, &mut |_| {})?
                    .embeds;
                let keys = checked.good.samples.into_iter().map(|sample| sample.id);
                embedded.keys.extend(keys);
                embedded.values.extend(host(embeds)?);
            }
        }
        Ok(embedded)
    }

    /// Hands the vectors of items to the index; how many have one.
    fn write(&self, items: &[Item], writer: &mut Writer) -> Result<usize, CliError> {
        let width = self.values.len() / self.keys.len().max(1);
        let rows = self.keys.iter().zip(self.values.chunks_exact(width.max(1)));
        let vectors: HashMap<&String, &[f32]> = rows.collect();
        let mut written = 0;
        for item in items {
            if let Some(vector) = vectors.get(&item.record.key) {
                writer.upsert(&item.record, vector)?;
                written += 1;
            }
        }
        Ok(written)
    }

    /// A line of JSON and the vectors.
    fn to_bytes(&self) -> Result<Vec<u8>, CliError> {
        let mut bytes = serde_json::to_vec(self)
            .map_err(|error| CliError::new(format!("cannot write JSON: {error}"), None))?;
        bytes.push(b'\n');
        bytes.extend(self.values.iter().flat_map(|value| value.to_le_bytes()));
        Ok(bytes)
    }

    /// What a rank made of a part.
    fn read(parts: &Parts, number: usize) -> Result<Self, CliError> {
        let bytes = parts.read(number)?;
        let damaged = || CliError::from(parts.damaged(number));
        let end = bytes
            .iter()
            .position(|byte| *byte == b'\n')
            .ok_or_else(damaged)?;
        let (about, values) = bytes.split_at(end);
        let mut embedded: Self = serde_json::from_slice(about).map_err(|_| damaged())?;
        let values = values
            .get(1..)
            .unwrap_or_default()
            .chunks_exact(size_of::<f32>());
        let value = |bytes: &[u8]| bytes.first_chunk().map(|bytes| f32::from_le_bytes(*bytes));
        embedded.values = values.filter_map(value).collect();
        Ok(embedded)
    }
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
