"""BERT over words and regions as one sequence, and the classifier of questions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layers import Batch, Config, Pooler, PostNormLayer, TextEncoder, key_bias

GEOMETRY = 5  # crates/chiasm-nn/src/regions.rs


class RegionEmbedding(nn.Module):
    def __init__(self, c: Config, width: int) -> None:
        super().__init__()
        self.features, self.geometry = nn.Linear(c["features"], width), nn.Linear(GEOMETRY, width)
        self.norm = nn.LayerNorm(width, c["layer_norm_eps"])

    def forward(self, features: Tensor, boxes: Tensor) -> Tensor:
        left, top, right, bottom = boxes.unbind(-1)
        area = (right - left) * (bottom - top)
        place = torch.cat([boxes, area[..., None]], -1)
        return self.norm(self.features(features) + self.geometry(place))


class Fusion(nn.Module):
    def __init__(self, c: Config, least: float | None) -> None:
        super().__init__()
        self.joint_layers = nn.ModuleList(PostNormLayer(c, cross=False, least=least) for _ in range(c["layers"]))


class ClassHead(nn.Module):
    def __init__(self, width: int, classes: int, eps: float) -> None:
        super().__init__()
        self.dense, self.norm = nn.Linear(width, 2 * width), nn.LayerNorm(2 * width, eps)
        self.out = nn.Linear(2 * width, classes)

    def forward(self, pooled: Tensor) -> Tensor:
        return self.out(self.norm(F.gelu(self.dense(pooled))))


def threshold(select: Config | None) -> float | None:
    """The probability that a key must have; only the published rule is implemented here."""
    if select is None or select["rule"] == "off":
        return None
    usual = select["renorm"] and select["fallback"] == "argmax" and select["warmup_steps"] == 0 and select["train"]
    whole = not (select["layers"] or select["heads"] or select["protect_self"] or select["protect_cls"])
    if select["rule"] != "prob_abs" or not usual or not whole or len(select["blocks"]) != 4 or select["rows"] != "all":
        raise SystemExit("error: selection is implemented here for `prob_abs` with its defaults and `warmup_steps` = 0")
    return select["value"]


class OneStream(nn.Module):
    """Words, regions, joint layers and the classifier."""

    def __init__(self, c: Config, objectives: Config) -> None:
        super().__init__()
        if objectives.keys() != {"classification"}:
            raise SystemExit("error: of one stream, only `classification` is implemented here")
        width = c["fusion"]["hidden_size"]
        self.text, self.regions = TextEncoder(c["text"]), RegionEmbedding(c["regions"], width)
        self.fusion = Fusion(c["fusion"], threshold(c.get("select")))
        self.text_pooler = Pooler(width)
        self.class_head = ClassHead(width, c["heads"]["classes"], c["fusion"]["layer_norm_eps"])

    def forward(self, batch: Batch, _fused: int, _objectives: Config) -> dict[str, Tensor]:
        mask = batch["clean.attention_mask"]
        text = self.text(batch["clean.input_ids"], mask)
        regions = self.regions(batch["region_features"], batch["boxes"])
        hidden = torch.cat([text, regions], 1)
        bias = key_bias(torch.cat([mask, mask.new_ones(regions.shape[:2])], 1))
        for layer in self.fusion.joint_layers:
            hidden = layer(hidden, bias)
        logits = self.class_head(self.text_pooler(hidden[:, 0]))
        return {"classification": class_loss(logits, batch)}


def class_loss(logits: Tensor, batch: Batch) -> Tensor:
    """As crates/chiasm-objective/src/classification.rs; which one, the targets of the batch say."""
    if "classes.labels" in batch:
        return F.cross_entropy(logits, batch["classes.labels"])
    if "classes.shares" in batch:
        return F.kl_div(logits.log_softmax(1), batch["classes.shares"], reduction="batchmean")
    return F.binary_cross_entropy_with_logits(logits, batch["classes.worth"], reduction="sum") / len(logits)
