"""Spectral change: shifts of the singular values of the base's own weight (CLIP-SVD and its kin).

    D = U diag(shift) V^T,   W = U diag(S) V^T the base weight,   k = len(shift)

A file stores only the shifts: U and V come from the base again. Nearly equal singular values leave that basis free to
rotate, and LAPACK builds differ, so a probe ``D p`` is stored beside them, with ``p`` a fixed vector of signs. A reader
whose basis does not reproduce the probe refuses (BaseMismatch) and says how to save with the basis included.

On one basis, sums and multiples of such changes are again shifts; they are kept in float64, so nothing is lost. So are
their probes. Where the parts nearly cancel, as in the difference of two checkpoints of one run, what is left of the
rounding of the parts' probes is no longer small beside the result, so the size of the parts stays with it:

    |D p - probe| <= 1e-4 |shift| + min(1e-6 parts, 0.1 |shift|) + 4e-15 parts
    parts = |a| |shift_1| + |b| |shift_2| + ...        for D = a D_1 + b D_2 + ...;  0 for a change that is no sum

That is, a rotation as large as the result never passes, unless the result itself is only the rounding of float64.

Shape legend: W (m, n); U (m, k), shift (k,), Vh (k, n), probe (m,).
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from dtheta.core.basis import spectral_basis
from dtheta.core.change import Change, Factors, Shape, as_vector, matrix_shape
from dtheta.core.lowrank import LowRank
from dtheta.errors import BaseMismatch, ConfigError, ShapeMismatch

# Allowed difference of two probes, relative to the norm of the change (which is what the norm of a probe is on
# average). Bases that agree up to float32 rounding differ by 1e-6; a rotation of two vectors by an angle t moves the
# probe by about t * (difference of their shifts), so whatever would matter at float32 is far above this.
PROBE_TOLERANCE = 1e-4
_PART_ROUNDING = 1e-6  # of the probe of one part, relative to the part: float32, and bases of different libraries
_MOST_ROUNDING = 0.1  # share of the result up to which the rounding of its parts is let pass
_NOISE = 16 * 2.0**-52  # of sums and multiples in float64, relative to the parts


@dataclass(frozen=True, eq=False, repr=False)
class Spectral(Change):
    """``U diag(shift) Vh``; with ``left`` and ``right`` None the change still has to be bound to its base weight."""

    shift: Tensor
    full_shape: Shape
    left: Tensor | None = None
    right: Tensor | None = None
    probe: Tensor | None = None
    #: Of a sum or multiple with a probe: the norms of its parts added up; None where the probe is of the change itself.
    parts: float | None = None
    kind: ClassVar[str] = "spectral"

    def __post_init__(self) -> None:
        for name in ("shift", "left", "right", "probe"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, as_vector(getattr(self, name)))
        object.__setattr__(self, "full_shape", tuple(self.full_shape))
        rows, columns = matrix_shape(self.full_shape)
        k = self.shift.numel()
        if self.shift.ndim != 1 or not 1 <= k <= min(rows, columns):
            raise ShapeMismatch(
                f"{k} shifts of singular values do not fit a parameter of {self.full_shape}: expected a vector of 1 "
                f"to {min(rows, columns)}"
            )
        if (self.left is None) != (self.right is None):
            raise ShapeMismatch("a spectral change has both its left and its right singular vectors, or neither")
        for name, shape in (("left", (rows, k)), ("right", (k, columns)), ("probe", (rows,))):
            tensor = getattr(self, name)
            if tensor is not None and tuple(tensor.shape) != shape:
                raise ShapeMismatch(f"spectral change: {name} is {tuple(tensor.shape)}, expected {shape}")

    @property
    def shape(self) -> Shape:  # type: ignore[override]
        """Shape of the parameter."""
        return self.full_shape

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the basis; float32 while there is none."""
        return torch.float32 if self.left is None else self.left.dtype

    @property
    def rank(self) -> int:
        """Number of shifted singular values."""
        return self.shift.numel()

    @property
    def bound(self) -> bool:
        """Whether the singular vectors are at hand."""
        return self.left is not None

    def same_basis(self, other: Spectral) -> bool:
        """Tell whether both shift the same singular vectors: both unbound, or both with the very same vectors."""
        if self.full_shape != other.full_shape or self.rank != other.rank or self.bound != other.bound:
            return False
        return _same(self.left, other.left) and _same(self.right, other.right)

    def factors(self, dtype: torch.dtype | None = None) -> Factors:
        """Return ``(U * shift, Vh)``.

        Raises:
            ConfigError: If the change is not bound to its base.
        """
        if self.left is None or self.right is None:
            raise ConfigError(
                "this change shifts singular values and needs its base to become a matrix: "
                "load it with dt.load(path, base=model), or call delta.bind(model)"
            )
        dtype = dtype or self.dtype
        return (self.left.double() * self.shift).to(dtype), self.right.to(dtype)

    def norm(self) -> float:
        """Return the norm of the shifts, which is that of the displacement: the basis is orthonormal."""
        return float(torch.linalg.vector_norm(self.shift, dtype=torch.float64))

    def window(self, axis: int, start: int, stop: int) -> Change:
        """Return the change of a window: low-rank, or the change itself if the window is all of it."""
        shape = matrix_shape(self.full_shape)
        if (start, stop) == (0, shape[axis]):
            return replace(self, full_shape=shape)
        self.factors()
        assert self.left is not None and self.right is not None
        return LowRank(self.left, self.right, self.shift).window(axis, start, stop)

    def times(self, factor: float) -> Change:
        """Return the change with the shifts multiplied."""
        probe = None if self.probe is None else self.probe.double() * factor
        return self._combined(self.shift.double() * factor, probe, abs(factor) * self._size())

    def plus(self, other: Change) -> Change | None:
        """Return the change with both shifts, if both are on one basis."""
        if not isinstance(other, Spectral) or not self.same_basis(other):
            return None
        probed = self.probe is not None and other.probe is not None
        probe = self.probe.double() + other.probe if probed else None  # type: ignore[union-attr]
        return self._combined(self.shift.double() + other.shift, probe, self._size() + other._size())

    def _combined(self, shift: Tensor, probe: Tensor | None, parts: float) -> Spectral:
        if self.bound or probe is None:  # with the basis at hand, a probe is made of the result, and exact
            return replace(self, shift=shift, probe=None, parts=None)
        return replace(self, shift=shift, probe=probe, parts=parts)

    def _size(self) -> float:
        """Return what the rounding of the probe is relative to."""
        return self.norm() if self.parts is None else self.parts

    def bind(self, weight: Tensor) -> Spectral:
        """Take U and Vh from the singular value decomposition of the base weight, and check the probe.

        Raises:
            BaseMismatch: If the basis does not reproduce the probe.
        """
        if self.bound:
            return self
        left, right = spectral_basis(weight.reshape(matrix_shape(self.full_shape)), self.rank)
        device = weight.device
        found = self.map(lambda t: t.to(device))
        found = replace(found, left=left.to(device), right=right.to(device))
        if found.probe is not None:
            _check_probe(found, found.probe, found.parts or 0.0)
        return found

    def make_probe(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return ``D p`` (m,) in float32 for the vector of signs ``p`` (n,) that belongs to n, or in another dtype."""
        left, right = self.factors(torch.float64)
        return (left @ (right @ _signs(right.shape[1]).to(right))).to(dtype)

    def meta(self) -> dict[str, Any]:
        """Return kind and shape, and the number of shifts."""
        return {**super().meta(), "rank": self.rank}

    def tensors(self) -> dict[str, Tensor]:
        """Return the shifts: with the base, they are the identity of the change."""
        return {"shift": self.shift}

    def stored(self, basis: bool = False) -> dict[str, Tensor]:
        """Return the shifts with the probe (and the size of its parts), or with the singular vectors if asked for."""
        if basis and self.left is not None and self.right is not None:
            return {"shift": self.shift, "left": self.left, "right": self.right}
        if self.probe is None:
            return {"shift": self.shift, "probe": self.make_probe()} if self.bound else {"shift": self.shift}
        parts = {} if self.parts is None else {"parts": torch.tensor(self.parts, dtype=torch.float64)}
        return {"shift": self.shift, "probe": self.probe, **parts}

    def map(self, move: Any) -> Spectral:
        """Return the moved change."""
        parts = {n: move(t) for n in ("shift", "left", "right", "probe") if (t := getattr(self, n)) is not None}
        return replace(self, **parts)


def _same(a: Tensor | None, b: Tensor | None) -> bool:
    return a is b or (a is not None and b is not None and a.device == b.device and torch.equal(a, b))


def _signs(n: int) -> Tensor:
    """Return n signs, +1 or -1, from the bits of shake_256: the same in every version of every library, forever."""
    data = hashlib.shake_256(f"dtheta spectral probe {n}".encode()).digest((n + 7) // 8)
    bits = np.unpackbits(np.frombuffer(data, dtype=np.uint8), count=n)
    return torch.from_numpy(1.0 - 2.0 * bits)


def _check_probe(change: Spectral, probe: Tensor, parts: float) -> None:
    error = float(torch.linalg.vector_norm(change.make_probe(torch.float64) - probe))
    length = change.norm()
    rounding = min(_PART_ROUNDING * parts, _MOST_ROUNDING * length)
    if error <= PROBE_TOLERANCE * length + rounding + _NOISE * parts:
        return
    why = (
        "Nearly equal singular values make the basis differ between numerical libraries; save with "
        "delta.save(path, include_basis=True) where the delta was made"
    )
    if rounding < _PART_ROUNDING * parts:
        why = (
            f"It is what is left of parts of size {parts:.1e} that nearly cancel, which their probes cannot tell from "
            "rounding; bind the parts before they are added: dt.load(path, base=model)"
        )
    allowed = PROBE_TOLERANCE + rounding / length if length else 0.0
    raise BaseMismatch(
        f"the singular vectors of this base do not reproduce the change: relative error "
        f"{error / length if length else math.inf:.1e}, allowed {allowed:.0e}. {why}"
    )
