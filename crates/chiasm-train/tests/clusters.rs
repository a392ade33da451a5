//! Pseudo-labels chunk by chunk (`specs/itr.md` section 9.5): the loop of ITR's pre-training.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed unwrap here is the failed test"
)]

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use burn::tensor::Device;
use chiasm_data::{Dataset, Split, builtin};
use chiasm_nn::VisionLanguageModel;
use chiasm_nn::layers::Init;
use chiasm_nn::weights::{StateDict, from_safetensors, state_dict};
use chiasm_train::prepare::tokenizer;
use chiasm_train::run::{MetricLine, read_metrics};
use chiasm_train::{Outcome, Recipe, StepRecord, TrainData, Trainer, checkpoint};
use common::{MODEL, bytes, train};

/// Towers alone, with dropout and augmentation: everything random takes part.
const OBJECTIVES: &str = r#"
[model.heads]
matching = false
mlm = false
projection = "linear"
[objectives.contrastive]
temperature = 1.0
[objectives.cluster]
clusters = 3
chunk = 10
restarts = 2
[optimizer]
no_decay = []
[[optimizer.groups]]
contains = ["text.", "vision.", "_pooler."]
multiplier = 0.01
[schedule]
steps = 9
batch_size = 4
eval_every = 0
save_every = 2
keep = 9
seed = 11
"#;

/// Pairs in the set: chunks of 10 and 11, of 3 batches each.
const PAIRS: usize = 21;

fn recipe() -> String {
    // The fusion encoder of the common sizes is left out.
    let towers = MODEL.replace(
        "[model.fusion]\nhidden_size = 16\nlayers = 1",
        "[model.fusion]\nlayers = 0",
    );
    assert_ne!(towers, MODEL);
    format!("name = \"clusters\"\n{towers}{OBJECTIVES}")
}

fn pairs() -> Dataset {
    let mut set = builtin::emoji().unwrap().subset(Split::Train);
    set.samples.truncate(PAIRS);
    for (number, sample) in set.samples.iter_mut().enumerate() {
        sample.annotations.ocr = (number % 3 > 0).then(|| format!("sign {}", number % 4));
        sample.annotations.caption = Some(format!("a drawing of kind {}", number % 5));
    }
    set
}

fn trainer_of(recipe: &str, pairs: Dataset) -> Trainer {
    let recipe = Recipe::from_toml(recipe, "test").unwrap();
    let data = TrainData::new(&recipe, vec![pairs]).unwrap();
    let tokenizer = Arc::new(tokenizer(&recipe, &data).unwrap());
    Trainer::new(recipe, &data, tokenizer, &Device::flex()).unwrap()
}

fn run(dir: &Path, recipe: &str, stop_after: u64, resume: bool) -> (Outcome, Vec<StepRecord>) {
    train(&mut trainer_of(recipe, pairs()), dir, stop_after, resume)
}

fn chunks(dir: &Path) -> Vec<MetricLine> {
    let lines = read_metrics(dir).unwrap().into_iter();
    lines.filter(|line| line.kind == "cluster").collect()
}

/// P1 and P2: 21 pairs in chunks of about 10 are two of 10 and 11, of 3 batches each; each begins with new
/// labels.
#[test]
fn each_chunk_gets_its_labels_before_its_first_step() {
    let folder = tempfile::tempdir().unwrap();
    let (_, records) = run(folder.path(), &recipe(), u64::MAX, false);
    assert!(records.iter().all(|record| {
        record.terms.contains_key("cluster") && record.terms.contains_key("contrastive")
    }));
    let total = |record: &StepRecord| 0.2 * record.terms["cluster"] + record.terms["contrastive"];
    assert!(
        records
            .iter()
            .all(|record| (record.loss - total(record)).abs() < 1e-5)
    );
    let chunks = chunks(folder.path());
    let starts: Vec<u64> = chunks.iter().map(|line| line.step).collect();
    assert_eq!(starts, [0, 3, 6]);
    for (number, line) in chunks.iter().enumerate() {
        let value = |name: &str| line.values[name];
        assert_eq!(value("chunk"), number as f64);
        let sizes: f64 = (0..3).map(|group| value(&format!("size_{group}"))).sum();
        assert_eq!(sizes, value("pairs"));
        assert_eq!(value("pairs"), [10.0, 11.0, 10.0][number]);
        assert!(value("inertia") > 0.0);
        assert_eq!(line.values.contains_key("changed"), number > 0);
    }
}

/// P4: the labels of a chunk that a run was stopped in lie in the checkpoint.
#[test]
fn a_resumed_run_ends_with_the_bytes_of_an_uninterrupted_one() {
    let options = [
        ("published", String::new()),
        (
            "aligned",
            "align = true\nwarm_start = true\nscale = \"modality\"\n".to_owned(),
        ),
        (
            "balanced",
            "balanced = true\nreset_moments = true\nview = \"text_ocr\"\n".to_owned(),
        ),
    ];
    for (name, more) in options {
        let recipe = recipe().replace("clusters = 3\n", &format!("clusters = 3\n{more}"));
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        run(&at("whole"), &recipe, u64::MAX, false);
        let whole = bytes(&at("whole"));
        let has_labels = |(name, _): &(String, _)| name == checkpoint::CLUSTERS_FILE;
        assert!(whole.iter().any(has_labels));
        run(&at("again"), &recipe, u64::MAX, false);
        assert_eq!(bytes(&at("again")), whole, "{name}: two runs with one seed");
        for stop_after in [1, 3, 5] {
            let stopped = at(&format!("stopped-{stop_after}"));
            assert!(run(&stopped, &recipe, stop_after, false).0.interrupted);
            assert!(!run(&stopped, &recipe, u64::MAX, true).0.interrupted);
            assert_eq!(
                bytes(&stopped),
                whole,
                "{name}: resumed after step {stop_after}"
            );
        }
    }
}

/// Weights by name after so many steps.
fn weights_after(recipe: &str, steps: u64, pairs: Dataset) -> StateDict {
    let folder = tempfile::tempdir().unwrap();
    let mut trainer = trainer_of(recipe, pairs);
    train(&mut trainer, folder.path(), steps, false);
    state_dict(trainer.model())
}

/// P5: what samples are labelled with changes no bit of what is learned.
#[test]
fn a_label_of_the_data_is_never_seen() {
    let plain = weights_after(&recipe(), 6, pairs());
    let mut labelled = pairs();
    for (number, sample) in labelled.samples.iter_mut().enumerate() {
        sample.annotations.label = Some(["yes", "no"][number % 2].to_owned());
    }
    assert_eq!(weights_after(&recipe(), 6, labelled), plain);
}

/// P3: the head is drawn anew with each chunk, unless its groups are aligned; the optimiser remembers it
/// unless it is told to forget.
#[test]
fn the_head_of_each_chunk() {
    let head = |model: &VisionLanguageModel| {
        let state = state_dict(model);
        let of_head = state
            .into_iter()
            .filter(|(name, _)| name.starts_with("cluster_head."));
        of_head.collect::<BTreeMap<_, _>>()
    };
    let before_and_after = |more: &str| {
        let recipe = recipe().replace("clusters = 3\n", &format!("clusters = 3\n{more}"));
        let folder = tempfile::tempdir().unwrap();
        let mut trainer = trainer_of(&recipe, pairs());
        train(&mut trainer, folder.path(), 3, false);
        let before = head(trainer.model());
        let record = trainer.begin_chunk().unwrap().unwrap();
        assert_eq!(record.number, 1);
        assert!(
            trainer.begin_chunk().unwrap().is_none(),
            "its labels are there"
        );
        let moments = from_safetensors(&trainer.files().unwrap()[checkpoint::OPTIMIZER_FILE]);
        // What is forgotten is zeros in a flat buffer, and not there beside tensors.
        let means = moments.unwrap().remove("mean.cluster_head.out.weight");
        let means = means.map_or_else(Vec::new, |means| means.values);
        (before, head(trainer.model()), means)
    };
    let (before, after, means) = before_and_after("");
    assert_ne!(before, after);
    assert!(means.iter().any(|mean| *mean != 0.0));
    // Within one over the root of the width, and not all alike.
    let weight = &after["cluster_head.out.weight"].values;
    let bound = 1.0 / 32f32.sqrt();
    assert!(weight.iter().all(|value| value.abs() <= bound));
    assert!(weight.iter().any(|value| value.abs() > bound / 2.0));
    let (before, after, _) = before_and_after("align = true\n");
    assert_eq!(before, after);
    let (_, _, means) = before_and_after("reset_moments = true\n");
    assert!(means.iter().all(|mean| *mean == 0.0));
}

/// P2: groups are found in what the model sees outside training, whatever is dropped or cropped in it.
#[test]
fn nothing_is_drawn_while_groups_are_found() {
    let found = |text: &str| {
        let record = trainer_of(text, pairs()).begin_chunk().unwrap().unwrap();
        (record.sizes, record.inertia)
    };
    let plain = found(&recipe());
    let other = recipe().replace("dropout = 0.1", "dropout = 0.8").replace(
        "crop = [0.7, 1.0]\nflip = 0.5",
        "crop = [0.1, 0.3]\nflip = 1.0",
    );
    assert_ne!(other, recipe());
    assert_eq!(found(&other), plain);
    assert_eq!(
        found(&recipe().replace("crop = [0.7, 1.0]\nflip = 0.5\n", "")),
        plain
    );
}

/// P3: every parameter has one of the two rates.
#[test]
fn rates_of_the_published_recipes() {
    for name in [
        "itr",
        "itr-clip",
        "itr-visualbert",
        "itr-lxmert",
        "itr-vilt",
    ] {
        let file = format!("{}/../../recipes/{name}.toml", env!("CARGO_MANIFEST_DIR"));
        let recipe = Recipe::from_file(Path::new(&file)).unwrap();
        let mut small = recipe.model.clone();
        let layers = [
            &mut small.text.layers,
            &mut small.vision.layers,
            &mut small.fusion.layers,
        ];
        layers
            .into_iter()
            .for_each(|layers| *layers = 1.min(*layers));
        small.text.vocab_size = 300;
        small.heads.clusters = 4;
        let model = VisionLanguageModel::new(&Init::new(0, 0.02, &Device::flex()), &small);
        let (mut slow, mut fast) = (0, Vec::new());
        for name in state_dict(&model).keys() {
            let rule = recipe.optimizer.rule(name);
            assert_eq!(rule.weight_decay, 0.01, "{name}");
            let rate = recipe.optimizer.learning_rate * rule.multiplier;
            if (rate - 1e-5).abs() < 1e-12 {
                slow += 1;
            } else {
                assert_eq!(rate, 1e-3);
                fast.push(name.clone());
            }
        }
        assert!(slow > 20);
        fast.sort();
        assert_eq!(
            fast,
            [
                "cluster_head.out.bias",
                "cluster_head.out.weight",
                "image_projection.out.weight",
                "temperature",
                "text_projection.out.weight"
            ]
        );
    }
}

/// More groups than pairs of a chunk, a chunk smaller than a batch, pairs that are all alike.
#[test]
fn odd_chunks() {
    let folder = tempfile::tempdir().unwrap();
    let many = recipe()
        .replace("clusters = 3\nchunk = 10", "clusters = 7\nchunk = 7")
        .replace("batch_size = 4", "batch_size = 50");
    let mut few = pairs();
    few.samples.truncate(5);
    let (outcome, _) = train(
        &mut trainer_of(&many, few),
        &folder.path().join("few"),
        u64::MAX,
        false,
    );
    assert!(!outcome.interrupted);
    let first = &chunks(&folder.path().join("few"))[0];
    assert_eq!(first.values["pairs"], 5.0);

    let mut same = pairs();
    let first = same.samples[0].clone();
    for sample in &mut same.samples {
        sample.texts.truncate(1);
        sample.texts[0] = "the same".to_owned();
        sample.visual = first.visual.clone();
    }
    let still = recipe().replace("crop = [0.7, 1.0]\nflip = 0.5\n", "");
    let dir = folder.path().join("same");
    let (outcome, _) = train(&mut trainer_of(&still, same), &dir, u64::MAX, false);
    assert!(!outcome.interrupted);
    assert!(chunks(&dir)[0].values["inertia"] < 1e-6);
}

/// A vector that is not of numbers stops the run before it is trained on, and names the sample.
#[test]
fn a_vector_that_is_no_number_names_its_sample() {
    let broken = recipe().replace("init_std = 0.1", "init_std = 1e38");
    let mut trainer = trainer_of(&broken, pairs());
    let error = trainer.begin_chunk().err().unwrap();
    let ids: Vec<String> = pairs()
        .samples
        .iter()
        .map(|sample| sample.id.clone())
        .collect();
    let told = error.to_string();
    assert!(
        told.contains("chunk 0") && ids.iter().any(|id| told.contains(id)),
        "{told}"
    );
    assert!(error.hint().is_some());
}

/// Views of texts alone: what they look at must be there, and pictures need not.
#[test]
fn views_of_texts() {
    for view in ["text_ocr", "text_caption"] {
        let recipe = recipe().replace(
            "clusters = 3\n",
            &format!("clusters = 3\nview = \"{view}\"\n"),
        );
        let mut trainer = trainer_of(&recipe, pairs());
        let first = trainer.begin_chunk().unwrap().unwrap();
        // Other pictures, the same groups: no pixel was read.
        let mut others = pairs();
        let visuals: Vec<_> = others
            .samples
            .iter()
            .map(|sample| sample.visual.clone())
            .collect();
        for (sample, visual) in others.samples.iter_mut().zip(visuals.into_iter().rev()) {
            sample.visual = visual;
        }
        let mut other = trainer_of(&recipe, others);
        let again = other.begin_chunk().unwrap().unwrap();
        assert_eq!((first.sizes, first.inertia), (again.sizes, again.inertia));

        let parsed = Recipe::from_toml(&recipe, "test").unwrap();
        let emoji = builtin::emoji().unwrap().subset(Split::Train);
        let error = TrainData::new(&parsed, vec![emoji]).err().unwrap();
        let column = view.strip_prefix("text_").unwrap();
        assert!(
            error.hint().unwrap().contains(&format!("`{column}`")),
            "{error}"
        );
    }
}

#[test]
fn what_no_run_can_have_is_refused() {
    for (from, to, told) in [
        (
            "clusters = 3",
            "clusters = 1",
            "objectives.cluster.clusters",
        ),
        ("chunk = 10", "chunk = 2", "objectives.cluster.chunk"),
        (
            "restarts = 2",
            "restarts = 0",
            "objectives.cluster.restarts",
        ),
        ("restarts = 2", "weight = -1.0", "objectives.cluster.weight"),
        (
            "batch_size = 4",
            "batch_size = 4\naccumulate = 2",
            "schedule.accumulate",
        ),
        (
            "temperature = 1.0",
            "temperature = 0.0",
            "contrastive.temperature",
        ),
        (
            "[objectives.contrastive]\ntemperature = 1.0",
            "[objectives.mlm]",
            "fusion encoder",
        ),
    ] {
        let text = recipe().replace(from, to);
        assert_ne!(text, recipe());
        let error = Recipe::from_toml(&text, "r.toml").unwrap_err();
        assert!(error.to_string().contains(told), "{error}");
        assert!(error.hint().is_some());
    }
}

/// Poolers of BERT and ViT are taken along by towers that stand alone, and so is CLIP's map of pictures
/// into the contrastive space; what does not fit stays as it was drawn.
#[test]
fn towers_alone_take_their_heads_along() {
    let hf = chiasm_testkit::fixtures_dir().join("hf");
    if !chiasm_testkit::available(&hf) {
        return;
    }
    let recipe = |vision: &str, projection: usize, pre_norm: bool| {
        let (eps, size, more) = match pre_norm {
            true => ("1e-5", "", ""),
            false => ("1e-12", "activation = \"gelu\"\n", "patch_bias = true\n"),
        };
        let clip = read_json(&hf.join(vision).join("config.json"));
        let sizes = clip.get("vision_config").unwrap_or(&clip);
        let of = |key: &str| sizes[key].as_u64().unwrap();
        format!(
            "[weights]\ntext = {text:?}\nvision = {vision:?}\n[model]\nprojection_size = {projection}\n\
             [model.text]\nhidden_size = 64\nlayers = 2\nnum_heads = 4\nintermediate_size = 128\n\
             max_text_len = 16\nposition_rows = 40\nposition_offset = 0\ntype_rows = 2\nlayer_norm_eps = 1e-12\n\
             [model.vision]\nimage_size = {image}\npatch_size = {patch}\nhidden_size = {width}\nlayers = {layers}\n\
             num_heads = {heads}\nintermediate_size = {inner}\nlayer_norm_eps = {eps}\npre_norm = {pre_norm}\n{size}{more}\
             [model.fusion]\nlayers = 0\n[model.heads]\nmatching = false\nmlm = false\nprojection = \"linear\"\n\
             [objectives.contrastive]\n[objectives.cluster]\n",
            text = hf.join("bert").display().to_string(),
            vision = hf.join(vision).display().to_string(),
            image = of("image_size"),
            patch = of("patch_size"),
            width = of("hidden_size"),
            layers = of("num_hidden_layers"),
            heads = of("num_attention_heads"),
            inner = of("intermediate_size"),
        )
    };
    let matched = |text: &str| {
        let mut trainer = trainer_of(text, pairs());
        let loaded = trainer.begin_with_weights().unwrap();
        let names = loaded.into_iter().flat_map(|part| part.report.matched);
        (names.collect::<Vec<_>>(), state_dict(trainer.model()))
    };
    let (names, state) = matched(&recipe("vit", 40, false));
    for name in [
        "text_pooler.dense.weight",
        "text_pooler.dense.bias",
        "image_pooler.dense.weight",
    ] {
        assert!(
            names.iter().any(|matched| matched == name),
            "{name}: {names:?}"
        );
    }
    let bert = std::fs::read(hf.join("bert/model.safetensors")).unwrap();
    let bert = from_safetensors(&bert).unwrap();
    assert_eq!(
        state["text_pooler.dense.weight"],
        bert["pooler.dense.weight"]
    );
    let (names, state) = matched(&recipe("clip", 40, true));
    assert!(
        names
            .iter()
            .any(|name| name == "image_projection.out.weight"),
        "{names:?}"
    );
    let clip = std::fs::read(hf.join("clip/model.safetensors")).unwrap();
    let clip = from_safetensors(&clip).unwrap();
    assert_eq!(
        state["image_projection.out.weight"],
        clip["visual_projection.weight"]
    );
    let (names, _) = matched(&recipe("clip", 24, true));
    assert!(
        !names
            .iter()
            .any(|name| name == "image_projection.out.weight"),
        "{names:?}"
    );
}

fn read_json(path: &Path) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}
