//! Boxes around the heaviest parts of a map.

/// A box in cells of a map, and how much of the map lies in it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Peak {
    /// First column, first row, columns, rows.
    pub cells: [usize; 4],
    /// Share of the map's sum.
    pub share: f32,
}

/// Share of the largest value from which on a cell belongs to a peak.
const LEVEL: f32 = 0.5;

/// The parts of a map, `[rows, columns]`, whose cells hang together and have at least half of the largest
/// value, each as the box around it; the one with the largest sum first, `top` at most. Cells below zero
/// count nothing, and a map of nothing has no peak.
#[must_use]
pub fn peaks(map: &[f32], columns: usize, top: usize) -> Vec<Peak> {
    let largest = map.iter().copied().fold(0.0, f32::max);
    let total: f32 = map.iter().map(|value| value.max(0.0)).sum();
    if columns == 0 || largest <= 0.0 || !largest.is_finite() {
        return Vec::new();
    }
    let mut is_open: Vec<bool> = map.iter().map(|value| *value >= LEVEL * largest).collect();
    let mut found = Vec::new();
    for start in 0..map.len() {
        let (mut waiting, mut sum) = (vec![start], 0.0);
        let mut corners: Option<[usize; 4]> = None;
        while let Some(cell) = waiting.pop() {
            let Some(open) = is_open.get_mut(cell).filter(|open| **open) else {
                continue;
            };
            *open = false;
            sum += map.get(cell).copied().unwrap_or(0.0);
            let (x, y) = (cell % columns, cell / columns);
            corners = Some(corners.map_or([x, y, x, y], |[left, above, right, below]| {
                [left.min(x), above.min(y), right.max(x), below.max(y)]
            }));
            if x > 0 {
                waiting.push(cell - 1);
            }
            if x + 1 < columns {
                waiting.push(cell + 1);
            }
            waiting.extend(cell.checked_sub(columns));
            waiting.push(cell + columns);
        }
        if let Some([left, above, right, below]) = corners {
            found.push(Peak {
                cells: [left, above, right - left + 1, below - above + 1],
                share: sum / total,
            });
        }
    }
    found.sort_by(|a, b| b.share.total_cmp(&a.share));
    found.truncate(top);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_that_hang_together_are_one() {
        #[rustfmt::skip]
        let map = [
            0.0, 0.9, 1.0, 0.0,
            0.0, 0.0, 0.6, 0.1,
            0.8, 0.0, 0.0, 0.0,
        ];
        let found = peaks(&map, 4, 5);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].cells, [1, 0, 2, 2]);
        assert_eq!(found[1].cells, [0, 2, 1, 1]);
        assert!((found[0].share - 2.5 / 3.4).abs() < 1e-6);
        assert_eq!(peaks(&map, 4, 1).len(), 1);
    }

    #[test]
    fn a_map_of_nothing_has_no_peak() {
        assert!(peaks(&[], 3, 2).is_empty());
        assert!(peaks(&[0.0; 9], 3, 2).is_empty());
        assert!(peaks(&[-1.0; 9], 3, 2).is_empty());
        assert!(peaks(&[f32::NAN; 4], 2, 2).is_empty());
        assert!(peaks(&[1.0], 0, 2).is_empty());
    }
}
