//! Which records a search may answer with, as text: `split=test, year>=2020 and text~"red, blue"`.
//!
//! A filter is conditions joined by commas or `and`; all must hold. A condition is a field, an operator and a value:
//!
//! | operator | holds where the field |
//! | --- | --- |
//! | `=` `!=` | is, is not the value |
//! | `<` `<=` `>` `>=` | lies below or above it: as numbers where both are numbers, else as texts (so dates as `2020-01-31` work) |
//! | `~` `!~` | contains it, contains it not, upper and lower case alike |
//!
//! Fields are `key`, `kind`, `text`, `source`, `digest` and the names of the metadata. A field that a record lacks, or
//! that is null, is nothing: only `!=` and `!~` hold. A list is any of its values. A value with a comma, a quote or
//! ` and ` stands in double quotes, in which `\"` is a quote and `\\` a backslash.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use serde_json::Value;

use crate::error::IndexError;
use crate::record::Record;

/// Conditions that all must hold.
///
/// ```
/// let filter: chiasm_index::Filter = "split=test and year>=2020".parse()?;
/// assert_eq!(filter.to_string(), r#"split="test", year>="2020""#);
/// # Ok::<(), chiasm_index::IndexError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter(Vec<Condition>);

/// A condition of a filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// What of a record is asked.
    pub field: String,
    /// How it is compared.
    pub operator: Operator,
    /// With what.
    pub value: String,
}

/// How a condition compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// `=`
    Is,
    /// `!=`
    IsNot,
    /// `<`
    Below,
    /// `<=`
    AtMost,
    /// `>`
    Above,
    /// `>=`
    AtLeast,
    /// `~`
    Contains,
    /// `!~`
    ContainsNot,
}

/// Whole numbers from here on may look alike as f64: those that seem equal are compared as texts.
const EXACT: f64 = 9e15;

/// Two characters before one: `>=` begins with `>`.
const OPERATORS: [(&str, Operator); 8] = [
    ("!=", Operator::IsNot),
    ("!~", Operator::ContainsNot),
    ("<=", Operator::AtMost),
    (">=", Operator::AtLeast),
    ("=", Operator::Is),
    ("<", Operator::Below),
    (">", Operator::Above),
    ("~", Operator::Contains),
];

impl Filter {
    /// Whether a record fulfils every condition.
    #[must_use]
    pub fn matches(&self, record: &Record) -> bool {
        self.0.iter().all(|condition| condition.matches(record))
    }

    /// Its conditions, for what translates them into another language.
    #[must_use]
    pub fn conditions(&self) -> &[Condition] {
        &self.0
    }
}

/// A value that a record has under a field, as conditions see it: a list has several, null has none.
///
/// What a condition `field OP value` means of a record, in these terms, for whoever keeps records elsewhere: some fact
/// of the field fulfils it (for `!=` and `!~`: none fulfils the opposite). `=` and the orders compare
/// [`Fact::number`] with [`Condition::number`] where both are there, and else the texts byte by byte; `~` looks for
/// the value in the text, both in lower case.
#[derive(Clone, Debug, PartialEq)]
pub struct Fact<'a> {
    /// The field.
    pub field: &'a str,
    /// The value as text.
    pub text: Cow<'a, str>,
}

impl Fact<'_> {
    /// The value as a finite number, where it is one.
    #[must_use]
    pub fn number(&self) -> Option<f64> {
        number(&self.text)
    }

    /// The text as `~` looks at it.
    #[must_use]
    pub fn lower(&self) -> Cow<'_, str> {
        lower(&self.text)
    }
}

/// Everything that conditions can ask of a record.
#[must_use]
pub fn facts(record: &Record) -> Vec<Fact<'_>> {
    let mut facts = Vec::new();
    let own = [
        ("key", Some(record.key.as_str())),
        ("kind", Some(record.kind.name())),
        ("text", Some(record.text.as_str())),
        ("digest", Some(record.digest.as_str())),
        ("source", record.source.as_deref()),
    ];
    for (field, text) in own {
        facts.extend(text.map(|text| Fact {
            field,
            text: text.into(),
        }));
    }
    for (field, value) in &record.metadata {
        // These names are those of the record itself.
        if own.iter().all(|(name, _)| name != field) {
            values(field, value, &mut facts);
        }
    }
    facts
}

fn values<'a>(field: &'a str, value: &'a Value, facts: &mut Vec<Fact<'a>>) {
    let text = match value {
        Value::Null => return,
        Value::Array(several) => {
            for value in several {
                values(field, value, facts);
            }
            return;
        }
        Value::String(text) => text.into(),
        // Numbers, booleans and objects as JSON writes them.
        other => other.to_string().into(),
    };
    facts.push(Fact { field, text });
}

impl Condition {
    /// The value as a finite number, where it is one.
    #[must_use]
    pub fn number(&self) -> Option<f64> {
        number(&self.value)
    }

    /// The value as `~` looks for it.
    #[must_use]
    pub fn lower(&self) -> Cow<'_, str> {
        lower(&self.value)
    }

    /// Whether a fact of its field that is the same number as the value is compared as a text after all: of whole
    /// numbers beyond what f64 tells apart.
    #[must_use]
    pub fn is_inexact(&self) -> bool {
        self.number().is_some_and(|number| number.abs() >= EXACT)
    }

    fn matches(&self, record: &Record) -> bool {
        let any = match self.field.as_str() {
            "key" => self.holds(&record.key),
            "kind" => self.holds(record.kind.name()),
            "text" => self.holds(&record.text),
            "digest" => self.holds(&record.digest),
            "source" => record
                .source
                .as_deref()
                .is_some_and(|text| self.holds(text)),
            name => record.metadata.get(name).is_some_and(|of| self.any(of)),
        };
        match self.operator {
            Operator::IsNot | Operator::ContainsNot => !any,
            _ => any,
        }
    }

    fn any(&self, value: &Value) -> bool {
        match value {
            Value::Null => false,
            Value::Array(values) => values.iter().any(|value| self.any(value)),
            Value::String(text) => self.holds(text),
            // Numbers, booleans and objects as JSON writes them.
            other => self.holds(&other.to_string()),
        }
    }

    /// Whether the operator, or the one that it negates, holds for a text.
    fn holds(&self, text: &str) -> bool {
        match self.operator {
            Operator::Contains | Operator::ContainsNot => {
                lower(text).contains(lower(&self.value).as_ref())
            }
            Operator::Is | Operator::IsNot => self.compare(text).is_eq(),
            Operator::Below => self.compare(text).is_lt(),
            Operator::AtMost => self.compare(text).is_le(),
            Operator::Above => self.compare(text).is_gt(),
            Operator::AtLeast => self.compare(text).is_ge(),
        }
    }

    fn compare(&self, text: &str) -> Ordering {
        if let (Some(a), Some(b)) = (number(text), number(&self.value)) {
            let order = a.partial_cmp(&b).unwrap_or(Ordering::Equal);
            if order.is_ne() || a.abs() < EXACT {
                return order;
            }
        }
        text.cmp(self.value.as_str())
    }
}

fn lower(text: &str) -> Cow<'_, str> {
    if text.chars().any(|c| c.is_uppercase() || !c.is_ascii()) {
        Cow::Owned(text.to_lowercase())
    } else {
        Cow::Borrowed(text)
    }
}

/// A finite number; `inf` and `nan` are words.
fn number(text: &str) -> Option<f64> {
    let digits = text.trim_start_matches(['-', '+', '.']);
    if !digits.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().filter(|value: &f64| value.is_finite())
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, condition) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            let sign = OPERATORS
                .iter()
                .find(|(_, operator)| *operator == condition.operator)
                .map_or("", |(sign, _)| sign);
            let value = condition.value.replace('\\', r"\\").replace('"', r#"\""#);
            write!(f, "{comma}{}{sign}\"{value}\"", condition.field)?;
        }
        Ok(())
    }
}

impl FromStr for Filter {
    type Err = IndexError;

    /// Reads the text form.
    fn from_str(text: &str) -> Result<Self, IndexError> {
        let mut parser = Parser { text, at: 0 };
        parser.filter().map_err(|reason| IndexError::Filter {
            text: text.to_owned(),
            at: parser.before().chars().count() + 1,
            reason,
        })
    }
}

struct Parser<'a> {
    text: &'a str,
    /// Bytes read.
    at: usize,
}

impl<'a> Parser<'a> {
    fn filter(&mut self) -> Result<Filter, String> {
        let mut conditions = Vec::new();
        loop {
            conditions.push(self.condition()?);
            self.blanks();
            if self.rest().is_empty() {
                return Ok(Filter(conditions));
            }
            if !self.eat(",") && !self.eat_and() {
                return Err("a comma or `and` comes between conditions".to_owned());
            }
        }
    }

    fn condition(&mut self) -> Result<Condition, String> {
        self.blanks();
        let rest = self.rest();
        let end = rest.find(['=', '!', '<', '>', '~', ',', '"']);
        let field = rest.get(..end.unwrap_or(rest.len())).unwrap_or_default();
        let name = field.trim();
        if name.is_empty() {
            return Err("the name of a field is missing".to_owned());
        }
        self.at += field.len();
        let found = OPERATORS.iter().find(|(sign, _)| self.eat(sign));
        let Some((_, operator)) = found else {
            return Err(format!(
                "after the field `{name}` comes one of =, !=, <, <=, >, >=, ~, !~"
            ));
        };
        if self.rest().starts_with(['=', '<', '>', '~', '!']) {
            return Err("there is no such operator; equality is a single `=`".to_owned());
        }
        Ok(Condition {
            field: name.to_owned(),
            operator: *operator,
            value: self.value(name)?,
        })
    }

    fn value(&mut self, field: &str) -> Result<String, String> {
        self.blanks();
        if self.rest().starts_with('"') {
            return self.quoted();
        }
        let rest = self.rest();
        let comma = rest.find(',').unwrap_or(rest.len());
        let end = find_and(rest).unwrap_or(rest.len()).min(comma);
        let value = rest.get(..end).unwrap_or_default();
        if let Some(quote) = value.find('"') {
            self.at += quote;
            return Err("a quote stands around a whole value, or as `\\\"` in quotes".to_owned());
        }
        let trimmed = value.trim();
        if trimmed.is_empty() {
            return Err(format!(
                "the value of `{field}` is missing; an empty one is written \"\""
            ));
        }
        self.at += value.len();
        Ok(trimmed.to_owned())
    }

    fn quoted(&mut self) -> Result<String, String> {
        let start = self.at;
        let mut value = String::new();
        let mut chars = self.rest().char_indices().skip(1);
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    self.at = start + at + 1;
                    return Ok(value);
                }
                '\\' => match chars.next() {
                    Some((_, escaped @ ('"' | '\\'))) => value.push(escaped),
                    _ => {
                        self.at = start + at;
                        return Err("a backslash stands before a quote or a backslash".to_owned());
                    }
                },
                c => value.push(c),
            }
        }
        Err("this quote is not closed".to_owned())
    }

    fn eat(&mut self, sign: &str) -> bool {
        let found = self.rest().starts_with(sign);
        if found {
            self.at += sign.len();
        }
        found
    }

    fn eat_and(&mut self) -> bool {
        let word = self.rest().get(..3);
        let alone = self
            .rest()
            .get(3..)
            .is_some_and(|rest| rest.starts_with(char::is_whitespace));
        let found = alone && word.is_some_and(|word| word.eq_ignore_ascii_case("and"));
        if found {
            self.at += 3;
        }
        found
    }

    fn blanks(&mut self) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start().len();
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn before(&self) -> &'a str {
        self.text.get(..self.at).unwrap_or_default()
    }
}

/// Where ` and ` stands, in any case: the byte of its blank.
fn find_and(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let at = |window: &[u8]| match window {
        [before, word @ .., after] => {
            before.is_ascii_whitespace()
                && word.eq_ignore_ascii_case(b"and")
                && after.is_ascii_whitespace()
        }
        [] | [_] => false,
    };
    bytes.windows(5).position(at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Kind;
    use proptest::prelude::*;

    fn record() -> Record {
        let metadata = serde_json::json!({
            "split": "test", "year": 2021, "share": 0.5, "good": true, "none": null, "day": "2020-03-01",
            "labels": ["Cat", "dog"], "large": 9_007_199_254_740_993_u64, "two words": "x", "andy": "a and b"
        });
        Record {
            key: "a/1.jpg".to_owned(),
            kind: Kind::Image,
            text: "Ein Größerer Hund, rot".to_owned(),
            source: None,
            digest: "d".to_owned(),
            metadata: metadata.as_object().unwrap().clone(),
        }
    }

    #[test]
    fn conditions_hold_or_not() {
        for (filter, expected) in [
            ("split=test", true),
            ("split = test", true),
            ("split=Test", false),
            ("split!=test", false),
            ("year>=2021", true),
            ("year>2021", false),
            ("year=2021.0", true),
            ("year<999", false),
            ("year<=2021 and share<.6", true),
            ("share>0.5", false),
            ("good=true", true),
            ("none=null", false),
            ("none!=x", true),
            ("missing=1", false),
            ("missing!=1", true),
            ("missing<1", false),
            ("missing!~x", true),
            ("day>=2020-02-28", true),
            ("day<2020", false),
            ("labels=dog", true),
            ("labels=Cat, labels=dog", true),
            ("labels!=dog", false),
            ("labels~CAT", true),
            ("labels~bird", false),
            ("text~gRÖSS", false),
            ("text~gRÖß", true),
            ("text~\"hund, \"", true),
            ("text!~hund", false),
            ("kind=image AND key~/1", true),
            ("kind=text", false),
            ("source~x", false),
            ("large=9007199254740993", true),
            ("large=9007199254740992", false),
            ("two words=x", true),
            ("andy=\"a and b\"", true),
            ("andy=a and split=test", false),
            ("year=1 and year=2021", false),
        ] {
            let parsed: Filter = filter.parse().unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(parsed.matches(&record()), expected, "{filter}");
        }
    }

    #[test]
    fn errors_say_where() {
        for (filter, at, reason) in [
            ("", 1, "name of a field"),
            ("split", 6, "comes one of"),
            ("=test", 1, "name of a field"),
            ("split=", 7, "value of `split`"),
            ("split=test,", 12, "name of a field"),
            ("split=test and ", 16, "name of a field"),
            ("é==1", 3, "single `=`"),
            ("split=\"te", 7, "not closed"),
            ("a=\"b\" c=1", 7, "comma or `and`"),
            ("a=b\"c", 4, "whole value"),
            ("a=\"\\n\"", 4, "backslash"),
            ("a!b", 2, "comes one of"),
        ] {
            let error = filter.parse::<Filter>().unwrap_err();
            let IndexError::Filter {
                at: found,
                reason: why,
                ..
            } = &error
            else {
                panic!("{error}")
            };
            assert!(why.contains(reason), "{filter}: {why}");
            assert_eq!(*found, at, "{filter}: {why}");
            assert!(error.hint().unwrap().contains("field=value"));
        }
    }

    /// What databases are told of a record says the same as the record.
    #[test]
    fn facts_are_what_conditions_see() {
        let mut record = record();
        let nested = serde_json::json!([["a", null], {"b": 1}, 7]);
        record.metadata.insert("nested".to_owned(), nested);
        record.metadata.insert("kind".to_owned(), "hidden".into());
        let facts = facts(&record);
        for field in ["key", "kind", "split", "labels", "nested", "none", "source"] {
            for value in [
                "image",
                "test",
                "a/1.jpg",
                "dog",
                "7",
                "{\"b\":1}",
                "hidden",
            ] {
                let condition = Condition {
                    field: field.to_owned(),
                    operator: Operator::Is,
                    value: value.to_owned(),
                };
                let mut own = facts.iter().filter(|fact| fact.field == field);
                let held = own.any(|fact| condition.holds(&fact.text));
                assert_eq!(condition.matches(&record), held, "{field}={value}");
            }
        }
        let year = facts.iter().find(|fact| fact.field == "year").unwrap();
        assert_eq!(year.number(), Some(2021.0));
        let text = facts.iter().find(|fact| fact.field == "text").unwrap();
        assert_eq!(text.lower(), "ein größerer hund, rot");
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[ -~é\\n]{0,40}|[a=<>!~,\"\\\\ and]{0,30}") {
            if let Ok(filter) = text.parse::<Filter>() {
                let _ = filter.matches(&record());
                prop_assert_eq!(filter.to_string().parse::<Filter>().unwrap(), filter);
            }
        }
    }
}
