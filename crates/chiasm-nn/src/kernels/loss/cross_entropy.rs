//! Cross-entropy over a vocabulary, from the hidden states.

use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;

use super::super::gemm::{View, ViewMut, multiply_serial};
use super::super::math::{add, exp, max, simd, sum_of};
use super::super::operation::Operation;
use super::super::rows::{room, zeros};
use super::scaled;

/// Rows whose logits live at a time: with 30,522 classes, in 31 MB.
const GROUP: usize = 256;

/// Classes that one task works on.
const CLASSES: usize = 1024;

/// Mean over the rows of `-log softmax(hidden w + b)[label]`, `[1]`; 0 without rows.
///
/// Inputs: hidden states `[rows, width]`, w `[width, classes]`, b `[classes]`. Rows are taken in
/// groups, so that memory does not grow with their number. A task works on some classes of all rows
/// of a group, and a row's normaliser is put together from what the tasks found.
#[derive(Clone, Debug)]
pub(crate) struct CrossEntropy {
    /// The right class of every row.
    pub(crate) labels: Arc<[u32]>,
    /// Length of a hidden state.
    pub(crate) width: usize,
    /// Number of classes.
    pub(crate) classes: usize,
}

impl CrossEntropy {
    /// The classes of every task.
    fn tasks(&self) -> Vec<Range<usize>> {
        let starts = (0..self.classes).step_by(CLASSES);
        let ranges = starts.map(|start| start..self.classes.min(start + CLASSES));
        ranges.collect()
    }
}

/// What some classes contribute to the softmax of one row.
#[derive(Clone, Copy, Debug)]
struct Part {
    /// The largest logit.
    largest: f32,
    /// Sum of `e^(logit - largest)`.
    sum: f32,
    /// The logit of the right class if it is one of these, or 0.
    right: f32,
}

/// A row's gradient as a function of its logits: `e^(logit - largest) * factor`, less `share` for
/// the right class.
#[derive(Clone, Copy, Debug)]
struct Slope {
    largest: f32,
    factor: f32,
    share: f32,
}

/// What one task sees of a group of rows: the weights of its classes.
struct Task<'a> {
    /// `[rows, width]`.
    hidden: View<'a>,
    /// `[width, classes of the task]`.
    w: View<'a>,
    /// `[classes of the task]`.
    b: &'a [f32],
    /// Of the group's rows.
    labels: &'a [u32],
    /// The task's classes.
    classes: Range<usize>,
}

impl Task<'_> {
    /// The place of a label among the classes of this task.
    #[inline(always)]
    fn place(&self, label: u32) -> Option<usize> {
        let label = label as usize;
        self.classes
            .contains(&label)
            .then(|| label - self.classes.start)
    }

    /// Computes the logits, `[rows, classes of the task]`.
    fn forward(&self, logits: &mut [f32]) -> Vec<Part> {
        let (rows, classes) = (self.labels.len(), self.b.len());
        multiply_serial(
            ViewMut::new(logits, rows, classes),
            self.hidden,
            self.w,
            1.0,
            false,
        );
        let mut parts = Vec::with_capacity(rows);
        simd(
            #[inline(always)]
            || {
                for (row, label) in logits.chunks_exact_mut(classes).zip(self.labels) {
                    add(row, self.b);
                    let largest = max(row);
                    parts.push(Part {
                        largest,
                        sum: sum_of([row], |[x]| exp(x - largest)),
                        right: self.place(*label).map_or(0.0, |place| row[place]),
                    });
                }
            },
        );
        parts
    }

    /// Turns logits into their gradients, and adds the rows of these to `d_b`.
    fn backward(&self, logits: &mut [f32], slopes: &[Slope], d_b: &mut [f32]) {
        simd(
            #[inline(always)]
            || {
                let rows = logits.chunks_exact_mut(self.b.len());
                for (row, (slope, label)) in rows.zip(slopes.iter().zip(self.labels)) {
                    for x in &mut *row {
                        *x = exp(*x - slope.largest) * slope.factor;
                    }
                    if let Some(place) = self.place(*label) {
                        row[place] -= slope.share;
                    }
                    add(d_b, row);
                }
            },
        );
    }
}

/// A row's loss and gradient from the parts of its softmax; the row is one of `rows`.
fn join(parts: impl Iterator<Item = Part> + Clone, rows: usize) -> (f64, Slope) {
    let largest = parts.clone().map(|part| part.largest);
    let largest = largest.fold(f32::NEG_INFINITY, f32::max);
    let (mut sum, mut right) = (0.0, 0.0);
    for part in parts {
        sum += f64::from(part.sum) * f64::from(part.largest - largest).exp();
        right += f64::from(part.right);
    }
    let slope = Slope {
        largest,
        factor: (1.0 / (sum * rows as f64)) as f32,
        share: 1.0 / rows as f32,
    };
    (f64::from(largest) + sum.ln() - right, slope)
}

impl Operation<3> for CrossEntropy {
    /// The gradients of a loss that counts once.
    type Kept = [Vec<f32>; 3];

    fn forward(&self, [hidden, w, b]: [&[f32]; 3], keep: bool) -> (Vec<f32>, Option<Self::Kept>) {
        let (width, classes, rows) = (self.width, self.classes, self.labels.len());
        let tasks = self.tasks();
        let mut total = 0.0;
        let mut kept = keep.then(|| [hidden, w, b].map(|input| zeros(input.len())));
        let mut logits = zeros(if keep { rows.min(GROUP) * classes } else { 0 });
        let groups = hidden.chunks(GROUP * width).zip(self.labels.chunks(GROUP));
        for (group, (hidden, labels)) in groups.enumerate() {
            let group_rows = labels.len();
            let hidden = View::new(hidden, group_rows, width);
            let task = |classes: &Range<usize>| Task {
                hidden,
                w: View::strided(&w[classes.start..], width, classes.len(), self.classes),
                b: &b[classes.clone()],
                labels,
                classes: classes.clone(),
            };

            // The logits of a task lie together.
            let parts: Vec<Vec<Part>> = if keep {
                let logits = logits[..group_rows * classes].par_chunks_mut(group_rows * CLASSES);
                let tasks = tasks.par_iter().zip(logits);
                tasks
                    .map(|(classes, logits)| task(classes).forward(logits))
                    .collect()
            } else {
                let forward = |scratch: &mut Vec<f32>, classes: &Range<usize>| {
                    task(classes).forward(room(scratch, group_rows * classes.len()))
                };
                tasks.par_iter().map_init(Vec::new, forward).collect()
            };
            let mut slopes = Vec::with_capacity(group_rows);
            for row in 0..group_rows {
                let (loss, slope) = join(parts.iter().map(|parts| parts[row]), rows);
                total += loss;
                slopes.push(slope);
            }

            let Some([d_hidden, d_w, d_b]) = &mut kept else {
                continue;
            };
            let mut d_hidden_parts = vec![0.0; tasks.len() * group_rows * width];
            (
                &tasks,
                logits[..group_rows * classes].par_chunks_mut(group_rows * CLASSES),
                d_hidden_parts.par_chunks_mut(group_rows * width),
                columns(ViewMut::new(d_w, width, classes), &tasks),
                d_b.par_chunks_mut(CLASSES),
            )
                .into_par_iter()
                .for_each(|(classes, logits, d_hidden, d_w, d_b)| {
                    let task = task(classes);
                    task.backward(logits, &slopes, d_b);
                    let d_logits = View::new(logits, group_rows, classes.len());
                    let d_hidden = ViewMut::new(d_hidden, group_rows, width);
                    multiply_serial(d_hidden, d_logits, task.w.t(), 1.0, false);
                    multiply_serial(d_w, hidden.t(), d_logits, 1.0, group > 0);
                });
            let d_hidden = &mut d_hidden[group * GROUP * width..][..group_rows * width];
            d_hidden
                .par_chunks_mut(width)
                .enumerate()
                .for_each(|(row, d_hidden)| {
                    for part in d_hidden_parts.chunks_exact(group_rows * width) {
                        add(d_hidden, &part[row * width..][..width]);
                    }
                });
        }
        (vec![(total / rows.max(1) as f64) as f32], kept)
    }

    fn backward(
        &self,
        _: [&[f32]; 3],
        kept: Self::Kept,
        gradient: &[f32],
        wanted: [bool; 3],
    ) -> [Option<Vec<f32>>; 3] {
        scaled(kept, gradient[0], wanted)
    }
}

/// The columns `ranges` of a matrix; the ranges follow each other.
fn columns<'a>(matrix: ViewMut<'a>, ranges: &[Range<usize>]) -> Vec<ViewMut<'a>> {
    let mut rest = Some(matrix);
    let columns = ranges.iter().filter_map(|range| {
        let (columns, right) = rest.take()?.split_at_col(range.len());
        rest = Some(right);
        Some(columns)
    });
    columns.collect()
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{check, plain, values};
    use super::*;

    #[test]
    fn equals_the_plain_form() {
        for (rows, width, classes) in [(0, 3, 5), (1, 2, 1), (7, 5, 11), (GROUP + 3, 2, 3)] {
            check_sizes(rows, width, classes);
        }
    }

    #[test]
    fn classes_of_several_tasks() {
        check_sizes(3, 1, 2 * CLASSES + 5);
    }

    fn check_sizes(rows: usize, width: usize, classes: usize) {
        let labels = (0..rows).map(|row| (row * 911 % classes) as u32);
        let loss = CrossEntropy {
            labels: labels.collect(),
            width,
            classes,
        };
        let inputs = [
            values(1, rows * width),
            values(2, width * classes).iter().map(|x| 5.0 * x).collect(),
            values(3, classes),
        ];
        check(&loss, &inputs, 1e-5, |[hidden, w, b]| {
            let logits = plain::linear(hidden, w, b);
            let rows = logits.chunks(classes).zip(&*loss.labels);
            let losses = rows.map(|(logits, label)| {
                let sum: f64 = logits.iter().map(|x| x.exp()).sum();
                sum.ln() - logits[*label as usize]
            });
            vec![losses.sum::<f64>() / loss.labels.len().max(1) as f64]
        });
    }
}
