//! The one way into vector instructions.

/// Runs `work` compiled for the widest vectors that this processor has.
///
/// Only what is inlined into `work` profits: write `#[inline(always)]` on the closure and on every
/// helper. The closure also has to move something out of its surroundings (`move ||` and a `let` that
/// takes a captured `&mut` or `Vec`): one that could be called twice is called through a shim of the
/// compiler, which is not inlined, and its loops silently become those of the oldest processor.
#[inline(always)]
pub(crate) fn simd<R>(work: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(work)
}
