//! Scene graphs over captions and pictures, both joined in one, and masks that are led by them.
//!
//! This crate owns the parser that turns a caption into objects, attributes and relations ([`text`]), the graph of a
//! picture's regions ([`image`]), the unified graph of both ([`unified`]), and knowledge masking ([`mask`], [`draw`]); the
//! word lists behind them ([`vocabulary`], [`lexicon`]), word vectors ([`vectors`]) and training statistics ([`priors`]);
//! and the score of a parser against graphs that people wrote ([`score`]). It knows no tensors, no models, no data sets
//! and no detector. Methods are those of `specs/tbkin.md` sections 2 and 3.
//!
//! # Examples
//!
//! ```
//! use chiasm_graph::config::GraphConfig;
//! use chiasm_graph::image::{ImageGraph, Region};
//! use chiasm_graph::unified::UnifiedGraph;
//! use chiasm_graph::{lexicon, text};
//!
//! let caption = text::parse("a brown dog on the couch");
//! assert_eq!(caption.to_string(), "(dog, is, brown)\n(dog, on, couch)");
//!
//! let region = |corners, name: &str| Region { corners, name: name.to_owned() };
//! let config = GraphConfig::default();
//! let picture = ImageGraph::new(
//!     vec![region([20.0, 20.0, 90.0, 80.0], "dog"), region([0.0, 30.0, 120.0, 100.0], "sofa")],
//!     config.iou_edge,
//! )?;
//! let graph = UnifiedGraph::new(&caption, &picture, None, &config, lexicon::similarity);
//! assert_eq!(graph.g(2, 0), 1.0);
//! assert_eq!(graph.g(5, 1), 0.7);
//! # Ok::<(), chiasm_graph::image::RegionError>(())
//! ```
#![forbid(unsafe_code)]

pub mod config;
mod dot;
pub mod draw;
pub mod image;
pub mod lexicon;
pub mod mask;
pub mod priors;
pub mod score;
pub mod text;
pub mod unified;
pub mod vectors;
pub mod vocabulary;
