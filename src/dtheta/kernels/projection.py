"""Projection: the random rows of features as a module holds them, regenerated from their seed and never stored.

A state dict keeps a probe instead, some entries of them as bits, so that trained weights cannot meet another
projection; the modules that hold such weights look at it before they load any. A cast to half precision makes the rows
anew in float32: rounded, they would be another projection.

Shape legend: m draws, d inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dtheta.core.features import Draws, RandomFeatures
from dtheta.errors import FormatError

_PROBED = 16


class Projection(nn.Module):
    """The draws of random features as buffers that no state dict holds.

    Attributes:
        features: What they are draws of.
        probe: Bits of some of their entries, int64; the one buffer that a state dict holds.
    """

    rows: Tensor
    frequencies: Tensor
    shift: Tensor
    probe: Tensor

    def __init__(
        self,
        features: RandomFeatures,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
        with_rows: bool = True,
    ) -> None:
        """Draw; ``with_rows=False`` keeps no rows (m, d), where they are folded into weights, as in a bundle."""
        super().__init__()
        self.features, self.with_rows = features, with_rows
        self._draw(dtype, torch.device("cpu" if device is None else device))

    @property
    def draws(self) -> Draws:
        """The draws, in float32 or wider."""
        return Draws(self.rows, self.frequencies, self.shift)

    def phi(self, x: Tensor) -> Tensor:
        """Return the features of inputs (..., d), in the dtype of the draws where x is narrower."""
        draws = self.draws
        return self.features.phi(x.to(torch.promote_types(x.dtype, draws.rows.dtype)), draws)

    def _draw(self, dtype: torch.dtype, device: torch.device) -> None:
        exact = self.features.draws()
        kept = exact if self.with_rows else exact._replace(rows=exact.rows[:0])
        for name, part in kept._asdict().items():
            moved = part.to(device, torch.promote_types(dtype, torch.float32))
            self.register_buffer(name, moved, persistent=False)
        at = torch.linspace(0, exact.rows.numel() - 1, _PROBED, dtype=torch.float64).long()
        probe = torch.cat([exact.rows.reshape(-1)[at], exact.frequencies[at % len(exact.frequencies)]])
        self.register_buffer("probe", probe.view(torch.int64).to(device))  # as bits, since casts do not move integers

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Projection:
        super()._apply(fn, recurse)
        if self.frequencies.device.type != "meta":
            self._draw(self.frequencies.dtype, self.frequencies.device)
        return self

    def check(self, state_dict: Mapping[str, Any], prefix: str) -> None:
        """Raise FormatError if a state dict, where this module is ``prefix``, belongs to another projection."""
        probe = state_dict.get(f"{prefix}probe")
        if probe is not None and not _same(probe, self.probe):
            raise FormatError(
                f"{prefix.rstrip('.') or 'projection'}: these weights belong to another projection than that of "
                f"{self.features}; build the layer with the features that they were trained with, seed and name too"
            )


def _same(given: Tensor, own: Tensor) -> bool:
    """Whether two probes are equal up to the rounding of another LAPACK's QR."""
    if given.dtype != torch.int64 or given.shape != own.shape:
        return False
    return torch.allclose(given.cpu().view(torch.float64), own.cpu().view(torch.float64), rtol=1e-6, atol=1e-9)
