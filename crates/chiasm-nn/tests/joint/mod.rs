//! What the tests of models of a text and a picture share: a published folder loaded, its inputs
//! without padding, its outputs compared where nothing is padding.

#[path = "../common/hub.rs"]
pub(crate) mod hub;

use burn::tensor::{Device, Tensor, TensorData};
use chiasm_nn::layers::Init;
use chiasm_nn::published::family::Family;
use chiasm_nn::published::{Published, joint, load};
use chiasm_nn::regions::Regions;
use chiasm_nn::text::TextInput;
use chiasm_nn::weights::{HostTensor, WeightError};
use chiasm_nn::{Spans, Tokens, VisionLanguageModel};
use chiasm_testkit::Golden;
use hub::{Hub, with_both_kernels};
use serde_json::Value;

/// The folder's model; every tensor of the file must have a place and every parameter a tensor.
pub(crate) fn model<P: Published>(hub: &Hub) -> P {
    let (model, report) = hub.load::<P>();
    let mut matched = report.matched.clone();
    matched.sort();
    let names: Vec<String> = hub.weights().into_keys().collect();
    assert_eq!(matched, names);
    assert_eq!(report.missing, [""; 0]);
    assert_eq!(report.unexpected, [""; 0]);
    assert_eq!(report.ignored, [""; 0]);
    assert_eq!(report.reshaped, []);
    model
}

/// Runs `check` on both batches of the case, with plain and with fused kernels.
pub(crate) fn on_every_batch<P: Published>(case: &str, check: impl Fn(&P, &Batch<'_>)) {
    with_both_kernels(case, |hub| {
        let model = model::<P>(hub);
        for name in ["a", "b"] {
            check(&model, &Batch { hub, name });
        }
    });
}

/// The file as a model of our own: every parameter has a tensor, and every tensor is used.
pub(crate) fn of_our_own(hub: &Hub, family: Family) -> VisionLanguageModel {
    assert_eq!(joint::family(&hub.weights()), Some(family));
    let config = joint::sizes(family, &hub.config).unwrap();
    config.validate().unwrap();
    let fresh = VisionLanguageModel::new(&Init::new(0, 0.02, &hub.device), &config);
    let (model, report) = joint::fill(family, fresh, &config, hub.weights()).unwrap();
    assert_eq!(report.missing, [""; 0]);
    assert_eq!(report.unexpected, [""; 0]);
    assert_eq!(report.reshaped, []);
    model
}

/// Runs `check` on a model of our own and both batches, with plain and with fused kernels.
pub(crate) fn on_our_own(
    case: &str,
    family: Family,
    check: impl Fn(&VisionLanguageModel, &Batch<'_>),
) {
    with_both_kernels(case, |hub| {
        let model = of_our_own(hub, family);
        for name in ["a", "b"] {
            check(&model, &Batch { hub, name });
        }
    });
}

/// A file of a task loads as the bare model does, and the report says which tensors are `heads` and
/// buffers; `rename` spells one of the bare model's names as the task's file does.
pub(crate) fn task_files_load<P: Published>(
    case: &str,
    rename: impl Fn(&str) -> String,
    heads: &[&str],
) {
    with_both_kernels(case, |hub| {
        let head = HostTensor {
            shape: vec![1],
            values: vec![0.0],
        };
        let found = hub.weights();
        let count = found.len();
        let found = found
            .into_iter()
            .map(|(name, tensor)| (rename(&name), tensor));
        let heads_of = heads.iter().map(|name| ((*name).to_owned(), head.clone()));
        let found = found.chain(heads_of).collect();
        let config = P::config(&hub.config).unwrap();
        let (_, report) = load::<P>(&config, found, &hub.device).unwrap();
        assert_eq!(report.missing, [""; 0]);
        assert_eq!(report.unexpected, [""; 0]);
        assert_eq!(report.matched.len(), count);
        let mut ignored = heads.to_vec();
        ignored.sort_unstable();
        assert_eq!(report.ignored, ignored);
    });
}

/// Every damaged value of a `config.json` is refused by the name of its key; null is a missing one.
pub(crate) fn configurations_are_refused<P: Published>(case: &str, damage: &[(&str, Value)]) {
    with_both_kernels(case, |hub| {
        for (key, value) in damage {
            let mut json = hub.config.clone();
            json[*key] = value.clone();
            match P::config(&json) {
                Err(WeightError::Config(message)) => {
                    assert!(message.contains(key), "{key}: {value}: {message}");
                }
                Err(other) => panic!("{key}: {value}: {other}"),
                Ok(_) => panic!("{key}: {value} is accepted"),
            }
        }
    });
}

/// One batch of a case.
pub(crate) struct Batch<'a> {
    hub: &'a Hub,
    name: &'a str,
}

impl Batch<'_> {
    pub(crate) fn input(&self, name: &str) -> &Golden {
        let name = format!("inputs.{}.{name}", self.name);
        self.hub.case.tensor(&name)
    }

    /// The texts and their mask.
    pub(crate) fn texts(&self) -> (TextInput, Vec<i64>) {
        self.hub.text(self.name)
    }

    pub(crate) fn pixels(&self) -> Tensor<4> {
        self.hub.pixels(self.name)
    }

    /// The regions and their mask, ones where the case has none; without boxes in the case, boxes
    /// of zeros.
    pub(crate) fn regions(&self, features: &str, boxes: Option<&str>) -> (Regions, Vec<i64>) {
        let features = self.input(features);
        let [batch, len, _] = features.shape[..] else {
            panic!("features of regions");
        };
        let mask = format!("inputs.{}.visual_attention_mask", self.name);
        let mask = match self.hub.case.tensors.get(&mask) {
            Some(mask) => mask.i64s(),
            None => vec![1; batch * len],
        };
        let lengths = mask.chunks_exact(len);
        let spans = Spans::new(lengths.map(|row| row.iter().sum::<i64>() as usize));
        let rows = |golden: &Golden| -> Tensor<2> {
            let golden = golden.rows_where(&mask);
            let data = TensorData::new(golden.f32s(), golden.shape);
            Tensor::from_data(data, &self.hub.device)
        };
        let regions = Regions {
            boxes: match boxes {
                Some(boxes) => rows(self.input(boxes)),
                None => Tensor::zeros([spans.tokens(), 4], &Device::flex()),
            },
            features: Tokens {
                rows: rows(features),
                spans,
            },
        };
        (regions, mask)
    }

    /// Compares packed tokens with an expected output where `mask` is 1.
    pub(crate) fn check_tokens(&self, name: &str, found: &Tokens, mask: &[i64]) {
        let name = format!("{}.{name}", self.name);
        self.hub.check_tokens(&name, found, mask);
    }

    /// Compares all of an expected output.
    pub(crate) fn check(&self, name: &str, found: Tensor<2>) {
        self.hub.check(&format!("{}.{name}", self.name), found);
    }
}

/// A mask of words followed by one of what comes after them, for each of `batch` pairs.
pub(crate) fn joined(batch: usize, first: &[i64], second: &[i64]) -> Vec<i64> {
    let [first, second] =
        [first, second].map(|mask| mask.chunks_exact(mask.len() / batch).collect::<Vec<_>>());
    let pairs = first.into_iter().zip(second);
    pairs
        .flat_map(|(first, second)| [first, second].concat())
        .collect()
}
