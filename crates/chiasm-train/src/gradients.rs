//! Gradients by parameter name: collected, added up over micro-batches, measured and clipped.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Gradients, Tensor};
use chiasm_nn::weights::ParamPath;

/// Flat gradients, `[n]` each, in memory layout. Parameters without a gradient are absent.
pub type GradientMap = BTreeMap<String, Tensor<1>>;

/// Takes the gradients of a module's parameters out of a backward pass.
#[must_use]
pub fn collect<M: Module>(module: &M, gradients: &mut Gradients) -> GradientMap {
    struct Collect<'a> {
        path: ParamPath,
        gradients: &'a mut Gradients,
        found: GradientMap,
    }
    impl ModuleVisitor for Collect<'_> {
        fn enter_module(&mut self, name: &str, container: &str) {
            self.path.enter(name, container);
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.path.exit();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(gradient) = param.val().grad_remove(self.gradients) {
                let count = gradient.dims().iter().product::<usize>();
                self.found
                    .insert(self.path.name(), gradient.reshape([count]));
            }
        }
    }
    let mut visitor = Collect {
        path: ParamPath::default(),
        gradients,
        found: GradientMap::new(),
    };
    module.visit(&mut visitor);
    visitor.found
}

/// Adds the gradients of a further micro-batch.
#[must_use]
pub fn add(mut sum: GradientMap, other: GradientMap) -> GradientMap {
    for (name, gradient) in other {
        let total = match sum.remove(&name) {
            Some(present) => present + gradient,
            None => gradient,
        };
        sum.insert(name, total);
    }
    sum
}

/// Multiplies every gradient.
#[must_use]
pub fn scale(gradients: GradientMap, factor: f64) -> GradientMap {
    gradients
        .into_iter()
        .map(|(name, gradient)| (name, gradient.mul_scalar(factor)))
        .collect()
}

/// Euclidean norm over all gradients together.
#[must_use]
pub fn global_norm(gradients: &GradientMap) -> f64 {
    let squares: Vec<Tensor<1>> = gradients
        .values()
        .map(|gradient| gradient.clone().square().sum())
        .collect();
    if squares.is_empty() {
        return 0.0;
    }
    f64::from(Tensor::cat(squares, 0).sum().sqrt().into_scalar::<f32>())
}

/// Scales all gradients down so that their norm is at most `limit`; as PyTorch's
/// `clip_grad_norm_`, with 1e-6 in the divisor.
#[must_use]
pub fn clip(gradients: GradientMap, norm: f64, limit: f64) -> GradientMap {
    if norm > limit {
        scale(gradients, limit / (norm + 1e-6))
    } else {
        gradients
    }
}
