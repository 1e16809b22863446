"""Sharded parameters (FSDP2): whole tensors where a formula needs them, and shards of whole tensors.

A closed-form gradient such as SORSA's needs whole factors: A A^T is no function of a row of A. So the terms, which are
small, are gathered once a step, the gradient is computed on every process alike, and each keeps its part of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def _is_dtensor(tensor: Any) -> bool:
    return hasattr(tensor, "placements") and hasattr(tensor, "full_tensor")


def is_sharded(module: nn.Module) -> bool:
    """Tell whether any parameter of a module is one part of several."""
    return any(_is_dtensor(p) for p in module.parameters())


def whole(tensor: Tensor) -> Tensor:
    """Return the full tensor; every process has to ask for it."""
    found: Any = tensor
    return found.full_tensor() if _is_dtensor(tensor) else tensor


def local(tensor: Tensor) -> Tensor:
    """Return the part of a tensor that this process holds."""
    found: Any = tensor
    return found.to_local() if _is_dtensor(tensor) else tensor


def like(full: Tensor, parameter: Tensor) -> Tensor:
    """Return a full tensor in the form of a parameter: on its device, and its own part where that is sharded."""
    full = full.to(parameter.device)
    if not _is_dtensor(parameter):
        return full
    from torch.distributed.tensor import DTensor, Replicate

    held: Any = parameter
    everywhere = [Replicate()] * held.device_mesh.ndim
    return DTensor.from_local(full, held.device_mesh, everywhere, run_check=False).redistribute(
        placements=held.placements
    )


def make_contiguous(adapter: Any) -> None:
    """Make the trainable parameters contiguous, as sharding wants them; their values stay."""
    for parameter in adapter.trainable().values():
        parameter.data = parameter.data.contiguous()


def reshard(module: nn.Module) -> None:
    """Let every sharded module hold its shards again; a forward without backward leaves the root gathered."""
    for part in module.modules():
        if hasattr(part, "unshard") and hasattr(part, "reshard"):
            part.reshard()  # type: ignore[operator]


@contextmanager
def gathered(adapter: Any, base: bool = False) -> Iterator[None]:
    """Run a block in which the terms, and with ``base`` the model too, hold whole parameters and whole gradients.

    Gradients that the block leaves go back to the shards; changes of values do not. Every process has to enter it.
    Without shards nothing happens. ``with gathered(adapter, base=True): delta = adapter.delta()`` is how a delta
    leaves sharded training.
    """
    reshard(adapter)
    swapped: list[tuple[nn.Module, str, nn.Parameter]] = []
    for module in (adapter if base else adapter.terms).modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None and _is_dtensor(parameter):
                swapped.append((module, name, parameter))
    try:
        for module, name, parameter in swapped:
            module._parameters[name] = _full(parameter)
        yield
    finally:
        for module, name, parameter in swapped:
            full = module._parameters[name]
            module._parameters[name] = parameter
            if full is not None and full is not parameter and parameter.requires_grad:
                parameter.grad = None if full.grad is None else like(full.grad, parameter)


def _full(parameter: nn.Parameter) -> nn.Parameter:
    full = nn.Parameter(whole(parameter.detach()), requires_grad=parameter.requires_grad)
    if parameter.grad is not None:
        full.grad = whole(parameter.grad)
    return full


def copy_into(parameters: dict[str, Any], values: dict[str, Tensor]) -> None:
    """Overwrite parameters by values of the same names and form."""
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(values[name])
