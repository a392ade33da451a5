"""Attention, layers and encoders of the twin, with the names that chiasm gives their parameters."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HEAD_NORM_EPS = 1e-5  # crates/chiasm-nn/src/heads.rs
MASKED_SCORE = -10_000.0  # crates/chiasm-nn/src/attention.rs
DROPPED_SCORE = -1e30  # crates/chiasm-nn/src/select/plain.rs

Config = dict[str, Any]
Batch = dict[str, Tensor]


def selected(scores: Tensor, least: float) -> Tensor:
    """Scores in which a key whose probability is below `least` counts no longer; the largest of a row stays.

    No gradient goes into which keys these are.
    """
    with torch.no_grad():
        probabilities = scores.softmax(-1)
        dropped = probabilities < probabilities.amax(-1, keepdim=True).clamp(max=least)
    return scores.masked_fill(dropped, DROPPED_SCORE)


class Attend:
    """Mixes values by the agreement of queries and keys, in one of two ways.

    Selection needs the scores, so there only one of them is left.
    """

    fused = True

    @classmethod
    def run(
        cls, query: Tensor, key: Tensor, value: Tensor, heads: int, bias: Tensor | None, least: float | None = None
    ) -> Tensor:
        def split(tensor: Tensor) -> Tensor:
            return tensor.unflatten(2, (heads, -1)).transpose(1, 2)

        query, key, value = split(query), split(key), split(value)
        if cls.fused and least is None:
            mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        else:
            scores = (query * query.shape[-1] ** -0.5) @ key.transpose(2, 3)
            scores = scores if bias is None else scores + bias
            mixed = (scores if least is None else selected(scores, least)).softmax(-1) @ value
        return mixed.transpose(1, 2).flatten(2)


class SelfAttention(nn.Module):
    def __init__(self, width: int, heads: int, least: float | None = None) -> None:
        super().__init__()
        self.qkv, self.out, self.heads = nn.Linear(width, 3 * width), nn.Linear(width, width), heads
        self.least = least

    def forward(self, hidden: Tensor, bias: Tensor | None) -> Tensor:
        query, key, value = self.qkv(hidden).chunk(3, dim=2)
        return self.out(Attend.run(query, key, value, self.heads, bias, self.least))


class CrossAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.query, self.kv = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.out, self.heads = nn.Linear(width, width), heads

    def forward(self, hidden: Tensor, other: Tensor, bias: Tensor | None) -> Tensor:
        key, value = self.kv(other).chunk(2, dim=2)
        return self.out(Attend.run(self.query(hidden), key, value, self.heads, bias))


class FeedForward(nn.Module):
    def __init__(self, width: int, inner: int, activation: str) -> None:
        super().__init__()
        self.up, self.down, self.quick = nn.Linear(width, inner), nn.Linear(inner, width), activation == "quick_gelu"

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = self.up(hidden)
        return self.down(hidden * torch.sigmoid(1.702 * hidden) if self.quick else F.gelu(hidden))


class PostNormLayer(nn.Module):
    """A BERT layer; with `cross`, one that also attends to the other modality; with `least`, one that selects."""

    def __init__(self, c: Config, cross: bool, least: float | None = None) -> None:
        super().__init__()
        width, eps = c["hidden_size"], c["layer_norm_eps"]
        self.attention = SelfAttention(width, c["num_heads"], least)
        self.attention_norm = nn.LayerNorm(width, eps)
        if cross:
            self.cross = CrossAttention(width, c["num_heads"])
            self.cross_norm = nn.LayerNorm(width, eps)
        self.mlp = FeedForward(width, c["intermediate_size"], "gelu")
        self.mlp_norm = nn.LayerNorm(width, eps)

    def forward(
        self, hidden: Tensor, bias: Tensor | None, other: Tensor | None = None, other_bias: Tensor | None = None
    ) -> Tensor:
        hidden = self.attention_norm(hidden + self.attention(hidden, bias))
        if other is not None:
            hidden = self.cross_norm(hidden + self.cross(hidden, other, other_bias))
        return self.mlp_norm(hidden + self.mlp(hidden))


class TextEncoder(nn.Module):
    def __init__(self, c: Config) -> None:
        super().__init__()
        width, self.offset = c["hidden_size"], c["position_offset"]
        self.words = nn.Embedding(c["vocab_size"], width)
        self.positions = nn.Embedding(c["position_rows"] or c["max_text_len"] + self.offset, width)
        self.types = nn.Embedding(c["type_rows"], width)
        self.norm = nn.LayerNorm(width, c["layer_norm_eps"])
        self.layers = nn.ModuleList(PostNormLayer(c, cross=False) for _ in range(c["layers"]))

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        rows = mask.cumsum(1) * mask
        rows = rows + self.offset - 1 if self.offset else (rows - 1) * mask
        hidden = self.norm(self.words(ids) + self.positions(rows) + self.types.weight[0])
        bias = key_bias(mask)
        for layer in self.layers:
            hidden = layer(hidden, bias)
        return hidden


class VisionBlock(nn.Module):
    def __init__(self, c: Config) -> None:
        super().__init__()
        width, eps = c["hidden_size"], c["layer_norm_eps"]
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width, eps), nn.LayerNorm(width, eps)
        self.attention = SelfAttention(width, c["num_heads"])
        self.mlp = FeedForward(width, c["intermediate_size"], c["activation"])

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = hidden + self.attention(self.attention_norm(hidden), None)
        return hidden + self.mlp(self.mlp_norm(hidden))


class VisionEncoder(nn.Module):
    def __init__(self, c: Config) -> None:
        super().__init__()
        width, self.patch = c["hidden_size"], c["patch_size"]
        count = (c["image_size"] // self.patch) ** 2
        self.patches = nn.Linear(3 * self.patch**2, width, bias=False)
        self.class_token = nn.Parameter(torch.empty(width))
        self.positions = nn.Parameter(torch.empty(1 + count, width))
        self.norm_pre = nn.LayerNorm(width, c["layer_norm_eps"])
        self.blocks = nn.ModuleList(VisionBlock(c) for _ in range(c["layers"]))
        self.norm_post = nn.LayerNorm(width, c["layer_norm_eps"])

    def embed_patches(self, pixels: Tensor) -> Tensor:
        batch, channels, height, width = pixels.shape
        p = self.patch
        tiles = pixels.view(batch, channels, height // p, p, width // p, p).permute(0, 2, 4, 1, 3, 5)
        return self.patches(tiles.flatten(3).flatten(1, 2)) + self.positions[1:]

    def forward(self, patches: Tensor) -> Tensor:
        first = (self.class_token + self.positions[0]).expand(len(patches), 1, -1)
        hidden = self.norm_pre(torch.cat([first, patches], 1))
        for block in self.blocks:
            hidden = block(hidden)
        return self.norm_post(hidden)


class FusionEncoder(nn.Module):
    def __init__(self, c: Config) -> None:
        super().__init__()
        self.text_layers = nn.ModuleList(PostNormLayer(c, cross=True) for _ in range(c["layers"]))
        self.image_layers = nn.ModuleList(PostNormLayer(c, cross=True) for _ in range(c["layers"]))

    def forward(self, text: Tensor, image: Tensor, text_bias: Tensor) -> tuple[Tensor, Tensor]:
        for for_text, for_image in zip(self.text_layers, self.image_layers, strict=True):
            text, image = for_text(text, text_bias, image, None), for_image(image, None, text, text_bias)
        return text, image


class Pooler(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)

    def forward(self, first: Tensor) -> Tensor:
        return torch.tanh(self.dense(first))


class Projection(nn.Module):
    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.dense, self.norm = nn.Linear(width, width), nn.LayerNorm(width, HEAD_NORM_EPS)
        self.out = nn.Linear(width, out)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.out(F.gelu(self.norm(self.dense(hidden))))


class MatchHead(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.classifier = nn.Linear(2 * width, 2)


class MlmHead(nn.Module):
    def __init__(self, width: int, vocab: int, eps: float) -> None:
        super().__init__()
        self.dense, self.norm = nn.Linear(width, width), nn.LayerNorm(width, eps)
        self.decoder = nn.Linear(width, vocab)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.decoder(self.norm(F.gelu(self.dense(tokens))))


def key_bias(mask: Tensor) -> Tensor:
    """Added to the scores: 0 where a key counts, -10,000 where it is padding."""
    return ((1.0 - mask.float()) * MASKED_SCORE)[:, None, None, :]
