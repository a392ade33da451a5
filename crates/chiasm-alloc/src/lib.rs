//! The programs' allocator: mimalloc, told to keep what is freed.
//!
//! A training step frees and asks for the same large buffers hundreds of times. The system's allocator
//! gives them back and has every page cleared again each time, which took a sixth of a step; mimalloc
//! with its default delay of 10 ms still lost a twentieth.

#![allow(
    unsafe_code,
    reason = "the allocator's options are set through its C interface"
)]

use libmimalloc_sys::{mi_option_set, mi_option_t, mi_option_use_numa_nodes};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `mi_option_purge_delay`, which the bindings leave out: it stands before `mi_option_use_numa_nodes`.
const PURGE_DELAY: mi_option_t = mi_option_use_numa_nodes - 1;

/// No purging: freed memory stays with the process, so that it holds its peak until it ends.
const NEVER: std::ffi::c_long = -1;

/// Keeps freed memory for the next buffer of its size. To be called first in `main`.
///
/// A process then holds the most memory it ever used; the most itself is the same.
pub fn keep_freed_memory() {
    // SAFETY: sets one number; nothing else runs yet that could read it meanwhile.
    unsafe { mi_option_set(PURGE_DELAY, NEVER) };
}
