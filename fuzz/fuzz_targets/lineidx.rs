//! Any bytes are a table and its index or an error; rows lie within the table and what is read of one fits
//! together.
#![no_main]

use chiasm_format::lineidx::{LineIndex, parse_row, row_id};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = LineIndex::read(data, data.len() as u64 * 10);
    let index = LineIndex::scan(data).unwrap();
    let mut end = 0;
    for row in 0..index.len() {
        let (offset, len) = index.get(row).unwrap();
        assert_eq!(offset, end);
        end = offset + len;
        let line = &data[offset as usize..end as usize];
        let _ = row_id(line);
        if let Ok(row) = parse_row(line) {
            assert_eq!(row.boxes.len(), row.count);
            assert!(row.count == 0 || row.features.len() % row.count == 0);
        }
    }
    assert_eq!(end, data.len() as u64);
});
