//! Providers over folders of pictures: hostile ones, stops at every step, and that nothing depends on how pictures
//! are put together.

#![allow(
    clippy::unwrap_used,
    reason = "a failed unwrap here is the failed test"
)]

use std::path::{Path, PathBuf};
use std::process::Command;

use burn::tensor::{Device, Tensor, TensorData};
use chiasm_data::regions::{Form, RegionWriter, WriteConfig, list, pictures, read};
use chiasm_data::{Dataset, Preprocess, Regions, Rgb, builtin, readers, thumbnail};
use chiasm_format::darknet::Darknet;
use chiasm_nn::layers::{Init, normalize};
use chiasm_nn::published::yolo::{ANCHORS, BOX, YoloTiny};
use chiasm_nn::{FusionConfig, ModelConfig, TextConfig, VisionConfig, VisionLanguageModel};
use chiasm_regions::{
    COCO, Detector, Grid, Names, Naming, Provider, Report, Tower, extract, prepare,
};

/// A model with a grid of six by six.
fn model(device: &Device) -> VisionLanguageModel {
    let config = ModelConfig {
        text: TextConfig {
            vocab_size: 40,
            hidden_size: 16,
            layers: 1,
            num_heads: 2,
            intermediate_size: 20,
            max_text_len: 8,
            ..TextConfig::default()
        },
        vision: VisionConfig {
            image_size: 24,
            patch_size: 4,
            hidden_size: 16,
            layers: 2,
            num_heads: 2,
            intermediate_size: 32,
            ..VisionConfig::default()
        },
        fusion: FusionConfig {
            hidden_size: 16,
            layers: 1,
            num_heads: 2,
            intermediate_size: 20,
            ..FusionConfig::default()
        },
        projection_size: 6,
        init_std: 0.3,
        ..ModelConfig::default()
    };
    VisionLanguageModel::new(&Init::new(3, config.init_std, device), &config)
}

/// Runs with a grid provider of a drawn tower.
fn with_grid<T>(most: usize, run: impl FnOnce(&dyn Provider) -> T) -> T {
    let device = Device::flex();
    let (model, preprocess) = (model(&device), Preprocess::new(24));
    run(&Grid::new(
        Tower::own(&model, &preprocess, &device).unwrap(),
        None,
        most,
    ))
}

fn config(provider: &dyn Provider, form: Form) -> WriteConfig {
    WriteConfig {
        set: provider.set().clone(),
        form,
        shard: 3,
        half: false,
        data: String::new(),
    }
}

fn write(
    provider: &dyn Provider,
    dataset: &Dataset,
    out: &Path,
    form: Form,
    batch: usize,
    stop: &mut dyn FnMut(usize),
) -> Report {
    let mut writer = RegionWriter::open(out, config(provider, form)).unwrap();
    let pictures = pictures(dataset);
    let report = extract(
        dataset,
        &pictures,
        provider,
        &mut writer,
        batch,
        &mut |step| {
            stop(step.done);
        },
    );
    let report = report.unwrap();
    writer.finish().unwrap();
    report
}

/// The files of a folder that can be seen, and what is in them.
fn content(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut files: Vec<(PathBuf, Vec<u8>)> = entries
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            (
                PathBuf::from(path.file_name().unwrap()),
                std::fs::read(&path).unwrap(),
            )
        })
        .filter(|(name, _)| !name.to_string_lossy().starts_with('.'))
        .collect();
    files.sort();
    files
}

fn drawings(count: usize) -> Dataset {
    let mut dataset = builtin::emoji().unwrap();
    dataset.samples.truncate(count);
    dataset
}

fn assert_sound(regions: &Regions, most: usize) {
    assert!(
        !regions.is_empty() && regions.len() <= most,
        "{}",
        regions.len()
    );
    assert_eq!(regions.features.len(), regions.len() * regions.dim);
    assert!(regions.features.iter().all(|value| value.is_finite()));
    for rect in &regions.boxes {
        assert!(
            0.0 <= rect.x1 && rect.x1 < rect.x2 && rect.x2 <= 1.0,
            "{rect:?}"
        );
        assert!(
            0.0 <= rect.y1 && rect.y1 < rect.y2 && rect.y2 <= 1.0,
            "{rect:?}"
        );
    }
}

#[test]
fn odd_pictures_give_regions_and_broken_ones_a_reason() {
    let folder = tempfile::tempdir().unwrap();
    let photos = folder.path().join("photos");
    std::fs::create_dir(&photos).unwrap();
    let picture = |width: usize, height: usize| {
        let data = (0..width * height * 3)
            .map(|at| (at * 53 % 256) as u8)
            .collect();
        thumbnail::png(&Rgb::new(width, height, data).unwrap()).unwrap()
    };
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../chiasm-data/tests/pictures");
    let sample = |name: &str| std::fs::read(samples.join(name)).unwrap();
    let files = [
        ("a-one.png", picture(1, 1)),
        ("b-wide.png", picture(5000, 3)),
        ("c-high.png", picture(2, 3000)),
        ("d-grey.png", sample("grey2.png")),
        ("e-cmyk.jpg", sample("cmyk.jpg")),
        ("f-alpha.png", sample("palette_transparent.png")),
        ("g-cut.jpg", sample("rgb.jpg")[..200].to_vec()),
        ("h-text.jpg", b"not a picture".to_vec()),
        ("i-empty.png", Vec::new()),
    ];
    for (name, bytes) in &files {
        std::fs::write(photos.join(name), bytes).unwrap();
    }
    let dataset = readers::pictures(&photos).unwrap();
    with_grid(36, |provider| {
        let out = folder.path().join("set");
        let report = write(provider, &dataset, &out, Form::Shards, 4, &mut |_| {});
        assert_eq!((report.written, report.skipped), (6, 0));
        let refused: Vec<&str> = report
            .refused
            .entries
            .iter()
            .map(|entry| entry.id.as_str())
            .collect();
        assert_eq!(refused, ["g-cut.jpg", "h-text.jpg", "i-empty.png"]);
        assert!(report.refused.entries[1].path.ends_with("h-text.jpg"));
        let found = list(&out).unwrap();
        assert_eq!(found.len(), 6);
        for ((name, source), size) in found.iter().zip([(1, 1), (5000, 3), (2, 3000)]) {
            let regions = read(source).unwrap();
            assert_eq!(regions.size, Some(size), "{name}");
        }
        for (_, source) in &found {
            assert_sound(&read(source).unwrap(), 36);
        }
        // Again: what is there stays, what is broken is said again.
        let again = write(provider, &dataset, &out, Form::Shards, 4, &mut |_| {});
        assert_eq!(
            (again.written, again.skipped, again.refused),
            (0, 6, report.refused)
        );
    });
}

#[test]
fn nothing_depends_on_the_batch_or_the_run() {
    let dataset = drawings(7);
    let folder = tempfile::tempdir().unwrap();
    with_grid(36, |provider| {
        for form in [Form::Shards, Form::Npz] {
            let sets: Vec<_> = [1, 3, 16]
                .into_iter()
                .map(|batch| {
                    let out = folder.path().join(format!("{form:?}-{batch}"));
                    let report = write(provider, &dataset, &out, form, batch, &mut |_| {});
                    assert_eq!(report.written, 7);
                    content(&out)
                })
                .collect();
            assert!(sets[0] == sets[1] && sets[0] == sets[2], "{form:?}");
        }
    });
}

#[test]
fn as_many_regions_as_are_wanted() {
    let dataset = drawings(2);
    let folder = tempfile::tempdir().unwrap();
    for most in [1, 36, 100] {
        with_grid(most, |provider| {
            let out = folder.path().join(most.to_string());
            write(provider, &dataset, &out, Form::Shards, 2, &mut |_| {});
            for (_, source) in list(&out).unwrap() {
                let regions = read(&source).unwrap();
                assert_sound(&regions, most);
                // A grid of six by six has more than 36 boxes that are apart, and not 100.
                assert!(regions.len() >= most.min(30), "{}", regions.len());
            }
        });
    }
}

const KILL_AT: &str = "CHIASM_TEST_KILL_REGIONS_AT";
const KILL_IN: &str = "CHIASM_TEST_KILL_REGIONS_IN";

fn form_of(folder: &Path) -> Form {
    match folder.ends_with("npz") {
        true => Form::Npz,
        false => Form::Shards,
    }
}

/// Not a test of its own: what the next test runs as a process and lets die.
#[test]
fn dies_at_a_picture() {
    let (Ok(at), Some(folder)) = (std::env::var(KILL_AT), std::env::var_os(KILL_IN)) else {
        return;
    };
    let (at, folder) = (at.parse::<usize>().unwrap(), PathBuf::from(folder));
    with_grid(36, |provider| {
        write(
            provider,
            &drawings(8),
            &folder,
            form_of(&folder),
            2,
            &mut |done| {
                if done >= at {
                    std::process::abort();
                }
            },
        );
    });
}

#[test]
fn a_kill_at_any_step_ends_in_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = drawings(8);
    with_grid(36, |provider| {
        for form in ["shards", "npz"] {
            let reference = folder.path().join("reference").join(form);
            write(
                provider,
                &dataset,
                &reference,
                form_of(&reference),
                2,
                &mut |_| {},
            );
            for at in [0, 2, 4, 6, 8] {
                let out = folder.path().join(at.to_string()).join(form);
                let status = Command::new(std::env::current_exe().unwrap())
                    .args(["--exact", "dies_at_a_picture", "--test-threads=1"])
                    .env(KILL_AT, at.to_string())
                    .env(KILL_IN, &out)
                    .output()
                    .unwrap()
                    .status;
                assert!(!status.success(), "step {at} was not reached");
                let report = write(provider, &dataset, &out, form_of(&out), 2, &mut |_| {});
                assert_eq!(report.written + report.skipped, 8);
                // Shards hold three; archives are there one by one.
                let kept = if form == "npz" { at } else { at / 3 * 3 };
                assert_eq!(report.skipped, kept, "{form} at {at}");
                assert!(content(&out) == content(&reference), "{form} at {at}");
            }
        }
    });
}

/// Parameters of YOLOv4-tiny that are all zero but for what its two heads say of every box: that it is a thing, and
/// a person.
fn detector(bias: f32) -> YoloTiny {
    let mut values = vec![0.0; 6_062_814];
    let head = ANCHORS * BOX;
    // Behind the fine head are its own kernel alone; behind the coarse one the fine head and two convolutions.
    let fine = values.len() - head * 257;
    let coarse = fine - (256 * 4 + 256 * 384 * 9) - (128 * 4 + 128 * 256) - head * 513;
    for start in [fine, coarse] {
        for anchor in 0..ANCHORS {
            values[start + anchor * BOX + 4..][..2].fill(bias);
        }
    }
    let file = Darknet {
        version: [0, 2, 5],
        seen: 0,
        values,
    };
    YoloTiny::from_darknet(&file, &Device::flex()).unwrap()
}

#[test]
fn a_detector_is_filled_up_by_the_grid() {
    let device = Device::flex();
    let (model, preprocess) = (model(&device), Preprocess::new(24));
    let photo = Rgb::new(40, 30, (0..3600).map(|at| (at * 7 % 256) as u8).collect()).unwrap();
    let made = |bias: f32, most: usize| {
        let grid = Grid::new(
            Tower::own(&model, &preprocess, &device).unwrap(),
            None,
            most,
        );
        let provider = Detector::new(grid, detector(bias), "digest".to_owned(), &device);
        assert_eq!(provider.set().objects, COCO.map(str::to_owned));
        assert_eq!(provider.set().weights["detector"], "digest");
        let prepared = prepare("photo", &photo, &provider.inputs());
        let regions = provider.regions(&[prepared.clone(), prepared]).unwrap();
        assert!(regions[0] == regions[1]);
        assert_sound(&regions[0], most);
        regions.into_iter().next().unwrap()
    };
    // Nothing is a thing: the boxes of the grid, without a class.
    let none = made(-20.0, 36);
    assert!(none.classes.iter().all(|class| *class == -1));
    assert!(none.class_scores.iter().all(|score| *score == 0.0));
    let grid = with_grid(36, |provider| {
        provider
            .regions(&[prepare("photo", &photo, &provider.inputs())])
            .unwrap()
            .remove(0)
    });
    assert!(none == grid);
    // Every cell is a person: as many as are wanted, and none of the grid.
    for most in [1, 36] {
        let all = made(20.0, most);
        assert_eq!(all.len(), most);
        assert!(all.classes.iter().all(|class| *class == 0));
        assert!(all.class_scores.iter().all(|score| *score > 0.99));
    }
}

#[test]
fn an_aligned_tower_names_regions() {
    let device = Device::flex();
    let (model, preprocess) = (model(&device), Preprocess::new(24));
    let names = |count: usize| {
        let values: Vec<f32> = (0..count * 6).map(|at| (at as f32 * 1.7).sin()).collect();
        Names {
            names: (0..count).map(|at| format!("name {at}")).collect(),
            embeds: normalize(Tensor::from_data(
                TensorData::new(values, [count, 6]),
                &device,
            )),
        }
    };
    let naming = Naming {
        objects: names(9),
        attributes: names(4),
    };
    let tower = Tower::own(&model, &preprocess, &device).unwrap();
    assert!(tower.is_aligned());
    let plain = Grid::new(tower, None, 12);
    let named = Grid::new(tower, Some(naming), 12);
    assert_eq!(
        (named.set().objects.len(), named.set().attributes.len()),
        (9, 4)
    );
    assert_ne!(named.set().hash(), plain.set().hash());
    let photo = Rgb::new(8, 8, (0..192).map(|at| (at * 91 % 256) as u8).collect()).unwrap();
    let prepared = [prepare("photo", &photo, &named.inputs())];
    let (named, plain) = (
        named.regions(&prepared).unwrap(),
        plain.regions(&prepared).unwrap(),
    );
    assert_eq!(
        (&named[0].boxes, &named[0].features),
        (&plain[0].boxes, &plain[0].features)
    );
    assert!(plain[0].classes.iter().all(|class| *class == -1));
    assert!(named[0].classes.iter().all(|class| (0..9).contains(class)));
    assert!(
        named[0]
            .attributes
            .iter()
            .all(|class| (0..4).contains(class))
    );
    assert!(
        named[0]
            .class_scores
            .iter()
            .all(|score| (1.0 / 9.0..=1.0).contains(score))
    );
}
