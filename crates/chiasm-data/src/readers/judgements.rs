//! Flickr8k's judgements of how well a caption fits a photo.
//!
//! `ExpertAnnotations.txt` has the marks of three experts, 1 to 4; `CrowdFlowerAnnotations.txt` the
//! share of people who said yes, and how many said yes and no. Both name a caption as
//! `photo.jpg#2`, the third of that photo; its words are in a Karpathy split file beside them. Each
//! pair is a sample, the photo is its group, and the mean is its [`crate::dataset::Rating`].

use std::collections::HashMap;

use super::collect::{Collector, Picture, RawRow};
use super::{Format, OpenOptions, Opened, Source, json, phrases};
use crate::dataset::{Annotations, Rating, Sample, Unit};
use crate::error::DataError;

pub(super) const FORMAT: Format = Format {
    name: "judgements",
    what: "Flickr8k judgements (ExpertAnnotations.txt, CrowdFlowerAnnotations.txt)",
    recognises: |source| {
        let text = String::from_utf8_lossy(&source.head);
        let first = text.lines().find(|line| !line.trim().is_empty());
        source.has_extension(&["txt", "tsv"])
            && first.is_some_and(|line| fields(line).is_ok_and(|fields| fields.1.contains(".jpg#")))
    },
    open,
};

/// Photo, caption and three figures of a line.
fn fields(line: &str) -> Result<(&str, &str, [f32; 3]), String> {
    let cells: Vec<&str> = line.trim_end().split('\t').collect();
    let [photo, caption, a, b, c] = cells.as_slice() else {
        return Err(format!("{} of 5 columns", cells.len()));
    };
    let figure = |cell: &str| {
        let figure = cell.trim().parse::<f32>().ok();
        // Refuses what is no number as well.
        let figure = figure.filter(|figure| (0.0..=1e6).contains(figure));
        figure.ok_or_else(|| format!("`{cell}` is no judgement"))
    };
    Ok((photo, caption, [figure(a)?, figure(b)?, figure(c)?]))
}

/// What the figures of a line mean.
#[derive(Clone, Copy)]
enum Judges {
    /// A mark of each, 1 to 4.
    Experts,
    /// The share of yes, the number of yes and of no.
    Crowd,
}

impl Judges {
    /// Experts give marks from 1 to 4; the crowd's share and counts begin at 0.
    fn of(source: &Source) -> Self {
        let head = String::from_utf8_lossy(&source.head);
        let marks = |line: &str| match fields(line) {
            Ok((_, _, figures)) => figures.into_iter().all(is_mark),
            Err(_) => true,
        };
        // The last line may be cut off.
        let mut lines: Vec<&str> = head.lines().collect();
        if lines.len() > 1 {
            lines.pop();
        }
        match lines.into_iter().all(marks) {
            true => Self::Experts,
            false => Self::Crowd,
        }
    }

    fn rate(self, figures: [f32; 3]) -> Result<Rating, String> {
        match self {
            Self::Experts if figures.into_iter().all(is_mark) => Ok(Rating {
                score: figures.into_iter().sum::<f32>() / 3.0,
                scale: (1.0, 4.0),
            }),
            Self::Experts => Err("a mark is not 1, 2, 3 or 4".to_owned()),
            Self::Crowd => {
                let [share, yes, no] = figures;
                let agrees = (share * (yes + no) - yes).abs() < 0.01;
                if !agrees || yes + no < 1.0 || share > 1.0 {
                    return Err(format!("{share} is not the share of {yes} yes and {no} no"));
                }
                Ok(Rating {
                    score: share,
                    scale: (0.0, 1.0),
                })
            }
        }
    }
}

fn is_mark(figure: f32) -> bool {
    [1.0, 2.0, 3.0, 4.0].contains(&figure)
}

fn open(source: &Source, options: &OpenOptions) -> Result<Opened, DataError> {
    let path = &source.path;
    let sentences = phrases::sentences(path, options)?;
    let known: HashMap<&str, &Sample> = sentences
        .dataset
        .samples
        .iter()
        .map(|sample| (sample.id.as_str(), sample))
        .collect();
    let judges = Judges::of(source);
    let mut collector = Collector::new(path, options, Unit::Line);
    json::lines(path, |number, line| {
        match line.and_then(|line| row(line, number, judges, &known)) {
            Ok(row) => collector.add(row),
            Err(reason) => collector.refuse(number, "", reason),
        }
        Ok(())
    })?;
    collector.finish()
}

fn row(
    line: &str,
    number: u64,
    judges: Judges,
    known: &HashMap<&str, &Sample>,
) -> Result<RawRow, String> {
    let (photo, caption, figures) = fields(line)?;
    let rating = judges.rate(figures)?;
    let find = |photo: &str| {
        let sample = known.get(photo).copied();
        sample.ok_or_else(|| format!("the split file has no photo `{photo}`"))
    };
    let sample = find(photo)?;
    let (of, position) = caption
        .rsplit_once('#')
        .ok_or_else(|| format!("`{caption}` names no caption"))?;
    let text = position
        .parse()
        .ok()
        .and_then(|position: usize| find(of).ok()?.texts.get(position))
        .ok_or_else(|| format!("the split file has no caption `{caption}`"))?;
    let picture = Picture::Found {
        id: photo.to_owned(),
        visual: sample.visual.clone(),
    };
    Ok(RawRow {
        split: Some(sample.split),
        id: Some(format!("{photo} {caption}")),
        annotations: Annotations {
            rating: Some(rating),
            ..Annotations::default()
        },
        ..RawRow::new(number, picture, vec![text.clone()])
    })
}
