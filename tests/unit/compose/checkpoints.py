"""Families of small checkpoints on disk, in any shard layout, and the whole-tensor formulas of every merge method."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dtheta.compose.trimming import Chance
from dtheta.core.checkpoints import open_checkpoint
from dtheta.core.seeds import generator
from dtheta.core.stream import ranges
from dtheta.core.tensorfile import data_of, write_tensors

Tensors = dict[str, Tensor]
SHAPES: dict[str, tuple[int, ...]] = {
    "embed.weight": (40, 300),
    "layers.0.w": (250, 300),  # more than one range
    "layers.0.norm": (300,),
    "layers.1.w": (250, 300),
    "layers.1.norm": (300,),
    "layers.2.w": (250, 300),
    "layers.2.norm": (300,),
    "scale": (),
    "nothing": (0, 4),
}


def normal(name: str, index: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator(index, name))


def tensors(index: int, dtype: torch.dtype = torch.float32) -> Tensors:
    """Return base 0, or model ``index`` a step away from it, on a coarse grid so that magnitudes are often equal."""
    found = {}
    for name, shape in SHAPES.items():
        base = normal(name, 0, *shape)
        step = (8 * normal(f"step {name}", index, *shape)).round() / 64
        found[name] = (base if not index else base + step).to(dtype)
    return {**found, "positions": torch.arange(7)}


def write(folder: Path, found: Mapping[str, Tensor], shards: int = 1, config: Mapping[str, Any] | None = None) -> Path:
    """Write a checkpoint of so many shards, tensors dealt to them in turn."""
    folder.mkdir(parents=True)
    names = [f"model-{i + 1:05}-of-{shards:05}.safetensors" for i in range(shards)] if shards > 1 else []
    for i, file in enumerate(names or ["model.safetensors"]):
        part = {name: tensor for j, (name, tensor) in enumerate(found.items()) if j % shards == i}
        specs = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in part.items()}
        with (folder / file).open("wb") as handle:
            write_tensors(handle, specs, {"format": "pt"}, lambda name, part=part: [data_of(part[name])])
    if names:
        weight_map = {name: names[j % shards] for j, name in enumerate(found)}
        index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(config or {"num_hidden_layers": 3, "torch_dtype": "float32"}))
    (folder / "tokenizer.json").write_text("{}")
    return folder


def family(
    root: Path, count: int = 3, dtype: torch.dtype = torch.float32, shards: Sequence[int] = (1, 1, 1, 1)
) -> list[Path]:
    """Write a base and ``count`` models; the base comes first."""
    names = ["base", *(f"model{i}" for i in range(1, count + 1))]
    return [write(root / name, tensors(i, dtype), shards[i]) for i, name in enumerate(names)]


def read(path: Path) -> Tensors:
    return dict(open_checkpoint(path).items())


def steps_reference(
    base: Tensor,
    models: Sequence[Tensor],
    trims: Sequence[Callable[[Tensor], Tensor]],
    weights: Sequence[float],
    *,
    consensus: bool = False,
    normalize: bool = False,
    rescale: bool = False,
    factor: float = 1.0,
) -> Tensor:
    """Return the merge of whole tensors by the formulas as mergekit reads them, in float64 until the end."""
    kept = []
    for model, trim, weight in zip(models, trims, weights, strict=True):
        step = model.float() - base.float()
        trimmed = trim(step.reshape(-1)).reshape(step.shape).double()
        before, after = step.double().abs().sum(), trimmed.abs().sum()
        ratio = float(before / after) if rescale and min(before, after) >= 1e-7 else 1.0
        kept.append(trimmed * (weight * ratio))
    stack, table = torch.stack(kept), torch.tensor(weights, dtype=torch.float64)
    mask = torch.ones_like(stack)
    if consensus:
        elected = torch.where(stack.sum(0) >= 0, 1.0, -1.0).double()
        mask = (stack.sign() == elected).double()
    total = torch.zeros_like(stack[0])
    share = torch.zeros_like(stack[0])
    for term, chosen, weight in zip(stack, mask, table, strict=True):
        total = total + term * chosen
        share = share + weight * chosen
    if normalize:
        total = total / torch.where(share.abs() < 1e-8, 1.0, share)
    return (base.double() + factor * total).to(base.dtype)


def largest(density: float) -> Callable[[Tensor], Tensor]:
    """Keep the largest by a stable sort of everything."""

    def trim(step: Tensor) -> Tensor:
        count = step.numel() if density >= 1 else max(1, int(density * step.numel())) if density > 0 else 0
        order = step.abs().sort(descending=True, stable=True).indices[:count]
        return torch.zeros_like(step).scatter(0, order, step[order])

    return trim


def crumbs(density: float, gamma: float) -> Callable[[Tensor], Tensor]:
    """Drop the outliers and the bottom by a stable sort of everything."""

    def trim(step: Tensor) -> Tensor:
        if density >= 1:
            return step
        count = int(density * step.numel())
        top = min(int(gamma * step.numel()), step.numel() - count)
        order = step.abs().sort(descending=True, stable=True).indices[top : top + count]
        return torch.zeros_like(step).scatter(0, order, step[order])

    return trim


def drawn(density: float, seed: int, place: int, name: str) -> Callable[[Tensor], Tensor]:
    """Keep what the keyed draws keep."""

    def trim(step: Tensor) -> Tensor:
        if density >= 1:
            return step
        visit = Chance(density, seed, f"merge {place} {name}").visit()
        parts = [visit(step[start:stop]) for start, stop in ranges(step.numel())]
        return torch.cat(parts) if parts else step

    return trim
