"""Where the tensors of a merged checkpoint come from, and the files they go to.

    whole models   the tensors of the base, in its files and their order
    slices         layers renumbered in the order of the slices; embeddings as the first slice has them, all else
                   outside of layers as the last one has it; files of five gigabytes

The first number in a dotted name is the layer, what stands before it the stack. Layer i of N in its stack, or in its
slice, has the depth t = i / (N - 1).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dtheta.compose.merge_parts import Part
from dtheta.compose.merge_plan import MergeSlice
from dtheta.core.checkpoints import Checkpoint
from dtheta.core.selection import layer_index

EMBEDDING = re.compile(r"embed|wte|wpe")


@dataclass(frozen=True)
class Place:
    """Where a tensor of the result comes from: its slice, its layer there, and its depth."""

    name: str
    slice: MergeSlice
    offset: int | None
    t: float


def depths(names: Iterable[str]) -> dict[str, float]:
    """Return t of every tensor: the place of its layer among those of its stack, from 0 to 1; 0 outside layers."""
    last: dict[str, int] = {}
    for name in names:
        stack, layer = _stack(name)
        if layer is not None:
            last[stack] = max(last.get(stack, 0), layer)
    depth = {}
    for name in names:
        stack, layer = _stack(name)
        depth[name] = 0.0 if layer is None else (layer / last[stack] if last[stack] else 1.0)
    return depth


def _stack(name: str) -> tuple[str, int | None]:
    """Return what stands before the number of the layer, and that number."""
    parts = name.split(".")
    at = next((i for i, part in enumerate(parts) if part.isdigit()), None)
    return ("", None) if at is None else (".".join(parts[:at]), int(parts[at]))


def numbered(name: str, layer: int) -> str:
    """Return the name of the same tensor in another layer."""
    parts = name.split(".")
    at = next((i for i, part in enumerate(parts) if part.isdigit()), None)
    return name if at is None else ".".join([*parts[:at], str(layer), *parts[at + 1 :]])


def stacked(reference: Checkpoint, slices: Sequence[MergeSlice], problems: list[str]) -> tuple[list[Place], list[int]]:
    """Return the tensors of a result whose layers are stacked from slices, and the layer each was called after.

    What cannot be is added to ``problems``.
    """
    outside = [name for name in reference if layer_index(name) is None]
    inside: dict[int, list[str]] = {}
    for name in reference:
        if (layer := layer_index(name)) is not None:
            inside.setdefault(layer, []).append(name)
    if len({_stack(name)[0] for names in inside.values() for name in names}) != 1:
        problems.append(f"{reference.path}: it has no single stack of layers, so that layer_range means nothing")
        return [], []
    layers: list[int] = []
    before = [name for name in outside if EMBEDDING.search(name)]
    places = [Place(name, slices[0], None, 0.0) for name in before]
    for i, part in enumerate(slices):
        if any(item.layers is None for item in part.inputs):
            problems.append(f"slice {i}: an input has no layer_range")
            continue
        low, high = part.inputs[0].layers or (0, 0)
        for offset in range(high - low):
            model = inside.get(low + offset)
            if model is None:
                problems.append(f"slice {i}: there is no layer {low + offset}; the last is {max(inside)}")
                break
            t = offset / (high - low - 1) if high - low > 1 else 1.0
            number = len(layers)
            places += [Place(numbered(name, number), part, offset, t) for name in model]
            layers.append(low + offset)
    return places + [Place(name, slices[-1], None, 0.0) for name in outside if name not in before], layers


_SHARD = 5_000_000_000  # bytes


def sharded(parts: Sequence[Part]) -> dict[str, list[Part]]:
    """Return the parts by the file they go to."""
    groups: list[list[Part]] = [[]]
    size = 0
    for part in parts:
        if groups[-1] and size + part.nbytes > _SHARD:
            groups.append([])
            size = 0
        groups[-1].append(part)
        size += part.nbytes
    if len(groups) == 1:
        return {"model.safetensors": groups[0]}
    return {f"model-{i + 1:05}-of-{len(groups):05}.safetensors": group for i, group in enumerate(groups)}
