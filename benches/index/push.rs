//! What a database costs beside the folder: pushing, and searching.
//!
//! ```text
//! index-push-bench ADDRESS ROWS WIDTH
//! ```
//!
//! Makes unit vectors around 1,000 centres, an index of them in a temporary folder with a graph, pushes it to the
//! address (what is there under this name is thrown away), and asks both for the ten nearest of 200 queries, one at a time.
//! Recall is against the folder's exact search. Prints a table.
#![allow(clippy::print_stdout)]

use std::collections::HashSet;
use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};

use chiasm_index::{Filter, GraphChoice, Identity, Index, Kind, Record, Search, Store};
use chiasm_remote::{Address, PushOptions, Step};

const TOP: usize = 10;
const QUERIES: usize = 200;
const CENTRES: usize = 1000;
/// Length of the noise around a centre, whose length is 1.
const SPREAD: f32 = 0.9;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let [address, rows, width] = arguments[..] else {
        return Err("see the head of this file".into());
    };
    let (rows, width): (usize, usize) = (rows.parse()?, width.parse()?);
    let address: Address = address.parse()?;
    let folder = std::env::temp_dir().join(format!("chiasm-push-{}", std::process::id()));
    let measured = measure(&folder, &address, rows, width);
    std::fs::remove_dir_all(&folder)?;
    measured
}

fn measure(
    folder: &Path,
    address: &Address,
    rows: usize,
    width: usize,
) -> Result<(), Box<dyn Error>> {
    let mut source = Source(0x9e37_79b9_7f4a_7c15);
    let centres: Vec<Vec<f32>> = (0..CENTRES).map(|_| source.noise(width, 1.0)).collect();
    let mut near = |number: usize| -> Vec<f32> {
        let noise = source.noise(width, SPREAD);
        let centre = centres.iter().cycle().nth(number % CENTRES);
        noise
            .iter()
            .zip(centre.into_iter().flatten())
            .map(|(a, b)| a + b)
            .collect()
    };
    let model = Identity {
        model: "bench".to_owned(),
        fingerprint: "bench".to_owned(),
        width,
    };
    let mut writer = Index::create(folder, model)?;
    for row in 0..rows {
        let split = if row % 100 == 0 { "rare" } else { "common" };
        let record = Record {
            key: format!("pictures/{row:07}.jpg"),
            kind: Kind::Image,
            text: format!("what is said of picture {row}"),
            source: Some(format!("pictures/{row:07}.jpg")),
            digest: format!("{row:064x}"),
            metadata: serde_json::Map::from_iter([("split".to_owned(), split.into())]),
        };
        writer.upsert(&record, &near(row * 7919))?;
    }
    let index = writer.finish(GraphChoice::Build)?;
    let queries: Vec<f32> = (0..QUERIES).flat_map(|number| near(number * 31)).collect();

    let options = PushOptions {
        graph: GraphChoice::Build,
        replace: true,
    };
    let (mut graph, mut verify) = (None, None);
    let started = Instant::now();
    chiasm_remote::push(&index, address, options, &mut |step| match step {
        Step::Graph => graph = Some(started.elapsed()),
        Step::Verify => verify = Some(started.elapsed()),
        _ => {}
    })?;
    let (all, built) = (started.elapsed(), verify.unwrap_or_default());
    let sent = graph.unwrap_or(built);
    let again = Instant::now();
    chiasm_remote::push(&index, address, PushOptions::default(), &mut |_| {})?;
    let again = again.elapsed();
    println!("{rows} x {width} vectors to {address}\n");
    println!("| push | seconds | vectors a second |\n| --- | ---: | ---: |");
    let rate = |time: Duration| rows as f64 / time.as_secs_f64();
    println!("| sent | {:.1} | {:.0} |", sent.as_secs_f64(), rate(sent));
    println!(
        "| index for approximate search | {:.1} | |",
        (built - sent).as_secs_f64()
    );
    println!(
        "| read back and compared | {:.1} | |",
        (all - built).as_secs_f64()
    );
    println!("| again, nothing new | {:.1} | |\n", again.as_secs_f64());

    let store = chiasm_remote::open(address)?;
    let rare: Filter = "split=rare".parse()?;
    println!("| one query | median, ms | recall@10 |\n| --- | ---: | ---: |");
    for (name, exact, filter) in [
        ("exact", true, None),
        ("approximate", false, None),
        ("exact, filter that 1 in 100 fulfil", true, Some(&rare)),
        ("approximate, the same filter", false, Some(&rare)),
    ] {
        let search = Search {
            exact,
            filter,
            ..Search::top(TOP)
        };
        let right = asked(
            &index,
            &queries,
            &Search {
                exact: true,
                ..search
            },
        )?
        .1;
        for (place, own) in [("folder", &index as &dyn Store), ("database", &*store)] {
            let (median, found) = asked(own, &queries, &search)?;
            let same = right.intersection(&found).count();
            let recall = same as f64 / right.len() as f64;
            println!("| {place}, {name} | {:.2} | {recall:.4} |", median * 1e3);
        }
    }
    Ok(())
}

/// What was found: query and key.
type Found = HashSet<(usize, String)>;

/// Median time of a query, and everything that was found.
fn asked(
    store: &dyn Store,
    queries: &[f32],
    search: &Search<'_>,
) -> Result<(f64, Found), Box<dyn Error>> {
    let (mut times, mut keys) = (Vec::new(), HashSet::new());
    let width = store.identity().width;
    store.find(queries.get(..width).unwrap_or_default(), search)?;
    for (number, query) in queries.chunks_exact(width).enumerate() {
        let started = Instant::now();
        let found = store.find(query, search)?;
        times.push(started.elapsed().as_secs_f64());
        keys.extend(
            found
                .into_iter()
                .flatten()
                .map(|found| (number, found.record.key)),
        );
    }
    times.sort_by(f64::total_cmp);
    Ok((
        times.get(times.len() / 2).copied().unwrap_or_default(),
        keys,
    ))
}

/// Numbers that are the same in every run.
struct Source(u64);

impl Source {
    fn next(&mut self) -> f32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    /// A direction of a length, by sums that are near to normal.
    fn noise(&mut self, width: usize, length: f32) -> Vec<f32> {
        let sums = (0..width).map(|_| self.next() + self.next() + self.next() + self.next());
        let noise: Vec<f32> = sums.collect();
        let norm = noise.iter().map(|own| own * own).sum::<f32>().sqrt();
        noise.iter().map(|own| own / norm * length).collect()
    }
}
