//! Arrays and scalars of NumPy.

use super::{Global, Value, damaged};
use crate::error::FormatError;
use crate::tensor::{Dtype, MAX_RANK, Tensor, byte_count, gather, swap_bytes};

/// What a pickle says of an array, compared with the bytes that are there.
pub(crate) struct ArraySpec<'a> {
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    big_endian: bool,
    /// First axis fastest.
    fortran: bool,
    data: Value<'a>,
}

impl<'a> Value<'a> {
    /// A NumPy array or scalar of numbers, copied out of the pickle; `None` when it is neither.
    ///
    /// # Errors
    /// Elements that are no plain numbers (texts, objects, records), sizes that do not fit the bytes.
    pub fn array(self) -> Option<Result<Tensor, FormatError>> {
        Some(self.array_spec()?.and_then(ArraySpec::read))
    }

    /// The array without its elements.
    pub(crate) fn array_spec(self) -> Option<Result<ArraySpec<'a>, FormatError>> {
        let (global, args, state) = self.as_call()?;
        let from_end = |of: Value<'a>, back: usize| of.items().rev().nth(back);
        let spec = match global {
            // (version, shape, type, first axis fastest, bytes); the version came later.
            Global::ArrayShell => state.and_then(|state| {
                let (dtype, shape) = (from_end(state, 2)?, from_end(state, 3)?);
                Some(ArraySpec {
                    fortran: from_end(state, 1)?.as_i64()? != 0,
                    ..spec_of(dtype, Some(shape), from_end(state, 0)?)?
                })
            }),
            // (bytes, type, shape, order)
            Global::ArrayFromBuffer => (|| {
                Some(ArraySpec {
                    fortran: args.item(3)?.as_str()? == "F",
                    ..spec_of(args.item(1)?, Some(args.item(2)?), args.item(0)?)?
                })
            })(),
            // (type, bytes)
            Global::ArrayScalar => (|| spec_of(args.item(0)?, None, args.item(1)?))(),
            _ => return None,
        };
        let unreadable = || FormatError::Unsupported {
            what: "an array in the pickle is not one of plain numbers".into(),
            hint: "write it with a numeric type, for example `array.astype(\"float32\")`",
        };
        Some(spec.ok_or_else(unreadable).and_then(ArraySpec::checked))
    }

    /// The one element of a NumPy scalar.
    pub(super) fn scalar(self) -> Option<Tensor> {
        let (global, ..) = self.as_call()?;
        (global == Global::ArrayScalar).then(|| self.array()?.ok())?
    }
}

fn spec_of<'a>(
    dtype: Value<'a>,
    shape: Option<Value<'a>>,
    data: Value<'a>,
) -> Option<ArraySpec<'a>> {
    let (global, args, state) = dtype.as_call()?;
    if global != Global::ArrayDtype {
        return None;
    }
    let name = args.item(0)?.as_str()?;
    let order = state.and_then(|state| state.item(1)?.as_str());
    let sizes = shape.map(|shape| {
        let sizes = shape.items().take(MAX_RANK + 1);
        sizes.map(Value::as_usize).collect::<Option<Vec<_>>>()
    });
    Some(ArraySpec {
        dtype: element(name.trim_start_matches(['<', '>', '=', '|']))?,
        shape: sizes.unwrap_or_else(|| Some(Vec::new()))?,
        big_endian: name.starts_with('>') || order.is_some_and(|order| order == ">"),
        fortran: false,
        data,
    })
}

/// NumPy's short name of an element type.
fn element(name: &str) -> Option<Dtype> {
    Some(match name {
        "f8" => Dtype::F64,
        "f4" => Dtype::F32,
        "f2" => Dtype::F16,
        "c8" => Dtype::C64,
        "i8" => Dtype::I64,
        "i4" => Dtype::I32,
        "i2" => Dtype::I16,
        "i1" => Dtype::I8,
        "u8" => Dtype::U64,
        "u4" => Dtype::U32,
        "u2" => Dtype::U16,
        "u1" => Dtype::U8,
        "b1" => Dtype::BOOL,
        _ => return None,
    })
}

impl ArraySpec<'_> {
    /// The shape must ask for exactly the bytes that are there.
    fn checked(self) -> Result<Self, FormatError> {
        let there = self.data.byte_len();
        let wanted = byte_count(self.dtype, &self.shape);
        if self.shape.len() > MAX_RANK || wanted.is_none() || wanted != there {
            let message = format!(
                "an array of shape {:?} and type {} has {} bytes",
                self.shape,
                self.dtype,
                there.unwrap_or(0)
            );
            return Err(damaged(0, message));
        }
        Ok(self)
    }

    pub(crate) fn read(self) -> Result<Tensor, FormatError> {
        let bytes = self.data.as_bytes().unwrap_or_default();
        let mut data = if self.fortran && self.shape.len() > 1 {
            let size = self.dtype.bitsize() / 8;
            let mut strides = Vec::with_capacity(self.shape.len());
            let mut distance = 1;
            for axis in &self.shape {
                strides.push(distance);
                distance *= axis;
            }
            gather(&bytes, size, &self.shape, &strides)
        } else {
            bytes.into_owned()
        };
        if self.big_endian {
            swap_bytes(self.dtype, &mut data);
        }
        Ok(Tensor {
            dtype: self.dtype,
            shape: self.shape,
            data,
        })
    }
}
