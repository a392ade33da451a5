//! What the tests of models of a text and a picture share: a published folder loaded, its inputs
//! without padding, its outputs compared where nothing is padding.

use burn::tensor::{Device, Tensor, TensorData};
use chiasm_nn::compute::{self, Kernels};
use chiasm_nn::published::pairs::Regions;
use chiasm_nn::published::{Published, load};
use chiasm_nn::text::TextInput;
use chiasm_nn::weights::{HostTensor, StateDict, WeightError, from_safetensors};
use chiasm_nn::{Spans, Tokens};
use chiasm_testkit::{Case, Golden, assert_close};
use serde_json::Value;

/// `config.json` of the case.
pub(crate) fn json(case: &Case) -> Value {
    serde_json::from_slice(&case.file("config.json")).expect("config.json")
}

/// `model.safetensors` of the case.
pub(crate) fn weights(case: &Case) -> StateDict {
    from_safetensors(&case.file("model.safetensors")).expect("model.safetensors")
}

/// The case's model; every tensor of the file must have a place and every parameter a tensor.
fn model<P: Published>(case: &Case) -> P {
    let found = weights(case);
    let names: Vec<String> = found.keys().cloned().collect();
    let config = P::config(&json(case)).expect("a configuration");
    let (model, report) = load::<P>(&config, found, &Device::flex()).expect("shapes agree");
    let mut matched = report.matched.clone();
    matched.sort();
    assert_eq!(matched, names);
    assert_eq!(report.missing, [""; 0]);
    assert_eq!(report.unexpected, [""; 0]);
    assert_eq!(report.ignored, [""; 0]);
    assert!(report.reshaped.is_empty());
    model
}

/// Runs `check` on both batches of the case, with fused and with plain kernels; nothing when the
/// case is absent.
pub(crate) fn on_every_batch<P: Published>(case: &str, check: impl Fn(&P, &Batch<'_>)) {
    let Some(case) = Case::open(case) else {
        return;
    };
    let model = model::<P>(&case);
    for kernels in [Kernels::Plain, Kernels::Fused] {
        for name in ["a", "b"] {
            let batch = Batch { case: &case, name };
            compute::with(kernels, || check(&model, &batch));
        }
    }
}

/// A file of a task loads as the bare model does, and says which tensors it ignored; `rename` spells
/// one of the bare model's names as the task's file does.
pub(crate) fn task_files_load<P: Published>(
    case: &str,
    rename: impl Fn(&str) -> String,
    heads: &[&str],
) {
    let Some(case) = Case::open(case) else {
        return;
    };
    let tensor = HostTensor {
        shape: vec![1],
        values: vec![0.0],
    };
    let found = weights(&case);
    let count = found.len();
    let found = found
        .into_iter()
        .map(|(name, tensor)| (rename(&name), tensor));
    let extra = heads
        .iter()
        .map(|head| ((*head).to_owned(), tensor.clone()));
    let config = P::config(&json(&case)).expect("a configuration");
    let (_, report) =
        load::<P>(&config, found.chain(extra).collect(), &Device::flex()).expect("shapes agree");
    assert_eq!(report.missing, [""; 0]);
    assert_eq!(report.unexpected, [""; 0]);
    assert_eq!(report.matched.len(), count);
    let mut heads = heads.to_vec();
    heads.sort_unstable();
    assert_eq!(report.ignored, heads);
}

/// Every damaged value of a `config.json` is refused by the name of its key, and no value of it is
/// believed so far that building would be dangerous.
pub(crate) fn configurations_are_refused<P: Published>(case: &str, damage: &[(&str, Value)]) {
    let Some(case) = Case::open(case) else {
        return;
    };
    for (key, value) in damage {
        let mut json = json(&case);
        let object = json.as_object_mut().expect("an object");
        match value {
            Value::String(gone) if gone == "(missing)" => object.remove(*key),
            value => object.insert((*key).to_owned(), value.clone()),
        };
        match P::config(&json) {
            Err(WeightError::Config(message)) => {
                assert!(message.contains(key), "{key}: {value}: {message}");
            }
            Err(other) => panic!("{key}: {value}: {other}"),
            Ok(_) => panic!("{key}: {value} is accepted"),
        }
    }
}

/// One batch of a case.
pub(crate) struct Batch<'a> {
    case: &'a Case,
    name: &'a str,
}

impl Batch<'_> {
    pub(crate) fn input(&self, name: &str) -> &Golden {
        self.case.tensor(&format!("inputs.{}.{name}", self.name))
    }

    /// A mask of the inputs; all ones, of the shape of the first axes of `like`, when there is none.
    pub(crate) fn mask(&self, name: &str, like: &str) -> Vec<i64> {
        let full = format!("inputs.{}.{name}", self.name);
        match self.case.tensors.get(&full) {
            Some(mask) => mask.i64s(),
            None => vec![1; self.input(like).shape[..2].iter().product()],
        }
    }

    pub(crate) fn texts(&self) -> TextInput {
        let ids = self.input("input_ids");
        let mask = self.mask("attention_mask", "input_ids");
        let len = ids.shape[1];
        let types = TextInput::from_padded(&self.input("token_type_ids").i64s(), &mask, len);
        TextInput::from_padded(&ids.i64s(), &mask, len).with_types(types.ids)
    }

    /// Regions where the mask is 1; without boxes in the case, boxes of zeros.
    pub(crate) fn regions(&self, features: &str, boxes: Option<&str>) -> Regions {
        let mask = self.mask("visual_attention_mask", features);
        let len = self.input(features).shape[1];
        let lengths = mask.chunks_exact(len);
        let spans = Spans::new(lengths.map(|row| row.iter().sum::<i64>() as usize));
        let rows = |golden: &Golden| matrix(&golden.rows_where(&mask));
        Regions {
            boxes: match boxes {
                Some(boxes) => rows(self.input(boxes)),
                None => Tensor::zeros([spans.tokens(), 4], &Device::flex()),
            },
            features: Tokens {
                rows: rows(self.input(features)),
                spans,
            },
        }
    }

    /// Compares with an expected output, where `mask` is 1.
    pub(crate) fn check_rows(&self, name: &str, found: &Tensor<2>, mask: &[i64]) {
        let expected = format!("expected.{}.{name}", self.name);
        let expected = self.case.tensor(&expected).rows_where(mask);
        let what = format!("{}.{name}", self.name);
        let found = found.clone().into_data().try_into_vec::<f32>();
        let tolerance = self.case.tolerance("abs");
        assert!(tolerance > 0.0);
        assert_close(&what, &found.expect("f32"), &expected, tolerance, 0.0);
    }

    /// Compares all of an expected output.
    pub(crate) fn check(&self, name: &str, found: &Tensor<2>) {
        self.check_rows(name, found, &vec![1; found.dims()[0]]);
    }
}

/// Rows as a tensor.
fn matrix(golden: &Golden) -> Tensor<2> {
    let data = TensorData::new(golden.f32s(), golden.shape.clone());
    Tensor::from_data(data, &Device::flex())
}

/// A mask of the words followed by one of what comes after them, picture by picture.
pub(crate) fn joined(first: (&[i64], usize), second: (&[i64], usize)) -> Vec<i64> {
    let pairs = first
        .0
        .chunks_exact(first.1)
        .zip(second.0.chunks_exact(second.1));
    pairs
        .flat_map(|(first, second)| [first, second].concat())
        .collect()
}
