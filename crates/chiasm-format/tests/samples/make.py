"""Writes the samples of this folder with PyTorch 2.15, NumPy and safetensors: the same random tensors in each
way that PyTorch writes them, and once more as safetensors to compare with; arrays of NumPy; shards as Python
writes them; a table of regions."""

import argparse
import base64
import collections
import io
import pathlib
import pickle
import tarfile

import numpy as np
import pyarrow as pa
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

numbers = np.arange(6).reshape(2, 3)
arrays = {
    f"{name}_{kind.replace('?', 'b1')}": numbers.astype(np.dtype(order + kind))
    for kind in ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?"]
    for name, order in [("little", "<"), ("big", ">")]
}
arrays |= {
    "fortran": np.asfortranarray(np.arange(24, dtype="<f4").reshape(2, 3, 4)),
    "fortran_big_text": np.asfortranarray(np.array([["a", "bé"], ["", "cc"], ["🙂", "d"]]).astype(">U2")),
    "single": np.array(480),
    "nothing": np.zeros((0, 3), "<f4"),
    "text": np.array(["one", "two 2", ""]),
    "bytes": np.array([b"one", b"two"]),
    "objects": np.array([{"a": 1}, None], dtype=object),
    "structured": np.zeros(2, dtype=[("a", "<f4"), ("b", "<i8")]),
    "complex": np.zeros(2, "<c8"),
    "dates": np.array(["2020-01-01"], "M8[D]"),
}
np.savez("numpy_stored.npz", **arrays)
np.savez_compressed("numpy_deflated.npz", **arrays)

for name, form in [("shard_gnu.tar", tarfile.GNU_FORMAT), ("shard_pax.tar", tarfile.PAX_FORMAT)]:
    with tarfile.open(name, "w", format=form) as archive:
        for member in ["a.jpg", "a.txt", f"{'k' * 130}.jpg", f"{'é' * 70}.json"]:
            entry = tarfile.TarInfo(member)
            entry.size = 3
            archive.addfile(entry, io.BytesIO(b"abc"))
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "a.jpg"
        archive.addfile(link)


def cell(values, kind="<f4"):
    return base64.b64encode(np.array(values, kind).tobytes()).decode()


boxes, features = cell([1, 2, 30, 40]), cell([0.5, 1.5])
labels = [cell([7], "<i8"), cell([0.9]), cell([3], "<i8"), cell([0.1])]
with_box = cell([9, 8, 0.1, 0.2, 0.3, 0.4, 0.2, 0.2])
rows = [
    ["COCO_1", "480", "640", *labels, "1", boxes, features],
    ["COCO_1", features, "480", "640", "1", boxes, *labels],
    ["42", "640", "480", "1", boxes, features],
    ["42", "1", with_box],
    ["42", f'{{"num_boxes": 1, "features": "{with_box}"}}'],
]
pathlib.Path("regions.tsv").write_text("".join("\t".join(row) + "\n" for row in rows))

table = pa.table({
    "image": pa.array([b"abc", b"", None], pa.binary()),
    "caption": pa.array([["a dog", "dogs"], [], None], pa.list_(pa.string())),
    "image_id": pa.array([1, 2, 3]),
    "split": pa.array(["train", "val", "test"]),
})
lz4 = pa.ipc.IpcWriteOptions(compression="lz4")
with pa.RecordBatchFileWriter("table.arrow", table.schema) as writer:
    writer.write_table(table)
with pa.RecordBatchStreamWriter("stream.arrow", table.schema, options=lz4) as writer:
    writer.write_table(table)
