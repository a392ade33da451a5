//! `chiasm graph`: scene graphs of captions, and their score.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use chiasm_graph::score::{
    Row, ScoreError, evaluate, evaluate_predictions, read_captions, read_rows, render_table,
    write_facts,
};
use chiasm_graph::text;
use serde::Serialize;

use crate::cli::{Global, GraphArgs, GraphForm};
use crate::error::CliError;
use crate::output;

pub(crate) fn run(args: &GraphArgs, global: &Global) -> Result<(), CliError> {
    match &args.data {
        Some(data) if args.score => score(args, data, global),
        Some(data) => captions(data),
        None => caption(args, global),
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

/// A caption with its graph, as a line.
#[derive(Serialize)]
struct Line<'a> {
    caption: &'a str,
    graph: String,
}

fn captions(data: &Path) -> Result<(), CliError> {
    for caption in open(data, |reader| read_captions(reader))? {
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
    open(path, |reader| read_rows(reader))
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
