//! The one switch between the two ways a layer is computed.
//!
//! On a CPU, fused operations with backward passes of their own do the work of several tensor
//! operations each. The same layers made of plain tensor operations are the reference that the
//! fused ones are tested against, and what runs on every GPU.

use std::cell::Cell;
use std::sync::OnceLock;

use burn::backend::DispatchDevice;
use burn::tensor::{Device, GradientCheckpointingStrategy, Tensor};
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

/// Environment variable that chooses for the whole process: `fused` or `plain`.
pub const ENVIRONMENT: &str = "CHIASM_KERNELS";

static PROCESS: OnceLock<Kernels> = OnceLock::new();

thread_local! {
    static HERE: Cell<Option<Kernels>> = const { Cell::new(None) };
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
