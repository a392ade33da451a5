//! The most one core can do: fused multiply-adds on registers, without any memory.

#![allow(unsafe_code, reason = "vector instructions")]

/// GFLOP/s of one core, the best of some runs. `None` without AVX-512.
pub(crate) fn gflops() -> Option<f64> {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") {
        // SAFETY: the processor has the instructions.
        return (0..10).map(|_| unsafe { avx512() }).reduce(f64::max);
    }
    None
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn avx512() -> f64 {
    use std::arch::x86_64::{_mm512_fmadd_ps, _mm512_set1_ps};
    use std::hint::black_box;

    /// Sums that do not wait for each other: more than two units of four cycles need.
    const SUMS: usize = 14;
    const LANES: usize = 16;
    const STEPS: usize = 1_000_000;

    let (x, y) = (
        _mm512_set1_ps(black_box(1.0)),
        _mm512_set1_ps(black_box(0.5)),
    );
    let mut sums = [_mm512_set1_ps(0.0); SUMS];
    let start = std::time::Instant::now();
    for _ in 0..STEPS {
        for sum in &mut sums {
            *sum = _mm512_fmadd_ps(*sum, x, y);
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    black_box(sums);
    (2 * SUMS * LANES * STEPS) as f64 / seconds / 1e9
}
