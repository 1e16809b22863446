"""Rows: the inputs of a model cut into groups of rows, and the outputs of the groups put together again.

A tensor whose first axis has as many entries as the batch has rows is cut; one whose first axis has one entry, or that
has no axis, is what all rows share. Mappings, lists and tuples are gone through. An output that is not one entry a row,
such as a mean loss or a cache, cannot be put together, and is refused by name.

Shape legend: B rows of the batch, b of a group.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dtheta.errors import ConfigError, ShapeMismatch, UnsupportedLayer


def cut(inputs: Any, index_b: Tensor | None, rows: int, where: str = "the inputs") -> Any:
    """Return the rows ``index_b``, None for all, of everything in ``inputs`` that has ``rows`` of them.

    Raises:
        ConfigError: If a tensor has another number of rows.
    """
    if isinstance(inputs, Tensor):
        if inputs.ndim == 0 or (inputs.shape[0] == 1 != rows):
            return inputs
        if inputs.shape[0] != rows:
            raise ConfigError(f"{where}: a tensor of {tuple(inputs.shape)} for {rows} rows, one for each expert named")
        return inputs if index_b is None else inputs[index_b.to(inputs.device)]
    if isinstance(inputs, Mapping):
        return {key: cut(value, index_b, rows, f"{where}[{key!r}]") for key, value in inputs.items()}
    if isinstance(inputs, (list, tuple)):
        found = [cut(value, index_b, rows, f"{where}[{i}]") for i, value in enumerate(inputs)]
        return _like(inputs, found)
    return inputs


def joined(parts: Sequence[Any], indices: Sequence[Tensor], where: str = "the output") -> Any:
    """Return what the groups gave as one, in the order of the batch; the groups have all rows, each once.

    Args:
        parts: What the model gave for each group.
        indices: The rows of each group.
        where: Name for messages.

    Raises:
        UnsupportedLayer: If it is not made of tensors, mappings, lists and tuples.
        ShapeMismatch: If the groups' outputs differ in shape, or have not one entry a row.
    """
    first = parts[0]
    if isinstance(first, Tensor):
        return _joined(parts, indices, where)
    if isinstance(first, Mapping):
        if any(set(part) != set(first) for part in parts):
            raise ShapeMismatch(f"{where}: groups of rows gave different entries")
        found = {key: joined([part[key] for part in parts], indices, f"{where}[{key!r}]") for key in first}
        return type(first)(**found) if hasattr(first, "to_tuple") else found  # what transformers returns
    if isinstance(first, (list, tuple)):
        inner = [joined([p[i] for p in parts], indices, f"{where}[{i}]") for i in range(len(first))]
        return _like(first, inner)
    if first is None and all(part is None for part in parts):
        return None
    raise UnsupportedLayer(
        f"{where} is a {type(first).__name__}, which is not cut into rows; leave it out of what the model returns "
        "(use_cache=False for a cache), or run each expert on its own with bank.using"
    )


def _joined(parts: Sequence[Tensor], indices: Sequence[Tensor], where: str) -> Tensor:
    for part, index_b in zip(parts, indices, strict=True):
        if part.ndim == 0 or part.shape[0] != len(index_b):
            raise ShapeMismatch(f"{where}: {tuple(part.shape)} for {len(index_b)} rows; expected one entry a row")
        if part.shape[1:] != parts[0].shape[1:]:
            raise ShapeMismatch(
                f"{where}: one group gave {tuple(parts[0].shape[1:])} a row, one {tuple(part.shape[1:])}"
            )
    whole = parts[0].new_empty(sum(len(part) for part in parts), *parts[0].shape[1:])
    for part, index_b in zip(parts, indices, strict=True):
        whole[index_b.to(whole.device)] = part
    return whole


def _like(pattern: Any, found: list[Any]) -> Any:
    """Return values as the list, tuple or named tuple that ``pattern`` is."""
    if hasattr(pattern, "_fields"):
        return type(pattern)(*found)
    return tuple(found) if isinstance(pattern, tuple) else found


def order(names: Sequence[str | None], together: frozenset[str | None]) -> list[list[int]]:
    """Return the rows of each group: one for all experts in ``together``, one for each other, by first appearance."""
    groups: dict[Any, list[int]] = {}
    for i, name in enumerate(names):
        groups.setdefault(together if name in together else name, []).append(i)
    return list(groups.values())


def index(rows: Sequence[int]) -> Tensor:
    """Return numbers of rows as a tensor."""
    return torch.tensor(rows, dtype=torch.int64)
