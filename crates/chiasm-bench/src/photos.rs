//! Photos of a data set, and what is computed of them: evaluation in two stages, and batches alone.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use burn::tensor::Device;
use chiasm_data::{Dataset, Loader, LoaderConfig, Part, Views};
use chiasm_eval::metrics::{DirectionMetrics, TieRule};
use chiasm_eval::predictions::{ModelIdentity, Predictions};
use chiasm_eval::score::{ScoreReport, score};
use chiasm_eval::tasks::embedder::{Embedder, Towers};
use chiasm_eval::tasks::retrieval::{self, RetrievalJob};
use chiasm_nn::VisionLanguageModel;
use chiasm_train::prepare::preprocess;
use chiasm_train::recipe::DataConfig;

use crate::Result;
use crate::serve::Values;
use crate::workload::Prepared;

/// Pictures, texts or pairs in one call of the model, as in `chiasm eval`.
pub(crate) const BATCH_SIZE: usize = 64;

/// A data set of photos with their texts.
pub(crate) fn open(annotations: &Path, image_root: &Path) -> Result<Dataset> {
    let config = DataConfig {
        source: annotations.display().to_string(),
        image_root: Some(image_root.to_owned()),
        ..DataConfig::default()
    };
    Ok(chiasm_data::open(annotations, &config.options())?.dataset)
}

/// The first `count` of the samples.
pub(crate) fn first(dataset: &Dataset, count: usize) -> Result<Dataset> {
    let samples = dataset.samples.get(..count);
    Ok(Dataset {
        name: dataset.name.clone(),
        samples: samples
            .ok_or_else(|| format!("{} has fewer than {count} such photos", dataset.name))?
            .to_vec(),
    })
}

/// Both towers over all photos and texts, shortlists, and the fusion encoder over these: what
/// `chiasm eval` does, reading the pictures included.
pub(crate) fn evaluate(
    prepared: &Prepared,
    model: &VisionLanguageModel,
) -> Result<(Predictions, ScoreReport)> {
    let dataset = prepared.photos()?;
    let preprocess = preprocess(&prepared.recipe);
    let device = Device::flex();
    let embedder = Embedder {
        towers: Towers::Own(model),
        tokenizer: Some(&prepared.tokenizer),
        preprocess: Some(&preprocess),
        max_text_len: prepared.model_config.text.max_text_len,
        views: Views::default(),
        blind: false,
        device: &device,
        batch_size: BATCH_SIZE,
    };
    let job = RetrievalJob {
        dataset,
        split: "test".to_owned(),
        model: ModelIdentity::default(),
        shortlist: prepared.recipe.evaluation.shortlist,
        exhaustive: false,
        training_overlap: None,
    };
    let predictions = retrieval::run(&embedder, &job, &mut |_, _, _| {})?;
    let report = score(&predictions, TieRule::default())?;
    Ok((predictions, report))
}

/// What an evaluation found, by name, and how many pairs the fusion encoder saw.
pub(crate) fn found(predictions: &Predictions, report: &ScoreReport) -> Result<(Values, usize)> {
    let lists = predictions.reranked.as_ref();
    let lists = lists.ok_or("nothing was re-ranked")?;
    let reranked = report.reranked.as_ref().ok_or("nothing was re-ranked")?;
    let mut values = Values::new();
    let mut add = |name: &str, metrics: &DirectionMetrics| {
        let recalls = [
            (1, metrics.recall_at_1),
            (5, metrics.recall_at_5),
            (10, metrics.recall_at_10),
        ];
        values.extend(recalls.map(|(k, recall)| (format!("{name}, R@{k}"), recall)));
    };
    add("text to image", &report.dual.text_to_image);
    add("image to text", &report.dual.image_to_text);
    add("text to image, re-ranked", &reranked.text_to_image);
    add("image to text, re-ranked", &reranked.image_to_text);
    for (name, lists) in [
        ("text to image", &lists.text_to_image),
        ("image to text", &lists.image_to_text),
    ] {
        let best = lists.scores.iter().map(|row| {
            let best = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            f64::from(best)
        });
        let mean = best.sum::<f64>() / lists.scores.len().max(1) as f64;
        values.insert(format!("{name}, mean best score"), mean);
    }
    let of_texts = (0u32..).zip(&lists.text_to_image.candidates);
    let of_images = (0u32..).zip(&lists.image_to_text.candidates);
    let mut pairs: HashSet<(u32, u32)> = HashSet::new();
    for (text, images) in of_texts {
        pairs.extend(images.iter().map(|image| (*image, text)));
    }
    for (image, texts) in of_images {
        pairs.extend(texts.iter().map(|text| (image, *text)));
    }
    Ok((values, pairs.len()))
}

/// A loader of the photos in their order, not augmented, on as many threads as compute.
pub(crate) fn loader(prepared: &Prepared) -> Result<Loader> {
    let recipe = &prepared.recipe;
    let config = LoaderConfig {
        part: Part::WHOLE,
        batch_size: recipe.schedule.batch_size,
        seed: recipe.schedule.seed,
        max_text_len: recipe.model.text.max_text_len,
        preprocess: preprocess(recipe),
        views: Views::default(),
        blind: false,
        regions: None,
        targets: None,
        train: false,
        chunk: None,
        cache_bytes: 0,
        threads: rayon::current_num_threads(),
    };
    let photos = Arc::new(prepared.photos()?.clone());
    Ok(Loader::new(
        photos,
        Arc::clone(&prepared.tokenizer),
        config,
    )?)
}

/// All batches once: of each the root mean square of its first picture.
pub(crate) fn load(loader: &Loader) -> Result<Values> {
    let mut values = Values::new();
    for step in 0..loader.steps_per_epoch() {
        let batch = loader.batch(step)?;
        let len = batch.pixel_values.len() / batch.samples.len().max(1);
        let first = batch.pixel_values.get(..len).unwrap_or_default();
        let squares = first.iter().map(|value| f64::from(*value).powi(2));
        let mean = squares.sum::<f64>() / len.max(1) as f64;
        values.insert(format!("picture {step}"), mean.sqrt());
    }
    Ok(values)
}
