//! AdamW and its published relatives over named parameters, with parameter groups.
//!
//! State is kept by parameter name, so it survives a checkpoint and does not depend on the order
//! in which a model is built.

use std::collections::BTreeMap;
use std::ops::Range;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Device, Tensor, TensorData};
use chiasm_nn::compute::is_fused;
use chiasm_nn::weights::{HostTensor, ParamPath, StateDict, edit_value, replace_value, to_host};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::adam::AdamStep;
use crate::gradients::GradientSum;

/// Which published variant of Adam.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AdamForm {
    /// PyTorch's AdamW: decay before the update, epsilon beside the corrected root.
    #[default]
    Adamw,
    /// Hugging Face's AdamW: decay after the update, epsilon beside the raw root (SCL).
    AdamwHf,
    /// BERT's Adam: no bias correction, decay inside the update (ROSITA pre-training).
    BertAdam,
}

/// `[[optimizer.groups]]`: parameters whose name contains one of `contains` learn at
/// `multiplier` times the base rate. The first group that fits counts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GroupConfig {
    /// Parts of parameter names.
    pub contains: Vec<String>,
    /// Factor of the base rate.
    pub multiplier: f64,
}

/// `[optimizer]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OptimizerConfig {
    /// Which variant. Default: `adamw`.
    pub form: AdamForm,
    /// Peak learning rate. Default: 5e-4.
    pub learning_rate: f64,
    /// Decay of the mean and of the mean square of gradients. Default: 0.9, 0.98.
    pub betas: [f64; 2],
    /// Added to the root of the mean square. Default: 1e-8.
    pub eps: f64,
    /// Share of a weight removed at rate 1. Default: 0.01.
    pub weight_decay: f64,
    /// Parameters whose name contains one of these do not decay. Default: biases, LayerNorms and
    /// the temperature.
    pub no_decay: Vec<String>,
    /// Parameters with a rate of their own. Default: none.
    pub groups: Vec<GroupConfig>,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self {
            form: AdamForm::Adamw,
            learning_rate: 5e-4,
            betas: [0.9, 0.98],
            eps: 1e-8,
            weight_decay: 0.01,
            no_decay: ["bias", "norm", "temperature"].map(str::to_owned).to_vec(),
            groups: Vec::new(),
        }
    }
}

/// Rate factor and decay of one parameter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GroupRule {
    /// Factor of the base learning rate.
    pub multiplier: f64,
    /// Weight decay.
    pub weight_decay: f64,
}

impl OptimizerConfig {
    /// The group of a parameter: every name has exactly one.
    #[must_use]
    pub fn rule(&self, name: &str) -> GroupRule {
        let fits = |patterns: &[String]| patterns.iter().any(|pattern| name.contains(pattern));
        GroupRule {
            multiplier: self
                .groups
                .iter()
                .find(|group| fits(&group.contains))
                .map_or(1.0, |group| group.multiplier),
            weight_decay: if fits(&self.no_decay) {
                0.0
            } else {
                self.weight_decay
            },
        }
    }
}

/// Running means of one parameter, flat.
#[derive(Clone, Debug)]
struct Moments {
    mean: Tensor<1>,
    square: Tensor<1>,
}

/// Running means of all parameters, each parameter's behind the other's.
#[derive(Clone, Debug, Default)]
struct FlatMoments {
    places: BTreeMap<String, Range<usize>>,
    mean: Vec<f32>,
    square: Vec<f32>,
}

impl FlatMoments {
    /// Makes room for parameters of these lengths at once: a buffer that grows as they come would
    /// end up with room for twice as many.
    fn reserve<'a>(&mut self, parameters: impl Iterator<Item = (&'a String, usize)>) {
        let new = parameters.filter(|(name, _)| !self.places.contains_key(*name));
        let count = new.map(|(_, len)| len).sum();
        self.mean.reserve_exact(count);
        self.square.reserve_exact(count);
    }

    /// Where a parameter of `len` numbers has its means; zeros at first.
    fn place(&mut self, name: &str, len: usize) -> Range<usize> {
        if let Some(place) = self.places.get(name) {
            return place.clone();
        }
        let place = self.mean.len()..self.mean.len() + len;
        self.mean.resize(place.end, 0.0);
        self.square.resize(place.end, 0.0);
        self.places.insert(name.to_owned(), place.clone());
        place
    }
}

/// The running means, where gradients are: in this process's memory or on a device.
#[derive(Clone, Debug, Default)]
struct State {
    flat: FlatMoments,
    tensors: BTreeMap<String, Moments>,
}

/// The optimiser and its state.
#[derive(Clone, Debug)]
pub struct Optimizer {
    config: OptimizerConfig,
    state: State,
    /// Updates made so far.
    steps: u64,
}

impl Optimizer {
    /// An optimiser that has seen nothing.
    #[must_use]
    pub fn new(config: OptimizerConfig) -> Self {
        Self {
            config,
            state: State::default(),
            steps: 0,
        }
    }

    /// Its settings.
    #[must_use]
    pub fn config(&self) -> &OptimizerConfig {
        &self.config
    }

    /// Counts a step; call once before the [`Self::update`]s of a step.
    pub fn begin_step(&mut self) {
        self.steps += 1;
    }

    /// New value of one parameter by plain tensor operations, all tensors flat, `[n]`.
    ///
    /// `rate` is the scheduled rate of this parameter's group.
    #[must_use]
    pub fn update(
        &mut self,
        name: &str,
        value: Tensor<1>,
        gradient: Tensor<1>,
        rate: f64,
    ) -> Tensor<1> {
        let [beta1, beta2] = self.config.betas;
        let eps = self.config.eps;
        let decay = self.config.rule(name).weight_decay;
        let (mean, square) = match self.state.tensors.remove(name) {
            Some(Moments { mean, square }) => (
                mean.mul_scalar(beta1) + gradient.clone().mul_scalar(1.0 - beta1),
                square.mul_scalar(beta2) + gradient.square().mul_scalar(1.0 - beta2),
            ),
            None => (
                gradient.clone().mul_scalar(1.0 - beta1),
                gradient.square().mul_scalar(1.0 - beta2),
            ),
        };
        let kept = Moments {
            mean: mean.clone(),
            square: square.clone(),
        };
        self.state.tensors.insert(name.to_owned(), kept);
        let steps = self.steps.max(1) as f64;
        let correction1 = 1.0 - beta1.powf(steps);
        let correction2 = 1.0 - beta2.powf(steps);
        match self.config.form {
            AdamForm::Adamw => {
                let root = square.div_scalar(correction2).sqrt().add_scalar(eps);
                let value = decayed(value, rate * decay);
                value - (mean / root).mul_scalar(rate / correction1)
            }
            AdamForm::AdamwHf => {
                let root = square.sqrt().add_scalar(eps);
                let size = rate * correction2.sqrt() / correction1;
                decayed(value - (mean / root).mul_scalar(size), rate * decay)
            }
            AdamForm::BertAdam => {
                let root = square.sqrt().add_scalar(eps);
                let step = mean / root + value.clone().mul_scalar(decay);
                value - step.mul_scalar(rate)
            }
        }
    }

    /// Updates a parameter in this process's memory, in one pass over it.
    ///
    /// `rate` is the scheduled rate of this parameter's group; the gradient is first multiplied by
    /// `gradient_scale`.
    pub fn update_flat(
        &mut self,
        name: &str,
        value: &mut [f32],
        gradient: &[f32],
        rate: f64,
        gradient_scale: f64,
    ) {
        let [beta1, beta2] = self.config.betas;
        let step = AdamStep {
            form: self.config.form,
            beta1,
            beta2,
            eps: self.config.eps,
            rate,
            decay: self.config.rule(name).weight_decay,
            step: self.steps,
            gradient_scale,
        };
        let flat = &mut self.state.flat;
        let place = flat.place(name, value.len());
        let (mean, square) = (&mut flat.mean[place.clone()], &mut flat.square[place]);
        step.apply(value, gradient, mean, square);
    }

    /// Updates every parameter that has a gradient. `rate` is the scheduled base rate, which
    /// groups multiply; gradients are first multiplied by `gradient_scale`.
    #[must_use]
    pub fn step<M: Module>(
        &mut self,
        module: M,
        gradients: GradientSum,
        rate: f64,
        gradient_scale: f64,
    ) -> M {
        struct Apply<'a> {
            path: ParamPath,
            optimizer: &'a mut Optimizer,
            gradients: GradientSum,
            rate: f64,
            gradient_scale: f64,
        }
        impl ModuleMapper for Apply<'_> {
            fn enter_module(&mut self, name: &str, container: &str) {
                self.path.enter(name, container);
            }
            fn exit_module(&mut self, _: &str, _: &str) {
                self.path.exit();
            }
            fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
                let name = self.path.name();
                let rate = self.rate * self.optimizer.config.rule(&name).multiplier;
                match &mut self.gradients {
                    GradientSum::Host(gradients) => {
                        let Some(gradient) = gradients.remove(&name) else {
                            return param;
                        };
                        let scale = self.gradient_scale;
                        edit_value(param, |value| {
                            self.optimizer
                                .update_flat(&name, value, &gradient, rate, scale);
                        })
                    }
                    GradientSum::Tensors(gradients) => {
                        let Some(mut gradient) = gradients.remove(&name) else {
                            return param;
                        };
                        if self.gradient_scale != 1.0 {
                            gradient = gradient.mul_scalar(self.gradient_scale);
                        }
                        let value = param.val().inner();
                        let shape = value.dims();
                        let flat = value.reshape([shape.iter().product::<usize>()]);
                        let flat = self.optimizer.update(&name, flat, gradient, rate);
                        replace_value(param, flat.reshape(shape))
                    }
                }
            }
        }
        self.begin_step();
        if let GradientSum::Host(gradients) = &gradients {
            let lengths = gradients.iter().map(|(name, values)| (name, values.len()));
            self.state.flat.reserve(lengths);
        }
        module.map(&mut Apply {
            path: ParamPath::default(),
            optimizer: self,
            gradients,
            rate,
            gradient_scale,
        })
    }

    /// Forgets the running means of the parameters whose name begins so.
    pub fn forget(&mut self, prefix: &str) {
        self.state
            .tensors
            .retain(|name, _| !name.starts_with(prefix));
        let flat = &mut self.state.flat;
        for (_, place) in flat
            .places
            .iter()
            .filter(|(name, _)| name.starts_with(prefix))
        {
            for means in [&mut flat.mean, &mut flat.square] {
                if let Some(means) = means.get_mut(place.clone()) {
                    means.fill(0.0);
                }
            }
        }
    }

    /// State for a checkpoint: running means by parameter, flat, in memory layout.
    #[must_use]
    pub fn state(&self) -> (StateDict, u64) {
        let mut state = StateDict::new();
        let mut add = |name: &str, mean: HostTensor, square: HostTensor| {
            state.insert(format!("mean.{name}"), mean);
            state.insert(format!("square.{name}"), square);
        };
        for (name, Moments { mean, square }) in &self.state.tensors {
            add(
                name,
                to_host(mean.clone(), false),
                to_host(square.clone(), false),
            );
        }
        let flat = &self.state.flat;
        for (name, place) in &flat.places {
            let part = |all: &[f32]| HostTensor {
                shape: vec![place.len()],
                values: all[place.clone()].to_vec(),
            };
            add(name, part(&flat.mean), part(&flat.square));
        }
        (state, self.steps)
    }

    /// Puts a saved state back, for parameters on `device`.
    pub fn restore(&mut self, state: StateDict, steps: u64, device: &Device) {
        let (mut means, mut squares) = (BTreeMap::new(), BTreeMap::new());
        for (name, host) in state {
            if let Some(name) = name.strip_prefix("mean.") {
                means.insert(name.to_owned(), host.values);
            } else if let Some(name) = name.strip_prefix("square.") {
                squares.insert(name.to_owned(), host.values);
            }
        }
        self.steps = steps;
        self.state = State::default();
        let tensor = |values: Vec<f32>| {
            let shape = [values.len()];
            Tensor::<1>::from_data(TensorData::new(values, shape), device)
        };
        if is_fused(device) {
            let lengths = means.iter().map(|(name, values)| (name, values.len()));
            self.state.flat.reserve(lengths);
        }
        for (name, mean) in means {
            let Some(square) = squares
                .remove(&name)
                .filter(|other| other.len() == mean.len())
            else {
                continue;
            };
            if is_fused(device) {
                let flat = &mut self.state.flat;
                let place = flat.place(&name, mean.len());
                flat.mean[place.clone()].copy_from_slice(&mean);
                flat.square[place].copy_from_slice(&square);
            } else {
                let moments = Moments {
                    mean: tensor(mean),
                    square: tensor(square),
                };
                self.state.tensors.insert(name, moments);
            }
        }
    }
}

fn decayed(value: Tensor<1>, share: f64) -> Tensor<1> {
    if share == 0.0 {
        value
    } else {
        value.mul_scalar(1.0 - share)
    }
}
