//! YOLOv4-tiny: a detector of the 80 classes of COCO in one pass, from darknet's weight file.
//!
//! The network is fixed; a file of another number of parameters is of another network. Batch norms are folded
//! into their convolutions when weights are read. What the two heads give is raw, as darknet's layers before
//! `yolo` are; boxes are made of it where regions are made.

use burn::tensor::activation::leaky_relu;
use burn::tensor::module::{conv2d, max_pool2d};
use burn::tensor::ops::{ConvOptions, MaxPoolOptions};
use burn::tensor::{Device, Tensor, TensorData};
use chiasm_format::darknet::Darknet;

/// Why a file is not of this network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum YoloError {
    /// Another number of parameters.
    #[error(
        "{found} parameters, YOLOv4-tiny of {CLASSES} classes has {expected}: the file is of another network, or cut off"
    )]
    Parameters {
        /// In the file.
        found: usize,
        /// In the network.
        expected: usize,
    },
    /// A variance that none can be.
    #[error("a batch norm has a variance below zero: the file is of another network, or damaged")]
    Variance,
}

/// Side of the pictures that it takes, in pixels.
pub const SIDE: usize = 416;

/// Classes that it knows, those of COCO.
pub const CLASSES: usize = 80;

/// Boxes of a cell in each head.
pub const ANCHORS: usize = 3;

/// Numbers of a box: four of its place, whether it is a thing, and one a class.
pub const BOX: usize = 5 + CLASSES;

/// Slope below zero of the activation.
const SLOPE: f64 = 0.1;

/// Added to the variance by batch norm, as darknet does where it folds the norms.
const EPS: f32 = 1e-5;

/// A head of the network, as its layer in the published configuration has it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Head {
    /// Cells along each side.
    pub cells: usize,
    /// Width and height in pixels of the box that each anchor starts from.
    pub anchors: [[f32; 2]; ANCHORS],
}

/// The heads, coarse first. The fine one shares an anchor with the coarse one and leaves the smallest out, as
/// published.
pub const HEADS: [Head; 2] = [
    Head {
        cells: SIDE / 32,
        anchors: [[81.0, 82.0], [135.0, 169.0], [344.0, 319.0]],
    },
    Head {
        cells: SIDE / 16,
        anchors: [[23.0, 27.0], [37.0, 58.0], [81.0, 82.0]],
    },
];

/// How far a box's centre may leave its cell: the sigmoid is stretched by this factor about its middle.
pub const CENTRE_SCALE: f32 = 1.05;

/// A convolution of the network.
#[derive(Clone, Copy)]
struct Layer {
    input: usize,
    output: usize,
    /// Side of the kernel.
    size: usize,
    stride: usize,
    /// Whether a batch norm and the activation follow; the last one of a head has a bias alone.
    normed: bool,
}

const fn conv(input: usize, output: usize, size: usize, stride: usize) -> Layer {
    Layer {
        input,
        output,
        size,
        stride,
        normed: true,
    }
}

const fn last(input: usize) -> Layer {
    Layer {
        input,
        output: ANCHORS * BOX,
        size: 1,
        stride: 1,
        normed: false,
    }
}

/// All convolutions in the order of the file.
const LAYERS: [Layer; 21] = [
    conv(3, 32, 3, 2),
    conv(32, 64, 3, 2),
    // Three stages, see `stage`.
    conv(64, 64, 3, 1),
    conv(32, 32, 3, 1),
    conv(32, 32, 3, 1),
    conv(64, 64, 1, 1),
    conv(128, 128, 3, 1),
    conv(64, 64, 3, 1),
    conv(64, 64, 3, 1),
    conv(128, 128, 1, 1),
    conv(256, 256, 3, 1),
    conv(128, 128, 3, 1),
    conv(128, 128, 3, 1),
    conv(256, 256, 1, 1),
    conv(512, 512, 3, 1),
    conv(512, 256, 1, 1),
    // The coarse head.
    conv(256, 512, 3, 1),
    last(512),
    // The fine head.
    conv(256, 128, 1, 1),
    conv(384, 256, 3, 1),
    last(256),
];

/// Convolutions before the stages, and of each stage.
const STEM: usize = 2;
const STAGE: usize = 4;

impl Layer {
    fn kernel(&self) -> usize {
        self.output * self.input * self.size * self.size
    }

    fn parameters(&self) -> usize {
        self.kernel() + self.output * if self.normed { 4 } else { 1 }
    }
}

/// The network.
#[derive(Debug)]
pub struct YoloTiny {
    /// Kernels `[out, in, rows, columns]` and biases `[out]`.
    convs: Vec<(Tensor<4>, Tensor<1>)>,
}

impl YoloTiny {
    /// Fills the network from a weight file.
    ///
    /// # Errors
    /// A file of another number of parameters, or a variance below zero.
    pub fn from_darknet(file: &Darknet, device: &Device) -> Result<Self, YoloError> {
        let expected: usize = LAYERS.iter().map(Layer::parameters).sum();
        let found = file.values.len();
        if found != expected {
            return Err(YoloError::Parameters { found, expected });
        }
        let mut rest = file.values.as_slice();
        let mut take = |count: usize| {
            let (taken, left) = rest.split_at(count.min(rest.len()));
            rest = left;
            taken
        };
        let mut convs = Vec::with_capacity(LAYERS.len());
        for layer in LAYERS {
            let (bias, kernel) = if layer.normed {
                let [bias, scale, mean, variance] = [(); 4].map(|()| take(layer.output));
                if variance.iter().any(|variance| *variance < 0.0) {
                    return Err(YoloError::Variance);
                }
                let factors: Vec<f32> = scale
                    .iter()
                    .zip(variance)
                    .map(|(scale, variance)| scale / (variance + EPS).sqrt())
                    .collect();
                let bias: Vec<f32> = bias
                    .iter()
                    .zip(mean.iter().zip(&factors))
                    .map(|(bias, (mean, factor))| bias - mean * factor)
                    .collect();
                let row = layer.kernel() / layer.output;
                let kernel: Vec<f32> = take(layer.kernel())
                    .chunks_exact(row)
                    .zip(&factors)
                    .flat_map(|(row, factor)| row.iter().map(move |value| value * factor))
                    .collect();
                (bias, kernel)
            } else {
                (take(layer.output).to_vec(), take(layer.kernel()).to_vec())
            };
            let shape = [layer.output, layer.input, layer.size, layer.size];
            convs.push((
                Tensor::from_data(TensorData::new(kernel, shape), device),
                Tensor::from_data(TensorData::new(bias, [layer.output]), device),
            ));
        }
        Ok(Self { convs })
    }

    /// Raw boxes of both heads, in the order of [`HEADS`].
    ///
    /// # Shapes
    /// - pixel_values: `[batch, 3, 416, 416]`, red, green and blue in 0 to 1
    /// - output: `[batch, 3 * 85, cells, cells]`; of each anchor x, y, width, height, thing, classes
    #[must_use]
    pub fn forward(&self, pixel_values: Tensor<4>) -> [Tensor<4>; 2] {
        let hidden = (0..STEM).fold(pixel_values, |hidden, index| self.conv(index, hidden));
        let (hidden, _) = self.stage(STEM, hidden);
        let (hidden, _) = self.stage(STEM + STAGE, hidden);
        let (hidden, fine) = self.stage(STEM + 2 * STAGE, hidden);
        let hidden = self.conv(15, self.conv(14, hidden));
        let coarse_boxes = self.conv(17, self.conv(16, hidden.clone()));
        let hidden = doubled(self.conv(18, hidden));
        let hidden = Tensor::cat(vec![hidden, fine], 1);
        let fine_boxes = self.conv(20, self.conv(19, hidden));
        [coarse_boxes, fine_boxes]
    }

    /// Half of the channels go through two convolutions and meet the other half again, twice over. Returns the
    /// halved map, and what it was joined with.
    fn stage(&self, first: usize, input: Tensor<4>) -> (Tensor<4>, Tensor<4>) {
        let base = self.conv(first, input);
        let [_, channels, _, _] = base.dims();
        let half = base.clone().narrow(1, channels / 2, channels / 2);
        let one = self.conv(first + 1, half);
        let two = self.conv(first + 2, one.clone());
        let joined = self.conv(first + 3, Tensor::cat(vec![two, one], 1));
        let all = Tensor::cat(vec![base, joined.clone()], 1);
        let options = MaxPoolOptions::new([2; 2]).with_stride([2; 2]);
        (max_pool2d(all, options), joined)
    }

    fn conv(&self, index: usize, input: Tensor<4>) -> Tensor<4> {
        let (Some(layer), Some((kernel, bias))) = (LAYERS.get(index), self.convs.get(index)) else {
            return input;
        };
        let options = ConvOptions::new([layer.stride; 2], [layer.size / 2; 2], [1; 2], 1);
        let output = conv2d(input, kernel.clone(), Some(bias.clone()), options);
        if layer.normed {
            leaky_relu(output, SLOPE)
        } else {
            output
        }
    }
}

/// Every cell as four equal ones.
fn doubled(map: Tensor<4>) -> Tensor<4> {
    let [batch, channels, height, width] = map.dims();
    map.reshape([batch * channels, height, 1, width])
        .expand([batch * channels, height, 2, width])
        .reshape([batch * channels * height * 2, width, 1])
        .expand([batch * channels * height * 2, width, 2])
        .reshape([batch, channels, 2 * height, 2 * width])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zeros(count: usize) -> Darknet {
        Darknet {
            version: [0, 2, 5],
            seen: 0,
            values: vec![0.0; count],
        }
    }

    #[test]
    fn files_of_other_networks_are_refused() {
        let device = Device::flex();
        // That of the published file: 24,251,276 bytes, 20 of them the header.
        assert!(YoloTiny::from_darknet(&zeros(6_062_814), &device).is_ok());
        for count in [0, 6_062_813, 8_858_734] {
            let error = YoloTiny::from_darknet(&zeros(count), &device).unwrap_err();
            assert!(error.to_string().contains("6062814"), "{error}");
        }
        let mut negative = zeros(6_062_814);
        negative.values[3 * 32] = -1.0;
        assert!(YoloTiny::from_darknet(&negative, &device).is_err());
    }

    #[test]
    fn cells_are_doubled_in_place() {
        let data = TensorData::new(vec![1.0f32, 2.0, 3.0, 4.0], [1, 1, 2, 2]);
        let map = doubled(Tensor::from_data(data, &Device::flex()));
        let values = map.try_into_vec_as::<f32>().unwrap();
        assert_eq!(
            values,
            [
                1., 1., 2., 2., 1., 1., 2., 2., 3., 3., 4., 4., 3., 3., 4., 4.
            ]
        );
    }
}
