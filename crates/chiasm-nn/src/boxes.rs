//! Boxes on a pixel grid: overlap, and the correction that makes one box of another
//! (`specs/tbkin.md` sections 2.1 and 6.2).
//!
//! A box is left, top, right, bottom in pixels, and its last pixel belongs to it: it is
//! `right - left + 1` wide.

/// Left, top, right, bottom in pixels.
pub type PixelBox = [f64; 4];

/// What a head's corrections are measured in: shifts in a tenth, sizes in a fifth.
pub const DEVIATIONS: [f64; 4] = [0.1, 0.1, 0.2, 0.2];

/// A box given in fractions of a picture of this width and height.
#[must_use]
pub fn in_pixels(corners: [f32; 4], [width, height]: [f64; 2]) -> PixelBox {
    let [x1, y1, x2, y2] = corners.map(f64::from);
    [x1 * width, y1 * height, x2 * width, y2 * height]
}

/// Shared area as a part of the joint area, 0 to 1; 0 where a box is inverted.
#[must_use]
pub fn overlap(a: PixelBox, b: PixelBox) -> f64 {
    let area = |x: PixelBox| (x[2] - x[0] + 1.0).max(0.0) * (x[3] - x[1] + 1.0).max(0.0);
    let width = a[2].min(b[2]) - a[0].max(b[0]) + 1.0;
    let height = a[3].min(b[3]) - a[1].max(b[1]) + 1.0;
    let shared = width.max(0.0) * height.max(0.0);
    let joint = area(a) + area(b) - shared;
    if joint > 0.0 { shared / joint } else { 0.0 }
}

/// Width and height, at least a pixel, and centre.
fn shape(x: PixelBox) -> [f64; 4] {
    let [width, height] = [(x[2] - x[0] + 1.0).max(1.0), (x[3] - x[1] + 1.0).max(1.0)];
    [width, height, x[0] + 0.5 * width, x[1] + 0.5 * height]
}

/// The correction that makes `right` of `region`: the shift of the centre in sizes of the region, and
/// the logarithms of both growths. Not yet divided by [`DEVIATIONS`].
#[must_use]
pub fn encode(region: PixelBox, right: PixelBox) -> [f64; 4] {
    let ([w, h, x, y], [rw, rh, rx, ry]) = (shape(region), shape(right));
    [(rx - x) / w, (ry - y) / h, (rw / w).ln(), (rh / h).ln()]
}

/// A region after its correction, a pixel larger than what [`encode`] began with: the published code
/// does not take the pixel off again.
#[must_use]
pub fn decode(region: PixelBox, correction: [f64; 4]) -> PixelBox {
    /// Sizes grow 1,000-fold at most, so that no correction makes a box infinite.
    const MOST: f64 = 6.907_755_278_982_137;
    let [w, h, x, y] = shape(region);
    let [dx, dy, dw, dh] = correction;
    let (x, y) = (dx.mul_add(w, x), dy.mul_add(h, y));
    let (w, h) = (w * dw.min(MOST).exp(), h * dh.min(MOST).exp());
    [x - 0.5 * w, y - 0.5 * h, x + 0.5 * w, y + 0.5 * h]
}

/// The part of a box inside a picture of this width and height.
#[must_use]
pub fn clip(x: PixelBox, [width, height]: [f64; 2]) -> PixelBox {
    let (right, bottom) = ((width - 1.0).max(0.0), (height - 1.0).max(0.0));
    [
        x[0].clamp(0.0, right),
        x[1].clamp(0.0, bottom),
        x[2].clamp(0.0, right),
        x[3].clamp(0.0, bottom),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use chiasm_testkit::Case;
    use proptest::prelude::*;

    fn boxes(values: &[f64]) -> Vec<PixelBox> {
        let (boxes, _) = values.as_chunks();
        boxes.to_vec()
    }

    #[test]
    fn the_fixture() {
        let Some(case) = Case::open("tbkin/box_transform") else {
            return;
        };
        let of = |name: &str| boxes(&case.tensor(name).values);
        let (from, to) = (of("inputs.ex"), of("inputs.gt"));
        let close = |found: [f64; 4], expected: [f64; 4], allowed: f64| {
            let apart = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
            assert!(
                apart.fold(0.0, f64::max) <= allowed,
                "{found:?} {expected:?}"
            );
        };
        let (targets, decoded) = (of("expected.targets"), of("expected.decoded"));
        let clipped = of("expected.clipped");
        for row in 0..from.len() {
            close(encode(from[row], to[row]), targets[row], 1e-5);
            close(decode(from[row], targets[row]), decoded[row], 1e-3);
            close(clip(decoded[row], [400.0, 300.0]), clipped[row], 1e-3);
        }
        let expected = &case.tensor("expected.iou").values;
        for (a, row) in from.iter().zip(expected.chunks(to.len())) {
            for (b, expected) in to.iter().zip(row) {
                assert!((overlap(*a, *b) - expected).abs() <= 1e-6);
            }
        }
    }

    fn any_box() -> impl Strategy<Value = PixelBox> {
        (0.0f64..300.0, 0.0f64..300.0, 0.0f64..200.0, 0.0f64..200.0)
            .prop_map(|(x, y, w, h)| [x, y, x + w, y + h])
    }

    proptest! {
        #[test]
        fn decoding_undoes_encoding_within_a_pixel(a in any_box(), b in any_box()) {
            let found = decode(a, encode(a, b));
            for (found, b) in found.iter().zip(b) {
                prop_assert!((found - b).abs() <= 1.02, "{found} {b}");
            }
        }

        #[test]
        fn overlap_is_symmetric_and_whole_with_itself(a in any_box(), b in any_box()) {
            prop_assert_eq!(overlap(a, b), overlap(b, a));
            prop_assert!((0.0..=1.0).contains(&overlap(a, b)));
            prop_assert!((overlap(a, a) - 1.0).abs() < 1e-6);
        }
    }

    #[test]
    fn inverted_and_infinite_boxes_do_no_harm() {
        assert_eq!(overlap([5.0, 5.0, 1.0, 1.0], [0.0, 0.0, 9.0, 9.0]), 0.0);
        let grown = decode([0.0, 0.0, 9.0, 9.0], [0.0, 0.0, 1e9, 1e9]);
        assert!(grown.iter().all(|x| x.is_finite()));
        let encoded = encode([9.0, 9.0, 1.0, 1.0], [0.0, 0.0, 9.0, 9.0]);
        assert!(encoded.iter().all(|x| x.is_finite()));
    }
}
