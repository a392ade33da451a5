"""The twin in PyTorch on several ranks: DistributedDataParallel over gloo, one process a rank.

Started by `measure.py`, which pins it and tells it its rank. Averages gradients, as DDP does; its contrasts
see the negatives of their own rank alone, which is less work than ours.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "twin"))
from trainer import Trainer  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="what `chiasm-bench export` wrote, with this rank's batch size")
    parser.add_argument("--ranks", type=int, required=True)
    parser.add_argument("--rank", type=int, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    settings = json.loads((args.folder / "workload.json").read_text())
    trainer = Trainer(args.folder, settings, fused_optimizer=True, compiled=False, onnx=False)
    if args.ranks > 1:
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(args.port)}
        dist.init_process_group("gloo", rank=args.rank, world_size=args.ranks)
        trainer.losses = DistributedDataParallel(trainer.model)
    seconds = [trainer.step()["seconds"] for _ in range(args.steps)]
    if args.rank == 0:
        print(json.dumps(seconds), flush=True)
    if args.ranks > 1:
        dist.barrier()
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
