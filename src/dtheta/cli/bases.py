"""Bases: the place of a model that a command names, and the packages that carry those known by name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal, overload

if TYPE_CHECKING:
    from dtheta.data.packages import Wheel


def packages() -> dict[str, Wheel]:
    """Return the package of every model known by name."""
    from dtheta.data.sources import MINILM, SMOLLM2

    return {"minilm": MINILM, "smollm2": SMOLLM2}


@overload
def base_path(name: str, fetch: Literal[True] = True) -> Path: ...
@overload
def base_path(name: str, fetch: bool) -> Path | None: ...
def base_path(name: str, fetch: bool = True) -> Path | None:
    """Return the place of a base: of a model known by name, or what the path says.

    Args:
        name: A name of 'dtheta models', a folder or a file.
        fetch: Whether a model that is not in the cache yet is fetched; else None stands for it.

    Raises:
        ConfigError: If there is nothing at the path.
        MissingExtra: If the model's package cannot be had.
    """
    from dtheta.core.tensorfile import existing
    from dtheta.data.sources import is_fetched
    from dtheta.models.zoo import ZOO, model_folder

    if name not in ZOO:
        return existing(name)
    return model_folder(name) if fetch or is_fetched(packages()[name].name) else None
