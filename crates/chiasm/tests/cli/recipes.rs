//! Every built-in recipe is one that could be run.

use std::path::Path;

use chiasm_train::Recipe;
use chiasm_train::prepare::sized;

use crate::common::{run, succeed};

fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn built_in() -> Vec<String> {
    let list = succeed(here(), &["recipe", "list"]);
    list.lines().map(str::to_owned).collect()
}

/// What is said about the model, before the plan on stdout.
fn dry_run(name: &str) -> String {
    let output = run(here(), &["pretrain", name, "--dry-run"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{name}: {said}");
    let plan = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(plan.contains(&format!("plan of `{name}`")), "{plan}");
    said
}

/// The model of each recipe can be built once its data says how many classes there are, and each file is
/// in the binary.
#[test]
fn every_recipe_makes_a_model() {
    let folder = here().join("../../recipes");
    let mut names = built_in();
    for name in &names {
        let recipe = Recipe::from_file(&folder.join(format!("{name}.toml"))).unwrap();
        assert_eq!(&recipe.name, name);
        let pictures = recipe.model.heads.pictures();
        let model = sized(&recipe, Some(3), pictures);
        model.validate().unwrap();
        let classifies = recipe.objectives.classification.is_some();
        assert_eq!(
            model.heads.classes,
            if classifies { 3 } else { 0 },
            "{name}"
        );
        assert_eq!(model.heads.ranking, recipe.objectives.ranking.is_some());
        assert!(model.fusion.type_rows > pictures, "{name}");
        assert!(model.vision.mask_token || !recipe.objectives.completes_patches());
        assert_eq!(
            model.vision.max_frames > 0,
            name.contains("video") || is_of_clips(name)
        );
    }
    let files = std::fs::read_dir(&folder).unwrap();
    let mut files: Vec<String> = files
        .map(|file| file.unwrap().path())
        .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    files.sort();
    names.sort();
    assert_eq!(files, names);
}

fn is_of_clips(name: &str) -> bool {
    ["scl-msrvtt", "scl-lsmdc"].contains(&name)
}

#[test]
fn tiny_recipes_dry_run() {
    let tiny: Vec<String> = built_in()
        .into_iter()
        .filter(|name| name.contains("tiny") || name == "quickstart")
        .collect();
    assert!(tiny.len() > 8, "{tiny:?}");
    for name in tiny {
        let printed = dry_run(&name);
        assert!(printed.starts_with(&format!("{name}: ")), "{printed}");
        assert!(printed.trim_end().ends_with(" parameters"), "{printed}");
    }
}

/// The parameters of the published model with local completion.
#[test]
fn the_published_size() {
    assert_eq!(
        dry_run("glscl-base"),
        "glscl-base: 359,871,580 parameters\n"
    );
}
