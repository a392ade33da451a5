//! One stream over words and regions against `fixtures/tbkin`: what every stage gives, every loss and
//! its gradients, on fused and on plain kernels, without and with gradient checkpointing.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failed unwrap here is the failed test"
)]

use burn::tensor::activation::softmax;
use burn::tensor::{Device, Tensor, TensorData};
use chiasm_nn::boxes::{DEVIATIONS, clip, decode};
use chiasm_nn::compute::{self, Kernels};
use chiasm_nn::layers::Init;
use chiasm_nn::model::Seen;
use chiasm_nn::names::{from_published, split};
use chiasm_nn::published::rosita;
use chiasm_nn::regions::Regions;
use chiasm_nn::select::SelectConfig;
use chiasm_nn::text::TextInput;
use chiasm_nn::weights::{HostTensor, StateDict, load_state_dict, shapes, take_gradients};
use chiasm_nn::{
    FusionConfig, FusionKind, HeadsConfig, ModelConfig, RegionConfig, Spans, TextConfig, Tokens,
    VisionConfig, VisionLanguageModel,
};
use chiasm_objective::classification::ClassTargets;
use chiasm_objective::config::{ClassificationConfig, GroundingConfig, KnowledgeConfig};
use chiasm_objective::grounding::{GroundTargets, rank_loss};
use chiasm_objective::knowledge::{KnowledgeInput, RegionTargets};
use chiasm_objective::masking::MatchingDraw;
use chiasm_objective::mlm::MlmTargets;
use chiasm_objective::{Losses, ObjectivesConfig, StepInput, losses};
use chiasm_testkit::Case;

fn both_kernels(check: impl Fn(&Device)) {
    let device = Device::flex().autodiff();
    for kernels in [Kernels::Plain, Kernels::Fused] {
        compute::with(kernels, || {
            check(&device);
            check(&device.clone().gradient_checkpointing());
        });
    }
}

fn size(case: &Case, name: &str) -> usize {
    case.json["config"][name].as_u64().unwrap() as usize
}

fn config(case: &Case, heads: HeadsConfig) -> ModelConfig {
    let width = size(case, "HSIZE");
    ModelConfig {
        text: TextConfig {
            vocab_size: size(case, "vocab"),
            hidden_size: width,
            layers: 0,
            num_heads: size(case, "HHEAD"),
            max_text_len: size(case, "text_len"),
            position_rows: size(case, "POS_EMB_IN_SIZE"),
            position_offset: 0,
            type_rows: 2,
            layer_norm_eps: 1e-12,
            dropout: 0.0,
            ..TextConfig::default()
        },
        vision: VisionConfig {
            hidden_size: width,
            ..VisionConfig::default()
        },
        regions: Some(RegionConfig {
            features: size(case, "IMGFEAT_SIZE"),
            most: size(case, "image_len"),
            objects: size(case, "IMGFEAT_OBJ_CLASSNUM"),
            attributes: size(case, "IMGFEAT_ATTR_CLASSNUM"),
            dropout: 0.0,
            ..RegionConfig::default()
        }),
        fusion: FusionConfig {
            kind: FusionKind::OneStream,
            hidden_size: width,
            layers: size(case, "LAYER"),
            num_heads: size(case, "HHEAD"),
            intermediate_size: size(case, "HFF"),
            dropout: 0.0,
            ..FusionConfig::default()
        },
        heads,
        ..ModelConfig::default()
    }
}

fn no_heads() -> HeadsConfig {
    HeadsConfig {
        contrastive: false,
        matching: false,
        mlm: false,
        ..HeadsConfig::default()
    }
}

fn model(case: &Case, config: &ModelConfig, device: &Device) -> VisionLanguageModel {
    config.validate().unwrap();
    let model = VisionLanguageModel::new(&Init::new(0, 0.02, device), config);
    let host = |(name, tensor): (&str, &chiasm_testkit::Golden)| {
        let (shape, values) = (tensor.shape.clone(), tensor.f32s());
        (name.to_owned(), HostTensor { shape, values })
    };
    let mut published: StateDict = case.with_prefix("weights.").map(host).collect();
    let ours = from_published(&shapes(&model), &mut published, rosita::names);
    // Heads of other tasks may be left.
    let left: Vec<_> = published
        .keys()
        .filter(|name| !name.starts_with("mm_qa_head") || config.heads.classes > 0)
        .collect();
    assert!(left.is_empty(), "weights nobody wanted: {left:?}");
    let (model, report) = load_state_dict(model, ours).unwrap();
    assert!(report.missing.is_empty(), "{:?}", report.missing);
    model
}

/// The rows of a padded tensor where the mask is 1, and how many of each sequence.
struct Real {
    rows: Vec<usize>,
    lengths: Vec<usize>,
}

/// Of the samples that are valid, where a case has others.
fn real(case: &Case, mask: &str) -> Real {
    let golden = case.tensor(&format!("inputs.{mask}"));
    let len = golden.shape[1];
    let keep = golden.i64s();
    let valid = valid(case);
    let of_valid = keep.chunks(len).zip(&valid).filter(|(_, valid)| **valid);
    Real {
        rows: (0..keep.len())
            .filter(|place| keep[*place] == 1 && valid[place / len])
            .collect(),
        lengths: of_valid
            .map(|(row, _)| row.iter().sum::<i64>() as usize)
            .collect(),
    }
}

fn valid(case: &Case) -> Vec<bool> {
    match case.tensors.get("inputs.valid") {
        Some(valid) => valid.values.iter().map(|valid| *valid > 0.0).collect(),
        None => vec![true; case.tensor("inputs.text_ids").shape[0]],
    }
}

/// The rows of a tensor of samples that are valid.
fn valid_rows(case: &Case, name: &str) -> Vec<f32> {
    let golden = case.tensor(name);
    let rows = golden.f32s();
    let rows = rows.chunks(golden.shape[1]).zip(valid(case));
    rows.filter(|(_, valid)| *valid)
        .flat_map(|(row, _)| row.to_vec())
        .collect()
}

impl Real {
    fn pick(&self, values: &[f32], width: usize) -> Vec<f32> {
        let rows = self.rows.iter();
        rows.flat_map(|row| values[row * width..(row + 1) * width].to_vec())
            .collect()
    }
}

fn text(case: &Case) -> TextInput {
    let len = case.tensor("inputs.text_ids").shape[1];
    let ints = |name: &str| -> Vec<i64> {
        let rows = valid_rows(case, name);
        rows.iter().map(|value| *value as i64).collect()
    };
    TextInput::from_padded(&ints("inputs.text_ids"), &ints("inputs.text_mask"), len)
}

fn regions(case: &Case, device: &Device) -> Regions {
    let real = real(case, "img_mask");
    let features = case.tensor("inputs.feat");
    let dim = features.shape[2];
    let count = real.rows.len();
    let corners: Vec<f32> = real
        .pick(&case.tensor("inputs.geom").f32s(), 5)
        .chunks(5)
        .flat_map(|geometry| geometry[..4].to_vec())
        .collect();
    let features = TensorData::new(real.pick(&features.f32s(), dim), [count, dim]);
    Regions {
        features: Tokens {
            rows: Tensor::from_data(features, device),
            spans: Spans::new(real.lengths.iter().copied()),
        },
        boxes: Tensor::from_data(TensorData::new(corners, [count, 4]), device),
    }
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_into_vec().unwrap()
}

fn close(name: &str, found: &[f32], expected: &[f32], allowed: f32) {
    assert_eq!(found.len(), expected.len(), "{name}");
    for (place, (found, expected)) in found.iter().zip(expected).enumerate() {
        let apart = (found - expected).abs();
        assert!(
            apart <= allowed.max(2e-5 * expected.abs()),
            "{name}[{place}]: {found} and not {expected}"
        );
    }
}

fn input(case: &Case, device: &Device) -> StepInput {
    let clean = text(case);
    let pairs = clean.spans.batch();
    StepInput {
        seen: Seen::Regions(regions(case, device)),
        encoded: None,
        pictures: 1,
        borrowed: 0,
        clean,
        pairs,
        fused_size: pairs,
        mlm: None,
        masked: None,
        kept_patches: None,
        hidden_patches: None,
        matching: None,
        ranking: None,
        classes: None,
        knowledge: None,
        grounding: None,
        clusters: None,
    }
}

/// Every gradient of the case against those of the total.
fn check_gradients(case: &Case, model: &VisionLanguageModel, losses: &Losses) {
    let mut gradients = losses.total().unwrap().backward();
    let mut found = StateDict::new();
    take_gradients(model, &mut gradients, |path, shape, gradient| {
        let tensor = HostTensor {
            shape: shape.to_vec(),
            values: values(gradient),
        };
        let tensor = if path.is_transposed() {
            tensor.transposed()
        } else {
            tensor
        };
        found.extend(split(rosita::names(&path.name()), &tensor));
    });
    let mut checked = 0;
    for (name, golden) in case.with_prefix("grads.") {
        let gradient = &found[name];
        let expected = golden.f32s();
        let largest = expected.iter().fold(0.0f32, |most, x| most.max(x.abs()));
        close(
            name,
            &gradient.values,
            &expected,
            3e-5f32.max(1e-3 * largest),
        );
        checked += 1;
    }
    assert!(checked > 5);
}

#[test]
fn every_stage_of_pretraining() {
    let Some(case) = Case::open("tbkin/model_pretrain") else {
        return;
    };
    both_kernels(|_| {
        let device = Device::flex();
        let heads = HeadsConfig {
            matching: true,
            mlm: true,
            masked_regions: true,
            classes: size(&case, "answers"),
            ..no_heads()
        };
        let config = config(&case, heads);
        let model = model(&case, &config, &device);
        let (words, places) = (real(&case, "text_mask"), real(&case, "img_mask"));
        let expected = |name: &str, real: &Real| {
            let golden = case.tensor(&format!("expected.{name}"));
            real.pick(&golden.f32s(), golden.shape[2])
        };
        let check = |name: &str, found: Vec<f32>, real: &Real| {
            close(name, &found, &expected(name, real), 3e-5);
        };
        let (input, regions) = (text(&case), regions(&case, &device));
        let embedded = model.text.embed(&input);
        check("text_embedded", values(embedded.rows.clone()), &words);
        let seen = Seen::Regions(regions);
        let visual = model.embed(&seen).unwrap();
        check("visual_embedded", values(visual.rows.clone()), &places);
        let encoded = model.encode_text(&input);
        let image = model.encode_seen(&seen).unwrap();
        let layers = model.fuse_all(&encoded, &image, 0);
        for (index, layer) in layers.iter().enumerate() {
            let golden = case.tensor(&format!("expected.layer{index}"));
            let (len, width) = (golden.shape[1], golden.shape[2]);
            let text_len = case.tensor("inputs.text_mask").shape[1];
            let all = golden.f32s();
            let part = |from: usize, to: usize| -> Vec<f32> {
                let rows = all.chunks(len * width);
                rows.flat_map(|row| row[from * width..to * width].to_vec())
                    .collect()
            };
            let name = format!("layer{index}");
            let found = values(layer.text.rows.clone());
            close(&name, &found, &words.pick(&part(0, text_len), width), 3e-5);
            let found = values(layer.image.rows.clone());
            close(
                &name,
                &found,
                &places.pick(&part(text_len, len), width),
                3e-5,
            );
        }
        let fused = model.fuse(&encoded, &image, 0);
        let pooled = model.pooled(&fused);
        let whole = |name: &str| case.tensor(&format!("expected.{name}")).f32s();
        close("pooled", &values(pooled.clone()), &whole("pooled"), 3e-5);
        let matching = model.match_head.as_ref().unwrap().forward(pooled.clone());
        close("pred_itm", &values(matching), &whole("pred_itm"), 3e-5);
        let answers = model.class_head.as_ref().unwrap().forward(pooled);
        close("pred_qa", &values(answers), &whole("pred_qa"), 3e-5);
        let head = model.mlm_head.as_ref().unwrap();
        let guess = head.forward(fused.text.rows.clone(), &model.text.words);
        check("pred_mlm", values(guess), &words);
        let guess = model.region_head.as_ref().unwrap();
        let guess = guess.forward(fused.image.rows);
        check("pred_feat", values(guess.features), &places);
        check("pred_obj", values(guess.objects), &places);
        check("pred_attr", values(guess.attributes), &places);
    });
}

/// The last layer's scores, and the maps that the published demonstration makes of them.
#[test]
fn where_masked_words_look() {
    let Some(case) = Case::open("tbkin/model_pretrain") else {
        return;
    };
    let device = Device::flex();
    let config = config(
        &case,
        HeadsConfig {
            matching: true,
            mlm: true,
            masked_regions: true,
            classes: size(&case, "answers"),
            ..no_heads()
        },
    );
    let model = model(&case, &config, &device);
    let (encoded, image) = (
        model.encode_text(&text(&case)),
        model
            .encode_seen(&Seen::Regions(regions(&case, &device)))
            .unwrap(),
    );
    let before = model.fuse_all(&encoded, &image, 0).swap_remove(0);
    let joined = before.text.followed_by(&before.image);
    let scores = model.fusion.joint_layers[1].attention.scores(&joined);
    let [batch, heads, longest, _] = scores.dims();
    let scores = values(scores);
    let golden = case.tensor("expected.demo.text_to_regions");
    let (text_len, image_len) = (golden.shape[1], golden.shape[2]);
    let expected = golden.f32s();
    for pair in 0..batch {
        let words: Vec<usize> = before.text.spans.lengths().collect();
        let places: Vec<usize> = before.image.spans.lengths().collect();
        let (words, places) = (words[pair], places[pair]);
        for word in 0..words {
            let sum = |place: usize| -> f32 {
                (0..heads)
                    .map(|head| {
                        let row = ((pair * heads + head) * longest + word) * longest;
                        scores[row + words + place]
                    })
                    .sum()
            };
            let sums: Vec<f32> = (0..places).map(sum).collect();
            let data = TensorData::new(sums, [1, places]);
            let found = values(softmax(Tensor::<2>::from_data(data, &device), 1));
            let start = (pair * text_len + word) * image_len;
            close("demo", &found, &expected[start..start + places], 1e-4);
        }
    }
}

#[test]
fn pretraining_losses() {
    let Some(case) = Case::open("tbkin/loss_pretrain") else {
        return;
    };
    both_kernels(|device| {
        let heads = HeadsConfig {
            matching: true,
            mlm: true,
            masked_regions: true,
            ..no_heads()
        };
        let model = model(&case, &config(&case, heads), device);
        let floats = |name: &str| case.tensor(&format!("inputs.{name}")).f32s();
        let ints = |name: &str| case.tensor(&format!("inputs.{name}")).i64s();
        let (words, places) = (real(&case, "text_mask"), real(&case, "img_mask"));
        let text_len = case.tensor("inputs.text_mask").shape[1];
        let image_len = case.tensor("inputs.img_mask").shape[1];
        let (text_valid, image_valid) = (floats("text_valid"), floats("image_valid"));
        let asked =
            |real: &Real, weights: &[f32], valid: &[f32], len: usize| -> Vec<(usize, usize)> {
                let rows = real.rows.iter().enumerate();
                rows.filter(|(_, row)| weights[**row] > 0.0 && valid[**row / len] > 0.0)
                    .map(|(packed, row)| (packed, *row))
                    .collect()
            };
        let text_weight = floats("text_loss_weight");
        let hidden_words = asked(&words, &text_weight, &text_valid, text_len);
        let labels = ints("text_labels");
        let image_weight = floats("img_loss_weight");
        let hidden = asked(&places, &image_weight, &image_valid, image_len);
        let right = floats("feat_label");
        let dim = right.len() / image_weight.len();
        let sure = |label: &str, sure: &str| -> Vec<(u32, f32)> {
            let (labels, weights) = (ints(label), floats(sure));
            let of = |(_, row): &(usize, usize)| (labels[*row] as u32, weights[*row]);
            hidden.iter().map(of).collect()
        };
        let knowledge = KnowledgeInput {
            text: text(&case),
            words: MlmTargets {
                positions: hidden_words.iter().map(|(packed, _)| *packed).collect(),
                labels: hidden_words
                    .iter()
                    .map(|(_, row)| labels[*row] as u32)
                    .collect(),
            },
            regions: regions(&case, device),
            targets: RegionTargets {
                rows: hidden.iter().map(|(packed, _)| *packed).collect(),
                features: hidden
                    .iter()
                    .flat_map(|(_, row)| right[row * dim..(row + 1) * dim].to_vec())
                    .collect(),
                dim,
                objects: sure("obj_label", "obj_conf"),
                attributes: sure("attr_label", "attr_conf"),
            },
            matching: MatchingDraw {
                texts: (0..4).collect(),
                partner: (0..4).collect(),
                labels: ints("itm_label")
                    .iter()
                    .map(|label| *label as u32)
                    .collect(),
            },
        };
        let objectives = ObjectivesConfig {
            knowledge: Some(KnowledgeConfig::default()),
            ..ObjectivesConfig::default()
        };
        let mut step = input(&case, device);
        step.knowledge = Some(knowledge);
        let found = losses::shared(&model, &objectives, &step);
        let value = |name: &str| values(found.get(name).unwrap())[0];
        let expected = |name: &str| case.tensor(&format!("expected.{name}")).scalar() as f32;
        for (ours, theirs) in [
            ("knowledge_words", "mlm"),
            ("knowledge_features", "feat"),
            ("knowledge_objects", "obj"),
            ("knowledge_attributes", "attr"),
        ] {
            close(
                theirs,
                &[value(ours)],
                &[expected(theirs)],
                1e-4 * expected(theirs),
            );
        }
        let itm = value("knowledge_matching") + 0.1 * value("knowledge_transport");
        close("itm_plus_ot", &[itm], &[expected("itm_plus_ot")], 1e-4);
        let total = values(found.total().unwrap());
        close(
            "total",
            &total,
            &[expected("total")],
            1e-4 * expected("total"),
        );
        check_gradients(&case, &model, &found);
    });
}

fn answers(name: &str, targets: impl Fn(&Case) -> ClassTargets, select: Option<&SelectConfig>) {
    let Some(case) = Case::open(name) else {
        return;
    };
    both_kernels(|device| {
        let heads = HeadsConfig {
            classes: size(&case, "answers"),
            ..no_heads()
        };
        let mut config = config(&case, heads);
        config.select = select.cloned();
        let model = model(&case, &config, device);
        let objectives = ObjectivesConfig {
            // The published loss is a mean over classes too.
            classification: Some(ClassificationConfig {
                weight: 1.0 / size(&case, "answers") as f64,
                ..ClassificationConfig::default()
            }),
            ..ObjectivesConfig::default()
        };
        let mut step = input(&case, device);
        let (encoded, image) = (
            model.encode_text(&step.clean),
            model.encode_seen(&step.seen).unwrap(),
        );
        let pooled = model.pooled(&model.fuse(&encoded, &image, 0));
        let logits = model.class_head.as_ref().unwrap().forward(pooled);
        let expected = valid_rows(&case, "expected.logits");
        close("logits", &values(logits), &expected, 3e-5);
        step.classes = Some(targets(&case));
        let found = losses::shared(&model, &objectives, &step);
        let expected = case.tensor("expected.loss").scalar() as f32;
        close(
            "loss",
            &values(found.total().unwrap()),
            &[expected],
            1e-4 * expected,
        );
        check_gradients(&case, &model, &found);
    });
}

#[test]
fn answers_by_divergence() {
    let shares = |case: &Case| {
        let counts = valid_rows(case, "inputs.answer_counts");
        ClassTargets::Shares(counts.iter().map(|count| count / 10.0).collect())
    };
    answers("tbkin/vqa_kl", shares, None);
}

#[test]
fn answers_one_by_one() {
    let worth = |case: &Case| ClassTargets::Worth(valid_rows(case, "inputs.target"));
    answers("tbkin/vqa_bce", worth, None);
}

#[test]
fn answers_with_selected_attention() {
    let worth = |case: &Case| ClassTargets::Worth(valid_rows(case, "inputs.target"));
    let select = SelectConfig {
        value: 0.05,
        ..SelectConfig::default()
    };
    answers("tbkin/vqa_bce_selected", worth, Some(&select));
}

#[test]
fn referring_expressions() {
    let Some(case) = Case::open("tbkin/rec") else {
        return;
    };
    both_kernels(|device| {
        let heads = HeadsConfig {
            grounding: true,
            ..no_heads()
        };
        let model = model(&case, &config(&case, heads), device);
        let places = real(&case, "img_mask");
        let boxes = case.tensor("inputs.boxes");
        let len = boxes.shape[1];
        let corners: Vec<[f64; 4]> = boxes.values.as_chunks().0.to_vec();
        let wanted = &case.tensor("inputs.gt_boxes_xyxy").values;
        let wanted: Vec<[f64; 4]> = wanted.as_chunks().0.to_vec();
        let mut start = 0;
        let pictures: Vec<_> = (0..wanted.len())
            .map(|picture| {
                let rows = &places.rows[start..start + places.lengths[picture]];
                start += places.lengths[picture];
                (
                    rows.iter().map(|row| corners[*row]).collect(),
                    wanted[picture],
                )
            })
            .collect();
        let targets = GroundTargets::of(&pictures);
        let golden = |name: &str, width: usize| {
            places.pick(&case.tensor(&format!("expected.{name}")).f32s(), width)
        };
        close(
            "rank_target",
            &targets.shares,
            &golden("rank_target", 1),
            1e-5,
        );
        let right = golden("reg_weight", 1);
        for (row, right) in right.iter().enumerate() {
            assert_eq!(targets.right[row], *right > 0.0, "region {row}");
            if *right > 0.0 {
                let expected = &golden("reg_target", 4)[row * 4..row * 4 + 4];
                close("reg_target", &targets.shifts[row], expected, 1e-4);
            }
        }
        let mut step = input(&case, device);
        step.grounding = Some(targets);
        let objectives = ObjectivesConfig {
            grounding: Some(GroundingConfig::default()),
            ..ObjectivesConfig::default()
        };
        let (encoded, image) = (
            model.encode_text(&step.clean),
            model.encode_seen(&step.seen).unwrap(),
        );
        let fused = model.fuse(&encoded, &image, 0);
        let head = model.ground_head.as_ref().unwrap();
        let (ranks, shifts) = head.forward(fused.image.rows);
        let (ranks, shifts) = (values(ranks), values(shifts));
        close("rank_logits", &ranks, &golden("rank_logits", 1), 3e-5);
        close("reg", &shifts, &golden("reg", 4), 3e-5);
        let size = &case.tensor("inputs.image_hw").values;
        let decoded = case.tensor("expected.decoded").f32s();
        let mut start = 0;
        for picture in 0..wanted.len() {
            let own = start..start + places.lengths[picture];
            let best = own
                .clone()
                .max_by(|a, b| ranks[*a].total_cmp(&ranks[*b]))
                .unwrap();
            start = own.end;
            let correction =
                std::array::from_fn(|i| f64::from(shifts[best * 4 + i]) * DEVIATIONS[i]);
            let region = corners[places.rows[best]];
            let found = clip(
                decode(region, correction),
                [size[picture * 2 + 1], size[picture * 2]],
            );
            let found = found.map(|x| x as f32);
            close(
                "decoded",
                &found,
                &decoded[picture * 4..picture * 4 + 4],
                1e-2,
            );
        }
        let found = losses::shared(&model, &objectives, &step);
        let expected = |name: &str| case.tensor(&format!("expected.{name}")).scalar() as f32;
        let value = |name: &str| values(found.get(name).unwrap())[0];
        // The published softmax runs over padded regions too, as if they were seen.
        let padded: Vec<_> = (0..wanted.len())
            .map(|picture| {
                let real = places.lengths[picture];
                let far = [-1e6; 4];
                let own = corners[picture * len..picture * len + real].to_vec();
                let filled = own.into_iter().chain(vec![far; len - real]);
                (filled.collect(), wanted[picture])
            })
            .collect();
        let scores = case.tensor("expected.rank_logits").f32s();
        let count = scores.len();
        let scores = Tensor::<1>::from_data(TensorData::new(scores, [count]), device);
        let spans = Spans::uniform(wanted.len(), len);
        let rank = rank_loss(&scores, &spans, &GroundTargets::of(&padded));
        // .. but its mean over the others alone.
        let counted = case.tensor("expected.rank_weight").f32s();
        let counted = counted.iter().filter(|weight| **weight > 0.0).count();
        let right = places.lengths.len() - 1;
        let rank = rank.mul_scalar((right * len) as f64 / counted as f64);
        close("rank", &values(rank), &[expected("rank_loss")], 1e-5);
        close(
            "reg",
            &[0.5 * value("grounding_shift")],
            &[expected("reg_loss_weighted")],
            1e-4,
        );
    });
}
