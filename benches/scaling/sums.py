"""How long a sum over ranks takes against its size, beside MPI_Allreduce, and what follows for many ranks.

Two ranks on a core each, over shared memory and over TCP on the loopback; `crates/chiasm-mpi/examples/sums.rs` is
measured in turns with the MPI that carries it. Of each size the median of all turns. From a fit of the figures,
seconds = latency + bytes / bandwidth, follows a model of a training step on many ranks; its assumptions are printed
with it.

    cargo build --release --workspace --bins --features chiasm/mpi --example sums
    python3 benches/scaling/sums.py --write docs/scaling.md
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
BEGIN, END = "<!-- sums -->", "<!-- end of sums -->"
TRANSPORTS = {"shared memory": [], "TCP, loopback": ["--mca", "btl", "tcp,self"]}
SHOWN = range(8, 25, 4)


def measured(program: Path, who: str, transport: list[str], largest: int, turns: int) -> dict[int, list[float]]:
    """Seconds of each sum, by numbers."""
    root = ["--allow-run-as-root"] if os.geteuid() == 0 else []
    ranks = [
        word
        for core in range(2)
        for word in (":", "-n", "1", "taskset", "-c", str(core), str(program), who, str(largest), str(turns))
    ]
    command = ["mpirun", *root, "--bind-to", "none", *transport, *ranks[1:]]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        raise SystemExit(run.stderr)
    lines = [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]
    return {line["numbers"]: line["seconds"] for line in lines}


def fit(seconds: dict[int, float]) -> tuple[float, float]:
    """Latency in seconds and seconds a number: through the smallest and the largest size."""
    small, large = min(seconds), max(seconds)
    slope = (seconds[large] - seconds[small]) / (large - small)
    return seconds[small] - slope * small, slope


def time_of(seconds: float) -> str:
    return f"{1e6 * seconds:.0f} µs" if seconds < 1e-3 else f"{1e3 * seconds:.1f} ms"


# Of two sizes of SCL: weights that are trained, seconds a pair of one rank, floats that a pair's gathered features
# have, multiply-adds of its contrasts with one other pair. The first is measured; the second's are what
# `chiasm plan scl-base` counts, 283 G multiply-adds a pair, at the rate below.
MODELS = {
    "tiny (`recipes/quickstart.toml`), one core a rank": (2.6e6, 3.0e-3, 4.5e3, 2e4),
    "`scl-base`, 32 cores a rank": (3.6e8, 0.28, 4e3, 2e3),
}
# Seconds of an exchange between two machines, bytes a second of their network, multiply-adds a second of a rank.
NETWORKS = {"10 Gbit/s": (3e-5, 1.1e9), "100 Gbit/s": (1e-5, 1.1e10)}
RATES = (4e10, 1e12)


def step(name: str, network: tuple[float, float], adding: float, ranks: int, pairs: int) -> dict[str, float]:
    """Seconds of the parts of a step of `pairs` pairs in all."""
    weights, pair, features, products = MODELS[name]
    latency, bandwidth = network
    rate = RATES[list(MODELS).index(name)]
    own = pairs / ranks
    others = ranks - 1
    return {
        "pairs": own * pair,
        # Each rank's rows with those of all, both ways, forward and back.
        "contrast": 3 * own * pairs * products / rate,
        # Features of all others come to every rank; three contrasts, two exchanges each.
        "features": 6 * others * latency + 4 * features * own * others / bandwidth,
        # A segment to each, sums back from each; added up in 64 bits.
        "gradients": 2 * others * latency + 2 * 4 * weights * others / ranks / bandwidth + weights * adding,
    }


def model_table(name: str, adding: float, a_rank: int) -> list[str]:
    one = sum(step(name, (0.0, 1e30), 0.0, 1, a_rank).values())
    lines = [
        f"**{name}**, {a_rank} pairs a rank:",
        "",
        "| ranks | pairs a step | " + " | ".join(f"{network}: s a step | efficiency" for network in NETWORKS) + " | largest part |",
        "| ---: | ---: |" + " ---: | ---: |" * len(NETWORKS) + " --- |",
    ]
    for power in (3, 5, 6, 7, 8, 9, 10):
        ranks = 1 << power
        cells, largest = [], ""
        for network in NETWORKS.values():
            parts = step(name, network, adding, ranks, a_rank * ranks)
            total = sum(parts.values())
            cells.append(f"{total:.2f} | {one / total:.2f}")
            largest = max(parts, key=parts.__getitem__)
        lines.append(f"| {ranks:,} | {a_rank * ranks:,} | " + " | ".join(cells) + f" | {largest} |")
    return [*lines, ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--largest", type=int, default=24, help="numbers of the largest sum, as a power of 2")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--sums", type=int, default=7, help="of each size in a turn")
    parser.add_argument("--write", type=Path, help="put the tables between the marks of this file")
    args = parser.parse_args()
    release = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
    found: dict[tuple[str, str], dict[int, list[float]]] = {}
    for turn in range(args.turns):
        print(f"turn {turn + 1} of {args.turns}", file=sys.stderr)
        for transport, options in TRANSPORTS.items():
            for who in ("chiasm", "mpi"):
                own = found.setdefault((transport, who), {})
                for numbers, seconds in measured(release / "examples/sums", who, options, args.largest, args.sums).items():
                    own.setdefault(numbers, []).extend(seconds)
    medians = {key: {numbers: statistics.median(all_) for numbers, all_ in own.items()} for key, own in found.items()}
    lines = [
        "| numbers | " + " | ".join(f"{t}: ours | MPI_Allreduce | ratio" for t in TRANSPORTS) + " |",
        "| ---: |" + " ---: | ---: | ---: |" * len(TRANSPORTS),
    ]
    for power in SHOWN:
        cells = []
        for transport in TRANSPORTS:
            ours, theirs = (medians[transport, who].get(1 << power, float("nan")) for who in ("chiasm", "mpi"))
            cells.append(f"{time_of(ours)} | {time_of(theirs)} | {ours / theirs:.1f}")
        lines.append(f"| {1 << power:,} | " + " | ".join(cells) + " |")
    lines.append("")
    for transport in TRANSPORTS:
        latency, slope = fit(medians[transport, "chiasm"])
        lines.append(f"Ours over {transport}: {time_of(latency)} and {4 / slope / 1e9:.1f} GB/s of gradients.")
    # Over shared memory nearly all of it is copying and adding on the same two cores.
    adding = fit(medians["shared memory", "chiasm"])[1]
    lines += ["", *model_table(list(MODELS)[0], adding, 64), *model_table(list(MODELS)[1], adding, 64)]
    text = "\n".join(lines)
    if args.write is None:
        print(text)
        return
    page = args.write.read_text()
    before, rest = page.split(BEGIN)
    after = rest.split(END)[1]
    args.write.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}")


if __name__ == "__main__":
    main()
