//! The Python names that a pickle may mention, and what each stands for here.
//!
//! Nothing is ever imported or called. A name on the list is a label on data; a name that is not on it
//! ends the reading.

use safetensors::Dtype;

/// What a name of Python stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Global {
    /// A dictionary: `dict` and what derives from it.
    Dict,
    /// `collections.defaultdict`, a dictionary whose first argument is not its content.
    DefaultDict,
    /// A list, tuple or set, made from one sequence: `set`, `frozenset`, `torch.Size`.
    Sequence,
    /// An object that is nothing but its attributes: `argparse.Namespace`.
    Namespace,
    /// `bytearray`, `bytes`: made from bytes.
    Bytes,
    /// `_codecs.encode`: how protocols below 3 write bytes.
    Encode,
    /// `complex`, `pathlib.PosixPath`, `torch.device`, `datetime.timedelta`: a few plain arguments
    /// that nobody looks into.
    Opaque,
    /// A class or function that is mentioned, for example as a key, and may not be called.
    Mention,
    /// `copyreg._reconstructor`: an object of the class in its first argument.
    Reconstructor,
    /// `torch._utils._rebuild_tensor` and its later versions.
    Tensor,
    /// `torch._utils._rebuild_parameter`: its first argument is the tensor.
    Parameter,
    /// `torch._tensor._rebuild_from_type_v2`: a tensor with attributes.
    TensorWithAttributes,
    /// A class of storages; `None` is the one that counts bytes.
    Storage(Option<Dtype>),
    /// A type of elements such as `torch.float32`.
    TorchDtype(Dtype),
    /// `numpy.core.multiarray._reconstruct`: an array, filled in later.
    ArrayShell,
    /// `numpy.core.numeric._frombuffer`: an array from bytes.
    ArrayFromBuffer,
    /// `numpy.ndarray`.
    ArrayClass,
    /// `numpy.dtype`.
    ArrayDtype,
    /// `numpy.core.multiarray.scalar`.
    ArrayScalar,
}

impl Global {
    /// True when the object's content is entries by key.
    pub(crate) fn is_dict(self) -> bool {
        matches!(self, Self::Dict | Self::DefaultDict | Self::Namespace)
    }

    /// True when the pickle may make an object of it.
    pub(crate) fn is_callable(self) -> bool {
        !matches!(
            self,
            Self::Mention | Self::Storage(_) | Self::TorchDtype(_) | Self::ArrayClass
        )
    }
}

/// What `module.name` stands for; `None` when it is not on the list.
pub fn lookup(module: &str, name: &str) -> Option<Global> {
    use Global as G;
    let module = match module {
        // Python 2 names of the same things.
        "__builtin__" => "builtins",
        "copy_reg" => "copyreg",
        // Before and after NumPy 2.
        "numpy._core.multiarray" => "numpy.core.multiarray",
        "numpy._core.numeric" => "numpy.core.numeric",
        other => other,
    };
    let found = match (module, name) {
        ("collections", "OrderedDict" | "Counter") | ("builtins", "dict") => G::Dict,
        ("collections", "defaultdict") => G::DefaultDict,
        ("builtins", "set" | "frozenset" | "list" | "tuple") | ("torch", "Size") => G::Sequence,
        ("builtins", "bytearray" | "bytes") => G::Bytes,
        ("builtins", "complex")
        | ("torch", "device")
        | ("datetime", "date" | "datetime" | "time" | "timedelta")
        | (
            "pathlib" | "pathlib._local",
            "Path" | "PosixPath" | "WindowsPath" | "PurePath" | "PurePosixPath" | "PureWindowsPath",
        ) => G::Opaque,
        ("builtins", "object" | "int" | "float" | "str" | "bool" | "long" | "unicode") => {
            G::Mention
        }
        ("_codecs", "encode") => G::Encode,
        ("copyreg", "_reconstructor") => G::Reconstructor,
        ("argparse", "Namespace")
        | ("types", "SimpleNamespace")
        | (
            "pytorch_lightning.utilities.parsing"
            | "lightning.pytorch.utilities.parsing"
            | "lightning_fabric.utilities.data"
            | "lightning.fabric.utilities.data",
            "AttributeDict",
        )
        | ("easydict", "EasyDict")
        | ("yacs.config" | "fvcore.common.config" | "detectron2.config.config", "CfgNode")
        | ("sacred.config.custom_containers", "ReadOnlyDict" | "DogmaticDict") => G::Namespace,
        ("sacred.config.custom_containers", "ReadOnlyList" | "DogmaticList") => G::Sequence,
        ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2" | "_rebuild_tensor_v3") => {
            G::Tensor
        }
        ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => G::Parameter,
        ("torch._tensor", "_rebuild_from_type_v2") => G::TensorWithAttributes,
        ("torch", "Tensor") | ("torch.nn.parameter", "Parameter") => G::Mention,
        ("torch" | "torch.cuda" | "torch.storage", storage) if storage.ends_with("Storage") => {
            return storage_class(storage).map(G::Storage);
        }
        ("torch", dtype) => return torch_dtype(dtype).map(G::TorchDtype),
        ("numpy.core.multiarray", "_reconstruct") => G::ArrayShell,
        ("numpy.core.numeric", "_frombuffer") => G::ArrayFromBuffer,
        ("numpy.core.multiarray", "scalar") => G::ArrayScalar,
        ("numpy", "ndarray") => G::ArrayClass,
        ("numpy", "dtype") => G::ArrayDtype,
        // Lightning before 1.5 keeps the state of each callback under its class.
        (module, name) if is_lightning_callback(module) && is_plain(name) => G::Mention,
        _ => return None,
    };
    Some(found)
}

fn is_lightning_callback(module: &str) -> bool {
    [
        "pytorch_lightning.callbacks.",
        "lightning.pytorch.callbacks.",
    ]
    .iter()
    .any(|prefix| module.starts_with(prefix))
        && module.split('.').all(is_plain)
}

fn is_plain(name: &str) -> bool {
    !name.is_empty()
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn storage_class(name: &str) -> Option<Option<Dtype>> {
    Some(match name {
        "DoubleStorage" => Some(Dtype::F64),
        "FloatStorage" => Some(Dtype::F32),
        "HalfStorage" => Some(Dtype::F16),
        "BFloat16Storage" => Some(Dtype::BF16),
        "ComplexFloatStorage" => Some(Dtype::C64),
        "LongStorage" => Some(Dtype::I64),
        "IntStorage" => Some(Dtype::I32),
        "ShortStorage" => Some(Dtype::I16),
        "CharStorage" => Some(Dtype::I8),
        "ByteStorage" => Some(Dtype::U8),
        "BoolStorage" => Some(Dtype::BOOL),
        "UntypedStorage" | "TypedStorage" | "_UntypedStorage" | "_TypedStorage" => None,
        _ => return None,
    })
}

fn torch_dtype(name: &str) -> Option<Dtype> {
    Some(match name {
        "float64" | "double" => Dtype::F64,
        "float32" | "float" => Dtype::F32,
        "float16" | "half" => Dtype::F16,
        "bfloat16" => Dtype::BF16,
        "complex64" | "cfloat" => Dtype::C64,
        "int64" | "long" => Dtype::I64,
        "int32" | "int" => Dtype::I32,
        "int16" | "short" => Dtype::I16,
        "int8" => Dtype::I8,
        "uint8" => Dtype::U8,
        "uint16" => Dtype::U16,
        "uint32" => Dtype::U32,
        "uint64" => Dtype::U64,
        "bool" => Dtype::BOOL,
        "float8_e4m3fn" => Dtype::F8_E4M3,
        "float8_e5m2" => Dtype::F8_E5M2,
        _ => return None,
    })
}
