//! The search index: vectors of one model with a record each, in a folder.
//!
//! This crate owns the folder's files ([`Writer`], [`Index`]), the search over them ([`Index::search`]), the filter
//! language ([`Filter`]), and what whoever searches needs of an index wherever it lies ([`Store`]). It takes plain numbers and knows no model, no tensor of a device and no picture.
//!
//! # Searching
//!
//! ```
//! use chiasm_index::{Filter, GraphChoice, Identity, Index, Kind, Record};
//!
//! let folder = std::env::temp_dir().join(format!("chiasm-search-{}", std::process::id()));
//! let model = Identity { model: "tiny".into(), fingerprint: "5eed".into(), width: 2 };
//! let mut writer = Index::create(&folder, model)?;
//! for (at, split) in ["train", "test", "test"].into_iter().enumerate() {
//!     let record = Record {
//!         key: format!("picture {at}"),
//!         kind: Kind::Image,
//!         text: String::new(),
//!         source: None,
//!         digest: at.to_string(),
//!         metadata: serde_json::Map::from_iter([("split".to_owned(), split.into())]),
//!     };
//!     writer.upsert(&record, &[1.0, at as f32])?;
//! }
//! let index = writer.finish(GraphChoice::Auto)?;
//!
//! let test: Filter = "split=test".parse()?;
//! let hits = index.search(&[1.0, 0.0], 10, Some(&test))?;
//! assert_eq!([&hits[0].key, &hits[1].key], ["picture 1", "picture 2"]);
//! # let _ = std::fs::remove_dir_all(&folder);
//! # Ok::<(), chiasm_index::IndexError>(())
//! ```
//!
//! What holds after a kill or a power loss: see [`Writer`]. What a change of the files under a reader does: see
//! [`Index`].

mod best;
mod error;
mod filter;
mod graph;
mod layout;
mod map;
mod products;
mod reader;
mod record;
mod search;
mod store;
mod writer;

pub use error::IndexError;
pub use filter::{Condition, Fact, Filter, Operator, facts};
pub use layout::Identity;
pub use reader::Index;
pub use record::{Kind, Record};
pub use search::{Hit, Search, unit_queries};
pub use store::{Found, Store, same_model};
pub use writer::{GRAPH_FROM, GraphChoice, Writer};
