//! What must hold of the model whatever its weights (`specs/scl.md` section 10.4).

#![allow(
    clippy::unwrap_used,
    reason = "a failed unwrap here is the failed test"
)]

use burn::tensor::{Device, Tensor, TensorData};
use chiasm_nn::compute::{self, Kernels};
use chiasm_nn::layers::Init;
use chiasm_nn::model::Seen;
use chiasm_nn::text::TextInput;
use chiasm_nn::tokens::Chosen;
use chiasm_nn::weights::{load_state_dict, replace_value, state_dict};
use chiasm_nn::{
    FusionConfig, HeadsConfig, ModelConfig, Scope, Spans, TextConfig, Tokens, VisionConfig,
    VisionLanguageModel,
};

fn config() -> ModelConfig {
    ModelConfig {
        text: TextConfig {
            vocab_size: 40,
            hidden_size: 12,
            layers: 2,
            num_heads: 3,
            intermediate_size: 20,
            max_text_len: 8,
            dropout: 0.0,
            ..TextConfig::default()
        },
        vision: VisionConfig {
            image_size: 12,
            patch_size: 4,
            hidden_size: 16,
            layers: 2,
            num_heads: 4,
            intermediate_size: 24,
            ..VisionConfig::default()
        },
        fusion: FusionConfig {
            hidden_size: 20,
            layers: 2,
            num_heads: 2,
            intermediate_size: 24,
            dropout: 0.0,
            ..FusionConfig::default()
        },
        projection_size: 6,
        init_std: 0.2,
        ..ModelConfig::default()
    }
}

fn model(device: &Device) -> VisionLanguageModel {
    VisionLanguageModel::new(&Init::new(3, config().init_std, device), &config())
}

fn text(ids: [i64; 12]) -> TextInput {
    let mask = [1, 1, 1, 1, 0, 0, 1, 1, 1, 0, 0, 0];
    TextInput::from_padded(&ids, &mask, 6)
}

fn pixels(change: impl Fn(usize) -> f32, device: &Device) -> Tensor<4> {
    let values: Vec<f32> = (0..2 * 3 * 12 * 12)
        .map(|index| ((index * 37 % 101) as f32 / 50.0 - 1.0) + change(index))
        .collect();
    Tensor::from_data(TensorData::new(values, [2, 3, 12, 12]), device)
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_into_vec::<f32>().unwrap()
}

/// A6: what stands under padding never enters the model, and a text gives the same tokens alone as
/// beside longer ones.
#[test]
fn padding_is_invisible() {
    let device = Device::flex();
    let model = model(&device);
    let image = model.encode_images(pixels(|_| 0.0, &device)).unwrap();
    let input = text([5, 6, 7, 8, 1, 1, 5, 9, 8, 1, 1, 1]);
    assert_eq!(input, text([5, 6, 7, 8, 30, 31, 5, 9, 8, 32, 33, 34]));
    let together = model.fuse(&model.encode_text(&input), &image, 1);
    let alone = TextInput::from_padded(&[5, 9, 8], &[1, 1, 1], 3);
    let alone = model.fuse(&model.encode_text(&alone), &image.narrow(1, 1), 1);
    for (one, other) in [(together.text, alone.text), (together.image, alone.image)] {
        let one = values(one.narrow(1, 1).rows);
        for (one, other) in one.into_iter().zip(values(other.rows)) {
            assert!((one - other).abs() <= 1e-5 * other.abs().max(1.0));
        }
    }
}

/// S5: pixels of a dropped patch change nothing, bit for bit; those of a kept one do.
#[test]
fn dropped_patches_are_invisible() {
    let device = Device::flex();
    let model = model(&device);
    // Patch 0 covers rows and columns 0 to 3 of every channel; patches 4 and 8 are kept.
    let in_patch = |index: usize, patch: usize| {
        let (row, column) = (index / 12 % 12, index % 12);
        row / 4 * 3 + column / 4 == patch
    };
    let kept: Vec<usize> = vec![4, 8, 9 + 4, 9 + 8];
    let run = |changed: usize| {
        let pixels = pixels(
            |index| f32::from(u8::from(in_patch(index, changed))),
            &device,
        );
        let kept = Chosen {
            rows: kept.clone(),
            spans: Spans::uniform(2, 2),
        };
        let patches = model.vision.as_ref().unwrap().embed_patches(pixels);
        values(model.encode_where(&patches.choose(&kept), 1, |_| true).rows)
    };
    assert_eq!(run(0), run(1), "neither patch is kept");
    assert_ne!(run(0), run(4));
}

/// A result never depends on what else is in the batch.
#[test]
fn a_batch_of_one_gives_what_it_gives_among_others() {
    let device = Device::flex();
    let model = model(&device);
    let both = pixels(|_| 0.0, &device);
    let together = values(model.encode_images(both.clone()).unwrap().rows);
    let alone = values(model.encode_images(both.narrow(0, 1, 1)).unwrap().rows);
    let second = &together[together.len() / 2..];
    for (one, other) in alone.iter().zip(second) {
        assert!(
            (one - other).abs() <= 1e-6 * other.abs().max(1.0),
            "{one} and {other}"
        );
    }
}

/// Tokens asked for alone are what the whole computation gives for them.
#[test]
fn a_part_is_what_it_is_in_the_whole() {
    let device = Device::flex();
    let model = model(&device);
    let input = text([5, 6, 7, 8, 1, 1, 5, 9, 8, 1, 1, 1]);
    let patches = model
        .vision
        .as_ref()
        .unwrap()
        .embed_patches(pixels(|_| 0.0, &device));
    let (text, image) = (
        model.encode_text(&input),
        model.encode_where(&patches, 1, |_| true),
    );
    let fused = model.fuse(&text, &image, 1);
    let second = |row: usize| row == 1;
    let (some_text, some_image) = (
        Chosen::whole(&text.spans, second),
        Chosen::new(&image.spans, vec![3, 10, 12]),
    );
    let typed = model.typed(&text, &image, 1, 0);
    let part = model.fusion.forward_at(typed, &some_text, &some_image);
    for (part, whole) in [
        (
            model.encode_text_where(&input, second),
            text.choose(&some_text),
        ),
        (
            model.encode_where(&patches, 1, second),
            image.choose(&Chosen::whole(&image.spans, second)),
        ),
        (part.text, fused.text.choose(&some_text)),
        (part.image, fused.image.choose(&some_image)),
    ] {
        assert_eq!(part.spans, whole.spans);
        for (one, other) in values(part.rows).into_iter().zip(values(whole.rows)) {
            assert!((one - other).abs() <= 1e-5 * other.abs().max(1.0));
        }
    }
}

/// A7: image layer l reads the text of layer l - 1, not the one just made.
#[test]
fn both_streams_are_updated_in_parallel() {
    let device = Device::flex();
    let model = model(&device);
    let input = text([5, 6, 7, 8, 1, 1, 5, 9, 8, 1, 1, 1]);
    let tokens = model.encode_text(&input);
    let image = model.encode_images(pixels(|_| 0.0, &device)).unwrap();
    let start = model.typed(&tokens, &image, 1, 0);
    let first = &model.fusion.image_layers[0];
    let whole = || [(); 2].map(|()| Scope::Whole.into());
    let expected = first.forward(start.image.clone(), &start.text, whole());
    let layers = model.fuse_all(&tokens, &image, 1);
    assert_eq!(values(layers[0].image.rows.clone()), values(expected.rows));
    // A10: attention is a distribution over the other stream, and padding gets none of it.
    let probabilities = first.probabilities(start.image, &start.text, whole());
    let [batch, heads, own, other] = probabilities.dims();
    let rows = values(probabilities);
    assert_eq!(rows.len(), batch * heads * own * other);
    for (index, row) in rows.chunks(other).enumerate() {
        assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-5);
        let real = if index < heads * own { 4 } else { 3 };
        assert!(row[real..].iter().all(|share| *share == 0.0));
    }
}

/// A model of clips of up to four frames, which can hide patches and classify pairs of pictures.
fn clip_model(device: &Device) -> VisionLanguageModel {
    let mut config = config();
    config.vision.max_frames = 4;
    config.vision.mask_token = true;
    config.fusion.type_rows = 3;
    config.heads = HeadsConfig {
        classes: 2,
        pictures: 2,
        ranking: false,
        ..HeadsConfig::default()
    };
    VisionLanguageModel::new(&Init::new(3, config.init_std, device), &config)
}

/// Drawn rows in place of the zeros that the temporal table begins with.
fn with_times(mut model: VisionLanguageModel, device: &Device) -> VisionLanguageModel {
    let drawn = Init::new(9, 0.5, device).normal::<2>([4, 16]).val();
    let vision = model.vision.as_mut().unwrap();
    let table = vision.temporal.take();
    vision.temporal = table.map(|table| replace_value(table, drawn));
    model
}

/// `count` pictures, no two alike; those in `changed` are others.
fn frames(count: usize, changed: &[usize], device: &Device) -> Tensor<4> {
    let size = 3 * 12 * 12;
    let value = |index: usize| {
        let shift = 17 * usize::from(changed.contains(&(index / size)));
        ((index * 37 + index / size * 13 + shift) % 101) as f32 / 50.0 - 1.0
    };
    let values: Vec<f32> = (0..count * size).map(value).collect();
    Tensor::from_data(TensorData::new(values, [count, 3, 12, 12]), device)
}

fn clip(pictures: Tensor<4>, frames: usize) -> Tensor<5> {
    let [count, channels, height, width] = pictures.dims();
    pictures.reshape([count / frames, frames, channels, height, width])
}

/// Some tokens of a batch by number.
fn rows(tokens: &Tokens, chosen: impl IntoIterator<Item = usize>) -> Vec<f32> {
    values(tokens.token_rows(&chosen.into_iter().collect::<Vec<_>>()))
}

fn far(one: &[f32], other: &[f32]) -> f32 {
    assert_eq!(one.len(), other.len());
    let gaps = one.iter().zip(other).map(|(a, b)| (a - b).abs());
    gaps.fold(0.0, f32::max)
}

fn with_both_kernels(check: impl Fn(&Device)) {
    for kernels in [Kernels::Plain, Kernels::Fused] {
        compute::with(kernels, || check(&Device::flex()));
    }
}

/// Patches of a picture.
const PATCHES: usize = 9;

/// A1: a clip of one frame, whose time adds nothing, is a picture.
#[test]
fn a_clip_of_one_frame_is_a_picture() {
    with_both_kernels(|device| {
        let of_clips = clip_model(device);
        let mut state = state_dict(&of_clips);
        state.retain(|name, _| name != "vision.temporal");
        let mut sizes = config();
        sizes.vision.mask_token = true;
        sizes.fusion.type_rows = 3;
        let of_pictures = VisionLanguageModel::new(&Init::new(8, 0.2, device), &sizes);
        let (of_pictures, report) = load_state_dict(of_pictures, state).unwrap();
        assert!(report.missing.is_empty(), "{:?}", report.missing);
        let expected = of_pictures.encode_images(frames(2, &[], device)).unwrap();
        let found = of_clips
            .encode_seen(&Seen::Pixels(clip(frames(2, &[], device), 1)))
            .unwrap();
        assert_eq!(found.spans, expected.spans);
        assert!(far(&values(found.rows), &values(expected.rows.clone())) < 1e-5);
        let of_clips = with_times(of_clips, device);
        let later = of_clips
            .encode_seen(&Seen::Pixels(clip(frames(2, &[], device), 1)))
            .unwrap();
        assert!(far(&values(later.rows), &values(expected.rows)) > 1e-2);
    });
}

/// A2: in one block patches see their own frame alone, class tokens the whole clip; in the next block
/// patches see what class tokens saw.
#[test]
fn what_frames_know_of_each_other() {
    with_both_kernels(|device| {
        let model = clip_model(device);
        let after = |changed: &[usize]| {
            let patches = model
                .vision
                .as_ref()
                .unwrap()
                .embed_patches(frames(3, changed, device));
            model.vision.as_ref().unwrap().encode_all(&patches, 3)
        };
        let (plain, other) = (after(&[]), after(&[1]));
        // Frame after frame, each with its class token first.
        let class = |frame: usize| frame * (1 + PATCHES);
        for frame in [0, 2] {
            let patches = || class(frame) + 1..class(frame + 1);
            let both = |block: usize| {
                let of = |stages: &[Tokens]| rows(&stages[block], patches());
                (of(&plain), of(&other))
            };
            let (one, same) = both(1);
            assert_eq!(one, same, "patches of frame {frame} after one block");
            let (one, another) = both(2);
            assert!(far(&one, &another) > 1e-4, "after two blocks");
            let of = |stages: &[Tokens]| rows(&stages[1], [class(frame)]);
            assert!(far(&of(&plain), &of(&other)) > 1e-4, "class token {frame}");
        }
    });
}

/// A3: without times the order of frames is only the order of what comes out; with times it matters.
#[test]
fn frames_in_another_order() {
    with_both_kernels(|device| {
        let order = [2, 0, 1];
        let pictures = frames(3, &[], device);
        let moved = order.map(|frame| pictures.clone().narrow(0, frame, 1));
        let moved = Tensor::cat(moved.to_vec(), 0);
        let encode = |model: &VisionLanguageModel| {
            let of = |pictures: &Tensor<4>| {
                model
                    .encode_seen(&Seen::Pixels(clip(pictures.clone(), 3)))
                    .unwrap()
            };
            let (plain, moved) = (of(&pictures), of(&moved));
            let pooled = |tokens| values(model.project_image(tokens, 3).unwrap());
            let gap = far(&pooled(&plain), &pooled(&moved));
            (plain, moved, gap)
        };
        let timeless = clip_model(device);
        let (plain, moved, gap) = encode(&timeless);
        assert!(gap < 1e-5, "{gap}");
        for (place, frame) in order.into_iter().enumerate() {
            let patches = |frame: usize| (0..PATCHES).map(move |patch| 3 + frame * PATCHES + patch);
            let class = far(&rows(&moved, [place]), &rows(&plain, [frame]));
            let patches = far(&rows(&moved, patches(place)), &rows(&plain, patches(frame)));
            assert!(class < 1e-5 && patches < 1e-5, "{class} and {patches}");
        }
        let (.., gap) = encode(&with_times(timeless, device));
        assert!(gap > 1e-3, "{gap}");
    });
}

/// A4: class tokens of all frames, then the patches of the first frame, of the second, and so on.
/// Class tokens asked for alone are those of the whole, among whole clips or not.
#[test]
fn the_order_of_a_clips_tokens() {
    with_both_kernels(|device| {
        let model = with_times(clip_model(device), device);
        let patches = model
            .vision
            .as_ref()
            .unwrap()
            .embed_patches(frames(2 * 3, &[], device));
        let stages = model.vision.as_ref().unwrap().encode_all(&patches, 3);
        let last = stages.last().unwrap();
        let normed = last.with_rows(
            model
                .vision
                .as_ref()
                .unwrap()
                .norm_post
                .as_ref()
                .unwrap()
                .forward(last.rows.clone()),
        );
        let found = model
            .vision
            .as_ref()
            .unwrap()
            .encode_where(&patches, 3, |_| true);
        let clip_len = 3 * (1 + PATCHES);
        for token in 0..2 * clip_len {
            let (clip, place) = (token / clip_len, token % clip_len);
            let (frame, within) = match place.checked_sub(3) {
                None => (place, 0),
                Some(patch) => (patch / PATCHES, 1 + patch % PATCHES),
            };
            let expected = clip * clip_len + frame * (1 + PATCHES) + within;
            let gap = far(&rows(&found, [token]), &rows(&normed, [expected]));
            assert!(gap < 1e-5, "token {token}: {gap}");
        }
        let whole = model.encode_where(&patches, 3, |_| true);
        let none = model.encode_where(&patches, 3, |_| false);
        let first = model.encode_where(&patches, 3, |clip| clip == 0);
        assert_eq!(none.spans, Spans::new([3, 3]));
        assert_eq!(first.spans, Spans::new([clip_len, 3]));
        let class = values(whole.leading(3));
        for some in [&none, &first] {
            assert!(far(&values(some.leading(3)), &class) < 1e-5);
        }
    });
}

/// S6: what is behind a hidden patch changes nothing, bit for bit, nor does hiding change how many
/// tokens there are; what is in its place learns.
#[test]
fn hidden_patches_are_invisible_and_their_token_learns() {
    with_both_kernels(|device| {
        let device = device.clone().autodiff();
        let model = clip_model(&device);
        // Patch 4 of the first picture and patch 0 of the second.
        let hidden = [4, PATCHES];
        let encode = |changed: Option<(usize, usize)>| {
            let change = |index: usize| {
                let (row, column) = (index / 12 % 12, index % 12);
                let place = (index / (3 * 12 * 12), row / 4 * 3 + column / 4);
                f32::from(u8::from(Some(place) == changed))
            };
            let patches = model
                .vision
                .as_ref()
                .unwrap()
                .embed_patches(pixels(change, &device));
            model.encode_where(
                &model.vision.as_ref().unwrap().hide(&patches, &hidden),
                1,
                |_| true,
            )
        };
        let plain = encode(None);
        assert_eq!(plain.spans, Spans::uniform(2, 1 + PATCHES));
        let plain = values(plain.rows);
        for place in [(0, 4), (1, 0)] {
            assert_eq!(values(encode(Some(place)).rows), plain, "{place:?}");
        }
        for place in [(0, 0), (1, 4)] {
            assert_ne!(values(encode(Some(place)).rows), plain, "{place:?}");
        }
        let gradients = encode(None).rows.square().sum().backward();
        let token = model
            .vision
            .as_ref()
            .unwrap()
            .mask_token
            .as_ref()
            .unwrap()
            .val();
        let gradient = values(token.grad(&gradients).unwrap());
        assert!(gradient.iter().any(|value| value.abs() > 1e-3));
        // Without a mask token nothing can be hidden.
        let patches = model
            .vision
            .as_ref()
            .unwrap()
            .embed_patches(pixels(|_| 0.0, &device));
        let mut without = model.vision.as_ref().unwrap().clone();
        without.mask_token = None;
        assert_eq!(
            values(without.hide(&patches, &hidden).rows),
            values(patches.rows)
        );
    });
}

/// M6: where the type of the second picture begins as that of the first, the place of a picture decides
/// nothing but where its summary stands.
#[test]
fn pictures_in_either_slot() {
    with_both_kernels(|device| {
        let drawn = clip_model(device);
        let table = drawn.token_types.as_ref().unwrap().weight.val();
        let alike = Tensor::cat(
            vec![table.clone().narrow(0, 0, 2), table.narrow(0, 1, 1)],
            0,
        );
        let mut equal = drawn.clone();
        let types = equal.token_types.as_mut().unwrap();
        types.weight = replace_value(types.weight.clone(), alike);
        let input = text([5, 6, 7, 8, 1, 1, 5, 9, 8, 1, 1, 1]);
        let images =
            |model: &VisionLanguageModel| model.encode_images(frames(4, &[], device)).unwrap();
        let summary = |model: &VisionLanguageModel, chosen: &[usize], slot| {
            let image = images(model).select(chosen);
            let typed = model.typed(&model.encode_text(&input), &image, 1, slot);
            values(model.pooled(&model.fuse_globals(typed)))
        };
        let (left, right) = ([0, 2], [1, 3]);
        assert_eq!(summary(&equal, &left, 0), summary(&equal, &left, 1));
        let pair = |model: &VisionLanguageModel, one: &[usize], two: &[usize]| {
            [summary(model, one, 0), summary(model, two, 1)]
        };
        let [mut first, mut second] = pair(&equal, &left, &right);
        assert!(far(&first, &second) > 1e-3, "two pictures differ");
        std::mem::swap(&mut first, &mut second);
        assert_eq!(pair(&equal, &right, &left), [first, second]);
        // Types that have learned to differ tell the slots apart.
        assert!(far(&summary(&drawn, &left, 0), &summary(&drawn, &left, 1)) > 1e-3);
        let head = equal.class_head.as_ref().unwrap();
        assert_eq!(head.dense.weight.dims(), [2 * 2 * 20, 2 * 20]);
    });
}
