"""The PyTorch side of the benchmark: the same model, losses and optimiser as chiasm's.

Reads what `chiasm-bench export` wrote (settings, start weights, the exact inputs of every step) and
answers requests on stdin like `chiasm-bench serve` does. Parameters carry chiasm's names, so the
weights load as they are. Encoder passes are shared between the losses exactly as chiasm's forward
plan shares them: both sides do the same work. With `--apart` every loss has its own.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

HEAD_NORM_EPS = 1e-5  # crates/chiasm-nn/src/heads.rs
MASKED_SCORE = -10_000.0  # crates/chiasm-nn/src/attention.rs
TEMPERATURE_RANGE = (0.001, 0.5)  # crates/chiasm-train/src/trainer.rs
TEXT_TYPE, IMAGE_TYPE = 0, 1  # crates/chiasm-nn/src/model.rs
COLUMNS = 8  # crates/chiasm-bench/src/serve.rs

Config = dict[str, Any]
Batch = dict[str, Tensor]


class Attend:
    """Mixes values by the agreement of queries and keys, in one of two ways."""

    fused = True

    @classmethod
    def run(cls, query: Tensor, key: Tensor, value: Tensor, heads: int, bias: Tensor | None) -> Tensor:
        def split(tensor: Tensor) -> Tensor:
            return tensor.unflatten(2, (heads, -1)).transpose(1, 2)

        query, key, value = split(query), split(key), split(value)
        if cls.fused:
            mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        else:
            scores = (query * query.shape[-1] ** -0.5) @ key.transpose(2, 3)
            mixed = (scores if bias is None else scores + bias).softmax(-1) @ value
        return mixed.transpose(1, 2).flatten(2)


class SelfAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.qkv, self.out, self.heads = nn.Linear(width, 3 * width), nn.Linear(width, width), heads

    def forward(self, hidden: Tensor, bias: Tensor | None) -> Tensor:
        query, key, value = self.qkv(hidden).chunk(3, dim=2)
        return self.out(Attend.run(query, key, value, self.heads, bias))


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
    """A BERT layer; with `cross`, one that also attends to the other modality."""

    def __init__(self, c: Config, cross: bool) -> None:
        super().__init__()
        width, eps = c["hidden_size"], c["layer_norm_eps"]
        self.attention = SelfAttention(width, c["num_heads"])
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
        self.positions = nn.Embedding(c["max_text_len"] + self.offset, width)
        self.types = nn.Embedding(1, width)
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


# What of a text each loss reads.
VIEWS = {
    "contrastive": ["clean"], "matching": ["clean"], "mlm": ["mlm"], "global_completion": ["clean", "masked"],
}


class Model(nn.Module):
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


def key_bias(mask: Tensor) -> Tensor:
    """Added to the scores: 0 where a key counts, -10,000 where it is padding."""
    return ((1.0 - mask.float()) * MASKED_SCORE)[:, None, None, :]


def nce(logits: Tensor) -> Tensor:
    """Cross-entropy of rows and of columns against the diagonal, summed."""
    own = torch.arange(len(logits))
    return F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)


def completion(recovered: Tensor, complete: Tensor, tau: float) -> Tensor:
    """Contrast of recovered against complete features; no gradient reaches the latter."""
    target = F.normalize(complete.detach(), eps=1e-8)
    return nce(F.normalize(recovered, eps=1e-8) @ target.T / tau)


def loss_weights(objectives: Config) -> dict[str, float]:
    """Factor of every loss in the total."""
    weights = {name: c["weight"] for name, c in objectives.items() if "weight" in c}
    if "global_completion" in objectives:
        c = objectives["global_completion"]
        weights |= {f"global_completion_{part}": c[f"{part}_weight"] for part in ("image", "text")}
    return weights


def rate_factor(schedule: Config, step: int) -> float:
    """As crates/chiasm-train/src/schedule.rs; `step` counts from 0."""
    rule, total = schedule["learning_rate"], schedule["steps"]
    if rule["kind"] == "constant":
        return 1.0
    if rule["kind"] != "warmup_linear":
        raise SystemExit(f"error: schedule `{rule['kind']}` is not implemented here")
    warmup = rule["warmup"] * total
    if step < warmup:
        return step / max(warmup, 1.0)
    return min(max((total - step) / max(total - warmup, 1.0), 0.0), 1.0)


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


class Trainer:
    """A run at its beginning, from the folder of an export."""

    def __init__(self, folder: Path, fused_optimizer: bool, compiled: bool, onnx: bool) -> None:
        settings = json.loads((folder / "workload.json").read_text())
        self.schedule, optimizer = settings["schedule"], settings["optimizer"]
        self.objectives = {name: c for name, c in settings["objectives"].items() if isinstance(c, dict)}
        self.weights = loss_weights(self.objectives)
        self.model = Model(settings["model"], self.objectives)
        state = load_file(folder / "model.safetensors")
        own = self.model.state_dict().keys()
        self.model.load_state_dict({name: value for name, value in state.items() if name in own})
        self.batches = [(load_file(folder / b["file"]), b["fused_size"]) for b in settings["batches"]]
        self.kind = settings["kind"]
        towers = {"image_forward": ImageTower(self.model), "text_forward": self.model.text}
        self.tower = towers.get(self.kind)
        if onnx:
            self.tower = OnnxTower(self.tower, torch.get_num_threads())
            for batch, _ in self.batches:
                self.tower.session(self.seen(batch))
        self.losses = torch.compile(self.model) if compiled else self.model
        self.rate, self.step_number = optimizer["learning_rate"], 0
        if optimizer["form"] != "adamw" or optimizer["groups"]:
            raise SystemExit("error: only `adamw` without groups is implemented here")

        def decays(name: str) -> bool:
            return not any(part in name for part in optimizer["no_decay"])

        named = list(self.model.named_parameters())
        self.optimizer = torch.optim.AdamW(
            [
                {"params": [p for n, p in named if decays(n)], "weight_decay": optimizer["weight_decay"]},
                {"params": [p for n, p in named if not decays(n)], "weight_decay": 0.0},
            ],
            lr=self.rate,
            betas=tuple(optimizer["betas"]),
            eps=optimizer["eps"],
            fused=fused_optimizer,
        )

    def step(self) -> dict[str, Any]:
        """One step on the next batch: seconds and values."""
        batch, fused = self.batches[self.step_number % len(self.batches)]
        start = time.perf_counter()
        values = self.look(batch) if self.tower else self.train(batch, fused)
        seconds = time.perf_counter() - start
        self.step_number += 1
        return {"seconds": seconds, "values": values}

    def seen(self, batch: Batch) -> tuple[Tensor, ...]:
        """What the tower takes of a batch."""
        if self.kind == "image_forward":
            return (batch["pixel_values"],)
        return batch["clean.input_ids"], batch["clean.attention_mask"]

    @torch.inference_mode()
    def look(self, batch: Batch) -> dict[str, float]:
        """The tower on one batch: the mean of some columns of what it gives, over all real tokens."""
        encoded = self.tower(*self.seen(batch))
        rows = encoded.flatten(0, 1)
        if self.kind == "text_forward":
            rows = rows[batch["clean.attention_mask"].flatten().bool()]
        means = rows.mean(0)[:COLUMNS].tolist()
        return {f"column {column}": mean for column, mean in enumerate(means)}

    def train(self, batch: Batch, fused: int) -> dict[str, float]:
        """One training step: its losses and gradient norm."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * rate_factor(self.schedule, self.step_number)
        self.optimizer.zero_grad(set_to_none=True)
        losses = self.losses(batch, fused, self.objectives)
        torch.stack([value * self.weights[name] for name, value in losses.items()]).sum().backward()
        limit = self.schedule["clip_norm"]
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), limit if limit > 0 else float("inf"))
        self.optimizer.step()
        if "contrastive" in self.objectives:
            with torch.no_grad():
                self.model.temperature.clamp_(*TEMPERATURE_RANGE)
        return {name: value.item() for name, value in losses.items()} | {"gradient norm": norm.item()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="what `chiasm-bench export` wrote")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--fused-optimizer", action="store_true", help="AdamW in one kernel")
    parser.add_argument("--plain-attention", action="store_true", help="instead of scaled_dot_product_attention")
    parser.add_argument("--compile", action="store_true", help="torch.compile the forward and backward pass")
    parser.add_argument("--apart", action="store_true", help="encoder passes of its own for every loss")
    parser.add_argument("--onnx", action="store_true", help="a tower in ONNX Runtime; needs onnxruntime and onnxscript")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    Attend.fused, Model.apart = not args.plain_attention, args.apart
    trainer = Trainer(args.folder, args.fused_optimizer, args.compile, args.onnx)
    print(
        json.dumps(
            {
                "ready": True,
                "name": "PyTorch",
                "version": torch.__version__,
                "threads": torch.get_num_threads(),
                "batches": len(trainer.batches),
                "batch_size": len(trainer.batches[0][0]["clean.input_ids"]),
            }
        ),
        flush=True,
    )
    for line in sys.stdin:
        count = int(line.removeprefix("steps "))
        print(json.dumps({"steps": [trainer.step() for _ in range(count)]}), flush=True)


if __name__ == "__main__":
    main()
