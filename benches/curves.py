"""How cost grows with batch, text length, resolution, photos and index size: measured, plotted, and as a table.

    benches/.venv/bin/pip install torch numpy safetensors matplotlib
    benches/.venv/bin/python benches/curves.py --write docs/performance.md

Training steps are those of `workloads/contrastive_step.toml` and evaluations those of
`workloads/retrieval_evaluation.toml` with one number changed, beside PyTorch as in compare.py: same rules, same
checks. The index is that of `index/compare.py`, asked one query at a time on one thread, exactly and through its
graph. `--write` puts the table between the marks of the page and the plot beside it, in `images/curves.svg`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import statistics
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bars
import compare
from compare import HERE, ROOT, Server, check, note, quiet_turn
from study import table

START, END = "<!-- curves:start -->", "<!-- curves:end -->"
# Queries, of which the median counts; bases of the index differ in size alone.
QUERIES, BREADTH = 200, 64


@dataclass(frozen=True)
class Curve:
    """A workload with one number changed."""

    title: str
    axis: str
    workload: str
    values: tuple[int, ...]
    # Keys of the recipe or of the workload that get the number.
    keys: tuple[str, ...]


CURVES = [
    Curve("training step", "pairs of a batch", "contrastive_step", (4, 8, 16, 32, 64), ("batch_size",)),
    Curve("training step", "tokens of a text", "contrastive_step", (8, 16, 32, 64, 128), ("max_text_len", "text_len")),
    Curve("training step", "pixels of a side", "contrastive_step", (64, 96, 128, 192, 256), ("image_size",)),
    Curve("evaluation in two stages", "photos, 5 texts each", "retrieval_evaluation", (125, 250, 500, 1000), ("count",)),
]
ROWS = (5_000, 20_000, 80_000, 320_000)


def changed(text: str, keys: tuple[str, ...], value: int) -> str:
    """A recipe or workload with the number in place of what stands there; a pair gets it twice."""
    for key in keys:
        text = re.sub(rf"(?m)^{key} = \d+$", f"{key} = {value}", text)
        text = re.sub(rf"(?m)^{key} = \[.*\]$", f"{key} = [{value}, {value}]", text)
    return text


def variant(curve: Curve, value: int, folder: Path) -> Path:
    """The workload with its number changed, as files of a folder."""
    workload = (HERE / "workloads" / f"{curve.workload}.toml").read_text()
    recipe = re.search(r'(?m)^recipe = "(.*)"$', workload)[1]
    (folder / "recipe.toml").write_text(changed((ROOT / recipe).read_text(), curve.keys, value))
    workload = changed(workload, curve.keys, value).replace(recipe, str(folder / "recipe.toml"))
    (folder / "workload.toml").write_text(workload)
    return folder / "workload.toml"


def point(program: Path, curve: Curve, value: int, args: argparse.Namespace) -> dict[str, float]:
    """Milliseconds of chiasm and of PyTorch at one value."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        common = ["--workload", str(variant(curve, value, folder)), "--threads", str(args.threads)]
        common += ["--data", str(args.data)]
        subprocess.run([program, "export", "--out", folder, *common], cwd=ROOT, check=True)
        fused = ["--fused-optimizer"] if curve.workload.endswith("_step") else []
        servers = [
            Server(bars.OURS, [str(program), "serve", *common]),
            Server("PyTorch", compare.twin(name, args.threads, *fused)),
        ]
        first = [quiet_turn(server, args.patience)[0] for server in servers]
        check(first[0], first[1], "PyTorch")
        turns: list[list[float]] = [[], []]
        for number in range(args.rounds):
            for index in (number % 2, (number + 1) % 2):
                turns[index].append(quiet_turn(servers[index], args.patience)[0].seconds)
        for server in servers:
            server.close()
    ours, theirs = (statistics.median(seconds) * 1e3 for seconds in turns)
    note(f"{curve.title}, {value} {curve.axis}: {ours:.0f} ms, PyTorch {theirs:.0f} ms")
    return {"chiasm": ours, "PyTorch": theirs}


def index_sizes(args: argparse.Namespace) -> dict[int, dict[str, float]]:
    """Milliseconds of a query at each number of rows."""
    import numpy as np

    spec = importlib.util.spec_from_file_location("index_compare", HERE / "index/compare.py")
    index = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(index)
    program = args.index_bench
    if program is None:
        command = ["cargo", "build", "--release", "-p", "chiasm-index", "--example", "index-bench"]
        subprocess.run(command, cwd=ROOT, check=True)
        program = index.EXAMPLE
    centres = np.random.default_rng(0).normal(size=(index.CENTRES, index.WIDTH)).astype(np.float32)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    one = {**os.environ, "RAYON_NUM_THREADS": "1"}

    def run(*words: Any) -> dict[str, Any]:
        threads = os.environ if words[0] == "build" else one
        done = subprocess.run([program, *map(str, words)], stdout=subprocess.PIPE, check=True, env=threads)
        return json.loads(done.stdout)

    found = {}
    for rows in args.rows:
        with tempfile.TemporaryDirectory() as name:
            base, queries, answers, built = (Path(name) / part for part in ("base", "queries", "found", "index"))
            index.vectors(np, rows, centres, 1).tofile(base)
            index.vectors(np, QUERIES, centres, 2).tofile(queries)
            run("build", base, index.WIDTH, built)
            compare.wait_for_quiet(time.monotonic() + args.patience)
            ask = lambda how: statistics.median(run("query", queries, built, how, answers)["times_s"]) * 1e3
            found[rows] = {"all rows": ask("exact"), f"graph, breadth {BREADTH}": ask(BREADTH)}
        note(f"index of {rows} rows: " + ", ".join(f"{who} {ms:.3f} ms" for who, ms in found[rows].items()))
    return found


def plot(panels: list[tuple[str, str, dict[int, dict[str, float]]]], file: Path) -> None:
    """A panel for each curve, both axes logarithmic: a straight line is a power."""
    import matplotlib

    matplotlib.use("svg")
    # The same figures give the same file.
    matplotlib.rcParams.update({"svg.hashsalt": "curves", "svg.fonttype": "none", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    from matplotlib import pyplot
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    figure, axes = pyplot.subplots(1, len(panels), figsize=(3 * len(panels), 2.8), layout="constrained")
    for axis, (title, label, points) in zip(axes, panels, strict=True):
        for who, marker in zip(next(iter(points.values())), "os"):
            axis.loglog(list(points), [point[who] for point in points.values()], marker=marker, markersize=4, label=who)
        axis.set(title=title, xlabel=label)
        axis.set_xticks(list(points), [f"{value:,}" for value in points])
        axis.xaxis.set_minor_locator(NullLocator())
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_minor_locator(NullLocator())
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        axis.grid(alpha=0.3)
        axis.legend(frameon=False)
    axes[0].set_ylabel("ms")
    figure.savefig(file, metadata={"Date": None})


def milliseconds(value: float) -> str:
    """Three digits, and all whole ones."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2, help="of each implementation (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each implementation (default: %(default)s)")
    parser.add_argument("--patience", type=float, default=120, help="seconds to wait for quiet (default: %(default)s)")
    parser.add_argument("--data", type=Path, default=compare.DATA, help="folder of data sets (default: %(default)s)")
    parser.add_argument("--rows", type=int, nargs="*", default=ROWS, help="sizes of the index (default: %(default)s)")
    parser.add_argument("--points", type=int, help="the first so many values of each curve alone, for a quick look")
    parser.add_argument("--program", type=Path, help="a built chiasm-bench, instead of building it")
    parser.add_argument("--index-bench", type=Path, help="the built example index-bench, instead of building it")
    parser.add_argument("--plot", type=Path, default=Path("curves.svg"), help="without --write (default: %(default)s)")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put table and plot into this Markdown page")
    args = parser.parse_args()
    program = args.program.resolve() if args.program else compare.build()
    panels = [
        (curve.title, curve.axis, {value: point(program, curve, value, args) for value in curve.values[: args.points]})
        for curve in CURVES
    ]
    if args.rows:
        panels.append(("a query to the index", "rows", index_sizes(args)))
    image = args.write.parent / "images/curves.svg" if args.write else args.plot
    plot(panels, image)
    rows = [
        (f"{title}: {label}", f"{value:,}", ", ".join(f"{who} {milliseconds(ms)}" for who, ms in found.items()))
        for title, label, points in panels
        for value, found in points.items()
    ]
    head = f"Machine: {compare.machine()}. Measured on {time.strftime('%Y-%m-%d')}, revision `{compare.revision()}`, "
    head += f"{args.threads} threads, medians of {args.rounds} turns; a query on one thread, median of {QUERIES}."
    lines = [head, "", "![Cost by size](images/curves.svg)", "", *table(["what", "size", "ms"], rows), ""]
    fragment = "\n".join(lines)
    print(fragment)
    if args.write:
        compare.write_page(args.write, fragment, (START, END))


if __name__ == "__main__":
    main()
