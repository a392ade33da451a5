//! The ranks of a run: sums, gathered bytes, and agreement.

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

/// Numbers of a rank's segment in one exchange: what is copied and added up stays in the caches, and takes longer than
/// the exchange's latency.
const SEGMENT: usize = 1 << 16;

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
        let Some(link) = &self.link else {
            return Ok(vec![own.to_vec()]);
        };
        let given = self.exchange(what, &vec![own; link.count()])?;
        Ok(given.iter().map(|contents| (**contents).to_vec()).collect())
    }

    /// Puts the sums of all ranks' numbers in the place of the own ones: of all parts as if they were one buffer.
    ///
    /// # Errors
    /// As [`Self::gather`]; other ranks with more or fewer numbers are elsewhere.
    pub fn sum(&self, what: &'static str, parts: &mut [&mut [f32]]) -> Result<(), RankError> {
        if self.link.is_none() {
            return Ok(());
        }
        let len: usize = parts.iter().map(|part| part.len()).sum();
        let block = SEGMENT * self.count();
        let mut values = Vec::with_capacity(block.min(len));
        // Where the next block begins: a part, and a place in it.
        let mut place = (0, 0);
        loop {
            values.clear();
            each(parts, place, block, |part| values.extend_from_slice(part));
            if values.is_empty() {
                return Ok(());
            }
            self.sum_block(what, &mut values)?;
            let mut left = &values[..];
            place = each(parts, place, values.len(), |part| {
                let (own, rest) = left.split_at(part.len());
                part.copy_from_slice(own);
                left = rest;
            });
        }
    }

    /// Each rank adds up one segment and hands it out.
    fn sum_block(&self, what: &'static str, values: &mut [f32]) -> Result<(), RankError> {
        let (len, count, own) = (values.len(), self.count(), self.rank());
        let segment = |rank: usize| (rank * len / count)..((rank + 1) * len / count);
        let part = |rank: usize| match rank == own {
            true => &[],
            false => values.get(segment(rank)).unwrap_or_default(),
        };
        let parts = (0..count).map(|rank| bytemuck::cast_slice(part(rank)));
        let parts: Vec<&[u8]> = parts.collect();
        let given = self.exchange(what, &parts)?;
        let mut sums = vec![0.0f64; segment(own).len()];
        for (rank, contents) in given.iter().enumerate() {
            if rank == own {
                let numbers = values.get(segment(own)).unwrap_or_default();
                for (sum, number) in sums.iter_mut().zip(numbers) {
                    *sum += f64::from(*number);
                }
                continue;
            }
            let numbers = self.numbers(what, rank, contents, sums.len())?;
            for (sum, number) in sums.iter_mut().zip(numbers) {
                *sum += f64::from(f32::from_ne_bytes(*number));
            }
        }
        let sums: Vec<f32> = sums.into_iter().map(|sum| sum as f32).collect();
        let given = self.exchange(what, &vec![bytemuck::cast_slice(&sums); count])?;
        for (rank, contents) in given.iter().enumerate() {
            let segment = segment(rank);
            let numbers = self.numbers(what, rank, contents, segment.len())?;
            let values = values.get_mut(segment).unwrap_or_default();
            for (value, number) in values.iter_mut().zip(numbers) {
                *value = f32::from_ne_bytes(*number);
            }
        }
        Ok(())
    }

    /// So many numbers that a rank gave.
    fn numbers<'a>(
        &self,
        what: &'static str,
        rank: usize,
        bytes: &'a [u8],
        count: usize,
    ) -> Result<&'a [[u8; size_of::<f32>()]], RankError> {
        match bytes.as_chunks() {
            (numbers, []) if numbers.len() == count => Ok(numbers),
            _ => Err(self.breaks(self.astray(rank, what))),
        }
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
        let parcel = sealed(message.as_bytes(), FAILURE, state.number);
        // Whether they hear it cannot matter any more.
        let clock = Clock::default();
        let _ = link.exchange(vec![parcel; link.count()], &|| clock.waited() < STOP_GRACE);
        state.broken = Some(RankError::Failed {
            rank: link.rank(),
            message: message.to_owned(),
        });
    }

    fn exchange(&self, what: &'static str, parts: &[&[u8]]) -> Result<Vec<Contents>, RankError> {
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
        let mut parcels: Vec<Parcel> = Vec::with_capacity(parts.len());
        for (place, part) in parts.iter().enumerate() {
            // What all get is packed once.
            let before = place.checked_sub(1);
            let before =
                before.filter(|before| parts.get(*before).is_some_and(|of| same(of, part)));
            let before = before.and_then(|before| parcels.get(before).cloned());
            parcels.push(before.unwrap_or_else(|| sealed(part, DATA, number)));
        }
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

    fn astray(&self, rank: usize, what: &'static str) -> RankError {
        let step = self.step.load(Ordering::Relaxed);
        RankError::Astray { rank, what, step }
    }

    /// Keeps the first error.
    fn breaks(&self, error: RankError) -> RankError {
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

/// Whether two slices are one.
fn same(left: &[u8], right: &[u8]) -> bool {
    std::ptr::eq(left.as_ptr(), right.as_ptr()) && left.len() == right.len()
}

fn sealed(contents: &[u8], kind: u8, number: u64) -> Parcel {
    let mut parcel = Vec::with_capacity(contents.len() + TAIL);
    parcel.extend_from_slice(contents);
    parcel.push(kind);
    parcel.extend_from_slice(&number.to_le_bytes());
    Parcel::new(parcel)
}

/// Visits so many numbers of parts from a place on, or as many as there are; where the next one is.
fn each(
    parts: &mut [&mut [f32]],
    (mut part, mut first): (usize, usize),
    mut count: usize,
    mut visit: impl FnMut(&mut [f32]),
) -> (usize, usize) {
    while count > 0 {
        let Some(own) = parts.get_mut(part) else {
            break;
        };
        let end = own.len().min(first + count);
        let visited = own.get_mut(first..end).unwrap_or_default();
        count -= visited.len();
        visit(visited);
        if end == own.len() {
            (part, first) = (part + 1, 0);
        } else {
            first = end;
        }
    }
    (part, first)
}

/// What a parcel holds.
struct Contents(Parcel);

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
    fn sums_are_the_same_everywhere() {
        for count in [1, 2, 3, 5] {
            // Fewer numbers than ranks, and numbers that do not divide evenly.
            for len in [0, 1, 4, 17, 3 * SEGMENT] {
                let found = all(count, |ranks| {
                    let of = |place: usize| (ranks.rank() + 1) as f32 * (place as f32 + 0.1);
                    let mut values: Vec<f32> = (0..len).map(of).collect();
                    // In parts, one of them empty.
                    let (left, right) = values.split_at_mut(len / 3);
                    ranks.sum("test", &mut [left, &mut [], right]).unwrap();
                    values
                });
                let expected = |place: usize| {
                    let of = |rank: usize| f64::from((rank + 1) as f32 * (place as f32 + 0.1));
                    (0..count).map(of).sum::<f64>() as f32
                };
                let expected: Vec<f32> = (0..len).map(expected).collect();
                assert!(
                    found.iter().all(|values| *values == expected),
                    "{count} {len}"
                );
            }
        }
    }

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
