"""Emulators as files: one safetensors file, weights in float16, statistics in float32, the settings as JSON.

Weights rounded to float16 move a one-day forecast by a hundredth of its error, and halve the file.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from typing import Any

import torch

from dtheta.core.output import write_file
from dtheta.core.tensorfile import data_of, open_tensors, parse_json, write_tensors
from dtheta.data.flows.quasi_geostrophic import QuasiGeostrophic
from dtheta.errors import ConfigError, FormatError
from dtheta.models.emulator import TwoLayerEmulator

_KEY = "dtheta.emulator"
_FORMAT = 1
_LARGEST = {"truncation": 255, "embed": 4096, "layers": 256, "mlp_ratio": 64}  # before anything is allocated


def write_emulator(
    emulator: TwoLayerEmulator, path: str | os.PathLike[str], dtype: torch.dtype = torch.float16
) -> None:
    """Write an emulator; its weights are rounded to ``dtype``.

    Raises:
        OutputError: the file cannot be written.
    """
    weights = {name for name, _ in emulator.named_parameters()}
    tensors = {
        name: tensor.detach().to(dtype if name in weights else torch.float32).contiguous()
        for name, tensor in emulator.state_dict().items()
    }
    settings = {"format": _FORMAT, "flow": asdict(emulator.flow), "network": emulator.settings}
    specs = {name: (t.dtype, tuple(t.shape)) for name, t in tensors.items()}
    with write_file(path) as handle:
        write_tensors(handle, specs, {_KEY: json.dumps(settings)}, lambda name: [data_of(tensors[name])])


def read_emulator(path: str | os.PathLike[str]) -> TwoLayerEmulator:
    """Return the emulator of a file, in float32 and evaluation mode.

    Raises:
        ConfigError: there is no such file.
        FormatError: it is damaged, or holds no emulator.
    """
    file = open_tensors(path)
    if _KEY not in file.metadata:
        raise FormatError(f"{path} holds no emulator: its metadata has no {_KEY}")
    emulator = _built(parse_json(file.metadata[_KEY], f"{path}: the settings of the emulator"), path)
    expected = {name: tuple(tensor.shape) for name, tensor in emulator.state_dict().items()}
    found = {name: entry.shape for name, entry in file.entries.items()}
    if odd := sorted(expected.items() ^ found.items()):
        raise FormatError(f"{path}: tensor {odd[0][0]!r} is missing, unknown or of another shape than the settings say")
    emulator.load_state_dict({name: file.read(name).float() for name in expected})
    return emulator.eval()


def _built(settings: Any, path: str | os.PathLike[str]) -> TwoLayerEmulator:
    try:
        known = settings["format"] == _FORMAT
        flow, network = dict(settings["flow"]), dict(settings["network"])
        small = all({**flow, **network}.get(name, 0) <= largest for name, largest in _LARGEST.items())
        if not (known and small):
            raise ValueError("another format, or sizes beyond reason")
        return TwoLayerEmulator(QuasiGeostrophic(**flow), **network)
    except (KeyError, TypeError, ValueError, ConfigError) as error:
        raise FormatError(f"{path}: the settings of the emulator cannot be read ({error})") from error
