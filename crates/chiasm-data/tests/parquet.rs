//! Parquet tables on good, hostile and damaged input, through the public entry point.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is the failed test")]

use std::sync::Arc;

use chiasm_data::{DataError, OpenOptions, Opened, Split, open};
use parquet::basic::Compression;
use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use proptest::prelude::*;

fn read(bytes: &[u8]) -> Result<Opened, DataError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.parquet");
    std::fs::write(&path, bytes).unwrap();
    open(&path, &OpenOptions::default())
}

const SCHEMA: &str = "message t { required binary image (UTF8); required group text (LIST) {
    repeated group list { required binary element (UTF8); } } optional int64 label; required binary split (UTF8); }";

/// A column of texts: values, definition levels and repetition levels.
type Texts<'a> = (&'a [&'a str], Option<&'a [i16]>, Option<&'a [i16]>);
/// Images, texts, labels and which rows have one, splits.
type Group<'a> = (Texts<'a>, Texts<'a>, &'a [i64], &'a [i16], Texts<'a>);

/// Two row groups of two and one rows, every page by itself, without dictionaries.
fn table(compression: Compression) -> Vec<u8> {
    let properties = WriterProperties::builder()
        .set_compression(compression)
        .set_dictionary_enabled(false)
        .build();
    let schema = Arc::new(parse_message_type(SCHEMA).unwrap());
    let mut bytes = Vec::new();
    let mut writer = SerializedFileWriter::new(&mut bytes, schema, Arc::new(properties)).unwrap();
    let groups: [Group<'_>; 2] = [
        (
            (&["a.png", "b.png"], None, None),
            (&["one", "two", "three"], Some(&[1, 1, 1]), Some(&[0, 1, 0])),
            &[7],
            &[1, 0],
            (&["train", "test"], None, None),
        ),
        (
            (&["c.png"], None, None),
            (&["four"], Some(&[1]), Some(&[0])),
            &[8],
            &[1],
            (&["dev"], None, None),
        ),
    ];
    for (images, texts, labels, given, splits) in groups {
        let mut group = writer.next_row_group().unwrap();
        for column in [Some(images), Some(texts), None, Some(splits)] {
            let mut next = group.next_column().unwrap().unwrap();
            match column {
                Some((values, definition, repetition)) => {
                    let values: Vec<ByteArray> =
                        values.iter().map(|value| ByteArray::from(*value)).collect();
                    let typed = next.typed::<ByteArrayType>();
                    typed.write_batch(&values, definition, repetition).unwrap();
                }
                None => {
                    let typed = next.typed::<Int64Type>();
                    typed.write_batch(labels, Some(given), None).unwrap();
                }
            }
            next.close().unwrap();
        }
        group.close().unwrap();
    }
    writer.close().unwrap();
    bytes
}

#[test]
fn lists_numbers_and_row_groups() {
    for compression in [
        Compression::UNCOMPRESSED,
        Compression::SNAPPY,
        Compression::LZ4_RAW,
    ] {
        let opened = read(&table(compression)).unwrap();
        assert_eq!(opened.quarantine.entries, []);
        let seen: Vec<(Vec<String>, Option<&str>, Split, &str)> = opened
            .dataset
            .samples
            .iter()
            .map(|sample| {
                let label = sample.annotations.label.as_deref();
                (sample.texts.clone(), label, sample.split, sample.group())
            })
            .collect();
        let texts = |texts: &[&str]| {
            texts
                .iter()
                .map(|text| (*text).to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            seen,
            [
                (texts(&["one", "two"]), Some("7"), Split::Train, "a.png"),
                (texts(&["three"]), None, Split::Test, "b.png"),
                (texts(&["four"]), Some("8"), Split::Val, "c.png"),
            ]
        );
    }
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

fn zigzag(value: i64) -> Vec<u8> {
    varint((value << 1 ^ value >> 63) as u64)
}

/// The head of a data page: `inner` are the fields of its own head.
fn page_head(unpacked: i64, packed: i64, inner: &[u8]) -> Vec<u8> {
    let sizes = [zigzag(0), zigzag(unpacked), zigzag(packed)];
    let mut head: Vec<u8> = sizes
        .iter()
        .flat_map(|size| [&[0x15], size.as_slice()].concat())
        .collect();
    head.push(0x2C);
    head.extend(inner);
    head.push(0);
    head
}

/// The number of values, plain encoding and the two of levels.
fn values(count: i64) -> Vec<u8> {
    [
        &[0x15],
        zigzag(count).as_slice(),
        &[0x15, 0, 0x15, 6, 0x15, 6, 0],
    ]
    .concat()
}

/// A file that is nothing but a footer.
fn only_footer(footer: &[u8]) -> Vec<u8> {
    let len = (footer.len() as u32).to_le_bytes();
    [b"PAR1", footer, len.as_slice(), b"PAR1"].concat()
}

/// What must not be believed, each with its reason.
fn hostile() -> Vec<(&'static str, Vec<u8>)> {
    let good = table(Compression::SNAPPY);
    let footer_len = u32::from_le_bytes(good[good.len() - 8..good.len() - 4].try_into().unwrap());
    let footer = good.len() - 8 - footer_len as usize;
    let mut cases: Vec<(&'static str, Vec<u8>)> = vec![
        ("nothing at all", Vec::new()),
        ("the mark alone", b"PAR1".to_vec()),
        ("two marks", b"PAR1PAR1".to_vec()),
        ("zeros", vec![0; 2048]),
        ("ones", vec![0xFF; 2048]),
        ("text", b"image,text\na.png,one\n".to_vec()),
        (
            "an encrypted footer",
            [&good[..good.len() - 4], b"PARE"].concat(),
        ),
        ("no footer", only_footer(b"")),
        ("an empty footer", only_footer(&[0])),
        // Version 1, then the schema as a list of 2^31-1, 2^62 and two million structs.
        (
            "a list longer than memory",
            only_footer(&[&[0x15, 2, 0x19, 0xFC], varint(0x7FFF_FFFF).as_slice()].concat()),
        ),
        (
            "a list of 2^62",
            only_footer(&[&[0x15, 2, 0x19, 0xFC], varint(1 << 62).as_slice()].concat()),
        ),
        (
            "a list of two million empty structs",
            only_footer(
                &[
                    &[0x15, 2, 0x19, 0xFC],
                    varint(2 << 20).as_slice(),
                    &vec![0; (2 << 20) + 1],
                ]
                .concat(),
            ),
        ),
        (
            "lists in lists, too deep",
            only_footer(&[vec![0x59], vec![0x19; 5000]].concat()),
        ),
        (
            "structs in structs, too deep",
            only_footer(&vec![0x1C; 5000]),
        ),
        (
            "unknown fields, too deep",
            only_footer(&[vec![0x6C], vec![0x1C; 100], vec![0; 102]].concat()),
        ),
        (
            "a text longer than memory",
            only_footer(&[&[0x68], varint(1 << 40).as_slice()].concat()),
        ),
        (
            "a text of 2^63",
            only_footer(&[&[0x68], varint(1 << 63).as_slice()].concat()),
        ),
        (
            "a map longer than memory",
            only_footer(&[&[0x6B], varint(1 << 40).as_slice(), &[0x88]].concat()),
        ),
        (
            "a number without end",
            only_footer(&[vec![0x15], vec![0xFF; 64]].concat()),
        ),
        ("a value of no type", only_footer(&[0x1E, 0])),
        ("a footer above the cap", only_footer(&vec![0x15; 17 << 20])),
        ("fields whose numbers wrap", only_footer(&[0xF5; 4000])),
    ];
    for len in [
        0u32,
        1,
        footer_len - 1,
        footer_len + 1,
        0x7FFF_FFFF,
        0xFFFF_FFFF,
    ] {
        let at = good.len() - 8;
        let len = len.to_le_bytes();
        cases.push((
            "a footer of another length",
            [&good[..at], &len, b"PAR1"].concat(),
        ));
    }
    let pages: [(&'static str, Vec<u8>); 15] = [
        (
            "a page that unpacks to 2 GiB",
            page_head(0x7FFF_FFFF, 8, &values(2)),
        ),
        (
            "a page that unpacks beyond 32 bits",
            page_head(1 << 40, 8, &values(2)),
        ),
        (
            "a page that unpacks to less than nothing",
            page_head(-1, 8, &values(2)),
        ),
        (
            "a page longer than its column",
            page_head(24, 1 << 20, &values(2)),
        ),
        ("a page of 2 GiB", page_head(24, 0x7FFF_FFFF, &values(2))),
        ("a page of negative length", page_head(24, -8, &values(2))),
        (
            "a page with 2^31-1 values",
            page_head(24, 8, &values(0x7FFF_FFFF)),
        ),
        (
            "a page with 2^40 values",
            page_head(24, 8, &values(1 << 40)),
        ),
        ("a page with negative values", page_head(24, 8, &values(-1))),
        (
            "a page with more values than bytes",
            page_head(24, 8, &values(200)),
        ),
        ("a page without values", page_head(24, 8, &values(0))),
        (
            "a page without its own head",
            vec![0x15, 0, 0x15, 48, 0x15, 16, 0],
        ),
        (
            "a page of unknown kind",
            vec![0x15, 0x7E, 0x15, 48, 0x15, 16, 0],
        ),
        (
            "a page whose statistics are longer than memory",
            page_head(
                24,
                8,
                &[&[0x15, 4, 0x4C, 0x18], varint(1 << 40).as_slice()].concat(),
            ),
        ),
        ("a page head that nests without end", vec![0x1C; 60]),
    ];
    for (reason, head) in pages {
        let mut bytes = good.clone();
        bytes[4..4 + head.len()].copy_from_slice(&head);
        cases.push((reason, bytes));
    }
    for tenth in 1..10 {
        cases.push(("a file cut off", good[..good.len() * tenth / 10].to_vec()));
    }
    // A hole in the middle moves everything behind it.
    cases.push(("a file with a hole", [&good[..100], &good[140..]].concat()));
    // Small numbers in the footer are types, counts and places; each in turn says something absurd.
    for at in (footer..good.len() - 8).step_by(3) {
        let mut bytes = good.clone();
        bytes[at] ^= 0x7F;
        cases.push(("another byte in the footer", bytes));
    }
    cases
}

#[test]
fn hostile_tables_are_refused_or_read_in_part() {
    let cases = hostile();
    assert!(cases.len() >= 60, "{}", cases.len());
    let mut refused = 0;
    for (index, (reason, bytes)) in cases.iter().enumerate() {
        match read(bytes) {
            Err(_) => refused += 1,
            Ok(opened) => assert!(opened.dataset.len() <= 3, "{index}, {reason}"),
        }
    }
    assert!(refused >= 50, "{refused} of {}", cases.len());
}

/// What the Parquet crate would have granted is refused before it is asked.
#[test]
fn what_is_refused_says_why() {
    let all = hostile();
    for (case, part) in [
        ("two marks", "no Parquet footer"),
        ("a list longer than memory", "more elements"),
        ("a list of two million empty structs", "more elements"),
        ("structs in structs, too deep", "too deep"),
        ("a text longer than memory", "cut off"),
        ("a footer above the cap", "more than the cap"),
        (
            "a page that unpacks to 2 GiB",
            "unpacks from 8 to 2147483647 bytes",
        ),
        ("a page longer than its column", "outside its column"),
        ("a page with 2^31-1 values", "more than the file has bytes"),
        ("a page whose statistics are longer than memory", "cut off"),
    ] {
        let (_, bytes) = all.iter().find(|(reason, _)| *reason == case).unwrap();
        let error = read(bytes).unwrap_err().to_string();
        assert!(error.contains(part), "{case}: {error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn damaged_tables_do_not_panic(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        cut in any::<prop::sample::Index>(),
        snappy in any::<bool>(),
    ) {
        let compression = if snappy { Compression::SNAPPY } else { Compression::UNCOMPRESSED };
        let mut bytes = table(compression);
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        bytes.truncate(cut.index(bytes.len() * 3).max(1));
        drop(read(&bytes));
    }
}
