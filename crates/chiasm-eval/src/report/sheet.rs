//! A contact sheet: what was found for each search, as one page that opens without a network.

use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, context};
use serde::Serialize;

use super::ReportError;
use super::page::data_uri;

/// One search and what it found.
#[derive(Clone, Debug)]
pub struct SheetRow {
    /// The words, or the name of the picture.
    pub query: String,
    /// The picture that was looked for, as PNG; none for words.
    pub picture: Option<Vec<u8>>,
    /// Best first.
    pub hits: Vec<SheetHit>,
}

/// One picture found.
#[derive(Clone, Debug)]
pub struct SheetHit {
    /// As PNG; none where it could not be read.
    pub picture: Option<Vec<u8>>,
    /// Cosine of the angle between the embeddings.
    pub score: f32,
    /// Id and first text.
    pub caption: String,
}

#[derive(Serialize)]
struct Shown {
    picture: Option<String>,
    score: String,
    caption: String,
}

#[derive(Serialize)]
struct Row {
    query: String,
    picture: Option<String>,
    hits: Vec<Shown>,
}

const TEMPLATE: &str = include_str!("../../templates/sheet.html");

/// The page; everything that people wrote is escaped.
///
/// # Errors
/// If the template cannot be filled.
pub fn render(title: &str, rows: &[SheetRow]) -> Result<String, ReportError> {
    let rows: Vec<Row> = rows
        .iter()
        .map(|row| Row {
            query: row.query.clone(),
            picture: data_uri(row.picture.as_deref()),
            hits: row
                .hits
                .iter()
                .map(|hit| Shown {
                    picture: data_uri(hit.picture.as_deref()),
                    score: format!("{:.3}", hit.score),
                    caption: hit.caption.clone(),
                })
                .collect(),
        })
        .collect();
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    environment.add_template("sheet", TEMPLATE)?;
    Ok(environment
        .get_template("sheet")?
        .render(context! { title, rows => Serde(rows) })?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_wrote_is_escaped() {
        let hit = SheetHit {
            picture: Some(b"\x89PNG".to_vec()),
            score: 0.5,
            caption: "<script>alert(1)</script>".to_owned(),
        };
        let row = SheetRow {
            query: "a & b".to_owned(),
            picture: None,
            hits: vec![hit],
        };
        let page = render("found", &[row]).unwrap();
        assert!(page.contains("a &amp; b") && page.contains("&lt;script&gt;"));
        // The slash of the type is escaped as well, which an attribute undoes.
        assert!(!page.contains("<script>") && page.contains("png;base64,"));
    }
}
