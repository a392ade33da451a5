//! Reads parity fixtures: a folder per case with `case.json` and `tensors.safetensors`.

use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

/// One case of a fixture group.
pub(crate) struct Case {
    /// Folder of the case.
    pub(crate) folder: PathBuf,
    /// Content of `case.json`.
    pub(crate) json: Value,
    bytes: Vec<u8>,
}

/// The folder of a group, or `None` with a message when there are no fixtures here.
pub(crate) fn group(name: &str) -> Option<PathBuf> {
    let root = std::env::var_os("CHIASM_FIXTURES").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/fixtures"),
        PathBuf::from,
    );
    let folder = root.join(name);
    if folder.is_dir() {
        return Some(folder);
    }
    eprintln!(
        "skipped: fixtures `{}` missing; set CHIASM_FIXTURES",
        folder.display()
    );
    None
}

impl Case {
    /// Opens a case, or says that it is missing.
    pub(crate) fn open(folder: &Path) -> Option<Self> {
        let text = match std::fs::read_to_string(folder.join("case.json")) {
            Ok(text) => text,
            Err(error) => {
                eprintln!("skipped: case `{}` missing ({error})", folder.display());
                return None;
            }
        };
        let json = serde_json::from_str(&text).expect("case.json is JSON");
        let bytes = std::fs::read(folder.join("tensors.safetensors")).expect("tensors.safetensors");
        Some(Self {
            folder: folder.to_owned(),
            json,
            bytes,
        })
    }

    /// Names of all tensors that start with `expected.`, without that prefix.
    pub(crate) fn expected_names(&self) -> Vec<String> {
        let mut names: Vec<String> = self
            .tensors()
            .names()
            .iter()
            .filter_map(|name| name.strip_prefix("expected."))
            .map(str::to_owned)
            .collect();
        names.sort_unstable();
        names
    }

    /// Shape and values of an 8-bit tensor.
    pub(crate) fn u8(&self, name: &str) -> (Vec<usize>, Vec<u8>) {
        let tensors = self.tensors();
        let view = tensors.tensor(&format!("expected.{name}")).expect(name);
        assert_eq!(view.dtype(), Dtype::U8, "{name}");
        (view.shape().to_vec(), view.data().to_vec())
    }

    /// Shape and values of a float tensor.
    pub(crate) fn f32(&self, name: &str) -> (Vec<usize>, Vec<f32>) {
        let tensors = self.tensors();
        let view = tensors.tensor(&format!("expected.{name}")).expect(name);
        assert_eq!(view.dtype(), Dtype::F32, "{name}");
        let values = view
            .data()
            .chunks_exact(4)
            .map(|bytes| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
            .collect();
        (view.shape().to_vec(), values)
    }

    /// A tolerance; the word `exact` is 0.
    pub(crate) fn tolerance(&self, key: &str) -> f64 {
        let value = &self.json["tolerance"][key];
        match value.as_str() {
            Some("exact") => 0.0,
            _ => value
                .as_f64()
                .unwrap_or_else(|| panic!("tolerance `{key}` is {value}")),
        }
    }

    fn tensors(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.bytes).expect("tensors.safetensors parses")
    }
}
