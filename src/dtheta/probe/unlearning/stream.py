"""The stream of a decoder after a layer: where a layer ends, and catching what it passes on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from dtheta.errors import ConfigError
from dtheta.probe.decoder import Decoder


def layer_module(model: nn.Module, decoder: Decoder, layer: int, who: str) -> nn.Module:
    """Return the module of a layer, found by where its value vectors are.

    Raises:
        ConfigError: If there is no such layer; ``who`` asks for it.
    """
    if layer not in decoder.matrices:
        raise ConfigError(f"{who}: layer {layer}; the model has layers {decoder.layers[0]} to {decoder.layers[-1]}")
    path = decoder.matrices[layer].name
    return model.get_submodule(path[: path.index(f".{layer}.")] + f".{layer}")


@contextmanager
def caught(block: nn.Module) -> Iterator[list[Tensor]]:
    """Collect what a layer passes on, a tensor (B, T, D) a pass."""
    held: list[Tensor] = []

    def hook(module: nn.Module, inputs: Any, out: Any) -> None:
        held.append(out[0] if isinstance(out, tuple) else out)

    handle = block.register_forward_hook(hook)
    try:
        yield held
    finally:
        handle.remove()
