//! Pictures of every kind against Pillow's pixels, and hostile files of every format.
//!
//! The pictures in `tests/pictures` are one small drawing, written by Pillow, by cjpeg and by hand.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a failed unwrap here is the failed test"
)]

use std::io::Cursor;
use std::sync::Mutex;

use chiasm_data::{AlphaRule, DecodeError, Limits, decode, decode_rgb};
use image::{DynamicImage, ImageFormat};

/// Name, file, and what Pillow 13 gives: the sum of all values, each times its squared place plus one,
/// modulo 1,000,003, of `convert("RGB")` and of the picture over white.
const PICTURES: [(&str, &[u8], u64, u64); 21] = [
    (
        "411.jpg",
        include_bytes!("pictures/411.jpg"),
        417_454,
        417_454,
    ),
    (
        "420.jpg",
        include_bytes!("pictures/420.jpg"),
        989_163,
        989_163,
    ),
    (
        "422_restart.jpg",
        include_bytes!("pictures/422_restart.jpg"),
        141_724,
        141_724,
    ),
    (
        "440.jpg",
        include_bytes!("pictures/440.jpg"),
        438_143,
        438_143,
    ),
    (
        "444_planes.jpg",
        include_bytes!("pictures/444_planes.jpg"),
        986_478,
        986_478,
    ),
    (
        "alpha.webp",
        include_bytes!("pictures/alpha.webp"),
        328_833,
        610_024,
    ),
    (
        "cmyk.jpg",
        include_bytes!("pictures/cmyk.jpg"),
        59_732,
        59_732,
    ),
    (
        "grey2.png",
        include_bytes!("pictures/grey2.png"),
        470_857,
        470_857,
    ),
    (
        "interlaced.gif",
        include_bytes!("pictures/interlaced.gif"),
        513_369,
        150_250,
    ),
    (
        "la.png",
        include_bytes!("pictures/la.png"),
        853_106,
        871_779,
    ),
    (
        "lossy.webp",
        include_bytes!("pictures/lossy.webp"),
        100_828,
        100_828,
    ),
    (
        "mixed.jpg",
        include_bytes!("pictures/mixed.jpg"),
        566_218,
        566_218,
    ),
    (
        "palette.bmp",
        include_bytes!("pictures/palette.bmp"),
        513_369,
        513_369,
    ),
    (
        "palette_transparent.png",
        include_bytes!("pictures/palette_transparent.png"),
        726_991,
        412_075,
    ),
    (
        "progressive.jpg",
        include_bytes!("pictures/progressive.jpg"),
        989_163,
        989_163,
    ),
    (
        "progressive_restart.jpg",
        include_bytes!("pictures/progressive_restart.jpg"),
        141_724,
        141_724,
    ),
    (
        "rgb.jpg",
        include_bytes!("pictures/rgb.jpg"),
        59_732,
        59_732,
    ),
    (
        "rgb16.png",
        include_bytes!("pictures/rgb16.png"),
        920_797,
        920_797,
    ),
    (
        "rgb_key.png",
        include_bytes!("pictures/rgb_key.png"),
        328_833,
        994_669,
    ),
    (
        "rgba16.png",
        include_bytes!("pictures/rgba16.png"),
        246_645,
        312_384,
    ),
    (
        "ycck.jpg",
        include_bytes!("pictures/ycck.jpg"),
        167_429,
        167_429,
    ),
];

fn picture(name: &str) -> Vec<u8> {
    PICTURES
        .iter()
        .find(|(known, ..)| *known == name)
        .expect(name)
        .1
        .to_vec()
}

#[test]
fn every_kind_gives_pillows_pixels() {
    let sum = |data: &[u8]| {
        let places = (0u64..).zip(data);
        places
            .map(|(place, value)| u64::from(*value) * (place * place + 1))
            .sum::<u64>()
            % 1_000_003
    };
    for (name, bytes, dropped, over_white) in PICTURES {
        for (alpha, expected) in [
            (AlphaRule::Drop, dropped),
            (AlphaRule::OverWhite, over_white),
        ] {
            let ours = decode(bytes, &Limits::default(), true, alpha).expect(name);
            assert_eq!((ours.width, ours.height), (21, 13), "{name}");
            assert_eq!(sum(&ours.data), expected, "{name} {alpha:?}");
        }
    }
}

/// What must become of a file.
#[derive(Clone, Copy, PartialEq)]
enum Want {
    /// An error.
    Refuse,
    /// An error or a picture.
    Either,
}
use Want::{Either, Refuse};

type Corpus = Vec<(String, Want, Vec<u8>)>;

/// Small caps, so that memory beyond them shows.
const LIMITS: Limits = Limits {
    max_bytes: 8 << 20,
    max_pixels: 4_000_000,
    max_side: 65_535,
};

/// What decoding may add to the memory of the process: 4 million pixels of 16 bytes, twice, and the
/// corpus itself. A header bomb would ask for gigabytes.
const MAX_GROWTH: u64 = 256 << 20;

/// Most memory that this process ever held, where the system tells.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}

/// One corpus at a time, or their peaks would add up.
static ALONE: Mutex<()> = Mutex::new(());

fn run(corpus: &Corpus) {
    let _alone = ALONE
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let before = peak();
    for (reason, want, bytes) in corpus {
        for alpha in [AlphaRule::Drop, AlphaRule::OverWhite] {
            match decode(bytes, &LIMITS, true, alpha) {
                Ok(picture) => {
                    assert!(*want == Either, "{reason}: decoded");
                    assert_eq!(
                        picture.data.len(),
                        picture.width * picture.height * 3,
                        "{reason}"
                    );
                    assert!(picture.width * picture.height <= 4_000_000, "{reason}");
                }
                // Ours must not even panic inside; what is caught is only for decoders of others.
                Err(DecodeError::Damaged(text)) if bytes.starts_with(b"\xFF\xD8") => {
                    assert!(text != "the decoder failed on it", "{reason}: panicked");
                }
                Err(_) => {}
            }
        }
    }
    let growth = peak() - before;
    println!("{} files, peak grew by {} MiB", corpus.len(), growth >> 20);
    assert!(growth < MAX_GROWTH, "the peak grew by {growth} bytes");
}

/// Cuts and single wrong bytes, at every `step`th place.
fn wear(corpus: &mut Corpus, name: &str, bytes: &[u8], step: usize) {
    for cut in (0..bytes.len()).step_by(step) {
        corpus.push((
            format!("{name} cut at {cut}"),
            Either,
            bytes[..cut].to_vec(),
        ));
    }
    for place in (0..bytes.len()).step_by(step) {
        for value in [0, 0xFF, bytes[place] ^ 0x55] {
            let mut worn = bytes.to_vec();
            worn[place] = value;
            corpus.push((format!("{name} with {value} at {place}"), Either, worn));
        }
    }
}

fn crafted(corpus: &mut Corpus, items: Vec<(&str, Want, Vec<u8>)>) {
    assert!(items.len() >= 30, "{} files", items.len());
    corpus.extend(
        items
            .into_iter()
            .map(|(reason, want, bytes)| (reason.to_owned(), want, bytes)),
    );
}

/// Place of a marker.
fn at(bytes: &[u8], marker: [u8; 2]) -> usize {
    bytes
        .windows(2)
        .position(|pair| pair == marker)
        .expect("the marker is there")
}

/// A copy with `new` over what is at `place`.
fn put(bytes: &[u8], place: usize, new: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[place..place + new.len()].copy_from_slice(new);
    bytes
}

/// A copy with `new` inserted before `place`.
fn insert(bytes: &[u8], place: usize, new: &[u8]) -> Vec<u8> {
    [&bytes[..place], new, &bytes[place..]].concat()
}

/// A JPEG without the segments of this marker.
fn without(bytes: &[u8], marker: u8) -> Vec<u8> {
    let mut out = bytes.to_vec();
    while let Some(place) = out.windows(2).position(|pair| pair == [0xFF, marker]) {
        let length = usize::from(u16::from_be_bytes([out[place + 2], out[place + 3]]));
        out.drain(place..place + 2 + length);
    }
    out
}

fn jpeg_segment(marker: u8, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u16 + 2).to_be_bytes();
    [&[0xFF, marker], &length[..], body].concat()
}

#[test]
fn hostile_jpeg() {
    let (base, progressive) = (picture("420.jpg"), picture("progressive.jpg"));
    let restart = picture("422_restart.jpg");
    let frame = at(&base, [0xFF, 0xC0]);
    let scan = at(&base, [0xFF, 0xDA]);
    let data = scan + 2 + usize::from(base[scan + 3]);
    let huffman = at(&base, [0xFF, 0xC4]);
    let quantiser = at(&base, [0xFF, 0xDB]);
    let progressive_frame = at(&progressive, [0xFF, 0xC2]);
    let progressive_scan = at(&progressive, [0xFF, 0xDA]);
    // The last three bytes of a scan header.
    let parameters = progressive_scan + 2 + usize::from(progressive[progressive_scan + 3]) - 3;
    let first_scan_end = progressive_scan
        + 2
        + progressive[progressive_scan + 2..]
            .windows(2)
            .position(|pair| pair == [0xFF, 0xDA])
            .unwrap();
    let many_scans = {
        let empty = [&progressive[progressive_scan..first_scan_end]].concat();
        insert(&progressive, progressive_scan, &empty.repeat(1000))
    };
    let exif = jpeg_segment(0xE1, &[b"Exif\0\0".as_slice(), &[0xFF; 60_000]].concat());
    let profile = jpeg_segment(
        0xE2,
        &[b"ICC_PROFILE\0\x01\xFF".as_slice(), &[7; 65_000]].concat(),
    );
    let zeros = vec![0; 4000];
    let ones = [0xFF, 0x00].repeat(2000);
    let mut corpus = Corpus::new();
    crafted(
        &mut corpus,
        vec![
            ("only the start marker", Refuse, base[..2].to_vec()),
            ("start and end", Refuse, b"\xFF\xD8\xFF\xD9".to_vec()),
            ("65535 x 65535", Refuse, put(&base, frame + 5, &[0xFF; 4])),
            (
                "65535 x 65535, progressive",
                Refuse,
                put(&progressive, progressive_frame + 5, &[0xFF; 4]),
            ),
            ("no height", Refuse, put(&base, frame + 5, &[0, 0])),
            ("no width", Refuse, put(&base, frame + 7, &[0, 0])),
            (
                "2000 x 2000 in 442 bytes",
                Refuse,
                put(&base, frame + 5, &[0x07, 0xD0, 0x07, 0xD0]),
            ),
            (
                "2000 x 2000 in 651 bytes, progressive",
                Refuse,
                put(
                    &progressive,
                    progressive_frame + 5,
                    &[0x07, 0xD0, 0x07, 0xD0],
                ),
            ),
            ("no channels", Refuse, put(&base, frame + 9, &[0])),
            ("two channels", Refuse, put(&base, frame + 9, &[2])),
            ("255 channels", Refuse, put(&base, frame + 9, &[255])),
            ("12 bits", Refuse, put(&base, frame + 4, &[12])),
            ("no bits", Refuse, put(&base, frame + 4, &[0])),
            ("sampling factor 0", Refuse, put(&base, frame + 11, &[0x02])),
            (
                "sampling factor 15",
                Refuse,
                put(&base, frame + 11, &[0xF1]),
            ),
            (
                "sampling factors 3 and 2",
                Refuse,
                put(&base, frame + 11, &[0x31, 0, 2, 0x21]),
            ),
            ("quantisation table 9", Refuse, put(&base, frame + 12, &[9])),
            ("arithmetic coding", Refuse, put(&base, frame + 1, &[0xC9])),
            ("lossless", Refuse, put(&base, frame + 1, &[0xC3])),
            ("hierarchical", Refuse, put(&base, frame + 1, &[0xC5])),
            (
                "baseline data called progressive",
                Refuse,
                put(&base, frame + 1, &[0xC2]),
            ),
            ("no quantisation tables", Refuse, without(&base, 0xDB)),
            ("no Huffman tables", Refuse, without(&base, 0xC4)),
            ("no scan", Refuse, [&base[..scan], b"\xFF\xD9"].concat()),
            ("no frame", Refuse, without(&base, 0xC0)),
            (
                "two frames",
                Refuse,
                insert(&base, frame, &base[frame..frame + 19]),
            ),
            (
                "a frame after the scan",
                Refuse,
                insert(&base, base.len() - 2, &base[frame..frame + 19]),
            ),
            (
                "Huffman counts of 255",
                Refuse,
                put(&base, huffman + 5, &[255; 16]),
            ),
            (
                "more codes of one bit than there are",
                Refuse,
                put(&base, huffman + 5, &[3]),
            ),
            ("Huffman class 7", Refuse, put(&base, huffman + 4, &[0x70])),
            ("Huffman table 9", Refuse, put(&base, huffman + 4, &[0x09])),
            (
                "quantisation table 15",
                Refuse,
                put(&base, quantiser + 4, &[0x0F]),
            ),
            (
                "16-bit quantisation in an 8-bit segment",
                Refuse,
                put(&base, quantiser + 4, &[0x10]),
            ),
            (
                "segment length 0",
                Refuse,
                put(&base, quantiser + 2, &[0, 0]),
            ),
            (
                "segment length 1",
                Refuse,
                put(&base, quantiser + 2, &[0, 1]),
            ),
            (
                "segment longer than the file",
                Refuse,
                put(&base, quantiser + 2, &[0xFF, 0xFF]),
            ),
            ("quantisation steps of 65535", Either, {
                let steps = [&[0x10][..], &[0xFF; 128]].concat();
                insert(&base, scan, &jpeg_segment(0xDB, &steps))
            }),
            (
                "100 segments of broken EXIF",
                Either,
                insert(&base, 2, &exif.repeat(100)),
            ),
            (
                "100 segments of a colour profile",
                Either,
                insert(&base, 2, &profile.repeat(100)),
            ),
            (
                "a megabyte of fill bytes",
                Either,
                insert(&base, 2, &vec![0xFF; 1 << 20]),
            ),
            ("1000 scans", Refuse, many_scans),
            (
                "a scan of channel 200",
                Refuse,
                put(&base, scan + 5, &[200]),
            ),
            (
                "a scan that has a channel twice",
                Refuse,
                put(&base, scan + 7, &[base[scan + 5]]),
            ),
            ("a scan of no channels", Refuse, put(&base, scan + 4, &[0])),
            (
                "a scan of 255 channels",
                Refuse,
                put(&base, scan + 4, &[255]),
            ),
            (
                "Huffman tables 15 in a scan",
                Refuse,
                put(&base, scan + 6, &[0xFF]),
            ),
            (
                "a band that ends before it starts",
                Refuse,
                put(&progressive, parameters, &[9, 3, 0]),
            ),
            (
                "a band beyond the block",
                Refuse,
                put(&progressive, parameters, &[0, 64, 0]),
            ),
            (
                "a band with the mean in it",
                Refuse,
                put(&progressive, parameters, &[0, 5, 0]),
            ),
            (
                "a band of several channels",
                Refuse,
                put(&progressive, parameters, &[1, 5, 0]),
            ),
            (
                "14 missing bits",
                Refuse,
                put(&progressive, parameters, &[0, 0, 0x0E]),
            ),
            (
                "a refinement that skips bits",
                Refuse,
                put(&progressive, parameters, &[0, 0, 0x31]),
            ),
            (
                "a refinement of nothing",
                Either,
                put(&progressive, parameters, &[0, 0, 0x21]),
            ),
            (
                "restart markers that never come",
                Refuse,
                insert(&base, scan, &jpeg_segment(0xDD, &[0, 1])),
            ),
            (
                "a cut restart interval",
                Refuse,
                insert(&base, scan, &jpeg_segment(0xDD, &[1])),
            ),
            ("restart markers in the wrong order", Refuse, {
                put(&restart, at(&restart, [0xFF, 0xD0]) + 1, &[0xD5])
            }),
            (
                "the end right after the scan header",
                Refuse,
                [&base[..data], b"\xFF\xD9"].concat(),
            ),
            (
                "data of zeros",
                Either,
                [&base[..data], &zeros, b"\xFF\xD9"].concat(),
            ),
            (
                "data of ones",
                Refuse,
                [&base[..data], &ones, b"\xFF\xD9"].concat(),
            ),
            ("no end marker", Refuse, base[..base.len() - 2].to_vec()),
            (
                "half of it, with an end marker",
                Refuse,
                [&base[..data + 20], b"\xFF\xD9"].concat(),
            ),
        ],
    );
    for (name, step) in [
        ("420.jpg", 7),
        ("progressive.jpg", 7),
        ("422_restart.jpg", 5),
        ("ycck.jpg", 5),
        ("444_planes.jpg", 7),
    ] {
        wear(&mut corpus, name, &picture(name), step);
    }
    run(&corpus);
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg())
        })
    })
}

fn png_chunk(name: &[u8; 4], body: &[u8]) -> Vec<u8> {
    let named = [name, body].concat();
    [
        &(body.len() as u32).to_be_bytes()[..],
        &named,
        &crc32(&named).to_be_bytes(),
    ]
    .concat()
}

const PNG_MARK: &[u8] = b"\x89PNG\r\n\x1a\n";

fn png_header(width: u32, height: u32, rest: [u8; 5]) -> Vec<u8> {
    let body = [&width.to_be_bytes()[..], &height.to_be_bytes(), &rest].concat();
    png_chunk(b"IHDR", &body)
}

/// zlib data of `count` zeros: stored blocks would be as long, so this is deflate's run of one value.
fn zeros_deflated(count: usize) -> Vec<u8> {
    let mut bits = Bits::default();
    bits.put(1, 1);
    bits.put(1, 2);
    // A literal zero, then copies of 258 from one before.
    bits.code(0x30, 8);
    for _ in 0..count / 258 {
        bits.code(0b1100_0101, 8);
        bits.code(0, 5);
    }
    bits.code(0, 7);
    [&[0x78, 0x9C][..], &bits.bytes, &[0, 0, 0, 0]].concat()
}

#[derive(Default)]
struct Bits {
    bytes: Vec<u8>,
    used: usize,
}

impl Bits {
    fn put(&mut self, value: u32, count: usize) {
        for bit in 0..count {
            if self.used.is_multiple_of(8) {
                self.bytes.push(0);
            }
            *self.bytes.last_mut().unwrap() |= ((value >> bit & 1) as u8) << (self.used % 8);
            self.used += 1;
        }
    }

    /// Huffman codes go the other way round.
    fn code(&mut self, value: u32, count: usize) {
        for bit in (0..count).rev() {
            self.put(value >> bit & 1, 1);
        }
    }
}

#[test]
fn hostile_png() {
    let base = picture("palette_transparent.png");
    let rgb = picture("rgb_key.png");
    let body = |bytes: &[u8]| bytes[33..].to_vec();
    let chunks = |parts: &[Vec<u8>]| [PNG_MARK.to_vec(), parts.concat()].concat();
    let header = png_header(21, 13, [8, 2, 0, 0, 0]);
    let end = png_chunk(b"IEND", &[]);
    let data = |body: &[u8]| png_chunk(b"IDAT", body);
    let bomb = zeros_deflated(64 << 20);
    let named = |name: &[u8], more: &[u8]| [name, &[0, 0], more].concat();
    let with = |chunk: Vec<u8>| insert(&rgb, 33, &chunk);
    let mut corpus = Corpus::new();
    crafted(
        &mut corpus,
        vec![
            ("only the mark", Refuse, PNG_MARK.to_vec()),
            (
                "no chunk but the end",
                Refuse,
                chunks(std::slice::from_ref(&end)),
            ),
            (
                "65535 x 65535",
                Refuse,
                chunks(&[png_header(65_535, 65_535, [8, 2, 0, 0, 0]), body(&rgb)]),
            ),
            (
                "2^31-1 x 1",
                Refuse,
                chunks(&[png_header(i32::MAX as u32, 1, [8, 2, 0, 0, 0]), body(&rgb)]),
            ),
            (
                "2^32-1 x 2^32-1",
                Refuse,
                chunks(&[png_header(u32::MAX, u32::MAX, [16, 6, 0, 0, 1]), body(&rgb)]),
            ),
            (
                "no width",
                Refuse,
                chunks(&[png_header(0, 13, [8, 2, 0, 0, 0]), body(&rgb)]),
            ),
            (
                "no height",
                Refuse,
                chunks(&[png_header(21, 0, [8, 2, 0, 0, 0]), body(&rgb)]),
            ),
            (
                "2000 x 2000 in 918 bytes",
                Refuse,
                chunks(&[png_header(2000, 2000, [8, 2, 0, 0, 0]), body(&rgb)]),
            ),
            (
                "2000 x 2000, 16 bits, interlaced",
                Refuse,
                chunks(&[png_header(2000, 2000, [16, 6, 0, 0, 1]), body(&rgb)]),
            ),
            (
                "bit depth 3",
                Refuse,
                chunks(&[png_header(21, 13, [3, 2, 0, 0, 0]), body(&rgb)]),
            ),
            (
                "bit depth 2 in colour",
                Refuse,
                chunks(&[png_header(21, 13, [2, 2, 0, 0, 0]), body(&rgb)]),
            ),
            (
                "colour type 5",
                Refuse,
                chunks(&[png_header(21, 13, [8, 5, 0, 0, 0]), body(&rgb)]),
            ),
            (
                "compression 1",
                Refuse,
                chunks(&[png_header(21, 13, [8, 2, 1, 0, 0]), body(&rgb)]),
            ),
            (
                "filter method 1",
                Refuse,
                chunks(&[png_header(21, 13, [8, 2, 0, 1, 0]), body(&rgb)]),
            ),
            (
                "interlace 2",
                Refuse,
                chunks(&[png_header(21, 13, [8, 2, 0, 0, 2]), body(&rgb)]),
            ),
            (
                "a palette picture without palette",
                Refuse,
                chunks(&[png_header(21, 13, [8, 3, 0, 0, 0]), body(&rgb)]),
            ),
            (
                "a wrong check sum of the header",
                Refuse,
                put(&rgb, 29, &[1, 2, 3, 4]),
            ),
            (
                "a wrong check sum of the data",
                Refuse,
                put(&rgb, rgb.len() - 16, &[1, 2, 3, 4]),
            ),
            ("no data", Refuse, chunks(&[header.clone(), end.clone()])),
            (
                "empty data",
                Refuse,
                chunks(&[header.clone(), data(&[]), end.clone()]),
            ),
            (
                "data that is no zlib",
                Refuse,
                chunks(&[header.clone(), data(&[0xFF; 50]), end.clone()]),
            ),
            (
                "data that inflates to 64 MiB",
                Either,
                chunks(&[header.clone(), data(&bomb), end.clone()]),
            ),
            (
                "two headers",
                Refuse,
                chunks(&[header.clone(), header.clone(), body(&rgb)]),
            ),
            (
                "the end before the header",
                Refuse,
                chunks(&[end.clone(), header.clone(), body(&rgb)]),
            ),
            (
                "a chunk of 2^31 bytes",
                Refuse,
                put(&rgb, 33, &[0x80, 0, 0, 0]),
            ),
            ("a chunk of 2^32-1 bytes", Refuse, put(&rgb, 33, &[0xFF; 4])),
            (
                "a colour profile that inflates to 64 MiB",
                Either,
                with(png_chunk(b"iCCP", &named(b"p", &bomb))),
            ),
            (
                "a text that inflates to 64 MiB",
                Either,
                with(png_chunk(b"zTXt", &named(b"t", &bomb))),
            ),
            (
                "100 such texts",
                Either,
                with(png_chunk(b"zTXt", &named(b"t", &bomb)).repeat(20)),
            ),
            (
                "an international text that inflates",
                Either,
                with(png_chunk(
                    b"iTXt",
                    &[b"t\0\x01\0\0\0".as_slice(), &bomb].concat(),
                )),
            ),
            (
                "EXIF of a megabyte",
                Either,
                with(png_chunk(b"eXIf", &vec![0xFF; 1 << 20])),
            ),
            (
                "a text of 4 MiB",
                Either,
                with(png_chunk(
                    b"tEXt",
                    &[b"t\0".as_slice(), &vec![b'x'; 4 << 20]].concat(),
                )),
            ),
            (
                "10,000 empty chunks",
                Either,
                with(png_chunk(b"teSt", &[]).repeat(10_000)),
            ),
            (
                "an unknown critical chunk",
                Either,
                with(png_chunk(b"TEST", &[])),
            ),
            (
                "a palette of 257 colours",
                Either,
                with(png_chunk(b"PLTE", &[7; 771])),
            ),
            (
                "a palette of 4 bytes",
                Either,
                with(png_chunk(b"PLTE", &[7; 4])),
            ),
            (
                "transparency of 300 colours",
                Either,
                insert(&base, 33, &png_chunk(b"tRNS", &[7; 300])),
            ),
            ("frames of an animation that lie outside", Either, {
                let control = [&[0; 4][..], &u32::MAX.to_be_bytes().repeat(4), &[0; 6]].concat();
                with(
                    [
                        png_chunk(b"acTL", &[0, 0x0F, 0x42, 0x40, 0, 0, 0, 0]),
                        png_chunk(b"fcTL", &control),
                    ]
                    .concat(),
                )
            }),
        ],
    );
    wear(&mut corpus, "palette", &base, 3);
    wear(&mut corpus, "16 bits", &picture("rgba16.png"), 23);
    wear(
        &mut corpus,
        "grey and alpha, interlaced",
        &picture("la.png"),
        7,
    );
    run(&corpus);
}

/// A GIF: screen, then blocks.
fn gif(width: u16, height: u16, blocks: &[Vec<u8>]) -> Vec<u8> {
    let screen = [
        &width.to_le_bytes()[..],
        &height.to_le_bytes(),
        &[0x80, 0, 0, 0, 0, 0, 255, 255, 255],
    ]
    .concat();
    [b"GIF89a".to_vec(), screen, blocks.concat(), vec![0x3B]].concat()
}

/// A frame of one value, `code_size` as it stands.
fn gif_frame(place: [u16; 4], code_size: u8, data: &[u8]) -> Vec<u8> {
    let mut block = vec![0x2C];
    block.extend(place.iter().flat_map(|value| value.to_le_bytes()));
    block.extend([0, code_size]);
    for part in data.chunks(255) {
        block.push(part.len() as u8);
        block.extend(part);
    }
    block.push(0);
    block
}

/// A clear code, one pixel, the end.
const ONE_PIXEL: [u8; 2] = [0x44, 0x01];

#[test]
fn hostile_gif() {
    let base = picture("interlaced.gif");
    let one = gif_frame([0, 0, 1, 1], 2, &ONE_PIXEL);
    let control = |delay: u8| vec![0x21, 0xF9, 4, 0x0D, delay, 0, 1, 0];
    // Codes that each stand for one pixel more than the one before.
    let growing = [vec![0x04], vec![0xFF; 60_000]].concat();
    let extension = |label: u8, blocks: usize| {
        let block = [&[255][..], &[7; 255]].concat();
        [vec![0x21, label], block.repeat(blocks), vec![0]].concat()
    };
    let mut corpus = Corpus::new();
    crafted(
        &mut corpus,
        vec![
            ("only the mark", Refuse, b"GIF89a".to_vec()),
            ("no frame", Refuse, gif(4, 4, &[])),
            (
                "65535 x 65535",
                Refuse,
                gif(65_535, 65_535, std::slice::from_ref(&one)),
            ),
            ("no width", Refuse, gif(0, 4, std::slice::from_ref(&one))),
            ("no height", Refuse, gif(4, 0, std::slice::from_ref(&one))),
            (
                "a frame of 65535 x 65535 on a small screen",
                Refuse,
                gif(4, 4, &[gif_frame([0, 0, 65_535, 65_535], 2, &ONE_PIXEL)]),
            ),
            (
                "a frame beyond the screen",
                Either,
                gif(4, 4, &[gif_frame([60_000, 60_000, 2, 2], 2, &ONE_PIXEL)]),
            ),
            (
                "a frame without pixels",
                Either,
                gif(4, 4, &[gif_frame([0, 0, 0, 0], 2, &ONE_PIXEL)]),
            ),
            (
                "code size 0",
                Either,
                gif(4, 4, &[gif_frame([0, 0, 4, 4], 0, &ONE_PIXEL)]),
            ),
            (
                "code size 12",
                Refuse,
                gif(4, 4, &[gif_frame([0, 0, 4, 4], 12, &ONE_PIXEL)]),
            ),
            (
                "code size 255",
                Refuse,
                gif(4, 4, &[gif_frame([0, 0, 4, 4], 255, &ONE_PIXEL)]),
            ),
            (
                "no data",
                Refuse,
                gif(4, 4, &[gif_frame([0, 0, 4, 4], 2, &[])]),
            ),
            (
                "data for one pixel of four million",
                Refuse,
                gif(2000, 2000, &[gif_frame([0, 0, 2000, 2000], 2, &ONE_PIXEL)]),
            ),
            (
                "an LZW bomb",
                Either,
                gif(2000, 2000, &[gif_frame([0, 0, 2000, 2000], 2, &growing)]),
            ),
            (
                "an LZW bomb in a small frame",
                Either,
                gif(4, 4, &[gif_frame([0, 0, 4, 4], 2, &growing)]),
            ),
            (
                "data of zeros",
                Either,
                gif(40, 40, &[gif_frame([0, 0, 40, 40], 2, &[0; 400])]),
            ),
            (
                "data of ones",
                Either,
                gif(40, 40, &[gif_frame([0, 0, 40, 40], 8, &[0xFF; 400])]),
            ),
            (
                "a code that is not known yet",
                Either,
                gif(40, 40, &[gif_frame([0, 0, 40, 40], 2, &[0xFC; 40])]),
            ),
            (
                "200,000 tiny frames",
                Either,
                gif(1, 1, &vec![one.clone(); 200_000]),
            ),
            (
                "200,000 frames with times",
                Either,
                gif(1, 1, &vec![[control(9), one.clone()].concat(); 200_000]),
            ),
            (
                "frames of the whole screen, 1000 of them",
                Either,
                gif(
                    500,
                    500,
                    &vec![gif_frame([0, 0, 500, 500], 2, &growing); 100],
                ),
            ),
            ("no end", Either, {
                let mut bytes = gif(1, 1, std::slice::from_ref(&one));
                bytes.pop();
                bytes
            }),
            (
                "an unknown block first",
                Refuse,
                gif(4, 4, &[vec![0x99], one.clone()]),
            ),
            (
                "a palette that is cut off",
                Refuse,
                gif(4, 4, &[])[..15].to_vec(),
            ),
            (
                "a local palette that is cut off",
                Refuse,
                [&gif(4, 4, &[])[..19], &[0x2C, 0, 0, 0, 0, 1, 0, 1, 0, 0x87]].concat(),
            ),
            (
                "a control block of 255 bytes",
                Either,
                gif(1, 1, &[extension(0xF9, 1), one.clone()]),
            ),
            (
                "a control block without its frame",
                Refuse,
                gif(1, 1, &[control(1)]),
            ),
            (
                "4 MiB of comment",
                Either,
                gif(1, 1, &[extension(0xFE, 16_000), one.clone()]),
            ),
            (
                "4 MiB of an application",
                Either,
                gif(1, 1, &[extension(0xFF, 16_000), one.clone()]),
            ),
            ("4 MiB called a colour profile", Either, {
                let head = [&[0x21, 0xFF, 11][..], b"ICCRGBG1012"].concat();
                let body = [&[255][..], &[7; 255]].concat().repeat(16_000);
                gif(1, 1, &[[head, body, vec![0]].concat(), one.clone()])
            }),
            (
                "a plain text block",
                Either,
                gif(1, 1, &[extension(0x01, 1), one.clone()]),
            ),
            (
                "blocks that never end",
                Refuse,
                [gif(1, 1, &[]), [&[255][..], &[7; 255]].concat().repeat(100)].concat()[..2000]
                    .to_vec(),
            ),
            ("version 00a", Either, put(&base, 3, b"00a")),
        ],
    );
    wear(&mut corpus, "interlaced", &base, 3);
    run(&corpus);
}

fn riff(name: &[u8; 4], body: &[u8]) -> Vec<u8> {
    let mut chunk = [&name[..], &(body.len() as u32).to_le_bytes(), body].concat();
    if body.len() % 2 == 1 {
        chunk.push(0);
    }
    chunk
}

fn webp(chunks: &[Vec<u8>]) -> Vec<u8> {
    let body = [b"WEBP".to_vec(), chunks.concat()].concat();
    riff(b"RIFF", &body)
}

fn canvas(flags: u8, width: u32, height: u32) -> Vec<u8> {
    let size = |value: u32| (value - 1).to_le_bytes()[..3].to_vec();
    riff(
        b"VP8X",
        &[vec![flags, 0, 0, 0], size(width), size(height)].concat(),
    )
}

fn webp_frame(place: [u32; 4], body: &[u8]) -> Vec<u8> {
    let mut head: Vec<u8> = place
        .iter()
        .flat_map(|value| value.to_le_bytes()[..3].to_vec())
        .collect();
    head.extend([40, 0, 0, 0]);
    riff(b"ANMF", &[&head, body].concat())
}

/// The picture chunk of a lossless WebP.
fn lossless(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    let image = image::RgbaImage::from_fn(width, height, |x, y| {
        image::Rgba([x as u8, y as u8, 9, 200])
    });
    DynamicImage::ImageRgba8(image)
        .write_to(&mut bytes, ImageFormat::WebP)
        .unwrap();
    let bytes = bytes.into_inner();
    let place = bytes.windows(4).position(|name| name == b"VP8L").unwrap();
    bytes[place..].to_vec()
}

#[test]
fn hostile_webp() {
    let (lossy, alpha) = (picture("lossy.webp"), picture("alpha.webp"));
    let tiny = lossless(2, 2);
    let animation = riff(b"ANIM", &[0; 6]);
    let frame = webp_frame([0, 0, 1, 1], &tiny);
    let vp8 = at(&lossy, *b"VP") + 8;
    let vp8l = at(&alpha, *b"VP") + 8;
    let animated = |frames: &[Vec<u8>]| {
        webp(&[vec![canvas(0x12, 2, 2), animation.clone()], frames.to_vec()].concat())
    };
    let mut corpus = Corpus::new();
    crafted(
        &mut corpus,
        vec![
            ("only the mark", Refuse, b"RIFF\x04\0\0\0WEBP".to_vec()),
            ("no picture", Refuse, webp(&[canvas(0, 4, 4)])),
            (
                "a canvas of 65535 x 65535",
                Refuse,
                webp(&[canvas(2, 65_535, 65_535), animation.clone(), frame.clone()]),
            ),
            (
                "a canvas of 2^24 x 2^24",
                Refuse,
                webp(&[
                    canvas(2, 1 << 24, 1 << 24),
                    animation.clone(),
                    frame.clone(),
                ]),
            ),
            (
                "a canvas of 2^24 x 1",
                Refuse,
                webp(&[canvas(2, 1 << 24, 1), animation.clone(), frame.clone()]),
            ),
            (
                "lossy 16383 x 16383",
                Refuse,
                put(&lossy, vp8 + 6, &[0xFF, 0x3F, 0xFF, 0x3F]),
            ),
            ("lossy without width", Refuse, put(&lossy, vp8 + 6, &[0, 0])),
            (
                "lossy 2000 x 2000 in 206 bytes",
                Either,
                put(&lossy, vp8 + 6, &[0xD0, 0x07, 0xD0, 0x07]),
            ),
            (
                "lossless 16384 x 16384",
                Refuse,
                put(&alpha, vp8l + 1, &[0xFF, 0xFF, 0xFF, 0x0F]),
            ),
            (
                "lossless 2048 x 1900 in 84 bytes",
                Either,
                put(&alpha, vp8l + 1, &[0xFF, 0xC7, 0xDA, 0x11]),
            ),
            (
                "a wrong mark of the lossless data",
                Refuse,
                put(&alpha, vp8l, &[0x30]),
            ),
            ("lossless version 7", Refuse, put(&alpha, vp8l + 4, &[0xF0])),
            (
                "a wrong mark of the lossy data",
                Refuse,
                put(&lossy, vp8 + 3, &[0, 0, 0]),
            ),
            (
                "a lossy frame that is no key frame",
                Refuse,
                put(&lossy, vp8, &[lossy[vp8] | 1]),
            ),
            (
                "a lossy partition longer than the file",
                Either,
                put(&lossy, vp8, &[lossy[vp8] | 0xE0, 0xFF, 0xFF]),
            ),
            (
                "lossless data of ones",
                Either,
                [&alpha[..vp8l + 5], &vec![0xFF; alpha.len() - vp8l - 5][..]].concat(),
            ),
            (
                "lossless data of zeros",
                Either,
                [&alpha[..vp8l + 5], &vec![0; alpha.len() - vp8l - 5][..]].concat(),
            ),
            (
                "a chunk of 4 GiB",
                Refuse,
                put(&alpha, vp8l - 4, &[0xFF; 4]),
            ),
            ("EXIF of 4 GiB", Refuse, {
                let bytes = webp(&[canvas(0x08, 2, 2), tiny.clone(), riff(b"EXIF", b"abcd")]);
                put(&bytes, bytes.len() - 8, &[0xF0, 0xFF, 0xFF, 0xFF])
            }),
            ("a colour profile of 4 GiB", Refuse, {
                let bytes = webp(&[canvas(0x20, 2, 2), riff(b"ICCP", b"abcd"), tiny.clone()]);
                put(&bytes, at(&bytes, *b"IC") + 4, &[0xF0, 0xFF, 0xFF, 0xFF])
            }),
            (
                "EXIF of 4 MiB",
                Either,
                webp(&[
                    canvas(0x08, 2, 2),
                    tiny.clone(),
                    riff(b"EXIF", &vec![0xFF; 4 << 20]),
                ]),
            ),
            (
                "100,000 unknown chunks",
                Either,
                webp(&[tiny.clone(), riff(b"abcd", &[]).repeat(100_000)]),
            ),
            ("RIFF of no length", Either, put(&alpha, 4, &[0, 0, 0, 0])),
            ("RIFF of 4 GiB", Either, put(&alpha, 4, &[0xFF; 4])),
            (
                "100,000 tiny frames",
                Either,
                animated(&vec![frame.clone(); 100_000]),
            ),
            (
                "a frame beyond the canvas",
                Either,
                animated(&[webp_frame([9, 9, 1, 1], &tiny)]),
            ),
            (
                "a frame of 2^24 x 2^24",
                Either,
                animated(&[webp_frame([0, 0, 0xFF_FFFF, 0xFF_FFFF], &tiny)]),
            ),
            (
                "a frame whose picture is larger",
                Either,
                animated(&[webp_frame([0, 0, 1, 1], &lossless(64, 64))]),
            ),
            (
                "a frame without picture",
                Refuse,
                animated(&[webp_frame([0, 0, 1, 1], &[])]),
            ),
            (
                "a frame of 15 bytes",
                Refuse,
                animated(&[riff(b"ANMF", &[0; 15])]),
            ),
            ("an animation without frames", Refuse, animated(&[])),
            (
                "frames without the animation's header",
                Either,
                webp(&[canvas(0x12, 2, 2), frame.clone()]),
            ),
            (
                "a cut animation header",
                Either,
                webp(&[canvas(0x12, 2, 2), riff(b"ANIM", &[0]), frame.clone()]),
            ),
            (
                "alpha of nothing",
                Either,
                webp(&[
                    canvas(0x10, 21, 13),
                    riff(b"ALPH", &[]),
                    lossy[12..].to_vec(),
                ]),
            ),
            (
                "alpha of ones",
                Either,
                webp(&[
                    canvas(0x10, 21, 13),
                    riff(b"ALPH", &[0xFF; 40]),
                    lossy[12..].to_vec(),
                ]),
            ),
            (
                "two canvases",
                Either,
                webp(&[canvas(0x10, 2, 2), canvas(0x10, 2000, 2000), tiny.clone()]),
            ),
            (
                "a canvas cut off",
                Refuse,
                webp(&[riff(b"VP8X", &[0; 3]), tiny.clone()]),
            ),
        ],
    );
    wear(&mut corpus, "lossy", &lossy, 3);
    wear(&mut corpus, "lossless", &alpha, 2);
    wear(
        &mut corpus,
        "animated",
        &animated(&[frame.clone(), frame.clone()]),
        3,
    );
    run(&corpus);
}

#[test]
fn what_is_not_decoded_says_so() {
    let arithmetic = put(
        &picture("420.jpg"),
        at(&picture("420.jpg"), [0xFF, 0xC0]) + 1,
        &[0xC9],
    );
    let error = decode_rgb(&arithmetic, &Limits::default(), true).unwrap_err();
    assert!(error.to_string().contains("arithmetic coding"), "{error}");
    assert!(error.hint().is_some());
}
