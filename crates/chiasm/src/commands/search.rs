//! `chiasm search`: words or pictures in, pictures out.

use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor};
use chiasm_data::{Annotations, Dataset, ImageSource, Origin, Sample, Split, Views, atomic};
use chiasm_eval::report::sheet::{self, SheetHit, SheetRow};
use chiasm_eval::tasks::embedder::Embedder;
use serde::Serialize;

use crate::cli::{Global, SearchArgs};
use crate::commands::report;
use crate::error::CliError;
use crate::model::Model;
use crate::output::{self, Progress, note};
use crate::{device, source};

/// One picture found.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Found {
    /// Place, counted from 1.
    pub(crate) rank: usize,
    /// Cosine of the angle between the embeddings, -1 to 1.
    pub(crate) score: f32,
    /// The sample's id.
    pub(crate) id: String,
    /// Its file, where it has one.
    pub(crate) path: Option<String>,
    /// Its first text.
    pub(crate) text: String,
    /// Its position in the data set.
    #[serde(skip)]
    pub(crate) index: usize,
}

/// The pictures found for one search.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Search {
    /// What was looked for.
    pub(crate) query: String,
    /// Best first.
    pub(crate) results: Vec<Found>,
}

/// Embeds the pictures of a data set once and answers every search in words.
pub(crate) fn search(
    embedder: &Embedder<'_>,
    dataset: &Dataset,
    queries: &[&str],
    top: usize,
) -> Result<Vec<Search>, CliError> {
    let index = index(embedder, dataset)?;
    let texts = embedder.texts(queries, false, &mut |_| {})?;
    let names = queries.iter().map(|query| (*query).to_owned()).collect();
    nearest(&index, texts.embeds, names, dataset, top)
}

/// The pictures of a data set, `[samples, width]`, with a progress bar.
fn index(embedder: &Embedder<'_>, dataset: &Dataset) -> Result<Tensor<2>, CliError> {
    let mut bar = Progress::new("index", dataset.len() as u64);
    let indices: Vec<usize> = (0..dataset.len()).collect();
    let images = embedder.images(dataset, &indices, false, &mut |more| {
        bar.add(more, "pictures");
    })?;
    bar.finish();
    Ok(images.embeds)
}

/// The best pictures of an index for each query, `[queries, width]`.
fn nearest(
    index: &Tensor<2>,
    queries: Tensor<2>,
    names: Vec<String>,
    dataset: &Dataset,
    top: usize,
) -> Result<Vec<Search>, CliError> {
    let scores = queries
        .matmul(index.clone().transpose())
        .try_into_vec_as::<f32>()
        .map_err(|error| CliError::new(format!("the device returned no values: {error}"), None))?;
    let rows = scores.chunks(dataset.len().max(1));
    Ok(names
        .into_iter()
        .zip(rows)
        .map(|(query, row)| {
            let mut order: Vec<(usize, f32)> = row.iter().copied().enumerate().collect();
            order.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            let best = order.into_iter().take(top).enumerate();
            let results = best.filter_map(|(place, (index, score))| {
                let sample = dataset.samples.get(index)?;
                Some(Found {
                    rank: place + 1,
                    score,
                    id: sample.id.clone(),
                    path: sample.visual.path().map(|path| path.display().to_string()),
                    text: sample.texts.first().cloned().unwrap_or_default(),
                    index,
                })
            });
            Search {
                query,
                results: results.collect(),
            }
        })
        .collect())
}

/// Searches as text.
pub(crate) fn render(searches: &[Search]) -> String {
    let mut lines = Vec::new();
    for search in searches {
        lines.push(format!("\"{}\"", search.query));
        for found in &search.results {
            lines.push(format!(
                "  {:>2}  {:>6.3}  {}  {}",
                found.rank,
                found.score,
                found.path.as_deref().unwrap_or(&found.id),
                found.text
            ));
        }
    }
    lines.join("\n")
}

pub(crate) fn run(args: &SearchArgs, global: &Global) -> Result<(), CliError> {
    let device: Device = device::open(global)?;
    let model = Model::open(&args.run, args.checkpoint, &device)?;
    let config = model.data(args.data.as_deref(), &args.source)?;
    let quarantine = model
        .output_folder(&args.run)
        .join("quarantine-search.jsonl");
    let checked = source::load(&config, &quarantine)?;
    let (subset, _) = source::select(&checked.dataset, args.split)?;
    let embedder = model.embedder(&device, model.views(&config, &subset));
    let asked = pictures(&args.like);
    let words: Vec<&str> = args.words.iter().map(String::as_str).collect();
    // The queries first: a picture that cannot be read should not cost the indexing of all others.
    let mut queries = Vec::new();
    if !words.is_empty() {
        queries.push(embedder.texts(&words, false, &mut |_| {})?.embeds);
    }
    if !asked.is_empty() {
        let indices: Vec<usize> = (0..asked.len()).collect();
        // What is asked for are pictures, whatever is searched.
        let stills = Embedder {
            views: Views::default(),
            ..embedder
        };
        let pictures = stills.images(&asked, &indices, false, &mut |_| {})?;
        queries.push(pictures.embeds);
    }
    let index = index(&embedder, &subset)?;
    let names = words.iter().map(|word| (*word).to_owned());
    let names = names.chain(asked.samples.iter().map(|sample| sample.id.clone()));
    let queries = Tensor::cat(queries, 0);
    let searches = nearest(&index, queries, names.collect(), &subset, args.top)?;
    if let Some(path) = &args.page {
        write_page(path, &searches, words.len(), &asked, &subset)?;
    }
    if global.json {
        output::json(&searches)
    } else {
        output::result(&render(&searches));
        Ok(())
    }
}

/// Pictures that others are to be like, as samples.
fn pictures(paths: &[PathBuf]) -> Dataset {
    let sample = |path: &PathBuf| Sample {
        id: path.display().to_string(),
        visual: ImageSource::Path(path.clone()).into(),
        texts: Vec::new(),
        split: Split::Test,
        group: None,
        annotations: Annotations::default(),
        origin: Origin::default(),
    };
    Dataset {
        name: "searches".to_owned(),
        samples: paths.iter().map(sample).collect(),
    }
}

/// Writes what was found as a page; the searches behind the first `words` are pictures.
fn write_page(
    path: &Path,
    searches: &[Search],
    words: usize,
    asked: &Dataset,
    dataset: &Dataset,
) -> Result<(), CliError> {
    let rows: Vec<SheetRow> = searches
        .iter()
        .enumerate()
        .map(|(place, search)| SheetRow {
            query: search.query.clone(),
            picture: place
                .checked_sub(words)
                .and_then(|index| report::picture(asked, index)),
            hits: search
                .results
                .iter()
                .map(|found| SheetHit {
                    picture: report::picture(dataset, found.index),
                    score: found.score,
                    caption: format!("{} {}", found.id, found.text),
                })
                .collect(),
        })
        .collect();
    let page = sheet::render("What was found", &rows)?;
    atomic::write_bytes(path, page.as_bytes()).map_err(|error| {
        CliError::new(format!("cannot write `{}`: {error}", path.display()), None)
    })?;
    note(&format!("page: {}", path.display()));
    Ok(())
}
