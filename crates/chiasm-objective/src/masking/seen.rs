//! What is to be seen in a batch, pictures or regions: on the device, and what of it is dropped or hidden.

use burn::tensor::{Device, Tensor, TensorData};
use chiasm_data::RegionRows;
use chiasm_nn::Spans;
use chiasm_nn::model::Seen;
use chiasm_nn::regions::Regions;
use chiasm_nn::tokens::Chosen;

use super::{DrawKey, partial_shuffle};

/// The pictures of a batch on the host.
#[derive(Clone, Copy, Debug)]
pub struct ImageRows<'a> {
    /// `[batch, pictures, frames, 3, side, side]`.
    pub pixel_values: &'a [f32],
    /// Pictures that a text speaks of together, at least 1.
    pub pictures: usize,
    /// Frames of a picture, at least 1; 1 unless it is a clip.
    pub frames: usize,
    /// Side in pixels.
    pub image_size: usize,
    /// Patches of one frame.
    pub patches: usize,
}

/// What is to be seen in a batch, on the host.
#[derive(Clone, Copy, Debug)]
pub enum SeenRows<'a> {
    /// Pictures and clips.
    Pixels(ImageRows<'a>),
    /// Regions, one image a text.
    Regions(&'a RegionRows),
}

impl SeenRows<'_> {
    /// Images of a text.
    pub(super) fn pictures(&self) -> usize {
        match self {
            Self::Pixels(images) => images.pictures,
            Self::Regions(_) => 1,
        }
    }

    /// On the device; of `pairs` texts.
    #[must_use]
    pub fn seen(&self, pairs: usize, device: &Device) -> Seen {
        match self {
            Self::Pixels(images) => {
                let (side, frames) = (images.image_size, images.frames);
                let shape = [pairs * images.pictures, frames, 3, side, side];
                let data = TensorData::new(images.pixel_values.to_vec(), shape);
                Seen::Pixels(Tensor::from_data(data, device))
            }
            Self::Regions(rows) => Seen::Regions(Regions::new(rows, device)),
        }
    }

    /// The patches or regions kept in the masked view of the first `batch` images.
    pub(super) fn kept(&self, batch: usize, drop: f64, key: DrawKey<'_>) -> Chosen {
        match self {
            Self::Pixels(images) => patch_draw(batch, *images, drop, key),
            Self::Regions(rows) => {
                let kept = |count: usize| kept_patches(count, drop).max(1).min(count);
                let (rows, lengths) = region_draw(rows, batch, kept, "completion image", key);
                Chosen {
                    rows,
                    spans: Spans::new(lengths),
                }
            }
        }
    }

    /// The patches or regions hidden in the first `batch` images.
    pub(super) fn hidden(&self, batch: usize, mask: f64, key: DrawKey<'_>) -> Vec<usize> {
        match self {
            Self::Pixels(images) => hidden_draw(batch, *images, mask, key),
            Self::Regions(rows) => {
                let hidden = |count: usize| (count as f64 * mask).floor() as usize;
                region_draw(rows, batch, hidden, "hidden patches", key).0
            }
        }
    }
}

/// Some regions of each of the first `batch` images, as many as `count` says of all of them: their
/// numbers in the batch, ascending, and how many there are of each image.
fn region_draw(
    rows: &RegionRows,
    batch: usize,
    count: impl Fn(usize) -> usize,
    purpose: &str,
    key: DrawKey<'_>,
) -> (Vec<usize>, Vec<usize>) {
    let (mut drawn, mut lengths, mut start) = (Vec::new(), Vec::new(), 0);
    for (row, regions) in rows.counts.iter().take(batch).enumerate() {
        let mut order: Vec<usize> = (0..*regions).collect();
        let wanted = count(*regions);
        partial_shuffle(&mut order, wanted, &mut key.stream(purpose, row));
        order.truncate(wanted);
        order.sort_unstable();
        drawn.extend(order.iter().map(|place| start + place));
        lengths.push(order.len());
        start += regions;
    }
    (drawn, lengths)
}

/// Patches kept of `patches` when a share `drop` is removed: `floor(patches * (1 - drop))` in
/// floating point, as the published code counts (79 of 400 at 0.8, not 80).
#[must_use]
pub fn kept_patches(patches: usize, drop: f64) -> usize {
    (patches as f64 * (1.0 - drop)).floor() as usize
}

/// Some places of each of `batch` pictures, `count` of `patches`, ascending within a picture.
fn places(
    batch: usize,
    patches: usize,
    count: usize,
    purpose: &str,
    key: DrawKey<'_>,
) -> Vec<Vec<usize>> {
    let of = |row| {
        let mut rng = key.stream(purpose, row);
        let mut order: Vec<usize> = (0..patches).collect();
        partial_shuffle(&mut order, count, &mut rng);
        order.truncate(count);
        order.sort_unstable();
        order
    };
    (0..batch).map(of).collect()
}

/// The patches kept of the first picture of every text, in raster order within a picture; of a clip
/// the same ones in all frames.
#[must_use]
pub fn patch_draw(batch: usize, images: ImageRows<'_>, drop: f64, key: DrawKey<'_>) -> Chosen {
    let (patches, frames) = (images.patches, images.frames);
    let kept = kept_patches(patches, drop);
    let places = places(batch, patches, kept, "completion image", key);
    let of = |(row, places): (usize, &Vec<usize>)| {
        let first = row * images.pictures * frames;
        let frame = |frame| {
            let start = (first + frame) * patches;
            places.iter().map(move |place| start + place)
        };
        (0..frames).flat_map(frame).collect::<Vec<_>>()
    };
    Chosen {
        rows: places.iter().enumerate().flat_map(of).collect(),
        spans: Spans::uniform(batch * frames, kept),
    }
}

/// The patches hidden in the first picture of every text, `floor(mask * patches)` of each, numbered in
/// these pictures alone; of a clip the same ones in all frames.
#[must_use]
pub fn hidden_draw(batch: usize, images: ImageRows<'_>, mask: f64, key: DrawKey<'_>) -> Vec<usize> {
    let (patches, frames) = (images.patches, images.frames);
    let hidden = (patches as f64 * mask).floor() as usize;
    let places = places(batch, patches, hidden, "hidden patches", key);
    let of = |(row, places): (usize, &Vec<usize>)| {
        let frame = |frame| {
            let start = (row * frames + frame) * patches;
            places.iter().map(move |place| start + place)
        };
        (0..frames).flat_map(frame).collect::<Vec<_>>()
    };
    places.iter().enumerate().flat_map(of).collect()
}
