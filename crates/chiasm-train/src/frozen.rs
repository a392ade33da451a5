//! What a frozen image tower makes of pictures, computed once a picture.
//!
//! A tower that is not trained gives the same for the same pixels in every step. Where pictures are not
//! varied either, its output is kept in memory under the digest of those pixels, and whatever shows them
//! again reads it instead of running the tower: a later epoch, another question about the same photo, a
//! grey picture. Each picture goes through it by itself: the last bits of an output depend on where its
//! rows lie in a batch, and a run that is resumed meets its pictures in other batches than one that was
//! not stopped.

use std::collections::HashMap;

use burn::tensor::Tensor;
use chiasm_data::HostBatch;
use chiasm_nn::compute::Autograd;
use chiasm_nn::model::Seen;
use chiasm_nn::{Spans, Tokens, VisionLanguageModel};
use chiasm_objective::plan::{ForwardPlan, ImageView};

use crate::recipe::Recipe;

/// Bytes of a number that is kept.
const BYTES: usize = 4;

/// Outputs of the tower that were computed so far.
#[derive(Debug)]
pub(crate) struct FrozenImages {
    /// `[tokens, width]` without gradient, by the digest of a picture's pixels.
    kept: HashMap<blake3::Hash, Tensor<2>>,
    /// Bytes that may still be taken.
    room: usize,
    /// Whether all tokens of an image are read, or its class token alone.
    whole: bool,
}

/// Memory that the output for a picture takes.
fn bytes(rows: &Tensor<2>) -> usize {
    rows.dims().iter().product::<usize>() * BYTES
}

impl FrozenImages {
    /// For the runs of a recipe, of `pictures` pictures a text; `None` where a picture's output changes
    /// from step to step, or nothing is to be kept.
    pub(crate) fn new(recipe: &Recipe, pictures: usize) -> Option<Self> {
        let augment = &recipe.augment;
        let varied = augment.crop.is_some() || augment.flip > 0.0 || augment.rand_augment.is_some();
        // The table of frames is trained also where the tower is frozen, and frames are drawn.
        let still = recipe.model.regions.is_none() && recipe.model.vision.max_frames == 0;
        let room = recipe.weights.cache_mb << 20;
        if !recipe.weights.frozen_towers().vision || varied || !still || room == 0 {
            return None;
        }
        let plan = ForwardPlan::new(&recipe.objectives, pictures)
            .contrasting_fused(&recipe.objectives, !recipe.model.sums_up_both());
        plan.images.contains(&ImageView::Complete).then(|| Self {
            kept: HashMap::new(),
            room,
            whole: (plan.fusions.iter()).any(|pass| pass.image == ImageView::Complete),
        })
    }

    /// What the tower gives for the complete images of a batch. Images that it has not seen yet go
    /// through it, and are kept while there is room.
    pub(crate) fn images(
        &mut self,
        model: &VisionLanguageModel,
        seen: &Seen,
        batch: &HostBatch,
    ) -> Option<Tokens> {
        let (Seen::Pixels(pixels), Some(vision)) = (seen, &model.vision) else {
            return None;
        };
        let pictures = pixels.dims()[0].max(1);
        let values: &[u8] = bytemuck::cast_slice(&batch.pixel_values);
        let digests = values.chunks_exact((values.len() / pictures).max(1));
        let mut rows = Vec::with_capacity(pictures);
        for (place, digest) in digests.map(blake3::hash).enumerate() {
            if let Some(known) = self.kept.get(&digest) {
                rows.push(known.clone());
                continue;
            }
            let own = pixels.clone().narrow(0, place, 1);
            let patches = model.embed(&Seen::Pixels(own))?;
            let tokens = vision.encode_where(&patches, 1, |_| self.whole);
            let own = tokens.rows.detach().inner();
            self.keep(digest, &own);
            rows.push(own);
        }
        let spans = Spans::new(rows.iter().map(|rows| rows.dims()[0]));
        Some(Tokens {
            rows: Autograd::of(pixels).constant(Tensor::cat(rows, 0)),
            spans,
        })
    }

    /// Forgets everything: other weights came into the model.
    pub(crate) fn clear(&mut self) {
        self.room += self.kept.values().map(bytes).sum::<usize>();
        self.kept.clear();
    }

    fn keep(&mut self, digest: blake3::Hash, rows: &Tensor<2>) {
        if let Some(room) = self.room.checked_sub(bytes(rows)) {
            self.room = room;
            self.kept.insert(digest, rows.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};
    use chiasm_data::{Dataset, Loader, LoaderConfig, Part, Preprocess, Split, Views, builtin};
    use chiasm_nn::layers::Init;
    use std::sync::Arc;

    use super::*;

    const RECIPE: &str = r#"
        [objectives.contrastive]
        [objectives.matching]
        [weights]
        freeze = ["vision"]
        [model.text]
        hidden_size = 8
        layers = 1
        num_heads = 2
        [model.fusion]
        hidden_size = 8
        num_heads = 2
        [model.vision]
        image_size = 8
        patch_size = 4
        hidden_size = 8
        layers = 1
        num_heads = 2
    "#;

    fn recipe(more: &str) -> Recipe {
        Recipe::from_toml(&format!("{RECIPE}{more}"), "test").unwrap()
    }

    #[test]
    fn runs_only_where_the_output_stays() {
        let is_kept = |more: &str| FrozenImages::new(&recipe(more), 1).is_some();
        assert!(is_kept(""));
        assert!(!is_kept("max_frames = 2"));
        assert!(!is_kept("[augment]\nflip = 0.5"));
        let none = RECIPE.replace("[weights]", "[weights]\ncache_mb = 0");
        let none = Recipe::from_toml(&none, "test").unwrap();
        assert!(FrozenImages::new(&none, 1).is_none());
        let trained = Recipe::from_toml(&RECIPE.replace("\"vision\"", ""), "test").unwrap();
        assert!(FrozenImages::new(&trained, 1).is_none());
    }

    /// The first and third batch are of the same samples: for the third, the tower is not asked.
    #[test]
    fn what_is_known_is_not_computed_again() {
        let recipe = recipe("");
        let device = Device::flex();
        let set: Arc<Dataset> = Arc::new(builtin::emoji().unwrap().subset(Split::Val));
        let texts = set.samples.iter().flat_map(|sample| sample.texts.iter());
        let texts: Vec<&str> = texts.map(String::as_str).collect();
        let kind = chiasm_data::TokenizerKind::WordPiece;
        let tokenizer = chiasm_data::TextTokenizer::train(texts, kind, 300).unwrap();
        let config = LoaderConfig {
            batch_size: 3,
            seed: 0,
            max_text_len: 8,
            preprocess: Preprocess::new(8),
            views: Views::default(),
            blind: false,
            regions: None,
            targets: None,
            chunk: None,
            part: Part::WHOLE,
            train: false,
            cache_bytes: 0,
            threads: 1,
        };
        let loader = Loader::new(set, Arc::new(tokenizer), config).unwrap();
        let batch = |step| {
            let batch = loader.batch(step).unwrap();
            let pixels = TensorData::new(batch.pixel_values.clone(), [3, 1, 3, 8, 8]);
            (Seen::Pixels(Tensor::from_data(pixels, &device)), batch)
        };
        let device = device.clone().autodiff();
        let model = |seed| {
            let init = Init::new(seed, 0.1, &device);
            VisionLanguageModel::new(&init, &recipe.model)
        };
        let values = |tokens: Tokens| tokens.rows.into_data().try_into_vec::<f32>().unwrap();
        let mut frozen = FrozenImages::new(&recipe, 1).unwrap();
        let mut run = |model: &VisionLanguageModel, step| {
            let (seen, batch) = batch(step);
            let Seen::Pixels(pixels) = seen else {
                panic!("pixels")
            };
            let seen = Seen::Pixels(Tensor::from_inner(pixels));
            values(frozen.images(model, &seen, &batch).unwrap())
        };
        let (one, other) = (model(1), model(2));
        let first = run(&one, 0);
        assert_ne!(run(&one, 1), first);
        assert_eq!(run(&other, 0), first, "kept from before");
        frozen.clear();
        let (seen, batch) = batch(0);
        let Seen::Pixels(pixels) = seen else {
            panic!("pixels")
        };
        let seen = Seen::Pixels(Tensor::from_inner(pixels));
        assert_ne!(values(frozen.images(&other, &seen, &batch).unwrap()), first);
    }
}
