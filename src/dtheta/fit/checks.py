"""Checks of a run: gradients arrive, numbers are finite, the base is not written to."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dtheta.core.fingerprint import fingerprint
from dtheta.core.tensors import base_tensors
from dtheta.errors import BaseMismatch, ConfigError, NonFinite, UnsupportedLayer
from dtheta.fit.batch import digest
from dtheta.fit.sharded import local
from dtheta.fit.world import World


def check_reached(parameters: Mapping[str, nn.Parameter]) -> None:
    """Raise unless every parameter has a gradient.

    Raises:
        ConfigError: naming the first that has none.
    """
    unreached = [name for name, p in parameters.items() if p.grad is None]
    if unreached:
        raise ConfigError(
            f"no gradient reached {unreached[0]} ({len(unreached)} of {len(parameters)} trainable parameters): its "
            "module was not called, or hands its weight to a function without being called itself. Leave it out with "
            "select, or pass allow_unused=True if some modules rest in some steps (experts)"
        )


def check_finite(step: int, loss: float, norm: float, scaled: bool, lr: float, kept: str) -> None:
    """Raise before anything is updated; of a scaled gradient an overflow only skips the step.

    Raises:
        NonFinite: naming the step and what ``kept`` says there is left.
    """
    if math.isfinite(loss) and (math.isfinite(norm) or scaled):
        return
    what = f"the loss is {loss}" if not math.isfinite(loss) else f"the gradient's norm is {norm}"
    raise NonFinite(
        f"step {step}: {what}; the terms are those after step {step - 1}, and {kept}. Lower lr (now {lr:g}), lengthen "
        "the warmup, or look at the batch"
    )


def check_terms(step: int, parameters: Iterable[Tensor], world: World, lr: float, kept: str) -> None:
    """Raise if an update left NaN or infinity in a term; every process has to ask.

    Raises:
        NonFinite: naming the step and what ``kept`` says there is left.
    """
    parts = [torch.isfinite(local(p.detach())).all() for p in parameters]
    finite = not parts or bool(torch.stack([part.to(parts[0].device) for part in parts]).all())  # one wait
    if world.any(not finite):
        raise NonFinite(
            f"step {step}: its update made terms NaN or infinite, and the adapter holds them; {kept}. Lower lr (now "
            f"{lr:g}) or lengthen the warmup, and attach anew"
        )


def check_attached(adapter: Any) -> None:
    """Raise unless there is an adapter, and it is on its model.

    Raises:
        ConfigError: something else was given, or the terms are in no model, so that no loss could depend on them.
    """
    if not hasattr(adapter, "trainable"):
        raise ConfigError(
            f"fit trains an adapter, found {type(adapter).__name__}; dt.attach(model, dt.LoRA(rank=8)) makes one, and "
            "dt.Full() for all weights"
        )
    if not getattr(adapter, "attached", True):  # a Trainable of one's own need not know what attaching is
        raise ConfigError(
            "this adapter is detached: its terms are in no model, so there is nothing to train; call fit before "
            "detach(), or attach to the model anew"
        )


def check_callable(name: str, value: Any, what: str) -> None:
    """Raise unless an argument can be called.

    Raises:
        ConfigError: naming the argument and what it should be.
    """
    if not callable(value):
        raise ConfigError(f"{name} must be {what}, got {value!r:.80}")


def versions(model: nn.Module) -> dict[str, int]:
    """Return how often each tensor of the base was written to, as torch counts."""
    return {name: t._version for name, t in base_tensors(model).items() if not t.is_inference()}


def check_unwritten(model: nn.Module, before: Mapping[str, int]) -> None:
    """Raise if the model wrote to a tensor of its own since ``before``.

    Raises:
        UnsupportedLayer: naming the tensor.
    """
    for name, version in versions(model).items():
        if before.get(name, version) != version:
            raise UnsupportedLayer(
                f"{name}: the model wrote to it while it ran, but the base is not written to; freeze its statistics"
            )


def base_identity(adapter: Any, world: World) -> dict[str, str]:
    """Return digests of the base, and of constants that no state dict holds: its own and those of the terms.

    Such are the tokens of an image classifier's classes, and the basis of singular values.

    Raises:
        BaseMismatch: the processes hold different ones.
    """
    stored = {id(t) for t in adapter.terms.state_dict(keep_vars=True).values()}
    found = {
        "base": fingerprint(base_tensors(adapter.model)).digest,
        "constants": digest(_constants(adapter)),
        "basis": digest([t for t in adapter.terms.buffers() if id(t) not in stored]),
    }
    if any(other != found for other in world.gather(found)):
        raise BaseMismatch("the processes hold different bases; load the same weights in every process")
    return found


def _constants(adapter: Any) -> list[Tensor]:
    """Return the buffers of the base that are in no state dict."""
    of_terms = {id(t) for t in adapter.terms.buffers()}
    named = ((m, name) for m in adapter.model.modules() for name in sorted(m._non_persistent_buffers_set))
    found = (getattr(module, name) for module, name in named)
    return [t for t in found if t is not None and id(t) not in of_terms]


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the context of mixed precision; it does nothing for fp32."""
    kind = torch.float16 if precision == "fp16" else torch.bfloat16
    return torch.autocast(device.type, kind, enabled=precision != "fp32")
