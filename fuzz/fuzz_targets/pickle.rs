//! Any bytes are a pickle or an error, and what was read can be walked by plain recursion.
#![no_main]

use chiasm_format::pickle::{Limits, Value, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(pickle) = parse(data, &Limits::default()) {
        assert!(pickle.len() <= data.len() as u64);
        walk(pickle.root());
    }
});

fn walk(value: Value<'_>) {
    let _ = (value.describe(), value.as_f64(), value.as_i64(), value.as_bytes(), value.array());
    value.items().for_each(walk);
    for (key, value) in value.entries() {
        walk(key);
        walk(value);
    }
}
