//! The smallest pieces: linear map, LayerNorm, embedding table, activation, and how their weights
//! start.
//!
//! They are ours rather than burn-nn's for two reasons: initial weights come from our own
//! counter-based stream, so they do not depend on the device, and the names and layouts are those
//! of PyTorch state dicts.

use std::cell::Cell;

use burn::backend::DispatchTensor;
use burn::module::{Module, Param, ParamId};
use burn::tensor::activation::{gelu, gelu_approximate, relu, sigmoid};
use burn::tensor::{Device, Tensor, TensorData, module};
use chiasm_data::rng;

use crate::compute::{is_fused, linear};
use crate::config::Activation;
use crate::dropout::{drop_from, next_site};
use crate::kernels::{self, Dropout, Norm};
use crate::tokens::{Tokens, indices};

/// Draws initial weights: the n-th parameter of a model is a pure function of (seed, n).
#[derive(Debug)]
pub struct Init {
    seed: u64,
    std: f64,
    next: Cell<u64>,
    device: Device,
    lazy: bool,
}

impl Init {
    /// Starts the stream of initial weights, of standard deviation `std`, for one model on
    /// `device`.
    #[must_use]
    pub fn new(seed: u64, std: f64, device: &Device) -> Self {
        Self {
            seed,
            std,
            next: Cell::new(0),
            device: device.clone(),
            lazy: false,
        }
    }

    /// The same weights, drawn when they are first asked for: a model that is about to be loaded
    /// never draws them, and has no memory for them before their shapes were compared with the
    /// file's.
    #[must_use]
    pub fn lazy(mut self) -> Self {
        self.lazy = true;
        self
    }

    /// A parameter drawn from a normal distribution around 0.
    #[must_use]
    pub fn normal<const D: usize>(&self, shape: [usize; D]) -> Param<Tensor<D>> {
        let (seed, std) = (self.seed, self.std);
        let index = self.next.get();
        self.next.set(index + 1);
        self.parameter(shape, move |count| {
            let mut stream = rng::stream(seed, "initial weights", &[index]);
            let mut values = Vec::with_capacity(count + 1);
            // Box-Muller: two uniform draws give two normal ones.
            while values.len() < count {
                let radius = (-2.0 * (1.0 - rng::unit_f64(&mut stream)).ln()).sqrt();
                let angle = std::f64::consts::TAU * rng::unit_f64(&mut stream);
                values.push((radius * angle.cos() * std) as f32);
                values.push((radius * angle.sin() * std) as f32);
            }
            values.truncate(count);
            values
        })
    }

    /// A parameter of one repeated value.
    #[must_use]
    pub fn constant<const D: usize>(&self, shape: [usize; D], value: f32) -> Param<Tensor<D>> {
        self.parameter(shape, move |count| vec![value; count])
    }

    fn parameter<const D: usize>(
        &self,
        shape: [usize; D],
        values: impl FnOnce(usize) -> Vec<f32> + Send + Sync + 'static,
    ) -> Param<Tensor<D>> {
        let data = move || TensorData::new(values(shape.iter().product()), shape);
        if !self.lazy {
            return Param::from_data(data(), &self.device);
        }
        let start = move |device: &Device, tracked: bool| {
            Tensor::from_data(data(), device).set_require_grad(tracked)
        };
        let device = self.device.clone();
        Param::uninitialized(ParamId::new(), start, device, true, shape.into())
    }
}

/// `y = x W + b`.
#[derive(Module, Debug)]
pub struct Linear {
    /// `[in, out]`; saved transposed, `[out, in]`, as PyTorch does.
    pub weight: Param<Tensor<2>>,
    /// `[out]`.
    pub bias: Option<Param<Tensor<1>>>,
}

impl Linear {
    /// Drawn weights, bias 0.
    #[must_use]
    pub fn new(init: &Init, input: usize, output: usize) -> Self {
        Self {
            weight: init.normal([input, output]),
            bias: Some(init.constant([output], 0.0)),
        }
    }

    /// Drawn weights, no bias.
    #[must_use]
    pub fn without_bias(init: &Init, input: usize, output: usize) -> Self {
        Self {
            weight: init.normal([input, output]),
            bias: None,
        }
    }

    /// # Shapes
    /// - input: `[.., in]`
    /// - output: `[.., out]`
    #[must_use]
    pub fn forward<const D: usize>(&self, input: Tensor<D>) -> Tensor<D> {
        let bias = self.bias.as_ref().map(Param::val);
        if !is_fused(&input.device()) {
            return linear(input, self.weight.val(), bias);
        }
        let [width, output] = self.weight.dims();
        let operation = kernels::Linear {
            input: width,
            output,
        };
        let mut shape = input.dims();
        shape[D - 1] = output;
        let (input, weight) = (input.into_dispatch(), self.weight.val().into_dispatch());
        match bias {
            Some(bias) => kernels::apply(operation, [input, weight, bias.into_dispatch()], shape),
            None => kernels::apply(operation, [input, weight], shape),
        }
    }

    /// Weight and bias; zeros stand in for a bias there is not.
    pub(crate) fn values(&self) -> (Tensor<2>, Tensor<1>) {
        let weight = self.weight.val();
        let bias = match &self.bias {
            Some(bias) => bias.val(),
            None => Tensor::zeros([weight.dims()[1]], &weight.device()),
        };
        (weight, bias)
    }

    /// [`Self::values`] for a fused operation.
    pub(crate) fn operands(&self) -> [DispatchTensor; 2] {
        let (weight, bias) = self.values();
        [weight.into_dispatch(), bias.into_dispatch()]
    }
}

/// Normalisation over the last axis, with gain and bias.
#[derive(Module, Debug)]
pub struct LayerNorm {
    /// Gain, `[width]`.
    pub weight: Param<Tensor<1>>,
    /// Bias, `[width]`.
    pub bias: Param<Tensor<1>>,
    #[module(skip)]
    eps: f64,
}

impl LayerNorm {
    /// Gain 1, bias 0.
    #[must_use]
    pub fn new(init: &Init, width: usize, eps: f64) -> Self {
        Self {
            weight: init.constant([width], 1.0),
            bias: init.constant([width], 0.0),
            eps,
        }
    }

    /// # Shapes
    /// - input and output: `[.., width]`
    #[must_use]
    pub fn forward<const D: usize>(&self, input: Tensor<D>) -> Tensor<D> {
        if !is_fused(&input.device()) {
            return module::layer_norm(input, self.weight.val(), Some(self.bias.val()), self.eps);
        }
        let shape = input.dims();
        let operation = kernels::LayerNorm {
            width: shape[D - 1],
            eps: self.eps,
        };
        let [gain, bias] = self.operands();
        kernels::apply(operation, [input.into_dispatch(), gain, bias], shape)
    }

    /// Gain and bias for a fused operation.
    pub(crate) fn operands(&self) -> [DispatchTensor; 2] {
        [
            self.weight.val().into_dispatch(),
            self.bias.val().into_dispatch(),
        ]
    }

    /// Added to the variance.
    pub(crate) fn eps(&self) -> f64 {
        self.eps
    }
}

impl Norm {
    /// A sub-layer of plain operations: `body` with its normalisation and its residual.
    pub(crate) fn residual(
        self,
        rows: Tensor<2>,
        norm: &LayerNorm,
        body: impl FnOnce(Tensor<2>) -> Tensor<2>,
    ) -> Tensor<2> {
        match self {
            Self::Before => rows.clone() + body(norm.forward(rows)),
            Self::After => norm.forward(rows.clone() + body(rows)),
        }
    }
}

/// A table with one learned row an id.
#[derive(Module, Debug)]
pub struct Embedding {
    /// `[rows, width]`.
    pub weight: Param<Tensor<2>>,
}

impl Embedding {
    /// Drawn rows.
    #[must_use]
    pub fn new(init: &Init, rows: usize, width: usize) -> Self {
        Self {
            weight: init.normal([rows, width]),
        }
    }

    /// # Shapes
    /// - output: `[ids, width]`
    #[must_use]
    pub fn forward(&self, ids: &[u32]) -> Tensor<2> {
        let table = self.weight.val();
        let ids = ids.iter().map(|id| i64::from(*id)).collect();
        let device = table.device();
        table.select(0, indices(ids, &device))
    }

    /// One row, `[1, width]`, ready to be added to any rows.
    #[must_use]
    pub fn row(&self, index: usize) -> Tensor<2> {
        self.weight.val().narrow(0, index, 1)
    }
}

/// Smallest norm a vector is divided by.
const MIN_NORM: f64 = 1e-8;

/// Scales every row to length 1; a row of zeros stays finite, in value and in gradient.
///
/// # Shapes
/// - input and output: `[batch, width]`
#[must_use]
pub fn normalize(rows: Tensor<2>) -> Tensor<2> {
    let squared = rows.clone().square().sum_dim(1);
    rows / squared.clamp_min(MIN_NORM * MIN_NORM).sqrt()
}

/// Applies `activation` element by element.
#[must_use]
pub fn activate<const D: usize>(activation: Activation, input: Tensor<D>) -> Tensor<D> {
    match activation {
        Activation::Gelu => gelu(input),
        Activation::QuickGelu => input.clone() * sigmoid(input * 1.702),
        Activation::GeluTanh => gelu_approximate(input),
        Activation::Relu => relu(input),
    }
}

/// Linear, activation, linear: the position-wise sub-layer.
#[derive(Module, Debug)]
pub struct FeedForward {
    /// `[width, intermediate]`.
    pub up: Linear,
    /// `[intermediate, width]`.
    pub down: Linear,
    #[module(skip)]
    activation: Activation,
    #[module(skip)]
    dropout: f64,
}

impl FeedForward {
    /// Both maps with their default start; `dropout` acts before the residual.
    #[must_use]
    pub fn new(
        init: &Init,
        width: usize,
        intermediate: usize,
        activation: Activation,
        dropout: f64,
    ) -> Self {
        Self {
            up: Linear::new(init, width, intermediate),
            down: Linear::new(init, intermediate, width),
            activation,
            dropout,
        }
    }

    /// The sub-layer, with `norm` before it or after its residual.
    #[must_use]
    pub(crate) fn sub_layer(&self, input: Tokens, norm: &LayerNorm, place: Norm) -> Tokens {
        let device = input.rows.device();
        let dropout = next_site(self.dropout, &device);
        let Tokens { rows, spans } = input;
        if is_fused(&device) {
            let [tokens, width] = rows.dims();
            let operation = kernels::FeedForward {
                width,
                intermediate: self.up.weight.dims()[1],
                activation: self.activation,
                norm: place,
                eps: norm.eps(),
                dropout,
            };
            let [gain, bias] = norm.operands();
            let [up, up_bias] = self.up.operands();
            let [down, down_bias] = self.down.operands();
            let input = rows.into_dispatch();
            let inputs = [input, gain, bias, up, up_bias, down, down_bias];
            let rows = kernels::apply(operation, inputs, [tokens, width]);
            return Tokens { rows, spans };
        }
        let rows = place.residual(rows, norm, |rows| {
            let hidden = activate(self.activation, self.up.forward(rows));
            drop_rows(dropout.as_ref(), self.down.forward(hidden))
        });
        Tokens { rows, spans }
    }
}

/// Drops elements of token features, `[tokens, width]`.
pub(crate) fn drop_rows(site: Option<&Dropout>, rows: Tensor<2>) -> Tensor<2> {
    let tokens = rows.dims()[0] as u64;
    drop_from(site, rows, 0..tokens)
}
