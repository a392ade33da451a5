"""Decodes, resizes, crops and normalises photographs with chiasm and with torchvision, side by side.

    python3 -m venv benches/.venv
    benches/.venv/bin/pip install torch torchvision pillow
    benches/.venv/bin/python benches/data/decode.py FOLDER --large

FOLDER holds JPEG files. One thread each, from the file to the `float32` values that CLIP takes: short side
to 224 (bicubic, antialiased), centre crop, mean and deviation. torchvision works as its users have it: on
pictures of Pillow. `--large` measures also 640 x 480 copies (JPEG, quality 90, 4:2:0) of the first ones.

Before anything is timed, both sides must give the same means of 16 pictures to 1e-4. Then they work in turns
while the other sleeps, and a turn that other programs disturbed is repeated.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benches"))

from compare import FOREIGN_LIMIT, busy_seconds, cpu_seconds, machine, note, wait_for_quiet  # noqa: E402

TOLERANCE = 1e-4


def build() -> Path:
    """Compiles our side and returns the program."""
    command = ["cargo", "build", "--release", "-p", "chiasm-data", "--example", "decode"]
    output = subprocess.run(
        [*command, "--message-format=json-render-diagnostics"], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    for line in output.splitlines():
        message = json.loads(line)
        if message.get("target", {}).get("name") == "decode" and message.get("executable"):
            return Path(message["executable"])
    raise SystemExit("error: cargo did not name the program it built")


def serve(folder: str, count: int) -> None:
    """The other side: answers commands as `examples/decode.rs` does."""
    import torch
    from PIL import Image
    from torchvision import transforms

    torch.set_num_threads(1)
    way = transforms.Compose(
        [
            transforms.Resize(224, transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
        ]
    )
    files = sorted(Path(folder).iterdir())[:count]

    def read(file: Path) -> Any:
        with Image.open(file) as image:
            return image.convert("RGB")

    print(json.dumps({"pictures": len(files)}), flush=True)
    for line in sys.stdin:
        answer: dict[str, Any]
        if line.strip() == "all":
            start = time.perf_counter()
            for file in files:
                way(read(file))
            answer = {"seconds": time.perf_counter() - start}
        elif line.strip() == "values":
            answer = {"means": [way(read(file)).double().mean().item() for file in files[:16]]}
        else:
            stages = [0.0, 0.0, 0.0]
            for file in files:
                times = [time.perf_counter()]
                image = read(file)
                times.append(time.perf_counter())
                image = way.transforms[1](way.transforms[0](image))
                times.append(time.perf_counter())
                way.transforms[3](way.transforms[2](image))
                times.append(time.perf_counter())
                stages = [stage + b - a for stage, a, b in zip(stages, times, times[1:], strict=False)]
            answer = dict(zip(("decode", "resize", "normalise"), stages, strict=True))
        print(json.dumps(answer), flush=True)


class Side:
    """A process that works on request."""

    def __init__(self, name: str, command: list[str]) -> None:
        self.name = name
        environment = os.environ | {"OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self.pictures = self.answer()["pictures"]
        self.turns: list[float] = []

    def answer(self) -> dict[str, Any]:
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"error: {self.name} ended; its message is above")
        return json.loads(line)

    def ask(self, command: str) -> dict[str, Any]:
        self.process.stdin.write(f"{command}\n")
        return self.answer()

    def turn(self, patience: float) -> bool:
        """All pictures once, undisturbed if the machine allows; else the least disturbed try counts."""
        best: tuple[float, float] | None = None
        deadline = time.monotonic() + patience
        while best is None or (best[0] > FOREIGN_LIMIT and time.monotonic() < deadline):
            wait_for_quiet(deadline)
            pid, began = self.process.pid, time.perf_counter()
            foreign = cpu_seconds(pid) - busy_seconds()
            seconds = self.ask("all")["seconds"]
            foreign += busy_seconds() - cpu_seconds(pid)
            share = max(foreign, 0.0) / ((time.perf_counter() - began) * (os.cpu_count() or 1))
            if best is None or share < best[0]:
                best = (share, seconds)
        self.turns.append(best[1])
        return best[0] <= FOREIGN_LIMIT

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def enlarge(folder: str, into: str, count: int) -> None:
    """Copies as a camera would make them."""
    from PIL import Image

    for file in sorted(Path(folder).iterdir())[:count]:
        with Image.open(file) as image:
            image.convert("RGB").resize((640, 480), Image.Resampling.BICUBIC).save(Path(into) / file.name, quality=90)


def measure(program: Path, title: str, folder: str, count: int, args: argparse.Namespace) -> None:
    ours = Side("chiasm", [str(program), folder, str(count)])
    theirs = Side("torchvision", [sys.executable, __file__, folder, "--count", str(count), "--serve"])
    for a, b in zip(ours.ask("values")["means"], theirs.ask("values")["means"], strict=True):
        if abs(a - b) > TOLERANCE:
            raise SystemExit(f"error: the two sides do not compute the same: {a} and {b}; nothing was measured")
    for side in (ours, theirs):
        side.ask("all")
    disturbed = 0
    for number in range(args.rounds):
        for side in (ours, theirs) if number % 2 == 0 else (theirs, ours):
            disturbed += not side.turn(args.patience)
        note(f"  round {number + 1} of {args.rounds}: {ours.turns[-1]:.2f} s, {theirs.turns[-1]:.2f} s")
    ratios = [b / a for a, b in zip(ours.turns, theirs.turns, strict=True)]
    print(f"\n### {title}, {ours.pictures} pictures\n")
    print("| one thread | pictures/s | ms a picture: median (min..max) | decode | resize | normalise |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for side in (ours, theirs):
        each = [turn / side.pictures * 1e3 for turn in side.turns]
        stages = " | ".join(f"{seconds / side.pictures * 1e3:.2f}" for seconds in side.ask("stages").values())
        middle = statistics.median(each)
        print(f"| {side.name} | {1e3 / middle:.0f} | {middle:.2f} ({min(each):.2f}..{max(each):.2f}) | {stages} |")
    print(
        f"\nchiasm / torchvision in pictures a second: **{statistics.median(ratios):.2f}** "
        f"({min(ratios):.2f}..{max(ratios):.2f}); {disturbed} of {2 * args.rounds} turns were disturbed."
    )
    for side in (ours, theirs):
        side.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="of JPEG files")
    parser.add_argument("--count", type=int, default=1000, help="pictures of it (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each side (default: %(default)s)")
    parser.add_argument("--patience", type=float, default=60, help="seconds to wait for quiet (default: %(default)s)")
    parser.add_argument("--large", action="store_true", help="also 640 x 480 copies of the first 200")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.folder, args.count)
        return
    import PIL
    import torchvision

    program = build()
    print(f"Machine: {machine()}. torchvision {torchvision.__version__}, Pillow {PIL.__version__}.")
    measure(program, "As they are", args.folder, args.count, args)
    if args.large:
        with tempfile.TemporaryDirectory() as folder:
            enlarge(args.folder, folder, 200)
            measure(program, "640 x 480", folder, 200, args)


if __name__ == "__main__":
    main()
