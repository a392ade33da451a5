//! Libraries with a C interface, loaded while the program runs: none is needed to build it.

#![allow(unsafe_code, reason = "functions of other languages")]

use std::error::Error;
use std::ffi::{CStr, c_char, c_int};

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};

use crate::implementation::{Implementation, Multiply};
use crate::product::{Matrix, Product};

/// `cblas_sgemm`, with 32-bit sizes.
type CblasSgemm = unsafe extern "C" fn(
    order: c_int,
    transpose_a: c_int,
    transpose_b: c_int,
    m: c_int,
    n: c_int,
    k: c_int,
    alpha: f32,
    a: *const f32,
    a_stride: c_int,
    b: *const f32,
    b_stride: c_int,
    beta: f32,
    c: *mut f32,
    c_stride: c_int,
);

/// `dnnl_sgemm`, row-major.
type DnnlSgemm = unsafe extern "C" fn(
    transpose_a: c_char,
    transpose_b: c_char,
    m: i64,
    n: i64,
    k: i64,
    alpha: f32,
    a: *const f32,
    a_stride: i64,
    b: *const f32,
    b_stride: i64,
    beta: f32,
    c: *mut f32,
    c_stride: i64,
) -> c_int;

/// Values of `CBLAS_ORDER` and `CBLAS_TRANSPOSE`.
const ROW_MAJOR: c_int = 101;
const NOT_TRANSPOSED: c_int = 111;
const TRANSPOSED: c_int = 112;

/// Where MKL writes its version, longer than any.
const VERSION_BYTES: usize = 256;

/// A library with the interface of BLAS.
pub(crate) struct Blas {
    sgemm: CblasSgemm,
    version: String,
}

impl Blas {
    /// OpenBLAS, on so many threads.
    pub(crate) fn openblas(file: &str, threads: usize) -> Result<Self, Box<dyn Error>> {
        let library = open(file)?;
        let threads = c_int::try_from(threads)?;
        // SAFETY: the types are those of OpenBLAS's `cblas.h`; the configuration is a string that ends
        // with a zero and stays.
        unsafe {
            let set_threads: unsafe extern "C" fn(c_int) =
                function(library, "openblas_set_num_threads")?;
            let config: unsafe extern "C" fn() -> *const c_char =
                function(library, "openblas_get_config")?;
            set_threads(threads);
            Ok(Self {
                sgemm: function(library, "cblas_sgemm")?,
                version: CStr::from_ptr(config()).to_string_lossy().trim().to_owned(),
            })
        }
    }

    /// MKL, on so many threads.
    pub(crate) fn mkl(file: &str, threads: usize) -> Result<Self, Box<dyn Error>> {
        let library = open(file)?;
        let threads = c_int::try_from(threads)?;
        let mut version = [0u8; VERSION_BYTES];
        // SAFETY: the types are those of `mkl_service.h` and `mkl_cblas.h`; at most as many bytes are
        // written as the buffer has.
        let sgemm = unsafe {
            let set_threads: unsafe extern "C" fn(c_int) =
                function(library, "MKL_Set_Num_Threads")?;
            let get_version: unsafe extern "C" fn(*mut c_char, c_int) =
                function(library, "MKL_Get_Version_String")?;
            set_threads(threads);
            get_version(version.as_mut_ptr().cast(), VERSION_BYTES as c_int);
            function(library, "cblas_sgemm")?
        };
        let version = CStr::from_bytes_until_nul(&version)?.to_string_lossy();
        Ok(Self {
            sgemm,
            version: version.trim().to_owned(),
        })
    }
}

impl Implementation for Blas {
    fn version(&self) -> String {
        self.version.clone()
    }

    fn prepare<'a>(&'a self, product: &'a Product) -> Option<Multiply<'a>> {
        let (m, k, n) = product.sizes();
        let (a, b) = (&product.a, &product.b);
        let transpose = |matrix: &Matrix| match matrix.transposed {
            true => TRANSPOSED,
            false => NOT_TRANSPOSED,
        };
        let (transpose_a, transpose_b) = (transpose(a), transpose(b));
        Some(Box::new(move |output| {
            // SAFETY: the sizes are some thousands, and with the strides those of the three matrices,
            // which hold as many elements; `output` is borrowed mutably.
            unsafe {
                (self.sgemm)(
                    ROW_MAJOR,
                    transpose_a,
                    transpose_b,
                    m as c_int,
                    n as c_int,
                    k as c_int,
                    1.0,
                    a.data.as_ptr(),
                    a.row_stride as c_int,
                    b.data.as_ptr(),
                    b.row_stride as c_int,
                    0.0,
                    output.data.as_mut_ptr(),
                    output.row_stride as c_int,
                );
            }
        }))
    }
}

/// oneDNN. Its threads are those of OpenMP or of TBB, set from outside.
pub(crate) struct OneDnn {
    sgemm: DnnlSgemm,
    version: String,
}

/// The start of `dnnl_version_t`.
#[repr(C)]
struct DnnlVersion {
    major: c_int,
    minor: c_int,
    patch: c_int,
}

impl OneDnn {
    pub(crate) fn load(file: &str) -> Result<Self, Box<dyn Error>> {
        let library = open(file)?;
        // SAFETY: the types are those of `dnnl.h`; the version is a constant of the library.
        unsafe {
            let version: unsafe extern "C" fn() -> *const DnnlVersion =
                function(library, "dnnl_version")?;
            let DnnlVersion {
                major,
                minor,
                patch,
            } = version().read();
            Ok(Self {
                sgemm: function(library, "dnnl_sgemm")?,
                version: format!("oneDNN {major}.{minor}.{patch}"),
            })
        }
    }
}

impl Implementation for OneDnn {
    fn version(&self) -> String {
        self.version.clone()
    }

    fn prepare<'a>(&'a self, product: &'a Product) -> Option<Multiply<'a>> {
        let (m, k, n) = product.sizes();
        let (a, b) = (&product.a, &product.b);
        let transpose = |matrix: &Matrix| match matrix.transposed {
            true => b'T' as c_char,
            false => b'N' as c_char,
        };
        let (transpose_a, transpose_b) = (transpose(a), transpose(b));
        Some(Box::new(move |output| {
            // A failure leaves `output` as it was, which the check of the product finds.
            // SAFETY: as for BLAS.
            let _status = unsafe {
                (self.sgemm)(
                    transpose_a,
                    transpose_b,
                    m as i64,
                    n as i64,
                    k as i64,
                    1.0,
                    a.data.as_ptr(),
                    a.row_stride as i64,
                    b.data.as_ptr(),
                    b.row_stride as i64,
                    0.0,
                    output.data.as_mut_ptr(),
                    output.row_stride as i64,
                )
            };
        }))
    }
}

/// Loads a library by its path, or by its name through the loader's search path, for good.
fn open(file: &str) -> Result<&'static Library, libloading::Error> {
    // MKL loads its parts as plug-ins, which look for its functions among the global ones.
    // SAFETY: whoever names the file trusts its start-up code.
    let library = unsafe { Library::open(Some(file), RTLD_NOW | RTLD_GLOBAL) }?;
    // Never unloaded: its threads may outlive every call.
    Ok(Box::leak(Box::new(library)))
}

/// # Safety
/// `T` is the type of the function `name`.
unsafe fn function<T: Copy>(library: &'static Library, name: &str) -> Result<T, libloading::Error> {
    // SAFETY: as the caller promises; the library is never unloaded.
    unsafe { library.get::<T>(name) }.map(|symbol| *symbol)
}
