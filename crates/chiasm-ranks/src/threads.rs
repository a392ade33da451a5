//! Ranks that are threads of one process: what tests run on.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::link::{Link, Parcel, Silent};

/// How long a thread sleeps before it asks whether to go on waiting.
const NAP: Duration = Duration::from_millis(5);

/// One of several threads.
pub struct Thread {
    rank: usize,
    to: Vec<Sender<Parcel>>,
    from: Vec<Mutex<Receiver<Parcel>>>,
}

/// The links of `count` threads, in the order of their ranks.
#[must_use]
pub fn threads(count: usize) -> Vec<Thread> {
    let mut ranks: Vec<Thread> = (0..count)
        .map(|rank| Thread {
            rank,
            to: Vec::new(),
            from: Vec::new(),
        })
        .collect();
    for from in 0..count {
        for to in 0..count {
            let (sender, receiver) = channel();
            if let Some(rank) = ranks.get_mut(from) {
                rank.to.push(sender);
            }
            if let Some(rank) = ranks.get_mut(to) {
                rank.from.push(Mutex::new(receiver));
            }
        }
    }
    ranks
}

impl Link for Thread {
    fn rank(&self) -> usize {
        self.rank
    }

    fn count(&self) -> usize {
        self.to.len()
    }

    fn exchange(
        &self,
        parcels: Vec<Parcel>,
        wait: &dyn Fn() -> bool,
    ) -> Result<Vec<Parcel>, Silent> {
        for (sender, parcel) in self.to.iter().zip(parcels) {
            // A thread that has ended is missed below.
            let _ = sender.send(parcel);
        }
        let (mut got, mut silent) = (Vec::new(), Vec::new());
        for (rank, from) in self.from.iter().enumerate() {
            let from = from.lock().unwrap_or_else(PoisonError::into_inner);
            let parcel = loop {
                match from.recv_timeout(NAP) {
                    Ok(parcel) => break Some(parcel),
                    Err(RecvTimeoutError::Timeout) if wait() => {}
                    Err(_) => break None,
                }
            };
            match parcel {
                Some(parcel) => got.push(parcel),
                None => silent.push(rank),
            }
        }
        if silent.is_empty() {
            Ok(got)
        } else {
            Err(Silent(silent))
        }
    }
}

/// What every one of `count` ranks makes of `job`.
#[cfg(test)]
pub(crate) fn all<T: Send>(count: usize, job: impl Fn(&crate::Ranks) -> T + Sync) -> Vec<T> {
    let job = &job;
    std::thread::scope(|scope| {
        let spawn = |link| {
            let limit = Duration::from_secs(60);
            let ranks = crate::Ranks::new(Box::new(link), limit, std::sync::Arc::default());
            scope.spawn(move || job(&ranks))
        };
        let handles: Vec<_> = threads(count).into_iter().map(spawn).collect();
        let results = handles.into_iter().map(|handle| handle.join().unwrap());
        results.collect()
    })
}
