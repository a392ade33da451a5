//! Graphs and mask probabilities against the published implementation, on `fixtures/tbkin`.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::fs::File;

use chiasm_format::numpy::Npz;
use chiasm_graph::config::{GraphConfig, MaskConfig};
use chiasm_graph::image::{Corners, ImageGraph, Region, RegionEdge, geometry, iou};
use chiasm_graph::mask::{self, Probabilities, Side};
use chiasm_graph::priors::Priors;
use chiasm_graph::text::{TextGraph, Tsg};
use chiasm_graph::unified::UnifiedGraph;
use chiasm_graph::vectors::sharpen;
use chiasm_testkit::{Case, Golden, assert_close, available, shared_dir};
use serde_json::Value;

fn corners(golden: &Golden) -> Vec<Corners> {
    golden
        .values
        .chunks_exact(4)
        .map(|row| [row[0], row[1], row[2], row[3]])
        .collect()
}

fn image_graph(boxes: &[Corners], config: &GraphConfig) -> ImageGraph {
    let region = |corners: &Corners| Region {
        corners: *corners,
        name: "thing".to_owned(),
    };
    ImageGraph::new(boxes.iter().map(region).collect(), config.iou_edge).unwrap()
}

#[test]
fn parity_tbkin_iou_graph() {
    let Some(case) = Case::open("tbkin/iou_graph") else {
        return;
    };
    let config = GraphConfig::default();
    for image in case.json["images"].as_array().unwrap() {
        let id = image["image"].as_str().unwrap();
        let boxes = corners(case.tensor(&format!("inputs.{id}.boxes")));
        let (height, width) = (
            image["image_h"].as_f64().unwrap(),
            image["image_w"].as_f64().unwrap(),
        );
        let found: Vec<f32> = boxes
            .iter()
            .flat_map(|box_| geometry(box_, width, height))
            .map(|value| value as f32)
            .collect();
        assert_close(
            "geometry",
            &found,
            case.tensor(&format!("expected.{id}.geom")),
            case.tolerance("abs"),
            0.0,
        );
        let overlaps: Vec<f32> = boxes
            .iter()
            .flat_map(|a| boxes.iter().map(move |b| iou(a, b) as f32))
            .collect();
        assert_close(
            "iou",
            &overlaps,
            case.tensor(&format!("expected.{id}.iou")),
            case.tolerance("abs"),
            0.0,
        );
        let graph = image_graph(&boxes, &config);
        assert_eq!(
            graph.edges.len() as u64,
            image["undirected_edges"].as_u64().unwrap(),
            "{id}"
        );
        let mut matrix = vec![0; boxes.len() * boxes.len()];
        for edge in &graph.edges {
            matrix[edge.a * boxes.len() + edge.b] = 1;
            matrix[edge.b * boxes.len() + edge.a] = 1;
        }
        assert_eq!(
            matrix,
            case.tensor(&format!("expected.{id}.edges")).i64s(),
            "{id}"
        );
    }
}

/// Section 8.3: pairs above 0, 0.1, 0.2 and 0.5, the largest overlap and whose it is, in the eight demo files.
#[test]
fn table_of_the_demo_photos() {
    let folder = shared_dir().join("data/coco-region-features-sample/features");
    if !available(&folder) {
        return;
    }
    for (id, counts, largest, pair) in [
        (58350, [245, 109, 70, 6], 0.6933, (12, 26)),
        (124_629, [196, 84, 45, 6], 0.6018, (18, 19)),
        (268_556, [199, 81, 51, 5], 0.6969, (24, 31)),
        (399_879, [245, 95, 54, 3], 0.6156, (14, 27)),
        (409_241, [180, 70, 37, 3], 0.6685, (15, 26)),
        (437_564, [225, 83, 48, 9], 0.6165, (3, 16)),
        (504_810, [268, 137, 76, 10], 0.6668, (1, 3)),
        (562_150, [256, 103, 54, 4], 0.6975, (13, 22)),
    ] {
        let path = folder.join(format!("COCO_val2014_{id:012}.jpg.npz"));
        let mut npz = Npz::open(File::open(path).unwrap()).unwrap();
        let boxes: Vec<f64> = npz
            .read("boxes")
            .unwrap()
            .to_f32()
            .unwrap()
            .into_iter()
            .map(f64::from)
            .collect();
        let boxes: Vec<Corners> = boxes
            .chunks_exact(4)
            .map(|row| [row[0], row[1], row[2], row[3]])
            .collect();
        for (threshold, count) in [0.0, 0.1, 0.2, 0.5].into_iter().zip(counts) {
            let config = GraphConfig {
                iou_edge: threshold,
                ..GraphConfig::default()
            };
            assert_eq!(
                image_graph(&boxes, &config).edges.len(),
                count,
                "{id} above {threshold}"
            );
        }
        let graph = image_graph(&boxes, &GraphConfig::default());
        let most = graph
            .edges
            .iter()
            .max_by(|a, b| a.iou.total_cmp(&b.iou))
            .unwrap();
        assert_eq!((most.a, most.b), pair, "{id}");
        assert!((most.iou - largest).abs() < 5e-5, "{id}: {}", most.iou);
    }
}

#[test]
fn parity_tbkin_cross_similarity() {
    let Some(case) = Case::open("tbkin/cross_similarity") else {
        return;
    };
    let rows = |name: &str| -> Vec<Vec<f64>> {
        let golden = case.tensor(name);
        golden
            .values
            .chunks_exact(*golden.shape.last().unwrap())
            .map(<[f64]>::to_vec)
            .collect()
    };
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let classes = rows("inputs.class_vectors");
    let mut raw = Vec::new();
    for word in rows("inputs.word_vectors") {
        for class in &classes {
            raw.push(
                sharpen(dot(&word, class) / (dot(&word, &word) * dot(class, class)).sqrt()) as f32,
            );
        }
    }
    assert_close(
        "raw",
        &raw,
        case.tensor("expected.g_raw"),
        case.tolerance("abs"),
        0.0,
    );
    let cut = GraphConfig::default().cross_cut as f32;
    let cut: Vec<f32> = raw
        .into_iter()
        .map(|g| if g < cut { 0.0 } else { g })
        .collect();
    assert_close(
        "cut",
        &cut,
        case.tensor("expected.g"),
        case.tolerance("abs"),
        0.0,
    );
}

/// The graph of the masking fixture: the figure's caption and ten regions.
fn fixture_graph(case: &Case) -> UnifiedGraph {
    let json: Value = serde_json::from_slice(&case.file("graph.json")).unwrap();
    let lemmas: Vec<String> = serde_json::from_value(json["lemmas"].clone()).unwrap();
    let words: Vec<String> = serde_json::from_value(json["words"].clone()).unwrap();
    let tsg: Tsg = serde_json::from_value(json["tsg"].clone()).unwrap();
    let text = TextGraph::from_tsg(&words.join(" "), &lemmas, &tsg).unwrap();
    assert_eq!(text.to_tsg(), tsg);
    let priors = Priors::read(&case.file("graph.json")[..]).unwrap();
    let config = GraphConfig::default();
    let image = image_graph(&corners(case.tensor("inputs.boxes")), &config);
    let mut graph = UnifiedGraph::new(&text, &image, Some(&priors), &config, |_, _| 0.0);
    graph.cross.clone_from(&case.tensor("inputs.g").values);
    graph
}

fn close(what: &str, found: f64, wanted: f64) {
    assert!(
        (found - wanted).abs() < 1e-5,
        "{what}: {found} instead of {wanted}"
    );
}

#[test]
fn parity_tbkin_masking_graph() {
    let Some(case) = Case::open("tbkin/masking_probabilities") else {
        return;
    };
    let graph = fixture_graph(&case);
    let (words, regions) = (graph.words.len(), graph.regions.len());
    let mut of_words = vec![0.0; words * words];
    for edge in &graph.word_edges {
        of_words[edge.object * words + edge.word] = edge.weight as f32;
        of_words[edge.word * words + edge.object] = edge.weight as f32;
    }
    assert_close(
        "words",
        &of_words,
        case.tensor("expected.s_word_word"),
        1e-5,
        0.0,
    );
    let mut of_regions = vec![0.0; regions * regions];
    for RegionEdge { a, b, iou } in &graph.region_edges {
        of_regions[a * regions + b] = *iou as f32;
        of_regions[b * regions + a] = *iou as f32;
    }
    let golden = case.tensor("expected.s_region_region");
    // Whether a region overlaps itself is of no use here.
    for at in 0..regions {
        of_regions[at * regions + at] = golden.values[at * regions + at] as f32;
    }
    assert_close("regions", &of_regions, golden, 1e-5, 0.0);
}

#[test]
fn parity_tbkin_masking_released() {
    let Some(case) = Case::open("tbkin/masking_probabilities") else {
        return;
    };
    let graph = fixture_graph(&case);
    let cases: Value = serde_json::from_slice(&case.file("cases.json")).unwrap();
    let config = MaskConfig::default();
    let object = |word: &Value| {
        let word = word.as_u64().unwrap() as usize;
        graph
            .objects
            .iter()
            .position(|words| words[0] == word)
            .unwrap()
    };
    for row in cases["released_text"].as_array().unwrap() {
        let anchors: Vec<usize> = row["anchor_objects"]
            .as_array()
            .unwrap()
            .iter()
            .map(object)
            .collect();
        let found = mask::released_words(&graph, &anchors, &config);
        let certain: Vec<u64> =
            serde_json::from_value(row["words_masked_with_certainty"].clone()).unwrap();
        for (word, wanted) in row["word_probability"]
            .as_array()
            .unwrap()
            .iter()
            .enumerate()
        {
            let wanted = if certain.contains(&(word as u64)) {
                1.0
            } else {
                wanted.as_f64().unwrap()
            };
            close(&format!("{anchors:?} word {word}"), found[word], wanted);
        }
    }
    let flags = |value: &Value| -> Vec<bool> {
        value
            .as_array()
            .unwrap()
            .iter()
            .map(|flag| flag.as_u64() == Some(1))
            .collect()
    };
    let strong = GraphConfig::default().cross_strong;
    for row in cases["keep_weights_text"].as_array().unwrap() {
        let found = mask::keep_regions(&graph, &flags(&row["masked_word_pieces"]), strong);
        for (region, wanted) in row["region_keep_weight"]
            .as_array()
            .unwrap()
            .iter()
            .enumerate()
        {
            close(
                &format!("region {region}"),
                found[region],
                wanted.as_f64().unwrap(),
            );
        }
    }
    for row in cases["keep_weights_image"].as_array().unwrap() {
        let found = mask::keep_words(&graph, &flags(&row["centre_regions"]), strong);
        let wanted = row["word_keep_weight_with_cls_sep"].as_array().unwrap();
        for (word, found) in found.iter().enumerate() {
            close(
                &format!("word {word}"),
                *found,
                wanted[word + 1].as_f64().unwrap(),
            );
        }
    }
}

#[test]
fn parity_tbkin_masking_figure() {
    let Some(case) = Case::open("tbkin/masking_probabilities") else {
        return;
    };
    let cases: Value = serde_json::from_slice(&case.file("cases.json")).unwrap();
    let config = MaskConfig::default();
    for row in cases["figure_rule"].as_array().unwrap() {
        let mut graph = fixture_graph(&case);
        let above = row["cross_edge_threshold_exclusive"].as_f64().unwrap();
        for g in &mut graph.cross {
            if *g <= above {
                *g = 0.0;
            }
        }
        let names: Vec<String> = serde_json::from_value(row["anchors"].clone()).unwrap();
        let mut side = Side::Image;
        let anchors: Vec<usize> = names
            .iter()
            .map(|name| {
                let (kind, index) = name.split_once(':').unwrap();
                let index: usize = index.parse().unwrap();
                if kind == "region" {
                    return index;
                }
                side = Side::Text;
                graph
                    .objects
                    .iter()
                    .position(|words| words[0] == index)
                    .unwrap()
            })
            .collect();
        let found = mask::figure(&graph, side, &anchors, &config);
        let mut wanted = Probabilities {
            words: vec![0.0; graph.words.len()],
            regions: vec![0.0; graph.regions.len()],
        };
        for part in ["own_modality_probability", "cross_modality_probability"] {
            for (name, value) in row[part].as_object().unwrap() {
                let (kind, index) = name.split_once(':').unwrap();
                let list = if kind == "word" {
                    &mut wanted.words
                } else {
                    &mut wanted.regions
                };
                list[index.parse::<usize>().unwrap()] = value.as_f64().unwrap();
            }
        }
        for (what, found, wanted) in [
            ("word", &found.words, &wanted.words),
            ("region", &found.regions, &wanted.regions),
        ] {
            for (index, (found, wanted)) in found.iter().zip(wanted).enumerate() {
                close(
                    &format!("{names:?} above {above}: {what} {index}"),
                    *found,
                    *wanted,
                );
            }
        }
    }
    for row in cases["figure_golden"].as_array().unwrap() {
        for path in row["paths"].as_array().unwrap() {
            figure_path(path);
        }
    }
}

/// One path of the published drawing: a region anchor, its word, and perhaps a word beside that.
fn figure_path(path: &Value) {
    let intra = path["intra"].as_f64();
    let text = TextGraph::from_tsg(
        "horse brown",
        &["horse".to_owned(), "brown".to_owned()],
        &serde_json::from_str(r#"{"objs": [[[0]]], "attrs": [[[0], [1]]], "rels": []}"#).unwrap(),
    )
    .unwrap();
    let config = GraphConfig::default();
    let image = image_graph(&[[0.0, 0.0, 10.0, 10.0]], &config);
    let cross = path["cross"].as_f64().unwrap();
    let mut graph = UnifiedGraph::new(&text, &image, None, &config, |_, _| cross);
    graph.word_edges[0].weight = intra.unwrap_or(0.0);
    let found = mask::figure(&graph, Side::Image, &[0], &MaskConfig::default());
    let word = usize::from(intra.is_some());
    close("figure", found.words[word], path["p"].as_f64().unwrap());
    assert_eq!(found.regions, [1.0]);
}
