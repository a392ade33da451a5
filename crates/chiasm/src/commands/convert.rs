//! `chiasm convert`: weights of any readable form as a clean Hugging Face folder.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use chiasm_data::{TextTokenizer, atomic};
use chiasm_format::{Archive, Dtype, TensorInfo, TensorSpec, write_safetensors};
use chiasm_nn::published::convert::{Converted, Source};
use chiasm_nn::weights::LoadReport;
use chiasm_train::checkpoint::{CONFIG_FILE, MODEL_FILE, PREPROCESSOR_FILE, TOKENIZER_FILE};
use chiasm_train::start;
use serde::Serialize;

use crate::cli::{ConvertArgs, Global};
use crate::commands::eval;
use crate::device;
use crate::error::CliError;
use crate::output;

/// What is copied from beside the weights when it is there.
const BESIDE: [&str; 3] = [
    PREPROCESSOR_FILE,
    "tokenizer_config.json",
    "special_tokens_map.json",
];

#[derive(Serialize)]
struct Report {
    input: String,
    output: String,
    family: String,
    tensors: usize,
    files: BTreeSet<String>,
    report: LoadReport,
}

pub(crate) fn run(args: &ConvertArgs, global: &Global) -> Result<(), CliError> {
    let out = &args.output;
    let occupied = std::fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_some());
    if occupied {
        return Err(CliError::new(
            format!("{} is not empty", out.display()),
            "name a new folder".to_owned(),
        ));
    }
    let input = match args.input.join("checkpoints").is_dir() {
        true => eval::usable(&args.input, args.checkpoint)?.path,
        false => args.input.clone(),
    };
    let device = device::open(global)?;
    let config = start::config_beside(&input)?;
    let archive = Archive::open(&input)?;
    let converted = Converted::plan(&archive, config.as_ref(), &device)
        .map_err(|error| CliError::new(format!("{}: {error}", input.display()), None))?;
    std::fs::create_dir_all(out).map_err(cannot_write(out))?;
    write_weights(&out.join(MODEL_FILE), &archive, &converted)?;
    let mut files = BTreeSet::from([MODEL_FILE.to_owned()]);
    let config = serde_json::to_string_pretty(&converted.config)
        .map_err(|error| CliError::new(format!("cannot write JSON: {error}"), None))?;
    write(out, CONFIG_FILE, config.as_bytes(), &mut files)?;
    let beside = start::folder_of(&input);
    if let Some(tokenizer) = TextTokenizer::from_folder(beside)? {
        let json = tokenizer
            .to_json()
            .map_err(|error| CliError::new(error.to_string(), error.hint()))?;
        write(out, TOKENIZER_FILE, json.as_bytes(), &mut files)?;
    }
    for name in BESIDE {
        if let Ok(bytes) = std::fs::read(beside.join(name)) {
            write(out, name, &bytes, &mut files)?;
        }
    }
    if !files.contains(PREPROCESSOR_FILE)
        && let Some(preprocess) = &converted.preprocess
    {
        let json = preprocess.to_hf_json().to_string();
        write(out, PREPROCESSOR_FILE, json.as_bytes(), &mut files)?;
    }
    let report = Report {
        input: args.input.display().to_string(),
        output: out.display().to_string(),
        family: converted.family.to_owned(),
        tensors: converted.tensors.len(),
        files,
        report: converted.report,
    };
    if global.json {
        return output::json(&report);
    }
    output::result(&render(&report));
    Ok(())
}

/// Tensor by tensor: what is only renamed keeps its type.
fn write_weights(path: &Path, archive: &Archive, converted: &Converted) -> Result<(), CliError> {
    let infos: BTreeMap<&str, &TensorInfo> = archive
        .tensors()
        .iter()
        .map(|info| (info.name.as_str(), info))
        .collect();
    let spec = |(name, source): (&String, &Source)| {
        let (dtype, shape) = match source {
            Source::Stored(old) => {
                let info = infos.get(old.as_str())?;
                (info.dtype, info.shape.clone())
            }
            Source::Computed(tensor) => (Dtype::F32, tensor.shape.clone()),
        };
        Some(TensorSpec {
            name: name.clone(),
            dtype,
            shape,
        })
    };
    let specs: Vec<TensorSpec> = converted.tensors.iter().filter_map(spec).collect();
    // What other programs look for to know how the tensors lie.
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    write_safetensors(path, &specs, &metadata, |spec| {
        Ok(match converted.tensors.get(&spec.name) {
            Some(Source::Stored(old)) => archive.read(old)?.data,
            Some(Source::Computed(tensor)) => tensor
                .values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect(),
            None => Vec::new(),
        })
    })?;
    Ok(())
}

fn write(
    folder: &Path,
    name: &str,
    bytes: &[u8],
    files: &mut BTreeSet<String>,
) -> Result<(), CliError> {
    let path = folder.join(name);
    atomic::write_bytes(&path, bytes).map_err(cannot_write(&path))?;
    files.insert(name.to_owned());
    Ok(())
}

fn cannot_write(path: &Path) -> impl FnOnce(std::io::Error) -> CliError {
    move |error| CliError::new(format!("cannot write `{}`: {error}", path.display()), None)
}

fn render(report: &Report) -> String {
    let files: Vec<&str> = report.files.iter().map(String::as_str).collect();
    let mut lines = vec![
        format!("{} from {}", report.family, report.input),
        format!(
            "{} tensors in {}: {}",
            report.tensors,
            report.output,
            files.join(", ")
        ),
    ];
    let load = &report.report;
    for (what, names) in [
        ("missing", &load.missing),
        ("unexpected", &load.unexpected),
        ("left out", &load.ignored),
    ] {
        lines.push(match names.len() {
            0 => format!("{what:<11} 0"),
            count => format!("{what:<11} {count}: {}", shortened(names)),
        });
    }
    lines.join("\n")
}

/// The first names of a list.
fn shortened(names: &[String]) -> String {
    const SHOWN: usize = 3;
    let first: Vec<&str> = names.iter().take(SHOWN).map(String::as_str).collect();
    match names.len().saturating_sub(SHOWN) {
        0 => first.join(", "),
        more => format!("{}, and {more} more", first.join(", ")),
    }
}
