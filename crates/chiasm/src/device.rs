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

/// Variables that say which GPUs a process may see: CUDA's and HIP's.
const VISIBLE: [&str; 2] = ["CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"];

/// Starts the threads that share this process's work: as many as were asked for. `computes`: the calling thread is one of
/// them. It then begins every piece of work itself, where it would otherwise wake another thread and sleep until that one is
/// done; small models spend a tenth of a step on that. But alone it also serves no thread that it waits for.
pub(crate) fn start_threads(asked: Option<usize>, computes: bool) -> Result<(), CliError> {
    if asked == Some(0) {
        return Err(CliError::new(
            "`--threads` is 0",
            "give at least 1".to_owned(),
        ));
    }
    // 0: one a core.
    let mut threads = rayon::ThreadPoolBuilder::new().num_threads(asked.unwrap_or(0));
    if computes {
        threads = threads.use_current_thread();
    }
    threads
        .build_global()
        .map_err(|error| CliError::new(format!("cannot start threads: {error}"), None))
}

/// Sets the kind of kernels, and opens the device.
pub(crate) fn open(global: &Global) -> Result<Device, CliError> {
    compute::choose(global.kernels.into());
    let (kind, index) = match global.device.split_once(':') {
        Some((kind, index)) => (kind, index.parse::<usize>().ok()),
        None => match global.device.as_str() {
            "cpu" => ("cpu", Some(0)),
            kind => (kind, Some(own_gpu())),
        },
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

/// Number of the GPU that is this process's where none is asked for: the first, or of several ranks on a machine the
/// one of its own.
fn own_gpu() -> usize {
    let visible = VISIBLE.iter().find_map(|name| std::env::var(name).ok());
    chiasm_mpi::local_rank().map_or(0, |rank| gpu_of(rank, visible.as_deref()))
}

/// The GPU of a machine's n-th rank. Ranks share where fewer are visible; a launcher that gives every rank its own
/// makes one visible, which is then the first.
fn gpu_of(rank: usize, visible: Option<&str>) -> usize {
    let named = |list: &str| list.split(',').filter(|name| !name.is_empty()).count();
    match visible.map_or(0, named) {
        0 => rank,
        count => rank % count,
    }
}

#[cfg(test)]
mod tests {
    use super::gpu_of;

    #[test]
    fn ranks_of_a_machine_take_a_gpu_each() {
        assert_eq!([0, 1, 7].map(|rank| gpu_of(rank, None)), [0, 1, 7]);
        assert_eq!(
            [0, 1, 7].map(|rank| gpu_of(rank, Some("4,5,6,7"))),
            [0, 1, 3]
        );
        assert_eq!([0, 1].map(|rank| gpu_of(rank, Some("GPU-1f"))), [0, 0]);
        assert_eq!(gpu_of(2, Some("")), 2);
    }
}
