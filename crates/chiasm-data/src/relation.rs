//! How a text and its picture relate: the labels of `specs/itr.md` sections 0.2 and 3.1.
//!
//! Two facts, each true or false: is the text shown in the picture (t), and does the picture add to
//! the text (v). Together they are four classes, `tv = 2t + v`.

/// How a text and its picture relate.
///
/// # Examples
///
/// ```
/// use chiasm_data::Relation;
///
/// let relation = Relation::from_tv(2).unwrap();
/// assert!(relation.represented && !relation.adds);
/// assert_eq!((relation.tv(), relation.name()), (2, "represented"));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Relation {
    /// t: what the text names is shown in the picture.
    pub represented: bool,
    /// v: the picture adds to the meaning of the text.
    pub adds: bool,
}

impl Relation {
    /// Every relation, by its class `tv`.
    pub const ALL: [Self; 4] = [
        Self::new(false, false),
        Self::new(false, true),
        Self::new(true, false),
        Self::new(true, true),
    ];

    /// From the two facts.
    #[must_use]
    pub const fn new(represented: bool, adds: bool) -> Self {
        Self { represented, adds }
    }

    /// The class, `2t + v`.
    #[must_use]
    pub const fn tv(self) -> usize {
        2 * self.represented as usize + self.adds as usize
    }

    /// The relation of a class; `None` above 3.
    #[must_use]
    pub fn from_tv(tv: usize) -> Option<Self> {
        Self::ALL.get(tv).copied()
    }

    /// The relation of a class in the order of other data sets: adds and represented, adds only,
    /// represented only, neither. It is its own inverse, `{0: 3, 1: 1, 2: 2, 3: 0}` in `tv`.
    #[must_use]
    pub fn from_reversed(class: usize) -> Option<Self> {
        let tv = [3, 1, 2, 0].get(class)?;
        Self::from_tv(*tv)
    }

    /// The class as a word, in data files and as `annotations.label`: `neither`, `adds`,
    /// `represented` or `both`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match (self.represented, self.adds) {
            (false, false) => "neither",
            (false, true) => "adds",
            (true, false) => "represented",
            (true, true) => "both",
        }
    }

    /// The relation of a word.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|relation| relation.name() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_label_algebra() {
        for (tv, relation) in Relation::ALL.into_iter().enumerate() {
            assert_eq!(relation.tv(), tv);
            assert_eq!(Relation::from_tv(tv), Some(relation));
            assert_eq!(Relation::from_name(relation.name()), Some(relation));
            assert_eq!(usize::from(relation.represented), [0, 0, 1, 1][tv]);
            assert_eq!(usize::from(relation.adds), [0, 1, 0, 1][tv]);
        }
        assert_eq!(
            (Relation::from_tv(4), Relation::from_name("Both")),
            (None, None)
        );
        // D1: a bijection that is its own inverse.
        let there = |class| Relation::from_reversed(class).unwrap().tv();
        assert_eq!([0, 1, 2, 3].map(there), [3, 1, 2, 0]);
        assert_eq!([0, 1, 2, 3].map(|class| there(there(class))), [0, 1, 2, 3]);
        assert_eq!(Relation::from_reversed(4), None);
    }
}
