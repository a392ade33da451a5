//! Any [`Operation`] as an operation of the tensor framework, with its backward pass.
//!
//! On a device with gradient checkpointing, operations that say so keep their inputs alone, and their
//! backward pass begins with [`Operation::recompute`]. Inside of one operation, because a graph of its own
//! would have to run while the framework walks the outer one.

use std::any::TypeId;

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::{BalancedCheckpointing, CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{
    Autodiff, Backend, BackendTensor, Dispatch, DispatchAutodiffContext, DispatchTensor,
    DispatchTensorKind, ExtensionType, Flex, backend_extension,
};
use burn::tensor::{Tensor, TensorData};

use super::gemm;
use super::operation::Operation;
use crate::packed::Precision;

/// A tensor in this process's memory.
type HostTensor = FloatTensor<Flex>;

/// Runs an operation on tensors of a CPU device; `shape` is that of the result.
///
/// Inputs of any rank come as [`DispatchTensor`]s, dense or not.
///
/// # Panics
/// If the tensors are not on the CPU or not f32: the caller has asked
/// [`compute::is_fused`](crate::compute) before.
pub(crate) fn apply<const N: usize, const D: usize, O: Operation<N>>(
    operation: O,
    inputs: [DispatchTensor; N],
    shape: [usize; D],
) -> Tensor<D> {
    let inputs = Inputs(Vec::from(inputs));
    Tensor::from_dispatch(Dispatch::fused::<N, O>(inputs, operation, shape.to_vec()))
}

/// Changes the values of a tensor of a CPU device where they lie; a tensor that something else
/// still holds, or that is a view, is copied first.
pub(crate) fn edit<const D: usize>(value: Tensor<D>, edit: impl FnOnce(&mut [f32])) -> Tensor<D> {
    Tensor::from_dispatch(Dispatch::edit(value.into_dispatch(), edit))
}

/// A matrix of weights whose packed form is kept as long as this lives: it holds the tensor, so that its values neither
/// move nor change.
pub(crate) struct Held {
    tensor: HostTensor,
}

impl Held {
    /// Holds a tensor; `None` of one that is not on the CPU, or whose values do not lie in one piece.
    pub(crate) fn new(tensor: DispatchTensor, precision: Precision) -> Option<Self> {
        let DispatchTensorKind::Flex(BackendTensor::Float(tensor)) = tensor.kind else {
            return None;
        };
        gemm::put(tensor.as_slice::<f32>()?, precision);
        Some(Self { tensor })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        gemm::take_off(slice(&self.tensor));
    }
}

#[backend_extension(Flex)]
trait HostAccess: Backend {
    fn edit<F: FnOnce(&mut [f32])>(value: FloatTensor<Self>, edit: F) -> FloatTensor<Self>;
}

impl HostAccess for Flex {
    fn edit<F: FnOnce(&mut [f32])>(value: FloatTensor<Self>, edit: F) -> FloatTensor<Self> {
        // Not `to_contiguous` in any case: its result would share the values, and be copied for that.
        let whole = |all: &[f32]| size_of_val(all) == value.bytes().len();
        let mut value = if value.as_slice().is_some_and(whole) {
            value
        } else {
            value.to_contiguous()
        };
        edit(value.storage_mut::<f32>());
        value
    }
}

/// The operands, as the framework's dispatch wants to see them.
struct Inputs<B: Backend>(Vec<FloatTensor<B>>);

#[backend_extension(Flex, Autodiff)]
trait FusedOperations: Backend {
    fn fused<const N: usize, O: Operation<N>>(
        #[extension_type] inputs: Inputs<Self>,
        operation: O,
        shape: Vec<usize>,
    ) -> FloatTensor<Self>;
}

impl FusedOperations for Flex {
    fn fused<const N: usize, O: Operation<N>>(
        inputs: Inputs<Self>,
        operation: O,
        shape: Vec<usize>,
    ) -> FloatTensor<Self> {
        let inputs = dense::<N>(inputs.0);
        let (result, _) = operation.forward(inputs.each_ref().map(slice), false);
        tensor(result, &shape)
    }
}

impl<C: CheckpointStrategy> FusedOperations for Autodiff<Flex, C> {
    fn fused<const N: usize, O: Operation<N>>(
        inputs: Inputs<Self>,
        operation: O,
        shape: Vec<usize>,
    ) -> FloatTensor<Self> {
        let (inputs, nodes): (Vec<_>, Vec<_>) = inputs
            .0
            .into_iter()
            .map(FloatTensor::<Self>::into_parts)
            .unzip();
        let inputs = dense::<N>(inputs);
        let prepared = Derived(operation.clone())
            .prepare::<C>(exactly(nodes))
            .compute_bound()
            .stateful();
        match prepared {
            OpsKind::Tracked(prepared) => {
                let keep = !(O::RECOMPUTED && is_checkpointing::<C>());
                let (result, kept) = operation.forward(inputs.each_ref().map(slice), keep);
                prepared.finish((inputs, kept), tensor(result, &shape))
            }
            OpsKind::UnTracked(prepared) => {
                let (result, _) = operation.forward(inputs.each_ref().map(slice), false);
                prepared.finish(tensor(result, &shape))
            }
        }
    }
}

/// Whether a graph of this strategy is one with gradient checkpointing.
fn is_checkpointing<C: CheckpointStrategy>() -> bool {
    TypeId::of::<C>() == TypeId::of::<BalancedCheckpointing>()
}

/// The backward pass of an operation.
#[derive(Debug)]
struct Derived<O>(O);

impl<const N: usize, O: Operation<N>> Backward<Flex, N> for Derived<O> {
    type State = ([HostTensor; N], Option<O::Kept>);

    fn backward(
        self,
        ops: Ops<Self::State, N>,
        gradients: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let gradient = gradients.consume::<Flex>(&ops.node).to_contiguous();
        let (inputs, kept) = ops.state;
        let again = || self.0.recompute(inputs.each_ref().map(slice));
        let Some(kept) = kept.or_else(again) else {
            return;
        };
        let wanted = ops.parents.each_ref().map(Option::is_some);
        let found = self
            .0
            .backward(inputs.each_ref().map(slice), kept, slice(&gradient), wanted);
        for ((parent, found), input) in ops.parents.into_iter().zip(found).zip(&inputs) {
            if let (Some(parent), Some(found)) = (parent, found) {
                let shape = input.layout().shape().to_vec();
                gradients.register::<Flex>(parent.id, tensor(found, &shape));
            }
        }
    }
}

impl<B: Backend> ExtensionType<B> for Inputs<B> {
    type Target = Inputs<Dispatch>;

    fn map_to_dispatch<F>(self, map_kind: F, autodiff: DispatchAutodiffContext) -> Self::Target
    where
        F: Fn(BackendTensor<B>) -> DispatchTensorKind,
    {
        let wrap = |tensor| DispatchTensor {
            kind: map_kind(BackendTensor::Float(tensor)),
            autodiff,
        };
        Inputs(self.0.into_iter().map(wrap).collect())
    }

    fn map_from_dispatch<F>(target: Self::Target, unwrap_kind: F) -> Self
    where
        F: Fn(DispatchTensor) -> BackendTensor<B>,
    {
        let unwrap = |tensor| unwrap_kind(tensor).float();
        Self(target.0.into_iter().map(unwrap).collect())
    }

    fn routing_tensor(target: &Self::Target) -> Option<&DispatchTensor> {
        target.0.first()
    }

    fn routing_float_tensor(target: &Self::Target) -> Option<&DispatchTensor> {
        target.0.first()
    }

    fn autodiff_context(target: &Self::Target) -> DispatchAutodiffContext {
        target
            .0
            .iter()
            .fold(DispatchAutodiffContext::Disabled, |context, tensor| {
                context.merge(tensor.autodiff)
            })
    }
}

/// The tensors in row-major order without gaps.
fn dense<const N: usize>(tensors: Vec<HostTensor>) -> [HostTensor; N] {
    exactly(tensors).map(|tensor: HostTensor| tensor.to_contiguous())
}

/// The values of a dense tensor.
fn slice(tensor: &HostTensor) -> &[f32] {
    // Dense by construction; the empty slice is that of a tensor without elements.
    tensor.as_slice::<f32>().unwrap_or_default()
}

fn tensor(values: Vec<f32>, shape: &[usize]) -> HostTensor {
    HostTensor::from_data(TensorData::new(values, shape))
}

/// As many items as [`apply`] was given.
fn exactly<T, const N: usize>(items: Vec<T>) -> [T; N] {
    let Ok(items) = items.try_into() else {
        unreachable!("an operation is called with an array of its own size");
    };
    items
}
