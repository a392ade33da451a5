//! Any bytes are members of a tar up to the end or an error, and each lies within the file.
#![no_main]

use std::io::Cursor;

use chiasm_format::tar::TarReader;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut reader = TarReader::new(Cursor::new(data)).unwrap();
    let mut end = 0;
    while let Ok(Some(member)) = reader.next_member() {
        assert!(member.header >= end && member.offset > member.header);
        end = member.offset + member.len;
        assert!(end <= data.len() as u64);
        assert_eq!(reader.body(&member, 1 << 20).unwrap().len() as u64, member.len);
    }
});
