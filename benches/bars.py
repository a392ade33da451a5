"""What each workload is to reach beside its peers, and whether it does: the first table of compare.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from study import table

OURS = "chiasm"
ROUNDED = ("chiasm, bf16", "chiasm, int8")
EAGER = ("PyTorch, eager", "PyTorch, eager, fused AdamW")
COMPILED = "PyTorch, compiled, fused AdamW"
APART = "PyTorch, one pass a loss"
ONNX = "ONNX Runtime"
LOADERS = ("torchvision, Pillow", "torchvision, tensors")


@dataclass(frozen=True)
class Bar:
    """The most that our figure may be of the smallest of some peers' figures."""

    workload: str
    against: str
    peers: tuple[str, ...]
    most: float
    figure: str = "step_ms"
    ours: str = OURS


BARS = [
    Bar("contrastive_step", "PyTorch, eager", EAGER, 0.70),
    Bar("contrastive_step", "the faster of eager and compiled", (*EAGER, COMPILED), 0.90),
    Bar("contrastive_step", "peak memory of the smaller", (*EAGER, COMPILED), 0.50, "peak_mb"),
    Bar("quickstart_step", "PyTorch, one pass a loss", (APART,), 0.35),
    Bar("quickstart_step", "PyTorch, passes shared", EAGER, 0.85),
    Bar("scl_step", "PyTorch, one pass a loss", (APART,), 0.35),
    Bar("scl_step", "PyTorch, passes shared", EAGER, 0.85),
    Bar("tbkin_step", "PyTorch, eager", EAGER, 0.85),
    Bar("vit_b32_forward", "ONNX Runtime", (ONNX,), 1.0),
    Bar("vit_b32_forward", "ONNX Runtime, ours in int8", (ONNX,), 0.5, ours=ROUNDED[1]),
    Bar("vit_s14_forward", "ONNX Runtime", (ONNX,), 1.0),
    Bar("vit_s14_forward", "ONNX Runtime, ours in int8", (ONNX,), 0.5, ours=ROUNDED[1]),
    Bar("minilm_forward", "ONNX Runtime", (ONNX,), 0.70),
    Bar("minilm_forward", "ONNX Runtime, ours in int8", (ONNX,), 0.5, ours=ROUNDED[1]),
    Bar("retrieval_evaluation", "PyTorch, eager", EAGER[:1], 0.50),
    Bar("photos_loading", "the faster of torchvision's ways", LOADERS, 0.75),
]


def asks_for(workload: str, peer: str) -> bool:
    """Whether a bar of the workload names the peer."""
    return any(bar.workload == workload and peer in bar.peers for bar in BARS)


def verdicts(results: list[dict[str, Any]]) -> list[str]:
    """A line for every bar: ours, theirs, their ratio, what it may be at most, and whether it is."""
    rows_of = {result["workload"]: {row["name"]: row for row in result["rows"]} for result in results}
    lines = []
    for bar in BARS:
        rows, unit = rows_of.get(bar.workload, {}), "MB" if bar.figure == "peak_mb" else "ms"
        start = (f"`{bar.workload}`", bar.against)
        # Without one of the peers the smallest of them is not known; of a step's two optimisers one will do.
        needed = [bar.ours, *(name for name in bar.peers if name not in EAGER[1:])]
        if any(name not in rows for name in needed):
            lines.append((*start, "", "", "", f"{bar.most:.2f}", "not measured"))
            continue
        ours = rows[bar.ours][bar.figure]
        theirs = min(rows[name][bar.figure] for name in bar.peers if name in rows)
        met = "yes" if ours <= bar.most * theirs else "**no**"
        cells = (f"{ours:.0f} {unit}", f"{theirs:.0f} {unit}", f"{ours / theirs:.2f}", f"{bar.most:.2f}", met)
        lines.append((*start, *cells))
    return table(["workload", "beside", "chiasm", "the other", "ratio", "at most", "met"], lines)


def shares(results: list[dict[str, Any]], ceiling: dict[str, Any]) -> list[str]:
    """A line for every workload: its share of what the machine can compute and move at most."""
    lines = []
    percent = lambda part, whole: f"{100 * part / whole:.0f} %" if part and whole else "–"
    for result in results:
        ours = result["rows"][0]
        seconds = ours["step_ms"] / 1e3
        speed = 2 * result["multiply_adds"] / seconds / 1e9
        moved = result["moved_bytes"] / seconds / 1e9
        count = f"{result['multiply_adds'] / 1e9:.1f}" if speed else "–"
        speed_cell = f"{speed:.0f}" if speed else "–"
        cells = (count, speed_cell, percent(speed, ceiling["gflops"]), percent(moved, ceiling["gigabytes"]))
        lines.append((f"`{result['workload']}`", *cells))
    peak = f"{ceiling['gflops']:.0f} GFLOP/s" if ceiling["gflops"] else "unknown without AVX-512"
    return [
        f"Most that the machine does with these threads: {peak} of multiply-adds on registers, "
        f"{ceiling['gigabytes']:.0f} GB/s of memory (`a = b + s c` on arrays beyond all caches).",
        "",
        *table(["workload", "10⁹ multiply-adds", "GFLOP/s", "of the most", "weights, of the memory's most"], lines),
    ]
