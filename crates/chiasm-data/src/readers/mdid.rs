//! MDID, Instagram posts with intent, semiotic and contextual classes (`specs/itr.md` section 4.3): a JSON
//! array a file, `master_metadata.json` or a split such as `train_split_0.json`.
//!
//! The class of a sample is the semiotic one (`parallel`, `additive`, `divergent`), how text and picture
//! relate in meaning; the other two are kinds that a report splits its figures by. The text is the caption
//! as posted. Pictures, which are not handed on, are `{id}.jpg`, in `images/` or beside the file.

use std::path::Path;

use serde::Deserialize;

use super::collect::{Collector, Picture, RawRow};
use super::json::{self, Id, Layout};
use super::{Format, OpenOptions, Opened, split_in_path};
use crate::dataset::{Annotations, ImageSource, Unit};
use crate::error::DataError;

pub(super) const FORMAT: Format = Format {
    name: "mdid",
    what: "MDID posts (master_metadata.json, train_split_0.json)",
    recognises: |source| {
        source.has_extension(&["json"])
            && source.begins_with(b'[')
            && ["\"semiotic\"", "\"intent\"", "\"contextual\""]
                .iter()
                .all(|key| source.head_has(key))
    },
    open: |source, options| open(&source.path, options),
};

#[derive(Deserialize)]
struct Post {
    id: Id,
    orig_caption: Option<String>,
    caption: String,
    intent: String,
    semiotic: String,
    contextual: String,
}

fn open(path: &Path, options: &OpenOptions) -> Result<Opened, DataError> {
    let mut collector = Collector::new(path, options, Unit::Row);
    collector.look_also(options, &["..", "../images"], &[]);
    let split = split_in_path(path);
    json::stream(path, Layout::List, |element| {
        let post: Post = match element.parse() {
            Ok(post) => post,
            Err(reason) => {
                collector.refuse(element.number, "", reason);
                return Ok(());
            }
        };
        let id = post.id.0;
        let file = collector.find(&format!("{id}.jpg"));
        let picture = Picture::Found {
            id: id.clone(),
            visual: ImageSource::Path(file).into(),
        };
        collector.add(RawRow {
            split,
            id: Some(id),
            annotations: Annotations {
                label: Some(post.semiotic),
                kinds: vec![("intent", post.intent), ("contextual", post.contextual)],
                ..Annotations::default()
            },
            ..RawRow::new(
                element.number,
                picture,
                vec![post.orig_caption.unwrap_or(post.caption)],
            )
        });
        Ok(())
    })?;
    collector.finish()
}
