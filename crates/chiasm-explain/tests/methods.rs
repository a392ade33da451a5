//! Every method on small models of every form, and what must hold of their maps.

#![allow(
    clippy::unwrap_used,
    reason = "a failed unwrap here is the failed test"
)]

use burn::tensor::{Device, Tensor, TensorData};
use chiasm_data::rng;
use chiasm_explain::{Heads, Input, Maps, Method, Places, Request, Subject, Target, explain};
use chiasm_nn::layers::Init;
use chiasm_nn::model::Seen;
use chiasm_nn::published::encoder::{self, Sizes};
use chiasm_nn::regions::Regions;
use chiasm_nn::select::SelectConfig;
use chiasm_nn::text::TextInput;
use chiasm_nn::weights::from_safetensors;
use chiasm_nn::{
    FusionConfig, FusionKind, HeadsConfig, ModelConfig, RegionConfig, Spans, TextConfig, Tokens,
    VisionConfig, VisionLanguageModel,
};
use chiasm_testkit::Case;

const WIDTH: usize = 16;
const WORDS: usize = 5;
const SIDE: usize = 3;
const REGIONS: usize = 4;

fn config(kind: FusionKind) -> ModelConfig {
    let sees_regions = kind != FusionKind::TwoStreams;
    ModelConfig {
        text: TextConfig {
            vocab_size: 40,
            hidden_size: WIDTH,
            layers: if kind == FusionKind::OneStream { 0 } else { 2 },
            num_heads: 2,
            intermediate_size: 24,
            max_text_len: 12,
            dropout: 0.3,
            ..TextConfig::default()
        },
        vision: VisionConfig {
            image_size: 4 * SIDE,
            patch_size: 4,
            hidden_size: WIDTH,
            layers: 2,
            num_heads: 2,
            intermediate_size: 24,
            max_frames: 3,
            ..VisionConfig::default()
        },
        regions: sees_regions.then(|| RegionConfig {
            features: 6,
            most: REGIONS,
            objects: 5,
            attributes: 3,
            dropout: 0.3,
            ..RegionConfig::default()
        }),
        fusion: FusionConfig {
            kind,
            hidden_size: WIDTH,
            layers: 2,
            num_heads: 2,
            intermediate_size: 24,
            dropout: 0.3,
            ..FusionConfig::default()
        },
        heads: HeadsConfig {
            classes: 3,
            grounding: sees_regions,
            masked_regions: sees_regions,
            ..HeadsConfig::default()
        },
        projection_size: 8,
        init_std: 0.3,
        ..ModelConfig::default()
    }
}

fn model(kind: FusionKind) -> VisionLanguageModel {
    let device = Device::flex();
    VisionLanguageModel::new(&Init::new(3, 0.3, &device), &config(kind))
}

fn numbers(purpose: &str, count: usize) -> Vec<f32> {
    let mut stream = rng::stream(7, purpose, &[]);
    (0..count)
        .map(|_| rng::uniform(&mut stream, -1.0, 1.0) as f32)
        .collect()
}

fn text() -> TextInput {
    TextInput {
        ids: vec![2, 11, 12, 13, 3].into(),
        spans: Spans::new([WORDS]),
        types: None,
    }
}

fn pixels(frames: usize) -> Seen {
    let shape = [1, frames, 3, 4 * SIDE, 4 * SIDE];
    let values = numbers("pixels", shape.iter().product());
    Seen::Pixels(Tensor::from_data(
        TensorData::new(values, shape),
        &Device::flex(),
    ))
}

fn regions(count: usize) -> Seen {
    let device = Device::flex();
    let features = TensorData::new(numbers("features", count * 6), [count, 6]);
    let boxes = (0..count).flat_map(|at| [0.1 * at as f32, 0.0, 0.1 * at as f32 + 0.3, 0.5]);
    let boxes = TensorData::new(boxes.collect::<Vec<f32>>(), [count, 4]);
    Seen::Regions(Regions {
        features: Tokens {
            rows: Tensor::from_data(features, &device),
            spans: Spans::new([count]),
        },
        boxes: Tensor::from_data(boxes, &device),
    })
}

fn input(seen: Seen) -> Input {
    Input {
        seen,
        text: Some(text()),
    }
}

fn sound(maps: &Maps, places: Places, what: &str) {
    assert_eq!(maps.places, places, "{what}");
    assert_eq!(maps.whole.len(), places.count(), "{what}");
    assert!(maps.score.is_finite(), "{what}");
    let tokens = maps.tokens.iter().flatten();
    for map in tokens.chain([&maps.whole]) {
        assert_eq!(map.len(), places.count(), "{what}");
        assert!(
            map.iter().all(|value| value.is_finite() && *value >= 0.0),
            "{what}: {map:?}"
        );
    }
    assert!(maps.words.is_empty() || maps.words.len() == WORDS, "{what}");
}

fn every(subject: Subject<'_>, input: &Input, places: Places, targets: &[Target]) {
    for target in targets {
        for method in Method::ALL {
            let what = format!("{method:?} {target:?}");
            let found = explain(&subject, input, target, &Request::new(method));
            match (found, method, target) {
                (Ok(maps), ..) => sound(&maps, places, &what),
                (Err(_), Method::GradCamFusion, Target::Cosine) => {}
                (Err(error), ..) => unreachable!("{what}: {error}"),
            }
        }
    }
}

#[test]
fn two_streams_of_words_and_pixels() {
    let model = model(FusionKind::TwoStreams);
    let hidden = Target::Hidden {
        tokens: vec![2],
        ids: vec![12],
    };
    let targets = [Target::Match, Target::Cosine, Target::Class(1), hidden];
    for frames in [1, 3] {
        let places = Places::Patches { side: SIDE, frames };
        every(
            Subject::Own(&model),
            &input(pixels(frames)),
            places,
            &targets,
        );
    }
}

#[test]
fn one_stream_of_words_and_regions() {
    let model = model(FusionKind::OneStream);
    let hidden = Target::Hidden {
        tokens: vec![1, 2],
        ids: vec![11, 12],
    };
    let targets = [
        Target::Match,
        Target::Class(2),
        Target::Region(None),
        Target::Region(Some(3)),
        Target::HiddenRegions {
            regions: vec![0],
            features: vec![0.5; 6],
        },
        hidden,
    ];
    for count in [1, REGIONS] {
        let targets = targets.iter().filter(|target| match target {
            Target::Region(Some(region)) => *region < count,
            _ => true,
        });
        let targets: Vec<Target> = targets.cloned().collect();
        let places = Places::Regions(count);
        every(
            Subject::Own(&model),
            &input(regions(count)),
            places,
            &targets,
        );
    }
}

/// A10 of `specs/scl.md`: a word's attention to the picture is a distribution, and its map is what is left
/// of it without the class token.
#[test]
fn attention_of_words_sums_to_one_with_the_class_token() {
    let model = model(FusionKind::TwoStreams);
    let subject = Subject::Own(&model);
    let input = input(pixels(1));
    let request = Request {
        heads: Heads::Mean,
        ..Request::new(Method::Attention)
    };
    let maps = explain(&subject, &input, &Target::Match, &request).unwrap();
    let text = model.encode_text(&text());
    let image = model.encode_seen(&pixels(1)).unwrap();
    let attention = model
        .fusion
        .cross_attention(model.typed(&text, &image, 1, 0))
        .unwrap();
    let [_, _, _, keys] = attention.dims();
    let expected = attention.mean_dim(1).reshape([WORDS, keys]);
    let expected = expected.try_into_vec_as::<f32>().unwrap();
    for (map, row) in maps.tokens.unwrap().iter().zip(expected.chunks(keys)) {
        assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-5);
        let apart = map.iter().zip(&row[1..]).map(|(a, b)| (a - b).abs());
        assert!(apart.fold(0.0, f32::max) < 1e-5);
    }
    assert_eq!(maps.kept, [1.0, 1.0]);
}

/// Rows of a rollout are shares of what the first layers read: over words and places they sum to 1.
#[test]
fn rollout_is_a_distribution() {
    let model = model(FusionKind::OneStream);
    let input = input(regions(REGIONS));
    let maps = explain(
        &Subject::Own(&model),
        &input,
        &Target::Match,
        &Request::new(Method::Rollout),
    )
    .unwrap();
    let total = maps.whole.iter().sum::<f32>() + maps.words.iter().sum::<f32>();
    assert!((total - 1.0).abs() < 1e-5, "{total}");
}

/// Watching computes what inference computes, on a device with gradients too: nothing is dropped, and the
/// same is selected.
#[test]
fn the_score_is_that_of_inference() {
    for kind in [
        FusionKind::TwoStreams,
        FusionKind::OneStream,
        FusionKind::Crossed,
    ] {
        let mut model = model(kind);
        let seen = match kind {
            FusionKind::TwoStreams => pixels(1),
            FusionKind::OneStream | FusionKind::Crossed => regions(REGIONS),
        };
        let select = SelectConfig::default().typed("prob_abs=0.2").unwrap();
        model.fusion.reselect(Some(&select));
        let text = model.encode_text(&text());
        let image = model.encode_seen(&seen).unwrap();
        let fused = model.fuse(&text, &image, seen.class_tokens());
        let head = model.match_head.as_ref().unwrap();
        let logits = head
            .forward(model.pooled(&fused))
            .try_into_vec_as::<f32>()
            .unwrap();
        let expected = logits[1] - logits[0];
        let subject = Subject::Own(&model);
        let input = input(seen);
        for method in Method::ALL {
            let request = Request::new(method);
            let maps = explain(&subject, &input, &Target::Match, &request);
            if kind == FusionKind::Crossed && method != Method::Occlusion {
                assert!(maps.unwrap_err().to_string().contains("occlusion"));
                continue;
            }
            let maps = maps.unwrap();
            assert!(
                (maps.score - expected).abs() < 1e-4,
                "{kind:?} {method:?}: {maps:?}"
            );
            if method == Method::Attention {
                let kept = maps.kept.iter().sum::<f32>();
                assert!(kept < 2.0, "selection drops keys: {:?}", maps.kept);
            }
        }
    }
}

/// Gradients with respect to attention against differences of the score: the relevance of a one-layer
/// model is gradient times probability.
#[test]
fn gradients_in_the_middle_are_those_of_the_score() {
    use chiasm_nn::watch::record;
    let model = model(FusionKind::OneStream);
    let head = model.match_head.as_ref().unwrap();
    let seen = regions(REGIONS);
    let score = |shift: Option<(usize, f32)>| {
        // A probability is moved by what its value carries: the gradient of the layer's input, found by
        // moving the input itself.
        let text = model.encode_text(&text());
        let image = model.encode_seen(&seen).unwrap();
        let rows = image.rows.clone();
        let moved = match shift {
            None => rows,
            Some((at, by)) => {
                let [count, width] = rows.dims();
                let mut values = vec![0.0; count * width];
                values[at] = by;
                rows + Tensor::<2>::from_data(
                    TensorData::new(values, [count, width]),
                    &Device::flex(),
                )
            }
        };
        let fused = model.fuse(&text, &image.with_rows(moved), 0);
        let logits = head.forward(model.pooled(&fused));
        logits.try_into_vec_as::<f32>().unwrap()[1]
    };
    let (logit, records) = record(true, || {
        let text = model.encode_text(&text());
        let image = model.encode_seen(&seen).unwrap();
        let fused = model.fuse(&text, &image, 0);
        head.forward(model.pooled(&fused)).narrow(1, 1, 1).sum()
    });
    let gradients = logit.backward();
    let slopes = records[0]
        .input
        .gradient(&gradients)
        .try_into_vec_as::<f32>()
        .unwrap();
    for at in [0, 7, 20, WIDTH * REGIONS - 1] {
        let step = 1e-2;
        let expected = (score(Some((at, step))) - score(Some((at, -step)))) / (2.0 * step);
        let found = slopes[WORDS * WIDTH + at];
        assert!(
            (found - expected).abs() < 1e-2 * expected.abs().max(0.1),
            "{found} {expected}"
        );
    }
}

/// C6 of `specs/itr.md` section 9.7, and C5.
#[test]
fn maps_are_of_the_class_that_is_asked_for() {
    let model = model(FusionKind::TwoStreams);
    let input = input(pixels(1));
    let subject = Subject::Own(&model);
    for method in [
        Method::GradCam,
        Method::GradCamFusion,
        Method::Relevance,
        Method::Occlusion,
    ] {
        let of = |class| {
            let target = Target::Class(class);
            explain(&subject, &input, &target, &Request::new(method)).unwrap()
        };
        assert_ne!(of(0).whole, of(1).whole, "{method:?}");
    }
    for smooth in [false, true] {
        let mut dead = model.clone();
        let head = dead.class_head.as_mut().unwrap();
        head.out.weight = head.out.weight.clone().map(|weight| weight.mul_scalar(0.0));
        let request = Request {
            smooth,
            ..Request::new(Method::GradCam)
        };
        let maps = explain(&Subject::Own(&dead), &input, &Target::Class(0), &request).unwrap();
        assert_eq!(maps.whole, vec![0.0; SIDE * SIDE]);
    }
}

/// ROSITA's demonstration: rows are a softmax over regions, and need all scores.
#[test]
fn sums_of_scores_are_for_dense_attention_of_one_stream() {
    let mut one = model(FusionKind::OneStream);
    let pair = input(regions(REGIONS));
    let hidden = Target::Hidden {
        tokens: vec![2],
        ids: vec![12],
    };
    let request = Request {
        heads: Heads::ScoreSum,
        ..Request::new(Method::Attention)
    };
    let maps = explain(&Subject::Own(&one), &pair, &hidden, &request).unwrap();
    assert!((maps.whole.iter().sum::<f32>() - 1.0).abs() < 1e-5);
    one.fusion
        .reselect(Some(&SelectConfig::default().typed("topk=1").unwrap()));
    assert!(explain(&Subject::Own(&one), &pair, &hidden, &request).is_err());
    let two = model(FusionKind::TwoStreams);
    assert!(explain(&Subject::Own(&two), &input(pixels(1)), &hidden, &request).is_err());
}

/// What is not there is refused by name.
#[test]
fn what_does_not_fit_is_refused() {
    let (two, one) = (model(FusionKind::TwoStreams), model(FusionKind::OneStream));
    let (pixels, regions_of_one) = (input(pixels(1)), input(regions(REGIONS)));
    let attention = Request::new(Method::Attention);
    let refused = |model: &VisionLanguageModel, input: &Input, target, request: &Request| {
        let found = explain(&Subject::Own(model), input, &target, request);
        found.unwrap_err().to_string()
    };
    let layer = Request {
        layer: Some(2),
        ..attention
    };
    assert_eq!(
        refused(&two, &pixels, Target::Match, &layer),
        "there is no layer 2: the model has 2, counted from 0"
    );
    let head = Request {
        heads: Heads::One(9),
        ..attention
    };
    for (message, part) in [
        (refused(&two, &pixels, Target::Match, &head), "no head 9"),
        (
            refused(&two, &pixels, Target::Class(3), &attention),
            "no class 3",
        ),
        (
            refused(&two, &pixels, Target::Region(None), &attention),
            "refers to",
        ),
        (
            refused(&one, &regions_of_one, Target::Region(Some(4)), &attention),
            "no region 4",
        ),
        (
            refused(&two, &regions_of_one, Target::Match, &attention),
            "sees pixels",
        ),
        (
            refused(&one, &pixels, Target::Match, &attention),
            "sees regions",
        ),
        (
            refused(&one, &input(regions(0)), Target::Region(None), &attention),
            "has no regions",
        ),
    ] {
        assert!(message.contains(part), "{part}: {message}");
    }
    let silent = Input {
        text: None,
        ..pixels
    };
    assert!(refused(&two, &silent, Target::Match, &attention).contains("text is needed"));
}

/// An image tower alone: its class token's attention, and what its own likeness loses.
#[test]
fn an_image_tower_alone() {
    let model = model(FusionKind::TwoStreams);
    let vision = model.vision.as_ref().unwrap();
    let subject = Subject::Image(vision);
    let input = Input {
        seen: pixels(1),
        text: None,
    };
    let places = Places::Patches {
        side: SIDE,
        frames: 1,
    };
    for method in [Method::Attention, Method::Rollout, Method::Occlusion] {
        let maps = explain(&subject, &input, &Target::Itself, &Request::new(method)).unwrap();
        sound(&maps, places, method.name());
        assert!((maps.score - 1.0).abs() < 1e-4);
        assert!(maps.whole.iter().any(|value| *value > 0.0));
    }
    let cam = Request::new(Method::GradCam);
    assert!(explain(&subject, &input, &Target::Itself, &cam).is_err());
}

/// Published towers that share a space: all but what needs fusion, and maps depend on the text.
#[test]
fn two_towers_of_clip() {
    let Some(case) = Case::open("hf/clip") else {
        return;
    };
    let read = |name: &str| std::fs::read(case.dir.join(name)).unwrap();
    let config: serde_json::Value = serde_json::from_slice(&read("config.json")).unwrap();
    // A causal tower's summary is the end of the text.
    let end = config["text_config"]["eos_token_id"].as_u64().unwrap() as u32;
    let state = from_safetensors(&read("model.safetensors")).unwrap();
    let device = Device::flex();
    let opened = encoder::open(Some(&config), state, Sizes::default(), &device).unwrap();
    let subject = Subject::published(&opened.encoder).unwrap();
    let size = opened.encoder.image_size().unwrap();
    let values = numbers("pixels", 3 * size * size);
    let pixels = Tensor::from_data(TensorData::new(values, [1, 1, 3, size, size]), &device);
    let of = |ids: [u32; WORDS], method| {
        let input = Input {
            seen: Seen::Pixels(pixels.clone()),
            text: Some(TextInput {
                ids: ids.into(),
                ..text()
            }),
        };
        explain(&subject, &input, &Target::Cosine, &Request::new(method))
    };
    for method in Method::ALL {
        if method == Method::GradCamFusion {
            assert!(of([2, 11, 12, 13, end], method).is_err());
            continue;
        }
        let maps = of([2, 11, 12, 13, end], method).unwrap();
        sound(&maps, maps.places, method.name());
        assert!(
            maps.tokens.is_none(),
            "words of towers have no maps of their own"
        );
        let other = of([2, 21, 22, 23, end], method).unwrap();
        let reads_text = !matches!(method, Method::Attention | Method::Rollout);
        assert_eq!(maps.whole != other.whole, reads_text, "{method:?}");
    }
}
