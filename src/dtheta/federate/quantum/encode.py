"""Encodings: rows of numbers as states.

    amplitude   |x> = x / |x|,   n = ceil(log2 N) qubits, padded with zeros;   the zero vector is |0...0>
    angle       |x> = R(x_0)|0> (x) R(x_1)|0> (x) ...,   one qubit a number

An amplitude-encoded row has lost its length; ``constant`` appends a feature 1 before the division, which keeps it.
Preparing |x> takes on the order of N gates on a device: the encoding has log N qubits and no log N circuit.

Shape legend: B rows, N features, n qubits, D = 2^n.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from dtheta.errors import ConfigError, NonFinite, ShapeMismatch
from dtheta.federate.quantum.gates import ROTATIONS
from dtheta.federate.quantum.statevector import State, check_qubits


def amplitude_qubits(features: int, constant: bool = False) -> int:
    """Return the qubits that hold ``features`` numbers, and the constant one: ceil(log2), at least 1."""
    return max(1, (features + constant - 1).bit_length())


def amplitude(x: Float[Tensor, "B N"], qubits: int | None = None, constant: bool = False) -> State:
    """Return rows as amplitudes, scaled to length 1.

    Args:
        x: real rows.
        qubits: n; the fewest that hold a row if None.
        constant: append a feature 1 first.

    Raises:
        ShapeMismatch: x is not (B, N), or a row does not fit.
        NonFinite: x holds NaN or infinity.
    """
    rows = check_rows(x)
    if constant:
        rows = torch.cat([rows, rows.new_ones(len(rows), 1)], 1)
    size = 2 ** check_qubits(amplitude_qubits(rows.shape[1]) if qubits is None else qubits)
    if rows.shape[1] > size:
        raise ShapeMismatch(f"{rows.shape[1]} features do not fit the {size} amplitudes of {qubits} qubits")
    padded = torch.nn.functional.pad(rows, (0, size - rows.shape[1]))
    # divided by the largest entry first: the squares of very small or large rows would be 0 or infinity
    largest = padded.abs().amax(1, keepdim=True).detach()
    padded = padded / torch.where(largest > 0, largest, torch.ones_like(largest))
    filled = torch.where(largest > 0, padded, torch.eye(1, size, dtype=padded.dtype, device=padded.device))
    unit = filled / filled.norm(dim=1, keepdim=True)
    return unit.mT.contiguous().mT.to(unit.dtype.to_complex())


def angle(x: Float[Tensor, "B n"], axis: Literal["X", "Y", "Z"] = "Y") -> State:
    """Return every row as a product state, one qubit a number, turned by it (in radians) from |0>.

    Raises:
        ShapeMismatch: x is not (B, n).
        NonFinite: x holds NaN or infinity.
        ConfigError: Too many qubits, or an unknown axis.
    """
    rows = check_rows(x)
    check_qubits(rows.shape[1])
    if f"R{axis}" not in ROTATIONS:
        raise ConfigError(f"axis is {axis!r}; expected X, Y or Z")
    first, *rest = ROTATIONS[f"R{axis}"](rows)[..., 0].unbind(1)
    for qubit in rest:
        first = (first[:, :, None] * qubit[:, None, :]).flatten(1)
    return first


def check_rows(x: Tensor) -> Tensor:
    """Return finite floating rows (B, N).

    Raises:
        ShapeMismatch: They have another number of dimensions, or are complex.
        NonFinite: They hold NaN or infinity.
    """
    if x.ndim != 2:
        raise ShapeMismatch(f"the inputs have shape {tuple(x.shape)}; expected (rows, features)")
    if x.is_complex():
        raise ShapeMismatch(f"the inputs are {x.dtype}; expected real numbers: a state needs no encoding")
    if not torch.isfinite(x).all():
        raise NonFinite("the inputs hold NaN or infinity; expected finite features")
    return x if x.is_floating_point() else x.float()
