//! Writing graphs in the DOT language, quoted so that no caption can break out of a label.

use std::fmt::Write as _;

/// Collects the lines of a graph.
pub(crate) struct Writer(String);

impl Writer {
    pub(crate) fn new(name: &str) -> Self {
        let mut text = String::new();
        let _ = writeln!(text, "digraph {} {{", quoted(name));
        text.push_str("  rankdir=LR;\n");
        Self(text)
    }

    pub(crate) fn node(&mut self, id: &str, label: &str, shape: &str) {
        let _ = writeln!(self.0, "  {id} [label={}, shape={shape}];", quoted(label));
    }

    pub(crate) fn arrow(&mut self, from: &str, to: &str, label: &str) {
        let _ = writeln!(self.0, "  {from} -> {to} [label={}];", quoted(label));
    }

    /// An edge without direction.
    pub(crate) fn line(&mut self, from: &str, to: &str, label: &str) {
        let _ = writeln!(
            self.0,
            "  {from} -> {to} [dir=none, label={}];",
            quoted(label)
        );
    }

    /// A dashed edge without direction.
    pub(crate) fn dashed(&mut self, from: &str, to: &str, label: &str) {
        let _ = writeln!(
            self.0,
            "  {from} -> {to} [dir=none, style=dashed, label={}];",
            quoted(label)
        );
    }

    pub(crate) fn finish(mut self) -> String {
        self.0.push_str("}\n");
        self.0
    }
}

fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for letter in text.chars() {
        match letter {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' | '\r' => quoted.push(' '),
            _ => quoted.push(letter),
        }
    }
    quoted.push('"');
    quoted
}
