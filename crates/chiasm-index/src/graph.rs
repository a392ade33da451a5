//! Approximate search: a hierarchy of neighbourhood graphs over the rows (HNSW, Malkov and Yashunin 2018).
//!
//! The graph holds numbers of rows and nothing else; scores are those of the vectors themselves, as in an exact search.
//! So a wrong or damaged graph can make a search miss a row, and cannot make a score wrong; numbers that are not there
//! are passed over. Rows that were added after it was built are searched exactly, rows that were removed are walked
//! through and not answered with.
//!
//! # Two differences from the paper
//!
//! * Rows are inserted in batches, against the graph as it was before the batch, as in ParlayANN (Manohar et al. 2024).
//!   A row does not see those of its batch, and in return the graph is the same for any number of threads.
//! * The order is by level and then by a hash of the row: the highest rows first, so that the way down is complete
//!   before the bulk comes, and near duplicates that were added one after another do not share a batch.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::ops::Range;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use crate::best::{Candidate, better_first};
use crate::error::IndexError;
use crate::layout::{HEADER, Identity, first, graph_path, header};
use crate::map::Map;
use crate::products::gather;
use crate::reader::Index;

/// Neighbours that a new row gets, and the most it has on upper levels. On the lowest it may have twice as many.
const DEGREE: usize = 16;
/// How many of the nearest rows a row's neighbours are chosen from.
const BUILD_BREADTH: usize = 128;
/// Most levels above the lowest; each has a sixteenth of the rows below it.
const MAX_LEVELS: usize = 8;
/// A batch is at most this share of the rows before it.
const BATCH_SHARE: usize = 32;
const MAX_BATCH: usize = 4096;
/// A slot without a neighbour.
const NONE: u32 = u32::MAX;

/// Bytes before the neighbours: the header and a block of numbers.
const START: usize = HEADER + 64;
const HEADER_NAME: &str = "graph";

/// A graph on disk.
#[derive(Debug)]
pub(crate) struct Graph {
    path: PathBuf,
    map: Map,
    covered: usize,
    entry: u32,
    lowest: Range<usize>,
    /// Rows and slots of the upper levels, in u32 after the start, from the lowest up.
    upper: Vec<(Range<usize>, Range<usize>)>,
    body_check: [u8; 8],
}

/// The numbers of the block after the header.
struct Block {
    covered: u64,
    entry: u32,
    /// Rows of the levels above the lowest.
    counts: [u32; MAX_LEVELS],
    body_check: [u8; 8],
}

impl Block {
    fn bytes(&self, header: &[u8; HEADER]) -> [u8; 64] {
        let mut out = [0; 64];
        let counts = self.counts.iter().flat_map(|count| count.to_le_bytes());
        let values = (self.covered.to_le_bytes().into_iter())
            .chain(self.entry.to_le_bytes())
            .chain(counts)
            .chain(self.body_check);
        for (to, from) in out.iter_mut().zip(values) {
            *to = from;
        }
        if let Some((guarded, guard)) = out.split_last_chunk_mut::<8>() {
            *guard = Self::guard(header, guarded);
        }
        out
    }

    fn parse(header: &[u8; HEADER], bytes: &[u8]) -> Option<Self> {
        let (guarded, guard) = bytes.split_last_chunk::<8>()?;
        if Self::guard(header, guarded) != *guard {
            return None;
        }
        let (covered, rest) = guarded.split_first_chunk()?;
        let (entry, rest) = rest.split_first_chunk()?;
        let (numbers, rest) = rest.split_first_chunk::<{ 4 * MAX_LEVELS }>()?;
        let mut counts = [0; MAX_LEVELS];
        for (count, number) in counts.iter_mut().zip(numbers.as_chunks().0) {
            *count = u32::from_le_bytes(*number);
        }
        Some(Self {
            covered: u64::from_le_bytes(*covered),
            entry: u32::from_le_bytes(*entry),
            counts,
            body_check: *rest.first_chunk()?,
        })
    }

    fn guard(header: &[u8; HEADER], guarded: &[u8]) -> [u8; 8] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(header).update(guarded);
        first(&hasher.finalize())
    }
}

impl Graph {
    /// The graph of a generation. `None` if there is none or it is of no use: search is exact then.
    pub(crate) fn open(
        folder: &Path,
        identity: &Identity,
        generation: u32,
        rows: usize,
    ) -> Option<Self> {
        let path = graph_path(folder, generation);
        let file = File::open(&path).ok()?;
        let len = file.metadata().ok()?.len();
        let map = Map::new(&file, len).ok()?;
        let header = header(HEADER_NAME, generation, identity);
        if map.get(..HEADER)? != header {
            return None;
        }
        let block = Block::parse(&header, map.get(HEADER..START)?)?;
        let covered = usize::try_from(block.covered).ok()?;
        if covered > rows {
            return None;
        }
        let mut at = covered.checked_mul(2 * DEGREE)?;
        let lowest = 0..at;
        let mut upper = Vec::new();
        for count in block.counts.into_iter().take_while(|count| *count > 0) {
            let slots = at.checked_add(count as usize)?;
            let end = slots.checked_add((count as usize).checked_mul(DEGREE)?)?;
            upper.push((at..slots, slots..end));
            at = end;
        }
        let expected = at.checked_mul(4)?.checked_add(START)?;
        (map.len() == expected).then_some(Self {
            path,
            covered,
            entry: block.entry,
            lowest,
            upper,
            body_check: block.body_check,
            map,
        })
    }

    /// Rows before this one are in the graph.
    pub(crate) fn covered(&self) -> usize {
        self.covered
    }

    /// Compares the file with its hash.
    pub(crate) fn verify(&self) -> Result<(), IndexError> {
        let body = self.map.get(START..).unwrap_or_default();
        if body_check(body) == self.body_check {
            return Ok(());
        }
        let reason =
            "it is not what was written; remove it, searches are exact until it is built again";
        Err(IndexError::damaged(&self.path, reason))
    }

    /// About the nearest `breadth` rows that are there, best first.
    pub(crate) fn search(&self, index: &Index, query: &[f32], breadth: usize) -> Vec<Candidate> {
        let body = self.map.get(START..).unwrap_or_default();
        let numbers: &[u32] = bytemuck::try_cast_slice(body).unwrap_or_default();
        let part = |range: &Range<usize>| numbers.get(range.clone()).unwrap_or_default();
        let mut walk = Walk::new(index.vectors(), self.covered);
        let Some(mut at) = walk.start(self.entry, query) else {
            return Vec::new();
        };
        for (rows, slots) in self.upper.iter().rev() {
            let layer = Layer {
                rows: Some(part(rows)),
                slots: part(slots),
                degree: DEGREE,
            };
            at = walk.climb(layer, at, query);
        }
        let layer = Layer {
            rows: None,
            slots: part(&self.lowest),
            degree: 2 * DEGREE,
        };
        walk.nearest(layer, &[at], query, breadth, |row| {
            !index.is_removed(row as usize)
        })
    }

    /// Builds the graph of an index and writes it into its folder.
    ///
    /// In memory it is as large as on disk: about 140 bytes a row. A row costs some thousand products.
    pub(crate) fn build(index: &Index, generation: u32) -> Result<(), IndexError> {
        let stride = index.identity().stride();
        let rows = index.rows();
        let mut order: Vec<(Reverse<usize>, u64, u32)> = index
            .live_rows()
            .map(|row| {
                (
                    Reverse(level(row as u32)),
                    scrambled(row as u32),
                    row as u32,
                )
            })
            .collect();
        order.par_sort_unstable();
        let mut levels = Levels::new(rows, &order);
        // The first is the highest, so every search can begin with it.
        let entry = order.first().map_or(NONE, |(_, _, row)| *row);
        let mut done = 1;
        while done < order.len() {
            let size = (done / BATCH_SHARE).clamp(1, MAX_BATCH);
            let batch = order.get(done..).unwrap_or_default();
            let batch = batch.get(..size).unwrap_or(batch);
            levels.insert(index.vectors(), stride, entry, batch);
            done += batch.len();
        }
        let path = graph_path(index.folder(), generation);
        let header = header(HEADER_NAME, generation, index.identity());
        levels
            .write(&path, &header, rows as u64, entry)
            .map_err(IndexError::io(&path))
    }
}

fn body_check(body: &[u8]) -> [u8; 8] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(body);
    first(&hasher.finalize())
}

/// Neighbours of the rows of one level.
#[derive(Clone, Copy)]
struct Layer<'a> {
    /// Which rows it has, ascending; all of them if `None`.
    rows: Option<&'a [u32]>,
    /// `[rows, degree]`; those without a neighbour come last and are [`NONE`].
    slots: &'a [u32],
    degree: usize,
}

impl<'a> Layer<'a> {
    fn place(&self, row: u32) -> Option<usize> {
        match self.rows {
            None => Some(row as usize),
            Some(rows) => rows.binary_search(&row).ok(),
        }
    }

    fn neighbours(&self, row: u32) -> &'a [u32] {
        let slots = || {
            let start = self.place(row)?.checked_mul(self.degree)?;
            self.slots.get(start..start.checked_add(self.degree)?)
        };
        let slots = slots().unwrap_or_default();
        let end = slots.iter().position(|slot| *slot == NONE);
        slots.get(..end.unwrap_or(slots.len())).unwrap_or_default()
    }
}

/// What a search carries along, to be used again by the next.
struct Walk<'a> {
    vectors: &'a [f32],
    visited: Visited,
    fresh: Vec<u32>,
    scores: Vec<f32>,
}

impl<'a> Walk<'a> {
    fn new(vectors: &'a [f32], rows: usize) -> Self {
        Self {
            vectors,
            visited: Visited {
                words: vec![0; rows.div_ceil(64)],
                touched: Vec::new(),
            },
            fresh: Vec::new(),
            scores: Vec::new(),
        }
    }

    fn start(&mut self, entry: u32, query: &[f32]) -> Option<Candidate> {
        gather(self.vectors, &[entry], query, &mut self.scores);
        Candidate::new(*self.scores.first()?, entry)
    }

    /// Goes to the best neighbour until none is better.
    fn climb(&mut self, layer: Layer<'_>, mut at: Candidate, query: &[f32]) -> Candidate {
        loop {
            let neighbours = layer.neighbours(at.row);
            gather(self.vectors, neighbours, query, &mut self.scores);
            let scored = neighbours.iter().zip(&self.scores);
            let best = scored
                .filter_map(|(row, score)| Candidate::new(*score, *row))
                .max();
            match best {
                // Better by the total order, so this ends.
                Some(best) if best > at => at = best,
                _ => return at,
            }
        }
    }

    /// The paper's algorithm 2: about the `breadth` nearest rows that `counts` lets through, best first.
    fn nearest(
        &mut self,
        layer: Layer<'_>,
        from: &[Candidate],
        query: &[f32],
        breadth: usize,
        counts: impl Fn(u32) -> bool,
    ) -> Vec<Candidate> {
        self.visited.clear();
        let mut open = BinaryHeap::new();
        let mut best = BinaryHeap::new();
        for candidate in from {
            if self.visited.insert(candidate.row) {
                open.push(*candidate);
                if counts(candidate.row) {
                    best.push(Reverse(*candidate));
                }
            }
        }
        while let Some(next) = open.pop() {
            let worst = best.peek().map(|Reverse(worst)| *worst);
            if best.len() >= breadth && worst.is_none_or(|worst| next < worst) {
                break;
            }
            let (visited, fresh) = (&mut self.visited, &mut self.fresh);
            fresh.clear();
            let neighbours = layer.neighbours(next.row).iter().copied();
            fresh.extend(neighbours.filter(|row| visited.insert(*row)));
            gather(self.vectors, fresh, query, &mut self.scores);
            for (row, score) in fresh.iter().zip(&self.scores) {
                let Some(candidate) = Candidate::new(*score, *row) else {
                    continue;
                };
                let full = best.len() >= breadth;
                if full && best.peek().is_none_or(|Reverse(worst)| candidate < *worst) {
                    continue;
                }
                open.push(candidate);
                if counts(*row) {
                    best.push(Reverse(candidate));
                    if full {
                        best.pop();
                    }
                }
            }
        }
        let mut found: Vec<Candidate> = best.into_iter().map(|Reverse(found)| found).collect();
        found.sort_unstable_by(better_first);
        found
    }

    /// The paper's algorithm 4: of candidates, best first, those that are nearer to the row than to one already chosen.
    /// They lie in different directions, which is what lets a search move through a cluster and out of it.
    fn choose(&mut self, stride: usize, candidates: &[Candidate], most: usize) -> Vec<u32> {
        let mut chosen: Vec<u32> = Vec::with_capacity(most);
        for candidate in candidates {
            if chosen.len() == most {
                break;
            }
            let start = candidate.row as usize * stride;
            let Some(vector) = self.vectors.get(start..start + stride) else {
                continue;
            };
            let (vectors, scores) = (self.vectors, &mut self.scores);
            // A few at a time: most of those that are left out are so for one of the first.
            let apart = chosen.chunks(4).all(|chosen| {
                gather(vectors, chosen, vector, scores);
                scores.iter().all(|score| *score <= candidate.score)
            });
            if apart {
                chosen.push(candidate.row);
            }
        }
        chosen
    }
}

/// Rows that a search has seen.
struct Visited {
    words: Vec<u64>,
    touched: Vec<u32>,
}

impl Visited {
    /// False for a row that was seen, or that there is not.
    fn insert(&mut self, row: u32) -> bool {
        let Some(word) = self.words.get_mut(row as usize / 64) else {
            return false;
        };
        let bit = 1 << (row % 64);
        let fresh = *word & bit == 0;
        if *word == 0 {
            self.touched.push(row / 64);
        }
        *word |= bit;
        fresh
    }

    fn clear(&mut self) {
        for word in self.touched.drain(..) {
            if let Some(word) = self.words.get_mut(word as usize) {
                *word = 0;
            }
        }
    }
}

/// A graph while it is built.
struct Levels {
    /// From the lowest up.
    layers: Vec<Owned>,
}

struct Owned {
    /// `None` for the lowest, which has them all.
    rows: Option<Vec<u32>>,
    slots: Vec<u32>,
    degree: usize,
}

impl Owned {
    fn layer(&self) -> Layer<'_> {
        Layer {
            rows: self.rows.as_deref(),
            slots: &self.slots,
            degree: self.degree,
        }
    }

    fn set(&mut self, row: u32, neighbours: &[u32]) {
        let Some(place) = self.layer().place(row) else {
            return;
        };
        let slots = self.slots.chunks_exact_mut(self.degree).nth(place);
        let values = neighbours.iter().copied().chain(std::iter::repeat(NONE));
        for (slot, value) in slots.into_iter().flatten().zip(values) {
            *slot = value;
        }
    }
}

/// A row and its neighbours on one level.
struct Links {
    level: usize,
    row: u32,
    neighbours: Vec<u32>,
}

impl Levels {
    fn new(rows: usize, order: &[(Reverse<usize>, u64, u32)]) -> Self {
        let highest = order.first().map_or(0, |(Reverse(level), ..)| *level);
        let lowest = Owned {
            rows: None,
            slots: vec![NONE; rows * 2 * DEGREE],
            degree: 2 * DEGREE,
        };
        let upper = (1..=highest).map(|at| {
            let members = order.iter().take_while(|(Reverse(level), ..)| *level >= at);
            let mut members: Vec<u32> = members.map(|(_, _, row)| *row).collect();
            members.sort_unstable();
            Owned {
                slots: vec![NONE; members.len() * DEGREE],
                rows: Some(members),
                degree: DEGREE,
            }
        });
        Self {
            layers: std::iter::once(lowest).chain(upper).collect(),
        }
    }

    /// Inserts rows that do not see each other.
    fn insert(
        &mut self,
        vectors: &[f32],
        stride: usize,
        entry: u32,
        batch: &[(Reverse<usize>, u64, u32)],
    ) {
        let rows = vectors.len() / stride;
        let walk = || Walk::new(vectors, rows);
        let new: Vec<Links> = batch
            .par_iter()
            .map_init(walk, |walk, (Reverse(level), _, row)| {
                self.links_of(walk, stride, entry, *row, *level)
            })
            .flatten_iter()
            .collect();
        // The way back: every neighbour gets the new row, and chooses again where it has too many.
        let mut back: Vec<(usize, u32, u32)> = new
            .iter()
            .flat_map(|links| {
                let to = links.neighbours.iter();
                to.map(|neighbour| (links.level, *neighbour, links.row))
            })
            .collect();
        back.par_sort_unstable();
        let groups: Vec<&[(usize, u32, u32)]> =
            back.chunk_by(|a, b| (a.0, a.1) == (b.0, b.1)).collect();
        let changed: Vec<Links> = groups
            .par_iter()
            .map_init(walk, |walk, group| self.with_new(walk, stride, group))
            .flatten_iter()
            .collect();
        for links in new.iter().chain(&changed) {
            if let Some(layer) = self.layers.get_mut(links.level) {
                layer.set(links.row, &links.neighbours);
            }
        }
    }

    fn links_of(
        &self,
        walk: &mut Walk<'_>,
        stride: usize,
        entry: u32,
        row: u32,
        level: usize,
    ) -> Vec<Links> {
        let start = row as usize * stride;
        let query = walk.vectors.get(start..start + stride);
        let Some((query, mut at)) =
            query.and_then(|query| Some((query, walk.start(entry, query)?)))
        else {
            return Vec::new();
        };
        for layer in self.layers.iter().skip(level + 1).rev() {
            at = walk.climb(layer.layer(), at, query);
        }
        let mut from = vec![at];
        let mut links = Vec::new();
        for (at, layer) in self.layers.iter().enumerate().take(level + 1).rev() {
            let near = walk.nearest(layer.layer(), &from, query, BUILD_BREADTH, |_| true);
            links.push(Links {
                level: at,
                row,
                neighbours: walk.choose(stride, &near, DEGREE),
            });
            from = near;
        }
        links
    }

    /// The neighbours of a row with those that have become its neighbours.
    fn with_new(
        &self,
        walk: &mut Walk<'_>,
        stride: usize,
        group: &[(usize, u32, u32)],
    ) -> Option<Links> {
        let (level, row, _) = *group.first()?;
        let layer = self.layers.get(level)?;
        let mut neighbours = layer.layer().neighbours(row).to_vec();
        neighbours.extend(group.iter().map(|(_, _, new)| *new));
        if neighbours.len() > layer.degree {
            let start = row as usize * stride;
            let vector = walk.vectors.get(start..start + stride)?;
            gather(walk.vectors, &neighbours, vector, &mut walk.scores);
            let scored = neighbours.iter().zip(&walk.scores);
            let mut candidates: Vec<Candidate> = scored
                .filter_map(|(row, score)| Candidate::new(*score, *row))
                .collect();
            candidates.sort_unstable_by(better_first);
            neighbours = walk.choose(stride, &candidates, layer.degree);
        }
        Some(Links {
            level,
            row,
            neighbours,
        })
    }

    fn write(
        &self,
        path: &Path,
        header: &[u8; HEADER],
        covered: u64,
        entry: u32,
    ) -> io::Result<()> {
        let parts = || {
            let layers = self.layers.iter();
            layers.flat_map(|layer| [layer.rows.as_deref().unwrap_or_default(), &layer.slots])
        };
        let mut hasher = blake3::Hasher::new();
        for part in parts() {
            hasher.update(bytemuck::cast_slice(part));
        }
        let mut counts = [0; MAX_LEVELS];
        for (count, layer) in counts.iter_mut().zip(self.layers.iter().skip(1)) {
            *count = layer.rows.as_ref().map_or(0, Vec::len) as u32;
        }
        let block = Block {
            covered,
            entry,
            counts,
            body_check: first(&hasher.finalize()),
        };
        chiasm_format::atomic::write_atomically(path, |partial| {
            let mut file = BufWriter::new(File::create(partial)?);
            file.write_all(header)?;
            file.write_all(&block.bytes(header))?;
            for part in parts() {
                file.write_all(bytemuck::cast_slice(part))?;
            }
            file.flush()
        })
    }
}

/// How high a row stands: a level is reached by a sixteenth of the rows of the one below.
fn level(row: u32) -> usize {
    // Four bits a level; other bits than those that `order` sorts by first.
    let zeros = scrambled(row ^ 0x5bd1_e995).trailing_zeros() / 4;
    (zeros as usize).min(MAX_LEVELS)
}

/// The mixing step of SplitMix64 (Steele et al. 2014): the same numbers everywhere, in no order.
fn scrambled(row: u32) -> u64 {
    let mut x = u64::from(row)
        .wrapping_add(1)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
