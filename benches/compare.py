"""Measures chiasm's workloads beside the same models in PyTorch, ONNX Runtime and torchvision, in one run.

For every workload: exports start weights and the exact inputs of every step, starts one process an
implementation, checks that losses, gradient norms and scores agree, then lets the processes compute in
turns, one at a time, and compares time and peak memory. See benches/README.md.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import bars

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
DATA = ROOT.parent / "shared/data"
START, END = "<!-- bench:start -->", "<!-- bench:end -->"
GRADIENT = "gradient norm"
GRADIENT_TOLERANCE = 1e-3
# Of losses, and of what a forward pass gives.
VALUE_TOLERANCE = 1e-4
# Of what our own forward pass gives in 8 bits.
ROUNDED_TOLERANCE = 0.3
# A turn during which other programs had more than this share of the machine's cores is repeated.
FOREIGN_LIMIT = 0.03
# The machine idles when it did so for this long.
QUIET_SECONDS = 0.5
TICKS = os.sysconf("SC_CLK_TCK")

# How often a training step passes over its weights at least: they are read forward and backward, a gradient is
# written, and AdamW reads gradient, weight and both moments and writes the last three.
PASSES = {"step": 10, "image_forward": 1, "text_forward": 1}
# A turn below this is short enough to take the best of several where two forms are to be told apart.
SHORT_SECONDS = 5.0


def busy_seconds() -> float:
    """CPU seconds that any program, or another guest of the host, has used on this machine."""
    fields = [int(value) for value in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    user, nice, system, _idle, _wait, irq, soft, steal = fields
    return (user + nice + system + irq + soft + steal) / TICKS


def cpu_seconds(pid: int) -> float:
    """CPU seconds that a process and its children have used, so far as these are there."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        tasks = [path.read_text().split() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    except FileNotFoundError:  # A child that ended meanwhile.
        return 0.0
    own = (int(fields[11]) + int(fields[12])) / TICKS
    return own + sum(cpu_seconds(int(child)) for children in tasks for child in children)


def memory_mb(pid: int, key: str) -> float:
    """A memory figure of `/proc/PID/status`: VmHWM is the peak, VmRSS the present."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise SystemExit(f"error: the system does not tell {key}")


@dataclass
class Turn:
    """One pass over all batches by one implementation."""

    steps: list[dict[str, Any]]
    foreign: float

    @property
    def seconds(self) -> float:
        """Mean of its steps."""
        return statistics.fmean(step["seconds"] for step in self.steps)

    @property
    def multiply_adds(self) -> float:
        """Mean of its steps, as our side counts them."""
        return statistics.fmean(step["multiply_adds"] for step in self.steps)


class Server:
    """A process that computes steps on request and sleeps in between."""

    def __init__(self, name: str, command: list[str]) -> None:
        self.name = name
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self.about = self.read()
        self.loaded_mb = memory_mb(self.process.pid, "VmRSS")

    def read(self) -> dict[str, Any]:
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"error: {self.name} ended; its message is above")
        return json.loads(line)

    def turn(self) -> Turn:
        """Every batch once."""
        pid, began = self.process.pid, time.perf_counter()
        foreign = cpu_seconds(pid) - busy_seconds()
        self.process.stdin.write(f"steps {self.about['batches']}\n")
        steps = self.read()["steps"]
        foreign += busy_seconds() - cpu_seconds(pid)
        span = (time.perf_counter() - began) * (os.cpu_count() or 1)
        return Turn(steps, max(foreign, 0.0) / span)

    def peak_mb(self) -> float:
        return memory_mb(self.process.pid, "VmHWM")

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


@dataclass
class Row:
    """What was measured of one implementation."""

    name: str
    turns: list[float] = field(default_factory=list)
    pairs: int = 0
    peak_mb: float = 0.0
    loaded_mb: float = 0.0

    @property
    def median(self) -> float:
        return statistics.median(self.turns)

    @property
    def step_mb(self) -> float:
        """What the steps added to the loaded program, its libraries, weights and batches."""
        return self.peak_mb - self.loaded_mb


def build() -> Path:
    """Compiles our side with the flags of the release and returns the program."""
    command = ["cargo", "build", "--release", "--bin", "chiasm-bench", "--message-format=json-render-diagnostics"]
    output = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
    for line in output.splitlines():
        message = json.loads(line)
        if message.get("target", {}).get("name") == "chiasm-bench" and message.get("executable"):
            return Path(message["executable"])
    raise SystemExit("error: cargo did not name the program it built")


def relative(ours: float, theirs: float) -> float:
    return abs(ours - theirs) / max(abs(theirs), 1e-2)


def check(ours: Turn, theirs: Turn, who: str) -> dict[str, float]:
    """Stops unless both sides computed the same; returns the largest relative differences."""
    worst = {"values": 0.0, GRADIENT: 0.0}
    for number, (a, b) in enumerate(zip(ours.steps, theirs.steps, strict=True)):
        ours_by_name, theirs_by_name = a["values"], b["values"]
        if ours_by_name.keys() != theirs_by_name.keys():
            raise SystemExit(f"error: chiasm gives {sorted(ours_by_name)}, {who} {sorted(theirs_by_name)}")
        for name, x in ours_by_name.items():
            y = theirs_by_name[name]
            kind, tolerance = (name, GRADIENT_TOLERANCE) if name == GRADIENT else ("values", VALUE_TOLERANCE)
            if who in bars.ROUNDED:
                tolerance = ROUNDED_TOLERANCE
            if who == bars.COMPILED:
                # Wrong on some processors. Its time counts all the same, and the page says how far off it is.
                tolerance = math.inf
            difference = relative(x, y)
            if not difference <= tolerance:
                raise SystemExit(
                    f"error: the two sides do not compute the same: step {number}, {name}: chiasm {x}, {who} {y}\n"
                    f"  relative difference {difference:.1e}, allowed {tolerance:.0e}; nothing was measured"
                )
            worst[kind] = max(worst[kind], difference)
    return worst


def wait_for_quiet(deadline: float) -> None:
    """Returns once the machine idles, or at the deadline."""
    while time.monotonic() < deadline:
        before = busy_seconds()
        time.sleep(QUIET_SECONDS)
        if busy_seconds() - before <= FOREIGN_LIMIT * QUIET_SECONDS * (os.cpu_count() or 1):
            return


def quiet_turn(server: Server, patience: float) -> tuple[Turn, bool]:
    """A turn that other programs did not disturb; after `patience` seconds the least disturbed one."""
    best: Turn | None = None
    deadline = time.monotonic() + patience
    while best is None or (best.foreign > FOREIGN_LIMIT and time.monotonic() < deadline):
        wait_for_quiet(deadline)
        turn = server.turn()
        if best is None or turn.foreign < best.foreign:
            best = turn
    return best, best.foreign <= FOREIGN_LIMIT


def twin(folder: str, threads: int, *options: str) -> list[str]:
    return [sys.executable, str(HERE / "twin"), folder, "--threads", str(threads), *options]


def faster_attention(folder: str, threads: int, patience: float) -> str:
    """PyTorch has two ways to compute attention; returns the option of the faster one here."""
    found = {}
    for option in ("", "--plain-attention"):
        server = Server("PyTorch", twin(folder, threads, *filter(None, [option])))
        warm = quiet_turn(server, patience)[0]
        tries = 3 if warm.seconds < SHORT_SECONDS else 1
        found[option] = min(quiet_turn(server, patience)[0].seconds for _ in range(tries))
        server.close()
    return min(found, key=found.get)


def peers(
    workload: str, settings: dict[str, Any], folder: str, args: argparse.Namespace
) -> tuple[dict[str, list[str]], str]:
    """Commands of the others by name, and the form of attention that they take."""
    kind, threads = settings["kind"], args.threads
    if kind == "loading":
        return {
            "torchvision, Pillow": twin(folder, threads),
            "torchvision, tensors": twin(folder, threads, "--tensors"),
        }, ""
    selects = (settings["model"].get("select") or {"rule": "off"})["rule"] != "off"
    attention = "--plain-attention" if selects else faster_attention(folder, threads, args.patience)
    options = [attention] if attention else []
    found = {bars.EAGER[0]: twin(folder, threads, *options)}
    if kind in ("image_forward", "text_forward"):
        found[bars.ONNX] = twin(folder, threads, "--onnx")
    if kind == "step":
        fused = twin(folder, threads, *options, "--fused-optimizer")
        found[bars.EAGER[1]] = fused
        if sum(isinstance(own, dict) for own in settings["objectives"].values()) > 1:
            found[bars.APART] = [*fused, "--apart"]
        # It takes minutes to compile.
        if bars.asks_for(workload, bars.COMPILED):
            found[bars.COMPILED] = [*fused, "--compile"]
    return found, "plain" if attention else "scaled_dot_product_attention"


def measure(program: Path, workload: Path, args: argparse.Namespace) -> dict[str, Any]:
    """One workload: export, check, time."""
    common = ["--workload", str(workload), "--threads", str(args.threads)]
    if args.data:
        common += ["--data", str(args.data)]
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([program, "export", "--out", folder, *common], cwd=ROOT, check=True)
        settings = json.loads((Path(folder) / "workload.json").read_text())
        title = settings["title"]
        note(f"{title}")
        others, attention = peers(workload.stem, settings, folder, args)
        variants = {bars.OURS: [str(program), "serve", *common]} | others
        if settings["kind"] in ("image_forward", "text_forward"):
            for name in bars.ROUNDED:
                precision = name.removeprefix(f"{bars.OURS}, ")
                variants[name] = [str(program), "serve", "--precision", precision, *common]
        servers = [Server(name, command) for name, command in variants.items()]
        first = [quiet_turn(server, args.patience)[0] for server in servers]
        differences = [
            check(first[0], turn, server.name) for server, turn in zip(servers[1:], first[1:], strict=True)
        ]
        off = dict(zip((server.name for server in servers[1:]), differences, strict=True))
        for name in (*bars.ROUNDED, bars.COMPILED):
            if name in off:
                note(f"  {name}: up to {off[name]['values']:.1e} off, relative")
        compiled = off.pop(bars.COMPILED, {"values": 0.0, GRADIENT: 0.0})
        differences = [found for name, found in off.items() if name not in bars.ROUNDED]
        for server in servers:
            quiet_turn(server, args.patience)  # Warm-up: caches of compiled kernels and of allocators.
        rows = [Row(server.name) for server in servers]
        disturbed, start_load = 0, os.getloadavg()[0]
        for number in range(args.rounds):
            # The order turns, so that nobody always follows the same neighbour.
            for index in (i % len(servers) for i in range(number, number + len(servers))):
                turn, quiet = quiet_turn(servers[index], args.patience)
                disturbed += not quiet
                rows[index].turns.append(turn.seconds)
            note(f"  round {number + 1} of {args.rounds}: " + ", ".join(f"{row.turns[-1] * 1e3:.0f} ms" for row in rows))
        for row, server in zip(rows, servers, strict=True):
            row.pairs = server.about["batch_size"]
            row.peak_mb, row.loaded_mb = server.peak_mb(), server.loaded_mb
        version, parameters = servers[1].about["version"], servers[1].about["parameters"]
        for server in servers:
            server.close()
    if disturbed:
        note(f"  warning: {disturbed} turns were disturbed by other programs; measure again on a quiet machine")
    best = min((row for row in rows[1:] if row.name not in bars.ROUNDED), key=lambda row: row.median)
    by_round = [a / b for a, b in zip(rows[0].turns, best.turns, strict=True)]
    return {
        "workload": workload.stem,
        "title": title,
        "torch": version,
        "attention": attention,
        "multiply_adds": first[0].multiply_adds,
        "moved_bytes": 4 * parameters * PASSES.get(settings["kind"], 0),
        "rows": [
            {
                "name": row.name,
                "step_ms": row.median * 1e3,
                "step_ms_min": min(row.turns) * 1e3,
                "step_ms_max": max(row.turns) * 1e3,
                "pairs_per_second": row.pairs / row.median,
                "peak_mb": row.peak_mb,
                "step_mb": row.step_mb,
                "ratio": statistics.median(a / b for a, b in zip(rows[0].turns, row.turns, strict=True)),
                "turns_ms": [value * 1e3 for value in row.turns],
            }
            for row in rows
        ],
        "best_peer": best.name,
        "time_ratio": rows[0].median / best.median,
        "time_ratio_min": min(by_round),
        "time_ratio_max": max(by_round),
        "memory_ratio": rows[0].peak_mb / best.peak_mb,
        "step_memory_ratio": rows[0].step_mb / best.step_mb,
        "largest_difference": {key: max(d[key] for d in differences) for key in differences[0]},
        "compiled_difference": compiled,
        "disturbed_turns": disturbed,
        "turns": args.rounds * len(rows),
        "load_before": start_load,
        "load_after": os.getloadavg()[0],
    }


def revision() -> str:
    """The commit that is measured."""
    command = ["git", "describe", "--always", "--dirty"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()


def machine() -> str:
    """The machine in words."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return f"{line.split(':', 1)[1].strip()}, {os.cpu_count()} cores, {platform.system()}"
    return f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}"


def table(result: dict[str, Any], threads: int) -> str:
    """One workload as Markdown."""
    lines = [
        f"### {result['title']}",
        "",
        "| | step, ms: median (min..max) | chiasm / it | samples/s | peak memory, MB | of it added by steps, MB |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in result["rows"]:
        lines.append(
            f"| {row['name']} | {row['step_ms']:.0f} ({row['step_ms_min']:.0f}..{row['step_ms_max']:.0f}) "
            f"| {row['ratio']:.2f} | {row['pairs_per_second']:.0f} | {row['peak_mb']:.0f} | {row['step_mb']:.0f} |"
        )
    lines.append(
        f"| **chiasm / best of the others** | **{result['time_ratio']:.2f}** "
        f"({result['time_ratio_min']:.2f}..{result['time_ratio_max']:.2f}) | | {1 / result['time_ratio']:.2f} "
        f"| **{result['memory_ratio']:.2f}** | {result['step_memory_ratio']:.2f} |"
    )
    worst, compiled = result["largest_difference"], result["compiled_difference"]
    wrong = (
        f"**{bars.COMPILED}, does not compute the same on this machine**: losses up to {compiled['values']:.0e} off the "
        f"others, gradient norms {compiled[GRADIENT]:.0e}. "
    )
    lines += [
        "",
        f"Best of the others: {result['best_peer']}; PyTorch {result['torch']}"
        + (f", attention: `{result['attention']}`" if result["attention"] else "")
        + f"; {threads} threads each. Largest relative difference between the two sides: "
        + (f"losses {worst['values']:.0e}, gradient norm {worst[GRADIENT]:.0e}. " if worst[GRADIENT] else f"{worst['values']:.0e}. ")
        + (wrong if compiled["values"] > VALUE_TOLERANCE or compiled[GRADIENT] > GRADIENT_TOLERANCE else "")
        + f"{result['disturbed_turns']} of {result['turns']} turns were disturbed by other programs.",
        "",
    ]
    return "\n".join(lines)


def write_page(path: Path, fragment: str, markers: tuple[str, str]) -> None:
    """Puts the tables between the markers of a page."""
    head, start, rest = path.read_text().partition(markers[0])
    _, end, tail = rest.partition(markers[1])
    if not start or not end:
        raise SystemExit(f"error: {path} has no `{markers[0]}` and `{markers[1]}`")
    path.write_text(f"{head}{start}\n{fragment}{end}{tail}")


def merged(old: str, new: str, results: list[dict[str, Any]]) -> str:
    """Tables in which what was measured now takes the place of what stood there; the rest stays, with its date."""
    workloads = {f"| `{result['workload']}` |": result for result in results}
    fresh: dict[str, list[str]] = {}
    for line in new.splitlines():
        for start in workloads:
            if line.startswith(start):
                fresh.setdefault(f"{start} {line.count('|')}", []).append(line)
    sections = {part.splitlines()[0]: part for part in new.split("### ")[1:]}
    head, *parts = old.split("### ")
    lines = []
    for line in head.splitlines():
        start = next((start for start in workloads if line.startswith(start)), None)
        if start is None:
            lines.append(line)
        elif own := fresh.pop(f"{start} {line.count('|')}", []):
            lines += own
    day = new.splitlines()[0].split("Measured on ")[1].rstrip(".")
    names = ", ".join(f"`{result['workload']}`" for result in results)
    lines[0] = f"{lines[0].split(' Again: ')[0]} Again: {names} on {day}."
    kept = [sections.pop(part.splitlines()[0], part) for part in parts]
    return "\n".join(lines) + "\n\n" + "".join(f"### {part.rstrip()}\n\n" for part in [*kept, *sections.values()])


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    known = sorted(path.stem for path in (HERE / "workloads").glob("*_*.toml"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", action="append", choices=known, help="default: all")
    parser.add_argument("--threads", type=int, default=2, help="of each implementation (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=10, help="turns of each implementation (default: %(default)s)")
    parser.add_argument(
        "--patience", type=float, default=120, help="seconds to wait for an undisturbed turn (default: %(default)s)"
    )
    parser.add_argument(
        "--data", type=Path, default=DATA if DATA.is_dir() else None, help="folder of data sets (default: %(default)s)"
    )
    parser.add_argument("--program", type=Path, help="a built chiasm-bench, instead of building it")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the tables into this Markdown page; with --workload, those alone")
    args = parser.parse_args()
    program = args.program.resolve() if args.program else build()
    ceiling = json.loads(
        subprocess.run([program, "ceiling", "--threads", str(args.threads)], stdout=subprocess.PIPE, check=True).stdout
    )
    results = []
    for name in args.workload or known:
        workload = HERE / "workloads" / f"{name}.toml"
        if 'source = "photos"' in workload.read_text() and not args.data:
            note(f"{name} is left out: it looks at photos, and `--data` does not say where")
            continue
        results.append(measure(program, workload.relative_to(ROOT), args))
    day = time.strftime("%Y-%m-%d")
    record = {"date": day, "revision": revision(), "machine": machine(), "threads": args.threads, "ceiling": ceiling, "results": results}
    folder = HERE / "results"
    folder.mkdir(exist_ok=True)
    (folder / f"{time.strftime('%Y%m%d-%H%M%S')}.json").write_text(json.dumps(record, indent=2) + "\n")
    fragment = f"Machine: {machine()}. Measured on {day}, revision `{revision()}`.\n\n"
    fragment += "\n".join([*bars.verdicts(results), "", *bars.shares(results, ceiling), "", ""])
    fragment += "\n".join(table(result, args.threads) for result in results)
    print(fragment)
    if args.write:
        if args.workload:
            old = args.write.read_text().partition(START)[2].partition(END)[0].lstrip("\n")
            fragment = merged(old, fragment, results)
        write_page(args.write, fragment, (START, END))


if __name__ == "__main__":
    main()
