//! Reading a `config.json`: every value with its key in the error, and sizes with a limit.

use serde_json::Value;

use crate::config::Activation;
use crate::weights::WeightError;

/// Largest width, table or number of tokens that is believed. Weights are compared with the file
/// before they cost memory; this keeps products of two sizes far from the end of the numbers.
const MAX_SIZE: u64 = 1 << 24;

/// Most blocks that are believed: each costs memory before its weights are compared.
const MAX_LAYERS: usize = 1024;

/// The object of a configuration.
#[derive(Clone, Copy)]
pub(super) struct Keys<'a>(&'a Value);

impl<'a> Keys<'a> {
    pub(super) fn new(json: &'a Value) -> Self {
        Self(json)
    }

    /// The object under a key; an empty one where there is none.
    pub(super) fn inner(self, key: &str) -> Self {
        Self(self.0.get(key).unwrap_or(&Value::Null))
    }

    /// A value that is there and not null.
    fn get(self, key: &str) -> Option<&'a Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    /// A text.
    pub(super) fn text(self, key: &str) -> Option<&'a str> {
        self.get(key).and_then(Value::as_str)
    }

    /// A size, at least 1; `default` where the key is not there.
    pub(super) fn size_or(self, key: &str, default: usize) -> Result<usize, WeightError> {
        let Some(value) = self.get(key) else {
            return Ok(default);
        };
        match value.as_u64() {
            Some(size @ 1..=MAX_SIZE) => Ok(size as usize),
            _ => Err(wrong(
                key,
                &format!("is {value}, it must be in 1..={MAX_SIZE}"),
            )),
        }
    }

    /// A size that must be there.
    pub(super) fn size(self, key: &str) -> Result<usize, WeightError> {
        match self.get(key) {
            Some(_) => self.size_or(key, 0),
            None => Err(wrong(key, "is missing")),
        }
    }

    /// A number of blocks.
    pub(super) fn layers_or(self, key: &str, default: usize) -> Result<usize, WeightError> {
        match self.size_or(key, default)? {
            layers if layers <= MAX_LAYERS => Ok(layers),
            layers => Err(wrong(
                key,
                &format!("is {layers}, at most {MAX_LAYERS} are read"),
            )),
        }
    }

    /// A number of heads, which divides the width.
    pub(super) fn heads_or(
        self,
        key: &str,
        default: usize,
        width: usize,
    ) -> Result<usize, WeightError> {
        match self.size_or(key, default)? {
            heads if width.is_multiple_of(heads) => Ok(heads),
            heads => Err(wrong(
                key,
                &format!("is {heads}, it must divide the width {width}"),
            )),
        }
    }

    /// A positive number.
    pub(super) fn number_or(self, key: &str, default: f64) -> Result<f64, WeightError> {
        match self.get(key) {
            None => Ok(default),
            Some(value) => value
                .as_f64()
                .filter(|number| number.is_finite() && *number > 0.0)
                .ok_or_else(|| wrong(key, &format!("is {value}, it must be above 0"))),
        }
    }

    /// An id of a token.
    pub(super) fn id_or(self, key: &str, default: u32) -> Result<u32, WeightError> {
        match self.get(key) {
            None => Ok(default),
            Some(value) => value
                .as_u64()
                .and_then(|id| u32::try_from(id).ok())
                .ok_or_else(|| wrong(key, &format!("is {value}, it must be a token id"))),
        }
    }

    /// An activation by its published name.
    pub(super) fn activation_or(
        self,
        key: &str,
        default: Activation,
    ) -> Result<Activation, WeightError> {
        match self.get(key) {
            None => Ok(default),
            Some(value) => value
                .as_str()
                .and_then(Activation::published)
                .ok_or_else(|| {
                    let known = "gelu, gelu_new, gelu_pytorch_tanh, quick_gelu, relu";
                    wrong(key, &format!("is {value}; what is read is {known}"))
                }),
        }
    }

    /// Refuses any value of a key but this one, where the key is there.
    pub(super) fn must_be(self, key: &str, only: &Value) -> Result<(), WeightError> {
        match self.get(key) {
            Some(value) if value != only => {
                Err(wrong(key, &format!("is {value}, only {only} is read")))
            }
            _ => Ok(()),
        }
    }
}

/// A key with a value that no model can be built from.
pub(super) fn wrong(key: &str, problem: &str) -> WeightError {
    WeightError::Config(format!("`{key}` {problem}"))
}
