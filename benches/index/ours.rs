//! Our side of `benches/index/compare.py`: builds an index from vectors of a file, or asks it queries.
//!
//! ```text
//! index-bench build VECTORS.f32 WIDTH FOLDER     rows in batches of 10,000, then the graph
//! index-bench query QUERIES.f32 FOLDER exact|BREADTH FOUND.u32
//! index-bench many QUERIES.f32 FOLDER exact|BREADTH FOUND.u32      all queries in one call
//! ```
//!
//! Both print a line of JSON; `query` writes the rows of the ten nearest of every query. `RAYON_NUM_THREADS` says how
//! many threads take part.
#![allow(clippy::print_stdout)]

use std::error::Error;
use std::fs;
use std::path::Path;
use std::time::Instant;

use chiasm_index::{GraphChoice, Identity, Index, Kind, Record, Search};

const TOP: usize = 10;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["build", vectors, width, folder] => build(vectors, width.parse()?, Path::new(folder)),
        [how @ ("query" | "many"), queries, folder, breadth, found] => {
            query(queries, Path::new(folder), breadth, found, how == "many")
        }
        _ => Err("see the head of this file".into()),
    }
}

fn read(path: &str) -> Result<Vec<f32>, Box<dyn Error>> {
    let bytes = fs::read(path)?;
    let (numbers, _) = bytes.as_chunks::<4>();
    Ok(numbers
        .iter()
        .map(|bytes| f32::from_le_bytes(*bytes))
        .collect())
}

fn build(vectors: &str, width: usize, folder: &Path) -> Result<(), Box<dyn Error>> {
    let vectors = read(vectors)?;
    let model = Identity {
        model: "bench".to_owned(),
        fingerprint: "bench".to_owned(),
        width,
    };
    let started = Instant::now();
    let mut writer = Index::create(folder, model.clone())?;
    for (row, vector) in vectors.chunks_exact(width).enumerate() {
        let split = if row % 100 == 0 { "rare" } else { "common" };
        let record = Record {
            key: format!("pictures/{row:07}.jpg"),
            kind: Kind::Image,
            text: format!("what is said of picture {row}"),
            source: Some(format!("pictures/{row:07}.jpg")),
            digest: format!("{row:064x}"),
            metadata: serde_json::Map::from_iter([("split".to_owned(), split.into())]),
        };
        writer.upsert(&record, vector)?;
        if row % 10_000 == 9_999 {
            writer.commit()?;
        }
    }
    writer.finish(GraphChoice::Keep)?;
    let insert = started.elapsed().as_secs_f64();
    drop(vectors);
    let started = Instant::now();
    let writer = chiasm_index::Writer::open(folder, &model)?;
    let reopen = started.elapsed().as_secs_f64();
    let started = Instant::now();
    writer.finish(GraphChoice::Build)?;
    let graph = started.elapsed().as_secs_f64();
    println!(r#"{{"insert_s": {insert}, "writer_open_s": {reopen}, "graph_s": {graph}}}"#);
    Ok(())
}

fn query(
    queries: &str,
    folder: &Path,
    breadth: &str,
    found: &str,
    many: bool,
) -> Result<(), Box<dyn Error>> {
    let queries = read(queries)?;
    let started = Instant::now();
    let index = Index::open(folder)?;
    let open = started.elapsed().as_secs_f64();
    let search = Search {
        exact: breadth == "exact",
        breadth: breadth.parse().unwrap_or(0),
        ..Search::top(TOP)
    };
    // The first touches pages that are not mapped yet.
    index.search_all(
        queries.get(..index.identity().width).unwrap_or_default(),
        &search,
    )?;
    let (mut times, mut rows) = (Vec::new(), Vec::new());
    let each = if many {
        queries.len()
    } else {
        index.identity().width
    };
    for queries in queries.chunks_exact(each) {
        let started = Instant::now();
        let hits = index.search_all(queries, &search)?;
        times.push(started.elapsed().as_secs_f64() / hits.len() as f64);
        for hits in hits {
            let numbers = hits.iter().map(|hit| hit.row as u32);
            let padded = numbers.chain(std::iter::repeat(u32::MAX)).take(TOP);
            rows.extend(padded.flat_map(u32::to_le_bytes));
        }
    }
    fs::write(found, rows)?;
    println!(r#"{{"open_s": {open}, "times_s": {times:?}}}"#);
    Ok(())
}
