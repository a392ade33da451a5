//! The algebra of relation labels: two facts, and the four classes that they make.
//!
//! t, "text is represented": words of the text are shown in the image. v, "image adds": the image adds meaning beyond
//! the text. tv = 2 t + v (`specs/itr.md` section 3.1).

/// Short names of the four classes, indexed by tv.
pub const NAMES: [&str; 4] = [
    "neither",
    "image adds",
    "text represented",
    "text represented, image adds",
];

/// tv of t and v.
#[must_use]
pub fn joint(text_represented: bool, image_adds: bool) -> usize {
    2 * usize::from(text_represented) + usize::from(image_adds)
}

/// t and v of tv; `None` beyond 3.
#[must_use]
pub fn facts(tv: usize) -> Option<(bool, bool)> {
    (tv < 4).then_some((tv >= 2, tv % 2 == 1))
}

/// An order in which a source numbers the four classes: `order[its number]` is tv.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClassOrder([usize; 4]);

impl ClassOrder {
    /// tv itself.
    pub const TV: Self = Self([0, 1, 2, 3]);
    /// (both, image adds, text represented, neither), as the Latvian Twitter Eater Corpus and the code of auxiliary
    /// losses number them.
    pub const BOTH_FIRST: Self = Self([3, 1, 2, 0]);

    /// An order; `None` unless each class occurs once.
    #[must_use]
    pub fn new(order: [usize; 4]) -> Option<Self> {
        let mut seen = [false; 4];
        for tv in order {
            *seen.get_mut(tv)? = true;
        }
        (seen == [true; 4]).then_some(Self(order))
    }

    /// tv of a source's number; `None` beyond 3.
    #[must_use]
    pub fn to_tv(self, number: usize) -> Option<usize> {
        self.0.get(number).copied()
    }

    /// The source's number of tv; `None` beyond 3.
    #[must_use]
    pub fn from_tv(self, tv: usize) -> Option<usize> {
        self.0.iter().position(|&class| class == tv)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joint_label_and_facts_are_inverse() {
        for tv in 0..4 {
            let (text, image) = facts(tv).unwrap();
            assert_eq!(joint(text, image), tv);
        }
        let text: Vec<_> = (0..4).map(|tv| facts(tv).unwrap().0).collect();
        let image: Vec<_> = (0..4).map(|tv| facts(tv).unwrap().1).collect();
        assert_eq!(text, [false, false, true, true]);
        assert_eq!(image, [false, true, false, true]);
        assert_eq!(facts(4), None);
    }

    #[test]
    fn orders_are_bijections() {
        for order in [ClassOrder::TV, ClassOrder::BOTH_FIRST] {
            assert_eq!(ClassOrder::new(order.0), Some(order));
            for number in 0..4 {
                let tv = order.to_tv(number).unwrap();
                assert_eq!(order.from_tv(tv), Some(number));
            }
        }
        // The published one is its own inverse (specs/itr.md section 3.1).
        let twice = |n| ClassOrder::BOTH_FIRST.to_tv(ClassOrder::BOTH_FIRST.to_tv(n)?);
        assert!((0..4).all(|number| twice(number) == Some(number)));
        assert_eq!(ClassOrder::new([0, 1, 2, 2]), None);
        assert_eq!(ClassOrder::new([0, 1, 2, 4]), None);
    }
}
