//! Any bytes are a weight file or an error; what is read is finite and no more than was there.
#![no_main]

use chiasm_format::darknet::Darknet;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(read) = Darknet::parse(data) {
        assert!(16 + 4 * read.values.len() <= data.len());
        assert!(read.values.iter().all(|value| value.is_finite()));
    }
});
