//! Frames of clips: lists of pictures, animations, videos; and their cache.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a failed unwrap here is the failed test"
)]

use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use chiasm_data::frames::{self, CacheConfig, Encoding};
use chiasm_data::rng::stream;
use chiasm_data::{
    AlphaRule, Annotations, Clip, ClipLimits, Dataset, ImageSource, Limits, OpenOptions, Origin,
    Rect, Rgb, Sample, SampledFrames, Sampling, SamplingKind, Split, Visual, open,
};
use chiasm_format::shard::{ShardOptions, ShardWriter};
use image::codecs::gif::GifEncoder;
use image::{Delay, DynamicImage, Frame, ImageFormat, Rgba, RgbaImage};

const CENTRES: Sampling = Sampling {
    kind: SamplingKind::SegmentCentres,
    frames: 4,
};

fn sample(id: &str, visual: Visual) -> Sample {
    Sample {
        id: id.to_owned(),
        visual,
        texts: vec![format!("a text of {id}")],
        split: Split::Test,
        group: None,
        annotations: Annotations::default(),
        origin: Origin::default(),
    }
}

fn take(of: &Sample, sampling: Sampling) -> frames::Frames {
    let mut rng = stream(5, "frames", &[0, 0]);
    frames::sample(
        of,
        sampling,
        &ClipLimits::default(),
        AlphaRule::Drop,
        &mut rng,
    )
    .unwrap()
}

/// A picture of one colour, which says which frame it is.
fn flat(number: usize) -> RgbaImage {
    RgbaImage::from_pixel(
        12,
        8,
        Rgba([number as u8 * 10, 255 - number as u8 * 10, 30, 255]),
    )
}

/// Rounded: drawing an opaque WebP frame over the one before may cost a level.
fn number_of(frame: &Rgb) -> usize {
    usize::from((frame.data[0] + 5) / 10)
}

fn png(number: usize) -> ImageSource {
    let mut bytes = Cursor::new(Vec::new());
    DynamicImage::ImageRgba8(flat(number))
        .write_to(&mut bytes, ImageFormat::Png)
        .unwrap();
    ImageSource::Bytes(Arc::from(bytes.into_inner()))
}

fn gif(frames: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = GifEncoder::new(&mut bytes);
    for number in 0..frames {
        let delay = Delay::from_numer_denom_ms(100, 1);
        encoder
            .encode_frame(Frame::from_parts(flat(number), 0, 0, delay))
            .unwrap();
    }
    drop(encoder);
    bytes
}

/// An animated WebP from lossless pictures.
fn webp(frames: usize) -> Vec<u8> {
    let chunk = |name: &[u8; 4], body: &[u8]| {
        let mut chunk = [&name[..], &(body.len() as u32).to_le_bytes(), body].concat();
        chunk.resize(chunk.len().next_multiple_of(2), 0);
        chunk
    };
    let mut body = b"WEBP".to_vec();
    body.extend(chunk(b"VP8X", &[0x02, 0, 0, 0, 11, 0, 0, 7, 0, 0]));
    body.extend(chunk(b"ANIM", &[0; 6]));
    for number in 0..frames {
        let mut picture = Cursor::new(Vec::new());
        DynamicImage::ImageRgba8(flat(number))
            .write_to(&mut picture, ImageFormat::WebP)
            .unwrap();
        let picture = picture.into_inner();
        let head = [0, 0, 0, 0, 0, 0, 11, 0, 0, 7, 0, 0, 50, 0, 0, 0];
        body.extend(chunk(b"ANMF", &[&head[..], &picture[12..]].concat()));
    }
    chunk(b"RIFF", &body)
}

#[test]
fn frames_of_a_list() {
    let of = sample(
        "list",
        Visual::Clip(Clip::Frames((0..20).map(png).collect())),
    );
    let taken = take(&of, CENTRES);
    assert_eq!(taken.sampled.indices, [2, 7, 12, 17]);
    assert_eq!((taken.sampled.total, taken.sampled.fps), (20, None));
    assert_eq!(
        taken.pictures.iter().map(number_of).collect::<Vec<_>>(),
        [2, 7, 12, 17]
    );
    assert_eq!(
        number_of(&frames::still(&of, &Limits::default(), AlphaRule::Drop).unwrap()),
        10
    );
    let few = sample("few", Visual::Clip(Clip::Frames((0..2).map(png).collect())));
    assert_eq!(
        take(&few, CENTRES)
            .pictures
            .iter()
            .map(number_of)
            .collect::<Vec<_>>(),
        [0, 0, 1, 1]
    );
    let still = sample("still", png(3).into());
    let taken = take(&still, CENTRES);
    assert_eq!(
        (taken.pictures.len(), taken.sampled.indices),
        (4, vec![0; 4])
    );
}

#[test]
fn frames_of_animations() {
    for (name, bytes, fps) in [("gif", gif(20), 10.0), ("webp", webp(20), 20.0)] {
        let source = ImageSource::Bytes(Arc::from(bytes));
        // Said to be a clip, or found out to be one.
        for visual in [
            Visual::Clip(Clip::Animation(source.clone())),
            source.clone().into(),
        ] {
            let taken = take(&sample(name, visual), CENTRES);
            assert_eq!(taken.sampled.indices, [2, 7, 12, 17], "{name}");
            assert_eq!(
                (taken.sampled.total, taken.sampled.fps),
                (20, Some(fps)),
                "{name}"
            );
            assert_eq!(
                taken.pictures.iter().map(number_of).collect::<Vec<_>>(),
                [2, 7, 12, 17],
                "{name}"
            );
        }
        let still = |visual| {
            let picture = frames::still(&sample(name, visual), &Limits::default(), AlphaRule::Drop);
            number_of(&picture.unwrap())
        };
        assert_eq!(
            still(Visual::Clip(Clip::Animation(source.clone()))),
            10,
            "{name}"
        );
        assert_eq!(still(source.into()), 0, "{name}");
    }
}

#[test]
fn the_record_goes_through_json() {
    let of = sample(
        "gif",
        Visual::Clip(Clip::Animation(ImageSource::Bytes(Arc::from(gif(9))))),
    );
    let sampled = take(
        &of,
        Sampling {
            kind: SamplingKind::RandomSegments,
            frames: 3,
        },
    )
    .sampled;
    let text = serde_json::to_string(&sampled).unwrap();
    assert!(
        text.contains(r#""kind":"random_segments","frames":3"#),
        "{text}"
    );
    assert_eq!(
        serde_json::from_str::<SampledFrames>(&text).unwrap(),
        sampled
    );
}

#[test]
fn clips_beyond_the_caps_are_refused() {
    let animation = |bytes: Vec<u8>| {
        sample(
            "clip",
            Visual::Clip(Clip::Animation(ImageSource::Bytes(Arc::from(bytes)))),
        )
    };
    let list = sample(
        "list",
        Visual::Clip(Clip::Frames((0..20).map(png).collect())),
    );
    let empty = sample("empty", Visual::Clip(Clip::Frames(Vec::new())));
    let plain = ClipLimits::default();
    let few = ClipLimits {
        max_frames: 19,
        ..plain
    };
    let small = ClipLimits {
        max_pixels: 12 * 8 * 3,
        ..plain
    };
    let short = ClipLimits {
        max_seconds: 0.5,
        ..plain
    };
    let tiny = ClipLimits {
        picture: Limits {
            max_side: 10,
            ..Limits::default()
        },
        ..plain
    };
    let cut = |bytes: Vec<u8>| bytes[..bytes.len() * 2 / 3].to_vec();
    for (of, limits, expected) in [
        (&list, few, "more than 19 frames"),
        (&animation(gif(20)), few, "more than 19 frames"),
        (&animation(webp(20)), few, "more than 19 frames"),
        (&list, small, "384 pixels"),
        (&animation(gif(20)), small, "1728 pixels"),
        (&animation(gif(20)), short, "2 seconds"),
        (&animation(webp(20)), tiny, "12x8"),
        (&animation(gif(20)), tiny, "12x8"),
        (&animation(cut(gif(20))), plain, "truncated"),
        (&animation(cut(webp(20))), plain, "truncated"),
        (&animation(b"no animation".to_vec()), plain, "not a PNG"),
        (&empty, plain, "no frames"),
    ] {
        let mut rng = stream(5, "frames", &[0, 0]);
        let error = frames::sample(of, CENTRES, &limits, AlphaRule::Drop, &mut rng).unwrap_err();
        assert!(error.to_string().contains(expected), "{expected}: {error}");
        assert!(error.to_string().contains(&of.id), "{error}");
    }
    let none = Sampling {
        frames: 0,
        ..CENTRES
    };
    let mut rng = stream(5, "frames", &[0, 0]);
    assert!(frames::sample(&list, none, &plain, AlphaRule::Drop, &mut rng).is_err());
}

/// A video of 30 frames, 10 a second, made by ffmpeg; `None` where it is not installed.
fn video(folder: &Path, name: &str, codec: &[&str]) -> Option<PathBuf> {
    let path = folder.join(name);
    let made = Command::new("ffmpeg")
        .args([
            "-v",
            "error",
            "-f",
            "lavfi",
            "-i",
            "testsrc=size=64x48:rate=10:duration=3",
        ])
        .args(codec)
        .arg(&path)
        .status();
    match made {
        Ok(status) if status.success() => Some(path),
        _ => {
            println!("skipped: ffmpeg is not installed, or lacks a codec of {name}");
            None
        }
    }
}

#[test]
fn frames_of_videos() {
    let folder = tempfile::tempdir().unwrap();
    for (name, codec) in [
        ("a.avi", &["-c:v", "rawvideo", "-pix_fmt", "bgr24"][..]),
        ("-b c'd.mp4", &["-c:v", "mpeg4", "-q:v", "2"]),
        (
            "c.webm",
            &[
                "-c:v",
                "libvpx",
                "-auto-alt-ref",
                "1",
                "-lag-in-frames",
                "16",
                "-b:v",
                "1M",
            ],
        ),
    ] {
        let Some(path) = video(folder.path(), name, codec) else {
            continue;
        };
        let of = sample(name, Visual::of_file(path));
        assert!(matches!(of.visual, Visual::Clip(Clip::Video(_))));
        let taken = take(&of, CENTRES);
        assert_eq!(taken.sampled.indices, [3, 11, 18, 26], "{name}");
        assert_eq!(
            (taken.sampled.total, taken.sampled.fps),
            (30, Some(10.0)),
            "{name}"
        );
        assert!(
            taken
                .pictures
                .iter()
                .all(|picture| (picture.width, picture.height) == (64, 48))
        );
        assert!(
            taken.pictures.windows(2).all(|pair| pair[0] != pair[1]),
            "{name}"
        );
        // The same frame whatever else is taken with it.
        let all = take(
            &of,
            Sampling {
                kind: SamplingKind::FirstToLast,
                frames: 30,
            },
        );
        assert_eq!(all.sampled.indices, (0..30).collect::<Vec<_>>());
        for (index, picture) in taken.sampled.indices.iter().zip(&taken.pictures) {
            assert_eq!(picture, &all.pictures[*index], "{name} {index}");
        }
        let still = frames::still(&of, &Limits::default(), AlphaRule::Drop).unwrap();
        assert_eq!(still, all.pictures[15], "{name}");
        for (limits, expected) in [
            (
                ClipLimits {
                    max_frames: 29,
                    ..ClipLimits::default()
                },
                "more than 29 frames",
            ),
            (
                ClipLimits {
                    max_seconds: 2.0,
                    ..ClipLimits::default()
                },
                "3 seconds",
            ),
            (
                ClipLimits {
                    max_pixels: 9000,
                    ..ClipLimits::default()
                },
                "12288 pixels",
            ),
            (
                ClipLimits {
                    max_wait: Duration::ZERO,
                    ..ClipLimits::default()
                },
                "stopped after 0 seconds",
            ),
        ] {
            let mut rng = stream(5, "frames", &[0, 0]);
            let error =
                frames::sample(&of, CENTRES, &limits, AlphaRule::Drop, &mut rng).unwrap_err();
            assert!(error.to_string().contains(expected), "{expected}: {error}");
        }
    }
}

#[test]
fn files_that_are_no_videos() {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret.txt");
    std::fs::write(&secret, "secret").unwrap();
    let list = format!(
        "#EXTM3U\n#EXTINF:1,\nfile://{}\n#EXT-X-ENDLIST\n",
        secret.display()
    );
    for (name, content) in [
        ("empty.mp4", &b""[..]),
        ("text.mp4", b"hello"),
        ("playlist.mp4", list.as_bytes()),
        ("concat.mp4", b"ffconcat version 1.0\nfile secret.txt\n"),
        (
            "cut.mp4",
            b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom\xFF\xFF\xFF\xFFmdat",
        ),
        (
            "webm.webm",
            b"\x1A\x45\xDF\xA3\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF",
        ),
    ] {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        let of = sample(name, Visual::of_file(path));
        let mut rng = stream(5, "frames", &[0, 0]);
        let limits = ClipLimits::default();
        let error = frames::sample(&of, CENTRES, &limits, AlphaRule::Drop, &mut rng).unwrap_err();
        let text = error.to_string();
        assert!(text.contains(name) && !text.contains('\0'), "{text}");
        // Without ffmpeg the error says what to do.
        assert!(
            !text.contains("was not found") || error.hint().unwrap().contains("install ffmpeg"),
            "{text}"
        );
    }
    let missing = sample(
        "missing",
        Visual::of_file(folder.path().join("missing.mp4")),
    );
    let error = frames::still(&missing, &Limits::default(), AlphaRule::Drop).unwrap_err();
    assert!(error.to_string().contains("missing.mp4"), "{error}");
}

#[test]
fn a_cache_opens_as_the_same_clips() {
    let clips = |count: usize| Dataset {
        name: "clips".to_owned(),
        samples: (0..count)
            .map(|number| {
                let mut of = match number {
                    3 => sample("bad/3.gif", ImageSource::Static(b"GIF89a").into()),
                    4 => sample(
                        "list-4",
                        Visual::Clip(Clip::Frames((0..9).map(png).collect())),
                    ),
                    _ => sample(
                        &format!("gif/{number}.gif"),
                        ImageSource::Bytes(Arc::from(gif(20))).into(),
                    ),
                };
                if number == 1 {
                    of.texts.push("another text".to_owned());
                    of.group = Some("one".to_owned());
                }
                of
            })
            .collect(),
    };
    let config = CacheConfig {
        sampling: Sampling {
            kind: SamplingKind::RandomSegments,
            frames: 4,
        },
        seed: 3,
        short_side: Some(6),
        encoding: Encoding::Png,
        alpha: AlphaRule::Drop,
        limits: ClipLimits::default(),
    };
    let options = || ShardOptions {
        max_samples: 2,
        ..ShardOptions::new("frames", serde_json::json!({"frames": 4}))
    };
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("whole");
    let mut writer = ShardWriter::open(&whole, options()).unwrap();
    let mut seen = 0;
    let report = frames::cache(&clips(7), &config, &mut writer, &mut |done| seen = done).unwrap();
    writer.finish().unwrap();
    assert_eq!(
        (report.clips, report.skipped, report.frames, seen),
        (6, 0, 24, 7)
    );
    assert_eq!(report.refused.entries[0].id, "bad/3.gif");
    assert!(report.bytes > 0);

    let opened = open(&whole, &OpenOptions::default()).unwrap();
    assert!(opened.quarantine.is_empty(), "{:?}", opened.quarantine);
    assert_eq!(opened.dataset.len(), 6);
    for (of, index) in opened.dataset.samples.iter().zip([0, 1, 2, 4, 5, 6]) {
        let original = &clips(7).samples[index];
        assert_eq!((&of.texts, of.split), (&original.texts, Split::Test));
        let Visual::Clip(Clip::Frames(sources)) = &of.visual else {
            panic!("{} is no clip", of.id);
        };
        assert_eq!(sources.len(), 4);
        let mut rng = stream(3, "frames", &[0, index as u64]);
        let direct = frames::sample(
            original,
            config.sampling,
            &config.limits,
            AlphaRule::Drop,
            &mut rng,
        );
        let cached = take(
            of,
            Sampling {
                kind: SamplingKind::FirstToLast,
                frames: 4,
            },
        );
        let (cached, direct) = (cached.pictures, direct.unwrap().pictures);
        assert_eq!((cached[0].width, cached[0].height), (9, 6));
        let numbers = |of: &[Rgb]| of.iter().map(number_of).collect::<Vec<_>>();
        assert_eq!(numbers(&cached), numbers(&direct), "{}", of.id);
    }

    // Stopped after some clips and begun again: the same bytes.
    let parts = folder.path().join("parts");
    let mut writer = ShardWriter::open(&parts, options()).unwrap();
    frames::cache(&clips(4), &config, &mut writer, &mut |_| {}).unwrap();
    drop(writer);
    let mut writer = ShardWriter::open(&parts, options()).unwrap();
    let report = frames::cache(&clips(7), &config, &mut writer, &mut |_| {}).unwrap();
    writer.finish().unwrap();
    assert_eq!(report.skipped, 2);
    for number in 0..3 {
        let name = format!("frames-{number:06}.tar");
        let bytes = |folder: &Path| std::fs::read(folder.join(&name)).unwrap();
        assert!(bytes(&whole) == bytes(&parts), "{name} differs");
    }

    for bad in [
        CacheConfig {
            encoding: Encoding::Jpeg(0),
            ..config
        },
        CacheConfig {
            short_side: Some(0),
            ..config
        },
        CacheConfig {
            sampling: Sampling {
                frames: 1000,
                ..config.sampling
            },
            ..config
        },
    ] {
        let mut writer = ShardWriter::open(&folder.path().join("bad"), options()).unwrap();
        assert!(frames::cache(&clips(1), &bad, &mut writer, &mut |_| {}).is_err());
    }
}

#[test]
fn a_cache_as_jpeg_stays_close() {
    let set = Dataset {
        name: "one".to_owned(),
        samples: vec![sample("one", ImageSource::Bytes(Arc::from(gif(5))).into())],
    };
    let config = CacheConfig {
        sampling: CENTRES,
        seed: 0,
        short_side: None,
        encoding: Encoding::Jpeg(95),
        alpha: AlphaRule::Drop,
        limits: ClipLimits::default(),
    };
    let folder = tempfile::tempdir().unwrap();
    let options = ShardOptions::new("frames", serde_json::Value::Null);
    let mut writer = ShardWriter::open(folder.path(), options).unwrap();
    frames::cache(&set, &config, &mut writer, &mut |_| {}).unwrap();
    writer.finish().unwrap();
    let opened = open(folder.path(), &OpenOptions::default()).unwrap();
    let cached = take(&opened.dataset.samples[0], CENTRES);
    let direct = take(&set.samples[0], CENTRES);
    for (ours, original) in cached.pictures.iter().zip(&direct.pictures) {
        let gap = ours
            .data
            .iter()
            .zip(&original.data)
            .map(|(a, b)| a.abs_diff(*b))
            .max();
        assert!(gap.unwrap() <= 6, "{gap:?}");
    }
}

#[test]
fn pictures_of_one_text_are_as_many_as_asked_for() {
    let limits = Limits::default();
    let part = |x1, x2| Rect {
        x1,
        y1: 0.0,
        x2,
        y2: 0.5,
    };
    let image = png(3);
    let strip = |parts| {
        let image = image.clone();
        sample("strip", Visual::Strip { image, parts })
    };
    // A part that is no box is a pixel, not a panic.
    let not_a_box = part(f32::NAN, f32::NEG_INFINITY);
    let of = strip(vec![part(0.0, 0.5), part(0.9, 7.0), not_a_box]);
    let parts = frames::pictures(&of, 3, &limits, AlphaRule::Drop).unwrap();
    let sizes: Vec<(usize, usize)> = parts.iter().map(|part| (part.width, part.height)).collect();
    assert_eq!(sizes, [(6, 4), (2, 4), (1, 4)]);
    let pair = sample("pair", Visual::Images(vec![png(1), png(2)]));
    let pictures = frames::pictures(&pair, 2, &limits, AlphaRule::Drop).unwrap();
    assert_ne!(pictures[0], pictures[1]);
    let clip = sample("clip", Visual::Clip(Clip::Frames(vec![png(1), png(2)])));
    for (of, found) in [(of, 3), (strip(Vec::new()), 0), (pair, 2), (clip, 1)] {
        let error = frames::pictures(&of, 4, &limits, AlphaRule::Drop).unwrap_err();
        let told = error.to_string();
        let counts = format!("has {found} pictures, and 4 are");
        assert!(told.contains(&of.id) && told.contains(&counts), "{told}");
        assert!(error.hint().is_some());
    }
}
