//! Sums of numbers over all ranks, a segment at each.

use crate::error::RankError;
use crate::ranks::{Given, Ranks, letter};

/// Numbers of a rank's segment in one exchange: few enough to stay in the caches, and so many that it hardly matters how
/// long an exchange takes to begin, which is milliseconds where threads of a rank share a core.
const SEGMENT: usize = 1 << 18;

/// Sums that are kept in 64 bits at a time.
const CHUNK: usize = 1024;

/// A number as it travels.
type Number = [u8; size_of::<f32>()];

impl Ranks {
    /// Puts the sums of all ranks' numbers in the place of the own ones: of all parts as if they were one buffer.
    ///
    /// # Errors
    /// As [`Self::gather`]; other ranks with more or fewer numbers are elsewhere.
    pub fn sum(&self, what: &'static str, parts: &mut [&mut [f32]]) -> Result<(), RankError> {
        if self.count() == 1 {
            return Ok(());
        }
        let (len, ranks) = (count(parts), self.count());
        let block = SEGMENT * ranks;
        let segments = (0..len).step_by(block).flat_map(|first| {
            let len = block.min(len - first);
            (0..ranks).map(move |rank| (rank + 1) * len / ranks - rank * len / ranks)
        });
        for segments in cut(parts, segments).chunks_mut(ranks) {
            self.sum_block(what, segments)?;
        }
        Ok(())
    }

    /// Each rank adds up one segment and hands it out.
    fn sum_block(&self, what: &'static str, segments: &mut [Segment<'_>]) -> Result<(), RankError> {
        let own = self.rank();
        let letters = segments.iter().enumerate();
        let letters = letters.map(|(rank, segment)| match rank == own {
            true => Vec::new(),
            false => letter(bytes(segment)),
        });
        let given = self.exchange(what, Given::Each(letters.collect()))?;
        let mut sums = Vec::new();
        if let Some(segment) = segments.get_mut(own) {
            let len = count(segment);
            let numbers = given.iter().enumerate().map(|(rank, contents)| {
                let len = if rank == own { 0 } else { len };
                self.numbers(what, rank, contents, len)
            });
            add_up(segment, own, &numbers.collect::<Result<Vec<_>, _>>()?);
            sums = letter(bytes(segment));
        }
        let given = self.exchange(what, Given::Same(sums))?;
        for (rank, (segment, contents)) in segments.iter_mut().zip(&given).enumerate() {
            let len = count(segment);
            let mut numbers = self.numbers(what, rank, contents, len)?;
            if rank == own {
                continue;
            }
            for part in segment {
                let (theirs, rest) = numbers.split_at(part.len());
                bytemuck::cast_slice_mut(part).copy_from_slice(theirs.as_flattened());
                numbers = rest;
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
    ) -> Result<&'a [Number], RankError> {
        match bytes.as_chunks() {
            (numbers, []) if numbers.len() == count => Ok(numbers),
            _ => Err(self.breaks(self.astray(rank, what))),
        }
    }
}

/// Numbers that one rank adds up: parts of what is summed, one behind the other.
type Segment<'a> = Vec<&'a mut [f32]>;

fn count(parts: &[&mut [f32]]) -> usize {
    parts.iter().map(|part| part.len()).sum()
}

fn bytes<'a>(segment: &'a Segment<'_>) -> impl Iterator<Item = &'a [u8]> + Clone {
    segment.iter().map(|part| bytemuck::cast_slice(part))
}

/// Cuts numbers into segments of these lengths.
fn cut<'a>(parts: &'a mut [&mut [f32]], lens: impl Iterator<Item = usize>) -> Vec<Segment<'a>> {
    let mut parts = parts.iter_mut();
    let mut rest: &mut [f32] = &mut [];
    let mut segment = |mut len: usize| {
        let mut segment = Vec::new();
        while len > 0 {
            if rest.is_empty() {
                match parts.next() {
                    Some(part) => rest = part,
                    None => break,
                }
            }
            let end = len.min(rest.len());
            let (own, others) = std::mem::take(&mut rest).split_at_mut(end);
            (rest, len) = (others, len - end);
            segment.push(own);
        }
        segment
    };
    lens.map(&mut segment).collect()
}

/// Puts the sums of all ranks' numbers in the place of the own ones: in the order of the ranks and in 64 bits.
fn add_up(segment: &mut Segment<'_>, own: usize, given: &[&[Number]]) {
    let (mut place, mut sums) = (0, [0.0f64; CHUNK]);
    for part in segment.iter_mut().flat_map(|part| part.chunks_mut(CHUNK)) {
        sums.fill(0.0);
        for (rank, theirs) in given.iter().enumerate() {
            if rank == own {
                for (sum, number) in sums.iter_mut().zip(&*part) {
                    *sum += f64::from(*number);
                }
            } else {
                let theirs = theirs.get(place..).unwrap_or_default();
                for (sum, number) in sums.iter_mut().zip(theirs) {
                    *sum += f64::from(f32::from_ne_bytes(*number));
                }
            }
        }
        for (value, sum) in part.iter_mut().zip(&sums) {
            *value = *sum as f32;
        }
        place += part.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::threads::all;

    #[test]
    fn sums_are_the_same_everywhere() {
        // Numbers of nearly and of utterly different sizes.
        let of = |rank: usize, place: usize| {
            let power = (place % 61) as i32 * [1, -1][rank % 2];
            (rank + 1) as f32 * (place as f32 + 0.1) * 2f32.powi(power)
        };
        for count in [1, 2, 3, 5] {
            // Fewer numbers than ranks, and numbers that do not divide evenly.
            for len in [0, 1, 4, 17, 3 * SEGMENT] {
                let found = all(count, |ranks| {
                    let own = ranks.rank();
                    let mut values: Vec<f32> = (0..len).map(|place| of(own, place)).collect();
                    // In parts, one of them empty.
                    let (left, right) = values.split_at_mut(len / 3);
                    ranks.sum("test", &mut [left, &mut [], right]).unwrap();
                    values
                });
                let expected = |place: usize| {
                    let of = |rank: usize| f64::from(of(rank, place));
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
}
