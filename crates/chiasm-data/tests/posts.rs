//! Posts and what is known of them: optional text columns, authors and relations in tables, and the
//! layouts of the data sets on image-text relations. Files are built here as the originals are laid out.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is the failed test")]

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use chiasm_data::{DataError, OpenOptions, Opened, Relation, Sample, Split, open};
use proptest::prelude::*;

fn write(folder: &Path, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
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

fn reasons(opened: &Opened) -> Vec<String> {
    let entries = opened.quarantine.entries.iter();
    entries
        .map(|entry| format!("{}: {}", entry.location, entry.reason))
        .collect()
}

#[test]
fn tables_have_optional_texts_authors_and_relations() {
    let csv = "image,text,caption,OCR,author,text_is_represented,image_adds\n\
               a.png,one,a dog,STOP,ann,1,0\n\
               b.png,two,,,bob,0,1\n\
               c.png,three,a cat,, ,,\n";
    let jsonl = r#"{"image":"a.png","text":"one","caption":"a dog","OCR":"STOP","author":"ann","text_is_represented":1,"image_adds":false}
{"image":"b.png","text":"two","caption":"","OCR":"","author":"bob","text_is_represented":"0","image_adds":"yes"}
{"image":"c.png","text":"three","caption":"a cat","OCR":"","author":null,"text_is_represented":null}
"#;
    for (name, table) in [("t.csv", csv), ("t.jsonl", jsonl)] {
        let opened = read(name, table).unwrap();
        assert_eq!(reasons(&opened), [""; 0], "{name}");
        let [first, second, third] = opened.dataset.samples.as_slice() else {
            panic!("{name}: three samples");
        };
        let said = |sample: &Sample| {
            let own = sample.annotations.clone();
            (own.caption, own.ocr, own.author, own.relation, own.label)
        };
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(
            said(first),
            (
                text("a dog"),
                text("STOP"),
                text("ann"),
                Some(Relation::new(true, false)),
                text("represented")
            )
        );
        // An empty OCR text says that there are no words; an empty caption says nothing.
        assert_eq!(
            said(second),
            (
                None,
                text(""),
                text("bob"),
                Some(Relation::new(false, true)),
                text("adds")
            )
        );
        assert_eq!(said(third), (text("a cat"), text(""), None, None, None));
        // Posts are samples of their own; pictures with nothing said of the pair are named by picture.
        assert_eq!(first.group.as_deref(), Some("a.png"));
        assert_eq!((third.id.as_str(), third.group.as_ref()), ("c.png", None));
    }
}

#[test]
fn columns_can_be_named_and_bad_cells_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let table = "image,text,seen,more,who\na.png,one,1,0,x\nb.png,two,2,0,x\nc.png,three,1,,y\n";
    let path = write(folder.path(), "t.csv", table);
    let options = OpenOptions {
        represented_column: Some("seen".into()),
        adds_column: Some("more".into()),
        author_column: Some("who".into()),
        ..OpenOptions::default()
    };
    let opened = open(&path, &options).unwrap();
    assert_eq!(opened.dataset.len(), 1);
    assert_eq!(
        reasons(&opened),
        [
            "line 3: `2` is neither 0 nor 1",
            "line 4: whether the image adds is missing"
        ]
    );
    let missing = OpenOptions {
        ocr_column: Some("ocr".into()),
        ..OpenOptions::default()
    };
    assert!(matches!(
        open(&path, &missing),
        Err(DataError::ColumnMissing { role: "ocr", .. })
    ));
    let long = format!(
        "image,text,ocr\na.png,one,{}\nb.png,two,x\n",
        "x".repeat(20_000)
    );
    assert!(reasons(&read("t.csv", long).unwrap())[0].contains("20000 characters"));
}

/// Posts of an author are on one side of a split that nobody gave.
#[test]
fn splits_follow_authors() {
    let mut table = "image,text,author\n".to_owned();
    for row in 0..600 {
        writeln!(table, "{row}.png,text {row},author{}", row % 60).unwrap();
    }
    let opened = read("t.csv", table).unwrap();
    let mut sides: HashMap<&str, Split> = HashMap::new();
    let mut seen = HashSet::new();
    for sample in &opened.dataset.samples {
        let author = sample.annotations.author.as_deref().unwrap();
        assert_eq!(*sides.entry(author).or_insert(sample.split), sample.split);
        seen.insert(sample.split);
    }
    assert!(seen.contains(&Split::Train) && seen.contains(&Split::Test));
}

#[test]
fn twitter100k_layout() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("Twitter100k");
    let long = "é".repeat(200);
    write(
        &root,
        "text.txt",
        format!("one https://t.co/a\n\n{long}\nfour\nfive\n\n\n"),
    );
    for (name, text) in [
        ("ocr/1.txt", "STOP  \n"),
        ("ofa/1.txt", "a sign"),
        ("ocr/3.txt", ""),
        ("ocr/5.txt", "\u{0}fine"),
    ] {
        write(&root, name, text);
    }
    write(&root, "ocr/4.txt", b"\xFF\xFE");
    write(&root, "images/1.jpg", b"");
    let opened = open(&root, &OpenOptions::default()).unwrap();
    let samples = &opened.dataset.samples;
    assert_eq!(opened.dataset.name, "Twitter100k");
    let ids: Vec<&str> = samples.iter().map(|sample| sample.id.as_str()).collect();
    assert_eq!(ids, ["1", "3", "5"]);
    assert!(samples.iter().all(|sample| sample.split == Split::Train));
    assert_eq!(samples[0].texts, ["one https://t.co/a"]);
    assert!(samples[0].visual.path().unwrap().ends_with("images/1.jpg"));
    assert_eq!(samples[0].annotations.ocr.as_deref(), Some("STOP"));
    assert_eq!(samples[0].annotations.caption.as_deref(), Some("a sign"));
    assert_eq!(samples[1].texts[0].chars().count(), 140);
    assert_eq!(samples[1].annotations.ocr.as_deref(), Some(""));
    assert_eq!(samples[1].annotations.caption, None);
    let reasons = reasons(&opened);
    assert_eq!(reasons[0], "line 2: empty text");
    assert!(reasons[1].starts_with("line 4: ") && reasons[1].ends_with("is not UTF-8 text"));
    assert_eq!(reasons.len(), 2);
}

/// `textimage.csv` with as many rows and as much damage as the original; ids are made up.
fn label_file() -> String {
    let train = [(0, 1_224), (1, 908), (2, 791), (3, 653)];
    let test = [(0, 289), (1, 239), (2, 190), (3, 177)];
    let labels = ["0,0,0,0,0,1", "0,1,0,1,0,0", "1,0,0,0,1,0", "1,1,1,0,0,0"];
    let mut file = "tweet_id,text_is_represented,image_adds,image_adds_text_repr,\
                    image_adds_text_notrepr,image_notadds_text_repr,image_notadds_text_notrepr,,,\n"
        .to_owned();
    let mut row = 0;
    for (tv, count) in train.into_iter().chain(test) {
        for _ in 0..count {
            row += 1;
            let id = match row % 120 {
                // 28 of them, all in the training part.
                7 if row < 3_360 => "6.92094E+17".to_owned(),
                _ => (600_000_000_000_000_000_u64 + row).to_string(),
            };
            let fields = match (row % 139, tv) {
                // A text that was left in the row, with the commas and quotes that it has.
                (3, _) => format!(
                    "\"we said, \"\"no\"\" https://t.co/a\"\"\",{},,",
                    labels[tv]
                ),
                // One label lost.
                _ if row == 5 || row == 1_000 => "0,0,0,0,1,,,,".to_owned(),
                _ => format!("{},,,", labels[tv]),
            };
            writeln!(file, "{id},{fields}").unwrap();
        }
    }
    file
}

/// Ids, texts and authors for the rows of [`label_file`].
fn posts() -> String {
    let mut posts = "tweet_id,tweet,author\n".to_owned();
    for row in 1..=4_471_u64 {
        let id = 600_000_000_000_000_000 + row;
        writeln!(
            posts,
            "{id},\"post {row}, \"\"so\"\" https://t.co/a\",user{}",
            row % 900
        )
        .unwrap();
    }
    posts
}

/// Contract items 2 and 3, on a file of the original's size and damage.
#[test]
fn trc_is_repaired_and_split() {
    let folder = tempfile::tempdir().unwrap();
    let labels = write(folder.path(), "textimage.csv", label_file());
    let error = open(&labels, &OpenOptions::default()).unwrap_err();
    let text = error.to_string();
    let counts = "4471 labels (1513 neither, 1147 adds, 981 represented, 830 both), 28 of them with a \
                  damaged id";
    assert!(text.contains(counts), "{text}");
    assert!(error.hint().unwrap().contains("--annotations"));

    write(folder.path(), "posts.csv", posts());
    let opened = open(&labels, &OpenOptions::default()).unwrap();
    assert_eq!((opened.dataset.len(), opened.quarantine.len()), (4_443, 28));
    assert!(
        reasons(&opened)
            .iter()
            .all(|reason| reason.contains("`6.92094E+17` is damaged"))
    );
    let count = |splits: &[Split], tv: usize| {
        let own = opened.dataset.samples.iter();
        let own = own.filter(|sample| splits.contains(&sample.split));
        let relation = |sample: &&Sample| sample.annotations.relation.map(Relation::tv) == Some(tv);
        own.filter(relation).count()
    };
    assert_eq!(
        [0, 1, 2, 3].map(|tv| count(&[Split::Test], tv)),
        [289, 239, 190, 177]
    );
    let train = [0, 1, 2, 3].map(|tv| count(&[Split::Train, Split::Val], tv));
    // All but the 28.
    assert_eq!(train.iter().sum::<usize>() + 28, 3_576);
    let val = opened.dataset.subset(Split::Val);
    assert!((355..=365).contains(&val.len()), "{}", val.len());
    let author = |sample: &Sample| sample.annotations.author.clone().unwrap();
    let of_val: HashSet<String> = val.samples.iter().map(author).collect();
    let training = opened.dataset.subset(Split::Train);
    assert!(
        training
            .samples
            .iter()
            .all(|sample| !of_val.contains(&author(sample)))
    );
    assert_eq!(opened.dataset.samples[0].texts, ["post 1, \"so\""]);
    assert_eq!(
        opened.dataset.samples[0].annotations.label.as_deref(),
        Some("neither")
    );
}

#[test]
fn trc_relabelling_is_checked_and_only_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let labels = write(folder.path(), "textimage.csv", label_file());
    write(folder.path(), "posts.csv", posts());
    let named = OpenOptions {
        format: Some("trc-relabelled".into()),
        ..OpenOptions::default()
    };
    assert!(
        open(&labels, &named)
            .unwrap_err()
            .to_string()
            .contains("controversial_samples.txt")
    );
    let judge = |text: &str| {
        write(folder.path(), "controversial_samples.txt", text);
        open(&labels, &named)
    };
    // Rows 3576.. are neither, 3865.. adds, from the counts above.
    let opened = judge("00->10: 3582, 3600\n01->11: 3997\n").unwrap();
    let of = |opened: &Opened, row: u64| {
        let id = (600_000_000_000_000_001 + row).to_string();
        let sample = opened.dataset.samples.iter().find(|sample| sample.id == id);
        let own = sample.unwrap().annotations.clone();
        (own.label.unwrap(), own.kinds)
    };
    let yes = vec![("relabelled", "yes".to_owned())];
    assert_eq!(of(&opened, 3_582), ("represented".to_owned(), yes.clone()));
    assert_eq!(of(&opened, 3_997), ("both".to_owned(), yes.clone()));
    assert_eq!(of(&opened, 3_583).1, [("relabelled", "no".to_owned())]);
    let original = open(&labels, &OpenOptions::default()).unwrap();
    assert_eq!(of(&original, 3_582), ("neither".to_owned(), yes));
    for (wrong, why) in [
        ("01->11: 3582", "is labelled `neither`, not `adds`"),
        ("00->10: 3582, 3582", "named twice"),
        ("00->10: 4471", "not among the 4471"),
        ("00->10: x", "no row number"),
        ("00->10: ", "no row number"),
        ("00-10: 1", "is expected"),
        ("02->10: 1", "is expected"),
        ("00->10", "is expected"),
        ("00->10: -1", "no row number"),
        ("00->10: 99999999999999999999999", "no row number"),
    ] {
        let error = judge(wrong).unwrap_err().to_string();
        assert!(
            error.contains(why) && error.contains("line 1"),
            "{wrong}: {error}"
        );
    }
}

#[test]
fn trc_as_one_table_with_backslashes() {
    let folder = tempfile::tempdir().unwrap();
    let table = "tweet_id,tweet,text_is_represented,image_adds\n\
                 11,\"she said \\\"hi, you\\\" https://t.co/a https://t.co/b\",1,0\n\
                 12,plain,0,1\n\
                 6.9E+17,lost,0,0\n\
                 14,three,2,0\n\
                 15\n\
                 16,six,1,1\n";
    write(folder.path(), "data.csv", table);
    write(folder.path(), "ocr/T11.txt", "HI");
    write(folder.path(), "images/T12.jpg", b"");
    let opened = open(folder.path(), &OpenOptions::default()).unwrap();
    let samples = &opened.dataset.samples;
    let ids: Vec<&str> = samples.iter().map(|sample| sample.id.as_str()).collect();
    assert_eq!(ids, ["11", "12", "16"]);
    assert_eq!(samples[0].texts, ["she said \"hi, you\" https://t.co/a"]);
    assert_eq!(samples[0].annotations.ocr.as_deref(), Some("HI"));
    assert!(
        samples[1]
            .visual
            .path()
            .unwrap()
            .ends_with("images/T12.jpg")
    );
    assert_eq!(samples[2].split, Split::Test);
    let reasons = reasons(&opened);
    assert!(
        reasons
            .iter()
            .any(|reason| reason.contains("`6.9E+17` is damaged")),
        "{reasons:?}"
    );
    assert!(
        reasons
            .iter()
            .any(|reason| reason.contains("line 5: `2` is neither")),
        "{reasons:?}"
    );
    assert!(
        reasons
            .iter()
            .any(|reason| reason.contains("line 6: the row has 1")),
        "{reasons:?}"
    );
    // A table that names its pictures is read as any other.
    let general = "image,text,tweet_id,text_is_represented,image_adds\nx.png,one,1,1,1\n";
    let opened = read("t.csv", general).unwrap();
    assert!(
        opened.dataset.samples[0]
            .visual
            .path()
            .unwrap()
            .ends_with("x.png")
    );
}

#[test]
fn mdid_posts() {
    let posts = r#"[
 {"id": "a_n", "semiotic": "parallel", "intent": "promote", "caption": "shine", "contextual": "close", "tags": [], "orig_caption": "Shine!", "url": "u", "likes": 8},
 {"id": "b_n", "semiotic": "divergent", "intent": "expose", "caption": "two", "contextual": "minimal"},
 {"id": "c_n", "intent": "expose"}, 7,
 {"id": "a_n", "semiotic": "parallel", "intent": "promote", "caption": "again", "contextual": "close"}]"#;
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "images/a_n.jpg", b"");
    let path = write(folder.path(), "splits/val_split_0.json", posts);
    let opened = open(&path, &OpenOptions::default()).unwrap();
    let samples = &opened.dataset.samples;
    assert_eq!((samples.len(), opened.quarantine.len()), (2, 3));
    assert_eq!(
        (samples[0].split, samples[0].texts[0].as_str()),
        (Split::Val, "Shine!")
    );
    assert_eq!(samples[1].texts, ["two"]);
    assert_eq!(samples[0].annotations.label.as_deref(), Some("parallel"));
    let kinds = [
        ("intent", "promote".to_owned()),
        ("contextual", "close".to_owned()),
    ];
    assert_eq!(samples[0].annotations.kinds, kinds);
    assert!(samples[0].visual.path().unwrap().is_file());
}

#[test]
fn harmeme_memes() {
    let memes = r#"{"id": "covid_1", "image": "covid_1.png", "labels": ["not harmful"], "text": "STAY\nHOME\n"}
{"id": "covid_2", "image": "covid_2.png", "labels": ["very harmful", "society"], "text": "null"}
{"id": "covid_3", "image": "covid_3.png", "labels": [], "text": "x"}
{"id": "covid_4", "image": "covid_4.png", "text": "x"}
"#;
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), "annotations/test.jsonl", memes);
    write(folder.path(), "images/covid_1.png", b"");
    let opened = open(&path, &OpenOptions::default()).unwrap();
    let samples = &opened.dataset.samples;
    assert_eq!((samples.len(), opened.quarantine.len()), (2, 2));
    assert!(samples.iter().all(|sample| sample.split == Split::Test));
    assert_eq!(samples[0].annotations.ocr.as_deref(), Some("STAY\nHOME\n"));
    assert!(samples[0].visual.path().unwrap().is_file());
    assert_eq!(samples[1].annotations.ocr.as_deref(), Some(""));
    assert_eq!(
        samples[1].annotations.label.as_deref(),
        Some("very harmful")
    );
    assert_eq!(
        samples[1].annotations.kinds,
        [("target", "society".to_owned())]
    );
}

#[test]
fn news_with_entities() {
    let entity = |name: &str| format!(r#"{{"wd_id": "Q1", "wd_label": "{name}", "text": "x"}}"#);
    let articles = format!(
        r#"{{"id": "10", "text_persons": [{0}, {1}, {0}], "text_locations": [{2}], "text_events": [], "annotation_persons": 1, "annotation_locations": 0, "annotation_events": 0}}
{{"id": "11", "text_persons": [{0}], "annotation_persons": -1, "annotation_locations": 1}}
{{"id": "12", "text_persons": [{0}], "annotation_persons": 5}}
{{"id": "10", "text_persons": [{0}], "annotation_persons": 1}}
"#,
        entity("Ann"),
        entity("Bob"),
        entity("Rome")
    );
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), "news400_ent.jsonl", articles);
    write(folder.path(), "images/10.jpg", b"");
    let opened = open(&path, &OpenOptions::default()).unwrap();
    let samples = &opened.dataset.samples;
    let told: Vec<(&str, &str, &str, &str)> = samples
        .iter()
        .map(|sample| {
            let label = sample.annotations.label.as_deref().unwrap();
            (
                sample.id.as_str(),
                sample.group(),
                sample.texts[0].as_str(),
                label,
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            ("10#persons", "10", "Ann, Bob", "visible"),
            ("10#locations", "10", "Rome", "not_visible"),
        ]
    );
    assert!(samples[0].visual.path().unwrap().ends_with("images/10.jpg"));
    let reasons = reasons(&opened);
    assert!(reasons[0].contains("is 5, not 1, 0 or -1"), "{reasons:?}");
    assert!(reasons[1].contains("already used"), "{reasons:?}");
}

/// VERITE is a table like any other: its index column has no name, its class is `label`.
#[test]
fn verite_table() {
    let table = ",caption,image_path,label\n\
                 0,\"A family, taken away\",images/true_0.jpg,true\n\
                 1,Officials,images/true_0.jpg,miscaptioned\n\
                 2,\"A family, taken away\",images/false_0.jpg,out-of-context\n";
    let opened = read("VERITE.csv", table).unwrap();
    assert_eq!((opened.dataset.len(), opened.quarantine.len()), (3, 0));
    let labels: Vec<_> = opened
        .dataset
        .samples
        .iter()
        .map(|s| s.annotations.label.clone())
        .collect();
    assert_eq!(
        labels.into_iter().flatten().collect::<Vec<_>>(),
        ["true", "miscaptioned", "out-of-context"]
    );
    assert_eq!(opened.dataset.samples[1].group(), "images/true_0.jpg");
}

/// Files that nobody should send: every one is an error or a list of refusals.
#[test]
fn hostile_files() {
    let trc = "tweet_id,tweet,text_is_represented,image_adds\n";
    let mdid = r#"[{"semiotic":"s","intent":"i","contextual":"c","id":"#;
    let meme = r#"{"labels": ["not harmful"], "image": "a.png", "id": "#;
    let news = r#"{"text_persons": [], "annotation_persons": 1, "id": "#;
    let long = "9".repeat(5_000_000);
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("t.csv", trc.into()),
        ("t.csv", format!("{trc},,,\n").into()),
        (
            "t.csv",
            format!("{trc}1,\"never closed,1,0\n2,b,0,0\n").into(),
        ),
        ("t.csv", format!("{trc}1,\\\"a,1,0\n").into()),
        ("t.csv", format!("{trc}1,a\\\",1,0\n").into()),
        ("t.csv", format!("{trc}{long},a,1,0\n").into()),
        ("t.csv", format!("{trc}1,a,{long},0\n").into()),
        ("t.csv", [trc.as_bytes(), b"\xFF,\xFE,1,0\n"].concat()),
        ("t.csv", [trc.as_bytes(), b"1,\0,1,0\n"].concat()),
        ("t.csv", format!("{trc}-1,a,1,0\n").into()),
        ("t.csv", format!("{trc}1.0,a,1,0\n").into()),
        ("t.csv", format!("{trc}1,a,1\n1,a,1,0,0,0\n").into()),
        ("t.csv", format!("{trc}../../etc/passwd,a,1,0\n").into()),
        (
            "t.csv",
            b"tweet_id,text_is_represented,image_adds\n".to_vec(),
        ),
        (
            "t.csv",
            b"tweet_id,text_is_represented,image_adds,,,\n1,\n".to_vec(),
        ),
        ("t.csv", b"tweet_id,text_is_represented,image_adds".to_vec()),
        ("t.json", format!("{mdid}1}}]").into()),
        ("t.json", format!("{mdid}\"a\",\"caption\":7}}]").into()),
        ("t.json", format!("{mdid}\"\",\"caption\":\"x\"}}]").into()),
        ("t.json", mdid.into()),
        ("t.json", format!("{mdid}{}", "[".repeat(3_000)).into()),
        (
            "t.json",
            format!("{mdid}\"../x\",\"caption\":\"\"}}]").into(),
        ),
        ("t.jsonl", meme.into()),
        ("t.jsonl", format!("{meme}null, \"text\": \"x\"}}\n").into()),
        ("t.jsonl", format!("{meme}\"a\", \"text\": 7}}\n").into()),
        (
            "t.jsonl",
            format!("{meme}\"a\", \"text\": \"\\ud800\"}}\n").into(),
        ),
        (
            "t.jsonl",
            format!("{meme}\"a\", \"text\": \" \"}}\n").into(),
        ),
        ("t.jsonl", news.into()),
        ("t.jsonl", format!("{news}\"a\"}}\n").into()),
        (
            "t.jsonl",
            format!("{news}\"a\", \"text_events\": [{{}}]}}\n").into(),
        ),
        (
            "t.jsonl",
            format!("{news}\"a\", \"annotation_events\": 1e99}}\n").into(),
        ),
        (
            "t.jsonl",
            format!("{news}\"a\", \"text_locations\": {{}}}}\n").into(),
        ),
    ];
    assert!(cases.len() >= 30);
    for (number, (name, bytes)) in cases.into_iter().enumerate() {
        match read(name, bytes) {
            Ok(opened) => assert!(
                !opened.dataset.is_empty()
                    && opened.dataset.samples.iter().all(|s| !s.texts.is_empty()),
                "{number}"
            ),
            Err(error) => assert!(error.to_string().contains("t."), "{number}: {error}"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Damage anywhere costs rows, never the program.
    #[test]
    fn damaged_files_are_survived(place in 0usize..100_000, byte: u8, cut in 0usize..100_000) {
        let meme = r#"{"id": "a", "image": "a.png", "labels": ["not harmful"], "text": "x"}"#;
        for (name, good) in [
            ("t.csv", "tweet_id,tweet,text_is_represented,image_adds\n1,\"a\\\"b\",1,0\n2,b,0,1\n"),
            ("t.jsonl", meme),
        ] {
            let mut bytes = good.as_bytes().to_vec();
            let place = place % bytes.len();
            bytes[place] = byte;
            bytes.truncate(1 + cut % bytes.len());
            let _ = read(name, bytes);
        }
    }
}
