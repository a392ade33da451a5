//! `chiasm search`: words or pictures in, pictures out.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor};
use chiasm_data::{Dataset, ImageSource, Sample, Views, atomic};
use chiasm_eval::report::sheet::{self, SheetHit, SheetRow};
use chiasm_eval::tasks::ask::Alike;
use chiasm_eval::tasks::embedder::{Embedder, host};
use chiasm_index::{Filter, Identity, Record, Search};
use serde::Serialize;

use crate::cli::{Global, SearchArgs};
use crate::commands::report;
use crate::error::CliError;
use crate::model::Model;
use crate::output::{self, Progress, note};
use crate::{device, source, store};

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
pub(crate) struct Searched {
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
) -> Result<Vec<Searched>, CliError> {
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
) -> Result<Vec<Searched>, CliError> {
    let scores = host(queries.matmul(index.clone().transpose()))?;
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
            Searched {
                query,
                results: results.collect(),
            }
        })
        .collect())
}

/// Searches as text.
pub(crate) fn render(searches: &[Searched]) -> String {
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
    if store::is_at(&args.run) {
        return of_index(args, global, &device);
    }
    if args.filter.is_some() || args.rerank.is_some() || args.model.is_some() || args.exact {
        return Err(CliError::new(
            format!("{} is no index", args.run.display()),
            "`--filter`, `--exact`, `--rerank` and `--model` are for an index; make one with `chiasm index`"
                .to_owned(),
        ));
    }
    let model = Model::read(&args.run, args.read, &device)?;
    let config = model.data(args.data.as_deref(), &args.source)?;
    let quarantine = model
        .output_folder(&args.run)
        .join("quarantine-search.jsonl");
    let checked = source::load(&config, &quarantine)?;
    let (subset, _) = source::select(&checked.dataset, args.split)?;
    let embedder = model.embedder(&device, model.views(&config, &subset));
    // The queries first: a picture that cannot be read should not cost the indexing of all others.
    let queries = Queries::embed(args, &embedder)?;
    let index = index(&embedder, &subset)?;
    let searches = nearest(&index, queries.embeds, queries.names, &subset, args.top)?;
    if let Some(path) = &args.page {
        write_page(
            path,
            &searches,
            args.words.len(),
            &queries.pictures,
            &subset,
        )?;
    }
    output::report(global, &searches, &render(&searches))
}

/// What is looked for.
struct Queries {
    /// `[queries, width]`: words, then pictures.
    embeds: Tensor<2>,
    /// What each is called.
    names: Vec<String>,
    /// The pictures.
    pictures: Dataset,
}

impl Queries {
    fn embed(args: &SearchArgs, embedder: &Embedder<'_>) -> Result<Self, CliError> {
        let pictures = pictures(&args.like);
        let words: Vec<&str> = args.words.iter().map(String::as_str).collect();
        let mut queries = Vec::new();
        if !words.is_empty() {
            queries.push(embedder.texts(&words, false, &mut |_| {})?.embeds);
        }
        if !pictures.is_empty() {
            let indices: Vec<usize> = (0..pictures.len()).collect();
            // What is asked for are pictures, whatever is searched.
            let stills = Embedder {
                views: Views::default(),
                ..*embedder
            };
            queries.push(
                stills
                    .images(&pictures, &indices, false, &mut |_| {})?
                    .embeds,
            );
        }
        let names = words.iter().map(|word| (*word).to_owned());
        let names = names.chain(pictures.samples.iter().map(|sample| sample.id.clone()));
        Ok(Self {
            embeds: Tensor::cat(queries, 0),
            names: names.collect(),
            pictures,
        })
    }
}

/// Searches an index.
fn of_index(args: &SearchArgs, global: &Global, device: &Device) -> Result<(), CliError> {
    let index = store::open(&args.run)?;
    let identity = index.identity();
    let path = args
        .model
        .clone()
        .unwrap_or_else(|| PathBuf::from(&identity.model));
    if !path.exists() {
        return Err(CliError::new(
            format!(
                "the model that made the index is not at {} any more",
                path.display()
            ),
            "say where it is with `--model`".to_owned(),
        ));
    }
    let (model, fingerprint) = Model::read_identified(&path, args.read, device)?;
    index.check_model(&Identity {
        fingerprint,
        ..identity.clone()
    })?;
    let filter: Option<Filter> = args.filter.as_deref().map(str::parse).transpose()?;
    let embedder = model.embedder(device, Views::default());
    let queries = Queries::embed(args, &embedder)?;
    let wanted = Search {
        filter: filter.as_ref(),
        exact: args.exact,
        ..Search::top(args.top.max(args.rerank.unwrap_or(0)))
    };
    let values = host(queries.embeds)?;
    let mut found = Dataset {
        name: index.place(),
        samples: Vec::new(),
    };
    let (mut searches, mut places) = (Vec::new(), HashMap::new());
    let lists = index.find(&values, &wanted)?;
    for (number, (query, hits)) in queries.names.iter().zip(lists).enumerate() {
        let mut results = Vec::new();
        for hit in hits {
            let record = hit.record;
            let place = *places.entry(record.key.clone()).or_insert_with(|| {
                found.samples.push(sample(&record, index.folder()));
                found.samples.len() - 1
            });
            results.push(Found {
                rank: 0,
                score: hit.score,
                id: record.key,
                path: record.source,
                text: record.text,
                index: place,
            });
        }
        if let (Some(count), true) = (args.rerank, number < args.words.len()) {
            results.truncate(count);
            rerank(&embedder, query, &mut results, &found)?;
        }
        results.truncate(args.top);
        for (place, found) in results.iter_mut().enumerate() {
            found.rank = place + 1;
        }
        searches.push(Searched {
            query: query.clone(),
            results,
        });
    }
    if let Some(path) = &args.page {
        write_page(path, &searches, args.words.len(), &queries.pictures, &found)?;
    }
    output::report(global, &searches, &render(&searches))
}

/// Orders pictures that were found by what the fusion encoder says of them with the words.
fn rerank(
    embedder: &Embedder<'_>,
    words: &str,
    results: &mut [Found],
    found: &Dataset,
) -> Result<(), CliError> {
    for result in results.iter_mut() {
        let seen = embedder.seen(found, &[result.index], embedder.views)?;
        let alike = embedder.compare(&seen, &[words])?;
        let probability = alike.first().and_then(Alike::probability);
        result.score = probability.ok_or_else(|| {
            CliError::new(
                "the model was not trained to rank again",
                "leave `--rerank` out, or index with a run that has `matching` or `ranking`"
                    .to_owned(),
            )
        })?;
    }
    results.sort_by(|a, b| b.score.total_cmp(&a.score));
    Ok(())
}

/// An item of an index as a sample.
fn sample(record: &Record, folder: &Path) -> Sample {
    let source = record.source.as_deref().unwrap_or_default();
    let picture = chiasm_serve::source_at(folder, source);
    Sample::of_picture(&record.key, picture, vec![record.text.clone()])
}

/// Pictures that others are to be like, as samples.
fn pictures(paths: &[PathBuf]) -> Dataset {
    let sample = |path: &PathBuf| {
        let id = path.display().to_string();
        Sample::of_picture(id, ImageSource::Path(path.clone()), Vec::new())
    };
    Dataset {
        name: "searches".to_owned(),
        samples: paths.iter().map(sample).collect(),
    }
}

/// Writes what was found as a page; the searches behind the first `words` are pictures.
fn write_page(
    path: &Path,
    searches: &[Searched],
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
