"""Two towers, the fusion encoder and SCL's losses."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layers import (
    Batch,
    Config,
    FusionEncoder,
    MatchHead,
    MlmHead,
    Pooler,
    Projection,
    TextEncoder,
    VisionEncoder,
    key_bias,
)

TEXT_TYPE, IMAGE_TYPE = 0, 1  # crates/chiasm-nn/src/model.rs

# What of a text each loss reads.
VIEWS = {
    "contrastive": ["clean"], "matching": ["clean"], "mlm": ["mlm"], "global_completion": ["clean", "masked"],
}


class TwoStreams(nn.Module):
    """Towers, fusion encoder and heads; only the parts that the objectives run."""

    # Whether every loss has encoder passes of its own, as published code has.
    apart = False

    def __init__(self, c: Config, objectives: Config) -> None:
        super().__init__()
        width, eps = c["fusion"]["hidden_size"], c["fusion"]["layer_norm_eps"]
        self.text, self.vision = TextEncoder(c["text"]), VisionEncoder(c["vision"])
        self.text_transform = nn.Linear(c["text"]["hidden_size"], width)
        self.image_transform = nn.Linear(c["vision"]["hidden_size"], width)
        if "contrastive" in objectives:
            self.text_projection = Projection(width, c["projection_size"])
            self.image_projection = Projection(width, c["projection_size"])
            self.temperature = nn.Parameter(torch.empty(1))
        if objectives.keys() & {"matching", "mlm", "global_completion"}:
            self.token_types = nn.Embedding(c["fusion"]["type_rows"], width)
            self.fusion = FusionEncoder(c["fusion"])
        if "matching" in objectives:
            self.text_pooler, self.image_pooler = Pooler(width), Pooler(width)
            self.match_head = MatchHead(width)
        if "mlm" in objectives:
            self.mlm_head = MlmHead(width, c["text"]["vocab_size"], eps)

    def fuse(self, texts: list[Tensor], images: list[Tensor], masks: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Passes of equal shape as one call, stacked along the batch axis."""
        rows = len(texts[0])
        text, image = self.fusion(
            torch.cat(texts) + self.token_types.weight[TEXT_TYPE],
            torch.cat(images) + self.token_types.weight[IMAGE_TYPE],
            key_bias(torch.cat(masks)),
        )
        return list(zip(text.split(rows), image.split(rows), strict=True))

    def forward(self, batch: Batch, fused: int, objectives: Config) -> dict[str, Tensor]:
        """Unweighted losses by name."""
        if self.apart and len(objectives) > 1:
            apart = [self(batch, fused, {name: own}) for name, own in objectives.items()]
            return {name: loss for losses in apart for name, loss in losses.items()}
        views = list(dict.fromkeys(view for name in objectives for view in VIEWS[name]))
        ids, masks = ([batch[f"{view}.{what}"] for view in views] for what in ("input_ids", "attention_mask"))
        encoded = self.text_transform(self.text(torch.cat(ids), torch.cat(masks)))
        texts = dict(zip(views, encoded.split([len(rows) for rows in ids]), strict=True))
        patches = self.vision.embed_patches(batch["pixel_values"])
        image = self.image_transform(self.vision(patches))

        # (text view, images) of the fusion passes over complete images.
        passes: dict[str, tuple[str, Tensor]] = {}
        if "matching" in objectives:
            passes["matching"] = ("clean", image.index_select(0, batch["matching.partner"]))
        if "mlm" in objectives:
            passes["mlm"] = ("mlm", image[:fused])
        if "global_completion" in objectives:
            passes["masked_text"] = ("masked", image[:fused])
        outputs: dict[str, tuple[Tensor, Tensor]] = {}
        if passes:
            complete = self.fuse(
                [texts[view][:fused] for view, _ in passes.values()],
                [images for _, images in passes.values()],
                [batch[f"{view}.attention_mask"][:fused] for view, _ in passes.values()],
            )
            outputs = dict(zip(passes, complete, strict=True))
        if "global_completion" in objectives:
            kept = patches[:fused].flatten(0, 1).index_select(0, batch["kept_patches"]).unflatten(0, (fused, -1))
            kept = self.image_transform(self.vision(kept))
            mask = batch["clean.attention_mask"][:fused]
            outputs["masked_image"] = self.fuse([texts["clean"][:fused]], [kept], [mask])[0]

        losses: dict[str, Tensor] = {}
        if "matching" in objectives:
            text_part, image_part = outputs["matching"]
            pooled = torch.cat([self.text_pooler(text_part[:, 0]), self.image_pooler(image_part[:, 0])], 1)
            losses["matching"] = F.cross_entropy(self.match_head.classifier(pooled), batch["matching.labels"])
        if "mlm" in objectives:
            tokens = outputs["mlm"][0].flatten(0, 1).index_select(0, batch["mlm.positions"])
            losses["mlm"] = F.cross_entropy(self.mlm_head(tokens), batch["mlm.labels"])
        if "contrastive" in objectives:
            text_embeds = F.normalize(self.text_projection(texts["clean"][:, 0]), eps=1e-8)
            image_embeds = F.normalize(self.image_projection(image[: len(ids[0]), 0]), eps=1e-8)
            losses["contrastive"] = nce(text_embeds @ image_embeds.T / self.temperature) / 2
        if "global_completion" in objectives:
            tau = objectives["global_completion"]["temperature"]
            masked_image, masked_text = outputs["masked_image"], outputs["masked_text"]
            losses["global_completion_image"] = completion(masked_image[1][:, 0], masked_text[1][:, 0], tau)
            losses["global_completion_text"] = completion(masked_text[0][:, 0], masked_image[0][:, 0], tau)
        return losses


def nce(logits: Tensor) -> Tensor:
    """Cross-entropy of rows and of columns against the diagonal, summed."""
    own = torch.arange(len(logits))
    return F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)


def completion(recovered: Tensor, complete: Tensor, tau: float) -> Tensor:
    """Contrast of recovered against complete features; no gradient reaches the latter."""
    target = F.normalize(complete.detach(), eps=1e-8)
    return nce(F.normalize(recovered, eps=1e-8) @ target.T / tau)
