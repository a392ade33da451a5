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

/// The same where gates learn: one of softness 0.1 makes of a rounding of a probability one of ten times
/// as many keys as a row has.
const GATED_TOLERANCE: f32 = 1e-3;

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
    same_within(TOLERANCE, module, inputs, run);
}

fn same_within<M: Module>(
    share: f32,
    module: &M,
    inputs: &[Tensor<2>],
    run: impl Fn(&M, &[Tensor<2>]) -> Vec<Tensor<2>>,
) {
    let plain = compute::with(Kernels::Plain, || outcome(module, inputs, &run));
    let fused = compute::with(Kernels::Fused, || outcome(module, inputs, &run));
    close(&fused, &plain, share);
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
    let encoder = fusion_encoder(kind, sizes, select, &device());
    let pair = Pair::of(sizes, text, image);
    let run = |encoder: &FusionEncoder, inputs: &[Tensor<2>]| pair.fused(encoder, inputs);
    let learned = select.is_some_and(|select| select.rule == RuleName::Learned);
    let share = if learned { GATED_TOLERANCE } else { TOLERANCE };
    same_within(share, &encoder, &pair.inputs(), run);
}

fn fusion_encoder(
    kind: FusionKind,
    sizes: &Sizes,
    select: Option<&SelectConfig>,
    device: &Device,
) -> FusionEncoder {
    let config = FusionConfig {
        kind,
        hidden_size: sizes.width(),
        layers: 2,
        num_heads: sizes.heads,
        intermediate_size: sizes.intermediate,
        dropout: sizes.dropout,
        ..FusionConfig::default()
    };
    FusionEncoder::new(&Init::new(3, 0.2, device), &config, select)
}

/// Words and regions of a batch.
struct Pair {
    text: Tokens,
    image: Tokens,
}

impl Pair {
    fn of(sizes: &Sizes, text: &[usize], image: &[usize]) -> Self {
        Self {
            text: tokens(text, sizes.width(), 4),
            image: tokens(image, sizes.width(), 5),
        }
    }

    fn inputs(&self) -> [Tensor<2>; 2] {
        [self.text.rows.clone(), self.image.rows.clone()]
    }

    /// All tokens after the encoder, and some of them computed alone.
    fn fused(&self, encoder: &FusionEncoder, inputs: &[Tensor<2>]) -> Vec<Tensor<2>> {
        let input = Fused {
            text: self.text.with_rows(inputs[0].clone()),
            image: self.image.with_rows(inputs[1].clone()),
            frames: 1,
        };
        let (first, last) = (
            Chosen::first(&self.image.spans),
            (1..self.text.spans.tokens()).collect(),
        );
        let last = Chosen::new(&self.text.spans, last);
        let some = encoder.forward_at(input.clone(), &last, &first);
        let fused = encoder.forward(input);
        vec![
            fused.text.rows,
            fused.image.rows,
            some.text.rows,
            some.image.rows,
        ]
    }
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
        name in prop::sample::select(&RuleName::ALL[..]),
        renorm: bool,
        dense: bool,
        protect_self: bool,
        protect_cls: bool,
        cls_only: bool,
        blocks in prop::sample::subsequence(&BlockName::ALL[..], 1..4),
        lengths in prop::collection::vec((1..9usize, 0..9usize), 1..4),
    ) {
        let select = SelectConfig {
            renorm,
            fallback: if dense { FallbackName::Dense } else { FallbackName::Argmax },
            protect_self,
            protect_cls,
            blocks,
            rows: if cls_only { RowsName::ClsOnly } else { RowsName::All },
            ..rule(name)
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

/// A rule at a value that is on no boundary of the tests below.
fn rule(rule: RuleName) -> SelectConfig {
    SelectConfig {
        rule,
        value: match rule {
            RuleName::Topk => 2.0,
            RuleName::ScoreAbs | RuleName::ScoreMean => 0.1,
            RuleName::ProbRelMean | RuleName::Learned => 0.8,
            _ => 0.3,
        },
        ..SelectConfig::default()
    }
}

const KINDS: [FusionKind; 3] = [
    FusionKind::OneStream,
    FusionKind::TwoStreams,
    FusionKind::Crossed,
];

/// Gates while they learn: sequences of one token, without tokens on one side and long ones; levels that
/// nearly everything passes and that few keys do.
#[test]
fn learned_gates() {
    let dropping = Sizes {
        dropout: 0.2,
        ..ODD
    };
    for kind in KINDS {
        for value in [1e-3, 1.0, 2.0] {
            let select = SelectConfig {
                value,
                ..rule(RuleName::Learned)
            };
            for sizes in [&ODD, &dropping] {
                check_fusion_of(kind, sizes, &[5, 1, 3], &[4, 1, 0], Some(&select));
            }
        }
        let select = rule(RuleName::Learned);
        check_fusion_of(kind, &ODD, &[1], &[1], Some(&select));
        check_fusion_of(kind, &ODD, &[9, 2], &[141, 3], Some(&select));
    }
}

/// Levels that no key reaches, where all that passes underflows: weights are whole, gradients are numbers.
/// Only results are compared: in gradients, a level as high as this enlarges rounding, the plain form's
/// above all.
#[test]
fn gates_that_are_nearly_shut() {
    let select = SelectConfig {
        value: 20.0,
        ..rule(RuleName::Learned)
    };
    for kind in KINDS {
        let encoder = fusion_encoder(kind, &ODD, Some(&select), &device());
        let pair = Pair::of(&ODD, &[5, 1, 3], &[4, 1, 0]);
        let results = |kernels| {
            let run = |encoder: &FusionEncoder, inputs: &[Tensor<2>]| pair.fused(encoder, inputs);
            let mut all = compute::with(kernels, || outcome(&encoder, &pair.inputs(), run));
            assert!(all.values().flatten().all(|value| value.is_finite()));
            all.retain(|name, _| name.starts_with("result"));
            all
        };
        let [fused, plain] = [Kernels::Fused, Kernels::Plain].map(results);
        close(&fused, &plain, GATED_TOLERANCE);
    }
}

#[test]
fn gates_get_a_gradient() {
    let encoder = fusion_encoder(
        FusionKind::OneStream,
        &ODD,
        Some(&rule(RuleName::Learned)),
        &device(),
    );
    let pair = Pair::of(&ODD, &[5, 3], &[4, 6]);
    let run = |encoder: &FusionEncoder, inputs: &[Tensor<2>]| pair.fused(encoder, inputs);
    let all = compute::with(Kernels::Fused, || outcome(&encoder, &pair.inputs(), run));
    let gates = all.get("gates").unwrap();
    assert_eq!(gates.len(), 2 * ODD.heads);
    assert!(gates.iter().all(|slope| *slope != 0.0), "{gates:?}");
}

/// Gates that are open or shut, as in evaluation, with everything that says where a rule acts.
#[test]
fn gates_in_evaluation() {
    let device = Device::flex();
    let gate = || rule(RuleName::Learned);
    let mut selects = vec![gate()];
    selects.extend(BlockName::ALL.map(|block| SelectConfig {
        blocks: vec![block],
        ..gate()
    }));
    selects.extend([
        SelectConfig {
            renorm: false,
            protect_self: true,
            heads: vec![1],
            ..gate()
        },
        SelectConfig {
            protect_cls: true,
            rows: RowsName::ClsOnly,
            layers: vec![-1],
            ..gate()
        },
        // Above what any key has.
        SelectConfig {
            value: 1e3,
            fallback: FallbackName::Dense,
            ..gate()
        },
        SelectConfig {
            value: 1e3,
            ..gate()
        },
    ]);
    let pair = Pair::of(&ODD, &[7, 1, 3], &[9, 4, 0]);
    let inputs = pair.inputs().map(Tensor::inner);
    for kind in KINDS {
        for select in &selects {
            let encoder = fusion_encoder(kind, &ODD, Some(select), &device);
            let run = |kernels| -> BTreeMap<String, Vec<f32>> {
                let results = compute::with(kernels, || pair.fused(&encoder, &inputs));
                let results = results.into_iter().enumerate();
                results
                    .map(|(index, result)| (format!("result {index}"), values(result)))
                    .collect()
            };
            close(&run(Kernels::Fused), &run(Kernels::Plain), TOLERANCE);
        }
    }
}

/// Where nothing tells keys apart, every rule keeps all or falls back on all.
#[test]
fn scores_that_are_all_equal() {
    let pair = Pair::of(&ODD, &[20, 1], &[36, 2]);
    let row = tensor([1, ODD.width()], 6);
    let inputs = pair.inputs().map(|rows| row.clone().expand(rows.dims()));
    for name in RuleName::ALL {
        let select = rule(name);
        let encoder = fusion_encoder(FusionKind::OneStream, &ODD, Some(&select), &device());
        let run = |encoder: &FusionEncoder, inputs: &[Tensor<2>]| pair.fused(encoder, inputs);
        same(&encoder, &inputs, run);
    }
}

/// The cut that the forward pass finds is that of the backward pass, and gates are summed in one order.
#[test]
fn threads_change_nothing_that_is_selected() {
    let sizes = Sizes {
        heads: 4,
        head_size: 8,
        intermediate: 16,
        dropout: 0.1,
    };
    let lens: Vec<usize> = (0..24).map(|i| 1 + i * 7 % 30).collect();
    let pair = Pair::of(&sizes, &lens, &[36; 24]);
    let inputs = pair.inputs();
    for name in RuleName::ALL {
        let select = rule(name);
        let encoder = fusion_encoder(FusionKind::OneStream, &sizes, Some(&select), &device());
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            pool.build().unwrap().install(|| {
                compute::with(Kernels::Fused, || {
                    outcome(&encoder, &inputs, |encoder, inputs| {
                        pair.fused(encoder, inputs)
                    })
                })
            })
        };
        assert_eq!(run(1), run(2), "{name:?}");
    }
}
