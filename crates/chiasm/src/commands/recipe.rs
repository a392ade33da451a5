//! `chiasm recipe`: built-in recipes, resolved recipes, the schema.

use std::path::Path;

use chiasm_train::Recipe;

use crate::cli::{RecipeArgs, RecipeCommand};
use crate::error::CliError;
use crate::output;

/// Names of recipes with their files.
macro_rules! recipes {
    ($($name:literal),+ $(,)?) => {
        &[$(($name, include_str!(concat!("../../../../recipes/", $name, ".toml")))),+]
    };
}

/// Recipes inside the binary, by name.
const BUILT_IN: &[(&str, &str)] = recipes![
    "quickstart",
    "tbkin",
    "tbkin-vqa",
    "tbkin-refcoco",
    "tbkin-refcoco-plus",
    "tbkin-refcocog",
    "tbkin-tiny",
    "tbkin-vqa-tiny",
    "tbkin-ground-tiny",
    "flickr8k-tiny",
    "scl-base",
    "glscl-base",
    "glscl-4m",
    "scl-video",
    "scl-vqa",
    "scl-nlvr2",
    "scl-flickr30k",
    "scl-coco",
    "scl-msrvtt",
    "scl-lsmdc",
    "scl-video-qa",
    "scl-snli-ve",
    "scl-tiny",
    "glscl-tiny",
    "scl-video-tiny",
    "retrieval-tiny",
    "video-retrieval-tiny",
    "vqa-tiny",
    "nlvr-tiny",
    "snli-ve-tiny",
    "itr",
    "itr-clip",
    "itr-visualbert",
    "itr-lxmert",
    "itr-vilt",
    "itr-tiny",
    "itr-towers-tiny",
];

/// A recipe by file or built-in name.
pub(crate) fn find(name: &str) -> Result<Recipe, CliError> {
    if let Some((name, text)) = BUILT_IN.iter().find(|(known, _)| *known == name) {
        return Ok(Recipe::from_toml(text, name)?);
    }
    let path = Path::new(name);
    if !path.exists() {
        return Err(CliError::new(
            format!("there is no recipe file `{name}`, nor a built-in recipe of that name"),
            format!("built-in recipes: {}", names().join(", ")),
        ));
    }
    Ok(Recipe::from_file(path)?)
}

fn names() -> Vec<&'static str> {
    BUILT_IN.iter().map(|(name, _)| *name).collect()
}

pub(crate) fn run(args: &RecipeArgs) -> Result<(), CliError> {
    match &args.command {
        RecipeCommand::List => output::result(&names().join("\n")),
        RecipeCommand::Show { recipe } => output::result(&find(recipe)?.to_toml()?),
        RecipeCommand::Schema => output::result(&Recipe::schema()),
    }
    Ok(())
}
