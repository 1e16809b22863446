"""Checkpoint: all that a run needs to go on bit by bit, in one safetensors file that is replaced as a whole.

    terms/NAME         the terms, buffers included
    optimizer/NAME/KEY the optimizer's state of each parameter
    best/NAME          the trained parameters of the best evaluation so far
    metadata           one JSON document: step, place in the data, history, gradient scaler, configuration

Random generators are not in it: every draw is keyed by the step (``randomness``). Tensors are whole, also of sharded
runs. A killed process leaves the checkpoint before, never half of one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dtheta.core.output import require_space, write_file
from dtheta.core.tensorfile import data_of, open_tensors, parse_json, write_tensors
from dtheta.errors import ConfigError, FormatError, OutputError
from dtheta.fit.record import Record
from dtheta.fit.sharded import like, whole

NAME = "last.safetensors"
FORMAT = 2  # 1 knew of its data the last batch only
_KEY = "dtheta.fit"


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by name, and the JSON document."""

    tensors: Mapping[str, Tensor]
    state: Mapping[str, Any]

    def part(self, name: str) -> dict[str, Tensor]:
        """Return the tensors under ``name/``, by the rest of their names."""
        start = f"{name}/"
        return {key[len(start) :]: tensor for key, tensor in self.tensors.items() if key.startswith(start)}


def make_folder(folder: Path) -> Path:
    """Return a folder for checkpoints, made if it is not there.

    Raises:
        OutputError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the checkpoint folder {folder}: {error.strerror or error}") from error
    return folder


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint; the old one stays until the new one is on disk.

    Raises:
        OutputError: it cannot be written.
    """
    specs = {name: (t.dtype, tuple(t.shape)) for name, t in checkpoint.tensors.items()}
    text = json.dumps({"format": FORMAT, **checkpoint.state}, allow_nan=False)
    require_space(path, len(text) + sum(t.nbytes for t in checkpoint.tensors.values()))
    with write_file(path) as handle:
        write_tensors(handle, specs, {_KEY: text}, lambda name: [data_of(checkpoint.tensors[name])])


def load(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        FormatError: the file is damaged, or not a checkpoint of this version.
    """
    file = open_tensors(path)
    state = parse_json(file.metadata.get(_KEY, "null"), f"{path}: the state of the run")
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise FormatError(f"{path} is not a training checkpoint of format {FORMAT}")
    return Checkpoint({name: file.read(name) for name in file.entries}, state)


def term_tensors(adapter: Any) -> dict[str, Tensor]:
    """Return parameters and persistent buffers of the terms, whole, by name."""
    return {name: whole(tensor.detach()) for name, tensor in adapter.terms.state_dict(keep_vars=True).items()}


def load_terms(adapter: Any, found: Mapping[str, Tensor], path: Path) -> None:
    """Overwrite the terms by those of a checkpoint.

    Raises:
        FormatError: names, shapes or dtypes are not those of this adapter.
    """
    held = adapter.terms.state_dict(keep_vars=True)
    check_names(held, found, path)
    with torch.no_grad():
        for name, tensor in held.items():
            tensor.copy_(like(found[name], tensor))


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: Mapping[int, str]) -> dict[str, Tensor]:
    """Return the optimizer's state, whole, as ``PARAMETER/KEY``; ``names`` is by identity of the parameter."""
    return {
        f"{names[id(p)]}/{key}": whole(value)
        for p, state in optimizer.state.items()
        for key, value in state.items()
        if isinstance(value, Tensor)
    }


def load_optimizer(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, Tensor], found: Mapping[str, Tensor], path: Path
) -> None:
    """Overwrite the optimizer's state by that of a checkpoint.

    Raises:
        FormatError: a parameter, shape or dtype is not one of this run.
    """
    for name, value in found.items():
        owner, _, key = name.rpartition("/")
        if owner not in parameters:
            raise FormatError(f"{path}: the optimizer holds state of {owner!r}, which does not train here")
        parameter = parameters[owner]
        if key == "step":  # the fused kernel counts on the device, the others on the CPU
            value = value.to(parameter.device if optimizer.defaults.get("fused") else "cpu")
        else:
            _check_form(name, parameter, value, path)
            value = like(value, parameter)
        optimizer.state[parameter][key] = value


def record_of(found: Checkpoint, path: Path) -> Record:
    """Return the history in a checkpoint.

    Raises:
        FormatError: it is not all there.
    """
    try:
        return Record.from_dict(found.state["record"])
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(f"{path}: the history in the checkpoint is damaged: {error!r}") from error


def position_of(found: Checkpoint, path: Path) -> dict[str, Any]:
    """Return the place in the data, as ``Stream.position`` told it.

    Raises:
        FormatError: it is not all there.
    """
    place = found.state.get("position")
    if isinstance(place, dict):
        counts = all(type(place.get(name)) is int and place[name] >= 0 for name in ("epoch", "taken"))
        marks = place.get("marks")
        digests = isinstance(marks, list) and all(isinstance(digest, str) for digest in [place.get("last"), *marks])
        if counts and digests:
            return place
    raise FormatError(f"{path}: the place in the data is damaged: {place!r:.80}")


def load_scaler(scaler: torch.amp.GradScaler, found: Checkpoint, path: Path) -> None:
    """Give the gradient scaler of fp16 the state in a checkpoint; nothing where there is no scaling.

    Raises:
        FormatError: it is not all there.
    """
    if not scaler.is_enabled():
        return
    try:
        scaler.load_state_dict(dict(found.state["scaler"]))
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise FormatError(f"{path}: the state of the gradient scaler is damaged: {error!r}") from error


def check_names(held: Mapping[str, Tensor], found: Mapping[str, Tensor], path: Path) -> None:
    """Raise unless a checkpoint holds tensors of these names, shapes and dtypes.

    Raises:
        FormatError: naming the first that differs.
    """
    if set(held) != set(found):
        odd = sorted(set(held) ^ set(found))[0]
        raise FormatError(f"{path}: the terms are not those of this adapter, first difference: {odd}")
    for name, tensor in held.items():
        _check_form(name, tensor, found[name], path)


def _check_form(name: str, held: Tensor, found: Tensor, path: Path) -> None:
    (shape, dtype), (wanted, expected) = ((tuple(tensor.shape), tensor.dtype) for tensor in (found, held))
    if (shape, dtype) != (wanted, expected):
        raise FormatError(
            f"{path}: {name} is {shape} of {dtype}, expected {wanted} of {expected}; go on with the version of dtheta "
            "that made it, or start anew in another folder"
        )


def check_same_run(config: Mapping[str, Any], stored: Mapping[str, Any], path: Path) -> None:
    """Raise unless a run is configured as the one that it is to go on with.

    Raises:
        ConfigError: naming every setting that differs, with both values.
    """
    flat, old = _flat(config), _flat(stored)
    odd = [name for name in sorted({*flat, *old}) if flat.get(name) != old.get(name)]
    if odd:
        what = "; ".join(f"{name} was {old.get(name)!r} and is {flat.get(name)!r}" for name in odd)
        raise ConfigError(f"cannot resume {path}: {what}. Give the same configuration, or start anew in another folder")


def _flat(record: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in record.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found
