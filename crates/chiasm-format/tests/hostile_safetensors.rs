//! Safetensors files and indices that nobody should have written.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod common;

use std::fs;

use chiasm_format::safetensors::{MAX_HEADER, SafetensorsFile};
use chiasm_format::{Archive, ByteSource, FormatError};
use common::{cat, safetensors};
use proptest::prelude::*;

fn one(dtype: &str, shape: &str, from: &str, to: &str) -> String {
    format!(r#"{{"a":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{from},{to}]}}}}"#)
}

fn corpus() -> Vec<(&'static str, Vec<u8>)> {
    let of = |header: &str, data: usize| safetensors(header, &vec![0; data]);
    let tensor = |dtype: &str, shape: &str, from: &str, to: &str, data: usize| {
        of(&one(dtype, shape, from, to), data)
    };
    let two = |first: &str, second: &str, data: usize| {
        let entry = |name: &str, range: &str| {
            format!(r#""{name}":{{"dtype":"U8","shape":[4],"data_offsets":[{range}]}}"#)
        };
        of(
            &format!("{{{},{}}}", entry("a", first), entry("b", second)),
            data,
        )
    };
    vec![
        ("nothing", Vec::new()),
        ("seven bytes", vec![0; 7]),
        ("a length and nothing", vec![8, 0, 0, 0, 0, 0, 0, 0]),
        ("a header of 2^64 bytes", cat(&[&[0xff; 8], b"{}"])),
        (
            "a header above the cap",
            cat(&[&(MAX_HEADER + 1).to_le_bytes(), b"{}"]),
        ),
        (
            "a header longer than the file",
            cat(&[&100_u64.to_le_bytes(), b"{}"]),
        ),
        ("an empty header", of("", 0)),
        ("a header that is no JSON", of("hello", 0)),
        ("a header that is a list", of("[]", 0)),
        (
            "a header that is not UTF-8",
            cat(&[&4_u64.to_le_bytes(), b"{\"\xff\""]),
        ),
        ("a header that is cut", of(r#"{"a":{"dtype":"U8""#, 0)),
        ("two headers", of("{}{}", 0)),
        ("100,000 brackets", of(&"[".repeat(100_000), 0)),
        (
            "brackets in a tensor",
            of(&format!("{{\"a\":{}", "[".repeat(100_000)), 0),
        ),
        ("a tensor that is a number", of(r#"{"a":1}"#, 0)),
        ("an unknown type", tensor("X9", "[1]", "0", "1", 1)),
        (
            "no type",
            of(r#"{"a":{"shape":[1],"data_offsets":[0,1]}}"#, 1),
        ),
        (
            "no shape",
            of(r#"{"a":{"dtype":"U8","data_offsets":[0,1]}}"#, 1),
        ),
        ("no place", of(r#"{"a":{"dtype":"U8","shape":[1]}}"#, 1)),
        (
            "three places",
            of(
                r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1,2]}}"#,
                1,
            ),
        ),
        ("a size below zero", tensor("U8", "[-1]", "0", "1", 1)),
        (
            "a size that is no whole number",
            tensor("U8", "[1.5]", "0", "1", 1),
        ),
        (
            "a size beyond 64 bits",
            tensor("U8", "[36893488147419103232]", "0", "1", 1),
        ),
        (
            "a shape that overflows",
            tensor("U8", "[4294967296,4294967297]", "0", "4294967296", 1),
        ),
        (
            "a size that overflows in bytes",
            tensor("F64", "[2305843009213693952]", "0", "0", 0),
        ),
        (
            "more axes than anybody has",
            tensor("U8", &format!("{:?}", [1; 17]), "0", "1", 1),
        ),
        (
            "a million axes",
            tensor("U8", &format!("[{}1]", "1,".repeat(1_000_000)), "0", "1", 1),
        ),
        ("a tensor behind the end", tensor("U8", "[4]", "0", "4", 3)),
        (
            "a tensor of 16 EiB",
            tensor(
                "U8",
                "[18446744073709551615]",
                "0",
                "18446744073709551615",
                3,
            ),
        ),
        (
            "a place that runs backwards",
            tensor("U8", "[4]", "4", "0", 4),
        ),
        (
            "a shape larger than its place",
            tensor("F32", "[100]", "0", "4", 4),
        ),
        (
            "a shape smaller than its place",
            tensor("F32", "[1]", "0", "8", 8),
        ),
        ("half a byte", tensor("F4", "[3]", "0", "1", 1)),
        ("a gap before the first", tensor("U8", "[4]", "1", "5", 5)),
        (
            "bytes that belong to nobody",
            tensor("U8", "[4]", "0", "4", 5),
        ),
        ("only bytes that belong to nobody", of("{}", 5)),
        ("a gap between two", two("0,4", "5,9", 9)),
        ("an overlap of two", two("0,4", "3,7", 7)),
        ("two at one place", two("0,4", "0,4", 4)),
        (
            "one name twice",
            of(
                r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}"#,
                2,
            ),
        ),
        (
            "metadata twice",
            of(r#"{"__metadata__":{},"__metadata__":{}}"#, 0),
        ),
        (
            "metadata that are numbers",
            of(r#"{"__metadata__":{"a":1}}"#, 0),
        ),
        ("metadata that are a list", of(r#"{"__metadata__":[]}"#, 0)),
        (
            "metadata that are deep",
            of(
                &format!("{{\"__metadata__\":{}", "{\"a\":".repeat(100_000)),
                0,
            ),
        ),
    ]
}

fn open(bytes: Vec<u8>) -> Result<SafetensorsFile, FormatError> {
    SafetensorsFile::open(ByteSource::from_memory("hostile", bytes).into())
}

#[test]
fn hostile_files_are_errors() {
    let corpus = corpus();
    assert!(corpus.len() >= 30);
    for (reason, bytes) in corpus {
        assert!(open(bytes.clone()).is_err(), "{reason} was read");
        // Whatever it is taken for, it is not read.
        assert!(
            Archive::from_bytes("hostile", bytes).is_err(),
            "{reason} was read"
        );
    }
}

#[test]
fn odd_files_that_are_right_are_read() {
    for (reason, bytes, count) in [
        ("no tensor", safetensors("{}", &[]), 0),
        (
            "an empty tensor",
            safetensors(&one("F32", "[0,7]", "0", "0"), &[]),
            1,
        ),
        (
            "a single number",
            safetensors(&one("F32", "[]", "0", "4"), &[0; 4]),
            1,
        ),
        (
            "a padded header",
            safetensors(&format!("{}   ", one("U8", "[1]", "0", "1")), &[0]),
            1,
        ),
    ] {
        assert_eq!(open(bytes).unwrap().tensors().len(), count, "{reason}");
    }
}

#[test]
fn hostile_indices_are_errors() {
    let shard = safetensors(&one("U8", "[1]", "0", "1"), &[7]);
    let map = |map: &str| format!(r#"{{"weight_map":{map}}}"#);
    let many: Vec<String> = (0..1001)
        .map(|shard| format!("\"{shard}\":\"{shard}\""))
        .collect();
    let corpus = [
        ("nothing", String::new()),
        ("no JSON", "hello".into()),
        ("a list", "[]".into()),
        ("no map", "{}".into()),
        ("an empty map", map("{}")),
        ("a map that is a list", map("[]")),
        ("a shard that is a number", map(r#"{"a":1}"#)),
        ("a missing shard", map(r#"{"a":"b.safetensors"}"#)),
        (
            "a missing shard among others",
            map(r#"{"a":"shard","b":"nothing"}"#),
        ),
        ("a tensor that its shard lacks", map(r#"{"b":"shard"}"#)),
        ("a shard above the folder", map(r#"{"a":"../shard"}"#)),
        (
            "a shard above the folder and back",
            map(r#"{"a":"in/../shard"}"#),
        ),
        ("a shard by its full path", map(r#"{"a":"/etc/passwd"}"#)),
        ("a shard in a folder", map(r#"{"a":"in/shard"}"#)),
        ("a shard in this folder", map(r#"{"a":"./shard"}"#)),
        (
            "a shard by the path of another system",
            map(r#"{"a":"..\\shard"}"#),
        ),
        ("the folder itself", map(r#"{"a":"."}"#)),
        ("the folder above", map(r#"{"a":".."}"#)),
        ("a shard without a name", map(r#"{"a":""}"#)),
        ("a shard with a zero byte", map(r#"{"a":"sh\u0000ard"}"#)),
        (
            "the index itself",
            map(r#"{"a":"model.safetensors.index.json"}"#),
        ),
        ("a folder", map(r#"{"a":"in"}"#)),
        (
            "more shards than anybody has",
            map(&format!("{{{}}}", many.join(","))),
        ),
        ("100,000 brackets", "[".repeat(100_000)),
    ];
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    fs::create_dir(path.join("in")).unwrap();
    fs::write(path.join("in/shard"), &shard).unwrap();
    fs::write(path.join("shard"), &shard).unwrap();
    let index = path.join("model.safetensors.index.json");
    fs::write(&index, map(r#"{"a":"shard"}"#)).unwrap();
    assert_eq!(Archive::open(path).unwrap().read("a").unwrap().data, [7]);
    for (reason, text) in corpus {
        fs::write(&index, text).unwrap();
        let error = Archive::open(path).map(|_| ()).expect_err(reason);
        assert!(error.to_string().len() < 1000, "{reason}");
    }
}

#[cfg(unix)]
#[test]
fn a_pipe_is_refused_and_not_waited_for() {
    use std::os::unix::net::UnixListener;
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("model.safetensors");
    let _listener = UnixListener::bind(&socket).unwrap();
    assert!(matches!(
        Archive::open(&socket),
        Err(FormatError::Io { .. })
    ));
}

proptest! {
    #![proptest_config(common::cases(256))]

    #[test]
    fn any_bytes_are_a_file_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = open(bytes.clone());
        let _ = Archive::from_bytes("any", bytes);
    }

    #[test]
    fn damaged_files_are_a_file_or_an_error(
        edits in prop::collection::vec((0_usize..1500, any::<u8>()), 1..6),
        keep in 0_usize..2500,
    ) {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut bytes = fs::read(folder.join("tests/samples/weights.safetensors")).unwrap();
        for (at, byte) in edits {
            bytes[at] = byte;
        }
        bytes.truncate(keep);
        if let Ok(file) = open(bytes) {
            for entry in file.tensors() {
                prop_assert!(file.read(entry).is_ok());
            }
        }
    }
}
