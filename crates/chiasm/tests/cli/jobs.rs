//! Commands that share their work among ranks: what comes out is the same on any number of them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Output;

use chiasm_data::builtin;

use crate::common::{fail, run, succeed, workspace};
use crate::ranks::{BINARY, mpirun, train};

/// A folder with a trained model; the drawings as 1,100 files, one of them damaged; and a table of them.
fn trained() -> tempfile::TempDir {
    let (folder, _) = workspace(20);
    let dir = folder.path();
    succeed(dir, &train("tiny.toml", "run"));
    fs::create_dir(dir.join("many")).unwrap();
    let mut table = String::from("image,caption\n");
    for (number, sample) in builtin::emoji()
        .unwrap()
        .samples
        .iter()
        .take(1100)
        .enumerate()
    {
        let name = format!("many/{number:04}.png");
        let bytes = match number {
            700 => b"no picture".to_vec(),
            _ => sample.visual.sources()[0].read().unwrap().to_vec(),
        };
        fs::write(dir.join(&name), bytes).unwrap();
        table.push_str(&format!("{name},\"{}\"\n", sample.texts[0]));
    }
    fs::write(dir.join("many.csv"), table).unwrap();
    folder
}

/// Runs on so many ranks; `None` where that cannot be done.
fn on(dir: &Path, ranks: usize, args: &[&str]) -> Option<Output> {
    let output = mpirun(dir, ranks)?.arg(BINARY).args(args).output();
    Some(output.unwrap())
}

/// Runs on so many ranks to a success and returns stdout.
fn succeed_on(dir: &Path, ranks: usize, args: &[&str]) -> Option<String> {
    let output = on(dir, ranks, args)?;
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{args:?} failed:\n{errors}");
    Some(String::from_utf8(output.stdout).unwrap())
}

/// The contents of all files below a folder.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        if entry.path().is_dir() {
            let inner = files(&entry.path()).into_iter();
            found.extend(inner.map(|(inner, bytes)| (format!("{name}/{inner}"), bytes)));
        } else {
            found.insert(name, fs::read(entry.path()).unwrap());
        }
    }
    found
}

fn same_files(dir: &Path, one: &str, other: &str) {
    let (one, other) = (files(&dir.join(one)), files(&dir.join(other)));
    let names = |of: &BTreeMap<String, Vec<u8>>| of.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&one), names(&other));
    for (name, bytes) in one {
        assert!(bytes == other[&name], "{name} differs");
    }
}

/// Nothing is left of what ranks share while they work.
fn tidy(dir: &Path) {
    let names = fs::read_dir(dir).unwrap().flatten();
    let mut names = names.map(|entry| entry.file_name().into_string().unwrap());
    assert_eq!(names.find(|name| name.ends_with(".parts")), None);
}

#[test]
fn a_job_that_was_stopped_goes_on_with_what_is_done() {
    let folder = trained();
    let dir = folder.path();
    let rate = ["--max-bad-rate", "0.1"];
    let embed = |out: &'static str| -> Vec<&'static str> {
        [
            &["embed", "run", "--data", "many.csv", "--out", out],
            &rate[..],
        ]
        .concat()
    };
    succeed(dir, &embed("whole.safetensors"));
    tidy(dir);
    // It fails at the very end: a folder is where the file belongs.
    fs::create_dir(dir.join("stopped.safetensors")).unwrap();
    fail(dir, &embed("stopped.safetensors"));
    fs::remove_dir(dir.join("stopped.safetensors")).unwrap();
    let part = dir.join("stopped.parts/pictures/00000002");
    let bytes = fs::read(&part).unwrap();
    // What is done is read, and not believed where it is damaged.
    fs::write(&part, &bytes[1..]).unwrap();
    let error = fail(dir, &embed("stopped.safetensors"));
    assert!(
        error.contains("part 2 of `stopped.parts/pictures` is damaged"),
        "{error}"
    );
    fs::remove_file(&part).unwrap();
    let other = [&["embed", "run", "--out", "stopped.safetensors"], &rate[..]].concat();
    let error = fail(dir, &other);
    assert!(error.contains("holds parts of another job"), "{error}");
    assert!(error.contains("hint:"), "{error}");
    succeed(dir, &embed("stopped.safetensors"));
    tidy(dir);
    let read = |name: &str| fs::read(dir.join(name)).unwrap();
    assert!(read("whole.safetensors") == read("stopped.safetensors"));
}

#[test]
fn what_comes_out_does_not_depend_on_the_number_of_ranks() {
    let folder = trained();
    let dir = folder.path();
    let rate = ["--max-bad-rate", "0.1"];
    // More ranks than parts, too: texts are one.
    for ranks in [2, 4] {
        for (what, args) in [
            ("embed", vec!["embed", "run", "--data", "many.csv"]),
            ("check", vec!["data", "check", "many.csv"]),
        ] {
            let (option, ending) = match what {
                "embed" => ("--out", "safetensors"),
                _ => ("--quarantine", "jsonl"),
            };
            let names = [
                format!("{what}-1.{ending}"),
                format!("{what}-{ranks}.{ending}"),
            ];
            let [one, many] = names.each_ref().map(|out| {
                let out = [option, out.as_str()];
                [args.as_slice(), &out, &rate].concat()
            });
            let Some(said) = succeed_on(dir, ranks, &many) else {
                return;
            };
            assert_eq!(said.replace(&names[1], &names[0]), succeed(dir, &one));
            let [one, many] = names.map(|name| fs::read(dir.join(name)).unwrap());
            assert!(one == many, "{what} on {ranks}");
        }
    }
    let audit = ["data", "audit", "pairs.csv", "many.csv", "--json"];
    assert_eq!(succeed_on(dir, 3, &audit).unwrap(), succeed(dir, &audit));

    // A text for each picture, and half of it is there before the ranks begin.
    let half: Vec<String> = fs::read_to_string(dir.join("many.csv"))
        .unwrap()
        .lines()
        .take(400)
        .map(str::to_owned)
        .collect();
    fs::write(dir.join("half.csv"), half.join("\n")).unwrap();
    for (out, ranks) in [("index-1", 1), ("index-3", 3)] {
        let index = |data: &'static str| {
            [
                "index", data, "--model", "run", "--out", out, "--items", "both",
            ]
        };
        succeed(dir, &index("half.csv"));
        let said = succeed_on(dir, ranks, &index("many.csv")).unwrap();
        assert!(said.contains("2199 items in"), "{said}");
        assert!(
            said.contains(" 1401 added or changed, 798 as they were"),
            "{said}"
        );
        assert!(
            fs::read_to_string(dir.join(out).join("quarantine.jsonl"))
                .unwrap()
                .contains("0700.png")
        );
    }
    let search = |index: &'static str| ["search", index, "a red heart", "--json"];
    assert_eq!(
        succeed(dir, &search("index-1")),
        succeed(dir, &search("index-3"))
    );

    let curate = |out: &'static str| {
        [
            "curate",
            "many.csv",
            "--model",
            "run",
            "--keep",
            "best=50%",
            "--keep",
            "unique=picture",
            "--out",
            out,
        ]
    };
    let one = succeed(dir, &curate("kept-1"));
    let many = succeed_on(dir, 3, &curate("kept-3")).unwrap();
    assert_eq!(many.replace("kept-3", "kept-1"), one);
    for name in ["kept.csv", "dropped.csv"] {
        let [one, many] =
            ["kept-1", "kept-3"].map(|out| fs::read(dir.join(out).join(name)).unwrap());
        assert!(one == many, "{name}");
    }

    let extract = |out: &'static str| {
        [
            "regions",
            "extract",
            "many",
            "--weights-vision",
            "run",
            "--top",
            "4",
            "--out",
            out,
            "--max-bad-rate",
            "0.1",
        ]
    };
    succeed(dir, &extract("regions-1"));
    succeed_on(dir, 3, &extract("regions-3")).unwrap();
    same_files(dir, "regions-1", "regions-3");
    // Nothing is left to do.
    let again = succeed_on(dir, 2, &extract("regions-3")).unwrap();
    assert!(again.starts_with("0 pictures"), "{again}");
    tidy(dir);
}

#[test]
fn a_command_that_shares_nothing_refuses_ranks() {
    let (folder, _) = workspace(5);
    let mut command = crate::common::chiasm(folder.path(), &["plan", "tiny.toml"]);
    let output = command.env("OMPI_COMM_WORLD_SIZE", "3").output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(
        errors.contains("3 ranks of a command that does not share its work"),
        "{errors}"
    );
    assert!(run(folder.path(), &["plan", "tiny.toml"]).status.success());
}
