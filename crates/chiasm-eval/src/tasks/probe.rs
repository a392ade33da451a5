//! Probes of frozen features: fitted on training pairs, chosen on validation pairs, applied to the pairs of a split
//! (`specs/itr.md` sections 3.3 and 3.7).

use chiasm_relation::model::{FeatureSet, FittedOn, Promise, RelationModel, VERSION};
use chiasm_relation::probe::{
    CentroidProbe, LogisticConfig, LogisticProbe, NeighbourProbe, Scores,
};
use chiasm_relation::{Calibration, KMeansConfig, Preparation, RelationError, Rows, kmeans};

use crate::metrics::bootstrap;
use crate::metrics::confidence::threshold;
use crate::metrics::f1::f1;
use crate::metrics::mapping::{Objective, mapped, oracle_mapping};
use crate::predictions::relation::{
    ORACLE, Protocol, RelationInfo, RelationPredictions, RelationRow,
};
use crate::predictions::{DatasetIdentity, ModelIdentity, TrainingOverlap};

/// Values of C that are tried where none is given, all on validation pairs.
pub const PENALTIES: [f64; 6] = [0.01, 0.0625, 0.25, 1.0, 4.0, 16.0];

/// Classes up to which clusters are mapped.
const MOST_CLUSTERS: usize = 32;

/// What a pair is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Probes are fitted on it.
    Train,
    /// Settings are chosen on it.
    Validation,
    /// It is scored.
    Scored,
}

/// A pair with a label.
#[derive(Debug, Clone, PartialEq)]
pub struct Pair {
    /// Its identifier.
    pub id: String,
    /// Its author, its picture, or itself: what it is not independent of.
    pub unit: String,
    /// Its class.
    pub label: usize,
    /// What it is for.
    pub part: Part,
}

/// Features of pairs, row by row in their order; empty where the model gives none.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PairFeatures {
    /// `[pairs, text_width]`.
    pub text: Vec<f32>,
    /// Width of the text features; 0: none.
    pub text_width: usize,
    /// `[pairs, image_width]`.
    pub image: Vec<f32>,
    /// Width of the image features; 0: none.
    pub image_width: usize,
    /// Whether `text` has features of pairs, which a model read together; there are none of `image` then.
    pub joint: bool,
    /// Cosine of each pair's text and image in a space that both have in common; empty without one.
    pub cosines: Vec<Option<f32>>,
}

impl PairFeatures {
    /// Text and image features of one pair.
    #[must_use]
    pub fn of(&self, pair: usize) -> (&[f32], &[f32]) {
        let row = |values, width: usize| -> &[f32] {
            let values: &Vec<f32> = values;
            values.get(pair * width..(pair + 1) * width).unwrap_or(&[])
        };
        (
            row(&self.text, self.text_width),
            row(&self.image, self.image_width),
        )
    }

    /// Cosine of a pair's text and image; `None` where it is not known, or one of both is zero.
    #[must_use]
    pub fn cosine(&self, pair: usize) -> Option<f32> {
        self.cosines.get(pair).copied().flatten()
    }

    /// Takes the features themselves for those of one space, where they are of one width.
    pub fn compare(&mut self) {
        if self.text_width != self.image_width || self.text_width == 0 {
            return;
        }
        let pairs = self.text.len() / self.text_width;
        self.cosines = (0..pairs).map(|pair| cosine(self.of(pair))).collect();
    }
}

/// Cosine of two vectors of one width; `None` where one is zero.
fn cosine((text, image): (&[f32], &[f32])) -> Option<f32> {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        let products = a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b));
        products.sum()
    };
    let length = (dot(text, text) * dot(image, image)).sqrt();
    (length > 0.0).then(|| (dot(text, image) / length).clamp(-1.0, 1.0) as f32)
}

/// How probes are made.
#[derive(Debug, Clone, PartialEq)]
pub struct ProbeSettings {
    /// C of the linear probe; several are compared on validation pairs.
    pub penalties: Vec<f64>,
    /// What is done to features.
    pub preparation: PreparationKind,
    /// Neighbours that have a say.
    pub neighbours: usize,
    /// Precision that answers of the relation model are to have.
    pub precision: f64,
}

/// [`Preparation`] before it is known which modalities there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PreparationKind {
    /// Features as they are, as published.
    Raw,
    /// Every column standardised.
    Scale,
    /// Every modality given the same variance.
    Modalities,
}

/// What a run is to do and how it is labelled.
pub struct ProbeJob<'a> {
    /// The pairs.
    pub pairs: &'a [Pair],
    /// Their features.
    pub features: &'a PairFeatures,
    /// Names of the classes.
    pub classes: &'a [String],
    /// Whether these are the four relations in the order of tv.
    pub relations: bool,
    /// How probes are made.
    pub settings: &'a ProbeSettings,
    /// Name of the scored split.
    pub split: String,
    /// The data.
    pub dataset: DatasetIdentity,
    /// The model whose features are read.
    pub model: ModelIdentity,
    /// What of the scored pairs the model was trained on.
    pub training_overlap: Option<TrainingOverlap>,
}

/// Predictions, and the relation model of the first protocol, whose encoders are still to be named.
pub struct Probed {
    /// What every protocol says of the scored pairs.
    pub predictions: RelationPredictions,
    /// The calibrated linear probe on all features there are.
    pub model: RelationModel,
}

/// Fits and applies every protocol: linear, calibrated and as fitted, two questions (relations only), nearest centroid,
/// nearest neighbours and clusters under an oracle's mapping, each on both modalities, on text alone and on image alone
/// where there are such features.
///
/// # Errors
///
/// There are no training pairs or none to score, all training pairs are of one class, or features do not fit.
pub fn run(
    job: &ProbeJob<'_>,
    progress: &mut dyn FnMut(&str, usize, usize),
) -> Result<Probed, RelationError> {
    let of = |part: Part| -> Vec<usize> {
        let own = job
            .pairs
            .iter()
            .enumerate()
            .filter(|(_, pair)| pair.part == part);
        own.map(|(place, _)| place).collect()
    };
    let (train, validation, scored) = (of(Part::Train), of(Part::Validation), of(Part::Scored));
    if train.is_empty() || scored.is_empty() {
        return Err(RelationError::Empty);
    }
    let mut rows: Vec<RelationRow> = scored
        .iter()
        .map(|&place| RelationRow {
            id: job.pairs[place].id.clone(),
            unit: job.pairs[place].unit.clone(),
            label: job
                .classes
                .get(job.pairs[place].label)
                .cloned()
                .unwrap_or_default(),
            cosine: job.features.cosine(place),
            probabilities: Vec::new(),
        })
        .collect();
    let mut protocols = Vec::new();
    let mut model = None;
    let (text, image) = (job.features.text_width, job.features.image_width);
    let sets = match job.features.joint {
        true => &[FeatureSet::Pair][..],
        false => &FeatureSet::ALL,
    };
    let sets = sets
        .iter()
        .copied()
        .filter_map(|set| Some((set, set.widths(text, image)?)));
    let sets: Vec<_> = sets.collect();
    for (index, (set, widths)) in sets.iter().enumerate() {
        progress(set.name(), index, sets.len());
        let bench = Bench::new(job, *set, widths, [&train, &validation, &scored])?;
        let (linear, penalty) = bench.linear()?;
        let mut add = |name: &str, settings: String, promise, scores: Scores| {
            let classes = scores.classes().max(1);
            let values = scores.probabilities();
            for (row, values) in rows.iter_mut().zip(values.chunks_exact(classes)) {
                let values = values.iter().map(|value| *value as f32).collect();
                row.probabilities.push(values);
            }
            protocols.push(Protocol {
                name: name.to_owned(),
                features: set.name().to_owned(),
                settings,
                promise,
            });
        };
        let promise = linear
            .promise
            .map(|promise| (promise.confidence, promise.wanted));
        let scores = linear.probe.scores(bench.scored.rows()?)?;
        let calibrated = linear.calibration.apply(&scores);
        let settings = format!("C = {penalty}, {}", describe(linear.calibration));
        add("linear", settings, promise, calibrated);
        if linear.calibration != Calibration::None {
            // What calibration is worth is read off the two.
            let settings = format!("C = {penalty}, {}", describe(Calibration::None));
            add("uncalibrated", settings, None, scores);
        }
        if job.relations {
            let (settings, scores) = bench.two_questions(penalty)?;
            add("two questions", settings, None, scores);
        }
        let labels = &bench.train.labels;
        let train = bench.train.rows()?;
        let centroid = CentroidProbe::fit(train, labels, job.classes.len())?;
        add(
            "centroid",
            String::new(),
            None,
            centroid.scores(bench.scored.rows()?)?,
        );
        let wanted = job.settings.neighbours;
        let nearest = NeighbourProbe::fit(train, labels, job.classes.len(), wanted)?;
        let scores = nearest.scores(bench.scored.rows()?)?;
        add("neighbours", format!("k = {wanted}"), None, scores);
        if job.classes.len() <= MOST_CLUSTERS {
            add(ORACLE, String::new(), None, bench.oracle()?);
        }
        model.get_or_insert(linear);
    }
    progress("done", sets.len(), sets.len());
    let mut counts = vec![0_usize; job.classes.len()];
    train
        .iter()
        .for_each(|place| counts[job.pairs[*place].label] += 1);
    let most = (0..counts.len()).max_by_key(|class| (counts[*class], std::cmp::Reverse(*class)));
    let info = RelationInfo {
        split: job.split.clone(),
        dataset: job.dataset.clone(),
        model: job.model.clone(),
        classes: job.classes.to_vec(),
        relations: job.relations,
        majority: most
            .and_then(|class| job.classes.get(class))
            .cloned()
            .unwrap_or_default(),
        fitted_on: (train.len(), validation.len()),
        protocols,
        training_overlap: job.training_overlap.clone(),
    };
    Ok(Probed {
        predictions: RelationPredictions { info, rows },
        model: model.ok_or(RelationError::Empty)?,
    })
}

fn describe(calibration: Calibration) -> String {
    match calibration {
        Calibration::None => "not calibrated".to_owned(),
        Calibration::Temperature(value) => format!("temperature {value:.3}"),
        Calibration::Platt { slope, offset } => format!("slope {slope:.3}, offset {offset:.3}"),
    }
}

/// Prepared features of some pairs with their labels.
struct Shelf {
    values: Vec<f32>,
    width: usize,
    labels: Vec<usize>,
}

impl Shelf {
    fn rows(&self) -> Result<Rows<'_>, RelationError> {
        Rows::new(&self.values, self.width)
    }
}

/// One set of features, ready for probes.
struct Bench<'a> {
    job: &'a ProbeJob<'a>,
    set: FeatureSet,
    preparation: chiasm_relation::Prepared,
    train: Shelf,
    validation: Shelf,
    /// Validation pairs that share their picture or author.
    units: Vec<Vec<usize>>,
    scored: Shelf,
}

impl<'a> Bench<'a> {
    fn new(
        job: &'a ProbeJob<'a>,
        set: FeatureSet,
        widths: &[usize],
        [train, validation, scored]: [&[usize]; 3],
    ) -> Result<Self, RelationError> {
        let width = widths.iter().sum();
        let shelf = |places: &[usize]| {
            let of = |place: &usize| {
                let (text, image) = job.features.of(*place);
                set.of(text, image)
            };
            Shelf {
                values: places.iter().flat_map(of).collect(),
                width,
                labels: places.iter().map(|place| job.pairs[*place].label).collect(),
            }
        };
        let unit_of = |place: &usize| job.pairs[*place].unit.as_str();
        let units = bootstrap::units(validation.iter().map(unit_of));
        let [mut train, mut validation, mut scored] = [train, validation, scored].map(shelf);
        let preparation = match job.settings.preparation {
            PreparationKind::Raw => Preparation::Raw,
            PreparationKind::Scale => Preparation::Scale,
            PreparationKind::Modalities => Preparation::Modalities(widths.to_vec()),
        };
        let preparation = preparation.fit(train.rows()?)?;
        for shelf in [&mut train, &mut validation, &mut scored] {
            shelf.values = preparation.apply(shelf.rows()?)?;
        }
        Ok(Self {
            job,
            set,
            preparation,
            train,
            validation,
            units,
            scored,
        })
    }

    fn fit(
        &self,
        labels: &[usize],
        classes: usize,
        penalty: f64,
    ) -> Result<LogisticProbe, RelationError> {
        let config = LogisticConfig {
            inverse_penalty: penalty,
            ..LogisticConfig::default()
        };
        Ok(LogisticProbe::fit(self.train.rows()?, labels, classes, &config)?.0)
    }

    /// The linear probe, its C chosen, calibrated and given a threshold on validation pairs.
    fn linear(&self) -> Result<(RelationModel, f64), RelationError> {
        let (job, classes) = (self.job, self.job.classes.len());
        let mut best: Option<(f64, f64, LogisticProbe)> = None;
        let chosen = match self.validation.labels.is_empty() {
            // Nothing to choose on: the published value, or the first that was asked for.
            true if job.settings.penalties.len() > 1 => {
                vec![LogisticConfig::default().inverse_penalty]
            }
            _ => job.settings.penalties.clone(),
        };
        for penalty in chosen {
            let probe = self.fit(&self.train.labels, classes, penalty)?;
            let figure = match self.validation.labels.is_empty() {
                true => 0.0,
                false => {
                    let predicted = probe.scores(self.validation.rows()?)?.predicted();
                    f1(&self.validation.labels, &predicted).map_or(0.0, |f1| f1.weighted)
                }
            };
            if best
                .as_ref()
                .is_none_or(|(highest, _, _)| figure > *highest)
            {
                best = Some((figure, penalty, probe));
            }
        }
        let (_, penalty, probe) = best.ok_or(RelationError::Setting {
            name: "C",
            value: "nothing".to_owned(),
        })?;
        let (mut calibration, mut promise) = (Calibration::None, None);
        if !self.validation.labels.is_empty() {
            let labels = &self.validation.labels;
            let scores = probe.scores(self.validation.rows()?)?;
            calibration = Calibration::choose(&scores, labels)?;
            promise = Some(promised(
                &calibration.apply(&scores),
                labels,
                &self.units,
                job.settings.precision,
            ));
        }
        let model = RelationModel {
            version: VERSION,
            classes: job.classes.to_vec(),
            relations: job.relations,
            features: self.set,
            text_width: job.features.text_width,
            image_width: job.features.image_width,
            preparation: self.preparation.clone(),
            probe,
            calibration,
            promise,
            encoders: Vec::new(),
            fitted_on: FittedOn {
                data: job.dataset.name.clone(),
                fingerprint: job.dataset.fingerprint.clone(),
                training: self.train.labels.len(),
                validation: self.validation.labels.len(),
            },
        };
        Ok((model, penalty))
    }

    /// As many clusters of the training pairs as there are classes, found without labels; which stands for which class
    /// is chosen with the labels of the scored pairs (`specs/itr.md` section 3.4), so this bounds what clusters can say.
    fn oracle(&self) -> Result<Scores, RelationError> {
        let classes = self.job.classes.len();
        let config = KMeansConfig {
            clusters: classes,
            ..KMeansConfig::default()
        };
        let (train, scored) = (self.train.rows()?, self.scored.rows()?);
        let found = kmeans(train, &config)?;
        let labels = &self.scored.labels;
        let mapping = oracle_mapping(
            &found.nearest(scored)?,
            labels,
            classes,
            Objective::WeightedF1,
        );
        CentroidProbe::fit(train, &mapped(&found.labels, &mapping), classes)?.scores(scored)
    }

    /// A probe for each fact, and the joint class as both say (k = 2 of the reference): probabilities multiply. Where all
    /// training pairs agree on a fact, it is taken for granted.
    fn two_questions(&self, penalty: f64) -> Result<(String, Scores), RelationError> {
        let mut logits = vec![0.0; self.scored.labels.len() * 4];
        for (which, of) in [|tv: usize| tv / 2, |tv: usize| tv % 2]
            .into_iter()
            .enumerate()
        {
            let labels: Vec<usize> = self.train.labels.iter().map(|tv| of(*tv)).collect();
            let scores = match self.fit(&labels, 2, penalty) {
                Ok(probe) => probe.scores(self.scored.rows()?)?,
                Err(RelationError::OneClass { class }) => {
                    let certain = [0, 1].map(|fact| match fact == class {
                        true => 0.0,
                        false => f64::NEG_INFINITY,
                    });
                    Scores::new(certain.repeat(self.scored.labels.len()), 2)
                }
                Err(error) => return Err(error),
            };
            let probabilities = scores.probabilities();
            for (logits, fact) in logits
                .chunks_exact_mut(4)
                .zip(probabilities.chunks_exact(2))
            {
                for (tv, logit) in logits.iter_mut().enumerate() {
                    let fact = if which == 0 {
                        fact[tv / 2]
                    } else {
                        fact[tv % 2]
                    };
                    *logit += fact.ln();
                }
            }
        }
        Ok((format!("C = {penalty}"), Scores::new(logits, 4)))
    }
}

/// The threshold on validation pairs.
fn promised(scores: &Scores, labels: &[usize], units: &[Vec<usize>], wanted: f64) -> Promise {
    let classes = scores.classes().max(1);
    let predicted = scores.predicted();
    let probabilities = scores.probabilities();
    let rows = probabilities.chunks_exact(classes).zip(&predicted);
    let confidence: Vec<f64> = rows.map(|(row, class)| row[*class]).collect();
    let right: Vec<bool> = predicted.iter().zip(labels).map(|(a, b)| a == b).collect();
    let found = threshold(wanted, &confidence, &right, units);
    Promise {
        wanted,
        confidence: found.confidence,
        precision: found.precision.map(|p| [p.mean, p.low, p.high]),
        coverage: found.coverage,
    }
}
