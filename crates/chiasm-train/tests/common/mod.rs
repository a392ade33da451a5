//! Runs a trainer in a folder, stopped and resumed, and reads what it left.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use burn::tensor::Device;
use chiasm_data::{Split, builtin};
use chiasm_train::prepare::tokenizer;
use chiasm_train::run::RunDir;
use chiasm_train::{
    Observer, Outcome, Recipe, StepRecord, TrainData, TrainError, Trainer, checkpoint,
};

/// Sizes of a model that trains in moments.
pub(crate) const MODEL: &str = r#"
[tokenizer]
vocab_size = 500
[augment]
crop = [0.7, 1.0]
flip = 0.5
[model]
projection_size = 16
init_std = 0.1
[model.text]
hidden_size = 16
layers = 1
num_heads = 2
intermediate_size = 32
max_text_len = 16
dropout = 0.1
[model.fusion]
hidden_size = 16
layers = 1
num_heads = 2
intermediate_size = 32
dropout = 0.1
[model.vision]
image_size = 24
patch_size = 6
hidden_size = 16
layers = 1
num_heads = 2
intermediate_size = 32
"#;

/// A trainer of a recipe on the built-in drawings.
#[allow(dead_code, reason = "not every test learns from these")]
pub(crate) fn on_drawings(recipe: &str) -> Result<Trainer, TrainError> {
    let recipe = Recipe::from_toml(recipe, "test")?;
    let drawings = builtin::emoji()?.subset(Split::Train);
    let data = TrainData::new(&recipe, vec![drawings])?;
    let tokenizer = Arc::new(tokenizer(&recipe, &data)?);
    Trainer::new(recipe, &data, tokenizer, &Device::flex())
}

/// Keeps what every step did, and asks for a stop after some.
struct Watch<'a> {
    stop_after: u64,
    stop: &'a AtomicBool,
    records: Vec<StepRecord>,
}

impl Observer for Watch<'_> {
    fn step(&mut self, record: &StepRecord) {
        self.records.push(record.clone());
        if record.step >= self.stop_after {
            self.stop.store(true, Ordering::Relaxed);
        }
    }
}

/// Trains in a folder, from the newest checkpoint there where it is to `resume`.
pub(crate) fn train(
    trainer: &mut Trainer,
    dir: &Path,
    stop_after: u64,
    resume: bool,
) -> (Outcome, Vec<StepRecord>) {
    let mut run = RunDir::open(dir, resume).unwrap();
    if resume {
        let (checkpoint, damaged) = checkpoint::latest(&run.checkpoints()).unwrap();
        assert!(damaged.is_empty());
        trainer.restore(&checkpoint).unwrap();
    }
    let stop = AtomicBool::new(false);
    let mut watch = Watch {
        stop_after,
        stop: &stop,
        records: Vec::new(),
    };
    let outcome = trainer.run(&mut run, &mut watch, &stop).unwrap();
    (outcome, watch.records)
}

/// Hash of every file of the newest checkpoint.
#[allow(dead_code, reason = "not every test compares files")]
pub(crate) fn bytes(dir: &Path) -> Vec<(String, blake3::Hash)> {
    let newest = checkpoint::list(&dir.join("checkpoints"))
        .unwrap()
        .remove(0);
    let mut files: Vec<_> = std::fs::read_dir(newest)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, blake3::hash(&std::fs::read(path).unwrap()))
        })
        .collect();
    files.sort_by(|a, b| a.0.cmp(&b.0));
    files
}
