//! NumPy arrays and archives: what NumPy wrote (`samples/make.py`), and files that are damaged or lie.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::io::{Cursor, Write as _};
use std::path::Path;

use chiasm_format::numpy::{Dtype, Header, MAX_MEMBERS, Npy, Npz, NumpyError};
use proptest::prelude::*;
use zip::CompressionMethod;
use zip::write::SimpleFileOptions;

fn sample(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samples");
    std::fs::read(folder.join(name)).unwrap()
}

fn open(bytes: Vec<u8>) -> Result<Npz<Cursor<Vec<u8>>>, NumpyError> {
    Npz::open(Cursor::new(bytes))
}

#[test]
fn every_type_order_and_version_of_numpy_is_read() {
    for name in ["numpy_stored.npz", "numpy_deflated.npz"] {
        let mut npz = open(sample(name)).unwrap();
        assert_eq!(npz.names().len(), 34);
        for order in ["little", "big"] {
            for kind in [
                "f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8",
            ] {
                let array = npz.read(&format!("{order}_{kind}")).unwrap();
                assert_eq!(array.shape, [2, 3]);
                assert_eq!(
                    array.to_f32().unwrap(),
                    [0.0, 1.0, 2.0, 3.0, 4.0, 5.0],
                    "{order}_{kind}"
                );
                let whole = array.to_i64();
                assert_eq!(
                    whole,
                    (!kind.starts_with('f')).then(|| vec![0, 1, 2, 3, 4, 5]),
                    "{kind}"
                );
                assert!(array.to_strings().is_none());
            }
        }
        let truth = npz.read("little_b1").unwrap();
        assert_eq!(
            (truth.dtype, truth.to_i64().unwrap()),
            (Dtype::Bool, vec![0, 1, 1, 1, 1, 1])
        );
        let fortran = npz.read("fortran").unwrap();
        let counted: Vec<f32> = (0u8..24).map(f32::from).collect();
        assert_eq!(
            (fortran.shape.as_slice(), fortran.to_f32().unwrap()),
            (&[2, 3, 4][..], counted)
        );
        let words = npz.read("fortran_big_text").unwrap();
        assert_eq!(
            words.to_strings().unwrap(),
            ["a", "bé", "", "cc", "🙂", "d"]
        );
        assert!(words.to_f32().is_none() && words.to_i64().is_none());
        assert_eq!(
            npz.read("text").unwrap().to_strings().unwrap(),
            ["one", "two 2", ""]
        );
        assert_eq!(
            npz.read("bytes").unwrap().to_strings().unwrap(),
            ["one", "two"]
        );
        let single = npz.read("single").unwrap();
        assert_eq!(
            (single.shape.len(), single.to_i64().unwrap()),
            (0, vec![480])
        );
        let nothing = npz.read("nothing").unwrap();
        assert_eq!(
            (nothing.shape.as_slice(), nothing.data.len()),
            (&[0, 3][..], 0)
        );
        assert_eq!(npz.header("fortran").unwrap().shape, [2, 3, 4]);
        assert!(npz.has("text") && !npz.has("texts"));
    }
}

#[test]
fn what_is_not_read_is_named() {
    let mut npz = open(sample("numpy_deflated.npz")).unwrap();
    for (name, reason) in [
        (
            "objects",
            "array `objects`: elements of type `|O`: Python objects are a pickle, which is never read",
        ),
        ("structured", "structured arrays are not read"),
        ("complex", "complex numbers are not read"),
        ("dates", "dates are not read"),
        ("absent", "no array `absent`; there are: "),
    ] {
        let error = npz.read(name).unwrap_err();
        assert!(error.to_string().contains(reason), "{error}");
        assert_eq!(error.hint().is_some(), name == "objects", "{name}");
    }
}

/// An array of this header, version 1.
fn npy(header: &str, elements: &[u8]) -> Vec<u8> {
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend_from_slice(&(header.len() as u16).to_le_bytes());
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(elements);
    bytes
}

fn described(descr: &str, shape: &str) -> String {
    format!("{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n")
}

#[test]
fn headers_of_other_versions_and_writers_are_read() {
    let header = described("'<f4'", "(2,)");
    let elements = [1.0f32.to_le_bytes(), 2.0f32.to_le_bytes()].concat();
    for version in [2, 3] {
        let mut bytes = vec![0x93, b'N', b'U', b'M', b'P', b'Y', version, 0];
        bytes.extend_from_slice(&(header.len() as u32).to_le_bytes());
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(&elements);
        assert_eq!(Npy::parse(&bytes).unwrap().to_f32().unwrap(), [1.0, 2.0]);
    }
    // Other quotes, another order, the long integers of Python 2, no last comma, bytes behind.
    let header = r#"{"shape":(2L,1L),"fortran_order":True,"descr":"<f4"}"#;
    let array = Npy::parse(&npy(header, &[elements.clone(), vec![9; 5]].concat())).unwrap();
    assert_eq!(
        (array.shape.as_slice(), array.to_f32().unwrap()),
        (&[2, 1][..], vec![1.0, 2.0])
    );
}

/// Each is an error; none takes more memory than a cap or its own bytes warrant.
#[test]
fn hostile_arrays_are_refused() {
    let ok = described("'<f4'", "(2,)");
    let long = format!("({})", "1,".repeat(65));
    let v2 = |len: u32| {
        [
            b"\x93NUMPY\x02\x00".to_vec(),
            len.to_le_bytes().to_vec(),
            vec![b' '; 64],
        ]
        .concat()
    };
    let plain = |text: &str| npy(text, &[0; 64]);
    let shaped = |shape: &str| plain(&described("'<f4'", shape));
    let typed = |descr: &str| plain(&described(descr, "(1,)"));
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("nothing", vec![]),
        ("a pickle", b"\x80\x04\x95".to_vec()),
        ("a zip", b"PK\x03\x04".to_vec()),
        ("only the magic", b"\x93NUMPY".to_vec()),
        ("half a header length", b"\x93NUMPY\x01\x00\x10".to_vec()),
        (
            "an unknown version",
            [b"\x93NUMPY\x09\x00".to_vec(), vec![0; 64]].concat(),
        ),
        ("a header that is cut off", npy(&ok, &[])[..40].to_vec()),
        ("a header of 4 GiB", v2(u32::MAX)),
        ("a header beyond the cap", v2(65_537)),
        ("elements that are cut off", npy(&ok, &[0; 7])),
        ("no dictionary", plain("")),
        ("a list", plain("[1, 2]")),
        ("a dictionary without an end", plain("{'descr': '<f4'")),
        ("nothing in it", plain("{}")),
        (
            "no shape",
            plain("{'descr': '<f4', 'fortran_order': False}"),
        ),
        (
            "a key twice",
            plain("{'descr': '<f4', 'descr': '<f8', 'fortran_order': False, 'shape': (1,)}"),
        ),
        (
            "another key",
            plain("{'descr': '<f4', 'fortran_order': False, 'shape': (1,), 'x': 1}"),
        ),
        ("code after it", plain(&format!("{}; import os", ok.trim()))),
        ("a call as its shape", shaped("__import__('os')")),
        ("a negative axis", shaped("(-1,)")),
        ("a fraction", shaped("(1.5,)")),
        (
            "an axis beyond 64 bits",
            shaped("(99999999999999999999999,)"),
        ),
        ("a shape larger than the bytes", shaped("(1000000000,)")),
        (
            "a shape that overflows",
            shaped("(4294967296, 4294967296, 4294967296)"),
        ),
        (
            "any number of strings of no width",
            plain(&described("'<U0'", "(99999999999,)")),
        ),
        (
            "an overflow beside an empty axis",
            shaped("(0, 18446744073709551615, 2)"),
        ),
        (
            "a shape that overflows to nothing",
            shaped("(9223372036854775808, 2)"),
        ),
        (
            "a shape of the largest numbers",
            shaped("(18446744073709551615, 18446744073709551615)"),
        ),
        ("more axes than NumPy has", shaped(&long)),
        ("a shape without commas", shaped("(1 2)")),
        ("a shape without an end", shaped("(1, 2")),
        (
            "a truth that is none",
            plain("{'descr': '<f4', 'fortran_order': Maybe, 'shape': (1,)}"),
        ),
        (
            "a string without an end",
            plain("{'descr': '<f4, 'fortran_order"),
        ),
        ("a type that is none", typed("'<q7'")),
        ("an empty type", typed("''")),
        ("a type that is not ASCII", typed("'é4'")),
        ("objects", typed("'|O'")),
        ("objects with a width", typed("'O8'")),
        ("a structure", typed("[('a', '<f4')]")),
        ("a structure without an end", typed("[('a', '<f4'")),
        ("raw bytes", typed("'|V16'")),
        ("strings of no width", typed("'<U'")),
        ("strings of a negative width", typed("'<U-4'")),
        ("strings of any memory", typed("'<U9999999999999999999'")),
        ("strings beyond the bytes", typed("'<U99999999'")),
    ];
    assert!(cases.len() >= 30, "{}", cases.len());
    for (reason, bytes) in cases {
        let array = Npy::parse(&bytes);
        assert!(array.is_err(), "{reason}: {:?}", array.unwrap().shape);
    }
    let surrogate = npy(&described("'<U1'", "(1,)"), &0xD800u32.to_le_bytes());
    assert!(
        Npy::parse(&surrogate).unwrap().to_strings().is_none(),
        "no character"
    );
}

fn zipped(members: &[(&str, &[u8])], method: CompressionMethod) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in members {
        let options = SimpleFileOptions::default().compression_method(method);
        writer.start_file(*name, options).unwrap();
        writer.write_all(bytes).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

/// Overwrites every occurrence of `from` that a directory or header has at `offset` from `signature`.
fn patch(bytes: &mut [u8], signature: &[u8; 4], offset: usize, value: &[u8]) {
    let starts: Vec<usize> = (0..bytes.len().saturating_sub(3))
        .filter(|at| bytes[*at..*at + 4] == *signature)
        .collect();
    for start in starts {
        if let Some(field) = bytes.get_mut(start + offset..start + offset + value.len()) {
            field.copy_from_slice(value);
        }
    }
}

const LOCAL: &[u8; 4] = b"PK\x03\x04";
const CENTRAL: &[u8; 4] = b"PK\x01\x02";
const END: &[u8; 4] = b"PK\x05\x06";

#[test]
fn hostile_archives_are_refused() {
    let array = npy(&described("'<f4'", "(4,)"), &[1; 16]);
    let stored = zipped(&[("x.npy", &array)], CompressionMethod::Stored);
    let packed = zipped(&[("x.npy", &array)], CompressionMethod::Deflated);
    let patched = |base: &[u8], changes: &[(&[u8; 4], usize, &[u8])]| {
        let mut bytes = base.to_vec();
        for (signature, offset, value) in changes {
            patch(&mut bytes, signature, *offset, value);
        }
        bytes
    };
    let size = |base: &[u8], size: u32| {
        let size = size.to_le_bytes();
        patched(base, &[(CENTRAL, 24, &size), (LOCAL, 22, &size)])
    };
    let packed_size = |base: &[u8], size: u32| {
        let size = size.to_le_bytes();
        patched(base, &[(CENTRAL, 20, &size), (LOCAL, 18, &size)])
    };
    // 300 MiB of zeros in 300 KiB: more than a member may have.
    let bomb = {
        let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
        let options = SimpleFileOptions::default().compression_method(CompressionMethod::Deflated);
        writer.start_file("x.npy", options).unwrap();
        let chunk = vec![0; 1 << 20];
        for _ in 0..300 {
            writer.write_all(&chunk).unwrap();
        }
        writer.finish().unwrap().into_inner()
    };
    let many = {
        let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
        for number in 0..=MAX_MEMBERS {
            writer
                .start_file(format!("{number}"), SimpleFileOptions::default())
                .unwrap();
        }
        writer.finish().unwrap().into_inner()
    };
    let cut = |bytes: &[u8], at: usize| bytes[..at.min(bytes.len())].to_vec();
    let half = stored.len() / 2;
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("nothing", vec![]),
        ("one byte", vec![b'P']),
        ("only a signature", LOCAL.to_vec()),
        ("only an end", [END.to_vec(), vec![0; 18]].concat()),
        ("an end that is cut off", END.to_vec()),
        ("an array without an archive", array.clone()),
        ("all ones", vec![0xFF; 4096]),
        ("all ends", END.repeat(1000)),
        ("cut in the member", cut(&stored, 60)),
        ("cut in the middle", cut(&stored, half)),
        ("cut in the directory", cut(&stored, stored.len() - 40)),
        ("cut in the end", cut(&stored, stored.len() - 4)),
        (
            "65,535 members announced",
            patched(&stored, &[(END, 8, &[0xFF; 4])]),
        ),
        (
            "a directory beyond the file",
            patched(&stored, &[(END, 16, &[0xFE, 0xFF, 0xFF, 0x7F])]),
        ),
        ("another disk", patched(&stored, &[(END, 4, &[1, 0])])),
        (
            "a member beyond the file",
            patched(&stored, &[(CENTRAL, 42, &[0xFF, 0xFF, 0xFF, 0x7F])]),
        ),
        (
            "a member within the directory",
            patched(&stored, &[(CENTRAL, 42, &[60, 0, 0, 0])]),
        ),
        ("no local header", patched(&stored, &[(LOCAL, 0, b"NOPE")])),
        (
            "no central header",
            patched(&stored, &[(CENTRAL, 0, b"NOPE")]),
        ),
        (
            "encrypted",
            patched(&stored, &[(CENTRAL, 8, &[1, 0]), (LOCAL, 6, &[1, 0])]),
        ),
        (
            "a method that is not read (bzip2)",
            patched(&stored, &[(CENTRAL, 10, &[12, 0]), (LOCAL, 8, &[12, 0])]),
        ),
        (
            "a method that is none",
            patched(&stored, &[(CENTRAL, 10, &[77, 0]), (LOCAL, 8, &[77, 0])]),
        ),
        (
            "stored, said to be deflated",
            patched(&stored, &[(CENTRAL, 10, &[8, 0]), (LOCAL, 8, &[8, 0])]),
        ),
        (
            "another checksum",
            patched(
                &stored,
                &[(CENTRAL, 16, &[1, 2, 3, 4]), (LOCAL, 14, &[1, 2, 3, 4])],
            ),
        ),
        ("a size of 4 GiB - 1", size(&packed, u32::MAX - 1)),
        ("a size beyond the cap", size(&packed, 300 << 20)),
        ("a size that deflate cannot pack", size(&packed, 200 << 20)),
        ("a size that is too large", size(&packed, 200)),
        ("a size that is too small", size(&packed, 100)),
        ("a stored size that is too small", size(&stored, 90)),
        (
            "more packed bytes than the file",
            packed_size(&packed, 1 << 30),
        ),
        (
            "fewer packed bytes than there are",
            packed_size(&packed, 20),
        ),
        ("no packed bytes", packed_size(&packed, 0)),
        ("300 MiB of zeros", bomb),
        ("more members than the cap", many),
        ("damaged packed bytes", {
            let mut bytes = packed.clone();
            bytes[38..46].fill(0xFF);
            bytes
        }),
        (
            "a member that is no array",
            zipped(&[("x.npy", b"text")], CompressionMethod::Stored),
        ),
        (
            "a member of another name",
            zipped(&[("y.npy", &array)], CompressionMethod::Stored),
        ),
        ("64 bits announced and not there", {
            let mut bytes = patched(&stored, &[(END, 8, &[0xFF; 4]), (END, 12, &[0xFF; 8])]);
            bytes.splice(
                0..0,
                *b"PK\x06\x07\0\0\0\0\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x7F\x01\0\0\0",
            );
            bytes
        }),
    ];
    assert!(cases.len() >= 30, "{}", cases.len());
    for (reason, bytes) in cases {
        let array = open(bytes).and_then(|mut npz| npz.read("x"));
        assert!(array.is_err(), "{reason}: {array:?}");
    }
    for whole in [stored, packed] {
        assert_eq!(open(whole).unwrap().read("x").unwrap().shape, [4]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Elements in Fortran's order are found where the indices say.
    #[test]
    fn orders_agree(axes in prop::collection::vec(1usize..5, 0..5)) {
        let count: usize = axes.iter().product();
        let mut elements = vec![0u8; count * 2];
        // The element of each index holds its place in C order.
        for place in 0..count {
            let (mut rest, mut index) = (place, vec![0; axes.len()]);
            for (at, axis) in axes.iter().enumerate().rev() {
                index[at] = rest % axis;
                rest /= axis;
            }
            let (mut at, mut stride) = (0, 1);
            for (i, axis) in index.iter().zip(&axes) {
                at += i * stride;
                stride *= axis;
            }
            elements[at * 2..at * 2 + 2].copy_from_slice(&(place as u16).to_le_bytes());
        }
        let shape: String = axes.iter().map(|axis| format!("{axis},")).collect();
        let header = format!("{{'descr': '<u2', 'fortran_order': True, 'shape': ({shape})}}");
        let array = Npy::parse(&npy(&header, &elements)).unwrap();
        prop_assert_eq!(array.to_i64().unwrap(), (0..count as i64).collect::<Vec<_>>());
    }

    /// Whatever happens to an archive: an answer, and never more elements than its shape says.
    #[test]
    fn damaged_archives_never_panic(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
        whole: bool,
    ) {
        let mut bytes = sample("numpy_deflated.npz");
        for (at, value) in flips {
            let len = bytes.len();
            bytes[at.index(len)] = value;
        }
        if !whole {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(mut npz) = open(bytes) {
            for name in npz.names() {
                if let Ok(array) = npz.read(&name) {
                    let count: usize = array.shape.iter().product();
                    prop_assert_eq!(array.data.len(), count * array.dtype.size());
                    let _ = (array.to_f32(), array.to_i64(), array.to_strings());
                }
            }
        }
    }

    /// Any text as a header: an answer.
    #[test]
    fn arbitrary_headers_never_panic(text in "[{}()\\[\\]'\":, a-zL0-9<>|=-]{0,80}", bytes in prop::collection::vec(any::<u8>(), 0..120)) {
        let _ = Header::parse(&npy(&text, &[0; 8]));
        let _ = Npy::parse(&npy(&format!("{{'descr': '<f4', {text}"), &[0; 8]));
        let _ = Npy::parse(&bytes);
    }
}
