//! Fused operations for CPUs, each with a backward pass derived by hand.
//!
//! [`operation`] says what an operation is, the modules beside it hold one kind each, and
//! [`bridge`] makes any of them an operation on the framework's tensors. Nothing but the bridge
//! knows the framework.

mod attention;
mod bridge;
mod dropout;
mod embed;
mod feed_forward;
mod gemm;
mod linear;
mod loss;
mod math;
mod norm;
mod operation;
mod rows;
#[cfg(test)]
mod testing;

pub use attention::Scope;
pub(crate) use attention::{
    AttentionForm, Blocks, CrossAttention, Fallback, Keep, Place, Rule, SelfAttention, Side,
};
pub(crate) use bridge::{Held, apply, edit};
pub(crate) use dropout::Dropout;
pub(crate) use embed::Embed;
pub(crate) use feed_forward::FeedForward;
pub(crate) use gemm::{bf16_pays, int8_pays};
pub(crate) use linear::Linear;
pub(crate) use loss::{Among, Contrast, CrossEntropy, FACTS, Similarities};
pub(crate) use norm::{LayerNorm, Norm};
