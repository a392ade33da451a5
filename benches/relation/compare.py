"""Times k-means and the linear probe beside scikit-learn's, in turns, on 5,000 x 1,536 features.

    python3 -m venv benches/.venv
    benches/.venv/bin/pip install scikit-learn
    benches/.venv/bin/python benches/relation/compare.py --write

builds our side (`cargo build --release -p chiasm-relation --example relation-bench`), checks that both find the same,
and writes docs/results/relation.md. Both get the same features, seeds, threads and settings: k-means++ with 10
restarts, at most 300 iterations, tolerance 1e-4; C = 0.25, gradient
1e-4, up to 1,000 iterations. Besides the time on the clock, the
processor time of each side is taken, which other programs on the machine lengthen less.
"""

import argparse
import os
import platform
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
EXAMPLE = ROOT / "target/release/examples/relation-bench"
ROWS, WIDTH = 5000, 1536
TICK = os.sysconf("SC_CLK_TCK")

PAGE = """# Relation features: what was measured

K-means and the linear probe of `chiasm-relation` beside scikit-learn {version}, on {rows:,} x {width:,} f32 features, threads
of each side: {threads}; {turns} turns each in alternation in one run. Written by
`python benches/relation/compare.py --turns {turns} --threads {threads} --write`.

| | ours, s | scikit-learn, s | scikit-learn / ours | processor time, ratio |
| --- | ---: | ---: | ---: | ---: |
{table}

* Times are medians (smallest to largest); a ratio is the median of the ratios of turns next to each other (smallest to
  largest). Processor time counts all threads of a side.
* k-means: {kmeans}
* Linear probe: {logistic}
* {machine}; {load}
"""


def processor() -> str:
    """What the machine computes with."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def used(pid: int) -> float:
    """Seconds of processor time that a process has had, all threads together."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def spread(values: list[float], digits: int = 2) -> str:
    """Median, smallest and largest."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1, help="of each side; 1 disturbs least")
    parser.add_argument("--ours", type=Path, help="the built example, instead of building it")
    parser.add_argument("--write", action="store_true", help="write docs/results/relation.md")
    arguments = parser.parse_args()
    for name in ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"]:
        os.environ[name] = str(arguments.threads)

    import numpy as np
    import sklearn
    from sklearn.cluster import KMeans
    from sklearn.linear_model import LogisticRegression

    if arguments.ours is None:
        command = ["cargo", "build", "--release", "-p", "chiasm-relation", "--example", "relation-bench"]
        subprocess.run(command, cwd=ROOT, check=True)
    # Twenty groups of posts that overlap, and four classes that one direction in twelve tells of.
    random = np.random.default_rng(0)
    centres = random.normal(size=(20, WIDTH)) * 0.5
    features = centres[random.integers(0, 20, ROWS)] + random.normal(size=(ROWS, WIDTH))
    features = features.astype(np.float32)
    truth = features[:, : WIDTH // 12] @ random.normal(size=(WIDTH // 12, 4))
    labels = (truth + random.normal(size=truth.shape) * truth.std()).argmax(1).astype(np.uint8)

    figures = {"k-means, k = 4": [], "linear probe, 4 classes": []}
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / "features", Path(folder) / "labels"]
        features.tofile(paths[0])
        labels.tofile(paths[1])
        ours = subprocess.Popen(
            [str(arguments.ours or EXAMPLE), *map(str, paths), str(WIDTH), "4", str(arguments.threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

        def ask(line: str):
            before = used(ours.pid)
            ours.stdin.write(line + "\n")
            ours.stdin.flush()
            seconds, figure, iterations = ours.stdout.readline().split()
            return float(seconds), float(figure), int(iterations), used(ours.pid) - before

        def theirs(work):
            before, started = time.process_time(), time.perf_counter()
            figure, iterations = work()
            return time.perf_counter() - started, figure, iterations, time.process_time() - before

        def cluster(seed: int):
            found = KMeans(4, n_init=10, random_state=seed).fit(features)
            return found.inertia_, found.n_iter_

        def regress():
            found = LogisticRegression(C=0.25, max_iter=1000).fit(features, labels)
            weights = found.coef_.astype(np.float64)
            logits = features.astype(np.float64) @ weights.T + found.intercept_
            logits -= logits.max(1, keepdims=True)
            loss = np.log(np.exp(logits).sum(1)) - logits[np.arange(ROWS), labels]
            return 0.5 * (weights**2).sum() + 0.25 * loss.sum(), int(found.n_iter_[0])

        for turn in range(-1, arguments.turns):
            for name, line, work in [
                ("k-means, k = 4", f"kmeans {turn + 1}", lambda: cluster(turn + 1)),
                ("linear probe, 4 classes", "logistic", regress),
            ]:
                pair = [lambda: ask(line), lambda: theirs(work)]
                # Who goes first changes every turn.
                order = [0, 1] if turn % 2 == 0 else [1, 0]
                results = {side: pair[side]() for side in order}
                # The first turn warms up.
                if turn >= 0:
                    figures[name].append((results[0], results[1]))
        ours.stdin.close()
        ours.wait()

    table, said = [], {}
    for name, turns in figures.items():
        clock = [[turn[side][0] for turn in turns] for side in (0, 1)]
        ratios = [theirs[0] / mine[0] for mine, theirs in turns]
        work = [theirs[3] / max(mine[3], 1 / TICK) for mine, theirs in turns]
        table.append(f"| {name} | {spread(clock[0])} | {spread(clock[1])} | {spread(ratios, 1)} | {spread(work, 1)} |")
        best = [statistics.median(turn[side][1] for turn in turns) for side in (0, 1)]
        steps = [statistics.median(turn[side][2] for turn in turns) for side in (0, 1)]
        said[name] = (best, steps)
    (inertia, steps), (objective, fits) = said.values()
    if inertia[0] > inertia[1] * 1.005:
        raise SystemExit(f"inertia {inertia[0]} is above {inertia[1]}")
    if abs(objective[0] / objective[1] - 1) > 1e-4:
        raise SystemExit(f"objectives {objective} differ")
    page = PAGE.format(
        version=sklearn.__version__,
        rows=ROWS,
        width=WIDTH,
        threads=arguments.threads,
        turns=arguments.turns,
        table="\n".join(table),
        kmeans=f"median inertia {inertia[0]:,.0f} against {inertia[1]:,.0f}; {steps[0]:.0f} and {steps[1]:.0f} iterations\n"
        "  of the best restart.",
        logistic=f"objective {objective[0]:.4f} against {objective[1]:.4f}; {fits[0]:.0f} and {fits[1]:.0f} iterations.",
        machine=processor(),
        load=f"mean load {os.getloadavg()[1]:.1f} during the run.",
    )
    print(page)
    if arguments.write:
        (ROOT / "docs/results/relation.md").write_text(page)


if __name__ == "__main__":
    main()
