//! Groups found without labels as pseudo-labels (ITR, `specs/itr.md` section 2.2): the loss of a head that
//! learns them. Finding them, chunk by chunk, is the loop's.

use burn::tensor::Tensor;
use chiasm_nn::heads::ClusterHead;

/// Mean cross-entropy of the groups that pairs are in (section 2.2); 0 when there is no pair.
///
/// # Shapes
/// - vector: of the pairs, `[batch, pooled]`; labels: the group of each, `[batch]`
/// - output: `[1]`
#[must_use]
pub fn cluster_loss(head: &ClusterHead, vector: Tensor<2>, labels: &[u32]) -> Tensor<1> {
    head.out.cross_entropy(vector, labels)
}
