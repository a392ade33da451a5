"""Regenerates a part of docs/results/serve.md: the server beside the plain embedding loop and beside PyTorch with FastAPI.

    python3 -m venv benches/.venv
    benches/.venv/bin/pip install torch transformers fastapi uvicorn
    python3 benches/serve/peer.py --model MINILM --python benches/.venv/bin/python --write docs/results/serve.md

MINILM is a folder with all-MiniLM-L6-v2. All three hold the same weights, are alive at once and work in turns; answers
are compared first. Needs `hey` on the PATH.
"""

import argparse
import base64
import json
import socket
import statistics
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path

from load import TEXT, Server, hey
from study import CHIASM, publish

HERE = Path(__file__).resolve().parent
# A picture of one point.
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGNwaDgAAAKEAYEml6crAAAAAElFTkSuQmCC"
BATCH = 128
# Texts of 12 to 75 tokens, as a corpus has.
MIXED = [" and ".join([TEXT["input"]] * (1 + place % 6)) for place in range(BATCH)]
LOADS = {
    "one client, a text a request": (TEXT, 1, 1),
    "32 clients, a text a request": (TEXT, 32, 1),
    f"2 clients, {BATCH} equal texts a request": ({"input": [TEXT["input"]] * BATCH}, 2, BATCH),
    f"2 clients, {BATCH} texts of 12 to 75 tokens a request": ({"input": MIXED}, 2, BATCH),
}


class Peer:
    """PyTorch behind FastAPI on a free port."""

    def __init__(self, python, model):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.process = subprocess.Popen([python, HERE / "torch_server.py", model, "--port", str(port)])
        for _ in range(600):
            try:
                urllib.request.urlopen(self.url + "/health").read()
                return
            except OSError:
                if self.process.poll() is not None:
                    raise SystemExit("the peer ended; its message is above") from None
                time.sleep(0.2)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(timeout=30)


def vectors(server, texts):
    body = json.dumps({"input": texts}).encode()
    request = urllib.request.Request(server.url + "/v1/embeddings", body, {"Content-Type": "application/json"})
    return [row["embedding"] for row in json.load(urllib.request.urlopen(request))["data"]]


class Loop:
    """Texts a second of `chiasm embed` on the same texts: two sizes, so that opening the model cancels out."""

    def __init__(self, model, folder):
        self.model, self.folder = model, Path(folder)
        (self.folder / "a.png").write_bytes(base64.b64decode(PIXEL))

    def seconds(self, texts):
        table = self.folder / "texts.csv"
        table.write_text("image,caption\n" + "".join(f'a.png,"{text}"\n' for text in texts))
        began = time.monotonic()
        command = [CHIASM, "embed", self.model, "--data", table, "--out", self.folder / "out.safetensors"]
        subprocess.run(list(map(str, command)), check=True, capture_output=True)
        return time.monotonic() - began

    def rate(self, texts, times):
        return (times - 1) * len(texts) / (self.seconds(texts * times) - self.seconds(texts))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--python", required=True, help="with torch, transformers, fastapi and uvicorn")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=8, help="of each load in a turn")
    parser.add_argument("--write")
    arguments = parser.parse_args()
    rates = {}
    with (
        Server(arguments.model) as ours,
        Peer(arguments.python, arguments.model) as peer,
        tempfile.TemporaryDirectory() as folder,
    ):
        pairs = zip(vectors(ours, MIXED), vectors(peer, MIXED))
        apart = max(abs(a - b) for own, other in pairs for a, b in zip(own, other))
        if apart > 1e-4:
            raise SystemExit(f"the answers differ by {apart}")
        loop = Loop(arguments.model, folder)
        for turn in range(-1, arguments.turns):
            for name, (body, clients, texts) in LOADS.items():
                sides = [("ours", ours), ("peer", peer)]
                for who, server in sides[:: 1 if turn % 2 else -1]:
                    seen = hey(server, "/v1/embeddings", body, "-z", f"{arguments.seconds}s", "-c", clients)
                    if set(seen["status"]) != {200}:
                        raise SystemExit(f"{who}: {seen['status']}")
                    # The first turn warms up.
                    if turn >= 0:
                        rates.setdefault((name, who), []).append(texts * seen["rate"])
                if texts == BATCH and turn >= 0:
                    rates.setdefault((name, "loop"), []).append(loop.rate(body["input"], 20))
    lines = [
        "| load | server, texts/s | PyTorch + FastAPI, texts/s | server / PyTorch | `chiasm embed`, texts/s | server / loop |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]

    def ratio(name, who):
        of = [a / b for a, b in zip(rates[name, "ours"], rates[name, who])]
        return f"{statistics.median(of):.2f} ({min(of):.2f} to {max(of):.2f})"

    for name in LOADS:
        median = lambda who: f"{statistics.median(rates[name, who]):.0f}" if (name, who) in rates else ""
        beside = ratio(name, "loop") if (name, "loop") in rates else ""
        cells = [name, median("ours"), median("peer"), ratio(name, "peer"), median("loop"), beside]
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        f"Medians of {arguments.turns} turns of {arguments.seconds} s, ratios of turns next to each other (smallest to"
        f" largest); the vectors of both servers differ by {apart:.0e} at most.",
    ]
    publish({"peer": lines}, arguments.write)


if __name__ == "__main__":
    main()
