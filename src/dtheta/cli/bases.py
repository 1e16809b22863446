"""Bases: the place of a model that a command names, and the packages that carry those known by name."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

if TYPE_CHECKING:
    from dtheta.cli.options import CommonOptions
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
    from dtheta.cli.places import require_input
    from dtheta.data.sources import is_fetched
    from dtheta.models.zoo import model_folder

    if (place := local_place(name)) is not None:
        return require_input(place)
    return model_folder(name) if fetch or is_fetched(packages()[name].name) else None


def local_place(name: str | None) -> Path | None:
    """Return the path that a user gave for a model; None where it is one known by name, or none at all."""
    from dtheta.models.zoo import ZOO

    return None if name is None or name in ZOO else Path(name).expanduser()


def model_name(name: str) -> str:
    """Return the name of a model: that of its folder, whose place is nobody's business but its owner's."""
    return Path(name).expanduser().name or Path(name).expanduser().resolve().name or name


def remembered(options: CommonOptions, model: str | None) -> dict[str, Any]:
    """Return what a result remembers of a command's options; of a model that was given, the name and not its place."""
    return options.resolved() if model is None else {**options.resolved(), "model": model_name(model)}


def model_flag(name: str, private: bool = False) -> str:
    """Return the flag that a later command needs to find a model again; nothing for one that is known by name.

    Args:
        name: What the user gave.
        private: Whether to name the folder alone and not its place, for what is handed on.
    """
    if local_place(name) is None:
        return ""
    return f" --model {shlex.quote(model_name(name) if private else name)}"
