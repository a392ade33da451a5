//! Any bytes are a picture or an error; a picture has as many values as its size says.
#![no_main]

use chiasm_data::{AlphaRule, Limits, decode};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let limits = Limits {
        max_pixels: 1 << 20,
        ..Limits::default()
    };
    if let Ok(picture) = decode(data, &limits, true, AlphaRule::OverWhite) {
        assert_eq!(picture.data.len(), 3 * picture.width * picture.height);
    }
});
