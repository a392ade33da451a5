//! How long sums over all ranks take, beside those of the MPI that carries them: for `benches/scaling/sums.py`.
//!
//! `mpirun -n 2 sums chiasm 24 20` prints, a line of JSON a size up to 2^24 numbers, the seconds of each of 20
//! sums; with `mpi` in place of `chiasm` those of `MPI_Allreduce`.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program of the measurements, not of its users"
)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use chiasm_mpi::World;
use chiasm_ranks::Ranks;
use mpi::collective::{CommunicatorCollectives as _, SystemOperation};
use mpi::traits::Communicator as _;

/// Sums before the first that counts.
const WARM: usize = 3;
/// Smallest size, as a power of 2.
const SMALLEST: u32 = 8;

fn main() {
    // As in the program: memory that was given back is not asked for again.
    chiasm_alloc::keep_freed_memory();
    let mut args = std::env::args().skip(1);
    let who = args.next().unwrap_or_default();
    let mut number = |otherwise| {
        let given = args.next().and_then(|text| text.parse::<u32>().ok());
        given.unwrap_or(otherwise)
    };
    let (largest, turns) = (number(20), number(10) as usize);
    match who.as_str() {
        "chiasm" => ours(largest, turns),
        "mpi" => theirs(largest, turns),
        _ => {
            eprintln!("usage: mpirun -n RANKS sums chiasm|mpi [LARGEST] [TURNS]");
            std::process::exit(2);
        }
    }
}

fn ours(largest: u32, turns: usize) {
    let world = match World::join() {
        Ok(world) => world,
        Err(error) => {
            eprintln!("error: {error}");
            std::process::exit(1);
        }
    };
    let ranks = Ranks::new(Box::new(world), Duration::from_secs(60), Arc::default());
    let (rank, count) = (ranks.rank(), ranks.count());
    measure(rank, count, largest, turns, |values| {
        if let Err(error) = ranks.sum("sum", &mut [values]) {
            eprintln!("error: {error}");
            std::process::exit(1);
        }
    });
}

fn theirs(largest: u32, turns: usize) {
    let Some(universe) = mpi::initialize() else {
        eprintln!("error: MPI did not start");
        std::process::exit(1);
    };
    let world = universe.world();
    let (rank, count) = (world.rank() as usize, world.size() as usize);
    let mut sums = Vec::new();
    measure(rank, count, largest, turns, |values| {
        sums.resize(values.len(), 0.0);
        world.all_reduce_into(&*values, &mut sums, SystemOperation::sum());
        values.copy_from_slice(&sums);
    });
}

/// Times sums of ones, and checks them.
fn measure(rank: usize, count: usize, largest: u32, turns: usize, mut sum: impl FnMut(&mut [f32])) {
    for power in SMALLEST..=largest {
        let mut seconds = Vec::with_capacity(turns);
        let mut values = vec![1.0_f32; 1 << power];
        for turn in 0..WARM + turns {
            values.fill(1.0);
            let begun = Instant::now();
            sum(&mut values);
            if turn >= WARM {
                seconds.push(begun.elapsed().as_secs_f64());
            }
            assert!(values.iter().all(|value| *value == count as f32));
        }
        if rank == 0 {
            println!(
                "{{\"numbers\": {}, \"seconds\": {seconds:?}}}",
                1u64 << power
            );
        }
    }
}
