//! ALIGN-BENCH in small: pickles that Python wrote, and pickles that nobody should write.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is the failed test")]

use std::path::Path;

use chiasm_data::{DataError, OpenOptions, Opened, Rect, Split, open};
use tempfile::TempDir;

/// The same value in three protocols, made by NumPy 2:
///
/// ```python
/// def region(x1, y1, x2, y2, box):
///     mask = np.zeros((4, 8), dtype=bool)
///     mask[y1:y2, x1:x2] = True
///     return {"bbox_mask": box([x1, y1, x2, y2]), "pixel_mask": mask}
///
/// floats = lambda box: [float(at) for at in box]
/// arrays = lambda box: np.array(box, dtype=np.float32)
/// scalars = lambda box: list(np.array(box, dtype=np.int64))
/// pickle.dumps({"caption": "A dog on two mats.", "annotation": {
///     "a dog": [region(0, 0, 4, 2, floats)],
///     "two mats": [region(2, 1, 6, 3, arrays), region(6, 0, 8, 4, scalars)],
///     "nothing": []}}, protocol)
/// ```
const PICKLES: [&[u8]; 3] = [
    include_bytes!("align_bench/protocol2.pkl"),
    include_bytes!("align_bench/protocol4.pkl"),
    include_bytes!("align_bench/protocol5.pkl"),
];

/// A folder with these pickles.
fn folder(pickles: &[(&str, &[u8])]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for inner in ["images", "pkls"] {
        std::fs::create_dir(folder.path().join(inner)).unwrap();
    }
    for (name, bytes) in pickles {
        std::fs::write(folder.path().join("pkls").join(name), bytes).unwrap();
    }
    folder
}

fn plain(folder: &Path) -> Result<Opened, DataError> {
    open(folder, &OpenOptions::default())
}

#[test]
fn phrases_have_boxes_and_masks() {
    let pickles = [
        ("10.pkl", PICKLES[0]),
        ("9.pkl", PICKLES[1]),
        ("extra.pkl", PICKLES[2]),
        ("notes.txt", b"no pickle"),
    ];
    let folder = folder(&pickles);
    let image = folder.path().join("images/9.jpg");
    std::fs::write(&image, "a picture").unwrap();
    let opened = plain(folder.path()).unwrap();
    assert!(opened.quarantine.is_empty(), "{:?}", opened.quarantine);
    let samples = &opened.dataset.samples;
    let ids: Vec<&str> = samples.iter().map(|sample| sample.id.as_str()).collect();
    assert_eq!(ids, ["9", "10", "extra"]);
    assert_eq!(samples[0].visual.path(), Some(image.as_path()));
    for sample in samples {
        assert_eq!(sample.texts, ["A dog on two mats."]);
        assert_eq!(sample.split, Split::Test);
        assert_eq!(sample.annotations.size, Some((8, 4)));
        let [dog, mats, nothing] = sample.annotations.phrases.as_slice() else {
            panic!();
        };
        assert_eq!((dog.phrase.as_str(), dog.text), ("a dog", 0));
        let rect = |x1, y1, x2, y2| Rect { x1, y1, x2, y2 };
        assert_eq!(dog.boxes, [rect(0.0, 0.0, 0.5, 0.5)]);
        assert_eq!(
            mats.boxes,
            [rect(0.25, 0.25, 0.75, 0.75), rect(0.75, 0.0, 1.0, 1.0)]
        );
        for phrase in [dog, mats, nothing] {
            assert_eq!(phrase.boxes.len(), phrase.masks.len());
            // Here the pixels of a thing are those of its box.
            for (rect, mask) in phrase.boxes.iter().zip(&phrase.masks) {
                assert_eq!((mask.width, mask.height, mask.bits.len()), (8, 4, 32));
                let inside = rect.pixels(8, 4);
                let columns = inside.x..inside.x + inside.width;
                let rows = inside.y..inside.y + inside.height;
                for (place, bit) in mask.bits.iter().enumerate() {
                    let expected = columns.contains(&(place % 8)) && rows.contains(&(place / 8));
                    assert_eq!(*bit, expected, "{} {place}", phrase.phrase);
                }
            }
        }
        assert!(nothing.boxes.is_empty());
    }
    // A copy shares the pixels.
    let mask = &samples[0].annotations.phrases[0].masks[0];
    assert!(std::sync::Arc::ptr_eq(&mask.bits, &mask.clone().bits));
}

/// Parts of a pickle, protocol 2.
fn text(text: &str) -> Vec<u8> {
    let len = (text.len() as u32).to_le_bytes();
    [b"X", &len[..], text.as_bytes()].concat()
}

fn number(number: f64) -> Vec<u8> {
    [b"G", &number.to_be_bytes()[..]].concat()
}

fn list(items: &[Vec<u8>]) -> Vec<u8> {
    [b"](", &items.concat()[..], b"e"].concat()
}

fn dict(entries: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let entries = entries.iter();
    let entries: Vec<u8> = entries
        .flat_map(|(key, value)| [text(key), value.clone()].concat())
        .collect();
    [b"}(", &entries[..], b"u"].concat()
}

/// An array of NumPy of some type, with a shape and bytes that need not fit it.
fn array(dtype: &str, shape: &[u32], bytes: &[u8]) -> Vec<u8> {
    let sizes: Vec<u8> = shape
        .iter()
        .flat_map(|size| [b"J", &size.to_le_bytes()[..]].concat())
        .collect();
    let latin: String = bytes.iter().copied().map(char::from).collect();
    let dtype = [b"cnumpy\ndtype\n", &text(dtype)[..], b"\x85R"].concat();
    [
        b"cnumpy.core.numeric\n_frombuffer\n(".as_slice(),
        b"c_codecs\nencode\n(",
        &text(&latin),
        &text("latin1"),
        b"tR",
        &dtype,
        b"(",
        &sizes,
        b"t",
        &text("C"),
        b"tR",
    ]
    .concat()
}

fn corners(corners: [f64; 4]) -> Vec<u8> {
    list(&corners.map(number))
}

fn region(corners: Vec<u8>, mask: Vec<u8>) -> Vec<u8> {
    dict(&[("bbox_mask", corners), ("pixel_mask", mask)])
}

/// A pickle with one phrase that has these regions.
fn with_regions(regions: &[Vec<u8>]) -> Vec<u8> {
    let annotation = dict(&[("a dog", list(regions))]);
    whole(&dict(&[
        ("caption", text("A dog.")),
        ("annotation", annotation),
    ]))
}

fn whole(value: &[u8]) -> Vec<u8> {
    [b"\x80\x02", value, b"."].concat()
}

#[test]
fn crafted_pickles_are_refused_with_their_place() {
    let mask = || array("b1", &[2, 3], b"\x01\0\x01\0\x01\0");
    let good = || corners([0.0, 0.0, 2.0, 2.0]);
    let one = |region| with_regions(&[region]);
    let caption = || ("caption", text("A dog."));
    let hostile = [
        ("", Vec::new()),
        ("`os.system`", b"cos\nsystem\n(S'ls'\ntR.".to_vec()),
        ("`caption`", whole(&list(&[]))),
        ("`caption`", whole(&dict(&[("caption", number(1.0))]))),
        ("`annotation`", whole(&dict(&[caption()]))),
        (
            "`annotation`",
            whole(&dict(&[caption(), ("annotation", list(&[]))])),
        ),
        (
            "no phrase",
            whole(&dict(&[caption(), ("annotation", dict(&[]))])),
        ),
        (
            "no list of regions",
            whole(&dict(&[
                caption(),
                ("annotation", dict(&[("x", number(1.0))])),
            ])),
        ),
        ("`pixel_mask`", one(number(1.0))),
        ("`pixel_mask`", one(dict(&[("bbox_mask", good())]))),
        ("`pixel_mask`", one(region(good(), list(&[])))),
        ("[6]", one(region(good(), array("b1", &[6], &[1; 6])))),
        ("3x0", one(region(good(), array("b1", &[0, 3], b"")))),
        (
            "6 bytes",
            one(region(good(), array("b1", &[9, 9], &[1; 6]))),
        ),
        (
            "bytes",
            one(region(good(), array("b1", &[u32::MAX >> 1; 2], &[1; 6]))),
        ),
        ("F32", one(region(good(), array("f4", &[1, 1], &[0; 4])))),
        (
            "an earlier one 3x2",
            with_regions(&[
                region(good(), mask()),
                region(good(), array("b1", &[3, 2], &[1; 6])),
            ]),
        ),
        (
            "`bbox_mask` is missing",
            one(dict(&[("pixel_mask", mask())])),
        ),
        (
            "a list of 3",
            one(region(list(&[1.0, 1.0, 2.0].map(number)), mask())),
        ),
        ("\"all\"", one(region(text("all"), mask()))),
        ("an array", one(region(array("b1", &[6], &[1; 6]), mask()))),
        (
            "a list of 4",
            one(region(list(&[(); 4].map(|()| text("1"))), mask())),
        ),
        ("outside", one(region(corners([f64::NAN; 4]), mask()))),
        (
            "outside",
            one(region(corners([9.0, 9.0, 10.0, 10.0]), mask())),
        ),
        (
            "outside",
            one(region(corners([2.0, 2.0, 0.0, 0.0]), mask())),
        ),
        ("empty text", {
            let annotation = ("annotation", dict(&[("a dog", list(&[]))]));
            whole(&dict(&[("caption", text("  ")), annotation]))
        }),
    ];
    for (part, bytes) in hostile {
        let folder = folder(&[("0.pkl", &bytes), ("1.pkl", PICKLES[1])]);
        let opened = plain(folder.path()).unwrap();
        assert_eq!(opened.dataset.len(), 1, "{part}");
        let [entry] = opened.quarantine.entries.as_slice() else {
            panic!("{part}: {:?}", opened.quarantine);
        };
        assert!(entry.reason.contains(part), "{part}: {}", entry.reason);
        assert!(entry.path.ends_with("0.pkl"), "{}", entry.path);
        assert_eq!(
            (entry.id.as_str(), entry.location.as_str()),
            ("0", "image 1")
        );
    }
    // The builder is not what fails.
    let good = folder(&[("0.pkl", &one(region(good(), mask())))]);
    let opened = plain(good.path()).unwrap();
    let bits = &opened.dataset.samples[0].annotations.phrases[0].masks[0].bits;
    assert_eq!(**bits, [true, false, true, false, true, false]);
}

#[test]
fn a_damaged_pickle_is_no_panic() {
    for pickle in [PICKLES[0], PICKLES[2]] {
        let folder = folder(&[("1.pkl", PICKLES[1])]);
        let file = folder.path().join("pkls/0.pkl");
        for place in 0..pickle.len() {
            std::fs::write(&file, &pickle[..place]).unwrap();
            assert_eq!(plain(folder.path()).unwrap().quarantine.len(), 1);
            let mut flipped = pickle.to_vec();
            flipped[place] ^= 0x55;
            std::fs::write(&file, &flipped).unwrap();
            assert!(!plain(folder.path()).unwrap().dataset.is_empty());
        }
    }
}

#[test]
fn a_folder_without_pickles_says_so() {
    let folder = folder(&[]);
    let error = plain(folder.path()).unwrap_err();
    assert!(error.to_string().contains("no usable image"), "{error}");
    let options = OpenOptions {
        format: Some("align_bench".to_owned()),
        ..OpenOptions::default()
    };
    let empty = tempfile::tempdir().unwrap();
    let error = open(empty.path(), &options).unwrap_err();
    assert!(error.to_string().contains("pkls"), "{error}");
}
