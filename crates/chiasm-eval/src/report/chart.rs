//! Line charts as SVG, drawn from numbers alone: no text from data enters the markup made here.

use std::fmt::Write as _;

use super::Chart;

/// Size of the drawing in its own units. Near the width a chart has on a page, so that 13 units of type stay readable both
/// in two columns on a desk and on a phone.
pub(super) const WIDTH: f64 = 480.0;
/// Height of the drawing.
pub(super) const HEIGHT: f64 = 260.0;

/// Number of line styles (colour and dash pattern) that the page's style sheet defines.
pub(super) const STYLES: usize = 6;

const LEFT: f64 = 52.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 44.0;

/// Buckets a long curve is cut into. Each shows its mean as the line and its lowest and highest value as a band, so that the
/// trend can be read and no spike is hidden.
const BUCKETS: usize = 120;

/// Largest magnitude drawn.
const LIMIT: f64 = 1e30;

/// The inside of an `<svg viewBox="0 0 480 260">`: grid, axes, ticks, one path per line in class `line sN` and
/// its spread in class `band sN`.
/// `None` when there is no finite point.
pub(super) fn draw(chart: Chart, lines: &[&[(f64, f64)]]) -> Option<String> {
    let finite = || {
        lines
            .iter()
            .flat_map(|line| line.iter())
            .filter(|point| is_drawable(point))
    };
    let steps = Range::over(finite().map(|point| point.0))?;
    let values = value_range(chart, Range::over(finite().map(|point| point.1))?);
    let (steps, step_ticks) = (steps.widened(), ticks(steps.widened(), 5));
    let value_ticks = ticks(values, 5);
    let x = |step: f64| LEFT + steps.place(step) * (WIDTH - LEFT - RIGHT);
    let y = |value: f64| HEIGHT - BOTTOM - values.place(value) * (HEIGHT - TOP - BOTTOM);

    let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
    let mut svg = String::new();
    // Writing to a string cannot fail; so the results below carry nothing.
    for &tick in &value_ticks {
        let (at, label) = (y(tick), tick_label(tick));
        let _ = write!(svg, r#"<path class="grid" d="M{LEFT} {at:.1}H{right}"/>"#);
        let _ = write!(
            svg,
            r#"<text x="{:.1}" y="{:.1}" text-anchor="end">{label}</text>"#,
            LEFT - 8.0,
            at + 4.5
        );
    }
    for &tick in &step_ticks {
        let (at, label) = (x(tick), tick_label(tick));
        // The outermost label would be cut off by the edge if it were centred on its tick.
        let anchor = if at > right - 20.0 { "end" } else { "middle" };
        let _ = write!(svg, r#"<path class="axis" d="M{at:.1} {bottom}v5"/>"#);
        let _ = write!(
            svg,
            r#"<text x="{at:.1}" y="{:.1}" text-anchor="{anchor}">{label}</text>"#,
            bottom + 19.0
        );
    }
    let _ = write!(svg, r#"<path class="axis" d="M{LEFT} {bottom}H{right}"/>"#);
    let _ = write!(
        svg,
        r#"<text class="name" x="{right}" y="{:.1}" text-anchor="end">step</text>"#,
        bottom + 36.0
    );
    for (index, line) in lines.iter().enumerate() {
        let style = index % STYLES;
        let buckets = buckets(line);
        for run in buckets.split(Option::is_none) {
            let run = || run.iter().flatten();
            if run().any(|bucket| bucket.low < bucket.high) {
                let upper = run().map(|bucket| (x(bucket.step), y(bucket.high)));
                let lower = run().rev().map(|bucket| (x(bucket.step), y(bucket.low)));
                let _ = write!(
                    svg,
                    r#"<path class="band s{style}" d="{}Z"/>"#,
                    path(upper.chain(lower))
                );
            }
        }
        let mean = |run: &[Option<Bucket>]| {
            path(
                run.iter()
                    .flatten()
                    .map(|bucket| (x(bucket.step), y(bucket.mean))),
            )
        };
        let drawn: String = buckets.split(Option::is_none).map(mean).collect();
        let _ = write!(svg, r#"<path class="line s{style}" d="{drawn}"/>"#);
        // A line of one point has no length.
        let alone = buckets.split(Option::is_none).filter(|run| run.len() == 1);
        for bucket in alone.flatten().flatten() {
            let (step, mean) = (x(bucket.step), y(bucket.mean));
            let _ = write!(
                svg,
                r#"<circle class="dot s{style}" cx="{step:.1}" cy="{mean:.1}" r="3"/>"#
            );
        }
    }
    Some(svg)
}

/// A value as a tick or legend shows it: three significant digits or so, an exponent for small ones.
pub(super) fn tick_label(value: f64) -> String {
    let magnitude = value.abs();
    if value == 0.0 || magnitude < 1e-12 {
        "0".to_owned()
    } else if magnitude >= 1e6 {
        trimmed(format!("{:.2}", value / 1e6)) + "M"
    } else if magnitude >= 1e4 {
        trimmed(format!("{:.1}", value / 1e3)) + "k"
    } else if magnitude < 1e-3 {
        let exponent = magnitude.log10().floor();
        trimmed(format!("{:.1}", value / 10_f64.powf(exponent))) + &format!("e{exponent:.0}")
    } else if magnitude < 0.1 {
        trimmed(format!("{value:.4}"))
    } else if magnitude < 1.0 {
        trimmed(format!("{value:.3}"))
    } else {
        trimmed(format!("{value:.2}"))
    }
}

fn trimmed(number: String) -> String {
    if number.contains('.') {
        number
            .trim_end_matches('0')
            .trim_end_matches('.')
            .to_owned()
    } else {
        number
    }
}

/// Whether a point can be placed. A value past the limit is as broken as an infinite one, and differences of what is left
/// cannot overflow.
fn is_drawable(point: &(f64, f64)) -> bool {
    point.0.abs() <= LIMIT && point.1.abs() <= LIMIT
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Range {
    low: f64,
    high: f64,
}

impl Range {
    fn over(values: impl Iterator<Item = f64>) -> Option<Self> {
        values.fold(None, |range, value| {
            let Self { low, high } = range.unwrap_or(Self {
                low: value,
                high: value,
            });
            Some(Self {
                low: low.min(value),
                high: high.max(value),
            })
        })
    }

    /// The same range, or one around the value when all values are equal as far as a chart can tell.
    fn widened(self) -> Self {
        if self.high - self.low > self.high.abs().max(self.low.abs()).max(1e-12) * 1e-9 {
            return self;
        }
        let margin = if self.low.abs() < 1e-12 {
            1.0
        } else {
            self.low.abs() * 0.1
        };
        Self {
            low: self.low - margin,
            high: self.high + margin,
        }
    }

    /// Where a value lies, 0 at the low end and 1 at the high end.
    fn place(self, value: f64) -> f64 {
        (value - self.low) / (self.high - self.low)
    }
}

/// The vertical axis: whole for recall, from zero where that wastes little room, else around the values.
fn value_range(chart: Chart, values: Range) -> Range {
    let is_share = matches!(chart, Chart::ValidationRecall | Chart::ValidationAccuracy);
    if is_share && values.low >= 0.0 && values.high <= 1.0 {
        return Range {
            low: 0.0,
            high: 1.0,
        };
    }
    let mut range = values.widened();
    if values.low >= 0.0 && values.low <= values.high * 0.5 {
        range.low = 0.0;
    }
    let step = tick_step(range, 5);
    Range {
        low: (range.low / step).floor() * step,
        high: (range.high / step).ceil() * step,
    }
}

/// Round numbers inside the range, about `wanted` of them.
fn ticks(range: Range, wanted: usize) -> Vec<f64> {
    let step = tick_step(range, wanted);
    let (first, last) = (
        (range.low / step - 1e-9).ceil(),
        (range.high / step + 1e-9).floor(),
    );
    // A tenth of a step off by rounding is no tick lost; a count is bounded by the choice of the step.
    (0..=((last - first).clamp(0.0, 20.0) as usize))
        .map(|index| (first + index as f64) * step)
        .collect()
}

/// 1, 2 or 5 times a power of ten.
fn tick_step(range: Range, wanted: usize) -> f64 {
    let rough = (range.high - range.low) / wanted as f64;
    let power = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0]
        .into_iter()
        .find(|factor| factor * power >= rough * 0.999)
        .unwrap_or(10.0)
        * power;
    if step.is_finite() && step > 0.0 {
        step
    } else {
        1.0
    }
}

/// Whether a line is long enough for [`draw`] to show means and a band instead of every point.
pub(super) fn is_averaged(line: &[(f64, f64)]) -> bool {
    line.len() > 2 * BUCKETS
}

/// Neighbouring points, drawn as one.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Bucket {
    step: f64,
    mean: f64,
    low: f64,
    high: f64,
}

/// One bucket per point of a short line, [`BUCKETS`] of a long one; `None` where nothing can be drawn.
fn buckets(line: &[(f64, f64)]) -> Vec<Option<Bucket>> {
    let width = if is_averaged(line) {
        line.len().div_ceil(BUCKETS)
    } else {
        1
    };
    line.chunks(width)
        .map(|chunk| {
            let points = || chunk.iter().filter(|point| is_drawable(point));
            let Range { low, high } = Range::over(points().map(|point| point.1))?;
            let count = points().count() as f64;
            let step = points().map(|point| point.0 / count).sum();
            let mean = points().map(|point| point.1 / count).sum();
            Some(Bucket {
                step,
                mean,
                low,
                high,
            })
        })
        .collect()
}

/// Path data through points already in the drawing's units; a lone point becomes a dot-long dash, or it would not show.
fn path(mut points: impl Iterator<Item = (f64, f64)>) -> String {
    let mut data = String::new();
    let Some((x, y)) = points.next() else {
        return data;
    };
    let _ = write!(data, "M{x:.1} {y:.1}");
    let mut is_lone = true;
    for (x, y) in points {
        let _ = write!(data, "L{x:.1} {y:.1}");
        is_lone = false;
    }
    if is_lone {
        data.push_str("h2");
    }
    data
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        let at = |low, high| ticks(Range { low, high }, 5);
        assert_eq!(at(0.0, 1000.0), [0.0, 200.0, 400.0, 600.0, 800.0, 1000.0]);
        assert_eq!(at(0.0, 1.0).len(), 6);
        assert_eq!(
            at(3.0, 3.9)
                .iter()
                .map(|&tick| tick_label(tick))
                .collect::<Vec<_>>(),
            ["3", "3.2", "3.4", "3.6", "3.8"]
        );
        assert_eq!(at(-LIMIT, LIMIT).len(), 5);
    }

    #[test]
    fn labels_are_short() {
        for (value, label) in [
            (0.0, "0"),
            (-0.5, "-0.5"),
            (0.0003, "3e-4"),
            (1.25e-5, "1.2e-5"),
            (20_000.0, "20k"),
            (1_500_000.0, "1.5M"),
            (4.852, "4.85"),
            (100.0, "100"),
            (0.05, "0.05"),
        ] {
            assert_eq!(tick_label(value), label);
        }
    }

    #[test]
    fn odd_curves_draw_without_breaking() {
        assert_eq!(draw(Chart::Loss, &[]), None);
        assert_eq!(
            draw(Chart::Loss, &[&[(0.0, f64::NAN), (f64::INFINITY, 1.0)]]),
            None
        );
        for points in [
            &[(0.0, 0.0)][..],
            &[(5.0, 3.0), (5.0, 3.0)],
            &[(0.0, 1.0), (1.0, f64::NAN), (2.0, 0.5), (3.0, 0.25)],
            &[(0.0, -LIMIT), (1.0, LIMIT), (2.0, f64::MAX)],
            &[(0.0, 0.0), (1.0, f64::MIN_POSITIVE)],
            &[(0.0, 1e9), (1.0, 1e9 + 1e-7)],
            &[(0.0, -2.0), (1.0, -2.0)],
        ] {
            let svg = draw(Chart::Loss, &[points]).unwrap();
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
        let gap = draw(
            Chart::Loss,
            &[&[(0.0, 1.0), (1.0, f64::NAN), (2.0, 0.5), (3.0, 0.25)]],
        )
        .unwrap();
        let line = gap.split("line s0").nth(1).unwrap();
        assert_eq!(
            (
                line.matches('M').count(),
                line.matches('L').count(),
                line.matches("h2").count()
            ),
            (2, 1, 1)
        );
        assert!(!gap.contains("band"));
    }

    #[test]
    fn long_lines_become_means_with_a_band() {
        let spike = |step: u32| {
            if step == 7001 {
                50.0
            } else {
                1.0 + f64::from(step % 2)
            }
        };
        let line: Vec<(f64, f64)> = (0..10_000)
            .map(|step| (f64::from(step), spike(step)))
            .collect();
        assert!(is_averaged(&line));
        let buckets = buckets(&line);
        assert!(buckets.len() <= BUCKETS);
        let first = buckets[0].unwrap();
        assert_eq!((first.low, first.high), (1.0, 2.0));
        assert!((first.mean - 1.5).abs() < 1e-9);
        assert_eq!(
            buckets
                .iter()
                .flatten()
                .filter(|bucket| bucket.high == 50.0)
                .count(),
            1
        );
        assert!(draw(Chart::Loss, &[&line]).unwrap().contains("band s0"));
    }
}
