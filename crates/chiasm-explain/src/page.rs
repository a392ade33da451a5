//! Explanations as one page that opens without a network.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, context};
use serde::Serialize;

use crate::error::ExplainError;

/// A picture of a page with what it shows.
#[derive(Clone, Debug)]
pub struct Shown {
    /// What it is, for those who see it and those who do not.
    pub caption: String,
    /// As PNG.
    pub picture: Vec<u8>,
}

/// A word, or a whole text, with its pictures.
#[derive(Clone, Debug)]
pub struct Part {
    /// The word.
    pub title: String,
    /// How much it counts, from 0 to 1, where that is known.
    pub weight: Option<f32>,
    /// One picture, or two: before and after selection.
    pub pictures: Vec<Shown>,
}

/// Everything about one picture.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Name of the picture.
    pub name: String,
    /// Its text.
    pub text: String,
    /// What was explained, how, and other facts: name and value.
    pub facts: Vec<(String, String)>,
    /// The picture as it is, as PNG.
    pub picture: Vec<u8>,
    /// The text as a whole first, then its words.
    pub parts: Vec<Part>,
}

#[derive(Serialize)]
struct ShownView {
    caption: String,
    picture: String,
}

#[derive(Serialize)]
struct PartView {
    title: String,
    weight: Option<String>,
    width: Option<String>,
    pictures: Vec<ShownView>,
}

#[derive(Serialize)]
struct EntryView {
    name: String,
    text: String,
    facts: Vec<(String, String)>,
    picture: String,
    parts: Vec<PartView>,
}

const TEMPLATE: &str = include_str!("../templates/explain.html");

/// The page; everything that people wrote is escaped.
///
/// # Errors
/// If the template cannot be filled.
pub fn render(title: &str, entries: &[Entry]) -> Result<String, ExplainError> {
    let shown = |shown: &Shown| ShownView {
        caption: shown.caption.clone(),
        picture: uri(&shown.picture),
    };
    let part = |part: &Part| PartView {
        title: part.title.clone(),
        weight: part.weight.map(|weight| format!("{:.0} %", 100.0 * weight)),
        width: part
            .weight
            .map(|weight| format!("{:.1}", 100.0 * weight.clamp(0.0, 1.0))),
        pictures: part.pictures.iter().map(shown).collect(),
    };
    let entries: Vec<EntryView> = entries
        .iter()
        .map(|entry| EntryView {
            name: entry.name.clone(),
            text: entry.text.clone(),
            facts: entry.facts.clone(),
            picture: uri(&entry.picture),
            parts: entry.parts.iter().map(part).collect(),
        })
        .collect();
    let mut environment = Environment::new();
    // Stated, not left to the file name: texts and names come from data.
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    environment.add_template("explain", TEMPLATE)?;
    let template = environment.get_template("explain")?;
    Ok(template.render(context! { title, entries => Serde(entries) })?)
}

fn uri(png: &[u8]) -> String {
    format!("data:image/png;base64,{}", STANDARD.encode(png))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_wrote_is_escaped() {
        let entry = Entry {
            name: "<b>.jpg".to_owned(),
            text: "<script>alert(1)</script>".to_owned(),
            facts: vec![("method".to_owned(), "a & b".to_owned())],
            picture: b"\x89PNG".to_vec(),
            parts: vec![Part {
                title: "\"quoted\"".to_owned(),
                weight: Some(0.25),
                pictures: vec![Shown {
                    caption: "<i>".to_owned(),
                    picture: b"\x89PNG".to_vec(),
                }],
            }],
        };
        let page = render("maps", &[entry]).unwrap();
        for part in [
            "&lt;script&gt;",
            "a &amp; b",
            "25 %",
            "&lt;i&gt;",
            "&quot;quoted&quot;",
        ] {
            assert!(page.contains(part), "{part}");
        }
        assert!(!page.contains("<script>") && !page.contains("http"));
        assert!(page.contains("prefers-color-scheme: dark"));
    }
}
