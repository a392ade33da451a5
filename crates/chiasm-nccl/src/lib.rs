//! Sums over the NVIDIA GPUs of ranks, computed where the numbers lie: NCCL.
//!
//! Owns the way from the engine's tensors to NCCL and back. Without the feature `nccl` it is empty. **It builds everywhere
//! and has never run**: that takes two GPUs. So `Nccl::join` adds up numbers whose sum is known before anything else, and
//! what fails, hangs or is wrong there sends gradients through host memory, as without it.

#![cfg(feature = "nccl")]

mod nccl;

pub use nccl::Nccl;
