//! Any bytes are arrays or an error, and an array has the elements that its shape says.
#![no_main]

use std::io::Cursor;

use chiasm_format::numpy::{Npy, Npz};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(array) = Npy::parse(data) {
        walk(&array);
    }
    let Ok(mut npz) = Npz::open(Cursor::new(data)) else {
        return;
    };
    for name in npz.names().iter().take(100) {
        if let Ok(array) = npz.read(name) {
            walk(&array);
        }
    }
});

fn walk(array: &Npy) {
    let count: usize = array.shape.iter().product();
    assert_eq!(array.data.len(), count * array.dtype.size());
    assert!(array.to_f32().is_none_or(|values| values.len() == count));
    assert!(array.to_i64().is_none_or(|values| values.len() == count));
    assert!(array.to_strings().is_none_or(|values| values.len() == count));
}
