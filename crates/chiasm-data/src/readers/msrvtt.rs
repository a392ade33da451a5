//! MSR-VTT: twenty sentences for each of ten thousand clips.
//!
//! The sentences are in `MSR_VTT.json` (`annotations`), or in the files of the challenge
//! (`videodatainfo`: `videos` and `sentences`); a folder may hold them itself or in `annotation/`. Who
//! belongs to which split is a matter of lists:
//!
//! * training: `train_list_jsfusion.txt`, else `MSRVTT_train.9k.csv`, `train_list_miech.txt`,
//!   `MSRVTT_train.7k.csv`; another is named with [`OpenOptions::annotations`];
//! * test ("1k-A"): `MSRVTT_JSFUSION_test.csv`, which names one sentence a clip, else
//!   `val_list_jsfusion.txt` with `jsfusion_val_caption_idx.pkl`, which says which of a clip's sentences
//!   is the one, else `test_list_miech.txt`. The method that calls this list `val` also reports on it,
//!   so that here it is test and nothing else.
//!
//! Clips that the lists leave out are left out. Without a list the file's own splits hold.
//!
//! Clips are `videos/all/video0.mp4` or frames in `frames/video0/`, or right below
//! [`OpenOptions::image_root`].

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use chiasm_format::pickle::{self, Limits};
use serde::Deserialize;

use super::clips::Clips;
use super::collect::{Collector, Picture, RawRow};
use super::json::{self, Layout, Take};
use super::{Format, OpenOptions, Opened, Source, name_of, parse_split};
use crate::dataset::{Split, Unit, read_capped};
use crate::error::DataError;

const CAPTIONS: [&str; 5] = [
    "MSR_VTT.json",
    "MSRVTT_data.json",
    "train_val_videodatainfo.json",
    "videodatainfo_2017.json",
    "test_videodatainfo.json",
];
const TRAIN_LISTS: [&str; 4] = [
    "train_list_jsfusion.txt",
    "MSRVTT_train.9k.csv",
    "train_list_miech.txt",
    "MSRVTT_train.7k.csv",
];
const TEST_LISTS: [&str; 3] = [
    "MSRVTT_JSFUSION_test.csv",
    "val_list_jsfusion.txt",
    "test_list_miech.txt",
];
/// Which sentence of a test clip is the one; belongs to the second of the lists.
const SENTENCE_INDEX: &str = "jsfusion_val_caption_idx.pkl";

/// Where lists lie around the folder.
const LIST_FOLDERS: [&str; 5] = [
    "",
    "annotation",
    "annotations",
    "high-quality/structured-symlinks",
    "structured-symlinks",
];
const CLIP_FOLDERS: [&str; 8] = [
    "videos/all",
    "videos",
    "all",
    "frames",
    "TrainValVideo",
    "TestVideo",
    "videos/TrainValVideo",
    "videos/TestVideo",
];

/// Cap on a list; the longest has ten thousand clips and their sentences.
const MAX_LIST_BYTES: u64 = 16 << 20;

pub(super) const FORMAT: Format = Format {
    name: "msrvtt",
    what: "MSR-VTT folder, or its file of sentences (MSR_VTT.json, *_videodatainfo.json)",
    recognises: |source| match source.is_folder {
        true => !captions_in(&source.path).is_empty(),
        false => source.has_extension(&["json"]) && is_captions(source),
    },
    open: |source, options| {
        let files = match source.is_folder {
            true => captions_in(&source.path),
            false => vec![source.path.clone()],
        };
        open(source, &files, options)
    },
};

fn is_captions(source: &Source) -> bool {
    let name = source
        .path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy();
    let challenge = source.head_has("\"video_id\"")
        && (source.head_has("\"videos\"") || source.head_has("\"sentences\""));
    CAPTIONS.contains(&name.as_ref()) || (source.begins_with(b'{') && challenge)
}

/// The files of sentences in a folder, or in `annotation/` in it. The files of the challenge are two
/// halves; the others each hold everything.
fn captions_in(folder: &Path) -> Vec<PathBuf> {
    for below in LIST_FOLDERS.iter().take(3) {
        let files = CAPTIONS.iter().map(|name| folder.join(below).join(name));
        let files: Vec<PathBuf> = files.filter(|path| path.is_file()).collect();
        let whole = files
            .iter()
            .find(|path| !path.ends_with("test_videodatainfo.json"));
        match whole {
            Some(whole) if !whole.ends_with("train_val_videodatainfo.json") => {
                return vec![whole.clone()];
            }
            _ if !files.is_empty() => return files,
            _ => {}
        }
    }
    Vec::new()
}

/// A sentence in either form.
#[derive(Deserialize)]
struct Sentence {
    #[serde(alias = "image_id")]
    video_id: String,
    caption: String,
}

#[derive(Deserialize)]
struct Video {
    video_id: String,
    split: Option<String>,
}

/// A clip, its sentences and where the first stands.
struct Described {
    id: String,
    file: usize,
    number: u64,
    captions: Vec<String>,
    split: Option<Split>,
}

/// What lists say of a clip.
#[derive(Clone, Debug)]
struct Listed {
    split: Split,
    sentence: Chosen,
}

/// Which sentences of a clip count.
#[derive(Clone, Debug)]
enum Chosen {
    All,
    Number(usize),
    Text(String),
}

fn open(source: &Source, files: &[PathBuf], options: &OpenOptions) -> Result<Opened, DataError> {
    let root = root_of(source);
    let lists = lists(&root, options)?;
    let clips = match &options.image_root {
        Some(root) => Clips::new([root.clone()]),
        None => {
            let folders = CLIP_FOLDERS.iter().map(|below| root.join(below));
            Clips::new(folders.chain([root.clone()]))
        }
    };
    let mut collector = Collector::new(&source.path, options, Unit::Row);
    let mut described = Vec::new();
    let mut index = HashMap::new();
    for (at, file) in files.iter().enumerate() {
        collector.turn_to(file);
        read(file, at, &mut described, &mut index, &mut collector)?;
    }
    for clip in described {
        let listed = lists.get(&clip.id);
        if !lists.is_empty() && listed.is_none() {
            continue;
        }
        if let Some(file) = files.get(clip.file) {
            collector.turn_to(file);
        }
        let texts = match listed.map(|listed| &listed.sentence) {
            Some(Chosen::Text(text)) => vec![text.clone()],
            Some(Chosen::Number(number)) => match clip.captions.get(*number) {
                Some(text) => vec![text.clone()],
                None => {
                    let reason = format!("there is no sentence {number} (from 0) of the clip");
                    collector.refuse(clip.number, &clip.id, reason);
                    continue;
                }
            },
            Some(Chosen::All) | None => clip.captions,
        };
        let picture = Picture::Found {
            visual: clips.find(&clip.id, None),
            id: clip.id,
        };
        collector.add(RawRow {
            split: listed.map(|listed| listed.split).or(clip.split),
            ..RawRow::new(clip.number, picture, texts)
        });
    }
    let mut opened = collector.finish()?;
    opened.dataset.name = name_of(if source.is_folder {
        &source.path
    } else {
        &root
    });
    Ok(opened)
}

/// The folder that everything is found from: the one above `annotation/`.
fn root_of(source: &Source) -> PathBuf {
    if source.is_folder {
        return source.path.clone();
    }
    let beside = source.path.parent().unwrap_or(Path::new(""));
    let inner = beside
        .file_name()
        .is_some_and(|name| name == "annotation" || name == "annotations");
    let above = beside.parent().filter(|_| inner);
    above.unwrap_or(beside).to_owned()
}

fn read(
    file: &Path,
    at: usize,
    described: &mut Vec<Described>,
    index: &mut HashMap<String, usize>,
    collector: &mut Collector,
) -> Result<(), DataError> {
    const CHALLENGE: Layout = Layout::Parts(&[("sentences", Take::Each), ("videos", Take::Each)]);
    const COCO: Layout = Layout::Parts(&[("annotations", Take::Each)]);
    let head = Source::look(file)?;
    let challenge = head.head_has("\"videos\"") || head.head_has("\"sentences\"");
    let mut splits: HashMap<String, Split> = HashMap::new();
    json::stream(file, if challenge { CHALLENGE } else { COCO }, |element| {
        let number = element.number;
        let taken = match element.key {
            "videos" => element.parse::<Video>().and_then(|video| {
                // Called so here alone.
                let split = video.split.map(|split| split.replace("validate", "val"));
                if let Some(split) = split {
                    splits.insert(video.video_id, parse_split(&split)?);
                }
                Ok(())
            }),
            _ => element
                .parse::<Sentence>()
                .map(|Sentence { video_id, caption }| {
                    let place = index.get(&video_id).copied();
                    if let Some(clip) = place.and_then(|place| described.get_mut(place)) {
                        clip.captions.push(caption);
                        return;
                    }
                    index.insert(video_id.clone(), described.len());
                    described.push(Described {
                        id: video_id,
                        file: at,
                        number,
                        captions: vec![caption],
                        split: None,
                    });
                }),
        };
        if let Err(reason) = taken {
            collector.refuse(number, element.key, reason);
        }
        Ok(())
    })?;
    for clip in described {
        clip.split = clip.split.or_else(|| splits.get(&clip.id).copied());
    }
    Ok(())
}

/// What the lists that are there say; empty when there is none.
fn lists(root: &Path, options: &OpenOptions) -> Result<HashMap<String, Listed>, DataError> {
    let find = |names: &[&str]| {
        let mut places = names.iter().flat_map(|name| {
            LIST_FOLDERS
                .iter()
                .map(move |below| root.join(below).join(name))
        });
        places.find(|path| path.is_file())
    };
    let mut listed = HashMap::new();
    let train = options.annotations.clone().or_else(|| find(&TRAIN_LISTS));
    if let Some(path) = train {
        for (id, _) in list(&path)? {
            let sentence = Chosen::All;
            listed.insert(
                id,
                Listed {
                    split: Split::Train,
                    sentence,
                },
            );
        }
    }
    let Some(path) = find(&TEST_LISTS) else {
        return Ok(listed);
    };
    let index = find(&[SENTENCE_INDEX]).filter(|_| path.ends_with("val_list_jsfusion.txt"));
    let numbers = index.map(|path| sentence_numbers(&path)).transpose()?;
    for (id, text) in list(&path)? {
        let number = numbers.as_ref().and_then(|numbers| numbers.get(&id));
        let sentence = match (text, number) {
            (Some(text), _) => Chosen::Text(text),
            (None, Some(number)) => Chosen::Number(*number),
            (None, None) => Chosen::All,
        };
        // A clip of both lists must not be trained on.
        listed.insert(
            id,
            Listed {
                split: Split::Test,
                sentence,
            },
        );
    }
    Ok(listed)
}

/// The clips of a list, with their sentence where it names one: one a line, or a table.
fn list(path: &Path) -> Result<Vec<(String, Option<String>)>, DataError> {
    let bytes = read_capped(path, MAX_LIST_BYTES)?;
    if path.extension().is_none_or(|extension| extension != "csv") {
        let text = String::from_utf8_lossy(&bytes);
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        return Ok(lines.map(|line| (line.to_owned(), None)).collect());
    }
    let failed = |message: String| DataError::Parse {
        path: path.to_owned(),
        location: "its table".to_owned(),
        message,
    };
    let mut reader = csv::Reader::from_reader(bytes.as_slice());
    let header = reader
        .headers()
        .map_err(|error| failed(error.to_string()))?
        .clone();
    let column = |name: &str| header.iter().position(|other| other.trim() == name);
    let id =
        column("video_id").ok_or_else(|| failed("there is no column `video_id`".to_owned()))?;
    let sentence = column("sentence");
    let mut clips = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|error| failed(error.to_string()))?;
        let cell = |column: usize| record.get(column).map(str::to_owned);
        if let Some(id) = cell(id) {
            clips.push((id, sentence.and_then(cell)));
        }
    }
    Ok(clips)
}

/// Which sentence of each clip is the one.
fn sentence_numbers(path: &Path) -> Result<HashMap<String, usize>, DataError> {
    let bytes = read_capped(path, MAX_LIST_BYTES)?;
    let pickle = pickle::parse(&bytes, &Limits::default());
    let pickle = pickle.map_err(|error| error.in_file(path))?;
    let numbers = pickle
        .root()
        .entries()
        .filter_map(|(clip, number)| Some((clip.as_str()?.into_owned(), number.as_usize()?)));
    Ok(numbers.collect())
}
