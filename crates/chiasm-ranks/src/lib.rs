//! Several processes that do one job: what they tell each other, and what happens when one falls
//! silent.
//!
//! Owns the collectives and their errors, over one operation, [`Link::exchange`]. How bytes travel is a
//! link's: [`Thread`] for threads of one process, MPI in `chiasm-mpi`. Knows no tensors and no models.
//!
//! **Sums are the same to the bit on all ranks**, and the same in every run: each number is added up in
//! one place, in the order of the ranks and in 64 bits, and handed out from there. An all-reduce of MPI
//! promises neither.

mod error;
mod link;
mod ranks;
mod sum;
mod threads;
mod work;

pub use error::{RankError, Silence};
pub use link::{Link, Parcel, Silent};
pub use ranks::Ranks;
pub use threads::{Thread, threads};
pub use work::Work;
