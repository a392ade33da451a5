//! A model that is only read.

use std::fmt;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::Tensor;

use crate::kernels::Held;

/// The matrices of a model that is only read as long as this lives. On a CPU they are packed for products when they
/// are first used, and not again: the same results in less time, most of all for small batches, for as much memory again
/// as the matrices that are used take. The model's weights can be changed meanwhile; what is kept is then of no use.
#[derive(Default)]
pub struct PackedWeights {
    held: Vec<Held>,
}

impl PackedWeights {
    /// Of all matrices of a module.
    #[must_use]
    pub fn of(module: &impl Module) -> Self {
        let mut packed = Self::default();
        module.visit(&mut packed);
        packed
    }
}

impl ModuleVisitor for PackedWeights {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if D == 2 {
            self.held.extend(Held::new(param.val().into_dispatch()));
        }
    }
}

impl fmt::Debug for PackedWeights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PackedWeights")
            .field("matrices", &self.held.len())
            .finish()
    }
}
