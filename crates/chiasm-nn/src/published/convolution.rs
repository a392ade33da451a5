//! The one piece that the convolutional networks are made of: a convolution and the batch norm
//! after it, with stored statistics.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use burn::tensor::module::conv2d;
use burn::tensor::ops::ConvOptions;

use crate::layers::Init;
use crate::weights::{Shapes, WeightError};

/// Added to the variance: PyTorch's default, which no published network of these changes.
const EPS: f64 = 1e-5;

/// What a tensor of a convolution says about it, with what its place in the network says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ConvSizes {
    /// Shape of the kernel: `[out, in / groups, rows, columns]`.
    pub(crate) kernel: [usize; 4],
    /// Groups of channels that see nothing of each other.
    pub(crate) groups: usize,
    /// Step between two places of the kernel.
    pub(crate) stride: usize,
}

impl ConvSizes {
    /// Reads the sizes of the convolution `name` that gets `input` channels.
    ///
    /// # Errors
    /// The kernel is missing or no convolution of so many channels can have it.
    pub(crate) fn of(
        state: &Shapes,
        name: &str,
        input: usize,
        stride: usize,
    ) -> Result<Self, WeightError> {
        let kernel = shape::<4>(state, name)?;
        let [output, part, rows, columns] = kernel;
        let groups = input / part.max(1);
        let is_odd_square = rows == columns && rows % 2 == 1;
        // Only kernels that look around come in groups: a 1 by 1 kernel mixes channels and nothing
        // else, so fewer inputs than there are channels are an error in the file.
        let fits = groups > 0
            && groups * part == input
            && output > 0
            && output.is_multiple_of(groups)
            && (groups == 1 || rows > 1);
        if !is_odd_square || !fits {
            return Err(WeightError::Config(format!(
                "`{name}` has shape {kernel:?}, which is no convolution of {input} channels"
            )));
        }
        Ok(Self {
            kernel,
            groups,
            stride,
        })
    }

    /// Channels that come out.
    pub(crate) fn output(&self) -> usize {
        self.kernel[0]
    }
}

/// Shape of a tensor that must be there and have `D` axes.
pub(crate) fn shape<const D: usize>(state: &Shapes, name: &str) -> Result<[usize; D], WeightError> {
    let Some(found) = state.get(name) else {
        return Err(WeightError::Missing {
            first: name.to_owned(),
            names: vec![name.to_owned()],
        });
    };
    <[usize; D]>::try_from(found.as_slice()).map_err(|_| {
        let axes = found.len();
        WeightError::Config(format!("`{name}` has {axes} axes, {D} are expected"))
    })
}

/// Number of classes of the head `name` on `width` features; none when the file has no head.
///
/// # Errors
/// A head of another width.
pub(crate) fn classes(
    state: &Shapes,
    name: &str,
    width: usize,
) -> Result<Option<usize>, WeightError> {
    if !state.contains_key(name) {
        return Ok(None);
    }
    let [classes, input] = shape::<2>(state, name)?;
    if input != width || classes == 0 {
        return Err(WeightError::Config(format!(
            "`{name}` has shape {:?}, the network gives {width} features",
            [classes, input]
        )));
    }
    Ok(Some(classes))
}

/// Gain, bias and stored statistics of every channel.
#[derive(Module, Debug)]
pub struct BatchNorm {
    /// Gain, `[channels]`.
    pub weight: Param<Tensor<1>>,
    /// Bias, `[channels]`.
    pub bias: Param<Tensor<1>>,
    /// Mean seen in training, `[channels]`; a constant.
    pub running_mean: Param<Tensor<1>>,
    /// Variance seen in training, `[channels]`; a constant.
    pub running_var: Param<Tensor<1>>,
}

/// A convolution without bias and the batch norm after it, in evaluation.
#[derive(Module, Debug)]
pub struct ConvNorm {
    /// `[out, in / groups, rows, columns]`.
    pub kernel: Param<Tensor<4>>,
    /// After the convolution.
    pub norm: BatchNorm,
    #[module(skip)]
    groups: usize,
    #[module(skip)]
    stride: usize,
}

impl ConvNorm {
    /// Drawn kernel; a norm that changes nothing.
    pub(crate) fn new(init: &Init, sizes: &ConvSizes) -> Self {
        let channels = [sizes.output()];
        Self {
            kernel: init.normal(sizes.kernel),
            norm: BatchNorm {
                weight: init.constant(channels, 1.0),
                bias: init.constant(channels, 0.0),
                running_mean: init.constant(channels, 0.0).set_require_grad(false),
                running_var: init.constant(channels, 1.0).set_require_grad(false),
            },
            groups: sizes.groups,
            stride: sizes.stride,
        }
    }

    /// # Shapes
    /// - input: `[batch, in, height, width]`
    /// - output: `[batch, out, height / stride, width / stride]`, rounded up
    #[must_use]
    pub fn forward(&self, input: Tensor<4>) -> Tensor<4> {
        let norm = &self.norm;
        // The norm is a scale and a shift of every channel. The scale goes into the kernel, which is
        // far smaller than the maps.
        let scale = norm.weight.val() / norm.running_var.val().add_scalar(EPS).sqrt();
        let shift = norm.bias.val() - norm.running_mean.val() * scale.clone();
        let channels = scale.dims()[0];
        let kernel = self.kernel.val() * scale.reshape([channels, 1, 1, 1]);
        let [_, _, rows, columns] = kernel.dims();
        let options = ConvOptions::new(
            [self.stride; 2],
            [rows / 2, columns / 2],
            [1; 2],
            self.groups,
        );
        conv2d(input, kernel, Some(shift), options)
    }
}

/// Mean of every channel of a map, `[batch, channels]`.
pub(crate) fn mean_of_map(map: Tensor<4>) -> Tensor<2> {
    let [batch, channels, height, width] = map.dims();
    map.reshape([batch, channels, height * width])
        .mean_dim(2)
        .reshape([batch, channels])
}

/// Names of the parameters of a [`ConvNorm`] where the file calls the convolution `kernel` and the
/// batch norm `norm`; `leaf` is `kernel` or `norm.` and a name of [`BatchNorm`].
pub(crate) fn conv_norm_name(leaf: &str, kernel: &str, norm: &str) -> Option<String> {
    match leaf {
        "kernel" => Some(format!("{kernel}.weight")),
        _ => leaf
            .strip_prefix("norm.")
            .map(|leaf| format!("{norm}.{leaf}")),
    }
}

/// A name of a torchvision file without the prefix of data-parallel training; `None` for the counters
/// of training steps.
pub(crate) fn canonical(found: &str) -> Option<String> {
    let name = found.strip_prefix("module.").unwrap_or(found);
    (!name.ends_with(".num_batches_tracked")).then(|| name.to_owned())
}

/// What is said when somebody has a `config.json` for a network of torchvision.
pub(crate) fn has_no_config() -> WeightError {
    WeightError::Config("a torchvision network has none: its sizes are those of its tensors".into())
}
