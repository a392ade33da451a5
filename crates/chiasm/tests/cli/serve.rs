//! An index from the command line, and a server on it, asked over HTTP.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::common::{TINY, chiasm, fail, succeed, with_column, workspace};

/// A workspace with a trained run.
pub(crate) fn trained() -> tempfile::TempDir {
    let (dir, _) = workspace(20);
    succeed(
        dir.path(),
        &[
            "pretrain",
            "tiny.toml",
            "--data",
            "pairs.csv",
            "--out",
            "run",
        ],
    );
    dir
}

pub(crate) fn index(dir: &Path, more: &[&str]) -> Value {
    let args = [
        "index",
        "pairs.csv",
        "--model",
        "run",
        "--out",
        "found.index",
        "--json",
    ];
    serde_json::from_str(&succeed(dir, &[&args, more].concat())).unwrap()
}

#[test]
fn an_index_grows_with_its_data_and_is_searched() {
    let dir = trained();
    let dir = dir.path();
    let first = index(dir, &[]);
    assert_eq!((&first["items"], &first["added"]), (&json!(20), &json!(20)));
    let again = index(dir, &[]);
    assert_eq!(
        (&again["added"], &again["unchanged"]),
        (&json!(0), &json!(20))
    );
    let table = std::fs::read_to_string(dir.join("pairs.csv")).unwrap();
    let mut lines: Vec<&str> = table.lines().collect();
    let other = "photos/0.png,something else,train";
    lines[1] = other;
    lines.pop();
    std::fs::write(dir.join("pairs.csv"), lines.join("\n")).unwrap();
    let changed = index(dir, &["--prune"]);
    assert_eq!(
        (&changed["added"], &changed["removed"], &changed["items"]),
        (&json!(1), &json!(1), &json!(19))
    );
    let search = |more: &[&str]| -> Value {
        let args = ["search", "found.index", "--json"];
        serde_json::from_str(&succeed(dir, &[&args, more].concat())).unwrap()
    };
    let found = search(&["--like", "photos/3.png", "-n", "30"]);
    assert_eq!(found[0]["results"].as_array().unwrap().len(), 19);
    assert!(
        found[0]["results"][0]["path"]
            .as_str()
            .unwrap()
            .ends_with("3.png")
    );
    let found = search(&["something", "--filter", "split=val", "-n", "30"]);
    assert_eq!(found[0]["results"].as_array().unwrap().len(), 4);
    let found = search(&[
        "something",
        "--rerank",
        "5",
        "-n",
        "2",
        "--page",
        "found.html",
    ]);
    assert_eq!(found[0]["results"].as_array().unwrap().len(), 2);
    assert!(dir.join("found.html").exists());
    let both = index(dir, &["--items", "both"]);
    assert_eq!(both["items"], 38);
    assert!(fail(dir, &["search", "found.index", "x", "--filter", "split=="]).contains("hint"));
    assert!(fail(dir, &["search", "run", "x", "--filter", "split=val"]).contains("no index"));
}

#[test]
fn an_index_of_another_model_or_half_written_is_refused() {
    let dir = trained();
    let dir = dir.path();
    index(dir, &[]);
    succeed(
        dir,
        &[
            "pretrain",
            "tiny.toml",
            "--data",
            "pairs.csv",
            "--out",
            "other",
            "--seed",
            "5",
        ],
    );
    for args in [
        &["search", "found.index", "x", "--model", "other"][..],
        &["serve", "other", "--index", "found.index", "--port", "0"],
        &[
            "index",
            "pairs.csv",
            "--model",
            "other",
            "--out",
            "found.index",
        ],
    ] {
        assert!(fail(dir, args).contains("hint"), "{args:?}");
    }
    let manifest = std::fs::read(dir.join("found.index/index.json")).unwrap();
    std::fs::write(
        dir.join("found.index/index.json"),
        &manifest[..manifest.len() / 2],
    )
    .unwrap();
    fail(dir, &["search", "found.index", "x"]);
    fail(dir, &["serve", "--index", "found.index", "--port", "0"]);
}

/// A server that runs until it is dropped.
pub(crate) struct Server {
    process: Child,
    address: String,
}

impl Server {
    pub(crate) fn start(dir: &Path, args: &[&str]) -> Self {
        let args = [&["serve", "--port", "0", "--json"], args].concat();
        let mut command = chiasm(dir, &args);
        let mut process = command
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let said: Value = serde_json::from_str(&line).unwrap();
        let address = said["address"]
            .as_str()
            .unwrap()
            .trim_start_matches("http://")
            .to_owned();
        Self { process, address }
    }

    /// Status and body of an answer.
    pub(crate) fn ask(
        &self,
        method: &str,
        path: &str,
        headers: &str,
        body: &str,
    ) -> (u16, Vec<u8>) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let length = body.len();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\ncontent-type: application/json\r\n\
             content-length: {length}\r\n{headers}\r\n{body}",
            self.address
        )
        .unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let end = answer
            .windows(4)
            .position(|four| four == b"\r\n\r\n")
            .unwrap();
        let status = std::str::from_utf8(&answer[9..12])
            .unwrap()
            .parse()
            .unwrap();
        (status, answer[end + 4..].to_vec())
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Value {
        let (status, answer) = self.ask("POST", path, "", &body.to_string());
        let value = serde_json::from_slice(&answer).unwrap();
        assert_eq!(status, 200, "{path}: {value}");
        value
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn a_server_answers_for_a_run_and_its_index() {
    let dir = trained();
    let dir = dir.path();
    index(dir, &[]);
    let server = Server::start(dir, &["--index", "found.index"]);
    let (status, page) = server.ask("GET", "/", "", "");
    assert!(
        status == 200 && page.starts_with(b"<!doctype html>"),
        "{status}"
    );
    let about: Value = serde_json::from_slice(&server.ask("GET", "/v1/models", "", "").1).unwrap();
    assert_eq!(about["data"][0]["id"], "run");
    let found = server.post(
        "/v1/search",
        &json!({"image": "item:photos/3.png", "top": 3}),
    );
    assert_eq!(found["results"][0]["id"], "photos/3.png");
    let image = "item:photos/3.png";
    let matched = server.post("/v1/match", &json!({"image": image, "texts": ["a", "b c"]}));
    assert!(matched["scores"][1]["probability"].is_number());
    let explained = server.post(
        "/v1/explain",
        &json!({"image": image, "text": "red heart", "select": "prob_abs=0.05"}),
    );
    let places = explained["places"]["rows"].as_u64().unwrap().pow(2) as usize;
    assert_eq!(explained["whole"].as_array().unwrap().len(), places);
    assert_eq!(explained["words"].as_array().unwrap().len(), 2);
    assert!(explained["selected"]["kept"].is_array());
    let grounded = server.post("/v1/ground", &json!({"image": image, "phrase": "heart"}));
    assert_eq!(grounded["by"], "map");
    let (status, _) = server.ask(
        "POST",
        "/v1/vqa",
        "",
        &json!({"image": image, "question": "a"}).to_string(),
    );
    assert_eq!(status, 400);
}

/// What an embedding is does not depend on what it was computed with, to the bit.
#[test]
fn an_embedding_does_not_know_its_neighbours() {
    let dir = trained();
    let dir = dir.path();
    index(dir, &[]);
    let server = Server::start(dir, &["--index", "found.index"]);
    let embed = |input: &[Value]| -> Vec<Value> {
        let answer = server.post(
            "/v1/embeddings",
            &json!({"input": input, "encoding_format": "base64"}),
        );
        answer["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(|own| own["embedding"].clone())
            .collect()
    };
    let texts =
        ["a", "red heart", "the face of a cat that smiles", "x y z"].map(|text| json!(text));
    let pictures: Vec<Value> = (0..20)
        .map(|number| json!({"image": format!("item:photos/{number}.png")}))
        .collect();
    for items in [&texts[..], &pictures[..], &pictures[..7]] {
        let together = embed(items);
        for (item, vector) in items.iter().zip(&together) {
            assert_eq!(embed(std::slice::from_ref(item))[0], *vector, "{item}");
        }
    }
}

#[test]
fn others_need_a_key() {
    let dir = trained();
    let dir = dir.path();
    assert!(fail(dir, &["serve", "run", "--host", "0.0.0.0"]).contains("--allow-remote"));
    assert!(fail(dir, &["serve", "run", "--allow-remote"]).contains("--new-key"));
    assert!(fail(dir, &["serve", "run", "--keys", "none.json"]).contains("none.json"));
    assert!(fail(dir, &["serve", "nowhere"]).contains("nowhere"));
    let key = succeed(dir, &["serve", "--keys", "keys.json", "--new-key", "me"]);
    let key = key.trim();
    assert!(
        !std::fs::read_to_string(dir.join("keys.json"))
            .unwrap()
            .contains(key)
    );
    let server = Server::start(dir, &["run", "--keys", "keys.json"]);
    assert_eq!(server.ask("GET", "/v1/models", "", "").0, 401);
    let header = format!("authorization: Bearer {key}\r\n");
    assert_eq!(server.ask("GET", "/v1/models", &header, "").0, 200);
    assert_eq!(server.ask("GET", "/metrics", &header, "").0, 403);
}

/// SIGTERM ends it with success.
#[cfg(unix)]
#[test]
fn a_server_ends_when_it_is_told() {
    let dir = trained();
    let mut server = Server::start(dir.path(), &["run"]);
    let told = std::process::Command::new("kill")
        .args(["-TERM", &server.process.id().to_string()])
        .status();
    assert!(told.unwrap().success());
    assert!(server.process.wait().unwrap().success());
}

/// A model with classes answers, and a relation model says how a text relates; two models share a server.
#[test]
fn models_with_classes_answer() {
    let (dir, _) = workspace(60);
    let dir = dir.path();
    with_column(dir, "labelled.csv", "label", |number| {
        ["thing", "person"][number % 2]
    });
    let heads = TINY.split("[objectives.contrastive]").next().unwrap();
    let rest = TINY.split("[schedule]").nth(1).unwrap();
    let classes =
        format!("{heads}[objectives.classification]\nclasses = \"labels\"\n[schedule]{rest}");
    std::fs::write(dir.join("classes.toml"), classes).unwrap();
    succeed(
        dir,
        &[
            "pretrain",
            "tiny.toml",
            "--data",
            "pairs.csv",
            "--out",
            "run",
        ],
    );
    succeed(
        dir,
        &[
            "pretrain",
            "classes.toml",
            "--data",
            "labelled.csv",
            "--out",
            "classes",
        ],
    );
    let probe = ["--out", "relation.json", "--precision", "0.1"];
    succeed(
        dir,
        &[&["probe", "run", "--data", "labelled.csv"], &probe[..]].concat(),
    );
    let server = Server::start(dir, &["run", "asks=classes", "--relation", "relation.json"]);
    let picture = std::fs::read(dir.join("photos/0.png")).unwrap();
    let image = format!("data:image/png;base64,{}", STANDARD.encode(picture));
    // Whoever can is asked where nobody is named.
    let answer = server.post(
        "/v1/vqa",
        &json!({"image": image, "question": "what is it?", "top": 2}),
    );
    assert_eq!(
        (
            &answer["model"],
            answer["answers"].as_array().unwrap().len()
        ),
        (&json!("asks"), 2)
    );
    let sum: f64 = (0..2)
        .map(|place| answer["answers"][place]["probability"].as_f64().unwrap())
        .sum();
    assert!((sum - 1.0).abs() < 1e-5);
    let said = server.post("/v1/relation", &json!({"image": image, "text": "a thing"}));
    assert_eq!(said["probabilities"].as_array().unwrap().len(), 2);
    let why = json!({"model": "asks", "image": image, "text": "a thing", "target": "class=person"});
    assert_eq!(server.post("/v1/explain", &why)["target"], "class");
    let (status, _) = server.ask(
        "POST",
        "/v1/vqa",
        "",
        &json!({"model": "run", "image": image, "question": "a"}).to_string(),
    );
    assert_eq!(status, 400);
}
