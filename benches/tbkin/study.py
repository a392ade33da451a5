"""Regenerates docs/results/tbkin.md: what knowledge masks and selected attention do for questions and grounding.

    python3 benches/tbkin/study.py --data ../shared/data --text MINILM --vision DINOV2S --detector YOLO \\
        --write docs/results/tbkin.md

MINILM is a folder with all-MiniLM-L6-v2, DINOV2S a file with DINOv2-S/14 with registers, YOLO darknet's
yolov4-tiny.weights. Runs lie in --runs and are not repeated where they are complete, so the command can be
stopped and started again. Only the standard library is used.
"""

import functools
import json
import statistics
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import study
from study import CHIASM, ROOT, recipe, spread, table

# Photos of each split that are looked at, the first of the file.
PHOTOS = {"train": 1500, "val": 100, "test": 150}
# Photos of DAQUAR whose questions are asked.
DAQUAR = {"train": 500, "test": 150}
# Optimiser steps.
PRETRAINING, GROUNDING, QUESTIONS = 60, 200, 600
# What leads the masks of pre-training.
MASKINGS = ["random", "intra", "cross", "both"]
# Share of attention's keys that every rule is to keep.
KEEP = 0.1
# Rules tried on one fine-tuned model; `learned` has nothing to try before it has learned.
RULES = [
    "prob_abs", "prob_rel_mean", "prob_rel_max", "score_abs", "score_mean",
    "topk", "topk_ratio", "quantile", "topp",
]
# What a rule costs is measured at values of the size that the models above have.
COSTED = [
    "prob_abs=0.04", "prob_rel_mean=1.2", "prob_rel_max=0.4", "score_abs=4", "score_mean=1.0",
    "topk=4", "topk_ratio=0.1", "quantile=0.9", "topp=0.5", "learned=1",
]
BENCH = CHIASM.with_name("chiasm-bench")
# Rules that are also on while a model is fine-tuned.
TUNED = ["prob_abs"]
# The start that selection is tried on: MiniLM's words and layers, without pre-training.
CHOSEN = "none"


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def write_lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def accuracy(report):
    return report and 100 * report["accuracy"]["mean"]


class Study(study.Study):
    def __init__(self, arguments):
        super().__init__(arguments)
        self.text, self.vision, self.detector = arguments.text, arguments.vision, arguments.detector
        self.prepare()

    # Data: the pictures that are looked at, and their regions.

    def prepare(self):
        phrases, photos, left = [], set(), dict(PHOTOS)
        for row in lines(self.data / "flickr8k/phrases.jsonl"):
            if left.get(row["split"], 0) > 0:
                left[row["split"]] -= 1
                phrases.append(row)
                photos.add(row["image"])
        self.phrases = write_lines(self.runs / "data/phrases.jsonl", phrases)
        captions = json.loads((self.data / "flickr8k/dataset_flickr8k.json").read_text())
        captions["images"] = [image for image in captions["images"] if image["filename"] in photos]
        self.captions = self.runs / "data/dataset_flickr8k.json"
        self.captions.write_text(json.dumps(captions))
        for split, most in DAQUAR.items():
            rows = lines(self.data / f"daquar/{split}.jsonl")
            images = set(list(dict.fromkeys(row["image"] for row in rows))[:most])
            rows = [row for row in rows if row["image"] in images]
            write_lines(self.runs / f"data/daquar/{split}.jsonl", rows)
        self.questions = self.runs / "data/daquar/{train,test}.jsonl"

    def extract(self, name, data, root):
        out = self.runs / f"regions-{name}"
        tower = ["--weights-vision", self.vision, "--detector", self.detector, "--size", 112, "--top", 20]
        self.once(f"regions-{name}", "regions", "extract", data, "--image-root", root, *tower, "--out", out)
        return out

    @functools.cached_property
    def photos(self):
        root = self.data / "flickr8k/images"
        return ["--image-root", root, "--regions", self.extract("flickr8k", self.phrases, root)]

    @functools.cached_property
    def rooms(self):
        root = self.data / "daquar/images"
        return ["--image-root", root, "--regions", self.extract("daquar", self.questions, root)]

    # Runs.

    def pretrained(self, masking, seed):
        """Folder of a pre-trained model."""
        name = f"pre-{masking}"
        words = ["--data", self.captions, *self.photos, "--weights-text", self.text, "--masking", masking]
        self.train(name, recipe("tbkin-tiny"), seed, *words, "--steps", PRETRAINING)
        return self.folder(name, seed)

    def start(self, masking, seed):
        """Where a fine-tune begins; without pre-training, at the words and layers of MiniLM."""
        if masking == "none":
            return ["--weights-text", self.text]
        return ["--weights", self.pretrained(masking, seed)]

    def tuned(self, task, masking, seed, suffix="", *words):
        """What a fine-tuned model scores."""
        if task == "ground":
            data, steps, name = ["--data", self.phrases, *self.photos], GROUNDING, "tbkin-ground-tiny"
        else:
            data, steps, name = ["--data", self.questions, *self.rooms], QUESTIONS, "tbkin-vqa-tiny"
        words = [*data, *self.start(masking, seed), "--steps", steps, *words]
        return self.train(f"{task}-{masking}{suffix}", recipe(name), seed, *words)

    def scored(self, task, run, select, seed):
        """What the fine-tuned model `run` scores with another selection."""
        name = f"eval-{run}-{select.split('=')[0]}-{KEEP}-{seed}"
        words = ["--select", select, "--predictions", self.runs / f"{name}.jsonl"]
        return self.once(name, "eval", self.folder(run, seed), *words)

    def values(self, task, seed):
        """For every rule the value that keeps the wanted share, and what it keeps and drops."""
        run = f"{task}-{CHOSEN}"
        self.tuned(task, CHOSEN, seed)
        words = ["--keep", KEEP, "--limit", 300]
        if task == "vqa":
            # DAQUAR has no validation split.
            words += ["--split", "train"]
        found = self.once(f"keep-{run}-{KEEP}-{seed}", "calibrate", self.folder(run, seed), *words)
        return {rule["rule"]: rule for rule in found["rules"]} if found else {}

    def selections(self, task, seed):
        """Accuracy with each rule in evaluation alone, and with some in fine-tuning too."""
        values = self.values(task, seed)
        run = f"{task}-{CHOSEN}"
        figures = {("off", "off"): accuracy(self.tuned(task, CHOSEN, seed))}
        if not values:
            return figures, values
        for rule in TUNED:
            select = f"{rule}={values[rule]['value']}"
            figures[rule, rule] = accuracy(self.tuned(task, CHOSEN, seed, f"-{rule}-{KEEP}", "--select", select))
            figures[rule, "off"] = accuracy(self.scored(task, f"{run}-{rule}-{KEEP}", "off", seed))
        for rule in RULES:
            select = f"{rule}={values[rule]['value']}"
            figures["off", rule] = accuracy(self.scored(task, run, select, seed))
        return figures, values

    # Tables.

    def masking(self):
        reports = {
            (task, masking): [self.tuned(task, masking, seed) for seed in self.seeds]
            for task in ["ground", "vqa"]
            for masking in ["none", *MASKINGS]
        }
        blind = [self.tuned("vqa", "none", seed, "-blind", "--blind") for seed in self.seeds]
        cells = lambda task, masking: spread([accuracy(report) for report in reports[task, masking]])
        names = {"none": "no pre-training", "random": "words and regions alike"}
        rows = [
            (names.get(masking, f"`{masking}`"), cells("ground", masking), cells("vqa", masking))
            for masking in ["none", *MASKINGS]
        ]
        there = lambda task: next((report for report in reports[task, CHOSEN] if report), None)
        first, question = there("ground"), there("vqa")
        if not first or not question:
            return ["Nothing was run yet.", ""]
        known = first["baselines"]
        percent = lambda share: f"{100 * share:.1f}"
        for name, share in [
            ("random region", known["random"]),
            ("largest region", known["largest"]),
            ("region nearest to the centre", known["centre"]),
            ("best region there is (oracle)", first["upper_bound"]),
        ]:
            rows.append((name, percent(share), ""))
        rows.append(("question alone, no pre-training", "", spread([accuracy(report) for report in blind])))
        rows.append(("most frequent answer", "", percent(question["majority"]["accuracy"])))
        kinds = ["people", "animals", "scene", "clothing", "vehicles", "other", "bodyparts", "instruments"]
        found = [report["by_kind"] for report in reports["ground", CHOSEN] if report]
        by_kind = [
            (kind, found[0][kind]["samples"], spread([100 * of[kind]["mean"] for of in found]))
            for kind in kinds
            if all(kind in of for of in found)
        ]
        seeds = max(len([report for report in of if report]) for of in reports.values())
        return [
            f"Accuracy in % (mean, spread of {seeds} seeds where they were run): {first['texts']:,} test phrases about {first['pictures']} photos,"
            f" {question['samples']:,} test questions of DAQUAR.",
            "",
            *table(["pre-trained with", "grounding", "DAQUAR"], rows),
            "",
            f"Grounding by kind of phrase, without pre-training:",
            "",
            *table(["kind", "phrases", "accuracy"], by_kind),
            "",
        ]

    def selection(self):
        found = {task: [self.selections(task, seed) for seed in self.seeds] for task in ["ground", "vqa"]}
        off = {task: [figures["off", "off"] for figures, _ in found[task]] for task in found}

        def cell(task, key):
            """How far from all attention of the same seed, in points."""
            pairs = [(figures.get(key), figures[("off", "off")]) for figures, _ in found[task]]
            return spread([own - base for own, base in pairs if own is not None and base is not None])

        def known(task, rule, key, factor, digits):
            values = [factor * values[rule][key] for _, values in found[task] if rule in values]
            return f"{statistics.mean(values):.{digits}f}" if values else ""

        rows = []
        for rule in RULES:
            row = [f"`{rule}`"]
            for task in ["ground", "vqa"]:
                row += [known(task, rule, "value", 1, 3), known(task, rule, "dropped", 100, 0)]
                row.append(cell(task, ("off", rule)))
            rows.append(row)
        rounds = []
        for rule in TUNED:
            for name, key in [("both", (rule, rule)), ("fine-tuning", (rule, "off")), ("evaluation", ("off", rule))]:
                rounds.append((f"`{rule}`", name, cell("ground", key), cell("vqa", key)))
        heads = ["rule"]
        for task in ["grounding", "DAQUAR"]:
            heads += [f"{task}: value", "dropped, %", "accuracy"]
        return [
            f"Without selection: grounding {spread(off['ground'])} %, DAQUAR {spread(off['vqa'])} %. Below,"
            " differences from that in points, seed by seed (mean, spread of seeds).",
            "",
            f"Each rule in evaluation alone, at the value that keeps {100 * KEEP:.0f} % of all keys; dropped:"
            " how much probability that is.",
            "",
            *table(heads, rows),
            "",
            "On in fine-tuning, in evaluation, or in both, at the same value:",
            "",
            *table(["rule", "on in", "grounding", "DAQUAR"], rounds),
            "",
        ]

    def cost(self):
        """Processor time of a training step with each rule over that with all of attention, in turns."""
        file = self.runs / "cost.jsonl"
        if not file.exists():
            if self.only_done:
                return ["Not measured yet."]
            workload = ROOT / "benches/workloads/selection.toml"
            command = [BENCH, "selection", "--workload", workload, "--threads", 1, "--rounds", 21, *COSTED]
            done = subprocess.run(list(map(str, command)), cwd=ROOT, check=True, capture_output=True, text=True)
            file.write_text(done.stdout)
        percent = lambda ratio: f"{100 * (ratio - 1):+.1f}"
        rows = []
        for line in lines(file):
            ratio, seconds = line["ratio"], line["seconds"]
            low, high = ratio["quartiles"]
            more = f"{percent(ratio['median'])} ({percent(low)} to {percent(high)})"
            rows.append((f"`{line['rule']}`", f"{seconds['median']:.2f}", "" if line["rule"] == "off" else more))
        return [*table(["rule", "a step, s", "more than plain, % (quartiles)"], rows), ""]

    def everything(self):
        """All runs, seed by seed, so that the tables of the first seeds are complete first."""
        every = self.seeds
        for seed in every:
            for task in ["ground", "vqa"]:
                self.selections(task, seed)
            self.seeds = [seed]
            self.masking()
        self.seeds = every


def main():
    parser = study.arguments(__doc__, "runs/tbkin-study", ["masking", "selection", "cost"])
    parser.add_argument("--detector", required=True)
    arguments = parser.parse_args()
    runs = Study(arguments)
    if arguments.part == "all" and not arguments.done:
        runs.everything()
    parts = {}
    if arguments.part in ("masking", "all"):
        parts["masking"] = runs.masking()
    if arguments.part in ("selection", "all"):
        parts["selection"] = runs.selection()
    if arguments.part in ("cost", "all"):
        parts["cost"] = runs.cost()
    study.publish(parts, arguments.write)


if __name__ == "__main__":
    main()
