//! Groups found without labels as pseudo-labels (ITR, `specs/itr.md` section 2.2): what groups are found
//! in, and the loss of a head that learns them. Finding them, chunk by chunk, is the loop's.

use burn::tensor::Tensor;
use chiasm_nn::VisionLanguageModel;
use chiasm_nn::heads::ClusterHead;
use chiasm_nn::model::Seen;
use chiasm_nn::text::TextInput;

/// Mean cross-entropy of the groups that pairs are in (section 2.2); 0 when there is no pair.
///
/// # Shapes
/// - vector: of the pairs, `[batch, pooled]`; labels: the group of each, `[batch]`
/// - output: `[1]`
#[must_use]
pub fn cluster_loss(head: &ClusterHead, vector: Tensor<2>, labels: &[u32]) -> Tensor<1> {
    head.out.cross_entropy(vector, labels)
}

/// What stands beside the text in a view.
#[derive(Clone, Copy, Debug)]
pub enum Beside<'a> {
    /// What is to be seen.
    Image(&'a Seen),
    /// Another text, such as what is written in the image.
    Text(&'a TextInput),
}

/// What groups are found in (`ClusterView`): the vector of text and image, or the summaries of two
/// texts side by side, `[batch, width]`. `None` of what the model has no eyes for.
#[must_use]
pub fn view_vector(
    model: &VisionLanguageModel,
    text: &TextInput,
    beside: Beside<'_>,
) -> Option<Tensor<2>> {
    // Without a fusion encoder the first tokens are all that is read.
    let whole = !model.is_towers_alone();
    let encode = |text: &TextInput| model.encode_text_where(text, |_| whole);
    Some(match beside {
        Beside::Image(seen) => {
            let frames = seen.class_tokens();
            let image = model.encode_where(&model.embed(seen)?, frames, |_| whole);
            model.pair_vector(&encode(text), &image, frames)
        }
        Beside::Text(other) => {
            let vectors = [text, other].map(|text| model.text_vector(&encode(text)));
            Tensor::cat(vectors.to_vec(), 1)
        }
    })
}
