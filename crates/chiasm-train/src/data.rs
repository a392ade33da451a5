//! What a run learns from: the training samples of every source, what of them the model looks at, and
//! the classes they belong to.

use std::sync::Arc;

use chiasm_data::answers::Vocabulary;
use chiasm_data::regions::{RegionIdentity, RegionSet};
use chiasm_data::{Clip, Dataset, Sample, Targets, Views, Visual};
use chiasm_nn::ModelConfig;
use chiasm_objective::Objective;
use chiasm_objective::config::ClassSource;

use crate::clusters;
use crate::error::TrainError;
use crate::recipe::{DataConfig, Recipe};

/// Frames taken of clips unless a recipe says otherwise: SCL's (`specs/scl.md` section 1.4).
const FRAMES: usize = 4;

/// The training samples of one source.
#[derive(Clone)]
pub struct Source {
    /// The samples.
    pub dataset: Arc<Dataset>,
    /// What of them is looked at.
    pub views: Views,
    /// What they are taught as classes; none where they have no such classes.
    pub targets: Option<Arc<Targets>>,
}

/// The training samples of a run, in the order of `[data]` and `[[mix]]`.
#[derive(Clone)]
pub struct TrainData {
    /// The sources, at least one.
    pub sources: Vec<Source>,
    /// The classes of the run's classifier, where it has one.
    pub targets: Option<Arc<Targets>>,
    /// Samples that were left out because they belong to no class, of sources in which others do.
    pub without_class: usize,
}

impl TrainData {
    /// Training samples for a recipe; `sets` are those of `[data]` and of every `[[mix]]`.
    ///
    /// # Errors
    /// Samples without the classes that the recipe wants, or with different numbers of pictures; a
    /// source with nothing to teach; an answer file that cannot be read.
    pub fn new(recipe: &Recipe, sets: Vec<Dataset>) -> Result<Self, TrainError> {
        let fail = |message: String, hint: &str| TrainError::Recipe {
            path: recipe.name.clone(),
            message,
            hint: Some(hint.to_owned()),
        };
        let Some(first) = sets.first() else {
            return Err(fail("there is no data".to_owned(), "name it in `[data]`"));
        };
        let targets = targets(recipe, first)?.map(Arc::new);
        let only_classes = recipe.objectives.enabled() == [Objective::Classification];
        let mut without_class = 0;
        let mut sources = Vec::new();
        for (config, mut dataset) in recipe.sources().zip(sets) {
            if recipe.objectives.grounding.is_some() {
                dataset = dataset.referring();
                if dataset.is_empty() {
                    return Err(fail(
                        format!("no training sample of {} refers to a box", dataset.name),
                        "give data such as RefCOCO, Flickr30k Entities or phrases.jsonl",
                    ));
                }
            }
            if let Some(cluster) = &recipe.objectives.cluster {
                clusters::require_view(cluster, &dataset)?;
            }
            if recipe.model.regions.is_some() && config.regions.is_none() && !config.blind {
                return Err(fail(
                    format!(
                        "{} comes without regions, and the model sees nothing else",
                        dataset.name
                    ),
                    "name them with `--regions`; `chiasm regions extract` makes them",
                ));
            }
            let answerable = targets.as_ref().map(|targets| dataset.answerable(targets));
            let taught = answerable.filter(|(with_class, _)| !with_class.is_empty());
            let classes = targets.as_ref().map_or(0, |targets| targets.len());
            if sources.is_empty() && targets.is_some() && (classes < 2 || taught.is_none()) {
                let name = &dataset.name;
                return Err(fail(
                    format!("the training samples of {name} have {classes} classes"),
                    "a classifier needs two: look at `objectives.classification.classes` and \
                     `min_count`, and at the answers and labels with `chiasm data check`",
                ));
            }
            let targets = targets.as_ref().filter(|_| taught.is_some()).cloned();
            if let Some((with_class, left_out)) = taught {
                dataset = with_class;
                without_class += left_out;
            } else if only_classes {
                let name = &dataset.name;
                return Err(fail(
                    format!("the training samples of {name} belong to none of the classes"),
                    "leave the source out, or turn on an objective that needs no classes",
                ));
            }
            let mut views = views(config, &dataset, &recipe.model);
            if targets.is_some() {
                views = views.with_pictures(pictures(&dataset)?);
            }
            sources.push(Source {
                dataset: Arc::new(dataset),
                views,
                targets,
            });
        }
        let of_classes = |source: &&Source| source.targets.is_some();
        let first_pictures = sources.first().map_or(1, |source| source.views.pictures);
        let mut others = sources.iter().filter(of_classes);
        if let Some(other) = others.find(|source| source.views.pictures != first_pictures) {
            return Err(fail(
                format!(
                    "texts of {} speak of {} pictures, those of the first source of {first_pictures}",
                    other.dataset.name, other.views.pictures
                ),
                "one classifier looks at one number of pictures: train on one of the sources",
            ));
        }
        Ok(Self {
            sources,
            targets,
            without_class,
        })
    }

    /// Pictures that a text of the classifier speaks of together.
    #[must_use]
    pub fn pictures(&self) -> usize {
        let first = self.sources.first();
        first.map_or(1, |source| source.views.pictures)
    }

    /// Every training text.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        let samples = self
            .sources
            .iter()
            .flat_map(|source| &source.dataset.samples);
        samples.flat_map(|sample| sample.texts.iter().map(String::as_str))
    }

    /// Changes when a sample of any source does.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let of = |source: &Source| source.dataset.fingerprint();
        self.sources.iter().map(of).collect::<Vec<_>>().join("+")
    }
}

/// The classes that a recipe wants learned of these samples; `None` where it wants none.
fn targets(recipe: &Recipe, dataset: &Dataset) -> Result<Option<Targets>, TrainError> {
    let Some(config) = &recipe.objectives.classification else {
        return Ok(None);
    };
    Ok(Some(match (config.classes, &config.vocabulary) {
        (ClassSource::Labels, _) => Targets::labels(&dataset.samples),
        (ClassSource::Answers, Some(file)) => Targets::Answers(Vocabulary::read(file)?),
        (ClassSource::Answers, None) => {
            let vocabulary = Vocabulary::learn(&dataset.samples, config.min_count);
            Targets::Answers(vocabulary)
        }
    }))
}

/// What made the regions of a source, for a model that sees regions; `None` where there are none.
///
/// # Errors
/// Regions that cannot be read, or that are not those that the model was trained on; the hint says
/// what to do.
pub fn region_identity(
    model: &ModelConfig,
    config: &DataConfig,
) -> Result<Option<RegionIdentity>, TrainError> {
    let (Some(regions), Some(path)) = (&model.regions, &config.regions) else {
        return Ok(None);
    };
    let found = RegionSet::look(path)?;
    if !regions.provider.is_empty() {
        let expected = RegionIdentity {
            provider: regions.provider.clone(),
            dim: regions.features,
            hash: regions.provider_hash.clone(),
        };
        found.require(&expected, path)?;
    }
    Ok(Some(found.identity()))
}

/// What of a data set's samples a model looks at: frames of clips where it takes them, one picture of
/// each sample otherwise.
#[must_use]
pub fn views(config: &DataConfig, dataset: &Dataset, model: &ModelConfig) -> Views {
    let most = model.vision.max_frames.max(1);
    let is_clip = |sample: &Sample| matches!(sample.visual, Visual::Clip(_));
    let frames = match config.frames {
        0 if dataset.samples.iter().any(is_clip) => FRAMES,
        0 => 1,
        frames => frames,
    };
    Views {
        pictures: 1,
        frames: frames.min(most),
    }
}

/// Pictures that the texts of a data set speak of together: as many for all of them.
///
/// # Errors
/// Samples that differ in it.
pub fn pictures(dataset: &Dataset) -> Result<usize, TrainError> {
    let of = |sample: &Sample| match &sample.visual {
        Visual::Images(images) => images.len(),
        Visual::Strip { parts, .. } => parts.len(),
        Visual::Image(_) | Visual::Clip(Clip::Frames(_) | Clip::Animation(_) | Clip::Video(_)) => 1,
    };
    let mut samples = dataset.samples.iter();
    let Some(first) = samples.next() else {
        return Ok(1);
    };
    let pictures = of(first);
    match samples.find(|sample| of(sample) != pictures) {
        None => Ok(pictures),
        Some(other) => Err(TrainError::Recipe {
            path: dataset.name.clone(),
            message: format!(
                "the text of `{}` ({}) speaks of {} pictures, that of `{}` of {pictures}",
                other.id,
                other.origin,
                of(other),
                first.id
            ),
            hint: Some("all texts of a classifier must speak of as many pictures".to_owned()),
        }),
    }
}
