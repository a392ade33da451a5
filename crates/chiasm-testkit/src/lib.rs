//! What tests share: where fixtures and data lie, how a case is read, how numbers are compared.
//!
//! Only ever a dev-dependency. Panics are the way a test fails, so they are allowed here.
#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr
)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

/// Folder of the fixtures: `CHIASM_FIXTURES`, else `../shared/fixtures` beside the checkout.
#[must_use]
pub fn fixtures_dir() -> PathBuf {
    std::env::var_os("CHIASM_FIXTURES").map_or_else(|| shared_dir().join("fixtures"), PathBuf::from)
}

/// Folder of the shared material beside the checkout.
#[must_use]
pub fn shared_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared")
}

/// True when `path` is there. Otherwise prints why the test is skipped, or fails when
/// `CHIASM_REQUIRE_SHARED` says that nothing may be skipped (`.ci/run` sets it where the shared
/// folder exists).
#[must_use]
pub fn available(path: &Path) -> bool {
    if path.exists() {
        return true;
    }
    assert!(
        std::env::var_os("CHIASM_REQUIRE_SHARED").is_none(),
        "{} is missing although CHIASM_REQUIRE_SHARED is set",
        path.display()
    );
    eprintln!("skipped: {} is missing", path.display());
    false
}

/// A tensor of a fixture, widened to f64.
#[derive(Clone, Debug)]
pub struct Golden {
    /// Sizes of the axes.
    pub shape: Vec<usize>,
    /// Row-major values.
    pub values: Vec<f64>,
}

impl Golden {
    /// The rows along the last axis where `mask` is 1, `[rows, last]`: of what a padding reference
    /// gives, the part that means something.
    #[must_use]
    pub fn rows_where(&self, mask: &[i64]) -> Self {
        let width = self.shape.last().copied().unwrap_or(1).max(1);
        let rows = self.values.chunks_exact(width).zip(mask);
        let values: Vec<f64> = rows
            .filter(|(_, keep)| **keep == 1)
            .flat_map(|(row, _)| row.to_vec())
            .collect();
        Self {
            shape: vec![values.len() / width, width],
            values,
        }
    }

    /// Values as f32.
    #[must_use]
    pub fn f32s(&self) -> Vec<f32> {
        self.values.iter().map(|value| *value as f32).collect()
    }

    /// Values as i64.
    #[must_use]
    pub fn i64s(&self) -> Vec<i64> {
        self.values.iter().map(|value| *value as i64).collect()
    }

    /// Values as u8; every one must be a whole number that fits.
    #[must_use]
    pub fn u8s(&self) -> Vec<u8> {
        let narrow = |value: &f64| {
            let narrowed = *value as u8;
            assert!(f64::from(narrowed) == *value, "{value} is no u8");
            narrowed
        };
        self.values.iter().map(narrow).collect()
    }

    /// The only value.
    #[must_use]
    pub fn scalar(&self) -> f64 {
        assert_eq!(self.values.len(), 1, "not a scalar");
        self.values[0]
    }
}

/// The case folders of a group in alphabetical order, or `None` (with a message) when the fixtures are
/// absent. A group without a case fails.
#[must_use]
pub fn cases(group: &str) -> Option<Vec<PathBuf>> {
    let folder = fixtures_dir().join(group);
    if !available(&folder) {
        return None;
    }
    let entries =
        std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut found: Vec<PathBuf> = entries
        .map(|entry| entry.expect("an entry of the fixtures").path())
        .filter(|path| path.join("case.json").is_file())
        .collect();
    assert!(!found.is_empty(), "no case in {}", folder.display());
    found.sort();
    Some(found)
}

/// One fixture case: its description and its tensors.
pub struct Case {
    /// Its folder.
    pub dir: PathBuf,
    /// `case.json`.
    pub json: Value,
    /// `tensors.safetensors`, joined over `weights_from`.
    pub tensors: BTreeMap<String, Golden>,
}

impl Case {
    /// Opens `group/case`, or `None` (with a message) when the fixtures are absent.
    #[must_use]
    pub fn open(name: &str) -> Option<Self> {
        let dir = fixtures_dir().join(name);
        available(&dir).then(|| Self::at(&dir))
    }

    /// Reads the case in the folder `dir`, which must be there.
    #[must_use]
    pub fn at(dir: &Path) -> Self {
        let json: Value = serde_json::from_slice(&read(&dir.join("case.json"))).expect("case.json");
        let mut tensors = BTreeMap::new();
        if let Some(sources) = json["weights_from"].as_array() {
            for source in sources {
                let other = fixtures_dir().join(source.as_str().expect("weights_from"));
                let loaded = read_tensors(&other.join("tensors.safetensors"));
                tensors.extend(
                    loaded
                        .into_iter()
                        .filter(|(name, _)| name.starts_with("weights.")),
                );
            }
        }
        let own = dir.join("tensors.safetensors");
        if own.exists() {
            tensors.extend(read_tensors(&own));
        }
        Self {
            dir: dir.to_owned(),
            json,
            tensors,
        }
    }

    /// Content of a file of the case that must be there.
    #[must_use]
    pub fn file(&self, name: &str) -> Vec<u8> {
        read(&self.dir.join(name))
    }

    /// A tensor that must be there.
    #[must_use]
    pub fn tensor(&self, name: &str) -> &Golden {
        self.tensors
            .get(name)
            .unwrap_or_else(|| panic!("{}: no tensor `{name}`", self.dir.display()))
    }

    /// Tensors whose name starts with `prefix`, the prefix removed.
    pub fn with_prefix<'a>(
        &'a self,
        prefix: &'a str,
    ) -> impl Iterator<Item = (&'a str, &'a Golden)> {
        self.tensors
            .iter()
            .filter_map(move |(name, tensor)| name.strip_prefix(prefix).map(|rest| (rest, tensor)))
    }

    /// A whole number of `config`.
    #[must_use]
    pub fn size(&self, key: &str) -> usize {
        self.json["config"][key]
            .as_u64()
            .unwrap_or_else(|| panic!("config.{key}")) as usize
    }

    /// A fraction of `config`.
    #[must_use]
    pub fn ratio(&self, key: &str) -> f64 {
        self.json["config"][key]
            .as_f64()
            .unwrap_or_else(|| panic!("config.{key}"))
    }

    /// A tolerance; 0 when the case says `exact` or does not name it.
    #[must_use]
    pub fn tolerance(&self, key: &str) -> f64 {
        self.json["tolerance"][key].as_f64().unwrap_or(0.0)
    }

    /// Activations: within the absolute tolerance of the case.
    pub fn assert_activations(&self, what: &str, found: &[f32], expected: &Golden) {
        assert_close(
            what,
            found,
            expected,
            self.tolerance("activations_abs"),
            0.0,
        );
    }

    /// A loss: within the case's tolerance.
    pub fn assert_loss(&self, what: &str, found: f64, expected: &Golden) {
        let (abs, rel) = (self.tolerance("loss_abs"), self.tolerance("loss_rel"));
        let want = expected.scalar();
        assert!(
            (found - want).abs() <= abs.max(rel * want.abs()),
            "{what}: {found} instead of {want}"
        );
    }

    /// A gradient: the relative part is taken of the tensor's largest entry.
    pub fn assert_gradient(&self, what: &str, found: &[f32], expected: &Golden) {
        let largest = expected
            .values
            .iter()
            .fold(0.0f64, |max, value| max.max(value.abs()));
        let allowed = self
            .tolerance("grad_abs")
            .max(self.tolerance("grad_rel") * largest);
        assert_close(what, found, expected, allowed, 0.0);
    }
}

/// Every entry within `abs` or `rel` of the expected one.
pub fn assert_close(what: &str, found: &[f32], expected: &Golden, abs: f64, rel: f64) {
    assert_eq!(
        found.len(),
        expected.values.len(),
        "{what}: number of values"
    );
    for (index, (found, want)) in found.iter().zip(&expected.values).enumerate() {
        let difference = (f64::from(*found) - want).abs();
        assert!(
            difference <= abs || difference <= rel * want.abs(),
            "{what}[{index}]: {found} instead of {want}"
        );
    }
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn read_tensors(path: &Path) -> BTreeMap<String, Golden> {
    let bytes = read(path);
    let file = SafeTensors::deserialize(&bytes).expect("safetensors");
    file.tensors()
        .into_iter()
        .map(|(name, view)| {
            let data = view.data();
            let values = match view.dtype() {
                Dtype::F32 => data
                    .chunks_exact(4)
                    .map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap())))
                    .collect(),
                Dtype::F64 => data
                    .chunks_exact(8)
                    .map(|b| f64::from_le_bytes(b.try_into().unwrap()))
                    .collect(),
                Dtype::I64 => data
                    .chunks_exact(8)
                    .map(|b| i64::from_le_bytes(b.try_into().unwrap()) as f64)
                    .collect(),
                Dtype::U8 => data.iter().map(|b| f64::from(*b)).collect(),
                other => panic!("{name}: unsupported fixture type {other:?}"),
            };
            let shape = view.shape().to_vec();
            (name, Golden { shape, values })
        })
        .collect()
}
