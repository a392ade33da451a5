//! Any bytes are an Arrow table or an error, and every cell of a batch can be asked for.
#![no_main]

use chiasm_format::ByteSource;
use chiasm_format::arrow::Table;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(mut table) = Table::new(ByteSource::from_memory("fuzz", data)) else {
        return;
    };
    let wanted: Vec<usize> = (0..table.names().len()).collect();
    let mut budget = 1 << 20;
    while let Ok(Some(batch)) = table.next(&wanted, &mut budget) {
        for column in &batch.columns {
            for row in 0..batch.rows.min(64) {
                let _ = column.value(row);
            }
        }
    }
});
