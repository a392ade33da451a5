//! `chiasm inspect`: what a checkpoint file or folder holds, from its headers alone.

use std::collections::BTreeMap;
use std::path::Path;

use chiasm_format::archive::{Archive, TensorInfo};
use chiasm_nn::published::family::{Family, recognise};
use chiasm_train::start;
use serde::Serialize;

use crate::cli::{Global, InspectArgs};
use crate::error::CliError;
use crate::output;

#[derive(Serialize)]
struct Report<'a> {
    path: String,
    container: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    family: Option<&'static str>,
    tensors: usize,
    parameters: u64,
    bytes: u64,
    types: BTreeMap<String, usize>,
    also_holds: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    list: Option<Vec<Listed<'a>>>,
}

#[derive(Serialize)]
struct Listed<'a> {
    name: &'a str,
    dtype: String,
    shape: &'a [usize],
}

pub(crate) fn run(args: &InspectArgs, global: &Global) -> Result<(), CliError> {
    let archive = Archive::open(&args.path)?;
    let tensors = archive.tensors();
    let mut types = BTreeMap::new();
    for tensor in tensors {
        *types.entry(tensor.dtype.to_string()).or_default() += 1;
    }
    let report = Report {
        path: args.path.display().to_string(),
        container: archive.kind().to_string(),
        family: family(&args.path, tensors)?,
        tensors: tensors.len(),
        parameters: tensors.iter().map(parameters).sum(),
        bytes: tensors.iter().map(|tensor| tensor.bytes).sum(),
        types,
        also_holds: archive.extras().iter().map(ToString::to_string).collect(),
        list: args.tensors.then(|| tensors.iter().map(listed).collect()),
    };
    if global.json {
        return output::json(&report);
    }
    output::result(&render(&report, tensors));
    Ok(())
}

fn listed(tensor: &TensorInfo) -> Listed<'_> {
    Listed {
        name: &tensor.name,
        dtype: tensor.dtype.to_string(),
        shape: &tensor.shape,
    }
}

/// What the weights are of, from the configuration beside them and from their names.
fn family(path: &Path, tensors: &[TensorInfo]) -> Result<Option<&'static str>, CliError> {
    let config = start::config_beside(path)?;
    let names: Vec<&str> = tensors.iter().map(|tensor| tensor.name.as_str()).collect();
    Ok(recognise(&names, config.as_ref()).map(Family::name))
}

fn parameters(tensor: &TensorInfo) -> u64 {
    tensor.shape.iter().map(|size| *size as u64).product()
}

fn render(report: &Report<'_>, tensors: &[TensorInfo]) -> String {
    let types: Vec<String> = report
        .types
        .iter()
        .map(|(name, count)| format!("{count} {name}"))
        .collect();
    let mut lines = vec![
        format!("checkpoint  {}", report.path),
        format!("container   {}", report.container),
        format!("family      {}", report.family.unwrap_or("not known")),
        format!(
            "tensors     {} ({}), {} values, {:.1} MB",
            report.tensors,
            types.join(", "),
            report.parameters,
            report.bytes as f64 / 1e6
        ),
    ];
    for extra in &report.also_holds {
        lines.push(format!("also holds  {extra}"));
    }
    lines.push(String::new());
    match &report.list {
        Some(list) => lines.extend(
            list.iter()
                .map(|tensor| format!("{:<56} {} {:?}", tensor.name, tensor.dtype, tensor.shape)),
        ),
        None => lines.extend(grouped(tensors)),
    }
    lines.join("\n")
}

/// A line for all tensors whose names differ in their numbers alone: a layer is said once.
fn grouped(tensors: &[TensorInfo]) -> Vec<String> {
    let mut groups: Vec<(String, &TensorInfo, usize)> = Vec::new();
    let mut places: BTreeMap<(String, String, &[usize]), usize> = BTreeMap::new();
    for tensor in tensors {
        let pattern = pattern(&tensor.name);
        let key = (
            pattern.clone(),
            tensor.dtype.to_string(),
            tensor.shape.as_slice(),
        );
        let place = *places.entry(key).or_insert_with(|| {
            groups.push((pattern, tensor, 0));
            groups.len() - 1
        });
        if let Some((_, _, count)) = groups.get_mut(place) {
            *count += 1;
        }
    }
    groups
        .into_iter()
        .map(|(pattern, tensor, count)| {
            // A group of one keeps its own numbers.
            let (name, times) = match count {
                1 => (tensor.name.as_str(), String::new()),
                _ => (pattern.as_str(), format!("  x{count}")),
            };
            format!("{name:<56} {} {:?}{times}", tensor.dtype, tensor.shape)
        })
        .collect()
}

/// The name with every number that is a part of its own as `*`.
fn pattern(name: &str) -> String {
    let parts: Vec<&str> = name
        .split('.')
        .map(
            |part| match part.bytes().all(|byte| byte.is_ascii_digit()) {
                true if !part.is_empty() => "*",
                _ => part,
            },
        )
        .collect();
    parts.join(".")
}
