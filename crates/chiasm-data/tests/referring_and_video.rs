//! RefCOCO, MSR-VTT and LSMDC as published, in small.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is the failed test")]

use std::path::{Path, PathBuf};

use chiasm_data::{
    Clip, DataError, Dataset, OpenOptions, Opened, Rect, Sample, Split, Visual, open,
};
use proptest::prelude::*;
use serde_json::{Value, json};

fn write(folder: &Path, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, content).unwrap();
    path
}

fn plain(path: &Path) -> Result<Opened, DataError> {
    open(path, &OpenOptions::default())
}

fn ids(dataset: &Dataset) -> Vec<(&str, Split)> {
    let samples = dataset.samples.iter();
    samples
        .map(|sample| (sample.id.as_str(), sample.split))
        .collect()
}

fn reasons(opened: &Opened) -> Vec<(&str, &str)> {
    let entries = opened.quarantine.entries.iter();
    entries
        .map(|entry| (entry.location.as_str(), entry.reason.as_str()))
        .collect()
}

/// A value as Python pickles it, protocol 2; texts as `str` of Python 2 where asked.
fn pickled(value: &Value, python2: bool) -> Vec<u8> {
    fn put(value: &Value, python2: bool, out: &mut Vec<u8>) {
        match value {
            Value::Null => out.push(b'N'),
            Value::Bool(truth) => out.push(if *truth { 0x88 } else { 0x89 }),
            Value::Number(number) => match number.as_i64() {
                Some(whole) => {
                    out.push(b'J');
                    out.extend(i32::try_from(whole).unwrap().to_le_bytes());
                }
                None => {
                    out.push(b'G');
                    out.extend(number.as_f64().unwrap().to_be_bytes());
                }
            },
            Value::String(text) => {
                out.push(if python2 { b'T' } else { b'X' });
                out.extend((text.len() as u32).to_le_bytes());
                out.extend(text.as_bytes());
            }
            Value::Array(items) => {
                out.extend(b"](");
                items.iter().for_each(|item| put(item, python2, out));
                out.push(b'e');
            }
            Value::Object(entries) => {
                out.extend(b"}(");
                for (key, value) in entries {
                    put(&Value::String(key.clone()), python2, out);
                    put(value, python2, out);
                }
                out.push(b'u');
            }
        }
    }
    let mut out = vec![0x80, 2];
    put(value, python2, &mut out);
    out.push(b'.');
    out
}

fn instances() -> Value {
    json!({
        "info": {"version": "1.0"},
        "images": [
            {"id": 581857, "file_name": "COCO_train2014_000000581857.jpg", "width": 640, "height": 480},
            {"id": 7, "file_name": "COCO_train2014_000000000007.jpg", "width": 100, "height": 200},
        ],
        "annotations": [
            {"id": 11, "image_id": 581857, "category_id": 1, "bbox": [64, 48, 128.0, 96.0], "segmentation": [[1.0, 2.0]]},
            {"id": 12, "image_id": 7, "category_id": 18, "bbox": [50.0, 100.0, 80.0, 200.0]},
            {"id": 13, "image_id": 7, "category_id": 18, "bbox": [500.0, 100.0, 10.0, 10.0]},
        ],
        "categories": [{"id": 1, "name": "person"}, {"id": 18, "name": "dog"}],
    })
}

fn reference(id: u32, annotation: u32, image: u32, split: &str, sentences: &[&str]) -> Value {
    let sentences: Vec<Value> = (0..)
        .zip(sentences)
        .map(|(number, sent)| {
            json!({
                "tokens": sent.split(' ').collect::<Vec<_>>(),
                "raw": sent.to_uppercase(),
                "sent": sent,
                "sent_id": id * 10 + number,
            })
        })
        .collect();
    json!({
        "ref_id": id,
        "ann_id": annotation,
        "image_id": image,
        "file_name": format!("COCO_train2014_{image:012}_{id}.jpg"),
        "split": split,
        "category_id": if image == 7 { 18 } else { 1 },
        "sent_ids": [id * 10],
        "sentences": sentences,
    })
}

fn references() -> Value {
    json!([
        reference(
            1,
            11,
            581857,
            "train",
            &["the lady with the blue shirt", "lady"]
        ),
        reference(2, 12, 7, "testB", &["le chien à gauche"]),
        reference(3, 12, 7, "val", &["the dog"]),
        reference(4, 11, 581857, "testA", &["her"]),
    ])
}

fn check_references(opened: &Opened, folder: &Path) {
    assert_eq!(reasons(opened), []);
    let dataset = &opened.dataset;
    assert_eq!(dataset.name, "refcoco");
    assert_eq!(
        ids(dataset),
        [
            ("1#10", Split::Train),
            ("1#11", Split::Train),
            ("2#20", Split::TestB),
            ("3#30", Split::Val),
            ("4#40", Split::TestA),
        ]
    );
    let first = &dataset.samples[0];
    assert_eq!(first.texts, ["the lady with the blue shirt"]);
    assert_eq!(first.group(), "581857");
    assert_eq!(first.annotations.size, Some((640, 480)));
    assert_eq!(first.annotations.label.as_deref(), Some("person"));
    assert_eq!(
        first.visual.path().unwrap(),
        folder.join("train2014/COCO_train2014_000000581857.jpg")
    );
    assert_eq!(first.annotations.phrases.len(), 1);
    let phrase = &first.annotations.phrases[0];
    assert_eq!(
        (phrase.text, phrase.phrase.as_str()),
        (0, "the lady with the blue shirt")
    );
    let whole = |x1, y1, x2, y2| Rect { x1, y1, x2, y2 };
    assert_eq!(phrase.boxes, [whole(0.1, 0.1, 0.3, 0.3)]);
    // Clipped to the picture.
    assert_eq!(
        dataset.samples[2].annotations.phrases[0].boxes,
        [whole(0.5, 0.5, 1.0, 1.0)]
    );
    assert_eq!(dataset.samples[2].texts, ["le chien à gauche"]);
}

#[test]
fn refcoco_opens_from_pickles_of_both_pythons_and_from_json() {
    let forms: [(&str, Vec<u8>); 3] = [
        ("refs(unc).p", pickled(&references(), false)),
        ("refs(unc).p", pickled(&references(), true)),
        ("refs(unc).json", references().to_string().into_bytes()),
    ];
    for (name, bytes) in forms {
        let folder = tempfile::tempdir().unwrap();
        let set = folder.path().join("refcoco");
        let file = write(&set, name, bytes);
        write(&set, "instances.json", instances().to_string());
        write(
            &set,
            "train2014/COCO_train2014_000000581857.jpg",
            "a picture",
        );
        check_references(&plain(&set).unwrap(), &set);
        check_references(&plain(&file).unwrap(), &set);
    }
}

#[test]
fn a_way_to_split_is_chosen() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "instances.json", instances().to_string());
    let only = |split: &str| json!([reference(1, 11, 581857, split, &["her"])]).to_string();
    let google = write(folder.path(), "refs(google).json", only("train"));
    write(folder.path(), "refs(umd).json", only("test"));
    let split =
        |options: &OpenOptions| open(folder.path(), options).unwrap().dataset.samples[0].split;
    assert_eq!(
        split(&OpenOptions::default()),
        Split::Test,
        "umd before google"
    );
    let options = OpenOptions {
        annotations: Some(google),
        ..OpenOptions::default()
    };
    assert_eq!(split(&options), Split::Train);
}

#[test]
fn references_that_do_not_fit_are_refused() {
    let mut missing = reference(8, 11, 581857, "train", &["x"]);
    missing.as_object_mut().unwrap().remove("image_id");
    let rows = json!([
        reference(1, 11, 581857, "train", &["fine"]),
        reference(2, 99, 7, "train", &["no such annotation"]),
        reference(3, 11, 99, "train", &["no such image"]),
        reference(4, 11, 7, "train", &["another image's annotation"]),
        reference(5, 13, 7, "train", &["outside"]),
        reference(6, 12, 7, "trian", &["no split"]),
        reference(7, 12, 7, "train", &[]),
        missing,
        "no reference",
        reference(1, 11, 581857, "train", &["the same again"]),
        reference(9, 11, 581857, "train", &["  "]),
    ]);
    for (name, bytes) in [
        ("refs(unc).p", pickled(&rows, false)),
        ("refs(unc).json", rows.to_string().into_bytes()),
    ] {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "instances.json", instances().to_string());
        let file = write(folder.path(), name, bytes);
        let opened = plain(&file).unwrap();
        assert_eq!(opened.dataset.len(), 1);
        let told = reasons(&opened);
        for (told, (row, part)) in told.iter().zip([
            ("row 2", "annotation 99"),
            ("row 3", "image 99"),
            ("row 4", "another image"),
            ("row 5", "outside the image"),
            ("row 6", "trian"),
            ("row 7", "no text"),
            ("row 8", "image_id"),
            ("row 9", ""),
            ("row 10", "already used"),
            ("row 11", "empty text"),
        ]) {
            assert!(
                told.0 == row && told.1.contains(part),
                "{name}: {told:?}, {part}"
            );
        }
        assert_eq!(told.len(), 10, "{name}: {told:?}");
    }
}

#[test]
fn references_without_their_other_half_say_so() {
    let folder = tempfile::tempdir().unwrap();
    let file = write(folder.path(), "refs(unc).p", pickled(&references(), false));
    let error = plain(&file).unwrap_err();
    assert!(error.to_string().contains("instances.json"), "{error}");
    assert!(error.hint().is_some());
    // A pickle that asks for code is not run.
    write(folder.path(), "instances.json", instances().to_string());
    std::fs::write(&file, b"cos\nsystem\n(S'ls'\ntR.").unwrap();
    let error = plain(&file).unwrap_err();
    assert!(error.to_string().contains("`os.system`"), "{error}");
    assert!(error.to_string().contains("refs(unc).p"), "{error}");
}

#[test]
fn mdetrs_form_keeps_its_phrases() {
    let file = json!({
        "info": {}, "licenses": [],
        "images": [
            {"file_name": "COCO_train2014_000000581857.jpg", "height": 480, "width": 640, "id": 0,
             "original_id": 581857, "caption": "à the lady in blue", "dataset_name": "refcoco", "tokens_negative": [[0, 18]]},
            {"file_name": "COCO_train2014_000000581857.jpg", "height": 480, "width": 640, "id": 1,
             "original_id": 581857, "caption": "nobody", "dataset_name": "refcoco", "tokens_negative": [[0, 6]]},
            {"file_name": "COCO_train2014_000000581857.jpg", "height": 480, "width": 640, "id": 2,
             "original_id": 581857, "caption": "short", "dataset_name": "refcoco", "tokens_negative": [[0, 5]]},
        ],
        "annotations": [
            {"area": 1, "iscrowd": 0, "image_id": 0, "category_id": 1, "id": 0, "bbox": [64, 48, 128, 96], "tokens_positive": [[6, 10], [14, 18]]},
            {"area": 1, "iscrowd": 0, "image_id": 2, "category_id": 1, "id": 1, "bbox": [64, 48, 128, 96], "tokens_positive": [[9, 12]]},
        ],
        "categories": [{"supercategory": "person", "id": 1, "name": "person"}],
    });
    let folder = tempfile::tempdir().unwrap();
    let path = write(
        folder.path(),
        "finetune_refcoco_testA.json",
        file.to_string(),
    );
    let opened = plain(&path).unwrap();
    assert_eq!(ids(&opened.dataset), [("0", Split::TestA)]);
    let sample = &opened.dataset.samples[0];
    let phrase = &sample.annotations.phrases[0];
    // Counted in characters, as Python does, and given in bytes.
    assert_eq!(
        (phrase.phrase.as_str(), phrase.start),
        ("lady blue", Some(7))
    );
    assert_eq!(sample.group(), "581857");
    assert_eq!(
        reasons(&opened),
        [
            ("row 2", "the sentence has no box"),
            ("row 3", "`tokens_positive` is not within the caption"),
        ]
    );
}

#[test]
fn rositas_form_opens() {
    let entry = |id: u32, boxes: Value| {
        json!({
            "type": "rec", "text_set": "refcoco", "text_split": "train", "text_id": id, "text": "her",
            "lemmas": [], "img_src": "coco", "img_id": 581857,
            "img_file": "COCO_train2014_000000581857.jpg.npz", "split_info": "train", "label": null,
            "multi_label": null, "gt_boxes": boxes, "image_h": 480, "image_w": 640,
        })
    };
    let file = json!({
        "train": [entry(1, json!([64, 48, 128, 96])), entry(2, json!(null))],
        "testA": [entry(3, json!([[64, 48, 128, 96]]))],
    });
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), "refcoco.json", file.to_string());
    let opened = plain(&path).unwrap();
    assert_eq!(
        ids(&opened.dataset),
        [("3", Split::TestA), ("1", Split::Train)]
    );
    assert_eq!(reasons(&opened), [("row 2", "`gt_boxes` is missing")]);
    let sample = &opened.dataset.samples[0];
    assert!(
        sample
            .visual
            .path()
            .unwrap()
            .ends_with("COCO_train2014_000000581857.jpg")
    );
    assert_eq!(sample.annotations.phrases[0].boxes[0].x2, 0.3);
}

fn caption(video: u32, text: &str) -> Value {
    json!({"image_id": format!("video{video}"), "caption": text, "id": 0})
}

fn clip_path(sample: &Sample) -> &Path {
    assert!(matches!(sample.visual, Visual::Clip(Clip::Video(_))));
    sample.visual.path().unwrap()
}

#[test]
fn msrvtt_with_the_lists_of_1k_a() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("MSRVTT");
    let annotations = json!({"info": {}, "images": [{"id": "video0"}], "annotations": [
        caption(0, "a car"), caption(7020, "a woman"), caption(0, "a red car"),
        caption(7020, "a woman cuts paper"), caption(3, "in no list"), caption(9, "a dog"),
    ]});
    let file = write(&root, "annotation/MSR_VTT.json", annotations.to_string());
    let lists = "high-quality/structured-symlinks";
    write(
        &root,
        &format!("{lists}/train_list_jsfusion.txt"),
        "video0\nvideo9\n",
    );
    write(
        &root,
        &format!("{lists}/val_list_jsfusion.txt"),
        "video7020\n",
    );
    let index = pickled(&json!({"video7020": 1}), false);
    write(
        &root,
        &format!("{lists}/jsfusion_val_caption_idx.pkl"),
        index,
    );
    write(&root, "videos/all/video0.mp4", "a video");
    for frame in ["0002.jpg", "0001.jpg", "notes.txt"] {
        write(&root, &format!("frames/video9/{frame}"), "a frame");
    }
    for path in [&root, &file] {
        let opened = plain(path).unwrap();
        assert_eq!(reasons(&opened), []);
        assert_eq!(opened.dataset.name, "MSRVTT");
        assert_eq!(
            ids(&opened.dataset),
            [
                ("video0", Split::Train),
                ("video7020", Split::Test),
                ("video9", Split::Train)
            ]
        );
        let [car, woman, dog] = opened.dataset.samples.as_slice() else {
            panic!();
        };
        assert_eq!(car.texts, ["a car", "a red car"]);
        assert_eq!(
            woman.texts,
            ["a woman cuts paper"],
            "the one sentence of the test"
        );
        assert_eq!(clip_path(car), root.join("videos/all/video0.mp4"));
        assert!(
            clip_path(woman).ends_with("videos/all/video7020.mp4"),
            "where it is expected"
        );
        let frames: Vec<&Path> = dog
            .visual
            .sources()
            .iter()
            .map(|f| f.path().unwrap())
            .collect();
        assert_eq!(
            frames,
            [
                root.join("frames/video9/0001.jpg"),
                root.join("frames/video9/0002.jpg")
            ]
        );
    }
    // A clip that is also tested on is not trained on; the table's sentence counts.
    write(
        &root,
        "MSRVTT_JSFUSION_test.csv",
        "key,vid_key,video_id,sentence\nret0,msr9,video9,\"a dog, running\"\n",
    );
    let opened = plain(&root).unwrap();
    assert_eq!(
        ids(&opened.dataset),
        [("video0", Split::Train), ("video9", Split::Test)]
    );
    assert_eq!(opened.dataset.samples[1].texts, ["a dog, running"]);
    // Another list for training.
    let other = write(&root, "mine.txt", "video3\n");
    let options = OpenOptions {
        annotations: Some(other),
        ..OpenOptions::default()
    };
    let opened = open(&root, &options).unwrap();
    assert_eq!(
        ids(&opened.dataset),
        [("video3", Split::Train), ("video9", Split::Test)]
    );
}

#[test]
fn msrvtt_as_the_challenge_gave_it() {
    let folder = tempfile::tempdir().unwrap();
    let part = |videos: Value, sentences: Value| {
        json!({"info": {}, "videos": videos, "sentences": sentences}).to_string()
    };
    let sentence =
        |video: &str, text: &str| json!({"video_id": video, "caption": text, "sen_id": 1});
    let train = part(
        json!([{"video_id": "video0", "split": "train", "category": 9}, {"video_id": "video1", "split": "validate"}]),
        json!([sentence("video0", "one"), sentence("video1", "two"), sentence("video0", "three"), {"video_id": "video0"}]),
    );
    let test = part(
        json!([{"video_id": "video2", "split": "test"}]),
        json!([sentence("video2", "four")]),
    );
    write(folder.path(), "train_val_videodatainfo.json", &train);
    write(folder.path(), "test_videodatainfo.json", test);
    let opened = plain(folder.path()).unwrap();
    assert_eq!(
        ids(&opened.dataset),
        [
            ("video0", Split::Train),
            ("video1", Split::Val),
            ("video2", Split::Test)
        ]
    );
    assert_eq!(opened.dataset.samples[0].texts, ["one", "three"]);
    assert_eq!(reasons(&opened), [("row 4", "missing field `caption`")]);
    // Under any name, and not taken for Karpathy's.
    let alone = write(folder.path(), "elsewhere/mine.json", train);
    assert_eq!(plain(&alone).unwrap().dataset.len(), 2);
    let bad = pickled(&json!({"video2": 7}), false);
    write(folder.path(), "val_list_jsfusion.txt", "video2\n");
    write(folder.path(), "jsfusion_val_caption_idx.pkl", bad);
    write(folder.path(), "train_list_jsfusion.txt", "video0\n");
    let opened = plain(folder.path()).unwrap();
    assert_eq!(ids(&opened.dataset), [("video0", Split::Train)]);
    assert_eq!(
        reasons(&opened)[1],
        ("row 1", "there is no sentence 7 (from 0) of the clip")
    );
}

fn lsmdc_row(clip: &str, sentence: &str) -> String {
    format!("{clip}\t00.00.51.926\t00.00.54.129\t00.00.51.926\t00.00.54.129\t{sentence}\n")
}

#[test]
fn lsmdc_tables_and_their_folder() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let american = "0001_American_Beauty_00.00.51.926-00.00.54.129";
    let juno = "1014_Juno_00.01.00.000-00.01.02.000";
    let train = [
        lsmdc_row(american, "SOMEONE lies back, \"asleep\"."),
        lsmdc_row(american, "A second sentence."),
        "0001_American_Beauty_x\tshort\n".to_owned(),
        lsmdc_row("", "no clip"),
        "\n".to_owned(),
        lsmdc_row(juno, ""),
    ];
    let train = write(root, "LSMDC16_annos_training.csv", train.concat());
    write(root, "LSMDC16_annos_val.csv", lsmdc_row("3_V_00-01", "val"));
    write(
        root,
        "LSMDC16_annos_test.csv",
        [lsmdc_row(juno, "all"), lsmdc_row("4_T_00-01", "of it")].concat(),
    );
    let blind = write(
        root,
        "LSMDC16_annos_blindtest.csv",
        "5_B_00-01\t1\t2\t3\t4\n",
    );
    write(
        root,
        &format!("videos/0001_American_Beauty/{american}.avi"),
        "a video",
    );
    for number in [1, 2, 4] {
        write(
            root,
            &format!("frames/1014_Juno/{juno}_{number:06}.jpg"),
            "a frame",
        );
    }
    let opened = plain(&train).unwrap();
    assert_eq!(ids(&opened.dataset), [(american, Split::Train)]);
    let sample = &opened.dataset.samples[0];
    assert_eq!(
        sample.texts,
        ["SOMEONE lies back, \"asleep\".", "A second sentence."]
    );
    assert_eq!(sample.origin.place.unwrap().to_string(), "line 1");
    assert_eq!(
        clip_path(sample),
        root.join(format!("videos/0001_American_Beauty/{american}.avi"))
    );
    assert_eq!(
        reasons(&opened),
        [
            ("line 3", "the row has 2 of 6 columns"),
            ("line 4", "the row has 5 of 6 columns"),
            ("line 6", "the row has 5 of 6 columns"),
        ]
    );
    let opened = plain(root).unwrap();
    assert_eq!(
        ids(&opened.dataset),
        [
            (juno, Split::Test),
            ("4_T_00-01", Split::Test),
            (american, Split::Train),
            ("3_V_00-01", Split::Val)
        ]
    );
    let frames = opened.dataset.samples[0].visual.sources();
    assert_eq!(frames.len(), 2, "up to the first that is missing");
    // The thousand clips are some of the test's.
    write(
        root,
        "LSMDC16_challenge_1000_publictect.csv",
        lsmdc_row(juno, "the one"),
    );
    let opened = plain(root).unwrap();
    assert_eq!(
        ids(&opened.dataset),
        [
            (american, Split::Train),
            ("3_V_00-01", Split::Val),
            (juno, Split::Test)
        ]
    );
    let error = plain(&blind).unwrap_err();
    assert!(error.to_string().contains("blind"), "{error}");
    assert!(error.hint().unwrap().contains("publictect"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Both forms of a list say the same, whatever it says.
    #[test]
    fn pickle_and_json_agree(
        rows in prop::collection::vec((0u32..4, 10u32..14, prop::sample::select(vec![7u32, 581857, 9]), "[a-zé ]{0,8}"), 0..12),
        damage in prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
    ) {
        let rows: Vec<Value> = rows
            .iter()
            .map(|(id, annotation, image, text)| reference(*id, *annotation, *image, "train", &[text]))
            .collect();
        let rows = Value::Array(rows);
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "instances.json", instances().to_string());
        let mut pickle = pickled(&rows, false);
        let json = write(folder.path(), "refs(umd).json", rows.to_string());
        let p = write(folder.path(), "refs(unc).p", &pickle);
        match (plain(&p), plain(&json)) {
            (Ok(one), Ok(other)) => {
                prop_assert_eq!(ids(&one.dataset), ids(&other.dataset));
                prop_assert_eq!(reasons(&one), reasons(&other));
            }
            (one, other) => prop_assert!(one.is_err() && other.is_err()),
        }
        if let Some((at, value)) = damage {
            let at = at.index(pickle.len());
            pickle[at] = value;
            std::fs::write(&p, pickle).unwrap();
            drop(plain(&p));
        }
    }
}
