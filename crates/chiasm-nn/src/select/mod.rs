//! Explicit selection: attention that keeps only what passes a threshold (TBKIN's fine-tuning,
//! `specs/tbkin.md` section 4), for any stack of layers.
//!
//! Owns what a recipe says about it, which layer selects what, how far training has come with it,
//! and counting what is kept. Rows of scores are selected by `kernels` on a CPU and by `plain`
//! elsewhere.

mod config;
mod meter;
mod plain;
#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use burn::tensor::{Device, Tensor};

pub use config::{BlockName, FallbackName, RowsName, RuleName, SelectConfig};
pub use meter::{Calibrated, KeptHead, Meter, Part, Site};
pub(crate) use plain::select;

use crate::attention::Scope;
use crate::kernels::{Blocks, Fallback, Keep, Side};
use crate::watch::is_training;

thread_local! {
    static STRENGTH: Cell<f64> = const { Cell::new(1.0) };
    static SOFTNESS: Cell<f64> = const { Cell::new(0.0) };
    static METER: RefCell<Option<Arc<Meter>>> = const { RefCell::new(None) };
}

/// Says how far training has come: `strength` goes from 0 to 1 while the threshold grows,
/// `progress` from 0 to 1 over the run, while learned gates harden. For this thread.
pub fn begin_step(strength: f64, progress: f64) {
    STRENGTH.set(strength.clamp(0.0, 1.0));
    SOFTNESS.set(1.0 - progress.clamp(0.0, 1.0));
}

/// Runs `body` with a meter that counts what attention keeps, on this thread.
pub fn metered<R>(meter: &Arc<Meter>, body: impl FnOnce() -> R) -> R {
    let before = METER.replace(Some(Arc::clone(meter)));
    let result = body();
    METER.replace(before);
    result
}

/// What tokens see: which keys at all, and which of them they keep.
#[derive(Clone, Debug)]
pub struct Sight {
    /// Which keys are there for a query.
    pub scope: Scope,
    /// Which of them are kept; all of them without.
    pub(crate) select: Option<Select>,
}

impl From<Scope> for Sight {
    fn from(scope: Scope) -> Self {
        Self {
            scope,
            select: None,
        }
    }
}

impl Sight {
    /// Whether what a query keeps depends on its place, or is counted: it cannot be chosen out then.
    pub(crate) fn needs_place(&self) -> bool {
        let select = self.select.as_ref();
        select.is_some_and(|select| select.keep.needs_place() || select.meter.is_some())
    }
}

/// Selection in one sub-layer.
#[derive(Clone, Debug)]
pub(crate) struct Select {
    /// What is kept; its rule keeps all where a gate decides or where it is only counted.
    pub(crate) keep: Keep,
    /// A learned gate in place of the rule.
    pub(crate) gate: Option<Gate>,
    /// Who counts, and for which site.
    pub(crate) meter: Option<(Arc<Meter>, Site)>,
}

/// A gate learned for every head of a layer.
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    /// Logarithm of the threshold in times the mean, `[heads]`.
    pub(crate) threshold: Tensor<1>,
    /// Softness while training; without, the gate is open or shut.
    pub(crate) temperature: Option<f64>,
}

impl Gate {
    /// Of one layer of those that `gates` has, `[layers, heads]`.
    fn of(gates: &Tensor<2>, layer: usize, config: &SelectConfig, device: &Device) -> Self {
        let [_, heads] = gates.dims();
        Self {
            threshold: gates.clone().narrow(0, layer, 1).reshape([heads]),
            temperature: temperature(config, device),
        }
    }
}

/// Selection in a stack of layers, as a model has it.
#[derive(Clone, Debug)]
pub struct Selector {
    config: Option<Arc<SelectConfig>>,
    layers: usize,
    heads: usize,
}

/// Which tokens look at which.
#[derive(Clone, Debug)]
pub(crate) enum Looks {
    /// Words at words.
    Text,
    /// A picture's tokens at each other.
    Image,
    /// Words at a picture's tokens.
    TextToImage,
    /// A picture's tokens at words.
    ImageToText,
    /// One sequence, of which the first so many tokens are words.
    Joint(Arc<[usize]>),
}

impl Selector {
    /// Of a stack of `layers` with `heads` each.
    #[must_use]
    pub fn new(config: Option<&SelectConfig>, [layers, heads]: [usize; 2]) -> Self {
        Self {
            config: config.map(|config| Arc::new(config.clone())),
            layers,
            heads,
        }
    }

    /// Heads of a layer.
    pub(crate) fn heads(&self) -> usize {
        self.heads
    }

    /// Whether gates are to be learned here.
    #[must_use]
    pub fn learns(&self) -> bool {
        let config = self.config.as_ref();
        config.is_some_and(|config| config.rule == RuleName::Learned)
    }

    /// What the sub-layer of a layer selects now; `None` for all of it. `gates` are the learned ones of
    /// the stack, `[layers, heads]`.
    pub(crate) fn at(
        &self,
        layer: usize,
        looks: &Looks,
        gates: Option<&Tensor<2>>,
        device: &Device,
    ) -> Option<Select> {
        let part = match looks {
            Looks::Text => Part::Text,
            Looks::Image => Part::Image,
            Looks::TextToImage => Part::TextToImage,
            Looks::ImageToText => Part::ImageToText,
            Looks::Joint(_) => Part::Joint,
        };
        let site = Site { layer, part };
        let meter = METER.with_borrow(Clone::clone).map(|meter| (meter, site));
        let active = self.active(layer, looks, device);
        let rule = active.and_then(|config| config.rule.with(config.value, strength(device)));
        let gate = active
            .filter(|config| config.rule == RuleName::Learned)
            .zip(gates);
        let gate = gate.map(|(config, gates)| Gate::of(gates, layer, config, device));
        if rule.is_none() && gate.is_none() && meter.is_none() {
            return None;
        }
        // What is only counted goes through the same code with a rule that keeps all.
        let mut keep = Keep {
            rule: rule.unwrap_or(crate::kernels::Rule::Probability(0.0)),
            renormalise: true,
            fallback: Fallback::Largest,
            keep_self: false,
            keep_first: false,
            first_row_only: false,
            heads: None,
            blocks: Blocks::ALL,
            queries: Side::Text,
            keys: Side::Text,
            within: true,
        };
        (keep.queries, keep.keys, keep.within) = match looks {
            Looks::Text => (Side::Text, Side::Text, true),
            Looks::Image => (Side::Image, Side::Image, true),
            Looks::TextToImage => (Side::Text, Side::Image, false),
            Looks::ImageToText => (Side::Image, Side::Text, false),
            Looks::Joint(words) => {
                let side = Side::Both(Arc::clone(words));
                (side.clone(), side, true)
            }
        };
        if let Some(config) = active {
            keep.renormalise = config.renorm;
            keep.fallback = match config.fallback {
                FallbackName::Argmax => Fallback::Largest,
                FallbackName::Dense => Fallback::All,
            };
            keep.keep_self = config.protect_self;
            keep.keep_first = config.protect_cls;
            keep.first_row_only = config.rows == RowsName::ClsOnly;
            if !config.heads.is_empty() {
                let heads = (0..self.heads).map(|head| config.heads.contains(&head));
                keep.heads = Some(heads.collect());
            }
            let has = |block| config.blocks.contains(&block);
            keep.blocks = Blocks {
                text: [has(BlockName::Tt), has(BlockName::Tv)],
                image: [has(BlockName::Vt), has(BlockName::Vv)],
            };
        }
        Some(Select { keep, gate, meter })
    }

    /// What the recipe says, where it acts on this layer now.
    fn active(&self, layer: usize, looks: &Looks, device: &Device) -> Option<&SelectConfig> {
        let config = self.config.as_deref()?;
        let acts = if is_training(device) {
            config.train
        } else {
            config.eval
        };
        let block = match looks {
            Looks::Text => Some(BlockName::Tt),
            Looks::Image => Some(BlockName::Vv),
            Looks::TextToImage => Some(BlockName::Tv),
            Looks::ImageToText => Some(BlockName::Vt),
            Looks::Joint(_) => None,
        };
        let in_block = block.is_none_or(|block| config.blocks.contains(&block));
        let here = config.has_layer(layer, self.layers);
        (acts && in_block && here).then_some(config)
    }
}

/// Outside training, a threshold is whole.
fn strength(device: &Device) -> f64 {
    if is_training(device) {
        STRENGTH.get()
    } else {
        1.0
    }
}

/// Softness of the gates of a recipe now: from 1 down to what it says; none outside training.
fn temperature(config: &SelectConfig, device: &Device) -> Option<f64> {
    let end = config.gate_temperature;
    is_training(device).then(|| end + (1.0 - end) * SOFTNESS.get())
}
