"""Matrices of quantum gates, real angles in, complex matrices out; differentiable.

    RX(t) = exp(-i t X / 2),   RY and RZ alike;   C(U) = |0><0| (x) 1 + |1><1| (x) U

The first wire of a gate is the most significant bit of its row index.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from jaxtyping import Complex, Float
from torch import Tensor

_R = 1 / math.sqrt(2)
_FIXED: Mapping[str, list[list[complex]]] = {
    "I": [[1, 0], [0, 1]],
    "X": [[0, 1], [1, 0]],
    "Y": [[0, -1j], [1j, 0]],
    "Z": [[1, 0], [0, -1]],
    "H": [[_R, _R], [_R, -_R]],
    "S": [[1, 0], [0, 1j]],
    "CNOT": [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]],
    "CZ": [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, -1]],
    "SWAP": [[1, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1]],
}


def rx(angle: Float[Tensor, ...]) -> Complex[Tensor, "... 2 2"]:
    """Return exp(-i angle X / 2)."""
    cosine, sine = _halves(angle)
    zero = torch.zeros_like(cosine)
    return _square(torch.complex(cosine, zero), torch.complex(zero, -sine))


def ry(angle: Float[Tensor, ...]) -> Complex[Tensor, "... 2 2"]:
    """Return exp(-i angle Y / 2), which is real."""
    cosine, sine = _halves(angle)
    entries = torch.stack([cosine, -sine, sine, cosine], -1).unflatten(-1, (2, 2))
    return torch.complex(entries, torch.zeros_like(entries))


def rz(angle: Float[Tensor, ...]) -> Complex[Tensor, "... 2 2"]:
    """Return exp(-i angle Z / 2), which is diagonal."""
    cosine, sine = _halves(angle)
    return torch.diag_embed(torch.complex(torch.stack([cosine, cosine], -1), torch.stack([-sine, sine], -1)))


ROTATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {"RX": rx, "RY": ry, "RZ": rz}
#: Gates with an angle, and on how many wires; those that are controlled have three eigenvalue gaps and not two.
TURNED = {"RX": 1, "RY": 1, "RZ": 1, "CRX": 2, "CRY": 2, "CRZ": 2}
#: Gates without.
FIXED = {name: int(math.log2(len(rows))) for name, rows in _FIXED.items()}


def fixed(name: str, dtype: torch.dtype = torch.complex64) -> Tensor:
    """Return the matrix of a gate without angle: I, X, Y, Z, H, S, CNOT, CZ or SWAP."""
    return torch.tensor(_FIXED[name], dtype=dtype)


def turned(name: str, angle: Float[Tensor, ...]) -> Complex[Tensor, "... d d"]:
    """Return the matrix of RX, RY, RZ, CRX, CRY or CRZ at an angle."""
    return controlled(ROTATIONS[name[1:]](angle)) if name.startswith("C") else ROTATIONS[name](angle)


def controlled(gate: Complex[Tensor, "... d d"]) -> Complex[Tensor, "... 2*d 2*d"]:
    """Return the gate that acts where a first wire is 1."""
    size = gate.shape[-1]
    one = torch.eye(size, dtype=gate.dtype, device=gate.device).expand_as(gate)
    zero = torch.zeros_like(gate)
    return torch.cat([torch.cat([one, zero], -1), torch.cat([zero, gate], -1)], -2)


def kron(gates: Complex[Tensor, "... m d d"]) -> Complex[Tensor, "... d**m d**m"]:
    """Return the Kronecker product of m gates of one size, the first one most significant."""
    count = gates.shape[-3]
    if count == 1:
        return gates[..., 0, :, :]
    if count % 2:
        return _pair(kron(gates[..., :-1, :, :]), gates[..., -1, :, :])
    return kron(_pair(gates[..., ::2, :, :], gates[..., 1::2, :, :]))  # pairs at once: few products for autograd


def _pair(left: Tensor, right: Tensor) -> Tensor:
    product = left[..., :, None, :, None] * right[..., None, :, None, :]
    return product.flatten(-4, -3).flatten(-2)


def _halves(angle: Tensor) -> tuple[Tensor, Tensor]:
    return torch.cos(angle / 2), torch.sin(angle / 2)


def _square(diagonal: Tensor, off: Tensor) -> Tensor:
    return torch.stack([diagonal, off, off, diagonal], -1).unflatten(-1, (2, 2))
