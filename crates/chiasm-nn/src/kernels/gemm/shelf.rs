//! Weights that stay as they are, packed once for every product with them.
//!
//! A model that is only read multiplies with the same matrices in every call, and packing them again costs up to a
//! fifth of a small batch, and most of a single text. Whoever holds such a matrix in memory puts it on the shelf by its
//! place there; the first product with it leaves its packed form, which the later ones find. What is on the shelf must
//! not change or move before it is taken off: `super::super::bridge` holds the tensor for as long.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use super::bf16::Halved;
use super::int8::Rounded;
use super::narrow::Narrow;
use super::pack::Packed;
use super::view::View;
use crate::packed::Precision;

/// A packed matrix.
#[derive(Clone)]
pub(super) enum Kept {
    /// As it is.
    Whole(Arc<Packed>),
    /// In fewer bits.
    Narrow(Arc<dyn Narrow>),
}

impl Kept {
    fn new(b: View, precision: Precision) -> Self {
        match precision {
            Precision::F32 => Self::Whole(Arc::new(Packed::new(b))),
            Precision::Bf16 => Self::Narrow(Arc::new(Halved::new(b))),
            Precision::Int8 => Self::Narrow(Arc::new(Rounded::new(b))),
        }
    }

    fn shape(&self) -> [usize; 2] {
        match self {
            Self::Whole(packed) => [packed.rows(), packed.cols()],
            Self::Narrow(packed) => [packed.rows(), packed.cols()],
        }
    }
}

/// A matrix on the shelf.
#[derive(Default)]
struct Slot {
    /// Who put it there and has not taken it off.
    holders: usize,
    precision: Precision,
    packed: Arc<OnceLock<Kept>>,
}

/// Matrices by where their first element is and how many they have.
static SHELF: OnceLock<RwLock<HashMap<(usize, usize), Slot>>> = OnceLock::new();
/// How many there are: training has none, and asks nobody.
static COUNT: AtomicUsize = AtomicUsize::new(0);

fn place(values: &[f32]) -> (usize, usize) {
    (values.as_ptr().addr(), values.len())
}

/// Puts the matrix that `values` are on the shelf. Where it lies there already, it stays as it is.
pub(crate) fn put(values: &[f32], precision: Precision) {
    let shelf = SHELF.get_or_init(RwLock::default);
    let mut slots = shelf.write().unwrap_or_else(PoisonError::into_inner);
    let slot = slots.entry(place(values)).or_insert_with(|| Slot {
        precision,
        ..Slot::default()
    });
    slot.holders += 1;
    COUNT.store(slots.len(), Ordering::Release);
}

/// Takes it off again, once for each time that it was put there.
pub(crate) fn take_off(values: &[f32]) {
    let Some(shelf) = SHELF.get() else {
        return;
    };
    let mut slots = shelf.write().unwrap_or_else(PoisonError::into_inner);
    if let Some(slot) = slots.get_mut(&place(values)) {
        slot.holders -= 1;
        if slot.holders == 0 {
            slots.remove(&place(values));
        }
    }
    COUNT.store(slots.len(), Ordering::Release);
}

/// The packed form of `b`, where it is a whole matrix of the shelf.
pub(super) fn find(b: View) -> Option<Kept> {
    if COUNT.load(Ordering::Acquire) == 0 || b.row_stride() != b.cols() || !b.is_row_major() {
        return None;
    }
    let slots = SHELF.get()?.read().unwrap_or_else(PoisonError::into_inner);
    let slot = slots.get(&(b.as_ptr().addr(), b.rows() * b.cols()))?;
    let (packed, precision) = (Arc::clone(&slot.packed), slot.precision);
    drop(slots);
    let kept = packed.get_or_init(|| Kept::new(b, precision));
    // The same numbers may be read as a matrix of another shape.
    (kept.shape() == [b.rows(), b.cols()]).then(|| kept.clone())
}
