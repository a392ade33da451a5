//! Reads a WebDataset as often as it is told to: our side of `benches/data/compare.py`.
//!
//! `read_shards PATH bytes|rgb|access` prints what it has opened, then for each line on its input makes one
//! pass and prints how long it took, both as JSON:
//!
//! * `bytes`: opens the set and reads every sample, encoded picture and text;
//! * `rgb`: the same, and decodes every picture;
//! * `access`: reads samples one by one in a random order, of a set that was opened before.

#![allow(clippy::print_stdout, reason = "the answers go there")]

use std::error::Error;
use std::io::BufRead as _;
use std::path::Path;
use std::time::Instant;

use chiasm_data::{Dataset, Limits, OpenOptions, decode_rgb, open};
use serde_json::{Value, json};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [path, mode] = arguments.as_slice() else {
        return Err("usage: read_shards PATH bytes|rgb|access".into());
    };
    let read = || open(Path::new(path), &OpenOptions::default());
    let opened = read()?.dataset;
    println!("{}", json!({"batches": 1, "samples": opened.len()}));
    for line in std::io::stdin().lock().lines() {
        line?;
        let began = Instant::now();
        let step = match mode.as_str() {
            "bytes" => pass(&read()?.dataset, false)?,
            "rgb" => pass(&read()?.dataset, true)?,
            "access" => access(&opened)?,
            other => return Err(format!("there is no mode `{other}`").into()),
        };
        let seconds = began.elapsed().as_secs_f64();
        println!(
            "{}",
            json!({"steps": [{"seconds": seconds, "values": step}]})
        );
    }
    Ok(())
}

/// Every sample once; what both sides must agree on.
fn pass(dataset: &Dataset, decoded: bool) -> Result<Value, Box<dyn Error>> {
    let limits = Limits::default();
    let (mut bytes, mut text, mut pixels) = (0, 0, 0);
    for sample in &dataset.samples {
        for source in sample.visual.sources() {
            let encoded = source.read()?;
            bytes += encoded.len();
            if decoded {
                let picture = decode_rgb(&encoded, &limits, false)?;
                pixels += picture.data.len() / 3;
            }
        }
        text += sample.texts.iter().map(String::len).sum::<usize>();
    }
    Ok(json!({"samples": dataset.len(), "bytes": bytes, "text": text, "pixels": pixels}))
}

/// Every sample once in an order that jumps; microseconds of each read.
fn access(dataset: &Dataset) -> Result<Value, Box<dyn Error>> {
    let mut order: Vec<usize> = (0..dataset.len()).collect();
    order.sort_by_key(|index| (*index as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let mut micros = Vec::with_capacity(order.len());
    let mut bytes = 0;
    for index in order {
        let began = Instant::now();
        let sample = dataset.sample(index)?;
        for source in sample.visual.sources() {
            bytes += source.read()?.len();
        }
        micros.push(began.elapsed().as_secs_f64() * 1e6);
    }
    micros.sort_by(f64::total_cmp);
    let at = |share: f64| micros.get((share * (micros.len().saturating_sub(1)) as f64) as usize);
    Ok(json!({
        "samples": dataset.len(),
        "bytes": bytes,
        "median_us": at(0.5),
        "p99_us": at(0.99),
        "max_us": at(1.0),
    }))
}
