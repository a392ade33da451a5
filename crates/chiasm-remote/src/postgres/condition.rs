//! Filters as SQL. They mean exactly what [`Filter::matches`] means: the values were taken apart when they were pushed
//! (`row.rs`), and here the same comparisons are written out.

use chiasm_index::{Condition, Filter, Operator};
use serde_json::json;
use tokio_postgres::types::{ToSql, Type};

use crate::row::{field_of, lower_of, value_of};

/// What stands behind `where`, and the parameters that it names.
#[derive(Default)]
pub(crate) struct Conditions {
    pub(crate) sql: String,
    parameters: Vec<Parameter>,
    /// Parameters that come before these.
    before: usize,
}

enum Parameter {
    Text(String),
    Number(f64),
}

impl Conditions {
    /// Translates a filter; the first `before` parameters are of something else.
    pub(crate) fn of(filter: Option<&Filter>, before: usize) -> Self {
        let mut own = Self {
            before,
            ..Self::default()
        };
        let conditions = filter.map_or(&[][..], Filter::conditions);
        let parts: Vec<String> = conditions.iter().map(|one| own.condition(one)).collect();
        own.sql = match parts.is_empty() {
            true => "true".to_owned(),
            false => parts.join(" and "),
        };
        own
    }

    /// The parameters with their types.
    pub(crate) fn parameters(&self) -> impl Iterator<Item = (&(dyn ToSql + Sync), Type)> {
        self.parameters.iter().map(|parameter| match parameter {
            Parameter::Text(text) => (text as &(dyn ToSql + Sync), Type::TEXT),
            Parameter::Number(number) => (number as &(dyn ToSql + Sync), Type::FLOAT8),
        })
    }

    fn name(&mut self, parameter: Parameter) -> String {
        self.parameters.push(parameter);
        format!("${}", self.before + self.parameters.len())
    }

    fn condition(&mut self, condition: &Condition) -> String {
        match condition.operator {
            Operator::Is => return self.equal(condition),
            Operator::IsNot => return format!("not {}", self.equal(condition)),
            _ => {}
        }
        let field = self.name(Parameter::Text(field_of(condition)));
        let (not, holds) = match condition.operator {
            Operator::Below => ("", self.compared("<", condition)),
            Operator::AtMost => ("", self.compared("<=", condition)),
            Operator::Above => ("", self.compared(">", condition)),
            Operator::AtLeast => ("", self.compared(">=", condition)),
            Operator::ContainsNot => ("not ", self.contains(condition)),
            Operator::Contains | Operator::Is | Operator::IsNot => ("", self.contains(condition)),
        };
        format!(
            "{not}exists (select from jsonb_array_elements(fields) e where e->>'f' = {field} and {holds})"
        )
    }

    /// Equality is what an index of `fields` can look up. Numbers are equal as numbers there too.
    fn equal(&mut self, condition: &Condition) -> String {
        let field = field_of(condition);
        let value = match condition.number() {
            Some(number) if !condition.is_inexact() => json!([{"f": field, "n": number}]),
            _ => json!([{"f": field, "t": value_of(condition)}]),
        };
        let value = self.name(Parameter::Text(value.to_string()));
        format!("fields @> {value}::text::jsonb")
    }

    fn contains(&mut self, condition: &Condition) -> String {
        let value = self.name(Parameter::Text(lower_of(condition)));
        format!("strpos(coalesce(e->>'l', e->>'t'), {value}) > 0")
    }

    fn compared(&mut self, sign: &str, condition: &Condition) -> String {
        let value = self.name(Parameter::Text(value_of(condition)));
        let as_text = format!("(e->>'t') collate \"C\" {sign} {value}");
        let Some(number) = condition.number() else {
            return as_text;
        };
        let number = self.name(Parameter::Number(number));
        let own = "(e->>'n')::float8";
        // Two numbers that f64 cannot tell apart are compared as texts.
        let strict = sign.trim_end_matches('=');
        let as_number = match condition.is_inexact() {
            false => format!("{own} {sign} {number}"),
            true => format!("({own} {strict} {number} or {own} = {number} and {as_text})"),
        };
        format!("case when e->>'n' is null then {as_text} else {as_number} end")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn translated(filter: &str) -> Conditions {
        Conditions::of(Some(&filter.parse().unwrap()), 1)
    }

    #[test]
    fn every_operator_is_translated() {
        let of = |holds: &str| {
            format!(
                "exists (select from jsonb_array_elements(fields) e where e->>'f' = $2 and {holds})"
            )
        };
        for (filter, sql) in [
            ("split=test", "fields @> $2::text::jsonb".to_owned()),
            ("year!=2020", "not fields @> $2::text::jsonb".to_owned()),
            ("day>=2020-01-31", of("(e->>'t') collate \"C\" >= $3")),
            ("text~Dog", of("strpos(coalesce(e->>'l', e->>'t'), $3) > 0")),
            (
                "text!~Dog",
                format!("not {}", of("strpos(coalesce(e->>'l', e->>'t'), $3) > 0")),
            ),
            (
                "year<2020",
                of(
                    "case when e->>'n' is null then (e->>'t') collate \"C\" < $3 \
                    else (e->>'n')::float8 < $4 end",
                ),
            ),
            (
                "id<=9007199254740993",
                of(
                    "case when e->>'n' is null then (e->>'t') collate \"C\" <= $3 \
                    else ((e->>'n')::float8 < $4 or (e->>'n')::float8 = $4 and (e->>'t') collate \"C\" <= $3) end",
                ),
            ),
        ] {
            assert_eq!(translated(filter).sql, sql, "{filter}");
        }
        assert_eq!(Conditions::of(None, 1).sql, "true");
    }

    /// Nothing of what was typed stands in the statement.
    #[test]
    fn values_are_parameters() {
        let own = translated("a\u{0}'b~\"x'); drop table t; --\", c=\"'\\\"\", n=2020.0");
        assert!(
            !own.sql.contains("drop") && !own.sql.contains("x'"),
            "{}",
            own.sql
        );
        assert!(own.sql.contains("$5") && !own.sql.contains("$6"));
        assert_eq!(own.parameters().count(), 4);
        let texts = own
            .parameters
            .iter()
            .filter_map(|parameter| match parameter {
                Parameter::Text(text) => Some(text.as_str()),
                Parameter::Number(_) => None,
            });
        let equal = [r#"[{"f":"c","t":"'\""}]"#, r#"[{"f":"n","n":2020.0}]"#];
        assert_eq!(texts.skip(2).collect::<Vec<_>>(), equal);
        let Some(Parameter::Text(field)) = own.parameters.first() else {
            panic!("a field is a text")
        };
        assert_eq!(field, "a\u{fffd}'b");
    }
}
