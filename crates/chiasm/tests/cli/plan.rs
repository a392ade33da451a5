//! `chiasm plan`: what a step costs, before it is run.

use serde_json::Value;

use crate::common::{TINY, fail, run, succeed};

fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("tiny.toml"), TINY).unwrap();
    dir
}

#[test]
fn a_plan_is_a_table_that_fits() {
    let dir = folder();
    let table = succeed(dir.path(), &["plan", "tiny.toml"]);
    for line in table.lines() {
        assert!(line.chars().count() <= 80, "{line}");
    }
    for expected in [
        "plan of `tiny`: 8 texts of 16 tokens",
        "image tower: complete",
        "text tower: corrupted words",
        "head: matching",
        "times fewer",
        "at the peak of a step",
    ] {
        let words = table.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(words.contains(expected), "{expected}: {table}");
    }
}

#[test]
fn the_same_as_json() {
    let dir = folder();
    let plan = |args: &[&str]| -> Value {
        let args = [&["plan", "tiny.toml", "--json"], args].concat();
        serde_json::from_str(&succeed(dir.path(), &args)).unwrap()
    };
    let (short, long) = (plan(&["--text-len", "6"]), plan(&["--text-len", "12"]));
    let number = |plan: &Value, at: &str| plan.pointer(at).and_then(Value::as_f64).unwrap();
    let passes = short["passes"].as_array().unwrap();
    let forward: f64 = passes.iter().map(|pass| number(pass, "/forward")).sum();
    let step = number(&short, "/step/shared");
    assert!((step / (3.0 * forward) - 1.0).abs() < 1e-9);
    assert!(number(&short, "/step/unshared") > step);
    assert!(number(&short, "/step_of_whole_passes/shared") > step);
    for at in ["/step/shared", "/memory/kept", "/memory/peak"] {
        assert!(number(&long, at) > number(&short, at), "{at}");
    }
    for at in ["/rate", "/seconds", "/parameters"] {
        assert!(number(&short, at) > 0.0, "{at}");
    }
}

#[test]
fn sizes_that_the_model_does_not_take_are_refused() {
    let dir = folder();
    for (args, expected) in [
        (["--frames", "2"], "takes 1 to 1"),
        (["--frames", "0"], "takes 1 to 1"),
        (["--text-len", "17"], "takes 3 to 16 tokens"),
        (["--text-len", "2"], "takes 3 to 16 tokens"),
    ] {
        let error = fail(dir.path(), &[&["plan", "tiny.toml"][..], &args].concat());
        assert!(error.contains(expected), "{error}");
    }
}

/// A step is cut until it holds in the memory that it is given, and what cannot be is refused.
#[test]
fn a_step_fits_into_its_memory() {
    let dir = folder();
    let call = "pretrain quickstart --steps 2 --threads 2 --out run";
    let call: Vec<&str> = call.split(' ').collect();
    let with = |memory| [&call[..], &["--memory", memory]].concat();
    let said = run(dir.path(), &with("190M"));
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.contains("micro-batches of"), "{said}");
    assert!(
        said.contains("compared with those of its micro-batch alone"),
        "{said}"
    );
    let recipe = std::fs::read_to_string(dir.path().join("run/recipe.toml")).unwrap();
    let number = |key: &str| -> u64 {
        let line = recipe
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix(" = "));
        line.unwrap().parse().unwrap()
    };
    assert!(said.contains("with gradient checkpointing"), "{said}");
    assert_eq!(number("batch_size") * number("accumulate"), 64);
    assert!(number("accumulate") > 1);
    let error = fail(dir.path(), &with("1K"));
    assert!(
        error.contains("a step on one pair at a time takes"),
        "{error}"
    );
    for memory in ["--memory=much", "--memory=-1", "--memory=0"] {
        let output = run(dir.path(), &[&call[..], &[memory]].concat());
        assert_eq!(output.status.code(), Some(2));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("write a number of bytes"), "{said}");
    }
}

/// Less than a step takes: where pairs are compared the whole batch stays together with gradient checkpointing,
/// and else micro-batches, which compute nothing twice, come first.
#[test]
fn gradient_checkpointing_comes_before_fewer_negatives() {
    let dir = folder();
    let tiny = TINY.replace("batch_size = 8", "batch_size = 64");
    let words = ["contrastive", "matching", "global_completion"]
        .iter()
        .fold(tiny.clone(), |text, name| {
            text.replace(&format!("[objectives.{name}]\n"), "")
        });
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    let peak = |recipe: &str| -> f64 {
        let args = ["plan", recipe, "--text-len", "16", "--json"];
        let plan: Value = serde_json::from_str(&succeed(dir.path(), &args)).unwrap();
        let peak = plan.pointer("/memory/peak").and_then(Value::as_f64);
        peak.unwrap()
    };
    let said = |recipe: &str, budget: f64| {
        let budget = format!("{budget:.0}");
        let args = ["pretrain", recipe, "--memory", &budget, "--dry-run"];
        let output = run(dir.path(), &args);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        said
    };
    for (text, compares) in [(&tiny, true), (&words, false)] {
        let on = text.replace("[schedule]", "[schedule]\ngradient_checkpointing = true");
        write("off.toml", text);
        write("on.toml", &on);
        let (kept, again) = (peak("off.toml"), peak("on.toml"));
        assert!(again < kept, "{again} and {kept}");
        let enough = said("off.toml", kept + 1.0);
        assert!(
            !enough.contains("checkpointing") && !enough.contains("micro"),
            "{enough}"
        );
        let less = said("off.toml", kept - 1e4);
        assert_eq!(
            less.contains("with gradient checkpointing"),
            compares,
            "{less}"
        );
        assert_eq!(less.contains("micro-batches"), !compares, "{less}");
        // What a recipe asks for stays.
        let own = said("on.toml", again + 1.0);
        assert!(own.contains("with gradient checkpointing"), "{own}");
        assert!(!own.contains("micro"), "{own}");
    }
    let typed = [
        "pretrain",
        "tiny.toml",
        "--gradient-checkpointing",
        "--dry-run",
    ];
    let table = succeed(dir.path(), &typed);
    let table = table.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(table.contains("with gradient checkpointing"), "{table}");
}
