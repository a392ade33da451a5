"""The PyTorch side of the benchmark: the same model, losses and optimiser as chiasm's.

Reads what `chiasm-bench export` wrote (settings, start weights, the exact inputs of every step) and
answers requests on stdin like `chiasm-bench serve` does. Parameters carry chiasm's names, so the
weights load as they are. Encoder passes are shared between the losses exactly as chiasm's forward
plan shares them: both sides do the same work. With `--apart` every loss has its own.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch

from layers import Attend
from two_streams import TwoStreams


def peer(args: argparse.Namespace) -> Any:
    """What computes the steps of a workload."""
    settings = json.loads((args.folder / "workload.json").read_text())
    if settings["kind"] == "loading":
        from loading import Loading

        return Loading(settings, args.threads, args.tensors)
    if settings["kind"] == "retrieval":
        from retrieval import Evaluation

        return Evaluation(args.folder, settings)
    from trainer import Trainer

    return Trainer(args.folder, settings, args.fused_optimizer, args.compile, args.onnx)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="what `chiasm-bench export` wrote")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--fused-optimizer", action="store_true", help="AdamW in one kernel")
    parser.add_argument("--plain-attention", action="store_true", help="instead of scaled_dot_product_attention")
    parser.add_argument("--compile", action="store_true", help="torch.compile the forward and backward pass")
    parser.add_argument("--apart", action="store_true", help="encoder passes of its own for every loss")
    parser.add_argument("--onnx", action="store_true", help="a tower in ONNX Runtime; needs onnxruntime and onnxscript")
    parser.add_argument("--tensors", action="store_true", help="pictures as tensors from the file on, not as Pillow's")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    Attend.fused, TwoStreams.apart = not args.plain_attention, args.apart
    own = peer(args)
    about = {"batches": own.steps, "batch_size": own.items, "parameters": own.parameters}
    about |= {"ready": True, "version": torch.__version__, "threads": torch.get_num_threads()}
    print(json.dumps(about), flush=True)
    for line in sys.stdin:
        count = int(line.removeprefix("steps "))
        print(json.dumps({"steps": [own.step() for _ in range(count)]}), flush=True)


if __name__ == "__main__":
    main()
