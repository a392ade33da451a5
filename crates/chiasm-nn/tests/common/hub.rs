//! Opens a `hf/` fixture case: a published directory with inputs and outputs.
#![allow(dead_code, reason = "every test uses a part of it")]

use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use chiasm_format::Archive;
use chiasm_nn::Tokens;
use chiasm_nn::compute::{self, Kernels};
use chiasm_nn::published::{self, Published};
use chiasm_nn::text::TextInput;
use chiasm_nn::weights::{LoadReport, StateDict, from_archive};
use chiasm_testkit::{Case, Golden, assert_close};
use serde_json::Value;

/// A case and the directory's configuration.
pub(crate) struct Hub {
    pub(crate) case: Case,
    pub(crate) config: Value,
    pub(crate) device: Device,
}

/// Runs `body` on a case with plain and with fused kernels, if the fixtures are there.
pub(crate) fn with_both_kernels(name: &str, body: impl Fn(&Hub)) {
    let Some(case) = Case::open(name) else {
        return;
    };
    let hub = Hub {
        config: serde_json::from_slice(&case.file("config.json")).unwrap(),
        case,
        device: Device::flex(),
    };
    for kernels in [Kernels::Plain, Kernels::Fused] {
        compute::with(kernels, || body(&hub));
    }
}

/// All tensors of the weights in a folder.
pub(crate) fn weights(folder: &Path) -> StateDict {
    from_archive(&Archive::open(folder).unwrap()).unwrap()
}

impl Hub {
    /// Every tensor of the directory, by the name it has there.
    pub(crate) fn weights(&self) -> StateDict {
        weights(&self.case.dir)
    }

    /// The model of the directory.
    pub(crate) fn load<P: Published>(&self) -> (P, LoadReport) {
        let config = P::config(&self.config).unwrap();
        published::load(&config, self.weights(), &self.device).unwrap()
    }

    /// Holds values against `expected.{name}`.
    pub(crate) fn check<const D: usize>(&self, name: &str, found: Tensor<D>) {
        self.compare(name, found, self.expected(name));
    }

    /// Holds packed tokens against the padded `expected.{name}`.
    pub(crate) fn check_tokens(&self, name: &str, found: &Tokens, mask: &[i64]) {
        let expected = self.expected(name).rows_where(mask);
        self.compare(name, found.rows.clone(), &expected);
    }

    fn expected(&self, name: &str) -> &Golden {
        self.case.tensor(&format!("expected.{name}"))
    }

    fn compare<const D: usize>(&self, name: &str, found: Tensor<D>, expected: &Golden) {
        let values = found.into_data().try_into_vec::<f32>().unwrap();
        assert_close(name, &values, expected, self.case.tolerance("abs"), 0.0);
    }

    /// Whole numbers `inputs.{name}`.
    pub(crate) fn ids(&self, name: &str) -> Vec<i64> {
        self.case.tensor(&format!("inputs.{name}")).i64s()
    }

    /// `inputs.{call}.input_ids` where the mask is 1, with `token_type_ids` where there are any.
    pub(crate) fn text(&self, call: &str) -> (TextInput, Vec<i64>) {
        let ids = self.case.tensor(&format!("inputs.{call}.input_ids"));
        let mask = self.ids(&format!("{call}.attention_mask"));
        let len = ids.shape[1];
        let mut input = TextInput::from_padded(&ids.i64s(), &mask, len);
        if let Some(types) = self
            .case
            .tensors
            .get(&format!("inputs.{call}.token_type_ids"))
        {
            input = input.with_types(TextInput::from_padded(&types.i64s(), &mask, len).ids);
        }
        (input, mask)
    }

    /// `inputs.{call}.pixel_values`.
    pub(crate) fn pixels(&self, call: &str) -> Tensor<4> {
        let golden = self.case.tensor(&format!("inputs.{call}.pixel_values"));
        let data = TensorData::new(golden.f32s(), golden.shape.clone());
        Tensor::from_data(data, &self.device)
    }
}
