//! What regions are called, by the nearest text.
//!
//! A tower that was trained together with a text tower puts pictures near the texts that describe them. The name
//! of a region is the one whose text lies nearest to its feature, the confidence a softmax over all names
//! (`specs/tbkin.md` section 9.2, option C). Towers of pictures alone cannot name anything.

use burn::tensor::Tensor;
use burn::tensor::activation::softmax;
use chiasm_nn::layers::normalize;

use crate::provider::RegionError;
use crate::tower::host;

/// Sharpness of the softmax over names: cosines are divided by it.
const TEMPERATURE: f64 = 0.01;

/// Names and their texts' vectors.
#[derive(Clone)]
pub struct Names {
    /// What they are, by id.
    pub names: Vec<String>,
    /// Their vectors of length 1, `[names, projection]`.
    pub embeds: Tensor<2>,
}

/// Names of things and of what they are like, in the space of an aligned tower.
#[derive(Clone)]
pub struct Naming {
    /// Objects.
    pub objects: Names,
    /// Attributes.
    pub attributes: Names,
}

impl Names {
    /// Id and confidence of the nearest name of each feature, `[regions, projection]`; of equal ones the first.
    ///
    /// # Errors
    /// If the device fails.
    pub(crate) fn nearest(&self, features: Tensor<2>) -> Result<(Vec<i64>, Vec<f32>), RegionError> {
        let cosines = normalize(features).matmul(self.embeds.clone().transpose());
        let shares = host(softmax(cosines / TEMPERATURE, 1))?;
        let best = shares.chunks_exact(self.names.len().max(1)).map(|shares| {
            let mut best = (0, f32::NEG_INFINITY);
            for (id, share) in (0..).zip(shares) {
                if *share > best.1 {
                    best = (id, *share);
                }
            }
            best
        });
        Ok(best.unzip())
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};

    use super::*;

    #[test]
    fn the_nearest_name_and_how_sure() {
        let device = Device::flex();
        let tensor = |values: &[f32], rows| {
            Tensor::from_data(TensorData::new(values.to_vec(), [rows, 2]), &device)
        };
        let names = Names {
            names: vec!["dog".to_owned(), "cat".to_owned()],
            embeds: tensor(&[1.0, 0.0, 0.6, 0.8], 2),
        };
        let (ids, scores) = names
            .nearest(tensor(&[5.0, 0.1, 3.0, 4.0, 2.0, 1.0], 3))
            .unwrap();
        assert_eq!(ids[..2], [0, 1]);
        // The cosines of the third are 2 / sqrt(5) and 2 / sqrt(5): a tie but for rounding.
        assert!(
            scores[0] > 0.99 && scores[1] > 0.99 && (scores[2] - 0.5).abs() < 0.01,
            "{scores:?}"
        );
    }
}
