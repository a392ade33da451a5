"""Training steps, and forward passes of a tower."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from layers import Batch, Config
from one_stream import OneStream
from tower import ImageTower, OnnxTower
from two_streams import TwoStreams

TEMPERATURE_RANGE = (0.001, 0.5)  # crates/chiasm-train/src/trainer.rs
COLUMNS = 8  # crates/chiasm-bench/src/serve.rs


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


class Trainer:
    """A run at its beginning, from the folder of an export."""

    def __init__(self, folder: Path, settings: Config, fused_optimizer: bool, compiled: bool, onnx: bool) -> None:
        self.schedule, optimizer = settings["schedule"], settings["optimizer"]
        self.objectives = {name: c for name, c in settings["objectives"].items() if isinstance(c, dict)}
        self.weights = loss_weights(self.objectives)
        one_stream = settings["model"]["fusion"]["kind"] == "one_stream"
        self.model = (OneStream if one_stream else TwoStreams)(settings["model"], self.objectives)
        state = load_file(folder / "model.safetensors")
        own = self.model.state_dict().keys()
        self.model.load_state_dict({name: value for name, value in state.items() if name in own})
        self.batches = [(load_file(folder / b["file"]), b["fused_size"]) for b in settings["batches"]]
        self.steps, self.items = len(self.batches), len(self.batches[0][0]["clean.input_ids"])
        self.parameters = sum(value.numel() for value in self.model.parameters())
        self.kind = settings["kind"]
        self.tower = None
        if self.kind != "step":
            self.tower = ImageTower(self.model) if self.kind == "image_forward" else self.model.text
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
