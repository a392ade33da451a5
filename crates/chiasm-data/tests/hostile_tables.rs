//! Damaged and crafted files where a splits table, the traces of a run or the head of a table is
//! expected: an error or a harmless result, never a panic.

#![allow(
    clippy::unwrap_used,
    reason = "a failed unwrap here is the failed test"
)]

use chiasm_data::audit::read_traces;
use chiasm_data::readers::choose_columns;
use chiasm_data::{OpenOptions, Split, open};

/// What the file is, and its bytes.
fn files() -> Vec<(&'static str, Vec<u8>)> {
    let text = |text: &str| text.as_bytes().to_vec();
    let trace = |pictures: &str, texts: &str| {
        text(&format!(
            r#"{{"id":"a","pictures":{pictures},"texts":{texts}}}"#
        ))
    };
    vec![
        ("nothing", text("")),
        ("blanks", text("   \n\n\n")),
        ("a byte-order mark alone", text("\u{FEFF}")),
        ("zeros", vec![0; 4096]),
        ("all ones", vec![0xff; 4096]),
        ("a line without end", vec![b'a'; 3 << 20]),
        ("quotes that never close", text("id,split\n\"a,train\n")),
        ("a quote in a cell", text("id,split\na\"b,train\n")),
        ("a header alone", text("id,split\n")),
        ("a header of commas", text(",,,,,,,,\n,,,,,,,,\n")),
        ("one column", text("id\na\n")),
        (
            "a column twice",
            text("id,id,split,split\na,b,train,test\n"),
        ),
        ("too few cells", text("id,split\na\n")),
        ("too many cells", text("id,split\na,train,x,y\n")),
        ("an unknown split", text("id,split\na,everything\n")),
        ("an empty split", text("id,split\na,\n")),
        (
            "a split of a megabyte",
            text(&format!("id,split\na,{}\n", "x".repeat(1 << 20))),
        ),
        ("nobody's ids", text("id,split\nx,train\ny,test\n")),
        ("text that is not UTF-8", b"id,split\n\xe9,train\n".to_vec()),
        ("UTF-16", b"\xff\xfei\0d\0,\0s\0p\0l\0i\0t\0\n\0".to_vec()),
        (
            "ten thousand columns",
            text(&format!("{}\n", "c,".repeat(10_000))),
        ),
        ("carriage returns alone", text("id,split\ra,trian\r")),
        ("an array", text("[1,2,3]")),
        ("a number", text("7")),
        ("deep nesting", vec![b'['; 100_000]),
        ("an object without keys", text("{}")),
        (
            "a key twice",
            text(r#"{"id":"a","id":"b","pictures":[],"texts":[]}"#),
        ),
        ("pictures that are numbers", trace("[1]", "[]")),
        ("pictures that are no list", trace("\"x\"", "[]")),
        ("base64 with a line break", trace("[\"AA\\nAA\"]", "[]")),
        ("padded base64", trace("[\"AAAA====\"]", "[]")),
        (
            "a digest one byte short",
            trace(&format!("[\"{}\"]", "A".repeat(41)), "[]"),
        ),
        (
            "a look one byte long",
            trace(&format!("[\"{}\"]", "A".repeat(44)), "[]"),
        ),
        (
            "a text's digest too long",
            trace("[]", &format!("[\"{}\"]", "A".repeat(64))),
        ),
        (
            "an id that is null",
            text(r#"{"id":null,"pictures":[],"texts":[]}"#),
        ),
        ("half an object", text(r#"{"id":"a","pic"#)),
        (
            "a PNG",
            b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\xff\xff\xff\xff".to_vec(),
        ),
        ("a zip", b"PK\x03\x04\x14\0\0\0\x08\0".to_vec()),
    ]
}

#[test]
fn crafted_files_are_errors_or_harmless() {
    let files = files();
    assert!(files.len() >= 30);
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::write(at("pairs.csv"), "image,text,split\na,one,val\n").unwrap();
    for (what, bytes) in files {
        // As splits of a good table: refused, or taken for the one sample there is.
        std::fs::write(at("splits.csv"), &bytes).unwrap();
        let options = OpenOptions {
            splits: Some(at("splits.csv")),
            ..OpenOptions::default()
        };
        if let Ok(opened) = open(&at("pairs.csv"), &options) {
            assert_eq!(opened.dataset.samples[0].split, Split::Train, "{what}");
        }
        // As traces: each of them must be whole.
        std::fs::write(at("traces.jsonl"), &bytes).unwrap();
        if let Ok(traces) = read_traces(&at("traces.jsonl")) {
            assert!(traces.is_empty(), "{what}");
        }
        // As a table whose columns are looked for.
        for name in ["t.csv", "t.tsv", "t.jsonl"] {
            std::fs::write(at(name), &bytes).unwrap();
            let mut options = OpenOptions::default();
            let chosen = choose_columns(&at(name), &mut options);
            assert!(chosen.is_err() || options.image_column.is_none(), "{what}");
        }
    }
}
