//! `chiasm search`: words in, pictures out.

use burn::tensor::Device;
use chiasm_data::Dataset;
use chiasm_eval::tasks::retrieval::Embedder;
use serde::Serialize;

use crate::cli::{Global, SearchArgs};
use crate::commands::eval;
use crate::error::CliError;
use crate::output::{self, Progress};
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

/// Embeds the pictures of a data set once and answers every query.
pub(crate) fn search(
    embedder: &Embedder<'_>,
    dataset: &Dataset,
    queries: &[&str],
    top: usize,
) -> Result<Vec<Search>, CliError> {
    let mut bar = Progress::new("index", dataset.len() as u64);
    let indices: Vec<usize> = (0..dataset.len()).collect();
    let mut done = 0;
    let images = embedder.images(dataset, &indices, false, &mut |more| {
        done += more as u64;
        bar.set(done, "pictures");
    })?;
    bar.finish();
    let texts = embedder.texts(queries, false, &mut |_| {});
    let scores = texts
        .embeds
        .matmul(images.embeds.transpose())
        .try_into_vec_as::<f32>()
        .map_err(|error| CliError::new(format!("the device returned no values: {error}"), None))?;
    let rows = scores.chunks(dataset.len().max(1));
    Ok(queries
        .iter()
        .zip(rows)
        .map(|(query, row)| {
            let mut order: Vec<(usize, f32)> = row.iter().copied().enumerate().collect();
            order.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            let results = order
                .into_iter()
                .take(top)
                .enumerate()
                .filter_map(|(place, (index, score))| {
                    let sample = dataset.samples.get(index)?;
                    Some(Found {
                        rank: place + 1,
                        score,
                        id: sample.id.clone(),
                        path: sample.visual.path().map(|path| path.display().to_string()),
                        text: sample.texts.first().cloned().unwrap_or_default(),
                        index,
                    })
                })
                .collect();
            Search {
                query: (*query).to_owned(),
                results,
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
    let trained = eval::load_run(&args.run, args.checkpoint, &device)?;
    let mut config = trained.recipe.data.clone();
    args.source.apply(args.data.as_deref(), &mut config);
    let checked = source::load(&config, &args.run.join("quarantine-search.jsonl"))?;
    let (subset, _) = source::select(&checked.dataset, args.split)?;
    let queries: Vec<&str> = args.words.iter().map(String::as_str).collect();
    let embedder = eval::embedder(&trained, &trained.model, &device);
    let searches = search(&embedder, &subset, &queries, args.top)?;
    if global.json {
        output::json(&searches)
    } else {
        output::result(&render(&searches));
        Ok(())
    }
}
