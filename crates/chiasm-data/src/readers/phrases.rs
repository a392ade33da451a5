//! Phrases of captions with their boxes, for a Karpathy split file beside them.
//!
//! One JSON object a picture and line: `phrases: [[group, phrase, kind, [[x1, y1, x2, y2], ...]],
//! ...]` with boxes as fractions. The phrases of one group are of one sentence. Which one it is the
//! words say and not the number: the sets that these were joined from count the sentences of a
//! picture in different orders.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use serde::Deserialize;

use super::collect::{Collector, Picture, RawRow};
use super::{Format, OpenOptions, Opened, json, karpathy, parse_split};
use crate::dataset::{Annotations, Phrase, Rect, Sample, Unit};
use crate::error::DataError;

/// Most sentences of a picture among which those of the phrases are looked for: every assignment is
/// tried, and 6! are 720.
const MAX_SENTENCES: usize = 6;

pub(super) const FORMAT: Format = Format {
    name: "phrases",
    what: "phrases with boxes, with a Karpathy split file beside them (.jsonl)",
    recognises: |source| {
        source.has_extension(&["jsonl"])
            && source.begins_with(b'{')
            && source.head_has("\"phrases\"")
            && source.head_has("\"image\"")
    },
    open: |source, options| open(&source.path, options),
};

#[derive(Deserialize)]
struct Line {
    image: String,
    split: Option<String>,
    phrases: Vec<(usize, String, String, Vec<[f64; 4]>)>,
}

fn open(path: &Path, options: &OpenOptions) -> Result<Opened, DataError> {
    let sentences = sentences(path, options)?;
    let known: HashMap<&str, &Sample> = sentences
        .dataset
        .samples
        .iter()
        .map(|sample| (sample.id.as_str(), sample))
        .collect();
    let mut collector = Collector::new(path, options, Unit::Line);
    json::lines(path, |number, line| {
        let line = line.and_then(json::parse::<Line>);
        let (image, row) = match line {
            Ok(line) => {
                let known = known.get(line.image.as_str());
                let known = known.ok_or("the split file has no sentences of the image".to_owned());
                (
                    line.image.clone(),
                    known.and_then(|known| join(line, known)),
                )
            }
            Err(reason) => (String::new(), Err(reason)),
        };
        match row {
            Ok((sample, phrases, refused)) => {
                for reason in refused {
                    collector.refuse(number, &image, reason);
                }
                let picture = Picture::Found {
                    id: image,
                    visual: sample.visual.clone(),
                };
                collector.add(RawRow {
                    split: Some(sample.split),
                    annotations: Annotations {
                        phrases,
                        ..Annotations::default()
                    },
                    ..RawRow::new(number, picture, sample.texts.clone())
                });
            }
            Err(reason) => collector.refuse(number, &image, reason),
        }
        Ok(())
    })?;
    collector.finish()
}

/// The split file that is named, or the one beside the file.
pub(super) fn sentences(path: &Path, options: &OpenOptions) -> Result<Opened, DataError> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let file = match &options.annotations {
        Some(file) => file.clone(),
        None => karpathy::find(folder)?.ok_or_else(|| DataError::Incomplete {
            path: path.to_owned(),
            missing: "has no sentences beside it".to_owned(),
            hint: "name the split file that has them with `--annotations dataset_NAME.json`"
                .to_owned(),
        })?,
    };
    let mut opened = karpathy::open(&file, options)?;
    // Where one sentence was refused, the numbers of those after it are off.
    let refused = opened.quarantine.entries.iter();
    let refused: HashSet<&str> = refused.map(|entry| entry.id.as_str()).collect();
    let samples = &mut opened.dataset.samples;
    samples.retain(|sample| !refused.contains(sample.id.as_str()));
    Ok(opened)
}

/// A picture's sentences, its phrases, and what could not be used of them.
type Joined<'a> = (&'a Sample, Vec<Phrase>, Vec<String>);

fn join(line: Line, sample: &Sample) -> Result<Joined<'_>, String> {
    if let Some(split) = line.split {
        let split = parse_split(&split)?;
        if split != sample.split {
            return Err(format!(
                "split `{split}` here, `{}` in the split file",
                sample.split
            ));
        }
    }
    let mut groups: BTreeMap<usize, Vec<Phrase>> = BTreeMap::new();
    let mut refused = Vec::new();
    for (number, (group, phrase, kind, boxes)) in (1..).zip(line.phrases) {
        let boxes: Option<Vec<Rect>> = boxes
            .into_iter()
            .map(|corners| Rect::from_pixels(corners, 1.0, 1.0))
            .collect();
        match boxes {
            Some(boxes) => groups.entry(group).or_default().push(Phrase {
                text: group,
                phrase,
                start: None,
                kind,
                boxes,
                masks: Vec::new(),
            }),
            None => refused.push(format!(
                "phrase {number}: a box is empty or outside the image"
            )),
        }
    }
    let places = places(&groups, &sample.texts)?;
    let phrases = groups
        .into_values()
        .zip(places)
        .flat_map(|(phrases, text)| {
            phrases
                .into_iter()
                .map(move |phrase| Phrase { text, ..phrase })
        })
        .collect();
    Ok((sample, phrases, refused))
}

/// The sentence of each group, such that most phrases occur in theirs.
fn places(groups: &BTreeMap<usize, Vec<Phrase>>, texts: &[String]) -> Result<Vec<usize>, String> {
    if groups.len() > texts.len() || texts.len() > MAX_SENTENCES {
        return Err(format!(
            "phrases of {} sentences, of which {} are known",
            groups.len(),
            texts.len()
        ));
    }
    let texts: Vec<String> = texts.iter().map(|text| words(text)).collect();
    let scores: Vec<Vec<usize>> = groups
        .values()
        .map(|phrases| {
            let phrases: Vec<String> = phrases.iter().map(|phrase| words(&phrase.phrase)).collect();
            let occur = |text: &String| {
                phrases
                    .iter()
                    .filter(|phrase| text.contains(*phrase))
                    .count()
            };
            texts.iter().map(occur).collect()
        })
        .collect();
    let mut best = (0, Vec::new());
    assign(&scores, &mut Vec::new(), 0, &mut best);
    Ok(best.1)
}

/// Tries every text that is free for the next group; keeps the first of the best assignments.
fn assign(
    scores: &[Vec<usize>],
    taken: &mut Vec<usize>,
    score: usize,
    best: &mut (usize, Vec<usize>),
) {
    let Some(row) = scores.get(taken.len()) else {
        if score > best.0 || best.1.is_empty() {
            *best = (score, taken.clone());
        }
        return;
    };
    for (text, occur) in row.iter().enumerate() {
        if !taken.contains(&text) {
            taken.push(text);
            assign(scores, taken, score + occur, best);
            taken.pop();
        }
    }
}

/// The words of a text in lower case, each between spaces.
fn words(text: &str) -> String {
    let lower = text.to_lowercase();
    let words = lower
        .split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty());
    words.fold(" ".to_owned(), |line, word| line + word + " ")
}
