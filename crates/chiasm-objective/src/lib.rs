//! Pre-training objectives and the forward plan that shares encoder passes between them.
//!
//! An objective is a pure function of named features; [`plan`] says which features a set of
//! objectives needs, [`forward`] computes each of them once, [`losses`] turns them into numbers.
//! [`masking`] draws, on the host, everything that is random in a step.

pub mod classification;
pub mod cluster;
pub mod completion;
pub mod config;
pub mod contrast;
pub mod cost;
pub mod forward;
pub mod gather;
pub mod grounding;
pub mod knowledge;
pub mod knowledge_masks;
pub mod losses;
pub mod masking;
pub mod memory;
pub mod mlm;
pub mod plan;
pub mod ranking;
pub mod transport;

pub use config::ObjectivesConfig;
pub use cost::{Accounting, Frozen, PlanCost, PlanSizes};
pub use forward::{Features, StepInput};
pub use gather::{Alone, Gather};
pub use losses::{LossTerm, Losses};
pub use memory::Memory;
pub use plan::{ForwardPlan, Objective};
