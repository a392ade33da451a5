//! Other processes of a run: the negatives that a contrast of all processes' features needs of them, and
//! how many things all of them count.
//!
//! Every process contrasts its own rows with those of all and tells the others what it found (`Gather::share`), so
//! that it knows the whole contrast and its derivative by the own features. That is exact, and the gradients of
//! all processes **added up** are those of one process with all of the batch. (The published code's
//! gather, with gradients averaged, leaves 1 / processes of that: `specs/scl.md` section 2.1.) Losses
//! that look at own samples alone are means over what these have: pairs, hidden words, regions. Each
//! counts for the part of all processes' that this is.

use std::rc::Rc;

use burn::tensor::Tensor;
use chiasm_nn::criterion::{Among, Sides};
use chiasm_nn::model::Seen;

use crate::forward::StepInput;

/// The other processes of a run.
pub trait Gather {
    /// How many processes there are, this one included.
    fn processes(&self) -> usize;

    /// The rows that the processes before this one have, and those that the later ones have, for the
    /// same features of the same step, without gradients; any of them may have none.
    ///
    /// All processes call it in the same order.
    fn others(&self, own: &Tensor<2>) -> [Tensor<2>; 2];

    /// The sums of all processes' counts.
    ///
    /// All processes call it in the same order.
    fn totals(&self, own: &[usize]) -> Vec<usize>;

    /// All rows, in the order of the processes; gradients reach the own ones.
    fn all(&self, own: Tensor<2>) -> Tensor<2> {
        if self.processes() == 1 {
            return own;
        }
        let [before, after] = self.others(&own);
        stacked([before, own, after])
    }

    /// As [`Self::all`], of two sides whose rows belong together. They travel as one: where the others
    /// fall silent, both sides miss the same rows.
    fn pairs(&self, own: [Tensor<2>; 2]) -> [Tensor<2>; 2] {
        if self.processes() == 1 {
            return own;
        }
        let widths = own.each_ref().map(|side| side.dims()[1]);
        halves(&self.all(Tensor::cat(own.into(), 1)), widths)
    }

    /// Two sides whose rows belong together, to be contrasted with those of all processes.
    fn sides<'a>(&'a self, own: [Tensor<2>; 2]) -> Sides<'a> {
        if self.processes() == 1 {
            return Sides::alone(own);
        }
        let widths = own.each_ref().map(|side| side.dims()[1]);
        let joined = Tensor::cat(own.clone().into(), 1).detach();
        let [before, after] = self.others(&joined);
        let first = before.dims()[0];
        Sides {
            own,
            among: Some(Among {
                all: halves(&stacked([before, joined, after]), widths),
                first,
                share: Rc::new(move |own| self.share(own)),
            }),
            is_second_fixed: false,
        }
    }

    /// What all processes give, in their order.
    ///
    /// All processes call it in the same order.
    fn share(&self, own: &[f64]) -> Vec<f64>;
}

/// Rows one under the other; any of the parts may have none.
fn stacked(parts: [Tensor<2>; 3]) -> Tensor<2> {
    let parts = parts.into_iter().filter(|part| part.dims()[0] > 0);
    Tensor::cat(parts.collect(), 0)
}

/// Two sides that lie in one, side by side.
fn halves(both: &Tensor<2>, widths: [usize; 2]) -> [Tensor<2>; 2] {
    let [first, second] = widths;
    [(0, first), (first, second)].map(|(from, width)| both.clone().narrow(1, from, width))
}

/// A run of one process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Alone;

impl Gather for Alone {
    fn processes(&self) -> usize {
        1
    }

    fn others(&self, own: &Tensor<2>) -> [Tensor<2>; 2] {
        let [_, width] = own.dims();
        [(); 2].map(|()| Tensor::zeros([0, width], &own.device()))
    }

    fn totals(&self, own: &[usize]) -> Vec<usize> {
        own.to_vec()
    }

    fn share(&self, own: &[f64]) -> Vec<f64> {
        own.to_vec()
    }
}

/// What a loss of own samples is a mean over.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Counted {
    /// Texts that were asked whether they match.
    Matching,
    /// Hidden words.
    Words,
    /// Pairs with classes.
    Classes,
    /// Images that were ranked for.
    Ranking,
    /// Pairs with groups.
    Clusters,
    /// Words hidden by a scene graph.
    KnowledgeWords,
    /// Regions hidden by a scene graph.
    KnowledgeRegions,
    /// Of these, those with a class.
    KnowledgeObjects,
    /// Of these, those with an attribute.
    KnowledgeAttributes,
    /// Pairs behind the masks of a scene graph.
    KnowledgePairs,
    /// Regions of pictures in which one is right.
    GroundRegions,
    /// Right regions.
    RightRegions,
}

/// What part of all processes' things of a kind are this one's.
pub(crate) struct Shares(Option<[f64; 12]>);

impl Shares {
    /// Of a step.
    pub(crate) fn of(input: &StepInput, gather: &dyn Gather) -> Self {
        if gather.processes() == 1 {
            return Self(None);
        }
        let own = counts(input);
        let totals = gather.totals(&own);
        Self(Some(std::array::from_fn(|kind| {
            let total = totals.get(kind).copied().unwrap_or(0);
            own[kind] as f64 / total.max(1) as f64
        })))
    }

    /// Of one kind; 1 in a run of one process.
    pub(crate) fn get(&self, counted: Counted) -> f64 {
        self.0.map_or(1.0, |shares| shares[counted as usize])
    }
}

/// How many of each kind of [`Counted`] a step has.
fn counts(input: &StepInput) -> [usize; 12] {
    let mut counts = [0; 12];
    let mut set = |kind: Counted, count: Option<usize>| counts[kind as usize] = count.unwrap_or(0);
    let sure = |of: &[(u32, f32)]| of.iter().filter(|(_, sure)| *sure > 0.0).count();
    let matching = input.matching.as_ref();
    set(Counted::Matching, matching.map(|draw| draw.labels.len()));
    let words = input.mlm.as_ref();
    set(Counted::Words, words.map(|(_, words)| words.labels.len()));
    let classes = input.classes.as_ref();
    set(Counted::Classes, classes.map(|_| input.fused_size));
    let ranking = input.ranking.as_ref();
    set(Counted::Ranking, ranking.map(|draw| draw.candidates.len()));
    set(Counted::Clusters, input.clusters.as_ref().map(Vec::len));
    if let Some(knowledge) = &input.knowledge {
        let targets = &knowledge.targets;
        for (kind, count) in [
            (Counted::KnowledgeWords, knowledge.words.labels.len()),
            (Counted::KnowledgeRegions, targets.rows.len()),
            (Counted::KnowledgeObjects, sure(&targets.objects)),
            (Counted::KnowledgeAttributes, sure(&targets.attributes)),
            (Counted::KnowledgePairs, knowledge.matching.labels.len()),
        ] {
            set(kind, Some(count));
        }
    }
    if let (Some(grounding), Seen::Regions(regions)) = (&input.grounding, &input.seen) {
        let spans = regions.features.spans.iter().take(input.fused_size);
        let shares = spans.filter_map(|span| grounding.shares.get(span));
        let asked = shares.filter(|shares| shares.iter().any(|share| *share > 0.0));
        let asked = asked.map(<[f32]>::len).sum();
        set(Counted::GroundRegions, Some(asked));
        let right = grounding.right.iter().filter(|right| **right).count();
        set(Counted::RightRegions, Some(right));
    }
    counts
}
