//! PyTorch checkpoints that nobody should have written, zipped and from before version 1.6.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod common;

use chiasm_format::{Archive, FormatError};
use common::{
    Code, call, cat, checkpoint, checkpoint_with, counted, dense, dict, floats, global, int, ints,
    legacy, magic, program, storage, tensor, text, tuple, zip_of,
};
use proptest::prelude::*;
use zip::CompressionMethod::{Deflated, Stored};

/// A checkpoint whose only tensor is `code`, over one storage of four floats.
fn with(code: Code) -> Vec<u8> {
    checkpoint(
        &dict(&[("w", code)]),
        &[("0", &floats(&[1.0, 2.0, 3.0, 4.0]))],
    )
}

fn four() -> Code {
    storage("FloatStorage", "0", 4)
}

/// Writes over the only place where `from` stands.
fn patch(mut bytes: Vec<u8>, from: &[u8], to: &[u8]) -> Vec<u8> {
    let places: Vec<usize> = (0..bytes.len())
        .filter(|at| bytes[*at..].starts_with(from))
        .collect();
    for at in places {
        bytes[at..at + to.len()].copy_from_slice(to);
    }
    bytes
}

/// Offsets of the records that begin with a signature.
fn records(bytes: &[u8], signature: &[u8]) -> Vec<usize> {
    (0..bytes.len())
        .filter(|at| bytes[*at..].starts_with(signature))
        .collect()
}

/// Sets four bytes at `at` of every record of the central directory.
fn in_directory(mut bytes: Vec<u8>, at: usize, value: u32) -> Vec<u8> {
    for record in records(&bytes, b"PK\x01\x02") {
        bytes[record + at..record + at + 4].copy_from_slice(&value.to_le_bytes());
    }
    bytes
}

fn zipped() -> Vec<(&'static str, Vec<u8>)> {
    let good = || with(dense("0", &[4]));
    let root = dict(&[("w", dense("0", &[4]))]);
    let data = floats(&[1.0, 2.0, 3.0, 4.0]);
    let pickled = program(&root);
    let member = |more: &[(&str, &[u8])]| checkpoint_with(&root, &[("0", &data)], more, Stored);
    let rebuild = |args: &[Code]| with(call(&global("torch._utils", "_rebuild_tensor_v2"), args));
    let flag = |bytes: Vec<u8>| in_directory(bytes, 8, 0x0000_0001);
    vec![
        // Tensors.
        (
            "a tensor larger than its storage",
            with(tensor(four(), 0, &[5], &[1])),
        ),
        (
            "a tensor that begins behind its storage",
            with(tensor(four(), 4, &[1], &[1])),
        ),
        (
            "a first element below zero",
            with(tensor(four(), -1, &[1], &[1])),
        ),
        (
            "a first element of 2^63 - 1",
            with(tensor(four(), i64::MAX, &[2], &[1])),
        ),
        (
            "a stride that leads out",
            with(tensor(four(), 0, &[2, 2], &[3, 1])),
        ),
        ("a stride below zero", with(tensor(four(), 3, &[4], &[-1]))),
        (
            "a stride that overflows",
            with(tensor(four(), 0, &[3, 3], &[i64::MAX, i64::MAX])),
        ),
        (
            "a shape that overflows",
            with(tensor(four(), 0, &[i64::MAX, 4], &[0, 1])),
        ),
        ("a size below zero", with(tensor(four(), 0, &[-4], &[1]))),
        (
            "one float repeated to a terabyte",
            with(tensor(four(), 0, &[1 << 38], &[0])),
        ),
        (
            "one float repeated along three axes",
            with(tensor(four(), 0, &[1 << 20; 3], &[0, 0, 0])),
        ),
        (
            "more sizes than strides",
            with(tensor(four(), 0, &[2, 2], &[1])),
        ),
        (
            "more axes than anybody has",
            with(tensor(four(), 0, &[1; 17], &[1; 17])),
        ),
        (
            "a storage with more elements than bytes",
            with(tensor(storage("DoubleStorage", "0", 4), 0, &[4], &[1])),
        ),
        (
            "a type of elements that is unknown",
            with(tensor(storage("QInt8Storage", "0", 4), 0, &[4], &[1])),
        ),
        ("a storage that is not there", with(dense("1", &[4]))),
        (
            "a storage out of the folder",
            with(dense("../../etc/passwd", &[4])),
        ),
        ("no arguments", rebuild(&[])),
        (
            "a storage that is a number",
            rebuild(&[int(0), int(0), ints(&[4]), ints(&[1])]),
        ),
        (
            "a shape that is a number",
            rebuild(&[four(), int(0), int(4), ints(&[1])]),
        ),
        (
            "a shape of texts",
            rebuild(&[four(), int(0), tuple(&[text("4")]), ints(&[1])]),
        ),
        (
            "a reference that is no storage",
            with(cat(&[&tuple(&[text("module"), text("0")]), b"Q"])),
        ),
        (
            "a reference that is a text",
            with(b"Pmy storage\n".to_vec()),
        ),
        (
            "a parameter in a parameter",
            with(call(
                &global("torch._utils", "_rebuild_parameter"),
                &[call(
                    &global("torch._utils", "_rebuild_parameter"),
                    &[dense("0", &[4])],
                )],
            )),
        ),
        (
            "a name of 2,000 bytes",
            checkpoint(
                &dict(&[(&"n".repeat(2000), dense("0", &[4]))]),
                &[("0", &data)],
            ),
        ),
        (
            "one name twice",
            checkpoint(
                &dict(&[
                    ("a.b", dense("0", &[4])),
                    ("a", dict(&[("b", dense("0", &[4]))])),
                ]),
                &[("0", &data)],
            ),
        ),
        (
            "code in the pickle",
            with(cat(&[
                &global("os", "system"),
                &tuple(&[text("true")]),
                b"R",
            ])),
        ),
        // Members.
        ("no data.pkl", zip_of(&[("a/data/0", &data)], Stored)),
        (
            "data.pkl too deep",
            zip_of(&[("a/b/data.pkl", &pickled)], Stored),
        ),
        (
            "two data.pkl",
            zip_of(
                &[("a/data.pkl", &pickled), ("b/data.pkl", &pickled)],
                Stored,
            ),
        ),
        ("an empty data.pkl", zip_of(&[("a/data.pkl", b"")], Stored)),
        (
            "data.pkl that is no pickle",
            zip_of(&[("a/data.pkl", b"hello")], Stored),
        ),
        ("a TorchScript program", member(&[("a/constants.pkl", b"")])),
        (
            "a byte order that is neither",
            member(&[("a/byteorder", b"middle")]),
        ),
        (
            "a byte order of a kilobyte",
            member(&[("a/byteorder", &[b' '; 1024])]),
        ),
        (
            "a storage of zeros, a thousand times its size",
            checkpoint_with(
                &dict(&[("w", dense("0", &[1 << 20]))]),
                &[("0", &vec![0; 4 << 20])],
                &[],
                Deflated,
            ),
        ),
        (
            "a pickle of zeros, a thousand times its size",
            zip_of(&[("a/data.pkl", &vec![b'N'; 4 << 20])], Deflated),
        ),
        (
            "one member name twice",
            patch(member(&[("a/data/1", &data)]), b"a/data/1", b"a/data/0"),
        ),
        ("an encrypted member", flag(good())),
        ("a compression nobody has", in_directory(good(), 10, 99)),
        (
            "a member behind the end",
            in_directory(good(), 42, 0x00ff_ffff),
        ),
        (
            "a member larger than the file",
            in_directory(in_directory(good(), 20, 0x7fff_ffff), 24, 0x7fff_ffff),
        ),
        (
            "a stored member with two sizes",
            in_directory(good(), 24, 0x7fff_ffff),
        ),
        (
            "a zip file that is cut",
            good()[..good().len() - 30].to_vec(),
        ),
        ("a zip file of four bytes", b"PK\x03\x04".to_vec()),
        ("a zip file without members", zip_of(&[], Stored)),
        (
            "zeros behind a zip signature",
            cat(&[b"PK\x03\x04", &vec![0; 100_000]]),
        ),
        ("a directory of 65,535 members that are not there", {
            let mut bytes = good();
            let end = *records(&bytes, b"PK\x05\x06").last().unwrap();
            bytes[end + 8..end + 12].copy_from_slice(&[0xff; 4]);
            bytes
        }),
    ]
}

fn old() -> Vec<(&'static str, Vec<u8>)> {
    let root = dict(&[("w", dense("0", &[4]))]);
    let data = floats(&[1.0, 2.0, 3.0, 4.0]);
    let head = || legacy(&root, &["0"]);
    let head_of = |root: &Code| legacy(root, &["0"]);
    let over = |code: Code| cat(&[&head_of(&dict(&[("w", code)])), &counted(4, &data)]);
    let keys = |keys: &[u8]| {
        let system = program(b"}");
        cat(&[
            &magic(),
            &program(&int(1001)),
            &system,
            &program(&root),
            &program(keys),
        ])
    };
    vec![
        ("only the magic number", magic()),
        ("the magic number twice", cat(&[&magic(), &magic()])),
        (
            "a version of the future",
            cat(&[
                &magic(),
                &program(&int(1002)),
                &program(b"}"),
                &program(b"}"),
            ]),
        ),
        (
            "no program",
            cat(&[&magic(), &program(&int(1001)), &program(b"}")]),
        ),
        (
            "no list of storages",
            cat(&[
                &magic(),
                &program(&int(1001)),
                &program(b"}"),
                &program(&root),
            ]),
        ),
        ("no storages", head()),
        ("a storage without its number", cat(&[&head(), &[0; 7]])),
        (
            "a storage that is cut",
            cat(&[&head(), &counted(4, &data[..15])]),
        ),
        (
            "a storage of 2^63 elements",
            cat(&[&head(), &counted(i64::MIN, &data)]),
        ),
        (
            "a storage of 2^62 elements",
            cat(&[&head(), &counted(1 << 62, &data)]),
        ),
        (
            "a storage of -1 elements",
            cat(&[&head(), &counted(-1, &data)]),
        ),
        (
            "a storage of a terabyte",
            cat(&[&head(), &counted(1 << 38, &data)]),
        ),
        (
            "a storage of fewer elements than its tensor",
            cat(&[&head(), &counted(3, &data)]),
        ),
        (
            "an empty list of storages",
            cat(&[&legacy(&root, &[]), &counted(4, &data)]),
        ),
        (
            "a list with another storage",
            cat(&[&legacy(&root, &["1"]), &counted(4, &data)]),
        ),
        (
            "a list of numbers",
            cat(&[&keys(b"]K\x00a"), &counted(4, &data)]),
        ),
        (
            "a list that is a number",
            cat(&[&keys(b"K\x00"), &counted(4, &data)]),
        ),
        (
            "a list that holds itself",
            cat(&[&keys(b"]q\x00h\x00a"), &counted(4, &data)]),
        ),
        (
            "a million storages that are not there",
            cat(&[
                &keys(&cat(&[
                    b"](",
                    &text("0"),
                    b"q\x00",
                    &b"h\x00".repeat(1_000_000),
                    b"e",
                ])),
                &counted(0, &[]),
            ]),
        ),
        (
            "a tensor larger than its storage",
            over(tensor(four(), 0, &[5], &[1])),
        ),
        (
            "a tensor behind its storage",
            over(tensor(four(), 4, &[1], &[1])),
        ),
        (
            "a tensor with a stride that leads out",
            over(tensor(four(), 0, &[2, 2], &[3, 1])),
        ),
        (
            "one float repeated to a terabyte",
            over(tensor(four(), 0, &[1 << 38], &[0])),
        ),
        (
            "one storage with two types",
            cat(&[
                &head_of(&dict(&[
                    ("a", dense("0", &[4])),
                    ("b", tensor(storage("DoubleStorage", "0", 2), 0, &[2], &[1])),
                ])),
                &counted(4, &data),
            ]),
        ),
        (
            "a view behind its storage",
            over(tensor(
                cat(&[
                    &tuple(&[
                        text("storage"),
                        global("torch", "FloatStorage"),
                        text("0"),
                        text("cpu"),
                        int(4),
                        tuple(&[text("v"), int(i64::MAX), int(1)]),
                    ]),
                    b"Q",
                ]),
                1,
                &[1],
                &[1],
            )),
        ),
        (
            "code in the program",
            over(cat(&[&global("os", "system"), b")R"])),
        ),
        (
            "code in the list of storages",
            cat(&[
                &keys(&cat(&[&global("os", "system"), b")R"])),
                &counted(4, &data),
            ]),
        ),
        (
            "code before the magic number",
            program(&cat(&[&global("os", "system"), b")R"])),
        ),
        ("a pickle with storages and no list of them", program(&root)),
        ("a tar file", {
            let mut tar = vec![0; 1024];
            tar[257..262].copy_from_slice(b"ustar");
            tar
        }),
        ("zeros", vec![0; 1000]),
        ("a text", b"hello, these are weights".to_vec()),
        ("a web page", b"<!DOCTYPE html>".to_vec()),
    ]
}

fn refused(corpus: Vec<(&'static str, Vec<u8>)>) {
    assert!(corpus.len() >= 30);
    for (reason, bytes) in corpus {
        let result = Archive::from_bytes("hostile", bytes);
        // A name twice, a pickle, a member: wherever it is noticed, the message stays short.
        let error = result.map(|_| ()).expect_err(reason).to_string();
        assert!(error.len() < 1000, "{reason}: {error}");
    }
}

#[test]
fn hostile_zip_files_are_errors() {
    refused(zipped());
}

#[test]
fn hostile_old_files_are_errors() {
    refused(old());
}

#[test]
fn the_files_that_the_hostile_ones_were_made_from_are_read() {
    let data = floats(&[1.0, 2.0, 3.0, 4.0]);
    let root = dict(&[("w", dense("0", &[2, 2]))]);
    let old = cat(&[&legacy(&root, &["0"]), &counted(4, &data)]);
    for bytes in [
        with(dense("0", &[2, 2])),
        old,
        with(tensor(four(), 0, &[2, 2], &[2, 1])),
    ] {
        let archive = Archive::from_bytes("good", bytes).unwrap();
        assert_eq!(archive.read_f32("w").unwrap(), [1.0, 2.0, 3.0, 4.0]);
    }
    // Odd, but right: repeated, empty, and a single number.
    for (shape, strides, expected) in [
        (&[3, 1][..], &[0, 1][..], &[1.0, 1.0, 1.0][..]),
        (&[0, 9], &[9, 1], &[]),
        (&[], &[], &[1.0]),
        (&[2, 2], &[1, 2], &[1.0, 3.0, 2.0, 4.0]),
    ] {
        let archive = Archive::from_bytes("odd", with(tensor(four(), 0, shape, strides))).unwrap();
        assert_eq!(archive.read_f32("w").unwrap(), expected);
    }
}

#[test]
fn a_compressed_storage_that_lies_about_its_size_is_an_error() {
    let root = dict(&[("w", dense("0", &[4]))]);
    let data = floats(&[1.0, 2.0, 3.0, 4.0]);
    let good = checkpoint_with(&root, &[("0", &data)], &[], Deflated);
    let record = *records(&good, b"PK\x01\x02").last().unwrap();
    for size in [17_u32, 1000, 15] {
        let mut bytes = good.clone();
        bytes[record + 24..record + 28].copy_from_slice(&size.to_le_bytes());
        let read = Archive::from_bytes("x", bytes).and_then(|archive| archive.read("w"));
        assert!(read.is_err(), "{size}");
    }
}

#[test]
fn the_tensor_is_named() {
    let error = Archive::from_bytes("m.pt", with(tensor(four(), 2, &[3], &[1]))).unwrap_err();
    let shown = error.to_string();
    assert!(
        shown.contains("tensor `w`") && shown.contains("the storage has 4"),
        "{shown}"
    );
    assert!(matches!(error, FormatError::InFile { .. }));
}

fn read_all(bytes: Vec<u8>) {
    let Ok(archive) = Archive::from_bytes("any", bytes) else {
        return;
    };
    for tensor in archive.tensors() {
        if let Ok(read) = archive.read(&tensor.name) {
            assert_eq!(read.data.len() as u64, tensor.bytes);
        }
    }
}

proptest! {
    #![proptest_config(common::cases(256))]

    #[test]
    fn any_bytes_are_a_checkpoint_or_an_error(
        head in prop::sample::select(vec![&b""[..], b"PK\x03\x04", b"\x80\x02", b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."]),
        bytes in prop::collection::vec(any::<u8>(), 0..400),
    ) {
        read_all(cat(&[head, &bytes]));
    }

    #[test]
    fn damaged_checkpoints_are_a_checkpoint_or_an_error(
        name in prop::sample::select(vec!["weights_zip.pt", "weights_legacy.pt", "lightning.ckpt", "rosita.pkl"]),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        keep in any::<prop::sample::Index>(),
        cut in any::<bool>(),
    ) {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut bytes = std::fs::read(folder.join("tests/samples").join(name)).unwrap();
        for (at, byte) in edits {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if cut {
            let len = keep.index(bytes.len());
            bytes.truncate(len);
        }
        read_all(bytes);
    }

    /// Any view of a storage is read as an index into it would, or refused because it leads out.
    #[test]
    fn views_are_what_indexing_gives(
        shape in prop::collection::vec(0_i64..4, 0..4),
        strides in prop::collection::vec(0_i64..6, 4),
        first in 0_i64..8,
    ) {
        let values: Vec<f32> = (0_u8..24).map(f32::from).collect();
        let strides = &strides[..shape.len()];
        let code = tensor(storage("FloatStorage", "0", 24), first, &shape, strides);
        let bytes = checkpoint(&dict(&[("w", code)]), &[("0", &floats(&values))]);
        let count = shape.iter().product::<i64>();
        let expected: Option<Vec<f32>> = (0..count).map(|number| {
            let (mut rest, mut at) = (number, first);
            for (size, stride) in shape.iter().zip(strides).rev() {
                at += rest % size * stride;
                rest /= size;
            }
            values.get(at as usize).copied()
        }).collect();
        let read = Archive::from_bytes("view", bytes).and_then(|archive| archive.read_f32("w"));
        prop_assert_eq!(read.ok(), expected);
    }
}
