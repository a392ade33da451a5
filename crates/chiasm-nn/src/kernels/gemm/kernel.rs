//! Microkernels: one tile of `C`, held in registers over the whole depth of a block.
//!
//! The tile is written once, over a few vector operations, and compiled for AVX-512, for AVX2 with
//! FMA, and for whatever else the compiler targets. Which one runs is chosen once, from what the
//! processor says.

#![allow(
    unsafe_code,
    reason = "vector instructions, and pointers without a bounds check per element"
)]

use std::sync::OnceLock;

use super::Factors;
use super::view::{View, ViewMut};

/// How one kind of processor multiplies a tile.
#[derive(Clone, Copy)]
pub(super) struct Kernel {
    /// Name for messages.
    #[cfg_attr(not(test), expect(dead_code, reason = "for messages of tests"))]
    pub(super) name: &'static str,
    /// Elements of one vector.
    lanes: usize,
    /// The function for a tile of `i + 1` rows and `j + 1` vectors, at `[i][j]`. A function for every
    /// height, so that rows at the edge need neither padding nor a copy.
    tiles: &'static [[TileFn; VECTORS]],
}

/// Vectors side by side in the widest tile.
const VECTORS: usize = 2;

/// Steps of the depth, of 28 cycles each on Zen 4, by which `A` is asked for ahead: enough to come from
/// the last cache. Worth 10 % of a weight gradient `[1024, 2080] x [2080, 256]`; 8 is worth half of that.
const AHEAD: usize = 16;

/// Operands of one tile, as pointers. See [`Kernel::multiply_tile`] for what they point to.
struct Tile {
    a: *const f32,
    a_row_stride: usize,
    a_col_stride: usize,
    b: *const f32,
    c: *mut f32,
    c_row_stride: usize,
    cols: usize,
    depth: usize,
    factors: Factors,
}

/// # Safety
/// The processor has the instructions of the kernel, and the tile's pointers are good for its sizes.
type TileFn = unsafe fn(&Tile);

impl Kernel {
    /// The fastest kernel of this processor.
    pub(super) fn best() -> Self {
        static BEST: OnceLock<Kernel> = OnceLock::new();
        *BEST.get_or_init(|| Self::available()[0])
    }

    /// Every kernel this processor can run, the fastest first.
    pub(super) fn available() -> Vec<Self> {
        let mut kernels = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") {
                kernels.push(Self {
                    name: "avx512",
                    lanes: Avx512::LANES,
                    tiles: AVX512_TILES,
                });
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                kernels.push(Self {
                    name: "avx2",
                    lanes: Avx2::LANES,
                    tiles: AVX2_TILES,
                });
            }
        }
        kernels.push(Self {
            name: "portable",
            lanes: Portable::LANES,
            tiles: PORTABLE_TILES,
        });
        kernels
    }

    /// Rows of the largest tile.
    pub(super) fn rows(&self) -> usize {
        self.tiles.len()
    }

    /// Columns of the largest tile, and of every panel of `B`.
    pub(super) fn cols(&self) -> usize {
        VECTORS * self.lanes
    }

    /// `c = alpha * a * b` or `c += alpha * a * b`, as `factors` say.
    ///
    /// Every element is summed over the depth in ascending order, whatever the size of the tile it
    /// happens to lie in.
    ///
    /// # Shapes
    /// - `c`: `[rows, cols]`, at least one of each and at most those of the largest tile
    /// - `a`: `[rows, depth]`
    /// - `b`: a panel `[depth, self.cols()]`, dense; columns from `cols` on are ignored
    ///
    /// # Panics
    /// On any other shape.
    pub(super) fn multiply_tile(&self, mut c: ViewMut, a: View, b: &[f32], factors: Factors) {
        let (rows, cols, depth) = (c.rows(), c.cols(), a.cols());
        assert!(a.rows() == rows && (1..=self.cols()).contains(&cols));
        assert!(b.len() >= depth * self.cols());
        let tile = Tile {
            a: a.as_ptr(),
            a_row_stride: a.row_stride(),
            a_col_stride: a.col_stride(),
            b: b.as_ptr(),
            c: c.as_mut_ptr(),
            c_row_stride: c.row_stride(),
            cols,
            depth,
            factors,
        };
        let multiply = self.tiles[rows - 1][(cols - 1) / self.lanes];
        // SAFETY: `available` found the instructions of this kernel. The function reads `rows * depth`
        // elements of `a` and writes `rows * cols` elements of `c`, all inside their views, and reads
        // `depth` rows of the panel, whose length was checked above.
        unsafe { multiply(&tile) };
    }
}

/// Side of the squares in which matrices are transposed.
pub(super) const SQUARE: usize = 4;

/// The transpose of a square, in instructions that the compiler does not find by itself: element by
/// element, `Q K^T` of an attention head takes 6 % longer.
pub(super) fn transpose_square(rows: [[f32; SQUARE]; SQUARE]) -> [[f32; SQUARE]; SQUARE] {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::*;
        use std::mem::transmute;
        // SAFETY: every x86-64 processor has SSE, and the arrays have the size of its vectors.
        unsafe {
            let [mut a, mut b, mut c, mut d] =
                transmute::<[[f32; SQUARE]; SQUARE], [__m128; SQUARE]>(rows);
            _MM_TRANSPOSE4_PS(&mut a, &mut b, &mut c, &mut d);
            transmute::<[__m128; SQUARE], [[f32; SQUARE]; SQUARE]>([a, b, c, d])
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    std::array::from_fn(|i| rows.map(|row| row[i]))
}

/// The vector operations a tile needs.
///
/// # Safety
/// The processor has the instructions; pointers are good for the elements named.
trait Simd {
    type Vector: Copy;
    const LANES: usize;

    /// Asks for a line of memory; any address will do.
    fn prefetch(address: *const f32);
    unsafe fn splat(value: f32) -> Self::Vector;
    unsafe fn load(from: *const f32) -> Self::Vector;
    /// `a * b + c`
    unsafe fn multiply_add(a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;
    /// Reads `count` elements, 1 to `LANES`, and no other.
    unsafe fn load_first(count: usize, from: *const f32) -> Self::Vector;
    /// Writes `count` elements, 1 to `LANES`, and no other.
    unsafe fn store_first(count: usize, to: *mut f32, vector: Self::Vector);
}

/// The tile of `ROWS` rows and `N` vectors, the last of them possibly cut short.
///
/// # Safety
/// As [`TileFn`]. Inlined into a function with the target features of `S`: on its own it would pass
/// vectors through memory.
#[inline(always)]
unsafe fn tile<S: Simd, const ROWS: usize, const N: usize>(tile: &Tile) {
    // SAFETY: promised by the caller. Pointers advance by wrapping, because after the last step they
    // may stand beyond their operand.
    unsafe {
        let mut sums = [[S::splat(0.0); N]; ROWS];
        let (mut a, mut b) = (tile.a, tile.b);
        // Far from where it was last used, and needed at the end.
        for i in 0..ROWS {
            for v in 0..N {
                S::prefetch(tile.c.wrapping_add(i * tile.c_row_stride + v * S::LANES));
            }
        }
        for _ in 0..tile.depth {
            let mut b_vectors = [S::splat(0.0); N];
            for (v, vector) in b_vectors.iter_mut().enumerate() {
                *vector = S::load(b.add(v * S::LANES));
            }
            for (i, row) in sums.iter_mut().enumerate() {
                let a_element = S::splat(*a.add(i * tile.a_row_stride));
                for (sum, vector) in row.iter_mut().zip(b_vectors) {
                    *sum = S::multiply_add(a_element, vector, *sum);
                }
            }
            // The ends of a column to come: columns of a transposed `A` lie pages apart, where the
            // processor does not look ahead by itself.
            let ahead = a.wrapping_add(AHEAD * tile.a_col_stride);
            S::prefetch(ahead);
            S::prefetch(ahead.wrapping_add((ROWS - 1) * tile.a_row_stride));
            a = a.wrapping_add(tile.a_col_stride);
            b = b.wrapping_add(VECTORS * S::LANES);
        }
        let alpha = S::splat(tile.factors.alpha);
        for (i, row) in sums.iter().enumerate() {
            for (v, &sum) in row.iter().enumerate() {
                let c = tile.c.add(i * tile.c_row_stride + v * S::LANES);
                let count = (tile.cols - v * S::LANES).min(S::LANES);
                let before = if tile.factors.accumulate {
                    S::load_first(count, c)
                } else {
                    S::splat(0.0)
                };
                S::store_first(count, c, S::multiply_add(alpha, sum, before));
            }
        }
    }
}

/// A table of `$function` for these heights and every width.
macro_rules! tiles {
    ($function:ident: $($rows:literal)*) => {
        &[$([$function::<$rows, 1>, $function::<$rows, 2>]),*]
    };
}

#[cfg(target_arch = "x86_64")]
use x86::{AVX2_TILES, AVX512_TILES, Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{Simd, Tile, TileFn, VECTORS, tile};

    /// 32 registers: 28 hold the tile, 2 a row of `B`; elements of `A` are broadcast by the multiply.
    pub(super) const AVX512_TILES: &[[TileFn; VECTORS]] =
        tiles!(avx512: 1 2 3 4 5 6 7 8 9 10 11 12 13 14);

    /// 16 registers: 12 hold the tile, 2 a row of `B`, 1 an element of `A`.
    pub(super) const AVX2_TILES: &[[TileFn; VECTORS]] = tiles!(avx2: 1 2 3 4 5 6);

    #[target_feature(enable = "avx512f")]
    unsafe fn avx512<const ROWS: usize, const N: usize>(operands: &Tile) {
        // SAFETY: the same promise.
        unsafe { tile::<Avx512, ROWS, N>(operands) }
    }

    #[target_feature(enable = "avx2,fma")]
    unsafe fn avx2<const ROWS: usize, const N: usize>(operands: &Tile) {
        // SAFETY: the same promise.
        unsafe { tile::<Avx2, ROWS, N>(operands) }
    }

    pub(super) struct Avx512;

    // SAFETY of every call: the trait's promise.
    impl Simd for Avx512 {
        type Vector = __m512;
        const LANES: usize = 16;

        #[inline(always)]
        fn prefetch(address: *const f32) {
            // SAFETY: every x86-64 processor has the instruction, and it never faults.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
        }

        #[inline(always)]
        unsafe fn splat(value: f32) -> __m512 {
            unsafe { _mm512_set1_ps(value) }
        }

        #[inline(always)]
        unsafe fn load(from: *const f32) -> __m512 {
            unsafe { _mm512_loadu_ps(from) }
        }

        #[inline(always)]
        unsafe fn multiply_add(a: __m512, b: __m512, c: __m512) -> __m512 {
            unsafe { _mm512_fmadd_ps(a, b, c) }
        }

        #[inline(always)]
        unsafe fn load_first(count: usize, from: *const f32) -> __m512 {
            unsafe { _mm512_maskz_loadu_ps(0xffff >> (16 - count), from) }
        }

        #[inline(always)]
        unsafe fn store_first(count: usize, to: *mut f32, vector: __m512) {
            unsafe { _mm512_mask_storeu_ps(to, 0xffff >> (16 - count), vector) }
        }
    }

    pub(super) struct Avx2;

    // SAFETY of every call: the trait's promise.
    impl Simd for Avx2 {
        type Vector = __m256;
        const LANES: usize = 8;

        #[inline(always)]
        fn prefetch(address: *const f32) {
            // SAFETY: every x86-64 processor has the instruction, and it never faults.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
        }

        #[inline(always)]
        unsafe fn splat(value: f32) -> __m256 {
            unsafe { _mm256_set1_ps(value) }
        }

        #[inline(always)]
        unsafe fn load(from: *const f32) -> __m256 {
            unsafe { _mm256_loadu_ps(from) }
        }

        #[inline(always)]
        unsafe fn multiply_add(a: __m256, b: __m256, c: __m256) -> __m256 {
            unsafe { _mm256_fmadd_ps(a, b, c) }
        }

        #[inline(always)]
        unsafe fn load_first(count: usize, from: *const f32) -> __m256 {
            unsafe {
                if count == Self::LANES {
                    return _mm256_loadu_ps(from);
                }
                let mut elements = [0.0; Self::LANES];
                from.copy_to_nonoverlapping(elements.as_mut_ptr(), count);
                _mm256_loadu_ps(elements.as_ptr())
            }
        }

        #[inline(always)]
        unsafe fn store_first(count: usize, to: *mut f32, vector: __m256) {
            unsafe {
                if count == Self::LANES {
                    return _mm256_storeu_ps(to, vector);
                }
                let mut elements = [0.0; Self::LANES];
                _mm256_storeu_ps(elements.as_mut_ptr(), vector);
                to.copy_from_nonoverlapping(elements.as_ptr(), count);
            }
        }
    }
}

/// Four rows of two vectors: what the 16 registers of SSE2 or the 32 of NEON hold.
const PORTABLE_TILES: &[[TileFn; VECTORS]] = tiles!(portable: 1 2 3 4);

unsafe fn portable<const ROWS: usize, const N: usize>(operands: &Tile) {
    // SAFETY: the same promise.
    unsafe { tile::<Portable, ROWS, N>(operands) }
}

/// Arrays, which the compiler turns into the vectors of its target.
struct Portable;

// SAFETY of every call: the trait's promise.
impl Simd for Portable {
    type Vector = [f32; 4];
    const LANES: usize = 4;

    #[inline(always)]
    fn prefetch(_: *const f32) {}

    #[inline(always)]
    unsafe fn splat(value: f32) -> [f32; 4] {
        [value; 4]
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> [f32; 4] {
        unsafe { from.cast::<[f32; 4]>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn multiply_add(a: [f32; 4], b: [f32; 4], mut c: [f32; 4]) -> [f32; 4] {
        for i in 0..4 {
            // Without the instruction, `mul_add` is a slow call.
            if cfg!(any(target_feature = "fma", target_arch = "aarch64")) {
                c[i] = a[i].mul_add(b[i], c[i]);
            } else {
                c[i] += a[i] * b[i];
            }
        }
        c
    }

    #[inline(always)]
    unsafe fn load_first(count: usize, from: *const f32) -> [f32; 4] {
        let mut vector = [0.0; 4];
        unsafe { from.copy_to_nonoverlapping(vector.as_mut_ptr(), count) };
        vector
    }

    #[inline(always)]
    unsafe fn store_first(count: usize, to: *mut f32, vector: [f32; 4]) {
        unsafe { to.copy_from_nonoverlapping(vector.as_ptr(), count) };
    }
}
