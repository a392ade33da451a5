//! The nearest records of a query.
//!
//! A score is the cosine of query and record, from -1 to 1. Hits come best first; equal scores in the order in which
//! the records were added. The result does not depend on the number of threads.

use std::ops::Range;

use rayon::prelude::*;

use crate::best::{Best, Candidate, better_first};
use crate::error::IndexError;
use crate::filter::Filter;
use crate::graph::Graph;
use crate::products::products;
use crate::reader::Index;
use crate::writer::normalised;

/// Rows of a task: at 256 numbers half a megabyte, which a core's second cache holds while queries pass over it.
const CHUNK: usize = 512;
/// Queries that one pass over the vectors answers.
const QUERIES: usize = 64;
/// The same where every score is kept for a filter: 64 MB for a million rows.
const FILTERED_QUERIES: usize = 8;
/// Fewest rows that an approximate search looks at closely. Of 100,000 rows it finds all of the ten nearest in the
/// measurement of docs/results/index.md.
const BREADTH: usize = 96;

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Search<'a> {
    /// Most hits of a query.
    pub top: usize,
    /// What a hit must fulfil.
    pub filter: Option<&'a Filter>,
    /// Looks at every vector even if there is a graph. Default: false.
    pub exact: bool,
    /// How many rows an approximate search keeps in sight; more find more and take longer. Default: 0, which is 4 for
    /// every hit asked for and 96 at least.
    pub breadth: usize,
}

impl Search<'_> {
    /// The nearest `top`, with no filter.
    #[must_use]
    pub fn top(top: usize) -> Self {
        Self {
            top,
            filter: None,
            exact: false,
            breadth: 0,
        }
    }

    /// How many rows an approximate search keeps in sight: [`Search::breadth`], or what stands for its default.
    #[must_use]
    pub fn sight(&self) -> usize {
        self.breadth.max(match self.breadth {
            0 => self.top.saturating_mul(4).max(BREADTH),
            _ => self.top,
        })
    }
}

/// Queries, `[queries, width]` of any length, as unit vectors, each padded with zeros to `stride` numbers.
///
/// # Errors
/// [`IndexError::Query`] of one that is too short, has numbers that are not finite or has length 0.
pub fn unit_queries(queries: &[f32], width: usize, stride: usize) -> Result<Vec<f32>, IndexError> {
    let mut padded = Vec::with_capacity(queries.len() / width.max(1) * stride);
    for (index, query) in queries.chunks(width.max(1)).enumerate() {
        if query.len() != width {
            return Err(wrong_width(query.len(), width, index));
        }
        let unit =
            normalised(query, stride).map_err(|reason| IndexError::Query { index, reason })?;
        padded.extend(unit);
    }
    Ok(padded)
}

fn wrong_width(found: usize, width: usize, index: usize) -> IndexError {
    let reason = format!("it has {found} numbers, the vectors of the index have {width}");
    IndexError::Query { index, reason }
}

/// A record that was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Hit {
    /// Its row, for [`Index::record`].
    pub row: usize,
    /// Its key.
    pub key: String,
    /// Cosine of query and record.
    pub score: f32,
}

impl Index {
    /// The `top` records nearest to a query, `[width]` of any length, that fulfil the filter.
    ///
    /// Fewer hits come only if fewer records fulfil it. With a graph (see [`crate::GraphChoice`]) and more than some
    /// thousand rows the search is approximate: scores are exact, but a near record may be missing.
    ///
    /// # Errors
    /// A query of another width, with numbers that are not finite or of length 0; a record that is damaged.
    pub fn search(
        &self,
        query: &[f32],
        top: usize,
        filter: Option<&Filter>,
    ) -> Result<Vec<Hit>, IndexError> {
        if query.len() != self.identity().width {
            return Err(wrong_width(query.len(), self.identity().width, 0));
        }
        let search = Search {
            filter,
            ..Search::top(top)
        };
        Ok(self.search_all(query, &search)?.pop().unwrap_or_default())
    }

    /// The same for several queries, `[queries, width]`; one list of hits each. Cheaper than one by one: the vectors
    /// are read once for 64 queries.
    ///
    /// # Errors
    /// As [`Index::search`].
    pub fn search_all(
        &self,
        queries: &[f32],
        search: &Search<'_>,
    ) -> Result<Vec<Vec<Hit>>, IndexError> {
        let (width, stride) = (self.identity().width, self.identity().stride());
        let padded = unit_queries(queries, width, stride)?;
        let breadth = search.sight();
        // A graph that has to give a good part of its rows is slower than looking at all.
        let graph = self
            .graph()
            .filter(|graph| !search.exact && breadth < graph.covered() / 16);
        let found = match graph {
            Some(graph) => padded
                .par_chunks(stride)
                .map(|query| self.approximate(graph, query, breadth, search))
                .collect::<Result<Vec<_>, _>>()?,
            None => self.exact(&padded, search)?,
        };
        let hits = |found: Vec<Candidate>| found.into_iter().map(|found| self.hit(found)).collect();
        found.into_iter().map(hits).collect()
    }

    fn exact(
        &self,
        queries: &[f32],
        search: &Search<'_>,
    ) -> Result<Vec<Vec<Candidate>>, IndexError> {
        let (keep, group) = match search.filter {
            None => (search.top, QUERIES),
            Some(_) => (usize::MAX, FILTERED_QUERIES),
        };
        let mut found = Vec::new();
        for queries in queries.chunks(group * self.identity().stride()) {
            for best in self.scan(0..self.rows(), queries, keep) {
                found.push(match search.filter {
                    None => best.into_sorted(),
                    Some(filter) => self.filtered(best.into_unsorted(), search.top, filter)?,
                });
            }
        }
        Ok(found)
    }

    fn approximate(
        &self,
        graph: &Graph,
        query: &[f32],
        breadth: usize,
        search: &Search<'_>,
    ) -> Result<Vec<Candidate>, IndexError> {
        // With a filter some of what is found goes, so more is looked for.
        let (keep, breadth) = match search.filter {
            None => (search.top, breadth),
            Some(_) => (usize::MAX, breadth.saturating_mul(4)),
        };
        let mut best = Best::new(keep);
        for candidate in graph.search(self, query, breadth) {
            best.push(candidate);
        }
        // Rows that came after the graph.
        for later in self.scan(graph.covered()..self.rows(), query, keep) {
            best = best.merge(later);
        }
        let found = match search.filter {
            None => best.into_sorted(),
            Some(filter) => self.filtered(best.into_unsorted(), search.top, filter)?,
        };
        if found.len() >= search.top.min(self.len()) {
            return Ok(found);
        }
        // A selective filter, or rows that the graph does not reach.
        Ok(self.exact(query, search)?.pop().unwrap_or_default())
    }

    /// The best `keep` of some rows, for each query, `[queries, stride]`.
    fn scan(&self, rows: Range<usize>, queries: &[f32], keep: usize) -> Vec<Best> {
        let stride = self.identity().stride();
        let first = rows.start;
        let vectors = self.vectors().get(rows.start * stride..rows.end * stride);
        let count = queries.len() / stride;
        let none = || vec![Best::new(keep); count];
        let start = || (none(), Vec::new());
        vectors
            .unwrap_or_default()
            .par_chunks(CHUNK * stride)
            .enumerate()
            .fold(start, |(mut best, mut scores), (chunk, vectors)| {
                let rows = vectors.len() / stride;
                scores.resize(rows * count, 0.0);
                products(vectors, queries, stride, &mut scores);
                for (best, scores) in best.iter_mut().zip(scores.chunks_exact(rows)) {
                    self.push_all(best, first + chunk * CHUNK, scores);
                }
                (best, scores)
            })
            .map(|(best, _)| best)
            .reduce(none, |a, b| {
                a.into_iter().zip(b).map(|(a, b)| a.merge(b)).collect()
            })
    }

    #[inline]
    fn push_all(&self, best: &mut Best, first: usize, scores: &[f32]) {
        for (row, score) in (first..).zip(scores) {
            if !best.is_below(*score) && !self.is_removed(row) {
                // Rows are numbered by u32.
                if let Some(candidate) = Candidate::new(*score, row as u32) {
                    best.push(candidate);
                }
            }
        }
    }

    /// The best `top` candidates that fulfil a filter. Records are read from the best on, and no more than needed.
    fn filtered(
        &self,
        mut candidates: Vec<Candidate>,
        top: usize,
        filter: &Filter,
    ) -> Result<Vec<Candidate>, IndexError> {
        let mut found = Vec::new();
        let mut rest = candidates.as_mut_slice();
        let mut block = top.saturating_mul(2).max(64);
        while found.len() < top && !rest.is_empty() {
            let size = block.min(rest.len());
            if size < rest.len() {
                rest.select_nth_unstable_by(size, better_first);
            }
            let (next, later) = rest.split_at_mut(size);
            next.sort_unstable_by(better_first);
            let fulfils = next.par_iter().map(|candidate| {
                let record = self.record(candidate.row as usize)?;
                Ok(filter.matches(&record).then_some(*candidate))
            });
            let fulfils: Vec<Option<Candidate>> = fulfils.collect::<Result<_, IndexError>>()?;
            found.extend(fulfils.into_iter().flatten());
            rest = later;
            block = block.saturating_mul(4);
        }
        found.truncate(top);
        Ok(found)
    }

    fn hit(&self, found: Candidate) -> Result<Hit, IndexError> {
        let row = found.row as usize;
        Ok(Hit {
            row,
            key: self.record(row)?.key,
            score: found.score,
        })
    }
}
