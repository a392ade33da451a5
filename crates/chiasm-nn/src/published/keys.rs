//! Values of a `config.json`, read so that every complaint names its key.

use serde_json::Value;

use crate::config::Activation;
use crate::weights::WeightError;

/// Far above every size of a published model: what is beyond it is a mistake.
const LARGEST: u64 = 1 << 22;

/// A `config.json`.
#[derive(Clone, Copy)]
pub(crate) struct Keys<'a>(pub(crate) &'a Value);

impl Keys<'_> {
    /// Refuses the file of another family.
    pub(crate) fn require_type(self, expected: &str) -> Result<(), WeightError> {
        match self.0.get("model_type") {
            Some(Value::String(found)) if found == expected => Ok(()),
            found => Err(refused("model_type", found, &format!("\"{expected}\""))),
        }
    }

    /// A whole number from 1 on.
    pub(crate) fn size(self, key: &str) -> Result<usize, WeightError> {
        let found = self.0.get(key);
        found
            .and_then(Value::as_u64)
            .filter(|size| (1..=LARGEST).contains(size))
            .and_then(|size| usize::try_from(size).ok())
            .ok_or_else(|| refused(key, found, &format!("a whole number from 1 to {LARGEST}")))
    }

    /// A number of at least 0, or the default where the key is missing.
    pub(crate) fn number_or(self, key: &str, default: f64) -> Result<f64, WeightError> {
        let Some(found) = self.0.get(key) else {
            return Ok(default);
        };
        let number = found.as_f64().filter(|number| *number >= 0.0);
        number.ok_or_else(|| refused(key, Some(found), "a number of at least 0"))
    }

    /// Attention heads, which must divide the width.
    pub(crate) fn heads(self, key: &str, width: usize) -> Result<usize, WeightError> {
        let heads = self.size(key)?;
        if width.is_multiple_of(heads) {
            return Ok(heads);
        }
        let wanted = format!("a number that divides the width {width}");
        Err(refused(key, self.0.get(key), &wanted))
    }

    /// The activation, `gelu` where the key is missing.
    pub(crate) fn activation(self, key: &str) -> Result<Activation, WeightError> {
        let Some(found) = self.0.get(key) else {
            return Ok(Activation::Gelu);
        };
        let activation = found.as_str().and_then(Activation::published);
        activation.ok_or_else(|| refused(key, Some(found), "an activation that is known"))
    }

    /// Refuses a switch that is on where it can only be off.
    pub(crate) fn require_off(self, key: &str) -> Result<(), WeightError> {
        match self.0.get(key) {
            None | Some(Value::Null | Value::Bool(false)) => Ok(()),
            found => Err(refused(key, found, "false")),
        }
    }
}

fn refused(key: &str, found: Option<&Value>, wanted: &str) -> WeightError {
    WeightError::Config(match found {
        None => format!("`{key}` is missing; {wanted} is expected"),
        Some(found) => format!("`{key}` is {found}; {wanted} is expected"),
    })
}
