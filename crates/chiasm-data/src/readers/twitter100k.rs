//! The layout that the ITR code gives Twitter100k: `text.txt`, whose line i goes with `images/{i}.jpg`,
//! and optionally `ocr/{i}.txt` and `ofa/{i}.txt` (`specs/itr.md` section 2.1).
//!
//! Texts are cut to 140 characters; links stay. All of it is training data without labels.

use std::path::Path;

use super::beside::{Beside, cut};
use super::collect::{Collector, Picture, RawRow};
use super::{Format, OpenOptions, Opened, json, name_of};
use crate::dataset::{ImageSource, Split, Unit};
use crate::error::DataError;

pub(super) const FORMAT: Format = Format {
    name: "twitter100k",
    what: "folder with text.txt, a line a picture, and images/1.jpg, ...",
    recognises: |source| {
        source.is_folder
            && source.path.join("text.txt").is_file()
            && source.path.join("images").is_dir()
    },
    open: |source, options| open(&source.path, options),
};

fn open(folder: &Path, options: &OpenOptions) -> Result<Opened, DataError> {
    let file = folder.join("text.txt");
    let mut collector = Collector::new(&file, options, Unit::Line);
    let beside = Beside::new(folder);
    let mut next = 1;
    json::lines(&file, |number, line| {
        if number > next {
            let reason = match number - next {
                1 => "empty text".to_owned(),
                blank => format!("{blank} lines from here on are empty"),
            };
            collector.refuse(next, &next.to_string(), reason);
        }
        next = number + 1;
        let id = number.to_string();
        let read = line.and_then(|text| Ok((cut(text), beside.of(&id)?)));
        match read {
            Ok((text, annotations)) => {
                let names = [format!("images/{id}.jpg"), format!("{id}.jpg")];
                let visual = ImageSource::Path(collector.find_any(&names)).into();
                let picture = Picture::Found { id, visual };
                collector.add(RawRow {
                    split: Some(Split::Train),
                    annotations,
                    ..RawRow::new(number, picture, vec![text])
                });
            }
            Err(reason) => collector.refuse(number, &id, reason),
        }
        Ok(())
    })?;
    let mut opened = collector.finish()?;
    opened.dataset.name = name_of(folder);
    Ok(opened)
}
