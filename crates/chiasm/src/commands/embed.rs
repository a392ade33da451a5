//! `chiasm embed`: pictures and texts as vectors in a file.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;

use burn::tensor::Tensor;
use chiasm_eval::tasks::embedder;
use chiasm_format::{Dtype, TensorSpec, write_safetensors};
use chiasm_ranks::Ranks;
use serde::Serialize;
use serde_json::{Value, json};

use crate::cli::{EmbedArgs, Global};
use crate::error::CliError;
use crate::model::Model;
use crate::ranks::Job;
use crate::{device, output, source};

#[derive(Serialize)]
struct Report {
    file: String,
    images: usize,
    texts: usize,
    pairs: usize,
    width: usize,
}

/// Vectors of one kind, row after row.
struct Table {
    rows: usize,
    width: usize,
    bytes: Vec<u8>,
}

/// Things that a rank embeds before it takes others.
const PICTURES: usize = 256;
const TEXTS: usize = 4096;

/// Rows of a table that ranks share.
struct Rows<'a> {
    ranks: &'a Ranks,
    /// Folder of the parts of all tables.
    folder: PathBuf,
    /// What the vectors are made of.
    of: Value,
}

impl Rows<'_> {
    /// Embeds so many things, each part on one of the ranks; the first one gets the table.
    fn table(
        &self,
        things: &'static str,
        count: usize,
        part: usize,
        embed: impl Fn(Range<usize>, &mut dyn FnMut(usize)) -> Result<Tensor<2>, CliError>,
    ) -> Result<Table, CliError> {
        let folder = self.folder.join(things);
        let job = Job {
            what: "embed",
            things,
            count,
            part,
            folder: &folder,
            of: json!({"vectors": self.of, "of": things, "count": count}),
        };
        let parts = job.share(self.ranks, |range, claim, done| {
            let values = embedder::host(embed(range, done)?)?;
            let bytes: Vec<u8> = values.into_iter().flat_map(f32::to_le_bytes).collect();
            Ok(claim.put(&bytes)?)
        })?;
        let mut bytes = Vec::new();
        if self.ranks.is_first() {
            for number in 0..job.parts() {
                bytes.extend(parts.read(number)?);
            }
        }
        Ok(Table {
            rows: count,
            width: bytes.len() / size_of::<f32>() / count.max(1),
            bytes,
        })
    }
}

pub(crate) fn run(args: &EmbedArgs, ranks: &Ranks, global: &Global) -> Result<(), CliError> {
    let device = device::open(global)?;
    let (model, fingerprint) = Model::read_identified(&args.model, args.read, &device)?;
    let config = model.data(args.data.as_deref(), &args.source)?;
    let quarantine = args.out.with_extension("quarantine.jsonl");
    let checked = source::load_shared(ranks, &config, &quarantine)?;
    let (subset, _) = source::select(&checked.dataset, args.split)?;
    let views = model.views(&config, &subset);
    let embedder = model.embedder(&device, views);
    let samples = &subset.samples;
    let texts: Vec<&str> = samples
        .iter()
        .flat_map(|sample| sample.texts.iter().map(String::as_str))
        .collect();
    let rows = Rows {
        ranks,
        folder: args.out.with_extension("parts"),
        of: json!({
            "model": fingerprint,
            "precision": format!("{:?}", args.read.precision),
            "data": subset.fingerprint(),
            "views": format!("{views:?}"),
        }),
    };
    let mut tables: BTreeMap<&str, Table> = BTreeMap::new();
    if embedder.preprocess.is_some() && !args.pairs {
        let indices: Vec<usize> = (0..samples.len()).collect();
        let table = rows.table("pictures", samples.len(), PICTURES, |range, done| {
            let some = indices.get(range).unwrap_or_default();
            Ok(embedder.images(&subset, some, false, done)?.embeds)
        })?;
        tables.insert("image_embeds", table);
    }
    if embedder.tokenizer.is_some() && !args.pairs {
        let table = rows.table("texts", texts.len(), TEXTS, |range, done| {
            let some = texts.get(range).unwrap_or_default();
            Ok(embedder.texts(some, false, done)?.embeds)
        })?;
        tables.insert("text_embeds", table);
    }
    if args.pairs {
        let pairs = subset.pairs();
        let of = |(sample, text): &(usize, usize)| {
            let texts = &samples.get(*sample)?.texts;
            Some((*sample, texts.get(*text)?.as_str()))
        };
        let pairs: Vec<(usize, &str)> = pairs.iter().filter_map(of).collect();
        let table = rows.table("pairs", pairs.len(), PICTURES, |range, done| {
            let some = pairs.get(range).unwrap_or_default();
            Ok(embedder.pairs(&subset, some, done)?)
        })?;
        tables.insert("pair_vectors", table);
    }
    if !ranks.is_first() {
        return Ok(());
    }
    let (images, text_count) = (samples.len(), texts.len());
    let of_text: Vec<u8> = subset
        .pairs()
        .iter()
        .flat_map(|(sample, _)| (*sample as i64).to_le_bytes())
        .collect();
    let ids: Vec<&str> = samples.iter().map(|sample| sample.id.as_str()).collect();
    let labels = samples
        .iter()
        .map(|sample| sample.annotations.label.as_deref());
    let splits = samples.iter().map(|sample| sample.split.as_str());
    let ratings = samples
        .iter()
        .map(|sample| sample.annotations.rating.as_ref());
    let ratings = ratings.map(|rating| rating.map(|rating| rating.score));
    let metadata = BTreeMap::from([
        ("ids".to_owned(), list(&ids)?),
        ("splits".to_owned(), list(&splits.collect::<Vec<_>>())?),
        ("labels".to_owned(), list(&labels.collect::<Vec<_>>())?),
        ("ratings".to_owned(), list(&ratings.collect::<Vec<_>>())?),
        ("texts".to_owned(), list(&texts)?),
        ("model".to_owned(), model.identity(&args.model).name),
        ("data".to_owned(), subset.fingerprint()),
    ]);
    let mut specs: Vec<TensorSpec> = tables
        .iter()
        .map(|(name, table)| TensorSpec {
            name: (*name).to_owned(),
            dtype: Dtype::F32,
            shape: vec![table.rows, table.width],
        })
        .collect();
    specs.push(TensorSpec {
        name: "image_of_text".to_owned(),
        dtype: Dtype::I64,
        shape: vec![text_count],
    });
    write_safetensors(&args.out, &specs, &metadata, |spec| {
        Ok(match tables.get(spec.name.as_str()) {
            Some(table) => table.bytes.clone(),
            None => of_text.clone(),
        })
    })?;
    // What they were kept for is written.
    std::fs::remove_dir_all(&rows.folder)
        .map_err(|error| CliError::new(format!("{}: {error}", rows.folder.display()), None))?;
    let report = Report {
        file: args.out.display().to_string(),
        images: tables.get("image_embeds").map_or(0, |_| images),
        texts: tables.get("text_embeds").map_or(0, |_| text_count),
        pairs: tables.get("pair_vectors").map_or(0, |table| table.rows),
        width: tables.values().next().map_or(0, |table| table.width),
    };
    if global.json {
        return output::json(&report);
    }
    if args.pairs {
        output::result(&format!(
            "{} pairs as vectors of {} numbers in {}",
            report.pairs, report.width, report.file
        ));
        return Ok(());
    }
    output::result(&format!(
        "{} pictures and {} texts as vectors of {} numbers in {}",
        report.images, report.texts, report.width, report.file
    ));
    Ok(())
}

fn list<T: Serialize>(values: &[T]) -> Result<String, CliError> {
    serde_json::to_string(values)
        .map_err(|error| CliError::new(format!("cannot write JSON: {error}"), None))
}
