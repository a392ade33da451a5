//! An index in a database: the same answers as from its folder, and what is said when something is wrong.

use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use chiasm_index::{Filter, GraphChoice, Identity, Index, Kind, Record, Search, Store, Writer};
use serde_json::{Value, json};

use crate::common::{chiasm, fail, run, succeed};
use crate::database::{Postgres, postgres, qdrant, skipped};
use crate::serve::{Server, index, trained};

fn push(dir: &Path, folder: &str, address: &str, more: &[&str]) -> Value {
    let args = ["index", "push", folder, "--to", address, "--json"];
    serde_json::from_str(&succeed(dir, &[&args, more].concat())).unwrap()
}

/// Ids and scores of the first search.
fn found(dir: &Path, place: &str, more: &[&str]) -> Vec<(String, f64)> {
    let args = ["search", place, "--json"];
    let said = succeed(dir, &[&args, more].concat());
    let said: Value = serde_json::from_str(&said).unwrap();
    let results = said[0]["results"].as_array().unwrap().iter();
    let one = |own: &Value| {
        let id = own["id"].as_str().unwrap().to_owned();
        (id, own["score"].as_f64().unwrap())
    };
    results.map(one).collect()
}

fn same(a: &[(String, f64)], b: &[(String, f64)], what: &str) {
    assert_eq!(a.len(), b.len(), "{what}");
    for ((a, score), (b, other)) in a.iter().zip(b) {
        assert!(
            a == b && (score - other).abs() < 1e-5,
            "{what}: {a} {score}, {b} {other}"
        );
    }
}

/// Everything that a folder is asked, asked of a database.
fn answers_as_its_folder(address: &str) {
    let dir = trained();
    let dir = dir.path();
    index(dir, &["--items", "both"]);
    let first = push(dir, "found.index", address, &[]);
    assert_eq!((&first["items"], &first["sent"]), (&json!(40), &json!(40)));
    assert!(!first["to"].as_str().unwrap().contains("secret"));
    let again = push(dir, "found.index", address, &[]);
    assert_eq!(
        (&again["sent"], &again["unchanged"]),
        (&json!(0), &json!(40))
    );
    for more in [
        &["red heart", "-n", "40"][..],
        &["red heart", "-n", "40", "--exact"],
        &["--like", "photos/3.png", "-n", "7"],
        &[
            "red heart",
            "-n",
            "9",
            "--filter",
            "split=val and kind=image",
        ],
        &[
            "red heart",
            "-n",
            "9",
            "--filter",
            "text~a, key!~\"5.\", split!=train",
        ],
        &[
            "red heart",
            "-n",
            "3",
            "--filter",
            "kind=image",
            "--rerank",
            "6",
        ],
        &["red heart", "--filter", "split=nowhere"],
    ] {
        let what = format!("{more:?}");
        same(
            &found(dir, "found.index", more),
            &found(dir, address, more),
            &what,
        );
    }
    succeed(
        dir,
        &[
            "search",
            address,
            "--like",
            "photos/3.png",
            "--page",
            "found.html",
        ],
    );
    assert!(dir.join("found.html").exists());
    let bad = fail(dir, &["search", address, "x", "--filter", "split=="]);
    assert!(bad.contains("single `=`"), "{bad}");

    // Another model is refused in the same words.
    let other = ["--data", "pairs.csv", "--out", "other", "--seed", "5"];
    succeed(dir, &[&["pretrain", "tiny.toml"][..], &other].concat());
    let refused = |place: &str| {
        let said = fail(dir, &["search", place, "x", "--model", "other"]);
        said.replace(place, "PLACE")
    };
    let (mine, theirs) = (refused("found.index"), refused(address));
    assert!(
        mine.contains("was made by another model") && theirs.contains("was made by another model")
    );
    assert_eq!(mine.lines().last(), theirs.lines().last());
    let said = fail(dir, &["serve", "other", "--index", address, "--port", "0"]);
    assert!(said.contains("none of the server's models"), "{said}");

    served_as_its_folder(dir, address);

    // What the index loses or changes is lost or changed there too.
    let table = std::fs::read_to_string(dir.join("pairs.csv")).unwrap();
    let mut lines: Vec<&str> = table.lines().collect();
    lines[1] = "photos/0.png,something else,train";
    lines.pop();
    std::fs::write(dir.join("pairs.csv"), lines.join("\n")).unwrap();
    index(dir, &["--items", "both", "--prune"]);
    let third = push(dir, "found.index", address, &[]);
    assert_eq!(
        (&third["items"], &third["sent"], &third["removed"]),
        (&json!(38), &json!(2), &json!(2))
    );
    let more = ["x", "-n", "99"];
    let there = found(dir, address, &more);
    same(&found(dir, "found.index", &more), &there, "after a change");
    assert!(there.iter().all(|(id, _)| !id.starts_with("photos/19.png")));
}

fn served_as_its_folder(dir: &Path, address: &str) {
    let server = Server::start(dir, &["--index", address]);
    let folder = Server::start(dir, &["--index", "found.index"]);
    for body in [
        json!({"text": "red heart", "top": 5}),
        json!({"image": "item:photos/3.png", "top": 3}),
        json!({"text": "x", "filter": "split=train and kind=text", "top": 9}),
    ] {
        let ids = |server: &Server| -> Vec<Value> {
            let found = server.post("/v1/search", &body);
            found["results"]
                .as_array()
                .unwrap()
                .iter()
                .map(|own| own["id"].clone())
                .collect()
        };
        assert_eq!(ids(&server), ids(&folder), "{body}");
    }
    for path in [
        "/v1/index",
        "/v1/items?offset=3&limit=4",
        "/v1/items?offset=38&limit=9",
        "/v1/items?offset=99",
        "/v1/items/photos%2F3.png",
        "/v1/items/photos%2F3.png/thumbnail?side=8",
        "/v1/items/nothing",
    ] {
        let (mine, theirs) = (
            server.ask("GET", path, "", ""),
            folder.ask("GET", path, "", ""),
        );
        assert_eq!(mine, theirs, "{path}");
    }
    assert_eq!(server.ask("POST", "/v1/admin/reload", "", "").0, 200);
}

#[test]
fn an_index_in_postgres_answers_as_its_folder() {
    let Some(server) = postgres() else { return };
    answers_as_its_folder(&server.table("answers"));
}

#[test]
fn an_index_in_qdrant_answers_as_its_folder() {
    let Some(address) = qdrant("chiasm-test-answers") else {
        return;
    };
    answers_as_its_folder(&address);
}

fn identity(width: usize, fingerprint: &str) -> Identity {
    Identity {
        model: "nowhere".to_owned(),
        fingerprint: fingerprint.to_owned(),
        width,
    }
}

/// Numbers from -1 to 1 that are the same in every run.
fn numbers(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// An index of records with odd values.
fn made(folder: &Path, rows: usize, width: usize) -> Index {
    let mut writer = Index::create(folder, identity(width, "f")).unwrap();
    for row in 0..rows {
        writer
            .upsert(&record(row), &numbers(row as u64 / 2, width))
            .unwrap();
    }
    writer.finish(GraphChoice::None).unwrap()
}

fn record(row: usize) -> Record {
    let metadata = json!({
        "split": (["train", "val", "Test"][row % 3]),
        "year": 2000 + row % 30,
        "share": row as f64 / 100.0,
        "day": format!("20{:02}-{:02}-01", row % 25, row % 12 + 1),
        "labels": (!row.is_multiple_of(4)).then(|| json!(["Cat", ["dog", row % 5], null])),
        "large": 9_007_199_254_740_990_u64 + row as u64 % 7,
        "mixed": if row.is_multiple_of(2) { json!(row) } else { json!(format!("{row} pieces")) },
        "word": (["1e999", "-0", "0", ".5", "inf", "0x1"][row % 6]),
        "deep": {"a": row % 2},
        "good": row.is_multiple_of(2),
        "it's \"x\".y[0]": row % 3,
        "text": "hidden by the record's own",
    });
    Record {
        key: format!("a/{row}.jpg"),
        kind: [Kind::Image, Kind::Text, Kind::Clip][row % 3],
        text: [
            "Ein Größerer Hund, rot",
            "ΣΊΣΥΦΟΣ and 100% of_it",
            "",
            "a\u{0}b İstanbul \\ 'quoted'",
            "line\nbreak 🦀",
        ][row % 5]
            .to_owned(),
        source: (row.is_multiple_of(2)).then(|| format!("{row}.jpg")),
        digest: row.to_string(),
        metadata: metadata.as_object().unwrap().clone(),
    }
}

const FILTERS: [&str; 58] = [
    "split=train",
    "split!=train",
    "split=test",
    "split>Test",
    "split<=train",
    "year=2007",
    "year=2007.0",
    "year!=2007",
    "year>=2020 and year<2025",
    "year>2",
    "year~01",
    "share=0.5",
    "share<.25",
    "share>1e0",
    "share!=0.5",
    "day>=2010-02-01 and day<2012",
    "day=2010-11-01",
    "labels=dog",
    "labels=3",
    "labels!=3",
    "labels~CAT",
    "labels!~cat",
    "labels<b",
    "labels>=3",
    "large=9007199254740993",
    "large>9007199254740993",
    "large<=9007199254740992",
    "large!=9007199254740991",
    "mixed=10",
    "mixed>5",
    "mixed<5",
    "mixed~pieces",
    "mixed>=\"3 pieces\"",
    "word=0",
    "word<1",
    "word=1e999",
    "word>=inf",
    "word=\"\"",
    "deep={\"a\":1}",
    "deep~a",
    "good=true",
    "good!=false",
    "\u{69}t's=x",
    "missing=1",
    "missing!=1",
    "missing!~x",
    "missing<1",
    "kind=text",
    "kind!=text, kind>clip",
    "text~GRÖßer",
    "text~σίσυφος",
    "text~i̇stanbul",
    "text~\"100% of_\"",
    "text!~\"hund, \"",
    "text=\"\"",
    "source~2",
    "source!=4.jpg",
    "key>=\"a/3\" and key~7",
];

/// Every operator on every kind of value, exactly and approximately.
fn filters_mean_the_same(address: &str) {
    let dir = tempfile::tempdir().unwrap();
    let index = made(&dir.path().join("i"), 120, 8);
    push(dir.path(), "i", address, &["--graph", "always"]);
    let store = chiasm_remote::open(&address.parse().unwrap()).unwrap();
    let queries = numbers(77, 16);
    for filter in FILTERS {
        // Braces and quotes are no trouble to whoever types them in quotes.
        let typed = filter.replace("{\"a\":1}", "\"{\\\"a\\\":1}\"");
        let filter: Filter = typed
            .parse()
            .unwrap_or_else(|error| panic!("{filter}: {error}"));
        for (top, exact) in [(200, true), (200, false), (5, true), (5, false)] {
            let search = Search {
                filter: Some(&filter),
                exact,
                ..Search::top(top)
            };
            let mine = Store::find(&index, &queries, &search).unwrap();
            let theirs = store.find(&queries, &search).unwrap();
            for (mine, theirs) in mine.iter().zip(&theirs) {
                let records = |found: &[chiasm_index::Found]| -> Vec<Record> {
                    found.iter().map(|found| found.record.clone()).collect()
                };
                let (a, b) = (records(mine), records(theirs));
                let keys = |own: &[Record]| -> Vec<String> {
                    own.iter().map(|record| record.key.clone()).collect()
                };
                assert_eq!(keys(&a), keys(&b), "{filter} top {top} exact {exact}");
                assert_eq!(a, b);
                for (a, b) in mine.iter().zip(theirs) {
                    assert!((a.score - b.score).abs() < 1e-5);
                }
            }
        }
    }
    assert_eq!(
        Store::page(&index, 100, 50).unwrap(),
        store.page(100, 50).unwrap()
    );
    assert_eq!(store.get("a/3.jpg").unwrap(), Some(record(3)));
    assert_eq!(store.get("a/3").unwrap(), None);
}

#[test]
fn filters_mean_the_same_in_postgres() {
    let Some(server) = postgres() else { return };
    filters_mean_the_same(&server.table("filters"));
}

#[test]
fn filters_mean_the_same_in_qdrant() {
    let Some(address) = qdrant("chiasm-test-filters") else {
        return;
    };
    filters_mean_the_same(&address);
}

/// Lets a connection to a server through until so many bytes were sent, then cuts it.
fn cut_after(server: &Postgres, folder: &Path, bytes: usize) -> String {
    let listener = UnixListener::bind(folder.join(".s.PGSQL.5432")).unwrap();
    let upstream = Path::new(server.socket()).join(".s.PGSQL.5432");
    std::thread::spawn(move || {
        let (mut here, _) = listener.accept().unwrap();
        let mut there = UnixStream::connect(upstream).unwrap();
        let (mut back, mut to) = (there.try_clone().unwrap(), here.try_clone().unwrap());
        std::thread::spawn(move || std::io::copy(&mut back, &mut to));
        let (mut left, mut buffer) = (bytes, [0; 4096]);
        while let Ok(read @ 1..) = here.read(&mut buffer) {
            there.write_all(&buffer[..read]).unwrap();
            left = left.saturating_sub(read);
            if left == 0 {
                break;
            }
        }
        let _ = here.shutdown(std::net::Shutdown::Both);
        let _ = there.shutdown(std::net::Shutdown::Both);
    });
    folder.display().to_string()
}

#[test]
fn a_push_that_is_cut_goes_on() {
    let Some(server) = postgres() else { return };
    if !server.is_own {
        skipped("a connection to a server that is not the test's own is not cut");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    made(&dir.join("i"), 4500, 32);
    let socket = tempfile::tempdir().unwrap();
    // A batch of a thousand records has somewhat over 1 MB here.
    let through = cut_after(server, socket.path(), 3_500_000);
    let address = server.table("cut");
    let cut = address.replace(server.socket(), &through);
    let said = fail(dir, &["index", "push", "i", "--to", &cut]);
    assert!(
        said.contains("lost the connection") && said.contains("goes on"),
        "{said}"
    );
    // What there is can be searched, and says that it is not all.
    let store = chiasm_remote::open(&address.parse().unwrap()).unwrap();
    assert!(store.notice().unwrap().contains("not ended"));
    let done = push(dir, "i", &address, &[]);
    let unchanged = done["unchanged"].as_u64().unwrap();
    assert!((1000..4000).contains(&unchanged), "{done}");
    assert_eq!(done["items"], 4500);
    assert!(store.reopen().unwrap().notice().is_none());
    let query = numbers(5, 32);
    let index = Index::open(&dir.join("i")).unwrap();
    let mine = Store::find(&index, &query, &Search::top(50)).unwrap();
    assert_eq!(
        mine[0].len(),
        store.find(&query, &Search::top(50)).unwrap()[0].len()
    );
}

#[test]
fn what_is_wrong_with_an_address_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    made(&dir.join("i"), 3, 4);
    for (address, said) in [
        ("nowhere", "has no `postgres://`"),
        (
            "mysql://me:secret@h/d",
            "no database of the kind `mysql://`",
        ),
        ("postgres://me:secret@localhost/d", "names no table"),
        (
            "postgres://me:secret@localhost:1/d?table=t&connect_timeout=5",
            "cannot reach",
        ),
        ("postgres:///d?table=t&host=/nowhere", "cannot reach"),
        ("qdrant://127.0.0.1:1/c", "cannot reach"),
        ("qdrant://localhost", "names no collection"),
    ] {
        let error = fail(dir, &["index", "push", "i", "--to", address]);
        assert!(
            error.contains(said) && error.contains("hint: "),
            "{address}: {error}"
        );
        assert!(!error.contains("secret"), "{error}");
        if address != "nowhere" {
            for args in [
                &["search", address, "x"][..],
                &["serve", "--index", address],
            ] {
                let error = fail(dir, args);
                assert!(error.contains(said) && !error.contains("secret"), "{error}");
            }
        }
    }
    // Something that listens and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let address = format!("postgres://me@127.0.0.1:{port}/d?table=t&connect_timeout=1");
    assert!(fail(dir, &["search", &address, "x"]).contains("no answer within 1 s"));
    assert!(fail(dir, &["index", "push", "none", "--to", "qdrant://h/c"]).contains("is no index"));
    // Building an index still asks for what it needs.
    let output = run(dir, &["index", "pairs.csv"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--model"));
}

#[test]
fn what_postgres_refuses_is_said() {
    let Some(server) = postgres() else { return };
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    made(&dir.join("i"), 12, 4);
    let refused = |address: &str, folder: &str, said: &str| {
        let error = fail(dir, &["index", "push", folder, "--to", address]);
        assert!(
            error.contains(said) && error.contains("hint: "),
            "{address}: {error}"
        );
        assert!(!error.contains("secret"), "{error}");
        error
    };
    let missing = fail(dir, &["search", &server.table("never_pushed"), "x"]);
    assert!(missing.contains("has no index") && missing.contains("chiasm index push"));
    server.run("drop table if exists strange; create table strange (a integer)");
    refused(&server.table("strange"), "i", "is no index of chiasm");
    fail(dir, &["search", &server.table("strange"), "x"]);
    refused(&server.table("nowhere.t"), "i", "is not there");

    // Another model, and how to go on.
    let table = server.table("models");
    push(dir, "i", &table, &[]);
    let mut writer = Index::create(&dir.join("j"), identity(4, "g")).unwrap();
    writer.upsert(&record(1), &[1.0; 4]).unwrap();
    writer.finish(GraphChoice::None).unwrap();
    let store = chiasm_remote::open(&table.parse().unwrap()).unwrap();
    assert!(refused(&table, "j", "vectors of another model").contains("--replace"));
    assert_eq!(push(dir, "j", &table, &["--replace"])["items"], 1);
    let error = store
        .find(&[1.0; 4], &Search::top(3))
        .unwrap_err()
        .to_string();
    assert!(error.contains("was replaced"), "{error}");
    assert!(store.reopen().is_err());
    server.run("update models_about set format = 9");
    refused(&table, "j", "has format 9");

    if !server.is_own {
        skipped("users and databases of a server that is not the test's own");
        return;
    }
    let host = format!("&host={}", server.socket());
    let as_user =
        |user: &str, database: &str| format!("postgres://{user}@/{database}?table=t{host}");
    let said = refused(
        &as_user("locked:secret", "postgres"),
        "i",
        "refuses the user",
    );
    assert!(said.contains("PGPASSWORD"), "{said}");
    let mut command = chiasm(
        dir,
        &["index", "push", "i", "--to", &as_user("locked", "postgres")],
    );
    let output = command.env("PGPASSWORD", "right").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("does not allow it"), "{said}");
    refused(&as_user("postgres", "nowhere"), "i", "is not there");
    server.run("create role plain login");
    server.run("create database bare");
    refused(&as_user("plain", "bare"), "i", "has no pgvector");

    // Two at a time.
    let busy = server.table("busy");
    let lock =
        "select pg_advisory_lock(hashtextextended('chiasm \"busy\"', 0)); select pg_sleep(4)";
    std::thread::scope(|scope| {
        scope.spawn(|| server.run(lock));
        std::thread::sleep(std::time::Duration::from_millis(1000));
        refused(&busy, "i", "another process pushes");
    });
}

/// Widths that pgvector indexes whole, by half, and not at all.
#[test]
fn wide_vectors_are_searched_too() {
    let Some(server) = postgres() else { return };
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    for (width, is_noted) in [(2000, false), (2100, false), (4100, true)] {
        let folder = format!("i{width}");
        let index = made(&dir.join(&folder), 60, width);
        let address = server.table(&format!("wide{width}"));
        let args = [
            "index", "push", &folder, "--to", &address, "--graph", "always",
        ];
        let output = run(dir, &args);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        // Before 0.7 pgvector has no half vectors.
        if width != 2100 {
            assert_eq!(said.contains("builds no index"), is_noted, "{said}");
        }
        let store = chiasm_remote::open(&address.parse().unwrap()).unwrap();
        let query = numbers(123, width);
        let keys = |found: Vec<Vec<chiasm_index::Found>>| -> Vec<String> {
            let found = found.into_iter().flatten();
            found.map(|found| found.record.key).collect()
        };
        let search = Search::top(10);
        let mine = keys(Store::find(&index, &query, &search).unwrap());
        assert_eq!(keys(store.find(&query, &search).unwrap()), mine, "{width}");
    }
    let mut writer = Index::create(&dir.join("wider"), identity(16_001, "f")).unwrap();
    writer.upsert(&record(1), &[1.0; 16_001]).unwrap();
    writer.finish(GraphChoice::None).unwrap();
    let said = fail(
        dir,
        &["index", "push", "wider", "--to", &server.table("wider")],
    );
    assert!(said.contains("at most 16000 numbers"), "{said}");
}

/// What was pushed, changed in its folder and pushed again is what the folder has.
#[test]
fn a_second_push_follows_the_folder() {
    let Some(server) = postgres() else { return };
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    made(&dir.join("i"), 1500, 16);
    let address = server.table("follows");
    push(dir, "i", &address, &["--graph", "always"]);
    let mut writer = Writer::open(&dir.join("i"), &identity(16, "f")).unwrap();
    for row in 0..1500 {
        match row % 10 {
            0..=6 => assert!(writer.remove(&format!("a/{row}.jpg")).unwrap()),
            7 => writer
                .upsert(&record(row), &numbers(9000 + row as u64, 16))
                .unwrap(),
            _ => {}
        }
    }
    // More is removed than kept, so that rows get new numbers.
    let index = writer.finish(GraphChoice::None).unwrap();
    let done = push(dir, "i", &address, &[]);
    assert_eq!(
        (&done["items"], &done["removed"]),
        (&json!(450), &json!(1050))
    );
    assert_eq!(done["graph"], true);
    let store = chiasm_remote::open(&address.parse().unwrap()).unwrap();
    assert_eq!(
        store.page(0, 1000).unwrap(),
        Store::page(&index, 0, 1000).unwrap()
    );
    let query = numbers(1, 16);
    for exact in [true, false] {
        let search = Search {
            exact,
            ..Search::top(20)
        };
        assert_eq!(
            store.find(&query, &search).unwrap()[0]
                .iter()
                .map(|own| &own.record)
                .collect::<Vec<_>>(),
            Store::find(&index, &query, &search).unwrap()[0]
                .iter()
                .map(|own| &own.record)
                .collect::<Vec<_>>()
        );
    }
    assert_eq!(
        push(dir, "i", &address, &["--graph", "never"])["graph"],
        false
    );
}
