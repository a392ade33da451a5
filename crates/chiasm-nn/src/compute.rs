//! The one switch between the two ways a layer is computed.
//!
//! On a CPU, fused operations with backward passes of their own do the work of several tensor
//! operations each. The same layers made of plain tensor operations are the reference that the
//! fused ones are tested against, and what runs on every GPU. Plain ones can multiply matrices in 16
//! bits, which GPUs do many times faster than in 32.

use std::cell::Cell;
use std::sync::OnceLock;

use burn::backend::DispatchDevice;
use burn::tensor::module;
use burn::tensor::{Device, FloatDType, GradientCheckpointingStrategy, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How layers are computed where there is a choice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kernels {
    /// Fused operations, on a CPU; plain ones elsewhere.
    #[default]
    Fused,
    /// Plain tensor operations everywhere.
    Plain,
}

/// The numbers in which plain operations multiply the matrices of layers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Products {
    /// As they are.
    #[default]
    F32,
    /// Mixed precision: both sides rounded to 16 bits with the range of `f32`. Weights themselves, softmax,
    /// norms, residuals and losses stay `f32`, and so does every sum but that of a product, which is
    /// rounded to 16 bits once it is complete. The gradients of a product are products likewise.
    Bf16,
}

/// Environment variable that chooses for the whole process: `fused` or `plain`.
pub const ENVIRONMENT: &str = "CHIASM_KERNELS";

static PROCESS: OnceLock<Kernels> = OnceLock::new();

static PRODUCTS: OnceLock<Products> = OnceLock::new();

thread_local! {
    static HERE: Cell<Option<Kernels>> = const { Cell::new(None) };
    static PRODUCTS_HERE: Cell<Option<Products>> = const { Cell::new(None) };
}

/// Chooses for the whole process; a later choice, or one after the first layer ran, has no effect.
pub fn choose(kernels: Kernels) {
    PROCESS.get_or_init(|| kernels);
}

/// Chooses for what `body` computes on this thread; both ways can so be compared in one process.
pub fn with<R>(kernels: Kernels, body: impl FnOnce() -> R) -> R {
    let before = HERE.replace(Some(kernels));
    let result = body();
    HERE.set(before);
    result
}

/// What is chosen here.
#[must_use]
pub fn chosen() -> Kernels {
    HERE.get().unwrap_or_else(|| {
        *PROCESS.get_or_init(|| match std::env::var(ENVIRONMENT).as_deref() {
            Ok("plain") => Kernels::Plain,
            _ => Kernels::Fused,
        })
    })
}

/// Chooses the numbers of products for the whole process; the first choice counts.
pub fn choose_products(products: Products) {
    PRODUCTS.get_or_init(|| products);
}

/// Chooses the numbers of products for what `body` computes on this thread.
pub fn with_products<R>(products: Products, body: impl FnOnce() -> R) -> R {
    let before = PRODUCTS_HERE.replace(Some(products));
    let result = body();
    PRODUCTS_HERE.set(before);
    result
}

fn products() -> Products {
    let of_process = || PRODUCTS.get().copied().unwrap_or_default();
    PRODUCTS_HERE.get().unwrap_or_else(of_process)
}

/// `left right` by plain operations, in the numbers that were chosen for products.
pub(crate) fn product<const D: usize>(left: Tensor<D>, right: Tensor<D>) -> Tensor<D> {
    match products() {
        Products::F32 => left.matmul(right),
        Products::Bf16 => {
            let [left, right] = [left, right].map(|side| side.cast(FloatDType::BF16));
            left.matmul(right).cast(FloatDType::F32)
        }
    }
}

/// `input weight + bias` by plain operations, the product as in [`product`].
///
/// # Shapes
/// - input: `[.., in]`, weight: `[in, out]`, bias: `[out]`
/// - output: `[.., out]`
pub(crate) fn linear<const D: usize>(
    input: Tensor<D>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
) -> Tensor<D> {
    if products() == Products::F32 {
        return module::linear(input, weight, bias);
    }
    let half = FloatDType::BF16;
    let mapped = module::linear(input.cast(half), weight.cast(half), None).cast(FloatDType::F32);
    match bias {
        Some(bias) => mapped + bias.unsqueeze(),
        None => mapped,
    }
}

/// True when layers on `device` are to be computed by fused operations.
#[must_use]
pub fn is_fused(device: &Device) -> bool {
    chosen() == Kernels::Fused && is_cpu(device)
}

/// What a tensor has to do with gradients: nothing, or a part in a graph, with or without gradient
/// checkpointing. Tensors of one operation must agree in that.
#[derive(Clone, Copy, Debug)]
pub struct Autograd(Option<GradientCheckpointingStrategy>);

impl Autograd {
    /// That of a tensor.
    #[must_use]
    pub fn of<const D: usize>(tensor: &Tensor<D>) -> Self {
        Self(tensor.gradient_checkpointing_strategy())
    }

    /// Gives a value from outside of any graph the same part, as a constant.
    #[must_use]
    pub fn constant<const D: usize>(self, value: Tensor<D>) -> Tensor<D> {
        match self.0 {
            Some(strategy) => {
                Tensor::from_inner(value).with_gradient_checkpointing_strategy(strategy)
            }
            None => value,
        }
    }
}

/// True when the tensors of `device` are slices of this process's memory.
pub(crate) fn is_cpu(device: &Device) -> bool {
    let inner = device.clone().without_autodiff();
    matches!(inner.as_dispatch(), DispatchDevice::Flex(_))
}
