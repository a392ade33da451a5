//! Every reader on good, hostile and arbitrary input, through the public entry point.

// The lint configuration knows test functions, not the helpers of integration tests.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use chiasm_data::readers::MAX_TEXT_CHARS;
use chiasm_data::{
    DataError, ImageSource, Limits, OpenOptions, Opened, Split, Visual, check, open,
};
use proptest::prelude::*;

fn write(folder: &Path, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.join(name);
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).unwrap();
    }
    std::fs::write(&path, content).unwrap();
    path
}

fn read(name: &str, content: impl AsRef<[u8]>) -> Result<Opened, DataError> {
    let folder = tempfile::tempdir().unwrap();
    open(
        &write(folder.path(), name, content),
        &OpenOptions::default(),
    )
}

/// The places of all rows that were set aside.
fn locations(opened: &Opened) -> Vec<&str> {
    let entries = opened.quarantine.entries.iter();
    entries.map(|entry| entry.location.as_str()).collect()
}

fn png(width: u32, height: u32) -> Vec<u8> {
    let picture = image::DynamicImage::new_rgb8(width, height);
    let mut bytes = std::io::Cursor::new(Vec::new());
    picture
        .write_to(&mut bytes, image::ImageFormat::Png)
        .unwrap();
    bytes.into_inner()
}

#[test]
fn csv_merges_rows_and_keeps_splits() {
    let table = "image,caption,split\na.png,one,train\nb.png,\"two, with comma\",test\n./a.png,three,train\n";
    let opened = read("pairs.csv", table).unwrap();
    let samples = &opened.dataset.samples;
    assert_eq!(
        (
            opened.dataset.name.as_str(),
            samples.len(),
            opened.quarantine.len()
        ),
        ("pairs", 2, 0)
    );
    assert_eq!(
        (samples[0].id.as_str(), samples[0].split),
        ("a.png", Split::Train)
    );
    assert_eq!(samples[0].texts, ["one", "three"]);
    assert_eq!(samples[1].texts, ["two, with comma"]);
    assert!(samples[1].visual.path().unwrap().ends_with("b.png"));
    assert_eq!(
        samples[1].origin.place.unwrap().to_string(),
        "line 3",
        "the first of its lines"
    );
}

#[test]
fn delimiters_are_found() {
    for (name, table) in [
        ("t.csv", "image;text\na.png;one, two\n"),
        ("t.csv", "image\ttext\na.png\tone, two\n"),
        ("t.csv", "\u{FEFF}image,text\na.png,\"one, two\"\n"),
        ("t.tsv", "image\ttext\na.png\tone, two\n"),
        ("t.csv", "image,text\r\na.png,\"one, two\"\r\n"),
    ] {
        let opened = read(name, table).unwrap();
        assert_eq!(opened.dataset.samples[0].texts, ["one, two"], "{table:?}");
    }
}

#[test]
fn bad_rows_are_set_aside_with_line_and_reason() {
    let long = "x".repeat(100_000);
    let mut table = b"image,text,split\n".to_vec();
    table.extend(b"a.png,fine,train\n"); // line 2
    table.extend(b"b.png,\xFF\xFE,train\n"); // line 3: not UTF-8
    table.extend(b"c.png, ,train\n"); // line 4: blank
    table.extend(b"d.png\n"); // line 5: short
    table.extend(b"e.png,text,trian\n"); // line 6: no split
    table.extend(format!("f.png,{long},train\n").as_bytes()); // line 7: long
    table.extend(b",text,train\n"); // line 8: no image
    table.extend("g.png,🦀🎉,test\n".as_bytes()); // line 9: fine
    table.extend(b"a.png,again,test\n"); // line 10: other split
    table.extend(b"https://example.org/x.png,text,train\n"); // line 11
    let opened = read("t.csv", &table).unwrap();
    assert_eq!(opened.dataset.len(), 2);
    assert_eq!(opened.dataset.samples[1].texts, ["🦀🎉"]);
    let told: Vec<(String, String)> = opened
        .quarantine
        .entries
        .iter()
        .map(|e| (e.location.clone(), e.reason.clone()))
        .collect();
    for (line, part) in [
        ("line 3", "UTF-8"),
        ("line 4", "empty text"),
        ("line 5", "1 of 3 columns"),
        ("line 6", "trian"),
        ("line 7", "100000 characters, more than the cap 10,000"),
        ("line 8", "no image path"),
        ("line 10", "already in split `train`"),
        ("line 11", "web address"),
    ] {
        assert!(
            told.iter()
                .any(|(at, why)| at == line && why.contains(part)),
            "{line}: {part}: {told:#?}"
        );
    }
    assert_eq!(told.len(), 8);
    let just_fits = format!("image,text\na.png,{}\n", "y".repeat(MAX_TEXT_CHARS));
    assert_eq!(read("t.csv", just_fits).unwrap().quarantine.len(), 0);
}

/// Lines as an editor counts them, whatever ends them and however much is read ahead.
#[test]
fn csv_lines_are_counted_with_every_line_end() {
    for end in ["\n", "\r\n", "\r"] {
        for prefix in ["", "\u{FEFF}"] {
            let mut lines = vec![
                format!("{prefix}image,text"), // line 1
                "a.png,fine".to_owned(),
                "b.png,".to_owned(), // line 3: empty text
                String::new(),
                String::new(),
                "c.png,".to_owned(), // line 6: empty text
                "\"d.png\",\"two".to_owned(),
                String::new(),
                "parts\"".to_owned(),
                "e.png".to_owned(), // line 10: short
            ];
            lines.extend((0..4000).map(|index| format!("more{index}.png,text")));
            lines.push("last.png,".to_owned()); // line 4011, without a line end
            let opened = read("t.csv", lines.join(end)).unwrap();
            assert_eq!(
                locations(&opened),
                ["line 3", "line 6", "line 10", "line 4011"],
                "{end:?} {prefix:?}"
            );
            let samples = &opened.dataset.samples;
            let places = [1, 2, 4001].map(|index| samples[index].origin.place.unwrap().number);
            assert_eq!(places, [7, 11, 4010], "{end:?} {prefix:?}");
        }
    }
}

/// The reader and the check name the same place of the same table alike.
#[test]
fn reader_and_check_count_alike() {
    let array = r#"[{"image":"a.png","text":"x"},{"image":"b.png","text":" "}]"#;
    for (name, table, places) in [
        (
            "t.csv",
            "image,text\r\na.png,x\r\nb.png, \r\n",
            ["line 2", "line 3"],
        ),
        (
            "t.jsonl",
            "\n{\"image\":\"a.png\",\"text\":\"x\"}\n{\"image\":\"b.png\",\"text\":\" \"}\n",
            ["line 2", "line 3"],
        ),
        ("t.json", array, ["row 1", "row 2"]),
    ] {
        let opened = read(name, table).unwrap();
        let report = check(&opened.dataset, &Limits::default(), &|_| {});
        assert_eq!(
            [
                report.quarantine.entries[0].location.as_str(),
                opened.quarantine.entries[0].location.as_str()
            ],
            places
        );
        let origin = opened.dataset.samples[0].origin.to_string();
        assert!(
            origin.ends_with(&format!("{name}, {}", places[0])),
            "{origin}"
        );
    }
}

#[test]
fn a_file_named_after_a_split_is_that_split() {
    let rows = "{\"image\":\"a.png\",\"text\":\"one\"}\n{\"image\":\"b.png\",\"text\":\"two\"}\n";
    for (name, split) in [
        ("train.jsonl", Split::Train),
        ("dev.jsonl", Split::Val),
        ("test.jsonl", Split::Test),
    ] {
        let opened = read(name, rows).unwrap();
        let samples = opened.dataset.samples;
        assert!(samples.iter().all(|sample| sample.split == split), "{name}");
    }
    // A column says more than the name.
    let table = "image,text,split\na.png,one,val\n";
    let opened = read("train.csv", table).unwrap();
    assert_eq!(opened.dataset.samples[0].split, Split::Val);
}

#[test]
fn unusable_sources_say_why() {
    let missing = open(Path::new("no/such/table.csv"), &OpenOptions::default()).unwrap_err();
    assert!(missing.to_string().contains("table.csv") && missing.hint().is_some());
    for (name, content, part) in [
        ("t.csv", "", "no usable image"),
        ("t.csv", "image,text\n", "no usable image"),
        ("t.csv", "image,text\na.png,\n", "1 rows rejected"),
        ("t.csv", "picture,words\na.png,x\n", "`picture`, `words`"),
        ("t.csv", "image,captoin\na.png,x\n", "no text column"),
        ("t.jsonl", "", "no usable image"),
        ("t.jsonl", "{\"a\":1}\n", "`a`"),
        ("t.json", "[1, 2]", "no usable image"),
        ("t.json", "hello", "not in a known"),
        ("t.json", "{}", "not in a known"),
        ("t.parquet", "PAR1", "cannot be parsed"),
        ("t.xlsx", "", ".xlsx"),
        ("t", "", "not in a known"),
    ] {
        let error = read(name, content).unwrap_err();
        assert!(
            error.to_string().contains(part),
            "{name} {content:?}: {error}"
        );
    }
    let error = read("t.csv", "image,captoin\na.png,x\n").unwrap_err();
    assert_eq!(
        error.hint().unwrap(),
        "if `captoin` is meant, pass `--text-column captoin`"
    );
}

#[test]
fn named_columns_and_image_root() {
    let folder = tempfile::tempdir().unwrap();
    let table = write(
        folder.path(),
        "t.csv",
        "image,text,foto,worte,teil\nx,y,a.png,hallo,val\n",
    );
    let options = OpenOptions {
        image_column: Some("Foto".into()),
        text_column: Some("worte".into()),
        split_column: Some("teil".into()),
        image_root: Some("pictures".into()),
        ..OpenOptions::default()
    };
    let opened = open(&table, &options).unwrap();
    let sample = &opened.dataset.samples[0];
    assert_eq!((sample.id.as_str(), sample.split), ("a.png", Split::Val));
    assert_eq!(sample.visual.path().unwrap(), Path::new("pictures/a.png"));
    let wrong = OpenOptions {
        text_column: Some("wort".into()),
        ..OpenOptions::default()
    };
    let error = open(&table, &wrong).unwrap_err();
    assert!(error.to_string().contains("`wort`") && error.hint().unwrap().contains("worte"));
    let wrong = OpenOptions {
        split_column: Some("part".into()),
        ..OpenOptions::default()
    };
    assert!(matches!(
        open(&table, &wrong),
        Err(DataError::ColumnMissing { role: "split", .. })
    ));
}

#[test]
fn json_lines_and_arrays() {
    let lines = "{\"image\":\"a.png\",\"captions\":[\"one\",\"two\"]}\n\nnot json\n{\"image\":\"b.png\",\"captions\":\"three\"}\n[]\n{\"image\":3,\"captions\":\"x\"}\n";
    let opened = read("t.jsonl", lines).unwrap();
    assert_eq!(opened.dataset.pairs(), [(0, 0), (0, 1), (1, 0)]);
    assert_eq!(locations(&opened), ["line 3", "line 5", "line 6"]);
    let array = r#" [{"Image":"a.png","Text":"one","split":"dev"},{"Image":"b.png","Text":"two"}]"#;
    let opened = read("t.json", array).unwrap();
    assert_eq!(opened.dataset.samples[0].split, Split::Val);
    assert_eq!(opened.quarantine.entries[0].location, "row 2");
    let mut bytes =
        b"{\"image\":\"a.png\",\"text\":\"fine\"}\n{\"image\":\"b.png\",\"text\":\"".to_vec();
    bytes.extend(b"\xFF\"}\n");
    let opened = read("t.ndjson", bytes).unwrap();
    assert!(opened.quarantine.entries[0].reason.contains("UTF-8"));
}

#[test]
fn split_without_a_column_follows_the_id() {
    let table: String = std::iter::once("image,text\n".to_owned())
        .chain((0..2000).map(|i| format!("p/{i}.png,text {i}\n")))
        .collect();
    let first = read("t.csv", &table).unwrap().dataset;
    let second = read("other.csv", &table).unwrap().dataset;
    assert_eq!(first.fingerprint(), second.fingerprint());
    let counts = first.counts();
    assert!(
        (160..=240).contains(&counts[&Split::Test].images),
        "{counts:?}"
    );
    assert!(
        (70..=130).contains(&counts[&Split::Val].images),
        "{counts:?}"
    );
    assert!(
        first
            .samples
            .iter()
            .all(|sample| sample.split == Split::by_hash(&sample.id))
    );
}

#[test]
fn folders_of_pictures_with_text_files() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "b.PNG", png(4, 4));
    write(folder.path(), "b.txt", "one\n\n two \r\n");
    write(folder.path(), "deep/er/a.jpg", b"later found damaged");
    write(folder.path(), "deep/er/a.txt", "three");
    write(folder.path(), "lonely.webp", b"");
    write(folder.path(), "blank.gif", b"");
    write(folder.path(), "blank.txt", " \n");
    write(folder.path(), "latin.bmp", b"");
    write(folder.path(), "latin.txt", b"caf\xE9");
    write(folder.path(), ".hidden/c.png", png(4, 4));
    let opened = open(folder.path(), &OpenOptions::default()).unwrap();
    let ids: Vec<&str> = opened
        .dataset
        .samples
        .iter()
        .map(|sample| sample.id.as_str())
        .collect();
    assert_eq!(ids, ["b.PNG", "deep/er/a.jpg"]);
    assert_eq!(opened.dataset.samples[0].texts, ["one", "two"]);
    let reasons: Vec<&str> = opened
        .quarantine
        .entries
        .iter()
        .map(|entry| entry.reason.as_str())
        .collect();
    assert_eq!(reasons.len(), 3);
    assert!(
        reasons[0].contains("empty")
            && reasons[1].contains("UTF-8")
            && reasons[2].contains("no text file")
    );

    let report = check(&opened.dataset, &Limits::default(), &|_| {});
    assert_eq!(
        (
            report.good.len(),
            report.quarantine.len(),
            report.summary.tiny_images
        ),
        (1, 1, 1)
    );

    let empty = tempfile::tempdir().unwrap();
    assert!(
        open(empty.path(), &OpenOptions::default())
            .unwrap_err()
            .to_string()
            .contains("no pictures")
    );
}

#[test]
fn folders_named_as_splits_are_the_splits() {
    let folder = tempfile::tempdir().unwrap();
    for (name, part) in [("a", "train"), ("b", "val"), ("c", "test")] {
        write(folder.path(), &format!("{part}/{name}.png"), png(2, 2));
        write(folder.path(), &format!("{part}/{name}.txt"), name);
    }
    let set = open(folder.path(), &OpenOptions::default())
        .unwrap()
        .dataset;
    assert!(
        set.samples
            .iter()
            .all(|sample| sample.id.starts_with(sample.split.as_str()))
    );
}

#[test]
fn karpathy_files_and_folders() {
    let folder = tempfile::tempdir().unwrap();
    let json = r#"{"dataset":"mine","images":[
        {"filename":"a.jpg","split":"restval","imgid":0,"sentences":[{"raw":"one","tokens":["one"]},{"raw":"two"}]},
        {"filename":"b.jpg","filepath":"val2014","split":"test","cocoid":5,"sentences":[{"raw":"three"}]},
        {"filename":"c.jpg","split":"nowhere","sentences":[{"raw":"x"}]},
        {"filename":"d.jpg","split":"val","sentences":[]}]}"#;
    write(folder.path(), "dataset_mine.json", json);
    write(folder.path(), "images/a.jpg", b"");
    write(folder.path(), "images/val2014/b.jpg", b"");
    let opened = open(folder.path(), &OpenOptions::default()).unwrap();
    let set = opened.dataset;
    assert_eq!(
        (set.name.as_str(), set.len(), opened.quarantine.len()),
        ("mine", 2, 2)
    );
    assert_eq!(
        (set.samples[0].split, set.samples[0].texts.len()),
        (Split::Train, 2)
    );
    assert!(
        set.samples
            .iter()
            .all(|sample| sample.visual.path().unwrap().is_file())
    );
    assert_eq!(set.samples[1].id, "val2014/b.jpg");
    write(folder.path(), "dataset_other.json", json);
    assert!(
        open(folder.path(), &OpenOptions::default())
            .unwrap_err()
            .to_string()
            .contains("2 files")
    );
}

mod tables {
    use super::*;
    use parquet::data_type::{ByteArray, ByteArrayType};
    use parquet::file::properties::WriterProperties;
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;

    /// One column of a test table: values, definition levels and repetition levels.
    type Column<'a> = (Vec<&'a [u8]>, Vec<i16>, Vec<i16>);

    fn table(schema: &str, columns: &[Column<'_>]) -> Vec<u8> {
        let schema = Arc::new(parse_message_type(schema).unwrap());
        let mut bytes = Vec::new();
        let properties = Arc::new(WriterProperties::builder().build());
        let mut writer = SerializedFileWriter::new(&mut bytes, schema, properties).unwrap();
        let mut group = writer.next_row_group().unwrap();
        for (values, definition, repetition) in columns {
            let mut column = group.next_column().unwrap().unwrap();
            let values: Vec<ByteArray> = values
                .iter()
                .map(|value| ByteArray::from(value.to_vec()))
                .collect();
            let definition = (!definition.is_empty()).then_some(definition.as_slice());
            let repetition = (!repetition.is_empty()).then_some(repetition.as_slice());
            column
                .typed::<ByteArrayType>()
                .write_batch(&values, definition, repetition)
                .unwrap();
            column.close().unwrap();
        }
        group.close().unwrap();
        writer.close().unwrap();
        bytes
    }

    #[test]
    fn paths_with_text() {
        let schema = "message t { required binary image (UTF8); required binary caption (UTF8); required binary split (UTF8); }";
        let bytes = table(
            schema,
            &[
                (vec![b"a.png", b"b.png", b"a.png"], vec![], vec![]),
                (vec![b"one", b"", b"three"], vec![], vec![]),
                (vec![b"train", b"val", b"train"], vec![], vec![]),
            ],
        );
        let opened = read("t.parquet", &bytes).unwrap();
        assert_eq!(opened.dataset.samples[0].texts, ["one", "three"]);
        assert_eq!(opened.quarantine.entries[0].location, "row 2");
        for cut in [bytes.len() / 2, bytes.len() - 10] {
            assert!(read("t.parquet", &bytes[..cut]).is_err());
        }
    }

    #[test]
    fn stored_pictures_and_text_lists() {
        let schema = "message t {
            required group image { optional binary bytes; optional binary path (UTF8); }
            required group text (LIST) { repeated group list { required binary element (UTF8); } } }";
        let picture = png(3, 2);
        let bytes = table(
            schema,
            &[
                (vec![&picture, &picture], vec![1, 1], vec![]),
                (vec![b"x/a.png"], vec![1, 0], vec![]),
                (vec![b"one", b"two", b"three"], vec![1, 1, 1], vec![0, 1, 0]),
            ],
        );
        let opened = read("t.parquet", bytes).unwrap();
        let samples = &opened.dataset.samples;
        assert_eq!(samples.len(), 2);
        assert_eq!(
            (samples[0].id.as_str(), samples[0].texts.len()),
            ("x/a.png", 2)
        );
        assert_eq!(samples[1].id.len(), 32);
        assert!(matches!(
            samples[1].visual,
            Visual::Image(ImageSource::Bytes(_))
        ));
        let report = check(&opened.dataset, &Limits::default(), &|_| {});
        assert_eq!((report.good.len(), report.summary.duplicate_images), (2, 1));
    }
}

#[test]
fn flickr8k_opens_with_its_published_splits() {
    let folder = chiasm_testkit::shared_dir().join("data/flickr8k");
    if !chiasm_testkit::available(&folder) {
        return;
    }
    let opened = open(&folder, &OpenOptions::default()).unwrap();
    assert_eq!((opened.dataset.len(), opened.quarantine.len()), (8091, 0));
    let counts = opened.dataset.counts();
    let images = [Split::Train, Split::Val, Split::Test].map(|split| counts[&split].images);
    assert_eq!(images, [6091, 1000, 1000]);
    assert_eq!(
        counts.values().map(|count| count.texts).sum::<usize>(),
        40_455
    );
    assert!(
        opened
            .dataset
            .samples
            .iter()
            .take(100)
            .all(|sample| sample.visual.sources()[0].read().is_ok())
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn arbitrary_bytes_never_panic(bytes: Vec<u8>, which in 0usize..5) {
        let name = ["t.csv", "t.tsv", "t.jsonl", "t.json", "t.parquet"][which];
        let _ = read(name, bytes);
    }

    #[test]
    fn arbitrary_rows_are_kept_or_counted(rows in proptest::collection::vec(("[a-c]{0,2}", "\\PC{0,12}"), 1..20)) {
        let lines: String = rows
            .iter()
            .map(|(image, text)| serde_json::json!({ "image": image, "text": text }).to_string() + "\n")
            .collect();
        match read("t.jsonl", lines) {
            Ok(opened) => {
                let kept: usize = opened.dataset.samples.iter().map(|sample| sample.texts.len()).sum();
                prop_assert_eq!(kept + opened.quarantine.len(), rows.len());
            }
            Err(DataError::Empty { rejected, .. }) => prop_assert_eq!(rejected, rows.len()),
            Err(other) => prop_assert!(false, "{}", other),
        }
    }
}

/// Tables that a pattern names are read as one: each with its own split, and ids that occur in two of
/// them stay apart.
#[test]
fn several_tables_are_one_data_set() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.png"), png(8, 8)).unwrap();
    let row = |text: &str| {
        format!("{{\"image\": \"a.png\", \"question\": \"{text}\", \"answer\": \"x\"}}\n")
    };
    write(folder.path(), "train.jsonl", row("one?") + &row("two?"));
    write(folder.path(), "test.jsonl", row("three?"));
    let all = open(
        &folder.path().join("{train,test}.jsonl"),
        &OpenOptions::default(),
    )
    .unwrap();
    let splits: Vec<Split> = all.dataset.samples.iter().map(|s| s.split).collect();
    assert_eq!(splits, [Split::Train, Split::Train, Split::Test]);
    let ids: std::collections::HashSet<&str> =
        all.dataset.samples.iter().map(|s| s.id.as_str()).collect();
    assert_eq!(ids.len(), 3);
}
