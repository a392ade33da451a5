//! A workload: a recipe and the batches that its steps see, from one small file.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::Device;
use chiasm_data::regions::UNKNOWN_SIZE;
use chiasm_data::{
    Answer, Dataset, HostBatch, Loader, LoaderConfig, Part, RegionRows, Split, TextTokenizer,
    Views, builtin, rng,
};
use chiasm_nn::ModelConfig;
use chiasm_train::prepare::{model_config, preprocess, tokenizer};
use chiasm_train::recipe::BUILTIN_EMOJI;
use chiasm_train::{Recipe, TrainData, Trainer};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{Result, photos};

/// What is timed.
#[derive(Clone, Copy, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// A whole training step.
    #[default]
    Step,
    /// The image tower, without gradients.
    ImageForward,
    /// The text tower, without gradients.
    TextForward,
    /// Evaluation of retrieval in two stages.
    Retrieval,
    /// From files of pictures to batches, without a model.
    Loading,
}

/// A file of `benches/workloads`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Workload {
    /// Name in tables.
    pub(crate) title: String,
    /// What is timed. Default: `step`.
    #[serde(default)]
    pub(crate) kind: Kind,
    /// Recipe file, relative to the root of the repository.
    pub(crate) recipe: PathBuf,
    /// What the steps see.
    pub(crate) batches: Batches,
}

/// Where batches come from. Steps take them in turn.
#[derive(Deserialize)]
#[serde(tag = "source", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Batches {
    /// The first batches of the recipe's own data.
    Recipe {
        /// Different batches.
        count: u64,
    },
    /// Noise as pictures and words drawn evenly: sizes are exact and no data is needed.
    Random {
        /// Different batches.
        count: u64,
        /// Number of token ids.
        vocab_size: usize,
        /// Shortest and longest text in tokens, drawn evenly; texts of a batch are padded to the
        /// longest of them.
        text_len: [usize; 2],
        /// Regions of every picture, where the model sees regions; its recipe is then blind, because the
        /// built-in data has none.
        #[serde(default)]
        regions: usize,
        /// Classes of the recipe's classifier, where it has one; each sample has two right ones.
        #[serde(default)]
        classes: usize,
    },
    /// The first test photos of a data set with all of their texts; the tokenizer learns its words from
    /// the training texts.
    Photos {
        /// Photos.
        count: usize,
        /// Of the data set, relative to `--data`.
        annotations: PathBuf,
        /// Folder of its pictures, relative to `--data`.
        image_root: PathBuf,
    },
}

/// Everything ready for the first step.
pub(crate) struct Prepared {
    /// The file.
    pub(crate) workload: Workload,
    /// Its recipe.
    pub(crate) recipe: Recipe,
    /// The recipe's model sizes with the tokenizer's vocabulary.
    pub(crate) model_config: ModelConfig,
    /// A run at its beginning.
    pub(crate) trainer: Trainer,
    /// Makes token ids of texts.
    pub(crate) tokenizer: Arc<TextTokenizer>,
    /// Batches in host memory: decoding and tokenising are no part of a step.
    pub(crate) batches: Vec<HostBatch>,
    /// The photos of a workload that takes photos; it has no batches.
    pub(crate) photos: Option<Dataset>,
}

impl Prepared {
    /// The photos of a workload that needs some.
    pub(crate) fn photos(&self) -> Result<&Dataset> {
        let photos = self.photos.as_ref();
        Ok(photos.ok_or("this kind of workload takes its batches from photos")?)
    }
}

/// Reads a workload and builds its run; `data` is where photos are, and `edit` may change its recipe.
pub(crate) fn prepare(
    path: &Path,
    data: Option<&Path>,
    edit: impl FnOnce(&mut Recipe),
) -> Result<Prepared> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    let workload: Workload =
        toml::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?;
    let mut recipe = Recipe::from_file(&workload.recipe)?;
    edit(&mut recipe);
    if recipe.data.source != BUILTIN_EMOJI || recipe.tokenizer.file.is_some() {
        return Err("a workload's recipe uses the built-in data and trains its tokenizer".into());
    }
    if recipe.schedule.accumulate != 1 {
        return Err("a workload's recipe has `schedule.accumulate` = 1".into());
    }
    // No generator is shared between the two sides, so nothing may be drawn inside the model.
    if recipe.model.text.dropout != 0.0 || recipe.model.fusion.dropout != 0.0 {
        return Err("a workload's recipe has no dropout".into());
    }
    let (train, photos) = match &workload.batches {
        Batches::Photos {
            count,
            annotations,
            image_root,
        } => {
            let data = data.ok_or("this workload looks at photos: say where with `--data`")?;
            let all = photos::open(&data.join(annotations), &data.join(image_root))?;
            let test = photos::first(&all.subset(Split::Test), *count)?;
            (all.subset(Split::Train), Some(test))
        }
        Batches::Random { classes, .. } if *classes > 0 => (
            answered(&builtin::emoji()?.subset(Split::Train), *classes),
            None,
        ),
        Batches::Random { .. } | Batches::Recipe { .. } => {
            (builtin::emoji()?.subset(Split::Train), None)
        }
    };
    let data = TrainData::new(&recipe, vec![train])?;
    let tokenizer = tokenizer(&recipe, &data)?;
    let tokenizer = Arc::new(match &workload.batches {
        Batches::Random { vocab_size, .. } => filled_up(&tokenizer, *vocab_size)?,
        Batches::Recipe { .. } | Batches::Photos { .. } => tokenizer,
    });
    let batches = match &workload.batches {
        Batches::Recipe { count } => from_recipe(&recipe, &data, &tokenizer, *count)?,
        Batches::Random {
            count,
            text_len,
            regions,
            classes,
            ..
        } => (0..*count)
            .map(|step| random(&recipe, &tokenizer, step, *text_len, [*regions, *classes]))
            .collect(),
        Batches::Photos { .. } => Vec::new(),
    };
    Ok(Prepared {
        model_config: model_config(&recipe, &tokenizer, &data)?,
        trainer: Trainer::new(
            recipe.clone(),
            &data,
            Arc::clone(&tokenizer),
            &Device::flex(),
        )?,
        workload,
        recipe,
        tokenizer,
        batches,
        photos,
    })
}

fn from_recipe(
    recipe: &Recipe,
    data: &TrainData,
    tokenizer: &Arc<TextTokenizer>,
    count: u64,
) -> Result<Vec<HostBatch>> {
    let source = data.sources.first().ok_or("a workload has data")?;
    let loader = Loader::new(
        Arc::clone(&source.dataset),
        Arc::clone(tokenizer),
        LoaderConfig {
            batch_size: recipe.schedule.batch_size,
            seed: recipe.schedule.seed,
            max_text_len: recipe.model.text.max_text_len,
            preprocess: preprocess(recipe),
            views: source.views,
            blind: false,
            regions: None,
            targets: None,
            train: true,
            chunk: None,
            part: Part::WHOLE,
            cache_bytes: 0,
            threads: 0,
        },
    )?;
    Ok((0..count)
        .map(|step| loader.batch(step))
        .collect::<std::result::Result<_, _>>()?)
}

fn random(
    recipe: &Recipe,
    tokenizer: &TextTokenizer,
    step: u64,
    text_len: [usize; 2],
    [regions, classes]: [usize; 2],
) -> HostBatch {
    let size = recipe.schedule.batch_size;
    let side = recipe.model.vision.image_size;
    let special = tokenizer.special();
    let vocab_size = tokenizer.vocab_size();
    let mut rng = rng::stream(recipe.schedule.seed, "benchmark batch", &[step]);
    let seen = recipe.model.regions.as_ref();
    let pixels = if seen.is_some() {
        0
    } else {
        size * 3 * side * side
    };
    let pixel_values = (0..pixels)
        .map(|_| rng::uniform(&mut rng, -2.0, 2.0) as f32)
        .collect();
    let regions = seen.map(|config| noise_regions(&mut rng, size, regions, config.features));
    let [shortest, longest] = text_len.map(|len| len.clamp(2, recipe.model.text.max_text_len));
    let lengths: Vec<usize> = (0..size)
        .map(|_| shortest + rng::below(&mut rng, longest.saturating_sub(shortest) + 1))
        .collect();
    let len = lengths.iter().max().copied().unwrap_or(shortest);
    let (mut input_ids, mut attention_mask, mut word_ids) = (Vec::new(), Vec::new(), Vec::new());
    for own in &lengths {
        for column in 0..len {
            let word = rng::below(&mut rng, vocab_size) as i64;
            input_ids.push(match column {
                0 => special.cls,
                _ if column + 1 == *own => special.sep,
                _ if column >= *own => special.pad,
                _ => word,
            });
            attention_mask.push(i64::from(column < *own));
        }
        let word = |column: usize| {
            let inner = column > 0 && column + 1 < *own;
            inner.then(|| u32::try_from(column).unwrap_or(u32::MAX))
        };
        word_ids.push((0..*own).map(word).collect());
    }
    let right: Vec<usize> = match classes {
        0 => Vec::new(),
        classes => (0..size).map(|_| rng::below(&mut rng, classes)).collect(),
    };
    // Two answers, as most questions have them: one of six people in ten, one of three.
    let answers = |[first, second]: [f32; 2]| {
        let row = |class: &usize| {
            let [class, next] = [*class, (class + 1) % classes].map(|class| class as u32);
            vec![(class, first), (next, second)]
        };
        right.iter().map(row).collect()
    };
    HostBatch {
        step,
        epoch: 0,
        source: 0,
        samples: (0..size).collect(),
        ids: (0..size).map(|row| format!("noise-{row}")).collect(),
        part: Part::WHOLE,
        pixel_values,
        regions,
        texts: Vec::new(),
        referred: Vec::new(),
        offsets: Vec::new(),
        views: Views::default(),
        image_size: side,
        input_ids,
        attention_mask,
        text_len: len,
        lengths,
        word_ids,
        pad_id: special.pad,
        targets: answers([1.0, 0.9]),
        shares: answers([0.6, 0.3]),
    }
}

/// As many samples as classes, with an answer each that no other has: what a classifier is sized by.
fn answered(train: &Dataset, classes: usize) -> Dataset {
    let samples = train.samples.iter().cycle().take(classes).enumerate();
    let samples = samples.map(|(class, sample)| {
        let mut sample = sample.clone();
        sample.id = format!("{}-{class}", sample.id);
        sample.annotations.answers = vec![Answer {
            text: format!("answer{class}"),
            count: 1,
        }];
        sample
    });
    Dataset {
        name: train.name.clone(),
        samples: samples.collect(),
    }
}

/// Regions of noise, as many of each picture.
fn noise_regions(rng: &mut rng::Rng, pictures: usize, each: usize, dim: usize) -> RegionRows {
    let count = pictures * each;
    let corner = |rng: &mut rng::Rng| {
        let [a, b] = [(); 2].map(|()| rng::unit_f64(rng) as f32);
        [a.min(b), a.max(b)]
    };
    let rect = |rng: &mut rng::Rng| {
        let ([left, right], [top, bottom]) = (corner(rng), corner(rng));
        [left, top, right, bottom]
    };
    RegionRows {
        features: (0..count * dim)
            .map(|_| rng::uniform(rng, -2.0, 2.0) as f32)
            .collect(),
        dim,
        boxes: (0..count).map(|_| rect(rng)).collect(),
        classes: vec![(0, 0.0); count],
        attributes: vec![(0, 0.0); count],
        counts: vec![each; pictures],
        sizes: vec![UNKNOWN_SIZE; pictures],
    }
}

/// The tokenizer with made-up words up to a vocabulary of `size` ids.
fn filled_up(tokenizer: &TextTokenizer, size: usize) -> Result<TextTokenizer> {
    let mut file: Value = serde_json::from_str(&tokenizer.to_json()?)?;
    let vocab = file
        .pointer_mut("/model/vocab")
        .and_then(Value::as_object_mut)
        .ok_or("the tokenizer has no table of words")?;
    for id in tokenizer.vocab_size()..size {
        vocab.insert(format!("benchmark{id}"), json!(id));
    }
    Ok(TextTokenizer::from_bytes(file.to_string().as_bytes())?)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use chiasm_data::answers::Vocabulary;

    use super::*;

    #[test]
    fn every_workload_of_the_repository_is_readable() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let mut found = 0;
        for entry in std::fs::read_dir(root.join("benches/workloads")).unwrap() {
            let path = entry.unwrap().path();
            let name = path.to_string_lossy();
            if !name.ends_with(".recipe.toml") {
                let workload: Workload =
                    toml::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
                Recipe::from_file(&root.join(&workload.recipe)).unwrap();
                found += 1;
            }
        }
        assert!(found >= 4);
    }

    #[test]
    fn every_class_has_a_sample() {
        let train = builtin::emoji().unwrap().subset(Split::Train);
        let classes = train.len() + 3;
        let answered = answered(&train, classes);
        let vocabulary = Vocabulary::learn(&answered.samples, 1);
        assert_eq!(vocabulary.answers().len(), classes);
        let ids: BTreeSet<&str> = answered.samples.iter().map(|own| own.id.as_str()).collect();
        assert_eq!(ids.len(), classes);
    }

    #[test]
    fn random_texts_are_framed_and_padded() {
        let mut recipe = Recipe::default();
        recipe.schedule.batch_size = 5;
        recipe.model.vision.image_size = 16;
        let words = ["red heart", "blue heart"];
        let small = TextTokenizer::train(words, recipe.tokenizer.algorithm.into(), 100).unwrap();
        let tokenizer = filled_up(&small, 200).unwrap();
        assert_eq!(tokenizer.vocab_size(), 200);
        let special = tokenizer.special();
        let batch = random(&recipe, &tokenizer, 0, [3, 9], [0, 7]);
        assert_eq!(batch.pixel_values.len(), 5 * 3 * 16 * 16);
        assert_eq!(batch.text_len, *batch.lengths.iter().max().unwrap());
        assert_eq!([batch.targets.len(), batch.shares.len()], [5, 5]);
        for (row, own) in batch.lengths.iter().enumerate() {
            let ids = &batch.input_ids[row * batch.text_len..(row + 1) * batch.text_len];
            let mask = &batch.attention_mask[row * batch.text_len..(row + 1) * batch.text_len];
            assert!((3..=9).contains(own));
            assert_eq!((ids[0], ids[own - 1]), (special.cls, special.sep));
            assert!(ids[*own..].iter().all(|id| *id == special.pad));
            assert_eq!(mask.iter().sum::<i64>() as usize, *own);
            assert_eq!(batch.word_ids[row].len(), *own);
        }
    }
}
