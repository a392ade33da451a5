"""Regenerates docs/results/scl.md: what completion adds, and what each task reaches, at a size for two cores.

    python3 benches/scl/study.py --data ../shared/data --text MINILM --vision DINOV2S --write docs/results/scl.md

MINILM is a folder with all-MiniLM-L6-v2, DINOV2S a file with DINOv2-S/14 with registers. Runs lie in
--runs and are not repeated where they are complete, so the command can be stopped and started again. Only
the standard library is used.
"""

import json
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import study
from study import interval, recipe, spread

STEPS = 120

# Steps before statements about photos are learned.
PRETRAINING = 1500

# Steps before phrases are explained, test photos whose phrases are, and those of them that hide and show what
# is strong, which takes forty passes a text and method.
EXPLAINING, EXPLAINED, CURVES = 600, 40, 8
METHODS = "attention,rollout,relevance,grad-cam"


class Study(study.Study):
    def __init__(self, arguments):
        super().__init__(arguments)
        self.towers = ["--weights-text", arguments.text, "--weights-vision", arguments.vision]

    def pairs(self):
        flickr = self.data / "flickr8k/dataset_flickr8k.json"
        coco = self.data / "coco-captions-wds/*.tar"
        return ["--data", flickr, "--mix", f"{coco}=0.5", *self.towers]

    # What completion adds.

    VARIANTS = {
        "baseline": ("MLM + ITM + ITC", "scl-tiny", ["objectives.global_completion"]),
        "global": ("+ global completion (SCL)", "scl-tiny", []),
        "local": ("+ local completion (GLSCL)", "glscl-tiny", []),
    }

    def variant(self, name, steps, seed, suffix=""):
        _, base, drop = self.VARIANTS[name]
        text = recipe(base, drop=drop)
        return self.train(f"pre-{name}{suffix}", text, seed, *self.pairs(), "--steps", steps)

    def seconds_a_step(self, name):
        """Median time of a step of the variant's quickest run: what else ran on the machine only adds."""
        medians = []
        for seed in self.seeds:
            file = self.folder(f"pre-{name}", seed) / "metrics.jsonl"
            lines = [json.loads(line) for line in file.read_text().splitlines()]
            rates = [line["values"]["samples_per_second"] for line in lines if line["kind"] == "train"]
            medians.append(statistics.median(32 / rate for rate in rates[2:]))
        return min(medians)

    def completion(self):
        rows = []
        results = {name: [] for name in self.VARIANTS}
        for seed in self.seeds:
            for name in self.VARIANTS:
                results[name].append(self.variant(name, STEPS, seed))
        seconds = {name: self.seconds_a_step(name) for name in self.VARIANTS}
        for name, (label, _, _) in self.VARIANTS.items():
            rows.append((label, STEPS, seconds[name], results[name], name))
        for name in ["baseline", "global"]:
            steps = round(STEPS * seconds["local"] / seconds[name])
            label = self.VARIANTS[name][0] + ", as long as GLSCL takes"
            longer = [self.variant(name, steps, seed, "-long") for seed in self.seeds]
            rows.append((label, steps, seconds[name], longer, f"{name}-long"))
        lines = []
        for stage, what in [("dual", "dual encoder"), ("reranked", "top 8 re-ranked")]:
            lines += [
                f"Test split of Flickr8k, 1,000 photos and 5,000 captions, {what}; % (mean, spread of seeds)",
                "",
                "| trained on | steps | s a step | t2i R@1 | R@5 | R@10 | i2t R@1 | R@5 | R@10 |",
                "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
            ]
            for label, steps, time, reports, _ in rows:
                cells = [
                    spread([100 * report[stage][direction][f"recall_at_{k}"] for report in reports])
                    for direction in ["text_to_image", "image_to_text"]
                    for k in [1, 5, 10]
                ]
                lines.append(f"| {label} | {steps} | {time:.2f} | " + " | ".join(cells) + " |")
            lines.append("")
        lines += self.alignment([row[4] for row in rows[:3]])
        return lines

    def alignment(self, names):
        lines = [
            "Attention on what words name: `chiasm align` on 300 test photos of `phrases.jsonl`, share of"
            " attention inside the boxes in %, in brackets times that of uniform attention.",
            "",
            "| trained on | whole text | phrases |",
            "| --- | ---: | ---: |",
        ]
        for name in names:
            figures = {"global": [], "local": []}
            ratios = {"global": [], "local": []}
            for seed in self.seeds:
                words = ["--data", self.data / "flickr8k/phrases.jsonl", "--limit", 300]
                report = self.once(f"align-{name}-{seed}", "align", self.folder(f"pre-{name}", seed), *words)
                for key in figures:
                    figures[key].append(100 * report[key]["boxes"]["score"])
                    ratios[key].append(report[key]["boxes"]["score"] / report[key]["boxes"]["uniform"])
            cells = [f"{spread(figures[key])} ({statistics.mean(ratios[key]):.2f})" for key in figures]
            lines.append(f"| {self.VARIANTS[name][0]} | " + " | ".join(cells) + " |")
        return [*lines, ""]

    # Tasks.

    def classes(self, name, base, data, start, *words):
        """With pictures and without, from the same weights; the majority of training for both."""
        cells = []
        for suffix, blind in [("", []), ("-blind", ["--blind"])]:
            own = ["--data", data, *start, *words, *blind]
            reports = [self.train(f"{name}{suffix}", recipe(base), seed, *own) for seed in self.seeds]
            cells.append(spread([100 * report["accuracy"]["mean"] for report in reports]))
        majority = 100 * reports[0]["majority"]["accuracy"]
        return f"{cells[0]} | {cells[1]} | {majority:.1f}"

    def pretrained(self):
        """Weights for statements about photos: MLM + ITM + ITC on pairs of other photos than SNLI-VE tests on."""
        tests = (self.data / "snli-ve-flickr8k/test.jsonl").read_text().splitlines()
        left_out = {json.loads(line)["image"] for line in tests}
        flickr = json.loads((self.data / "flickr8k/dataset_flickr8k.json").read_text())
        strangers = [own for own in flickr["images"] if own["split"] == "test" or own["filename"] not in left_out]
        pairs = self.runs / "snli-pre-pairs.json"
        pairs.write_text(json.dumps({**flickr, "images": strangers}))
        coco = self.data / "coco-captions-wds/*.tar"
        photos = ["--image-root", self.data / "flickr8k/images", "--mix", f"{coco}=0.5"]
        # Whole photos: their tower's output is computed once, not once an epoch.
        text = recipe("scl-tiny", drop=["augment", "objectives.global_completion"])
        self.train("snli-pre", text, 0, "--data", pairs, *photos, *self.towers, "--steps", PRETRAINING)
        return self.folder("snli-pre", 0)

    def tasks(self):
        daquar = self.data / "daquar/{train,test}.jsonl"
        nlvr = self.data / "nlvr/{dev,test}.jsonl"
        snli = self.data / "snli-ve-flickr8k/{dev,test}.jsonl"
        own = ["--train-splits", "val"]
        about_photos = [*own, "--image-root", self.data / "flickr8k/images"]
        pretrained = ["--weights", self.pretrained()]
        rows = [
            ("DAQUAR, test answers", self.classes("daquar", "vqa-tiny", daquar, self.towers)),
            (
                f"SNLI-VE on Flickr8k, test (trained on dev, after {PRETRAINING} steps on pairs)",
                self.classes("snli", "snli-ve-tiny", snli, pretrained, *about_photos),
            ),
        ]
        clips = self.video()
        rows.append(
            ("NLVR, test statements (trained on dev)", self.classes("nlvr", "nlvr-tiny", nlvr, self.towers, *own))
        )
        lines = [
            "Accuracy in % (mean, spread of seeds); majority: always the most frequent class of training.",
            "",
            "| task | with pictures | texts alone | majority |",
            "| --- | ---: | ---: | ---: |",
        ]
        lines += [f"| {name} | {cells} |" for name, cells in rows]
        return [*lines, "", *clips]

    # What explanations point at.

    def explanations(self):
        # Whole photos: their tower's output is computed once, not once an epoch.
        text = recipe("scl-tiny", drop=["augment", "objectives.global_completion"])
        self.train("explained", text, 0, *self.pairs(), "--steps", EXPLAINING)
        words = ["explain", self.folder("explained", 0), "--data", self.data / "flickr8k/phrases.jsonl", "--score"]
        words += ["--method", METHODS]
        choose = ["--auto-layer", "--auto-limit", EXPLAINED]
        kept = lambda name: ["--predictions", self.runs / f"{name}.jsonl"]
        report = self.once("explain", *words, *choose, "--no-curves", "--limit", EXPLAINED, *kept("explain"))
        curves = self.once("explain-curves", *words, "--limit", CURVES, *kept("explain-curves"))
        curves = {own["method"]: own for own in curves["methods"]}
        columns = {
            "pointing": lambda own: interval(own["pointing"]),
            "of small": lambda own: interval(own["pointing_small"]),
            "IoU": lambda own: percent(own["iou"]),
            "inside": lambda own: percent(own["inside"]),
            "deletion": lambda own: number(curves[own["method"]]["deletion"]),
            "insertion": lambda own: number(curves[own["method"]]["insertion"]),
            "random weights": lambda own: number(own["sanity"]),
        }
        choice = report["choice"]
        phrases = max(own["phrases"] for own in report["methods"])
        rows = [[own["method"], *(of(own) for of in columns.values())] for own in report["methods"]]
        return [
            f"{phrases:,} phrases on {report['pictures']:,} test photos, deletion and insertion on {CURVES} of them;"
            f" attention of layer {choice['layer']}, heads `{choice['heads']}`, chosen on validation photos."
            f" Explained: `{report['target']}`.",
            "",
            *study.table(["method", *columns], rows),
            "",
        ]

    def video(self):
        clips = self.data / "msrvtt-frames/{train-00000,train-00001,test-00000}.tar"
        flickr = self.data / "flickr8k/dataset_flickr8k.json"
        words = ["--data", clips, "--mix", flickr, *self.towers]
        reports = [self.train("video", recipe("scl-video-tiny"), seed, *words) for seed in self.seeds]
        lines = [
            "MSR-VTT test clips, 476, after pre-training on its training clips and on Flickr8k's photos; %"
            " (mean, spread of seeds)",
            "",
            "| | t2v R@1 | R@5 | R@10 | v2t R@1 | R@5 | R@10 |",
            "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        ]
        for label, stage in [("chance", None), ("dual encoder", "dual"), ("top 16 re-ranked", "reranked")]:
            cells = []
            for direction in ["text_to_image", "image_to_text"]:
                for k in [1, 5, 10]:
                    name = f"recall_at_{k}"
                    of = lambda report: report[stage][direction] if stage else report["dual"][direction]["chance"]
                    cells.append(spread([100 * of(report)[name] for report in reports]))
            lines.append(f"| {label} | " + " | ".join(cells) + " |")
        return [*lines, ""]


def percent(value):
    return "" if value is None else f"{100 * value:.1f}"


def number(value):
    return "" if value is None else f"{value:.3f}"


def main():
    arguments = study.arguments(__doc__, "runs/scl-study", ["completion", "tasks", "explanations"]).parse_args()
    runs = Study(arguments)
    parts = {}
    if arguments.part in ("tasks", "all"):
        parts["tasks"] = runs.tasks()
    if arguments.part in ("completion", "all"):
        parts["completion"] = runs.completion()
    if arguments.part in ("explanations", "all"):
        parts["explanations"] = runs.explanations()
    study.publish(parts, arguments.write)


if __name__ == "__main__":
    main()
