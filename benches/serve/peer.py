"""Regenerates the peer's part of docs/results/serve.md: `chiasm serve` beside PyTorch and FastAPI.

    benches/.venv/bin/pip install torch numpy transformers fastapi uvicorn
    benches/.venv/bin/python benches/serve/peer.py --model MINILM --write docs/results/serve.md

MINILM is a folder with all-MiniLM-L6-v2. Both servers embed the same texts with the same weights, one server at a
time, in turns; that their vectors agree is checked first. Needs `hey` on the PATH.
"""

import argparse
import json
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import study
from load import TEXT, Server, hey

SENTENCES = [
    TEXT["input"],
    "a man",
    "an old woman in a blue coat sells oranges from a wooden cart in front of the station",
]
MANY = {"input": [TEXT["input"]] * 128}
# Name, body, texts a request, words for the load generator.
LOADS = [
    ("one client, a text a request", TEXT, 1, ["-z", "6s", "-c", 1]),
    ("32 clients, a text a request", TEXT, 1, ["-z", "8s", "-c", 32]),
    ("2 clients, 128 texts a request", MANY, 128, ["-z", "10s", "-c", 2]),
]


class Peer:
    """The other server."""

    def __init__(self, model):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        script = Path(__file__).with_name("torch_server.py")
        self.url = f"http://127.0.0.1:{port}"
        self.process = subprocess.Popen([sys.executable, script, str(model), str(port)])
        for _ in range(600):
            try:
                embed(self, "ready")
                return
            except OSError:
                time.sleep(0.1)
        sys.exit("the peer did not start")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(timeout=30)


def embed(server, text):
    body = json.dumps({"input": text}).encode()
    request = urllib.request.Request(server.url + "/v1/embeddings", body, {"content-type": "application/json"})
    return json.loads(urllib.request.urlopen(request).read())["data"][0]["embedding"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write")
    arguments = parser.parse_args()
    servers = {"chiasm": lambda: Server(arguments.model), "peer": lambda: Peer(arguments.model)}
    vectors, rates = {}, {}
    for turn in range(arguments.rounds):
        # Who goes first has a cooler machine: they take turns in that, too.
        for name in sorted(servers, reverse=turn % 2 == 1):
            with servers[name]() as server:
                vectors[name] = [embed(server, sentence) for sentence in SENTENCES]
                for load, body, texts, words in LOADS:
                    hey(server, "/v1/embeddings", body, "-z", "2s", "-c", words[-1])
                    seen = hey(server, "/v1/embeddings", body, *words)
                    if set(seen["status"]) != {200}:
                        sys.exit(f"{name}: {seen['status']}")
                    rates.setdefault((load, name), []).append(texts * seen["rate"])
                    print(turn, name, load, rates[load, name][-1], file=sys.stderr)
    for own, other in zip(vectors["chiasm"], vectors["peer"]):
        difference = max(abs(a - b) for a, b in zip(own, other))
        if difference > 1e-4:
            sys.exit(f"the vectors differ by {difference}")
    rows = []
    for load, *_ in LOADS:
        own, other = rates[load, "chiasm"], rates[load, "peer"]
        ratios = [a / b for a, b in zip(own, other)]
        rows.append([load, f"{statistics.median(own):.0f}", f"{statistics.median(other):.0f}", study.spread(ratios, 2)])
    lines = study.table(["load", "chiasm, texts/s", "PyTorch + FastAPI, texts/s", "ratio"], rows)
    study.publish({"peer": lines}, arguments.write)


if __name__ == "__main__":
    main()
