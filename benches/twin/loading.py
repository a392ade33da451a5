"""From files of pictures to batches, with torchvision's transforms and PyTorch's loader."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import InterpolationMode, v2

from layers import Config


class Photos(Dataset):
    """Pictures as a model takes them."""

    def __init__(self, files: list[str], preprocess: Config, tensors: bool) -> None:
        self.files, self.tensors = files, tensors
        size = preprocess["image_size"]
        self.way = v2.Compose(
            [
                v2.Resize(size, InterpolationMode.BICUBIC, antialias=True),
                v2.CenterCrop(size),
                v2.ToImage(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(preprocess["mean"], preprocess["std"]),
            ]
        )

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        file = Path(self.files[index])
        if self.tensors:
            return self.way(decode_image(str(file), ImageReadMode.RGB))
        with Image.open(file) as image:
            return self.way(image.convert("RGB"))


class Loading:
    """All batches of all photos once a step."""

    steps, parameters = 1, 0

    def __init__(self, settings: Config, workers: int, tensors: bool) -> None:
        photos = Photos(settings["files"], settings["preprocess"], tensors)
        self.items = len(photos)
        self.loader = DataLoader(
            photos, batch_size=settings["batch_size"], num_workers=workers, persistent_workers=True
        )

    def step(self) -> dict:
        start = time.perf_counter()
        values = {}
        for number, batch in enumerate(self.loader):
            values[f"picture {number}"] = batch[0].double().square().mean().sqrt().item()
        return {"seconds": time.perf_counter() - start, "values": values}
