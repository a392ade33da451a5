//! Weights as a state dict: every parameter by name, in PyTorch's layout, in and out of a model,
//! with a report of what was and was not loaded.
//!
//! Linear weights are `[in, out]` in memory and `[out, in]` here, so that files agree with the
//! rest of the field.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{DType, Gradients, Tensor, TensorData};
use chiasm_format::{Archive, FormatError, TensorInfo};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use crate::compute::Autograd;
use crate::kernels;
use crate::published::Reshaped;

/// One parameter on the host, in PyTorch's layout.
#[derive(Clone, Debug, PartialEq)]
pub struct HostTensor {
    /// Sizes of the axes; empty for a scalar.
    pub shape: Vec<usize>,
    /// Row-major values.
    pub values: Vec<f32>,
}

/// Parameters by dotted name, in name order.
pub type StateDict = BTreeMap<String, HostTensor>;

/// Shapes of parameters by dotted name.
pub type Shapes = BTreeMap<String, Vec<usize>>;

/// What went wrong with weights.
#[derive(Debug, thiserror::Error)]
pub enum WeightError {
    /// The bytes are not a readable safetensors file.
    #[error("not a readable safetensors file: {0}")]
    Format(String),
    /// A tensor has a type other than f32, f16 or bf16.
    #[error("tensor `{name}` has type {dtype}, expected a float")]
    Type {
        /// Tensor name.
        name: String,
        /// Type found.
        dtype: String,
    },
    /// Sizes differ.
    #[error("tensor `{name}` has shape {found:?}, the model expects {expected:?}")]
    Shape {
        /// Parameter name.
        name: String,
        /// Shape in the file.
        found: Vec<usize>,
        /// Shape of the parameter.
        expected: Vec<usize>,
    },
    /// A file that cannot be read.
    #[error(transparent)]
    File(#[from] FormatError),
    /// A table of positions that cannot be given the model's size.
    #[error("position table `{name}`: {problem}")]
    Position {
        /// Tensor name.
        name: String,
        /// What is wrong with its shape, or with the size asked for.
        problem: String,
    },
    /// A configuration that no model can be built from.
    #[error("config.json: {0}")]
    Config(String),
    /// Parameters the file does not hold.
    #[error("{} parameters are missing from the weights, the first is `{first}`", names.len())]
    Missing {
        /// First missing name.
        first: String,
        /// All of them.
        names: Vec<String>,
    },
}

/// What a load did with every tensor.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct LoadReport {
    /// Parameters that were filled.
    pub matched: Vec<String>,
    /// Parameters the file does not hold; they keep their start values.
    pub missing: Vec<String>,
    /// Tensors of the file that no parameter wanted.
    pub unexpected: Vec<String>,
    /// Tensors of the file that are known not to matter: index buffers, heads of other tasks.
    pub ignored: Vec<String>,
    /// Tensors that were given another shape, for example position tables.
    pub reshaped: Vec<Reshaped>,
}

impl LoadReport {
    /// # Errors
    /// If any parameter was missing.
    pub fn require_complete(self) -> Result<Self, WeightError> {
        self.require_except(|_| false)
    }

    /// # Errors
    /// If any parameter was missing that `may_be` does not say may be.
    pub fn require_except(self, may_be: impl Fn(&str) -> bool) -> Result<Self, WeightError> {
        let names = self.missing.iter().filter(|name| !may_be(name));
        let names: Vec<String> = names.cloned().collect();
        match names.first() {
            None => Ok(self),
            Some(first) => Err(WeightError::Missing {
                first: first.clone(),
                names,
            }),
        }
    }
}

/// Where a traversal stands: field names, and whether the parameter is a linear map's matrix.
#[derive(Default)]
pub struct ParamPath {
    names: Vec<String>,
    containers: Vec<String>,
}

impl ParamPath {
    /// Steps into a field.
    pub fn enter(&mut self, name: &str, container: &str) {
        self.names.push(name.to_owned());
        self.containers.push(container.to_owned());
    }

    /// Steps out of it.
    pub fn exit(&mut self) {
        self.names.pop();
        self.containers.pop();
    }

    /// Dotted name.
    #[must_use]
    pub fn name(&self) -> String {
        self.names.join(".")
    }

    /// True when file and memory layouts are transposes of each other.
    #[must_use]
    pub fn is_transposed(&self) -> bool {
        self.containers
            .last()
            .is_some_and(|last| last == "Struct:Linear")
            && self.names.last().is_some_and(|last| last == "weight")
    }
}

/// A tensor on the host in PyTorch's layout.
#[must_use]
pub fn to_host<const D: usize>(tensor: Tensor<D>, transposed: bool) -> HostTensor {
    let shape = tensor.dims().to_vec();
    let data = tensor.into_data().convert_dtype(DType::F32);
    // A float tensor converted to f32 always reads back as f32.
    let host = HostTensor {
        shape,
        values: data.try_into_vec::<f32>().unwrap_or_default(),
    };
    if transposed { host.transposed() } else { host }
}

impl HostTensor {
    /// A matrix with its axes exchanged; anything else as it is.
    #[must_use]
    pub fn transposed(self) -> Self {
        let [rows, columns] = self.shape[..] else {
            return self;
        };
        let mut values = Vec::with_capacity(self.values.len());
        for column in 0..columns {
            values.extend(self.values.iter().skip(column).step_by(columns));
        }
        debug_assert_eq!(values.len(), rows * columns);
        Self {
            shape: vec![columns, rows],
            values,
        }
    }
}

/// Reads every parameter of a module.
#[must_use]
pub fn state_dict<M: Module>(module: &M) -> StateDict {
    struct Collect {
        path: ParamPath,
        found: StateDict,
    }
    impl ModuleVisitor for Collect {
        fn enter_module(&mut self, name: &str, container: &str) {
            self.path.enter(name, container);
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.path.exit();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let tensor = to_host(param.val().inner(), self.path.is_transposed());
            self.found.insert(self.path.name(), tensor);
        }
    }
    let mut visitor = Collect {
        path: ParamPath::default(),
        found: StateDict::new(),
    };
    module.visit(&mut visitor);
    visitor.found
}

/// The shape of every parameter of a module, in PyTorch's layout; draws no weights.
#[must_use]
pub fn shapes<M: Module>(module: &M) -> Shapes {
    #[derive(Default)]
    struct Collect {
        path: ParamPath,
        found: Shapes,
    }
    impl ModuleVisitor for Collect {
        fn enter_module(&mut self, name: &str, container: &str) {
            self.path.enter(name, container);
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.path.exit();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let mut shape = param.lazy_shape().to_vec();
            if self.path.is_transposed() {
                shape.reverse();
            }
            self.found.insert(self.path.name(), shape);
        }
    }
    let mut visitor = Collect::default();
    module.visit(&mut visitor);
    visitor.found
}

/// Names and sizes of the parameters that are trained, in the order of the module.
#[must_use]
pub fn trained_parameters<M: Module>(module: &M) -> Vec<(String, usize)> {
    #[derive(Default)]
    struct Trained {
        path: ParamPath,
        found: Vec<(String, usize)>,
    }
    impl ModuleVisitor for Trained {
        fn enter_module(&mut self, name: &str, container: &str) {
            self.path.enter(name, container);
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.path.exit();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let value = param.val();
            if value.is_require_grad() {
                let len = value.dims().iter().product();
                self.found.push((self.path.name(), len));
            }
        }
    }
    let mut trained = Trained::default();
    module.visit(&mut trained);
    trained.found
}

/// Takes the gradients of a module's parameters out of a backward pass: `take` gets where each stands,
/// its shape and its values, flat, `[n]`, in memory layout. Parameters without a gradient are passed
/// over.
pub fn take_gradients<M: Module>(
    module: &M,
    gradients: &mut Gradients,
    take: impl FnMut(&ParamPath, &[usize], Tensor<1>),
) {
    struct Take<'a, F> {
        path: ParamPath,
        gradients: &'a mut Gradients,
        take: F,
    }
    impl<F: FnMut(&ParamPath, &[usize], Tensor<1>)> ModuleVisitor for Take<'_, F> {
        fn enter_module(&mut self, name: &str, container: &str) {
            self.path.enter(name, container);
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.path.exit();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(gradient) = param.val().grad_remove(self.gradients) {
                let shape = gradient.dims();
                let flat = gradient.reshape([shape.iter().product::<usize>()]);
                (self.take)(&self.path, &shape, flat);
            }
        }
    }
    module.visit(&mut Take {
        path: ParamPath::default(),
        gradients,
        take,
    });
}

/// Fills a module from a state dict; parameters that the dict lacks keep their values and are
/// listed as missing.
///
/// # Errors
/// A shape that differs from the parameter's.
pub fn load_state_dict<M: Module>(
    module: M,
    mut state: StateDict,
) -> Result<(M, LoadReport), WeightError> {
    struct Fill<'a> {
        path: ParamPath,
        state: &'a mut StateDict,
        report: LoadReport,
        error: Option<WeightError>,
    }
    impl Fill<'_> {
        fn data_for<const D: usize>(&mut self, shape: [usize; D]) -> Option<TensorData> {
            let name = self.path.name();
            let Some(host) = self.state.remove(&name) else {
                self.report.missing.push(name);
                return None;
            };
            let transposed = self.path.is_transposed();
            let mut expected = shape;
            if transposed {
                expected.reverse();
            }
            if host.shape != expected {
                self.error.get_or_insert(WeightError::Shape {
                    name,
                    found: host.shape,
                    expected: expected.to_vec(),
                });
                return None;
            }
            // Turned on the host: a transposed view on the device would be copied at every use.
            let host = if transposed { host.transposed() } else { host };
            self.report.matched.push(name);
            Some(TensorData::new(host.values, shape))
        }
    }
    impl ModuleMapper for Fill<'_> {
        fn enter_module(&mut self, name: &str, container: &str) {
            self.path.enter(name, container);
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.path.exit();
        }
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let Some(data) = self.data_for(param.lazy_shape().dims::<D>()) else {
                return param;
            };
            let device = param.lazy_device();
            if param.is_initialized() {
                let value = Tensor::from_data(data, &device.without_autodiff());
                replace_value(param, value)
            } else {
                let id = param.id;
                param.transform_for_load(Tensor::from_data(data, &device), id)
            }
        }
    }
    let mut mapper = Fill {
        path: ParamPath::default(),
        state: &mut state,
        report: LoadReport::default(),
        error: None,
    };
    let module = module.map(&mut mapper);
    let (mut report, error) = (mapper.report, mapper.error);
    if let Some(error) = error {
        return Err(error);
    }
    report.unexpected = state.into_keys().collect();
    Ok((module, report))
}

/// Changes a parameter of a CPU device where it lies, without a copy unless something else still
/// holds its value; autodiff and gradient settings stay.
#[must_use]
pub fn edit_value<const D: usize>(
    param: Param<Tensor<D>>,
    edit: impl FnOnce(&mut [f32]),
) -> Param<Tensor<D>> {
    param.map(|old| keep_settings(old, |value| kernels::edit(value, edit)))
}

/// Puts a new value into a parameter; autodiff and gradient settings stay.
#[must_use]
pub fn replace_value<const D: usize>(
    param: Param<Tensor<D>>,
    value: Tensor<D>,
) -> Param<Tensor<D>> {
    // Contiguous, because a transposed view would be copied by every later product.
    let shape = value.dims();
    param.map(|old| keep_settings(old, |_| value.reshape(shape)))
}

/// Computes a parameter's next value from its value outside the graph, and puts it back in.
fn keep_settings<const D: usize>(
    old: Tensor<D>,
    next: impl FnOnce(Tensor<D>) -> Tensor<D>,
) -> Tensor<D> {
    let (autograd, tracked) = (Autograd::of(&old), old.is_require_grad());
    let value = autograd.constant(next(old.inner()));
    if tracked { value.require_grad() } else { value }
}

/// Serialises a state dict; the same dict always gives the same bytes.
///
/// # Errors
/// If the safetensors writer refuses a tensor.
pub fn to_safetensors(
    state: &StateDict,
    metadata: BTreeMap<String, String>,
) -> Result<Vec<u8>, WeightError> {
    let bytes: BTreeMap<&str, Vec<u8>> = state
        .iter()
        .map(|(name, tensor)| {
            let bytes = tensor
                .values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect();
            (name.as_str(), bytes)
        })
        .collect();
    let mut views = Vec::with_capacity(state.len());
    for (name, tensor) in state {
        let data = bytes.get(name.as_str()).map_or(&[][..], Vec::as_slice);
        let view = TensorView::new(Dtype::F32, tensor.shape.clone(), data)
            .map_err(|error| WeightError::Format(error.to_string()))?;
        views.push((name.as_str(), view));
    }
    let metadata = (!metadata.is_empty()).then(|| metadata.into_iter().collect());
    safetensors::serialize(views, metadata).map_err(|error| WeightError::Format(error.to_string()))
}

/// A blake3 digest (hexadecimal) of names, shapes and values: what a result was made with, however the file was
/// written.
#[must_use]
pub fn digest(state: &StateDict) -> String {
    let mut hasher = blake3::Hasher::new();
    for (name, tensor) in state {
        hasher.update(&(name.len() as u64).to_le_bytes());
        hasher.update(name.as_bytes());
        hasher.update(&(tensor.shape.len() as u64).to_le_bytes());
        for axis in &tensor.shape {
            hasher.update(&(*axis as u64).to_le_bytes());
        }
        for value in &tensor.values {
            hasher.update(&value.to_le_bytes());
        }
    }
    hasher.finalize().to_hex().to_string()
}

/// Shapes of the tensors of a state dict.
#[must_use]
pub fn shapes_of(state: &StateDict) -> Shapes {
    let shape = |(name, tensor): (&String, &HostTensor)| (name.clone(), tensor.shape.clone());
    state.iter().map(shape).collect()
}

/// Reads all tensors of an archive as f32.
///
/// # Errors
/// What the archive says about a tensor.
pub fn from_archive(archive: &Archive) -> Result<StateDict, WeightError> {
    let read = |info: &TensorInfo| {
        let (shape, values) = (info.shape.clone(), archive.read_f32(&info.name)?);
        Ok((info.name.clone(), HostTensor { shape, values }))
    };
    archive.tensors().iter().map(read).collect()
}

/// Reads float tensors of a safetensors file; half precisions are widened to f32.
///
/// # Errors
/// A damaged file, or a tensor that is not a float.
pub fn from_safetensors(bytes: &[u8]) -> Result<StateDict, WeightError> {
    let file =
        SafeTensors::deserialize(bytes).map_err(|error| WeightError::Format(error.to_string()))?;
    let mut state = StateDict::new();
    for (name, view) in file.tensors() {
        let data = view.data();
        let values = match view.dtype() {
            Dtype::F32 => data
                .chunks_exact(4)
                .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                .collect(),
            Dtype::BF16 => data
                .chunks_exact(2)
                .map(|b| f32::from_bits(u32::from(u16::from_le_bytes([b[0], b[1]])) << 16))
                .collect(),
            Dtype::F16 => {
                TensorData::from_bytes_vec(data.to_vec(), view.shape().to_vec(), DType::F16)
                    .convert_dtype(DType::F32)
                    .try_into_vec::<f32>()
                    .unwrap_or_default()
            }
            other => {
                return Err(WeightError::Type {
                    name,
                    dtype: format!("{other:?}"),
                });
            }
        };
        state.insert(
            name,
            HostTensor {
                shape: view.shape().to_vec(),
                values,
            },
        );
    }
    Ok(state)
}
