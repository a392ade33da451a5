"""Measures reading WebDataset shards beside the Python package webdataset, in one run.

Both read the same shards from the page cache in one thread, take turns, and must agree on samples,
bytes, texts and pixels. See benches/README.md for how turns and quiet are handled.

    python3 -m venv benches/.venv
    benches/.venv/bin/pip install webdataset numpy pillow
    benches/.venv/bin/python benches/data/compare.py ../shared/data/coco-captions-wds
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
sys.path.insert(0, str(HERE.parent))

from compare import Server, machine, quiet_turn  # noqa: E402

TITLES = {
    "bytes": "every sample in order: encoded picture and caption",
    "rgb": "the same, pictures decoded to RGB",
}


def build() -> str:
    """Compiles our side with the flags of the release and returns the program."""
    command = ["cargo", "build", "--release", "-p", "chiasm-data", "--example", "read_shards"]
    command.append("--message-format=json-render-diagnostics")
    output = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
    for line in output.splitlines():
        message = json.loads(line)
        if message.get("target", {}).get("name") == "read_shards" and message.get("executable"):
            return message["executable"]
    raise SystemExit("error: cargo did not name the program it built")


def must_agree(mode: str, ours: dict, theirs: dict) -> None:
    """Stops unless both sides read the same."""
    for key in ["samples", "text", "pixels" if mode == "rgb" else "bytes"]:
        if ours[key] != theirs[key]:
            raise SystemExit(f"error: {mode}: chiasm has {ours[key]} {key}, webdataset {theirs[key]}; nothing was measured")


def measure(program: str, mode: str, args: argparse.Namespace) -> list[str]:
    """One mode as rows of a table."""
    servers = [
        Server("chiasm", ["env", "RAYON_NUM_THREADS=1", program, args.folder, mode]),
        Server("webdataset", [sys.executable, str(HERE / "peer.py"), args.folder, mode]),
    ]
    first = [quiet_turn(server, args.patience)[0] for server in servers]
    must_agree(mode, *(turn.steps[0]["values"] for turn in first))
    turns, disturbed = ([], []), 0
    for number in range(args.rounds):
        for index in (number % 2, (number + 1) % 2):
            turn, quiet = quiet_turn(servers[index], args.patience)
            disturbed += not quiet
            turns[index].append(turn.steps[0])
    for server in servers:
        server.close()
    if disturbed:
        print(f"warning: {mode}: {disturbed} of {2 * args.rounds} turns were disturbed by other programs", file=sys.stderr)
    samples = first[0].steps[0]["values"]["samples"]
    rows = []
    for server, steps in zip(servers, turns, strict=True):
        name = server.name if server.name == "chiasm" else f"webdataset {server.about['version']}"
        seconds = [step["seconds"] for step in steps]
        middle = statistics.median(seconds)
        spread = f"{min(seconds) * 1e3:.0f}..{max(seconds) * 1e3:.0f}"
        rows.append(f"| {name} | {middle * 1e3:.0f} ms ({spread}) | {samples / middle:.0f} |")
    ours, theirs = ([step["seconds"] for step in steps] for steps in turns)
    by_round = [b / a for a, b in zip(ours, theirs, strict=True)]
    ratio = statistics.median(theirs) / statistics.median(ours)
    rows.append(f"| **times as fast** | **{ratio:.2f}** ({min(by_round):.2f}..{max(by_round):.2f}) | |")
    return [f"### {TITLES[mode]}", "", "| | pass: median (min..max) | samples/s |", "| --- | ---: | ---: |", *rows, ""]


def access(program: str, args: argparse.Namespace) -> str:
    """Random access, which the package has nothing to set against, as a sentence."""
    server = Server("chiasm", [program, args.folder, "access"])
    quiet_turn(server, args.patience)
    passes = [quiet_turn(server, args.patience)[0].steps[0]["values"] for _ in range(args.rounds)]
    server.close()
    median, most = (statistics.median(values[key] for values in passes) for key in ("median_us", "p99_us"))
    return (
        f"One picture at random, after indexing: median {median:.1f} us, 99 % below {most:.1f} us "
        f"({passes[0]['samples']} reads, {args.rounds} passes)."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="folder of shards")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--patience", type=float, default=20.0, help="seconds to wait for a quiet machine, each turn")
    args = parser.parse_args()
    args.folder = str(Path(args.folder).resolve())
    program = build()
    before = os.getloadavg()[0]
    lines = [line for mode in TITLES for line in measure(program, mode, args)]
    print("\n".join([*lines, access(program, args)]))
    print(f"{machine()}; {args.rounds} rounds; load {before:.1f} before, {os.getloadavg()[0]:.1f} after.")


if __name__ == "__main__":
    main()
