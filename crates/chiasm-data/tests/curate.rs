//! Choosing pairs, through the public entry point: rules and reasons, every kind of table and score, and
//! that work which is stopped at any point and continued comes out as if it had not been.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is the failed test")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chiasm_data::curate::{Config, Features, Pair, Report, Scorer, Scores, Step, curate};
use chiasm_data::readers::Table;
use chiasm_data::{DataError, OpenOptions};
use chiasm_format::Matrix;
use chiasm_format::numpy::Npy;
use proptest::prelude::*;

fn write(folder: &Path, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, content).unwrap();
    path
}

fn config(source: &Path, out: &str, rules: &[&str]) -> Config {
    Config {
        source: source.to_owned(),
        out: source.parent().unwrap().join(out),
        options: OpenOptions::default(),
        rules: rules.iter().map(|rule| rule.parse().unwrap()).collect(),
        chunk: 7,
    }
}

fn run(config: &Config, scores: &mut Scores<'_>) -> Result<Report, DataError> {
    curate(config, scores, &mut |_| Ok(()))
}

fn by(column: &str) -> Scores<'static> {
    Scores::Column(column.to_owned())
}

fn lines(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(str::to_owned).collect()
}

const TABLE: &str = "id,image,text,sim,who\n\
    a,1.png,one two three,0.9,x\n\
    b,2.png,\"one, two three\",0.8,x\n\
    c,3.png,one two three,0.95,y\n\
    d,4.png,short,0.99,y\n\
    e,5.png,\"\",0.9,y\n\
    f,,four five six,0.9,y\n\
    g,7.png,four five six,,y\n\
    h,8.png,seven eight nine,0.2,y\n\
    i,9.png,ten eleven twelve,0.7,x\n\
    j,10.png,ten eleven thirteen,nan,x\n\
    k,11.png\n";

#[test]
fn every_dropped_row_has_a_reason() {
    let folder = tempfile::tempdir().unwrap();
    let source = write(folder.path(), "pairs.csv", TABLE);
    let rules = ["words>=2", "score>=0.5", "unique=text", "top=1/who"];
    let report = run(&config(&source, "out", &rules), &mut by("sim")).unwrap();
    assert_eq!((report.rows, report.kept, report.cut), (11, 2, None));
    assert_eq!(
        lines(&report.kept_file),
        [
            "id,image,text,sim,who,curate_score",
            "b,2.png,\"one, two three\",0.8,x,0.8",
            "c,3.png,one two three,0.95,y,0.95",
        ]
    );
    assert_eq!(
        lines(&report.dropped_file),
        [
            "id,image,text,sim,who,curate_score,curate_row,curate_reason",
            "a,1.png,one two three,0.9,x,0.9,0,\"the text of row 2, which is kept\"",
            "d,4.png,short,0.99,y,0.99,3,words 1 is below 2",
            "e,5.png,,0.9,y,0.9,4,no text",
            "f,,four five six,0.9,y,0.9,5,no picture is named",
            "g,7.png,four five six,,y,,6,no score",
            "h,8.png,seven eight nine,0.2,y,0.2,7,score 0.2 is below 0.5",
            "i,9.png,ten eleven twelve,0.7,x,0.7,8,1 better rows of the same `who` are kept",
            "j,10.png,ten eleven thirteen,nan,x,,9,no score",
            "k,11.png,,,,,10,the row has 2 of 5 columns",
        ]
    );
    assert_eq!(report.dropped["score>=0.5"], 1);
    assert_eq!(
        report.dropped.values().sum::<u64>() + report.kept,
        report.rows
    );
    // The kept table is a table like any other.
    let again = run(
        &config(&report.kept_file, "again", &["best=1.0"]),
        &mut by("curate_score"),
    );
    assert_eq!(again.unwrap().kept, 2);
}

#[test]
fn the_best_share_is_exact_and_ties_go_to_the_first() {
    let folder = tempfile::tempdir().unwrap();
    let mut table = "image,text,score\n".to_owned();
    for row in 0..100 {
        writeln!(
            table,
            "{row}.png,text {row},{}",
            [0.5, 0.25, 0.75, 0.5][row % 4]
        )
        .unwrap();
    }
    let source = write(folder.path(), "t.csv", table);
    let report = run(&config(&source, "out", &["best=40%"]), &mut by("score")).unwrap();
    assert_eq!((report.kept, report.cut), (40, Some(0.5)));
    let kept = lines(&report.kept_file);
    // All 25 of 0.75, and the first 15 of 0.5.
    assert_eq!(
        kept.iter().filter(|line| line.ends_with(",0.75")).count(),
        25
    );
    assert_eq!(kept.last().unwrap(), "98.png,text 98,0.75,0.75");
    assert!(kept.contains(&"28.png,text 28,0.5,0.5".to_owned()));
    assert!(!kept.contains(&"31.png,text 31,0.5,0.5".to_owned()));
    let dropped = lines(&report.dropped_file);
    assert!(
        dropped[1].ends_with("\"not among best=40%, which begin at score 0.5\""),
        "{}",
        dropped[1]
    );
}

fn picture(side: u32, shade: u8) -> Vec<u8> {
    let picture = image::RgbImage::from_pixel(side, side + 8, image::Rgb([shade, 0, 0]));
    let mut bytes = std::io::Cursor::new(Vec::new());
    picture
        .write_to(&mut bytes, image::ImageFormat::Png)
        .unwrap();
    bytes.into_inner()
}

/// Scores by the number in the name of the picture, and counts how often it was asked.
struct ByName {
    asked: usize,
}

impl Scorer for ByName {
    fn name(&self) -> String {
        "by name".to_owned()
    }

    fn scores(&mut self, pairs: &[Pair]) -> Result<Vec<f32>, DataError> {
        self.asked += pairs.len();
        let number = |pair: &Pair| {
            let stem = pair.picture.file_stem().unwrap().to_str().unwrap();
            assert!(!pair.text.is_empty());
            stem.parse().unwrap_or(f32::NAN)
        };
        Ok(pairs.iter().map(number).collect())
    }
}

#[test]
fn pictures_are_looked_at_where_rules_or_a_model_ask() {
    let folder = tempfile::tempdir().unwrap();
    for (name, side, shade) in [
        ("1.png", 40, 1),
        ("2.png", 64, 2),
        ("3.png", 64, 2),
        ("x.png", 64, 9),
    ] {
        write(
            folder.path(),
            &format!("images/{name}"),
            picture(side, shade),
        );
    }
    write(folder.path(), "images/4.png", &picture(64, 4)[..60]);
    let mut table = String::new();
    for name in ["1", "2", "3", "4", "5", "x"] {
        writeln!(
            table,
            "{{\"image\":\"{name}.png\",\"text\":\"picture {name}\", \"n\":[1]}}"
        )
        .unwrap();
    }
    table.push_str(
        "not json\n{\"image\":\"2.png\",\"text\":\"last\",\"curate\":{}}\n{\"image\":7}\n",
    );
    let source = write(folder.path(), "t.jsonl", table);
    let mut model = ByName { asked: 0 };
    let rules = ["side>=64", "unique=picture"];
    let report = run(
        &config(&source, "out", &rules),
        &mut Scores::Model(&mut model),
    )
    .unwrap();
    // The small one, the damaged one and the missing one were not asked about.
    assert_eq!(model.asked, 4);
    assert_eq!(
        lines(&report.kept_file),
        ["{\"image\":\"3.png\",\"text\":\"picture 3\", \"n\":[1],\"curate_score\":3}"]
    );
    assert_eq!(
        lines(&report.dropped_file),
        [
            "{\"image\":\"1.png\",\"text\":\"picture 1\", \"n\":[1],\"curate_reason\":\"side 40 is below \
             64\",\"curate_row\":0,\"curate_score\":null}",
            "{\"image\":\"2.png\",\"text\":\"picture 2\", \"n\":[1],\"curate_reason\":\"the picture of row \
             2, which is kept\",\"curate_row\":1,\"curate_score\":2}",
            "{\"image\":\"4.png\",\"text\":\"picture 4\", \"n\":[1],\"curate_reason\":\"the picture cannot \
             be decoded\",\"curate_row\":3,\"curate_score\":null}",
            "{\"image\":\"5.png\",\"text\":\"picture 5\", \"n\":[1],\"curate_reason\":\"the picture cannot \
             be read\",\"curate_row\":4,\"curate_score\":null}",
            "{\"image\":\"x.png\",\"text\":\"picture x\", \"n\":[1],\"curate_reason\":\"no \
             score\",\"curate_row\":5,\"curate_score\":null}",
            "{\"line\":\"not json\",\"curate_reason\":\"not a JSON object: expected ident\",\"curate_row\":6,\
             \"curate_score\":null}",
            "{\"image\":\"2.png\",\"text\":\"last\",\"curate\":{},\"curate_reason\":\"the picture of row 2, \
             which is kept\",\"curate_row\":7,\"curate_score\":2}",
            "{\"image\":7,\"curate_reason\":\"no text\",\"curate_row\":8,\"curate_score\":null}",
        ]
    );
    for line in lines(&report.dropped_file)
        .iter()
        .chain(&lines(&report.kept_file))
    {
        serde_json::from_str::<serde_json::Value>(line).unwrap();
    }
}

/// VERITE keeps its features so: two NumPy files, a row each caption.
#[test]
fn features_are_read_row_by_row() {
    let folder = tempfile::tempdir().unwrap();
    let table = ",caption,image_path,label\n0,one,a.jpg,true\n1,two,a.jpg,miscaptioned\n2,three,b.jpg,out\n";
    let source = write(folder.path(), "VERITE.csv", table);
    let npy = |name: &str, rows: usize, values: &[f32]| {
        let array = Npy::from_f32(&[rows, values.len() / rows], values);
        Matrix::open(
            &write(folder.path(), name, array.to_bytes()),
            "image_embeds",
        )
        .unwrap()
    };
    let images = || npy("i.npy", 3, &[1.0, 0.0, 0.6, 0.8, 0.0, 0.0]);
    let texts = || npy("t.npy", 3, &[1.0, 0.0, 1.0, 0.0, 1.0, 0.0]);
    let features = Box::new(Features::new(images(), texts()).unwrap());
    let rules = ["score>=0.7"];
    let report = run(
        &config(&source, "out", &rules),
        &mut Scores::Features(features),
    )
    .unwrap();
    assert_eq!(lines(&report.kept_file)[1], "0,one,a.jpg,true,1");
    let dropped = lines(&report.dropped_file);
    assert_eq!(
        dropped[1],
        "1,two,a.jpg,miscaptioned,0.6,1,score 0.6 is below 0.7"
    );
    assert_eq!(dropped[2], "2,three,b.jpg,out,,2,no score");

    assert!(Features::new(images(), npy("w.npy", 3, &[1.0; 9])).is_err());
    let two = || npy("two.npy", 2, &[1.0; 4]);
    let features = Box::new(Features::new(two(), two()).unwrap());
    let error = run(
        &config(&source, "short", &rules),
        &mut Scores::Features(features),
    )
    .unwrap_err();
    assert!(
        error.to_string().contains("3 rows, the features 2"),
        "{error}"
    );
}

#[test]
fn settings_that_do_not_fit_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let source = write(folder.path(), "pairs.csv", TABLE);
    for (rules, scores, why) in [
        (&["score>=0.5"][..], None, "needs scores"),
        (&["best=10%"], None, "needs scores"),
        (&["top=1/who"], None, "needs scores"),
        (&["top=1/nobody"], Some("sim"), "`nobody`"),
        (&["p>=0.5"], Some("sim"), "`p`"),
        (&["words>=1"], Some("none"), "`none`"),
        (&["best=10%", "best=3"], Some("sim"), "two rules"),
        (&["top=1/who", "top=2/id"], Some("sim"), "two rules"),
    ] {
        let mut scores = scores.map_or(Scores::None, by);
        let error = run(&config(&source, "out", rules), &mut scores).unwrap_err();
        assert!(error.to_string().contains(why), "{rules:?}: {error}");
    }
    // Finished work is reported again; other work is not taken for it.
    let first = run(&config(&source, "out", &["words>=2"]), &mut Scores::None).unwrap();
    let again = run(&config(&source, "out", &["words>=2"]), &mut Scores::None).unwrap();
    assert_eq!(first, again);
    let error = run(&config(&source, "out", &["words>=3"]), &mut Scores::None).unwrap_err();
    assert!(error.to_string().contains("another call") && error.hint().is_some());
    write(folder.path(), "pairs.csv", TABLE.replace("short", "SHORT"));
    assert!(run(&config(&source, "out", &["words>=2"]), &mut Scores::None).is_err());
}

/// A table with duplicates, bad rows and ties.
fn many(rows: usize) -> String {
    let mut table = "image,text,score,who\n".to_owned();
    for row in 0..rows {
        match row % 23 {
            7 => table.push_str("lost\n"),
            _ => writeln!(
                table,
                "{}.png,\"text {}, so\",{},w{}",
                row % 40,
                row % 61,
                (row * 37 % 101) as f32 / 100.0,
                row % 9
            )
            .unwrap(),
        }
    }
    table
}

fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(folder).unwrap().map(Result::unwrap);
    entries
        .map(|entry| {
            let name = entry.file_name().into_string().unwrap();
            (name, std::fs::read(entry.path()).unwrap())
        })
        .collect()
}

/// Nothing is cleaned up where `step` fails, so that an error there is as good as a kill: it leaves the
/// same files, and those that were written but not forced to disk are damaged here.
#[test]
fn stopped_anywhere_and_continued_the_output_is_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let source = write(folder.path(), "t.csv", many(20_000));
    let rules = ["words>=2", "score>=0.1", "unique=text", "best=50%"];
    let config = |out: &str| Config {
        chunk: 4_096,
        ..config(&source, out, &rules)
    };
    let mut steps = 0;
    curate(&config("whole"), &mut by("score"), &mut |_| {
        steps += 1;
        Ok(())
    })
    .unwrap();
    let whole = contents(&folder.path().join("whole"));
    assert_eq!(
        whole.keys().collect::<Vec<_>>(),
        ["dropped.csv", "kept.csv", "report.json"]
    );
    assert!(steps >= 10, "{steps}");
    let out = folder.path().join("out");
    let (mut stops, mut seen) = (0, Vec::new());
    loop {
        let done = curate(&config("out"), &mut by("score"), &mut |step| {
            seen.push(step);
            Err(DataError::NoSamples {
                name: "stopped".to_owned(),
            })
        });
        if done.is_ok() {
            break;
        }
        stops += 1;
        assert!(stops < 100);
        // What a kill can leave behind the last entry of the journal.
        for name in ["facts", "kept", "dropped"] {
            let path = out.join(".curate").join(name);
            let is_begun = path.is_file() && !seen.contains(&Step::Compared);
            if let (true, Ok(mut file)) = (
                is_begun || name != "facts" && path.is_file(),
                std::fs::OpenOptions::new().append(true).open(&path),
            ) {
                std::io::Write::write_all(&mut file, b"\"torn, by a ki").unwrap();
            }
        }
    }
    assert_eq!(stops, steps);
    let mut again = contents(&out);
    let report = String::from_utf8(again.remove("report.json").unwrap()).unwrap();
    let expected = String::from_utf8(whole["report.json"].clone()).unwrap();
    assert_eq!(report.replace("/out/", "/whole/"), expected);
    assert_eq!(again["kept.csv"], whole["kept.csv"]);
    assert_eq!(again["dropped.csv"], whole["dropped.csv"]);
}

#[test]
fn parquet_tables_come_out_as_separated_values() {
    use parquet::data_type::{ByteArray, ByteArrayType, DoubleType};
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;
    let schema = "message t { required binary image (UTF8); optional binary text (UTF8); required double s; }";
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let mut bytes = Vec::new();
    let mut writer = SerializedFileWriter::new(&mut bytes, schema, Arc::default()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let strings = |values: &[&str]| {
        values
            .iter()
            .map(|v| ByteArray::from(*v))
            .collect::<Vec<_>>()
    };
    let mut column = group.next_column().unwrap().unwrap();
    let images = strings(&["a.png", "b.png", "c.png"]);
    column
        .typed::<ByteArrayType>()
        .write_batch(&images, None, None)
        .unwrap();
    column.close().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    let texts = strings(&["one", "three"]);
    column
        .typed::<ByteArrayType>()
        .write_batch(&texts, Some(&[1, 0, 1]), None)
        .unwrap();
    column.close().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    column
        .typed::<DoubleType>()
        .write_batch(&[0.5, 0.6, 0.125], None, None)
        .unwrap();
    column.close().unwrap();
    group.close().unwrap();
    writer.close().unwrap();

    let folder = tempfile::tempdir().unwrap();
    let source = write(folder.path(), "t.parquet", &bytes);
    let report = run(&config(&source, "out", &["score>=0.2"]), &mut by("s")).unwrap();
    assert_eq!(
        lines(&report.kept_file),
        ["image,text,s,curate_score", "a.png,one,0.5,0.5"]
    );
    let dropped = lines(&report.dropped_file);
    assert_eq!(dropped[1], "b.png,,0.6,0.6,1,no text");
    assert_eq!(
        dropped[2],
        "c.png,three,0.125,0.125,2,score 0.125 is below 0.2"
    );
    for cut in [0, 4, bytes.len() / 2, bytes.len() - 9] {
        let source = write(folder.path(), "cut.parquet", &bytes[..cut]);
        assert!(Table::open(&source).is_err());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Any bytes: an error, or every row in exactly one of the two tables.
    #[test]
    fn no_row_is_lost(cells in prop::collection::vec("[a-z,\"\n\r{}0-9 .]{0,20}", 0..40), json: bool) {
        let folder = tempfile::tempdir().unwrap();
        let (name, head) = match json {
            true => ("t.jsonl", "{\"image\":\"a\",\"text\":\"b\"}\n"),
            false => ("t.csv", "image,text\n"),
        };
        let source = write(folder.path(), name, format!("{head}{}", cells.join("\n")));
        if let Ok(report) = run(&config(&source, "out", &["words>=2", "unique=text"]), &mut Scores::None) {
            let mut rows = 0;
            Table::open(&source).unwrap().each(|_| { rows += 1; Ok(()) }).unwrap();
            prop_assert_eq!(report.rows, rows);
            prop_assert_eq!(report.kept + report.dropped.values().sum::<u64>(), rows);
            let mut written = 0;
            for file in [&report.kept_file, &report.dropped_file] {
                if std::fs::metadata(file).unwrap().len() > 0 {
                    Table::open(file).unwrap().each(|_| { written += 1; Ok(()) }).unwrap();
                }
            }
            prop_assert_eq!(written, rows);
        }
    }
}
