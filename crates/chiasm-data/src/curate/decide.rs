//! The rules that compare rows with each other: duplicates, the best of a group, the best of all.
//!
//! They look at the records on disk as often as it takes to stay within bounded memory: keys are taken in
//! parts of at most [`MAX_KEYS`] rows, and the score at which the best begin is found exactly, in two
//! counts of 65,536 each.

use std::collections::HashMap;
use std::io;

use super::facts::{Decision, Fact, Hash, Records, Verdict, sweep};
use super::rule::{Amount, Rule, Unique};

/// Rows whose keys are in memory at once, 20 MB of them.
const MAX_KEYS: u64 = 400_000;

/// Applies the rules that compare rows, in this order: duplicates as they were given, then the best of
/// groups, then the best of all. Gives back the score at which the best of all begin.
pub(super) fn compare(
    rules: &[Rule],
    facts: &mut Records<Fact>,
    decisions: &mut Records<Decision>,
) -> io::Result<Option<f32>> {
    let rules = || rules.iter().enumerate();
    for (number, rule) in rules() {
        if let Rule::Unique(what) = rule {
            let key = |fact: &Fact| match what {
                Unique::Text => fact.text,
                Unique::Picture => fact.picture,
                Unique::Pair => fact.text ^ fact.picture.rotate_left(64),
            };
            duplicates(number, key, facts, decisions)?;
        }
    }
    for (number, rule) in rules() {
        if let Rule::Top { count, .. } = rule {
            best_of_groups(number, *count, facts, decisions)?;
        }
    }
    let mut cut = None;
    for (number, rule) in rules() {
        if let Rule::Best(amount) = rule {
            cut = best_of_all(number, *amount, facts, decisions)?;
        }
    }
    Ok(cut)
}

/// Parts that the keys are taken in.
fn parts(facts: &Records<Fact>) -> io::Result<Hash> {
    Ok(Hash::from(facts.rows()?.div_ceil(MAX_KEYS).max(1)))
}

/// Higher for a better score; a row without one is worse than any.
fn rank(score: f32) -> u32 {
    if score.is_nan() {
        return 0;
    }
    let bits = score.to_bits();
    match bits >> 31 {
        0 => bits | 1 << 31,
        _ => !bits,
    }
}

fn duplicates(
    number: usize,
    key: impl Fn(&Fact) -> Hash,
    facts: &mut Records<Fact>,
    decisions: &mut Records<Decision>,
) -> io::Result<()> {
    let parts = parts(facts)?;
    for part in 0..parts {
        let mut best: HashMap<Hash, (u32, u64)> = HashMap::new();
        let is_own = |fact: &Fact, decision: &Decision| {
            decision.verdict == Verdict::Keep && key(fact) % parts == part
        };
        sweep(facts, decisions, |row, fact, decision| {
            if is_own(fact, decision) {
                let rank = rank(fact.score);
                let best = best.entry(key(fact)).or_insert((rank, row));
                if rank > best.0 {
                    *best = (rank, row);
                }
            }
        })?;
        sweep(facts, decisions, |row, fact, decision| {
            let kept = best.get(&key(fact)).filter(|_| is_own(fact, decision));
            if let Some((_, kept)) = kept.filter(|(_, kept)| *kept != row) {
                *decision = Decision::drop(Verdict::Duplicate, number, *kept as f64);
            }
        })?;
    }
    Ok(())
}

fn best_of_groups(
    number: usize,
    count: usize,
    facts: &mut Records<Fact>,
    decisions: &mut Records<Decision>,
) -> io::Result<()> {
    let parts = parts(facts)?;
    for part in 0..parts {
        // Of every group its best rows, best first; of equals the first row.
        let mut best: HashMap<Hash, Vec<(u32, std::cmp::Reverse<u64>)>> = HashMap::new();
        let is_own = |fact: &Fact, decision: &Decision| {
            decision.verdict == Verdict::Keep && fact.group % parts == part
        };
        sweep(facts, decisions, |row, fact, decision| {
            if is_own(fact, decision) {
                let own = (rank(fact.score), std::cmp::Reverse(row));
                let best = best.entry(fact.group).or_default();
                let place = best.partition_point(|other| *other > own);
                if place < count {
                    best.insert(place, own);
                    best.truncate(count);
                }
            }
        })?;
        sweep(facts, decisions, |row, fact, decision| {
            if is_own(fact, decision) {
                let own = (rank(fact.score), std::cmp::Reverse(row));
                let kept = best.get(&fact.group);
                let is_kept = kept.is_some_and(|kept| kept.contains(&own));
                if !is_kept {
                    *decision = Decision::drop(Verdict::Top, number, count as f64);
                }
            }
        })?;
    }
    Ok(())
}

fn best_of_all(
    number: usize,
    amount: Amount,
    facts: &mut Records<Fact>,
    decisions: &mut Records<Decision>,
) -> io::Result<Option<f32>> {
    const HALF: usize = 1 << 16;
    let mut high = vec![0u64; HALF];
    sweep(facts, decisions, |_, fact, decision| {
        if decision.verdict == Verdict::Keep
            && let Some(count) = high.get_mut(rank(fact.score) as usize >> 16)
        {
            *count += 1;
        }
    })?;
    let all: u64 = high.iter().sum();
    let wanted = match amount {
        Amount::Share(share) => (share * all as f64).round() as u64,
        Amount::Count(count) => count,
    };
    if wanted >= all {
        return Ok(None);
    }
    // The bucket from the top in which the last wanted row lies, and how many are wanted of it.
    let (bucket, wanted) = reach(&high, wanted);
    let mut low = vec![0u64; HALF];
    sweep(facts, decisions, |_, fact, decision| {
        let rank = rank(fact.score) as usize;
        if decision.verdict == Verdict::Keep
            && rank >> 16 == bucket
            && let Some(count) = low.get_mut(rank & (HALF - 1))
        {
            *count += 1;
        }
    })?;
    let (place, mut left) = reach(&low, wanted);
    let cut = (bucket << 16 | place) as u32;
    let mut score = f32::NAN;
    sweep(facts, decisions, |_, fact, decision| {
        if decision.verdict != Verdict::Keep {
            return;
        }
        let rank = rank(fact.score);
        if rank == cut {
            score = fact.score;
        }
        // Of equals the first.
        let is_kept = rank > cut || rank == cut && left > 0;
        if is_kept && rank == cut {
            left -= 1;
        }
        if !is_kept {
            *decision = Decision::drop(Verdict::Best, number, 0.0);
        }
    })?;
    Ok(Some(score).filter(|score| !score.is_nan()))
}

/// Counted from the last bucket: the one in which the row number `wanted` lies, and its number in there.
/// Where none is wanted, the last bucket and 0.
fn reach(counts: &[u64], wanted: u64) -> (usize, u64) {
    let mut left = wanted;
    for (bucket, count) in counts.iter().enumerate().rev() {
        if left <= *count {
            return (bucket, left);
        }
        left -= count;
    }
    (0, 0)
}

#[cfg(test)]
mod tests {
    use super::super::facts::hash;
    use super::*;
    use proptest::prelude::*;

    fn run(rules: &[&str], rows: &[(f32, u8, u8)]) -> Vec<Verdict> {
        let folder = tempfile::tempdir().unwrap();
        let mut facts = Records::open(&folder.path().join("f"), 0).unwrap();
        let mut decisions = Records::open(&folder.path().join("d"), 0).unwrap();
        for (score, text, group) in rows {
            let fact = Fact {
                score: *score,
                decision: Decision::KEEP,
                text: hash(&[*text]),
                picture: 0,
                group: hash(&[*group]),
            };
            facts.append(&[fact]).unwrap();
            decisions.append(&[Decision::KEEP]).unwrap();
        }
        let rules: Vec<Rule> = rules.iter().map(|rule| rule.parse().unwrap()).collect();
        compare(&rules, &mut facts, &mut decisions).unwrap();
        let mut all = Vec::new();
        decisions.seek(0).unwrap();
        decisions.read(rows.len(), &mut all).unwrap();
        all.into_iter().map(|decision| decision.verdict).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// Against the plain way with everything in memory.
        #[test]
        fn rules_as_written(
            rows in prop::collection::vec((-4i8..4, 0u8..12, 0u8..4), 1..60),
            share in 0.001f64..1.0,
        ) {
            let rows: Vec<(f32, u8, u8)> = rows
                .into_iter()
                .map(|(score, text, group)| (f32::from(score) / 3.0, text, group))
                .collect();
            let share = format!("best={share}");
            let found = run(&["unique=text", "top=3/x", &share], &rows);
            // Better score first, of equals the first row.
            let mut order: Vec<usize> = (0..rows.len()).collect();
            order.sort_by(|a, b| rows[*b].0.total_cmp(&rows[*a].0).then(a.cmp(b)));
            let mut expected = vec![Verdict::Keep; rows.len()];
            let (mut texts, mut groups) = (std::collections::HashSet::new(), HashMap::new());
            for row in &order {
                if !texts.insert(rows[*row].1) {
                    expected[*row] = Verdict::Duplicate;
                }
            }
            for row in &order {
                if expected[*row] == Verdict::Keep {
                    let count = groups.entry(rows[*row].2).or_insert(0);
                    *count += 1;
                    if *count > 3 {
                        expected[*row] = Verdict::Top;
                    }
                }
            }
            let left: Vec<usize> =
                order.into_iter().filter(|row| expected[*row] == Verdict::Keep).collect();
            let share: f64 = share.trim_start_matches("best=").parse().unwrap();
            let wanted = (share * left.len() as f64).round() as usize;
            for row in left.into_iter().skip(wanted) {
                expected[row] = Verdict::Best;
            }
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn ranks_go_with_scores() {
        let scores = [
            f32::NEG_INFINITY,
            -1.0,
            -1e-30,
            0.0,
            1e-30,
            0.5,
            f32::INFINITY,
        ];
        let ranks = scores.map(rank);
        assert!(ranks.is_sorted() && rank(f32::NAN) < ranks[0]);
        assert_eq!(
            run(&["best=2"], &[(0.1, 0, 0), (f32::NAN, 1, 0), (-3.0, 2, 0)])[1],
            Verdict::Best
        );
    }
}
