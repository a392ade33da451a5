//! Numeric invariants of `specs/scl.md` section 10 for the losses.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed unwrap here is the failed test"
)]

use burn::tensor::{Device, Tensor, TensorData};
use chiasm_nn::criterion::{constant_temperature, cross_entropy, nce};
use chiasm_objective::completion::completion_loss;
use chiasm_objective::contrast::contrastive_loss;

fn matrix(rows: &[&[f32]], device: &Device) -> Tensor<2> {
    let width = rows.first().map_or(0, |row| row.len());
    Tensor::from_data(TensorData::new(rows.concat(), [rows.len(), width]), device)
}

fn scalar(tensor: Tensor<1>) -> f64 {
    f64::from(tensor.into_scalar::<f32>())
}

fn nce_of(similarity: Tensor<2>, temperature: f64) -> f64 {
    let temperature = constant_temperature(temperature, &similarity.device());
    scalar(nce(similarity, temperature))
}

fn near(found: f64, expected: f64) {
    assert!(
        (found - expected).abs() <= 1e-5 * expected.abs().max(1.0),
        "{found} instead of {expected}"
    );
}

#[test]
fn nce_closed_forms() {
    let device = Device::flex();
    for temperature in [0.03, 0.07, 1.0] {
        near(
            nce_of(Tensor::full([4, 4], 0.3, &device), temperature),
            2.772_588_7,
        ); // N1
        near(
            nce_of(Tensor::full([8, 8], 0.3, &device), temperature),
            4.158_883_1,
        );
    }
    near(nce_of(Tensor::eye(4, &device), 1.0), 1.487_336_8); // N2
    near(nce_of(Tensor::eye(8, &device), 1.0), 2.548_017_7); // N3
    assert!(nce_of(Tensor::eye(4, &device), 0.03).abs() < 1e-6); // N4
    let shifted: Tensor<2> = Tensor::eye(4, &device).roll_dim(1, 0);
    near(nce_of(shifted.clone(), 1.0), 3.487_336_8); // N5
    near(nce_of(shifted.clone(), 0.07), 28.571_432);
    near(nce_of(shifted, 0.03), 66.666_667);
    near(
        nce_of(matrix(&[&[0.9, 0.1], &[0.3, 0.8]], &device), 1.0),
        0.842_925_8,
    ); // N6
}

#[test]
fn nce_at_the_edges() {
    let device = Device::flex().autodiff();
    let one: Tensor<2> = Tensor::full([1, 1], 0.4, &device).require_grad();
    let loss = nce(one.clone(), constant_temperature(0.03, &device));
    assert_eq!(scalar(loss.clone()), 0.0); // N7
    let gradient = one.grad(&loss.backward()).unwrap().into_scalar::<f32>();
    assert_eq!(gradient, 0.0);
    let none: Tensor<2> = Tensor::zeros([0, 0], &device);
    assert_eq!(scalar(nce(none, constant_temperature(0.03, &device))), 0.0); // N9
    // N8: a constant added to all similarities, and the transpose, change nothing.
    let similarity = matrix(
        &[&[0.9, 0.1, -0.4], &[0.3, 0.8, 0.0], &[0.2, 0.5, 0.6]],
        &device,
    );
    let value = nce_of(similarity.clone(), 0.07);
    near(nce_of(similarity.clone() + 0.5, 0.07), value);
    near(nce_of(similarity.transpose(), 0.07), value);
}

#[test]
fn contrast_is_free_of_scale_and_finite_at_zero() {
    let device = Device::flex().autodiff();
    let text = matrix(&[&[1.0, 2.0], &[-1.0, 0.5]], &device);
    let image = matrix(&[&[0.3, 1.0], &[-2.0, 1.0]], &device);
    let temperature = || constant_temperature(0.07, &device);
    let value = scalar(contrastive_loss(text.clone(), image.clone(), temperature()));
    near(
        scalar(contrastive_loss(text * 7.0, image.clone(), temperature())),
        value,
    ); // N10
    let zeros = matrix(&[&[0.0, 0.0], &[0.0, 1.0]], &device).require_grad();
    let loss = contrastive_loss(zeros.clone(), image, temperature());
    assert!(scalar(loss.clone()).is_finite());
    let gradient = zeros.grad(&loss.backward()).unwrap();
    assert!(
        gradient
            .into_data()
            .try_into_vec::<f32>()
            .unwrap()
            .iter()
            .all(|g| g.is_finite())
    );
    // M3: identical features of four samples.
    let same: Tensor<2> = Tensor::full([4, 3], 0.5, &device);
    near(
        scalar(contrastive_loss(same.clone(), same, temperature())),
        1.386_294_3,
    );
}

/// S1 and S14: values and gradients of the worked example; the targets get none.
#[test]
fn completion_worked_example() {
    for (temperature, expected, gradients) in [
        (1.0, 1.018_556_3, [0.0, -0.090_185_2, 0.209_653_5, 0.0]),
        (0.07, 2.912_986_8, [f32::NAN; 4]),
        (0.03, 6.667_938_5, [0.0, -6.658_193, 11.096_989, 0.0]),
    ] {
        let device = Device::flex().autodiff();
        let recovered = matrix(&[&[2.0, 0.0], &[0.0, 3.0]], &device).require_grad();
        let complete = matrix(&[&[0.6, 0.8], &[-0.8, 0.6]], &device).require_grad();
        let loss = completion_loss(recovered.clone(), complete.clone(), temperature);
        near(scalar(loss.clone()), expected);
        let found = loss.backward();
        assert!(complete.grad(&found).is_none(), "targets are detached");
        let found = recovered
            .grad(&found)
            .unwrap()
            .into_data()
            .try_into_vec::<f32>()
            .unwrap();
        for (found, expected) in found.iter().zip(gradients) {
            if !expected.is_nan() {
                near(f64::from(*found), f64::from(expected));
            }
        }
    }
}

#[test]
fn cross_entropy_of_zero_logits() {
    let device = Device::flex();
    near(
        scalar(cross_entropy(Tensor::zeros([3, 2], &device), &[0, 1, 1])),
        std::f64::consts::LN_2,
    );
    near(
        scalar(cross_entropy(
            Tensor::zeros([2, 50_265], &device),
            &[7, 50_264],
        )),
        10.825_064,
    ); // M1
    assert_eq!(
        scalar(cross_entropy(Tensor::zeros([0, 5], &device), &[])),
        0.0
    );
}
