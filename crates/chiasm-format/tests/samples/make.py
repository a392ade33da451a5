"""Writes the samples of this folder with PyTorch 2.15, NumPy and safetensors: the same random tensors in each
way that PyTorch writes them, and once more as safetensors to compare with."""

import argparse
import collections
import pathlib
import pickle

import numpy as np
import torch
from safetensors.torch import save_file

torch.manual_seed(0)
base = torch.randn(6, 8)
weights = collections.OrderedDict(
    dense=base,
    transposed=base.t(),
    strided=base[1:4, 2:7:2],
    scalar=torch.tensor(3.5),
    empty=torch.empty(0, 4),
    bfloat16=torch.randn(3, 3).to(torch.bfloat16),
    float16=torch.randn(5).half(),
    float64=torch.randn(2, dtype=torch.float64),
    complex64=torch.randn(2, dtype=torch.complex64),
    int64=torch.arange(7),
    uint8=torch.arange(4, dtype=torch.uint8),
    bool=torch.tensor([True, False]),
    expanded=torch.ones(1).expand(3, 1),
    parameter=torch.nn.Parameter(torch.randn(2, 2)),
    channels_last=torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
)
save_file({k: v.detach().contiguous().clone() for k, v in weights.items()}, "weights.safetensors")
torch.save(weights, "weights_zip.pt")
torch.save(weights, "weights_protocol_4.pt", pickle_protocol=4)
torch.save(weights, "weights_legacy.pt", _use_new_zipfile_serialization=False)

model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
optimizer = torch.optim.AdamW(model.parameters())
model(torch.randn(5, 3)).sum().backward()
optimizer.step()
torch.save(
    {
        "epoch": 7,
        "global_step": 100,
        "pytorch-lightning_version": "1.3.2",
        "state_dict": model.state_dict(),
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.3), "dirpath": pathlib.PosixPath("/a")}},
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [{"base_lrs": [1e-3], "lr_lambdas": [None]}],
        "hparams_name": "config",
        "hyper_parameters": {"config": {"lr": 1e-5, "losses": {"itm": 1}}, "args": argparse.Namespace(seed=1)},
        "best": np.float64(2.5),
    },
    "lightning.ckpt",
)
torch.save(
    {
        "epoch": 3,
        "net_optim": optimizer.state_dict(),
        "amp": {"loss_scaler0": {"loss_scale": 65536.0, "unskipped": 3}},
        "text_embeddings": torch.nn.Embedding(3, 2).state_dict(),
        "backbone": model.state_dict(),
    },
    "rosita.pkl",
    _use_new_zipfile_serialization=False,
)
torch.save(torch.nn.DataParallel(model).state_dict(), "data_parallel.pth", _use_new_zipfile_serialization=False)
torch.save(model, "whole_model.pt")

arrays = {
    "float32": np.arange(6, dtype="f4").reshape(2, 3),
    "fortran": np.asfortranarray(np.arange(6).reshape(2, 3)),
    "big_endian": np.arange(3, dtype=">i4"),
}
for protocol in 2, 5:
    pathlib.Path(f"arrays_protocol_{protocol}.pkl").write_bytes(pickle.dumps({"model": arrays}, protocol))
values = {
    "tuple": (1, -2, 2**70, True, None, 1.5),
    "text": "é😀 a\\b\n",
    "bytes": b"\xff\x00",
    "bytearray": bytearray(b"xy"),
    "set": {1, 2},
    "frozenset": frozenset([3]),
    "complex": 1 + 2j,
    "ordered": collections.OrderedDict(x=1),
    "default": collections.defaultdict(list, k=[1]),
    "counter": collections.Counter("aab"),
    "array": np.array([[1, 2], [3, 4]]),
    "scalar": np.int64(5),
    "path": pathlib.PosixPath("a/b"),
    "namespace": argparse.Namespace(q=4),
}
for protocol in range(6):
    pathlib.Path(f"values_protocol_{protocol}.pkl").write_bytes(pickle.dumps(values, protocol))
