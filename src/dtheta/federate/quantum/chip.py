"""The fixed chip: a circuit that never changes applies any operator O, which arrives as the state |o> = vec(O).

    |o> = sum_cr O_rc |c>|r> / |O|_F                       columns first, 2n qubits for an N x N operator, N = 2^n
    y   = O psi / (sqrt(N) |O|_F)                          what is left where the measurement succeeds
    p   = |y|^2 = |O psi|^2 / (N |O|_F^2) <= 1/N           the probability that it does

Daskin 2024 (arXiv 2401.13421), equations 5 to 10. The chip is gate teleportation through the Choi state of O; a unitary
O succeeds with 1/N^2. So the 2n qubits in place of N^2 numbers cost N^2 repetitions or more: p is always returned, with
the shots that one success takes. ``chip_circuit`` has the circuit gate by gate; here y is one matrix product.

Shape legend: B data states, N = 2^n.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from dtheta.errors import NonFinite, ShapeMismatch
from dtheta.federate.quantum.statevector import State


@dataclass(frozen=True)
class Success:
    """The result of a run of the chip.

    Attributes:
        state: O psi / |O psi| (B, N), what the row register holds after a success; zeros where it never succeeds.
        probability: p (B).
    """

    state: Complex[Tensor, "B N"]
    probability: Float[Tensor, " B"]

    @property
    def shots(self) -> Float[Tensor, " B"]:
        """Return the expected shots until a success, 1 / p; infinite where p is 0."""
        return 1 / self.probability


def program_state(operator: Complex[Tensor, "N N"]) -> Complex[Tensor, " N*N"]:
    """Return |o> of an operator, real or complex.

    Raises:
        ShapeMismatch: It is no square of a power of two.
        NonFinite: It holds NaN or infinity, or only zeros, which no state stands for.
    """
    size = len(operator)
    if operator.ndim != 2 or operator.shape != (size, size) or size < 2 or size & (size - 1):
        raise ShapeMismatch(f"the operator has shape {tuple(operator.shape)}; expected (N, N), N = 2, 4, 8, ...")
    largest = operator.abs().max()
    if not torch.isfinite(largest) or not largest > 0:
        raise NonFinite("the operator holds NaN or infinity, or zeros alone; expected finite entries, not all zero")
    scaled = operator / largest  # the squares of very small or large entries would be 0 or infinity
    return (scaled.mT / scaled.norm()).flatten()


def amplitudes(program: Complex[Tensor, "... N*N"], psi: State) -> Complex[Tensor, "... B N"]:
    """Return y, not scaled: the amplitudes of success in the row register.

    Raises:
        ShapeMismatch: Program and data are of different sizes.
    """
    size = psi.shape[-1]
    if program.shape[-1] != size * size:
        raise ShapeMismatch(f"a program of {program.shape[-1]} amplitudes; data of {size} take {size * size}")
    dtype = torch.promote_types(program.dtype, psi.dtype).to_complex()
    return psi.to(dtype) @ program.to(dtype).unflatten(-1, (size, size)) / size**0.5


def outcomes(program: Complex[Tensor, "... N*N"], psi: State) -> Float[Tensor, "... B N"]:
    """Return the probability of success with every row, |y|^2.

    Raises:
        ShapeMismatch: Program and data are of different sizes.
    """
    return torch.view_as_real(amplitudes(program, psi)).square().sum(-1)


def run_chip(operator: Complex[Tensor, "N N"], psi: State) -> Success:
    """Apply an operator to data states (B, N) as the chip does, exactly.

    Raises:
        ShapeMismatch: Operator and data are of different sizes.
        NonFinite: The operator holds NaN or infinity, or only zeros.
    """
    return success(amplitudes(program_state(operator), psi))


def success(y: Complex[Tensor, "B N"]) -> Success:
    """Return state and probability of amplitudes of success."""
    length = y.norm(dim=-1)
    return Success(y / torch.where(length > 0, length, torch.ones_like(length))[..., None], length.square())
