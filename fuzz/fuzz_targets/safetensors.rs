//! Any bytes are a safetensors file or an error, and what is listed can be read and fits into the file.
#![no_main]

use std::sync::Arc;

use chiasm_format::ByteSource;
use chiasm_format::safetensors::SafetensorsFile;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(file) = SafetensorsFile::open(Arc::new(ByteSource::from_memory("fuzz", data))) else {
        return;
    };
    let mut bytes = 0;
    for entry in file.tensors() {
        bytes += file.read(entry).unwrap().data.len();
    }
    assert!(bytes < data.len());
});
