//! Models of other people, by the names and configuration files they are published with.
//!
//! One file a family: its configuration as `config.json` spells it, the module, its forward pass,
//! and the names its parameters have on the hub. What is the same for all of them is here: from a
//! state dict as a file holds it to a filled module and a report.

pub mod bert;
pub mod convolution;
mod keys;
pub mod mobilenet;
pub mod positions;
pub mod resnet;
pub mod rosita;

use burn::module::Module;
use burn::tensor::Device;
use serde_json::Value;

use crate::layers::Init;
use crate::names;
use crate::weights::{LoadReport, StateDict, WeightError, load_state_dict, shapes};

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
    let (mut state, ignored) = canonical::<P>(found);
    let mut config = config.clone();
    P::fit(&mut config, &state);
    let reshaped = P::adapt(&config, &mut state)?;
    // Lazy, so that a configuration that lies about sizes is caught by the tensors' shapes before
    // it costs memory.
    let fresh = P::build(&Init::new(0, 0.02, device).lazy(), &config);
    let ours = names::from_published(&shapes(&fresh), &mut state, P::names);
    let published_name = |ours: String| match P::names(&ours) {
        names if names.is_empty() => vec![ours],
        names => names,
    };
    let (model, report) = load_state_dict(fresh, ours).map_err(|error| match error {
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
            ignored,
            reshaped,
        },
    ))
}
