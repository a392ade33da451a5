//! Gradients by parameter name: collected, added up over micro-batches and measured.

use std::collections::BTreeMap;

use burn::module::Module;
use burn::tensor::{Device, Gradients, Tensor, TensorData};
use chiasm_nn::compute::is_fused;
use chiasm_nn::model::Stage;
use chiasm_nn::weights::{take_gradients, to_host};

use crate::adam::squared_norm;

/// The sum of the gradients of a step, by parameter, flat, in memory layout. Parameters without a
/// gradient are absent.
#[derive(Clone, Debug)]
pub enum GradientSum {
    /// In this process's memory, where the backward pass left them.
    Host(BTreeMap<String, Vec<f32>>),
    /// On the parameters' device.
    Tensors(BTreeMap<String, Tensor<1>>),
}

impl GradientSum {
    /// Of parameters on `device`; nothing yet.
    #[must_use]
    pub fn new(device: &Device) -> Self {
        if is_fused(device) {
            Self::Host(BTreeMap::new())
        } else {
            Self::Tensors(BTreeMap::new())
        }
    }

    /// Gradients in memory, of parameters on `device`.
    #[must_use]
    pub(crate) fn of_host(values: BTreeMap<String, Vec<f32>>, device: &Device) -> Self {
        match is_fused(device) {
            true => Self::Host(values),
            false => Self::Tensors(Self::Host(values).into_tensors(device)),
        }
    }

    /// The gradients on `device`.
    #[must_use]
    pub(crate) fn into_tensors(self, device: &Device) -> BTreeMap<String, Tensor<1>> {
        let tensor = |values: Vec<f32>| {
            let count = values.len();
            Tensor::from_data(TensorData::new(values, [count]), device)
        };
        match self {
            Self::Host(values) => values
                .into_iter()
                .map(|(name, values)| (name, tensor(values)))
                .collect(),
            Self::Tensors(tensors) => tensors,
        }
    }

    /// The gradients in memory.
    #[must_use]
    pub(crate) fn into_host(self) -> BTreeMap<String, Vec<f32>> {
        match self {
            Self::Host(values) => values,
            Self::Tensors(tensors) => tensors
                .into_iter()
                .map(|(name, tensor)| (name, to_host(tensor, false).values))
                .collect(),
        }
    }

    /// Takes the gradients of a module's parameters out of a backward pass and adds them.
    pub fn collect<M: Module>(&mut self, module: &M, gradients: &mut Gradients) {
        take_gradients(module, gradients, |path, _, gradient| {
            self.add(path.name(), gradient);
        });
    }

    /// Takes out those of a stage of the backward pass, and of what came before it.
    #[must_use]
    pub(crate) fn take_through(&mut self, stage: Stage) -> Self {
        let is_done = |name: &String| Stage::of(name) <= stage;
        match self {
            Self::Host(sum) => Self::Host(sum.extract_if(.., |name, _| is_done(name)).collect()),
            Self::Tensors(sum) => {
                Self::Tensors(sum.extract_if(.., |name, _| is_done(name)).collect())
            }
        }
    }

    /// Adds to one parameter's gradient, `[n]`.
    pub fn add(&mut self, name: String, gradient: Tensor<1>) {
        match self {
            Self::Host(sum) => {
                let values = to_host(gradient, false).values;
                if let Some(present) = sum.get_mut(&name) {
                    for (sum, new) in present.iter_mut().zip(values) {
                        *sum += new;
                    }
                } else {
                    sum.insert(name, values);
                }
            }
            Self::Tensors(sum) => {
                let total = match sum.remove(&name) {
                    Some(present) => present + gradient,
                    None => gradient,
                };
                sum.insert(name, total);
            }
        }
    }

    /// Euclidean norm over all gradients together.
    #[must_use]
    pub fn norm(&self) -> f64 {
        match self {
            Self::Host(sum) => sum
                .values()
                .map(|gradient| squared_norm(gradient))
                .sum::<f64>()
                .sqrt(),
            Self::Tensors(sum) => {
                let squares: Vec<Tensor<1>> = sum
                    .values()
                    .map(|gradient| gradient.clone().square().sum())
                    .collect();
                if squares.is_empty() {
                    return 0.0;
                }
                f64::from(Tensor::cat(squares, 0).sum().sqrt().into_scalar::<f32>())
            }
        }
    }
}

/// What gradients of this norm are multiplied by so that it is at most `limit`; as PyTorch's
/// `clip_grad_norm_`, with 1e-6 in the divisor.
#[must_use]
pub fn clip_factor(norm: f64, limit: f64) -> f64 {
    if norm > limit {
        limit / (norm + 1e-6)
    } else {
        1.0
    }
}
