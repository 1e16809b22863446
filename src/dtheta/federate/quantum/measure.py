"""Measurements: exact probabilities and expectations, and what a finite number of shots shows of them.

    p_d = |s_d|^2,   <Z_q> = sum_d p_d (1 - 2 bit_q(d)),   <P> = <s|P|s> for a Pauli string P

A shot of an observable with values +1 and -1 has variance 1 - <P>^2, the mean of S shots that over S.

Shape legend: B batch, n qubits, D = 2^n, S shots.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dtheta.core.arguments import whole
from dtheta.errors import ConfigError, NonFinite
from dtheta.federate.quantum.gates import fixed
from dtheta.federate.quantum.statevector import State, halves, qubits_of, require_qubits, signs

MOST_OUTCOMES = 2**24  # of a draw of torch


def probabilities(state: State) -> Float[Tensor, "B D"]:
    """Return the probability of every outcome."""
    # squares of real parts: the gradient of a complex absolute value is many times slower
    return torch.view_as_real(state.mT).square().sum(-1).mT


def z_values(outcomes: Float[Tensor, "B D"]) -> Float[Tensor, "B n"]:
    """Return <Z_q> of every qubit, from the probability of every outcome."""
    return (signs(qubits_of(outcomes)).to(outcomes) @ outcomes.mT).mT


def expectation_z(state: State) -> Float[Tensor, "B n"]:
    """Return <Z_q> of every qubit."""
    return z_values(probabilities(state))


def apply_pauli(state: State, string: str) -> State:
    """Apply a Pauli string, a letter I, X, Y or Z for every qubit.

    Raises:
        ConfigError: Another letter, or another number of letters.
    """
    n = qubits_of(state)
    require_qubits(state, n)
    if len(string) != n or set(string) - set("IXYZ"):
        raise ConfigError(f"{string!r} is no Pauli string of {n} qubits; expected {n} letters of I, X, Y, Z")
    index = torch.arange(2**n, device=state.device)
    flipped, phase = index, torch.ones(2**n, dtype=state.dtype, device=state.device)
    for qubit, letter in enumerate(string):
        sign = signs(n)[qubit].to(state.device)
        if letter in "XY":
            flipped = flipped ^ (1 << (n - 1 - qubit))
        if letter in "YZ":
            phase = phase * (sign if letter == "Z" else -1j * sign)
    return (phase[:, None] * state.mT[flipped]).mT


def expectation(state: State, string: str) -> Float[Tensor, " B"]:
    """Return the expectation of a Pauli string such as ``"XIZ"``.

    Raises:
        ConfigError: It is no Pauli string of the state's qubits.
    """
    return (state.conj() * apply_pauli(state, string)).sum(1).real


def draw(outcomes: Float[Tensor, "B D"], shots: int, generator: torch.Generator) -> Int[Tensor, "B D"]:
    """Return how often every outcome comes in S independent shots.

    Args:
        outcomes: probabilities; each row is scaled to sum 1.
        shots: S.
        generator: of the draw; ``core.seeds.generator`` makes one from seed and name.

    Raises:
        ConfigError: ``shots`` is no whole number above 0, or there are more than 2^24 outcomes.
        NonFinite: A row holds no probabilities: NaN, infinity, a number below 0, or zeros alone.
    """
    whole(shots, "shots", least=1)
    exact = outcomes.detach().cpu().double()  # in float32 the sum of 2^20 probabilities misses some of them
    if exact.shape[1] > MOST_OUTCOMES:
        raise ConfigError(f"{exact.shape[1]} outcomes; shots are drawn of {MOST_OUTCOMES} at most, 24 qubits")
    if not bool((exact >= 0).all() and (exact.sum(1) > 0).all() and exact.isfinite().all()):
        raise NonFinite("a row holds NaN, infinity, a number below 0 or zeros alone; expected probabilities")
    drawn = torch.multinomial(exact, shots, replacement=True, generator=generator)
    counts = torch.zeros(outcomes.shape, dtype=torch.int64)
    return counts.scatter_add_(1, drawn, torch.ones_like(drawn)).to(outcomes.device)


def sampled_z(state: State, shots: int, generator: torch.Generator) -> Float[Tensor, "B n"]:
    """Return <Z_q> of every qubit as S shots of the whole register show it; all qubits see the same shots."""
    outcomes = probabilities(state)
    return z_values(draw(outcomes, shots, generator).to(outcomes) / shots)


def sampled(state: State, string: str, shots: int, generator: torch.Generator) -> Float[Tensor, " B"]:
    """Return the expectation of a Pauli string as S shots show it; the register is turned to its basis first."""
    n = qubits_of(state)
    apply_pauli(state[:1], string)  # checks the string
    turned = {"X": fixed("H", state.dtype), "Y": fixed("H", state.dtype) @ fixed("S", state.dtype).mH}
    one = fixed("I", state.dtype)
    rotated = turn(state, torch.stack([turned.get(letter, one) for letter in string]).to(state.device))
    counts = draw(probabilities(rotated), shots, generator)
    parity = torch.ones(2**n, dtype=state.dtype.to_real(), device=state.device)
    for qubit, letter in enumerate(string):
        parity = parity if letter == "I" else parity * signs(n)[qubit].to(parity)
    return counts.to(parity) @ parity / shots


def turn(rows: Tensor, gates: Tensor) -> Tensor:
    """Apply one 2 x 2 matrix to every qubit: gates (n, 2, 2) to states, or stochastic ones to probabilities."""
    first, second = halves(gates)
    grid = rows.unflatten(1, (len(first), -1))
    grid = torch.einsum("ai,bij->baj", first, grid)
    return (grid if second is None else grid @ second.mT).flatten(1)


@dataclass(frozen=True)
class ReadOut:
    """Read-out errors, alike on every qubit and independent.

    Attributes:
        one_given_zero: probability to read 1 where the qubit is 0.
        zero_given_one: probability to read 0 where it is 1.
    """

    one_given_zero: float
    zero_given_one: float

    def __post_init__(self) -> None:
        for name in ("one_given_zero", "zero_given_one"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected a probability")

    def __call__(self, outcomes: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        """Return the probability of what is read, from that of what is there."""
        a, b = self.one_given_zero, self.zero_given_one
        confusion = outcomes.new_tensor([[1 - a, b], [a, 1 - b]])
        return turn(outcomes, confusion.expand(qubits_of(outcomes), 2, 2))
