"""What is to be merged: inputs, method and parameters; and which value a parameter has for one tensor.

    value     number | true/false | text that is a number
    setting   value
              [v0, v1, ...]                            a gradient: linear between the v's over the layers, t in [0, 1]
              [{filter: TEXT, value: setting}, ...]    the first whose text is part of the tensor's name; "*" is any

    precedence   input  >  slice  >  whole plan  >  the method's default

A setting none of whose filters fit leaves the word to the next in that order. Layer i of N has t = i / (N - 1), and 1
where N is 1; what belongs to no layer has t = 0: mergekit's rules, so that its configurations mean the same.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from dtheta.compose.merge_rules import REQUIRED, MergeRule, Parameter, merge_rule
from dtheta.core.arguments import whole
from dtheta.errors import ConfigError

Settings = Mapping[str, Any]
DTYPES = {name: getattr(torch, name) for name in ("float32", "float64", "bfloat16", "float16")}


@dataclass(frozen=True)
class MergeInput:
    """One input of a slice.

    Attributes:
        model: A checkpoint (a folder, a safetensors file, an index) or a ``.delta`` file of the base.
        parameters: Its own settings.
        layers: First layer, and the one after the last; all by default.
    """

    model: Path
    parameters: Settings = field(default_factory=dict)
    layers: tuple[int, int] | None = None


@dataclass(frozen=True)
class MergeSlice:
    """Consecutive layers of the result, and what they are made of."""

    inputs: tuple[MergeInput, ...]
    parameters: Settings = field(default_factory=dict)


@dataclass(frozen=True)
class MergePlan:
    """A merge of whole checkpoints, as ``merge_checkpoints`` does it.

    Attributes:
        method: One of merge_rules.RULES.
        slices: One, over all layers; or several, stacked in this order.
        base: The checkpoint relative to which steps are taken; it gives configuration, tokenizer and layout.
        parameters: Settings for all inputs.
        dtype: Of the floating tensors that are written; those of the base by default.
        seed: Key of the draws of DARE.

    Raises:
        ConfigError: If the dtype is none of DTYPES, or the seed no whole number.
    """

    method: str
    slices: tuple[MergeSlice, ...]
    base: Path | None = None
    parameters: Settings = field(default_factory=dict)
    dtype: torch.dtype | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.dtype not in (None, *DTYPES.values()):
            raise ConfigError(f"dtype is {self.dtype!r}; expected torch.{', torch.'.join(DTYPES)}, or None")
        object.__setattr__(self, "seed", whole(self.seed, "seed"))

    @property
    def rule(self) -> MergeRule:
        """The method's rule.

        Raises:
            ConfigError: If there is no such method.
        """
        return merge_rule(self.method)

    @property
    def stacked(self) -> bool:
        """Whether layers are renumbered, so that the result has another layout than its inputs."""
        return any(item.layers is not None for part in self.slices for item in part.inputs)

    def models(self) -> tuple[Path, ...]:
        """Return every checkpoint and delta, each once, the base first."""
        named = [self.base] if self.base is not None else []
        return tuple(dict.fromkeys([*named, *(item.model for part in self.slices for item in part.inputs)]))

    def to_settings(self) -> dict[str, Any]:
        """Return the plan as plain JSON; of a path only the name: where a file lay is its owner's business."""
        slices = [
            {
                "inputs": [
                    {
                        "model": item.model.name,
                        "parameters": dict(item.parameters),
                        "layers": list(item.layers) if item.layers else None,
                    }
                    for item in part.inputs
                ],
                "parameters": dict(part.parameters),
            }
            for part in self.slices
        ]
        return {
            "method": self.method,
            "base": self.base.name if self.base is not None else None,
            "slices": slices,
            "parameters": dict(self.parameters),
            "dtype": str(self.dtype).removeprefix("torch.") if self.dtype is not None else None,
        }


def merge_plan(
    method: str,
    models: Sequence[Path | str | tuple[Path | str, Settings]],
    base: Path | str | None = None,
    *,
    dtype: torch.dtype | None = None,
    seed: int = 0,
    **parameters: Any,
) -> MergePlan:
    """Return the plan that merges whole models.

    Args:
        method: One of merge_rules.RULES.
        models: Paths, or pairs of a path and its own settings.
        base: Path of the base; where the method works on inputs and the base is one, it is listed in ``models`` too.
        dtype: Of the floating tensors that are written; those of the base by default.
        seed: Key of the draws of DARE.
        **parameters: Settings for all inputs; ``lambda`` is a keyword of Python and is written ``lambda_``.

    Raises:
        ConfigError: If the models are no list of paths and pairs, or as ``MergePlan``.
    """
    if isinstance(models, (str, os.PathLike)):
        raise ConfigError(f"models is {str(models)!r}; expected a list: [{str(models)!r}]")
    inputs = [_paired(item) for item in models]
    made = tuple(MergeInput(Path(path), dict(own)) for path, own in inputs)
    shared = {name.rstrip("_"): value for name, value in parameters.items()}
    return MergePlan(method, (MergeSlice(made),), Path(base) if base is not None else None, shared, dtype, seed)


def _paired(item: Any) -> tuple[Path | str, Settings]:
    """Return the path and the settings of one model."""
    path, own = item if isinstance(item, tuple) and len(item) == 2 else (item, {})
    if not isinstance(path, (str, os.PathLike)) or not isinstance(own, Mapping):
        raise ConfigError(
            f"a model is {item!r}; expected a path, or a path and its settings: ('one/', {{'weight': 0.5}})"
        )
    return Path(path), own


def resolved(name: str, parameter: Parameter, scopes: Iterable[Settings], tensor: str, t: float) -> Any:
    """Return the value of a parameter for one tensor.

    Args:
        name: Of the parameter.
        parameter: What it may be.
        scopes: Settings by precedence, the first wins.
        tensor: Name of the tensor.
        t: Depth of its layer, in [0, 1].

    Raises:
        ConfigError: If it has no value and no default, or one that cannot be meant.
    """
    for scope in scopes:
        if name in scope:
            found = setting_at(name, parameter, scope[name], tensor, t)
            if found is not None:
                return found
    if parameter.default is REQUIRED:
        raise ConfigError(f"{name} is missing; give {name}: a number, in 'parameters' of the inputs or of the plan")
    return parameter.default


def setting_at(name: str, parameter: Parameter, setting: Any, tensor: str, t: float) -> Any:
    """Return what a setting says of one tensor; None if none of its filters fit.

    Raises:
        ConfigError: If it is none that can be meant.
    """
    if isinstance(setting, Mapping):
        setting = [setting]
    if not isinstance(setting, list | tuple):
        return _value(name, parameter, setting)
    if not setting:
        raise ConfigError(f"{name} is an empty list; give a number, a list of numbers, or of {{filter, value}}")
    if not all(isinstance(item, Mapping) for item in setting):
        return _gradient(name, parameter, setting, t)
    for item in setting:
        if set(item) - {"filter", "value"} or "value" not in item:
            raise ConfigError(f"{name}: an entry has {sorted(map(str, item))}; expected 'value' and perhaps 'filter'")
        text = item.get("filter")
        if text is None or text == "*" or str(text) in tensor:
            return setting_at(name, parameter, item["value"], tensor, t)
    return None


def filters_in(setting: Any) -> Iterator[str]:
    """Yield the texts by which a setting picks tensors, in values of its entries too."""
    for item in [setting] if isinstance(setting, Mapping) else setting if isinstance(setting, list | tuple) else ():
        if isinstance(item, Mapping):
            text = item.get("filter")
            if text is not None and text != "*":
                yield str(text)
            yield from filters_in(item.get("value"))


def _gradient(name: str, parameter: Parameter, setting: Sequence[Any], t: float) -> Any:
    values = [_value(name, parameter, item) for item in setting]
    place = t * (len(values) - 1)
    if parameter.flag:
        return values[int(place)]
    low = int(place)
    high = min(len(values) - 1, low + 1)
    return (1 - (place - low)) * values[low] + (place - low) * values[high]


def _value(name: str, parameter: Parameter, given: Any) -> Any:
    if parameter.flag:
        if isinstance(given, bool) or given in (0, 1):
            return bool(given)
        raise ConfigError(f"{name} must be true or false, found {given!r}")
    try:
        value = float(given) if not isinstance(given, bool) else math.nan
    except (TypeError, ValueError):
        value = math.nan
    low, high = parameter.low, parameter.high
    if not math.isfinite(value) or (low is not None and value < low) or (high is not None and value > high):
        wanted = "a number" if low is None else f"a number in [{low:g}, {high:g}]"
        raise ConfigError(f"{name} must be {wanted}, found {given!r}")
    return value
