//! `chiasm recipe`: built-in recipes, resolved recipes, the schema.

use std::path::Path;

use chiasm_train::Recipe;

use crate::cli::{RecipeArgs, RecipeCommand};
use crate::error::CliError;
use crate::output;

/// Recipes inside the binary, by name.
const BUILT_IN: &[(&str, &str)] = &[
    (
        "quickstart",
        include_str!("../../../../recipes/quickstart.toml"),
    ),
    (
        "flickr8k-tiny",
        include_str!("../../../../recipes/flickr8k-tiny.toml"),
    ),
    (
        "scl-base",
        include_str!("../../../../recipes/scl-base.toml"),
    ),
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
