"""Measures chiasm's matrix products beside other implementations, in one run.

One implementation a process. The processes run one after another, in an order that turns every
round; a run that other programs disturbed is repeated. See benches/README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import compare as steps  # noqa: E402 - the benchmark of training steps, in the folder above

START, END = "<!-- gemm:start -->", "<!-- gemm:end -->"
# Our own, the peak of a core, and crates. Labels are headings of columns.
BUILT_IN = {
    "chiasm-prepacked": "chiasm, weights packed before",
    "chiasm-packing": "chiasm, packing timed",
    "chiasm": "chiasm, not packed",
    "peak": "peak",
    "gemm": "gemm",
    "matrixmultiply": "matrixmultiply",
}
CRATES = ("gemm", "matrixmultiply")
LIBRARIES = {"openblas": "OpenBLAS", "onednn": "oneDNN", "mkl": "MKL"}
# Looked for by the loader; the versions of a library that are there are all measured.
DEFAULTS = [
    "openblas=libopenblas.so.0",
    "onednn=libdnnl.so.2",
    "onednn=libdnnl.so.3",
    "mkl=libmkl_rt.so.2",
    "mkl=libmkl_rt.so.3",
]
ORDER = ("NN", "NT", "TN", "head")
FORMS = (
    "N and T: operands as stored and transposed, `m x k x n`. NN: forward, NT: gradient of the input, TN: "
    "gradient of the weights. Weights can be packed once for many products, which only chiasm offers here. "
    "chiasm computes a head on one thread, because a layer has many."
)


@dataclass
class Implementation:
    """A way to compute products, as one column."""

    name: str
    label: str
    version: str
    library: str | None = None

    def command(self, program: Path, argument: str) -> list[str]:
        return [str(program), self.name, argument, *([self.library] if self.library else [])]

    def environment(self, threads: int) -> dict[str, str]:
        """Threads for those that take them from here, and where a library finds its parts."""
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MATMUL_NUM_THREADS")
        changes = dict.fromkeys(names, str(threads))
        if self.library and "/" in self.library:
            folders = [str(Path(self.library).parent), os.environ.get("LD_LIBRARY_PATH", "")]
            changes["LD_LIBRARY_PATH"] = ":".join(filter(None, folders))
        return os.environ | changes


def build() -> Path:
    """Compiles the program and returns it."""
    command = ["cargo", "build", "--release", "--message-format=json-render-diagnostics"]
    output = subprocess.run(command, cwd=HERE, stdout=subprocess.PIPE, text=True, check=True).stdout
    for line in output.splitlines():
        if executable := json.loads(line).get("executable"):
            return Path(executable)
    raise SystemExit("error: cargo did not name the program it built")


def implementations(program: Path, libraries: list[str], only: list[str] | None) -> list[Implementation]:
    """Those that work on this machine; a note tells of the others."""
    lock = tomllib.loads((HERE / "Cargo.lock").read_text())["package"]
    crates = {package["name"]: package["version"] for package in lock}
    candidates = [Implementation(name, label, crates.get(name, "")) for name, label in BUILT_IN.items()]
    for library in libraries:
        name, _, file = library.partition("=")
        if name not in LIBRARIES or not file:
            raise SystemExit(f"error: `--library {library}` is not NAME=FILE\n\nhint: NAME is one of {', '.join(LIBRARIES)}")
        # By its name the loader finds it, by a path the program does, from any folder.
        file = str(Path(file).absolute()) if "/" in file else file
        candidates.append(Implementation(name, LIBRARIES[name], "", file))
    found = []
    for candidate in candidates:
        if only and candidate.name not in only:
            continue
        about = subprocess.run(
            candidate.command(program, "version"), env=candidate.environment(1), capture_output=True, text=True, check=False
        )
        if about.returncode:
            steps.note(f"left out: {candidate.library or candidate.name}: {about.stderr.strip().removeprefix('error: ')}")
            continue
        if candidate.library:
            candidate.version = about.stdout.strip()
            if candidate.name == "onednn":
                candidate.label = candidate.version  # There may be two.
            if any(other.label == candidate.label for other in found):
                continue  # Named by an option and also where the loader looks.
        found.append(candidate)
    if not found:
        raise SystemExit("error: nothing is left to measure")
    return found


def children_seconds() -> float:
    """CPU seconds of all processes that were started and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run(program: Path, implementation: Implementation, threads: int) -> tuple[dict[str, float], float]:
    """One process: GFLOP/s of every product, and the share of the machine that others used meanwhile."""
    # TBB, which oneDNN may use, starts as many threads as it is allowed cores.
    cores = sorted(os.sched_getaffinity(0))[-threads:]
    began, foreign = time.perf_counter(), children_seconds() - steps.busy_seconds()
    process = subprocess.run(
        implementation.command(program, str(threads)),
        env=implementation.environment(threads),
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
        capture_output=True,
        text=True,
        check=False,
    )
    foreign += steps.busy_seconds() - children_seconds()
    span = (time.perf_counter() - began) * (os.cpu_count() or 1)
    if process.returncode:
        raise SystemExit(f"error: {implementation.label} ended: {process.stderr.strip()}")
    lines = [json.loads(line) for line in process.stdout.splitlines()]
    return {line["shape"]: line["gflops"] for line in lines}, max(foreign, 0.0) / span


def quiet_run(program: Path, implementation: Implementation, threads: int, patience: float) -> tuple[dict[str, float], bool]:
    """A run that others did not disturb; after `patience` seconds the least disturbed one."""
    best: tuple[dict[str, float], float] | None = None
    deadline = time.monotonic() + patience
    while best is None or (best[1] > steps.FOREIGN_LIMIT and time.monotonic() < deadline):
        steps.wait_for_quiet(deadline)
        now = run(program, implementation, threads)
        if best is None or now[1] < best[1]:
            best = now
    return best[0], best[1] <= steps.FOREIGN_LIMIT


def measure(program: Path, columns: list[Implementation], args: argparse.Namespace) -> dict[str, Any]:
    """Every implementation in every round; returns GFLOP/s as `[threads][shape][label]`, a list each."""
    values: dict[str, Any] = {str(threads): {} for threads in args.threads}
    disturbed = runs = 0
    for number in range(args.rounds):
        for threads in args.threads:
            # The order turns, so that nobody always follows the same neighbour.
            for index in (i % len(columns) for i in range(number, number + len(columns))):
                column = columns[index]
                if column.name == "peak" and threads > 1:
                    continue  # Of one core.
                speeds, quiet = quiet_run(program, column, threads, args.patience)
                runs, disturbed = runs + 1, disturbed + (not quiet)
                for shape, speed in speeds.items():
                    values[str(threads)].setdefault(shape, {}).setdefault(column.label, []).append(speed)
        steps.note(f"round {number + 1} of {args.rounds}")
    if disturbed:
        steps.note(f"warning: {disturbed} of {runs} runs were disturbed by other programs; measure again on a quiet machine")
    return {"values": values, "runs": runs, "disturbed_runs": disturbed}


def cell(values: list[float] | None, spread: bool) -> str:
    """Median, with the quartiles if they are wanted and there are any."""
    if not values:
        return "–"
    text = f"{statistics.median(values):.0f}"
    if spread and len(values) > 1:
        low, _, high = statistics.quantiles(values, n=4)
        text += f" ({low:.0f}..{high:.0f})"
    return text


def table(record: dict[str, Any], threads: str, compact: bool) -> str:
    """Products as rows, implementations as columns. `compact`: quartiles of ours only."""
    rows = {shape: cells for shape, cells in record["values"][threads].items() if shape != "peak"}
    labels = [label for label in record["versions"] if any(label in cells for cells in rows.values())]
    lines = [
        f"| {threads} thread{'s' if threads != '1' else ''} | {' | '.join(labels)} |",
        f"| --- |{' ---: |' * len(labels)}",
    ]
    # Grouped, whichever implementation came first.
    for shape, cells in sorted(rows.items(), key=lambda row: ORDER.index(row[0].split()[0])):
        texts = (cell(cells.get(label), not compact or label.startswith("chiasm")) for label in labels)
        lines.append(f"| {shape.replace('^T', 'ᵀ')} | {' | '.join(texts)} |")
    return "\n".join(lines) + "\n"


def tables(record: dict[str, Any], compact: bool) -> str:
    """The whole result as Markdown."""
    peak = record["values"].get("1", {}).get("peak", {}).get("peak")
    versions = [
        f"{label} {version}" if label in CRATES else version
        for label, version in record["versions"].items()
        if version
    ]
    shown = "median (quartiles) for chiasm, median for the others" if compact else "median (quartiles)"
    lines = [
        f"Machine: {record['machine']}. Measured on {record['date']}, revision `{record['revision']}`. "
        f"GFLOP/s: {shown}, of {record['rounds']} rounds; "
        f"{record['disturbed_runs']} of {record['runs']} runs were disturbed by other programs."
    ]
    if peak:
        lines.append(f"Most that fused multiply-adds reach: {statistics.median(peak):.1f} GFLOP/s a core.")
    if versions:
        lines.append(f"Compared with: {'; '.join(versions)}.")
    parts = ["\n".join(lines) + "\n", *(table(record, threads, compact) for threads in record["values"]), FORMS + "\n"]
    return "\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--library",
        action="append",
        metavar="NAME=FILE",
        default=[],
        help=f"measure this library too; can be repeated (always tried: {', '.join(DEFAULTS)})",
    )
    parser.add_argument("--only", action="append", choices=[*BUILT_IN, *LIBRARIES], help="measure this one; can be repeated")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="one table each (default: 1 2)")
    parser.add_argument("--rounds", type=int, default=15, help="runs of each implementation (default: %(default)s)")
    parser.add_argument(
        "--patience", type=float, default=60, help="seconds to wait for an undisturbed run (default: %(default)s)"
    )
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the tables into this Markdown page")
    args = parser.parse_args()
    if max(args.threads) > len(os.sched_getaffinity(0)):
        parser.error(f"{max(args.threads)} threads are more than the cores of this machine")
    program = build()
    columns = implementations(program, args.library + DEFAULTS, args.only)
    revision = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=steps.ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    record = {
        "date": time.strftime("%Y-%m-%d"),
        "revision": revision,
        "machine": steps.machine(),
        "rounds": args.rounds,
        "versions": {column.label: column.version for column in columns},
        **measure(program, columns, args),
    }
    folder = HERE.parent / "results"
    folder.mkdir(exist_ok=True)
    (folder / f"gemm-{time.strftime('%Y%m%d-%H%M%S')}.json").write_text(json.dumps(record, indent=2) + "\n")
    print(tables(record, compact=False))
    if args.write:
        steps.write_page(args.write, tables(record, compact=True), (START, END))


if __name__ == "__main__":
    main()
