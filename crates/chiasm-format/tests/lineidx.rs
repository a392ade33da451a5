//! Tables of regions: rows of every published layout, and tables and indexes that are damaged or lie.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chiasm_format::lineidx::{LineIndex, MAX_LINE_BYTES, TableError, parse_row, row_id};
use proptest::prelude::*;

fn floats(values: &[f32]) -> String {
    STANDARD.encode(
        values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect::<Vec<u8>>(),
    )
}

fn integers(values: &[i64]) -> String {
    STANDARD.encode(
        values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect::<Vec<u8>>(),
    )
}

const CORNERS: [f32; 8] = [0.0, 1.0, 20.0, 30.0, 5.0, 6.0, 70.0, 80.0];
const FEATURES: [f32; 6] = [0.5, 1.0, 1.5, 2.0, 2.5, 3.0];

fn lxmert() -> Vec<String> {
    let (classes, scores) = (integers(&[7, 1599]), floats(&[0.9, 0.1]));
    let id = ["COCO_1", "480", "640"].map(str::to_owned);
    let labels = [classes.clone(), scores.clone(), classes, scores];
    let rest = ["2".to_owned(), floats(&CORNERS), floats(&FEATURES)];
    [id.to_vec(), labels.to_vec(), rest.to_vec()].concat()
}

fn rosita() -> Vec<String> {
    let (classes, scores) = (integers(&[7, 1599]), floats(&[0.9, 0.1]));
    let start = [
        "COCO_1".to_owned(),
        floats(&FEATURES),
        "480".to_owned(),
        "640".to_owned(),
    ];
    let rest = [
        "2".to_owned(),
        floats(&CORNERS),
        classes.clone(),
        scores.clone(),
        classes,
        scores,
    ];
    [start.to_vec(), rest.to_vec()].concat()
}

fn bottom_up() -> Vec<String> {
    let start = ["42", "640", "480", "2"].map(str::to_owned);
    [start.to_vec(), vec![floats(&CORNERS), floats(&FEATURES)]].concat()
}

/// Two regions of two numbers and a box in fractions.
fn oscar_features() -> String {
    floats(&[
        9.0, 8.0, 0.1, 0.2, 0.3, 0.4, 0.2, 0.2, 7.0, 6.0, 0.5, 0.5, 1.0, 1.0, 0.5, 0.5,
    ])
}

#[test]
fn every_published_layout_is_read() {
    for cells in [lxmert(), rosita()] {
        for end in ["", "\n", "\r\n"] {
            let row = parse_row((cells.join("\t") + end).as_bytes()).unwrap();
            assert_eq!(
                (row.image_id.as_str(), row.size, row.count),
                ("COCO_1", Some((640, 480)), 2)
            );
            assert_eq!(row.features, FEATURES);
            assert_eq!(row.boxes, [[0.0, 1.0, 20.0, 30.0], [5.0, 6.0, 70.0, 80.0]]);
            assert_eq!(
                (row.classes, row.attributes),
                (vec![7, 1599], vec![7, 1599])
            );
            assert_eq!(
                (row.class_scores, row.attribute_scores),
                (vec![0.9, 0.1], vec![0.9, 0.1])
            );
            assert!(!row.fractions);
        }
    }
    let row = parse_row(bottom_up().join("\t").as_bytes()).unwrap();
    assert_eq!(
        (row.size, row.features.len(), row.boxes.len()),
        (Some((640, 480)), 6, 2)
    );
    assert!(row.classes.is_empty());

    let oscar = format!("42\t2\t{}", oscar_features());
    let vinvl = format!(
        "42\t{{\"num_boxes\": 2, \"features\": \"{}\", \"more\": [1]}}",
        oscar_features()
    );
    for line in [oscar, vinvl] {
        let row = parse_row(line.as_bytes()).unwrap();
        assert_eq!(
            (row.image_id.as_str(), row.count, row.features.len()),
            ("42", 2, 16)
        );
        assert_eq!(row.boxes, [[0.1, 0.2, 0.3, 0.4], [0.5, 0.5, 1.0, 1.0]]);
        assert!(row.fractions && row.size.is_none());
    }
    // A picture in which nothing was seen.
    let nothing = parse_row(b"42\t640\t480\t0\t\t").unwrap();
    assert_eq!((nothing.count, nothing.features.len()), (0, 0));
    // A writer that forgot to decode its bytes.
    let quoted = format!(
        "42\t640\t480\t2\tb'{}'\tb'{}'",
        floats(&CORNERS),
        floats(&FEATURES)
    );
    assert_eq!(parse_row(quoted.as_bytes()).unwrap().features, FEATURES);
}

/// Each is an error that names the cell.
#[test]
fn hostile_rows_are_refused() {
    let with = |cells: Vec<String>, at: usize, value: &str| {
        let mut cells = cells;
        cells[at] = value.to_owned();
        cells.join("\t").into_bytes()
    };
    let nan = floats(&[0.5, f32::NAN, 0.5, 0.5, 0.5, 0.5]);
    let infinite = floats(&[0.0, 1.0, f32::INFINITY, 3.0, 0.0, 0.0, 1.0, 1.0]);
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("nothing", vec![], "row"),
        ("one cell", b"42".to_vec(), "row"),
        ("four cells", b"1\t2\t3\t4".to_vec(), "row"),
        (
            "eleven cells",
            [lxmert(), vec!["x".into()]]
                .concat()
                .join("\t")
                .into_bytes(),
            "row",
        ),
        ("only tabs", vec![b'\t'; 9], "num_boxes"),
        (
            "two rows in one",
            [b"1\t2\n".to_vec(), bottom_up().join("\t").into_bytes()].concat(),
            "row",
        ),
        (
            "a row beyond the cap",
            vec![b'a'; MAX_LINE_BYTES as usize + 1],
            "row",
        ),
        ("no name", with(bottom_up(), 0, ""), "img_id"),
        (
            "a name that is no text",
            [b"\xFF\xFE".to_vec(), with(bottom_up(), 0, "")].concat(),
            "img_id",
        ),
        (
            "a name beyond the cap",
            with(bottom_up(), 0, &"n".repeat(5000)),
            "img_id",
        ),
        (
            "a width that is no number",
            with(bottom_up(), 1, "wide"),
            "image_w",
        ),
        ("a negative width", with(bottom_up(), 1, "-640"), "image_w"),
        ("a width of nothing", with(bottom_up(), 1, "0"), "image_w"),
        (
            "a height beyond 32 bits",
            with(bottom_up(), 2, "99999999999"),
            "image_h",
        ),
        (
            "a fraction of a region",
            with(bottom_up(), 3, "2.5"),
            "num_boxes",
        ),
        (
            "a negative number of regions",
            with(bottom_up(), 3, "-2"),
            "num_boxes",
        ),
        (
            "more regions than the cap",
            with(bottom_up(), 3, "1001"),
            "num_boxes",
        ),
        (
            "four milliards of regions",
            with(bottom_up(), 3, "4294967295"),
            "num_boxes",
        ),
        (
            "fewer regions than boxes",
            with(bottom_up(), 3, "1"),
            "boxes",
        ),
        (
            "more regions than boxes",
            with(bottom_up(), 3, "3"),
            "boxes",
        ),
        ("no regions but boxes", with(bottom_up(), 3, "0"), "boxes"),
        (
            "boxes that are no base64",
            with(bottom_up(), 4, "*not base64*"),
            "boxes",
        ),
        (
            "base64 without its padding",
            with(bottom_up(), 5, floats(&[1.0, 2.0]).trim_end_matches('=')),
            "features",
        ),
        (
            "base64 with a blank",
            with(bottom_up(), 5, &format!(" {}", floats(&FEATURES))),
            "features",
        ),
        (
            "bytes that make no f32",
            with(bottom_up(), 5, &STANDARD.encode([1, 2, 3])),
            "features",
        ),
        (
            "features that do not divide",
            with(bottom_up(), 5, &floats(&[1.0, 2.0, 3.0])),
            "features",
        ),
        ("no features", with(bottom_up(), 5, ""), "features"),
        (
            "a feature that is no number",
            with(bottom_up(), 5, &nan),
            "features",
        ),
        (
            "a box without an end",
            with(bottom_up(), 4, &infinite),
            "boxes",
        ),
        (
            "classes as f32",
            with(lxmert(), 3, &floats(&[7.0, 8.0])),
            "objects_id",
        ),
        (
            "too few classes",
            with(lxmert(), 3, &integers(&[7])),
            "objects_id",
        ),
        (
            "too many scores",
            with(lxmert(), 4, &floats(&[0.1, 0.2, 0.3])),
            "objects_conf",
        ),
        (
            "a score that is no number",
            with(lxmert(), 6, &floats(&[0.1, f32::NAN])),
            "attrs_conf",
        ),
        (
            "attributes that are no base64",
            with(rosita(), 8, "é"),
            "attrs_id",
        ),
        (
            "JSON that ends early",
            b"42\t{\"num_boxes\": 2".to_vec(),
            "json",
        ),
        ("JSON of another shape", b"42\t[1, 2]".to_vec(), "json"),
        (
            "JSON without features",
            b"42\t{\"num_boxes\": 2}".to_vec(),
            "json",
        ),
        (
            "JSON nested without end",
            [b"42\t".to_vec(), vec![b'['; 100_000]].concat(),
            "json",
        ),
        (
            "JSON with too many regions",
            b"42\t{\"num_boxes\": 99999, \"features\": \"\"}".to_vec(),
            "num_boxes",
        ),
        (
            "features without room for a box",
            format!("42\t2\t{}", floats(&FEATURES)).into_bytes(),
            "features",
        ),
        (
            "numbers beyond the cap",
            format!("42\t1\t{}", floats(&vec![0.0; 65_537])).into_bytes(),
            "features",
        ),
    ];
    assert!(cases.len() >= 30, "{}", cases.len());
    for (reason, line, field) in cases {
        match parse_row(&line) {
            Err(TableError::Cell { field: found, .. }) => assert_eq!(found, field, "{reason}"),
            other => panic!("{reason}: {:?}", other.map(|row| row.count)),
        }
    }
}

#[test]
fn an_index_is_what_scanning_finds() {
    let table = b"a\tone\nb\ttwo two\n\nc\tlast";
    let scanned = LineIndex::scan(&table[..]).unwrap();
    assert_eq!(scanned.len(), 4);
    let read = LineIndex::read(&b"0\n6\n16\n17\n"[..], table.len() as u64).unwrap();
    assert_eq!(read, scanned);
    let line = |row| {
        let (offset, len) = read.get(row).unwrap();
        &table[offset as usize..(offset + len) as usize]
    };
    assert_eq!(
        (line(0), line(2), line(3)),
        (&b"a\tone\n"[..], &b"\n"[..], &b"c\tlast"[..])
    );
    assert_eq!(read.get(4), None);
    assert_eq!(
        (
            row_id(line(1)),
            row_id(line(2)),
            row_id(b"\tx"),
            row_id(b"\xFF\tx")
        ),
        (Some("b"), None, None, None)
    );
    assert!(LineIndex::scan(&b""[..]).unwrap().is_empty());
    assert!(LineIndex::read(&b""[..], 0).unwrap().is_empty());
}

#[test]
fn hostile_indexes_are_refused() {
    let cases: &[(&str, &[u8], u64)] = &[
        ("text", b"zero\n", 100),
        ("a negative offset", b"0\n-1\n", 100),
        ("a fraction", b"0\n6.5\n", 100),
        ("a sign", b"0\n0x10\n", 100),
        ("a blank line", b"0\n\n6\n", 100),
        ("a first row that is not the first", b"6\n12\n", 100),
        ("an offset twice", b"0\n6\n6\n", 100),
        ("offsets that fall", b"0\n12\n6\n", 100),
        ("an offset at the end", b"0\n100\n", 100),
        ("an offset beyond the end", b"0\n101\n", 100),
        (
            "an offset beyond 64 bits",
            b"0\n99999999999999999999\n",
            100,
        ),
        ("a number without end", &[b'1'; 4096], 100),
        ("bytes", &[0xFF; 64], 100),
        ("zero bytes", &[0; 64], 100),
        ("a row beyond the cap", b"0\n99999999\n", 100_000_000),
        ("a last row beyond the cap", b"0\n", 100_000_000),
        ("no rows for a table", b"", 100_000_000),
    ];
    for (reason, bytes, len) in cases {
        let error = LineIndex::read(*bytes, *len).unwrap_err();
        assert!(
            matches!(error, TableError::Index { .. }),
            "{reason}: {error}"
        );
        assert!(error.hint().is_some());
    }
    // Without an index: one line larger than any row.
    let long = std::io::Read::take(std::io::repeat(b'a'), MAX_LINE_BYTES + 1);
    assert!(LineIndex::scan(long).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Rows are found where they are, with and without an index.
    #[test]
    fn rows_are_found(lines in prop::collection::vec("[a-z\t]{0,30}", 1..40), ended: bool) {
        let mut table = lines.join("\n");
        if ended || table.is_empty() || table.ends_with('\n') {
            table.push('\n');
        }
        let mut offsets = vec![0];
        offsets.extend(table.match_indices('\n').map(|(at, _)| at + 1).filter(|at| *at < table.len()));
        let text: Vec<String> = offsets.iter().map(ToString::to_string).collect();
        let scanned = LineIndex::scan(table.as_bytes()).unwrap();
        let read = LineIndex::read(text.join("\n").as_bytes(), table.len() as u64).unwrap();
        prop_assert_eq!(&read, &scanned);
        for (row, start) in offsets.iter().enumerate() {
            let (offset, len) = scanned.get(row).unwrap();
            prop_assert_eq!(offset, *start as u64);
            let line = &table[*start..*start + len as usize];
            prop_assert!(!line.trim_end_matches('\n').contains('\n'));
        }
    }

    /// Written and read again: the same numbers.
    #[test]
    fn rows_come_back(count in 0usize..20, dim in 1usize..30, seed: u32) {
        let values: Vec<f32> = (0..count * dim).map(|at| (at as f32 + seed as f32).sin()).collect();
        let corners: Vec<f32> = (0..count * 4).map(|at| at as f32).collect();
        let line = format!("id\t640\t480\t{count}\t{}\t{}", floats(&corners), floats(&values));
        let row = parse_row(line.as_bytes()).unwrap();
        prop_assert_eq!(row.features, values);
        prop_assert_eq!(row.boxes.len(), count);
    }

    /// Any bytes: an answer.
    #[test]
    fn arbitrary_rows_never_panic(
        cells in prop::collection::vec("[0-9A-Za-z+/={}\":,.é-]{0,40}", 0..12),
        bytes in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let _ = parse_row(cells.join("\t").as_bytes());
        let _ = parse_row(&bytes);
        let _ = LineIndex::read(&bytes[..], 100);
    }
}
