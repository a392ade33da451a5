//! `chiasm embed`: pictures and texts as vectors in a file.

use std::collections::BTreeMap;

use burn::tensor::Tensor;
use chiasm_eval::tasks::embedder;
use chiasm_format::{Dtype, TensorSpec, write_safetensors};
use serde::Serialize;

use crate::cli::{EmbedArgs, Global};
use crate::error::CliError;
use crate::model::Model;
use crate::output::{self, Progress};
use crate::{device, source};

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

pub(crate) fn run(args: &EmbedArgs, global: &Global) -> Result<(), CliError> {
    let device = device::open(global)?;
    let model = Model::open(&args.model, args.checkpoint, &device)?;
    let model = model.in_precision(args.precision, &device)?;
    let config = model.data(args.data.as_deref(), &args.source)?;
    let quarantine = args.out.with_extension("quarantine.jsonl");
    let checked = source::load(&config, &quarantine)?;
    let (subset, _) = source::select(&checked.dataset, args.split)?;
    let embedder = model.embedder(&device, model.views(&config, &subset));
    let samples = &subset.samples;
    let texts: Vec<&str> = samples
        .iter()
        .flat_map(|sample| sample.texts.iter().map(String::as_str))
        .collect();
    let mut tables: BTreeMap<&str, Table> = BTreeMap::new();
    if embedder.preprocess.is_some() && !args.pairs {
        let indices: Vec<usize> = (0..samples.len()).collect();
        let mut bar = Progress::new("embed", samples.len() as u64);
        let images = embedder.images(&subset, &indices, false, &mut |more| {
            bar.add(more, "pictures");
        })?;
        bar.finish();
        tables.insert("image_embeds", host(images.embeds)?);
    }
    if embedder.tokenizer.is_some() && !args.pairs {
        let mut bar = Progress::new("embed", texts.len() as u64);
        let embedded = embedder.texts(&texts, false, &mut |more| bar.add(more, "texts"))?;
        bar.finish();
        tables.insert("text_embeds", host(embedded.embeds)?);
    }
    if args.pairs {
        let pairs = subset.pairs();
        let of = |(sample, text): &(usize, usize)| {
            let texts = &samples.get(*sample)?.texts;
            Some((*sample, texts.get(*text)?.as_str()))
        };
        let pairs: Vec<(usize, &str)> = pairs.iter().filter_map(of).collect();
        let mut bar = Progress::new("embed", pairs.len() as u64);
        let vectors = embedder.pairs(&subset, &pairs, &mut |more| bar.add(more, "pairs"))?;
        bar.finish();
        tables.insert("pair_vectors", host(vectors)?);
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

fn host(tensor: Tensor<2>) -> Result<Table, CliError> {
    let [rows, width] = tensor.dims();
    let values = embedder::host(tensor)?;
    Ok(Table {
        rows,
        width,
        bytes: values.into_iter().flat_map(f32::to_le_bytes).collect(),
    })
}
