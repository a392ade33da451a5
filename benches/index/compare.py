"""Times our search index beside faiss and usearch: exact scans and HNSW graphs over the same vectors, in one run.

    python3 -m venv benches/.venv
    benches/.venv/bin/pip install faiss-cpu usearch numpy
    benches/.venv/bin/python benches/index/compare.py --write

builds our side (`cargo build --release -p chiasm-index --example index-bench`), which builds an index of clustered unit
vectors and answers the same queries, one at a time on one thread. Graphs of all sides have 16 neighbours (32 on the
lowest level) and are built with a breadth of 128. Besides the time on the clock, the processor time is taken, which
other programs on the machine lengthen less. `--write` replaces the table in docs/results/index.md.
"""

import argparse
import json
import os
import platform
import re
import resource
import subprocess
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
EXAMPLE = ROOT / "target/release/examples/index-bench"
PAGE = ROOT / "docs/results/index.md"
WIDTH, TOP, QUERIES, CENTRES = 256, 10, 500, 1000
BREADTHS = [32, 64, 128]


def vectors(np, count: int, centres, seed: int):
    """Unit vectors around centres: the noise is about as long as nine tenths of the centre."""
    random = np.random.default_rng(seed)
    parts = []
    for start in range(0, count, 50_000):
        size = min(50_000, count - start)
        part = centres[random.integers(0, len(centres), size)]
        part = part + random.normal(size=(size, WIDTH)).astype(np.float32) * (0.8 / 16)
        parts.append(part / np.linalg.norm(part, axis=1, keepdims=True))
    return np.concatenate(parts).astype("<f4")


def processor() -> str:
    """What the machine computes with."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def children() -> float:
    """Processor seconds of the programs that were run and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class Bench:
    """Takes times and keeps the rows of the table."""

    def __init__(self, np, truth):
        self.np, self.truth, self.rows = np, truth, []

    def recall(self, found) -> float:
        pairs = zip(found, self.truth)
        return sum(len(set(map(int, a)) & set(map(int, b))) for a, b in pairs) / self.truth.size

    def row(self, who: str, times, processor_seconds: float, found) -> None:
        median = float(self.np.median(times)) * 1e3
        each = processor_seconds / len(times) * 1e3
        self.rows.append(f"| {who} | {median:.2f} | {each:.2f} | {self.recall(found):.4f} |")
        print(self.rows[-1], flush=True)

    def ask(self, who: str, queries, search) -> None:
        search(queries[:1])
        times, found, before = [], [], time.process_time()
        for query in queries:
            started = time.perf_counter()
            found.append(search(query[None]))
            times.append(time.perf_counter() - started)
        self.row(who, times, time.process_time() - before, found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--threads", type=int, default=2, help="that build the graphs; queries have one")
    parser.add_argument("--ours", type=Path, help="the built example, instead of building it")
    parser.add_argument("--only-ours", action="store_true", help="leave out the graphs of the others")
    parser.add_argument("--write", action="store_true", help="replace the table in docs/results/index.md")
    arguments = parser.parse_args()

    import faiss
    import numpy as np
    import usearch
    from usearch.index import Index, MetricKind, search

    if arguments.ours is None:
        command = ["cargo", "build", "--release", "-p", "chiasm-index", "--example", "index-bench"]
        subprocess.run(command, cwd=ROOT, check=True)
    program = str(arguments.ours or EXAMPLE)
    centres = np.random.default_rng(0).normal(size=(CENTRES, WIDTH)).astype(np.float32)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    base, queries = vectors(np, arguments.rows, centres, 1), vectors(np, QUERIES, centres, 2)
    load = [os.getloadavg()[0]]
    builds = []

    def built(who: str, started: float, used: float) -> None:
        builds.append(f"{who} {time.perf_counter() - started:.1f} s ({used:.1f} s of processor time)")
        print(builds[-1], flush=True)

    flat = faiss.IndexFlatIP(WIDTH)
    flat.add(base)
    faiss.omp_set_num_threads(1)
    bench = Bench(np, flat.search(queries, TOP)[1])

    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / name for name in ["base", "queries", "found"]]
        base.tofile(files[0])
        queries.tofile(files[1])
        index = str(Path(folder) / "index")
        threads = {**os.environ, "RAYON_NUM_THREADS": str(arguments.threads)}
        started, before = time.perf_counter(), children()
        command = [program, "build", str(files[0]), str(WIDTH), index]
        figures = json.loads(subprocess.run(command, stdout=-1, check=True, env=threads).stdout)
        built("ours, records and graph", started, children() - before)
        sizes = {path.name.split("-")[0]: path.stat().st_size for path in Path(index).iterdir()}
        opened = []
        for how in ["exact", *BREADTHS]:
            command = [program, "query", str(files[1]), index, str(how), str(files[2])]
            one = {**os.environ, "RAYON_NUM_THREADS": "1"}
            before = children()
            answer = json.loads(subprocess.run(command, stdout=-1, check=True, env=one).stdout)
            found = np.fromfile(files[2], "<u4").reshape(QUERIES, TOP)
            opened.append(answer["open_s"])
            who = "ours, exact" if how == "exact" else f"ours, breadth {how}"
            bench.row(who, answer["times_s"], children() - before, found)

    bench.ask("faiss, exact (`IndexFlatIP`)", queries, lambda q: flat.search(q, TOP)[1][0])
    exact = lambda q: search(base, q, TOP, MetricKind.IP, exact=True, threads=1).keys.reshape(-1)
    bench.ask("usearch, exact", queries, exact)
    if not arguments.only_ours:
        graph = faiss.IndexHNSWFlat(WIDTH, 16, faiss.METRIC_INNER_PRODUCT)
        graph.hnsw.efConstruction = 128
        faiss.omp_set_num_threads(arguments.threads)
        started, before = time.perf_counter(), time.process_time()
        graph.add(base)
        built("faiss", started, time.process_time() - before)
        faiss.omp_set_num_threads(1)
        for breadth in BREADTHS:
            graph.hnsw.efSearch = breadth
            bench.ask(f"faiss, breadth {breadth}", queries, lambda q: graph.search(q, TOP)[1][0])
        graph = Index(ndim=WIDTH, metric=MetricKind.IP, dtype="f32", connectivity=16, expansion_add=128)
        started, before = time.perf_counter(), time.process_time()
        graph.add(np.arange(len(base)), base, threads=arguments.threads)
        built("usearch", started, time.process_time() - before)
        for breadth in BREADTHS:
            graph.expansion_search = breadth
            bench.ask(f"usearch, breadth {breadth}", queries, lambda q: graph.search(q, TOP, threads=1).keys)

    load.append(os.getloadavg()[0])
    table = "\n".join(
        [
            f"{len(base):,} x {WIDTH} unit vectors around {CENTRES:,} centres, {QUERIES} queries, the {TOP} nearest of each;",
            f"faiss {faiss.__version__}, usearch {usearch.__version__}.",
            "",
            f"| one query on one thread | median, ms | processor time, ms | recall@{TOP} |",
            "| --- | ---: | ---: | ---: |",
            *bench.rows,
            "",
            f"* Built with {arguments.threads} threads: {'; '.join(builds)}.",
            f"* Ours on disk, MB: {', '.join(f'{name} {size / 1e6:.1f}' for name, size in sorted(sizes.items()) if size > 1000)}.",
            f"* Ours opened in {max(opened) * 1e3:.1f} ms at most, for writing in {figures['writer_open_s'] * 1e3:.0f} ms.",
            f"* {processor()}; load {load[0]:.1f} before and {load[1]:.1f} after, so other programs took part of the machine:",
            "  processor time is the figure to compare. That of ours counts starting the program and opening the index.",
        ]
    )
    print(table)
    if arguments.write:
        marks = r"(<!-- compare -->\n).*?(<!-- end -->)"
        page = re.sub(marks, lambda found: f"{found[1]}{table}\n{found[2]}", PAGE.read_text(), flags=re.S)
        PAGE.write_text(page)


if __name__ == "__main__":
    main()
