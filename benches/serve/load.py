"""Regenerates a part of docs/results/serve.md: how the server behaves under load.

    python3 benches/serve/load.py --run RUN --write docs/results/serve.md

RUN is a run with a common space. Needs `hey` (a load generator) on the PATH; everything else is the standard
library. `--overload SECONDS` is how long ten times the capacity is asked for; 600 for the figures of the page.
"""

import argparse
import json
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from study import CHIASM, publish

TEXT = {"input": "two dogs run across a beach while a child watches"}


class Server:
    """A server on a free port, stopped as a service manager stops one."""

    def __init__(self, run, *words):
        command = [str(CHIASM), "serve", str(run), "--port", "0", "--json", *map(str, words)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.log = []
        threading.Thread(target=lambda: self.log.extend(self.process.stderr), daemon=True).start()
        self.url = json.loads(self.process.stdout.readline())["address"]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=30)

    def get(self, path):
        return urllib.request.urlopen(self.url + path).read().decode()

    def answered(self):
        """Answers of `/v1/embeddings` so far, by status."""
        found = re.findall(r'requests_total\{path="/v1/embeddings",status="(\d+)"\} (\d+)', self.get("/metrics"))
        return {int(status): int(count) for status, count in found}

    def resident(self):
        """Memory of the process, in MB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status).group(1)) / 1024


def hey(server, path, body, *words):
    """What a load generator saw: latencies in ms by percentile, requests a second, counts by status."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        file.write(json.dumps(body))
        file.flush()
        command = ["hey", *map(str, words), "-t", "70", "-m", "POST", "-T", "application/json", "-D", file.name]
        printed = subprocess.run([*command, server.url + path], capture_output=True, text=True, check=True).stdout
    latency = {int(p): 1000 * float(s) for p, s in re.findall(r"(\d+)%+ in ([\d.]+) secs", printed)}
    status = {int(code): int(count) for code, count in re.findall(r"\[(\d+)\]\s+(\d+) responses", printed)}
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", printed).group(1))
    return {"latency": latency, "status": status, "rate": rate}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True)
    parser.add_argument("--overload", type=int, default=600)
    parser.add_argument("--write")
    arguments = parser.parse_args()
    lines = []
    with Server(arguments.run) as server:
        hey(server, "/v1/embeddings", TEXT, "-z", "5s", "-c", 16)
        capacity = hey(server, "/v1/embeddings", TEXT, "-z", "20s", "-c", 32)
        one = hey(server, "/v1/embeddings", TEXT, "-z", "10s", "-c", 1)
        batch = {"input": [TEXT["input"]] * 128}
        batched = hey(server, "/v1/embeddings", batch, "-z", "15s", "-c", 2)
        rate = 0.8 * capacity["rate"]
        workers = 16
        steady = hey(server, "/v1/embeddings", TEXT, "-z", "30s", "-c", workers, "-q", rate / workers)
        print("capacity", capacity["rate"], file=sys.stderr)
    rows = [
        ("one client", one), ("32 clients: capacity", capacity), ("80 % of capacity", steady),
        ("2 clients, 128 texts a request", batched),
    ]
    lines += [
        "| load | requests/s | texts/s | p50, ms | p99, ms | statuses |",
        "| --- | ---: | ---: | ---: | ---: | --- |",
    ]
    for name, seen in rows:
        texts = seen["rate"] * (128 if seen is batched else 1)
        statuses = ", ".join(f"{code}: {count}" for code, count in sorted(seen["status"].items()))
        # Of fewer than a hundred answers there is no 99th percentile.
        p50, p99 = (f"{seen['latency'][p]:.1f}" if p in seen["latency"] else "" for p in (50, 99))
        lines.append(f"| {name} | {seen['rate']:.0f} | {texts:.0f} | {p50} | {p99} | {statuses} |")
    with Server(arguments.run, "--max-requests", 32) as server:
        hey(server, "/v1/embeddings", TEXT, "-z", "10s", "-c", 32)
        memory = []
        done = threading.Event()

        def watch():
            while not done.wait(5):
                memory.append((time.monotonic(), server.resident()))

        watcher = threading.Thread(target=watch)
        watcher.start()
        # Counted by the server: `hey` keeps the first million answers and forgets the others.
        before = server.answered()
        hey(server, "/v1/embeddings", TEXT, "-z", f"{arguments.overload}s", "-c", 320)
        after = server.answered()
        over = {status: count - before.get(status, 0) for status, count in after.items()}
        done.set()
        watcher.join()
        health = json.loads(server.get("/health"))["status"]
        panics = sum("panicked" in line for line in server.log)
    later = memory[len(memory) // 5 :]
    mean_t = sum(t for t, _ in later) / len(later)
    mean_m = sum(m for _, m in later) / len(later)
    slope = sum((t - mean_t) * (m - mean_m) for t, m in later) / sum((t - mean_t) ** 2 for t, _ in later)
    statuses = ", ".join(f"{code}: {count:,}" for code, count in sorted(over.items()))
    kept = over.get(200, 0) / arguments.overload / capacity["rate"]
    lines += [
        "",
        f"Ten times the clients that the server answers at a time (320 of 32), for {arguments.overload} s:"
        f" {statuses}; {panics} panics, `/health` {health}; memory {later[-1][1]:.0f} MB, slope"
        f" {60 * slope:+.2f} MB a minute after the first fifth. {100 * kept:.0f} % of the capacity was answered while"
        " the others, who ask again at once, were refused.",
    ]
    publish({"load": lines}, arguments.write)


if __name__ == "__main__":
    main()
