//! `chiasm quickstart`: the built-in recipe on the built-in drawings, and three searches.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::cli::{Global, QuickstartArgs};
use crate::commands::pretrain::{self, Job, override_schedule};
use crate::commands::recipe;
use crate::error::CliError;
use crate::output::note;
use crate::ranks::RankArgs;

/// Words that are looked for among held-out drawings.
const SEARCHES: [&str; 3] = ["red heart", "woman with dark skin tone", "flag"];

pub(crate) fn run(args: &QuickstartArgs, global: &Global) -> Result<ExitCode, CliError> {
    let mut recipe = recipe::find("quickstart")?;
    override_schedule(&mut recipe, args.seed, args.steps);
    let out = args.out.clone().unwrap_or_else(free_name);
    // `pretrain` goes on with what `quickstart` began: it is the same recipe.
    let resume_command = format!(
        "chiasm pretrain quickstart --seed {} --steps {} --out {} --resume",
        recipe.schedule.seed,
        recipe.schedule.steps,
        out.display()
    );
    let code = pretrain::train(
        &Job {
            recipe,
            out: out.clone(),
            resume: false,
            resume_command,
            searches: SEARCHES.map(str::to_owned).to_vec(),
            ranks: RankArgs::default(),
        },
        global,
    )?;
    if code == ExitCode::SUCCESS {
        note(&format!(
            "\nnext:\n  chiasm search {0} \"your words\"\n  chiasm index --model {0} --out {0}/index\n  \
             chiasm serve --index {0}/index\n  chiasm pretrain quickstart --data YOUR.csv --out runs/mine",
            out.display()
        ));
    }
    Ok(code)
}

/// `runs/quickstart`, or the first of `runs/quickstart-2`, .. that is free.
fn free_name() -> PathBuf {
    let base = Path::new("runs").join("quickstart");
    if !base.exists() {
        return base;
    }
    (2u32..)
        .map(|number| Path::new("runs").join(format!("quickstart-{number}")))
        .find(|path| !path.exists())
        .unwrap_or(base)
}
