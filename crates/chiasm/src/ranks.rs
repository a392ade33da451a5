//! One process or several: who starts them, who prints, and how they end together.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use chiasm_ranks::{RankError, Ranks};

use crate::error::CliError;
use crate::output;

/// How long ranks wait for each other unless it is said otherwise, in seconds.
pub(crate) const LIMIT: u64 = 60;

/// Joins the other ranks where a launcher started several. All but the first fall silent.
pub(crate) fn join(limit: Duration, stop: Arc<AtomicBool>) -> Result<Arc<Ranks>, CliError> {
    let Some(count) = chiasm_mpi::launched() else {
        return Ok(Arc::new(Ranks::alone()));
    };
    let ranks = of_launch(count, limit, stop)?;
    if !ranks.is_first() {
        output::silence();
    }
    Ok(Arc::new(ranks))
}

/// Refuses ranks that run another binary than the first one.
pub(crate) fn same_binary(ranks: &Ranks) -> Result<(), CliError> {
    if ranks.count() == 1 {
        return Ok(());
    }
    let program = std::env::current_exe().and_then(std::fs::read);
    let program = program.map_err(|error| {
        CliError::new(
            format!("cannot read this program's own file: {error}"),
            None,
        )
    })?;
    Ok(ranks.agree("binary", blake3::hash(&program).as_bytes())?)
}

#[cfg(feature = "mpi")]
fn of_launch(count: usize, limit: Duration, stop: Arc<AtomicBool>) -> Result<Ranks, CliError> {
    let world = chiasm_mpi::World::join()?;
    let ranks = Ranks::new(Box::new(world), limit, stop);
    if ranks.count() != count {
        return Err(CliError::new(
            format!(
                "the launcher started {count} ranks, and MPI knows {}",
                ranks.count()
            ),
            "use the launcher of the MPI that this binary was built with; with `srun`, name its \
             interface, such as `--mpi=pmix`"
                .to_owned(),
        ));
    }
    Ok(ranks)
}

#[cfg(not(feature = "mpi"))]
fn of_launch(count: usize, _: Duration, _: Arc<AtomicBool>) -> Result<Ranks, CliError> {
    Err(CliError::new(
        format!("a launcher started {count} ranks, and this binary was built without `mpi`"),
        "build it with `cargo build --release --features mpi`, or start one process".to_owned(),
    ))
}

/// Ends a rank. After an error the first rank prints and its end ends the others, so they wait for it;
/// where it is the one that is gone, they print.
pub(crate) fn settle(
    ranks: &Arc<Ranks>,
    outcome: Result<ExitCode, CliError>,
) -> Result<ExitCode, CliError> {
    let Err(error) = outcome else {
        return outcome;
    };
    if ranks.count() == 1 {
        return Err(error);
    }
    ranks.fail(&error.one_line());
    // Taking leave of ranks that are gone would take forever.
    std::mem::forget(Arc::clone(ranks));
    let is_heard = |error: &RankError| !error.misses(0);
    if ranks.is_first() || !ranks.broken().as_ref().is_none_or(is_heard) {
        return Err(error);
    }
    // The launcher ends every rank as soon as one of them fails, and the first one may be saving.
    let begun = Instant::now();
    while begun.elapsed() < ranks.limit() {
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(ExitCode::FAILURE)
}
