//! The one thing that a way to other ranks must be able to do.

use std::sync::Arc;

/// What travels from one rank to another: never empty, and at most 2^31 - 1 bytes.
pub type Parcel = Arc<Vec<u8>>;

/// The ranks that nothing came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Silent(pub Vec<usize>);

/// A way to the other ranks.
pub trait Link: Send + Sync {
    /// This rank, counted from 0.
    fn rank(&self) -> usize;

    /// How many there are.
    fn count(&self) -> usize;

    /// Gives parcel r to rank r, and returns what each rank gave to this one, in their order; the own
    /// parcel comes back. All ranks call it equally often. `wait` is asked several times a second whether to
    /// go on waiting; after an error nothing more is exchanged.
    ///
    /// # Errors
    /// The ranks that nothing came from until `wait` said no.
    fn exchange(
        &self,
        parcels: Vec<Parcel>,
        wait: &dyn Fn() -> bool,
    ) -> Result<Vec<Parcel>, Silent>;
}
