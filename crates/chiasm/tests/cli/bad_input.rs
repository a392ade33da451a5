//! Bad input ends in a clear error or in the quarantine list, never in a panic.

use std::path::Path;

use crate::common::{TINY, fail, run, succeed, workspace};

fn write(dir: &Path, name: &str, content: impl AsRef<[u8]>) {
    std::fs::write(dir.join(name), content).unwrap();
}

#[test]
fn sources_that_cannot_be_used_say_why() {
    let (dir, _) = workspace(10);
    let dir = dir.path();
    write(dir, "empty.csv", "");
    write(dir, "header.csv", "image,caption\n");
    write(
        dir,
        "wrong.csv",
        "picture_file,words\nphotos/0.png,a face\n",
    );
    write(dir, "notes.docx", "not data");
    for (args, expected) in [
        (vec!["data", "check", "missing.csv"], "missing.csv"),
        (vec!["data", "check", "empty.csv"], "empty.csv"),
        (vec!["data", "check", "header.csv"], "header.csv"),
        (vec!["data", "check", "wrong.csv"], "picture_file"),
        (
            vec!["data", "check", "pairs.csv", "--text-column", "captoin"],
            "caption",
        ),
        (vec!["data", "check", "notes.docx"], "notes.docx"),
        (vec!["pretrain", "no-such-recipe"], "quickstart"),
        (
            vec![
                "pretrain",
                "tiny.toml",
                "--data",
                "missing.csv",
                "--out",
                "r1",
            ],
            "missing.csv",
        ),
        (vec!["eval", "no-run"], "no-run"),
        (vec!["search", "no-run", "cat"], "no-run"),
        (vec!["score", "pairs.csv"], "pairs.csv"),
        (vec!["score", "nothing.safetensors"], "nothing.safetensors"),
        (vec!["eval", "no-run", "--device", "abacus"], "abacus"),
        (vec!["eval", "no-run", "--threads", "0"], "threads"),
    ] {
        let message = fail(dir, &args);
        assert!(message.contains(expected), "{args:?}: {message}");
    }
    let usage = run(dir, &["serch"]);
    assert_eq!(usage.status.code(), Some(2));
}

#[test]
fn recipes_that_cannot_be_used_say_why() {
    let (dir, _) = workspace(10);
    let dir = dir.path();
    for (from, to, expected) in [
        (
            "batch_size = 8",
            "batch_sise = 8",
            "did you mean `batch_size`?",
        ),
        ("batch_size = 8", "batch_size = \"many\"", "batch_size"),
        ("num_heads = 2", "num_heads = 3", "num_heads"),
        ("patch_size = 6", "patch_size = 7", "patch_size"),
        ("steps = 6", "steps = 0", "schedule.steps"),
        (
            "[objectives.global_completion]",
            "[objectives.global_completion]\nimage_drop = 1.0",
            "image_drop",
        ),
    ] {
        assert!(TINY.contains(from));
        write(dir, "bad.toml", TINY.replace(from, to));
        let message = fail(
            dir,
            &[
                "pretrain",
                "bad.toml",
                "--data",
                "pairs.csv",
                "--out",
                "run",
            ],
        );
        assert!(message.contains(expected), "{to}: {message}");
        assert!(!dir.join("run").exists(), "nothing is left behind");
    }
}

/// Good rows train, bad ones are listed with path and reason.
#[test]
fn unusable_rows_go_to_the_quarantine_list() {
    let (dir, csv) = workspace(40);
    let dir = dir.path();
    let picture = std::fs::read(dir.join("photos/0.png")).unwrap();
    write(dir, "photos/cut.png", &picture[..picture.len() / 2]);
    write(dir, "photos/text.png", "this is no picture");
    write(dir, "photos/huge.png", png_header(30_000, 30_000));
    let mut table = std::fs::read(&csv).unwrap();
    for row in [
        "photos/cut.png,cut short,train",
        "photos/text.png,no picture,train",
        "photos/huge.png,too large,train",
        "photos/gone.png,not there,train",
        "photos/1.png,   ,train",
    ] {
        table.extend(row.as_bytes());
        table.push(b'\n');
    }
    table.extend(b"photos/2.png,caf\xe9,train\n");
    let long = "word ".repeat(20_000);
    table.extend(format!("photos/3.png,\"{long}\",train\n").as_bytes());
    table.extend("photos/5.png,🐱🐶,train\n".as_bytes());
    write(dir, "mixed.csv", &table);

    let refused = fail(
        dir,
        &[
            "pretrain",
            "tiny.toml",
            "--data",
            "mixed.csv",
            "--out",
            "run",
        ],
    );
    assert!(refused.contains("--max-bad-rate"), "{refused}");
    let listed = std::fs::read_to_string(dir.join("run/quarantine.jsonl")).unwrap();
    for name in ["cut.png", "text.png", "huge.png", "gone.png"] {
        assert!(listed.contains(name), "{name} is listed: {listed}");
    }
    assert_eq!(listed.lines().count(), 7, "{listed}");

    succeed(
        dir,
        &[
            "pretrain",
            "tiny.toml",
            "--data",
            "mixed.csv",
            "--out",
            "run",
            "--max-bad-rate",
            "0.5",
        ],
    );
}

/// One pixel, one pixel high and very wide, one training picture: odd but valid.
#[test]
fn odd_pictures_are_taken() {
    let (dir, _) = workspace(3);
    let dir = dir.path();
    let mut table = String::from("image,caption,split\n");
    for (name, width) in [("dot.bmp", 1), ("line.bmp", 30_000)] {
        write(dir, name, bmp(width));
        table.push_str(&format!("{name},a {name},train\n"));
    }
    table.push_str("photos/0.png,a face,test\n");
    write(dir, "odd.csv", table);
    succeed(
        dir,
        &["pretrain", "tiny.toml", "--data", "odd.csv", "--out", "run"],
    );
}

/// A grey picture of one row, 24 bits a pixel.
fn bmp(width: u32) -> Vec<u8> {
    let row = (width * 3).div_ceil(4) * 4;
    let mut bytes = Vec::from(*b"BM");
    bytes.extend((54 + row).to_le_bytes());
    bytes.extend([0; 4]);
    bytes.extend(54u32.to_le_bytes());
    bytes.extend(40u32.to_le_bytes());
    bytes.extend(width.to_le_bytes());
    bytes.extend(1u32.to_le_bytes());
    bytes.extend([1, 0, 24, 0]);
    bytes.extend([0; 24]);
    bytes.extend(std::iter::repeat_n(128u8, row as usize));
    bytes
}

/// A PNG that says it is large and holds nothing.
fn png_header(width: u32, height: u32) -> Vec<u8> {
    let mut chunk = Vec::from(*b"IHDR");
    chunk.extend(width.to_be_bytes());
    chunk.extend(height.to_be_bytes());
    chunk.extend([8, 2, 0, 0, 0]);
    let mut crc = 0xffff_ffffu32;
    for byte in &chunk {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 {
                (crc >> 1) ^ 0xedb8_8320
            } else {
                crc >> 1
            };
        }
    }
    let mut bytes = vec![0x89, b'P', b'N', b'G', 0x0d, 0x0a, 0x1a, 0x0a, 0, 0, 0, 13];
    bytes.extend(chunk);
    bytes.extend((!crc).to_be_bytes());
    bytes
}
