//! The readers of annotation files on the official layouts, on hostile files and on damaged ones.

#![allow(clippy::unwrap_used, reason = "the way a test fails")]

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use chiasm_data::{DataError, Dataset, OpenOptions, Opened, Rect, Split, open};
use proptest::prelude::*;
use tempfile::TempDir;

type Files<'a> = &'a [(&'a str, &'a str)];

fn write(folder: &Path, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, content).unwrap();
    path
}

/// A folder of files; the path is that of the first, or of the folder that `open` names.
fn lay_out(files: Files) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in files {
        write(folder.path(), name, content);
    }
    let first = folder.path().join(files[0].0);
    (folder, first)
}

fn read(files: Files) -> Result<Opened, DataError> {
    let (_folder, path) = lay_out(files);
    open(&path, &OpenOptions::default())
}

fn as_format(format: &str) -> OpenOptions {
    OpenOptions {
        format: Some(format.to_owned()),
        ..OpenOptions::default()
    }
}

fn texts(set: &Dataset) -> Vec<&str> {
    set.samples
        .iter()
        .flat_map(|sample| sample.texts.iter().map(String::as_str))
        .collect()
}

fn reasons(opened: &Opened) -> Vec<&str> {
    let entries = opened.quarantine.entries.iter();
    entries.map(|entry| entry.reason.as_str()).collect()
}

const CAPTIONS: &str = r#"{"info":{},"images":[
  {"license":5,"file_name":"COCO_val2014_000000000042.jpg","id":42,"width":200,"height":100,"coco_url":"x"},
  {"file_name":"COCO_val2014_000000000073.jpg","id":73,"width":10,"height":10}],
 "licenses":[],"annotations":[
  {"image_id":42,"id":1,"caption":"A dog."},{"image_id":73,"id":2,"caption":"A bike."},
  {"image_id":42,"id":3,"caption":"A dog on a\nbed. "}]}"#;
const INSTANCES: &str = r#"{"info":{},"licenses":[],"images":[
  {"file_name":"COCO_val2014_000000000042.jpg","id":42,"width":200,"height":100},
  {"file_name":"COCO_val2014_000000000073.jpg","id":73,"width":10,"height":10}],
 "annotations":[
  {"segmentation":[[1,2,3,4]],"area":5.5,"iscrowd":0,"image_id":42,"bbox":[50,25,100,50],"category_id":18,"id":9},
  {"segmentation":{"counts":[1],"size":[2,2]},"iscrowd":1,"image_id":42,"bbox":[0,0,9,9],"category_id":1,"id":10},
  {"iscrowd":0,"image_id":42,"bbox":[0,0,1,1],"category_id":65,"id":11},
  {"iscrowd":0,"image_id":42,"bbox":[5,5,1,1],"category_id":65,"id":12}],
 "categories":[{"supercategory":"person","id":1,"name":"person"},{"id":18,"name":"dog"},{"id":65,"name":"bed"}]}"#;

#[test]
fn coco_captions_take_the_instances_beside_them() {
    let (folder, captions) = lay_out(&[
        ("annotations/captions_val2014.json", CAPTIONS),
        ("annotations/instances_val2014.json", INSTANCES),
        ("val2014/COCO_val2014_000000000042.jpg", ""),
    ]);
    let opened = open(&captions, &OpenOptions::default()).unwrap();
    assert!(opened.quarantine.is_empty());
    let samples = &opened.dataset.samples;
    assert_eq!(samples.len(), 2);
    assert_eq!(samples[0].id, "COCO_val2014_000000000042.jpg");
    assert_eq!(samples[0].texts, ["A dog.", "A dog on a\nbed."]);
    assert_eq!(samples[0].split, Split::Val);
    assert!(samples[0].visual.path().unwrap().is_file());
    let annotations = &samples[0].annotations;
    assert_eq!(annotations.size, Some((200, 100)));
    let names: Vec<&str> = annotations
        .objects
        .iter()
        .map(|object| object.category.as_str())
        .collect();
    assert_eq!(names, ["dog", "bed", "bed"], "the crowd is left out");
    let half = Rect {
        x1: 0.25,
        y1: 0.25,
        x2: 0.75,
        y2: 0.75,
    };
    assert_eq!(annotations.objects[0].rect, Some(half));

    let instances = folder.path().join("annotations/instances_val2014.json");
    let error = open(&instances, &OpenOptions::default()).unwrap_err();
    assert!(error.hint().unwrap().contains("captions_*.json"), "{error}");
    let asked = OpenOptions {
        text_column: Some("categories".to_owned()),
        ..OpenOptions::default()
    };
    let opened = open(&instances, &asked).unwrap();
    assert_eq!(texts(&opened.dataset), ["dog, bed"]);
    assert_eq!(opened.quarantine.len(), 1, "nothing is in the second");
}

const QUESTIONS: &str = r#"{"info":{},"task_type":"Open-Ended","data_type":"mscoco","questions":[
  {"image_id":42,"question":"What is it?","question_id":42000},
  {"image_id":42,"question":"Is it red?","question_id":42001}],"license":{},"data_subtype":"train2014"}"#;
const ANSWERS: &str = r#"{"annotations":[
  {"question_type":"what is","multiple_choice_answer":"dog","answers":[{"answer":"dog","answer_confidence":"yes","answer_id":1},
   {"answer":"a cat","answer_id":2},{"answer":"dog","answer_id":3}],"image_id":42,"answer_type":"other","question_id":42000},
  {"answers":[{"answer":"no"}],"question_id":42001}]}"#;

#[test]
fn vqa_questions_find_their_answers_and_pictures() {
    let questions = "Questions/v2_OpenEnded_mscoco_train2014_questions.json";
    let (folder, path) = lay_out(&[
        (questions, QUESTIONS),
        ("Questions/v2_mscoco_train2014_annotations.json", ANSWERS),
        ("images/train2014/COCO_train2014_000000000042.jpg", ""),
    ]);
    let opened = open(&path, &OpenOptions::default()).unwrap();
    assert!(opened.quarantine.is_empty());
    let sample = &opened.dataset.samples[0];
    assert_eq!(
        (sample.id.as_str(), sample.group(), sample.split),
        ("42000", "42", Split::Train)
    );
    assert!(
        sample.visual.path().unwrap().is_file(),
        "{:?}",
        sample.visual
    );
    assert_eq!(sample.annotations.label.as_deref(), Some("dog"));
    let answers = &sample.annotations.answers;
    assert_eq!((answers[0].text.as_str(), answers[0].count), ("dog", 2));
    assert_eq!(answers[1].text, "a cat", "as given");
    let kinds = [("question_type", "what is"), ("answer_type", "other")];
    assert_eq!(
        sample.annotations.kinds,
        kinds.map(|(of, is)| (of, is.to_owned()))
    );

    // The answers alone, or training questions without them, say what is missing.
    let answers = folder
        .path()
        .join("Questions/v2_mscoco_train2014_annotations.json");
    let error = open(&answers, &OpenOptions::default()).unwrap_err();
    assert!(
        error.to_string().contains("without their questions"),
        "{error}"
    );
    let error = read(&[(questions, QUESTIONS)]).unwrap_err();
    assert!(error.hint().unwrap().contains("--annotations"), "{error}");
    // Those of the test parts have none, and their pictures are of another part.
    let test = QUESTIONS.replace("train2014", "test-dev2015");
    let opened = read(&[("v2_OpenEnded_mscoco_test-dev2015_questions.json", &test)]).unwrap();
    let sample = &opened.dataset.samples[0];
    assert_eq!(
        (sample.split, sample.annotations.answers.len()),
        (Split::TestDev, 0)
    );
    assert!(
        sample
            .visual
            .path()
            .unwrap()
            .ends_with("COCO_test2015_000000000042.jpg")
    );
}

const SENTENCES: &str =
    "[/EN#7/people A man] in [/EN#8/clothing a hat] .\n[/EN#7/people He] sleeps .\n";
const XML: &str = "<annotation><filename>1.jpg</filename><size><width>100</width><height>50</height><depth>3</depth></size>\
  <object><name>7</name><name>9</name><bndbox><xmin>10</xmin><ymin>5</ymin><xmax>60</xmax><ymax>30</ymax></bndbox></object>\
  <object><name>7</name><bndbox><xmin>80</xmin><ymin>5</ymin><xmax>90</xmax><ymax>30</ymax></bndbox></object>\
  <object><name>8</name><scene>0</scene><nobndbox>1</nobndbox></object></annotation>";

#[test]
fn entities_have_the_boxes_of_their_chain() {
    let (folder, _) = lay_out(&[
        ("Sentences/1.txt", SENTENCES),
        ("Annotations/1.xml", XML),
        ("train.txt", "1\n"),
        ("flickr30k-images/1.jpg", ""),
    ]);
    let opened = open(folder.path(), &OpenOptions::default()).unwrap();
    assert!(opened.quarantine.is_empty(), "{:?}", reasons(&opened));
    let sample = &opened.dataset.samples[0];
    assert_eq!(sample.texts, ["A man in a hat .", "He sleeps ."]);
    assert_eq!(
        (sample.split, sample.annotations.size),
        (Split::Train, Some((100, 50)))
    );
    assert!(sample.visual.path().unwrap().is_file());
    let boxes: Vec<(usize, &str, usize)> = sample
        .annotations
        .phrases
        .iter()
        .map(|phrase| (phrase.text, phrase.phrase.as_str(), phrase.boxes.len()))
        .collect();
    assert_eq!(boxes, [(0, "A man", 2), (0, "a hat", 0), (1, "He", 2)]);
    assert_eq!(sample.annotations.phrases[0].boxes[0].x2, 0.6);
}

const KARPATHY: &str = r#"{"dataset":"mine","images":[
  {"filename":"a.jpg","split":"train","sentences":[{"raw":"A dog runs ."},{"raw":"The gray cat ."}]},
  {"filename":"b.jpg","split":"val","sentences":[{"raw":"One."},{"raw":"Two."},{"raw":"Three."}]}]}"#;
const PHRASES: &str = r#"{"image":"a.jpg","split":"train","phrases":[[0,"the gray cat","animals",[[0.1,0.1,0.5,0.5]]],[1,"a dog","animals",[[0,0,1,1]]]]}"#;

#[test]
fn phrases_go_to_the_sentence_with_their_words() {
    let opened = read(&[("p.jsonl", PHRASES), ("dataset_mine.json", KARPATHY)]).unwrap();
    assert!(opened.quarantine.is_empty());
    let phrases = &opened.dataset.samples[0].annotations.phrases;
    let told: Vec<(usize, &str)> = phrases
        .iter()
        .map(|phrase| (phrase.text, phrase.phrase.as_str()))
        .collect();
    assert_eq!(told, [(1, "the gray cat"), (0, "a dog")]);
    let alone = read(&[("p.jsonl", PHRASES)]).unwrap_err();
    assert!(alone.hint().unwrap().contains("dataset_NAME.json"));
}

#[test]
fn a_phrase_goes_with_its_text() {
    let karpathy = KARPATHY.replace("A dog runs .", " ");
    let opened = read(&[("p.jsonl", PHRASES), ("dataset_mine.json", &karpathy)]);
    // The sentence is refused in the split file: nobody knows which the others are then.
    assert!(matches!(opened, Err(DataError::Empty { rejected: 1, .. })));
    let blank = "[/EN#1/people A]\n[/EN#2/people B] c\n";
    let long = format!(
        "[/EN#1/people A] {}\n[/EN#2/people B] c\n",
        "x ".repeat(6000)
    );
    for (sentences, refused) in [(blank, 0), (long.as_str(), 1)] {
        let (folder, _) = lay_out(&[("sentences/1.txt", sentences)]);
        let opened = open(folder.path(), &OpenOptions::default()).unwrap();
        assert_eq!(opened.quarantine.len(), refused);
        let sample = &opened.dataset.samples[0];
        let last = sample.annotations.phrases.last().unwrap();
        assert_eq!(sample.texts[last.text], "B c");
        assert_eq!(sample.annotations.phrases.len(), sample.texts.len());
    }
}

const JUDGED: &str = "a.jpg\tb.jpg#2\t1\t2\t2\nb.jpg\tb.jpg#0\t4\t4\t4\n";

#[test]
fn judgements_name_captions_of_other_photos() {
    let files = [("Expert.txt", JUDGED), ("dataset_mine.json", KARPATHY)];
    let set = read(&files).unwrap().dataset;
    assert_eq!(texts(&set), ["Three.", "One."]);
    let sample = &set.samples[0];
    assert_eq!(
        (sample.id.as_str(), sample.group(), sample.split),
        ("a.jpg b.jpg#2", "a.jpg", Split::Train)
    );
    let rating = sample.annotations.rating.unwrap();
    assert_eq!((rating.score, rating.scale), (5.0 / 3.0, (1.0, 4.0)));
    let crowd = JUDGED
        .replace("1\t2\t2", "0.333333333\t1\t2")
        .replace("4\t4\t4", "1\t3\t0");
    let set = read(&[("Crowd.txt", &crowd), files[1]]).unwrap().dataset;
    assert_eq!(set.samples[1].annotations.rating.unwrap().scale, (0.0, 1.0));
}

#[test]
fn nlvr_without_named_pictures_and_hidden_labels() {
    let row =
        r#"{"identifier":"1572-0","sentence":"x","directory":"3","structured_rep":[[],[],[]]}"#;
    let (folder, path) = lay_out(&[("test.json", row), ("images/3/test-1572-0-0.png", "")]);
    let set = open(&path, &OpenOptions::default()).unwrap().dataset;
    assert!(set.samples[0].visual.path().unwrap().is_file());
    assert_eq!(
        (set.samples[0].split, &set.samples[0].annotations.label),
        (Split::Test, &None)
    );
    let row = r#"{"identifier":"train-7-1-0","sentence":"x","label":"True","directory":28}"#;
    write(folder.path(), "train.json", row);
    write(folder.path(), "images/train/28/train-7-1-img0.png", "");
    let set = open(&folder.path().join("train.json"), &OpenOptions::default());
    let set = set.unwrap().dataset;
    assert!(set.samples[0].visual.sources()[0].path().unwrap().is_file());
    assert_eq!(set.samples[0].split, Split::Train);
}

/// A good file of each format, with what stands beside it.
fn good() -> Vec<(&'static str, Vec<(&'static str, &'static str)>)> {
    let gqa = r#"{"1":{"question":"Who?","imageId":"n1","answer":"dog","isBalanced":true,"types":{"semantic":"rel","detailed":null}}}"#;
    let vgqa = r#"[{"id":4,"qas":[{"question":"Q?","image_id":4,"qa_id":9,"answer":"A.","a_objects":[]}]}]"#;
    let nlvr = r#"{"identifier":"dev-1-2-0","sentence":"Left.","label":"True"}"#;
    let snli =
        r#"{"Flickr30K_ID":"5","pairID":"5.jpg#0r1c","gold_label":"neutral","sentence2":"A man."}"#;
    let rows = r#"[{"image":"a.png","text":["x","y"],"split":"val"}]"#;
    vec![
        ("karpathy", vec![("dataset_k.json", KARPATHY)]),
        (
            "coco",
            vec![
                ("captions_a.json", CAPTIONS),
                ("instances_a.json", INSTANCES),
            ],
        ),
        (
            "vqa",
            vec![("questions.json", QUESTIONS), ("annotations.json", ANSWERS)],
        ),
        ("gqa", vec![("q.json", gqa)]),
        ("vgqa", vec![("q.json", vgqa)]),
        ("nlvr", vec![("dev.json", nlvr)]),
        ("snli-ve", vec![("s.jsonl", snli)]),
        (
            "phrases",
            vec![("p.jsonl", PHRASES), ("dataset_k.json", KARPATHY)],
        ),
        (
            "judgements",
            vec![("j.txt", JUDGED), ("dataset_k.json", KARPATHY)],
        ),
        ("json", vec![("t.json", rows)]),
        (
            "jsonl",
            vec![("t.jsonl", r#"{"image":"a.png","text":"x","label":"yes"}"#)],
        ),
        (
            "entities",
            vec![
                ("train.txt", "1\n"),
                ("Sentences/1.txt", SENTENCES),
                ("Annotations/1.xml", XML),
            ],
        ),
    ]
}

#[test]
fn good_files_are_recognised_with_any_mark_and_line_end() {
    for (format, files) in good() {
        let plain = read(&files).unwrap();
        assert!(
            plain.quarantine.is_empty(),
            "{format}: {:?}",
            reasons(&plain)
        );
        let named = {
            let (_folder, path) = lay_out(&files);
            open(&path, &as_format(format)).unwrap()
        };
        assert_eq!(
            named.dataset.fingerprint(),
            plain.dataset.fingerprint(),
            "{format}"
        );
        let other: Vec<(&str, String)> = files
            .iter()
            .map(|(name, content)| {
                (
                    *name,
                    format!("\u{FEFF}{}\r\n", content.replace('\n', "\r\n")),
                )
            })
            .collect();
        let other: Vec<(&str, &str)> = other
            .iter()
            .map(|(name, content)| (*name, content.as_str()))
            .collect();
        let marked = read(&other).unwrap();
        assert_eq!(
            marked.dataset.fingerprint(),
            plain.dataset.fingerprint(),
            "{format}"
        );
    }
}

/// What must come of a hostile file.
#[derive(Clone, Copy)]
enum Fate {
    /// The source cannot be used.
    Error,
    /// The rest of it can.
    Refused,
}
use Fate::{Error, Refused};

/// Puts `bad` in the place of `part` in one of the good files of a format.
#[test]
fn hostile_files_are_errors_or_set_aside() {
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let nested = format!("{}0{}", "[".repeat(500), "]".repeat(500));
    #[rustfmt::skip]
    let table: &[(&str, &str, &str, &str, Fate, &str)] = &[
        ("coco", "captions", CAPTIONS, "", Error, "empty file"),
        ("coco", "captions", CAPTIONS, "null", Error, "no object"),
        ("coco", "captions", CAPTIONS, "[]", Error, "a list where an object belongs"),
        ("coco", "captions", CAPTIONS, "{}", Error, "no images"),
        ("coco", "captions", CAPTIONS, r#"{"images":{"a":1}}"#, Error, "images are an object"),
        ("coco", "captions", CAPTIONS, r#"{"images":[],"annotations":[]}"#, Error, "nothing at all"),
        ("coco", "captions", "{\"info\":{}", &format!("{{\"info\":{deep}"), Error, "deep nesting in a part that is skipped"),
        ("coco", "captions", "\"width\":200", &format!("\"width\":{nested}"), Refused, "deep nesting in a row"),
        ("coco", "captions", "\"id\":73", "\"id\":-73", Refused, "negative id"),
        ("coco", "captions", "\"id\":73", "\"id\":7.3", Refused, "broken id"),
        ("coco", "captions", "\"id\":73", "\"id\":42", Refused, "id twice"),
        ("coco", "captions", "\"id\":73", "\"id\":1e999", Refused, "number without end"),
        ("coco", "captions", "\"id\":73", "\"id\":99999999999999999999999", Refused, "number above 64 bits"),
        ("coco", "captions", "\"width\":200", "\"width\":-200", Refused, "negative width"),
        ("coco", "captions", "\"width\":200", "\"width\":4294967296", Refused, "width above 32 bits"),
        ("coco", "captions", "\"image_id\":73", "\"image_id\":74", Refused, "caption of no image"),
        ("coco", "captions", "\"A bike.\"", "7", Refused, "caption is a number"),
        ("coco", "captions", "\"A bike.\"", "null", Refused, "caption is null"),
        ("coco", "captions", "\"A bike.\"", "\" \"", Refused, "blank caption"),
        ("coco", "captions", "\"A bike.\"", "\"\\ud800\"", Refused, "half a character"),
        ("coco", "captions", "\"A bike.\"", "\"A bike.", Error, "string without end"),
        ("coco", "captions", "\"A bike.\"}", "\"A bike.\"},", Error, "two commas"),
        ("coco", "captions", "on a\\nbed. \"}]}", "on a", Error, "cut off"),
        ("coco", "captions", "\"id\":73", "\"id\":NaN", Refused, "NaN is no JSON"),
        ("coco", "captions", "\"licenses\":[]", "\"licenses\":NaN", Error, "NaN where a value is skipped"),
        ("coco", "captions", "\"licenses\":[]", "\"licenses\" []", Error, "no colon"),
        ("coco", "captions", "\"licenses\":[]", "licenses:[]", Error, "key without quotes"),
        ("coco", "captions", "\"A bike.\"", "oops", Refused, "a row that is no JSON"),
        ("coco", "captions", "{\"info\":{}", "{\"info\":{}}{", Error, "a second document"),
        ("coco", "instances", "[50,25,100,50]", "[50,25,-100,50]", Refused, "negative width of a box"),
        ("coco", "instances", "[50,25,100,50]", "[50,25,1e999,1]", Refused, "box without end"),
        ("coco", "instances", "[50,25,100,50]", "[500,25,10,10]", Refused, "box outside"),
        ("coco", "instances", "[50,25,100,50]", "[\"NaN\",0,1,1]", Refused, "box of strings"),
        ("coco", "instances", "[50,25,100,50]", "[1,2,3]", Refused, "box of three"),
        ("coco", "instances", "\"category_id\":18", "\"category_id\":19", Refused, "category without name"),
        ("coco", "instances", "\"image_id\":42,\"bbox\":[50", "\"image_id\":43,\"bbox\":[50", Refused, "box of no image"),
        ("coco", "instances", "\"width\":200,", "\"width\":0,", Refused, "image without width"),
        ("coco", "instances", INSTANCES, "{\"images\":", Error, "cut off beside"),
        ("vqa", "questions", "\"question_id\":42001", "\"question_id\":42000", Refused, "question id twice"),
        ("vqa", "questions", "\"question_id\":42001", "\"question_id\":-1", Refused, "negative question id"),
        ("vqa", "questions", "\"question_id\":42001", "\"question_id\":5", Refused, "question without answers"),
        ("vqa", "questions", "\"Is it red?\"", "[\"Is\"]", Refused, "question is a list"),
        ("vqa", "questions", "\"questions\":[", "\"questions\":7,\"x\":[", Error, "questions are a number"),
        ("vqa", "annotations", "\"question_id\":42001", "\"question_id\":42000", Refused, "answered twice"),
        ("vqa", "annotations", "\"question_id\":42001", "\"question_id\":\"\"", Refused, "empty id"),
        ("vqa", "annotations", "[{\"answer\":\"no\"}]", "{}", Refused, "answers are an object"),
        ("vqa", "annotations", "{\"answer\":\"no\"}", "{\"answer\":null}", Refused, "answer is null"),
        ("vqa", "annotations", ANSWERS, "[]", Error, "annotations are a list"),
        ("gqa", "q", "\"imageId\":\"n1\"", "\"imageId\":-1", Error, "negative image"),
        ("gqa", "q", "\"question\":\"Who?\"", "\"question\":{}", Error, "question is an object"),
        ("gqa", "q", "{\"semantic\":\"rel\"", "{\"semantic\":[1]", Error, "type is a list"),
        ("gqa", "q", "\"isBalanced\":true", "\"isBalanced\":1", Error, "truth is a number"),
        ("gqa", "q", "{\"1\":", "{\"1\":7,\"1\":", Refused, "id twice, once a number"),
        ("gqa", "q", "{\"1\":", "[{\"1\":", Error, "list without end"),
        ("vgqa", "q", "\"id\":4,", "\"id\":5,", Error, "the question is of another image"),
        ("vgqa", "q", "\"qas\":[", "\"qas\":[null,[],", Refused, "questions that are none"),
        ("vgqa", "q", "\"qas\":[{", "\"qas\":{\"a\":{", Error, "brackets that do not match"),
        ("vgqa", "q", "\"answer\":\"A.\"", "\"answer\":true", Error, "answer is a truth value"),
        ("nlvr", "dev", "\"label\":\"True\"", "\"label\":\"maybe\"", Error, "a third truth"),
        ("nlvr", "dev", "dev-1-2-0", "dev", Error, "identifier names no pair"),
        ("nlvr", "dev", "{\"identifier\"", "{\"identifier\":\n{\"identifier\"", Refused, "line cut off"),
        ("nlvr", "dev", "\"label\":\"True\"", "\"structured_rep\":[[{}]]", Error, "shape without place"),
        ("nlvr", "dev", "\"label\":\"True\"", "\"structured_rep\":[[{\"type\":\"a\",\"color\":\"b\",\"x_loc\":1e300,\"y_loc\":0,\"size\":1}]]", Error, "shape outside"),
        ("snli-ve", "s", "\"neutral\"", "\"-\"", Error, "no agreement"),
        ("snli-ve", "s", "\"5\",", "null,", Error, "photo is null"),
        ("phrases", "p", "\"a.jpg\"", "\"c.jpg\"", Error, "image without sentences"),
        ("phrases", "p", "[0.1,0.1,0.5,0.5]", "[0.5,0.1,0.1,0.5]", Refused, "box inside out"),
        ("phrases", "p", "[0.1,0.1,0.5,0.5]", "[1e400,0,1,1]", Error, "number without end"),
        ("phrases", "p", "[0.1,0.1,0.5,0.5]", "[2,2,3,3]", Refused, "box outside"),
        ("phrases", "p", "[0,\"the gray cat\"", "[-1,\"the gray cat\"", Error, "negative sentence"),
        ("phrases", "p", "[0,\"the", "[7,\"x\",\"y\",[]],[0,\"the", Error, "more sentences than there are"),
        ("phrases", "p", "\"split\":\"train\"", "\"split\":\"test\"", Error, "the splits differ"),
        ("phrases", "dataset", "\"images\":[", "\"pictures\":[", Error, "split file without images"),
        ("judgements", "j", "\t1\t2\t2", "\t1\t2", Refused, "column missing"),
        ("judgements", "j", "\t1\t2\t2", "\tNaN\t2\t2", Refused, "NaN"),
        ("judgements", "j", "\t1\t2\t2", "\t1\t2\t-2", Refused, "negative judgement"),
        ("judgements", "j", "\t1\t2\t2", "\t1\t2\tinf", Refused, "endless judgement"),
        ("judgements", "j", "b.jpg#2", "b.jpg#3", Refused, "caption past the end"),
        ("judgements", "j", "b.jpg#2", "b.jpg#-1", Refused, "negative caption"),
        ("judgements", "j", "b.jpg#2", "z.jpg#0", Refused, "caption of no photo"),
        ("judgements", "j", "b.jpg\tb.jpg#0", "a.jpg\tb.jpg#2", Refused, "judged twice"),
        ("karpathy", "dataset", "\"filename\":\"a.jpg\"", "\"filename\":[]", Refused, "name is a list"),
        ("karpathy", "dataset", "\"sentences\":[{\"raw\":\"A dog", "\"sentences\":[7,{\"raw\":\"A dog", Refused, "sentence is a number"),
        ("karpathy", "dataset", "\"split\":\"val\"", "\"split\":\"nowhere\"", Refused, "unknown split"),
        ("json", "t", "{\"image\"", "[],7,null,{\"image\"", Refused, "rows that are none"),
        ("json", "t", "}]", "}]]", Error, "one bracket more"),
        ("json", "t", "\"image\"", &format!("\"x\":{nested},\"image\""), Error, "row nested deeper than is read"),
        ("jsonl", "t", "\"x\"", "\"x", Error, "string without end"),
        ("entities", "Sentences", "[/EN#8/clothing a hat]", "[/EN#8/clothing a hat", Error, "mark in a mark or without end"),
        ("entities", "Sentences", "[/EN#8/clothing", "[/EN#8", Error, "mark without kind"),
        ("entities", "Sentences", "[/EN#8/clothing", "[/EN#-8/clothing", Error, "negative chain"),
        ("entities", "Sentences", "[/EN#8/clothing a hat]", "[/EN#8/clothing ]", Error, "mark without words"),
        ("entities", "Sentences", "[/EN#8/clothing", "[/XX", Error, "mark of another kind"),
        ("entities", "Sentences", SENTENCES, "\n \n", Error, "no caption"),
        ("entities", "Annotations", XML, "", Error, "empty XML"),
        ("entities", "Annotations", "</object></annotation>", "", Error, "XML cut off"),
        ("entities", "Annotations", "</object></annotation>", "</annotation></object>", Error, "tags that cross"),
        ("entities", "Annotations", "<xmin>10</xmin>", "", Error, "box of three sides"),
        ("entities", "Annotations", "<xmin>10<", "<xmin>NaN<", Error, "NaN"),
        ("entities", "Annotations", "<xmin>10<", "<xmin>1e999<", Error, "endless"),
        ("entities", "Annotations", "<xmin>10<", "<xmin>70<", Error, "box inside out"),
        ("entities", "Annotations", "<width>100<", "<width>0<", Error, "no width"),
        ("entities", "Annotations", "<width>100<", "<width>-100<", Error, "negative width"),
        ("entities", "Annotations", "<width>100<", "<width>&w;<", Error, "entity"),
        ("entities", "Annotations", "<annotation>", "<!DOCTYPE a [<!ENTITY w \"100\">]><annotation>", Error, "entities declared"),
        ("entities", "Annotations", "<depth>3</depth>", &format!("{}{}", "<a>".repeat(5000), "</a>".repeat(5000)), Error, "deep nesting"),
        ("entities", "Annotations", "<depth>3</depth>", &"<a/>".repeat(200_000), Error, "parts without number"),
        ("entities", "Annotations", "<depth>3</depth>", &"<!--".repeat(10), Error, "comment without end"),
        ("entities", "train", "1\n", "../../etc/passwd\n", Error, "a path in place of a name"),
        ("entities", "train", "1\n", "2\n", Error, "photo without captions"),
    ];
    let good = good();
    let mut wrong = Vec::new();
    for (format, file, part, bad, fate, why) in table {
        let (_, files) = good.iter().find(|(name, _)| name == format).unwrap();
        let mut changed = 0;
        let hostile: Vec<(&str, String)> = files
            .iter()
            .map(|(name, content)| {
                let here = name.starts_with(file) && content.contains(part);
                changed += usize::from(here);
                let content = if here {
                    content.replacen(part, bad, 1)
                } else {
                    (*content).to_owned()
                };
                (*name, content)
            })
            .collect();
        if changed != 1 {
            wrong.push(format!("{format}: {why}: {changed} places"));
            continue;
        }
        let hostile: Vec<(&str, &str)> = hostile
            .iter()
            .map(|(name, content)| (*name, content.as_str()))
            .collect();
        let (_folder, path) = lay_out(&hostile);
        let told = open(&path, &as_format(format));
        let right = match (&told, fate) {
            (Err(error), Error) => !error.to_string().is_empty(),
            (Ok(opened), Refused) => {
                let reasons = reasons(opened);
                !reasons.is_empty() && reasons.iter().all(|reason| !reason.is_empty())
            }
            _ => false,
        };
        if !right {
            wrong.push(format!(
                "{format}: {why}: {:?}",
                told.map(|opened| opened.quarantine)
            ));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn errors_say_line_and_column() {
    let error = read(&[(
        "captions.json",
        &CAPTIONS.replace("\"A bike.\"}", "\"A bike.\"} 7"),
    )])
    .unwrap_err();
    assert!(
        error.to_string().contains("at line 5, column 88"),
        "{error}"
    );
}

/// A file with `filler` again and again between a head and a tail, written and not held.
fn write_long(path: &Path, head: &str, filler: u8, bytes: usize, tail: &str) {
    let mut file = File::create(path).unwrap();
    file.write_all(head.as_bytes()).unwrap();
    let block = vec![filler; 1 << 20];
    for _ in 0..bytes >> 20 {
        file.write_all(&block).unwrap();
    }
    file.write_all(tail.as_bytes()).unwrap();
}

/// The caps hold before memory is taken: 50 MB in one line or element, and files of 9 GB with nothing
/// in them.
#[test]
fn what_is_too_large_is_not_held() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.jsonl");
    let good = "{\"image\":\"a.png\",\"text\":\"x\"}\n";
    write_long(
        &path,
        &format!("{good}{{\"image\":\""),
        b'x',
        50 << 20,
        &format!("\"}}\n{good}"),
    );
    let opened = open(&path, &OpenOptions::default()).unwrap();
    assert_eq!(opened.quarantine.entries[0].location, "line 2");
    assert_eq!(
        texts(&opened.dataset),
        ["x", "x"],
        "the lines around it are read"
    );

    let path = folder.path().join("t.json");
    write_long(&path, "[{\"image\":\"", b'x', 50 << 20, "\"}]");
    let error = open(&path, &OpenOptions::default()).unwrap_err();
    assert!(error.to_string().contains("16777216 bytes"), "{error}");
    // What is skipped may be large, but not deep.
    let path = folder.path().join("captions.json");
    write_long(
        &path,
        "{\"info\":\"",
        b'x',
        50 << 20,
        &format!("\",{}", &CAPTIONS["{\"info\":{},".len()..]),
    );
    assert_eq!(open(&path, &as_format("coco")).unwrap().dataset.len(), 2);
    write_long(&path, "{\"info\":", b'[', 50 << 20, "");
    let error = open(&path, &as_format("coco")).unwrap_err();
    assert!(error.to_string().contains("1024 deep"), "{error}");

    for format in ["jsonl", "json", "coco", "vqa", "gqa", "nlvr"] {
        let path = folder.path().join("huge.json");
        File::create(&path).unwrap().set_len(9 << 30).unwrap();
        let error = open(&path, &as_format(format)).unwrap_err();
        assert!(error.to_string().contains("more than the cap"), "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Bytes changed, put in or cut off anywhere in any file of any format.
    #[test]
    fn damaged_files_never_panic(
        changes in proptest::collection::vec((0usize..4000, any::<u8>(), 0u8..4), 1..6),
    ) {
        for (format, files) in good() {
            for damaged in 0..files.len() {
                let folder = tempfile::tempdir().unwrap();
                for (index, (name, content)) in files.iter().enumerate() {
                    let mut bytes = content.as_bytes().to_vec();
                    for (at, byte, how) in changes.iter().filter(|_| index == damaged) {
                        let at = at % bytes.len().max(1);
                        match how {
                            0 => bytes.truncate(at),
                            1 => bytes.insert(at, *byte),
                            // More often what means something.
                            2 => bytes.insert(at, b"{}[]\",:-e9\n<>&#/"[usize::from(*byte) % 16]),
                            _ => bytes.splice(at.., bytes[at..].iter().skip(1).copied().collect::<Vec<u8>>()).for_each(drop),
                        }
                    }
                    write(folder.path(), name, bytes);
                }
                let path = folder.path().join(files[0].0);
                if let Ok(opened) = open(&path, &as_format(format)) {
                    prop_assert!(!opened.dataset.is_empty());
                    for sample in &opened.dataset.samples {
                        prop_assert!(sample.annotations.phrases.iter().all(|phrase| phrase.text < sample.texts.len()));
                    }
                }
                let _ = open(&path, &OpenOptions::default());
            }
        }
    }
}
