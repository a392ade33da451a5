//! One scan: coefficients out of bits (T.81, annexes F and G).

use super::bits::{Bits, Huffman, unstuff};
use super::{Block, Component, Frame, Tables, ZIGZAG, damaged, idct};
use crate::decode::DecodeError;

/// A scan header.
pub(super) struct Scan {
    /// Which components it holds, and their tables for the first and the other coefficients.
    members: Vec<Member>,
    /// First and last coefficient, in coded order.
    first: usize,
    last: usize,
    /// Bits known from earlier scans (0: none) and bits still missing after this one.
    known: u32,
    missing: u32,
}

struct Member {
    component: usize,
    dc: usize,
    ac: usize,
}

/// What blocks of a scan share.
struct State {
    /// The last first coefficient of each member.
    previous: [i32; 4],
    /// Blocks that a run of empty ones still covers.
    empty: u32,
}

impl Scan {
    pub(super) fn read(segment: &[u8], frame: &mut Frame) -> Result<Self, DecodeError> {
        let cut = || damaged("a scan header is cut off");
        let (count, rest) = segment.split_first().ok_or_else(cut)?;
        let count = usize::from(*count);
        let (specs, [first, last, approximation]) = rest
            .split_at_checked(count * 2)
            .and_then(|(specs, rest)| Some((specs, rest.first_chunk::<3>()?)))
            .ok_or_else(cut)?;
        let mut members: Vec<Member> = Vec::with_capacity(count.min(4));
        for spec in specs.chunks_exact(2) {
            let [id, tables] = *spec else {
                return Err(cut());
            };
            let component = frame
                .components
                .iter()
                .position(|component| component.id == id);
            let component = component
                .filter(|found| members.iter().all(|member| member.component != *found))
                .ok_or_else(|| damaged("a scan names a colour channel that does not exist"))?;
            members.push(Member {
                component,
                dc: usize::from(tables >> 4),
                ac: usize::from(tables & 15),
            });
        }
        let mut scan = Self {
            members,
            first: usize::from(*first),
            last: usize::from(*last),
            known: u32::from(approximation >> 4),
            missing: u32::from(approximation & 15),
        };
        if !frame.progressive {
            // Some encoders leave these fields empty; they mean nothing here.
            (scan.first, scan.last, scan.known, scan.missing) = (0, 63, 0, 0);
        } else if scan.last > 63
            || scan.first > scan.last
            || (scan.first == 0 && scan.last != 0)
            || (scan.first > 0 && scan.members.len() != 1)
            || scan.missing > 13
            || (scan.known > 0 && scan.known != scan.missing + 1)
        {
            return Err(damaged("a progressive scan has impossible parameters"));
        }
        if scan.members.is_empty() {
            return Err(damaged("a scan holds no colour channel"));
        }
        Ok(scan)
    }

    /// Decodes from `position` on and returns where the next marker is.
    pub(super) fn decode(
        &self,
        frame: &mut Frame,
        tables: &Tables,
        bytes: &[u8],
        mut position: usize,
    ) -> Result<usize, DecodeError> {
        for member in &self.members {
            let steps = frame
                .components
                .get_mut(member.component)
                .map(|component| (component.quantiser, &mut component.steps));
            if let Some((quantiser, steps @ None)) = steps {
                let table = tables.quantisers.get(quantiser).copied().flatten();
                *steps = Some(table.ok_or_else(|| damaged("a quantisation table is missing"))?);
            }
        }
        let units = Units::new(self, frame);
        let codes: Vec<Codes<'_>> = self
            .members
            .iter()
            .map(|member| Codes::new(member, tables))
            .collect();
        let mut buffer = Vec::new();
        position = unstuff(bytes, position, &mut buffer);
        let mut bits = Bits::new(&buffer);
        let mut state = State {
            previous: [0; 4],
            empty: 0,
        };
        let interval = match tables.restart_interval {
            0 => usize::MAX,
            interval => interval,
        };
        let (mut left, mut restarts) = (interval, 0u8);
        // One row of units where coefficients are not kept.
        let mut rows: Vec<Vec<Block<i16>>> = self
            .members
            .iter()
            .filter(|_| !frame.progressive)
            .filter_map(|member| frame.components.get(member.component))
            .map(|component| vec![[0; 64]; component.stride * units.down(component)])
            .collect();
        for y in 0..units.high {
            for row in &mut rows {
                row.as_flattened_mut().fill(0);
            }
            for x in 0..units.wide {
                if left == 0 {
                    if bits.overrun() {
                        return Err(too_short(bytes, position));
                    }
                    if bytes.get(position + 1) != Some(&(0xD0 + (restarts & 7))) {
                        return Err(damaged("a restart marker is missing"));
                    }
                    position = unstuff(bytes, position + 2, &mut buffer);
                    bits = Bits::new(&buffer);
                    state = State {
                        previous: [0; 4],
                        empty: 0,
                    };
                    restarts = restarts.wrapping_add(1);
                    left = interval;
                }
                left -= 1;
                for (index, (member, codes)) in self.members.iter().zip(&codes).enumerate() {
                    let Some(component) = frame.components.get_mut(member.component) else {
                        continue;
                    };
                    let (across, down) = (units.across(component), units.down(component));
                    let stride = component.stride;
                    let (blocks, row) = match rows.get_mut(index) {
                        Some(row) => (row, 0),
                        None => (&mut component.coefficients, y * down),
                    };
                    for v in 0..down {
                        let first = (row + v) * stride + x * across;
                        let blocks = blocks.get_mut(first..first + across).unwrap_or_default();
                        for block in blocks {
                            self.block(block, &mut bits, codes, index, &mut state)?;
                        }
                    }
                }
            }
            if bits.overrun() {
                return Err(too_short(bytes, position));
            }
            for (member, row) in self.members.iter().zip(&rows) {
                if let Some(component) = frame.components.get_mut(member.component) {
                    let down = units.down(component);
                    component.transform_rows(row, y * down);
                }
            }
        }
        Ok(position)
    }

    #[inline(always)]
    fn block(
        &self,
        block: &mut Block<i16>,
        bits: &mut Bits<'_>,
        codes: &Codes<'_>,
        member: usize,
        state: &mut State,
    ) -> Result<(), DecodeError> {
        let previous = &mut state.previous[member & 3];
        let done = if (self.first, self.last) == (0, 63) {
            sequential(block, bits, codes, previous)
        } else {
            match (self.first, self.known) {
                (0, 0) => first_coefficient(bits, codes.dc, previous).map(|value| {
                    block[0] = (value << self.missing) as i16;
                }),
                (0, _) => {
                    bits.refill();
                    block[0] |= (bits.take(1) << self.missing) as i16;
                    Some(())
                }
                (_, 0) => self.band(block, bits, codes, &mut state.empty),
                _ => self.refine(block, bits, codes, &mut state.empty),
            }
        };
        done.ok_or_else(|| damaged("its data holds a code that its tables do not have"))
    }

    /// A band of coefficients for the first time (G.1.2.2).
    fn band(
        &self,
        block: &mut Block<i16>,
        bits: &mut Bits<'_>,
        codes: &Codes<'_>,
        empty: &mut u32,
    ) -> Option<()> {
        if *empty > 0 {
            *empty -= 1;
            return Some(());
        }
        let table = codes.ac?;
        let mut place = self.first;
        while place <= self.last {
            bits.refill();
            let symbol = bits.symbol(table)?;
            let (run, size) = (usize::from(symbol >> 4), u32::from(symbol & 15));
            match (run, size) {
                (15, 0) => place += 16,
                (run, 0) => {
                    *empty = (1 << run) - 1 + bits.take(run as u32);
                    break;
                }
                _ => {
                    place += run;
                    let value = bits.signed(size) << self.missing;
                    block[usize::from(*ZIGZAG.get(place)?) & 63] = value as i16;
                    place += 1;
                }
            }
        }
        Some(())
    }

    /// One more bit for a band of coefficients (G.1.2.3).
    fn refine(
        &self,
        block: &mut Block<i16>,
        bits: &mut Bits<'_>,
        codes: &Codes<'_>,
        empty: &mut u32,
    ) -> Option<()> {
        let table = codes.ac?;
        let bit = 1i16 << self.missing;
        // Adds a bit, away from zero, to a coefficient that is known.
        let correct = |value: &mut i16, bits: &mut Bits<'_>| {
            bits.refill();
            if bits.take(1) == 1 && *value & bit == 0 {
                *value = value.wrapping_add(if *value > 0 { bit } else { -bit });
            }
        };
        let mut place = self.first;
        if *empty == 0 {
            while place <= self.last {
                bits.refill();
                let symbol = bits.symbol(table)?;
                let (mut run, size) = (symbol >> 4, symbol & 15);
                let mut new = 0;
                if size != 0 {
                    new = if bits.take(1) == 1 { bit } else { -bit };
                } else if run < 15 {
                    *empty = (1 << run) + bits.take(u32::from(run));
                    break;
                }
                while place <= self.last {
                    let value = &mut block[usize::from(ZIGZAG[place & 63])];
                    place += 1;
                    if *value != 0 {
                        correct(value, bits);
                    } else if run == 0 {
                        *value = new;
                        break;
                    } else {
                        run -= 1;
                    }
                }
            }
        }
        if *empty > 0 {
            for zigzag in ZIGZAG.iter().take(self.last + 1).skip(place) {
                let value = &mut block[usize::from(*zigzag) & 63];
                if *value != 0 {
                    correct(value, bits);
                }
            }
            *empty -= 1;
        }
        Some(())
    }
}

/// A whole block (F.2.2).
#[inline(always)]
fn sequential(
    block: &mut Block<i16>,
    bits: &mut Bits<'_>,
    codes: &Codes<'_>,
    previous: &mut i32,
) -> Option<()> {
    block[0] = first_coefficient(bits, codes.dc, previous)? as i16;
    let table = codes.ac?;
    let mut place = 1;
    while place < 64 {
        bits.refill();
        if let Some((value, run)) = bits.short_value(table) {
            place += run;
            block[usize::from(ZIGZAG[place]) & 63] = value;
            place += 1;
            continue;
        }
        let symbol = bits.symbol(table)?;
        let (run, size) = (usize::from(symbol >> 4), u32::from(symbol & 15));
        if size == 0 {
            if run < 15 {
                break;
            }
            place += 16;
        } else {
            place += run;
            block[usize::from(ZIGZAG[place]) & 63] = bits.signed(size) as i16;
            place += 1;
        }
    }
    Some(())
}

#[inline(always)]
fn first_coefficient(
    bits: &mut Bits<'_>,
    table: Option<&Huffman>,
    previous: &mut i32,
) -> Option<i32> {
    bits.refill();
    let size = bits.symbol(table?)?;
    if size > 15 {
        return None;
    }
    *previous = previous.wrapping_add(bits.signed(u32::from(size)));
    Some(*previous)
}

/// The tables of a member; a scan that needs one which is missing is damaged.
struct Codes<'a> {
    dc: Option<&'a Huffman>,
    ac: Option<&'a Huffman>,
}

impl<'a> Codes<'a> {
    #[inline(always)]
    fn new(member: &Member, tables: &'a Tables) -> Self {
        Self {
            dc: tables.dc.get(member.dc).and_then(Option::as_deref),
            ac: tables.ac.get(member.ac).and_then(Option::as_deref),
        }
    }
}

/// How many units a scan has and how many blocks of a component are in one: all that belong to a
/// patch of the picture where components take turns, one where a scan holds one component.
struct Units {
    wide: usize,
    high: usize,
    interleaved: bool,
}

impl Units {
    fn new(scan: &Scan, frame: &Frame) -> Self {
        let only = match scan.members.as_slice() {
            [member] => frame.components.get(member.component),
            _ => None,
        };
        match only {
            Some(component) => Self {
                wide: component.blocks_wide,
                high: component.blocks_high,
                interleaved: false,
            },
            None => Self {
                wide: frame.width.div_ceil(8 * frame.h_max),
                high: frame.height.div_ceil(8 * frame.v_max),
                interleaved: true,
            },
        }
    }

    #[inline(always)]
    const fn across(&self, component: &Component) -> usize {
        if self.interleaved { component.h } else { 1 }
    }

    #[inline(always)]
    const fn down(&self, component: &Component) -> usize {
        if self.interleaved { component.v } else { 1 }
    }
}

impl Component {
    /// Turns rows of blocks into samples, from block row `first` on.
    fn transform_rows(&mut self, blocks: &[Block<i16>], first: usize) {
        let Some(steps) = &self.steps else { return };
        let width = self.stride * 64;
        let rows = blocks.chunks_exact(self.stride);
        for (row, samples) in rows.zip(self.samples.chunks_exact_mut(width).skip(first)) {
            idct::transform_row(row, steps, samples);
        }
    }
}

/// The data ran out: at the end of the file, or at a marker that comes too early.
fn too_short(bytes: &[u8], position: usize) -> DecodeError {
    if position >= bytes.len() {
        DecodeError::Truncated("JPEG")
    } else {
        damaged("its data ends before the picture does")
    }
}
