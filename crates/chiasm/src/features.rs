//! Features of pairs of text and picture: embedded by one model or two, or read from files.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::{Device, Tensor};
use chiasm_data::{Dataset, Views};
use chiasm_eval::predictions::ModelIdentity;
use chiasm_eval::tasks::embedder::{self, Embedder};
use chiasm_eval::tasks::probe::PairFeatures;
use chiasm_format::ByteSource;
use chiasm_format::numpy::Npy;
use chiasm_format::safetensors::SafetensorsFile;
use chiasm_relation::model::EncoderIdentity;
use chiasm_train::recipe::DataConfig;

use crate::cli::CheckpointArg;
use crate::commands::eval::Bar;
use crate::error::CliError;
use crate::model::Model;

/// One model of texts and pictures, or one of texts and one of pictures.
pub(crate) struct Encoders {
    models: Vec<(Model, EncoderIdentity)>,
}

impl Encoders {
    /// Opens one model, or two: texts through the first, pictures through the second.
    pub(crate) fn open(
        paths: &[(PathBuf, CheckpointArg)],
        device: &Device,
    ) -> Result<Self, CliError> {
        let open = |(path, which): &(PathBuf, CheckpointArg)| {
            let (model, hash) = Model::open_identified(path, *which, device)?;
            let identity = EncoderIdentity {
                path: path.display().to_string(),
                name: model.identity(path).name,
                checkpoint: match which {
                    CheckpointArg::Last => "last".to_owned(),
                    CheckpointArg::Best => "best".to_owned(),
                },
                hash,
            };
            Ok((model, identity))
        };
        let models = paths
            .iter()
            .map(open)
            .collect::<Result<Vec<_>, CliError>>()?;
        Ok(Self { models })
    }

    /// The first model, which says what the data are where nobody else does.
    pub(crate) fn first(&self) -> Option<&Model> {
        self.models.first().map(|(model, _)| model)
    }

    /// What a relation model says of them.
    pub(crate) fn identities(&self) -> Vec<EncoderIdentity> {
        let own = self.models.iter();
        own.map(|(_, identity)| identity.clone()).collect()
    }

    /// What they are called in a predictions file.
    pub(crate) fn identity(&self) -> ModelIdentity {
        match self.models.as_slice() {
            [(model, identity)] => model.identity(Path::new(&identity.path)),
            models => {
                let names: Vec<&str> = models.iter().map(|(_, own)| own.name.as_str()).collect();
                ModelIdentity {
                    name: names.join(" + "),
                    ..ModelIdentity::default()
                }
            }
        }
    }

    /// Embeds every text of a data set with its picture: a row for each text, in the order of [`Dataset::pairs`].
    pub(crate) fn embed(
        &self,
        device: &Device,
        config: &DataConfig,
        dataset: &Dataset,
        bar: &mut Bar,
    ) -> Result<PairFeatures, CliError> {
        let embedder = |model: &'_ Model| -> Views { model.views(config, dataset) };
        let mut features = PairFeatures::default();
        let both = self.models.len() == 1;
        let pairs = dataset.pairs();
        let has_space = |model: &Model| match model {
            Model::Own(trained) => trained.config.has_common_space(),
            Model::Published(_) => !model.reads_pairs(),
        };
        if let Some((model, _)) = self.models.first().filter(|(model, _)| has_space(model)) {
            let embedder = model.embedder(device, embedder(model));
            if embedder.tokenizer.is_some() {
                let texts: Vec<&str> = dataset
                    .samples
                    .iter()
                    .flat_map(|sample| sample.texts.iter().map(String::as_str))
                    .collect();
                let mut done = 0;
                let embedded = embedder.texts(&texts, false, &mut |more| {
                    done += more;
                    bar.show("texts", done, texts.len());
                })?;
                (features.text, features.text_width) = host(embedded.embeds)?;
            }
            if both && embedder.preprocess.is_some() {
                images(&embedder, dataset, &pairs, bar, &mut features)?;
            }
        }
        if let Some((model, _)) = self.models.get(1) {
            let embedder = model.embedder(device, embedder(model));
            images(&embedder, dataset, &pairs, bar, &mut features)?;
        }
        if both {
            features.compare();
        }
        match self.models.as_slice() {
            [(model, _)] => vectors(model, device, config, dataset, bar, features),
            _ => Ok(features),
        }
    }
}

/// Of towers that stand alone the vectors of pairs that they were trained on (`specs/itr.md` section 1.2), with the
/// cosines of `projected`; of models that read a text with its picture the vector of both; of every other model
/// `projected` itself.
fn vectors(
    model: &Model,
    device: &Device,
    config: &DataConfig,
    dataset: &Dataset,
    bar: &mut Bar,
    projected: PairFeatures,
) -> Result<PairFeatures, CliError> {
    let widths = match model {
        Model::Own(trained) if trained.config.is_towers_alone() => {
            Some(trained.config.stream_widths())
        }
        // One vector for both.
        Model::Own(trained) if !trained.config.sums_up_both() => None,
        Model::Published(_) if model.reads_pairs() => None,
        Model::Own(_) | Model::Published(_) => return Ok(projected),
    };
    let embedder = model.embedder(device, model.views(config, dataset));
    let texts: Vec<(usize, &str)> = dataset
        .samples
        .iter()
        .enumerate()
        .flat_map(|(sample, of)| of.texts.iter().map(move |text| (sample, text.as_str())))
        .collect();
    let mut done = 0;
    let pairs = embedder.pairs(dataset, &texts, &mut |more| {
        done += more;
        bar.show("pairs", done, texts.len());
    })?;
    let (values, width) = host(pairs)?;
    let [text_width, image_width] = widths.unwrap_or([width, 0]);
    let mut features = PairFeatures {
        text_width,
        image_width,
        joint: widths.is_none(),
        cosines: projected.cosines,
        ..PairFeatures::default()
    };
    for row in values.chunks_exact(width.max(1)) {
        let (text, image) = row.split_at(text_width.min(row.len()));
        features.text.extend_from_slice(text);
        features.image.extend_from_slice(image);
    }
    Ok(features)
}

/// Embeds each picture once and repeats its features for each of its texts.
fn images(
    embedder: &Embedder<'_>,
    dataset: &Dataset,
    pairs: &[(usize, usize)],
    bar: &mut Bar,
    features: &mut PairFeatures,
) -> Result<(), CliError> {
    let shown = dataset.shown(0..dataset.len());
    let mut done = 0;
    let embedded = embedder.images(dataset, &shown.first, false, &mut |more| {
        done += more;
        bar.show("pictures", done, shown.first.len());
    })?;
    let (values, width) = host(embedded.embeds)?;
    let of = |(sample, _): &(usize, usize)| {
        let row = shown.place.get(*sample)?;
        values.get(row * width..(row + 1) * width)
    };
    features.image = pairs.iter().filter_map(of).flatten().copied().collect();
    features.image_width = width;
    Ok(())
}

fn host(tensor: Tensor<2>) -> Result<(Vec<f32>, usize), CliError> {
    let width = tensor.dims()[1];
    Ok((embedder::host(tensor)?, width))
}

/// Reads features that `chiasm embed` wrote; pairs are found by the ids of their samples.
pub(crate) fn read_embeddings(path: &Path, dataset: &Dataset) -> Result<PairFeatures, CliError> {
    let wrong = |what: String| {
        CliError::new(
            format!("{}: {what}", path.display()),
            "write it with `chiasm embed` from the same data".to_owned(),
        )
    };
    let file = SafetensorsFile::open(Arc::new(ByteSource::open(path)?))?;
    let ids: Vec<String> = file
        .metadata()
        .get("ids")
        .and_then(|ids| serde_json::from_str(ids).ok())
        .ok_or_else(|| wrong("it does not list the `ids` of samples".to_owned()))?;
    let tensor = |name: &str| file.tensors().iter().find(|entry| entry.name == name);
    let table = |name: &str| -> Result<Option<(Vec<f32>, usize)>, CliError> {
        let Some(entry) = tensor(name) else {
            return Ok(None);
        };
        let [_, width] = entry.shape[..] else {
            return Err(wrong(format!("`{name}` is no table")));
        };
        Ok(Some((file.read(entry)?.to_f32()?, width)))
    };
    let of_text = match tensor("image_of_text") {
        Some(entry) => file.read(entry)?.to_i64()?,
        None => return Err(wrong("it has no `image_of_text`".to_owned())),
    };
    let mut texts_of: Vec<Vec<usize>> = vec![Vec::new(); ids.len()];
    for (text, sample) in of_text.iter().enumerate() {
        let own = usize::try_from(*sample).ok();
        match own.and_then(|sample| texts_of.get_mut(sample)) {
            Some(texts) => texts.push(text),
            None => return Err(wrong(format!("text {text} belongs to no sample"))),
        }
    }
    let places: std::collections::HashMap<&str, usize> = ids
        .iter()
        .enumerate()
        .map(|(place, id)| (id.as_str(), place))
        .collect();
    let (texts, images) = (table("text_embeds")?, table("image_embeds")?);
    let mut features = PairFeatures::default();
    for (sample, number) in dataset.pairs() {
        let id = dataset
            .samples
            .get(sample)
            .map_or("", |sample| sample.id.as_str());
        let place = places.get(id).copied();
        let text = place.and_then(|place| texts_of[place].get(number).copied());
        for (rows, row, into) in [
            (&texts, text, &mut features.text),
            (&images, place, &mut features.image),
        ] {
            let Some((values, width)) = rows else {
                continue;
            };
            let row = row.and_then(|row| values.get(row * width..(row + 1) * width));
            let row = row.ok_or_else(|| wrong(format!("it has no features of `{id}`")))?;
            into.extend_from_slice(row);
        }
    }
    features.text_width = texts.map_or(0, |(_, width)| width);
    features.image_width = images.map_or(0, |(_, width)| width);
    features.compare();
    Ok(features)
}

/// Reads a table of features, `[pairs, width]`, from a .npy file; `pairs` rows are wanted.
pub(crate) fn read_npy(path: &Path, pairs: usize) -> Result<(Vec<f32>, usize), CliError> {
    let wrong = |what: String, hint: Option<String>| {
        CliError::new(format!("{}: {what}", path.display()), hint)
    };
    let bytes = std::fs::read(path).map_err(|error| wrong(error.to_string(), None))?;
    let array = Npy::parse(&bytes).map_err(|error| wrong(error.to_string(), error.hint()))?;
    let [rows, width] = array.shape[..] else {
        return Err(wrong(
            format!("an array of {} axes, not 2", array.shape.len()),
            None,
        ));
    };
    if rows != pairs {
        return Err(wrong(
            format!("{rows} rows of features for {pairs} pairs"),
            Some("give a row for each text of the data, in its order".to_owned()),
        ));
    }
    let values = array
        .to_f32()
        .ok_or_else(|| wrong("its elements are no numbers".to_owned(), None))?;
    Ok((values, width))
}
