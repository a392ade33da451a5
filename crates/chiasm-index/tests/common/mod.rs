//! Records and vectors that the tests share.
#![allow(dead_code)]

use std::path::Path;

use chiasm_index::{Identity, Index, Kind, Record, Writer};

pub(crate) fn model(width: usize) -> Identity {
    Identity {
        model: "tiny".to_owned(),
        fingerprint: "5eed".to_owned(),
        width,
    }
}

pub(crate) fn record(key: &str, digest: &str) -> Record {
    let number = key.bytes().map(u64::from).sum::<u64>();
    let metadata = serde_json::json!({"number": number, "split": if number % 3 == 0 { "test" } else { "train" }});
    Record {
        key: key.to_owned(),
        kind: Kind::Text,
        text: format!("what {key} says: \"é\"\n{digest}"),
        source: (number % 2 == 0).then(|| format!("pictures/{key}.jpg")),
        digest: digest.to_owned(),
        metadata: metadata.as_object().unwrap().clone(),
    }
}

/// A stream of numbers between -1 and 1, from a written seed.
pub(crate) fn numbers(seed: u64) -> impl FnMut() -> f32 {
    let mut state = seed;
    move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    }
}

/// `rows` vectors around a tenth as many centres.
pub(crate) fn clustered(seed: u64, rows: usize, width: usize) -> Vec<f32> {
    let mut next = numbers(seed);
    let centres: Vec<f32> = (0..rows.div_ceil(10) * width).map(|_| next()).collect();
    let mut out = Vec::new();
    for row in 0..rows {
        let centre = centres
            .chunks_exact(width)
            .nth(row * 7 % rows.div_ceil(10))
            .unwrap();
        out.extend(centre.iter().map(|value| value + 0.5 * next()));
    }
    out
}

pub(crate) fn fill(folder: &Path, vectors: &[f32], width: usize) -> Writer {
    let mut writer = Index::create(folder, model(width)).unwrap();
    for (row, vector) in vectors.chunks_exact(width).enumerate() {
        writer
            .upsert(&record(&format!("k{row}"), "d"), vector)
            .unwrap();
    }
    writer
}

/// Every record with its vector's bits, by key.
pub(crate) fn content(index: &Index) -> Vec<(Record, Vec<u32>)> {
    let rows = index.live_rows();
    let mut all: Vec<(Record, Vec<u32>)> = rows
        .map(|row| {
            let vector = index.vector(row).unwrap();
            (
                index.record(row).unwrap(),
                vector.iter().map(|value| value.to_bits()).collect(),
            )
        })
        .collect();
    all.sort_by(|a, b| a.0.key.cmp(&b.0.key));
    all
}
