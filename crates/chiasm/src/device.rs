//! From `--device`, `--kernels` and `--threads` to a place to compute.

use burn::tensor::Device;
use chiasm_nn::compute;

use crate::cli::Global;
use crate::error::CliError;

/// Devices this binary was built with.
const BUILT_IN: &[&str] = &[
    "cpu",
    #[cfg(feature = "cuda")]
    "cuda",
    #[cfg(feature = "rocm")]
    "rocm",
    #[cfg(feature = "vulkan")]
    "vulkan",
    #[cfg(feature = "metal")]
    "metal",
];

/// GPU kinds that can be built in.
const GPU_KINDS: [&str; 4] = ["cuda", "rocm", "vulkan", "metal"];

/// Sets the number of threads and the kind of kernels, and opens the device.
pub(crate) fn open(global: &Global) -> Result<Device, CliError> {
    compute::choose(global.kernels.into());
    if let Some(threads) = global.threads {
        if threads == 0 {
            return Err(CliError::new(
                "`--threads` is 0",
                "give at least 1".to_owned(),
            ));
        }
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build_global()
            .map_err(|error| {
                CliError::new(format!("cannot start {threads} threads: {error}"), None)
            })?;
    }
    let (kind, index) = match global.device.split_once(':') {
        Some((kind, index)) => (kind, index.parse::<usize>().ok()),
        None => (global.device.as_str(), Some(0)),
    };
    let Some(index) = index else {
        return Err(CliError::new(
            format!(
                "`--device {}` has no whole number after the colon",
                global.device
            ),
            "write `cuda:1` for the second GPU".to_owned(),
        ));
    };
    match kind {
        "cpu" if index == 0 => Ok(Device::flex()),
        #[cfg(feature = "cuda")]
        "cuda" => Ok(Device::cuda(index)),
        #[cfg(feature = "rocm")]
        "rocm" => Ok(Device::rocm(index)),
        #[cfg(feature = "vulkan")]
        "vulkan" => Ok(Device::vulkan(burn::tensor::DeviceKind::DiscreteGpu(index))),
        #[cfg(feature = "metal")]
        "metal" => Ok(Device::metal(burn::tensor::DeviceKind::DefaultDevice)),
        kind if GPU_KINDS.contains(&kind) => Err(CliError::new(
            format!("this binary was built without `{kind}`"),
            format!("build it with `cargo build --release --features {kind}`"),
        )),
        _ => Err(CliError::new(
            format!("unknown device `{}`", global.device),
            format!("this binary knows: {}", BUILT_IN.join(", ")),
        )),
    }
}
