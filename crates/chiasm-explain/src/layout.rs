//! Where words, class tokens and places of the image side stand among a model's tokens.

use chiasm_nn::vision::VisionEncoder;

/// What maps are over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Places {
    /// Patches of a picture, row after row; of a clip frame after frame.
    Patches {
        /// Patches along one side.
        side: usize,
        /// Frames.
        frames: usize,
    },
    /// Regions.
    Regions(usize),
}

impl Places {
    /// How many there are.
    #[must_use]
    pub fn count(self) -> usize {
        match self {
            Self::Patches { side, frames } => side * side * frames,
            Self::Regions(count) => count,
        }
    }
}

/// Tokens of one pair.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    /// Tokens of the text.
    pub(crate) words: usize,
    /// What maps are over.
    pub(crate) places: Places,
    /// Learned tokens between a class token and the patches.
    registers: usize,
}

impl Layout {
    /// Of a picture or a clip of so many frames.
    pub(crate) fn of_patches(vision: &VisionEncoder, frames: usize, words: usize) -> Self {
        Self {
            words,
            places: Places::Patches {
                side: vision.num_patches().isqrt(),
                frames,
            },
            registers: vision.num_registers(),
        }
    }

    /// Of regions.
    pub(crate) fn of_regions(count: usize, words: usize) -> Self {
        Self {
            words,
            places: Places::Regions(count),
            registers: 0,
        }
    }

    /// Class tokens in front of the image, one a frame; none of regions.
    pub(crate) fn class_tokens(&self) -> usize {
        match self.places {
            Places::Patches { frames, .. } => frames,
            Places::Regions(_) => 0,
        }
    }

    /// Tokens of the image side.
    pub(crate) fn image_tokens(&self) -> usize {
        self.class_tokens() * (1 + self.registers) + self.places.count()
    }

    /// Tokens of a frame but for its class token.
    fn rest(&self) -> usize {
        match self.places {
            Places::Patches { side, .. } => self.registers + side * side,
            Places::Regions(_) => 0,
        }
    }

    /// Which of the image's tokens each place is, as fusion and heads read them: class tokens of all
    /// frames first.
    pub(crate) fn place_tokens(&self) -> Vec<usize> {
        match self.places {
            Places::Regions(count) => (0..count).collect(),
            Places::Patches { side, frames } => {
                let start = |frame: usize| frames + frame * self.rest() + self.registers;
                (0..frames)
                    .flat_map(|frame| start(frame)..start(frame) + side * side)
                    .collect()
            }
        }
    }

    /// Which token within the tower's blocks, where each frame follows its own class token, each of the
    /// image's tokens is.
    pub(crate) fn tower_order(&self) -> Vec<usize> {
        let (classes, rest) = (self.class_tokens(), self.rest());
        let class = (0..classes).map(|frame| frame * (1 + rest));
        let others = (0..classes).flat_map(|frame| {
            let start = frame * (1 + rest) + 1;
            start..start + rest
        });
        class.chain(others).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn class_tokens_come_first_and_registers_are_no_places() {
        let layout = Layout {
            words: 3,
            places: Places::Patches { side: 2, frames: 2 },
            registers: 1,
        };
        assert_eq!((layout.image_tokens(), layout.places.count()), (12, 8));
        assert_eq!(layout.place_tokens(), [3, 4, 5, 6, 8, 9, 10, 11]);
        assert_eq!(layout.tower_order(), [0, 6, 1, 2, 3, 4, 5, 7, 8, 9, 10, 11]);
        let regions = Layout::of_regions(3, 2);
        assert_eq!((regions.image_tokens(), regions.class_tokens()), (3, 0));
        assert_eq!(regions.place_tokens(), [0, 1, 2]);
        // C1 of `specs/itr.md`: a picture's patches come after its one class token.
        let picture = Layout {
            words: 0,
            places: Places::Patches {
                side: 14,
                frames: 1,
            },
            registers: 0,
        };
        assert_eq!(picture.image_tokens(), 197);
        assert_eq!(picture.place_tokens(), (1..197).collect::<Vec<_>>());
        assert_eq!(picture.tower_order(), (0..197).collect::<Vec<_>>());
    }
}
