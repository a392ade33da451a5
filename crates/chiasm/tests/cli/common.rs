//! Runs the binary as a person does, on pictures made for the test.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use chiasm_data::builtin;

/// A recipe that trains in a second.
pub(crate) const TINY: &str = r#"
name = "tiny"
[tokenizer]
vocab_size = 300
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
[model.vision]
image_size = 24
patch_size = 6
hidden_size = 16
layers = 1
num_heads = 2
intermediate_size = 32
[model.fusion]
hidden_size = 16
layers = 1
num_heads = 2
intermediate_size = 32
[objectives.contrastive]
[objectives.matching]
[objectives.mlm]
[objectives.global_completion]
[schedule]
steps = 6
batch_size = 8
eval_every = 3
save_every = 2
[evaluation]
shortlist = 3
"#;

/// The binary with `dir` as its working folder and nothing of the caller's settings.
pub(crate) fn chiasm(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_chiasm"));
    command
        .args(args)
        .current_dir(dir)
        .env_remove("CHIASM_THREADS")
        .env_remove("CHIASM_DEVICE")
        .env("NO_COLOR", "1");
    command
}

/// Runs to the end.
pub(crate) fn run(dir: &Path, args: &[&str]) -> Output {
    chiasm(dir, args).output().expect("the binary starts")
}

/// Runs to a success and returns stdout.
pub(crate) fn succeed(dir: &Path, args: &[&str]) -> String {
    let output = run(dir, args);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{args:?} failed:\n{errors}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Runs to a failure with exit code 1 and returns stderr.
pub(crate) fn fail(dir: &Path, args: &[&str]) -> String {
    let output = run(dir, args);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{args:?}:\n{errors}");
    assert!(!errors.contains("panicked"), "{errors}");
    assert!(errors.contains("error: "), "{errors}");
    errors
}

/// A folder with the tiny recipe, `count` pictures and `pairs.csv` naming them.
pub(crate) fn workspace(count: usize) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("temporary folder");
    std::fs::write(dir.path().join("tiny.toml"), TINY).expect("recipe");
    std::fs::create_dir(dir.path().join("photos")).expect("folder");
    let mut table = String::from("image,caption,split\n");
    for (index, sample) in builtin::emoji()
        .expect("built in")
        .samples
        .iter()
        .take(count)
        .enumerate()
    {
        let name = format!("photos/{index}.png");
        let bytes = sample.visual.sources()[0].read().expect("picture");
        std::fs::write(dir.path().join(&name), bytes).expect("picture");
        let split = ["train", "train", "train", "val", "test"][index % 5];
        table.push_str(&format!("{name},\"{}\",{split}\n", sample.texts[0]));
    }
    let csv = dir.path().join("pairs.csv");
    std::fs::write(&csv, table).expect("table");
    (dir, csv)
}

/// `pairs.csv` with a further column, as `table`; the values go by the number of the pair.
pub(crate) fn with_column(
    dir: &Path,
    table: &str,
    column: &str,
    value: impl Fn(usize) -> &'static str,
) {
    let pairs = std::fs::read_to_string(dir.join("pairs.csv")).expect("table");
    let rows = pairs
        .lines()
        .enumerate()
        .map(|(number, line)| match number {
            0 => format!("{line},{column}\n"),
            number => format!("{line},{}\n", value(number - 1)),
        });
    std::fs::write(dir.join(table), rows.collect::<String>()).expect("table");
}
