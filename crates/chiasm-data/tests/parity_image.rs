//! Decode, resize, crop and normalise against Pillow's results in the fixtures.
//!
//! Sizes, lists and tolerances all come from `case.json`. A tensor that no check covers fails its
//! case: an expectation must not be skipped in silence.

// The lint configuration knows test functions, not the helpers of integration tests.
#![allow(clippy::expect_used, clippy::print_stdout)]

use chiasm_data::resample::{Filter, Window, resize};
use chiasm_data::transform::{center_crop, crop, normalise, short_side_size};
use chiasm_data::{AlphaRule, Limits, Preprocess, Resize, Rgb, decode_rgb};
use chiasm_testkit::{Case, assert_close};

/// A way from a decoded picture to a smaller one.
type Shaper = Box<dyn Fn(&Rgb) -> Rgb>;

/// What a case asks for, read from its description.
struct Setup {
    size: usize,
    mean: [f32; 3],
    std: [f32; 3],
    jpeg: bool,
}

impl Setup {
    fn read(case: &Case) -> Self {
        let triple = |key: &str| {
            let values: Vec<f32> = serde_json::from_value(case.json[key].clone()).expect(key);
            <[f32; 3]>::try_from(values).expect(key)
        };
        let file = case.json["source_file"].as_str().expect("source_file");
        Self {
            size: case.json["N"].as_u64().expect("N") as usize,
            mean: triple("mean"),
            std: triple("std"),
            jpeg: file.ends_with(".jpg") || file.ends_with(".jpeg"),
        }
    }

    fn preprocess(&self, resize: Resize) -> Preprocess {
        Preprocess {
            resize,
            mean: self.mean,
            std: self.std,
            alpha: AlphaRule::Drop,
            ..Preprocess::new(self.size)
        }
    }
}

fn picture(case: &Case, name: &str) -> Rgb {
    let golden = case.tensor(&format!("expected.{name}"));
    Rgb::new(golden.shape[1], golden.shape[0], golden.u8s()).expect("height x width x 3")
}

/// Differences of every 8-bit value.
fn gaps<'a>(ours: &'a Rgb, theirs: &'a Rgb, what: &str) -> impl Iterator<Item = f64> + 'a {
    let size = |image: &Rgb| (image.width, image.height);
    assert_eq!(size(ours), size(theirs), "{what}: size");
    let pairs = ours.data.iter().zip(&theirs.data);
    pairs.map(|(a, b)| f64::from(a.abs_diff(*b)))
}

fn largest_gap(ours: &Rgb, theirs: &Rgb, what: &str) -> f64 {
    gaps(ours, theirs, what).fold(0.0, f64::max)
}

fn mean_gap(ours: &Rgb, theirs: &Rgb, what: &str) -> f64 {
    gaps(ours, theirs, what).sum::<f64>() / ours.data.len() as f64
}

fn run(case: &Case) {
    let setup = Setup::read(case);
    let bytes = case.file(case.json["source_file"].as_str().expect("source_file"));
    let names: Vec<String> = case
        .with_prefix("expected.")
        .map(|(name, _)| name.to_owned())
        .collect();
    assert!(!names.is_empty());
    let mut covered: Vec<String> = Vec::new();
    variant(
        case,
        &setup,
        &bytes,
        "",
        "decoded_rgb",
        false,
        &names,
        &mut covered,
    );
    if names
        .iter()
        .any(|name| name.starts_with("exif_transposed."))
    {
        let decoded = "decoded_rgb_exif_transposed";
        variant(
            case,
            &setup,
            &bytes,
            "exif_transposed.",
            decoded,
            true,
            &names,
            &mut covered,
        );
    }
    for name in &names {
        assert!(
            covered.contains(name),
            "expected.{name} is not covered by a check"
        );
    }
}

/// One decoded picture with everything that follows from it.
#[allow(clippy::too_many_arguments)]
fn variant(
    case: &Case,
    setup: &Setup,
    bytes: &[u8],
    prefix: &str,
    decoded_name: &str,
    exif: bool,
    names: &[String],
    covered: &mut Vec<String>,
) {
    let mut has = |name: &str| {
        let found = names.iter().any(|other| other == name);
        if found {
            covered.push(name.to_owned());
        }
        found
    };
    let own = decode_rgb(bytes, &Limits::default(), exif).expect("source decodes");
    if !exif {
        let size: Vec<usize> =
            serde_json::from_value(case.json["size_wh"].clone()).expect("size_wh");
        assert_eq!([own.width, own.height], size[..]);
    }
    let theirs = has(decoded_name).then(|| picture(case, decoded_name));
    if let Some(theirs) = &theirs {
        let key = if setup.jpeg {
            "jpeg_decoded_abs"
        } else {
            "png_decoded"
        };
        let gap = largest_gap(&own, theirs, decoded_name);
        println!("{decoded_name}: decode off by {gap}");
        assert!(gap <= case.tolerance(key), "{decoded_name}: off by {gap}");
    }
    // Without a stored decode, a PNG's own decode is exact and stands in for it.
    let base = theirs.as_ref().unwrap_or(&own);
    let step = case.tolerance("resize_from_expected_decoded_abs_u8");
    let own_mean = case.tolerance("resize_from_own_jpeg_decode_mean_abs_u8");
    let size = setup.size;

    let (width, height) = short_side_size(base.width, base.height, size);
    let shapes: [(&str, Shaper); 5] = [
        (
            "resized",
            Box::new(move |image| resize(image, width, height, Filter::Bicubic)),
        ),
        (
            "cropped",
            Box::new(move |image| {
                center_crop(&resize(image, width, height, Filter::Bicubic), size)
            }),
        ),
        (
            "cropped_floor_offset",
            Box::new(move |image| {
                let window = Window {
                    x: (width - size) / 2,
                    y: (height - size) / 2,
                    width: size,
                    height: size,
                };
                crop(&resize(image, width, height, Filter::Bicubic), window)
            }),
        ),
        (
            "squash_bicubic",
            Box::new(move |image| resize(image, size, size, Filter::Bicubic)),
        ),
        (
            "squash_bilinear",
            Box::new(move |image| resize(image, size, size, Filter::Bilinear)),
        ),
    ];
    for (name, make) in shapes {
        let name = format!("{prefix}{name}");
        if has(&name) {
            let theirs = picture(case, &name);
            let gap = largest_gap(&make(base), &theirs, &name);
            println!("{name}: resize off by {gap}");
            assert!(gap <= step, "{name}: off by {gap} from the expected decode");
            let gap = mean_gap(&make(&own), &theirs, &name);
            assert!(
                gap <= own_mean,
                "{name}: off by {gap} on average from our decode"
            );
        }
    }

    let exact = case.tolerance("normalised_from_expected_cropped_abs");
    let smallest = setup.std.iter().copied().fold(f32::INFINITY, f32::min);
    // One 8-bit step in normalised units, for the whole way from the decoded picture.
    let whole = step / 255.0 / f64::from(smallest) + exact;
    let normalised = [
        ("clip_normalised", "cropped", Resize::ShortSideCenterCrop),
        ("squash_clip_normalised", "squash_bicubic", Resize::Squash),
    ];
    for (name, pixels, rule) in normalised {
        let name = format!("{prefix}{name}");
        if has(&name) {
            let theirs = case.tensor(&format!("expected.{name}"));
            assert_eq!(theirs.shape, [3, size, size], "{name}");
            let from = picture(case, &format!("{prefix}{pixels}"));
            let ours = normalise(&from, setup.mean, setup.std);
            assert_close(&name, &ours, theirs, exact, 0.0);
            let what = format!("{name}, whole way");
            assert_close(
                &what,
                &setup.preprocess(rule).eval(base),
                theirs,
                whole,
                0.0,
            );
        }
    }
}

fn named(case: &str) {
    if let Some(case) = Case::open(&format!("image/{case}")) {
        run(&case);
    }
}

macro_rules! cases {
    ($($test:ident $case:literal;)*) => {
        $(#[test] fn $test() { named($case); })*
    };
}

cases! {
    parity_image_resize_clipart_png "resize_clipart_png";
    parity_image_resize_cmyk_jpg "resize_cmyk_jpg";
    parity_image_resize_exact_size_png "resize_exact_size_png";
    parity_image_resize_exif_rotated_jpg "resize_exif_rotated_jpg";
    parity_image_resize_gray_jpg "resize_gray_jpg";
    parity_image_resize_gray_png "resize_gray_png";
    parity_image_resize_one_pixel_wide_png "resize_one_pixel_wide_png";
    parity_image_resize_palette_png "resize_palette_png";
    parity_image_resize_rgb_landscape_jpg "resize_rgb_landscape_jpg";
    parity_image_resize_rgb_portrait_420_jpg "resize_rgb_portrait_420_jpg";
    parity_image_resize_rgba_png "resize_rgba_png";
    parity_image_resize_upscale_png "resize_upscale_png";
}

/// Every case that the folder holds, those without a test of their own included.
#[test]
fn parity_image_all_cases() {
    for folder in chiasm_testkit::cases("image").into_iter().flatten() {
        println!("case {}", folder.display());
        run(&Case::at(&folder));
    }
}
