//! News400, TamperedNews and MMG with entities (`specs/itr.md` section 4.0): news photos with the people,
//! places and events that the article names, and whether these can be seen, a JSON object a line.
//!
//! Articles are not handed on. A sample is a photo with the names of one kind of entity, each once, as its
//! text, and the class `visible` or `not_visible`: a small test of whether a text is represented. What was
//! not decided (-1), and a kind that the article does not mention, is no sample. That 1 means visible is
//! inferred from the counts; look at some photos before relying on it.

use std::path::Path;

use serde::Deserialize;

use super::collect::{Collector, Picture, RawRow};
use super::json::{self, Id};
use super::{Format, OpenOptions, Opened, split_in_path};
use crate::dataset::{Annotations, ImageSource, Unit};
use crate::error::DataError;

/// Endings that the photos of the three sets have.
const ENDINGS: [&str; 4] = ["png", "jpg", "jpeg", "webp"];

pub(super) const FORMAT: Format = Format {
    name: "news-entities",
    what: "News400 or TamperedNews with entities, one a line (news400_ent.jsonl)",
    recognises: |source| {
        source.has_extension(&["jsonl"])
            && source.begins_with(b'{')
            && source.head_has("\"text_persons\"")
            && source.head_has("\"annotation_persons\"")
    },
    open: |source, options| open(&source.path, options),
};

#[derive(Deserialize)]
struct Article {
    id: Id,
    #[serde(default)]
    text_persons: Vec<Entity>,
    #[serde(default)]
    text_locations: Vec<Entity>,
    #[serde(default)]
    text_events: Vec<Entity>,
    annotation_persons: Option<i64>,
    annotation_locations: Option<i64>,
    annotation_events: Option<i64>,
}

#[derive(Deserialize)]
struct Entity {
    wd_label: String,
}

fn open(path: &Path, options: &OpenOptions) -> Result<Opened, DataError> {
    let mut collector = Collector::new(path, options, Unit::Line);
    let split = split_in_path(path);
    json::lines(path, |number, line| {
        let article = match line.and_then(json::parse::<Article>) {
            Ok(article) => article,
            Err(reason) => {
                collector.refuse(number, "", reason);
                return Ok(());
            }
        };
        let id = article.id.0;
        let names = ENDINGS.map(|ending| format!("{id}.{ending}"));
        let file = collector.find_any(&names);
        for (kind, entities, judged) in [
            ("persons", article.text_persons, article.annotation_persons),
            (
                "locations",
                article.text_locations,
                article.annotation_locations,
            ),
            ("events", article.text_events, article.annotation_events),
        ] {
            let label = match judged {
                Some(1) => "visible",
                Some(0) => "not_visible",
                Some(-1) | None => continue,
                Some(other) => {
                    let reason = format!("`annotation_{kind}` is {other}, not 1, 0 or -1");
                    collector.refuse(number, &id, reason);
                    continue;
                }
            };
            let mut named: Vec<&str> = Vec::new();
            for entity in &entities {
                if !named.contains(&entity.wd_label.as_str()) {
                    named.push(&entity.wd_label);
                }
            }
            if named.is_empty() {
                continue;
            }
            let picture = Picture::Found {
                id: id.clone(),
                visual: ImageSource::Path(file.clone()).into(),
            };
            collector.add(RawRow {
                split,
                id: Some(format!("{id}#{kind}")),
                annotations: Annotations {
                    label: Some(label.to_owned()),
                    kinds: vec![("entity", kind.to_owned())],
                    ..Annotations::default()
                },
                ..RawRow::new(number, picture, vec![named.join(", ")])
            });
        }
        Ok(())
    })?;
    collector.finish()
}
