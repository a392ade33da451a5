//! A model that is only read.

use std::fmt;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::Tensor;

use crate::kernels::{Held, bf16_pays, int8_pays};

/// In what the matrices of a model that is only read are multiplied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// As they are.
    #[default]
    F32,
    /// In 16 bits, the upper halves of `f32`; sums are `f32`. Only on a CPU; fast only where
    /// [`Precision::is_fast`].
    Bf16,
    /// In 8 bits, each column in steps of its own, and rows of what they are multiplied with likewise. Only on a
    /// CPU; fast only where [`Precision::is_fast`].
    Int8,
}

impl Precision {
    /// Whether this processor has the [instructions](Self::instructions) for it.
    #[must_use]
    pub fn is_fast(self) -> bool {
        match self {
            Self::F32 => true,
            Self::Bf16 => bf16_pays(),
            Self::Int8 => int8_pays(),
        }
    }

    /// What a processor needs for it beside AVX-512.
    #[must_use]
    pub fn instructions(self) -> &'static str {
        match self {
            Self::F32 => "",
            Self::Bf16 => "AVX-512 BF16",
            Self::Int8 => "AVX-512 VNNI",
        }
    }
}

/// The matrices of a model that is only read as long as this lives. On a CPU they are packed for products when they
/// are first used, and not again: in `f32` the same results in less time, most of all for small batches, for as
/// much memory again as the matrices that are used take; in 16 or 8 bits other results in less, for half or a quarter
/// of it.
/// The model's weights can be changed meanwhile; what is kept is then of no use.
#[derive(Default)]
pub struct PackedWeights {
    held: Vec<Held>,
    precision: Precision,
}

impl PackedWeights {
    /// Of all matrices of a module.
    #[must_use]
    pub fn of(module: &impl Module, precision: Precision) -> Self {
        let mut packed = Self {
            held: Vec::new(),
            precision,
        };
        module.visit(&mut packed);
        packed
    }
}

impl ModuleVisitor for PackedWeights {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if D == 2 {
            let tensor = param.val().into_dispatch();
            self.held.extend(Held::new(tensor, self.precision));
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
