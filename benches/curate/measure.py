"""Rows a second and peak memory of `chiasm curate` on generated rows, and whether a killed run goes on to the same
bytes. Writes docs/results/curate.md.

    python benches/curate/measure.py target/release/chiasm FOLDER --write

FOLDER takes about 1.5 GB. Needs NumPy, and GNU time as /usr/bin/time.
"""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np

RULES = ["words>=3", "score>=-0.2", "unique=text", "top=40/author", "best=30%"]


def generate(folder: Path, rows: int, width: int) -> None:
    """A table and features, half precision, that depend on nothing but the number of rows."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(0)
    words = np.array(["red", "dog", "runs", "over", "the", "old", "bridge", "near", "a", "tall", "tree", "today"])
    texts = draw.integers(0, len(words), (rows, 9))
    lengths = draw.integers(2, 10, rows)
    authors = draw.integers(0, 20_000, rows)
    with open(folder / "pairs.csv", "w") as table:
        table.write("id,image,text,author\n")
        for row in range(rows):
            text = " ".join(words[texts[row, : lengths[row]]])
            table.write(f"{row},images/{row:07}.jpg,{text},user{authors[row]}\n")
    for name in ["image", "text"]:
        shape = (rows, width)
        out = np.lib.format.open_memmap(folder / f"{name}.npy", mode="w+", dtype=np.float16, shape=shape)
        for start in range(0, rows, 50_000):
            block = draw.standard_normal((min(50_000, rows - start), width))
            out[start : start + len(block)] = block
        out.flush()


def command(chiasm: Path, folder: Path, table: str, out: str) -> list[str]:
    features = ["--image-features", folder / f"image{table}.npy", "--text-features", folder / f"text{table}.npy"]
    rules = [part for rule in RULES for part in ("--keep", rule)]
    return [str(part) for part in [chiasm, "curate", folder / f"pairs{table}.csv", *features, *rules, "--out", folder / out]]


def timed(call: list[str], env: dict[str, str]) -> tuple[float, int]:
    """Seconds and peak memory in KiB."""
    start = time.monotonic()
    done = subprocess.run(["/usr/bin/time", "-v", *call], env=env, capture_output=True, text=True, check=True)
    seconds = time.monotonic() - start
    peak = re.search(r"Maximum resident set size \(kbytes\): (\d+)", done.stderr)
    return seconds, int(peak.group(1))


def killed(call: list[str], env: dict[str, str], journal: Path) -> list[str]:
    """Kills the command as soon as its journal says these phases, then runs it to the end."""
    seen = []
    for phase in ["scoring", "comparing", "writing"]:
        child = subprocess.Popen(call, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while child.poll() is None:
            try:
                entry = json.loads(journal.read_text())["phase"]
            except (OSError, ValueError):
                continue
            if phase in entry:
                child.send_signal(signal.SIGKILL)
                seen.append(json.dumps(entry))
                break
        child.wait()
    subprocess.run(call, env=env, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return seen


def head(folder: Path, name: str, lines: int) -> None:
    """The first rows of the table and of its features as smaller ones."""
    with open(folder / "pairs.csv") as table, open(folder / f"pairs{name}.csv", "w") as part:
        for _ in range(lines + 1):
            part.write(table.readline())
    for kind in ["image", "text"]:
        np.save(folder / f"{kind}{name}.npy", np.load(folder / f"{kind}.npy", mmap_mode="r")[:lines])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("chiasm", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    folder = args.folder
    if not (folder / "text.npy").is_file():
        generate(folder, args.rows, args.width)
    env = {**os.environ, "CHIASM_THREADS": "1"}
    lines = []
    for share in [10, 1]:
        name = f"-{share}" if share > 1 else ""
        rows = args.rows // share
        if name and not (folder / f"text{name}.npy").is_file():
            head(folder, name, rows)
        out = f"out{name}"
        shutil.rmtree(folder / out, ignore_errors=True)
        seconds, peak = timed(command(args.chiasm, folder, name, out), env)
        report = json.loads((folder / out / "report.json").read_text())
        lines.append(f"| {rows:,} | {seconds:.1f} | {rows / seconds:,.0f} | {peak / 1024:.0f} | {report['kept']:,} |")
        print(lines[-1])
    shutil.rmtree(folder / "killed", ignore_errors=True)
    call = command(args.chiasm, folder, "", "killed")
    seen = killed(call, env, folder / "killed/.curate/journal.json")
    same = all(
        (folder / "out" / name).read_bytes() == (folder / "killed" / name).read_bytes()
        for name in ["kept.csv", "dropped.csv"]
    )
    print(seen, same)
    assert same and len(seen) >= 2, "the output of the killed run differs"
    reasons = "\n".join(f"| `{why}` | {count:,} |" for why, count in report["dropped"].items())
    kills = "\n".join(f"* `{entry}`" for entry in seen)
    rules = " ".join(f'--keep "{rule}"' for rule in RULES)
    text = f"""# Choosing pairs: what was measured

Generated rows with an id, a picture's path, two to nine words and an author, and features of pictures and texts,
{args.width} numbers of half precision each. One thread; the processor was shared with other programs. Written by
`python benches/curate/measure.py target/release/chiasm FOLDER --write`, which makes the rows, runs

```sh
CHIASM_THREADS=1 /usr/bin/time -v chiasm curate pairs.csv --image-features image.npy --text-features text.npy \\
  {rules} --out out
```

and compares.

| rows | seconds | rows/s | peak memory, MiB | kept |
| ---: | ---: | ---: | ---: | ---: |
{chr(10).join(lines)}

What became of the others of the {args.rows:,}:

| by | rows |
| --- | ---: |
{reasons}

Killed with `kill -9` when the journal said

{kills}

and given again, the same command ended with `kept.csv` and `dropped.csv` of the same bytes as the run that was not
stopped.
"""
    if args.write:
        Path(__file__).parents[2].joinpath("docs/results/curate.md").write_text(text)
    else:
        print(text)


if __name__ == "__main__":
    main()
