//! `chiasm data answers`: the answer vocabulary of visual questions.

use chiasm_data::Split;
use chiasm_data::answers::{Form, write_vocabulary};
use chiasm_train::recipe::DataConfig;

use crate::cli::{AnswersArgs, Global};
use crate::error::CliError;
use crate::output::{self, note};
use crate::source::open_source;

pub(crate) fn run(args: &AnswersArgs, global: &Global) -> Result<(), CliError> {
    let mut dataset: Option<chiasm_data::Dataset> = None;
    for path in &args.data {
        let mut config = DataConfig::default();
        args.source.apply(Some(path), &mut config);
        let opened = open_source(&config)?;
        if !opened.quarantine.is_empty() {
            let count = opened.quarantine.len();
            note(&format!(
                "{count} questions of {path} cannot be used; `chiasm data check` lists them"
            ));
        }
        match &mut dataset {
            Some(all) => all.samples.extend(opened.dataset.samples),
            None => dataset = Some(opened.dataset),
        }
    }
    let dataset = dataset.unwrap_or_default();
    let form = if args.list { Form::List } else { Form::Maps };
    // What tests are answered with must not shape what can be answered.
    let splits = [Split::Train, Split::Val];
    let report = write_vocabulary(&dataset, &splits, args.least, &args.out, form)?;
    if global.json {
        return output::json(&report);
    }
    output::result(&format!(
        "{} answers of {} different ones, each the most frequent of {} questions or more;\n{} of {} questions can be answered\nvocabulary: {}",
        report.kept,
        report.distinct,
        report.min_count,
        report.answerable,
        report.questions,
        report.file.display()
    ));
    Ok(())
}
