//! Which values of a checkpoint are weights, and what they are called.
//!
//! Dictionaries inside dictionaries give dotted names. What an optimiser keeps is not weights, and
//! neither is anything in a list.

use super::storage::Reference;
use super::{Data, Entry, Extra, MAX_NAME, Strided, TorchFile, damaged};
use crate::error::{FormatError, check_cap, shown};
use crate::pickle::{Global, Value};
use crate::tensor::{Dtype, MAX_RANK};

/// Keys that training scripts put a state dict under, beside other things. The last one is also a plausible
/// name of a module and counts only when nothing else at its level holds tensors.
const WRAPPERS: [&str; 3] = ["state_dict", "model_state_dict", "model"];
/// Keys at the top whose dictionaries are the state of a run, never weights.
const RUN_STATE: [&str; 14] = [
    "optimizer",
    "optimizers",
    "optimizer_states",
    "optimizer_state_dict",
    "optim",
    "scheduler",
    "lr_scheduler",
    "lr_schedulers",
    "scaler",
    "amp",
    "callbacks",
    "loops",
    "hyper_parameters",
    "args",
];
/// Most lines on what is no weight.
const MAX_EXTRAS: usize = 200;

/// Finds the tensors of a file whose storages are known.
pub(super) fn finish(mut file: TorchFile) -> Result<TorchFile, FormatError> {
    let mut found = Found {
        file: &file,
        tensors: Vec::new(),
        extras: Vec::new(),
        more: 0,
    };
    let root = file.pickle.root();
    let wrapper = wrapper(root);
    let unwrapped = wrapper.map(|(key, _)| key.to_owned());
    if let Some((key, weights)) = wrapper {
        for (name, value) in root.entries() {
            let name = name.as_str().unwrap_or_default();
            if name != key {
                found.extra(&name, summary(value));
            }
        }
        found.walk(weights, &mut String::new())?;
    } else {
        found.walk(root, &mut String::new())?;
    }
    let Found {
        tensors,
        mut extras,
        more,
        ..
    } = found;
    if more > 0 {
        extras.push(Extra {
            name: "…".into(),
            what: format!("{more} more"),
        });
    }
    (file.tensors, file.extras, file.unwrapped) = (tensors, extras, unwrapped);
    Ok(file)
}

/// The dictionary that holds the weights, when it is under a key of its own.
fn wrapper(root: Value<'_>) -> Option<(&'static str, Value<'_>)> {
    WRAPPERS.iter().find_map(|key| {
        let value = root.get(key).filter(|value| value.is_dict())?;
        let alone = *key != "model"
            || root.entries().all(|(name, value)| {
                let name = name.as_str().unwrap_or_default();
                name == *key || is_run_state(&name, value) || !holds_tensors(value)
            });
        alone.then_some((*key, value))
    })
}

fn is_optimizer(value: Value<'_>) -> bool {
    value.get("param_groups").is_some_and(Value::is_sequence)
}

fn is_run_state(name: &str, value: Value<'_>) -> bool {
    value.is_dict() && RUN_STATE.contains(&name) || is_optimizer(value)
}

fn holds_tensors(value: Value<'_>) -> bool {
    is_tensor(value) || value.entries().any(|(_, value)| holds_tensors(value))
}

fn is_tensor(value: Value<'_>) -> bool {
    let global = value.as_call().map(|(global, ..)| global);
    matches!(
        global,
        Some(
            Global::Tensor
                | Global::Parameter
                | Global::TensorWithAttributes
                | Global::ArrayShell
                | Global::ArrayFromBuffer
        )
    )
}

/// What stands beside the weights, in a few words.
fn summary(value: Value<'_>) -> String {
    if is_optimizer(value) {
        let groups = value
            .get("param_groups")
            .map_or(0, |groups| groups.items().len());
        let states = value
            .get("state")
            .map_or(0, |state| state.entries().count());
        return format!(
            "an optimiser with {} and {}",
            counted(groups, "parameter group"),
            counted(states, "state")
        );
    }
    if value.is_dict() {
        let tensors = tensors_in(value);
        if tensors > 0 {
            return format!("{}, not taken as weights", counted(tensors, "tensor"));
        }
    }
    if value.is_sequence() {
        let items = value.items();
        let count = items.len();
        let all = count > 0 && items.clone().all(is_optimizer);
        return counted(count, if all { "optimiser" } else { "item" });
    }
    value.describe()
}

fn counted(count: usize, of: &str) -> String {
    format!("{count} {of}{}", if count == 1 { "" } else { "s" })
}

fn tensors_in(value: Value<'_>) -> usize {
    if is_tensor(value) {
        return 1;
    }
    value.entries().map(|(_, value)| tensors_in(value)).sum()
}

struct Found<'a> {
    file: &'a TorchFile,
    tensors: Vec<Entry>,
    extras: Vec<Extra>,
    /// Extras beyond the most that are kept.
    more: usize,
}

impl<'a> Found<'a> {
    fn extra(&mut self, name: &str, what: String) {
        if self.extras.len() < MAX_EXTRAS {
            let name = shown(name);
            self.extras.push(Extra { name, what });
        } else {
            self.more += 1;
        }
    }

    /// Depth and number of steps are bounded by what a pickle may be.
    fn walk(&mut self, value: Value<'a>, path: &mut String) -> Result<(), FormatError> {
        if is_tensor(value) {
            let entry = self.entry(value, path)?;
            self.tensors.push(entry);
            return Ok(());
        }
        let is_state =
            path.is_empty() && is_optimizer(value) || !path.is_empty() && is_run_state(path, value);
        if !value.is_dict() || is_state {
            self.extra(path, summary(value));
            return Ok(());
        }
        for (key, value) in value.entries() {
            let Some(key) = key.as_str() else {
                self.extra(path, format!("an entry under {}", key.describe()));
                continue;
            };
            let parent = path.len();
            check_cap(
                format!("bytes of the name `{}`", shown(&key)),
                (parent + 1 + key.len()) as u64,
                MAX_NAME as u64,
            )?;
            if parent > 0 {
                path.push('.');
            }
            path.push_str(&key);
            self.walk(value, path)?;
            path.truncate(parent);
        }
        Ok(())
    }

    fn entry(&self, value: Value<'a>, name: &str) -> Result<Entry, FormatError> {
        let place = || format!("tensor `{}`", shown(name));
        if let Some(spec) = value.array_spec() {
            let spec = spec.map_err(|error| match error {
                FormatError::Damaged { message, .. } => damaged(place(), message),
                other => other,
            })?;
            return Ok(Entry {
                name: name.to_owned(),
                dtype: spec.dtype,
                shape: spec.shape,
                data: Data::Array(value.id()),
            });
        }
        let unreadable = || damaged(place(), "it is not built as PyTorch builds one");
        let tensor = value
            .as_call()
            .and_then(|(global, args, _)| strided(global, args, 0));
        let tensor = tensor.ok_or_else(unreadable)?;
        let storage = self.file.storages.get(&*tensor.storage.key);
        let storage = storage.ok_or_else(|| damaged(place(), "its storage is not in the file"))?;
        tensor
            .check(storage.len())
            .map_err(|message| damaged(place(), message))?;
        Ok(Entry {
            name: name.to_owned(),
            dtype: tensor.dtype,
            shape: tensor.shape,
            data: Data::Storage {
                key: tensor.storage.key.into_owned(),
                first: tensor.first,
                strides: tensor.strides,
            },
        })
    }
}

/// Arguments of the functions that rebuild a tensor. A parameter is a tensor in a wrapper.
fn strided(global: Global, args: Value<'_>, depth: u32) -> Option<Strided<'_>> {
    match global {
        // (storage, first element, shape, strides, [gradient, hooks, [type]])
        Global::Tensor => {
            let storage = Reference::of(args.item(0)?)?;
            let named = match args.item(6).and_then(Value::as_global) {
                Some(Global::TorchDtype(dtype)) => Some(dtype),
                _ => None,
            };
            let dtype: Dtype = storage.dtype.or(named)?;
            let sizes = |at: usize| -> Option<Vec<usize>> {
                let sizes = args.item(at)?;
                let few = sizes.is_sequence() && sizes.items().len() <= MAX_RANK;
                few.then(|| sizes.items().map(Value::as_usize).collect())?
            };
            let (shape, strides) = (sizes(2)?, sizes(3)?);
            let first = args.item(1)?.as_usize()?.checked_add(storage.first)?;
            (shape.len() == strides.len()).then_some(Strided {
                storage,
                dtype,
                shape,
                strides,
                first,
            })
        }
        Global::Parameter if depth == 0 => {
            let (global, args, _) = args.item(0)?.as_call()?;
            strided(global, args, 1)
        }
        // (function, class, arguments, attributes)
        Global::TensorWithAttributes if depth == 0 => {
            strided(args.item(0)?.as_global()?, args.item(2)?, 1)
        }
        _ => None,
    }
}
