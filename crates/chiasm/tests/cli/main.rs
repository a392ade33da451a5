//! The binary, run as a person runs it.

mod bad_input;
mod common;
mod own_data;
mod surface;
