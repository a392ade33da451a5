//! Values of a `config.json`, read so that every complaint names its key.

use serde_json::Value;

use crate::config::Activation;
use crate::weights::WeightError;

/// Largest size that any published model of this kind is near: what is beyond it is a damaged file.
/// Weights are compared with the file before they cost memory, so this only keeps products of two
/// sizes far from the end of the numbers.
const LARGEST: u64 = 1 << 22;

/// Most blocks that are believed: each costs memory before its weights are compared.
const MOST_LAYERS: usize = 1024;

/// A `config.json`, or an object in it. A key whose value is null is missing.
#[derive(Clone, Copy)]
pub(crate) struct Keys<'a>(pub(crate) &'a Value);

impl<'a> Keys<'a> {
    fn get(self, key: &str) -> Option<&'a Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    /// The object under a key; one without keys if there is none.
    pub(crate) fn inner(self, key: &str) -> Self {
        Self(self.0.get(key).unwrap_or(&Value::Null))
    }

    /// A text, if there is one.
    pub(crate) fn text(self, key: &str) -> Option<&'a str> {
        self.get(key).and_then(Value::as_str)
    }

    /// Refuses the file of another family.
    pub(crate) fn require_type(self, expected: &str) -> Result<(), WeightError> {
        match self.text("model_type") {
            Some(found) if found == expected => Ok(()),
            _ => Err(self.refused("model_type", &format!("\"{expected}\""))),
        }
    }

    /// A whole number from 1 on.
    pub(crate) fn size(self, key: &str) -> Result<usize, WeightError> {
        self.get(key)
            .and_then(Value::as_u64)
            .filter(|size| (1..=LARGEST).contains(size))
            .and_then(|size| usize::try_from(size).ok())
            .ok_or_else(|| self.refused(key, &format!("a whole number from 1 to {LARGEST}")))
    }

    /// As [`Self::size`], or the default where the key is missing.
    pub(crate) fn size_or(self, key: &str, default: usize) -> Result<usize, WeightError> {
        self.get(key).map_or(Ok(default), |_| self.size(key))
    }

    /// A number of blocks, or the default where the key is missing.
    pub(crate) fn layers_or(self, key: &str, default: usize) -> Result<usize, WeightError> {
        match self.size_or(key, default)? {
            layers if layers <= MOST_LAYERS => Ok(layers),
            _ => Err(self.refused(key, &format!("at most {MOST_LAYERS}"))),
        }
    }

    /// A token id, or the default where the key is missing.
    pub(crate) fn id_or(self, key: &str, default: u32) -> Result<u32, WeightError> {
        let Some(found) = self.get(key) else {
            return Ok(default);
        };
        let id = found.as_u64().and_then(|id| u32::try_from(id).ok());
        id.ok_or_else(|| self.refused(key, "a token id"))
    }

    /// A number of at least 0, or the default where the key is missing.
    pub(crate) fn number_or(self, key: &str, default: f64) -> Result<f64, WeightError> {
        let Some(found) = self.get(key) else {
            return Ok(default);
        };
        let number = found.as_f64().filter(|number| *number >= 0.0);
        number.ok_or_else(|| self.refused(key, "a number of at least 0"))
    }

    /// Attention heads, which must divide the width.
    pub(crate) fn heads(self, key: &str, width: usize) -> Result<usize, WeightError> {
        self.divides(key, self.size(key)?, width)
    }

    /// As [`Self::heads`], or the default where the key is missing.
    pub(crate) fn heads_or(
        self,
        key: &str,
        default: usize,
        width: usize,
    ) -> Result<usize, WeightError> {
        self.divides(key, self.size_or(key, default)?, width)
    }

    fn divides(self, key: &str, heads: usize, width: usize) -> Result<usize, WeightError> {
        if width.is_multiple_of(heads) {
            return Ok(heads);
        }
        Err(self.refused(key, &format!("a number that divides the width {width}")))
    }

    /// The activation, `gelu` where the key is missing.
    pub(crate) fn activation(self, key: &str) -> Result<Activation, WeightError> {
        self.activation_or(key, Activation::Gelu)
    }

    /// The activation, or the default where the key is missing.
    pub(crate) fn activation_or(
        self,
        key: &str,
        default: Activation,
    ) -> Result<Activation, WeightError> {
        let Some(found) = self.get(key) else {
            return Ok(default);
        };
        let known = "one of gelu, gelu_new, gelu_pytorch_tanh, quick_gelu and relu";
        let activation = found.as_str().and_then(Activation::published);
        activation.ok_or_else(|| self.refused(key, known))
    }

    /// Refuses a switch that is on where it can only be off.
    pub(crate) fn require_off(self, key: &str) -> Result<(), WeightError> {
        self.require(key, &Value::Bool(false))
    }

    /// Refuses any value but this one where the key is there.
    pub(crate) fn require(self, key: &str, only: &Value) -> Result<(), WeightError> {
        match self.get(key) {
            Some(found) if found != only => Err(self.refused(key, &only.to_string())),
            _ => Ok(()),
        }
    }

    /// The complaint about a key: what it has, and what it should.
    pub(crate) fn refused(self, key: &str, wanted: &str) -> WeightError {
        WeightError::Config(match self.get(key) {
            None => format!("`{key}` is missing; {wanted} is expected"),
            Some(found) => format!("`{key}` is {found}; {wanted} is expected"),
        })
    }
}
