//! Writes arrays and archives of them, as NumPy reads them: version 1 of the format, little-endian, the last
//! axis fastest, members stored without compression, because features are close to noise.

use std::io::{Cursor, Write as _};

use half::f16;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipWriter};

use super::{Dtype, Npy, NumpyError, broken, in_member};

/// The largest number of half precision.
pub const LARGEST_HALF: f32 = 65_504.0;

/// Bytes that the elements of an array begin at a multiple of.
const ALIGNMENT: usize = 64;

impl Npy {
    /// An array of single precision.
    pub fn from_f32(shape: &[usize], values: &[f32]) -> Self {
        let data = values.iter().flat_map(|value| value.to_le_bytes());
        Self::of(shape, Dtype::F32, data.collect())
    }

    /// An array of half precision; values are rounded, those beyond its range become infinite.
    pub fn from_f32_as_f16(shape: &[usize], values: &[f32]) -> Self {
        let data = values
            .iter()
            .flat_map(|value| f16::from_f32(*value).to_le_bytes());
        Self::of(shape, Dtype::F16, data.collect())
    }

    /// An array of integers.
    pub fn from_i64(shape: &[usize], values: &[i64]) -> Self {
        let data = values.iter().flat_map(|value| value.to_le_bytes());
        Self::of(shape, Dtype::I64, data.collect())
    }

    /// A single string.
    pub fn from_text(text: &str) -> Self {
        let characters = text.chars().count();
        let data = text
            .chars()
            .flat_map(|character| u32::from(character).to_le_bytes());
        // NumPy has no strings of no width.
        let mut data: Vec<u8> = data.collect();
        data.resize(4 * characters.max(1), 0);
        Self::of(&[], Dtype::Text(characters.max(1)), data)
    }

    fn of(shape: &[usize], dtype: Dtype, data: Vec<u8>) -> Self {
        debug_assert_eq!(shape.iter().product::<usize>() * dtype.size(), data.len());
        Self {
            shape: shape.to_vec(),
            dtype,
            data,
        }
    }

    /// The bytes of a `.npy` file.
    pub fn to_bytes(&self) -> Vec<u8> {
        let axes: Vec<String> = self.shape.iter().map(ToString::to_string).collect();
        let shape = match axes.as_slice() {
            [one] => format!("({one},)"),
            axes => format!("({})", axes.join(", ")),
        };
        let mut header = format!(
            "{{'descr': '{}', 'fortran_order': False, 'shape': {shape}, }}",
            descr(self.dtype)
        );
        const START: usize = 10;
        let end = (START + header.len() + 1).next_multiple_of(ALIGNMENT);
        header.extend(std::iter::repeat_n(' ', end - START - header.len() - 1));
        header.push('\n');
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        // Sixty-four axes of twenty digits stay far below 65,536.
        bytes.extend_from_slice(&(header.len() as u16).to_le_bytes());
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(&self.data);
        bytes
    }
}

/// The bytes of an `.npz` archive. Equal arrays give equal bytes: members carry no clock.
///
/// # Errors
/// If two arrays have one name.
pub fn write_npz(arrays: &[(&str, Npy)]) -> Result<Vec<u8>, NumpyError> {
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Stored)
        .last_modified_time(DateTime::default());
    let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, array) in arrays {
        archive
            .start_file(format!("{name}.npy"), options)
            .map_err(|error| in_member(name, broken(&error)))?;
        archive
            .write_all(&array.to_bytes())
            .map_err(|error| in_member(name, broken(&error.into())))?;
    }
    let bytes = archive.finish().map_err(|error| broken(&error))?;
    Ok(bytes.into_inner())
}

fn descr(dtype: Dtype) -> String {
    match dtype {
        Dtype::Bool => "|b1".to_owned(),
        Dtype::I8 => "|i1".to_owned(),
        Dtype::I16 => "<i2".to_owned(),
        Dtype::I32 => "<i4".to_owned(),
        Dtype::I64 => "<i8".to_owned(),
        Dtype::U8 => "|u1".to_owned(),
        Dtype::U16 => "<u2".to_owned(),
        Dtype::U32 => "<u4".to_owned(),
        Dtype::U64 => "<u8".to_owned(),
        Dtype::F16 => "<f2".to_owned(),
        Dtype::F32 => "<f4".to_owned(),
        Dtype::F64 => "<f8".to_owned(),
        Dtype::Bytes(width) => format!("|S{width}"),
        Dtype::Text(width) => format!("<U{width}"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Npz;
    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_is_written_is_read(
            rows in 0usize..5,
            values in proptest::collection::vec(any::<f32>().prop_filter("a number", |v| !v.is_nan()), 30),
            text in "\\PC{0,12}",
        ) {
            let x = Npy::from_f32(&[rows, 6], &values[..6 * rows]);
            let ids: Vec<i64> = (0..rows as i64).collect();
            let arrays = [
                ("x", x.clone()),
                ("ids", Npy::from_i64(&[rows], &ids)),
                ("count", Npy::from_i64(&[], &[-7])),
                ("name", Npy::from_text(&text)),
            ];
            let bytes = write_npz(&arrays).unwrap();
            prop_assert_eq!(&bytes, &write_npz(&arrays).unwrap());
            let mut npz = Npz::open(Cursor::new(bytes)).unwrap();
            prop_assert_eq!(npz.read("x").unwrap(), x);
            prop_assert_eq!(npz.read("ids").unwrap().to_i64().unwrap(), ids);
            prop_assert_eq!(npz.read("count").unwrap().to_i64().unwrap(), vec![-7]);
            prop_assert_eq!(npz.read("name").unwrap().to_strings().unwrap(), vec![text]);
        }
    }

    #[test]
    fn halves_are_rounded_and_elements_aligned() {
        let array = Npy::from_f32_as_f16(&[3], &[0.1, 65_504.0, -2.0]);
        let bytes = array.to_bytes();
        assert_eq!((bytes.len() - 6) % ALIGNMENT, 0);
        let read = Npy::parse(&bytes).unwrap().to_f32().unwrap();
        assert_eq!(read, [0.099_975_586, 65_504.0, -2.0]);
    }

    #[test]
    fn a_name_is_used_once() {
        let one = || ("x", Npy::from_i64(&[], &[1]));
        assert!(write_npz(&[one(), one()]).is_err());
    }
}
