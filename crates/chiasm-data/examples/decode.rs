//! Our side of `benches/data/decode.py`: pictures from files to the numbers that CLIP takes.
//!
//! ```text
//! cargo run --release -p chiasm-data --example decode -- FOLDER [COUNT]
//! ```
//!
//! Answers each line on standard input with a line of JSON: `all` does the whole way, file to `f32`
//! values, on this one thread; `stages` measures its parts one by one; `values` gives the mean of the
//! values of the first pictures, by which the other side checks that it does the same.

#![allow(clippy::print_stdout, reason = "its output is its purpose")]

use std::error::Error;
use std::io::BufRead as _;
use std::path::PathBuf;
use std::time::Instant;

use chiasm_data::transform::normalise;
use chiasm_data::{AlphaRule, Limits, Preprocess, Rgb, decode};
use serde_json::json;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().ok_or("give a folder of pictures")?;
    let count = arguments
        .next()
        .map_or(Ok(usize::MAX), |text| text.parse())?;
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    files.sort();
    files.truncate(count);
    let preprocess = Preprocess::new(224);
    println!("{}", json!({ "pictures": files.len() }));
    for line in std::io::stdin().lock().lines() {
        let answer = match line?.as_str() {
            "all" => {
                let start = Instant::now();
                for file in &files {
                    let picture = read(&std::fs::read(file)?)?;
                    std::hint::black_box(preprocess.eval(&picture));
                }
                json!({ "seconds": start.elapsed().as_secs_f64() })
            }
            "stages" => stages(&files, &preprocess)?,
            "values" => {
                let mut means = Vec::new();
                for file in files.iter().take(16) {
                    let values = preprocess.eval(&read(&std::fs::read(file)?)?);
                    means.push(
                        values.iter().map(|value| f64::from(*value)).sum::<f64>()
                            / values.len() as f64,
                    );
                }
                json!({ "means": means })
            }
            other => return Err(format!("`{other}` is no command").into()),
        };
        println!("{answer}");
    }
    Ok(())
}

fn read(bytes: &[u8]) -> Result<Rgb, chiasm_data::DecodeError> {
    decode(bytes, &Limits::default(), true, AlphaRule::Drop)
}

/// Seconds of each stage over all pictures.
fn stages(files: &[PathBuf], preprocess: &Preprocess) -> Result<serde_json::Value, Box<dyn Error>> {
    let (mut decoding, mut resizing, mut normalising) = (0.0, 0.0, 0.0);
    for file in files {
        let bytes = std::fs::read(file)?;
        let start = Instant::now();
        let picture = read(&bytes)?;
        decoding += start.elapsed().as_secs_f64();
        let start = Instant::now();
        let square = preprocess.prepare(&picture, false);
        resizing += start.elapsed().as_secs_f64();
        let start = Instant::now();
        std::hint::black_box(normalise(&square, preprocess.mean, preprocess.std));
        normalising += start.elapsed().as_secs_f64();
    }
    Ok(json!({ "decode": decoding, "resize": resizing, "normalise": normalising }))
}
