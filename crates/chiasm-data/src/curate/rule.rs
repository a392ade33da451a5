//! What a pair must be to be kept, as it is typed: `score>=0.25`, `words<=50`, `unique=text`,
//! `top=3/author`, `best=30%`.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

/// One condition. A pair is kept when all hold.
#[derive(Clone, Debug, PartialEq)]
pub enum Rule {
    /// A number at least, or at most, as large.
    Bound {
        /// Which number.
        measure: Measure,
        /// At least; else at most.
        least: bool,
        /// How large.
        value: f64,
    },
    /// Of pairs with the same content the best one, of equally good ones the first.
    Unique(Unique),
    /// The best so many pairs of those with the same value in a column.
    Top {
        /// How many.
        count: usize,
        /// The column.
        column: String,
    },
    /// The best pairs of those that pass all other rules.
    Best(Amount),
}

/// A number that a pair has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Measure {
    /// How well picture and text go together, from whatever gives the scores.
    Score,
    /// Words of the text, parts between blanks.
    Words,
    /// Characters of the text without blanks around it.
    Chars,
    /// Shorter side of the picture in pixels.
    Side,
    /// A number in a column, for example the probability of a relation.
    Column(String),
}

/// What must not be there twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unique {
    /// The same text, blanks around it aside.
    Text,
    /// A picture file of the same bytes.
    Picture,
    /// Both.
    Pair,
}

/// How many.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Amount {
    /// A part of those that there are, 0 to 1, rounded to the nearest pair.
    Share(f64),
    /// A number, or all where there are fewer.
    Count(u64),
}

/// A rule that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{typed}` is no rule: {reason}")]
pub struct WrongRule {
    typed: String,
    reason: &'static str,
}

impl FromStr for Rule {
    type Err = WrongRule;

    fn from_str(typed: &str) -> Result<Self, WrongRule> {
        let wrong = |reason| WrongRule {
            typed: typed.to_owned(),
            reason,
        };
        for (sign, least) in [(">=", true), ("<=", false)] {
            if let Some((name, value)) = typed.split_once(sign) {
                let value = number(value).ok_or_else(|| wrong("a number is expected behind it"))?;
                let measure = match name.trim() {
                    "score" => Measure::Score,
                    "words" => Measure::Words,
                    "chars" => Measure::Chars,
                    "side" => Measure::Side,
                    "" => return Err(wrong("a name is expected before it")),
                    column => Measure::Column(column.to_owned()),
                };
                return Ok(Self::Bound {
                    measure,
                    least,
                    value,
                });
            }
        }
        let (name, value) = typed.split_once('=').unwrap_or((typed, ""));
        match (name.trim(), value.trim()) {
            ("unique", "text") => Ok(Self::Unique(Unique::Text)),
            ("unique", "picture") => Ok(Self::Unique(Unique::Picture)),
            ("unique", "pair") => Ok(Self::Unique(Unique::Pair)),
            ("unique", _) => Err(wrong("`unique=` takes text, picture or pair")),
            ("best", value) => {
                let amount = amount(value);
                let amount = amount.ok_or_else(|| wrong("`best=` takes 30%, 0.3 or a number"))?;
                Ok(Self::Best(amount))
            }
            ("top", value) => {
                let parts = value.split_once('/');
                let count = parts.and_then(|(count, _)| count.trim().parse().ok());
                let column = parts.map(|(_, column)| column.trim().to_owned());
                match (count.filter(|count| *count > 0), column) {
                    (Some(count), Some(column)) if !column.is_empty() => {
                        Ok(Self::Top { count, column })
                    }
                    _ => Err(wrong(
                        "`top=` takes a number and a column, such as 3/author",
                    )),
                }
            }
            _ => Err(wrong(
                "rules are score>=, words>=, chars>=, side>= or COLUMN>= with a number, the same with \
                 <=, unique=, top= and best=",
            )),
        }
    }
}

fn number(text: &str) -> Option<f64> {
    text.trim()
        .parse()
        .ok()
        .filter(|value: &f64| value.is_finite())
}

fn amount(text: &str) -> Option<Amount> {
    let share = |value: f64| {
        let fits = (0.0..=1.0).contains(&value);
        fits.then_some(Amount::Share(value))
    };
    if let Some(percent) = text.strip_suffix('%') {
        return share(number(percent)? / 100.0);
    }
    match text.parse() {
        Ok(count) if count > 1 => Some(Amount::Count(count)),
        Ok(_) if !text.contains('.') => None,
        _ => share(number(text)?),
    }
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Score => "score",
            Self::Words => "words",
            Self::Chars => "chars",
            Self::Side => "side",
            Self::Column(name) => name,
        })
    }
}

impl fmt::Display for Unique {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Picture => "picture",
            Self::Pair => "pair",
        })
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bound {
                measure,
                least,
                value,
            } => {
                let sign = if *least { ">=" } else { "<=" };
                write!(f, "{measure}{sign}{value}")
            }
            Self::Unique(what) => write!(f, "unique={what}"),
            Self::Top { count, column } => write!(f, "top={count}/{column}"),
            Self::Best(Amount::Share(share)) => write!(f, "best={}%", share * 100.0),
            Self::Best(Amount::Count(count)) => write!(f, "best={count}"),
        }
    }
}

impl Serialize for Rule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_read_and_written() {
        for typed in [
            "score>=0.25",
            "score<=0.9",
            "words>=3",
            "chars<=200",
            "side>=64",
            "p represented>=0.5",
            "unique=text",
            "unique=picture",
            "unique=pair",
            "top=3/author",
            "best=30%",
            "best=1000",
        ] {
            let rule: Rule = typed.parse().unwrap();
            assert_eq!(rule.to_string(), typed);
        }
        assert_eq!(
            "best=0.3".parse::<Rule>(),
            Ok(Rule::Best(Amount::Share(0.3)))
        );
        assert_eq!(
            "best=1.0".parse::<Rule>(),
            Ok(Rule::Best(Amount::Share(1.0)))
        );
        for wrong in [
            "",
            "score",
            "score>0.3",
            "score>=x",
            "score>=inf",
            "score>=NaN",
            ">=1",
            "unique=",
            "unique=row",
            "top=3",
            "top=0/a",
            "top=/a",
            "top=3/",
            "best=",
            "best=1",
            "best=0",
            "best=-1",
            "best=101%",
            "best=1.5",
            "best=x%",
            "what=1",
        ] {
            assert!(wrong.parse::<Rule>().is_err(), "{wrong}");
        }
    }
}
