//! Names of the classes that region detectors of this field tell: 1,600 objects and 400 attributes.
//!
//! Owns the two lists of bottom-up attention (`specs/tbkin.md` 2.1); where they come from stands in
//! `assets/README.md`. The place in a list is the class id that feature files carry. Nothing here knows what
//! a name means; that is `lexicon`'s.

use std::sync::LazyLock;

/// A class and what else it is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    aliases: Vec<&'static str>,
}

impl Name {
    /// What it is shown as: the first alias.
    pub fn name(&self) -> &'static str {
        self.aliases.first().copied().unwrap_or_default()
    }

    /// All it is called, the shown name first; never empty.
    pub fn aliases(&self) -> &[&'static str] {
        &self.aliases
    }
}

static OBJECTS: LazyLock<Vec<Name>> =
    LazyLock::new(|| names(include_str!("../assets/objects.txt")));
static ATTRIBUTES: LazyLock<Vec<Name>> =
    LazyLock::new(|| names(include_str!("../assets/attributes.txt")));

/// The 1,600 object classes, by id.
///
/// # Examples
///
/// ```
/// let objects = chiasm_graph::vocabulary::objects();
/// assert_eq!(objects[50].name(), "man");
/// assert_eq!(objects[16].aliases(), ["stop sign", "stopsign"]);
/// ```
pub fn objects() -> &'static [Name] {
    &OBJECTS
}

/// The 400 attribute classes, by id.
pub fn attributes() -> &'static [Name] {
    &ATTRIBUTES
}

fn names(list: &'static str) -> Vec<Name> {
    list.lines()
        .map(|line| Name {
            aliases: line.split(',').map(str::trim).collect(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_whole() {
        for (list, len, first, last) in [
            (objects(), 1600, "yolk", "buoy"),
            (attributes(), 400, "gray", "leaning"),
        ] {
            assert_eq!(list.len(), len);
            assert_eq!(list[0].name(), first);
            assert_eq!(list[len - 1].name(), last);
            assert!(
                list.iter()
                    .all(|name| name.aliases().iter().all(|alias| !alias.is_empty()))
            );
        }
    }
}
