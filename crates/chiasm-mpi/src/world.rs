//! All ranks of a launch.
//!
//! MPI lives in a thread of its own, the only one that calls it. So whoever waits for the others can give
//! up and still has its memory, files and time: a call of MPI that waits for a dead rank never returns,
//! and nothing can take it back.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use chiasm_ranks::{Link, Parcel, RankError, Silent};
use mpi::Threading;
use mpi::environment::Universe;
use mpi::point_to_point::MatchedReceiveVec as _;
use mpi::traits::{Communicator as _, Destination as _, Source as _};

/// How often the one who waits looks whether to go on.
const LOOK: Duration = Duration::from_millis(50);

/// How long MPI's thread looks for parcels before it sleeps between two looks: ranks that work side by
/// side are microseconds apart, and others may have fewer cores than threads.
const BUSY: Duration = Duration::from_millis(2);
const NAP: Duration = Duration::from_micros(50);

/// The ranks of a launch.
pub struct World {
    rank: usize,
    /// Which ranks the exchange that goes on is done with.
    done: Arc<[AtomicBool]>,
    /// What MPI's thread is to do; closed, it ends.
    orders: Option<Sender<Vec<Parcel>>>,
    answers: Mutex<Receiver<Vec<Parcel>>>,
    thread: Option<JoinHandle<()>>,
    /// The thread waits for a rank that does not come.
    is_stuck: AtomicBool,
}

impl World {
    /// Joins the others.
    ///
    /// # Errors
    /// An MPI that cannot start here.
    pub fn join() -> Result<Self, RankError> {
        let (orders, inbox) = channel::<Vec<Parcel>>();
        let (outbox, answers) = channel();
        let (hello, joined) = channel();
        let thread = std::thread::Builder::new().name("mpi".to_owned());
        let thread = thread.spawn(move || {
            let Some((universe, _)) = mpi::initialize_with_threading(Threading::Funneled) else {
                return;
            };
            let world = universe.world();
            let of = |number: i32| usize::try_from(number).unwrap_or(0);
            let (rank, count) = (of(world.rank()), of(world.size()));
            let done: Arc<[AtomicBool]> = (0..count).map(|_| AtomicBool::new(false)).collect();
            if hello.send((rank, Arc::clone(&done))).is_err() {
                return;
            }
            for parcels in inbox {
                let given = exchange(&universe, rank, &parcels, &done);
                if outbox.send(given).is_err() {
                    return;
                }
            }
        });
        let thread = thread.map_err(|error| RankError::Unreachable(error.to_string()))?;
        let (rank, done) = joined
            .recv()
            .map_err(|_| RankError::Unreachable("MPI did not start".to_owned()))?;
        Ok(Self {
            rank,
            done,
            orders: Some(orders),
            answers: Mutex::new(answers),
            thread: Some(thread),
            is_stuck: AtomicBool::new(false),
        })
    }
}

impl Link for World {
    fn rank(&self) -> usize {
        self.rank
    }

    fn count(&self) -> usize {
        self.done.len()
    }

    fn exchange(
        &self,
        parcels: Vec<Parcel>,
        wait: &dyn Fn() -> bool,
    ) -> Result<Vec<Parcel>, Silent> {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        for done in self.done.iter() {
            done.store(false, Ordering::Relaxed);
        }
        if let Some(orders) = &self.orders {
            // Where the thread has ended, nothing arrives below.
            let _ = orders.send(parcels);
        }
        loop {
            match answers.recv_timeout(LOOK) {
                Ok(given) => return Ok(given),
                Err(RecvTimeoutError::Timeout) if wait() => {}
                Err(_) => break,
            }
        }
        self.is_stuck.store(true, Ordering::Relaxed);
        let silent = |(rank, done): (usize, &AtomicBool)| {
            (rank != self.rank && !done.load(Ordering::Relaxed)).then_some(rank)
        };
        Err(Silent(
            self.done.iter().enumerate().filter_map(silent).collect(),
        ))
    }
}

impl Drop for World {
    fn drop(&mut self) {
        drop(self.orders.take());
        // A stuck thread would be waited for forever; it ends with the process.
        if let (Some(thread), false) = (self.thread.take(), self.is_stuck.load(Ordering::Relaxed)) {
            // MPI waits for all ranks here before any of them leaves.
            let _ = thread.join();
        }
    }
}

/// Sends every rank its parcel and waits for one from each.
fn exchange(
    universe: &Universe,
    own: usize,
    parcels: &[Parcel],
    done: &[AtomicBool],
) -> Vec<Parcel> {
    let world = universe.world();
    let at = |rank: usize| world.process_at_rank(i32::try_from(rank).unwrap_or(i32::MAX));
    let mut given = parcels.to_vec();
    let others = || (0..parcels.len()).filter(|rank| *rank != own);
    let mut awaited: Vec<usize> = others().collect();
    mpi::request::scope(|scope| {
        let parcels = others().filter_map(|rank| Some((rank, parcels.get(rank)?)));
        let mut sent: Vec<_> = parcels
            .map(|(rank, parcel)| (rank, at(rank).immediate_send(scope, parcel.as_slice())))
            .collect();
        let mut moved = Instant::now();
        while !(awaited.is_empty() && sent.is_empty()) {
            let before = awaited.len() + sent.len();
            awaited.retain(|rank| {
                let Some(message) = at(*rank).immediate_matched_probe() else {
                    return true;
                };
                let (values, _) = message.matched_receive_vec::<u8>();
                if let Some(place) = given.get_mut(*rank) {
                    *place = Parcel::new(values);
                }
                false
            });
            let pending = sent.into_iter();
            let pending = pending.filter_map(|(rank, request)| Some((rank, request.test().err()?)));
            sent = pending.collect();
            for (rank, done) in done.iter().enumerate() {
                let open = awaited.contains(&rank) || sent.iter().any(|(of, _)| *of == rank);
                done.store(!open, Ordering::Relaxed);
            }
            if awaited.len() + sent.len() < before {
                moved = Instant::now();
            } else if moved.elapsed() < BUSY {
                std::thread::yield_now();
            } else {
                std::thread::sleep(NAP);
            }
        }
    });
    given
}
