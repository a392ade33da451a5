//! Work of which every rank does a part of its own length.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::error::RankError;
use crate::ranks::Ranks;

/// How often ranks tell each other how far they are.
const TICK: Duration = Duration::from_millis(200);

/// Bytes of what a rank tells: whether it has ended, and how many things it has done.
const TOLD: usize = 9;

/// A rank's own part of some work.
pub struct Work<'a> {
    ranks: &'a Ranks,
    done: AtomicU64,
}

impl Work<'_> {
    /// So many more things are done here.
    pub fn add(&self, more: u64) {
        self.done.fetch_add(more, Ordering::Relaxed);
    }

    /// Asked between two pieces of the work: whether it still makes sense.
    ///
    /// # Errors
    /// The ranks' first error.
    pub fn go_on(&self) -> Result<(), RankError> {
        self.ranks.broken().map_or(Ok(()), Err)
    }
}

impl Ranks {
    /// Does `work` on every rank, and returns when all have ended. Meanwhile they tell each other that they
    /// are alive, and `show` gets how many things all of them have done; of ranks whose work has no end
    /// in common, that is what tells a long piece from a hang.
    ///
    /// # Errors
    /// What `work` returned; a rank that is silent or has failed.
    pub fn alongside<T, E: From<RankError>>(
        &self,
        what: &'static str,
        show: &mut (dyn FnMut(u64) + Send),
        work: impl FnOnce(&Work<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let own = Work {
            ranks: self,
            done: AtomicU64::new(0),
        };
        let (ended, failed) = (AtomicBool::new(false), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let (own, ended, failed) = (&own, &ended, &failed);
            let tell = scope.spawn(move || {
                loop {
                    let mut told = [0; TOLD];
                    // Before the count: what is counted afterwards is done when it has ended.
                    told[0] = u8::from(ended.load(Ordering::Acquire));
                    let done = own.done.load(Ordering::Relaxed).to_le_bytes();
                    told[1..].copy_from_slice(&done);
                    if failed.load(Ordering::Relaxed) {
                        return Ok(());
                    }
                    let all = self.gather(what, &told)?;
                    let count = |told: &Vec<u8>| {
                        let count = told.get(1..).and_then(|count| count.first_chunk());
                        count.map_or(0, |count| u64::from_le_bytes(*count))
                    };
                    show(all.iter().map(count).sum());
                    if all.iter().all(|told| told.first() == Some(&1)) {
                        return Ok(());
                    }
                    std::thread::park_timeout(TICK);
                }
            });
            let outcome = work(own);
            match &outcome {
                Ok(_) => ended.store(true, Ordering::Release),
                Err(_) => failed.store(true, Ordering::Relaxed),
            }
            tell.thread().unpark();
            let told: Result<(), RankError> = match tell.join() {
                Ok(told) => told,
                Err(panic) => std::panic::resume_unwind(panic),
            };
            match (outcome, told) {
                (Ok(done), Ok(())) => Ok(done),
                (Ok(_), Err(error)) => Err(error.into()),
                (Err(error), _) => Err(error),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::threads::all;

    #[test]
    fn all_return_when_all_have_ended() {
        let ended = AtomicU64::new(0);
        let found = all(3, |ranks| {
            let mut shown = Vec::new();
            let outcome = ranks.alongside("test", &mut |done| shown.push(done), |work| {
                for _ in 0..=ranks.rank() {
                    work.go_on()?;
                    work.add(10);
                }
                ended.fetch_add(1, Ordering::Relaxed);
                Ok::<_, RankError>(ranks.rank())
            });
            assert_eq!(ended.load(Ordering::Relaxed), 3);
            assert!(shown.is_sorted());
            (outcome.unwrap(), shown.last().copied())
        });
        assert_eq!(found, [(0, Some(60)), (1, Some(60)), (2, Some(60))]);
        let alone = Ranks::alone().alongside("test", &mut |_| {}, |_| Ok::<_, RankError>(7));
        assert_eq!(alone, Ok(7));
    }

    #[test]
    fn an_error_of_one_ends_the_work_of_all() {
        let found = all(3, |ranks| {
            let outcome = ranks.alongside("test", &mut |_| {}, |work| {
                if ranks.rank() == 1 {
                    return Err(RankError::Unreachable("no room".to_owned()));
                }
                // Until the others say that there is no sense in it.
                loop {
                    work.go_on()?;
                    std::thread::yield_now();
                }
            });
            let error: RankError = outcome.map(|(): ()| ()).unwrap_err();
            ranks.fail(&error.to_string());
            error.to_string()
        });
        let failed = "rank 1 failed: cannot reach the other ranks: no room";
        assert_eq!(found[0], failed);
        assert_eq!(found[2], failed);
    }

    #[test]
    fn who_goes_in_the_middle_is_named() {
        let found = all(2, |ranks| {
            if ranks.rank() == 1 {
                return String::new();
            }
            let outcome = ranks.alongside("test", &mut |_| {}, |work| {
                loop {
                    work.go_on()?;
                    std::thread::yield_now();
                }
            });
            let error: RankError = outcome.map(|(): ()| ()).unwrap_err();
            error.to_string()
        });
        assert!(found[0].starts_with("rank 1 sent nothing for `test`"));
    }
}
