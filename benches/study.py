"""What the studies of docs/results share: runs that are not repeated, spreads of seeds, pages with parts between marks.

A study is a folder of runs. What a command printed lies beside them as JSON and is read back where it was done
before, so a study can be stopped and started again. Only the standard library is used.
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CHIASM = Path(os.environ.get("CHIASM_BIN", ROOT / "target/release/chiasm"))


def recipe(name, drop=()):
    """The text of a recipe without some of its tables."""
    text = (ROOT / "recipes" / f"{name}.toml").read_text()
    for table in drop:
        text = re.sub(rf"\n\[{re.escape(table)}\]\n(?:[^\[\n][^\n]*\n)*", "\n", text)
    return text


def arguments(description, runs, parts):
    """The command line of a study; `parts` are the names between marks of its page."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--text", required=True)
    parser.add_argument("--vision", required=True)
    parser.add_argument("--runs", default=runs)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--part", choices=[*parts, "all"], default="all")
    parser.add_argument("--write", help="file whose parts between marks are replaced")
    parser.add_argument("--done", action="store_true", help="run nothing: report what is there")
    return parser


class Study:
    """A folder of runs and the seeds that each is repeated with."""

    def __init__(self, arguments):
        self.data, self.runs = Path(arguments.data), Path(arguments.runs)
        self.seeds, self.only_done = range(arguments.seeds), arguments.done
        self.runs.mkdir(parents=True, exist_ok=True)

    def chiasm(self, *words):
        command = [str(CHIASM), *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"{' '.join(command)}\n{done.stderr[-3000:]}")
        return done.stdout

    def once(self, name, *words):
        """What a command prints as JSON, from the file NAME.json where it was done before.

        With --done, None where it was not.
        """
        kept = self.runs / f"{name}.json"
        if not kept.exists():
            if self.only_done:
                return None
            started = time.monotonic()
            printed = self.chiasm(*words, "--json")
            kept.write_text(printed.strip() or "null")
            print(f"{name}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
        return json.loads(kept.read_text())

    def train(self, name, text, seed, *words):
        """One run of a recipe with a seed; what its evaluation prints."""
        file = self.runs / f"{name}.toml"
        file.write_text(text)
        out = self.folder(name, seed)
        checkpoints = out / "checkpoints"
        resume = ["--resume"] if checkpoints.is_dir() and any(checkpoints.iterdir()) else []
        if out.exists() and not resume and not self.only_done and not (self.runs / f"{name}-{seed}.json").exists():
            # Stopped before its first checkpoint: there is nothing to go on from.
            shutil.rmtree(out)
        return self.once(f"{name}-{seed}", "pretrain", file, *words, "--seed", seed, "--out", out, *resume)

    def folder(self, name, seed):
        """Folder of a run."""
        return self.runs / f"{name}-{seed}"


def spread(values, digits=1):
    """Mean, and smallest to largest, of the seeds that there are."""
    values = [value for value in values if value is not None]
    if not values:
        return ""
    mean = statistics.mean(values)
    if max(values) - min(values) < 0.5 * 10**-digits:
        return f"{mean:.{digits}f}"
    return f"{mean:.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def interval(estimate):
    """A share with its 95 % interval, in %; nothing of nothing."""
    if estimate is None:
        return ""
    mean, low, high = (f"{100 * estimate[key]:.1f}" for key in ("mean", "low", "high"))
    return f"{mean} ({low} to {high})"


def table(heads, rows):
    """Lines of a Markdown table: the first column is text, the others are figures."""
    lines = ["| " + " | ".join(heads) + " |", "| --- |" + " ---: |" * (len(heads) - 1)]
    return lines + ["| " + " | ".join(map(str, row)) + " |" for row in rows]


def publish(parts, page):
    """Puts each part between its marks of the page, or prints it where there is no page."""
    for name, lines in parts.items():
        text = "\n".join(lines).rstrip() + "\n"
        if not page:
            print(text)
            continue
        file = Path(page)
        marks = [f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"]
        before, rest = file.read_text().split(marks[0])
        _, after = rest.split(marks[1])
        file.write_text(before + marks[0] + "\n" + text + "\n" + marks[1] + after)
