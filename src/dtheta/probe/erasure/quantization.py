"""Quantization: the weights that the delta changed are rounded to few bits, which may swallow a small change.

    8 bits  w ~ s_o round(w / s_o),  s_o = max |w_o| / 127, one scale for each output of a matrix
    4 bits  NF4 in blocks of 64 weights (core/nf4.py)

Both are worked out in float32 on the changed weights and put on the model as a delta, exact to the bit of its dtype.
Vectors, such as biases, are left as they are, as quantizers do. The original is asked with the same matrices rounded.
Source of the attack: Zhang et al. 2024 (arXiv 2410.16454), who round all weights of a model.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from dtheta.core.apply import bind, originals
from dtheta.core.change import Change, Dense
from dtheta.core.delta import Delta
from dtheta.core.displace import displaced
from dtheta.core.nf4 import quantize_nf4
from dtheta.core.provenance import Provenance
from dtheta.core.selection import sites
from dtheta.core.tensors import canonical_names
from dtheta.errors import ConfigError
from dtheta.probe.erasure.attack import Attack
from dtheta.probe.erasure.subject import Subject

_BITS = (4, 8)


@dataclass(frozen=True)
class Quantization(Attack):
    """Ask after the changed weights were rounded.

    Attributes:
        bits: Of a weight: 4 or 8.
    """

    bits: int = 4
    follows_delta: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the bits.

        Raises:
            ConfigError: If they are neither 4 nor 8.
        """
        if self.bits not in _BITS:
            raise ConfigError(f"Quantization: bits={self.bits}; expected one of {', '.join(map(str, _BITS))}")

    @property
    def label(self) -> str:
        """What it is called in a report."""
        return f"{self.bits}-bit weights"

    @contextmanager
    def state(self, subject: Subject, delta: Delta, present: bool) -> Iterator[None]:
        """Run a block on the model with the rounded weights."""
        with subject.changed(quantized(subject.model, delta, self.bits, present)):
            yield


def quantized(model: nn.Module, delta: Delta, bits: int, present: bool = True) -> Delta:
    """Return the delta after which the weights that a delta changes are rounded.

    Args:
        model: The decoder, without the delta; it is not written to.
        delta: Whose matrices are rounded.
        bits: Of a weight: 4 or 8.
        present: Whether the delta is in the weights; else those of the original are rounded.

    Raises:
        BaseMismatch, UnknownParameter, ShapeMismatch, UnsupportedLayer: As ``applied``.
        NonFinite: If a changed weight is NaN or infinite.
    """
    tensors, whole, changes = originals(model), bind(delta, model), {}
    kinds, canonical = sites(model), canonical_names(model)
    for name, change in whole.changes.items():
        before = tensors[name].detach()
        after = displaced(before, [change], name) if present else before
        if after.ndim >= 2:
            site = kinds.get(canonical[name])
            after = _rounded(after, bits, transposed=site is not None and site.kind == "transposed")
        changes[name] = _difference(before, after)
    settings = {"bits": bits, "with": delta.digest if present else None}
    return Delta(changes, delta.base, Provenance("quantize", settings=settings))


def _rounded(weight: Tensor, bits: int, transposed: bool) -> Tensor:
    if bits == 4:
        return quantize_nf4(weight).dequantize().to(weight.dtype)
    matrix = weight.float() if not transposed else weight.float().T  # transformers' Conv1D has its outputs in columns
    return _eight_bits(matrix).T.to(weight.dtype) if transposed else _eight_bits(matrix).to(weight.dtype)


def _eight_bits(weight: Tensor) -> Tensor:
    rows = weight.reshape(len(weight), -1)
    scale = rows.abs().amax(dim=1, keepdim=True) / 127
    steps = torch.where(scale > 0, scale, 1.0)
    return ((rows / steps).round() * steps).reshape(weight.shape)


def _difference(before: Tensor, after: Tensor) -> Change:
    """Return what leads from one tensor to another, in float64, so that adding it rounds to the very bits."""
    return Dense((after.double() - before.double()).cpu())
