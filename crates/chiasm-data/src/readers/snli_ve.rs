//! SNLI-VE as published: whether a photo entails a sentence, one JSON object a line.
//!
//! The text is the hypothesis (`sentence2`); the premise is the photo, and its caption (`sentence1`)
//! is not read. Pairs on which the annotators did not agree (`-`) are refused, as in SNLI.

use std::path::Path;

use serde::Deserialize;

use super::collect::{Collector, Picture, RawRow};
use super::json::{self, Id};
use super::{Format, OpenOptions, Opened, split_in_path};
use crate::dataset::{Annotations, ImageSource, Unit};
use crate::error::DataError;

/// The folders that the photos of Flickr30k are unpacked to.
pub(super) const PICTURE_FOLDERS: &[&str] = &["flickr30k-images", "flickr30k_images", "flickr30k"];

pub(super) const FORMAT: Format = Format {
    name: "snli-ve",
    what: "SNLI-VE pairs, one a line (snli_ve_*.jsonl)",
    recognises: |source| {
        source.has_extension(&["jsonl", "json"])
            && source.begins_with(b'{')
            && source.head_has("\"sentence2\"")
            && (source.head_has("\"Flickr30K_ID\"") || source.head_has("\"Flikr30kID\""))
    },
    open: |source, options| open(&source.path, options),
};

#[derive(Deserialize)]
struct Pair {
    /// With `.jpg` in the newer files, which also spell its key so.
    #[serde(rename = "Flickr30K_ID", alias = "Flikr30kID")]
    photo: Id,
    #[serde(rename = "pairID")]
    id: Id,
    gold_label: String,
    sentence2: String,
}

fn open(path: &Path, options: &OpenOptions) -> Result<Opened, DataError> {
    let mut collector = Collector::new(path, options, Unit::Line);
    collector.look_also(options, &["../images", ".."], PICTURE_FOLDERS);
    let split = split_in_path(path);
    json::lines(path, |number, line| {
        let pair = match line.and_then(json::parse::<Pair>) {
            Ok(pair) => pair,
            Err(reason) => {
                collector.refuse(number, "", reason);
                return Ok(());
            }
        };
        if !["entailment", "neutral", "contradiction"].contains(&pair.gold_label.as_str()) {
            let reason = format!("the label `{}` is no relation", pair.gold_label);
            collector.refuse(number, &pair.id.0, reason);
            return Ok(());
        }
        let name = pair.photo.0.trim_end_matches(".jpg").to_owned();
        let file = collector.find(&format!("{name}.jpg"));
        let picture = Picture::Found {
            id: name,
            visual: ImageSource::Path(file).into(),
        };
        collector.add(RawRow {
            split,
            id: Some(pair.id.0),
            annotations: Annotations {
                label: Some(pair.gold_label),
                ..Annotations::default()
            },
            ..RawRow::new(number, picture, vec![pair.sentence2])
        });
        Ok(())
    })?;
    collector.finish()
}
