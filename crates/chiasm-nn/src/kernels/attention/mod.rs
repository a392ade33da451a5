//! Attention sub-layers: norm, projections, attention, output map, dropout and residual as one
//! operation.
//!
//! [`heads`] is attention itself, over the projected tokens of [`projected`]; [`keep`] and [`gate`]
//! say what of a row of scores counts. [`sublayer`] is what surrounds it, the same for tokens that attend to their own sequence and to another; the two
//! operations differ in where keys and values come from.

mod cross_attention;
mod gate;
mod heads;
mod heads_backward;
mod keep;
mod map;
mod projected;
mod self_attention;
mod sublayer;
#[cfg(test)]
mod tests;

pub(crate) use cross_attention::CrossAttention;
pub use heads::Scope;
pub(crate) use keep::{Blocks, Fallback, Keep, Place, Rule, Side};
pub(crate) use self_attention::SelfAttention;
pub(crate) use sublayer::Form as AttentionForm;
