//! A table of numbers of which some rows at a time are read: features that were computed elsewhere.

use std::path::Path;
use std::sync::Arc;

use crate::error::FormatError;
use crate::numpy::{Header, MAX_HEADER_BYTES, Npy};
use crate::safetensors::{Entry, SafetensorsFile};
use crate::source::ByteSource;
use crate::tensor::Tensor;

/// Most bytes of a row.
const MAX_ROW_BYTES: u64 = 16 << 20;

/// An open table of `rows` times `width` numbers, in a NumPy file or a safetensors file.
#[derive(Debug)]
pub struct Matrix {
    source: Arc<ByteSource>,
    /// First byte of the first row.
    start: u64,
    rows: u64,
    width: usize,
    row_bytes: u64,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Numpy(Header),
    Safetensors(Entry),
}

impl Matrix {
    /// Opens a file by its content; `tensor` is the name to look for in a safetensors file.
    ///
    /// # Errors
    /// A file that is neither, has no such tensor, or whose array has not two axes of plain numbers in the
    /// order of rows.
    pub fn open(path: &Path, tensor: &str) -> Result<Self, FormatError> {
        let source = Arc::new(ByteSource::open(path)?);
        let head = source.head(MAX_HEADER_BYTES as u64 + 12)?;
        let opened = match head.starts_with(b"\x93NUMPY") {
            true => Self::numpy(source, &head),
            false if SafetensorsFile::recognises(&head, source.len()) => {
                Self::safetensors(source, tensor)
            }
            false => Err(refused(
                "it is neither a NumPy array nor a safetensors file",
            )),
        };
        opened.map_err(|error| error.in_file(path))
    }

    fn numpy(source: Arc<ByteSource>, head: &[u8]) -> Result<Self, FormatError> {
        let header = Header::parse(head)
            .map_err(|error| FormatError::damaged("NumPy", "its header", error.to_string()))?;
        if header.is_by_column() {
            return Err(refused("its numbers stand column by column"));
        }
        let (start, shape, size) = (
            header.start() as u64,
            header.shape.clone(),
            header.dtype.size(),
        );
        Self::checked(source, start, &shape, size, Kind::Numpy(header))
    }

    fn safetensors(source: Arc<ByteSource>, tensor: &str) -> Result<Self, FormatError> {
        let file = SafetensorsFile::open(Arc::clone(&source))?;
        let entry = file.tensors().iter().find(|entry| entry.name == tensor);
        let entry = entry.ok_or_else(|| refused(&format!("it has no tensor `{tensor}`")))?;
        let start = file.start_of(entry);
        let size = entry.dtype.bitsize() / 8;
        Self::checked(
            source,
            start,
            &entry.shape,
            size,
            Kind::Safetensors(entry.clone()),
        )
    }

    fn checked(
        source: Arc<ByteSource>,
        start: u64,
        shape: &[usize],
        size: usize,
        kind: Kind,
    ) -> Result<Self, FormatError> {
        let [rows, width] = *shape else {
            return Err(refused(&format!(
                "its shape is {shape:?}, not rows and numbers of a row"
            )));
        };
        let row_bytes = (width as u64).checked_mul(size as u64);
        let row_bytes = row_bytes.filter(|bytes| (1..=MAX_ROW_BYTES).contains(bytes));
        let Some(row_bytes) = row_bytes else {
            return Err(refused(&format!("a row has {width} numbers")));
        };
        let rows = rows as u64;
        let end = rows
            .checked_mul(row_bytes)
            .and_then(|bytes| bytes.checked_add(start));
        if end.is_none_or(|end| end > source.len()) {
            return Err(refused(&format!(
                "{rows} rows of {width} numbers do not fit into it"
            )));
        }
        let matrix = Self {
            source,
            start,
            rows,
            width,
            row_bytes,
            kind,
        };
        // A type that is no plain number is told before any work is done.
        if rows > 0 {
            matrix.read(0, 1)?;
        }
        Ok(matrix)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.source.path()
    }

    /// Number of rows.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Numbers of a row.
    #[must_use]
    pub fn width(&self) -> usize {
        self.width
    }

    /// Numbers of at most `count` rows from `first` on, row by row; fewer at the end.
    ///
    /// # Errors
    /// What the system said.
    pub fn read(&self, first: u64, count: usize) -> Result<Vec<f32>, FormatError> {
        let count = self.rows.saturating_sub(first).min(count as u64);
        let data = self.source.read(
            self.start + first.min(self.rows) * self.row_bytes,
            count * self.row_bytes,
        )?;
        let shape = vec![count as usize, self.width];
        match &self.kind {
            Kind::Numpy(header) => {
                let array = Npy {
                    shape,
                    dtype: header.dtype,
                    data: header.little_endian(data),
                };
                array
                    .to_f32()
                    .ok_or_else(|| refused("its elements are no numbers"))
            }
            Kind::Safetensors(entry) => Tensor {
                dtype: entry.dtype,
                shape,
                data,
            }
            .to_f32(),
        }
    }
}

fn refused(reason: &str) -> FormatError {
    FormatError::damaged("table of features", "its header", reason.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::safetensors::{TensorSpec, write_safetensors};
    use crate::tensor::Dtype;
    use std::collections::BTreeMap;

    #[test]
    fn rows_of_both_kinds() {
        let folder = tempfile::tempdir().unwrap();
        let values: Vec<f32> = (0..12).map(|value| value as f32 / 4.0).collect();
        let npy = folder.path().join("a.npy");
        std::fs::write(&npy, Npy::from_f32(&[4, 3], &values).to_bytes()).unwrap();
        let half = folder.path().join("h.npy");
        std::fs::write(&half, Npy::from_f32_as_f16(&[4, 3], &values).to_bytes()).unwrap();
        let tensors = folder.path().join("a.safetensors");
        let spec = TensorSpec {
            name: "image_embeds".to_owned(),
            dtype: Dtype::F32,
            shape: vec![4, 3],
        };
        let bytes: Vec<u8> = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        write_safetensors(&tensors, &[spec], &BTreeMap::new(), |_| Ok(bytes.clone())).unwrap();
        for path in [&npy, &half, &tensors] {
            let matrix = Matrix::open(path, "image_embeds").unwrap();
            assert_eq!((matrix.rows(), matrix.width()), (4, 3));
            assert_eq!(matrix.read(1, 2).unwrap(), values[3..9]);
            assert_eq!(matrix.read(3, 9).unwrap(), values[9..]);
            assert_eq!(matrix.read(7, 9).unwrap(), [0.0; 0]);
        }
        let error = Matrix::open(&tensors, "text_embeds")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("text_embeds") && error.contains("a.safetensors"),
            "{error}"
        );
    }

    #[test]
    fn what_is_no_table_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.npy");
        let good = Npy::from_f32(&[4, 3], &[0.0; 12]).to_bytes();
        let flat = Npy::from_f32(&[12], &[0.0; 12]).to_bytes();
        let text = Npy::from_text("no numbers").to_bytes();
        let empty_rows = Npy::from_f32(&[4, 0], &[]).to_bytes();
        let cases: [&[u8]; 7] = [
            &good[..good.len() - 1],
            &flat,
            &text,
            &empty_rows,
            b"",
            b"hello",
            &good[..20],
        ];
        for bytes in cases {
            std::fs::write(&path, bytes).unwrap();
            assert!(Matrix::open(&path, "x").is_err(), "{} bytes", bytes.len());
        }
    }
}
