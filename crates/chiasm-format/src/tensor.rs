//! A tensor on the host, and how its elements become numbers.

pub use safetensors::Dtype;

use half::{bf16, f16};

use crate::error::FormatError;

/// Most axes of a tensor or an array.
pub const MAX_RANK: usize = 16;

/// A tensor in memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Type of the elements.
    pub dtype: Dtype,
    /// Sizes of the axes; empty for a single number.
    pub shape: Vec<usize>,
    /// Elements, last axis fastest, least byte first.
    pub data: Vec<u8>,
}

impl Tensor {
    /// Elements as f32.
    ///
    /// Exact from bool, u8, i8, u16, i16, f16, bf16 and f32. Rounded to the nearest from f64 and from
    /// whole numbers of 32 and 64 bits, which are exact up to 2^24.
    ///
    /// # Errors
    /// An element type that is no plain number (complex, 8 bits and fewer).
    pub fn to_f32(&self) -> Result<Vec<f32>, FormatError> {
        let data = &*self.data;
        Ok(match self.dtype {
            Dtype::F32 => each(data, f32::from_le_bytes),
            Dtype::F16 => each(data, |bytes| f16::from_le_bytes(bytes).to_f32()),
            Dtype::BF16 => each(data, |bytes| bf16::from_le_bytes(bytes).to_f32()),
            Dtype::F64 => each(data, |bytes| f64::from_le_bytes(bytes) as f32),
            Dtype::BOOL => each(data, |[byte]| f32::from(u8::from(byte != 0))),
            Dtype::U8 => each(data, |[byte]| f32::from(byte)),
            Dtype::I8 => each(data, |bytes| f32::from(i8::from_le_bytes(bytes))),
            Dtype::U16 => each(data, |bytes| f32::from(u16::from_le_bytes(bytes))),
            Dtype::I16 => each(data, |bytes| f32::from(i16::from_le_bytes(bytes))),
            Dtype::U32 => each(data, |bytes| u32::from_le_bytes(bytes) as f32),
            Dtype::I32 => each(data, |bytes| i32::from_le_bytes(bytes) as f32),
            Dtype::U64 => each(data, |bytes| u64::from_le_bytes(bytes) as f32),
            Dtype::I64 => each(data, |bytes| i64::from_le_bytes(bytes) as f32),
            other => return Err(no_number(other)),
        })
    }

    /// Elements as f64: exact from everything but whole numbers of 64 bits beyond 2^53.
    ///
    /// # Errors
    /// As for [`Tensor::to_f32`].
    pub fn to_f64(&self) -> Result<Vec<f64>, FormatError> {
        let data = &*self.data;
        Ok(match self.dtype {
            Dtype::F64 => each(data, f64::from_le_bytes),
            Dtype::U32 => each(data, |bytes| u32::from_le_bytes(bytes).into()),
            Dtype::I32 => each(data, |bytes| i32::from_le_bytes(bytes).into()),
            Dtype::U64 => each(data, |bytes| u64::from_le_bytes(bytes) as f64),
            Dtype::I64 => each(data, |bytes| i64::from_le_bytes(bytes) as f64),
            // The rest is exact in f32.
            _ => self.to_f32()?.into_iter().map(f64::from).collect(),
        })
    }

    /// Whole numbers as i64, exact.
    ///
    /// # Errors
    /// An element type that is not whole; u64, whose upper half does not fit.
    pub fn to_i64(&self) -> Result<Vec<i64>, FormatError> {
        let data = &*self.data;
        Ok(match self.dtype {
            Dtype::BOOL => each(data, |[byte]| i64::from(byte != 0)),
            Dtype::U8 => each(data, |[byte]| byte.into()),
            Dtype::I8 => each(data, |bytes| i8::from_le_bytes(bytes).into()),
            Dtype::U16 => each(data, |bytes| u16::from_le_bytes(bytes).into()),
            Dtype::I16 => each(data, |bytes| i16::from_le_bytes(bytes).into()),
            Dtype::U32 => each(data, |bytes| u32::from_le_bytes(bytes).into()),
            Dtype::I32 => each(data, |bytes| i32::from_le_bytes(bytes).into()),
            Dtype::I64 => each(data, i64::from_le_bytes),
            other => {
                return Err(FormatError::Unsupported {
                    what: format!("elements of type {other} are no whole numbers"),
                    hint: "save it as int64",
                });
            }
        })
    }
}

fn no_number(dtype: Dtype) -> FormatError {
    FormatError::Unsupported {
        what: format!("elements of type {dtype} cannot become f32"),
        hint: "save the tensor as float32",
    }
}

fn each<T, const N: usize>(data: &[u8], number: impl Fn([u8; N]) -> T) -> Vec<T> {
    let (elements, _) = data.as_chunks();
    elements.iter().map(|element| number(*element)).collect()
}

/// Number of elements, when it is a number.
pub(crate) fn count(shape: &[usize]) -> Option<usize> {
    if shape.contains(&0) {
        return Some(0);
    }
    shape
        .iter()
        .try_fold(1, |count: usize, size| count.checked_mul(*size))
}

/// Number of bytes of a dense tensor; `None` when there is no such number or it is not whole.
pub(crate) fn byte_count(dtype: Dtype, shape: &[usize]) -> Option<u64> {
    let bits = (count(shape)? as u64).checked_mul(dtype.bitsize() as u64)?;
    bits.is_multiple_of(8).then_some(bits / 8)
}

/// Distances between neighbours along each axis when the last axis is fastest, in elements.
pub(crate) fn dense_strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    let mut distance = 1_usize;
    for (stride, size) in strides.iter_mut().zip(shape).rev() {
        *stride = distance;
        distance = distance.saturating_mul(*size);
    }
    strides
}

/// Elements from the first to the last that a strided tensor touches, which is none when it is empty;
/// `None` when there is no such number.
pub(crate) fn extent(shape: &[usize], strides: &[usize]) -> Option<usize> {
    if shape.contains(&0) {
        return Some(0);
    }
    let mut axes = shape.iter().zip(strides);
    axes.try_fold(1_usize, |extent, (size, stride)| {
        extent.checked_add((size - 1).checked_mul(*stride)?)
    })
}

/// True when a strided tensor lies as a dense one would.
pub(crate) fn is_dense(shape: &[usize], strides: &[usize]) -> bool {
    // The stride of an axis of one element is never used.
    let dense = dense_strides(shape);
    let axes = shape.iter().zip(strides.iter().zip(dense));
    shape.contains(&0)
        || axes
            .into_iter()
            .all(|(size, (stride, dense))| *size == 1 || *stride == dense)
}

/// Copies a strided tensor into a dense one. `data` begins at its first element and holds its extent.
pub(crate) fn gather(data: &[u8], size: usize, shape: &[usize], strides: &[usize]) -> Vec<u8> {
    let Some((&inner_size, outer)) = shape.split_last() else {
        return data.get(..size).unwrap_or_default().to_vec();
    };
    let inner_stride = strides.last().copied().unwrap_or(1);
    let elements = count(shape).unwrap_or(0);
    let mut out = Vec::with_capacity(elements * size);
    if elements == 0 {
        return out;
    }
    let mut index = vec![0_usize; outer.len()];
    loop {
        let start: usize = index
            .iter()
            .zip(strides)
            .map(|(at, stride)| at * stride)
            .sum();
        for at in 0..inner_size {
            let from = (start + at * inner_stride) * size;
            out.extend_from_slice(data.get(from..from + size).unwrap_or_default());
        }
        // Counts up like an odometer, last axis first.
        let mut axis = outer.len();
        loop {
            let Some(previous) = axis.checked_sub(1) else {
                return out;
            };
            axis = previous;
            let (Some(at), Some(size)) = (index.get_mut(axis), outer.get(axis)) else {
                return out;
            };
            *at += 1;
            if *at < *size {
                break;
            }
            *at = 0;
        }
    }
}

/// Turns elements with the most significant byte first around.
pub(crate) fn swap_bytes(dtype: Dtype, data: &mut [u8]) {
    let size = match dtype {
        // Two numbers, each turned around on its own.
        Dtype::C64 => 4,
        other => other.bitsize() / 8,
    };
    if size > 1 {
        data.chunks_exact_mut(size).for_each(<[u8]>::reverse);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transposed_matrix_is_gathered() {
        // [[0, 1, 2], [3, 4, 5]] seen as its transpose.
        let data = [0, 1, 2, 3, 4, 5];
        assert_eq!(gather(&data, 1, &[3, 2], &[1, 3]), [0, 3, 1, 4, 2, 5]);
        assert_eq!(gather(&data, 2, &[2], &[2]), [0, 1, 4, 5]);
        assert_eq!(gather(&data, 1, &[], &[]), [0]);
        assert!(gather(&data, 1, &[2, 0], &[1, 1]).is_empty());
        assert_eq!(extent(&[3, 2], &[1, 3]), Some(6));
        assert_eq!(extent(&[usize::MAX, 2], &[2, 1]), None);
        assert!(is_dense(&[2, 1, 3], &[3, 77, 1]));
        assert!(!is_dense(&[3, 2], &[1, 3]));
    }

    #[test]
    fn elements_become_numbers() {
        let of = |dtype, data: &[u8]| Tensor {
            dtype,
            shape: vec![1],
            data: data.to_vec(),
        };
        assert_eq!(of(Dtype::F16, &[0x00, 0x3c]).to_f32().unwrap(), [1.0]);
        assert_eq!(of(Dtype::BF16, &[0x80, 0x3f]).to_f32().unwrap(), [1.0]);
        assert_eq!(of(Dtype::I16, &[0xff, 0xff]).to_f64().unwrap(), [-1.0]);
        assert_eq!(of(Dtype::BOOL, &[7]).to_i64().unwrap(), [1]);
        assert!(of(Dtype::F32, &[0; 4]).to_i64().is_err());
        assert!(of(Dtype::C64, &[0; 8]).to_f32().is_err());
        let mut bytes = [1, 2, 3, 4, 5, 6, 7, 8];
        swap_bytes(Dtype::C64, &mut bytes);
        assert_eq!(bytes, [4, 3, 2, 1, 8, 7, 6, 5]);
    }
}
