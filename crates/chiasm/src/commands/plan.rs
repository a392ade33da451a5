//! `chiasm plan`: what a step of a recipe computes, and what it costs, before any of it is run.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use burn::tensor::{Device, Distribution, Tensor};
use chiasm_nn::config::{ConfigError, VisionConfig};
use chiasm_nn::layers::Init;
use chiasm_nn::vision::VisionEncoder;
use chiasm_nn::{ModelConfig, Tokens, compute};
use chiasm_objective::cost::{self, PassCost, Stream};
use chiasm_objective::plan::Objective;
use chiasm_objective::{Accounting, Memory, PlanCost, PlanSizes};
use chiasm_train::Recipe;
use chiasm_train::prepare::sized;
use serde::Serialize;

use crate::cli::{Global, PlanArgs};
use crate::commands::recipe;
use crate::device;
use crate::error::CliError;
use crate::output::{self, duration, note};

/// Tokens of a text unless it is said: captions of COCO and Flickr have 10 to 14 words.
const TEXT_LEN: usize = 16;
/// Classes of a classifier whose data is not known yet: the answers of VQA v2.
const CLASSES: usize = 3129;
/// Tokens of the measured block, if a batch has as many: enough for all threads.
const PROBE_TOKENS: usize = 4096;
/// How long the block is measured after its first run.
const PROBE_TIME: Duration = Duration::from_millis(700);
/// What a step takes beside the time that its matrix products take in the measured block: embeddings,
/// narrow products, losses, the optimiser. Calibrated in `docs/results/plan.md`.
const REST: f64 = 1.15;

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    recipe: &'a str,
    sizes: PlanSizes,
    accumulate: u64,
    parameters: usize,
    passes: Vec<Row>,
    /// Multiply-adds of an optimiser step, forward and backward.
    step: Totals,
    /// The same where every layer computes all tokens, as published.
    step_of_whole_passes: Totals,
    memory: Memory,
    /// Multiply-adds a second of a transformer block of the recipe's image tower, on this machine.
    rate: f64,
    /// Predicted time of an optimiser step.
    seconds: f64,
}

#[derive(Serialize)]
struct Totals {
    shared: f64,
    unshared: f64,
}

#[derive(Serialize)]
struct Row {
    pass: String,
    objectives: Vec<Objective>,
    sequences: usize,
    text: Stream,
    image: Stream,
    forward: f64,
}

pub(crate) fn run(args: &PlanArgs, global: &Global) -> Result<(), CliError> {
    let recipe = recipe::find(&args.recipe)?.with(&args.set.set)?;
    recipe.validate(&recipe.name)?;
    device::open(global)?;
    let sizes = sizes(&recipe, args.frames, args.text_len)?;
    if global.json {
        return output::json(&report(&recipe, sizes)?);
    }
    output::result(&render(&recipe, sizes)?);
    Ok(())
}

/// The plan of a recipe as a table of at most 80 columns. Measures this machine for a second.
pub(crate) fn render(recipe: &Recipe, sizes: PlanSizes) -> Result<String, CliError> {
    Ok(table(recipe, &report(recipe, sizes)?))
}

/// Sizes of a recipe's micro-batch: as many frames as it says, and texts of 16 tokens, unless others
/// are given.
pub(crate) fn sizes(
    recipe: &Recipe,
    frames: Option<usize>,
    text_len: Option<usize>,
) -> Result<PlanSizes, CliError> {
    let (max_frames, max_len) = (
        recipe.model.vision.max_frames.max(1),
        recipe.model.text.max_text_len,
    );
    let frames = frames.unwrap_or(recipe.data.frames.max(1));
    if !(1..=max_frames).contains(&frames) {
        return Err(CliError::new(
            format!("`--frames {frames}`: the recipe's model takes 1 to {max_frames}"),
            "set `model.vision.max_frames` for clips".to_owned(),
        ));
    }
    let text_len = text_len.unwrap_or(TEXT_LEN.min(max_len));
    if !(3..=max_len).contains(&text_len) {
        return Err(CliError::new(
            format!("`--text-len {text_len}`: the recipe's model takes 3 to {max_len} tokens"),
            "two of them are special".to_owned(),
        ));
    }
    Ok(PlanSizes {
        batch: recipe.schedule.batch_size,
        frames,
        pictures: recipe.model.heads.pictures(),
        text_len: text_len as f64,
        frozen: recipe.weights.frozen_towers(),
        gradient_checkpointing: recipe.schedule.gradient_checkpointing,
    })
}

/// The sizes of a recipe's model as far as they are known without data: the vocabulary of its weights, or
/// the largest that it allows, and the answers of VQA v2 where it has a classifier.
pub(crate) fn model_config(recipe: &Recipe, pictures: usize) -> Result<ModelConfig, CliError> {
    let mut config = sized(recipe, None, pictures);
    if config.text.vocab_size == 0 {
        let of_weights = recipe.weights.vocabulary_rows()?;
        config.text.vocab_size = of_weights.unwrap_or(recipe.tokenizer.vocab_size);
    }
    if recipe.objectives.classification.is_some() && config.heads.classes == 0 {
        config.heads.classes = CLASSES;
    }
    let wrong = |error: ConfigError| CliError::new(error.to_string(), None);
    config.validate().map_err(wrong)?;
    Ok(config)
}

/// How a step is run: pairs of a micro-batch, and whether activations are made again.
#[derive(Clone, Copy)]
struct Cut {
    batch: usize,
    gradient_checkpointing: bool,
}

/// Makes the steps of a recipe hold in so many bytes, with texts of the greatest length. What a step learns from
/// is the same; but in micro-batches, pairs are only compared with those of their own. So where pairs are
/// compared, gradient checkpointing comes before micro-batches, and else it is for what micro-batches cannot do.
pub(crate) fn fit(recipe: &mut Recipe, budget: u64, device: &Device) -> Result<(), CliError> {
    let sizes = sizes(recipe, None, Some(recipe.model.text.max_text_len))?;
    let model = model_config(recipe, sizes.pictures)?;
    let (objectives, schedule) = (&recipe.objectives, &recipe.schedule);
    let (given, times) = (schedule.batch_size, schedule.accumulate);
    let all = given as u64 * times;
    let peak = |cut: Cut| {
        let sizes = PlanSizes {
            batch: cut.batch,
            gradient_checkpointing: cut.gradient_checkpointing,
            ..sizes
        };
        let cost = PlanCost::new(&model, objectives, sizes, Accounting::Read);
        Memory::new(&model, objectives, &cost, all / cut.batch as u64).peak
    };
    // Chunks of pseudo-labels are of whole batches.
    let least = if objectives.cluster.is_some() {
        given
    } else {
        1
    };
    let largest = |gradient_checkpointing| {
        let cuts = (least..=given)
            .rev()
            .filter(|batch| all.is_multiple_of(*batch as u64));
        let cut = |batch| Cut {
            batch,
            gradient_checkpointing,
        };
        cuts.map(cut).find(|cut| peak(*cut) <= budget as f64)
    };
    let kept = match schedule.gradient_checkpointing {
        true => None,
        false => largest(false),
    };
    let is_enough = |cut: &Cut| cut.batch == given || !objectives.compares_pairs();
    let again = match kept.filter(is_enough) {
        Some(_) => None,
        None => largest(true),
    };
    // Of equal size, that which computes nothing twice.
    let larger = |again: &Cut| kept.is_none_or(|kept| again.batch > kept.batch);
    let Some(cut) = again.filter(larger).or(kept) else {
        let of = |gradient_checkpointing| {
            peak(Cut {
                batch: least,
                gradient_checkpointing,
            })
        };
        return Err(CliError::new(
            format!(
                "a step on {} takes {}, more than `--memory` allows",
                match least {
                    1 => "one pair at a time".to_owned(),
                    pairs => format!("{pairs} pairs"),
                },
                bytes(of(true).min(of(false)))
            ),
            "give it more, take smaller pictures or a smaller model, or freeze a tower".to_owned(),
        ));
    };
    let mut said = format!("memory: {} expected at most", bytes(peak(cut)));
    if cut.gradient_checkpointing {
        said.push_str(", with gradient checkpointing");
    }
    let micro = all / cut.batch as u64;
    if cut.batch < given {
        let batch = cut.batch;
        let _ = write!(
            said,
            ", in {micro} micro-batches of {batch} for {all} pairs a step"
        );
        if objectives.compares_pairs() {
            said.push_str("; a pair is compared with those of its micro-batch alone");
        }
    }
    if !compute::is_fused(device) {
        said.push_str("; that is by the fused operations of a CPU, plain ones take more");
    }
    note(&said);
    let schedule = &mut recipe.schedule;
    (schedule.batch_size, schedule.accumulate) = (cut.batch, micro);
    schedule.gradient_checkpointing = cut.gradient_checkpointing;
    Ok(())
}

fn report(recipe: &Recipe, sizes: PlanSizes) -> Result<Report<'_>, CliError> {
    let (objectives, accumulate) = (&recipe.objectives, recipe.schedule.accumulate);
    let model = model_config(recipe, sizes.pictures)?;
    let count = |accounting| PlanCost::new(&model, objectives, sizes, accounting);
    let cost = count(Accounting::Read);
    let of_step = |cost: &PlanCost| Totals {
        shared: accumulate as f64 * cost.shared_step(),
        unshared: accumulate as f64 * cost.unshared_step(),
    };
    let row = |pass: &PassCost| Row {
        pass: pass.pass.to_string(),
        objectives: pass.objectives.clone(),
        sequences: pass.sequences,
        text: pass.text,
        image: pass.image,
        forward: pass.forward,
    };
    let step = of_step(&cost);
    let rate = rate(&model, sizes);
    Ok(Report {
        recipe: &recipe.name,
        sizes,
        accumulate,
        parameters: model.parameters(),
        passes: cost.passes.iter().map(row).collect(),
        seconds: REST * step.shared / rate,
        step,
        step_of_whole_passes: of_step(&count(Accounting::Whole)),
        memory: Memory::new(&model, objectives, &cost, accumulate),
        rate,
    })
}

/// Multiply-adds a second of one block of the image tower, forward and backward, on this machine's CPU.
fn rate(model: &ModelConfig, sizes: PlanSizes) -> f64 {
    let device = Device::flex().autodiff();
    let vision = VisionConfig {
        layers: 1,
        ..model.vision.clone()
    };
    let (patches, width) = (vision.num_patches(), vision.hidden_size);
    let tokens = 1 + vision.registers + patches;
    let images = (PROBE_TOKENS / tokens).clamp(1, sizes.batch * sizes.frames * sizes.pictures);
    let block = VisionEncoder::new(&Init::new(0, model.init_std, &device), &vision);
    let noise = Tensor::random([images, patches, width], Distribution::Default, &device);
    let run = || {
        let patches = Tokens::uniform(noise.clone().require_grad());
        block.encode(&patches).rows.sum().backward()
    };
    run();
    // The fastest run: whatever else the machine does makes the others slower.
    let (start, mut fastest) = (Instant::now(), f64::INFINITY);
    while start.elapsed() < PROBE_TIME || fastest.is_infinite() {
        let begun = Instant::now();
        run();
        fastest = begun.elapsed().as_secs_f64().min(fastest);
    }
    let of_block = cost::block(width, vision.intermediate_size, tokens);
    cost::WITH_BACKWARD * images as f64 * of_block / fastest
}

/// Columns of [`table`].
const COLUMNS: usize = 80;

fn table(recipe: &Recipe, report: &Report<'_>) -> String {
    let PlanSizes {
        batch,
        frames,
        pictures,
        text_len,
        ..
    } = report.sizes;
    let of = |count: usize, one: &str, many: &str| match count {
        1 => format!("1 {one}"),
        count => format!("{count} {many}"),
    };
    let what = match (frames, pictures) {
        (1, pictures) => of(pictures, "picture", "pictures"),
        (frames, _) => of(frames, "frame", "frames"),
    };
    let fused = recipe.objectives.fused_size(batch);
    let mut text = format!(
        "plan of `{}`: {batch} texts of {text_len} tokens with {what} each\n",
        report.recipe
    );
    if fused < batch {
        let _ = writeln!(text, "{fused} of them go through the fusion encoder");
    }
    let enabled = recipe.objectives.enabled();
    let legend: Vec<String> = (1..)
        .zip(&enabled)
        .map(|(number, objective)| format!("{number} {objective}"))
        .collect();
    text.push_str(&wrapped(
        &format!("objectives: {}", legend.join(", ")),
        4,
        4,
    ));
    text.push('\n');

    let total: f64 = report.passes.iter().map(|pass| pass.forward).sum();
    let _ = writeln!(
        text,
        "{:>8}  share  sequences    tokens  for      pass",
        "G"
    );
    for pass in &report.passes {
        let numbers: String = (1..)
            .zip(&enabled)
            .filter(|(_, objective)| pass.objectives.contains(objective))
            .map(|(number, _)| number.to_string())
            .collect();
        let tokens = match (pass.text.tokens, pass.image.tokens) {
            (0.0, 0.0) => "-".to_owned(),
            (0.0, one) | (one, 0.0) => format!("{one:.0}"),
            (text, image) => format!("{text:.0} x {image:.0}"),
        };
        let figures = format!(
            "{:>8}  {:>3.0} %  {:>9}  {tokens:>8}  {numbers:<7}  ",
            giga(pass.forward),
            100.0 * pass.forward / total,
            pass.sequences,
        );
        let indent = figures.chars().count();
        text.push_str(&figures);
        text.push_str(wrapped(&pass.pass, indent, indent).trim_start());
    }
    let _ = writeln!(text, "{:>8}  forward, one batch\n", giga(total));

    let Report {
        step,
        step_of_whole_passes: whole,
        memory,
        ..
    } = report;
    let batches = match report.accumulate {
        1 => String::new(),
        count => format!(" of {count} batches"),
    };
    let mut sentences = vec![format!(
        "{} G multiply-adds a step{batches}, forward and backward, instead of {} G with one set of \
         passes an objective: {:.2} times fewer. With every layer computing all tokens, as \
         published, {} G instead of {} G.",
        giga(step.shared),
        giga(step.unshared),
        step.unshared / step.shared,
        giga(whole.shared),
        giga(whole.unshared),
    )];
    sentences.push(format!(
        "{} at the peak of a step on a CPU: parameters {}, both means of Adam {}, gradients {}, \
         kept for the backward pass {}{}, for a moment {}, pixels {}; gradients take the place of \
         what was kept. Up to {} MB of decoded pictures come on top.",
        bytes(memory.peak),
        bytes(memory.parameters),
        bytes(memory.moments),
        bytes(memory.gradients),
        bytes(memory.kept),
        match report.sizes.gradient_checkpointing {
            true => " with gradient checkpointing",
            false => "",
        },
        bytes(memory.temporary),
        bytes(memory.pixels),
        recipe.data.cache_mb,
    ));
    sentences.push(format!(
        "{} a step at {} G multiply-adds a second, as one block of the image tower runs here on {} \
         threads; {} for {} steps.",
        seconds(report.seconds),
        giga(report.rate),
        rayon::current_num_threads(),
        duration(report.seconds * recipe.schedule.steps as f64),
        recipe.schedule.steps,
    ));
    for sentence in sentences {
        text.push_str(&wrapped(&sentence, 0, 2));
    }
    text
}

/// Words in lines of at most [`COLUMNS`]; the first line starts at column `first`, the others at `rest`.
fn wrapped(text: &str, first: usize, rest: usize) -> String {
    let mut lines = String::new();
    let mut line = " ".repeat(first);
    let mut empty = true;
    for word in text.split_whitespace() {
        if !empty && line.chars().count() + 1 + word.chars().count() > COLUMNS {
            lines.push_str(line.trim_end());
            lines.push('\n');
            line = " ".repeat(rest);
            empty = true;
        }
        if !empty {
            line.push(' ');
        }
        line.push_str(word);
        empty = false;
    }
    lines.push_str(line.trim_end());
    lines.push('\n');
    lines
}

/// Billions with three digits or more.
fn giga(value: f64) -> String {
    let value = value / 1e9;
    match value {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        1.0.. => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

fn bytes(value: f64) -> String {
    match value {
        1e9.. => format!("{:.2} GB", value / 1e9),
        1e7.. => format!("{:.0} MB", value / 1e6),
        _ => format!("{:.1} MB", value / 1e6),
    }
}

fn seconds(value: f64) -> String {
    match value {
        100.0.. => duration(value),
        1.0.. => format!("{value:.1} s"),
        _ => format!("{:.0} ms", 1000.0 * value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_between_words() {
        let text = "word ".repeat(40);
        let lines = wrapped(&text, 60, 2);
        assert!(lines.lines().all(|line| line.chars().count() <= COLUMNS));
        assert_eq!(lines.split_whitespace().count(), 40);
        assert!(
            lines
                .lines()
                .nth(1)
                .is_some_and(|line| line.starts_with("  word"))
        );
    }

    #[test]
    fn numbers_keep_three_digits() {
        assert_eq!(giga(1.234e12), "1234");
        assert_eq!(giga(12.34e9), "12.3");
        assert_eq!(giga(0.012e9), "0.0120");
        assert_eq!(bytes(1.5e9), "1.50 GB");
        assert_eq!(seconds(0.0123), "12 ms");
    }
}
