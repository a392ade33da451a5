//! The losses of ITR's tasks against the reference, values and gradients (`fixtures/itr`), and the
//! closed forms of `specs/itr.md` section 9.4.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed unwrap here is the failed test"
)]

use burn::tensor::{Device, Gradients, Tensor, TensorData};
use chiasm_nn::compute::{self, Kernels};
use chiasm_nn::config::ProjectionKind;
use chiasm_nn::criterion::Sides;
use chiasm_nn::criterion::constant_temperature;
use chiasm_nn::heads::{ClusterHead, Projection};
use chiasm_nn::layers::{Init, normalize};
use chiasm_nn::model::Seen;
use chiasm_nn::text::TextInput;
use chiasm_nn::weights::{ParamPath, replace_value, take_gradients};
use chiasm_nn::{FusionConfig, ModelConfig, Spans, TextConfig, VisionConfig, VisionLanguageModel};
use chiasm_objective::cluster::cluster_loss;
use chiasm_objective::config::{ClassSource, ClusterConfig, ClusterView, ContrastiveConfig};
use chiasm_objective::contrast::contrastive_loss;
use chiasm_objective::{ObjectivesConfig, StepInput, losses};
use chiasm_testkit::{Case, Golden, assert_close};

fn matrix(golden: &Golden, device: &Device) -> Tensor<2> {
    let shape = [golden.shape[0], golden.shape[1]];
    Tensor::from_data(TensorData::new(golden.f32s(), shape), device)
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.try_into_vec_as::<f32>().unwrap()
}

fn scalar(tensor: &Tensor<1>) -> f64 {
    f64::from(tensor.clone().into_scalar::<f32>())
}

/// A head with the case's weights, which PyTorch keeps transposed.
fn head(case: &Case, name: &str, device: &Device) -> ClusterHead {
    let weight = matrix(case.tensor(&format!("weights.{name}.weight")), device).transpose();
    let [width, clusters] = weight.dims();
    let bias = case.tensor(&format!("weights.{name}.bias")).f32s();
    let bias = Tensor::from_data(TensorData::new(bias, [clusters]), device);
    let mut head = ClusterHead::new(&Init::new(0, 0.02, device), width, clusters);
    head.out.weight = replace_value(head.out.weight, weight.inner());
    head.out.bias = head.out.bias.map(|own| replace_value(own, bias.inner()));
    head
}

fn projection(case: &Case, name: &str, device: &Device) -> Projection {
    let weight = matrix(case.tensor(&format!("weights.{name}.weight")), device).transpose();
    let [width, projected] = weight.dims();
    let init = Init::new(0, 0.02, device);
    let mut projection = Projection::new(&init, ProjectionKind::Linear, width, projected);
    projection.out.weight = replace_value(projection.out.weight, weight.inner());
    projection
}

fn objective(name: &str) {
    let Some(case) = Case::open(&format!("itr/{name}")) else {
        return;
    };
    for kernels in [Kernels::Fused, Kernels::Plain] {
        compute::with(kernels, || check(&case));
    }
}

fn check(case: &Case) {
    let device = Device::flex().autodiff();
    let input = |name: &str| {
        let golden = case.tensor(&format!("inputs.{name}"));
        matrix(golden, &device).require_grad()
    };
    let (text, image) = (input("text_embedding"), input("image_embedding"));
    let labels = case.tensor("inputs.labels").i64s();
    let labels: Vec<u32> = labels.iter().map(|label| *label as u32).collect();
    let vector = Tensor::cat(vec![text.clone(), image.clone()], 1);
    let [to_text, to_image] = ["proj_t", "proj_v"].map(|name| projection(case, name, &device));
    let tasks = case.json["task_ids"].as_str().unwrap();
    let mut total: Option<Tensor<1>> = None;
    let mut heads = Vec::new();
    for task in tasks.split('+') {
        let (value, weight) = if task == "4" {
            let (text, image) = (text.clone(), image.clone());
            let rows = [to_text.forward(text), to_image.forward(image)];
            let [text, image] = rows.clone().map(normalize);
            let similarity = text.matmul(image.transpose());
            let expected = case.tensor("expected.similarity");
            assert_close("similarity", &values(similarity), expected, 1e-5, 0.0);
            let [text, image] = rows;
            let temperature = constant_temperature(1.0, &device);
            (
                contrastive_loss(Sides::alone([text, image]), temperature),
                1.0,
            )
        } else {
            let (name, weight) = match task {
                "0" => ("classifier".to_owned(), 1.0),
                "1" => (
                    "head1".to_owned(),
                    ClusterView::TextImage.published_weight(),
                ),
                "2" => ("head2".to_owned(), ClusterView::TextOcr.published_weight()),
                _ => (
                    "head3".to_owned(),
                    ClusterView::TextCaption.published_weight(),
                ),
            };
            let head = head(case, &name, &device);
            let value = cluster_loss(&head, vector.clone(), &labels);
            heads.push((name, head));
            (value, weight)
        };
        let weighted = value.mul_scalar(weight);
        let expected = case.tensor(&format!("expected.weighted_loss_task{task}"));
        case.assert_loss(&format!("task {task}"), scalar(&weighted), expected);
        total = Some(match total {
            Some(total) => total + weighted,
            None => weighted,
        });
    }
    let total = total.unwrap();
    case.assert_loss("total", scalar(&total), case.tensor("expected.total_loss"));
    let gradients = total.backward();
    let mut found = 0;
    let mut compare = |name: &str, gradient: Vec<f32>| {
        let expected = case.tensor(&format!("grads.{name}"));
        case.assert_gradient(name, &gradient, expected);
        found += 1;
    };
    let of = |tensor: &Tensor<2>, gradients: &Gradients| tensor.grad(gradients);
    compare("text_embedding", values(of(&text, &gradients).unwrap()));
    compare("image_embedding", values(of(&image, &gradients).unwrap()));
    for (name, head) in &heads {
        let weight = of(&head.out.weight.val(), &gradients).unwrap();
        compare(&format!("{name}.weight"), values(weight.transpose()));
        let bias = head.out.bias.as_ref().unwrap().val();
        compare(
            &format!("{name}.bias"),
            values(bias.grad(&gradients).unwrap()),
        );
    }
    if tasks.contains('4') {
        for (name, projection) in [("proj_t", &to_text), ("proj_v", &to_image)] {
            let weight = of(&projection.out.weight.val(), &gradients).unwrap();
            compare(&format!("{name}.weight"), values(weight.transpose()));
        }
    }
    assert_eq!(found, case.with_prefix("grads.").count(), "every gradient");
}

#[test]
fn parity_itr_objective_0() {
    objective("objective_0");
}

#[test]
fn parity_itr_objective_1_4() {
    objective("objective_1_4");
}

#[test]
fn parity_itr_objective_2() {
    objective("objective_2");
}

#[test]
fn parity_itr_objective_3_4() {
    objective("objective_3_4");
}

#[test]
fn parity_itr_objective_4() {
    objective("objective_4");
}

fn contrast(text: Tensor<2>, image: Tensor<2>) -> f64 {
    let temperature = constant_temperature(1.0, &text.device());
    scalar(&contrastive_loss(Sides::alone([text, image]), temperature))
}

fn near(found: f64, expected: f64, tolerance: f64) {
    assert!(
        (found - expected).abs() <= tolerance,
        "{found} instead of {expected}"
    );
}

/// Both kinds of kernels.
fn on_both(check: impl Fn(&Device)) {
    for kernels in [Kernels::Fused, Kernels::Plain] {
        compute::with(kernels, || check(&Device::flex()));
    }
}

fn rows(
    count: usize,
    width: usize,
    of: impl Fn(usize, usize) -> f32,
    device: &Device,
) -> Tensor<2> {
    let values: Vec<f32> = (0..count * width)
        .map(|i| of(i / width, i % width))
        .collect();
    Tensor::from_data(TensorData::new(values, [count, width]), device)
}

/// Numbers without a pattern.
fn mixed(row: usize, column: usize) -> f32 {
    ((row * 37 + column * 101 + 11) % 97) as f32 / 97.0 - 0.4
}

#[test]
fn l1_no_opinion_costs_the_logarithm_of_the_clusters() {
    on_both(|device| {
        for (clusters, expected) in [(3, 1.0986), (4, 1.3863)] {
            let mut head = ClusterHead::new(&Init::new(0, 0.02, device), 6, clusters);
            let zeros = Tensor::zeros([6, clusters], device);
            head.out.weight = replace_value(head.out.weight, zeros);
            let labels: Vec<u32> = (0..8).map(|row| row % clusters as u32).collect();
            let loss = cluster_loss(&head, rows(8, 6, mixed, device), &labels);
            near(scalar(&loss), expected, 1e-4);
        }
    });
}

#[test]
fn l2_l6_identical_rows_cost_the_logarithm_of_the_batch() {
    on_both(|device| {
        for batch in [1usize, 2, 32] {
            let same = rows(batch, 5, |_, column| mixed(0, column), device);
            near(contrast(same.clone(), same), (batch as f64).ln(), 1e-5);
        }
    });
    let device = Device::flex().autodiff();
    let one = rows(1, 5, mixed, &device).require_grad();
    let other = rows(1, 5, |row, column| mixed(row + 3, column), &device);
    let temperature = constant_temperature(1.0, &device);
    let gradients = contrastive_loss(Sides::alone([one.clone(), other]), temperature).backward();
    let gradient = values(one.grad(&gradients).unwrap());
    assert!(gradient.iter().all(|value| *value == 0.0), "{gradient:?}");
}

/// Pairs at the corners of a simplex are as far apart as they can be.
#[test]
fn l3_the_floor_at_temperature_one() {
    on_both(|device| {
        let floors = [(2usize, 0.1269), (8, 1.1732), (32, 2.4884), (128, 3.8577)];
        for (batch, floor) in floors {
            let share = 1.0 / batch as f32;
            let corner = |row, column| if row == column { 1.0 - share } else { -share };
            let simplex = rows(batch, batch, corner, device);
            near(contrast(simplex.clone(), simplex), floor, 1e-4);
            let text = rows(batch, 7, mixed, device);
            let image = rows(batch, 7, |row, column| mixed(row + 5, column + 1), device);
            assert!(contrast(text, image) > floor);
        }
    });
}

#[test]
fn l4_l7_neither_order_nor_length_nor_side_matters() {
    on_both(|device| {
        let text = rows(9, 6, mixed, device);
        let image = rows(9, 6, |row, column| mixed(row + 20, column + 2), device);
        let loss = contrast(text.clone(), image.clone());
        near(contrast(image.clone(), text.clone()), loss, 1e-5);
        let turned = |row: usize, column| mixed((row + 4) % 9, column);
        let turned_image = |row: usize, column: usize| mixed((row + 4) % 9 + 20, column + 2);
        let moved = contrast(rows(9, 6, turned, device), rows(9, 6, turned_image, device));
        near(moved, loss, 1e-5);
        let long = |row: usize, column| mixed(row, column) * (1 + row) as f32;
        near(contrast(rows(9, 6, long, device), image), loss, 1e-5);
        let nothing = Tensor::zeros([9, 6], device);
        near(contrast(text, nothing), 9f64.ln(), 1e-5);
    });
}

/// Section 2.4: `dL/dS = ((softmax of rows - 1) + (softmax of columns - 1)) / 2B` on the diagonal.
#[test]
fn l5_the_gradient_is_the_closed_form() {
    let device = Device::flex().autodiff();
    // Rows of length 1 in one plane: the similarity is the cosine of the difference of angles.
    let angles = [0.3f64, 1.1, 2.0, -0.7];
    let others = [0.1f64, 1.5, 1.2, -1.9];
    let circle = |angles: [f64; 4]| {
        let of = move |row: usize, column: usize| match column {
            0 => angles[row].cos() as f32,
            _ => angles[row].sin() as f32,
        };
        rows(4, 2, of, &device).require_grad()
    };
    let (text, image) = (circle(angles), circle(others));
    let temperature = constant_temperature(1.0, &device);
    let gradients = contrastive_loss(Sides::alone([text.clone(), image]), temperature).backward();
    let found = values(text.grad(&gradients).unwrap());
    let s = |i: usize, j: usize| (angles[i] - others[j]).cos();
    let row = |i: usize, j: usize| s(i, j).exp() / (0..4).map(|j| s(i, j).exp()).sum::<f64>();
    let column = |i: usize, j: usize| s(i, j).exp() / (0..4).map(|i| s(i, j).exp()).sum::<f64>();
    for i in 0..4 {
        // Along the circle; across it the normalisation takes all away.
        let tangent = [-angles[i].sin(), angles[i].cos()];
        let along: f64 = (0..4)
            .map(|j| {
                let own = if i == j { 2.0 } else { 0.0 };
                (row(i, j) + column(i, j) - own) / 8.0 * -(angles[i] - others[j]).sin()
            })
            .sum();
        for axis in 0..2 {
            near(f64::from(found[2 * i + axis]), along * tangent[axis], 1e-6);
        }
    }
}

/// Two small towers without a fusion encoder, as ITR has them.
fn towers(device: &Device) -> VisionLanguageModel {
    model(0, device)
}

fn model(fusion_layers: usize, device: &Device) -> VisionLanguageModel {
    let mut config = ModelConfig {
        text: TextConfig {
            vocab_size: 30,
            hidden_size: 8,
            layers: 1,
            num_heads: 2,
            intermediate_size: 12,
            max_text_len: 8,
            dropout: 0.0,
            ..TextConfig::default()
        },
        vision: VisionConfig {
            image_size: 8,
            patch_size: 4,
            hidden_size: 12,
            layers: 1,
            num_heads: 2,
            intermediate_size: 12,
            ..VisionConfig::default()
        },
        fusion: FusionConfig {
            hidden_size: 8,
            layers: fusion_layers,
            num_heads: 2,
            intermediate_size: 12,
            dropout: 0.0,
            ..FusionConfig::default()
        },
        projection_size: 6,
        init_std: 0.2,
        ..ModelConfig::default()
    };
    config.heads.clusters = 4;
    config.heads.projection = ProjectionKind::Linear;
    (config.heads.matching, config.heads.mlm) = (false, false);
    config.validate().unwrap();
    VisionLanguageModel::new(&Init::new(3, config.init_std, device), &config)
}

fn texts(ids: &[&[u32]]) -> TextInput {
    TextInput {
        spans: Spans::new(ids.iter().map(|ids| ids.len())),
        ids: ids.concat().into(),
        types: None,
    }
}

const IDS: [&[u32]; 3] = [&[1, 5, 6, 7, 2], &[1, 8, 2], &[1, 9, 10, 2]];

fn pixels(of: &[usize], device: &Device) -> Seen {
    let values = of
        .iter()
        .flat_map(|image| (0..192).map(|i| mixed(*image, i)))
        .collect::<Vec<_>>();
    Seen::Pixels(Tensor::from_data(
        TensorData::new(values, [of.len(), 1, 3, 8, 8]),
        device,
    ))
}

fn step(device: &Device) -> StepInput {
    StepInput {
        seen: pixels(&[0, 1, 2], device),
        encoded: None,
        pictures: 1,
        borrowed: 0,
        clean: texts(&IDS),
        pairs: 3,
        fused_size: 3,
        clusters: Some(vec![2, 0, 3]),
        mlm: None,
        masked: None,
        kept_patches: None,
        hidden_patches: None,
        matching: None,
        ranking: None,
        classes: None,
        knowledge: None,
        grounding: None,
    }
}

/// Names of the parameters that get a gradient which is not zero.
fn reached(objectives: &ObjectivesConfig) -> Vec<String> {
    let device = Device::flex().autodiff();
    let model = towers(&device);
    let losses = losses::shared(&model, objectives, &step(&device));
    let mut gradients = losses.total().unwrap().backward();
    let mut found = Vec::new();
    take_gradients(&model, &mut gradients, |path: &ParamPath, _, gradient| {
        if values(gradient).iter().any(|value| *value != 0.0) {
            found.push(path.name());
        }
    });
    found
}

#[test]
fn l8_l9_each_task_reaches_the_towers_and_its_own_head_alone() {
    let tasks = |tasks| ObjectivesConfig::default().with_tasks(tasks).unwrap();
    let has = |names: &[String], part: &str| names.iter().any(|name| name.starts_with(part));
    let cluster = reached(&tasks("1"));
    let contrast = reached(&tasks("4"));
    let both = reached(&tasks("1+4"));
    for (names, head, projection) in [
        (&cluster, true, false),
        (&contrast, false, true),
        (&both, true, true),
    ] {
        for tower in [
            "text.layers.",
            "vision.blocks.",
            "text_pooler.",
            "image_pooler.",
        ] {
            assert!(has(names, tower), "{tower} of {names:?}");
        }
        assert_eq!(has(names, "cluster_head."), head);
        assert_eq!(has(names, "text_projection."), projection);
        // Its temperature is constant.
        assert!(!has(names, "temperature"));
    }
    let mut silent = tasks("1+4");
    silent.cluster.as_mut().unwrap().weight = Some(0.0);
    assert!(!has(&reached(&silent), "cluster_head."));

    let device = Device::flex();
    let model = towers(&device);
    let terms = losses::shared(&model, &tasks("1+4"), &step(&device));
    let value = |name: &str| scalar(&terms.get(name).unwrap());
    let total = scalar(&terms.total().unwrap());
    near(total, 0.2 * value("cluster") + value("contrastive"), 1e-6);
    let full = ObjectivesConfig {
        cluster: Some(ClusterConfig {
            weight: Some(1.0),
            ..ClusterConfig::default()
        }),
        contrastive: Some(ContrastiveConfig {
            temperature: Some(1.0),
            ..ContrastiveConfig::default()
        }),
        ..ObjectivesConfig::default()
    };
    let total = losses::shared(&model, &full, &step(&device)).total();
    near(
        scalar(&total.unwrap()),
        value("cluster") + value("contrastive"),
        1e-6,
    );
    let apart = losses::unshared(&model, &full, &step(&device)).total();
    near(
        scalar(&apart.unwrap()),
        value("cluster") + value("contrastive"),
        1e-6,
    );
}

/// Contract 4 and 5: text first, the towers' widths side by side; what a row is does not depend on the
/// rows beside it; a text's own vector sees no pixel.
#[test]
fn views_of_posts() {
    on_both(|device| {
        views_of(&model(0, device), 20, device);
        views_of(&model(1, device), 16, device);
    });
}

fn views_of(model: &VisionLanguageModel, width: usize, device: &Device) {
    let seen = pixels(&[0, 1, 2], device);
    let vector = model.pair_vector(&texts(&IDS), &seen).unwrap();
    assert_eq!(vector.dims(), [3, width]);
    let text = model.text_vector(&texts(&IDS));
    let own = values(text.clone());
    let first = values(vector.clone().narrow(1, 0, 8));
    // A fused text has seen the image.
    assert_eq!(own == first, model.is_towers_alone());
    for row in 0..3 {
        let alone = pixels(&[row], device);
        let alone = model.pair_vector(&texts(&IDS[row..=row]), &alone);
        let alone = values(alone.unwrap());
        let within = values(vector.clone().narrow(0, row, 1));
        for (alone, within) in alone.iter().zip(&within) {
            near(f64::from(*alone), f64::from(*within), 1e-5);
        }
    }
    assert_eq!(text.dims(), [3, 8]);
    let alone = model.text_vector(&texts(&IDS[1..2]));
    let within = text.narrow(0, 1, 1);
    for (alone, within) in values(alone).iter().zip(&values(within)) {
        near(f64::from(*alone), f64::from(*within), 1e-5);
    }
}

#[test]
fn settings_of_tasks() {
    let base = ObjectivesConfig {
        cluster: Some(ClusterConfig {
            clusters: 7,
            ..ClusterConfig::default()
        }),
        mlm: Some(chiasm_objective::config::MlmConfig::default()),
        ..ObjectivesConfig::default()
    };
    let views = [
        ("1", ClusterView::TextImage, 0.2),
        ("2", ClusterView::TextOcr, 1.0),
        ("3", ClusterView::TextCaption, 1.0),
    ];
    for (task, view, weight) in views {
        for (setting, contrasts) in [(task.to_owned(), false), (format!("{task}+4"), true)] {
            let set = base.with_tasks(&setting).unwrap();
            let cluster = set.cluster.clone().unwrap();
            assert_eq!((cluster.view, cluster.weight()), (view, weight));
            assert_eq!(cluster.clusters, 7);
            assert_eq!(set.contrastive.is_some(), contrasts);
            assert!(set.mlm.is_none());
        }
    }
    let four = base.with_tasks("4").unwrap();
    assert!(four.cluster.is_none());
    assert_eq!(four.contrastive.unwrap().temperature, Some(1.0));
    let labels = base.with_tasks("0").unwrap();
    let learned = labels.classification.clone().unwrap();
    assert_eq!(learned.classes, ClassSource::Labels);
    assert!(labels.cluster.is_none() && labels.contrastive.is_none() && labels.mlm.is_none());
    for wrong in ["", "00", "0+4", "5", "4+1", "1+2", "1+4+4", "+4", "4+4"] {
        assert!(base.with_tasks(wrong).is_none(), "{wrong}");
    }
}
