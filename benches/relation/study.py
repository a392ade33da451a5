"""Regenerates docs/results/itr.md: what pre-training on unlabelled posts adds to a linear probe.

    python3 benches/relation/study.py --data ../shared/data --text MINILM --vision DINOV2S --write docs/results/itr.md

MINILM is a folder with all-MiniLM-L6-v2, DINOV2S a file with DINOv2-S/14 with registers. Runs and vectors
lie in --runs and are not made again where they are complete, so the command can be stopped and started
again; --part does one part. Needs numpy, scipy and scikit-learn, whose logistic regression is the probe.
"""

import json
import re
import statistics
import struct
import sys
import warnings
from pathlib import Path

import numpy as np
from scipy.stats import kendalltau, spearmanr
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import study
from study import interval, recipe, spread

TASKS = ["1", "4", "1+4"]
BEFORE = "before"
# The inverse penalty of the published probe.
C = 0.25
DRAWS = 1000
FLICKR_PAIRS = 4000
BATCH, CHUNK = 32, 1000
# Weight of the cluster loss beside the published one.
HEAVY = 1.0
# Test photos whose phrases are explained.
EXPLAINED = 40
# Side of the photos and steps of the run whose maps have more places.
FINE_SIDE, FINE_STEPS = 168, 600
# Precision that an answer is to have.
WANTED = 0.8


def sized(name, steps, chunk):
    """The text of a recipe with other sizes."""
    text = re.sub(r"\nchunk = \d+", f"\nchunk = {chunk}", recipe(name))
    return re.sub(r"\nsteps = \d+", f"\nsteps = {steps}", text)


def untrained(text):
    """A recipe whose one step changes nothing that can be seen: the weights as they begin."""
    text = re.sub(r"\nlearning_rate = 1e-3", "\nlearning_rate = 1e-30", text)
    return re.sub(r"\nsteps = \d+", "\nsteps = 1", text)


class Vectors:
    """What `chiasm embed --pairs` wrote."""

    def __init__(self, path):
        with open(path, "rb") as file:
            header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
            body = file.read()
        for key in ["ids", "labels", "splits"]:
            setattr(self, key, np.array(json.loads(header["__metadata__"][key]), dtype=object))
        self.tensors = {}
        kinds = {"F32": np.float32, "I64": np.int64}
        for name, about in header.items():
            if name != "__metadata__":
                first, last = about["data_offsets"]
                values = np.frombuffer(body[first:last], kinds[about["dtype"]])
                self.tensors[name] = values.reshape(about["shape"])


class Study(study.Study):
    def __init__(self, arguments):
        super().__init__(arguments)
        self.towers = ["--weights-text", arguments.text, "--weights-vision", arguments.vision]

    def run(self, name, text, seed, *words):
        """The folder of a run; nothing is done where it was done before."""
        self.train(name, text, seed, *words)
        return self.folder(name, seed)

    def vectors(self, run, name, data, *words):
        file = self.runs / f"{run.name}-{name}.safetensors"
        if not file.exists():
            part = file.with_suffix(".part")
            self.chiasm("embed", run, "--data", data, "--out", part, *words)
            part.rename(file)
        return Vectors(file)

    def variants(self, base, text, seed, *words):
        """Runs by what they were trained on, that of the weights as they begin first."""
        yield BEFORE, self.run(f"{base}-{BEFORE}", untrained(text), seed, *words, "--tasks", "4")
        for tasks in TASKS:
            yield tasks, self.run(f"{base}-{tasks}", text, seed, *words, "--tasks", tasks)

    def synthitr(self):
        """Linear probes on the built-in posts."""
        text = sized("itr-tiny", 250, 4000)
        results = {}
        for seed in self.seeds:
            for tasks, run in self.variants("synth", text, seed, "--data", "builtin:synthitr,unlabelled=8000"):
                found = self.vectors(run, "posts", "builtin:synthitr,unlabelled=0", "--pairs")
                names = sorted(set(found.labels))
                classes = np.array([names.index(label) for label in found.labels])
                results.setdefault(tasks, []).append(self.probe(found, classes, "train", "test"))
        labels = results[BEFORE][0][0]
        questions = {
            "relation (4 classes)": lambda labels: labels,
            "text represented": lambda labels: self.fact(names, labels, "represented"),
            "image adds": lambda labels: self.fact(names, labels, "adds"),
        }
        del labels
        return self.table(results, questions)

    @staticmethod
    def fact(names, labels, which):
        """One of the two facts of a relation, by the names of `chiasm_data::Relation`."""
        facts = {
            "neither": (0, 0),
            "adds": (0, 1),
            "represented": (1, 0),
            "both": (1, 1),
        }
        place = 0 if which == "represented" else 1
        return np.array([facts[names[label]][place] for label in labels])

    def flickr(self, seed):
        """Runs on unlabelled pairs of Flickr8k's training photos, without those that SNLI-VE tests on."""
        pairs = self.runs / "flickr8k.jsonl"
        if not pairs.exists():
            tests = self.data / "snli-ve-flickr8k/test.jsonl"
            unseen = {json.loads(line)["image"] for line in tests.read_text().splitlines()}
            photos = (self.data / "flickr8k/images").resolve()
            flickr = json.loads((self.data / "flickr8k/dataset_flickr8k.json").read_text())
            images = [image for image in flickr["images"] if image["split"] == "train"]
            images = [image for image in images if image["filename"] not in unseen][:FLICKR_PAIRS]
            rows = [
                {"image": str(photos / image["filename"]), "text": image["sentences"][0]["raw"], "split": "train"}
                for image in images
            ]
            pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
        text = sized("itr-towers-tiny", FLICKR_PAIRS // BATCH, CHUNK)
        words = ["--data", pairs, *self.towers]
        yield from self.variants("flickr", text, seed, *words)
        heavy = text.replace("[objectives.cluster]\n", f"[objectives.cluster]\nweight = {HEAVY}\n")
        yield "1+4, cluster loss at 1.0", self.run("flickr-heavy", heavy, seed, *words, "--tasks", "1+4")

    def snli(self):
        """Linear probes on SNLI-VE: the first file is for training, photos of the second are not seen."""
        data, *photos = self.statements()
        results = {}
        for seed in self.seeds:
            for tasks, run in self.flickr(seed):
                if tasks == BEFORE and seed > 0:
                    # These weights are read, not drawn.
                    results[BEFORE].append(results[BEFORE][0])
                    continue
                found = self.vectors(run, "snli", data, "--pairs", *photos)
                names = sorted(set(found.labels))
                classes = np.array([names.index(label) for label in found.labels])
                results.setdefault(tasks, []).append(self.probe(found, classes, "val", "test"))
        return self.table(results, {"relation (3 classes)": lambda labels: labels})

    def statements(self):
        """The words that name SNLI-VE's statements."""
        return [self.data / "snli-ve-flickr8k/{dev,test}.jsonl", "--image-root", self.data / "flickr8k/images"]

    def calibration(self):
        """What calibration is worth, and whether thresholds keep their promise."""
        rows = []
        for seed in self.seeds:
            words = ["--data", "builtin:synthitr,unlabelled=8000", "--tasks", "4"]
            run = self.run("synth-4", sized("itr-tiny", 250, 4000), seed, *words)
            rows.append(("built-in posts", seed, run, ["--data", "builtin:synthitr,unlabelled=0"]))
        for seed in self.seeds:
            run = dict(self.flickr(seed))["4"]
            rows.append(("SNLI-VE", seed, run, ["--train-splits", "val", "--data", *self.statements()]))
        lines = []
        for name, seed, run, words in rows:
            report = self.once(f"calibration-{run.name}", "probe", run, "--precision", WANTED, *words)
            after, before = (
                next(own for own in report["protocols"] if own["protocol"]["name"] == kind)
                for kind in ["linear", "uncalibrated"]
            )
            error = [f"{100 * own['calibration_error']:.1f}" for own in (before, after)]
            kept = after["answered"]
            fitted, chosen = report["fitted_on"]
            lines.append([
                f"{name}, seed {seed}", f"{fitted:,} / {chosen:,} / {report['pairs']:,}", *error,
                f"{100 * after['classes']['accuracy']:.1f}", f"{100 * kept['coverage']:.1f}",
                interval(kept["precision"]),
            ])
        heads = ["", "fitted, chosen, scored", "error before, points", "after", "accuracy, %", "answered, %"]
        heads.append("right of these, %")
        return [*study.table(heads, lines), ""]

    def fine(self, seed):
        """A run that sees more of each photo, for longer: what maps of places need."""
        text = re.sub(r"image_size = 84", f"image_size = {FINE_SIDE}", sized("itr-towers-tiny", FINE_STEPS, CHUNK))
        captions = self.data / "flickr8k/dataset_flickr8k.json"
        return self.run("fine-4", text, seed, "--data", captions, *self.towers, "--tasks", "4")

    def pointing(self):
        """Where Grad-CAM of the cosine points for phrases with boxes."""
        phrases = self.data / "flickr8k/phrases.jsonl"
        coarse = f"84 px, {FLICKR_PAIRS // BATCH} steps"
        settings = {
            coarse: ("pointing", lambda seed: dict(self.flickr(seed))["4"]),
            f"{FINE_SIDE} px, {FINE_STEPS} steps": ("pointing-fine", self.fine),
        }
        share = lambda own, key: 100 * own[key]["mean"]
        rows, first = [], None
        for setting, (name, trained) in settings.items():
            reports = []
            for seed in self.seeds:
                words = ["--score", "--no-curves", "--method", "grad-cam", "--limit", EXPLAINED]
                kept = ["--predictions", self.runs / f"{name}-{seed}.jsonl"]
                reports.append(self.once(f"{name}-{seed}", "explain", trained(seed), "--data", phrases, *words, *kept))
            reports = [report for report in reports if report]
            first = first or (reports[0] if reports else None)
            for methods in zip(*(report["methods"] for report in reports)):
                keys = ["pointing", "pointing_small"]
                cells = [spread([share(own, key) for own in methods]) for key in keys]
                cells.append(spread([100 * own["inside"] for own in methods]))
                rows.append((f"{setting}: {methods[0]['method']}", *cells))
        if not first:
            return ["Nothing was run yet.", ""]
        own = first["methods"][0]
        small = own["pointing_small"]["samples"]
        return [
            f"{own['phrases']:,} phrases on {first['pictures']} test photos, {small:,} of them small.",
            "",
            *study.table(["", "pointing, %", "of small, %", "inside, %"], rows),
            "",
        ]

    def probe(self, found, classes, fitted, scored):
        """Labels of the scored pairs, and what is predicted from vectors of pairs and of texts alone."""
        vectors = found.tensors["pair_vectors"]
        of = lambda split: np.flatnonzero(found.splits == split)
        fitted, scored = of(fitted), of(scored)
        predicted = {}
        # The text's part comes first and is half of a vector here.
        for name, columns in [("both", vectors.shape[1]), ("text", vectors.shape[1] // 2)]:
            probe = LogisticRegression(C=C, max_iter=1000)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                probe.fit(vectors[fitted, :columns], classes[fitted])
            predicted[name] = probe.predict(vectors[scored, :columns])
        majority = np.bincount(classes[fitted]).argmax()
        predicted["majority"] = np.full(len(scored), majority)
        return classes[scored], predicted

    def table(self, results, questions):
        lines = []
        for question, of in questions.items():
            score = lambda labels, predicted: 100 * f1_score(of(labels), of(predicted), average="weighted")
            first_labels, first = results[BEFORE][0]
            lines += [
                f"**{question}**; majority {score(first_labels, first['majority']):.1f}",
                "",
                "| | probe on both | gain | probe on the text alone |",
                "| --- | ---: | ---: | ---: |",
            ]
            for tasks, runs in results.items():
                both = [score(labels, predicted["both"]) for labels, predicted in runs]
                text = [score(labels, predicted["text"]) for labels, predicted in runs]
                gain = "" if tasks == BEFORE else self.gain(results[BEFORE], runs, score)
                label = "before pre-training" if tasks == BEFORE else f"task {tasks}"
                lines.append(f"| {label} | {spread(both)} | {gain} | {spread(text)} |")
            lines.append("")
        return lines

    @staticmethod
    def gain(before, after, score):
        """Mean gain over the seeds with its 95 % interval: scored pairs drawn anew, the same for all seeds."""
        rng = np.random.default_rng(0)
        count = len(before[0][0])

        def gain(rows):
            gains = []
            for (labels, old), (_, new) in zip(before, after):
                own = [values[rows] for values in (labels, old["both"], new["both"])]
                gains.append(score(own[0], own[2]) - score(own[0], own[1]))
            return statistics.mean(gains)

        draws = [gain(rng.integers(0, count, count)) for _ in range(DRAWS // 5)]
        low, high = np.percentile(draws, [2.5, 97.5])
        return f"{gain(np.arange(count)):+.1f} ({low:+.1f} to {high:+.1f})"

    def judgements(self):
        """Rank correlation of the cosine of text and picture with what people say of captions."""
        people = {name: self.ratings(name) for name in ["ExpertAnnotations", "CrowdFlowerAnnotations"]}
        data = self.data / "flickr8k/dataset_flickr8k.json"
        rows, counts = {}, {}
        for seed in self.seeds:
            for tasks, run in self.flickr(seed):
                if tasks not in (BEFORE, "4", "1+4"):
                    continue
                found = self.vectors(run, "captions", data, "--split", "test")
                texts = {}
                for row, image in enumerate(found.tensors["image_of_text"]):
                    texts.setdefault(found.ids[image], []).append(row)
                images = {name: row for row, name in enumerate(found.ids)}
                for name, ratings in people.items():
                    known = [
                        (images[photo], texts[other][number], rating)
                        for photo, other, number, rating in ratings
                        if photo in images and len(texts.get(other, [])) == 5
                    ]
                    photo, text, rating = map(np.array, zip(*known))
                    embeds = found.tensors["image_embeds"][photo] * found.tensors["text_embeds"][text]
                    cosine, counts[name] = embeds.sum(1), len(known)
                    both = kendalltau(cosine, rating).statistic, spearmanr(cosine, rating).statistic
                    rows.setdefault(tasks, {}).setdefault(name, []).append(both)
        counts = [f"{counts[name]:,}" for name in people]
        lines = [
            f"| | {counts[0]} marks of experts: tau-b | rho | {counts[1]} shares of the crowd: tau-b | rho |",
            "| --- | ---: | ---: | ---: | ---: |",
        ]
        for tasks, found in rows.items():
            label = "before (projections as drawn)" if tasks == BEFORE else f"task {tasks}"
            cells = [
                spread([100 * values[place] for values in found[name]]) for name in people for place in [0, 1]
            ]
            lines.append(f"| {label} | " + " | ".join(cells) + " |")
        return [*lines, ""]

    def ratings(self, name):
        """Photo, photo of the caption, number of the caption, mean of what people said."""
        rows = []
        for line in (self.data / f"flickr8k/{name}.txt").read_text().splitlines():
            photo, caption, *figures = line.split("\t")
            other, number = caption.split("#")
            figures = [float(figure) for figure in figures]
            rating = figures[0] if name.startswith("Crowd") else statistics.mean(figures)
            rows.append((photo, other, int(number), rating))
        return rows


def main():
    names = ["synthitr", "snli", "judgements", "calibration", "pointing"]
    arguments = study.arguments(__doc__, "runs/itr-study", names).parse_args()
    runs = Study(arguments)
    for name in names:
        if arguments.part in (name, "all"):
            study.publish({name: getattr(runs, name)()}, arguments.write)


if __name__ == "__main__":
    main()
