//! Models of other people, by the names and configuration files they are published with.
//!
//! One file a family: its configuration as `config.json` spells it, the module, its forward pass,
//! and the names its parameters have on the hub. What is the same for all of them is here: from a
//! state dict as a file holds it to a filled module and a report.

pub mod bert;
mod bert_family;
pub mod clip;
pub mod convert;
pub mod convolution;
pub mod encoder;
pub mod family;
pub mod joint;
mod keys;
pub mod lxmert;
pub mod mobilenet;
pub mod pairs;
pub mod positions;
pub mod resnet;
pub mod rosita;
pub mod scl;
pub mod vilt;
pub mod visual_bert;
pub mod vit;
pub mod yolo;

use std::collections::BTreeSet;

use burn::module::Module;
use burn::tensor::Device;
use serde_json::Value;

use crate::layers::Init;
use crate::names;
use crate::weights::{
    HostTensor, LoadReport, Shapes, StateDict, WeightError, load_state_dict, shapes,
};

/// A family of published models.
pub trait Published: Module + Sized {
    /// Sizes and switches.
    type Config: Clone;

    /// Reads a `config.json`.
    ///
    /// # Errors
    /// A key that is missing or has a value that this module cannot be built with, named.
    fn config(json: &Value) -> Result<Self::Config, WeightError>;

    /// The module with fresh weights.
    fn build(init: &Init, config: &Self::Config) -> Self;

    /// Today's published name of a name found in a file: prefixes of task models, names of old
    /// versions. `None`: no weight of this model and no loss either (index buffers, heads of tasks).
    fn canonical(found: &str) -> Option<String>;

    /// Published names of one of our parameters, in the order in which they are joined along the
    /// first axis. Empty: it has none.
    fn names(ours: &str) -> Vec<String>;

    /// What only the weights tell about the configuration, on published names: whether a part is
    /// there that not every file of the family has.
    fn fit(config: &mut Self::Config, found: &StateDict) {
        let _ = (config, found);
    }

    /// What names alone cannot do, on published names: position tables of another size, factors
    /// that are folded into a matrix. Returns what changed its shape.
    ///
    /// # Errors
    /// A tensor that cannot be made to fit.
    fn adapt(config: &Self::Config, state: &mut StateDict) -> Result<Vec<Reshaped>, WeightError> {
        let _ = (config, state);
        Ok(Vec::new())
    }
}

/// A tensor that was given another shape on the way in.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Reshaped {
    /// Published name.
    pub name: String,
    /// Shape in the file.
    pub from: Vec<usize>,
    /// Shape in the model.
    pub to: Vec<usize>,
}

/// Tensors under today's published names, and the names of those that do not matter.
fn canonical<P: Published>(found: StateDict) -> (StateDict, Vec<String>) {
    let mut ignored = Vec::new();
    let mut state = StateDict::new();
    for (name, tensor) in found {
        match P::canonical(&name) {
            Some(canonical) => {
                state.insert(canonical, tensor);
            }
            None => ignored.push(name),
        }
    }
    (state, ignored)
}

/// Builds a model and fills it from tensors as a file names them. The report speaks of published
/// names; whether something may be missing is for the caller to decide.
///
/// # Errors
/// A tensor whose shape fits nothing.
pub fn load<P: Published>(
    config: &P::Config,
    found: StateDict,
    device: &Device,
) -> Result<(P, LoadReport), WeightError> {
    let (state, ignored) = canonical::<P>(found);
    let mut config = config.clone();
    P::fit(&mut config, &state);
    // Lazy, so that a configuration that lies about sizes is caught by the tensors' shapes before
    // it costs memory.
    let fresh = P::build(&Init::new(0, 0.02, device).lazy(), &config);
    let (model, report) = fill_canonical(fresh, &config, state)?;
    Ok((model, LoadReport { ignored, ..report }))
}

/// As [`load`], into a model that exists: what is missing keeps its value.
///
/// # Errors
/// A tensor whose shape fits nothing.
pub fn fill<P: Published>(
    model: P,
    config: &P::Config,
    found: StateDict,
) -> Result<(P, LoadReport), WeightError> {
    let (state, ignored) = canonical::<P>(found);
    let (model, report) = fill_canonical(model, config, state)?;
    Ok((model, LoadReport { ignored, ..report }))
}

fn fill_canonical<P: Published>(
    model: P,
    config: &P::Config,
    mut state: StateDict,
) -> Result<(P, LoadReport), WeightError> {
    let reshaped = P::adapt(config, &mut state)?;
    let ours = names::from_published(&shapes(&model), &mut state, P::names);
    let published_name = |ours: String| match P::names(&ours) {
        names if names.is_empty() => vec![ours],
        names => names,
    };
    let (model, report) = load_state_dict(model, ours).map_err(|error| match error {
        WeightError::Shape {
            name,
            found,
            expected,
        } => WeightError::Shape {
            name: published_name(name).join(" + "),
            found,
            expected,
        },
        error => error,
    })?;
    let published = |list: Vec<String>| list.into_iter().flat_map(published_name).collect();
    Ok((
        model,
        LoadReport {
            matched: published(report.matched),
            missing: published(report.missing),
            unexpected: state.into_keys().collect(),
            ignored: Vec::new(),
            reshaped,
        },
    ))
}

/// Shapes of the tensors of a file by today's published names.
fn shapes_by<P: Published>(found: &StateDict) -> Shapes {
    found
        .iter()
        .filter_map(|(name, tensor)| Some((P::canonical(name)?, tensor.shape.clone())))
        .collect()
}

/// How many blocks are there, whose names are `prefix`, a number from 0 on, and a part.
fn count_layers(names: &Shapes, prefix: &str) -> usize {
    let number = |name: &String| name.strip_prefix(prefix)?.split_once('.')?.0.parse().ok();
    let numbers: BTreeSet<usize> = names.keys().filter_map(number).collect();
    numbers
        .into_iter()
        .zip(0..)
        .take_while(|(a, b)| a == b)
        .count()
}

/// Splits a tensor that a file holds joined along the first axis into the three that others hold.
fn unpack(state: &mut StateDict, joined: &str, parts: [String; 3]) -> Result<(), WeightError> {
    let Some(HostTensor { shape, values }) = state.remove(joined) else {
        return Ok(());
    };
    let rows = shape.first().copied().unwrap_or(0);
    if rows == 0 || !rows.is_multiple_of(parts.len()) || values.is_empty() {
        return Err(WeightError::Shape {
            name: joined.to_owned(),
            expected: vec![rows.next_multiple_of(parts.len()).max(parts.len())],
            found: shape,
        });
    }
    let mut part = shape;
    part[0] = rows / parts.len();
    let values = values.chunks_exact(values.len() / parts.len());
    for (name, values) in parts.into_iter().zip(values) {
        let (shape, values) = (part.clone(), values.to_vec());
        state.insert(name, HostTensor { shape, values });
    }
    Ok(())
}

/// Multiplies every row of a tensor by its factor: folds a scale that follows a linear map into it.
fn scale_rows(state: &mut StateDict, name: &str, factors: &HostTensor) -> Result<(), WeightError> {
    let Some(tensor) = state.get_mut(name) else {
        return Ok(());
    };
    let rows = factors.values.len();
    if rows == 0 || tensor.shape.first() != Some(&rows) {
        return Err(WeightError::Shape {
            name: name.to_owned(),
            found: tensor.shape.clone(),
            expected: vec![rows],
        });
    }
    let row = (tensor.values.len() / rows).max(1);
    for (row, factor) in tensor.values.chunks_mut(row).zip(&factors.values) {
        row.iter_mut().for_each(|value| *value *= factor);
    }
    Ok(())
}

/// Gives a matrix that a file holds as `[in, out]` the shape and the name it has in others.
fn turn(state: &mut StateDict, turned: &str, name: &str) {
    if let Some(tensor) = state.remove(turned) {
        state.insert(name.to_owned(), tensor.transposed());
    }
}
