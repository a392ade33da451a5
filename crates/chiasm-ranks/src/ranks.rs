//! The ranks of a run: exchanges, gathered bytes, and agreement.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::error::{RankError, Silence};
use crate::link::{Link, Parcel, Silent};

/// How long ranks may still answer after the run was asked to stop, unless they have been slower before:
/// launchers kill what has not ended a second or two after they asked.
const STOP_GRACE: Duration = Duration::from_millis(400);

/// Between two looks at the clock, more than this is time in which this process itself stood still; it is
/// not held against the others.
const STANDSTILL: Duration = Duration::from_secs(1);

/// Ends a parcel of data; one that says why its rank failed ends otherwise.
const DATA: u8 = 0;
const FAILURE: u8 = 1;

/// Bytes behind the contents of a parcel: kind, number of the exchange.
const TAIL: usize = 9;

/// The ranks of a run, this one among them.
///
/// Every rank asks for the same collectives in the same order. The first error ends it all: what is
/// asked for afterwards gets that error again.
pub struct Ranks {
    link: Option<Box<dyn Link>>,
    /// How long the others are waited for.
    limit: Duration,
    stop: Arc<AtomicBool>,
    /// The step that errors name.
    step: AtomicU64,
    state: Mutex<State>,
}

struct State {
    /// Exchanges so far.
    number: u64,
    /// The longest time that an exchange took to come to its end.
    longest: BTreeMap<&'static str, Duration>,
    /// Time that this rank has spent on exchanges.
    waited: Duration,
    broken: Option<RankError>,
}

impl Ranks {
    /// A run of one.
    #[must_use]
    pub fn alone() -> Self {
        Self::build(None, Duration::ZERO, Arc::default())
    }

    /// The ranks behind a link. The others are waited for at most `limit`, and hardly at all once `stop`
    /// is set.
    #[must_use]
    pub fn new(link: Box<dyn Link>, limit: Duration, stop: Arc<AtomicBool>) -> Self {
        Self::build(Some(link), limit, stop)
    }

    fn build(link: Option<Box<dyn Link>>, limit: Duration, stop: Arc<AtomicBool>) -> Self {
        Self {
            link,
            limit,
            stop,
            step: AtomicU64::new(0),
            state: Mutex::new(State {
                number: 0,
                longest: BTreeMap::new(),
                waited: Duration::ZERO,
                broken: None,
            }),
        }
    }

    /// This rank, counted from 0.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.link.as_ref().map_or(0, |link| link.rank())
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.link.as_ref().map_or(1, |link| link.count())
    }

    /// Whether this is the rank that writes and prints.
    #[must_use]
    pub fn is_first(&self) -> bool {
        self.rank() == 0
    }

    /// How long the others are waited for.
    #[must_use]
    pub fn limit(&self) -> Duration {
        self.limit
    }

    /// The step, counted from 1, that errors name from here on.
    pub fn begin_step(&self, step: u64) {
        self.step.store(step, Ordering::Relaxed);
    }

    /// Time that this rank has spent on exchanges: most of it waiting, where others are slower.
    #[must_use]
    pub fn waited(&self) -> Duration {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.waited
    }

    /// Does what waits for the other ranks by another way than the own, and counts its time with that of exchanges.
    pub fn waiting<T>(&self, wait: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = wait();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.waited += start.elapsed();
        result
    }

    /// The first error, if there was one.
    #[must_use]
    pub fn broken(&self) -> Option<RankError> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.broken.clone()
    }

    /// What every rank gives, in their order.
    ///
    /// # Errors
    /// A rank that is silent, has failed or is elsewhere.
    pub fn gather(&self, what: &'static str, own: &[u8]) -> Result<Vec<Vec<u8>>, RankError> {
        if self.link.is_none() {
            return Ok(vec![own.to_vec()]);
        }
        let given = self.exchange(what, Given::Same(letter([own])))?;
        Ok(given.iter().map(|contents| (**contents).to_vec()).collect())
    }

    /// Refuses ranks whose `own` differs from that of rank 0.
    ///
    /// # Errors
    /// As [`Self::gather`]; the ranks that differ.
    pub fn agree(&self, what: &'static str, own: &[u8]) -> Result<(), RankError> {
        let given = self.gather(what, own)?;
        let differs = |(rank, of): (usize, &Vec<u8>)| (given.first() != Some(of)).then_some(rank);
        let ranks: Vec<usize> = given.iter().enumerate().filter_map(differs).collect();
        if ranks.is_empty() {
            return Ok(());
        }
        Err(self.breaks(RankError::Differ { what, ranks }))
    }

    /// Tells the others why this rank ends: they get it in place of what they ask for next. Does nothing
    /// where the ranks have an error already.
    pub fn fail(&self, message: &str) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (Some(link), None) = (&self.link, &state.broken) else {
            return;
        };
        let parcel = sealed(letter([message.as_bytes()]), FAILURE, state.number);
        // Whether they hear it cannot matter any more.
        let clock = Clock::default();
        let _ = link.exchange(vec![parcel; link.count()], &|| clock.waited() < STOP_GRACE);
        state.broken = Some(RankError::Failed {
            rank: link.rank(),
            message: message.to_owned(),
        });
    }

    pub(crate) fn exchange(
        &self,
        what: &'static str,
        given: Given,
    ) -> Result<Vec<Contents>, RankError> {
        let Some(link) = &self.link else {
            return Ok(Vec::new());
        };
        let (number, longest) = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(error) = &state.broken {
                return Err(error.clone());
            }
            state.number += 1;
            let longest = state.longest.get(what).copied().unwrap_or_default();
            (state.number - 1, longest)
        };
        let seal = |letter| sealed(letter, DATA, number);
        let parcels = match given {
            Given::Same(letter) => vec![seal(letter); link.count()],
            Given::Each(letters) => letters.into_iter().map(seal).collect(),
        };
        let (clock, asked) = (Clock::default(), Cell::new(None));
        let grace = STOP_GRACE.max(2 * longest);
        let wait = || {
            let waited = clock.waited();
            if self.stop.load(Ordering::Relaxed) && asked.get().is_none() {
                asked.set(Some(waited));
            }
            let since = asked.get().map(|asked| waited - asked);
            waited < self.limit && since.is_none_or(|since| since < grace)
        };
        let given = link.exchange(parcels, &wait).map_err(|Silent(ranks)| {
            let silence = Silence {
                ranks,
                step: self.step.load(Ordering::Relaxed),
                what,
                seconds: clock.waited().as_secs(),
            };
            self.breaks(match asked.get() {
                Some(_) => RankError::Stopped(silence),
                None => RankError::Silent(silence),
            })
        })?;
        {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let longest = state.longest.entry(what).or_default();
            *longest = clock.waited().max(*longest);
            state.waited += clock.waited();
        }
        let opened = given.into_iter().enumerate().map(|(rank, parcel)| {
            let (contents, kind, theirs) =
                opened(parcel).ok_or_else(|| self.breaks(self.astray(rank, what)))?;
            match kind {
                DATA if theirs == number => Ok(contents),
                FAILURE => {
                    let message = String::from_utf8_lossy(&contents).into_owned();
                    Err(self.breaks(RankError::Failed { rank, message }))
                }
                _ => Err(self.breaks(self.astray(rank, what))),
            }
        });
        opened.collect()
    }

    pub(crate) fn astray(&self, rank: usize, what: &'static str) -> RankError {
        let step = self.step.load(Ordering::Relaxed);
        RankError::Astray { rank, what, step }
    }

    /// Keeps the first error.
    pub(crate) fn breaks(&self, error: RankError) -> RankError {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.broken.get_or_insert(error).clone()
    }
}

/// How long something is waited for, without the time in which this process did not run.
struct Clock(Cell<(Instant, Duration)>);

impl Default for Clock {
    fn default() -> Self {
        Self(Cell::new((Instant::now(), Duration::ZERO)))
    }
}

impl Clock {
    fn waited(&self) -> Duration {
        let (last, waited) = self.0.get();
        let now = Instant::now();
        let waited = waited + (now - last).min(STANDSTILL);
        self.0.set((now, waited));
        waited
    }
}

/// What a rank gives in an exchange: [`letter`]s.
pub(crate) enum Given {
    /// To all the same.
    Same(Vec<u8>),
    /// To each rank its own.
    Each(Vec<Vec<u8>>),
}

/// Bytes in one piece, with room for what seals them.
pub(crate) fn letter<'a>(parts: impl IntoIterator<Item = &'a [u8], IntoIter: Clone>) -> Vec<u8> {
    let parts = parts.into_iter();
    let len = parts.clone().map(<[u8]>::len).sum::<usize>();
    let mut letter = Vec::with_capacity(len + TAIL);
    parts.for_each(|part| letter.extend_from_slice(part));
    letter
}

fn sealed(mut letter: Vec<u8>, kind: u8, number: u64) -> Parcel {
    letter.push(kind);
    letter.extend_from_slice(&number.to_le_bytes());
    Parcel::new(letter)
}

/// What a parcel holds.
pub(crate) struct Contents(Parcel);

impl Deref for Contents {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let end = self.0.len().saturating_sub(TAIL);
        self.0.get(..end).unwrap_or_default()
    }
}

/// Contents, kind and number.
fn opened(parcel: Parcel) -> Option<(Contents, u8, u64)> {
    let (kind, number) = parcel.last_chunk::<TAIL>()?.split_first()?;
    let (kind, number) = (*kind, u64::from_le_bytes(number.try_into().ok()?));
    Some((Contents(parcel), kind, number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::threads::{all, threads};

    #[test]
    fn what_is_gathered_comes_in_order() {
        let found = all(3, |ranks| {
            let own = vec![ranks.rank() as u8; ranks.rank()];
            ranks.gather("test", &own).unwrap()
        });
        assert!(
            found
                .iter()
                .all(|all| *all == [vec![], vec![1], vec![2, 2]])
        );
    }

    #[test]
    fn who_differs_is_named() {
        let found = all(3, |ranks| {
            let own: &[u8] = if ranks.rank() == 1 { b"b" } else { b"a" };
            ranks.agree("recipe", own).unwrap_err().to_string()
        });
        assert!(
            found
                .iter()
                .all(|error| error == "rank 1 is not on the same recipe as rank 0")
        );
    }

    #[test]
    fn who_has_gone_is_named_with_step_and_collective() {
        let found = all(3, |ranks| {
            ranks.begin_step(7);
            if ranks.rank() == 2 {
                return String::new();
            }
            let error = ranks.gather("gradients", &[1]).unwrap_err();
            // It is not waited for twice.
            assert_eq!(ranks.gather("more", &[1]).unwrap_err(), error);
            assert!(error.misses(2) && !error.misses(0));
            error.to_string()
        });
        let expected = "rank 2 sent nothing for `gradients` in step 7 within 0 s";
        assert_eq!(found, [expected, expected, ""]);
    }

    #[test]
    fn who_hangs_is_not_waited_for_longer_than_the_limit() {
        let mut links = threads(2);
        let _silent = links.pop();
        let link = links.pop().unwrap();
        let ranks = Ranks::new(Box::new(link), Duration::ZERO, Arc::default());
        let error = ranks.sum("gradients", &mut [&mut [1.0]]).unwrap_err();
        assert!(error.misses(1), "{error}");
        assert!(error.hint().unwrap().contains("--rank-limit"));
    }

    #[test]
    fn a_stop_ends_waiting() {
        let mut links = threads(2);
        let _silent = links.pop();
        let link = links.pop().unwrap();
        let stop = Arc::new(AtomicBool::new(true));
        let ranks = Ranks::new(Box::new(link), Duration::from_secs(3600), stop);
        let error = ranks.gather("features", &[]).unwrap_err();
        assert!(matches!(error, RankError::Stopped(_)), "{error}");
    }

    #[test]
    fn why_a_rank_failed_is_told() {
        let found = all(3, |ranks| {
            ranks.gather("before", &[]).unwrap();
            if ranks.rank() == 1 {
                ranks.fail("the disk is full");
            }
            ranks.gather("after", &[]).unwrap_err().to_string()
        });
        assert!(
            found
                .iter()
                .all(|error| error == "rank 1 failed: the disk is full")
        );
    }

    #[test]
    fn who_is_elsewhere_is_noticed() {
        let found = all(2, |ranks| {
            let mut values = vec![0.0; 4 + 2 * ranks.rank()];
            ranks
                .sum("gradients", &mut [&mut values])
                .unwrap_err()
                .to_string()
        });
        assert!(found[0].contains("rank 1 did not send"), "{found:?}");
    }
}
