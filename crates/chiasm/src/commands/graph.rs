//! `chiasm graph`: scene graphs of captions and pictures, and their score.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use chiasm_data::dataset::{ImageSource, RegionSource};
use chiasm_graph::config::GraphConfig;
use chiasm_graph::image::{ImageGraph, Region, Spatial};
use chiasm_graph::score::{
    Row, ScoreError, evaluate, evaluate_predictions, read_captions, read_rows, render_table,
    write_facts,
};
use chiasm_graph::unified::UnifiedGraph;
use chiasm_graph::vectors::{Similarity, WordVectors, words_of};
use chiasm_graph::{text, vocabulary};
use serde::Serialize;

use crate::cli::{Global, GraphArgs, GraphForm};
use crate::error::CliError;
use crate::output;

pub(crate) fn run(args: &GraphArgs, global: &Global) -> Result<(), CliError> {
    match &args.data {
        Some(data) if args.score => score(args, data, global),
        Some(data) => captions(data),
        None => match &args.regions {
            Some(regions) => picture(args, regions, global),
            None => caption(args, global),
        },
    }
}

fn caption(args: &GraphArgs, global: &Global) -> Result<(), CliError> {
    let graph = text::parse(args.caption.as_deref().unwrap_or_default());
    if global.json {
        return output::json(&graph.document());
    }
    match args.format {
        GraphForm::Text if graph.objects.is_empty() => {
            output::note("no object was found; captions have to be English");
            Ok(())
        }
        GraphForm::Text => {
            output::result(&graph.to_string());
            Ok(())
        }
        GraphForm::Dot => {
            output::result(&graph.to_dot());
            Ok(())
        }
        GraphForm::Tsg => output::json(&graph.to_tsg()),
    }
}

/// The graphs of a picture and of what is said of it.
#[derive(Serialize)]
struct Graphs<'a> {
    picture: &'a ImageGraph,
    /// How regions lie to those beside them: numbers of regions.
    spatial: Vec<(usize, Spatial, usize)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    caption: Option<text::Document<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unified: Option<&'a UnifiedGraph>,
}

fn picture(args: &GraphArgs, regions: &Path, global: &Global) -> Result<(), CliError> {
    let config = GraphConfig::default();
    let picture = read_regions(regions, &config)?;
    let said = args.caption.as_deref().map(text::parse);
    let similarity = match &args.vectors {
        None => Similarity::Lexicon,
        Some(path) => {
            let names = picture.regions.iter().map(|region| region.name.as_str());
            Similarity::Vectors(vectors(path, &words_of(said.iter(), names))?)
        }
    };
    let similarity = |word: &str, name: &str| similarity.of(word, name);
    let unified = said
        .as_ref()
        .map(|said| UnifiedGraph::new(said, &picture, None, &config, similarity));
    if global.json {
        return output::json(&Graphs {
            picture: &picture,
            spatial: picture.spatial(config.iou_edge),
            caption: said.as_ref().map(text::TextGraph::document),
            unified: unified.as_ref(),
        });
    }
    match (args.format, &said, &unified) {
        (GraphForm::Tsg, ..) => {
            return Err(CliError::new(
                "`tsg` holds the graph of a caption alone",
                "leave out `--regions`, or take `--format text`, `dot` or `--json`".to_owned(),
            ));
        }
        (GraphForm::Dot, _, Some(unified)) => output::result(&unified.to_dot()),
        (GraphForm::Dot, ..) => output::result(&picture.to_dot()),
        (GraphForm::Text, Some(said), Some(unified)) => {
            output::result(&format!("{said}\n\n{unified}"));
        }
        (GraphForm::Text, ..) => {
            for (a, how, b) in picture.spatial(config.iou_edge) {
                let (a, b) = (picture.label(a), picture.label(b));
                output::result(&format!("{a} {} {b}", how.name()));
            }
        }
    }
    Ok(())
}

/// Regions of a picture in pixels, named after their classes where these are among the 1,600.
fn read_regions(path: &Path, config: &GraphConfig) -> Result<ImageGraph, CliError> {
    let source = RegionSource::Npz(ImageSource::Path(path.to_owned()));
    let read = chiasm_data::regions::read(&source)?;
    let Some((width, height)) = read.size else {
        return Err(CliError::new(
            format!("{}: the size of the picture is not said", path.display()),
            "add `image_w` and `image_h`".to_owned(),
        ));
    };
    // Corners were single precision; more digits would be noise.
    let pixel = |share: f32, side: u32| f64::from((f64::from(share) * f64::from(side)) as f32);
    let name = |index: usize| {
        let class = read.classes.get(index).copied().unwrap_or(-1);
        let class = usize::try_from(class).ok();
        let name = class.and_then(|class| vocabulary::objects().get(class));
        name.map_or("", vocabulary::Name::name).to_owned()
    };
    let region = |(index, rect): (usize, &chiasm_data::dataset::Rect)| Region {
        corners: [
            pixel(rect.x1, width),
            pixel(rect.y1, height),
            pixel(rect.x2, width),
            pixel(rect.y2, height),
        ],
        name: name(index),
    };
    let regions = read.boxes.iter().enumerate().map(region).collect();
    ImageGraph::new(regions, config.iou_edge)
        .map_err(|error| CliError::new(format!("{}: {error}", path.display()), None))
}

/// Vectors of some words out of a text file.
fn vectors(path: &Path, words: &BTreeSet<String>) -> Result<WordVectors, CliError> {
    let fail = |reason: String| {
        CliError::new(
            format!("{}: {reason}", path.display()),
            "give a text file with a word and its numbers a line, such as GloVe's".to_owned(),
        )
    };
    let file = File::open(path).map_err(|error| fail(error.to_string()))?;
    WordVectors::read(BufReader::new(file), words).map_err(|error| fail(error.to_string()))
}

/// A caption with its graph, as a line.
#[derive(Serialize)]
struct Line<'a> {
    caption: &'a str,
    graph: String,
}

fn captions(data: &Path) -> Result<(), CliError> {
    for caption in open(data, read_captions)? {
        let line = Line {
            caption: &caption,
            graph: write_facts(&text::parse(&caption).facts()),
        };
        let line = serde_json::to_string(&line)
            .map_err(|error| CliError::new(format!("cannot write JSON: {error}"), None))?;
        output::result(&line);
    }
    Ok(())
}

fn score(args: &GraphArgs, data: &Path, global: &Global) -> Result<(), CliError> {
    let rows = read(data)?;
    let report = match &args.predictions {
        Some(path) => evaluate_predictions(&rows, &read(path)?, args.synonyms)
            .map_err(|error| unusable(path, &error))?,
        None => evaluate(&rows, args.synonyms),
    };
    output::report(global, &report, &render_table(&report))
}

fn read(path: &Path) -> Result<Vec<Row>, CliError> {
    open(path, read_rows)
}

fn open<T>(
    path: &Path,
    read: impl FnOnce(BufReader<File>) -> Result<T, ScoreError>,
) -> Result<T, CliError> {
    let file = File::open(path)
        .map_err(|error| CliError::new(format!("cannot open {}: {error}", path.display()), None))?;
    read(BufReader::new(file)).map_err(|error| unusable(path, &error))
}

fn unusable(path: &Path, error: &ScoreError) -> CliError {
    let hint = error.hint().map(str::to_owned);
    CliError::new(format!("{}: {error}", path.display()), hint)
}
