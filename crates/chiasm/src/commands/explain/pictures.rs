//! Maps of single pictures, drawn.

use std::fmt::Write as _;
use std::path::Path;

use burn::tensor::Device;
use chiasm_data::{Sample, Views, atomic};
use chiasm_eval::metrics::alignment::words_of_phrase;
use chiasm_explain::draw::{Canvas, Tile, panel, png};
use chiasm_explain::page::{Entry, Part, Shown, render};
use chiasm_explain::{Explained, Explainer, Masked, Places, Request, Target};
use chiasm_nn::VisionLanguageModel;
use chiasm_nn::model::Seen;
use serde::Serialize;

use super::{Asked, ExplainArgs, asked, method, request, selecting, single, usual_method};
use crate::cli::Global;
use crate::error::CliError;
use crate::model::Model;
use crate::output::{self, Progress, note};
use crate::source;

/// Pictures of a data set unless a number is typed.
const PICTURES: usize = 12;

/// Words of a text that are drawn; the JSON has all.
const DRAWN: usize = 16;

/// Guesses at a hidden word.
const GUESSES: usize = 5;

/// Everything about one picture, for JSON.
#[derive(Serialize)]
struct Report {
    id: String,
    text: Option<String>,
    method: String,
    target: String,
    /// Squares along one side of a map and its frames; none of regions.
    side: Option<usize>,
    frames: Option<usize>,
    /// Regions as fractions of the picture.
    regions: Vec<[f32; 4]>,
    variants: Vec<Variant>,
    picture: String,
}

/// A model's explanation: as it is, and with selection.
#[derive(Serialize)]
struct Variant {
    attention: String,
    score: f32,
    region: Option<usize>,
    /// The map of the whole, row after row.
    map: Vec<f32>,
    strongest: Option<String>,
    words: Vec<WordReport>,
    /// Share of keys that each head keeps.
    kept: Vec<f32>,
    /// What hidden words are taken for, with probabilities.
    guesses: Vec<Vec<(String, f32)>>,
}

#[derive(Serialize)]
struct WordReport {
    text: String,
    weight: Option<f32>,
    map: Option<Vec<f32>>,
    strongest: Option<String>,
}

/// A model under a name.
struct Named<'a> {
    name: String,
    explainer: Explainer<'a>,
}

/// One picture with its text.
struct Pair<'a> {
    sample: &'a Sample,
    text: Option<&'a str>,
    /// What is shown of the text; all of its words where there are none.
    words: Vec<String>,
}

pub(super) fn run(
    args: &ExplainArgs,
    global: &Global,
    model: &Model,
    device: &Device,
) -> Result<(), CliError> {
    let (dataset, views) = match (&args.image, &args.data) {
        (Some(image), _) => (single(args, image, model, device)?, Views::default()),
        (None, data) => {
            let config = model.data(data.as_deref(), &args.source)?;
            let opened = source::open_source(&config)?;
            let (mut subset, _) = source::select(&opened.dataset, args.split)?;
            if model.grounds() {
                subset = subset.referring();
            }
            subset.samples.truncate(args.limit.unwrap_or(PICTURES));
            let views = model.views(&config, &subset);
            (subset, views)
        }
    };
    let selected: Vec<(String, VisionLanguageModel)> = match &args.select {
        None => Vec::new(),
        Some(typed) => [("off", "all attention"), (typed, typed)]
            .into_iter()
            .map(|(typed, name)| Ok((name.to_owned(), selecting(model, typed)?)))
            .collect::<Result<_, CliError>>()?,
    };
    let mut named: Vec<Named<'_>> = Vec::new();
    for (name, other) in &selected {
        let explainer = model.explainer(Some(other))?;
        let name = name.clone();
        named.push(Named { name, explainer });
    }
    if named.is_empty() {
        named.push(Named {
            name: "attention as trained".to_owned(),
            explainer: model.explainer(None)?,
        });
    }
    std::fs::create_dir_all(&args.out).map_err(|error| failed(&args.out, &error))?;
    let embedder = model.embedder(device, views.with_pictures(1));
    let mut bar = Progress::new("explain", dataset.len() as u64);
    let (mut reports, mut entries, mut names) = (Vec::new(), Vec::new(), Vec::new());
    let mut request_of = None;
    for (index, sample) in dataset.samples.iter().enumerate() {
        let seen = embedder.seen(&dataset, &[index], embedder.views)?;
        let pair = pair(args, sample);
        let canvas = Canvas::of(sample, &seen, model.preprocess())?;
        if canvas.is_empty() && args.data.is_some() {
            note(&format!(
                "warning: {} has no regions and is left out",
                sample.id
            ));
            continue;
        }
        let job = Job {
            args,
            model,
            named: &named,
            seen: &seen,
            canvas: &canvas,
        };
        let found = job.explain(&pair, &mut request_of)?;
        let file = file_name(&sample.id, &mut names);
        let (report, entry) = job.write(&pair, &found, &file)?;
        reports.push(report);
        entries.push(entry);
        bar.add(1, &sample.id);
    }
    bar.finish();
    if let Some(path) = &args.page {
        let page = render("What the model looks at", &entries)?;
        atomic::write_bytes(path, page.as_bytes()).map_err(|error| failed(path, &error))?;
        note(&format!("page: {}", path.display()));
    }
    if global.json {
        return output::json(&reports);
    }
    output::result(&table(&reports));
    note(&format!("pictures and maps: {}", args.out.display()));
    Ok(())
}

/// The text of a sample and what of it is shown: words that were typed, or its phrases.
fn pair<'a>(args: &ExplainArgs, sample: &'a Sample) -> Pair<'a> {
    let text = sample.texts.first().map(String::as_str);
    let words = match args.word.is_empty() {
        false => args.word.clone(),
        true => {
            let phrases = sample.annotations.phrases.iter();
            let shown = phrases.filter(|phrase| phrase.text == 0 && !phrase.boxes.is_empty());
            shown.map(|phrase| phrase.phrase.clone()).collect()
        }
    };
    Pair {
        sample,
        text,
        words,
    }
}

/// One picture being explained.
struct Job<'a> {
    args: &'a ExplainArgs,
    model: &'a Model,
    named: &'a [Named<'a>],
    seen: &'a Seen,
    canvas: &'a Canvas,
}

/// What was found for a picture, a part a model.
struct Found {
    target: String,
    request: Request,
    parts: Vec<FoundPart>,
}

struct FoundPart {
    explained: Explained,
    /// What is shown: name, weight and map.
    shown: Vec<(String, Option<f32>, Option<Vec<f32>>)>,
    guesses: Vec<Vec<(String, f32)>>,
}

impl Job<'_> {
    fn explain(
        &self,
        pair: &Pair<'_>,
        request_of: &mut Option<(Target, Request)>,
    ) -> Result<Found, CliError> {
        let mut parts = Vec::new();
        let (mut name, mut used) = (String::new(), None);
        let (mut hidden, mut seen) = (None, self.seen.clone());
        if !self.args.mask_region.is_empty() {
            let first = self.named.first().map(|named| &named.explainer);
            let (without, target) = first
                .ok_or_else(|| CliError::new("there is no model", None))?
                .hide_regions(self.seen, &self.args.mask_region)?;
            (hidden, seen) = (Some(target), without);
        }
        for Named { explainer, .. } in self.named {
            let masked = match (self.args.mask.is_empty(), pair.text) {
                (true, _) => None,
                (false, Some(text)) => Some(explainer.hide(text, &self.args.mask)?),
                (false, None) => {
                    return Err(CliError::new(
                        "there is no text to hide a word of",
                        "write the text after the picture".to_owned(),
                    ));
                }
            };
            let target = match &hidden {
                Some(target) => target.clone(),
                None => self.target(explainer, pair, masked.as_ref())?,
            };
            name = self.name_of(&target);
            // The same for all pictures: what was chosen is said once.
            let request = match request_of {
                Some((of, request))
                    if std::mem::discriminant(of) == std::mem::discriminant(&target) =>
                {
                    *request
                }
                _ => {
                    let method = match self.args.method.first() {
                        Some(typed) => method(typed)?,
                        None => usual_method(explainer, &target),
                    };
                    let request = request(self.args, self.model, method)?;
                    *request_of = Some((target.clone(), request));
                    request
                }
            };
            used = Some(request);
            let job = Job {
                args: self.args,
                model: self.model,
                named: self.named,
                seen: &seen,
                canvas: self.canvas,
            };
            parts.push(job.part(explainer, pair, &target, &request, masked.as_ref())?);
        }
        Ok(Found {
            target: name,
            request: used.unwrap_or(Request::new(chiasm_explain::Method::Attention)),
            parts,
        })
    }

    fn target(
        &self,
        explainer: &Explainer<'_>,
        pair: &Pair<'_>,
        masked: Option<&Masked>,
    ) -> Result<Target, CliError> {
        if let Some(masked) = masked {
            return Ok(masked.target.clone());
        }
        let args = self.args;
        let alone = args.image.is_some() && args.text.is_none();
        let asked = asked(
            args.target.as_deref(),
            alone,
            self.model,
            &explainer.subject,
        )?;
        Ok(match asked {
            Asked::Target(target) => target,
            Asked::BestClass => {
                let text = pair.text.unwrap_or_default();
                Target::Class(explainer.best_class(self.seen, text)?)
            }
        })
    }

    fn name_of(&self, target: &Target) -> String {
        let names = match self.model {
            Model::Own(trained) => trained.targets.as_ref().map(chiasm_data::Targets::names),
            Model::Published(_) => None,
        };
        match (target, names) {
            (Target::Class(class), Some(names)) => {
                let name = names.get(*class).map_or("", String::as_str);
                format!("class `{name}`")
            }
            _ => target.name().to_owned(),
        }
    }

    fn part(
        &self,
        explainer: &Explainer<'_>,
        pair: &Pair<'_>,
        target: &Target,
        request: &Request,
        masked: Option<&Masked>,
    ) -> Result<FoundPart, CliError> {
        if let (Some(masked), Some(text)) = (masked, pair.text) {
            let explained = explainer.explain_hidden(self.seen, text, masked, request)?;
            let mut shown = Vec::new();
            for word in &self.args.mask {
                let bytes = words_of_phrase(text, word, None);
                let map = bytes.and_then(|bytes| explained.of_bytes(&bytes));
                shown.push((format!("[{word}]"), None, map));
            }
            return Ok(FoundPart {
                guesses: explainer.guesses(self.seen, masked, GUESSES)?,
                explained,
                shown,
            });
        }
        let each = pair.words.is_empty();
        let explained = explainer.explain(self.seen, pair.text, target, request, each)?;
        let mut shown = Vec::new();
        if each {
            // Of a hidden region it is asked how much each word counts, not where words look.
            let asks_words = matches!(target, Target::HiddenRegions { .. });
            let words = explained.words.iter();
            shown.extend(words.map(|word| {
                let map = word.map.clone().filter(|_| !asks_words);
                (word.text.clone(), word.weight, map)
            }));
        }
        for words in &pair.words {
            let text = pair.text.unwrap_or_default();
            let bytes = words_of_phrase(text, words, None).ok_or_else(|| {
                CliError::new(
                    format!("`{words}` is no word of \"{text}\""),
                    "give whole words of the text".to_owned(),
                )
            })?;
            let weights = explained
                .words
                .iter()
                .filter(|word| word.bytes.start < bytes.end && word.bytes.end > bytes.start);
            let weights: Option<Vec<f32>> = weights.map(|word| word.weight).collect();
            let alone = matches!(target, Target::Match | Target::Cosine);
            let map = match explained.has_tokens() {
                true => explained.of_bytes(&bytes),
                false if alone => Some(explainer.alone(self.seen, words, target, request)?),
                false => None,
            };
            shown.push((words.clone(), weights.map(|all| all.iter().sum()), map));
        }
        Ok(FoundPart {
            explained,
            shown,
            guesses: Vec::new(),
        })
    }

    /// Writes the panel and the JSON of a picture.
    fn write(
        &self,
        pair: &Pair<'_>,
        found: &Found,
        file: &str,
    ) -> Result<(Report, Entry), CliError> {
        let path = |ending: &str| self.args.out.join(format!("{file}.{ending}"));
        let (report, places) = self.report(pair, found, &path("png"));
        let mut tiles = Vec::new();
        let mut parts = Vec::new();
        let title = if super::is_demonstration(self.args) {
            "what is hidden"
        } else if pair.text.is_some() {
            "whole text"
        } else {
            "the picture"
        };
        let whole = found
            .parts
            .iter()
            .map(|part| Some(part.explained.whole.clone()));
        let first = found.parts.first();
        let words = first
            .map_or(&[][..], |part| &part.shown[..])
            .iter()
            .enumerate();
        let mut rows = vec![(title.to_owned(), None, whole.collect::<Vec<_>>())];
        for (place, (word, weight, _)) in words.take(DRAWN) {
            let maps = found
                .parts
                .iter()
                .map(|part| part.shown.get(place)?.2.clone());
            rows.push((word.clone(), *weight, maps.collect()));
        }
        if found.parts.len() == 1 {
            tiles.push(Tile {
                title: "picture".to_owned(),
                note: pair.sample.id.clone(),
                picture: self.canvas.plain(),
            });
        }
        for (word, weight, maps) in rows {
            let mut pictures = Vec::new();
            for (map, named) in maps.iter().zip(self.named) {
                let Some(map) = map else {
                    continue;
                };
                let drawn = self.canvas.draw(map, places);
                let strongest = self.canvas.strongest(map, places);
                let strongest = strongest.unwrap_or_else(|| "nowhere".to_owned());
                let what = match found.parts.len() {
                    1 => String::new(),
                    _ => format!("{}: ", named.name),
                };
                let caption = format!("{word}, {what}strongest at {strongest}");
                tiles.push(Tile {
                    title: word.clone(),
                    note: format!("{what}{strongest}"),
                    picture: drawn.clone(),
                });
                let picture = png(&drawn)?;
                pictures.push(Shown { caption, picture });
            }
            if !pictures.is_empty() || weight.is_some() {
                parts.push(Part {
                    title: word,
                    weight,
                    pictures,
                });
            }
        }
        let columns = if found.parts.len() == 1 { 4 } else { 2 };
        let picture = png(&panel(&tiles, columns))?;
        atomic::write_bytes(&path("png"), &picture)
            .map_err(|error| failed(&path("png"), &error))?;
        let json = serde_json::to_vec_pretty(&report)
            .map_err(|error| CliError::new(format!("cannot write JSON: {error}"), None))?;
        atomic::write_bytes(&path("json"), &json).map_err(|error| failed(&path("json"), &error))?;
        let entry = Entry {
            name: pair.sample.id.clone(),
            text: pair.text.unwrap_or_default().to_owned(),
            facts: facts(&report),
            picture: png(&self.canvas.plain())?,
            parts,
        };
        Ok((report, entry))
    }

    fn report(&self, pair: &Pair<'_>, found: &Found, picture: &Path) -> (Report, Places) {
        let places = found
            .parts
            .first()
            .map_or(Places::Regions(0), |part| part.explained.places);
        let strongest = |map: &[f32]| self.canvas.strongest(map, places);
        let variant = |(part, named): (&FoundPart, &Named<'_>)| Variant {
            attention: named.name.clone(),
            score: part.explained.score,
            region: part.explained.region,
            map: part.explained.whole.clone(),
            strongest: strongest(&part.explained.whole),
            words: part
                .shown
                .iter()
                .map(|(text, weight, map)| WordReport {
                    text: text.clone(),
                    weight: *weight,
                    strongest: map.as_deref().and_then(strongest),
                    map: map.clone(),
                })
                .collect(),
            kept: part.explained.kept.clone(),
            guesses: part.guesses.clone(),
        };
        let (side, frames) = match places {
            Places::Patches { side, frames } => (Some(side), Some(frames)),
            Places::Regions(_) => (None, None),
        };
        let regions = match self.canvas {
            Canvas::Regions { boxes, .. } => {
                boxes.iter().map(|b| [b.x1, b.y1, b.x2, b.y2]).collect()
            }
            _ => Vec::new(),
        };
        let request = found.request;
        let mut method = request.label();
        if matches!(request.method, chiasm_explain::Method::Attention) {
            let layer = request
                .layer
                .map_or("last".to_owned(), |layer| layer.to_string());
            let _ = write!(method, ", layer {layer}, heads {}", request.heads.name());
        }
        let report = Report {
            id: pair.sample.id.clone(),
            text: pair.text.map(str::to_owned),
            method,
            target: found.target.clone(),
            side,
            frames,
            regions,
            variants: found.parts.iter().zip(self.named).map(variant).collect(),
            picture: picture.display().to_string(),
        };
        (report, places)
    }
}

/// Facts of a picture for the page.
fn facts(report: &Report) -> Vec<(String, String)> {
    let mut facts = vec![
        ("explained".to_owned(), report.target.clone()),
        ("method".to_owned(), report.method.clone()),
    ];
    for variant in &report.variants {
        facts.push((variant.attention.clone(), format!("{:.3}", variant.score)));
        if !variant.kept.is_empty() && report.variants.len() > 1 {
            facts.push((format!("{}, kept", variant.attention), kept(&variant.kept)));
        }
        for guesses in &variant.guesses {
            facts.push(("taken for".to_owned(), guessed(guesses)));
        }
    }
    facts
}

/// Share of keys that is kept, head by head.
fn kept(heads: &[f32]) -> String {
    let per_cent = |kept: f32| format!("{:.0} %", 100.0 * kept);
    let least = heads.iter().copied().fold(1.0, f32::min);
    let most = heads.iter().copied().fold(0.0, f32::max);
    if least == most {
        return format!("{} in every head", per_cent(most));
    }
    let heads: Vec<String> = heads.iter().map(|kept| per_cent(*kept)).collect();
    format!("{}, a head each", heads.join(", "))
}

fn guessed(guesses: &[(String, f32)]) -> String {
    let one = |(token, share): &(String, f32)| format!("{token} {:.0} %", 100.0 * share);
    guesses.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// What was found, for those who do not look at pictures.
fn table(reports: &[Report]) -> String {
    let mut table = String::new();
    for report in reports {
        // Writing to a string cannot fail.
        let _ = writeln!(
            table,
            "{}  {}",
            report.id,
            report.text.as_deref().unwrap_or("")
        );
        let _ = writeln!(table, "  {} by {}", report.target, report.method);
        for variant in &report.variants {
            let region = variant
                .region
                .map_or(String::new(), |region| format!(", region {region}"));
            let strongest = variant.strongest.as_deref().unwrap_or("nowhere");
            let _ = writeln!(
                table,
                "  {}: {:.3}{region}, strongest at {strongest}",
                variant.attention, variant.score
            );
            if report.variants.len() > 1 && !variant.kept.is_empty() {
                let _ = writeln!(table, "    kept: {}", kept(&variant.kept));
            }
            for guesses in &variant.guesses {
                let _ = writeln!(table, "    taken for: {}", guessed(guesses));
            }
            for word in &variant.words {
                let weight = word
                    .weight
                    .map_or(String::new(), |weight| format!("{:.0} %", 100.0 * weight));
                let strongest = word.strongest.as_deref().unwrap_or("");
                let _ = writeln!(table, "    {:<20} {weight:>6}  {strongest}", word.text);
            }
        }
        let _ = writeln!(table, "  {}", report.picture);
    }
    table
}

/// A name for the files of a picture: its id without what no file name should hold, and not twice.
fn file_name(id: &str, taken: &mut Vec<String>) -> String {
    let name = Path::new(id);
    // What follows a dot is an ending where it is letters, as in `dog.jpg`, and not in `dog.jpg#0.1`.
    let is_ending = |ending: &std::ffi::OsStr| {
        let ending = ending.to_string_lossy();
        ending.chars().all(char::is_alphabetic)
    };
    let stem = match name.extension().is_some_and(is_ending) {
        true => name.file_stem(),
        false => name.file_name(),
    };
    let stem = stem.map_or(id.into(), |stem| stem.to_string_lossy());
    let plain = |c: char| {
        if c.is_alphanumeric() || "-_#".contains(c) {
            c
        } else {
            '-'
        }
    };
    let stem: String = stem.chars().take(100).map(plain).collect();
    let mut name = stem.clone();
    let mut number = 1;
    while name.is_empty() || taken.contains(&name) {
        number += 1;
        name = format!("{stem}-{number}");
    }
    taken.push(name.clone());
    name
}

fn failed(path: &Path, error: &dyn std::fmt::Display) -> CliError {
    CliError::new(format!("cannot write `{}`: {error}", path.display()), None)
}
