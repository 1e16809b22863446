"""Whether the tensors that are to be merged into one go together: shapes, dtypes, and the weights they have there."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from dtheta.compose.merge_layout import EMBEDDING
from dtheta.compose.merge_parts import Model
from dtheta.core.checkpoints import Checkpoint
from dtheta.errors import ConfigError


def require_same_form(
    name: str, base: tuple[Checkpoint, str] | None, named: Sequence[tuple[Model, str | None]]
) -> None:
    """Check that all have one shape, and are all floating, or all integers of one dtype.

    Raises:
        ConfigError: If not.
    """
    shapes: dict[tuple[int, ...], str] = {}
    kinds: dict[str, str] = {}
    for model, inner in (*([base] if base else []), *named):
        if inner is not None:
            shape, kind, path = _form(model, inner)
            shapes.setdefault(shape, path)
            kinds.setdefault(kind, path)
    if len(shapes) > 1:
        told = ", ".join(f"{list(shape)} in {path}" for shape, path in shapes.items())
        more = "; resize the vocabularies to one size first" if EMBEDDING.search(name) or "head" in name else ""
        raise ConfigError(f"its shapes differ: {told}{more}")
    if len(kinds) > 1:
        told = ", ".join(f"{kind} in {path}" for kind, path in kinds.items())
        raise ConfigError(f"its dtypes differ: {told}; integers are copied, never mixed: store it in one dtype first")


def _form(model: Model, name: str) -> tuple[tuple[int, ...], str, str]:
    """Return shape, kind of numbers and place of a tensor."""
    if not isinstance(model, Checkpoint):
        return tuple(model.forms[name].meta["shape"]), "floats", str(model.file.path)
    entry = model.info(name)
    if entry.dtype.is_complex or (entry.dtype.itemsize == 1 and entry.dtype.is_floating_point):
        raise ConfigError(f"{model.path} stores it as {entry.dtype}, which is not merged; dequantize it first")
    return entry.shape, "floats" if entry.dtype.is_floating_point else str(entry.dtype), str(model.path)


def require_divisible(method: str, shared: Mapping[str, Any], each: Mapping[str, tuple[Any, ...]]) -> None:
    """Check that weights that are to be normalized have a sum.

    Raises:
        ConfigError: If not.
    """
    if method != "linear" or not shared["normalize"]:
        return
    if abs(math.fsum(each["weight"])) <= 1e-12 * math.fsum(map(abs, each["weight"])):  # 0, or what rounding leaves
        raise ConfigError("the weights sum to 0, so they cannot be normalized; set normalize: false")
