//! The communicator of a run.
//!
//! As MPI, NCCL lives in a thread of its own: a collective that waits for a dead rank never returns, and whoever waits for
//! the thread can give up.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use burn::backend::{BackendTensor, CubeDevice, DispatchDevice, DispatchTensorKind};
use burn::cubecl::cuda::CudaRuntime;
use burn::tensor::{Device, Tensor, TensorData};
use chiasm_ranks::{RankError, Ranks};
use cubecl_runtime::runtime::Runtime;
use cudarc::driver::{CudaContext, CudaStream};
use cudarc::nccl::result::NcclError;
use cudarc::nccl::{Comm, Id, ReduceOp, sys};

/// Bytes by which ranks find each other.
type Name = [u8; 128];

/// Numbers of the sum that is tried first.
const TRIED: usize = 4096;

/// The GPUs of a run's ranks, this one's among them.
pub struct Nccl {
    orders: Sender<Order>,
    answers: Mutex<Receiver<Result<(), String>>>,
    limit: Duration,
}

/// Numbers in the memory of the GPU.
struct Order {
    address: u64,
    len: usize,
}

impl Nccl {
    /// Joins the GPUs of all ranks, of which `device` is this one's; or says why that cannot be, to all ranks alike.
    ///
    /// # Errors
    /// A rank that is silent or has failed.
    pub fn join(ranks: &Ranks, device: &Device) -> Result<Result<Self, String>, RankError> {
        let own = index(device).and_then(|index| loaded().map(|()| index));
        let name = match (&own, ranks.is_first()) {
            (Ok(_), true) => Id::new().map_or_else(|_| Vec::new(), |id| name_of(&id).to_vec()),
            _ => Vec::new(),
        };
        let name = ranks.gather("NCCL", &name)?.into_iter().next();
        let name = name.and_then(|name| Name::try_from(name).ok());
        let own = own.and_then(|index| {
            let name = name.ok_or("rank 0 has no NCCL")?;
            let nccl = Self::start(index, ranks, name)?;
            nccl.try_out(ranks, device)?;
            Ok(Self {
                limit: ranks.limit(),
                ..nccl
            })
        });
        let reason = own.as_ref().err().map_or("", |reason| reason.as_str());
        let reasons = ranks.gather("NCCL", reason.as_bytes())?;
        let failed = reasons
            .iter()
            .enumerate()
            .find(|(_, reason)| !reason.is_empty());
        Ok(match failed {
            Some((rank, reason)) => {
                Err(format!("rank {rank}: {}", String::from_utf8_lossy(reason)))
            }
            None => own,
        })
    }

    fn start(index: usize, ranks: &Ranks, name: Name) -> Result<Self, String> {
        let (orders, inbox) = channel::<Order>();
        let (outbox, answers) = channel();
        let (rank, count) = (ranks.rank(), ranks.count());
        let thread = std::thread::Builder::new().name("nccl".to_owned());
        let thread = thread.spawn(move || match open(index, rank, count, name) {
            Ok((stream, comm)) => {
                let mut open = outbox.send(Ok(())).is_ok();
                while let (true, Ok(order)) = (open, inbox.recv()) {
                    open = outbox.send(add_up(&stream, &comm, &order)).is_ok();
                }
            }
            Err(reason) => drop(outbox.send(Err(reason))),
        });
        // It ends with the process, or when nobody orders any more.
        drop(thread.map_err(|error| error.to_string())?);
        let nccl = Self {
            orders,
            answers: Mutex::new(answers),
            // Ranks for which this failed at once wait longer for what the others say of it.
            limit: ranks.limit() / 2,
        };
        nccl.answer()?;
        Ok(nccl)
    }

    /// Adds up numbers whose sum is known.
    fn try_out(&self, ranks: &Ranks, device: &Device) -> Result<(), String> {
        let of = |rank: usize, place: usize| ((rank + 1) * (place % 1000)) as f32;
        let own: Vec<f32> = (0..TRIED).map(|place| of(ranks.rank(), place)).collect();
        let device = device.clone().without_autodiff();
        let sums = self.all_reduce(Tensor::from_data(TensorData::new(own, [TRIED]), &device))?;
        let sums = sums.try_into_vec_as::<f32>();
        let sums = sums.map_err(|error| error.to_string())?;
        let is_sum = |(place, sum): (usize, &f32)| {
            let all = (0..ranks.count()).map(|rank| of(rank, place));
            all.sum::<f32>() == *sum
        };
        match sums.len() == TRIED && sums.iter().enumerate().all(is_sum) {
            true => Ok(()),
            false => Err("its first sum is wrong".to_owned()),
        }
    }

    /// The sum of all ranks' numbers, `[n]`, to the bit the same on all of them. Every rank has as many, and calls it as
    /// often.
    ///
    /// # Errors
    /// A GPU or a network that fails; a rank that falls silent meanwhile.
    pub fn sum(&self, ranks: &Ranks, values: Tensor<1>) -> Result<Tensor<1>, RankError> {
        self.all_reduce(values).or_else(|reason| {
            // Who has fallen silent is known to whoever asks by the other way.
            ranks.gather("gradients", &[])?;
            Err(RankError::Unreachable(format!("NCCL: {reason}")))
        })
    }

    fn all_reduce(&self, values: Tensor<1>) -> Result<Tensor<1>, String> {
        let device = values.device();
        let DispatchTensorKind::Cube(BackendTensor::Float(tensor)) =
            values.clone().into_dispatch().kind
        else {
            return Err("a tensor that is not on a GPU".to_owned());
        };
        if !tensor.is_contiguous() {
            return Err("numbers that do not lie in one piece".to_owned());
        }
        let memory = tensor
            .client
            .get_resource::<<CudaRuntime as Runtime>::Server>(tensor.handle.clone())
            .map_err(|error| error.to_string())?;
        // What the engine has been told to compute is there.
        device.sync().map_err(|error| error.to_string())?;
        let order = Order {
            address: memory.resource().ptr,
            len: values.dims()[0],
        };
        // Where the thread has ended, nothing arrives.
        let _ = self.orders.send(order);
        let answer = self.answer();
        // A collective that never came to its end may still write there.
        if answer.is_err() {
            std::mem::forget((memory, tensor));
        }
        answer.map(|()| values)
    }

    fn answer(&self) -> Result<(), String> {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = answers.recv_timeout(self.limit);
        answer.unwrap_or_else(|_| Err(format!("no answer within {} s", self.limit.as_secs())))
    }
}

/// The number of a GPU.
fn index(device: &Device) -> Result<usize, String> {
    match device.clone().without_autodiff().as_dispatch() {
        DispatchDevice::Cube(CubeDevice::Cuda(device)) => Ok(device.index),
        _ => Err("its device is no NVIDIA GPU".to_owned()),
    }
}

/// Whether NCCL is installed: the bindings panic where it is not.
#[allow(unsafe_code, reason = "loading a library runs its initialisers")]
fn loaded() -> Result<(), String> {
    // SAFETY: NVIDIA's library, whose initialisers touch nothing of this program.
    match unsafe { sys::is_culib_present() } {
        true => Ok(()),
        false => Err("there is no libnccl.so; install NCCL (libnccl2)".to_owned()),
    }
}

fn name_of(id: &Id) -> Name {
    id.internal().map(|byte| byte.to_ne_bytes()[0])
}

fn open(
    index: usize,
    rank: usize,
    count: usize,
    name: Name,
) -> Result<(Arc<CudaStream>, Comm), String> {
    // The engine's context too: a device has one that all share.
    let context = CudaContext::new(index).map_err(|error| error.to_string())?;
    let stream = context.new_stream().map_err(|error| error.to_string())?;
    let id = Id::uninit(name.map(|byte| std::ffi::c_char::from_ne_bytes([byte])));
    let comm = Comm::from_rank(Arc::clone(&stream), rank, count, id)
        .map_err(|error| format!("its communicator cannot be made: {}", told(&error)))?;
    Ok((stream, comm))
}

#[allow(unsafe_code, reason = "the engine's memory is named by its address")]
fn add_up(stream: &Arc<CudaStream>, comm: &Comm, order: &Order) -> Result<(), String> {
    // SAFETY: `order` names `len` numbers in the GPU's memory that `Nccl::all_reduce` holds until this has answered, or for
    // ever; the engine has written them, and touches them only after the answer.
    let mut values = unsafe { stream.upgrade_device_ptr::<f32>(order.address, order.len) };
    let begun = comm.all_reduce_in_place(&mut values, &ReduceOp::Sum);
    let ended = stream.synchronize();
    // The engine's, not ours to free.
    values.leak();
    begun.map_err(|error| told(&error))?;
    ended.map_err(|error| error.to_string())
}

fn told(error: &NcclError) -> String {
    format!("{:?}; NCCL_DEBUG=INFO says more", error.0)
}
