//! The binary, run as a person runs it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed unwrap here is the failed test"
)]

mod audit;
mod bad_input;
mod common;
mod curate;
#[cfg(unix)]
mod database;
mod explain;
mod grounding;
mod hosts;
mod jobs;
mod new;
mod own_data;
mod pair_models;
mod plan;
mod posts;
#[cfg(unix)]
mod push;
mod ranks;
mod recipes;
mod regions;
mod relation;
mod serve;
mod surface;
mod tasks;
