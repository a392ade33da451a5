//! Region features from raw pictures: boxes of things, a feature for each, and what they are called.
//!
//! A [`Provider`] makes them of pictures: [`Grid`] with nothing but an image tower, [`Detector`] with YOLOv4-tiny
//! before the tower, [`Given`] with boxes from a file. [`extract()`] runs one over a data set into a set that [`chiasm_data::regions`] reads,
//! [`convert`] takes features that came as files. This crate owns which boxes there are and what is said of
//! them; towers are `chiasm-nn`'s, files `chiasm-data`'s, and what regions are used for is somebody else's.
//!
//! Boxes are fractions of the picture here, and pixels in files. A tower sees the whole picture, squashed to its
//! square: nothing is cut off, and a place of its grid is the same share of the width and of the height.
#![forbid(unsafe_code)]

pub mod boxes;
mod detector;
pub mod draw;
mod extract;
mod given;
mod grid;
mod naming;
mod places;
mod proposals;
mod provider;
mod tower;

pub use detector::{COCO, Detection, Detector};
pub use extract::{Report, Step, convert, extract};
pub use given::Given;
pub use grid::Grid;
pub use naming::{Names, Naming};
pub use places::Places;
pub use proposals::propose;
pub use provider::{Prepared, Provider, RegionError, prepare};
pub use tower::Tower;
