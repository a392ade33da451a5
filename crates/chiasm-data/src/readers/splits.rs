//! Splits that stand in a file of their own, beside a source that has none or other ones.
//!
//! A table with the columns `id` and `split`, a line a sample; other columns are for people. The
//! source stays as it is, whatever its format.

use std::collections::HashMap;
use std::path::Path;

use super::parse_split;
use crate::dataset::{Dataset, Split};
use crate::error::DataError;

/// Puts the splits of a file over those of a data set. A sample that the file does not name keeps its
/// own.
///
/// # Errors
/// If the file cannot be read, lacks a column, names no split or none of the samples.
pub(super) fn apply(path: &Path, dataset: &mut Dataset) -> Result<(), DataError> {
    let failed = |location: String, message: String| DataError::Parse {
        path: path.to_owned(),
        location,
        message,
    };
    let broken = |error: &csv::Error| {
        let line = error.position().map_or(0, csv::Position::line);
        failed(format!("line {line}"), error.to_string())
    };
    let file = std::fs::File::open(path).map_err(|source| DataError::io(path, source))?;
    let mut table = csv::Reader::from_reader(std::io::BufReader::new(file));
    let header = table.headers().map_err(|error| broken(&error))?;
    let column = |name: &str| {
        let mut names = header
            .iter()
            .map(|name| name.trim_start_matches('\u{FEFF}'));
        names
            .position(|other| other.trim().eq_ignore_ascii_case(name))
            .ok_or_else(|| failed("line 1".to_owned(), format!("there is no `{name}` column")))
    };
    let (id, split) = (column("id")?, column("split")?);
    let mut splits: HashMap<String, Split> = HashMap::new();
    for row in table.records() {
        let row = row.map_err(|error| broken(&error))?;
        let line = row.position().map_or(0, csv::Position::line);
        let cell = |column: usize| row.get(column).unwrap_or_default();
        let split =
            parse_split(cell(split)).map_err(|message| failed(format!("line {line}"), message))?;
        splits.insert(cell(id).to_owned(), split);
    }
    let mut matched = 0;
    for sample in &mut dataset.samples {
        if let Some(split) = splits.get(&sample.id) {
            sample.split = *split;
            matched += 1;
        }
    }
    if matched == 0 {
        return Err(failed(
            "its `id` column".to_owned(),
            format!("none of its {} ids is in `{}`", splits.len(), dataset.name),
        ));
    }
    Ok(())
}
