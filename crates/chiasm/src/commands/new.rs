//! `chiasm new`: from one's own data to a recipe that runs.
//!
//! Says what was found and why it was taken so, makes splits that part no group where there are
//! none, chooses sizes from the data, and ends with the next command to type. The data stays as it
//! is: splits go into a file beside the recipe.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use chiasm_data::audit::{OverlapCounts, audit};
use chiasm_data::grouping::{Grouping, group, write_splits};
use chiasm_data::readers::{Role, choose_columns};
use chiasm_data::{
    DataError, Dataset, Split, SplitCount, TextTokenizer, TokenizerKind, atomic, builtin,
};
use chiasm_eval::score::{grouped, percent};
use chiasm_train::Recipe;
use chiasm_train::recipe::DataConfig;
use serde::Serialize;

use crate::cli::{Global, NewArgs, TaskArg};
use crate::commands::audit::traces;
use crate::commands::data;
use crate::commands::pretrain::quoted;
use crate::error::CliError;
use crate::output;
use crate::source::{Checked, open_and_check};

/// Share of unusable samples above which there is something to repair first.
const MAX_BAD_RATE: f64 = 0.2;

/// Training pairs below which the smallest model is enough, and a CPU too.
const FEW_PAIRS: usize = 20_000;

/// Texts that token lengths are measured on.
const MEASURED_TEXTS: usize = 20_000;

/// Share of texts with "left" or "right" above which pictures are not mirrored.
const MAX_SIDED: f64 = 0.01;

#[derive(Serialize)]
struct Column {
    role: &'static str,
    name: String,
    why: String,
}

#[derive(Serialize)]
struct Report {
    source: String,
    format: &'static str,
    task: &'static str,
    columns: Vec<Column>,
    image_root: Option<PathBuf>,
    total: usize,
    usable: usize,
    quarantine_file: Option<PathBuf>,
    summary: chiasm_data::check::Summary,
    splits: BTreeMap<String, SplitCount>,
    /// The file of splits that were made; `None` where the data has its own.
    splits_file: Option<PathBuf>,
    sizes: Sizes,
    recipe: PathBuf,
    next: String,
}

pub(crate) fn run(args: &NewArgs, global: &Global) -> Result<(), CliError> {
    let mut config = DataConfig::default();
    args.source.apply(Some(&args.from), &mut config);
    let columns = if builtin::is_builtin(&args.from) {
        Vec::new()
    } else {
        inspect(&args.from, &mut config)?
    };
    let out = match &args.out {
        Some(out) => out.clone(),
        None => PathBuf::from(name_of(&args.from)),
    };
    let recipe_file = out.join("recipe.toml");
    if recipe_file.exists() {
        return Err(CliError::new(
            format!("`{}` exists already", recipe_file.display()),
            "name another folder with `--out`, or remove it".to_owned(),
        ));
    }
    let mut checked = open_and_check(&config)?;
    std::fs::create_dir_all(&out).map_err(|error| {
        CliError::new(format!("cannot create `{}`: {error}", out.display()), None)
    })?;
    let quarantine_file = set_aside(&checked, &out, &mut config)?;

    let splits_file = out.join("splits.csv");
    let divided = divide(&mut checked, &splits_file, args.resplit)?;
    let train = checked.dataset.subset(Split::Train);
    if train.is_empty() {
        return Err(CliError::new(
            format!("{} has no `train` samples", args.from),
            "`--resplit` makes new splits".to_owned(),
        ));
    }
    let made_splits = matches!(divided, Divided::Made(_));
    if made_splits {
        config.splits = Some(splits_file.clone());
    }
    let sizes = Sizes::choose(&train, &checked)?;
    let task = Task::choose(args.task, &train)?;
    let text = recipe_text(
        &out,
        &absolute(config.clone())?,
        &recipe_file,
        &sizes,
        &task,
    )?;
    // What is written here has to be what `pretrain` reads.
    Recipe::from_toml(&text, &recipe_file.display().to_string())?;
    atomic::write_bytes(&recipe_file, text.as_bytes()).map_err(|error| {
        CliError::new(
            format!("cannot write `{}`: {error}", recipe_file.display()),
            None,
        )
    })?;
    let report = Report {
        source: args.from.clone(),
        format: checked.format,
        task: task.describe(),
        columns,
        image_root: config.image_root,
        total: checked.total,
        usable: checked.dataset.len(),
        quarantine_file,
        summary: checked.summary.clone(),
        splits: checked
            .dataset
            .counts()
            .into_iter()
            .map(|(split, count)| (split.to_string(), count))
            .collect(),
        splits_file: made_splits.then_some(splits_file),
        sizes,
        next: format!(
            "chiasm pretrain {}",
            quoted(&recipe_file.display().to_string())
        ),
        recipe: recipe_file,
    };
    if global.json {
        return output::json(&report);
    }
    output::result(&table(&report, &checked, &divided));
    Ok(())
}

/// Which columns hold what; what the names do not say is put into the settings.
fn inspect(source: &str, config: &mut DataConfig) -> Result<Vec<Column>, CliError> {
    let mut options = config.options();
    let columns = choose_columns(Path::new(source), &mut options)?;
    config.image_column = options.image_column;
    config.text_column = options.text_column;
    config.split_column = options.split_column;
    config.image_root = options.image_root;
    Ok(columns
        .into_iter()
        .map(|column| Column {
            role: Role::as_str(column.role),
            name: column.name,
            why: column.why,
        })
        .collect())
}

/// Lists what cannot be used, and lets the recipe go on without it where that is little.
fn set_aside(
    checked: &Checked,
    out: &Path,
    config: &mut DataConfig,
) -> Result<Option<PathBuf>, CliError> {
    let bad = checked.quarantine.len();
    if bad == 0 {
        return Ok(None);
    }
    let file = out.join("quarantine.jsonl");
    checked.quarantine.write_jsonl(&file)?;
    let allowed = config.max_bad_rate.max(MAX_BAD_RATE);
    chiasm_data::enforce_rate(bad, checked.total, allowed, Some(&file))?;
    let rate = bad as f64 / checked.total.max(1) as f64;
    if rate > config.max_bad_rate {
        // Rounded up to a tenth of a per cent: the same data must pass, twice as bad must not.
        config.max_bad_rate = (rate * 1000.0).ceil() / 1000.0;
    }
    Ok(Some(file))
}

/// How the data came to its splits.
enum Divided {
    /// It had them; what of the held-out samples is in training.
    Own(OverlapCounts),
    /// They were made so that no group is parted.
    Made(Grouping),
}

/// Takes the data's own splits, or makes some and writes them.
fn divide(checked: &mut Checked, file: &Path, resplit: bool) -> Result<Divided, CliError> {
    let samples = &checked.dataset.samples;
    // Readers give samples without a split one by the hash of their group.
    let is_own = |sample: &chiasm_data::Sample| sample.split != Split::by_hash(sample.group());
    let several = checked.dataset.counts().len() > 1;
    if !resplit && several && samples.iter().any(is_own) {
        let training = traces(checked, &[Split::Train]);
        let mut held_out = traces(checked, &[]);
        let is_training: Vec<bool> = samples
            .iter()
            .map(|sample| sample.split == Split::Train)
            .collect();
        let mut keep = is_training.iter();
        held_out.retain(|_| keep.next() == Some(&false));
        let counts = OverlapCounts::of(&audit(&training, &held_out));
        return Ok(Divided::Own(counts));
    }
    let grouping = group(&checked.dataset, &checked.prints);
    let splits = grouping.splits(&checked.dataset);
    write_splits(file, &checked.dataset, &splits, &grouping)?;
    for (sample, split) in checked.dataset.samples.iter_mut().zip(splits) {
        sample.split = split;
    }
    Ok(Divided::Made(grouping))
}

/// Questions below which every answer is a class, and above which rare ones are left out, as is done
/// with VQA v2's.
const MANY_QUESTIONS: usize = 100_000;

/// What the model is for.
enum Task {
    Retrieval,
    /// How often an answer must be the most frequent one, and whether several people answered each.
    Answers {
        min_count: usize,
        several: bool,
    },
    Labels,
}

impl Task {
    /// What was asked for, or what nearly all training samples are good for.
    fn choose(asked: TaskArg, train: &Dataset) -> Result<Self, CliError> {
        let samples = &train.samples;
        let share = |has: fn(&chiasm_data::Sample) -> bool| {
            samples.iter().filter(|sample| has(sample)).count() as f64 / samples.len() as f64
        };
        let answers = share(|sample| !sample.annotations.answers.is_empty());
        let labels = share(|sample| sample.annotations.label.is_some());
        let several = share(|sample| {
            let given = sample.annotations.answers.iter();
            given.map(|answer| answer.count).sum::<u32>() > 1
        });
        let task = match asked {
            TaskArg::Answers => Some(answers),
            TaskArg::Labels => Some(labels),
            TaskArg::Auto | TaskArg::Retrieval => None,
        };
        if task == Some(0.0) {
            return Err(CliError::new(
                "no training sample has what the task needs",
                "name the column with `--answer-column` or `--label-column`".to_owned(),
            ));
        }
        Ok(match asked {
            TaskArg::Answers => Self::answers(samples.len(), several),
            TaskArg::Auto if answers > 0.9 => Self::answers(samples.len(), several),
            TaskArg::Labels => Self::Labels,
            TaskArg::Auto if labels > 0.9 => Self::Labels,
            TaskArg::Auto | TaskArg::Retrieval => Self::Retrieval,
        })
    }

    fn answers(questions: usize, several: f64) -> Self {
        Self::Answers {
            min_count: if questions < MANY_QUESTIONS { 1 } else { 9 },
            several: several > 0.5,
        }
    }

    fn describe(&self) -> &'static str {
        match self {
            Self::Retrieval => "retrieval: find pictures by words, and words by pictures",
            Self::Answers { .. } => "answers to questions about pictures",
            Self::Labels => "the label of a text with its picture or pictures",
        }
    }

    /// The tables of objectives.
    fn objectives(&self) -> String {
        match self {
            Self::Retrieval => "[objectives.contrastive]

# Take the next line in, and set evaluation.shortlist = 20, to have the best hits re-ranked.
# [objectives.matching]
"
            .to_owned(),
            Self::Answers { min_count, several } => format!(
                "[objectives.classification]
classes = \"answers\"
# `binary` where several people answered each question, and several answers are right to a degree.
loss = \"{}\"
# Questions that an answer must be the most frequent one of to be one that the model can give.
min_count = {min_count}
",
                if *several { "binary" } else { "cross_entropy" }
            ),
            Self::Labels => "[objectives.classification]
classes = \"labels\"
"
            .to_owned(),
        }
    }
}

/// Sizes of model and run, from the data.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Sizes {
    /// Texts of training pictures.
    pairs: usize,
    /// Token length that 99 % of the texts do not exceed, both ends included.
    tokens_99: usize,
    max_text_len: usize,
    vocab_size: usize,
    image_size: usize,
    hidden_size: usize,
    heads: usize,
    batch_size: usize,
    steps: u64,
    flip: f32,
}

impl Sizes {
    fn choose(train: &Dataset, checked: &Checked) -> Result<Self, CliError> {
        let texts: Vec<&str> = train
            .samples
            .iter()
            .flat_map(|sample| sample.texts.iter().map(String::as_str))
            .collect();
        let pairs = texts.len();
        let vocab_size = match pairs {
            0..5_000 => 2048,
            5_000..50_000 => 4096,
            _ => 8192,
        };
        let measured: Vec<&str> = texts
            .iter()
            .step_by(pairs.div_ceil(MEASURED_TEXTS).max(1))
            .copied()
            .collect();
        let tokens_99 = token_length(&measured, vocab_size)?;
        let is_sided = |text: &&&str| {
            let mut words = text.split(|c: char| !c.is_alphanumeric());
            words.any(|word| {
                ["left", "right"]
                    .iter()
                    .any(|side| word.eq_ignore_ascii_case(side))
            })
        };
        let sided = measured.iter().filter(is_sided).count();
        let few = pairs < FEW_PAIRS;
        let side = checked
            .summary
            .width
            .median
            .min(checked.summary.height.median);
        // Negatives of the contrastive loss come from the batch: as large as the data fills twice.
        let batch_size = [64, 32, 16, 8, 4]
            .into_iter()
            .find(|size| train.len() >= 2 * size)
            .unwrap_or(2);
        let steps = match few {
            true => (20 * pairs).div_ceil(batch_size).clamp(200, 1600),
            // Minutes rather than hours on two cores; the recipe says how to go on.
            false => 2000,
        };
        Ok(Self {
            pairs,
            tokens_99,
            max_text_len: tokens_99.next_multiple_of(4).clamp(8, 128),
            vocab_size,
            image_size: if few && side < 96 { 72 } else { 96 },
            hidden_size: if few { 128 } else { 192 },
            heads: if few { 4 } else { 6 },
            batch_size,
            steps: steps as u64,
            flip: if sided as f64 > MAX_SIDED * measured.len() as f64 {
                0.0
            } else {
                0.5
            },
        })
    }
}

/// The length in tokens that 99 % of the texts do not exceed, by a tokenizer such as the run will
/// train.
fn token_length(texts: &[&str], vocab_size: usize) -> Result<usize, CliError> {
    let tokenizer =
        TextTokenizer::train(texts.iter().copied(), TokenizerKind::WordPiece, vocab_size)
            .map_err(DataError::from)?;
    let mut lengths: Vec<usize> = texts
        .iter()
        .map(|text| tokenizer.encode(text, 512).ids.len())
        .collect();
    lengths.sort_unstable();
    let place = (lengths.len() * 99).div_ceil(100).saturating_sub(1);
    Ok(lengths.get(place).copied().unwrap_or(2))
}

/// The last part of a path without its extension, in characters that a folder can have.
fn name_of(source: &str) -> String {
    let stem = Path::new(source).file_stem().unwrap_or_default();
    let plain = |c: char| {
        if c.is_alphanumeric() || "-_.".contains(c) {
            c
        } else {
            '-'
        }
    };
    let name: String = stem.to_string_lossy().chars().map(plain).collect();
    match name.trim_matches(['.', '-']) {
        "" => "mine".to_owned(),
        name => name.to_owned(),
    }
}

/// The same settings with paths that hold wherever the recipe is run from.
fn absolute(mut config: DataConfig) -> Result<DataConfig, CliError> {
    let whole = |path: &Path| {
        std::path::absolute(path).map_err(|error| {
            CliError::new(format!("cannot find `{}`: {error}", path.display()), None)
        })
    };
    if !builtin::is_builtin(&config.source) {
        config.source = whole(Path::new(&config.source))?.display().to_string();
    }
    let paths = [
        &mut config.annotations,
        &mut config.image_root,
        &mut config.splits,
    ];
    for path in paths.into_iter().flatten() {
        *path = whole(path)?;
    }
    Ok(config)
}

/// A string of TOML. Its basic strings have the escapes of JSON's.
fn string(text: &str) -> Result<String, CliError> {
    serde_json::to_string(text)
        .map(|text| text.replace('\u{7f}', "\\u007f"))
        .map_err(|error| CliError::new(format!("cannot write `{text}`: {error}"), None))
}

fn recipe_text(
    out: &Path,
    config: &DataConfig,
    file: &Path,
    sizes: &Sizes,
    task: &Task,
) -> Result<String, CliError> {
    let mut source = String::new();
    let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
    for (key, value) in [
        ("source", Some(config.source.clone())),
        ("format", config.format.clone()),
        ("annotations", path(&config.annotations)),
        ("image_column", config.image_column.clone()),
        ("text_column", config.text_column.clone()),
        ("split_column", config.split_column.clone()),
        ("answer_column", config.answer_column.clone()),
        ("label_column", config.label_column.clone()),
        ("ocr_column", config.ocr_column.clone()),
        ("caption_column", config.caption_column.clone()),
        ("author_column", config.author_column.clone()),
        ("represented_column", config.represented_column.clone()),
        ("adds_column", config.adds_column.clone()),
        ("image_root", path(&config.image_root)),
        ("splits", path(&config.splits)),
    ] {
        if let Some(value) = value {
            // Writing to a string cannot fail.
            let _ = writeln!(source, "{key} = {}", string(&value)?);
        }
    }
    let Sizes {
        pairs,
        tokens_99,
        max_text_len,
        vocab_size,
        image_size,
        hidden_size,
        heads,
        batch_size,
        steps,
        flip,
    } = sizes;
    let name = string(&name_of(&out.display().to_string()))?;
    let command = quoted(&file.display().to_string());
    let rate = config.max_bad_rate;
    let intermediate = 4 * hidden_size;
    let every = (steps / 4).max(1);
    let mirror = if *flip > 0.0 {
        "Few texts say \"left\" or \"right\", so half of the pictures are mirrored."
    } else {
        "Texts say \"left\" or \"right\", so no picture is mirrored."
    };
    Ok(format!(
        "# chiasm pretrain {command}
#
# Written by `chiasm new` for {pairs} training pairs of picture and text. `chiasm recipe show`
# prints every key with its default; `chiasm recipe schema` describes them.
name = {name}

[data]
{source}# Share of unusable samples above which a run stops.
max_bad_rate = {rate}

[tokenizer]
# Trained on the training texts. For a published one: file = \"tokenizer.json\"
algorithm = \"word_piece\"
vocab_size = {vocab_size}

[augment]
# Share of the picture that a random crop keeps. Raise the first number where small things matter.
crop = [0.8, 1.0]
# {mirror}
flip = {flip:.1}

[model]
init_std = 0.08
projection_size = {hidden_size}

[model.text]
hidden_size = {hidden_size}
layers = 3
num_heads = {heads}
intermediate_size = {intermediate}
# 99 of 100 texts have at most {tokens_99} tokens; what is longer loses its end.
max_text_len = {max_text_len}
dropout = 0.0

[model.vision]
# Side in pixels, a multiple of patch_size. Twice the side takes more than four times as long.
image_size = {image_size}
patch_size = 12
hidden_size = {hidden_size}
layers = 4
num_heads = {heads}
intermediate_size = {intermediate}

[model.fusion]
hidden_size = {hidden_size}
layers = 1
num_heads = {heads}
intermediate_size = {intermediate}
dropout = 0.0

{objectives}
[optimizer]
learning_rate = 1e-3
weight_decay = 0.05

[schedule]
# About {epochs} passes over the training pairs. More helps until recall on `val` falls.
steps = {steps}
# Wrong answers to learn from are the others of a batch: larger is better, and slower.
batch_size = {batch_size}
eval_every = {every}
save_every = {every}
seed = 0

[evaluation]
shortlist = 0
",
        objectives = task.objectives(),
        epochs = (*steps * *batch_size as u64).div_ceil((*pairs).max(1) as u64),
    ))
}

fn table(report: &Report, checked: &Checked, divided: &Divided) -> String {
    let mut lines = vec![format!("source      {}", report.source)];
    let mut label = "columns";
    for Column { role, name, why } in &report.columns {
        lines.push(format!("{label:<12}{role}: `{name}`, {why}"));
        label = "";
    }
    if let Some(root) = &report.image_root {
        lines.push(format!("pictures    in {}", root.display()));
    }
    lines.extend(data::findings(checked));
    if let Some(file) = &report.quarantine_file {
        lines.push(format!(
            "unusable    {} of {} samples, listed in {}",
            grouped(checked.quarantine.len()),
            grouped(report.total),
            file.display()
        ));
        lines.extend(checked.quarantine.entries.iter().take(3).map(data::refusal));
    }
    lines.push(String::new());
    lines.extend(match divided {
        Divided::Own(counts) => own_splits(counts, checked),
        Divided::Made(grouping) => made_splits(grouping, report),
    });
    let sizes = &report.sizes;
    lines.extend([
        format!("task        {}", report.task),
        format!(
            "model       {} px pictures, {} tokens a text (99 % have at most {}), width {}",
            sizes.image_size, sizes.max_text_len, sizes.tokens_99, sizes.hidden_size
        ),
        format!(
            "training    {} steps of {} pairs, of {} pairs",
            grouped(sizes.steps as usize),
            sizes.batch_size,
            grouped(sizes.pairs)
        ),
        format!("recipe      {}", report.recipe.display()),
        String::new(),
        "next:".to_owned(),
        format!("  {}", report.next),
    ]);
    lines.join("\n")
}

fn own_splits(counts: &OverlapCounts, checked: &Checked) -> Vec<String> {
    let held_out = checked.dataset.len() - checked.dataset.subset(Split::Train).len();
    let mut lines = vec!["splits      the data's own".to_owned()];
    if counts.pictures() == 0 {
        lines.push(format!(
            "            none of the {} held-out pictures is also in training",
            grouped(held_out)
        ));
    } else {
        lines.push(format!(
            "            {} of {} held-out pictures ({}) are also in training;",
            grouped(counts.pictures()),
            grouped(held_out),
            percent(counts.pictures() as f64 / held_out.max(1) as f64)
        ));
        lines.push("            figures will carry a mark; `--resplit` parts none".to_owned());
    }
    lines
}

fn made_splits(grouping: &Grouping, report: &Report) -> Vec<String> {
    let parts: Vec<String> = ["train", "val", "test"]
        .iter()
        .filter_map(|name| {
            Some(format!(
                "{} {name}",
                grouped(report.splits.get(*name)?.images)
            ))
        })
        .collect();
    let mut lines = vec![format!("splits      made: {} samples", parts.join(", "))];
    if grouping.groups < report.usable {
        lines.push(format!(
            "            {} groups stay whole, the largest of {}; samples joined by",
            grouped(grouping.groups),
            grouped(grouping.largest)
        ));
        let why = [
            (grouping.by_source, "the data"),
            (grouping.by_author, "author"),
            (grouping.by_bytes, "same bytes"),
            (grouping.by_look, "same look"),
            (grouping.by_id, "numbered ids"),
        ];
        let why: Vec<String> = why
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, why)| format!("{why} {}", grouped(*count)))
            .collect();
        lines.push(format!("            {}", why.join(", ")));
    }
    if let Some(file) = &report.splits_file {
        lines.push(format!(
            "            in {}, which can be edited",
            file.display()
        ));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_folders() {
        for (source, expected) in [
            ("a/My Photos.csv", "My-Photos"),
            ("../data/", "data"),
            ("..", "mine"),
            ("builtin:emoji", "builtin-emoji"),
        ] {
            assert_eq!(name_of(source), expected);
        }
    }

    #[test]
    fn strings_of_a_recipe_are_read_back() {
        for odd in ["a\"b\\c", "C:\\x\ty", "é\u{7f}\u{1}", ""] {
            let line = format!(
                "name = {}\n[objectives.contrastive]\n",
                string(odd).unwrap()
            );
            assert_eq!(Recipe::from_toml(&line, "r").unwrap().name, odd);
        }
    }
}
