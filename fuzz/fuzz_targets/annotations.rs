//! Any bytes are a file of annotations or an error, whatever format they are taken for: the first
//! byte chooses it. Streaming of JSON, markup and tables is behind it.
#![no_main]

use std::sync::LazyLock;

use chiasm_data::readers::FORMATS;
use chiasm_data::{OpenOptions, open};
use libfuzzer_sys::fuzz_target;

static FOLDER: LazyLock<tempfile::TempDir> =
    LazyLock::new(|| tempfile::tempdir().expect("temporary folder"));

fuzz_target!(|data: &[u8]| {
    let Some((choice, content)) = data.split_first() else {
        return;
    };
    let format = &FORMATS[usize::from(*choice) % FORMATS.len()];
    let path = FOLDER.path().join("fuzz.json");
    std::fs::write(&path, content).expect("temporary file");
    let options = OpenOptions {
        format: Some(format.name.to_owned()),
        ..OpenOptions::default()
    };
    let _ = open(&path, &options);
});
