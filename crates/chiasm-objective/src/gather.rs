//! Negatives from other processes: what a contrast of all processes' features needs of them.
//!
//! Every process computes the whole contrast, its own features with gradients and those of the others
//! as constants. The derivative of the whole by the own features is then exact, and the gradients of
//! all processes **added up** are those of one process with all of the batch. (The published code's
//! gather, with gradients averaged, leaves 1 / processes of that: `specs/scl.md` section 2.1.) Losses
//! that look at own samples alone are means over them, and count for 1 / processes each:
//! [`crate::Losses::total_of`].

use burn::tensor::Tensor;

/// The other processes of a run.
pub trait Gather {
    /// How many processes there are, this one included.
    fn processes(&self) -> usize;

    /// The rows that the processes before this one have, and those that the later ones have, for the
    /// same features of the same step, without gradients; any of them may have none.
    ///
    /// All processes call it in the same order.
    fn others(&self, own: &Tensor<2>) -> [Tensor<2>; 2];

    /// All rows, in the order of the processes; gradients reach the own ones.
    fn all(&self, own: Tensor<2>) -> Tensor<2> {
        if self.processes() == 1 {
            return own;
        }
        let [before, after] = self.others(&own);
        let parts = [before, own, after].into_iter();
        Tensor::cat(parts.filter(|part| part.dims()[0] > 0).collect(), 0)
    }
}

/// A run of one process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Alone;

impl Gather for Alone {
    fn processes(&self) -> usize {
        1
    }

    fn others(&self, own: &Tensor<2>) -> [Tensor<2>; 2] {
        let [_, width] = own.dims();
        [(); 2].map(|()| Tensor::zeros([0, width], &own.device()))
    }
}
