//! What a run is made of before its first step: the sizes of its model, its tokenizer, how its pictures are
//! prepared, and what its masks are drawn from.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use chiasm_data::regions::RegionSet;
use chiasm_data::{
    Loader, Normalisation, Preprocess, RandAugment, RegionLimits, Resize, TextTokenizer,
};
use chiasm_nn::ModelConfig;
use chiasm_objective::knowledge_masks::Knowledge;
use chiasm_objective::masking::Vocabulary;
use chiasm_ranks::Ranks;

use crate::data::{TrainData, region_identity};
use crate::error::TrainError;
use crate::recipe::{NormalizeRule, Recipe, ResizeRule};

/// Names of the classes that the regions of the first source have; those of bottom-up attention where
/// their file does not say.
fn class_names(recipe: &Recipe) -> Result<Vec<String>, TrainError> {
    let named = match &recipe.data.regions {
        Some(path) => RegionSet::look(path)?.objects,
        None => Vec::new(),
    };
    if !named.is_empty() {
        return Ok(named);
    }
    let names = chiasm_graph::vocabulary::objects().iter();
    Ok(names.map(|name| name.name().to_owned()).collect())
}

/// What the masks of a scene graph are drawn from, where a recipe has them.
pub(crate) fn knowledge(
    recipe: &Recipe,
    data: &TrainData,
) -> Result<Option<Knowledge>, TrainError> {
    let Some(config) = &recipe.objectives.knowledge else {
        return Ok(None);
    };
    let vectors = config.vectors.as_deref();
    let unusable = |reason: String| {
        TrainError::Recipe {
        path: recipe.name.clone(),
        message: format!(
            "`objectives.knowledge.vectors`: {}: {reason}",
            vectors.unwrap_or(Path::new("")).display()
        ),
        hint: Some(
            "name a text file with a word and its numbers a line, such as GloVe's; without, a built-in \
             list of synonyms is used"
                .to_owned(),
        ),
    }
    };
    let file = vectors.map(File::open).transpose();
    let file = file.map_err(|error| unusable(error.to_string()))?;
    let learned = Knowledge::learn(data.texts(), class_names(recipe)?, file.map(BufReader::new));
    Ok(Some(learned.map_err(|error| unusable(error.to_string()))?))
}

/// The recipe's tokenizer file, or a tokenizer trained on the training texts.
///
/// # Errors
/// A file that cannot be read, or texts that no tokenizer can be trained on.
pub fn tokenizer(recipe: &Recipe, data: &TrainData) -> Result<TextTokenizer, TrainError> {
    if let Some(file) = &recipe.tokenizer.file {
        return Ok(TextTokenizer::from_file(file)?);
    }
    if let Some(tokenizer) = recipe.weights.tokenizer()? {
        return Ok(tokenizer);
    }
    let (kind, size) = (
        recipe.tokenizer.algorithm.into(),
        recipe.tokenizer.vocab_size,
    );
    Ok(TextTokenizer::train(data.texts(), kind, size)?)
}

/// Refuses more ranks than the smallest batch has pairs for, counting those that are fused: the engine
/// cannot compute on nothing.
pub(crate) fn require_rows(
    ranks: &Ranks,
    recipe: &Recipe,
    loaders: &[(Loader, f64)],
) -> Result<(), TrainError> {
    let count = ranks.count();
    if count == 1 {
        return Ok(());
    }
    let size = recipe.schedule.batch_size;
    let smallest = loaders.iter().map(|(loader, _)| {
        let whole = size.min(loader.dataset().len());
        let (mut smallest, mut step) = (whole, 0);
        while step < loader.steps_per_epoch() {
            let Some(chunk) = loader.chunk(step) else {
                break;
            };
            let last = chunk.samples.len() % size;
            smallest = smallest.min(if last == 0 { whole } else { last });
            step = chunk.steps.end.max(step + 1);
        }
        smallest
    });
    let smallest = smallest.min().unwrap_or(0);
    let pairs = recipe.objectives.fused_size(smallest);
    if pairs >= count {
        return Ok(());
    }
    Err(TrainError::Recipe {
        path: recipe.name.clone(),
        message: format!("there are {count} ranks, and {pairs} pairs for them in the smallest batch"),
        hint: Some(
            "start fewer ranks or raise `schedule.batch_size`; with `objectives.cluster`, what a chunk leaves \
             for its last batch counts: choose another `chunk`"
                .to_owned(),
        ),
    })
}

/// What masking must know of a tokenizer.
pub(crate) fn vocabulary(
    tokenizer: &TextTokenizer,
    recipe: &Recipe,
) -> Result<Vocabulary, TrainError> {
    let size = tokenizer.vocab_size();
    let special = tokenizer.special();
    let masks = recipe.objectives.mlm.is_some()
        || recipe.objectives.completion_masks().is_some()
        || recipe.objectives.knowledge.is_some();
    if masks && special.mask.is_none() {
        return Err(TrainError::Recipe {
            path: recipe.name.clone(),
            message:
                "the tokenizer has no mask token, which `mlm`, `knowledge` and the completions need"
                    .to_owned(),
            hint: Some("use a BERT or RoBERTa tokenizer, or leave `tokenizer.file` out".to_owned()),
        });
    }
    // The mask id is only read by the objectives checked above.
    let mask_id = special.mask.unwrap_or(special.pad);
    Ok(Vocabulary::new(size, mask_id, |id| {
        tokenizer.is_special(id)
    }))
}

/// How pictures become the pixels of a recipe's model.
#[must_use]
pub fn preprocess(recipe: &Recipe) -> Preprocess {
    let mut preprocess = Preprocess::new(recipe.model.vision.image_size).normalised(
        match recipe.augment.normalize {
            NormalizeRule::Clip => Normalisation::Clip,
            NormalizeRule::ImageNet => Normalisation::ImageNet,
            NormalizeRule::Half => Normalisation::Half,
        },
    );
    preprocess.resize = match recipe.augment.resize {
        ResizeRule::ShortSideCenterCrop => Resize::ShortSideCenterCrop,
        ResizeRule::Squash => Resize::Squash,
    };
    preprocess.random_crop_scale = recipe.augment.crop;
    preprocess.flip = recipe.augment.flip;
    preprocess.rand_augment = recipe
        .augment
        .rand_augment
        .map(|(ops, magnitude)| RandAugment { ops, magnitude });
    preprocess
}

/// The regions that a model takes, where it takes regions.
#[must_use]
pub fn region_limits(model: &ModelConfig) -> Option<RegionLimits> {
    model.regions.as_ref().map(|regions| RegionLimits {
        dim: regions.features,
        most: regions.most,
    })
}

/// The recipe's model sizes with what the objectives need: a mask token, heads, a type for each of
/// `pictures` pictures; `classes` are those of the data where they are known.
#[must_use]
pub fn sized(recipe: &Recipe, classes: Option<usize>, pictures: usize) -> ModelConfig {
    let mut config = recipe.model.clone();
    let objectives = &recipe.objectives;
    config.vision.mask_token |= objectives.completes_patches();
    config.heads.ranking |= objectives.ranking.is_some();
    config.heads.grounding |= objectives.grounding.is_some();
    config.heads.masked_regions |= objectives.knowledge.is_some();
    if let Some(cluster) = &objectives.cluster {
        config.heads.clusters = cluster.clusters;
    }
    if objectives.classification.is_some() {
        config.heads.classes = classes.unwrap_or(config.heads.classes);
        config.heads.pictures = pictures;
        config.fusion.type_rows = config.fusion.type_rows.max(1 + pictures);
    }
    config
}

/// [`sized`] with the tokenizer's vocabulary. A word table that comes with the weights keeps its rows,
/// of which there may be more.
///
/// # Errors
/// Weights that cannot be opened, or whose word table is too short for the tokenizer.
pub fn model_config(
    recipe: &Recipe,
    tokenizer: &TextTokenizer,
    data: &TrainData,
) -> Result<ModelConfig, TrainError> {
    let classes = data.targets.as_ref().map(|targets| targets.len());
    let mut config = sized(recipe, classes, data.pictures());
    // A model goes on with the regions that it began with.
    if let Some(regions) = config
        .regions
        .as_mut()
        .filter(|regions| regions.provider.is_empty())
        && let Some(known) = recipe.weights.region_identity()?
    {
        regions.provider = known.provider;
        regions.provider_hash = known.hash;
    }
    for source in recipe.sources() {
        let identity = region_identity(&config, source)?;
        if let (Some(regions), Some(identity)) = (&mut config.regions, identity) {
            regions.provider = identity.provider;
            regions.provider_hash = identity.hash;
        }
    }
    let tokens = tokenizer.vocab_size();
    config.text.vocab_size = tokens;
    if let Some(rows) = recipe.weights.vocabulary_rows()? {
        if rows < tokens {
            return Err(TrainError::Recipe {
                path: recipe.name.clone(),
                message: format!("the tokenizer has {tokens} tokens, the weights {rows}"),
                hint: Some(
                    "leave `tokenizer.file` out, so that the weights' own is used".to_owned(),
                ),
            });
        }
        config.text.vocab_size = rows;
    }
    Ok(config)
}
