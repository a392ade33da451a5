//! One process or several: who starts them, who prints, and how they end together.

use std::ops::Range;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use burn::tensor::Device;
use chiasm_format::{Claim, Parts};
use chiasm_ranks::{RankError, Ranks};
use chiasm_train::Trainer;
use clap::Args;
use serde_json::Value;

use crate::error::CliError;
use crate::output::{self, Progress};

/// How long ranks wait for each other unless it is said otherwise, in seconds.
pub(crate) const LIMIT: u64 = 60;

/// How long ranks wait for each other.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct RankArgs {
    /// How long the ranks of a run under `mpirun` or `srun` wait for each other before the run ends with
    /// an error
    #[arg(long, value_name = "SECONDS", default_value_t = LIMIT)]
    pub(crate) rank_limit: u64,
}

impl Default for RankArgs {
    fn default() -> Self {
        Self { rank_limit: LIMIT }
    }
}

/// Runs a command that shares its work, on all ranks where there are several.
pub(crate) fn among(
    args: RankArgs,
    run: impl FnOnce(&Ranks) -> Result<(), CliError>,
) -> Result<ExitCode, CliError> {
    let ranks = join(Duration::from_secs(args.rank_limit), Arc::default())?;
    let outcome = same_binary(&ranks).and_then(|()| run(&ranks));
    settle(&ranks, outcome.map(|()| ExitCode::SUCCESS))
}

/// Refuses to be several ranks of a command that knows of one.
pub(crate) fn refuse() -> Result<(), CliError> {
    let Some(count) = chiasm_mpi::launched() else {
        return Ok(());
    };
    Err(CliError::new(
        format!("a launcher started {count} ranks of a command that does not share its work"),
        "start one process; docs/guides/many-machines.md has the commands that several can share"
            .to_owned(),
    ))
}

/// Some work of a command that ranks share, a part at a time.
pub(crate) struct Job<'a> {
    /// What is shown and named.
    pub(crate) what: &'static str,
    /// What the things are called.
    pub(crate) things: &'static str,
    /// How many there are.
    pub(crate) count: usize,
    /// How many make a part: what a kill can cost a rank.
    pub(crate) part: usize,
    /// Folder of the parts that are done.
    pub(crate) folder: &'a Path,
    /// What the parts are made of: the work is continued with the same only.
    pub(crate) of: Value,
}

impl Job<'_> {
    /// The things of a part.
    fn range(&self, number: usize) -> Range<usize> {
        let first = number * self.part;
        first..(first + self.part).min(self.count)
    }

    pub(crate) fn parts(&self) -> usize {
        self.count.div_ceil(self.part)
    }

    /// Makes all parts, each by whichever rank is free. `make` gets its things, the part to fill, and what to call
    /// with the number of things that are done.
    pub(crate) fn share(
        &self,
        ranks: &Ranks,
        mut make: impl FnMut(Range<usize>, Claim<'_>, &mut dyn FnMut(usize)) -> Result<(), CliError>,
    ) -> Result<Parts, CliError> {
        let parts = begin(ranks, self.folder, &self.of)?;
        let missing = (0..self.parts()).filter(|number| !parts.has(*number));
        let missing: Vec<usize> = missing.collect();
        let left = missing
            .iter()
            .map(|number| self.range(*number).len())
            .sum::<usize>();
        // All have looked before anybody adds a part.
        ranks.gather("parts", &[])?;
        let mut bar = Progress::new(self.what, left as u64);
        let mut show = |done| bar.set(done, self.things);
        ranks.alongside(self.what, &mut show, |work| {
            for number in missing {
                work.go_on()?;
                if let Some(claim) = parts.claim(number)? {
                    make(self.range(number), claim, &mut |more| work.add(more as u64))?;
                }
            }
            Ok::<(), CliError>(())
        })?;
        bar.finish();
        Ok(parts)
    }
}

/// What the first rank says of a list of things that all have: for each, whether it is left to do.
pub(crate) fn left(
    ranks: &Ranks,
    say: impl FnOnce() -> Result<Vec<bool>, CliError>,
) -> Result<Vec<bool>, CliError> {
    // It may take longer than ranks wait for an answer.
    let own = ranks.alongside("what is left", &mut |_| {}, |_| match ranks.is_first() {
        true => say(),
        false => Ok(Vec::new()),
    })?;
    let own: Vec<u8> = own.into_iter().map(u8::from).collect();
    let said = ranks.gather("what is left", &own)?.into_iter().next();
    Ok(said
        .unwrap_or_default()
        .iter()
        .map(|left| *left == 1)
        .collect())
}

/// Opens a folder of parts on all ranks: the first one begins it, or goes on with what is there.
pub(crate) fn begin(ranks: &Ranks, folder: &Path, of: &Value) -> Result<Parts, CliError> {
    let parts = match ranks.is_first() {
        true => Parts::begin(folder, of.clone())?,
        false => Parts::join(folder),
    };
    // Nobody claims anything before it is open.
    ranks.agree("model and data", of.to_string().as_bytes())?;
    Ok(parts)
}

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

/// Lets NCCL add up the gradients of ranks with a GPU each, where it can.
#[cfg(feature = "nccl")]
pub(crate) fn add_up_on_gpus(
    ranks: &Arc<Ranks>,
    device: &Device,
    trainer: &mut Trainer,
) -> Result<(), CliError> {
    if ranks.count() == 1 {
        return Ok(());
    }
    match chiasm_nccl::Nccl::join(ranks, device)? {
        Ok(nccl) => {
            let ranks = Arc::clone(ranks);
            trainer.add_up_on_device(Box::new(move |values| nccl.sum(&ranks, values)));
        }
        Err(reason) => output::note(&format!(
            "gradients go through host memory, not NCCL: {reason}"
        )),
    }
    Ok(())
}

/// Without NCCL gradients go through host memory.
#[cfg(not(feature = "nccl"))]
pub(crate) fn add_up_on_gpus(_: &Arc<Ranks>, _: &Device, _: &mut Trainer) -> Result<(), CliError> {
    Ok(())
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
