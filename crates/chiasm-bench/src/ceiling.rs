//! What the machine can do at most: multiply and add on registers, and move memory.

use std::time::Instant;

use rayon::prelude::*;
use serde_json::json;

use crate::Result;

/// As `benches/gemm` measures it, from the same file.
#[path = "../../../benches/gemm/src/peak.rs"]
mod peak;

/// Numbers in each of three arrays: far more than caches hold.
const NUMBERS: usize = 64 << 20;
/// Numbers that a thread takes at a time.
const PART: usize = 1 << 20;
/// Passes, of which the fastest counts.
const PASSES: usize = 5;

/// Prints a line of JSON: GFLOP/s and GB/s of all threads together; no GFLOP/s without AVX-512.
pub(crate) fn measure() -> Result<()> {
    let cores = rayon::broadcast(|_| peak::gflops());
    let gflops: Option<f64> = cores.into_iter().sum();
    let line = json!({ "gflops": gflops, "gigabytes": gigabytes() });
    crate::serve::reply(&line)
}

/// GB/s of `a = b + s c`: two arrays read, one written, counted once each.
fn gigabytes() -> f64 {
    let mut sums = vec![0f32; NUMBERS];
    let (ones, twos) = (vec![1f32; NUMBERS], vec![2f32; NUMBERS]);
    let mut best = f64::INFINITY;
    for _ in 0..PASSES {
        let start = Instant::now();
        let parts = ones.par_chunks(PART).zip(twos.par_chunks(PART));
        let parts = sums.par_chunks_mut(PART).zip(parts);
        parts.for_each(|(sums, (ones, twos))| {
            for (sum, (one, two)) in sums.iter_mut().zip(ones.iter().zip(twos)) {
                *sum = one + 3.0 * two;
            }
        });
        best = best.min(start.elapsed().as_secs_f64());
    }
    std::hint::black_box(&sums);
    (3 * NUMBERS * size_of::<f32>()) as f64 / best / 1e9
}
