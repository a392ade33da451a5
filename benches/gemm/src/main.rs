//! Measures one implementation of matrix products of `f32`: chiasm's own, or one to compare it with.
//!
//! ```text
//! versus NAME THREADS [LIBRARY]   one line of JSON per product: {"shape": ..., "gflops": ...}
//! versus NAME version [LIBRARY]   the version, or an error if LIBRARY cannot be loaded
//! ```
//!
//! One implementation a process, so that the threads of one cannot disturb another. `compare.py` starts
//! the processes in turns.

mod implementation;
mod library;
mod peak;
mod product;

/// The kernel as chiasm compiles it, from the same file.
#[path = "../../../crates/chiasm-nn/src/kernels/gemm/mod.rs"]
#[allow(dead_code, reason = "a part of it is measured")]
mod chiasm;

use std::error::Error;
use std::process::ExitCode;
use std::time::Instant;

use implementation::Implementation;
use product::{Output, Product};

/// Operations between two looks at the clock, at least: some 3 ms.
const MIN_WORK: f64 = 3e8;

/// Timings of a product, whose median counts.
const REPEATS: usize = 5;

const USAGE: &str = "usage: versus NAME THREADS|version [LIBRARY]";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", with_sources(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (name, threads, file) = match arguments.as_slice() {
        [name, threads] => (name, threads, None),
        [name, threads, file] => (name, threads, Some(file.as_str())),
        _ => return Err(USAGE.into()),
    };
    let version_only = threads == "version";
    let threads = match version_only {
        true => 1,
        false => threads.parse().map_err(|_| USAGE)?,
    };
    if name == "peak" {
        let peak = peak::gflops().ok_or("the processor has no AVX-512")?;
        print(name, peak);
        return Ok(());
    }
    let implementation = implementation::find(name, threads, file)?;
    if version_only {
        println!("{}", implementation.version());
        return Ok(());
    }
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build_global()?;
    for product in product::all() {
        measure(implementation.as_ref(), &product)?;
    }
    Ok(())
}

/// Prints the speed of one product, unless the implementation leaves it out.
fn measure(implementation: &dyn Implementation, product: &Product) -> Result<(), Box<dyn Error>> {
    let Some(mut multiply) = implementation.prepare(product) else {
        return Ok(());
    };
    let mut output = Output::new(product);
    // The first call grows buffers and starts threads.
    multiply(&mut output);
    product.check(&output)?;
    multiply(&mut output);

    let calls = (MIN_WORK / product.operations()).ceil();
    let mut speeds = [0.0; REPEATS];
    for speed in &mut speeds {
        let start = Instant::now();
        for _ in 0..calls as usize {
            multiply(&mut output);
        }
        *speed = calls * product.operations() / start.elapsed().as_secs_f64() / 1e9;
    }
    speeds.sort_by(f64::total_cmp);
    print(&product.shape, speeds[REPEATS / 2]);
    Ok(())
}

/// The message of an error and of all that caused it.
fn with_sources(error: &dyn Error) -> String {
    let mut message = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        message += &format!(": {error}");
        source = error.source();
    }
    message
}

fn print(shape: &str, gflops: f64) {
    println!("{{\"shape\": \"{shape}\", \"gflops\": {gflops:.2}}}");
}
