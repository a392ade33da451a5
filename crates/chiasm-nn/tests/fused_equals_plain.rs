//! The fused operations against the plain ones: results and every gradient, over random shapes and
//! lengths and at the shapes that break kernels.
#![allow(
    clippy::unwrap_used,
    reason = "a failed unwrap here is the failed test"
)]

use std::collections::BTreeMap;

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use chiasm_nn::compute::{self, Kernels};
use chiasm_nn::config::ProjectionKind;
use chiasm_nn::criterion::{Sides, contrast};
use chiasm_nn::fusion::FusionEncoder;
use chiasm_nn::heads::{MlmHead, Projection};
use chiasm_nn::layers::{Embedding, Init};
use chiasm_nn::select::{BlockName, FallbackName, RowsName, RuleName, SelectConfig};
use chiasm_nn::text::{TextEncoder, TextInput};
use chiasm_nn::tokens::Chosen;
use chiasm_nn::vision::VisionEncoder;
use chiasm_nn::weights::take_gradients;
use chiasm_nn::{
    Activation, Fused, FusionConfig, FusionKind, Spans, TextConfig, Tokens, VisionConfig, dropout,
};
use proptest::prelude::*;

/// Largest difference of one number, as a share of the largest in its tensor.
const TOLERANCE: f32 = 1e-4;

fn device() -> Device {
    Device::flex().autodiff()
}

/// Numbers without a pattern.
fn numbers(count: usize, seed: usize) -> Vec<f32> {
    (0..count)
        .map(|i| (((i + 1) * 7919 + seed * 104_729) as f32 * 0.618_034).sin())
        .collect()
}

fn tensor<const D: usize>(shape: [usize; D], seed: usize) -> Tensor<D> {
    let values = numbers(shape.iter().product(), seed);
    Tensor::from_data(TensorData::new(values, shape), &device())
}

fn tokens(lengths: &[usize], width: usize, seed: usize) -> Tokens {
    let spans = Spans::new(lengths.iter().copied());
    Tokens {
        rows: tensor([spans.tokens(), width], seed),
        spans,
    }
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_into_vec::<f32>().unwrap()
}

/// The results of `run` on inputs that want gradients, and all gradients, by name.
fn outcome<M: Module>(
    module: &M,
    inputs: &[Tensor<2>],
    run: impl Fn(&M, &[Tensor<2>]) -> Vec<Tensor<2>>,
) -> BTreeMap<String, Vec<f32>> {
    dropout::begin_step(5, &device());
    let inputs: Vec<Tensor<2>> = inputs
        .iter()
        .map(|input| input.clone().detach().require_grad())
        .collect();
    let results = run(module, &inputs);
    let mut all = BTreeMap::new();
    let mut total = Tensor::<1>::zeros([1], &device());
    for (index, result) in results.into_iter().enumerate() {
        all.insert(format!("result {index}"), values(result.clone()));
        let weights = tensor(result.dims(), 100 + index);
        total = total + (result * weights).sum();
    }
    let mut found = total.backward();
    take_gradients(module, &mut found, |path, _, gradient| {
        all.insert(path.name(), values(gradient));
    });
    for (index, input) in inputs.iter().enumerate() {
        if let Some(gradient) = input.grad(&found) {
            all.insert(format!("input {index}"), values(gradient));
        }
    }
    all
}

/// Both ways to compute give the same results and gradients.
fn same<M: Module>(
    module: &M,
    inputs: &[Tensor<2>],
    run: impl Fn(&M, &[Tensor<2>]) -> Vec<Tensor<2>>,
) {
    let plain = compute::with(Kernels::Plain, || outcome(module, inputs, &run));
    let fused = compute::with(Kernels::Fused, || outcome(module, inputs, &run));
    close(&fused, &plain, TOLERANCE);
}

fn close(found: &BTreeMap<String, Vec<f32>>, expected: &BTreeMap<String, Vec<f32>>, share: f32) {
    // A parameter that no token reached has no gradient on one side and zeros on the other.
    let moved = |all: &BTreeMap<String, Vec<f32>>| -> Vec<String> {
        let named = all.iter().filter(|(_, v)| v.iter().any(|x| *x != 0.0));
        named.map(|(name, _)| name.clone()).collect()
    };
    let largest = |values: &[f32]| values.iter().fold(0.0f32, |max, x| max.max(x.abs()));
    for name in moved(expected).iter().chain(&moved(found)) {
        let none = Vec::new();
        let (a, b) = (
            found.get(name).unwrap_or(&none),
            expected.get(name).unwrap_or(&none),
        );
        // Key biases change no probability: what is computed for them is rounding around zero.
        let floor = 2e-5;
        let allowed = share * largest(b) + floor;
        if b.is_empty() || a.is_empty() {
            assert!(
                largest(a).max(largest(b)) <= floor,
                "{name} on one side only"
            );
            continue;
        }
        assert_eq!(a.len(), b.len(), "{name}");
        for (index, (a, b)) in a.iter().zip(b).enumerate() {
            assert!(
                (a - b).abs() <= allowed,
                "{name}[{index}]: fused {a}, plain {b}, allowed {allowed}"
            );
        }
    }
}

/// Sizes of one random case.
#[derive(Clone, Debug)]
struct Sizes {
    heads: usize,
    head_size: usize,
    intermediate: usize,
    dropout: f64,
}

impl Sizes {
    fn width(&self) -> usize {
        self.heads * self.head_size
    }
}

fn sizes() -> impl Strategy<Value = Sizes> {
    let dropout = prop_oneof![Just(0.0), Just(0.3)];
    // A norm of two numbers gives their signs: where they are nearly equal, its gradient is rounding.
    (1..4usize, 3..21usize, 1..40usize, dropout).prop_map(
        |(heads, head_size, intermediate, dropout)| Sizes {
            heads,
            head_size,
            intermediate,
            dropout,
        },
    )
}

fn text_encoder(sizes: &Sizes, max_text_len: usize) -> TextEncoder {
    let config = TextConfig {
        vocab_size: 50,
        hidden_size: sizes.width(),
        layers: 2,
        num_heads: sizes.heads,
        intermediate_size: sizes.intermediate,
        max_text_len,
        position_offset: 2,
        type_rows: 2,
        dropout: sizes.dropout,
        layer_norm_eps: 1e-5,
        ..TextConfig::default()
    };
    TextEncoder::new(&Init::new(1, 0.2, &device()), &config)
}

fn check_text(sizes: &Sizes, lengths: &[usize]) {
    let longest = lengths.iter().max().copied().unwrap_or(0).max(1);
    let spans = Spans::new(lengths.iter().copied());
    let input = TextInput {
        ids: (0..spans.tokens()).map(|i| (i * 13 % 50) as u32).collect(),
        types: Some((0..spans.tokens()).map(|i| (i % 2) as u32).collect()),
        spans,
    };
    same(&text_encoder(sizes, longest), &[], |encoder, _| {
        let encoded = encoder.forward(&input);
        vec![
            encoded.first(),
            encoded.rows,
            encoder
                .forward_at(&input, &Chosen::first(&input.spans))
                .first(),
        ]
    });
}

fn check_vision(sizes: &Sizes, activation: Activation, lengths: &[usize]) {
    let config = VisionConfig {
        image_size: 8,
        patch_size: 4,
        hidden_size: sizes.width(),
        layers: 2,
        num_heads: sizes.heads,
        intermediate_size: sizes.intermediate,
        activation,
        max_frames: 3,
        ..VisionConfig::default()
    };
    let encoder = VisionEncoder::new(&Init::new(2, 0.2, &device()), &config);
    let patches = tokens(lengths, sizes.width(), 3);
    same(
        &encoder,
        std::slice::from_ref(&patches.rows),
        |encoder, inputs| {
            let patches = patches.with_rows(inputs[0].clone());
            vec![
                encoder.encode(&patches).rows,
                encoder
                    .encode_where(&patches, 1, |picture| picture == 1)
                    .rows,
            ]
        },
    );
    // The same lengths as clips of three frames, all frames of a clip of one length.
    let lengths: Vec<usize> = lengths.iter().flat_map(|len| [*len; 3]).collect();
    let frames = tokens(&lengths, sizes.width(), 3);
    same(
        &encoder,
        std::slice::from_ref(&frames.rows),
        |encoder, inputs| {
            let frames = frames.with_rows(inputs[0].clone());
            vec![
                encoder.encode_where(&frames, 3, |_| true).rows,
                encoder.encode_where(&frames, 3, |clip| clip == 1).rows,
                encoder.encode_where(&frames, 3, |_| false).rows,
            ]
        },
    );
}

fn check_fusion(sizes: &Sizes, text: &[usize], image: &[usize]) {
    check_fusion_of(FusionKind::TwoStreams, sizes, text, image, None);
}

fn check_fusion_of(
    kind: FusionKind,
    sizes: &Sizes,
    text: &[usize],
    image: &[usize],
    select: Option<&SelectConfig>,
) {
    let config = FusionConfig {
        kind,
        hidden_size: sizes.width(),
        layers: 2,
        num_heads: sizes.heads,
        intermediate_size: sizes.intermediate,
        dropout: sizes.dropout,
        ..FusionConfig::default()
    };
    let encoder = FusionEncoder::new(&Init::new(3, 0.2, &device()), &config, select);
    let text = tokens(text, sizes.width(), 4);
    let image = tokens(image, sizes.width(), 5);
    let inputs = [text.rows.clone(), image.rows.clone()];
    same(&encoder, &inputs, |encoder, inputs| {
        let input = Fused {
            text: text.with_rows(inputs[0].clone()),
            image: image.with_rows(inputs[1].clone()),
            frames: 1,
        };
        let (first, last) = (
            Chosen::first(&image.spans),
            (1..text.spans.tokens()).collect(),
        );
        let some = encoder.forward_at(input.clone(), &Chosen::new(&text.spans, last), &first);
        let fused = encoder.forward(input);
        vec![
            fused.text.rows,
            fused.image.rows,
            some.text.rows,
            some.image.rows,
        ]
    });
}

fn check_heads(sizes: &Sizes, rows: usize) {
    let width = sizes.width();
    let init = Init::new(4, 0.2, &device());
    let hidden = tensor([rows, width], 6);
    let labels: Vec<u32> = (0..rows).map(|i| (i * 17 % 37) as u32).collect();
    let words = Embedding::new(&init, 37, width);
    for tied in [false, true] {
        let head = MlmHead::new(&init, width, 37, 1e-5, tied);
        same(&head, std::slice::from_ref(&hidden), |head, inputs| {
            vec![head.loss(inputs[0].clone(), &labels, &words).unsqueeze()]
        });
    }
    // One number that is normalised is its sign, and what is computed for its gradient rounding.
    let projected = sizes.intermediate.max(2);
    let projection = Projection::new(&init, ProjectionKind::Mlp, width, projected);
    let temperature = Tensor::<2>::full([1, 1], 0.2, &device());
    let inputs = [hidden, tensor([rows, width], 7), temperature];
    same(&projection, &inputs, |projection, inputs| {
        let (left, right) = (projection.forward(inputs[0].clone()), inputs[1].clone());
        let right = projection.forward(right);
        let temperature = inputs[2].clone().reshape([1]);
        vec![contrast(Sides::alone([left, right]), temperature, 0.5).unsqueeze()]
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn random_texts(sizes in sizes(), lengths in prop::collection::vec(0..12usize, 1..5)) {
        check_text(&sizes, &lengths);
    }

    #[test]
    fn random_pictures(
        sizes in sizes(),
        quick: bool,
        lengths in prop::collection::vec(0..12usize, 1..4),
    ) {
        let activation = if quick { Activation::QuickGelu } else { Activation::Gelu };
        check_vision(&sizes, activation, &lengths);
    }

    #[test]
    fn random_pairs(
        sizes in sizes(),
        lengths in prop::collection::vec((0..9usize, 0..9usize), 1..4),
    ) {
        let (text, image): (Vec<_>, Vec<_>) = lengths.into_iter().unzip();
        check_fusion(&sizes, &text, &image);
    }

    #[test]
    fn random_selections(
        sizes in sizes(),
        one_stream: bool,
        rule in prop::sample::select(&RuleName::ALL[..]),
        renorm: bool,
        dense: bool,
        protect_self: bool,
        protect_cls: bool,
        cls_only: bool,
        blocks in prop::sample::subsequence(&BlockName::ALL[..], 1..4),
        lengths in prop::collection::vec((1..9usize, 0..9usize), 1..4),
    ) {
        let select = SelectConfig {
            rule,
            value: match rule {
                RuleName::Topk => 2.0,
                RuleName::ScoreAbs | RuleName::ScoreMean => 0.1,
                RuleName::ProbRelMean | RuleName::Learned => 0.8,
                _ => 0.3,
            },
            renorm,
            fallback: if dense { FallbackName::Dense } else { FallbackName::Argmax },
            protect_self,
            protect_cls,
            blocks,
            rows: if cls_only { RowsName::ClsOnly } else { RowsName::All },
            ..SelectConfig::default()
        };
        let kind = if one_stream { FusionKind::OneStream } else { FusionKind::TwoStreams };
        let (text, image): (Vec<_>, Vec<_>) = lengths.into_iter().unzip();
        check_fusion_of(kind, &sizes, &text, &image, Some(&select));
    }

    #[test]
    fn random_heads(sizes in sizes(), rows in 1..9usize) {
        check_heads(&sizes, rows);
    }
}

/// Head size 10 is no multiple of any vector's length.
const ODD: Sizes = Sizes {
    heads: 3,
    head_size: 10,
    intermediate: 17,
    dropout: 0.0,
};

#[test]
fn batch_of_one_and_one_token() {
    for lengths in [&[7][..], &[1], &[1, 1, 1]] {
        check_text(&ODD, lengths);
        check_vision(&ODD, Activation::Gelu, lengths);
        check_fusion(&ODD, lengths, lengths);
    }
}

#[test]
fn texts_of_no_tokens() {
    check_text(&ODD, &[0, 3]);
    check_text(&ODD, &[0]);
    check_fusion(&ODD, &[0, 4], &[3, 2]);
    check_fusion(&ODD, &[0, 0], &[3, 2]);
}

#[test]
fn all_masked_but_one() {
    let ids: Vec<i64> = (0..12).collect();
    let mut mask = vec![0; 12];
    mask[4] = 1;
    mask[6..].fill(1);
    let input = TextInput::from_padded(&ids, &mask, 6);
    assert_eq!(input.spans, Spans::new([1, 6]));
    same(&text_encoder(&ODD, 6), &[], |encoder, _| {
        vec![encoder.forward(&input).rows]
    });
}

#[test]
fn a_thousand_tokens() {
    let sizes = Sizes {
        dropout: 0.1,
        ..ODD
    };
    check_text(&sizes, &[1000, 3]);
    check_vision(&ODD, Activation::QuickGelu, &[1000]);
    check_fusion(&sizes, &[5], &[1000]);
}

/// Two runs agree bit for bit, and so do one thread and two.
#[test]
fn threads_and_repetitions_change_nothing() {
    let sizes = Sizes {
        heads: 4,
        head_size: 16,
        intermediate: 96,
        dropout: 0.1,
    };
    let encoder = text_encoder(&sizes, 40);
    let spans = Spans::new((0..48).map(|i| 1 + i * 7 % 40));
    let input = TextInput {
        ids: (0..spans.tokens()).map(|i| (i * 13 % 50) as u32).collect(),
        types: None,
        spans,
    };
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
        pool.build().unwrap().install(|| {
            compute::with(Kernels::Fused, || {
                outcome(&encoder, &[], |encoder, _| {
                    vec![encoder.forward(&input).rows]
                })
            })
        })
    };
    let once = run(2);
    assert_eq!(once, run(2));
    assert_eq!(once, run(1));
}
