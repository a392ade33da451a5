"""Towers by themselves, in PyTorch and in ONNX Runtime."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


class ImageTower(nn.Module):
    """Pixels to tokens."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.vision = model.vision

    def forward(self, pixels: Tensor) -> Tensor:
        return self.vision(self.vision.embed_patches(pixels))


class OnnxTower:
    """A tower in ONNX Runtime, a graph for each shape that its batches have."""

    def __init__(self, tower: nn.Module, threads: int) -> None:
        self.tower, self.threads, self.sessions = tower, threads, {}

    def session(self, inputs: tuple[Tensor, ...]) -> Any:
        import onnxruntime

        shape = tuple(inputs[0].shape)
        if shape not in self.sessions:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = self.threads
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / "tower.onnx"
                with contextlib.redirect_stdout(sys.stderr):
                    torch.onnx.export(self.tower, inputs, file, dynamo=True)
                session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
            self.sessions[shape] = session
        return self.sessions[shape]

    def __call__(self, *inputs: Tensor) -> Tensor:
        session = self.session(inputs)
        names = (known.name for known in session.get_inputs())
        feed = {name: value.numpy() for name, value in zip(names, inputs, strict=True)}
        return torch.from_numpy(session.run(None, feed)[0])
