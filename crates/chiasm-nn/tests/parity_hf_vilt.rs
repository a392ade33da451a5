//! ViLT against transformers 4.46.3 (`fixtures/hf/vilt`).
//!
//! Compared are the words and the class token of every picture, and the patches that hold any of
//! it: patches that are padding come after them in the reference, and no other token looks at them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed unwrap here is the failed test"
)]
#![allow(dead_code, reason = "each test uses a part of what they share")]

mod joint;

use burn::tensor::{Tensor, TensorData};
use chiasm_nn::model::Seen;
use chiasm_nn::published::family::Family;
use chiasm_nn::published::pairs::{PairError, Pictures};
use chiasm_nn::published::vilt::Vilt;
use joint::hub::with_both_kernels;
use joint::{
    Batch, configurations_are_refused, joined, of_our_own, on_every_batch, task_files_load,
};
use serde_json::json;

const CASE: &str = "hf/vilt";
const PATCH: usize = 8;

fn pictures(batch: &Batch<'_>) -> Pictures {
    let mask = batch.input("pixel_mask");
    let [_, height, width] = mask.shape[..] else {
        panic!("a mask of pixels");
    };
    let size = |mask: &[f64]| {
        let rows = mask.iter().step_by(width).sum::<f64>() as usize;
        let columns = mask[..width].iter().sum::<f64>() as usize;
        assert_eq!((rows * columns) as f64, mask.iter().sum::<f64>());
        [rows, columns]
    };
    let sizes = mask.values.chunks_exact(height * width).map(size);
    Pictures {
        sizes: sizes.collect(),
        pixel_values: batch.pixels(),
    }
}

/// Class token and patches of every picture among those of the padded one.
fn seen(pictures: &Pictures) -> Vec<i64> {
    let [_, _, height, width] = pictures.pixel_values.dims();
    let len = 1 + height / PATCH * (width / PATCH);
    let of = |[height, width]: &[usize; 2]| {
        let real = 1 + height.div_ceil(PATCH) * width.div_ceil(PATCH);
        (0..len).map(move |at| i64::from(at < real))
    };
    pictures.sizes.iter().flat_map(of).collect()
}

#[test]
fn parity_hf_vilt() {
    on_every_batch(CASE, |model: &Vilt, batch| {
        let (texts, words) = batch.texts();
        let pictures = pictures(batch);
        let mask = joined(texts.spans.batch(), &words, &seen(&pictures));
        let hidden = model.forward(&texts, &pictures).unwrap();
        batch.check_tokens("last_hidden_state", &hidden, &mask);
        let pooled = model.embed_pairs(&texts, &pictures).unwrap();
        batch.check("pooler_output", pooled);
    });
}

/// On squares of the size whose positions were learned, where nothing has to be stretched.
#[test]
fn a_model_of_our_own_is_the_same() {
    with_both_kernels(CASE, |hub| {
        let published = joint::model::<Vilt>(hub);
        let own = of_our_own(hub, Family::Vilt);
        let (texts, _) = hub.text("a");
        let side = published.vision.image_size();
        let shape = [texts.spans.batch(), 3, side, side];
        let values =
            (0..shape.iter().product()).map(|at: usize| (at * 37 % 101) as f32 / 50.0 - 1.0);
        let data = TensorData::new(values.collect::<Vec<_>>(), shape);
        let pixel_values = Tensor::from_data(data, &hub.device);
        let pictures = Pictures {
            sizes: vec![[side; 2]; shape[0]],
            pixel_values,
        };
        let expected = published.embed_pairs(&texts, &pictures).unwrap();
        let seen = Seen::Pixels(pictures.pixel_values.unsqueeze_dim(1));
        let found = own.pair_vector(&texts, &seen).unwrap();
        let gap = (found - expected).abs().max().into_scalar::<f32>();
        assert!(gap < 1e-5, "{gap}");
    });
}

#[test]
fn files_of_tasks_load() {
    let heads = [
        "classifier.3.weight",
        "mlm_score.decoder.weight",
        "rank_output.weight",
        "vilt.embeddings.text_embeddings.position_ids",
    ];
    task_files_load::<Vilt>(CASE, |name| format!("vilt.{name}"), &heads);
}

#[test]
fn configurations_of_other_models_are_refused() {
    configurations_are_refused::<Vilt>(
        CASE,
        &[
            ("model_type", json!("vit")),
            ("image_size", json!(0)),
            ("patch_size", json!(7)),
            ("num_channels", json!(1)),
            ("qkv_bias", json!(false)),
            ("modality_type_vocab_size", json!(1)),
            ("num_hidden_layers", json!(0)),
        ],
    );
}

#[test]
fn pictures_that_do_not_fit_are_refused() {
    on_every_batch(CASE, |model: &Vilt, batch| {
        let (texts, _) = batch.texts();
        let good = pictures(batch);
        let refused = |pictures| model.embed_pairs(&texts, &pictures).unwrap_err();

        let mut pictures = good.clone();
        pictures.sizes.pop();
        assert!(matches!(refused(pictures), PairError::Count { .. }));

        for size in [[0, 32], [32, 0], [33, 32], [32, usize::MAX]] {
            let mut pictures = good.clone();
            pictures.sizes[1] = size;
            assert!(matches!(
                refused(pictures),
                PairError::Size { picture: 1, .. }
            ));
        }
        for (axis, len) in [(1, 1), (2, 7), (3, 7)] {
            let mut pictures = good.clone();
            pictures.pixel_values = good.pixel_values.clone().narrow(axis, 0, len);
            assert!(matches!(refused(pictures), PairError::Pixels { .. }));
        }
    });
}

/// A picture gives the same whether it is filled up for the company of a larger one or not.
#[test]
fn what_a_picture_is_filled_up_with_changes_nothing() {
    on_every_batch(CASE, |model: &Vilt, batch| {
        let (texts, _) = batch.texts();
        let mut filled = pictures(batch);
        let batch = filled.sizes.len();
        filled.sizes = vec![[20, 32]; batch];
        let mut cut = filled.clone();
        // Rows 20 to 23 belong to a patch whose first pixels are picture.
        cut.pixel_values = cut.pixel_values.narrow(2, 0, 24);
        let [filled, cut] = [filled, cut].map(|pictures| {
            let pooled = model.embed_pairs(&texts, &pictures).unwrap();
            pooled.into_data().try_into_vec::<f32>().unwrap()
        });
        assert_eq!(filled, cut);
    });
}
