//! What can go wrong between ranks.

/// Where a run was when ranks fell silent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Silence {
    /// The ranks that nothing came from.
    pub ranks: Vec<usize>,
    /// The step that was being computed, counted from 1; 0 before the first.
    pub step: u64,
    /// What was exchanged.
    pub what: &'static str,
    /// How long it was waited for, in seconds.
    pub seconds: u64,
}

/// An error of ranks that work together; [`RankError::hint`] says how to go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RankError {
    /// Ranks died, or hang.
    #[error(
        "{} sent nothing for `{}`{} within {} s",
        named(&.0.ranks), .0.what, in_step(.0.step), .0.seconds
    )]
    Silent(Silence),
    /// The run was asked to stop, and ranks no longer answer.
    #[error(
        "stopped while waiting for {} in `{}`{}",
        named(&.0.ranks), .0.what, in_step(.0.step)
    )]
    Stopped(Silence),
    /// A rank failed and said why.
    #[error("rank {rank} failed: {message}")]
    Failed {
        /// The rank.
        rank: usize,
        /// Its error.
        message: String,
    },
    /// Ranks were started differently.
    #[error("{} not on the same {what} as rank 0", are(ranks))]
    Differ {
        /// What differs.
        what: &'static str,
        /// The ranks that differ from rank 0.
        ranks: Vec<usize>,
    },
    /// A rank is at another place of the program.
    #[error("rank {rank} did not send what `{what}`{} needs", in_step(*step))]
    Astray {
        /// The rank.
        rank: usize,
        /// What was exchanged here.
        what: &'static str,
        /// The step here.
        step: u64,
    },
    /// The launcher's ranks cannot be reached.
    #[error("cannot reach the other ranks: {0}")]
    Unreachable(String),
}

impl RankError {
    /// How to go on, where that can be said.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Silent(_) => {
                "look at that rank's machine, then run the same command again, training with `--resume`, on as \
                 many ranks as are left; where a step takes longer than this, raise `--rank-limit`"
            }
            Self::Stopped(_) => {
                "run the same command again, training with `--resume`, on any number of ranks"
            }
            Self::Differ { what, .. } if *what == "weights" => {
                "ranks on machines of different kinds round differently; run all of them on one kind"
            }
            Self::Differ { .. } => {
                "start all ranks with the same binary, the same arguments and the same files"
            }
            Self::Failed { .. } | Self::Astray { .. } | Self::Unreachable(_) => return None,
        };
        Some(hint.to_owned())
    }

    /// Whether nothing came from a rank.
    #[must_use]
    pub fn misses(&self, rank: usize) -> bool {
        match self {
            Self::Silent(silence) | Self::Stopped(silence) => silence.ranks.contains(&rank),
            _ => false,
        }
    }
}

/// `rank 1`, or `ranks 1, 3`.
fn named(ranks: &[usize]) -> String {
    let list: Vec<String> = ranks.iter().map(ToString::to_string).collect();
    match ranks {
        [_] => format!("rank {}", list.concat()),
        _ => format!("ranks {}", list.join(", ")),
    }
}

/// Where a run was, if it has steps.
fn in_step(step: u64) -> String {
    match step {
        0 => String::new(),
        step => format!(" in step {step}"),
    }
}

fn are(ranks: &[usize]) -> String {
    let verb = if ranks.len() == 1 { "is" } else { "are" };
    format!("{} {verb}", named(ranks))
}
