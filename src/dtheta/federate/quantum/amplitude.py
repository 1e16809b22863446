"""Gradients as quantum states: encoded in amplitudes, read by shots, added by measurement or coherently.

    |g> = g / |g|,   ceil(log2 P) qubits, and the number |g|

    reading      (|0>|ref> + |1>|g>) / sqrt 2,  H on the branch:  P(+-, i) = (ref_i +- g_i)^2 / 4,  ref_i = 1 / sqrt P
                 ghat_i = sqrt P (n_+i - n_-i) / S,   without bias,   E |ghat - g|^2 = (P - 1) / S for |g| = 1
    measured     sum_k w_k |g_k| ghat_k
    coherent     sum_k a_k |k>|g_k>,  a_k = w_k |g_k| / A,  H on the index, outcome 0:  the direction of sum_k w_k g_k
                 p = |sum_k a_k g_k|^2 / K,  so  |sum_k w_k g_k| = A sqrt(K p)            K clients, a power of two

Reading takes shots of the order of P / error^2, each a fresh copy: the state has log P qubits, its content has not.
The reading and the coherent sum are our own constructions; Daskin 2024 (arXiv 2401.13421) leaves them open.

Shape legend: P parameters, K clients, S shots.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from dtheta.core.arguments import whole
from dtheta.errors import ConfigError, NonFinite, ShapeMismatch
from dtheta.federate.quantum.encode import amplitude_qubits
from dtheta.federate.quantum.measure import draw

MOST_PARAMETERS = 2**23  # a draw of torch has at most 2^24 outcomes, and a parameter has two


@dataclass(frozen=True)
class Cost:
    """What a quantum exchange takes.

    Attributes:
        copies: fresh copies of a state; one is used up by every shot.
        each: qubits of a copy.
    """

    copies: int
    each: int

    @property
    def qubits(self) -> int:
        """Return the qubits that travel in all."""
        return self.copies * self.each


def shift_cost(parameters: int, qubits: int, samples: int, shots: int) -> Cost:
    """Return the cost of the shift rule on programs for data of n qubits: two programs an angle, sample and shot."""
    return Cost(2 * parameters * samples * shots, 2 * qubits)


def superposition_cost(parameters: int, qubits: int, samples: int, shots: int) -> Cost:
    """Return that of the state of all branches: one a sample and shot, with index and branch qubits."""
    return Cost(samples * shots, 2 * qubits + 1 + index_qubits(parameters))


def gradient_cost(parameters: int, shots: int) -> Cost:
    """Return that of reading a gradient state with its reference branch."""
    return Cost(shots, index_qubits(parameters) + 1)


def index_qubits(count: int) -> int:
    """Return ceil(log2 count)."""
    return (whole(count, "count", least=1) - 1).bit_length()


@dataclass(frozen=True)
class GradientState:
    """A gradient as a state.

    Attributes:
        direction: g / |g| (P), the amplitudes; zeros for a zero gradient, which is not sent.
        norm: |g|, sent as a number.
    """

    direction: Float[Tensor, " P"]
    norm: float

    @property
    def qubits(self) -> int:
        """Return the qubits of a copy."""
        return amplitude_qubits(len(self.direction))


def encode(gradient: Float[Tensor, ...]) -> GradientState:
    """Return a gradient, flattened, as a state in float64.

    Raises:
        NonFinite: It holds NaN or infinity.
    """
    flat = gradient.detach().flatten().double()
    largest = float(flat.abs().max()) if len(flat) else 0.0
    if not math.isfinite(largest):
        raise NonFinite("the gradient holds NaN or infinity; expected finite numbers")
    if not largest:
        return GradientState(flat, 0.0)
    scaled = flat / largest  # the squares of very small or large entries would be 0 or infinity
    return GradientState(scaled / scaled.norm(), largest * float(scaled.norm()))


def read(state: GradientState, shots: int, generator: torch.Generator) -> Float[Tensor, " P"]:
    """Return the gradient, norm included, as S shots against the reference branch show it.

    Raises:
        ConfigError: ``shots`` is no whole number above 0, or there are more than 2^23 parameters.
    """
    direction, count = state.direction, len(state.direction)
    if count > MOST_PARAMETERS:
        raise ConfigError(
            f"a gradient of {count} parameters; a state is read up to {MOST_PARAMETERS}: send it in parts"
        )
    if not state.norm:
        return torch.zeros_like(direction)
    reference = 1 / math.sqrt(count)
    outcomes = torch.stack([(reference + direction).square(), (reference - direction).square()]) / 4
    plus, minus = draw(outcomes.view(1, -1), shots, generator).view(2, -1)
    return state.norm * math.sqrt(count) * (plus - minus).double() / shots


@dataclass(frozen=True)
class Aggregate:
    """A weighted sum of gradients, and what it cost.

    Attributes:
        gradient: (P).
        probability: that the coherent sum succeeds; 1 for measurement.
        cost: copies and qubits received.
    """

    gradient: Float[Tensor, " P"]
    probability: float
    cost: Cost

    @property
    def shots(self) -> float:
        """Return the expected attempts a success, 1 / p."""
        return 1 / self.probability if self.probability else math.inf


def aggregate_measured(
    states: Sequence[GradientState], weights: Sequence[float], shots: int, generator: torch.Generator
) -> Aggregate:
    """Return the weighted sum of gradients that are read one by one, S shots each.

    Raises:
        ConfigError: No states, or another number of weights.
        ShapeMismatch: Gradients of different lengths.
    """
    _check(states, weights)
    found = [weight * read(state, shots, generator) for state, weight in zip(states, weights, strict=True)]
    each = gradient_cost(len(states[0].direction), shots)
    sent = sum(bool(state.norm) for state in states)
    return Aggregate(torch.stack(found).sum(0), 1.0, Cost(each.copies * sent, each.each))


def aggregate_coherent(states: Sequence[GradientState], weights: Sequence[float]) -> Aggregate:
    """Return the weighted sum as the coherent circuit holds it after a success, exact; with its probability.

    The norm of the sum follows from the probability; a device has to estimate both from shots. The cost is that of one
    attempt. Gradients that cancel make the probability 0.

    Raises:
        ConfigError: No states, another number of weights, or a weight below 0.
        ShapeMismatch: Gradients of different lengths.
    """
    _check(states, weights)
    scaled = torch.tensor([w * s.norm for w, s in zip(weights, states, strict=True)], dtype=torch.float64)
    length = float(scaled.norm())
    index = index_qubits(len(states))
    cost = Cost(1, index + states[0].qubits)
    if not length:
        return Aggregate(torch.zeros_like(states[0].direction), 0.0, cost)
    kept = (scaled / length) @ torch.stack([s.direction for s in states]) / math.sqrt(2**index)
    return Aggregate(length * math.sqrt(2**index) * kept, float(kept.square().sum()), cost)


def _check(states: Sequence[GradientState], weights: Sequence[float]) -> None:
    if not states or len(states) != len(weights):
        raise ConfigError(f"{len(states)} gradient states and {len(weights)} weights; expected as many, 1 or more")
    sizes = sorted({len(state.direction) for state in states})
    if len(sizes) > 1:
        raise ShapeMismatch(f"gradients of {sizes} parameters cannot be added; expected one length")
    if any(not 0 <= weight < math.inf for weight in weights):
        raise ConfigError(f"weights are {list(weights)}; expected finite numbers of 0 or more")
