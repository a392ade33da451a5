"""Evaluation of retrieval in two stages: both towers, shortlists, and the fusion encoder over these."""

from __future__ import annotations

import json
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from layers import Config
from two_streams import TwoStreams

RANKS = (1, 5, 10)


class Evaluation:
    """A split in memory, and the model that looks at it."""

    steps = 1

    def __init__(self, folder: Path, settings: Config) -> None:
        self.model = TwoStreams(settings["model"], {"contrastive": {}, "matching": {}})
        state = load_file(folder / "model.safetensors")
        own = self.model.state_dict().keys()
        self.model.load_state_dict({name: value for name, value in state.items() if name in own})
        split = load_file(folder / settings["batches"][0]["file"])
        self.pixels, self.image_of_text = split["pixel_values"], split["image_of_text"]
        self.ids, self.mask = split["clean.input_ids"], split["clean.attention_mask"]
        self.lengths = self.mask.sum(1)
        self.shortlist, self.size = settings["shortlist"], settings["calls"]
        self.items = len(self.ids)
        self.parameters = sum(value.numel() for value in self.model.parameters())

    def step(self) -> dict:
        start = time.perf_counter()
        values = self.evaluate()
        return {"seconds": time.perf_counter() - start, "values": values}

    @torch.inference_mode()
    def evaluate(self) -> dict[str, float]:
        images, texts = self.images(), self.texts()
        model = self.model
        image_embeds = F.normalize(model.image_projection(images[:, 0]), eps=1e-8)
        text_embeds = F.normalize(model.text_projection(texts[:, 0]), eps=1e-8)
        table = text_embeds @ image_embeds.T
        of_texts = table.topk(self.shortlist, 1).indices
        of_images = table.T.topk(self.shortlist, 1).indices
        rows = torch.arange(len(texts))[:, None].expand_as(of_texts), torch.arange(len(images))[:, None].expand_as(of_images)
        pairs = torch.stack(
            [torch.cat([of_texts.flatten(), rows[1].flatten()]), torch.cat([rows[0].flatten(), of_images.flatten()])], 1
        ).unique(dim=0)
        fused = torch.full_like(table, float("-inf"))
        for chunk in pairs.split(self.size):
            image, text = chunk.unbind(1)
            fused[text, image] = self.match(images[image], texts[text], self.mask[text], self.lengths[text].max())
        fused += table / model.temperature
        right = self.image_of_text[:, None] == torch.arange(len(images))
        return figures("text to image", table, fused, of_texts, right) | figures(
            "image to text", table.T, fused.T, of_images, right.T
        )

    def images(self) -> Tensor:
        """Tokens of all photos at the width of the fusion encoder."""
        model = self.model
        encoded = [model.vision(model.vision.embed_patches(pixels)) for pixels in self.pixels.split(self.size)]
        return torch.cat([model.image_transform(tokens) for tokens in encoded])

    def texts(self) -> Tensor:
        """Tokens of all texts at that width; every call is padded to its longest text, the result to the longest of all."""
        found = self.pixels.new_zeros(*self.ids.shape, self.model.text_transform.out_features)
        parts = zip(found.split(self.size), self.ids.split(self.size), self.mask.split(self.size), strict=True)
        for part, ids, mask in parts:
            longest = mask.sum(1).max()
            encoded = self.model.text(ids[:, :longest], mask[:, :longest])
            part[:, :longest] = self.model.text_transform(encoded)
        return found

    def match(self, images: Tensor, texts: Tensor, mask: Tensor, longest: Tensor) -> Tensor:
        """Log-odds that the pairs belong together."""
        model = self.model
        text, image = model.fuse([texts[:, :longest]], [images], [mask[:, :longest]])[0]
        pooled = torch.cat([model.text_pooler(text[:, 0]), model.image_pooler(image[:, 0])], 1)
        logits = model.match_head.classifier(pooled)
        return logits[:, 1] - logits[:, 0]


def figures(name: str, table: Tensor, fused: Tensor, listed: Tensor, right: Tensor) -> dict[str, float]:
    """Recalls of one direction before and after re-ranking; ties count as misses. Rows ask."""
    first = ranks(table, right)
    scores, is_right = fused.gather(1, listed), right.gather(1, listed)
    # A query without a right answer in its shortlist keeps its first rank, which is behind the list.
    second = torch.where(is_right.any(1), ranks(scores, is_right), first)
    found = {f"{name}, mean best score": scores.amax(1).double().mean().item()}
    for stage, found_ranks in ((name, first), (f"{name}, re-ranked", second)):
        found |= {f"{stage}, R@{k}": (found_ranks <= k).double().mean().item() for k in RANKS}
    return found


def ranks(scores: Tensor, right: Tensor) -> Tensor:
    """One plus the wrong candidates that are not behind the best right one."""
    best = scores.masked_fill(~right, float("-inf")).amax(1, keepdim=True)
    return 1 + ((scores >= best) & ~right).sum(1)
