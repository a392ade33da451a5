//! Arrow tables on good, hostile and arbitrary input, through the public entry point.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is the failed test")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::builder::{ListBuilder, StringBuilder};
use arrow_array::types::Int8Type;
use arrow_array::{
    Array, ArrayRef, BinaryArray, BooleanArray, DictionaryArray, Float64Array, Int64Array,
    LargeBinaryArray, LargeStringArray, ListArray, NullArray, RecordBatch, StringArray,
    StructArray,
};
use arrow_buffer::OffsetBuffer;
use arrow_ipc::CompressionType;
use arrow_ipc::writer::{FileWriter, IpcWriteOptions, StreamWriter};
use arrow_schema::{DataType, Field};
use chiasm_data::{
    DataError, Dataset, ImageSource, OpenOptions, Opened, Sample, Split, Visual, open,
};
use chiasm_format::arrow::{MAX_METADATA_BYTES, Table};
use proptest::prelude::*;

/// A picture as far as a table is concerned: bytes that differ.
fn picture(seed: u8) -> Vec<u8> {
    let mut bytes = b"\x89PNG\r\n\x1a\n".to_vec();
    bytes.extend(vec![seed; 200 + usize::from(seed)]);
    bytes
}

fn pictures(seeds: impl IntoIterator<Item = u8>) -> ArrayRef {
    let cells: Vec<Vec<u8>> = seeds.into_iter().map(picture).collect();
    Arc::new(BinaryArray::from_iter_values(cells))
}

fn texts<S: AsRef<str>>(rows: &[S]) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(rows))
}

fn lists(rows: &[&[&str]]) -> ListArray {
    let mut list = ListBuilder::new(StringBuilder::new());
    for row in rows {
        list.append_value(row.iter().map(Some));
    }
    list.finish()
}

/// A list column of `values`, `lengths` of them a row.
fn list_of(values: ArrayRef, lengths: &[usize]) -> ArrayRef {
    let field = Arc::new(Field::new("item", values.data_type().clone(), true));
    let offsets = OffsetBuffer::from_lengths(lengths.iter().copied());
    Arc::new(ListArray::new(field, offsets, values, None))
}

fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(
        columns.into_iter().map(|(name, array)| (name, array, true)),
    )
    .unwrap()
}

fn options(compression: Option<CompressionType>) -> IpcWriteOptions {
    IpcWriteOptions::default()
        .try_with_compression(compression)
        .unwrap()
}

fn file_form(batches: &[RecordBatch], compression: Option<CompressionType>) -> Vec<u8> {
    let schema = batches[0].schema();
    let mut writer =
        FileWriter::try_new_with_options(Vec::new(), &schema, options(compression)).unwrap();
    for batch in batches {
        writer.write(batch).unwrap();
    }
    writer.into_inner().unwrap()
}

fn stream_form(batches: &[RecordBatch]) -> Vec<u8> {
    let mut writer = StreamWriter::try_new(Vec::new(), &batches[0].schema()).unwrap();
    for batch in batches {
        writer.write(batch).unwrap();
    }
    writer.into_inner().unwrap()
}

fn write(folder: &Path, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, bytes).unwrap();
    path
}

fn read(name: &str, bytes: impl AsRef<[u8]>) -> Result<Opened, DataError> {
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), name, bytes);
    let opened = open(&path, &OpenOptions::default());
    // Cells are read while the file is there.
    if let Ok(opened) = &opened {
        for sample in &opened.dataset.samples {
            for source in sample.visual.sources() {
                drop(source.read());
            }
        }
    }
    opened
}

fn bytes_of(sample: &Sample) -> Vec<Vec<u8>> {
    let sources = sample.visual.sources().iter();
    sources
        .map(|source| source.read().unwrap().into_owned())
        .collect()
}

fn splits(dataset: &Dataset) -> Vec<(Split, usize, usize)> {
    let counts = dataset.counts();
    counts
        .iter()
        .map(|(split, count)| (*split, count.images, count.texts))
        .collect()
}

/// Captions as METER writes them, two batches of two and one row.
fn captions() -> Vec<RecordBatch> {
    let rows = |seeds: &[u8], captions: &[&[&str]], splits: &[&str]| {
        let ids: Vec<String> = seeds
            .iter()
            .map(|seed| format!("COCO_{seed}.jpg"))
            .collect();
        batch(vec![
            ("image", pictures(seeds.iter().copied())),
            ("caption", Arc::new(lists(captions))),
            ("image_id", texts(&ids)),
            ("split", texts(splits)),
        ])
    };
    vec![
        rows(
            &[1, 2],
            &[&["a dog", "a brown dog"], &["a cat"]],
            &["train", "restval"],
        ),
        rows(&[3], &[&["a bird", "it sings"]], &["test"]),
    ]
}

fn check_captions(opened: &Opened) {
    assert_eq!(opened.quarantine.entries, []);
    let samples = &opened.dataset.samples;
    let seen: Vec<(&str, Vec<&str>, Split, String)> = samples
        .iter()
        .map(|sample| {
            (
                sample.id.as_str(),
                sample.texts.iter().map(String::as_str).collect(),
                sample.split,
                sample.origin.place.unwrap().to_string(),
            )
        })
        .collect();
    assert_eq!(
        seen,
        [
            (
                "COCO_1.jpg",
                vec!["a dog", "a brown dog"],
                Split::Train,
                "row 1".to_owned()
            ),
            (
                "COCO_2.jpg",
                vec!["a cat"],
                Split::Train,
                "row 2".to_owned()
            ),
            (
                "COCO_3.jpg",
                vec!["a bird", "it sings"],
                Split::Test,
                "row 3".to_owned()
            ),
        ]
    );
}

#[test]
fn captions_leave_their_pictures_in_the_file() {
    let folder = tempfile::tempdir().unwrap();
    for bytes in [file_form(&captions(), None), stream_form(&captions())] {
        let path = write(folder.path(), "coco_caption_karpathy_train.arrow", bytes);
        let opened = open(&path, &OpenOptions::default()).unwrap();
        check_captions(&opened);
        for (sample, seed) in opened.dataset.samples.iter().zip(1..) {
            let Visual::Image(ImageSource::Part { file, .. }) = &sample.visual else {
                panic!("{:?}", sample.visual);
            };
            assert_eq!(file.path(), path);
            assert_eq!(bytes_of(sample), [picture(seed)]);
        }
    }
}

#[test]
fn compressed_tables_hold_their_pictures() {
    let folder = tempfile::tempdir().unwrap();
    for codec in [CompressionType::LZ4_FRAME, CompressionType::ZSTD] {
        let bytes = file_form(&captions(), Some(codec));
        let path = write(folder.path(), "t.feather", bytes);
        let opened = open(&path, &OpenOptions::default()).unwrap();
        check_captions(&opened);
        for (sample, seed) in opened.dataset.samples.iter().zip(1..) {
            assert_eq!(bytes_of(sample), [picture(seed)]);
        }
        // The bytes of all pictures are the budget.
        let need = picture(1).len() + picture(2).len();
        for (budget, fits) in [(need as u64, true), (need as u64 - 1, false)] {
            let mut left = budget;
            let read = Table::open(&path).unwrap().next(&[0], &mut left);
            assert_eq!(read.is_ok(), fits);
            match read {
                Ok(batch) => assert_eq!((batch.unwrap().rows, left), (2, 0)),
                Err(error) => assert!(error.hint().unwrap().contains("without compression")),
            }
        }
    }
}

fn questions() -> RecordBatch {
    let answers = lists(&[&["yes", "no"], &["2"], &["red"]]);
    let scores = list_of(
        Arc::new(Float64Array::from(vec![0.6, 1.0, 0.3, 0.9])),
        &[2, 1, 1],
    );
    batch(vec![
        ("image", pictures([1, 2])),
        (
            "questions",
            Arc::new(lists(&[&["a dog?", "how many?"], &["what colour?"]])),
        ),
        ("answers", list_of(Arc::new(answers), &[2, 1])),
        (
            "answer_labels",
            list_of(
                list_of(Arc::new(Int64Array::from(vec![3, 9, 4, 7])), &[2, 1, 1]),
                &[2, 1],
            ),
        ),
        ("answer_scores", list_of(scores, &[2, 1])),
        ("image_id", Arc::new(Int64Array::from(vec![42, 43]))),
        (
            "question_id",
            list_of(
                Arc::new(Int64Array::from(vec![42000, 42001, 43000])),
                &[2, 1],
            ),
        ),
        ("split", texts(&["train", "val"])),
    ])
}

/// Id, group, text, split and answers of a sample.
type Question<'a> = (&'a str, &'a str, &'a str, Split, Vec<(&'a str, u32)>);

#[test]
fn a_question_is_a_sample() {
    let opened = read("vqav2_train.arrow", file_form(&[questions()], None)).unwrap();
    assert_eq!(opened.quarantine.entries, []);
    let seen: Vec<Question<'_>> = opened
        .dataset
        .samples
        .iter()
        .map(|sample| {
            let answers = sample.annotations.answers.iter();
            (
                sample.id.as_str(),
                sample.group(),
                sample.texts[0].as_str(),
                sample.split,
                answers
                    .map(|answer| (answer.text.as_str(), answer.count))
                    .collect(),
            )
        })
        .collect();
    assert_eq!(
        seen,
        [
            (
                "42000",
                "42",
                "a dog?",
                Split::Train,
                vec![("no", 4), ("yes", 2)]
            ),
            ("42001", "42", "how many?", Split::Train, vec![("2", 1)]),
            ("43000", "43", "what colour?", Split::Val, vec![("red", 3)]),
        ]
    );
}

#[test]
fn nlvr2_pairs_have_both_pictures() {
    let rows = batch(vec![
        ("image_0", pictures([1])),
        ("image_1", pictures([2])),
        (
            "questions",
            Arc::new(lists(&[&["left has a dog", "both do"]])),
        ),
        ("answers", Arc::new(lists(&[&["True", "False"]]))),
        ("identifier", texts(&["dev-850-0"])),
    ]);
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), "nlvr2_dev.arrow", file_form(&[rows], None));
    let opened = open(&path, &OpenOptions::default()).unwrap();
    let samples = &opened.dataset.samples;
    assert_eq!((samples.len(), opened.quarantine.len()), (2, 0));
    for (sample, (id, text, label)) in samples.iter().zip([
        ("dev-850-0#0", "left has a dog", "true"),
        ("dev-850-0#1", "both do", "false"),
    ]) {
        assert_eq!((sample.id.as_str(), sample.texts[0].as_str()), (id, text));
        assert_eq!(sample.annotations.label.as_deref(), Some(label));
        assert_eq!((sample.group(), sample.split), ("dev-850-0", Split::Val));
        assert!(matches!(&sample.visual, Visual::Images(two) if two.len() == 2));
        assert_eq!(bytes_of(sample), [picture(1), picture(2)]);
    }
}

#[test]
fn snli_ve_keeps_the_hypothesis() {
    let pairs = lists(&[&["a premise", "it rains"], &["a premise", "it is dry"]]);
    let rows = batch(vec![
        ("image", pictures([1])),
        ("sentences", list_of(Arc::new(pairs), &[2])),
        (
            "labels",
            list_of(Arc::new(Int64Array::from(vec![2, 0])), &[2]),
        ),
        ("image_id", texts(&["1.jpg"])),
        ("split", texts(&["dev"])),
    ]);
    let opened = read("snli_dev.arrow", file_form(&[rows], None)).unwrap();
    let seen: Vec<_> = opened
        .dataset
        .samples
        .iter()
        .map(|s| {
            (
                s.texts.clone(),
                s.annotations.label.clone().unwrap(),
                s.split,
            )
        })
        .collect();
    assert_eq!(
        seen,
        [
            (
                vec!["it rains".to_owned()],
                "entailment".to_owned(),
                Split::Val
            ),
            (
                vec!["it is dry".to_owned()],
                "contradiction".to_owned(),
                Split::Val
            ),
        ]
    );
}

/// `save_to_disk`: a stream in a folder a split, a picture as a struct.
#[test]
fn a_saved_hugging_face_data_set_opens() {
    let rows = |seed: u8| {
        let bytes = BinaryArray::from_opt_vec(vec![Some(b"first".as_slice()), None]);
        let image = StructArray::from(vec![
            (
                Arc::new(Field::new("bytes", DataType::Binary, true)),
                Arc::new(bytes) as ArrayRef,
            ),
            (
                Arc::new(Field::new("path", DataType::Utf8, true)),
                texts(&[format!("{seed}.png"), format!("far/{seed}.png")]),
            ),
        ]);
        let label: ArrayRef = Arc::new(Int64Array::from(vec![1, 0]));
        batch(vec![
            ("image", Arc::new(image)),
            ("text", texts(&["one", "two"])),
            ("label", label),
        ])
    };
    let folder = tempfile::tempdir().unwrap();
    for (split, seed) in [("train", 1), ("validation", 2)] {
        let bytes = stream_form(&[rows(seed)]);
        write(
            folder.path(),
            &format!("{split}/data-00000-of-00001.arrow"),
            bytes,
        );
        write(
            folder.path(),
            &format!("{split}/cache-1234.arrow"),
            b"not read",
        );
    }
    write(
        folder.path(),
        "dataset_dict.json",
        r#"{"splits": ["train", "validation"]}"#,
    );
    let opened = open(folder.path(), &OpenOptions::default()).unwrap();
    assert_eq!(opened.quarantine.entries, []);
    assert_eq!(
        splits(&opened.dataset),
        [(Split::Train, 2, 2), (Split::Val, 2, 2)]
    );
    let first = &opened.dataset.samples[0];
    assert_eq!(first.id, "train/data-00000-of-00001#1");
    assert_eq!(bytes_of(first), [b"first"]);
    assert_eq!(first.group(), "1.png");
    assert_eq!(first.annotations.label.as_deref(), Some("1"));
    assert!(
        opened.dataset.samples[1]
            .visual
            .path()
            .unwrap()
            .ends_with("far/1.png")
    );
}

#[test]
fn a_folder_is_one_data_set() {
    let folder = tempfile::tempdir().unwrap();
    for (name, question) in [
        ("train", 1),
        ("val", 2),
        ("trainable_val", 2),
        ("rest_val", 3),
        ("test", 4),
        ("test-dev", 4),
    ] {
        let rows = batch(vec![
            ("image", pictures([1])),
            ("questions", Arc::new(lists(&[&["what?"]]))),
            ("image_id", Arc::new(Int64Array::from(vec![question]))),
            (
                "question_id",
                list_of(Arc::new(Int64Array::from(vec![question * 1000])), &[1]),
            ),
            ("split", texts(&[name.rsplit('_').next().unwrap()])),
        ]);
        write(
            folder.path(),
            &format!("vqav2_{name}.arrow"),
            file_form(&[rows], None),
        );
    }
    let opened = open(folder.path(), &OpenOptions::default()).unwrap();
    assert_eq!(opened.quarantine.entries, [], "nothing is read twice");
    assert_eq!(
        splits(&opened.dataset),
        [
            (Split::Train, 2, 2),
            (Split::Val, 1, 1),
            (Split::Test, 1, 1)
        ]
    );
    let origin = opened.dataset.samples[0].origin.file.clone().unwrap();
    assert!(
        origin.ends_with("vqav2_rest_val.arrow"),
        "the file and not the folder"
    );
    write(
        folder.path(),
        "coco_caption_karpathy_val.arrow",
        file_form(&captions(), None),
    );
    let error = open(folder.path(), &OpenOptions::default())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("pictures with questions") && error.contains("pictures with texts"),
        "{error}"
    );
}

#[test]
fn usual_and_unusual_types() {
    let wide = LargeBinaryArray::from_iter_values([picture(1), picture(2)]);
    let split: DictionaryArray<Int8Type> = vec!["train", "test"].into_iter().collect();
    let rows = batch(vec![
        ("nothing", Arc::new(NullArray::new(2))),
        ("truth", Arc::new(BooleanArray::from(vec![true, false]))),
        ("image", Arc::new(wide)),
        (
            "caption",
            Arc::new(LargeStringArray::from(vec!["one", "two"])),
        ),
        ("split", Arc::new(split)),
    ]);
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), "own.arrow", file_form(&[rows], None));
    let opened = open(&path, &OpenOptions::default()).unwrap();
    assert_eq!(
        splits(&opened.dataset),
        [(Split::Train, 1, 1), (Split::Test, 1, 1)]
    );
    assert_eq!(
        opened.dataset.samples[1].id, "own#2",
        "a picture without a name has its place"
    );
    assert_eq!(bytes_of(&opened.dataset.samples[1]), [picture(2)]);
    let error = open(
        &path,
        &OpenOptions {
            text_column: Some("captoin".to_owned()),
            ..OpenOptions::default()
        },
    );
    assert!(error.unwrap_err().hint().unwrap().contains("caption"));
}

#[test]
fn bad_rows_are_set_aside_with_their_row() {
    let image = BinaryArray::from_opt_vec(vec![
        Some(b"fine".as_slice()),
        None,
        Some(b"".as_slice()),
        Some(b"no text".as_slice()),
        Some(b"no split".as_slice()),
        Some(b"long".as_slice()),
        Some(b"blank".as_slice()),
    ]);
    let long = "x".repeat(50_000);
    let text = StringArray::from(vec![
        Some("one"),
        Some("two"),
        Some("three"),
        None,
        Some("five"),
        Some(&long),
        Some("  "),
    ]);
    let split = StringArray::from(vec!["val", "val", "val", "val", "trian", "val", "val"]);
    let rows = batch(vec![
        ("image", Arc::new(image)),
        ("text", Arc::new(text)),
        ("split", Arc::new(split)),
    ]);
    let opened = read("t.arrow", stream_form(&[rows])).unwrap();
    assert_eq!(opened.dataset.len(), 1);
    let told: Vec<(&str, &str)> = opened
        .quarantine
        .entries
        .iter()
        .map(|entry| (entry.location.as_str(), entry.reason.as_str()))
        .collect();
    for (told, (row, part)) in told.iter().zip([
        ("row 2", "missing"),
        ("row 3", "empty"),
        ("row 4", "the text is missing"),
        ("row 5", "trian"),
        ("row 6", "50000 bytes"),
        ("row 7", "empty text"),
    ]) {
        assert!(told.0 == row && told.1.contains(part), "{told:?} {part}");
    }
    assert_eq!(told.len(), 6);
}

/// Every place of `needle` in `bytes`.
fn places(bytes: &[u8], needle: &[u8]) -> Vec<usize> {
    let windows = bytes.windows(needle.len()).enumerate();
    windows
        .filter(|(_, window)| *window == needle)
        .map(|(at, _)| at)
        .collect()
}

fn patched(bytes: &[u8], at: usize, with: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at..at + with.len()].copy_from_slice(with);
    bytes
}

/// What must not be believed, each with its reason.
fn hostile() -> Vec<(String, Vec<u8>)> {
    let stream = stream_form(&captions()[..1]);
    let file = file_form(&captions()[..1], None);
    let packed = file_form(&captions()[..1], Some(CompressionType::ZSTD));
    let mut cases: Vec<(String, Vec<u8>)> = Vec::new();
    let mut add = |reason: &str, bytes: Vec<u8>| cases.push((reason.to_owned(), bytes));

    add("nothing at all", Vec::new());
    add("one byte", vec![0xFF]);
    add("the mark alone", b"ARROW1".to_vec());
    add("the mark and padding", b"ARROW1\0\0".to_vec());
    add(
        "two marks with nothing between",
        b"ARROW1\0\0ARROW1".to_vec(),
    );
    add(
        "an end mark at once",
        vec![0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0],
    );
    add("zeros", vec![0; 4096]);
    add("ones", vec![0xFF; 4096]);
    add("text", b"image,caption\na.png,one\n".to_vec());
    for part in [1, 9, 60, 200] {
        add("a file cut off", file[..file.len() - part].to_vec());
    }
    for part in [4, 8, 12, 40, 300] {
        add("a stream cut off at its start", stream[..part].to_vec());
    }
    add(
        "a stream cut off in a body",
        stream[..stream.len() - 100].to_vec(),
    );

    // Lengths of messages. The schema's stands at 4, behind the mark of a message.
    for len in [
        1u32,
        3,
        7,
        0x7FFF_FFFF,
        0xFFFF_FFFE,
        (MAX_METADATA_BYTES + 1) as u32,
    ] {
        add(
            "a schema of another length",
            patched(&stream, 4, &len.to_le_bytes()),
        );
    }
    add(
        "a message without its mark",
        patched(&stream, 0, &[0x01, 0xFF, 0xFF, 0x7F]),
    );
    let schema = 8 + u32::from_le_bytes(stream[4..8].try_into().unwrap()) as usize;
    for len in [1u32, 16, 0x7FFF_FFFF, 0xFFFF_FFF0] {
        add(
            "a batch of another length",
            patched(&stream, schema + 4, &len.to_le_bytes()),
        );
    }
    // The length of the index stands before the closing mark.
    for len in [0u32, 1, 0x7FFF_FFFF, 0xFFFF_FFFF, file.len() as u32] {
        add(
            "an index of another length",
            patched(&file, file.len() - 10, &len.to_le_bytes()),
        );
    }
    add(
        "another closing mark",
        patched(&file, file.len() - 6, b"ARROW2"),
    );
    add("a file that begins with its batch", {
        let mut bytes = b"ARROW1\0\0".to_vec();
        bytes.extend(&file[64 + schema..]);
        bytes
    });
    add(
        "a stream whose first message is a batch",
        stream[schema..].to_vec(),
    );

    // Buffers in the description of the batch: offset and length of the picture bytes.
    let size = (picture(1).len() + picture(2).len()) as i64;
    let description = schema
        ..schema
            + 8
            + u32::from_le_bytes(stream[schema + 4..schema + 8].try_into().unwrap()) as usize;
    let buffers: Vec<usize> = places(&stream, &size.to_le_bytes())
        .into_iter()
        .filter(|at| description.contains(at))
        .collect();
    assert_eq!(
        buffers.len(),
        1,
        "the length of the picture bytes stands once in the description"
    );
    for len in [
        -1,
        0,
        1,
        size - 1,
        i64::MAX,
        i64::MIN,
        1 << 40,
        stream.len() as i64,
    ] {
        add(
            "picture bytes of another length",
            patched(&stream, buffers[0], &len.to_le_bytes()),
        );
    }
    for offset in [-1, i64::MIN, i64::MAX, 1 << 40, stream.len() as i64] {
        add(
            "picture bytes elsewhere",
            patched(&stream, buffers[0] - 8, &offset.to_le_bytes()),
        );
    }
    // The offsets of the cells in the body.
    let first = picture(1).len() as i32;
    let offsets: Vec<u8> = [0, first, size as i32]
        .iter()
        .flat_map(|at| at.to_le_bytes())
        .collect();
    let at = places(&stream, &offsets)[0];
    for (index, offset) in [
        (0, -1),
        (1, -1),
        (1, i32::MAX),
        (1, i32::MIN),
        (2, first - 1),
        (2, i32::MAX),
        (2, size as i32 + 1),
    ] {
        add(
            "offsets of cells that lie",
            patched(&stream, at + 4 * index, &offset.to_le_bytes()),
        );
    }
    // The numbers of rows in the description: of the batch and of every column.
    let rows: Vec<usize> = places(&stream, &2i64.to_le_bytes())
        .into_iter()
        .filter(|at| description.contains(at))
        .collect();
    assert!(rows.len() >= 4);
    for at in rows {
        for count in [-1i64, 3, i64::MAX, 1 << 30, 1 << 31, 1 << 40] {
            add(
                "another number of rows",
                patched(&stream, at, &count.to_le_bytes()),
            );
        }
    }
    // The length of the body, an odd number because of its alignment to 64 bytes.
    let body = (stream.len() - description.end - 8) as i64;
    let lengths: Vec<usize> = places(&stream, &body.to_le_bytes())
        .into_iter()
        .filter(|at| description.contains(at))
        .collect();
    assert_eq!(lengths.len(), 1);
    for len in [-1, 0, 1, body + 64, i64::MAX, i64::MIN, 1 << 40] {
        add(
            "a body of another length",
            patched(&stream, lengths[0], &len.to_le_bytes()),
        );
    }
    // Unpacked sizes, which stand before packed bytes.
    for at in places(&packed, &size.to_le_bytes()) {
        for len in [-2i64, 0, 1, size + 1, 1 << 33, i64::MAX, i64::MIN] {
            add(
                "packed bytes of another size",
                patched(&packed, at, &len.to_le_bytes()),
            );
        }
    }
    let frames = places(&packed, &[0x28, 0xB5, 0x2F, 0xFD]);
    assert!(!frames.is_empty());
    for at in frames {
        add(
            "packed bytes that are not",
            patched(&packed, at, b"\0\0\0\0"),
        );
        add(
            "packed bytes with a torn head",
            patched(&packed, at + 4, &[0xFF; 4]),
        );
    }
    add("text that is no UTF-8", {
        let at = places(&stream, b"a brown dog")[0];
        patched(&stream, at, &[0xFF, 0xFE, 0x80])
    });
    cases
}

#[test]
fn hostile_tables_are_refused_or_read_in_part() {
    let folder = tempfile::tempdir().unwrap();
    let cases = hostile();
    assert!(cases.len() >= 60, "{}", cases.len());
    let mut refused = 0;
    for (index, (reason, bytes)) in cases.iter().enumerate() {
        let path = write(folder.path(), &format!("{index}.arrow"), bytes);
        // Not through the reader first: it would turn a panic into an error.
        let mut budget = 1 << 20;
        if let Ok(mut table) = Table::open(&path) {
            let wanted: Vec<usize> = (0..table.names().len()).collect();
            while let Ok(Some(batch)) = table.next(&wanted, &mut budget) {
                assert!(batch.rows <= 1000, "{index}, {reason}: {} rows", batch.rows);
                for column in &batch.columns {
                    for row in 0..batch.rows + 1 {
                        drop(format!("{:?}", column.value(row)));
                    }
                }
            }
        }
        match read("t.arrow", bytes) {
            Err(error) => {
                refused += 1;
                assert!(
                    !error.to_string().contains("the file is damaged"),
                    "{reason}: a panic inside"
                );
            }
            // What is left must be of the table that was damaged.
            Ok(opened) => assert!(opened.dataset.len() <= 2, "{index}, {reason}"),
        }
    }
    assert!(
        refused * 10 >= cases.len() * 7,
        "{refused} of {}",
        cases.len()
    );
}

/// A schema that nests deeper than any table.
#[test]
fn deep_schemas_are_refused() {
    let deep = |depth: usize| {
        let mut array: ArrayRef = texts(&["x"]);
        for _ in 0..depth {
            array = list_of(array, &[1]);
        }
        stream_form(&[batch(vec![
            ("image", pictures([1])),
            ("text", texts(&["one"])),
            ("deep", array),
        ])])
    };
    assert_eq!(read("t.arrow", deep(8)).unwrap().dataset.len(), 1);
    let error = read("t.arrow", deep(40)).unwrap_err().to_string();
    assert!(error.contains("too deep"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// What was written is read, however it is cut into batches, in either form.
    #[test]
    fn tables_read_back(
        rows in prop::collection::vec(
            (prop::collection::vec(any::<u8>(), 1..50), prop::collection::vec("[a-zé🦀 ]{0,6}[a-z]", 1..4)),
            1..20,
        ),
        cut in 1usize..8,
        file in any::<bool>(),
    ) {
        let batches: Vec<RecordBatch> = rows
            .chunks(cut)
            .map(|rows| {
                let images = BinaryArray::from_iter_values(rows.iter().map(|(bytes, _)| bytes));
                let mut list = ListBuilder::new(StringBuilder::new());
                for (_, texts) in rows {
                    list.append_value(texts.iter().map(Some));
                }
                batch(vec![("image", Arc::new(images)), ("caption", Arc::new(list.finish()))])
            })
            .collect();
        let bytes = if file { file_form(&batches, None) } else { stream_form(&batches) };
        let folder = tempfile::tempdir().unwrap();
        let opened = open(&write(folder.path(), "t.arrow", bytes), &OpenOptions::default()).unwrap();
        prop_assert_eq!(opened.quarantine.len(), 0);
        prop_assert_eq!(opened.dataset.len(), rows.len());
        for (sample, (bytes, texts)) in opened.dataset.samples.iter().zip(&rows) {
            prop_assert_eq!(&bytes_of(sample)[0], bytes);
            let trimmed: Vec<&str> = texts.iter().map(|text| text.trim()).collect();
            prop_assert_eq!(&sample.texts, &trimmed);
        }
    }

    /// Damage anywhere is an error, a refused row or another picture, and never a panic.
    #[test]
    fn damaged_tables_do_not_panic(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        cut in any::<prop::sample::Index>(),
        form in 0..4,
    ) {
        let mut bytes = match form {
            0 => stream_form(&captions()),
            1 => file_form(&captions(), Some(CompressionType::LZ4_FRAME)),
            2 => file_form(&[questions()], None),
            _ => file_form(&captions(), None),
        };
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        bytes.truncate(cut.index(bytes.len() * 3).max(1));
        let folder = tempfile::tempdir().unwrap();
        let path = write(folder.path(), "t.arrow", &bytes);
        let mut budget = 1 << 20;
        if let Ok(mut table) = Table::open(&path) {
            let wanted: Vec<usize> = (0..table.names().len()).collect();
            while let Ok(Some(batch)) = table.next(&wanted, &mut budget) {
                prop_assert!(batch.columns.iter().all(|column| column.rows() == batch.rows));
            }
        }
        drop(open(&path, &OpenOptions::default()));
    }
}
