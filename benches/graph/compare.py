"""Scores chiasm's text scene graphs beside SceneGraphParser's, on the test part of FACTUAL, and times both.

Both sets of graphs go through one scorer, `chiasm graph --score`, which makes spelling alike on both sides. Both
parsers run on one core; the best of three turns counts, as other programs can only slow a turn down.

    python3 -m venv benches/.venv
    benches/.venv/bin/pip install spacy textblob SceneGraphParser
    benches/.venv/bin/python benches/graph/compare.py ../shared/data/factual-text-scene-graphs

The page docs/results/graph.md is written by `--write`.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PARTS = ["objects", "attributes", "relations", "all"]
TURNS = 3

PAGE = """# Text scene graphs: what was measured

Set-match F1 over tuples as in SPICE, on the {captions} captions of FACTUAL's test part: objects, objects with an
attribute, subject-relation-object. Words have to be the same after singulars, infinitives and digits are made alike on
both sides. Our rules were made on the train and dev parts; test was only measured. Written by
`python benches/graph/compare.py DATA --write`.

| parser | objects | attributes | relations | all tuples | mean of captions | captions/s, one core |
| --- | ---: | ---: | ---: | ---: | ---: | ---: |
{rows}

With synonyms of objects, from the built-in list, counted as the same word:

| parser | objects | attributes | relations | all tuples | mean of captions |
| --- | ---: | ---: | ---: | ---: | ---: |
{synonyms}

## How to read it

* **SceneGraphParser** 0.1.0 on spaCy {spacy}
{model}
* It names a relation by its preposition where a verb stands before it (`man on bench`, where people wrote `sit on`),
  unless the pair is in its list.
* FACTUAL's annotators rewrite (`guy` is `person`, `with` is sometimes `have`), so no parser that keeps to the words
  reaches 1.
* {machine}; other programs were running.
"""


def run(*command: str) -> dict:
    """Runs a program on one core and reads what it printed."""
    environment = {**os.environ, "CHIASM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return json.loads(done.stdout)


def cells(report: dict) -> list[str]:
    """F1 of each part, and the mean of captions."""
    return [f"{report[part]['f1']:.3f}" for part in PARTS] + [f"{report['all']['mean_f1']:.3f}"]


def processor() -> str:
    """What the machine computes with."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("data", type=Path, help="folder with FACTUAL's test.jsonl")
    arguments.add_argument("--chiasm", help="our program [default: built from this checkout]")
    arguments.add_argument("--spacy-model", help="an installed spaCy model for the peer [default: a stand-in]")
    arguments.add_argument("--write", action="store_true", help="write docs/results/graph.md")
    arguments = arguments.parse_args()
    if not arguments.chiasm:
        subprocess.run(["cargo", "build", "--release", "-p", "chiasm"], cwd=ROOT, check=True)
        arguments.chiasm = str(ROOT / "target/release/chiasm")
    test = str(arguments.data / "test.jsonl")
    score = [arguments.chiasm, "graph", "--data", test, "--score", "--json"]
    with tempfile.TemporaryDirectory() as folder:
        theirs = str(Path(folder) / "peer.jsonl")
        peer = [sys.executable, str(HERE / "peer.py"), test, theirs]
        if arguments.spacy_model:
            peer += ["--spacy-model", arguments.spacy_model]
        turns = [(run(*score), run(*peer)) for _ in range(TURNS)]
        reports = {
            "chiasm": (turns[0][0], run(*score, "--synonyms")),
            "SceneGraphParser": (
                run(*score, "--predictions", theirs),
                run(*score, "--predictions", theirs, "--synonyms"),
            ),
        }
    rates = {
        "chiasm": max(ours["captions_per_second"] for ours, _ in turns),
        "SceneGraphParser": max(other["captions_per_second"] for _, other in turns),
    }
    rows = [f"| {name} | {' | '.join(cells(exact))} | {rates[name]:,.0f} |" for name, (exact, _) in reports.items()]
    synonyms = [f"| {name} | {' | '.join(cells(loose))} |" for name, (_, loose) in reports.items()]
    stand_in = (
        "  with a stand-in for a trained model, as the registries at hand carry none: TextBlob's tagger and heads by the\n"
        "  rules in `benches/graph/peer.py`. A trained model may parse better and takes its time; neither was measured.\n"
        "  `--spacy-model` does."
    )
    page = PAGE.format(
        captions=f"{reports['chiasm'][0]['captions']:,}",
        rows="\n".join(rows),
        synonyms="\n".join(synonyms),
        spacy=turns[0][1]["spacy"],
        model=f"  with the model `{arguments.spacy_model}`." if arguments.spacy_model else stand_in,
        machine=f"{processor()}, {os.cpu_count()} cores",
    )
    if arguments.write:
        (ROOT / "docs/results/graph.md").write_text(page)
    print(page)


if __name__ == "__main__":
    main()
