//! HarMeme as MMF keeps it (`specs/itr.md` section 4.0): memes with a degree of harm, a JSON object a line.
//!
//! The text is what is written in the picture, so it is the OCR text as well. The class is the degree of
//! harm, whom it concerns is the kind `target`. Where nothing was read the files say `null` as a word; it
//! is kept as the text, since published figures count these rows, and the OCR text is empty then.

use std::path::Path;

use serde::Deserialize;

use super::collect::{Collector, Picture, RawRow};
use super::json::{self, Id};
use super::{Format, OpenOptions, Opened, split_in_path};
use crate::dataset::{Annotations, ImageSource, Unit};
use crate::error::DataError;

pub(super) const FORMAT: Format = Format {
    name: "harmeme",
    what: "HarMeme memes, one a line (train.jsonl of MMF)",
    recognises: |source| {
        source.has_extension(&["jsonl"])
            && source.begins_with(b'{')
            && source.head_has("\"labels\"")
            && source.head_has("\"image\"")
            && source.head_has(" harmful\"")
    },
    open: |source, options| open(&source.path, options),
};

#[derive(Deserialize)]
struct Meme {
    id: Id,
    image: String,
    labels: Vec<String>,
    text: String,
}

fn open(path: &Path, options: &OpenOptions) -> Result<Opened, DataError> {
    let mut collector = Collector::new(path, options, Unit::Line);
    collector.look_also(options, &["../images"], &[]);
    let split = split_in_path(path);
    json::lines(path, |number, line| {
        let meme = match line.and_then(json::parse::<Meme>) {
            Ok(meme) => meme,
            Err(reason) => {
                collector.refuse(number, "", reason);
                return Ok(());
            }
        };
        let mut labels = meme.labels.into_iter();
        let Some(label) = labels.next() else {
            collector.refuse(number, &meme.id.0, "it has no label");
            return Ok(());
        };
        let picture = Picture::Found {
            visual: ImageSource::Path(collector.find(&meme.image)).into(),
            id: meme.image,
        };
        let is_read = meme.text.trim() != "null";
        collector.add(RawRow {
            split,
            id: Some(meme.id.0),
            annotations: Annotations {
                label: Some(label),
                ocr: Some(if is_read {
                    meme.text.clone()
                } else {
                    String::new()
                }),
                kinds: labels.map(|target| ("target", target)).collect(),
                ..Annotations::default()
            },
            ..RawRow::new(number, picture, vec![meme.text])
        });
        Ok(())
    })?;
    collector.finish()
}
