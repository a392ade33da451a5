//! Our side of `benches/relation/compare.py`: reads features once, then answers lines on stdin.
//!
//! `kmeans SEED` and `logistic` are answered with a line `SECONDS FIGURE ITERATIONS`.

use std::io::{BufRead as _, Write as _};
use std::time::Instant;

use chiasm_relation::probe::{LogisticConfig, LogisticProbe};
use chiasm_relation::{KMeansConfig, Rows, kmeans};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [features, labels, width, clusters, threads] = arguments.as_slice() else {
        return Err("usage: ours FEATURES LABELS WIDTH CLUSTERS THREADS".into());
    };
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads.parse()?)
        .build_global()?;
    let bytes = std::fs::read(features)?;
    let values: Vec<f32> = bytes
        .as_chunks()
        .0
        .iter()
        .map(|bytes| f32::from_le_bytes(*bytes))
        .collect();
    let labels: Vec<usize> = std::fs::read(labels)?
        .into_iter()
        .map(usize::from)
        .collect();
    let rows = Rows::new(&values, width.parse()?)?;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let started = Instant::now();
        let (figure, iterations) = match line.split_once(' ') {
            Some(("kmeans", seed)) => {
                let config = KMeansConfig {
                    clusters: clusters.parse()?,
                    seed: seed.parse()?,
                    ..KMeansConfig::default()
                };
                let found = kmeans(rows, &config)?;
                (found.inertia, found.iterations)
            }
            _ => {
                // As scikit-learn stops.
                let config = LogisticConfig {
                    tolerance: 1e-4,
                    ..LogisticConfig::default()
                };
                let (_, fit) = LogisticProbe::fit(rows, &labels, 4, &config)?;
                (fit.objective, fit.iterations)
            }
        };
        let seconds = started.elapsed().as_secs_f64();
        let mut out = std::io::stdout().lock();
        writeln!(out, "{seconds} {figure} {iterations}")?;
        out.flush()?;
    }
    Ok(())
}
