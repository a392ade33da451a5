//! Filters as conditions of Qdrant.
//!
//! A record has its values as a list of objects, and a condition asks whether one of them has this name and this value
//! (`nested`). Qdrant cannot say which of two texts comes first, and whether it looks for parts of texts or for whole words
//! changed from version to version; there a condition asks less, and whoever searches looks again at what comes back
//! ([`Translated::is_exact`]).

use chiasm_index::{Condition, Filter, Operator};
use serde_json::{Value, json};

use crate::row::{field_of, value_of};

/// A filter as Qdrant takes it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Translated {
    pub(crate) filter: Value,
    /// Whether no more records fulfil it than fulfil what was translated.
    pub(crate) is_exact: bool,
}

impl Translated {
    pub(crate) fn of(filter: &Filter) -> Self {
        let (mut must, mut must_not, mut is_exact) = (Vec::new(), Vec::new(), true);
        for condition in filter.conditions() {
            let field = json!({"key": "f", "match": {"value": field_of(condition)}});
            let some = |more: Option<Value>| {
                let own: Vec<&Value> = std::iter::once(&field).chain(&more).collect();
                json!({"nested": {"key": "fields", "filter": {"must": own}}})
            };
            match condition.operator {
                Operator::Is => must.push(some(Some(equal(condition)))),
                Operator::IsNot => must_not.push(some(Some(equal(condition)))),
                Operator::Contains => {
                    must.push(some(None));
                    is_exact = false;
                }
                Operator::ContainsNot => is_exact = false,
                Operator::Below | Operator::AtMost | Operator::Above | Operator::AtLeast => {
                    must.push(some(ordered(condition)));
                    is_exact = false;
                }
            }
        }
        Self {
            filter: json!({"must": must, "must_not": must_not}),
            is_exact,
        }
    }
}

fn equal(condition: &Condition) -> Value {
    match condition.number() {
        Some(number) if !condition.is_inexact() => {
            json!({"key": "n", "range": {"gte": number, "lte": number}})
        }
        _ => json!({"key": "t", "match": {"value": value_of(condition)}}),
    }
}

/// Of numbers the order; of everything else only that there is something.
fn ordered(condition: &Condition) -> Option<Value> {
    let number = condition.number()?;
    // Numbers that f64 cannot tell apart are compared as texts: both sides of the limit come.
    let range = match condition.operator {
        Operator::Below if !condition.is_inexact() => json!({"lt": number}),
        Operator::Above if !condition.is_inexact() => json!({"gt": number}),
        Operator::Below | Operator::AtMost => json!({"lte": number}),
        _ => json!({"gte": number}),
    };
    Some(json!({"should": [
        {"key": "n", "range": range},
        {"key": "w", "match": {"value": true}},
    ]}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operator_is_translated() {
        let nested = |field: &str, more: Value| {
            json!({"nested": {"key": "fields", "filter": {"must": [
                {"key": "f", "match": {"value": field}}, more
            ]}}})
        };
        let text = |value: &str| json!({"key": "t", "match": {"value": value}});
        let there = |field: &str| {
            json!({"nested": {"key": "fields", "filter": {"must": [
                {"key": "f", "match": {"value": field}}
            ]}}})
        };
        let word = json!({"key": "w", "match": {"value": true}});
        for (filter, must, must_not, exact) in [
            (
                "split=test",
                vec![nested("split", text("test"))],
                vec![],
                true,
            ),
            (
                "split!=test",
                vec![],
                vec![nested("split", text("test"))],
                true,
            ),
            (
                "year=2020",
                vec![nested(
                    "year",
                    json!({"key": "n", "range": {"gte": 2020.0, "lte": 2020.0}}),
                )],
                vec![],
                true,
            ),
            (
                "id=9007199254740993",
                vec![nested("id", text("9007199254740993"))],
                vec![],
                true,
            ),
            (
                "year<2020",
                vec![nested(
                    "year",
                    json!({"should": [{"key": "n", "range": {"lt": 2020.0}}, word]}),
                )],
                vec![],
                false,
            ),
            ("day>=2020-01-31", vec![there("day")], vec![], false),
            ("text~Dog", vec![there("text")], vec![], false),
            ("text!~Dog", vec![], vec![], false),
        ] {
            let translated = Translated::of(&filter.parse().unwrap());
            assert_eq!(
                translated.filter,
                json!({"must": must, "must_not": must_not}),
                "{filter}"
            );
            assert_eq!(translated.is_exact, exact, "{filter}");
        }
    }
}
