//! Published tokenizer files against the ids that their reference implementation gives.

use chiasm_data::{TextTokenizer, encode_texts};
use serde::Deserialize;

#[derive(Deserialize)]
struct Expected {
    rows: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    text: String,
    input_ids: Vec<i64>,
    tokens: Vec<String>,
    max_length: usize,
    padded_input_ids: Vec<i64>,
    padded_attention_mask: Vec<i64>,
    decoded: String,
}

/// Runs over every case that has a tokenizer, so that new cases are covered without a new test.
#[test]
fn parity_tokenizer_all_cases() {
    let Some(folders) = chiasm_testkit::cases("hf") else {
        return;
    };
    let mut cases = 0;
    for folder in folders {
        let file = folder.join("tokenizer.json");
        let Ok(text) = std::fs::read_to_string(folder.join("tokenization.json")) else {
            continue;
        };
        let expected: Expected = serde_json::from_str(&text).expect("tokenization.json");
        let tokenizer = TextTokenizer::from_file(&file).expect("tokenizer.json");
        cases += 1;
        // The same tokenizer from the files that came before `tokenizer.json`.
        let older = tempfile::tempdir().expect("temporary folder");
        for name in [
            "vocab.txt",
            "vocab.json",
            "merges.txt",
            "tokenizer_config.json",
        ] {
            if let Ok(bytes) = std::fs::read(folder.join(name)) {
                std::fs::write(older.path().join(name), bytes).expect("copy");
            }
        }
        let older = TextTokenizer::from_folder(older.path())
            .expect("vocabulary files")
            .expect("a vocabulary");
        for row in expected.rows {
            let ids = older.encode(&row.text, 1 << 16).ids;
            assert_eq!(ids, row.input_ids, "{}: {:?}", folder.display(), row.text);
            let what = format!("{}: {:?}", folder.display(), row.text);
            let whole = tokenizer.encode(&row.text, 1 << 16);
            assert_eq!(whole.ids, row.input_ids, "{what}");
            let tokens: Vec<String> = whole
                .ids
                .iter()
                .map(|id| tokenizer.token(*id).unwrap())
                .collect();
            assert_eq!(tokens, row.tokens, "{what}");
            // Without spaces: the reference tidies them by rules of English that are no part of the file.
            let solid = |text: &str| text.split_whitespace().collect::<String>();
            assert_eq!(
                solid(&tokenizer.decode(&whole.ids)),
                solid(&row.decoded),
                "{what}"
            );
            let (mut ids, mut mask, len) = encode_texts(&tokenizer, &[&row.text], row.max_length);
            assert!(len <= row.max_length, "{what}");
            ids.resize(row.padded_input_ids.len(), tokenizer.special().pad);
            mask.resize(row.padded_attention_mask.len(), 0);
            assert_eq!(ids, row.padded_input_ids, "{what}");
            assert_eq!(mask, row.padded_attention_mask, "{what}");
        }
    }
    assert!(cases > 0, "no case has a tokenizer");
    println!("{cases} tokenizers");
}
