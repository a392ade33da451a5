//! Any bytes are a checkpoint or an error, and what is listed can be read and is as long as listed.
#![no_main]

use std::sync::Arc;

use chiasm_format::pickle::Limits;
use chiasm_format::torch::TorchFile;
use chiasm_format::{Archive, ByteSource};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = TorchFile::open(Arc::new(ByteSource::from_memory("fuzz", data)), &Limits::default());
    let Ok(archive) = Archive::from_bytes("fuzz", data) else {
        return;
    };
    for tensor in archive.tensors().iter().take(100) {
        if let Ok(read) = archive.read(&tensor.name) {
            assert_eq!(read.data.len() as u64, tensor.bytes);
        }
    }
});
