"""The Python package webdataset on the other side of compare.py: the same passes, the same protocol as
`crates/chiasm-data/examples/read_shards.rs`."""

import json
import sys
import time
from pathlib import Path

import webdataset as wds

folder, mode = Path(sys.argv[1]), sys.argv[2]
shards = sorted(str(path) for path in folder.glob("*.tar"))


def whole() -> dict[str, int]:
    """Every sample once, in order."""
    dataset = wds.WebDataset(shards, shardshuffle=False)
    if mode == "rgb":
        dataset = dataset.decode("rgb8")
    samples = size = text = pixels = 0
    for sample in dataset:
        samples += 1
        picture, caption = sample["jpg"], sample["txt"]
        if mode == "rgb":
            pixels += picture.shape[0] * picture.shape[1]
        else:
            size += len(picture)
            caption = caption.decode()
        text += len(caption.strip().encode())
    return {"samples": samples, "bytes": size, "text": text, "pixels": pixels}


print(json.dumps({"batches": 1, "version": wds.__version__}), flush=True)
for _ in sys.stdin:
    started = time.perf_counter()
    values = whole()
    print(json.dumps({"steps": [{"seconds": time.perf_counter() - started, "values": values}]}), flush=True)
