//! Tar headers: what other writers write, real shards, and archives that are damaged or lie.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::fs::File;
use std::io::{Cursor, Read as _};
use std::path::Path;

use chiasm_format::tar::{Member, TarError, TarReader};
use chiasm_testkit::available;
use proptest::prelude::*;

const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data");

/// All members, how many were skipped, and the error that ended it.
fn index(bytes: &[u8]) -> (Vec<Member>, u64, Option<TarError>) {
    let mut reader = TarReader::new(Cursor::new(bytes)).unwrap();
    let mut members = Vec::new();
    let error = loop {
        match reader.next_member() {
            Ok(Some(member)) => members.push(member),
            Ok(None) => break None,
            Err(error) => break Some(error),
        }
    };
    assert!(
        matches!(reader.next_member(), Ok(None)),
        "nothing comes after the end"
    );
    (members, reader.skipped(), error)
}

fn names(bytes: &[u8]) -> Vec<String> {
    let (members, _, error) = index(bytes);
    assert!(error.is_none(), "{error:?}");
    members.into_iter().map(|member| member.name).collect()
}

/// A header whose checksum is right, after `change` has been at it.
fn header(name: &[u8], kind: u8, size: u64, change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut block = vec![0u8; 512];
    block[..name.len()].copy_from_slice(name);
    block[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
    block[156] = kind;
    block[257..265].copy_from_slice(b"ustar\x0000");
    change(&mut block);
    seal(&mut block);
    block
}

fn seal(block: &mut [u8]) {
    block[148..156].copy_from_slice(b"        ");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

fn padded(body: &[u8]) -> Vec<u8> {
    let mut body = body.to_vec();
    body.resize(body.len().next_multiple_of(512), 0);
    body
}

fn plain(name: &str, body: &[u8]) -> Vec<u8> {
    [
        header(name.as_bytes(), b'0', body.len() as u64, |_| ()),
        padded(body),
    ]
    .concat()
}

fn with_body(kind: u8, body: &[u8]) -> Vec<u8> {
    [
        header(b"extension", kind, body.len() as u64, |_| ()),
        padded(body),
    ]
    .concat()
}

/// A size field.
fn sized(field: &[u8; 12]) -> Vec<u8> {
    header(b"a.txt", b'0', 0, |block| {
        block[124..136].copy_from_slice(field)
    })
}

const END: [u8; 1024] = [0; 1024];

fn pax(record: &str) -> Vec<u8> {
    let mut len = record.len() + 3;
    while format!("{len} {record}\n").len() != len {
        len += 1;
    }
    with_body(b'x', format!("{len} {record}\n").as_bytes())
}

#[test]
fn every_member_of_real_shards_is_where_another_reader_finds_it() {
    let mut total = 0;
    for shard in [
        "coco-captions-wds/shard-00000.tar",
        "msrvtt-frames/test-00000.tar",
    ] {
        let path = Path::new(DATA).join(shard);
        if !available(&path) {
            return;
        }
        let bytes = std::fs::read(&path).unwrap();
        let (members, skipped, error) = index(&bytes);
        assert!(error.is_none() && skipped == 0);
        let mut archive = tar::Archive::new(File::open(&path).unwrap());
        let mut count = 0;
        for (entry, member) in archive.entries().unwrap().zip(&members) {
            let mut entry = entry.unwrap();
            assert_eq!(*entry.path().unwrap(), *Path::new(&member.name));
            assert_eq!(entry.raw_file_position(), member.offset);
            let mut body = Vec::new();
            entry.read_to_end(&mut body).unwrap();
            let start = member.offset as usize;
            assert_eq!(body, bytes[start..start + member.len as usize]);
            count += 1;
        }
        assert_eq!(count, members.len());
        total += count;
    }
    assert!(total > 6000, "{total}");
}

/// As Python writes them (`samples/make.py`).
#[test]
fn shards_of_python_are_read() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samples");
    for name in ["shard_gnu.tar", "shard_pax.tar"] {
        let bytes = std::fs::read(folder.join(name)).unwrap();
        let (members, skipped, error) = index(&bytes);
        assert!(error.is_none() && skipped == 1, "{name}: {error:?}");
        let expected = [
            "a.jpg",
            "a.txt",
            &format!("{}.jpg", "k".repeat(130)),
            &format!("{}.json", "é".repeat(70)),
        ];
        assert!(
            members.iter().map(|member| &*member.name).eq(expected),
            "{name}: {members:?}"
        );
        for member in members {
            let start = member.offset as usize;
            assert_eq!(&bytes[start..start + 3], b"abc");
        }
    }
}

#[test]
fn names_of_every_kind_are_read() {
    let long = format!("{}/{}.jpg", "folder/".repeat(20), "k".repeat(120));
    // GNU long names, written by another writer.
    let mut builder = tar::Builder::new(Vec::new());
    for name in ["short.jpg", &long, "é.jpg"] {
        let mut entry = tar::Header::new_gnu();
        entry.set_size(3);
        builder.append_data(&mut entry, name, &b"abc"[..]).unwrap();
    }
    assert_eq!(
        names(&builder.into_inner().unwrap()),
        ["short.jpg", &long, "é.jpg"]
    );

    let prefixed = header(b"a.txt", b'0', 0, |block| {
        block[345..350].copy_from_slice(b"p/q/r")
    });
    assert_eq!(names(&[prefixed, END.to_vec()].concat()), ["p/q/r/a.txt"]);
    // GNU has times where POSIX has the prefix.
    let gnu = header(b"a.txt", b'0', 0, |block| {
        block[257..265].copy_from_slice(b"ustar  \0");
        block[345..350].copy_from_slice(b"12345");
    });
    assert_eq!(names(&[gnu, END.to_vec()].concat()), ["a.txt"]);
    let old = header(b"a.txt", 0, 0, |block| block[257..265].fill(0));
    assert_eq!(names(&[old, END.to_vec()].concat()), ["a.txt"]);
    let renamed = [
        pax(&format!("path={long}")),
        pax("mtime=1.5"),
        plain("x", b"abc"),
    ]
    .concat();
    assert_eq!(
        names(&renamed),
        [long.clone()],
        "the blocks at the end may be missing"
    );
    // A name describes the next member only.
    let two = [pax("path=first"), plain("x", b""), plain("second", b"")].concat();
    assert_eq!(names(&two), ["first", "second"]);
    // A name over a link is the link's.
    let link = [
        pax("path=link"),
        header(b"x", b'2', 0, |_| ()),
        plain("file", b""),
    ]
    .concat();
    assert_eq!(names(&link), ["file"]);
}

#[test]
fn sizes_of_every_kind_are_read() {
    let body = vec![7; 600];
    let base_256 = header(b"a", b'0', 0, |block| {
        block[124..136].fill(0);
        block[124] = 0x80;
        block[134..136].copy_from_slice(&600u16.to_be_bytes());
    });
    let by_pax = [pax("size=600"), header(b"a", b'0', 0, |_| ())].concat();
    for head in [base_256, by_pax, header(b"a", b'0', 600, |_| ())] {
        let bytes = [head, padded(&body), plain("b", b"xyz"), END.to_vec()].concat();
        let (members, _, error) = index(&bytes);
        assert!(error.is_none(), "{error:?}");
        assert_eq!((members.len(), members[0].len, members[1].len), (2, 600, 3));
        let start = members[1].offset as usize;
        assert_eq!(&bytes[start..start + 3], b"xyz");
    }
    // The last padding may be missing as well.
    let cut = &plain("a", b"abc")[..515];
    assert_eq!(names(cut), ["a"]);
}

#[test]
fn what_is_no_plain_file_is_skipped_and_counted() {
    let kinds: Vec<u8> = [b"123456".as_slice(), b"DMNV"].concat();
    let mut bytes: Vec<u8> = Vec::new();
    for kind in &kinds {
        bytes.extend(header(b"other", *kind, 0, |_| ()));
    }
    // A folder of before ustar, a folder whose size means nothing, a body of a kind of its own.
    bytes.extend(header(b"old/", 0, 0, |_| ()));
    bytes.extend(header(b"folder", b'5', 4096, |_| ()));
    bytes.extend(with_body(b'Z', b"body"));
    // Sparse files: of GNU with two more blocks of map, and as pax tells them.
    let sparse = header(b"sparse", b'S', 512, |block| block[482] = 1);
    let mut map = vec![0; 1024];
    map[504] = 1;
    bytes.extend([sparse, map, vec![9; 512]].concat());
    bytes.extend([pax("GNU.sparse.major=1"), plain("sparse", b"map")].concat());
    bytes.extend(plain("file", b"abc"));
    let (members, skipped, error) = index(&bytes);
    assert!(error.is_none(), "{error:?}");
    assert_eq!((members.len(), skipped), (1, kinds.len() as u64 + 5));
    assert_eq!(members[0].name, "file");
}

/// Each is an error with a place, after at most one good member; none takes memory that its own bytes
/// do not warrant (all are below 8 KiB, and what may be read at once is capped).
#[test]
fn hostile_archives_are_refused() {
    let good = plain("good.txt", b"fine");
    let after_good = |bytes: Vec<u8>| [good.clone(), bytes].concat();
    let flipped = |at: usize| {
        let mut bytes = plain("a.txt", b"abc");
        bytes[at] ^= 0x40;
        bytes
    };
    let long_name = |len: u64| header(b"././@LongLink", b'L', len, |_| ());
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("nothing at all", vec![]),
        ("one byte", vec![0]),
        ("less than a header", vec![b'a'; 511]),
        ("text", b"just some text that is no archive. ".repeat(40)),
        ("all ones", vec![0xFF; 2048]),
        (
            "gzip",
            [b"\x1F\x8B\x08\x00".to_vec(), vec![0; 600]].concat(),
        ),
        (
            "zstd",
            [b"\x28\xB5\x2F\xFD".to_vec(), vec![0; 600]].concat(),
        ),
        ("a zip", [b"PK\x03\x04".to_vec(), vec![0; 600]].concat()),
        ("a changed name", after_good(flipped(0))),
        ("a changed size", after_good(flipped(130))),
        ("a changed kind", after_good(flipped(156))),
        (
            "a checksum that is no number",
            after_good({
                let mut bytes = plain("a.txt", b"abc");
                bytes[148..156].copy_from_slice(b"xxxxxxxx");
                bytes
            }),
        ),
        (
            "a checksum beyond any sum",
            after_good({
                let mut bytes = plain("a.txt", b"abc");
                bytes[148..156].copy_from_slice(&[0x80, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF]);
                bytes
            }),
        ),
        (
            "cut in a header",
            after_good(plain("a.txt", b"abc")[..300].to_vec()),
        ),
        (
            "cut in a body",
            after_good(plain("a.txt", &[1; 600])[..800].to_vec()),
        ),
        (
            "a size that is no number",
            after_good(sized(b"00000000z00\0")),
        ),
        ("a negative size", after_good(sized(b"-0000000001\0"))),
        ("a hexadecimal size", after_good(sized(b"0x000000fff\0"))),
        (
            "the largest octal size",
            after_good(sized(b"77777777777\0")),
        ),
        (
            "a negative size to the base 256",
            after_good(sized(&[0xFF; 12])),
        ),
        (
            "a size of 2^64 - 1",
            after_good(sized(&[
                0x80, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255,
            ])),
        ),
        (
            "a size of more than 64 bits",
            after_good(sized(&[0x80, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0])),
        ),
        (
            "a size that wraps around with the offset",
            after_good(sized(&[
                0x80, 0, 0, 0, 255, 255, 255, 255, 255, 255, 250, 0,
            ])),
        ),
        (
            "a long name of 8 GiB",
            after_good(long_name(0o77_777_777_777)),
        ),
        (
            "a long name beyond the cap",
            after_good([long_name(5000), vec![b'n'; 5120]].concat()),
        ),
        (
            "a long name that is cut off",
            after_good([long_name(600), vec![b'n'; 512]].concat()),
        ),
        (
            "an empty long name",
            after_good([with_body(b'L', b"\0"), plain("x", b"")].concat()),
        ),
        (
            "a pax header beyond the cap",
            after_good(header(b"pax", b'x', 70_000, |_| ())),
        ),
        (
            "a pax length that is no number",
            after_good(with_body(b'x', b"xx path=a\n")),
        ),
        (
            "a pax length of nothing",
            after_good(with_body(b'x', b"0 path=a\n")),
        ),
        (
            "a pax length beyond the header",
            after_good(with_body(b'x', b"999 path=a\n")),
        ),
        (
            "a pax length beyond any memory",
            after_good(with_body(b'x', b"99999999999999999999999 path=a\n")),
        ),
        (
            "a pax length within its own digits",
            after_good(with_body(b'x', b"1 path=a\n")),
        ),
        (
            "a pax record without an equals sign",
            after_good(with_body(b'x', b"9 path a\n")),
        ),
        (
            "a pax record without a line end",
            after_good(with_body(b'x', b"9 path=ab")),
        ),
        (
            "a pax size that is no number",
            after_good([pax("size=many"), plain("x", b"")].concat()),
        ),
        (
            "a negative pax size",
            after_good([pax("size=-1"), plain("x", b"")].concat()),
        ),
        (
            "a pax size beyond the file",
            after_good([pax("size=99999"), plain("x", b"")].concat()),
        ),
        (
            "a pax size of 2^64 - 1",
            after_good([pax("size=18446744073709551615"), plain("x", b"")].concat()),
        ),
        (
            "a pax path beyond the cap",
            after_good([pax(&format!("path={}", "p".repeat(5000))), plain("x", b"")].concat()),
        ),
        (
            "a pax path with a zero",
            after_good([pax("path=a\0b"), plain("x", b"")].concat()),
        ),
        (
            "a sparse map without an end",
            after_good({
                let mut map = vec![0; 512];
                map[504] = 1;
                [header(b"s", b'S', 0, |block| block[482] = 1), map.repeat(3)].concat()
            }),
        ),
        (
            "a sparse map that is cut off",
            after_good(header(b"s", b'S', 0, |block| block[482] = 1)),
        ),
        (
            "a sparse body beyond the file",
            after_good(
                [
                    header(b"s", b'S', 512, |block| block[482] = 1),
                    vec![0; 512],
                ]
                .concat(),
            ),
        ),
        (
            "a member without a name",
            after_good(header(b"", b'0', 0, |_| ())),
        ),
        (
            "one block of zeros between members",
            after_good([vec![0; 512], plain("x", b"")].concat()),
        ),
        (
            "zeros and then half a block",
            after_good([vec![0; 512], vec![1; 100]].concat()),
        ),
    ];
    assert!(cases.len() >= 30, "{}", cases.len());
    for (reason, bytes) in cases {
        let (members, _, error) = index(&bytes);
        let error = error.unwrap_or_else(|| panic!("{reason}: taken, {members:?}"));
        assert!(
            members.iter().all(|member| member.name == "good.txt"),
            "{reason}: {members:?}"
        );
        assert!(error.offset() <= bytes.len() as u64, "{reason}: {error}");
        assert!(
            matches!(error, TarError::Damaged { .. }),
            "{reason}: {error}"
        );
    }
}

#[test]
fn a_body_is_read_up_to_its_cap() {
    let bytes = [plain("a.txt", b"abc"), plain("b.txt", &[5; 2000])].concat();
    let mut reader = TarReader::new(Cursor::new(bytes)).unwrap();
    let a = reader.next_member().unwrap().unwrap();
    let b = reader.next_member().unwrap().unwrap();
    assert_eq!(reader.body(&b, 2000).unwrap(), vec![5; 2000]);
    assert_eq!(reader.body(&a, 3).unwrap(), b"abc", "backwards as well");
    let error = reader.body(&b, 1999).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("2000 bytes, more than the cap 1999"),
        "{error}"
    );
    assert!(reader.next_member().unwrap().is_none());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Another writer's archives are read as it wrote them.
    #[test]
    fn members_come_back(
        members in prop::collection::vec(("[a-zé]{1,40}(/[a-z]{1,90}){0,3}", prop::collection::vec(any::<u8>(), 0..1500)), 0..12),
    ) {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, body) in &members {
            let mut entry = tar::Header::new_ustar();
            entry.set_size(body.len() as u64);
            builder.append_data(&mut entry, name, body.as_slice()).unwrap();
        }
        let bytes = builder.into_inner().unwrap();
        let (found, skipped, error) = index(&bytes);
        prop_assert!(error.is_none() && skipped == 0);
        let found: Vec<(String, Vec<u8>)> = found
            .into_iter()
            .map(|member| {
                let start = member.offset as usize;
                (member.name, bytes[start..start + member.len as usize].to_vec())
            })
            .collect();
        prop_assert_eq!(found, members);
    }

    /// Whatever the bytes: members lie within the file, one after the other.
    #[test]
    fn members_lie_within_the_file(
        flips in prop::collection::vec((0usize..6000, any::<u8>(), any::<bool>()), 0..16),
        cut in 0usize..7000,
    ) {
        let mut bytes = [
            plain("a.txt", b"abc"),
            pax("path=b"),
            plain("x", &[1; 700]),
            with_body(b'L', &[b'n'; 200]),
            plain("y", b"abc"),
            END.to_vec(),
        ]
        .concat();
        for (at, value, repair) in flips {
            let start = at / 512 * 512;
            let Some(block) = bytes.get_mut(start..start + 512) else { continue };
            block[at % 512] = value;
            if repair {
                seal(block);
            }
        }
        bytes.truncate(cut);
        let (members, _, _) = index(&bytes);
        let mut end = 0;
        for member in members {
            prop_assert!(member.header >= end && member.offset > member.header);
            end = member.offset + member.len;
            prop_assert!(end <= bytes.len() as u64);
        }
    }
}
