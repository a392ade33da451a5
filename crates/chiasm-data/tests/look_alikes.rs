//! Near duplicates among real photos: copies are found, other photos are not.

#![allow(
    clippy::unwrap_used,
    reason = "a failed unwrap here is the failed test"
)]

use chiasm_data::phash::{Look, LookIndex};
use chiasm_data::resample::{Filter, resize};
use chiasm_data::{AlphaRule, Limits, Rgb, Split, decode_rgb, frames, open};
use image::codecs::jpeg::JpegEncoder;

fn recoded(picture: &Rgb, quality: u8) -> Rgb {
    let mut bytes = Vec::new();
    let (width, height) = (picture.width as u32, picture.height as u32);
    let kind = image::ExtendedColorType::Rgb8;
    JpegEncoder::new_with_quality(&mut bytes, quality)
        .encode(&picture.data, width, height, kind)
        .unwrap();
    decode_rgb(&bytes, &Limits::default(), true).unwrap()
}

/// The test split of Flickr8k: 1,000 photos, of which no two are the same.
#[test]
fn flickr8k_copies_are_found_and_other_photos_are_not() {
    let source = chiasm_testkit::shared_dir().join("data/flickr8k/dataset_flickr8k.json");
    if !chiasm_testkit::available(&source) {
        return;
    }
    let photos = open(&source, &chiasm_data::OpenOptions::default()).unwrap();
    let photos = photos.dataset.subset(Split::Test);
    let photos: Vec<Rgb> = photos
        .samples
        .iter()
        .map(|sample| frames::still(sample, &Limits::default(), AlphaRule::Drop).unwrap())
        .collect();
    let looks: Vec<Look> = photos
        .iter()
        .map(|photo| Look::of(photo).unwrap())
        .collect();
    assert_eq!(looks.len(), 1000);
    let index = LookIndex::new(looks.clone());
    for (place, look) in looks.iter().enumerate() {
        assert_eq!(index.resembling(look), [place]);
    }
    for (place, photo) in photos.iter().enumerate().step_by(10) {
        let half = resize(photo, photo.width / 2, photo.height / 2, Filter::Bicubic);
        for copy in [recoded(photo, 60), recoded(&half, 60), half] {
            assert_eq!(index.resembling(&Look::of(&copy).unwrap()), [place]);
        }
    }
}
