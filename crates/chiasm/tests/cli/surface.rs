//! What the command line says about itself.

use crate::common::succeed;

fn here() -> &'static std::path::Path {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The words themselves are kept in `docs/reference/cli.md`, which `docs/generate --check` compares.
#[test]
fn help_of_every_command_fits_and_explains_every_option() {
    let commands: [&[&str]; 16] = [
        &[],
        &["quickstart"],
        &["pretrain"],
        &["plan"],
        &["eval"],
        &["explain"],
        &["score"],
        &["data", "check"],
        &["data", "audit"],
        &["regions", "extract"],
        &["regions", "inspect"],
        &["new"],
        &["search"],
        &["recipe", "show"],
        &["completions"],
        &["man"],
    ];
    for command in commands {
        let page = succeed(here(), &[command, &["--help"]].concat());
        assert!(page.contains("Usage: chiasm"), "{page}");
        for line in page.lines() {
            assert!(line.chars().count() <= 100, "{command:?}: {line}");
        }
        // The description stands beside an option or, on roomier pages, on the line below it.
        let lines: Vec<&str> = page.lines().collect();
        for pair in lines.windows(2) {
            let option = pair[0].trim();
            if option.starts_with("--") && !option.contains("  ") {
                let below = pair[1].len() - pair[1].trim_start().len();
                assert!(below >= 10, "{command:?}: {option} is not described");
            }
        }
    }
}

#[test]
fn completions_and_manual_know_every_command() {
    let manual = succeed(here(), &["man"]);
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = succeed(here(), &["completions", shell]);
        for command in [
            "quickstart",
            "pretrain",
            "plan",
            "eval",
            "explain",
            "score",
            "check",
            "audit",
            "extract",
            "new",
            "search",
            "schema",
        ] {
            assert!(script.contains(command), "{shell}: {command}");
            assert!(manual.contains(command), "manual: {command}");
        }
    }
}

/// Every built-in recipe can be shown, and what is shown can be read again.
#[test]
fn built_in_recipes_are_sound() {
    let dir = tempfile::tempdir().unwrap();
    for name in succeed(here(), &["recipe", "list"]).lines() {
        let shown = succeed(here(), &["recipe", "show", name]);
        let file = dir.path().join("again.toml");
        std::fs::write(&file, &shown).unwrap();
        assert_eq!(
            succeed(here(), &["recipe", "show", file.to_str().unwrap()]),
            shown,
            "{name}"
        );
    }
    let schema: serde_json::Value =
        serde_json::from_str(&succeed(here(), &["recipe", "schema"])).unwrap();
    assert!(schema["properties"]["schedule"].is_object());
}
