//! Bits of a scan and the Huffman codes in them.

/// Bits that a table looks up at once. Longer codes are rare and searched for.
const LOOKUP_BITS: u32 = 9;

/// Zero bytes after the data, so that eight can be read at any place in it.
pub(super) const PADDING: usize = 8;

/// Copies the data of a scan from `position` to the next marker, without the zero bytes that stand
/// after each 0xFF in it, and adds [`PADDING`]. Returns where the marker is, or the end of the file.
pub(super) fn unstuff(bytes: &[u8], mut position: usize, out: &mut Vec<u8>) -> usize {
    out.clear();
    loop {
        let rest = bytes.get(position..).unwrap_or_default();
        let Some(plain) = memchr::memchr(0xFF, rest) else {
            out.extend_from_slice(rest);
            position = bytes.len();
            break;
        };
        out.extend_from_slice(rest.get(..plain).unwrap_or_default());
        position += plain;
        match bytes.get(position + 1) {
            Some(0) => {
                out.push(0xFF);
                position += 2;
            }
            // A fill byte before a marker.
            Some(0xFF) => position += 1,
            _ => break,
        }
    }
    out.extend([0; PADDING]);
    position
}

/// Reads bits, the highest first, out of what [`unstuff`] gave. Past the end it gives zeros;
/// [`Self::overrun`] tells.
pub(super) struct Bits<'a> {
    padded: &'a [u8],
    position: usize,
    /// The next bits from the top on. Below `count` of them lie bits that are read again.
    held: u64,
    count: u32,
}

impl<'a> Bits<'a> {
    pub(super) const fn new(padded: &'a [u8]) -> Self {
        Self {
            padded,
            position: 0,
            held: 0,
            count: 0,
        }
    }

    /// Makes at least 32 bits ready: a code of 16 and a value of 15.
    #[inline(always)]
    pub(super) fn refill(&mut self) {
        if self.count < 32 {
            let next = self
                .padded
                .get(self.position..)
                .and_then(|rest| rest.first_chunk::<8>());
            let word = next.map_or(0, |bytes| u64::from_be_bytes(*bytes));
            self.held |= word >> self.count;
            let bytes = (63 - self.count) / 8;
            self.position += bytes as usize;
            self.count += bytes * 8;
        }
    }

    /// The next `n` bits, at most 32, which stay.
    #[inline(always)]
    fn peek(&self, n: u32) -> u32 {
        // In two steps, because a shift by 64 is none.
        (self.held >> 1 >> (63 - n)) as u32
    }

    #[inline(always)]
    fn skip(&mut self, n: u32) {
        self.held <<= n;
        self.count -= n;
    }

    /// The next `n` bits as a number. At most as many as are ready.
    #[inline(always)]
    pub(super) fn take(&mut self, n: u32) -> u32 {
        let value = self.peek(n);
        self.skip(n);
        value
    }

    /// A signed value of `n` bits: the lower half of the range stands for negative numbers.
    #[inline(always)]
    pub(super) fn signed(&mut self, n: u32) -> i32 {
        let value = self.take(n) as i32;
        extend(value, n)
    }

    /// The next symbol; `None` for a code that the table does not have. Needs 16 bits ready.
    #[inline(always)]
    pub(super) fn symbol(&mut self, table: &Huffman) -> Option<u8> {
        let entry = table.short[self.peek(LOOKUP_BITS) as usize];
        if entry != 0 {
            self.skip(u32::from(entry >> 8));
            return Some(entry as u8);
        }
        self.long_symbol(table)
    }

    #[cold]
    fn long_symbol(&mut self, table: &Huffman) -> Option<u8> {
        let next = self.peek(16) as i32;
        for length in LOOKUP_BITS as usize + 1..=16 {
            if next < table.limits[length] {
                let code = next >> (16 - length);
                self.skip(length as u32);
                let index = usize::try_from(code + table.offsets[length]).ok()?;
                return table.symbols.get(index).copied();
            }
        }
        None
    }

    /// A short code together with its value: `(value, run of zeros before it)`.
    #[inline(always)]
    pub(super) fn short_value(&mut self, table: &Huffman) -> Option<(i16, usize)> {
        let entry = table.values[self.peek(LOOKUP_BITS) as usize];
        if entry == 0 {
            return None;
        }
        self.skip((entry & 15) as u32);
        Some((entry >> 8, (entry >> 4 & 15) as usize))
    }

    /// True when more was read than there is.
    pub(super) fn overrun(&self) -> bool {
        let read = self.position * 8 - self.count as usize;
        read > (self.padded.len() - PADDING) * 8
    }
}

#[inline(always)]
fn extend(value: i32, n: u32) -> i32 {
    if n > 0 && value < 1 << (n - 1) {
        value - (1 << n) + 1
    } else {
        value
    }
}

/// A Huffman table (T.81, annex C and F.2.2.3).
pub(super) struct Huffman {
    /// For each start of a code: its length and symbol as `length << 8 | symbol`; 0 for longer ones.
    short: [u16; 1 << LOOKUP_BITS],
    /// For codes that fit together with their value: `value << 8 | run << 4 | length of both`.
    values: [i16; 1 << LOOKUP_BITS],
    /// For each length the first 16 bits that belong to a longer code.
    limits: [i32; 17],
    /// For each length, what added to a code gives the place of its symbol.
    offsets: [i32; 17],
    symbols: Vec<u8>,
}

impl Huffman {
    /// `None` when the counts ask for more codes than there are.
    pub(super) fn new(counts: &[u8; 16], symbols: &[u8]) -> Option<Self> {
        let mut table = Self {
            short: [0; 1 << LOOKUP_BITS],
            values: [0; 1 << LOOKUP_BITS],
            limits: [0; 17],
            offsets: [0; 17],
            symbols: symbols.to_vec(),
        };
        let (mut code, mut index) = (0i32, 0i32);
        for (length, count) in (1usize..).zip(counts) {
            table.offsets[length] = index - code;
            for _ in 0..*count {
                if code >= 1 << length {
                    return None;
                }
                let symbol = symbols.get(usize::try_from(index).ok()?)?;
                table.add_short(code as u32, length as u32, *symbol);
                code += 1;
                index += 1;
            }
            table.limits[length] = code << (16 - length);
            code <<= 1;
        }
        table.add_values();
        Some(table)
    }

    fn add_short(&mut self, code: u32, length: u32, symbol: u8) {
        if length <= LOOKUP_BITS {
            let free = LOOKUP_BITS - length;
            let first = (code << free) as usize;
            let entry = (length as u16) << 8 | u16::from(symbol);
            if let Some(entries) = self.short.get_mut(first..first + (1 << free)) {
                entries.fill(entry);
            }
        }
    }

    /// Which starts hold a whole value. Those that do not fit into 8 bits are left out.
    fn add_values(&mut self) {
        for (next, (entry, out)) in (0u32..).zip(self.short.iter().zip(&mut self.values)) {
            let length = u32::from(entry >> 8);
            let (run, size) = (i32::from(entry >> 4 & 15), u32::from(entry & 15));
            if length == 0 || size == 0 || length + size > LOOKUP_BITS {
                continue;
            }
            let raw = next >> (LOOKUP_BITS - length - size) & ((1 << size) - 1);
            let value = extend(raw as i32, size);
            if (-128..128).contains(&value) {
                *out = (value << 8 | run << 4 | (length + size) as i32) as i16;
            }
        }
    }
}
