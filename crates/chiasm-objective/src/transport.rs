//! Optimal transport between words and regions: how far a text is from an image when every word may
//! be matched with any region (`specs/tbkin.md` section 3.5).

use burn::tensor::{Tensor, TensorData};
use chiasm_nn::layers::normalize;
use chiasm_nn::{Spans, Tokens};

/// Sharpness of a plan: the smaller, the closer to a matching.
const BETA: f64 = 0.5;

/// Rounds that a plan takes.
const ROUNDS: usize = 50;

/// What keeps divisions by the mass of padding finite.
const PADDING: f32 = 1e4;

/// Distance of every text from its image, `[batch]`: the cost of the plan that IPOT finds, where the
/// cost of a word and a region is one minus their cosine. The gradient goes through the cost alone.
///
/// # Shapes
/// - text: `[words, width]`, image: `[regions, width]`; sequence i of both belong together
#[must_use]
pub fn transport_distance(text: &Tokens, image: &Tokens) -> Tensor<1> {
    let batch = text.spans.batch();
    let device = text.rows.device();
    let (words, regions) = (text.spans.longest(), image.spans.longest());
    if words == 0 || regions == 0 {
        return Tensor::zeros([batch], &device);
    }
    let unit = |tokens: &Tokens| tokens.with_rows(normalize(tokens.rows.clone())).padded();
    let cosine = unit(image).matmul(unit(text).swap_dims(1, 2));
    let cost = cosine.neg().add_scalar(1.0) * both_real(image, text);
    let plan = plan(cost.clone().detach(), [&image.spans, &text.spans]);
    (cost * plan).sum_dim(2).sum_dim(1).reshape([batch])
}

/// 1 where neither the row nor the column is padding, `[batch, rows, columns]`.
fn both_real(rows: &Tokens, columns: &Tokens) -> Tensor<3> {
    let device = rows.rows.device();
    let real = |spans: &Spans, shape| {
        let real = spans
            .padded()
            .map(|token| f32::from(u8::from(token.is_some())));
        Tensor::<3>::from_data(TensorData::new(real.collect::<Vec<_>>(), shape), &device)
    };
    let (row, column) = (&rows.spans, &columns.spans);
    real(row, [row.batch(), row.longest(), 1]) * real(column, [column.batch(), 1, column.longest()])
}

/// The plan of least cost, by the inexact proximal point method (IPOT) with one inner round: mass 1 a
/// pair, spread evenly over rows and over columns, none on padding.
///
/// # Shapes
/// - cost: `[batch, rows, columns]`, 0 on padding
/// - output: as cost
#[must_use]
pub fn plan(cost: Tensor<3>, [rows, columns]: [&Spans; 2]) -> Tensor<3> {
    let device = cost.device();
    let [batch, most_rows, most_columns] = cost.dims();
    let tensor = |values: Vec<f32>, shape: [usize; 3]| {
        Tensor::<3>::from_data(TensorData::new(values, shape), &device)
    };
    // What has nothing to be moved to counts as padding.
    let alone: Vec<bool> = (rows.lengths().zip(columns.lengths()))
        .map(|(rows, columns)| rows == 0 || columns == 0)
        .collect();
    let places = |spans: &Spans, real: f32, padding: f32| -> Vec<f32> {
        let longest = spans.longest().max(1);
        let value = |(place, token): (usize, Option<usize>)| {
            if token.is_some() && !alone[place / longest] {
                real
            } else {
                padding
            }
        };
        spans.padded().enumerate().map(value).collect()
    };
    let (row_shape, column_shape) = ([batch, most_rows, 1], [batch, 1, most_columns]);
    let real =
        tensor(places(rows, 1.0, 0.0), row_shape) * tensor(places(columns, 1.0, 0.0), column_shape);
    let counts = |spans: &Spans| -> Tensor<3> {
        let counts = spans.lengths().map(|len| len.max(1) as f32).collect();
        tensor(counts, [batch, 1, 1])
    };
    let (row_count, column_count) = (counts(rows), counts(columns));
    let row_padding = tensor(places(rows, 0.0, PADDING), row_shape);
    let column_padding = tensor(places(columns, 0.0, PADDING), column_shape);
    let kernel = cost.div_scalar(-BETA).exp() * real.clone();
    let mut column_scale = tensor(places(columns, 1.0, 0.0), column_shape) / column_count.clone();
    let mut plan = real.clone();
    for _ in 0..ROUNDS {
        let weights = kernel.clone() * plan;
        let reached = (weights.clone() * column_scale).sum_dim(2);
        let row_scale = (row_count.clone() * reached + row_padding.clone()).recip();
        let reached = (weights.clone() * row_scale.clone()).sum_dim(1);
        column_scale = (column_count.clone() * reached + column_padding.clone()).recip();
        plan = row_scale * weights * column_scale.clone();
    }
    plan * real
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;
    use chiasm_testkit::Case;

    fn host<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
        tensor.into_data().try_into_vec().unwrap()
    }

    #[test]
    fn the_fixture() {
        let Some(case) = Case::open("tbkin/optimal_transport") else {
            return;
        };
        let device = Device::flex().autodiff();
        let tokens = |side: &str| {
            let golden = case.tensor(&format!("inputs.{side}"));
            let pad = case.tensor(&format!("inputs.{side}_pad")).i64s();
            let real: Vec<i64> = pad.iter().map(|pad| 1 - pad).collect();
            let rows = golden.rows_where(&real);
            let [_, width] = rows.shape[..] else {
                panic!("rows of features");
            };
            let shape = [rows.values.len() / width, width];
            let data = TensorData::new(rows.f32s(), shape);
            let longest = golden.shape[1];
            let lengths = real
                .chunks(longest)
                .map(|row| row.iter().sum::<i64>() as usize);
            let tokens = Tokens {
                rows: Tensor::<2>::from_data(data, &device).require_grad(),
                spans: Spans::new(lengths),
            };
            (tokens, real)
        };
        let ((text, words), (image, regions)) = (tokens("text"), tokens("image"));
        let distance = transport_distance(&text, &image);
        let close = |name: &str, found: Vec<f32>, expected: Vec<f32>| {
            assert_eq!(found.len(), expected.len(), "{name}");
            for (found, expected) in found.iter().zip(&expected) {
                assert!(
                    (found - expected).abs() <= 1e-4,
                    "{name}: {found} {expected}"
                );
            }
        };
        let expected = |name: &str| case.tensor(name).f32s();
        close(
            "distance",
            host(distance.clone()),
            expected("expected.distance"),
        );
        let weight = TensorData::new(expected("inputs.weight"), [3]);
        let weight = Tensor::<1>::from_data(weight, &device);
        let gradients = (distance * weight).sum().backward();
        for (name, tokens, real) in [("text", text, words), ("image", image, regions)] {
            let found = host(tokens.rows.grad(&gradients).unwrap());
            let golden = case.tensor(&format!("grads.{name}")).rows_where(&real);
            close(name, found, golden.f32s());
        }
    }

    #[test]
    fn a_known_plan() {
        let device = Device::flex();
        let cost = Tensor::<3>::from_data([[[0.0, 1.0, 1.0], [1.0, 0.0, 1.0]]], &device);
        let spans = [Spans::new([2]), Spans::new([3])];
        let plan = plan(cost.clone(), [&spans[0], &spans[1]]);
        let rows = host(plan.clone().sum_dim(2));
        let columns = host(plan.clone().sum_dim(1));
        assert!(rows.iter().all(|mass| (mass - 0.5).abs() < 1e-4));
        assert!(columns.iter().all(|mass| (mass - 1.0 / 3.0).abs() < 1e-4));
        let distance = host((plan * cost).sum());
        assert!((distance[0] - 1.0 / 3.0).abs() < 1e-4, "{distance:?}");
    }

    #[test]
    fn nothing_is_no_distance() {
        let device = Device::flex();
        let tokens = |lengths: [usize; 2]| {
            let spans = Spans::new(lengths);
            let rows = Tensor::<2>::ones([spans.tokens(), 4], &device);
            Tokens { rows, spans }
        };
        let distance = host(transport_distance(&tokens([3, 2]), &tokens([2, 0])));
        assert!(distance.iter().all(|distance| distance.is_finite()));
        assert_eq!(distance[1], 0.0);
        let none = host(transport_distance(&tokens([3, 2]), &tokens([0, 0])));
        assert_eq!(none, [0.0, 0.0]);
    }
}
