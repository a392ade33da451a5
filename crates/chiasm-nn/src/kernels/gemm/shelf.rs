//! Weights that stay as they are, packed once for every product with them.
//!
//! A model that is only read multiplies with the same matrices in every call, and packing them again costs up to a
//! fifth of a small batch, and most of a single text. Whoever holds such a matrix in memory puts it on the shelf by its
//! place there; the first product with it leaves its packed form, which the later ones find. What is on the shelf must
//! not change or move before it is taken off: `super::super::bridge` holds the tensor for as long.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use super::pack::Packed;
use super::view::View;

/// A matrix on the shelf.
#[derive(Default)]
struct Slot {
    /// Who put it there and has not taken it off.
    holders: usize,
    packed: Arc<OnceLock<Arc<Packed>>>,
}

/// Matrices by where their first element is and how many they have.
static SHELF: OnceLock<RwLock<HashMap<(usize, usize), Slot>>> = OnceLock::new();
/// How many there are: training has none, and asks nobody.
static COUNT: AtomicUsize = AtomicUsize::new(0);

fn place(values: &[f32]) -> (usize, usize) {
    (values.as_ptr().addr(), values.len())
}

/// Puts the matrix that `values` are on the shelf.
pub(crate) fn put(values: &[f32]) {
    let shelf = SHELF.get_or_init(RwLock::default);
    let mut slots = shelf.write().unwrap_or_else(PoisonError::into_inner);
    slots.entry(place(values)).or_default().holders += 1;
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
pub(super) fn find(b: View) -> Option<Arc<Packed>> {
    if COUNT.load(Ordering::Acquire) == 0 || b.row_stride() != b.cols() || !b.is_row_major() {
        return None;
    }
    let slots = SHELF.get()?.read().unwrap_or_else(PoisonError::into_inner);
    let slot = slots.get(&(b.as_ptr().addr(), b.rows() * b.cols()))?;
    let packed = Arc::clone(&slot.packed);
    drop(slots);
    let packed = Arc::clone(packed.get_or_init(|| Arc::new(Packed::new(b))));
    // The same numbers may be read as a matrix of another shape.
    (packed.rows() == b.rows() && packed.cols() == b.cols()).then_some(packed)
}
