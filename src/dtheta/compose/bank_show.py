"""Display: a model shows one expert, in buffers that are used again; the base's storage is never written to.

    buffer = base + D        one pass over both for signs and a scale; a product of the factors for low-rank changes

A tensor of the model gets the buffer as its storage and, back at the base, its own storage again: a swap of pointers.
From one expert to the next only the tensors that either of them changes are touched. The record of what is on a tensor
is the one that ``applied`` keeps (core/apply.py), so both may be inside each other and end in any order: where another
displacement is on a tensor too, their sum is made as ``applied`` makes it.

Arithmetic is that of the buffer's dtype, float32 for narrower ones. Signs with one float32 scale, or one a row, on a
float32 base give the bits of ``applied``; everything else agrees with it up to the rounding of float32, or to the bit
with ``exact``, which is slower and takes no buffers.

Shape legend: (m, n) the matrix in which a parameter is seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dtheta.compose import signs
from dtheta.compose.bank_factors import factors_of
from dtheta.compose.bank_origin import Origin
from dtheta.compose.terms import Term, terms
from dtheta.core.change import Change, matrix_shape
from dtheta.core.displace import displaced
from dtheta.core.plane_sums import add_scaled
from dtheta.core.tensors import all_finite
from dtheta.core.ternary import Ternary
from dtheta.errors import NonFinite, UnsupportedLayer

_NARROW = (torch.float16, torch.bfloat16)


class Display:
    """What a bank shows on a model.

    Attributes:
        exact: Whether sums are made to the bit as ``applied`` makes them.
    """

    def __init__(self, origin: Origin, exact: bool) -> None:
        self.exact = exact
        self._origin = origin
        self._token = object()
        self._layers: dict[str, Any] = {}
        self._buffers: dict[str, Tensor] = {}

    @property
    def nbytes(self) -> int:
        """Bytes of the buffers."""
        return sum(buffer.nbytes for buffer in list(self._buffers.values()))  # other threads may add to them

    def free(self) -> None:
        """Give the buffers back that are not shown."""
        self._buffers = {name: buffer for name, buffer in self._buffers.items() if name in self._layers}

    @torch.no_grad()
    def show(self, changes: Mapping[str, Change], check: bool = False) -> None:
        """Show the base with these changes, by the names that ``Origin.canonical`` gives; none for the base.

        Args:
            changes: Bound changes.
            check: Whether to make sure that every sum is finite.

        Raises:
            NonFinite: If a sum is not finite; tensors before it show the new expert by then.
            UnsupportedLayer: If a tensor cannot be changed, or a module holds another tensor than before.
        """
        self._leave([name for name in self._layers if name not in changes])
        for name, change in changes.items():
            layer = self._layers.get(name) or self._origin.layer(name)
            others = [other for token, other in layer.changes.items() if token is not self._token]
            value = self._sum(name, layer.original, change, others)
            if check and not all_finite(value) and all_finite(layer.original):
                raise NonFinite(f"{name}: base plus expert is not finite in {value.dtype}")
            self._layers[name] = layer
            layer.changes[self._token] = change
            layer.show(value)

    def _leave(self, names: list[str]) -> None:
        """Take the expert off tensors: all of them, before anything is said of modules that hold others by now."""
        lost = [name for name in reversed(names) if not self._layers.pop(name).leave(self._token)]
        if lost:
            raise UnsupportedLayer(
                f"{lost[-1]}: its module holds another tensor than when the expert was shown, so it could not be "
                "restored; replace tensors while the bank shows the base"
            )

    def _sum(self, name: str, base: Tensor, change: Change, others: list[Change]) -> Tensor:
        plain = base.dtype in (torch.float32, torch.float64, *_NARROW)
        if others or self.exact or not plain or not base.is_contiguous() or base.device.type == "mps":
            return displaced(base, [*others, change], name, check=False)
        buffer = self._buffer(name, base)
        write(base, change, buffer)
        return buffer

    def _buffer(self, name: str, base: Tensor) -> Tensor:
        known = self._buffers.get(name)
        if known is None or (known.shape, known.dtype, known.device) != (base.shape, base.dtype, base.device):
            with torch.inference_mode(False):  # a buffer is used inside that mode and outside
                known = self._buffers[name] = torch.empty(base.shape, dtype=base.dtype, device=base.device)
        return known


def write(base: Tensor, change: Change, out: Tensor) -> None:
    """Write base plus change to ``out``, in float32 or in the dtype of ``out`` if that is float64.

    Args:
        base: Contiguous floating-point tensor.
        change: Of its shape, spectral changes bound.
        out: Contiguous tensor of its shape and dtype.
    """
    if change.device != base.device:
        change = change.map(lambda tensor: tensor.to(base.device))
    target = torch.empty(base.shape, dtype=torch.float32, device=base.device) if out.dtype in _NARROW else out
    matrix = target.view(matrix_shape(target.shape))
    for term in _begun(base, list(terms(change)), target):
        factors = factors_of(term.leaf, target.dtype)
        if factors is None:
            term.add_to(matrix, 1.0)
        else:
            term.view(matrix).addmm_(*factors, alpha=term.factor)
    if target is not out:
        out.copy_(target)


def _begun(base: Tensor, found: list[Term], out: Tensor) -> list[Term]:
    """Write the base, and with it in one pass what is made of signs, to ``out``; return the terms that are left."""
    if base.dtype != out.dtype or not out.numel():
        out.copy_(base)
        return found
    if signed := [pair for term in found if (pair := term.signed) is not None]:
        signs.add(base, [planes for _, planes in signed], [scale for scale, _ in signed], out)
        return [term for term in found if term.signed is None]
    first = found[0]
    if isinstance(first.leaf, Ternary) and not first.windows and first.leaf.device.type == "cpu":  # a scale a row
        scale = first.leaf.scale.double() * first.factor
        add_scaled(base, [first.leaf.planes], [scale.numpy()], span=max(1, matrix_shape(out.shape)[1]), out=out)
        return found[1:]
    out.copy_(base)
    return found
