//! Ranks that an MPI launcher started: `mpirun`, Slurm's `srun`, the MPI operator of Kubernetes.
//!
//! Owns how bytes travel between them and how a launcher is recognised. What they mean is
//! `chiasm-ranks`'. Without the feature `mpi` there is only the recognition, so that a binary without MPI
//! can refuse to be started as several ranks that know nothing of each other.

#[cfg(feature = "mpi")]
mod world;

#[cfg(feature = "mpi")]
pub use world::World;

/// Variables in which launchers say how many ranks they started: Open MPI, MPICH and its relatives,
/// Slurm.
const LAUNCHERS: [&str; 3] = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"];

/// Variables in which the same launchers say which of its machine's ranks a process is.
const PLACES: [&str; 3] = [
    "OMPI_COMM_WORLD_LOCAL_RANK",
    "MPI_LOCALRANKID",
    "SLURM_LOCALID",
];

/// How many ranks a launcher started; `None` where none did, or where it started one.
#[must_use]
pub fn launched() -> Option<usize> {
    LAUNCHERS.iter().filter_map(number).find(|count| *count > 1)
}

/// Which of the ranks on its machine this one is, from 0; `None` where no launcher started several.
#[must_use]
pub fn local_rank() -> Option<usize> {
    launched()?;
    PLACES.iter().find_map(number)
}

fn number(variable: &&str) -> Option<usize> {
    std::env::var(variable).ok()?.parse().ok()
}
