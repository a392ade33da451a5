//! Attention as it was computed, for those who explain a model: what every sub-layer read, its
//! probabilities, and the gradient of any result with respect to both.
//!
//! Owns the recording. Does not know what is made of it (`chiasm-explain`). Fused kernels never hold
//! probabilities, so that what is watched is computed by plain operations; and it is inference, whatever
//! the device: nothing is dropped, and selection is what it is in evaluation.
//!
//! A gradient in the middle of a graph is had from zeros that are added there: their gradient is that
//! of the place. The model's own weights need none, and any model for inference can be watched.

use std::cell::RefCell;

use burn::tensor::{Device, Gradients, Tensor};

use crate::compute::{self, Kernels};
use crate::kernels::Norm;

thread_local! {
    static RECORDER: RefCell<Option<Recorder>> = const { RefCell::new(None) };
}

struct Recorder {
    gradients: bool,
    records: Vec<Record>,
}

/// A tensor of a forward pass whose gradient can be asked for.
#[derive(Clone, Debug)]
pub struct Watched<const D: usize> {
    /// Its values, without a graph.
    pub values: Tensor<D>,
    /// Zeros that were added to it; none where no gradients are wanted.
    probe: Option<Tensor<D>>,
}

impl<const D: usize> Watched<D> {
    /// The gradient of what `gradients` are of, in the shape of the values; zeros where the result does
    /// not depend on them.
    #[must_use]
    pub fn gradient(&self, gradients: &Gradients) -> Tensor<D> {
        let found = self.probe.as_ref().and_then(|probe| probe.grad(gradients));
        found.map_or_else(|| self.values.zeros_like(), Tensor::without_autodiff)
    }

    /// Takes a tensor on its way, and gives what is to go on in its place.
    fn of(tensor: Tensor<D>, gradients: bool) -> (Self, Tensor<D>) {
        let values = tensor.clone().without_autodiff();
        if !gradients {
            let probe = None;
            return (Self { values, probe }, tensor);
        }
        let probe = values.zeros_like().autodiff().require_grad();
        let on = tensor.autodiff() + probe.clone();
        let probe = Some(probe);
        (Self { values, probe }, on)
    }
}

/// An attention sub-layer as it was computed.
#[derive(Clone, Debug)]
pub struct Record {
    /// What queries are made of, `[tokens, width]`: after the norm where that comes first, else what the
    /// residual reads too. Of attention within a sequence keys and values are made of the same.
    pub input: Watched<2>,
    /// What keys and values are made of where that is another sequence, `[tokens, width]`.
    pub other: Option<Watched<2>>,
    /// Padded, `[batch, heads, queries, keys]`, before anything is dropped. Of a clip of several frames
    /// two: each frame within itself, `[frames, heads, tokens, tokens]`, whose first rows are not used,
    /// and in their place the first token of every frame over the whole clip,
    /// `[1, heads, frames, frames * tokens]`.
    pub probabilities: Vec<Watched<4>>,
}

/// Runs `body` on this thread by plain operations, and gives what attention sub-layers did, in the order
/// in which they ran. In two streams these are, layer by layer, text to itself, text to image, image to
/// itself, image to text.
///
/// Passes that end in chosen tokens alone are recorded as they run: with fewer queries than keys.
pub fn record<R>(gradients: bool, body: impl FnOnce() -> R) -> (R, Vec<Record>) {
    let records = Vec::new();
    let before = RECORDER.replace(Some(Recorder { gradients, records }));
    let result = compute::with(Kernels::Plain, body);
    let recorder = RECORDER.replace(before);
    (result, recorder.map_or_else(Vec::new, |it| it.records))
}

/// Whether what is computed on `device` is training.
pub(crate) fn is_training(device: &Device) -> bool {
    device.is_autodiff() && RECORDER.with_borrow(Option::is_none)
}

/// A sub-layer's input where its norm comes after the residual, which reads it too.
pub(crate) fn before(place: Norm, rows: Tensor<2>) -> Tensor<2> {
    match place {
        Norm::Before => rows,
        Norm::After => input(rows),
    }
}

/// A sub-layer's normalised input where its norm comes first.
pub(crate) fn within(place: Norm, rows: Tensor<2>) -> Tensor<2> {
    match place {
        Norm::Before => input(rows),
        Norm::After => rows,
    }
}

fn input(rows: Tensor<2>) -> Tensor<2> {
    with_recorder(rows, |recorder, rows| {
        let (input, rows) = Watched::of(rows, recorder.gradients);
        recorder.records.push(Record {
            input,
            other: None,
            probabilities: Vec::new(),
        });
        rows
    })
}

/// The other sequence of the sub-layer whose input was seen last.
pub(crate) fn other(rows: Tensor<2>) -> Tensor<2> {
    with_recorder(rows, |recorder, rows| {
        let (other, rows) = Watched::of(rows, recorder.gradients);
        if let Some(record) = recorder.records.last_mut() {
            record.other = Some(other);
        }
        rows
    })
}

/// Probabilities of the sub-layer whose input was seen last.
pub(crate) fn probabilities(values: Tensor<4>) -> Tensor<4> {
    with_recorder(values, |recorder, values| {
        let (watched, values) = Watched::of(values, recorder.gradients);
        if let Some(record) = recorder.records.last_mut() {
            record.probabilities.push(watched);
        }
        values
    })
}

fn with_recorder<T>(value: T, watch: impl FnOnce(&mut Recorder, T) -> T) -> T {
    RECORDER.with_borrow_mut(|recorder| match recorder {
        Some(recorder) => watch(recorder, value),
        None => value,
    })
}
