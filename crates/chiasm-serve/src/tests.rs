//! The whole router on a model that is none: what every path answers, also to those who mean no good.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chiasm_data::{Rgb, thumbnail};
use chiasm_index::{GraphChoice, Identity, Index, Kind, Record};
use serde_json::{Value, json};
use tower::ServiceExt as _;

use crate::*;

/// Numbers of the fake's vectors.
const WIDTH: usize = 4;

/// A model whose vectors say what they are of, and which waits where a test holds it.
struct Fake {
    gate: Option<Mutex<Receiver<()>>>,
    entered: Option<Mutex<Sender<usize>>>,
    abilities: Vec<Ability>,
}

impl Default for Fake {
    fn default() -> Self {
        Self {
            gate: None,
            entered: None,
            abilities: vec![
                Ability::EmbedText,
                Ability::EmbedImage,
                Ability::Match,
                Ability::Answer,
                Ability::Relation,
                Ability::Ground,
                Ability::Explain,
            ],
        }
    }
}

impl Fake {
    fn wait(&self, items: usize) {
        if let Some(entered) = &self.entered {
            let _ = entered.lock().unwrap().send(items);
        }
        if let Some(gate) = &self.gate {
            let _ = gate.lock().unwrap().recv();
        }
    }
}

fn unit(value: f32) -> Vec<f32> {
    let norm = (1.0 + value * value).sqrt();
    vec![1.0 / norm, value / norm, 0.0, 0.0]
}

impl Engine for Fake {
    fn card(&self) -> Card {
        Card {
            id: "fake".to_owned(),
            fingerprint: "f00d".to_owned(),
            dimensions: WIDTH,
            abilities: self.abilities.clone(),
            methods: vec!["attention".to_owned()],
            classes: Some(2),
        }
    }

    fn tokens(&self, text: &str) -> usize {
        text.split_whitespace().count() + 2
    }

    fn picture_tokens(&self) -> usize {
        5
    }

    fn embed_texts(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, EngineError> {
        self.wait(texts.len());
        assert!(!texts.contains(&"panic"), "asked to");
        Ok(texts.iter().map(|text| unit(text.len() as f32)).collect())
    }

    fn embed_pictures(&self, pictures: &[Arc<Rgb>]) -> Result<Vec<Vec<f32>>, EngineError> {
        self.wait(pictures.len());
        Ok(pictures
            .iter()
            .map(|picture| unit(-(picture.width as f32)))
            .collect())
    }

    fn compare(&self, _: &Arc<Rgb>, texts: &[String]) -> Result<Vec<Alike>, EngineError> {
        self.wait(texts.len());
        let alike = |text: &String| Alike {
            cosine: Some(0.5),
            probability: Some(text.len() as f32 / 100.0),
        };
        Ok(texts.iter().map(alike).collect())
    }

    fn answer(&self, _: &Arc<Rgb>, _: &str, top: usize) -> Result<Vec<Named>, EngineError> {
        let named = |(class, probability): (&str, f64)| Named {
            class: class.to_owned(),
            probability,
        };
        Ok([("yes", 0.75), ("no", 0.25)]
            .into_iter()
            .map(named)
            .take(top)
            .collect())
    }

    fn relate(&self, _: &Arc<Rgb>, _: &str) -> Result<Relation, EngineError> {
        Err(EngineError::Request("not today".to_owned()))
    }

    fn ground(&self, _: &Arc<Rgb>, _: &str, _: usize) -> Result<Grounded, EngineError> {
        let place = [0.0, 0.25, 0.5, 0.5];
        Ok(Grounded {
            by: "map",
            boxes: vec![Found { place, score: 1.0 }],
        })
    }

    fn explain(&self, _: &Arc<Rgb>, text: &str, _: &Question) -> Result<Explanation, EngineError> {
        Ok(Explanation {
            method: "attention".to_owned(),
            target: "match".to_owned(),
            score: 1.0,
            places: Places::Grid {
                rows: 1,
                columns: 2,
                window: [0.0, 0.0, 1.0, 1.0],
            },
            whole: vec![0.25, 0.75],
            words: vec![Word {
                text: text.to_owned(),
                start: 0,
                end: text.len(),
                weight: None,
                map: None,
            }],
            selected: None,
        })
    }
}

fn parts(engine: Fake) -> Parts {
    let queue = ModelQueue::start(Arc::new(engine), QueueConfig::default()).unwrap();
    Parts {
        config: Config::default(),
        models: vec![Arc::new(queue)],
        index: None,
        keys: None,
        log: Box::new(|_| {}),
    }
}

fn router(parts: Parts) -> Router {
    app::router(Arc::new(app::App::new(parts).unwrap()))
}

fn server() -> Router {
    router(parts(Fake::default()))
}

fn post(path: &str, body: impl Into<Body>) -> Request<Body> {
    Request::post(path)
        .header("content-type", "application/json")
        .header("host", "localhost:8080")
        .body(body.into())
        .unwrap()
}

fn get(path: &str) -> Request<Body> {
    Request::get(path)
        .header("host", "127.0.0.1")
        .body(Body::empty())
        .unwrap()
}

async fn answer(router: &Router, request: Request<Body>) -> (StatusCode, Value) {
    let response = router.clone().oneshot(request).await.unwrap();
    let status = response.status();
    let bytes = to_bytes(response.into_body(), 1 << 24).await.unwrap();
    let value = serde_json::from_slice(&bytes)
        .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
    (status, value)
}

async fn ask(router: &Router, path: &str, body: Value) -> (StatusCode, Value) {
    answer(router, post(path, body.to_string())).await
}

fn picture(width: usize) -> String {
    let png = thumbnail::png(&Rgb::new(width, 2, vec![9; width * 6]).unwrap()).unwrap();
    format!("data:image/png;base64,{}", STANDARD.encode(png))
}

#[tokio::test]
async fn embeddings_keep_their_order_and_are_written_in_two_ways() {
    let server = server();
    let input = json!([{"image": picture(3)}, "a cat", {"text": "dogs"}, {"image": picture(7)}]);
    let (status, numbers) = ask(&server, "/v1/embeddings", json!({"input": input})).await;
    assert_eq!(status, StatusCode::OK, "{numbers}");
    for (place, value) in [-3.0, 5.0, 4.0, -7.0].into_iter().enumerate() {
        assert_eq!(numbers["data"][place]["index"], place);
        let found: Vec<f32> =
            serde_json::from_value(numbers["data"][place]["embedding"].clone()).unwrap();
        assert_eq!(found, unit(value));
    }
    assert_eq!(numbers["usage"]["prompt_tokens"], 5 + 4 + 3 + 5);
    let request =
        json!({"input": "a cat", "model": "fake", "encoding_format": "base64", "user": "x"});
    let (_, coded) = ask(&server, "/v1/embeddings", request).await;
    let bytes = STANDARD
        .decode(coded["data"][0]["embedding"].as_str().unwrap())
        .unwrap();
    let values: Vec<f32> = bytes
        .as_chunks()
        .0
        .iter()
        .map(|own| f32::from_le_bytes(*own))
        .collect();
    assert_eq!(values, unit(5.0));
}

#[tokio::test]
async fn pairs_are_answered() {
    let server = server();
    let image = picture(3);
    let (_, found) = ask(
        &server,
        "/v1/match",
        json!({"image": image, "texts": ["a", "bb"]}),
    )
    .await;
    assert_eq!(found["scores"][1]["text"], "bb");
    let (_, found) = ask(
        &server,
        "/v1/vqa",
        json!({"image": image, "question": "is it?", "top": 1}),
    )
    .await;
    assert_eq!(
        found["answers"],
        json!([{"answer": "yes", "probability": 0.75}])
    );
    let (_, found) = ask(
        &server,
        "/v1/ground",
        json!({"image": image, "phrase": "it"}),
    )
    .await;
    assert_eq!(found["boxes"][0]["box"], json!([0.0, 0.25, 0.5, 0.5]));
    let (_, found) = ask(
        &server,
        "/v1/explain",
        json!({"image": image, "text": "it"}),
    )
    .await;
    assert_eq!(found["places"]["kind"], "grid");
    let (status, found) = ask(
        &server,
        "/v1/relation",
        json!({"image": image, "text": "it"}),
    )
    .await;
    assert_eq!(
        (status, &found["error"]["message"]),
        (StatusCode::BAD_REQUEST, &json!("not today"))
    );
}

#[tokio::test]
async fn what_is_fetched_comes_from_the_public_net() {
    let server = router(Parts {
        config: Config {
            fetch: Some(FetchConfig::default()),
            ..Config::default()
        },
        ..parts(Fake::default())
    });
    for image in ["https://localhost/a.png", "https://169.254.169.254/latest"] {
        let request = json!({"image": image, "texts": ["a"]});
        let (status, found) = ask(&server, "/v1/match", request).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        let message = found["error"]["message"].as_str().unwrap();
        assert!(message.contains("no public address"), "{message}");
    }
}

#[tokio::test]
async fn what_is_wrong_is_said_and_how_to_put_it_right() {
    let server = router(Parts {
        config: Config {
            max_body_bytes: 1 << 20,
            ..Config::default()
        },
        ..parts(Fake::default())
    });
    let zeros = format!(
        "data:image/jpeg;base64,{}",
        STANDARD.encode(vec![0_u8; 100_000])
    );
    let cases = [
        ("/v1/embeddings", json!({"input": []}), 400, "1 to"),
        (
            "/v1/embeddings",
            json!({"input": "a", "dimensions": 3}),
            400,
            "numbers",
        ),
        (
            "/v1/embeddings",
            json!({"input": "a", "model": "gpt"}),
            404,
            "fake",
        ),
        ("/v1/embeddings", json!({"input": 3}), 400, "takes"),
        ("/v1/embeddings", json!({"input": " "}), 400, "empty"),
        (
            "/v1/embeddings",
            json!({"input": "x".repeat(100_000)}),
            400,
            "bytes",
        ),
        (
            "/v1/embeddings",
            json!({"input": "x".repeat(2 << 20)}),
            413,
            "bytes",
        ),
        (
            "/v1/match",
            json!({"image": zeros, "texts": ["a"]}),
            400,
            "picture",
        ),
        (
            "/v1/match",
            json!({"image": "https://a.b/c.png", "texts": ["a"]}),
            400,
            "--fetch",
        ),
        (
            "/v1/match",
            json!({"image": "file:///etc/passwd", "texts": ["a"]}),
            400,
            "data URL",
        ),
        (
            "/v1/match",
            json!({"image": "item:../../etc/passwd", "texts": ["a"]}),
            404,
            "index",
        ),
        (
            "/v1/vqa",
            json!({"image": picture(3), "question": "a", "top": 0}),
            400,
            "write 1 to",
        ),
        (
            "/v1/explain",
            json!({"image": picture(3), "text": "a", "method": "magic"}),
            400,
            "attention",
        ),
        (
            "/v1/explain",
            json!({"image": picture(3), "text": "a", "select": "topk=3"}),
            400,
            "select",
        ),
        ("/v1/search", json!({"text": "a"}), 404, "chiasm index"),
        ("/v1/nothing", json!({}), 404, "openapi"),
        ("/health", json!({}), 405, "method"),
    ];
    for (path, body, status, says) in cases {
        let (found, value) = ask(&server, path, body.clone()).await;
        assert_eq!(found.as_u16(), status, "{path}: {value}");
        let message = value["error"]["message"].as_str().unwrap();
        assert!(message.contains(says), "{path}: {message}");
    }
    let (status, _) = answer(&server, post("/v1/embeddings", "{\"input\": ")).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    let (status, _) = answer(&server, post("/v1/embeddings", vec![b'{', 0xff, b'}'])).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    let mut plain = post("/v1/embeddings", "{}");
    plain
        .headers_mut()
        .insert("content-type", "text/plain".parse().unwrap());
    assert_eq!(
        answer(&server, plain).await.0,
        StatusCode::UNSUPPORTED_MEDIA_TYPE
    );
}

#[tokio::test]
async fn a_model_says_what_it_lacks() {
    let server = router(parts(Fake {
        abilities: vec![Ability::EmbedText],
        ..Fake::default()
    }));
    let image = picture(3);
    for (path, body) in [
        ("/v1/embeddings", json!({"input": [{"image": image}]})),
        ("/v1/embeddings", json!({"input": ["a", {"image": image}]})),
        ("/v1/match", json!({"image": image, "texts": ["a"]})),
        ("/v1/relation", json!({"image": image, "text": "a"})),
        ("/v1/ground", json!({"image": image, "phrase": "a"})),
        ("/v1/vqa", json!({"image": image, "question": "a"})),
        ("/v1/explain", json!({"image": image, "text": "a"})),
    ] {
        let (status, value) = ask(&server, path, body).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{path}: {value}");
        assert!(
            value["error"]["message"]
                .as_str()
                .unwrap()
                .contains("/v1/models")
        );
    }
}

#[tokio::test]
async fn keys_open_what_they_are_for() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys");
    let mut keys = Keys::default();
    let reader = keys.add("reader", Scope::Read, &file).unwrap();
    let admin = keys.add("admin", Scope::Admin, &file).unwrap();
    let server = router(Parts {
        keys: Some(Keys::read(&file).unwrap()),
        ..parts(Fake::default())
    });
    let with = |path: &str, key: &str| {
        let mut request = get(path);
        request
            .headers_mut()
            .insert("authorization", format!("Bearer {key}").parse().unwrap());
        request
    };
    for path in [
        "/",
        "/health",
        "/assets/main.js",
        "/assets/tasks/explain.js",
    ] {
        assert_eq!(answer(&server, get(path)).await.0, StatusCode::OK, "{path}");
    }
    for path in ["/v1/models", "/metrics", "/openapi.json"] {
        assert_eq!(
            answer(&server, get(path)).await.0,
            StatusCode::UNAUTHORIZED,
            "{path}"
        );
        assert_eq!(
            answer(&server, with(path, "chiasm-guess")).await.0,
            StatusCode::UNAUTHORIZED
        );
        assert_eq!(
            answer(&server, with(path, &admin)).await.0,
            StatusCode::OK,
            "{path}"
        );
    }
    assert_eq!(
        answer(&server, with("/v1/models", &reader)).await.0,
        StatusCode::OK
    );
    assert_eq!(
        answer(&server, with("/metrics", &reader)).await.0,
        StatusCode::FORBIDDEN
    );
}

#[tokio::test]
async fn names_of_others_are_refused_and_every_answer_is_guarded() {
    let server = server();
    let mut request = get("/v1/models");
    request
        .headers_mut()
        .insert("host", "evil.example".parse().unwrap());
    assert_eq!(
        answer(&server, request).await.0,
        StatusCode::MISDIRECTED_REQUEST
    );
    for path in ["/", "/v1/models", "/nothing"] {
        let response = server.clone().oneshot(get(path)).await.unwrap();
        let policy = response.headers()["content-security-policy"]
            .to_str()
            .unwrap();
        assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"));
        assert_eq!(response.headers()["x-content-type-options"], "nosniff");
    }
}

#[tokio::test]
async fn every_path_is_described() {
    let (status, document) = answer(&server(), get("/openapi.json")).await;
    assert_eq!(status, StatusCode::OK);
    for path in [
        "/health",
        "/metrics",
        "/v1/models",
        "/v1/embeddings",
        "/v1/match",
        "/v1/relation",
        "/v1/vqa",
        "/v1/ground",
        "/v1/search",
        "/v1/index",
        "/v1/items",
        "/v1/items/{id}",
        "/v1/items/{id}/thumbnail",
        "/v1/explain",
        "/v1/admin/reload",
    ] {
        assert!(document["paths"][path].is_object(), "{path}");
    }
    // Types of one name would be described as one.
    for (path, field) in [
        ("/v1/embeddings", "encoding_format"),
        ("/v1/search", "rerank"),
        ("/v1/explain", "method"),
        ("/v1/match", "texts"),
        ("/v1/vqa", "question"),
        ("/v1/ground", "phrase"),
        ("/v1/relation", "text"),
    ] {
        let content = &document["paths"][path]["post"]["requestBody"]["content"];
        let schema = content["application/json"]["schema"]["$ref"]
            .as_str()
            .unwrap();
        let schema = document.pointer(schema.trim_start_matches('#')).unwrap();
        assert!(schema["properties"][field].is_object(), "{path}: {schema}");
    }
}

/// A model that waits at a gate: what is let through, and how many items came in each run.
fn gated() -> (Fake, Sender<()>, Receiver<usize>) {
    let (open, gate) = channel();
    let (entered, seen) = channel();
    let fake = Fake {
        gate: Some(Mutex::new(gate)),
        entered: Some(Mutex::new(entered)),
        ..Fake::default()
    };
    (fake, open, seen)
}

/// Until so many jobs wait for a model that stands at its gate.
async fn jobs_wait(queue: &ModelQueue, jobs: usize) {
    while queue.waiting_jobs() < jobs {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_shares_a_batch() {
    let (fake, open, seen) = gated();
    let parts = parts(fake);
    let queue = Arc::clone(&parts.models[0]);
    let server = router(parts);
    let ask = |text: String| {
        let server = server.clone();
        tokio::spawn(async move { ask(&server, "/v1/embeddings", json!({"input": text})).await })
    };
    let first = ask("x".to_owned());
    assert_eq!(seen.recv().unwrap(), 1);
    let others: Vec<_> = (2..6).map(|len| ask("x".repeat(len))).collect();
    jobs_wait(&queue, 4).await;
    open.send(()).unwrap();
    assert_eq!(seen.recv().unwrap(), 4);
    open.send(()).unwrap();
    assert_eq!(first.await.unwrap().0, StatusCode::OK);
    for (task, len) in others.into_iter().zip(2_u8..) {
        let (_, value) = task.await.unwrap();
        let found: Vec<f32> =
            serde_json::from_value(value["data"][0]["embedding"].clone()).unwrap();
        assert_eq!(found, unit(f32::from(len)));
    }
    assert_eq!(queue.waiting_tokens(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_much_is_refused_and_who_leaves_frees_a_place() {
    let (fake, open, seen) = gated();
    let config = QueueConfig {
        waiting_tokens: 7,
        ..QueueConfig::default()
    };
    let queue = Arc::new(ModelQueue::start(Arc::new(fake), config).unwrap());
    let server = router(Parts {
        models: vec![Arc::clone(&queue)],
        ..parts(Fake::default())
    });
    let spawn = |text: &'static str| {
        let server = server.clone();
        tokio::spawn(async move { ask(&server, "/v1/embeddings", json!({"input": text})).await })
    };
    let first = spawn("one");
    assert_eq!(seen.recv().unwrap(), 1);
    let second = spawn("two");
    jobs_wait(&queue, 1).await;
    let response = server.clone().oneshot(post(
        "/v1/embeddings",
        json!({"input": "three"}).to_string(),
    ));
    let response = response.await.unwrap();
    assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
    assert!(response.headers().contains_key("retry-after"));
    second.abort();
    assert!(second.await.unwrap_err().is_cancelled());
    while queue.waiting_tokens() > 3 {
        tokio::task::yield_now().await;
    }
    let third = spawn("three");
    // What was left by the second is passed over when the thread next looks.
    jobs_wait(&queue, 2).await;
    open.send(()).unwrap();
    open.send(()).unwrap();
    assert_eq!(first.await.unwrap().0, StatusCode::OK);
    assert_eq!(third.await.unwrap().0, StatusCode::OK);
    assert_eq!(queue.counts().cancelled.load(Ordering::Relaxed), 1);
    assert_eq!(seen.recv().unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_too_long_is_told() {
    let (fake, open, seen) = gated();
    let config = QueueConfig {
        deadline: Duration::from_millis(20),
        ..QueueConfig::default()
    };
    let queue = Arc::new(ModelQueue::start(Arc::new(fake), config).unwrap());
    let server = router(Parts {
        models: vec![Arc::clone(&queue)],
        ..parts(Fake::default())
    });
    let spawn = |text: &'static str| {
        let server = server.clone();
        tokio::spawn(async move { ask(&server, "/v1/embeddings", json!({"input": text})).await })
    };
    // On a busy machine the first itself may come too late to be begun: then it is asked again.
    let first = 'begun: loop {
        let first = spawn("one");
        while !first.is_finished() {
            if seen.try_recv().is_ok() {
                break 'begun first;
            }
            tokio::task::yield_now().await;
        }
    };
    let second = spawn("two");
    jobs_wait(&queue, 1).await;
    let waited = std::time::Instant::now();
    while waited.elapsed() <= config.deadline {
        tokio::task::yield_now().await;
    }
    open.send(()).unwrap();
    assert_eq!(first.await.unwrap().0, StatusCode::OK);
    assert_eq!(second.await.unwrap().0, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn a_model_that_breaks_down_takes_nobody_with_it() {
    let server = server();
    let (status, _) = ask(&server, "/v1/embeddings", json!({"input": "panic"})).await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
    let (status, _) = ask(&server, "/v1/embeddings", json!({"input": "calm"})).await;
    assert_eq!(status, StatusCode::OK);
}

#[tokio::test]
async fn a_server_that_stops_takes_nothing_more() {
    let parts = parts(Fake::default());
    let queue = Arc::clone(&parts.models[0]);
    let server = router(parts);
    queue.close();
    let (status, _) = ask(&server, "/v1/embeddings", json!({"input": "late"})).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
}

/// An index of three pictures.
fn index(folder: &Path, fingerprint: &str) {
    let identity = Identity {
        model: "fake".to_owned(),
        fingerprint: fingerprint.to_owned(),
        width: WIDTH,
    };
    let mut writer = Index::create(folder, identity).unwrap();
    for (width, split) in [(2, "train"), (4, "test"), (8, "test")] {
        let name = format!("a b/{width}.png");
        let file = folder.join(format!("{width}.png"));
        let picture = Rgb::new(width, 2, vec![9; width * 6]).unwrap();
        std::fs::write(&file, thumbnail::png(&picture).unwrap()).unwrap();
        let record = Record {
            key: name,
            kind: Kind::Image,
            text: "<b>".to_owned(),
            source: Some(format!("{width}.png")),
            digest: width.to_string(),
            metadata: serde_json::Map::from_iter([("split".to_owned(), split.into())]),
        };
        writer.upsert(&record, &unit(-(width as f32))).unwrap();
    }
    writer.finish(GraphChoice::None).unwrap();
}

#[tokio::test]
async fn an_index_is_searched_listed_and_shown() {
    let folder = tempfile::tempdir().unwrap();
    index(folder.path(), "f00d");
    let server = router(Parts {
        index: Some(Box::new(Index::open(folder.path()).unwrap())),
        ..parts(Fake::default())
    });
    let search = |body: Value| ask(&server, "/v1/search", body);
    let (_, found) = search(json!({"image": picture(4), "top": 2})).await;
    assert_eq!(found["results"][0]["id"], "a b/4.png");
    assert_eq!(found["results"].as_array().unwrap().len(), 2);
    let (_, found) = search(json!({"image": "item:a b/8.png", "filter": "split=train"})).await;
    assert_eq!(found["results"][0]["id"], "a b/2.png");
    let (_, found) = search(json!({"text": "x", "rerank": true, "top": 1})).await;
    assert_eq!(found["results"].as_array().unwrap().len(), 1);
    let (status, found) = search(json!({"text": "x", "filter": "split=="})).await;
    assert_eq!(
        (status, &found["error"]["param"]),
        (StatusCode::BAD_REQUEST, &json!("filter"))
    );
    let (status, _) = search(json!({})).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    let (_, listed) = answer(&server, get("/v1/items?offset=1&limit=1")).await;
    assert_eq!(
        (&listed["total"], &listed["items"][0]["id"]),
        (&json!(3), &json!("a b/4.png"))
    );
    assert_eq!(
        answer(&server, get("/v1/items?limit=many")).await.0,
        StatusCode::BAD_REQUEST
    );
    let address = listed["items"][0]["thumbnail"].as_str().unwrap();
    let response = server.clone().oneshot(get(address)).await.unwrap();
    assert_eq!(response.headers()["content-type"], "image/png");
    for id in ["..%2f..%2fetc%2fpasswd", "nothing", "%00"] {
        let (status, _) = answer(&server, get(&format!("/v1/items/{id}/thumbnail"))).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{id}");
    }
    assert_eq!(
        answer(&server, get(&format!("{address}?side=2000")))
            .await
            .0,
        StatusCode::BAD_REQUEST
    );
    let (_, item) = answer(&server, get("/v1/items/a%20b%2F4.png")).await;
    assert_eq!(item["id"], "a b/4.png");
    let (_, about) = answer(&server, get("/v1/index")).await;
    assert_eq!(
        (&about["items"], &about["fields"]),
        (&json!(3), &json!(["split"]))
    );
    let (status, _) = answer(&server, post("/v1/admin/reload", "")).await;
    assert_eq!(status, StatusCode::OK);
}

#[test]
fn an_index_of_another_model_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    index(folder.path(), "cafe");
    let error = app::App::new(Parts {
        index: Some(Box::new(Index::open(folder.path()).unwrap())),
        ..parts(Fake::default())
    })
    .err()
    .unwrap();
    assert!(error.to_string().contains("none of the server's models"));
}

#[test]
fn a_port_in_use_is_said() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let heard = AtomicBool::new(false);
    let error = serve(parts(Fake::default()), address, |_| {
        heard.store(true, Ordering::Relaxed);
    });
    let error = error.unwrap_err();
    assert!(matches!(error, ServeError::Address { .. }) && !heard.load(Ordering::Relaxed));
    assert!(error.hint().unwrap().contains("--port"));
}

#[tokio::test]
async fn metrics_are_text_that_is_read_line_by_line() {
    let server = server();
    ask(&server, "/v1/embeddings", json!({"input": "a cat"})).await;
    let (status, text) = answer(&server, get("/metrics")).await;
    assert_eq!(status, StatusCode::OK);
    let text = text.as_str().unwrap();
    assert!(text.ends_with("# EOF\n"));
    for line in [
        "chiasm_http_requests_total{path=\"/v1/embeddings\",status=\"200\"} 1",
        "chiasm_model_items_total{model=\"fake\"} 1",
        "chiasm_model_tokens_total{model=\"fake\"} 4",
    ] {
        assert!(text.lines().any(|own| own == line), "{line}\n{text}");
    }
}
