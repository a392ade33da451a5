"""Two pinned ranks against one pinned rank: chiasm under `mpirun` beside PyTorch's DDP over gloo.

Every rank has one core and one thread. The recipe is the tiny one of `chiasm quickstart` with all of its
objectives, on the built-in drawings; both sides do the same steps, and N ranks share the batch that one rank
has alone. Ours reads and augments its pictures on the same core meanwhile; PyTorch gets its batches ready
made. Turns alternate; a figure is the median of the turns' median seconds a step.

    cargo build --release --workspace --bins --features chiasm/mpi
    benches/.venv/bin/python benches/scaling/measure.py

Takes figures only on a machine that does nothing else: it refuses one that is busy unless told `--busy`.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(HERE.parent))
from compare import busy_seconds  # noqa: E402

# Steps at the beginning of a turn that are not counted: caches, first allocations.
WARM = 5
# Share of one core that other programs may use before a measurement.
BUSY = 0.1


def ours(program: Path, folder: Path, ranks: int, batch: int, steps: int) -> list[float]:
    """Seconds of every step of a run on so many ranks."""
    with tempfile.TemporaryDirectory(dir=folder) as out:
        command = [str(program), "pretrain", "quickstart", "--steps", str(steps), "--out", f"{out}/run"]
        for key in (f"batch_size={batch}", "eval_every=0"):
            command += ["--set", f"schedule.{key}"]
        if ranks > 1:
            root = ["--allow-run-as-root"] if os.geteuid() == 0 else []
            pins = [word for core in range(ranks) for word in (":", "-n", "1", "taskset", "-c", str(core), *command)]
            command = ["mpirun", *root, "--bind-to", "none", *pins[1:]]
        else:
            command = ["taskset", "-c", "0", *command]
        run = subprocess.run(command, env={**os.environ, "CHIASM_THREADS": "1"}, capture_output=True, text=True)
        if run.returncode:
            raise SystemExit(run.stderr)
        lines = [json.loads(line) for line in (Path(out) / "run/metrics.jsonl").read_text().splitlines()]
    return [batch / line["values"]["samples_per_second"] for line in lines if line["kind"] == "train"]


def export(program: Path, folder: Path, batch: int) -> Path:
    """Start weights and batches of one rank, for PyTorch."""
    out = folder / f"export-{batch}"
    if not out.exists():
        workload = ["--workload", "benches/workloads/quickstart_step.toml", "--batch-size", str(batch)]
        command = [str(program), *workload, "export", "--out", str(out)]
        subprocess.run(command, cwd=ROOT, check=True)
    return out


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def theirs(folder: Path, ranks: int, steps: int) -> list[float]:
    """The same of PyTorch."""
    port = free_port()

    def start(rank: int) -> subprocess.Popen[str]:
        peer = [sys.executable, str(HERE / "peer.py"), str(folder), "--ranks", str(ranks), "--rank", str(rank)]
        peer += ["--port", str(port), "--steps", str(steps)]
        return subprocess.Popen(["taskset", "-c", str(rank), *peer], stdout=subprocess.PIPE, text=True)

    peers = [start(rank) for rank in range(ranks)]
    out = [peer.communicate()[0] for peer in peers]
    if any(peer.returncode for peer in peers):
        raise SystemExit("error: a rank of PyTorch failed")
    return json.loads(out[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--batch", type=int, default=64, help="pairs of a step, of all ranks together")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--busy", action="store_true", help="measure on a busy machine too: to try it, not for figures")
    parser.add_argument("--program", type=Path, help="a built chiasm with `mpi`, instead of the target folder's")
    args = parser.parse_args()
    before = busy_seconds()
    time.sleep(2)
    if (busy_seconds() - before) / 2 > BUSY and not args.busy:
        raise SystemExit("error: other programs use this machine")
    release = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(args.turns):
            for ranks in (1, args.ranks):
                program = args.program or release / "chiasm"
                seconds = ours(program, Path(folder), ranks, args.batch, args.steps)
                found.setdefault(f"chiasm, {ranks}", []).append(statistics.median(seconds[WARM:]))
                batches = export(release / "chiasm-bench", Path(folder), args.batch // ranks)
                seconds = theirs(batches, ranks, args.steps)
                found.setdefault(f"PyTorch, {ranks}", []).append(statistics.median(seconds[WARM:]))
    print(json.dumps(found, indent=1), file=sys.stderr)
    print(f"| | ms a step, 1 rank | {args.ranks} ranks | times faster |\n| --- | ---: | ---: | ---: |")
    for name in ("chiasm", "PyTorch"):
        turns = [found[f"{name}, {ranks}"] for ranks in (1, args.ranks)]
        cells = [f"{1e3 * statistics.median(of):.0f} ({1e3 * min(of):.0f} to {1e3 * max(of):.0f})" for of in turns]
        one, several = map(statistics.median, turns)
        print(f"| {name} | {cells[0]} | {cells[1]} | {one / several:.2f} |")


if __name__ == "__main__":
    main()
