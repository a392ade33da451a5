//! Scene graphs of captions: known answers, FACTUAL, and captions that nobody should write.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::fs::File;
use std::io::BufReader;

use chiasm_graph::score::{evaluate, read_rows};
use chiasm_graph::text::{TextGraph, Tsg, parse};
use chiasm_testkit::{available, shared_dir};
use proptest::prelude::*;

/// Section 2.5.
#[test]
fn golden_caption_of_the_specification() {
    let graph = parse("A person sits on a brown horse next to a miniature pony");
    let tsg: Tsg = serde_json::from_str(
        r#"{"objs": [[[1]], [[6]], [[11]]],
            "attrs": [[[6], [5]], [[11], [10]]],
            "rels": [[[1], [2, 3], [6]], [[6], [7, 8], [11]]], "mixed": []}"#,
    )
    .unwrap();
    assert_eq!(graph.to_tsg(), tsg);
}

#[test]
fn captions_with_known_graphs() {
    for (caption, facts) in [
        ("a brown dog", "(dog, is, brown)"),
        ("The dog's tail", "(dog, have, tail)"),
        (
            "man 's finger in pocket",
            "(man, have, finger) (finger, in, pocket)",
        ),
        ("leg of the man", "(man, have, leg)"),
        ("two plates of food", "(plates, is, 2) (food, on, plates)"),
        ("a group of people", "(people, is, group of)"),
        ("a lot of people on the street", "(people, on, street)"),
        ("cliff surrounded by water", "(water, surround, cliff)"),
        ("cars parked by the wall", "(cars, park by, wall)"),
        ("black and white cat", "(cat, is, black) (cat, is, white)"),
        ("the sky is blue", "(sky, is, blue)"),
        ("a brick wall", "(wall, is, brick)"),
        ("a tennis racket", "(tennis racket)"),
        ("an orange on a plate", "(orange, on, plate)"),
        (
            "a man in a blue shirt",
            "(shirt, is, blue) (man, wear, shirt)",
        ),
        (
            "dinner and movie sitting on the table",
            "(dinner, sit on, table) (movie, sit on, table)",
        ),
        (
            "a pizza on the top of a white plate",
            "(plate, is, white) (pizza, on top of, plate)",
        ),
        (
            "the table the oranges are sitting on",
            "(oranges, sit on, table)",
        ),
        (
            "a table with a cake on it",
            "(table, with, cake) (cake, on, table)",
        ),
        ("she is holding a racket", "(woman, hold, racket)"),
        ("the boy is skating", "(boy, is, skating)"),
        ("this is a picture of a cat", "(cat)"),
        (
            "people trying to reach a frisbee",
            "(people, reach, frisbee)",
        ),
        (
            "wood desk in office",
            "(desk, is, wooden) (desk, in, office)",
        ),
        (
            "grey owl on tree branch",
            "(owl, is, grey) (tree, have, branch) (owl, on, branch)",
        ),
    ] {
        let found = parse(caption).to_string().replace('\n', " ");
        let sorted = |facts: &str| {
            let mut facts: Vec<String> = facts
                .split(") (")
                .map(|fact| fact.replace(['(', ')'], ""))
                .collect();
            facts.sort();
            facts
        };
        assert_eq!(sorted(&found), sorted(facts), "{caption}: {found}");
    }
}

fn sound(graph: &TextGraph, caption: &str) {
    let (words, objects) = (graph.words.len(), graph.objects.len());
    let mut start = 0;
    for word in &graph.words {
        assert!(word.span.start >= start && caption.get(word.span.clone()).is_some());
        assert!(!word.text.is_empty() && !word.text.contains(char::is_whitespace));
        start = word.span.end;
    }
    let within = |list: &[usize]| list.iter().all(|word| *word < words);
    assert!(
        graph
            .objects
            .iter()
            .all(|object| !object.words.is_empty() && within(&object.words))
    );
    assert!(
        graph
            .attributes
            .iter()
            .all(|attribute| attribute.object < objects && within(&attribute.words))
    );
    for relation in &graph.relations {
        assert!(relation.subject < objects && relation.object < objects && within(&relation.words));
        assert!(relation.subject != relation.object && !relation.predicate.is_empty());
    }
    assert_eq!(
        graph
            .text()
            .split(' ')
            .filter(|word| !word.is_empty())
            .count(),
        words
    );
    // Stored and read back, the graph says the same of the same words.
    let document = graph.document();
    let lemmas: Vec<String> = document
        .lemmas
        .iter()
        .map(|lemma| (*lemma).to_owned())
        .collect();
    let back = TextGraph::from_tsg(&document.text, &lemmas, &document.tsg).unwrap();
    assert_eq!(back.to_tsg().attrs, document.tsg.attrs);
    assert_eq!(back.to_tsg().rels, document.tsg.rels);
    assert!(graph.to_dot().ends_with("}\n"));
    assert!(serde_json::to_string(&document).is_ok());
}

#[test]
fn odd_captions_have_graphs() {
    let long = "a dog chases a cat and ".repeat(100);
    let chain = "a part of ".repeat(5000);
    let owners = "the man 's ".repeat(3000);
    let crowd = format!(
        "{}hold{}",
        "a dog and ".repeat(160),
        " a cat and".repeat(160)
    );
    for caption in [
        "",
        " ",
        ".",
        "...",
        "'",
        "''s",
        "'s",
        "s's",
        "of",
        "of of of",
        "and and",
        "the",
        "a the of",
        "is",
        "dog",
        "running",
        "on on on",
        "that that",
        "it",
        "it it it",
        "\u{1f600}",
        "a \u{1f600} dog",
        "女人在海边骑马",
        "собака на траве",
        "كلب بني",
        "a\u{300} dog",
        "quickly and quietly",
        "1 2 3",
        "a \0 b",
        "\"quoted\" {braces} \\ back",
        "A-B-C-D",
        "don't isn't can't",
        &long,
        &chain,
        &owners,
        &crowd,
    ] {
        sound(&parse(caption), caption);
    }
    for empty in [
        "",
        "of",
        "女人在海边骑马",
        "собака на траве",
        "quickly and quietly",
        "\u{1f600}",
    ] {
        assert!(parse(empty).objects.is_empty(), "{empty}");
    }
    assert_eq!(parse("dog").objects.len(), 1);
    assert!(parse(&long).relations.len() >= 100);
    assert_eq!(parse(&long), parse(&long));
}

#[test]
fn stored_graphs_that_do_not_fit_are_refused() {
    let tsg: Tsg = serde_json::from_str(r#"{"objs": [[[7]]], "attrs": [], "rels": []}"#).unwrap();
    let lemmas = ["a".to_owned(), "dog".to_owned()];
    let error = TextGraph::from_tsg("a dog", &lemmas, &tsg)
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "word number 7 in a caption of 2 words; numbers start at 0"
    );
    let error = TextGraph::from_tsg("a brown dog", &lemmas, &Tsg::default())
        .unwrap_err()
        .to_string();
    assert!(error.starts_with("3 words but 2 lemmas"), "{error}");
    assert!(serde_json::from_str::<Tsg>(r#"{"objs": [[[-1]]], "attrs": [], "rels": []}"#).is_err());
    assert!(serde_json::from_str::<Tsg>(r#"{"objs": [[]], "attrs": [], "rels": []}"#).is_err());
}

/// F1 over all tuples of FACTUAL's test part; the issue asks for 0.55. What is reached stands in docs/results/graph.md.
#[test]
fn factual_is_met() {
    let path = shared_dir().join("data/factual-text-scene-graphs/test.jsonl");
    if !available(&path) {
        return;
    }
    let rows = read_rows(BufReader::new(File::open(path).unwrap())).unwrap();
    assert_eq!(rows.len(), 1508);
    let report = evaluate(&rows, false);
    assert!(report.all.f1 > 0.84, "{report:?}");
    assert!(
        report.objects.f1 > 0.91 && report.attributes.f1 > 0.77 && report.relations.f1 > 0.73,
        "{report:?}"
    );
    assert!(evaluate(&rows, true).all.f1 >= report.all.f1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_text_has_a_graph(caption: String) {
        sound(&parse(&caption), &caption);
    }

    #[test]
    fn any_words_have_a_graph(words in prop::collection::vec(prop::sample::select(vec![
        "a", "the", "two", "dog", "man", "tree", "branch", "brown", "light", "blue", "red", "orange", "sitting", "parked", "is", "has", "on", "of",
        "to", "next", "and", ",", ".", "that", "his", "it", "'s", "group", "very", "while", "front", "in", "top", "full", "left", "with",
        "holding", "run", "there", "colored", "s", "men's", "polar", "bear", "by", "surrounded",
    ]), 0..24)) {
        let caption = words.join(" ");
        sound(&parse(&caption), &caption);
    }
}
