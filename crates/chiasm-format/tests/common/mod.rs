//! Pickles and checkpoints put together byte by byte, right or wrong.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "each test file uses its part"
)]

use std::io::{Cursor, Write};

use proptest::test_runner::{Config as ProptestConfig, RngSeed};
use zip::CompressionMethod;
use zip::write::{SimpleFileOptions, ZipWriter};

/// That many cases from a seed that is written down; failures are reported, not kept in files.
pub fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig {
        rng_seed: RngSeed::Fixed(4),
        failure_persistence: None,
        ..ProptestConfig::with_cases(cases)
    }
}

/// Bytes of a pickle without its `PROTO` and `STOP`.
pub type Code = Vec<u8>;

pub fn cat(parts: &[&[u8]]) -> Code {
    parts.concat()
}

pub fn program(code: &[u8]) -> Code {
    cat(&[b"\x80\x02", code, b"."])
}

pub fn text(text: &str) -> Code {
    cat(&[b"X", &(text.len() as u32).to_le_bytes(), text.as_bytes()])
}

pub fn int(value: i64) -> Code {
    cat(&[b"\x8a\x08", &value.to_le_bytes()])
}

pub fn global(module: &str, name: &str) -> Code {
    format!("c{module}\n{name}\n").into_bytes()
}

pub fn tuple(items: &[Code]) -> Code {
    cat(&[b"(", &items.concat(), b"t"])
}

pub fn ints(values: &[i64]) -> Code {
    let items: Vec<Code> = values.iter().map(|value| int(*value)).collect();
    tuple(&items)
}

pub fn dict(entries: &[(&str, Code)]) -> Code {
    let entries: Vec<Code> = entries
        .iter()
        .map(|(key, value)| cat(&[&text(key), value]))
        .collect();
    cat(&[b"}(", &entries.concat(), b"u"])
}

pub fn call(function: &[u8], args: &[Code]) -> Code {
    cat(&[function, &tuple(args), b"R"])
}

/// A reference to storage `key` of `numel` elements of `class`.
pub fn storage(class: &str, key: &str, numel: i64) -> Code {
    let id = tuple(&[
        text("storage"),
        global("torch", class),
        text(key),
        text("cpu"),
        int(numel),
    ]);
    cat(&[&id, b"Q"])
}

/// `_rebuild_tensor_v2` over `storage`.
pub fn tensor(storage: Code, first: i64, shape: &[i64], strides: &[i64]) -> Code {
    call(
        &global("torch._utils", "_rebuild_tensor_v2"),
        &[
            storage,
            int(first),
            ints(shape),
            ints(strides),
            b"\x89".to_vec(),
            b"N".to_vec(),
        ],
    )
}

/// A float tensor of `shape`, dense, in storage `key` of as many elements.
pub fn dense(key: &str, shape: &[i64]) -> Code {
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis];
    }
    let count = shape.iter().product();
    tensor(storage("FloatStorage", key, count), 0, shape, &strides)
}

pub fn zip_of(members: &[(&str, &[u8])], method: CompressionMethod) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(method);
    for (name, bytes) in members {
        zip.start_file(*name, options).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

/// A zip checkpoint with the pickle `root` and the storages given.
pub fn checkpoint(root: &[u8], storages: &[(&str, &[u8])]) -> Vec<u8> {
    checkpoint_with(root, storages, &[], CompressionMethod::Stored)
}

pub fn checkpoint_with(
    root: &[u8],
    storages: &[(&str, &[u8])],
    more: &[(&str, &[u8])],
    method: CompressionMethod,
) -> Vec<u8> {
    let root = program(root);
    let names: Vec<String> = storages
        .iter()
        .map(|(key, _)| format!("a/data/{key}"))
        .collect();
    let mut members: Vec<(&str, &[u8])> = vec![("a/data.pkl", &root)];
    members.extend(
        names
            .iter()
            .map(String::as_str)
            .zip(storages.iter().map(|(_, bytes)| *bytes)),
    );
    members.extend(more);
    zip_of(&members, method)
}

pub fn floats(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

/// The pickles of a checkpoint from before PyTorch 1.6, without its storages.
pub fn legacy(root: &[u8], keys: &[&str]) -> Vec<u8> {
    let system = dict(&[("little_endian", b"\x88".to_vec())]);
    let keys: Vec<Code> = keys.iter().map(|key| text(key)).collect();
    cat(&[
        &magic(),
        &program(&int(1001)),
        &program(&system),
        &program(root),
        &program(&cat(&[b"](", &keys.concat(), b"e"])),
    ])
}

pub fn magic() -> Vec<u8> {
    program(b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19")
}

/// A storage as an old file keeps it.
pub fn counted(elements: i64, bytes: &[u8]) -> Vec<u8> {
    cat(&[&elements.to_le_bytes(), bytes])
}

/// A safetensors file.
pub fn safetensors(header: &str, data: &[u8]) -> Vec<u8> {
    cat(&[
        &(header.len() as u64).to_le_bytes(),
        header.as_bytes(),
        data,
    ])
}
