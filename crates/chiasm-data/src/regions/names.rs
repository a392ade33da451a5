//! Finding what belongs to a picture by its name, however that is written.

use std::collections::HashMap;
use std::path::Path;

use crate::dataset::Sample;

/// What pictures have, by their names with and without folders and extension, and by COCO's number.
pub(super) struct ByName<T> {
    names: HashMap<String, T>,
    /// `None` where two pictures have the number.
    numbers: HashMap<u64, Option<T>>,
}

impl<T> Default for ByName<T> {
    fn default() -> Self {
        Self {
            names: HashMap::new(),
            numbers: HashMap::new(),
        }
    }
}

impl<T: Clone> ByName<T> {
    /// The first of two with the same name stays.
    pub(super) fn add(&mut self, name: &str, value: &T) {
        for name in [name, base(name), stem(name)] {
            if !self.names.contains_key(name) {
                self.names.insert(name.to_owned(), value.clone());
            }
        }
        if let Some(number) = coco_number(stem(name)) {
            let twice = self.numbers.contains_key(&number);
            self.numbers.insert(number, (!twice).then(|| value.clone()));
        }
    }

    /// A name that is taken as it is.
    pub(super) fn add_name(&mut self, name: &str, value: &T) {
        let entry = self.names.entry(name.to_owned());
        entry.or_insert_with(|| value.clone());
    }

    /// What the picture of a sample has.
    pub(super) fn find_sample(&self, sample: &Sample) -> Option<T> {
        let path = sample.visual.path().map(Path::to_string_lossy);
        // Of a question the picture's id is the group.
        let names = [
            Some(sample.group()),
            path.as_deref(),
            Some(sample.id.as_str()),
        ];
        self.find(names.iter().flatten().copied())
    }

    /// What a picture of one of these names has.
    pub(super) fn find<'a>(&self, names: impl Iterator<Item = &'a str> + Clone) -> Option<T> {
        names
            .clone()
            .flat_map(|name| [name, base(name), stem(name)])
            .find_map(|name| self.names.get(name))
            .or_else(|| {
                let numbers = names.filter_map(|name| coco_number(stem(name)));
                numbers
                    .filter_map(|number| self.numbers.get(&number))
                    .flatten()
                    .next()
            })
            .cloned()
    }
}

/// A name without its folders.
fn base(name: &str) -> &str {
    name.rsplit(['/', '\\']).next().unwrap_or(name)
}

/// A name without its folders and without the extension of a picture.
fn stem(name: &str) -> &str {
    let name = base(name);
    match name.rsplit_once('.') {
        Some((stem, extension)) if !stem.is_empty() && extension.len() <= 4 => stem,
        _ => name,
    }
}

/// The number of a COCO picture: `58350`, `000000058350` and `COCO_val2014_000000058350`. Other numbers
/// at the end of a name (`dog_1`) number nothing in common.
fn coco_number(stem: &str) -> Option<u64> {
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let number = match stem.rsplit_once('_') {
        Some((_, number)) => Some(number).filter(|number| number.len() == 12),
        None => Some(stem),
    };
    number
        .filter(|number| is_number(number))
        .and_then(|number| number.parse().ok())
}
